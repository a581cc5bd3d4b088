/* gated and gated_grad, at the speed of memory: each operand is read once. Threads share the elements, which do not
 * depend on each other. Output 0 may be the buffer of in[0]. */
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { SMALL = 16 * 1024, LINE = 64 };

/* In the table of elementwise.c. */
#define GATED_RUN TR_PASTE(tr_gated, TR_ISA, run)
void GATED_RUN(const tr_call *call);

typedef void (*range_fn)(const tr_call *call, int64_t first, int64_t last);

TR_INLINE void forward(const tr_call *call, int64_t i, int64_t last, tr_fn fn, bool bf16)
{
    for (; i < last; i += TR_VL) {
        int part = last - i < TR_VL ? (int)(last - i) : TR_VL;
        vf a = vf_load_as_n(call->in[0].data, i, part, bf16), b = vf_load_as_n(call->in[1].data, i, part, bf16);
        vf_store_as_n(call->out[0].data, i, vf_activate(a, fn, bf16) * b, part, bf16);
    }
}

TR_INLINE void backward(const tr_call *call, int64_t i, int64_t last, tr_fn fn, bool bf16)
{
    for (; i < last; i += TR_VL) {
        int part = last - i < TR_VL ? (int)(last - i) : TR_VL;
        vf dy = vf_load_as_n(call->in[0].data, i, part, bf16), a = vf_load_as_n(call->in[1].data, i, part, bf16),
           b = vf_load_as_n(call->in[2].data, i, part, bf16);
        vf_store_as_n(call->out[0].data, i, dy * b * vf_activate_slope(a, fn, bf16), part, bf16);
        vf_store_as_n(call->out[1].data, i, dy * vf_activate(a, fn, bf16), part, bf16);
    }
}

#define X(fn)                                                                         \
    static void forward_f32_##fn(const tr_call *call, int64_t first, int64_t last)    \
    {                                                                                 \
        forward(call, first, last, TR_FN_##fn, false);                                \
    }                                                                                 \
    static void forward_bf16_##fn(const tr_call *call, int64_t first, int64_t last)   \
    {                                                                                 \
        forward(call, first, last, TR_FN_##fn, true);                                 \
    }                                                                                 \
    static void backward_f32_##fn(const tr_call *call, int64_t first, int64_t last)   \
    {                                                                                 \
        backward(call, first, last, TR_FN_##fn, false);                               \
    }                                                                                 \
    static void backward_bf16_##fn(const tr_call *call, int64_t first, int64_t last)  \
    {                                                                                 \
        backward(call, first, last, TR_FN_##fn, true);                                \
    }
TR_FNS(X)
#undef X

static const range_fn ranges[TR_FN_COUNT][2][2] = {
#define X(fn) {{forward_f32_##fn, forward_bf16_##fn}, {backward_f32_##fn, backward_bf16_##fn}},
    TR_FNS(X)
#undef X
};

void GATED_RUN(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]), lines = (n + LINE - 1) / LINE;
    range_fn body = ranges[call->attrs[TR_ACTIVATE_FN].i][call->op == TR_OP_gated_grad][call->in[0].dtype == TR_BF16];
#pragma omp parallel if (n >= SMALL)
    {
        int64_t threads = omp_get_num_threads(), t = omp_get_thread_num();
        int64_t first = lines * t / threads * LINE, last = lines * (t + 1) / threads * LINE;
        if (first < n)
            body(call, first, last < n ? last : n);
    }
}
