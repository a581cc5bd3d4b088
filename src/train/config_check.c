/* What the keys of a config mean to each other: what is left open is decided, conflicts are
 * refused.
 *
 * Every refusal says the place of the key that was given, and values that would do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/file.h"
#include "data/gguf.h"
#include "data/objective.h"
#include "data/pretrained.h"
#include "train/config_schema.h"
#include "train/schedule.h"

/* Nothing decided the key yet. */
static bool is_open(const tr_config *config, const char *key)
{
    int64_t k = tr_config_key_find(key);
    TR_CHECK(k >= 0, "no config key '%s'", key);
    return config->own->origin[k] == FROM_DEFAULT;
}

/* What each optimizer's paper has, or what has become usual; those that do not read a key have AdamW's. */
typedef struct optimizer_defaults {
    double beta1, beta2, eps;
} optimizer_defaults;
static const optimizer_defaults defaults_of[TR_OPTIMIZER_COUNT] = {
    [TR_ADAMW] = {0.9, 0.95, 1e-8}, [TR_SGD] = {0.9, 0.95, 1e-8},  [TR_LION] = {0.9, 0.99, 1e-8},
    [TR_LARS] = {0.9, 0.95, 1e-8},  [TR_LAMB] = {0.9, 0.999, 1e-6}, [TR_ADAFACTOR] = {0, 0.95, 1e-30},
};

void tr_config_resolve(tr_config *c)
{
    int64_t steps = c->train.steps;
    bool wsd = c->schedule.name == TR_SCHEDULE_WSD, one_cycle = c->schedule.name == TR_SCHEDULE_ONE_CYCLE,
         has_val = c->data.val.count > 0;
    const tr_family *family = c->model.family == TR_FAMILY_CUSTOM ? NULL : tr_families[c->model.family];
    if (is_open(c, "model.context"))
        c->model.sizes.context = is_open(c, "train.seq") ? 256 : c->train.seq;
    if (is_open(c, "train.seq"))
        c->train.seq = c->model.sizes.context;
    if (is_open(c, "train.decoder_seq"))
        c->train.decoder_seq = c->train.seq;
    if (family && family->complete)
        family->complete(&c->model.sizes);
    if (c->model.sizes.mlp == 0)
        c->model.sizes.mlp = 4 * c->model.sizes.embed;
    if (is_open(c, "data.objective"))
        c->data.objective = tr_objective_find(tr_family_objective(family, &c->model.sizes));
    if (family && tr_objectives[c->data.objective]->no_text && is_open(c, "train.seq"))
        c->train.seq = c->model.sizes.context; /* as many tokens as an image makes */
    if (is_open(c, "mesh.sequence_kind"))
        c->mesh.sequence_kind = c->mesh.sequence > 1 ? TR_SEQUENCE_ULYSSES : TR_SEQUENCE_NONE;
    if (is_open(c, "pipeline.schedule"))
        c->pipeline.schedule = c->pipeline.chunks > 1 ? "interleaved" : "1f1b";
    if (is_open(c, "pipeline.chunks"))
        c->pipeline.chunks = strcmp(c->pipeline.schedule, "interleaved") == 0 ? 2 : 1;
    const optimizer_defaults *usual = &defaults_of[c->optimizer.name];
    if (is_open(c, "optimizer.beta1"))
        c->optimizer.beta1 = usual->beta1;
    if (is_open(c, "optimizer.beta2"))
        c->optimizer.beta2 = usual->beta2;
    if (is_open(c, "optimizer.eps"))
        c->optimizer.eps = usual->eps;
    if (is_open(c, "train.micro_batch"))
        c->train.micro_batch = c->train.batch;
    if (is_open(c, "data.tokenizer"))
        c->data.tokenizer = c->model.from ? c->model.from : "bytes";
    if (is_open(c, "data.val_split"))
        c->data.val_split = has_val ? 0 : 0.01;
    if (is_open(c, "train.eval_every") && !has_val && c->data.val_split == 0)
        c->train.eval_every = 0;
    /* Warmup and decay make room for each other when only one of them was given. */
    if (is_open(c, "schedule.warmup")) {
        int64_t room = is_open(c, "schedule.decay") || !wsd ? steps : steps - c->schedule.decay;
        int64_t usual = one_cycle ? steps * 3 / 10 : TR_MIN(100, steps / 10);
        c->schedule.warmup = TR_MAX(0, TR_MIN(usual, room));
    }
    if (is_open(c, "schedule.decay"))
        c->schedule.decay = TR_MAX(0, TR_MIN(steps / 5, steps - c->schedule.warmup));
    if (is_open(c, "schedule.start_lr"))
        c->schedule.start_lr = c->optimizer.lr / 25;
    if (is_open(c, "schedule.final_lr"))
        c->schedule.final_lr = wsd || c->schedule.name == TR_SCHEDULE_INVERSE_SQRT ? 0
                               : one_cycle                                        ? c->schedule.start_lr / 1e4
                                                                                  : c->optimizer.lr / 10;
    if (is_open(c, "schedule.cycle"))
        c->schedule.cycle = TR_MAX(1, (steps - c->schedule.warmup) / 4);
    if (is_open(c, "schedule.milestones")) {
        char text[64];
        snprintf(text, sizeof text, "%lld, %lld", (long long)TR_MAX(1, steps / 2), (long long)TR_MAX(2, steps - steps / 4));
        c->schedule.milestones = tr_arena_strdup(c->own->arena, text);
    }
}

/* The first of two keys that the user gave last: an override before the file, the file before a
 * preset. */
static const char *blamed(const tr_config *config, const char *a, const char *b)
{
    tr_origin of_a = config->own->origin[tr_config_key_find(a)];
    tr_origin of_b = config->own->origin[tr_config_key_find(b)];
    return of_b > of_a ? b : a;
}

/* The nearest divisors of n below and above d: "4 or 8", "1". */
static void near_divisors(int64_t n, int64_t d, char *out, size_t size)
{
    int64_t below = TR_MIN(d, n), above = d;
    while (below > 1 && n % below)
        below--;
    while (above < n && n % above)
        above++;
    if (above > n || above == below)
        snprintf(out, size, "%lld", (long long)below);
    else
        snprintf(out, size, "%lld or %lld", (long long)below, (long long)above);
}

/* Sizes that the family does not have. */
static tr_error *check_keys(const tr_config *c, const tr_family *family)
{
    for (int64_t k = 0; k < tr_config_key_count && family; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        const char *size = tr_config_key_size(key);
        if (size && c->own->origin[k] >= FROM_FILE && !tr_family_has(family, size))
            return tr_config_error(c, key->name, "the family %s has no %s; it has: %s", family->name, size, family->keys);
    }
    return NULL;
}

static tr_error *check_model(const tr_config *c)
{
    char heads[64], embed[64];
    const tr_family *family = c->model.family == TR_FAMILY_CUSTOM ? NULL : tr_families[c->model.family];
    TR_TRY(check_keys(c, family));
    if (c->model.preset && c->model.from)
        return tr_config_error(c, blamed(c, "model.from", "model.preset"),
                               "model.preset and model.from both decide the sizes; leave one of "
                               "them out, or set it to null");
    if (!c->model.sizes.head_dim && c->model.sizes.embed % c->model.sizes.heads) {
        int64_t below = c->model.sizes.embed / c->model.sizes.heads * c->model.sizes.heads,
                above = below + c->model.sizes.heads;
        near_divisors(c->model.sizes.embed, c->model.sizes.heads, heads, sizeof heads);
        if (below)
            snprintf(embed, sizeof embed, "%lld or %lld", (long long)below, (long long)above);
        else
            snprintf(embed, sizeof embed, "%lld", (long long)above);
        return tr_config_error(
            c, blamed(c, "model.embed", "model.heads"),
            "model.embed %lld is no multiple of model.heads %lld; nearest that do: "
            "embed %s, or heads %s",
            (long long)c->model.sizes.embed, (long long)c->model.sizes.heads, embed, heads);
    }
    return family && family->check ? tr_error_in_take(family->check(&c->model.sizes), "model.family %s", family->name) : NULL;
}

static tr_error *check_train(const tr_config *c)
{
    char divisors[64];
    if (c->train.seq > c->model.sizes.context)
        return tr_config_error(
            c, blamed(c, "train.seq", "model.context"),
            "train.seq %lld is longer than model.context %lld; make train.seq at most %lld "
            "or the context longer",
            (long long)c->train.seq, (long long)c->model.sizes.context, (long long)c->model.sizes.context);
    if (c->train.batch % c->train.micro_batch) {
        near_divisors(c->train.batch, c->train.micro_batch, divisors, sizeof divisors);
        return tr_config_error(
            c, blamed(c, "train.micro_batch", "train.batch"),
            "train.batch %lld is no multiple of train.micro_batch %lld; micro_batch could "
            "be %s",
            (long long)c->train.batch, (long long)c->train.micro_batch, divisors);
    }
    if (c->data.val.count && c->data.val_split > 0)
        return tr_config_error(c, blamed(c, "data.val_split", "data.val"),
                               "data.val and data.val_split are both given; leave one of them out");
    if (c->train.eval_every && !c->data.val.count && c->data.val_split == 0)
        return tr_config_error(c, blamed(c, "train.eval_every", "data.val_split"),
                               "train.eval_every %lld needs data to validate on: data.val, or a "
                               "data.val_split above 0",
                               (long long)c->train.eval_every);
    return NULL;
}

bool tr_tensor_grid_of(tr_tensor_kind kind, int64_t ranks, tr_tensor_grid *out)
{
    *out = (tr_tensor_grid){1, 1, 1};
    if (kind == TR_TENSOR_1D || ranks == 1)
        return true;
    for (int64_t q = ranks; q >= 2; q--) {
        int64_t depth = q <= ranks / q ? ranks / (q * q) : 0;
        bool square = kind == TR_TENSOR_2D && depth == 1, cube = kind == TR_TENSOR_3D && depth == q;
        if (depth * q * q != ranks || !(square || cube || (kind == TR_TENSOR_2_5D && depth > 1)))
            continue;
        *out = (tr_tensor_grid){depth, q, q};
        return true;
    }
    return false;
}

/* mesh.tensor must be of the kind's shape: the nearest that is below, or the first, and the next two. */
static tr_error *check_tensor_kind(const tr_config *c)
{
    static const char *const shapes[] = {"a row", "a square", "a square times a depth of 2 or more", "a cube"};
    static const char *const names[] = {"1d", "2d", "2.5d", "3d"};
    tr_tensor_kind kind = c->mesh.tensor_kind;
    tr_tensor_grid grid;
    int64_t good[3] = {0};
    if (tr_tensor_grid_of(kind, c->mesh.tensor, &grid))
        return NULL;
    for (int64_t n = c->mesh.tensor; n >= 2 && !good[0]; n--)
        good[0] = tr_tensor_grid_of(kind, n, &grid) ? n : 0;
    for (int64_t n = TR_MAX(good[0], 1) + 1; !good[2]; n++)
        if (tr_tensor_grid_of(kind, n, &grid))
            good[good[0] == 0 ? 0 : good[1] == 0 ? 1 : 2] = n;
    return tr_config_error(c, blamed(c, "mesh.tensor", "mesh.tensor_kind"),
                           "mesh.tensor_kind %s needs mesh.tensor to be %s: %lld, %lld, %lld", names[kind], shapes[kind],
                           (long long)good[0], (long long)good[1], (long long)good[2]);
}

/* The tensor axes of a grid: what each cuts, as in parallel.c. */
static tr_error *check_grid(const tr_config *c)
{
    tr_tensor_grid g;
    TR_TRY(check_tensor_kind(c));
    tr_tensor_grid_of(c->mesh.tensor_kind, c->mesh.tensor, &g);
    bool cube = c->mesh.tensor_kind == TR_TENSOR_3D;
    const struct {
        const char *what;
        int64_t ways, pieces;
    } rows[] = {{"the sequences of a microbatch", c->mesh.data * c->mesh.expert * g.row * (cube ? g.column : g.depth),
                 c->train.micro_batch},
                {"the heads", cube ? g.depth * g.row : g.column, c->model.sizes.heads},
                {"the MLP's width", cube ? g.depth * g.row : g.column, c->model.sizes.mlp},
                {"the embedding's width", cube ? g.column : g.row, c->model.sizes.embed},
                {"the tokens of a sequence", g.column, c->train.seq}};
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if (rows[i].ways > rows[i].pieces)
            return tr_config_error(c, blamed(c, "mesh.tensor", "mesh.tensor_kind"),
                                   "%s, %lld, are cut %lld ways by mesh.tensor %lld as %lld x %lld x %lld and mesh.data "
                                   "%lld; make them at least %lld, or the mesh smaller",
                                   rows[i].what, (long long)rows[i].pieces, (long long)rows[i].ways,
                                   (long long)c->mesh.tensor, (long long)g.depth, (long long)g.row, (long long)g.column,
                                   (long long)c->mesh.data, (long long)rows[i].ways);
    if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->mesh.tensor > 1)
        return tr_config_error(c, blamed(c, "mesh.sequence_kind", "mesh.tensor_kind"),
                               "mesh.sequence_kind megatron belongs to mesh.tensor_kind 1d; the other kinds cut sequences "
                               "between attention and MLP by themselves: leave mesh.sequence_kind out");
    return NULL;
}

/* The sequence axis: what goes with it, and the heads that Ulysses shares on top of the tensor axis. */
static tr_error *check_sequence(const tr_config *c)
{
    long long sequence = c->mesh.sequence, tensor = c->mesh.tensor, heads = c->model.sizes.heads;
    bool ulysses = c->mesh.sequence_kind == TR_SEQUENCE_ULYSSES, ring = c->mesh.sequence_kind == TR_SEQUENCE_RING;
    if (sequence > 1 && !ulysses && !ring)
        return tr_config_error(c, blamed(c, "mesh.sequence", "mesh.sequence_kind"),
                               "mesh.sequence %lld needs mesh.sequence_kind ulysses or ring; the other kinds leave it at 1",
                               sequence);
    if (sequence > 1 && c->mesh.tensor_kind != TR_TENSOR_1D)
        return tr_config_error(c, blamed(c, "mesh.sequence", "mesh.tensor_kind"),
                               "mesh.sequence %lld goes with mesh.tensor_kind 1d only; the other kinds cut sequences over "
                               "the tensor ranks already: leave mesh.sequence at 1", sequence);
    if (ulysses && sequence > heads / tensor)
        return tr_config_error(c, blamed(c, "mesh.sequence", "mesh.tensor"),
                               "mesh.sequence %lld cannot share the %lld heads of a rank that mesh.tensor %lld leaves of %lld; "
                               "it can be 1 to %lld, or use mesh.sequence_kind ring",
                               sequence, heads / tensor, tensor, heads, heads / tensor);
    return NULL;
}

/* What each axis of the mesh can share, and what goes together. */
static tr_error *check_mesh(const tr_config *c)
{
    bool grid = c->mesh.tensor_kind != TR_TENSOR_1D;
    if (grid)
        TR_TRY(check_grid(c));
    const struct {
        const char *key, *what;
        int64_t ranks, pieces;
    } rows[] = {{"mesh.data", "sequences of a microbatch", c->mesh.data, c->train.micro_batch},
                {"mesh.expert", "sequences of a data rank's microbatch", c->mesh.expert, c->train.micro_batch / c->mesh.data},
                {"mesh.expert", "experts", c->mesh.expert, c->model.sizes.experts ? c->model.sizes.experts : c->mesh.expert},
                {"mesh.tensor", "heads", grid ? 1 : c->mesh.tensor, c->model.sizes.heads},
                {"mesh.sequence", "tokens of a sequence", c->mesh.sequence, c->train.seq}};
    for (int64_t i = 0; i < TR_COUNT(rows); i++)
        if (rows[i].ranks > rows[i].pieces)
            return tr_config_error(c, rows[i].key, "%s %lld cannot share %lld %s; it can be 1 to %lld",
                                   rows[i].key, (long long)rows[i].ranks,
                                   (long long)rows[i].pieces, rows[i].what,
                                   (long long)rows[i].pieces);
    TR_TRY(check_sequence(c));
    if (c->mesh.expert > 1 && c->model.sizes.experts == 0 && c->model.family != TR_FAMILY_CUSTOM)
        return tr_config_error(c, blamed(c, "mesh.expert", "model.family"),
                               "mesh.expert %lld: the family %s has no experts to share; use mesh.data, or model.family "
                               "gshard, mixtral or switch",
                               (long long)c->mesh.expert, tr_families[c->model.family]->name);
    if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->train.seq < c->mesh.tensor)
        return tr_config_error(c, "mesh.tensor",
                               "mesh.tensor %lld cannot share %lld tokens of a sequence",
                               (long long)c->mesh.tensor, (long long)c->train.seq);
    int64_t layers = c->model.sizes.layers + c->model.sizes.decoder_layers; /* of both towers */
    if (c->mesh.pipeline * c->pipeline.chunks > layers && c->mesh.pipeline > 1)
        return tr_config_error(c, blamed(c, "mesh.pipeline", "pipeline.chunks"),
                               "mesh.pipeline %lld with pipeline.chunks %lld is %lld stages and the model has %lld layers; "
                               "there can be at most as many stages as layers",
                               (long long)c->mesh.pipeline, (long long)c->pipeline.chunks,
                               (long long)(c->mesh.pipeline * c->pipeline.chunks), (long long)layers);
    if (c->train.sample_every && c->model.family != TR_FAMILY_CUSTOM && !tr_families[c->model.family]->generates)
        return tr_config_error(
            c, blamed(c, "train.sample_every", "model.family"),
            "models of the family %s do not continue texts, so there are no samples while training; set train.sample_every=0",
            tr_families[c->model.family]->name);
    if (c->mesh.pipeline > 1 && c->train.sample_every)
        return tr_config_error(
            c, blamed(c, "train.sample_every", "mesh.pipeline"),
            "samples while training need every layer on each rank of a pipeline, and mesh.pipeline is %lld; set "
            "train.sample_every=0 and use `trireme generate` on the run",
            (long long)c->mesh.pipeline);
    return NULL;
}

static tr_error *check_schedule(const tr_config *c)
{
    long long steps = c->train.steps, warmup = c->schedule.warmup, decay = c->schedule.decay;
    if (warmup > steps)
        return tr_config_error(
            c, blamed(c, "schedule.warmup", "train.steps"),
            "schedule.warmup %lld is longer than train.steps %lld; it can be 0 to %lld", warmup,
            steps, steps);
    if (c->schedule.name == TR_SCHEDULE_WSD && decay > steps - warmup)
        return tr_config_error(
            c, blamed(c, "schedule.decay", "schedule.warmup"),
            "schedule.warmup %lld and schedule.decay %lld do not fit into train.steps %lld; "
            "decay can be 0 to %lld",
            warmup, decay, steps, steps - warmup);
    if (c->schedule.start_lr > c->optimizer.lr)
        return tr_config_error(c, blamed(c, "schedule.start_lr", "optimizer.lr"),
                               "schedule.start_lr %g is above optimizer.lr %g; it can be 0 to %g",
                               c->schedule.start_lr, c->optimizer.lr, c->optimizer.lr);
    int64_t *milestones, count;
    tr_error *error = tr_schedule_milestones(c->schedule.milestones, &milestones, &count);
    free(milestones);
    if (error) {
        tr_error *placed = tr_config_error(c, "schedule.milestones", "schedule.milestones: %s", tr_error_text(error));
        tr_error_free(error);
        return placed;
    }
    if (c->schedule.name != TR_SCHEDULE_CONSTANT && c->schedule.final_lr > c->optimizer.lr)
        return tr_config_error(c, blamed(c, "schedule.final_lr", "optimizer.lr"),
                               "schedule.final_lr %g is above optimizer.lr %g; it can be 0 to %g",
                               c->schedule.final_lr, c->optimizer.lr, c->optimizer.lr);
    return NULL;
}

/* Is the word in "a|b|c". */
static bool is_one_of(const char *word, const char *list)
{
    size_t length = strlen(word);
    for (; *list; list += strcspn(list, "|"), list += *list == '|')
        if (strcspn(list, "|") == length && strncmp(list, word, length) == 0)
            return true;
    return false;
}

/* An override that does nothing is a mistake; in a file it may wait for an override. */
static tr_error *check_effects(const tr_config *c)
{
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        if (!key->only_if || c->own->origin[k] != FROM_OVERRIDE)
            continue;
        size_t length = strcspn(key->only_if, "=");
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)length, key->only_if);
        tr_text value = {0};
        tr_config_value(c, &tr_config_keys[tr_config_key_find(name)], &value);
        const char *first = key->only_if + length + 1;
        tr_error *error =
            is_one_of(value.bytes, first)
                ? NULL
                : tr_config_error(c, key->name, "%s has no effect, since %s is %s; add %s=%.*s",
                                  key->name, name, value.bytes, name, (int)strcspn(first, "|"), first);
        tr_text_free(&value);
        if (error)
            return error;
    }
    return NULL;
}

tr_error *tr_config_check(const tr_config *config)
{
    TR_TRY(check_model(config));
    TR_TRY(check_train(config));
    TR_TRY(check_schedule(config));
    TR_TRY(check_mesh(config));
    return check_effects(config);
}

/* A size that the checkpoint decides: it may be given as well, if it is the same. */
static tr_error *take_size(tr_config *c, int64_t k, tr_config *from)
{
    const tr_config_key *key = &tr_config_keys[k];
    tr_text here = {0}, there = {0};
    tr_error *error = NULL;
    tr_config_value(c, key, &here);
    tr_config_value(from, key, &there);
    if (tr_config_given(c, key->name) && strcmp(here.bytes, there.bytes) != 0)
        error = tr_config_error(c, key->name,
                                "%s is %s here but %s in %s%s; leave it out, the checkpoint decides", key->name,
                                here.bytes, there.bytes, c->model.from,
                                tr_path_is_gguf(c->model.from) ? "" : "/config.json");
    tr_text_free(&here);
    tr_text_free(&there);
    return error;
}

/* All sizes but those that training may choose anew. */
static tr_error *take_sizes(tr_config *c, const tr_family *family, const tr_sizes *sizes)
{
    tr_config from = {.model = {.family = c->model.family, .sizes = *sizes, .banded = sizes->band > 0}};
    double dropout = c->model.sizes.dropout, z_loss = c->model.sizes.z_loss;
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        const char *size = tr_config_key_size(key);
        if (!size || !key->fixed || !tr_family_has(family, size))
            continue;
        if (strcmp(size, "labels") == 0 && !sizes->labels)
            continue; /* a model without a classifier can be given one */
        if (strcmp(size, "band") != 0 || sizes->band > 0)
            TR_TRY(take_size(c, k, &from));
        if (!tr_config_given(c, key->name))
            c->own->origin[k] = FROM_PRESET;
    }
    int64_t band = sizes->band > 0 ? sizes->band : c->model.sizes.band;
    int64_t labels = sizes->labels ? sizes->labels : c->model.sizes.labels;
    c->model.sizes = *sizes;
    c->model.sizes.dropout = dropout;
    c->model.sizes.z_loss = z_loss;
    c->model.sizes.band = band;
    c->model.sizes.labels = labels;
    c->model.banded = sizes->band > 0;
    return NULL;
}

tr_error *tr_config_read_from(tr_config *c)
{
    const char *from = c->model.from;
    bool gguf = tr_path_is_gguf(from) && tr_path_exists(from);
    if (!gguf && !tr_path_is_directory(from))
        return tr_config_error(
            c, "model.from",
            "model.from must be a directory with a Hugging Face checkpoint or a .gguf file, and '%s' is %s", from,
            tr_path_exists(from) ? "neither" : "not there");
    char *path = tr_path_join(from, "config.json");
    bool found = gguf || tr_path_exists(path);
    free(path);
    if (!found)
        return tr_config_error(c, "model.from", "'%s' has no config.json, so it is no checkpoint",
                               from);
    tr_sizes sizes;
    const tr_family *family;
    tr_error *error = tr_pretrained_read(from, &family, &sizes);
    if (error) {
        tr_error *placed = tr_config_error(c, "model.from", "%s", tr_error_text(error));
        tr_error_free(error);
        return placed;
    }
    for (int f = 0; f < TR_FAMILY_COUNT; f++)
        if (tr_families[f] == family)
            TR_TRY(tr_config_take_family(c, "model.from", from, f));
    return take_sizes(c, family, &sizes);
}

static tr_error *check_sources(const tr_config *c, const char *key, const tr_sources *sources)
{
    for (int64_t i = 0; i < sources->count; i++)
        if (!tr_path_exists(sources->items[i].path))
            return tr_config_error(c, key, "%s: there is no file or directory '%s'", key,
                                   sources->items[i].path);
    return NULL;
}

tr_error *tr_config_check_run(const tr_config *c)
{
    const char *tokenizer = c->data.tokenizer;
    if (!c->data.train.count)
        return tr_error_new(
            TR_USER, "there is nothing to train on; give data.train=FILE, or data.train in the "
                     "config file");
    TR_TRY(check_sources(c, "data.train", &c->data.train));
    TR_TRY(check_sources(c, "data.val", &c->data.val));
    if (strcmp(tokenizer, "bytes") != 0 && strcmp(tokenizer, "chars") != 0 &&
        !tr_path_exists(tokenizer))
        return tr_config_error(
            c, "data.tokenizer",
            "data.tokenizer: there is no file or directory '%s'; or write bytes or chars",
            tokenizer);
    if (tr_path_exists(c->out) && !tr_path_is_directory(c->out))
        return tr_config_error(c, "out", "out: '%s' is a file; the run needs a directory", c->out);
    tr_isa isa;
    tr_error *error = tr_isa_parse(c->isa, &isa);
    if (error) {
        tr_error *placed = tr_config_error(c, "isa", "isa: %s", tr_error_text(error));
        tr_error_free(error);
        return placed;
    }
    return NULL;
}
