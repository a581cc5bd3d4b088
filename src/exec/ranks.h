/* The ranks of a run as programs see them: one group of ranks for each axis of the sharding pass. */
#pragma once
#include "comm/comm.h"
#include "passes/shard.h"

typedef struct tr_ranks {
    tr_comm *comm;
    int rank, count;
    int n_axes;
    tr_group axis[TR_MAX_AXES]; /* the ranks along each axis; `me` is this one's place */
} tr_ranks;

/* Groups from a mesh; axes[a] is the mesh's axis that axis a of the sharding is. */
void tr_ranks_join(tr_ranks *ranks, tr_comm *comm, const tr_mesh *mesh, const tr_mesh_axis *axes, int n_axes);
void tr_ranks_leave(tr_ranks *ranks);

/* Every rank gives `count` numbers and gets the largest of each over all ranks. Also a barrier. */
tr_error *tr_ranks_max(tr_ranks *ranks, double *values, int count);
/* The same with the sum of each. */
tr_error *tr_ranks_sum(tr_ranks *ranks, double *values, int count);
/* Waits for all ranks; nothing to do when `ranks` is NULL. */
tr_error *tr_ranks_meet(tr_ranks *ranks);
