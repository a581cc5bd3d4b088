/* The static checker and the simulated clock; see pipeline_check.h.
 *
 * The checks run in the order of the header, and each may rely on those before it:
 *   1. After check_actions every action's stage, microbatch and rank are in range, so all actions
 * of a stage are in one row.
 *   2. After check_complete `forward`, `input` and `weight` hold the position of every (stage,
 * microbatch); their size is bounded by the number of actions (two at least for each pair).
 *   3. After check_order a rank never waits for itself, so in a deadlock every rank that is not
 * done waits for another one that is not done, and following them ends in a cycle. A table that
 * names a huge stage or microbatch costs no more than O(actions + microbatches): the first stage
 * that is not complete ends the check before anything of size stages x microbatches is allocated.
 */
#include "passes/pipeline_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ACTIVATION, GRADIENT, DIRECTIONS, NAMED_RANKS = 4 };

typedef struct checker {
    const tr_schedule *s;
    const tr_schedule_limits *limits;
    tr_schedule_report *report;
    /* [stages * microbatches]: positions in the row; `input` is of I or B, `weight` of W or B. */
    int64_t *forward, *input, *weight;
    int32_t
        *queue; /* [stages * DIRECTIONS]: the queue in which the stage's messages leave; -1: none */
    int64_t queue_count;
} checker;

typedef struct text24 {
    char bytes[40];
} text24;

static text24 show(tr_action a)
{
    text24 out;
    snprintf(out.bytes, sizeof out.bytes, "%d%c%d", a.stage, (char)a.kind, a.microbatch);
    return out;
}

static tr_error *fault(checker *c, tr_schedule_fault kind, int32_t rank, int64_t position,
                       tr_action action, const char *format, ...) TR_PRINTF(6, 7);
static tr_error *fault(checker *c, tr_schedule_fault kind, int32_t rank, int64_t position,
                       tr_action action, const char *format, ...)
{
    c->report->fault = kind;
    c->report->rank = rank;
    c->report->position = position;
    c->report->action = action;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (position < 0)
        return tr_error_new(TR_USER, "%s", text);
    return tr_error_new(TR_USER, "rank %d, position %lld, %s: %s", rank, (long long)position,
                        show(action).bytes, text);
}

static const tr_action *row_of(const tr_schedule *s, int32_t rank, int64_t *count)
{
    *count = s->first[rank + 1] - s->first[rank];
    return s->actions + s->first[rank];
}

static int64_t cell(const tr_schedule *s, int32_t stage, int32_t microbatch)
{
    return (int64_t)stage * s->microbatches + microbatch;
}

/* Whether the two stages are on different ranks, so that a message goes between them. */
static bool apart(const tr_schedule *s, int32_t stage, int32_t other)
{
    return s->rank_of_stage[stage] != s->rank_of_stage[other];
}

static bool sends_gradient(tr_action_kind kind)
{
    return kind == TR_ACTION_INPUT || kind == TR_ACTION_BACKWARD;
}

/* The stage whose message `a` receives, and its direction; -1 when it receives none. */
static int32_t sender_stage(const tr_schedule *s, tr_action a, int *direction)
{
    if (a.kind == TR_ACTION_FORWARD && a.stage > 0 && apart(s, a.stage - 1, a.stage)) {
        *direction = ACTIVATION;
        return a.stage - 1;
    }
    if (sends_gradient(a.kind) && a.stage + 1 < s->stages && apart(s, a.stage + 1, a.stage)) {
        *direction = GRADIENT;
        return a.stage + 1;
    }
    return -1;
}

/* The stage to which `a` sends; -1 when it sends nothing. */
static int32_t receiver_stage(const tr_schedule *s, tr_action a, int *direction)
{
    if (a.kind == TR_ACTION_FORWARD && a.stage + 1 < s->stages && apart(s, a.stage, a.stage + 1)) {
        *direction = ACTIVATION;
        return a.stage + 1;
    }
    if (sends_gradient(a.kind) && a.stage > 0 && apart(s, a.stage, a.stage - 1)) {
        *direction = GRADIENT;
        return a.stage - 1;
    }
    return -1;
}

/* The action that sends the message of (stage, direction, microbatch). */
static tr_action sender_action(const checker *c, int32_t stage, int direction, int32_t microbatch)
{
    int64_t count, at = cell(c->s, stage, microbatch);
    const tr_action *row = row_of(c->s, c->s->rank_of_stage[stage], &count);
    return row[direction == ACTIVATION ? c->forward[at] : c->input[at]];
}

/* ---- 1 and 2: sizes, and each action by itself ---- */

static tr_error *check_sizes(checker *c)
{
    const tr_schedule *s = c->s;
    const tr_action none = {0};
    TR_CHECK(s->ranks >= 1 && s->stages >= 1 && s->microbatches >= 1 &&
                 s->ranks <= TR_SCHEDULE_MOST_STAGES && s->stages <= TR_SCHEDULE_MOST_STAGES &&
                 s->microbatches <= TR_SCHEDULE_MOST_MICROBATCHES,
             "a schedule of %d ranks, %d stages, %d microbatches", s->ranks, s->stages,
             s->microbatches);
    if (c->limits->ranks && c->limits->ranks != s->ranks)
        return fault(c, TR_FAULT_SIZE, -1, -1, none,
                     "the schedule has a row for %d rank%s, but the pipeline has %d", s->ranks,
                     s->ranks == 1 ? "" : "s", c->limits->ranks);
    for (int32_t r = 0; r < s->ranks; r++)
        if (s->first[r] == s->first[r + 1])
            return fault(c, TR_FAULT_EMPTY, r, -1, none, "rank %d has no action in the schedule",
                         r);
    return NULL;
}

static tr_error *check_actions(checker *c)
{
    const tr_schedule *s = c->s;
    int32_t stages = c->limits->stages ? TR_MIN(c->limits->stages, s->stages) : s->stages;
    int32_t microbatches = c->limits->microbatches
                               ? TR_MIN(c->limits->microbatches, s->microbatches)
                               : s->microbatches;
    for (int32_t r = 0; r < s->ranks; r++) {
        int64_t count;
        const tr_action *row = row_of(s, r, &count);
        for (int64_t i = 0; i < count; i++) {
            tr_action a = row[i];
            if (a.kind != TR_ACTION_FORWARD && a.kind != TR_ACTION_INPUT &&
                a.kind != TR_ACTION_WEIGHT && a.kind != TR_ACTION_BACKWARD)
                return fault(c, TR_FAULT_KIND, r, -1, a,
                             "rank %d, position %lld: kind %d is none of F, I, W and B", r,
                             (long long)i, (int)a.kind);
            if (a.stage < 0 || a.stage >= stages)
                return fault(c, TR_FAULT_STAGE, r, i, a,
                             "there is no stage %d; the pipeline has stages 0 to %d", a.stage,
                             stages - 1);
            if (a.microbatch < 0 || a.microbatch >= microbatches)
                return fault(c, TR_FAULT_MICROBATCH, r, i, a,
                             "there is no microbatch %d; a step has microbatches 0 to %d",
                             a.microbatch, microbatches - 1);
            if (s->rank_of_stage[a.stage] != r)
                return fault(c, TR_FAULT_RANK, r, i, a, "stage %d belongs to rank %d", a.stage,
                             s->rank_of_stage[a.stage]);
        }
    }
    const tr_action none = {0};
    if (c->limits->stages > s->stages)
        return fault(c, TR_FAULT_SIZE, -1, -1, none,
                     "the schedule has %d stage%s, but the pipeline has %d", s->stages,
                     s->stages == 1 ? "" : "s", c->limits->stages);
    if (c->limits->microbatches > s->microbatches)
        return fault(c, TR_FAULT_SIZE, -1, -1, none,
                     "the schedule has %d microbatch%s, but a step has %d", s->microbatches,
                     s->microbatches == 1 ? "" : "es", c->limits->microbatches);
    return NULL;
}

/* ---- 3: every action once ---- */

enum { SEEN_F, SEEN_I, SEEN_W, SEEN_B, SEEN };

static int seen_slot(tr_action_kind kind)
{
    return kind == TR_ACTION_FORWARD  ? SEEN_F
           : kind == TR_ACTION_INPUT  ? SEEN_I
           : kind == TR_ACTION_WEIGHT ? SEEN_W
                                      : SEEN_B;
}

/* What is missing for (stage, microbatch), and who suffers. */
static tr_error *missing(checker *c, int32_t stage, int32_t microbatch, tr_action_kind kind)
{
    const tr_schedule *s = c->s;
    int32_t rank = s->rank_of_stage[stage];
    tr_action lost = {stage, microbatch, kind};
    int32_t other = kind == TR_ACTION_FORWARD  ? stage + 1
                    : kind == TR_ACTION_WEIGHT ? -1
                                               : stage - 1;
    if (rank < 0)
        return fault(c, TR_FAULT_MISSING, -1, -1, lost,
                     "no rank runs stage %d, though the schedule has stages 0 to %d", stage,
                     s->stages - 1);
    if (other >= 0 && other < s->stages && s->rank_of_stage[other] >= 0) {
        int64_t count;
        const tr_action *row = row_of(s, s->rank_of_stage[other], &count);
        for (int64_t i = 0; i < count; i++)
            if (row[i].stage == other && row[i].microbatch == microbatch &&
                (kind == TR_ACTION_FORWARD ? row[i].kind == kind : sends_gradient(row[i].kind)))
                return fault(
                    c, TR_FAULT_MISSING, rank, -1, lost,
                    "rank %d never runs %s, so that %s of rank %d at position %lld waits for "
                    "%s for ever",
                    rank, show(lost).bytes, show(row[i]).bytes, s->rank_of_stage[other],
                    (long long)i, kind == TR_ACTION_FORWARD ? "an activation" : "a gradient");
    }
    return fault(c, TR_FAULT_MISSING, rank, -1, lost, "rank %d never runs %s%s", rank,
                 show(lost).bytes,
                 kind == TR_ACTION_BACKWARD ? " (nor an I and a W in its place)"
                 : kind == TR_ACTION_WEIGHT ? ", the weight gradient to its I"
                 : kind == TR_ACTION_INPUT  ? ", the input gradient to its W"
                                            : "");
}

static tr_error *duplicate(checker *c, tr_action a, int64_t i, const int64_t *seen)
{
    static const char LETTERS[SEEN] = {'F', 'I', 'W', 'B'};
    int slot = seen_slot(a.kind);
    int other = slot;
    if (seen[slot] < 0)
        other = a.kind == TR_ACTION_BACKWARD ? (seen[SEEN_I] >= 0 ? SEEN_I : SEEN_W) : SEEN_B;
    int32_t rank = c->s->rank_of_stage[a.stage];
    if (other == slot)
        return fault(c, TR_FAULT_DUPLICATE, rank, i, a, "done before at position %lld",
                     (long long)seen[slot]);
    tr_action before = {a.stage, a.microbatch, (tr_action_kind)LETTERS[other]};
    return fault(c, TR_FAULT_DUPLICATE, rank, i, a,
                 "%s at position %lld did this before (a backward is one B, or one I and one W)",
                 show(before).bytes, (long long)seen[other]);
}

/* One stage: `order` lists its actions as indices into the table. seen[microbatch * SEEN + slot] is
 * scratch. */
static tr_error *check_stage(checker *c, int32_t stage, const int64_t *order, int64_t count,
                             int64_t *seen)
{
    const tr_schedule *s = c->s;
    int32_t rank = s->rank_of_stage[stage];
    if (rank < 0)
        return missing(c, stage, 0, TR_ACTION_FORWARD);
    memset(seen, 0xff, (size_t)s->microbatches * SEEN * sizeof *seen); /* all -1 */
    for (int64_t k = 0; k < count; k++) {
        tr_action a = s->actions[order[k]];
        int64_t *mine = seen + (int64_t)a.microbatch * SEEN;
        bool whole = a.kind == TR_ACTION_BACKWARD, half = !whole && a.kind != TR_ACTION_FORWARD;
        int64_t position = order[k] - s->first[rank];
        if (mine[seen_slot(a.kind)] >= 0 || (whole && (mine[SEEN_I] >= 0 || mine[SEEN_W] >= 0)) ||
            (half && mine[SEEN_B] >= 0))
            return duplicate(c, a, position, mine);
        mine[seen_slot(a.kind)] = position;
    }
    for (int32_t m = 0; m < s->microbatches; m++) {
        const int64_t *mine = seen + (int64_t)m * SEEN;
        if (mine[SEEN_F] < 0)
            return missing(c, stage, m, TR_ACTION_FORWARD);
        if (mine[SEEN_B] >= 0)
            continue;
        if (mine[SEEN_I] < 0)
            return missing(c, stage, m, mine[SEEN_W] < 0 ? TR_ACTION_BACKWARD : TR_ACTION_INPUT);
        if (mine[SEEN_W] < 0)
            return missing(c, stage, m, TR_ACTION_WEIGHT);
    }
    return NULL;
}

static tr_error *check_complete(checker *c)
{
    const tr_schedule *s = c->s;
    tr_error *error = NULL;
    int64_t total = s->first[s->ranks];
    int64_t *begin = tr_alloc_zero((size_t)s->stages + 2, sizeof *begin);
    int64_t *order = tr_alloc_zero((size_t)total, sizeof *order);
    int64_t *seen = tr_alloc_zero((size_t)s->microbatches * SEEN, sizeof *seen);
    /* The actions by stage: a counting sort. begin[stage + 1] moves from the stage's first to its
     * last. */
    for (int64_t i = 0; i < total; i++)
        begin[s->actions[i].stage + 2]++;
    for (int32_t stage = 0; stage < s->stages; stage++)
        begin[stage + 2] += begin[stage + 1];
    for (int64_t i = 0; i < total; i++)
        order[begin[s->actions[i].stage + 1]++] = i;
    for (int32_t stage = 0; stage < s->stages; stage++)
        TR_GO(check_stage(c, stage, order + begin[stage], begin[stage + 1] - begin[stage], seen));

    size_t cells = (size_t)s->stages * (size_t)s->microbatches;
    c->forward = tr_alloc_zero(cells, sizeof *c->forward);
    c->input = tr_alloc_zero(cells, sizeof *c->input);
    c->weight = tr_alloc_zero(cells, sizeof *c->weight);
    for (int32_t r = 0; r < s->ranks; r++) {
        int64_t count;
        const tr_action *row = row_of(s, r, &count);
        for (int64_t i = 0; i < count; i++) {
            int64_t at = cell(s, row[i].stage, row[i].microbatch);
            if (row[i].kind == TR_ACTION_FORWARD)
                c->forward[at] = i;
            if (sends_gradient(row[i].kind))
                c->input[at] = i;
            if (row[i].kind == TR_ACTION_WEIGHT || row[i].kind == TR_ACTION_BACKWARD)
                c->weight[at] = i;
        }
    }
done:
    free(begin);
    free(order);
    free(seen);
    return error;
}

/* ---- 4: order inside a row ---- */

static tr_error *check_before(checker *c, int32_t rank, int64_t i, tr_action a, int64_t needed)
{
    if (needed < i)
        return NULL;
    int64_t count;
    const tr_action *row = row_of(c->s, rank, &count);
    return fault(c, TR_FAULT_ORDER, rank, i, a, "it needs %s, which comes only at position %lld",
                 show(row[needed]).bytes, (long long)needed);
}

static tr_error *check_order(checker *c)
{
    const tr_schedule *s = c->s;
    for (int32_t r = 0; r < s->ranks; r++) {
        int64_t count;
        const tr_action *row = row_of(s, r, &count);
        for (int64_t i = 0; i < count; i++) {
            tr_action a = row[i];
            int64_t at = cell(s, a.stage, a.microbatch);
            if (a.kind == TR_ACTION_WEIGHT)
                TR_TRY(check_before(c, r, i, a, c->input[at]));
            if (sends_gradient(a.kind))
                TR_TRY(check_before(c, r, i, a, c->forward[at]));
            if (sends_gradient(a.kind) && a.stage + 1 < s->stages &&
                !apart(s, a.stage, a.stage + 1))
                TR_TRY(check_before(c, r, i, a, c->input[at + s->microbatches]));
            if (a.kind == TR_ACTION_FORWARD && a.stage > 0 && !apart(s, a.stage, a.stage - 1))
                TR_TRY(check_before(c, r, i, a, c->forward[at - s->microbatches]));
        }
    }
    return NULL;
}

/* ---- 5: queues ---- */

typedef struct end_points {
    int64_t key; /* from, to and, where queues are not shared, the direction */
    int32_t slot;
} end_points;

static int compare_end_points(const void *a, const void *b)
{
    const end_points *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* Numbers the queues: messages between the same two ranks (and of the same direction) share one. */
static void number_queues(checker *c)
{
    const tr_schedule *s = c->s;
    end_points *ends = tr_alloc_zero((size_t)s->stages * DIRECTIONS, sizeof *ends);
    int64_t count = 0;
    c->queue = tr_alloc_zero((size_t)s->stages * DIRECTIONS, sizeof *c->queue);
    for (int32_t slot = 0; slot < s->stages * DIRECTIONS; slot++) {
        int32_t stage = slot / DIRECTIONS, direction = slot % DIRECTIONS;
        int32_t to = direction == ACTIVATION ? stage + 1 : stage - 1;
        c->queue[slot] = -1;
        if (to < 0 || to >= s->stages || !apart(s, stage, to))
            continue;
        int64_t key = (int64_t)s->rank_of_stage[stage] * s->ranks + s->rank_of_stage[to];
        ends[count++] =
            (end_points){key * DIRECTIONS + (c->limits->shared_queue ? 0 : direction), slot};
    }
    qsort(ends, (size_t)count, sizeof *ends, compare_end_points);
    c->queue_count = 0;
    for (int64_t k = 0; k < count; k++) {
        c->queue_count += k == 0 || ends[k].key != ends[k - 1].key;
        c->queue[ends[k].slot] = (int32_t)(c->queue_count - 1);
    }
    free(ends);
}

static tr_error *wrong_message(checker *c, int64_t got, int64_t sent)
{
    const tr_schedule *s = c->s;
    tr_action receiver = s->actions[got], sender = s->actions[sent];
    int32_t rank = s->rank_of_stage[receiver.stage], from = s->rank_of_stage[sender.stage];
    int direction = ACTIVATION;
    int32_t stage = sender_stage(s, receiver, &direction);
    tr_action wanted = sender_action(c, stage, direction, receiver.microbatch);
    return fault(
        c, TR_FAULT_QUEUE, rank, got - s->first[rank], receiver,
        "it waits for the %s of %s, but the next message from rank %d is that of %s (its position "
        "%lld); what is sent first must be received first",
        direction == ACTIVATION ? "activation" : "gradient", show(wanted).bytes, from,
        show(sender).bytes, (long long)(sent - s->first[from]));
}

/* Each queue has one sender and one receiver, so walking the rows gives both orders. */
static tr_error *check_queues(checker *c)
{
    const tr_schedule *s = c->s;
    tr_error *error = NULL;
    int64_t *begin = tr_alloc_zero((size_t)c->queue_count + 1, sizeof *begin);
    for (int32_t slot = 0; slot < s->stages * DIRECTIONS; slot++)
        if (c->queue[slot] >= 0)
            begin[c->queue[slot] + 1] += s->microbatches;
    for (int64_t q = 0; q < c->queue_count; q++)
        begin[q + 1] += begin[q];
    int64_t messages = begin[c->queue_count];
    int64_t *sent = tr_alloc_zero((size_t)messages + 1, sizeof *sent);
    int64_t *got = tr_alloc_zero((size_t)messages + 1, sizeof *got);
    int64_t *sends = tr_alloc_zero((size_t)c->queue_count + 1, sizeof *sends);
    int64_t *gets = tr_alloc_zero((size_t)c->queue_count + 1, sizeof *gets);
    for (int64_t i = 0; i < s->first[s->ranks]; i++) {
        tr_action a = s->actions[i];
        int direction = ACTIVATION;
        if (receiver_stage(s, a, &direction) >= 0) {
            int32_t q = c->queue[a.stage * DIRECTIONS + direction];
            sent[begin[q] + sends[q]++] = i;
        }
        int32_t from = sender_stage(s, a, &direction);
        if (from >= 0) {
            int32_t q = c->queue[from * DIRECTIONS + direction];
            got[begin[q] + gets[q]++] = i;
        }
    }
    /* Of the first wrong message of each queue, the one that is received earliest in its row. */
    int64_t worst = -1, worst_position = INT64_MAX;
    for (int64_t q = 0; q < c->queue_count; q++)
        for (int64_t k = begin[q]; k < begin[q + 1]; k++) {
            tr_action a = s->actions[got[k]], b = s->actions[sent[k]];
            int direction = ACTIVATION;
            int32_t to = receiver_stage(s, b, &direction);
            if (to == a.stage && b.microbatch == a.microbatch &&
                (direction == ACTIVATION) == (a.kind == TR_ACTION_FORWARD))
                continue;
            int64_t position = got[k] - s->first[s->rank_of_stage[a.stage]];
            if (position < worst_position) {
                worst = k;
                worst_position = position;
            }
            break;
        }
    if (worst >= 0)
        error = wrong_message(c, got[worst], sent[worst]);
    free(begin);
    free(sent);
    free(got);
    free(sends);
    free(gets);
    return error;
}

/* ---- 6 and the clock: running all ranks ---- */

typedef struct runner {
    const checker *c;
    const tr_stage_cost *costs; /* NULL: everything takes no time */
    double *start, *end;        /* NULL, or aligned with the table's actions */
    double *arrived;            /* [cells * DIRECTIONS]: when a message is there; -1: not sent */
    double *queue_free;         /* [queues] */
    double *time;               /* [ranks] */
    int64_t *position;          /* [ranks] */
    int32_t *ready;             /* [ranks]: a stack of ranks that can go on */
    int64_t ready_count;
} runner;

static double action_cost(const runner *run, tr_action a)
{
    if (!run->costs)
        return 0;
    const tr_stage_cost *cost = &run->costs[a.stage];
    return a.kind == TR_ACTION_FORWARD  ? cost->forward
           : a.kind == TR_ACTION_INPUT  ? cost->input
           : a.kind == TR_ACTION_WEIGHT ? cost->weight
                                        : cost->backward;
}

/* Puts the message of `a` on its way and wakes the rank that waits for it. */
static void send(runner *run, tr_action a, double now)
{
    const tr_schedule *s = run->c->s;
    int direction = ACTIVATION;
    int32_t to = receiver_stage(s, a, &direction);
    if (to < 0)
        return;
    int32_t q = run->c->queue[a.stage * DIRECTIONS + direction];
    double cost = !run->costs               ? 0
                  : direction == ACTIVATION ? run->costs[a.stage].send_activation
                                            : run->costs[a.stage].send_gradient;
    run->queue_free[q] = TR_MAX(run->queue_free[q], now) + cost;
    run->arrived[cell(s, a.stage, a.microbatch) * DIRECTIONS + direction] = run->queue_free[q];
    int32_t rank = s->rank_of_stage[to];
    int64_t count;
    const tr_action *row = row_of(s, rank, &count);
    if (run->position[rank] == count || row[run->position[rank]].stage != to ||
        row[run->position[rank]].microbatch != a.microbatch)
        return;
    int waits_for = ACTIVATION;
    if (sender_stage(s, row[run->position[rank]], &waits_for) == a.stage && waits_for == direction)
        run->ready[run->ready_count++] = rank;
}

/* Performs the rank's actions up to one whose message is not there. */
static void advance(runner *run, int32_t rank)
{
    const tr_schedule *s = run->c->s;
    int64_t count;
    const tr_action *row = row_of(s, rank, &count);
    while (run->position[rank] < count) {
        tr_action a = row[run->position[rank]];
        int direction = ACTIVATION;
        int32_t from = sender_stage(s, a, &direction);
        double start = run->time[rank];
        if (from >= 0) {
            double there = run->arrived[cell(s, from, a.microbatch) * DIRECTIONS + direction];
            if (there < 0)
                return;
            start = TR_MAX(start, there);
        }
        run->time[rank] = start + action_cost(run, a);
        if (run->start) {
            run->start[s->first[rank] + run->position[rank]] = start;
            run->end[s->first[rank] + run->position[rank]] = run->time[rank];
        }
        run->position[rank]++;
        send(run, a, run->time[rank]);
    }
}

/* Runs all ranks as far as they come. A rank is on the stack twice at most: from the beginning, and
 * because the one message it waits for was sent. */
static void run_all(runner *run)
{
    const tr_schedule *s = run->c->s;
    size_t cells = (size_t)s->stages * (size_t)s->microbatches;
    run->arrived = tr_alloc_zero(cells * DIRECTIONS, sizeof *run->arrived);
    for (size_t k = 0; k < cells * DIRECTIONS; k++)
        run->arrived[k] = -1;
    run->queue_free = tr_alloc_zero((size_t)run->c->queue_count + 1, sizeof *run->queue_free);
    run->time = tr_alloc_zero((size_t)s->ranks, sizeof *run->time);
    run->position = tr_alloc_zero((size_t)s->ranks, sizeof *run->position);
    run->ready = tr_alloc_zero(2 * (size_t)s->ranks, sizeof *run->ready);
    for (int32_t r = s->ranks; r-- > 0;)
        run->ready[run->ready_count++] = r;
    while (run->ready_count)
        advance(run, run->ready[--run->ready_count]);
}

static void runner_free(runner *run)
{
    free(run->arrived);
    free(run->queue_free);
    free(run->time);
    free(run->position);
    free(run->ready);
}

/* The rank for which `rank` waits, and the action of it that would help. */
static int32_t waits_for(const runner *run, int32_t rank, tr_action *out_waiting,
                         tr_action *out_needed)
{
    const tr_schedule *s = run->c->s;
    int64_t count;
    const tr_action *row = row_of(s, rank, &count);
    *out_waiting = row[run->position[rank]];
    int direction = ACTIVATION;
    int32_t stage = sender_stage(s, *out_waiting, &direction);
    TR_CHECK(stage >= 0, "rank %d waits for nothing at position %lld", rank,
             (long long)run->position[rank]);
    *out_needed = sender_action(run->c, stage, direction, out_waiting->microbatch);
    return s->rank_of_stage[stage];
}

static tr_error *deadlock(checker *c, const runner *run, int32_t rank)
{
    tr_action waiting, needed;
    /* After as many steps as there are ranks we are in the cycle; begin at its lowest rank. */
    for (int32_t k = 0; k < c->s->ranks; k++)
        rank = waits_for(run, rank, &waiting, &needed);
    int32_t lowest = rank, members = 0;
    for (int32_t r = rank; members == 0 || r != rank; members++) {
        lowest = TR_MIN(lowest, r);
        r = waits_for(run, r, &waiting, &needed);
    }
    tr_text text = {0};
    for (int32_t k = 0, r = lowest; k < TR_MIN(members, NAMED_RANKS); k++) {
        int32_t next = waits_for(run, r, &waiting, &needed);
        tr_text_format(&text, "%srank %d at position %lld (%s) waits for %s of rank %d",
                       k ? ", " : "", r, (long long)run->position[r], show(waiting).bytes,
                       show(needed).bytes, next);
        r = next;
    }
    if (members > NAMED_RANKS)
        tr_text_format(&text, ", and so on around %d ranks", members);
    waits_for(run, lowest, &waiting, &needed);
    tr_error *error = fault(c, TR_FAULT_DEADLOCK, lowest, -1, waiting, "deadlock: %s", text.bytes);
    c->report->position = run->position[lowest];
    tr_text_free(&text);
    return error;
}

static tr_error *check_progress(checker *c)
{
    tr_error *error = NULL;
    runner run = {.c = c};
    run_all(&run);
    for (int32_t r = 0; r < c->s->ranks && !error; r++)
        if (run.position[r] < c->s->first[r + 1] - c->s->first[r])
            error = deadlock(c, &run, r);
    runner_free(&run);
    return error;
}

/* ---- 7: memory ---- */

static int32_t live_bound(const tr_schedule_limits *limits, int32_t rank)
{
    int32_t bound = limits->live_of_rank ? limits->live_of_rank[rank] : 0;
    return !bound ? limits->live : limits->live && limits->live < bound ? limits->live : bound;
}

static tr_error *check_live(checker *c)
{
    const tr_schedule *s = c->s;
    tr_schedule_report *report = c->report;
    tr_error *error = NULL;
    report->live_peak = tr_alloc_zero((size_t)s->ranks, sizeof *report->live_peak);
    report->stage_live_peak = tr_alloc_zero((size_t)s->stages, sizeof *report->stage_live_peak);
    report->weight_peak = tr_alloc_zero((size_t)s->ranks, sizeof *report->weight_peak);
    report->activations_sent = tr_alloc_zero((size_t)s->ranks, sizeof *report->activations_sent);
    report->gradients_sent = tr_alloc_zero((size_t)s->ranks, sizeof *report->gradients_sent);
    int32_t *stage_live = tr_alloc_zero((size_t)s->stages, sizeof *stage_live);
    for (int32_t r = 0; r < s->ranks; r++) {
        int64_t count;
        const tr_action *row = row_of(s, r, &count);
        int32_t live = 0, waiting = 0, bound = live_bound(c->limits, r);
        for (int64_t i = 0; i < count; i++) {
            tr_action a = row[i];
            int change = a.kind == TR_ACTION_FORWARD ? 1 : a.kind == TR_ACTION_INPUT ? 0 : -1;
            live += change;
            stage_live[a.stage] += change;
            waiting += a.kind == TR_ACTION_INPUT ? 1 : a.kind == TR_ACTION_WEIGHT ? -1 : 0;
            report->live_peak[r] = TR_MAX(report->live_peak[r], live);
            report->stage_live_peak[a.stage] =
                TR_MAX(report->stage_live_peak[a.stage], stage_live[a.stage]);
            report->weight_peak[r] = TR_MAX(report->weight_peak[r], waiting);
            int direction = ACTIVATION;
            if (receiver_stage(s, a, &direction) >= 0)
                ++*(direction == ACTIVATION ? &report->activations_sent[r]
                                            : &report->gradients_sent[r]);
            if (bound && live > bound && !error)
                error = fault(
                    c, TR_FAULT_LIVE, r, i, a,
                    "it makes %d microbatches alive on the rank, of which %d may be; run a B or W "
                    "of an earlier one first",
                    live, bound);
        }
    }
    free(stage_live);
    return error;
}

/* ---- the public functions ---- */

static void checker_free(checker *c)
{
    free(c->forward);
    free(c->input);
    free(c->weight);
    free(c->queue);
}

static tr_error *check_all(checker *c)
{
    TR_TRY(check_sizes(c));
    TR_TRY(check_actions(c));
    TR_TRY(check_complete(c));
    TR_TRY(check_order(c));
    number_queues(c);
    TR_TRY(check_queues(c));
    TR_TRY(check_progress(c));
    return check_live(c);
}

static const tr_schedule_limits NO_LIMITS;

tr_error *tr_schedule_check(const tr_schedule *schedule, const tr_schedule_limits *limits,
                            tr_schedule_report *report)
{
    tr_schedule_report own;
    checker c = {
        .s = schedule, .limits = limits ? limits : &NO_LIMITS, .report = report ? report : &own};
    *c.report = (tr_schedule_report){.rank = -1, .position = -1};
    tr_error *error = check_all(&c);
    checker_free(&c);
    if (!report)
        tr_schedule_report_free(&own);
    return error;
}

void tr_schedule_report_free(tr_schedule_report *report)
{
    free(report->live_peak);
    free(report->stage_live_peak);
    free(report->weight_peak);
    free(report->activations_sent);
    free(report->gradients_sent);
    *report = (tr_schedule_report){.rank = -1, .position = -1};
}

static tr_error *check_costs(const tr_schedule *s, const tr_stage_cost *costs)
{
    for (int32_t stage = 0; stage < s->stages; stage++) {
        const tr_stage_cost *k = &costs[stage];
        const double all[] = {k->forward,  k->input,           k->weight,
                              k->backward, k->send_activation, k->send_gradient};
        for (int64_t i = 0; i < TR_COUNT(all); i++)
            if (!isfinite(all[i]) || all[i] < 0)
                return tr_error_new(TR_USER,
                                    "a cost of stage %d is %g; costs are finite and not negative",
                                    stage, all[i]);
    }
    return NULL;
}

tr_error *tr_schedule_simulate(const tr_schedule *schedule, const tr_stage_cost *costs,
                               tr_schedule_clock *out)
{
    const tr_schedule *s = schedule;
    *out = (tr_schedule_clock){0};
    tr_schedule_report report = {0};
    checker c = {.s = s, .limits = &NO_LIMITS, .report = &report};
    tr_error *error = NULL;
    TR_GO(check_all(&c));
    TR_GO(check_costs(s, costs));
    int64_t total = s->first[s->ranks];
    out->start = tr_alloc_zero((size_t)total, sizeof *out->start);
    out->end = tr_alloc_zero((size_t)total, sizeof *out->end);
    out->busy = tr_alloc_zero((size_t)s->ranks, sizeof *out->busy);
    out->idle_share = tr_alloc_zero((size_t)s->ranks, sizeof *out->idle_share);
    runner run = {.c = &c, .costs = costs, .start = out->start, .end = out->end};
    run_all(&run);
    double busy = 0;
    for (int32_t r = 0; r < s->ranks; r++) {
        out->makespan = TR_MAX(out->makespan, run.time[r]);
        for (int64_t i = s->first[r]; i < s->first[r + 1]; i++)
            out->busy[r] += action_cost(&run, s->actions[i]);
        busy += out->busy[r];
    }
    runner_free(&run);
    if (out->makespan > 0) {
        for (int32_t r = 0; r < s->ranks; r++)
            out->idle_share[r] = 1 - out->busy[r] / out->makespan;
        out->bubble = 1 - busy / (out->makespan * s->ranks);
    }
done:
    checker_free(&c);
    tr_schedule_report_free(&report);
    return error;
}

void tr_schedule_clock_free(tr_schedule_clock *clock)
{
    free(clock->start);
    free(clock->end);
    free(clock->busy);
    free(clock->idle_share);
    *clock = (tr_schedule_clock){0};
}
