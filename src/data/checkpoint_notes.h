/* Notes of which elements of a tensor were written: runs of equal length at equal distances, so
 * that a block of a large tensor is a line or two and not a line a row. Internal to checkpoint*.c.
 */
#pragma once
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

typedef struct tr_runs {
    int64_t first, length; /* elements [first, first + length) ... */
    int64_t step, times;   /* ... and the same, step further each time */
} tr_runs;

typedef struct tr_notes {
    tr_runs *runs;
    int64_t count, room;
} tr_notes;

void tr_notes_free(tr_notes *notes);
/* Elements [first, first + length), length > 0. */
void tr_notes_add(tr_notes *notes, int64_t first, int64_t length);
/* An array of [first, length, step, times]; the caller owns it. */
json_t *tr_notes_json(const tr_notes *notes);
/* Adds those of the array, which must lie in a tensor of `elems` elements. */
tr_error *tr_notes_parse(tr_notes *notes, const json_t *array, int64_t elems, const char *where);
/* The first gap [first, *out_end) in [0, elems), or -1. Cost: O(r log n) for n
 * patterns of r runs in all. */
int64_t tr_notes_gap(const tr_notes *notes, int64_t elems, int64_t *out_end);
