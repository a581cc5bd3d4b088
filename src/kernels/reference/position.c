/* sinusoids and relative_buckets.
 *
 * sinusoids: element 2i of a position p is sin(p / 10000^(2i / d)), element 2i + 1 the cosine.
 *
 * relative_buckets: element d + most is the bucket of the distance d = query - key. With both directions, half of the
 * buckets are for keys behind the query (d < 0). Within them, half are for the distances 0, 1, ... each, the others for
 * ranges that grow with the logarithm, the last from `longest` on. The logarithm is of f32, as the models of the field
 * were trained: a bucket's edge depends on its rounding. */
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

static int32_t bucket_of(int64_t behind, int64_t buckets, int64_t longest)
{
    int64_t exact = buckets / 2;
    if (behind < exact)
        return (int32_t)behind;
    float scaled = logf((float)behind / (float)exact) / (float)log((double)longest / (double)exact) * (float)(buckets - exact);
    int64_t bucket = exact + (int64_t)scaled;
    return (int32_t)(bucket < buckets ? bucket : buckets - 1);
}

static void run_relative_buckets(const tr_call *call)
{
    const tr_attr *a = call->attrs;
    int64_t most = a[TR_BUCKETS_MOST].i, buckets = a[TR_BUCKETS_COUNT].i, longest = a[TR_BUCKETS_LONGEST].i;
    int32_t *ids = call->out[0].data;
    for (int64_t d = -most; d <= most; d++) {
        if (a[TR_BUCKETS_CAUSAL].i)
            ids[d + most] = bucket_of(d > 0 ? d : 0, buckets, longest);
        else
            ids[d + most] = (int32_t)(d < 0 ? buckets / 2 : 0) + bucket_of(d < 0 ? -d : d, buckets / 2, longest);
    }
}

const tr_kernel tr_reference_position[] = {
    {TR_OP_sinusoids, "reference", NULL, NULL, run_sinusoids, NULL},
    {TR_OP_relative_buckets, "reference", NULL, NULL, run_relative_buckets, NULL},
    {.run = NULL},
};
