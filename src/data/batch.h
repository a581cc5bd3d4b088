/* From an objective's samples to the inputs of a program.
 *
 * A rank's program has a block of each input: some rows of the batch, and of each row a part. Rows are made whole and
 * the part is copied. Stages of a pipeline have some of the inputs, or none.
 */
#pragma once
#include "data/objective.h"
#include "exec/program.h"
#include "exec/ranks.h"

/* Which samples a program is given; those from `end` on are empty (targets of -1). */
typedef struct tr_batch {
    const tr_objective *objective;
    tr_program *program;
    bool validation;
    int64_t rows;       /* of a microbatch, over all ranks */
    int64_t first, end; /* sample numbers */
    float *factors;     /* of the program's losses, made by tr_batch_factors; NULL: there is one loss */
} tr_batch;

/* Every input is one that the objective fills, or one of the step's own. */
tr_error *tr_batch_check(const tr_graph *graph, const tr_objective_row *objective);
/* Gives the program its part of a microbatch, for tr_pipeline_run too: the context is the tr_batch. */
tr_error *tr_batch_fill(void *batch, int64_t micro);
/* The factors of exec/loss.h for the samples of a whole step: each rank counts the targets of some of them, and the
 * counts are summed over the ranks. Free with tr_batch_free. */
tr_error *tr_batch_factors(tr_batch *batch, int64_t micro_batches, tr_ranks *ranks);
void tr_batch_free(tr_batch *batch);

/* Is the value an input that the data give, not one of the step's own (lr, factors, a cache's start)? */
bool tr_input_is_data(const tr_graph *graph, tr_value value);
/* How many numbers an input can be, from who reads it: rows of a table, choices of a head. 0: nobody says. */
int64_t tr_input_choices(const tr_graph *graph, tr_value input);
/* Random numbers that the program can be run with: for measuring. */
void tr_batch_fill_random(tr_program *program, uint64_t seed, const tr_objective_row *objective);
