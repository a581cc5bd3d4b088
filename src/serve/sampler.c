/* Sampling; see sampler.h. */
#include "serve/sampler.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

struct tr_sampler {
    tr_sampling how;
    int64_t vocab;
    candidate *candidates; /* [vocab] */
    uint8_t *marked;       /* [vocab] */
};

tr_sampler *tr_sampler_new(const tr_sampling *how, int64_t vocab)
{
    tr_sampler *s = tr_alloc_zero(1, sizeof *s);
    s->how = *how;
    s->vocab = vocab;
    s->candidates = tr_alloc_zero((size_t)vocab, sizeof *s->candidates);
    s->marked = tr_alloc_zero((size_t)vocab, 1);
    return s;
}

void tr_sampler_free(tr_sampler *s)
{
    if (!s)
        return;
    free(s->candidates);
    free(s->marked);
    free(s);
}

static void penalise(tr_sampler *s, float *logits, const int32_t *seen, int64_t n_seen)
{
    float penalty = (float)s->how.repetition_penalty;
    for (int64_t i = 0; i < n_seen; i++) {
        int32_t t = seen[i];
        if (t < 0 || t >= s->vocab || s->marked[t])
            continue;
        s->marked[t] = 1;
        logits[t] = logits[t] > 0 ? logits[t] / penalty : logits[t] * penalty;
    }
    for (int64_t i = 0; i < n_seen; i++)
        if (seen[i] >= 0 && seen[i] < s->vocab)
            s->marked[seen[i]] = 0;
}

static int32_t most_likely(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* Most likely first; equal logits by token, so that the order is total. */
static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* The candidates that can matter, most likely first; returns how many. */
static int64_t shortlist(tr_sampler *s, const float *logits)
{
    bool whole = s->how.top_k <= 0 && s->how.top_p >= 1;
    float best = logits[most_likely(logits, s->vocab)];
    /* Below this a token's probability is under 2^-40 of the best one's: it is never drawn. */
    float floor = best - 28.0f * (float)s->how.temperature;
    int64_t n = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        if (logits[i] >= floor)
            s->candidates[n++] = (candidate){logits[i], (int32_t)i};
    if (!whole)
        qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_logit);
    return s->how.top_k > 0 && n > s->how.top_k ? s->how.top_k : n;
}

int32_t tr_sampler_next(tr_sampler *s, float *logits, const int32_t *seen, int64_t n_seen, int64_t index)
{
    if (s->how.repetition_penalty != 1 && s->how.repetition_penalty > 0)
        penalise(s, logits, seen, n_seen);
    if (s->how.temperature <= 0)
        return most_likely(logits, s->vocab);
    int64_t n = shortlist(s, logits), kept = 0;
    double best = -INFINITY, total = 0, mass = 0;
    for (int64_t i = 0; i < n; i++)
        best = fmax(best, s->candidates[i].logit);
    for (int64_t i = 0; i < n; i++)
        total += exp((s->candidates[i].logit - best) / s->how.temperature);
    if (!(total > 0)) /* NaN or infinite logits: nothing to draw from */
        return most_likely(logits, s->vocab);
    while (kept < n && (kept == 0 || mass < s->how.top_p * total))
        mass += exp((s->candidates[kept++].logit - best) / s->how.temperature);
    tr_random4 r = tr_random(s->how.seed, 0, 0x5a3eu, (uint64_t)index);
    double at = ((double)r.word[0] + (double)r.word[1] * 0x1p-32) * 0x1p-32 * mass;
    for (int64_t i = 0; i < kept; i++) {
        at -= exp((s->candidates[i].logit - best) / s->how.temperature);
        if (at < 0)
            return s->candidates[i].token;
    }
    return s->candidates[kept - 1].token;
}
