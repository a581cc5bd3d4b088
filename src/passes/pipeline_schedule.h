/* Pipeline schedules as data: which rank does what, in which order.
 *
 * A schedule is a table with one row a rank. An action is (stage, kind, microbatch); a rank
 * performs the actions of its row one after the other. Nothing else decides the order of a training
 * step, so a schedule can be printed, edited, loaded, proved right (passes/pipeline_check.h) and
 * costed without running. Communication is implied: a forward of a stage sends its activations to
 * the next stage's rank, an input gradient (or a whole backward) sends the gradient to the stage
 * before. One rank, one stage is gradient accumulation.
 *
 * CSV: one row a rank, one cell an action, written stage, kind, microbatch: `0F1` is the forward of
 * microbatch 1 through stage 0. Everything counts from 0. Empty cells are idle slots and mean
 * nothing, empty lines and lines that begin with # are skipped. PyTorch's pipelining reads and
 * writes the same cells.
 *
 *     0F0,0F1,0B0,0B1
 *     1F0,1B0,1F1,1B1
 *
 * Ownership: a schedule is one object, freed by tr_schedule_free. A schedule from tr_schedule_new
 * is right by construction; one that was parsed or edited must pass tr_schedule_check before it is
 * run.
 */
#pragma once
#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"

typedef enum tr_action_kind {
    TR_ACTION_FORWARD = 'F',
    TR_ACTION_INPUT = 'I',    /* gradient of the stage's input: what the stage before waits for */
    TR_ACTION_WEIGHT = 'W',   /* gradients of the stage's weights: what nobody waits for */
    TR_ACTION_BACKWARD = 'B', /* both: I, then W */
} tr_action_kind;

typedef struct tr_action {
    int32_t stage, microbatch;
    tr_action_kind kind;
} tr_action;

enum {
    TR_SCHEDULE_MOST_STAGES = 1 << 16,
    TR_SCHEDULE_MOST_MICROBATCHES = 1 << 20,
    TR_SCHEDULE_MOST_ACTIONS = 1 << 26,
};

typedef struct tr_schedule {
    int32_t ranks, stages, microbatches;
    int32_t *rank_of_stage; /* [stages]; -1 where a parsed schedule never names the stage */
    int64_t
        *first; /* [ranks + 1]: rank r's row is actions[first[r]] to actions[first[r + 1] - 1] */
    tr_action *actions;
} tr_schedule;

typedef enum tr_pipeline_kind {
    TR_PIPELINE_GPIPE, /* all forwards, then all backwards */
    TR_PIPELINE_1F1B,  /* alternate as soon as possible: at most ranks - rank microbatches alive */
    TR_PIPELINE_INTERLEAVED, /* 1F1B over `chunks` stages a rank: the bubble divided by chunks */
    TR_PIPELINE_ZERO_BUBBLE, /* ZB-H1: weight gradients fill the bubble, memory as 1F1B's first rank
                              */
    TR_PIPELINE_ZERO_BUBBLE_V, /* ZB-V: two stages a rank, down and back up; no bubble inside a
                                  rank's work */
} tr_pipeline_kind;

/* "gpipe", "1f1b", "interleaved", "zero_bubble", "zero_bubble_v". */
const char *tr_pipeline_kind_name(tr_pipeline_kind kind);
tr_error *tr_pipeline_kind_parse(const char *name, tr_pipeline_kind *out);

/* Any number of ranks and microbatches. `chunks` is the number of stages a rank: 1 for gpipe, 1f1b
 * and zero_bubble, 2 or more for interleaved, 2 for zero_bubble_v. Stage s is on rank s % ranks,
 * but in zero_bubble_v the second half runs back up: stage s >= ranks is on rank 2 ranks - 1 - s.
 * With one rank every kind is F B F B ...: one microbatch at a time. */
tr_error *tr_schedule_new(tr_pipeline_kind kind, int64_t ranks, int64_t chunks,
                          int64_t microbatches, tr_schedule **out);
void tr_schedule_free(tr_schedule *schedule); /* NULL is fine */

/* Survives any bytes; errors begin with "where:line:column: ". Stages and microbatches are as many
 * as the largest named. A stage belongs to the rank that has most of its actions (the lowest of
 * equals), so that tr_schedule_check can name the action that strayed. */
tr_error *tr_schedule_parse_csv(const char *where, const char *bytes, int64_t size,
                                tr_schedule **out);
/* Appends the CSV, without idle cells. */
void tr_schedule_print_csv(const tr_schedule *schedule, tr_text *text);

/* Cuts layers 0 .. layer_count-1 into `stages` runs of at least one layer so that the slowest stage
 * is as fast as can be, and among those cuts takes the most even one (least sum of squares; on ties
 * the later stages get more, since the earlier ones hold more microbatches alive). `first_extra`
 * and `last_extra` are the costs of what always belongs to the first and last stage (embedding;
 * head and loss). Stage s gets the layers from out_first_layer[s] up to out_first_layer[s + 1], the
 * last stage up to layer_count. Costs are finite and not negative. The same input gives the same
 * cut. Time O(stages layers window), where window is the number of layers that fit in a stage. */
tr_error *tr_pipeline_cut(const double *layer_cost, int layer_count, double first_extra,
                          double last_extra, int stages, int *out_first_layer);
