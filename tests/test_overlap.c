/* Collectives that are started early and waited for late, and buckets: what the passes promise, checked naively on the
 * plans of every rank; and that a plan without the wait's hold on its input is one where the check bites. That the
 * losses keep their bits is in test_overlap_bits.sh. */
#include "check.h"
#include "ir/table.h"
#include "models/family.h"
#include "train/parallel.h"
#include "train/trainer.h"

static const char *const base[] = {"model.layers=3", "model.embed=30", "model.heads=5", "model.context=16", "model.vocab=67",
                                   "train.batch=8", "data.tokenizer=bytes", "model.dropout=0.1"};

static tr_program *plan(const char *const *overrides, int count, int64_t rank, tr_config **out_config)
{
    char *words[TR_COUNT(base) + 8];
    int n = 0;
    tr_program *program = NULL;
    for (int i = 0; i < TR_COUNT(base); i++)
        words[n++] = (char *)(uintptr_t)base[i];
    for (int i = 0; i < count; i++)
        words[n++] = (char *)(uintptr_t)overrides[i];
    CHECK_OK(tr_config_load(NULL, words, n, out_config));
    tr_sizes sizes = tr_config_sizes(*out_config);
    CHECK_OK(tr_trainer_plan(*out_config, rank, &sizes, tr_gpt, NULL, NULL, NULL, NULL, &program));
    return program;
}

static bool is(const tr_graph *g, tr_node n, unsigned flag)
{
    return (tr_op_table[g->nodes[n].op]->flags & flag) != 0;
}

/* The wait of a collective; 0: it has none. */
static tr_node wait_of(const tr_graph *g, tr_node n)
{
    for (tr_node m = n + 1; m < g->n_nodes; m++)
        if (is(g, m, TR_OP_WAIT) && tr_in(g, m, 0) == tr_out(g, n, 0))
            return m;
    return 0;
}

/* The bytes that a value has in the arena; false: it has none there. */
static bool span(const tr_program *p, tr_value v, int64_t *first, int64_t *end)
{
    const tr_graph *g = p->graph;
    tr_value root = tr_value_root(g, v);
    if (!root || g->values[root].role != TR_TEMP || (p->memory.stage && p->memory.stage[root] >= 0))
        return false;
    *first = p->memory.offset[root];
    *end = *first + tr_shape_bytes(tr_shape_at(g, root));
    return true;
}

/* What runs between start and wait and writes into the bytes that the collective reads or writes. */
static int collisions(const tr_program *p, tr_node start, tr_node wait)
{
    const tr_graph *g = p->graph;
    int count = 0;
    for (tr_node n = start + 1; n < wait; n++)
        for (uint32_t k = 0; k < g->nodes[n].n_out && !is(g, n, TR_OP_VIEW); k++) {
            const tr_value mine[] = {tr_in(g, start, 0), tr_out(g, start, 0)};
            int64_t a, b, c, d;
            for (int i = 0; i < 2; i++)
                count += span(p, mine[i], &a, &b) && span(p, tr_out(g, n, (int)k), &c, &d) && a < d && c < b;
        }
    return count;
}

static int readers_between(const tr_program *p, tr_node start, tr_node wait)
{
    const tr_graph *g = p->graph;
    tr_value root = tr_value_root(g, tr_out(g, start, 0));
    int count = 0;
    for (tr_node n = start + 1; n < wait; n++)
        for (uint32_t i = 0; i < g->nodes[n].n_in; i++)
            count += tr_value_root(g, tr_in(g, n, (int)i)) == root;
    return count;
}

typedef struct mesh {
    const char *overrides[6];
    int64_t ranks;
    int least; /* waits */
} mesh;

static const mesh meshes[] = {
    {{"mesh.data=2"}, 2, 5},
    {{"mesh.data=2", "train.micro_batch=2"}, 2, 5},
    {{"mesh.data=3", "zero=1"}, 3, 40},
    {{"mesh.data=3", "zero=1", "train.micro_batch=4"}, 3, 40},
    {{"mesh.data=2", "mesh.tensor=3", "zero=1", "train.micro_batch=4"}, 6, 40},
    {{"mesh.data=2", "zero=2", "train.micro_batch=4"}, 2, 40},
    {{"mesh.data=2", "zero=3"}, 2, 60},
    {{"mesh.data=2", "zero=3", "train.recompute=full", "train.micro_batch=4"}, 2, 60},
    {{"mesh.tensor=3"}, 3, 3},
    {{"mesh.tensor=2", "mesh.sequence_kind=megatron"}, 2, 5},
    {{"mesh.data=2", "mesh.tensor=3", "zero=3"}, 6, 60},
    {{"mesh.tensor=4", "mesh.tensor_kind=2d"}, 4, 10},
    {{"mesh.data=2", "mesh.pipeline=3", "pipeline.schedule=zero_bubble", "train.micro_batch=2", "zero=3"}, 6, 10},
    {{"mesh.data=2", "mesh.pipeline=2", "train.micro_batch=2", "zero=1"}, 4, 10},
};

static void check_rank(const mesh *m, const tr_program *p)
{
    const tr_graph *g = p->graph;
    int waits = 0;
    CHECK_OK(tr_graph_verify(g));
    CHECK_OK(tr_memory_verify(g, &p->memory, p->scratch_bytes, p->micro_batches));
    for (tr_node n = 1; n < g->n_nodes; n++) {
        tr_node wait = is(g, n, TR_OP_COLLECTIVE) ? wait_of(g, n) : 0;
        if (!wait)
            continue;
        waits++;
        CHECK_INT(collisions(p, n, wait), 0);
        CHECK_INT(readers_between(p, n, wait), 0);
        CHECK_INT(g->nodes[wait].stage, g->nodes[n].stage);
    }
    if (waits < m->least)
        FAIL("%d waits with %s, expected %d or more", waits, m->overrides[0], m->least);
}

/* The collectives of a rank in their order, as far as all ranks of a stage have the same. */
static char *starts(const tr_program *p)
{
    tr_text text = {0};
    for (tr_node n = 1; n < p->graph->n_nodes; n++)
        if (is(p->graph, n, TR_OP_COLLECTIVE))
            tr_text_format(&text, "%s %d %d %lld\n", tr_op_name(p->graph->nodes[n].op), (int)p->graph->nodes[n].phase,
                           p->graph->nodes[n].layer, (long long)p->graph->nodes[n].attrs[TR_COLLECTIVE_AXIS].i);
    return text.bytes;
}

static void test_plans(void)
{
    for (int i = 0; i < TR_COUNT(meshes); i++) {
        const mesh *m = &meshes[i];
        int count = 0;
        char *first[8] = {0}; /* by stage of the pipeline */
        while (count < 6 && m->overrides[count])
            count++;
        for (int64_t rank = 0; rank < m->ranks; rank++) {
            tr_config *config;
            tr_program *p = plan(m->overrides, count, rank, &config);
            if (!p)
                return;
            check_rank(m, p);
            int64_t stage = rank / (m->ranks / config->mesh.pipeline);
            char *mine = starts(p);
            if (first[stage])
                CHECK_STRING(mine, first[stage]);
            else
                first[stage] = tr_strdup(mine);
            free(mine);
            tr_program_free(p);
            tr_config_free(config);
        }
        for (int s = 0; s < 8; s++)
            free(first[s]);
    }
}

static int all_collisions(const tr_program *p)
{
    int count = 0;
    for (tr_node n = 1; n < p->graph->n_nodes; n++)
        if (is(p->graph, n, TR_OP_COLLECTIVE) && wait_of(p->graph, n))
            count += collisions(p, n, wait_of(p->graph, n));
    return count;
}

/* Waits that do not hold what their collective reads: something else is put there, and the check sees it. */
static void test_wait_holds_input(void)
{
    const char *const overrides[] = {"mesh.data=2", "zero=2", "mesh.bucket_mb=64"};
    tr_config *config;
    tr_program *p = plan(overrides, TR_COUNT(overrides), 0, &config);
    CHECK_INT(all_collisions(p), 0);
    int64_t peak = p->memory.arena_bytes;
    for (tr_node n = 1; n < p->graph->n_nodes; n++)
        if (is(p->graph, n, TR_OP_WAIT))
            p->graph->nodes[n].n_in = 1;
    tr_memory_free(&p->memory);
    CHECK_OK(tr_pass_memory(p->graph, p->scratch_bytes, p->micro_batches, NULL, &p->memory));
    CHECK(all_collisions(p) > 0);
    CHECK(p->memory.arena_bytes <= peak);
    tr_program_free(p);
    tr_config_free(config);
}

/* A wait before its collective's start, or behind a reader, is no graph. */
static void test_verifier_sees_order(void)
{
    const char *const overrides[] = {"mesh.data=2", "zero=3"};
    tr_config *config;
    tr_program *p = plan(overrides, TR_COUNT(overrides), 0, &config);
    tr_graph *g = p->graph;
    for (tr_node n = 1; n + 1 < g->n_nodes; n++)
        if (is(g, n, TR_OP_WAIT) && tr_value_root(g, tr_in(g, n + 1, 0)) == tr_value_root(g, tr_out(g, n, 0))) {
            tr_node *order = tr_alloc(g->n_nodes * sizeof *order);
            for (tr_node m = 1; m < g->n_nodes; m++)
                order[m - 1] = m == n ? n + 1 : m == n + 1 ? n : m;
            tr_graph_reorder(g, order, g->n_nodes - 1);
            free(order);
            break;
        }
    CHECK_ERROR(tr_graph_verify(g), "is not made before it");
    tr_program_free(p);
    tr_config_free(config);
}

/* With several microbatches the sums of gradients start where the last of them makes these final, within its
 * backward; none of what a microbatch runs reads them; and the collective's input is not written after. */
static void test_sums_of_microbatches(void)
{
    static const struct {
        const char *overrides[4];
        int least, most; /* sums that start before the last node of a microbatch */
    } cases[] = {
        {{"mesh.data=2", "train.micro_batch=2"}, 10, 50},
        {{"mesh.data=2", "train.micro_batch=2", "zero=1"}, 30, 50},
        {{"mesh.data=2", "train.micro_batch=2", "mesh.overlap=false"}, 0, 0},
        {{"mesh.data=2", "train.micro_batch=2", "mesh.pipeline=3"}, 0, 0},
    };
    for (int i = 0; i < TR_COUNT(cases); i++) {
        int count = 0, early = 0;
        tr_config *config;
        while (count < 4 && cases[i].overrides[count])
            count++;
        tr_program *p = plan(cases[i].overrides, count, 0, &config);
        const tr_graph *g = p->graph;
        tr_node last = 0;
        for (tr_node n = 1; n < g->n_nodes; n++)
            last = g->nodes[n].phase == TR_BACKWARD || g->nodes[n].phase == TR_WEIGHT ? n : last;
        for (tr_node n = 1; n < last; n++) {
            if (g->nodes[n].phase != TR_UPDATE)
                continue;
            early += is(g, n, TR_OP_COLLECTIVE);
            for (tr_node m = n + 1; m < g->n_nodes; m++)
                for (uint32_t k = 0; k < g->nodes[m].n_out && g->nodes[m].phase != TR_UPDATE; k++)
                    CHECK(tr_value_root(g, tr_out(g, m, (int)k)) != tr_value_root(g, tr_in(g, n, 0)));
        }
        if (early < cases[i].least || early > cases[i].most)
            FAIL("%d sums start early in case %d, expected %d to %d", early, i, cases[i].least, cases[i].most);
        tr_program_free(p);
        tr_config_free(config);
    }
}

static void test_off(void)
{
    const char *const overrides[] = {"mesh.data=2", "zero=3", "mesh.overlap=false", "mesh.bucket_mb=0"};
    tr_config *config;
    tr_program *p = plan(overrides, TR_COUNT(overrides), 0, &config);
    for (tr_node n = 1; n < p->graph->n_nodes; n++)
        CHECK(!is(p->graph, n, TR_OP_WAIT) && p->graph->nodes[n].op != TR_OP_pack);
    tr_program_free(p);
    tr_config_free(config);
}

int main(void)
{
    TEST(test_plans);
    TEST(test_wait_holds_input);
    TEST(test_verifier_sees_order);
    TEST(test_sums_of_microbatches);
    TEST(test_off);
    return check_report();
}
