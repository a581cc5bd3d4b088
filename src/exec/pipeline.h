/* Running one rank's row of a pipeline schedule.
 *
 * An action waits for its messages, runs the nodes of its stage and phase, and sends what others read. Nothing
 * blocks but the wait for a message: receives are started as soon as there is a place for them (the next forward's
 * activations during the actions before it, a gradient when its microbatch's forward is done), and sends are
 * waited for when their microbatch leaves the stage. By then they have been received: a gradient comes back only
 * after the activation went, and its receive stands ready before it can be sent.
 */
#pragma once
#include "exec/program.h"
#include "exec/ranks.h"
#include "passes/pipeline.h"

typedef struct tr_pipeline tr_pipeline;

/* Gives the inputs of a microbatch to the program: before each action that reads them. */
typedef tr_error *(*tr_fill)(void *context, int64_t micro);

/* The program has memory and ranks; schedule, program and ranks outlive the pipeline. `axis`: the pipeline's
 * number among the ranks' axes. */
tr_error *tr_pipeline_new(tr_program *program, const tr_schedule *schedule, int axis, tr_pipeline **out);
void tr_pipeline_free(tr_pipeline *pipeline); /* NULL is fine */

/* All actions of the schedule: the forward and backward of every microbatch. */
tr_error *tr_pipeline_run(tr_pipeline *pipeline, uint32_t step, tr_fill fill, void *context);
/* One microbatch forward through this rank's stages: of a program without a backward. */
tr_error *tr_pipeline_forward(tr_pipeline *pipeline, tr_fill fill, void *context, int64_t micro);
