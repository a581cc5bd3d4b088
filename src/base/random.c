/* Normal numbers by Box and Muller, eight at once: sqrt(-2 log u) cos(2 pi v).
 *
 * A model's first parameters are hundreds of millions of them, so the lanes are vectors, compiled once for each width of
 * registers. No product is joined with a sum (-ffp-contract=off) and log and cos are the series below, so that every
 * machine and every C library gives the same bits.
 */
#include "base/random.h"

enum { N = TR_NORMALS };
typedef uint64_t words __attribute__((vector_size(N * 8)));
typedef double reals __attribute__((vector_size(N * 8)));

#define INLINE static inline __attribute__((always_inline))

/* *a where m is all ones, *b where it is zero. Vectors go by address: their size is no part of every calling convention. */
INLINE void choose(const words *m, const reals *a, const reals *b, reals *out)
{
    *out = (reals)(((words)*a & *m) | ((words)*b & ~*m));
}

/* Whole numbers below 2^52: as the last bits of 2^52 + x. */
INLINE void to_reals(const words *x, reals *out)
{
    *out = (reals)(*x | 0x4330000000000000u) - 0x1p52;
}

/* x normal and positive. x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh s, s = (m - 1) / (m + 1). */
INLINE void log_of(const reals *x, reals *out)
{
    words bits = (words)*x - 0x3fe6a09e667f3bcdu; /* less sqrt(1/2): the exponent turns over there */
    words e = (bits >> 52) + ((bits >> 63) * (uint64_t)-4096);
    reals m = (reals)((words)*x - (e << 52)), exponent, s = (m - 1.0) / (m + 1.0), z = s * s, p = z * (1.0 / 21) + 1.0 / 19;
    words biased = e + 4096;
    to_reals(&biased, &exponent);
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    *out = (exponent - 4096.0) * 0.69314718055994531 + (s + s * z * p) * 2.0;
}

/* cos(2 pi v 2^-32): v to the nearest quarter of the circle, and Taylor's series of cos or sin on the rest of it, which is
 * at most an eighth. */
INLINE void cos_of_turn(const words *v, reals *out)
{
    words moved = *v + 0x20000000u, quarter = moved >> 30, rest = moved & 0x3fffffffu;
    reals a, c, s;
    to_reals(&rest, &a);
    a = (a - 0x1p29) * (1.5707963267948966 * 0x1p-30);
    reals z = a * a;
    c = z * (1.0 / 20922789888000) - 1.0 / 87178291200;
    c = c * z + 1.0 / 479001600;
    c = c * z - 1.0 / 3628800;
    c = c * z + 1.0 / 40320;
    c = c * z - 1.0 / 720;
    c = c * z + 1.0 / 24;
    c = c * z - 0.5;
    c = c * z + 1.0;
    s = z * (-1.0 / 1307674368000) + 1.0 / 6227020800;
    s = s * z - 1.0 / 39916800;
    s = s * z + 1.0 / 362880;
    s = s * z - 1.0 / 5040;
    s = s * z + 1.0 / 120;
    s = s * z - 1.0 / 6;
    s = a + a * z * s;
    words odd = -(quarter & 1), negative = ((quarter + 1) & 2) << 62;
    choose(&odd, &s, &c, out);
    *out = (reals)((words)*out ^ negative);
}

INLINE void normals(uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[N], float out[N])
{
    const uint64_t low = 0xffffffffu;
    words x0, x1, x2 = (words){0} + stream, x3 = (words){0} + step;
    for (int i = 0; i < N; i++)
        x0[i] = index[i];
    x1 = x0 >> 32;
    x0 &= low;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < TR_RANDOM_ROUNDS; round++) {
        words a = x0 * TR_RANDOM_M0, b = x2 * TR_RANDOM_M1;
        x0 = (b >> 32) ^ x1 ^ (uint64_t)k0;
        x2 = (a >> 32) ^ x3 ^ (uint64_t)k1;
        x1 = b & low;
        x3 = a & low;
        k0 += TR_RANDOM_K0;
        k1 += TR_RANDOM_K1;
    }
    reals u, radius, turn;
    x0 += 1;
    to_reals(&x0, &u);
    u *= 0x1p-32;
    log_of(&u, &radius);
    cos_of_turn(&x1, &turn);
    double square[N];
    for (int i = 0; i < N; i++)
        square[i] = sqrt(-2.0 * radius[i]);
    for (int i = 0; i < N; i++)
        out[i] = (float)(square[i] * turn[i]);
}

typedef void normals_fn(uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[N], float out[N]);

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512dq"))) static void normals_avx512(uint64_t seed, uint32_t step, uint32_t stream,
                                                                      const uint64_t index[N], float out[N])
{
    normals(seed, step, stream, index, out);
}

__attribute__((target("avx2"))) static void normals_avx2(uint64_t seed, uint32_t step, uint32_t stream,
                                                         const uint64_t index[N], float out[N])
{
    normals(seed, step, stream, index, out);
}
#endif

static void normals_portable(uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[N], float out[N])
{
    normals(seed, step, stream, index, out);
}

void tr_random_normals_at(int width, uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[N], float out[N])
{
    normals_fn *run = normals_portable;
#if defined(__x86_64__)
    if (width >= 512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        run = normals_avx512;
    else if (width >= 256 && __builtin_cpu_supports("avx2"))
        run = normals_avx2;
#else
    (void)width;
#endif
    run(seed, step, stream, index, out);
}

void tr_random_normals(uint64_t seed, uint32_t step, uint32_t stream, const uint64_t index[N], float out[N])
{
    tr_random_normals_at(512, seed, step, stream, index, out);
}
