/* sinusoids: element 2i of a position p is sin(p / 10000^(2i / d)), element 2i + 1 the cosine. */
#include <math.h>

#include "kernels/kernel.h"

static void run_sinusoids(const tr_call *call)
{
    const int32_t *positions = call->in[0].data;
    const tr_tensor *y = &call->out[0];
    int64_t d = y->dims[y->rank - 1], rows = tr_tensor_elems(&call->in[0]);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            double angle = positions[r] * exp((double)(i / 2 * 2) * -log(10000.0) / (double)d);
            double value = i % 2 ? cos(angle) : sin(angle);
            if (y->dtype == TR_BF16)
                ((uint16_t *)y->data)[r * d + i] = tr_f32_to_bf16((float)value);
            else
                ((float *)y->data)[r * d + i] = (float)value;
        }
}

const tr_kernel tr_reference_position[] = {
    {TR_OP_sinusoids, "reference", NULL, NULL, run_sinusoids, NULL},
    {.run = NULL},
};
