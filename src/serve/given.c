/* Inputs that a user gives; see given.h. */
#include "serve/given.h"

#include <stdio.h>

#include "base/file.h"
#include "base/json.h"
#include "data/batch.h"

enum { IDS, MASK, SEGMENTS, DECODER_IDS, TARGETS, LABELS, TABLES };
static const struct {
    const char *theirs, *ours;
} names[TABLES] = {{"input_ids", "ids"}, {"attention_mask", "mask"}, {"token_type_ids", "segments"},
                   {"decoder_input_ids", "decoder_ids"}, {"targets", "targets"}, {"labels", "labels"}};

typedef struct table {
    int32_t *numbers; /* [rows, columns]; NULL: not given */
    int64_t rows, columns;
} table;

struct tr_given {
    const char *path;
    table tables[TABLES];
    tr_map map; /* of images */
    const float *images; /* in the map, or own */
    float *own;
    int64_t dims[4];
};

/* A list of numbers is a table of one column. */
static const json_t *number_at(const json_t *rows, int64_t r, int64_t c, int64_t *out_columns)
{
    const json_t *row = json_array_get(rows, (size_t)r);
    *out_columns = json_is_array(row) ? (int64_t)json_array_size(row) : 1;
    return json_is_array(row) ? json_array_get(row, (size_t)c) : row;
}

static tr_error *read_table(const json_t *rows, const char *path, int k, table *out)
{
    const char *what = names[k].theirs;
    int64_t b = (int64_t)json_array_size(rows), t = 0, columns, least = k >= TARGETS ? -1 : 0;
    if (b > 0)
        number_at(rows, 0, 0, &t);
    if (b == 0 || t == 0)
        return tr_error_new(TR_USER, "%s: expected %s as [[number, ...], ...]", path, what);
    *out = (table){tr_alloc_zero((size_t)(b * t), sizeof *out->numbers), b, t};
    for (int64_t i = 0; i < b * t; i++) {
        const json_t *id = number_at(rows, i / t, i % t, &columns);
        if (columns != t || !json_is_integer(id) || json_integer_value(id) < least || json_integer_value(id) > INT32_MAX)
            return tr_error_new(TR_USER, "%s: row %lld of %s must have %lld whole numbers from %lld on, like the first", path,
                                (long long)(i / t), what, (long long)t, (long long)least);
        out->numbers[i] = (int32_t)json_integer_value(id);
    }
    return NULL;
}

/* "pixel_values": [[[[x, ...], ...], ...], ...] */
static tr_error *read_pixels(tr_given *g, const json_t *list, const char *path)
{
    const json_t *at = list;
    int64_t n = 1;
    for (int d = 0; d < 4; d++) {
        g->dims[d] = (int64_t)json_array_size(at);
        if (g->dims[d] < 1 || !tr_mul_fits(n, g->dims[d], &n))
            return tr_error_new(TR_USER, "%s: expected pixel_values as [batch][channels][height][width]", path);
        at = json_array_get(at, 0);
    }
    g->own = tr_alloc_zero((size_t)n, sizeof *g->own);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, index[4];
        for (int d = 3; d >= 0; d--) {
            index[d] = rest % g->dims[d];
            rest /= g->dims[d];
        }
        at = list;
        for (int d = 0; d < 4; d++)
            at = (int64_t)json_array_size(at) == g->dims[d] ? json_array_get(at, (size_t)index[d]) : NULL;
        if (!json_is_number(at))
            return tr_error_new(TR_USER, "%s: pixel_values must have %lld x %lld x %lld numbers an image, like the first", path,
                                (long long)g->dims[1], (long long)g->dims[2], (long long)g->dims[3]);
        g->own[i] = (float)json_number_value(at);
    }
    g->images = g->own;
    return NULL;
}

static tr_error *read_json(tr_given *g, const char *path)
{
    json_t *root = NULL;
    tr_error *error = tr_json_load(path, &root);
    if (!error && json_is_object(root)) {
        const char *keys[TABLES + 1];
        const json_t *pixels = json_object_get(root, "pixel_values");
        for (int k = 0; k < TABLES; k++)
            keys[k] = names[k].theirs;
        keys[TABLES] = "pixel_values";
        error = tr_json_only_keys(root, path, keys, TABLES + 1);
        if (!error && pixels)
            error = read_pixels(g, pixels, path);
        for (int k = 0; k < TABLES && !error; k++)
            if (json_object_get(root, keys[k]))
                error = read_table(json_object_get(root, keys[k]), path, k, &g->tables[k]);
    } else if (!error) {
        error = read_table(root, path, IDS, &g->tables[IDS]);
    }
    json_decref(root);
    if (error)
        return error;
    const table *ids = &g->tables[IDS];
    if (g->images)
        return NULL;
    if (!ids->numbers)
        return tr_error_new(TR_USER, "%s: there are no input_ids", path);
    for (int k = 0; k < TABLES; k++) {
        const table *t = &g->tables[k];
        if (t->numbers && (t->rows != ids->rows || (k < DECODER_IDS && t->columns != ids->columns)))
            return tr_error_new(TR_USER, "%s: %s is %lld x %lld and input_ids is %lld x %lld", path, names[k].theirs,
                                (long long)t->rows, (long long)t->columns, (long long)ids->rows, (long long)ids->columns);
    }
    return NULL;
}

/* The header is a Python dict on one line; only little-endian f32 of four dims in C's order will do. */
static tr_error *read_npy(tr_given *g, const char *path)
{
    char header[512] = "";
    TR_TRY(tr_map_open(path, &g->map));
    const unsigned char *bytes = (const unsigned char *)g->map.bytes;
    int64_t start = g->map.size >= 10 ? 10 + bytes[8] + 256 * (int64_t)bytes[9] : 0, n = 1;
    if (start == 0 || start > g->map.size || memcmp(bytes, "\x93NUMPY\x01", 7) != 0 || start - 10 >= (int64_t)sizeof header)
        return tr_error_new(TR_USER, "%s is no NumPy array of version 1", path);
    memcpy(header, bytes + 10, (size_t)start - 10);
    const char *shape = strstr(header, "'shape': (");
    long long d[4];
    if (!strstr(header, "'<f4'") || !strstr(header, "'fortran_order': False") || !shape ||
        sscanf(shape + 10, "%lld, %lld, %lld, %lld)", &d[0], &d[1], &d[2], &d[3]) != 4)
        return tr_error_new(TR_USER, "%s: expected images, float32 [batch, channels, height, width], not %.100s", path, header);
    for (int k = 0; k < 4; k++) {
        g->dims[k] = d[k];
        if (d[k] < 1 || !tr_mul_fits(n, d[k], &n))
            return tr_error_new(TR_USER, "%s: there are no images of such dims: %.100s", path, header);
    }
    if (n > (g->map.size - start) / 4)
        return tr_error_new(TR_USER, "%s ends before its last image", path);
    g->images = (const float *)(const void *)(bytes + start);
    return NULL;
}

tr_error *tr_given_read(const char *path, tr_given **out)
{
    size_t n = strlen(path);
    tr_given *g = tr_alloc_zero(1, sizeof *g);
    g->path = path;
    tr_error *error = n > 4 && strcmp(path + n - 4, ".npy") == 0 ? read_npy(g, path) : read_json(g, path);
    *out = error ? NULL : g;
    if (error)
        tr_given_free(g);
    return error;
}

void tr_given_free(tr_given *g)
{
    if (!g)
        return;
    free(g->own);
    for (int k = 0; k < TABLES; k++)
        free(g->tables[k].numbers);
    if (g->map.bytes)
        tr_map_close(&g->map);
    free(g);
}

int64_t tr_given_batch(const tr_given *g)
{
    return g->images ? g->dims[0] : g->tables[IDS].rows;
}

int64_t tr_given_seq(const tr_given *g)
{
    return g->tables[IDS].columns;
}

int64_t tr_given_decoder_seq(const tr_given *g)
{
    return g->tables[DECODER_IDS].columns;
}

static tr_error *fill_table(const tr_given *g, const tr_graph *graph, tr_value v, int k, int32_t *to)
{
    const table *from = &g->tables[k];
    int64_t n = tr_shape_elems(tr_shape_at(graph, v)), most = tr_input_choices(graph, v);
    bool usual = !from->numbers && (k == SEGMENTS || k == MASK);
    for (int64_t i = 0; i < n && usual; i++)
        to[i] = k == MASK;
    if (usual)
        return NULL;
    if (!from->numbers)
        return tr_error_new(TR_USER, "%s: the model needs %s as well", g->path, names[k].theirs);
    if (n != from->rows * from->columns)
        return tr_error_new(TR_USER, "%s: %s has %lld x %lld numbers and the model takes %lld", g->path, names[k].theirs,
                            (long long)from->rows, (long long)from->columns, (long long)n);
    for (int64_t i = 0; i < n; i++) {
        if (most && from->numbers[i] >= most)
            return tr_error_new(TR_USER, "%s: row %lld of %s has %d; the model takes 0 to %lld", g->path,
                                (long long)(i / from->columns), names[k].theirs, from->numbers[i], (long long)most - 1);
        to[i] = from->numbers[i];
    }
    return NULL;
}

static tr_error *fill_images(const tr_given *g, const tr_shape *want, float *to)
{
    bool same = g->images && want->rank == 4;
    for (int d = 0; same && d < 4; d++)
        same = want->dims[d] == g->dims[d];
    if (!same)
        return tr_error_new(TR_USER, "%s: the model takes images of %lld x %lld x %lld, not %lld x %lld x %lld", g->path,
                            (long long)want->dims[1], (long long)want->dims[2], (long long)want->dims[3],
                            (long long)g->dims[1], (long long)g->dims[2], (long long)g->dims[3]);
    memcpy(to, g->images, (size_t)tr_shape_elems(want) * sizeof *to);
    return NULL;
}

static tr_error *fill_input(const tr_given *g, tr_program *p, tr_value v)
{
    const tr_shape *shape = tr_shape_at(p->graph, v);
    const char *name = p->graph->values[v].name;
    void *to = tr_program_data(p, v);
    int64_t last = shape->dims[shape->rank - 1];
    if (strcmp(name, "images") == 0)
        return fill_images(g, shape, to);
    if (!g->images && !g->tables[IDS].numbers)
        return tr_error_new(TR_USER, "%s: the model reads tokens, not images", g->path);
    for (int k = 0; k < TABLES; k++)
        if (strcmp(name, names[k].ours) == 0)
            return fill_table(g, p->graph, v, k, to);
    if (!strstr(name, "positions"))
        return tr_error_new(TR_USER, "%s: the model's input %s cannot be given in a file", g->path, name);
    for (int64_t i = 0; i < tr_shape_elems(shape); i++)
        ((int32_t *)to)[i] = (int32_t)(i % last);
    return NULL;
}

tr_error *tr_given_fill(const tr_given *g, tr_program *p)
{
    for (tr_value v = 1; v < p->graph->n_values; v++)
        if (tr_input_is_data(p->graph, v))
            TR_TRY(fill_input(g, p, v));
    return NULL;
}
