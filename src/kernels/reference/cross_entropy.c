/* Reference kernels: cross_entropy, its gradient, and the forms for a vocabulary that is cut over ranks.
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

static int bias_place(tr_op op)
{
    return op == TR_OP_cross_entropy_part_grad ? 4 : 3;
}

static double logit(const tr_call *call, int64_t d, int64_t token, int64_t word)
{
    int bias = bias_place(call->op);
    double sum = tr_has(call, bias) ? get(&call->in[bias], word) : 0;
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

static double total(const tr_call *call, sizes s, int64_t token)
{
    double sum = 0;
    for (int64_t j = 0; j < s.v; j++)
        sum += logit(call, s.d, token, j);
    return sum;
}

/* A token's loss, from the sums over all `vocab` words. */
static double loss_of(const tr_call *call, double lse, double goal, double sum, double vocab)
{
    double smoothing = call->attrs[TR_LOSS_SMOOTHING].f;
    return lse - (1 - smoothing) * goal - (smoothing > 0 ? smoothing * sum / vocab : 0) +
           call->attrs[TR_LOSS_Z].f * lse * lse;
}

/* Over all words of the table. */
static double log_sum_exp(const tr_call *call, sizes s, int64_t token)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s.v; j++)
        largest = fmax(largest, logit(call, s.d, token, j));
    for (int64_t j = 0; j < s.v; j++)
        sum += exp(logit(call, s.d, token, j) - largest);
    return largest + log(sum);
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
        lse[t] = log_sum_exp(call, s, t);
        loss += loss_of(call, lse[t], logit(call, s.d, t, goal), total(call, s, t), (double)s.v);
        count++;
    }
    *out_loss = loss;
    *out_count = count;
}

static double gradient(const tr_call *call, sizes s, const double *lse, int64_t token, int64_t word)
{
    if (isnan(lse[token]))
        return 0;
    const tr_attr *a = call->attrs;
    double smoothing = a[TR_LOSS_SMOOTHING].f, vocab = (double)(a[TR_LOSS_VOCAB].i ? a[TR_LOSS_VOCAB].i : s.v);
    return exp(logit(call, s.d, token, word) - lse[token]) * (1 + 2 * a[TR_LOSS_Z].f * lse[token]) - smoothing / vocab -
           (target(call, token) == word) * (1 - smoothing);
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
    int bias = call->op == TR_OP_cross_entropy_train ? 4 : 2;
    for (int64_t j = 0; j < s.v && call->n_out > bias; j++) {
        double sum = 0;
        for (int64_t t = 0; t < s.tokens; t++)
            sum += dloss * gradient(call, s, lse, t, j);
        put(&call->out[bias], j, sum);
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
    backward(call, call->scratch, get(&call->in[4], 0), tr_has(call, 5) ? &call->in[5] : NULL);
}

static void cross_entropy_train(const tr_call *call)
{
    double loss, count;
    forward(call, call->scratch, &loss, &count);
    backward(call, call->scratch, tr_has(call, 4) ? get(&call->in[4], 0) : 1, tr_has(call, 5) ? &call->in[5] : NULL);
    put(&call->out[2], 0, loss);
    put(&call->out[3], 0, count);
}

/* The vocabulary cut over ranks
 * ------------------------------------------------------------------------------ */

static void cross_entropy_part(const tr_call *call)
{
    sizes s = sizes_of(call);
    for (int64_t t = 0; t < s.tokens; t++) {
        int64_t goal = target(call, t);
        put(&call->out[0], t, log_sum_exp(call, s, t));
        put(&call->out[1], t, goal >= 0 && goal < s.v ? logit(call, s.d, t, goal) : 0);
        if (call->n_out > 2)
            put(&call->out[2], t, total(call, s, t));
    }
}

static void cross_entropy_rebase(const tr_call *call)
{
    int64_t tokens = tr_tensor_elems(&call->in[0]);
    for (int64_t t = 0; t < tokens; t++) {
        put(&call->out[0], t, exp(get(&call->in[0], t) - get(&call->in[2], t)));
        put(&call->out[0], tokens + t, get(&call->in[1], t));
        if (tr_has(call, 3))
            put(&call->out[0], 2 * tokens + t, get(&call->in[3], t));
    }
}

static void cross_entropy_join(const tr_call *call)
{
    int64_t tokens = tr_tensor_elems(&call->in[1]);
    double loss = 0, count = 0;
    for (int64_t t = 0; t < tokens; t++) {
        bool counted = target(call, t) >= 0 && target(call, t) < call->attrs[TR_LOSS_VOCAB].i;
        double lse = get(&call->in[1], t) + log(get(&call->in[0], t));
        put(&call->out[2], t, counted ? lse : INFINITY);
        double sum = call->attrs[TR_LOSS_SMOOTHING].f > 0 ? get(&call->in[0], 2 * tokens + t) : 0;
        loss += counted ? loss_of(call, lse, get(&call->in[0], tokens + t), sum, (double)call->attrs[TR_LOSS_VOCAB].i) : 0;
        count += counted;
    }
    put(&call->out[0], 0, loss);
    put(&call->out[1], 0, count);
}

static void cross_entropy_part_grad(const tr_call *call)
{
    double *lse = call->scratch;
    for (int64_t t = 0; t < sizes_of(call).tokens; t++) {
        double of_all = get(&call->in[3], t);
        lse[t] = isinf(of_all) ? NAN : of_all;
    }
    backward(call, lse, get(&call->in[5], 0), tr_has(call, 6) ? &call->in[6] : NULL);
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
    {.op = TR_OP_cross_entropy_part, .name = "reference", .run = cross_entropy_part},
    {.op = TR_OP_cross_entropy_rebase, .name = "reference", .run = cross_entropy_rebase},
    {.op = TR_OP_cross_entropy_join, .name = "reference", .run = cross_entropy_join},
    {.op = TR_OP_cross_entropy_part_grad,
     .name = "reference",
     .prepare = prepare,
     .run = cross_entropy_part_grad},
    {0},
};
