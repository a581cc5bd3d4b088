/* Which kernels there are: choosing one for a call. */
#pragma once
#include "base/cpu.h"
#include "kernels/kernel.h"

/* The best kernel for the call with an instruction set of at most `isa`; NULL when even the reference
 * does not accept it, which is a broken invariant for calls that the shape rules let through. */
const tr_kernel *tr_kernel_choose(const tr_call *call, tr_isa isa);
/* The reference kernel of an op, NULL for views. */
const tr_kernel *tr_kernel_reference(tr_op op);
/* The k-th fast kernel of (op, isa), NULL past the last: for tests. */
const tr_kernel *tr_kernel_fast(tr_op op, tr_isa isa, int k);
