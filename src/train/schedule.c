/* Learning-rate schedules; see schedule.h. */
#include "train/schedule.h"

#include <math.h>

double tr_schedule_lr(const tr_config *c, int64_t step)
{
    double peak = c->optimizer.lr, last = c->schedule.final_lr;
    int64_t warmup = c->schedule.warmup, total = c->train.steps, decay = c->schedule.decay;
    if (step <= warmup)
        return peak * (double)step / (double)warmup;
    int64_t from = c->schedule.name == TR_SCHEDULE_WSD ? total - decay : warmup;
    if (c->schedule.name == TR_SCHEDULE_CONSTANT || step <= from)
        return peak;
    double done = total > from ? fmin(1, (double)(step - from) / (double)(total - from)) : 1;
    if (c->schedule.name == TR_SCHEDULE_COSINE)
        return last + (peak - last) * 0.5 * (1 + cos(acos(-1.0) * done));
    return peak + (last - peak) * done;
}
