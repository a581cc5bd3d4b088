/* Labelled texts: JSONL files with an object a line.
 *
 *     {"text": "...", "label": "spam"}    {"text": "...", "pair": "...", "label": 1}    {"text": "..."}
 *
 * A label is a number, from 0 on, or a name; one kind in all files. Names are numbered in the order of their bytes. What
 * has no label is for prediction. Other members are left alone.
 */
#pragma once
#include "data/tokenizer.h"

typedef struct tr_labelled_text {
    char *text, *pair; /* pair NULL: there is none */
    int64_t length, pair_length;
    char *name;    /* of its label, when that is a text */
    int64_t label; /* -1: none; of a name: what tr_labelled_number found */
    int64_t line;
    const char *path;
} tr_labelled_text;

typedef struct tr_labelled {
    tr_labelled_text *items;
    int64_t count, room;
    uint64_t fingerprint; /* of all bytes */
} tr_labelled;

tr_error *tr_labelled_read(const char *const *paths, int64_t count, tr_labelled **out);
void tr_labelled_free(tr_labelled *texts); /* NULL is fine */
/* The names of labels, each once, in order; NULL and 0 when labels are numbers. The caller frees (tr_names_free). A mixture of
 * names and numbers is refused. */
tr_error *tr_labelled_names(const tr_labelled *texts, char ***out, int64_t *out_count);
/* Gives names their numbers and holds all labels against the number of classes (0: any). needed: everything has one. */
tr_error *tr_labelled_number(tr_labelled *texts, char *const *names, int64_t name_count, int64_t classes, bool needed);

/* [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; what is longer than `most` tokens loses the end of its longer half, as
 * transformers cuts ("longest_first"). *out_first: tokens that are of the first text, with its [CLS] and [SEP]. */
void tr_labelled_encode(const tr_tokenizer *tokenizer, const tr_labelled_text *text, int64_t most, tr_ids *out, int64_t *out_first);
