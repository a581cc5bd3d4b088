/* Ranks as threads of one process: collectives straight between their buffers.
 *
 * A collective is: post my buffer, meet; read from the others' buffers what is mine, meet again. Nothing is
 * copied in between. all_reduce: rank i sums part i of everybody's buffer, in the order of the ranks, and
 * writes the sum to everybody's part i:
 *
 *     rank 0   [a0 a1 a2]      rank 0 sums a0+b0+c0 -> all
 *     rank 1   [b0 b1 b2]      rank 1 sums a1+b1+c1 -> all
 *     rank 2   [c0 c1 c2]      rank 2 sums a2+b2+c2 -> all
 *
 * Cost of B bytes on n ranks: each reads B and writes B; two meetings.
 *
 * Invariants
 *  1. A posted buffer is not touched by its rank between the two meetings.
 *  2. When a rank has failed, a first meeting that is not complete returns an error. The second one waits all
 *     the same: whoever left the first will come, and until then may read the others' buffers.
 */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "comm/ranks.h"

typedef struct meeting {
    pthread_cond_t changed;
    int size, arrived;
    uint64_t round;
} meeting;

typedef struct post {
    void *data;
    const int64_t *sizes;
} post;

typedef struct world {
    pthread_mutex_t lock; /* of all meetings, and of what follows */
    bool failed;
    int failed_rank;
    int count;
    const tr_place_on_mesh *places;
    meeting *meetings; /* [axes + 1][count]: by the group's first rank; the last row is everybody */
    post *posts;       /* by rank */
} world;

typedef struct member {
    tr_ranks ranks;
    world *world;
    int *group[TR_COMM_AXES]; /* ranks along each axis, in order */
    tr_error *(*main)(tr_ranks *, void *);
    void *user;
    tr_error *error;
} member;

static meeting *find_meeting(world *w, int axis, int first_rank)
{
    int row = axis < 0 ? TR_COMM_AXES : axis;
    return &w->meetings[row * w->count + (axis < 0 ? 0 : first_rank)];
}

static tr_error *meet(member *m, int axis, bool second)
{
    world *w = m->world;
    meeting *at = find_meeting(w, axis, axis < 0 ? 0 : m->group[axis][0]);
    pthread_mutex_lock(&w->lock);
    uint64_t round = at->round;
    if (++at->arrived == at->size) {
        at->arrived = 0;
        at->round++;
        pthread_cond_broadcast(&at->changed);
    }
    while (at->round == round && (second || !w->failed))
        pthread_cond_wait(&at->changed, &w->lock);
    bool left = at->round != round;
    int failed = w->failed_rank;
    pthread_mutex_unlock(&w->lock);
    return left ? NULL : tr_error_new(TR_RUN, "rank %d stopped because rank %d failed", m->ranks.rank, failed);
}

static float load(const void *data, int64_t i, tr_dtype dtype)
{
    return dtype == TR_F32 ? ((const float *)data)[i] : tr_bf16_to_f32(((const uint16_t *)data)[i]);
}

static void store(void *data, int64_t i, tr_dtype dtype, float value)
{
    if (dtype == TR_F32)
        ((float *)data)[i] = value;
    else
        ((uint16_t *)data)[i] = tr_f32_to_bf16(value);
}

enum { BLOCK = 1024 };

/* sum[0..n) = over the group, elements first.. of each rank's buffer. */
static void sum_block(const member *m, int axis, int64_t first, int64_t n, tr_dtype dtype, float *sum)
{
    for (int r = 0; r < m->ranks.axis_size[axis]; r++) {
        const void *data = m->world->posts[m->group[axis][r]].data;
        if (dtype == TR_F32) {
            const float *x = (const float *)data + first;
            for (int64_t i = 0; i < n; i++)
                sum[i] = r ? sum[i] + x[i] : x[i];
        } else {
            for (int64_t i = 0; i < n; i++)
                sum[i] = (r ? sum[i] : 0) + load(data, first + i, dtype);
        }
    }
}

static tr_error *all_reduce(tr_ranks *ranks, int axis, void *data, int64_t elems, tr_dtype dtype)
{
    member *m = (member *)ranks->own;
    int n = ranks->axis_size[axis], me = ranks->axis_index[axis];
    int64_t first = elems * me / n, end = elems * (me + 1) / n, width = tr_dtype_bytes(dtype);
    m->world->posts[ranks->rank] = (post){data, NULL};
    TR_TRY(meet(m, axis, false));
    for (int64_t at = first; at < end; at += BLOCK) {
        float sum[BLOCK];
        int64_t count = TR_MIN((int64_t)BLOCK, end - at);
        sum_block(m, axis, at, count, dtype, sum);
        for (int r = 0; r < n; r++) {
            void *to = m->world->posts[m->group[axis][r]].data;
            if (dtype == TR_F32)
                memcpy((float *)to + at, sum, (size_t)count * sizeof(float));
            else
                for (int64_t i = 0; i < count; i++)
                    store(to, at + i, dtype, sum[i]);
        }
    }
    ranks->bytes_sent += (elems - (end - first) + (end - first) * (n - 1)) * width;
    return meet(m, axis, true);
}

static tr_error *all_gather(tr_ranks *ranks, int axis, const void *mine, void *all, const int64_t *block_bytes)
{
    member *m = (member *)ranks->own;
    int n = ranks->axis_size[axis];
    char *to = all;
    m->world->posts[ranks->rank] = (post){(void *)(uintptr_t)mine, NULL};
    TR_TRY(meet(m, axis, false));
    for (int r = 0; r < n; r++) {
        memcpy(to, m->world->posts[m->group[axis][r]].data, (size_t)block_bytes[r]);
        to += block_bytes[r];
    }
    ranks->bytes_sent += block_bytes[ranks->axis_index[axis]] * (n - 1);
    return meet(m, axis, true);
}

static tr_error *reduce_scatter(tr_ranks *ranks, int axis, const void *all, void *mine, const int64_t *block_elems,
                                tr_dtype dtype)
{
    member *m = (member *)ranks->own;
    int n = ranks->axis_size[axis], me = ranks->axis_index[axis];
    int64_t first = 0, total = 0;
    for (int r = 0; r < n; r++) {
        first += r < me ? block_elems[r] : 0;
        total += block_elems[r];
    }
    m->world->posts[ranks->rank] = (post){(void *)(uintptr_t)all, NULL};
    TR_TRY(meet(m, axis, false));
    for (int64_t at = 0; at < block_elems[me]; at += BLOCK) {
        float sum[BLOCK];
        int64_t count = TR_MIN((int64_t)BLOCK, block_elems[me] - at);
        sum_block(m, axis, first + at, count, dtype, sum);
        for (int64_t i = 0; i < count; i++)
            store(mine, at + i, dtype, sum[i]);
    }
    ranks->bytes_sent += (total - block_elems[me]) * tr_dtype_bytes(dtype);
    return meet(m, axis, true);
}

static tr_error *all_to_all(tr_ranks *ranks, int axis, const void *send, const int64_t *send_bytes, void *receive,
                            const int64_t *receive_bytes)
{
    member *m = (member *)ranks->own;
    int n = ranks->axis_size[axis], me = ranks->axis_index[axis];
    char *to = receive;
    m->world->posts[ranks->rank] = (post){(void *)(uintptr_t)send, send_bytes};
    TR_TRY(meet(m, axis, false));
    for (int r = 0; r < n; r++) {
        const post *theirs = &m->world->posts[m->group[axis][r]];
        const char *from = theirs->data;
        for (int k = 0; k < me; k++)
            from += theirs->sizes[k];
        TR_CHECK(theirs->sizes[me] == receive_bytes[r], "rank %d sends %lld bytes to rank %d, which expects %lld",
                 m->group[axis][r], (long long)theirs->sizes[me], ranks->rank, (long long)receive_bytes[r]);
        memcpy(to, from, (size_t)receive_bytes[r]);
        to += receive_bytes[r];
        ranks->bytes_sent += r == me ? 0 : send_bytes[r];
    }
    return meet(m, axis, true);
}

static tr_error *all_max(tr_ranks *ranks, double *values, int count)
{
    member *m = (member *)ranks->own;
    double *mine = tr_alloc((size_t)TR_MAX(count, 1) * sizeof *mine);
    if (count)
        memcpy(mine, values, (size_t)count * sizeof *mine);
    m->world->posts[ranks->rank] = (post){mine, NULL};
    tr_error *error = meet(m, -1, false);
    for (int r = 0; r < ranks->count && !error; r++)
        for (int i = 0; i < count; i++)
            values[i] = TR_MAX(values[i], ((const double *)m->world->posts[r].data)[i]);
    if (!error)
        error = meet(m, -1, true);
    free(mine);
    return error;
}

static bool along(const tr_place_on_mesh *a, const tr_place_on_mesh *b, int axis)
{
    for (int k = 0; k < a->axes; k++)
        if (k != axis && a->index[k] != b->index[k])
            return false;
    return true;
}

static void join_world(member *m, world *w, int rank)
{
    const tr_place_on_mesh *place = &w->places[rank];
    m->world = w;
    m->ranks = (tr_ranks){.rank = rank, .count = w->count, .all_reduce = all_reduce, .all_gather = all_gather,
                          .reduce_scatter = reduce_scatter, .all_to_all = all_to_all, .all_max = all_max, .own = m};
    for (int a = 0; a < place->axes; a++) {
        int n = 0;
        m->ranks.axis_size[a] = place->size[a];
        m->ranks.axis_index[a] = place->index[a];
        m->group[a] = tr_alloc_zero((size_t)w->count, sizeof(int));
        for (int r = 0; r < w->count; r++)
            if (along(place, &w->places[r], a))
                m->group[a][n++] = r;
        TR_CHECK(n == place->size[a], "axis %d has %d ranks, not %d", a, n, place->size[a]);
        find_meeting(w, a, m->group[a][0])->size = n;
    }
}

static void *rank_main(void *argument)
{
    member *m = argument;
    world *w = m->world;
    m->error = m->main(&m->ranks, m->user);
    if (m->error) {
        pthread_mutex_lock(&w->lock);
        if (!w->failed) {
            w->failed = true;
            w->failed_rank = m->ranks.rank;
        }
        for (int i = 0; i < (TR_COMM_AXES + 1) * w->count; i++)
            pthread_cond_broadcast(&w->meetings[i].changed);
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

tr_error *tr_ranks_run_threads(int count, const tr_place_on_mesh *places, tr_error *(*main)(tr_ranks *, void *),
                               void *user)
{
    world w = {.count = count, .places = places};
    w.meetings = tr_alloc_zero((size_t)count * (TR_COMM_AXES + 1), sizeof *w.meetings);
    w.posts = tr_alloc_zero((size_t)count, sizeof *w.posts);
    member *members = tr_alloc_zero((size_t)count, sizeof *members);
    pthread_t *threads = tr_alloc_zero((size_t)count, sizeof *threads);
    tr_error *error = NULL;
    int started = 0;
    pthread_mutex_init(&w.lock, NULL);
    for (int i = 0; i < (TR_COMM_AXES + 1) * count; i++)
        pthread_cond_init(&w.meetings[i].changed, NULL);
    find_meeting(&w, -1, 0)->size = count;
    for (int r = 0; r < count; r++) {
        join_world(&members[r], &w, r);
        members[r].main = main;
        members[r].user = user;
    }
    for (; started < count; started++)
        if (pthread_create(&threads[started], NULL, rank_main, &members[started]) != 0) {
            error = tr_error_new(TR_RUN, "the system gives no thread for rank %d of %d", started, count);
            pthread_mutex_lock(&w.lock);
            w.failed = true;
            w.failed_rank = started;
            pthread_mutex_unlock(&w.lock);
            break;
        }
    for (int r = 0; r < started; r++)
        pthread_join(threads[r], NULL);
    if (!error && w.failed) {
        error = members[w.failed_rank].error;
        members[w.failed_rank].error = NULL;
    }
    for (int r = 0; r < count; r++) {
        tr_error_free(members[r].error);
        for (int a = 0; a < TR_COMM_AXES; a++)
            free(members[r].group[a]);
    }
    for (int i = 0; i < (TR_COMM_AXES + 1) * count; i++)
        pthread_cond_destroy(&w.meetings[i].changed);
    pthread_mutex_destroy(&w.lock);
    free(w.meetings);
    free(w.posts);
    free(members);
    free(threads);
    return error;
}
