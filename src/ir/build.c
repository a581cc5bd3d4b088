/* What a model function calls besides the ops: parameters, layers, views; see trireme.h. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#include "ir/graph.h"

/* Reads "batch=4 seq=512 64" into a shape; "heads=12*64" is a dim of 768 that is cut at multiples of 64. */
static tr_error *parse_dims(tr_graph *g, const char *text, tr_shape *out, int64_t *units)
{
    const char *at = text;
    out->rank = 0;
    for (;;) {
        while (*at == ' ' || *at == ',')
            at++;
        if (!*at)
            return NULL;
        const char *name = at;
        while (isalpha((unsigned char)*at) || *at == '_' || (at > name && isdigit((unsigned char)*at)))
            at++;
        size_t length = (size_t)(at - name);
        bool named = *at == '=';
        if (named)
            at++;
        char *end;
        int64_t size = strtoll(at, &end, 10);
        if (end == at || named != (length > 0) || length > 31 || out->rank == TR_MAX_RANK)
            return tr_error_new(TR_USER, "dims \"%s\": expected up to %d of NAME=SIZE", text, TR_MAX_RANK);
        char copy[32];
        memcpy(copy, name, length);
        copy[length] = '\0';
        if (*end == '*') {
            int64_t unit = strtoll(end + 1, &end, 10);
            if (unit < 1 || !tr_mul_fits(size, unit, &size))
                return tr_error_new(TR_USER, "dims \"%s\": bad size of %s", text, copy);
            if (units)
                units[out->rank] = unit;
        }
        out->names[out->rank] = tr_graph_dim(g, copy);
        out->dims[out->rank++] = size;
        at = end;
    }
}

tr_value tr_param(tr_graph *g, tr_init init, const char *name, const char *dims, ...)
{
    if (g->error)
        return 0;
    char text[256], full[512];
    va_list arguments;
    va_start(arguments, dims);
    vsnprintf(text, sizeof text, dims, arguments);
    va_end(arguments);
    snprintf(full, sizeof full, "%s%s", g->prefix, name);
    tr_shape shape = {0};
    int64_t units[TR_MAX_RANK] = {0};
    tr_error *error = parse_dims(g, text, &shape, units);
    if (error) {
        tr_graph_fail(g, tr_error_in_take(error, "parameter %s", full));
        return 0;
    }
    bool matrix = tr_shape_in_file(g, &shape).rank >= 2;
    shape.dtype = matrix ? g->compute : TR_F32;
    tr_value v = tr_graph_leaf(g, TR_PARAM, full, shape, init);
    if (v) {
        g->values[v].decay = matrix;
        memcpy(g->values[v].unit, units, sizeof units);
    }
    return v;
}

void tr_layer_begin(tr_graph *g, int index, const char *prefix, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, prefix);
    vsnprintf(text, sizeof text, prefix, arguments);
    va_end(arguments);
    if (g->layer >= 0)
        tr_graph_fail(g, tr_error_new(TR_USER, "layer %d begins inside of layer %d; layers do not nest", index,
                                      g->layer));
    g->layer = index;
    g->prefix = tr_arena_strdup(g->arena, text);
}

void tr_layer_end(tr_graph *g)
{
    g->layer = -1;
    g->prefix = "";
}

tr_value tr_reshape(tr_graph *g, tr_value x, const char *dims, ...)
{
    if (g->error || !x)
        return 0;
    char text[256];
    va_list arguments;
    va_start(arguments, dims);
    vsnprintf(text, sizeof text, dims, arguments);
    va_end(arguments);
    tr_shape shape = {0};
    tr_error *error = parse_dims(g, text, &shape, NULL);
    if (error) {
        tr_graph_fail(g, tr_error_in_take(error, "op reshape"));
        return 0;
    }
    return tr_graph_view(g, x, shape);
}

int64_t tr_size(const tr_graph *g, tr_value x, int dim)
{
    const tr_shape *s = tr_shape_at(g, x);
    dim = dim < 0 ? dim + s->rank : dim;
    return x && dim >= 0 && dim < s->rank ? s->dims[dim] : 0;
}
