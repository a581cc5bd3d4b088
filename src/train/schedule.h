/* The learning rate as a function of the step. */
#pragma once
#include "train/config.h"

/* Steps count from 1, n is the last one, and w = schedule.warmup. The rate rises linearly from lr / w to lr at step w
 * (one_cycle: along a cosine from start_lr at step 1); then, s = (step - w) / (n - w):
 *   constant          lr
 *   linear, cosine    from lr down to final_lr
 *   wsd               lr, then linearly down to final_lr over the last `decay` steps
 *   cosine_restarts   a cosine down to final_lr in `cycle` steps, again and again, each cycle_growth times as long as
 *                     the one before (Loshchilov & Hutter 2017); a cycle's last step has final_lr
 *   polynomial        final_lr + (lr - final_lr) (1 - s)^power
 *   inverse_sqrt      lr for `hold` steps, then lr sqrt((w + hold) / step), at least final_lr (Vaswani et al. 2017)
 *   one_cycle         a cosine down to final_lr (Smith & Topin 2018)
 *   multi_step        lr times factor for each milestone that is behind */
double tr_schedule_lr(const tr_config *config, int64_t step);
/* The milestones of schedule.milestones, "600, 800": *out is the caller's. An error when it is no rising list. */
tr_error *tr_schedule_milestones(const char *text, int64_t **out, int64_t *out_count);
