/* Elementwise ops, at the speed of memory.
 *
 * A call is cut into one range of elements a thread; a range function walks its range in whole
 * vectors and ends with a part of one. Each range function exists once for each dtype, made by
 * inlining a body with constants; nothing is decided inside the loops. Elements do not depend on
 * each other, so that where the cuts fall changes no bit. Outputs may be the buffer of in[0].
 *
 * Calls below SMALL elements run on one thread: waking the others costs more than it saves. */
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { SMALL = 16 * 1024, LINE = 64 /* elements; so that no two threads write one cache line */ };

typedef void (*range_fn)(const tr_call *call, int64_t first, int64_t last);

static void in_ranges(const tr_call *call, int64_t n, range_fn body)
{
    if (n == 0)
        return;
    if (n < SMALL) {
        body(call, 0, n);
        return;
    }
#pragma omp parallel
    {
        int64_t lines = (n + LINE - 1) / LINE, threads = omp_get_num_threads(),
                t = omp_get_thread_num();
        int64_t first = lines * t / threads * LINE, last = lines * (t + 1) / threads * LINE;
        if (first < n)
            body(call, first, last < n ? last : n);
    }
}

static bool float_dtype(tr_dtype dtype)
{
    return dtype == TR_F32 || dtype == TR_BF16;
}

static bool accepts_one_dtype(const tr_call *call)
{
    for (int k = 0; k < call->n_in; k++)
        if (call->in[k].dtype != call->out[0].dtype)
            return false;
    return float_dtype(call->out[0].dtype);
}

/* What b's dtype is does not matter. */
static bool accepts_binary(const tr_call *call)
{
    return call->in[0].dtype == call->out[0].dtype && float_dtype(call->out[0].dtype) &&
           float_dtype(call->in[1].dtype);
}

static bool accepts_expand(const tr_call *call)
{
    return float_dtype(call->in[0].dtype) && float_dtype(call->out[0].dtype);
}

static bool is_bf16(const tr_tensor *t)
{
    return t->dtype == TR_BF16;
}

/* add, mul, activate_grad --------------------------------------------------------------- */

typedef enum binary_kind { ADD, MUL, SLOPE } binary_kind;

TR_INLINE vf combine(vf a, vf b, binary_kind kind, tr_fn fn, bool bf16)
{
    return kind == ADD ? a + b : kind == MUL ? a * b : a * vf_activate_slope(b, fn, bf16);
}

/* n elements: c[i] = a[i] op b[i], from index at_a of a and c, at_b of b. */
TR_INLINE void binary_run(const tr_call *call, int64_t at_a, int64_t at_b, int64_t n,
                          binary_kind kind, tr_fn fn, bool a_bf16, bool b_bf16)
{
    const void *a = call->in[0].data, *b = call->in[1].data;
    void *c = call->out[0].data;
    int64_t i = 0;
    for (; i + 2 * TR_VL <= n; i += 2 * TR_VL) {
        vf y0 = combine(vf_load_as(a, at_a + i, a_bf16), vf_load_as(b, at_b + i, b_bf16), kind, fn, b_bf16);
        vf y1 = combine(vf_load_as(a, at_a + i + TR_VL, a_bf16),
                        vf_load_as(b, at_b + i + TR_VL, b_bf16), kind, fn, b_bf16);
        vf_store_as(c, at_a + i, y0, a_bf16);
        vf_store_as(c, at_a + i + TR_VL, y1, a_bf16);
    }
    for (; i < n; i += TR_VL) {
        int part = n - i < TR_VL ? (int)(n - i) : TR_VL;
        vf y = combine(vf_load_as_n(a, at_a + i, part, a_bf16),
                       vf_load_as_n(b, at_b + i, part, b_bf16), kind, fn, b_bf16);
        vf_store_as_n(c, at_a + i, y, part, a_bf16);
    }
}

/* b is repeated over a. */
TR_INLINE void repeat_range(const tr_call *call, int64_t first, int64_t last, binary_kind kind, bool a_bf16,
                            bool b_bf16)
{
    int64_t repeat = tr_tensor_elems(&call->in[1]);
    for (int64_t i = first; i < last;) {
        int64_t at_b = i % repeat, n = repeat - at_b < last - i ? repeat - at_b : last - i;
        binary_run(call, i, at_b, n, kind, TR_FN_none, a_bf16, b_bf16);
        i += n;
    }
}

TR_INLINE void add_range(const tr_call *call, int64_t first, int64_t last, bool a_bf16, bool b_bf16)
{
    repeat_range(call, first, last, ADD, a_bf16, b_bf16);
}

TR_INLINE void mul_range(const tr_call *call, int64_t first, int64_t last, bool a_bf16, bool b_bf16)
{
    repeat_range(call, first, last, MUL, a_bf16, b_bf16);
}

/* name_00 .. name_11: the dtypes of two tensors, 1 is bf16. */
#define FOR_TWO_DTYPES(name)                                                                   \
    static void name##_00(const tr_call *call, int64_t first, int64_t last)                    \
    {                                                                                          \
        name##_range(call, first, last, false, false);                                         \
    }                                                                                          \
    static void name##_01(const tr_call *call, int64_t first, int64_t last)                    \
    {                                                                                          \
        name##_range(call, first, last, false, true);                                          \
    }                                                                                          \
    static void name##_10(const tr_call *call, int64_t first, int64_t last)                    \
    {                                                                                          \
        name##_range(call, first, last, true, false);                                          \
    }                                                                                          \
    static void name##_11(const tr_call *call, int64_t first, int64_t last)                    \
    {                                                                                          \
        name##_range(call, first, last, true, true);                                           \
    }                                                                                          \
    static range_fn name##_for(const tr_tensor *a, const tr_tensor *b)                         \
    {                                                                                          \
        static const range_fn ranges[2][2] = {{name##_00, name##_01}, {name##_10, name##_11}}; \
        return ranges[is_bf16(a)][is_bf16(b)];                                                 \
    }
FOR_TWO_DTYPES(add)
FOR_TWO_DTYPES(mul)

static void run_add(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]), add_for(&call->in[0], &call->in[1]));
}

static void run_mul(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]), mul_for(&call->in[0], &call->in[1]));
}

/* scale, cast, activate ----------------------------------------------------------------- */

typedef enum unary_kind { SCALE, CAST, ACTIVATE } unary_kind;

TR_INLINE vf transform(vf x, unary_kind kind, vf factor, tr_fn fn, bool bf16)
{
    return kind == SCALE ? x * factor : kind == CAST ? x : vf_activate(x, fn, bf16);
}

TR_INLINE void unary_run(const tr_call *call, int64_t i, int64_t last, unary_kind kind, tr_fn fn,
                         bool x_bf16, bool y_bf16)
{
    const void *x = call->in[0].data;
    void *y = call->out[0].data;
    vf factor = vf_set1(kind == SCALE ? (float)call->attrs[TR_SCALE_FACTOR].f : 1.0f);
    for (; i + 2 * TR_VL <= last; i += 2 * TR_VL) {
        vf y0 = transform(vf_load_as(x, i, x_bf16), kind, factor, fn, x_bf16);
        vf y1 = transform(vf_load_as(x, i + TR_VL, x_bf16), kind, factor, fn, x_bf16);
        vf_store_as(y, i, y0, y_bf16);
        vf_store_as(y, i + TR_VL, y1, y_bf16);
    }
    for (; i < last; i += TR_VL) {
        int part = last - i < TR_VL ? (int)(last - i) : TR_VL;
        vf_store_as_n(y, i, transform(vf_load_as_n(x, i, part, x_bf16), kind, factor, fn, x_bf16), part,
                      y_bf16);
    }
}

TR_INLINE void scale_range(const tr_call *call, int64_t first, int64_t last, bool x_bf16,
                           bool y_bf16)
{
    unary_run(call, first, last, SCALE, TR_FN_none, x_bf16, y_bf16);
}

TR_INLINE void cast_range(const tr_call *call, int64_t first, int64_t last, bool x_bf16,
                          bool y_bf16)
{
    if (x_bf16 != y_bf16) {
        unary_run(call, first, last, CAST, TR_FN_none, x_bf16, y_bf16);
        return;
    }
    int64_t bytes = y_bf16 ? 2 : 4;
    memmove((char *)call->out[0].data + first * bytes,
            (const char *)call->in[0].data + first * bytes, (size_t)((last - first) * bytes));
}

FOR_TWO_DTYPES(scale)
FOR_TWO_DTYPES(cast)

static void run_scale(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]), scale_for(&call->in[0], &call->out[0]));
}

static void run_cast(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]), cast_for(&call->in[0], &call->out[0]));
}

/* fn_range[bf16] of every function of TR_FNS. */
#define X(fn)                                                                          \
    static void activate_f32_##fn(const tr_call *call, int64_t first, int64_t last)    \
    {                                                                                  \
        unary_run(call, first, last, ACTIVATE, TR_FN_##fn, false, false);              \
    }                                                                                  \
    static void activate_bf16_##fn(const tr_call *call, int64_t first, int64_t last)   \
    {                                                                                  \
        unary_run(call, first, last, ACTIVATE, TR_FN_##fn, true, true);                \
    }                                                                                  \
    static void slope_f32_##fn(const tr_call *call, int64_t first, int64_t last)       \
    {                                                                                  \
        binary_run(call, first, first, last - first, SLOPE, TR_FN_##fn, false, false); \
    }                                                                                  \
    static void slope_bf16_##fn(const tr_call *call, int64_t first, int64_t last)      \
    {                                                                                  \
        binary_run(call, first, first, last - first, SLOPE, TR_FN_##fn, true, true);   \
    }
TR_FNS(X)
#undef X

static const range_fn activate_ranges[TR_FN_COUNT][2] = {
#define X(fn) {activate_f32_##fn, activate_bf16_##fn},
    TR_FNS(X)
#undef X
};
static const range_fn slope_ranges[TR_FN_COUNT][2] = {
#define X(fn) {slope_f32_##fn, slope_bf16_##fn},
    TR_FNS(X)
#undef X
};

static void run_activate(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]),
              activate_ranges[call->attrs[TR_ACTIVATE_FN].i][is_bf16(&call->in[0])]);
}

static void run_activate_grad(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->in[0]),
              slope_ranges[call->attrs[TR_ACTIVATE_FN].i][is_bf16(&call->in[0])]);
}

/* dropout -------------------------------------------------------------------------------
 * Elements whose indices in the whole tensor follow each other are a run: at least a row, and all
 * of the tensor where it is not cut in its inner dims. Word (index) is word index % 4 of block
 * index / 4; a vector of words starts at a block, so the first elements of a run may have to go one
 * by one. */

typedef struct dropout_facts {
    const void *x;
    void *y;
    uint64_t seed;
    uint32_t step, stream;
    int32_t threshold; /* kept: word >> 8 >= threshold, which is tr_random_unit(word) >= p */
    float factor;
} dropout_facts;

TR_INLINE vf drop(vf x, vu words, const dropout_facts *f)
{
    vm dropped = vi_lt((vi)(words >> 8), f->threshold + (vi){0});
    return vf_select(dropped, vf_zero(), x * f->factor);
}

/* The few elements, at most a block, that share block index / 4 with the element at i. */
TR_INLINE void drop_part(const dropout_facts *f, int64_t i, uint64_t index, int n, bool bf16)
{
    tr_random4 r = tr_random(f->seed, f->step, f->stream, index / 4);
    vu words = {0};
    for (int k = 0; k < n; k++)
        words[k] = r.word[index % 4 + (uint64_t)k];
    vf_store_as_n(f->y, i, drop(vf_load_as_n(f->x, i, n, bf16), words, f), n, bf16);
}

/* Element i has index `index` in the whole tensor; n of them. */
TR_INLINE void drop_run(const dropout_facts *f, int64_t i, uint64_t index, int64_t n, bool bf16)
{
    int64_t last = i + n;
    if (index % 4 && i < last) {
        int64_t part = 4 - (int64_t)(index % 4);
        part = part < last - i ? part : last - i;
        drop_part(f, i, index, (int)part, bf16);
        i += part;
        index += (uint64_t)part;
    }
    for (; i + TR_RANDOM_WORDS <= last; i += TR_RANDOM_WORDS, index += TR_RANDOM_WORDS) {
        vu words[2];
        vu_random(f->seed, f->step, f->stream, index / 4, words);
        vf y0 = drop(vf_load_as(f->x, i, bf16), words[0], f);
        vf y1 = drop(vf_load_as(f->x, i + TR_VL, bf16), words[1], f);
        vf_store_as(f->y, i, y0, bf16);
        vf_store_as(f->y, i + TR_VL, y1, bf16);
    }
    for (; i < last; i += 4, index += 4)
        drop_part(f, i, index, last - i < 4 ? (int)(last - i) : 4, bf16);
}

TR_INLINE void drop_range(const tr_call *call, int64_t first, int64_t last, bool bf16)
{
    const tr_tensor *x = &call->in[0];
    double p = call->attrs[TR_DROPOUT_P].f;
    dropout_facts f = {.x = x->data,
                       .y = call->out[0].data,
                       .seed = call->seed,
                       .step = call->step,
                       .stream = (uint32_t)call->attrs[TR_DROPOUT_STREAM].i,
                       .threshold = (int32_t)ceil(p * 0x1p24),
                       .factor = (float)(1 / (1 - p))};
    int64_t width = x->rank ? x->dims[x->rank - 1] : 1, run = width;
    for (int d = x->rank - 2; d >= 0 && x->dims[d + 1] == call->extent[d + 1] && !call->jump[d]; d--)
        run *= x->dims[d];
    for (int64_t i = first; i < last;) {
        int64_t inside = i % run, n = run - inside < last - i ? run - inside : last - i;
        drop_run(&f, i, tr_global_row(call, (i - inside) / width) + (uint64_t)inside, n, bf16);
        i += n;
    }
}

/* What has the same first dims is kept or dropped together. */
TR_INLINE void drop_blocks(const tr_call *call, int64_t first, int64_t last, bool bf16)
{
    const tr_tensor *x = &call->in[0];
    int dims = (int)call->attrs[TR_DROPOUT_DIMS].i;
    double p = call->attrs[TR_DROPOUT_P].f;
    int64_t block = tr_tensor_span(x, dims, x->rank);
    for (int64_t i = first; i < last;) {
        uint64_t index = tr_global_block(call, i, dims);
        uint32_t word = tr_random(call->seed, call->step, (uint32_t)call->attrs[TR_DROPOUT_STREAM].i, index / 4).word[index % 4];
        float factor = tr_random_unit(word) >= p ? (float)(1 / (1 - p)) : 0;
        int64_t end = i - i % block + block < last ? i - i % block + block : last;
        for (; i < end; i += TR_VL) {
            int part = end - i < TR_VL ? (int)(end - i) : TR_VL;
            vf y = factor == 0 ? vf_zero() : vf_load_as_n(x->data, i, part, bf16) * factor;
            vf_store_as_n(call->out[0].data, i, y, part, bf16);
        }
        i = end;
    }
}

static void drop_blocks_f32(const tr_call *call, int64_t first, int64_t last)
{
    drop_blocks(call, first, last, false);
}

static void drop_blocks_bf16(const tr_call *call, int64_t first, int64_t last)
{
    drop_blocks(call, first, last, true);
}

static void drop_range_f32(const tr_call *call, int64_t first, int64_t last)
{
    drop_range(call, first, last, false);
}

static void drop_range_bf16(const tr_call *call, int64_t first, int64_t last)
{
    drop_range(call, first, last, true);
}

static void run_dropout(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    if (call->attrs[TR_DROPOUT_P].f == 0) {
        if (call->out[0].data != x->data)
            run_cast(call);
        return;
    }
    if (call->attrs[TR_DROPOUT_DIMS].i)
        in_ranges(call, tr_tensor_elems(x), is_bf16(x) ? drop_blocks_bf16 : drop_blocks_f32);
    else
        in_ranges(call, tr_tensor_elems(x), is_bf16(x) ? drop_range_bf16 : drop_range_f32);
}

/* clear, expand ------------------------------------------------------------------------- */

static void clear_range(const tr_call *call, int64_t first, int64_t last)
{
    int64_t bytes = tr_dtype_bytes(call->out[0].dtype);
    memset((char *)call->out[0].data + first * bytes, 0, (size_t)((last - first) * bytes));
}

static void run_clear(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->out[0]), clear_range);
}

/* y[i ..] = x[i modulo its size ..]; an x of one element fills. */
TR_INLINE void expand_range(const tr_call *call, int64_t first, int64_t last, bool x_bf16,
                            bool y_bf16)
{
    const void *x = call->in[0].data;
    void *y = call->out[0].data;
    int64_t repeat = tr_tensor_elems(&call->in[0]);
    float one = x_bf16 ? tr_bf16_to_f32(*(const uint16_t *)x) : *(const float *)x;
    for (int64_t i = first; i < last;) {
        int64_t from = i % repeat,
                n = repeat == 1 || repeat - from > last - i ? last - i : repeat - from;
        for (int64_t k = 0; k < n; k += TR_VL) {
            int part = n - k < TR_VL ? (int)(n - k) : TR_VL;
            vf v = repeat == 1     ? vf_set1(one)
                   : part == TR_VL ? vf_load_as(x, from + k, x_bf16)
                                   : vf_load_as_n(x, from + k, part, x_bf16);
            if (part == TR_VL)
                vf_store_as(y, i + k, v, y_bf16);
            else
                vf_store_as_n(y, i + k, v, part, y_bf16);
        }
        i += n;
    }
}

FOR_TWO_DTYPES(expand)

static void run_expand(const tr_call *call)
{
    in_ranges(call, tr_tensor_elems(&call->out[0]), expand_for(&call->in[0], &call->out[0]));
}

/* In gated.c. */
#define run_gated TR_PASTE(tr_gated, TR_ISA, run)
void run_gated(const tr_call *call);

#define ROW(op, accepts)                                       \
    {                                                          \
        TR_OP_##op, TR_ISA_NAME, accepts, NULL, run_##op, NULL \
    }
const tr_kernel TR_KERNELS(elementwise)[] = {
    ROW(add, accepts_binary),         ROW(mul, accepts_binary),
    ROW(scale, accepts_one_dtype),    ROW(cast, accepts_expand),
    ROW(activate, accepts_one_dtype), ROW(activate_grad, accepts_one_dtype),
    ROW(dropout, accepts_one_dtype),  ROW(clear, NULL),
    ROW(expand, accepts_expand),
    {TR_OP_gated, TR_ISA_NAME, accepts_one_dtype, NULL, run_gated, NULL},
    {TR_OP_gated_grad, TR_ISA_NAME, accepts_one_dtype, NULL, run_gated, NULL},
    {.run = NULL},
};
