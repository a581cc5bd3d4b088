/* Normal numbers: those of Box and Muller by the C library, the same bits at every width, the right moments. */
#include <math.h>
#include <string.h>

#include "base/random.h"
#include "check.h"

static double by_library(uint64_t seed, uint32_t step, uint32_t stream, uint64_t index)
{
    tr_random4 r = tr_random(seed, step, stream, index);
    double u = ((double)r.word[0] + 1.0) * 0x1p-32, v = (double)r.word[1] * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static void compare(uint64_t seed, uint32_t stream, uint64_t first, double *sums)
{
    uint64_t index[TR_NORMALS];
    float x[TR_NORMALS], other[TR_NORMALS];
    for (uint64_t k = 0; k < TR_NORMALS; k++)
        index[k] = first + k * 0x123456789u;
    tr_random_normals(seed, 3, stream, index, x);
    for (int width = 0; width <= 512; width += 256) {
        tr_random_normals_at(width, seed, 3, stream, index, other);
        CHECK(memcmp(x, other, sizeof x) == 0);
    }
    for (int k = 0; k < TR_NORMALS; k++) {
        double want = by_library(seed, 3, stream, index[k]);
        CHECK(fabs(x[k] - want) <= 0x1p-24 * fabs(want) + 1e-14);
        double power = 1;
        for (int p = 0; p < 5; p++, power *= x[k])
            sums[p] += power;
    }
}

static void test_normals(void)
{
    double sums[5] = {0};
    for (uint64_t i = 0; i < 100000; i++)
        compare(i % 3 * 0x9876543210u, (uint32_t)(i % 5), i * 0x3fffffff1u, sums);
    double n = sums[0];
    CHECK(fabs(sums[1] / n) < 0.005);
    CHECK(fabs(sums[2] / n - 1) < 0.008);
    CHECK(fabs(sums[3] / n) < 0.02);
    CHECK(fabs(sums[4] / n - 3) < 0.06);
}

int main(void)
{
    TEST(test_normals);
    return check_report();
}
