/* A graph's collectives over the ranks of a mesh axis. A call's buffers belong to the operation until it was waited for. */
#pragma once
#include "exec/ranks.h"
#include "kernels/kernel.h"

/* What the operation takes for itself while it moves, of `ranks`; processes: over MPI. */
int64_t tr_collective_scratch(const tr_call *call, int ranks, bool processes);
tr_pending *tr_collective_start(tr_ranks *ranks, const tr_call *call);
