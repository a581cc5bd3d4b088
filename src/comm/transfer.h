/* Inside of an operation: what a collective's file sees of the engine (comm.c).
 *
 * An operation is a sequence of rounds. A round posts sends and receives, and when all its receives
 * are ready, finishes: local work on what has come. Two rounds are in flight: round k is posted
 * once round k-2 has finished and its sends are over, so post(k) may use what finish(k-2) made, and
 * scratch slots alternate by k % 2. Nothing of a round waits for its own sends, which is why rounds
 * cannot deadlock: what a peer needs from here was posted before anything waited.
 */
#pragma once
#include "base/memory.h"
#include "comm/comm.h"
#include "comm/transport.h"

typedef struct tr_transfer tr_transfer;

typedef struct tr_transfer_kind {
    const char *name;
    tr_traffic traffic;
    void (*post)(tr_transfer *t, int64_t round);
    void (*finish)(tr_transfer *t, int64_t round); /* may be NULL */
} tr_transfer_kind;

typedef struct tr_round {
    tr_request *sends, *receives;
    int32_t send_count, receive_count;
    int32_t sends_over; /* so many from the front */
    int32_t receives_ready;
} tr_round;

/* How the part of one member, [outer, part], is cut into segments: `row_groups` groups of rows,
 * each of them in `pieces` column ranges. The same numbers for all members. */
typedef struct tr_segments {
    int64_t outer, row_groups, pieces;
    int64_t most_bytes; /* of one segment, in wire elements */
} tr_segments;

struct tr_transfer {
    const tr_transfer_kind *kind;
    tr_comm *comm;
    tr_transport *transport;
    int32_t n, me;
    int32_t *ranks; /* [n] */
    int64_t *tags;  /* [n]: of this operation, with each member */
    /* What was asked for; each kind uses what it needs. */
    const char *in;
    char *out;
    int64_t in_outer, *in_offsets;   /* [n + 1], in elements; or NULL */
    int64_t out_outer, *out_offsets; /* the same for `out` */
    int64_t element_bytes;
    tr_dtype dtype, wire;
    tr_reduction reduction;
    int32_t root;
    tr_channel channel;
    tr_block block; /* send, receive */
    char token[2];  /* barrier */

    int64_t rounds, posted, finished;
    int32_t most_requests; /* sends in one round; as many receives */
    tr_round window[2];
    struct {
        int32_t here; /* members on one host; n: as many as there are, or they are not spread evenly */
        bool scatters, spreads;
    } hierarchy; /* hierarchical.c */
    tr_segments segments;
    bool packs;    /* the wire has another element type than the buffer */
    char *scratch; /* of the comm's pool */
    int64_t scratch_bytes;

    bool admitted;     /* the driver's */
    bool done, failed; /* under the comm's lock */
    double over_s;
    struct tr_transfer *next;
};

/* A new operation with the group copied. Then the collective fills in the rest. */
tr_transfer *tr_transfer_new(tr_comm *comm, const tr_group *group, const tr_transfer_kind *kind);
/* Allocates what rounds and scratch_bytes ask for and queues it. `background`: wakes the progress
 * thread. */
tr_pending *tr_transfer_start(tr_transfer *t, bool background);
/* The same, waited for. */
tr_error *tr_transfer_run(tr_transfer *t);

/* In post: `peer` is an index in the group, `phase` (0 to 3) keeps apart what one operation sends
 * to one peer in several ways. Nothing happens for an empty block. In finish, what has come is in
 * window[round % 2].receives, with peer and phase in each. */
void tr_transfer_send(tr_transfer *t, int64_t round, int32_t peer, int32_t phase, tr_block block);
void tr_transfer_receive(tr_transfer *t, int64_t round, int32_t peer, int32_t phase, tr_block block,
                         bool borrow);

/* The piece in which reductions among n members are pipelined; from what the transport would like. */
int64_t tr_segment_limit(int64_t wish, int32_t n);
int64_t tr_comm_segment_bytes(const tr_comm *comm, int32_t n);
int64_t tr_comm_direct_bytes(const tr_comm *comm);

/* An all-gather of `bytes` a member that is counted as control. */
tr_error *tr_comm_control_gather(tr_comm *comm, const tr_group *group, const void *in, void *out,
                                 int64_t bytes);

/* tr_comm_agree has found a difference, as it has on every rank: nobody has to be told. */
void tr_comm_set_agreed(tr_comm *comm);

/* Offsets of a cut, [n + 1], owned by the operation. */
int64_t *tr_cut_offsets(tr_cut cut, int32_t n);
/* Part k of a buffer [outer, offsets[n]]. */
tr_block tr_cut_block(const char *buffer, int64_t outer, const int64_t *offsets,
                      int64_t element_bytes, int32_t n, int32_t k);
/* [outer, part k] by itself, contiguous. */
tr_block tr_part_block(const char *buffer, int64_t outer, const int64_t *offsets,
                       int64_t element_bytes, int32_t k);

/* ---- exchange.c: what reduce_scatter and all_reduce share ---- */

/* What a source holds, as against the result. */
typedef enum tr_form { TR_FORM_AS_IS, TR_FORM_BF16, TR_FORM_ROUND } tr_form;

int64_t tr_segments_count(const tr_segments *segments);
/* Segment `index` of a block, whose rows have elements of `element_bytes`. */
tr_block tr_segments_at(const tr_segments *segments, tr_block part, int64_t element_bytes,
                        int64_t index);
/* From in_outer, in_offsets, dtype, wire: decides packs and segments, and how much scratch the
 * exchange takes; its slots lie at the front of the scratch. */
int64_t tr_exchange_plan(tr_transfer *t);
/* The same for the largest part [outer, most] of n members, `limit` the largest segment; and its segments. */
int64_t tr_exchange_scratch(int64_t outer, int64_t most, int64_t wire_bytes, int64_t limit, bool packs, bool lends, int32_t n,
                            tr_segments *out);
/* What all_reduce takes beside the exchange. */
int64_t tr_all_reduce_scratch(const tr_segments *segments, bool packs, bool lends, int32_t n);
void tr_exchange_post(tr_transfer *t, int64_t round, int64_t segment);
/* Reduces into `result` (a segment of the result, elements of dtype). When `packed` is not NULL and
 * the operation packs, the result is rounded to the wire's type, and written there too, contiguous.
 */
void tr_exchange_finish(tr_transfer *t, int64_t round, int64_t segment, tr_block result,
                        uint16_t *packed);

/* result = source[0] (+) source[1] ..., blocks of equal shapes, `here` of them on each host; `packed` as above. */
void tr_blocks_reduce(const tr_transfer *t, int32_t n, int32_t here, const tr_block *source, const tr_form *form,
                      tr_block result, uint16_t *packed);

/* ---- hierarchical.c ---- */

/* Members of a group on one host, where all its hosts have as many, at least two, one host after the other; else n. */
int32_t tr_comm_members_here(const tr_comm *comm, const int32_t *ranks, int32_t n);
/* Turns an all_reduce, reduce_scatter or all_gather that is filled in but for its rounds into one by hosts, where the
 * group is such and the buffer large enough; false: it goes directly, but sums by hosts all the same (hierarchy.here). */
bool tr_hierarchy_take(tr_transfer *t);
/* More than its scratch where segments are as small as they can be. */
int64_t tr_hierarchy_least_scratch(int32_t n);

/* ---- doubling.c ---- */

/* Whether an all_reduce of so many bytes on the wire goes by doubling; turns one that is filled in but for its rounds
 * into that. */
bool tr_doubling_fits(int32_t n, int64_t bytes);
void tr_doubling_take(tr_transfer *t);

/* out = in[0] (+) in[1] (+) ... in[n-1], left to right, `count` elements of `dtype`. For f32 a
 * source may be bf16, or f32 that is first rounded to bf16. `packed` not NULL: out is rounded to
 * bf16 and written there too. out may be any of the sources that are AS_IS or ROUND. */
void tr_reduce(tr_reduction reduction, tr_dtype dtype, int32_t n, const void *const *in,
               const tr_form *source, int64_t count, void *out, uint16_t *packed);
/* The same, with the sums of every `here` sources formed first: the bits of hierarchical.c. */
void tr_reduce_by_hosts(tr_reduction reduction, tr_dtype dtype, int32_t n, int32_t here, const void *const *in,
                        const tr_form *source, int64_t count, void *out, uint16_t *packed);
void tr_pack_bf16(const float *in, int64_t count, uint16_t *out);
void tr_unpack_bf16(const uint16_t *in, int64_t count, float *out);
