/* A program's parameters and state to and from files of tensors. */
#pragma once
#include "data/safetensors.h"
#include "exec/program.h"

/* Fills every parameter from the file by name (with or without the prefix "transformer."), converting
 * dtypes. A missing name, another shape, or an output embedding that is not the input's is an error. */
tr_error *tr_weights_load(tr_program *program, const tr_safetensors *file);
/* The program's values of one role (TR_PARAM or TR_STATE) as tensors to be saved, in the shapes that
 * they have in files; they point into the program. Accumulators and caches are left out. The caller
 * frees with tr_weights_saved_free. */
tr_saved *tr_weights_saved(const tr_program *program, tr_role role, int64_t *out_count);
void tr_weights_saved_free(tr_saved *saved, int64_t count);
/* State (moments, low halves) from a checkpoint of the same program, in any precision: a split master
 * is joined or split as this program needs. Bit-exact when the precision is the same. */
tr_error *tr_weights_load_state(tr_program *program, const tr_safetensors *model,
                                const tr_safetensors *optimizer);
