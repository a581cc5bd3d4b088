/* linear, linear_dx, linear_dw: every fast kernel that this machine can run against the reference.
 * `test_kernels_linear bench [name]` prints speeds instead. */
#include <omp.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/matmul.h"
#include "kernels/registry.h"
#include "check.h"

enum { GUARD = 64, THREADS = 2 };

/* One call with its tensors, inputs filled with numbers around zero. */
typedef struct trial {
    tr_call call;
    tr_tensor in[3], out[1];
    tr_attr attrs[TR_MAX_ATTRS];
    int64_t m, n, k;
} trial;

static size_t bytes_of(const tr_tensor *t)
{
    return (size_t)(tr_tensor_elems(t) * tr_dtype_bytes(t->dtype));
}

static void *new_block(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    memset(p, 0xa5, (bytes + GUARD + 63) / 64 * 64);
    return p;
}

static bool guard_intact(const void *data, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if (((const unsigned char *)data)[bytes + i] != 0xa5)
            return false;
    return true;
}

static void fill(tr_tensor *t, uint32_t stream)
{
    for (int64_t i = 0; i < tr_tensor_elems(t); i++) {
        tr_random4 r = tr_random(7, 0, stream, (uint64_t)i);
        float value = 2 * tr_random_unit(r.word[0]) - 1;
        if (t->dtype == TR_BF16)
            ((uint16_t *)t->data)[i] = tr_f32_to_bf16(value);
        else
            ((float *)t->data)[i] = value;
    }
}

static tr_tensor matrix(tr_dtype dtype, int64_t rows, int64_t cols)
{
    tr_tensor t = {.dtype = dtype, .rank = 2, .dims = {rows, cols}};
    t.data = new_block(bytes_of(&t));
    return t;
}

static void trial_new(trial *t, tr_op op, tr_dtype dtype, int64_t m, int64_t n, int64_t k,
                      bool transposed, bool third, tr_fn fn, tr_dtype out)
{
    *t = (trial){.m = m, .n = n, .k = k};
    t->call =
        (tr_call){.op = op, .n_in = 3, .n_out = 1, .in = t->in, .out = t->out, .attrs = t->attrs};
    tr_tensor w = transposed ? matrix(dtype, n, k) : matrix(dtype, k, n);
    t->in[2] = (tr_tensor){.rank = -1};
    if (op == TR_OP_linear) {
        t->in[0] = matrix(dtype, m, k);
        t->in[1] = w;
        t->out[0] = matrix(dtype, m, n);
        if (third)
            t->in[2] = (tr_tensor){
                .data = new_block(4 * (size_t)n), .dtype = TR_F32, .rank = 1, .dims = {n}};
        t->attrs[TR_LINEAR_TRANSPOSED].i = transposed;
        t->attrs[TR_LINEAR_FN].i = fn;
    } else if (op == TR_OP_linear_dx) {
        t->in[0] = matrix(dtype, m, n);
        t->in[1] = w;
        t->out[0] = matrix(dtype, m, k);
        if (third)
            t->in[2] = matrix(dtype, m, k);
        t->attrs[TR_LINEAR_TRANSPOSED].i = transposed;
    } else {
        free(w.data);
        t->in[0] = matrix(dtype, m, k);
        t->in[1] = matrix(dtype, m, n);
        t->out[0] = transposed ? matrix(out, n, k) : matrix(out, k, n);
        if (third)
            t->in[2] = transposed ? matrix(out, n, k) : matrix(out, k, n);
        t->attrs[TR_LINEAR_DW_TRANSPOSED].i = transposed;
        t->attrs[TR_LINEAR_DW_DTYPE].i = out;
        t->attrs[TR_LINEAR_DW_SPLIT].i = 1;
    }
    for (int i = 0; i < 3; i++)
        if (t->in[i].rank >= 0)
            fill(&t->in[i], (uint32_t)i);
}

static void trial_free(trial *t)
{
    for (int i = 0; i < 3; i++)
        if (t->in[i].rank >= 0)
            free(t->in[i].data);
    free(t->out[0].data);
}

static double value(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((uint16_t *)t->data)[i]) : ((float *)t->data)[i];
}

/* Runs a kernel on the trial; an accumulating op works in its third input's buffer. */
static tr_tensor run(trial *t, const tr_kernel *kernel, bool in_place)
{
    tr_call call = t->call;
    tr_tensor in[3] = {t->in[0], t->in[1], t->in[2]}, out = t->out[0];
    call.in = in;
    call.out = &out;
    for (int i = 0; i < 3; i++)
        in[i].data = NULL;
    out.data = NULL;
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call));
    for (int i = 0; i < 3; i++)
        in[i].data = t->in[i].data;
    out.data = new_block(bytes_of(&out));
    if (in_place) {
        memcpy(out.data, t->in[2].data, bytes_of(&out));
        in[2].data = out.data;
    }
    call.scratch = new_block(call.scratch_bytes);
    kernel->run(&call);
    CHECK(guard_intact(out.data, bytes_of(&out)));
    CHECK(guard_intact(call.scratch, call.scratch_bytes));
    void *first = new_block(bytes_of(&out));
    memcpy(first, out.data, bytes_of(&out));
    if (in_place)
        memcpy(out.data, t->in[2].data, bytes_of(&out));
    memset(call.scratch, 0xff, call.scratch_bytes);
    kernel->run(&call);
    CHECK(memcmp(first, out.data, bytes_of(&out)) == 0); /* the same bits again */
    free(first);
    free(call.scratch);
    if (kernel->release)
        kernel->release(&call);
    return out;
}

static void compare(trial *t, const tr_kernel *kernel, const tr_tensor *want)
{
    bool acc = t->call.op != TR_OP_linear && tr_has(&t->call, 2);
    tr_tensor got = run(t, kernel, acc);
    /* Sums of inner products of numbers in [-1, 1]. */
    int64_t inner = t->call.op == TR_OP_linear ? t->k : t->call.op == TR_OP_linear_dx ? t->n : t->m;
    double scale = sqrt((double)inner) + 1;
    double tolerance = want->dtype == TR_BF16 ? 1e-2 : 2e-6;
    for (int64_t i = 0; i < tr_tensor_elems(want); i++) {
        double a = value(&got, i), b = value(want, i);
        if (!(fabs(a - b) <= tolerance * (scale + fabs(b)))) {
            FAIL("%s %s m%lld n%lld k%lld %s transposed %d third %d fn %d: [%lld] is %g, expected "
                 "%g",
                 kernel->name, t->call.op == TR_OP_linear ? "linear" : "grad", (long long)t->m,
                 (long long)t->n, (long long)t->k, tr_dtype_name(t->in[0].dtype),
                 (int)t->attrs[0].i, t->in[2].rank >= 0, (int)t->attrs[1].i, (long long)i, a, b);
            break;
        }
    }
    free(got.data);
}

static void every_kernel(tr_op op, tr_dtype dtype, int64_t m, int64_t n, int64_t k, bool transposed,
                         bool third, tr_fn fn, tr_dtype out)
{
    trial t;
    trial_new(&t, op, dtype, m, n, k, transposed, third, fn, out);
    tr_tensor want = run(&t, tr_kernel_reference(op), false);
    int tried = 0;
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel;
        for (int i = 0; (kernel = tr_kernel_fast(op, (tr_isa)isa, i)); i++)
            if (kernel->accepts(&t.call)) {
                tried++;
                compare(&t, kernel, &want);
            }
    }
    CHECK(tried > 0);
    free(want.data);
    trial_free(&t);
}

static const int64_t shapes[][3] = {{1, 1, 1},     {1, 64, 48},   {2, 37, 65}, {3, 130, 31},
                                    {5, 19, 7},    {8, 96, 128},  {9, 33, 17}, {64, 48, 80},
                                    {131, 67, 45}, {200, 160, 96}, {70, 420, 96}, {96, 72, 544}};

static void test_linear(void)
{
    for (int i = 0; i < TR_COUNT(shapes); i++)
        for (int variant = 0; variant < 8; variant++)
            every_kernel(TR_OP_linear, variant & 1 ? TR_BF16 : TR_F32, shapes[i][0], shapes[i][1],
                         shapes[i][2], variant & 2, variant & 4,
                         variant & 4 ? (tr_fn)(i % TR_FN_COUNT) : TR_FN_none, TR_F32);
}

static void test_functions(void)
{
    for (int fn = 0; fn < TR_FN_COUNT; fn++)
        for (int variant = 0; variant < 4; variant++) {
            tr_dtype dtype = variant & 1 ? TR_BF16 : TR_F32;
            every_kernel(TR_OP_linear, dtype, 36, 65, 8, variant & 2, variant & 2, (tr_fn)fn,
                         TR_F32);
            every_kernel(TR_OP_linear, dtype, 1, 33, 8, variant & 2, variant & 2, (tr_fn)fn,
                         TR_F32);
        }
}

static void test_linear_dx(void)
{
    for (int i = 0; i < TR_COUNT(shapes); i++)
        for (int variant = 0; variant < 8; variant++)
            every_kernel(TR_OP_linear_dx, variant & 1 ? TR_BF16 : TR_F32, shapes[i][0],
                         shapes[i][1], shapes[i][2], variant & 2, variant & 4, TR_FN_none, TR_F32);
}

static void test_linear_dw(void)
{
    for (int i = 0; i < TR_COUNT(shapes); i++)
        for (int variant = 0; variant < 16; variant++)
            every_kernel(TR_OP_linear_dw, variant & 1 ? TR_BF16 : TR_F32, shapes[i][0],
                         shapes[i][1], shapes[i][2], variant & 2, variant & 4, TR_FN_none,
                         (variant & 9) == 9 ? TR_BF16 : TR_F32);
    /* more tokens than are summed at once on tiles */
    for (int variant = 0; variant < 4; variant++)
        every_kernel(TR_OP_linear_dw, TR_BF16, 2125, 40, 48, variant & 1, variant & 2, TR_FN_none, TR_F32);
}

/* Results do not depend on where rows end: a product on parts of larger matrices, in blocks larger
 * than those of the widening path too. */
static void test_matmul_rows(void)
{
    enum { M = 530, N = 1030, K = 1100, PAD = 24 };
    for (int variant = 0; variant < 32; variant++) {
        bool at = variant & 1, bt = variant & 2, widen = variant & 4, acc = variant & 8, tiles = variant & 16;
        if (tiles && (widen || tr_cpu_isa_best() < TR_ISA_AMX))
            continue;
        tr_tensor a = matrix(TR_BF16, at ? K : M, (at ? M : K) + PAD);
        tr_tensor b = matrix(TR_BF16, bt ? N : K, (bt ? K : N) + PAD);
        tr_tensor c = matrix(TR_F32, M, N + PAD);
        fill(&a, 1);
        fill(&b, 2);
        fill(&c, 3);
        double before = value(&c, 3 * c.dims[1] + N - 1), pad = value(&c, 3 * c.dims[1] + N);
        tr_matmul *mm = NULL;
        tr_matmul_spec spec = {.m = M,
                               .n = N,
                               .k = K,
                               .dtype = TR_BF16,
                               .out = TR_F32,
                               .a_transposed = at,
                               .b_transposed = bt,
                               .a_row = a.dims[1],
                               .b_row = b.dims[1],
                               .c_row = c.dims[1],
                               .accumulate = acc,
                               .tiles = tiles,
                               .widen = widen};
        CHECK_OK(tr_matmul_new(&spec, &mm));
        void *scratch = new_block(tr_matmul_scratch_bytes(mm));
        tr_matmul_run(mm, a.data, b.data, NULL, c.data, scratch);
        CHECK(guard_intact(scratch, tr_matmul_scratch_bytes(mm)));
        CHECK(guard_intact(c.data, bytes_of(&c)));
        double sum = acc ? before : 0;
        for (int64_t l = 0; l < K; l++)
            sum += value(&a, at ? l * a.dims[1] + 3 : 3 * a.dims[1] + l) *
                   value(&b, bt ? (N - 1) * b.dims[1] + l : l * b.dims[1] + N - 1);
        CHECK_NEAR(value(&c, 3 * c.dims[1] + N - 1), sum, 1e-4);
        CHECK_NEAR(value(&c, 3 * c.dims[1] + N), pad, 0);
        free(scratch);
        tr_matmul_free(mm);
        free(a.data);
        free(b.data);
        free(c.data);
    }
}

/* Speed -------------------------------------------------------------------------------------------
 */

static double read_bandwidth(void)
{
    int64_t n = 1 << 26;
    void *pages = NULL;
    CHECK_OK(tr_pages_map(4 * (size_t)n, &pages));
    float *data = pages;
    memset(data, 0, 4 * (size_t)n);
    double best = 1e9;
    float total = 0;
    for (int repeat = 0; repeat < 9; repeat++) {
        double start = omp_get_wtime();
#pragma omp parallel for reduction(+ : total) schedule(static)
        for (int64_t i = 0; i < n; i += 64) {
            typedef float lanes __attribute__((vector_size(64)));
            const lanes *p = (const lanes *)(data + i);
            lanes s = p[0] + p[1] + p[2] + p[3];
            total += s[0];
        }
        best = TR_MIN(best, omp_get_wtime() - start);
    }
    tr_pages_unmap(data, 4 * (size_t)n);
    return total == 0.25f ? 0 : 4e-9 * (double)n / best;
}

static void bench_one(const char *what, tr_op op, tr_dtype dtype, int64_t m, int64_t n, int64_t k,
                      bool transposed, bool third, tr_fn fn, tr_dtype out, const char *name)
{
    trial t;
    trial_new(&t, op, dtype, m, n, k, transposed, third, fn, out);
    /* Small products cycle through many weights, so that none is found in a cache. */
    int copies = m <= 8 ? (int)TR_MAX(1, (256 << 20) / (int64_t)bytes_of(&t.in[1])) : 1;
    void *pages = NULL; /* huge ones, as a model's weights are in */
    CHECK_OK(tr_pages_map(bytes_of(&t.in[1]) * (size_t)copies, &pages));
    char *weights = pages;
    for (int c = 0; c < copies; c++)
        memcpy(weights + bytes_of(&t.in[1]) * (size_t)c, t.in[1].data, bytes_of(&t.in[1]));
    void *keep = t.in[1].data;
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel;
        for (int i = 0; (kernel = tr_kernel_fast(op, (tr_isa)isa, i)); i++) {
            if (!kernel->accepts(&t.call) || (name && strcmp(name, kernel->name) != 0))
                continue;
            CHECK_OK(kernel->prepare(&t.call));
            t.call.scratch = new_block(t.call.scratch_bytes);
            double best = 1e9, begin = omp_get_wtime();
            for (int repeat = 0; repeat < 3 || (omp_get_wtime() - begin < 0.5 && repeat < 50);
                 repeat++) {
                double start = omp_get_wtime();
                for (int c = 0; c < copies; c++) {
                    if (op != TR_OP_linear_dw)
                        t.in[1].data = weights + bytes_of(&t.in[1]) * (size_t)c;
                    kernel->run(&t.call);
                }
                best = TR_MIN(best, (omp_get_wtime() - start) / copies);
            }
            printf("%-24s %-20s %s m%-5lld n%-6lld k%-6lld %9.3f ms %7.0f GFLOP/s %6.1f GB/s "
                   "scratch %.1f MB\n",
                   what, kernel->name, tr_dtype_name(dtype), (long long)m, (long long)n,
                   (long long)k, best * 1e3, 2e-9 * (double)m * (double)n * (double)k / best,
                   1e-9 * (double)bytes_of(&t.in[1]) / best, 1e-6 * (double)t.call.scratch_bytes);
            free(t.call.scratch);
            if (kernel->release)
                kernel->release(&t.call);
        }
    }
    t.in[1].data = keep;
    tr_pages_unmap(weights, bytes_of(&t.in[1]) * (size_t)copies);
    trial_free(&t);
}

static void bench(const char *name)
{
    printf("read bandwidth %.1f GB/s\n", read_bandwidth());
    for (int bf16 = 0; bf16 < 2; bf16++) {
        tr_dtype d = bf16 ? TR_BF16 : TR_F32;
        static const int64_t layers[][2] = {{2304, 768}, {768, 768}, {3072, 768}, {768, 3072}};
        for (int i = 0; i < TR_COUNT(layers); i++) {
            int64_t n = layers[i][0], k = layers[i][1];
            bench_one("linear", TR_OP_linear, d, 2048, n, k, false, true,
                      n == 3072 ? TR_FN_gelu_tanh : TR_FN_none, d, name);
            bench_one("linear_dx", TR_OP_linear_dx, d, 2048, n, k, false, false, 0, d, name);
            bench_one("linear_dw", TR_OP_linear_dw, d, 2048, n, k, false, false, 0, TR_F32, name);
            bench_one("linear_dw acc", TR_OP_linear_dw, d, 2048, n, k, false, true, 0, TR_F32,
                      name);
        }
        for (int i = 0; i < TR_COUNT(layers); i++)
            for (int m = 1; m <= 8; m *= i ? 8 : 2)
                bench_one("few", TR_OP_linear, d, m, layers[i][0], layers[i][1], false, true, 0, d,
                          name);
        for (int m = 1; m <= 8; m *= 2)
            bench_one("few head", TR_OP_linear, d, m, 50257, 768, true, false, 0, d, name);
    }
}

int main(int argc, char **argv)
{
    omp_set_num_threads(THREADS);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    TEST(test_linear);
    TEST(test_functions);
    TEST(test_linear_dx);
    TEST(test_linear_dw);
    TEST(test_matmul_rows);
    omp_set_num_threads(1);
    TEST(test_linear);
    return check_report();
}
