/* route, its losses, dispatch and collect, in plain loops and double precision.
 *
 * route, of one sequence: p = softmax(logits); a token's choices are its k largest p, equal ones by number; its weights
 * are p, or, normalised, p divided by their sum. Places in an expert's room are given to all first choices in the order
 * of tokens, then to all second ones, and so on; without place: slot -1. random: a choice after the first takes part
 * with probability 2 x weight (GShard, section 2.2). joined: a slot is the number of places taken at the experts before
 * the token's, + its place; together: at those experts in all sequences and at its own in the sequences before.
 * route_loss, of one sequence of t tokens, then summed over sequences:
 *     balance = experts x sum over e of f_e mean(p_e)       f_e: share of the tokens whose first choice is e (all: the
 *     z = mean over tokens of (log sum exp logits)^2        sum of the shares of every choice)
 */
#include <math.h>

#include "base/random.h"
#include "kernels/kernel.h"

typedef struct sizes {
    int64_t b, t, e, k;
} sizes;

static sizes sizes_of(const tr_tensor *logits, int64_t k)
{
    return (sizes){logits->dims[0], logits->dims[1], logits->dims[2], k};
}

static double get(const tr_tensor *t, int64_t i)
{
    return t->dtype == TR_BF16 ? (double)tr_bf16_to_f32(((const uint16_t *)t->data)[i])
                               : (double)((const float *)t->data)[i];
}

static void put(const tr_tensor *t, int64_t i, double value)
{
    if (t->dtype == TR_BF16)
        ((uint16_t *)t->data)[i] = tr_f32_to_bf16((float)value);
    else
        ((float *)t->data)[i] = (float)value;
}

static double log_sum_exp(const float *logits, int64_t e)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < e; i++)
        largest = fmax(largest, (double)logits[i]);
    for (int64_t i = 0; i < e; i++)
        sum += exp((double)logits[i] - largest);
    return largest + log(sum);
}

static void choose(const float *logits, int64_t e, int64_t k, int32_t *choices)
{
    for (int64_t j = 0; j < k; j++) {
        int32_t best = -1;
        for (int32_t i = 0; i < e; i++) {
            bool taken = false;
            for (int64_t l = 0; l < j; l++)
                taken |= choices[l] == i;
            if (!taken && (best < 0 || logits[i] > logits[best]))
                best = i;
        }
        choices[j] = best;
    }
}

/* Does choice j > 0 of a token take part. */
static bool takes_part(const tr_call *call, int64_t b, int64_t t, int64_t j, float weight)
{
    uint64_t index = (uint64_t)(((call->origin[0] + b) * call->extent[1] + call->origin[1] + t) * TR_MOST_CHOICES + j);
    uint32_t stream = (uint32_t)call->attrs[TR_ROUTE_STREAM].i;
    uint32_t word = tr_random(call->seed, call->step, stream, index / 4).word[index % 4];
    return tr_random_unit(word) < 2 * weight;
}

static void join(const sizes *s, int64_t capacity, const int32_t *filled, int32_t *slots)
{
    for (int64_t i = 0; i < s->t * s->k; i++) {
        int64_t before = 0;
        for (int64_t e = 0; slots[i] >= 0 && e < slots[i] / capacity; e++)
            before += filled[e];
        if (slots[i] >= 0)
            slots[i] = (int32_t)(before + slots[i] % capacity);
    }
}

static void route_sequence(const tr_call *call, const sizes *s, int64_t b)
{
    const float *logits = (const float *)call->in[0].data + b * s->t * s->e;
    float *weights = (float *)call->out[0].data + b * s->t * s->k;
    int32_t *choices = (int32_t *)call->out[1].data + b * s->t * s->k;
    int32_t *slots = (int32_t *)call->out[2].data + b * s->t * s->k;
    int32_t *filled = (int32_t *)call->out[3].data + b * s->e;
    int64_t capacity = call->attrs[TR_ROUTE_CAPACITY].i;
    memset(filled, 0, (size_t)s->e * sizeof *filled);
    for (int64_t t = 0; t < s->t; t++) {
        const float *row = logits + t * s->e;
        double lse = log_sum_exp(row, s->e), sum = 0;
        choose(row, s->e, s->k, choices + t * s->k);
        for (int64_t j = 0; j < s->k; j++)
            sum += exp((double)row[choices[t * s->k + j]] - lse);
        for (int64_t j = 0; j < s->k; j++)
            weights[t * s->k + j] = (float)(exp((double)row[choices[t * s->k + j]] - lse) /
                                            (call->attrs[TR_ROUTE_NORMALISED].i ? sum : 1));
    }
    for (int64_t j = 0; j < s->k; j++)
        for (int64_t t = 0; t < s->t; t++) {
            int64_t at = t * s->k + j;
            bool out = call->attrs[TR_ROUTE_RANDOM].i && j > 0 && !takes_part(call, b, t, j, weights[at]);
            int32_t e = choices[at];
            slots[at] = out || filled[e] == capacity ? -1 : (int32_t)(e * capacity + filled[e]++);
        }
    if (call->attrs[TR_ROUTE_JOINED].i && !call->attrs[TR_ROUTE_TOGETHER].i)
        join(s, capacity, filled, slots);
}

/* Of a routing that is not joined. */
static void put_together(const tr_call *call, const sizes *s)
{
    const int32_t *filled = call->out[3].data;
    int32_t *slots = call->out[2].data;
    int64_t capacity = call->attrs[TR_ROUTE_CAPACITY].i;
    for (int64_t i = 0; i < s->b * s->t * s->k; i++) {
        int64_t b = i / (s->t * s->k), e = slots[i] / capacity, before = 0;
        for (int64_t x = 0; slots[i] >= 0 && x <= e; x++)
            for (int64_t y = 0; y < (x < e ? s->b : b); y++)
                before += filled[y * s->e + x];
        if (slots[i] >= 0)
            slots[i] = (int32_t)(before + slots[i] % capacity);
    }
}

static void run_route(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->attrs[TR_ROUTE_K].i);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s.b; b++)
        route_sequence(call, &s, b);
    if (call->attrs[TR_ROUTE_TOGETHER].i)
        put_together(call, &s);
}

/* dlogits = p (dp - sum of p dp), dp from the choices alone. */
static void run_route_grad(const tr_call *call)
{
    sizes s = sizes_of(&call->in[1], call->in[0].dims[2]);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s.b * s.t; row++) {
        const float *d = (const float *)call->in[0].data + row * s.k, *logits = (const float *)call->in[1].data + row * s.e;
        const int32_t *choices = (const int32_t *)call->in[2].data + row * s.k;
        float *out = (float *)call->out[0].data + row * s.e;
        double lse = log_sum_exp(logits, s.e), sum = 0, weighted = 0, all = 0, dp[TR_MOST_CHOICES];
        for (int64_t j = 0; j < s.k; j++) {
            double p = exp((double)logits[choices[j]] - lse);
            sum += p;
            weighted += p * (double)d[j];
        }
        for (int64_t j = 0; j < s.k; j++) {
            dp[j] = call->attrs[TR_ROUTE_NORMALISED].i ? (double)d[j] / sum - weighted / (sum * sum) : (double)d[j];
            all += exp((double)logits[choices[j]] - lse) * dp[j];
        }
        for (int64_t i = 0; i < s.e; i++) {
            double own = 0;
            for (int64_t j = 0; j < s.k; j++)
                own += choices[j] == i ? dp[j] : 0;
            out[i] = (float)(exp((double)logits[i] - lse) * (own - all));
        }
    }
}

/* share[e]: f_e of sequence b. */
static void shares(const tr_call *call, const sizes *s, int64_t b, double *share)
{
    const int32_t *choices = (const int32_t *)call->in[1].data + b * s->t * s->k;
    int64_t counted = call->attrs[TR_ROUTE_LOSS_ALL].i ? s->k : 1;
    for (int64_t e = 0; e < s->e; e++)
        share[e] = 0;
    for (int64_t t = 0; t < s->t; t++)
        for (int64_t j = 0; j < counted; j++)
            share[choices[t * s->k + j]] += 1.0 / (double)s->t;
}

static tr_error *prepare_loss(tr_call *call)
{
    call->scratch_bytes = (size_t)call->in[0].dims[2] * sizeof(double);
    return NULL;
}

static void run_route_loss(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->in[1].dims[2]);
    double *share = call->scratch, balance = 0, z = 0;
    for (int64_t b = 0; b < s.b; b++) {
        shares(call, &s, b, share);
        for (int64_t t = 0; t < s.t; t++) {
            const float *logits = (const float *)call->in[0].data + (b * s.t + t) * s.e;
            double lse = log_sum_exp(logits, s.e);
            for (int64_t e = 0; e < s.e; e++)
                balance += (double)s.e * share[e] * exp((double)logits[e] - lse) / (double)s.t;
            z += lse * lse / (double)s.t;
        }
    }
    put(&call->out[0], 0, balance);
    put(&call->out[1], 0, z);
}

static void run_route_loss_grad(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->in[1].dims[2]);
    double *share = call->scratch, balance = get(&call->in[2], 0), z = get(&call->in[3], 0);
    for (int64_t b = 0; b < s.b; b++) {
        shares(call, &s, b, share);
        for (int64_t t = 0; t < s.t; t++) {
            const float *logits = (const float *)call->in[0].data + (b * s.t + t) * s.e;
            float *out = (float *)call->out[0].data + (b * s.t + t) * s.e;
            double lse = log_sum_exp(logits, s.e), mean = 0;
            for (int64_t e = 0; e < s.e; e++)
                mean += share[e] * exp((double)logits[e] - lse);
            for (int64_t e = 0; e < s.e; e++)
                out[e] = (float)(exp((double)logits[e] - lse) / (double)s.t *
                                 (balance * (double)s.e * (share[e] - mean) + 2 * z * lse));
        }
    }
}

/* Where slot (expert x capacity + place) of sequence b is among the rows of a room [e, b, c, d]. */
static int64_t row_of(const tr_tensor *room, int64_t slot, int64_t b)
{
    int64_t c = room->dims[2];
    if (room->dims[1] == 1) /* together, or there is but one sequence */
        return slot;
    return (slot / c * room->dims[1] + b) * c + slot % c;
}

static void run_dispatch(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t tokens = x->dims[1], d = x->dims[2], k = call->in[1].dims[2];
    memset(y->data, 0, (size_t)(tr_tensor_elems(y) * tr_dtype_bytes(y->dtype)));
    for (int64_t i = 0; i < x->dims[0] * tokens * k; i++) {
        int32_t slot = ((const int32_t *)call->in[1].data)[i];
        double weight = tr_has(call, 2) ? get(&call->in[2], i) : 1;
        for (int64_t c = 0; c < d && slot >= 0; c++)
            put(y, row_of(y, slot, i / k / tokens) * d + c, weight * get(x, i / k * d + c));
    }
}

static void run_collect(const tr_call *call)
{
    const tr_tensor *y = &call->in[0], *o = &call->out[0];
    int64_t tokens = o->dims[1], d = o->dims[2], k = call->in[1].dims[2];
    for (int64_t row = 0; row < o->dims[0] * tokens; row++)
        for (int64_t c = 0; c < d; c++) {
            double sum = 0;
            for (int64_t i = row * k; i < (row + 1) * k; i++) {
                int32_t slot = ((const int32_t *)call->in[1].data)[i];
                double weight = tr_has(call, 2) ? get(&call->in[2], i) : 1;
                sum += slot < 0 ? 0 : weight * get(y, row_of(y, slot, row / tokens) * d + c);
            }
            put(o, row * d + c, sum);
        }
}

static void run_collect_grad(const tr_call *call)
{
    const tr_tensor *dout = &call->in[0], *y = &call->in[1];
    int64_t tokens = dout->dims[1], d = dout->dims[2], k = call->in[2].dims[2];
    for (int64_t i = 0; i < dout->dims[0] * tokens * k; i++) {
        int32_t slot = ((const int32_t *)call->in[2].data)[i];
        double sum = 0;
        for (int64_t c = 0; c < d && slot >= 0; c++)
            sum += get(dout, i / k * d + c) * get(y, row_of(y, slot, i / k / tokens) * d + c);
        put(&call->out[0], i, sum);
    }
}

#define ROW(op, prepare)                                       \
    {                                                          \
        TR_OP_##op, "reference", NULL, prepare, run_##op, NULL \
    }
const tr_kernel tr_reference_moe[] = {
    ROW(route, NULL),
    ROW(route_grad, NULL),
    ROW(route_loss, prepare_loss),
    ROW(route_loss_grad, prepare_loss),
    ROW(dispatch, NULL),
    ROW(collect, NULL),
    ROW(collect_grad, NULL),
    {.run = NULL},
};
