/* Reductions of several buffers into one, left to right; see transfer.h.
 *
 * f32 and bf16 are combined in f32 in blocks of BLOCK elements that stay in the first-level cache, so
 * memory is read once a source and written once, whatever n. Order: ((in0 + in1) + in2) + ...
 * MAX keeps a NaN from whichever source it comes. Cost: gamma n bytes.
 */
#include "comm/transfer.h"

enum { BLOCK = 1024 };

void tr_pack_bf16(const float *in, int64_t count, uint16_t *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = tr_f32_to_bf16(in[i]);
}

void tr_unpack_bf16(const uint16_t *in, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = tr_bf16_to_f32(in[i]);
}

/* Element `at` onwards of a source as f32: in place, or converted into `room`. */
static const float *as_f32(const void *in, tr_form form, int64_t at, int64_t count, float *room)
{
    if (form == TR_FORM_AS_IS)
        return (const float *)in + at;
    if (form == TR_FORM_BF16) {
        tr_unpack_bf16((const uint16_t *)in + at, count, room);
        return room;
    }
    const float *from = (const float *)in + at;
    for (int64_t i = 0; i < count; i++)
        room[i] = tr_bf16_to_f32(tr_f32_to_bf16(from[i]));
    return room;
}

static inline float larger(float a, float b)
{
    return b > a || b != b ? b : a;
}

static void combine(tr_reduction reduction, const float *a, const float *b, int64_t count, float *restrict out)
{
    if (count == BLOCK && reduction == TR_REDUCE_SUM) { /* a constant count, which the compiler vectorises */
        for (int64_t i = 0; i < BLOCK; i++)
            out[i] = a[i] + b[i];
    } else if (reduction == TR_REDUCE_SUM) {
        for (int64_t i = 0; i < count; i++)
            out[i] = a[i] + b[i];
    } else {
        for (int64_t i = 0; i < count; i++)
            out[i] = larger(a[i], b[i]);
    }
}

static void reduce_floats(tr_reduction reduction, bool bf16, int32_t n, const void *const *in, const tr_form *form,
                          int64_t count, void *out, uint16_t *packed)
{
    float sum[2][BLOCK], room[BLOCK];
    for (int64_t at = 0; at < count; at += BLOCK) {
        int64_t some = TR_MIN((int64_t)BLOCK, count - at);
        const float *total = as_f32(in[0], bf16 ? TR_FORM_BF16 : form[0], at, some, sum[0]);
        for (int32_t k = 1; k < n; k++) {
            combine(reduction, total, as_f32(in[k], bf16 ? TR_FORM_BF16 : form[k], at, some, room), some, sum[k % 2]);
            total = sum[k % 2];
        }
        if (bf16) {
            tr_pack_bf16(total, some, (uint16_t *)out + at);
        } else if (packed) {
            tr_pack_bf16(total, some, packed + at);
            tr_unpack_bf16(packed + at, some, (float *)out + at);
        } else if (total != (float *)out + at) {
            memcpy((float *)out + at, total, (size_t)some * sizeof(float));
        }
    }
}

#define REDUCE_PLAIN(name, type)                                                                                    \
    static void name(tr_reduction reduction, int32_t n, const void *const *in, int64_t count, type *out)           \
    {                                                                                                               \
        for (int64_t i = 0; i < count; i++) {                                                                       \
            type total = ((const type *)in[0])[i];                                                                  \
            for (int32_t k = 1; k < n; k++) {                                                                       \
                type x = ((const type *)in[k])[i];                                                                  \
                total = reduction == TR_REDUCE_SUM ? ADD(type, total, x) : x > total || x != x ? x : total;         \
            }                                                                                                       \
            out[i] = total;                                                                                         \
        }                                                                                                           \
    }
#define ADD(type, a, b) ((a) + (b))
REDUCE_PLAIN(reduce_f64, double)
#undef ADD
#define ADD(type, a, b) ((type)((uint64_t)(a) + (uint64_t)(b))) /* wraps */
REDUCE_PLAIN(reduce_i64, int64_t)
REDUCE_PLAIN(reduce_i32, int32_t)
#undef ADD

void tr_reduce(tr_reduction reduction, tr_dtype dtype, int32_t n, const void *const *in, const tr_form *form,
               int64_t count, void *out, uint16_t *packed)
{
    switch (dtype) {
    case TR_F32:
    case TR_BF16:
        reduce_floats(reduction, dtype == TR_BF16, n, in, form, count, out, packed);
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
