/* Inputs of a model as a user gives them, in the names of Hugging Face:
 *
 *   [[id, ...], ...]                                 JSON: token ids, rows of one length
 *   {"input_ids": [[...]], "attention_mask": ...,    JSON: more of them
 *    "token_type_ids": ..., "decoder_input_ids": ...,
 *    "targets": [[...]], "labels": [...]}            the right choices, -1 for none, where a program wants them
 *   {"pixel_values": [[[[x, ...], ...], ...], ...]}  JSON: images
 *   FILE.npy                                         NumPy: images, f32 [batch, channels, height, width]
 *
 * Positions are made; without a mask all tokens count; without types all are 0.
 */
#pragma once
#include "exec/program.h"

typedef struct tr_given tr_given;

tr_error *tr_given_read(const char *path, tr_given **out);
void tr_given_free(tr_given *given); /* NULL is fine */
int64_t tr_given_batch(const tr_given *given);
int64_t tr_given_seq(const tr_given *given);         /* 0: no ids */
int64_t tr_given_decoder_seq(const tr_given *given); /* 0: none */
/* Every input of the program but those of a step (data/batch.h). Numbers out of range, and what is missing, are named. */
tr_error *tr_given_fill(const tr_given *given, tr_program *program);
