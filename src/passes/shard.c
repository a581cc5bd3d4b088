/* Pass shard; see shard.h. This file walks the graph and decides where values are; shard_move.c moves them. */
#include "passes/shard.h"

#include "ir/sharding_rule.h"
#include "passes/passes.h"
#include "passes/shard_move.h"

static bool is_kept(const tr_graph *g, tr_value v)
{
    return g->values[v].role == TR_PARAM || g->values[v].role == TR_STATE;
}

static int64_t block_elems(const sharder *s, tr_value v, const place *at)
{
    int64_t n = 1, block[TR_MAX_RANK], origin[TR_MAX_RANK];
    shard_block(s, v, at, block, origin);
    for (int d = 0; d < tr_shape_at(s->from, v)->rank; d++)
        n *= block[d];
    return n;
}

/* Leaves ---------------------------------------------------------------------------------------- */

/* Every rank gets at least one piece of each dim. */
static tr_error *check_pieces(const sharder *s, tr_value v, const place *at)
{
    const tr_value_info *info = &s->from->values[v];
    for (int d = 0; d < info->shape.rank; d++) {
        int64_t pieces = info->shape.dims[d] / TR_MAX(info->unit[d], 1), left = pieces, ranks = 1;
        const char *first = NULL;
        for (int a = 0; a < s->how->n_axes; a++) {
            if (at->at[a] != d)
                continue;
            ranks *= s->how->axes[a].size;
            if (left < s->how->axes[a].size)
                return tr_error_new(TR_USER, "%s: dim %s has %lld pieces and mesh.%s%s%s is %lld; at most %lld ranks can "
                                             "share it",
                                    info->name, s->from->dim_names[info->shape.names[d]], (long long)pieces,
                                    first ? first : "", first ? " x " : "", s->how->axes[a].name, (long long)ranks,
                                    (long long)pieces);
            left /= s->how->axes[a].size;
            first = s->how->axes[a].name;
        }
    }
    return NULL;
}

static tr_error *place_leaf(sharder *s, tr_value v, place *out)
{
    const tr_value_info *info = &s->from->values[v];
    *out = place_whole();
    for (int r = 0; r < s->how->n_leaves; r++)
        for (int d = 0; d < info->shape.rank; d++) {
            int axis = s->how->leaves[r].axis;
            const tr_axis *a = &s->how->axes[axis];
            if (a->size == 1 || strcmp(s->from->dim_names[info->shape.names[d]], s->how->leaves[r].dim) != 0 ||
                out->at[axis] != WHOLE)
                continue;
            /* Only what has tokens is dealt: a parameter is in one piece. */
            if (a->ring && info->role == TR_PARAM)
                continue;
            /* A vector is not worth a gather before every use. */
            if (a->stores && info->role == TR_PARAM && info->shape.rank < 2)
                continue;
            out->at[axis] = (int8_t)d;
            out->unit[axis] = TR_MAX(info->unit[d], 1);
        }
    return check_pieces(s, v, out);
}

static bool zero_applies(const sharder *s, int level)
{
    return s->how->zero >= level && s->how->axes[s->how->zero_axis].size > 1;
}

/* A parameter with fewer elements than ranks is everybody's, as without ZeRO. Where other axes cut it into unequal
 * blocks, the smallest decides, so that all ranks decide alike. */
static bool zero_cuts(const sharder *s, int level, tr_value w, const place *at)
{
    const tr_shape *shape = tr_shape_at(s->from, w);
    int64_t least = 1;
    for (int d = 0; d < shape->rank; d++) {
        int64_t size = shape->dims[d];
        for (int a = 0; a < s->how->n_axes; a++)
            if (at->at[a] == d)
                size = size / TR_MAX(at->unit[a], 1) / s->how->axes[a].size * TR_MAX(at->unit[a], 1);
        least *= size;
    }
    return zero_applies(s, level) && least >= s->how->axes[s->how->zero_axis].size;
}

static tr_error *emit_leaf(sharder *s, tr_value v, const place *at)
{
    const tr_value_info *info = &s->from->values[v];
    place p = *at;
    tr_shape shape = shard_shape(s, v, &p);
    p.v = tr_graph_leaf(s->to, info->role, info->name, shape, info->init);
    if (!p.v)
        return tr_graph_error_take(s->to);
    s->to->values[p.v].stream = info->stream;
    s->to->values[p.v].decay = info->decay;
    s->to->values[p.v].layout = shard_layout(s, v, &p);
    s->places[v] = p;
    return NULL;
}

/* Parameters and inputs come first; state when its use has shown where it must be. */
static tr_error *emit_leaves(sharder *s)
{
    for (tr_value v = 1; v < s->from->n_values; v++) {
        tr_role role = s->from->values[v].role;
        place at;
        if (role != TR_PARAM && role != TR_INPUT)
            continue;
        TR_TRY(place_leaf(s, v, &at));
        at.flat = role == TR_PARAM && zero_cuts(s, 3, v, &at);
        TR_TRY(emit_leaf(s, v, &at));
    }
    return NULL;
}

/* Where the gradient of parameter w is wanted. */
static place gradient_target(const sharder *s, tr_value w)
{
    place at = s->places[w];
    at.flat = zero_cuts(s, 1, w, &at);
    return at;
}

/* Nodes ----------------------------------------------------------------------------------------- */

/* May this label be cut at all: no operand needs it whole. */
static bool may_cut(const tr_rule *rule, int label)
{
    for (int k = 0; k < rule->n_in + rule->n_out; k++)
        for (int d = 0; d < rule->rank[k]; d++)
            if (rule->dims[k][d].label == label && rule->dims[k][d].whole)
                return false;
    return label != 0;
}

static bool is_attention(tr_op op)
{
    return op == TR_OP_attention || op == TR_OP_attention_grad || op == TR_OP_attention_cached;
}

/* Or has the pass another form of the op for it. */
static bool may_split(const sharder *s, tr_node n, const tr_rule *rule, int label, int axis)
{
    if (is_attention(s->from->nodes[n].op) && !s->how->axes[axis].ring)
        return false;
    for (int k = 0; k < rule->n_in; k++) {
        int d = tr_rule_find(rule, k, label);
        if (d >= 0 && rule->dims[k][d].split)
            return true;
    }
    return false;
}

/* A dim is cut on one axis, or on those that cut it in `like` already, where it is dim like_dim. */
static bool is_free(const sharder *s, const tr_rule *rule, const place *want, int label, int axis, const place *like,
                    int like_dim)
{
    for (int k = 0; k < rule->n_in + rule->n_out; k++) {
        int d = tr_rule_find(rule, k, label);
        for (int a = 0; a < s->how->n_axes && d >= 0; a++)
            if (a != axis && want[k].at[a] == d && !(like && like->at[a] == like_dim))
                return false;
    }
    return true;
}

typedef struct choice {
    int label;
    int64_t unit;   /* of a dim of this label with `size` elements; size 0: of any */
    bool exchanged; /* Ulysses: the sequence was cut, heads are cut inside of attention */
    int64_t size;
} choice;

/* Of all inputs' dims of this label. */
static int64_t least_size(const tr_graph *g, tr_node n, const tr_rule *rule, int label)
{
    int64_t least = INT64_MAX;
    for (int k = 0; k < rule->n_in; k++) {
        int d = tr_in(g, n, k) ? tr_rule_find(rule, k, label) : -1;
        least = d >= 0 ? TR_MIN(least, tr_shape_at(g, tr_in(g, n, k))->dims[d]) : least;
    }
    return least;
}

static bool is_token_op(tr_op op)
{
    return op == TR_OP_cross_entropy || op == TR_OP_cross_entropy_grad;
}

/* The residual stream is cut where the rules say so: where it begins, and where a sum over the axis is about
 * to join it. Elementwise ops then keep the cut. */
static int on_stream(const sharder *s, tr_node n, const tr_rule *rule, int axis)
{
    const tr_node_info *node = &s->from->nodes[n];
    bool begins = node->op == TR_OP_add && node->layer < 0 && node->phase == TR_FORWARD;
    bool joins = node->op == TR_OP_dropout && s->places[tr_in(s->from, n, 0)].at[axis] == PARTIAL;
    if (!begins && !joins)
        return 0;
    const tr_shape *x = tr_shape_at(s->from, tr_in(s->from, n, 0));
    for (int r = 0; r < s->how->n_stream; r++)
        for (int d = 0; d < x->rank; d++)
            if (s->how->stream[r].axis == axis &&
                strcmp(s->from->dim_names[x->names[d]], s->how->stream[r].dim) == 0)
                return rule->dims[0][d].label;
    return 0;
}

/* A gradient is computed where its parameter is, if it can be. */
static choice as_parameter(const sharder *s, tr_node n, const tr_rule *rule, const place *want, int axis)
{
    const choice none = {0, 1, false, 0};
    tr_value w = s->leads_to[tr_out(s->from, n, 0)];
    tr_op op = s->from->nodes[n].op;
    if (!w || s->places[w].at[axis] < 0 || s->how->axes[axis].stores || op == TR_OP_add)
        return none;
    /* A bias's sum is smaller than what it sums up. */
    if (op == TR_OP_sum_leading && s->places[tr_in(s->from, n, 0)].at[axis] != WHOLE)
        return none;
    const place *at = &s->places[w];
    int label = rule->dims[rule->n_in][at->at[axis]].label;
    if ((!may_cut(rule, label) && !may_split(s, n, rule, label, axis)) ||
        !is_free(s, rule, want, label, axis, at, at->at[axis]))
        return none;
    return (choice){label, at->unit[axis], false, tr_shape_at(s->from, w)->dims[at->at[axis]]};
}

/* Where activations rest when no parameter says where an op is computed. */
static choice at_rest(const sharder *s, tr_node n, const tr_rule *rule, const place *want, int axis)
{
    const tr_graph *g = s->from;
    for (int r = 0; r < s->how->n_rest; r++)
        for (int k = 0; k < rule->n_in && s->how->rest[r].axis == axis; k++) {
            tr_value v = tr_in(g, n, k);
            for (int d = 0; v && !is_kept(g, v) && d < rule->rank[k]; d++) {
                int label = rule->dims[k][d].label;
                if (strcmp(g->dim_names[tr_shape_at(g, v)->names[d]], s->how->rest[r].dim) == 0 &&
                    may_cut(rule, label) && is_free(s, rule, want, label, axis, &s->places[v], d))
                    return (choice){label, 1, false, 0};
            }
        }
    return (choice){0, 1, false, 0};
}

/* Ulysses: are there heads for every rank of the axis, also where outer axes cut them already. */
static bool has_heads(const sharder *s, tr_node n, const tr_rule *rule, const place *want, int axis)
{
    int query = s->from->nodes[n].op == TR_OP_attention_grad ? 3 : 0, d = tr_rule_find(rule, query, 'h');
    int64_t heads = least_size(s->from, n, rule, 'h');
    for (int a = 0; a < s->how->n_axes; a++)
        if (want[query].at[a] == d)
            heads /= s->how->axes[a].size;
    return heads >= s->how->axes[axis].size;
}

/* What to cut on one axis: what a parameter is cut along, else what the rules or any operand say. */
static choice choose(const sharder *s, tr_node n, const tr_rule *rule, const place *want, int axis)
{
    const tr_graph *g = s->from;
    choice c = {on_stream(s, n, rule, axis), 1, false, 0};
    bool cut_but_whole = false;
    if (!c.label)
        c = as_parameter(s, n, rule, want, axis);
    for (int round = 0; round < 2 && !c.label; round++) {
        if (round == 1)
            c = at_rest(s, n, rule, want, axis);
        for (int k = 0; k < rule->n_in && !c.label; k++) {
            tr_value v = tr_in(g, n, k);
            if (!v || (is_kept(g, v) ? s->how->axes[axis].stores : round == 0) || rule->rank[k] < 0 ||
                s->places[v].at[axis] < 0)
                continue;
            const place *at = &s->places[v];
            int label = rule->dims[k][at->at[axis]].label;
            cut_but_whole |= !may_cut(rule, label);
            if ((may_cut(rule, label) || may_split(s, n, rule, label, axis)) &&
                is_free(s, rule, want, label, axis, at, at->at[axis]))
                c = (choice){label, at->unit[axis], false, tr_shape_at(g, v)->dims[at->at[axis]]};
        }
    }
    const tr_node_info *node = &g->nodes[n];
    /* The gradient finds the heads cut already, in the statistics of the forward. */
    if (c.label == 'h' && cut_but_whole && is_attention(node->op))
        c.exchanged = true;
    if (!c.label && cut_but_whole && is_attention(node->op) && has_heads(s, n, rule, want, axis))
        c = (choice){'h', 1, true, 0};
    /* Ranks that would all compute the loss of the same tokens share the tokens instead. */
    if (!c.label && is_token_op(node->op)) {
        const tr_shape *t = tr_shape_at(g, tr_in(g, n, 2));
        for (int d = t->rank - 1; d >= 0 && !c.label; d--)
            if (t->dims[d] >= s->how->axes[axis].size && is_free(s, rule, want, rule->dims[2][d].label, axis, NULL, 0))
                c.label = rule->dims[2][d].label;
    }
    return c;
}

/* Sums pass through ops that are linear in all of their operands. */
static bool passes_partial(const sharder *s, tr_node n, int axis)
{
    const tr_node_info *node = &s->from->nodes[n];
    if (node->op != TR_OP_add && node->op != TR_OP_scale && node->op != TR_OP_cast && node->op != TR_OP_sum_leading)
        return false;
    for (uint32_t k = 0; k < node->n_in; k++) {
        tr_value v = tr_in(s->from, n, (int)k);
        if (v && s->places[v].at[axis] != PARTIAL)
            return false;
    }
    return true;
}

/* Grouped queries: a group of heads goes where its head of keys is. So a dim is cut at multiples of what one element of the
 * smallest dim of that label stands for. */
static int64_t unit_of(const sharder *s, tr_node n, const tr_rule *rule, const choice *c, int k, int d)
{
    tr_value v = k < rule->n_in ? tr_in(s->from, n, k) : tr_out(s->from, n, k - rule->n_in);
    int64_t least = least_size(s->from, n, rule, c->label), size = v ? tr_shape_at(s->from, v)->dims[d] : least;
    int64_t of = c->size ? c->size : size, pieces = of % least == 0 ? (c->unit + of / least - 1) / (of / least) : 0;
    return pieces && size % least == 0 ? pieces * (size / least) : c->unit;
}

/* Decides where every operand of the node is wanted. */
static void decide(const sharder *s, tr_node n, const tr_rule *rule, place *want, bool *exchanged)
{
    for (int k = 0; k < rule->n_in + rule->n_out; k++)
        want[k] = place_whole();
    for (int a = 0; a < s->how->n_axes; a++) {
        exchanged[a] = false;
        if (s->how->axes[a].size == 1)
            continue;
        choice c = choose(s, n, rule, want, a);
        exchanged[a] = c.exchanged;
        if (c.label && s->how->axes[a].ring && is_attention(s->from->nodes[n].op)) {
            shard_ring_places(rule, want, a);
            continue;
        }
        bool partial = !c.label && passes_partial(s, n, a);
        for (int k = 0; k < rule->n_in + rule->n_out && (c.label || partial); k++) {
            int d = c.label ? tr_rule_find(rule, k, c.label) : -1;
            want[k].unit[a] = d >= 0 ? unit_of(s, n, rule, &c, k, d) : 1;
            want[k].at[a] = (int8_t)(d >= 0 ? d : partial || (k >= rule->n_in && c.label) ? PARTIAL : WHOLE);
        }
    }
}

/* A bias is added once: by the first rank of every axis over which the product is a partial sum. */
static bool drops_bias(const sharder *s, const tr_rule *rule, const place *want)
{
    for (int a = 0; a < s->how->n_axes; a++)
        if (want[rule->n_in].at[a] == PARTIAL && s->how->axes[a].index > 0)
            return true;
    return false;
}

/* What depends on sizes or on the rank in a node's operands and attributes. */
static void localize(sharder *s, tr_node n, const tr_rule *rule, const place *want, tr_value *in, tr_attr *attrs)
{
    const tr_node_info *node = &s->from->nodes[n];
    if (node->op == TR_OP_linear && drops_bias(s, rule, want))
        in[2] = 0;
    if (node->op == TR_OP_embedding)
        in[1] = shard_local_ids(s, in[1], tr_in(s->from, n, 0), &want[0]);
    if (node->op == TR_OP_embedding_grad) {
        const place *out = &want[rule->n_in];
        in[0] = shard_local_ids(s, in[0], tr_out(s->from, n, 0), out);
        attrs[TR_EMBEDDING_GRAD_ROWS].i = shard_shape(s, tr_out(s->from, n, 0), out).dims[0];
    }
}

static void set_homes(sharder *s, tr_node n, tr_node made)
{
    for (uint32_t k = 0; k < s->from->nodes[n].n_out; k++) {
        tr_value v = tr_out(s->from, n, (int)k), home = s->from->values[v].home, local = tr_out(s->to, made, (int)k);
        if (home != v && s->to->values[local].home == local)
            s->to->values[local].home = s->places[home].v;
    }
}

static bool cuts_rows(const sharder *s, const place *table)
{
    for (int a = 0; a < s->how->n_axes; a++)
        if (table->at[a] == 0)
            return true;
    return false;
}

/* The ring over which a sequence (dim 1) is cut, or -1. */
static int ring_of(const sharder *s, const place *queries)
{
    for (int a = 0; a < s->how->n_axes; a++)
        if (s->how->axes[a].ring && s->how->axes[a].size > 1 && queries->at[a] == 1)
            return a;
    return -1;
}

/* Random numbers are drawn by rows along the last dim, which is in one piece. */
static tr_error *set_layout(sharder *s, tr_node n, tr_value local, const place *at)
{
    const tr_layout *l = shard_layout(s, tr_in(s->from, n, 0), at);
    s->to->values[local].layout = l;
    if (l->jump[l->rank - 1])
        return tr_error_new(TR_USER, "op %s draws along the sequence, which a ring cuts into two pieces; use "
                                     "mesh.sequence_kind ulysses or megatron", tr_op_name(s->from->nodes[n].op));
    return NULL;
}

static tr_error *emit_generic(sharder *s, tr_node n)
{
    const tr_node_info *node = &s->from->nodes[n];
    place want[TR_MAX_OPERANDS];
    bool exchanged[TR_MAX_AXES];
    tr_value in[TR_MAX_OPERANDS] = {0};
    tr_rule rule;
    TR_TRY(tr_rule_fit(s->from, n, &rule));
    decide(s, n, &rule, want, exchanged);
    for (int k = 0; k < rule.n_in; k++)
        if (tr_in(s->from, n, k))
            TR_TRY(shard_move(s, tr_in(s->from, n, k), &want[k], &in[k]));
    tr_attr attrs[TR_MAX_ATTRS];
    memcpy(attrs, node->attrs, sizeof attrs);
    localize(s, n, &rule, want, in, attrs);
    if (tr_op_table[node->op]->flags & TR_OP_RANDOM && in[0])
        TR_TRY(set_layout(s, n, in[0], &want[0]));
    int ring = is_attention(node->op) ? ring_of(s, &want[0]) : -1;
    tr_value out[4] = {0};
    tr_node made = 0;
    if (ring >= 0)
        TR_TRY(shard_ring(s, n, ring, in, out));
    else if (is_token_op(node->op) && cuts_rows(s, &want[1]))
        made = shard_loss(s, n, in, want);
    else
        made = tr_graph_node(s->to, node->op, in, (int)node->n_in, attrs);
    if (s->to->error)
        return tr_graph_error_take(s->to);
    for (uint32_t k = 0; k < node->n_out; k++) {
        tr_value v = tr_out(s->from, n, (int)k);
        s->places[v] = want[rule.n_in + (int)k];
        s->places[v].v = made ? tr_out(s->to, made, (int)k) : out[k];
    }
    if (made)
        set_homes(s, n, made);
    /* Outside of attention the sequence is cut again; inside, the heads are: the backward finds both. */
    for (int a = 0; a < s->how->n_axes; a++)
        for (uint32_t k = 0; exchanged[a] && k < node->n_out && (node->op == TR_OP_attention_grad || k == 0); k++)
            TR_TRY(shard_exchange_back(s, tr_out(s->from, n, (int)k), a));
    return NULL;
}

/* The dim of `to` that holds dim d of `from` after a reshape, when d is the outermost of its group. */
static int reshaped_dim(const tr_shape *from, int d, const tr_shape *to, int64_t *unit)
{
    int i = 0, j = 0;
    while (i < from->rank && j < to->rank) {
        int first_i = i, first_j = j;
        int64_t a = from->dims[i++], b = to->dims[j++];
        while (a != b && (a < b ? i < from->rank : j < to->rank)) {
            if (a < b)
                a *= from->dims[i++];
            else
                b *= to->dims[j++];
        }
        if (first_i == d) {
            /* One step of the dim is this many steps of the other. */
            int64_t inner_from = a / from->dims[d], inner_to = b / to->dims[first_j];
            if (*unit * inner_from % inner_to != 0)
                return -1;
            *unit = *unit * inner_from / inner_to;
            return first_j;
        }
    }
    return -1;
}

static tr_error *emit_reshape(sharder *s, tr_node n)
{
    tr_value x = tr_in(s->from, n, 0), y = tr_out(s->from, n, 0), moved;
    const tr_shape *from = tr_shape_at(s->from, x), *to = tr_shape_at(s->from, y);
    place want = s->places[x], out = place_whole();
    want.flat = false; /* ZeRO-3: a parameter that is seen with other dims */
    for (int a = 0; a < s->how->n_axes; a++) {
        if (want.at[a] == PARTIAL)
            out.at[a] = PARTIAL;
        if (want.at[a] < 0)
            continue;
        int64_t unit = want.unit[a];
        int d = reshaped_dim(from, want.at[a], to, &unit);
        if (d < 0)
            want.at[a] = WHOLE;
        out.at[a] = (int8_t)d;
        out.unit[a] = d < 0 ? 1 : unit;
    }
    TR_TRY(shard_move(s, x, &want, &moved));
    s->places[y] = out;
    s->places[y].v = tr_graph_view(s->to, moved, shard_shape(s, y, &out));
    return tr_graph_error_take(s->to);
}

/* sum = add(clear(acc), x): the accumulator is where x is, or where ZeRO-2 wants the gradient. What is stored cut
 * is accumulated cut. */
static tr_error *emit_accumulate(sharder *s, tr_node n, tr_node clear)
{
    tr_value acc = tr_in(s->from, clear, 0), x = tr_in(s->from, n, 1), sum = tr_out(s->from, n, 0), moved;
    tr_value w = s->leads_to[sum];
    place at = s->places[x];
    if (w && zero_applies(s, 2))
        at = gradient_target(s, w);
    for (int a = 0; a < s->how->n_axes && w; a++)
        if (s->how->axes[a].stores && s->places[w].at[a] >= 0) {
            at.at[a] = s->places[w].at[a];
            at.unit[a] = s->places[w].unit[a];
        }
    TR_TRY(shard_move(s, x, &at, &moved));
    TR_TRY(emit_leaf(s, acc, &at));
    tr_phase phase = s->to->phase;
    s->to->phase = TR_START;
    tr_value cleared = tr_out(s->to, tr_graph_node(s->to, TR_OP_clear, &s->places[acc].v, 1, NULL), 0);
    s->to->phase = phase;
    tr_value added = tr_add(s->to, cleared, moved);
    if (!added)
        return tr_graph_error_take(s->to);
    s->to->values[added].home = cleared;
    s->places[sum] = at;
    s->places[sum].v = added;
    return NULL;
}

/* The update ------------------------------------------------------------------------------------- */

/* Squares are summed over what each rank has; over the axes that cut it the sums are added up. */
static tr_error *emit_global_norm(sharder *s, tr_node n)
{
    const tr_node_info *node = &s->from->nodes[n];
    uint32_t done = 0;
    bool *taken = tr_alloc_zero(node->n_in, sizeof *taken);
    tr_value *list = tr_alloc_zero(node->n_in, sizeof *list), total = 0;
    tr_error *error = NULL;
    while (done < node->n_in && !error) {
        uint32_t mask = UINT32_MAX;
        int count = 0;
        for (uint32_t k = 0; k < node->n_in && !error; k++) {
            tr_value grad = tr_in(s->from, n, (int)k), moved;
            if (taken[k])
                continue;
            place at = gradient_target(s, s->parameter_of[grad]);
            uint32_t cut = 0;
            for (int a = 0; a < s->how->n_axes; a++)
                cut |= (at.at[a] >= 0 || (at.flat && a == s->how->zero_axis) ? 1u : 0u) << a;
            if (mask != UINT32_MAX && cut != mask)
                continue;
            mask = cut;
            error = shard_move(s, grad, &at, &moved);
            list[count++] = moved;
            taken[k] = true;
            done++;
        }
        tr_value sum = error ? 0 : tr_out(s->to, tr_graph_node(s->to, TR_OP_global_norm, list, count, NULL), 0);
        for (int a = 0; a < s->how->n_axes && sum; a++)
            if (mask >> a & 1)
                sum = shard_all_reduce(s, sum, a);
        total = total && sum ? tr_add(s->to, total, sum) : sum;
    }
    s->places[tr_out(s->from, n, 0)] = place_whole();
    s->places[tr_out(s->from, n, 0)].v = total;
    free(taken);
    free(list);
    return error ? error : tr_graph_error_take(s->to);
}

static bool is_optimizer(tr_op op)
{
    return tr_op_table[op]->flags & TR_OP_OPTIMIZER;
}

static bool same_labels(const tr_rule *rule, int a, int b)
{
    bool same = rule->rank[a] == rule->rank[b];
    for (int d = 0; same && d < rule->rank[a]; d++)
        same = rule->dims[a][d].label && rule->dims[a][d].label == rule->dims[b][d].label;
    return same;
}

/* Where operand k is when operand w is at `at`: what has the same labels is cut alike, also flat; what lacks them is
 * whole when it is read, and a partial sum when it is made. */
static place place_beside(const sharder *s, const tr_rule *rule, int k, int w, const place *at)
{
    place p = place_whole();
    int8_t otherwise = k < rule->n_in ? WHOLE : PARTIAL;
    for (int a = 0; a < s->how->n_axes; a++) {
        if (at->at[a] < 0)
            continue;
        int d = tr_rule_find(rule, k, rule->dims[w][at->at[a]].label);
        p.at[a] = d >= 0 ? (int8_t)d : otherwise;
        p.unit[a] = d >= 0 ? at->unit[a] : 1;
    }
    if (at->flat && same_labels(rule, k, w))
        p.flat = true;
    else if (at->flat)
        p.at[s->how->zero_axis] = otherwise;
    return p;
}

/* Of Adafactor's ops: where this rank's flat part of the parameter begins. */
static void set_first(const sharder *s, tr_op op, tr_value w, const place *at, tr_attr *attrs)
{
    const tr_axis *axis = &s->how->axes[s->how->zero_axis];
    int64_t count;
    if (at->flat && (op == TR_OP_adafactor_rows || op == TR_OP_adafactor_sums || op == TR_OP_adafactor))
        tr_part(block_elems(s, w, at), axis->size, axis->index, 1, &attrs[TR_FACTOR_FIRST].i, &count);
}

/* A node of the optimizer stands where its parameter's gradient is wanted. Under ZeRO the flat shard is updated, and
 * below level 3 the parameter is gathered from the shards afterwards, into its own buffer. */
static tr_error *emit_update(sharder *s, tr_node n)
{
    const tr_node_info *node = &s->from->nodes[n];
    tr_value w = 0, in[TR_MAX_OPERANDS] = {0};
    int w_in = 0;
    tr_rule rule;
    tr_attr attrs[TR_MAX_ATTRS];
    TR_TRY(tr_rule_fit(s->from, n, &rule));
    for (int k = 0; k < rule.n_in && !w; k++) {
        tr_value v = tr_in(s->from, n, k);
        w = s->from->values[v].role == TR_PARAM ? v : s->parameter_of[v];
        w_in = k;
    }
    place at = gradient_target(s, w);
    bool cut_now = at.flat && !s->places[w].flat;
    for (int k = 0; k < rule.n_in; k++) {
        tr_value v = tr_in(s->from, n, k);
        place want = place_beside(s, &rule, k, w_in, &at);
        if (v && s->from->values[v].role == TR_STATE && !s->places[v].v)
            TR_TRY(emit_leaf(s, v, &want));
        if (v)
            TR_TRY(shard_move(s, v, &want, &in[k]));
    }
    memcpy(attrs, node->attrs, sizeof attrs);
    set_first(s, node->op, w, &at, attrs);
    tr_node made = tr_graph_node(s->to, node->op, in, rule.n_in, attrs);
    if (!made)
        return tr_graph_error_take(s->to);
    for (int k = 0; k < rule.n_out; k++) {
        tr_value v = tr_out(s->from, n, k);
        s->places[v] = place_beside(s, &rule, rule.n_in + k, w_in, &at);
        s->places[v].v = tr_out(s->to, made, k);
    }
    tr_value updated = tr_out(s->from, n, 0);
    if (cut_now && s->from->values[updated].home == w) {
        tr_value whole = shard_gather_flat(s, tr_out(s->to, made, 0), block_elems(s, w, &s->places[w]));
        if (!whole)
            return tr_graph_error_take(s->to);
        s->to->values[whole].home = s->places[w].v;
    }
    return NULL;
}

/* The walk --------------------------------------------------------------------------------------- */

static tr_error *emit(sharder *s, tr_node n)
{
    const tr_graph *g = s->from;
    const tr_node_info *node = &g->nodes[n];
    s->to->phase = node->phase;
    s->to->layer = node->layer;
    s->to->stage = node->stage;
    switch (node->op) {
    case TR_OP_clear: /* when its accumulator's place is known */
        return NULL;
    case TR_OP_reshape:
        return emit_reshape(s, n);
    case TR_OP_global_norm:
        return emit_global_norm(s, n);
    case TR_OP_add: {
        tr_node before = g->values[tr_in(g, n, 0)].node;
        if (before && g->nodes[before].op == TR_OP_clear)
            return emit_accumulate(s, n, before);
        return emit_generic(s, n);
    }
    default:
        return is_optimizer(node->op) ? emit_update(s, n) : emit_generic(s, n);
    }
}

/* A sum over an axis on which activations rest goes there at once, and is kept as that for the backward. */
static tr_error *settle_at_rest(sharder *s, tr_value v)
{
    const tr_shape *shape = tr_shape_at(s->from, v);
    for (int r = 0; r < s->how->n_rest; r++)
        for (int d = 0; d < shape->rank; d++) {
            place at = s->places[v];
            int axis = s->how->rest[r].axis;
            tr_value moved;
            if (at.at[axis] != PARTIAL || strcmp(s->from->dim_names[shape->names[d]], s->how->rest[r].dim) != 0)
                continue;
            at.at[axis] = (int8_t)d;
            at.unit[axis] = 1;
            TR_TRY(shard_move(s, v, &at, &moved));
            s->places[v] = at;
            s->places[v].v = moved;
        }
    return NULL;
}

/* Parameters' gradients go where they are wanted at once, so that nothing whole waits for the update. The
 * loss's tokens were shared for its own sake: its gradient goes back to where the hidden states are. */
static tr_error *settle(sharder *s, tr_node n)
{
    const tr_graph *g = s->from;
    for (uint32_t k = 0; k < g->nodes[n].n_out; k++) {
        tr_value v = tr_out(g, n, (int)k), moved;
        bool hidden = g->nodes[n].op == TR_OP_cross_entropy_grad && k == 1;
        bool gradient = s->parameter_of[v] && g->nodes[n].phase == TR_BACKWARD && !s->accumulates;
        TR_TRY(settle_at_rest(s, v));
        if (!hidden && !gradient)
            continue;
        place at = hidden ? s->places[tr_in(g, n, 0)] : gradient_target(s, s->parameter_of[v]);
        for (int a = 0; a < s->how->n_axes && hidden; a++)
            at.at[a] = at.at[a] == PARTIAL ? WHOLE : at.at[a]; /* the gradient of each summand is that of the sum */
        TR_TRY(shard_move(s, v, &at, &moved));
        s->places[v] = at;
        s->places[v].v = moved;
    }
    return NULL;
}

/* Which parameter each gradient belongs to, from the optimizer's nodes. */
static void find_gradients(sharder *s)
{
    for (tr_node n = 1; n < s->from->n_nodes; n++) {
        tr_op op = s->from->nodes[n].op;
        tr_value w = tr_in(s->from, n, 0), grad = tr_in(s->from, n, 1);
        if (is_optimizer(op) && s->from->values[w].role == TR_PARAM && !is_optimizer(s->from->nodes[s->from->values[grad].node].op))
            s->parameter_of[grad] = w;
        s->accumulates |= op == TR_OP_clear;
    }
    memcpy(s->leads_to, s->parameter_of, s->from->n_values * sizeof *s->leads_to);
    for (tr_node n = s->from->n_nodes - 1; n >= 1; n--)
        if (s->from->nodes[n].op == TR_OP_add && s->leads_to[tr_out(s->from, n, 0)])
            for (int k = 0; k < 2; k++)
                s->leads_to[tr_in(s->from, n, k)] = s->leads_to[tr_out(s->from, n, 0)];
}

static tr_error *emit_outputs(sharder *s)
{
    for (uint32_t o = 0; o < s->from->n_outputs; o++) {
        tr_value v = s->from->outputs[o], moved;
        place whole = place_whole();
        s->to->phase = s->from->nodes[s->from->n_nodes - 1].phase;
        s->to->layer = -1;
        TR_TRY(shard_move(s, v, &whole, &moved));
        tr_graph_output(s->to, s->from->output_names[o], moved);
    }
    return NULL;
}

tr_error *tr_pass_shard(tr_graph **graph, const tr_sharding *how)
{
    tr_error *error = NULL;
    const tr_graph *g = *graph;
    sharder s = {.from = g, .to = tr_graph_new(g->name, g->compute), .how = how,
                 .places = tr_alloc_zero(g->n_values, sizeof(place)),
                 .parameter_of = tr_alloc_zero(g->n_values, sizeof(tr_value)),
                 .leads_to = tr_alloc_zero(g->n_values, sizeof(tr_value))};
    for (uint32_t d = 1; d < g->n_dim_names; d++)
        tr_graph_dim(s.to, g->dim_names[d]);
    s.to->streams = g->streams;
    find_gradients(&s);
    TR_GO(emit_leaves(&s));
    for (tr_node n = 1; n < g->n_nodes; n++) {
        TR_GO(tr_error_in_take(emit(&s, n), "sharding of node %u", n));
        TR_GO(settle(&s, n));
    }
    TR_GO(emit_outputs(&s));
    tr_graph_order_phases(s.to);
    tr_graph_free(*graph);
    *graph = s.to;
    s.to = NULL;
done:
    tr_graph_free(s.to);
    free(s.places);
    free(s.parameter_of);
    free(s.leads_to);
    free(s.moves);
    free(s.losses);
    return error;
}
