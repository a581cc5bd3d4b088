/* The manifest of a checkpoint: what files it has, how long they are, their checksums. Internal to
 * checkpoint*.c. It is written last and carries its own checksum, so a directory with a manifest
 * that loads is one that was finished.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

#define TR_MANIFEST_NAME "manifest.json"
#define TR_TRAINER_NAME "trainer.json"
#define TR_OPTIMIZER_NAME "optimizer.safetensors"

typedef struct tr_manifest {
    int64_t step;
    int64_t sequence; /* 1 for the first checkpoint saved in a run, and so on */
    bool best;
    json_t *files; /* {name: {"bytes": n, "crc32c": "8 hex digits"}} */
} tr_manifest;

void tr_manifest_init(tr_manifest *manifest, int64_t step, int64_t sequence, bool best);
void tr_manifest_free(tr_manifest *manifest);
void tr_manifest_add(tr_manifest *manifest, const char *name, int64_t bytes, uint32_t crc32c);
tr_error *tr_manifest_save(const tr_manifest *manifest, const char *directory);
/* On an error *out is empty and needs no free. */
tr_error *tr_manifest_load(const char *directory, tr_manifest *out);
/* Reads every file of the manifest but `except` (may be NULL) and compares. */
tr_error *tr_manifest_verify(const tr_manifest *manifest, const char *directory,
                             const char *except);

/* A directory of OUT/checkpoints. */
typedef struct tr_checkpoint_entry {
    char *directory;  /* path */
    const char *name; /* its last part */
    tr_manifest manifest;
    char *damage; /* why the manifest could not be loaded, NULL if it was */
} tr_checkpoint_entry;

/* The whole checkpoints of a run: those with a good manifest first, the newest of them first, then
 * the others by falling name. None is no error. */
tr_error *tr_checkpoint_entries(const char *out_dir, tr_checkpoint_entry **out, int64_t *out_count);
void tr_checkpoint_entries_free(tr_checkpoint_entry *entries, int64_t count);
/* The step in a name like step-00001000.2, or -1. */
int64_t tr_checkpoint_name_step(const char *name);
