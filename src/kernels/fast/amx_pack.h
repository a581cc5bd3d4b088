/* Panels for products on tiles (amx.c): what the processor multiplies a tile of.
 *
 * A panel is EDGE rows of A or EDGE columns of B. For each STEP of k and each part it is two tiles of 1 KB, as
 * the processor loads them:
 *
 *     A: [panel][k / 32][part][2][16 rows        ][16 pairs of k]
 *     B: [panel][k / 32][part][2][16 pairs of k][16 columns]
 *
 * What lies beyond m, n or k is zero. A pair is two neighbours along k, which where k runs along the rows as
 * stored is a word of memory, and where it does not two rows interleaved; and either is transposed where the
 * other operand's form is wanted. So there are four ways to pack, of two loads and two stores.
 *
 * bf16 has one part. A float has three, which are bf16 and whose sum is the float: what is nearest to it, what is
 * nearest to the rest, and the rest. 24 bits are in them exactly, unless the last part is below 2^-126, which the
 * tiles take as 0. Infinity has a rest that is not a number.
 */
#pragma once
#include <immintrin.h>

#include "base/memory.h"
#include "kernels/fast/simd.h"

enum {
    EDGE = 32, /* rows and columns of a block of C */
    STEP = 32, /* of k in a tile */
    TILE_BYTES = 1024,
    PART_BYTES = 2 * TILE_BYTES, /* of a panel for each step */
    FLOAT_PARTS = 3,
    GROUP = 4, /* panels packed side by side: 256 bytes of a row are read at once */
};

/* A matrix of `rows` (of A, or columns of B) by k, as stored. */
typedef struct operand {
    const void *data;
    int64_t row, rows;
    bool along;      /* k runs along the rows as stored */
    bool transposed; /* B's form from `along`, A's form from the other */
    int parts;       /* 1: bf16; FLOAT_PARTS: f32 */
} operand;

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Bytes of a panel of `depth` of k. */
static int64_t panel_bytes(int64_t depth, int parts)
{
    return up_to(depth, STEP) / STEP * PART_BYTES * parts;
}

/* 16 rows of 16 words become columns. */
TR_INLINE void transpose(__m512i x[16])
{
    __m512i y[16];
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    /* x[4 q + c] has, in its part p of four words, column 4 p + c of rows 4 q .. 4 q + 3 */
    _Pragma("GCC unroll 4")
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), b = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
        __m512i d = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd), e = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
        y[c] = _mm512_shuffle_i32x4(a, b, 0x88);
        y[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
        y[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
        y[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
    }
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++)
        x[i] = y[i];
}

TR_INLINE void store16(void *to, const __m512i x[16], bool transposed)
{
    __m512i y[16];
    memcpy(y, x, sizeof y);
    if (transposed)
        transpose(y);
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++)
        _mm512_store_si512((char *)to + i * 64, y[i]);
}

TR_INLINE __mmask32 first32(int64_t n)
{
    return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}

TR_INLINE __mmask16 first16(int64_t n)
{
    return (__mmask16)first32(n > 16 ? 16 : n);
}

/* The next part of each number, as an f32 that is a bf16; x keeps the rest. The last part is what is left. */
TR_INLINE __m512i next_part(__m512 *x, bool last)
{
    __m512i bits = _mm512_castps_si512(*x);
    if (last)
        return bits;
    bits = _mm512_and_si512(_mm512_add_epi32(bits, _mm512_set1_epi32(0x8000)), _mm512_set1_epi32((int)0xffff0000u));
    *x = _mm512_sub_ps(*x, _mm512_castsi512_ps(bits));
    return bits;
}

/* One step of one panel where k runs along rows: `rows` rows of at most EDGE, `depth` of k at most STEP. */
TR_INLINE void pack_along(char *to, const uint16_t *from, int64_t row, int64_t rows, int64_t depth, bool transposed)
{
    for (int t = 0; t < 2; t++) {
        __m512i x[16];
        _Pragma("GCC unroll 16")
        for (int i = 0; i < 16; i++) {
            int64_t r = t * 16 + i;
            x[i] = r < rows ? _mm512_maskz_loadu_epi16(first32(depth), from + r * row) : _mm512_setzero_si512();
        }
        store16(to + t * TILE_BYTES, x, transposed);
    }
}

TR_INLINE void split_along(char *to, const float *from, int64_t row, int64_t rows, int64_t depth, bool transposed)
{
    static const uint16_t high_halves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                             33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    __m512i halves = _mm512_loadu_si512(high_halves);
    for (int t = 0; t < 2; t++) {
        __m512 low[16], high[16];
        for (int i = 0; i < 16; i++) {
            int64_t r = t * 16 + i;
            low[i] = r < rows ? _mm512_maskz_loadu_ps(first16(depth), from + r * row) : _mm512_setzero_ps();
            high[i] = r < rows ? _mm512_maskz_loadu_ps(first16(depth - 16), from + r * row + 16) : _mm512_setzero_ps();
        }
        for (int p = 0; p < FLOAT_PARTS; p++) {
            __m512i x[16];
            bool last = p == FLOAT_PARTS - 1;
            _Pragma("GCC unroll 16")
            for (int i = 0; i < 16; i++)
                x[i] = _mm512_permutex2var_epi16(next_part(&low[i], last), halves, next_part(&high[i], last));
            store16(to + p * PART_BYTES + t * TILE_BYTES, x, transposed);
        }
    }
}

/* The same where rows run along k: `depth` rows of k, `columns` of at most EDGE. */
TR_INLINE void pack_across(char *to, const uint16_t *from, int64_t row, int64_t columns, int64_t depth,
                           bool transposed)
{
    static const uint16_t order[2][32] = {{0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                           8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
                                          {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                           24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    __m512i low[16], high[16], to_low = _mm512_loadu_si512(order[0]), to_high = _mm512_loadu_si512(order[1]);
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++) {
        __m512i even = 2 * i < depth ? _mm512_maskz_loadu_epi16(first32(columns), from + 2 * i * row)
                                     : _mm512_setzero_si512(),
                odd = 2 * i + 1 < depth ? _mm512_maskz_loadu_epi16(first32(columns), from + (2 * i + 1) * row)
                                        : _mm512_setzero_si512();
        low[i] = _mm512_permutex2var_epi16(even, to_low, odd);
        high[i] = _mm512_permutex2var_epi16(even, to_high, odd);
    }
    store16(to, low, transposed);
    store16(to + TILE_BYTES, high, transposed);
}

TR_INLINE void split_across(char *to, const float *from, int64_t row, int64_t columns, int64_t depth, bool transposed)
{
    for (int t = 0; t < 2; t++) {
        __m512 even[16], odd[16];
        for (int i = 0; i < 16; i++) {
            const float *at = from + 2 * i * row + t * 16;
            __mmask16 these = first16(columns - t * 16);
            even[i] = 2 * i < depth ? _mm512_maskz_loadu_ps(these, at) : _mm512_setzero_ps();
            odd[i] = 2 * i + 1 < depth ? _mm512_maskz_loadu_ps(these, at + row) : _mm512_setzero_ps();
        }
        for (int p = 0; p < FLOAT_PARTS; p++) {
            __m512i x[16];
            bool last = p == FLOAT_PARTS - 1;
            _Pragma("GCC unroll 16")
            for (int i = 0; i < 16; i++)
                x[i] = _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(next_part(&even[i], last), 16),
                                               next_part(&odd[i], last));
            store16(to + p * PART_BYTES + t * TILE_BYTES, x, transposed);
        }
    }
}

TR_INLINE void pack_step(const operand *o, char *to, int64_t at, int64_t rows, int64_t depth, bool transposed)
{
    if (o->parts == 1 && o->along)
        pack_along(to, (const uint16_t *)o->data + at, o->row, rows, depth, transposed);
    else if (o->parts == 1)
        pack_across(to, (const uint16_t *)o->data + at, o->row, rows, depth, transposed);
    else if (o->along)
        split_along(to, (const float *)o->data + at, o->row, rows, depth, transposed);
    else
        split_across(to, (const float *)o->data + at, o->row, rows, depth, transposed);
}

/* `depth` of k at `k` of the panels of rows [from, to), each `panel` bytes after the one before; `from` is a
 * multiple of EDGE. */
static void pack(const operand *o, int64_t from, int64_t to, int64_t k, int64_t depth, char *out, int64_t panel)
{
    for (int64_t group = from; group < to; group += GROUP * EDGE)
        for (int64_t l = 0; l < depth; l += STEP)
            for (int64_t r = group; r < TR_MIN(to, group + GROUP * EDGE); r += EDGE) {
                char *at = out + (r - from) / EDGE * panel + l / STEP * PART_BYTES * o->parts;
                int64_t rows = TR_MIN(EDGE, o->rows - r), deep = TR_MIN(STEP, depth - l);
                int64_t data = o->along ? r * o->row + k + l : (k + l) * o->row + r;
                if (rows == EDGE && deep == STEP)
                    o->transposed ? pack_step(o, at, data, EDGE, STEP, true) : pack_step(o, at, data, EDGE, STEP, false);
                else
                    o->transposed ? pack_step(o, at, data, rows, deep, true) : pack_step(o, at, data, rows, deep, false);
            }
}
