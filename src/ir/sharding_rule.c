/* Sharding rules; see sharding_rule.h. */
#include "ir/sharding_rule.h"

enum { STAR = 1000, PLUS = 2000 };

typedef struct operand {
    char symbols[TR_MAX_RANK];
    bool whole[TR_MAX_RANK], split[TR_MAX_RANK];
    int count;
} operand;

/* One operand's text up to ',' or '-' or the end. */
static tr_error *parse_operand(const char **at, operand *out)
{
    *out = (operand){0};
    bool whole = false, split = false;
    for (; **at && **at != ',' && **at != '-'; (*at)++) {
        char c = **at;
        if (c == '[' || c == ']' || c == '(' || c == ')') {
            whole = c == '[' || c == '(';
            split = c == '(';
            continue;
        }
        bool known = (c >= 'a' && c <= 'z') || c == '*' || c == '+';
        if (!known || out->count == TR_MAX_RANK)
            return tr_error_new(TR_RUN, "sharding rule: '%c' is no label", c);
        out->whole[out->count] = whole;
        out->split[out->count] = split;
        out->symbols[out->count++] = c;
    }
    return NULL;
}

static tr_error *parse(const char *text, operand *operands, int *n_in, int *n_all)
{
    const char *at = text;
    *n_in = -1;
    *n_all = 0;
    for (;;) {
        if (*n_all == TR_MAX_OPERANDS)
            return tr_error_new(TR_RUN, "sharding rule \"%s\" has too many operands", text);
        TR_TRY(parse_operand(&at, &operands[(*n_all)++]));
        if (at[0] == '-' && at[1] == '>') {
            *n_in = *n_all;
            at += 2;
        } else if (*at == ',') {
            at++;
        } else if (*at == '\0' && *n_in >= 0) {
            return NULL;
        } else {
            return tr_error_new(TR_RUN, "sharding rule \"%s\" has no ->", text);
        }
    }
}

static int count_symbol(const operand *o, char symbol)
{
    int n = 0;
    for (int i = 0; i < o->count; i++)
        n += o->symbols[i] == symbol;
    return n;
}

/* How many dims * and + stand for: from operands in which only one of them is open. */
static void solve(const operand *operands, const int *ranks, int n, int *star, int *plus)
{
    *star = *plus = -1;
    for (int round = 0; round < 3; round++)
        for (int k = 0; k < n; k++) {
            const operand *o = &operands[k];
            int stars = count_symbol(o, '*'), pluses = count_symbol(o, '+');
            int rest = ranks[k] - (o->count - stars - pluses);
            if (ranks[k] < 0)
                continue;
            if (stars && (!pluses || *plus >= 0) && *star < 0)
                *star = rest - (pluses ? *plus : 0);
            else if (pluses && (!stars || *star >= 0) && *plus < 0)
                *plus = rest - (stars ? *star : 0);
        }
    *star = TR_MAX(*star, 0);
    *plus = TR_MAX(*plus, 0);
}

static tr_error *expand(const operand *o, int rank, int star, int plus, tr_rule_dim *dims)
{
    int at = 0;
    for (int i = 0; i < o->count; i++) {
        char c = o->symbols[i];
        int n = c == '*' ? star : c == '+' ? plus : 1;
        for (int j = 0; j < n && at < TR_MAX_RANK; j++)
            dims[at++] = (tr_rule_dim){c == '*' ? STAR + j : c == '+' ? PLUS + j : c, o->whole[i], o->split[i]};
    }
    /* A scalar is kept as one element: its dim has no label. */
    if (o->count == 0 && rank == 1)
        dims[at++] = (tr_rule_dim){0, true, false};
    return at == rank ? NULL : tr_error_new(TR_RUN, "%d labels for %d dims", at, rank);
}

tr_error *tr_rule_fit(const tr_graph *g, tr_node n, tr_rule *out)
{
    const tr_node_info *node = &g->nodes[n];
    const tr_op_row *row = tr_op_table[node->op];
    const char *text = row->sharding_of ? row->sharding_of(g, n) : row->sharding;
    operand operands[TR_MAX_OPERANDS];
    int n_in, n_all, ranks[TR_MAX_OPERANDS], star, plus;
    TR_TRY(tr_error_in_take(parse(text, operands, &n_in, &n_all), "op %s", tr_op_name(node->op)));
    if ((int)node->n_in > n_in || (int)node->n_out > n_all - n_in)
        return tr_error_new(TR_RUN, "op %s: rule \"%s\" has too few operands for %u inputs and %u outputs",
                            tr_op_name(node->op), text, node->n_in, node->n_out);
    *out = (tr_rule){.n_in = (int)node->n_in, .n_out = (int)node->n_out};
    for (int k = 0; k < n_all; k++) {
        tr_value v = k < n_in ? (k < (int)node->n_in ? tr_in(g, n, k) : 0)
                              : (k - n_in < (int)node->n_out ? tr_out(g, n, k - n_in) : 0);
        ranks[k] = v ? tr_shape_at(g, v)->rank : -1;
    }
    solve(operands, ranks, n_all, &star, &plus);
    for (int k = 0; k < n_all; k++) {
        int to = k < n_in ? k : out->n_in + k - n_in;
        if ((k < n_in && k >= out->n_in) || (k >= n_in && k - n_in >= out->n_out))
            continue;
        out->rank[to] = ranks[k];
        if (ranks[k] >= 0)
            TR_TRY(tr_error_in_take(expand(&operands[k], ranks[k], star, plus, out->dims[to]),
                                    "op %s, rule \"%s\", operand %d", tr_op_name(node->op), text, k));
    }
    return NULL;
}

int tr_rule_find(const tr_rule *rule, int operand, int label)
{
    for (int d = 0; d < rule->rank[operand]; d++)
        if (label && rule->dims[operand][d].label == label)
            return d;
    return -1;
}
