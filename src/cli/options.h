/* The option parser that all commands share.
 *
 * A command fills a table of options whose rows point at its own variables, and a usage with the
 * words of its help. tr_options_parse sets the variables and collects the operands (what is not an
 * option):
 *
 *     bool quiet = false;
 *     const char *trace = NULL;
 *     const tr_option options[] = {
 *         {"quiet", 'q', NULL, "print nothing but errors", .flag = &quiet},
 *         {"trace", 0, "FILE", "write a trace of one step", .text = &trace},
 *     };
 *     const tr_usage usage = {"train", "CONFIG [key=value ...]", "train a model", options,
 * TR_COUNT(options), .examples = "trireme train examples/gpt2-small.yaml", .min = 1, .max = -1};
 *     tr_operands operands;
 *     TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
 *     if (operands.help)
 *         return NULL;
 *
 * Options and operands may be mixed; `--` ends the options; `--name=value` and `--name value` are
 * the same. Every option may be given once, except one with .texts. The operands and the texts
 * point into argv, which is permuted, and are valid as long as it.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct tr_texts {
    const char **items;
    int64_t count, room;
} tr_texts;

/* Exactly one of the destinations is set. A flag has no argument; all others have. */
typedef struct tr_option {
    const char *name;     /* without the dashes */
    char letter;          /* for -q, or 0 */
    const char *argument; /* what help calls the value; NULL for a flag */
    const char *help;
    bool *flag;
    const char **text;
    tr_texts *texts; /* may be given several times; the command frees with tr_texts_free */
    int64_t *integer;
    double *real;
    double least, most;         /* the limits of a number; both 0: no limits */
    const char *const *choices; /* the values a text may have, NULL-terminated; NULL: any */
} tr_option;

typedef struct tr_usage {
    const char *name;     /* "train", "tokenizer encode" */
    const char *operands; /* "CONFIG [key=value ...]", "" */
    const char *summary;  /* one line, small letter, no full stop */
    const tr_option *options;
    int64_t count;
    const char *examples; /* lines; each is indented in the help */
    const char *notes;    /* printed after the options, or NULL */
    int min, max;         /* number of operands; max -1: any */
} tr_usage;

typedef struct tr_operands {
    char **items;
    int count;
    bool help; /* --help was given and printed: the command returns NULL at once */
} tr_operands;

tr_error *tr_options_parse(const tr_usage *usage, int argc, char **argv, tr_operands *out);
void tr_options_help(const tr_usage *usage); /* on standard output */
void tr_texts_free(tr_texts *texts);

/* A TR_USER error whose text ends in a pointer to the help of the command. */
tr_error *tr_usage_error(const tr_usage *usage, const char *format, ...) TR_PRINTF(2, 3);
