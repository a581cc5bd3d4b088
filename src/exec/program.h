/* A program: a graph with a kernel for each node and a place for each value, ready to run.
 *
 * Built in two steps, so that a plan can be looked at without its memory: tr_program_build chooses and
 * prepares kernels and plans memory; tr_program_allocate maps it. What builds the graph of a training or
 * inference program from a model function is in exec/compile.h.
 *
 * One thread drives a program. Kernels use an OpenMP team of `threads`.
 */
#pragma once
#include <stdio.h>

#include "comm/comm.h"
#include "kernels/registry.h"
#include "passes/passes.h"

typedef struct tr_target {
    tr_isa isa;
    int threads;
    bool reference; /* reference kernels only: for tests */
} tr_target;

typedef struct tr_instruction {
    tr_node node;
    const tr_kernel *kernel; /* NULL: a collective, or its wait */
    bool waits_at_once;      /* a collective that has no wait */
    tr_pending *pending;     /* a collective that was started and is not waited for yet */
    uint32_t started_by;     /* a wait: the collective's instruction */
    int64_t started_ns;
    tr_call call;
    int64_t origin[TR_MAX_RANK]; /* of in[0], without the microbatch */
    int64_t time_ns, runs; /* measured when the program's profile is on */
} tr_instruction;

typedef struct tr_program {
    tr_graph *graph;
    tr_graph *whole; /* with a pipeline: all stages, of which this rank has some; else NULL */
    tr_memory memory;
    int32_t *slot; /* by stage: which slot its values are in now; NULL without slots */
    tr_target target;
    int64_t micro_batches;
    int64_t *scratch_bytes; /* of each node */
    tr_instruction *instructions;
    uint32_t n_instructions;
    char *state, *inputs, *arena; /* the three regions; NULL until allocated */
    void **borrowed;              /* by value: where an owner has it, or NULL */
    int64_t comm_bytes;           /* scratch of collectives, which the transport holds; not of the arena */
    bool arena_borrowed;
    struct tr_ranks *ranks; /* what collectives run over (exec/collective.h); NULL: one rank */
    tr_error *error;        /* of a collective; the run stops at it */
    uint64_t seed;
    uint64_t whole_hash; /* of the graph before it was sharded: the same on all ranks */
    struct tr_loss_part *losses; /* that the loss is made of (exec/loss.h) */
    int n_losses;
    bool profile;
    FILE *trace; /* Chrome trace events are written here; NULL: none */
    int64_t trace_events;
} tr_program;

/* Consumes the graph, also when it fails. slots: of a pipeline, see tr_pass_memory; else NULL. */
tr_error *tr_program_build_stages_take(tr_graph *graph, const tr_target *target, int64_t micro_batches,
                                       const tr_slots *slots, tr_program **out);
tr_error *tr_program_build_take(tr_graph *graph, const tr_target *target, int64_t micro_batches,
                                tr_program **out);
tr_error *tr_program_allocate(tr_program *program);
/* The same, but parameters and state that `owner` has under the same name are owner's, and so is the
 * arena when it is large enough: evaluation and generation beside training cost only what is their own.
 * The owner must outlive the program, and the two must not run at the same time. */
tr_error *tr_program_allocate_beside(tr_program *program, const tr_program *owner);
void tr_program_free(tr_program *program);

/* The graph whose leaves are all parameters and state of the run: with a pipeline other stages have some. */
static inline const tr_graph *tr_program_leaves(const tr_program *program)
{
    return program->whole ? program->whole : program->graph;
}

/* State and parameters + inputs + arena + scratch of collectives: what the rank will hold at its peak, in bytes. */
int64_t tr_program_peak_bytes(const tr_program *program);

/* What of that has been touched so far, as the system counts its pages; without what is borrowed. */
int64_t tr_program_touched_bytes(const tr_program *program);

/* Where a value's elements are; valid until the program is freed. Temporaries: only while they live. */
void *tr_program_data(const tr_program *program, tr_value value);
/* The same by name of a leaf or an output; the name must exist. */
void *tr_program_find(const tr_program *program, const char *name);

/* Fills parameters and state as their initialisers say; a pure function of the seed. */
void tr_program_init(tr_program *program, uint64_t seed);

/* Runs the nodes of the phases first..last once. `step` and `micro` (0 <= micro < micro_batches) decide
 * what random ops draw. */
void tr_program_run(tr_program *program, tr_phase first, tr_phase last, uint32_t step, int64_t micro);
/* The same for the nodes of one stage, with its values in one of its slots. */
void tr_program_run_stage(tr_program *program, tr_phase first, tr_phase last, int stage, int32_t slot, uint32_t step,
                          int64_t micro);
/* What went wrong between ranks in runs so far, the caller's; NULL: nothing. Without ranks nothing can. */
tr_error *tr_program_error_take(tr_program *program);

/* Parameters as f32 whatever they are kept in (with the low half of a split master). */
void tr_program_get_f32(const tr_program *program, tr_value param, float *out);
void tr_program_set_f32(tr_program *program, tr_value param, const float *values);

/* The profile as text: time per op and layer kind, share of the peak given (flops a second; 0: none). */
char *tr_program_profile_text(const tr_program *program, double peak_flops);
