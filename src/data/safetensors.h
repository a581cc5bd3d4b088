/* safetensors: named tensors in a file, read by mapping and written by streaming. docs/formats.md
 * has the bytes.
 *
 * Reading. Nothing of a file is believed: after tr_safetensors_open has succeeded,
 *   1. names are unique, every dtype is known, rank <= TR_STORED_RANK, dims >= 0, and elems and
 *      bytes are the exact products, without overflow;
 *   2. every tensor's bytes lie inside its file, no two overlap, and together they fill the file to
 *      its end;
 *   3. in the sharded form, the index and the shards agree about every name.
 * Data is NOT aligned in files that others wrote: use tr_stored_read, or memcpy.
 * Everything returned is borrowed from the tr_safetensors and lives until tr_safetensors_close.
 * Cost: O(n log n) in the number of tensors; the data itself is not touched.
 *
 * Writing. All tensors are declared first, then their data follows in the same order, in pieces of
 * any size; memory stays small whatever the size of the model. The file appears under its name only
 * with a successful tr_safetensors_writer_commit_take. Where several ranks write one file,
 * tr_safetensors_create makes it and says where each tensor's data goes.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "ir/dtype.h"

enum { TR_STORED_RANK = 8 };

/* A tensor in a file. */
typedef struct tr_stored {
    const char *name;
    const char *file; /* path of the file it is in, for messages */
    tr_dtype dtype;
    int rank;
    int64_t dims[TR_STORED_RANK]; /* dim 0 outermost, row-major */
    int64_t elems, bytes;
    const void *data;
    /* NULL: the data are the elements. Otherwise dtype is F32 and this makes some of them; `how` is its own. */
    void (*decode)(const struct tr_stored *tensor, int64_t first, int64_t count, float *out);
    const void *how;
    /* NULL, or tensors of one dtype and size of which this one is the stack: `data` is NULL then. */
    const struct tr_stored *const *parts;
} tr_stored;

typedef struct tr_safetensors tr_safetensors;

/* `path` is a .safetensors file, a .safetensors.index.json file, or a directory that has
 * model.safetensors or model.safetensors.index.json in it. */
tr_error *tr_safetensors_open(const char *path, tr_safetensors **out);
/* One file's bytes that the caller keeps alive; `where` stands for its path in messages. */
tr_error *tr_safetensors_parse(const void *bytes, int64_t size, const char *where,
                               tr_safetensors **out);
/* Tensors of another kind of file, so that they are read as these are; their data and `how` are the caller's. */
tr_error *tr_safetensors_of_take(tr_stored *tensors, int64_t count, const char *where, tr_safetensors **out);
void tr_safetensors_close(tr_safetensors *file); /* NULL is fine */

int64_t tr_safetensors_count(const tr_safetensors *file);
/* In the order of their data; shards in the order of their names. */
const tr_stored *tr_safetensors_at(const tr_safetensors *file, int64_t i);
/* NULL when there is none of that name. */
const tr_stored *tr_safetensors_find(const tr_safetensors *file, const char *name);
/* The same, but an error that names the file and the nearest name. */
tr_error *tr_safetensors_need(const tr_safetensors *file, const char *name, const tr_stored **out);
/* A value of __metadata__, or NULL. */
const char *tr_safetensors_metadata(const tr_safetensors *file, const char *key);

/* Is it of this shape? If not, an error that shows both. */
tr_error *tr_stored_check(const tr_stored *tensor, int rank, const int64_t *dims);
/* Copies `count` elements from element `first` on into `out`, converting among F32, BF16, F16 and
 * F64 (to F32 or BF16, rounding to nearest even); any other pair of types must be the same type. */
tr_error *tr_stored_read(const tr_stored *tensor, int64_t first, int64_t count, tr_dtype dtype,
                         void *out);
/* "[2, 3]"; the caller frees. */
char *tr_shape_text(int rank, const int64_t *dims);

/* A tensor to be saved: the caller owns everything in it. */
typedef struct tr_saved {
    const char *name;
    tr_dtype dtype;
    int rank;
    const int64_t *dims;
    const void *data;
} tr_saved;
int64_t tr_saved_bytes(const tr_saved *tensor);

typedef struct tr_safetensors_writer tr_safetensors_writer;
/* Writes the header; `data` of the tensors is not looked at. Tensors of wider elements must come
 * before those of narrower ones, so that all data is aligned in the file. */
tr_error *tr_safetensors_writer_open(const char *path, const tr_saved *tensors, int64_t count,
                                     tr_safetensors_writer **out);
/* The next bytes of the data. */
tr_error *tr_safetensors_writer_write(tr_safetensors_writer *writer, const void *bytes,
                                      int64_t count);
/* For the file's checksum and size. */
const tr_writer *tr_safetensors_writer_file(const tr_safetensors_writer *writer);
tr_error *tr_safetensors_writer_commit_take(tr_safetensors_writer *writer);
void tr_safetensors_writer_drop(tr_safetensors_writer *writer); /* NULL is fine */

/* All in one call, in any order of widths; the size and CRC-32C of the file if wanted (may be
 * NULL). */
tr_error *tr_safetensors_save(const char *path, const tr_saved *tensors, int64_t count,
                              int64_t *out_bytes, uint32_t *out_crc32c);

/* A file of its final size with the header in it and the data still to be written into it, each
 * tensor's from out_offsets[i] (in bytes; the caller frees) on: the same file that
 * tr_safetensors_save makes. The space is taken at once where the file system can. Synced; `path`
 * must not be seen by readers yet. */
tr_error *tr_safetensors_create(const char *path, const tr_saved *tensors, int64_t count,
                                int64_t **out_offsets, int64_t *out_bytes);
