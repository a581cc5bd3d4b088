/* The memory plan on random graphs: no overlap, no waste, and what is computed does not depend on
 * it. A failure prints the seed; `test_memory_plan SEED` repeats it. */
#include "check.h"

#include "base/cpu.h"
#include "exec/compile.h"
#include "ir/table.h"
#include "models/family.h"

enum { SEEDS = 60, ROWS = 3, CLASSES = 3 };
static const int64_t columns[CLASSES] = {8, 20, 6};

static uint64_t state;
static uint64_t only_seed;

static uint32_t draw(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 20) % below);
}

static void start(uint64_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 0x1234567u;
    for (int i = 0; i < 8; i++)
        draw(2);
}

static void fail_seed(uint64_t seed, const char *what)
{
    FAIL("seed %llu: %s", (unsigned long long)seed, what);
}

/* Random graphs --------------------------------------------------------------------------- */

typedef struct pool {
    tr_graph *g;
    tr_value values[CLASSES][64];
    int count[CLASSES];
    tr_value weights[CLASSES][CLASSES], vectors[CLASSES];
} pool;

static tr_value any(const pool *p, int c)
{
    return p->values[c][draw((uint32_t)p->count[c])];
}

static void leaves(pool *p)
{
    for (int c = 0; c < CLASSES; c++) {
        char name[32];
        snprintf(name, sizeof name, "x%d", c);
        p->values[c][p->count[c]++] =
            tr_param(p->g, tr_ones(), name, "%d %d", ROWS, (int)columns[c]);
        snprintf(name, sizeof name, "b%d", c);
        p->vectors[c] = tr_param(p->g, tr_ones(), name, "%d", (int)columns[c]);
        for (int d = 0; d < CLASSES; d++) {
            snprintf(name, sizeof name, "w%d%d", c, d);
            p->weights[c][d] =
                tr_param(p->g, tr_ones(), name, "%d %d", (int)columns[c], (int)columns[d]);
        }
    }
}

static tr_value random_node(pool *p, int c)
{
    tr_graph *g = p->g;
    tr_value a = any(p, c), view;
    int from;
    switch (draw(9)) {
    case 0:
        return tr_add(g, a, any(p, c));
    case 1:
        return tr_mul(g, a, any(p, c));
    case 2:
        return tr_scale(g, a, 0.5);
    case 3:
        return tr_tanh(g, a);
    case 4:
        return tr_dropout(g, a, 0.25);
    case 5:
        return tr_add(g, a, p->vectors[c]);
    case 6:
        return tr_layer_norm(g, a, p->vectors[c], p->vectors[c], 1e-5);
    case 7:
        view = tr_reshape(g, a, "%d 2 %d", ROWS, (int)columns[c] / 2);
        return tr_reshape(g, draw(2) ? tr_gelu(g, view) : view, "%d %d", ROWS, (int)columns[c]);
    default:
        from = (int)draw(CLASSES);
        return tr_linear(g, any(p, from), p->weights[from][c], draw(2) ? p->vectors[c] : 0);
    }
}

/* A forward graph, its gradient, and a few outputs; after fuse and order, before memory. */
static tr_graph *random_graph(uint64_t seed)
{
    pool p = {.g = tr_graph_new("random", TR_F32)};
    tr_value loss = 0, *grads = NULL;
    uint32_t count = 0;
    start(seed);
    leaves(&p);
    for (int n = 4 + (int)draw(40); n > 0; n--) {
        int c = (int)draw(CLASSES);
        p.g->layer = (int)draw(3) - 1;
        p.values[c][p.count[c]] = random_node(&p, c);
        p.count[c]++;
    }
    p.g->layer = -1;
    for (int k = 0; k < 3; k++) {
        tr_value y = any(&p, k);
        if (p.g->values[tr_value_root(p.g, y)].role == TR_TEMP && draw(2))
            tr_graph_output(p.g, "y", y);
        tr_value sum = tr_out(p.g, tr_graph_node(p.g, TR_OP_sum_leading, &y, 1, NULL), 0);
        loss = loss ? tr_add(p.g, loss, sum) : sum;
    }
    tr_graph_output(p.g, "loss", loss);
    CHECK_OK(tr_pass_autodiff(p.g, loss, 0, &grads, &count));
    for (tr_value v = 1; v < count; v++)
        if (grads[v])
            tr_graph_output(p.g, "d", grads[v]);
    if (seed % 3 == 0) {
        tr_update how = {
            .optimizer = TR_ADAMW, .beta1 = 0.9, .beta2 = 0.9, .eps = 1e-3, .micro_batches = 1};
        CHECK_OK(tr_pass_update(p.g, loss, loss, grads, count, &how));
    }
    if (seed % 4 == 1)
        CHECK_OK(tr_pass_recompute(p.g, seed % 8 == 1 ? TR_RECOMPUTE_FULL : TR_RECOMPUTE_CHEAP));
    free(grads);
    CHECK_OK(tr_pass_fuse(p.g));
    CHECK_OK(tr_pass_order(p.g));
    CHECK_OK(tr_graph_verify(p.g));
    return p.g;
}

/* What the plan must be, computed apart from it
 * ------------------------------------------------------ */

typedef struct life {
    tr_node first, last;
    int64_t offset, bytes;
} life;

static int64_t round_up(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static void touch(life *l, tr_node n)
{
    l->first = l->first ? l->first : n;
    l->last = n;
}

/* Every buffer of the arena: when it lives and where it is. */
static life *lives_of(const tr_graph *g, const tr_memory *m, const int64_t *scratch,
                      uint32_t *count)
{
    life *lives = tr_alloc_zero(g->n_values + g->n_nodes, sizeof *lives);
    for (tr_node n = 1; n < g->n_nodes; n++) {
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            touch(&lives[tr_value_root(g, tr_in(g, n, (int)i))], n);
        for (uint32_t k = 0; k < g->nodes[n].n_out; k++)
            touch(&lives[tr_value_root(g, tr_out(g, n, (int)k))], n);
    }
    for (uint32_t o = 0; o < g->n_outputs; o++)
        lives[tr_value_root(g, g->outputs[o])].last = g->n_nodes;
    *count = 0;
    for (tr_value v = 1; v < g->n_values; v++)
        if (lives[v].first && g->values[v].role == TR_TEMP) {
            life l = lives[v];
            l.offset = m->offset[v];
            l.bytes = round_up(tr_shape_bytes(tr_shape_at(g, v)));
            lives[(*count)++] = l;
        }
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (scratch[n])
            lives[(*count)++] = (life){n, n, m->scratch_offset[n], round_up(scratch[n])};
    return lives;
}

typedef struct bounds {
    int64_t live, sum; /* most that is alive at one time; all together */
    bool overlap;
} bounds;

static bounds bounds_of(const tr_graph *g, const tr_memory *m, const int64_t *scratch)
{
    bounds b = {0};
    uint32_t count;
    life *l = lives_of(g, m, scratch, &count);
    int64_t *change = tr_alloc_zero(g->n_nodes + 2, sizeof *change), now = 0;
    for (uint32_t i = 0; i < count; i++) {
        b.sum += l[i].bytes;
        change[l[i].first] += l[i].bytes;
        change[TR_MIN(l[i].last, g->n_nodes) + 1] -= l[i].bytes;
        for (uint32_t j = 0; j < i; j++)
            b.overlap |= l[i].first <= l[j].last && l[j].first <= l[i].last &&
                         l[i].offset < l[j].offset + l[j].bytes &&
                         l[j].offset < l[i].offset + l[i].bytes;
        b.overlap |=
            l[i].offset < 0 || l[i].offset % 64 || l[i].offset + l[i].bytes > m->arena_bytes;
    }
    for (tr_node n = 1; n <= g->n_nodes; n++) {
        now += change[n];
        b.live = TR_MAX(b.live, now);
    }
    free(change);
    free(l);
    return b;
}

static int64_t *random_scratch(const tr_graph *g)
{
    int64_t *scratch = tr_alloc_zero(g->n_nodes, sizeof *scratch);
    for (tr_node n = 1; n < g->n_nodes; n++)
        scratch[n] = draw(3) ? 0 : 1 + draw(3000);
    return scratch;
}

static void check_random_plan(uint64_t seed, double *worst)
{
    tr_graph *g = random_graph(seed);
    int64_t *scratch = random_scratch(g);
    tr_memory m;
    CHECK_OK(tr_pass_memory(g, scratch, 1, NULL, &m));
    CHECK_OK(tr_graph_verify(g));
    CHECK_OK(tr_memory_verify(g, &m, scratch, 1));
    bounds b = bounds_of(g, &m, scratch);
    if (b.overlap)
        fail_seed(seed, "live buffers overlap");
    if (m.arena_bytes < b.live || m.arena_bytes > b.sum)
        fail_seed(seed, "the arena is smaller than what is alive, or larger than all");
    if (m.grads_bytes + m.activations_bytes + m.scratch_bytes != b.live)
        fail_seed(seed, "what is said of the peak is not what is alive then");
    *worst = fmax(*worst, (double)m.arena_bytes / (double)b.live);
    tr_memory_free(&m);
    free(scratch);
    tr_graph_free(g);
}

static void test_random_plans(void)
{
    double worst = 0;
    for (uint64_t seed = only_seed ? only_seed : 1; seed <= (only_seed ? only_seed : 5 * SEEDS);
         seed++)
        check_random_plan(seed, &worst);
    printf("random graphs: arena at most %.3f of what is alive\n", worst);
    CHECK(worst < 1.25);
}

/* Planted faults
 * ----------------------------------------------------------------------------------- */

static void test_planted_overlaps(void)
{
    int planted = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        tr_graph *g = random_graph(seed);
        int64_t *scratch = random_scratch(g);
        tr_memory m;
        CHECK_OK(tr_pass_memory(g, scratch, 1, NULL, &m));
        for (int attempt = 0; attempt < 100; attempt++) {
            tr_value v = 1 + draw(g->n_values - 1), u = 1 + draw(g->n_values - 1);
            if (m.offset[v] < 0 || m.offset[u] < 0 || g->values[v].role != TR_TEMP ||
                g->values[u].role != TR_TEMP)
                continue;
            int64_t before = m.offset[v];
            m.offset[v] = m.offset[u] + 64 * (int64_t)draw(2);
            bool wrong = bounds_of(g, &m, scratch).overlap;
            tr_error *error = tr_memory_verify(g, &m, scratch, 1);
            if (wrong != (error != NULL))
                fail_seed(seed,
                          wrong ? "a planted overlap is not found" : "a right plan is refused");
            planted += wrong;
            tr_error_free(error);
            m.offset[v] = before;
        }
        for (tr_node n = 1; n < g->n_nodes; n++)
            if (scratch[n]) {
                int64_t before = m.scratch_offset[n];
                m.scratch_offset[n] = m.arena_bytes - 64 * ((scratch[n] + 63) / 64) + 64;
                CHECK_ERROR(tr_memory_verify(g, &m, scratch, 1), "outside of the arena");
                m.scratch_offset[n] = before;
                break;
            }
        tr_memory_free(&m);
        free(scratch);
        tr_graph_free(g);
    }
    CHECK(planted > 100);
}

/* With several microbatches no temporary may cross into or out of them. */
static void test_crossing(void)
{
    for (int late = 0; late < 2; late++) {
        tr_graph *g = tr_graph_new("crossing", TR_F32);
        tr_value x = tr_param(g, tr_ones(), "x", "8");
        g->phase = late ? TR_BACKWARD : TR_START;
        tr_value y = tr_scale(g, x, 2);
        g->phase = late ? TR_UPDATE : TR_FORWARD;
        tr_graph_output(g, "z", tr_scale(g, y, 3));
        int64_t scratch[3] = {0};
        tr_memory m;
        CHECK_OK(tr_pass_memory(g, scratch, 1, NULL, &m));
        CHECK_OK(tr_memory_verify(g, &m, scratch, 1));
        CHECK_ERROR(tr_memory_verify(g, &m, scratch, 2), "crosses");
        tr_memory_free(&m);
        CHECK_ERROR(tr_pass_memory(g, scratch, 2, NULL, &m), "crosses");
        tr_graph_free(g);
    }
}

/* What is computed
 * ---------------------------------------------------------------------------------- */

static float parameter(tr_value v, int64_t i)
{
    return (float)((int64_t)((v * 7919u + (uint64_t)i * 104729u) % 2001) - 1000) * 1e-3f;
}

static tr_tensor tensor_of(const tr_graph *g, tr_value v, void *data)
{
    const tr_shape *s = tr_shape_at(g, v);
    tr_tensor t = {.data = data, .dtype = s->dtype, .rank = v ? s->rank : -1};
    memcpy(t.dims, s->dims, sizeof t.dims);
    return t;
}

/* Runs node n with a buffer of its own for each output; what it updates is copied first. */
static void interpret(const tr_graph *g, tr_node n, void **data)
{
    const tr_node_info *node = &g->nodes[n];
    tr_tensor in[8], out[4];
    tr_call call = {.op = node->op,
                    .n_in = (int)node->n_in,
                    .n_out = (int)node->n_out,
                    .in = in,
                    .out = out,
                    .attrs = node->attrs,
                    .seed = 77,
                    .step = 5};
    tr_tensor *wide = node->n_in > 8 ? tr_alloc(node->n_in * sizeof *wide) : NULL;
    call.in = wide ? wide : in;
    for (int i = 0; i < call.n_in; i++)
        call.in[i] = tensor_of(g, tr_in(g, n, i), data[tr_in(g, n, i)]);
    for (int k = 0; k < call.n_out; k++) {
        tr_value v = tr_out(g, n, k);
        size_t bytes = (size_t)round_up(tr_shape_bytes(tr_shape_at(g, v)));
        data[v] = aligned_alloc(64, bytes);
        out[k] = tensor_of(g, v, data[v]);
        for (int i = 0; i < call.n_in && g->values[v].home != v; i++)
            if (tr_in(g, n, i) && tr_value_root(g, tr_in(g, n, i)) == tr_value_root(g, v)) {
                memcpy(data[v], call.in[i].data, (size_t)tr_shape_bytes(tr_shape_at(g, v)));
                call.in[i].data = data[v];
            }
    }
    if (call.n_in)
        memcpy(call.extent, call.in[0].dims, sizeof call.extent);
    const tr_kernel *kernel = tr_kernel_reference(node->op);
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call));
    call.scratch = aligned_alloc(64, (size_t)round_up((int64_t)call.scratch_bytes + 1));
    kernel->run(&call);
    free(call.scratch);
    free(wide);
}

/* The graph's outputs when nothing shares memory. */
static void **interpret_all(const tr_graph *g)
{
    void **data = tr_alloc_zero(g->n_values, sizeof *data);
    for (tr_value v = 1; v < g->n_values; v++) {
        int64_t bytes = tr_shape_bytes(tr_shape_at(g, v));
        if (g->values[v].role == TR_TEMP)
            continue;
        data[v] = aligned_alloc(64, (size_t)round_up(bytes));
        memset(data[v], 0, (size_t)bytes);
        for (int64_t i = 0; i < bytes / 4 && g->values[v].role == TR_PARAM; i++)
            ((float *)data[v])[i] = parameter(v, i);
    }
    for (tr_node n = 1; n < g->n_nodes; n++) {
        if (g->nodes[n].op ==
            TR_OP_reshape) /* its base is not written over here, so a copy is a view */
            memcpy(data[tr_out(g, n, 0)] = aligned_alloc(
                       64, (size_t)round_up(tr_shape_bytes(tr_shape_at(g, tr_out(g, n, 0))))),
                   data[tr_in(g, n, 0)], (size_t)tr_shape_bytes(tr_shape_at(g, tr_out(g, n, 0))));
        else
            interpret(g, n, data);
    }
    return data;
}

static void check_results(uint64_t seed, int *in_place)
{
    tr_graph *g = random_graph(seed);
    tr_graph *apart = tr_graph_copy(g);
    tr_target target = {.threads = 1, .reference = true};
    tr_program *p = NULL;
    CHECK_OK(tr_program_build_take(g, &target, 1, &p));
    CHECK_OK(tr_program_allocate(p));
    g = p->graph;
    memset(p->arena, 0xFF,
           (size_t)p->memory.arena_bytes); /* NaN, if anything reads before it writes */
    p->seed = 77;
    for (tr_value v = 1; v < g->n_values; v++) {
        for (int64_t i = 0; i < tr_shape_elems(tr_shape_at(g, v)) && g->values[v].role == TR_PARAM;
             i++)
            ((float *)tr_program_data(p, v))[i] = parameter(v, i);
        *in_place += g->values[v].home != apart->values[v].home;
    }
    tr_program_run(p, TR_START, TR_UPDATE, 5, 0);
    void **data = interpret_all(apart);
    for (uint32_t o = 0; o < g->n_outputs; o++) {
        tr_value v = g->outputs[o];
        if (memcmp(tr_program_data(p, v), data[v], (size_t)tr_shape_bytes(tr_shape_at(g, v))) !=
            0) {
            fail_seed(seed, "the results depend on the memory plan");
            break;
        }
    }
    /* Parameters after their update: the last value in each one's home. */
    for (tr_node n = 1; n < apart->n_nodes; n++)
        if (apart->nodes[n].op == TR_OP_adamw &&
            memcmp(tr_program_data(p, tr_in(apart, n, 0)), data[tr_out(apart, n, 0)],
                   (size_t)tr_shape_bytes(tr_shape_at(g, tr_in(apart, n, 0)))) != 0)
            fail_seed(seed, "an updated parameter depends on the memory plan");
    for (tr_value v = 1; v < apart->n_values; v++)
        free(data[v]);
    free(data);
    tr_program_free(p);
    tr_graph_free(apart);
}

static void test_results_do_not_depend_on_the_plan(void)
{
    int in_place = 0;
    for (uint64_t seed = only_seed ? only_seed : 1; seed <= (only_seed ? only_seed : 3 * SEEDS);
         seed++)
        check_results(seed, &in_place);
    CHECK(in_place > 3);
}

/* Real graphs
 * --------------------------------------------------------------------------------------- */

/* GPT-2 of 124 M parameters, planned and not allocated: the arena is what is alive, give or take 3
 * %. */
static void test_gpt2(void)
{
    static const tr_sizes gpt2 = {.vocab = 50257,
                                  .context = 1024,
                                  .layers = 12,
                                  .embed = 768,
                                  .heads = 12,
                                  .mlp = 3072,
                                  .dropout = 0.1};
    for (int64_t micro = 1; micro <= 4; micro += 3)
        for (int what = TR_RECOMPUTE_NONE; what <= TR_RECOMPUTE_FULL; what++) {
            tr_compile how = {.target = {.isa = tr_cpu_isa_best(), .threads = 2},
                              .compute = TR_F32,
                              .batch = 4,
                              .seq = 512,
                              .recompute = (tr_recompute)what,
                              .update = {.optimizer = TR_ADAMW, .clip = 1, .micro_batches = micro}};
            tr_program *p = NULL;
            CHECK_OK(tr_compile_training(tr_gpt, &gpt2, NULL, &how, &p));
            bounds b = bounds_of(p->graph, &p->memory, p->scratch_bytes);
            double ratio = (double)p->memory.arena_bytes / (double)b.live;
            printf("gpt2 124M, 4 x 512, f32, %d microbatches, recompute %d: arena %.0f MB, %.3f of "
                   "what is alive\n",
                   (int)micro, what, (double)p->memory.arena_bytes / 1e6, ratio);
            CHECK(!b.overlap && ratio >= 1 && ratio < 1.03);
            tr_program_free(p);
        }
}

int main(int argc, char **argv)
{
    only_seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    TEST(test_random_plans);
    TEST(test_planted_overlaps);
    TEST(test_crossing);
    TEST(test_results_do_not_depend_on_the_plan);
    TEST(test_gpt2);
    return check_report();
}
