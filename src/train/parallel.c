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
    if (c->mesh.tensor_kind == TR_TENSOR_1D) {
        mesh.size[TR_MESH_TENSOR] = (int32_t)c->mesh.tensor;
        return mesh;
    }
    tr_tensor_grid grid;
    bool fits = tr_tensor_grid_of(c->mesh.tensor_kind, c->mesh.tensor, &grid);
    TR_CHECK(fits, "%lld tensor ranks have no such shape", (long long)c->mesh.tensor);
    mesh.size[TR_MESH_TENSOR_DEPTH] = (int32_t)grid.depth;
    mesh.size[TR_MESH_TENSOR_ROW] = (int32_t)grid.row;
    mesh.size[TR_MESH_TENSOR_COLUMN] = (int32_t)grid.column;
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

/* What a product makes or takes besides the embedding. */
static void features(tr_sharding *s, int axis)
{
    leaf(s, "heads", axis);
    leaf(s, "mlp", axis);
    leaf(s, "vocab", axis);
}

static void stream(tr_sharding *s, const char *dim, int axis)
{
    s->stream[s->n_stream].dim = dim;
    s->stream[s->n_stream++].axis = axis;
}

/* A depth of squares. Weights are cut over both sides; the rows, which share the batch, gather a weight's other part
 * before its use: SUMMA's broadcasts along one side at once. Along the other, activations are gathered before
 * a product and scattered after it: by their tokens, since a norm needs the embedding whole. */
static void square(tr_sharding *s)
{
    s->axes[TR_AXIS_TENSOR_ROW].stores = true;
    leaf(s, "batch", TR_AXIS_TENSOR_DEPTH);
    leaf(s, "batch", TR_AXIS_TENSOR_ROW);
    leaf(s, "embed", TR_AXIS_TENSOR_ROW);
    features(s, TR_AXIS_TENSOR_COLUMN);
    stream(s, "seq", TR_AXIS_TENSOR_COLUMN);
}

/* A product has three dims (tokens, what is contracted, what is made) and the cube three axes: `row` cuts tokens,
 * `column` the embedding, `depth` the features on the other side. Each operand has the axis that does not cut it to
 * be stored over: weights are cut over row, what comes out along the embedding's side is cut by tokens. */
static void cube(tr_sharding *s)
{
    s->axes[TR_AXIS_TENSOR_ROW].stores = true;
    leaf(s, "batch", TR_AXIS_TENSOR_ROW);
    leaf(s, "batch", TR_AXIS_TENSOR_COLUMN);
    leaf(s, "embed", TR_AXIS_TENSOR_COLUMN);
    leaf(s, "context", TR_AXIS_TENSOR_ROW);
    features(s, TR_AXIS_TENSOR_DEPTH);
    features(s, TR_AXIS_TENSOR_ROW);
    stream(s, "seq", TR_AXIS_TENSOR_DEPTH);
    s->rest[0].dim = "batch";
    s->rest[0].axis = TR_AXIS_TENSOR_COLUMN;
    s->n_rest = 1;
}

tr_sharding tr_config_sharding(const tr_config *c, int64_t rank)
{
    tr_mesh mesh = tr_config_mesh(c);
    tr_sharding s = {.n_axes = TR_AXES, .zero = (int)c->zero, .zero_axis = TR_AXIS_DATA};
    int32_t at[TR_MESH_AXIS_COUNT];
    tr_mesh_coordinates(&mesh, (int32_t)rank, at);
    for (int a = 0; a < TR_AXES; a++)
        s.axes[a] = (tr_axis){.name = tr_mesh_axis_name(mesh_axis[a]),
                              .size = mesh.size[mesh_axis[a]],
                              .index = at[mesh_axis[a]]};
    leaf(&s, "batch", TR_AXIS_DATA);
    leaf(&s, "seq", TR_AXIS_SEQUENCE);
    if (c->mesh.tensor_kind == TR_TENSOR_1D) {
        features(&s, TR_AXIS_TENSOR);
        if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->mesh.tensor > 1)
            stream(&s, "seq", TR_AXIS_TENSOR);
    } else {
        (c->mesh.tensor_kind == TR_TENSOR_3D ? cube : square)(&s);
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
