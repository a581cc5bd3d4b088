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
    bool matrix = tr_shape_in_file(g, &shape).rank >= 2, half = g->compute == TR_F16;
    shape.dtype = matrix && !half ? g->compute : TR_F32;
    tr_value v = tr_graph_leaf(g, TR_PARAM, full, shape, init);
    if (v) {
        g->values[v].decay = matrix;
        memcpy(g->values[v].unit, units, sizeof units);
    }
    return v && matrix && half ? tr_cast(g, v, false) : v; /* the parameter is the master */
}

static tr_value input(tr_graph *g, const char *name, tr_dtype dtype, const char *dims, va_list arguments)
{
    char text[256];
    tr_shape shape = {0};
    if (g->error)
        return 0;
    vsnprintf(text, sizeof text, dims, arguments);
    tr_error *error = parse_dims(g, text, &shape, NULL);
    if (!error && (shape.rank == 0 || strcmp(g->dim_names[shape.names[0]], "batch") != 0))
        error = tr_error_new(TR_USER, "its first dim must be batch, not \"%s\"", text);
    shape.dtype = dtype;
    tr_value v = tr_graph_find(g, name);
    if (v && !error) {
        bool same = g->values[v].role == TR_INPUT && g->values[v].shape.rank == shape.rank;
        for (int d = 0; same && d < shape.rank; d++)
            same = g->values[v].shape.dims[d] == shape.dims[d];
        if (!same)
            error = tr_error_new(TR_USER, "it was there before with another shape, and is now \"%s\"", text);
    }
    if (error) {
        tr_graph_fail(g, tr_error_in_take(error, "input %s", name));
        return 0;
    }
    return v ? v : tr_graph_leaf(g, TR_INPUT, name, shape, (tr_init){0});
}

tr_value tr_input(tr_graph *g, const char *name, const char *dims, ...)
{
    va_list arguments;
    va_start(arguments, dims);
    tr_value v = input(g, name, TR_I32, dims, arguments);
    va_end(arguments);
    return v;
}

tr_value tr_input_real(tr_graph *g, const char *name, const char *dims, ...)
{
    va_list arguments;
    va_start(arguments, dims);
    tr_value v = input(g, name, TR_F32, dims, arguments);
    va_end(arguments);
    if (!v || g->compute == TR_F32)
        return v;
    return tr_out(g, tr_graph_node(g, TR_OP_cast, &v, 1, (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = g->compute}}), 0);
}

void tr_head_add(tr_graph *g, tr_head head)
{
    if (g->error)
        return;
    if (!head.hidden || !head.table) {
        tr_graph_fail(g, tr_error_new(TR_USER, "a head has no hidden states or no table"));
        return;
    }
    head.name = tr_arena_strdup(g->arena, head.name ? head.name : "logits");
    head.targets = tr_arena_strdup(g->arena, head.targets ? head.targets : "targets");
    head.weight = head.weight == 0 ? 1 : head.weight;
    tr_push(g->heads, g->n_heads, g->heads_room) = head;
}

void tr_loss_add(tr_graph *g, const char *name, tr_value sum, double weight)
{
    if (g->error || !sum || weight == 0)
        return;
    tr_push(g->losses, g->n_losses, g->losses_room) = (tr_aux_loss){tr_arena_strdup(g->arena, name), sum, weight};
}

void tr_output(tr_graph *g, const char *name, tr_value x)
{
    if (!g->error && x)
        tr_push(g->shown, g->n_shown, g->shown_room) = (tr_shown){tr_arena_strdup(g->arena, name), x};
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
