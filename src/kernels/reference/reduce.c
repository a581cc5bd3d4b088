/* sum_leading and global_norm in plain loops and double precision: what the fast kernels are
 * compared with. Inputs may be f32 or bf16; results are f32. */
#include "kernels/kernel.h"

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? (double)tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : (double)((const float *)t->data)[i];
}

static bool accepts_floats(const tr_call *call)
{
    for (int k = 0; k < call->n_in; k++)
        if (tr_has(call, k) && call->in[k].dtype != TR_F32 && call->in[k].dtype != TR_BF16)
            return false;
    return call->out[0].dtype == TR_F32;
}

static bool accepts_sum(const tr_call *call)
{
    return accepts_floats(call) && (!tr_has(call, 1) || call->in[1].dtype == TR_F32);
}

static void run_sum_leading(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    int64_t columns = tr_tensor_elems(&call->out[0]),
            rows = columns ? tr_tensor_elems(x) / columns : 0;
    float *y = call->out[0].data;
    for (int64_t c = 0; c < columns; c++) {
        double sum = tr_has(call, 1) ? get(&call->in[1], c) : 0;
        for (int64_t r = 0; r < rows; r++)
            sum += get(x, r * columns + c);
        y[c] = (float)sum;
    }
}

static void run_global_norm(const tr_call *call)
{
    double sum = 0;
    for (int k = 0; k < call->n_in; k++) {
        int64_t n = tr_has(call, k) ? tr_tensor_elems(&call->in[k]) : 0;
        for (int64_t i = 0; i < n; i++)
            sum += get(&call->in[k], i) * get(&call->in[k], i);
    }
    *(float *)call->out[0].data = (float)sum;
}

const tr_kernel tr_reference_reduce[] = {
    {TR_OP_sum_leading, "reference", accepts_sum, NULL, run_sum_leading, NULL},
    {TR_OP_global_norm, "reference", accepts_floats, NULL, run_global_norm, NULL},
    {.run = NULL},
};
