/* Pass memory: where every value is, and the exact peak before anything runs.
 *
 * Lifetimes come from the final order: a buffer (a home and all that is written over it or views it) lives
 * from its first writer to its last reader. Offsets: buffers by falling size, each at the lowest offset
 * that is free for its whole lifetime. Cost O(n^2) in the number of buffers.
 *
 * With a pipeline a rank runs the phases of a stage apart, with other microbatches between. What lives from one
 * of them to the next is in the stage's slot, and so are messages, which others read and write meanwhile; all else
 * shares the arena.
 *
 * Invariant (tr_memory_verify): two buffers of one region that live at one time do not overlap. With several
 * microbatches FORWARD, BACKWARD and WEIGHT repeat, and no temporary crosses into or out of them.
 */
#include "ir/table.h"
#include "passes/passes.h"

enum { ALIGN = 64 };

typedef struct buffer {
    tr_value value; /* 0 for scratch */
    tr_node node;   /* scratch: whose */
    tr_node first, last;
    tr_node touched; /* the last that reads or writes it; an output's `last` is the end */
    int32_t stage;   /* in the slot of this stage; -1: in the arena */
    int64_t bytes, offset;
} buffer;

static int64_t aligned(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static tr_node *last_readers(const tr_graph *g, bool outputs)
{
    tr_node *last = tr_alloc_zero(g->n_values, sizeof *last);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            last[tr_value_root(g, tr_in(g, n, (int)i))] = n;
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++)
            last[tr_value_root(g, tr_out(g, n, (int)k))] = n;
    }
    for (uint32_t o = 0; o < g->n_outputs && outputs; o++)
        last[tr_value_root(g, g->outputs[o])] = g->n_nodes;
    return last;
}

/* Accumulators are cleared before the next step reads them: after its last reader one is as good as a temporary. */
static bool *find_cleared(const tr_graph *g)
{
    bool *cleared = tr_alloc_zero(g->n_values, sizeof *cleared);
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == TR_OP_clear)
            cleared[tr_value_root(g, tr_in(g, n, 0))] = true;
    return cleared;
}

void tr_graph_in_place(tr_graph *g, unsigned flags)
{
    tr_node *last = last_readers(g, true);
    bool *cleared = find_cleared(g);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if ((tr_op_table[g->nodes[n].op]->flags & flags) != flags)
            continue;
        tr_value x = tr_in(g, n, 0), y = tr_out(g, n, 0), root = tr_value_root(g, x);
        bool free = g->values[root].role == TR_TEMP || (cleared[root] && g->nodes[n].phase == TR_UPDATE);
        bool fits = free && g->values[y].home == y && last[root] == n &&
                    tr_shape_bytes(tr_shape_at(g, x)) == tr_shape_bytes(tr_shape_at(g, y)) &&
                    tr_shape_bytes(tr_shape_at(g, root)) == tr_shape_bytes(tr_shape_at(g, y));
        for (uint32_t i = 1; i < g->nodes[n].n_in && fits; i++)
            fits = tr_value_root(g, tr_in(g, n, (int)i)) != root;
        if (!fits)
            continue;
        last[root] = last[y];
        g->values[y].home = x;
    }
    free(cleared);
    free(last);
}

static int by_size(const void *a, const void *b)
{
    const buffer *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    return x->first != y->first ? (x->first < y->first ? -1 : 1) : x->value < y->value ? -1 : 1;
}

static int by_offset(const void *a, const void *b)
{
    const buffer *x = *(buffer *const *)a, *y = *(buffer *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static bool overlap_in_time(const buffer *a, const buffer *b)
{
    return a->stage == b->stage && a->first <= b->last && b->first <= a->last;
}

static bool of_stage(tr_phase phase)
{
    return phase == TR_FORWARD || phase == TR_BACKWARD || phase == TR_WEIGHT;
}

/* A value that outlives the action that makes it; outputs of stages are messages. */
static int32_t slot_of(const tr_graph *g, const buffer *b, bool pipeline)
{
    const tr_node_info *first = &g->nodes[b->first], *last = &g->nodes[b->touched];
    bool crosses = last->phase != first->phase || b->last > b->touched;
    return pipeline && of_stage(first->phase) && crosses ? first->stage : -1;
}

/* Messages may come as soon as the stage's forward begins. */
static tr_node first_of_stage(const tr_graph *g, int32_t stage)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (of_stage(g->nodes[n].phase) && g->nodes[n].stage == stage)
            return n;
    return 1;
}

static buffer *collect(const tr_graph *g, const int64_t *scratch_bytes, bool pipeline, uint32_t *out_count)
{
    tr_node *last = last_readers(g, true), *touched = last_readers(g, false);
    buffer *buffers = NULL;
    uint32_t count = 0, room = 0;
    for (tr_node n = 1; n < g->n_nodes; n++) {
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++) {
            tr_value v = tr_out(g, n, (int)k);
            if (g->values[v].home == v && g->values[v].role == TR_TEMP)
                tr_push(buffers, count, room) =
                    (buffer){.value = v, .first = n, .last = TR_MAX(last[v], n), .touched = TR_MAX(touched[v], n),
                             .bytes = aligned(tr_shape_bytes(tr_shape_at(g, v)))};
        }
        if (scratch_bytes[n] > 0)
            tr_push(buffers, count, room) =
                (buffer){.node = n, .first = n, .last = n, .touched = n, .bytes = aligned(scratch_bytes[n])};
    }
    for (uint32_t i = 0; i < count; i++)
        buffers[i].stage = slot_of(g, &buffers[i], pipeline);
    for (tr_value v = 1; v < g->n_values; v++)
        if (g->values[v].role == TR_MESSAGE) {
            tr_node first = first_of_stage(g, g->values[v].stage);
            tr_push(buffers, count, room) =
                (buffer){.value = v, .first = first, .last = touched[v] ? last[v] : g->n_nodes,
                         .touched = TR_MAX(touched[v], first),
                         .stage = g->values[v].stage, .bytes = aligned(tr_shape_bytes(tr_shape_at(g, v)))};
        }
    free(last);
    free(touched);
    *out_count = count;
    return buffers;
}

/* Lowest free offset in its region for each, larger ones first. Returns the region's size. */
static int64_t place(buffer *buffers, uint32_t count, int32_t stage)
{
    int64_t end = 0;
    buffer **near = tr_alloc((count + 1) * sizeof *near);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n_near = 0;
        if (buffers[i].stage != stage)
            continue;
        for (uint32_t j = 0; j < i; j++)
            if (overlap_in_time(&buffers[i], &buffers[j]))
                near[n_near++] = &buffers[j];
        qsort(near, n_near, sizeof(buffer *), by_offset);
        int64_t at = 0;
        for (uint32_t j = 0; j < n_near; j++) {
            if (near[j]->offset - at >= buffers[i].bytes)
                break;
            at = TR_MAX(at, near[j]->offset + near[j]->bytes);
        }
        buffers[i].offset = at;
        end = TR_MAX(end, at + buffers[i].bytes);
    }
    free(near);
    return end;
}

/* What is alive when the most is. */
static void account(const tr_graph *g, const buffer *buffers, uint32_t count, tr_memory *out)
{
    int64_t *live = tr_alloc_zero(g->n_nodes + 2, sizeof *live), now = 0, peak = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (buffers[i].stage >= 0)
            continue;
        live[buffers[i].first] += buffers[i].bytes;
        live[TR_MIN(buffers[i].last, g->n_nodes) + 1] -= buffers[i].bytes;
    }
    for (tr_node n = 1; n <= g->n_nodes; n++) {
        now += live[n];
        if (now > peak) {
            peak = now;
            out->peak_node = n;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        const buffer *b = &buffers[i];
        if (b->first > out->peak_node || b->last < out->peak_node || b->stage >= 0)
            continue;
        if (!b->value)
            out->scratch_bytes += b->bytes;
        else if (g->nodes[b->first].phase == TR_BACKWARD && b->last < g->n_nodes &&
                 g->nodes[b->last].phase == TR_UPDATE)
            out->grads_bytes += b->bytes;
        else
            out->activations_bytes += b->bytes;
    }
    free(live);
}

static tr_error *check_crossing(const tr_graph *g, const buffer *buffers, uint32_t count, int64_t micro_batches)
{
    for (uint32_t i = 0; i < count && micro_batches > 1; i++) {
        const buffer *b = &buffers[i];
        tr_phase from = g->nodes[b->first].phase, to = g->nodes[b->touched].phase;
        if (of_stage(from) != of_stage(to) || (!of_stage(from) && from != to))
            return tr_error_new(TR_RUN, "memory plan: value %u crosses from %d to %d with several microbatches",
                                b->value, from, to);
    }
    return NULL;
}

/* The slots of every stage, behind the arena. */
static void place_slots(buffer *buffers, uint32_t count, const tr_slots *slots, tr_memory *out)
{
    out->stages = slots->stages;
    out->slot_count = tr_alloc_zero((size_t)slots->stages, sizeof(int32_t));
    memcpy(out->slot_count, slots->count, (size_t)slots->stages * sizeof(int32_t));
    out->slot_offset = tr_alloc_zero((size_t)slots->stages, sizeof(int64_t));
    out->slot_bytes = tr_alloc_zero((size_t)slots->stages, sizeof(int64_t));
    for (int s = 0; s < slots->stages; s++) {
        out->slot_offset[s] = out->arena_bytes;
        if (slots->count[s] == 0)
            continue;
        out->slot_bytes[s] = place(buffers, count, s);
        out->arena_bytes += slots->count[s] * out->slot_bytes[s];
        out->activations_bytes += slots->count[s] * out->slot_bytes[s];
    }
}

tr_error *tr_pass_memory(tr_graph *g, const int64_t *scratch_bytes, int64_t micro_batches, const tr_slots *slots,
                         tr_memory *out)
{
    tr_graph_in_place(g, TR_OP_IN_PLACE);
    *out = (tr_memory){.offset = tr_alloc_zero(g->n_values, sizeof(int64_t)),
                       .scratch_offset = tr_alloc_zero(g->n_nodes, sizeof(int64_t))};
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        int64_t bytes = aligned(tr_shape_bytes(&info->shape));
        out->offset[v] = -1;
        if (info->role == TR_INPUT) {
            out->offset[v] = out->input_bytes;
            out->input_bytes += bytes;
        } else if (info->role == TR_PARAM || info->role == TR_STATE) {
            out->offset[v] = out->params_bytes + out->state_bytes;
            *(info->role == TR_PARAM ? &out->params_bytes : &out->state_bytes) += bytes;
        }
    }
    uint32_t count;
    buffer *buffers = collect(g, scratch_bytes, slots != NULL, &count);
    if (count > 0)
        qsort(buffers, count, sizeof *buffers, by_size);
    out->arena_bytes = place(buffers, count, -1);
    if (slots) {
        place_slots(buffers, count, slots, out);
        out->stage = tr_alloc(g->n_values * sizeof *out->stage);
        for (tr_value v = 0; v < g->n_values; v++)
            out->stage[v] = -1;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (buffers[i].value && slots)
            out->stage[buffers[i].value] = buffers[i].stage;
        if (buffers[i].value)
            out->offset[buffers[i].value] = buffers[i].offset;
        else
            out->scratch_offset[buffers[i].node] = buffers[i].offset;
    }
    account(g, buffers, count, out);
    tr_error *error = check_crossing(g, buffers, count, micro_batches);
    free(buffers);
    if (error)
        tr_memory_free(out);
    return error;
}

void tr_memory_free(tr_memory *memory)
{
    free(memory->offset);
    free(memory->scratch_offset);
    free(memory->stage);
    free(memory->slot_count);
    free(memory->slot_offset);
    free(memory->slot_bytes);
    *memory = (tr_memory){0};
}

tr_error *tr_memory_verify(const tr_graph *g, const tr_memory *memory, const int64_t *scratch_bytes,
                           int64_t micro_batches)
{
    uint32_t count;
    buffer *b = collect(g, scratch_bytes, memory->stage != NULL, &count);
    tr_error *error = check_crossing(g, b, count, micro_batches);
    for (uint32_t i = 0; i < count; i++)
        b[i].offset = b[i].value ? memory->offset[b[i].value] : memory->scratch_offset[b[i].node];
    for (uint32_t i = 0; i < count && !error; i++) {
        if (b[i].offset < 0 || b[i].offset + b[i].bytes > memory->arena_bytes)
            error = tr_error_new(TR_RUN, "memory plan: value %u lies outside of the arena", b[i].value);
        for (uint32_t j = 0; j < i && !error; j++)
            if (overlap_in_time(&b[i], &b[j]) && b[i].offset < b[j].offset + b[j].bytes &&
                b[j].offset < b[i].offset + b[i].bytes)
                error = tr_error_new(TR_RUN, "memory plan: values %u (node %u) and %u (node %u) overlap",
                                     b[i].value, b[i].first, b[j].value, b[j].first);
    }
    free(b);
    return error;
}
