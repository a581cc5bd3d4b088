/* Objectives: from data to what a program is given, by the names of its inputs.
 *
 * An objective is a row in its own file, src/data/objective_NAME.c, and NAME in the list here. Its sample i is a pure
 * function of (data, seed, options, i), as the loader's is, so that ranks, microbatches and a resumed run agree
 * whatever they fetch. It fills the fields that it is asked for, no others: what a model does not ask for is not made.
 *
 * An opened objective never changes: any number of threads may fetch from it at once.
 */
#pragma once
#include "data/loader.h"
#include "ir/dtype.h"
#include "kernels/kernel.h"

#define TR_OBJECTIVES(X) X(causal) X(masked) X(classify) X(span) X(seq2seq) X(images)

/* One input's part in one sample. */
typedef struct tr_field {
    const char *name;
    tr_dtype dtype; /* TR_I32 or TR_F32 */
    int rank;       /* without the batch */
    int64_t dims[TR_MAX_RANK], elems;
    int32_t *ints; /* where the numbers go: one of the two, by dtype. They are 0 before */
    float *reals;
} tr_field;

/* What is done to images that are trained on; all 0: nothing. */
typedef struct tr_augment {
    int64_t crop; /* moved by up to so many pixels */
    bool flip;    /* mirrored, left and right, every second time */
    double erase; /* share of images of which a rectangle is erased */
    double mixup; /* each is mixed with another one, by a share from Beta(mixup, mixup) */
} tr_augment;

/* The target of a mixed image is soft, and given as so many labels of equal weight: its share is a multiple of 1 / 16. */
enum { TR_LABEL_PARTS = 16 };

typedef struct tr_objective_options {
    const tr_tokenizer *tokenizer; /* NULL: the data are no text */
    const char *const *paths, *const *val_paths;
    const double *weights; /* NULL: by size */
    int64_t n_paths, n_val_paths;
    const char *cache; /* directory for what is made of the data */
    int threads;
    int64_t seq, decoder_seq, vocab; /* as the model has them */
    uint64_t seed;
    double val_split;
    int64_t labels; /* classes that the model knows; 0: not checked */
    tr_augment augment;
} tr_objective_options;

typedef struct tr_objective_row {
    const char *name, *help;
    const char *inputs; /* the names that it can fill, between spaces */
    bool no_text;       /* the data are no text: there is no tokenizer */
    double counted;     /* share of the first head's targets that count; 0: all */
    bool classes;       /* a sample has one target, "labels": validation tells how many are right */
    /* Anything that the other functions want to have. */
    tr_error *(*open)(const tr_objective_options *options, void **out);
    void (*free)(void *own);
    tr_error *(*sample)(const void *own, bool validation, int64_t index, tr_field *fields, int count);
    /* Windows of text, as the loader has them: it is all that the four after it would tell. Otherwise those, and no loader. */
    const tr_loader *(*loader)(const void *own);
    int64_t (*val_count)(const void *own);
    tr_loader_info (*describe)(const void *own);
    /* As tr_loader_state and tr_loader_check_state. */
    char *(*state)(const void *own);
    tr_error *(*check_state)(const void *own, const char *state);
    /* Names of the classes, by number; NULL, or gives NULL: they have none. */
    const char *const *(*names)(const void *own);
} tr_objective_row;

#define TR_OBJECTIVE_ROW(name) extern const tr_objective_row tr_objective_##name;
TR_OBJECTIVES(TR_OBJECTIVE_ROW)
#undef TR_OBJECTIVE_ROW
enum {
#define X(name) TR_OBJECTIVE_##name,
    TR_OBJECTIVES(X)
#undef X
    TR_OBJECTIVE_COUNT
};
extern const tr_objective_row *const tr_objectives[TR_OBJECTIVE_COUNT];
/* -1: there is none. */
int tr_objective_find(const char *name);

typedef struct tr_objective {
    const tr_objective_row *row;
    void *own;
} tr_objective;

tr_error *tr_objective_open(int which, const tr_objective_options *options, tr_objective **out);
void tr_objective_free(tr_objective *objective); /* NULL is fine */
int64_t tr_objective_val_count(const tr_objective *objective);
tr_loader_info tr_objective_describe(const tr_objective *objective);
char *tr_objective_state(const tr_objective *objective); /* the caller frees */
tr_error *tr_objective_check_state(const tr_objective *objective, const char *state);
/* The field of a name, or NULL: for `sample`. */
tr_field *tr_field_find(tr_field *fields, int count, const char *name);
/* Fills positions 0, 1, ...; the field may be NULL. */
void tr_objective_count(tr_field *positions);
/* The loader that the options mean, for objectives on text whose windows are of `seq` tokens. */
tr_error *tr_objective_loader(const tr_objective_options *options, int64_t seq, tr_loader **out);
