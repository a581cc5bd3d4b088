/* Reference kernels: cross_entropy, cross_entropy_grad, cross_entropy_train.
 *
 * In double, a logit at a time: each is computed afresh wherever it is needed, so that the scratch
 * is one number a token (log sum exp, NaN for a token that is not counted) and one row of dw.
 */
#include <math.h>

#include "kernels/kernel.h"

typedef struct sizes {
    int64_t tokens, d, v;
} sizes;

static sizes sizes_of(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    return (sizes){tr_tensor_span(x, 0, x->rank - 1), x->dims[x->rank - 1], call->in[1].dims[0]};
}

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : ((const float *)t->data)[i];
}

static void put(const tr_tensor *t, int64_t i, double value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16((float)value);
    else
        ((float *)t->data)[i] = (float)value;
}

static int64_t target(const tr_call *call, int64_t token)
{
    return ((const int32_t *)call->in[2].data)[token];
}

static double logit(const tr_call *call, int64_t d, int64_t token, int64_t word)
{
    double sum = 0;
    for (int64_t i = 0; i < d; i++)
        sum += get(&call->in[0], token * d + i) * get(&call->in[1], word * d + i);
    return sum;
}

static tr_error *prepare(tr_call *call)
{
    sizes s = sizes_of(call);
    call->scratch_bytes = sizeof(double) * (size_t)(s.tokens + s.d);
    return NULL;
}

/* Fills scratch with log sum exp; the loss and its count. */
static void forward(const tr_call *call, double *lse, double *out_loss, double *out_count)
{
    sizes s = sizes_of(call);
    double loss = 0, count = 0;
    for (int64_t t = 0; t < s.tokens; t++) {
        int64_t goal = target(call, t);
        lse[t] = NAN;
        if (goal < 0 || goal >= s.v)
            continue;
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < s.v; j++)
            largest = fmax(largest, logit(call, s.d, t, j));
        for (int64_t j = 0; j < s.v; j++)
            sum += exp(logit(call, s.d, t, j) - largest);
        lse[t] = largest + log(sum);
        loss += lse[t] - logit(call, s.d, t, goal);
        count++;
    }
    *out_loss = loss;
    *out_count = count;
}

static double gradient(const tr_call *call, sizes s, const double *lse, int64_t token, int64_t word)
{
    if (isnan(lse[token]))
        return 0;
    return exp(logit(call, s.d, token, word) - lse[token]) - (target(call, token) == word);
}

static void backward(const tr_call *call, const double *lse, double dloss, const tr_tensor *acc)
{
    sizes s = sizes_of(call);
    double *row = (double *)call->scratch + s.tokens;
    for (int64_t t = 0; t < s.tokens; t++) {
        memset(row, 0, sizeof(double) * (size_t)s.d);
        for (int64_t j = 0; j < s.v; j++) {
            double p = dloss * gradient(call, s, lse, t, j);
            for (int64_t i = 0; i < s.d; i++)
                row[i] += p * get(&call->in[1], j * s.d + i);
        }
        for (int64_t i = 0; i < s.d; i++)
            put(&call->out[1], t * s.d + i, row[i]);
    }
    for (int64_t j = 0; j < s.v; j++) {
        for (int64_t i = 0; i < s.d; i++)
            row[i] = acc ? get(acc, j * s.d + i) : 0;
        for (int64_t t = 0; t < s.tokens; t++) {
            double p = dloss * gradient(call, s, lse, t, j);
            for (int64_t i = 0; i < s.d; i++)
                row[i] += p * get(&call->in[0], t * s.d + i);
        }
        for (int64_t i = 0; i < s.d; i++)
            put(&call->out[0], j * s.d + i, row[i]);
    }
}

static void cross_entropy(const tr_call *call)
{
    double loss, count;
    forward(call, call->scratch, &loss, &count);
    put(&call->out[0], 0, loss);
    put(&call->out[1], 0, count);
}

static void cross_entropy_grad(const tr_call *call)
{
    double loss, count;
    forward(call, call->scratch, &loss, &count);
    backward(call, call->scratch, get(&call->in[3], 0), tr_has(call, 4) ? &call->in[4] : NULL);
}

static void cross_entropy_train(const tr_call *call)
{
    double loss, count;
    forward(call, call->scratch, &loss, &count);
    backward(call, call->scratch, 1, tr_has(call, 3) ? &call->in[3] : NULL);
    put(&call->out[2], 0, loss);
    put(&call->out[3], 0, count);
}

const tr_kernel tr_reference_cross_entropy[] = {
    {.op = TR_OP_cross_entropy, .name = "reference", .prepare = prepare, .run = cross_entropy},
    {.op = TR_OP_cross_entropy_grad,
     .name = "reference",
     .prepare = prepare,
     .run = cross_entropy_grad},
    {.op = TR_OP_cross_entropy_train,
     .name = "reference",
     .prepare = prepare,
     .run = cross_entropy_train},
    {0},
};
