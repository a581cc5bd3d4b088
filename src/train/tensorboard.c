/* TensorBoard event files; see tensorboard.h.
 *
 * A file is a sequence of TFRecords: length u64, masked CRC-32C of the length u32, bytes, masked
 * CRC-32C of the bytes u32, little-endian. The bytes are a protocol buffer, an Event: 1 wall_time
 * double, 2 step int64, and one of 3 file_version string, 5 summary, 7 session_log Summary: 1
 * value, repeated: 1 tag, and 2 simple_value float, or 8 tensor with 9 metadata. A protocol buffer
 * field is a varint (number << 3 | wire type), then its value: type 0 a varint, 1 eight bytes, 2 a
 * length and bytes, 5 four bytes.
 */
#define _GNU_SOURCE
#include "train/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_FILE_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION_LOG = 7,
    SESSION_STATUS = 1,
    SESSION_START = 1,
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE = 2,
    VALUE_TENSOR = 8,
    VALUE_METADATA = 9,
    METADATA_PLUGIN = 1,
    PLUGIN_NAME = 1,
    TENSOR_DTYPE = 1,
    TENSOR_SHAPE = 2,
    TENSOR_STRING = 8,
    DTYPE_STRING = 7,
    SHAPE_DIM = 2,
    DIM_SIZE = 1,
};
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct tr_tensorboard {
    int fd;
    char *path;
    int64_t size;
};

/* Protocol buffers. */

static void put_varint(tr_text *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        tr_text_add(out, (char[]){(char)(value | 0x80)}, 1);
    tr_text_add(out, (char[]){(char)value}, 1);
}

static void put_key(tr_text *out, int field, int wire)
{
    put_varint(out, (uint64_t)field << 3 | (uint64_t)wire);
}

static void put_int(tr_text *out, int field, int64_t value)
{
    put_key(out, field, WIRE_VARINT);
    put_varint(out, (uint64_t)value);
}

static void put_bytes(tr_text *out, int field, const char *bytes, size_t length)
{
    put_key(out, field, WIRE_BYTES);
    put_varint(out, length);
    tr_text_add(out, bytes, length);
}

/* A message as a field; empties `message`. */
static void put_message(tr_text *out, int field, tr_text *message)
{
    put_bytes(out, field, message->bytes ? message->bytes : "", message->length);
    tr_text_free(message);
    *message = (tr_text){0};
}

/* Records. */

static uint32_t masked(const void *bytes, int64_t count)
{
    uint32_t crc = tr_crc32c(0, bytes, count);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static tr_error *write_record(tr_tensorboard *board, const tr_text *event)
{
    uint64_t length = event->length;
    uint32_t length_crc = masked(&length, sizeof length);
    uint32_t crc = masked(event->bytes, (int64_t)event->length);
    tr_text record = {0};
    tr_text_add(&record, (const char *)&length, sizeof length);
    tr_text_add(&record, (const char *)&length_crc, sizeof length_crc);
    tr_text_add(&record, event->bytes, event->length);
    tr_text_add(&record, (const char *)&crc, sizeof crc);
    tr_error *error = NULL;
    for (size_t done = 0; done < record.length && !error;) {
        ssize_t count = write(board->fd, record.bytes + done, record.length - done);
        if (count > 0)
            done += (size_t)count;
        else if (count == 0 || errno != EINTR)
            error = tr_error_errno(TR_RUN, count ? errno : EIO,
                                   "cannot write the TensorBoard events to %s", board->path);
    }
    if (error) /* half a record would hide all that follow */
        (void)!ftruncate(board->fd, board->size);
    else
        board->size += (int64_t)record.length;
    tr_text_free(&record);
    return error;
}

/* Writes an event with one field, `message`, which is consumed. */
static tr_error *write_event(tr_tensorboard *board, int64_t step, int field, tr_text *message)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double wall = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    tr_text event = {0};
    put_key(&event, EVENT_WALL_TIME, WIRE_64);
    tr_text_add(&event, (const char *)&wall, sizeof wall);
    put_int(&event, EVENT_STEP, step);
    put_message(&event, field, message);
    tr_error *error = write_record(board, &event);
    tr_text_free(&event);
    return error;
}

tr_error *tr_tensorboard_open(const char *directory, int64_t resume_step, tr_tensorboard **out)
{
    *out = NULL;
    TR_TRY(tr_directory_make(directory));
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host - 1);
    for (char *c = host; *c; c++)
        if (*c == '/')
            *c = '-';
    long long now = (long long)time(NULL);
    int fd = -1;
    char *path = NULL;
    for (int n = 0; n < 1000 && fd < 0; n++) {
        free(path);
        path = tr_format("%s/events.out.tfevents.%010lld.%s.%ld.%d", directory, now,
                         *host ? host : "localhost", (long)getpid(), n);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0) {
        tr_error *error =
            tr_error_errno(TR_USER, errno, "cannot write the TensorBoard events to %s", path);
        free(path);
        return error;
    }
    tr_tensorboard *board = tr_alloc_zero(1, sizeof *board);
    *board = (tr_tensorboard){.fd = fd, .path = path};
    static const char version[] = "brain.Event:2";
    tr_text message = {0};
    tr_text_add(&message, version, strlen(version));
    tr_error *error = write_event(board, 0, EVENT_FILE_VERSION, &message);
    if (!error && resume_step >= 0) {
        put_int(&message, SESSION_STATUS, SESSION_START);
        error = write_event(board, resume_step + 1, EVENT_SESSION_LOG, &message);
    }
    if (error) {
        tr_tensorboard_close(board);
        return error;
    }
    *out = board;
    return NULL;
}

tr_error *tr_tensorboard_scalars(tr_tensorboard *board, int64_t step, const tr_scalar *scalars,
                                 int64_t count)
{
    tr_text summary = {0};
    for (int64_t i = 0; i < count; i++) {
        tr_text value = {0};
        float number = (float)scalars[i].value;
        put_bytes(&value, VALUE_TAG, scalars[i].tag, strlen(scalars[i].tag));
        put_key(&value, VALUE_SIMPLE, WIRE_32);
        tr_text_add(&value, (const char *)&number, sizeof number);
        put_message(&summary, SUMMARY_VALUE, &value);
    }
    return write_event(board, step, EVENT_SUMMARY, &summary);
}

tr_error *tr_tensorboard_text(tr_tensorboard *board, int64_t step, const char *tag,
                              const char *text)
{
    tr_text plugin = {0}, metadata = {0}, dim = {0}, shape = {0}, tensor = {0}, value = {0};
    tr_text summary = {0};
    put_bytes(&plugin, PLUGIN_NAME, "text", 4);
    put_message(&metadata, METADATA_PLUGIN, &plugin);
    put_int(&dim, DIM_SIZE, 1);
    put_message(&shape, SHAPE_DIM, &dim);
    put_int(&tensor, TENSOR_DTYPE, DTYPE_STRING);
    put_message(&tensor, TENSOR_SHAPE, &shape);
    put_bytes(&tensor, TENSOR_STRING, text, strlen(text));
    put_bytes(&value, VALUE_TAG, tag, strlen(tag));
    put_message(&value, VALUE_METADATA, &metadata);
    put_message(&value, VALUE_TENSOR, &tensor);
    put_message(&summary, SUMMARY_VALUE, &value);
    return write_event(board, step, EVENT_SUMMARY, &summary);
}

void tr_tensorboard_close(tr_tensorboard *board)
{
    if (!board)
        return;
    close(board->fd);
    free(board->path);
    free(board);
}
