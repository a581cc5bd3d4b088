/* cross_entropy, cross_entropy_grad, cross_entropy_train: every fast kernel that this machine can
 * run against the reference, and against itself on parts of the tokens (which makes it use several
 * chunks). `test_kernels_cross_entropy bench [name]` prints speeds instead. */
#include <omp.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "kernels/registry.h"

enum { GUARD = 64, THREADS = 2, MAX_IN = 6, MAX_OUT = 4 };
static uint32_t one_in; /* so many tokens count; 0: four of five */

typedef struct trial {
    tr_call call;
    tr_tensor in[MAX_IN], out[MAX_OUT];
    int acc; /* which input, when it is there */
    int64_t tokens, d, v;
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

static tr_tensor tensor(tr_dtype dtype, int rank, int64_t rows, int64_t cols)
{
    tr_tensor t = {.dtype = dtype, .rank = rank, .dims = {rows, cols}};
    t.data = new_block(bytes_of(&t));
    return t;
}

static void fill(tr_tensor *t, uint32_t stream, float size)
{
    for (int64_t i = 0; i < tr_tensor_elems(t); i++) {
        float value = size * (2 * tr_random_unit(tr_random(3, 0, stream, (uint64_t)i).word[0]) - 1);
        if (t->dtype == TR_BF16)
            ((uint16_t *)t->data)[i] = tr_f32_to_bf16(value);
        else
            ((float *)t->data)[i] = value;
    }
}

static double value(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((uint16_t *)t->data)[i]) : ((float *)t->data)[i];
}

static void trial_new(trial *t, tr_op op, tr_dtype dtype, int64_t tokens, int64_t d, int64_t v,
                      bool acc)
{
    *t = (trial){.tokens = tokens, .d = d, .v = v, .acc = 5};
    t->in[0] = tensor(dtype, 2, tokens, d);
    t->in[1] = tensor(dtype, 2, v, d);
    t->in[2] = tensor(TR_I32, 1, tokens, 1);
    fill(&t->in[0], 1, 2);
    fill(&t->in[1], 2, 2);
    for (int64_t i = 0; i < tokens; i++) {
        uint32_t word = tr_random(5, 0, 0, (uint64_t)i).word[0];
        ((int32_t *)t->in[2].data)[i] = (one_in ? word % one_in : word % 5 == 0) ? -1 : (int32_t)(word / 16 % (uint64_t)v);
    }
    for (int i = 3; i < MAX_IN; i++)
        t->in[i].rank = -1;
    int n_out = 0;
    if (op != TR_OP_cross_entropy) {
        if (op == TR_OP_cross_entropy_grad) {
            t->in[4] = tensor(TR_F32, 1, 1, 1);
            ((float *)t->in[4].data)[0] = 0.75f;
        }
        if (acc) {
            t->in[t->acc] = tensor(TR_F32, 2, v, d);
            fill(&t->in[t->acc], 3, 1);
        }
        t->out[n_out++] = tensor(TR_F32, 2, v, d);
        t->out[n_out++] = tensor(dtype, 2, tokens, d);
    }
    if (op != TR_OP_cross_entropy_grad) {
        t->out[n_out++] = tensor(TR_F32, 1, 1, 1);
        t->out[n_out++] = tensor(TR_F32, 1, 1, 1);
    }
    static const tr_attr no_attrs[TR_MAX_ATTRS];
    t->call = (tr_call){.op = op, .n_in = MAX_IN, .n_out = n_out, .in = t->in, .out = t->out, .attrs = no_attrs};
}

static void trial_free(trial *t)
{
    for (int i = 0; i < MAX_IN; i++)
        if (t->in[i].rank >= 0)
            free(t->in[i].data);
    for (int i = 0; i < t->call.n_out; i++)
        free(t->out[i].data);
}

/* Runs the kernel twice, checks that both runs give the same bits, leaves the outputs in the trial.
 */
static void run(trial *t, const tr_kernel *kernel)
{
    bool acc = t->in[t->acc].rank >= 0;
    void *acc_data = acc ? t->in[t->acc].data : NULL, *first[MAX_OUT];
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&t->call));
    t->call.scratch = new_block(t->call.scratch_bytes);
    for (int repeat = 0; repeat < 2; repeat++) {
        memset(t->call.scratch, repeat ? 0xff : 0, t->call.scratch_bytes);
        if (acc) {
            memcpy(t->out[0].data, acc_data, bytes_of(&t->out[0]));
            t->in[t->acc].data = t->out[0].data;
        }
        kernel->run(&t->call);
        for (int i = 0; i < t->call.n_out; i++) {
            CHECK(guard_intact(t->out[i].data, bytes_of(&t->out[i])));
            if (!repeat) {
                first[i] = new_block(bytes_of(&t->out[i]));
                memcpy(first[i], t->out[i].data, bytes_of(&t->out[i]));
            } else {
                CHECK(memcmp(first[i], t->out[i].data, bytes_of(&t->out[i])) == 0);
                free(first[i]);
            }
        }
    }
    if (acc)
        t->in[t->acc].data = acc_data;
    CHECK(guard_intact(t->call.scratch, t->call.scratch_bytes));
    free(t->call.scratch);
    if (kernel->release)
        kernel->release(&t->call);
}

static void compare(const char *who, const tr_tensor *got, const tr_tensor *want, double tolerance)
{
    double scale = 0;
    for (int64_t i = 0; i < tr_tensor_elems(want); i++)
        scale = fmax(scale, fabs(value(want, i)));
    for (int64_t i = 0; i < tr_tensor_elems(want); i++)
        if (!(fabs(value(got, i) - value(want, i)) <= tolerance * scale)) {
            FAIL("%s: [%lld] is %g, expected %g (largest %g)", who, (long long)i, value(got, i),
                 value(want, i), scale);
            break;
        }
}

static void every_kernel(tr_op op, tr_dtype dtype, int64_t tokens, int64_t d, int64_t v, bool acc)
{
    trial want, got;
    trial_new(&want, op, dtype, tokens, d, v, acc);
    run(&want, tr_kernel_reference(op));
    int tried = 0;
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel;
        for (int k = 0; (kernel = tr_kernel_fast(op, (tr_isa)isa, k)); k++) {
            trial_new(&got, op, dtype, tokens, d, v, acc);
            if (kernel->accepts(&got.call)) {
                tried++;
                run(&got, kernel);
                for (int i = 0; i < got.call.n_out; i++) {
                    char who[200];
                    snprintf(who, sizeof who,
                             "op %d %s %s tokens %lld d %lld v %lld acc %d output %d", (int)op,
                             kernel->name, tr_dtype_name(dtype), (long long)tokens, (long long)d,
                             (long long)v, acc, i);
                    compare(who, &got.out[i], &want.out[i], dtype == TR_BF16 ? 1.5e-2 : 1e-5);
                }
            }
            trial_free(&got);
        }
    }
    CHECK(tried > 0);
    trial_free(&want);
}

static void test_against_reference(void)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {3, 5, 2}, {17, 16, 33}, {70, 9, 130}, {130, 20, 67}};
    static const tr_op ops[] = {TR_OP_cross_entropy, TR_OP_cross_entropy_grad,
                                TR_OP_cross_entropy_train};
    for (int s = 0; s < TR_COUNT(shapes); s++)
        for (int op = 0; op < 3; op++)
            for (int variant = 0; variant < 4; variant++)
                every_kernel(ops[op], variant & 1 ? TR_BF16 : TR_F32, shapes[s][0], shapes[s][1],
                             shapes[s][2], variant & 2);
}

/* More words than one block has. */
static void test_blocks(void)
{
    every_kernel(TR_OP_cross_entropy, TR_F32, 9, 4, 6151, false);
    every_kernel(TR_OP_cross_entropy_train, TR_F32, 9, 4, 6151, true);
    every_kernel(TR_OP_cross_entropy_train, TR_BF16, 9, 4, 6151, false);
}

/* Where few tokens count they are gathered; none at all, and one more than there is room for (a fifth, in 64s). */
static void test_few_tokens(void)
{
    static const tr_op ops[] = {TR_OP_cross_entropy, TR_OP_cross_entropy_grad, TR_OP_cross_entropy_train};
    static const uint32_t shares[] = {7, 300000, 4};
    for (int share = 0; share < TR_COUNT(shares); share++)
        for (int op = 0; op < 3; op++)
            for (int variant = 0; variant < 4; variant++) {
                one_in = shares[share];
                every_kernel(ops[op], variant & 1 ? TR_BF16 : TR_F32, variant & 2 ? 256 : 333, 9, 70, variant & 2);
            }
    one_in = 0;
}

/* Logits of +-2000: no overflow, and the loss is exact. */
static void test_large_logits(void)
{
    trial t;
    trial_new(&t, TR_OP_cross_entropy_train, TR_F32, 4, 1, 3, false);
    memcpy(t.in[0].data, (float[]){1000, -1000, 1000, 0}, 16);
    memcpy(t.in[1].data, (float[]){2, 0, -2}, 12);
    memcpy(t.in[2].data, (int32_t[]){0, 0, -1, 1}, 16);
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        run(&t, tr_kernel_fast(TR_OP_cross_entropy_train, (tr_isa)isa, 0));
        CHECK_NEAR(value(&t.out[2], 0), 4000 + log(3), 1e-3);
        CHECK_NEAR(value(&t.out[3], 0), 3, 0);
        CHECK_NEAR(value(&t.out[1], 0), 0, 0);
        CHECK_NEAR(value(&t.out[1], 1), -4, 1e-6);
        CHECK_NEAR(value(&t.out[1], 2), 0, 0);
        CHECK_NEAR(value(&t.out[0], 0), 1000, 1e-3);
    }
    trial_free(&t);
}

/* Tokens 0 .. n-1 in one call, and in two, the second adding to the first's dw. */
static void parts(tr_dtype dtype, int64_t tokens, int64_t v)
{
    const tr_kernel *kernel = tr_kernel_fast(TR_OP_cross_entropy_train, tr_cpu_isa_best(), 0);
    int64_t d = 8, half = tokens / 2, bytes = tr_dtype_bytes(dtype);
    trial whole, a, b;
    trial_new(&whole, TR_OP_cross_entropy_train, dtype, tokens, d, v, false);
    trial_new(&a, TR_OP_cross_entropy_train, dtype, half, d, v, false);
    trial_new(&b, TR_OP_cross_entropy_train, dtype, tokens - half, d, v, true);
    memcpy(b.in[0].data, (char *)whole.in[0].data + half * d * bytes, bytes_of(&b.in[0]));
    memcpy(b.in[2].data, (int32_t *)whole.in[2].data + half, bytes_of(&b.in[2]));
    run(&whole, kernel);
    run(&a, kernel);
    memcpy(b.in[b.acc].data, a.out[0].data, bytes_of(&a.out[0]));
    run(&b, kernel);
    compare("dw by parts", &b.out[0], &whole.out[0], dtype == TR_BF16 ? 1e-3 : 1e-5);
    tr_tensor second = whole.out[1];
    second.data = (char *)second.data + half * d * bytes;
    second.dims[0] = tokens - half;
    compare("dx by parts", &b.out[1], &second, dtype == TR_BF16 ? 1e-2 : 1e-5);
    CHECK_NEAR(value(&a.out[2], 0) + value(&b.out[2], 0), value(&whole.out[2], 0),
               1e-6 * value(&whole.out[2], 0));
    CHECK_NEAR(value(&a.out[3], 0) + value(&b.out[3], 0), value(&whole.out[3], 0), 0);
    trial_free(&whole);
    trial_free(&a);
    trial_free(&b);
}

static void test_chunks(void)
{
    parts(TR_F32, 1 + (104 << 20) / (4 * 50000), 50000);
    parts(TR_BF16, 90 + (104 << 20) / (2 * 50000), 50000);
}

/* Speed -------------------------------------------------------------------------------------------
 */

static void bench_one(tr_op op, tr_dtype dtype, int64_t tokens, const char *name)
{
    trial t;
    trial_new(&t, op, dtype, tokens, 768, 50257, true);
    fill(&t.in[0], 1, 0.1f); /* logits of a size that models have */
    double flops = (op == TR_OP_cross_entropy ? 2.0 : 6.0) * (double)tokens * 768 * 50257;
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel = tr_kernel_fast(op, (tr_isa)isa, 0);
        if (!kernel || (name && strcmp(name, kernel->name) != 0))
            continue;
        double start = omp_get_wtime(), best = 1e9;
        CHECK_OK(kernel->prepare(&t.call));
        double prepared = omp_get_wtime() - start;
        t.call.scratch = new_block(t.call.scratch_bytes);
        for (int repeat = 0; repeat < 5; repeat++) {
            start = omp_get_wtime();
            kernel->run(&t.call);
            best = TR_MIN(best, omp_get_wtime() - start);
        }
        printf(
            "op %d %-12s %s tokens %lld: %.1f ms, %.0f GFLOP/s, scratch %.1f MB, prepare %.1f ms\n",
            (int)op, kernel->name, tr_dtype_name(dtype), (long long)tokens, best * 1e3,
            1e-9 * flops / best, 1e-6 * (double)t.call.scratch_bytes, prepared * 1e3);
        free(t.call.scratch);
        kernel->release(&t.call);
    }
    trial_free(&t);
}

int main(int argc, char **argv)
{
    omp_set_num_threads(THREADS);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            bench_one(TR_OP_cross_entropy, bf16 ? TR_BF16 : TR_F32, 2048,
                      argc > 2 ? argv[2] : NULL);
            bench_one(TR_OP_cross_entropy_train, bf16 ? TR_BF16 : TR_F32, 2048,
                      argc > 2 ? argv[2] : NULL);
        }
        return 0;
    }
    TEST(test_against_reference);
    TEST(test_blocks);
    TEST(test_few_tokens);
    TEST(test_large_logits);
    TEST(test_chunks);
    omp_set_num_threads(1);
    TEST(test_blocks);
    return check_report();
}
