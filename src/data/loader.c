/* Samples by number; see loader.h.
 *
 * sample i  -> (source, k): a chain of two-way splits. With f the share of source 0, the first i
 * samples hold round(i f) of source 0; sample i is one of them if that count grows at i, and then
 * its number within the source is the count. Otherwise i - round(i f) goes to the rest of the
 * chain. (source, k) -> epoch k / W and slot k % W, with W the windows of the source, equal in all
 * epochs. slot      -> window by a permutation keyed by (seed, source, epoch), then shard by binary
 * search. window w of a shard starts at jitter + w seq, jitter keyed by (seed, source, shard,
 * epoch).
 *
 * W leaves room for any jitter: of n tokens max(1, (n - seq) / seq) windows are used, and the
 * jitter goes up to what is left over, at most seq - 1.
 *
 * Cost of a sample: O(sources + log shards) plus the copy.
 */
#include "data/loader.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"

__extension__ typedef unsigned __int128 wide;

enum {
    STREAM_SHUFFLE = 0x5AFF1E,
    STREAM_JITTER = 0x51DE,
    FEISTEL_ROUNDS = 8,
    STATE_VERSION = 1,
    SPOT_COUNT = 256,
    SPOT_TOKENS = 16384,
};
static const double ONE_AS_FRACTION = 4294967296.0; /* shares are multiples of 2^-32 */

/* A stretch of a shard, with the windows before it in its list. */
typedef struct region {
    const tr_shard *shard;
    int64_t begin, end;
    int64_t windows, windows_before;
    int64_t jitters; /* how many offsets an epoch can have */
} region;

typedef struct region_list {
    region *items;
    int64_t count, room, windows, tokens;
} region_list;

typedef struct train_source {
    tr_corpus *source;
    region_list regions;
    double weight;     /* as given, or the size */
    uint64_t fraction; /* of what the sources before it leave over, in 2^-32 */
    uint64_t fingerprint;
} train_source;

struct tr_loader {
    tr_loader_options options;
    bool weighted;
    train_source *sources;
    int64_t source_count;
    tr_corpus **val_sources;
    int64_t val_source_count;
    region_list val;
};

/* The permutation. */

int64_t tr_permute(uint64_t key, int64_t count, int64_t index)
{
    TR_CHECK(count > 0 && index >= 0 && index < count, "index %lld of %lld", (long long)index,
             (long long)count);
    int bits = 2;
    while (bits < 63 && (int64_t)1 << bits < count)
        bits++;
    int low_bits = bits / 2;
    uint64_t low_mask = ((uint64_t)1 << low_bits) - 1;
    uint64_t high_mask = ((uint64_t)1 << (bits - low_bits)) - 1;
    uint64_t at = (uint64_t)index, keys[FEISTEL_ROUNDS];
    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++)
        keys[round] = tr_hash_word(key, round);
    do {
        uint64_t low = at & low_mask, high = at >> low_bits;
        for (int round = 0; round < FEISTEL_ROUNDS; round += 2) {
            low ^= tr_hash_word(keys[round], high) & low_mask;
            high ^= tr_hash_word(keys[round + 1], low) & high_mask;
        }
        at = high << low_bits | low;
    } while (at >= (uint64_t)count);
    return (int64_t)at;
}

/* Regions. */

static void add_region(region_list *list, const tr_shard *shard, int64_t begin, int64_t end,
                       int64_t windows, int64_t jitters)
{
    list->tokens += end - begin;
    if (windows == 0)
        return;
    tr_push(list->items, list->count, list->room) =
        (region){shard, begin, end, windows, list->windows, jitters};
    list->windows += windows;
}

static void add_train_region(region_list *list, const tr_shard *shard, int64_t tokens, int64_t seq)
{
    int64_t windows = tokens > seq ? TR_MAX(1, (tokens - seq) / seq) : 0;
    int64_t spare = windows ? TR_MIN(seq - 1, tokens - 1 - windows * seq) : 0;
    add_region(list, shard, 0, tokens, windows, spare + 1);
}

static void add_val_region(region_list *list, const tr_shard *shard, int64_t begin, int64_t end,
                           int64_t seq)
{
    int64_t targets = end - begin - 1;
    add_region(list, shard, begin, end, targets > 0 ? (targets - 1) / seq + 1 : 0, 1);
}

static const region *find_region(const region_list *list, int64_t window)
{
    int64_t low = 0, high = list->count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (list->items[middle].windows_before <= window)
            low = middle;
        else
            high = middle - 1;
    }
    return &list->items[low];
}

/* Building. */

static tr_error *outside(const tr_shard *shard, int64_t at, int32_t id, int64_t vocab)
{
    return tr_error_new(
        TR_USER,
        "token %lld of %s is %lld, but the model's vocabulary ends at %lld; was the file "
        "made with another tokenizer, or is it no token shard?",
        (long long)at, shard->path, (long long)(uint32_t)id, (long long)vocab - 1);
}

/* Our shards say their vocabulary; of foreign ones blocks are looked at now, so that a wrong file
 * does not stop a run after hours. tr_loader_sample checks every id in any case. */
static tr_error *check_vocab(const tr_shard *shard, int64_t vocab)
{
    if (vocab && shard->vocab > vocab)
        return tr_error_new(
            TR_USER,
            "%s was made with a vocabulary of %lld, the model has %lld; set model.vocab "
            "to at least %lld or take the tokenizer of the model",
            shard->path, (long long)shard->vocab, (long long)vocab, (long long)shard->vocab);
    if (!vocab || shard->vocab)
        return NULL;
    int32_t *ids = tr_alloc(SPOT_TOKENS * sizeof *ids);
    tr_error *error = NULL;
    int64_t step = TR_MAX(shard->tokens / SPOT_COUNT, (int64_t)SPOT_TOKENS);
    for (int64_t at = 0; at < shard->tokens && !error; at += step) {
        int64_t count = TR_MIN(shard->tokens - at, (int64_t)SPOT_TOKENS);
        tr_shard_read(shard, at, count, ids);
        for (int64_t i = 0; i < count && !error; i++)
            if (ids[i] < 0 || ids[i] >= vocab)
                error = outside(shard, at + i, ids[i], vocab);
    }
    free(ids);
    return error;
}

static tr_error *check_source(const tr_corpus *source, int64_t vocab)
{
    for (int64_t i = 0; i < source->shard_count; i++)
        TR_TRY(check_vocab(source->shards[i], vocab));
    return NULL;
}

/* Cuts the validation tail off a source: from its last shards, token by token. */
static tr_error *add_train(tr_loader *loader, train_source *train)
{
    const tr_corpus *source = train->source;
    int64_t seq = loader->options.seq;
    TR_TRY(check_source(source, loader->options.vocab));
    bool split = loader->options.val_split > 0 && loader->val_source_count == 0;
    int64_t tail = split ? (int64_t)((double)source->tokens * loader->options.val_split) : 0;
    if (split && tail < 2)
        return tr_error_new(
            TR_USER,
            "data.val_split=%g of %s, which has %lld tokens, leaves nothing to validate on; "
            "raise it, set data.val, or set data.val_split=0",
            loader->options.val_split, source->name, (long long)source->tokens);
    int64_t train_tokens = source->tokens - tail;
    for (int64_t i = 0, seen = 0; i < source->shard_count; i++) {
        const tr_shard *shard = source->shards[i];
        int64_t kept = TR_MIN(TR_MAX(train_tokens - seen, 0), shard->tokens);
        add_train_region(&train->regions, shard, kept, seq);
        add_val_region(&loader->val, shard, kept, shard->tokens, seq);
        seen += shard->tokens;
        train->fingerprint = tr_hash_word(train->fingerprint, shard->fingerprint);
    }
    if (train->regions.windows == 0)
        return tr_error_new(
            TR_USER,
            "the data %s has %lld tokens to train on%s, too few for one sequence of train.seq=%lld "
            "(and one token to predict); give more text or lower train.seq%s",
            source->name, (long long)train_tokens, tail ? " besides its validation part" : "",
            (long long)seq, source->shard_count > 1 ? " (no sequence spans two shards)" : "");
    return NULL;
}

static tr_error *share_out(tr_loader *loader, const double *weights)
{
    double left = 0;
    for (int64_t i = 0; i < loader->source_count; i++) {
        train_source *train = &loader->sources[i];
        train->weight = weights ? weights[i] : (double)train->regions.windows;
        if (!(train->weight > 0) || !isfinite(train->weight))
            return tr_error_new(TR_USER,
                                "the weight of the data %s is %g; it must be a number above 0",
                                train->source->name, train->weight);
        left += train->weight;
    }
    for (int64_t i = 0; i < loader->source_count; i++) {
        train_source *train = &loader->sources[i];
        double share = i + 1 < loader->source_count ? TR_MIN(train->weight / left, 1.0) : 1.0;
        train->fraction = (uint64_t)llround(share * ONE_AS_FRACTION);
        left -= train->weight;
        if (train->fraction == 0)
            return tr_error_new(TR_USER,
                                "the weight of the data %s is %g, too small beside the others'",
                                train->source->name, train->weight);
    }
    return NULL;
}

tr_error *tr_loader_new_take(const tr_loader_options *options, tr_corpus **sources,
                             const double *weights, int64_t count, tr_corpus **val_sources,
                             int64_t val_count, tr_loader **out)
{
    *out = NULL;
    tr_error *error = NULL;
    tr_loader *loader = tr_alloc_zero(1, sizeof *loader);
    loader->options = *options;
    loader->weighted = weights != NULL;
    loader->source_count = count;
    loader->sources = tr_alloc_zero((size_t)count, sizeof *loader->sources);
    for (int64_t i = 0; i < count; i++)
        loader->sources[i].source = sources[i];
    loader->val_source_count = val_count;
    loader->val_sources = tr_alloc_zero((size_t)val_count, sizeof *loader->val_sources);
    for (int64_t i = 0; i < val_count; i++)
        loader->val_sources[i] = val_sources[i];
    if (count < 1 && val_count < 1)
        error = tr_error_new(TR_USER, "no training data is given; set data.train");
    else if (options->seq < 1)
        error = tr_error_new(TR_USER, "train.seq is %lld; it must be at least 1",
                             (long long)options->seq);
    else if (!(options->val_split >= 0 && options->val_split < 1))
        error = tr_error_new(TR_USER, "data.val_split is %g; it must be at least 0 and below 1",
                             options->val_split);
    if (error)
        goto done;
    for (int64_t i = 0; i < count; i++)
        TR_GO(add_train(loader, &loader->sources[i]));
    TR_GO(share_out(loader, weights));
    for (int64_t i = 0; i < val_count; i++) {
        const tr_corpus *source = val_sources[i];
        TR_GO(check_source(source, options->vocab));
        for (int64_t k = 0; k < source->shard_count; k++)
            add_val_region(&loader->val, source->shards[k], 0, source->shards[k]->tokens,
                           options->seq);
        if (source->tokens < 2) {
            error =
                tr_error_new(TR_USER, "the validation data %s has %lld tokens; it needs at least 2",
                             source->name, (long long)source->tokens);
            goto done;
        }
    }
    *out = loader;
    loader = NULL;
done:
    tr_loader_free(loader);
    return error;
}

static tr_error *open_sources(const tr_corpus_options *reading, const char *const *paths,
                              int64_t count, tr_corpus **sources)
{
    for (int64_t i = 0; i < count; i++)
        TR_TRY(tr_corpus_open(paths[i], reading, &sources[i]));
    return NULL;
}

tr_error *tr_loader_open(const tr_loader_options *options, const tr_corpus_options *reading,
                         const char *const *paths, const double *weights, int64_t count,
                         const char *const *val_paths, int64_t val_count, tr_loader **out)
{
    *out = NULL;
    tr_corpus **sources = tr_alloc_zero((size_t)(count + val_count), sizeof *sources);
    tr_error *error = open_sources(reading, paths, count, sources);
    if (!error)
        error = open_sources(reading, val_paths, val_count, sources + count);
    if (!error) {
        error =
            tr_loader_new_take(options, sources, weights, count, sources + count, val_count, out);
    } else {
        for (int64_t i = 0; i < count + val_count; i++)
            tr_corpus_free(sources[i]);
    }
    free(sources);
    return error;
}

void tr_loader_free(tr_loader *loader)
{
    if (!loader)
        return;
    for (int64_t i = 0; i < loader->source_count; i++) {
        tr_corpus_free(loader->sources[i].source);
        free(loader->sources[i].regions.items);
    }
    for (int64_t i = 0; i < loader->val_source_count; i++)
        tr_corpus_free(loader->val_sources[i]);
    free(loader->sources);
    free(loader->val_sources);
    free(loader->val.items);
    free(loader);
}

/* Fetching. */

/* round(index * fraction), exactly. */
static int64_t share_of(int64_t index, uint64_t fraction)
{
    return (int64_t)(((wide)(uint64_t)index * fraction + ((uint64_t)1 << 31)) >> 32);
}

static int64_t pick_source(const tr_loader *loader, int64_t index, int64_t *out_number)
{
    for (int64_t s = 0; s + 1 < loader->source_count; s++) {
        uint64_t fraction = loader->sources[s].fraction;
        int64_t before = share_of(index, fraction);
        if (share_of(index + 1, fraction) > before) {
            *out_number = before;
            return s;
        }
        index -= before;
    }
    *out_number = index;
    return loader->source_count - 1;
}

static uint64_t draw(uint64_t seed, int64_t epoch, uint32_t stream, int64_t source, int64_t index)
{
    tr_random4 r = tr_random(tr_hash_word(seed, (uint64_t)source), (uint32_t)epoch, stream,
                             (uint64_t)index ^ (uint64_t)epoch >> 32 << 32);
    return (uint64_t)r.word[0] << 32 | r.word[1];
}

static tr_error *fetch(const tr_loader *loader, const region *r, int64_t first, int32_t *ids,
                       int32_t *targets)
{
    int64_t seq = loader->options.seq, vocab = loader->options.vocab;
    int64_t targets_here = TR_MIN(seq, r->end - first - 1);
    tr_shard_read(r->shard, first, targets_here, ids);
    tr_shard_read(r->shard, first + 1, targets_here, targets);
    /* Beyond the end: any valid id, and nothing to predict. */
    for (int64_t i = targets_here; i < seq; i++) {
        ids[i] = 0;
        targets[i] = -1;
    }
    if (!vocab)
        vocab = INT32_MAX;
    if (ids[0] < 0 || ids[0] >= vocab)
        return outside(r->shard, first, ids[0], vocab);
    for (int64_t i = 0; i < targets_here; i++)
        if (targets[i] < 0 || targets[i] >= vocab)
            return outside(r->shard, first + 1 + i, targets[i], vocab);
    return NULL;
}

tr_error *tr_loader_sample(const tr_loader *loader, int64_t global_index, int32_t *ids,
                           int32_t *targets)
{
    TR_CHECK(global_index >= 0 && global_index < INT64_MAX && loader->source_count > 0,
             "sample %lld", (long long)global_index);
    int64_t number, s = pick_source(loader, global_index, &number);
    const region_list *list = &loader->sources[s].regions;
    int64_t epoch = number / list->windows, slot = number % list->windows;
    uint64_t key = draw(loader->options.seed, epoch, STREAM_SHUFFLE, s, 0);
    int64_t window = tr_permute(key, list->windows, slot);
    const region *r = find_region(list, window);
    uint64_t jitter =
        draw(loader->options.seed, epoch, STREAM_JITTER, s, r - list->items) % (uint64_t)r->jitters;
    int64_t first = r->begin + (int64_t)jitter + (window - r->windows_before) * loader->options.seq;
    return fetch(loader, r, first, ids, targets);
}

void tr_loader_place(const tr_loader *loader, int64_t global_index, int64_t *out_source,
                     int64_t *out_epoch)
{
    int64_t number;
    *out_source = pick_source(loader, global_index, &number);
    *out_epoch = number / loader->sources[*out_source].regions.windows;
}

int64_t tr_loader_val_count(const tr_loader *loader)
{
    return loader->val.windows;
}

tr_error *tr_loader_val_sample(const tr_loader *loader, int64_t index, int32_t *ids,
                               int32_t *targets)
{
    TR_CHECK(index >= 0 && index < loader->val.windows, "validation window %lld of %lld",
             (long long)index, (long long)loader->val.windows);
    const region *r = find_region(&loader->val, index);
    return fetch(loader, r, r->begin + (index - r->windows_before) * loader->options.seq, ids,
                 targets);
}

tr_loader_info tr_loader_describe(const tr_loader *loader)
{
    tr_loader_info info = {.sources = loader->source_count,
                           .val_tokens = loader->val.tokens,
                           .val_windows = loader->val.windows};
    for (int64_t i = 0; i < loader->source_count + loader->val_source_count; i++) {
        bool val = i >= loader->source_count;
        const tr_corpus *source =
            val ? loader->val_sources[i - loader->source_count] : loader->sources[i].source;
        if (!val) {
            info.train_tokens += loader->sources[i].regions.tokens;
            info.train_windows += loader->sources[i].regions.windows;
        }
        info.built += source->built;
        info.skipped += source->skipped;
        if (!info.first_skipped)
            info.first_skipped = source->first_skipped;
    }
    return info;
}

/* The state. Fingerprints and seeds are text: JSON numbers lose bits above 2^53 in some readers. */

static json_t *hex(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

char *tr_loader_state(const tr_loader *loader)
{
    json_t *sources = json_array();
    for (int64_t i = 0; i < loader->source_count; i++) {
        const train_source *train = &loader->sources[i];
        json_t *name = json_string(train->source->name);
        json_array_append_new(sources, json_pack("{s:o, s:I, s:o, s:f}", "name",
                                                 name ? name : json_string("?"), "tokens",
                                                 (json_int_t)train->source->tokens, "fingerprint",
                                                 hex(train->fingerprint), "weight", train->weight));
    }
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, loader->options.seed);
    json_t *state =
        json_pack("{s:i, s:I, s:s, s:f, s:b, s:b, s:o}", "version", (int)STATE_VERSION, "seq",
                  (json_int_t)loader->options.seq, "seed", seed, "val_split",
                  loader->options.val_split, "separate_val", loader->val_source_count > 0,
                  "weighted", loader->weighted, "sources", sources);
    char *text = json_dumps(state, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(state);
    TR_CHECK(text, "the state of the data is no JSON");
    return text;
}

static tr_error *changed(const char *what, const char *then, const char *now)
{
    return tr_error_new(
        TR_USER,
        "%s was %s when the checkpoint was saved and is %s now, so the run cannot go on "
        "where it stopped; put it back, or begin a new run from the saved weights",
        what, then, now);
}

static tr_error *compare_value(const json_t *then, const json_t *now, const char *key,
                               const char *what)
{
    const json_t *a = json_object_get(then, key), *b = json_object_get(now, key);
    if (a && b &&
        (json_equal(a, b) ||
         (json_is_number(a) && json_is_number(b) && json_number_value(a) == json_number_value(b))))
        return NULL;
    char *a_text = a ? json_dumps(a, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    char *b_text = b ? json_dumps(b, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    tr_error *error = changed(what, a_text ? a_text : "not known", b_text ? b_text : "not known");
    free(a_text);
    free(b_text);
    return error;
}

static tr_error *compare_source(const tr_loader *loader, const json_t *then, int64_t i)
{
    const train_source *train = &loader->sources[i];
    char text[24];
    snprintf(text, sizeof text, "%016" PRIx64, train->fingerprint);
    const char *saved = json_string_value(json_object_get(then, "fingerprint"));
    if (!saved || strcmp(saved, text) != 0) {
        int64_t tokens = json_integer_value(json_object_get(then, "tokens"));
        const char *same = tokens == train->source->tokens ? ", with other contents" : "";
        char *before = tr_format("%lld tokens", (long long)tokens);
        char *after = tr_format("%lld tokens%s", (long long)train->source->tokens, same);
        char *what = tr_format("the training data %s", train->source->name);
        tr_error *error = changed(what, before, after);
        free(before);
        free(after);
        free(what);
        return error;
    }
    double weight = json_number_value(json_object_get(then, "weight"));
    if (weight != train->weight) {
        char *before = tr_format("%g", weight), *after = tr_format("%g", train->weight);
        char *what = tr_format("the weight of the training data %s", train->source->name);
        tr_error *error = changed(what, before, after);
        free(before);
        free(after);
        free(what);
        return error;
    }
    return NULL;
}

tr_error *tr_loader_check_state(const tr_loader *loader, const char *state)
{
    json_error_t where;
    json_t *then = json_loads(state, 0, &where);
    char *own = tr_loader_state(loader);
    json_t *now = json_loads(own, 0, NULL);
    free(own);
    TR_CHECK(now, "the state of the data is no JSON");
    tr_error *error = NULL;
    const json_t *sources = json_object_get(then, "sources");
    if (!json_is_object(then) || !json_is_array(sources) ||
        json_integer_value(json_object_get(then, "version")) != STATE_VERSION) {
        error = tr_error_new(
            TR_USER, "the checkpoint's record of its data is damaged or of another version; "
                     "resume from another checkpoint");
        goto done;
    }
    if ((int64_t)json_array_size(sources) != loader->source_count) {
        char *before = tr_format("%zu", json_array_size(sources));
        char *after = tr_format("%lld", (long long)loader->source_count);
        error = changed("the number of training sources (data.train)", before, after);
        free(before);
        free(after);
        goto done;
    }
    TR_GO(compare_value(then, now, "seq", "train.seq"));
    TR_GO(compare_value(then, now, "seed", "the seed of the data's order"));
    TR_GO(
        compare_value(then, now, "separate_val", "the use of separate validation data (data.val)"));
    if (loader->val_source_count == 0)
        TR_GO(compare_value(then, now, "val_split", "data.val_split"));
    for (int64_t i = 0; i < loader->source_count; i++) /* last: weights follow from what is above */
        TR_GO(compare_source(loader, json_array_get(sources, (size_t)i), i));
done:
    json_decref(then);
    json_decref(now);
    return error;
}
