/* Samples to inputs; see batch.h. */
#include "data/batch.h"

#include "base/random.h"
#include "base/suggest.h"
#include "exec/loss.h"
#include "ir/table.h"

static const char FACTOR[] = "factor.";

/* Inputs that are not the data's. */
static bool is_own(const char *name)
{
    static const char *const own[] = {"lr", "step", "start", "last", "loss_scale"};
    for (int i = 0; i < TR_COUNT(own); i++)
        if (strcmp(name, own[i]) == 0)
            return true;
    return strncmp(name, FACTOR, strlen(FACTOR)) == 0;
}

bool tr_input_is_data(const tr_graph *g, tr_value v)
{
    return g->values[v].role == TR_INPUT && !is_own(g->values[v].name);
}

tr_error *tr_batch_check(const tr_graph *g, const tr_objective_row *o)
{
    tr_text others = {0};
    const char *missing = NULL;
    for (tr_value v = 1; v < g->n_values && !missing; v++)
        if (tr_input_is_data(g, v) && !tr_word_in(o->inputs, g->values[v].name))
            missing = g->values[v].name;
    if (!missing)
        return NULL;
    for (int k = 0; k < TR_OBJECTIVE_COUNT; k++)
        if (tr_word_in(tr_objectives[k]->inputs, missing))
            tr_text_format(&others, "%s%s", others.length ? ", " : "", tr_objectives[k]->name);
    tr_error *error = tr_error_new(TR_USER, "the model asks for the input %s, which the objective %s does not give (it gives: "
                                            "%s); objectives that do: %s",
                                   missing, o->name, o->inputs, others.length ? others.bytes : "none");
    tr_text_free(&others);
    return error;
}

/* The fields of a whole sample ----------------------------------------------------------------------- */

static tr_field field_of(const tr_graph *g, tr_value v)
{
    const tr_value_info *info = &g->values[v];
    const int64_t *dims = info->layout ? info->layout->whole : info->shape.dims;
    tr_field f = {.name = info->name, .dtype = info->shape.dtype, .rank = info->shape.rank - 1, .elems = 1};
    for (int d = 0; d < f.rank; d++) {
        f.dims[d] = dims[d + 1];
        f.elems *= f.dims[d];
    }
    if (f.dtype == TR_F32)
        f.reals = tr_alloc_zero((size_t)f.elems, sizeof *f.reals);
    else
        f.ints = tr_alloc_zero((size_t)f.elems, sizeof *f.ints);
    return f;
}

static void free_fields(tr_field *fields, int count)
{
    for (int k = 0; k < count; k++) {
        free(fields[k].ints);
        free(fields[k].reals);
    }
}

static void clear(tr_field *f, int32_t number)
{
    for (int64_t i = 0; i < f->elems && f->ints; i++)
        f->ints[i] = number;
    for (int64_t i = 0; i < f->elems && f->reals; i++)
        f->reals[i] = 0;
}

static bool is_target(const tr_program *p, const char *name)
{
    for (int k = 0; k < p->n_losses; k++)
        if (p->losses[k].targets && strcmp(p->losses[k].targets, name) == 0)
            return true;
    return false;
}

static tr_error *sample(const tr_batch *b, int64_t index, tr_field *fields, int count)
{
    bool given = index < b->end;
    for (int k = 0; k < count; k++)
        clear(&fields[k], !given && is_target(b->program, fields[k].name) ? -1 : 0);
    return given ? b->objective->row->sample(b->objective->own, b->validation, index, fields, count) : NULL;
}

/* The part of a rank ---------------------------------------------------------------------------------- */

/* The elements of one row that the program has, from the whole row. All are 4 bytes wide. */
static void copy_part(const tr_value_info *info, const tr_field *f, uint32_t *to)
{
    const tr_layout *l = info->layout;
    const void *row = f->ints ? (const void *)f->ints : f->reals;
    const int64_t *block = l ? l->block + 1 : f->dims;
    int64_t at[TR_MAX_RANK] = {0}, n = 1;
    for (int d = 0; d < f->rank; d++)
        n *= block[d];
    for (int64_t i = 0; i < n; i++) {
        int64_t index = 0;
        for (int d = 0; d < f->rank; d++)
            index = index * f->dims[d] + (l ? tr_layout_place(l, d + 1, at[d]) : at[d]);
        to[i] = ((const uint32_t *)row)[index];
        for (int d = f->rank - 1; d >= 0 && ++at[d] == block[d]; d--)
            at[d] = 0;
    }
}

static int64_t elems_of_row(const tr_value_info *info)
{
    return tr_shape_elems(&info->shape) / info->shape.dims[0];
}

static void set_factors(const tr_batch *b)
{
    for (int k = 1; k < b->program->n_losses && b->factors; k++) {
        char *name = tr_format("%s%s", FACTOR, b->program->losses[k].name);
        if (tr_graph_find(b->program->graph, name))
            *(float *)tr_program_find(b->program, name) = b->factors[k];
        free(name);
    }
}

/* Inputs that share their rows are made together, from one sample. */
tr_error *tr_batch_fill(void *context, int64_t micro)
{
    enum { MOST = 16 };
    const tr_batch *b = context;
    const tr_graph *g = b->program->graph;
    tr_field fields[MOST];
    tr_value values[MOST];
    int count = 0;
    tr_error *error = NULL;
    for (tr_value v = 1; v < g->n_values; v++)
        if (tr_input_is_data(g, v)) {
            TR_CHECK(count < MOST, "a program of more than %d inputs", MOST);
            values[count] = v;
            fields[count++] = field_of(g, v);
        }
    set_factors(b);
    if (!count)
        return NULL;
    const tr_value_info *one = &g->values[values[0]];
    int64_t rows = one->shape.dims[0];
    for (int64_t r = 0; r < rows && !error; r++) {
        int64_t row = one->layout ? tr_layout_place(one->layout, 0, r) : r;
        error = sample(b, b->first + micro * b->rows + row, fields, count);
        for (int k = 0; k < count && !error; k++) {
            const tr_value_info *info = &g->values[values[k]];
            copy_part(info, &fields[k], (uint32_t *)tr_program_data(b->program, values[k]) + r * elems_of_row(info));
        }
    }
    free_fields(fields, count);
    return error;
}

/* Factors ---------------------------------------------------------------------------------------------- */

/* The whole shape of a head's targets; a stage of a pipeline may lack the input. */
static tr_value find_target(const tr_program *p, const tr_graph **out_graph, const char *name)
{
    *out_graph = p->graph;
    tr_value v = tr_graph_find(p->graph, name);
    if (v || !p->whole)
        return v;
    *out_graph = p->whole;
    return tr_graph_find(p->whole, name);
}

tr_error *tr_batch_factors(tr_batch *b, int64_t micro_batches, tr_ranks *ranks)
{
    enum { MOST = 8 };
    const tr_program *p = b->program;
    tr_field fields[MOST];
    double counts[MOST] = {0};
    int heads = 0, stride = ranks ? ranks->count : 1;
    tr_error *error = NULL;
    if (p->n_losses < 2)
        return NULL;
    TR_CHECK(p->n_losses <= MOST, "a model of more than %d losses", MOST);
    for (; heads < p->n_losses && p->losses[heads].targets; heads++) {
        const tr_graph *g;
        tr_value v = find_target(p, &g, p->losses[heads].targets);
        fields[heads] = field_of(g, v);
    }
    for (int64_t i = ranks ? ranks->rank : 0; i < b->rows * micro_batches && !error; i += stride) {
        error = sample(b, b->first + i, fields, heads);
        for (int k = 0; k < heads && !error; k++)
            for (int64_t e = 0; e < fields[k].elems; e++)
                counts[k] += fields[k].ints[e] >= 0;
    }
    free_fields(fields, heads);
    if (!error && ranks)
        error = tr_ranks_sum(ranks, counts, heads);
    for (int k = heads; k < p->n_losses; k++)
        counts[k] = (double)(b->rows * micro_batches);
    if (!b->factors)
        b->factors = tr_alloc_zero((size_t)p->n_losses, sizeof *b->factors);
    for (int k = 1; k < p->n_losses; k++)
        b->factors[k] = counts[k] > 0 ? (float)(p->losses[k].weight * counts[0] / counts[k]) : 0;
    return error;
}

void tr_batch_free(tr_batch *b)
{
    free(b->factors);
    b->factors = NULL;
}

/* Measuring -------------------------------------------------------------------------------------------- */

int64_t tr_input_choices(const tr_graph *g, tr_value v)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        for (uint32_t k = 0; k < g->nodes[n].n_in; k++) {
            if (tr_in(g, n, (int)k) != v)
                continue;
            bool embeds = g->nodes[n].op == TR_OP_embedding;
            if (embeds || k == 2) /* ids of a table; targets beside hidden states and a table */
                return tr_shape_at(g, tr_in(g, n, embeds ? 0 : 1))->dims[0];
        }
    return 0;
}

void tr_batch_fill_random(tr_program *p, uint64_t seed, const tr_objective_row *objective)
{
    const tr_graph *g = p->graph;
    const char *first = p->n_losses ? p->losses[0].targets : NULL;
    bool some = objective && objective->counted > 0 && first;
    for (tr_value v = 1; v < g->n_values; v++) {
        if (!tr_input_is_data(g, v))
            continue;
        const tr_shape *s = tr_shape_at(g, v);
        int64_t n = tr_shape_elems(s), most = s->dtype == TR_I32 ? tr_input_choices(g, v) : 0, last = s->dims[s->rank - 1];
        bool counts = strstr(g->values[v].name, "positions") != NULL, thin = some && strcmp(g->values[v].name, first) == 0;
        void *data = tr_program_data(p, v);
        for (int64_t i = 0; i < n; i++) {
            tr_random4 r = tr_random(seed, 0, v, (uint64_t)i);
            uint32_t word = r.word[0];
            if (thin && tr_random_unit(r.word[1]) >= objective->counted)
                ((int32_t *)data)[i] = -1;
            else if (s->dtype == TR_F32)
                ((float *)data)[i] = (float)word * 0x1p-31f - 1;
            else
                ((int32_t *)data)[i] = (int32_t)(counts ? i % last : most ? (int64_t)(word % (uint64_t)most) : 0);
        }
    }
}
