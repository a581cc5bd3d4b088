/* What a transport does: moves blocks of bytes between ranks, and knows who is alive.
 *
 * One interface, two implementations (threads.c, mpi.c); collectives are written once, above it.
 *
 * The life of a request, which its owner allocates and keeps until it is over:
 *   send      send -> test ... true: the block may be changed again
 *   receive   receive -> test ... true: `data` says where the bytes are; then release
 * A receive with `borrow` may find its bytes in the sender's own memory (a transport that `lends`,
 * so that nothing is copied); they stay there until release. Otherwise, and without `borrow`, they
 * are in `block`. Messages match by (peer, channel, tag), those that are equal in the order of
 * their posting.
 *
 * All functions are called by one thread at a time (the driver, see comm.c), except wake, ticket,
 * fail and failure, which any thread may call.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "comm/comm.h"

/* rows * row_bytes bytes, each row `stride` bytes after the one before. */
typedef struct tr_block {
    char *bytes;
    int64_t rows, row_bytes, stride;
} tr_block;

static inline int64_t tr_block_bytes(const tr_block *block)
{
    return block->rows * block->row_bytes;
}

typedef enum tr_channel { TR_CHANNEL_COLLECTIVE, TR_CHANNEL_POINT, TR_CHANNEL_COUNT } tr_channel;

typedef struct tr_request {
    /* The owner's. */
    int32_t peer;
    tr_channel channel;
    int64_t tag;
    tr_block block;
    bool borrow;
    const char *what;     /* "all_reduce", for messages */
    int32_t index, phase; /* peer's place in the group; see transfer.h */
    bool ready;           /* a receive that has passed its test */
    /* The transport's, from here on. */
    tr_block data; /* of a receive that is ready */
    bool receives;
    _Atomic int state;
    struct tr_request *match, *next; /* threads */
    int32_t owner;                   /* threads: whose request */
    union {
        void *pointer;
        int64_t number;
    } handle; /* mpi */
} tr_request;

/* Why the world has failed. In one allocation. */
typedef struct tr_failure {
    tr_blame blame;
    char sentence[];
} tr_failure;

/* Of each transport, in bytes: tr_transport_ops.segment_bytes. */
enum { TR_THREAD_SEGMENT_BYTES = 1 << 20, TR_MPI_SEGMENT_BYTES = 512 << 10 };

typedef struct tr_transport tr_transport;
typedef struct tr_transport_ops {
    const char *name;
    bool lends;            /* a borrowed receive is in the sender's memory */
    bool beats;            /* `pulse` must be called twice a second even when nothing is going on */
    int64_t segment_bytes; /* best piece for pipelining what cannot be borrowed */

    void (*send)(tr_transport *transport, tr_request *request);
    void (*receive)(tr_transport *transport, tr_request *request);
    bool (*test)(tr_transport *transport, tr_request *request);
    void (*release)(tr_transport *transport, tr_request *request);
    /* After a failure. Ends a request in any state; all receives of a rank come before its sends.
     */
    void (*cancel)(tr_transport *transport, tr_request *request);

    /* Nothing has moved since `ticket` was read: spins, then sleeps until something may have.
     * *patience starts at 0 and is kept by the caller while nothing moves. */
    uint64_t (*ticket)(tr_transport *transport);
    void (*idle)(tr_transport *transport, uint64_t ticket, int64_t *patience);
    void (*wake)(tr_transport *transport); /* ends idle */
    void (*pulse)(tr_transport *transport);

    /* The first failure anywhere becomes everyone's: one sentence, NULL while there is none. Lives
     * as long as the transport. */
    const tr_failure *(*failure)(tr_transport *transport);
    void (*fail)(tr_transport *transport, tr_blame blame, const char *sentence);
    const char *(*host)(tr_transport *transport, int32_t rank);
    int32_t (*place)(tr_transport *transport, int32_t rank); /* the lowest rank that shares memory with it */
} tr_transport_ops;

struct tr_transport {
    const tr_transport_ops *ops;
    int32_t size, rank;
};

/* comm.c; for the worlds. The transport must outlive the comm. Close ends all that is left. */
tr_comm *tr_comm_open(tr_transport *transport, const tr_comm_options *options);
void tr_comm_close(tr_comm *comm);
tr_failure *tr_failure_new(tr_blame blame, const char *sentence);
/* Copies equal amounts between blocks of any rows. */
void tr_block_copy(const tr_block *to, const tr_block *from);
