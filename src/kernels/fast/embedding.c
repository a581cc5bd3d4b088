/* Table look-up and its scatter-add gradient.
 *
 * The gradient's table is cut among threads into blocks of columns, and, where there are more
 * threads than blocks, of rows too (by the id modulo the number of row groups, since the frequent
 * ids of a vocabulary are often neighbours). A thread goes through all ids in order and adds what
 * falls into its part: no two threads write one element and every element is summed in the order of
 * the ids, whatever the thread count. Ids outside the table give zeros and have no gradient. No
 * scratch. */
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { MIN_COLUMNS = 64, SMALL = 16 * 1024 };

static bool accepts_embedding(const tr_call *call)
{
    return call->in[1].dtype == TR_I32 && call->in[0].dtype == call->out[0].dtype;
}

static void run_embedding(const tr_call *call)
{
    const tr_tensor *table = &call->in[0];
    const int32_t *ids = call->in[1].data;
    int64_t n = tr_tensor_elems(&call->in[1]), rows = table->dims[0];
    size_t bytes = (size_t)(table->dims[1] * tr_dtype_bytes(table->dtype));
    const char *from = table->data;
    char *to = call->out[0].data;
#pragma omp parallel for schedule(static) if (n * table->dims[1] >= SMALL)
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ids[i];
        if (id >= 0 && id < rows)
            memcpy(to + (size_t)i * bytes, from + (size_t)id * bytes, bytes);
        else
            memset(to + (size_t)i * bytes, 0, bytes);
    }
}

static bool accepts_grad(const tr_call *call)
{
    return call->in[0].dtype == TR_I32 &&
           (call->in[1].dtype == TR_F32 || call->in[1].dtype == TR_BF16) &&
           call->out[0].dtype == TR_F32 && (!tr_has(call, 2) || call->in[2].dtype == TR_F32);
}

/* dtable[ids[i]][first .. last) += dy[i][first .. last) for the ids of one group. */
TR_INLINE void scatter(const tr_call *call, int64_t first, int64_t last, int64_t group,
                       int64_t groups, bool bf16)
{
    const int32_t *ids = call->in[0].data;
    const void *dy = call->in[1].data;
    int64_t n = tr_tensor_elems(&call->in[0]), rows = call->out[0].dims[0],
            d = call->out[0].dims[1];
    float *dtable = call->out[0].data;
    for (int64_t i = 0; i < n; i++) {
        int64_t id = ids[i], c = first;
        if (id < 0 || id >= rows || (groups > 1 && id % groups != group))
            continue;
        float *to = dtable + id * d;
        for (; c + TR_VL <= last; c += TR_VL)
            vf_store(to + c, vf_load(to + c) + vf_load_as(dy, i * d + c, bf16));
        if (c < last) {
            int part = (int)(last - c);
            vf_store_n(to + c, vf_load_n(to + c, part) + vf_load_as_n(dy, i * d + c, part, bf16),
                       part);
        }
    }
}

static void scatter_f32(const tr_call *call, int64_t first, int64_t last, int64_t group,
                        int64_t groups)
{
    scatter(call, first, last, group, groups, false);
}

static void scatter_bf16(const tr_call *call, int64_t first, int64_t last, int64_t group,
                         int64_t groups)
{
    scatter(call, first, last, group, groups, true);
}

static void run_embedding_grad(const tr_call *call)
{
    int64_t d = call->out[0].dims[1], elems = tr_tensor_elems(&call->out[0]);
    int64_t adds = tr_tensor_elems(&call->in[1]);
    float *dtable = call->out[0].data;
    bool clears = !tr_has(call, 2);
    if (d == 0)
        return;
#pragma omp parallel if ((clears ? elems : 0) + adds >= SMALL)
    {
        int64_t threads = omp_get_num_threads(), t = omp_get_thread_num();
        if (clears) {
            int64_t first = elems * t / threads, last = elems * (t + 1) / threads;
            memset(dtable + first, 0, (size_t)(last - first) * sizeof *dtable);
#pragma omp barrier
        }
        int64_t blocks = (d + MIN_COLUMNS - 1) / MIN_COLUMNS,
                columns = blocks < threads ? blocks : threads;
        int64_t groups = threads / columns, column = t % columns, group = t / columns;
        int64_t first = blocks * column / columns * MIN_COLUMNS;
        int64_t last = blocks * (column + 1) / columns * MIN_COLUMNS;
        if (group < groups)
            (call->in[1].dtype == TR_BF16 ? scatter_bf16 : scatter_f32)(
                call, first, last < d ? last : d, group, groups);
    }
}

const tr_kernel TR_KERNELS(embedding)[] = {
    {TR_OP_embedding, TR_ISA_NAME, accepts_embedding, NULL, run_embedding, NULL},
    {TR_OP_embedding_grad, TR_ISA_NAME, accepts_grad, NULL, run_embedding_grad, NULL},
    {.run = NULL},
};
