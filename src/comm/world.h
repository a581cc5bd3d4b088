/* The transports, for the worlds (world.c). */
#pragma once
#include "comm/transport.h"

/* Ranks as threads of this process. The world owns the transports. */
typedef struct tr_thread_world tr_thread_world;
tr_thread_world *tr_thread_world_new(int32_t ranks);
tr_transport *tr_thread_world_rank(tr_thread_world *world, int32_t rank);
/* The rank's function has returned well: whoever still waits for it fails. */
void tr_thread_world_ended(tr_thread_world *world, int32_t rank);
/* The rank whose failure came first, or -1. */
int32_t tr_thread_world_first_failed(const tr_thread_world *world);
void tr_thread_world_free(tr_thread_world *world);

/* Ranks as processes under MPI. Open at most once in a process. */
tr_error *tr_mpi_transport_open(const tr_comm_options *options, tr_transport **out,
                                bool *out_progress);
/* The ranks are about to meet and end: from now on nobody is missed. */
void tr_mpi_transport_ending(tr_transport *transport);
/* After a failure: gives the others the time to learn of it. Then MPI is left as it is. */
void tr_mpi_transport_linger(tr_transport *transport);
/* When all ranks are here: ends MPI. */
void tr_mpi_transport_close(tr_transport *transport);
