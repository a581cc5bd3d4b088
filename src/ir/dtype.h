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
