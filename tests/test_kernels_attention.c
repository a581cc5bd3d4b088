/* Attention kernels: the reference against a direct computation and finite differences, every fast
 * kernel against the reference. `test_kernels_attention bench` prints rates instead. */
#include <omp.h>
#include <time.h>

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "kernels/registry.h"

enum { Q, K, V, O, LSE, DO, DQ, DK, DV, DRELATIVE, RELATIVE, QUERY_SEGMENTS, KEY_SEGMENTS, TENSORS, GUARD = 64 };

typedef struct setup {
    int64_t b, t, h, e, s, g;
    bool packed, causal, bf16;
    int64_t window;
    double p;
    bool part; /* q is a part of a larger tensor: origins that are not 0 */
    int64_t distances, row; /* of the bias by distance; 0: none */
    int segments;           /* 1: of keys, 2: of queries too */
} setup;

/* An op's tensors with guard bytes after each. */
typedef struct tensors {
    tr_tensor x[8];
    int n;
} tensors;

static int64_t bytes_of(const tr_tensor *t)
{
    return tr_tensor_elems(t) * tr_dtype_bytes(t->dtype);
}

static tr_tensor tensor(tr_dtype dtype, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3,
                        int64_t d4)
{
    tr_tensor t = {.dtype = dtype, .rank = rank, .dims = {d0, d1, d2, d3, d4}};
    size_t bytes = ((size_t)bytes_of(&t) + GUARD + 63) / 64 * 64;
    t.data = aligned_alloc(64, bytes);
    memset(t.data, 0x5a, bytes);
    return t;
}

static bool guard_is_whole(const tr_tensor *t)
{
    for (int i = 0; i < GUARD; i++)
        if (((const uint8_t *)t->data)[bytes_of(t) + i] != 0x5a)
            return false;
    return true;
}

static float get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((uint16_t *)t->data)[i]) : ((float *)t->data)[i];
}

static void put(const tr_tensor *t, int64_t i, float value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16(value);
    else
        ((float *)t->data)[i] = value;
}

static void fill(const tr_tensor *t, uint32_t stream)
{
    for (int64_t i = 0; t->rank > 0 && i < tr_tensor_elems(t); i++) {
        uint64_t index[TR_NORMALS] = {(uint64_t)i};
        float x[TR_NORMALS];
        tr_random_normals(7, 0, stream, index, x);
        put(t, i, x[0]);
    }
}

static tr_tensor absent(void)
{
    return (tr_tensor){.rank = -1};
}

static void make_qkv(const setup *s, tr_tensor x[3])
{
    tr_dtype type = s->bf16 ? TR_BF16 : TR_F32;
    if (s->packed) {
        x[0] = tensor(type, 5, s->b, s->t, 3, s->h, s->e);
        x[1] = x[2] = absent();
    } else {
        x[0] = tensor(type, 4, s->b, s->t, s->h, s->e, 0);
        x[1] = tensor(type, 4, s->b, s->s, s->g, s->e, 0);
        x[2] = tensor(type, 4, s->b, s->s, s->g, s->e, 0);
    }
}

static void make_all(const setup *s, tr_tensor x[TENSORS])
{
    tr_dtype type = s->bf16 ? TR_BF16 : TR_F32;
    make_qkv(s, x + Q);
    make_qkv(s, x + DQ);
    x[O] = tensor(type, 4, s->b, s->t, s->h, s->e, 0);
    x[DO] = tensor(type, 4, s->b, s->t, s->h, s->e, 0);
    x[LSE] = tensor(TR_F32, 3, s->b, s->h, s->t, 0, 0);
    for (int i = Q; i <= V; i++)
        fill(&x[i], (uint32_t)i);
    fill(&x[DO], DO);
    for (int i = DRELATIVE; i <= KEY_SEGMENTS; i++)
        x[i] = absent();
    if (s->distances) {
        x[RELATIVE] = tensor(TR_F32, 2, s->distances, s->h, 0, 0, 0);
        x[DRELATIVE] = tensor(TR_F32, 2, s->distances, s->h, 0, 0, 0);
        fill(&x[RELATIVE], RELATIVE);
    }
    for (int i = 0; i < s->segments; i++) { /* rows of two sequences, with padding at the end */
        int64_t n = i ? s->t : s->s;
        x[KEY_SEGMENTS - i] = tensor(TR_I32, 2, 2, n, 0, 0, 0);
        for (int64_t j = 0; j < 2 * n; j++)
            ((int32_t *)x[KEY_SEGMENTS - i].data)[j] = j % n >= n - 2 ? 0 : 1 + (int32_t)(j % n * (2 + j / n) / n);
    }
}

static void free_all(tr_tensor *x, int n)
{
    for (int i = 0; i < n; i++)
        if (x[i].rank >= 0)
            free(x[i].data);
}

static void run(const tr_kernel *kernel, const setup *s, tr_op op, tr_tensor *in, int n_in,
                tr_tensor *out, int n_out)
{
    tr_attr attrs[TR_MAX_ATTRS] = {[TR_ATTENTION_CAUSAL] = {.i = s->causal},
                                   [TR_ATTENTION_WINDOW] = {.i = s->window},
                                   [TR_ATTENTION_SCALE] = {.f = 1 / sqrt((double)s->e)},
                                   [TR_ATTENTION_P] = {.f = s->p},
                                   [TR_ATTENTION_ROW] = {.i = s->row},
                                   [TR_ATTENTION_STREAM] = {.i = 5}};
    tr_call call = {.op = op,
                    .n_in = n_in,
                    .n_out = n_out,
                    .in = in,
                    .out = out,
                    .attrs = attrs,
                    .seed = 11,
                    .step = 3};
    int heads = in[0].rank == 5 ? 3 : 2;
    for (int d = 0; d < in[0].rank; d++)
        call.extent[d] = in[0].dims[d];
    if (s->part) {
        call.origin[0] = 1, call.extent[0] += 2;
        call.origin[heads] = 2, call.extent[heads] += 3;
    }
    CHECK(!kernel->accepts || kernel->accepts(&call));
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call));
    tr_tensor scratch = tensor(TR_U8, 1, (int64_t)call.scratch_bytes, 0, 0, 0, 0);
    call.scratch = scratch.data;
    memset(scratch.data, 0xff, call.scratch_bytes); /* NaNs */
    kernel->run(&call);
    if (!guard_is_whole(&scratch))
        FAIL("%s wrote past its scratch", kernel->name);
    free(scratch.data);
    if (kernel->release)
        kernel->release(&call);
}

static void forward(const tr_kernel *kernel, const setup *s, tr_tensor *x)
{
    tr_tensor in[] = {x[Q], x[K], x[V], x[RELATIVE], x[QUERY_SEGMENTS], x[KEY_SEGMENTS]};
    run(kernel, s, TR_OP_attention, in, 6, x + O, 2);
}

static void backward(const tr_kernel *kernel, const setup *s, tr_tensor *x)
{
    tr_tensor in[] = {x[DO], x[O], x[LSE], x[Q], x[K], x[V], x[RELATIVE], x[QUERY_SEGMENTS], x[KEY_SEGMENTS]};
    tr_tensor packed[] = {x[DQ], x[DRELATIVE]};
    run(kernel, s, TR_OP_attention_grad, in, 9, s->packed ? packed : x + DQ, (s->packed ? 1 : 3) + (s->distances > 0));
}

/* The largest difference, in units of the largest wanted value (or 0.25, where all are nearly 0).
 */
static void compare(const char *what, const char *kernel, const setup *s, const tr_tensor *got,
                    const tr_tensor *want, double tolerance)
{
    double worst = 0, scale = 0.25;
    for (int64_t i = 0; i < tr_tensor_elems(want); i++) {
        double a = (double)get(got, i), b = (double)get(want, i);
        if (isinf(b) && a == b)
            continue;
        double difference = fabs(a - b);
        worst = difference <= worst ? worst : difference; /* a NaN stays */
        scale = fabs(b) > scale ? fabs(b) : scale;
    }
    if (!(worst <= tolerance * scale))
        FAIL("%s of %s differs by %.3g of %.3g: b %d t %d h %d e %d s %d g %d packed %d causal %d "
             "window %d p %g bf16 %d",
             what, kernel, worst, scale, (int)s->b, (int)s->t, (int)s->h, (int)s->e, (int)s->s,
             (int)s->g, s->packed, s->causal, (int)s->window, s->p, s->bf16);
    if (!guard_is_whole(got))
        FAIL("%s of %s: wrote past the end", what, kernel);
}

static const setup setups[] = {
    {.b = 2, .t = 5, .h = 3, .e = 8, .s = 5, .g = 3, .causal = true},
    {.b = 1, .t = 64, .h = 2, .e = 64, .packed = true, .causal = true},
    {.b = 2, .t = 150, .h = 3, .e = 64, .packed = true, .causal = true},
    {.b = 1, .t = 150, .h = 2, .e = 80, .packed = true},
    {.b = 1, .t = 67, .h = 2, .e = 20, .s = 131, .g = 1, .causal = true},
    {.b = 1, .t = 131, .h = 4, .e = 24, .s = 67, .g = 2, .causal = true}, /* early queries see
                                                                             nothing */
    {.b = 1, .t = 70, .h = 4, .e = 33, .s = 203, .g = 2},
    {.b = 1, .t = 300, .h = 1, .e = 32, .packed = true, .causal = true, .window = 50},
    {.b = 1, .t = 200, .h = 2, .e = 16, .s = 231, .g = 2, .causal = true, .window = 1},
    {.b = 1, .t = 140, .h = 2, .e = 16, .s = 140, .g = 1, .window = 33},
    {.b = 1, .t = 1, .h = 2, .e = 128, .s = 37, .g = 2, .causal = true},
    {.b = 2, .t = 100, .h = 2, .e = 40, .packed = true, .causal = true, .p = 0.3},
    {.b = 2, .t = 49, .h = 2, .e = 32, .s = 49, .g = 2}, /* of images: patches, and a class token */
    {.b = 2, .t = 17, .h = 2, .e = 64, .s = 17, .g = 2},
    {.b = 3, .t = 16, .h = 3, .e = 32, .packed = true}, /* what attention_short.c does */
    {.b = 2, .t = 32, .h = 2, .e = 128, .s = 9, .g = 2},
    {.b = 2, .t = 1, .h = 2, .e = 32, .s = 27, .g = 2},
    {.b = 2, .t = 31, .h = 1, .e = 96, .s = 32, .g = 1, .part = true},
    {.b = 3, .t = 16, .h = 3, .e = 32, .packed = true, .distances = 49, .row = 4, .segments = 2},
    {.b = 2, .t = 20, .h = 2, .e = 64, .s = 13, .g = 2, .distances = 15, .segments = 1},
    {.b = 2, .t = 80, .h = 2, .e = 32, .s = 70, .g = 2, .distances = 31, .segments = 2},
    {.b = 2, .t = 64, .h = 2, .e = 16, .packed = true, .distances = 225, .row = 8, .segments = 2, .p = 0.1},
    {.b = 1, .t = 100, .h = 2, .e = 32, .s = 77, .g = 1, .p = 0.1, .part = true},
    {.b = 1,
     .t = 66,
     .h = 2,
     .e = 32,
     .packed = true,
     .p = 0.5,
     .causal = true,
     .window = 20,
     .part = true},
};

typedef void kernel_test(const tr_kernel *fast, const setup *s, tr_tensor *want);

static void each_kernel(tr_op op, kernel_test *test, const setup *s, tr_tensor *want)
{
    const tr_kernel *fast;
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++)
        for (int k = 0; (fast = tr_kernel_fast(op, (tr_isa)isa, k)); k++)
            for (int threads = 1; threads <= 3; threads++) {
                omp_set_num_threads(threads);
                test(fast, s, want);
            }
}

static void forward_case(const tr_kernel *fast, const setup *s, tr_tensor *x)
{
    tr_tensor y[TENSORS];
    make_all(s, y);
    forward(fast, s, y);
    compare("o", fast->name, s, &y[O], &x[O], s->bf16 ? 1e-2 : 2e-6);
    compare("lse", fast->name, s, &y[LSE], &x[LSE], s->bf16 ? 1e-4 : 2e-6);
    tr_tensor first = y[O];
    y[O] = tensor(first.dtype, 4, s->b, s->t, s->h, s->e, 0);
    forward(fast, s, y);
    if (memcmp(first.data, y[O].data, (size_t)bytes_of(&first)) != 0)
        FAIL("%s: the second run gave other bits", fast->name);
    free(first.data);
    free_all(y, TENSORS);
}

static void backward_case(const tr_kernel *fast, const setup *s, tr_tensor *x)
{
    tr_tensor y[TENSORS];
    make_all(s, y);
    memcpy(y[O].data, x[O].data, (size_t)bytes_of(&x[O]));
    memcpy(y[LSE].data, x[LSE].data, (size_t)bytes_of(&x[LSE]));
    backward(fast, s, y);
    const char *const names[] = {s->packed ? "dqkv" : "dq", "dk", "dv"};
    for (int i = 0; i < (s->packed ? 1 : 3); i++)
        compare(names[i], fast->name, s, &y[DQ + i], &x[DQ + i], s->bf16 ? 1e-2 : 4e-6);
    if (s->distances)
        compare("drelative", fast->name, s, &y[DRELATIVE], &x[DRELATIVE], s->bf16 ? 1e-2 : 4e-6);
    free_all(y, TENSORS);
}

static void test_setups(void)
{
    for (int i = 0; i < TR_COUNT(setups); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            setup s = setups[i];
            s.bf16 = bf16;
            if (s.packed)
                s.s = s.t, s.g = s.h;
            tr_tensor x[TENSORS];
            make_all(&s, x);
            forward(tr_kernel_reference(TR_OP_attention), &s, x);
            backward(tr_kernel_reference(TR_OP_attention_grad), &s, x);
            each_kernel(TR_OP_attention, forward_case, &s, x);
            each_kernel(TR_OP_attention_grad, backward_case, &s, x);
            free_all(x, TENSORS);
        }
}

/* Two queries, two keys, by hand. */
static void test_reference_by_hand(void)
{
    setup s = {.b = 1, .t = 2, .h = 1, .e = 1, .s = 2, .g = 1, .causal = true};
    tr_tensor x[TENSORS];
    make_all(&s, x);
    const float q[] = {1, 2}, k[] = {3, -1}, v[] = {5, 7};
    for (int i = 0; i < 2; i++)
        put(&x[Q], i, q[i]), put(&x[K], i, k[i]), put(&x[V], i, v[i]);
    forward(tr_kernel_reference(TR_OP_attention), &s, x);
    double a = exp(6), b = exp(-2);
    CHECK_NEAR(get(&x[O], 0), 5, 1e-6);
    CHECK_NEAR(get(&x[O], 1), (5 * a + 7 * b) / (a + b), 1e-6);
    CHECK_NEAR(get(&x[LSE], 0), 3, 1e-6);
    CHECK_NEAR(get(&x[LSE], 1), log(a + b), 1e-6);
    free_all(x, TENSORS);
}

/* The reference's gradient against differences of sum(o * do). */
static void test_reference_gradient(void)
{
    const setup cases[] = {
        {.b = 1, .t = 4, .h = 2, .e = 3, .s = 6, .g = 1, .causal = true},
        {.b = 2, .t = 5, .h = 2, .e = 3, .s = 5, .g = 2, .packed = true, .causal = true, .p = 0.4},
        {.b = 1, .t = 6, .h = 1, .e = 4, .s = 6, .g = 1, .window = 2},
    };
    const tr_kernel *kernel = tr_kernel_reference(TR_OP_attention);
    for (int n = 0; n < TR_COUNT(cases); n++) {
        tr_tensor x[TENSORS];
        make_all(&cases[n], x);
        forward(kernel, &cases[n], x);
        backward(tr_kernel_reference(TR_OP_attention_grad), &cases[n], x);
        for (int k = 0; k < (cases[n].packed ? 1 : 3); k++)
            for (int64_t i = 0; i < tr_tensor_elems(&x[k]); i++) {
                float value = get(&x[k], i);
                double sums[2];
                for (int side = 0; side < 2; side++) {
                    put(&x[k], i, value + (side ? 1e-2f : -1e-2f));
                    forward(kernel, &cases[n], x);
                    sums[side] = 0;
                    for (int64_t c = 0; c < tr_tensor_elems(&x[O]); c++)
                        sums[side] += (double)get(&x[O], c) * (double)get(&x[DO], c);
                }
                put(&x[k], i, value);
                CHECK_NEAR(get(&x[DQ + k], i), (sums[1] - sums[0]) / 2e-2, 2e-3);
            }
        free_all(x, TENSORS);
    }
}

/* A NaN in a query reaches its output and no other query's. */
static void nan_case(const tr_kernel *fast, const setup *s, tr_tensor *unused)
{
    (void)unused;
    tr_tensor x[TENSORS];
    make_all(s, x);
    put(&x[Q], 70 * s->h * s->e + 1, NAN);
    forward(fast, s, x);
    for (int64_t i = 0; i < s->t; i++)
        if (isnan(get(&x[O], i * s->h * s->e)) != (i == 70))
            FAIL("%s: output %d is %g", fast->name, (int)i, (double)get(&x[O], i * s->h * s->e));
    free_all(x, TENSORS);
}

static void test_nan(void)
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        setup s = {
            .b = 1, .t = 150, .h = 1, .e = 32, .s = 150, .g = 1, .causal = true, .bf16 = bf16};
        each_kernel(TR_OP_attention, nan_case, &s, NULL);
    }
}

/* Cached -----------------------------------------------------------------------------------------
 */

typedef struct cached {
    tr_tensor in[6], out[3];
} cached;

/* s->s is the room of the cache. */
static cached make_cached(const setup *s, int start)
{
    cached x;
    tr_dtype type = s->bf16 ? TR_BF16 : TR_F32;
    setup fresh = *s;
    fresh.s = s->t;
    make_qkv(&fresh, x.in);
    x.in[3] = tensor(type, 4, s->b, s->g, s->s, s->e, 0);
    x.in[4] = tensor(type, 4, s->b, s->g, s->s, s->e, 0);
    x.in[5] = tensor(TR_I32, 1, 1, 0, 0, 0, 0);
    for (int i = 0; i < 5; i++)
        if (x.in[i].rank > 0)
            fill(&x.in[i], (uint32_t)i);
    *(int32_t *)x.in[5].data = start;
    x.out[0] = tensor(type, 4, s->b, s->t, s->h, s->e, 0);
    x.out[1] = x.in[3];
    x.out[2] = x.in[4];
    return x;
}

static void cached_case(const tr_kernel *fast, const setup *s, tr_tensor *want)
{
    cached y = make_cached(s, *(const int32_t *)want[3].data);
    run(fast, s, TR_OP_attention_cached, y.in, 6, y.out, 3);
    compare("cached o", fast->name, s, &y.out[0], &want[0], s->bf16 ? 1e-2 : 2e-6);
    compare("cached k", fast->name, s, &y.out[1], &want[1], 0);
    compare("cached v", fast->name, s, &y.out[2], &want[2], 0);
    free_all(y.in, 6);
    free(y.out[0].data);
}

static void test_cached(void)
{
    const struct {
        setup s;
        int start;
    } cases[] = {
        {{.b = 2, .t = 1, .h = 3, .e = 64, .s = 300, .g = 3, .packed = true}, 0},
        {{.b = 2, .t = 1, .h = 3, .e = 64, .s = 300, .g = 3, .packed = true}, 299},
        {{.b = 1, .t = 1, .h = 4, .e = 80, .s = 150, .g = 1}, 101},
        {{.b = 1, .t = 1, .h = 3, .e = 128, .s = 150, .g = 3}, 77},
        {{.b = 1, .t = 3, .h = 2, .e = 20, .s = 200, .g = 1}, 150},
        {{.b = 1, .t = 2, .h = 1, .e = 33, .s = 200, .g = 1, .window = 40}, 160},
        {{.b = 1, .t = 1, .h = 1, .e = 16, .s = 200, .g = 1, .window = 7}, 3},
        {{.b = 1, .t = 7, .h = 2, .e = 40, .s = 30, .g = 2, .packed = true}, 0},
        {{.b = 1, .t = 150, .h = 3, .e = 64, .s = 256, .g = 3, .packed = true}, 0},
        {{.b = 2, .t = 70, .h = 4, .e = 24, .s = 256, .g = 2}, 33},
        {{.b = 1, .t = 9, .h = 2, .e = 32, .s = 400, .g = 2, .window = 100}, 301},
    };
    for (int i = 0; i < TR_COUNT(cases); i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            setup s = cases[i].s;
            s.bf16 = bf16;
            cached x = make_cached(&s, cases[i].start);
            run(tr_kernel_reference(TR_OP_attention_cached), &s, TR_OP_attention_cached, x.in, 6,
                x.out, 3);
            tr_tensor want[] = {x.out[0], x.out[1], x.out[2], x.in[5]};
            each_kernel(TR_OP_attention_cached, cached_case, &s, want);
            free_all(x.in, 6);
            free(x.out[0].data);
        }
}

/* Rates ------------------------------------------------------------------------------------------
 */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double best_of(const tr_kernel *kernel, tr_op op, const setup *s, tr_tensor *in, int n_in,
                      tr_tensor *out, int n_out)
{
    tr_attr attrs[TR_MAX_ATTRS] = {[TR_ATTENTION_CAUSAL] = {.i = s->causal},
                                   [TR_ATTENTION_WINDOW] = {.i = s->window},
                                   [TR_ATTENTION_SCALE] = {.f = 1 / sqrt((double)s->e)},
                                   [TR_ATTENTION_P] = {.f = s->p},
                                   [TR_ATTENTION_STREAM] = {.i = 5}};
    tr_call call = {.op = op, .n_in = n_in, .n_out = n_out, .in = in, .out = out, .attrs = attrs};
    for (int d = 0; d < in[0].rank; d++)
        call.extent[d] = in[0].dims[d];
    CHECK_OK(kernel->prepare(&call));
    call.scratch = aligned_alloc(64, call.scratch_bytes);
    double best = 1e9, end = now() + 1.0;
    for (int i = 0; i < 4 || now() < end; i++) {
        double start = now();
        kernel->run(&call);
        best = fmin(best, now() - start);
    }
    free(call.scratch);
    return best;
}

static void bench(const char *only, bool cached_only)
{
    const setup cases[] = {
        {.b = 4, .t = 512, .h = 12, .e = 64, .packed = true, .causal = true},
        {.b = 4, .t = 512, .h = 12, .e = 64, .packed = true, .causal = true, .p = 0.1},
        {.b = 2, .t = 1024, .h = 12, .e = 64, .packed = true, .causal = true},
        {.b = 1, .t = 2048, .h = 12, .e = 64, .packed = true, .causal = true},
        {.b = 1, .t = 2048, .h = 12, .e = 64, .packed = true, .causal = true, .window = 256},
        {.b = 1, .t = 2048, .h = 8, .e = 128, .packed = true, .causal = true},
        {.b = 4, .t = 512, .h = 12, .e = 64, .packed = true},
        {.b = 64, .t = 17, .h = 2, .e = 64, .packed = true},
        {.b = 256, .t = 16, .h = 3, .e = 32, .packed = true},
    };
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        if (only && strcmp(only, tr_isa_name((tr_isa)isa)) != 0)
            continue;
        const tr_kernel *kernels[] = {tr_kernel_fast(TR_OP_attention, (tr_isa)isa, 0),
                                      tr_kernel_fast(TR_OP_attention_grad, (tr_isa)isa, 0),
                                      tr_kernel_fast(TR_OP_attention_cached, (tr_isa)isa, 0)};
        if (!kernels[0])
            continue;
        printf("%s, %d threads\n", kernels[0]->name, omp_get_max_threads());
        for (int i = 0; i < 2 * TR_COUNT(cases) && !cached_only; i++) {
            setup s = cases[i / 2];
            s.bf16 = i % 2;
            s.s = s.t, s.g = s.h;
            tr_tensor x[TENSORS];
            make_all(&s, x);
            double pairs = (double)(s.b * s.h) *
                           (s.causal ? 0.5 * (double)s.t * (double)(s.t + 1) : (double)(s.t * s.t));
            if (s.window)
                pairs = (double)(s.b * s.h * s.t * s.window);
            double flops = 4.0 * pairs * (double)s.e;
            double f = best_of(kernels[0], TR_OP_attention, &s, x + Q, 1, x + O, 2);
            tr_tensor in[] = {x[DO], x[O], x[LSE], x[Q], x[K], x[V]};
            double g = best_of(kernels[1], TR_OP_attention_grad, &s, in, 4, x + DQ, 1);
            printf("  %s b %d t %4d h %2d e %3d%s%s%s: forward %7.2f ms %5.0f GFLOP/s   gradient "
                   "%7.2f ms %5.0f GFLOP/s\n",
                   s.bf16 ? "bf16" : "f32 ", (int)s.b, (int)s.t, (int)s.h, (int)s.e,
                   s.causal ? " causal" : "", s.window ? " window" : "", s.p > 0 ? " dropout" : "",
                   f * 1e3, flops / f * 1e-9, g * 1e3, 2.5 * flops / g * 1e-9);
            free_all(x, TENSORS);
        }
        for (int i = 0; i < 6; i++) {
            /* Several layers' worth of batch, so that the cache of keys does not stay in the
             * processor's. */
            setup s = {.b = i < 4 ? 48 : 1,
                       .t = i < 4 ? 1 : 1000,
                       .h = 12,
                       .e = 64,
                       .s = 1024,
                       .g = i / 2 == 1 ? 2 : 12,
                       .bf16 = i % 2};
            cached x = make_cached(&s, i < 4 ? 1000 : 0);
            double f = best_of(kernels[2], TR_OP_attention_cached, &s, x.in, 6, x.out, 3);
            double bytes = 2.0 * (double)(s.b * s.g * 1001 * s.e) * (s.bf16 ? 2 : 4);
            double flops = 4.0 * 12 * 64 * 500 * 1000;
            if (i < 4)
                printf("  %s decode, %d query heads on %d: %.2f ms %.1f GB/s\n",
                       s.bf16 ? "bf16" : "f32 ", 12, (int)s.g, f * 1e3, bytes / f * 1e-9);
            else
                printf("  %s prefill of 1000: %.2f ms %.0f GFLOP/s\n", s.bf16 ? "bf16" : "f32 ",
                       f * 1e3, flops / f * 1e-9);
            free_all(x.in, 6);
            free(x.out[0].data);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench(argc > 2 ? argv[2] : NULL, argc > 3);
        return 0;
    }
    TEST(test_reference_by_hand);
    TEST(test_reference_gradient);
    TEST(test_setups);
    TEST(test_nan);
    TEST(test_cached);
    return check_report();
}
