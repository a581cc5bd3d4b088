/* add, mul, scale, cast, activate, activate_grad, dropout, fill, clear, expand: fast kernels
 * against the reference, and the reference against facts. `test_kernels_elementwise bench` prints
 * speeds. */
#include "check_kernels.h"

static const tr_dtype dtypes[] = {TR_F32, TR_BF16};
static const int64_t sizes[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 100, 257, 1000, 40003};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* A bf16 result may fall on the other side of a tie. */
static void tolerate(kernel_case *c, double f32)
{
    c->relative[0] = c->out[0].dtype == TR_BF16 ? 0x1p-7 : f32;
    c->absolute[0] = 1e-9;
}

static void check_and_free(kernel_case *c)
{
    CHECK(kernel_check(c) > 0);
    kc_free_inputs(c);
}

static void test_binary(void)
{
    for (int s = 0; s < SIZES; s++)
        for (int k = 0; k < 8; k++) {
            tr_dtype a = dtypes[k & 1], b = dtypes[k >> 1 & 1];
            kernel_case c = {
                .op = k & 4 ? TR_OP_mul : TR_OP_add, .n_in = 2, .n_out = 1, .over = {1}};
            c.in[0] = kc_uniform(a, KC_DIMS(sizes[s]), 0, 2);
            c.in[1] = kc_uniform(b, KC_DIMS(sizes[s]), 0, 2);
            c.out[0] = c.in[0];
            tolerate(&c, 1e-7);
            check_and_free(&c);
        }
}

static void test_add_repeats(void)
{
    static const int64_t shapes[][2] = {{5, 1}, {7, 3}, {3, 17}, {129, 33}, {41, 1000}, {2, 40001}};
    for (int s = 0; s < 6; s++)
        for (int k = 0; k < 4; k++) {
            kernel_case c = {.op = TR_OP_add, .n_in = 2, .n_out = 1, .over = {1}};
            c.in[0] = kc_uniform(dtypes[k & 1], KC_DIMS(shapes[s][0], 2, shapes[s][1]), 0, 1);
            c.in[1] = kc_uniform(dtypes[k >> 1], KC_DIMS(shapes[s][1]), 5, 1);
            c.out[0] = c.in[0];
            tolerate(&c, 1e-7);
            check_and_free(&c);
        }
}

static void test_scale(void)
{
    for (int s = 0; s < SIZES; s++)
        for (int k = 0; k < 2; k++) {
            kernel_case c = {
                .op = TR_OP_scale, .n_in = 1, .n_out = 1, .over = {1}, .attrs = {{.f = -0.3}}};
            c.in[0] = kc_uniform(dtypes[k], KC_DIMS(sizes[s]), 0, 100);
            c.out[0] = c.in[0];
            tolerate(&c, 2e-7);
            check_and_free(&c);
        }
}

/* Casts give the bits of tr_f32_to_bf16 and tr_bf16_to_f32, whatever the value. */
static void test_cast(void)
{
    enum { N = 70000 };
    int64_t dims[] = {N};
    kernel_case c = {.op = TR_OP_cast, .n_in = 1, .n_out = 1, .attrs = {{.i = TR_BF16}}};
    c.in[0] = kc_uniform(TR_F32, 1, dims, 0, 1);
    c.out[0] = kc_shape(TR_BF16, 1, dims);
    uint32_t *bits = c.in[0].data;
    static const uint32_t special[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u,
                                       0x7fc00000u, 0x7f800001u, 0xffffffffu, 0x7f7fffffu,
                                       0x3f808000u, 0x3f818000u, 0x3f808001u};
    for (uint32_t i = 0; i < N; i++) { /* all exponents but the subnormal ones, and NaNs */
        bits[i] = i < 11 ? special[i] : i * 2654435761u;
        if (!(bits[i] & 0x7f800000u))
            bits[i] &= 0x80000000u;
    }
    for (tr_isa isa = 0; isa <= tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel = tr_kernel_fast(TR_OP_cast, isa, 0);
        tr_tensor out[KC_MAX];
        if (!kernel)
            continue;
        CHECK(kc_run(&c, kernel, false, 2, out));
        int wrong = 0;
        for (int i = 0; i < N; i++) {
            float value;
            memcpy(&value, bits + i, 4);
            wrong += ((uint16_t *)out[0].data)[i] != tr_f32_to_bf16(value);
        }
        CHECK_INT(wrong, 0);
        kc_drop(&c, out);
    }
    kc_free_inputs(&c);
    for (int s = 0; s < SIZES; s++)
        for (int k = 0; k < 4; k++) {
            c = (kernel_case){.op = TR_OP_cast, .n_in = 1, .n_out = 1};
            c.in[0] = kc_uniform(dtypes[k & 1], KC_DIMS(sizes[s]), 0, 1e6);
            c.out[0] = kc_shape(dtypes[k >> 1], KC_DIMS(sizes[s]));
            c.attrs[TR_CAST_DTYPE].i = dtypes[k >> 1];
            check_and_free(&c);
        }
}

/* Every function over [-12, 12] and at the ends of the range of floats. */
static void test_activate(void)
{
    static const float ends[] = {-1e30f, -300, -105,  -88, -20, 20,    88,
                                 105,    300,  1e30f, NAN, 0,   -0.0f, 1e-20f};
    for (int64_t n = 1; n <= 24001; n += n < 40 ? 1 : 23961)
        for (int fn = 0; fn < TR_FN_COUNT; fn++)
            for (int k = 0; k < 4; k++) {
                bool grad = k & 2;
                kernel_case c = {.op = grad ? TR_OP_activate_grad : TR_OP_activate,
                                 .n_in = 1 + grad,
                                 .n_out = 1,
                                 .over = {1},
                                 .attrs = {{.i = fn}}};
                tr_tensor x = kc_uniform(dtypes[k & 1], KC_DIMS(n), 0, 1);
                for (int64_t i = 0; i < n; i++)
                    kc_set(&x, i,
                           i < 14 && n > 20 ? (double)ends[i] : 24 * (double)i / (double)n - 12);
                if (grad) {
                    c.in[0] = kc_uniform(dtypes[k & 1], KC_DIMS(n), 0, 1);
                    c.in[1] = x;
                    if (fn == TR_FN_relu && n > 20) /* NaN: the derivative is taken as 0 */
                        kc_set(&c.in[1], 10, 0);
                } else {
                    c.in[0] = x;
                }
                c.out[0] = c.in[0];
                c.relative[0] = k & 1 ? 0x1p-7 : 3e-6;
                c.absolute[0] =
                    n > 20 && !grad ? 1e-33 : 3e-7; /* the largest is 1e30; slopes cross zero */
                if (grad && k & 1 && fn == TR_FN_gelu_erf)
                    c.absolute[0] = 0x1p-16;
                check_and_free(&c);
            }
}

/* What fast/activate.h promises of gelu_erf in bf16, at every number of bf16 but the infinite ones: the error beyond that of
 * rounding. */
static void test_gelu_bf16(void)
{
    enum { N = 65536 };
    for (int grad = 0; grad < 2; grad++) {
        kernel_case c = {.op = grad ? TR_OP_activate_grad : TR_OP_activate, .n_in = 1 + grad, .n_out = 1,
                         .attrs = {{.i = TR_FN_gelu_erf}}};
        for (int k = 0; k <= grad; k++) {
            c.in[k] = kc_uniform(TR_BF16, KC_DIMS(N), 1, 0);
            for (int i = 0; i < N && k == grad; i++)
                ((uint16_t *)c.in[k].data)[i] = (uint16_t)((i & 0x7fff) == 0x7f80 ? 0 : i);
        }
        c.out[0] = kc_shape(TR_BF16, KC_DIMS(N));
        for (tr_isa isa = 0; isa <= tr_cpu_isa_best(); isa++) {
            const tr_kernel *kernel = tr_kernel_fast(c.op, isa, 0);
            tr_tensor out[KC_MAX];
            if (!kernel)
                continue;
            CHECK(kc_run(&c, kernel, false, 2, out));
            for (int i = 0; i < N; i++) {
                double x = kc_get(&c.in[grad], i), y = kc_get(&out[0], i), cdf = erfc(-x * sqrt(0.5)) / 2;
                double want = grad ? cdf + (fabs(x) < 40 ? x * exp(-x * x / 2) * 0.3989422804014327 : 0) : x * cdf;
                double rough = !grad || fabs(x) < 5 ? fmax(fabs(want), grad ? 0.06 : 0) * 0x1p-12 : fabs(want) * 0x1p-8;
                double rounding = want != 0 && !isnan(want) ? ldexp(1, ilogb(want) - 8) : 0;
                double error = fabs(y - want) - rounding, most = rough + 2e-38;
                if (isnan(x) ? !isnan(y) : !(error <= most)) {
                    FAIL("%s, %s of %.9g: %.9g, expected %.9g", kernel->name, grad ? "slope" : "gelu", x, y, want);
                    break;
                }
            }
            kc_drop(&c, out);
        }
        kc_free_inputs(&c);
    }
}

/* The derivative is that of the function. */
static void test_slopes(void)
{
    for (int fn = 0; fn < TR_FN_COUNT; fn++)
        for (double x = -5.03; x < 5; x += 0.37) {
            float at[3] = {(float)(x - 0.004), (float)x, (float)(x + 0.004)}, y[3], one = 1, slope;
            tr_tensor in[2] = {{.data = at, .dtype = TR_F32, .rank = 1, .dims = {3}}}, out = in[0];
            tr_attr attrs[TR_MAX_ATTRS] = {{.i = fn}};
            out.data = y;
            tr_call call = {
                .op = TR_OP_activate, .n_in = 1, .n_out = 1, .in = in, .out = &out, .attrs = attrs};
            tr_kernel_reference(TR_OP_activate)->run(&call);
            in[0] = (tr_tensor){.data = &one, .dtype = TR_F32, .rank = 1, .dims = {1}};
            in[1] = (tr_tensor){.data = at + 1, .dtype = TR_F32, .rank = 1, .dims = {1}};
            out = (tr_tensor){.data = &slope, .dtype = TR_F32, .rank = 1, .dims = {1}};
            call.op = TR_OP_activate_grad;
            call.n_in = 2;
            tr_kernel_reference(TR_OP_activate_grad)->run(&call);
            CHECK_NEAR(slope, (double)(y[2] - y[0]) / (double)(at[2] - at[0]), 2e-4);
        }
}

/* dropout ------------------------------------------------------------------------------- */

static kernel_case dropout_case(tr_dtype dtype, int rank, const int64_t *dims, double p)
{
    kernel_case c = {.op = TR_OP_dropout,
                     .n_in = 1,
                     .n_out = 1,
                     .over = {1},
                     .seed = 0x123456789abcu,
                     .step = 17};
    c.in[0] = kc_uniform(dtype, rank, dims, 3, 1); /* never zero: a zero was dropped */
    c.out[0] = c.in[0];
    c.attrs[TR_DROPOUT_P].f = p;
    c.attrs[TR_DROPOUT_STREAM].i = 5;
    memcpy(c.extent, c.in[0].dims, sizeof c.extent);
    tolerate(&c, 3e-7);
    return c;
}

static void test_dropout(void)
{
    for (int s = 0; s < SIZES; s++)
        for (int k = 0; k < 8; k++) {
            static const double p[] = {0, 0.1, 0.5, 0.999};
            kernel_case c = dropout_case(dtypes[k & 1], KC_DIMS(sizes[s]), p[k >> 1]);
            check_and_free(&c);
        }
}

/* Parts of a larger tensor: every cut, odd rows, an index past 2^32. */
static void test_dropout_parts(void)
{
    static const int64_t dims[][3] = {{2, 3, 5}, {3, 7, 33}, {2, 50, 64}, {4, 3, 1}, {1, 90, 301}};
    static const int64_t origins[][3] = {{0, 0, 0}, {1, 0, 0}, {0, 5, 0},
                                         {0, 0, 3}, {2, 1, 7}, {70000, 3, 2}};
    for (int s = 0; s < 5; s++)
        for (int o = 0; o < 6; o++)
            for (int k = 0; k < 2; k++) {
                kernel_case c = dropout_case(dtypes[k], 3, dims[s], 0.3);
                for (int d = 0; d < 3; d++) {
                    c.origin[d] = origins[o][d];
                    c.extent[d] = dims[s][d] + origins[o][d] + (origins[o][d] ? 2 : 0);
                }
                if (o == 5)
                    c.extent[1] = 70001;
                check_and_free(&c);
            }
}

/* The next element after index 2^34 - 1: the block index grows past 32 bits inside a vector. */
static void test_dropout_carry(void)
{
    kernel_case c = dropout_case(TR_F32, KC_DIMS(400), 0.3);
    c.origin[0] = ((int64_t)1 << 34) - 150;
    c.extent[0] = (int64_t)1 << 35;
    check_and_free(&c);
}

/* A tensor cut in four drops what the whole one drops; about p of all; the rest is scaled. */
static void test_dropout_is_one_mask(void)
{
    enum { ROWS = 64, COLUMNS = 96 };
    int64_t dims[] = {ROWS, COLUMNS}, part_dims[] = {ROWS / 2, COLUMNS / 2};
    kernel_case c = dropout_case(TR_F32, 2, dims, 0.25);
    tr_tensor whole[KC_MAX], part[KC_MAX];
    const tr_kernel *kernel = tr_kernel_choose(
        &(tr_call){
            .op = TR_OP_dropout, .n_in = 1, .n_out = 1, .in = c.in, .out = c.out, .attrs = c.attrs},
        tr_cpu_isa_best());
    CHECK(kc_run(&c, kernel, false, 2, whole));
    int dropped = 0, wrong = 0;
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        double y = kc_get(&whole[0], i);
        dropped += y == 0;
        wrong += y != 0 && fabs(y - kc_get(&c.in[0], i) / 0.75) > 1e-6 * y;
    }
    CHECK_INT(wrong, 0);
    CHECK_NEAR(dropped / (double)(ROWS * COLUMNS), 0.25, 0.02);
    for (int q = 0; q < 4; q++) {
        kernel_case quarter = dropout_case(TR_F32, 2, part_dims, 0.25);
        memcpy(quarter.extent, c.extent, sizeof c.extent);
        quarter.origin[0] = q / 2 * ROWS / 2;
        quarter.origin[1] = q % 2 * COLUMNS / 2;
        CHECK(kc_run(&quarter, kernel, true, 1, part));
        wrong = 0;
        for (int i = 0; i < ROWS * COLUMNS / 4; i++) {
            int64_t row = i / (COLUMNS / 2) + quarter.origin[0],
                    column = i % (COLUMNS / 2) + quarter.origin[1];
            wrong += (kc_get(&part[0], i) == 0) != (kc_get(&whole[0], row * COLUMNS + column) == 0);
        }
        CHECK_INT(wrong, 0);
        kc_drop(&quarter, part);
        kc_free_inputs(&quarter);
    }
    kc_drop(&c, whole);
    kc_free_inputs(&c);
}

/* fill, clear, expand ------------------------------------------------------------------- */

static void test_fill(void)
{
    kernel_case c = {.op = TR_OP_fill, .n_out = 1, .attrs = {{.f = 0.125}}};
    tr_tensor out[KC_MAX];
    c.out[0] = kc_shape(TR_F32, KC_DIMS(1));
    CHECK(kc_run(&c, tr_kernel_reference(TR_OP_fill), false, 1, out));
    CHECK(kc_get(&out[0], 0) == 0.125);
    kc_drop(&c, out);
}

static void test_clear(void)
{
    static const tr_dtype kinds[] = {TR_F32, TR_BF16, TR_I32};
    for (int s = 0; s < SIZES; s++)
        for (int k = 0; k < 3; k++) {
            kernel_case c = {.op = TR_OP_clear, .n_in = 1, .n_out = 1, .over = {1}};
            c.in[0] = kc_uniform(kinds[k], KC_DIMS(sizes[s]), 50, 10);
            c.out[0] = c.in[0];
            check_and_free(&c);
        }
}

static void test_expand(void)
{
    static const int64_t shapes[][2] = {{1, 1},    {5, 1},     {7, 3},    {3, 17},
                                        {129, 33}, {41, 1000}, {20011, 1}};
    for (int s = 0; s < 7; s++)
        for (int k = 0; k < 4; k++) {
            kernel_case c = {.op = TR_OP_expand, .n_in = 2, .n_out = 1};
            c.in[0] = kc_uniform(dtypes[k & 1], KC_DIMS(shapes[s][1]), 0, 9);
            c.in[1] = kc_uniform(dtypes[k >> 1], KC_DIMS(shapes[s][0], 2, shapes[s][1]), 0, 1);
            c.out[0] = c.in[1];
            check_and_free(&c);
        }
}

static void bench(void)
{
    enum { N = 8192 * 768 };
    for (int k = 0; k < 2; k++) {
        double size = k ? 2 : 4;
        char name[64];
        for (tr_op op = 0; op < TR_OP_COUNT; op++)
            for (int fn = 0;
                 fn < (op == TR_OP_activate || op == TR_OP_activate_grad ? TR_FN_COUNT : 1); fn++) {
                int inputs = op == TR_OP_add || op == TR_OP_mul || op == TR_OP_activate_grad ? 2
                             : op == TR_OP_scale || op == TR_OP_cast || op == TR_OP_activate ||
                                     op == TR_OP_dropout || op == TR_OP_clear
                                 ? 1
                                 : 0;
                if (inputs == 0)
                    continue;
                static const char *const fns[] = {"none", "gelu_tanh", "gelu_erf", "relu",
                                                  "silu", "tanh",      "sigmoid"};
                snprintf(name, sizeof name, "op %d %s%s", op, k ? "bf16 " : "f32 ",
                         op == TR_OP_activate || op == TR_OP_activate_grad ? fns[fn] : "");
                kernel_case c = dropout_case(dtypes[k], KC_DIMS(N), 0.1);
                c.op = op;
                c.n_in = inputs;
                c.over[0] = op == TR_OP_clear;
                if (inputs == 2)
                    c.in[1] = kc_uniform(dtypes[k], KC_DIMS(N), 0, 2);
                if (op == TR_OP_cast)
                    c.out[0].dtype = dtypes[!k];
                if (op != TR_OP_dropout)
                    c.attrs[0] = (tr_attr){.i = fn};
                kernel_bench(name, &c,
                             op == TR_OP_clear  ? N * size
                             : op == TR_OP_cast ? N * 6.0
                                                : N * size * (inputs + 1));
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
    TEST(test_binary);
    TEST(test_add_repeats);
    TEST(test_scale);
    TEST(test_cast);
    TEST(test_activate);
    TEST(test_gelu_bf16);
    TEST(test_slopes);
    TEST(test_dropout);
    TEST(test_dropout_parts);
    TEST(test_dropout_carry);
    TEST(test_dropout_is_one_mask);
    TEST(test_fill);
    TEST(test_clear);
    TEST(test_expand);
    return check_report();
}
