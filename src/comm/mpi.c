/* Ranks as processes under MPI (Open MPI 4 and 5, MPICH): MPI-1 point-to-point, by one thread at a
 * time.
 *
 * Built with -DTRIREME_MPI. Without it the functions are here all the same and say so.
 *
 * Blocks with rows apart and blocks of more than INT_MAX bytes travel as one message of a derived
 * type; nothing is packed by us. Channels are communicators of their own. Errors are returned, not
 * fatal.
 *
 * Who is alive. Each rank sends an empty message twice a second to the ranks before and after it in
 * the ring of ranks, and listens for them. One that has been silent for `silence_seconds` is taken
 * for dead; who finds that, or fails itself, tells everybody in one message with the sentence. On
 * its own host a rank also looks whether the process of the next rank still exists. Cost: 4 small
 * messages a second.
 *     - A rank that was itself stopped (its pulse has paused) first listens again before it
 * accuses.
 *     - With Open MPI 4, mpirun ends all ranks as soon as one is killed, mostly before the
 * sentence.
 *
 * Waiting: polls for some microseconds where ranks do not outnumber cores, then gives the core away
 * (sched_yield), then sleeps 50 to 200 us between polls.
 */
#include "comm/world.h"

#include <stdlib.h>

/* The number in an environment variable, or 0. */
static int32_t number_in(const char *name)
{
    const char *text = getenv(name);
    return text ? (int32_t)strtol(text, NULL, 10) : 0;
}

#ifndef TRIREME_MPI

bool tr_mpi_built(void)
{
    return false;
}

bool tr_mpi_launched(int32_t *out_ranks)
{
    *out_ranks = 0;
    return false;
}

tr_error *tr_mpi_transport_open(const tr_comm_options *options, tr_transport **out,
                                bool *out_progress)
{
    (void)options;
    *out = NULL;
    *out_progress = false;
    (void)number_in;
    return tr_error_new(
        TR_USER,
        "this trireme was built without MPI: install the development package of Open MPI or "
        "MPICH and build again, or run without mpirun");
}

void tr_mpi_transport_ending(tr_transport *transport)
{
    (void)transport;
}

void tr_mpi_transport_linger(tr_transport *transport)
{
    (void)transport;
}

void tr_mpi_transport_close(tr_transport *transport)
{
    (void)transport;
}

#else

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum { HOST_BYTES = 64, SENTENCE_BYTES = 1024, TAG_BEAT = 1, TAG_FAILURE = 2, TAG_USER_FAILURE = 3 };
enum { IDLE, POSTED, DONE };
#define BEAT_SECONDS 0.5
#define LISTEN_SECONDS 0.02
#define FLUSH_SECONDS 1.0
#define LINGER_SECONDS 1.5
#define DEFAULT_SILENCE_SECONDS 7.0

/* Where a rank lives. */
typedef struct place {
    char host[HOST_BYTES];
    int64_t process;
    int64_t process_space; /* two ranks can see each other's process when this is the same */
    int32_t lowest;        /* the lowest rank that shares memory with it */
} place;

typedef struct mpi_world {
    tr_transport base;
    MPI_Comm channel[TR_CHANNEL_COUNT], control;
    int64_t most_tag;
    place *places;
    bool spins, watches_process;
    atomic_bool ending;
    double silence_seconds;

    pthread_mutex_t lock; /* of the sleep, and of failing */
    pthread_cond_t changed;
    _Atomic uint64_t ticket;
    _Atomic(tr_failure *) failure;
    bool must_tell; /* under the lock: the failure is ours, or found by us */
    int32_t lost;   /* the rank that we have found gone or silent, or -1; the driver's */

    /* The pulse; the driver's. */
    int32_t neighbour[2];
    int32_t next_here; /* the next rank on this host, or -1 */
    double heard[2], beaten, listened;
    MPI_Request beat[2], listen;
    char notice[SENTENCE_BYTES];
} mpi_world;

_Static_assert(sizeof(MPI_Request) <= sizeof(((tr_request *)0)->handle),
               "a request does not fit its handle");

bool tr_mpi_built(void)
{
    return true;
}

bool tr_mpi_launched(int32_t *out_ranks)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_WORLD_SIZE"};
    static const char *const marks[] = {"PMIX_RANK", "PMI_RANK", "PMI_FD"};
    *out_ranks = 0;
    for (int64_t i = 0; i < TR_COUNT(sizes); i++)
        if ((*out_ranks = number_in(sizes[i])) > 0)
            return true;
    for (int64_t i = 0; i < TR_COUNT(marks); i++)
        if (getenv(marks[i]))
            return true;
    return false;
}

static mpi_world *world_of(tr_transport *t)
{
    return (mpi_world *)(void *)t;
}

static MPI_Request get_handle(const tr_request *r)
{
    MPI_Request request;
    memcpy(&request, &r->handle, sizeof request);
    return request;
}

static void set_handle(tr_request *r, MPI_Request request)
{
    memcpy(&r->handle, &request, sizeof request);
}

static void set_failure(mpi_world *w, tr_blame blame, const char *sentence, bool tell)
{
    pthread_mutex_lock(&w->lock);
    if (!atomic_load(&w->failure)) {
        w->must_tell = tell;
        atomic_store(&w->failure, tr_failure_new(blame, sentence));
    }
    atomic_fetch_add(&w->ticket, 1);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void strange_size(mpi_world *w, const tr_request *r, const char *how)
{
    char *sentence =
        tr_format("rank %d on host %s sends %s bytes where rank %d on host %s expects %lld (%s): "
                  "the ranks do "
                  "not run the same operations",
                  r->peer, w->places[r->peer].host, how, w->base.rank, w->places[w->base.rank].host,
                  (long long)tr_block_bytes(&r->block), r->what);
    set_failure(w, TR_RUN, sentence, true);
    free(sentence);
}

static bool worked(mpi_world *w, int code, const tr_request *r)
{
    if (code == MPI_SUCCESS)
        return true;
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0, class = MPI_ERR_OTHER;
    MPI_Error_class(code, &class);
    if (class == MPI_ERR_TRUNCATE) {
        strange_size(w, r, "more");
        return false;
    }
    MPI_Error_string(code, text, &length);
    char *sentence = tr_format("rank %d on host %s: %s %s rank %d on host %s failed in MPI: %s",
                               w->base.rank, w->places[w->base.rank].host, r->what,
                               r->receives ? "from" : "to", r->peer, w->places[r->peer].host, text);
    set_failure(w, TR_RUN, sentence, true);
    free(sentence);
    return false;
}

/* A type of which one element is the block; MPI_BYTE with *out_count bytes where that will do. */
static MPI_Datatype block_type(const tr_block *b, int *out_count)
{
    int64_t bytes = tr_block_bytes(b);
    bool dense = b->rows == 1 || b->stride == b->row_bytes;
    if (dense && bytes <= INT_MAX) {
        *out_count = (int)bytes;
        return MPI_BYTE;
    }
    *out_count = 1;
    MPI_Datatype type;
    if (!dense && b->row_bytes <= INT_MAX && b->rows <= INT_MAX) {
        MPI_Type_create_hvector((int)b->rows, (int)b->row_bytes, (MPI_Aint)b->stride, MPI_BYTE,
                                &type);
    } else {
        /* Rows of gigabytes: whole gigabytes and a rest, a row; all rows. */
        int64_t row = dense ? bytes : b->row_bytes, rows = dense ? 1 : b->rows,
                big = (int64_t)1 << 30;
        MPI_Datatype giga, part, parts[2];
        MPI_Type_contiguous((int)big, MPI_BYTE, &giga);
        parts[0] = giga;
        parts[1] = MPI_BYTE;
        MPI_Type_create_struct(2, (int[]){(int)(row / big), (int)(row % big)},
                               (MPI_Aint[]){0, (MPI_Aint)(row / big * big)}, parts, &part);
        MPI_Type_create_hvector((int)rows, 1, (MPI_Aint)b->stride, part, &type);
        MPI_Type_free(&giga);
        MPI_Type_free(&part);
    }
    MPI_Type_commit(&type);
    return type;
}

static void post(tr_transport *t, tr_request *r, bool receives)
{
    mpi_world *w = world_of(t);
    int count, code, tag = (int)(r->tag % (w->most_tag + 1));
    MPI_Datatype type = block_type(&r->block, &count);
    MPI_Request request = MPI_REQUEST_NULL;
    r->receives = receives;
    r->data = r->block;
    if (receives)
        code =
            MPI_Irecv(r->block.bytes, count, type, r->peer, tag, w->channel[r->channel], &request);
    else
        code =
            MPI_Isend(r->block.bytes, count, type, r->peer, tag, w->channel[r->channel], &request);
    if (type != MPI_BYTE)
        MPI_Type_free(&type);
    set_handle(r, request);
    atomic_store_explicit(&r->state, worked(w, code, r) ? POSTED : IDLE, memory_order_relaxed);
}

static void post_send(tr_transport *t, tr_request *r)
{
    post(t, r, false);
}

static void post_receive(tr_transport *t, tr_request *r)
{
    post(t, r, true);
}

static bool test(tr_transport *t, tr_request *r)
{
    mpi_world *w = world_of(t);
    int state = atomic_load_explicit(&r->state, memory_order_relaxed);
    if (state != POSTED)
        return state == DONE;
    int over = 0;
    MPI_Status status;
    MPI_Request request = get_handle(r);
    int code = MPI_Test(&request, &over, &status);
    set_handle(r, request);
    if (!worked(w, code, r)) {
        atomic_store_explicit(&r->state, IDLE, memory_order_relaxed);
        return false;
    }
    if (!over)
        return false;
    int got = 0;
    int64_t want = tr_block_bytes(&r->block);
    if (r->receives && want <= INT_MAX &&
        (r->block.rows == 1 || r->block.stride == r->block.row_bytes)) {
        MPI_Get_count(&status, MPI_BYTE, &got);
        if (got != want) {
            char bytes[16];
            snprintf(bytes, sizeof bytes, "%d", got);
            strange_size(w, r, bytes);
            atomic_store_explicit(&r->state, IDLE, memory_order_relaxed);
            return false;
        }
    }
    atomic_store_explicit(&r->state, DONE, memory_order_relaxed);
    return true;
}

static void release(tr_transport *t, tr_request *r)
{
    (void)t;
    (void)r;
}

/* A send cannot be taken back: its data may still be read until the process ends. */
static void cancel(tr_transport *t, tr_request *r)
{
    (void)t;
    MPI_Request request = get_handle(r);
    if (atomic_load_explicit(&r->state, memory_order_relaxed) == POSTED &&
        request != MPI_REQUEST_NULL) {
        if (r->receives)
            MPI_Cancel(&request);
        MPI_Request_free(&request);
    }
    atomic_store_explicit(&r->state, IDLE, memory_order_relaxed);
}

static uint64_t read_ticket(tr_transport *t)
{
    return atomic_load(&world_of(t)->ticket);
}

static void idle(tr_transport *t, uint64_t ticket, int64_t *patience)
{
    mpi_world *w = world_of(t);
    ++*patience;
    if (w->spins && *patience < 50)
        return; /* each poll takes a part of a microsecond */
    if (*patience < 150) {
        sched_yield();
        return;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += *patience < 350 ? 50000 : 200000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&w->lock);
    if (atomic_load(&w->ticket) == ticket)
        pthread_cond_timedwait(&w->changed, &w->lock, &until);
    pthread_mutex_unlock(&w->lock);
}

static void wake(tr_transport *t)
{
    mpi_world *w = world_of(t);
    pthread_mutex_lock(&w->lock);
    atomic_fetch_add(&w->ticket, 1);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* ---- who is alive ---- */

static void listen(mpi_world *w)
{
    MPI_Irecv(w->notice, SENTENCE_BYTES, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, w->control,
              &w->listen);
}

static void hear(mpi_world *w, double now)
{
    for (;;) {
        int over = 0;
        MPI_Status status;
        if (w->listen == MPI_REQUEST_NULL || MPI_Test(&w->listen, &over, &status) != MPI_SUCCESS ||
            !over)
            return;
        for (int k = 0; k < 2; k++)
            if (status.MPI_SOURCE == w->neighbour[k])
                w->heard[k] = now;
        if (status.MPI_TAG != TAG_BEAT) {
            w->notice[SENTENCE_BYTES - 1] = 0;
            set_failure(w, status.MPI_TAG == TAG_USER_FAILURE ? TR_USER : TR_RUN, w->notice, false);
        }
        listen(w);
    }
}

static void tell(mpi_world *w)
{
    char *notice = tr_alloc_zero(1, SENTENCE_BYTES);
    const tr_failure *failure = atomic_load(&w->failure);
    int tag = failure->blame == TR_USER ? TAG_USER_FAILURE : TAG_FAILURE;
    snprintf(notice, SENTENCE_BYTES, "%s", failure->sentence);
    MPI_Request *told = tr_alloc((size_t)w->base.size * sizeof *told);
    for (int32_t i = 0; i < w->base.size; i++) {
        told[i] = MPI_REQUEST_NULL;
        if (i != w->base.rank)
            MPI_Isend(notice, SENTENCE_BYTES, MPI_BYTE, i, tag, w->control, &told[i]);
    }
    bool leaves = w->lost >= 0 && told[w->lost] != MPI_REQUEST_NULL;
    if (leaves) /* it may listen again, but nobody waits for that */
        MPI_Request_free(&told[w->lost]);
    double until = tr_seconds() + FLUSH_SECONDS;
    int all = 0;
    while (!all && tr_seconds() < until) {
        if (MPI_Testall(w->base.size, told, &all, MPI_STATUSES_IGNORE) != MPI_SUCCESS)
            break;
        sched_yield();
    }
    free(told);
    if (all && !leaves) /* otherwise MPI may still read it */
        free(notice);
}

static void beat(mpi_world *w)
{
    for (int k = 0; k < 2; k++) {
        int over = 1;
        if (w->neighbour[k] < 0 || (k == 1 && w->neighbour[1] == w->neighbour[0]))
            continue;
        if (w->beat[k] != MPI_REQUEST_NULL)
            MPI_Test(&w->beat[k], &over, MPI_STATUS_IGNORE);
        if (over)
            MPI_Isend(NULL, 0, MPI_BYTE, w->neighbour[k], TAG_BEAT, w->control, &w->beat[k]);
    }
}

static void check_silence(mpi_world *w, double now)
{
    for (int k = 0; k < 2; k++) {
        int32_t rank = w->neighbour[k];
        if (rank < 0 || now - w->heard[k] < w->silence_seconds)
            continue;
        char *sentence = tr_format("rank %d on host %s has not been heard of for %.0f s: its "
                                   "process was killed or stopped, "
                                   "or its host or network is down",
                                   rank, w->places[rank].host, now - w->heard[k]);
        w->lost = rank;
        set_failure(w, TR_RUN, sentence, true);
        free(sentence);
    }
}

/* The state letter of a process, or 0 when there is none. */
static char process_state(int64_t process)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)process);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? 0 : '?';
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0)
        return 0;
    text[length] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] && end[2] ? end[2] : '?';
}

static void check_process(mpi_world *w)
{
    if (w->next_here < 0)
        return;
    char state = process_state(w->places[w->next_here].process);
    if (state != 0 && state != 'Z' && state != 'X')
        return;
    char *sentence = tr_format(
        "rank %d on host %s has gone without a word: its process was killed, perhaps because "
        "memory ran out, or it crashed",
        w->next_here, w->places[w->next_here].host);
    w->lost = w->next_here;
    set_failure(w, TR_RUN, sentence, true);
    free(sentence);
}

static void pulse(tr_transport *t)
{
    mpi_world *w = world_of(t);
    pthread_mutex_lock(&w->lock);
    bool tells = w->must_tell;
    w->must_tell = false;
    pthread_mutex_unlock(&w->lock);
    if (tells)
        tell(w);
    double now = tr_seconds();
    if (now - w->listened < LISTEN_SECONDS)
        return;
    if (now - w->listened > TR_MAX(2.0, w->silence_seconds / 2))
        w->heard[0] = w->heard[1] = now; /* we were stopped ourselves */
    w->listened = now;
    hear(w, now);
    if (atomic_load(&w->failure))
        return;
    if (w->watches_process && !atomic_load(&w->ending))
        check_process(w);
    if (now - w->beaten < BEAT_SECONDS)
        return;
    w->beaten = now;
    beat(w);
    if (w->silence_seconds > 0 && !atomic_load(&w->ending))
        check_silence(w, now);
}

static const tr_failure *failure(tr_transport *t)
{
    return atomic_load(&world_of(t)->failure);
}

static void fail(tr_transport *t, tr_blame blame, const char *sentence)
{
    set_failure(world_of(t), blame, sentence, true);
}

static const char *host(tr_transport *t, int32_t rank)
{
    return world_of(t)->places[rank].host;
}

static int32_t place_of(tr_transport *t, int32_t rank)
{
    return world_of(t)->places[rank].lowest;
}

static const tr_transport_ops ops = {
    .name = "mpi",
    .beats = true,
    .segment_bytes = TR_MPI_SEGMENT_BYTES,
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
    .place = place_of,
};

/* ---- opening and closing ---- */

static void find_places(mpi_world *w)
{
    place own = {.process = getpid()};
    if (gethostname(own.host, sizeof own.host - 1) != 0)
        strcpy(own.host, "unknown");
    char space[64] = "";
    if (readlink("/proc/self/ns/pid", space, sizeof space - 1) > 5)
        own.process_space = strtoll(space + 5, NULL, 10);
    MPI_Comm near;
    MPI_Comm_split_type(w->control, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &near);
    MPI_Allreduce(&w->base.rank, &own.lowest, 1, MPI_INT32_T, MPI_MIN, near);
    MPI_Comm_free(&near);
    w->places = tr_alloc_zero((size_t)w->base.size, sizeof *w->places);
    MPI_Allgather(&own, sizeof own, MPI_BYTE, w->places, sizeof own, MPI_BYTE, w->control);
    int32_t here = 0;
    w->next_here = -1;
    for (int32_t i = w->base.size; i-- > 1;) {
        const place *p = &w->places[(w->base.rank + i) % w->base.size];
        if (strcmp(p->host, own.host) != 0 || p->process_space != own.process_space ||
            !own.process_space)
            continue;
        here++;
        if (process_state(p->process))
            w->next_here = (w->base.rank + i) % w->base.size;
    }
    w->watches_process = w->next_here >= 0;
    /* Not the cores of this process: mpirun may have bound each rank to its own. */
    w->spins = sysconf(_SC_NPROCESSORS_ONLN) > here;
}

tr_error *tr_mpi_transport_open(const tr_comm_options *options, tr_transport **out,
                                bool *out_progress)
{
    int provided = MPI_THREAD_SINGLE, already = 0;
    *out = NULL;
    MPI_Initialized(&already);
    if (already)
        return tr_error_new(TR_USER, "MPI was started before: one world a process");
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        return tr_error_new(TR_RUN, "MPI does not start: try a small program of your MPI "
                                    "installation with the same mpirun");
    mpi_world *w = tr_alloc_zero(1, sizeof *w);
    w->base.ops = &ops;
    MPI_Comm_rank(MPI_COMM_WORLD, &w->base.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->base.size);
    MPI_Comm_dup(MPI_COMM_WORLD, &w->control);
    MPI_Comm_set_errhandler(w->control, MPI_ERRORS_RETURN);
    for (int k = 0; k < TR_CHANNEL_COUNT; k++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &w->channel[k]);
        MPI_Comm_set_errhandler(w->channel[k], MPI_ERRORS_RETURN);
    }
    int *most_tag, found = 0;
    w->most_tag = 32767;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most_tag, &found);
    if (found)
        w->most_tag = *most_tag;
    find_places(w);

    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, &attributes);
    pthread_condattr_destroy(&attributes);

    int32_t n = w->base.size;
    w->neighbour[0] = n > 1 ? (w->base.rank + n - 1) % n : -1;
    w->neighbour[1] = n > 1 ? (w->base.rank + 1) % n : -1;
    w->lost = -1;
    w->heard[0] = w->heard[1] = w->listened = tr_seconds();
    w->beat[0] = w->beat[1] = w->listen = MPI_REQUEST_NULL;
    w->silence_seconds =
        options->silence_seconds ? options->silence_seconds : DEFAULT_SILENCE_SECONDS;
    *out_progress = provided >= MPI_THREAD_SERIALIZED && !options->no_overlap;
    if (!*out_progress)
        w->silence_seconds = -1; /* a rank that computes would seem dead */
    if (n > 1)
        listen(w);
    *out = &w->base;
    return NULL;
}

void tr_mpi_transport_ending(tr_transport *t)
{
    mpi_world *w = world_of(t);
    atomic_store(&w->ending, true);
}

void tr_mpi_transport_linger(tr_transport *t)
{
    double until = tr_seconds() + LINGER_SECONDS;
    while (tr_seconds() < until) {
        pulse(t);
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
}

void tr_mpi_transport_close(tr_transport *t)
{
    mpi_world *w = world_of(t);
    if (w->listen != MPI_REQUEST_NULL) {
        MPI_Cancel(&w->listen);
        MPI_Wait(&w->listen, MPI_STATUS_IGNORE);
    }
    for (int k = 0; k < 2; k++)
        if (w->beat[k] != MPI_REQUEST_NULL)
            MPI_Wait(&w->beat[k], MPI_STATUS_IGNORE);
    for (int k = 0; k < TR_CHANNEL_COUNT; k++)
        MPI_Comm_free(&w->channel[k]);
    MPI_Comm_free(&w->control);
    MPI_Finalize();
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(atomic_load(&w->failure));
    free(w->places);
    free(w);
}

#endif
