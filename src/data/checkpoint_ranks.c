/* Saving by several ranks; see checkpoint_ranks.h.
 *
 * The session's directory is OUT/checkpoints/.new-step-N-ID. Beside the checkpoint's own files it
 * has
 *
 *   .session.json     where each tensor's data goes; written last by begin
 *   .share-RANK.json  what that rank wrote and synced; written last by its commit
 *
 * Both are removed before the manifest is written. ID is new for each session, so that a rank that
 * lags behind from one that was dropped finds nothing to write into.
 */
#define _GNU_SOURCE
#include "data/checkpoint_ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/suggest.h"
#include "data/checkpoint_notes.h"
#include "data/checkpoint_saving.h"

static const char PLAN_NAME[] = ".session.json";
enum { WRITE_CHUNK_BYTES = 16 << 20 };

/* A tensor of the session. */
typedef struct tensor {
    char *name;
    tr_dtype dtype;
    int64_t file, offset, elems;
    tr_notes notes;
} tensor;

typedef struct file {
    char *path;
    int64_t bytes; /* session */
    int fd;        /* share: -1 until the first write */
} file;

/* What both sides know; by name, so that lookups are quick. */
typedef struct plan {
    int64_t step;
    tensor *tensors;
    int64_t tensor_count, tensor_room;
    file *files;
    int64_t file_count, file_room;
} plan;

struct tr_checkpoint_session {
    tr_saving saving;
    int ranks;
    plan plan;
};

struct tr_checkpoint_share {
    char *directory;
    int rank;
    plan plan;
};

static void plan_free(plan *p)
{
    for (int64_t i = 0; i < p->tensor_count; i++) {
        free(p->tensors[i].name);
        tr_notes_free(&p->tensors[i].notes);
    }
    for (int64_t f = 0; f < p->file_count; f++) {
        if (p->files[f].fd >= 0)
            close(p->files[f].fd);
        free(p->files[f].path);
    }
    free(p->tensors);
    free(p->files);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

static tr_error *sort_plan(plan *p)
{
    if (p->tensor_count)
        qsort(p->tensors, (size_t)p->tensor_count, sizeof *p->tensors, by_name);
    for (int64_t i = 1; i < p->tensor_count; i++)
        if (by_name(&p->tensors[i - 1], &p->tensors[i]) == 0)
            return tr_error_new(TR_RUN, "two tensors are called '%.100s'", p->tensors[i].name);
    return NULL;
}

/* The caller frees. */
static char *share_path(const char *directory, int rank)
{
    return tr_format("%s/.share-%05d.json", directory, rank);
}

static tensor *find(const plan *p, const char *name)
{
    const tensor key = {.name = (char *)(uintptr_t)name};
    return p->tensor_count ? bsearch(&key, p->tensors, (size_t)p->tensor_count, sizeof key, by_name)
                           : NULL;
}

/* Beginning. */

static tr_error *add_file(tr_checkpoint_session *s, const tr_tensor_file *from)
{
    file f = {.path = tr_path_join(s->saving.temporary, from->name), .fd = -1};
    int64_t *offsets;
    tr_error *error = tr_safetensors_create(f.path, from->tensors, from->count, &offsets, &f.bytes);
    for (int64_t i = 0; i < from->count && !error; i++) {
        const tr_saved *t = &from->tensors[i];
        tensor added = {.name = tr_strdup(t->name),
                        .dtype = t->dtype,
                        .file = s->plan.file_count,
                        .offset = offsets[i],
                        .elems = tr_saved_bytes(t) / tr_dtype_bytes(t->dtype)};
        tr_push(s->plan.tensors, s->plan.tensor_count, s->plan.tensor_room) = added;
    }
    tr_push(s->plan.files, s->plan.file_count, s->plan.file_room) = f;
    if (!error)
        tr_manifest_add(&s->saving.manifest, from->name, f.bytes,
                        0); /* finish knows the checksum */
    free(offsets);
    return error;
}

static tr_error *save_plan(const tr_checkpoint_session *s)
{
    json_t *files = json_array(), *tensors = json_object();
    for (int64_t f = 0; f < s->plan.file_count; f++)
        json_array_append_new(files, json_string(strrchr(s->plan.files[f].path, '/') + 1));
    for (int64_t i = 0; i < s->plan.tensor_count; i++) {
        const tensor *t = &s->plan.tensors[i];
        json_t *entry = json_pack("{s:I, s:I, s:I, s:s}", "file", (json_int_t)t->file, "offset",
                                  (json_int_t)t->offset, "elems", (json_int_t)t->elems, "dtype",
                                  tr_dtype_name(t->dtype));
        TR_CHECK(entry && json_object_set_new(tensors, t->name, entry) == 0,
                 "tensor '%s' in a plan", t->name);
    }
    json_t *json = json_pack("{s:I, s:o, s:o}", "step", (json_int_t)s->plan.step, "files", files,
                             "tensors", tensors);
    TR_CHECK(json, "out of memory for a plan");
    char *path = tr_path_join(s->saving.temporary, PLAN_NAME);
    tr_error *error = tr_json_save(path, json);
    free(path);
    json_decref(json);
    return error;
}

static tr_error *fill(tr_checkpoint_session *s, const tr_checkpoint_contents *contents)
{
    int64_t count;
    tr_tensor_file *files = tr_saving_tensor_files(contents, &count);
    tr_error *error = NULL;
    s->plan.step = contents->step;
    for (int64_t f = 0; f < count && !error; f++)
        error = add_file(s, &files[f]);
    if (!error)
        error = tr_saving_put_others(&s->saving, contents, files, count);
    free(files);
    TR_TRY(error);
    TR_TRY(sort_plan(&s->plan));
    return save_plan(s);
}

static tr_error *session_end_take(tr_checkpoint_session *s, tr_error *error)
{
    error = tr_saving_end_take(&s->saving, error);
    plan_free(&s->plan);
    free(s);
    return error;
}

tr_error *tr_checkpoint_begin(const char *out_dir, const tr_checkpoint_contents *contents,
                              int ranks, tr_checkpoint_session **out)
{
    *out = NULL;
    TR_TRY(tr_checkpoint_prepare(out_dir));
    tr_checkpoint_session *s = tr_alloc_zero(1, sizeof *s);
    s->ranks = ranks;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char *id = tr_format("-%llx%08lx%lx", (long long)now.tv_sec, (long)now.tv_nsec, (long)getpid());
    tr_error *error = tr_saving_begin(out_dir, contents, id, &s->saving);
    free(id);
    if (!error)
        error = fill(s, contents);
    if (error)
        return session_end_take(s, error);
    *out = s;
    return NULL;
}

const char *tr_checkpoint_session_path(const tr_checkpoint_session *session)
{
    return session->saving.temporary;
}

void tr_checkpoint_drop(tr_checkpoint_session *session)
{
    if (session)
        tr_error_free(session_end_take(session, NULL));
}

/* Finishing. */

/* Adds what one rank wrote. */
static tr_error *read_share(plan *p, const char *path)
{
    json_t *json;
    TR_TRY(tr_json_load(path, &json));
    tr_error *error = NULL;
    for (void *i = json_object_iter(json); i && !error; i = json_object_iter_next(json, i)) {
        tensor *t = find(p, json_object_iter_key(i));
        error = t ? tr_notes_parse(&t->notes, json_object_iter_value(i), t->elems, path)
                  : tr_error_new(TR_RUN, "%s is damaged: it has a tensor '%.100s'", path,
                                 json_object_iter_key(i));
    }
    json_decref(json);
    return error;
}

/* Reads the shares and removes them, and the plan: none of it belongs to the checkpoint. They are
 * asked for by name: a network file system may list a directory as it was. *out_absent: the first
 * rank without one. */
static tr_error *collect(tr_checkpoint_session *s, int *out_absent)
{
    tr_error *error = NULL;
    *out_absent = -1;
    for (int r = 0; r < s->ranks && !error; r++) {
        char *path = share_path(s->saving.temporary, r);
        if (tr_path_exists(path)) {
            error = read_share(&s->plan, path);
            if (!error)
                error = tr_path_remove(path);
        } else if (*out_absent < 0) {
            *out_absent = r;
        }
        free(path);
    }
    TR_TRY(error);
    char *path = tr_path_join(s->saving.temporary, PLAN_NAME);
    error = tr_path_remove(path);
    free(path);
    return error;
}

static tr_error *check_complete(const tr_checkpoint_session *s, int absent)
{
    for (int64_t i = 0; i < s->plan.tensor_count; i++) {
        const tensor *t = &s->plan.tensors[i];
        int64_t end, gap = tr_notes_gap(&t->notes, t->elems, &end);
        if (gap < 0)
            continue;
        char *who = absent < 0 ? NULL : tr_format("; rank %d has not finished its part", absent);
        tr_error *error = tr_error_new(
            TR_RUN,
            "tensor '%s' is incomplete: no rank has written its elements %lld to %lld (of %lld)%s",
            t->name, (long long)gap, (long long)end - 1, (long long)t->elems, who ? who : "");
        free(who);
        return error;
    }
    return NULL;
}

static tr_error *add_checksum(tr_checkpoint_session *s, const file *f)
{
    tr_map map;
    TR_TRY(tr_map_open(f->path, &map));
    tr_error *error = NULL;
    if (map.size == f->bytes)
        tr_manifest_add(&s->saving.manifest, strrchr(f->path, '/') + 1, map.size,
                        tr_crc32c(0, map.bytes, map.size));
    else
        error = tr_error_new(TR_RUN,
                             "%s has %lld bytes instead of %lld: did another process write "
                             "into it?",
                             f->path, (long long)map.size, (long long)f->bytes);
    tr_map_close(&map);
    return error;
}

tr_error *tr_checkpoint_finish_take(tr_checkpoint_session *s, int64_t keep_last, bool *out_complete)
{
    int absent;
    tr_error *error = collect(s, &absent);
    if (!error)
        error = check_complete(s, absent);
    for (int64_t f = 0; f < s->plan.file_count && !error; f++)
        error = add_checksum(s, &s->plan.files[f]);
    if (!error)
        error = tr_saving_publish(&s->saving, keep_last);
    if (out_complete)
        *out_complete = s->saving.name != NULL;
    return session_end_take(s, error);
}

/* Shares. */

static tr_error *parse_tensor(plan *p, const char *name, const json_t *entry, const char *where)
{
    tensor t = {0};
    const char *dtype;
    int64_t bytes;
    TR_TRY(tr_json_int(entry, where, "file", TR_REQUIRED, 0, p->file_count - 1, &t.file));
    TR_TRY(tr_json_int(entry, where, "offset", TR_REQUIRED, 0, INT64_MAX, &t.offset));
    TR_TRY(tr_json_int(entry, where, "elems", TR_REQUIRED, 0, INT64_MAX, &t.elems));
    TR_TRY(tr_json_string(entry, where, "dtype", TR_REQUIRED, &dtype));
    if (!tr_dtype_parse(dtype, &t.dtype) ||
        !tr_mul_fits(t.elems, tr_dtype_bytes(t.dtype), &bytes) || bytes > INT64_MAX - t.offset)
        return tr_error_new(TR_RUN, "%s: tensor '%.100s' is impossible", where, name);
    t.name = tr_strdup(name);
    tr_push(p->tensors, p->tensor_count, p->tensor_room) = t;
    return NULL;
}

static tr_error *parse_plan(plan *p, json_t *json, const char *directory, const char *where)
{
    const json_t *files, *tensors;
    TR_TRY(tr_json_int(json, where, "step", TR_REQUIRED, 0, INT64_MAX, &p->step));
    TR_TRY(tr_json_array(json, where, "files", TR_REQUIRED, &files));
    TR_TRY(tr_json_object(json, where, "tensors", TR_REQUIRED, &tensors));
    for (size_t f = 0; f < json_array_size(files); f++) {
        const char *name = json_string_value(json_array_get(files, f));
        if (!name || !*name || strchr(name, '/'))
            return tr_error_new(TR_RUN, "%s: a file's name is not plain", where);
        tr_push(p->files, p->file_count, p->file_room) =
            (file){.path = tr_path_join(directory, name), .fd = -1};
    }
    json_t *object = (json_t *)(uintptr_t)tensors;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i))
        TR_TRY(parse_tensor(p, json_object_iter_key(i), json_object_iter_value(i), where));
    return sort_plan(p);
}

tr_error *tr_checkpoint_join(const char *session_path, int rank, tr_checkpoint_share **out)
{
    char *path = tr_path_join(session_path, PLAN_NAME);
    json_t *json = NULL;
    tr_checkpoint_share *share = tr_alloc_zero(1, sizeof *share);
    share->directory = tr_strdup(session_path);
    share->rank = rank;
    *out = NULL;
    tr_error *error = tr_json_load(path, &json);
    if (!error)
        error = parse_plan(&share->plan, json, session_path, path);
    json_decref(json);
    free(path);
    if (error) {
        tr_checkpoint_share_drop(share);
        return tr_error_in_take(error, "rank %d cannot take part in saving a checkpoint", rank);
    }
    *out = share;
    return NULL;
}

void tr_checkpoint_share_drop(tr_checkpoint_share *share)
{
    if (!share)
        return;
    plan_free(&share->plan);
    free(share->directory);
    free(share);
}

static tr_error *failed_take(const tr_checkpoint_share *share, tr_error *error)
{
    return tr_error_in_take(error, "the checkpoint of step %lld was not saved: rank %d",
                            (long long)share->plan.step, share->rank);
}

tr_error *tr_checkpoint_share_tensor(const tr_checkpoint_share *share, const char *name,
                                     tr_dtype dtype, int64_t elems, int64_t *out_tensor)
{
    const plan *p = &share->plan;
    const tensor *t = find(p, name);
    if (t && t->dtype == dtype && t->elems == elems) {
        *out_tensor = t - p->tensors;
        return NULL;
    }
    if (t)
        return failed_take(share, tr_error_new(TR_RUN,
                                               "its '%s' has %lld elements of %s, the checkpoint's "
                                               "has %lld of %s",
                                               name, (long long)elems, tr_dtype_name(dtype),
                                               (long long)t->elems, tr_dtype_name(t->dtype)));
    const char **names = tr_alloc(((size_t)p->tensor_count + 1) * sizeof *names);
    for (int64_t i = 0; i < p->tensor_count; i++)
        names[i] = p->tensors[i].name;
    const char *near = tr_suggest(name, names, p->tensor_count);
    tr_error *error =
        tr_error_new(TR_RUN, "it has a tensor '%s', the checkpoint has none of that name%s%s%s",
                     name, near ? " (the nearest is '" : "", near ? near : "", near ? "')" : "");
    free(names);
    return failed_take(share, error);
}

static tr_error *disk_error(int code, const char *verb, const char *path)
{
    bool full = code == ENOSPC || code == EDQUOT;
    return tr_error_new(TR_RUN, "cannot %s %s: %s%s", verb, path, strerror(code),
                        full ? "; free some space on that disk or write elsewhere" : "");
}

static tr_error *write_at(file *f, const char *data, int64_t bytes, int64_t offset)
{
    if (f->fd < 0)
        f->fd = open(f->path, O_WRONLY | O_CLOEXEC);
    if (f->fd < 0)
        return tr_error_errno(TR_RUN, errno, "cannot open %s", f->path);
    while (bytes > 0) {
        size_t chunk = (size_t)TR_MIN(bytes, (int64_t)WRITE_CHUNK_BYTES);
        ssize_t done = pwrite(f->fd, data, chunk, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return disk_error(done < 0 ? errno : EIO, "write", f->path);
        data += done;
        offset += done;
        bytes -= done;
    }
    return NULL;
}

tr_error *tr_checkpoint_share_write(tr_checkpoint_share *share, int64_t at, int64_t first,
                                    int64_t count, const void *data)
{
    TR_CHECK(at >= 0 && at < share->plan.tensor_count, "tensor %lld", (long long)at);
    tensor *t = &share->plan.tensors[at];
    TR_CHECK(first >= 0 && count >= 0 && first <= t->elems - count,
             "elements %lld + %lld of %lld of %s", (long long)first, (long long)count,
             (long long)t->elems, t->name);
    int64_t width = tr_dtype_bytes(t->dtype);
    if (count == 0)
        return NULL;
    tr_error *error =
        write_at(&share->plan.files[t->file], data, count * width, t->offset + first * width);
    if (error)
        return failed_take(share, error);
    tr_notes_add(&t->notes, first, count);
    return NULL;
}

/* What was written is on the disk. */
static tr_error *sync_files(plan *p)
{
    for (int64_t i = 0; i < p->file_count; i++) {
        file *f = &p->files[i];
        if (f->fd < 0)
            continue;
        if (fsync(f->fd) != 0 && errno != EINVAL && errno != ENOTSUP)
            return disk_error(errno, "sync", f->path);
        int closed = close(f->fd);
        f->fd = -1;
        if (closed != 0 && errno != EINTR)
            return disk_error(errno, "close", f->path);
    }
    return NULL;
}

static tr_error *save_share(const tr_checkpoint_share *share)
{
    json_t *json = json_object();
    for (int64_t i = 0; i < share->plan.tensor_count; i++)
        if (share->plan.tensors[i].notes.count)
            json_object_set_new(json, share->plan.tensors[i].name,
                                tr_notes_json(&share->plan.tensors[i].notes));
    char *path = share_path(share->directory, share->rank);
    tr_error *error = tr_path_exists(path) ? tr_error_new(TR_RUN, "it has written its part already")
                                           : tr_json_save(path, json);
    free(path);
    json_decref(json);
    return error;
}

tr_error *tr_checkpoint_share_commit_take(tr_checkpoint_share *share)
{
    tr_error *error = sync_files(&share->plan);
    if (!error)
        error = save_share(share);
    if (error)
        error = failed_take(share, error);
    tr_checkpoint_share_drop(share);
    return error;
}
