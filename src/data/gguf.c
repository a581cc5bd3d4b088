/* Reading GGUF; see gguf.h. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 *   "GGUF" u32 version  u64 tensors  u64 keys
 *   keys:    text name, u32 type, value      (text: u64 length, bytes; array: u32 type, u64 count, values)
 *   tensors: text name, u32 rank, u64 dims[rank] (innermost first), u32 type, u64 offset
 *   padding to general.alignment (32), then the data that offsets count from
 */
#include "data/gguf.h"

#include "base/memory.h"
#include "data/gguf_block.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64, TYPES };
static const struct {
    int width; /* 0: it varies */
    tr_gguf_kind kind;
} types[TYPES] = {[U8] = {1, TR_GGUF_INT},  [I8] = {1, TR_GGUF_INT},   [U16] = {2, TR_GGUF_INT},  [I16] = {2, TR_GGUF_INT},
                  [U32] = {4, TR_GGUF_INT}, [I32] = {4, TR_GGUF_INT},  [F32] = {4, TR_GGUF_REAL}, [BOOL] = {1, TR_GGUF_BOOL},
                  [TEXT] = {0, TR_GGUF_TEXT}, [ARRAY] = {0, TR_GGUF_ARRAY}, [U64] = {8, TR_GGUF_INT}, [I64] = {8, TR_GGUF_INT},
                  [F64] = {8, TR_GGUF_REAL}};

typedef struct entry {
    const char *key;
    int type;
    const char *bytes;   /* of a scalar */
    tr_gguf_text text;   /* of a text */
    tr_gguf_array array; /* of an array */
} entry;

typedef struct tensor {
    const char *name;
    int rank, type;
    int64_t dims[TR_STORED_RANK], offset;
} tensor;

struct tr_gguf {
    tr_arena *arena;
    tr_map map;
    const char *where;
    const char *bytes;
    int64_t size, data; /* where the tensors' data begin */
    entry *entries;
    tensor *tensors;
    int64_t n_entries, n_tensors;
};

/* The file, front to back ------------------------------------------------------------------------------ */

typedef struct reader {
    tr_gguf *file;
    int64_t at;
    bool ended; /* something went beyond the end */
} reader;

static const char *take(reader *r, int64_t count)
{
    if (r->ended || count < 0 || count > r->file->size - r->at) {
        r->ended = true;
        return NULL;
    }
    r->at += count;
    return r->file->bytes + r->at - count;
}

static uint32_t take_u32(reader *r)
{
    uint32_t value = 0;
    const char *from = take(r, 4);
    if (from)
        memcpy(&value, from, 4);
    return value;
}

/* A count or a length; what does not fit in int64 is beyond the end. */
static int64_t take_count(reader *r)
{
    uint64_t value = 0;
    const char *from = take(r, 8);
    if (from)
        memcpy(&value, from, 8);
    if (value > INT64_MAX) {
        r->ended = true;
        return 0;
    }
    return (int64_t)value;
}

static tr_gguf_text take_text(reader *r)
{
    int64_t length = take_count(r);
    const char *bytes = take(r, length);
    return (tr_gguf_text){bytes ? bytes : "", bytes ? length : 0};
}

static const char *take_name(reader *r)
{
    tr_gguf_text text = take_text(r);
    char *name = tr_arena_alloc(r->file->arena, (size_t)text.length + 1);
    memcpy(name, text.bytes, (size_t)text.length);
    return name;
}

static tr_error *take_array(reader *r, const char *key, tr_gguf_array *out)
{
    uint32_t type = take_u32(r);
    int64_t count = take_count(r), bytes;
    if (r->ended || type >= TYPES || type == ARRAY)
        return r->ended ? NULL
                        : tr_error_new(TR_USER, "%s: %s is an array of type %u; arrays of numbers and texts can be read",
                                       r->file->where, key, type);
    *out = (tr_gguf_array){.kind = types[type].kind, .count = count, .type = (int)type};
    if (type != TEXT) {
        out->bytes = take(r, tr_mul_fits(count, types[type].width, &bytes) ? bytes : -1);
        return NULL;
    }
    if (count > (r->file->size - r->at) / 8) { /* a text is at least its length */
        r->ended = true;
        return NULL;
    }
    int64_t *offsets = tr_arena_alloc(r->file->arena, ((size_t)count + 1) * sizeof *offsets);
    out->bytes = r->file->bytes;
    out->offsets = offsets;
    for (int64_t i = 0; i < count; i++) {
        offsets[i] = r->at;
        take_text(r);
    }
    return NULL;
}

static tr_error *take_entry(reader *r, entry *out)
{
    out->key = take_name(r);
    uint32_t type = take_u32(r);
    out->type = (int)type;
    if (r->ended)
        return NULL;
    if (type >= TYPES)
        return tr_error_new(TR_USER, "%s: %.100s is of type %u, which no version of GGUF up to 3 has", r->file->where, out->key,
                            type);
    if (type == ARRAY)
        return take_array(r, out->key, &out->array);
    if (type == TEXT)
        out->text = take_text(r);
    else
        out->bytes = take(r, types[type].width);
    return NULL;
}

static tr_error *take_tensor(reader *r, tensor *out)
{
    int64_t elems = 1;
    out->name = take_name(r);
    uint32_t rank = take_u32(r);
    if (r->ended)
        return NULL;
    if (rank < 1 || rank > TR_STORED_RANK)
        return tr_error_new(TR_USER, "%s: tensor %.100s has %u dims; 1 to %d can be read", r->file->where, out->name, rank,
                            TR_STORED_RANK);
    out->rank = (int)rank;
    for (int d = out->rank - 1; d >= 0; d--) {
        out->dims[d] = take_count(r);
        if (!r->ended && (out->dims[d] < 1 || !tr_mul_fits(elems, out->dims[d], &elems)))
            return tr_error_new(TR_USER, "%s: tensor %.100s has impossible dims", r->file->where, out->name);
    }
    out->type = (int)take_u32(r);
    out->offset = take_count(r);
    return NULL;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->key, ((const entry *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const tensor *)a)->name, ((const tensor *)b)->name);
}

static tr_error *check_unique(tr_gguf *f)
{
    qsort(f->entries, (size_t)f->n_entries, sizeof *f->entries, by_key);
    qsort(f->tensors, (size_t)f->n_tensors, sizeof *f->tensors, by_name);
    for (int64_t i = 1; i < f->n_entries; i++)
        if (strcmp(f->entries[i - 1].key, f->entries[i].key) == 0)
            return tr_error_new(TR_USER, "%s: the key %.100s is there twice", f->where, f->entries[i].key);
    for (int64_t i = 1; i < f->n_tensors; i++)
        if (strcmp(f->tensors[i - 1].name, f->tensors[i].name) == 0)
            return tr_error_new(TR_USER, "%s: the tensor %.100s is there twice", f->where, f->tensors[i].name);
    return NULL;
}

static tr_error *read_all(tr_gguf *f)
{
    enum { LEAST_ENTRY = 13, LEAST_TENSOR = 32, MOST_ALIGNMENT = 1 << 20 }; /* bytes */
    reader r = {.file = f};
    const char *magic = take(&r, 4);
    uint32_t version = take_u32(&r);
    if (r.ended || memcmp(magic, "GGUF", 4) != 0)
        return tr_error_new(TR_USER, "%s is no GGUF file", f->where);
    if (version != 2 && version != 3)
        return tr_error_new(TR_USER, "%s is a GGUF file of version %u; 2 and 3 can be read", f->where, version);
    f->n_tensors = take_count(&r);
    f->n_entries = take_count(&r);
    if (f->n_entries > f->size / LEAST_ENTRY || f->n_tensors > f->size / LEAST_TENSOR)
        r.ended = true;
    if (!r.ended) {
        f->entries = tr_arena_alloc(f->arena, ((size_t)f->n_entries + 1) * sizeof *f->entries);
        f->tensors = tr_arena_alloc(f->arena, ((size_t)f->n_tensors + 1) * sizeof *f->tensors);
    }
    for (int64_t i = 0; i < f->n_entries && !r.ended; i++)
        TR_TRY(take_entry(&r, &f->entries[i]));
    for (int64_t i = 0; i < f->n_tensors && !r.ended; i++)
        TR_TRY(take_tensor(&r, &f->tensors[i]));
    if (r.ended)
        return tr_error_new(TR_USER, "%s ends in the middle of its header: it is cut off or damaged", f->where);
    TR_TRY(check_unique(f));
    int64_t alignment = 32;
    tr_gguf_int(f, "general.alignment", &alignment);
    if (alignment < 1 || alignment > MOST_ALIGNMENT)
        return tr_error_new(TR_USER, "%s: general.alignment is %lld", f->where, (long long)alignment);
    f->data = (r.at + alignment - 1) / alignment * alignment;
    return NULL;
}

bool tr_path_is_gguf(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

tr_error *tr_gguf_parse(const void *bytes, int64_t size, const char *where, tr_gguf **out)
{
    tr_arena *arena = tr_arena_new();
    tr_gguf *f = tr_arena_alloc(arena, sizeof *f);
    *f = (tr_gguf){.arena = arena, .where = tr_arena_strdup(arena, where), .bytes = bytes, .size = size};
    tr_error *error = read_all(f);
    *out = error ? NULL : f;
    if (error)
        tr_arena_free(arena);
    return error;
}

tr_error *tr_gguf_open(const char *path, tr_gguf **out)
{
    tr_map map;
    *out = NULL;
    TR_TRY(tr_map_open(path, &map));
    tr_error *error = tr_gguf_parse(map.bytes, map.size, path, out);
    if (error)
        tr_map_close(&map);
    else
        (*out)->map = map;
    return error;
}

void tr_gguf_close(tr_gguf *f)
{
    if (!f)
        return;
    if (f->map.bytes)
        tr_map_close(&f->map);
    tr_arena_free(f->arena);
}

/* Metadata --------------------------------------------------------------------------------------------- */

static const entry *find(const tr_gguf *f, const char *key, tr_gguf_kind kind)
{
    entry wanted = {.key = key};
    const entry *e = bsearch(&wanted, f->entries, (size_t)f->n_entries, sizeof wanted, by_key);
    return e && types[e->type].kind == kind ? e : NULL;
}

/* False: beyond int64. */
static bool integer(int type, const char *from, int64_t *out)
{
    uint64_t bits = 0;
    memcpy(&bits, from, (size_t)types[type].width);
    switch (type) {
    case I8:
        *out = (int8_t)bits;
        return true;
    case I16:
        *out = (int16_t)bits;
        return true;
    case I32:
        *out = (int32_t)bits;
        return true;
    default:
        *out = (int64_t)bits;
        return type != U64 || bits <= INT64_MAX;
    }
}

static double real(int type, const char *from)
{
    float narrow;
    double wide;
    if (type == F64) {
        memcpy(&wide, from, sizeof wide);
        return wide;
    }
    memcpy(&narrow, from, sizeof narrow);
    return (double)narrow;
}

bool tr_gguf_string(const tr_gguf *f, const char *key, tr_gguf_text *out)
{
    const entry *e = find(f, key, TR_GGUF_TEXT);
    if (e)
        *out = e->text;
    return e != NULL;
}

bool tr_gguf_int(const tr_gguf *f, const char *key, int64_t *out)
{
    const entry *e = find(f, key, TR_GGUF_INT);
    int64_t value;
    if (!e || !integer(e->type, e->bytes, &value))
        return false;
    *out = value;
    return true;
}

bool tr_gguf_real(const tr_gguf *f, const char *key, double *out)
{
    const entry *e = find(f, key, TR_GGUF_REAL);
    if (e)
        *out = real(e->type, e->bytes);
    return e != NULL;
}

bool tr_gguf_bool(const tr_gguf *f, const char *key, bool *out)
{
    const entry *e = find(f, key, TR_GGUF_BOOL);
    if (e)
        *out = *e->bytes != 0;
    return e != NULL;
}

bool tr_gguf_array_find(const tr_gguf *f, const char *key, tr_gguf_array *out)
{
    const entry *e = find(f, key, TR_GGUF_ARRAY);
    if (e)
        *out = e->array;
    return e != NULL;
}

tr_gguf_text tr_gguf_array_text(const tr_gguf_array *array, int64_t i)
{
    uint64_t length;
    const char *at = array->bytes + array->offsets[i];
    memcpy(&length, at, sizeof length);
    return (tr_gguf_text){at + 8, (int64_t)length};
}

int64_t tr_gguf_array_int(const tr_gguf_array *array, int64_t i)
{
    int64_t value = 0;
    integer(array->type, array->bytes + i * types[array->type].width, &value);
    return value;
}

double tr_gguf_array_real(const tr_gguf_array *array, int64_t i)
{
    return real(array->type, array->bytes + i * types[array->type].width);
}

/* Tensors ---------------------------------------------------------------------------------------------- */

static void decode(const tr_stored *t, int64_t first, int64_t count, float *out)
{
    const tr_gguf_block *f = t->how;
    float block[TR_GGUF_MOST_ELEMS];
    for (int64_t i = first; i < first + count;) {
        int64_t skip = i % f->elems, n = TR_MIN(f->elems - skip, first + count - i);
        f->decode((const unsigned char *)t->data + i / f->elems * f->bytes, block);
        memcpy(out + (i - first), block + skip, (size_t)n * sizeof *out);
        i += n;
    }
}

static tr_error *describe(const tr_gguf *f, const tensor *t, tr_stored *out)
{
    const tr_gguf_block *how = tr_gguf_block_find(t->type), *known;
    if (!how) {
        tr_text list = {0};
        for (int k = 0; (known = tr_gguf_block_at(k)); k++)
            tr_text_format(&list, "%s%s", k ? ", " : "", known->name);
        tr_error *error = tr_error_new(TR_USER, "%s: tensor %s is of GGUF's type %d; these can be read: %s", f->where, t->name,
                                       t->type, list.bytes);
        tr_text_free(&list);
        return error;
    }
    *out = (tr_stored){.name = t->name, .file = f->where, .dtype = how->dtype, .rank = t->rank, .elems = 1,
                       .how = how, .decode = how->decode ? decode : NULL};
    for (int d = 0; d < t->rank; d++) {
        out->dims[d] = t->dims[d];
        out->elems *= t->dims[d];
    }
    if (t->dims[t->rank - 1] % how->elems != 0)
        return tr_error_new(TR_USER, "%s: tensor %s is %s with rows of %lld, no multiple of %d", f->where, t->name, how->name,
                            (long long)t->dims[t->rank - 1], how->elems);
    int64_t units = out->elems / how->elems, room = f->size - f->data - t->offset;
    if (t->offset > f->size || f->data > f->size || !tr_mul_fits(units, how->bytes, &out->bytes) || out->bytes > room)
        return tr_error_new(TR_USER, "%s: tensor %s lies beyond the end of the file: it is cut off or damaged", f->where, t->name);
    out->data = f->bytes + f->data + t->offset;
    return NULL;
}

tr_error *tr_gguf_tensors(const tr_gguf *f, tr_stored **out, int64_t *out_count)
{
    tr_stored *list = tr_alloc_zero((size_t)f->n_tensors + 1, sizeof *list);
    tr_error *error = NULL;
    for (int64_t i = 0; i < f->n_tensors && !error; i++)
        error = describe(f, &f->tensors[i], &list[i]);
    *out_count = f->n_tensors;
    *out = error ? NULL : list;
    if (error)
        free(list);
    return error;
}
