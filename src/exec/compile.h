/* From a model function to a program: the passes in their order. */
#pragma once
#include "exec/program.h"
#include "passes/pipeline.h"
#include "passes/shard.h"
#include "trireme.h"

enum { TR_MAX_PASSES = 16 };
/* How many nodes there were after each pass: for inspect. */
typedef struct tr_pass_log {
    int count;
    const char *name[TR_MAX_PASSES];
    uint32_t nodes[TR_MAX_PASSES];
} tr_pass_log;

typedef struct tr_compile {
    tr_target target;
    tr_dtype compute; /* TR_F32, TR_BF16 or TR_F16 */
    int64_t batch, seq; /* of one microbatch */
    int64_t decoder_seq; /* of models with two towers: of the second one */
    tr_update update;   /* training: its micro_batches counts */
    tr_recompute recompute;
    const tr_sharding *sharding; /* of a mesh, with this rank's place on it; NULL: one rank */
    const tr_stages *stages;     /* of a pipeline; NULL: none. Needs a sharding */
    int64_t bucket_bytes; /* see tr_pass_bucket; 0: none */
    tr_overlap overlap;          /* with a sharding: `on` and ahead_bytes count */
    bool keep_gradients;    /* the parameters' gradients become outputs "d.NAME": for tests */
    const char *dump_after; /* a pass whose graph goes to `dump` as text; NULL: none */
    tr_text *dump;
    tr_pass_log *log; /* NULL: not wanted */
} tr_compile;

/* The inputs of a program are those that the model function asks for (`data/batch.h` fills them by name) and what is
 * said here. */

/* Loss, gradient, update. Inputs: the heads' targets, "lr", "step", a "factor.NAME" f32[1] for every loss but the first
 * head's (exec/loss.h), with update.scaled "loss_scale" f32[1]. */
tr_error *tr_compile_training(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                              tr_program **out);
/* The heads' losses only. Outputs "loss" and "count" of the first head; of the others "loss.NAME", "count.NAME". */
tr_error *tr_compile_evaluation(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                                tr_program **out);
/* All logits of the first head: output "logits" [hidden's leading dims, choices]. */
tr_error *tr_compile_logits(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                            tr_program **out);
/* What the model shows by tr_output, under its names. Heads are left out, and what only they need. */
tr_error *tr_compile_outputs(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                             tr_program **out);
/* Generation: `seq` new tokens a run, cache of `context`. Inputs "start", "last" (i32[batch]: which of the new tokens'
 * logits are wanted); output "logits"[batch, vocab]. */
tr_error *tr_compile_generation(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                                int64_t context, tr_program **out);
/* The same of a model with two towers, in two programs (passes/once.c): what is computed once for a source of `seq`
 * tokens, outputs "memory.0", ..; and what is computed for `decoder_seq` new tokens of each of `batch` answers, with
 * these as inputs. */
tr_error *tr_compile_source(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how, tr_program **out);
tr_error *tr_compile_answer(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how, int64_t context,
                            tr_program **out);
/* The number of trained values, over all ranks. */
int64_t tr_graph_parameters(const tr_graph *graph);
