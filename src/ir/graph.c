/* The graph; see graph.h. */
#include "ir/graph.h"

#include "ir/table.h"

tr_graph *tr_graph_new(const char *name, tr_dtype compute)
{
    tr_graph *g = tr_alloc_zero(1, sizeof *g);
    g->arena = tr_arena_new();
    g->name = tr_arena_strdup(g->arena, name);
    g->compute = compute;
    g->layer = -1;
    g->prefix = "";
    g->phase = TR_FORWARD;
    tr_push(g->values, g->n_values, g->values_room) = (tr_value_info){0};
    tr_push(g->nodes, g->n_nodes, g->nodes_room) = (tr_node_info){0};
    tr_push(g->dim_names, g->n_dim_names, g->dim_names_room) = "_";
    return g;
}

void tr_graph_free(tr_graph *g)
{
    if (!g)
        return;
    tr_error_free(g->error);
    tr_arena_free(g->arena);
    free(g->values);
    free(g->nodes);
    free(g->links);
    free(g->dim_names);
    free(g->outputs);
    free(g->heads);
    free(g->losses);
    free(g->shown);
    free(g->output_names);
    free(g);
}

static void *copy_array(const void *items, size_t count, size_t bytes)
{
    void *copy = tr_alloc_zero(count ? count : 1, bytes);
    if (count)
        memcpy(copy, items, count * bytes);
    return copy;
}

tr_graph *tr_graph_copy(const tr_graph *from)
{
    tr_graph *g = tr_alloc_zero(1, sizeof *g);
    *g = *from;
    g->arena = tr_arena_new();
    g->error = NULL;
    g->heads = NULL;
    g->losses = NULL;
    g->shown = NULL;
    g->n_heads = g->heads_room = g->n_losses = g->losses_room = g->n_shown = g->shown_room = 0;
    g->name = tr_arena_strdup(g->arena, from->name);
    g->prefix = tr_arena_strdup(g->arena, from->prefix);
#define COPY(items, count, room)                                                  \
    g->items = copy_array(from->items, from->count, sizeof *from->items);         \
    g->room = g->count ? g->count : 1
    COPY(values, n_values, values_room);
    COPY(nodes, n_nodes, nodes_room);
    COPY(links, n_links, links_room);
    COPY(dim_names, n_dim_names, dim_names_room);
    COPY(outputs, n_outputs, outputs_room);
    COPY(output_names, n_outputs, output_names_room);
#undef COPY
    for (uint32_t v = 1; v < g->n_values; v++)
        if (g->values[v].name)
            g->values[v].name = tr_arena_strdup(g->arena, g->values[v].name);
    for (uint32_t v = 1; v < g->n_values; v++)
        if (g->values[v].layout) {
            tr_layout *layout = tr_arena_alloc(g->arena, sizeof *layout);
            *layout = *g->values[v].layout;
            g->values[v].layout = layout;
        }
    for (uint32_t d = 0; d < g->n_dim_names; d++)
        g->dim_names[d] = tr_arena_strdup(g->arena, g->dim_names[d]);
    for (uint32_t o = 0; o < g->n_outputs; o++)
        g->output_names[o] = tr_arena_strdup(g->arena, g->output_names[o]);
    return g;
}

tr_error *tr_graph_error_take(tr_graph *g)
{
    tr_error *error = g->error;
    g->error = NULL;
    return error;
}

void tr_graph_fail(tr_graph *g, tr_error *error)
{
    if (g->error)
        tr_error_free(error);
    else
        g->error = error;
}

tr_dim tr_graph_dim(tr_graph *g, const char *name)
{
    if (!name || !*name)
        return 0;
    for (uint32_t d = 0; d < g->n_dim_names; d++)
        if (strcmp(g->dim_names[d], name) == 0)
            return (tr_dim)d;
    if (g->n_dim_names > TR_MOST_DIM_NAMES) {
        tr_graph_fail(g, tr_error_new(TR_USER, "dim %s: a graph has at most %d names of dims", name,
                                      TR_MOST_DIM_NAMES));
        return 0;
    }
    tr_push(g->dim_names, g->n_dim_names, g->dim_names_room) = tr_arena_strdup(g->arena, name);
    return (tr_dim)(g->n_dim_names - 1);
}

tr_shape tr_shape_of(tr_graph *g, tr_dtype dtype, int rank, const char *const *names,
                     const int64_t *dims)
{
    tr_shape shape = {.dtype = dtype, .rank = rank};
    TR_CHECK(rank >= 0 && rank <= TR_MAX_RANK, "rank %d", rank);
    for (int d = 0; d < rank; d++) {
        shape.dims[d] = dims[d];
        shape.names[d] = tr_graph_dim(g, names ? names[d] : NULL);
    }
    return shape;
}

static bool is_head_dim(const char *name)
{
    return strcmp(name, "qkv") == 0 || strcmp(name, "heads") == 0 || strcmp(name, "head_dim") == 0;
}

int64_t tr_layout_index(const tr_layout *l, int64_t i)
{
    int64_t index = 0, stride = 1;
    i += l->first;
    for (int d = l->rank - 1; d >= 0; d--) {
        index += tr_layout_place(l, d, i % l->block[d]) * stride;
        i /= l->block[d];
        stride *= l->whole[d];
    }
    return index;
}

tr_shape tr_shape_in_file(const tr_graph *g, const tr_shape *shape)
{
    tr_shape out = {.dtype = shape->dtype};
    for (int d = 0; d < shape->rank; d++) {
        bool joins = d > 0 && is_head_dim(g->dim_names[shape->names[d]]) &&
                     is_head_dim(g->dim_names[shape->names[d - 1]]);
        if (joins) {
            out.dims[out.rank - 1] *= shape->dims[d];
        } else {
            out.names[out.rank] = shape->names[d];
            out.dims[out.rank++] = shape->dims[d];
        }
    }
    return out;
}

int64_t tr_shape_elems(const tr_shape *shape)
{
    int64_t n = 1;
    for (int d = 0; d < shape->rank; d++)
        n *= shape->dims[d];
    return n;
}

int64_t tr_shape_bytes(const tr_shape *shape)
{
    return tr_shape_elems(shape) * tr_dtype_bytes(shape->dtype);
}

static tr_error *check_shape(const tr_shape *shape, const char *what)
{
    int64_t bytes = tr_dtype_bytes(shape->dtype);
    for (int d = 0; d < shape->rank; d++)
        if (shape->dims[d] < 1 || !tr_mul_fits(bytes, shape->dims[d], &bytes))
            return tr_error_new(TR_USER, "%s: dim %d is %lld; a size must be positive and the whole "
                                         "below 2^63 bytes",
                                what, d, (long long)shape->dims[d]);
    return NULL;
}

static tr_value add_value(tr_graph *g, tr_role role, const char *name, tr_shape shape, tr_node node)
{
    tr_value id = g->n_values;
    tr_push(g->values, g->n_values, g->values_room) =
        (tr_value_info){.shape = shape, .role = role, .name = name, .node = node, .home = id};
    return id;
}

tr_value tr_graph_leaf(tr_graph *g, tr_role role, const char *name, tr_shape shape, tr_init init)
{
    if (g->error)
        return 0;
    tr_error *error = check_shape(&shape, name);
    if (!error && strpbrk(name, "\"\n"))
        error = tr_error_new(TR_USER, "the name %s has a quote or a line break in it", name);
    if (!error && tr_graph_find(g, name))
        error = tr_error_new(TR_USER, "the name %s is used by two parameters or inputs; give each its own",
                             name);
    if (error) {
        tr_graph_fail(g, error);
        return 0;
    }
    tr_value v = add_value(g, role, tr_arena_strdup(g->arena, name), shape, 0);
    g->values[v].init = init;
    if (init.kind == TR_INIT_NORMAL)
        g->values[v].stream = g->streams++;
    return v;
}

static tr_error *infer_node(const tr_graph *g, tr_op op, const tr_value *in, int n_in,
                            const tr_attr *attrs, tr_shape *shapes, int *n_out)
{
    const tr_op_row *row = tr_op_table[op];
    if (n_in < row->min_in || (row->max_in >= 0 && n_in > row->max_in))
        return tr_error_new(TR_USER, "op %s takes %d to %d inputs and was given %d", tr_op_name(op),
                            row->min_in, row->max_in, n_in);
    for (int i = 0; i < n_in; i++)
        if ((!in[i] && i < row->min_in) || in[i] >= g->n_values)
            return tr_error_new(TR_USER, "op %s: input %d is missing", tr_op_name(op), i);
    TR_TRY(tr_error_in_take(row->infer(g, in, n_in, attrs, shapes, n_out), "op %s", tr_op_name(op)));
    for (int i = 0; i < *n_out; i++)
        TR_TRY(check_shape(&shapes[i], tr_op_name(op)));
    return NULL;
}

static tr_node append_node(tr_graph *g, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs,
                           const tr_shape *shapes, int n_out)
{
    const tr_op_row *row = tr_op_table[op];
    tr_node id = g->n_nodes;
    tr_node_info node = {.op = op, .layer = g->layer, .stage = g->stage, .phase = g->phase,
                         .first_in = g->n_links, .n_in = (uint32_t)n_in};
    if (attrs)
        memcpy(node.attrs, attrs, sizeof node.attrs);
    for (int i = 0; i < n_in; i++)
        tr_push(g->links, g->n_links, g->links_room) = in[i];
    node.first_out = g->n_links;
    node.n_out = (uint32_t)n_out;
    for (int i = 0; i < n_out; i++) {
        tr_value v = add_value(g, TR_TEMP, NULL, shapes[i], id);
        if (row->flags & TR_OP_UPDATES && tr_op_updated(row, in, n_in, i) >= 0)
            g->values[v].home = in[tr_op_updated(row, in, n_in, i)];
        if (row->flags & TR_OP_VIEW)
            g->values[v].home = in[0];
        if ((row->flags & TR_OP_ACCUMULATES) && i == 0 && n_in == row->max_in && in[n_in - 1])
            g->values[v].home = in[n_in - 1];
        tr_push(g->links, g->n_links, g->links_room) = v;
    }
    tr_push(g->nodes, g->n_nodes, g->nodes_room) = node;
    return id;
}

tr_node tr_graph_node(tr_graph *g, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs)
{
    if (g->error)
        return 0;
    tr_shape shapes[TR_MAX_OUTPUTS] = {0};
    int n_out = 0;
    static const tr_attr none[TR_MAX_ATTRS];
    attrs = attrs ? attrs : none;
    tr_error *error = infer_node(g, op, in, n_in, attrs, shapes, &n_out);
    if (error) {
        tr_graph_fail(g, error);
        return 0;
    }
    return append_node(g, op, in, n_in, attrs, shapes, n_out);
}

tr_value tr_graph_view(tr_graph *g, tr_value x, tr_shape shape)
{
    if (g->error)
        return 0;
    if (!x || x >= g->n_values) {
        tr_graph_fail(g, tr_error_new(TR_USER, "op reshape: input 0 is missing"));
        return 0;
    }
    const tr_shape *from = tr_shape_at(g, x);
    char a[256], b[256];
    shape.dtype = from->dtype;
    tr_error *error = check_shape(&shape, "op reshape");
    if (!error && tr_shape_elems(&shape) != tr_shape_elems(from))
        error = tr_error_new(TR_USER, "op reshape: [%s] has %lld elements and [%s] has %lld",
                             tr_dims_text(g, from, a, sizeof a), (long long)tr_shape_elems(from),
                             tr_dims_text(g, &shape, b, sizeof b), (long long)tr_shape_elems(&shape));
    if (error) {
        tr_graph_fail(g, error);
        return 0;
    }
    return tr_out(g, append_node(g, TR_OP_reshape, &x, 1, NULL, &shape, 1), 0);
}

void tr_graph_output(tr_graph *g, const char *name, tr_value v)
{
    if (g->error || !v)
        return;
    uint32_t n = g->n_outputs;
    tr_push(g->outputs, g->n_outputs, g->outputs_room) = v;
    tr_push(g->output_names, n, g->output_names_room) = tr_arena_strdup(g->arena, name);
}

tr_value tr_value_root(const tr_graph *g, tr_value v)
{
    while (g->values[v].home != v)
        v = g->values[v].home;
    return v;
}

tr_value tr_graph_find(const tr_graph *g, const char *name)
{
    for (uint32_t v = 1; v < g->n_values; v++)
        if (g->values[v].name && strcmp(g->values[v].name, name) == 0)
            return v;
    for (uint32_t o = 0; o < g->n_outputs; o++)
        if (strcmp(g->output_names[o], name) == 0)
            return g->outputs[o];
    return 0;
}

void tr_graph_reorder(tr_graph *g, const tr_node *order, uint32_t count)
{
    tr_node_info *nodes = tr_alloc_zero(count + 1, sizeof *nodes);
    /* Values of dropped nodes become unreachable; they keep node = 0 and role TEMP. */
    for (uint32_t v = 1; v < g->n_values; v++)
        g->values[v].node = 0;
    for (uint32_t i = 0; i < count; i++) {
        nodes[i + 1] = g->nodes[order[i]];
        for (uint32_t k = 0; k < nodes[i + 1].n_out; k++)
            g->values[g->links[nodes[i + 1].first_out + k]].node = i + 1;
    }
    free(g->nodes);
    g->nodes = nodes;
    g->n_nodes = g->nodes_room = count + 1;
}

typedef struct hash {
    uint64_t h;
} hash;

static void mix(hash *h, uint64_t x)
{
    h->h = (h->h ^ x) * 1099511628211u;
    h->h ^= h->h >> 29;
}

static void mix_real(hash *h, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    mix(h, bits);
}

static void mix_name(hash *h, const char *name)
{
    for (; name && *name; name++)
        mix(h, (unsigned char)*name);
    mix(h, 256);
}

static void mix_named(hash *h, const tr_graph *g, tr_dim name, int64_t size)
{
    mix(h, (uint64_t)size);
    mix_name(h, g->dim_names[name]);
}

static void mix_value(hash *h, const tr_graph *g, tr_value v)
{
    const tr_value_info *info = &g->values[v];
    const tr_layout *l = info->layout;
    mix(h, v);
    mix(h, info->home);
    mix(h, info->role);
    mix(h, info->shape.dtype);
    mix(h, (uint64_t)info->shape.rank);
    for (int d = 0; d < info->shape.rank; d++)
        mix_named(h, g, info->shape.names[d], info->shape.dims[d]);
    /* The place in the whole differs between ranks; the whole does not. */
    for (int d = 0; l && d < l->rank; d++)
        mix_named(h, g, l->names[d], l->whole[d]);
}

uint64_t tr_graph_hash(const tr_graph *g)
{
    hash h = {1469598103934665603u};
    mix(&h, g->compute);
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        if (info->role == TR_TEMP)
            continue;
        mix_value(&h, g, v);
        mix_name(&h, info->name);
        mix(&h, info->init.kind);
        mix_real(&h, info->init.scale);
        mix(&h, info->stream);
        mix(&h, info->decay);
    }
    for (tr_node n = 1; n < g->n_nodes; n++) {
        const tr_node_info *node = &g->nodes[n];
        mix(&h, node->op);
        mix(&h, node->phase);
        mix(&h, (uint64_t)node->layer);
        mix(&h, (uint64_t)node->stage);
        for (int a = 0; a < TR_MAX_ATTRS; a++)
            mix(&h, (uint64_t)node->attrs[a].i);
        mix(&h, node->n_in);
        for (uint32_t i = 0; i < node->n_in; i++)
            mix(&h, tr_in(g, n, (int)i));
        for (uint32_t k = 0; k < node->n_out; k++)
            mix_value(&h, g, tr_out(g, n, (int)k));
    }
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        mix(&h, g->outputs[o]);
        mix_name(&h, g->output_names[o]);
    }
    return h.h;
}
