/* Sequence to sequence: a text from another, as in translation.
 *
 *   ids [seq]: the source and an end token     mask [seq]: 1 where there is a token
 *   targets [decoder_seq]: the target and an end token, -1 behind     decoder_ids: a start token, then the target
 *
 * Pairs come from files of lines: .jsonl with objects {"source": ..., "target": ...}, anything else with source and
 * target between a tab. All are tokenized when the objective is opened and stay in memory. A pair that is too long
 * for the model is left out, and counted. The start token is the tokenizer's padding, as T5 has it, or else its end
 * token.
 *
 * Training shows each pair once an epoch, in an order of its own. Validation has files of its own, or every n-th pair
 * of the training files, so that a text in chapters is held out evenly.
 */
#include <jansson.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/objective.h"

typedef struct pair {
    int64_t source, target; /* where they start in `tokens`; -1 lengths below are never stored */
    int32_t source_length, target_length;
} pair;
typedef struct pairs {
    pair *items;
    int64_t count, room, target_tokens;
} pairs;

typedef struct seq2seq {
    tr_ids tokens;
    pairs sets[2]; /* training, validation */
    int64_t seq, decoder_seq, files, too_long;
    uint64_t seed;
    int32_t end, pad, vocab;
} seq2seq;

typedef struct reading {
    seq2seq *o;
    const tr_objective_options *options;
    int64_t every; /* every n-th pair goes to validation; 0: none */
    int64_t read;
} reading;

static tr_error *add_pair(reading *r, bool validation, const char *source, int64_t source_length, const char *target,
                          int64_t target_length)
{
    seq2seq *o = r->o;
    pair p = {.source = o->tokens.count};
    tr_tokenizer_encode(r->options->tokenizer, source, source_length, false, &o->tokens);
    tr_push(o->tokens.items, o->tokens.count, o->tokens.room) = o->end;
    p.target = o->tokens.count;
    tr_tokenizer_encode(r->options->tokenizer, target, target_length, false, &o->tokens);
    tr_push(o->tokens.items, o->tokens.count, o->tokens.room) = o->end;
    if (p.target - p.source > o->seq || o->tokens.count - p.target > o->decoder_seq) {
        o->tokens.count = p.source;
        o->too_long++;
        return NULL;
    }
    for (int64_t i = p.source; i < o->tokens.count && o->vocab; i++)
        if (o->tokens.items[i] >= o->vocab)
            return tr_error_new(TR_USER,
                                "token id %d is not in the model's vocabulary of %d: was the model made for another "
                                "tokenizer?",
                                o->tokens.items[i], o->vocab);
    p.source_length = (int32_t)(p.target - p.source);
    p.target_length = (int32_t)(o->tokens.count - p.target);
    bool held = validation || (r->every && r->read % r->every == r->every - 1);
    r->read++;
    pairs *set = &o->sets[held];
    tr_push(set->items, set->count, set->room) = p;
    set->target_tokens += p.target_length;
    return NULL;
}

static tr_error *read_json_line(reading *r, bool validation, const char *line, int64_t length, const char *path,
                                int64_t number)
{
    json_error_t problem;
    json_t *object = json_loadb(line, (size_t)length, 0, &problem);
    const json_t *source = json_object_get(object, "source"), *target = json_object_get(object, "target");
    tr_error *error;
    if (json_is_string(source) && json_is_string(target))
        error = add_pair(r, validation, json_string_value(source), (int64_t)json_string_length(source),
                         json_string_value(target), (int64_t)json_string_length(target));
    else
        error = tr_error_new(TR_USER, "%s:%lld: expected {\"source\": \"...\", \"target\": \"...\"}", path,
                             (long long)number);
    json_decref(object);
    return error;
}

static tr_error *read_line(reading *r, bool validation, const char *line, int64_t length, const char *path,
                           int64_t number)
{
    const char *tab = memchr(line, '\t', (size_t)length), *end = line + length;
    if (!tab || memchr(tab + 1, '\t', (size_t)(end - tab - 1)))
        return tr_error_new(TR_USER, "%s:%lld: expected a source and a target with one tab between them", path,
                            (long long)number);
    return add_pair(r, validation, line, tab - line, tab + 1, end - tab - 1);
}

static tr_error *read_file(reading *r, bool validation, const char *path)
{
    size_t n = strlen(path);
    bool json = n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
    tr_map map;
    if (tr_path_is_directory(path))
        return tr_error_new(TR_USER,
                            "%s: sequence to sequence needs files of pairs (.tsv or .jsonl), not a directory", path);
    TR_TRY(tr_map_open(path, &map));
    const char *end = map.bytes + map.size;
    tr_error *error = NULL;
    int64_t number = 1;
    for (const char *line = map.bytes; line < end && !error; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line)), *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        stop -= stop > line && stop[-1] == '\r';
        if (stop > line)
            error = (json ? read_json_line : read_line)(r, validation, line, stop - line, path, number);
        line = next;
    }
    tr_map_close(&map);
    r->o->files += !validation;
    return error;
}

static void close(void *own)
{
    seq2seq *o = own;
    tr_ids_free(&o->tokens);
    free(o->sets[0].items);
    free(o->sets[1].items);
    free(o);
}

static tr_error *read_all(seq2seq *o, const tr_objective_options *options)
{
    reading r = {.o = o, .options = options};
    if (options->val_split > 0 && !options->n_val_paths)
        r.every = TR_MAX((int64_t)(1 / options->val_split), 2);
    for (int64_t i = 0; i < options->n_paths; i++)
        TR_TRY(read_file(&r, false, options->paths[i]));
    for (int64_t i = 0; i < options->n_val_paths; i++)
        TR_TRY(read_file(&r, true, options->val_paths[i]));
    if (!o->sets[0].count)
        return tr_error_new(
            TR_USER,
            "no pairs to train on: %lld were read and are longer than train.seq=%lld or train.decoder_seq=%lld",
            (long long)o->too_long, (long long)o->seq, (long long)o->decoder_seq);
    return NULL;
}

static tr_error *open(const tr_objective_options *options, void **out)
{
    const tr_tokenizer *t = options->tokenizer;
    *out = NULL;
    if (!t || tr_tokenizer_end_of_text(t) < 0)
        return tr_error_new(TR_USER, "sequence to sequence needs a tokenizer with an end token, such as </s>");
    if (options->weights)
        return tr_error_new(TR_USER,
                            "sequence to sequence mixes its files by size: weights in data.train are not supported");
    seq2seq *o = tr_alloc_zero(1, sizeof *o);
    int32_t pad = tr_tokenizer_special(t, TR_SPECIAL_PAD), end = tr_tokenizer_end_of_text(t);
    o->seq = options->seq;
    o->decoder_seq = options->decoder_seq;
    o->seed = options->seed;
    o->vocab = (int32_t)options->vocab;
    o->end = end;
    o->pad = pad >= 0 ? pad : end;
    tr_error *error = read_all(o, options);
    if (error) {
        close(o);
        return error;
    }
    *out = o;
    return NULL;
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    const seq2seq *o = own;
    const pairs *set = &o->sets[validation];
    int64_t epoch = index / set->count, at = index % set->count;
    const pair *p =
        &set->items[validation ? at : tr_permute(o->seed * 0x9E3779B97F4A7C15u + (uint64_t)epoch, set->count, at)];
    const int32_t *source = o->tokens.items + p->source, *target = o->tokens.items + p->target;
    tr_field *ids = tr_field_find(fields, count, "ids"), *mask = tr_field_find(fields, count, "mask");
    tr_field *decoder = tr_field_find(fields, count, "decoder_ids"),
             *targets = tr_field_find(fields, count, "targets");
    for (int64_t i = 0; i < o->seq; i++) {
        if (ids)
            ids->ints[i] = i < p->source_length ? source[i] : o->pad;
        if (mask)
            mask->ints[i] = i < p->source_length;
    }
    for (int64_t i = 0; i < o->decoder_seq; i++) {
        if (targets)
            targets->ints[i] = i < p->target_length ? target[i] : -1;
        if (decoder)
            decoder->ints[i] = i > 0 && i <= p->target_length ? target[i - 1] : o->pad;
    }
    tr_objective_count(tr_field_find(fields, count, "positions"));
    tr_objective_count(tr_field_find(fields, count, "decoder_positions"));
    return NULL;
}

static int64_t val_count(const void *own)
{
    return ((const seq2seq *)own)->sets[1].count;
}

static tr_loader_info describe(const void *own)
{
    const seq2seq *o = own;
    return (tr_loader_info){.sources = o->files,
                            .train_tokens = o->sets[0].target_tokens,
                            .train_windows = o->sets[0].count,
                            .val_tokens = o->sets[1].target_tokens,
                            .val_windows = o->sets[1].count};
}

static uint64_t hash_of(const seq2seq *o)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (int64_t i = 0; i < o->tokens.count; i++)
        hash = (hash ^ (uint64_t)(uint32_t)o->tokens.items[i]) * 0x100000001B3u;
    return hash;
}

static char *state(const void *own)
{
    const seq2seq *o = own;
    return tr_format("{\"pairs\": %lld, \"tokens\": \"%016llx\", \"seed\": %llu}", (long long)o->sets[0].count,
                     (unsigned long long)hash_of(o), (unsigned long long)o->seed);
}

static tr_error *check_state(const void *own, const char *before)
{
    char *now = state(own);
    tr_error *error = strcmp(now, before) == 0
                          ? NULL
                          : tr_error_new(TR_USER, "the pairs are not those of the run: then %s, now %s", before, now);
    free(now);
    return error;
}

const tr_objective_row tr_objective_seq2seq = {
    .name = "seq2seq",
    .help = "a text from another, as in translation: files with a pair a line",
    .inputs = "ids mask positions decoder_ids decoder_positions targets",
    .open = open,
    .free = close,
    .sample = sample,
    .val_count = val_count,
    .describe = describe,
    .state = state,
    .check_state = check_state,
};
