/* Images from IDX and NumPy files; see images.h. */
#include "data/images.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/shard.h"

/* An array as it stands in a file. */
typedef struct array {
    char *bytes; /* of the whole file, unpacked */
    int64_t size, start;
    int rank;
    int64_t dims[4], elems;
    enum { U8, I32, I64, F32 } type;
} array;

static const int widths[] = {1, 4, 8, 4};

/* zlib reads plain files as they are. */
static tr_error *read_file(const char *path, array *out)
{
    enum { PIECE = 1 << 20 };
    gzFile file = gzopen(path, "rb");
    int64_t room = 0;
    int n, code = Z_OK;
    if (!file)
        return tr_error_new(TR_USER, "%s cannot be read; is it there?", path);
    do {
        if (room - out->size < PIECE) {
            room = 2 * room + PIECE;
            out->bytes = tr_realloc(out->bytes, (size_t)room, 1);
        }
        n = gzread(file, out->bytes + out->size, PIECE);
        out->size += n > 0 ? n : 0;
    } while (n > 0);
    gzerror(file, &code);
    gzclose(file);
    return n == 0 && code == Z_OK ? NULL
                                  : tr_error_new(TR_USER, "%s is damaged: it cannot be unpacked to its end", path);
}

static tr_error *check_size(const char *path, array *a)
{
    a->elems = 1;
    for (int d = 0; d < a->rank; d++)
        if (a->dims[d] < 1 || !tr_mul_fits(a->elems, a->dims[d], &a->elems))
            return tr_error_new(TR_USER, "%s: dim %d of the array is %lld", path, d, (long long)a->dims[d]);
    if (a->elems > (a->size - a->start) / widths[a->type])
        return tr_error_new(TR_USER, "%s ends before its last element: %lld of %lld bytes are there", path,
                            (long long)(a->size - a->start), (long long)(a->elems * widths[a->type]));
    return NULL;
}

/* 0, 0, type (8: u8), rank; a big-endian u32 a dim; the elements. */
static tr_error *parse_idx(const char *path, array *a)
{
    const unsigned char *b = (const unsigned char *)a->bytes;
    a->rank = b[3];
    a->start = 4 + 4 * a->rank;
    if (b[2] != 8 || a->rank < 1 || a->rank > 4 || a->size < a->start)
        return tr_error_new(TR_USER, "%s: expected an IDX file of bytes with 1 to 4 dims", path);
    for (int d = 0; d < a->rank; d++)
        a->dims[d] = (int64_t)b[4 + 4 * d] << 24 | b[5 + 4 * d] << 16 | b[6 + 4 * d] << 8 | b[7 + 4 * d];
    a->type = U8;
    return check_size(path, a);
}

/* The header is a Python dict on one line. */
static tr_error *parse_npy(const char *path, array *a)
{
    static const char *const types[] = {"'|u1'", "'<i4'", "'<i8'", "'<f4'"};
    char header[512] = "";
    const unsigned char *b = (const unsigned char *)a->bytes;
    a->start = 10 + b[8] + 256 * (int64_t)b[9];
    if (b[6] != 1 || a->start > a->size || a->start - 10 >= (int64_t)sizeof header)
        return tr_error_new(TR_USER, "%s is no NumPy array of version 1", path);
    memcpy(header, b + 10, (size_t)a->start - 10);
    const char *at = strstr(header, "'shape': (");
    bool known = false;
    for (int k = 0; k < TR_COUNT(types); k++)
        if (strstr(header, types[k])) {
            a->type = k;
            known = true;
        }
    if (!at || !known || !strstr(header, "'fortran_order': False"))
        return tr_error_new(TR_USER, "%s: expected an array of u8, i4, i8 or f4 in C's order, not %.100s", path, header);
    for (at += 10; *at && *at != ')' && a->rank < 4; at += strspn(at, ", ")) {
        char *end;
        a->dims[a->rank++] = strtoll(at, &end, 10);
        if (end == at)
            break;
        at = end;
    }
    return *at == ')' && a->rank > 0 ? check_size(path, a)
                                     : tr_error_new(TR_USER, "%s: expected 1 to 4 dims, not %.100s", path, header);
}

static tr_error *read_array(const char *path, array *out)
{
    *out = (array){0};
    TR_TRY(read_file(path, out));
    if (out->size >= 10 && memcmp(out->bytes, "\x93NUMPY", 6) == 0)
        return parse_npy(path, out);
    if (out->size >= 4 && out->bytes[0] == 0 && out->bytes[1] == 0)
        return parse_idx(path, out);
    return tr_error_new(TR_USER, "%s is neither an IDX file (plain or gzip'd) nor a NumPy array", path);
}

/* Which file ------------------------------------------------------------------------------------------- */

static bool starts_with_one(const char *name, const char *const *prefixes)
{
    for (; *prefixes; prefixes++)
        if (strncmp(name, *prefixes, strlen(*prefixes)) == 0)
            return true;
    return false;
}

static tr_error *find_in(const char *directory, bool training, char **out)
{
    static const char *const train[] = {"train", NULL}, *const val[] = {"t10k", "test", "val", NULL};
    char **names;
    int64_t count;
    TR_TRY(tr_directory_list(directory, &names, &count));
    for (int64_t i = 0; i < count && !*out; i++)
        if (strstr(names[i], "images") && starts_with_one(names[i], training ? train : val))
            *out = tr_path_join(directory, names[i]);
    tr_names_free(names, count);
    return *out ? NULL
                : tr_error_new(TR_USER, "%s has no file of images to %s (%s...images...); give the file itself", directory,
                               training ? "train on" : "validate on", training ? "train" : "t10k, test or val");
}

/* "labels" for "images" in the name, "idx1" for "idx3"; NULL when the name has no "images". */
static char *labels_beside(const char *path)
{
    const char *slash = strrchr(path, '/'), *at = strstr(slash ? slash : path, "images");
    if (!at)
        return NULL;
    char *name = tr_format("%.*slabels%s", (int)(at - path), path, at + strlen("images"));
    char *kind = strstr(name + (at - path), "idx3");
    if (kind)
        kind[3] = '1';
    return name;
}

/* ------------------------------------------------------------------------------------------------------ */

static tr_error *take_images(tr_images *m, array *a)
{
    if (a->rank < 3 || a->rank > 4 || (a->type != U8 && a->type != F32))
        return tr_error_new(TR_USER, "%s: expected images, bytes or float32 [n, height, width] or [n, channels, height, width]",
                            m->path);
    m->count = a->dims[0];
    m->channels = a->rank == 4 ? a->dims[1] : 1;
    m->height = a->dims[a->rank - 2];
    m->width = a->dims[a->rank - 1];
    int64_t bytes = a->elems * widths[a->type];
    memmove(a->bytes, a->bytes + a->start, (size_t)bytes);
    m->fingerprint = tr_hash_bytes(m->fingerprint, a->bytes, bytes);
    if (a->type == U8)
        m->bytes = (uint8_t *)a->bytes;
    else
        m->reals = (float *)(void *)a->bytes;
    a->bytes = NULL;
    return NULL;
}

static tr_error *take_labels(tr_images *m, const char *path, const array *a)
{
    if (a->rank != 1 || a->type == F32 || a->dims[0] != m->count)
        return tr_error_new(TR_USER, "%s: expected %lld whole numbers, one for each image of %s", path, (long long)m->count,
                            m->path);
    m->labels = tr_alloc((size_t)m->count * sizeof *m->labels);
    for (int64_t i = 0; i < m->count; i++) {
        const char *at = a->bytes + a->start + i * widths[a->type];
        int64_t wide = 0;
        int32_t half = 0;
        if (a->type == I64)
            memcpy(&wide, at, 8);
        else if (a->type == I32)
            memcpy(&half, at, 4);
        int64_t label = a->type == U8 ? (uint8_t)*at : a->type == I32 ? half : wide;
        if (label < 0 || label >= INT32_MAX)
            return tr_error_new(TR_USER, "%s: label %lld is %lld", path, (long long)i, (long long)label);
        m->labels[i] = (int32_t)label;
        m->classes = TR_MAX(m->classes, (int32_t)label + 1);
    }
    m->fingerprint = tr_hash_bytes(m->fingerprint, m->labels, m->count * (int64_t)sizeof *m->labels);
    return NULL;
}

tr_error *tr_images_open(const char *path, bool training, bool need_labels, tr_images **out)
{
    tr_error *error = NULL;
    array images = {0}, labels = {0};
    char *beside = NULL;
    tr_images *m = tr_alloc_zero(1, sizeof *m);
    *out = NULL;
    if (tr_path_is_directory(path))
        TR_GO(find_in(path, training, &m->path));
    else
        m->path = tr_strdup(path);
    TR_GO(read_array(m->path, &images));
    TR_GO(take_images(m, &images));
    beside = labels_beside(m->path);
    bool there = beside && tr_path_exists(beside);
    if (need_labels && !there)
        TR_GO(tr_error_new(TR_USER, "%s has no labels beside it%s%s; the file's name must have \"images\" in it, and that of the "
                                    "labels \"labels\"",
                           m->path, beside ? ": there is no " : "", beside ? beside : ""));
    if (there) {
        TR_GO(read_array(beside, &labels));
        TR_GO(take_labels(m, beside, &labels));
    }
    *out = m;
    m = NULL;
done:
    free(images.bytes);
    free(labels.bytes);
    free(beside);
    tr_images_free(m);
    return error;
}

void tr_images_free(tr_images *m)
{
    if (!m)
        return;
    free(m->path);
    free(m->bytes);
    free(m->reals);
    free(m->labels);
    free(m);
}

float tr_images_pixel(const tr_images *m, int64_t n, int64_t i)
{
    int64_t at = n * m->channels * m->height * m->width + i;
    return m->bytes ? (float)m->bytes[at] / 127.5f - 1 : m->reals[at];
}
