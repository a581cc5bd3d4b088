/* The plan as metrics.jsonl keeps it: the mesh, and what each rank of it has. */
#pragma once
#include <jansson.h>

#include "train/trainer.h"

/* All ranks call it, each gets the whole: {"mesh", "zero", "transport", "ranks": [{"rank", "host", "threads", "isa",
 * "planned_peak_bytes", "parameters_bytes", "optimizer_bytes", "step_bytes"} ...]}. The caller owns *out. *out_worst
 * is the planned peak of the rank that needs most. */
tr_error *tr_plan_record(const tr_trainer *trainer, json_t **out, int64_t *out_worst);
