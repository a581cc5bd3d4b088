/* Saving a checkpoint; see checkpoint.h for the invariants that are cited here.
 *
 * The order of things is what makes it safe:
 *   1. lock; remove what a killed process left behind
 *   2. write OUT/checkpoints/.new-step-N/, each file synced, manifest.json last; sync the directory
 *   3. rename it to step-N; sync OUT/checkpoints                                    (invariant 1)
 *   4. switch OUT/latest and the links of OUT/                                      (invariant 4)
 *   5. rename old ones to .old-*, then delete them                                  (invariant 3)
 * A stop in 1 or 2 leaves the old state, after 3 the new one; 4 and 5 are finished by the next
 * save.
 */
#define _GNU_SOURCE
#include "data/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/checkpoint_manifest.h"
#include "data/checkpoint_publish.h"

static const int64_t DEFAULT_SHARD_BYTES = 5000000000;
static const char INDEX_NAME[] = "model.safetensors.index.json";

static bool is_plain_file(const char *directory, const char *name)
{
    char *path = tr_path_join(directory, name);
    struct stat info;
    bool plain = lstat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return plain;
}

tr_error *tr_checkpoint_prepare(const char *out_dir)
{
    static const char *const models[] = {"config.json", "model.safetensors",
                                         "model.safetensors.index.json", "pytorch_model.bin"};
    char *checkpoints = tr_path_join(out_dir, "checkpoints");
    tr_error *error = NULL;
    if (!tr_path_is_directory(checkpoints)) {
        for (int i = 0; i < TR_COUNT(models) && !error; i++)
            if (is_plain_file(out_dir, models[i]))
                error =
                    tr_error_new(TR_USER,
                                 "%s holds a model that no run of Trireme made (%s), which saving "
                                 "would replace: choose another 'out'",
                                 out_dir, models[i]);
        if (!error)
            error = tr_directory_make(checkpoints);
    }
    free(checkpoints);
    return error;
}

/* One save in progress. */
typedef struct saving {
    const char *out_dir;
    const tr_checkpoint_contents *contents;
    char *parent;    /* OUT/checkpoints */
    char *temporary; /* OUT/checkpoints/.new-... */
    char *name;      /* step-00001000, chosen when everything is written */
    tr_manifest manifest;
    int lock;
} saving;

/* Held until the process ends or closes it, so that a kill releases it. */
static tr_error *take_lock(saving *s)
{
    char *path = tr_path_join(s->parent, ".lock");
    tr_error *error = NULL;
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (s->lock < 0)
        error = tr_error_errno(TR_RUN, errno, "cannot open %s", path);
    else if (flock(s->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        error = tr_error_new(TR_RUN,
                             "another process is saving into %s: let every run have its own 'out'",
                             s->out_dir);
    free(path);
    return error; /* a file system without locks is used without one */
}

static tr_error *remove_leftovers(const saving *s)
{
    char **names;
    int64_t count;
    TR_TRY(tr_directory_list(s->parent, &names, &count));
    tr_error *error = NULL;
    for (int64_t i = 0; i < count && !error; i++)
        if (strncmp(names[i], ".new-", 5) == 0 || strncmp(names[i], ".old-", 5) == 0) {
            char *path = tr_path_join(s->parent, names[i]);
            error = tr_path_remove(path);
            free(path);
        }
    tr_names_free(names, count);
    return error;
}

/* Writing the files. */

static tr_error *put_bytes(saving *s, const char *name, const void *bytes, int64_t size)
{
    char *path = tr_path_join(s->temporary, name);
    tr_error *error = tr_file_write(path, bytes, size);
    free(path);
    if (!error)
        tr_manifest_add(&s->manifest, name, size, tr_crc32c(0, bytes, size));
    return error;
}

static tr_error *put_json(saving *s, const char *name, const json_t *json)
{
    char *text = tr_json_text(json);
    tr_error *error = put_bytes(s, name, text, (int64_t)strlen(text));
    free(text);
    return error;
}

static tr_error *put_tensors(saving *s, const char *name, const tr_saved *tensors, int64_t count)
{
    char *path = tr_path_join(s->temporary, name);
    int64_t bytes;
    uint32_t crc;
    tr_error *error = tr_safetensors_save(path, tensors, count, &bytes, &crc);
    free(path);
    if (!error)
        tr_manifest_add(&s->manifest, name, bytes, crc);
    return error;
}

/* How many tensors from `first` on fit into one shard; at least one. *out_bytes: their size. */
static int64_t shard_length(const tr_checkpoint_contents *c, int64_t first, int64_t limit,
                            int64_t *out_bytes)
{
    int64_t n = first;
    for (*out_bytes = 0; n < c->model_count; n++) {
        int64_t bytes = tr_saved_bytes(&c->model[n]);
        if (n > first && bytes > limit - *out_bytes)
            break;
        *out_bytes += bytes;
    }
    return n - first;
}

static tr_error *put_model(saving *s)
{
    const tr_checkpoint_contents *c = s->contents;
    int64_t limit = c->shard_bytes > 0 ? c->shard_bytes : DEFAULT_SHARD_BYTES, shards = 0, bytes;
    for (int64_t i = 0; i < c->model_count; i += shard_length(c, i, limit, &bytes))
        shards++;
    if (shards <= 1)
        return put_tensors(s, "model.safetensors", c->model, c->model_count);
    json_t *map = json_object();
    int64_t total = 0, shard = 1;
    tr_error *error = NULL;
    for (int64_t i = 0, n; i < c->model_count && !error; i += n, shard++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05lld-of-%05lld.safetensors", (long long)shard,
                 (long long)shards);
        n = shard_length(c, i, limit, &bytes);
        total += bytes;
        for (int64_t k = i; k < i + n; k++)
            json_object_set_new(map, c->model[k].name, json_string(name));
        error = put_tensors(s, name, c->model + i, n);
    }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    TR_CHECK(index, "out of memory for an index");
    if (!error)
        error = put_json(s, INDEX_NAME, index);
    json_decref(index);
    return error;
}

/* Not a name that means something else in OUT/, or that the checkpoint already has. */
static bool may_be_named(const saving *s, const char *name)
{
    static const char *const reserved[] = {"latest", "best", "checkpoints", TR_MANIFEST_NAME};
    for (int i = 0; i < TR_COUNT(reserved); i++)
        if (strcmp(name, reserved[i]) == 0)
            return false;
    return *name && *name != '.' && !strchr(name, '/') && !json_object_get(s->manifest.files, name);
}

static tr_error *put_everything(saving *s)
{
    const tr_checkpoint_contents *c = s->contents;
    if (mkdir(s->temporary, 0777) != 0)
        return tr_error_errno(TR_RUN, errno, "cannot make directory %s", s->temporary);
    TR_TRY(put_model(s));
    TR_TRY(put_tensors(s, TR_OPTIMIZER_NAME, c->optimizer, c->optimizer_count));
    TR_TRY(put_json(s, TR_TRAINER_NAME, c->trainer));
    for (int64_t i = 0; i < c->file_count; i++) {
        const char *name = c->files[i].name;
        if (!may_be_named(s, name))
            return tr_error_new(TR_RUN, "a checkpoint cannot hold a file named '%s': rename it",
                                name);
        TR_TRY(put_bytes(s, name, c->files[i].bytes, c->files[i].size));
    }
    TR_TRY(tr_manifest_save(&s->manifest, s->temporary));
    return tr_directory_sync(s->temporary);
}

/* Its name is free: step-N, or step-N.2 and so on when that step was saved before. */
static tr_error *put_in_place(saving *s)
{
    for (int n = 1;; n++) {
        char *name = n == 1 ? tr_format("step-%08lld", (long long)s->contents->step)
                            : tr_format("step-%08lld.%d", (long long)s->contents->step, n);
        char *path = tr_path_join(s->parent, name);
        struct stat info;
        bool taken = lstat(path, &info) == 0;
        tr_error *error = NULL;
        if (!taken && rename(s->temporary, path) != 0)
            error = tr_error_errno(TR_RUN, errno, "cannot rename %s to %s", s->temporary, path);
        free(path);
        if (taken || error)
            free(name);
        else
            s->name = name;
        if (!taken)
            return error;
    }
}

static tr_error *discard(const saving *s, const char *name)
{
    char *path = tr_path_join(s->parent, name), *hidden = tr_format("%s/.old-%s", s->parent, name);
    tr_error *error = NULL;
    if (rename(path, hidden) != 0)
        error = tr_error_errno(TR_RUN, errno, "cannot remove the old checkpoint %s", path);
    else
        error = tr_path_remove(hidden);
    free(path);
    free(hidden);
    return error;
}

/* `entries` are newest first, the new one among them. A directory without a good manifest is left
 * alone: it is not ours to judge. */
static tr_error *remove_old(const saving *s, const tr_checkpoint_entry *entries, int64_t count,
                            int64_t keep_last)
{
    int64_t kept = 0;
    bool best_seen = false;
    for (int64_t i = 0; i < count; i++) {
        const tr_checkpoint_entry *entry = &entries[i];
        if (entry->damage)
            continue;
        bool newest = strcmp(entry->name, s->name) == 0;
        bool superseded = !newest && entry->manifest.step == s->contents->step;
        bool best = entry->manifest.best && !best_seen;
        best_seen |= entry->manifest.best;
        bool recent = !superseded && kept < keep_last;
        kept += recent;
        if (!newest && !recent && !best)
            TR_TRY(discard(s, entry->name));
    }
    return NULL;
}

/* Why it failed and what that means, with the room on the disk. */
static tr_error *explain_take(tr_error *error, const saving *s)
{
    const tr_checkpoint_contents *c = s->contents;
    double need = 0, free_bytes = -1;
    for (int64_t i = 0; i < c->model_count; i++)
        need += (double)tr_saved_bytes(&c->model[i]);
    for (int64_t i = 0; i < c->optimizer_count; i++)
        need += (double)tr_saved_bytes(&c->optimizer[i]);
    struct statvfs disk;
    if (statvfs(s->parent, &disk) == 0)
        free_bytes = (double)disk.f_bavail * (double)disk.f_frsize;
    return tr_error_in_take(
        error,
        "the checkpoint of step %lld was not saved (it needs %.1f MB, %.1f MB are "
        "free; the earlier checkpoints are untouched)",
        (long long)c->step, need / 1e6, free_bytes / 1e6);
}

tr_error *tr_checkpoint_save(const char *out_dir, const tr_checkpoint_contents *contents,
                             int64_t keep_last, bool *out_complete)
{
    TR_CHECK(contents->step >= 0 && keep_last >= 1, "step %lld, keep %lld",
             (long long)contents->step, (long long)keep_last);
    bool unused, *complete = out_complete ? out_complete : &unused;
    *complete = false;
    TR_TRY(tr_checkpoint_prepare(out_dir));
    saving s = {.out_dir = out_dir, .contents = contents, .lock = -1};
    s.parent = tr_path_join(out_dir, "checkpoints");
    s.temporary = tr_format("%s/.new-step-%08lld", s.parent, (long long)contents->step);
    tr_checkpoint_entry *entries = NULL;
    int64_t count = 0, sequence = 1;
    bool began = false;
    tr_error *error;
    TR_GO(take_lock(&s));
    began = true;
    TR_GO(remove_leftovers(&s));
    TR_GO(tr_checkpoint_entries(out_dir, &entries, &count));
    if (count && !entries[0].damage)
        sequence = entries[0].manifest.sequence + 1;
    tr_checkpoint_entries_free(entries, count);
    entries = NULL;
    tr_manifest_init(&s.manifest, contents->step, sequence, contents->best);
    TR_GO(put_everything(&s));
    TR_GO(put_in_place(&s));
    *complete = true;
    TR_GO(tr_directory_sync(s.parent));
    TR_GO(tr_checkpoint_publish(out_dir, s.name, &s.manifest));
    TR_GO(tr_checkpoint_entries(out_dir, &entries, &count));
    error = remove_old(&s, entries, count, keep_last);
done:
    if (error && *complete)
        error = tr_error_in_take(error, "the checkpoint of step %lld is saved, but",
                                 (long long)contents->step);
    else if (error)
        error = explain_take(error, &s);
    if (began && !*complete)
        tr_error_free(tr_path_remove(s.temporary));
    if (entries)
        tr_checkpoint_entries_free(entries, count);
    if (s.lock >= 0)
        close(s.lock);
    tr_manifest_free(&s.manifest);
    free(s.parent);
    free(s.temporary);
    free(s.name);
    return error;
}
