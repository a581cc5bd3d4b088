/* clip, adamw, sgd: every fast kernel that this machine can run against the reference, the split of
 * f32, and a few numbers worked by hand. `test_kernels_optimizer bench [name]` prints speeds
 * instead. */
#include <omp.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "kernels/registry.h"

enum { GUARD = 64, THREADS = 2, MAX_IN = 8, STEPS = 3 };

typedef struct trial {
    tr_call call;
    tr_tensor in[MAX_IN], out[4];
    tr_attr attrs[TR_MAX_ATTRS];
    int arrays, low; /* in[0 .. arrays) are per element; low: which input, -1 for an f32 weight */
} trial;

static size_t bytes_of(const tr_tensor *t)
{
    return (size_t)(tr_tensor_elems(t) * tr_dtype_bytes(t->dtype));
}

static tr_tensor tensor(tr_dtype dtype, int64_t n)
{
    tr_tensor t = {.dtype = dtype, .rank = 1, .dims = {n}};
    size_t bytes = (bytes_of(&t) + GUARD + 63) / 64 * 64;
    t.data = aligned_alloc(64, bytes);
    memset(t.data, 0xa5, bytes);
    return t;
}

static bool guard_intact(const tr_tensor *t)
{
    for (size_t i = 0; i < GUARD; i++)
        if (((const unsigned char *)t->data)[bytes_of(t) + i] != 0xa5)
            return false;
    return true;
}

static float noise(uint32_t stream, int64_t i)
{
    return 2 * tr_random_unit(tr_random(11, 0, stream, (uint64_t)i).word[0]) - 1;
}

static tr_tensor scalar(float value)
{
    tr_tensor t = tensor(TR_F32, 1);
    *(float *)t.data = value;
    return t;
}

/* Weights near 1, gradients over several orders of magnitude with zeros between, moments in the
 * middle of a run. */
static void trial_new(trial *t, tr_op op, int64_t n, tr_dtype gradient, bool halves, float scale)
{
    bool adam = op == TR_OP_adamw;
    *t = (trial){.arrays = adam ? 4 : 3, .low = -1};
    t->in[0] = tensor(halves ? TR_BF16 : TR_F32, n);
    t->in[1] = tensor(gradient, n);
    t->in[2] = tensor(TR_F32, n);
    int next = 3;
    if (adam)
        t->in[next++] = tensor(TR_F32, n);
    t->in[next++] = scalar(scale);
    t->in[next++] = scalar(0.01f);
    if (adam) {
        t->in[next] = tensor(TR_I32, 1);
        *(int32_t *)t->in[next++].data = 7;
    }
    if (halves) {
        t->low = next;
        t->in[next++] = tensor(TR_U16, n);
    }
    for (int64_t i = 0; i < n; i++) {
        float w = noise(0, i) + 1, g = i % 7 == 3 ? 0 : noise(1, i) * powf(10, (float)(i % 5) - 3);
        if (halves)
            tr_split_f32(w, (uint16_t *)t->in[0].data + i, (uint16_t *)t->in[t->low].data + i);
        else
            ((float *)t->in[0].data)[i] = w;
        if (gradient == TR_BF16)
            ((uint16_t *)t->in[1].data)[i] = tr_f32_to_bf16(g);
        else
            ((float *)t->in[1].data)[i] = g;
        ((float *)t->in[2].data)[i] = i % 7 == 3 ? 0 : 0.1f * noise(2, i);
        if (adam)
            ((float *)t->in[3].data)[i] = i % 7 == 3 ? 0 : 0.01f * (noise(3, i) + 1.001f);
    }
    for (int i = next; i < MAX_IN; i++)
        t->in[i].rank = -1;
    if (adam) {
        t->attrs[TR_ADAMW_BETA1].f = 0.9;
        t->attrs[TR_ADAMW_BETA2].f = 0.95;
        t->attrs[TR_ADAMW_EPS].f = 1e-8;
        t->attrs[TR_ADAMW_DECAY].f = 0.1;
    } else {
        t->attrs[TR_SGD_MOMENTUM].f = 0.9;
        t->attrs[TR_SGD_DECAY].f = 0.1;
    }
    int n_out = 0;
    t->out[n_out++] = t->in[0];
    t->out[n_out++] = t->in[2];
    if (adam)
        t->out[n_out++] = t->in[3];
    if (halves)
        t->out[n_out++] = t->in[t->low];
    t->call = (tr_call){
        .op = op, .n_in = next, .n_out = n_out, .in = t->in, .out = t->out, .attrs = t->attrs};
}

static void trial_free(trial *t)
{
    for (int i = 0; i < MAX_IN; i++)
        if (t->in[i].rank >= 0)
            free(t->in[i].data);
}

static double weight(const trial *t, int64_t i)
{
    return t->low < 0
               ? ((float *)t->in[0].data)[i]
               : tr_join_f32(((uint16_t *)t->in[0].data)[i], ((uint16_t *)t->in[t->low].data)[i]);
}

static void every_kernel(tr_op op, int64_t n, tr_dtype gradient, bool halves, float scale)
{
    trial want, got;
    trial_new(&want, op, n, gradient, halves, scale);
    for (int step = 0; step < STEPS; step++)
        tr_kernel_reference(op)->run(&want.call);
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel = tr_kernel_fast(op, (tr_isa)isa, 0);
        if (!kernel)
            continue;
        trial_new(&got, op, n, gradient, halves, scale);
        CHECK(kernel->accepts(&got.call));
        for (int step = 0; step < STEPS; step++)
            kernel->run(&got.call);
        for (int64_t i = 0; i < n; i++) {
            double a = weight(&got, i), b = weight(&want, i);
            if (!(fabs(a - b) <= 1e-6 * (fabs(b) + 0.1))) {
                FAIL("%s op %d n %lld %s halves %d: w[%lld] is %.9g, expected %.9g", kernel->name,
                     (int)op, (long long)n, tr_dtype_name(gradient), halves, (long long)i, a, b);
                break;
            }
        }
        for (int array = 2; array < got.arrays; array++)
            for (int64_t i = 0; i < n; i++)
                CHECK_NEAR(((float *)got.in[array].data)[i], ((float *)want.in[array].data)[i],
                           2e-6);
        for (int i = 0; i < got.call.n_in; i++)
            CHECK(guard_intact(&got.in[i]));
        trial_free(&got);
    }
    trial_free(&want);
}

static void test_against_reference(void)
{
    static const int64_t counts[] = {1, 3, 15, 16, 17, 255, 1000, 8192, 20011};
    for (int i = 0; i < TR_COUNT(counts); i++)
        for (int variant = 0; variant < 8; variant++)
            every_kernel(variant & 1 ? TR_OP_adamw : TR_OP_sgd, counts[i],
                         variant & 2 ? TR_BF16 : TR_F32, variant & 4, 0.5f);
}

/* scale < 0: not a bit changes. */
static void test_step_not_applied(void)
{
    for (int variant = 0; variant < 4; variant++) {
        tr_op op = variant & 1 ? TR_OP_adamw : TR_OP_sgd;
        for (int isa = -1; isa <= (int)tr_cpu_isa_best(); isa++) {
            const tr_kernel *kernel =
                isa < 0 ? tr_kernel_reference(op) : tr_kernel_fast(op, (tr_isa)isa, 0);
            if (!kernel)
                continue;
            trial t, before;
            trial_new(&t, op, 100, TR_F32, variant & 2, -1);
            trial_new(&before, op, 100, TR_F32, variant & 2, -1);
            ((float *)t.in[1].data)[5] = NAN;
            kernel->run(&t.call);
            for (int i = 0; i < t.call.n_out; i++)
                CHECK(memcmp(t.out[i].data, before.out[i].data, bytes_of(&t.out[i])) == 0);
            trial_free(&t);
            trial_free(&before);
        }
    }
}

/* With halves the bits of the f32 weight are those of an f32 run. */
static void test_halves_are_exact(void)
{
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel = tr_kernel_fast(TR_OP_adamw, (tr_isa)isa, 0);
        if (!kernel)
            continue;
        trial whole, halves;
        trial_new(&whole, TR_OP_adamw, 5000, TR_F32, false, 1);
        trial_new(&halves, TR_OP_adamw, 5000, TR_F32, true, 1);
        for (int step = 0; step < STEPS; step++) {
            kernel->run(&whole.call);
            kernel->run(&halves.call);
        }
        for (int64_t i = 0; i < 5000; i++)
            CHECK_NEAR(weight(&halves, i), weight(&whole, i), 0);
        trial_free(&whole);
        trial_free(&halves);
    }
}

static void test_split(void)
{
    for (uint64_t i = 0; i < 100000; i++) {
        uint32_t bits = i < 16 ? (uint32_t[]){0,          1,          0x7fff,     0x8000,
                                              0x8001,     0xffff,     0x10000,    0x7f800000,
                                              0xff800000, 0x80000000, 0x80008000, 0x3f7fffff,
                                              0x3f808000, 0xbf808000, 0x7f7f7fff, 0x00ffffff}[i]
                               : tr_random(1, 0, 0, i).word[0];
        float value, back;
        uint16_t high, low;
        memcpy(&value, &bits, 4);
        tr_split_f32(value, &high, &low);
        back = tr_join_f32(high, low);
        if (memcmp(&back, &value, 4) != 0)
            FAIL("%08x does not come back", bits);
    }
}

/* One step of AdamW from zero moves every weight by lr (to eps), less decay. */
static void test_first_step(void)
{
    float w = 2, g = -3, m = 0, v = 0, scale = 0.25f, lr = 0.1f;
    int32_t step = 1;
    tr_tensor in[7] = {{&w, TR_F32, 1, {1}},   {&g, TR_F32, 1, {1}},     {&m, TR_F32, 1, {1}},
                       {&v, TR_F32, 1, {1}},   {&scale, TR_F32, 1, {1}}, {&lr, TR_F32, 1, {1}},
                       {&step, TR_I32, 1, {1}}};
    tr_attr attrs[TR_MAX_ATTRS] = {{.f = 0.9}, {.f = 0.999}, {.f = 1e-8}, {.f = 0.5}};
    tr_call call = {.op = TR_OP_adamw, .n_in = 7, .in = in, .attrs = attrs};
    tr_kernel_choose(&call, tr_cpu_isa_best())->run(&call);
    CHECK_NEAR(w, 2 - 0.1 * 0.5 * 2 + 0.1, 1e-6);
    CHECK_NEAR(m, 0.1 * -0.75, 1e-8);
    CHECK_NEAR(v, 0.001 * 0.5625, 1e-9);
}

static void clip_once(float sum, float count, double max_norm, float *scale, float *norm)
{
    tr_tensor in[2] = {{&sum, TR_F32, 1, {1}}, {&count, TR_F32, 1, {1}}};
    tr_tensor out[2] = {{scale, TR_F32, 1, {1}}, {norm, TR_F32, 1, {1}}};
    tr_attr attrs[TR_MAX_ATTRS] = {{.f = max_norm}};
    tr_call call = {.op = TR_OP_clip, .n_in = 2, .n_out = 2, .in = in, .out = out, .attrs = attrs};
    tr_kernel_choose(&call, tr_cpu_isa_best())->run(&call);
}

static void test_clip(void)
{
    float scale, norm;
    clip_once(400, 10, 1, &scale, &norm);
    CHECK_NEAR(norm, 2, 1e-6);
    CHECK_NEAR(scale, 0.05, 1e-7);
    clip_once(400, 10, 3, &scale, &norm);
    CHECK_NEAR(scale, 0.1, 1e-7);
    clip_once(400, 10, 0, &scale, &norm);
    CHECK_NEAR(scale, 0.1, 1e-7);
    clip_once(0, 10, 1, &scale, &norm);
    CHECK_NEAR(scale, 0.1, 1e-7);
    clip_once(INFINITY, 10, 1, &scale, &norm);
    CHECK_NEAR(scale, -1, 0);
    clip_once(NAN, 10, 0, &scale, &norm);
    CHECK_NEAR(scale, -1, 0);
    clip_once(0, 0, 1, &scale, &norm);
    CHECK_NEAR(scale, -1, 0);
}

static void bench(const char *name)
{
    int64_t n = 40 << 20;
    for (int variant = 0; variant < 6; variant++) {
        tr_op op = variant & 1 ? TR_OP_sgd : TR_OP_adamw;
        bool halves = variant >= 2;
        tr_dtype g = variant >= 4 ? TR_BF16 : TR_F32;
        trial t;
        trial_new(&t, op, n, g, halves, 1);
        double bytes = (double)n * (8 + (double)tr_dtype_bytes(g) + (op == TR_OP_adamw ? 16 : 8));
        for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
            const tr_kernel *kernel = tr_kernel_fast(op, (tr_isa)isa, 0);
            if (!kernel || (name && strcmp(name, kernel->name) != 0))
                continue;
            double best = 1e9;
            for (int repeat = 0; repeat < 5; repeat++) {
                double start = omp_get_wtime();
                kernel->run(&t.call);
                best = TR_MIN(best, omp_get_wtime() - start);
            }
            printf("%s %-12s gradient %s halves %d: %.1f ms, %.1f GB/s\n",
                   op == TR_OP_adamw ? "adamw" : "sgd  ", kernel->name, tr_dtype_name(g), halves,
                   best * 1e3, 1e-9 * bytes / best);
        }
        trial_free(&t);
    }
}

int main(int argc, char **argv)
{
    omp_set_num_threads(THREADS);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench(argc > 2 ? argv[2] : NULL);
        return 0;
    }
    TEST(test_split);
    TEST(test_against_reference);
    TEST(test_step_not_applied);
    TEST(test_halves_are_exact);
    TEST(test_first_step);
    TEST(test_clip);
    return check_report();
}
