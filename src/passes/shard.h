/* Pass shard: from the graph of the whole computation to the graph of one rank of a mesh.
 *
 * On each mesh axis a value is whole (every rank has all of it), cut along one of its dims, or partial (each
 * rank has a summand). Rules pin leaves: "heads -> tensor". All else follows from the ops' sharding rules,
 * node by node; where an operand is not as its node needs it, a collective is put between. A technique is a
 * rule set (train/parallel.c): no model file knows of any.
 *
 * A dim is cut into [size i / n, size (i + 1) / n), in steps of its unit: sizes need not divide. What cannot
 * be cut at all is refused. Several axes may cut one dim: the first axis cuts it, the next one cuts the parts.
 *
 * On a `ring` axis attention's queries stay where they are and keys and values go around (shard_ring.c). Elsewhere a
 * sequence that is cut is exchanged for heads before attention and back after it. A dim in two pieces cannot be dealt
 * again, so that a mesh has one ring.
 *
 * On an axis that `stores`, parameters are cut to be stored only: ops gather them before use, cut their activations,
 * and scatter the gradients' sums.
 *
 * ZeRO cuts the flattened block of a parameter over the data axis: 1: the optimizer's state; 2: gradient
 * accumulators too; 3: parameters too, gathered before use and dropped after.
 */
#pragma once
#include "ir/graph.h"
#include "ir/part.h"

enum { TR_MAX_AXES = 8, TR_MAX_RULES = 16 };

typedef struct tr_axis {
    const char *name;
    int size;  /* axes of size 1 may be left in */
    int index; /* this rank's place on it */
    bool stores;
    bool ring; /* what is cut over it is dealt zig-zag (ir/part.h), and attention leaves sequences cut */
} tr_axis;

typedef struct tr_sharding {
    tr_axis axes[TR_MAX_AXES];
    int n_axes;
    struct {
        const char *dim;
        int axis;
    } leaves[TR_MAX_RULES], /* parameters and inputs by dim name */
        stream[2],          /* activations outside of layers: Megatron's sequence parallelism cuts "seq" there */
        rest[2];            /* activations wherever no parameter says otherwise */
    int n_leaves, n_stream, n_rest;
    bool narrow;   /* sums of f32 gradients and activations travel as bf16 */
    int zero;      /* 0..3 */
    int zero_axis; /* of the mesh */
} tr_sharding;

/* Replaces *graph by this rank's. Precondition: update has run (or the graph is forward only); recompute and
 * fuse have not. Post: shapes are local; leaves have layouts; outputs are whole. */
tr_error *tr_pass_shard(tr_graph **graph, const tr_sharding *how);
