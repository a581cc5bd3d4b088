/* Techniques as rule sets; see parallel.h. */
#include "train/parallel.h"

int64_t tr_config_ranks(const tr_config *c)
{
    return c->mesh.data * c->mesh.sequence * c->mesh.tensor;
}

static void leaf(tr_sharding *s, const char *dim, int axis)
{
    s->leaves[s->n_leaves].dim = dim;
    s->leaves[s->n_leaves++].axis = axis;
}

tr_sharding tr_config_sharding(const tr_config *c, int64_t rank)
{
    int64_t tensor = rank % c->mesh.tensor, rest = rank / c->mesh.tensor;
    tr_sharding s = {
        .axes = {[TR_AXIS_DATA] = {"data", (int)c->mesh.data, (int)(rest / c->mesh.sequence)},
                 [TR_AXIS_SEQUENCE] = {"sequence", (int)c->mesh.sequence, (int)(rest % c->mesh.sequence)},
                 [TR_AXIS_TENSOR] = {"tensor", (int)c->mesh.tensor, (int)tensor}},
        .n_axes = TR_AXES,
        .zero = (int)c->zero,
        .zero_axis = TR_AXIS_DATA,
    };
    leaf(&s, "batch", TR_AXIS_DATA);
    leaf(&s, "seq", TR_AXIS_SEQUENCE);
    leaf(&s, "heads", TR_AXIS_TENSOR);
    leaf(&s, "mlp", TR_AXIS_TENSOR);
    leaf(&s, "vocab", TR_AXIS_TENSOR);
    if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->mesh.tensor > 1) {
        s.stream[0].dim = "seq";
        s.stream[0].axis = TR_AXIS_TENSOR;
        s.n_stream = 1;
    }
    return s;
}

typedef struct start {
    const tr_mesh *mesh;
    tr_error *(*main)(tr_ranks *ranks, void *user);
    void *user;
} start;

static tr_error *run_rank(tr_comm *comm, void *user)
{
    static const tr_mesh_axis axes[TR_AXES] = {TR_MESH_DATA, TR_MESH_SEQUENCE, TR_MESH_TENSOR};
    const start *s = user;
    tr_ranks ranks;
    tr_ranks_join(&ranks, comm, s->mesh, axes, TR_AXES);
    tr_error *error = s->main(&ranks, s->user);
    tr_ranks_leave(&ranks);
    return error;
}

tr_error *tr_config_run_ranks(const tr_config *c, tr_error *(*main)(tr_ranks *ranks, void *user), void *user)
{
    tr_mesh mesh = tr_mesh_one();
    mesh.size[TR_MESH_DATA] = (int32_t)c->mesh.data;
    mesh.size[TR_MESH_SEQUENCE] = (int32_t)c->mesh.sequence;
    mesh.size[TR_MESH_TENSOR] = (int32_t)c->mesh.tensor;
    int64_t count = tr_mesh_ranks(&mesh);
    int32_t launched;
    if (tr_mpi_launched(&launched))
        TR_TRY(tr_mesh_verify(&mesh, launched ? launched : count));
    if (count == 1)
        return main(NULL, user);
    start s = {&mesh, main, user};
    return tr_world_run((int32_t)count, NULL, run_rank, &s);
}
