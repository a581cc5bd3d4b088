/* The model families: one row each, in the family's file under src/models.
 *
 * Whoever needs to know something about a family asks its row; nothing else names one. To add a family: its file
 * with the row `tr_family_NAME`, and NAME in the list here (docs/add-a-model.md).
 */
#pragma once
#include <jansson.h>

#include "base/error.h"
#include "trireme.h"

#define TR_FAMILIES(X) \
    X(gpt2) \
    X(llama) \
    X(palm) \
    X(bert) \
    X(t5) \
    X(transformer) \
    X(gshard) \
    X(mixtral) \
    X(switch) \
    X(vit) \
    X(swin)

/* The sizes of a published model. What is 0 is left to `complete`. */
typedef struct tr_preset {
    const char *name, *also; /* other names, between spaces */
    tr_sizes sizes;
} tr_preset;

/* Two names in files for one tensor. */
typedef struct tr_same_tensor {
    const char *stored;    /* in files, may be absent */
    const char *parameter; /* that it must be equal to */
} tr_same_tensor;

typedef struct tr_family {
    const char *name;         /* model.family */
    const char *model_type;   /* in config.json */
    const char *architecture; /* what is written there */
    tr_model model;
    const char *objective; /* what it learns when data.objective does not say */
    const char *classifies; /* the same with model.labels, in families that learn something else without; NULL: none */
    const char *keys;      /* the keys of `model.` that it has, between spaces */
    /* Sizes from config.json and back. What would be computed differently here is refused, naming the key. */
    tr_error *(*read)(const json_t *config, const char *where, tr_sizes *out);
    void (*write)(json_t *config, const tr_sizes *sizes);
    /* Decides what is 0 and cannot be; NULL: nothing. */
    void (*complete)(tr_sizes *sizes);
    /* What cannot be computed: a sentence with what would do; NULL: all can. */
    tr_error *(*check)(const tr_sizes *sizes);
    const tr_preset *presets; /* ends with a NULL name; NULL: none */
    const char *prefixes;     /* of parameters' names, between spaces, which files may leave out; NULL: none */
    const char *optional;     /* beginnings of names, between spaces, that files may lack: a model's heads, which start as
                                 the seed says then; NULL: none */
    const tr_same_tensor *same; /* ends with a NULL name; NULL: none */
    bool generates;           /* continues a text: `generate`, samples while training */
    bool two_towers;          /* makes a text from a text: `generate` too, by serve/answer.h */
} tr_family;

#define TR_FAMILY_ROW(name) extern const tr_family tr_family_##name;
TR_FAMILIES(TR_FAMILY_ROW)
#undef TR_FAMILY_ROW

enum {
#define X(name) TR_FAMILY_##name,
    TR_FAMILIES(X)
#undef X
    TR_FAMILY_COUNT,
    TR_FAMILY_CUSTOM = TR_FAMILY_COUNT /* a program's own model function, given to tr_train */
};
extern const tr_family *const tr_families[TR_FAMILY_COUNT];

/* What a model of these sizes learns when nothing says otherwise; of NULL, a program's own, causal. */
const char *tr_family_objective(const tr_family *family, const tr_sizes *sizes);
/* Does the family have this size ("kv_heads")? NULL, a program's own, has all. */
bool tr_family_has(const tr_family *family, const char *key);
/* A preset by name or another of its names, and whose it is; NULL: there is none. */
const tr_preset *tr_preset_find(const char *name, int *out_family);
/* All names of presets, "a, b, c"; the caller frees. of: one family's, or NULL. */
char *tr_preset_names(const tr_family *of);
/* The nearest name of a preset, or NULL. */
const char *tr_preset_suggest(const char *name);

/* GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020). Parameter names are Hugging Face's. */
void tr_gpt(tr_graph *graph, const tr_sizes *sizes, void *unused);
