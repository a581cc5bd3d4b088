/* The configuration of a run: one struct, read from YAML and from `key=value` overrides, fully
 * checked.
 *
 * Order of what decides a key, first to last: an override, the file, the preset or the checkpoint
 * of model.from, the default. A key that is unknown, of the wrong type, impossible, or in conflict
 * with another one is refused with its place and the values that would do. A loaded config is
 * complete: what was left open ("auto") has been decided, except what only the data can tell
 * (model.vocab 0: the tokenizer's size) or the machine (threads 0: all cores; isa auto).
 *
 * The keys are the rows of one table in config_schema.c: a new key is a field here and a row there.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ir/dtype.h"
#include "models/family.h"
#include "passes/passes.h"
#include "trireme.h"

/* What the complete config is called in a run's directory; tr_config_load_run reads it. */
#define TR_CONFIG_NAME "trireme.yaml"

typedef enum tr_schedule_kind {
    TR_SCHEDULE_CONSTANT,
    TR_SCHEDULE_LINEAR,
    TR_SCHEDULE_COSINE,
    TR_SCHEDULE_WSD,
    TR_SCHEDULE_RESTARTS,
    TR_SCHEDULE_POLYNOMIAL,
    TR_SCHEDULE_INVERSE_SQRT,
    TR_SCHEDULE_ONE_CYCLE,
    TR_SCHEDULE_MULTI_STEP,
    TR_SCHEDULE_COUNT
} tr_schedule_kind;

typedef enum tr_sequence_kind {
    TR_SEQUENCE_NONE,
    TR_SEQUENCE_MEGATRON,
    TR_SEQUENCE_ULYSSES,
    TR_SEQUENCE_RING
} tr_sequence_kind;

/* How the ranks of mesh.tensor stand: in a row, a square, a square times a depth, a cube. */
typedef enum tr_tensor_kind { TR_TENSOR_1D, TR_TENSOR_2D, TR_TENSOR_2_5D, TR_TENSOR_3D } tr_tensor_kind;

/* Where text comes from: a file, a directory, JSONL, or token shards; drawn in proportion to
 * weight. */
typedef struct tr_source {
    const char *path;
    double weight;
} tr_source;

typedef struct tr_sources {
    tr_source *items;
    int64_t count;
} tr_sources;

/* Texts are NULL when not given; everything is owned by the config. */
typedef struct tr_config {
    struct {
        int family;         /* of models/family.h */
        const char *preset; /* canonical name */
        const char *from;   /* a Hugging Face directory to start from */
        tr_sizes sizes;     /* vocab 0: the tokenizer's size */
        bool banded;        /* sizes.band counts */
    } model;
    struct {
        tr_sources train, val;
        const char *tokenizer; /* a directory, a file, "bytes" or "chars" */
        double val_split;      /* of the training data, held out; 0 with data.val */
        const char *cache;     /* directory for token shards; NULL: in `out` */
        int objective;         /* of data/objective.h */
        int64_t crop;          /* of images, with flip, erase and mixup: tr_augment */
        bool flip;
        double erase, mixup;
    } data;
    struct {
        int64_t steps, batch, micro_batch, seq, decoder_seq;
        tr_dtype precision;
        double loss_scale; /* of fp16, at the start; doubled after so many good steps */
        int64_t loss_scale_every;
        int64_t eval_every, eval_batches, save_every, keep, log_every; /* every 0: never */
        double clip;                                                   /* 0: none */
        int64_t sample_every;
        const char *sample_prompt;
        tr_recompute recompute;
    } train;
    struct {
        tr_optimizer_kind name;
        double lr, beta1, beta2, eps, weight_decay, momentum;
        double trust;                                  /* lars */
        double least_scale, update_limit, decay_power; /* adafactor */
        bool factored, relative;
    } optimizer;
    struct {
        tr_schedule_kind name;
        int64_t warmup; /* steps */
        double final_lr;
        int64_t decay; /* steps at the end of wsd */
        int64_t cycle, hold;
        double cycle_growth, power, start_lr, factor;
        const char *milestones; /* for tr_schedule_milestones */
    } schedule;
    struct {
        int64_t data, tensor, pipeline, sequence, expert; /* sizes; their product is the number of ranks */
        tr_tensor_kind tensor_kind;
        tr_sequence_kind sequence_kind;
        bool overlap;
        double bucket_mb;
        tr_dtype wire;
    } mesh;
    struct {
        const char *schedule; /* of tr_pipeline_kind, or a CSV file */
        int64_t chunks;       /* stages a rank */
    } pipeline;
    int64_t zero; /* 0..3 */
    int64_t seed;
    int64_t threads; /* a rank; 0: the cores divided among this machine's ranks */
    const char *isa; /* for tr_isa_parse */
    const char *out; /* the run's directory */
    struct tr_config_own *own;
} tr_config;

/* path NULL: defaults and overrides alone. An override is "key=value"; its value is a YAML scalar,
 * or a YAML list or map when it begins with [ or {. `null` takes a key back to its default. */
tr_error *tr_config_load(const char *path, char *const *overrides, int n_overrides,
                         tr_config **out);
/* The same from memory; `name` stands for the file in messages. */
tr_error *tr_config_parse(const char *name, const char *bytes, int64_t size, char *const *overrides,
                          int n_overrides, tr_config **out);
/* DIR/trireme.yaml, for --resume: `out` becomes DIR, model.from is not read again, and overrides
 * cannot change what the checkpoint depends on (the model's sizes, the tokenizer, the optimizer).
 */
tr_error *tr_config_load_run(const char *directory, char *const *overrides, int n_overrides,
                             tr_config **out);
void tr_config_free(tr_config *config);

/* What training needs beyond a sound config: data.train is given and its paths, the tokenizer's and
 * the others exist; this processor has `isa`. */
tr_error *tr_config_check_run(const tr_config *config);

/* True when the file or an override gave the key ("train.seq"). */
bool tr_config_given(const tr_config *config, const char *key);
/* A TR_USER error that begins with the place where the key was given, if it was: for checks that
 * need the data or the model, e.g. a vocabulary smaller than the tokenizer's. */
tr_error *tr_config_error(const tr_config *config, const char *key, const char *format, ...)
    TR_PRINTF(3, 4);

/* The complete config as YAML that loads to the same config, or as a JSON object; the caller owns
 * it. */
char *tr_config_text(const tr_config *config);
json_t *tr_config_json(const tr_config *config);
/* All keys with their defaults, valid values and meaning; the caller frees. */
char *tr_config_help(void);

/* The sides of what mesh.tensor_kind makes of `ranks`; 1d: all 1. False when no such shape has that many ranks. */
typedef struct tr_tensor_grid {
    int64_t depth, row, column;
} tr_tensor_grid;
bool tr_tensor_grid_of(tr_tensor_kind kind, int64_t ranks, tr_tensor_grid *out);

/* For tr_model functions. */
tr_sizes tr_config_sizes(const tr_config *config);
const char *tr_family_name(int family);
