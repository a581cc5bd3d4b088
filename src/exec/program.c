/* Programs: choosing kernels, binding memory, running; see program.h. */
#include "exec/program.h"
#include "exec/loss.h"

#include <omp.h>

#include "base/clock.h"
#include "base/random.h"
#include "exec/collective.h"
#include "ir/table.h"
#include "kernels/half.h"

static tr_tensor tensor_of(const tr_graph *g, tr_value v)
{
    tr_tensor t = {.rank = -1};
    if (!v)
        return t;
    const tr_shape *s = tr_shape_at(g, v);
    t.dtype = s->dtype;
    t.rank = s->rank;
    memcpy(t.dims, s->dims, sizeof t.dims);
    return t;
}

/* Where the op's first input sits in the whole tensor: meshes and microbatches cut it. */
static void set_extent(const tr_program *p, tr_instruction *i)
{
    const tr_graph *g = p->graph;
    tr_value v = tr_in(g, i->node, 0);
    if (!v)
        return;
    const tr_shape *s = tr_shape_at(g, v);
    const tr_layout *layout = g->values[v].layout;
    for (int d = 0; d < s->rank; d++) {
        bool batch = strcmp(g->dim_names[s->names[d]], "batch") == 0;
        int64_t whole = layout && !layout->flat ? layout->whole[d] : s->dims[d];
        i->origin[d] = layout && !layout->flat ? layout->origin[d] : 0;
        i->call.extent[d] = whole * (batch ? p->micro_batches : 1);
        i->call.turn[d] = layout && !layout->flat ? layout->turn[d] : 0;
        i->call.jump[d] = layout && !layout->flat ? layout->jump[d] : 0;
    }
}

static void set_origin(const tr_program *p, tr_instruction *i, int64_t micro)
{
    const tr_graph *g = p->graph;
    tr_value v = tr_in(g, i->node, 0);
    for (int d = 0; v && d < i->call.in[0].rank; d++) {
        bool batch = strcmp(g->dim_names[tr_shape_at(g, v)->names[d]], "batch") == 0;
        i->call.origin[d] = i->origin[d] + (batch ? micro * (i->call.extent[d] / p->micro_batches) : 0);
    }
}

static tr_error *build_instruction(tr_program *p, tr_node n, tr_instruction *i)
{
    const tr_graph *g = p->graph;
    const tr_node_info *node = &g->nodes[n];
    i->node = n;
    i->call = (tr_call){.op = node->op, .n_in = (int)node->n_in, .n_out = (int)node->n_out,
                        .in = tr_alloc_zero(node->n_in + node->n_out, sizeof(tr_tensor)), .attrs = node->attrs};
    i->call.out = i->call.in + node->n_in;
    for (uint32_t k = 0; k < node->n_in + node->n_out; k++)
        i->call.in[k] = tensor_of(g, k < node->n_in ? tr_in(g, n, (int)k) : tr_out(g, n, (int)(k - node->n_in)));
    set_extent(p, i);
    if (tr_op_table[node->op]->flags & (TR_OP_COLLECTIVE | TR_OP_WAIT))
        return NULL; /* no kernel, no scratch of the plan's */
    i->kernel = tr_call_has_half(&i->call) ? tr_kernel_half(&i->call, p->target.isa, p->target.reference)
                : p->target.reference      ? tr_kernel_reference(node->op)
                                           : tr_kernel_choose(&i->call, p->target.isa);
    TR_CHECK(i->kernel, "no kernel for node %u, op %s", n, tr_op_name(node->op));
    if (i->kernel->prepare)
        TR_TRY(tr_error_in_take(i->kernel->prepare(&i->call), "node %u (%s)", n, tr_op_name(node->op)));
    p->scratch_bytes[n] = (int64_t)i->call.scratch_bytes;
    return NULL;
}

/* Each wait knows its collective's instruction. */
static void pair_waits(tr_program *p)
{
    const tr_graph *g = p->graph;
    for (uint32_t w = 0; w < p->n_instructions; w++) {
        p->instructions[w].waits_at_once = true;
        if (!(tr_op_table[g->nodes[p->instructions[w].node].op]->flags & TR_OP_WAIT))
            continue;
        tr_node from = g->values[tr_in(g, p->instructions[w].node, 0)].node;
        uint32_t k = w;
        while (k > 0 && p->instructions[k].node != from)
            k--;
        TR_CHECK(p->instructions[k].node == from, "node %u waits for what nothing started", p->instructions[w].node);
        p->instructions[w].started_by = k;
        p->instructions[k].waits_at_once = false;
    }
}

tr_error *tr_program_build_take(tr_graph *g, const tr_target *target, int64_t micro_batches, tr_program **out)
{
    return tr_program_build_stages_take(g, target, micro_batches, NULL, out);
}

tr_error *tr_program_build_stages_take(tr_graph *g, const tr_target *target, int64_t micro_batches,
                                       const tr_slots *slots, tr_program **out)
{
    tr_error *error = NULL;
    tr_program *p = tr_alloc_zero(1, sizeof *p);
    p->graph = g;
    p->target = *target;
    p->micro_batches = micro_batches;
    p->scratch_bytes = tr_alloc_zero(g->n_nodes, sizeof(int64_t));
    p->instructions = tr_alloc_zero(g->n_nodes, sizeof *p->instructions);
    omp_set_num_threads(target->threads);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if (tr_op_table[g->nodes[n].op]->flags & TR_OP_VIEW)
            continue;
        TR_GO(build_instruction(p, n, &p->instructions[p->n_instructions++]));
    }
    pair_waits(p);
    TR_GO(tr_pass_memory(g, p->scratch_bytes, micro_batches, slots, &p->memory));
    if (slots)
        p->slot = tr_alloc_zero((size_t)slots->stages, sizeof *p->slot);
#ifndef NDEBUG
    TR_GO(tr_graph_verify(g));
    TR_GO(tr_memory_verify(g, &p->memory, p->scratch_bytes, micro_batches));
#endif
done:
    if (error) {
        tr_program_free(p);
        p = NULL;
    }
    *out = p;
    return error;
}

int64_t tr_program_peak_bytes(const tr_program *p)
{
    const tr_memory *m = &p->memory;
    return m->params_bytes + m->state_bytes + m->input_bytes + m->arena_bytes + p->comm_bytes;
}

int64_t tr_program_touched_bytes(const tr_program *p)
{
    const tr_memory *m = &p->memory;
    return tr_pages_touched(p->state, (size_t)(m->params_bytes + m->state_bytes)) +
           tr_pages_touched(p->inputs, (size_t)m->input_bytes) +
           (p->arena_borrowed ? 0 : tr_pages_touched(p->arena, (size_t)m->arena_bytes));
}

static void bind(const tr_program *p, tr_instruction *at)
{
    for (int k = 0; k < at->call.n_in; k++)
        if (at->call.in[k].rank >= 0)
            at->call.in[k].data = tr_program_data(p, tr_in(p->graph, at->node, k));
    for (int k = 0; k < at->call.n_out; k++)
        at->call.out[k].data = tr_program_data(p, tr_out(p->graph, at->node, k));
    if (at->call.scratch_bytes)
        at->call.scratch = p->arena + p->memory.scratch_offset[at->node];
}

static bool is_kept(const tr_program *p, tr_value v)
{
    return p->graph->values[v].role == TR_PARAM || p->graph->values[v].role == TR_STATE;
}

/* Takes owner's place for what has the same name, dtype and size, and packs the rest anew. */
static tr_error *borrow(tr_program *p, const tr_program *owner)
{
    tr_memory *m = &p->memory;
    p->borrowed = tr_alloc_zero(p->graph->n_values, sizeof(void *));
    m->params_bytes = m->state_bytes = 0;
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (!is_kept(p, v))
            continue;
        tr_value theirs = tr_graph_find(owner->graph, info->name);
        if (theirs && is_kept(owner, theirs)) {
            const tr_shape *s = tr_shape_at(owner->graph, theirs);
            if (s->dtype != info->shape.dtype || tr_shape_elems(s) != tr_shape_elems(&info->shape))
                return tr_error_new(TR_RUN, "%s has another shape in the program that owns it", info->name);
            p->borrowed[v] = tr_program_data(owner, theirs);
        } else {
            m->offset[v] = m->params_bytes + m->state_bytes;
            m->state_bytes += (tr_shape_bytes(&info->shape) + 63) / 64 * 64;
        }
    }
    p->arena_borrowed = owner->memory.arena_bytes >= m->arena_bytes;
    if (p->arena_borrowed)
        p->arena = owner->arena;
    return NULL;
}

tr_error *tr_program_allocate_beside(tr_program *p, const tr_program *owner)
{
    const tr_memory *m = &p->memory;
    if (owner)
        TR_TRY(borrow(p, owner));
    TR_TRY(tr_pages_map((size_t)(m->params_bytes + m->state_bytes), (void **)&p->state));
    TR_TRY(tr_pages_map((size_t)m->input_bytes, (void **)&p->inputs));
    if (!p->arena_borrowed)
        TR_TRY(tr_pages_map((size_t)m->arena_bytes, (void **)&p->arena));
    for (uint32_t i = 0; i < p->n_instructions; i++)
        bind(p, &p->instructions[i]);
    return NULL;
}

tr_error *tr_program_allocate(tr_program *p)
{
    return tr_program_allocate_beside(p, NULL);
}

void tr_program_free(tr_program *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n_instructions; i++) {
        tr_instruction *at = &p->instructions[i];
        if (at->kernel && at->kernel->release)
            at->kernel->release(&at->call);
        free(at->call.in);
    }
    tr_pages_unmap(p->state, (size_t)(p->memory.params_bytes + p->memory.state_bytes));
    tr_pages_unmap(p->inputs, (size_t)p->memory.input_bytes);
    if (!p->arena_borrowed)
        tr_pages_unmap(p->arena, (size_t)p->memory.arena_bytes);
    free(p->borrowed);
    tr_memory_free(&p->memory);
    tr_error_free(p->error);
    tr_loss_parts_free(p->losses, p->n_losses);
    tr_graph_free(p->graph);
    tr_graph_free(p->whole);
    free(p->slot);
    free(p->scratch_bytes);
    free(p->instructions);
    free(p);
}

void *tr_program_data(const tr_program *p, tr_value v)
{
    tr_value root = tr_value_root(p->graph, v);
    int64_t offset = p->memory.offset[root];
    if (p->borrowed && p->borrowed[root])
        return p->borrowed[root];
    switch (p->graph->values[root].role) {
    case TR_INPUT:
        return p->inputs + offset;
    case TR_PARAM:
    case TR_STATE:
        return p->state + offset;
    default:
        TR_CHECK(offset >= 0, "value %u has no place", v);
        if (p->memory.stage && p->memory.stage[root] >= 0) {
            int32_t s = p->memory.stage[root];
            offset += p->memory.slot_offset[s] + p->slot[s] * p->memory.slot_bytes[s];
        }
        return p->arena + offset;
    }
}

void *tr_program_find(const tr_program *p, const char *name)
{
    tr_value v = tr_graph_find(p->graph, name);
    TR_CHECK(v, "no value is called %s", name);
    return tr_program_data(p, v);
}

/* The low halves of a split master: of the parameter's elements [first, first + count). Under ZeRO a rank
 * has only those that it updates. */
typedef struct low_half {
    uint16_t *data;
    int64_t first, count;
} low_half;

static low_half find_low(const tr_program *p, tr_value param)
{
    low_half low = {0};
    const tr_value_info *info = &p->graph->values[param];
    if (info->shape.dtype != TR_BF16)
        return low;
    char *name = tr_format("low.%s", info->name);
    tr_value v = tr_graph_find(p->graph, name);
    free(name);
    if (!v)
        return low;
    const tr_layout *layout = p->graph->values[v].layout;
    bool part = layout && layout->flat && !(info->layout && info->layout->flat);
    return (low_half){tr_program_data(p, v), part ? layout->first : 0, tr_shape_elems(tr_shape_at(p->graph, v))};
}

void tr_program_get_f32(const tr_program *p, tr_value param, float *out)
{
    int64_t n = tr_shape_elems(tr_shape_at(p->graph, param));
    const void *data = tr_program_data(p, param);
    const uint16_t *high = data;
    low_half low = find_low(p, param);
    if (tr_shape_at(p->graph, param)->dtype == TR_F32) {
        memcpy(out, data, (size_t)n * 4);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i - low.first;
        out[i] = k >= 0 && k < low.count ? tr_join_f32(high[i], low.data[k]) : tr_bf16_to_f32(high[i]);
    }
}

static inline void store_param(void *data, const low_half *low, bool bf16, int64_t i, float value)
{
    uint16_t *high = data, lost;
    int64_t k = i - low->first;
    if (!bf16)
        ((float *)data)[i] = value;
    else if (low->data)
        tr_split_f32(value, &high[i], k >= 0 && k < low->count ? &low->data[k] : &lost);
    else
        high[i] = tr_f32_to_bf16(value);
}

void tr_program_set_f32(tr_program *p, tr_value param, const float *values)
{
    int64_t n = tr_shape_elems(tr_shape_at(p->graph, param));
    bool bf16 = tr_shape_at(p->graph, param)->dtype == TR_BF16;
    void *data = tr_program_data(p, param);
    low_half low = find_low(p, param);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        store_param(data, &low, bf16, i, values[i]);
}

void tr_program_init(tr_program *p, uint64_t seed)
{
    p->seed = seed;
    omp_set_num_threads(p->target.threads);
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (info->role != TR_PARAM || info->init.kind == TR_INIT_ZEROS)
            continue; /* fresh pages are zero */
        int64_t n = tr_shape_elems(&info->shape);
        void *data = tr_program_data(p, v);
        bool bf16 = info->shape.dtype == TR_BF16;
        low_half low = find_low(p, v);
        float scale = (float)info->init.scale;
        bool ones = info->init.kind == TR_INIT_ONES;
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < n; first += TR_NORMALS) {
            uint64_t index[TR_NORMALS];
            float x[TR_NORMALS];
            int64_t count = TR_MIN((int64_t)TR_NORMALS, n - first);
            for (int64_t k = 0; k < TR_NORMALS; k++) {
                int64_t i = first + TR_MIN(k, count - 1);
                index[k] = (uint64_t)(info->layout ? tr_layout_index(info->layout, i) : i);
            }
            if (!ones)
                tr_random_normals(seed, 0, info->stream, index, x);
            for (int64_t k = 0; k < count; k++)
                store_param(data, &low, bf16, first + k, ones ? 1 : scale * x[k]);
        }
    }
}

enum { TR_LANE_PROGRAM, TR_LANE_RANKS };

static void write_trace(tr_program *p, const tr_instruction *i, int lane, int64_t from, int64_t to)
{
    const tr_node_info *node = &p->graph->nodes[i->node];
    fprintf(p->trace,
            "%s{\"name\":\"%s\",\"ph\":\"X\",\"pid\":0,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
            "\"args\":{\"node\":%u,\"layer\":%d,\"kernel\":\"%s\"}}",
            p->trace_events++ ? ",\n" : "[\n", tr_op_name(node->op), lane, (double)from / 1e3,
            (double)(to - from) / 1e3, i->node, node->layer, i->kernel ? i->kernel->name : "ranks");
}

/* What the ranks did meanwhile is in a lane of its own. */
static tr_error *wait_for(tr_program *p, tr_instruction *started)
{
    int64_t over;
    tr_error *error = tr_comm_wait_timed(p->ranks->comm, &started->pending, &over);
    if (p->trace && !error)
        write_trace(p, started, TR_LANE_RANKS, started->started_ns, over);
    return error;
}

static void run_one(tr_program *p, tr_instruction *i)
{
    if (i->kernel) {
        i->kernel->run(&i->call);
    } else if (tr_op_table[i->call.op]->flags & TR_OP_WAIT) {
        p->error = wait_for(p, &p->instructions[i->started_by]);
    } else {
        tr_comm_next(p->ranks->comm, (tr_comm_hint){.at_once = i->waits_at_once});
        i->started_ns = p->trace ? tr_nanoseconds() : 0;
        i->pending = tr_collective_start(p->ranks, &i->call);
        if (i->waits_at_once)
            p->error = wait_for(p, i);
    }
}

/* After a failure nothing may stay started. */
static void drain(tr_program *p)
{
    for (uint32_t k = 0; k < p->n_instructions; k++)
        if (p->instructions[k].pending)
            tr_error_free(tr_comm_wait(p->ranks->comm, &p->instructions[k].pending));
}

tr_error *tr_program_error_take(tr_program *p)
{
    tr_error *error = p->error;
    p->error = NULL;
    return error;
}

static void run_timed(tr_program *p, tr_instruction *i)
{
    int64_t from = tr_nanoseconds();
    run_one(p, i);
    int64_t to = tr_nanoseconds();
    i->time_ns += to - from;
    i->runs++;
    if (p->trace)
        write_trace(p, i, TR_LANE_PROGRAM, from, to);
}

enum { EVERY_STAGE = -1 };

static void run(tr_program *p, tr_phase first, tr_phase last, int stage, uint32_t step, int64_t micro)
{
    TR_CHECK(p->state || p->arena || p->inputs, "the program has no memory yet");
    omp_set_num_threads(p->target.threads);
    for (uint32_t k = 0; k < p->n_instructions && !p->error; k++) {
        tr_instruction *i = &p->instructions[k];
        const tr_node_info *node = &p->graph->nodes[i->node];
        if (node->phase < first || node->phase > last || (stage != EVERY_STAGE && node->stage != stage))
            continue;
        /* a rank that only computes for long would not hear that another has died */
        if (p->ranks && (p->error = tr_comm_check(p->ranks->comm)))
            break;
        if (stage != EVERY_STAGE)
            bind(p, i);
        i->call.seed = p->seed;
        i->call.step = step;
        if (i->call.n_in)
            set_origin(p, i, micro);
        if (p->profile || p->trace)
            run_timed(p, i);
        else
            run_one(p, i);
    }
    if (p->error)
        drain(p);
}

void tr_program_run(tr_program *p, tr_phase first, tr_phase last, uint32_t step, int64_t micro)
{
    run(p, first, last, EVERY_STAGE, step, micro);
}

void tr_program_run_stage(tr_program *p, tr_phase first, tr_phase last, int stage, int32_t slot, uint32_t step,
                          int64_t micro)
{
    p->slot[stage] = slot;
    run(p, first, last, stage, step, micro);
}
