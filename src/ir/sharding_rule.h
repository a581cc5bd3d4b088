/* Sharding rules: which dims of an op's operands may be cut together. The text form is in ir/table.h; this
 * is the parsed form, fitted to the ranks of one node.
 */
#pragma once
#include "ir/table.h"

enum { TR_MAX_OPERANDS = 16 };

/* One dim of one operand. Equal labels may be cut on the same mesh axis; label 0 is never cut. */
typedef struct tr_rule_dim {
    int label;
    bool whole; /* in brackets or parentheses: this op needs the dim whole */
    bool split; /* in parentheses: the sharding pass has another form of the op for it */
} tr_rule_dim;

typedef struct tr_rule {
    int n_in, n_out;
    int rank[TR_MAX_OPERANDS]; /* inputs, then outputs; -1: absent */
    tr_rule_dim dims[TR_MAX_OPERANDS][TR_MAX_RANK];
} tr_rule;

/* The rule of a node, fitted. A rule that does not fit the node's ranks is a broken invariant of the op. */
tr_error *tr_rule_fit(const tr_graph *graph, tr_node node, tr_rule *out);
/* Does any input (or output) carry the label; at which dim (-1: not). */
int tr_rule_find(const tr_rule *rule, int operand, int label);
