/* sum_leading and global_norm: each input is read once, in order.
 *
 * sum_leading, [rows, columns] -> [columns]: cut into chunks of rows by blocks of columns. A chunk
 * adds eight rows at a time (a tree in registers) to its block of a row of sums, which stays in the
 * first-level cache; the rows of sums, in scratch, are then added in order. Few rows need one chunk
 * and no scratch. Scratch: chunks * columns floats, at most MAX_CHUNKS rows and never more than a
 * 32nd of the input.
 *
 * global_norm: sums of squares in float over PART elements, in double over the parts of a block of
 * BLOCK and over the blocks, in order. Scratch: a double for each block.
 *
 * All cuts depend on shapes alone, so that results do not depend on the thread count either. */
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

enum { ROWS = 8, MAX_CHUNKS = 64, CHUNK_ROWS = 32, COLUMNS = 4096 };
enum { BLOCK = 32 * 1024, PART = 2048 };
enum { SMALL = 16 * 1024 };

static bool is_float(const tr_tensor *t)
{
    return t->dtype == TR_F32 || t->dtype == TR_BF16;
}

/* sum_leading --------------------------------------------------------------------------- */

typedef struct sum_shape {
    int64_t rows, columns, blocks, chunks;
} sum_shape;

static sum_shape sum_shape_of(const tr_call *call)
{
    sum_shape s = {.columns = tr_tensor_elems(&call->out[0])};
    s.rows = s.columns ? tr_tensor_elems(&call->in[0]) / s.columns : 0;
    s.blocks = (s.columns + COLUMNS - 1) / COLUMNS;
    s.chunks = s.rows / CHUNK_ROWS;
    int64_t enough = s.blocks ? (MAX_CHUNKS + s.blocks - 1) / s.blocks : 1;
    s.chunks = s.chunks > enough ? enough : s.chunks < 1 ? 1 : s.chunks;
    return s;
}

static bool accepts_sum(const tr_call *call)
{
    return is_float(&call->in[0]) && call->out[0].dtype == TR_F32 &&
           (!tr_has(call, 1) || (call->in[1].dtype == TR_F32));
}

static tr_error *prepare_sum(tr_call *call)
{
    sum_shape s = sum_shape_of(call);
    call->scratch_bytes = s.chunks > 1 ? (size_t)(s.chunks * s.columns) * sizeof(float) : 0;
    return NULL;
}

/* One vector of sums over n <= 8 rows that are `stride` apart; `part` lanes of it. */
TR_INLINE vf sum_rows(const void *x, int64_t at, int64_t stride, int64_t n, int part, bool bf16)
{
    vf v[ROWS];
    for (int r = 0; r < ROWS; r++)
        v[r] = r >= n          ? vf_zero()
               : part == TR_VL ? vf_load_as(x, at + r * stride, bf16)
                               : vf_load_as_n(x, at + r * stride, part, bf16);
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/* sums[first .. last) (+)= rows [r0, r0 + n) */
TR_INLINE void add_rows(const void *x, float *sums, int64_t columns, int64_t first, int64_t last,
                        int64_t r0, int64_t n, bool fresh, bool bf16)
{
    int64_t c = first;
    for (; c + TR_VL <= last; c += TR_VL) {
        vf sum = sum_rows(x, r0 * columns + c, columns, n, TR_VL, bf16);
        vf_store(sums + c, fresh ? sum : vf_load(sums + c) + sum);
    }
    if (c < last) {
        int part = (int)(last - c);
        vf sum = sum_rows(x, r0 * columns + c, columns, n, part, bf16);
        vf_store_n(sums + c, fresh ? sum : vf_load_n(sums + c, part) + sum, part);
    }
}

TR_INLINE void sum_task(const void *x, float *sums, const sum_shape *s, int64_t chunk,
                        int64_t block, bool fresh, bool bf16)
{
    int64_t r = s->rows * chunk / s->chunks, r_end = s->rows * (chunk + 1) / s->chunks;
    int64_t first = block * COLUMNS,
            last = first + COLUMNS < s->columns ? first + COLUMNS : s->columns;
    for (; r + ROWS <= r_end; r += ROWS, fresh = false)
        add_rows(x, sums, s->columns, first, last, r, ROWS, fresh, bf16);
    if (r < r_end || fresh)
        add_rows(x, sums, s->columns, first, last, r, r_end - r, fresh, bf16);
}

static void sum_task_f32(const void *x, float *sums, const sum_shape *s, int64_t chunk,
                         int64_t block, bool fresh)
{
    sum_task(x, sums, s, chunk, block, fresh, false);
}

static void sum_task_bf16(const void *x, float *sums, const sum_shape *s, int64_t chunk,
                          int64_t block, bool fresh)
{
    sum_task(x, sums, s, chunk, block, fresh, true);
}

static void run_sum_leading(const tr_call *call)
{
    const sum_shape s = sum_shape_of(call);
    const void *x = call->in[0].data;
    float *y = call->out[0].data, *partial = s.chunks > 1 ? call->scratch : y;
    bool bf16 = call->in[0].dtype == TR_BF16, fresh = s.chunks > 1 || !tr_has(call, 1);
    int64_t tasks = s.chunks * s.blocks;
    bool small = s.rows * s.columns < SMALL;
#pragma omp parallel for schedule(static) if (!small)
    for (int64_t t = 0; t < tasks; t++) {
        int64_t chunk = t / s.blocks, block = t % s.blocks;
        (bf16 ? sum_task_bf16 : sum_task_f32)(x, partial + chunk * s.columns, &s, chunk, block,
                                              fresh);
    }
    if (s.chunks == 1)
        return;
    bool accumulates = tr_has(call, 1);
    int64_t vectors = (s.columns + TR_VL - 1) / TR_VL;
#pragma omp parallel for schedule(static) if (!small)
    for (int64_t v = 0; v < vectors; v++) {
        int64_t c = v * TR_VL;
        int part = s.columns - c < TR_VL ? (int)(s.columns - c) : TR_VL;
        vf sum = vf_load_n(partial + c, part);
        for (int64_t k = 1; k < s.chunks; k++)
            sum += vf_load_n(partial + k * s.columns + c, part);
        vf_store_n(y + c, accumulates ? vf_load_n(y + c, part) + sum : sum, part);
    }
}

/* global_norm --------------------------------------------------------------------------- */

static int64_t blocks_of(const tr_tensor *t)
{
    return t->rank < 0 ? 0 : (tr_tensor_elems(t) + BLOCK - 1) / BLOCK;
}

static bool accepts_norm(const tr_call *call)
{
    for (int k = 0; k < call->n_in; k++)
        if (tr_has(call, k) && !is_float(&call->in[k]))
            return false;
    return call->out[0].dtype == TR_F32;
}

static tr_error *prepare_norm(tr_call *call)
{
    int64_t blocks = 0;
    for (int k = 0; k < call->n_in; k++)
        blocks += blocks_of(&call->in[k]);
    call->scratch_bytes = (size_t)blocks * sizeof(double);
    return NULL;
}

TR_INLINE float squares_in_float(const void *x, int64_t i, int64_t last, bool bf16)
{
    vf sum[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    for (; i + 4 * TR_VL <= last; i += 4 * TR_VL)
        for (int k = 0; k < 4; k++) {
            vf v = vf_load_as(x, i + k * TR_VL, bf16);
            sum[k] = vf_fma(v, v, sum[k]);
        }
    for (; i < last; i += TR_VL) {
        vf v = vf_load_as_n(x, i, last - i < TR_VL ? (int)(last - i) : TR_VL, bf16);
        sum[0] = vf_fma(v, v, sum[0]);
    }
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

TR_INLINE double squares(const void *x, int64_t first, int64_t last, bool bf16)
{
    double sum = 0;
    for (int64_t i = first; i < last; i += PART)
        sum += (double)squares_in_float(x, i, i + PART < last ? i + PART : last, bf16);
    return sum;
}

static double squares_f32(const void *x, int64_t first, int64_t last)
{
    return squares(x, first, last, false);
}

static double squares_bf16(const void *x, int64_t first, int64_t last)
{
    return squares(x, first, last, true);
}

static void run_global_norm(const tr_call *call)
{
    double *partial = call->scratch;
    int64_t all = 0;
#pragma omp parallel
    {
        /* Every thread counts for itself; the loops below need no barrier between them. */
        int64_t at = 0;
        for (int k = 0; k < call->n_in; k++) {
            const tr_tensor *t = &call->in[k];
            int64_t n = t->rank < 0 ? 0 : tr_tensor_elems(t), blocks = blocks_of(t);
#pragma omp for schedule(static) nowait
            for (int64_t b = 0; b < blocks; b++) {
                int64_t first = b * BLOCK, last = first + BLOCK < n ? first + BLOCK : n;
                partial[at + b] =
                    (t->dtype == TR_BF16 ? squares_bf16 : squares_f32)(t->data, first, last);
            }
            at += blocks;
        }
#pragma omp master
        all = at;
    }
    double sum = 0;
    for (int64_t b = 0; b < all; b++)
        sum += partial[b];
    *(float *)call->out[0].data = (float)sum;
}

const tr_kernel TR_KERNELS(reduce)[] = {
    {TR_OP_sum_leading, TR_ISA_NAME, accepts_sum, prepare_sum, run_sum_leading, NULL},
    {TR_OP_global_norm, TR_ISA_NAME, accepts_norm, prepare_norm, run_global_norm, NULL},
    {.run = NULL},
};
