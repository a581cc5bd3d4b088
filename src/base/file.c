/* Files; see file.h.
 *
 * Invariants of a tr_writer:
 *   1. Nothing is visible under the target's name before commit has synced the bytes.
 *   2. After a failed write the writer is broken: later writes fail too, and commit refuses.
 *   3. The temporary name is ".NAME.tmp-PID-N" in the target's directory, created exclusively, so
 *      two writers of one target never share it; a process that is killed leaves it behind.
 *
 * Devices and pipes cannot be renamed over, so they are written directly; so is what lies under
 * /dev and /proc. A symbolic link anywhere else is replaced, not followed.
 */
#define _GNU_SOURCE
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

enum { WRITER_BUFFER_BYTES = 256 * 1024, WRITER_CHUNK_BYTES = 16 << 20 };

/* Whose fault a failed open, mkdir or rename is: a wrong path is the user's, a sick disk is not. */
static tr_blame blame_of(int code)
{
    switch (code) {
    case ENOENT:
    case EACCES:
    case EPERM:
    case ENOTDIR:
    case EISDIR:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
        return TR_USER;
    default:
        return TR_RUN;
    }
}

static const char *hint_of(int code)
{
    switch (code) {
    case ENOSPC:
        return "; free some space on that disk or write elsewhere";
    case EDQUOT:
        return "; free some of your quota or write elsewhere";
    case EFBIG:
        return "; the limit on file sizes is too low (see ulimit -f)";
    case EROFS:
        return "; write to another disk";
    case EACCES:
    case EPERM:
        return "; check the permissions of the file and its directory";
    case EIO:
        return "; the disk may be failing, see the system's log";
    default:
        return "";
    }
}

static tr_error *file_error(int code, const char *verb, const char *path)
{
    return tr_error_new(blame_of(code), "cannot %s %s: %s%s", verb, path, strerror(code),
                        hint_of(code));
}

/* Mapping. */

/* Pipes have no size: read to the end into growing pages, so that closing is the same munmap. */
static tr_error *map_stream(int fd, const char *path, tr_map *out)
{
    size_t room = 1 << 20, used = 0;
    char *pages = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return file_error(errno, "read", path);
    for (;;) {
        if (used == room) {
            char *more = mremap(pages, room, room * 2, MREMAP_MAYMOVE);
            if (more == MAP_FAILED)
                break;
            pages = more;
            room *= 2;
        }
        ssize_t got = read(fd, pages + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        if (got == 0) {
            if (used == 0) {
                munmap(pages, room);
                *out = (tr_map){"", 0};
                return NULL;
            }
            /* Give back the tail so that size alone says what is mapped. */
            char *exact = mremap(pages, room, used, 0);
            TR_CHECK(exact == pages, "shrinking a map moved it");
            *out = (tr_map){pages, (int64_t)used};
            return NULL;
        }
        used += (size_t)got;
    }
    tr_error *error = file_error(errno, "read", path);
    munmap(pages, room);
    return error;
}

tr_error *tr_map_open(const char *path, tr_map *out)
{
    *out = (tr_map){"", 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return file_error(errno, "open", path);
    tr_error *error = NULL;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        error = file_error(errno, "read", path);
    } else if (S_ISDIR(info.st_mode)) {
        error = tr_error_new(TR_USER, "%s is a directory, not a file", path);
    } else if (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)) {
        error = map_stream(fd, path, out);
    } else if (!S_ISREG(info.st_mode)) {
        error = tr_error_new(TR_USER, "%s is a device, not a file", path);
    } else if (info.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            error = file_error(errno, "map", path);
        else
            *out = (tr_map){bytes, info.st_size};
    }
    close(fd);
    return error;
}

void tr_map_close(tr_map *map)
{
    if (map->size > 0)
        munmap((void *)(uintptr_t)map->bytes, (size_t)map->size);
    *map = (tr_map){"", 0};
}

/* Writing. */

struct tr_writer {
    char *path, *temporary; /* temporary is NULL when written directly */
    char *buffer;
    int64_t used, position;
    uint32_t crc;
    int fd;
    bool broken;
};

/* The directory part of a path: "" -> ".", "/x" -> "/". The caller frees. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return tr_strdup(".");
    if (slash == path)
        return tr_strdup("/");
    return tr_strndup(path, (size_t)(slash - path));
}

static bool written_directly(const char *path, const struct stat *info)
{
    if (info && !S_ISREG(info->st_mode))
        return true;
    bool device = strncmp(path, "/dev/", 5) == 0 && strncmp(path, "/dev/shm/", 9) != 0;
    return device || strncmp(path, "/proc/", 6) == 0; /* /dev/stdout may lead to a regular file */
}

static int open_temporary(const char *path, char **out_name)
{
    char *parent = parent_of(path);
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    int fd = -1;
    for (int n = 0; n < 1000; n++) {
        char *name = tr_format("%s/.%s.tmp-%ld-%d", parent, base, (long)getpid(), n);
        fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *out_name = name;
            break;
        }
        int code = errno;
        free(name);
        errno = code;
        if (code != EEXIST)
            break;
    }
    int code = errno;
    free(parent);
    errno = code;
    return fd;
}

tr_error *tr_writer_open(const char *path, tr_writer **out)
{
    *out = NULL;
    struct stat info;
    bool exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode))
        return tr_error_new(TR_USER, "cannot write %s: it is a directory", path);
    char *temporary = NULL;
    int fd;
    if (written_directly(path, exists ? &info : NULL))
        fd = open(path, O_WRONLY | O_CLOEXEC);
    else
        fd = open_temporary(path, &temporary);
    if (fd < 0)
        return file_error(errno, "create", path);
    if (exists && temporary)
        (void)!fchmod(fd, info.st_mode & 0777); /* keep the mode of what is replaced, if we may */
    tr_writer *writer = tr_alloc_zero(1, sizeof *writer);
    *writer = (tr_writer){.path = tr_strdup(path),
                          .temporary = temporary,
                          .fd = fd,
                          .buffer = tr_alloc(WRITER_BUFFER_BYTES)};
    *out = writer;
    return NULL;
}

static tr_error *write_out(tr_writer *writer, const char *bytes, int64_t count)
{
    while (count > 0) {
        size_t chunk = (size_t)TR_MIN(count, (int64_t)WRITER_CHUNK_BYTES);
        ssize_t done = write(writer->fd, bytes, chunk);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            writer->broken = true;
            return file_error(done < 0 ? errno : EIO, "write", writer->path);
        }
        bytes += done;
        count -= done;
    }
    return NULL;
}

static tr_error *flush(tr_writer *writer)
{
    int64_t used = writer->used;
    writer->used = 0;
    return write_out(writer, writer->buffer, used);
}

tr_error *tr_writer_write(tr_writer *writer, const void *bytes, int64_t count)
{
    TR_CHECK(count >= 0, "writing %lld bytes", (long long)count);
    if (writer->broken)
        return tr_error_new(TR_RUN, "cannot write %s: an earlier write failed", writer->path);
    if (count == 0)
        return NULL;
    writer->crc = tr_crc32c(writer->crc, bytes, count);
    writer->position += count;
    if (count > WRITER_BUFFER_BYTES - writer->used)
        TR_TRY(flush(writer));
    if (count >= WRITER_BUFFER_BYTES)
        return write_out(writer, bytes, count);
    memcpy(writer->buffer + writer->used, bytes, (size_t)count);
    writer->used += count;
    return NULL;
}

int64_t tr_writer_position(const tr_writer *writer)
{
    return writer->position;
}

uint32_t tr_writer_crc32c(const tr_writer *writer)
{
    return writer->crc;
}

static void writer_free(tr_writer *writer)
{
    if (writer->fd >= 0)
        close(writer->fd);
    free(writer->path);
    free(writer->temporary);
    free(writer->buffer);
    free(writer);
}

tr_error *tr_writer_commit_take(tr_writer *writer)
{
    tr_error *error = NULL;
    char *parent = parent_of(writer->path);
    if (writer->broken) {
        error = tr_error_new(TR_RUN, "cannot finish %s: an earlier write failed", writer->path);
        goto done;
    }
    TR_GO(flush(writer));
    if (fsync(writer->fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS) {
        error = file_error(errno, "sync", writer->path);
        goto done;
    }
    int closed = close(writer->fd);
    writer->fd = -1;
    if (closed != 0 && errno != EINTR) {
        error = file_error(errno, "close", writer->path);
        goto done;
    }
    if (writer->temporary) {
        if (rename(writer->temporary, writer->path) != 0) {
            error = file_error(errno, "replace", writer->path);
            goto done;
        }
        free(writer->temporary);
        writer->temporary = NULL;
        error = tr_directory_sync(parent);
    }
done:
    free(parent);
    if (writer->temporary)
        unlink(writer->temporary);
    writer_free(writer);
    return error;
}

void tr_writer_drop(tr_writer *writer)
{
    if (!writer)
        return;
    if (writer->temporary)
        unlink(writer->temporary);
    writer_free(writer);
}

tr_error *tr_file_write(const char *path, const void *bytes, int64_t count)
{
    tr_writer *writer;
    TR_TRY(tr_writer_open(path, &writer));
    tr_error *error = tr_writer_write(writer, bytes, count);
    if (error) {
        tr_writer_drop(writer);
        return error;
    }
    return tr_writer_commit_take(writer);
}

/* Paths and directories. */

bool tr_path_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

bool tr_path_is_directory(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *tr_path_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    if (length == 0 || name[0] == '/')
        return tr_strdup(name);
    return tr_format(directory[length - 1] == '/' ? "%s%s" : "%s/%s", directory, name);
}

tr_error *tr_directory_make(const char *path)
{
    tr_error *error = NULL;
    char *part = tr_strdup(path);
    for (char *end = part; *end;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char kept = *end;
        *end = '\0';
        if (*part && mkdir(part, 0777) != 0 && !tr_path_is_directory(part)) {
            int code = errno;
            error = code == EEXIST ? tr_error_new(TR_USER, "cannot make directory %s: %s is a file",
                                                  path, part)
                                   : file_error(code, "make directory", part);
            break;
        }
        *end = kept;
    }
    free(part);
    return error;
}

tr_error *tr_directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return file_error(errno, "open", path);
    tr_error *error = NULL;
    /* Some file systems cannot sync a directory; they order renames themselves. */
    if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EROFS)
        error = file_error(errno, "sync", path);
    close(fd);
    return error;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

tr_error *tr_directory_list(const char *path, char ***out_names, int64_t *out_count)
{
    *out_names = NULL;
    *out_count = 0;
    DIR *directory = opendir(path);
    if (!directory)
        return file_error(errno, "list", path);
    char **names = NULL;
    int64_t count = 0, room = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            tr_push(names, count, room) = tr_strdup(entry->d_name);
    }
    int code = errno;
    closedir(directory);
    if (code) {
        tr_names_free(names, count);
        return file_error(code, "list", path);
    }
    if (count)
        qsort(names, (size_t)count, sizeof *names, by_name);
    *out_names = names;
    *out_count = count;
    return NULL;
}

void tr_names_free(char **names, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

tr_error *tr_path_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return errno == ENOENT || errno == ENOTDIR ? NULL : file_error(errno, "remove", path);
    if (!S_ISDIR(info.st_mode))
        return unlink(path) == 0 || errno == ENOENT ? NULL : file_error(errno, "remove", path);
    char **names;
    int64_t count;
    TR_TRY(tr_directory_list(path, &names, &count));
    tr_error *error = NULL;
    for (int64_t i = 0; i < count && !error; i++) {
        char *child = tr_path_join(path, names[i]);
        error = tr_path_remove(child);
        free(child);
    }
    tr_names_free(names, count);
    if (!error && rmdir(path) != 0 && errno != ENOENT)
        error = file_error(errno, "remove", path);
    return error;
}
