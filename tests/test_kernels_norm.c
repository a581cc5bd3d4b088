/* layer_norm, add_layer_norm, layer_norm_grad: fast kernels against the reference, the reference's
 * gradient against differences. `test_kernels_norm bench` prints speeds. */
#include "check_kernels.h"

static const tr_dtype dtypes[] = {TR_F32, TR_BF16};
static const int64_t shapes[][2] = {{1, 1},    {2, 3},    {5, 8},    {3, 15},    {7, 16},
                                    {1, 33},   {33, 31},  {64, 48},  {130, 100}, {9, 257},
                                    {70, 768}, {3, 1000}, {1000, 24}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void tolerate(kernel_case *c)
{
    for (int k = 0; k < c->n_out; k++) {
        bool bf16 = c->out[k].dtype == TR_BF16;
        c->relative[k] = bf16 ? 0x1p-7 : 3e-6;
        c->absolute[k] = 3e-6;
    }
}

static kernel_case forward_case(tr_op op, tr_dtype dtype, tr_dtype weights, int64_t rows, int64_t d,
                                double offset)
{
    int adds = op == TR_OP_add_layer_norm;
    kernel_case c = {.op = op, .n_in = 3 + adds, .n_out = 3 + adds, .attrs = {{.f = 1e-5}}};
    for (int k = 0; k <= adds; k++)
        c.in[k] = kc_uniform(dtype, KC_DIMS(rows, d), offset, 2);
    c.in[1 + adds] = kc_uniform(weights, KC_DIMS(d), 1, 1);
    c.in[2 + adds] = kc_uniform(weights, KC_DIMS(d), 0, 1);
    for (int k = 0; k <= adds; k++)
        c.out[k] = c.in[0];
    c.out[1 + adds] = c.out[2 + adds] = kc_shape(TR_F32, KC_DIMS(rows));
    tolerate(&c);
    return c;
}

static void test_layer_norm(void)
{
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 4; k++) {
            /* A row of one has variance 0, and rstd multiplies what rounding leaves. */
            kernel_case c = forward_case(TR_OP_layer_norm, dtypes[k & 1], dtypes[k >> 1],
                                         shapes[s][0], shapes[s][1], shapes[s][1] == 1 ? 0 : 0.5);
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

static void test_add_layer_norm(void)
{
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 8; k++) {
            kernel_case c = forward_case(TR_OP_add_layer_norm, dtypes[k & 1], dtypes[k >> 1 & 1],
                                         shapes[s][0], shapes[s][1], 0.1);
            c.over[0] = k & 4 ? 1 : 2;
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

/* Variance must survive a mean that is 1000 times the deviation. */
static void test_large_mean(void)
{
    kernel_case c = forward_case(TR_OP_layer_norm, TR_F32, TR_F32, 9, 500, 2000);
    c.absolute[0] = 2e-4; /* the mean itself is rounded, by 6e-8 of 2000 */
    c.relative[2] = 1e-5;
    CHECK(kernel_check(&c) > 0);
    kc_free_inputs(&c);
}

static kernel_case grad_case(tr_dtype dtype, tr_dtype weights, int64_t rows, int64_t d, bool acc)
{
    kernel_case c = {.op = TR_OP_layer_norm_grad, .n_in = 6, .n_out = 3, .accumulates = acc};
    c.in[0] = kc_uniform(dtype, KC_DIMS(rows, d), 0, 1);
    c.in[1] = kc_uniform(dtype, KC_DIMS(rows, d), 0.5, 2);
    c.in[2] = kc_uniform(weights, KC_DIMS(d), 1, 1);
    c.in[3] = kc_uniform(TR_F32, KC_DIMS(rows), 0.5, 0.1);
    c.in[4] = kc_uniform(TR_F32, KC_DIMS(rows), 1, 0.2);
    c.in[5] = acc ? kc_uniform(dtype, KC_DIMS(rows, d), 0, 1) : kc_absent;
    c.out[0] = c.in[1];
    c.out[1] = c.out[2] = kc_shape(weights, KC_DIMS(d));
    c.over[0] = acc ? 6 : 1;
    tolerate(&c);
    return c;
}

static void test_layer_norm_grad(void)
{
    for (int s = 0; s < SHAPES; s++)
        for (int k = 0; k < 8; k++) {
            kernel_case c =
                grad_case(dtypes[k & 1], dtypes[k >> 1 & 1], shapes[s][0], shapes[s][1], k & 4);
            CHECK(kernel_check(&c) > 0);
            kc_free_inputs(&c);
        }
}

/* sum(y * dy) moves by dx, dw, db. */
static double objective(const kernel_case *forward, const tr_tensor *dy, tr_tensor *out)
{
    double sum = 0;
    CHECK(kc_run(forward, tr_kernel_reference(TR_OP_layer_norm), false, 1, out));
    for (int64_t i = 0; i < tr_tensor_elems(dy); i++)
        sum += kc_get(dy, i) * kc_get(&out[0], i);
    return sum;
}

static void test_gradient(void)
{
    kernel_case f = forward_case(TR_OP_layer_norm, TR_F32, TR_F32, 3, 5, 0.2);
    kernel_case g = grad_case(TR_F32, TR_F32, 3, 5, false);
    tr_tensor out[KC_MAX], grads[KC_MAX], ignored[KC_MAX];
    objective(&f, &g.in[0], out);
    for (int k = 0; k < 4; k++) {
        tr_tensor *to = &g.in[1 + k], from = k < 2 ? f.in[k] : out[k - 1];
        for (int64_t i = 0; i < tr_tensor_elems(to); i++)
            kc_set(to, i, kc_get(&from, i));
    }
    CHECK(kc_run(&g, tr_kernel_reference(TR_OP_layer_norm_grad), false, 1, grads));
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < tr_tensor_elems(&f.in[k]); i++) {
            double at = kc_get(&f.in[k], i), step = 0x1p-7;
            kc_set(&f.in[k], i, at + step);
            double up = objective(&f, &g.in[0], ignored);
            kc_drop(&f, ignored);
            kc_set(&f.in[k], i, at - step);
            double down = objective(&f, &g.in[0], ignored);
            kc_drop(&f, ignored);
            kc_set(&f.in[k], i, at);
            CHECK_NEAR(kc_get(&grads[k], i), (up - down) / (2 * step), 1e-3);
        }
    kc_drop(&f, out);
    kc_drop(&g, grads);
    kc_free_inputs(&f);
    kc_free_inputs(&g);
}

static void bench(void)
{
    static const int64_t widths[] = {768, 2048};
    char name[64];
    for (int s = 0; s < 2; s++)
        for (int k = 0; k < 2; k++) {
            const char *dtype = k ? "bf16" : "f32";
            int64_t rows = 8192, d = widths[s];
            double size = (double)(rows * d) * (k ? 2 : 4);
            kernel_case c = forward_case(TR_OP_layer_norm, dtypes[k], TR_F32, rows, d, 0);
            snprintf(name, sizeof name, "layer_norm %lld %s", (long long)d, dtype);
            kernel_bench(name, &c, 2 * size);
            kc_free_inputs(&c);
            c = forward_case(TR_OP_add_layer_norm, dtypes[k], TR_F32, rows, d, 0);
            snprintf(name, sizeof name, "add_layer_norm %lld %s", (long long)d, dtype);
            kernel_bench(name, &c, 4 * size);
            kc_free_inputs(&c);
            for (int acc = 0; acc < 2; acc++) {
                c = grad_case(dtypes[k], TR_F32, rows, d, acc);
                c.over[0] = acc ? 6 : 0;
                if (acc) /* or the accumulator would overflow */
                    memset(c.in[0].data, 0, (size_t)kc_bytes(&c.in[0]));
                snprintf(name, sizeof name, "layer_norm_grad%s %lld %s", acc ? " acc" : "",
                         (long long)d, dtype);
                kernel_bench(name, &c, (3 + acc) * size);
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
    TEST(test_layer_norm);
    TEST(test_add_layer_norm);
    TEST(test_large_mean);
    TEST(test_layer_norm_grad);
    TEST(test_gradient);
    return check_report();
}
