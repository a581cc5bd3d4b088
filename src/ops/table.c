/* The op table: rows, names, costs. Adding an op: docs/add-an-op.md. */
#include "ir/table.h"

#include <stdio.h>

#include "ops/rule.h"

const tr_op_row *const tr_op_table[TR_OP_COUNT] = {
#define X(name) [TR_OP_##name] = &tr_row_##name,
    TR_OPS(X)
#undef X
};

static const char *const op_names[TR_OP_COUNT] = {
#define X(name) [TR_OP_##name] = #name,
    TR_OPS(X)
#undef X
};

static const char *const fn_names[TR_FN_COUNT] = {
#define X(name) [TR_FN_##name] = #name,
    TR_FNS(X)
#undef X
};

const char *tr_op_name(tr_op op)
{
    return op < TR_OP_COUNT ? op_names[op] : "?";
}

bool tr_op_parse(const char *name, tr_op *out)
{
    for (int i = 0; i < TR_OP_COUNT; i++)
        if (strcmp(name, op_names[i]) == 0) {
            *out = (tr_op)i;
            return true;
        }
    return false;
}

int tr_op_updated(const tr_op_row *row, const tr_value *in, int n_in, int k)
{
    for (int i = 0; i < TR_COUNT(row->updates); i++)
        if (row->updates[i] < 0 || (row->updates[i] < n_in && in[row->updates[i]]))
            if (k-- == 0)
                return row->updates[i];
    return -1;
}

const char *tr_fn_name(tr_fn fn)
{
    return fn_names[fn];
}

tr_cost tr_node_cost(const tr_graph *g, tr_node n)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    tr_cost cost = {0};
    if (row->flags & TR_OP_VIEW)
        return cost;
    for (uint32_t i = 0; i < node->n_in + node->n_out; i++) {
        tr_value v = i < node->n_in ? tr_in(g, n, (int)i) : tr_out(g, n, (int)(i - node->n_in));
        if (v)
            cost.bytes += (double)tr_shape_bytes(tr_shape_at(g, v));
    }
    cost.flops = node->n_out ? (double)tr_shape_elems(tr_shape_at(g, tr_out(g, n, 0))) : 0;
    if (row->cost)
        row->cost(g, n, &cost);
    return cost;
}

const char *tr_dims_text(const tr_graph *g, const tr_shape *s, char *buffer, size_t room)
{
    size_t used = 0;
    buffer[0] = '\0';
    for (int d = 0; d < s->rank && used < room; d++)
        used += (size_t)snprintf(buffer + used, room - used, "%s%s=%lld", d ? ", " : "",
                                 g->dim_names[s->names[d]], (long long)s->dims[d]);
    return buffer;
}

tr_error *tr_dims_match(const tr_graph *g, const char *what, const tr_shape *a, int first_a,
                        const tr_shape *b, int first_b, int count)
{
    bool fits = first_a >= 0 && first_b >= 0 && first_a + count <= a->rank && first_b + count <= b->rank;
    for (int d = 0; fits && d < count; d++)
        fits = a->dims[first_a + d] == b->dims[first_b + d];
    return fits ? NULL : tr_dims_differ(g, what, a, b);
}

tr_error *tr_dims_differ(const tr_graph *g, const char *what, const tr_shape *a, const tr_shape *b)
{
    char ta[256], tb[256];
    return tr_error_new(TR_USER, "%s: [%s] does not go with [%s]", what,
                        tr_dims_text(g, a, ta, sizeof ta), tr_dims_text(g, b, tb, sizeof tb));
}

tr_error *tr_floats_only(const tr_graph *g, const tr_value *in, int n_in)
{
    char text[256];
    for (int i = 0; i < n_in; i++)
        if (in[i] && !is_activation(shape_in(g, in, i)->dtype))
            return tr_error_new(TR_USER, "input %d is %s[%s]; it takes f32 and bf16 only", i,
                                tr_dtype_name(shape_in(g, in, i)->dtype),
                                tr_dims_text(g, shape_in(g, in, i), text, sizeof text));
    return NULL;
}
