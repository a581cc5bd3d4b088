/* The compiler's main: see passes/passes.h for what each pass does. */
#include "exec/compile.h"

#include "base/suggest.h"
#include "exec/collective.h"
#include "exec/loss.h"
#include "ir/table.h"
#include "ir/text.h"

static const char *const pass_names[] = {"model", "rooms", "autodiff", "update", "shard", "cut", "together", "recompute", "once", "cache", "fuse", "order", "bucket", "overlap"};

/* Between two passes: the log, the dump, the verifier. */
static tr_error *after(const char *pass, const tr_graph *g, const tr_compile *how)
{
    if (how->log && how->log->count < TR_MAX_PASSES) {
        how->log->name[how->log->count] = pass;
        how->log->nodes[how->log->count++] = g->n_nodes - 1;
    }
    if (how->dump_after && strcmp(how->dump_after, pass) == 0)
        tr_graph_print(g, how->dump);
#ifndef NDEBUG
    TR_TRY(tr_error_in_take(tr_graph_verify(g), "after pass %s", pass));
#endif
    return NULL;
}

static tr_error *check_dump(const tr_compile *how)
{
    if (!how->dump_after)
        return NULL;
    for (int i = 0; i < TR_COUNT(pass_names); i++)
        if (strcmp(how->dump_after, pass_names[i]) == 0)
            return NULL;
    const char *near = tr_suggest(how->dump_after, pass_names, TR_COUNT(pass_names));
    return tr_error_new(TR_USER, "--dump-after=%s: there is no such pass; the passes are model, rooms, autodiff, update, "
                                 "shard, cut, together, recompute, once, cache, fuse, order, bucket, overlap%s%s",
                        how->dump_after, near ? "; did you mean " : "", near ? near : "");
}

static tr_error *rooms(tr_graph *g, const tr_compile *how)
{
    const tr_sharding *s = how->sharding;
    for (int i = 0; s && i < s->n_leaves; i++)
        if (strcmp(s->leaves[i].dim, "expert") == 0 && s->axes[s->leaves[i].axis].size > 1)
            return NULL;
    tr_pass_rooms(g);
    return after("rooms", g, how);
}

static tr_error *shard(tr_graph **graph, const tr_compile *how)
{
    if (!how->sharding)
        return NULL;
    TR_TRY(tr_pass_shard(graph, how->sharding));
    return after("shard", *graph, how);
}

/* Replaces the graph by that of this rank's stages, and leaves the whole to the caller. */
static tr_error *cut(tr_graph **graph, const tr_compile *how, tr_graph **out_whole)
{
    const tr_stages *s = how->stages;
    tr_graph *mine;
    *out_whole = NULL;
    if (!s)
        return NULL;
    TR_TRY(tr_pass_cut(*graph, s->schedule, s->place, s->axis, &mine));
    *out_whole = *graph;
    *graph = mine;
    return after("cut", mine, how);
}

static tr_error *together(tr_graph *g, const tr_compile *how)
{
    tr_pass_together(g);
    return after("together", g, how);
}

/* What collectives may hold for themselves at once: of each axis as many as move at the same time. */
static int64_t comm_bytes(const tr_program *p, const tr_compile *how)
{
    struct {
        int64_t most, count;
    } axes[TR_MAX_AXES] = {0};
    int32_t ranks;
    bool processes = tr_mpi_launched(&ranks);
    int64_t bytes = 0;
    for (uint32_t i = 0; i < p->n_instructions && how->sharding; i++) {
        const tr_call *call = &p->instructions[i].call;
        if (!(tr_op_table[call->op]->flags & TR_OP_COLLECTIVE))
            continue;
        int64_t a = call->attrs[TR_COLLECTIVE_AXIS].i;
        int size = a < how->sharding->n_axes ? how->sharding->axes[a].size : how->stages ? how->stages->schedule->ranks : 1;
        int64_t own = tr_collective_scratch(call, size, processes);
        axes[a].most = TR_MAX(axes[a].most, own);
        axes[a].count += own > 0;
    }
    for (int a = 0; a < TR_MAX_AXES; a++)
        bytes += axes[a].most * TR_MIN(axes[a].count, how->overlap.on ? TR_COMM_AT_ONCE : 1);
    return bytes;
}

/* Consumes both graphs. live: microbatches alive at once in a stage; 0: as the schedule says. */
static tr_error *build_take(tr_graph *g, tr_graph *whole, const tr_compile *how, int64_t micro_batches, int32_t live,
                            tr_program **out)
{
    const tr_stages *s = how->stages;
    tr_error *error;
    *out = NULL;
    if (s) {
        int32_t *count = tr_alloc_zero((size_t)s->schedule->stages, sizeof *count);
        for (int i = 0; i < s->schedule->stages; i++)
            if (s->schedule->rank_of_stage[i] == s->place)
                count[i] = live ? live : s->live[i];
        error = tr_program_build_stages_take(g, &how->target, micro_batches, &(tr_slots){s->schedule->stages, count}, out);
        free(count);
    } else {
        error = tr_program_build_take(g, &how->target, micro_batches, out);
    }
    if (*out) {
        (*out)->whole = whole;
        (*out)->comm_bytes = comm_bytes(*out, how);
    } else {
        tr_graph_free(whole);
    }
    return error;
}

/* What is done about collectives once the order is final. */
static tr_error *overlap(tr_graph *g, const tr_compile *how, int64_t micro_batches)
{
    tr_overlap with = how->overlap;
    with.apart = how->stages != NULL;
    with.repeats = micro_batches > 1;
    if (!how->sharding)
        return NULL;
    if (how->bucket_bytes > 0) {
        TR_TRY(tr_pass_bucket(g, how->sharding->zero_axis, how->bucket_bytes));
        TR_TRY(after("bucket", g, how));
    }
    if (!with.on)
        return NULL;
    TR_TRY(tr_pass_overlap(g, &with));
    return after("overlap", g, how);
}

static tr_graph *forward(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how)
{
    tr_graph *g = tr_graph_new("model", how->compute);
    tr_sizes own = *sizes;
    own.batch = how->batch;
    own.seq = how->seq;
    own.decoder_seq = how->decoder_seq;
    model(g, &own, user);
    if (!g->error && !g->n_heads)
        tr_graph_fail(g, tr_error_new(TR_USER, "the model function added no head: it must end with tr_head_add"));
    return g;
}

/* Gradients as outputs, by the name of their parameter. */
static void keep_gradients(tr_graph *g, const tr_value *grads, uint32_t count)
{
    for (tr_value v = 1; v < count; v++)
        if (grads[v]) {
            char *name = tr_format("d.%s", g->values[v].name);
            tr_graph_output(g, name, grads[v]);
            free(name);
        }
}

tr_error *tr_compile_training(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                              tr_program **out)
{
    tr_error *error = NULL;
    tr_value *grads = NULL;
    uint32_t n_grads = 0;
    uint64_t whole_hash;
    tr_value sum, count;
    tr_loss_part *parts = NULL;
    int n_parts = 0;
    tr_update update = how->update;
    tr_graph *whole = NULL;
    update.pipeline = how->stages != NULL;
    *out = NULL;
    TR_TRY(check_dump(how));
    tr_graph *g = forward(model, sizes, user, how);
    parts = tr_loss_parts(g, &n_parts);
    tr_loss_training(g, &sum, &count);
    TR_GO(tr_graph_error_take(g));
    if (how->stages)
        TR_GO(tr_pass_stages(g, how->stages->schedule->stages));
    TR_GO(after("model", g, how));
    TR_GO(rooms(g, how));
    if (update.scaled)
        update.seed = tr_graph_leaf(g, TR_INPUT, "loss_scale", (tr_shape){.dtype = TR_F32, .rank = 1, .dims = {1}}, (tr_init){0});
    TR_GO(tr_pass_autodiff(g, sum, update.seed, &grads, &n_grads));
    TR_GO(after("autodiff", g, how));
    if (how->keep_gradients)
        keep_gradients(g, grads, n_grads);
    TR_GO(tr_pass_update(g, sum, count, grads, n_grads, &update));
    if (how->stages)
        TR_GO(tr_pass_order(g)); /* sums over stages that update took apart are dead */
    if (how->stages && tr_schedule_splits(how->stages->schedule))
        tr_pass_weight(g);
    TR_GO(after("update", g, how));
    whole_hash = tr_graph_hash(g);
    TR_GO(shard(&g, how));
    TR_GO(cut(&g, how, &whole));
    TR_GO(together(g, how));
    TR_GO(tr_pass_recompute(g, how->recompute));
    TR_GO(after("recompute", g, how));
    TR_GO(tr_pass_fuse(g));
    TR_GO(after("fuse", g, how));
    TR_GO(tr_pass_order(g));
    TR_GO(after("order", g, how));
    TR_GO(overlap(g, how, how->update.micro_batches));
    error = build_take(g, whole, how, how->update.micro_batches, 0, out);
    g = whole = NULL;
    if (!error) {
        (*out)->whole_hash = whole_hash;
        (*out)->losses = parts;
        (*out)->n_losses = n_parts;
        parts = NULL;
    }
done:
    tr_loss_parts_free(parts, n_parts);
    free(grads);
    tr_graph_free(g);
    tr_graph_free(whole);
    return error;
}

/* What inference programs share after their forward graph is complete. context: of a cache; 0: none. */
static tr_error *finish_take(tr_graph *g, const tr_compile *how, tr_side side, int64_t context, tr_program **out)
{
    tr_error *error = NULL;
    tr_graph *whole = NULL;
    TR_GO(tr_graph_error_take(g));
    if (how->stages)
        TR_GO(tr_pass_stages(g, how->stages->schedule->stages));
    TR_GO(after("model", g, how));
    TR_GO(rooms(g, how));
    TR_GO(shard(&g, how));
    TR_GO(cut(&g, how, &whole));
    TR_GO(together(g, how));
    if (side != TR_SIDE_BOTH) {
        TR_GO(tr_pass_once(g, side));
        TR_GO(after("once", g, how));
    }
    if (context > 0) {
        TR_GO(tr_pass_cache(g, context));
        TR_GO(after("cache", g, how));
    }
    TR_GO(tr_pass_fuse(g));
    TR_GO(after("fuse", g, how));
    TR_GO(tr_pass_order(g));
    TR_GO(after("order", g, how));
    TR_GO(overlap(g, how, 1));
    error = build_take(g, whole, how, 1, 1, out);
    g = whole = NULL;
done:
    tr_graph_free(g);
    tr_graph_free(whole);
    return error;
}

tr_error *tr_compile_evaluation(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                                tr_program **out)
{
    int n_parts;
    *out = NULL;
    TR_TRY(check_dump(how));
    tr_graph *g = forward(model, sizes, user, how);
    tr_loss_part *parts = tr_loss_parts(g, &n_parts);
    tr_loss_evaluation(g);
    tr_error *error = finish_take(g, how, TR_SIDE_BOTH, 0, out);
    if (error) {
        tr_loss_parts_free(parts, n_parts);
        return error;
    }
    (*out)->losses = parts;
    (*out)->n_losses = n_parts;
    return NULL;
}

tr_error *tr_compile_logits(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                            tr_program **out)
{
    *out = NULL;
    TR_TRY(check_dump(how));
    tr_graph *g = forward(model, sizes, user, how);
    if (!g->error)
        tr_graph_output(g, "logits", tr_loss_logits(g, g->heads[0].hidden));
    return finish_take(g, how, TR_SIDE_BOTH, 0, out);
}

tr_error *tr_compile_outputs(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                             tr_program **out)
{
    *out = NULL;
    TR_TRY(check_dump(how));
    tr_graph *g = forward(model, sizes, user, how);
    if (!g->error && !g->n_shown)
        tr_graph_fail(g, tr_error_new(TR_USER, "the model shows nothing: it has no tr_output"));
    for (uint32_t k = 0; k < g->n_shown && !g->error; k++)
        tr_graph_output(g, g->shown[k].name, g->shown[k].value);
    return finish_take(g, how, TR_SIDE_BOTH, 0, out);
}

static tr_error *generation(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how, tr_side side,
                            int64_t context, tr_program **out)
{
    *out = NULL;
    TR_TRY(check_dump(how));
    tr_graph *g = forward(model, sizes, user, how);
    tr_value hidden = g->error ? 0 : g->heads[0].hidden;
    /* The rows of the hidden states that are wanted are a look-up in them. */
    const char *names[] = {"batch"};
    tr_value last = tr_graph_leaf(g, TR_INPUT, "last", tr_shape_of(g, TR_I32, 1, names, &how->batch), (tr_init){0});
    tr_value rows = tr_reshape(g, hidden, "rows=%lld embed=%lld", (long long)(g->error ? 1 : how->batch * tr_size(g, hidden, 1)),
                               (long long)tr_size(g, hidden, -1));
    tr_graph_output(g, "logits", tr_loss_logits(g, tr_embedding(g, rows, last)));
    return finish_take(g, how, side, context, out);
}

tr_error *tr_compile_generation(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how,
                                int64_t context, tr_program **out)
{
    return generation(model, sizes, user, how, TR_SIDE_BOTH, context, out);
}

tr_error *tr_compile_source(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how, tr_program **out)
{
    return generation(model, sizes, user, how, TR_SIDE_SOURCE, 0, out);
}

tr_error *tr_compile_answer(tr_model model, const tr_sizes *sizes, void *user, const tr_compile *how, int64_t context,
                            tr_program **out)
{
    return generation(model, sizes, user, how, TR_SIDE_ANSWER, context, out);
}

int64_t tr_graph_parameters(const tr_graph *g)
{
    int64_t n = 0;
    for (tr_value v = 1; v < g->n_values; v++)
        if (g->values[v].role == TR_PARAM) {
            const tr_layout *layout = g->values[v].layout;
            int64_t elems = layout ? 1 : tr_shape_elems(tr_shape_at(g, v));
            for (int d = 0; layout && d < layout->rank; d++)
                elems *= layout->whole[d];
            n += elems;
        }
    return n;
}
