/* Classes of texts; see predict.h. Texts run in batches of BATCH, the longest first, padded to the next of a few lengths: one
 * program a length, all on the weights of the longest. */
#include "base/file.h"
#include "data/checkpoint.h"
#include "data/labelled.h"
#include "data/pretrained.h"
#include "data/weights.h"
#include "models/huggingface.h"
#include "serve/choice.h"
#include "serve/predict.h"

enum { BATCH = 16, SHORTEST = 16, MOST_LENGTHS = 24, LEAST = 4 };

typedef struct classifier {
    const tr_family *family;
    tr_sizes sizes;
    tr_compile how;
    tr_tokenizer *tokenizer;
    char **names; /* of the classes */
    int64_t name_count, longest;
    tr_program *programs[MOST_LENGTHS]; /* [k]: of SHORTEST << k tokens, at most `longest`; NULL: not wanted yet */
    int lengths;
} classifier;

typedef struct item {
    tr_ids ids;
    int64_t first, number; /* tokens of the first text; place in the file */
} item;

static void release(classifier *c)
{
    for (int k = 0; k < MOST_LENGTHS; k++)
        tr_program_free(c->programs[k]);
    tr_tokenizer_free(c->tokenizer);
    tr_names_free(c->names, c->name_count);
}

static int64_t length_of(const classifier *c, int k)
{
    return TR_MIN((int64_t)SHORTEST << k, c->longest);
}

static tr_error *make_program(classifier *c, int k, const tr_program *owner)
{
    c->how.seq = c->how.decoder_seq = length_of(c, k);
    TR_TRY(tr_compile_logits(c->family->model, &c->sizes, NULL, &c->how, &c->programs[k]));
    return owner ? tr_program_allocate_beside(c->programs[k], owner) : tr_program_allocate(c->programs[k]);
}

static tr_error *open(classifier *c, const char *directory, const tr_scoring *how)
{
    tr_checkpoint *checkpoint = NULL;
    tr_error *error = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    const char *at = tr_checkpoint_directory(checkpoint);
    TR_GO(tr_pretrained_read(at, &c->family, &c->sizes));
    TR_GO(tr_tokenizer_load(at, &c->tokenizer));
    TR_GO(tr_hf_label_names(at, &c->names, &c->name_count));
    if (tr_tokenizer_special(c->tokenizer, TR_SPECIAL_CLS) < 0 || tr_tokenizer_special(c->tokenizer, TR_SPECIAL_SEP) < 0)
        TR_GO(tr_error_new(TR_USER, "the tokenizer of %s has no tokens [CLS] and [SEP] to put around a text", directory));
    if (how->seq && (how->seq > c->sizes.context || how->seq < LEAST))
        TR_GO(tr_error_new(TR_USER, "--seq %lld: the model's texts have %d to %lld tokens", (long long)how->seq, LEAST,
                           (long long)c->sizes.context));
    c->longest = how->seq ? how->seq : c->sizes.context;
    c->sizes.dropout = 0;
    c->how = (tr_compile){.target = how->target, .compute = how->compute, .batch = BATCH};
    while (length_of(c, c->lengths) < c->longest)
        c->lengths++;
    TR_GO(make_program(c, c->lengths, NULL));
    TR_GO(tr_weights_load(c->programs[c->lengths], c->family, tr_checkpoint_model(checkpoint)));
    const char *absent = tr_weights_absent(c->programs[c->lengths], c->family, tr_checkpoint_model(checkpoint));
    if (absent)
        TR_GO(tr_error_new(TR_USER, "%s has no %s, a part of the classifier; train one on top of it by model.from=%s", directory,
                           absent, directory));
done:
    tr_checkpoint_close(checkpoint);
    return error;
}

static void put(const tr_program *p, const char *name, int64_t at, int64_t number)
{
    if (tr_graph_find(p->graph, name))
        ((int32_t *)tr_program_find(p, name))[at] = (int32_t)number;
}

/* `count` texts, at most BATCH, the longest first. */
static tr_error *run_batch(classifier *c, const item *items, int64_t count, tr_predicted *out)
{
    int k = 0;
    while (length_of(c, k) < items[0].ids.count)
        k++;
    if (!c->programs[k])
        TR_TRY(make_program(c, k, c->programs[c->lengths]));
    tr_program *p = c->programs[k];
    int64_t seq = length_of(c, k);
    for (int64_t r = 0; r < BATCH; r++) {
        const item *one = &items[TR_MIN(r, count - 1)];
        for (int64_t t = 0; t < seq; t++) {
            bool there = t < one->ids.count;
            put(p, "ids", r * seq + t, there ? one->ids.items[t] : 0);
            put(p, "mask", r * seq + t, there);
            put(p, "segments", r * seq + t, there && t >= one->first);
            put(p, "positions", r * seq + t, t);
        }
    }
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    for (int64_t r = 0; r < count; r++) {
        tr_predicted *to = &out[items[r].number];
        to->label = tr_choice(p, r, &to->probability);
        to->name = to->label < c->name_count ? c->names[to->label] : NULL;
    }
    return NULL;
}

static int longer_first(const void *a, const void *b)
{
    const item *x = a, *y = b;
    return x->ids.count != y->ids.count ? (x->ids.count < y->ids.count) - (x->ids.count > y->ids.count)
                                        : (x->number > y->number) - (x->number < y->number);
}

/* The number of a name that the model knows; -1: it does not. */
static int64_t label_of(const classifier *c, const tr_labelled_text *t)
{
    for (int64_t i = 0; t->name && i < c->name_count; i++)
        if (strcmp(c->names[i], t->name) == 0)
            return i;
    return t->name ? -1 : t->label;
}

static tr_error *run(classifier *c, const tr_labelled *texts, tr_predict_each *each, void *context)
{
    int64_t n = texts->count;
    item *items = tr_alloc_zero((size_t)n, sizeof *items);
    tr_predicted *out = tr_alloc_zero((size_t)n, sizeof *out);
    tr_error *error = NULL;
#pragma omp parallel for schedule(dynamic, 16) num_threads(TR_MAX(c->how.target.threads, 1))
    for (int64_t i = 0; i < n; i++) {
        tr_labelled_encode(c->tokenizer, &texts->items[i], c->longest, &items[i].ids, &items[i].first);
        items[i].number = i;
        out[i] = (tr_predicted){.index = i, .expected = label_of(c, &texts->items[i])};
    }
    for (int64_t i = 0; i < n && !error; i++)
        if (texts->items[i].name && out[i].expected < 0)
            error = tr_error_new(TR_USER, "%s:%lld has the label \"%s\", which the model does not know", texts->items[i].path,
                                 (long long)texts->items[i].line, texts->items[i].name);
    qsort(items, (size_t)n, sizeof *items, longer_first);
    for (int64_t i = 0; i < n && !error; i += BATCH)
        error = run_batch(c, items + i, TR_MIN(n - i, (int64_t)BATCH), out);
    for (int64_t i = 0; i < n; i++) {
        if (!error)
            each(context, &out[i]);
        tr_ids_free(&items[i].ids);
    }
    free(items);
    free(out);
    return error;
}

tr_error *tr_predict_texts(const char *directory, const char *path, const tr_scoring *how, tr_predict_each *each, void *context)
{
    classifier c = {0};
    tr_labelled *texts = NULL;
    tr_error *error = tr_labelled_read(&path, 1, &texts);
    if (!error)
        error = open(&c, directory, how);
    if (!error)
        error = run(&c, texts, each, context);
    release(&c);
    tr_labelled_free(texts);
    return error;
}
