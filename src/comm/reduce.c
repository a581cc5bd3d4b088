/* Reductions of several buffers into one, left to right; see transfer.h.
 *
 * f32, bf16 and f16 are combined in f32 in blocks of BLOCK elements that stay in the first-level cache,
 * so memory is read once a source and written once, whatever n. Order: ((in0 + in1) + in2) + ...
 * By hosts: each host's sources are combined first, and rounded to bf16 where that is what travels; then the hosts'.
 * MAX keeps a NaN from whichever source it comes. Cost: gamma n bytes.
 *
 * The inner loops run over a constant number of elements (STEP), which compilers vectorise, and are
 * compiled twice on x86-64: for any processor, and with AVX2. Both give the same bits.
 */
#include "comm/transfer.h"

enum { BLOCK = 1024, STEP = 64 };

static inline float larger(float a, float b)
{
    return b > a || b != b ? b : a;
}

/* tr_f32_to_bf16 without a branch. */
static inline uint16_t to_bf16(uint32_t bits)
{
    uint32_t kept = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : kept);
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

typedef struct loops {
    void (*pack)(const float *in, int64_t count, uint16_t *out);
    void (*unpack)(const uint16_t *in, int64_t count, float *out);
    void (*round)(const float *in, int64_t count, float *out);
    void (*sum)(const float *a, const float *b, int64_t count, float *out);
    void (*max)(const float *a, const float *b, int64_t count, float *out);
} loops;

/* A loop over `count` elements, STEP at a time and then one by one. The buffers do not overlap. */
#define LOOP(expression)                     \
    int64_t at = 0;                          \
    for (; at + STEP <= count; at += STEP)   \
        for (int64_t k = 0; k < STEP; k++) { \
            int64_t i = at + k;              \
            out[i] = expression;             \
        }                                    \
    for (int64_t i = at; i < count; i++)     \
    out[i] = expression

#define LOOPS(isa, attribute)                                                         \
    attribute static void pack_##isa(const float *restrict in, int64_t count,         \
                                     uint16_t *restrict out)                          \
    {                                                                                 \
        LOOP(to_bf16(bits_of(in[i])));                                                \
    }                                                                                 \
    attribute static void unpack_##isa(const uint16_t *restrict in, int64_t count,    \
                                       float *restrict out)                           \
    {                                                                                 \
        LOOP(float_of((uint32_t)in[i] << 16));                                        \
    }                                                                                 \
    attribute static void round_##isa(const float *restrict in, int64_t count,        \
                                      float *restrict out)                            \
    {                                                                                 \
        LOOP(float_of((uint32_t)to_bf16(bits_of(in[i])) << 16));                      \
    }                                                                                 \
    attribute static void sum_##isa(const float *restrict a, const float *restrict b, \
                                    int64_t count, float *restrict out)               \
    {                                                                                 \
        LOOP(a[i] + b[i]);                                                            \
    }                                                                                 \
    attribute static void max_##isa(const float *restrict a, const float *restrict b, \
                                    int64_t count, float *restrict out)               \
    {                                                                                 \
        LOOP(larger(a[i], b[i]));                                                     \
    }                                                                                 \
    static const loops loops_##isa = {pack_##isa, unpack_##isa, round_##isa, sum_##isa, max_##isa};

LOOPS(portable, )
#if defined(__x86_64__)
LOOPS(avx2, __attribute__((target("avx2"))))
static const loops *best_loops(void)
{
    return __builtin_cpu_supports("avx2") ? &loops_avx2 : &loops_portable;
}
#else
static const loops *best_loops(void)
{
    return &loops_portable;
}
#endif

void tr_pack_bf16(const float *in, int64_t count, uint16_t *out)
{
    best_loops()->pack(in, count, out);
}

void tr_unpack_bf16(const uint16_t *in, int64_t count, float *out)
{
    best_loops()->unpack(in, count, out);
}

/* Element `at` onwards of a source as f32: in place, or converted into `room`. */
static const float *as_f32(const loops *l, const void *in, tr_form form, int64_t at, int64_t count,
                           float *room)
{
    if (form == TR_FORM_AS_IS)
        return (const float *)in + at;
    if (form == TR_FORM_BF16)
        l->unpack((const uint16_t *)in + at, count, room);
    else
        l->round((const float *)in + at, count, room);
    return room;
}

/* As reduce_floats, of buffers in f16. */
static void reduce_halves(tr_reduction reduction, int32_t n, const void *const *in, int64_t count, uint16_t *out)
{
    const loops *l = best_loops();
    float sum[2][BLOCK], room[BLOCK];
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t some = TR_MIN((int64_t)BLOCK, count - at);
        for (int32_t k = 0; k < n; k++) {
            float *to = k ? room : sum[0];
            for (int64_t i = 0; i < some; i++)
                to[i] = tr_f16_to_f32(((const uint16_t *)in[k])[at + i]);
            if (k)
                (reduction == TR_REDUCE_SUM ? l->sum : l->max)(sum[(k - 1) % 2], room, some, sum[k % 2]);
        }
        for (int64_t i = 0; i < some; i++)
            out[at + i] = tr_f32_to_f16(sum[(n - 1) % 2][i]);
    }
}

static void reduce_floats(tr_reduction reduction, bool bf16, int32_t n, const void *const *in,
                          const tr_form *form, int64_t count, void *out, uint16_t *packed)
{
    const loops *l = best_loops();
    float sum[2][BLOCK], room[BLOCK];
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t some = TR_MIN((int64_t)BLOCK, count - at);
        const float *total = as_f32(l, in[0], bf16 ? TR_FORM_BF16 : form[0], at, some, sum[0]);
        for (int32_t k = 1; k < n; k++) {
            const float *next = as_f32(l, in[k], bf16 ? TR_FORM_BF16 : form[k], at, some, room);
            (reduction == TR_REDUCE_SUM ? l->sum : l->max)(total, next, some, sum[k % 2]);
            total = sum[k % 2];
        }
        if (bf16) {
            l->pack(total, some, (uint16_t *)out + at);
        } else if (packed) {
            l->pack(total, some, packed + at);
            l->unpack(packed + at, some, (float *)out + at);
        } else if (total != (float *)out + at) {
            memcpy((float *)out + at, total, (size_t)some * sizeof(float));
        }
    }
}

#define REDUCE_PLAIN(name, type)                                                              \
    static void name(tr_reduction reduction, int32_t n, const void *const *in, int64_t count, \
                     type *out)                                                               \
    {                                                                                         \
        for (int64_t i = 0; i < count; i++) {                                                 \
            type total = ((const type *)in[0])[i];                                            \
            for (int32_t k = 1; k < n; k++) {                                                 \
                type x = ((const type *)in[k])[i];                                            \
                total = reduction == TR_REDUCE_SUM ? ADD(type, total, x)                      \
                        : x > total || x != x      ? x                                        \
                                                   : total;                                        \
            }                                                                                 \
            out[i] = total;                                                                   \
        }                                                                                     \
    }
#define ADD(type, a, b) ((a) + (b))
REDUCE_PLAIN(reduce_f64, double)
#undef ADD
#define ADD(type, a, b) ((type)((uint64_t)(a) + (uint64_t)(b))) /* wraps */
REDUCE_PLAIN(reduce_i64, int64_t)
REDUCE_PLAIN(reduce_i32, int32_t)
#undef ADD

void tr_reduce(tr_reduction reduction, tr_dtype dtype, int32_t n, const void *const *in,
               const tr_form *form, int64_t count, void *out, uint16_t *packed)
{
    switch (dtype) {
    case TR_F32:
    case TR_BF16:
        reduce_floats(reduction, dtype == TR_BF16, n, in, form, count, out, packed);
        break;
    case TR_F16:
        reduce_halves(reduction, n, in, count, out);
        break;
    case TR_F64:
        reduce_f64(reduction, n, in, count, out);
        break;
    case TR_I64:
        reduce_i64(reduction, n, in, count, out);
        break;
    case TR_I32:
        reduce_i32(reduction, n, in, count, out);
        break;
    default:
        TR_CHECK(false, "%s cannot be reduced", tr_dtype_name(dtype));
    }
}

void tr_reduce_by_hosts(tr_reduction reduction, tr_dtype dtype, int32_t n, int32_t here, const void *const *in,
                        const tr_form *form, int64_t count, void *out, uint16_t *packed)
{
    if (here == n) {
        tr_reduce(reduction, dtype, n, in, form, count, out, packed);
        return;
    }
    int64_t width = tr_dtype_bytes(dtype), hosts = n / here;
    bool narrow = false;
    for (int32_t k = 0; k < n; k++)
        narrow = narrow || form[k] != TR_FORM_AS_IS;
    char *room = tr_alloc((size_t)(hosts * BLOCK * width));
    const void **source = tr_alloc((size_t)TR_MAX(here, hosts) * sizeof *source);
    tr_form *as_is = tr_alloc_zero((size_t)hosts, sizeof *as_is);
    uint16_t rounded[BLOCK];
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t some = TR_MIN((int64_t)BLOCK, count - at);
        for (int64_t h = 0; h < hosts; h++) {
            for (int32_t k = 0; k < here; k++) {
                int64_t from = h * here + k;
                source[k] = (const char *)in[from] + at * (form[from] == TR_FORM_BF16 ? 2 : width);
            }
            tr_reduce(reduction, dtype, here, source, form + h * here, some, room + h * BLOCK * width,
                      narrow ? rounded : NULL);
        }
        for (int64_t h = 0; h < hosts; h++)
            source[h] = room + h * BLOCK * width;
        tr_reduce(reduction, dtype, (int32_t)hosts, source, as_is, some, (char *)out + at * width, packed ? packed + at : NULL);
    }
    free(room);
    free(source);
    free(as_is);
}
