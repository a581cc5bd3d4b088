/* What kind of model a path is: a Hugging Face directory (by its config.json) or a GGUF file. The weights are opened by
 * tr_checkpoint_open, the tokenizer by tr_tokenizer_load. */
#pragma once
#include "ir/dtype.h"
#include "models/family.h"

/* The family and its sizes, complete. */
tr_error *tr_pretrained_read(const char *path, const tr_family **out_family, tr_sizes *out);
/* The dtype of the weights: f32 unless it is bf16. */
tr_error *tr_pretrained_dtype(const char *path, tr_dtype *out);
