/* Running a graph's collectives: packing what is cut along an inner dim. */
#pragma once
#include "comm/ranks.h"
#include "kernels/kernel.h"

int64_t tr_collective_scratch(const tr_call *call);
tr_error *tr_collective_run(tr_ranks *ranks, const tr_call *call);
