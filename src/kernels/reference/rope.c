/* rope_rates and rope in plain loops and double precision. The angle is a product in f32, as the models of the field
 * make it: at large positions its rounding is part of what they learnt.
 *
 * rope_rates, with f_i = base^(-2i / dims):
 *   linear   f_i / factor
 *   dynamic  f_i of base x factor^(dims / (dims - 2))
 *   llama3   by the turns w = original f_i / 2 pi within the original context: f_i where w > high, f_i / factor where
 *            w < low, between them a line in w
 *   yarn     f_i / factor and f_i joined by a ramp over i, from the dim that turns `high` times within the original
 *            context to the one that turns `low` times (both rounded away from each other) */
#include <math.h>

#include "kernels/kernel.h"
#include "trireme.h"

static const double TWO_PI = 6.283185307179586;

static double clamp01(double x)
{
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

static void run_rope_rates(const tr_call *call)
{
    const tr_attr *a = call->attrs;
    double dims = (double)a[TR_RATES_DIMS].i, base = a[TR_RATES_BASE].f, factor = a[TR_RATES_FACTOR].f;
    double original = (double)a[TR_RATES_ORIGINAL].i, low = a[TR_RATES_LOW].f, high = a[TR_RATES_HIGH].f;
    float *rates = call->out[0].data;
    double from = floor(dims * log(original / (high * TWO_PI)) / (2 * log(base)));
    double to = ceil(dims * log(original / (low * TWO_PI)) / (2 * log(base)));
    from = fmax(from, 0);
    to = fmin(to, dims - 1);
    if (a[TR_RATES_SCALING].i == TR_ROPE_DYNAMIC && dims > 2)
        base *= pow(factor, dims / (dims - 2));
    for (int64_t i = 0; i < call->out[0].dims[0]; i++) {
        double f = pow(base, -2 * (double)i / dims), keep = 1; /* share of the rate as it was */
        switch (a[TR_RATES_SCALING].i) {
        case TR_ROPE_LINEAR:
            keep = 0;
            break;
        case TR_ROPE_LLAMA3:
            keep = clamp01((original * f / TWO_PI - low) / (high - low));
            break;
        case TR_ROPE_YARN:
            keep = 1 - clamp01(((double)i - from) / (to == from ? 0.001 : to - from));
            break;
        }
        rates[i] = (float)(keep == 1 ? f : (1 - keep) * f / factor + keep * f);
    }
}

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

static void run_rope(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    const int32_t *positions = call->in[1].data;
    const float *rates = call->in[2].data;
    int64_t heads = x->dims[2], e = x->dims[3], r = call->in[2].dims[0], tokens = x->dims[0] * x->dims[1];
    bool interleaved = call->attrs[TR_ROPE_INTERLEAVED].i;
    double factor = call->attrs[TR_ROPE_FACTOR].f, sign = call->attrs[TR_ROPE_INVERSE].i ? -1 : 1;
    for (int64_t row = 0; row < tokens * heads; row++) {
        for (int64_t i = 0; i < r; i++) {
            double angle = (double)((float)positions[row / heads] * rates[i]);
            double c = cos(angle) * factor, s = sin(angle) * factor * sign;
            int64_t k = row * e + (interleaved ? 2 * i : i), m = interleaved ? k + 1 : k + r;
            double a = get(x, k), b = get(x, m);
            put(y, k, a * c - b * s);
            put(y, m, b * c + a * s);
        }
        for (int64_t i = 2 * r; i < e; i++)
            put(y, row * e + i, get(x, row * e + i));
    }
}

static bool accepts_rope(const tr_call *call)
{
    return call->in[0].dtype == call->out[0].dtype && (call->in[0].dtype == TR_F32 || call->in[0].dtype == TR_BF16);
}

const tr_kernel tr_reference_rope[] = {
    {TR_OP_rope_rates, "reference", NULL, NULL, run_rope_rates, NULL},
    {TR_OP_rope, "reference", accepts_rope, NULL, run_rope, NULL},
    {.run = NULL},
};
