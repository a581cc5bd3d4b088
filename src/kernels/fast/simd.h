/* Vectors of TR_VL floats, so that one source serves every instruction set.
 *
 * TR_VL is 16 with AVX-512, 8 with AVX2, 4 elsewhere (SSE2, NEON, or whatever the compiler makes of
 * GCC's vector extension). The types are plain vectors: + - * / and, for the integer ones, & | ^ <<
 * >> work on them; `a * b + c` becomes a fused multiply-add where there is one
 * (-ffp-contract=fast). This is the only file with intrinsics, and each has a portable twin.
 *
 *   vf vi vu        float, int32_t, uint32_t lanes       vm   one truth value a lane (opaque)
 *   vf_load .. vf_store_bf16        whole vectors, no alignment asked
 *   .._n(.., n)                     the first n lanes, 0 <= n <= TR_VL; a load zeroes the others
 *   .._as(.., index, .., bf16)      element `index`, f32 or bf16; pass `bf16` as a constant
 *   vf_sum, vf_largest              over the lanes, in a fixed order
 *   vf_min, vf_max                  lane by lane; where either is NaN the result is the second
 *   vf_exp vf_tanh vf_sigmoid vf_erf vf_normal_cdf   see below for their errors
 *   vf_.._rough                     good enough for what is rounded to bf16
 *   vf_dot_bf16, vu_pair_bf16       products of bf16 pairs, native in avx512_bf16
 *   vu_random                       many words of tr_random at once
 *
 * Rounding to bf16 is to nearest, ties to even, as tr_f32_to_bf16. With avx512_bf16 the processor
 * does it, and it makes zeros of subnormal numbers; nothing else differs.
 */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/random.h"
#include "ir/dtype.h"

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h> /* the other one takes longer to read than most of our files to compile */
#endif

#define TR_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define TR_SIMD_512 1
enum { TR_VL = 16 };
typedef __mmask16 vm;
#elif defined(__AVX2__) && defined(__FMA__)
#define TR_SIMD_256 1
enum { TR_VL = 8 };
#else
enum { TR_VL = 4 };
#endif

typedef float vf __attribute__((vector_size(TR_VL * 4)));
typedef int32_t vi __attribute__((vector_size(TR_VL * 4)));
typedef uint32_t vu __attribute__((vector_size(TR_VL * 4)));
typedef uint64_t vul __attribute__((vector_size(TR_VL * 4)));
typedef uint16_t vh __attribute__((vector_size(TR_VL * 2)));
#ifndef TR_SIMD_512
typedef vi vm;
#endif

/* Constants ----------------------------------------------------------------------------- */

TR_INLINE vf vf_set1(float x)
{
#if TR_SIMD_512
    return (vf)_mm512_set1_ps(x);
#elif TR_SIMD_256
    return (vf)_mm256_set1_ps(x);
#else
    return x - (vf){0};
#endif
}

TR_INLINE vu vu_set1(uint32_t x)
{
    return x + (vu){0};
}

TR_INLINE vf vf_zero(void)
{
    return (vf){0};
}

/* 0, 1, 2, .. */
TR_INLINE vu vu_iota(void)
{
    vu v;
    for (int i = 0; i < TR_VL; i++)
        v[i] = (uint32_t)i;
    return v;
}

/* f32 in memory -------------------------------------------------------------------------- */

TR_INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

TR_INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

#if TR_SIMD_512
TR_INLINE __mmask16 simd_mask_n(int n)
{
    return (__mmask16)((1u << n) - 1u);
}
#elif TR_SIMD_256
TR_INLINE __m256i simd_mask_n(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

TR_INLINE vf vf_load_n(const float *p, int n)
{
#if TR_SIMD_512
    return (vf)_mm512_maskz_loadu_ps(simd_mask_n(n), p);
#elif TR_SIMD_256
    return (vf)_mm256_maskload_ps(p, simd_mask_n(n));
#else
    vf v = {0};
    for (int i = 0; i < n; i++)
        v[i] = p[i];
    return v;
#endif
}

TR_INLINE void vf_store_n(float *p, vf v, int n)
{
#if TR_SIMD_512
    _mm512_mask_storeu_ps(p, simd_mask_n(n), (__m512)v);
#elif TR_SIMD_256
    _mm256_maskstore_ps(p, simd_mask_n(n), (__m256)v);
#else
    for (int i = 0; i < n; i++)
        p[i] = v[i];
#endif
}

/* bf16 in memory ------------------------------------------------------------------------- */

TR_INLINE vf simd_widen(vh half)
{
#if TR_SIMD_512
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)half), 16);
#elif TR_SIMD_256
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)half), 16);
#else
    return (vf)(__builtin_convertvector(half, vu) << 16);
#endif
}

/* The bf16 of each lane, in the low 16 bits of the lane; the high 16 are zero. */
TR_INLINE vu simd_round(vf v)
{
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
#if TR_SIMD_512
    return (vu)_mm512_mask_or_epi32((__m512i)rounded,
                                    _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q),
                                    _mm512_srli_epi32((__m512i)bits, 16), _mm512_set1_epi32(0x40));
#else
    vu nan = (vu)(v != v);
    return (rounded & ~nan) | (((bits >> 16) | 0x40u) & nan);
#endif
}

TR_INLINE vh simd_narrow(vf v)
{
#if TR_SIMD_512 && defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)v);
#elif TR_SIMD_512
    return (vh)_mm512_cvtepi32_epi16((__m512i)simd_round(v));
#elif TR_SIMD_256
    __m256i r = (__m256i)simd_round(v);
    return (vh)_mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
#else
    return __builtin_convertvector(simd_round(v), vh);
#endif
}

TR_INLINE vf vf_load_bf16(const uint16_t *p)
{
    vh half;
    memcpy(&half, p, sizeof half);
    return simd_widen(half);
}

TR_INLINE void vf_store_bf16(uint16_t *p, vf v)
{
    vh half = simd_narrow(v);
    memcpy(p, &half, sizeof half);
}

TR_INLINE vf vf_load_bf16_n(const uint16_t *p, int n)
{
#if TR_SIMD_512
    return simd_widen((vh)_mm256_maskz_loadu_epi16(simd_mask_n(n), p));
#else
    vh half = {0};
    for (int i = 0; i < n; i++)
        half[i] = p[i];
    return simd_widen(half);
#endif
}

TR_INLINE void vf_store_bf16_n(uint16_t *p, vf v, int n)
{
    vh half = simd_narrow(v);
#if TR_SIMD_512
    _mm256_mask_storeu_epi16(p, simd_mask_n(n), (__m256i)half);
#else
    for (int i = 0; i < n; i++)
        p[i] = half[i];
#endif
}

/* Either dtype --------------------------------------------------------------------------- */

TR_INLINE vf vf_load_as(const void *p, int64_t index, bool bf16)
{
    return bf16 ? vf_load_bf16((const uint16_t *)p + index) : vf_load((const float *)p + index);
}

TR_INLINE void vf_store_as(void *p, int64_t index, vf v, bool bf16)
{
    if (bf16)
        vf_store_bf16((uint16_t *)p + index, v);
    else
        vf_store((float *)p + index, v);
}

TR_INLINE vf vf_load_as_n(const void *p, int64_t index, int n, bool bf16)
{
    return bf16 ? vf_load_bf16_n((const uint16_t *)p + index, n)
                : vf_load_n((const float *)p + index, n);
}

TR_INLINE void vf_store_as_n(void *p, int64_t index, vf v, int n, bool bf16)
{
    if (bf16)
        vf_store_bf16_n((uint16_t *)p + index, v, n);
    else
        vf_store_n((float *)p + index, v, n);
}

/* What a store and a load would make of v: rounded when bf16. */
TR_INLINE vf vf_round_as(vf v, bool bf16)
{
    return bf16 ? simd_widen(simd_narrow(v)) : v;
}

/* Lanes --------------------------------------------------------------------------------- */

TR_INLINE vm vf_lt(vf a, vf b)
{
#if TR_SIMD_512
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
#else
    return a < b;
#endif
}

TR_INLINE vm vf_le(vf a, vf b)
{
#if TR_SIMD_512
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
#else
    return a <= b;
#endif
}

TR_INLINE vm vi_lt(vi a, vi b)
{
#if TR_SIMD_512
    return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b);
#else
    return a < b;
#endif
}

TR_INLINE vm vi_eq(vi a, vi b)
{
#if TR_SIMD_512
    return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
#else
    return a == b;
#endif
}

TR_INLINE vm vu_lt(vu a, vu b)
{
#if TR_SIMD_512
    return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b);
#else
    return (vi)(a ^ 0x80000000u) < (vi)(b ^ 0x80000000u);
#endif
}

/* The first n lanes true. */
TR_INLINE vm vm_first(int n)
{
#if TR_SIMD_512
    return simd_mask_n(n);
#else
    return (vi)vu_iota() < n + (vi){0};
#endif
}

/* yes where m, no elsewhere. */
TR_INLINE vf vf_select(vm m, vf yes, vf no)
{
#if TR_SIMD_512
    return (vf)_mm512_mask_blend_ps(m, (__m512)no, (__m512)yes);
#elif TR_SIMD_256
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)m);
#else
    return (vf)(((vi)yes & m) | ((vi)no & ~m));
#endif
}

TR_INLINE vf vf_min(vf a, vf b)
{
#if TR_SIMD_512
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif TR_SIMD_256
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}

TR_INLINE vf vf_max(vf a, vf b)
{
#if TR_SIMD_512
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif TR_SIMD_256
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}

/* a * b + c, fused where the machine can. */
TR_INLINE vf vf_fma(vf a, vf b, vf c)
{
#if TR_SIMD_512
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif TR_SIMD_256
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

TR_INLINE vf vf_abs(vf a)
{
    return (vf)((vu)a & 0x7fffffffu);
}

/* |a| with the sign of b. */
TR_INLINE vf vf_copysign(vf a, vf b)
{
    return (vf)(((vu)a & 0x7fffffffu) | ((vu)b & 0x80000000u));
}

TR_INLINE vf vf_sqrt(vf a)
{
#if TR_SIMD_512
    return (vf)_mm512_sqrt_ps((__m512)a);
#elif TR_SIMD_256
    return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
    return (vf)_mm_sqrt_ps((__m128)a);
#else
    vf r;
    for (int i = 0; i < TR_VL; i++)
        r[i] = sqrtf(a[i]);
    return r;
#endif
}

/* To the nearest integer, ties to even; for |a| < 2^22. */
TR_INLINE vf vf_round(vf a)
{
#if TR_SIMD_512
    return (vf)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif TR_SIMD_256
    return (vf)_mm256_round_ps((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    return (a + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: no room is left for a fraction */
#endif
}

/* Toward zero; a lane that is NaN or out of range gives some number. */
TR_INLINE vi vi_of_vf(vf a)
{
#if TR_SIMD_512
    return (vi)_mm512_cvttps_epi32((__m512)a);
#elif TR_SIMD_256
    return (vi)_mm256_cvttps_epi32((__m256)a);
#elif defined(__SSE2__)
    return (vi)_mm_cvttps_epi32((__m128)a);
#else
    return __builtin_convertvector(vf_select(vf_le(vf_abs(a), vf_set1(1e9f)), a, vf_zero()), vi);
#endif
}

TR_INLINE vf vf_of_vi(vi a)
{
    return __builtin_convertvector(a, vf);
}

TR_INLINE float vf_sum(vf v)
{
#if TR_SIMD_512
    return _mm512_reduce_add_ps((__m512)v);
#elif TR_SIMD_256
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

/* For lanes without NaN. */
TR_INLINE float vf_largest(vf v)
{
#if TR_SIMD_512
    return _mm512_reduce_max_ps((__m512)v);
#elif TR_SIMD_256
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
#else
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
#endif
}

/* Products of bf16 pairs ----------------------------------------------------------------- */

/* Lane i: bf16(even[i]) in the low half, bf16(odd[i]) in the high half. */
TR_INLINE vu vu_pair_bf16(vf even, vf odd)
{
    return simd_round(even) | (simd_round(odd) << 16);
}

/* acc + a.low * b.low + a.high * b.high in each lane. */
TR_INLINE vf vf_dot_bf16(vf acc, vu a, vu b)
{
#if TR_SIMD_512 && defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    acc = vf_fma((vf)(a << 16), (vf)(b << 16), acc);
    return vf_fma((vf)(a & 0xffff0000u), (vf)(b & 0xffff0000u), acc);
#endif
}

/* Tiles ---------------------------------------------------------------------------------- */

#ifdef __AMX_BF16__
/* All eight tiles of this thread: 16 rows of 64 bytes. To be given back by _tile_release. */
TR_INLINE void tr_tiles_configure(void)
{
    struct {
        uint8_t palette, start, none[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = 16;
    }
    __asm__ volatile("" : : "r"(&c) : "memory"); /* gcc 12 does not know that all of it is read */
    _tile_loadconfig(&c);
}
#endif

/* Functions ------------------------------------------------------------------------------
 * Polynomials are our own minimax fits. Errors measured in tests/test_kernels_elementwise.c. */

/* v * 2^n for integral n in [-252, 254]. */
TR_INLINE vf simd_scale2(vf v, vf n)
{
#if TR_SIMD_512
    return (vf)_mm512_scalef_ps((__m512)v, (__m512)n);
#else
    vi i = vi_of_vf(n), half = i >> 1;
    return v * (vf)((half + 127) << 23) * (vf)((i - half + 127) << 23);
#endif
}

/* x = n ln 2 + r; gives (e^r - 1), with |r| <= ln 2 / 2. */
TR_INLINE vf simd_expm1_reduced(vf x, vf *n)
{
    *n = vf_round(x * 1.44269504f);
    vf r = vf_fma(*n, vf_set1(-0.693359375f), x);
    r = vf_fma(*n, vf_set1(2.12194440e-4f), r);
    vf p = vf_fma(vf_set1(0.00138144672f), r, vf_set1(0.00836878084f));
    p = vf_fma(p, r, vf_set1(0.0416683927f));
    p = vf_fma(p, r, vf_set1(0.166665196f));
    p = vf_fma(p, r, vf_set1(0.49999994f));
    return vf_fma(p, r * r, r);
}

/* Relative error below 1.2e-7; exp(-inf) = 0, exp(inf) = inf, NaN stays NaN. */
TR_INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_set1(89.0f), vf_max(vf_set1(-104.0f), x));
    vf n, e = simd_expm1_reduced(x, &n);
    return simd_scale2(e + 1.0f, n);
}

/* Relative error below 2^-13 (and what rounding x brings), for x in [-250, 127]; below 2^-126 zero, or near it. */
TR_INLINE vf vf_exp2_rough(vf x)
{
    vf n = vf_round(x), r = x - n;
    vf p = vf_fma(vf_set1(0.0551715605f), r, vf_set1(0.24261114f));
    p = vf_fma(p, r, vf_set1(0.693261027f));
    return simd_scale2(vf_fma(p, r, vf_set1(0.999928057f)), n);
}

/* 1 / x; relative error below 2^-14. */
TR_INLINE vf vf_inverse_rough(vf x)
{
#if TR_SIMD_512
    return (vf)_mm512_rcp14_ps((__m512)x);
#else
    return 1.0f / x;
#endif
}

/* Relative error below 4e-7 everywhere, also near zero: by e^2|x| - 1. */
TR_INLINE vf vf_tanh(vf x)
{
    vf a = vf_min(vf_set1(20.0f), vf_abs(x) * 2.0f), n;
    vf e = simd_expm1_reduced(a, &n);
    vf two_n = simd_scale2(vf_set1(1.0f), n);
    vf t = vf_fma(two_n, e, two_n - 1.0f);
    vf y = t / (t + 2.0f);
    return vf_copysign(vf_select(vf_le(x, x), y, x), x);
}

TR_INLINE vf vf_sigmoid(vf x)
{
    return 1.0f / (1.0f + vf_exp(-x));
}

/* e^(z*z) erfc(z) for z in [0, 10]: a polynomial in (z - 2) / (z + 2), over 1 + 2 z. */
TR_INLINE vf simd_erfcx(vf z)
{
    vf up = z + 2.0f, one = vf_fma(vf_set1(2.0f), z, vf_set1(1.0f));
    vf inverse = 1.0f / (up * one), q = (z - 2.0f) * one * inverse;
    vf p = vf_fma(vf_set1(-0.000401715224f), q, vf_set1(-0.00123187725f));
    p = vf_fma(p, q, vf_set1(0.00131372258f));
    p = vf_fma(p, q, vf_set1(0.00863327086f));
    p = vf_fma(p, q, vf_set1(-0.00805959944f));
    p = vf_fma(p, q, vf_set1(-0.0542047098f));
    p = vf_fma(p, q, vf_set1(0.164055273f));
    p = vf_fma(p, q, vf_set1(-0.16603139f));
    p = vf_fma(p, q, vf_set1(-0.0927639753f));
    p = vf_fma(p, q, vf_set1(1.27697837f));
    return p * up * inverse;
}

/* e^(-s a*a) for constant s, without the error that rounding a*a brings when it is large. */
TR_INLINE vf simd_exp_square(vf a, float s)
{
    vf square = a * a, low = vf_fma(a, a, -square);
    vf e = vf_exp(square * -s);
    return vf_fma(e, low * -s, e);
}

TR_INLINE vf vf_erf(vf x)
{
    vf a = vf_min(vf_set1(10.0f), vf_abs(x)), s = a * a;
    vf p = vf_fma(vf_set1(7.85386146e-05f), s, vf_set1(-0.000801019371f));
    p = vf_fma(p, s, vf_set1(0.00518832775f));
    p = vf_fma(p, s, vf_set1(-0.0268538129f));
    p = vf_fma(p, s, vf_set1(0.112835854f));
    p = vf_fma(p, s, vf_set1(-0.37612626f));
    p = vf_fma(p, s, vf_set1(1.12837911f)) * a;
    vf far = 1.0f - simd_exp_square(a, 1.0f) * simd_erfcx(a);
    vf y = vf_select(vf_lt(a, vf_set1(1.0f)), p, far);
    return vf_copysign(vf_select(vf_le(x, x), y, x), x);
}

/* (1 + erf(x / sqrt 2)) / 2, small in relative terms too for x far below zero; *density (may be
 * NULL) is its derivative. */
TR_INLINE vf vf_normal_cdf(vf x, vf *density)
{
    vf a = vf_min(vf_set1(16.0f), vf_abs(x)); /* e^-128 is 0 */
    vf e = simd_exp_square(a, 0.5f);
    vf tail = 0.5f * e * simd_erfcx(a * 0.707106781f);
    if (density)
        *density = e * 0.398942280f;
    vf y = vf_select(vf_lt(x, vf_zero()), tail, 1.0f - tail);
    return vf_select(vf_le(x, x), y, x);
}

/* Random words --------------------------------------------------------------------------- */

#if TR_SIMD_512
#define SIMD_MUL32(a, b) (vul) _mm512_mul_epu32((__m512i)(a), (__m512i)(b))
#elif TR_SIMD_256
#define SIMD_MUL32(a, b) (vul) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
#elif defined(__SSE2__)
#define SIMD_MUL32(a, b) (vul) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#else
#define SIMD_MUL32(a, b) (((vul)(a)&0xffffffffu) * ((vul)(b)&0xffffffffu))
#endif

enum { TR_RANDOM_BLOCKS = TR_VL / 2, TR_RANDOM_WORDS = 2 * TR_VL };

/* Words of blocks block .. block + TR_RANDOM_BLOCKS - 1 in order: out[0] has the first TR_VL,
 * out[1] the rest. Word w of block b is tr_random(seed, step, stream, b).word[w]. A 64-bit lane
 * holds one block, so that a product of two words has its place. */
TR_INLINE void vu_random(uint64_t seed, uint32_t step, uint32_t stream, uint64_t block, vu out[2])
{
    vul x0, x1, x2 = stream + (vul){0}, x3 = step + (vul){0};
    /* The order of lanes that the last step, which works on pairs of them, turns into 0, 1, .. */
    for (int i = 0; i < TR_VL / 2; i++)
        x0[i] = (uint64_t)(i % 2 * (TR_VL / 4) + i / 2);
    x0 += block;
    x1 = x0 >> 32;
    const vul m0 = 0xD2511F53u + (vul){0}, m1 = 0xCD9E8D57u + (vul){0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        vul a = SIMD_MUL32(x0, m0), b = SIMD_MUL32(x2, m1);
        x0 = (b >> 32) ^ x1 ^ (uint64_t)k0;
        x2 = (a >> 32) ^ x3 ^ (uint64_t)k1;
        x1 = b;
        x3 = a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vul low = (x0 & 0xffffffffu) | (x1 << 32), high = (x2 & 0xffffffffu) | (x3 << 32);
#if TR_SIMD_512
    out[0] = (vu)_mm512_unpacklo_epi64((__m512i)low, (__m512i)high);
    out[1] = (vu)_mm512_unpackhi_epi64((__m512i)low, (__m512i)high);
#elif TR_SIMD_256
    out[0] = (vu)_mm256_unpacklo_epi64((__m256i)low, (__m256i)high);
    out[1] = (vu)_mm256_unpackhi_epi64((__m256i)low, (__m256i)high);
#else
    out[0] = (vu)(vul){low[0], high[0]};
    out[1] = (vu)(vul){low[1], high[1]};
#endif
}
#undef SIMD_MUL32
