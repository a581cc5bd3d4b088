/* Techniques as rule sets; see parallel.h. */
#include "train/parallel.h"

/* The sharding's axes on the device mesh. */
static const tr_mesh_axis mesh_axis[TR_AXES] = {
    [TR_AXIS_DATA] = TR_MESH_DATA,
    [TR_AXIS_SEQUENCE] = TR_MESH_SEQUENCE,
    [TR_AXIS_TENSOR_DEPTH] = TR_MESH_TENSOR_DEPTH,
    [TR_AXIS_TENSOR_ROW] = TR_MESH_TENSOR_ROW,
    [TR_AXIS_TENSOR_COLUMN] = TR_MESH_TENSOR_COLUMN,
    [TR_AXIS_TENSOR] = TR_MESH_TENSOR,
};

tr_mesh tr_config_mesh(const tr_config *c)
{
    tr_mesh mesh = tr_mesh_one();
    mesh.size[TR_MESH_DATA] = (int32_t)c->mesh.data;
    mesh.size[TR_MESH_SEQUENCE] = (int32_t)c->mesh.sequence;
    mesh.size[TR_MESH_TENSOR] = (int32_t)c->mesh.tensor;
    return mesh;
}

int64_t tr_config_ranks(const tr_config *c)
{
    tr_mesh mesh = tr_config_mesh(c);
    return tr_mesh_ranks(&mesh);
}

static void leaf(tr_sharding *s, const char *dim, int axis)
{
    s->leaves[s->n_leaves].dim = dim;
    s->leaves[s->n_leaves++].axis = axis;
}

tr_sharding tr_config_sharding(const tr_config *c, int64_t rank)
{
    tr_mesh mesh = tr_config_mesh(c);
    tr_sharding s = {.n_axes = TR_AXES, .zero = (int)c->zero, .zero_axis = TR_AXIS_DATA};
    int32_t at[TR_MESH_AXIS_COUNT];
    tr_mesh_coordinates(&mesh, (int32_t)rank, at);
    for (int a = 0; a < TR_AXES; a++)
        s.axes[a] = (tr_axis){tr_mesh_axis_name(mesh_axis[a]), mesh.size[mesh_axis[a]], at[mesh_axis[a]]};
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
    const start *s = user;
    tr_ranks ranks;
    tr_ranks_join(&ranks, comm, s->mesh, mesh_axis, TR_AXES);
    tr_error *error = s->main(&ranks, s->user);
    tr_ranks_leave(&ranks);
    return error;
}

tr_error *tr_config_run_ranks(const tr_config *c, tr_error *(*main)(tr_ranks *ranks, void *user), void *user)
{
    tr_mesh mesh = tr_config_mesh(c);
    int64_t count = tr_mesh_ranks(&mesh);
    int32_t launched;
    if (tr_mpi_launched(&launched))
        TR_TRY(tr_mesh_verify(&mesh, launched ? launched : count));
    if (count == 1)
        return main(NULL, user);
    start s = {&mesh, main, user};
    return tr_world_run((int32_t)count, NULL, run_rank, &s);
}
