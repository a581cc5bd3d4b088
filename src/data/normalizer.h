/* Normalizers: what a tokenizer.json does to a text before it is cut and looked up.
 *
 * A normalizer is a list of steps, read from the file's "normalizer": BertNormalizer, NFC NFD NFKC NFKD, Lowercase,
 * StripAccents, Strip, Replace, Prepend, Precompiled (SentencePiece's character map) and Sequences of them, each as
 * Hugging Face's `tokenizers` does it. Others are refused by name. Bytes that are no UTF-8 pass unchanged.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "base/memory.h"

typedef struct tr_normalizer tr_normalizer;

/* *out is NULL when `json` (absent or null too) changes nothing. */
tr_error *tr_normalizer_read(const json_t *json, const char *where, tr_normalizer **out);
void tr_normalizer_free(tr_normalizer *normalizer); /* NULL is fine */
/* Appends the normalized text. `first` says that the text starts here: what is put before or stripped from the start
 * of a text is left alone in a continuation. */
void tr_normalizer_run(const tr_normalizer *normalizer, const char *text, int64_t length, bool first, tr_text *out);
/* Appends standard base64 of the bytes. */
void tr_base64_add(tr_text *out, const char *bytes, int64_t length);
