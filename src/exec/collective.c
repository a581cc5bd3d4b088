/* Running a graph's collectives; see collective.h.
 *
 * A block along an inner dim is not contiguous: [outer, part, inner]. It is packed into scratch before it
 * leaves and unpacked after it came; along dim 0 nothing is copied.
 */
#include "exec/collective.h"

#include "base/memory.h"
#include "passes/shard.h"

enum { MOST_RANKS = 4096 };

static int64_t outer_of(const tr_tensor *t, int64_t dim)
{
    return tr_tensor_span(t, 0, (int)dim);
}

static int64_t inner_bytes(const tr_tensor *t, int64_t dim)
{
    return tr_tensor_span(t, (int)dim + 1, t->rank) * tr_dtype_bytes(t->dtype);
}

static int64_t tensor_bytes(const tr_tensor *t)
{
    return tr_tensor_elems(t) * tr_dtype_bytes(t->dtype);
}

int64_t tr_collective_scratch(const tr_call *call)
{
    const tr_attr *a = call->attrs;
    int64_t outer = outer_of(&call->in[0], a[TR_COLLECTIVE_DIM].i);
    switch (call->op) {
    case TR_OP_all_gather:
        return outer > 1 ? tensor_bytes(&call->out[0]) : 0;
    case TR_OP_reduce_scatter:
        return outer > 1 ? tensor_bytes(&call->in[0]) : 0;
    case TR_OP_all_to_all:
        return tensor_bytes(&call->in[0]) + tensor_bytes(&call->out[0]);
    default:
        return 0;
    }
}

/* Rows of `bytes` each, from one stride to another. */
static void copy_rows(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t bytes, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, (size_t)bytes);
}

/* Sizes of the parts of a dim, times what one index of it holds in a rank's block. */
static void parts(int64_t whole, int n, int64_t unit, int64_t each, int64_t *out)
{
    int64_t first;
    for (int r = 0; r < n; r++) {
        tr_part(whole, n, r, unit, &first, &out[r]);
        out[r] *= each;
    }
}

static tr_error *run_all_reduce(tr_ranks *ranks, const tr_call *call, int axis)
{
    if (call->out[0].data != call->in[0].data)
        memcpy(call->out[0].data, call->in[0].data, (size_t)tensor_bytes(&call->in[0]));
    return ranks->all_reduce(ranks, axis, call->out[0].data, tr_tensor_elems(&call->out[0]), call->out[0].dtype);
}

static tr_error *run_all_gather(tr_ranks *ranks, const tr_call *call, int axis)
{
    const tr_attr *a = call->attrs;
    int64_t dim = a[TR_COLLECTIVE_DIM].i, whole = a[TR_GATHER_WHOLE].i, bytes[MOST_RANKS];
    int64_t outer = outer_of(&call->in[0], dim), inner = inner_bytes(&call->in[0], dim);
    int n = ranks->axis_size[axis];
    char *all = outer > 1 ? call->scratch : call->out[0].data;
    parts(whole, n, a[TR_GATHER_UNIT].i, outer * inner, bytes);
    TR_TRY(ranks->all_gather(ranks, axis, call->in[0].data, all, bytes));
    char *to = call->out[0].data;
    for (int r = 0; r < n && outer > 1; r++) {
        copy_rows(to, whole * inner, all, bytes[r] / outer, bytes[r] / outer, outer);
        all += bytes[r];
        to += bytes[r] / outer;
    }
    return NULL;
}

static tr_error *run_reduce_scatter(tr_ranks *ranks, const tr_call *call, int axis)
{
    const tr_attr *a = call->attrs;
    const tr_tensor *x = &call->in[0];
    int64_t dim = a[TR_COLLECTIVE_DIM].i, counts[MOST_RANKS], width = tr_dtype_bytes(x->dtype);
    int64_t outer = outer_of(x, dim), inner = inner_bytes(x, dim);
    int n = ranks->axis_size[axis];
    const char *all = x->data;
    parts(x->dims[dim], n, a[TR_SCATTER_UNIT].i, outer * inner / width, counts);
    if (outer > 1) {
        char *to = call->scratch;
        const char *from = x->data;
        for (int r = 0; r < n; r++) {
            int64_t row = counts[r] * width / outer;
            copy_rows(to, row, from, x->dims[dim] * inner, row, outer);
            to += row * outer;
            from += row;
        }
        all = call->scratch;
    }
    return ranks->reduce_scatter(ranks, axis, all, call->out[0].data, counts, x->dtype);
}

static tr_error *run_all_to_all(tr_ranks *ranks, const tr_call *call, int axis)
{
    const tr_attr *a = call->attrs;
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t from_dim = a[TR_COLLECTIVE_DIM].i, to_dim = a[TR_EXCHANGE_TO].i;
    int64_t send[MOST_RANKS], receive[MOST_RANKS];
    int n = ranks->axis_size[axis];
    char *packed = call->scratch, *arrived = packed + tensor_bytes(x);
    /* what leaves: parts of the dim that will be cut */
    int64_t outer = outer_of(x, to_dim), inner = inner_bytes(x, to_dim);
    parts(x->dims[to_dim], n, a[TR_EXCHANGE_TO_UNIT].i, outer * inner, send);
    char *to = packed;
    const char *from = x->data;
    for (int r = 0; r < n; r++) {
        copy_rows(to, send[r] / outer, from, x->dims[to_dim] * inner, send[r] / outer, outer);
        to += send[r];
        from += send[r] / outer;
    }
    /* what comes: parts of the dim that becomes whole */
    outer = outer_of(y, from_dim);
    inner = inner_bytes(y, from_dim);
    parts(y->dims[from_dim], n, a[TR_EXCHANGE_UNIT].i, outer * inner, receive);
    TR_TRY(ranks->all_to_all(ranks, axis, packed, send, arrived, receive));
    to = y->data;
    for (int r = 0; r < n; r++) {
        copy_rows(to, y->dims[from_dim] * inner, arrived, receive[r] / outer, receive[r] / outer, outer);
        arrived += receive[r];
        to += receive[r] / outer;
    }
    return NULL;
}

tr_error *tr_collective_run(tr_ranks *ranks, const tr_call *call)
{
    TR_CHECK(ranks, "a collective without ranks");
    int axis = (int)call->attrs[TR_COLLECTIVE_AXIS].i;
    TR_CHECK(ranks->axis_size[axis] <= MOST_RANKS, "%d ranks on one axis", ranks->axis_size[axis]);
    switch (call->op) {
    case TR_OP_all_reduce:
        return run_all_reduce(ranks, call, axis);
    case TR_OP_all_gather:
        return run_all_gather(ranks, call, axis);
    case TR_OP_reduce_scatter:
        return run_reduce_scatter(ranks, call, axis);
    default:
        return run_all_to_all(ranks, call, axis);
    }
}
