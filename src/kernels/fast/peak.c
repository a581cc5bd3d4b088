/* The peak loops of one instruction set: independent multiply-adds in registers, and a read of memory. */
#include "kernels/peak.h"

#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

enum { CHAINS = 12 };

tr_peak_loop TR_PASTE(tr_peak, TR_ISA, loop);
tr_read_loop TR_PASTE(tr_read, TR_ISA, loop);

#ifdef __AMX_BF16__
/* Four tiles of sums, as many as products use: a product takes 16 cycles, and its sum is there in 52. */
static double tile_loop(int64_t rounds)
{
    tr_tiles_configure();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t r = 0; r < rounds / 16; r++) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_release();
    return 4.0 * 2 * 16 * 16 * 32 * (double)(rounds / 16);
}
#endif

double TR_PASTE(tr_peak, TR_ISA, loop)(int64_t rounds, bool bf16)
{
    /* Different starts, or the compiler would keep one chain for all. */
    vf a0 = vf_set1(0), a1 = vf_set1(1), a2 = vf_set1(2), a3 = vf_set1(3), a4 = vf_set1(4), a5 = vf_set1(5),
       a6 = vf_set1(6), a7 = vf_set1(7), a8 = vf_set1(8), a9 = vf_set1(9), a10 = vf_set1(10), a11 = vf_set1(11);
    vf x = vf_set1(0.5f), y = vf_set1(0.25f);
#define ALL(STEP) \
    STEP(a0) STEP(a1) STEP(a2) STEP(a3) STEP(a4) STEP(a5) STEP(a6) STEP(a7) STEP(a8) STEP(a9) STEP(a10) STEP(a11)
    double per_vector = 2.0 * CHAINS * TR_VL;
#ifdef __AMX_BF16__
    if (bf16)
        return tile_loop(rounds);
#endif
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
    if (bf16) {
        for (int64_t r = 0; r < rounds; r++) {
#define STEP(a) a = vf_dot_bf16(a, (vu)x, (vu)y);
            ALL(STEP)
#undef STEP
        }
        per_vector *= 2;
    } else
#endif
    {
        for (int64_t r = 0; r < rounds; r++) {
#define STEP(a) a = vf_fma(a, x, y);
            ALL(STEP)
#undef STEP
        }
    }
    (void)bf16;
    /* The sums must be seen to be used. */
    volatile float sink = vf_sum(((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) + ((a8 + a9) + (a10 + a11)));
    (void)sink;
    return per_vector * (double)rounds;
}

uint64_t TR_PASTE(tr_read, TR_ISA, loop)(const uint64_t *words, int64_t n)
{
    uint64_t s[16] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            s[k] += words[i + k];
    for (int k = 0; k < 16; k++)
        sum += s[k];
    return sum;
}
