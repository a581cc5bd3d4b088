/* The graph: values and nodes, 32-bit ids into arrays that the graph owns.
 *
 * Invariants (graph_verify checks them; other files cite them by number)
 *  1. Id 0 is nothing: an absent optional input, or "no value".
 *  2. A value is a leaf (input, parameter, state) or an output of exactly one node, which stands after
 *     all nodes that make its inputs: the order of `nodes` is an order of execution.
 *  3. Names of leaves are unique and are what checkpoints and bindings go by.
 *  4. A value with `home` != itself lives in home's buffer. It is a view (op reshape) or is written over
 *     it; in the second case no other node reads the overwritten value after.
 *  5. All dims are positive; a value's elements fit in int64.
 *  6. Phases do not go back along the order: START, FORWARD, BACKWARD, WEIGHT, UPDATE. With several
 *     microbatches the middle three run once for each, and only state crosses into UPDATE. Nodes of UPDATE may
 *     stand early, among the middle three: they run with the last microbatch, and none of the middle reads them.
 *
 * Building functions never fail in the middle of a model: the first error sticks to the graph, later
 * calls return 0, and tr_graph_error gives it at the end. Not for several threads at once.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"
#include "ir/dtype.h"
#include "ir/op.h"
#include "kernels/kernel.h"
#include "trireme.h"

typedef uint32_t tr_node;
typedef uint8_t tr_dim; /* an interned dim name; 0 is "_", a dim without one */
enum { TR_MOST_DIM_NAMES = 250 };

typedef struct tr_shape {
    tr_dtype dtype;
    int rank;
    int64_t dims[TR_MAX_RANK]; /* dim 0 outermost */
    tr_dim names[TR_MAX_RANK];
} tr_shape;

typedef enum tr_role {
    TR_TEMP,  /* computed, lives as long as it is needed */
    TR_INPUT, /* given anew for each run */
    TR_PARAM, /* trained */
    TR_STATE, /* kept between runs: optimizer moments, accumulators, caches */
    TR_MESSAGE, /* comes from another pipeline stage, anew for each microbatch */
    TR_ROLE_COUNT
} tr_role;

/* When a node runs within a step: once, once for each microbatch (the three in the middle), once. WEIGHT is the
 * part of the backward that only gradients of parameters need; it is empty unless a pipeline wants it apart. */
typedef enum tr_phase { TR_START, TR_FORWARD, TR_BACKWARD, TR_WEIGHT, TR_UPDATE, TR_PHASE_COUNT } tr_phase;
extern const char *const tr_phase_names[TR_PHASE_COUNT];

/* Where a value's elements stand in the whole tensor, when the graph is one rank's part: a block of it, and
 * of the block's elements in row-major order those from `first` on (all, unless the value is a flat shard). */
typedef struct tr_layout {
    int rank;
    tr_dim names[TR_MAX_RANK];
    int64_t whole[TR_MAX_RANK], origin[TR_MAX_RANK], block[TR_MAX_RANK];
    int64_t turn[TR_MAX_RANK], jump[TR_MAX_RANK]; /* the block is in two pieces; see tr_layout_place.
                                                     Parameters and state are in one. */
    int64_t first, count;
    bool flat;      /* the value's own shape is [count] */
    uint32_t owner; /* bit k: this rank is not the first on mesh axis k, over which the value is replicated */
} tr_layout;
/* Where element x of the block's dim d stands in the whole: `jump` further from x = turn on. */
static inline int64_t tr_layout_place(const tr_layout *l, int d, int64_t x)
{
    return l->origin[d] + x + (x >= l->turn[d] ? l->jump[d] : 0);
}
/* The index in the whole tensor of the local element i. */
int64_t tr_layout_index(const tr_layout *layout, int64_t i);

typedef struct tr_value_info {
    tr_shape shape;
    tr_role role;
    const char *name; /* NULL for temporaries */
    tr_node node;     /* that makes it, 0 for leaves */
    tr_value home;    /* invariant 4 */
    tr_init init;
    uint32_t stream;  /* of random numbers, for TR_INIT_NORMAL */
    bool decay;       /* parameters: weight decay applies (2-D and up) */
    int64_t unit[TR_MAX_RANK]; /* a dim is cut at multiples of this; 0 is 1 */
    int32_t stage;    /* messages: the stage that they come to */
    const tr_layout *layout;   /* NULL: the value is the whole tensor */
} tr_value_info;

typedef struct tr_node_info {
    tr_op op;
    int32_t layer; /* -1 outside of layers */
    int32_t stage; /* of the pipeline; 0 without one */
    tr_phase phase;
    uint32_t first_in, n_in, first_out, n_out; /* into links */
    tr_attr attrs[TR_MAX_ATTRS];
} tr_node_info;

typedef struct tr_graph {
    tr_arena *arena;
    const char *name;
    tr_value_info *values; /* [0] unused */
    uint32_t n_values, values_room;
    tr_node_info *nodes; /* [0] unused */
    uint32_t n_nodes, nodes_room;
    tr_value *links; /* inputs and outputs of all nodes */
    uint32_t n_links, links_room;
    const char **dim_names;
    uint32_t n_dim_names, dim_names_room;
    tr_value *outputs; /* what the caller reads after a run */
    const char **output_names;
    uint32_t n_outputs, outputs_room, output_names_room;
    /* where new nodes go */
    int32_t layer, stage;
    const char *prefix; /* of the names of parameters */
    tr_phase phase;
    tr_dtype compute; /* dtype of weights of two and more dims and of activations: f32 or bf16 */
    uint32_t streams; /* random streams handed out so far */
    /* What the model function wants to learn, until the loss is made of it (exec/loss.c). */
    tr_head *heads;
    struct tr_aux_loss *losses;
    struct tr_shown *shown; /* what it wants to show (tr_output) */
    uint32_t n_heads, heads_room, n_losses, losses_room, n_shown, shown_room;
    tr_error *error;
} tr_graph;

/* Of tr_loss_add. */
typedef struct tr_aux_loss {
    const char *name;
    tr_value sum;
    double weight;
} tr_aux_loss;

typedef struct tr_shown {
    const char *name;
    tr_value value;
} tr_shown;

tr_graph *tr_graph_new(const char *name, tr_dtype compute);
void tr_graph_free(tr_graph *graph);
/* The first error of building, now the caller's; NULL when there was none. */
tr_error *tr_graph_error_take(tr_graph *graph);
void tr_graph_fail(tr_graph *graph, tr_error *error_taken);

/* Dims by text: "batch=4 seq=512 embed=768"; a name is optional ("=3" or "3"). */
tr_shape tr_shape_of(tr_graph *graph, tr_dtype dtype, int rank, const char *const *names,
                     const int64_t *dims);
tr_dim tr_graph_dim(tr_graph *graph, const char *name);
/* How a parameter is stored: the dims qkv, heads and head_dim that stand together are one dim there, as
 * in Hugging Face's files. */
tr_shape tr_shape_in_file(const tr_graph *graph, const tr_shape *shape);
int64_t tr_shape_elems(const tr_shape *shape);
/* "embed=768, mlp=3072", in `buffer`: for messages. */
const char *tr_dims_text(const tr_graph *graph, const tr_shape *shape, char *buffer, size_t room);
int64_t tr_shape_bytes(const tr_shape *shape);

tr_value tr_graph_leaf(tr_graph *graph, tr_role role, const char *name, tr_shape shape, tr_init init);
/* Appends a node; its outputs come from the op's shape rule. Returns 0 when the graph has an error. */
tr_node tr_graph_node(tr_graph *graph, tr_op op, const tr_value *in, int n_in, const tr_attr *attrs);
/* A reshape, whose shape is not a function of its input. */
tr_value tr_graph_view(tr_graph *graph, tr_value x, tr_shape shape);
void tr_graph_output(tr_graph *graph, const char *name, tr_value value);
/* A copy of the graph's arrays with its own arena. */
tr_graph *tr_graph_copy(const tr_graph *graph);

static inline const tr_shape *tr_shape_at(const tr_graph *g, tr_value v)
{
    return &g->values[v].shape;
}
static inline tr_value tr_in(const tr_graph *g, tr_node n, int k)
{
    const tr_node_info *node = &g->nodes[n];
    return k < (int)node->n_in ? g->links[node->first_in + (uint32_t)k] : 0;
}
static inline tr_value tr_out(const tr_graph *g, tr_node n, int k)
{
    const tr_node_info *node = &g->nodes[n];
    return n && k < (int)node->n_out ? g->links[node->first_out + (uint32_t)k] : 0;
}
static inline void tr_set_in(tr_graph *g, tr_node n, int k, tr_value v)
{
    g->links[g->nodes[n].first_in + (uint32_t)k] = v;
}
/* The value whose buffer `v` lives in, all the way down. */
tr_value tr_value_root(const tr_graph *graph, tr_value v);
tr_value tr_graph_find(const tr_graph *graph, const char *leaf_or_output);

/* Rewrites the node order: `order` lists node ids; nodes that are not listed are dropped. */
void tr_graph_reorder(tr_graph *graph, const tr_node *order, uint32_t count);

/* All invariants; a broken one names the node. */
tr_error *tr_graph_verify(const tr_graph *graph);
/* FNV-1a over everything that decides what is computed: equal plans on all ranks have equal hashes. */
uint64_t tr_graph_hash(const tr_graph *graph);
