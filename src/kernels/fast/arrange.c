/* permute, roll, slice, pad, concat, repeat, sum_dim, at the speed of memory.
 *
 * What moves is cut into runs that are contiguous in both tensors; a run is a memcpy, or one element where the
 * innermost dim changes. Threads share the runs of the result (permute) or its blocks before the dim that changes.
 * sum_dim adds in f32, in the order of the dim. */
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

#include "base/memory.h"

enum { SMALL = 32 * 1024 /* bytes */ };

static int64_t bytes_of(const tr_tensor *t)
{
    return tr_tensor_elems(t) * tr_dtype_bytes(t->dtype);
}

/* permute: of the result's dims the last `rank - outer` are the last of x too: one run ------------------- */

typedef struct walk {
    int outer;
    int64_t dims[TR_MAX_RANK], step[TR_MAX_RANK]; /* of the result's outer dims: sizes, steps in x in runs' units */
    int64_t run, runs;                            /* bytes; how many */
} walk;

static walk walk_of(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    walk w = {.outer = y->rank, .run = tr_dtype_bytes(x->dtype), .runs = 1};
    int64_t order = call->attrs[TR_PERMUTE_ORDER].i, step[TR_MAX_RANK];
    while (w.outer > 0 && (order >> (4 * (w.outer - 1)) & 15) == w.outer - 1)
        w.run *= y->dims[--w.outer];
    for (int d = w.outer - 1; d >= 0; d--)
        step[d] = d == w.outer - 1 ? 1 : step[d + 1] * x->dims[d + 1];
    for (int d = 0; d < w.outer; d++) {
        w.dims[d] = y->dims[d];
        w.step[d] = step[order >> (4 * d) & 15];
        w.runs *= w.dims[d];
    }
    return w;
}

/* The result's runs of one value of its dims before the last outer one are `n` runs that lie `step` apart in x. */
TR_INLINE void copy_runs(char *to, const char *from, int64_t n, int64_t step, int64_t run)
{
    for (int64_t k = 0; k < n; k++)
        memcpy(to + k * run, from + k * step * run, (size_t)run);
}

static void run_permute(const tr_call *call)
{
    walk w = walk_of(call);
    char *to = call->out[0].data;
    const char *from = call->in[0].data;
    if (w.outer == 0) {
        memcpy(to, from, (size_t)w.run);
        return;
    }
    int last = w.outer - 1;
    int64_t n = w.dims[last], rows = w.runs / n, run = w.run, step = w.step[last];
#pragma omp parallel for schedule(static) if (bytes_of(&call->out[0]) >= SMALL)
    for (int64_t row = 0; row < rows; row++) {
        int64_t at = 0, rest = row;
        for (int d = last - 1; d >= 0; d--) {
            at += rest % w.dims[d] * w.step[d];
            rest /= w.dims[d];
        }
        if (run == 2)
            copy_runs(to + row * n * 2, from + at * 2, n, step, 2);
        else if (run == 4)
            copy_runs(to + row * n * 4, from + at * 4, n, step, 4);
        else
            copy_runs(to + row * n * run, from + at * run, n, step, run);
    }
}

/* Parts of a dim ------------------------------------------------------------------------------------- */

/* A tensor as [outer][bytes]: the dims before `dim`, and what lies within one of them. */
static int64_t outer_of(const tr_tensor *t, int64_t dim)
{
    return tr_tensor_span(t, 0, (int)dim);
}

static int64_t inner_bytes(const tr_tensor *t, int64_t dim)
{
    return tr_tensor_span(t, (int)dim, t->rank) * tr_dtype_bytes(t->dtype);
}

/* Bytes of one step along the dim. */
static int64_t step_bytes(const tr_tensor *t, int64_t dim)
{
    return inner_bytes(t, dim + 1);
}

static void run_roll(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int64_t dim = call->attrs[TR_ROLL_DIM].i, n = x->dims[dim], shift = (call->attrs[TR_ROLL_SHIFT].i % n + n) % n;
    int64_t row = inner_bytes(x, dim), tail = shift * step_bytes(x, dim);
    char *to = call->out[0].data;
    const char *from = x->data;
#pragma omp parallel for schedule(static) if (bytes_of(x) >= SMALL)
    for (int64_t o = 0; o < outer_of(x, dim); o++) {
        memcpy(to + o * row + tail, from + o * row, (size_t)(row - tail));
        memcpy(to + o * row, from + (o + 1) * row - tail, (size_t)tail);
    }
}

static void run_slice(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t dim = call->attrs[TR_SLICE_DIM].i, first = call->attrs[TR_SLICE_FIRST].i * step_bytes(x, dim);
    int64_t x_row = inner_bytes(x, dim), y_row = inner_bytes(y, dim);
#pragma omp parallel for schedule(static) if (bytes_of(y) >= SMALL)
    for (int64_t o = 0; o < outer_of(x, dim); o++)
        memcpy((char *)y->data + o * y_row, (const char *)x->data + o * x_row + first, (size_t)y_row);
}

static void run_pad(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t dim = call->attrs[TR_PAD_DIM].i, first = call->attrs[TR_PAD_FIRST].i * step_bytes(x, dim);
    int64_t x_row = inner_bytes(x, dim), y_row = inner_bytes(y, dim);
#pragma omp parallel for schedule(static) if (bytes_of(y) >= SMALL)
    for (int64_t o = 0; o < outer_of(x, dim); o++) {
        char *to = (char *)y->data + o * y_row;
        memset(to, 0, (size_t)first);
        memcpy(to + first, (const char *)x->data + o * x_row, (size_t)x_row);
        memset(to + first + x_row, 0, (size_t)(y_row - first - x_row));
    }
}

static void run_concat(const tr_call *call)
{
    const tr_tensor *y = &call->out[0];
    int64_t dim = call->attrs[TR_CONCAT_DIM].i, row = inner_bytes(y, dim);
#pragma omp parallel for schedule(static) if (bytes_of(y) >= SMALL)
    for (int64_t o = 0; o < outer_of(y, dim); o++) {
        char *to = (char *)y->data + o * row;
        for (int k = 0; k < call->n_in; k++) {
            int64_t part = inner_bytes(&call->in[k], dim);
            memcpy(to, (const char *)call->in[k].data + o * part, (size_t)part);
            to += part;
        }
    }
}

/* x is [outer][inner], y [outer][count][inner]. */
static void run_repeat(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t dim = call->attrs[TR_REPEAT_DIM].i, count = y->dims[dim], inner = step_bytes(y, dim);
    int64_t rows = outer_of(x, dim) * count, bytes = tr_dtype_bytes(x->dtype);
#pragma omp parallel for schedule(static) if (bytes_of(y) >= SMALL)
    for (int64_t r = 0; r < rows; r++) {
        char *to = (char *)y->data + r * inner;
        const char *from = (const char *)x->data + r / count * inner;
        if (inner == bytes && bytes == 2)
            memcpy(to, from, 2);
        else if (inner == bytes && bytes == 4)
            memcpy(to, from, 4);
        else
            memcpy(to, from, (size_t)inner);
    }
}

/* sum_dim: x is [outer][n][inner] --------------------------------------------------------------------- */

TR_INLINE void sum_columns(const tr_call *call, int64_t o, int64_t n, int64_t inner, bool bf16)
{
    const void *x = call->in[0].data;
    for (int64_t c = 0; c < inner; c += TR_VL) {
        int part = inner - c < TR_VL ? (int)(inner - c) : TR_VL;
        vf sum = vf_zero();
        for (int64_t k = 0; k < n; k++)
            sum += vf_load_as_n(x, (o * n + k) * inner + c, part, bf16);
        vf_store_as_n(call->out[0].data, o * inner + c, sum, part, bf16);
    }
}

TR_INLINE void sum_row(const tr_call *call, int64_t o, int64_t n, bool bf16)
{
    vf sum = vf_zero();
    for (int64_t k = 0; k < n; k += TR_VL)
        sum += vf_load_as_n(call->in[0].data, o * n + k, n - k < TR_VL ? (int)(n - k) : TR_VL, bf16);
    vf_store_as_n(call->out[0].data, o, vf_set1(vf_sum(sum)), 1, bf16);
}

static void run_sum_dim(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int dim = (int)call->attrs[TR_SUM_DIM_DIM].i;
    int64_t n = x->dims[dim], inner = tr_tensor_span(x, dim + 1, x->rank), outer = tr_tensor_span(x, 0, dim);
    bool bf16 = x->dtype == TR_BF16;
#pragma omp parallel for schedule(static) if (bytes_of(x) >= SMALL)
    for (int64_t o = 0; o < outer; o++)
        if (inner == 1)
            bf16 ? sum_row(call, o, n, true) : sum_row(call, o, n, false);
        else
            bf16 ? sum_columns(call, o, n, inner, true) : sum_columns(call, o, n, inner, false);
}

static bool accepts_floats(const tr_call *call)
{
    return call->in[0].dtype == call->out[0].dtype && (call->in[0].dtype == TR_F32 || call->in[0].dtype == TR_BF16);
}

#define ROW(op, accepts)                                       \
    {                                                          \
        TR_OP_##op, TR_ISA_NAME, accepts, NULL, run_##op, NULL \
    }
const tr_kernel TR_KERNELS(arrange)[] = {
    ROW(permute, NULL), ROW(roll, NULL),   ROW(slice, NULL),             ROW(pad, NULL),
    ROW(concat, NULL),  ROW(repeat, NULL), ROW(sum_dim, accepts_floats), {.run = NULL},
};
