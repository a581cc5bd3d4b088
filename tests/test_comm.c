/* Communication: mesh, collectives and failures, over both transports.
 *
 *     test_comm                    everything over threads, 1, 2, 3, 4, 5 and 8 ranks
 *     mpirun -n N test_comm        the collectives over MPI
 *     mpirun -n N test_comm CASE   a failure: error, mismatch, agree, stop, kill (see
 * test_comm_mpi.sh) [mpirun -n 2] test_comm huge [mpirun -n N] test_comm bench [RANKS
 * [SEGMENT_BYTES]]
 *     mpirun -n N test_comm link [BYTES TURNS]...   sums of so many bytes, for bench/hosts.sh and test_two_hosts.sh
 *
 * Every rank knows what every other puts in, so each result is compared with a plain computation,
 * bit by bit. A failing check prints the seed of its operation.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "comm/comm.h"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_us(int64_t us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

/* In a rank's function: a check that fails is the rank's error, and cancels the others. */
#define EXPECT(condition, ...)                                                                  \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            char *detail_ = tr_format(__VA_ARGS__);                                             \
            tr_error *wrong_ =                                                                  \
                tr_error_new(TR_RUN, "%s:%d: %s: %s", __FILE__, __LINE__, #condition, detail_); \
            free(detail_);                                                                      \
            return wrong_;                                                                      \
        }                                                                                       \
    } while (0)

/* ---- what each rank puts in, and what must come out ---- */

static float float_of(uint32_t seed, int32_t rank, int64_t i)
{
    uint32_t word = tr_random(seed, 0, (uint32_t)rank, (uint64_t)i).word[0];
    return (tr_random_unit(word) - 0.5f) * (float)(1 << (word % 7));
}

static void put(void *buffer, tr_dtype dtype, int64_t i, double value)
{
    switch (dtype) {
    case TR_F32:
        ((float *)buffer)[i] = (float)value;
        break;
    case TR_BF16:
        ((uint16_t *)buffer)[i] = tr_f32_to_bf16((float)value);
        break;
    case TR_F64:
        ((double *)buffer)[i] = value;
        break;
    case TR_I64:
        ((int64_t *)buffer)[i] = (int64_t)(value * 1e9);
        break;
    case TR_I32:
        ((int32_t *)buffer)[i] = (int32_t)(value * 1e6);
        break;
    default:
        ((uint8_t *)buffer)[i] = (uint8_t)(int64_t)(value * 100);
    }
}

static void fill(void *buffer, tr_dtype dtype, int64_t count, uint32_t seed, int32_t rank)
{
    for (int64_t i = 0; i < count; i++)
        put(buffer, dtype, i, (double)float_of(seed, rank, i));
}

static float rounded(float x)
{
    return tr_bf16_to_f32(tr_f32_to_bf16(x));
}

/* Of the worlds that are running: so many ranks count as one host's, 0: all; and so many bytes go directly. */
static int32_t host_ranks;
static int64_t direct_bytes;

/* Members on each host of a group: all, unless every host has as many, at least two. Groups of the suite ascend, so
 * that hosts are always together. */
static int32_t members_here(const tr_group *g)
{
    int32_t count[64] = {0}, first = host_ranks ? g->ranks[0] / host_ranks : 0;
    for (int32_t k = 0; k < g->count && host_ranks; k++)
        count[g->ranks[k] / host_ranks]++;
    for (int32_t h = 0; h < 64; h++)
        if (count[h] && count[h] != count[first])
            return g->count;
    return host_ranks && count[first] > 1 ? count[first] : g->count;
}

/* The same of an operation on so many bytes: those of the way it takes. */
static int32_t way_of(const tr_group *g, int64_t bytes)
{
    return bytes <= direct_bytes ? g->count : members_here(g);
}

/* The reduction of element i over the group, written at `at`: in the order of the ranks; by hosts, where there are
 * several: of floats each host's is rounded to what travels. */
static void expected(void *out, int64_t at, tr_dtype dtype, tr_dtype wire, tr_reduction reduction,
                     bool round_result, uint32_t seed, const tr_group *g, int64_t i)
{
    int32_t here = members_here(g);
    bool narrow = dtype == TR_BF16 || wire == TR_BF16;
    if (here < g->count && (dtype == TR_F32 || dtype == TR_BF16)) {
        float whole = 0;
        for (int32_t k = 0; k < g->count; k += here) {
            float sum = 0;
            for (int32_t j = k; j < k + here; j++) {
                float value = float_of(seed, g->ranks[j], i);
                value = narrow ? rounded(value) : value;
                sum = j == k ? value : reduction == TR_REDUCE_SUM ? sum + value : fmaxf(sum, value);
            }
            sum = narrow ? rounded(sum) : sum;
            whole = k == 0 ? sum : reduction == TR_REDUCE_SUM ? whole + sum : fmaxf(whole, sum);
        }
        if (dtype == TR_BF16)
            ((uint16_t *)out)[at] = tr_f32_to_bf16(whole);
        else
            ((float *)out)[at] = wire == TR_BF16 && round_result ? rounded(whole) : whole;
        return;
    }
    union {
        float f;
        double d;
        int64_t l;
        int32_t s;
    } total = {0}, x;
    for (int32_t k = 0; k < g->count; k++) {
        float value = float_of(seed, g->ranks[k], i);
        if (dtype == TR_F32 || dtype == TR_BF16) {
            x.f = wire == TR_BF16 ? rounded(value) : value;
            total.f = k == 0                       ? x.f
                      : reduction == TR_REDUCE_SUM ? total.f + x.f
                                                   : fmaxf(total.f, x.f);
        } else if (dtype == TR_F64) {
            x.d = (double)value;
            total.d = k == 0                       ? x.d
                      : reduction == TR_REDUCE_SUM ? total.d + x.d
                                                   : fmax(total.d, x.d);
        } else if (dtype == TR_I64) {
            put(&x.l, TR_I64, 0, (double)value);
            total.l = k == 0                       ? x.l
                      : reduction == TR_REDUCE_SUM ? total.l + x.l
                                                   : TR_MAX(total.l, x.l);
        } else {
            put(&x.s, TR_I32, 0, (double)value);
            total.s = k == 0                       ? x.s
                      : reduction == TR_REDUCE_SUM ? total.s + x.s
                                                   : TR_MAX(total.s, x.s);
        }
    }
    if (dtype == TR_BF16)
        ((uint16_t *)out)[at] = tr_f32_to_bf16(total.f);
    else if (dtype == TR_F32)
        ((float *)out)[at] = wire == TR_BF16 && round_result ? rounded(total.f) : total.f;
    else
        memcpy((char *)out + at * tr_dtype_bytes(dtype), &total, (size_t)tr_dtype_bytes(dtype));
}

/* ---- single operations, in the background or not ---- */

typedef struct job {
    const char *name;
    tr_group group;
    tr_pending *pending;
    char *in, *out, *want;
    int64_t bytes; /* of out */
    int64_t sent;  /* what it must send */
    tr_traffic traffic;
    uint32_t seed;
} job;

static tr_group copy_group(const tr_group *g)
{
    return tr_group_new(g->ranks, g->count, g->ranks[g->me]);
}

static job new_job(const char *name, const tr_group *g, uint32_t seed, tr_traffic traffic,
                   int64_t in_bytes, int64_t out_bytes)
{
    job j = {
        .name = name, .group = copy_group(g), .seed = seed, .traffic = traffic, .bytes = out_bytes};
    j.in = tr_alloc((size_t)in_bytes + 1);
    j.out = tr_alloc((size_t)out_bytes + 1);
    j.want = tr_alloc((size_t)out_bytes + 1);
    memset(j.out, 0x5a, (size_t)out_bytes + 1);
    return j;
}

static tr_error *end_job(tr_comm *comm, job *j)
{
    tr_error *error = tr_comm_wait(comm, &j->pending);
    bool same =
        error || (memcmp(j->out, j->want, (size_t)j->bytes) == 0 && j->out[j->bytes] == 0x5a);
    free(j->in);
    free(j->out);
    free(j->want);
    int32_t count = j->group.count;
    tr_group_free(&j->group);
    if (error)
        return error;
    EXPECT(same, "%s of %d members, %lld bytes, seed %u", j->name, count, (long long)j->bytes,
           j->seed);
    return NULL;
}

static job start_all_reduce(tr_comm *comm, const tr_group *g, tr_reduction reduction, int64_t count,
                            tr_dtype dtype, tr_dtype wire, bool in_place, uint32_t seed)
{
    int64_t width = tr_dtype_bytes(dtype);
    job j = new_job("all_reduce", g, seed, TR_TRAFFIC_ALL_REDUCE, count * width, count * width);
    fill(in_place ? j.out : j.in, dtype, count, seed, tr_comm_rank(comm));
    for (int64_t i = 0; i < count; i++)
        expected(j.want, i, dtype, wire, reduction, true, seed, g, i);
    j.sent = tr_comm_cost_bytes(j.traffic, (tr_cut){1, count, NULL}, tr_dtype_bytes(wire), g->count,
                                g->me, 0, way_of(g, count * tr_dtype_bytes(wire)));
    j.pending = tr_comm_all_reduce_start(comm, g, reduction, in_place ? j.out : j.in, j.out, count,
                                         dtype, wire);
    return j;
}

/* Sizes of parts that add up to `count`, some of them 0. The caller frees. */
static int64_t *odd_parts(int64_t count, int32_t n, uint32_t seed)
{
    int64_t *parts = tr_alloc((size_t)n * sizeof *parts), left = count;
    for (int32_t k = 0; k < n; k++) {
        uint32_t word = tr_random(seed, 1, 7, (uint64_t)k).word[0];
        parts[k] = k == n - 1 ? left : word % 3 == 0 ? 0 : (int64_t)(word / 3) % (left + 1);
        left -= parts[k];
    }
    return parts;
}

static void part_of(tr_cut cut, int32_t n, int32_t k, int64_t *first, int64_t *size)
{
    if (!cut.parts) {
        tr_comm_part(cut.count, n, k, first, size);
        return;
    }
    *first = 0;
    for (int32_t i = 0; i < k; i++)
        *first += cut.parts[i];
    *size = cut.parts[k];
}

static job start_reduce_scatter(tr_comm *comm, const tr_group *g, tr_reduction reduction,
                                tr_cut cut, tr_dtype dtype, tr_dtype wire, uint32_t seed)
{
    int64_t width = tr_dtype_bytes(dtype), first, size;
    part_of(cut, g->count, g->me, &first, &size);
    job j = new_job("reduce_scatter", g, seed, TR_TRAFFIC_REDUCE_SCATTER,
                    cut.outer * cut.count * width, cut.outer * size * width);
    fill(j.in, dtype, cut.outer * cut.count, seed, tr_comm_rank(comm));
    for (int64_t o = 0; o < cut.outer; o++)
        for (int64_t i = 0; i < size; i++)
            expected(j.want, o * size + i, dtype, wire, reduction, false, seed, g,
                     o * cut.count + first + i);
    j.sent = tr_comm_cost_bytes(j.traffic, cut, tr_dtype_bytes(wire), g->count, g->me, 0,
                                way_of(g, cut.outer * cut.count * tr_dtype_bytes(wire)));
    j.pending = tr_comm_reduce_scatter_start(comm, g, reduction, j.in, j.out, cut, dtype, wire);
    return j;
}

static job start_all_gather(tr_comm *comm, const tr_group *g, tr_cut cut, tr_dtype dtype,
                            bool in_place, uint32_t seed)
{
    int64_t width = tr_dtype_bytes(dtype), first, size;
    part_of(cut, g->count, g->me, &first, &size);
    job j = new_job("all_gather", g, seed, TR_TRAFFIC_ALL_GATHER, cut.outer * size * width,
                    cut.outer * cut.count * width);
    in_place = in_place && cut.outer == 1;
    char *in = in_place ? j.out + first * width : j.in;
    fill(in, dtype, cut.outer * size, seed, tr_comm_rank(comm));
    for (int32_t k = 0; k < g->count; k++) {
        part_of(cut, g->count, k, &first, &size);
        for (int64_t o = 0; o < cut.outer; o++)
            for (int64_t i = 0; i < size; i++)
                put(j.want, dtype, o * cut.count + first + i,
                    (double)float_of(seed, g->ranks[k], o * size + i));
    }
    j.sent = tr_comm_cost_bytes(j.traffic, cut, width, g->count, g->me, 0, way_of(g, cut.outer * cut.count * width));
    j.pending = tr_comm_all_gather_start(comm, g, in, j.out, cut, dtype);
    return j;
}

/* [B, T/n, H, D] -> [B, T, H/n, D] with odd parts of T and H; or back. Element values are global
 * indices. */
static job start_heads_for_sequence(tr_comm *comm, const tr_group *g, bool back, int64_t B,
                                    int64_t T, int64_t H, int64_t D, bool odd, uint32_t seed)
{
    int32_t n = g->count;
    int64_t *t_parts = odd ? odd_parts(T, n, seed) : NULL,
            *h_parts = odd ? odd_parts(H, n, seed + 1) : NULL;
    int64_t t0, t_mine, h0, h_mine;
    part_of((tr_cut){1, T, t_parts}, n, g->me, &t0, &t_mine);
    part_of((tr_cut){1, H, h_parts}, n, g->me, &h0, &h_mine);
    int64_t by_sequence = B * t_mine * H * D, by_heads = B * T * h_mine * D;
    job j = new_job("all_to_all", g, seed, TR_TRAFFIC_ALL_TO_ALL,
                    4 * (back ? by_heads : by_sequence), 4 * (back ? by_sequence : by_heads));
    int32_t *a = (int32_t *)(void *)(back ? j.want : j.in),
            *b = (int32_t *)(void *)(back ? j.in : j.want);
    for (int64_t i = 0; i < B; i++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t h = 0; h < H; h++)
                for (int64_t d = 0; d < D; d++) {
                    int32_t value = (int32_t)(((i * T + t) * H + h) * D + d + seed);
                    if (t >= t0 && t < t0 + t_mine)
                        a[((i * t_mine + t - t0) * H + h) * D + d] = value;
                    if (h >= h0 && h < h0 + h_mine)
                        b[((i * T + t) * h_mine + h - h0) * D + d] = value;
                }
    /* The cuts in elements: heads in rows [B * t_mine], the sequence in rows [B]. */
    int64_t *heads = tr_alloc((size_t)n * sizeof *heads),
            *times = tr_alloc((size_t)n * sizeof *times);
    for (int32_t k = 0; k < n; k++) {
        int64_t first, size;
        part_of((tr_cut){1, H, h_parts}, n, k, &first, &size);
        heads[k] = size * D;
        part_of((tr_cut){1, T, t_parts}, n, k, &first, &size);
        times[k] = size * h_mine * D;
    }
    tr_cut by_head = {B * t_mine, H * D, heads}, by_time = {B, T * h_mine * D, times};
    tr_cut in = back ? by_time : by_head, out = back ? by_head : by_time;
    j.sent = tr_comm_cost_bytes(j.traffic, in, 4, n, g->me, 0, n);
    j.pending = tr_comm_all_to_all_start(comm, g, j.in, in, j.out, out, TR_I32);
    free(heads);
    free(times);
    free(t_parts);
    free(h_parts);
    return j;
}

static job start_broadcast(tr_comm *comm, const tr_group *g, int32_t root, int64_t count,
                           tr_dtype dtype, uint32_t seed)
{
    int64_t width = tr_dtype_bytes(dtype);
    job j = new_job("broadcast", g, seed, TR_TRAFFIC_BROADCAST, 0, count * width);
    fill(j.want, dtype, count, seed, g->ranks[root]);
    if (g->me == root)
        memcpy(j.out, j.want, (size_t)(count * width));
    j.sent = tr_comm_cost_bytes(j.traffic, (tr_cut){1, count, NULL}, width, g->count, g->me, root, g->count);
    j.pending = tr_comm_broadcast_start(comm, g, root, j.out, count, dtype);
    return j;
}

/* A random operation, the same on all members. */
static job start_random(tr_comm *comm, const tr_group *g, uint32_t seed)
{
    static const tr_dtype dtypes[] = {TR_F32, TR_BF16, TR_F64, TR_I64, TR_I32, TR_F32};
    tr_random4 r = tr_random(seed, 2, 3, 4);
    int32_t n = g->count;
    tr_dtype dtype = dtypes[r.word[0] % 6], wire = r.word[0] % 6 == 5 ? TR_BF16 : dtype;
    int64_t small = (int64_t)(r.word[1] % 12),
            count = r.word[1] % 4 == 0 ? small : (int64_t)(r.word[1] % 3000);
    tr_reduction reduction = r.word[2] % 3 == 0 ? TR_REDUCE_MAX : TR_REDUCE_SUM;
    bool odd = r.word[2] % 2;
    int64_t outer = r.word[3] % 3 == 0 ? 1 : (int64_t)(r.word[3] % 7);
    int64_t *parts = odd ? odd_parts(count, n, seed) : NULL;
    tr_cut cut = {outer, count, parts};
    job j;
    switch (r.word[3] / 16 % 6) {
    case 0:
        j = start_all_reduce(comm, g, reduction, count, dtype, wire, odd, seed);
        break;
    case 1:
        j = start_reduce_scatter(comm, g, reduction, cut, dtype, wire, seed);
        break;
    case 2:
        j = start_all_gather(comm, g, cut, dtype, odd, seed);
        break;
    case 3:
        j = start_broadcast(comm, g, (int32_t)(r.word[2] % (uint32_t)n), count, dtype, seed);
        break;
    default:
        j = start_heads_for_sequence(comm, g, r.word[2] & 16, 1 + small % 3, small + n,
                                     (int64_t)(r.word[0] % 9), 1 + small % 4, odd, seed);
    }
    free(parts);
    return j;
}

static tr_error *run_job(tr_comm *comm, job j)
{
    return end_job(comm, &j);
}

/* ---- the suite that runs on every rank of a world ---- */

static tr_error *each_collective(tr_comm *comm, const tr_group *g)
{
    static const tr_dtype dtypes[] = {TR_F32, TR_BF16, TR_F64, TR_I64, TR_I32};
    int32_t n = g->count;
    int64_t counts[] = {0, 1, 2, n - 1, n, n + 1, 2 * n + 1, 100, 4097};
    uint32_t seed = 1000;
    for (int64_t c = 0; c < TR_COUNT(counts); c++)
        for (int64_t d = 0; d < TR_COUNT(dtypes); d++)
            for (int mode = 0; mode < 4; mode++) {
                if ((c + d + mode) % 2 &&
                    n > 4) /* enough of them, where the plain computation costs most */
                    continue;
                tr_dtype dtype = dtypes[d], wire = mode & 2 && dtype == TR_F32 ? TR_BF16 : dtype;
                tr_reduction reduction = mode & 1 ? TR_REDUCE_MAX : TR_REDUCE_SUM;
                TR_TRY(run_job(comm, start_all_reduce(comm, g, reduction, counts[c], dtype, wire,
                                                      mode & 2, seed++)));
                TR_TRY(
                    run_job(comm, start_reduce_scatter(comm, g, reduction,
                                                       (tr_cut){mode == 3 ? 3 : 1, counts[c], NULL},
                                                       dtype, wire, seed++)));
                TR_TRY(run_job(comm, start_all_gather(comm, g,
                                                      (tr_cut){mode == 3 ? 3 : 1, counts[c], NULL},
                                                      dtype, mode & 1, seed++)));
            }
    for (int32_t root = 0; root < n; root++)
        for (int64_t c = 0; c < TR_COUNT(counts); c++)
            TR_TRY(run_job(comm, start_broadcast(comm, g, root, counts[c], TR_BF16, seed++)));
    for (int mode = 0; mode < 4; mode++)
        TR_TRY(run_job(comm, start_heads_for_sequence(comm, g, mode & 1, 2, 2 * n + (mode & 2),
                                                      3 * n, 5, mode & 2, seed++)));
    return NULL;
}

/* Bytes: the counter against the closed forms, and these against the papers' where parts are equal.
 */
static tr_error *bytes_of(tr_comm *comm, const tr_group *g)
{
    int32_t n = g->count;
    for (int64_t count = 0; count < 3 * n + 2; count++)
        for (int which = 0; which < 6; which++) {
            int64_t before[TR_TRAFFIC_COUNT], all = tr_comm_bytes_sent_all(comm);
            for (int k = 0; k < TR_TRAFFIC_COUNT; k++)
                before[k] = tr_comm_bytes_sent(comm, (tr_traffic)k);
            uint32_t seed = 50 + (uint32_t)count;
            tr_cut cut = {2, count, NULL};
            job j =
                which == 0
                    ? start_all_reduce(comm, g, TR_REDUCE_SUM, count, TR_F32, TR_F32, true, seed)
                : which == 1
                    ? start_all_reduce(comm, g, TR_REDUCE_SUM, count, TR_F32, TR_BF16, true, seed)
                : which == 2
                    ? start_reduce_scatter(comm, g, TR_REDUCE_SUM, cut, TR_F32, TR_F32, seed)
                : which == 3 ? start_all_gather(comm, g, cut, TR_F32, false, seed)
                : which == 4
                    ? start_broadcast(comm, g, n - 1, count, TR_F32, seed)
                    : start_heads_for_sequence(comm, g, false, 1, n, n, count, false, seed);
            tr_traffic traffic = j.traffic;
            int64_t want = j.sent;
            TR_TRY(end_job(comm, &j));
            EXPECT(tr_comm_bytes_sent(comm, traffic) - before[traffic] == want,
                   "%s of %lld among %d: %lld, not %lld", tr_traffic_name(traffic),
                   (long long)count, n,
                   (long long)(tr_comm_bytes_sent(comm, traffic) - before[traffic]),
                   (long long)want);
            EXPECT(tr_comm_bytes_sent_all(comm) - all == want, "other traffic in %s",
                   tr_traffic_name(traffic));
            if (count % n == 0) {
                int64_t whole = which == 1                 ? 2 * count
                                : which == 2 || which == 3 ? 8 * count
                                                           : 4 * count;
                if (which == 5)
                    whole = 4 * n * count; /* [1, 1, n, count] a member */
                int64_t times = which < 2 ? 2 : 1;
                if (which != 4)
                    EXPECT(want == times * whole / n * (n - 1), "%s: %lld",
                           tr_traffic_name(traffic), (long long)want);
            }
            /* All members together: the same total, however the parts fall. */
            int64_t total = 0;
            for (int32_t k = 0; k < n; k++)
                total +=
                    tr_comm_cost_bytes(TR_TRAFFIC_ALL_REDUCE, (tr_cut){1, count, NULL}, 4, n, k, 0, way_of(g, 4 * count));
            EXPECT(total == 2 * (n - 1) * 4 * count, "%lld", (long long)total);
        }
    return NULL;
}

/* Many operations at once; waits in another order; members reach them at different times. */
static tr_error *overlapping(tr_comm *comm, const tr_group *g)
{
    job jobs[24];
    for (int turn = 0; turn < 6; turn++) {
        if (tr_comm_size(comm) <= 4)
            pause_us(tr_comm_rank(comm) * 100 * (turn % 3));
        for (uint32_t k = 0; k < TR_COUNT(jobs); k++)
            jobs[k] = start_random(comm, g, 7000 + 100 * (uint32_t)turn + k);
        tr_error *error = NULL;
        for (int64_t k = TR_COUNT(jobs); k-- > 0;) {
            int64_t which = (k * 7 + turn + tr_comm_rank(comm)) % TR_COUNT(jobs);
            tr_error *other = end_job(comm, &jobs[which]);
            if (error)
                tr_error_free(other);
            else
                error = other;
        }
        if (error)
            return error;
    }
    return NULL;
}

/* Groups along the axes of a mesh, at the same time, and two at once on every rank. */
static tr_error *along_axes(tr_comm *comm)
{
    int32_t n = tr_comm_size(comm), rank = tr_comm_rank(comm);
    tr_mesh mesh = tr_mesh_one();
    mesh.size[TR_MESH_TENSOR] = n % 2 == 0 ? 2 : n;
    mesh.size[TR_MESH_DATA] = n / mesh.size[TR_MESH_TENSOR];
    tr_group tensor = tr_mesh_group(&mesh, rank, TR_MESH_BIT(TR_MESH_TENSOR));
    tr_group data = tr_mesh_group(&mesh, rank, TR_MESH_BIT(TR_MESH_DATA));
    tr_error *error = NULL;
    for (uint32_t turn = 0; turn < 20 && !error; turn++) {
        job a = start_random(comm, &tensor, 100 + turn), b = start_random(comm, &data, 200 + turn);
        job c = start_random(comm, &tensor, 300 + turn);
        TR_GO(end_job(comm, &b));
        TR_GO(end_job(comm, &c));
        TR_GO(end_job(comm, &a));
    }
done:
    tr_group_free(&tensor);
    tr_group_free(&data);
    return error;
}

/* Some ranks only; the others do something else meanwhile. */
static tr_error *part_of_the_world(tr_comm *comm)
{
    int32_t n = tr_comm_size(comm), rank = tr_comm_rank(comm), count = 0;
    int32_t *ranks = tr_alloc((size_t)n * sizeof *ranks);
    for (int32_t r = 0; r < n; r++)
        if (r % 2 == rank % 2)
            ranks[count++] = r;
    tr_group g = tr_group_new(ranks, count, rank);
    free(ranks);
    tr_error *error = NULL;
    for (uint32_t turn = 0; turn < 30 && !error; turn++)
        error = run_job(comm, start_random(comm, &g, 900 + turn * 2 + (uint32_t)(rank % 2)));
    tr_group_free(&g);
    return error;
}

static tr_error *points(tr_comm *comm)
{
    enum { MESSAGES = 12, LARGE = 300000 };
    int32_t n = tr_comm_size(comm), rank = tr_comm_rank(comm), next = (rank + 1) % n,
            previous = (rank + n - 1) % n;
    if (n == 1)
        return NULL;
    tr_pending *sends[MESSAGES], *receives[MESSAGES];
    float *out[MESSAGES], *in[MESSAGES];
    int64_t before = tr_comm_bytes_sent(comm, TR_TRAFFIC_POINT), bytes = 0;
    for (int k = 0; k < MESSAGES; k++) {
        int64_t count = k == 5 ? LARGE : k;
        out[k] = tr_alloc((size_t)count * 4 + 4);
        in[k] = tr_alloc((size_t)count * 4 + 4);
        fill(out[k], TR_F32, count, (uint32_t)k, rank);
        bytes += 4 * count;
        sends[k] = tr_comm_send_start(comm, next, k, out[k], count, TR_F32);
    }
    for (int k = MESSAGES; k-- > 0;)
        receives[k] = tr_comm_receive_start(comm, previous, k, in[k], k == 5 ? LARGE : k, TR_F32);
    for (int k = 0; k < MESSAGES; k++) {
        TR_TRY(tr_comm_wait(comm, &receives[(k + 3) % MESSAGES]));
        TR_TRY(tr_comm_wait(comm, &sends[(k + 9) % MESSAGES]));
    }
    EXPECT(tr_comm_bytes_sent(comm, TR_TRAFFIC_POINT) - before == bytes, "%lld", (long long)bytes);
    for (int k = 0; k < MESSAGES; k++) {
        int64_t count = k == 5 ? LARGE : k;
        for (int64_t i = 0; i < count; i++)
            EXPECT(in[k][i] == float_of((uint32_t)k, previous, i), "message %d, element %lld", k,
                   (long long)i);
        free(in[k]);
        free(out[k]);
    }
    /* Equal tags keep their order. */
    int32_t values[8], got[8];
    tr_pending *pending[16];
    for (int k = 0; k < 8; k++) {
        values[k] = 100 * rank + k;
        pending[k] = tr_comm_send_start(comm, next, 77, &values[k], 1, TR_I32);
        pending[8 + k] = tr_comm_receive_start(comm, previous, 77, &got[k], 1, TR_I32);
    }
    for (int k = 16; k-- > 0;)
        TR_TRY(tr_comm_wait(comm, &pending[k]));
    for (int k = 0; k < 8; k++)
        EXPECT(got[k] == 100 * previous + k, "%d", got[k]);
    return NULL;
}

static tr_error *determinism(tr_comm *comm, const tr_group *g)
{
    enum { COUNT = 10007 };
    float *in = tr_alloc(4 * COUNT), *first = tr_alloc(4 * COUNT), *again = tr_alloc(4 * COUNT);
    int64_t offset, size;
    fill(in, TR_F32, COUNT, 5, tr_comm_rank(comm));
    TR_TRY(tr_comm_all_reduce(comm, g, TR_REDUCE_SUM, in, first, COUNT, TR_F32, TR_F32));
    for (int turn = 0; turn < 10; turn++) {
        if (tr_comm_rank(comm) == turn % tr_comm_size(comm))
            pause_us(200);
        TR_TRY(tr_comm_all_reduce(comm, g, TR_REDUCE_SUM, in, again, COUNT, TR_F32, TR_F32));
        EXPECT(memcmp(first, again, 4 * COUNT) == 0, "turn %d", turn);
    }
    /* The same bits from reduce-scatter and all-gather, and from any piece by itself. */
    tr_comm_part(COUNT, g->count, g->me, &offset, &size);
    memset(again, 0, 4 * COUNT);
    TR_TRY(tr_comm_reduce_scatter(comm, g, TR_REDUCE_SUM, in, again + offset,
                                  (tr_cut){1, COUNT, NULL}, TR_F32, TR_F32));
    TR_TRY(tr_comm_all_gather(comm, g, again + offset, again, (tr_cut){1, COUNT, NULL}, TR_F32));
    EXPECT(memcmp(first, again, 4 * COUNT) == 0, "%d ranks", g->count);
    TR_TRY(tr_comm_all_reduce(comm, g, TR_REDUCE_SUM, in + 1234, again, 321, TR_F32, TR_F32));
    EXPECT(memcmp(first + 1234, again, 4 * 321) == 0, "%d ranks", g->count);
    free(in);
    free(first);
    free(again);
    return NULL;
}

static tr_error *large(tr_comm *comm, const tr_group *g)
{
    TR_TRY(
        run_job(comm, start_all_reduce(comm, g, TR_REDUCE_SUM, 700001, TR_F32, TR_F32, true, 11)));
    TR_TRY(run_job(comm,
                   start_all_reduce(comm, g, TR_REDUCE_SUM, 700001, TR_F32, TR_BF16, false, 12)));
    TR_TRY(run_job(comm, start_reduce_scatter(comm, g, TR_REDUCE_SUM, (tr_cut){3, 200003, NULL},
                                              TR_BF16, TR_BF16, 13)));
    return run_job(comm, start_all_gather(comm, g, (tr_cut){7, 50021, NULL}, TR_F32, false, 14));
}

static tr_error *agreement(tr_comm *comm)
{
    TR_TRY(tr_comm_agree(comm, 0x1234567890abcdefull, "plan"));
    int32_t n = tr_comm_size(comm), odd = n - 1;
    if (n == 1)
        return NULL;
    tr_error *error = tr_comm_agree(comm, tr_comm_rank(comm) == odd ? 2 : 1, "plan");
    char *want = tr_format("rank%s %d", "", n == 2 ? 1 : odd);
    bool right = error && strstr(tr_error_text(error), "do not have the same plan") &&
                 strstr(tr_error_text(error), want) && tr_error_blame(error) == TR_USER;
    char *text = tr_strdup(tr_error_text(error));
    tr_error_free(error);
    free(want);
    EXPECT(right, "%s", text);
    free(text);
    return NULL;
}

static tr_error *suite(tr_comm *comm, void *user)
{
    (void)user;
    tr_group all = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    tr_error *error = NULL;
    TR_GO(tr_comm_barrier(comm, &all));
    TR_GO(each_collective(comm, &all));
    TR_GO(bytes_of(comm, &all));
    TR_GO(overlapping(comm, &all));
    TR_GO(along_axes(comm));
    TR_GO(part_of_the_world(comm));
    TR_GO(points(comm));
    TR_GO(determinism(comm, &all));
    TR_GO(large(comm, &all));
    TR_GO(agreement(comm));
    TR_GO(tr_comm_barrier(comm, &all));
done:
    tr_group_free(&all);
    return error ? tr_error_in_take(error, "%d ranks over %s", tr_comm_size(comm),
                                    tr_comm_transport(comm))
                 : NULL;
}

static const int32_t worlds[] = {1, 2, 3, 4, 5, 8};

static void test_suite(void)
{
    for (int64_t i = 0; i < TR_COUNT(worlds); i++)
        CHECK_OK(tr_world_run_threads(worlds[i], NULL, suite, NULL));
}

static void test_suite_in_segments(void)
{
    for (int32_t n = 2; n <= 3; n++)
        CHECK_OK(tr_world_run_threads(n, &(tr_comm_options){.segment_bytes = 300}, suite, NULL));
}

/* The same by hosts: 2 of 2, 3 of 2, 2 of 3, 2 of 4; where one host has fewer, nothing is by hosts. And with some
 * sizes directly: the same bits. */
static void test_suite_by_hosts(void)
{
    static const int32_t shapes[][4] = {{4, 2, 0, -1},   {4, 2, 300, -1}, {6, 2, 0, -1}, {6, 3, 300, -1}, {8, 4, 0, -1},
                                        {5, 2, 0, -1},   {4, 1, 0, -1},   {4, 2, 0, 900}, {6, 2, 300, 1 << 20}};
    for (int64_t i = 0; i < TR_COUNT(shapes); i++) {
        host_ranks = shapes[i][1];
        direct_bytes = shapes[i][3];
        tr_comm_options options = {.host_ranks = host_ranks, .segment_bytes = shapes[i][2], .direct_bytes = direct_bytes};
        CHECK_OK(tr_world_run_threads(shapes[i][0], &options, suite, NULL));
    }
    host_ranks = 0;
    direct_bytes = 0;
}

/* What crosses from one host to the others: a host's share of the closed form, not each rank's. */
static tr_error *across_hosts(tr_comm *comm, void *user)
{
    enum { COUNT = 24000 };
    _Atomic int64_t *crossed = user;
    tr_group all = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    float *x = tr_alloc_zero(COUNT, sizeof *x);
    tr_error *error = tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x, COUNT, TR_F32, TR_F32);
    *crossed += tr_comm_bytes_across(comm);
    free(x);
    tr_group_free(&all);
    return error;
}

static void test_across_hosts(void)
{
    enum { BYTES = 4 * 24000 }; /* more than go directly */
    for (int32_t here = 1; here <= 4; here *= 2) { /* 8 ranks on 8, 4, 2 hosts */
        _Atomic int64_t crossed = 0;
        int32_t hosts = 8 / here;
        CHECK_OK(tr_world_run_threads(8, &(tr_comm_options){.host_ranks = here}, across_hosts, (void *)&crossed));
        CHECK_INT(crossed, 2 * (hosts - 1) * (int64_t)BYTES); /* of all hosts together */
    }
}

/* Few bytes among many. */
static tr_error *few_bytes(tr_comm *comm, void *user)
{
    (void)user;
    static const int64_t counts[] = {0, 1, 3, 128, 256, 257};
    tr_group all = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    tr_error *error = NULL;
    for (int64_t c = 0; c < TR_COUNT(counts); c++)
        for (int mode = 0; mode < 4 && !error; mode++) {
            int64_t before = tr_comm_bytes_sent_all(comm);
            job j = start_all_reduce(comm, &all, mode & 1 ? TR_REDUCE_MAX : TR_REDUCE_SUM, counts[c], TR_F32,
                                     mode & 2 ? TR_BF16 : TR_F32, mode & 1, 40 + (uint32_t)c);
            int64_t want = j.sent;
            TR_GO(end_job(comm, &j));
            if (tr_comm_bytes_sent_all(comm) - before != want)
                error = tr_error_new(TR_RUN, "%lld bytes, not %lld", (long long)(tr_comm_bytes_sent_all(comm) - before),
                                     (long long)want);
        }
done:
    tr_group_free(&all);
    return error;
}

static void test_few_bytes(void)
{
    host_ranks = 8;
    direct_bytes = 1 << 20;
    CHECK_OK(tr_world_run_threads(16, &(tr_comm_options){.host_ranks = 8, .direct_bytes = direct_bytes}, few_bytes, NULL));
    direct_bytes = host_ranks = 0;
    for (int32_t n = 15; n <= 23; n += n == 17 ? 6 : 1)
        CHECK_OK(tr_world_run_threads(n, NULL, few_bytes, NULL));
}

static void test_suite_without_overlap(void)
{
    CHECK_OK(tr_world_run_threads(3, &(tr_comm_options){.no_overlap = true}, suite, NULL));
}

/* ---- failures ---- */

typedef struct failure_case {
    int32_t who;
    int64_t after_us;
    _Atomic int noticed;
} failure_case;

/* Everybody communicates; one fails somewhere; the others' buffers are freed at once. */
static tr_error *one_fails(tr_comm *comm, void *user)
{
    failure_case *c = user;
    int32_t rank = tr_comm_rank(comm);
    tr_group all = tr_group_world(tr_comm_size(comm), rank);
    double until = seconds() + (double)c->after_us * 1e-6;
    tr_error *error = NULL;
    for (uint32_t turn = 0; !error; turn++) {
        job jobs[5];
        bool fails = rank == c->who && seconds() >= until;
        for (uint32_t k = 0; k < TR_COUNT(jobs); k++)
            jobs[k] =
                k % 2 ? start_all_reduce(comm, &all, TR_REDUCE_SUM, 20000, TR_F32,
                                         k == 1 ? TR_F32 : TR_BF16, true, turn)
                      : start_all_gather(comm, &all, (tr_cut){2, 10000, NULL}, TR_F32, false, turn);
        if (fails) {
            tr_comm_fail(comm, TR_RUN, "a planted fault");
            error = tr_error_new(TR_RUN, "a planted fault");
        }
        for (uint32_t k = 0; k < TR_COUNT(jobs); k++) {
            tr_error *other = end_job(comm, &jobs[k]);
            if (error)
                tr_error_free(other);
            else
                error = other;
        }
    }
    if (rank != c->who && strstr(tr_error_text(error), "rank ") &&
        strstr(tr_error_text(error), " on host ") &&
        strstr(tr_error_text(error), "a planted fault"))
        c->noticed++;
    tr_group_free(&all);
    return error;
}

static void test_one_fails(void)
{
    for (int turn = 0; turn < 20; turn++) {
        int32_t n = worlds[1 + turn % 5];
        failure_case c = {.who = turn % n, .after_us = turn * 97};
        double start = seconds();
        CHECK_ERROR(
            tr_world_run_threads(n, &(tr_comm_options){.no_overlap = turn % 4 == 3}, one_fails, &c),
            "a planted fault");
        CHECK_INT(c.noticed, n - 1);
        CHECK(seconds() - start < 5);
    }
}

static tr_error *returns_error(tr_comm *comm, void *user)
{
    _Atomic int *noticed = user;
    int32_t rank = tr_comm_rank(comm);
    float x = 1;
    tr_group all = tr_group_world(tr_comm_size(comm), rank);
    if (rank == 2) {
        tr_group_free(&all);
        return tr_error_new(TR_USER, "no such file: data.bin");
    }
    tr_error *error = tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, &x, &x, 1, TR_F32, TR_F32);
    if (error && tr_error_blame(error) == TR_USER &&
        strstr(tr_error_text(error), "rank 2 on host ") &&
        strstr(tr_error_text(error), "failed: no such file: data.bin"))
        ++*noticed;
    tr_error_free(error);
    error = tr_comm_barrier(comm, &all); /* what is started later fails too */
    tr_group_free(&all);
    return error;
}

static void test_returned_error(void)
{
    _Atomic int noticed = 0;
    tr_error *error = tr_world_run_threads(4, NULL, returns_error, (void *)&noticed);
    CHECK(error && tr_error_blame(error) == TR_USER);
    CHECK_STRING(tr_error_text(error), "no such file: data.bin");
    tr_error_free(error);
    CHECK_INT(noticed, 3);
}

static tr_error *other_sizes(tr_comm *comm, void *user)
{
    (void)user;
    float x[64] = {0};
    tr_group all = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    tr_error *error = tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x,
                                         tr_comm_rank(comm) == 1 ? 40 : 64, TR_F32, TR_F32);
    tr_group_free(&all);
    return error;
}

static tr_error *ends_early(tr_comm *comm, void *user)
{
    (void)user;
    float x = 0;
    tr_group all = tr_group_world(tr_comm_size(comm), tr_comm_rank(comm));
    tr_error *error = NULL;
    if (tr_comm_rank(comm) != 1)
        error = tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, &x, &x, 1, TR_F32, TR_F32);
    tr_group_free(&all);
    return error;
}

static tr_error *unread_message(tr_comm *comm, void *user)
{
    (void)user;
    float x = 0;
    return tr_comm_rank(comm) == 0 ? tr_comm_send(comm, 1, 5, &x, 1, TR_F32) : NULL;
}

static tr_error *disagrees(tr_comm *comm, void *user)
{
    (void)user;
    return tr_comm_agree(comm, tr_comm_rank(comm) % 3 == 2 ? 7 : 8, "plan");
}

static void test_mismatches(void)
{
    CHECK_ERROR(tr_world_run_threads(3, NULL, other_sizes, NULL),
                "the ranks do not run the same operations");
    CHECK_ERROR(tr_world_run_threads(3, NULL, ends_early, NULL), "for rank 1 on host");
    CHECK_ERROR(tr_world_run_threads(2, NULL, unread_message, NULL), "waits in send for rank 1");
    CHECK_ERROR(tr_world_run_threads(8, NULL, disagrees, NULL),
                "the ranks do not have the same plan: ranks 2 and 5 (the first on host ");
}

/* ---- mesh ---- */

static void test_mesh(void)
{
    tr_mesh mesh;
    CHECK_OK(tr_mesh_parse("tensor=2 data=3 pipeline=2", &mesh));
    char *text = tr_mesh_text(&mesh);
    CHECK_STRING(text, "pipeline=2 data=3 tensor=2");
    free(text);
    CHECK_INT(tr_mesh_ranks(&mesh), 12);
    CHECK_OK(tr_mesh_verify(&mesh, 12));
    CHECK_ERROR(tr_mesh_verify(&mesh, 8), "set mesh.data=2, or start 12");
    CHECK_ERROR(tr_mesh_verify(&mesh, 7), "start 12, or choose axes whose product is 7");
    for (int32_t rank = 0; rank < 12; rank++) {
        int32_t at[TR_MESH_AXIS_COUNT];
        tr_mesh_coordinates(&mesh, rank, at);
        CHECK_INT(at[TR_MESH_TENSOR], rank % 2);
        CHECK_INT(at[TR_MESH_DATA], rank / 2 % 3);
        CHECK_INT(at[TR_MESH_PIPELINE], rank / 6);
        CHECK_INT(tr_mesh_rank(&mesh, at), rank);
        for (tr_mesh_axes axes = 0; axes <= TR_MESH_ALL; axes++) {
            tr_group g = tr_mesh_group(&mesh, rank, axes);
            CHECK_INT(g.ranks[g.me], rank);
            int64_t count = 1;
            for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
                count *= axes & TR_MESH_BIT(a) ? mesh.size[a] : 1;
            CHECK_INT(g.count, count);
            for (int32_t k = 1; k < g.count; k++)
                CHECK(g.ranks[k] > g.ranks[k - 1]);
            for (int32_t k = 0; k < g.count; k++) {
                int32_t other[TR_MESH_AXIS_COUNT];
                tr_mesh_coordinates(&mesh, g.ranks[k], other);
                for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
                    CHECK(axes & TR_MESH_BIT(a) || other[a] == at[a]);
            }
            tr_group_free(&g);
        }
    }
    CHECK_INT(tr_mesh_neighbour(&mesh, 0, TR_MESH_PIPELINE, 1, false), 6);
    CHECK_INT(tr_mesh_neighbour(&mesh, 0, TR_MESH_PIPELINE, -1, false), -1);
    CHECK_INT(tr_mesh_neighbour(&mesh, 0, TR_MESH_DATA, -1, true), 4);
    CHECK_OK(tr_mesh_parse("one rank", &mesh));
    CHECK_INT(tr_mesh_ranks(&mesh), 1);
    CHECK_ERROR(tr_mesh_parse("tensr=2", &mesh), "did you mean 'tensor'?");
    CHECK_ERROR(tr_mesh_parse("data=2 data=3", &mesh), "given twice");
    CHECK_ERROR(tr_mesh_parse("data=0", &mesh), "whole number of 1 or more");
    CHECK_ERROR(tr_mesh_parse("data", &mesh), "not of the form axis=size");
    CHECK_ERROR(tr_mesh_parse("data=2147483647 tensor=2147483647 pipeline=2147483647", &mesh),
                "more than");
    mesh = tr_mesh_one();
    mesh.size[TR_MESH_DATA] = 0;
    CHECK_ERROR(tr_mesh_verify(&mesh, 1), "mesh.data is 0");
}

/* ---- under mpirun: failures, each in a world of its own ---- */

static tr_error *mpi_case(tr_comm *comm, void *user)
{
    const char *name = user;
    int32_t rank = tr_comm_rank(comm), n = tr_comm_size(comm);
    tr_group all = tr_group_world(n, rank);
    static float x[20000];
    tr_error *error = NULL;
    for (int turn = 0; turn < 1000000 && !error; turn++) {
        int64_t count = 20000;
        if (rank == 1 && turn == 50) {
            if (strcmp(name, "error") == 0)
                TR_GO(tr_error_new(TR_USER, "no such file: data.bin"));
            if (strcmp(name, "mismatch") == 0)
                count = 100;
            if (strcmp(name, "stop") == 0)
                raise(SIGSTOP);
            if (strcmp(name, "kill") == 0)
                raise(SIGKILL);
        }
        if (strcmp(name, "agree") == 0)
            TR_GO(tr_comm_agree(comm, rank == 1 ? 1 : 0, "plan"));
        error = tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x, count, TR_F32, TR_F32);
    }
done:
    tr_group_free(&all);
    return error;
}

static void report(const tr_comm *comm, const tr_error *error, void *user)
{
    (void)comm, (void)user;
    fprintf(stderr, "trireme: %s\n", tr_error_text(error));
}

/* More than 2^31 elements, and more than 2^31 bytes in one message. By hand: 9 GB. */
static tr_error *huge(tr_comm *comm, void *user)
{
    (void)user;
    int64_t count = ((int64_t)1 << 31) + 12345;
    int32_t rank = tr_comm_rank(comm), n = tr_comm_size(comm);
    tr_group all = tr_group_world(n, rank);
    uint16_t *x = tr_alloc((size_t)count * 2);
    for (int64_t i = 0; i < count; i++)
        x[i] = tr_f32_to_bf16((float)((i * 7 + rank) % 64));
    double start = seconds();
    TR_TRY(tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x, count, TR_BF16, TR_BF16));
    printf("rank %d: %lld elements reduced in %.2f s\n", rank, (long long)count, seconds() - start);
    for (int64_t i = 0; i < count; i++) {
        float want = 0;
        for (int32_t k = 0; k < n; k++)
            want += (float)((i * 7 + k) % 64);
        EXPECT(x[i] == tr_f32_to_bf16(want), "element %lld", (long long)i);
    }
    for (int64_t i = 0; i < count && rank == 0; i++)
        x[i] = (uint16_t)(i * 3);
    start = seconds();
    if (rank == 0)
        TR_TRY(tr_comm_send(comm, 1, 9, x, count, TR_BF16));
    else if (rank == 1)
        TR_TRY(tr_comm_receive(comm, 0, 9, x, count, TR_BF16));
    printf("rank %d: %lld bytes sent in %.2f s\n", rank, 2 * (long long)count, seconds() - start);
    for (int64_t i = 0; i < count && rank == 1; i++)
        EXPECT(x[i] == (uint16_t)(i * 3), "element %lld", (long long)i);
    free(x);
    tr_group_free(&all);
    return NULL;
}

/* ---- bench ---- */

static tr_error *bench(tr_comm *comm, void *user)
{
    (void)user;
    static const int64_t sizes[] = {4, 1 << 12, 1 << 16, 1 << 20, 16 << 20, 256 << 20};
    int32_t n = tr_comm_size(comm), rank = tr_comm_rank(comm);
    tr_group all = tr_group_world(n, rank);
    for (int64_t k = 0; k < TR_COUNT(sizes); k++)
        for (int wire = 0; wire < 2; wire++) {
            int64_t count = sizes[k] / 4, turns = TR_MAX(3, TR_MIN(2000, (256 << 20) / sizes[k]));
            float *x = tr_alloc((size_t)sizes[k]);
            for (int64_t i = 0; i < count; i++)
                x[i] = 0;
            double best = 1e9, took[3] = {0};
            for (int part = 0; part < 3; part++) {
                int64_t offset, size;
                tr_comm_part(count, n, rank, &offset, &size);
                best = 1e9;
                for (int block = 0; block < 5; block++) {
                    int64_t some = TR_MAX(1, turns / 5);
                    TR_TRY(tr_comm_barrier(comm, &all));
                    double start = seconds();
                    for (int64_t t = 0; t < some; t++)
                        if (part == 0)
                            TR_TRY(tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x, count,
                                                      TR_F32, wire ? TR_BF16 : TR_F32));
                        else if (part == 1)
                            TR_TRY(tr_comm_reduce_scatter(comm, &all, TR_REDUCE_SUM, x, x + offset,
                                                          (tr_cut){1, count, NULL}, TR_F32,
                                                          wire ? TR_BF16 : TR_F32));
                        else if (!wire)
                            TR_TRY(tr_comm_all_gather(comm, &all, x + offset, x,
                                                      (tr_cut){1, count, NULL}, TR_F32));
                    best = fmin(best, (seconds() - start) / (double)some);
                }
                took[part] = best;
            }
            if (rank == 0)
                printf("%-8s %d ranks  %10lld bytes  wire %-4s  all_reduce %10.1f us %6.2f GB/s   "
                       "reduce_scatter %10.1f us "
                       "%6.2f GB/s   all_gather %10.1f us %6.2f GB/s\n",
                       tr_comm_transport(comm), n, (long long)sizes[k], wire ? "bf16" : "f32",
                       took[0] * 1e6, (double)sizes[k] / took[0] * 1e-9, took[1] * 1e6,
                       (double)sizes[k] / took[1] * 1e-9, wire ? 0 : took[2] * 1e6,
                       wire ? 0 : (double)sizes[k] / took[2] * 1e-9);
            fflush(stdout);
            free(x);
        }
    tr_group_free(&all);
    return NULL;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct sums {
    int count;
    char **words; /* BYTES TURNS ... */
} sums;

/* One line each: bytes of the buffer, the median of rank 0's microseconds, bytes that all ranks together have sent to
 * other hosts. */
static tr_error *link_sums(tr_comm *comm, void *user)
{
    const sums *what = user;
    int32_t n = tr_comm_size(comm), rank = tr_comm_rank(comm);
    tr_group all = tr_group_world(n, rank);
    for (int k = 0; k + 1 < what->count; k += 2) {
        int64_t count = strtol(what->words[k], NULL, 10) / 4, turns = strtol(what->words[k + 1], NULL, 10);
        float *x = tr_alloc((size_t)count * sizeof *x);
        double *took = tr_alloc((size_t)turns * sizeof *took);
        int64_t crossed = -tr_comm_bytes_across(comm);
        for (int64_t turn = 0; turn < turns; turn++) {
            for (int64_t i = 0; i < count; i++)
                x[i] = (float)(i % 1000 * (rank + 1));
            TR_TRY(tr_comm_barrier(comm, &all));
            double start = seconds();
            TR_TRY(tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, x, x, count, TR_F32, TR_F32));
            took[turn] = seconds() - start;
            for (int64_t i = 0; i < count; i++)
                EXPECT(x[i] == (float)(i % 1000 * (n * (n + 1) / 2)), "element %lld", (long long)i);
        }
        crossed += tr_comm_bytes_across(comm);
        TR_TRY(tr_comm_all_reduce(comm, &all, TR_REDUCE_SUM, &crossed, &crossed, 1, TR_I64, TR_I64));
        qsort(took, (size_t)turns, sizeof *took, compare_doubles);
        if (rank == 0)
            printf("%lld %.1f %lld\n", (long long)count * 4, took[turns / 2] * 1e6, (long long)crossed / turns);
        fflush(stdout);
        free(took);
        free(x);
    }
    tr_group_free(&all);
    return NULL;
}

int main(int argc, char **argv)
{
    int32_t launched;
    bool mpi = tr_mpi_launched(&launched);
    const char *name = argc > 1 ? argv[1] : "";
    tr_comm_options options = {.report = report};
    if (mpi && strcmp(name, "link") == 0)
        return tr_error_exit_status(tr_world_run_mpi(&options, link_sums, &(sums){argc - 2, argv + 2}));
    if (argc > 2)
        options.silence_seconds = strtod(argv[2], NULL);
    if (strcmp(name, "bench") == 0) {
        int32_t ranks = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 2;
        options = (tr_comm_options){.report = report,
                                    .segment_bytes = argc > 3 ? strtol(argv[3], NULL, 10) : 0};
        tr_error *error = mpi ? tr_world_run_mpi(&options, bench, NULL)
                              : tr_world_run_threads(ranks, &options, bench, NULL);
        return tr_error_exit_status(error);
    }
    if (strcmp(name, "huge") == 0) {
        tr_error *error = mpi ? tr_world_run_mpi(&options, huge, NULL)
                              : tr_world_run_threads(2, &options, huge, NULL);
        return tr_error_exit_status(error);
    }
    if (mpi && name[0] && strcmp(name, "segments") != 0 && strcmp(name, "hosts") != 0)
        return tr_error_exit_status(tr_world_run_mpi(&options, mpi_case, argv[1]));
    if (mpi) {
        options.segment_bytes = name[0] ? 300 : 0;
        options.host_ranks = host_ranks = strcmp(name, "hosts") == 0 ? 2 : 0;
        options.direct_bytes = direct_bytes = 900;
        tr_error *error = tr_world_run_mpi(&options, suite, NULL);
        if (!error)
            printf("passed\n");
        return tr_error_exit_status(error);
    }
    TEST(test_mesh);
    TEST(test_suite);
    TEST(test_suite_in_segments);
    TEST(test_suite_without_overlap);
    TEST(test_suite_by_hosts);
    TEST(test_across_hosts);
    TEST(test_few_bytes);
    TEST(test_one_fails);
    TEST(test_returned_error);
    TEST(test_mismatches);
    return check_report();
}
