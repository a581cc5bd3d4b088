/* Blocks of GGUF's types; see gguf_block.h. The forms are those of ggml-quants (ggml-common.h has the structs); each is
 * drawn before its function, in bytes, and `tests/test_gguf.c` compares all with an independent decoder.
 *
 * Two generations. The first has blocks of 32 with a scale d, and in *_1 an offset m. K-quants have blocks of 256, cut
 * in groups of 16 or 32 whose small integer scales (and in some types minima) are multiples of one d (and one `dmin`).
 * All numbers d, m and dmin are f16. Products are in the order that ggml has, so that the same f32 comes out.
 */
#include "data/gguf_block.h"

#include <string.h>

#include "base/memory.h"

enum { SMALL = 32, LARGE = 256 };

static float half_at(const unsigned char *from)
{
    uint16_t bits;
    memcpy(&bits, from, 2);
    return tr_f16_to_f32(bits);
}

/* `width` bits from bit `shift` of a byte on. */
static int bits_of(unsigned char byte, int shift, int width)
{
    return byte >> shift & ((1 << width) - 1);
}

/* d 2, quants 32 x i8 */
static void q8_0(const unsigned char *from, float *out)
{
    float d = half_at(from);
    for (int i = 0; i < SMALL; i++)
        out[i] = d * (float)(int8_t)from[2 + i];
}

/* Element i of a block of 4-bit quants: byte j has element j in its low half and element j + 16 in its high one. */
static int quant4(const unsigned char *quants, int i)
{
    return bits_of(quants[i % 16], i / 16 * 4, 4);
}

static int fifth_bit(const unsigned char *fifths, int i)
{
    return bits_of(fifths[i / 8], i % 8, 1) << 4;
}

/* d 2, quants 16 */
static void q4_0(const unsigned char *from, float *out)
{
    float d = half_at(from);
    for (int i = 0; i < SMALL; i++)
        out[i] = d * (float)(quant4(from + 2, i) - 8);
}

/* d 2, m 2, quants 16 */
static void q4_1(const unsigned char *from, float *out)
{
    float d = half_at(from), m = half_at(from + 2);
    for (int i = 0; i < SMALL; i++)
        out[i] = d * (float)quant4(from + 4, i) + m;
}

/* d 2, fifth bits 4, quants 16 */
static void q5_0(const unsigned char *from, float *out)
{
    float d = half_at(from);
    for (int i = 0; i < SMALL; i++)
        out[i] = d * (float)((quant4(from + 6, i) | fifth_bit(from + 2, i)) - 16);
}

/* d 2, m 2, fifth bits 4, quants 16 */
static void q5_1(const unsigned char *from, float *out)
{
    float d = half_at(from), m = half_at(from + 2);
    for (int i = 0; i < SMALL; i++)
        out[i] = d * (float)(quant4(from + 8, i) | fifth_bit(from + 4, i)) + m;
}

/* K-quants keep 128 elements in 32 bytes of two bits: of byte l its bits 2 j, 2 j + 1 are of element 32 j + l. */
static int two_bits(const unsigned char *from, int i)
{
    return bits_of(from[i / 128 * 32 + i % 32], i % 128 / 32 * 2, 2);
}

/* Four bits: 64 elements in 32 bytes, the first 32 of them in the low halves. */
static int four_bits(const unsigned char *from, int i)
{
    return bits_of(from[i / 64 * 32 + i % 32], i % 64 / 32 * 4, 4);
}

/* scales and minima of 16 groups of 16: 16 x (4 bits, 4 bits); quants 64; d 2; dmin 2 */
static void q2_k(const unsigned char *from, float *out)
{
    float d = half_at(from + 80), dmin = half_at(from + 82);
    for (int i = 0; i < LARGE; i++) {
        float scale = d * (float)bits_of(from[i / 16], 0, 4), least = dmin * (float)bits_of(from[i / 16], 4, 4);
        out[i] = scale * (float)two_bits(from + 16, i) - least;
    }
}

/* third bits 32 (bit j of byte l is of element 32 j + l; not set: 4 less); quants 64; scales of 16 groups of 16, six
 * bits each, 12: low halves in eight bytes of nibbles, then the upper two bits in four; d 2 */
static void q3_k(const unsigned char *from, float *out)
{
    const unsigned char *scales = from + 96;
    float d = half_at(from + 108);
    for (int i = 0; i < LARGE; i++) {
        int g = i / 16, low = bits_of(scales[g % 8], g / 8 * 4, 4), high = bits_of(scales[8 + g % 4], g / 4 * 2, 2);
        int quant = two_bits(from + 32, i) - (bits_of(from[i % 32], i / 32, 1) ? 0 : 4);
        out[i] = d * (float)((low | high << 4) - 32) * (float)quant;
    }
}

/* Six bits each of the scale and the minimum of group g of 8, in 12 bytes: those of the first four groups lie in the
 * low six bits of a byte, the others are four bits and the upper two of the first's bytes. */
static void scale_and_least(const unsigned char *from, int g, int *scale, int *least)
{
    if (g < 4) {
        *scale = bits_of(from[g], 0, 6);
        *least = bits_of(from[g + 4], 0, 6);
    } else {
        *scale = bits_of(from[g + 4], 0, 4) | bits_of(from[g - 4], 6, 2) << 4;
        *least = bits_of(from[g + 4], 4, 4) | bits_of(from[g], 6, 2) << 4;
    }
}

/* d 2; dmin 2; scales and minima of 8 groups of 32, 12; for Q5_K the fifth bits 32 (bit j of byte l is of element
 * 32 j + l); quants 128 */
static void q45_k(const unsigned char *from, const unsigned char *fifths, const unsigned char *quants, float *out)
{
    float d = half_at(from), dmin = half_at(from + 2);
    for (int g = 0; g < LARGE / 32; g++) {
        int scale, least;
        scale_and_least(from + 4, g, &scale, &least);
        for (int i = g * 32; i < g * 32 + 32; i++) {
            int quant = four_bits(quants, i) | (fifths ? bits_of(fifths[i % 32], g, 1) << 4 : 0);
            out[i] = d * (float)scale * (float)quant - dmin * (float)least;
        }
    }
}

static void q4_k(const unsigned char *from, float *out)
{
    q45_k(from, NULL, from + 16, out);
}

static void q5_k(const unsigned char *from, float *out)
{
    q45_k(from, from + 16, from + 48, out);
}

/* low four bits 128 (128 elements in 64 bytes, the first 64 in the low halves); upper two bits 64; scales of 16 groups
 * of 16: 16 x i8; d 2 */
static void q6_k(const unsigned char *from, float *out)
{
    float d = half_at(from + 208);
    for (int i = 0; i < LARGE; i++) {
        int low = bits_of(from[i / 128 * 64 + i % 64], i % 128 / 64 * 4, 4);
        int quant = (low | two_bits(from + 128, i) << 4) - 32;
        out[i] = d * (float)(int8_t)from[192 + i / 16] * (float)quant;
    }
}

static const tr_gguf_block blocks[] = {
    {"F32", 0, 1, 4, TR_F32, NULL},        {"F16", 1, 1, 2, TR_F16, NULL},
    {"BF16", 30, 1, 2, TR_BF16, NULL},     {"Q8_0", 8, SMALL, 34, TR_F32, q8_0},
    {"Q4_0", 2, SMALL, 18, TR_F32, q4_0},  {"Q4_1", 3, SMALL, 20, TR_F32, q4_1},
    {"Q5_0", 6, SMALL, 22, TR_F32, q5_0},  {"Q5_1", 7, SMALL, 24, TR_F32, q5_1},
    {"Q2_K", 10, LARGE, 84, TR_F32, q2_k}, {"Q3_K", 11, LARGE, 110, TR_F32, q3_k},
    {"Q4_K", 12, LARGE, 144, TR_F32, q4_k}, {"Q5_K", 13, LARGE, 176, TR_F32, q5_k},
    {"Q6_K", 14, LARGE, 210, TR_F32, q6_k},
};

const tr_gguf_block *tr_gguf_block_at(int k)
{
    return k < TR_COUNT(blocks) ? &blocks[k] : NULL;
}

const tr_gguf_block *tr_gguf_block_find(int type)
{
    for (int k = 0; k < TR_COUNT(blocks); k++)
        if (blocks[k].type == type)
            return &blocks[k];
    return NULL;
}
