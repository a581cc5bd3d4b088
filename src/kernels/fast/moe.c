/* route, its losses and gradients, a vector of experts at a time; dispatch, collect, collect_grad at the speed of memory.
 *
 * route: tokens choose and weigh by themselves, each a thread's; places are given in a second round, in which a thread
 * has whole sequences; then it is known where an expert's places begin in each sequence (scratch [b, e]). Choices
 * compare the same floats as the reference does, so they are the same.
 *
 * The losses are summed in a sequence first, then over sequences in their order, whoever had them: scratch has for
 * each sequence the experts' shares and the two sums.
 *
 * dispatch first turns the slots around (which token is in this row, in scratch), then writes each row of the room
 * once: a token, or zeros.
 */
#include <math.h>
#include <omp.h>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

static bool floats(const tr_tensor *t)
{
    return t->dtype == TR_F32 || t->dtype == TR_BF16;
}

/* Where a slot of sequence b is among the rows of a room [e, b, c, d]. */
static int64_t row_of(const tr_tensor *room, int64_t slot, int64_t b)
{
    int64_t c = room->dims[2];
    if (room->dims[1] == 1) /* together, or there is but one sequence */
        return slot;
    return (slot / c * room->dims[1] + b) * c + slot % c;
}

/* route and its losses ------------------------------------------------------------------------------- */

typedef struct sizes {
    int64_t b, t, e, k;
} sizes;

static sizes sizes_of(const tr_tensor *logits, int64_t k)
{
    return (sizes){logits->dims[0], logits->dims[1], logits->dims[2], k};
}

/* Of a row from i on: beyond its end there is nothing to choose. */
TR_INLINE vf logits_at(const float *row, int64_t i, int64_t e)
{
    float tail[TR_VL];
    if (e - i >= TR_VL)
        return vf_load(row + i);
    for (int64_t l = 0; l < TR_VL; l++)
        tail[l] = i + l < e ? row[i + l] : -INFINITY;
    return vf_load(tail);
}

/* log sum exp. */
TR_INLINE float log_sum(const float *row, int64_t e)
{
    vf largest = logits_at(row, 0, e), sum = vf_zero();
    for (int64_t i = TR_VL; i < e; i += TR_VL)
        largest = vf_max(largest, logits_at(row, i, e));
    float top = vf_largest(largest);
    for (int64_t i = 0; i < e; i += TR_VL)
        sum += vf_exp(logits_at(row, i, e) - top);
    return top + logf(vf_sum(sum));
}

/* The k largest, equal ones by number; each round takes the largest that is left. */
static void choose(const float *row, int64_t e, int64_t k, int32_t *choices)
{
    for (int64_t j = 0; j < k; j++) {
        int32_t best = -1;
        float most = -INFINITY;
        for (int32_t i = 0; i < e; i++) {
            if (best >= 0 && !(row[i] > most))
                continue;
            bool taken = false;
            for (int64_t l = 0; l < j; l++)
                taken |= choices[l] == i;
            if (!taken) {
                best = i;
                most = row[i];
            }
        }
        choices[j] = best;
    }
}

static void weigh(const tr_call *call, const sizes *s, int64_t token)
{
    const float *row = (const float *)call->in[0].data + token * s->e;
    float *weights = (float *)call->out[0].data + token * s->k, sum = 0;
    int32_t *choices = (int32_t *)call->out[1].data + token * s->k;
    float lse = log_sum(row, s->e);
    choose(row, s->e, s->k, choices);
    for (int64_t j = 0; j < s->k; j++)
        sum += weights[j] = expf(row[choices[j]] - lse);
    for (int64_t j = 0; j < s->k && call->attrs[TR_ROUTE_NORMALISED].i; j++)
        weights[j] /= sum;
}

static bool takes_part(const tr_call *call, int64_t b, int64_t t, int64_t j, float weight)
{
    uint64_t index = (uint64_t)(((call->origin[0] + b) * call->extent[1] + call->origin[1] + t) * TR_MOST_CHOICES + j);
    uint32_t stream = (uint32_t)call->attrs[TR_ROUTE_STREAM].i;
    return tr_random_unit(tr_random(call->seed, call->step, stream, index / 4).word[index % 4]) < 2 * weight;
}

/* Slots are places at the expert for now. */
static void give_places(const tr_call *call, const sizes *s, int64_t b)
{
    const float *weights = (const float *)call->out[0].data + b * s->t * s->k;
    const int32_t *choices = (const int32_t *)call->out[1].data + b * s->t * s->k;
    int32_t *slots = (int32_t *)call->out[2].data + b * s->t * s->k, *filled = (int32_t *)call->out[3].data + b * s->e;
    int32_t capacity = (int32_t)call->attrs[TR_ROUTE_CAPACITY].i;
    bool random = call->attrs[TR_ROUTE_RANDOM].i;
    memset(filled, 0, (size_t)s->e * sizeof *filled);
    for (int64_t j = 0; j < s->k; j++)
        for (int64_t t = 0; t < s->t; t++) {
            int64_t at = t * s->k + j;
            int32_t e = choices[at];
            bool out = random && j > 0 && !takes_part(call, b, t, j, weights[at]);
            slots[at] = out || filled[e] == capacity ? -1 : filled[e]++;
        }
}

/* first[b, e]: the places before those of expert e in sequence b. */
static void find_firsts(const tr_call *call, const sizes *s, int32_t *first)
{
    const int32_t *filled = call->out[3].data;
    bool joined = call->attrs[TR_ROUTE_JOINED].i, together = call->attrs[TR_ROUTE_TOGETHER].i;
    int32_t capacity = (int32_t)call->attrs[TR_ROUTE_CAPACITY].i, before = 0;
    for (int64_t e = 0; together && e < s->e; e++)
        for (int64_t b = 0; b < s->b; before += filled[b++ * s->e + e])
            first[b * s->e + e] = before;
    for (int64_t b = 0; !together && b < s->b; b++, before = 0)
        for (int32_t e = 0; e < s->e; before += filled[b * s->e + e++])
            first[b * s->e + e] = joined ? before : e * capacity;
}

static tr_error *prepare_route(tr_call *call)
{
    call->scratch_bytes = (size_t)tr_tensor_elems(&call->out[3]) * sizeof(int32_t);
    return NULL;
}

static void run_route(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->attrs[TR_ROUTE_K].i);
    const int32_t *choices = call->out[1].data;
    int32_t *slots = call->out[2].data, *first = call->scratch;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t token = 0; token < s.b * s.t; token++)
            weigh(call, &s, token);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < s.b; b++)
            give_places(call, &s, b);
#pragma omp single
        find_firsts(call, &s, first);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.b * s.t * s.k; i++)
            slots[i] += slots[i] < 0 ? 0 : first[i / (s.t * s.k) * s.e + choices[i]];
    }
}

/* dlogits = p (dp - sum of p dp), dp from the choices alone. */
static void run_route_grad(const tr_call *call)
{
    sizes s = sizes_of(&call->in[1], call->in[0].dims[2]);
    bool normalised = call->attrs[TR_ROUTE_NORMALISED].i;
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < s.b * s.t; token++) {
        const float *d = (const float *)call->in[0].data + token * s.k;
        const float *row = (const float *)call->in[1].data + token * s.e;
        const int32_t *choices = (const int32_t *)call->in[2].data + token * s.k;
        float *out = (float *)call->out[0].data + token * s.e, p[TR_MOST_CHOICES], dp[TR_MOST_CHOICES];
        float lse = log_sum(row, s.e), sum = 0, weighted = 0, all = 0;
        for (int64_t j = 0; j < s.k; j++) {
            p[j] = expf(row[choices[j]] - lse);
            sum += p[j];
            weighted += p[j] * d[j];
        }
        for (int64_t j = 0; j < s.k; j++) {
            dp[j] = normalised ? (d[j] - weighted / sum) / sum : d[j];
            all += p[j] * dp[j];
        }
        for (int64_t i = 0; i < s.e; i += TR_VL)
            vf_store_n(out + i, vf_exp(logits_at(row, i, s.e) - lse) * -all, (int)TR_MIN(s.e - i, TR_VL));
        for (int64_t j = 0; j < s.k; j++)
            out[choices[j]] += p[j] * dp[j];
    }
}

/* The share of the tokens of sequence b that chose each expert. */
static void shares(const tr_call *call, const sizes *s, int64_t b, float *share)
{
    const int32_t *choices = (const int32_t *)call->in[1].data + b * s->t * s->k;
    int64_t counted = call->attrs[TR_ROUTE_LOSS_ALL].i ? s->k : 1;
    memset(share, 0, (size_t)s->e * sizeof *share);
    for (int64_t t = 0; t < s->t; t++)
        for (int64_t j = 0; j < counted; j++)
            share[choices[t * s->k + j]] += 1;
    for (int64_t e = 0; e < s->e; e++)
        share[e] /= (float)s->t;
}

static tr_error *prepare_loss(tr_call *call)
{
    const tr_tensor *logits = &call->in[0];
    call->scratch_bytes = sizeof(float) * (size_t)(logits->dims[0] * (logits->dims[2] + 2));
    return NULL;
}

/* The sum of share x p over experts. */
TR_INLINE float mean_share(const float *row, const float *share, int64_t e, float lse)
{
    vf sum = vf_zero();
    for (int64_t i = 0; i < e; i += TR_VL)
        sum = vf_fma(vf_load_n(share + i, (int)TR_MIN(e - i, TR_VL)), vf_exp(logits_at(row, i, e) - lse), sum);
    return vf_sum(sum);
}

static void run_route_loss(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->in[1].dims[2]);
    float *scratch = call->scratch, *balance = call->out[0].data, *z = call->out[1].data;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < s.b; b++) {
        float *share = scratch + b * (s.e + 2);
        double sum = 0, squares = 0;
        shares(call, &s, b, share);
        for (int64_t t = 0; t < s.t; t++) {
            const float *row = (const float *)call->in[0].data + (b * s.t + t) * s.e;
            float lse = log_sum(row, s.e);
            sum += (double)mean_share(row, share, s.e, lse);
            squares += (double)(lse * lse);
        }
        share[s.e] = (float)(sum * (double)s.e / (double)s.t);
        share[s.e + 1] = (float)(squares / (double)s.t);
    }
    *balance = *z = 0;
    for (int64_t b = 0; b < s.b; b++) {
        *balance += scratch[b * (s.e + 2) + s.e];
        *z += scratch[b * (s.e + 2) + s.e + 1];
    }
}

static void run_route_loss_grad(const tr_call *call)
{
    sizes s = sizes_of(&call->in[0], call->in[1].dims[2]);
    float balance = *(const float *)call->in[2].data * (float)s.e / (float)s.t;
    float z = 2 * *(const float *)call->in[3].data / (float)s.t;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t b = 0; b < s.b; b++)
            shares(call, &s, b, (float *)call->scratch + b * (s.e + 2));
#pragma omp for schedule(static)
        for (int64_t token = 0; token < s.b * s.t; token++) {
            const float *row = (const float *)call->in[0].data + token * s.e;
            const float *share = (const float *)call->scratch + token / s.t * (s.e + 2);
            float *out = (float *)call->out[0].data + token * s.e, lse = log_sum(row, s.e);
            float rest = z * lse - balance * mean_share(row, share, s.e, lse);
            for (int64_t i = 0; i < s.e; i += TR_VL) {
                int n = (int)TR_MIN(s.e - i, TR_VL);
                vf d = vf_fma(vf_load_n(share + i, n), vf_set1(balance), vf_set1(rest));
                vf_store_n(out + i, vf_exp(logits_at(row, i, s.e) - lse) * d, n);
            }
        }
    }
}

/* dispatch and collect -------------------------------------------------------------------------------- */

TR_INLINE void scale_row(void *to, const void *from, int64_t to_row, int64_t from_row, int64_t d, float weight, bool bf16)
{
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        vf_store_as_n(to, to_row * d + c, vf_load_as_n(from, from_row * d + c, part, bf16) * weight, part, bf16);
    }
}

static tr_error *prepare_dispatch(tr_call *call)
{
    const tr_tensor *y = &call->out[0];
    call->scratch_bytes = (size_t)tr_tensor_span(y, 0, 3) * sizeof(int32_t);
    return NULL;
}

static void run_dispatch(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t tokens = x->dims[1], d = x->dims[2], k = call->in[1].dims[2], rows = tr_tensor_span(y, 0, 3);
    int64_t bytes = d * tr_dtype_bytes(x->dtype);
    const int32_t *slots = call->in[1].data;
    const float *weights = tr_has(call, 2) ? call->in[2].data : NULL;
    int32_t *token = call->scratch; /* by row: 1 + where its slot is among all */
    bool bf16 = x->dtype == TR_BF16;
    memset(token, 0, (size_t)rows * sizeof *token);
    for (int64_t i = 0; i < x->dims[0] * tokens * k; i++)
        if (slots[i] >= 0)
            token[row_of(y, slots[i], i / k / tokens)] = (int32_t)(i + 1);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t i = token[row] - 1;
        if (i < 0)
            memset((char *)y->data + row * bytes, 0, (size_t)bytes);
        else if (!weights)
            memcpy((char *)y->data + row * bytes, (const char *)x->data + i / k * bytes, (size_t)bytes);
        else if (bf16)
            scale_row(y->data, x->data, row, i / k, d, weights[i], true);
        else
            scale_row(y->data, x->data, row, i / k, d, weights[i], false);
    }
}

TR_INLINE void collect_token(const tr_call *call, int64_t row, int64_t k, bool bf16)
{
    const tr_tensor *y = &call->in[0], *o = &call->out[0];
    const int32_t *slots = (const int32_t *)call->in[1].data + row * k;
    const float *weights = tr_has(call, 2) ? (const float *)call->in[2].data + row * k : NULL;
    int64_t d = o->dims[2];
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        vf sum = vf_zero();
        for (int64_t j = 0; j < k; j++) {
            if (slots[j] < 0)
                continue;
            vf v = vf_load_as_n(y->data, row_of(y, slots[j], row / o->dims[1]) * d + c, part, bf16);
            sum = weights ? vf_fma(v, vf_set1(weights[j]), sum) : sum + v;
        }
        vf_store_as_n(o->data, row * d + c, sum, part, bf16);
    }
}

static void run_collect(const tr_call *call)
{
    const tr_tensor *o = &call->out[0];
    int64_t k = call->in[1].dims[2], rows = o->dims[0] * o->dims[1];
    bool bf16 = o->dtype == TR_BF16;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        bf16 ? collect_token(call, row, k, true) : collect_token(call, row, k, false);
}

TR_INLINE float row_dot(const void *a, int64_t a_row, const void *b, int64_t b_row, int64_t d, bool bf16)
{
    vf sum = vf_zero();
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        sum = vf_fma(vf_load_as_n(a, a_row * d + c, part, bf16), vf_load_as_n(b, b_row * d + c, part, bf16), sum);
    }
    return vf_sum(sum);
}

static void run_collect_grad(const tr_call *call)
{
    const tr_tensor *dout = &call->in[0], *y = &call->in[1];
    const int32_t *slots = call->in[2].data;
    int64_t tokens = dout->dims[1], d = dout->dims[2], k = call->in[2].dims[2], n = dout->dims[0] * tokens * k;
    float *out = call->out[0].data;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        out[i] = 0;
        if (slots[i] < 0)
            continue;
        int64_t row = row_of(y, slots[i], i / k / tokens);
        out[i] = dout->dtype == TR_BF16 ? row_dot(dout->data, i / k, y->data, row, d, true)
                                        : row_dot(dout->data, i / k, y->data, row, d, false);
    }
}

static bool accepts_rows(const tr_call *call)
{
    int room = call->op == TR_OP_collect_grad ? 1 : 0;
    return floats(&call->in[0]) && call->in[room].dtype == call->in[0].dtype;
}

const tr_kernel TR_KERNELS(moe)[] = {
    {TR_OP_route, TR_ISA_NAME, NULL, prepare_route, run_route, NULL},
    {TR_OP_route_grad, TR_ISA_NAME, NULL, NULL, run_route_grad, NULL},
    {TR_OP_route_loss, TR_ISA_NAME, NULL, prepare_loss, run_route_loss, NULL},
    {TR_OP_route_loss_grad, TR_ISA_NAME, NULL, prepare_loss, run_route_loss_grad, NULL},
    {TR_OP_dispatch, TR_ISA_NAME, accepts_rows, prepare_dispatch, run_dispatch, NULL},
    {TR_OP_collect, TR_ISA_NAME, accepts_rows, NULL, run_collect, NULL},
    {TR_OP_collect_grad, TR_ISA_NAME, accepts_rows, NULL, run_collect_grad, NULL},
    {.run = NULL},
};
