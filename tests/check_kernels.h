/* Kernels against their reference: a test fills a kernel_case and calls kernel_check, which runs
 * every fast kernel of every instruction set this machine has, with one thread and with two, and
 * checks
 *   - outputs against the reference's: relative * |value| + absolute * largest |value| + 1e-30
 *   - that one and two threads give the same bits (all kernels tested with this promise that),
 *   - that nothing is written past an output or the scratch, nor to any input but in place.
 * kernel_bench prints the speed of the best kernel and of a plain copy for comparison. */
#pragma once
#include <omp.h>
#include <time.h>

#include "check.h"
#include "kernels/registry.h"

enum { KC_MAX = 10, KC_GUARD = 128 };

typedef struct kernel_case {
    tr_op op;
    int n_in, n_out;
    tr_tensor in[KC_MAX], out[KC_MAX]; /* data of inputs: from kc_*; data of outputs: unused */
    int over[KC_MAX]; /* 1 + the input that output k may be written over; 0: none */
    bool accumulates; /* and it must be */
    double relative[KC_MAX], absolute[KC_MAX];
    tr_attr attrs[TR_MAX_ATTRS];
    uint64_t seed;
    uint32_t step;
    int64_t origin[TR_MAX_RANK], extent[TR_MAX_RANK];
} kernel_case;

static uint64_t kc_state = 88172645463325252u;

/* In [-1, 1). */
static inline double kc_random(void)
{
    kc_state ^= kc_state << 13;
    kc_state ^= kc_state >> 7;
    kc_state ^= kc_state << 17;
    return (double)(kc_state >> 11) * 0x1p-52 - 1;
}

static inline int64_t kc_bytes(const tr_tensor *t)
{
    return t->rank < 0 ? 0 : tr_tensor_elems(t) * tr_dtype_bytes(t->dtype);
}

static inline void *kc_room(int64_t bytes)
{
    return aligned_alloc(64, (size_t)((bytes + KC_GUARD + 63) / 64 * 64));
}

static inline tr_tensor kc_shape(tr_dtype dtype, int rank, const int64_t *dims)
{
    tr_tensor t = {.dtype = dtype, .rank = rank};
    for (int d = 0; d < rank; d++)
        t.dims[d] = dims[d];
    return t;
}
#define KC_DIMS(...)                                                             \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) \
    {                                                                            \
        __VA_ARGS__                                                              \
    }

static inline void kc_set(const tr_tensor *t, int64_t i, double value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16((float)value);
    else if (t->dtype == TR_F16)
        ((uint16_t *)t->data)[i] = tr_f32_to_f16((float)value);
    else if (t->dtype == TR_I32)
        ((int32_t *)t->data)[i] = (int32_t)value;
    else
        ((float *)t->data)[i] = (float)value;
}

static inline double kc_get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16  ? (double)tr_bf16_to_f32(((const uint16_t *)t->data)[i])
           : t->dtype == TR_F16 ? (double)tr_f16_to_f32(((const uint16_t *)t->data)[i])
           : t->dtype == TR_I32 ? (double)((const int32_t *)t->data)[i]
                                : (double)((const float *)t->data)[i];
}

/* offset + scale * uniform in [-1, 1). */
static inline tr_tensor kc_uniform(tr_dtype dtype, int rank, const int64_t *dims, double offset,
                                   double scale)
{
    tr_tensor t = kc_shape(dtype, rank, dims);
    t.data = kc_room(kc_bytes(&t));
    for (int64_t i = 0, n = tr_tensor_elems(&t); i < n; i++)
        kc_set(&t, i, offset + scale * kc_random());
    return t;
}

static const tr_tensor kc_absent = {.rank = -1};

/* A copy of an input, or room for an output, followed by a guard. */
static inline tr_tensor kc_copy(const tr_tensor *t, bool contents)
{
    tr_tensor copy = *t;
    if (t->rank < 0)
        return copy;
    copy.data = kc_room(kc_bytes(t));
    memset(copy.data, 0xA5, (size_t)(kc_bytes(t) + KC_GUARD));
    if (contents)
        memcpy(copy.data, t->data, (size_t)kc_bytes(t));
    return copy;
}

static inline bool kc_guard_whole(const void *data, int64_t bytes)
{
    for (int i = 0; i < KC_GUARD; i++)
        if (((const unsigned char *)data)[bytes + i] != 0xA5)
            return false;
    return true;
}

/* Runs `kernel` on copies; fills out (to be freed by kc_drop). False when the kernel declines. */
static inline bool kc_run(const kernel_case *c, const tr_kernel *kernel, bool in_place, int threads,
                          tr_tensor *out)
{
    tr_tensor in[KC_MAX];
    tr_call call = {.op = c->op,
                    .n_in = c->n_in,
                    .n_out = c->n_out,
                    .in = in,
                    .out = out,
                    .attrs = c->attrs,
                    .seed = c->seed,
                    .step = c->step};
    memcpy(call.origin, c->origin, sizeof call.origin);
    memcpy(call.extent, c->extent, sizeof call.extent);
    for (int k = 0; k < c->n_in; k++) {
        in[k] = c->in[k];
        in[k].data = NULL;
    }
    for (int k = 0; k < c->n_out; k++)
        out[k] = c->out[k];
    if (kernel->accepts && !kernel->accepts(&call))
        return false;
    omp_set_num_threads(threads); /* what a kernel prepares may depend on it */
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call));
    for (int k = 0; k < c->n_in; k++)
        in[k] = kc_copy(&c->in[k], true);
    for (int k = 0; k < c->n_out; k++)
        if (in_place && c->over[k])
            out[k].data = in[c->over[k] - 1].data;
        else
            out[k] = kc_copy(&c->out[k], false);
    call.scratch = kc_room((int64_t)call.scratch_bytes);
    memset(call.scratch, 0xA5, call.scratch_bytes + KC_GUARD);
    kernel->run(&call);
    if (kernel->release)
        kernel->release(&call);
    CHECK(kc_guard_whole(call.scratch, (int64_t)call.scratch_bytes));
    for (int k = 0; k < c->n_out; k++)
        CHECK(kc_guard_whole(out[k].data, kc_bytes(&out[k])));
    for (int k = 0; k < c->n_in; k++) {
        bool over = false;
        for (int o = 0; o < c->n_out; o++)
            over |= in_place && c->over[o] == k + 1;
        if (c->in[k].rank < 0 || over)
            continue;
        CHECK(memcmp(in[k].data, c->in[k].data, (size_t)kc_bytes(&in[k])) == 0);
        free(in[k].data);
    }
    free(call.scratch);
    return true;
}

static inline void kc_drop(const kernel_case *c, tr_tensor *out)
{
    for (int k = 0; k < c->n_out; k++)
        free(out[k].data);
}

static inline void kc_compare(const kernel_case *c, const char *what, const tr_tensor *got,
                              const tr_tensor *want)
{
    for (int k = 0; k < c->n_out; k++) {
        int64_t n = tr_tensor_elems(&want[k]);
        double largest = 0;
        for (int64_t i = 0; i < n; i++)
            if (isfinite(kc_get(&want[k], i)))
                largest = fmax(largest, fabs(kc_get(&want[k], i)));
        for (int64_t i = 0; i < n; i++) {
            double g = kc_get(&got[k], i), w = kc_get(&want[k], i);
            bool same = isnan(w)   ? isnan(g)
                        : isinf(w) ? g == w
                                   : fabs(g - w) <= c->relative[k] * fabs(w) +
                                                        c->absolute[k] * largest + 1e-30;
            if (!same) {
                FAIL("%s, output %d, element %lld of %lld: %.9g, expected %.9g", what, k,
                     (long long)i, (long long)n, g, w);
                break;
            }
        }
    }
}

/* Returns how many fast kernels took the case. */
static inline int kernel_check(const kernel_case *c)
{
    int tried = 0;
    tr_tensor want[KC_MAX];
    const tr_kernel *reference = tr_kernel_reference(c->op);
    CHECK(reference && kc_run(c, reference, false, 1, want));
    for (tr_isa isa = 0; isa <= tr_cpu_isa_best(); isa++) {
        const tr_kernel *kernel;
        for (int k = 0; (kernel = tr_kernel_fast(c->op, isa, k)); k++) {
            tr_tensor one[KC_MAX], two[KC_MAX], apart[KC_MAX];
            if (!kc_run(c, kernel, true, 1, one))
                continue;
            tried++;
            CHECK(kc_run(c, kernel, true, 2, two));
            kc_compare(c, kernel->name, one, want);
            for (int o = 0; o < c->n_out; o++)
                if (memcmp(one[o].data, two[o].data, (size_t)kc_bytes(&one[o])) != 0)
                    FAIL("%s: output %d differs between one and two threads", kernel->name, o);
            if (!c->accumulates && kc_run(c, kernel, false, 2, apart)) {
                for (int o = 0; o < c->n_out; o++)
                    if (memcmp(one[o].data, apart[o].data, (size_t)kc_bytes(&one[o])) != 0)
                        FAIL("%s: output %d differs in place and apart", kernel->name, o);
                kc_drop(c, apart);
            }
            kc_drop(c, one);
            kc_drop(c, two);
        }
    }
    kc_drop(c, want);
    return tried;
}

static inline void kc_free_inputs(kernel_case *c)
{
    for (int k = 0; k < c->n_in; k++)
        if (c->in[k].rank >= 0)
            free(c->in[k].data);
}

static inline double kc_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best of several runs of the best kernel on this machine; `bytes` read and written by one. */
static inline void kernel_bench(const char *name, kernel_case *c, double bytes)
{
    tr_tensor out[KC_MAX];
    tr_call call = {.op = c->op,
                    .n_in = c->n_in,
                    .n_out = c->n_out,
                    .in = c->in,
                    .out = out,
                    .attrs = c->attrs,
                    .seed = c->seed,
                    .step = c->step};
    memcpy(call.origin, c->origin, sizeof call.origin);
    memcpy(call.extent, c->extent, sizeof call.extent);
    for (int k = 0; k < c->n_out; k++) {
        out[k] = c->out[k];
        out[k] = kc_copy(&c->out[k], false);
        if (c->over[k]) {
            free(out[k].data);
            out[k].data = c->in[c->over[k] - 1].data;
        }
    }
    const tr_kernel *kernel = tr_kernel_choose(&call, tr_cpu_isa_best());
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call));
    call.scratch = kc_room((int64_t)call.scratch_bytes);
    double best = 1e9, until = kc_seconds() + 0.4;
    while (kc_seconds() < until) {
        double start = kc_seconds();
        kernel->run(&call);
        best = fmin(best, kc_seconds() - start);
    }
    printf("%-34s %-12s %8.3f ms %7.1f GB/s\n", name, kernel->name, best * 1e3,
           bytes / best * 1e-9);
    if (kernel->release)
        kernel->release(&call);
    free(call.scratch);
    for (int k = 0; k < c->n_out; k++)
        if (!c->over[k])
            free(out[k].data);
}
