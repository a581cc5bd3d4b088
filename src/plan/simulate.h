/* A training step's time from its plan, without running it: kernels at speeds that were measured on this machine,
 * links at speeds that were measured or given, pipelines by the clock of passes/pipeline_check.h.
 *
 * Calibration runs one microbatch of a few layers of the model and takes, for each op, the time of its nodes over
 * their flops (over their bytes, where flops are few). A node's time is that rate times its own cost, so kernels that
 * fall off for small shapes are estimated too fast: the estimate is a lower bound that trends right. A collective costs
 * the bytes that this rank sends over the link's speed, and one latency for each of its messages in a row.
 *
 * The plan's own order decides what is hidden: a rank has two clocks, of what it computes and of its link. A collective
 * goes over the link when it has started and the one before is over; its wait stops the first clock until then
 * (passes/overlap.c). Moving the bytes is taken to cost the cores nothing.
 */
#pragma once
#include "exec/program.h"
#include "train/parallel.h"
#include "trireme.h"

typedef struct tr_rates {
    double seconds_per_flop[TR_OP_COUNT], seconds_per_byte[TR_OP_COUNT]; /* one of the two; 0: op not seen */
    double other_per_byte; /* ops that were not seen */
    double link_bytes_per_s, link_latency_s;
} tr_rates;

/* Runs the config's model with at most two layers on one rank for about a second. */
tr_error *tr_rates_measure_kernels(const tr_config *config, const tr_sizes *sizes, tr_model model, tr_rates *rates);
/* Two ranks as threads of this process exchange messages: speed and latency of that link. */
tr_error *tr_rates_measure_link(tr_rates *rates);

typedef struct tr_step_time {
    double seconds; /* of a step of all microbatches */
    double compute, communication; /* on the rank that has most to do; all of its collectives */
    double exposed;                /* what of these it waits for */
    double bubble;  /* share of the ranks' time in which a pipeline waits */
} tr_step_time;

/* `program`: a rank's plan of the config (tr_trainer_plan). */
tr_error *tr_simulate_step(const tr_config *config, const tr_program *program, const tr_rates *rates, tr_step_time *out);
