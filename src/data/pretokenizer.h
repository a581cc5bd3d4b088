/* Pre-tokenizers: how a normalized text is cut into the pieces (words) that a model looks up one by one.
 *
 * Read from a tokenizer.json's "pre_tokenizer": ByteLevel, Split by a pattern, Digits, BertPreTokenizer, Metaspace,
 * WhitespaceSplit before a Metaspace, and Sequences of them. First the text may be rewritten (a marker for each
 * space, one before the text), then stages cut it, each the pieces of the stage before.
 */
#pragma once
#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"
#include "data/pattern.h"

enum { TR_MOST_STAGES = 8 };

typedef enum tr_stage_kind {
    TR_STAGE_GPT2,    /* GPT-2's words (tokenizer_split.c) */
    TR_STAGE_BERT,    /* words and single punctuation characters; white space goes */
    TR_STAGE_MARKER,  /* a piece begins at each marker */
    TR_STAGE_PATTERN, /* matches and what is between them are pieces */
    TR_STAGE_MATCHES, /* only matches are */
    TR_STAGE_GAPS,    /* only what is between matches is */
} tr_stage_kind;

typedef struct tr_stage {
    tr_stage_kind kind;
    tr_pattern *pattern;
} tr_stage;

typedef enum tr_prepend { TR_PREPEND_NEVER, TR_PREPEND_FIRST, TR_PREPEND_ALWAYS } tr_prepend;

typedef struct tr_pretokenizer {
    tr_stage stages[TR_MOST_STAGES];
    int stage_count;
    bool byte_level;       /* the vocabulary is of bytes */
    bool prefix_space;     /* byte level: a space before a text that has none */
    bool metaspace, words; /* spaces become markers; or words get one each and white space goes */
    tr_prepend prepend;
    char marker[5];
} tr_pretokenizer;

/* Fills *out, which must be zero; tr_pretokenizer_end frees what is in it, also after an error. */
tr_error *tr_pretokenizer_read(const json_t *json, const char *where, tr_pretokenizer *out);
void tr_pretokenizer_end(tr_pretokenizer *rules);

/* True when the text is rewritten before it is cut. */
bool tr_pretokenizer_rewrites(const tr_pretokenizer *rules);
/* Appends the rewritten text. `first`: the text starts here, or follows an added token; `start`: nothing at all is
 * before it. */
void tr_pretokenizer_rewrite(const tr_pretokenizer *rules, const char *text, int64_t length, bool first, bool start,
                             tr_text *out);

typedef struct tr_piece {
    const char *p, *end;
} tr_piece;
typedef struct tr_cutter {
    const tr_pretokenizer *rules;
    tr_piece left[TR_MOST_STAGES]; /* what each stage has yet to cut */
} tr_cutter;
void tr_cutter_start(tr_cutter *cutter, const tr_pretokenizer *rules, const char *text, const char *end);
/* Up to `room` pieces, none empty; 0 when there are no more. */
int64_t tr_cutter_next(tr_cutter *cutter, tr_piece *pieces, int64_t room);
