/* Fast kernels: linear, linear_dx, linear_dw.
 *
 * Many rows: a matrix product (kernels/matmul.h), with bias and function inside it.
 *
 * Few rows (at most 8; decoding): the weights are read once and that is all the time it takes, so the
 * only aim is that every thread reads long runs of them. With R the number of rows, rounded up to 1, 2,
 * 4 or 8:
 *   w[k,n]: threads split k. A thread adds STREAMS rows of w, each times R numbers, to its own R rows of
 *           n sums, in tiles of n whose sums stay in the first cache.
 *   w[n,k]: threads split n; STREAMS dot products at a time run along k.
 * Then the threads' sums are added in the order of threads, with bias and function. Sums are f32, also
 * for bf16 operands. Scratch: the sums, [threads][R][n] or [R][n]. Rows past the last are row 0 again;
 * their sums are not used.
 */
#include <omp.h>

#include "base/memory.h"
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"
#include "kernels/matmul.h"

enum { MAX_ROWS = 8, STREAMS = 8, TILE_FLOATS = 4096, LINE = 16 };

#if defined(__AVX512BF16__)
static const bool no_bf16_product = false;
#else
static const bool no_bf16_product = true;
#endif

/* Shapes ------------------------------------------------------------------------------------------ */

typedef struct sizes {
    int64_t m, n, k;
    bool transposed, bf16;
} sizes;

static sizes linear_sizes(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    sizes s = {.m = tr_tensor_span(x, 0, x->rank - 1), .k = x->dims[x->rank - 1],
               .transposed = call->attrs[TR_LINEAR_TRANSPOSED].i, .bf16 = x->dtype == TR_BF16};
    s.n = s.k ? tr_tensor_elems(&call->in[1]) / s.k : 0;
    return s;
}

static bool one_dtype(const tr_call *call)
{
    tr_dtype dtype = call->in[0].dtype;
    return (dtype == TR_F32 || dtype == TR_BF16) && call->in[1].dtype == dtype;
}

static bool linear_accepts(const tr_call *call)
{
    sizes s = linear_sizes(call);
    return one_dtype(call) && call->out[0].dtype == call->in[0].dtype &&
           (!tr_has(call, 2) || call->in[2].dtype == TR_F32) && s.m > 0 && s.n > 0 && s.k > 0;
}

/* Few rows ---------------------------------------------------------------------------------------- */

static bool few_accepts(const tr_call *call)
{
    return linear_accepts(call) && linear_sizes(call).m <= MAX_ROWS;
}

static int64_t round_rows(int64_t m)
{
    return m <= 2 ? m : m <= 4 ? 4 : 8;
}

/* Floats from one row of sums to the next. */
static int64_t sums_row(int64_t n)
{
    return (n + LINE - 1) / LINE * LINE;
}

static tr_error *few_prepare(tr_call *call)
{
    sizes s = linear_sizes(call);
    int64_t copies = s.transposed ? 1 : omp_get_max_threads();
    call->scratch_bytes = sizeof(float) * (size_t)(copies * round_rows(s.m) * sums_row(s.n));
    return NULL;
}

TR_INLINE float load1(const void *p, int64_t i, bool bf16)
{
    return bf16 ? tr_bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

/* sums[r][j] += sum over `count` <= STREAMS rows i of x[r][i] * w[i][j], for j in [begin, end). */
TR_INLINE void add_rows(float *sums, int64_t row, float x[][STREAMS], const void *w, int64_t n,
                        int64_t begin, int64_t end, int rows, int count, bool bf16)
{
    int64_t j = begin;
    for (; j + TR_VL <= end; j += TR_VL) {
        vf acc[MAX_ROWS];
        for (int r = 0; r < rows; r++)
            acc[r] = vf_load(sums + r * row + j);
        for (int i = 0; i < count; i++) {
            vf v = vf_load_as(w, i * n + j, bf16);
            for (int r = 0; r < rows; r++)
                acc[r] = vf_fma(v, vf_set1(x[r][i]), acc[r]);
        }
        for (int r = 0; r < rows; r++)
            vf_store(sums + r * row + j, acc[r]);
    }
    if (j < end)
        for (int i = 0; i < count; i++) {
            vf v = vf_load_as_n(w, i * n + j, (int)(end - j), bf16);
            for (int r = 0; r < rows; r++) {
                vf acc = vf_load_n(sums + r * row + j, (int)(end - j));
                vf_store_n(sums + r * row + j, vf_fma(v, vf_set1(x[r][i]), acc), (int)(end - j));
            }
        }
}

/* sums = x[:, first..last) w[first..last, :], w[k,n]. */
TR_INLINE void few_by_k(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                        int64_t last, int rows, bool bf16)
{
    int64_t row = sums_row(s->n), tile = TILE_FLOATS / rows;
    int64_t bytes = bf16 ? 2 : 4;
    memset(sums, 0, sizeof(float) * (size_t)(rows * row));
    for (int64_t begin = 0; begin < s->n; begin += tile) {
        int64_t end = TR_MIN(begin + tile, s->n);
        for (int64_t i = first; i < last; i += STREAMS) {
            int count = (int)TR_MIN(last - i, STREAMS);
            float factors[MAX_ROWS][STREAMS];
            for (int r = 0; r < rows; r++)
                for (int c = 0; c < count; c++)
                    factors[r][c] = load1(x, (r < s->m ? r : 0) * s->k + i + c, bf16);
            const void *from = (const char *)w + i * s->n * bytes;
            if (count == STREAMS)
                add_rows(sums, row, factors, from, s->n, begin, end, rows, STREAMS, bf16);
            else
                add_rows(sums, row, factors, from, s->n, begin, end, rows, count, bf16);
        }
    }
}

/* `count` dot products of rows of w with R rows of x. */
TR_INLINE void dot_rows(const sizes *s, const void *x, const void *w, float *sums, int64_t j, int rows,
                        int count, bool bf16)
{
    int64_t step = bf16 ? 2 * TR_VL : TR_VL, i = 0, row = sums_row(s->n);
    vf acc[MAX_ROWS][STREAMS];
    int64_t x_row[MAX_ROWS];
    for (int r = 0; r < rows; r++) {
        x_row[r] = (r < s->m ? r : 0) * s->k;
        for (int c = 0; c < count; c++)
            acc[r][c] = vf_zero();
    }
    for (; i + step <= s->k; i += step)
        for (int c = 0; c < count; c++) {
            if (bf16) {
                vu a, b;
                memcpy(&a, (const uint16_t *)w + (j + c) * s->k + i, sizeof a);
                for (int r = 0; r < rows; r++) {
                    memcpy(&b, (const uint16_t *)x + x_row[r] + i, sizeof b);
                    acc[r][c] = vf_dot_bf16(acc[r][c], a, b);
                }
            } else {
                vf a = vf_load((const float *)w + (j + c) * s->k + i);
                for (int r = 0; r < rows; r++)
                    acc[r][c] = vf_fma(a, vf_load((const float *)x + x_row[r] + i), acc[r][c]);
            }
        }
    for (; i < s->k; i += TR_VL) {
        int left = (int)TR_MIN(s->k - i, TR_VL);
        for (int c = 0; c < count; c++) {
            vf a = vf_load_as_n(w, (j + c) * s->k + i, left, bf16);
            for (int r = 0; r < rows; r++)
                acc[r][c] = vf_fma(a, vf_load_as_n(x, x_row[r] + i, left, bf16), acc[r][c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < count; c++)
            sums[r * row + j + c] = vf_sum(acc[r][c]);
}

/* sums[:, first..last) = x w^T, w[n,k]. */
TR_INLINE void few_by_n(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                        int64_t last, int rows, bool bf16)
{
    const int streams = rows >= 8 ? 2 : rows >= 4 ? 4 : STREAMS;
    int64_t j = first;
    for (; j + streams <= last; j += streams)
        dot_rows(s, x, w, sums, j, rows, streams, bf16);
    for (; j < last; j++)
        dot_rows(s, x, w, sums, j, rows, 1, bf16);
}

#define FOR_ROWS(rows, call)  \
    switch (rows) {           \
    case 1: call(1); break;   \
    case 2: call(2); break;   \
    case 4: call(4); break;   \
    default: call(8); break;  \
    }

static void few_f32(const sizes *s, const void *x, const void *w, float *sums, int64_t first, int64_t last)
{
#define BY_N(rows) few_by_n(s, x, w, sums, first, last, rows, false)
#define BY_K(rows) few_by_k(s, x, w, sums, first, last, rows, false)
    if (s->transposed)
        FOR_ROWS(round_rows(s->m), BY_N)
    else
        FOR_ROWS(round_rows(s->m), BY_K)
#undef BY_N
#undef BY_K
}

static void few_bf16(const sizes *s, const void *x, const void *w, float *sums, int64_t first, int64_t last)
{
#define BY_N(rows) few_by_n(s, x, w, sums, first, last, rows, true)
#define BY_K(rows) few_by_k(s, x, w, sums, first, last, rows, true)
    if (s->transposed)
        FOR_ROWS(round_rows(s->m), BY_N)
    else
        FOR_ROWS(round_rows(s->m), BY_K)
#undef BY_N
#undef BY_K
}

/* y[:, first..last) from the sums of all threads; `first` is a multiple of LINE. */
static void few_finish(const tr_call *call, const sizes *s, int copies, int64_t first, int64_t last)
{
    int64_t row = sums_row(s->n), copy = round_rows(s->m) * row;
    const float *bias = tr_has(call, 2) ? call->in[2].data : NULL;
    tr_fn fn = (tr_fn)call->attrs[TR_LINEAR_FN].i;
    for (int64_t r = 0; r < s->m; r++)
        for (int64_t j = first; j < last; j += TR_VL) {
            int count = (int)TR_MIN(last - j, TR_VL);
            const float *sums = (const float *)call->scratch + r * row + j;
            vf sum = bias ? vf_load_n(bias + j, count) : vf_zero();
            for (int c = 0; c < copies; c++)
                sum += vf_load_n(sums + c * copy, count);
            vf_store_as_n(call->out[0].data, r * s->n + j, vf_activate(sum, fn), count, s->bf16);
        }
}

/* Part `part` of `parts` of count, in whole units. */
static int64_t cut(int64_t count, int64_t unit, int part, int parts)
{
    int64_t units = (count + unit - 1) / unit;
    return TR_MIN(units * part / parts * unit, count);
}

static void few_run(const tr_call *call)
{
    sizes s = linear_sizes(call);
    const void *x = call->in[0].data, *w = call->in[1].data;
    float *sums = call->scratch;
#pragma omp parallel
    {
        int self = omp_get_thread_num(), threads = omp_get_num_threads();
        int64_t along = s.transposed ? s.n : s.k;
        int64_t unit = s.transposed ? LINE : STREAMS;
        int64_t first = cut(along, unit, self, threads), last = cut(along, unit, self + 1, threads);
        float *mine = s.transposed ? sums : sums + self * round_rows(s.m) * sums_row(s.n);
        (s.bf16 ? few_bf16 : few_f32)(&s, x, w, mine, first, last);
#pragma omp barrier
        few_finish(call, &s, s.transposed ? 1 : threads, cut(s.n, LINE, self, threads),
                   cut(s.n, LINE, self + 1, threads));
    }
}

/* Many rows --------------------------------------------------------------------------------------- */

static tr_error *prepare(tr_call *call, tr_matmul_spec spec)
{
    tr_matmul *product;
    spec.dtype = call->in[0].dtype;
    spec.out = call->out[0].dtype;
    spec.widen = spec.dtype == TR_BF16 && no_bf16_product;
    TR_TRY(tr_matmul_new(&spec, &product));
    call->state = product;
    call->scratch_bytes = tr_matmul_scratch_bytes(product);
    return NULL;
}

static void release(tr_call *call)
{
    tr_matmul_free(call->state);
    call->state = NULL;
}

static tr_error *linear_prepare(tr_call *call)
{
    sizes s = linear_sizes(call);
    return prepare(call, (tr_matmul_spec){.m = s.m, .n = s.n, .k = s.k, .b_transposed = s.transposed,
                                          .bias = tr_has(call, 2),
                                          .fn = (tr_fn)call->attrs[TR_LINEAR_FN].i});
}

static void linear_run(const tr_call *call)
{
    tr_matmul_run(call->state, call->in[0].data, call->in[1].data,
                  tr_has(call, 2) ? call->in[2].data : NULL, call->out[0].data, call->scratch);
}

/* The buffer that the product is added to is the output's own; where it is not, it is made so. */
static void take_acc(const tr_call *call)
{
    if (tr_has(call, 2) && call->in[2].data != call->out[0].data)
        memcpy(call->out[0].data, call->in[2].data,
               (size_t)(tr_tensor_elems(&call->out[0]) * tr_dtype_bytes(call->out[0].dtype)));
}

static sizes dx_sizes(const tr_call *call)
{
    const tr_tensor *dx = &call->out[0];
    sizes s = {.m = tr_tensor_span(dx, 0, dx->rank - 1), .k = dx->dims[dx->rank - 1],
               .transposed = call->attrs[TR_LINEAR_TRANSPOSED].i};
    s.n = s.k ? tr_tensor_elems(&call->in[1]) / s.k : 0;
    return s;
}

static bool dx_accepts(const tr_call *call)
{
    sizes s = dx_sizes(call);
    return one_dtype(call) && call->out[0].dtype == call->in[0].dtype && s.m > 0 && s.n > 0 && s.k > 0;
}

static tr_error *dx_prepare(tr_call *call)
{
    sizes s = dx_sizes(call);
    return prepare(call, (tr_matmul_spec){.m = s.m, .n = s.k, .k = s.n, .b_transposed = !s.transposed,
                                          .accumulate = tr_has(call, 2)});
}

static void dx_run(const tr_call *call)
{
    take_acc(call);
    tr_matmul_run(call->state, call->in[0].data, call->in[1].data, NULL, call->out[0].data, call->scratch);
}

static sizes dw_sizes(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int split = (int)call->attrs[TR_LINEAR_DW_SPLIT].i;
    sizes s = {.m = tr_tensor_span(x, 0, split), .k = tr_tensor_span(x, split, x->rank),
               .transposed = call->attrs[TR_LINEAR_DW_TRANSPOSED].i};
    s.n = s.m ? tr_tensor_elems(&call->in[1]) / s.m : 0;
    return s;
}

static bool dw_accepts(const tr_call *call)
{
    sizes s = dw_sizes(call);
    tr_dtype out = call->out[0].dtype;
    return one_dtype(call) && (out == TR_F32 || out == call->in[0].dtype) && s.m > 0 && s.n > 0 && s.k > 0;
}

static tr_error *dw_prepare(tr_call *call)
{
    sizes s = dw_sizes(call);
    return prepare(call, (tr_matmul_spec){.m = s.transposed ? s.n : s.k, .n = s.transposed ? s.k : s.n,
                                          .k = s.m, .a_transposed = true,
                                          .accumulate = tr_has(call, 2)});
}

static void dw_run(const tr_call *call)
{
    bool transposed = call->attrs[TR_LINEAR_DW_TRANSPOSED].i;
    take_acc(call);
    tr_matmul_run(call->state, call->in[transposed].data, call->in[!transposed].data, NULL,
                  call->out[0].data, call->scratch);
}

const tr_kernel TR_KERNELS(linear)[] = {
    {TR_OP_linear, TR_ISA_NAME, few_accepts, few_prepare, few_run, NULL},
    {TR_OP_linear, TR_ISA_NAME "+onednn", linear_accepts, linear_prepare, linear_run, release},
    {TR_OP_linear_dx, TR_ISA_NAME "+onednn", dx_accepts, dx_prepare, dx_run, release},
    {TR_OP_linear_dw, TR_ISA_NAME "+onednn", dw_accepts, dw_prepare, dw_run, release},
    {0},
};
