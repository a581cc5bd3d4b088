/* Answers of encoder-decoders; see answer.h.
 *
 * Beam search as in Hugging Face's generate: of all continuations of all beams the 2 x beams likeliest are looked at.
 * Among the first `beams` of them, one that ends is a finished answer; the likeliest that do not end are the next
 * beams. It stops when the best beam, were it to end now, would not beat the worst of `beams` finished answers.
 */
#include "serve/answer.h"

#include <math.h>

#include "data/checkpoint.h"
#include "data/pretrained.h"
#include "data/weights.h"

enum { LEAST_ROOM = 16, MOST_BEAMS = 64, MOST_TOKENS = 65536 };

struct tr_answerer {
    tr_sizes sizes;
    tr_model model;
    tr_target target;
    tr_dtype compute;
    tr_program *owner;  /* of the weights; it has no other purpose */
    tr_program *once;   /* encodes a source */
    tr_program *answer; /* makes a token of each beam */
    int64_t source, beams, room; /* what the two are compiled for: tokens of the source; beams, tokens of an answer */
    char *moved;        /* where beams' caches are while they change places */
};

static tr_compile how_for(const tr_answerer *a, int64_t source, int64_t batch)
{
    return (tr_compile){.target = a->target, .compute = a->compute, .batch = batch, .seq = source, .decoder_seq = 1};
}

tr_error *tr_answerer_open(const char *directory, const tr_target *target, tr_dtype compute, tr_answerer **out)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_answerer *a = tr_alloc_zero(1, sizeof *a);
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    TR_GO(tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &a->sizes));
    if (!family->two_towers)
        TR_GO(tr_error_new(TR_USER, "%s is a model of the family %s, which has no second tower", directory,
                           family->name));
    a->sizes.dropout = 0;
    a->model = family->model;
    a->target = *target;
    a->compute = compute;
    tr_compile how = how_for(a, 1, 1);
    TR_GO(tr_compile_source(a->model, &a->sizes, NULL, &how, &a->owner));
    TR_GO(tr_program_allocate(a->owner));
    TR_GO(tr_weights_load(a->owner, family, tr_checkpoint_model(checkpoint)));
    *out = a;
    a = NULL;
done:
    tr_answerer_free(a);
    tr_checkpoint_close(checkpoint);
    return error;
}

void tr_answerer_free(tr_answerer *a)
{
    if (!a)
        return;
    tr_program_free(a->once);
    tr_program_free(a->answer);
    tr_program_free(a->owner);
    free(a->moved);
    free(a);
}

static bool is_cache(const tr_graph *g, tr_value v)
{
    return g->values[v].role == TR_STATE;
}

static tr_error *make_programs(tr_answerer *a, int64_t source, int64_t beams, int64_t room)
{
    if (a->answer && a->source == source && a->beams == beams && a->room == room)
        return NULL;
    tr_program_free(a->once);
    tr_program_free(a->answer);
    a->once = a->answer = NULL;
    a->source = source;
    a->beams = beams;
    a->room = room;
    tr_compile how = how_for(a, source, 1);
    TR_TRY(tr_compile_source(a->model, &a->sizes, NULL, &how, &a->once));
    TR_TRY(tr_program_allocate_beside(a->once, a->owner));
    how = how_for(a, source, beams);
    TR_TRY(tr_compile_answer(a->model, &a->sizes, NULL, &how, room, &a->answer));
    TR_TRY(tr_program_allocate_beside(a->answer, a->owner));
    int64_t most = 0;
    const tr_graph *g = a->answer->graph;
    for (tr_value v = 1; v < g->n_values; v++)
        if (is_cache(g, v))
            most = TR_MAX(most, tr_shape_bytes(tr_shape_at(g, v)));
    free(a->moved);
    a->moved = tr_alloc((size_t)most);
    return NULL;
}

/* An input if the model asks for it. */
static int32_t *input(tr_program *p, const char *name)
{
    tr_value v = tr_graph_find(p->graph, name);
    return v ? tr_program_data(p, v) : NULL;
}

typedef struct beam {
    int32_t *tokens; /* [max_tokens] */
    double sum;
} beam;

/* One search: the beams, those of the next step, and finished answers. */
typedef struct search {
    tr_answerer *a;
    const tr_answering *how;
    const tr_ids *source;
    int32_t end, start;
    int64_t length; /* tokens of each beam */
    int32_t from[MOST_BEAMS]; /* whose continuation a beam is: its place among those of the step before */
    int beams, finished;
    beam now[MOST_BEAMS], next[MOST_BEAMS], done[MOST_BEAMS]; /* done: the best first, sums divided by length */
    int64_t done_length[MOST_BEAMS];
    bool ended[MOST_BEAMS];
    double *scores; /* [beams, vocab] log probabilities */
} search;

/* Inputs about the source, in a program with `rows` of it. */
static void give_source(const search *s, tr_program *p, int64_t rows)
{
    int32_t *ids = input(p, "ids"), *mask = input(p, "mask"), *positions = input(p, "positions");
    int64_t n = s->source->count;
    for (int64_t k = 0; k < rows * n; k++) {
        if (ids)
            ids[k] = s->source->items[k % n];
        if (mask)
            mask[k] = 1;
        if (positions)
            positions[k] = (int32_t)(k % n);
    }
}

/* Runs the first tower, and gives every beam what it left. */
static tr_error *encode(search *s)
{
    tr_answerer *a = s->a;
    int64_t room = LEAST_ROOM;
    while (room < s->how->max_tokens)
        room *= 2;
    TR_TRY(make_programs(a, s->source->count, s->how->beams, room));
    give_source(s, a->once, 1);
    give_source(s, a->answer, s->how->beams);
    tr_program_run(a->once, TR_START, TR_UPDATE, 0, 0);
    TR_TRY(tr_program_error_take(a->once));
    const tr_graph *from = a->once->graph, *to = a->answer->graph;
    for (uint32_t o = 0; o < from->n_outputs; o++) {
        tr_value v = tr_graph_find(to, from->output_names[o]);
        int64_t bytes = tr_shape_bytes(tr_shape_at(from, from->outputs[o])), all = v ? tr_shape_bytes(tr_shape_at(to, v)) : 0;
        TR_CHECK(all == bytes || all == bytes * s->how->beams, "%s differs between the towers", from->output_names[o]);
        for (int64_t at = 0; at < all; at += bytes)
            memcpy((char *)tr_program_data(a->answer, v) + at, tr_program_data(a->once, from->outputs[o]), (size_t)bytes);
    }
    return NULL;
}

/* The keys and values of each beam become those of the beam that it goes on from. */
static void move_caches(search *s)
{
    const tr_graph *g = s->a->answer->graph;
    for (tr_value v = 1; v < g->n_values; v++) {
        if (!is_cache(g, v))
            continue;
        const tr_shape *shape = tr_shape_at(g, v); /* [beam, head, token, head_dim] */
        int64_t token = shape->dims[3] * tr_dtype_bytes(shape->dtype), head = shape->dims[2] * token;
        int64_t heads = shape->dims[1], filled = s->length * token;
        char *cache = tr_program_data(s->a->answer, v), *to = s->a->moved;
        for (int back = 0; back < 2; back++)
            for (int64_t b = 0, at = 0; b < s->beams; b++)
                for (int64_t h = 0; h < heads && s->from[b] != b; h++, at += filled) {
                    if (back)
                        memcpy(cache + (b * heads + h) * head, to + at, (size_t)filled);
                    else
                        memcpy(to + at, cache + (s->from[b] * heads + h) * head, (size_t)filled);
                }
    }
}

/* The logits behind each beam, in s->scores. */
static tr_error *step(search *s)
{
    tr_answerer *a = s->a;
    int64_t vocab = a->sizes.vocab;
    if (s->length == 0)
        TR_TRY(encode(s));
    else
        move_caches(s);
    tr_program *p = a->answer;
    int32_t *ids = input(p, "decoder_ids"), *positions = input(p, "decoder_positions"), *last = input(p, "last");
    for (int64_t b = 0; b < s->how->beams; b++) {
        const int32_t *tokens = s->now[TR_MIN(b, s->beams - 1)].tokens;
        ids[b] = s->length ? tokens[s->length - 1] : s->start;
        if (positions)
            positions[b] = (int32_t)s->length;
        last[b] = (int32_t)b;
    }
    *input(p, "start") = (int32_t)s->length;
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    TR_TRY(tr_program_error_take(p));
    const void *logits = tr_program_find(p, "logits");
    for (int64_t i = 0; i < s->beams * vocab; i++)
        s->scores[i] = tr_real_at(logits, a->compute, i);
    return NULL;
}

static void log_softmax(double *x, int64_t n)
{
    double top = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        top = TR_MAX(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    for (int64_t i = 0; i < n; i++)
        x[i] -= top + log(sum);
}

typedef struct candidate {
    double sum;
    int32_t beam, token;
} candidate;

/* The `count` likeliest continuations, the best first; of equal ones the earlier beam and token. */
static int likeliest(const search *s, candidate *out, int count)
{
    int n = 0;
    int64_t vocab = s->a->sizes.vocab;
    for (int32_t b = 0; b < s->beams; b++)
        for (int32_t t = 0; t < vocab; t++) {
            double sum = s->now[b].sum + s->scores[b * vocab + t];
            if (n == count && sum <= out[n - 1].sum)
                continue;
            int at = n < count ? n++ : n - 1;
            for (; at > 0 && out[at - 1].sum < sum; at--)
                out[at] = out[at - 1];
            out[at] = (candidate){sum, b, t};
        }
    return n;
}

static double divided(const search *s, double sum, int64_t tokens)
{
    return sum / pow((double)TR_MAX(tokens, 1), s->how->length_penalty);
}

/* Keeps an answer of `length` tokens, if it is among the best; `scored` of its tokens count, an end token included.
 */
static void finish(search *s, const candidate *c, int64_t scored, bool ended)
{
    double score = divided(s, c->sum, scored);
    int at = s->finished < s->how->beams ? s->finished++ : s->finished - 1;
    if (at == s->finished - 1 && s->finished == s->how->beams && s->done_length[at] >= 0 && s->done[at].sum >= score)
        return;
    int32_t *tokens = s->done[at].tokens;
    for (; at > 0 && s->done[at - 1].sum < score; at--) {
        s->done[at] = s->done[at - 1];
        s->done_length[at] = s->done_length[at - 1];
        s->ended[at] = s->ended[at - 1];
    }
    memcpy(tokens, s->now[c->beam].tokens, (size_t)s->length * sizeof *tokens);
    s->done_length[at] = s->length;
    if (!ended)
        tokens[s->done_length[at]++] = c->token;
    s->done[at] = (beam){tokens, score};
    s->ended[at] = ended;
}

/* One step's choice among continuations; true when the search is over. */
static bool choose(search *s)
{
    candidate best[2 * MOST_BEAMS];
    int n = likeliest(s, best, 2 * (int)s->how->beams), next = 0;
    bool full = s->length + 1 >= s->how->max_tokens;
    for (int i = 0; i < n; i++) {
        bool ends = best[i].token == s->end;
        if (ends || full) {
            if (i < s->how->beams)
                finish(s, &best[i], s->length + 1, ends);
        } else if (next < s->how->beams) {
            s->from[next] = best[i].beam;
            beam *to = &s->next[next++];
            memcpy(to->tokens, s->now[best[i].beam].tokens, (size_t)s->length * sizeof *to->tokens);
            to->tokens[s->length] = best[i].token;
            to->sum = best[i].sum;
        }
    }
    for (int i = 0; i < next; i++) {
        beam swapped = s->now[i];
        s->now[i] = s->next[i];
        s->next[i] = swapped;
    }
    s->beams = next;
    s->length++;
    if (full || !next)
        return true;
    return s->finished == s->how->beams && divided(s, s->now[0].sum, s->length) <= s->done[s->finished - 1].sum;
}

static tr_error *beam_search(search *s)
{
    for (bool over = false; !over;) {
        TR_TRY(step(s));
        for (int b = 0; b < s->beams; b++)
            log_softmax(s->scores + b * s->a->sizes.vocab, s->a->sizes.vocab);
        over = choose(s);
    }
    return NULL;
}

static tr_error *sample(search *s)
{
    int64_t vocab = s->a->sizes.vocab;
    tr_sampler *sampler = tr_sampler_new(&s->how->sampling, vocab);
    float *logits = tr_alloc((size_t)vocab * sizeof *logits);
    tr_error *error = NULL;
    for (bool over = false; !over && !(error = step(s));) {
        for (int64_t i = 0; i < vocab; i++)
            logits[i] = (float)s->scores[i];
        candidate c = {0, 0, tr_sampler_next(sampler, logits, s->now[0].tokens, s->length, s->length)};
        log_softmax(s->scores, vocab);
        c.sum = s->now[0].sum + s->scores[c.token];
        bool ends = c.token == s->end;
        over = ends || s->length + 1 >= s->how->max_tokens;
        if (over) {
            finish(s, &c, s->length + 1, ends);
        } else {
            s->now[0].tokens[s->length++] = c.token;
            s->now[0].sum = c.sum;
        }
    }
    tr_sampler_free(sampler);
    free(logits);
    return error;
}

tr_error *tr_answerer_ids(tr_answerer *a, const tr_ids *source, int32_t start, int32_t end, const tr_answering *how,
                          tr_answer *out)
{
    search s = {.a = a, .how = how, .source = source, .end = end, .start = start, .beams = 1};
    *out = (tr_answer){0};
    if (how->beams < 1 || how->beams > MOST_BEAMS || how->max_tokens < 1 || how->max_tokens > MOST_TOKENS)
        return tr_error_new(TR_USER, "%lld beams and %lld tokens: from 1 to %d beams and from 1 to %d tokens will do",
                            (long long)how->beams, (long long)how->max_tokens, MOST_BEAMS, MOST_TOKENS);
    if (source->count > a->sizes.context)
        return tr_error_new(TR_USER, "the text has %lld tokens with its end and the model's context is %lld",
                            (long long)source->count, (long long)a->sizes.context);
    for (int64_t i = 0; i < source->count; i++)
        if (source->items[i] >= a->sizes.vocab)
            return tr_error_new(
                TR_USER,
                "token %d is not in the model's vocabulary of %lld; is this the tokenizer that the model "
                "was trained with?",
                source->items[i], (long long)a->sizes.vocab);
    for (int b = 0; b < how->beams; b++) {
        s.now[b].tokens = tr_alloc_zero((size_t)how->max_tokens + 1, sizeof(int32_t));
        s.next[b].tokens = tr_alloc_zero((size_t)how->max_tokens + 1, sizeof(int32_t));
        s.done[b].tokens = tr_alloc_zero((size_t)how->max_tokens + 1, sizeof(int32_t));
        s.done_length[b] = -1;
    }
    s.scores = tr_alloc((size_t)(how->beams * a->sizes.vocab) * sizeof *s.scores);
    tr_error *error = how->beams == 1 ? sample(&s) : beam_search(&s);
    out->source_tokens = source->count;
    out->score = s.done[0].sum;
    out->finish = s.ended[0] ? "stop" : "length";
    for (int64_t i = 0; i < s.done_length[0] && !error; i++)
        tr_push(out->tokens.items, out->tokens.count, out->tokens.room) = s.done[0].tokens[i];
    for (int b = 0; b < how->beams; b++) {
        free(s.now[b].tokens);
        free(s.next[b].tokens);
        free(s.done[b].tokens);
    }
    free(s.scores);
    return error;
}

tr_error *tr_answerer_run(tr_answerer *a, const tr_tokenizer *tokenizer, const char *text, int64_t length,
                          const tr_answering *how, tr_answer *out)
{
    tr_ids source = {0};
    int32_t pad = tr_tokenizer_special(tokenizer, TR_SPECIAL_PAD), end = tr_tokenizer_end_of_text(tokenizer);
    *out = (tr_answer){0};
    if (end < 0)
        return tr_error_new(TR_USER, "the tokenizer has no end token");
    tr_tokenizer_encode(tokenizer, text, length, true, &source);
    tr_push(source.items, source.count, source.room) = end;
    tr_error *error = tr_answerer_ids(a, &source, pad >= 0 ? pad : end, end, how, out);
    tr_ids_free(&source);
    return error;
}
