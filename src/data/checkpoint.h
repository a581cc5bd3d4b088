/* Checkpoints: what a run saves and what it resumes from. docs/formats.md has the layout.
 *
 * OUT/ is a run's directory. OUT/checkpoints/step-00001000/ is one checkpoint: a Hugging Face
 * directory plus optimizer.safetensors, trainer.json and manifest.json. OUT/latest links to the
 * newest, and the files of OUT/ itself link through OUT/latest, so that OUT/ is a Hugging Face
 * directory too.
 *
 * Invariants, at every moment, also after a kill, a full disk or a loss of power:
 *  1. A directory OUT/checkpoints/step-* is whole: it got that name after all its bytes were
 * synced. What is not whole yet, or about to be deleted, has a name that begins with a dot.
 *  2. A checkpoint never changes. Saving the same step again makes a second one, step-00001000.2,
 *     and then removes the first.
 *  3. An old checkpoint is removed only after the new one is durable.
 *  4. All links of OUT/ go through OUT/latest, which is replaced in one rename: they never show
 *     files of two checkpoints. (Where the file system has no links they are copies, and
 * config.json is away while they are replaced: a reader refuses rather than mixes.)
 *  5. Newest means saved last (manifest: sequence), not of the highest step: a run may go back.
 *
 * Nothing here knows of graphs: a checkpoint is named tensors, one opaque JSON value, and files.
 * One process saves into OUT at a time (a lock); any number may read. Several ranks save one
 * checkpoint together by checkpoint_ranks.h.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "data/safetensors.h"

/* A file to be put beside the tensors: config.json, tokenizer.json ... */
typedef struct tr_checkpoint_file {
    const char *name;
    const void *bytes;
    int64_t size;
} tr_checkpoint_file;

/* What to save; the caller owns all of it and changes nothing while it is saved. */
typedef struct tr_checkpoint_contents {
    int64_t step;
    const tr_saved *model; /* Hugging Face's names and layout */
    int64_t model_count;
    const tr_saved *optimizer;
    int64_t optimizer_count;
    const json_t *trainer; /* an object: step, data position, seeds, config ... */
    const tr_checkpoint_file *files;
    int64_t file_count;
    bool best;           /* the lowest validation loss so far: kept until there is a better one */
    int64_t shard_bytes; /* model files are cut at about this size; 0: 5 GB */
} tr_checkpoint_contents;

/* At the start of a run: makes OUT, and refuses one that holds somebody else's model (TR_USER). */
tr_error *tr_checkpoint_prepare(const char *out_dir);

/* Saves, publishes in OUT/, and removes all but the newest `keep_last` (at least 1) and the best.
 * *out_complete, if not NULL, says whether the new checkpoint is in place: it can be although an
 * error is returned, when a link or an old checkpoint could not be replaced. After an error without
 * it, everything is as before and the disk space is free again. Cost: one pass over the bytes, no
 * copy. */
tr_error *tr_checkpoint_save(const char *out_dir, const tr_checkpoint_contents *contents,
                             int64_t keep_last, bool *out_complete);

typedef struct tr_checkpoint tr_checkpoint;
typedef enum tr_checkpoint_part {
    TR_CHECKPOINT_MODEL, /* the model and the files beside it */
    TR_CHECKPOINT_ALL,   /* also the optimizer and the trainer's state: to resume */
} tr_checkpoint_part;

/* `path` is OUT (the newest good checkpoint), one checkpoint's directory (that one or an error),
 * or, for TR_CHECKPOINT_MODEL, any Hugging Face directory or GGUF file. Sizes and checksums of what is wanted
 * are verified. If OUT's newest checkpoint is damaged an older one is opened and
 * tr_checkpoint_warning says which file was damaged: show it to the user. */
tr_error *tr_checkpoint_open(const char *path, tr_checkpoint_part part, tr_checkpoint **out);
void tr_checkpoint_close(tr_checkpoint *checkpoint); /* NULL is fine */

/* All borrowed until the close. */
const char *tr_checkpoint_warning(const tr_checkpoint *checkpoint); /* NULL: all is well */
const char *
tr_checkpoint_directory(const tr_checkpoint *checkpoint);    /* for config.json and others */
int64_t tr_checkpoint_step(const tr_checkpoint *checkpoint); /* -1: not a checkpoint of a run */
const tr_safetensors *tr_checkpoint_model(const tr_checkpoint *checkpoint);
/* NULL unless opened with TR_CHECKPOINT_ALL. */
const tr_safetensors *tr_checkpoint_optimizer(const tr_checkpoint *checkpoint);
/* NULL for a Hugging Face directory that is not a checkpoint. */
const json_t *tr_checkpoint_trainer(const tr_checkpoint *checkpoint);
