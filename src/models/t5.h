/* T5's two towers, for families that have them with another feed-forward layer, and its config.json. */
#pragma once
#include <jansson.h>

#include "base/error.h"
#include "trireme.h"

/* The output of block `layer`'s feed-forward layer for its normed input x, without dropout and residual. `prefix`
 * goes before its parameters' names: "layer.1." in the encoder, "layer.2." in the decoder. */
typedef tr_value (*tr_t5_feed)(tr_graph *graph, const tr_sizes *sizes, tr_value x, const char *prefix, int layer,
                               bool decoder, void *user);
tr_value tr_t5_dense(tr_graph *graph, const tr_sizes *sizes, tr_value x, const char *prefix, int layer, bool decoder,
                     void *unused);
void tr_t5_with(tr_graph *graph, const tr_sizes *sizes, tr_t5_feed feed, void *user);

tr_error *tr_t5_read(const json_t *config, const char *where, tr_sizes *out);
void tr_t5_write(json_t *config, const tr_sizes *sizes);
void tr_t5_complete(tr_sizes *sizes);
