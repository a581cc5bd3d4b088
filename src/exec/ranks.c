/* The ranks of a run; see ranks.h. */
#include "exec/ranks.h"

void tr_ranks_join(tr_ranks *r, tr_comm *comm, const tr_mesh *mesh, const tr_mesh_axis *axes, int n_axes)
{
    *r = (tr_ranks){.comm = comm, .rank = tr_comm_rank(comm), .count = tr_comm_size(comm), .n_axes = n_axes};
    for (int a = 0; a < n_axes; a++)
        r->axis[a] = tr_mesh_group(mesh, r->rank, TR_MESH_BIT(axes[a]));
}

void tr_ranks_leave(tr_ranks *r)
{
    for (int a = 0; a < r->n_axes; a++)
        tr_group_free(&r->axis[a]);
}

static tr_error *reduce(tr_ranks *r, tr_reduction how, double *values, int count)
{
    tr_group world = tr_group_world(r->count, r->rank);
    tr_error *error = tr_comm_all_reduce(r->comm, &world, how, values, values, count, TR_F64, TR_F64);
    tr_group_free(&world);
    return error;
}

tr_error *tr_ranks_max(tr_ranks *r, double *values, int count)
{
    return reduce(r, TR_REDUCE_MAX, values, count);
}

tr_error *tr_ranks_sum(tr_ranks *r, double *values, int count)
{
    return reduce(r, TR_REDUCE_SUM, values, count);
}

tr_error *tr_ranks_meet(tr_ranks *r)
{
    if (!r)
        return NULL;
    tr_group world = tr_group_world(r->count, r->rank);
    tr_error *error = tr_comm_barrier(r->comm, &world);
    tr_group_free(&world);
    return error;
}
