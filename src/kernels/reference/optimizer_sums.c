/* Reference kernels of the optimizers that sum over a parameter: LARS, LAMB, Adafactor. As ir/op.h writes them, in
 * double. */
#include <math.h>

#include "kernels/reference/optimizer.h"

static double scalar(const tr_call *call, int input)
{
    return floats(&call->in[input])[0];
}

static double steps(const tr_call *call, int input)
{
    return ((const int32_t *)call->in[input].data)[0];
}

/* factor a / b of two norms, given as squares; 1 where either is 0. */
static double ratio(double a, double b, double factor)
{
    return a > 0 && b > 0 ? factor * a / b : 1;
}

/* LARS ------------------------------------------------------------------------------------------- */

static void lars_sums(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 3);
    double scale = scalar(call, 2), sums[2] = {0, 0};
    for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
        double value = get_weight(w, low, i), g = element(&call->in[1], i) * scale;
        sums[0] += value * value;
        sums[1] += g * g;
    }
    for (int k = 0; k < 2; k++)
        floats(&call->out[0])[k] = (float)sums[k];
}

static void lars(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 6);
    float *m = floats(&call->in[2]);
    double scale = scalar(call, 3), lr = scalar(call, 4), momentum = call->attrs[TR_LARS_MOMENTUM].f,
           decay = call->attrs[TR_LARS_DECAY].f, trust = call->attrs[TR_LARS_TRUST].f;
    if (!(scale >= 0))
        return;
    if (tr_has(call, 5)) {
        double w_norm = sqrt((double)floats(&call->in[5])[0]), g_norm = sqrt((double)floats(&call->in[5])[1]);
        lr *= g_norm > 0 ? ratio(w_norm, g_norm + decay * w_norm, trust) : 1;
    }
    for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
        double g = element(&call->in[1], i) * scale, value = get_weight(w, low, i);
        double new_m = momentum * m[i] + lr * (g + decay * value);
        m[i] = (float)new_m;
        put_weight(w, low, i, value - new_m);
    }
}

/* LAMB ------------------------------------------------------------------------------------------- */

static double lamb_update(const tr_call *call, double m, double v, double w, double step)
{
    double b1 = call->attrs[TR_ADAMW_BETA1].f, b2 = call->attrs[TR_ADAMW_BETA2].f;
    return m / (1 - pow(b1, step)) / (sqrt(v / (1 - pow(b2, step))) + call->attrs[TR_ADAMW_EPS].f) +
           call->attrs[TR_ADAMW_DECAY].f * w;
}

static void lamb_moments(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 6);
    float *m = floats(&call->in[2]), *v = floats(&call->in[3]);
    double scale = scalar(call, 4), step = steps(call, 5), sums[2] = {0, 0};
    double b1 = call->attrs[TR_ADAMW_BETA1].f, b2 = call->attrs[TR_ADAMW_BETA2].f;
    for (int64_t i = 0; i < tr_tensor_elems(w) && scale >= 0; i++) {
        double g = element(&call->in[1], i) * scale, value = get_weight(w, low, i);
        double new_m = b1 * m[i] + (1 - b1) * g, new_v = b2 * v[i] + (1 - b2) * g * g;
        double u = lamb_update(call, new_m, new_v, value, step);
        m[i] = (float)new_m;
        v[i] = (float)new_v;
        sums[0] += value * value;
        sums[1] += u * u;
    }
    for (int k = 0; k < 2; k++)
        floats(&call->out[2])[k] = (float)sums[k];
}

static void lamb(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 7);
    const float *m = floats(&call->in[1]), *v = floats(&call->in[2]), *sums = floats(&call->in[3]);
    double scale = scalar(call, 4), lr = scalar(call, 5), step = steps(call, 6);
    lr *= ratio(sqrt((double)sums[0]), sqrt((double)sums[1]), 1);
    for (int64_t i = 0; i < tr_tensor_elems(w) && scale >= 0; i++) {
        double value = get_weight(w, low, i);
        put_weight(w, low, i, value - lr * lamb_update(call, m[i], v[i], value, step));
    }
}

/* Adafactor -------------------------------------------------------------------------------------- */

/* Where local element i is: its row and column among those of r and c, and its matrix. */
typedef struct spot {
    int64_t row, column, matrix;
} spot;

static spot spot_of(const tr_call *call, int r, int c, int64_t i)
{
    int64_t stack = call->attrs[TR_FACTOR_BATCH].i ? call->in[r].dims[0] : 1;
    int64_t rows = tr_tensor_elems(&call->in[r]) / stack, columns = tr_tensor_elems(&call->in[c]) / stack;
    i += call->attrs[TR_FACTOR_FIRST].i;
    int64_t matrix = i / (rows * columns);
    return (spot){i / columns, matrix * columns + i % columns, matrix};
}

static void adafactor_rows(const tr_call *call)
{
    double scale = scalar(call, 3), eps = call->attrs[TR_FACTOR_ROWS_EPS].f;
    for (int k = 0; k < 2; k++)
        memset(call->out[k].data, 0, (size_t)tr_tensor_elems(&call->out[k]) * 4);
    for (int64_t i = 0; i < tr_tensor_elems(&call->in[0]); i++) {
        spot at = spot_of(call, 1, 2, i);
        double g = element(&call->in[0], i) * scale, square = g * g + eps;
        floats(&call->out[0])[at.row] += (float)square;
        floats(&call->out[1])[at.column] += (float)square;
    }
}

static void adafactor_mean(const tr_call *call)
{
    float *a = floats(&call->in[0]), *sum = floats(&call->in[1]);
    double rest = pow(steps(call, 3), -call->attrs[TR_FACTOR_POWER].f);
    for (int64_t i = 0; i < tr_tensor_elems(&call->in[0]) && scalar(call, 2) >= 0; i++)
        a[i] = (float)((1 - rest) * a[i] + rest * sum[i] / (double)call->attrs[TR_FACTOR_MEAN_COUNT].i);
}

static void adafactor_square(const tr_call *call)
{
    float *v = floats(&call->in[0]);
    double scale = scalar(call, 2), rest = pow(steps(call, 3), -call->attrs[TR_FACTOR_POWER].f),
           eps = call->attrs[TR_FACTOR_SQUARE_EPS].f;
    for (int64_t i = 0; i < tr_tensor_elems(&call->in[0]) && scale >= 0; i++) {
        double g = element(&call->in[1], i) * scale;
        v[i] = (float)((1 - rest) * v[i] + rest * (g * g + eps));
    }
}

static void adafactor_sums(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 5);
    const float *r = floats(&call->in[2]), *c = tr_has(call, 4) ? floats(&call->in[4]) : NULL;
    float *sums = floats(&call->out[0]);
    double scale = scalar(call, 3), count = (double)call->attrs[TR_FACTOR_COUNT].i;
    int64_t stack = tr_tensor_elems(&call->out[0]) / 3;
    for (int64_t matrix = 0; matrix < stack; matrix++) {
        double sum[3] = {0, 0, 0};
        for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
            spot at = c ? spot_of(call, 2, 4, i) : (spot){i, 0, 0};
            double value = get_weight(w, low, i), g = element(&call->in[1], i) * scale;
            if (at.matrix != matrix)
                continue;
            sum[0] += value * value;
            sum[1] += g * g / (r[at.row] * (c ? (double)c[at.column] : 1));
            sum[2] += c ? r[at.row] / count : 0;
        }
        for (int k = 0; k < 3; k++)
            sums[k * stack + matrix] = (float)sum[k];
    }
}

static void adafactor(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 8);
    const float *r = floats(&call->in[2]), *sums = floats(&call->in[3]);
    const float *c = tr_has(call, 6) ? floats(&call->in[6]) : NULL;
    float *m = tr_has(call, 7) ? floats(&call->in[7]) : NULL;
    double scale = scalar(call, 4), count = (double)call->attrs[TR_FACTOR_COUNT].i,
           beta1 = call->attrs[TR_FACTOR_BETA1].f, limit = call->attrs[TR_FACTOR_LIMIT].f;
    int64_t stack = tr_tensor_elems(&call->in[3]) / 3;
    for (int64_t i = 0; i < tr_tensor_elems(w) && scale >= 0; i++) {
        spot at = c ? spot_of(call, 2, 6, i) : (spot){i, 0, 0};
        double mean = c ? sums[2 * stack + at.matrix] : 1, rate = scalar(call, 5), value = get_weight(w, low, i);
        double u = element(&call->in[1], i) * scale / sqrt(r[at.row] * (c ? (double)c[at.column] : 1) / mean);
        if (limit > 0)
            u /= fmax(1, sqrt(sums[stack + at.matrix] * mean / count) / limit);
        if (call->attrs[TR_FACTOR_RELATIVE].i)
            rate *= fmax(call->attrs[TR_FACTOR_LEAST].f, sqrt(sums[at.matrix] / count));
        u *= rate;
        if (m) {
            u = beta1 * m[i] + (1 - beta1) * u;
            m[i] = (float)u;
        }
        put_weight(w, low, i, value - rate * call->attrs[TR_FACTOR_DECAY].f * value - u);
    }
}

const tr_kernel tr_reference_optimizer_sums[] = {
    {.op = TR_OP_lars_sums, .name = "reference", .run = lars_sums},
    {.op = TR_OP_lars, .name = "reference", .run = lars},
    {.op = TR_OP_lamb_moments, .name = "reference", .run = lamb_moments},
    {.op = TR_OP_lamb, .name = "reference", .run = lamb},
    {.op = TR_OP_adafactor_rows, .name = "reference", .run = adafactor_rows},
    {.op = TR_OP_adafactor_mean, .name = "reference", .run = adafactor_mean},
    {.op = TR_OP_adafactor_square, .name = "reference", .run = adafactor_square},
    {.op = TR_OP_adafactor_sums, .name = "reference", .run = adafactor_sums},
    {.op = TR_OP_adafactor, .name = "reference", .run = adafactor},
    {0},
};
