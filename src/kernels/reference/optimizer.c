/* Reference kernels: clip, adamw, sgd, lion. An element at a time, in double, as ir/op.h writes them. */
#include <math.h>

#include "kernels/reference/optimizer.h"

static void clip(const tr_call *call)
{
    double max_norm = call->attrs[TR_CLIP_MAX_NORM].f;
    double count = floats(&call->in[1])[0];
    double norm = sqrt((double)floats(&call->in[0])[0]) / count;
    double factor = max_norm > 0 && norm > max_norm ? max_norm / norm : 1;
    floats(&call->out[0])[0] = isfinite(norm) ? (float)(factor / count) : -1;
    floats(&call->out[1])[0] = (float)norm;
}

static void adamw(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 7);
    float *m = floats(&call->in[2]), *v = floats(&call->in[3]);
    double scale = floats(&call->in[4])[0], lr = floats(&call->in[5])[0];
    double step = ((const int32_t *)call->in[6].data)[0];
    double b1 = call->attrs[TR_ADAMW_BETA1].f, b2 = call->attrs[TR_ADAMW_BETA2].f;
    double eps = call->attrs[TR_ADAMW_EPS].f, decay = call->attrs[TR_ADAMW_DECAY].f;
    if (!(scale >= 0))
        return;
    for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
        double g = element(&call->in[1], i) * scale;
        double new_m = b1 * m[i] + (1 - b1) * g, new_v = b2 * v[i] + (1 - b2) * g * g;
        double value = get_weight(w, low, i);
        value -= lr * decay * value;
        value -= lr * (new_m / (1 - pow(b1, step))) / (sqrt(new_v / (1 - pow(b2, step))) + eps);
        m[i] = (float)new_m;
        v[i] = (float)new_v;
        put_weight(w, low, i, value);
    }
}

static void sgd(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 5);
    float *m = floats(&call->in[2]);
    double scale = floats(&call->in[3])[0], lr = floats(&call->in[4])[0];
    double momentum = call->attrs[TR_SGD_MOMENTUM].f, decay = call->attrs[TR_SGD_DECAY].f;
    if (!(scale >= 0))
        return;
    for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
        double value = get_weight(w, low, i);
        double g = element(&call->in[1], i) * scale + decay * value;
        double new_m = momentum * m[i] + g;
        m[i] = (float)new_m;
        put_weight(w, low, i, value - lr * new_m);
    }
}

static void lion(const tr_call *call)
{
    const tr_tensor *w = &call->in[0], *low = low_in(call, 5);
    float *m = floats(&call->in[2]);
    double scale = floats(&call->in[3])[0], lr = floats(&call->in[4])[0], b1 = call->attrs[TR_LION_BETA1].f,
           b2 = call->attrs[TR_LION_BETA2].f, decay = call->attrs[TR_LION_DECAY].f;
    if (!(scale >= 0))
        return;
    for (int64_t i = 0; i < tr_tensor_elems(w); i++) {
        double g = element(&call->in[1], i) * scale, value = get_weight(w, low, i), mixed = b1 * m[i] + (1 - b1) * g;
        double sign = mixed > 0 ? 1 : mixed < 0 ? -1 : 0;
        put_weight(w, low, i, value - lr * (sign + decay * value));
        m[i] = (float)(b2 * m[i] + (1 - b2) * g);
    }
}

const tr_kernel tr_reference_optimizer[] = {
    {.op = TR_OP_clip, .name = "reference", .run = clip},
    {.op = TR_OP_adamw, .name = "reference", .run = adamw},
    {.op = TR_OP_sgd, .name = "reference", .run = sgd},
    {.op = TR_OP_lion, .name = "reference", .run = lion},
    {0},
};
