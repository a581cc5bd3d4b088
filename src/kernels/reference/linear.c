/* Reference kernels: linear, linear_dx, linear_dw. Three loops each, sums in double. */
#include <math.h>

#include "kernels/kernel.h"

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : ((const float *)t->data)[i];
}

static void put(const tr_tensor *t, int64_t i, double value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16((float)value);
    else
        ((float *)t->data)[i] = (float)value;
}

static double apply(tr_fn fn, double x)
{
    switch (fn) {
    case TR_FN_gelu_tanh:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case TR_FN_gelu_erf:
        return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case TR_FN_relu:
        return x > 0 ? x : 0;
    case TR_FN_silu:
        return x / (1 + exp(-x));
    case TR_FN_tanh:
        return tanh(x);
    case TR_FN_sigmoid:
        return 1 / (1 + exp(-x));
    default:
        return x;
    }
}

static void linear(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *w = &call->in[1], *bias = &call->in[2], *y = &call->out[0];
    bool transposed = call->attrs[TR_LINEAR_TRANSPOSED].i;
    int64_t k = x->dims[x->rank - 1], m = tr_tensor_span(x, 0, x->rank - 1);
    int64_t n = tr_tensor_elems(w) / k;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = tr_has(call, 2) ? get(bias, j) : 0;
            for (int64_t l = 0; l < k; l++)
                sum += get(x, i * k + l) * get(w, transposed ? j * k + l : l * n + j);
            put(y, i * n + j, apply((tr_fn)call->attrs[TR_LINEAR_FN].i, sum));
        }
}

static void linear_dx(const tr_call *call)
{
    const tr_tensor *dy = &call->in[0], *w = &call->in[1], *dx = &call->out[0];
    bool transposed = call->attrs[TR_LINEAR_TRANSPOSED].i;
    int64_t k = dx->dims[dx->rank - 1], m = tr_tensor_span(dx, 0, dx->rank - 1);
    int64_t n = tr_tensor_elems(w) / k;
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++) {
            double sum = tr_has(call, 2) ? get(&call->in[2], i * k + l) : 0;
            for (int64_t j = 0; j < n; j++)
                sum += get(dy, i * n + j) * get(w, transposed ? j * k + l : l * n + j);
            put(dx, i * k + l, sum);
        }
}

static void linear_dw(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *dy = &call->in[1], *dw = &call->out[0];
    bool transposed = call->attrs[TR_LINEAR_DW_TRANSPOSED].i;
    int split = (int)call->attrs[TR_LINEAR_DW_SPLIT].i;
    int64_t m = tr_tensor_span(x, 0, split), k = tr_tensor_span(x, split, x->rank);
    int64_t n = tr_tensor_elems(dy) / m;
    for (int64_t l = 0; l < k; l++)
        for (int64_t j = 0; j < n; j++) {
            int64_t at = transposed ? j * k + l : l * n + j;
            double sum = tr_has(call, 2) ? get(&call->in[2], at) : 0;
            for (int64_t i = 0; i < m; i++)
                sum += get(x, i * k + l) * get(dy, i * n + j);
            put(dw, at, sum);
        }
}

const tr_kernel tr_reference_linear[] = {
    {.op = TR_OP_linear, .name = "reference", .run = linear},
    {.op = TR_OP_linear_dx, .name = "reference", .run = linear_dx},
    {.op = TR_OP_linear_dw, .name = "reference", .run = linear_dw},
    {0},
};
