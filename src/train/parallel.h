/* Techniques as rule sets: what the config's mesh means to the sharding pass. */
#pragma once
#include "comm/ranks.h"
#include "passes/shard.h"
#include "train/config.h"

/* The mesh's axes by number, the outermost first: ranks that are near each other share a tensor axis. */
enum { TR_AXIS_DATA, TR_AXIS_SEQUENCE, TR_AXIS_TENSOR, TR_AXES };

/* The product of the mesh's sizes. */
int64_t tr_config_ranks(const tr_config *config);
/* Rules, axes, and where `rank` is on them:
 *   data parallel        batch -> data
 *   Megatron tensor      heads, mlp, vocab -> tensor
 *   Megatron sequence    seq -> tensor outside of attention and MLP
 *   Ulysses              seq -> sequence, heads -> sequence inside of attention
 *   ZeRO 1, 2, 3         flat shards over data */
tr_sharding tr_config_sharding(const tr_config *config, int64_t rank);
/* The same place, for the transport. */
tr_place_on_mesh tr_config_place(const tr_config *config, int64_t rank);
