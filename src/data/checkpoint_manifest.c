/* The manifest of a checkpoint; see checkpoint_manifest.h.
 *
 * Its own checksum is over the compact text of the object without the member "crc32c", with sorted
 * keys: so it covers the values, and white space does not matter.
 */
#include "data/checkpoint_manifest.h"

#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

static const char FORMAT[] = "trireme-checkpoint";
enum { VERSION = 1 };

void tr_manifest_init(tr_manifest *manifest, int64_t step, int64_t sequence, bool best)
{
    *manifest = (tr_manifest){step, sequence, best, json_object()};
}

void tr_manifest_free(tr_manifest *manifest)
{
    json_decref(manifest->files);
    *manifest = (tr_manifest){0};
}

void tr_manifest_add(tr_manifest *manifest, const char *name, int64_t bytes, uint32_t crc32c)
{
    char hex[9];
    snprintf(hex, sizeof hex, "%08x", (unsigned)crc32c);
    json_t *file = json_pack("{s:I, s:s}", "bytes", (json_int_t)bytes, "crc32c", hex);
    TR_CHECK(file && json_object_set_new(manifest->files, name, file) == 0,
             "file name '%s' in a manifest", name);
}

static uint32_t self_checksum(const json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
    TR_CHECK(text, "a manifest cannot be written");
    uint32_t crc = tr_crc32c(0, text, (int64_t)strlen(text));
    free(text);
    return crc;
}

tr_error *tr_manifest_save(const tr_manifest *manifest, const char *directory)
{
    json_t *object =
        json_pack("{s:s, s:i, s:I, s:I, s:b, s:O}", "format", FORMAT, "version", VERSION, "step",
                  (json_int_t)manifest->step, "sequence", (json_int_t)manifest->sequence, "best",
                  (int)manifest->best, "files", manifest->files);
    TR_CHECK(object, "out of memory for a manifest");
    char hex[9];
    snprintf(hex, sizeof hex, "%08x", (unsigned)self_checksum(object));
    json_object_set_new(object, "crc32c", json_string(hex));
    char *path = tr_path_join(directory, TR_MANIFEST_NAME);
    tr_error *error = tr_json_save(path, object);
    free(path);
    json_decref(object);
    return error;
}

/* Eight hex digits, or -1. */
static int64_t parse_crc(const char *text)
{
    if (strlen(text) != 8 || strspn(text, "0123456789abcdef") != 8)
        return -1;
    return (int64_t)strtoll(text, NULL, 16);
}

static bool plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static tr_error *check_files(const json_t *files, const char *path)
{
    json_t *object = (json_t *)(uintptr_t)files;
    for (void *i = json_object_iter(object); i; i = json_object_iter_next(object, i)) {
        int64_t bytes;
        const char *crc;
        if (!plain_name(json_object_iter_key(i)))
            return tr_error_new(TR_USER, "%s: a file's name is not plain", path);
        TR_TRY(tr_json_int(json_object_iter_value(i), path, "bytes", TR_REQUIRED, 0, INT64_MAX,
                           &bytes));
        TR_TRY(tr_json_string(json_object_iter_value(i), path, "crc32c", TR_REQUIRED, &crc));
        if (parse_crc(crc) < 0)
            return tr_error_new(TR_USER, "%s: a checksum is not eight hex digits", path);
    }
    return NULL;
}

static tr_error *parse(json_t *object, const char *path, tr_manifest *out)
{
    const char *format, *crc;
    const json_t *files;
    int64_t version;
    TR_TRY(tr_json_string(object, path, "format", TR_REQUIRED, &format));
    if (strcmp(format, FORMAT) != 0)
        return tr_error_new(TR_USER, "%s: this is not the manifest of a checkpoint", path);
    TR_TRY(tr_json_int(object, path, "version", TR_REQUIRED, 1, INT64_MAX, &version));
    if (version > VERSION)
        return tr_error_new(TR_USER, "%s: version %lld is newer than this program (%d)", path,
                            (long long)version, VERSION);
    TR_TRY(tr_json_string(object, path, "crc32c", TR_REQUIRED, &crc));
    int64_t want = parse_crc(crc);
    json_object_del(object, "crc32c");
    if (want != (int64_t)self_checksum(object))
        return tr_error_new(TR_USER, "%s is damaged: its own checksum does not match", path);
    TR_TRY(tr_json_int(object, path, "step", TR_REQUIRED, 0, INT64_MAX, &out->step));
    TR_TRY(tr_json_int(object, path, "sequence", TR_REQUIRED, 0, INT64_MAX - 1, &out->sequence));
    TR_TRY(tr_json_bool(object, path, "best", TR_REQUIRED, &out->best));
    TR_TRY(tr_json_object(object, path, "files", TR_REQUIRED, &files));
    TR_TRY(check_files(files, path));
    out->files = json_incref((json_t *)(uintptr_t)files);
    return NULL;
}

tr_error *tr_manifest_load(const char *directory, tr_manifest *out)
{
    *out = (tr_manifest){0};
    char *path = tr_path_join(directory, TR_MANIFEST_NAME);
    json_t *object;
    tr_error *error = tr_json_load(path, &object);
    if (!error) {
        error = parse(object, path, out);
        json_decref(object);
    }
    free(path);
    return error;
}

static tr_error *verify_file(const char *path, int64_t bytes, uint32_t crc32c)
{
    if (!tr_path_exists(path))
        return tr_error_new(TR_RUN, "%s is missing", path);
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    tr_error *error = NULL;
    uint32_t crc = 0;
    if (map.size != bytes)
        error = tr_error_new(TR_RUN, "%s is damaged: it has %lld bytes, %lld were written", path,
                             (long long)map.size, (long long)bytes);
    else if ((crc = tr_crc32c(0, map.bytes, map.size)) != crc32c)
        error =
            tr_error_new(TR_RUN, "%s is damaged: its checksum is %08x, it was written with %08x",
                         path, (unsigned)crc, (unsigned)crc32c);
    tr_map_close(&map);
    return error;
}

tr_error *tr_manifest_verify(const tr_manifest *manifest, const char *directory, const char *except)
{
    tr_error *error = NULL;
    json_t *files = manifest->files;
    for (void *i = json_object_iter(files); i && !error; i = json_object_iter_next(files, i)) {
        const char *name = json_object_iter_key(i);
        const json_t *file = json_object_iter_value(i);
        if (except && strcmp(name, except) == 0)
            continue;
        char *path = tr_path_join(directory, name);
        error =
            verify_file(path, json_integer_value(json_object_get(file, "bytes")),
                        (uint32_t)parse_crc(json_string_value(json_object_get(file, "crc32c"))));
        free(path);
    }
    return error;
}

int64_t tr_checkpoint_name_step(const char *name)
{
    long long step;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9' ||
        sscanf(name + 5, "%18lld", &step) != 1)
        return -1;
    return step;
}

static int newest_first(const void *a, const void *b)
{
    const tr_checkpoint_entry *x = a, *y = b;
    if (!x->damage != !y->damage)
        return x->damage ? 1 : -1;
    if (x->manifest.sequence != y->manifest.sequence)
        return x->manifest.sequence > y->manifest.sequence ? -1 : 1;
    return strcmp(y->name, x->name);
}

tr_error *tr_checkpoint_entries(const char *out_dir, tr_checkpoint_entry **out, int64_t *out_count)
{
    *out = NULL;
    *out_count = 0;
    char **names, *parent = tr_path_join(out_dir, "checkpoints");
    int64_t name_count, count = 0;
    tr_error *error = tr_directory_list(parent, &names, &name_count);
    if (error) {
        free(parent);
        return error;
    }
    tr_checkpoint_entry *entries = tr_alloc_zero((size_t)name_count + 1, sizeof *entries);
    for (int64_t i = 0; i < name_count; i++) {
        if (tr_checkpoint_name_step(names[i]) < 0)
            continue;
        tr_checkpoint_entry *entry = &entries[count];
        entry->directory = tr_path_join(parent, names[i]);
        entry->name = entry->directory + strlen(entry->directory) - strlen(names[i]);
        tr_error *damage = tr_manifest_load(entry->directory, &entry->manifest);
        if (damage && !tr_path_exists(entry->directory)) { /* removed since it was listed */
            free(entry->directory);
            *entry = (tr_checkpoint_entry){0};
        } else {
            entry->damage = damage ? tr_strdup(tr_error_text(damage)) : NULL;
            count++;
        }
        tr_error_free(damage);
    }
    tr_names_free(names, name_count);
    free(parent);
    if (count)
        qsort(entries, (size_t)count, sizeof *entries, newest_first);
    *out = entries;
    *out_count = count;
    return NULL;
}

void tr_checkpoint_entries_free(tr_checkpoint_entry *entries, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        free(entries[i].directory);
        free(entries[i].damage);
        tr_manifest_free(&entries[i].manifest);
    }
    free(entries);
}
