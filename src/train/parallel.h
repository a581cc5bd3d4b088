/* Techniques as rule sets: what the config's mesh means to the sharding pass. */
#pragma once
#include "exec/ranks.h"
#include "passes/pipeline.h"
#include "passes/shard.h"
#include "train/config.h"

/* The axes that the sharding pass cuts over, the outermost first (shard.h), and the pipeline's, which it does not
 * see (passes/pipeline.h). */
enum {
    TR_AXIS_DATA,
    TR_AXIS_EXPERT,
    TR_AXIS_TENSOR_DEPTH,
    TR_AXIS_TENSOR_ROW,
    TR_AXIS_TENSOR_COLUMN,
    TR_AXIS_TENSOR,
    TR_AXIS_SEQUENCE, /* inner to tensor: Ulysses shares the heads that a tensor rank has */
    TR_AXES,
    TR_AXIS_PIPELINE = TR_AXES
};

/* The device mesh: where each rank is, and who its neighbours are, comes from it alone. */
tr_mesh tr_config_mesh(const tr_config *config);
/* The product of the mesh's sizes. */
int64_t tr_config_ranks(const tr_config *config);
/* The mesh in the form of its keys, without what is 1 or none: "data=2 tensor=2 sequence_kind=megatron"; "data=1" for
 * one rank. The caller frees. */
char *tr_config_mesh_text(const tr_config *config);
/* Rules, axes, and where `rank` is on them:
 *   data parallel        batch -> data
 *   expert parallel      batch -> expert, expert -> expert: the tokens go to their experts and back (all-to-all)
 *   Megatron tensor      heads, mlp, vocab -> tensor
 *   Megatron sequence    seq -> tensor outside of attention and MLP
 *   2D, 2.5D             batch -> depth and row, heads, mlp, vocab -> column, embed -> row (weights), seq -> column
 *                        outside of attention and MLP
 *   3D                   batch -> row and column, heads, mlp, vocab -> depth and row (weights), embed -> column, seq ->
 *                        depth outside of attention and MLP
 *   Ulysses              seq -> sequence, heads -> sequence inside of attention
 *   ring attention       seq -> sequence, dealt zig-zag, also inside of attention
 *   ZeRO 1, 2, 3         flat shards over data */
tr_sharding tr_config_sharding(const tr_config *config, int64_t rank);
/* A pipeline's schedule with what the check of it says, and one rank's place on it. */
typedef struct tr_config_stages {
    tr_schedule *schedule; /* NULL: mesh.pipeline is 1 */
    tr_schedule_report report;
    tr_stages stages;
} tr_config_stages;
/* Generates the schedule, or reads it from the CSV file, and proves that it runs. */
tr_error *tr_config_pipeline(const tr_config *config, int64_t rank, tr_config_stages *out);
void tr_config_pipeline_free(tr_config_stages *stages);
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
