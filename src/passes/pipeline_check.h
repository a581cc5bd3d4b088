/* Proves that a pipeline schedule can run, and says what it would cost, without running it.
 *
 * What running means. A rank performs its row in order. The forward of stage s > 0 needs the
 * activation that stage s-1's forward of the same microbatch sent; an input gradient or whole
 * backward of a stage that is not the last needs the gradient that stage s+1's I or B sent; a W
 * needs its I. Sends do not block. Between two ranks there is one queue for activations and one for
 * gradients: what is sent first is received first. Two neighbouring stages on one rank send
 * nothing.
 *
 * Faults are looked for in this order, and the first is reported:
 *   1. sizes: rows, stages and microbatches are as many as expected, every row has an action
 *   2. each action by itself, row by row: known kind, existing stage and microbatch, on its stage's
 * rank
 *   3. for every stage and microbatch one F, and one B or one I and one W: no duplicate, none
 * missing
 *   4. order inside a row: F before I or B, I before W, stages of one rank before those that follow
 * them
 *   5. queues: the order of sends is the order of receives
 *   6. progress: all ranks run to the end of their rows; otherwise the cycle of waiting ranks is
 * named
 *   7. memory: how many microbatches are alive, against the bound
 * The sentence names the rank, the position in its row (from 0, empty cells not counted) and the
 * action.
 *
 * A microbatch is alive in a stage from its F until its B or W, because the weight gradient still
 * needs the stage's activations; with several stages a rank it is counted once for each of them.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"
#include "passes/pipeline_schedule.h"

typedef enum tr_schedule_fault {
    TR_FAULT_NONE,
    TR_FAULT_SIZE,       /* not the ranks, stages or microbatches that are expected */
    TR_FAULT_EMPTY,      /* a rank has nothing to do */
    TR_FAULT_KIND,       /* none of F, I, W, B */
    TR_FAULT_STAGE,      /* there is no such stage */
    TR_FAULT_MICROBATCH, /* there is no such microbatch */
    TR_FAULT_RANK,       /* the stage belongs to another rank */
    TR_FAULT_DUPLICATE,  /* done before, or B beside I and W */
    TR_FAULT_MISSING,    /* an action is not in the schedule, so its receiver waits for ever */
    TR_FAULT_ORDER,      /* stands before what it needs in the same row */
    TR_FAULT_QUEUE,      /* the next message in the queue is another one */
    TR_FAULT_DEADLOCK,   /* ranks wait for each other */
    TR_FAULT_LIVE,       /* more microbatches alive than allowed */
} tr_schedule_fault;

/* What to hold the schedule against. Zero or NULL: no such limit; a NULL pointer: no limits. */
typedef struct tr_schedule_limits {
    int32_t ranks, stages, microbatches; /* expected counts */
    int32_t live;                        /* most microbatches alive on any rank */
    const int32_t *live_of_rank;         /* [ranks]; the same, a bound for each rank */
    bool shared_queue; /* activations and gradients between two ranks share one queue */
} tr_schedule_limits;

typedef struct tr_schedule_report {
    tr_schedule_fault fault;
    int32_t rank;     /* where the fault is; -1 when it is not of one rank */
    int64_t position; /* in the rank's row; -1 when it is not of one action */
    tr_action action; /* the one that is wrong, missing or waiting */
    /* The rest is filled when there is no fault, or TR_FAULT_LIVE; otherwise NULL. */
    int32_t *live_peak;        /* [ranks] */
    int32_t *stage_live_peak;  /* [stages]: how many slots for activations a stage needs */
    int32_t *weight_peak;      /* [ranks]: of those alive, most that only wait for their W */
    int64_t *activations_sent; /* [ranks]: messages to the next stage on another rank */
    int64_t *gradients_sent;   /* [ranks] */
} tr_schedule_report;

/* NULL when the schedule is right. `report` may be NULL; it is overwritten, and freed with
 * tr_schedule_report_free whether there was a fault or not. Time and memory O(actions). */
tr_error *tr_schedule_check(const tr_schedule *schedule, const tr_schedule_limits *limits,
                            tr_schedule_report *report);
void tr_schedule_report_free(tr_schedule_report *report);

/* Costs of one microbatch in one stage, in any unit of time. */
typedef struct tr_stage_cost {
    double forward, input, weight, backward;
    double send_activation; /* to the next stage, when that is on another rank */
    double send_gradient;   /* to the stage before */
} tr_stage_cost;

/* What the simulated clock saw. Actions start as soon as the rank is free and the message is there;
 * sends cost the rank nothing, and a queue carries one message after the other. */
typedef struct tr_schedule_clock {
    double *start, *end; /* aligned with schedule->actions */
    double *busy;        /* [ranks]: time in actions */
    double *idle_share;  /* [ranks]: 1 - busy / makespan */
    double makespan;     /* from 0 to the last end of any rank */
    double bubble;       /* idle share of all ranks together */
} tr_schedule_clock;

/* Checks the schedule first (without limits). costs[schedule->stages]. Free with
 * tr_schedule_clock_free. */
tr_error *tr_schedule_simulate(const tr_schedule *schedule, const tr_stage_cost *costs,
                               tr_schedule_clock *out);
void tr_schedule_clock_free(tr_schedule_clock *clock);

/* Appends the timeline, a row a rank and a column for each `unit` of time: "F1" is the forward of
 * microbatch 1, dashes are its further units, dots are idle. With several stages a rank cells are
 * as in the CSV. */
tr_error *tr_schedule_draw(const tr_schedule *schedule, const tr_schedule_clock *clock, double unit,
                           tr_text *text);
