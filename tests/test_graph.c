/* The graph itself: text form, copies, the verifier against planted faults, the hash. Graphs are
 * those that the passes make of a small GPT. */
#include "check.h"

#include "base/file.h"
#include "exec/compile.h"
#include "ir/table.h"
#include "ir/text.h"
#include "models/family.h"

static const tr_sizes small = {
    .vocab = 37, .context = 16, .layers = 2, .embed = 16, .heads = 2, .mlp = 32, .dropout = 0.1};

static tr_compile training(void)
{
    return (tr_compile){.target = {.threads = 1, .reference = true},
                        .compute = TR_F32,
                        .batch = 2,
                        .seq = 8,
                        .update = {.optimizer = TR_ADAMW,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .clip = 1,
                                   .micro_batches = 1}};
}

static tr_program *compile(const tr_compile *how)
{
    tr_program *p = NULL;
    CHECK_OK(tr_compile_training(tr_gpt, &small, NULL, how, &p));
    return p;
}

static char *text_of(const tr_graph *g)
{
    tr_text text = {0};
    tr_graph_print(g, &text);
    return text.bytes;
}

/* Text ------------------------------------------------------------------------------------ */

static void check_round_trip(const char *what, const char *text)
{
    tr_graph *g = NULL;
    CHECK_OK(tr_graph_parse(text, &g));
    if (!g)
        return;
    char *again = text_of(g);
    if (strcmp(text, again) != 0) {
        size_t i = 0;
        while (text[i] == again[i])
            i++;
        FAIL("%s does not come back: \"%.60s\" became \"%.60s\"", what, text + i, again + i);
    }
    free(again);
    tr_graph_free(g);
}

static void check_program(const char *what, tr_program *p)
{
    if (!p)
        return;
    char *text = text_of(p->graph);
    check_round_trip(what, text);
    free(text);
    tr_program_free(p);
}

static void test_round_trip_of_passes(void)
{
    static const char *const passes[] = {"model",     "autodiff", "update",
                                         "recompute", "fuse",     "order"};
    for (int variant = 0; variant < 4; variant++)
        for (int64_t i = 0; i < TR_COUNT(passes); i++) {
            tr_text dump = {0};
            tr_compile how = training();
            how.dump_after = passes[i];
            how.dump = &dump;
            how.compute = variant & 1 ? TR_BF16 : TR_F32;
            how.update.micro_batches = variant & 2 ? 3 : 1;
            how.update.optimizer = variant == 3 ? TR_SGD : TR_ADAMW;
            how.recompute = variant & 1 ? TR_RECOMPUTE_FULL : TR_RECOMPUTE_CHEAP;
            how.keep_gradients = variant == 2;
            tr_program *p = compile(&how);
            check_round_trip(passes[i], dump.bytes);
            tr_text_free(&dump);
            check_program("the program", p);
        }
}

static void test_round_trip_of_inference(void)
{
    tr_compile how = training();
    tr_program *p = NULL;
    CHECK_OK(tr_compile_evaluation(tr_gpt, &small, NULL, &how, &p));
    check_program("evaluation", p);
    CHECK_OK(tr_compile_logits(tr_gpt, &small, NULL, &how, &p));
    check_program("logits", p);
    how.seq = 1;
    CHECK_OK(tr_compile_generation(tr_gpt, &small, NULL, &how, small.context, &p));
    check_program("generation", p);
}

/* One rank of a mesh: values have places in a whole. */
static void test_round_trip_of_a_part(void)
{
    for (int zero = 0; zero <= 3; zero++) {
        tr_sharding mesh = {.axes = {{"data", 2, 1}, {"tensor", 2, 0}},
                            .n_axes = 2,
                            .leaves = {{"batch", 0}, {"heads", 1}, {"mlp", 1}},
                            .n_leaves = 3,
                            .zero = zero,
                            .zero_axis = 0};
        tr_text dump = {0};
        tr_compile how = training();
        how.sharding = &mesh;
        how.dump_after = "shard";
        how.dump = &dump;
        tr_program *p = compile(&how);
        CHECK(dump.bytes && strstr(dump.bytes, " part=0:["));
        CHECK(!zero == !(dump.bytes && strstr(dump.bytes, " flat")));
        check_round_trip("shard", dump.bytes);
        tr_text_free(&dump);
        check_program("a rank's program", p);
    }
}

/* The example of docs/ir.md is a graph. */
static void test_documented_example(void)
{
    tr_map map = {0};
    CHECK_OK(tr_map_open("docs/ir.md", &map));
    char *doc = tr_strndup(map.bytes ? map.bytes : "", (size_t)map.size);
    char *begin = strstr(doc, "```graph\n"), *end = begin ? strstr(begin + 9, "```") : NULL;
    CHECK(end != NULL);
    if (end) {
        *end = '\0';
        check_round_trip("the example", begin + 9);
    }
    free(doc);
    tr_map_close(&map);
}

static void test_text_errors(void)
{
    static const struct {
        const char *text, *message;
    } wrong[] = {
        {"", "line 1: expected graph"},
        {"graph \"x", "line 1: expected a closing quote"},
        {"graph \"x\" f31 streams=0\n", "line 1: expected a dtype"},
        {"graph \"x\" f32 streams=-1\n", "expected a whole number in range"},
        {"graph \"x\" f32 streams=0\n%0 = input \"a\" f32[_=1] init=zeros\n", "line 2"},
        {"graph \"x\" f32 streams=0\n%99999999 = input \"a\" f32[_=1] init=zeros\n", "line 2"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=0] init=zeros\n",
         "whole number in range"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=4611686018427387904] init=zeros\n",
         "2^63"},
        {"graph \"x\" f32 streams=0\n%1, %2 = input \"a\" f32[_=1] init=zeros\n", "one value"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=1] init=zeros\n"
         "%1 = input \"b\" f32[_=1] init=zeros\n",
         "line 3: expected a value that is not made before"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=1] init=zeros\n"
         "%2 = input \"a\" f32[_=1] init=zeros\n",
         "invariant 3"},
        {"graph \"x\" f32 streams=0\n%1 = multiply(%2) : f32[_=1] phase=forward\n",
         "expected an op"},
        {"graph \"x\" f32 streams=0\n%2 = scale(%1) factor=\n2 : f32[_=1] phase=forward\n",
         "a number"},
        {"graph \"x\" f32 streams=0\n%2 = scale(%1) factor=2 : f32[_=1] phase=forward\n",
         "invariant 2"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=2] init=zeros\n"
         "%2 = scale(%1) factor=2 : f32[_=3] phase=forward\n",
         "invariant 5"},
        {"graph \"x\" f32 streams=0\n%1 = input \"a\" f32[_=2] init=zeros\n"
         "%2 = linear_dw(%1, %1) transposed=0 dtype=f32 split=-7 : f32[_=3] phase=forward\n",
         "invariant 5"},
        {"graph \"x\" f32 streams=0\noutput \"y\" %1\n", "never made"},
    };
    for (int64_t i = 0; i < TR_COUNT(wrong); i++) {
        tr_graph *g = NULL;
        CHECK_ERROR(tr_graph_parse(wrong[i].text, &g), wrong[i].message);
        CHECK(!g);
    }
}

static void test_copy(void)
{
    tr_compile how = training();
    tr_program *p = compile(&how);
    tr_graph *copy = tr_graph_copy(p->graph);
    char *text = text_of(p->graph);
    uint64_t hash = tr_graph_hash(p->graph);
    tr_program_free(p); /* nothing of the copy may be the original's */
    char *again = text_of(copy);
    CHECK(strcmp(text, again) == 0);
    CHECK(hash == tr_graph_hash(copy));
    CHECK_OK(tr_graph_verify(copy));
    tr_value w = tr_param(copy, tr_ones(), "one_more", "embed=16");
    CHECK(w && copy->values[w].name && strcmp(copy->values[w].name, "one_more") == 0);
    free(text);
    free(again);
    tr_graph_free(copy);
}

/* Faults ---------------------------------------------------------------------------------- */

static tr_node first(const tr_graph *g, tr_op op)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == op)
            return n;
    FAIL("no node %s", tr_op_name(op));
    return 1;
}

static void swap_nodes(tr_graph *g, tr_node a, tr_node b)
{
    tr_node_info node = g->nodes[a];
    g->nodes[a] = g->nodes[b];
    g->nodes[b] = node;
    for (int k = 0; k < 4; k++) {
        if (tr_out(g, a, k))
            g->values[tr_out(g, a, k)].node = a;
        if (tr_out(g, b, k))
            g->values[tr_out(g, b, k)].node = b;
    }
}

static tr_value first_out(const tr_graph *g, tr_op op)
{
    return tr_out(g, first(g, op), 0);
}

#define FAULT(name) static void name(tr_graph *g)
FAULT(input_does_not_exist)
{
    tr_set_in(g, first(g, TR_OP_linear), 1, g->n_values + 5);
}
FAULT(input_absent)
{
    tr_set_in(g, first(g, TR_OP_linear), 0, 0);
}
FAULT(too_many_inputs)
{
    g->nodes[first(g, TR_OP_embedding)].n_in = 3;
}
FAULT(too_few_inputs)
{
    g->nodes[first(g, TR_OP_adamw)].n_in = 6;
}
FAULT(no_such_op)
{
    g->nodes[first(g, TR_OP_add)].op = TR_OP_COUNT;
}
FAULT(no_such_home)
{
    g->values[first_out(g, TR_OP_linear)].home = g->n_values;
}
FAULT(no_such_links)
{
    g->nodes[first(g, TR_OP_linear)].first_in = g->n_links;
}
FAULT(no_such_output)
{
    g->outputs[0] = g->n_values;
}
FAULT(no_such_role)
{
    g->values[1].role = TR_ROLE_COUNT;
}
FAULT(reader_before_maker)
{
    tr_node n = first(g, TR_OP_layer_norm);
    swap_nodes(g, n, n - 1);
}
FAULT(missing_node)
{
    tr_node gone = first(g, TR_OP_linear), *order = tr_alloc(g->n_nodes * sizeof *order);
    uint32_t count = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (n != gone)
            order[count++] = n;
    tr_graph_reorder(g, order, count);
    free(order);
}
FAULT(made_twice)
{
    tr_node n = first(g, TR_OP_layer_norm);
    g->links[g->nodes[n].first_out + 2] = tr_out(g, n, 1);
}
FAULT(leaf_is_made)
{
    tr_value v = first_out(g, TR_OP_linear);
    g->values[v].role = TR_INPUT;
    g->values[v].name = "made";
}
FAULT(wrong_maker)
{
    g->values[first_out(g, TR_OP_linear)].node = 1;
}
FAULT(output_never_made)
{
    tr_value last = g->n_values;
    tr_value_info unmade = g->values[1];
    unmade.role = TR_TEMP;
    unmade.home = last;
    tr_push(g->values, g->n_values, g->values_room) = unmade;
    g->outputs[0] = last;
}
FAULT(two_of_one_name)
{
    g->values[tr_graph_find(g, "targets")].name = "ids";
}
FAULT(leaf_without_name)
{
    g->values[tr_graph_find(g, "targets")].name = NULL;
}
FAULT(ring_of_homes)
{
    tr_value a = first_out(g, TR_OP_linear), b = first_out(g, TR_OP_attention);
    g->values[a].home = b;
    g->values[b].home = a;
}
FAULT(view_lives_elsewhere)
{
    tr_value v = first_out(g, TR_OP_reshape);
    g->values[v].home = v;
}
FAULT(home_that_is_not_written_over)
{
    tr_node n = first(g, TR_OP_linear);
    g->values[tr_out(g, n, 0)].home = tr_in(g, n, 0);
}
FAULT(update_somewhere_else)
{
    tr_value v = first_out(g, TR_OP_adamw);
    g->values[v].home = v;
}
FAULT(update_of_another)
{
    tr_node n = first(g, TR_OP_adamw);
    g->values[tr_out(g, n, 0)].home = tr_in(g, n, 2);
}
FAULT(accumulates_elsewhere)
{
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == TR_OP_layer_norm_grad && tr_in(g, n, 5)) {
            g->values[tr_out(g, n, 0)].home = tr_out(g, n, 0);
            return;
        }
}
FAULT(overwritten_value_is_read)
{
    tr_node n = first(g, TR_OP_activate_grad); /* reads a linear's output; written over before it */
    tr_value x = tr_in(g, n, 1);
    for (tr_node m = g->values[x].node + 1; m < n; m++)
        if (g->nodes[m].op == TR_OP_activate && tr_in(g, m, 0) == x)
            g->values[tr_out(g, m, 0)].home = x;
}
FAULT(output_is_written_over)
{
    tr_graph_output(g, "early", tr_in(g, first(g, TR_OP_adamw), 2));
}
FAULT(written_over_and_read_twice)
{
    tr_node n = first(g, TR_OP_add_layer_norm);
    tr_set_in(g, n, 1, tr_in(g, n, 0));
    g->values[tr_out(g, n, 0)].home = tr_in(g, n, 0);
}
FAULT(dim_of_zero)
{
    g->values[first_out(g, TR_OP_linear)].shape.dims[1] = 0;
}
FAULT(too_many_elements)
{
    g->values[first_out(g, TR_OP_linear)].shape.dims[1] = INT64_MAX / 2;
}
FAULT(wrong_shape)
{
    g->values[first_out(g, TR_OP_linear)].shape.dims[1] = 9;
}
FAULT(wrong_dtype)
{
    g->values[first_out(g, TR_OP_linear)].shape.dtype = TR_BF16;
}
FAULT(inputs_swapped)
{
    tr_node n = first(g, TR_OP_linear);
    tr_value x = tr_in(g, n, 0);
    tr_set_in(g, n, 0, tr_in(g, n, 1));
    tr_set_in(g, n, 1, x);
}
FAULT(attribute_changes_the_shape)
{
    g->nodes[first(g, TR_OP_embedding_grad)].attrs[0].i = 5;
}
FAULT(view_of_other_size)
{
    g->values[first_out(g, TR_OP_reshape)].shape.dims[0] = 1;
}
FAULT(output_left_out)
{
    g->nodes[first(g, TR_OP_layer_norm_grad)].n_out = 2;
}
FAULT(phase_goes_back)
{
    g->nodes[first(g, TR_OP_clip)].phase = TR_FORWARD;
}
FAULT(no_such_phase)
{
    g->nodes[g->n_nodes - 1].phase = TR_PHASE_COUNT;
}

static void test_planted_faults(void)
{
    static const struct {
        const char *name;
        void (*plant)(tr_graph *);
        int invariant;
    } faults[] = {
#define F(name, number) {#name, name, number}
        F(input_does_not_exist, 1),
        F(input_absent, 1),
        F(too_many_inputs, 1),
        F(too_few_inputs, 1),
        F(no_such_op, 1),
        F(no_such_home, 1),
        F(no_such_links, 1),
        F(no_such_output, 1),
        F(no_such_role, 1),
        F(reader_before_maker, 2),
        F(missing_node, 2),
        F(made_twice, 2),
        F(leaf_is_made, 2),
        F(wrong_maker, 2),
        F(output_never_made, 2),
        F(two_of_one_name, 3),
        F(leaf_without_name, 3),
        F(ring_of_homes, 4),
        F(view_lives_elsewhere, 4),
        F(home_that_is_not_written_over, 4),
        F(update_somewhere_else, 4),
        F(update_of_another, 4),
        F(accumulates_elsewhere, 4),
        F(overwritten_value_is_read, 4),
        F(output_is_written_over, 4),
        F(written_over_and_read_twice, 4),
        F(dim_of_zero, 5),
        F(too_many_elements, 5),
        F(wrong_shape, 5),
        F(wrong_dtype, 5),
        F(inputs_swapped, 5),
        F(attribute_changes_the_shape, 5),
        F(view_of_other_size, 5),
        F(output_left_out, 5),
        F(phase_goes_back, 6),
        F(no_such_phase, 6),
#undef F
    };
    tr_compile how = training();
    tr_program *p = compile(&how);
    CHECK_OK(tr_graph_verify(p->graph));
    for (int64_t i = 0; i < TR_COUNT(faults); i++) {
        tr_graph *g = tr_graph_copy(p->graph);
        char want[32];
        faults[i].plant(g);
        snprintf(want, sizeof want, "invariant %d", faults[i].invariant);
        tr_error *error = tr_graph_verify(g);
        if (!error || !strstr(tr_error_text(error), want))
            FAIL("%s: %s, expected %s", faults[i].name,
                 error ? tr_error_text(error) : "passes the verifier", want);
        tr_error_free(error);
        tr_graph_free(g);
    }
    tr_program_free(p);
}

/* The hash -------------------------------------------------------------------------------- */

#define CHANGE(name) static void name(tr_graph *g)
CHANGE(attribute)
{
    g->nodes[first(g, TR_OP_layer_norm)].attrs[0].f = 1e-6;
}
CHANGE(dropout_stream)
{
    g->nodes[first(g, TR_OP_dropout)].attrs[TR_DROPOUT_STREAM].i++;
}
CHANGE(other_op)
{
    g->nodes[first(g, TR_OP_adamw)].op = TR_OP_sgd;
}
CHANGE(other_input)
{
    tr_set_in(g, first(g, TR_OP_linear), 2, 0);
}
CHANGE(phase)
{
    g->nodes[g->n_nodes - 1].phase = TR_BACKWARD;
}
CHANGE(layer)
{
    g->nodes[first(g, TR_OP_linear)].layer = 7;
}
CHANGE(home)
{
    tr_value v = first_out(g, TR_OP_adamw);
    g->values[v].home = v;
}
CHANGE(shape)
{
    g->values[first_out(g, TR_OP_linear)].shape.dims[0]++;
}
CHANGE(leaf_shape)
{
    g->values[tr_graph_find(g, "positions")].shape.dims[1]++;
}
CHANGE(dim_name)
{
    g->values[tr_graph_find(g, "positions")].shape.names[1] = 0;
}
CHANGE(dtype)
{
    g->values[tr_graph_find(g, "lr")].shape.dtype = TR_BF16;
}
CHANGE(role)
{
    g->values[tr_graph_find(g, "lr")].role = TR_STATE;
}
CHANGE(init_kind)
{
    g->values[tr_graph_find(g, "transformer.ln_f.bias")].init.kind = TR_INIT_ONES;
}
CHANGE(init_scale)
{
    g->values[tr_graph_find(g, "transformer.wte.weight")].init.scale = 0.5;
}
CHANGE(init_stream)
{
    g->values[tr_graph_find(g, "transformer.wte.weight")].stream = 99;
}
CHANGE(decay)
{
    g->values[tr_graph_find(g, "transformer.wte.weight")].decay = false;
}
CHANGE(leaf_name)
{
    g->values[tr_graph_find(g, "lr")].name = "rl";
}
CHANGE(output_name)
{
    g->output_names[0] = "lose";
}
CHANGE(output_value)
{
    g->outputs[0] = g->outputs[1];
}
CHANGE(order_of_nodes)
{
    swap_nodes(g, g->n_nodes - 1, g->n_nodes - 2);
}

static void test_hash(void)
{
    static void (*const changes[])(tr_graph *) = {
        attribute, dropout_stream, other_op,    other_input,  phase,
        layer,     home,           shape,       leaf_shape,   dim_name,
        dtype,     role,           init_kind,   init_scale,   init_stream,
        decay,     leaf_name,      output_name, output_value, order_of_nodes};
    uint64_t seen[TR_COUNT(changes) + 1];
    tr_compile how = training();
    tr_program *p = compile(&how);
    tr_graph *parsed = NULL;
    char *text = text_of(p->graph);
    seen[0] = tr_graph_hash(p->graph);
    CHECK_OK(tr_graph_parse(text, &parsed));
    CHECK(parsed && tr_graph_hash(parsed) == seen[0]);
    for (int64_t i = 0; i < TR_COUNT(changes); i++) {
        tr_graph *g = tr_graph_copy(p->graph);
        changes[i](g);
        seen[i + 1] = tr_graph_hash(g);
        for (int64_t j = 0; j <= i; j++)
            if (seen[j] == seen[i + 1])
                FAIL("change %d leaves the hash as %s", (int)i, j ? "another change" : "it was");
        tr_graph_free(g);
    }
    free(text);
    tr_graph_free(parsed);
    tr_program_free(p);
}

/* The same model compiled in another way is another plan. */
static void test_hash_of_plans(void)
{
    uint64_t seen[6];
    int count = 0;
    for (int variant = 0; variant < 6; variant++) {
        tr_compile how = training();
        how.batch = variant == 1 ? 3 : 2;
        how.update.clip = variant == 2 ? 2 : 1;
        how.recompute = variant == 3 ? TR_RECOMPUTE_FULL : TR_RECOMPUTE_NONE;
        how.update.micro_batches = variant == 4 ? 2 : 1;
        how.compute = variant == 5 ? TR_BF16 : TR_F32;
        tr_program *p = compile(&how);
        seen[count] = tr_graph_hash(p->graph);
        for (int j = 0; j < count; j++)
            CHECK(seen[j] != seen[count]);
        count++;
        tr_program_free(p);
    }
}

int main(void)
{
    TEST(test_round_trip_of_passes);
    TEST(test_round_trip_of_inference);
    TEST(test_round_trip_of_a_part);
    TEST(test_documented_example);
    TEST(test_text_errors);
    TEST(test_copy);
    TEST(test_planted_faults);
    TEST(test_hash);
    TEST(test_hash_of_plans);
    return check_report();
}
