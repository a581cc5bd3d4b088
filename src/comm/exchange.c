/* The exchange that reduce_scatter and all_reduce share: everybody's part j goes to member j, which
 * reduces what it gets in the order of the ranks.
 *
 * Algorithm: direct exchange in segments. In step s member i sends to i+s and receives from i-s, so
 * that no member is everybody's target at once. All steps of a segment are posted together; the
 * next segment is on its way while one is reduced.
 *
 *     member      0            1            2            step 1: 0->1 1->2 2->0
 *     holds   a0 a1 a2     b0 b1 b2     c0 c1 c2         step 2: 0->2 1->0 2->1
 *     then    a0+b0+c0     a1+b1+c1     a2+b2+c2
 *
 * Why not a ring. It sends the same bytes, but passes on partial sums: an element's order of
 * summation would depend on where in the buffer it lies, bf16 on the wire would round n-1 times
 * instead of once, and each of n-1 steps would read and write the partial sum in memory. Here the
 * sum is formed once, in rank order, from n sources. What the ring has for itself is that it only
 * talks to neighbours.
 *
 * Cost of B bytes among n: (n-1) alpha + (n-1)/n B beta + B gamma; with a transport that lends,
 * nothing is copied: the sum is formed straight from the others' buffers. Scratch: 2 (n-1) segments
 * where data are received, and 2 (n-1) where they are packed to bf16.
 */
#include "comm/transfer.h"

#include <limits.h>

static tr_segments make_segments(int64_t outer, int64_t row_bytes, int64_t element_bytes,
                                 int64_t limit)
{
    tr_segments s = {outer, 1, 1, 0};
    limit = TR_MAX(limit, 64);
    if (row_bytes > limit) {
        s.row_groups = TR_MAX(outer, 1);
        s.pieces = (row_bytes + limit - 1) / limit;
    } else if (row_bytes > 0 && outer > 0) {
        int64_t rows = limit / row_bytes;
        s.row_groups = (outer + rows - 1) / rows;
    }
    int64_t columns = row_bytes / element_bytes;
    s.most_bytes = (outer + s.row_groups - 1) / s.row_groups *
                   ((columns + s.pieces - 1) / s.pieces) * element_bytes;
    s.most_bytes = (s.most_bytes + 63) / 64 * 64;
    return s;
}

int64_t tr_segments_count(const tr_segments *segments)
{
    return segments->row_groups * segments->pieces;
}

tr_block tr_segments_at(const tr_segments *segments, tr_block part, int64_t element_bytes,
                        int64_t index)
{
    int64_t row, rows, column, columns;
    tr_comm_part(segments->outer, segments->row_groups, index / segments->pieces, &row, &rows);
    tr_comm_part(part.row_bytes / element_bytes, segments->pieces, index % segments->pieces,
                 &column, &columns);
    part.bytes += row * part.stride + column * element_bytes;
    part.rows = rows;
    part.row_bytes = columns * element_bytes;
    return part;
}

static int64_t wire_bytes(const tr_transfer *t)
{
    return tr_dtype_bytes(t->wire);
}

int64_t tr_exchange_scratch(int64_t outer, int64_t most, int64_t wire, int64_t limit, bool packs, bool lends, int32_t n,
                            tr_segments *out)
{
    *out = make_segments(outer, most * wire, wire, packs || !lends ? limit : INT64_MAX);
    return 2 * (n - 1) * out->most_bytes * (packs + !lends);
}

int64_t tr_exchange_plan(tr_transfer *t)
{
    int64_t most = 0;
    for (int32_t k = 0; k < t->n; k++)
        most = TR_MAX(most, t->in_offsets[k + 1] - t->in_offsets[k]);
    TR_CHECK(t->wire == t->dtype || (t->dtype == TR_F32 && t->wire == TR_BF16),
             "%s on the wire for %s", tr_dtype_name(t->wire), tr_dtype_name(t->dtype));
    t->packs = t->wire != t->dtype;
    return tr_exchange_scratch(t->in_outer, most, wire_bytes(t), tr_comm_segment_bytes(t->comm, t->n), t->packs,
                               t->transport->ops->lends, t->n, &t->segments);
}

static char *slot(const tr_transfer *t, int64_t round, bool sending, int32_t step)
{
    bool lends = t->transport->ops->lends;
    int64_t kinds = t->packs + !lends, kind = sending || !t->packs ? 0 : 1;
    return t->scratch +
           (((round % 2) * kinds + kind) * (t->n - 1) + step - 1) * t->segments.most_bytes;
}

/* Rows of f32 to contiguous bf16. */
static tr_block pack(tr_block from, char *to)
{
    int64_t columns = from.row_bytes / 4;
    for (int64_t r = 0; r < from.rows; r++)
        tr_pack_bf16((const float *)(from.bytes + r * from.stride), columns,
                     (uint16_t *)to + r * columns);
    return (tr_block){to, from.rows, columns * 2, columns * 2};
}

void tr_exchange_post(tr_transfer *t, int64_t round, int64_t segment)
{
    tr_block mine = tr_cut_block(t->in, t->in_outer, t->in_offsets, t->element_bytes, t->n, t->me);
    mine = tr_segments_at(&t->segments, mine, t->element_bytes, segment);
    int64_t row_bytes = mine.row_bytes / t->element_bytes * wire_bytes(t);
    for (int32_t s = 1; s < t->n; s++) {
        int32_t to = (t->me + s) % t->n, from = (t->me - s + t->n) % t->n;
        tr_block block =
            tr_cut_block(t->in, t->in_outer, t->in_offsets, t->element_bytes, t->n, to);
        block = tr_segments_at(&t->segments, block, t->element_bytes, segment);
        if (t->packs)
            block = pack(block, slot(t, round, true, s));
        tr_transfer_send(t, round, to, 0, block);
        char *room = t->transport->ops->lends ? NULL : slot(t, round, false, s);
        tr_transfer_receive(t, round, from, 0, (tr_block){room, mine.rows, row_bytes, row_bytes},
                            true);
    }
}

void tr_blocks_reduce(const tr_transfer *t, int32_t n, int32_t here, const tr_block *source, const tr_form *form,
                      tr_block result, uint16_t *packed)
{
    const void **row = tr_alloc((size_t)n * sizeof *row);
    bool whole = result.stride == result.row_bytes;
    for (int32_t k = 0; k < n; k++)
        whole = whole && source[k].stride == source[k].row_bytes;
    int64_t rows = whole ? 1 : result.rows, columns = (whole ? result.rows : 1) * result.row_bytes / t->element_bytes;
    for (int64_t r = 0; r < rows && columns > 0; r++) {
        for (int32_t k = 0; k < n; k++)
            row[k] = source[k].bytes + r * source[k].stride;
        tr_reduce_by_hosts(t->reduction, t->dtype, n, here, row, form, columns, result.bytes + r * result.stride,
                           packed ? packed + r * columns : NULL);
    }
    free(row);
}

void tr_exchange_finish(tr_transfer *t, int64_t round, int64_t segment, tr_block result,
                        uint16_t *packed)
{
    tr_block mine = tr_cut_block(t->in, t->in_outer, t->in_offsets, t->element_bytes, t->n, t->me);
    mine = tr_segments_at(&t->segments, mine, t->element_bytes, segment);
    if (mine.rows == 0 || mine.row_bytes == 0)
        return;
    tr_block *source = tr_alloc((size_t)t->n * sizeof *source);
    tr_form *form = tr_alloc((size_t)t->n * sizeof *form);
    tr_round *w = &t->window[round % 2];
    source[t->me] = mine;
    form[t->me] = t->packs ? TR_FORM_ROUND : TR_FORM_AS_IS;
    for (int32_t i = 0; i < w->receive_count; i++)
        if (w->receives[i].phase == 0) {
            source[w->receives[i].index] = w->receives[i].data;
            form[w->receives[i].index] = t->packs ? TR_FORM_BF16 : TR_FORM_AS_IS;
        }
    tr_blocks_reduce(t, t->n, t->hierarchy.here, source, form, result, t->packs ? packed : NULL);
    free(source);
    free(form);
}
