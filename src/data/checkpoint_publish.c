/* The links of OUT/; see checkpoint_publish.h.
 *
 *     OUT/latest            -> checkpoints/step-00002000       replaced by one rename
 *     OUT/best              -> checkpoints/step-00001000       the same
 *     OUT/config.json       -> latest/config.json              made once
 *     OUT/model.safetensors -> latest/model.safetensors
 *
 * All are relative, so the directory can be moved and copied (cp -r keeps links, cp -rL resolves
 * them; both give a directory that works, and that a later save turns into links again).
 *
 * The order makes every moment honest: OUT/latest first, which switches all files at once; then
 * links for files that are new, config.json last, since a directory without it is refused by every
 * reader; then links for files that the new checkpoint no longer has are removed (until then they
 * dangle).
 *
 * Where the file system has no symbolic links: config.json is removed, the other files are replaced
 * by hard links or copies, config.json comes last.
 */
#define _GNU_SOURCE
#include "data/checkpoint_publish.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

static const char CONFIG[] = "config.json";

/* What only Trireme reads stays in the checkpoint. */
static bool is_public(const char *file)
{
    return strcmp(file, TR_TRAINER_NAME) != 0 && strcmp(file, TR_OPTIMIZER_NAME) != 0;
}

static bool links_to(const char *path, const char *target)
{
    char now[PATH_MAX];
    ssize_t length = readlink(path, now, sizeof now);
    return length >= 0 && (size_t)length == strlen(target) &&
           memcmp(now, target, (size_t)length) == 0;
}

static bool is_link(const char *path)
{
    char first;
    return readlink(path, &first, 1) >= 0;
}

static bool without_links(int code)
{
    return code == EPERM || code == ENOSYS || code == EOPNOTSUPP || code == ENOTSUP;
}

/* Puts `temporary` in the place of OUT/NAME. */
static tr_error *swap_in(const char *temporary, const char *path)
{
    if (rename(temporary, path) != 0) {
        tr_error *error = tr_error_errno(TR_RUN, errno, "cannot replace %s", path);
        unlink(temporary);
        return error;
    }
    unlink(temporary); /* rename leaves it when both are the same file already */
    return NULL;
}

/* OUT/NAME -> target. *out_unsupported instead of an error when there are no symbolic links here.
 */
static tr_error *make_link(const char *out_dir, const char *name, const char *target,
                           bool *out_unsupported)
{
    *out_unsupported = false;
    char *path = tr_path_join(out_dir, name);
    char *temporary = tr_format("%s/.%s.link", out_dir, name);
    tr_error *error = NULL;
    if (links_to(path, target))
        goto done;
    if (!is_link(path) && tr_path_is_directory(path)) {
        /* A copy made with cp -rL has directories here; nobody else's are touched. */
        char *manifest = tr_path_join(path, TR_MANIFEST_NAME);
        bool ours = tr_path_exists(manifest);
        free(manifest);
        if (!ours) {
            error = tr_error_new(TR_USER, "%s is in the way: move that directory elsewhere", path);
            goto done;
        }
        TR_GO(tr_path_remove(path));
    }
    unlink(temporary); /* of a process that was killed */
    if (symlink(target, temporary) != 0) {
        *out_unsupported = without_links(errno);
        if (!*out_unsupported)
            error = tr_error_errno(TR_RUN, errno, "cannot make the link %s", path);
        goto done;
    }
    error = swap_in(temporary, path);
done:
    free(path);
    free(temporary);
    return error;
}

static tr_error *make_file_link(const char *out_dir, const char *file)
{
    char *target = tr_format("latest/%s", file);
    bool unsupported;
    tr_error *error = make_link(out_dir, file, target, &unsupported);
    if (unsupported)
        error = tr_error_new(TR_RUN, "cannot make the link %s/%s", out_dir, file);
    free(target);
    return error;
}

/* Removes our links to files that the newest checkpoint does not have. */
static tr_error *remove_stale(const char *out_dir, const json_t *files)
{
    char **names;
    int64_t count;
    TR_TRY(tr_directory_list(out_dir, &names, &count));
    tr_error *error = NULL;
    for (int64_t i = 0; i < count && !error; i++) {
        char *path = tr_path_join(out_dir, names[i]), *target = tr_format("latest/%s", names[i]);
        if (!json_object_get(files, names[i]) && links_to(path, target))
            error = tr_path_remove(path);
        free(path);
        free(target);
    }
    tr_names_free(names, count);
    return error;
}

static tr_error *publish_links(const char *out_dir, const json_t *files)
{
    json_t *object = (json_t *)(uintptr_t)files;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const char *file = json_object_iter_key(i);
        if (is_public(file) && strcmp(file, CONFIG) != 0)
            TR_TRY(make_file_link(out_dir, file));
    }
    if (json_object_get(files, CONFIG))
        TR_TRY(make_file_link(out_dir, CONFIG));
    TR_TRY(remove_stale(out_dir, files));
    return tr_directory_sync(out_dir);
}

/* Without symbolic links. */

static tr_error *copy_file(const char *from, const char *to)
{
    tr_map map;
    TR_TRY(tr_map_open(from, &map));
    tr_error *error = tr_file_write(to, map.bytes, map.size);
    tr_map_close(&map);
    return error;
}

static tr_error *place_copy(const char *out_dir, const char *name, const char *file)
{
    char *from = tr_format("%s/checkpoints/%s/%s", out_dir, name, file);
    char *to = tr_path_join(out_dir, file), *temporary = tr_format("%s/.%s.link", out_dir, file);
    unlink(temporary);
    tr_error *error = link(from, temporary) == 0 ? swap_in(temporary, to) : copy_file(from, to);
    free(from);
    free(to);
    free(temporary);
    return error;
}

static tr_error *publish_copies(const char *out_dir, const char *name, const json_t *files)
{
    json_t *object = (json_t *)(uintptr_t)files;
    char *config = tr_path_join(out_dir, CONFIG);
    tr_error *error;
    TR_GO(tr_path_remove(config));
    TR_GO(tr_directory_sync(out_dir));
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        const char *file = json_object_iter_key(i);
        if (is_public(file) && strcmp(file, CONFIG) != 0)
            TR_GO(place_copy(out_dir, name, file));
    }
    if (json_object_get(files, CONFIG))
        TR_GO(place_copy(out_dir, name, CONFIG));
    error = tr_directory_sync(out_dir);
done:
    free(config);
    return error;
}

tr_error *tr_checkpoint_publish(const char *out_dir, const char *name, const tr_manifest *manifest)
{
    char *target = tr_format("checkpoints/%s", name);
    bool unsupported, best_unsupported;
    tr_error *error;
    TR_GO(make_link(out_dir, "latest", target, &unsupported));
    if (unsupported) {
        error = publish_copies(out_dir, name, manifest->files);
        goto done;
    }
    TR_GO(tr_directory_sync(out_dir)); /* the switch is durable before anything depends on it */
    if (manifest->best)
        TR_GO(make_link(out_dir, "best", target, &best_unsupported));
    error = publish_links(out_dir, manifest->files);
done:
    free(target);
    return error;
}
