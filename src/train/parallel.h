/* Techniques as rule sets: what the config's mesh means to the sharding pass. */
#pragma once
#include "exec/ranks.h"
#include "passes/shard.h"
#include "train/config.h"

/* The mesh's axes by number, the outermost first: ranks that are near each other share a tensor axis. */
enum { TR_AXIS_DATA, TR_AXIS_SEQUENCE, TR_AXIS_TENSOR, TR_AXES };

/* The product of the mesh's sizes. */
int64_t tr_config_ranks(const tr_config *config);
/* The mesh in the form of its keys, without what is 1 or none: "data=2 tensor=2 sequence_kind=megatron"; "data=1" for
 * one rank. The caller frees. */
char *tr_config_mesh_text(const tr_config *config);
/* Rules, axes, and where `rank` is on them:
 *   data parallel        batch -> data
 *   Megatron tensor      heads, mlp, vocab -> tensor
 *   Megatron sequence    seq -> tensor outside of attention and MLP
 *   Ulysses              seq -> sequence, heads -> sequence inside of attention
 *   ZeRO 1, 2, 3         flat shards over data */
tr_sharding tr_config_sharding(const tr_config *config, int64_t rank);
/* The same for generating: one sequence, of which every rank sees all. Weights are where training has them. */
tr_sharding tr_config_sharding_of_samples(const tr_config *config, int64_t rank);
/* What ranks must agree on before the first step: the graph before it is cut, the data, the step to go on from,
 * and all of the config but what may differ between hosts (paths, threads, instruction set). */
uint64_t tr_config_plan_hash(const tr_config *config, uint64_t whole_hash, const char *data, int64_t step);

/* Says a sentence to the user. */
typedef void (*tr_say)(const tr_error *error);
/* Runs `main` on every rank of the config's mesh: the processes that mpirun started, otherwise threads of this
 * one. A mesh of one rank runs here, with ranks NULL. The error is that of the rank that failed first. Under
 * mpirun every process has an error of its own, and `say` (or NULL) is called with it at once, since mpirun may
 * end this process at any moment then; the error that is returned has no text in that case. What all ranks
 * fail of alike is said by the first. */
tr_error *tr_config_run_ranks(const tr_config *config, tr_error *(*main)(tr_ranks *ranks, void *user), void *user,
                              tr_say say);
