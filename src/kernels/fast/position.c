/* sinusoids with threads over the dims: each rate is made once. */
#include <math.h>

#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

static void run_sinusoids(const tr_call *call)
{
    const int32_t *positions = call->in[0].data;
    const tr_tensor *y = &call->out[0];
    int64_t d = y->dims[y->rank - 1], rows = tr_tensor_elems(&call->in[0]);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < d / 2; i++) {
        double rate = exp((double)(2 * i) * -log(10000.0) / (double)d);
        for (int64_t r = 0; r < rows; r++) {
            double angle = positions[r] * rate;
            float values[2] = {(float)sin(angle), (float)cos(angle)};
            for (int64_t k = 0; k < 2; k++) {
                if (y->dtype == TR_BF16)
                    ((uint16_t *)y->data)[r * d + 2 * i + k] = tr_f32_to_bf16(values[k]);
                else
                    ((float *)y->data)[r * d + 2 * i + k] = values[k];
            }
        }
    }
}

const tr_kernel TR_KERNELS(position)[] = {
    {TR_OP_sinusoids, TR_ISA_NAME, NULL, NULL, run_sinusoids, NULL},
    {.run = NULL},
};
