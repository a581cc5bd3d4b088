/* The graph as text; the form is in docs/ir.md. One line a leaf, node or output:
 *
 *   graph "model" f32 streams=3
 *   %1 = param "wte" f32[vocab=97, embed=32] init=normal(0.02) stream=0 decay
 *   %9, %10, %11 = layer_norm(%7, %3, -) eps=1e-05 : f32[batch=2, seq=8], ... phase=forward layer=0 home=7
 *   output "loss" %55
 *
 * Ids in the text are those of the graph; values that no line makes are left out and come back unused.
 * Invariant: what parses prints, and the print parses to the same print.
 */
#include "ir/text.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "ir/table.h"

static const char *const role_names[TR_ROLE_COUNT] = {"temp", "input", "param", "state", "message"};
const char *const tr_phase_names[TR_PHASE_COUNT] = {"start", "forward", "backward", "weight", "update"};
static const char *const init_names[] = {"zeros", "ones", "normal", "copy"};

/* Printing -------------------------------------------------------------------------------------- */

static void print_shape(const tr_graph *g, const tr_shape *s, tr_text *out)
{
    tr_text_format(out, "%s[", tr_dtype_name(s->dtype));
    for (int d = 0; d < s->rank; d++)
        tr_text_format(out, "%s%s=%lld", d ? ", " : "", g->dim_names[s->names[d]], (long long)s->dims[d]);
    tr_text_format(out, "]");
}

/* The shortest form that reads back as the same number. */
static void print_real(double x, tr_text *out)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    tr_text_format(out, "%s", text);
}

static void print_attr(const tr_attr_row *row, tr_attr attr, tr_text *out)
{
    switch (row->kind) {
    case TR_ATTR_FLOAT:
        tr_text_format(out, " %s=", row->name);
        print_real(attr.f, out);
        break;
    case TR_ATTR_FN:
        tr_text_format(out, " %s=%s", row->name, tr_fn_name((tr_fn)attr.i));
        break;
    case TR_ATTR_DTYPE:
        tr_text_format(out, " %s=%s", row->name, tr_dtype_name((tr_dtype)attr.i));
        break;
    default:
        tr_text_format(out, " %s=%lld", row->name, (long long)attr.i);
    }
}

/* Where a value of one rank's graph stands in the whole: [name=first+size/whole, ...] of each dim, with |turn+jump
 * where it is in two pieces. */
static void print_layout(const tr_graph *g, const tr_layout *l, uint32_t k, tr_text *out)
{
    if (!l)
        return;
    tr_text_format(out, " part=%u:[", k);
    for (int d = 0; d < l->rank; d++) {
        tr_text_format(out, "%s%s=%lld+%lld/%lld", d ? ", " : "", g->dim_names[l->names[d]], (long long)l->origin[d],
                       (long long)l->block[d], (long long)l->whole[d]);
        if (l->jump[d])
            tr_text_format(out, "|%lld+%lld", (long long)l->turn[d], (long long)l->jump[d]);
    }
    tr_text_format(out, "] first=%lld count=%lld owner=%u%s", (long long)l->first, (long long)l->count, l->owner,
                   l->flat ? " flat" : "");
}

static void print_node(const tr_graph *g, tr_node n, tr_text *out)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    for (uint32_t k = 0; k < node->n_out; k++)
        tr_text_format(out, "%s%%%u", k ? ", " : "", tr_out(g, n, (int)k));
    tr_text_format(out, " = %s(", tr_op_name(node->op));
    for (uint32_t i = 0; i < node->n_in; i++) {
        tr_value v = tr_in(g, n, (int)i);
        if (v)
            tr_text_format(out, "%s%%%u", i ? ", " : "", v);
        else
            tr_text_format(out, "%s-", i ? ", " : "");
    }
    tr_text_format(out, ")");
    for (int a = 0; a < TR_MAX_ATTRS && row->attrs[a].name; a++)
        print_attr(&row->attrs[a], node->attrs[a], out);
    tr_text_format(out, " :");
    for (uint32_t k = 0; k < node->n_out; k++) {
        tr_text_format(out, "%s ", k ? "," : "");
        print_shape(g, tr_shape_at(g, tr_out(g, n, (int)k)), out);
    }
    tr_text_format(out, " phase=%s", tr_phase_names[node->phase]);
    if (node->layer >= 0)
        tr_text_format(out, " layer=%d", node->layer);
    if (node->stage > 0)
        tr_text_format(out, " stage=%d", node->stage);
    for (uint32_t k = 0; k < node->n_out; k++) {
        tr_value v = tr_out(g, n, (int)k);
        if (g->values[v].home != v)
            tr_text_format(out, " home=%u:%u", k, g->values[v].home);
    }
    for (uint32_t k = 0; k < node->n_out; k++)
        print_layout(g, g->values[tr_out(g, n, (int)k)].layout, k, out);
    tr_text_format(out, "\n");
}

void tr_graph_print(const tr_graph *g, tr_text *out)
{
    tr_text_format(out, "graph \"%s\" %s streams=%u\n", g->name, tr_dtype_name(g->compute), g->streams);
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        if (info->role == TR_TEMP)
            continue;
        tr_text_format(out, "%%%u = %s \"%s\" ", v, role_names[info->role], info->name);
        print_shape(g, &info->shape, out);
        tr_text_format(out, " init=%s", init_names[info->init.kind]);
        if (info->init.kind == TR_INIT_NORMAL) {
            tr_text_format(out, "(");
            print_real(info->init.scale, out);
            tr_text_format(out, ") stream=%u", info->stream);
        }
        tr_text_format(out, "%s", info->decay ? " decay" : "");
        if (info->role == TR_MESSAGE)
            tr_text_format(out, " stage=%d", info->stage);
        for (int d = 0; d < info->shape.rank; d++)
            if (info->unit[d] > 0)
                tr_text_format(out, " unit=%d:%lld", d, (long long)info->unit[d]);
        print_layout(g, info->layout, 0, out);
        tr_text_format(out, "\n");
    }
    for (tr_node n = 1; n < g->n_nodes; n++)
        print_node(g, n, out);
    for (uint32_t o = 0; o < g->n_outputs; o++)
        tr_text_format(out, "output \"%s\" %%%u\n", g->output_names[o], g->outputs[o]);
}

/* Parsing --------------------------------------------------------------------------------------- */

enum { MOST_NAME = 4096 };

typedef struct parser {
    const char *at;
    int line;
    tr_graph *g;
    int64_t most_values; /* ids are bounded by the text's length, and so is memory */
} parser;

static tr_error *expected(const parser *p, const char *what)
{
    int length = (int)strcspn(p->at, "\n");
    return tr_error_new(TR_USER, "graph text, line %d: expected %s at \"%.*s\"", p->line, what,
                        TR_MIN(length, 40), p->at);
}

static void blanks(parser *p)
{
    while (*p->at == ' ')
        p->at++;
}

static bool take(parser *p, const char *token)
{
    blanks(p);
    size_t n = strlen(token);
    if (strncmp(p->at, token, n) != 0)
        return false;
    p->at += n;
    return true;
}

static tr_error *word(parser *p, char *out, size_t room)
{
    blanks(p);
    size_t n = 0;
    while ((isalnum((unsigned char)p->at[n]) || p->at[n] == '_') && n + 1 < room)
        n++;
    if (n == 0)
        return expected(p, "a word");
    memcpy(out, p->at, n);
    out[n] = '\0';
    p->at += n;
    return NULL;
}

/* Into the graph's arena. */
static tr_error *quoted(parser *p, const char **out)
{
    if (!take(p, "\""))
        return expected(p, "a quoted name");
    size_t n = strcspn(p->at, "\"\n");
    if (p->at[n] != '"')
        return expected(p, "a closing quote");
    *out = tr_arena_format(p->g->arena, "%.*s", (int)TR_MIN(n, (size_t)MOST_NAME), p->at);
    if (n > MOST_NAME)
        return expected(p, "a shorter name");
    p->at += n + 1;
    return NULL;
}

/* What strtoll and strtod would skip is no number. */
static bool starts_number(const parser *p)
{
    return isalnum((unsigned char)*p->at) || *p->at == '-' || *p->at == '.';
}

static tr_error *integer(parser *p, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    blanks(p);
    errno = 0;
    long long x = starts_number(p) ? strtoll(p->at, &end, 10) : 0;
    if (!starts_number(p) || end == p->at || errno || x < low || x > high)
        return expected(p, "a whole number in range");
    p->at = end;
    *out = x;
    return NULL;
}

static tr_error *number(parser *p, double *out)
{
    char *end;
    blanks(p);
    if (!starts_number(p))
        return expected(p, "a number");
    *out = strtod(p->at, &end);
    if (end == p->at)
        return expected(p, "a number");
    p->at = end;
    return NULL;
}

static tr_error *one_of(parser *p, const char *const *names, int count, int *out)
{
    char name[32];
    TR_TRY(word(p, name, sizeof name));
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return NULL;
        }
    p->at -= strlen(name);
    return expected(p, names[0]);
}

static tr_error *dtype(parser *p, tr_dtype *out)
{
    char name[16];
    TR_TRY(word(p, name, sizeof name));
    return tr_dtype_parse(name, out) ? NULL : expected(p, "a dtype");
}

/* "NAME=" */
static tr_error *dim_name(parser *p, tr_dim *out)
{
    char name[32];
    TR_TRY(word(p, name, sizeof name));
    if (!take(p, "="))
        return expected(p, "=");
    *out = tr_graph_dim(p->g, name);
    return tr_graph_error_take(p->g);
}

static tr_error *shape(parser *p, tr_shape *out)
{
    *out = (tr_shape){0};
    TR_TRY(dtype(p, &out->dtype));
    if (!take(p, "["))
        return expected(p, "[");
    while (!take(p, "]")) {
        if (out->rank == TR_MAX_RANK || (out->rank > 0 && !take(p, ",")))
            return expected(p, "at most 8 dims");
        TR_TRY(dim_name(p, &out->names[out->rank]));
        TR_TRY(integer(p, 1, INT64_MAX, &out->dims[out->rank++]));
    }
    int64_t bytes = 8;
    for (int d = 0; d < out->rank; d++)
        if (!tr_mul_fits(bytes, out->dims[d], &bytes))
            return expected(p, "a shape below 2^63 bytes");
    return NULL;
}

/* %N: values up to N exist after. */
static tr_error *value(parser *p, tr_value *out)
{
    int64_t id;
    if (!take(p, "%"))
        return expected(p, "a value");
    TR_TRY(integer(p, 1, p->most_values, &id));
    tr_graph *g = p->g;
    while (g->n_values <= (uint32_t)id) {
        tr_value next = g->n_values;
        tr_push(g->values, g->n_values, g->values_room) =
            (tr_value_info){.shape = {.rank = 1, .dims = {1}}, .home = next};
    }
    *out = (tr_value)id;
    return NULL;
}

/* "part=K:[..] first= count= owner= flat": of one of n values. */
static tr_error *parse_layout(parser *p, const tr_value *values, int n)
{
    tr_layout l = {.rank = 0};
    int64_t k, owner;
    TR_TRY(integer(p, 0, n - 1, &k));
    if (!take(p, ":") || !take(p, "["))
        return expected(p, ":[");
    while (!take(p, "]")) {
        if (l.rank == TR_MAX_RANK || (l.rank > 0 && !take(p, ",")))
            return expected(p, "at most 8 dims");
        TR_TRY(dim_name(p, &l.names[l.rank]));
        TR_TRY(integer(p, 0, INT64_MAX, &l.origin[l.rank]));
        if (!take(p, "+"))
            return expected(p, "+");
        TR_TRY(integer(p, 1, INT64_MAX, &l.block[l.rank]));
        if (!take(p, "/"))
            return expected(p, "/");
        TR_TRY(integer(p, 1, INT64_MAX, &l.whole[l.rank]));
        if (take(p, "|")) {
            TR_TRY(integer(p, 1, INT64_MAX, &l.turn[l.rank]));
            if (!take(p, "+"))
                return expected(p, "+");
            TR_TRY(integer(p, 1, INT64_MAX, &l.jump[l.rank]));
        }
        l.rank++;
    }
    if (!take(p, "first="))
        return expected(p, "first=");
    TR_TRY(integer(p, 0, INT64_MAX, &l.first));
    if (!take(p, "count="))
        return expected(p, "count=");
    TR_TRY(integer(p, 0, INT64_MAX, &l.count));
    if (!take(p, "owner="))
        return expected(p, "owner=");
    TR_TRY(integer(p, 0, UINT32_MAX, &owner));
    l.owner = (uint32_t)owner;
    l.flat = take(p, "flat");
    tr_layout *kept = tr_arena_alloc(p->g->arena, sizeof *kept);
    *kept = l;
    p->g->values[values[k]].layout = kept;
    return NULL;
}

static tr_error *parse_leaf(parser *p, tr_value v, int role)
{
    const char *name;
    tr_shape s;
    int kind = 0;
    TR_TRY(quoted(p, &name));
    TR_TRY(shape(p, &s));
    tr_value_info *info = &p->g->values[v];
    info->role = (tr_role)role;
    info->shape = s;
    info->name = name;
    if (!take(p, "init="))
        return expected(p, "init=");
    TR_TRY(one_of(p, init_names, TR_COUNT(init_names), &kind));
    info->init.kind = (tr_init_kind)kind;
    if (kind == TR_INIT_NORMAL) {
        int64_t stream;
        if (!take(p, "("))
            return expected(p, "(");
        TR_TRY(number(p, &info->init.scale));
        if (!take(p, ")") || !take(p, "stream="))
            return expected(p, ") stream=");
        TR_TRY(integer(p, 0, UINT32_MAX, &stream));
        info->stream = (uint32_t)stream;
    }
    info->decay = take(p, "decay");
    if (take(p, "stage=")) {
        int64_t stage;
        TR_TRY(integer(p, 0, INT32_MAX, &stage));
        info->stage = (int32_t)stage;
    }
    while (take(p, "unit=")) {
        int64_t d;
        TR_TRY(integer(p, 0, info->shape.rank - 1, &d));
        if (!take(p, ":"))
            return expected(p, ":");
        TR_TRY(integer(p, 1, INT64_MAX, &info->unit[d]));
    }
    return take(p, "part=") ? parse_layout(p, &v, 1) : NULL;
}

static tr_error *parse_attr(parser *p, const tr_attr_row *row, tr_attr *out)
{
    char name[32];
    if (!take(p, row->name) || !take(p, "="))
        return expected(p, row->name);
    if (row->kind == TR_ATTR_FLOAT)
        return number(p, &out->f);
    if (row->kind == TR_ATTR_DTYPE) {
        tr_dtype type;
        TR_TRY(dtype(p, &type));
        out->i = type;
        return NULL;
    }
    if (row->kind != TR_ATTR_FN)
        return integer(p, INT64_MIN, INT64_MAX, &out->i);
    TR_TRY(word(p, name, sizeof name));
    for (int f = 0; f < TR_FN_COUNT; f++)
        if (strcmp(tr_fn_name((tr_fn)f), name) == 0) {
            out->i = f;
            return NULL;
        }
    return expected(p, "a function");
}

static tr_error *parse_node(parser *p, const tr_value *outs, int n_out)
{
    tr_graph *g = p->g;
    char name[64];
    tr_op op;
    TR_TRY(word(p, name, sizeof name));
    if (!tr_op_parse(name, &op))
        return expected(p, "an op");
    tr_node id = g->n_nodes;
    tr_node_info node = {.op = op, .layer = -1, .first_in = g->n_links};
    if (!take(p, "("))
        return expected(p, "(");
    for (int first = 1; !take(p, ")"); first = 0) {
        tr_value v = 0;
        if (!first && !take(p, ","))
            return expected(p, ", or )");
        if (!take(p, "-"))
            TR_TRY(value(p, &v));
        tr_push(g->links, g->n_links, g->links_room) = v;
        node.n_in++;
    }
    const tr_attr_row *rows = tr_op_table[op]->attrs;
    for (int a = 0; a < TR_MAX_ATTRS && rows[a].name; a++)
        TR_TRY(parse_attr(p, &rows[a], &node.attrs[a]));
    if (!take(p, ":"))
        return expected(p, ":");
    node.first_out = g->n_links;
    node.n_out = (uint32_t)n_out;
    for (int k = 0; k < n_out; k++) {
        tr_shape s;
        if (k && !take(p, ","))
            return expected(p, ",");
        TR_TRY(shape(p, &s));
        g->values[outs[k]].shape = s;
        g->values[outs[k]].node = id;
        tr_push(g->links, g->n_links, g->links_room) = outs[k];
    }
    int phase = 0;
    if (!take(p, "phase="))
        return expected(p, "phase=");
    TR_TRY(one_of(p, tr_phase_names, TR_PHASE_COUNT, &phase));
    node.phase = (tr_phase)phase;
    if (take(p, "layer=")) {
        int64_t layer;
        TR_TRY(integer(p, 0, INT32_MAX, &layer));
        node.layer = (int32_t)layer;
    }
    if (take(p, "stage=")) {
        int64_t stage;
        TR_TRY(integer(p, 0, INT32_MAX, &stage));
        node.stage = (int32_t)stage;
    }
    while (take(p, "home=")) {
        int64_t k, home;
        TR_TRY(integer(p, 0, n_out - 1, &k));
        if (!take(p, ":"))
            return expected(p, ":");
        TR_TRY(integer(p, 1, (int64_t)g->n_values - 1, &home));
        g->values[outs[k]].home = (tr_value)home;
    }
    while (take(p, "part="))
        TR_TRY(parse_layout(p, outs, n_out));
    tr_push(g->nodes, g->n_nodes, g->nodes_room) = node;
    return NULL;
}

static tr_error *parse_line(parser *p)
{
    tr_graph *g = p->g;
    if (take(p, "output")) {
        const char *name;
        tr_value v;
        TR_TRY(quoted(p, &name));
        TR_TRY(value(p, &v));
        tr_graph_output(g, name, v);
    } else {
        tr_value outs[TR_MAX_OUTPUTS];
        int n_out = 0, role = 0;
        do {
            if (n_out == TR_MAX_OUTPUTS)
                return expected(p, "the end of the outputs");
            TR_TRY(value(p, &outs[n_out++]));
            if (g->values[outs[n_out - 1]].node || g->values[outs[n_out - 1]].role != TR_TEMP)
                return expected(p, "a value that is not made before");
        } while (take(p, ","));
        if (!take(p, "="))
            return expected(p, "=");
        for (int r = TR_INPUT; r < TR_ROLE_COUNT && !role; r++)
            if (take(p, role_names[r]))
                role = r;
        if (role && n_out > 1)
            return expected(p, "an op: a leaf is one value");
        TR_TRY(role ? parse_leaf(p, outs[0], role) : parse_node(p, outs, n_out));
    }
    blanks(p);
    if (*p->at != '\n' && *p->at != '\0')
        return expected(p, "the end of the line");
    if (*p->at)
        p->at++;
    p->line++;
    return NULL;
}

tr_error *tr_graph_parse(const char *text, tr_graph **out)
{
    tr_error *error = NULL;
    const char *name;
    int64_t streams;
    parser p = {text, 1, tr_graph_new("", TR_F32), (int64_t)strlen(text) + 1024};
    *out = NULL;
    if (!take(&p, "graph"))
        TR_GO(expected(&p, "graph"));
    TR_GO(quoted(&p, &name));
    p.g->name = name;
    TR_GO(dtype(&p, &p.g->compute));
    if (!take(&p, "streams="))
        TR_GO(expected(&p, "streams="));
    TR_GO(integer(&p, 0, UINT32_MAX, &streams));
    p.g->streams = (uint32_t)streams;
    if (!take(&p, "\n"))
        TR_GO(expected(&p, "the end of the line"));
    p.line = 2;
    while (*p.at)
        TR_GO(parse_line(&p));
    TR_GO(tr_graph_verify(p.g));
    *out = p.g;
    p.g = NULL;
done:
    tr_graph_free(p.g);
    return error;
}
