/* Fast kernels: linear, linear_dx, linear_dw.
 *
 * Many rows: a matrix product (kernels/matmul.h), with bias and function inside it.
 *
 * Few rows (at most 4; decoding): the weights are read once and that is all the time it takes, so
 * the only aim is that every thread reads long runs of them. R is the number of rows rounded up to
 * 1, 2 or 4; rows past the last are row 0 again, and their sums are not used.
 *
 * - w[k,n]: threads split k. A thread adds STREAMS rows of w, each times R numbers, to its own R
 * rows of n sums.
 * - w[n,k]: threads split n. One row of w after the other is multiplied with R rows of x.
 *
 * Then the threads' sums are added in the order of threads, with bias and function. Sums are f32,
 * also for bf16 operands. Scratch: the sums, [threads][R][n] or [R][n].
 *
 * From 5 rows on oneDNN measured faster. What is read next is fetched by software, into the second cache: of w[n,k] 16 KB
 * ahead, of w[k,n] the next STREAMS rows. GPT-2's products with one row, all its weights, two cores of an Emerald Rapids,
 * against a read loop without fetching (the loop itself gains 5 % in f32 and 10 % in bf16 by it), medians of 25 to 60:
 *
 *                  no fetching   8 or 2 KB ahead, first cache   as here
 *   w[n,k]  f32    0.99          1.00                           1.01
 *           bf16   0.70          0.91                           0.99
 *   w[k,n]  f32    1.00          0.99                           1.06
 *           bf16   0.78          0.95                           1.03
 *
 * 4, 12 or 16 streams, tall tiles, or columns of 16 packed for one stream did not help.
 */
#include <omp.h>

#include "base/memory.h"
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"
#include "kernels/matmul.h"

/* How far ahead in one row after the other weights are fetched, in bytes; of rows side by side, the next ones. */
enum { AHEAD = 16384 };
enum { MAX_ROWS = 4, STREAMS = 8, RUN = 4, TILE = 4096, LINE = 16 };
/* Loops over registers must not stay loops. */
#define UNROLL _Pragma("GCC unroll 8")

#if defined(__AMX_BF16__)
static const bool on_tiles = true;
#else
static const bool on_tiles = false;
#endif
#if defined(__AVX512BF16__)
static const bool no_bf16_product = false;
#else
static const bool no_bf16_product = true;
#endif

/* Shapes ------------------------------------------------------------------------------------------
 */

typedef struct sizes {
    int64_t m, n, k;
    bool transposed, bf16;
} sizes;

static sizes linear_sizes(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    sizes s = {.m = tr_tensor_span(x, 0, x->rank - 1),
               .k = x->dims[x->rank - 1],
               .transposed = call->attrs[TR_LINEAR_TRANSPOSED].i,
               .bf16 = x->dtype == TR_BF16};
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

/* Few rows ----------------------------------------------------------------------------------------
 */

static bool few_accepts(const tr_call *call)
{
    return linear_accepts(call) && linear_sizes(call).m <= MAX_ROWS;
}

static int64_t round_rows(int64_t m)
{
    return m <= 2 ? m : 4;
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

/* What a step along a row of w takes: a vector of f32, or a vector of bf16 pairs. */
TR_INLINE int step_of(bool bf16)
{
    return bf16 ? 2 * TR_VL : TR_VL;
}

/* bf16 numbers come in pairs; the even ones are widened by a shift, the odd ones by a mask. Cheaper
 * than widening in order; sums of a step then have the even columns first, which few_finish undoes.
 */
TR_INLINE void load_step(const void *p, int64_t i, bool bf16, vf out[2])
{
    if (bf16) {
        vu pairs;
        memcpy(&pairs, (const uint16_t *)p + i, sizeof pairs);
        out[0] = (vf)(pairs << 16);
        out[1] = (vf)(pairs & 0xffff0000u);
    } else {
        out[0] = vf_load((const float *)p + i);
    }
}

/* Into the second cache: the first is too small for what is on its way. */
TR_INLINE void fetch(const void *from)
{
    __builtin_prefetch(from, 0, 2);
}

/* sums[r][j] += sum over STREAMS rows i of x[r][i] * w[i][j], for j in [begin, end). next: bytes to the rows that come
 * after these. */
TR_INLINE void add_rows(float *sums, int64_t row, vf x[][STREAMS], const void *const w[STREAMS],
                        int64_t begin, int64_t end, int64_t next, int rows, bool bf16)
{
    const int step = step_of(bf16), halves = bf16 ? 2 : 1;
    int64_t j = begin;
    for (; j + step <= end; j += step) {
        vf acc[MAX_ROWS][2];
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int h = 0; h < halves; h++)
                acc[r][h] = vf_load(sums + r * row + j + h * TR_VL);
        }
        UNROLL
        for (int i = 0; i < STREAMS; i++) {
            vf v[2];
            fetch((const char *)w[i] + j * (bf16 ? 2 : 4) + next);
            load_step(w[i], j, bf16, v);
            UNROLL
            for (int r = 0; r < rows; r++) {
                UNROLL
                for (int h = 0; h < halves; h++)
                    acc[r][h] = vf_fma(v[h], x[r][i], acc[r][h]);
            }
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int h = 0; h < halves; h++)
                vf_store(sums + r * row + j + h * TR_VL, acc[r][h]);
        }
    }
    for (; j < end; j += TR_VL) {
        int left = (int)TR_MIN(end - j, TR_VL);
        for (int i = 0; i < STREAMS; i++) {
            vf v = vf_load_as_n(w[i], j, left, bf16);
            for (int r = 0; r < rows; r++)
                vf_store_n(sums + r * row + j,
                           vf_fma(v, x[r][i], vf_load_n(sums + r * row + j, left)), left);
        }
    }
}

/* sums = x[:, first..last) w[first..last, :], w[k,n]. */
TR_INLINE void few_by_k(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                        int64_t last, int rows, bool bf16)
{
    int64_t row = sums_row(s->n);
    memset(sums, 0, sizeof(float) * (size_t)(rows * row));
    for (int64_t begin = 0; begin < s->n; begin += TILE)
        for (int64_t i = first; i < last; i += STREAMS) {
            vf factors[MAX_ROWS][STREAMS];
            const void *from[STREAMS];
            for (int c = 0; c < STREAMS; c++) {
                int64_t l = TR_MIN(i + c, last - 1); /* past the last: the last, times 0 */
                from[c] = (const char *)w + l * s->n * (bf16 ? 2 : 4);
                for (int r = 0; r < rows; r++)
                    factors[r][c] =
                        vf_set1(i + c < last ? load1(x, (r < s->m ? r : 0) * s->k + l, bf16) : 0);
            }
            add_rows(sums, row, factors, from, begin, TR_MIN(begin + TILE, s->n), STREAMS * s->n * (bf16 ? 2 : 4), rows, bf16);
        }
}

/* sums[:, j] = x w[j]^T: one row of w with R rows of x. RUN vectors at a time along k, each with
 * its own sums, so that they do not wait for each other. */
TR_INLINE void dot_row(const sizes *s, const void *x, const void *w, float *sums, int64_t j,
                       int rows, bool bf16)
{
    const int step = step_of(bf16), bytes = bf16 ? 2 : 4;
    int64_t i = 0;
    const char *a_row = (const char *)w + j * s->k * bytes, *b_row[MAX_ROWS];
    vf acc[MAX_ROWS][RUN];
    UNROLL
    for (int r = 0; r < rows; r++) {
        b_row[r] = (const char *)x + (r < s->m ? r : 0) * s->k * bytes;
        UNROLL
        for (int u = 0; u < RUN; u++)
            acc[r][u] = vf_zero();
    }
    for (; i + RUN * step <= s->k; i += RUN * step) {
        UNROLL
        for (int u = 0; u < RUN; u++) {
            vf a, b; /* for bf16: pairs */
            fetch(a_row + (i + u * step) * bytes + AHEAD);
            memcpy(&a, a_row + (i + u * step) * bytes, sizeof a);
            UNROLL
            for (int r = 0; r < rows; r++) {
                memcpy(&b, b_row[r] + (i + u * step) * bytes, sizeof b);
                acc[r][u] = bf16 ? vf_dot_bf16(acc[r][u], (vu)a, (vu)b) : vf_fma(a, b, acc[r][u]);
            }
        }
    }
    for (; i < s->k; i += TR_VL) {
        int left = (int)TR_MIN(s->k - i, TR_VL);
        vf a = vf_load_as_n(a_row, i, left, bf16);
        UNROLL
        for (int r = 0; r < rows; r++)
            acc[r][0] = vf_fma(a, vf_load_as_n(b_row[r], i, left, bf16), acc[r][0]);
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        sums[r * sums_row(s->n) + j] = vf_sum((acc[r][0] + acc[r][1]) + (acc[r][2] + acc[r][3]));
}

/* sums[:, first..last) = x w^T, w[n,k]. */
TR_INLINE void few_by_n(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                        int64_t last, int rows, bool bf16)
{
    for (int64_t j = first; j < last; j++)
        dot_row(s, x, w, sums, j, rows, bf16);
}

#define FOR_ROWS(rows, call) \
    switch (rows) {          \
    case 1:                  \
        call(1);             \
        break;               \
    case 2:                  \
        call(2);             \
        break;               \
    default:                 \
        call(4);             \
        break;               \
    }

static void few_f32(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                    int64_t last)
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

static void few_bf16(const sizes *s, const void *x, const void *w, float *sums, int64_t first,
                     int64_t last)
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

/* One vector of y at column j, from the sums of all threads in the order they have there. */
TR_INLINE vf total(const float *sums, int64_t copy, int copies, int count)
{
    vf sum = vf_load_n(sums, count);
    for (int c = 1; c < copies; c++)
        sum += vf_load_n(sums + c * copy, count);
    return sum;
}

/* y[:, first..last) from the sums of all threads; `first` is a multiple of a step. `paired`: whole
 * steps have their even columns first. */
static void few_finish(const tr_call *call, const sizes *s, int copies, bool paired, int64_t first,
                       int64_t last)
{
    int64_t row = sums_row(s->n), copy = round_rows(s->m) * row;
    const float *bias = tr_has(call, 2) ? call->in[2].data : NULL;
    tr_fn fn = (tr_fn)call->attrs[TR_LINEAR_FN].i;
    for (int64_t r = 0; r < s->m; r++)
        for (int64_t j = first; j < last; j += 2 * TR_VL) {
            float ordered[2 * TR_VL];
            const float *sums = (const float *)call->scratch + r * row + j;
            int64_t left = last - j;
            vf_store(ordered, total(sums, copy, copies, (int)TR_MIN(left, TR_VL)));
            if (left > TR_VL)
                vf_store(ordered + TR_VL,
                         total(sums + TR_VL, copy, copies, (int)TR_MIN(left - TR_VL, TR_VL)));
            if (paired && left >= 2 * TR_VL) {
                float even_first[2 * TR_VL];
                memcpy(even_first, ordered, sizeof ordered);
                for (int i = 0; i < TR_VL; i++) {
                    ordered[2 * i] = even_first[i];
                    ordered[2 * i + 1] = even_first[TR_VL + i];
                }
            }
            for (int64_t i = 0; i < TR_MIN(left, 2 * TR_VL); i += TR_VL) {
                int count = (int)TR_MIN(left - i, TR_VL);
                vf sum = vf_load_n(ordered + i, count);
                if (bias)
                    sum += vf_load_n(bias + j + i, count);
                vf_store_as_n(call->out[0].data, r * s->n + j + i, vf_activate(sum, fn, s->bf16),
                              count, s->bf16);
            }
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
        few_finish(call, &s, s.transposed ? 1 : threads, s.bf16 && !s.transposed,
                   cut(s.n, 2 * TR_VL, self, threads), cut(s.n, 2 * TR_VL, self + 1, threads));
    }
}

/* Many rows ---------------------------------------------------------------------------------------
 */

static tr_error *prepare(tr_call *call, tr_matmul_spec spec)
{
    tr_matmul *product;
    spec.dtype = call->in[0].dtype;
    spec.out = call->out[0].dtype;
    spec.widen = spec.dtype == TR_BF16 && no_bf16_product;
    spec.tiles = on_tiles;
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
    return prepare(call, (tr_matmul_spec){.m = s.m,
                                          .n = s.n,
                                          .k = s.k,
                                          .b_transposed = s.transposed,
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
    sizes s = {.m = tr_tensor_span(dx, 0, dx->rank - 1),
               .k = dx->dims[dx->rank - 1],
               .transposed = call->attrs[TR_LINEAR_TRANSPOSED].i};
    s.n = s.k ? tr_tensor_elems(&call->in[1]) / s.k : 0;
    return s;
}

static bool dx_accepts(const tr_call *call)
{
    sizes s = dx_sizes(call);
    return one_dtype(call) && call->out[0].dtype == call->in[0].dtype && s.m > 0 && s.n > 0 &&
           s.k > 0;
}

static tr_error *dx_prepare(tr_call *call)
{
    sizes s = dx_sizes(call);
    return prepare(call, (tr_matmul_spec){.m = s.m,
                                          .n = s.k,
                                          .k = s.n,
                                          .b_transposed = !s.transposed,
                                          .accumulate = tr_has(call, 2)});
}

static void dx_run(const tr_call *call)
{
    take_acc(call);
    tr_matmul_run(call->state, call->in[0].data, call->in[1].data, NULL, call->out[0].data,
                  call->scratch);
}

static sizes dw_sizes(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int split = (int)call->attrs[TR_LINEAR_DW_SPLIT].i;
    sizes s = {.m = tr_tensor_span(x, 0, split),
               .k = tr_tensor_span(x, split, x->rank),
               .transposed = call->attrs[TR_LINEAR_DW_TRANSPOSED].i};
    s.n = s.m ? tr_tensor_elems(&call->in[1]) / s.m : 0;
    return s;
}

static bool dw_accepts(const tr_call *call)
{
    sizes s = dw_sizes(call);
    tr_dtype out = call->out[0].dtype;
    return one_dtype(call) && (out == TR_F32 || out == call->in[0].dtype) && s.m > 0 && s.n > 0 &&
           s.k > 0;
}

static tr_error *dw_prepare(tr_call *call)
{
    sizes s = dw_sizes(call);
    return prepare(call, (tr_matmul_spec){.m = s.transposed ? s.n : s.k,
                                          .n = s.transposed ? s.k : s.n,
                                          .k = s.m,
                                          .a_transposed = true,
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
