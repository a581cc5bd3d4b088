/* Running a pipeline schedule; see pipeline.h. */
#include "exec/pipeline.h"

#include "comm/comm.h"

typedef struct messages {
    tr_value *values;
    int count;
    int32_t peer; /* rank of the world; -1: no such stage */
} messages;

enum { FORWARD, BACKWARD, DIRECTIONS };
enum { RECEIVED_FORWARD, RECEIVED_BACKWARD, SENT, KINDS };

/* One place for a microbatch in a stage. */
typedef struct slot {
    int32_t micro; /* -1: free */
    tr_pending **pending[KINDS];
    int count[KINDS];
} slot;

typedef struct stage {
    bool mine;
    messages in[DIRECTIONS], out[DIRECTIONS];
    int32_t slots;
    slot *slot;
} stage;

struct tr_pipeline {
    tr_program *program;
    tr_comm *comm;
    const tr_schedule *schedule;
    int place;
    stage *stages; /* [schedule->stages] */
};

static const char LETTERS[DIRECTIONS] = {'F', 'B'};

static int32_t rank_at(const tr_program *p, const tr_schedule *s, int axis, int stage)
{
    return stage < 0 || stage >= s->stages ? -1 : p->ranks->axis[axis].ranks[s->rank_of_stage[stage]];
}

static void find_messages(const tr_pipeline *l, int axis, int s)
{
    stage *at = &l->stages[s];
    for (int d = 0; d < DIRECTIONS; d++) {
        int from = d == FORWARD ? s - 1 : s + 1, to = d == FORWARD ? s + 1 : s - 1;
        at->in[d].count = tr_pipeline_messages(l->program->graph, false, LETTERS[d], s, &at->in[d].values);
        at->out[d].count = tr_pipeline_messages(l->program->graph, true, LETTERS[d], s, &at->out[d].values);
        at->in[d].peer = rank_at(l->program, l->schedule, axis, from);
        at->out[d].peer = rank_at(l->program, l->schedule, axis, to);
    }
}

tr_error *tr_pipeline_new(tr_program *program, const tr_schedule *schedule, int axis, tr_pipeline **out)
{
    tr_pipeline *l = tr_alloc_zero(1, sizeof *l);
    *l = (tr_pipeline){.program = program, .comm = program->ranks->comm, .schedule = schedule,
                       .place = program->ranks->axis[axis].me,
                       .stages = tr_alloc_zero((size_t)schedule->stages, sizeof(stage))};
    for (int s = 0; s < schedule->stages; s++) {
        stage *at = &l->stages[s];
        at->mine = schedule->rank_of_stage[s] == l->place;
        if (!at->mine)
            continue;
        find_messages(l, axis, s);
        const tr_memory *m = &program->memory;
        at->slots = m->slot_count[s];
        at->slot = tr_alloc_zero((size_t)at->slots, sizeof *at->slot);
        for (int32_t k = 0; k < at->slots; k++) {
            at->slot[k].micro = -1;
            at->slot[k].pending[RECEIVED_FORWARD] = tr_alloc_zero((size_t)at->in[FORWARD].count + 1, sizeof(tr_pending *));
            at->slot[k].pending[RECEIVED_BACKWARD] = tr_alloc_zero((size_t)at->in[BACKWARD].count + 1, sizeof(tr_pending *));
            at->slot[k].pending[SENT] =
                tr_alloc_zero((size_t)(at->out[FORWARD].count + at->out[BACKWARD].count) + 1, sizeof(tr_pending *));
        }
    }
    *out = l;
    return NULL;
}

void tr_pipeline_free(tr_pipeline *l)
{
    if (!l)
        return;
    for (int s = 0; s < l->schedule->stages; s++) {
        stage *at = &l->stages[s];
        for (int d = 0; d < DIRECTIONS; d++) {
            free(at->in[d].values);
            free(at->out[d].values);
        }
        for (int32_t k = 0; k < at->slots; k++)
            for (int kind = 0; kind < KINDS; kind++)
                free(at->slot[k].pending[kind]);
        free(at->slot);
    }
    free(l->stages);
    free(l);
}

/* Messages ----------------------------------------------------------------------------------------- */

/* Both sides know the receiving stage, the direction, the microbatch and the number. */
static int64_t tag_of(const tr_pipeline *l, int receiver, int direction, int32_t micro, int k)
{
    enum { MOST_MESSAGES = 64 };
    int64_t tag = (((int64_t)micro * l->schedule->stages + receiver) * DIRECTIONS + direction) * MOST_MESSAGES + k;
    return tag & INT32_MAX;
}

static void *message_data(const tr_pipeline *l, int s, int32_t k, tr_value v)
{
    l->program->slot[s] = k;
    return tr_program_data(l->program, v);
}

static void start_receives(tr_pipeline *l, int s, int32_t k, int direction)
{
    stage *at = &l->stages[s];
    slot *to = &at->slot[k];
    int kind = direction == FORWARD ? RECEIVED_FORWARD : RECEIVED_BACKWARD;
    for (int i = 0; i < at->in[direction].count; i++) {
        tr_value v = at->in[direction].values[i];
        const tr_shape *shape = tr_shape_at(l->program->graph, v);
        to->pending[kind][i] =
            tr_comm_receive_start(l->comm, at->in[direction].peer, tag_of(l, s, direction, to->micro, i),
                                  message_data(l, s, k, v), tr_shape_elems(shape), shape->dtype);
    }
    to->count[kind] = at->in[direction].count;
}

static void start_sends(tr_pipeline *l, int s, int32_t k, int direction)
{
    stage *at = &l->stages[s];
    slot *from = &at->slot[k];
    int receiver = direction == FORWARD ? s + 1 : s - 1;
    for (int i = 0; i < at->out[direction].count; i++) {
        tr_value v = at->out[direction].values[i];
        const tr_shape *shape = tr_shape_at(l->program->graph, v);
        from->pending[SENT][from->count[SENT]++] =
            tr_comm_send_start(l->comm, at->out[direction].peer, tag_of(l, receiver, direction, from->micro, i),
                               message_data(l, s, k, v), tr_shape_elems(shape), shape->dtype);
    }
}

/* All are waited for, also after one has failed. */
static tr_error *wait_for(tr_pipeline *l, slot *at, int kind)
{
    tr_error *error = NULL;
    for (int i = 0; i < at->count[kind]; i++) {
        tr_error *one = tr_comm_wait(l->comm, &at->pending[kind][i]);
        if (error)
            tr_error_free(one);
        else
            error = one;
    }
    at->count[kind] = 0;
    return error;
}

/* Slots -------------------------------------------------------------------------------------------- */

static int32_t find_slot(const stage *at, int32_t micro)
{
    for (int32_t k = 0; k < at->slots; k++)
        if (at->slot[k].micro == micro)
            return k;
    return -1;
}

/* A place for a microbatch whose activations may come from now on; -1: all are taken. */
static int32_t reserve(tr_pipeline *l, int s, int32_t micro)
{
    stage *at = &l->stages[s];
    int32_t k = find_slot(at, micro);
    if (k >= 0)
        return k;
    k = find_slot(at, -1);
    if (k < 0)
        return -1;
    at->slot[k].micro = micro;
    start_receives(l, s, k, FORWARD);
    return k;
}

static tr_error *release(tr_pipeline *l, int s, int32_t k)
{
    tr_error *error = wait_for(l, &l->stages[s].slot[k], SENT);
    l->stages[s].slot[k].micro = -1;
    return error;
}

/* The next forward of the row gets its place before its turn, if there is one. */
static void look_ahead(tr_pipeline *l, int64_t at, int64_t end)
{
    for (; at < end; at++) {
        const tr_action *next = &l->schedule->actions[at];
        if (next->kind == TR_ACTION_FORWARD) {
            reserve(l, next->stage, next->microbatch);
            return;
        }
    }
}

/* Actions ------------------------------------------------------------------------------------------ */

static tr_error *run_nodes(tr_pipeline *l, tr_phase first, tr_phase last, int s, int32_t k, uint32_t step, int32_t micro)
{
    tr_program_run_stage(l->program, first, last, s, k, step, micro);
    return tr_program_error_take(l->program);
}

static tr_error *forward(tr_pipeline *l, int s, uint32_t step, int32_t micro, tr_fill fill, void *context)
{
    int32_t k = reserve(l, s, micro);
    TR_CHECK(k >= 0, "stage %d has no slot for microbatch %d", s, micro);
    TR_TRY(wait_for(l, &l->stages[s].slot[k], RECEIVED_FORWARD));
    TR_TRY(fill(context, micro));
    TR_TRY(run_nodes(l, TR_FORWARD, TR_FORWARD, s, k, step, micro));
    start_sends(l, s, k, FORWARD);
    start_receives(l, s, k, BACKWARD);
    return NULL;
}

static tr_error *backward(tr_pipeline *l, int s, uint32_t step, int32_t micro, bool weights, tr_fill fill, void *context)
{
    int32_t k = find_slot(&l->stages[s], micro);
    TR_CHECK(k >= 0, "stage %d does not hold microbatch %d", s, micro);
    TR_TRY(wait_for(l, &l->stages[s].slot[k], RECEIVED_BACKWARD));
    TR_TRY(fill(context, micro));
    TR_TRY(run_nodes(l, TR_BACKWARD, TR_BACKWARD, s, k, step, micro));
    start_sends(l, s, k, BACKWARD);
    if (!weights)
        return NULL;
    TR_TRY(run_nodes(l, TR_WEIGHT, TR_WEIGHT, s, k, step, micro));
    return release(l, s, k);
}

static tr_error *weight(tr_pipeline *l, int s, uint32_t step, int32_t micro, tr_fill fill, void *context)
{
    int32_t k = find_slot(&l->stages[s], micro);
    TR_CHECK(k >= 0, "stage %d does not hold microbatch %d", s, micro);
    TR_TRY(fill(context, micro));
    TR_TRY(run_nodes(l, TR_WEIGHT, TR_WEIGHT, s, k, step, micro));
    return release(l, s, k);
}

static tr_error *act(tr_pipeline *l, const tr_action *a, uint32_t step, tr_fill fill, void *context)
{
    switch (a->kind) {
    case TR_ACTION_FORWARD:
        return forward(l, a->stage, step, a->microbatch, fill, context);
    case TR_ACTION_INPUT:
        return backward(l, a->stage, step, a->microbatch, false, fill, context);
    case TR_ACTION_BACKWARD:
        return backward(l, a->stage, step, a->microbatch, true, fill, context);
    case TR_ACTION_WEIGHT:
        return weight(l, a->stage, step, a->microbatch, fill, context);
    }
    return NULL;
}

/* After a failure nothing may stay started. */
static void drain(tr_pipeline *l)
{
    for (int s = 0; s < l->schedule->stages; s++)
        for (int32_t k = 0; k < l->stages[s].slots; k++) {
            for (int kind = 0; kind < KINDS; kind++)
                tr_error_free(wait_for(l, &l->stages[s].slot[k], kind));
            l->stages[s].slot[k].micro = -1;
        }
}

/* The first error, after everybody was told of it, so that the waits end. */
static tr_error *fail_take(tr_pipeline *l, tr_error *error)
{
    if (error) {
        tr_comm_fail(l->comm, tr_error_text(error));
        drain(l);
    }
    return error;
}

tr_error *tr_pipeline_run(tr_pipeline *l, uint32_t step, tr_fill fill, void *context)
{
    tr_error *error = NULL;
    int64_t end = l->schedule->first[l->place + 1];
    for (int64_t i = l->schedule->first[l->place]; i < end && !error; i++) {
        error = act(l, &l->schedule->actions[i], step, fill, context);
        if (!error)
            look_ahead(l, i + 1, end);
    }
    return fail_take(l, error);
}

tr_error *tr_pipeline_forward(tr_pipeline *l, tr_fill fill, void *context, int64_t micro)
{
    tr_error *error = NULL;
    for (int s = 0; s < l->schedule->stages && !error; s++)
        if (l->stages[s].mine) {
            error = forward(l, s, 0, (int32_t)micro, fill, context);
            if (!error)
                error = release(l, s, find_slot(&l->stages[s], (int32_t)micro));
        }
    return fail_take(l, error);
}
