/* Time of a step from its plan; see simulate.h. */
#include "plan/simulate.h"


#include "base/clock.h"
#include "comm/comm.h"
#include "ir/table.h"
#include "train/trainer.h"

/* Flops decide where there are many for a byte, bytes elsewhere. */
static bool by_flops(const tr_cost *cost)
{
    enum { FLOPS_A_BYTE = 2 };
    return cost->flops > FLOPS_A_BYTE * cost->bytes;
}

/* Calibration -------------------------------------------------------------------------------------- */

static void take_rates(const tr_program *p, tr_rates *rates)
{
    double flops[TR_OP_COUNT] = {0}, bytes[TR_OP_COUNT] = {0}, seconds[TR_OP_COUNT] = {0};
    double all_bytes = 0, all_seconds = 0;
    for (uint32_t k = 0; k < p->n_instructions; k++) {
        const tr_instruction *i = &p->instructions[k];
        tr_op op = p->graph->nodes[i->node].op;
        tr_cost cost = tr_node_cost(p->graph, i->node);
        flops[op] += cost.flops * (double)i->runs;
        bytes[op] += cost.bytes * (double)i->runs;
        seconds[op] += (double)i->time_ns * 1e-9;
    }
    for (int op = 0; op < TR_OP_COUNT; op++) {
        tr_cost cost = {flops[op], bytes[op]};
        if (bytes[op] <= 0 || seconds[op] <= 0)
            continue;
        if (by_flops(&cost)) {
            rates->seconds_per_flop[op] = seconds[op] / flops[op];
        } else {
            rates->seconds_per_byte[op] = seconds[op] / bytes[op];
            all_bytes += bytes[op];
            all_seconds += seconds[op];
        }
    }
    rates->other_per_byte = all_bytes > 0 ? all_seconds / all_bytes : 0;
}

tr_error *tr_rates_measure_kernels(const tr_config *config, const tr_sizes *sizes, tr_model model, tr_rates *rates)
{
    enum { MOST_LAYERS = 2, STEPS = 2 };
    tr_config one = *config; /* the same, on one rank */
    tr_sizes few = *sizes;
    tr_program *p = NULL;
    one.mesh.data = one.mesh.tensor = one.mesh.sequence = one.mesh.pipeline = one.mesh.expert = 1;
    one.zero = 0;
    one.train.batch = one.train.micro_batch;
    few.layers = TR_MIN(few.layers, MOST_LAYERS);
    TR_TRY(tr_trainer_plan(&one, 0, &few, model, NULL, NULL, NULL, NULL, &p));
    tr_error *error = tr_program_allocate(p);
    for (uint32_t step = 0; step <= STEPS && !error; step++) { /* the first touches the pages */
        p->profile = step > 0;
        tr_batch_fill_random(p, step, tr_objectives[one.data.objective]);
        tr_program_run(p, TR_START, TR_UPDATE, step, 0);
    }
    if (!error)
        take_rates(p, rates);
    tr_program_free(p);
    return error;
}

typedef struct link {
    double bytes_per_s, latency_s;
} link;

static tr_error *exchange(tr_comm *comm, void *user)
{
    enum { ROUNDS = 6, COUNT = 1 << 21 };
    link *best = user;
    tr_group world = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    float *data = tr_alloc_zero(COUNT, sizeof *data);
    tr_error *error = NULL;
    for (int round = 0; round < ROUNDS && !error; round++) {
        double from = tr_seconds();
        error = tr_comm_all_reduce(comm, &world, TR_REDUCE_SUM, data, data, 1, TR_F32, TR_F32);
        double middle = tr_seconds();
        if (!error)
            error = tr_comm_all_reduce(comm, &world, TR_REDUCE_SUM, data, data, COUNT, TR_F32, TR_F32);
        double end = tr_seconds();
        if (tr_comm_rank(comm) != 0 || round == 0) /* the first warms up */
            continue;
        double latency = (middle - from) / 2, speed = (double)COUNT * 4 / (end - middle); /* half of it, twice */
        best->latency_s = round == 1 ? latency : TR_MIN(best->latency_s, latency);
        best->bytes_per_s = TR_MAX(best->bytes_per_s, speed);
    }
    free(data);
    tr_group_free(&world);
    return error;
}

tr_error *tr_rates_measure_link(tr_rates *rates)
{
    link best = {0};
    TR_TRY(tr_world_run_threads(2, NULL, exchange, &best));
    rates->link_bytes_per_s = best.bytes_per_s;
    rates->link_latency_s = best.latency_s;
    return NULL;
}

/* Estimates ---------------------------------------------------------------------------------------- */

static double kernel_seconds(const tr_graph *g, tr_node n, const tr_rates *rates)
{
    tr_op op = g->nodes[n].op;
    tr_cost cost = tr_node_cost(g, n);
    if (tr_op_table[op]->flags & (TR_OP_VIEW | TR_OP_WAIT))
        return 0;
    if (rates->seconds_per_flop[op] > 0)
        return cost.flops * rates->seconds_per_flop[op];
    return cost.bytes * (rates->seconds_per_byte[op] > 0 ? rates->seconds_per_byte[op] : rates->other_per_byte);
}

/* Ranks of a collective, from its axis. */
static int64_t members_of(const tr_config *c, const tr_graph *g, tr_node n)
{
    int64_t axis = g->nodes[n].attrs[TR_COLLECTIVE_AXIS].i;
    int64_t members = g->nodes[n].op == TR_OP_all_reduce ? g->nodes[n].attrs[TR_REDUCE_MEMBERS].i : 0;
    tr_sharding sharding = tr_config_sharding(c, 0);
    if (axis == TR_AXIS_PIPELINE)
        return members ? __builtin_popcountll((unsigned long long)members) : c->mesh.pipeline;
    return sharding.axes[axis].size;
}

static double collective_seconds(const tr_config *c, const tr_graph *g, tr_node n, const tr_rates *rates)
{
    double ranks = (double)members_of(c, g, n);
    bool reduces = g->nodes[n].op == TR_OP_all_reduce;
    double bytes = (double)TR_MAX(tr_shape_bytes(tr_shape_at(g, tr_in(g, n, 0))), tr_shape_bytes(tr_shape_at(g, tr_out(g, n, 0))));
    double times = reduces ? 2 : 1;
    if (g->nodes[n].op == TR_OP_ring_shift) /* one message, of all of it */
        return bytes / rates->link_bytes_per_s + rates->link_latency_s;
    return times * (ranks - 1) * (bytes / ranks / rates->link_bytes_per_s + rates->link_latency_s);
}

/* A rank's clocks, and what they have counted. */
typedef struct clocks {
    double now, link;
    double compute, communication;
    double *over; /* by node: when a collective is over */
    bool *has_wait;
} clocks;

static clocks clocks_new(const tr_graph *g)
{
    clocks k = {.over = tr_alloc_zero(g->n_nodes, sizeof *k.over), .has_wait = tr_alloc_zero(g->n_nodes, sizeof *k.has_wait)};
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (tr_op_table[g->nodes[n].op]->flags & TR_OP_WAIT)
            k.has_wait[g->values[tr_in(g, n, 0)].node] = true;
    return k;
}

static void clocks_free(clocks *k)
{
    free(k->over);
    free(k->has_wait);
}

static void tick(const tr_config *c, const tr_graph *g, tr_node n, const tr_rates *rates, clocks *k)
{
    unsigned flags = tr_op_table[g->nodes[n].op]->flags;
    if (flags & TR_OP_WAIT) {
        k->now = TR_MAX(k->now, k->over[g->values[tr_in(g, n, 0)].node]);
    } else if (flags & TR_OP_COLLECTIVE) {
        double seconds = collective_seconds(c, g, n, rates);
        k->over[n] = k->link = TR_MAX(k->now, k->link) + seconds;
        k->communication += seconds;
        if (!k->has_wait[n])
            k->now = k->link;
    } else {
        double seconds = kernel_seconds(g, n, rates);
        k->now += seconds;
        k->compute += seconds;
    }
}

/* The nodes of some phases, of one stage or (-1) of all, in their order. */
static void run(const tr_config *c, const tr_graph *g, const tr_rates *rates, tr_phase first, tr_phase last, int stage,
                clocks *k)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].phase >= first && g->nodes[n].phase <= last && (stage < 0 || g->nodes[n].stage == stage))
            tick(c, g, n, rates, k);
}

/* What an action of a stage takes. The plan has this rank's stages with their waits; of the others, which it has as one
 * graph without waits, as large a share is hidden as of this rank's in the same phase. */
static double action(const tr_config *c, const tr_program *p, const tr_rates *rates, tr_phase phase, int stage,
                     clocks *all)
{
    clocks own = clocks_new(p->graph), whole = clocks_new(p->whole);
    run(c, p->graph, rates, phase, phase, -1, &own);
    run(c, p->whole, rates, phase, phase, stage, &whole);
    double exposed = TR_MAX(own.now - own.compute, 0);
    double share = own.communication > 0 ? exposed / own.communication : 1;
    double seconds = whole.compute + whole.communication * share;
    all->compute += whole.compute;
    all->communication += whole.communication;
    all->now += seconds;
    clocks_free(&own);
    clocks_free(&whole);
    return seconds;
}

static tr_error *simulate_pipeline(const tr_config *c, const tr_program *p, const tr_rates *rates, tr_step_time *out)
{
    tr_config_stages stages;
    tr_schedule_clock times;
    TR_TRY(tr_config_pipeline(c, 0, &stages));
    const tr_schedule *s = stages.schedule;
    tr_stage_cost *costs = tr_alloc_zero((size_t)s->stages, sizeof *costs);
    tr_pipeline_costs(p->whole, s->stages, 1, 1, rates->link_bytes_per_s, costs); /* for what is sent */
    clocks worst = {0};
    for (int i = 0; i < s->stages; i++) {
        clocks stage = {0};
        costs[i].forward = action(c, p, rates, TR_FORWARD, i, &stage);
        costs[i].input = action(c, p, rates, TR_BACKWARD, i, &stage);
        costs[i].weight = action(c, p, rates, TR_WEIGHT, i, &stage);
        costs[i].backward = costs[i].input + costs[i].weight;
        costs[i].send_activation += rates->link_latency_s;
        costs[i].send_gradient += rates->link_latency_s;
        if (stage.communication >= worst.communication)
            worst = stage;
    }
    tr_error *error = tr_schedule_simulate(s, costs, &times);
    if (!error) {
        double busy = 0, exposed = (worst.now - worst.compute) * (double)s->microbatches;
        for (int r = 0; r < s->ranks; r++)
            busy = TR_MAX(busy, times.busy[r]);
        *out = (tr_step_time){.seconds = times.makespan, .compute = busy - exposed, .exposed = exposed,
                              .communication = worst.communication * (double)s->microbatches, .bubble = times.bubble};
        tr_schedule_clock_free(&times);
    }
    free(costs);
    tr_config_pipeline_free(&stages);
    return error;
}

tr_error *tr_simulate_step(const tr_config *c, const tr_program *p, const tr_rates *rates, tr_step_time *out)
{
    clocks k = clocks_new(p->graph);
    tr_error *error = NULL;
    *out = (tr_step_time){0};
    run(c, p->graph, rates, TR_START, TR_START, -1, &k);
    if (p->whole) { /* once a step: on every stage at the same time, so this rank's are taken for all */
        error = simulate_pipeline(c, p, rates, out);
        run(c, p->graph, rates, TR_UPDATE, TR_UPDATE, -1, &k);
    }
    for (int64_t micro = 0; micro < p->micro_batches && !p->whole; micro++)
        run(c, p->graph, rates, TR_FORWARD, micro + 1 < p->micro_batches ? TR_WEIGHT : TR_UPDATE, -1, &k);
    out->seconds += k.now;
    out->compute += k.compute;
    out->communication += k.communication;
    out->exposed += TR_MAX(k.now - k.compute, 0);
    clocks_free(&k);
    return error;
}
