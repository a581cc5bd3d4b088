/* What a person sees while a model trains: a bar that is redrawn in place on a terminal, plain
 * lines in a pipe or a log. It writes to the FILE that the caller gives and to nothing else.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

typedef enum tr_progress_mode {
    TR_PROGRESS_AUTO, /* a bar if `out` is a terminal that can, lines otherwise */
    TR_PROGRESS_BAR,
    TR_PROGRESS_LINES,
} tr_progress_mode;

typedef struct tr_progress tr_progress;
typedef struct tr_progress_step {
    int64_t step; /* 1 to steps */
    double loss, tokens_per_s, step_s;
    double peak_share; /* of the machine's peak, 0 to 1; 0 or NaN: not known, not shown */
} tr_progress_step;

/* Steps first_step + 1 to `steps` will come. Lines come every `every` steps, or when `every` is 0
 * about a hundred times a run, at most one a second and at least one in 30 seconds; the first and
 * last step always. */
tr_progress *tr_progress_new(FILE *out, tr_progress_mode mode, int64_t first_step, int64_t steps,
                             int64_t every);
void tr_progress_show(tr_progress *progress, const tr_progress_step *step);
/* A line of its own, such as a validation loss or a sample, above the bar. */
void tr_progress_note(tr_progress *progress, const char *format, ...) TR_PRINTF(2, 3);
/* Leaves the last bar standing and ends its line. */
void tr_progress_free(tr_progress *progress); /* NULL is fine */

/* "850", "12.3k", "4.56M"; "45s", "3m20s", "2h05m", "3d04h". Both fit in 16 bytes. */
void tr_progress_count(double value, char out[16]);
void tr_progress_time(double seconds, char out[16]);
