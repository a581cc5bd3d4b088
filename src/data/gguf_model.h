/* A GGUF file as a Hugging Face model: its config.json, and its tensors under Hugging Face's names and in its order of
 * rows. Of the architecture llama so far.
 */
#pragma once
#include <jansson.h>

#include "data/gguf.h"

/* The caller owns *out. */
tr_error *tr_gguf_config(const tr_gguf *file, const char *where, json_t **out);
/* Borrows the file, which must outlive it. */
typedef struct tr_gguf_model tr_gguf_model;
tr_error *tr_gguf_model_open(const char *path, tr_gguf_model **out);
void tr_gguf_model_close(tr_gguf_model *model); /* NULL is fine */
const tr_safetensors *tr_gguf_model_tensors(const tr_gguf_model *model);
