/* The ranks of a mesh, as the executor sees them: collectives along a mesh axis, and agreement of all.
 *
 * One interface for every transport. Blocks are in the order of the axis's ranks and may differ in size. All
 * ranks of an axis make the same calls in the same order; sums are in the order of the ranks, so every rank
 * gets the same bits, every time. bf16 is summed in f32. When a rank fails, the calls of all others return its
 * error instead of waiting.
 *
 * Bytes are counted as the closed forms of ring algorithms have them (n ranks, B bytes): all_reduce
 * 2 B (n-1)/n, all_gather and reduce_scatter B (n-1)/n of the whole, all_to_all B (n-1)/n of the sender's.
 */
#pragma once
#include <stdint.h>

#include "base/error.h"
#include "ir/dtype.h"

enum { TR_COMM_AXES = 8 };

typedef struct tr_ranks tr_ranks;
struct tr_ranks {
    int rank, count;
    int axis_size[TR_COMM_AXES], axis_index[TR_COMM_AXES];
    int64_t bytes_sent;
    tr_error *(*all_reduce)(tr_ranks *ranks, int axis, void *data, int64_t elems, tr_dtype dtype);
    tr_error *(*all_gather)(tr_ranks *ranks, int axis, const void *mine, void *all, const int64_t *block_bytes);
    tr_error *(*reduce_scatter)(tr_ranks *ranks, int axis, const void *all, void *mine, const int64_t *block_elems,
                                tr_dtype dtype);
    tr_error *(*all_to_all)(tr_ranks *ranks, int axis, const void *send, const int64_t *send_bytes, void *receive,
                            const int64_t *receive_bytes);
    /* Every rank gives `count` numbers and gets the largest of each over all ranks. Also a barrier. */
    tr_error *(*all_max)(tr_ranks *ranks, double *values, int count);
    void *own;
};

/* Waits for all ranks; nothing to do when `ranks` is NULL. */
static inline tr_error *tr_ranks_meet(tr_ranks *ranks)
{
    return ranks ? ranks->all_max(ranks, NULL, 0) : NULL;
}

typedef struct tr_place_on_mesh {
    int axes;
    int size[TR_COMM_AXES], index[TR_COMM_AXES];
} tr_place_on_mesh;

/* Runs `main` on `count` threads of this process, rank r at places[r]. The first rank to return an error ends
 * the others' waits; that error is returned. */
tr_error *tr_ranks_run_threads(int count, const tr_place_on_mesh *places,
                               tr_error *(*main)(tr_ranks *ranks, void *user), void *user);
