/* Scaled dot-product attention (Vaswani et al. 2017), fused: memory linear in the sequence (Dao et al.
 * 2022); its gradient; and the form that reads and fills a cache of keys and values. */
#include "ops/rule.h"

#include <math.h>
#include <stdio.h>

#define ATTENTION_ATTRS                                                                       \
    {                                                                                         \
        {"causal", TR_ATTR_BOOL}, {"window", TR_ATTR_INT}, {"scale", TR_ATTR_FLOAT},          \
            {"p", TR_ATTR_FLOAT}, {"stream", TR_ATTR_INT}, {"row", TR_ATTR_INT}                \
    }

/* The query's shape without the packing dim. */
static tr_shape query_shape(const tr_shape *q)
{
    tr_shape s = *q;
    if (q->rank == 5) {
        s.rank = 4;
        memmove(s.dims + 2, s.dims + 3, 2 * sizeof *s.dims);
        memmove(s.names + 2, s.names + 3, 2 * sizeof *s.names);
    }
    return s;
}

static tr_error *check_qkv(const tr_graph *g, const tr_value *in, int n_in, int first)
{
    const tr_shape *q = shape_in(g, in, first);
    char a[256], b[256], c[256];
    TR_TRY(tr_floats_only(g, in + first, TR_MIN(n_in - first, 3)));
    if (!has(in, n_in, first + 1)) {
        if (q->rank != 5 || q->dims[2] != 3)
            return tr_error_new(TR_USER, "packed query, key and value must be [batch, seq, 3, heads, head_dim], not [%s]",
                                tr_dims_text(g, q, a, sizeof a));
        return NULL;
    }
    if (!has(in, n_in, first + 2))
        return tr_error_new(TR_USER, "has a key [%s] and no value",
                            tr_dims_text(g, shape_in(g, in, first + 1), a, sizeof a));
    const tr_shape *k = shape_in(g, in, first + 1), *v = shape_in(g, in, first + 2);
    if (q->rank != 4 || k->rank != 4 || v->rank != 4 || q->dims[2] % k->dims[2] != 0 ||
        q->dims[0] != k->dims[0] || q->dims[3] != k->dims[3])
        return tr_error_new(TR_USER, "query, key and value must be [batch, seq, heads, head_dim], with "
                                     "query heads a multiple of key heads, not [%s], [%s], [%s]",
                            tr_dims_text(g, q, a, sizeof a), tr_dims_text(g, k, b, sizeof b),
                            tr_dims_text(g, v, c, sizeof c));
    return tr_dims_match(g, "key and value must have one shape", k, 0, v, 0, 4);
}

/* The bias by distance, in place `at`. */
static tr_error *check_relative(const tr_graph *g, const tr_value *in, int n_in, int q, int at, const tr_attr *attrs)
{
    int64_t row = attrs[TR_ATTENTION_ROW].i;
    char text[256];
    if (row < 0 || (row && !has(in, n_in, at)))
        return tr_error_new(TR_USER, "rows of %lld tokens; a row goes with a relative bias", (long long)row);
    if (!has(in, n_in, at))
        return NULL;
    const tr_shape *r = shape_in(g, in, at);
    int64_t heads = query_shape(shape_in(g, in, q)).dims[2];
    TR_TRY(tr_floats_only(g, in + at, 1));
    if (r->rank != 2 || r->dims[1] != heads || r->dims[0] % 2 == 0 ||
        (row && r->dims[0] != (2 * row - 1) * (2 * row - 1)))
        return tr_error_new(TR_USER, "the relative bias must be [distances, heads=%lld], an odd number of distances%s, "
                                     "not [%s]",
                            (long long)heads, row ? ", (2 row - 1)^2" : "", tr_dims_text(g, r, text, sizeof text));
    return NULL;
}

/* Segments of queries and of keys, in places at and at + 1. */
static tr_error *check_segments(const tr_graph *g, const tr_value *in, int n_in, int q, int at)
{
    char text[256];
    const tr_shape query = query_shape(shape_in(g, in, q));
    if (has(in, n_in, at) && !has(in, n_in, at + 1))
        return tr_error_new(TR_USER, "segments of queries go with segments of keys");
    for (int k = at; k < at + 2; k++) {
        if (!has(in, n_in, k))
            continue;
        const tr_shape *x = shape_in(g, in, k);
        int64_t length = k == at || !has(in, n_in, q + 1) ? query.dims[1] : shape_in(g, in, q + 1)->dims[1];
        if (x->dtype != TR_I32 || x->rank != 2 || x->dims[1] != length || query.dims[0] % x->dims[0] != 0 ||
            (has(in, n_in, at) && x->dims[0] != shape_in(g, in, at + 1)->dims[0]))
            return tr_error_new(TR_USER, "segments must be i32 [m, seq=%lld], m a part of batch=%lld, not %s[%s]",
                                (long long)length, (long long)query.dims[0], tr_dtype_name(x->dtype),
                                tr_dims_text(g, x, text, sizeof text));
    }
    return NULL;
}

TR_INFER(infer_attention)
{
    TR_TRY(check_qkv(g, in, n_in, 0));
    TR_TRY(check_relative(g, in, n_in, 0, 3, attrs));
    TR_TRY(check_segments(g, in, n_in, 0, 4));
    out[0] = query_shape(shape_in(g, in, 0));
    out[1] = (tr_shape){.dtype = TR_F32, .rank = 3};
    const int from[] = {0, 2, 1};
    for (int d = 0; d < 3; d++) {
        out[1].dims[d] = out[0].dims[from[d]];
        out[1].names[d] = out[0].names[from[d]];
    }
    *n_out = 2;
    return NULL;
}

static void grad_attention(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    TR_CHECK(!d_out[1], "lse has no gradient");
    const tr_value in[] = {d_out[0], tr_out(g, n, 0), tr_out(g, n, 1), tr_in(g, n, 0), tr_in(g, n, 1),
                           tr_in(g, n, 2), tr_in(g, n, 3), tr_in(g, n, 4), tr_in(g, n, 5)};
    tr_node back = tr_graph_node(g, TR_OP_attention_grad, in, 9, g->nodes[n].attrs);
    int parts = in[4] ? 3 : 1;
    for (int k = 0; k < parts; k++)
        d_in[k] = tr_out(g, back, k);
    d_in[3] = tr_out(g, back, parts);
}

/* Two products of [t, e] by [e, s], halved when causal. Backward: five. */
static void cost_attention(const tr_graph *g, tr_node n, tr_cost *cost)
{
    const tr_node_info *node = &g->nodes[n];
    int first = node->op == TR_OP_attention_grad ? 3 : 0;
    const tr_shape q = query_shape(tr_shape_at(g, tr_in(g, n, first)));
    tr_value k = tr_in(g, n, first + 1);
    double keys = (double)(k ? tr_shape_at(g, k)->dims[1] : q.dims[1]);
    int64_t window = node->attrs[TR_ATTENTION_WINDOW].i;
    if (node->op == TR_OP_attention_cached)
        keys = (double)tr_shape_at(g, tr_in(g, n, 3))->dims[2];
    if (window > 0 && keys > (double)window)
        keys = (double)window;
    else if (node->op == TR_OP_attention_cached || node->attrs[TR_ATTENTION_CAUSAL].i)
        keys /= 2;
    double products = node->op == TR_OP_attention_grad ? 5 : 2;
    cost->flops = products * 2.0 * (double)tr_shape_elems(&q) * keys;
}

/* Queries of a sequence that is cut would need keys of all of it: the sequence is whole, heads may be cut. Segments
 * that serve several sequences are whole. */
static const char *segment_rule(const tr_graph *g, tr_value q, tr_value segments)
{
    return segments && tr_shape_at(g, segments)->dims[0] != tr_shape_at(g, q)->dims[0] ? "[m]" : "b";
}

/* One head of keys for all queries is on every rank that has some of them, and its gradient is a sum over those. */
static const char *qkv_rule(const tr_graph *g, tr_value k)
{
    if (!k)
        return "b(t)[q]h[e],,";
    return tr_shape_at(g, k)->dims[2] == 1 ? "b(t)h[e],b(s)[g][e],b(s)[g][e]" : "b(t)h[e],b(s)h[e],b(s)h[e]";
}

static const char *rule_attention(const tr_graph *g, tr_node n)
{
    static _Thread_local char text[160];
    const char *m = segment_rule(g, tr_in(g, n, 0), tr_in(g, n, 5));
    bool packed = !tr_in(g, n, 1);
    snprintf(text, sizeof text, "%s,[n]h,%s(t),%s(%c)->b(t)h[e],bh(t)", qkv_rule(g, tr_in(g, n, 1)), m, m,
             packed ? 't' : 's');
    return text;
}

static const char *rule_attention_grad(const tr_graph *g, tr_node n)
{
    static _Thread_local char text[200];
    const char *m = segment_rule(g, tr_in(g, n, 3), tr_in(g, n, 8));
    bool packed = !tr_in(g, n, 4);
    const char *qkv = qkv_rule(g, tr_in(g, n, 4));
    snprintf(text, sizeof text, "b(t)h[e],b(t)h[e],bh(t),%s,[n]h,%s(t),%s(%c)->%s,[n]h", qkv, m, m, packed ? 't' : 's',
             packed ? "b(t)[q]h[e]" : qkv);
    return text;
}

static const char *rule_attention_cached(const tr_graph *g, tr_node n)
{
    /* A cache that all ranks fill is no sum over them: with one head of keys nothing is cut. */
    if (tr_in(g, n, 1) && tr_shape_at(g, tr_in(g, n, 1))->dims[2] == 1)
        return "b[t][h][e],b[s][g][e],b[s][g][e],b[g][c][e],b[g][c][e],,[n][h]->b[t][h][e],b[g][c][e],b[g][c][e]";
    return tr_in(g, n, 1) ? "b[t]h[e],b[s]h[e],b[s]h[e],bh[c][e],bh[c][e],,[n]h->b[t]h[e],bh[c][e],bh[c][e]"
                          : "b[t][q]h[e],,,bh[c][e],bh[c][e],,[n]h->b[t]h[e],bh[c][e],bh[c][e]";
}

const tr_op_row tr_row_attention = {
    .min_in = 1, .max_in = 6, .flags = TR_OP_RANDOM, .attrs = ATTENTION_ATTRS, .infer = infer_attention,
    .gradient = grad_attention, .sharding_of = rule_attention, .cost = cost_attention};

TR_INFER(infer_attention_grad)
{
    TR_TRY(check_qkv(g, in, n_in, 3));
    TR_TRY(check_relative(g, in, n_in, 3, 6, attrs));
    TR_TRY(check_segments(g, in, n_in, 3, 7));
    *n_out = has(in, n_in, 4) ? 3 : 1;
    for (int k = 0; k < *n_out; k++)
        out[k] = *shape_in(g, in, 3 + k);
    if (has(in, n_in, 6)) {
        out[*n_out] = *shape_in(g, in, 6);
        out[(*n_out)++].dtype = TR_F32;
    }
    return NULL;
}

const tr_op_row tr_row_attention_grad = {
    .min_in = 4, .max_in = 9, .flags = TR_OP_RANDOM, .attrs = ATTENTION_ATTRS,
    .infer = infer_attention_grad, .no_gradient = "second derivatives are not needed for training",
    .sharding_of = rule_attention_grad, .cost = cost_attention};

TR_INFER(infer_attention_cached)
{
    TR_TRY(check_qkv(g, in, TR_MIN(n_in, 3), 0));
    TR_TRY(check_relative(g, in, n_in, 0, 6, attrs));
    if (!has(in, n_in, 3) || !has(in, n_in, 4) || !has(in, n_in, 5))
        return tr_error_new(TR_USER, "takes query, key, value, both caches and the start");
    out[0] = query_shape(shape_in(g, in, 0));
    out[1] = *shape_in(g, in, 3);
    out[2] = *shape_in(g, in, 4);
    if (out[1].rank != 4 || out[1].dims[0] != out[0].dims[0] || out[1].dims[3] != out[0].dims[3])
        return tr_error_new(TR_USER, "the caches must be [batch, heads, context, head_dim]");
    *n_out = 3;
    return NULL;
}

/* Outputs 1 and 2 live in the caches; output 0 has a buffer of its own (updates -1). */
const tr_op_row tr_row_attention_cached = {
    .min_in = 1, .max_in = 7, .flags = TR_OP_UPDATES, .updates = {-1, 3, 4},
    .attrs = ATTENTION_ATTRS, .infer = infer_attention_cached, .no_gradient = "inference only",
    .sharding_of = rule_attention_cached, .cost = cost_attention};

tr_value tr_attend(tr_graph *g, tr_value q, tr_value k, tr_value v, const tr_attend_options *o)
{
    if (g->error || !q)
        return 0;
    if (!(o->p >= 0 && o->p < 1) || o->window < 0) {
        tr_graph_fail(g, tr_error_new(TR_USER, "op attention: window %lld and dropout %g; a window is 0 (none) or more, "
                                               "dropout in [0, 1)", (long long)o->window, o->p));
        return 0;
    }
    const tr_shape *s = tr_shape_at(g, q);
    double scale = o->scale != 0 ? o->scale : 1.0 / sqrt((double)s->dims[TR_MAX(s->rank, 1) - 1]);
    const tr_attr attrs[TR_MAX_ATTRS] = {
        [TR_ATTENTION_CAUSAL] = {.i = o->causal}, [TR_ATTENTION_WINDOW] = {.i = o->window},
        [TR_ATTENTION_SCALE] = {.f = scale},      [TR_ATTENTION_P] = {.f = o->p},
        [TR_ATTENTION_STREAM] = {.i = o->p > 0 ? g->streams++ : 0}, [TR_ATTENTION_ROW] = {.i = o->row}};
    const tr_value in[] = {q, k, v, o->relative, o->query_segments, o->key_segments};
    return tr_out(g, tr_graph_node(g, TR_OP_attention, in, 6, attrs), 0);
}

tr_value tr_attention(tr_graph *g, tr_value qkv, bool causal, int64_t window, double p)
{
    return tr_attend(g, qkv, 0, 0, &(tr_attend_options){.causal = causal, .window = window, .p = p});
}
