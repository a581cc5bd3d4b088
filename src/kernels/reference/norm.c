/* layer_norm, add_layer_norm, layer_norm_grad and the same of rms_norm in plain loops and double precision: what the fast
 * kernels are compared with.
 *
 * With h = (x - mean) rstd and g = dy w, over a row of d elements:
 *     y = h w + b,   dx = rstd (g - mean(g) - h mean(g h)),   dw = sum of dy h,   db = sum of dy
 * Variance is the mean of squared differences from the mean. add_layer_norm normalises the sum as
 * it is stored, so that the gradient, which reads the stored sum, is of the same function.
 * RMS: mean is 0, mean(g) is left out and there is no b. */
#include <math.h>

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

static bool accepts(const tr_call *call)
{
    for (int k = 0; k < call->n_in; k++)
        if (tr_has(call, k) && call->in[k].dtype != TR_F32 && call->in[k].dtype != TR_BF16)
            return false;
    return true;
}

static void normalise(const tr_tensor *x, const tr_tensor *w, const tr_tensor *b,
                      const tr_tensor *y, const tr_tensor *mean, const tr_tensor *rstd, double eps)
{
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0;
    for (int64_t r = 0; r < rows; r++) {
        double m = 0, variance = 0;
        for (int64_t i = r * d; i < (r + 1) * d; i++)
            m += get(x, i) / (double)d;
        for (int64_t i = r * d; i < (r + 1) * d; i++)
            variance += (get(x, i) - m) * (get(x, i) - m) / (double)d;
        double scale = 1 / sqrt(variance + eps);
        for (int64_t c = 0; c < d; c++)
            put(y, r * d + c, (get(x, r * d + c) - m) * scale * get(w, c) + get(b, c));
        put(mean, r, m);
        put(rstd, r, scale);
    }
}

static void run_layer_norm(const tr_call *call)
{
    normalise(&call->in[0], &call->in[1], &call->in[2], &call->out[0], &call->out[1], &call->out[2],
              call->attrs[TR_NORM_EPS].f);
}

static void run_add_layer_norm(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) + get(&call->in[1], i));
    normalise(&call->out[0], &call->in[2], &call->in[3], &call->out[1], &call->out[2],
              &call->out[3], call->attrs[TR_NORM_EPS].f);
}

/* Scratch: dw and db in double. */
static tr_error *prepare_layer_norm_grad(tr_call *call)
{
    call->scratch_bytes = 2 * (size_t)tr_tensor_elems(&call->in[2]) * sizeof(double);
    return NULL;
}

static void run_layer_norm_grad(const tr_call *call)
{
    const tr_tensor *dy = &call->in[0], *x = &call->in[1], *w = &call->in[2], *dx = &call->out[0];
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0;
    double *dw = call->scratch, *db = dw + d;
    for (int64_t c = 0; c < d; c++)
        dw[c] = db[c] = 0;
    for (int64_t r = 0; r < rows; r++) {
        double mean = get(&call->in[3], r), rstd = get(&call->in[4], r), mean_g = 0, mean_gh = 0;
        for (int64_t c = 0; c < d; c++) {
            double h = (get(x, r * d + c) - mean) * rstd, dy_c = get(dy, r * d + c);
            mean_g += dy_c * get(w, c) / (double)d;
            mean_gh += dy_c * get(w, c) * h / (double)d;
            dw[c] += dy_c * h;
            db[c] += dy_c;
        }
        for (int64_t c = 0; c < d; c++) {
            double h = (get(x, r * d + c) - mean) * rstd, g = get(dy, r * d + c) * get(w, c);
            double acc = tr_has(call, 5) ? get(&call->in[5], r * d + c) : 0;
            put(dx, r * d + c, acc + rstd * (g - mean_g - h * mean_gh));
        }
    }
    for (int64_t c = 0; c < d; c++) {
        put(&call->out[1], c, dw[c]);
        put(&call->out[2], c, db[c]);
    }
}

static void rms(const tr_tensor *x, const tr_tensor *w, const tr_tensor *y, const tr_tensor *rstd, double eps)
{
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0;
    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t i = r * d; i < (r + 1) * d; i++)
            square += get(x, i) * get(x, i) / (double)d;
        double scale = 1 / sqrt(square + eps);
        for (int64_t c = 0; c < d; c++)
            put(y, r * d + c, get(x, r * d + c) * scale * get(w, c));
        put(rstd, r, scale);
    }
}

static void run_rms_norm(const tr_call *call)
{
    rms(&call->in[0], &call->in[1], &call->out[0], &call->out[1], call->attrs[TR_NORM_EPS].f);
}

static void run_add_rms_norm(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    for (int64_t i = 0; i < n; i++)
        put(&call->out[0], i, get(&call->in[0], i) + get(&call->in[1], i));
    rms(&call->out[0], &call->in[2], &call->out[1], &call->out[2], call->attrs[TR_NORM_EPS].f);
}

static void run_rms_norm_grad(const tr_call *call)
{
    const tr_tensor *dy = &call->in[0], *x = &call->in[1], *w = &call->in[2];
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0;
    double *dw = call->scratch;
    for (int64_t c = 0; c < d; c++)
        dw[c] = 0;
    for (int64_t r = 0; r < rows; r++) {
        double rstd = get(&call->in[3], r), mean_gh = 0;
        for (int64_t c = 0; c < d; c++) {
            double h = get(x, r * d + c) * rstd, dy_c = get(dy, r * d + c);
            mean_gh += dy_c * get(w, c) * h / (double)d;
            dw[c] += dy_c * h;
        }
        for (int64_t c = 0; c < d; c++) {
            double h = get(x, r * d + c) * rstd, g = get(dy, r * d + c) * get(w, c);
            double acc = tr_has(call, 4) ? get(&call->in[4], r * d + c) : 0;
            put(&call->out[0], r * d + c, acc + rstd * (g - h * mean_gh));
        }
    }
    for (int64_t c = 0; c < d; c++)
        put(&call->out[1], c, dw[c]);
}

const tr_kernel tr_reference_norm[] = {
    {TR_OP_rms_norm, "reference", accepts, NULL, run_rms_norm, NULL},
    {TR_OP_add_rms_norm, "reference", accepts, NULL, run_add_rms_norm, NULL},
    {TR_OP_rms_norm_grad, "reference", accepts, prepare_layer_norm_grad, run_rms_norm_grad, NULL},
    {TR_OP_layer_norm, "reference", accepts, NULL, run_layer_norm, NULL},
    {TR_OP_add_layer_norm, "reference", accepts, NULL, run_add_layer_norm, NULL},
    {TR_OP_layer_norm_grad, "reference", accepts, prepare_layer_norm_grad, run_layer_norm_grad,
     NULL},
    {.run = NULL},
};
