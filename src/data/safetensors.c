/* Reading safetensors files; see safetensors.h for what is guaranteed, safetensors_write.c for
 * writing.
 *
 * One tr_safetensors holds the tensors of one file or of all shards: `tensors` in data order,
 * `by_name` sorted for the lookup. Names live in the arena; maps are closed at the end.
 */
#include "data/safetensors.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/suggest.h"

/* The format's own limit: a header of more is refused before it is parsed. */
static const int64_t MOST_HEADER_BYTES = 100 * 1000 * 1000;

struct tr_safetensors {
    tr_arena *arena;
    const char *path; /* as opened */
    tr_map *maps;
    int64_t map_count, map_room;
    tr_stored *tensors;
    int64_t count, room;
    int32_t *by_name;
    json_t *metadata; /* of the first file that has one */
};

static tr_safetensors *new_file(const char *path)
{
    tr_safetensors *file = tr_alloc_zero(1, sizeof *file);
    file->arena = tr_arena_new();
    file->path = tr_arena_strdup(file->arena, path);
    return file;
}

void tr_safetensors_close(tr_safetensors *file)
{
    if (!file)
        return;
    for (int64_t i = 0; i < file->map_count; i++)
        tr_map_close(&file->maps[i]);
    json_decref(file->metadata);
    free(file->maps);
    free(file->tensors);
    free(file->by_name);
    tr_arena_free(file->arena);
    free(file);
}

/* One header entry. Names come from outside: messages cut them short. */

static tr_error *parse_dims(const json_t *shape, const char *where, tr_stored *tensor)
{
    size_t rank = json_array_size(shape);
    if (rank > TR_STORED_RANK)
        return tr_error_new(TR_USER, "%s: %zu dims, at most %d are supported", where, rank,
                            TR_STORED_RANK);
    tensor->rank = (int)rank;
    tensor->elems = 1;
    bool overflow = false;
    for (size_t d = 0; d < rank; d++) {
        const json_t *dim = json_array_get(shape, d);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return tr_error_new(TR_USER, "%s: 'shape' must be a list of whole numbers, 0 or more",
                                where);
        tensor->dims[d] = json_integer_value(dim);
        overflow |= !tr_mul_fits(tensor->elems, tensor->dims[d], &tensor->elems);
    }
    if (overflow || !tr_mul_fits(tensor->elems, tr_dtype_bytes(tensor->dtype), &tensor->bytes))
        return tr_error_new(TR_USER, "%s: the shape has too many elements", where);
    return NULL;
}

/* Names are quoted in messages and written to terminals and HTML. */
static bool printable(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == 0x7f)
            return false;
    return true;
}

/* Fills all of *tensor but the name; *out_begin is where its data begins in the data section. */
static tr_error *parse_entry(const json_t *entry, const char *where, const char *data,
                             int64_t data_bytes, tr_stored *tensor, int64_t *out_begin)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    TR_TRY(tr_json_only_keys(entry, where, keys, TR_COUNT(keys)));
    const char *dtype;
    const json_t *shape, *offsets;
    TR_TRY(tr_json_string(entry, where, "dtype", TR_REQUIRED, &dtype));
    TR_TRY(tr_json_array(entry, where, "shape", TR_REQUIRED, &shape));
    TR_TRY(tr_json_array(entry, where, "data_offsets", TR_REQUIRED, &offsets));
    bool known = tr_dtype_parse(dtype, &tensor->dtype);
    if (!known || strcmp(tr_dtype_safetensors_name(tensor->dtype), dtype) != 0) {
        tr_text names = {0};
        for (int i = 0; i < TR_DTYPE_COUNT; i++)
            tr_text_format(&names, "%s%s", i ? ", " : "", tr_dtype_safetensors_name((tr_dtype)i));
        tr_error *error = tr_error_new(TR_USER, "%s: dtype '%.20s' is not supported, only %s",
                                       where, dtype, names.bytes);
        tr_text_free(&names);
        return error;
    }
    TR_TRY(parse_dims(shape, where, tensor));
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return tr_error_new(TR_USER, "%s: 'data_offsets' must be two whole numbers", where);
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || end > data_bytes)
        return tr_error_new(
            TR_USER,
            "%s: data_offsets [%lld, %lld] lie outside the %lld bytes of data (is the "
            "file cut short? copy or download it again)",
            where, (long long)begin, (long long)end, (long long)data_bytes);
    if (end - begin != tensor->bytes)
        return tr_error_new(TR_USER, "%s: data_offsets span %lld bytes, the shape needs %lld",
                            where, (long long)(end - begin), (long long)tensor->bytes);
    tensor->data = data + begin;
    *out_begin = begin;
    return NULL;
}

static int by_data(const void *a, const void *b)
{
    const tr_stored *x = a, *y = b;
    const char *p = x->data, *q = y->data;
    if (p != q)
        return p < q ? -1 : 1;
    if (x->bytes != y->bytes) /* an empty tensor comes before the one that begins there */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Sorted by where they begin, each must begin where the one before it ends. */
static tr_error *check_layout(const tr_stored *tensors, int64_t count, const char *path,
                              const char *data, int64_t data_bytes)
{
    const char *end = data;
    for (int64_t i = 0; i < count; i++) {
        const char *begin = tensors[i].data;
        if (begin != end)
            return tr_error_new(
                TR_USER, "%s: tensor '%.100s' %s: the file is damaged or was written wrongly", path,
                tensors[i].name,
                begin < end ? "overlaps the one before it"
                            : "leaves a gap after the one before it");
        end = begin + tensors[i].bytes;
    }
    if (end != data + data_bytes)
        return tr_error_new(TR_USER,
                            "%s: %lld bytes follow the last tensor: the file is damaged or was "
                            "written wrongly",
                            path, (long long)(data + data_bytes - end));
    return NULL;
}

/* Appends the tensors of one file. */
static tr_error *add_file(tr_safetensors *file, const char *bytes, int64_t size, const char *path)
{
    if (size < 8)
        return tr_error_new(TR_USER, "%s: not a safetensors file: only %lld bytes long", path,
                            (long long)size);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | (unsigned char)bytes[i];
    if (length > (uint64_t)MOST_HEADER_BYTES || length < 2 || (size > 8 && bytes[8] != '{'))
        return tr_error_new(TR_USER,
                            "%s: not a safetensors file: its header is said to be %llu bytes%s",
                            path, (unsigned long long)length,
                            length > (uint64_t)MOST_HEADER_BYTES ? ", more than the format allows"
                                                                 : " and does not begin with '{'");
    if ((int64_t)length > size - 8)
        return tr_error_new(
            TR_USER,
            "%s: cut short: the header needs %llu bytes, the file has %lld (copy or "
            "download it again)",
            path, (unsigned long long)length + 8, (long long)size);
    tr_error *error = NULL;
    json_t *header = NULL;
    char *where = tr_format("%s: header", path);
    TR_GO(tr_json_parse(bytes + 8, (int64_t)length, where, &header));
    const char *data = bytes + 8 + length;
    int64_t data_bytes = size - 8 - (int64_t)length, first = file->count;
    const char *kept_path = tr_arena_strdup(file->arena, path);
    for (void *i = json_object_iter(header); i; i = json_object_iter_next(header, i)) {
        const char *name = json_object_iter_key(i);
        json_t *entry = json_object_iter_value(i);
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry)) {
                error = tr_error_new(TR_USER, "%s: __metadata__ must be an object", where);
                goto done;
            }
            if (!file->metadata)
                file->metadata = json_incref(entry);
            continue;
        }
        if (!*name || !printable(name)) {
            error = tr_error_new(TR_USER, "%s: a tensor's name is empty or has control characters",
                                 where);
            goto done;
        }
        tr_stored tensor = {.name = tr_arena_strdup(file->arena, name), .file = kept_path};
        int64_t begin;
        error = parse_entry(entry, "", data, data_bytes, &tensor, &begin);
        if (error) { /* the text begins with ": " because `where` was empty */
            tr_error *full =
                tr_error_new(TR_USER, "%s: tensor '%.100s'%s", path, name, tr_error_text(error));
            tr_error_free(error);
            error = full;
            goto done;
        }
        tr_push(file->tensors, file->count, file->room) = tensor;
    }
    int64_t added = file->count - first;
    tr_stored *tensors = file->tensors ? file->tensors + first : NULL;
    if (added > 0)
        qsort(tensors, (size_t)added, sizeof *tensors, by_data);
    error = check_layout(tensors, added, path, data, data_bytes);
done:
    json_decref(header);
    free(where);
    return error;
}

static tr_error *add_path(tr_safetensors *file, const char *path)
{
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    tr_push(file->maps, file->map_count, file->map_room) = map;
    return add_file(file, map.bytes, map.size, path);
}

static int compare_names(const void *a, const void *b, const tr_stored *tensors)
{
    return strcmp(tensors[*(const int32_t *)a].name, tensors[*(const int32_t *)b].name);
}

/* Merge sort: qsort has no context argument in C11. */
static void sort_names(int32_t *ids, int32_t *spare, int64_t count, const tr_stored *tensors)
{
    if (count < 2)
        return;
    int64_t half = count / 2;
    sort_names(ids, spare, half, tensors);
    sort_names(ids + half, spare, count - half, tensors);
    memcpy(spare, ids, (size_t)count * sizeof *ids);
    for (int64_t i = 0, a = 0, b = half; i < count; i++) {
        bool first = b == count || (a < half && compare_names(&spare[a], &spare[b], tensors) <= 0);
        ids[i] = spare[first ? a++ : b++];
    }
}

/* Builds the lookup; a name in two shards is found here. */
static tr_error *index_names(tr_safetensors *file)
{
    if (file->count > INT32_MAX)
        return tr_error_new(TR_USER, "%s: too many tensors", file->path);
    size_t count = (size_t)file->count;
    file->by_name = tr_alloc((count + 1) * sizeof *file->by_name);
    for (size_t i = 0; i < count; i++)
        file->by_name[i] = (int32_t)i;
    int32_t *spare = tr_alloc((count + 1) * sizeof *spare);
    sort_names(file->by_name, spare, file->count, file->tensors);
    free(spare);
    for (size_t i = 1; i < count; i++) {
        const tr_stored *a = &file->tensors[file->by_name[i - 1]];
        const tr_stored *b = &file->tensors[file->by_name[i]];
        if (strcmp(a->name, b->name) == 0)
            return tr_error_new(TR_USER, "tensor '%.100s' is in %s and again in %s", a->name,
                                a->file, b->file);
    }
    return NULL;
}

/* The sharded form: {"weight_map": {tensor: file, ...}}, files beside the index. */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tr_error *add_shards(tr_safetensors *file, const char *index_path)
{
    tr_error *error = NULL;
    json_t *index = NULL;
    const char **shards = NULL;
    int64_t shard_count = 0, room = 0;
    const char *slash = strrchr(index_path, '/');
    char *directory =
        slash ? tr_strndup(index_path, (size_t)(slash - index_path + 1)) : tr_strdup("");
    TR_GO(tr_json_load(index_path, &index));
    const json_t *map;
    TR_GO(tr_json_object(index, index_path, "weight_map", TR_REQUIRED, &map));
    json_t *entries = (json_t *)(uintptr_t)map;
    for (void *i = json_object_iter(entries); i; i = json_object_iter_next(entries, i)) {
        const char *shard = json_string_value(json_object_iter_value(i));
        if (!shard || !*shard || strchr(shard, '/') || strcmp(shard, "..") == 0) {
            error =
                tr_error_new(TR_USER, "%s: the file of tensor '%.100s' must be a plain file name",
                             index_path, json_object_iter_key(i));
            goto done;
        }
        tr_push(shards, shard_count, room) = shard;
    }
    if (shard_count)
        qsort(shards, (size_t)shard_count, sizeof *shards, by_text);
    for (int64_t i = 0; i < shard_count; i++) {
        if (i > 0 && strcmp(shards[i], shards[i - 1]) == 0)
            continue;
        char *path = tr_format("%s%s", directory, shards[i]);
        error = add_path(file, path);
        free(path);
        if (error) {
            error = tr_error_in_take(error, "%s names a shard that cannot be used", index_path);
            goto done;
        }
    }
    TR_GO(index_names(file));
    for (int64_t i = 0; i < file->count; i++)
        if (!json_object_get(map, file->tensors[i].name)) {
            error =
                tr_error_new(TR_USER,
                             "%s has tensor '%.100s', %s does not list it: they are not from the "
                             "same model",
                             file->tensors[i].file, file->tensors[i].name, index_path);
            goto done;
        }
    for (void *i = json_object_iter(entries); i; i = json_object_iter_next(entries, i)) {
        const tr_stored *tensor = tr_safetensors_find(file, json_object_iter_key(i));
        const char *shard = json_string_value(json_object_iter_value(i));
        if (!tensor || strcmp(tensor->file + strlen(directory), shard) != 0) {
            error = tr_error_new(TR_USER, "%s: tensor '%.100s' should be in %s%s but is not",
                                 index_path, json_object_iter_key(i), directory, shard);
            goto done;
        }
    }
done:
    json_decref(index);
    free(shards);
    free(directory);
    return error;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The file to open for a directory; the caller frees. NULL when it has none. */
static char *model_in(const char *directory)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < TR_COUNT(names); i++) {
        char *path = tr_path_join(directory, names[i]);
        if (tr_path_exists(path))
            return path;
        free(path);
    }
    return NULL;
}

static tr_error *no_model_in(const char *directory)
{
    char *other = tr_path_join(directory, "pytorch_model.bin");
    bool pickled = tr_path_exists(other);
    free(other);
    return tr_error_new(
        TR_USER, "%s has no model.safetensors and no model.safetensors.index.json%s", directory,
        pickled ? "; its pytorch_model.bin must be saved again with "
                  "safe_serialization=True first"
                : "");
}

tr_error *tr_safetensors_open(const char *path, tr_safetensors **out)
{
    *out = NULL;
    char *inside = NULL;
    if (tr_path_is_directory(path)) {
        inside = model_in(path);
        if (!inside)
            return no_model_in(path);
        path = inside;
    }
    tr_safetensors *file = new_file(path);
    tr_error *error;
    if (ends_with(path, ".json")) {
        error = add_shards(file, path);
    } else {
        error = add_path(file, path);
        if (!error)
            error = index_names(file);
    }
    free(inside);
    if (error) {
        tr_safetensors_close(file);
        return error;
    }
    *out = file;
    return NULL;
}

tr_error *tr_safetensors_parse(const void *bytes, int64_t size, const char *where,
                               tr_safetensors **out)
{
    *out = NULL;
    tr_safetensors *file = new_file(where);
    tr_error *error = add_file(file, bytes, size, where);
    if (!error)
        error = index_names(file);
    if (error) {
        tr_safetensors_close(file);
        return error;
    }
    *out = file;
    return NULL;
}

tr_error *tr_safetensors_of_take(tr_stored *tensors, int64_t count, const char *where, tr_safetensors **out)
{
    tr_safetensors *file = new_file(where);
    file->tensors = tensors;
    file->count = file->room = count;
    for (int64_t i = 0; i < count; i++) {
        tensors[i].name = tr_arena_strdup(file->arena, tensors[i].name);
        tensors[i].file = file->path;
    }
    tr_error *error = index_names(file);
    *out = error ? NULL : file;
    if (error)
        tr_safetensors_close(file);
    return error;
}

int64_t tr_safetensors_count(const tr_safetensors *file)
{
    return file->count;
}

const tr_stored *tr_safetensors_at(const tr_safetensors *file, int64_t i)
{
    TR_CHECK(i >= 0 && i < file->count, "tensor %lld of %lld", (long long)i,
             (long long)file->count);
    return &file->tensors[i];
}

const tr_stored *tr_safetensors_find(const tr_safetensors *file, const char *name)
{
    int64_t low = 0, high = file->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const tr_stored *tensor = &file->tensors[file->by_name[middle]];
        int order = strcmp(name, tensor->name);
        if (order == 0)
            return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

tr_error *tr_safetensors_need(const tr_safetensors *file, const char *name, const tr_stored **out)
{
    *out = tr_safetensors_find(file, name);
    if (*out)
        return NULL;
    const char **names = tr_alloc(((size_t)file->count + 1) * sizeof *names);
    for (int64_t i = 0; i < file->count; i++)
        names[i] = file->tensors[i].name;
    const char *near = tr_suggest(name, names, file->count);
    tr_error *error = near ? tr_error_new(TR_USER, "%s has no tensor '%s' (the nearest is '%s')",
                                          file->path, name, near)
                           : tr_error_new(TR_USER, "%s has no tensor '%s' (it has %lld others)",
                                          file->path, name, (long long)file->count);
    free(names);
    return error;
}

const char *tr_safetensors_metadata(const tr_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}

/* What a reader does with one tensor. */

char *tr_shape_text(int rank, const int64_t *dims)
{
    tr_text text = {0};
    tr_text_add(&text, "[", 1);
    for (int d = 0; d < rank; d++)
        tr_text_format(&text, "%s%lld", d ? ", " : "", (long long)dims[d]);
    tr_text_add(&text, "]", 1);
    return text.bytes;
}

tr_error *tr_stored_check(const tr_stored *tensor, int rank, const int64_t *dims)
{
    bool same = tensor->rank == rank;
    for (int d = 0; d < rank && same; d++)
        same = tensor->dims[d] == dims[d];
    if (same)
        return NULL;
    char *got = tr_shape_text(tensor->rank, tensor->dims), *want = tr_shape_text(rank, dims);
    tr_error *error = tr_error_new(TR_USER, "%s: tensor '%s' has shape %s, expected %s",
                                   tensor->file, tensor->name, got, want);
    free(got);
    free(want);
    return error;
}

static double element(const char *data, tr_dtype dtype, int64_t i)
{
    uint16_t half;
    float single;
    double wide;
    switch (dtype) {
    case TR_F64:
        return memcpy(&wide, data + 8 * i, 8), wide;
    case TR_F32:
        return memcpy(&single, data + 4 * i, 4), (double)single;
    case TR_F16:
        return memcpy(&half, data + 2 * i, 2), (double)tr_f16_to_f32(half);
    default:
        return memcpy(&half, data + 2 * i, 2), (double)tr_bf16_to_f32(half);
    }
}

static bool is_real(tr_dtype dtype)
{
    return dtype == TR_F32 || dtype == TR_BF16 || dtype == TR_F16 || dtype == TR_F64;
}

static tr_error *wrong_dtype(const tr_stored *tensor, tr_dtype dtype)
{
    return tr_error_new(TR_USER, "%s: tensor '%s' is %s, expected %s", tensor->file, tensor->name,
                        tr_dtype_safetensors_name(tensor->dtype), tr_dtype_safetensors_name(dtype));
}

static tr_error *read_decoded(const tr_stored *tensor, int64_t first, int64_t count, tr_dtype dtype, void *out)
{
    enum { CHUNK = 4096 };
    float values[CHUNK];
    if (dtype == TR_F32) {
        tensor->decode(tensor, first, count, out);
        return NULL;
    }
    if (dtype != TR_BF16)
        return wrong_dtype(tensor, dtype);
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t n = TR_MIN(CHUNK, count - i);
        tensor->decode(tensor, first + i, n, values);
        for (int64_t k = 0; k < n; k++)
            ((uint16_t *)out)[i + k] = tr_f32_to_bf16(values[k]);
    }
    return NULL;
}

static tr_error *read_parts(const tr_stored *tensor, int64_t first, int64_t count, tr_dtype dtype, void *out)
{
    int64_t each = tensor->parts[0]->elems, width = tr_dtype_bytes(dtype);
    for (int64_t i = first; i < first + count;) {
        int64_t n = TR_MIN(each - i % each, first + count - i);
        TR_TRY(tr_stored_read(tensor->parts[i / each], i % each, n, dtype, (char *)out + (i - first) * width));
        i += n;
    }
    return NULL;
}

tr_error *tr_stored_read(const tr_stored *tensor, int64_t first, int64_t count, tr_dtype dtype,
                         void *out)
{
    TR_CHECK(first >= 0 && count >= 0 && first <= tensor->elems - count,
             "elements %lld + %lld of %lld", (long long)first, (long long)count,
             (long long)tensor->elems);
    if (tensor->parts)
        return read_parts(tensor, first, count, dtype, out);
    if (tensor->decode)
        return read_decoded(tensor, first, count, dtype, out);
    int64_t width = tr_dtype_bytes(tensor->dtype);
    const char *data = (const char *)tensor->data + first * width;
    if (dtype == tensor->dtype) {
        if (count)
            memcpy(out, data, (size_t)(count * width));
        return NULL;
    }
    if (!is_real(tensor->dtype) || (dtype != TR_F32 && dtype != TR_BF16))
        return wrong_dtype(tensor, dtype);
    for (int64_t i = 0; i < count; i++) {
        float value = (float)element(data, tensor->dtype, i);
        uint16_t half = tr_f32_to_bf16(value);
        if (dtype == TR_F32)
            memcpy((char *)out + 4 * i, &value, 4);
        else
            memcpy((char *)out + 2 * i, &half, 2);
    }
    return NULL;
}
