/* Attention whose sequence is cut over a ring of ranks (Liu et al. 2023): queries stay, keys and values go around.
 *
 *   for each part of the keys, the rank's own first:
 *       next k, next v = ring_shift(k, v)                       from the rank before; stands before what hides it
 *       o, lse = attention_part(q, k, v, o, lse)
 *
 *   gradient, the rank's own part last:
 *       next k, next v = ring_shift(k, v)
 *       dq, dk', dv' = attention_part_grad(do, o, lse, q, k, v, dq)
 *       dk, dv = ring_shift(dk + dk', dv + dv')                 travels on with the part that it belongs to
 *
 * After n - 1 steps a rank has met all keys, and what the others have added up for its own keys has come home. Parts
 * are dealt zig-zag (ir/part.h): of a part that is not the queries' own, half of the pairs are seen under a causal
 * mask, whoever looks. Bytes: a rank sends (n - 1) times its keys and values in the forward, as many in the backward,
 * and (n - 1) times their gradients, which are f32: rounding them at every rank would add up.
 *
 * Every rank has the same nodes, so that the order of the collectives is one.
 */
#include "passes/shard_move.h"

enum { PACKED = 3 }; /* query, key, value in one tensor, side by side in dim 2 */

typedef struct ring {
    sharder *s;
    int axis, parts, me;
    const tr_attr *attrs; /* of the node in the whole graph */
    int64_t queries, keys; /* in the whole */
} ring;

void shard_ring_places(const tr_rule *rule, place *want, int axis)
{
    for (int k = 0; k < rule->n_in + rule->n_out; k++) {
        int t = tr_rule_find(rule, k, 't'), s = tr_rule_find(rule, k, 's');
        want[k].at[axis] = (int8_t)(t >= 0 ? t : s >= 0 ? s : WHOLE);
        want[k].unit[axis] = 1;
    }
}

static int64_t part_of(const ring *r, int owner)
{
    return tr_part_dealt(r->keys, r->parts, owner, 1).count;
}

/* The rank whose keys are here after `steps` steps. */
static int owner_after(const ring *r, int steps)
{
    return (r->me - steps + r->parts) % r->parts;
}

/* A pair of tensors, k and v or their gradients, after `steps` steps. */
static void shift(const ring *r, int steps, const tr_value *from, tr_value *to)
{
    for (int i = 0; i < 2; i++)
        to[i] = tr_out(r->s->to,
                       tr_graph_node(r->s->to, TR_OP_ring_shift, &from[i], 1,
                                     (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = r->axis},
                                                             [TR_COLLECTIVE_DIM] = {.i = 1},
                                                             [TR_RING_COUNT] = {.i = part_of(r, owner_after(r, steps))}}), 0);
}

static tr_node attend(const ring *r, tr_op op, int steps, const tr_value *in, int n_in)
{
    tr_dealt q = tr_part_dealt(r->queries, r->parts, r->me, 1),
             k = tr_part_dealt(r->keys, r->parts, owner_after(r, steps), 1);
    tr_attr attrs[TR_MAX_ATTRS] = {[TR_PART_FIRST] = {.i = q.first},   [TR_PART_TURN] = {.i = q.turn},
                                   [TR_PART_JUMP] = {.i = q.jump},     [TR_PART_KEY_FIRST] = {.i = k.first},
                                   [TR_PART_KEY_TURN] = {.i = k.turn}, [TR_PART_KEY_JUMP] = {.i = k.jump},
                                   [TR_PART_ALL_KEYS] = {.i = r->keys}};
    for (int a = 0; a < TR_PART_FIRST; a++)
        attrs[a] = r->attrs[a];
    return tr_graph_node(r->s->to, op, in, n_in, attrs);
}

/* x[b, t, 3, h, e] -> [b, t, h, e] */
static tr_value unpack(sharder *s, tr_value x, int which)
{
    tr_value one = tr_out(s->to,
                          tr_graph_node(s->to, TR_OP_slice, &x, 1,
                                        (tr_attr[TR_MAX_ATTRS]){[TR_SLICE_DIM] = {.i = 2}, [TR_SLICE_FIRST] = {.i = which},
                                                                [TR_SLICE_COUNT] = {.i = 1}}), 0);
    if (!one)
        return 0;
    tr_shape shape = *tr_shape_at(s->to, one);
    shape.rank = 4;
    memmove(shape.dims + 2, shape.dims + 3, 2 * sizeof *shape.dims);
    memmove(shape.names + 2, shape.names + 3, 2 * sizeof *shape.names);
    return tr_graph_view(s->to, one, shape);
}

/* Three of [b, t, h, e] as x[b, t, 3, h, e]. */
static tr_value pack(sharder *s, const tr_value *parts, tr_value like)
{
    tr_shape shape = *tr_shape_at(s->to, like);
    tr_value in[PACKED];
    shape.dims[2] = 1;
    for (int i = 0; i < PACKED; i++)
        in[i] = tr_graph_view(s->to, parts[i], shape);
    return tr_out(s->to, tr_graph_node(s->to, TR_OP_concat, in, PACKED,
                                       (tr_attr[TR_MAX_ATTRS]){[TR_CONCAT_DIM] = {.i = 2}}), 0);
}

static tr_value as_activation(sharder *s, tr_value x, tr_dtype dtype)
{
    if (!x || tr_shape_at(s->to, x)->dtype == dtype)
        return x;
    return tr_out(s->to, tr_graph_node(s->to, TR_OP_cast, &x, 1,
                                       (tr_attr[TR_MAX_ATTRS]){[TR_CAST_DTYPE] = {.i = dtype}}), 0);
}

/* kv: this rank's own. */
static void forward(const ring *r, tr_value q, const tr_value *kv, tr_value *out)
{
    tr_value now[2] = {kv[0], kv[1]}, next[2];
    out[0] = out[1] = 0;
    for (int step = 0; step < r->parts; step++) {
        if (step + 1 < r->parts)
            shift(r, step + 1, now, next);
        const tr_value in[] = {q, now[0], now[1], out[0], out[1]};
        tr_node n = attend(r, TR_OP_attention_part, step, in, 5);
        for (int i = 0; i < 2; i++) {
            out[i] = tr_out(r->s->to, n, i);
            now[i] = next[i];
        }
    }
}

/* out: dq, dk, dv in f32. */
static void backward(const ring *r, const tr_value *given, tr_value q, const tr_value *kv, tr_value *out)
{
    tr_graph *g = r->s->to;
    tr_value now[2], next[2], home[2];
    out[0] = 0;
    shift(r, 1, kv, now);
    for (int step = 1; step <= r->parts; step++) {
        bool own = step == r->parts;
        if (step + 1 < r->parts)
            shift(r, step + 1, now, next);
        const tr_value in[] = {given[0], given[1], given[2], q, own ? kv[0] : now[0], own ? kv[1] : now[1], out[0]};
        tr_node n = attend(r, TR_OP_attention_part_grad, step, in, 7);
        out[0] = tr_out(g, n, 0);
        for (int i = 0; i < 2; i++) {
            out[1 + i] = tr_out(g, n, 1 + i);
            if (step > 1)
                out[1 + i] = tr_add(g, out[1 + i], home[i]);
            now[i] = next[i];
        }
        if (!own)
            shift(r, step + 1, out + 1, home);
    }
}

static tr_error *check(const sharder *s, tr_node n, int first, const ring *r)
{
    for (int k = first + 3; k < (int)s->from->nodes[n].n_in; k++)
        if (tr_in(s->from, n, k))
            return tr_error_new(TR_USER, "attention with a bias by distance or with segments cannot have its keys on a ring; "
                                         "use mesh.sequence_kind ulysses or megatron");
    if (r->keys < r->parts || r->queries < r->parts)
        return tr_error_new(TR_USER, "%lld queries and %lld keys cannot be shared by a ring of %d ranks; mesh.sequence can "
                                     "be at most %lld", (long long)r->queries, (long long)r->keys, r->parts,
                            (long long)TR_MIN(r->keys, r->queries));
    return NULL;
}

tr_error *shard_ring(sharder *s, tr_node n, int axis, const tr_value *in, tr_value *out)
{
    const tr_graph *g = s->from;
    bool back = g->nodes[n].op == TR_OP_attention_grad;
    int first = back ? 3 : 0;
    bool packed = !in[first + 1];
    const tr_axis *a = &s->how->axes[axis];
    ring r = {.s = s, .axis = axis, .parts = a->size, .me = a->index, .attrs = g->nodes[n].attrs};
    r.queries = tr_shape_at(g, tr_in(g, n, first))->dims[1];
    r.keys = tr_shape_at(g, tr_in(g, n, packed ? first : first + 1))->dims[1];
    TR_TRY(check(s, n, first, &r));
    tr_dtype dtype = tr_shape_at(s->to, in[first])->dtype;
    tr_value kv[2] = {in[first + 1], in[first + 2]};
    for (int i = 0; packed && i < 2; i++)
        kv[i] = unpack(s, in[first], 1 + i);
    if (!back) {
        forward(&r, in[0], kv, out);
        out[0] = as_activation(s, out[0], dtype);
        return tr_graph_error_take(s->to);
    }
    backward(&r, in, in[first], kv, out);
    for (int i = 0; i < 3; i++)
        out[i] = as_activation(s, out[i], dtype);
    if (packed)
        out[0] = pack(s, out, in[first]);
    return tr_graph_error_take(s->to);
}
