/* What each pass promises: autodiff, update, recompute, fuse, order and cache, on small models. */
#include "check.h"

#include "base/cpu.h"
#include "exec/compile.h"
#include "ir/table.h"
#include "ir/text.h"
#include "models/family.h"

enum { SEQ = 8, STEPS = 3 };
static const tr_sizes small = {
    .vocab = 37, .context = 16, .layers = 3, .embed = 16, .heads = 2, .mlp = 32, .dropout = 0.2};
static const tr_target reference = {.threads = 1, .reference = true};

static int count_op(const tr_graph *g, tr_op op, int phase)
{
    int n = 0;
    for (tr_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op && (phase < 0 || (int)g->nodes[i].phase == phase);
    return n;
}

static tr_graph *graph_after(const char *pass, tr_compile how, const tr_sizes *sizes)
{
    tr_text dump = {0};
    tr_program *p = NULL;
    tr_graph *g = NULL;
    how.dump_after = pass;
    how.dump = &dump;
    CHECK_OK(tr_compile_training(tr_gpt, sizes, NULL, &how, &p));
    CHECK_OK(tr_graph_parse(dump.bytes, &g));
    tr_text_free(&dump);
    tr_program_free(p);
    return g;
}

static tr_compile training(tr_target target, int64_t batch, int64_t micro_batches)
{
    return (tr_compile){.target = target,
                        .compute = TR_F32,
                        .batch = batch,
                        .seq = SEQ,
                        .update = {.optimizer = TR_ADAMW,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .eps = 1e-8,
                                   .weight_decay = 0.1,
                                   .clip = 1,
                                   .micro_batches = micro_batches}};
}

static tr_program *ready(tr_model model, const tr_sizes *sizes, const tr_compile *how)
{
    tr_program *p = NULL;
    CHECK_OK(tr_compile_training(model, sizes, NULL, how, &p));
    if (!p)
        exit(check_report() | 1);
    CHECK_OK(tr_program_allocate(p));
    tr_program_init(p, 5);
    return p;
}

typedef struct outcome {
    double loss[STEPS], norm[STEPS];
} outcome;

static void fill_ids(tr_program *p, int step, int64_t first, int64_t rows)
{
    int32_t *ids = tr_program_find(p, "ids"), *targets = tr_program_find(p, "targets");
    int32_t *positions = tr_graph_find(p->graph, "positions") ? tr_program_find(p, "positions") : NULL;
    for (int64_t b = 0; b < rows; b++)
        for (int64_t t = 0; t < SEQ; t++) {
            int64_t i = b * SEQ + t, token = (first + b) * 31 + t * 7 + step * 5;
            ids[i] = (int32_t)(token * token % 37);
            if (positions)
                positions[i] = (int32_t)t;
            targets[i] = t == 3 ? -1 : (int32_t)((token + 7) * (token + 7) % 37);
        }
}

/* A few steps; the losses and gradient norms of each. Consumes the program. */
static outcome run_take(tr_program *p)
{
    outcome o;
    int64_t rows = tr_shape_at(p->graph, tr_graph_find(p->graph, "ids"))->dims[0];
    for (int step = 0; step < STEPS; step++) {
        *(float *)tr_program_find(p, "lr") = 3e-3f;
        *(int32_t *)tr_program_find(p, "step") = step + 1;
        tr_program_run(p, TR_START, TR_START, (uint32_t)step, 0);
        for (int64_t m = 0; m < p->micro_batches; m++) {
            fill_ids(p, step, m * rows, rows);
            tr_program_run(p, TR_FORWARD, TR_BACKWARD, (uint32_t)step, m);
        }
        tr_program_run(p, TR_UPDATE, TR_UPDATE, (uint32_t)step, 0);
        o.loss[step] = *(float *)tr_program_find(p, "loss") / *(float *)tr_program_find(p, "count");
        o.norm[step] = *(float *)tr_program_find(p, "grad_norm");
    }
    tr_program_free(p);
    return o;
}

static void check_near(const char *what, outcome a, outcome b, double tolerance)
{
    for (int s = 0; s < STEPS; s++)
        if (!(fabs(a.loss[s] / b.loss[s] - 1) <= tolerance) ||
            !(fabs(a.norm[s] / b.norm[s] - 1) <= 10 * tolerance))
            FAIL("%s, step %d: loss %.9g and norm %.9g, expected %.9g and %.9g", what, s, a.loss[s],
                 a.norm[s], b.loss[s], b.norm[s]);
}

/* Autodiff -------------------------------------------------------------------------------- */

/* A graph of x[2, 3] -> loss and its gradients, run with x = 0.1, 0.2 .. */
typedef struct trial {
    tr_graph *g;
    tr_value x;
    tr_program *p;
} trial;

static trial trial_new(void)
{
    trial t = {.g = tr_graph_new("trial", TR_F32)};
    t.x = tr_param(t.g, tr_zeros(), "x", "row=2 column=3");
    return t;
}

static tr_value sum_all(tr_graph *g, tr_value y)
{
    return tr_out(g, tr_graph_node(g, TR_OP_sum_leading, &y, 1, NULL), 0);
}

/* The gradient of x after a run; freed with the trial. */
static const float *gradient_of(trial *t, tr_value loss)
{
    tr_value *grads = NULL;
    uint32_t count = 0;
    CHECK_OK(tr_pass_autodiff(t->g, loss, 0, &grads, &count));
    CHECK(grads && grads[t->x]);
    tr_graph_output(t->g, "d.x", grads[t->x]);
    free(grads);
    CHECK_OK(tr_pass_fuse(t->g));
    CHECK_OK(tr_pass_order(t->g));
    CHECK_OK(tr_graph_verify(t->g));
    CHECK_OK(tr_program_build_take(t->g, &reference, 1, &t->p));
    CHECK_OK(tr_program_allocate(t->p));
    for (int i = 0; i < 6; i++)
        ((float *)tr_program_find(t->p, "x"))[i] = 0.1f * (float)(i + 1);
    tr_program_run(t->p, TR_START, TR_UPDATE, 0, 0);
    return tr_program_find(t->p, "d.x");
}

static void test_value_used_often(void)
{
    trial t = trial_new();
    tr_value y = tr_mul(t.g, t.x, t.x); /* twice in one node */
    y = tr_add(t.g, tr_add(t.g, y, tr_scale(t.g, t.x, 3)), y);
    const float *d = gradient_of(&t, sum_all(t.g, y));
    for (int i = 0; i < 6; i++)
        CHECK_NEAR(d[i], 4 * 0.1 * (i + 1) + 3, 1e-5);
    tr_program_free(t.p);
}

/* A parameter that two ops read, through a table look-up and a product: x x^T for rows 0 and 1. */
static void test_tied_parameter(void)
{
    trial t = trial_new();
    const char *name = "row";
    const int64_t two = 2;
    tr_value ids =
        tr_graph_leaf(t.g, TR_INPUT, "ids", tr_shape_of(t.g, TR_I32, 1, &name, &two), tr_zeros());
    tr_value y = tr_linear_transposed(t.g, tr_embedding(t.g, t.x, ids), t.x, 0);
    const float *d = gradient_of(&t, sum_all(t.g, y));
    /* ids are 0, 0: loss = 2 x0 . (x0 + x1), so d0 = 4 x0 + 2 x1, d1 = 2 x0 */
    for (int i = 0; i < 3; i++) {
        CHECK_NEAR(d[i], 4 * 0.1 * (i + 1) + 2 * 0.1 * (i + 4), 1e-5);
        CHECK_NEAR(d[3 + i], 2 * 0.1 * (i + 1), 1e-5);
    }
    tr_program_free(t.p);
}

static void test_parameter_without_a_path(void)
{
    trial t = trial_new();
    tr_value unused = tr_param(t.g, tr_ones(), "unused", "row=2 column=3");
    tr_value aside = tr_param(t.g, tr_ones(), "aside", "row=2 column=3");
    tr_scale(t.g, aside, 2);
    tr_value loss = sum_all(t.g, tr_scale(t.g, t.x, 2)), *grads = NULL;
    uint32_t count = 0;
    CHECK_OK(tr_pass_autodiff(t.g, loss, 0, &grads, &count));
    CHECK(grads[t.x] && !grads[unused] && !grads[aside] && !grads[loss]);
    tr_update how = {.optimizer = TR_SGD, .micro_batches = 1};
    CHECK_OK(tr_pass_update(t.g, loss, loss, grads, count, &how));
    CHECK_INT(count_op(t.g, TR_OP_sgd, TR_UPDATE), 1);
    CHECK_OK(tr_graph_verify(t.g));
    free(grads);
    tr_graph_free(t.g);
}

static void test_nothing_to_train(void)
{
    trial t = trial_new();
    tr_value *grads = NULL, fill = tr_out(t.g, tr_graph_node(t.g, TR_OP_fill, NULL, 0, NULL), 0);
    uint32_t count = 0;
    tr_update how = {.optimizer = TR_SGD, .micro_batches = 1};
    CHECK_OK(tr_pass_autodiff(t.g, fill, 0, &grads, &count));
    CHECK_ERROR(tr_pass_update(t.g, fill, fill, grads, count, &how),
                "the loss depends on no parameter");
    free(grads);
    tr_graph_free(t.g);
}

static void test_op_without_gradient(void)
{
    trial t = trial_new();
    const tr_value in[] = {t.x, t.x};
    tr_value y = tr_out(t.g, tr_graph_node(t.g, TR_OP_activate_grad, in, 2, NULL), 0),
             *grads = NULL;
    uint32_t count = 0;
    CHECK_ERROR(tr_pass_autodiff(t.g, sum_all(t.g, y), 0, &grads, &count),
                "op activate_grad stands between the loss and a parameter but has no gradient");
    CHECK(!grads);
    tr_graph_free(t.g);
}

static void test_gradient_nodes(void)
{
    tr_graph *g = graph_after("autodiff", training(reference, 2, 1), &small);
    int in_layers = 0;
    for (tr_node n = 1; n < g->n_nodes; n++) {
        bool backward = g->nodes[n].phase == TR_BACKWARD;
        in_layers += backward && g->nodes[n].layer >= 0;
        CHECK(backward || g->nodes[n].phase == TR_FORWARD);
    }
    CHECK(in_layers > 10 * small.layers);
    /* both halves of each linear */
    CHECK_INT(count_op(g, TR_OP_linear_dx, TR_BACKWARD), 4 * small.layers);
    CHECK_INT(count_op(g, TR_OP_linear_dw, TR_BACKWARD), 4 * small.layers);
    CHECK_INT(count_op(g, TR_OP_attention_grad, TR_BACKWARD), small.layers);
    tr_graph_free(g);
}

/* Fuse ------------------------------------------------------------------------------------ */

static void test_what_fuses(void)
{
    for (int micro = 1; micro <= 2; micro++) {
        tr_graph *g = graph_after("fuse", training(reference, 2, micro), &small);
        int layers = (int)small.layers;
        CHECK_INT(count_op(g, TR_OP_cross_entropy_train, -1), 1);
        CHECK_INT(count_op(g, TR_OP_cross_entropy, -1), 0);
        CHECK_INT(count_op(g, TR_OP_cross_entropy_grad, -1), 0);
        CHECK_INT(count_op(g, TR_OP_add_layer_norm, -1), 2 * layers);
        CHECK_INT(count_op(g, TR_OP_layer_norm, -1), 1);
        CHECK_INT(count_op(g, TR_OP_add, TR_FORWARD), 1); /* of the two embeddings */
        /* With several microbatches what is not made by an accumulating op is added: the norms'
         * weights and biases, whose gradients are second outputs, and the sums of loss and count.
         */
        CHECK_INT(count_op(g, TR_OP_add, TR_BACKWARD), micro == 1 ? 0 : 2 * (2 * layers + 1) + 2);
        tr_graph_free(g);
    }
    tr_compile how = training(reference, 2, 1);
    tr_program *p = NULL;
    CHECK_OK(tr_compile_evaluation(tr_gpt, &small, NULL, &how, &p));
    CHECK_INT(count_op(p->graph, TR_OP_activate, -1), 0);
    int with_fn = 0;
    for (tr_node n = 1; n < p->graph->n_nodes; n++)
        with_fn += p->graph->nodes[n].op == TR_OP_linear &&
                   p->graph->nodes[n].attrs[TR_LINEAR_FN].i == TR_FN_gelu_tanh;
    CHECK_INT(with_fn, small.layers);
    tr_program_free(p);
}

/* A sum is not written over a value that is read, or shown by an output, after. */
static void test_what_must_not_fuse(void)
{
    for (int shown = 0; shown < 4; shown++) {
        trial t = trial_new();
        tr_value a = sum_all(t.g, t.x), b = sum_all(t.g, tr_scale(t.g, t.x, 2));
        tr_value sum = tr_add(t.g, a, b);
        tr_graph_output(t.g, "sum", sum);
        if (shown == 1)
            tr_graph_output(t.g, "part", a);
        if (shown == 2)
            tr_graph_output(t.g, "part", tr_reshape(t.g, a, "_=1 _=1"));
        if (shown == 3)
            tr_graph_output(t.g, "part", tr_mul(t.g, a, sum));
        CHECK_OK(tr_pass_fuse(t.g));
        CHECK_OK(tr_pass_order(t.g));
        CHECK_OK(tr_graph_verify(t.g));
        CHECK_INT(count_op(t.g, TR_OP_add, -1), shown ? 1 : 0);
        CHECK_OK(tr_program_build_take(t.g, &reference, 1, &t.p));
        CHECK_OK(tr_program_allocate(t.p));
        for (int i = 0; i < 6; i++)
            ((float *)tr_program_find(t.p, "x"))[i] = 1;
        tr_program_run(t.p, TR_START, TR_UPDATE, 0, 0);
        CHECK_NEAR(*(float *)tr_program_find(t.p, "sum"), 18, 1e-5);
        if (shown)
            CHECK_NEAR(*(float *)tr_program_find(t.p, "part"), shown == 3 ? 6 * 18 : 6, 1e-5);
        tr_program_free(t.p);
    }
}

/* The passes of a training program by hand, with or without fusion. */
static tr_program *training_by_hand(tr_model model, const tr_compile *how, bool fuse)
{
    tr_graph *g = tr_graph_new("by hand", how->compute);
    tr_sizes sizes = small;
    sizes.batch = how->batch;
    sizes.seq = how->seq;
    model(g, &sizes, NULL);
    tr_value targets = tr_input(g, "targets", "batch=%lld seq=%lld", (long long)how->batch, (long long)how->seq);
    const tr_value in[] = {g->heads[0].hidden, g->heads[0].table, targets};
    tr_node loss = tr_graph_node(g, TR_OP_cross_entropy, in, 3, NULL);
    tr_value *grads = NULL, sum = tr_out(g, loss, 0), count = tr_out(g, loss, 1);
    uint32_t n = 0;
    tr_program *p = NULL;
    CHECK_OK(tr_pass_autodiff(g, sum, 0, &grads, &n));
    CHECK_OK(tr_pass_update(g, sum, count, grads, n, &how->update));
    if (fuse)
        CHECK_OK(tr_pass_fuse(g));
    CHECK_OK(tr_pass_order(g));
    free(grads);
    CHECK_OK(tr_program_build_take(g, &how->target, how->update.micro_batches, &p));
    CHECK_OK(tr_program_allocate(p));
    tr_program_init(p, 5);
    return p;
}

static void test_fused_equals_unfused(void)
{
    for (int micro = 1; micro <= 2; micro++)
        for (int fast = 0; fast < 2; fast++) {
            tr_target target =
                fast ? (tr_target){.isa = tr_cpu_isa_best(), .threads = 1} : reference;
            tr_compile how = training(target, 2, micro);
            outcome plain = run_take(training_by_hand(tr_gpt, &how, false));
            outcome fused = run_take(training_by_hand(tr_gpt, &how, true));
            check_near("fused", fused, plain, 2e-6);
            check_near("compiled", run_take(ready(tr_gpt, &small, &how)), fused, 1e-9);
        }
}

/* Recompute ------------------------------------------------------------------------------- */

static void test_recompute(void)
{
    for (int fast = 0; fast < 2; fast++) {
        int64_t peak[3];
        outcome o[3];
        for (int what = TR_RECOMPUTE_NONE; what <= TR_RECOMPUTE_FULL; what++) {
            tr_compile how = training(
                fast ? (tr_target){.isa = tr_cpu_isa_best(), .threads = 1} : reference, 4, 2);
            how.recompute = (tr_recompute)what;
            tr_program *p = ready(tr_gpt, &small, &how);
            peak[what] = p->memory.arena_bytes;
            o[what] = run_take(p);
        }
        CHECK(peak[TR_RECOMPUTE_CHEAP] < peak[TR_RECOMPUTE_NONE]);
        CHECK(peak[TR_RECOMPUTE_FULL] < peak[TR_RECOMPUTE_CHEAP]);
        for (int what = TR_RECOMPUTE_CHEAP; what <= TR_RECOMPUTE_FULL; what++)
            if (memcmp(&o[0], &o[what], sizeof o[0]) != 0)
                FAIL("recompute %d: losses %.9g %.9g %.9g, without %.9g %.9g %.9g", what,
                     o[what].loss[0], o[what].loss[1], o[what].loss[2], o[0].loss[0], o[0].loss[1],
                     o[0].loss[2]);
    }
}

static void test_recomputed_nodes(void)
{
    tr_compile how = training(reference, 2, 1);
    how.recompute = TR_RECOMPUTE_CHEAP;
    tr_graph *g = graph_after("recompute", how, &small);
    for (int op = 0; op < TR_OP_COUNT; op++) {
        bool cheap = tr_op_table[op]->flags & (TR_OP_CHEAP | TR_OP_VIEW);
        if (op == TR_OP_linear || op == TR_OP_attention)
            CHECK_INT(count_op(g, (tr_op)op, TR_BACKWARD), 0);
        if (cheap && op != TR_OP_dropout && op != TR_OP_reshape &&
            count_op(g, (tr_op)op, TR_FORWARD) > 1)
            CHECK(count_op(g, (tr_op)op, TR_BACKWARD) > 0);
    }
    /* A clone draws the same numbers. */
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == TR_OP_dropout)
            CHECK(g->nodes[n].attrs[TR_DROPOUT_STREAM].i < g->streams);
    tr_graph_free(g);
    how.recompute = TR_RECOMPUTE_FULL;
    g = graph_after("recompute", how, &small);
    CHECK_INT(count_op(g, TR_OP_attention, TR_BACKWARD), small.layers);
    CHECK(count_op(g, TR_OP_linear, TR_BACKWARD) >= 3 * small.layers);
    tr_graph_free(g);
}

/* Update ---------------------------------------------------------------------------------- */

/* Random numbers belong to the logical element, sums are divided once: how the batch is cut does
 * not show. */
static void test_microbatches(void)
{
    for (int fast = 0; fast < 2; fast++) {
        tr_target target = fast ? (tr_target){.isa = tr_cpu_isa_best(), .threads = 1} : reference;
        outcome whole = {0};
        for (int64_t micro = 1; micro <= 8; micro *= 2) {
            tr_compile how = training(target, 8 / micro, micro);
            how.recompute = micro == 4 ? TR_RECOMPUTE_FULL : TR_RECOMPUTE_NONE;
            outcome o = run_take(ready(tr_gpt, &small, &how));
            if (micro == 1)
                whole = o;
            check_near("microbatches", o, whole, 1e-5);
        }
    }
}

/* Shared weights, added positions and several linears on one weight: gradients of all dtypes and
 * makers. */
static void odd_model(tr_graph *g, const tr_sizes *s, void *user)
{
    (void)user;
    int D = (int)s->embed;
    tr_value table = tr_param(g, tr_normal(0.2), "table", "vocab=%d embed=%d", (int)s->vocab, D);
    tr_value shift = tr_param(g, tr_normal(0.2), "shift", "seq=%d embed=%d", SEQ, D);
    tr_value w = tr_param(g, tr_normal(0.2), "w", "embed=%d inner=%d", D, D);
    tr_value x = tr_add(g, tr_embedding(g, table, tr_input(g, "ids", "batch=%d seq=%d", (int)s->batch, (int)s->seq)), shift);
    x = tr_tanh(g, tr_linear(g, x, w, 0));
    x = tr_add(g, x, tr_linear(g, x, w, 0));
    x = tr_mul(g, x, tr_sigmoid(g, tr_linear(g, x, w, 0)));
    tr_head_add(g, (tr_head){.hidden = x, .table = table});
}

static void test_shared_weights(void)
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        outcome whole = {0};
        for (int64_t micro = 1; micro <= 4; micro *= 4) {
            tr_compile how = training(reference, 4 / micro, micro);
            how.compute = bf16 ? TR_BF16 : TR_F32;
            how.update.optimizer = bf16 ? TR_SGD : TR_ADAMW;
            outcome o = run_take(ready(odd_model, &small, &how));
            if (micro == 1)
                whole = o;
            check_near(bf16 ? "shared weights in bf16" : "shared weights", o, whole,
                       bf16 ? 2e-3 : 1e-5);
        }
    }
}

static void test_weight_decay_and_state(void)
{
    tr_graph *g = graph_after("update", training(reference, 2, 2), &small);
    int params = 0;
    for (tr_value v = 1; v < g->n_values; v++)
        params += g->values[v].role == TR_PARAM;
    CHECK_INT(count_op(g, TR_OP_adamw, TR_UPDATE), params);
    CHECK_INT(count_op(g, TR_OP_clear, TR_START), params + 2); /* and the sums of loss and count */
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == TR_OP_adamw) {
            const tr_value_info *w = &g->values[tr_in(g, n, 0)];
            double decay = g->nodes[n].attrs[TR_ADAMW_DECAY].f;
            if (decay != (w->shape.rank >= 2 && strstr(w->name, "weight") ? 0.1 : 0))
                FAIL("%s decays by %g", w->name, decay);
        }
    tr_graph_free(g);
}

/* Order and cache ------------------------------------------------------------------------- */

static void test_dead_nodes_leave(void)
{
    trial t = trial_new();
    tr_scale(t.g, t.x, 5);
    tr_value y = tr_scale(t.g, t.x, 2);
    tr_gelu(t.g, y);
    tr_graph_output(t.g, "y", y);
    CHECK_OK(tr_pass_order(t.g));
    CHECK_INT(t.g->n_nodes - 1, 1);
    CHECK_OK(tr_graph_verify(t.g));
    tr_graph_free(t.g);
}

static float *logits_of(tr_program *p, const int32_t *ids, int first, int count, int start)
{
    int32_t *in = tr_program_find(p, "ids"), *positions = tr_program_find(p, "positions");
    for (int t = 0; t < count; t++) {
        in[t] = ids[first + t];
        positions[t] = first + t;
    }
    if (start >= 0) {
        *(int32_t *)tr_program_find(p, "start") = start;
        *(int32_t *)tr_program_find(p, "last") = count - 1;
    }
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    return tr_program_find(p, "logits");
}

/* Tokens in pieces through the cache have the logits that they have all at once. */
static void test_cache(void)
{
    static const int pieces[][4] = {{8}, {5, 3}, {1, 6, 1}, {2, 2, 2, 2}};
    tr_sizes sizes = small;
    sizes.dropout = 0;
    for (sizes.band = 0; sizes.band <= 3; sizes.band += 3) {
        tr_compile how = training(reference, 1, 1);
        tr_program *whole = NULL;
        int32_t ids[SEQ];
        for (int t = 0; t < SEQ; t++)
            ids[t] = (t * t + 3 * t) % 37;
        CHECK_OK(tr_compile_logits(tr_gpt, &sizes, NULL, &how, &whole));
        CHECK_OK(tr_program_allocate(whole));
        tr_program_init(whole, 9);
        const float *want = logits_of(whole, ids, 0, SEQ, -1);
        for (int64_t k = 0; k < TR_COUNT(pieces); k++) {
            tr_program *owner = NULL;
            for (int i = 0, at = 0; i < 4 && pieces[k][i]; at += pieces[k][i++]) {
                tr_program *p = NULL;
                how.seq = pieces[k][i];
                CHECK_OK(tr_compile_generation(tr_gpt, &sizes, NULL, &how, sizes.context, &p));
                CHECK_INT(count_op(p->graph, TR_OP_attention, -1), 0);
                CHECK_INT(count_op(p->graph, TR_OP_attention_cached, -1), sizes.layers);
                CHECK(tr_graph_find(p->graph, "cache.2.value"));
                CHECK_OK(tr_program_allocate_beside(
                    p, owner)); /* the first piece's program has the caches */
                if (!owner)
                    tr_program_init(p, 9);
                const float *got = logits_of(p, ids, at, pieces[k][i], at);
                for (int v = 0; v < 37; v++)
                    CHECK_NEAR(got[v], want[(at + pieces[k][i] - 1) * 37 + v], 1e-6);
                if (!owner)
                    owner = p;
                else
                    tr_program_free(p);
            }
            tr_program_free(owner);
        }
        tr_program_free(whole);
    }
}

/* Rooms of 3 experts, of which a token goes to k. */
static tr_graph *routed(int64_t k, double capacity_factor, double dropout, bool together)
{
    tr_graph *g = tr_graph_new("routed", TR_F32);
    tr_value x = tr_input_real(g, "x", "batch=2 seq=8 embed=4");
    tr_value logits = tr_linear(g, x, tr_param(g, tr_normal(1), "router", "embed=4 expert=3"), 0);
    tr_routing r = tr_route(g, logits, &(tr_route_options){.k = k, .capacity_factor = capacity_factor});
    tr_value in = tr_param(g, tr_normal(1), "in", "expert=3 embed=4 mlp=5"), out = tr_param(g, tr_normal(1), "out", "expert=3 mlp=5 embed=4");
    tr_value h = tr_dropout(g, tr_relu(g, tr_expert_linear(g, tr_dispatch(g, x, &r), in, false, &r)), dropout);
    tr_graph_output(g, "y", tr_collect(g, tr_expert_linear(g, h, out, false, &r), &r));
    CHECK_OK(tr_graph_error_take(g));
    tr_pass_rooms(g);
    if (together)
        tr_pass_together(g);
    CHECK_OK(tr_graph_verify(g));
    return g;
}

/* Places of the room that the products of experts see, all of which must see the same. */
static int64_t places(tr_graph *g)
{
    int64_t rows = 0;
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].op == TR_OP_expert_linear) {
            const tr_shape *x = tr_shape_at(g, tr_in(g, n, 0)), *y = tr_shape_at(g, tr_out(g, n, 0));
            CHECK(x->dims[0] == y->dims[0] && x->dims[2] == y->dims[2] && (rows == 0 || rows == x->dims[0] * x->dims[2]));
            rows = x->dims[0] * x->dims[2];
        }
    tr_graph_free(g);
    return rows;
}

static void test_rooms(void)
{
    CHECK(places(routed(2, 0, 0, false)) == 16);   /* none is left out: joined, 2 places a token instead of 3 */
    CHECK(places(routed(1, 0, 0, false)) == 8);
    CHECK(places(routed(1, 1.5, 0, false)) == 8);  /* 3 x 4 */
    CHECK(places(routed(1, 0.5, 0, false)) == 6);  /* 3 x 2: joining saves nothing */
    CHECK(places(routed(2, 0, 0.1, false)) == 24); /* draws by place */
    CHECK(places(routed(2, 0, 0, true)) == 32);    /* of both sequences */
    CHECK(places(routed(1, 0.5, 0, true)) == 6);   /* not joined: they stay */
    CHECK(places(routed(2, 0, 0.1, true)) == 24);
}

int main(void)
{
    TEST(test_rooms);
    TEST(test_value_used_often);
    TEST(test_tied_parameter);
    TEST(test_parameter_without_a_path);
    TEST(test_nothing_to_train);
    TEST(test_op_without_gradient);
    TEST(test_gradient_nodes);
    TEST(test_what_fuses);
    TEST(test_what_must_not_fuse);
    TEST(test_fused_equals_unfused);
    TEST(test_recompute);
    TEST(test_recomputed_nodes);
    TEST(test_microbatches);
    TEST(test_weight_decay_and_state);
    TEST(test_shared_weights);
    TEST(test_dead_nodes_leave);
    TEST(test_cache);
    return check_report();
}
