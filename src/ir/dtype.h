/* Element types. One table feeds the enum, the names and the sizes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* name, text form, bytes, name in safetensors */
#define TR_DTYPES(X)         \
    X(F32, "f32", 4, "F32")  \
    X(BF16, "bf16", 2, "BF16") \
    X(F16, "f16", 2, "F16")  \
    X(F64, "f64", 8, "F64")  \
    X(I64, "i64", 8, "I64")  \
    X(I32, "i32", 4, "I32")  \
    X(I16, "i16", 2, "I16")  \
    X(I8, "i8", 1, "I8")     \
    X(U16, "u16", 2, "U16")  \
    X(U8, "u8", 1, "U8")     \
    X(BOOL, "bool", 1, "BOOL")

typedef enum tr_dtype {
#define X(id, text, bytes, safetensors) TR_##id,
    TR_DTYPES(X)
#undef X
    TR_DTYPE_COUNT
} tr_dtype;

int64_t tr_dtype_bytes(tr_dtype dtype);
const char *tr_dtype_name(tr_dtype dtype);             /* "bf16" */
const char *tr_dtype_safetensors_name(tr_dtype dtype); /* "BF16" */
bool tr_dtype_parse(const char *name, tr_dtype *out);  /* either spelling */

static inline float tr_bf16_to_f32(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Round to nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline uint16_t tr_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Exact. */
static inline float tr_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    float value = (float)fraction * 0x1p-24f; /* subnormal */
    if (exponent) {
        bits = (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
        memcpy(&value, &bits, 4);
    }
    memcpy(&bits, &value, 4);
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
}

/* Round to nearest, ties to even; beyond 65504 infinity; a NaN stays a (quiet) NaN. */
static inline uint16_t tr_f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
    if (bits >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* subnormal: adding 0.5 leaves the fraction, rounded, in the last bits */
        float shifted;
        memcpy(&shifted, &bits, 4);
        shifted += 0.5f;
        memcpy(&bits, &shifted, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    return (uint16_t)(sign | ((bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13));
}

/* Element i of f32, bf16 or f16 data. */
static inline float tr_real_at(const void *data, tr_dtype dtype, int64_t i)
{
    return dtype == TR_F32    ? ((const float *)data)[i]
           : dtype == TR_BF16 ? tr_bf16_to_f32(((const uint16_t *)data)[i])
                              : tr_f16_to_f32(((const uint16_t *)data)[i]);
}
