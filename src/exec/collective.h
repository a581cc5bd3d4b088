/* Running a graph's collectives: packing what is cut along an inner dim, and what moves bytes. */
#pragma once
#include "kernels/kernel.h"
#include "passes/shard.h"

/* What moves bytes among the ranks of each mesh axis. Blocks are in the order of the axis's ranks and may
 * differ in size; every rank of the axis makes the same calls in the same order. Sums are in a fixed order of
 * ranks. */
typedef struct tr_ranks {
    void *context;
    int axis_size[TR_MAX_AXES], axis_index[TR_MAX_AXES];
    tr_error *(*all_reduce)(void *context, int axis, void *data, int64_t elems, tr_dtype dtype);
    tr_error *(*all_gather)(void *context, int axis, const void *mine, void *all, const int64_t *block_bytes);
    tr_error *(*reduce_scatter)(void *context, int axis, const void *all, void *mine, const int64_t *block_elems,
                                tr_dtype dtype);
    tr_error *(*all_to_all)(void *context, int axis, const void *send, const int64_t *send_bytes, void *receive,
                            const int64_t *receive_bytes);
} tr_ranks;

int64_t tr_collective_scratch(const tr_call *call);
tr_error *tr_collective_run(struct tr_ranks *ranks, const tr_call *call);
