/* What the optimizers' reference kernels share: elements in double, the f32 weight from its halves. */
#pragma once
#include "kernels/kernel.h"

static inline double element(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((const uint16_t *)t->data)[i]) : ((const float *)t->data)[i];
}

static inline float *floats(const tr_tensor *t)
{
    return t->data;
}

/* The low halves in input k, or NULL. */
static inline const tr_tensor *low_in(const tr_call *call, int k)
{
    return tr_has(call, k) ? &call->in[k] : NULL;
}

static inline double get_weight(const tr_tensor *w, const tr_tensor *low, int64_t i)
{
    return low ? tr_join_f32(((const uint16_t *)w->data)[i], ((const uint16_t *)low->data)[i]) : floats(w)[i];
}

static inline void put_weight(const tr_tensor *w, const tr_tensor *low, int64_t i, double value)
{
    if (low)
        tr_split_f32((float)value, (uint16_t *)w->data + i, (uint16_t *)low->data + i);
    else
        floats(w)[i] = (float)value;
}
