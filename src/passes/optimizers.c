/* The optimizers: for each a row with its name and the nodes that update one parameter. State is named
 * "NAME.KIND.PARAMETER" and has the parameter's shape, but for Adafactor's means of rows and of columns.
 */
#include "passes/optimizers.h"

#include "ir/table.h"

typedef tr_attr attributes[TR_MAX_ATTRS];

static tr_value state(const tr_updated *p, const char *prefix, tr_dtype dtype, tr_shape shape)
{
    tr_graph *g = p->graph;
    shape.dtype = dtype;
    const char *name = g->values[p->w].name;
    char *full = tr_format("%s%s", prefix, name ? name : "");
    tr_value v = tr_graph_leaf(g, TR_STATE, full, shape, tr_zeros());
    free(full);
    return v;
}

static tr_value moment(const tr_updated *p, const char *prefix)
{
    return state(p, prefix, TR_F32, *tr_shape_at(p->graph, p->w));
}

static void emit_adamw_as(const tr_updated *p, const char *first, const char *second)
{
    tr_value m = moment(p, first), v = moment(p, second);
    const tr_value in[] = {p->w, p->grad, m, v, p->scale, p->lr, p->step, p->low};
    const attributes attrs = {[TR_ADAMW_BETA1] = {.f = p->how->beta1}, [TR_ADAMW_BETA2] = {.f = p->how->beta2},
                              [TR_ADAMW_EPS] = {.f = p->how->eps}, [TR_ADAMW_DECAY] = {.f = p->decay}};
    tr_graph_node(p->graph, TR_OP_adamw, in, TR_COUNT(in), attrs);
}

static void emit_adamw(const tr_updated *p)
{
    emit_adamw_as(p, "adam.m.", "adam.v.");
}

static void emit_sgd(const tr_updated *p)
{
    const tr_value in[] = {p->w, p->grad, moment(p, "sgd.m."), p->scale, p->lr, p->low};
    const attributes attrs = {[TR_SGD_MOMENTUM] = {.f = p->how->momentum}, [TR_SGD_DECAY] = {.f = p->decay}};
    tr_graph_node(p->graph, TR_OP_sgd, in, TR_COUNT(in), attrs);
}

static void emit_lion(const tr_updated *p)
{
    const tr_value in[] = {p->w, p->grad, moment(p, "lion.m."), p->scale, p->lr, p->low};
    const attributes attrs = {[TR_LION_BETA1] = {.f = p->how->beta1}, [TR_LION_BETA2] = {.f = p->how->beta2},
                              [TR_LION_DECAY] = {.f = p->decay}};
    tr_graph_node(p->graph, TR_OP_lion, in, TR_COUNT(in), attrs);
}

/* Vectors (biases, norms) have neither weight decay nor a rate of their own, as in the papers' own programs. */
static bool is_matrix(const tr_updated *p)
{
    return p->graph->values[p->w].decay;
}

static void emit_lars(const tr_updated *p)
{
    tr_graph *g = p->graph;
    const tr_value sums_in[] = {p->w, p->grad, p->scale, p->low};
    tr_value sums = is_matrix(p) ? tr_out(g, tr_graph_node(g, TR_OP_lars_sums, sums_in, TR_COUNT(sums_in), NULL), 0) : 0;
    const tr_value in[] = {p->w, p->grad, moment(p, "lars.m."), p->scale, p->lr, sums, p->low};
    const attributes attrs = {[TR_LARS_MOMENTUM] = {.f = p->how->momentum}, [TR_LARS_DECAY] = {.f = p->decay},
                              [TR_LARS_TRUST] = {.f = p->how->trust}};
    tr_graph_node(g, TR_OP_lars, in, TR_COUNT(in), attrs);
}

static void emit_lamb(const tr_updated *p)
{
    tr_graph *g = p->graph;
    if (!is_matrix(p)) {
        emit_adamw_as(p, "lamb.m.", "lamb.v.");
        return;
    }
    tr_value m = moment(p, "lamb.m."), v = moment(p, "lamb.v.");
    const tr_value moments_in[] = {p->w, p->grad, m, v, p->scale, p->step, p->low};
    const attributes attrs = {[TR_ADAMW_BETA1] = {.f = p->how->beta1}, [TR_ADAMW_BETA2] = {.f = p->how->beta2},
                              [TR_ADAMW_EPS] = {.f = p->how->eps}, [TR_ADAMW_DECAY] = {.f = p->decay}};
    tr_node made = tr_graph_node(g, TR_OP_lamb_moments, moments_in, TR_COUNT(moments_in), attrs);
    const tr_value in[] = {p->w, tr_out(g, made, 0), tr_out(g, made, 1), tr_out(g, made, 2), p->scale, p->lr, p->step, p->low};
    tr_graph_node(g, TR_OP_lamb, in, TR_COUNT(in), attrs);
}

/* Adafactor -------------------------------------------------------------------------------------- */

/* A parameter as a matrix: its file's first dim by all the others; of a stack of experts, each by itself. */
typedef struct matrix {
    int batch, rows; /* dims of the stack and of the rows; the others are columns */
    int64_t row_count, column_count;
} matrix;

static bool find_matrix(const tr_graph *g, const tr_shape *shape, matrix *out)
{
    tr_shape part = *shape;
    *out = (matrix){.row_count = 1, .column_count = 1};
    if (tr_shape_in_file(g, shape).rank > 2 && strcmp(g->dim_names[shape->names[0]], "expert") == 0)
        out->batch = 1;
    for (int d = out->batch; d < shape->rank; d++) {
        memcpy(part.dims, shape->dims + out->batch, sizeof *part.dims * (size_t)(shape->rank - out->batch));
        memcpy(part.names, shape->names + out->batch, sizeof *part.names * (size_t)(shape->rank - out->batch));
        part.rank = d - out->batch + 1;
        bool row = tr_shape_in_file(g, &part).rank < 2;
        out->rows += row;
        *(row ? &out->row_count : &out->column_count) *= shape->dims[d];
    }
    return out->batch + out->rows < shape->rank;
}

/* The dims of the stack, and `count` more from `first` on. */
static tr_shape some_dims(const tr_shape *shape, int batch, int first, int count)
{
    tr_shape out = {.rank = batch + count};
    for (int d = 0; d < out.rank; d++) {
        int from = d < batch ? d : first + d - batch;
        out.dims[d] = shape->dims[from];
        out.names[d] = shape->names[from];
    }
    return out;
}

static tr_value mean_of(const tr_updated *p, tr_value mean, tr_value sum, int64_t count)
{
    const tr_value in[] = {mean, sum, p->scale, p->step};
    const attributes attrs = {[TR_FACTOR_POWER] = {.f = p->how->power}, [TR_FACTOR_MEAN_COUNT] = {.i = count}};
    return tr_out(p->graph, tr_graph_node(p->graph, TR_OP_adafactor_mean, in, TR_COUNT(in), attrs), 0);
}

static void emit_adafactor(const tr_updated *p)
{
    tr_graph *g = p->graph;
    const tr_shape shape = *tr_shape_at(g, p->w);
    matrix at;
    tr_value r, c = 0;
    bool factored = find_matrix(g, &shape, &at) && p->how->factored;
    int64_t count = factored ? at.row_count * at.column_count : tr_shape_elems(&shape);
    if (factored) {
        int columns = shape.rank - at.batch - at.rows;
        r = state(p, "adafactor.r.", TR_F32, some_dims(&shape, at.batch, at.batch, at.rows));
        c = state(p, "adafactor.c.", TR_F32, some_dims(&shape, at.batch, at.batch + at.rows, columns));
        const tr_value in[] = {p->grad, r, c, p->scale};
        const attributes attrs = {[TR_FACTOR_BATCH] = {.i = at.batch}, [TR_FACTOR_ROWS_EPS] = {.f = p->how->eps}};
        tr_node sums = tr_graph_node(g, TR_OP_adafactor_rows, in, TR_COUNT(in), attrs);
        r = mean_of(p, r, tr_out(g, sums, 0), at.column_count);
        c = mean_of(p, c, tr_out(g, sums, 1), at.row_count);
    } else {
        const tr_value in[] = {moment(p, "adafactor.v."), p->grad, p->scale, p->step};
        const attributes attrs = {[TR_FACTOR_POWER] = {.f = p->how->power}, [TR_FACTOR_SQUARE_EPS] = {.f = p->how->eps}};
        r = tr_out(g, tr_graph_node(g, TR_OP_adafactor_square, in, TR_COUNT(in), attrs), 0);
    }
    const attributes attrs = {[TR_FACTOR_BATCH] = {.i = factored ? at.batch : 0}, [TR_FACTOR_COUNT] = {.i = count},
                              [TR_FACTOR_RELATIVE] = {.i = p->how->relative}, [TR_FACTOR_LEAST] = {.f = p->how->least},
                              [TR_FACTOR_LIMIT] = {.f = p->how->limit}, [TR_FACTOR_DECAY] = {.f = p->decay},
                              [TR_FACTOR_BETA1] = {.f = p->how->beta1}};
    const tr_value sums_in[] = {p->w, p->grad, r, p->scale, c, p->low};
    const attributes sums_attrs = {attrs[TR_FACTOR_FIRST], attrs[TR_FACTOR_BATCH], attrs[TR_FACTOR_COUNT]};
    tr_value sums = tr_out(g, tr_graph_node(g, TR_OP_adafactor_sums, sums_in, TR_COUNT(sums_in), sums_attrs), 0);
    tr_value m = p->how->beta1 > 0 ? moment(p, "adafactor.m.") : 0;
    const tr_value in[] = {p->w, p->grad, r, sums, p->scale, p->lr, c, m, p->low};
    tr_graph_node(g, TR_OP_adafactor, in, TR_COUNT(in), attrs);
}

static void (*const emitters[TR_OPTIMIZER_COUNT])(const tr_updated *p) = {
    [TR_ADAMW] = emit_adamw, [TR_SGD] = emit_sgd,   [TR_LION] = emit_lion,
    [TR_LARS] = emit_lars,   [TR_LAMB] = emit_lamb, [TR_ADAFACTOR] = emit_adafactor,
};

void tr_emit_optimizer(tr_graph *g, tr_value w, tr_value grad, tr_value scale, tr_value lr, tr_value step,
                       const tr_update *how)
{
    tr_updated p = {.graph = g, .w = w, .grad = grad, .scale = scale, .lr = lr, .step = step, .how = how,
                    .decay = g->values[w].decay ? how->weight_decay : 0};
    if (tr_shape_at(g, w)->dtype == TR_BF16)
        p.low = state(&p, "low.", TR_U16, *tr_shape_at(g, w));
    emitters[how->optimizer](&p);
}
