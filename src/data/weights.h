/* A program's parameters and state to and from files of tensors.
 *
 * Files hold whole tensors. A program that is one rank of a mesh has a block of each, or of the
 * block's elements a flat shard (tr_layout): it writes its elements to their places and reads no
 * others, so what was saved on one mesh is loaded on any. The merged dims of files
 * (tr_shape_in_file) change no element's place. A parameter whose name has a `*` is in as many
 * tensors of files as its first dim is long, with the index in the place of the `*`. Of a value that several ranks have, the first
 * writes it (tr_layout.owner).
 */
#pragma once
#include "data/checkpoint_ranks.h"
#include "data/safetensors.h"
#include "exec/program.h"
#include "models/family.h"

/* Fills every parameter from the file by name (with or without one of the family's prefixes), converting
 * dtypes. What the file may lack (family->optional) is left as it is. Another missing name, another shape, or a tensor that must be the same as a parameter and is not
 * is an error. family NULL: a program's own. */
/* The first of the family's optional parameters that the program wants and the file lacks; NULL: it has all. */
const char *tr_weights_absent(const tr_program *program, const tr_family *family, const tr_safetensors *file);
tr_error *tr_weights_load(tr_program *program, const tr_family *family, const tr_safetensors *file);
/* Parameters and state (moments, low halves) from a checkpoint of the same model, in any precision
 * and of any mesh: a split master is joined or split as this program needs. Bit-exact when the
 * precision is the same. */
tr_error *tr_weights_load_state(tr_program *program, const tr_safetensors *model,
                                const tr_safetensors *optimizer);

/* The program's values of one role (TR_PARAM or TR_STATE) as tensors to be saved, whole and in the
 * shapes that they have in files; accumulators and caches are left out. Their `data` is NULL. The
 * caller frees with tr_weights_saved_free. */
tr_saved *tr_weights_declare(const tr_program *program, tr_role role, int64_t *out_count);
/* The same with the data, which points into the program: for a program that has all of every
 * tensor. */
tr_saved *tr_weights_saved(const tr_program *program, tr_role role, int64_t *out_count);
void tr_weights_saved_free(tr_saved *saved, int64_t count);
/* Writes those elements of this rank that no rank before it has. */
tr_error *tr_weights_write_parts(const tr_program *program, tr_role role,
                                 tr_checkpoint_share *share);
