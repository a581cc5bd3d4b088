/* What the sharding pass adds: ids of a part of a table, and the collectives over a mesh axis. */
#include "ops/rule.h"

static const char made_by[] = "made by sharding, after autodiff";

static tr_error *check_dim(const tr_shape *s, int64_t dim)
{
    if (dim < 0 || dim >= s->rank)
        return tr_error_new(TR_RUN, "dim %lld of %d", (long long)dim, s->rank);
    return NULL;
}

static tr_error *with_dim(const tr_shape *x, int64_t dim, int64_t size, tr_shape *out, int *n_out)
{
    TR_TRY(check_dim(x, dim));
    *out = *x;
    out->dims[dim] = size;
    *n_out = 1;
    return NULL;
}

TR_INFER(infer_deal)
{
    int64_t dim = attrs[TR_DEAL_DIM].i, parts = attrs[TR_DEAL_PARTS].i, unit = attrs[TR_DEAL_UNIT].i;
    (void)n_in;
    TR_TRY(check_dim(shape_in(g, in, 0), dim));
    if (parts < 1 || unit < 1 || parts > shape_in(g, in, 0)->dims[dim] / unit)
        return tr_error_new(TR_RUN, "%lld parts in steps of %lld of a dim of %lld", (long long)parts, (long long)unit,
                            (long long)shape_in(g, in, 0)->dims[dim]);
    return with_dim(shape_in(g, in, 0), dim, shape_in(g, in, 0)->dims[dim], &out[0], n_out);
}

const tr_op_row tr_row_deal = {
    .min_in = 1, .max_in = 1, .infer = infer_deal, .no_gradient = made_by,
    .attrs = {{"dim", TR_ATTR_INT}, {"parts", TR_ATTR_INT}, {"unit", TR_ATTR_INT}, {"back", TR_ATTR_BOOL}}};

TR_INFER(infer_as_is)
{
    (void)n_in, (void)attrs;
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_shift = {.min_in = 1, .max_in = 1, .infer = infer_as_is, .no_gradient = made_by,
                                .attrs = {{"first", TR_ATTR_INT}, {"count", TR_ATTR_INT}}};

const tr_op_row tr_row_all_reduce = {.min_in = 1, .max_in = 1, .flags = TR_OP_COLLECTIVE | TR_OP_IN_PLACE,
                                     .infer = infer_as_is, .no_gradient = made_by,
                                     .attrs = {{"axis", TR_ATTR_INT}, {"members", TR_ATTR_INT},
                                               {"largest", TR_ATTR_BOOL}, {"narrow", TR_ATTR_BOOL}}};

TR_INFER(infer_all_gather)
{
    (void)n_in;
    return with_dim(shape_in(g, in, 0), attrs[TR_COLLECTIVE_DIM].i, attrs[TR_GATHER_WHOLE].i, &out[0], n_out);
}


const tr_op_row tr_row_all_gather = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_COLLECTIVE, .infer = infer_all_gather, .no_gradient = made_by,
    .attrs = {{"axis", TR_ATTR_INT}, {"dim", TR_ATTR_INT}, {"whole", TR_ATTR_INT}, {"unit", TR_ATTR_INT}}};

TR_INFER(infer_reduce_scatter)
{
    (void)n_in;
    return with_dim(shape_in(g, in, 0), attrs[TR_COLLECTIVE_DIM].i, attrs[TR_SCATTER_COUNT].i, &out[0], n_out);
}

const tr_op_row tr_row_reduce_scatter = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_COLLECTIVE, .infer = infer_reduce_scatter, .no_gradient = made_by,
    .attrs = {{"axis", TR_ATTR_INT}, {"dim", TR_ATTR_INT}, {"count", TR_ATTR_INT}, {"unit", TR_ATTR_INT},
              {"narrow", TR_ATTR_BOOL}}};

TR_INFER(infer_all_to_all)
{
    (void)n_in;
    TR_TRY(with_dim(shape_in(g, in, 0), attrs[TR_COLLECTIVE_DIM].i, attrs[TR_EXCHANGE_WHOLE].i, &out[0], n_out));
    TR_TRY(check_dim(&out[0], attrs[TR_EXCHANGE_TO].i));
    out[0].dims[attrs[TR_EXCHANGE_TO].i] = attrs[TR_EXCHANGE_COUNT].i;
    return NULL;
}

const tr_op_row tr_row_all_to_all = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_COLLECTIVE, .infer = infer_all_to_all, .no_gradient = made_by,
    .attrs = {{"axis", TR_ATTR_INT}, {"dim", TR_ATTR_INT}, {"whole", TR_ATTR_INT}, {"unit", TR_ATTR_INT},
              {"to", TR_ATTR_INT}, {"count", TR_ATTR_INT}, {"to_unit", TR_ATTR_INT}}};

TR_INFER(infer_ring_shift)
{
    (void)n_in;
    return with_dim(shape_in(g, in, 0), attrs[TR_COLLECTIVE_DIM].i, attrs[TR_RING_COUNT].i, &out[0], n_out);
}

const tr_op_row tr_row_ring_shift = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_COLLECTIVE, .infer = infer_ring_shift, .no_gradient = made_by,
    .attrs = {{"axis", TR_ATTR_INT}, {"dim", TR_ATTR_INT}, {"count", TR_ATTR_INT}}};

const tr_op_row tr_row_wait = {.min_in = 1, .max_in = 2, .flags = TR_OP_WAIT | TR_OP_UPDATES, .updates = {0},
                               .infer = infer_as_is, .no_gradient = made_by};

TR_INFER(infer_pack)
{
    (void)attrs;
    out[0] = (tr_shape){.dtype = shape_in(g, in, 0)->dtype, .rank = 1};
    for (int k = 0; k < n_in; k++) {
        if (shape_in(g, in, k)->dtype != out[0].dtype)
            return tr_error_new(TR_RUN, "input %d is %s and input 0 is %s", k, tr_dtype_name(shape_in(g, in, k)->dtype),
                                tr_dtype_name(out[0].dtype));
        out[0].dims[0] += tr_shape_elems(shape_in(g, in, k));
    }
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_pack = {.min_in = 1, .max_in = -1, .infer = infer_pack, .no_gradient = made_by};
