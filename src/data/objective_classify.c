/* Classes of texts, or of pairs of texts (Devlin et al. 2019, section 4).
 *
 *   ids       [CLS] text... [SEP] pair... [SEP]   and padding
 *   segments     0    0       0      1      1     mask: 1, of padding 0      positions 0, 1, ...
 *   labels    the class
 *
 * An epoch shows each text once, in an order of its own. What data.val_split holds out is the same for every seed, and
 * drawn from everywhere, since files are often sorted by label.
 */
#include <jansson.h>
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "data/labelled.h"
#include "data/objective.h"
#include "data/shard.h"

enum { LEAST = 8, ORDER = 0x636c6173 }; /* tokens of a sequence; stream of random numbers */
static const uint64_t SPLIT = 0x7370616d;

typedef struct example {
    tr_ids ids;
    int64_t first; /* tokens of the first text */
    int32_t label;
} example;

typedef struct classify {
    example *train, *val;
    int64_t train_count, val_count, tokens; /* of train */
    char **names; /* of classes; NULL: numbers */
    int64_t name_count;
    uint64_t seed, fingerprint;
    int32_t pad;
} classify;

static void free_examples(example *list, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        tr_ids_free(&list[i].ids);
    free(list);
}

static void close(void *own)
{
    classify *c = own;
    if (!c)
        return;
    free_examples(c->train, c->train_count);
    free_examples(c->val, c->val_count);
    tr_names_free(c->names, c->name_count);
    free(c);
}

/* Text n of `count` goes to place n, or, of those that are split, to a place of its own. */
static example *encode(const tr_objective_options *o, const tr_labelled *texts, bool mixed)
{
    example *out = tr_alloc_zero((size_t)TR_MAX(texts->count, 1), sizeof *out);
#pragma omp parallel for schedule(dynamic, 16) num_threads(TR_MAX(o->threads, 1))
    for (int64_t i = 0; i < texts->count; i++) {
        example *e = &out[mixed ? tr_permute(SPLIT, texts->count, i) : i];
        e->label = (int32_t)texts->items[i].label;
        tr_labelled_encode(o->tokenizer, &texts->items[i], o->seq, &e->ids, &e->first);
    }
    return out;
}

/* The last share of the mixed texts is what is held out. */
static tr_error *split(classify *c, const tr_objective_options *o)
{
    int64_t all = c->train_count, held = (int64_t)((double)all * o->val_split);
    if (o->val_split > 0 && o->n_paths && (held < 1 || held >= all))
        return tr_error_new(TR_USER, "data.val_split=%g of %lld texts leaves %lld to validate on and %lld to train on; change it, or set "
                                     "data.val",
                            o->val_split, (long long)all, (long long)held, (long long)(all - held));
    if (!held)
        return NULL;
    c->val = tr_alloc_zero((size_t)held, sizeof *c->val);
    memcpy(c->val, c->train + all - held, (size_t)held * sizeof *c->val);
    c->val_count = held;
    c->train_count = all - held;
    return NULL;
}

static tr_error *fill(classify *c, const tr_objective_options *o, tr_labelled *train, tr_labelled *val)
{
    TR_TRY(tr_labelled_names(train->count ? train : val, &c->names, &c->name_count));
    TR_TRY(tr_labelled_number(train, c->names, c->name_count, o->labels, true));
    TR_TRY(tr_labelled_number(val, c->names, c->name_count, o->labels, true));
    c->train = encode(o, train, true);
    c->train_count = train->count;
    c->val = encode(o, val, false);
    c->val_count = val->count;
    c->fingerprint = tr_hash_word(train->fingerprint, (uint64_t)o->seq);
    if (!val->count) {
        free(c->val);
        c->val = NULL;
        TR_TRY(split(c, o));
    }
    for (int64_t i = 0; i < c->train_count; i++)
        c->tokens += c->train[i].ids.count;
    return NULL;
}

static tr_error *open(const tr_objective_options *o, void **out)
{
    const tr_tokenizer *t = o->tokenizer;
    tr_labelled *train = NULL, *val = NULL;
    tr_error *error = NULL;
    classify *c = tr_alloc_zero(1, sizeof *c);
    c->seed = o->seed;
    *out = NULL;
    if (!t || tr_tokenizer_special(t, TR_SPECIAL_CLS) < 0 || tr_tokenizer_special(t, TR_SPECIAL_SEP) < 0)
        TR_GO(tr_error_new(TR_USER, "data.objective classify needs a tokenizer with the tokens [CLS] and [SEP]; make one by `trireme "
                                    "tokenizer train --kind wordpiece`, or take BERT's vocab.txt"));
    if (o->seq < LEAST)
        TR_GO(tr_error_new(TR_USER, "data.objective classify needs sequences of %d tokens at least, and they have %lld; make "
                                    "train.seq longer", LEAST, (long long)o->seq));
    c->pad = TR_MAX(tr_tokenizer_special(t, TR_SPECIAL_PAD), 0);
    TR_GO(tr_labelled_read(o->paths, o->n_paths, &train));
    TR_GO(tr_labelled_read(o->val_paths, o->n_val_paths, &val));
    TR_GO(fill(c, o, train, val));
    *out = c;
    c = NULL;
done:
    tr_labelled_free(train);
    tr_labelled_free(val);
    close(c);
    return error;
}

static void put(tr_field *f, int64_t i, int32_t number)
{
    if (f)
        f->ints[i] = number;
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    const classify *c = own;
    tr_field *ids = tr_field_find(fields, count, "ids"), *segments = tr_field_find(fields, count, "segments"),
             *mask = tr_field_find(fields, count, "mask"), *labels = tr_field_find(fields, count, "labels");
    int64_t n = index;
    if (!validation) {
        tr_random4 r = tr_random(c->seed, 0, ORDER, (uint64_t)(index / c->train_count));
        n = tr_permute((uint64_t)r.word[0] << 32 | r.word[1], c->train_count, index % c->train_count);
    }
    const example *e = &(validation ? c->val : c->train)[n];
    for (int64_t i = 0; i < e->ids.count; i++) {
        put(ids, i, e->ids.items[i]);
        put(segments, i, i >= e->first);
        put(mask, i, 1);
    }
    for (int64_t i = e->ids.count; ids && i < ids->elems; i++)
        put(ids, i, c->pad);
    put(labels, 0, e->label);
    tr_objective_count(tr_field_find(fields, count, "positions"));
    return NULL;
}

static int64_t val_count(const void *own)
{
    return ((const classify *)own)->val_count;
}

static tr_loader_info describe(const void *own)
{
    const classify *c = own;
    return (tr_loader_info){.sources = 1, .train_tokens = c->tokens, .train_windows = c->train_count, .val_windows = c->val_count};
}

static char *state(const void *own)
{
    const classify *c = own;
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)c->fingerprint);
    json_t *json = json_pack("{s:s, s:s, s:I, s:I}", "kind", "classify", "fingerprint", fingerprint, "count",
                             (json_int_t)c->train_count, "seed", (json_int_t)c->seed);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

static tr_error *check_state(const void *own, const char *saved)
{
    char *now = state(own);
    bool same = strcmp(now, saved) == 0;
    free(now);
    return same ? NULL
                : tr_error_new(TR_USER, "the labelled texts, their split, train.seq or the seed are not what the run was trained on so "
                                        "far; go on with the same files, data.val_split, train.seq and seed");
}

static const char *const *names(const void *own)
{
    return (const char *const *)((const classify *)own)->names;
}

const tr_objective_row tr_objective_classify = {
    .name = "classify",
    .help = "the class of a text, or of a pair of texts",
    .inputs = "ids positions segments mask labels",
    .classes = true,
    .open = open,
    .free = close,
    .sample = sample,
    .val_count = val_count,
    .describe = describe,
    .state = state,
    .check_state = check_state,
    .names = names,
};
