/* What every save does; see checkpoint_saving.h. */
#define _GNU_SOURCE
#include "data/checkpoint_saving.h"

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

/* Beginning. */

/* Held until the process ends or closes it, so that a kill releases it. */
static tr_error *take_lock(tr_saving *s)
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

static tr_error *remove_leftovers(const tr_saving *s)
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

tr_error *tr_saving_begin(const char *out_dir, const tr_checkpoint_contents *c, const char *suffix,
                          tr_saving *s)
{
    TR_CHECK(c->step >= 0, "step %lld", (long long)c->step);
    *s = (tr_saving){.out_dir = tr_strdup(out_dir), .step = c->step, .lock = -1};
    s->parent = tr_path_join(out_dir, "checkpoints");
    s->temporary = tr_format("%s/.new-step-%08lld%s", s->parent, (long long)c->step, suffix);
    for (int64_t i = 0; i < c->model_count; i++)
        s->need_bytes += (double)tr_saved_bytes(&c->model[i]);
    for (int64_t i = 0; i < c->optimizer_count; i++)
        s->need_bytes += (double)tr_saved_bytes(&c->optimizer[i]);
    TR_TRY(take_lock(s));
    s->began = true;
    TR_TRY(remove_leftovers(s));
    tr_checkpoint_entry *entries;
    int64_t count, sequence = 1;
    TR_TRY(tr_checkpoint_entries(out_dir, &entries, &count));
    if (count && !entries[0].damage)
        sequence = entries[0].manifest.sequence + 1;
    tr_checkpoint_entries_free(entries, count);
    tr_manifest_init(&s->manifest, c->step, sequence, c->best);
    if (mkdir(s->temporary, 0777) != 0)
        return tr_error_errno(TR_RUN, errno, "cannot make directory %s", s->temporary);
    return NULL;
}

/* Files. */

/* How many tensors from `first` on fit into one shard; at least one. */
static int64_t shard_length(const tr_checkpoint_contents *c, int64_t first)
{
    int64_t limit = c->shard_bytes > 0 ? c->shard_bytes : DEFAULT_SHARD_BYTES, n = first, bytes = 0;
    for (; n < c->model_count; n++) {
        int64_t more = tr_saved_bytes(&c->model[n]);
        if (n > first && more > limit - bytes)
            break;
        bytes += more;
    }
    return n - first;
}

tr_tensor_file *tr_saving_tensor_files(const tr_checkpoint_contents *c, int64_t *out_count)
{
    int64_t shards = 0, count = 0, room = 0, first = 0;
    tr_tensor_file *files = NULL;
    for (int64_t i = 0; i < c->model_count; i += shard_length(c, i))
        shards++;
    for (int64_t shard = 1; shard <= TR_MAX(shards, 1); shard++) {
        tr_tensor_file file = {.name = "model.safetensors",
                               .tensors = c->model ? c->model + first : NULL,
                               .count = shards ? shard_length(c, first) : 0};
        if (shards > 1)
            snprintf(file.name, sizeof file.name, "model-%05lld-of-%05lld.safetensors",
                     (long long)shard, (long long)shards);
        first += file.count;
        tr_push(files, count, room) = file;
    }
    tr_push(files, count, room) = (tr_tensor_file){
        .name = TR_OPTIMIZER_NAME, .tensors = c->optimizer, .count = c->optimizer_count};
    *out_count = count;
    return files;
}

static tr_error *put_bytes(tr_saving *s, const char *name, const void *bytes, int64_t size)
{
    char *path = tr_path_join(s->temporary, name);
    tr_error *error = tr_file_write(path, bytes, size);
    free(path);
    if (!error)
        tr_manifest_add(&s->manifest, name, size, tr_crc32c(0, bytes, size));
    return error;
}

static tr_error *put_json(tr_saving *s, const char *name, const json_t *json)
{
    char *text = tr_json_text(json);
    tr_error *error = put_bytes(s, name, text, (int64_t)strlen(text));
    free(text);
    return error;
}

/* Which shard each tensor of the model is in; `count` files, the optimizer's not among them. */
static tr_error *put_index(tr_saving *s, const tr_tensor_file *files, int64_t count)
{
    json_t *map = json_object();
    int64_t total = 0;
    for (int64_t f = 0; f < count; f++)
        for (int64_t i = 0; i < files[f].count; i++) {
            total += tr_saved_bytes(&files[f].tensors[i]);
            json_object_set_new(map, files[f].tensors[i].name, json_string(files[f].name));
        }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    TR_CHECK(index, "out of memory for an index");
    tr_error *error = put_json(s, INDEX_NAME, index);
    json_decref(index);
    return error;
}

/* Not a name that means something else in OUT/, or that the checkpoint already has. */
static bool may_be_named(const tr_saving *s, const char *name)
{
    static const char *const reserved[] = {"latest", "best", "checkpoints", TR_MANIFEST_NAME};
    for (int i = 0; i < TR_COUNT(reserved); i++)
        if (strcmp(name, reserved[i]) == 0)
            return false;
    return *name && *name != '.' && !strchr(name, '/') && !json_object_get(s->manifest.files, name);
}

tr_error *tr_saving_put_others(tr_saving *s, const tr_checkpoint_contents *c,
                               const tr_tensor_file *files, int64_t count)
{
    if (count > 2)
        TR_TRY(put_index(s, files, count - 1));
    TR_TRY(put_json(s, TR_TRAINER_NAME, c->trainer));
    for (int64_t i = 0; i < c->file_count; i++) {
        const char *name = c->files[i].name;
        if (!may_be_named(s, name))
            return tr_error_new(TR_RUN, "a checkpoint cannot hold a file named '%s': rename it",
                                name);
        TR_TRY(put_bytes(s, name, c->files[i].bytes, c->files[i].size));
    }
    return NULL;
}

/* Publishing. */

/* Its name is free: step-N, or step-N.2 and so on when that step was saved before. */
static tr_error *put_in_place(tr_saving *s)
{
    for (int n = 1;; n++) {
        char *name = n == 1 ? tr_format("step-%08lld", (long long)s->step)
                            : tr_format("step-%08lld.%d", (long long)s->step, n);
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

static tr_error *discard(const tr_saving *s, const char *name)
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
static tr_error *remove_old(const tr_saving *s, const tr_checkpoint_entry *entries, int64_t count,
                            int64_t keep_last)
{
    int64_t kept = 0;
    bool best_seen = false;
    for (int64_t i = 0; i < count; i++) {
        const tr_checkpoint_entry *entry = &entries[i];
        if (entry->damage)
            continue;
        bool newest = strcmp(entry->name, s->name) == 0;
        bool superseded = !newest && entry->manifest.step == s->step;
        bool best = entry->manifest.best && !best_seen;
        best_seen |= entry->manifest.best;
        bool recent = !superseded && kept < keep_last;
        kept += recent;
        if (!newest && !recent && !best)
            TR_TRY(discard(s, entry->name));
    }
    return NULL;
}

tr_error *tr_saving_publish(tr_saving *s, int64_t keep_last)
{
    TR_CHECK(keep_last >= 1, "keep %lld", (long long)keep_last);
    TR_TRY(tr_manifest_save(&s->manifest, s->temporary));
    TR_TRY(tr_directory_sync(s->temporary));
    TR_TRY(put_in_place(s));
    TR_TRY(tr_directory_sync(s->parent));
    TR_TRY(tr_checkpoint_publish(s->out_dir, s->name, &s->manifest));
    tr_checkpoint_entry *entries;
    int64_t count;
    TR_TRY(tr_checkpoint_entries(s->out_dir, &entries, &count));
    tr_error *error = remove_old(s, entries, count, keep_last);
    tr_checkpoint_entries_free(entries, count);
    return error;
}

/* Ending. */

/* Why it failed and what that means, with the room on the disk. */
static tr_error *explain_take(tr_error *error, const tr_saving *s)
{
    double free_bytes = -1;
    struct statvfs disk;
    if (statvfs(s->parent, &disk) == 0)
        free_bytes = (double)disk.f_bavail * (double)disk.f_frsize;
    return tr_error_in_take(
        error,
        "the checkpoint of step %lld was not saved (it needs %.1f MB, %.1f MB are "
        "free; the earlier checkpoints are untouched)",
        (long long)s->step, s->need_bytes / 1e6, free_bytes / 1e6);
}

tr_error *tr_saving_end_take(tr_saving *s, tr_error *error)
{
    if (error && s->name)
        error = tr_error_in_take(error, "the checkpoint of step %lld is saved, but",
                                 (long long)s->step);
    else if (error)
        error = explain_take(error, s);
    if (s->began && !s->name)
        tr_error_free(tr_path_remove(s->temporary));
    if (s->lock >= 0)
        close(s->lock);
    tr_manifest_free(&s->manifest);
    free(s->out_dir);
    free(s->parent);
    free(s->temporary);
    free(s->name);
    return error;
}
