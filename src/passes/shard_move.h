/* Where values are on a mesh, and the collectives that move them. Private to pass shard. */
#pragma once
#include "ir/sharding_rule.h"
#include "passes/shard.h"

enum { WHOLE = -1, PARTIAL = -2 };

/* Where a value is on each mesh axis: WHOLE, PARTIAL, or the dim that is cut, in steps of unit. Of several axes that
 * cut one dim the first is the outermost. flat: beyond
 * that, its block is flattened and cut over the ZeRO axis. */
typedef struct place {
    tr_value v; /* in the local graph */
    int8_t at[TR_MAX_AXES];
    int64_t unit[TR_MAX_AXES];
    bool flat;
} place;

typedef struct move {
    tr_value from; /* in the whole graph */
    place to;
    tr_phase phase;
    int32_t layer, stage;
    bool lasts; /* good in any phase and layer */
} move;

typedef struct sharder {
    const tr_graph *from;
    tr_graph *to;
    const tr_sharding *how;
    place *places;          /* by value of from */
    tr_value *parameter_of; /* by value of from: the parameter whose gradient it is, or 0 */
    tr_value *leads_to;     /* the same also for the summands of a gradient */
    bool accumulates;       /* several microbatches */
    move *moves;            /* done so far, to be used again */
    uint32_t n_moves, moves_room;
    /* Statistics of losses whose vocabulary is cut; see shard_loss.c. */
    struct loss_statistics {
        tr_value in[4]; /* hidden states, table, targets, bias: of the whole graph */
        place tokens;
        tr_value lse; /* of the local graph */
    } *losses;
    uint32_t n_losses, losses_room;
} sharder;

place place_whole(void);
/* This rank's block of v: sizes and origins by dim, without the flat cut. */
void shard_block(const sharder *s, tr_value v, const place *at, int64_t *block, int64_t *origin);
tr_shape shard_shape(const sharder *s, tr_value v, const place *at);
const tr_layout *shard_layout(const sharder *s, tr_value v, const place *at);
/* v (of the whole graph) as it is wanted, by collectives in the local graph's current phase and layer. */
tr_error *shard_move(sharder *s, tr_value v, const place *want, tr_value *out);
/* After attention on cut heads: v is cut along its sequence (dim 1) on the axis again. */
tr_error *shard_exchange_back(sharder *s, tr_value v, int axis);
tr_value shard_all_reduce(sharder *s, tr_value local, int axis);
/* Are the two places the same, all in all. */
bool shard_same_place(const sharder *s, const place *a, const place *b);
/* Ids (local, of rows of the table v of the whole graph) count from the first row that this rank has. */
tr_value shard_local_ids(sharder *s, tr_value ids, tr_value v, const place *table);
/* A cross_entropy or its gradient, its operands moved, whose table is cut along the vocabulary (shard_loss.c): the
 * node whose outputs are n's. The loss is whole on the axes that cut it. */
tr_node shard_loss(sharder *s, tr_node n, const tr_value *in, place *want);
/* Attention or its gradient whose queries and keys are cut over a ring (shard_ring.c): where its operands are wanted
 * on that axis, and from them, moved, the outputs of n. */
void shard_ring_places(const tr_rule *rule, place *want, int axis);
tr_error *shard_ring(sharder *s, tr_node n, int axis, const tr_value *in, tr_value *out);
/* A flat shard to the whole block [elems]. */
tr_value shard_gather_flat(sharder *s, tr_value local, int64_t elems);
