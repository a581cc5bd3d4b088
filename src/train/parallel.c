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

tr_place_on_mesh tr_config_place(const tr_config *c, int64_t rank)
{
    tr_sharding sharding = tr_config_sharding(c, rank);
    tr_place_on_mesh place = {.axes = sharding.n_axes};
    for (int a = 0; a < sharding.n_axes; a++) {
        place.size[a] = sharding.axes[a].size;
        place.index[a] = sharding.axes[a].index;
    }
    return place;
}
