/* Loops that measure an instruction set: multiply-adds in registers, and reading. */
#pragma once
#include <stdbool.h>

#include "base/cpu.h"

/* Runs `rounds` rounds and returns the flops done. */
typedef double tr_peak_loop(int64_t rounds, bool bf16);
/* Sum over n words. */
typedef uint64_t tr_read_loop(const uint64_t *words, int64_t n);
tr_peak_loop *tr_peak_find(tr_isa isa);
tr_read_loop *tr_read_find(tr_isa isa);
