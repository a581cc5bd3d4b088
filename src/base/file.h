/* Files: mapping for reading, and writing that is never seen half-done.
 *
 * A written file goes to a temporary name beside its target, is synced, and is renamed over the target
 * on tr_file_commit; until then the old file is untouched. A writer that is dropped without commit
 * removes its temporary file. Two calls for one writer must not overlap; different writers may.
 * A map that another process truncates while it is read kills the reader (SIGBUS): replace files by
 * rename, as the writer does, never in place.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* A read-only map of a whole file. An empty file has bytes == "" and size 0. */
typedef struct tr_map {
    const char *bytes;
    int64_t size;
} tr_map;
tr_error *tr_map_open(const char *path, tr_map *out);
void tr_map_close(tr_map *map);

typedef struct tr_writer tr_writer;
tr_error *tr_writer_open(const char *path, tr_writer **out);
tr_error *tr_writer_write(tr_writer *writer, const void *bytes, int64_t count);
int64_t tr_writer_position(const tr_writer *writer);
uint32_t tr_writer_crc32c(const tr_writer *writer); /* of all bytes written so far */
/* Flush, sync, rename, sync the directory. Consumes the writer whether it succeeds or not. */
tr_error *tr_writer_commit_take(tr_writer *writer);
void tr_writer_drop(tr_writer *writer); /* NULL is fine */

/* The same in one call, for small files. */
tr_error *tr_file_write(const char *path, const void *bytes, int64_t count);

bool tr_path_exists(const char *path);
bool tr_path_is_directory(const char *path);
/* "a/b"; the caller frees. */
char *tr_path_join(const char *directory, const char *name);
/* Makes the directory and its parents. */
tr_error *tr_directory_make(const char *path);
/* Makes the names in the directory durable: after a rename, link or unlink in it. */
tr_error *tr_directory_sync(const char *path);
/* Names (not paths) in the directory except "." and "..", sorted bytewise; free with tr_names_free. */
tr_error *tr_directory_list(const char *path, char ***out_names, int64_t *out_count);
void tr_names_free(char **names, int64_t count);
/* Removes a file, or a directory with all that is in it; nothing there is no error. */
tr_error *tr_path_remove(const char *path);
/* CRC-32C (Castagnoli, RFC 3720), continued from `crc` (0 at the start). */
uint32_t tr_crc32c(uint32_t crc, const void *bytes, int64_t count);
/* The same value without the processor's CRC instruction; for tests. */
uint32_t tr_crc32c_plain(uint32_t crc, const void *bytes, int64_t count);
