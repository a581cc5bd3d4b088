/* Learning-rate schedules; see schedule.h. */
#include "train/schedule.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"

/* From a to b, done in [0, 1]. */
static double line(double a, double b, double done)
{
    return a + (b - a) * done;
}

static double cosine(double a, double b, double done)
{
    return b + (a - b) * 0.5 * (1 + cos(acos(-1.0) * done));
}

/* How far a step after `from` is on the way to `to`. */
static double share(int64_t step, int64_t from, int64_t to)
{
    return to > from ? fmin(1, (double)(step - from) / (double)(to - from)) : 1;
}

/* Each gets the step and how much of what follows the warmup is done. */
static double constant(const tr_config *c, int64_t step, double done)
{
    (void)step, (void)done;
    return c->optimizer.lr;
}

static double linear(const tr_config *c, int64_t step, double done)
{
    (void)step;
    return line(c->optimizer.lr, c->schedule.final_lr, done);
}

static double cosine_once(const tr_config *c, int64_t step, double done)
{
    (void)step;
    return cosine(c->optimizer.lr, c->schedule.final_lr, done);
}

static double wsd(const tr_config *c, int64_t step, double done)
{
    int64_t from = c->train.steps - c->schedule.decay;
    (void)done;
    return step <= from ? c->optimizer.lr
                        : line(c->optimizer.lr, c->schedule.final_lr, share(step, from, c->train.steps));
}

static double cosine_restarts(const tr_config *c, int64_t step, double done)
{
    double at = (double)(step - c->schedule.warmup), length = (double)c->schedule.cycle;
    (void)done;
    while (at > length) {
        at -= length;
        length *= c->schedule.cycle_growth;
    }
    return cosine(c->optimizer.lr, c->schedule.final_lr, at / length);
}

static double polynomial(const tr_config *c, int64_t step, double done)
{
    (void)step;
    return line(c->schedule.final_lr, c->optimizer.lr, pow(1 - done, c->schedule.power));
}

static double inverse_sqrt(const tr_config *c, int64_t step, double done)
{
    double kept = fmax(1, (double)(c->schedule.warmup + c->schedule.hold));
    (void)done;
    return fmax(c->optimizer.lr * sqrt(fmin(1, kept / (double)step)), c->schedule.final_lr);
}

static double multi_step(const tr_config *c, int64_t step, double done)
{
    int64_t *at = NULL, count = 0;
    double lr = c->optimizer.lr;
    (void)done;
    tr_error_free(tr_schedule_milestones(c->schedule.milestones, &at, &count)); /* checked with the config */
    for (int64_t i = 0; i < count; i++)
        lr *= step > at[i] ? c->schedule.factor : 1;
    free(at);
    return lr;
}

static double (*const after_warmup[TR_SCHEDULE_COUNT])(const tr_config *c, int64_t step, double done) = {
    [TR_SCHEDULE_CONSTANT] = constant,         [TR_SCHEDULE_LINEAR] = linear,
    [TR_SCHEDULE_COSINE] = cosine_once,        [TR_SCHEDULE_WSD] = wsd,
    [TR_SCHEDULE_RESTARTS] = cosine_restarts,  [TR_SCHEDULE_POLYNOMIAL] = polynomial,
    [TR_SCHEDULE_INVERSE_SQRT] = inverse_sqrt, [TR_SCHEDULE_ONE_CYCLE] = cosine_once,
    [TR_SCHEDULE_MULTI_STEP] = multi_step,
};

double tr_schedule_lr(const tr_config *c, int64_t step)
{
    int64_t warmup = c->schedule.warmup;
    if (step > warmup)
        return after_warmup[c->schedule.name](c, step, share(step, warmup, c->train.steps));
    if (c->schedule.name == TR_SCHEDULE_ONE_CYCLE)
        return cosine(c->schedule.start_lr, c->optimizer.lr, share(step, 1, warmup));
    return c->optimizer.lr * (double)step / (double)warmup;
}

tr_error *tr_schedule_milestones(const char *text, int64_t **out, int64_t *out_count)
{
    int64_t room = 0;
    *out = NULL;
    *out_count = 0;
    for (const char *at = text; *at;) {
        char *end;
        long long value = strtoll(at, &end, 10);
        bool rises = !*out_count || value > (*out)[*out_count - 1];
        while (*end == ' ')
            end++;
        if (end == at || value < 1 || value >= INT64_MAX || !rises || (*end && *end != ',') || (*end && !end[1])) {
            free(*out);
            *out = NULL;
            *out_count = 0;
            return tr_error_new(TR_USER, "'%s' is no list of rising steps such as 600, 800", text);
        }
        tr_push(*out, *out_count, room) = value;
        at = *end ? end + 1 : end;
    }
    return NULL;
}
