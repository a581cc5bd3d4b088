/* Communication among the ranks of a run: what the executor sees.
 *
 * A run is a world of ranks 0..size-1, each a thread of one process (`threads`) or a process
 * (`mpi`). Each rank has one tr_comm. tr_world_run starts the world, calls a function on every
 * rank, and ends it.
 *
 * An operation is started, which returns at once, and waited for. Rules:
 *   1. Buffers belong to the operation from the start until its wait has returned.
 *   2. Two ranks start the collectives that both take part in, in the same order (whatever the
 * groups). Waits may come in any order. Sends and receives are outside this order: between two
 * ranks, those with the same tag match in the order of their start, and tags are independent of
 * each other.
 *   3. Every started operation is waited for once, also after a failure.
 *   4. All members of a group pass the same counts, element types and kind of operation.
 * The result of a reduction is defined: elements are combined in ascending order of the ranks, in
 * f32 for f32 and bf16. It is the same on every rank, in every run, over every transport, and
 * however the buffer is cut: reduce-scatter and then all-gather give the bits of all-reduce.
 * Where a group has several hosts with several ranks each, in order, each host's elements are combined first and then
 * those of the hosts: then the bits are those of this arrangement (hierarchical.c).
 *
 * Failure. When a rank fails (its function returns an error, it dies, it is silent too long), every
 * wait of every other rank returns an error of one sentence that names the rank and its host, with
 * the blame of the error that the rank failed of (TR_RUN when it said none).
 * When a wait has returned an error, all operations of this rank are over and their buffers are
 * free.
 *
 * A thread of the rank drives the operations: the one that waits, or otherwise the progress thread
 * (started with the first operation that is not waited for at once). Waiting spins for a moment
 * where there are cores to spare, then sleeps.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/mesh.h"
#include "ir/dtype.h"

typedef struct tr_comm tr_comm;
typedef struct tr_transfer tr_pending; /* an operation that was started */

typedef enum tr_reduction { TR_REDUCE_SUM, TR_REDUCE_MAX } tr_reduction;

/* Kinds of traffic, for the counters. */
#define TR_TRAFFICS(X)                  \
    X(ALL_REDUCE, "all_reduce")         \
    X(REDUCE_SCATTER, "reduce_scatter") \
    X(ALL_GATHER, "all_gather")         \
    X(ALL_TO_ALL, "all_to_all")         \
    X(BROADCAST, "broadcast")           \
    X(POINT, "send")                    \
    X(CONTROL, "control")
typedef enum tr_traffic {
#define X(id, text) TR_TRAFFIC_##id,
    TR_TRAFFICS(X)
#undef X
        TR_TRAFFIC_COUNT
} tr_traffic;
const char *tr_traffic_name(tr_traffic traffic);

/* Zeros mean the default. */
typedef struct tr_comm_options {
    double silence_seconds; /* mpi: a rank not heard of for so long is dead; 7; negative: never */
    bool no_overlap;        /* no progress thread: operations move only while somebody waits */
    int32_t host_ranks;     /* so many ranks in a row count as one host's; 0: as it is. For tests and measurements */
    int64_t direct_bytes;   /* so many go directly where larger buffers go host by host; 0: 64 kB; -1: none */
    int64_t segment_bytes;  /* piece in which reductions are pipelined; chosen by the transport */
    /* Called once on each failing rank as soon as its function has returned the error, before the
     * world is taken down: mpirun may kill a rank as soon as another one has ended. */
    void (*report)(const tr_comm *comm, const tr_error *error, void *user);
} tr_comm_options;

/* ---- the world ---- */

typedef tr_error *(*tr_rank_fn)(tr_comm *comm, void *user);

/* `ranks` threads of this process. Returns the error of the rank that failed first. */
tr_error *tr_world_run_threads(int32_t ranks, const tr_comm_options *options, tr_rank_fn fn,
                               void *user);
/* The processes that mpirun (or srun) has started, of which this is one; once in a process. The
 * error is this rank's own, and names rank and host. After an error the caller should end the process soon, with a status
 * not 0. */
tr_error *tr_world_run_mpi(const tr_comm_options *options, tr_rank_fn fn, void *user);
/* Under mpirun: its processes, of which there must be `ranks`. Otherwise: threads. */
tr_error *tr_world_run(int32_t ranks, const tr_comm_options *options, tr_rank_fn fn, void *user);
/* Whether this process was started by an MPI launcher; and how many ranks it has then, 0 unknown.
 */
bool tr_mpi_launched(int32_t *out_ranks);
bool tr_mpi_built(void);

int32_t tr_comm_rank(const tr_comm *comm);
int32_t tr_comm_size(const tr_comm *comm);
const char *tr_comm_host(const tr_comm *comm, int32_t rank);
const char *tr_comm_transport(const tr_comm *comm); /* "threads" or "mpi" */

/* ---- collectives ---- */

/* A buffer [outer, count], row-major, whose second dim is cut into one part a member of the group:
 * a dim in the middle of a tensor needs no packing by the caller. `parts` are their sizes in
 * elements (copied; may be 0), or NULL for the even cut: the first count % n parts have one element
 * more than the others. */
typedef struct tr_cut {
    int64_t outer, count;
    const int64_t *parts;
} tr_cut;

/* Part k of the even cut. */
void tr_comm_part(int64_t count, int64_t members, int64_t index, int64_t *out_offset,
                  int64_t *out_count);

/* `wire` is what travels: `dtype`, or TR_BF16 for f32 buffers. With it every contribution is
 * rounded to bf16, the sum is formed in f32, and what all-reduce returns is rounded once more. */

/* out[i] = reduction of in[i] over the group. `out` may be `in`. f32, bf16, f64, i64, i32. */
tr_pending *tr_comm_all_reduce_start(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                                     const void *in, void *out, int64_t count, tr_dtype dtype,
                                     tr_dtype wire);
/* in [outer, count] -> out [outer, my part]. With outer 1, `out` may be my part of `in`. */
tr_pending *tr_comm_reduce_scatter_start(tr_comm *comm, const tr_group *group,
                                         tr_reduction reduction, const void *in, void *out,
                                         tr_cut cut, tr_dtype dtype, tr_dtype wire);
/* in [outer, my part] -> out [outer, count]. With outer 1, `in` may be my part of `out`. */
tr_pending *tr_comm_all_gather_start(tr_comm *comm, const tr_group *group, const void *in,
                                     void *out, tr_cut cut, tr_dtype dtype);
/* Member j gets part j of my `in` as part `me` of its `out`, the elements in the same order: so
 * in_cut.outer * in_cut.parts[j] here must be out_cut.outer * out_cut.parts[me] there. Ulysses, n
 * members: [B, T/n, H, D] -> [B, T, H/n, D]   in_cut {B*T/n, H*D}, out_cut {B, T*H/n*D} [B, T, H/n,
 * D] -> [B, T/n, H, D]   the same, exchanged The buffers must not overlap. */
tr_pending *tr_comm_all_to_all_start(tr_comm *comm, const tr_group *group, const void *in,
                                     tr_cut in_cut, void *out, tr_cut out_cut, tr_dtype dtype);
/* `root` is an index in the group. */
tr_pending *tr_comm_broadcast_start(tr_comm *comm, const tr_group *group, int32_t root,
                                    void *buffer, int64_t count, tr_dtype dtype);
/* `peer` is a rank of the world, not this one; 0 <= tag < 2^31. Over MPI tags may share an order.
 */
tr_pending *tr_comm_send_start(tr_comm *comm, int32_t peer, int64_t tag, const void *in,
                               int64_t count, tr_dtype dtype);
tr_pending *tr_comm_receive_start(tr_comm *comm, int32_t peer, int64_t tag, void *out,
                                  int64_t count, tr_dtype dtype);

/* How the next operation that is started goes; afterwards it is as if nothing was said. `at_once`: it is waited for
 * right after, so the progress thread need not wake. */
typedef struct tr_comm_hint {
    bool at_once;
} tr_comm_hint;
void tr_comm_next(tr_comm *comm, tr_comm_hint hint);

/* Consumes *pending and makes it NULL; NULL is fine. */
tr_error *tr_comm_wait(tr_comm *comm, tr_pending **pending);
/* The same; *out_over_ns: when the operation was over, on CLOCK_MONOTONIC. */
tr_error *tr_comm_wait_timed(tr_comm *comm, tr_pending **pending, int64_t *out_over_ns);
/* True when the wait would return at once. Moves nothing itself. */
bool tr_comm_test(tr_comm *comm, const tr_pending *pending);

/* Start and wait in one, without waking the progress thread. */
tr_error *tr_comm_all_reduce(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                             const void *in, void *out, int64_t count, tr_dtype dtype,
                             tr_dtype wire);
tr_error *tr_comm_reduce_scatter(tr_comm *comm, const tr_group *group, tr_reduction reduction,
                                 const void *in, void *out, tr_cut cut, tr_dtype dtype,
                                 tr_dtype wire);
tr_error *tr_comm_all_gather(tr_comm *comm, const tr_group *group, const void *in, void *out,
                             tr_cut cut, tr_dtype dtype);
tr_error *tr_comm_all_to_all(tr_comm *comm, const tr_group *group, const void *in, tr_cut in_cut,
                             void *out, tr_cut out_cut, tr_dtype dtype);
tr_error *tr_comm_broadcast(tr_comm *comm, const tr_group *group, int32_t root, void *buffer,
                            int64_t count, tr_dtype dtype);
tr_error *tr_comm_send(tr_comm *comm, int32_t peer, int64_t tag, const void *in, int64_t count,
                       tr_dtype dtype);
tr_error *tr_comm_receive(tr_comm *comm, int32_t peer, int64_t tag, void *out, int64_t count,
                          tr_dtype dtype);
tr_error *tr_comm_barrier(tr_comm *comm, const tr_group *group);

/* All ranks of the world compare; when they differ, each returns the same TR_USER sentence, which
 * names those that differ from the most. `what` ends "the ranks do not have the same ...". */
tr_error *tr_comm_agree(tr_comm *comm, uint64_t hash, const char *what);

/* ---- failure ---- */

/* Tells all ranks that this one has failed and ends all its operations; the buffers are free then.
 * A function that returns an error to tr_world_run has the same effect, and needs no call. */
void tr_comm_fail(tr_comm *comm, tr_blame blame, const char *why);
/* Whether tr_comm_agree has found a difference: then every rank returns the same sentence. */
bool tr_comm_agreed(const tr_comm *comm);
/* The failure of any rank, if known; looked up without waiting. For long stretches of computing. */
tr_error *tr_comm_check(tr_comm *comm);

/* ---- counters ---- */

/* Bytes this rank has handed to other ranks since the start (threads: would have sent). Complete
 * for an operation once its wait has returned. */
int64_t tr_comm_bytes_sent(const tr_comm *comm, tr_traffic traffic);
int64_t tr_comm_bytes_sent_all(const tr_comm *comm); /* all kinds but control */
int64_t tr_comm_bytes_across(const tr_comm *comm);   /* of these, to ranks on other hosts */
/* The closed form: bytes that member `me` of n sends for one operation of this kind, with elements
 * of `element_bytes` on the wire. all_reduce uses the even cut; broadcast, send and all_reduce use
 * outer 1. `here`: members on each of the group's hosts, `members` when there is one host (hierarchical.c). */
int64_t tr_comm_cost_bytes(tr_traffic traffic, tr_cut cut, int64_t element_bytes, int32_t members,
                           int32_t me, int32_t root, int32_t here);
enum { TR_COMM_AT_ONCE = 4 }; /* collectives of one group that move at once; the others wait their turn */
/* The scratch of one all_reduce or reduce_scatter of this rank, whole pages; 0 for the other kinds. `processes`: over
 * mpi. A group's operations hold TR_COMM_AT_ONCE times the largest of them at most. */
int64_t tr_comm_cost_scratch(tr_traffic traffic, tr_cut cut, tr_dtype dtype, tr_dtype wire, int32_t members, bool processes);
/* Most scratch memory the operations of this rank have held at once, in bytes. */
int64_t tr_comm_scratch_peak_bytes(const tr_comm *comm);
