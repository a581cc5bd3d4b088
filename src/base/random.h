/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A number is a pure function of (seed, step, stream, index), so what is drawn
 * does not depend on the layout, the thread count or the order of evaluation.
 */
#pragma once
#include <math.h>
#include <stdint.h>

typedef struct tr_random4 {
    uint32_t word[4];
} tr_random4;

#define TR_RANDOM_M0 0xD2511F53u
#define TR_RANDOM_M1 0xCD9E8D57u
#define TR_RANDOM_K0 0x9E3779B9u
#define TR_RANDOM_K1 0xBB67AE85u
enum { TR_RANDOM_ROUNDS = 10 };

static inline tr_random4 tr_random(uint64_t seed, uint32_t step, uint32_t stream, uint64_t index)
{
    uint32_t x0 = (uint32_t)index, x1 = (uint32_t)(index >> 32), x2 = stream, x3 = step;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < TR_RANDOM_ROUNDS; round++) {
        uint64_t a = (uint64_t)TR_RANDOM_M0 * x0, b = (uint64_t)TR_RANDOM_M1 * x2;
        uint32_t y0 = (uint32_t)(b >> 32) ^ x1 ^ k0, y2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)b;
        x3 = (uint32_t)a;
        x0 = y0;
        x2 = y2;
        k0 += TR_RANDOM_K0;
        k1 += TR_RANDOM_K1;
    }
    return (tr_random4){{x0, x1, x2, x3}};
}

/* Uniform in [0, 1) with 24 bits. */
static inline float tr_random_unit(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* Standard normal numbers (Box-Muller on two of the four words of each index). The same bits at every width of registers;
 * _at: of at most so many bits. */
enum { TR_NORMALS = 8 };
void tr_random_normals(uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[TR_NORMALS],
                       float out[TR_NORMALS]);
void tr_random_normals_at(int width, uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[TR_NORMALS],
                          float out[TR_NORMALS]);
