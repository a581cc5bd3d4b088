/* The engine: drives the operations of one rank over a transport.
 *
 * Operations are queued by the thread that starts them, and moved by whichever thread is the
 * driver: one that waits (it has nothing better to do, and no thread has to be woken), or the
 * progress thread when nobody waits. There is at most one driver, so the transport sees one thread
 * at a time.
 *
 *     rank thread      start ----------------- compute --------------- wait: drives until done
 *     progress thread        wakes, drives ............ sees a waiter, leaves     wakes when more
 * is left
 *
 * Invariants
 *   1. `driving` is set and cleared under the lock; queue, active and every operation's rounds
 * belong to the driver while it is set, except that anybody may append to the queue under the lock.
 *   2. An operation is done once it has finished all rounds and its sends are over, or has been
 * cancelled; its requests are then unknown to the transport.
 *   3. After a failure no operation is left: those that were active are cancelled, new ones are
 * done at once. Receives are cancelled before sends: a send that is being read can only end when
 * its reader lets go, and every failing rank lets go first.
 *   4. Of each group TR_COMM_AT_ONCE collectives move, the oldest; the others hold no scratch. Who is oldest is the same
 * on all members, so the oldest of all moves on each of its members, and nothing waits in a ring.
 */
#include "comm/comm.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "comm/transfer.h"

enum {
    SCAN_AHEAD = 16,         /* receives tried beyond the first that is not ready */
    MOST_SCRATCH = 32 << 20, /* of one exchange, where segments can be made that small */
    LEAST_SEGMENT = 16 << 10,
    DIRECT_BYTES = 64 << 10, /* measured: bench/hosts.sh */
    PAGE = 4096,
    PHASES = 4,
};

typedef struct room {
    char *bytes;
    int64_t size;
    bool taken;
} room;

struct tr_comm {
    tr_transport *transport;
    tr_comm_options options;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* an operation is done, or there is no driver: for those who wait */
    pthread_cond_t work;    /* for the progress thread */
    pthread_t progress;
    bool has_progress, stop, driving, failed;
    bool agreed;  /* to fail */
    bool waiting; /* some active operation may not be admitted yet */
    int32_t waiters;
    tr_comm_hint hint; /* the rank's thread's */
    tr_transfer *queued, **queued_end;
    tr_transfer *active, **active_end;
    int64_t *sequence; /* [size]: collectives started with each rank */
    int32_t *place;    /* [size]: the same number for all ranks of a host */
    room *rooms;
    int64_t room_count, room_room, scratch_bytes, scratch_peak_bytes;
    _Atomic int64_t sent[TR_TRAFFIC_COUNT], across;
};

static const char *const traffic_names[TR_TRAFFIC_COUNT] = {
#define X(id, text) [TR_TRAFFIC_##id] = text,
    TR_TRAFFICS(X)
#undef X
};

const char *tr_traffic_name(tr_traffic traffic)
{
    return traffic_names[traffic];
}

int32_t tr_comm_rank(const tr_comm *comm)
{
    return comm->transport->rank;
}

int32_t tr_comm_size(const tr_comm *comm)
{
    return comm->transport->size;
}

const char *tr_comm_host(const tr_comm *comm, int32_t rank)
{
    return comm->transport->ops->host(comm->transport, rank);
}

const char *tr_comm_transport(const tr_comm *comm)
{
    return comm->transport->ops->name;
}

int64_t tr_segment_limit(int64_t wish, int32_t n)
{
    return TR_MIN(wish, TR_MAX(MOST_SCRATCH / (2 * TR_MAX(n - 1, 1)), LEAST_SEGMENT));
}

int64_t tr_comm_segment_bytes(const tr_comm *comm, int32_t n)
{
    return tr_segment_limit(comm->options.segment_bytes ? comm->options.segment_bytes
                                                        : comm->transport->ops->segment_bytes,
                            n);
}

int64_t tr_comm_direct_bytes(const tr_comm *comm)
{
    return comm->options.direct_bytes ? comm->options.direct_bytes : DIRECT_BYTES;
}

int32_t tr_comm_members_here(const tr_comm *c, const int32_t *ranks, int32_t n)
{
    int32_t here = 1;
    while (here < n && c->place[ranks[here]] == c->place[ranks[0]])
        here++;
    if (here == 1 || n % here)
        return n;
    for (int32_t k = here; k < n; k++) {
        bool first = k % here == 0;
        if ((c->place[ranks[k]] == c->place[ranks[k - 1]]) == first)
            return n;
        for (int32_t before = 0; first && before < k; before += here)
            if (c->place[ranks[before]] == c->place[ranks[k]])
                return n;
    }
    return here;
}

int64_t tr_comm_bytes_sent(const tr_comm *comm, tr_traffic traffic)
{
    return atomic_load_explicit(&comm->sent[traffic], memory_order_relaxed);
}

int64_t tr_comm_bytes_sent_all(const tr_comm *comm)
{
    int64_t total = 0;
    for (int k = 0; k < TR_TRAFFIC_COUNT; k++)
        total += k == TR_TRAFFIC_CONTROL ? 0 : tr_comm_bytes_sent(comm, (tr_traffic)k);
    return total;
}

int64_t tr_comm_bytes_across(const tr_comm *comm)
{
    return atomic_load_explicit(&comm->across, memory_order_relaxed);
}

int64_t tr_comm_scratch_peak_bytes(const tr_comm *comm)
{
    return comm->scratch_peak_bytes;
}

/* ---- scratch: kept between operations, since fresh pages cost as much as the data ---- */

static char *take_room(tr_comm *c, int64_t bytes)
{
    room *best = NULL;
    for (int64_t i = 0; i < c->room_count; i++) {
        room *r = &c->rooms[i];
        if (!r->taken && r->size >= bytes && (!best || r->size < best->size))
            best = r;
    }
    if (!best) {
        int64_t size = (bytes + PAGE - 1) / PAGE * PAGE;
        char *pages = aligned_alloc(PAGE, (size_t)size);
        TR_CHECK(pages, "no memory for %lld bytes of scratch", (long long)size);
        tr_push(c->rooms, c->room_count, c->room_room) = (room){pages, size, false};
        best = &c->rooms[c->room_count - 1];
    }
    best->taken = true;
    c->scratch_bytes += best->size;
    c->scratch_peak_bytes = TR_MAX(c->scratch_peak_bytes, c->scratch_bytes);
    return best->bytes;
}

static void give_room(tr_comm *c, const char *bytes)
{
    for (int64_t i = 0; i < c->room_count; i++)
        if (c->rooms[i].bytes == bytes) {
            c->rooms[i].taken = false;
            c->scratch_bytes -= c->rooms[i].size;
        }
}

/* ---- operations ---- */

tr_transfer *tr_transfer_new(tr_comm *comm, const tr_group *group, const tr_transfer_kind *kind)
{
    TR_CHECK(group->count > 0 && group->me >= 0 && group->me < group->count &&
                 group->ranks[group->me] == tr_comm_rank(comm) &&
                 group->ranks[group->count - 1] < tr_comm_size(comm),
             "%s: the group is not one of rank %d", kind->name, tr_comm_rank(comm));
    tr_transfer *t = tr_alloc_zero(1, sizeof *t);
    t->kind = kind;
    t->comm = comm;
    t->transport = comm->transport;
    t->n = group->count;
    t->me = group->me;
    t->ranks = tr_alloc((size_t)t->n * sizeof *t->ranks);
    memcpy(t->ranks, group->ranks, (size_t)t->n * sizeof *t->ranks);
    t->tags = tr_alloc_zero((size_t)t->n, sizeof *t->tags);
    t->channel = TR_CHANNEL_COLLECTIVE;
    return t;
}

static void free_transfer(tr_transfer *t)
{
    free(t->ranks);
    free(t->tags);
    free(t->in_offsets);
    free(t->out_offsets);
    free(t->window[0].sends);
    free(t);
}

static tr_request *new_request(tr_transfer *t, tr_request *list, int32_t *count, int32_t peer,
                               int32_t phase, tr_block block)
{
    TR_CHECK(*count < t->most_requests && peer != t->me, "%s has too many requests in a round",
             t->kind->name);
    tr_request *r = &list[(*count)++];
    *r = (tr_request){.peer = t->ranks[peer],
                      .channel = t->channel,
                      .tag = t->channel == TR_CHANNEL_POINT ? t->tags[peer]
                                                            : PHASES * t->tags[peer] + phase,
                      .block = block,
                      .what = t->kind->name,
                      .index = peer,
                      .phase = phase};
    return r;
}

void tr_transfer_send(tr_transfer *t, int64_t round, int32_t peer, int32_t phase, tr_block block)
{
    if (tr_block_bytes(&block) == 0)
        return;
    tr_round *w = &t->window[round % 2];
    tr_request *r = new_request(t, w->sends, &w->send_count, peer, phase, block);
    atomic_fetch_add_explicit(&t->comm->sent[t->kind->traffic], tr_block_bytes(&block),
                              memory_order_relaxed);
    if (t->kind->traffic != TR_TRAFFIC_CONTROL && t->comm->place[t->ranks[peer]] != t->comm->place[t->ranks[t->me]])
        atomic_fetch_add_explicit(&t->comm->across, tr_block_bytes(&block), memory_order_relaxed);
    t->transport->ops->send(t->transport, r);
}

void tr_transfer_receive(tr_transfer *t, int64_t round, int32_t peer, int32_t phase, tr_block block,
                         bool borrow)
{
    if (tr_block_bytes(&block) == 0)
        return;
    tr_round *w = &t->window[round % 2];
    tr_request *r = new_request(t, w->receives, &w->receive_count, peer, phase, block);
    r->borrow = borrow;
    t->transport->ops->receive(t->transport, r);
}

static bool sends_over(tr_transfer *t, tr_round *w)
{
    while (w->sends_over < w->send_count &&
           t->transport->ops->test(t->transport, &w->sends[w->sends_over]))
        w->sends_over++;
    return w->sends_over == w->send_count;
}

static bool receives_ready(tr_transfer *t, tr_round *w, bool *moved)
{
    int32_t missing = 0;
    for (int32_t i = 0;
         i < w->receive_count && w->receives_ready < w->receive_count && missing <= SCAN_AHEAD;
         i++) {
        if (w->receives[i].ready)
            continue;
        if (t->transport->ops->test(t->transport, &w->receives[i])) {
            w->receives[i].ready = true;
            w->receives_ready++;
            *moved = true;
        } else {
            missing++;
        }
    }
    return w->receives_ready == w->receive_count;
}

/* Does what can be done without waiting; true if that was anything. */
static bool advance(tr_transfer *t)
{
    bool moved = false;
    for (;;) {
        while (t->posted < t->rounds && t->posted < t->finished + 2) {
            tr_round *w = &t->window[t->posted % 2];
            if (!sends_over(t, w))
                break;
            w->send_count = w->receive_count = w->sends_over = w->receives_ready = 0;
            t->kind->post(t, t->posted++);
            moved = true;
        }
        if (t->finished == t->posted)
            return moved;
        tr_round *w = &t->window[t->finished % 2];
        if (!receives_ready(t, w, &moved))
            return moved;
        if (t->kind->finish)
            t->kind->finish(t, t->finished);
        for (int32_t i = 0; i < w->receive_count; i++)
            t->transport->ops->release(t->transport, &w->receives[i]);
        t->finished++;
        moved = true;
    }
}

static bool complete(tr_transfer *t)
{
    return t->finished == t->rounds && sends_over(t, &t->window[0]) && sends_over(t, &t->window[1]);
}

static void end_transfer(tr_comm *c, tr_transfer *t, bool failed)
{
    if (t->scratch)
        give_room(c, t->scratch);
    t->scratch = NULL;
    t->failed = failed;
    t->over_s = tr_seconds();
    t->done = true;
}

static void take_queue(tr_comm *c)
{
    if (!c->queued)
        return;
    c->waiting = true;
    *c->active_end = c->queued;
    c->active_end = c->queued_end;
    c->queued = NULL;
    c->queued_end = &c->queued;
}

static bool same_group(const tr_transfer *a, const tr_transfer *b)
{
    return a->n == b->n && memcmp(a->ranks, b->ranks, (size_t)a->n * sizeof *a->ranks) == 0;
}

/* Under the lock: the first few collectives of each group get their scratch and move; invariant 4. */
static void admit(tr_comm *c)
{
    for (tr_transfer *t = c->active; t && c->waiting; t = t->next) {
        int under_way = 0;
        if (t->admitted)
            continue;
        for (const tr_transfer *before = c->active; before != t && t->channel == TR_CHANNEL_COLLECTIVE; before = before->next)
            under_way += before->channel == TR_CHANNEL_COLLECTIVE && same_group(before, t);
        if (under_way >= TR_COMM_AT_ONCE)
            continue;
        t->admitted = true;
        if (t->scratch_bytes)
            t->scratch = take_room(c, t->scratch_bytes);
    }
    c->waiting = false;
}

/* Under the lock, and nobody else drives. Ends everything: invariant 3. */
static void fail_all(tr_comm *c)
{
    c->failed = true;
    take_queue(c);
    tr_transport *tp = c->transport;
    tp->ops->pulse(tp);
    for (int pass = 0; pass < 2; pass++)
        for (tr_transfer *t = c->active; t; t = t->next)
            for (int k = 0; k < 2; k++) {
                tr_round *w = &t->window[k];
                for (int32_t i = 0; pass == 0 && i < w->receive_count; i++)
                    tp->ops->cancel(tp, &w->receives[i]);
                for (int32_t i = w->sends_over; pass == 1 && i < w->send_count; i++)
                    tp->ops->cancel(tp, &w->sends[i]);
            }
    for (tr_transfer *t = c->active, *next; t; t = next) {
        next = t->next;
        end_transfer(c, t, true);
    }
    c->active = NULL;
    c->active_end = &c->active;
    pthread_cond_broadcast(&c->changed);
}

/* Under the lock, which is let go in between. Drives until `target` is done; without a target,
 * until somebody waits or nothing is left. */
static void drive(tr_comm *c, tr_transfer *target)
{
    tr_transport *tp = c->transport;
    int64_t patience = 0;
    c->driving = true;
    for (;;) {
        uint64_t ticket = tp->ops->ticket(tp);
        take_queue(c);
        if (target ? target->done : c->stop || c->waiters || !c->active)
            break;
        admit(c);
        pthread_mutex_unlock(&c->lock);

        bool moved = false, over = false;
        for (tr_transfer *t = c->active; t; t = t->next) {
            if (!t->admitted)
                continue;
            moved = advance(t) || moved;
            over = complete(t) || over;
        }
        tp->ops->pulse(tp);
        bool failed = tp->ops->failure(tp) != NULL;
        if (moved || over)
            patience = 0;
        else if (!failed)
            tp->ops->idle(tp, ticket, &patience);

        pthread_mutex_lock(&c->lock);
        if (over) {
            tr_transfer **link = &c->active;
            while (*link) {
                tr_transfer *t = *link;
                if (t->admitted && complete(t)) {
                    c->waiting = true;
                    *link = t->next;
                    end_transfer(c, t, false);
                } else {
                    link = &t->next;
                }
            }
            c->active_end = link;
            pthread_cond_broadcast(&c->changed);
        }
        if (failed)
            fail_all(c);
    }
    c->driving = false;
    pthread_cond_broadcast(&c->changed);
    if (c->has_progress && target && c->active && !c->waiters)
        pthread_cond_signal(&c->work);
}

static void *progress_main(void *argument)
{
    tr_comm *c = argument;
    tr_transport *tp = c->transport;
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        if (!c->driving && !c->waiters && (c->active || c->queued)) {
            drive(c, NULL);
        } else if (tp->ops->beats) {
            if (!c->driving) {
                tp->ops->pulse(tp);
                if (!c->failed && tp->ops->failure(tp))
                    fail_all(c);
            }
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += 250000000;
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec++;
            }
            pthread_cond_timedwait(&c->work, &c->lock, &until);
        } else {
            pthread_cond_wait(&c->work, &c->lock);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* Under the lock. Without the thread (the system may give none) operations move when they are
 * waited for. */
static void start_progress(tr_comm *c)
{
    if (!c->has_progress && !c->options.no_overlap)
        c->has_progress = pthread_create(&c->progress, NULL, progress_main, c) == 0;
}

tr_comm *tr_comm_open(tr_transport *transport, const tr_comm_options *options)
{
    tr_comm *c = tr_alloc_zero(1, sizeof *c);
    c->transport = transport;
    if (options)
        c->options = *options;
    c->queued_end = &c->queued;
    c->active_end = &c->active;
    c->sequence = tr_alloc_zero((size_t)transport->size, sizeof *c->sequence);
    c->place = tr_alloc((size_t)transport->size * sizeof *c->place);
    for (int32_t r = 0; r < transport->size; r++)
        c->place[r] = c->options.host_ranks > 0 ? r / c->options.host_ranks : transport->ops->place(transport, r);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    pthread_cond_init(&c->work, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_lock(&c->lock);
    if (transport->ops->beats)
        start_progress(c);
    pthread_mutex_unlock(&c->lock);
    return c;
}

/* Under the lock: returns when nobody drives. */
static void stop_driver(tr_comm *c)
{
    c->waiters++; /* the progress thread makes way */
    while (c->driving) {
        c->transport->ops->wake(c->transport);
        pthread_cond_wait(&c->changed, &c->lock);
    }
    c->waiters--;
}

void tr_comm_close(tr_comm *c)
{
    pthread_mutex_lock(&c->lock);
    stop_driver(c);
    c->stop = true;
    if (c->active || c->queued)
        fail_all(c);
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
    if (c->has_progress)
        pthread_join(c->progress, NULL);
    for (int64_t i = 0; i < c->room_count; i++)
        free(c->rooms[i].bytes);
    free(c->rooms);
    free(c->sequence);
    free(c->place);
    pthread_cond_destroy(&c->changed);
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

tr_pending *tr_transfer_start(tr_transfer *t, bool background)
{
    tr_comm *c = t->comm;
    background = background && !c->hint.at_once;
    c->hint = (tr_comm_hint){0};
    int64_t most = TR_MAX(t->most_requests, 1);
    tr_request *requests = tr_alloc_zero((size_t)(4 * most), sizeof *requests);
    for (int k = 0; k < 2; k++) {
        t->window[k].sends = requests + 2 * k * most;
        t->window[k].receives = requests + (2 * k + 1) * most;
    }
    pthread_mutex_lock(&c->lock);
    if (t->channel == TR_CHANNEL_COLLECTIVE)
        for (int32_t k = 0; k < t->n; k++)
            t->tags[k] = c->sequence[t->ranks[k]]++;
    if (c->failed) {
        end_transfer(c, t, true);
    } else {
        *c->queued_end = t;
        c->queued_end = &t->next;
        if (background)
            start_progress(c);
        if (c->driving)
            c->transport->ops->wake(c->transport);
        else if (background && c->has_progress)
            pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    return t;
}

static tr_error *failure_error(const tr_comm *c)
{
    const tr_failure *failure = c->transport->ops->failure(c->transport);
    return failure ? tr_error_new(failure->blame, "%s", failure->sentence)
                   : tr_error_new(TR_RUN, "the operation was cancelled");
}

void tr_comm_next(tr_comm *c, tr_comm_hint hint)
{
    c->hint = hint;
}

tr_error *tr_comm_wait(tr_comm *c, tr_pending **pending)
{
    int64_t over;
    return tr_comm_wait_timed(c, pending, &over);
}

tr_error *tr_comm_wait_timed(tr_comm *c, tr_pending **pending, int64_t *out_over_ns)
{
    tr_transfer *t = *pending;
    *pending = NULL;
    *out_over_ns = 0;
    if (!t)
        return NULL;
    pthread_mutex_lock(&c->lock);
    c->waiters++;
    while (!t->done) {
        if (!c->driving) {
            c->waiters--; /* who drives does not wait for the driver */
            drive(c, t);
            c->waiters++;
        } else {
            c->transport->ops->wake(c->transport);
            pthread_cond_wait(&c->changed, &c->lock);
        }
    }
    c->waiters--;
    if (c->has_progress && !c->driving && !c->waiters && c->active)
        pthread_cond_signal(&c->work);
    tr_error *error = t->failed ? failure_error(c) : NULL;
    *out_over_ns = (int64_t)(t->over_s * 1e9);
    pthread_mutex_unlock(&c->lock);
    free_transfer(t);
    return error;
}

bool tr_comm_test(tr_comm *c, const tr_pending *pending)
{
    pthread_mutex_lock(&c->lock);
    bool done = !pending || pending->done;
    pthread_mutex_unlock(&c->lock);
    return done;
}

tr_error *tr_transfer_run(tr_transfer *t)
{
    tr_pending *pending = tr_transfer_start(t, false);
    return tr_comm_wait(t->comm, &pending);
}

tr_failure *tr_failure_new(tr_blame blame, const char *sentence)
{
    size_t bytes = strlen(sentence) + 1;
    tr_failure *failure = tr_alloc(sizeof *failure + bytes);
    failure->blame = blame;
    memcpy(failure->sentence, sentence, bytes);
    return failure;
}

void tr_comm_fail(tr_comm *c, tr_blame blame, const char *why)
{
    int32_t rank = tr_comm_rank(c);
    char *sentence = tr_format("rank %d on host %s failed: %s", rank, tr_comm_host(c, rank), why);
    c->transport->ops->fail(c->transport, blame, sentence);
    free(sentence);
    pthread_mutex_lock(&c->lock);
    stop_driver(c);
    fail_all(c);
    pthread_mutex_unlock(&c->lock);
}

tr_error *tr_comm_check(tr_comm *c)
{
    return c->transport->ops->failure(c->transport) ? failure_error(c) : NULL;
}

void tr_comm_set_agreed(tr_comm *c)
{
    c->agreed = true;
}

bool tr_comm_agreed(const tr_comm *c)
{
    return c->agreed;
}
