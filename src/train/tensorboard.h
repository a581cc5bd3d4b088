/* TensorBoard event files (docs/formats.md, "TensorBoard events"): scalars and texts by step.
 *
 * Each opening makes a file of its own, events.out.tfevents.TIME.HOST.PID.N, in the directory;
 * TensorBoard reads all of them as one run. On a resume the first record tells it to forget what is
 * beyond the step. Every event is written at once, whole.
 */
#pragma once
#include <stdint.h>

#include "base/error.h"

typedef struct tr_tensorboard tr_tensorboard;
typedef struct tr_scalar {
    const char *tag; /* "loss/train" */
    double value;
} tr_scalar;

/* resume_step < 0: a new run. The directory is made if need be. */
tr_error *tr_tensorboard_open(const char *directory, int64_t resume_step, tr_tensorboard **out);
tr_error *tr_tensorboard_scalars(tr_tensorboard *board, int64_t step, const tr_scalar *scalars,
                                 int64_t count);
/* Shown as Markdown by TensorBoard. */
tr_error *tr_tensorboard_text(tr_tensorboard *board, int64_t step, const char *tag,
                              const char *text);
void tr_tensorboard_close(tr_tensorboard *board); /* NULL is fine */
