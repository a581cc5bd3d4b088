/* Fast kernels: adamw, sgd, lion.
 *
 * One pass over the parameter and its moments, in place. adamw moves 28 bytes an element (f32
 * gradient), and its square root and division hide behind that. What depends on step and attributes
 * alone is computed once, in double. Elements are independent: any cut gives the same bits. A bf16
 * weight comes with the low halves of its f32 master, see tr_split_f32.
 */
#include <math.h>

#include "base/memory.h"
#include "kernels/fast/optimizer.h"

typedef enum rule { ADAMW, SGD, LION } rule;

/* The arrays of one parameter, from some element on; v is NULL but for adamw, low for an f32 weight. */
typedef struct arrays {
    void *w;
    const void *g;
    float *m, *v;
    uint16_t *low;
} arrays;

typedef struct factors {
    float scale, decay;               /* of the gradient; lr * decay; decay for sgd */
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta */
    float rate, correct, eps;         /* lr / (1 - beta1^step); 1 / (1 - beta2^step) */
} factors;

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

TR_INLINE vf lion_step(const factors *f, vf w, vf g, vf *m)
{
    g *= f->scale;
    vf mixed = vf_fma(*m, vf_set1(f->beta1), g * f->rest1), zero = vf_zero();
    vf sign = vf_select(vf_lt(zero, mixed), vf_set1(1), vf_select(vf_lt(mixed, zero), vf_set1(-1), zero));
    *m = vf_fma(*m, vf_set1(f->beta2), g * f->rest2);
    return w - (f->rate * sign + f->decay * w);
}

TR_INLINE void vector(const arrays *a, int64_t i, int n, const factors *f, rule rule, bool halves, bool bf16)
{
    vf w = load_weight(a->w, a->low, i, n, halves), g = load_gradient(a->g, i, n, bf16), m = load_some(a->m, i, n);
    if (rule == ADAMW) {
        vf v = load_some(a->v, i, n);
        w = adamw_step(f, w, g, &m, &v);
        store_some(a->v, i, v, n);
    } else {
        w = rule == SGD ? sgd_step(f, w, g, &m) : lion_step(f, w, g, &m);
    }
    store_some(a->m, i, m, n);
    store_weight(a->w, a->low, i, w, n, halves);
}

TR_INLINE void all_elements(const arrays *a, int64_t count, const factors *f, rule rule, bool halves, bool bf16)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += TR_OPTIMIZER_PART) {
        int64_t i = first, last = TR_MIN(first + TR_OPTIMIZER_PART, count);
        for (; i + TR_VL <= last; i += TR_VL)
            vector(a, i, TR_VL, f, rule, halves, bf16);
        if (i < last)
            vector(a, i, (int)(last - i), f, rule, halves, bf16);
    }
}

TR_INLINE void update(const arrays *a, int64_t count, const factors *f, rule rule, bool bf16)
{
    if (a->low && bf16)
        all_elements(a, count, f, rule, true, true);
    else if (a->low)
        all_elements(a, count, f, rule, true, false);
    else if (bf16)
        all_elements(a, count, f, rule, false, true);
    else
        all_elements(a, count, f, rule, false, false);
}

/* The ops
 * ------------------------------------------------------------------------------------------- */

static bool adamw_accepts(const tr_call *call)
{
    return weight_accepts(call, 7) && call->in[2].dtype == TR_F32 && call->in[3].dtype == TR_F32;
}

static bool sgd_accepts(const tr_call *call)
{
    return weight_accepts(call, 5) && call->in[2].dtype == TR_F32;
}

static void adamw(const tr_call *call)
{
    double lr = scalar_in(call, 5), step = *(const int32_t *)call->in[6].data;
    double beta1 = call->attrs[TR_ADAMW_BETA1].f, beta2 = call->attrs[TR_ADAMW_BETA2].f;
    factors f = {.scale = scalar_in(call, 4),
                 .decay = (float)(lr * call->attrs[TR_ADAMW_DECAY].f),
                 .beta1 = (float)beta1,
                 .rest1 = (float)(1 - beta1),
                 .beta2 = (float)beta2,
                 .rest2 = (float)(1 - beta2),
                 .rate = (float)(lr / (1 - pow(beta1, step))),
                 .correct = (float)(1 / (1 - pow(beta2, step))),
                 .eps = (float)call->attrs[TR_ADAMW_EPS].f};
    arrays a = {call->in[0].data, call->in[1].data, call->in[2].data, call->in[3].data,
                halves_in(call, 7)};
    if (f.scale >= 0)
        update(&a, tr_tensor_elems(&call->in[0]), &f, ADAMW, call->in[1].dtype == TR_BF16);
}

static void sgd(const tr_call *call)
{
    factors f = {.scale = scalar_in(call, 3),
                 .decay = (float)call->attrs[TR_SGD_DECAY].f,
                 .beta1 = (float)call->attrs[TR_SGD_MOMENTUM].f,
                 .rate = scalar_in(call, 4)};
    arrays a = {call->in[0].data, call->in[1].data, call->in[2].data, NULL,
                halves_in(call, 5)};
    if (f.scale >= 0)
        update(&a, tr_tensor_elems(&call->in[0]), &f, SGD, call->in[1].dtype == TR_BF16);
}

static void lion(const tr_call *call)
{
    double lr = scalar_in(call, 4), beta1 = call->attrs[TR_LION_BETA1].f, beta2 = call->attrs[TR_LION_BETA2].f;
    factors f = {.scale = scalar_in(call, 3),
                 .decay = (float)(lr * call->attrs[TR_LION_DECAY].f),
                 .beta1 = (float)beta1,
                 .rest1 = (float)(1 - beta1),
                 .beta2 = (float)beta2,
                 .rest2 = (float)(1 - beta2),
                 .rate = (float)lr};
    arrays a = {call->in[0].data, call->in[1].data, call->in[2].data, NULL, halves_in(call, 5)};
    if (f.scale >= 0)
        update(&a, tr_tensor_elems(&call->in[0]), &f, LION, call->in[1].dtype == TR_BF16);
}

/* clip is two numbers: the reference kernel is fast enough. */
const tr_kernel TR_KERNELS(optimizer)[] = {
    {TR_OP_adamw, TR_ISA_NAME, adamw_accepts, NULL, adamw, NULL},
    {TR_OP_sgd, TR_ISA_NAME, sgd_accepts, NULL, sgd, NULL},
    {TR_OP_lion, TR_ISA_NAME, sgd_accepts, NULL, lion, NULL},
    {0},
};
