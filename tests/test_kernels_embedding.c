/* embedding and embedding_grad: fast kernels against the reference. `test_kernels_embedding bench`
 * prints speeds. */
#include "check_kernels.h"

static const tr_dtype dtypes[] = {TR_F32, TR_BF16};
/* ids, rows of the table, columns */
static const int64_t shapes[][3] = {{1, 1, 1},       {7, 5, 3},    {20, 300, 16},  {50, 10, 33},
                                    {33, 50, 64},    {100, 7, 65}, {40, 100, 130}, {300, 40, 200},
                                    {61, 1000, 768}, {0, 9, 5}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Some ids are just outside the table. */
static tr_tensor random_ids(int64_t n, int64_t rows)
{
    tr_tensor ids = kc_uniform(TR_I32, KC_DIMS(n), 0, 0);
    for (int64_t i = 0; i < n; i++)
        kc_set(&ids, i, floor((kc_random() + 1) / 2 * (double)(rows + 2)) - 1);
    return ids;
}

static void test_embedding(void)
{
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 2; k++) {
            kernel_case c = {.op = TR_OP_embedding, .n_in = 2, .n_out = 1};
            c.in[0] = kc_uniform(dtypes[k], KC_DIMS(shapes[s][1], shapes[s][2]), 0, 1);
            c.in[1] = random_ids(shapes[s][0], shapes[s][1]);
            c.out[0] = kc_shape(dtypes[k], KC_DIMS(shapes[s][0], shapes[s][2]));
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

static kernel_case grad_case(tr_dtype dtype, int64_t n, int64_t rows, int64_t d, bool acc)
{
    kernel_case c = {.op = TR_OP_embedding_grad,
                     .n_in = 3,
                     .n_out = 1,
                     .accumulates = acc,
                     .attrs = {{.i = rows}}};
    c.in[0] = random_ids(n, rows);
    c.in[1] = kc_uniform(dtype, KC_DIMS(n, d), 0, 1);
    c.in[2] = acc ? kc_uniform(TR_F32, KC_DIMS(rows, d), 0, 1) : kc_absent;
    c.out[0] = kc_shape(TR_F32, KC_DIMS(rows, d));
    c.over[0] = acc ? 3 : 0;
    c.relative[0] = c.absolute[0] = 2e-6;
    return c;
}

static void test_embedding_grad(void)
{
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 4; k++) {
            kernel_case c =
                grad_case(dtypes[k & 1], shapes[s][0], shapes[s][1], shapes[s][2], k & 2);
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

/* More threads than blocks of columns: rows are cut too; the bits stay. */
static void test_many_threads(void)
{
    kernel_case c = grad_case(TR_F32, 500, 90, 100, false);
    tr_tensor one[KC_MAX], many[KC_MAX];
    for (tr_isa isa = 0; isa <= tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel = tr_kernel_fast(c.op, isa, 0);
        if (!kernel)
            continue;
        CHECK(kc_run(&c, kernel, false, 1, one));
        for (int threads = 3; threads <= 7; threads += 2) {
            CHECK(kc_run(&c, kernel, false, threads, many));
            CHECK(memcmp(one[0].data, many[0].data, (size_t)kc_bytes(&one[0])) == 0);
            kc_drop(&c, many);
        }
        kc_drop(&c, one);
    }
    kc_free_inputs(&c);
}

static void bench(void)
{
    enum { N = 8192, ROWS = 50304, D = 768 };
    char name[64];
    for (int k = 0; k < 2; k++) {
        const char *dtype = k ? "bf16" : "f32";
        kernel_case c = {.op = TR_OP_embedding, .n_in = 2, .n_out = 1};
        c.in[0] = kc_uniform(dtypes[k], KC_DIMS(ROWS, D), 0, 1);
        c.in[1] = random_ids(N, ROWS);
        c.out[0] = kc_shape(dtypes[k], KC_DIMS(N, D));
        snprintf(name, sizeof name, "embedding %s", dtype);
        kernel_bench(name, &c, 2 * (double)kc_bytes(&c.out[0]));
        kc_free_inputs(&c);
        for (int acc = 0; acc < 2; acc++) {
            c = grad_case(dtypes[k], N, ROWS, D, acc);
            snprintf(name, sizeof name, "embedding_grad%s %s", acc ? " acc" : "", dtype);
            kernel_bench(name, &c,
                         (double)kc_bytes(&c.in[1]) + 8.0 * N * D + (acc ? 0 : 4.0 * ROWS * D));
            kc_free_inputs(&c);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench();
        return 0;
    }
    TEST(test_embedding);
    TEST(test_embedding_grad);
    TEST(test_many_threads);
    return check_report();
}
