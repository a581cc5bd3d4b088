/* From what a model function wants to learn (tr_head_add, tr_loss_add) to one loss.
 *
 * With sums s_k and counts c_k over the whole step, all ranks and microbatches, the loss is
 *
 *     sum_k w_k s_k / c_k  =  (w_0 s_0 + sum_k>0 f_k s_k) / c_0      f_k = w_k c_0 / c_k
 *
 * The gradient is that of the numerator, and the division by c_0 is that of `clip`, as with one head. The counts are
 * known from the targets before the backward, so that f_k is an input "factor.NAME" f32[1] of the step (data/batch.h).
 * For a loss of tr_loss_add the count is that of sequences. The first head keeps a plain sum: its loss and gradient can
 * be one node (pass fuse).
 */
#pragma once
#include "ir/graph.h"

typedef struct tr_loss_part {
    char *name, *targets; /* targets NULL: counted by sequences */
    double weight;
} tr_loss_part;

/* The parts of the graph's loss, heads first; for whoever fills the factors. */
tr_loss_part *tr_loss_parts(const tr_graph *graph, int *out_count);
void tr_loss_parts_free(tr_loss_part *parts, int count);

/* The numerator, and c_0. 0 when the graph has an error. */
void tr_loss_training(tr_graph *graph, tr_value *out_loss, tr_value *out_count);
/* Outputs "loss" and "count" of the first head, "loss.NAME" and "count.NAME" of the others. */
void tr_loss_evaluation(tr_graph *graph);
/* The first head's logits of some hidden states. */
tr_value tr_loss_logits(tr_graph *graph, tr_value hidden);
