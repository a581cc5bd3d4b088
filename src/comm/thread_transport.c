/* Ranks as threads of one process: a message is a meeting of two requests, and the receiver reads
 * straight from the sender's buffer.
 *
 * Each rank has a mailbox, under one lock: receives it has posted, and sends that have arrived for
 * it, each in order. Posting looks for its match on the other list.
 *
 *     a receive:  POSTED -> MATCHED -> READING -> DONE           a send:  POSTED -> DONE
 *                              |                                 (DONE is set by the receiver's
 * release)
 *                              +-> LOST (the sender took it back, after a failure)
 *
 * Invariants
 *   1. Links (match, next) of a receive, and of a send addressed to it, change under the receiver's
 * lock.
 *   2. READING begins in the receiver's thread. While it lasts the sender's request and buffer
 * stay: the sender's test is false, and its cancel waits.
 *   3. A release does not touch the send after it has set DONE: the sender may free it then.
 *   4. What a rank waits for changes its mailbox's ticket, so that no wake-up is lost.
 * Memory: the world owns all; requests are their owners'.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "comm/world.h"

enum { IDLE, POSTED, MATCHED, READING, DONE, LOST };
enum { SPINS = 60, YIELDS = 40 }; /* some 3 us, and then turns of others */

typedef struct mailbox {
    _Alignas(64) pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic uint64_t ticket;
    bool sleeps;
    tr_request *posted, **posted_end;
    tr_request *arrived, **arrived_end;
    atomic_bool ended;
} mailbox;

typedef struct member {
    tr_transport base;
    tr_thread_world *world;
} member;

struct tr_thread_world {
    int32_t size, spins;
    char host[256];
    mailbox *boxes;
    member *members;
    pthread_mutex_t lock;
    _Atomic(tr_failure *) failure;
    int32_t first_failed;
};

static tr_thread_world *world_of(tr_transport *t)
{
    return ((member *)(void *)t)->world;
}

static void change(mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    atomic_fetch_add(&box->ticket, 1);
    if (box->sleeps)
        pthread_cond_broadcast(&box->changed);
    pthread_mutex_unlock(&box->lock);
}

static void fail_world(tr_thread_world *w, int32_t rank, tr_blame blame, const char *sentence)
{
    pthread_mutex_lock(&w->lock);
    if (!atomic_load(&w->failure)) {
        w->first_failed = rank;
        atomic_store(&w->failure, tr_failure_new(blame, sentence));
    }
    pthread_mutex_unlock(&w->lock);
    for (int32_t r = 0; r < w->size; r++)
        change(&w->boxes[r]);
}

static bool fits(const tr_request *send, const tr_request *receive)
{
    return send->peer == receive->owner && receive->peer == send->owner &&
           send->channel == receive->channel && send->tag == receive->tag;
}

static void append(tr_request ***end, tr_request *r)
{
    r->next = NULL;
    **end = r;
    *end = &r->next;
}

static void take_out(tr_request **list, tr_request ***end, tr_request *r)
{
    for (tr_request **link = list; *link; link = &(*link)->next)
        if (*link == r) {
            *link = r->next;
            if (!*link)
                *end = link;
            return;
        }
}

static void check_match(tr_thread_world *w, const char *send_what, int64_t send_bytes,
                        int32_t sender, const char *receive_what, int64_t receive_bytes,
                        int32_t receiver)
{
    if (send_bytes == receive_bytes)
        return;
    char *sentence = tr_format(
        "rank %d sends %lld bytes (%s) where rank %d on host %s expects %lld (%s): the ranks "
        "do not run the same operations",
        sender, (long long)send_bytes, send_what, receiver, w->host, (long long)receive_bytes,
        receive_what);
    fail_world(w, receiver, TR_RUN, sentence);
    free(sentence);
}

static void post_send(tr_transport *t, tr_request *r)
{
    tr_thread_world *w = world_of(t);
    mailbox *box = &w->boxes[r->peer];
    r->owner = t->rank;
    r->receives = false;
    r->match = NULL;
    atomic_store(&r->state, POSTED);
    /* Once matched, the request may be over at any time: what the check needs is read before. */
    const char *what = r->what, *their_what = NULL;
    int64_t bytes = tr_block_bytes(&r->block), their_bytes = bytes;
    int32_t peer = r->peer;
    pthread_mutex_lock(&box->lock);
    tr_request *receive = box->posted;
    while (receive && !fits(r, receive))
        receive = receive->next;
    if (receive) {
        take_out(&box->posted, &box->posted_end, receive);
        their_what = receive->what;
        their_bytes = tr_block_bytes(&receive->block);
        receive->match = r;
        r->match = receive;
        /* Two that do not fit stay unread until the failure has ended them. */
        if (their_bytes == bytes)
            atomic_store(&receive->state, MATCHED);
    } else {
        append(&box->arrived_end, r);
    }
    atomic_fetch_add(&box->ticket, 1);
    if (box->sleeps && receive)
        pthread_cond_broadcast(&box->changed);
    pthread_mutex_unlock(&box->lock);
    check_match(w, what, bytes, t->rank, their_what, their_bytes, peer);
}

static void post_receive(tr_transport *t, tr_request *r)
{
    tr_thread_world *w = world_of(t);
    mailbox *box = &w->boxes[t->rank];
    r->owner = t->rank;
    r->receives = true;
    r->match = NULL;
    atomic_store(&r->state, POSTED);
    pthread_mutex_lock(&box->lock);
    tr_request *send = box->arrived;
    while (send && !fits(send, r))
        send = send->next;
    const char *their_what = NULL;
    int64_t bytes = tr_block_bytes(&r->block), their_bytes = bytes;
    if (send) {
        take_out(&box->arrived, &box->arrived_end, send);
        their_what = send->what;
        their_bytes = tr_block_bytes(&send->block);
        send->match = r;
        r->match = send;
        if (their_bytes == bytes)
            atomic_store(&r->state, MATCHED);
    } else {
        append(&box->posted_end, r);
    }
    pthread_mutex_unlock(&box->lock);
    check_match(w, their_what, their_bytes, r->peer, r->what, bytes, t->rank);
}

/* Lets go of the send that the receive has met. */
static void let_go(tr_thread_world *w, tr_request *receive)
{
    mailbox *box = &w->boxes[receive->owner];
    pthread_mutex_lock(&box->lock);
    tr_request *send = receive->match;
    receive->match = NULL;
    atomic_store(&receive->state, DONE);
    if (send) {
        send->match = NULL;
        atomic_store(&send->state, DONE);
    }
    pthread_mutex_unlock(&box->lock);
    if (send)
        change(&w->boxes[receive->peer]);
}

static void release(tr_transport *t, tr_request *r)
{
    if (r->receives && atomic_load(&r->state) == READING)
        let_go(world_of(t), r);
}

/* The peer has ended well, and whatever it posted came before that: nobody will ever answer. */
static void check_ended(tr_thread_world *w, tr_request *r)
{
    if (!atomic_load(&w->boxes[r->peer].ended))
        return;
    mailbox *box = &w->boxes[r->receives ? r->owner : r->peer];
    pthread_mutex_lock(&box->lock);
    bool alone = atomic_load(&r->state) == POSTED && !r->match;
    pthread_mutex_unlock(&box->lock);
    if (!alone || atomic_load(&w->failure))
        return;
    char *sentence = tr_format(
        "rank %d waits in %s for rank %d on host %s, which has ended: the ranks do not run "
        "the same operations",
        r->owner, r->what, r->peer, w->host);
    fail_world(w, r->owner, TR_RUN, sentence);
    free(sentence);
}

static bool test(tr_transport *t, tr_request *r)
{
    tr_thread_world *w = world_of(t);
    int state = atomic_load(&r->state);
    if (state == POSTED)
        check_ended(w, r);
    if (!r->receives)
        return state == DONE;
    if (state == MATCHED && atomic_compare_exchange_strong(&r->state, &state, READING)) {
        r->data = r->match->block;
        if (!r->borrow) {
            tr_block_copy(&r->block, &r->data);
            r->data = r->block;
            let_go(w, r);
        }
        return true;
    }
    return state == READING || state == DONE;
}

static void cancel(tr_transport *t, tr_request *r)
{
    tr_thread_world *w = world_of(t);
    mailbox *box = &w->boxes[r->receives ? r->owner : r->peer];
    for (;;) {
        uint64_t ticket = t->ops->ticket(t);
        pthread_mutex_lock(&box->lock);
        int state = atomic_load(&r->state), matched = MATCHED;
        bool over = true;
        if (state == DONE || state == LOST || state == IDLE) {
        } else if (!r->match) {
            if (r->receives)
                take_out(&box->posted, &box->posted_end, r);
            else
                take_out(&box->arrived, &box->arrived_end, r);
            atomic_store(&r->state, DONE);
        } else if (r->receives) {
            pthread_mutex_unlock(&box->lock);
            let_go(w, r);
            return;
        } else if (atomic_compare_exchange_strong(&r->match->state, &matched, LOST) ||
                   matched == POSTED) {
            atomic_store(&r->match->state, LOST);
            r->match->match = NULL;
            r->match = NULL;
            atomic_store(&r->state, DONE);
        } else {
            over = false;
        }
        pthread_mutex_unlock(&box->lock);
        if (over)
            return;
        int64_t patience = SPINS + YIELDS;
        t->ops->idle(t, ticket, &patience);
    }
}

static uint64_t read_ticket(tr_transport *t)
{
    return atomic_load(&world_of(t)->boxes[t->rank].ticket);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void idle(tr_transport *t, uint64_t ticket, int64_t *patience)
{
    tr_thread_world *w = world_of(t);
    mailbox *box = &w->boxes[t->rank];
    for (; *patience < w->spins + YIELDS; ++*patience) {
        if (atomic_load_explicit(&box->ticket, memory_order_acquire) != ticket)
            return;
        if (*patience < w->spins)
            relax();
        else
            sched_yield();
    }
    pthread_mutex_lock(&box->lock);
    box->sleeps = true;
    while (atomic_load(&box->ticket) == ticket)
        pthread_cond_wait(&box->changed, &box->lock);
    box->sleeps = false;
    pthread_mutex_unlock(&box->lock);
}

static void wake(tr_transport *t)
{
    change(&world_of(t)->boxes[t->rank]);
}

static void pulse(tr_transport *t)
{
    (void)t;
}

static const tr_failure *failure(tr_transport *t)
{
    return atomic_load(&world_of(t)->failure);
}

static void fail(tr_transport *t, tr_blame blame, const char *sentence)
{
    fail_world(world_of(t), t->rank, blame, sentence);
}

static const char *host(tr_transport *t, int32_t rank)
{
    (void)rank;
    return world_of(t)->host;
}

static int32_t place(tr_transport *t, int32_t rank)
{
    (void)t;
    (void)rank;
    return 0;
}

static const tr_transport_ops ops = {
    .name = "threads",
    .lends = true,
    .segment_bytes = TR_THREAD_SEGMENT_BYTES,
    .send = post_send,
    .receive = post_receive,
    .test = test,
    .release = release,
    .cancel = cancel,
    .ticket = read_ticket,
    .idle = idle,
    .wake = wake,
    .pulse = pulse,
    .failure = failure,
    .fail = fail,
    .host = host,
    .place = place,
};

tr_thread_world *tr_thread_world_new(int32_t ranks)
{
    tr_thread_world *w = tr_alloc_zero(1, sizeof *w);
    w->size = ranks;
    w->spins =
        tr_cpu_cores() >= ranks ? SPINS : 0; /* who spins keeps others from what he waits for */
    w->first_failed = -1;
    if (gethostname(w->host, sizeof w->host - 1) != 0)
        strcpy(w->host, "localhost");
    pthread_mutex_init(&w->lock, NULL);
    w->boxes = aligned_alloc(_Alignof(mailbox), (size_t)ranks * sizeof *w->boxes);
    TR_CHECK(w->boxes, "no memory for %d mailboxes", ranks);
    memset(w->boxes, 0, (size_t)ranks * sizeof *w->boxes);
    w->members = tr_alloc_zero((size_t)ranks, sizeof *w->members);
    for (int32_t r = 0; r < ranks; r++) {
        mailbox *box = &w->boxes[r];
        pthread_mutex_init(&box->lock, NULL);
        pthread_cond_init(&box->changed, NULL);
        box->posted_end = &box->posted;
        box->arrived_end = &box->arrived;
        w->members[r] = (member){{&ops, ranks, r}, w};
    }
    return w;
}

tr_transport *tr_thread_world_rank(tr_thread_world *w, int32_t rank)
{
    return &w->members[rank].base;
}

void tr_thread_world_ended(tr_thread_world *w, int32_t rank)
{
    atomic_store(&w->boxes[rank].ended, true);
    for (int32_t r = 0; r < w->size; r++)
        change(&w->boxes[r]);
}

int32_t tr_thread_world_first_failed(const tr_thread_world *w)
{
    return w->first_failed;
}

void tr_thread_world_free(tr_thread_world *w)
{
    for (int32_t r = 0; r < w->size; r++) {
        pthread_mutex_destroy(&w->boxes[r].lock);
        pthread_cond_destroy(&w->boxes[r].changed);
    }
    pthread_mutex_destroy(&w->lock);
    free(atomic_load(&w->failure));
    free(w->boxes);
    free(w->members);
    free(w);
}
