/* The learning rate as a function of the step. */
#pragma once
#include "train/config.h"

/* Steps count from 1. The warmup is linear from lr / warmup; then, over the steps that are left:
 * constant; linear or cosine down to final_lr; wsd: constant, then linear down to final_lr over the last
 * `decay` steps. */
double tr_schedule_lr(const tr_config *config, int64_t step);
