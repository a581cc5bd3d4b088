/* The optimizers as nodes of the graph; used by pass update. */
#pragma once
#include "passes/passes.h"

/* A parameter that is updated, and what it is updated by. */
typedef struct tr_updated {
    tr_graph *graph;
    tr_value w, grad, low; /* low: of a bf16 weight, or 0 */
    tr_value scale, lr, step;
    double decay; /* 0 for vectors */
    const tr_update *how;
} tr_updated;

/* Appends the nodes that update w by its gradient, with their state. */
void tr_emit_optimizer(tr_graph *graph, tr_value w, tr_value grad, tr_value scale, tr_value lr, tr_value step,
                       const tr_update *how);
