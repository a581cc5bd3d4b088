/* Ops that move elements about and compute nothing (permute, roll, slice, pad, concat, repeat), and sum_dim, which is
 * repeat's gradient. Each is another's transpose: permute its inverse, roll back, slice and pad, repeat and sum_dim. */
#include "ops/rule.h"

#include <stdio.h>

static tr_value emit(tr_graph *g, tr_op op, tr_value x, const tr_attr *attrs)
{
    return tr_out(g, tr_graph_node(g, op, &x, 1, attrs), 0);
}

static tr_error *check_dim(int64_t dim, int64_t rank)
{
    return dim >= 0 && dim < rank ? NULL : tr_error_new(TR_USER, "dim %lld of a value of %lld", (long long)dim,
                                                        (long long)rank);
}

/* Rules are made of one letter a dim; dim `whole` is `letter`, and must be whole. */
static char *dim_letters(char *at, int rank, int whole, char letter)
{
    for (int d = 0; d < rank; d++)
        at += d == whole ? sprintf(at, "[%c]", letter) : sprintf(at, "%c", 'a' + d);
    return at;
}

/* Good until the next call, as all rules that depend on the node. */
static const char *rule_one_dim_whole(const tr_graph *g, tr_node n)
{
    static _Thread_local char text[256];
    char *at = text;
    const tr_node_info *node = &g->nodes[n];
    for (uint32_t k = 0; k < node->n_in; k++, at += sprintf(at, k < node->n_in ? "," : ""))
        at = dim_letters(at, tr_shape_at(g, tr_in(g, n, (int)k))->rank, (int)node->attrs[0].i, (char)('i' + k));
    at += sprintf(at, "->");
    dim_letters(at, tr_shape_at(g, tr_out(g, n, 0))->rank, (int)node->attrs[0].i, 'z');
    return text;
}

static void cost_nothing(const tr_graph *g, tr_node n, tr_cost *cost)
{
    (void)g, (void)n;
    cost->flops = 0;
}

/* permute: dim d of the result is dim (order >> 4 d) & 15 of x --------------------------------------- */

static int source_dim(const tr_attr *attrs, int d)
{
    return (int)(attrs[TR_PERMUTE_ORDER].i >> (4 * d) & 15);
}

TR_INFER(infer_permute)
{
    (void)n_in;
    const tr_shape *x = shape_in(g, in, 0);
    unsigned seen = 0;
    out[0] = *x;
    for (int d = 0; d < x->rank; d++) {
        int from = source_dim(attrs, d);
        if (from >= x->rank || seen >> from & 1)
            return tr_error_new(TR_USER, "order %llx does not name each of %d dims once",
                                (unsigned long long)attrs[TR_PERMUTE_ORDER].i, x->rank);
        seen |= 1u << from;
        out[0].dims[d] = x->dims[from];
        out[0].names[d] = x->names[from];
    }
    *n_out = 1;
    return NULL;
}

static void grad_permute(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    int64_t inverse = 0;
    for (int d = 0; d < tr_shape_at(g, d_out[0])->rank; d++)
        inverse |= (int64_t)d << (4 * source_dim(g->nodes[n].attrs, d));
    d_in[0] = emit(g, TR_OP_permute, d_out[0], (tr_attr[TR_MAX_ATTRS]){[TR_PERMUTE_ORDER] = {.i = inverse}});
}

static const char *rule_permute(const tr_graph *g, tr_node n)
{
    static _Thread_local char text[2 * TR_MAX_RANK + 4];
    int rank = tr_shape_at(g, tr_out(g, n, 0))->rank;
    char *at = dim_letters(text, rank, -1, 0);
    at += sprintf(at, "->");
    for (int d = 0; d < rank; d++)
        *at++ = (char)('a' + source_dim(g->nodes[n].attrs, d));
    *at = '\0';
    return text;
}

const tr_op_row tr_row_permute = {
    .min_in = 1, .max_in = 1, .attrs = {{"order", TR_ATTR_INT}}, .infer = infer_permute, .gradient = grad_permute,
    .sharding_of = rule_permute, .cost = cost_nothing};

tr_value tr_transpose(tr_graph *g, tr_value x, const int *order)
{
    if (g->error || !x)
        return 0;
    int64_t packed = 0;
    tr_shape s = *tr_shape_at(g, x);
    int last = -1;
    bool in_order = true; /* what is longer than 1: then nothing moves */
    for (int d = 0; d < s.rank; d++) {
        packed |= (int64_t)(order[d] & 15) << (4 * d);
        if (order[d] < 0 || order[d] >= s.rank || s.dims[order[d]] == 1)
            continue;
        in_order &= order[d] > last;
        last = order[d];
    }
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_PERMUTE_ORDER] = {.i = packed}};
    if (in_order) {
        tr_shape out[TR_MAX_OUTPUTS];
        int n_out;
        if (!infer_permute(g, &x, 1, attrs, out, &n_out))
            return tr_graph_view(g, x, out[0]);
    }
    return emit(g, TR_OP_permute, x, attrs);
}

/* roll: y[(i + shift) mod n] = x[i] ------------------------------------------------------------------ */

TR_INFER(infer_roll)
{
    (void)n_in;
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return check_dim(attrs[TR_ROLL_DIM].i, out[0].rank);
}

static void grad_roll(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_attr *a = g->nodes[n].attrs;
    d_in[0] = emit(g, TR_OP_roll, d_out[0], (tr_attr[TR_MAX_ATTRS]){[TR_ROLL_DIM] = a[TR_ROLL_DIM],
                                                                    [TR_ROLL_SHIFT] = {.i = -a[TR_ROLL_SHIFT].i}});
}

const tr_op_row tr_row_roll = {
    .min_in = 1, .max_in = 1, .attrs = {{"dim", TR_ATTR_INT}, {"shift", TR_ATTR_INT}}, .infer = infer_roll,
    .gradient = grad_roll, .sharding_of = rule_one_dim_whole, .cost = cost_nothing};

/* Dims of public functions may count from the innermost. */
static int64_t dim_of(const tr_graph *g, tr_value x, int dim)
{
    return x && dim < 0 ? dim + tr_shape_at(g, x)->rank : dim;
}

tr_value tr_roll(tr_graph *g, tr_value x, int dim, int64_t shift)
{
    return emit(g, TR_OP_roll, x, (tr_attr[TR_MAX_ATTRS]){[TR_ROLL_DIM] = {.i = dim_of(g, x, dim)},
                                                         [TR_ROLL_SHIFT] = {.i = shift}});
}

/* slice and pad -------------------------------------------------------------------------------------- */

TR_INFER(infer_slice)
{
    const tr_shape *x = shape_in(g, in, 0);
    (void)n_in;
    int64_t dim = attrs[TR_SLICE_DIM].i, first = attrs[TR_SLICE_FIRST].i, count = attrs[TR_SLICE_COUNT].i;
    if (dim < 0 || dim >= x->rank || first < 0 || count < 1 || first > x->dims[dim] - count)
        return tr_error_new(TR_USER, "elements %lld to %lld of dim %lld are not all there", (long long)first,
                            (long long)(first + count), (long long)dim);
    out[0] = *x;
    out[0].dims[dim] = count;
    *n_out = 1;
    return NULL;
}

static void grad_slice(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_attr *a = g->nodes[n].attrs;
    int64_t size = tr_shape_at(g, tr_in(g, n, 0))->dims[a[TR_SLICE_DIM].i];
    d_in[0] = emit(g, TR_OP_pad, d_out[0],
                   (tr_attr[TR_MAX_ATTRS]){[TR_PAD_DIM] = a[TR_SLICE_DIM], [TR_PAD_FIRST] = a[TR_SLICE_FIRST],
                                           [TR_PAD_SIZE] = {.i = size}});
}

const tr_op_row tr_row_slice = {
    .min_in = 1, .max_in = 1,
    .attrs = {{"dim", TR_ATTR_INT}, {"first", TR_ATTR_INT}, {"count", TR_ATTR_INT}}, .infer = infer_slice,
    .gradient = grad_slice, .sharding_of = rule_one_dim_whole, .cost = cost_nothing};

static tr_value slice(tr_graph *g, tr_value x, int64_t dim, int64_t first, int64_t count)
{
    return emit(g, TR_OP_slice, x,
                (tr_attr[TR_MAX_ATTRS]){[TR_SLICE_DIM] = {.i = dim}, [TR_SLICE_FIRST] = {.i = first},
                                        [TR_SLICE_COUNT] = {.i = count}});
}

tr_value tr_slice(tr_graph *g, tr_value x, int dim, int64_t first, int64_t count)
{
    return slice(g, x, dim_of(g, x, dim), first, count);
}

TR_INFER(infer_pad)
{
    const tr_shape *x = shape_in(g, in, 0);
    (void)n_in;
    int64_t dim = attrs[TR_PAD_DIM].i, first = attrs[TR_PAD_FIRST].i, size = attrs[TR_PAD_SIZE].i;
    TR_TRY(tr_floats_only(g, in, 1));
    TR_TRY(check_dim(dim, x->rank));
    if (first < 0 || size < x->dims[dim] || first > size - x->dims[dim])
        return tr_error_new(TR_USER, "%lld elements from %lld on do not fit in %lld", (long long)x->dims[dim],
                            (long long)first, (long long)size);
    out[0] = *x;
    out[0].dims[dim] = size;
    *n_out = 1;
    return NULL;
}

static void grad_pad(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_attr *a = g->nodes[n].attrs;
    int64_t dim = a[TR_PAD_DIM].i;
    d_in[0] = slice(g, d_out[0], dim, a[TR_PAD_FIRST].i, tr_shape_at(g, tr_in(g, n, 0))->dims[dim]);
}

const tr_op_row tr_row_pad = {
    .min_in = 1, .max_in = 1,
    .attrs = {{"dim", TR_ATTR_INT}, {"first", TR_ATTR_INT}, {"size", TR_ATTR_INT}}, .infer = infer_pad,
    .gradient = grad_pad, .sharding_of = rule_one_dim_whole, .cost = cost_nothing};

tr_value tr_pad(tr_graph *g, tr_value x, int dim, int64_t first, int64_t size)
{
    return emit(g, TR_OP_pad, x,
                (tr_attr[TR_MAX_ATTRS]){[TR_PAD_DIM] = {.i = dim_of(g, x, dim)}, [TR_PAD_FIRST] = {.i = first},
                                        [TR_PAD_SIZE] = {.i = size}});
}

/* concat --------------------------------------------------------------------------------------------- */

TR_INFER(infer_concat)
{
    const tr_shape *x = shape_in(g, in, 0);
    int64_t dim = attrs[TR_CONCAT_DIM].i;
    TR_TRY(check_dim(dim, x->rank));
    out[0] = *x;
    for (int k = 1; k < n_in; k++) {
        const tr_shape *y = shape_in(g, in, k);
        if (!in[k] || y->dtype != x->dtype || y->rank != x->rank)
            return tr_dims_differ(g, "the parts must have one dtype and rank", x, y);
        TR_TRY(tr_dims_match(g, "the parts may differ along their own dim only", x, 0, y, 0, (int)dim));
        TR_TRY(tr_dims_match(g, "the parts may differ along their own dim only", x, (int)dim + 1, y, (int)dim + 1,
                             x->rank - (int)dim - 1));
        out[0].dims[dim] += y->dims[dim];
    }
    *n_out = 1;
    return NULL;
}

static void grad_concat(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    int64_t dim = g->nodes[n].attrs[TR_CONCAT_DIM].i, first = 0;
    for (uint32_t k = 0; k < g->nodes[n].n_in; k++) {
        int64_t count = tr_shape_at(g, tr_in(g, n, (int)k))->dims[dim];
        d_in[k] = slice(g, d_out[0], dim, first, count);
        first += count;
    }
}

const tr_op_row tr_row_concat = {
    .min_in = 2, .max_in = 8, .attrs = {{"dim", TR_ATTR_INT}}, .infer = infer_concat, .gradient = grad_concat,
    .sharding_of = rule_one_dim_whole, .cost = cost_nothing};

tr_value tr_concat(tr_graph *g, tr_value a, tr_value b, int dim)
{
    const tr_value in[] = {a, b};
    return tr_out(g, tr_graph_node(g, TR_OP_concat, in, 2,
                                   (tr_attr[TR_MAX_ATTRS]){[TR_CONCAT_DIM] = {.i = dim_of(g, a, dim)}}), 0);
}

/* repeat and sum_dim --------------------------------------------------------------------------------- */

TR_INFER(infer_repeat)
{
    const tr_shape *x = shape_in(g, in, 0);
    (void)n_in;
    int64_t dim = attrs[TR_REPEAT_DIM].i, count = attrs[TR_REPEAT_COUNT].i;
    TR_TRY(tr_floats_only(g, in, 1));
    TR_TRY(check_dim(dim, x->rank + 1));
    if (count < 1 || x->rank == TR_MAX_RANK)
        return tr_error_new(TR_USER, "%lld copies of a value of %d dims", (long long)count, x->rank);
    out[0] = *x;
    out[0].rank++;
    memmove(out[0].dims + dim + 1, x->dims + dim, (size_t)(x->rank - dim) * sizeof *x->dims);
    memmove(out[0].names + dim + 1, x->names + dim, (size_t)(x->rank - dim) * sizeof *x->names);
    out[0].dims[dim] = count;
    out[0].names[dim] = 0;
    *n_out = 1;
    return NULL;
}

static void grad_repeat(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    d_in[0] = emit(g, TR_OP_sum_dim, d_out[0],
                   (tr_attr[TR_MAX_ATTRS]){[TR_SUM_DIM_DIM] = g->nodes[n].attrs[TR_REPEAT_DIM]});
}

static const char *rule_repeat(const tr_graph *g, tr_node n)
{
    static _Thread_local char text[3 * TR_MAX_RANK + 8];
    bool sum = g->nodes[n].op == TR_OP_sum_dim;
    int rank = tr_shape_at(g, sum ? tr_in(g, n, 0) : tr_out(g, n, 0))->rank, dim = (int)g->nodes[n].attrs[0].i;
    char *at = text;
    for (int side = 0; side < 2; side++) {
        for (int d = 0; d < rank; d++)
            if (side == sum && d == dim)
                continue;
            else
                at += sprintf(at, !sum && d == dim ? "[%c]" : "%c", 'a' + d);
        at += sprintf(at, side ? "" : "->");
    }
    return text;
}

const tr_op_row tr_row_repeat = {
    .min_in = 1, .max_in = 1, .attrs = {{"dim", TR_ATTR_INT}, {"count", TR_ATTR_INT}}, .infer = infer_repeat,
    .gradient = grad_repeat, .sharding_of = rule_repeat, .cost = cost_nothing};

tr_value tr_repeat(tr_graph *g, tr_value x, int dim, int64_t count)
{
    if (g->error || !x)
        return 0;
    int64_t at = dim < 0 ? dim + tr_shape_at(g, x)->rank + 1 : dim;
    return emit(g, TR_OP_repeat, x, (tr_attr[TR_MAX_ATTRS]){[TR_REPEAT_DIM] = {.i = at},
                                                           [TR_REPEAT_COUNT] = {.i = count}});
}

TR_INFER(infer_sum_dim)
{
    const tr_shape *x = shape_in(g, in, 0);
    (void)n_in;
    int64_t dim = attrs[TR_SUM_DIM_DIM].i;
    TR_TRY(tr_floats_only(g, in, 1));
    if (x->rank < 2)
        return tr_error_new(TR_USER, "a value of %d dims; it takes two or more", x->rank);
    TR_TRY(check_dim(dim, x->rank));
    out[0] = *x;
    out[0].rank--;
    memmove(out[0].dims + dim, x->dims + dim + 1, (size_t)(x->rank - dim - 1) * sizeof *x->dims);
    memmove(out[0].names + dim, x->names + dim + 1, (size_t)(x->rank - dim - 1) * sizeof *x->names);
    *n_out = 1;
    return NULL;
}

static void grad_sum_dim(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    int64_t dim = g->nodes[n].attrs[TR_SUM_DIM_DIM].i;
    const tr_shape x = *tr_shape_at(g, tr_in(g, n, 0));
    d_in[0] = emit(g, TR_OP_repeat, d_out[0], (tr_attr[TR_MAX_ATTRS]){[TR_REPEAT_DIM] = {.i = dim},
                                                                     [TR_REPEAT_COUNT] = {.i = x.dims[dim]}});
    if (d_in[0])
        g->values[d_in[0]].shape.names[dim] = x.names[dim];
}

static void cost_sum_dim(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

const tr_op_row tr_row_sum_dim = {
    .min_in = 1, .max_in = 1, .attrs = {{"dim", TR_ATTR_INT}}, .infer = infer_sum_dim, .gradient = grad_sum_dim,
    .sharding_of = rule_repeat, .cost = cost_sum_dim};

tr_value tr_sum(tr_graph *g, tr_value x, int dim)
{
    return emit(g, TR_OP_sum_dim, x, (tr_attr[TR_MAX_ATTRS]){[TR_SUM_DIM_DIM] = {.i = dim_of(g, x, dim)}});
}

tr_value tr_mean(tr_graph *g, tr_value x, int dim)
{
    if (g->error || !x)
        return 0;
    return tr_scale(g, tr_sum(g, x, dim), 1.0 / (double)TR_MAX(tr_size(g, x, dim), 1));
}

/* A constant ------------------------------------------------------------------------------------------ */

TR_INFER(infer_window_regions)
{
    (void)g, (void)in, (void)n_in;
    int64_t side = attrs[TR_REGIONS_SIDE].i, window = attrs[TR_REGIONS_WINDOW].i, shift = attrs[TR_REGIONS_SHIFT].i;
    if (window < 1 || side < window || side % window || side > 1 << 20 || shift < 0 || shift >= window)
        return tr_error_new(TR_USER, "a grid of %lld a side in windows of %lld, shifted by %lld", (long long)side,
                            (long long)window, (long long)shift);
    out[0] = (tr_shape){.dtype = TR_I32, .rank = 2, .dims = {side / window * (side / window), window * window}};
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_window_regions = {
    .min_in = 0, .max_in = 0, .attrs = {{"side", TR_ATTR_INT}, {"window", TR_ATTR_INT}, {"shift", TR_ATTR_INT}},
    .infer = infer_window_regions, .no_gradient = "a constant", .sharding = "->[m][t]", .cost = cost_nothing};

tr_value tr_window_regions(tr_graph *g, int64_t side, int64_t window, int64_t shift)
{
    return tr_out(g, tr_graph_node(g, TR_OP_window_regions, NULL, 0,
                                   (tr_attr[TR_MAX_ATTRS]){[TR_REGIONS_SIDE] = {.i = side}, [TR_REGIONS_WINDOW] = {.i = window},
                                                           [TR_REGIONS_SHIFT] = {.i = shift}}), 0);
}
