/* The compiler's table of contents: every pass, in the order in which a training graph goes through them.
 * src/exec/compile.c runs them; the verifier stands between them.
 *
 *   model      the model function builds the forward graph              src/models
 *   rooms      experts' rooms are joined where nothing shares them out  rooms.c
 *   autodiff   appends the gradient of the loss                         autodiff.c
 *   update     accumulators, clipping, the optimizer                    update.c
 *   shard      the graph of one rank of a mesh                         shard.c
 *   cut        the stages of one place on a pipeline                   pipeline_cut.c
 *   together   joined rooms of a rank's sequences become one           rooms.c
 *   recompute  values that are cheaper to make again than to keep       recompute.c
 *   fuse       nodes that are faster together                           fuse.c
 *   order      dead nodes leave; what is made early but used late moves order.c
 *   bucket     small gradients are summed over ranks together        bucket.c
 *   overlap    collectives are started early and waited for late  overlap.c
 *   memory     lifetimes, in place, offsets, the exact peak             memory.c
 *
 * An inference graph takes rooms, together, once (once.c: of two towers, what is computed once or for each token), cache (cache.c:
 * attention reads and fills a key-value cache), fuse, order and memory.
 */
#pragma once
#include "ir/graph.h"

/* Precondition: a forward graph, which no mesh axis is going to cut along "expert". */
void tr_pass_rooms(tr_graph *graph);
/* Precondition: one rank's graph. */
void tr_pass_together(tr_graph *graph);

/* Precondition: no node is fused, `loss` is a [1] f32 value; `seed`, a [1] f32 value or 0 for 1, is the gradient that it
 * begins with. Post: nodes of phase BACKWARD follow;
 * out_grads[v] is the gradient of the parameter v, or 0; the array (n_values before the pass, the count
 * in *out_count) is the caller's. A node on the way whose op has no gradient is an error. */
tr_error *tr_pass_autodiff(tr_graph *graph, tr_value loss, tr_value seed, tr_value **out_grads, uint32_t *out_count);

typedef enum tr_optimizer_kind {
    TR_ADAMW,
    TR_SGD,
    TR_LION,
    TR_LARS,
    TR_LAMB,
    TR_ADAFACTOR,
    TR_OPTIMIZER_COUNT
} tr_optimizer_kind;
/* What an optimizer does not read is ignored. */
typedef struct tr_update {
    tr_optimizer_kind optimizer;
    double beta1, beta2, eps, weight_decay, momentum, clip;
    double trust;               /* LARS */
    double power, least, limit; /* Adafactor, as in ir/op.h */
    bool factored, relative;
    int64_t micro_batches;
    bool pipeline;
    bool scaled;   /* the loss is times an input "loss_scale" f32[1] while gradients are made */
    tr_value seed; /* that input; set by whoever calls autodiff */
} tr_update;
/* Post: outputs "loss" (sum), "count", "grad_norm", "scale"; state for the optimizer and, with several
 * microbatches or a pipeline, accumulators; inputs "lr" f32[1] and "step" i32[1]. */
tr_error *tr_pass_update(tr_graph *graph, tr_value loss, tr_value count, const tr_value *grads,
                         uint32_t n_grads, const tr_update *how);

typedef enum tr_recompute { TR_RECOMPUTE_NONE, TR_RECOMPUTE_CHEAP, TR_RECOMPUTE_FULL } tr_recompute;
/* Forward values that only the backward reads after the forward is done with them are made again there:
 * CHEAP: outputs of ops flagged so. FULL: everything inside of a layer (its inputs are kept). */
tr_error *tr_pass_recompute(tr_graph *graph, tr_recompute what);

/* Leaves what is computed once for a source, with outputs "memory.0", .., or what is computed for each token of an
 * answer, with inputs of the same names. */
typedef enum tr_side { TR_SIDE_BOTH, TR_SIDE_SOURCE, TR_SIDE_ANSWER } tr_side;
tr_error *tr_pass_once(tr_graph *graph, tr_side side);

/* Replaces each causal attention by attention_cached, with state "cache.LAYER.key" / ".value" [batch, heads,
 * context, head_dim] and an input "start" i32[1]. */
tr_error *tr_pass_cache(tr_graph *graph, int64_t context);

tr_error *tr_pass_fuse(tr_graph *graph);
tr_error *tr_pass_order(tr_graph *graph);

/* Sums of gradients over `axis`, the small ones in buckets of `bytes`. Precondition: order has run. */
tr_error *tr_pass_bucket(tr_graph *graph, int axis, int64_t bytes);

typedef struct tr_overlap {
    bool on;
    bool apart;          /* phases and stages run apart, as in a pipeline */
    bool repeats;        /* several microbatches: from FORWARD to WEIGHT is run again and again */
    int64_t ahead_bytes; /* parameters gathered ahead of use, and what collectives keep alive after its last reader */
} tr_overlap;
/* Precondition: order has run; the order of nodes is final but for what this pass moves. Post: where there is
 * something to do meanwhile, a collective has a wait, and whoever read its result reads the wait's. */
tr_error *tr_pass_overlap(tr_graph *graph, const tr_overlap *how);

/* How many microbatches each stage of a pipeline holds at once on this rank (0: the stage is elsewhere). */
typedef struct tr_slots {
    int stages;
    const int32_t *count; /* [stages] */
} tr_slots;

/* Where everything is. Regions: state (parameters and state), inputs, and the arena of temporaries. With a
 * pipeline, what a microbatch leaves in a stage from one action to the next is in a slot: each stage has as many,
 * of equal size, as microbatches are alive in it; they stand at the end of the arena. */
typedef struct tr_memory {
    int64_t *offset;         /* of each value that is its own home, in its region or slot; -1: never made */
    int64_t *scratch_offset; /* of each node's scratch, in the arena */
    int stages;
    int32_t *stage;          /* of each value: in a slot of this stage; -1: in none. NULL without slots */
    int32_t *slot_count;               /* by stage */
    int64_t *slot_offset, *slot_bytes; /* by stage: the first slot in the arena, and the size of each */
    int64_t params_bytes, state_bytes, input_bytes, arena_bytes;
    int64_t grads_bytes, activations_bytes, scratch_bytes; /* what is alive at the arena's peak */
    tr_node peak_node;
} tr_memory;
/* scratch_bytes: of each node. Marks values that may be written in place (sets home). slots: of a pipeline, or
 * NULL: each microbatch goes from FORWARD to WEIGHT at once. */
tr_error *tr_pass_memory(tr_graph *graph, const int64_t *scratch_bytes, int64_t micro_batches, const tr_slots *slots,
                         tr_memory *out);
void tr_memory_free(tr_memory *memory);
/* No two live buffers overlap; a broken plan names both values. */
tr_error *tr_memory_verify(const tr_graph *graph, const tr_memory *memory,
                           const int64_t *scratch_bytes, int64_t micro_batches);

/* All parameters, as they are before they are cut. */
int64_t tr_graph_whole_bytes(const tr_graph *graph);
/* For passes: how often each value is read (by nodes, and by being an output). Caller frees. */
uint32_t *tr_graph_uses(const tr_graph *graph);
/* Nodes by phase, otherwise in their order: what runs once at the start may be appended last. */
void tr_graph_order_phases(tr_graph *graph);
/* Ops with all of `flags`, TR_OP_IN_PLACE among them, write over their first input where they are its last reader. */
void tr_graph_in_place(tr_graph *graph, unsigned flags);
/* Makes every reader of `from` (and the outputs) read `to`. */
void tr_graph_replace(tr_graph *graph, tr_value from, tr_value to);
