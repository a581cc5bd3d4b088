/* Generation with cached keys and values; see generator.h. */
#include "serve/generator.h"


#include "base/clock.h"
#include "exec/ranks.h"
#include "data/pretrained.h"
#include "data/checkpoint.h"
#include "data/weights.h"

struct tr_generator {
    tr_sizes sizes;
    tr_model model;
    void *user;
    tr_target target;
    tr_dtype compute;
    bool sharded;
    tr_sharding sharding;
    tr_ranks *ranks; /* NULL: one */
    const tr_program *owner; /* of the weights; own_owner when they are ours */
    tr_program *step, *prompt;
    int64_t prompt_length; /* what `prompt` is compiled for */
    int64_t length;
    float *logits; /* [vocab] */
};

static tr_compile how_for(const tr_generator *g, int64_t seq)
{
    return (tr_compile){.target = g->target, .compute = g->compute, .batch = 1, .seq = seq,
                        .sharding = g->sharded ? &g->sharding : NULL};
}

static tr_error *new_take(tr_generator *g, tr_generator **out)
{
    tr_compile how = how_for(g, 1);
    *out = NULL;
    g->logits = tr_alloc((size_t)g->sizes.vocab * sizeof(float));
    tr_error *error = tr_compile_generation(g->model, &g->sizes, g->user, &how, g->sizes.context, &g->step);
    if (!error)
        error = tr_program_allocate_beside(g->step, g->owner);
    if (!error)
        g->step->ranks = g->ranks;
    if (error) {
        tr_generator_free(g);
        return error;
    }
    *out = g;
    return NULL;
}

static tr_generator *make(const tr_sizes *sizes, tr_model model, void *user, const tr_target *target, tr_dtype compute)
{
    tr_generator *g = tr_alloc_zero(1, sizeof *g);
    g->sizes = *sizes;
    g->sizes.dropout = 0;
    if (g->sizes.rope_kind == TR_ROPE_DYNAMIC) /* beyond, the keys in the cache would have to be turned anew */
        g->sizes.context = TR_MIN(g->sizes.context, g->sizes.rope_context);
    g->model = model;
    g->user = user;
    g->target = *target;
    g->compute = compute;
    return g;
}

tr_error *tr_generator_beside(const tr_program *owner, const tr_sizes *sizes, tr_model model, void *user,
                              const tr_target *target, const tr_sharding *sharding, tr_generator **out)
{
    tr_generator *g = make(sizes, model, user, target, owner->graph->compute);
    g->owner = owner;
    g->ranks = owner->ranks;
    g->sharded = sharding != NULL;
    if (sharding)
        g->sharding = *sharding;
    return new_take(g, out);
}

tr_error *tr_generator_random(const tr_sizes *sizes, tr_model model, const tr_target *target, tr_dtype compute,
                              tr_generator **out)
{
    TR_TRY(new_take(make(sizes, model, NULL, target, compute), out));
    tr_program_init((*out)->step, 1);
    return NULL;
}

tr_error *tr_generator_open(const char *directory, const tr_target *target, tr_dtype compute, tr_generator **out)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_sizes sizes;
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    TR_GO(tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &sizes));
    if (!family->generates)
        TR_GO(tr_error_new(TR_USER, "%s is a model of the family %s, which does not continue texts", directory, family->name));
    TR_GO(new_take(make(&sizes, family->model, NULL, target, compute), out));
    TR_GO(tr_weights_load((*out)->step, family, tr_checkpoint_model(checkpoint)));
done:
    if (error) {
        tr_generator_free(*out);
        *out = NULL;
    }
    tr_checkpoint_close(checkpoint);
    return error;
}

void tr_generator_free(tr_generator *g)
{
    if (!g)
        return;
    tr_program_free(g->prompt);
    tr_program_free(g->step);
    free(g->logits);
    free(g);
}

const tr_sizes *tr_generator_sizes(const tr_generator *g)
{
    return &g->sizes;
}

int64_t tr_generator_length(const tr_generator *g)
{
    return g->length;
}

/* Only some rows of it are read. */
static bool is_looked_up(const tr_graph *g, tr_value v)
{
    bool any = false;
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t k = 0; k < g->nodes[n].n_in; k++) {
            if (tr_in(g, n, (int)k) == v && (g->nodes[n].op != TR_OP_embedding || k != 0))
                return false;
            any |= tr_in(g, n, (int)k) == v;
        }
    return any;
}

int64_t tr_generator_bytes_per_token(const tr_generator *g)
{
    const tr_graph *graph = g->step->graph;
    int64_t bytes = 0;
    for (tr_value v = 1; v < graph->n_values; v++) {
        const tr_value_info *info = &graph->values[v];
        if (info->role == TR_PARAM && !is_looked_up(graph, v))
            bytes += tr_shape_bytes(&info->shape);
        else if (info->role == TR_STATE)
            bytes += tr_shape_bytes(&info->shape) / g->sizes.context * g->length;
    }
    return bytes;
}

tr_program *tr_generator_program(tr_generator *g)
{
    return g->step;
}

void tr_generator_reset(tr_generator *g)
{
    g->length = 0;
}

static tr_error *prompt_program(tr_generator *g, int64_t count)
{
    if (g->prompt && g->prompt_length == count)
        return NULL;
    tr_program_free(g->prompt);
    g->prompt = NULL;
    tr_compile how = how_for(g, count);
    TR_TRY(tr_compile_generation(g->model, &g->sizes, g->user, &how, g->sizes.context, &g->prompt));
    g->prompt->ranks = g->ranks;
    g->prompt_length = count;
    /* The cache, and the weights when they are ours, are the step program's. */
    return tr_program_allocate_beside(g->prompt, g->step);
}

tr_error *tr_generator_append(tr_generator *g, const int32_t *tokens, int64_t count, float **out_logits)
{
    if (count < 1 || count > g->sizes.context - g->length)
        return tr_error_new(TR_USER, "%lld tokens after %lld do not fit in the model's context of %lld",
                            (long long)count, (long long)g->length, (long long)g->sizes.context);
    if (count > 1)
        TR_TRY(prompt_program(g, count));
    tr_program *p = count > 1 ? g->prompt : g->step;
    tr_value positions_in = tr_graph_find(p->graph, "positions");
    int32_t *ids = tr_program_find(p, "ids"), *positions = positions_in ? tr_program_data(p, positions_in) : NULL;
    for (int64_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= g->sizes.vocab)
            return tr_error_new(TR_USER, "token %d is not in the model's vocabulary of %lld; is this the tokenizer "
                                         "that the model was trained with?",
                                tokens[i], (long long)g->sizes.vocab);
        ids[i] = tokens[i];
        if (positions)
            positions[i] = (int32_t)(g->length + i);
    }
    *(int32_t *)tr_program_find(p, "start") = (int32_t)g->length;
    *(int32_t *)tr_program_find(p, "last") = (int32_t)(count - 1);
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    TR_TRY(tr_program_error_take(p));
    g->length += count;
    const void *logits = tr_program_find(p, "logits");
    for (int64_t i = 0; i < g->sizes.vocab; i++)
        g->logits[i] = tr_real_at(logits, g->compute, i);
    if (g->ranks) { /* hosts may round differently, and all must draw the same token */
        tr_group world = tr_group_world(g->ranks->count, g->ranks->rank);
        tr_error *error = tr_comm_broadcast(g->ranks->comm, &world, 0, g->logits, g->sizes.vocab, TR_F32);
        tr_group_free(&world);
        TR_TRY(error);
    }
    *out_logits = g->logits;
    return NULL;
}

/* How much of the text is certain: nothing from the first stop string on, and not an end that a stop
 * string begins with. */
static int64_t certain(const tr_text *text, int64_t from, const tr_generate *how, bool *out_stopped)
{
    int64_t safe = (int64_t)text->length;
    *out_stopped = false;
    for (int64_t s = 0; s < how->n_stops; s++) {
        int64_t n = (int64_t)strlen(how->stops[s]);
        if (n == 0)
            continue;
        int64_t look = TR_MAX(from - n + 1, 0);
        const char *hit = text->length ? strstr(text->bytes + look, how->stops[s]) : NULL;
        if (hit && (!*out_stopped || hit - text->bytes < safe)) {
            safe = hit - text->bytes;
            *out_stopped = true;
        }
        for (int64_t k = TR_MIN(n - 1, (int64_t)text->length); k > 0 && !*out_stopped; k--)
            if (memcmp(text->bytes + text->length - k, how->stops[s], (size_t)k) == 0) {
                safe = TR_MIN(safe, (int64_t)text->length - k);
                break;
            }
    }
    return safe;
}

tr_error *tr_generator_run(tr_generator *g, const tr_tokenizer *tokenizer, const char *prompt, int64_t prompt_length,
                           const tr_generate *how, tr_generated *out)
{
    tr_error *error = NULL;
    tr_ids ids = {0};
    tr_text text = {0};
    tr_detokenizer pieces = {0};
    tr_sampler *sampler = tr_sampler_new(&how->sampling, g->sizes.vocab);
    int32_t end = tr_tokenizer_end_of_text(tokenizer);
    int64_t sent = 0;
    bool cut = false; /* by a stop string or the caller: what is not sent yet is not wanted */
    float *logits;
    *out = (tr_generated){.finish = "length"};
    tr_tokenizer_encode(tokenizer, prompt, prompt_length, true, &ids);
    if (ids.count == 0 && end >= 0)
        tr_push(ids.items, ids.count, ids.room) = end;
    if (ids.count == 0)
        TR_GO(tr_error_new(TR_USER, "the prompt is empty and the tokenizer has no end-of-text token to start from"));
    if (ids.count >= g->sizes.context)
        TR_GO(tr_error_new(TR_USER, "the prompt has %lld tokens and the model's context is %lld; shorten it to "
                                    "leave room for an answer",
                           (long long)ids.count, (long long)g->sizes.context));
    out->prompt_tokens = ids.count;
    tr_generator_reset(g);
    double from = tr_seconds();
    TR_GO(tr_generator_append(g, ids.items, ids.count, &logits));
    out->prefill_s = tr_seconds() - from;
    from = tr_seconds();
    for (int64_t i = 0; i < how->max_tokens; i++) {
        int32_t token = tr_sampler_next(sampler, logits, ids.items, ids.count, i);
        if (token == end && !how->ignore_end) {
            out->finish = "stop";
            break;
        }
        tr_push(ids.items, ids.count, ids.room) = token;
        out->tokens++;
        int64_t before = (int64_t)text.length;
        tr_detokenizer_push(&pieces, tokenizer, token, &text);
        int64_t safe = certain(&text, before, how, &cut);
        if (safe > sent && how->stream && !how->stream(how->context, text.bytes + sent, safe - sent)) {
            out->finish = "cancelled";
            cut = true;
            break;
        }
        sent = TR_MAX(sent, safe);
        if (cut) {
            out->finish = "stop";
            break;
        }
        if (g->length >= g->sizes.context) {
            out->finish = "context";
            break;
        }
        if (i + 1 < how->max_tokens)
            TR_GO(tr_generator_append(g, &token, 1, &logits));
    }
    out->decode_s = tr_seconds() - from;
    if (!cut) { /* what was held back, in case a stop string had begun, was none */
        tr_detokenizer_finish(&pieces, &text);
        if ((int64_t)text.length > sent && how->stream)
            how->stream(how->context, text.bytes + sent, (int64_t)text.length - sent);
    }
done:
    tr_sampler_free(sampler);
    tr_ids_free(&ids);
    tr_text_free(&text);
    return error;
}
