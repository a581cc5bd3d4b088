/* What ViT and Swin share: patches, layers in Hugging Face's names and shapes, the head, keys of config.json.
 * A name is that of a layer without ".weight" and ".bias". */
#pragma once
#include "models/family.h"
#include "models/huggingface.h"

/* Asks for "images"; [batch, patches, embed] by a convolution whose steps are its size. */
tr_value tr_vision_patches(tr_graph *graph, const char *name, const tr_sizes *sizes);
tr_value tr_vision_norm(tr_graph *graph, tr_value x, const char *name, int64_t width, double eps);
/* [.., heads, head_dim] from [.., width]. */
tr_value tr_vision_heads(tr_graph *graph, tr_value x, const char *name, int64_t heads, int64_t head_dim, int64_t width);
/* [.., width] from [.., heads x head_dim]. */
tr_value tr_vision_join(tr_graph *graph, tr_value x, const char *name, int64_t heads, int64_t head_dim, int64_t width);
/* Two products with a GELU between: `prefix`intermediate.dense, `prefix`output.dense. */
tr_value tr_vision_mlp(tr_graph *graph, tr_value x, const char *prefix, int64_t width, int64_t inner);
/* x [batch, width] to classes, with the labels' smoothing. */
void tr_vision_head(tr_graph *graph, tr_value x, int64_t width, const tr_sizes *sizes);
/* The rate of layer i of n: 0 in the first, sizes->drop_path in the last. */
double tr_vision_drop_path(const tr_sizes *sizes, int64_t i, int64_t n);

/* image_size, patch_size, num_channels, hidden_act, the dropouts, layer_norm_eps, and the labels. */
tr_error *tr_vision_read(const json_t *config, const char *where, tr_sizes *sizes);
void tr_vision_write(json_t *config, const tr_sizes *sizes);
void tr_vision_complete(tr_sizes *sizes, int64_t patch, double eps);
