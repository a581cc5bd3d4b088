/* Every op of the table against what the table says of it, on the sample calls of op_cases.h:
 *   - it has a case, a reference kernel, a cost, a gradient or a reason for having none
 *   - its gradient is what central differences of the reference kernel say, in f32; in bf16 it is
 *     the same within rounding
 *   - its sharding rule fits the operands and holds: the op on two parts, put together (or summed,
 *     where the rule makes partial sums), is the op on the whole
 *   - every fast kernel of every instruction set of this machine gives the reference's result
 */
#include "check_kernels.h"
#include "exec/program.h"
#include "ir/sharding_rule.h"
#include "op_cases.h"

enum { MOST_IN = 10, SAMPLED = 40 };

typedef struct sample {
    const op_case *c;
    tr_graph *g;
    tr_node node;
    int n_in, n_out;
    char kind[MOST_IN];
    tr_value in[MOST_IN];
    tr_tensor data[MOST_IN];
    tr_attr attrs[TR_MAX_ATTRS];
} sample;

static const char *name_of(const sample *s)
{
    static char text[256];
    snprintf(text, sizeof text, "%s(%s) %s", tr_op_name(s->c->op), s->c->in,
             s->c->attrs ? s->c->attrs : "");
    return text;
}

/* Reading a case -------------------------------------------------------------------------- */

static double draw(char kind)
{
    double x = kc_random();
    switch (kind) {
    case 'P':
    case 'C':
        return 1 + 0.5 * x;
    case 'E':
        return 1.5 + 0.5 * x;
    case 'K':
        x = x < 0 ? x * 0.9 - 0.1 : x * 0.9 + 0.1;
        break;
    }
    /* The same numbers in f32 and bf16. */
    return (double)tr_bf16_to_f32(tr_f32_to_bf16((float)x));
}

static void fill(tr_tensor *t, char kind, int64_t number)
{
    t->data = kc_room(kc_bytes(t));
    for (int64_t i = 0, n = tr_tensor_elems(t); i < n; i++) {
        double u = 0.5 + 0.5 * kc_random();
        if (kind == 'i')
            kc_set(t, i, floor(u * (double)number));
        else if (kind == 's') /* a step that shares no factor with the small numbers here goes through all */
            kc_set(t, i, i % 5 == 3 || i % (n / t->dims[0]) >= number ? -1 : (double)(i % (n / t->dims[0]) * 7 % number));
        else if (kind == 'S')
            kc_set(t, i, i % 5 == 3 || i >= number ? -1 : (double)(i * 7 % number));
        else if (kind == 't')
            kc_set(t, i, floor(u * (double)(number + 1)) - 1);
        else if (kind == 'r')
            kc_set(t, i, (double)(i * 37 % 101) / 50 - 1);
        else if (kind == 'c')
            kc_set(t, i, (double)number);
        else if (kind == 'L')
            ((uint16_t *)t->data)[i] = (uint16_t)(u * 65535);
        else
            kc_set(t, i, draw(kind));
    }
}

static tr_dtype dtype_of(char kind, tr_dtype type)
{
    switch (kind) {
    case 'T':
    case 'K':
    case 'W':
        return type;
    case 'i':
    case 's':
    case 'S':
    case 't':
    case 'c':
        return TR_I32;
    case 'L':
        return TR_U16;
    default:
        return TR_F32;
    }
}

/* One operand; `at` comes to stand behind its comma. */
static void read_operand(sample *s, const char **at, tr_dtype type)
{
    int k = s->n_in++;
    int64_t number = 0;
    s->data[k] = kc_absent;
    *at += strspn(*at, " ");
    char kind = s->kind[k] = *(*at)++;
    bool absent = kind == '-' || (kind == 'L' && type == TR_F32);
    tr_tensor t = {.dtype = dtype_of(kind, type)};
    while (**at && **at != ',') {
        if (**at == '<' || **at == '=')
            number = strtoll(*at + 1, (char **)at, 10);
        else if (**at >= '0' && **at <= '9')
            t.dims[t.rank++] = strtoll(*at, (char **)at, 10);
        else
            (*at)++;
    }
    *at += **at == ',';
    if (absent)
        return;
    fill(&t, kind, number);
    s->data[k] = t;
}

static void read_attrs(sample *s, tr_dtype type)
{
    const tr_attr_row *rows = tr_op_table[s->c->op]->attrs;
    char text[128], *rest = text;
    snprintf(text, sizeof text, "%s", s->c->attrs ? s->c->attrs : "");
    for (char *word = strtok_r(rest, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        int a = 0;
        while (a < TR_MAX_ATTRS && rows[a].name && strcmp(rows[a].name, word) != 0)
            a++;
        if (a == TR_MAX_ATTRS || !rows[a].name) {
            FAIL("%s: the op has no attribute %s", name_of(s), word);
            continue;
        }
        tr_dtype dtype = type;
        if (rows[a].kind == TR_ATTR_FLOAT)
            s->attrs[a].f = strtod(value, NULL);
        else if (rows[a].kind == TR_ATTR_DTYPE)
            s->attrs[a].i = tr_dtype_parse(value, &dtype) ? dtype : type;
        else if (rows[a].kind == TR_ATTR_FN)
            for (int f = 0; f < TR_FN_COUNT; f++)
                s->attrs[a].i = strcmp(tr_fn_name((tr_fn)f), value) == 0 ? f : s->attrs[a].i;
        else
            s->attrs[a].i = strtoll(value, NULL, 10);
    }
}

/* The case as a graph of one node whose inputs are leaves in0, in1 .. */
static bool sample_new(sample *s, const op_case *c, tr_dtype type)
{
    *s = (sample){.c = c, .g = tr_graph_new(tr_op_name(c->op), type)};
    kc_state = 88172645463325252u + (uint64_t)(c - op_cases);
    for (const char *at = c->in; *at;)
        read_operand(s, &at, type);
    read_attrs(s, type);
    for (int k = 0; k < s->n_in; k++) {
        char name[16];
        if (s->data[k].rank < 0)
            continue;
        snprintf(name, sizeof name, "in%d", k);
        tr_shape shape =
            tr_shape_of(s->g, s->data[k].dtype, s->data[k].rank, NULL, s->data[k].dims);
        s->in[k] = tr_graph_leaf(s->g, s->data[k].dtype == TR_I32 || s->kind[k] == 'C' ? TR_INPUT : TR_PARAM, name,
                                 shape, tr_zeros());
    }
    if (c->op == TR_OP_reshape) {
        tr_shape shape = *tr_shape_at(s->g, s->in[0]);
        shape.rank = 1;
        shape.dims[0] = tr_tensor_elems(&s->data[0]);
        s->node = s->g->values[tr_graph_view(s->g, s->in[0], shape)].node;
    } else {
        s->node = tr_graph_node(s->g, c->op, s->in, s->n_in, s->attrs);
    }
    s->n_out = (int)s->g->nodes[s->node].n_out;
    tr_error *error = tr_graph_error_take(s->g);
    if (error)
        FAIL("%s: %s", name_of(s), tr_error_text(error));
    tr_error_free(error);
    return s->node != 0;
}

static void sample_free(sample *s)
{
    for (int k = 0; k < s->n_in; k++)
        if (s->data[k].rank >= 0)
            free(s->data[k].data);
    tr_graph_free(s->g);
}

static bool has_bf16(const op_case *c)
{
    return strpbrk(c->in, "TKW") != NULL;
}

static bool accumulates(const sample *s)
{
    const tr_op_row *row = tr_op_table[s->c->op];
    return row->flags & TR_OP_ACCUMULATES && s->n_in == row->max_in && s->in[s->n_in - 1];
}

/* The table ------------------------------------------------------------------------------- */

static void test_every_op_has_a_case(void)
{
    bool seen[TR_OP_COUNT] = {0};
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++)
        seen[op_cases[i].op] = true;
    for (int op = 0; op < TR_OP_COUNT; op++)
        if (!seen[op])
            FAIL("op %s has no case in tests/op_cases.h", tr_op_name((tr_op)op));
}

static void test_every_op_is_complete(void)
{
    for (int op = 0; op < TR_OP_COUNT; op++) {
        const tr_op_row *row = tr_op_table[op];
        const char *name = tr_op_name((tr_op)op);
        tr_op parsed;
        if (!tr_op_parse(name, &parsed) || (int)parsed != op)
            FAIL("op %s is not found by its name", name);
        if (!row->infer)
            FAIL("op %s has no shape rule", name);
        if (!row->gradient && (!row->no_gradient || strlen(row->no_gradient) < 5))
            FAIL("op %s has no gradient and does not say why", name);
        if (row->gradient && row->no_gradient)
            FAIL("op %s has a gradient and a reason for having none", name);
        bool needs_kernel = !(row->flags & (TR_OP_VIEW | TR_OP_COLLECTIVE | TR_OP_WAIT));
        if (needs_kernel != (tr_kernel_reference((tr_op)op) != NULL))
            FAIL("op %s %s", name, needs_kernel ? "has no reference kernel" : "needs no kernel");
        bool by_itself = false;
        for (int64_t i = 0; i < TR_COUNT(ops_without_rule); i++)
            by_itself |= (int)ops_without_rule[i] == op;
        if ((row->sharding || row->sharding_of) == by_itself)
            FAIL("op %s %s", name,
                 by_itself ? "has a sharding rule and is listed as one without"
                           : "has no sharding rule");
    }
}

static void test_costs(void)
{
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++) {
        sample s;
        if (sample_new(&s, &op_cases[i], TR_F32)) {
            tr_cost cost = tr_node_cost(s.g, s.node);
            bool view = tr_op_table[s.c->op]->flags & TR_OP_VIEW;
            if (view ? cost.bytes != 0 : !(cost.bytes > 0 && cost.flops >= 0 && cost.flops < 1e9))
                FAIL("%s costs %g flops and %g bytes", name_of(&s), cost.flops, cost.bytes);
        }
        sample_free(&s);
    }
}

/* What a product costs is known exactly. */
static void test_costs_of_products(void)
{
    static const struct {
        const char *in;
        tr_op op;
        double flops;
    } known[] = {{"T 3x5, T 5x7, f 7", TR_OP_linear, 2 * 3 * 5 * 7},
                 {"T 3x7, T 5x7, -", TR_OP_linear_dx, 2 * 3 * 5 * 7},
                 {"T 2x3x4x2, T 5x4x2, T 2x3x5", TR_OP_linear_dx, 2 * 6 * 5 * 8},
                 {"T 9x5, T 9x17, f 5x17", TR_OP_linear_dw, 2 * 9 * 5 * 17},
                 {"T 2x3x8, T 11x8, t 2x3 <11", TR_OP_cross_entropy, 2 * 6 * 11 * 8},
                 {"T 2x7x3x2x8, -, -", TR_OP_attention, 2 * 2 * (2 * 2 * 7 * 7 * 8)}};
    for (int64_t k = 0; k < TR_COUNT(known); k++) {
        bool found = false;
        for (int64_t i = 0; i < TR_COUNT(op_cases) && !found; i++) {
            if (op_cases[i].op != known[k].op || strcmp(op_cases[i].in, known[k].in) != 0)
                continue;
            sample s;
            found = true;
            if (sample_new(&s, &op_cases[i], TR_F32) &&
                tr_node_cost(s.g, s.node).flops != known[k].flops)
                FAIL("%s costs %g flops, expected %g", name_of(&s), tr_node_cost(s.g, s.node).flops,
                     known[k].flops);
            sample_free(&s);
        }
        if (!found)
            FAIL("no case %s(%s)", tr_op_name(known[k].op), known[k].in);
    }
}

/* Gradients ------------------------------------------------------------------------------- */

typedef struct gradient {
    sample s;
    tr_program *p;
    tr_tensor y, weights, d_in[MOST_IN]; /* d_in of rank -1: none */
} gradient;

static tr_tensor tensor_at(const tr_program *p, tr_value v)
{
    const tr_shape *s = tr_shape_at(p->graph, v);
    tr_tensor t = {.data = tr_program_data(p, v), .dtype = s->dtype, .rank = s->rank};
    memcpy(t.dims, s->dims, sizeof t.dims);
    return t;
}

/* The graph of sum(weights y), with the gradient of every leaf that has one, run once. */
static bool gradient_new(gradient *out, const op_case *c, tr_dtype type)
{
    *out = (gradient){0};
    sample *s = &out->s;
    if (!sample_new(s, c, type))
        return false;
    tr_graph *g = s->g;
    tr_value y = tr_out(g, s->node, 0), *grads = NULL;
    uint32_t count = 0;
    tr_value weights = tr_graph_leaf(g, TR_INPUT, "weights", *tr_shape_at(g, y), tr_zeros());
    const tr_value sum_in[] = {tr_mul(g, y, weights)};
    tr_value loss = tr_out(g, tr_graph_node(g, TR_OP_sum_leading, sum_in, 1, NULL), 0);
    tr_graph_output(g, "y", y);
    CHECK_OK(tr_pass_autodiff(g, loss, 0, &grads, &count));
    if (!grads)
        return false;
    tr_value d_in[MOST_IN] = {0};
    for (int k = 0; k < s->n_in; k++)
        if ((d_in[k] = grads[s->in[k]]) != 0)
            tr_graph_output(g, "d", d_in[k]);
    free(grads);
    CHECK_OK(tr_graph_verify(g));
    s->g = NULL;
    tr_target target = {.threads = 1, .reference = type != TR_F16, .isa = tr_cpu_isa_best()};
    CHECK_OK(tr_program_build_take(g, &target, 1, &out->p));
    CHECK_OK(tr_program_allocate(out->p));
    out->p->seed = 7;
    for (int k = 0; k < s->n_in; k++)
        if (s->data[k].rank >= 0)
            memcpy(tr_program_data(out->p, s->in[k]), s->data[k].data,
                   (size_t)kc_bytes(&s->data[k]));
    out->y = tensor_at(out->p, y);
    out->weights = tensor_at(out->p, weights);
    for (int64_t i = 0; i < tr_tensor_elems(&out->weights); i++)
        kc_set(&out->weights, i, draw('T'));
    tr_program_run(out->p, TR_START, TR_UPDATE, 3, 0);
    for (int k = 0; k < s->n_in; k++) {
        /* A copy: when the forward runs again its values take this memory. */
        tr_tensor d = d_in[k] ? tensor_at(out->p, d_in[k]) : kc_absent;
        out->d_in[k] = kc_copy(&d, true);
    }
    return true;
}

static void gradient_free(gradient *a)
{
    for (int k = 0; a->p && k < a->s.n_in; k++)
        if (a->d_in[k].rank >= 0)
            free(a->d_in[k].data);
    tr_program_free(a->p);
    sample_free(&a->s);
}

static double loss_with(gradient *a, tr_tensor *x, int64_t i, double value)
{
    double sum = 0;
    kc_set(x, i, value);
    tr_program_run(a->p, TR_FORWARD, TR_FORWARD, 3, 0);
    for (int64_t j = 0; j < tr_tensor_elems(&a->y); j++)
        sum += kc_get(&a->y, j) * kc_get(&a->weights, j);
    return sum;
}

static double central(gradient *a, tr_tensor *x, int64_t i, double h)
{
    double at = kc_get(x, i), step = (double)((float)(at + h) - (float)(at - h));
    double slope = (loss_with(a, x, i, at + h) - loss_with(a, x, i, at - h)) / step;
    kc_set(x, i, at);
    return slope;
}

static double largest(const tr_tensor *t)
{
    double most = 0;
    for (int64_t i = 0; t->rank >= 0 && i < tr_tensor_elems(t); i++)
        most = fmax(most, fabs(kc_get(t, i)));
    return most;
}

/* Input k's gradient against differences of two steps, extrapolated (error h^4). */
static void check_input(gradient *a, int k)
{
    const op_case *c = a->s.c;
    tr_tensor x = tensor_at(a->p, a->s.in[k]), *d = &a->d_in[k];
    double h = c->h > 0 ? c->h : 0.02, scale = 0;
    double tolerance = c->tolerance > 0 ? c->tolerance : 1e-3;
    int64_t n = tr_tensor_elems(&x), stride = TR_MAX(n / SAMPLED, 1);
    double want[2 * SAMPLED + 2];
    for (int64_t i = 0, j = 0; i < n; i += stride, j++) {
        double wide = central(a, &x, i, h), narrow = central(a, &x, i, h / 2);
        want[j] = c->h > 0 ? wide : (4 * narrow - wide) / 3;
        scale = fmax(scale, fabs(want[j]));
    }
    for (int64_t i = 0, j = 0; i < n; i += stride, j++) {
        double got = d->rank < 0 ? 0 : kc_get(d, i);
        if (!(fabs(got - want[j]) <= tolerance * fmax(scale, 0.05))) {
            FAIL("%s: gradient of input %d, element %lld is %.7g, differences say %.7g",
                 name_of(&a->s), k, (long long)i, got, want[j]);
            break;
        }
    }
}

/* acc and linear's fn are made by fusion, after autodiff. */
static bool comes_from_fusion(const op_case *c)
{
    sample s;
    bool fused =
        sample_new(&s, c, TR_F32) &&
        (accumulates(&s) || (c->op == TR_OP_linear && s.attrs[TR_LINEAR_FN].i != TR_FN_none));
    sample_free(&s);
    return fused;
}

static void test_gradients(void)
{
    bool tested[TR_OP_COUNT] = {0};
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++) {
        const op_case *c = &op_cases[i];
        gradient a;
        if (!tr_op_table[c->op]->gradient || comes_from_fusion(c))
            continue;
        tested[c->op] = true;
        if (gradient_new(&a, c, TR_F32))
            for (int k = 0; k < a.s.n_in; k++)
                if (a.s.data[k].rank >= 0 && a.s.data[k].dtype == TR_F32 && a.s.kind[k] != 'C')
                    check_input(&a, k);
        gradient_free(&a);
    }
    for (int op = 0; op < TR_OP_COUNT; op++)
        if (tr_op_table[op]->gradient && !tested[op])
            FAIL("the gradient of op %s is not tested", tr_op_name((tr_op)op));
}

/* In 16 bits as in f32: the reference in bf16; in f16, whose kernels are those of f32 between conversions, the best ones. */
static void check_narrow(const op_case *c, tr_dtype type, double tolerance)
{
    gradient a, b;
    bool made = gradient_new(&a, c, TR_F32);
    if (gradient_new(&b, c, type) && made)
        for (int k = 0; k < a.s.n_in; k++) {
            double scale = largest(&a.d_in[k]);
            CHECK_INT(a.d_in[k].rank, b.d_in[k].rank);
            for (int64_t j = 0; a.d_in[k].rank >= 0 && j < tr_tensor_elems(&a.d_in[k]); j++) {
                double want = kc_get(&a.d_in[k], j), got = kc_get(&b.d_in[k], j);
                if (!(fabs(got - want) <= tolerance * fmax(scale, 0.1))) {
                    FAIL("%s: gradient of input %d, element %lld is %g in %s, %g in f32", name_of(&a.s), k, (long long)j, got,
                         tr_dtype_name(type), want);
                    break;
                }
            }
        }
    gradient_free(&a);
    gradient_free(&b);
}

static void test_gradients_in_16_bits(void)
{
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++) {
        const op_case *c = &op_cases[i];
        if (!tr_op_table[c->op]->gradient || comes_from_fusion(c) || !has_bf16(c))
            continue;
        check_narrow(c, TR_BF16, 0.03);
        check_narrow(c, TR_F16, 0.004);
    }
}

/* Kernels --------------------------------------------------------------------------------- */

/* What a kernel is called with: operands as given, outputs by the node's shapes. */
static kernel_case case_of(const sample *s)
{
    const tr_op_row *row = tr_op_table[s->c->op];
    kernel_case c = {.op = s->c->op, .n_in = s->n_in, .n_out = s->n_out, .seed = 7, .step = 3};
    memcpy(c.attrs, s->attrs, sizeof c.attrs);
    for (int k = 0; k < s->n_in; k++)
        c.in[k] = s->data[k];
    for (int k = 0; k < s->n_out; k++) {
        const tr_shape *shape = tr_shape_at(s->g, tr_out(s->g, s->node, k));
        c.out[k] = kc_shape(shape->dtype, shape->rank, shape->dims);
        if (row->flags & TR_OP_UPDATES)
            c.over[k] = tr_op_updated(row, s->in, s->n_in, k) + 1;
    }
    if (row->flags & TR_OP_IN_PLACE)
        c.over[0] = 1;
    if (accumulates(s))
        c.over[0] = s->n_in;
    c.accumulates = accumulates(s) || row->flags & TR_OP_UPDATES;
    if (s->n_in && s->data[0].rank > 0)
        memcpy(c.extent, s->data[0].dims, sizeof c.extent);
    return c;
}

/* An output's element; a split weight with its low half, which is not compared by itself. */
static double element(const kernel_case *c, const tr_tensor *out, int k, int64_t i)
{
    if (out[k].dtype == TR_U16)
        return 0;
    if (out[k].dtype == TR_BF16 && k == 0 && out[c->n_out - 1].dtype == TR_U16)
        return (double)tr_join_f32(((uint16_t *)out[k].data)[i],
                                   ((uint16_t *)out[c->n_out - 1].data)[i]);
    return kc_get(&out[k], i);
}

static void compare(const sample *s, const kernel_case *c, const char *kernel, const tr_tensor *got,
                    const tr_tensor *want, double tolerance)
{
    for (int k = 0; k < c->n_out; k++) {
        int64_t n = tr_tensor_elems(&want[k]);
        double scale = 0;
        for (int64_t i = 0; i < n; i++)
            scale = isinf(element(c, want, k, i)) ? scale : fmax(scale, fabs(element(c, want, k, i)));
        for (int64_t i = 0; i < n; i++) {
            double g = element(c, got, k, i), w = element(c, want, k, i);
            if (isinf(w) ? g != w : !(fabs(g - w) <= tolerance * scale + 1e-30)) {
                FAIL("%s, %s: output %d, element %lld is %.9g, expected %.9g", name_of(s), kernel,
                     k, (long long)i, g, w);
                break;
            }
        }
    }
}

static int check_kernels(const sample *s, tr_dtype type)
{
    kernel_case c = case_of(s);
    int tried = 0;
    tr_tensor want[KC_MAX], got[KC_MAX];
    const tr_kernel *reference = tr_kernel_reference(c.op), *kernel;
    omp_set_num_threads(2); /* before kernels prepare */
    if (!kc_run(&c, reference, c.accumulates, 2, want)) {
        FAIL("%s: the reference kernel does not accept it", name_of(s));
        return 0;
    }
    for (tr_isa isa = 0; isa <= tr_cpu_isa_best(); isa++)
        for (int k = 0; (kernel = tr_kernel_fast(c.op, isa, k)); k++)
            for (int in_place = c.accumulates; in_place < 2; in_place++) {
                if (!kc_run(&c, kernel, in_place, 2, got))
                    continue;
                char name[64];
                snprintf(name, sizeof name, "%s (%s)", kernel->name, tr_isa_name(isa));
                compare(s, &c, name, got, want, type == TR_F32 ? 1e-5 : 1.5e-2);
                kc_drop(&c, got);
                tried++;
            }
    kc_drop(&c, want);
    return tried;
}

static void test_kernels(void)
{
    int tried = 0;
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++)
        for (tr_dtype type = TR_F32; type <= TR_BF16; type++) {
            sample s;
            if ((type == TR_BF16 && !has_bf16(&op_cases[i])) ||
                tr_op_table[op_cases[i].op]->flags & (TR_OP_VIEW | TR_OP_COLLECTIVE | TR_OP_WAIT))
                continue;
            bool before = check_ok;
            if (sample_new(&s, &op_cases[i], type))
                tried += check_kernels(&s, type);
            if (before && !check_ok)
                FAIL("... in %s", name_of(&s));
            sample_free(&s);
        }
    CHECK(tried > TR_COUNT(op_cases));
}

/* Sharding -------------------------------------------------------------------------------- */

/* Elements [first, first + count) of one dim, as a tensor of its own. */
static tr_tensor cut(const tr_tensor *t, int dim, int64_t first, int64_t count)
{
    tr_tensor part = *t;
    if (t->rank < 0 || dim < 0)
        return kc_copy(t, t->rank >= 0);
    part.dims[dim] = count;
    part.data = kc_room(kc_bytes(&part));
    int64_t inner = tr_tensor_span(t, dim + 1, t->rank) * tr_dtype_bytes(t->dtype);
    for (int64_t o = 0; o < tr_tensor_span(t, 0, dim); o++)
        memcpy((char *)part.data + o * count * inner,
               (const char *)t->data + (o * t->dims[dim] + first) * inner, (size_t)(count * inner));
    return part;
}

/* Where a label stands in an operand, -1 where it does not. */
typedef struct cutting {
    int dim[2 * KC_MAX]; /* inputs, then outputs */
    int64_t size;        /* of the smallest dim with the label; the others are multiples */
    bool whole;
} cutting;

static cutting find_label(const sample *s, const tr_rule *rule, int label)
{
    cutting c = {.size = INT64_MAX};
    bool heads = s->c->op == TR_OP_attention || s->c->op == TR_OP_attention_grad ||
                 s->c->op == TR_OP_attention_cached;
    int64_t sizes[2 * KC_MAX] = {0};
    for (int k = 0; k < rule->n_in + rule->n_out; k++) {
        tr_value v = k < s->n_in ? tr_in(s->g, s->node, k) : tr_out(s->g, s->node, k - s->n_in);
        c.dim[k] = tr_rule_find(rule, k, label);
        if (c.dim[k] < 0)
            continue;
        c.whole |= rule->dims[k][c.dim[k]].whole;
        sizes[k] = tr_shape_at(s->g, v)->dims[c.dim[k]];
        c.size = TR_MIN(c.size, sizes[k]);
    }
    for (int k = 0; k < rule->n_in + rule->n_out; k++)
        if (sizes[k] && (heads ? sizes[k] % c.size != 0 : sizes[k] != c.size))
            FAIL("%s: operand %d has %lld where the rule gives one label to a dim of %lld",
                 name_of(s), k, (long long)sizes[k], (long long)c.size);
    return c;
}

/* Runs the op on the part [from, to) of the label; outputs as they come. `first`: the part at 0. */
static void run_part(const sample *s, const cutting *l, int label, int64_t from, int64_t to,
                     tr_tensor *out)
{
    kernel_case c = case_of(s);
    for (int k = 0; k < s->n_in; k++) {
        int64_t times = l->dim[k] < 0 ? 1 : s->data[k].dims[l->dim[k]] / l->size;
        c.in[k] = cut(&s->data[k], l->dim[k], from * times, (to - from) * times);
        if (k == 0 && l->dim[k] >= 0)
            c.origin[l->dim[k]] = from * times;
        /* What is added to a partial sum is added once. */
        bool added = (accumulates(s) && k == s->n_in - 1) || (s->c->op == TR_OP_linear && k == 2);
        if (added && s->data[k].rank >= 0 && l->dim[k] < 0 && l->dim[s->n_in] < 0 && from > 0)
            memset(c.in[k].data, 0, (size_t)kc_bytes(&c.in[k]));
    }
    for (int k = 0; k < s->n_out; k++) {
        int dim = l->dim[s->n_in + k];
        if (dim >= 0)
            c.out[k].dims[dim] = (to - from) * (c.out[k].dims[dim] / l->size);
    }
    /* A table that is cut by rows is looked up with ids from its own first row. */
    int ids = s->c->op == TR_OP_embedding ? 1 : 0;
    if ((s->c->op == TR_OP_embedding || s->c->op == TR_OP_embedding_grad) && label == 'v') {
        for (int64_t i = 0; i < tr_tensor_elems(&c.in[ids]); i++)
            kc_set(&c.in[ids], i, kc_get(&c.in[ids], i) - (double)from);
        if (s->c->op == TR_OP_embedding_grad)
            c.attrs[TR_EMBEDDING_GRAD_ROWS].i = to - from;
    }
    CHECK(kc_run(&c, tr_kernel_reference(c.op), c.accumulates, 1, out));
    kc_free_inputs(&c);
}

/* The two parts' outputs side by side where they carry the label, summed where they do not. */
static void check_label(const sample *s, const cutting *l, int label)
{
    tr_tensor want[KC_MAX], part[2][KC_MAX];
    kernel_case c = case_of(s);
    int64_t middle = TR_MAX(l->size / 3, 1);
    CHECK(kc_run(&c, tr_kernel_reference(c.op), c.accumulates, 1, want));
    run_part(s, l, label, 0, middle, part[0]);
    run_part(s, l, label, middle, l->size, part[1]);
    for (int k = 0; k < s->n_out; k++) {
        int dim = l->dim[s->n_in + k];
        tr_tensor sum = kc_copy(&want[k], false);
        for (int64_t i = 0; dim < 0 && i < tr_tensor_elems(&sum) && sum.dtype != TR_U16; i++)
            kc_set(&sum, i, kc_get(&part[0][k], i) + kc_get(&part[1][k], i));
        for (int p = 0; p < 2 && dim >= 0; p++) {
            int64_t first = p ? part[0][k].dims[dim] : 0, count = part[p][k].dims[dim];
            int64_t inner = tr_tensor_span(&sum, dim + 1, sum.rank) * tr_dtype_bytes(sum.dtype);
            for (int64_t o = 0; o < tr_tensor_span(&sum, 0, dim); o++)
                memcpy((char *)sum.data + (o * sum.dims[dim] + first) * inner,
                       (char *)part[p][k].data + o * count * inner, (size_t)(count * inner));
        }
        free(part[0][k].data);
        free(part[1][k].data);
        part[0][k] = sum;
    }
    char what[64];
    snprintf(what, sizeof what, "cut along label %d%s%c%s", label, label < 128 ? " (" : "",
             label < 128 ? label : '-', label < 128 ? ")" : "");
    compare(s, &c, what, part[0], want, 1e-5);
    kc_drop(&c, part[0]);
    kc_drop(&c, want);
}

static int check_rule(const sample *s)
{
    tr_rule rule;
    int done[2 * KC_MAX * TR_MAX_RANK], n_done = 0, checked = 0;
    tr_error *error = tr_rule_fit(s->g, s->node, &rule);
    if (error) {
        FAIL("%s: %s", name_of(s), tr_error_text(error));
        tr_error_free(error);
        return 0;
    }
    CHECK_INT(rule.n_in, s->n_in);
    CHECK_INT(rule.n_out, s->n_out);
    for (int k = 0; k < rule.n_in + rule.n_out; k++)
        for (int d = 0; d < rule.rank[k]; d++) {
            int label = rule.dims[k][d].label;
            bool again = label == 0;
            for (int i = 0; i < n_done; i++)
                again |= done[i] == label;
            if (again)
                continue;
            done[n_done++] = label;
            cutting l = find_label(s, &rule, label);
            /* The function comes after the sum: fused after sharding. */
            bool fused = s->c->op == TR_OP_linear && s->attrs[TR_LINEAR_FN].i != TR_FN_none &&
                         l.dim[s->n_in] < 0;
            if (!check_ok || l.whole || l.size < 2 || fused)
                continue;
            check_label(s, &l, label);
            checked++;
        }
    return checked;
}

static void test_sharding_rules(void)
{
    int checked = 0;
    for (int64_t i = 0; i < TR_COUNT(op_cases); i++) {
        const tr_op_row *row = tr_op_table[op_cases[i].op];
        sample s;
        if (!row->sharding && !row->sharding_of)
            continue;
        if (sample_new(&s, &op_cases[i], TR_F32))
            checked += check_rule(&s);
        sample_free(&s);
    }
    CHECK(checked > 100);
}

int main(void)
{
    TEST(test_every_op_has_a_case);
    TEST(test_every_op_is_complete);
    TEST(test_costs);
    TEST(test_costs_of_products);
    TEST(test_gradients);
    TEST(test_gradients_in_16_bits);
    TEST(test_sharding_rules);
    TEST(test_kernels);
    return check_report();
}
