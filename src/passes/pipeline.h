/* Pipeline stages: which node is in which, and the graph of the stages of one rank.
 *
 *   tr_pass_stages  after the model, before autodiff: the forward is cut between layers by cost; autodiff gives
 *                   a gradient the stage of its node
 *   tr_pass_weight  after update, for schedules with I and W: moves what only gradients of parameters need from
 *                   phase BACKWARD to WEIGHT
 *   tr_pass_cut     after shard: the nodes of one place on the pipeline. A value that another stage makes becomes
 *                   a leaf of role MESSAGE, what another stage reads becomes an output; exec/pipeline.h moves them
 *
 * What is passed on goes from stage to stage, so a value that is read three stages later is a message of each
 * stage between. A parameter that two stages use is one leaf on each of their ranks; the sums of its gradient
 * are added over those ranks in the update. Numbers of the whole step (loss, count, norm) are sums over the stages.
 */
#pragma once
#include "ir/graph.h"
#include "passes/pipeline_check.h"
#include "passes/pipeline_schedule.h"

enum { TR_MOST_PLACES = 62 }; /* ranks of a pipeline: sets of them are bits of an attribute */

/* A pipeline as the compiler of one rank sees it. */
typedef struct tr_stages {
    const tr_schedule *schedule;
    const int32_t *live; /* [stages]: microbatches alive at once, of tr_schedule_check's report */
    int place, axis;     /* of this rank on the pipeline; the axis's number in collectives */
} tr_stages;
/* Some action is I or W, so the two have to be apart. */
bool tr_schedule_splits(const tr_schedule *schedule);

/* Precondition: phase FORWARD only. Every layer of stage s stands before those of stage s + 1. */
tr_error *tr_pass_stages(tr_graph *graph, int stages);
void tr_pass_weight(tr_graph *graph);
/* The graph of the rank at `place`; `axis` is the number that collectives give the pipeline's axis. The whole
 * graph stays the caller's. Parameters of several stages belong to the first (tr_layout.owner). */
tr_error *tr_pass_cut(const tr_graph *whole, const tr_schedule *schedule, int place, int axis, tr_graph **out);

/* Messages by name, in the direction forward ('F') or backward ('B'): leaves "receive.F.STAGE.k" and outputs
 * "send.F.STAGE.k" of the sending stage. The caller frees *out. */
int tr_pipeline_messages(const tr_graph *graph, bool sends, char direction, int stage, tr_value **out);

/* Floating-point operations and moved bytes of a microbatch in each stage, as seconds at the given rates: for
 * tr_schedule_simulate. costs[stages]. */
void tr_pipeline_costs(const tr_graph *whole, int stages, double flops_per_s, double bytes_per_s,
                       double link_bytes_per_s, tr_stage_cost *costs);
