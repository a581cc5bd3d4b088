/* The loss with its vocabulary cut over ranks (Shoeybi et al. 2019, section 3): each rank has a part of the table
 * and the hidden states of all its tokens.
 *
 *   lse, goal, total = cross_entropy_part(x, w, targets - first, bias)       of this rank's words
 *   top = the largest lse over the ranks                        [tokens]
 *   stats = sum over the ranks of (exp(lse - top), goal, total) [3, tokens], total with label smoothing only
 *   loss, count, lse = cross_entropy_join(stats, top, targets)
 *
 * so that three or four numbers a token travel and never a logit. The gradient takes lse as it is and makes the logits anew,
 * a chunk at a time: dw is this rank's words', dx a summand. On axes that do not cut the table, tokens may be cut.
 */
#include "passes/shard_move.h"

static tr_value over_ranks(sharder *s, tr_value x, const place *table, bool largest)
{
    for (int a = 0; a < s->how->n_axes; a++)
        if (table->at[a] == 0)
            x = tr_out(s->to,
                       tr_graph_node(s->to, TR_OP_all_reduce, &x, 1,
                                     (tr_attr[TR_MAX_ATTRS]){[TR_COLLECTIVE_AXIS] = {.i = a},
                                                             [TR_REDUCE_LARGEST] = {.i = largest}}), 0);
    return x;
}

/* The node cross_entropy_join, from the moved operands x, w, targets of node n; its lse is noted. */
static tr_node join(sharder *s, tr_node n, const tr_value *in, const place *want, const tr_attr *attrs)
{
    tr_value table = tr_in(s->from, n, 1), local = shard_local_ids(s, in[2], table, &want[1]);
    const tr_value part_in[] = {in[0], in[1], local, in[3]};
    tr_node part = tr_graph_node(s->to, TR_OP_cross_entropy_part, part_in, 4, attrs);
    tr_value lse = tr_out(s->to, part, 0), top = over_ranks(s, lse, &want[1], true);
    const tr_value rebase_in[] = {lse, tr_out(s->to, part, 1), top, tr_out(s->to, part, 2)};
    tr_value stats = tr_out(s->to, tr_graph_node(s->to, TR_OP_cross_entropy_rebase, rebase_in, 4, NULL), 0);
    const tr_value join_in[] = {over_ranks(s, stats, &want[1], false), top, in[2]};
    tr_node made = tr_graph_node(s->to, TR_OP_cross_entropy_join, join_in, 3, attrs);
    tr_push(s->losses, s->n_losses, s->losses_room) =
        (struct loss_statistics){{tr_in(s->from, n, 0), table, tr_in(s->from, n, 2), tr_in(s->from, n, 3)}, want[2],
                                 tr_out(s->to, made, 2)};
    return made;
}

/* Of the same operands in the same places; 0: not made yet. */
static tr_value find_lse(const sharder *s, tr_node n, const place *tokens)
{
    for (uint32_t i = 0; i < s->n_losses; i++) {
        bool found = shard_same_place(s, &s->losses[i].tokens, tokens);
        for (int k = 0; k < 4; k++)
            found = found && s->losses[i].in[k] == tr_in(s->from, n, k);
        if (found)
            return s->losses[i].lse;
    }
    return 0;
}

tr_node shard_loss(sharder *s, tr_node n, const tr_value *in, place *want)
{
    tr_attr attrs[TR_MAX_ATTRS];
    memcpy(attrs, s->from->nodes[n].attrs, sizeof attrs);
    attrs[TR_LOSS_VOCAB].i = tr_shape_at(s->from, tr_in(s->from, n, 1))->dims[0];
    if (s->from->nodes[n].op == TR_OP_cross_entropy) {
        int outputs = (int)s->from->nodes[n].n_in;
        for (int a = 0; a < s->how->n_axes; a++)
            if (want[1].at[a] == 0)
                want[outputs].at[a] = want[outputs + 1].at[a] = WHOLE;
        return join(s, n, in, want, attrs);
    }
    tr_value lse = find_lse(s, n, &want[2]);
    if (!lse)
        lse = tr_out(s->to, join(s, n, in, want, attrs), 2);
    const tr_value grad_in[] = {in[0], in[1], shard_local_ids(s, in[2], tr_in(s->from, n, 1), &want[1]),
                                lse, in[3], in[4], in[5]};
    return tr_graph_node(s->to, TR_OP_cross_entropy_part_grad, grad_in, 7, attrs);
}
