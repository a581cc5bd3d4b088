/* What a program of logits chose for a sample. */
#pragma once
#include "exec/program.h"

/* The largest of the logits of row `row` (the first of equals), with its probability. */
int64_t tr_choice(const tr_program *program, int64_t row, double *out_probability);
