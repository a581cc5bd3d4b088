/* expert_linear and its weight gradient, in plain loops and double precision. Rows that no token fills are zeros. */
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

/* The expert that a row of a room [1, 1, c, d] of all sequences belongs to; -1: it is empty. */
static int64_t expert_together(const tr_tensor *filled, int64_t row)
{
    for (int64_t e = 0; e < filled->dims[1]; e++)
        for (int64_t b = 0; b < filled->dims[0]; b++) {
            row -= ((const int32_t *)filled->data)[b * filled->dims[1] + e];
            if (row < 0)
                return e;
        }
    return -1;
}

/* The same, of a room [e, b, c, d] of any kind. */
static int64_t expert_of(const tr_call *call, int64_t row)
{
    const tr_tensor *room = &call->in[0];
    if (room->dims[1] != call->in[2].dims[0])
        return expert_together(&call->in[2], row);
    int64_t place = row % room->dims[2], b = row / room->dims[2] % room->dims[1], experts = call->in[2].dims[1];
    const int32_t *filled = (const int32_t *)call->in[2].data + b * experts;
    if (room->dims[0] == experts) {
        int64_t e = row / room->dims[2] / room->dims[1];
        return place < filled[e] ? e : -1;
    }
    for (int64_t e = 0; e < experts; place -= filled[e++])
        if (place < filled[e])
            return e;
    return -1;
}

static void run_expert_linear(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *w = &call->in[1], *y = &call->out[0];
    int64_t k = x->dims[3], n = y->dims[3];
    bool transposed = call->attrs[TR_EXPERT_TRANSPOSED].i;
    for (int64_t row = 0; row < tr_tensor_span(x, 0, 3); row++) {
        int64_t e = expert_of(call, row);
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t i = 0; i < k && e >= 0; i++)
                sum += get(x, row * k + i) * get(w, e * k * n + (transposed ? j * k + i : i * n + j));
            put(y, row * n + j, sum);
        }
    }
}

static void run_expert_linear_dw(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *dy = &call->in[1];
    int64_t k = x->dims[3], n = dy->dims[3], rows = tr_tensor_span(x, 0, 3);
    for (int64_t e = 0; e < call->out[0].dims[0]; e++)
        for (int64_t i = 0; i < k * n; i++) {
            double sum = tr_has(call, 3) ? get(&call->in[3], e * k * n + i) : 0;
            for (int64_t row = 0; row < rows; row++)
                if (expert_of(call, row) == e)
                    sum += get(x, row * k + i / n) * get(dy, row * n + i % n);
            put(&call->out[0], e * k * n + i, sum);
        }
}

const tr_kernel tr_reference_experts[] = {
    {TR_OP_expert_linear, "reference", NULL, NULL, run_expert_linear, NULL},
    {TR_OP_expert_linear_dw, "reference", NULL, NULL, run_expert_linear_dw, NULL},
    {.run = NULL},
};
