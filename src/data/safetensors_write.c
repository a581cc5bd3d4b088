/* Writing safetensors files; see safetensors.h.
 *
 * The header is built whole (a few hundred bytes a tensor), padded with spaces so that the data
 * begins at a multiple of 64 bytes, and written first; then the data passes through. The writer
 * counts: commit refuses unless exactly the declared bytes came.
 */
#define _GNU_SOURCE
#include "data/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

enum { DATA_ALIGNMENT = 64 };

struct tr_safetensors_writer {
    tr_writer *file;
    char *path;
    int64_t expected; /* size of the finished file */
};

int64_t tr_saved_bytes(const tr_saved *tensor)
{
    int64_t bytes = tr_dtype_bytes(tensor->dtype);
    for (int d = 0; d < tensor->rank; d++)
        TR_CHECK(tensor->dims[d] >= 0 && tr_mul_fits(bytes, tensor->dims[d], &bytes),
                 "tensor '%s' has an impossible shape", tensor->name);
    return bytes;
}

static tr_error *header_text(const char *path, const tr_saved *tensors, int64_t count,
                             int64_t *out_data_bytes, char **out_text)
{
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t offset = 0;
    tr_error *error = NULL;
    for (int64_t i = 0; i < count && !error; i++) {
        const tr_saved *t = &tensors[i];
        TR_CHECK(t->rank >= 0 && t->rank <= TR_STORED_RANK, "tensor '%s' has rank %d", t->name,
                 t->rank);
        TR_CHECK(offset % tr_dtype_bytes(t->dtype) == 0,
                 "tensor '%s' would lie at %lld: not aligned", t->name, (long long)offset);
        int64_t bytes = tr_saved_bytes(t), end = 0;
        TR_CHECK(!__builtin_add_overflow(offset, bytes, &end), "'%s' makes the file too big",
                 t->name);
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++)
            json_array_append_new(shape, json_integer(t->dims[d]));
        json_t *entry =
            json_pack("{s:s, s:o, s:[I,I]}", "dtype", tr_dtype_safetensors_name(t->dtype), "shape",
                      shape, "data_offsets", (json_int_t)offset, (json_int_t)end);
        TR_CHECK(entry, "out of memory for a header");
        bool known = json_object_get(header, t->name) != NULL;
        bool bad = json_object_set_new(header, t->name, entry) != 0;
        if (known || bad)
            error = tr_error_new(TR_RUN, "cannot write %s: the tensor name '%.100s' is %s", path,
                                 t->name, known ? "there twice" : "not UTF-8");
        offset = end;
    }
    *out_data_bytes = offset;
    *out_text = error ? NULL : json_dumps(header, JSON_COMPACT);
    json_decref(header);
    TR_CHECK(error || *out_text, "out of memory for a header");
    return error;
}

/* All that stands before the data, padded; the caller frees. */
static tr_error *file_head(const char *path, const tr_saved *tensors, int64_t count,
                           char **out_head, int64_t *out_bytes, int64_t *out_data_bytes)
{
    char *text;
    *out_head = NULL;
    TR_TRY(header_text(path, tensors, count, out_data_bytes, &text));
    int64_t length = (int64_t)strlen(text);
    int64_t bytes = (8 + length + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    char *head = tr_alloc((size_t)bytes);
    memset(head, ' ', (size_t)bytes);
    for (int i = 0; i < 8; i++)
        head[i] = (char)(unsigned char)((uint64_t)(bytes - 8) >> 8 * i);
    memcpy(head + 8, text, (size_t)length);
    free(text);
    *out_head = head;
    *out_bytes = bytes;
    return NULL;
}

tr_error *tr_safetensors_writer_open(const char *path, const tr_saved *tensors, int64_t count,
                                     tr_safetensors_writer **out)
{
    *out = NULL;
    int64_t bytes, data_bytes;
    char *head;
    TR_TRY(file_head(path, tensors, count, &head, &bytes, &data_bytes));
    tr_safetensors_writer *writer = tr_alloc_zero(1, sizeof *writer);
    writer->path = tr_strdup(path);
    writer->expected = bytes + data_bytes;
    tr_error *error;
    TR_GO(tr_writer_open(path, &writer->file));
    TR_GO(tr_writer_write(writer->file, head, bytes));
done:
    free(head);
    if (error)
        tr_safetensors_writer_drop(writer);
    else
        *out = writer;
    return error;
}

tr_error *tr_safetensors_writer_write(tr_safetensors_writer *writer, const void *bytes,
                                      int64_t count)
{
    return tr_writer_write(writer->file, bytes, count);
}

const tr_writer *tr_safetensors_writer_file(const tr_safetensors_writer *writer)
{
    return writer->file;
}

tr_error *tr_safetensors_writer_commit_take(tr_safetensors_writer *writer)
{
    int64_t written = tr_writer_position(writer->file);
    tr_error *error = NULL;
    if (written == writer->expected) {
        error = tr_writer_commit_take(writer->file);
        writer->file = NULL;
    } else {
        error =
            tr_error_new(TR_RUN, "cannot finish %s: %lld bytes were written, %lld were declared",
                         writer->path, (long long)written, (long long)writer->expected);
    }
    tr_safetensors_writer_drop(writer);
    return error;
}

void tr_safetensors_writer_drop(tr_safetensors_writer *writer)
{
    if (!writer)
        return;
    tr_writer_drop(writer->file);
    free(writer->path);
    free(writer);
}

/* Widest elements first, otherwise in the given order: which tensor comes at each place. */
static int64_t *order_by_width(const tr_saved *tensors, int64_t count)
{
    int64_t *order = tr_alloc_zero((size_t)count + 1, sizeof *order), n = 0;
    for (int64_t width = 8; width >= 1; width /= 2)
        for (int64_t i = 0; i < count; i++)
            if (tr_dtype_bytes(tensors[i].dtype) == width)
                order[n++] = i;
    TR_CHECK(n == count, "a dtype of an odd width");
    return order;
}

static tr_saved *in_order(const tr_saved *tensors, const int64_t *order, int64_t count)
{
    tr_saved *sorted = tr_alloc_zero((size_t)count + 1, sizeof *sorted);
    for (int64_t i = 0; i < count; i++)
        sorted[i] = tensors[order[i]];
    return sorted;
}

tr_error *tr_safetensors_save(const char *path, const tr_saved *tensors, int64_t count,
                              int64_t *out_bytes, uint32_t *out_crc32c)
{
    tr_safetensors_writer *writer = NULL;
    int64_t *order = order_by_width(tensors, count);
    tr_saved *sorted = in_order(tensors, order, count);
    tr_error *error;
    TR_GO(tr_safetensors_writer_open(path, sorted, count, &writer));
    for (int64_t i = 0; i < count; i++)
        TR_GO(tr_safetensors_writer_write(writer, sorted[i].data, tr_saved_bytes(&sorted[i])));
    if (out_bytes)
        *out_bytes = tr_writer_position(writer->file);
    if (out_crc32c)
        *out_crc32c = tr_writer_crc32c(writer->file);
    error = tr_safetensors_writer_commit_take(writer);
    writer = NULL;
done:
    tr_safetensors_writer_drop(writer);
    free(sorted);
    free(order);
    return error;
}

/* Writing by several ranks. */

static tr_error *grow(const char *path, int64_t bytes)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), code = 0;
    if (fd < 0)
        return tr_error_errno(TR_RUN, errno, "cannot open %s", path);
    do
        code = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;
    while (code == EINTR);
    if (code == EOPNOTSUPP || code == ENOSYS) /* the disk may then be full when the data comes */
        code = ftruncate(fd, (off_t)bytes) == 0 ? 0 : errno;
    if (!code && fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP)
        code = errno;
    close(fd);
    if (!code)
        return NULL;
    return tr_error_new(
        TR_RUN, "cannot make %s of %lld bytes: %s%s", path, (long long)bytes, strerror(code),
        code == ENOSPC || code == EDQUOT ? "; free some space on that disk or write elsewhere"
                                         : "");
}

tr_error *tr_safetensors_create(const char *path, const tr_saved *tensors, int64_t count,
                                int64_t **out_offsets, int64_t *out_bytes)
{
    int64_t *order = order_by_width(tensors, count), *offsets = NULL, bytes, data_bytes;
    tr_saved *sorted = in_order(tensors, order, count);
    char *head;
    tr_error *error;
    TR_GO(file_head(path, sorted, count, &head, &bytes, &data_bytes));
    offsets = tr_alloc_zero((size_t)count + 1, sizeof *offsets);
    *out_bytes = bytes + data_bytes;
    error = tr_file_write(path, head, bytes);
    free(head);
    for (int64_t i = 0; i < count; i++) {
        offsets[order[i]] = bytes;
        bytes += tr_saved_bytes(&sorted[i]);
    }
    if (!error)
        error = grow(path, *out_bytes);
done:
    free(sorted);
    free(order);
    if (error) {
        free(offsets);
        offsets = NULL;
    }
    *out_offsets = offsets;
    return error;
}
