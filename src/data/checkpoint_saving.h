/* A save in progress, by one rank or by several: what both do before and after the tensors are
 * written. Internal to checkpoint*.c.
 *
 * The order of things is what makes it safe (invariants of checkpoint.h):
 *   1. tr_saving_begin: lock; remove what a killed process left behind; make
 * OUT/checkpoints/.new-step-N
 *   2. the caller writes files into it, each synced, and adds each to the manifest
 *   3. tr_saving_publish: write the manifest, sync the directory, rename it to step-N, sync
 *      OUT/checkpoints (invariant 1); switch OUT/latest and the links of OUT/ (4); rename old ones
 * to .old-*, then delete them (3)
 *   4. tr_saving_end_take: unless the checkpoint is in place, remove the directory; unlock
 * A stop in 1 or 2 leaves the old state, after the rename the new one; what follows is finished by
 * the next save.
 */
#pragma once
#include "data/checkpoint.h"
#include "data/checkpoint_manifest.h"

typedef struct tr_saving {
    char *out_dir;
    char *parent;    /* OUT/checkpoints */
    char *temporary; /* OUT/checkpoints/.new-... */
    char *name; /* step-00001000, chosen when everything is written; NULL until it is in place */
    int64_t step;
    double need_bytes; /* of the tensors, for messages */
    tr_manifest manifest;
    int lock;
    bool began; /* the lock is ours, and so is `temporary` */
} tr_saving;

/* tr_checkpoint_prepare has succeeded. `suffix` makes the name of the directory unlike that of an
 * earlier attempt. tr_saving_end_take must follow, also after an error. */
tr_error *tr_saving_begin(const char *out_dir, const tr_checkpoint_contents *contents,
                          const char *suffix, tr_saving *out);
tr_error *tr_saving_publish(tr_saving *saving, int64_t keep_last);
/* Frees all; gives back `error` (consumed, may be NULL) with what it means. */
tr_error *tr_saving_end_take(tr_saving *saving, tr_error *error);

/* A file of tensors. */
typedef struct tr_tensor_file {
    char name[64];
    const tr_saved *tensors;
    int64_t count;
} tr_tensor_file;
/* Which files the tensors go to, the optimizer's last; the caller frees. */
tr_tensor_file *tr_saving_tensor_files(const tr_checkpoint_contents *contents, int64_t *out_count);
/* All files but those of tensors, which the manifest has already: index, trainer's state, the
 * caller's. */
tr_error *tr_saving_put_others(tr_saving *saving, const tr_checkpoint_contents *contents,
                               const tr_tensor_file *files, int64_t count);
