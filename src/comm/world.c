/* Worlds: starting the ranks of a run and ending them; and the agreement of all. See comm.h.
 *
 * threads: the function runs on one thread a rank. A rank that returns an error fails the world; a
 * rank that returns well is "ended", so that another one which still waits for it fails instead of
 * hanging. mpi: the function runs in this process. At the end all ranks meet before MPI is ended;
 * after a failure nobody can be met, so the rank lingers for a second and leaves MPI as it is.
 */
#include <pthread.h>
#include <stdlib.h>

#include "comm/transfer.h"
#include "comm/world.h"

typedef struct rank_thread {
    pthread_t thread;
    tr_thread_world *world;
    int32_t rank;
    const tr_comm_options *options;
    tr_rank_fn fn;
    void *user;
    tr_error *error;
} rank_thread;

static void *rank_main(void *argument)
{
    rank_thread *r = argument;
    tr_comm *comm = tr_comm_open(tr_thread_world_rank(r->world, r->rank), r->options);
    r->error = r->fn(comm, r->user);
    if (r->error) {
        if (!tr_comm_agreed(comm))
            tr_comm_fail(comm, tr_error_blame(r->error), tr_error_text(r->error));
        if (r->options && r->options->report)
            r->options->report(comm, r->error, r->user);
    }
    tr_comm_close(comm);
    if (!r->error)
        tr_thread_world_ended(r->world, r->rank);
    return NULL;
}

tr_error *tr_world_run_threads(int32_t ranks, const tr_comm_options *options, tr_rank_fn fn,
                               void *user)
{
    TR_CHECK(ranks > 0, "a world of %d ranks", ranks);
    tr_thread_world *world = tr_thread_world_new(ranks);
    rank_thread *threads = tr_alloc_zero((size_t)ranks, sizeof *threads);
    tr_error *error = NULL;
    int32_t started = 0;
    for (; started < ranks; started++) {
        rank_thread *r = &threads[started];
        *r = (rank_thread){
            .world = world, .rank = started, .options = options, .fn = fn, .user = user};
        int code = pthread_create(&r->thread, NULL, rank_main, r);
        if (code) {
            error = tr_error_errno(TR_RUN, code, "no thread for rank %d of %d", started, ranks);
            tr_transport *transport = tr_thread_world_rank(world, started);
            transport->ops->fail(transport, TR_RUN, tr_error_text(error));
            break;
        }
    }
    for (int32_t i = 0; i < started; i++)
        pthread_join(threads[i].thread, NULL);
    int32_t first = tr_thread_world_first_failed(world);
    if (!error && first >= 0) {
        error = threads[first].error;
        threads[first].error = NULL;
    }
    for (int32_t i = 0; i < started; i++) {
        if (!error) { /* a rank that has noticed a mismatch may not be the one that returned it */
            error = threads[i].error;
            threads[i].error = NULL;
        }
        tr_error_free(threads[i].error);
    }
    tr_thread_world_free(world);
    free(threads);
    return error;
}

/* Tells the others, unless this is what they have told us. What came after another rank's failure is most often
 * its consequence: the first cause is what the user has to know. */
static tr_error *fail_take(tr_comm *comm, tr_error *error)
{
    tr_error *first = tr_comm_check(comm);
    tr_comm_fail(comm, tr_error_blame(error), tr_error_text(error));
    if (!first)
        return tr_error_in_take(error, "rank %d on host %s", tr_comm_rank(comm),
                                tr_comm_host(comm, tr_comm_rank(comm)));
    tr_error_free(error);
    return first;
}

tr_error *tr_world_run_mpi(const tr_comm_options *options, tr_rank_fn fn, void *user)
{
    tr_comm_options own = options ? *options : (tr_comm_options){0};
    tr_transport *transport;
    bool progress;
    TR_TRY(tr_mpi_transport_open(&own, &transport, &progress));
    own.no_overlap = own.no_overlap || !progress;
    tr_comm *comm = tr_comm_open(transport, &own);
    tr_error *error = fn(comm, user);
    if (!error) {
        tr_group all = tr_group_world(transport->size, transport->rank);
        tr_mpi_transport_ending(transport);
        error = tr_comm_barrier(comm, &all);
        tr_group_free(&all);
    }
    if (error && !tr_comm_agreed(comm))
        error = fail_take(comm, error);
    if (error && own.report)
        own.report(comm, error, user);
    tr_comm_close(comm);
    if (error)
        tr_mpi_transport_linger(transport);
    else
        tr_mpi_transport_close(transport);
    return error;
}

tr_error *tr_world_run(int32_t ranks, const tr_comm_options *options, tr_rank_fn fn, void *user)
{
    int32_t launched;
    if (!tr_mpi_launched(&launched))
        return tr_world_run_threads(ranks, options, fn, user);
    if (launched && launched != ranks)
        return tr_error_new(
            TR_USER,
            "the mesh has %d ranks but mpirun has started %d: start %d, or change the sizes "
            "of the mesh",
            ranks, launched, ranks);
    return tr_world_run_mpi(options, fn, user);
}

/* "2", "1 and 2", "1, 2 and 5", "1, 2, 3, 4 and 996 more" */
static char *list_ranks(const uint64_t *hashes, int32_t size, uint64_t usual)
{
    int32_t count = 0, shown = 0;
    for (int32_t r = 0; r < size; r++)
        count += hashes[r] != usual;
    tr_text text = {0};
    for (int32_t r = 0; r < size && shown < 8; r++)
        if (hashes[r] != usual) {
            const char *between = shown == 0 ? "" : shown == count - 1 ? " and " : ", ";
            tr_text_format(&text, "%s%d", between, r);
            shown++;
        }
    if (shown < count)
        tr_text_format(&text, " and %d more", count - shown);
    return text.bytes;
}

tr_error *tr_comm_agree(tr_comm *comm, uint64_t hash, const char *what)
{
    int32_t size = tr_comm_size(comm), rank = tr_comm_rank(comm);
    tr_group all = tr_group_world(size, rank);
    uint64_t *hashes = tr_alloc((size_t)size * sizeof *hashes), usual = 0;
    tr_error *error = tr_comm_control_gather(comm, &all, &hash, hashes, sizeof hash);
    int32_t most = 0, odd = -1;
    for (int32_t r = 0; r < size && !error && most <= size / 2; r++) {
        int32_t same = 0;
        for (int32_t k = 0; k < size; k++)
            same += hashes[k] == hashes[r];
        if (same > most) {
            most = same;
            usual = hashes[r];
        }
    }
    for (int32_t r = size; r-- > 0 && !error;)
        if (hashes[r] != usual)
            odd = r;
    if (odd >= 0) {
        char *ranks = list_ranks(hashes, size, usual);
        bool one = most == size - 1;
        error = tr_error_new(
            TR_USER,
            "the ranks do not have the same %s: rank%s %s (the first on host %s) differ%s from "
            "the others: give every host the same program, configuration and files",
            what, one ? "" : "s", ranks, tr_comm_host(comm, odd), one ? "s" : "");
        free(ranks);
        tr_comm_set_agreed(comm);
    }
    free(hashes);
    tr_group_free(&all);
    return error;
}
