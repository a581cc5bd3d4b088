/* Elementwise ops in plain loops and double precision: what the fast kernels are compared with.
 *
 * Any input may be f32 or bf16, whatever the others are; a result is rounded once, to its output's
 * dtype. An output may be the buffer of in[0]: every element is read before it is written. */
#include <math.h>

#include "base/random.h"
#include "ir/part.h"
#include "kernels/kernel.h"

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? (double)tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : (double)((const float *)t->data)[i];
}

static void put(const tr_tensor *t, int64_t i, double value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16((float)value);
    else
        ((float *)t->data)[i] = (float)value;
}

static bool float_dtype(tr_dtype dtype)
{
    return dtype == TR_F32 || dtype == TR_BF16;
}

static bool accepts_floats(const tr_call *call)
{
    for (int k = 0; k < call->n_in; k++)
        if (tr_has(call, k) && !float_dtype(call->in[k].dtype))
            return false;
    return float_dtype(call->out[0].dtype);
}

static void run_add(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]), repeat = tr_tensor_elems(&call->in[1]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) + get(&call->in[1], i % repeat));
}

static void run_mul(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]), repeat = tr_tensor_elems(&call->in[1]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) * get(&call->in[1], i % repeat));
}

static void run_scale(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) * call->attrs[TR_SCALE_FACTOR].f);
}

static void run_cast(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i));
}

/* activate ------------------------------------------------------------------------------ */

static const double sqrt_2_over_pi = 0.79788456080286535588, sqrt_half = 0.70710678118654752440,
                    density_0 = 0.39894228040143267794; /* 1 / sqrt(2 pi) */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double activate(double x, tr_fn fn)
{
    switch (fn) {
    case TR_FN_gelu_tanh:
        return x * sigmoid(2 * sqrt_2_over_pi * (x + 0.044715 * x * x * x));
    case TR_FN_gelu_erf:
        return 0.5 * x * erfc(-x * sqrt_half);
    case TR_FN_relu:
        return x < 0 ? 0 : x;
    case TR_FN_silu:
        return x * sigmoid(x);
    case TR_FN_tanh:
        return tanh(x);
    case TR_FN_sigmoid:
        return sigmoid(x);
    default:
        return x;
    }
}

static double slope(double x, tr_fn fn)
{
    switch (fn) {
    case TR_FN_gelu_tanh: {
        double u = sqrt_2_over_pi * (x + 0.044715 * x * x * x), s = sigmoid(2 * u);
        return s + x * s * sigmoid(-2 * u) * 2 * sqrt_2_over_pi * (1 + 3 * 0.044715 * x * x);
    }
    case TR_FN_gelu_erf:
        return 0.5 * erfc(-x * sqrt_half) + x * density_0 * exp(-0.5 * x * x);
    case TR_FN_relu:
        return x > 0;
    case TR_FN_silu:
        return sigmoid(x) + x * sigmoid(x) * sigmoid(-x);
    case TR_FN_tanh:
        return 4 * sigmoid(2 * x) * sigmoid(-2 * x);
    case TR_FN_sigmoid:
        return sigmoid(x) * sigmoid(-x);
    default:
        return 1;
    }
}

static void run_activate(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    tr_fn fn = (tr_fn)call->attrs[TR_ACTIVATE_FN].i;
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, activate(get(&call->in[0], i), fn));
}

static void run_activate_grad(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    tr_fn fn = (tr_fn)call->attrs[TR_ACTIVATE_FN].i;
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) * slope(get(&call->in[1], i), fn));
}

static void run_gated(const tr_call *call)
{
    tr_fn fn = (tr_fn)call->attrs[TR_ACTIVATE_FN].i;
    for (int64_t i = 0, n = tr_tensor_elems(&call->in[0]); i < n; i++)
        put(&call->out[0], i, activate(get(&call->in[0], i), fn) * get(&call->in[1], i));
}

static void run_gated_grad(const tr_call *call)
{
    tr_fn fn = (tr_fn)call->attrs[TR_ACTIVATE_FN].i;
    for (int64_t i = 0, n = tr_tensor_elems(&call->in[0]); i < n; i++) {
        double dy = get(&call->in[0], i), a = get(&call->in[1], i), b = get(&call->in[2], i);
        put(&call->out[0], i, dy * b * slope(a, fn));
        put(&call->out[1], i, dy * activate(a, fn));
    }
}

/* dropout -------------------------------------------------------------------------------
 * An element is kept when its word, as a number in [0, 1), is not below p. Element i of the whole
 * tensor (see tr_call) owns word i % 4 of block i / 4, on whatever rank and in whatever microbatch.
 * */

static void run_dropout(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int64_t n = tr_tensor_elems(x), width = x->rank ? x->dims[x->rank - 1] : 1;
    double p = call->attrs[TR_DROPOUT_P].f;
    uint32_t stream = (uint32_t)call->attrs[TR_DROPOUT_STREAM].i;
    int64_t dims = call->attrs[TR_DROPOUT_DIMS].i;
    for (int64_t i = 0; i < n; i++) {
        uint64_t index = dims ? tr_global_block(call, i, (int)dims) : tr_global_row(call, i / width) + (uint64_t)(i % width);
        uint32_t word = tr_random(call->seed, call->step, stream, index / 4).word[index % 4];
        put(&call->out[0], i, (double)tr_random_unit(word) >= p ? get(x, i) / (1 - p) : 0);
    }
}

/* fill, clear, expand ------------------------------------------------------------------- */

static void run_fill(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->out[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, call->attrs[TR_FILL_VALUE].f);
}

static void run_clear(const tr_call *call)
{
    const tr_tensor *t = &call->out[0];
    memset(t->data, 0, (size_t)(tr_tensor_elems(t) * tr_dtype_bytes(t->dtype)));
}

static bool accepts_expand(const tr_call *call)
{
    return float_dtype(call->in[0].dtype) && float_dtype(call->out[0].dtype);
}

static void run_expand(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->out[0]), repeat = tr_tensor_elems(&call->in[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i % repeat));
}

#define ROW(op, accepts)                                       \
    {                                                          \
        TR_OP_##op, "reference", accepts, NULL, run_##op, NULL \
    }

static void pack(const tr_call *call)
{
    char *to = call->out[0].data;
    for (int k = 0; k < call->n_in; k++) {
        size_t bytes = (size_t)(tr_tensor_elems(&call->in[k]) * tr_dtype_bytes(call->in[k].dtype));
        memcpy(to, call->in[k].data, bytes);
        to += bytes;
    }
}

/* Part after part, each in its two pieces. */
static void deal(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int dim = (int)call->attrs[TR_DEAL_DIM].i, parts = (int)call->attrs[TR_DEAL_PARTS].i;
    bool back = call->attrs[TR_DEAL_BACK].i != 0;
    int64_t outer = tr_tensor_span(x, 0, dim), inner = tr_tensor_span(x, dim + 1, x->rank) * tr_dtype_bytes(x->dtype);
    for (int p = 0; p < parts; p++) {
        int64_t first, count;
        tr_part(x->dims[dim], parts, p, call->attrs[TR_DEAL_UNIT].i, &first, &count);
        tr_dealt d = tr_part_dealt(x->dims[dim], parts, p, call->attrs[TR_DEAL_UNIT].i);
        for (int64_t o = 0; o < outer; o++)
            for (int half = 0; half < 2; half++) {
                int64_t from = half ? d.turn : 0, n = half ? d.count - d.turn : d.turn;
                int64_t together = (o * x->dims[dim] + first + from) * inner,
                        apart = (o * x->dims[dim] + tr_dealt_place(&d, from)) * inner;
                memcpy((char *)call->out[0].data + (back ? apart : together),
                       (const char *)x->data + (back ? together : apart), (size_t)(n * inner));
            }
    }
}

static void shift(const tr_call *call)
{
    const int32_t *ids = call->in[0].data;
    int32_t *out = call->out[0].data, first = (int32_t)call->attrs[TR_SHIFT_FIRST].i,
            count = (int32_t)call->attrs[TR_SHIFT_COUNT].i;
    for (int64_t i = 0, n = tr_tensor_elems(&call->in[0]); i < n; i++)
        out[i] = ids[i] >= first && ids[i] - first < count ? ids[i] - first : -1;
}

const tr_kernel tr_reference_elementwise[] = {
    {.op = TR_OP_pack, .name = "reference", .run = pack},
    {.op = TR_OP_deal, .name = "reference", .run = deal},
    {.op = TR_OP_shift, .name = "reference", .run = shift},
    ROW(add, accepts_floats),
    ROW(mul, accepts_floats),
    ROW(scale, accepts_floats),
    ROW(cast, accepts_floats),
    ROW(activate, accepts_floats),
    ROW(activate_grad, accepts_floats),
    ROW(gated, accepts_floats),
    ROW(gated_grad, accepts_floats),
    ROW(dropout, accepts_floats),
    ROW(fill, accepts_floats),
    ROW(clear, NULL),
    ROW(expand, accepts_expand),
    {.run = NULL},
};
