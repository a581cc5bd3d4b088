/* The op table: one row an op, written in the op's family file under src/ops.
 *
 * Sharding rules are read by the sharding pass. A rule names each dim of each input and output with a
 * letter; `*` and `+` stand for groups of dims as in ir/op.h. The same letter (or group) may be sharded
 * on the same mesh axis everywhere it stands. A letter that is in the inputs only is contracted: sharding
 * it makes the outputs partial sums, or those outputs that do not carry it. A letter in brackets must be
 * whole: "*[d],[d]->*[d]". An operand without letters is a scalar. A letter in parentheses must be whole in this
 * op, but the sharding pass knows another form of the op for it (shard_loss.c: the vocabulary of the loss).
 */
#pragma once
#include "ir/graph.h"

typedef enum tr_attr_kind { TR_ATTR_INT, TR_ATTR_FLOAT, TR_ATTR_BOOL, TR_ATTR_FN, TR_ATTR_DTYPE } tr_attr_kind;
typedef struct tr_attr_row {
    const char *name;
    tr_attr_kind kind;
} tr_attr_row;

typedef struct tr_cost {
    double flops;
    double bytes; /* read and written, each operand once */
} tr_cost;

enum {
    TR_OP_ELEMENTWISE = 1, /* output element i depends on input elements i only */
    TR_OP_IN_PLACE = 2,    /* output 0 may be written over input 0 */
    TR_OP_RANDOM = 4,
    TR_OP_ACCUMULATES = 8, /* has acc?, see ir/op.h */
    TR_OP_CHEAP = 16,      /* costs less to compute again than to keep */
    TR_OP_VIEW = 32,
    TR_OP_WEIGHT = 256, /* a gradient of a parameter, which no other gradient waits for */
    TR_OP_COLLECTIVE = 128, /* runs over the ranks of a mesh axis; has no kernel */
    TR_OP_WAIT = 1024,     /* ends the collective that made its first input; has no kernel */
    TR_OP_UPDATES = 64,    /* writes over inputs: output k lives in the k-th of those in updates that are there */
    TR_OP_OPTIMIZER = 512, /* reads a parameter or its gradient: the sharding pass puts it where the gradient goes */
};

typedef struct tr_op_row {
    int min_in, max_in; /* max_in -1: any number; absent optional inputs count */
    unsigned flags;
    tr_attr_row attrs[TR_MAX_ATTRS];
    int updates[TR_MAX_OUTPUTS]; /* TR_OP_UPDATES: the inputs whose buffers the outputs take, in order, -1 none */
    /* Fills out[0..] and *n_out (at most TR_MAX_OUTPUTS). The inputs are valid ids or 0. */
    tr_error *(*infer)(const tr_graph *graph, const tr_value *in, int n_in, const tr_attr *attrs,
                       tr_shape *out, int *n_out);
    /* Appends the nodes of the gradient: d_out[k] is the gradient of output k or 0; sets d_in[k] where
     * input k has one. NULL: the op has no gradient (no_gradient says why). */
    void (*gradient)(tr_graph *graph, tr_node node, const tr_value *d_out, tr_value *d_in);
    const char *no_gradient;
    const char *sharding; /* NULL: the sharding pass treats the op by itself */
    const char *(*sharding_of)(const tr_graph *graph, tr_node node); /* where it depends on the node */
    void (*cost)(const tr_graph *graph, tr_node node, tr_cost *out);
} tr_op_row;

extern const tr_op_row *const tr_op_table[TR_OP_COUNT];
const char *tr_op_name(tr_op op);
bool tr_op_parse(const char *name, tr_op *out);
/* TR_OP_UPDATES: which input output k takes the buffer of, -1 none. */
int tr_op_updated(const tr_op_row *row, const tr_value *in, int n_in, int k);
const char *tr_fn_name(tr_fn fn);
/* Flops and bytes of a node; bytes by its operands unless the op says otherwise. */
tr_cost tr_node_cost(const tr_graph *graph, tr_node node);
/* Sum over the live nodes, of one microbatch and the update. */
#define TR_ROW(name) extern const tr_op_row tr_row_##name;
TR_OPS(TR_ROW)
#undef TR_ROW
