/* The optimizers as nodes of the graph against tests/golden/optimizers.json (tools/golden_optimizers.py): six steps of a
 * matrix, a projection to heads, a stack of experts and a vector, with the reference kernels and with every
 * instruction set; in f32, and with the weight in halves. */
#include <math.h>

#include "base/cpu.h"
#include "base/json.h"
#include "check.h"
#include "exec/program.h"
#include "passes/optimizers.h"

enum { STEPS = 6, KINDS = 4, MOST = 64 };
static const char GOLDEN[] = "tests/golden/optimizers.json";
static const char *const kinds[KINDS] = {"matrix", "heads", "expert", "vector"};
static json_t *golden;

static double number(const json_t *object, const char *key)
{
    const json_t *x = json_object_get(object, key);
    return json_is_boolean(x) ? json_is_true(x) : json_is_number(x) ? json_number_value(x) : 0;
}

static tr_shape shape_of(tr_graph *g, int kind, tr_dtype dtype)
{
    static const char *const names[KINDS][3] = {{"embed", "mlp"}, {"embed", "heads", "head_dim"}, {"expert", "embed", "mlp"}, {"mlp"}};
    static const int64_t dims[KINDS][3] = {{5, 7}, {4, 2, 3}, {2, 3, 4}, {7}};
    return tr_shape_of(g, dtype, kind == 3 ? 1 : kind == 0 ? 2 : 3, names[kind], dims[kind]);
}

/* One parameter with its update, whose gradient, rate and step are inputs. */
static tr_program *update_of(const tr_update *how, int kind, tr_dtype dtype, const tr_target *target)
{
    tr_program *p = NULL;
    tr_graph *g = tr_graph_new("update", dtype);
    if (kind == 3)
        dtype = TR_F32;
    tr_shape one = {.dtype = TR_F32, .rank = 1, .dims = {1}}, integer = {.dtype = TR_I32, .rank = 1, .dims = {1}};
    tr_value w = tr_graph_leaf(g, TR_PARAM, "w", shape_of(g, kind, dtype), tr_zeros());
    g->values[w].decay = kind != 3;
    tr_value grad = tr_graph_leaf(g, TR_INPUT, "grad", shape_of(g, kind, TR_F32), tr_zeros());
    tr_value scale = tr_graph_leaf(g, TR_INPUT, "scale", one, tr_zeros()), lr = tr_graph_leaf(g, TR_INPUT, "lr", one, tr_zeros()),
             step = tr_graph_leaf(g, TR_INPUT, "step", integer, tr_zeros());
    g->phase = TR_UPDATE;
    tr_emit_optimizer(g, w, grad, scale, lr, step, how);
    CHECK_OK(tr_graph_error_take(g));
    CHECK_OK(tr_graph_verify(g));
    CHECK_OK(tr_program_build_take(g, target, 1, &p));
    CHECK_OK(tr_program_allocate(p));
    tr_program_init(p, 1);
    return p;
}

static int read_floats(const json_t *by_kind, int kind, float *out)
{
    const json_t *list = json_object_get(by_kind, kinds[kind]), *x;
    size_t i;
    json_array_foreach(list, i, x)
        out[i] = (float)json_number_value(x);
    return (int)json_array_size(list);
}

/* The gradient is given as a sum, four times too large. */
static void run(const json_t *c, const tr_update *how, int kind, tr_dtype dtype, const tr_target *target, const char *what)
{
    tr_program *p = update_of(how, kind, dtype, target);
    float w[MOST], want[MOST];
    int n = read_floats(json_object_get(golden, "start"), kind, w);
    tr_value v = tr_graph_find(p->graph, "w");
    tr_program_set_f32(p, v, w);
    *(float *)tr_program_find(p, "scale") = 0.25f;
    for (int s = 0; s < STEPS; s++) {
        float *grad = tr_program_find(p, "grad");
        read_floats(json_array_get(json_object_get(golden, "gradients"), (size_t)s), kind, grad);
        for (int i = 0; i < n; i++)
            grad[i] *= 4;
        *(float *)tr_program_find(p, "lr") = (float)json_number_value(json_array_get(json_object_get(golden, "rates"), (size_t)s));
        *(int32_t *)tr_program_find(p, "step") = s + 1;
        tr_program_run(p, TR_START, TR_UPDATE, (uint32_t)s, 0);
    }
    tr_program_get_f32(p, v, w);
    CHECK_INT(read_floats(json_object_get(c, "end"), kind, want), n);
    for (int i = 0; i < n; i++)
        if (!(fabs(w[i] - want[i]) <= 3e-6)) {
            FAIL("%s of %s, %s, %s: element %d is %.8g, expected %.8g", json_string_value(json_object_get(c, "name")),
                 kinds[kind], what, tr_dtype_name(dtype), i, w[i], want[i]);
            break;
        }
    tr_program_free(p);
}

static void test_golden(void)
{
    static const struct {
        const char *name;
        tr_optimizer_kind kind;
    } known[] = {{"lion", TR_LION}, {"lars", TR_LARS}, {"lamb", TR_LAMB}, {"adafactor", TR_ADAFACTOR}};
    const json_t *cases = json_object_get(golden, "cases"), *c;
    size_t i;
    CHECK_INT(json_array_size(cases), 7);
    json_array_foreach(cases, i, c) {
        tr_update how = {.beta1 = number(c, "beta1"), .beta2 = number(c, "beta2"), .eps = number(c, "eps"),
                         .weight_decay = number(c, "weight_decay"), .momentum = number(c, "momentum"),
                         .trust = number(c, "trust"), .power = number(c, "decay_power"), .least = number(c, "least_scale"),
                         .limit = number(c, "update_limit"), .factored = number(c, "factored") != 0,
                         .relative = number(c, "relative") != 0, .optimizer = TR_OPTIMIZER_COUNT};
        for (int k = 0; k < TR_COUNT(known); k++)
            if (strcmp(known[k].name, json_string_value(json_object_get(c, "name"))) == 0)
                how.optimizer = known[k].kind;
        CHECK(how.optimizer != TR_OPTIMIZER_COUNT);
        for (int kind = 0; kind < KINDS && how.optimizer != TR_OPTIMIZER_COUNT; kind++)
            for (tr_dtype dtype = TR_F32; dtype <= TR_BF16; dtype++) {
                run(c, &how, kind, dtype, &(tr_target){.threads = 1, .reference = true}, "reference");
                for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++)
                    run(c, &how, kind, dtype, &(tr_target){.threads = 2, .isa = (tr_isa)isa}, tr_isa_name((tr_isa)isa));
            }
    }
}

int main(void)
{
    CHECK_OK(tr_json_load(GOLDEN, &golden));
    if (golden)
        TEST(test_golden);
    json_decref(golden);
    return check_report();
}
