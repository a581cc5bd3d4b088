/* Running a graph's collectives over the ranks of a mesh axis. */
#pragma once
#include "exec/ranks.h"
#include "kernels/kernel.h"

tr_error *tr_collective_run(tr_ranks *ranks, const tr_call *call);
