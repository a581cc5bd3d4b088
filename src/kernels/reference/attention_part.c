/* attention_part and its gradient in plain loops and double precision. With S = the keys here that query i sees, and
 * o, lse what it has from others:
 *
 *     lse' = log(exp(lse) + sum over S of exp(x_j))       o' = o exp(lse - lse') + sum over S of m_j exp(x_j - lse') v_j
 *
 * The gradient is attention's (reference/attention.c) over S with the lse of all keys.
 */
#include <math.h>

#include "kernels/attention_part.h"

static double get(tr_rows x, bool bf16, int64_t index)
{
    return bf16 ? (double)tr_bf16_to_f32(((const uint16_t *)x.data)[index]) : (double)((const float *)x.data)[index];
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

/* Dropout's factor of one probability: 0 or 1 / (1 - p). */
static double factor(const tr_attention_part *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    tr_attention_shape a = p->shape;
    if (a.p == 0)
        return 1;
    a.first_t = tr_dealt_place(&p->queries, i) - i;
    a.first_s = tr_dealt_place(&p->keys, j);
    return tr_attention_kept(&a, tr_attention_index(&a, b, h, i)) ? 1 / (1.0 - (double)a.p) : 0;
}

static double score(const tr_attention_part *p, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const tr_attention_shape *a = &p->shape;
    int64_t g = h / (a->h / a->g);
    return (double)a->scale * dot(p->q, row(p->q, b, i, h), p->k, row(p->k, b, j, g), a->e, a->bf16);
}

static void attend(const tr_attention_part *p, float *o, float *lse, int64_t b, int64_t h, int64_t i)
{
    const tr_attention_shape *a = &p->shape;
    tr_seen seen = tr_dealt_seen(&p->queries, &p->keys, a->causal, a->window, i);
    double max = *lse, before = 0, sum = 0;
    if (seen.count == 0)
        return;
    for (int64_t j = seen.first; j < seen.first + seen.count; j++) {
        double x = score(p, b, h, i, j);
        max = x > max || isnan(x) ? x : max;
    }
    before = exp((double)*lse - max);
    for (int64_t j = seen.first; j < seen.first + seen.count; j++)
        sum += exp(score(p, b, h, i, j) - max);
    for (int64_t c = 0; c < a->e; c++) {
        double out = before * (double)o[c];
        for (int64_t j = seen.first; j < seen.first + seen.count; j++)
            out += exp(score(p, b, h, i, j) - max) * factor(p, b, h, i, j) *
                   get(p->v, a->bf16, row(p->v, b, j, h / (a->h / a->g)) + c);
        o[c] = (float)(out / (before + sum));
    }
    *lse = (float)(max + log(before + sum));
}

static void run(const tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 0);
    const tr_attention_shape *a = &p.shape;
    float *o = call->out[0].data, *lse = call->out[1].data;
    for (int64_t i = 0; !tr_has(call, 3) && i < a->b * a->h * a->t; i++)
        lse[i] = -INFINITY;
    if (!tr_has(call, 3))
        memset(o, 0, (size_t)tr_tensor_elems(&call->out[0]) * sizeof *o);
    for (int64_t b = 0; b < a->b; b++)
        for (int64_t h = 0; h < a->h; h++)
            for (int64_t i = 0; i < a->t; i++)
                attend(&p, o + ((b * a->t + i) * a->h + h) * a->e, &lse[(b * a->h + h) * a->t + i], b, h, i);
}

static tr_error *prepare_grad(tr_call *call)
{
    const tr_attention_shape a = tr_attention_part_of(call, 3).shape;
    call->scratch_bytes = (size_t)((a.t * (a.h / a.g) + 2 * a.s) * a.e) * sizeof(double);
    return NULL;
}

static void run_grad(const tr_call *call)
{
    tr_attention_part p = tr_attention_part_of(call, 3);
    const tr_attention_shape *a = &p.shape;
    tr_rows dout = tr_rows_of(&call->in[0]), o = tr_rows_of(&call->in[1]);
    const float *lse = call->in[2].data;
    float *out[3] = {call->out[0].data, call->out[1].data, call->out[2].data};
    int64_t group = a->h / a->g, e = a->e;
    double *dq = call->scratch, *dk = dq + a->t * group * e, *dv = dk + a->s * e;
    for (int64_t item = 0; item < a->b * a->g; item++) {
        int64_t b = item / a->g, g = item % a->g;
        memset(dq, 0, call->scratch_bytes);
        for (int64_t n = 0; n < group * a->t; n++) {
            int64_t h = g * group + n / a->t, i = n % a->t, at_q = row(p.q, b, i, h), at_do = row(dout, b, i, h);
            tr_seen seen = tr_dealt_seen(&p.queries, &p.keys, a->causal, a->window, i);
            double d = dot(dout, at_do, o, row(o, b, i, h), e, a->bf16);
            for (int64_t j = seen.first; j < seen.first + seen.count; j++) {
                int64_t at_k = row(p.k, b, j, g), at_v = row(p.v, b, j, g);
                double x = exp(score(&p, b, h, i, j) - (double)lse[(b * a->h + h) * a->t + i]);
                double m = factor(&p, b, h, i, j);
                double ds = x * (m * dot(dout, at_do, p.v, at_v, e, a->bf16) - d) * (double)a->scale;
                for (int64_t c = 0; c < e; c++) {
                    dv[j * e + c] += m * x * get(dout, a->bf16, at_do + c);
                    dq[n * e + c] += ds * get(p.k, a->bf16, at_k + c);
                    dk[j * e + c] += ds * get(p.q, a->bf16, at_q + c);
                }
            }
        }
        for (int64_t c = 0; c < e; c++) {
            for (int64_t n = 0; n < group * a->t; n++) {
                float *to = out[0] + ((b * a->t + n % a->t) * a->h + g * group + n / a->t) * e + c;
                *to = (float)((tr_has(call, 6) ? (double)*to : 0) + dq[n * e + c]);
            }
            for (int64_t j = 0; j < a->s; j++) {
                out[1][((b * a->s + j) * a->g + g) * e + c] = (float)dk[j * e + c];
                out[2][((b * a->s + j) * a->g + g) * e + c] = (float)dv[j * e + c];
            }
        }
    }
}

const tr_kernel tr_reference_attention_part[] = {
    {.op = TR_OP_attention_part, .name = "reference", .run = run},
    {.op = TR_OP_attention_part_grad, .name = "reference", .prepare = prepare_grad, .run = run_grad},
    {0},
};
