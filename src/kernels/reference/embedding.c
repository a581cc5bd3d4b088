/* Table look-up and its gradient in plain loops: what the fast kernels are compared with.
 *
 * An id outside [0, rows of the table) looks up a row of zeros and has no gradient: so a rank that
 * holds a part of the table shifts the ids, and the sum over the ranks is right. */
#include <math.h>

#include "kernels/kernel.h"

static bool accepts(const tr_call *call)
{
    return call->in[1].dtype == TR_I32 && call->in[0].dtype == call->out[0].dtype;
}

static void run_embedding(const tr_call *call)
{
    const tr_tensor *table = &call->in[0], *ids = &call->in[1];
    int64_t n = tr_tensor_elems(ids), bytes = table->dims[1] * tr_dtype_bytes(table->dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ((const int32_t *)ids->data)[i];
        char *row = (char *)call->out[0].data + i * bytes;
        if (id >= 0 && id < table->dims[0])
            memcpy(row, (const char *)table->data + id * bytes, (size_t)bytes);
        else
            memset(row, 0, (size_t)bytes);
    }
}

static bool accepts_grad(const tr_call *call)
{
    return call->in[0].dtype == TR_I32 &&
           (call->in[1].dtype == TR_F32 || call->in[1].dtype == TR_BF16) &&
           call->out[0].dtype == TR_F32 && (!tr_has(call, 2) || call->in[2].dtype == TR_F32);
}

/* Every element is summed in double, over the ids in order. */
static void run_embedding_grad(const tr_call *call)
{
    const tr_tensor *dy = &call->in[1], *dtable = &call->out[0];
    const int32_t *ids = call->in[0].data;
    int64_t n = tr_tensor_elems(&call->in[0]), rows = dtable->dims[0], d = dtable->dims[1];
    float *out = dtable->data;
    size_t bytes = (size_t)(rows * d) * sizeof *out;
    if (tr_has(call, 2))
        memmove(out, call->in[2].data, bytes);
    else
        memset(out, 0, bytes);
    for (int64_t i = 0; i < n; i++) {
        bool seen = false;
        for (int64_t j = 0; j < i && !seen; j++)
            seen = ids[j] == ids[i];
        if (seen || ids[i] < 0 || ids[i] >= rows)
            continue;
        for (int64_t c = 0; c < d; c++) {
            double sum = out[ids[i] * d + c];
            for (int64_t j = i; j < n; j++)
                if (ids[j] == ids[i])
                    sum += dy->dtype == TR_BF16
                               ? tr_bf16_to_f32(((const uint16_t *)dy->data)[j * d + c])
                               : ((const float *)dy->data)[j * d + c];
            out[ids[i] * d + c] = (float)sum;
        }
    }
}

/* The key is `later` tokens after the query. Half of the buckets of a direction are of one distance each, the others
 * grow with its logarithm; in f32, as the models of the field have it. */
static void buckets(const tr_call *call)
{
    int64_t count = call->attrs[TR_BUCKETS_COUNT].i, most = call->attrs[TR_BUCKETS_MOST].i;
    bool both = call->attrs[TR_BUCKETS_BOTH].i;
    int32_t *ids = call->out[0].data;
    if (both)
        count /= 2;
    for (int64_t i = 0; i <= 2 * most; i++) {
        int64_t later = most - i, distance = both ? (later < 0 ? -later : later) : (later < 0 ? -later : 0), exact = count / 2;
        int64_t bucket = distance;
        if (distance >= exact) {
            float share = logf((float)distance / (float)exact) / (float)log((double)most / (double)exact);
            bucket = exact + (int64_t)(share * (float)(count - exact));
            bucket = bucket < count ? bucket : count - 1;
        }
        ids[i] = (int32_t)(bucket + (both && later > 0 ? count : 0));
    }
}

const tr_kernel tr_reference_embedding[] = {
    {.op = TR_OP_buckets, .name = "reference", .run = buckets},
    {TR_OP_embedding, "reference", accepts, NULL, run_embedding, NULL},
    {TR_OP_embedding_grad, "reference", accepts_grad, NULL, run_embedding_grad, NULL},
    {.run = NULL},
};
