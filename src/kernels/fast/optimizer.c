/* Fast kernels: adamw, sgd.
 *
 * One pass over the parameter and its moments, in place. adamw moves 28 bytes an element (f32
 * gradient), and its square root and division hide behind that. What depends on step and attributes
 * alone is computed once, in double. Elements are independent: any cut gives the same bits. A bf16
 * weight comes with the low halves of its f32 master, see tr_split_f32.
 */
#include <math.h>

#include "base/memory.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

enum { PART = 8192 }; /* elements a thread takes at a time */

/* The arrays of one parameter, from some element on; v is NULL for sgd, low for an f32 weight. */
typedef struct arrays {
    void *w;
    const void *g;
    float *m, *v;
    uint16_t *low;
} arrays;

typedef struct factors {
    float scale, decay;               /* of the gradient; lr * decay for adamw, decay for sgd */
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta */
    float rate, correct, eps;         /* lr / (1 - beta1^step); 1 / (1 - beta2^step) */
} factors;

/* Halves of f32
 * ------------------------------------------------------------------------------------- */

TR_INLINE vu load_halves(const uint16_t *p)
{
    vh half;
    memcpy(&half, p, sizeof half);
    return __builtin_convertvector(half, vu);
}

TR_INLINE void store_halves(uint16_t *p, vu v)
{
    vh half = __builtin_convertvector(v, vh);
    memcpy(p, &half, sizeof half);
}

TR_INLINE vf join(const uint16_t *high, const uint16_t *low)
{
    vu l = load_halves(low);
    return (vf)((load_halves(high) << 16) - ((l & 0x8000u) << 1) + l);
}

TR_INLINE void split(uint16_t *high, uint16_t *low, vf value)
{
    vu bits = (vu)value;
    store_halves(low, bits & 0xffffu);
    store_halves(high, (bits + 0x8000u) >> 16);
}

/* One vector
 * ---------------------------------------------------------------------------------------- */

TR_INLINE vf adamw_step(const factors *f, vf w, vf g, vf *m, vf *v)
{
    g *= f->scale;
    *m = vf_fma(*m, vf_set1(f->beta1), g * f->rest1);
    *v = vf_fma(*v, vf_set1(f->beta2), g * g * f->rest2);
    w -= f->decay * w;
    return w - (f->rate * *m) / (vf_sqrt(*v * f->correct) + f->eps);
}

TR_INLINE vf sgd_step(const factors *f, vf w, vf g, vf *m)
{
    g = vf_fma(w, vf_set1(f->decay), g * f->scale);
    *m = vf_fma(*m, vf_set1(f->beta1), g);
    return w - f->rate * *m;
}

TR_INLINE void vector(const arrays *a, int64_t i, const factors *f, bool adam, bool halves,
                      bool bf16)
{
    vf w = halves ? join((uint16_t *)a->w + i, a->low + i) : vf_load((float *)a->w + i);
    vf g = vf_load_as(a->g, i, bf16), m = vf_load(a->m + i);
    if (adam) {
        vf v = vf_load(a->v + i);
        w = adamw_step(f, w, g, &m, &v);
        vf_store(a->v + i, v);
    } else {
        w = sgd_step(f, w, g, &m);
    }
    vf_store(a->m + i, m);
    if (halves)
        split((uint16_t *)a->w + i, a->low + i, w);
    else
        vf_store((float *)a->w + i, w);
}

/* Elements [first, last); a tail goes through a vector on the stack. */
TR_INLINE void elements(const arrays *a, int64_t first, int64_t last, const factors *f, bool adam,
                        bool halves, bool bf16)
{
    int64_t i = first;
    for (; i + TR_VL <= last; i += TR_VL)
        vector(a, i, f, adam, halves, bf16);
    if (i == last)
        return;
    float w[TR_VL] = {0}, g[TR_VL] = {0}, m[TR_VL] = {0}, v[TR_VL] = {0};
    uint16_t low[TR_VL] = {0};
    size_t n = (size_t)(last - i), w_bytes = halves ? 2 : 4, g_bytes = bf16 ? 2 : 4;
    arrays tail = {w, g, m, v, low};
    memcpy(w, (char *)a->w + (size_t)i * w_bytes, n * w_bytes);
    memcpy(g, (const char *)a->g + (size_t)i * g_bytes, n * g_bytes);
    memcpy(m, a->m + i, n * 4);
    if (adam)
        memcpy(v, a->v + i, n * 4);
    if (halves)
        memcpy(low, a->low + i, n * 2);
    vector(&tail, 0, f, adam, halves, bf16);
    memcpy((char *)a->w + (size_t)i * w_bytes, w, n * w_bytes);
    memcpy(a->m + i, m, n * 4);
    if (adam)
        memcpy(a->v + i, v, n * 4);
    if (halves)
        memcpy(a->low + i, low, n * 2);
}

TR_INLINE void all_elements(const arrays *a, int64_t count, const factors *f, bool adam,
                            bool halves, bool bf16)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i += PART)
        elements(a, i, TR_MIN(i + PART, count), f, adam, halves, bf16);
}

TR_INLINE void update(const arrays *a, int64_t count, const factors *f, bool adam, bool bf16)
{
    if (a->low && bf16)
        all_elements(a, count, f, adam, true, true);
    else if (a->low)
        all_elements(a, count, f, adam, true, false);
    else if (bf16)
        all_elements(a, count, f, adam, false, true);
    else
        all_elements(a, count, f, adam, false, false);
}

/* The ops
 * ------------------------------------------------------------------------------------------- */

/* An f32 weight alone, or a bf16 one with its low halves in input `low`. */
static bool accepts(const tr_call *call, int low)
{
    tr_dtype g = call->in[1].dtype;
    return (g == TR_F32 || g == TR_BF16) && call->in[2].dtype == TR_F32 &&
           (tr_has(call, low) ? call->in[0].dtype == TR_BF16 && call->in[low].dtype == TR_U16
                              : call->in[0].dtype == TR_F32);
}

static bool adamw_accepts(const tr_call *call)
{
    return accepts(call, 7) && call->in[3].dtype == TR_F32;
}

static bool sgd_accepts(const tr_call *call)
{
    return accepts(call, 5);
}

static float scalar(const tr_call *call, int input)
{
    return *(const float *)call->in[input].data;
}

static void adamw(const tr_call *call)
{
    double lr = scalar(call, 5), step = *(const int32_t *)call->in[6].data;
    double beta1 = call->attrs[TR_ADAMW_BETA1].f, beta2 = call->attrs[TR_ADAMW_BETA2].f;
    factors f = {.scale = scalar(call, 4),
                 .decay = (float)(lr * call->attrs[TR_ADAMW_DECAY].f),
                 .beta1 = (float)beta1,
                 .rest1 = (float)(1 - beta1),
                 .beta2 = (float)beta2,
                 .rest2 = (float)(1 - beta2),
                 .rate = (float)(lr / (1 - pow(beta1, step))),
                 .correct = (float)(1 / (1 - pow(beta2, step))),
                 .eps = (float)call->attrs[TR_ADAMW_EPS].f};
    arrays a = {call->in[0].data, call->in[1].data, call->in[2].data, call->in[3].data,
                tr_has(call, 7) ? call->in[7].data : NULL};
    if (f.scale >= 0)
        update(&a, tr_tensor_elems(&call->in[0]), &f, true, call->in[1].dtype == TR_BF16);
}

static void sgd(const tr_call *call)
{
    factors f = {.scale = scalar(call, 3),
                 .decay = (float)call->attrs[TR_SGD_DECAY].f,
                 .beta1 = (float)call->attrs[TR_SGD_MOMENTUM].f,
                 .rate = scalar(call, 4)};
    arrays a = {call->in[0].data, call->in[1].data, call->in[2].data, NULL,
                tr_has(call, 5) ? call->in[5].data : NULL};
    if (f.scale >= 0)
        update(&a, tr_tensor_elems(&call->in[0]), &f, false, call->in[1].dtype == TR_BF16);
}

/* clip is two numbers: the reference kernel is fast enough. */
const tr_kernel TR_KERNELS(optimizer)[] = {
    {TR_OP_adamw, TR_ISA_NAME, adamw_accepts, NULL, adamw, NULL},
    {TR_OP_sgd, TR_ISA_NAME, sgd_accepts, NULL, sgd, NULL},
    {0},
};
