/* Embedding texts; see embed.h. Texts run in batches of BATCH, the longest first, padded to the next of a few lengths:
 * one program a length, all on the weights of the longest. */
#include "serve/embed.h"

#include <math.h>

#include "base/file.h"
#include "base/json.h"
#include "data/checkpoint.h"
#include "data/pretrained.h"
#include "data/tokenizer.h"
#include "data/weights.h"

enum { BATCH = 16, SHORTEST = 16, MOST_LENGTHS = 16 };

struct tr_embedder {
    const tr_family *family;
    tr_sizes sizes;
    tr_compile how;
    tr_tokenizer *tokenizer;
    bool first_token, normalised;
    int64_t longest; /* tokens of a text, [CLS] and [SEP] included */
    tr_program *programs[MOST_LENGTHS]; /* [k]: of SHORTEST << k tokens, at most `longest`; NULL: not wanted yet */
    int lengths;
};

/* How it is pooled ------------------------------------------------------------------------------- */

static tr_error *read_pooling(tr_embedder *e, const char *directory)
{
    static const char *const ways[] = {"pooling_mode_mean_tokens", "pooling_mode_cls_token"};
    char *path = tr_path_join(directory, "1_Pooling/config.json");
    json_t *json = NULL;
    const char *key;
    json_t *value;
    bool known = false;
    tr_error *error = tr_json_load(path, &json);
    if (!error)
        json_object_foreach(json, key, value)
            if (json_is_true(value) && strncmp(key, "pooling_mode_", 13) == 0) {
                bool mean = strcmp(key, ways[0]) == 0, first = strcmp(key, ways[1]) == 0;
                if (known || (!mean && !first))
                    error = tr_error_new(TR_USER, "%s: %s is true; here pooling is by %s or by %s alone", path, key, ways[0], ways[1]);
                e->first_token = first;
                known = true;
                if (error)
                    break;
            }
    json_decref(json);
    free(path);
    return error;
}

static tr_error *read_modules(tr_embedder *e, const char *directory)
{
    char *path = tr_path_join(directory, "modules.json"), *longest = tr_path_join(directory, "sentence_bert_config.json");
    json_t *modules = NULL, *limits = NULL, *module;
    tr_error *error = NULL;
    size_t i;
    e->normalised = true;
    e->longest = e->sizes.context;
    if (tr_path_exists(path)) {
        e->normalised = false;
        TR_GO(tr_json_load(path, &modules));
        json_array_foreach(modules, i, module) {
            const char *type = json_string_value(json_object_get(module, "type")), *name = type ? strrchr(type, '.') : NULL;
            if (name && strcmp(name, ".Pooling") == 0)
                TR_GO(read_pooling(e, directory));
            else if (name && strcmp(name, ".Normalize") == 0)
                e->normalised = true;
            else if (!name || strcmp(name, ".Transformer") != 0)
                TR_GO(tr_error_new(TR_USER, "%s: module %s is not known; here are Transformer, Pooling and Normalize", path,
                                   type ? type : "without a type"));
        }
    }
    if (tr_path_exists(longest)) {
        int64_t most = e->longest;
        TR_GO(tr_json_load(longest, &limits));
        TR_GO(tr_json_int(limits, longest, "max_seq_length", TR_OPTIONAL, 2, 1 << 24, &most));
        e->longest = TR_MIN(e->longest, most);
    }
done:
    json_decref(modules);
    json_decref(limits);
    free(path);
    free(longest);
    return error;
}

/* Programs --------------------------------------------------------------------------------------- */

static int64_t length_of(const tr_embedder *e, int k)
{
    return TR_MIN((int64_t)SHORTEST << k, e->longest);
}

static tr_error *make_program(tr_embedder *e, int k, const tr_program *owner)
{
    e->how.seq = e->how.decoder_seq = length_of(e, k);
    TR_TRY(tr_compile_outputs(e->family->model, &e->sizes, NULL, &e->how, &e->programs[k]));
    return owner ? tr_program_allocate_beside(e->programs[k], owner) : tr_program_allocate(e->programs[k]);
}

tr_error *tr_embedder_open(const char *directory, const tr_target *target, tr_dtype compute, tr_embedder **out)
{
    tr_embedder *e = tr_alloc_zero(1, sizeof *e);
    tr_checkpoint *checkpoint = NULL;
    tr_error *error = NULL;
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    const char *at = tr_checkpoint_directory(checkpoint);
    TR_GO(tr_pretrained_read(at, &e->family, &e->sizes));
    TR_GO(tr_tokenizer_load(at, &e->tokenizer));
    TR_GO(read_modules(e, at));
    e->sizes.dropout = 0;
    e->how = (tr_compile){.target = *target, .compute = compute, .batch = BATCH};
    while (length_of(e, e->lengths) < e->longest)
        e->lengths++;
    e->lengths++;
    TR_GO(tr_error_in_take(make_program(e, e->lengths - 1, NULL), "%s, of the family %s, has no embeddings", directory,
                           e->family->name));
    tr_program *owner = e->programs[e->lengths - 1];
    TR_CHECK(tr_graph_find(owner->graph, "hidden"), "the family %s shows no \"hidden\"", e->family->name);
    TR_GO(tr_weights_load(owner, e->family, tr_checkpoint_model(checkpoint)));
    *out = e;
    e = NULL;
done:
    tr_checkpoint_close(checkpoint);
    tr_embedder_free(e);
    return error;
}

void tr_embedder_free(tr_embedder *e)
{
    if (!e)
        return;
    for (int k = 0; k < MOST_LENGTHS; k++)
        tr_program_free(e->programs[k]);
    tr_tokenizer_free(e->tokenizer);
    free(e);
}

int64_t tr_embedder_width(const tr_embedder *e)
{
    return e->sizes.embed;
}

/* Running ---------------------------------------------------------------------------------------- */

/* What the template says goes around a text, and as much of the text as there is room for. */
static void encode(const tr_embedder *e, const char *text, int64_t length, tr_ids *out)
{
    const tr_ids *before = tr_tokenizer_before(e->tokenizer), *after = tr_tokenizer_after(e->tokenizer);
    tr_ids own = {0};
    tr_tokenizer_encode(e->tokenizer, text, length, true, &own);
    int64_t room = TR_MAX(e->longest - before->count - after->count, 0);
    own.count = TR_MIN(own.count, room);
    const tr_ids *const parts[] = {before, &own, after};
    for (int p = 0; p < 3; p++)
        for (int64_t i = 0; i < parts[p]->count && out->count < e->longest; i++)
            tr_push(out->items, out->count, out->room) = parts[p]->items[i];
    tr_ids_free(&own);
}

static void pool(const tr_embedder *e, const tr_program *p, int64_t row, int64_t tokens, float *out)
{
    int64_t width = e->sizes.embed, used = e->first_token ? TR_MIN(tokens, 1) : tokens;
    const void *hidden = tr_program_find(p, "hidden");
    bool narrow = tr_shape_at(p->graph, tr_graph_find(p->graph, "hidden"))->dtype == TR_BF16;
    double squares = 0, *sums = tr_alloc_zero((size_t)width, sizeof *sums);
    for (int64_t t = 0; t < used; t++)
        for (int64_t d = 0, at = (row * e->how.seq + t) * width; d < width; d++, at++)
            sums[d] += narrow ? tr_bf16_to_f32(((const uint16_t *)hidden)[at]) : ((const float *)hidden)[at];
    for (int64_t d = 0; d < width; d++)
        squares += sums[d] * sums[d];
    double scale = e->normalised ? (squares > 0 ? 1 / sqrt(squares) : 0) : used ? 1 / (double)used : 0;
    for (int64_t d = 0; d < width; d++)
        out[d] = (float)(sums[d] * scale);
    free(sums);
}

static void put(const tr_program *p, const char *name, int64_t row, int64_t at, int64_t seq, int32_t number)
{
    if (tr_graph_find(p->graph, name))
        ((int32_t *)tr_program_find(p, name))[row * seq + at] = number;
}

typedef struct text {
    tr_ids ids;
    int64_t number;
} text;

static int longer_first(const void *a, const void *b)
{
    const text *x = a, *y = b;
    return x->ids.count != y->ids.count ? (x->ids.count < y->ids.count) - (x->ids.count > y->ids.count)
                                        : (x->number > y->number) - (x->number < y->number);
}

/* `count` texts, at most BATCH, the longest first. */
static tr_error *run_batch(tr_embedder *e, const text *texts, int64_t count, float *out)
{
    int k = 0;
    while (length_of(e, k) < texts[0].ids.count)
        k++;
    if (!e->programs[k])
        TR_TRY(make_program(e, k, e->programs[e->lengths - 1]));
    tr_program *p = e->programs[k];
    int64_t seq = e->how.seq = length_of(e, k);
    for (int64_t r = 0; r < BATCH; r++) {
        const tr_ids *own = &texts[TR_MIN(r, count - 1)].ids;
        for (int64_t t = 0; t < seq; t++) {
            bool there = t < own->count;
            put(p, "ids", r, t, seq, there ? own->items[t] : 0);
            put(p, "mask", r, t, seq, there);
            put(p, "segments", r, t, seq, 0);
            put(p, "positions", r, t, seq, (int32_t)t);
        }
    }
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    for (int64_t r = 0; r < count; r++)
        pool(e, p, r, texts[r].ids.count, out + texts[r].number * e->sizes.embed);
    return NULL;
}

tr_error *tr_embedder_run(tr_embedder *e, const char *const *texts, const int64_t *lengths, int64_t count, float *out)
{
    text *list = tr_alloc_zero((size_t)count, sizeof *list);
    tr_error *error = NULL;
    for (int64_t i = 0; i < count; i++) {
        encode(e, texts[i], lengths[i], &list[i].ids);
        list[i].number = i;
    }
    qsort(list, (size_t)count, sizeof *list, longer_first);
    for (int64_t i = 0; i < count && !error; i += BATCH)
        error = run_batch(e, list + i, TR_MIN(count - i, BATCH), out);
    for (int64_t i = 0; i < count; i++)
        tr_ids_free(&list[i].ids);
    free(list);
    return error;
}
