/* Hugging Face's config.json for the model families, both ways. */
#pragma once
#include "base/error.h"
#include "ir/dtype.h"
#include "trireme.h"

/* Sizes from DIRECTORY/config.json. Refuses what would be computed differently here (another family,
 * another activation, untied embeddings), naming the key. */
tr_error *tr_hf_config_read(const char *directory, tr_sizes *out);
/* config.json for a model of these sizes; the caller frees. end_of_text -1: none. */
char *tr_hf_config_text(const tr_sizes *sizes, tr_dtype dtype, int32_t end_of_text);
/* The same for a model of a program's own: it claims no family, so that no other program opens it. */
char *tr_hf_custom_config_text(const tr_sizes *sizes, tr_dtype dtype, int32_t end_of_text);
/* generation_config.json. */
char *tr_hf_generation_text(int32_t end_of_text);
/* The dtype that DIRECTORY/config.json says the weights are in (f32 when it says nothing or f16). */
tr_error *tr_hf_dtype_read(const char *directory, tr_dtype *out);
