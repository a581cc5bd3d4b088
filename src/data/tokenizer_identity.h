/* What the data pipeline needs to know of a tokenizer beyond encoding: whether it is the same one,
 * and where a long text may be cut into pieces that are encoded apart.
 */
#pragma once
#include "data/tokenizer.h"

/* A hash of everything that decides how text becomes ids: two tokenizers with the same fingerprint
 * encode alike, whichever file they came from. Never 0. */
uint64_t tr_tokenizer_fingerprint(const tr_tokenizer *tokenizer);

/* True when text[0, at) and text[at, length) encoded apart (with allow_special false) give the ids
 * of the whole. False where it is not certain. */
bool tr_tokenizer_cut_ok(const tr_tokenizer *tokenizer, const char *text, int64_t length,
                         int64_t at);
