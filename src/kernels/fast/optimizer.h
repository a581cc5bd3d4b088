/* What the optimizers' kernels share: f32 weights in two halves (tr_split_f32), whole vectors or the first n lanes. */
#pragma once
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

enum { TR_OPTIMIZER_PART = 8192 }; /* elements a thread takes at a time */

TR_INLINE vu load_halves(const uint16_t *p, int n)
{
    vh half = {0};
    memcpy(&half, p, (size_t)n * 2);
    return __builtin_convertvector(half, vu);
}

TR_INLINE void store_halves(uint16_t *p, vu v, int n)
{
    vh half = __builtin_convertvector(v, vh);
    memcpy(p, &half, (size_t)n * 2);
}

/* n: TR_VL as a constant in the main loop. Without halves w is f32. */
TR_INLINE vf load_weight(const void *w, const uint16_t *low, int64_t i, int n, bool halves)
{
    if (!halves)
        return n == TR_VL ? vf_load((const float *)w + i) : vf_load_n((const float *)w + i, n);
    vu l = load_halves(low + i, n), h = load_halves((const uint16_t *)w + i, n);
    return (vf)((h << 16) - ((l & 0x8000u) << 1) + l);
}

TR_INLINE void store_weight(void *w, uint16_t *low, int64_t i, vf value, int n, bool halves)
{
    vu bits = (vu)value;
    if (halves) {
        store_halves(low + i, bits & 0xffffu, n);
        store_halves((uint16_t *)w + i, (bits + 0x8000u) >> 16, n);
    } else if (n == TR_VL) {
        vf_store((float *)w + i, value);
    } else {
        vf_store_n((float *)w + i, value, n);
    }
}

TR_INLINE vf load_some(const float *p, int64_t i, int n)
{
    return n == TR_VL ? vf_load(p + i) : vf_load_n(p + i, n);
}

TR_INLINE void store_some(float *p, int64_t i, vf v, int n)
{
    if (n == TR_VL)
        vf_store(p + i, v);
    else
        vf_store_n(p + i, v, n);
}

TR_INLINE vf load_gradient(const void *g, int64_t i, int n, bool bf16)
{
    return n == TR_VL ? vf_load_as(g, i, bf16) : vf_load_as_n(g, i, n, bf16);
}

/* An f32 weight alone, or a bf16 one with its low halves in input `low`; the gradient in input 1. */
static inline bool weight_accepts(const tr_call *call, int low)
{
    tr_dtype g = call->in[1].dtype;
    return (g == TR_F32 || g == TR_BF16) &&
           (tr_has(call, low) ? call->in[0].dtype == TR_BF16 && call->in[low].dtype == TR_U16
                              : call->in[0].dtype == TR_F32);
}

static inline float scalar_in(const tr_call *call, int input)
{
    return *(const float *)call->in[input].data;
}

static inline uint16_t *halves_in(const tr_call *call, int input)
{
    return tr_has(call, input) ? call->in[input].data : NULL;
}
