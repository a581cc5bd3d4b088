/* metrics.jsonl: what a run did, one JSON object a line (docs/formats.md, "metrics.jsonl").
 *
 * Invariants of the file:
 *   1. A line is written by one write(2) at the end of the file, so a killed run leaves whole
 * lines, but for a power cut in the last one.
 *   2. A line that could not be written whole is taken back.
 *   3. Steps never decrease: a resume at step S removes what is beyond S, and a torn last line,
 * first. NaN and infinity are written as null. Numbers have the fewest digits that read back to the
 * same double.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "base/memory.h"

typedef struct tr_metrics tr_metrics;

typedef struct tr_metrics_run {
    const json_t *config; /* borrowed; may be NULL */
    const json_t *plan;   /* the mesh and what each rank has; borrowed; may be NULL */
    uint64_t plan_hash;
    int64_t planned_peak_bytes, parameters; /* of the rank that needs most; of all ranks */
    const char *version;
} tr_metrics_run;

typedef struct tr_metrics_step {
    int64_t step;
    double loss, lr, grad_norm;
    int64_t tokens; /* seen since the beginning of the run */
    double tokens_per_s, step_s;
    int64_t peak_bytes; /* of the process so far */
    int64_t bytes_sent; /* in this step by the rank that sent most; -1: one rank, not written */
    double loss_scale;  /* that the step was done with; 0: not written, nor what follows */
    int64_t skipped;    /* steps so far that an overflow kept from being applied */
} tr_metrics_step;

/* A new file (resume_step < 0; one that is there is replaced), or the old one up to and including
 * the lines of resume_step; if there is none, a new one. */
tr_error *tr_metrics_open(const char *path, int64_t resume_step, tr_metrics **out);
/* The first line; does nothing when the file has one already. */
tr_error *tr_metrics_begin(tr_metrics *metrics, const tr_metrics_run *run);
tr_error *tr_metrics_step_add(tr_metrics *metrics, const tr_metrics_step *step);
tr_error *tr_metrics_val_add(tr_metrics *metrics, int64_t step, double val_loss, double accuracy); /* NAN: none */
/* Bytes that are no UTF-8 are replaced by U+FFFD. */
tr_error *tr_metrics_sample_add(tr_metrics *metrics, int64_t step, const char *text);
void tr_metrics_close(tr_metrics *metrics); /* NULL is fine */

/* JSON pieces, for others that write lines: a number or null; a quoted string. */
void tr_metrics_number(tr_text *out, double value);
void tr_metrics_string(tr_text *out, const char *text, int64_t length);
