/* Attention, its gradient and attention with a key-value cache, in plain loops and double
 * precision: what the fast kernels are compared with.
 *
 * For query i of head h, over the keys j that it may see (tr_attention_range):
 *     x_j = scale q_i . k_j + bias_ij,  lse = log sum exp x_j,  p_j = exp(x_j - lse),  o_i = sum m_j p_j v_j
 * where m_j is dropout's factor: 0 or 1 / (1 - p). A query that sees nothing has o = 0, lse = -inf.
 * Gradient, with d = do_i . o_i (which is sum m_j p_j do_i . v_j):
 *     dv_j += m_j p_j do_i,  dx_j = p_j (m_j do_i . v_j - d),  dq_i += scale dx_j k_j,  dk_j +=
 * scale dx_j q_i Probabilities are made from the saved lse, as the fast kernels do. The gradient's
 * scratch holds dq, dk and dv of one (b, g) in double, so that a bf16 result is rounded once.
 */
#include <float.h>
#include <math.h>

#include "kernels/attention_shape.h"

static double get(tr_rows x, bool bf16, int64_t index)
{
    return bf16 ? (double)tr_bf16_to_f32(((const uint16_t *)x.data)[index])
                : (double)((const float *)x.data)[index];
}

static void put(tr_rows x, bool bf16, int64_t index, double value)
{
    if (bf16)
        ((uint16_t *)x.data)[index] = tr_f32_to_bf16((float)value);
    else
        ((float *)x.data)[index] = (float)value;
}

static int64_t row(tr_rows x, int64_t b, int64_t i, int64_t h)
{
    return b * x.batch + i * x.step + h * x.head;
}

static double dot(tr_rows x, int64_t at_x, tr_rows y, int64_t at_y, int64_t n, bool bf16)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += get(x, bf16, at_x + i) * get(y, bf16, at_y + i);
    return sum;
}

/* The score of query i and key j; minus infinity where it is not seen. */
static double score_of(const tr_attention_shape *a, tr_rows q, tr_rows k, int64_t b, int64_t i, int64_t h, int64_t j,
                       int64_t offset)
{
    if (!tr_attention_sees(a, b, i, j))
        return -INFINITY;
    double x = (double)a->scale * dot(q, row(q, b, i, h), k, row(k, b, j, h / (a->h / a->g)), a->e, a->bf16);
    return a->relative ? x + (double)tr_attention_bias(a, tr_attention_distance(a, i + offset, j), h) : x;
}

/* One query: o's row, and lse where it is wanted. */
static void attend(const tr_attention_shape *a, tr_rows q, tr_rows k, tr_rows v, tr_rows o,
                   float *lse, int64_t b, int64_t i, int64_t h, int64_t offset, int64_t keys)
{
    int64_t g = h / (a->h / a->g), first, last;
    tr_attention_range(a, i, offset, keys, &first, &last);
    double max = -INFINITY, sum = 0;
    for (int64_t j = first; j < last; j++) {
        double x = score_of(a, q, k, b, i, h, j, offset);
        max = x > max || isnan(x) ? x : max;
    }
    if (max == -INFINITY)
        last = first;
    for (int64_t j = first; j < last; j++)
        sum += exp(score_of(a, q, k, b, i, h, j, offset) - max);
    for (int64_t c = 0; c < a->e; c++)
        put(o, a->bf16, row(o, b, i, h) + c, 0);
    /* A chunk of columns at a time, so that the sum over keys is in double without any scratch. */
    enum { CHUNK = 64 };
    for (int64_t c0 = 0; c0 < a->e; c0 += CHUNK) {
        int64_t n = a->e - c0 < CHUNK ? a->e - c0 : CHUNK;
        double out[CHUNK] = {0};
        for (int64_t j = first; j < last; j++) {
            double p = exp(score_of(a, q, k, b, i, h, j, offset) - max) / sum;
            if (a->p > 0)
                p = tr_attention_kept(a, tr_attention_index(a, b, h, i) + (uint64_t)j)
                        ? p / (1.0 - (double)a->p)
                        : 0;
            for (int64_t c = 0; c < n; c++)
                out[c] += p * get(v, a->bf16, row(v, b, j, g) + c0 + c);
        }
        for (int64_t c = 0; c < n; c++)
            put(o, a->bf16, row(o, b, i, h) + c0 + c, out[c]);
    }
    if (lse)
        *lse = last > first ? (float)(max + log(sum)) : -INFINITY;
}

static void attention_run(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    tr_rows x[3], o = tr_rows_of(&call->out[0]);
    tr_rows_qkv(&call->in[0], a.packed, x);
    float *lse = call->out[1].data;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < a.b; b++)
        for (int64_t h = 0; h < a.h; h++)
            for (int64_t i = 0; i < a.t; i++)
                attend(&a, x[0], x[1], x[2], o, &lse[(b * a.h + h) * a.t + i], b, i, h, a.s - a.t,
                       a.s);
}

static tr_error *attention_grad_prepare(tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 3);
    int64_t relative = a.relative ? tr_tensor_elems(a.relative) : 0;
    call->scratch_bytes = (size_t)((a.t * (a.h / a.g) + 2 * a.s) * a.e + relative) * sizeof(double);
    return NULL;
}

static void attention_grad_run(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 3);
    tr_rows x[3], dx[3], dout = tr_rows_of(&call->in[0]), o = tr_rows_of(&call->in[1]);
    tr_rows_qkv(&call->in[3], a.packed, x);
    tr_rows_qkv(&call->out[0], a.packed, dx);
    const float *lse = call->in[2].data;
    const tr_rows q = x[0], k = x[1], v = x[2];
    int64_t group = a.h / a.g, e = a.e;
    double *dq = call->scratch, *dk = dq + a.t * group * e, *dv = dk + a.s * e, *relative = dv + a.s * e;
    size_t bytes = (size_t)(relative - dq) * sizeof *dq;
    memset(relative, 0, call->scratch_bytes - bytes);
    for (int64_t b = 0; b < a.b; b++)
        for (int64_t g = 0; g < a.g; g++) {
            memset(dq, 0, bytes);
            for (int64_t h = g * group; h < (g + 1) * group; h++)
                for (int64_t i = 0; i < a.t; i++) {
                    int64_t at_q = row(q, b, i, h), at_do = row(dout, b, i, h), first, last;
                    double *dq_row = dq + ((h - g * group) * a.t + i) * e;
                    double d = dot(dout, at_do, o, row(o, b, i, h), e, a.bf16);
                    tr_attention_range(&a, i, a.s - a.t, a.s, &first, &last);
                    for (int64_t j = first; j < last; j++) {
                        int64_t at_k = row(k, b, j, g), at_v = row(v, b, j, g);
                        double score = score_of(&a, q, k, b, i, h, j, a.s - a.t);
                        if (score == -INFINITY)
                            continue;
                        double p = exp(score - (double)lse[(b * a.h + h) * a.t + i]), m = 1;
                        if (a.p > 0)
                            m = tr_attention_kept(&a, tr_attention_index(&a, b, h, i) + (uint64_t)j)
                                    ? 1 / (1.0 - (double)a.p)
                                    : 0;
                        double ds = p * (m * dot(dout, at_do, v, at_v, e, a.bf16) - d);
                        if (a.relative)
                            relative[tr_attention_distance(&a, i + a.s - a.t, j) * a.h + h] += ds;
                        ds *= (double)a.scale;
                        for (int64_t c = 0; c < e; c++) {
                            dv[j * e + c] += m * p * get(dout, a.bf16, at_do + c);
                            dq_row[c] += ds * get(k, a.bf16, at_k + c);
                            dk[j * e + c] += ds * get(q, a.bf16, at_q + c);
                        }
                    }
                }
            for (int64_t c = 0; c < e; c++) {
                for (int64_t h = g * group; h < (g + 1) * group; h++)
                    for (int64_t i = 0; i < a.t; i++)
                        put(dx[0], a.bf16, row(dx[0], b, i, h) + c,
                            dq[((h - g * group) * a.t + i) * e + c]);
                for (int64_t j = 0; j < a.s; j++) {
                    put(dx[1], a.bf16, row(dx[1], b, j, g) + c, dk[j * e + c]);
                    put(dx[2], a.bf16, row(dx[2], b, j, g) + c, dv[j * e + c]);
                }
            }
        }
    const tr_tensor *out = &call->out[a.packed ? 1 : 3];
    for (int64_t n = 0; a.relative && n < tr_tensor_elems(a.relative); n++)
        ((float *)out->data)[n] = (float)relative[n];
}

static void attention_cached_run(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    tr_rows x[3], o = tr_rows_of(&call->out[0]), cache[2];
    tr_rows_qkv(&call->in[0], a.packed, x);
    int64_t start = *(const int32_t *)call->in[5].data;
    for (int i = 0; i < 2; i++) {
        const tr_tensor *c = &call->out[1 + i]; /* [b, g, c, e], the same memory as in[3 + i] */
        cache[i] = (tr_rows){c->data, c->dims[1] * c->dims[2] * a.e, a.e, c->dims[2] * a.e};
        for (int64_t b = 0; b < a.b; b++)
            for (int64_t j = 0; j < a.t; j++)
                for (int64_t g = 0; g < a.g; g++)
                    for (int64_t n = 0; n < a.e; n++)
                        put(cache[i], a.bf16, row(cache[i], b, start + j, g) + n,
                            get(x[1 + i], a.bf16, row(x[1 + i], b, j, g) + n));
    }
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < a.b; b++)
        for (int64_t h = 0; h < a.h; h++)
            for (int64_t i = 0; i < a.t; i++)
                attend(&a, x[0], cache[0], cache[1], o, NULL, b, i, h, start, start + a.t);
}

const tr_kernel tr_reference_attention[] = {
    {.op = TR_OP_attention, .name = "reference", .run = attention_run},
    {.op = TR_OP_attention_grad,
     .name = "reference",
     .prepare = attention_grad_prepare,
     .run = attention_grad_run},
    {.op = TR_OP_attention_cached, .name = "reference", .run = attention_cached_run},
    {0},
};
