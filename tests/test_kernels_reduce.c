/* sum_leading and global_norm: fast kernels against the reference. `test_kernels_reduce bench`
 * prints speeds. */
#include "check_kernels.h"

static const tr_dtype dtypes[] = {TR_F32, TR_BF16};

static void test_sum_leading(void)
{
    static const int64_t shapes[][2] = {
        {1, 1},     {1, 5},     {3, 1},     {8, 16},   {9, 17},    {31, 33},  {64, 48},   {65, 7},
        {100, 768}, {257, 100}, {1000, 40}, {5, 9000}, {70, 8193}, {5000, 3}, {2051, 65}, {0, 20}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int k = 0; k < 4; k++) {
            bool acc = k & 2;
            kernel_case c = {.op = TR_OP_sum_leading,
                             .n_in = 2,
                             .n_out = 1,
                             .accumulates = acc,
                             .attrs = {{.i = 2}}};
            /* A sum that grows: cancellation would hide what is lost. */
            c.in[0] = kc_uniform(dtypes[k & 1], KC_DIMS(shapes[s][0], shapes[s][1], 1), 0.5, 2);
            c.in[1] = acc ? kc_uniform(TR_F32, KC_DIMS(shapes[s][1], 1), 0, 3) : kc_absent;
            c.out[0] = kc_shape(TR_F32, KC_DIMS(shapes[s][1], 1));
            c.over[0] = acc ? 2 : 0;
            c.absolute[0] = 2e-6;
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

static void test_global_norm(void)
{
    for (int count = 1; count <= KC_MAX; count++)
        for (int k = 0; k < 2; k++) {
            static const int64_t sizes[] = {1, 33, 768, 32768, 32769, 131072, 200001, 7};
            kernel_case c = {.op = TR_OP_global_norm, .n_in = count, .n_out = 1};
            for (int i = 0; i < count; i++)
                c.in[i] = kc_uniform(dtypes[(i + k) % 2], KC_DIMS(sizes[i % 8]), 0, 1e-3 * (i + 1));
            c.out[0] = kc_shape(TR_F32, KC_DIMS(1));
            c.relative[0] = 1e-6;
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

/* What is not finite must show, wherever it is. */
static void test_global_norm_not_finite(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 100; i += 33)
        for (int b = 0; b < 3; b++) {
            kernel_case c = {.op = TR_OP_global_norm, .n_in = 2, .n_out = 1};
            c.in[0] = kc_uniform(TR_F32, KC_DIMS(1000), 0, 1);
            c.in[1] = kc_uniform(TR_BF16, KC_DIMS(100), 0, 1);
            kc_set(&c.in[1], i, (double)bad[b]);
            c.out[0] = kc_shape(TR_F32, KC_DIMS(1));
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

static void bench(void)
{
    static const int64_t shapes[][2] = {{8192, 768}, {8192, 3072}, {8, 1024 * 768}, {8192, 50304}};
    char name[64];
    for (int s = 0; s < 4; s++)
        for (int k = 0; k < 2; k++) {
            int64_t elems = shapes[s][0] * shapes[s][1];
            if (elems > 30000000)
                continue;
            kernel_case c = {.op = TR_OP_sum_leading, .n_in = 1, .n_out = 1, .attrs = {{.i = 1}}};
            c.in[0] = kc_uniform(dtypes[k], KC_DIMS(shapes[s][0], shapes[s][1]), 0, 1);
            c.out[0] = kc_shape(TR_F32, KC_DIMS(shapes[s][1]));
            snprintf(name, sizeof name, "sum_leading %lldx%lld %s", (long long)shapes[s][0],
                     (long long)shapes[s][1], k ? "bf16" : "f32");
            kernel_bench(name, &c, (double)kc_bytes(&c.in[0]));
            c.op = TR_OP_global_norm;
            c.out[0] = kc_shape(TR_F32, KC_DIMS(1));
            snprintf(name, sizeof name, "global_norm %lld %s", (long long)elems,
                     k ? "bf16" : "f32");
            kernel_bench(name, &c, (double)kc_bytes(&c.in[0]));
            kc_free_inputs(&c);
        }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench();
        return 0;
    }
    TEST(test_sum_leading);
    TEST(test_global_norm);
    TEST(test_global_norm_not_finite);
    return check_report();
}
