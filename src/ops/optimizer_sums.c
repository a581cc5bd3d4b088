/* Optimizers that need sums over a whole parameter: LARS, LAMB, Adafactor. The sums are outputs of a first node, so
 * that a rank which has a part of the parameter gives a summand, and the sharding pass adds them up before the node
 * that updates.
 */
#include "ops/rule.h"

static tr_shape sums_of(int64_t n)
{
    return (tr_shape){.dtype = TR_F32, .rank = 1, .dims = {n}};
}

static tr_error *need_elems(const tr_graph *g, const tr_value *in, int k, int64_t elems)
{
    int64_t given = tr_shape_elems(shape_in(g, in, k));
    return given == elems ? NULL
                          : tr_error_new(TR_USER, "input %d has %lld elements and needs %lld", k, (long long)given,
                                         (long long)elems);
}

static void cost_step(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 15.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

static void cost_sums(const tr_graph *g, tr_node n, tr_cost *cost)
{
    cost->flops = 4.0 * (double)tr_shape_elems(tr_shape_at(g, tr_in(g, n, 0)));
}

/* LARS ------------------------------------------------------------------------------------------- */

TR_INFER(infer_lars_sums)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 0, 3));
    out[0] = sums_of(2);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_lars_sums = {.min_in = 3, .max_in = 4, .flags = TR_OP_OPTIMIZER, .infer = infer_lars_sums,
                                    .no_gradient = "part of the update", .sharding = "+,+,,+->", .cost = cost_sums};

TR_INFER(infer_lars)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 1, 6));
    if (has(in, n_in, 5))
        TR_TRY(need_elems(g, in, 5, 2));
    out[(*n_out)++] = *shape_in(g, in, 0);
    out[(*n_out)++] = *shape_in(g, in, 2);
    if (has(in, n_in, 6))
        out[(*n_out)++] = *shape_in(g, in, 6);
    return NULL;
}

const tr_op_row tr_row_lars = {
    .min_in = 5, .max_in = 7, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 2, 6},
    .attrs = {{"momentum", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}, {"trust", TR_ATTR_FLOAT}}, .infer = infer_lars,
    .no_gradient = "part of the update", .sharding = "+,+,+,,,,+->+,+,+", .cost = cost_step};

/* LAMB ------------------------------------------------------------------------------------------- */

#define LAMB_ATTRS                                                                                              \
    {                                                                                                           \
        {"beta1", TR_ATTR_FLOAT}, {"beta2", TR_ATTR_FLOAT}, {"eps", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}     \
    }

TR_INFER(infer_lamb_moments)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 2, 6));
    out[(*n_out)++] = *shape_in(g, in, 2);
    out[(*n_out)++] = *shape_in(g, in, 3);
    out[(*n_out)++] = sums_of(2);
    return NULL;
}

const tr_op_row tr_row_lamb_moments = {
    .min_in = 6, .max_in = 7, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {2, 3, -1, -1}, .attrs = LAMB_ATTRS,
    .infer = infer_lamb_moments, .no_gradient = "part of the update", .sharding = "+,+,+,+,,,+->+,+,",
    .cost = cost_step};

TR_INFER(infer_lamb)
{
    (void)attrs;
    TR_TRY(tr_check_update(g, in, n_in, 1, 7));
    TR_TRY(need_elems(g, in, 3, 2));
    out[(*n_out)++] = *shape_in(g, in, 0);
    if (has(in, n_in, 7))
        out[(*n_out)++] = *shape_in(g, in, 7);
    return NULL;
}

const tr_op_row tr_row_lamb = {
    .min_in = 7, .max_in = 8, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 7, -1, -1}, .attrs = LAMB_ATTRS,
    .infer = infer_lamb, .no_gradient = "part of the update", .sharding = "+,+,+,,,,,+->+,+", .cost = cost_step};

/* Adafactor -------------------------------------------------------------------------------------- */

/* How many matrices: the leading dims of r and c. */
static tr_error *stack_of(const tr_graph *g, const tr_value *in, int r, int c, const tr_attr *attrs, int64_t *out)
{
    int64_t batch = attrs[TR_FACTOR_BATCH].i;
    const tr_shape *rows = shape_in(g, in, r), *columns = shape_in(g, in, c);
    if (batch < 0 || batch > 1 || rows->rank <= batch || columns->rank <= batch)
        return tr_error_new(TR_USER, "batch can be 0 or 1, below the ranks of r and c");
    TR_TRY(tr_dims_match(g, "r and c", rows, 0, columns, 0, (int)batch));
    *out = batch ? rows->dims[0] : 1;
    return NULL;
}

TR_INFER(infer_adafactor_rows)
{
    int64_t stack;
    (void)n_in;
    TR_TRY(stack_of(g, in, 1, 2, attrs, &stack));
    for (int k = 0; k < 2; k++) {
        out[k] = *shape_in(g, in, 1 + k);
        out[k].dtype = TR_F32;
    }
    *n_out = 2;
    return NULL;
}

static const char *rule_rows(const tr_graph *g, tr_node n)
{
    return g->nodes[n].attrs[TR_FACTOR_BATCH].i ? "e*+,e*,e+,->e*,e+" : "*+,*,+,->*,+";
}

const tr_op_row tr_row_adafactor_rows = {
    .min_in = 4, .max_in = 4, .flags = TR_OP_OPTIMIZER,
    .attrs = {{"first", TR_ATTR_INT}, {"batch", TR_ATTR_INT}, {"eps", TR_ATTR_FLOAT}}, .infer = infer_adafactor_rows,
    .no_gradient = "part of the update", .sharding_of = rule_rows, .cost = cost_sums};

TR_INFER(infer_adafactor_mean)
{
    (void)attrs, (void)n_in;
    TR_TRY(need_elems(g, in, 1, tr_shape_elems(shape_in(g, in, 0))));
    out[0] = *shape_in(g, in, 0);
    *n_out = 1;
    return NULL;
}

const tr_op_row tr_row_adafactor_mean = {
    .min_in = 4, .max_in = 4, .flags = TR_OP_UPDATES, .updates = {0, -1, -1, -1},
    .attrs = {{"power", TR_ATTR_FLOAT}, {"count", TR_ATTR_INT}}, .infer = infer_adafactor_mean,
    .no_gradient = "part of the update", .sharding = "+,+,,->+"};

const tr_op_row tr_row_adafactor_square = {
    .min_in = 4, .max_in = 4, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, -1, -1, -1},
    .attrs = {{"power", TR_ATTR_FLOAT}, {"eps", TR_ATTR_FLOAT}}, .infer = infer_adafactor_mean,
    .no_gradient = "part of the update", .sharding = "+,+,,->+"};

/* r and c, or v, against the weight; the count of matrices. */
static tr_error *check_factors(const tr_graph *g, const tr_value *in, int n_in, int c, const tr_attr *attrs,
                               int64_t *stack)
{
    *stack = 1;
    if (has(in, n_in, c))
        return stack_of(g, in, 2, c, attrs, stack);
    return attrs[TR_FACTOR_BATCH].i ? tr_error_new(TR_USER, "batch needs c")
                                    : need_elems(g, in, 2, tr_shape_elems(shape_in(g, in, 0)));
}

TR_INFER(infer_adafactor_sums)
{
    int64_t stack;
    TR_TRY(tr_check_update(g, in, n_in, 0, 5));
    TR_TRY(check_factors(g, in, n_in, 4, attrs, &stack));
    out[0] = sums_of(3);
    if (attrs[TR_FACTOR_BATCH].i) {
        out[0].rank = 2;
        out[0].dims[1] = stack;
        out[0].names[1] = shape_in(g, in, 2)->names[0];
    }
    *n_out = 1;
    return NULL;
}

static const char *rule_sums(const tr_graph *g, tr_node n)
{
    if (g->nodes[n].attrs[TR_FACTOR_BATCH].i)
        return "e*+,e*+,e*,,e+,e*+->[z]e";
    return tr_in(g, n, 4) ? "*+,*+,*,,+,*+->" : "+,+,+,,,+->";
}

const tr_op_row tr_row_adafactor_sums = {
    .min_in = 4, .max_in = 6, .flags = TR_OP_OPTIMIZER,
    .attrs = {{"first", TR_ATTR_INT}, {"batch", TR_ATTR_INT}, {"count", TR_ATTR_INT}}, .infer = infer_adafactor_sums,
    .no_gradient = "part of the update", .sharding_of = rule_sums, .cost = cost_step};

TR_INFER(infer_adafactor)
{
    int64_t stack;
    TR_TRY(tr_check_update(g, in, n_in, 0, 8));
    TR_TRY(check_factors(g, in, n_in, 6, attrs, &stack));
    TR_TRY(need_elems(g, in, 3, 3 * stack));
    out[(*n_out)++] = *shape_in(g, in, 0);
    if (has(in, n_in, 7)) {
        TR_TRY(need_elems(g, in, 7, tr_shape_elems(&out[0])));
        out[(*n_out)++] = *shape_in(g, in, 7);
    }
    if (has(in, n_in, 8))
        out[(*n_out)++] = *shape_in(g, in, 8);
    return NULL;
}

static const char *rule_adafactor(const tr_graph *g, tr_node n)
{
    bool keeps = tr_in(g, n, 7) != 0; /* momentum: the outputs are those that are there */
    if (g->nodes[n].attrs[TR_FACTOR_BATCH].i)
        return keeps ? "e*+,e*+,e*,[z]e,,,e+,e*+,e*+->e*+,e*+,e*+" : "e*+,e*+,e*,[z]e,,,e+,,e*+->e*+,e*+";
    if (tr_in(g, n, 6))
        return keeps ? "*+,*+,*,,,,+,*+,*+->*+,*+,*+" : "*+,*+,*,,,,+,,*+->*+,*+";
    return keeps ? "+,+,+,,,,,+,+->+,+,+" : "+,+,+,,,,,,+->+,+";
}

const tr_op_row tr_row_adafactor = {
    .min_in = 6, .max_in = 9, .flags = TR_OP_UPDATES | TR_OP_OPTIMIZER, .updates = {0, 7, 8, -1},
    .attrs = {{"first", TR_ATTR_INT}, {"batch", TR_ATTR_INT}, {"count", TR_ATTR_INT}, {"relative", TR_ATTR_BOOL},
              {"least", TR_ATTR_FLOAT}, {"limit", TR_ATTR_FLOAT}, {"decay", TR_ATTR_FLOAT}, {"beta1", TR_ATTR_FLOAT}},
    .infer = infer_adafactor, .no_gradient = "part of the update", .sharding_of = rule_adafactor, .cost = cost_step};
