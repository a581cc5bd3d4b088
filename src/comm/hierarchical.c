/* Sums and gathers where several ranks share a host: what crosses the network is sent once a host, not once a rank.
 *
 * For groups of H hosts with m members each, host by host (tr_comm_grid); otherwise the direct forms are used. Member
 * j of a host keeps company with member j of every other host, its column. Four stages, of which all_reduce has all,
 * reduce_scatter the first two, all_gather the last two:
 *
 *     A  within the host   what others have of column j goes to j, which adds it up, in the order of the ranks
 *     B  along the column  these sums go to whose part they are, who adds them up, in the order of the hosts
 *     C  along the column  everybody's part goes to its column
 *     D  within the host   everybody's column goes to the others
 *
 *     host 0: 0 1, host 1: 2 3, parts p0..p3     A  0->1: p1 p3   1->0: p0 p2   2->3: p1 p3   3->2: p0 p2
 *     (4 members, 2 hosts)                       B  0->2: p2   2->0: p0   1->3: p3   3->1: p1
 *                                                C  0->2: p0   2->0: p2   1->3: p1   3->1: p3
 *                                                D  0->1: p0 p2   1->0: p1 p3   ...
 *
 * Segment s of every part is in stage A in round s, in B in s+2, in C in s+4, in D in s+6, so all stages are busy at
 * once. Order of a sum: within each host by rank, then by host: as deterministic as the direct form, and the same bits
 * however the buffer is cut, but not those of another arrangement of hosts. With a narrow wire each host's sum is
 * rounded once more, and so it is with bf16 elements.
 *
 * A buffer of no more than tr_comm_options.direct_bytes goes directly, since four stages one after the other take longer
 * than a few bytes do; the sums are formed in the order above all the same (tr_reduce_by_hosts), so that the bits are those
 * of this arrangement of hosts, however a buffer is cut.
 *
 * Bytes: A, D (m-1) H parts, B, C H-1 parts, in sum n-1 parts a direction, as in the direct form (equal for sums of any
 * parts: B - part i; a gather sends (H-1) part i + (m-1) column i). Over the network of a host go 2 (H-1)/H B, where the
 * direct all_reduce has m times that. Cost: 2 (m-1) H alpha of the host, 2 (H-1) alpha of the network.
 *
 * Invariants: scratch of a segment is used again only by a round that is posted after the sends of the last reader are
 * over (transfer.h): sums of stage A are kept for 4 segments, packed columns for 6.
 */
#include "comm/transfer.h"

enum { A, B, C, D, STAGES };
enum { PARTIALS = 4, COLUMNS = 6, LEAST_SEGMENT = 64 };

typedef struct layout {
    int32_t hosts, here, host, place; /* me: host * here + place */
    int64_t outer;
    const int64_t *offsets;
    int64_t wire_bytes;
    bool lends;
} layout;

static layout layout_of(const tr_transfer *t)
{
    bool reduces = t->hierarchy.scatters;
    int32_t here = t->hierarchy.here;
    return (layout){t->n / here, here, t->me / here, t->me % here, reduces ? t->in_outer : t->out_outer,
                    reduces ? t->in_offsets : t->out_offsets, t->packs ? 2 : t->element_bytes, t->transport->ops->lends};
}

/* The segment that a stage has in a round; -1: none. */
static int64_t segment_in(const tr_transfer *t, int stage, int64_t round)
{
    int64_t segment = round - 2 * (t->hierarchy.scatters ? stage : stage - C);
    bool has = stage < C ? t->hierarchy.scatters : t->hierarchy.spreads;
    return has && segment >= 0 && segment < tr_segments_count(&t->segments) ? segment : -1;
}

/* Slots: each a segment of wire elements. Regions follow one another in this order. */
typedef enum region { RECEIVED_A, PACKED_A, PARTIAL, RECEIVED_B, COLUMN, RECEIVED_D, ROOM, REGIONS } region;

static int64_t slots_of(region which, int32_t hosts, int32_t here, bool scatters, bool spreads, bool packs, bool lends)
{
    int64_t within = 2 * (here - 1) * hosts;
    switch (which) {
    case RECEIVED_A:
        return scatters && !lends ? within : 0;
    case PACKED_A:
        return scatters && packs ? within : 0;
    case PARTIAL:
        return scatters ? PARTIALS * hosts : 0;
    case RECEIVED_B:
        return scatters && !lends ? 2 * (hosts - 1) : 0;
    case COLUMN:
        return scatters && spreads && packs ? COLUMNS * hosts : 0;
    case RECEIVED_D:
        return scatters && spreads && packs && !lends ? within : 0;
    default: /* f32 of one segment that only its rounded form is wanted of */
        return scatters && packs ? 2 : 0;
    }
}

static char *slot(const tr_transfer *t, region which, int64_t index)
{
    layout l = layout_of(t);
    for (region r = 0; r < which; r++)
        index += slots_of(r, l.hosts, l.here, t->hierarchy.scatters, t->hierarchy.spreads, t->packs, l.lends);
    return t->scratch + index * t->segments.most_bytes;
}

/* A segment of part k of a whole buffer. */
static tr_block part_of(const tr_transfer *t, const layout *l, const char *buffer, int32_t k, int64_t segment)
{
    tr_block part = tr_cut_block(buffer, l->outer, l->offsets, t->element_bytes, t->n, k);
    return tr_segments_at(&t->segments, part, t->element_bytes, segment);
}

/* A segment of my part, which is by itself. */
static tr_block own_of(const tr_transfer *t, const layout *l, const char *buffer, int64_t segment)
{
    tr_block part = tr_part_block(buffer, l->outer, l->offsets, t->element_bytes, t->me);
    return tr_segments_at(&t->segments, part, t->element_bytes, segment);
}

/* The same elements on the wire, close together, at `bytes`. */
static tr_block on_wire(const tr_transfer *t, const layout *l, tr_block like, char *bytes)
{
    int64_t row = like.row_bytes / t->element_bytes * l->wire_bytes;
    return (tr_block){bytes, like.rows, row, row};
}

static tr_block packed(const tr_transfer *t, const layout *l, tr_block from, char *to)
{
    tr_block made = on_wire(t, l, from, to);
    for (int64_t r = 0; r < from.rows; r++)
        tr_pack_bf16((const float *)(from.bytes + r * from.stride), from.row_bytes / 4,
                     (uint16_t *)(made.bytes + r * made.stride));
    return made;
}

static void unpack(tr_block from, tr_block to)
{
    for (int64_t r = 0; r < to.rows; r++)
        tr_unpack_bf16((const uint16_t *)(from.bytes + r * from.stride), to.row_bytes / 4, (float *)(to.bytes + r * to.stride));
}

/* The receives of a stage in a round, in the order of their posting. NULL for what is empty, which was not posted. */
static const tr_request *next_received(const tr_round *w, int stage, tr_block want, int32_t *at)
{
    if (tr_block_bytes(&want) == 0)
        return NULL;
    while (w->receives[*at].phase != stage)
        ++*at;
    return &w->receives[(*at)++];
}

/* A and D: with each other member of the host, one message for each host's part of a column. */
static void post_within(tr_transfer *t, const layout *l, int stage, int64_t round, int64_t segment)
{
    bool gathers = stage == D;
    for (int32_t s = 1; s < l->here; s++) {
        int32_t to = (l->place + s) % l->here, from = (l->place - s + l->here) % l->here;
        for (int32_t h = 0; h < l->hosts; h++) {
            int64_t place = (round % 2 * (l->here - 1) + s - 1) * l->hosts + h;
            tr_block leaves = part_of(t, l, gathers ? t->out : t->in, h * l->here + (gathers ? l->place : to), segment);
            if (t->packs)
                leaves = gathers ? on_wire(t, l, leaves, slot(t, COLUMN, segment % COLUMNS * l->hosts + h))
                                 : packed(t, l, leaves, slot(t, PACKED_A, place));
            tr_transfer_send(t, round, l->host * l->here + to, stage, leaves);
            tr_block lands = part_of(t, l, gathers ? t->out : t->in, h * l->here + (gathers ? from : l->place), segment);
            if (!gathers || t->packs)
                lands = on_wire(t, l, lands, l->lends ? NULL : slot(t, gathers ? RECEIVED_D : RECEIVED_A, place));
            tr_transfer_receive(t, round, l->host * l->here + from, stage, lands, !gathers || t->packs);
        }
    }
}

static void post_column(tr_transfer *t, const layout *l, int stage, int64_t round, int64_t segment)
{
    bool gathers = stage == C;
    tr_block mine = t->hierarchy.scatters ? part_of(t, l, t->in, t->me, segment) : own_of(t, l, t->in, segment);
    if (gathers && t->packs)
        mine = on_wire(t, l, mine, slot(t, COLUMN, segment % COLUMNS * l->hosts + l->host));
    else if (gathers && t->hierarchy.scatters)
        mine = part_of(t, l, t->out, t->me, segment);
    for (int32_t s = 1; s < l->hosts; s++) {
        int32_t to = (l->host + s) % l->hosts, from = (l->host - s + l->hosts) % l->hosts;
        tr_block leaves = mine, lands;
        if (!gathers) {
            leaves = on_wire(t, l, part_of(t, l, t->in, to * l->here + l->place, segment),
                             slot(t, PARTIAL, segment % PARTIALS * l->hosts + to));
            lands = on_wire(t, l, mine, l->lends ? NULL : slot(t, RECEIVED_B, round % 2 * (l->hosts - 1) + s - 1));
        } else {
            lands = part_of(t, l, t->out, from * l->here + l->place, segment);
            if (t->packs)
                lands = on_wire(t, l, lands, slot(t, COLUMN, segment % COLUMNS * l->hosts + from));
        }
        tr_transfer_send(t, round, to * l->here + l->place, stage, leaves);
        tr_transfer_receive(t, round, from * l->here + l->place, stage, lands, !gathers);
    }
}

/* Of every host's part of my column: what the members of this host have, added up. */
static void finish_a(tr_transfer *t, const layout *l, const tr_round *w, int64_t segment)
{
    tr_block *source = tr_alloc((size_t)(l->here * l->hosts) * sizeof *source);
    tr_form *form = tr_alloc((size_t)l->here * sizeof *form);
    int32_t at = 0;
    for (int32_t s = 1; s < l->here; s++) {
        int32_t from = (l->place - s + l->here) % l->here;
        form[from] = t->packs ? TR_FORM_BF16 : TR_FORM_AS_IS;
        for (int32_t h = 0; h < l->hosts; h++) {
            const tr_request *r = next_received(w, A, part_of(t, l, t->in, h * l->here + l->place, segment), &at);
            source[h * l->here + from] = r ? r->data : (tr_block){0};
        }
    }
    form[l->place] = t->packs ? TR_FORM_ROUND : TR_FORM_AS_IS;
    for (int32_t h = 0; h < l->hosts; h++) {
        tr_block mine = part_of(t, l, t->in, h * l->here + l->place, segment);
        tr_block partial = on_wire(t, l, mine, slot(t, PARTIAL, segment % PARTIALS * l->hosts + h));
        source[h * l->here + l->place] = mine;
        if (t->packs)
            tr_blocks_reduce(t, l->here, l->here, &source[h * l->here], form,
                             (tr_block){slot(t, ROOM, 0), mine.rows, mine.row_bytes, mine.row_bytes}, (uint16_t *)partial.bytes);
        else
            tr_blocks_reduce(t, l->here, l->here, &source[h * l->here], form, partial, NULL);
    }
    free(source);
    free(form);
}

/* My part, over the hosts. */
static void finish_b(tr_transfer *t, const layout *l, const tr_round *w, int64_t segment)
{
    tr_block *source = tr_alloc((size_t)l->hosts * sizeof *source);
    tr_form *form = tr_alloc((size_t)l->hosts * sizeof *form);
    tr_block mine = part_of(t, l, t->in, t->me, segment);
    int32_t at = 0;
    for (int32_t s = 0; s < l->hosts; s++) {
        int32_t h = (l->host - s + l->hosts) % l->hosts;
        const tr_request *r = s ? next_received(w, B, mine, &at) : NULL;
        source[h] = r ? r->data : on_wire(t, l, mine, slot(t, PARTIAL, segment % PARTIALS * l->hosts + h));
        form[h] = t->packs ? TR_FORM_BF16 : TR_FORM_AS_IS;
    }
    bool spreads = t->hierarchy.spreads;
    tr_block result = spreads ? part_of(t, l, t->out, t->me, segment) : own_of(t, l, t->out, segment);
    tr_blocks_reduce(t, l->hosts, l->hosts, source, form, result,
                     spreads && t->packs ? (uint16_t *)slot(t, COLUMN, segment % COLUMNS * l->hosts + l->host) : NULL);
    free(source);
    free(form);
}

static void unpack_column(tr_transfer *t, const layout *l, int64_t segment)
{
    for (int32_t h = 0; h < l->hosts; h++) {
        tr_block to = part_of(t, l, t->out, h * l->here + l->place, segment);
        if (h != l->host)
            unpack(on_wire(t, l, to, slot(t, COLUMN, segment % COLUMNS * l->hosts + h)), to);
    }
}

static void unpack_others(tr_transfer *t, const layout *l, const tr_round *w, int64_t segment)
{
    int32_t at = 0;
    for (int32_t s = 1; s < l->here; s++)
        for (int32_t h = 0; h < l->hosts; h++) {
            tr_block to = part_of(t, l, t->out, h * l->here + (l->place - s + l->here) % l->here, segment);
            const tr_request *r = next_received(w, D, to, &at);
            if (r)
                unpack(r->data, to);
        }
}

static void post(tr_transfer *t, int64_t round)
{
    layout l = layout_of(t);
    if (round == 0 && !t->hierarchy.scatters) {
        tr_block own = tr_cut_block(t->out, l.outer, l.offsets, t->element_bytes, t->n, t->me);
        tr_block mine = tr_part_block(t->in, l.outer, l.offsets, t->element_bytes, t->me);
        if (own.bytes != mine.bytes)
            tr_block_copy(&own, &mine);
    }
    for (int stage = A; stage < STAGES; stage++) {
        int64_t segment = segment_in(t, stage, round);
        if (segment >= 0 && (stage == A || stage == D))
            post_within(t, &l, stage, round, segment);
        else if (segment >= 0)
            post_column(t, &l, stage, round, segment);
    }
}

static void finish(tr_transfer *t, int64_t round)
{
    layout l = layout_of(t);
    const tr_round *w = &t->window[round % 2];
    int64_t segment;
    if ((segment = segment_in(t, A, round)) >= 0)
        finish_a(t, &l, w, segment);
    if ((segment = segment_in(t, B, round)) >= 0)
        finish_b(t, &l, w, segment);
    if (t->packs && (segment = segment_in(t, C, round)) >= 0)
        unpack_column(t, &l, segment);
    if (t->packs && (segment = segment_in(t, D, round)) >= 0)
        unpack_others(t, &l, w, segment);
}

static const tr_transfer_kind all_reduce = {"all_reduce", TR_TRAFFIC_ALL_REDUCE, post, finish};
static const tr_transfer_kind reduce_scatter = {"reduce_scatter", TR_TRAFFIC_REDUCE_SCATTER, post, finish};
static const tr_transfer_kind all_gather = {"all_gather", TR_TRAFFIC_ALL_GATHER, post, finish};

static int64_t all_slots(int32_t hosts, int32_t here, bool scatters, bool spreads, bool packs, bool lends)
{
    int64_t count = 0;
    for (region r = 0; r < REGIONS; r++)
        count += slots_of(r, hosts, here, scatters, spreads, packs, lends);
    return count;
}

/* Segments so small that the scratch is no more than the direct form's over processes: so plans, which do not know
 * where ranks will be, hold. Each slot has a line of cache at least (tr_hierarchy_least_scratch). */
static void plan(tr_transfer *t, bool scatters, bool spreads)
{
    layout l = layout_of(t);
    int64_t most = 0, limit = tr_comm_segment_bytes(t->comm, t->n), rows = TR_MAX(l.outer, 1);
    for (int32_t k = 0; k < t->n; k++)
        most = TR_MAX(most, l.offsets[k + 1] - l.offsets[k]);
    int64_t slots = all_slots(l.hosts, l.here, scatters, spreads, t->packs, l.lends);
    if (slots > 0) {
        int64_t direct = 2 * (t->n - 1) * (1 + t->packs + (spreads && t->packs));
        limit = TR_MIN(limit, most * rows * l.wire_bytes) * direct / slots / LEAST_SEGMENT * LEAST_SEGMENT;
    }
    tr_exchange_scratch(l.outer, most, l.wire_bytes, TR_MAX(limit, LEAST_SEGMENT), t->packs, false, t->n, &t->segments);
    t->scratch_bytes = slots * t->segments.most_bytes;
}

int64_t tr_hierarchy_least_scratch(int32_t n)
{
    enum { MOST_SLOTS = 16 }; /* a member, all regions together: hosts are no more than half of them */
    return MOST_SLOTS * (int64_t)n * LEAST_SEGMENT;
}

bool tr_hierarchy_take(tr_transfer *t)
{
    int32_t here = tr_comm_members_here(t->comm, t->ranks, t->n);
    tr_traffic traffic = t->kind->traffic;
    bool scatters = traffic != TR_TRAFFIC_ALL_GATHER, spreads = traffic != TR_TRAFFIC_REDUCE_SCATTER;
    layout l = {.outer = scatters ? t->in_outer : t->out_outer, .offsets = scatters ? t->in_offsets : t->out_offsets};
    t->hierarchy.here = here;
    int64_t bytes = l.outer * l.offsets[t->n] * (scatters ? tr_dtype_bytes(t->wire) : t->element_bytes);
    if (here == t->n || bytes <= tr_comm_direct_bytes(t->comm))
        return false;
    t->hierarchy.scatters = scatters;
    t->hierarchy.spreads = spreads;
    t->packs = scatters && t->wire != t->dtype;
    t->kind = traffic == TR_TRAFFIC_ALL_REDUCE ? &all_reduce : scatters ? &reduce_scatter : &all_gather;
    plan(t, scatters, spreads);
    int64_t segments = tr_segments_count(&t->segments);
    t->rounds = segments + 2 * ((scatters + spreads) * 2 - 1);
    t->most_requests = (t->n - 1) * (scatters + spreads);
    return true;
}
