/* Mixtures of experts with a capacity: GShard (Lepikhin et al. 2021), Switch (Fedus et al. 2022), Mixtral.
 *
 *   route          each token's k experts, its weights for them, and a slot in each expert's room
 *   dispatch       tokens into the experts' rooms [expert, batch, capacity, embed]
 *   expert_linear  a product for each expert, of the rows that are filled
 *   collect        the weighted sum of a token's rows: the transpose of dispatch
 *   route_loss     balance and z loss
 *
 * All is defined within a sequence (a row of the batch): capacity, order, losses. So no cut of the batch over ranks or
 * microbatches changes a result. A room has the experts as its outermost dim and the weights too, and both may be cut
 * there: on the axis that cuts the experts, dispatch's result is cut by batch and wanted by expert, which is the
 * all-to-all of the tokens. Where nothing cuts the experts the pass `rooms` joins them (passes/rooms.c): a sequence has
 * one room [1, batch, capacity, embed] with the tokens of expert 0, then of expert 1, and so on; and on a rank the pass
 * `together` makes one room of all its sequences, [1, 1, capacity, embed]: the tokens of expert 0 in all sequences, then
 * those of expert 1. Who has a place in a room is not touched by that.
 */
#include "ops/rule.h"

static const char once_only[] = "second derivatives are not needed for training";

static tr_value emit(tr_graph *g, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs)
{
    return tr_out(g, tr_graph_node(g, op, in, n_in, attrs), 0);
}

/* NULL when input k has this rank and dtype. */
static tr_error *check_input(const tr_graph *g, const tr_value *in, int k, int rank, tr_dtype dtype, const char *what)
{
    char text[256];
    const tr_shape *s = shape_in(g, in, k);
    return s->rank == rank && s->dtype == dtype
               ? NULL
               : tr_error_new(TR_USER, "input %d must be %s, %s, not %s[%s]", k, what, tr_dtype_name(dtype),
                              tr_dtype_name(s->dtype), tr_dims_text(g, s, text, sizeof text));
}

/* All sequences share a room; `by_sequence` has a row for each of them. */
static bool is_together(const tr_graph *g, tr_value room, tr_value by_sequence)
{
    return tr_shape_at(g, room)->dims[1] != tr_shape_at(g, by_sequence)->dims[0];
}

static tr_error *check_sequences(const tr_graph *g, const tr_shape *room, const tr_shape *by_sequence)
{
    if (room->dims[0] == 1 && room->dims[1] == 1)
        return NULL;
    return tr_dims_match(g, "rooms and what goes by sequence must have the same batch", room, 1, by_sequence, 0, 1);
}

/* route ---------------------------------------------------------------------------------------------- */

static const char logits_text[] = "router logits [batch, seq, expert]", choices_text[] = "[batch, seq, choices]";

TR_INFER(infer_route)
{
    (void)n_in;
    TR_TRY(check_input(g, in, 0, 3, TR_F32, logits_text));
    const tr_shape *x = shape_in(g, in, 0);
    int64_t k = attrs[TR_ROUTE_K].i, capacity = attrs[TR_ROUTE_CAPACITY].i;
    if (k < 1 || k > x->dims[2] || k > TR_MOST_CHOICES || capacity < 1 || capacity > INT32_MAX / x->dims[2])
        return tr_error_new(TR_USER, "%lld of %lld experts with room for %lld tokens each; a token goes to 1 to %d of "
                                     "them, and there is room for one token or more",
                            (long long)k, (long long)x->dims[2], (long long)capacity, TR_MOST_CHOICES);
    for (int o = 0; o < 3; o++) {
        out[o] = *x;
        out[o].dims[2] = k;
        out[o].names[2] = 0;
        out[o].dtype = o ? TR_I32 : TR_F32;
    }
    out[3] = *x;
    out[3].rank = 2;
    out[3].dims[1] = x->dims[2];
    out[3].names[1] = x->names[2];
    out[3].dtype = TR_I32;
    *n_out = 4;
    return NULL;
}

static void grad_route(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    TR_CHECK(!d_out[1] && !d_out[2] && !d_out[3], "choices have no gradient");
    const tr_value in[] = {d_out[0], tr_in(g, n, 0), tr_out(g, n, 1)};
    d_in[0] = emit(g, TR_OP_route_grad, in, 3, g->nodes[n].attrs);
}

static void cost_route(const tr_graph *g, tr_node n, tr_cost *cost)
{
    int logits = g->nodes[n].op == TR_OP_route_grad ? 1 : 0;
    cost->flops = 20.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, logits)));
}

#define ROUTE_ATTRS                                                                                            \
    {                                                                                                          \
        {"k", TR_ATTR_INT}, {"capacity", TR_ATTR_INT}, {"normalised", TR_ATTR_BOOL}, {"random", TR_ATTR_BOOL}, \
            {"stream", TR_ATTR_INT}, {"joined", TR_ATTR_BOOL}, {"together", TR_ATTR_BOOL}                      \
    }

static const char *rule_route(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_ROUTE_TOGETHER].i ? "[b][t][e]->[b][t][k],[b][t][k],[b][t][k],[b][e]"
                                                  : "b[t][e]->b[t][k],b[t][k],b[t][k],b[e]";
}

const tr_op_row tr_row_route = {
    .min_in = 1, .max_in = 1, .flags = TR_OP_RANDOM, .attrs = ROUTE_ATTRS, .infer = infer_route, .gradient = grad_route,
    .sharding_of = rule_route, .cost = cost_route};

TR_INFER(infer_route_grad)
{
    (void)n_in, (void)attrs;
    TR_TRY(check_input(g, in, 0, 3, TR_F32, choices_text));
    TR_TRY(check_input(g, in, 1, 3, TR_F32, logits_text));
    TR_TRY(check_input(g, in, 2, 3, TR_I32, choices_text));
    TR_TRY(tr_dims_match(g, "choices and their gradient", shape_in(g, in, 0), 0, shape_in(g, in, 2), 0, 3));
    TR_TRY(tr_dims_match(g, "logits and choices", shape_in(g, in, 1), 0, shape_in(g, in, 2), 0, 2));
    out[0] = *shape_in(g, in, 1);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_route_grad = {
    .min_in = 3, .max_in = 3, .attrs = ROUTE_ATTRS, .infer = infer_route_grad, .no_gradient = once_only,
    .sharding = "b[t][k],b[t][e],b[t][k]->b[t][e]", .cost = cost_route};

/* route_loss ------------------------------------------------------------------------------------------ */

TR_INFER(infer_route_loss)
{
    (void)n_in, (void)attrs;
    TR_TRY(check_input(g, in, 0, 3, TR_F32, logits_text));
    TR_TRY(check_input(g, in, 1, 3, TR_I32, choices_text));
    TR_TRY(tr_dims_match(g, "logits and choices", shape_in(g, in, 0), 0, shape_in(g, in, 1), 0, 2));
    out[0] = out[1] = scalar_f32();
    *n_out = 2;
    return NULL;
}

/* A loss that nothing reads has a gradient of zero. */
static tr_value or_zero(tr_graph *g, tr_value d)
{
    return d ? d : emit(g, TR_OP_fill, NULL, 0, NULL);
}

static void grad_route_loss(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {tr_in(g, n, 0), tr_in(g, n, 1), or_zero(g, d_out[0]), or_zero(g, d_out[1])};
    d_in[0] = emit(g, TR_OP_route_loss_grad, in, 4, g->nodes[n].attrs);
}

const tr_op_row tr_row_route_loss = {
    .min_in = 2, .max_in = 2, .attrs = {{"all", TR_ATTR_BOOL}}, .infer = infer_route_loss, .gradient = grad_route_loss,
    .sharding = "b[t][e],b[t][k]->,", .cost = cost_route};

TR_INFER(infer_route_loss_grad)
{
    TR_TRY(infer_route_loss(g, in, n_in, attrs, out, n_out));
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_route_loss_grad = {
    .min_in = 4, .max_in = 4, .attrs = {{"all", TR_ATTR_BOOL}}, .infer = infer_route_loss_grad, .no_gradient = once_only,
    .sharding = "b[t][e],b[t][k],,->b[t][e]", .cost = cost_route};

/* dispatch and collect -------------------------------------------------------------------------------- */

TR_INFER(infer_dispatch)
{
    const tr_shape *x = shape_in(g, in, 0);
    int64_t experts = attrs[TR_DISPATCH_EXPERTS].i, capacity = attrs[TR_DISPATCH_CAPACITY].i;
    TR_TRY(tr_floats_only(g, in, 1));
    TR_TRY(check_input(g, in, 0, 3, x->dtype, "[batch, seq, embed]"));
    TR_TRY(check_input(g, in, 1, 3, TR_I32, choices_text));
    TR_TRY(tr_dims_match(g, "tokens and slots", x, 0, shape_in(g, in, 1), 0, 2));
    if (has(in, n_in, 2)) {
        TR_TRY(check_input(g, in, 2, 3, TR_F32, choices_text));
        TR_TRY(tr_dims_match(g, "slots and weights", shape_in(g, in, 1), 0, shape_in(g, in, 2), 0, 3));
    }
    if (experts < 1 || capacity < 1)
        return tr_error_new(TR_USER, "%lld experts with room for %lld tokens", (long long)experts, (long long)capacity);
    bool together = attrs[TR_DISPATCH_TOGETHER].i;
    out[0] = (tr_shape){.dtype = x->dtype, .rank = 4, .dims = {experts, together ? 1 : x->dims[0], capacity, x->dims[2]},
                        .names = {0, together ? 0 : x->names[0], 0, x->names[2]}};
    *n_out = 1;
    return NULL;
}

static void grad_dispatch(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_value in[] = {d_out[0], tr_in(g, n, 1), tr_in(g, n, 2)};
    d_in[0] = emit(g, TR_OP_collect, in, 3, NULL);
    const tr_value weights[] = {tr_in(g, n, 0), d_out[0], tr_in(g, n, 1)};
    if (in[2])
        d_in[2] = emit(g, TR_OP_collect_grad, weights, 3, NULL);
}

static void cost_move(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

static const char *rule_dispatch(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_DISPATCH_TOGETHER].i ? "[b][t]d,[b][t][k],[b][t][k]->[e][r][c]d"
                                                     : "b[t]d,b[t][k],b[t][k]->[e]b[c]d";
}

const tr_op_row tr_row_dispatch = {
    .min_in = 2, .max_in = 3, .infer = infer_dispatch, .gradient = grad_dispatch, .sharding_of = rule_dispatch, .cost = cost_move,
    .attrs = {{"experts", TR_ATTR_INT}, {"capacity", TR_ATTR_INT}, {"together", TR_ATTR_BOOL}}};

TR_INFER(infer_collect)
{
    (void)attrs;
    const tr_shape *y = shape_in(g, in, 0), *slots = shape_in(g, in, 1);
    TR_TRY(tr_floats_only(g, in, 1));
    TR_TRY(check_input(g, in, 0, 4, y->dtype, "[expert, batch, capacity, embed]"));
    TR_TRY(check_input(g, in, 1, 3, TR_I32, choices_text));
    TR_TRY(check_sequences(g, y, slots));
    if (has(in, n_in, 2)) {
        TR_TRY(check_input(g, in, 2, 3, TR_F32, choices_text));
        TR_TRY(tr_dims_match(g, "slots and weights", slots, 0, shape_in(g, in, 2), 0, 3));
    }
    out[0] = *slots;
    out[0].dtype = y->dtype;
    out[0].dims[2] = y->dims[3];
    out[0].names[2] = y->names[3];
    *n_out = 1;
    return NULL;
}

static void grad_collect(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    const tr_shape y = *tr_shape_at(g, tr_in(g, n, 0));
    const tr_value in[] = {d_out[0], tr_in(g, n, 1), tr_in(g, n, 2)};
    d_in[0] = emit(g, TR_OP_dispatch, in, 3,
                   (tr_attr[TR_MAX_ATTRS]){[TR_DISPATCH_EXPERTS] = {.i = y.dims[0]},
                                           [TR_DISPATCH_CAPACITY] = {.i = y.dims[2]},
                                           [TR_DISPATCH_TOGETHER] = {.i = is_together(g, tr_in(g, n, 0), tr_in(g, n, 1))}});
    if (d_in[0])
        g->values[d_in[0]].shape.names[0] = y.names[0];
    const tr_value weights[] = {d_out[0], tr_in(g, n, 0), tr_in(g, n, 1)};
    if (in[2])
        d_in[2] = emit(g, TR_OP_collect_grad, weights, 3, NULL);
}

static const char *rule_collect(const tr_graph *g, tr_node n)
{
    return is_together(g, tr_in(g, n, 0), tr_in(g, n, 1)) ? "[e][r][c]d,[b][t][k],[b][t][k]->[b][t]d"
                                                          : "[e]b[c]d,b[t][k],b[t][k]->b[t]d";
}

const tr_op_row tr_row_collect = {.min_in = 2, .max_in = 3, .infer = infer_collect, .gradient = grad_collect,
                                  .sharding_of = rule_collect, .cost = cost_move};

TR_INFER(infer_collect_grad)
{
    (void)n_in, (void)attrs;
    const tr_shape *d = shape_in(g, in, 0), *y = shape_in(g, in, 1), *slots = shape_in(g, in, 2);
    TR_TRY(tr_floats_only(g, in, 2));
    TR_TRY(check_input(g, in, 1, 4, d->dtype, "[expert, batch, capacity, embed]"));
    TR_TRY(check_input(g, in, 2, 3, TR_I32, choices_text));
    if (d->rank != 3 || d->dims[2] != y->dims[3])
        return tr_dims_differ(g, "tokens and rooms", d, y);
    TR_TRY(check_sequences(g, y, d));
    TR_TRY(tr_dims_match(g, "tokens and slots", d, 0, slots, 0, 2));
    out[0] = *slots;
    out[0].dtype = TR_F32;
    *n_out = 1;
    return NULL;
}

static const char *rule_collect_grad(const tr_graph *g, tr_node n)
{
    return is_together(g, tr_in(g, n, 1), tr_in(g, n, 2)) ? "[b][t]d,[e][r][c]d,[b][t][k]->[b][t][k]"
                                                          : "b[t]d,[e]b[c]d,b[t][k]->b[t][k]";
}

const tr_op_row tr_row_collect_grad = {.min_in = 3, .max_in = 3, .infer = infer_collect_grad, .no_gradient = once_only,
                                       .sharding_of = rule_collect_grad, .cost = cost_move};

/* expert_linear --------------------------------------------------------------------------------------- */

static tr_error *check_rooms(const tr_graph *g, const tr_value *in)
{
    TR_TRY(check_input(g, in, 0, 4, shape_in(g, in, 0)->dtype, "[expert, batch, capacity, features]"));
    TR_TRY(check_input(g, in, 2, 2, TR_I32, "filled [batch, expert]"));
    TR_TRY(check_sequences(g, shape_in(g, in, 0), shape_in(g, in, 2)));
    if (shape_in(g, in, 0)->dims[0] == 1) /* joined */
        return NULL;
    return tr_dims_match(g, "rooms and their fillings", shape_in(g, in, 0), 0, shape_in(g, in, 2), 1, 1);
}

/* Who shares a room: nobody, the experts of a sequence, those of all sequences. */
enum { APART, JOINED, TOGETHER, SHARINGS };
static int sharing(const tr_graph *g, tr_node n)
{
    if (is_together(g, tr_in(g, n, 0), tr_in(g, n, 2)))
        return TOGETHER;
    return tr_shape_at(g, tr_in(g, n, 0))->dims[0] != tr_shape_at(g, tr_in(g, n, 2))->dims[1] ? JOINED : APART;
}

TR_INFER(infer_expert_linear)
{
    (void)n_in;
    TR_TRY(check_rooms(g, in));
    TR_TRY(tr_floats_only(g, in, 2));
    const tr_shape *x = shape_in(g, in, 0), *w = shape_in(g, in, 1);
    bool transposed = attrs[TR_EXPERT_TRANSPOSED].i;
    if (w->rank != 3 || w->dtype != x->dtype || w->dims[0] != shape_in(g, in, 2)->dims[1] || w->dims[transposed ? 2 : 1] != x->dims[3])
        return tr_dims_differ(g, "each expert's weight must contract the last dim", x, w);
    out[0] = *x;
    out[0].dims[3] = w->dims[transposed ? 1 : 2];
    out[0].names[3] = w->names[transposed ? 1 : 2];
    *n_out = 1;
    return NULL;
}

static void grad_expert_linear(tr_graph *g, tr_node n, const tr_value *d_out, tr_value *d_in)
{
    bool transposed = g->nodes[n].attrs[TR_EXPERT_TRANSPOSED].i;
    tr_value x = tr_in(g, n, 0), dy = d_out[0], filled = tr_in(g, n, 2);
    const tr_value in[] = {dy, tr_in(g, n, 1), filled};
    d_in[0] = emit(g, TR_OP_expert_linear, in, 3,
                   (tr_attr[TR_MAX_ATTRS]){[TR_EXPERT_TRANSPOSED] = {.i = !transposed}});
    const tr_value dw[] = {transposed ? dy : x, transposed ? x : dy, filled, 0};
    d_in[1] = emit(g, TR_OP_expert_linear_dw, dw, 4, NULL);
}

/* Of a full room: what is filled is known when it runs. */
static void cost_expert(const tr_graph *g, tr_node n, tr_cost *cost)
{
    bool dw = g->nodes[n].op == TR_OP_expert_linear_dw;
    const tr_shape *y = tr_shape_at(g, dw ? tr_in(g, n, 1) : tr_out(g, n, 0));
    cost->flops = 2.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0))) * (double)y->dims[3];
}

static const char *rule_expert_linear(const tr_graph *g, tr_node n)
{
    static const char *const rules[SHARINGS][2] = {
        [APART] = {"eb[c]k,ekn,be->eb[c]n", "eb[c]k,enk,be->eb[c]n"},
        [JOINED] = {"[x]b[c]k,[e]kn,b[e]->[x]b[c]n", "[x]b[c]k,[e]nk,b[e]->[x]b[c]n"},
        [TOGETHER] = {"[x][r][c]k,[e]kn,[b][e]->[x][r][c]n", "[x][r][c]k,[e]nk,[b][e]->[x][r][c]n"}};
    return rules[sharing(g, n)][g->nodes[n].attrs[TR_EXPERT_TRANSPOSED].i != 0];
}

const tr_op_row tr_row_expert_linear = {
    .min_in = 3, .max_in = 3, .attrs = {{"transposed", TR_ATTR_BOOL}}, .infer = infer_expert_linear,
    .gradient = grad_expert_linear, .sharding_of = rule_expert_linear, .cost = cost_expert};

TR_INFER(infer_expert_linear_dw)
{
    (void)attrs;
    TR_TRY(check_rooms(g, in));
    TR_TRY(tr_floats_only(g, in, 2));
    const tr_shape *x = shape_in(g, in, 0), *dy = shape_in(g, in, 1), *filled = shape_in(g, in, 2);
    if (dy->rank != 4 || dy->dtype != x->dtype)
        return tr_dims_differ(g, "input and gradient must have the same rows", x, dy);
    TR_TRY(tr_dims_match(g, "input and gradient must have the same rows", x, 0, dy, 0, 3));
    out[0] = (tr_shape){.dtype = TR_F32, .rank = 3, .dims = {filled->dims[1], x->dims[3], dy->dims[3]},
                        .names = {filled->names[1], x->names[3], dy->names[3]}};
    if (has(in, n_in, 3))
        TR_TRY(tr_dims_match(g, "acc", shape_in(g, in, 3), 0, &out[0], 0, 3));
    *n_out = 1;
    return NULL;
}

static const char *rule_expert_linear_dw(const tr_graph *g, tr_node n)
{
    static const char *const rules[SHARINGS] = {[APART] = "eb[c]k,eb[c]n,be,ekn->ekn",
                                                [JOINED] = "[x]b[c]k,[x]b[c]n,b[e],[e]kn->[e]kn",
                                                [TOGETHER] = "[x][r][c]k,[x][r][c]n,[b][e],[e]kn->[e]kn"};
    return rules[sharing(g, n)];
}

const tr_op_row tr_row_expert_linear_dw = {
    .min_in = 3, .max_in = 4, .flags = TR_OP_ACCUMULATES | TR_OP_WEIGHT, .infer = infer_expert_linear_dw,
    .no_gradient = once_only, .sharding_of = rule_expert_linear_dw, .cost = cost_expert};

/* For models ------------------------------------------------------------------------------------------ */

tr_routing tr_route(tr_graph *g, tr_value logits, const tr_route_options *o)
{
    tr_routing r = {0};
    if (g->error || !logits)
        return r;
    r.experts = tr_size(g, logits, -1);
    int64_t tokens = tr_size(g, logits, 1), room = tokens;
    if (o->capacity > 0)
        room = o->capacity;
    else if (o->capacity_factor > 0)
        room = (int64_t)((double)(o->k * tokens) * o->capacity_factor / (double)TR_MAX(r.experts, 1) + 0.999999);
    r.capacity = TR_MAX(TR_MIN(room, tokens), 1);
    const tr_attr attrs[TR_MAX_ATTRS] = {[TR_ROUTE_K] = {.i = o->k},
                                         [TR_ROUTE_CAPACITY] = {.i = r.capacity},
                                         [TR_ROUTE_NORMALISED] = {.i = o->normalised},
                                         [TR_ROUTE_RANDOM] = {.i = o->random},
                                         [TR_ROUTE_STREAM] = {.i = o->random ? g->streams++ : 0}};
    tr_node n = tr_graph_node(g, TR_OP_route, &logits, 1, attrs);
    r.weights = tr_out(g, n, 0);
    r.choices = tr_out(g, n, 1);
    r.slots = tr_out(g, n, 2);
    r.filled = tr_out(g, n, 3);
    const tr_value in[] = {logits, r.choices};
    tr_node losses = tr_graph_node(g, TR_OP_route_loss, in, 2, (tr_attr[TR_MAX_ATTRS]){{.i = o->balance_all}});
    r.balance = tr_out(g, losses, 0);
    r.z = tr_out(g, losses, 1);
    return r;
}

tr_value tr_dispatch(tr_graph *g, tr_value x, const tr_routing *r)
{
    const tr_value in[] = {x, r->slots, 0};
    tr_value y = emit(g, TR_OP_dispatch, in, 3,
                      (tr_attr[TR_MAX_ATTRS]){[TR_DISPATCH_EXPERTS] = {.i = r->experts},
                                              [TR_DISPATCH_CAPACITY] = {.i = r->capacity}});
    if (y)
        g->values[y].shape.names[0] = tr_graph_dim(g, "expert");
    return y;
}

tr_value tr_expert_linear(tr_graph *g, tr_value x, tr_value w, bool transposed, const tr_routing *r)
{
    const tr_value in[] = {x, w, r->filled};
    return emit(g, TR_OP_expert_linear, in, 3, (tr_attr[TR_MAX_ATTRS]){[TR_EXPERT_TRANSPOSED] = {.i = transposed}});
}

tr_value tr_collect(tr_graph *g, tr_value y, const tr_routing *r)
{
    const tr_value in[] = {y, r->slots, r->weights};
    return emit(g, TR_OP_collect, in, 3, NULL);
}
