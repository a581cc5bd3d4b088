/* permute, roll, slice, pad, concat, repeat, sum_dim: an element at a time, by its indices. */
#include "kernels/kernel.h"

typedef struct position {
    int64_t at[TR_MAX_RANK];
} position;

static position position_of(const tr_tensor *t, int64_t index)
{
    position p = {0};
    for (int d = t->rank - 1; d >= 0; d--) {
        p.at[d] = index % t->dims[d];
        index /= t->dims[d];
    }
    return p;
}

static int64_t index_of(const tr_tensor *t, const position *p)
{
    int64_t index = 0;
    for (int d = 0; d < t->rank; d++)
        index = index * t->dims[d] + p->at[d];
    return index;
}

static void move(const tr_tensor *to, int64_t i, const tr_tensor *from, int64_t j)
{
    int64_t bytes = tr_dtype_bytes(to->dtype);
    memcpy((char *)to->data + i * bytes, (const char *)from->data + j * bytes, (size_t)bytes);
}

static void run_permute(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    for (int64_t i = 0, n = tr_tensor_elems(y); i < n; i++) {
        position to = position_of(y, i), from = {0};
        for (int d = 0; d < y->rank; d++)
            from.at[call->attrs[TR_PERMUTE_ORDER].i >> (4 * d) & 15] = to.at[d];
        move(y, i, x, index_of(x, &from));
    }
}

static void run_roll(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t dim = call->attrs[TR_ROLL_DIM].i, n = x->dims[dim], shift = (call->attrs[TR_ROLL_SHIFT].i % n + n) % n;
    for (int64_t i = 0, all = tr_tensor_elems(x); i < all; i++) {
        position p = position_of(x, i);
        p.at[dim] = (p.at[dim] + shift) % n;
        move(y, index_of(y, &p), x, i);
    }
}

static void run_slice(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    for (int64_t i = 0, n = tr_tensor_elems(y); i < n; i++) {
        position p = position_of(y, i);
        p.at[call->attrs[TR_SLICE_DIM].i] += call->attrs[TR_SLICE_FIRST].i;
        move(y, i, x, index_of(x, &p));
    }
}

/* Puts x into y from `first` on. */
static void put_part(const tr_tensor *x, const tr_tensor *y, int64_t dim, int64_t first)
{
    for (int64_t i = 0, n = tr_tensor_elems(x); i < n; i++) {
        position p = position_of(x, i);
        p.at[dim] += first;
        move(y, index_of(y, &p), x, i);
    }
}

static void run_pad(const tr_call *call)
{
    const tr_tensor *y = &call->out[0];
    memset(y->data, 0, (size_t)(tr_tensor_elems(y) * tr_dtype_bytes(y->dtype)));
    put_part(&call->in[0], y, call->attrs[TR_PAD_DIM].i, call->attrs[TR_PAD_FIRST].i);
}

static void run_concat(const tr_call *call)
{
    int64_t dim = call->attrs[TR_CONCAT_DIM].i, first = 0;
    for (int k = 0; k < call->n_in; first += call->in[k++].dims[dim])
        put_part(&call->in[k], &call->out[0], dim, first);
}

static void run_repeat(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t dim = call->attrs[TR_REPEAT_DIM].i;
    for (int64_t i = 0, n = tr_tensor_elems(y); i < n; i++) {
        position p = position_of(y, i);
        memmove(p.at + dim, p.at + dim + 1, sizeof *p.at * (size_t)(y->rank - 1 - dim));
        move(y, i, x, index_of(x, &p));
    }
}

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? (double)tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : (double)((const float *)t->data)[i];
}

static void run_sum_dim(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int dim = (int)call->attrs[TR_SUM_DIM_DIM].i;
    int64_t n = x->dims[dim], inner = tr_tensor_span(x, dim + 1, x->rank);
    for (int64_t i = 0, all = tr_tensor_elems(y); i < all; i++) {
        double sum = 0;
        for (int64_t k = 0; k < n; k++)
            sum += get(x, (i / inner * n + k) * inner + i % inner);
        if (y->dtype == TR_BF16)
            ((uint16_t *)y->data)[i] = tr_f32_to_bf16((float)sum);
        else
            ((float *)y->data)[i] = (float)sum;
    }
}

/* A side of the grid in three parts: all but the last window, what the roll left in it, what came round. */
static int part_of(int64_t at, const tr_attr *attrs)
{
    int64_t side = attrs[TR_REGIONS_SIDE].i;
    return (at >= side - attrs[TR_REGIONS_WINDOW].i) + (at >= side - attrs[TR_REGIONS_SHIFT].i);
}

static void run_window_regions(const tr_call *call)
{
    int64_t window = call->attrs[TR_REGIONS_WINDOW].i, n = call->attrs[TR_REGIONS_SIDE].i / window, at = 0;
    for (int64_t w = 0; w < n * n; w++)
        for (int64_t t = 0; t < window * window; t++)
            ((int32_t *)call->out[0].data)[at++] = 1 + 3 * part_of(w / n * window + t / window, call->attrs) +
                                                   part_of(w % n * window + t % window, call->attrs);
}

#define ROW(op)                                              \
    {                                                        \
        TR_OP_##op, "reference", NULL, NULL, run_##op, NULL  \
    }
const tr_kernel tr_reference_arrange[] = {
    ROW(permute), ROW(roll), ROW(slice), ROW(pad), ROW(concat), ROW(repeat), ROW(sum_dim), ROW(window_regions), {.run = NULL},
};
