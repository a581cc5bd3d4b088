/* Passes stages, weight and cut: on every place of a pipeline, what it has and what it exchanges. */
#include "check.h"

#include "exec/compile.h"
#include "ir/table.h"
#include "models/family.h"

enum { PLACES = 3, AXIS = 6 };
static const tr_sizes sizes = {
    .vocab = 37, .context = 16, .layers = 5, .embed = 16, .heads = 2, .mlp = 32, .dropout = 0.2};

typedef struct pipeline {
    tr_schedule *schedule;
    tr_schedule_report report;
    tr_program *at[PLACES];
} pipeline;

static tr_error *compile(const pipeline *p, int place, const tr_sizes *of, tr_program **out)
{
    tr_sharding none = {.n_axes = 0};
    tr_stages stages = {.schedule = p->schedule, .live = p->report.stage_live_peak, .place = place, .axis = AXIS};
    tr_compile how = {.target = {.threads = 1, .reference = true}, .compute = TR_F32, .batch = 2, .seq = 8,
                      .update = {.optimizer = TR_ADAMW, .eps = 1e-8, .clip = 1, .micro_batches = 4},
                      .recompute = TR_RECOMPUTE_CHEAP, .sharding = &none, .stages = &stages};
    return tr_compile_training(tr_gpt, of, NULL, &how, out);
}

static pipeline make(tr_pipeline_kind kind, int chunks)
{
    pipeline p = {0};
    CHECK_OK(tr_schedule_new(kind, PLACES, chunks, 4, &p.schedule));
    CHECK_OK(tr_schedule_check(p.schedule, NULL, &p.report));
    for (int place = 0; place < PLACES; place++)
        CHECK_OK(compile(&p, place, &sizes, &p.at[place]));
    return p;
}

static void destroy(pipeline *p)
{
    for (int place = 0; place < PLACES; place++)
        tr_program_free(p->at[place]);
    tr_schedule_report_free(&p->report);
    tr_schedule_free(p->schedule);
}

static int count(const tr_graph *g, tr_op op, int phase)
{
    int n = 0;
    for (tr_node i = 1; i < g->n_nodes; i++)
        n += g->nodes[i].op == op && (phase < 0 || (int)g->nodes[i].phase == phase);
    return n;
}

static void test_parameters_are_shared_out(void)
{
    pipeline p = make(TR_PIPELINE_1F1B, 1);
    const tr_graph *whole = p.at[0]->whole;
    for (tr_value v = 1; v < whole->n_values; v++) {
        const char *name = whole->values[v].name;
        int has = 0, owns = 0, updates = 0;
        if (whole->values[v].role != TR_PARAM)
            continue;
        for (int place = 0; place < PLACES; place++) {
            const tr_graph *g = p.at[place]->graph;
            tr_value mine = tr_graph_find(g, name);
            has += mine != 0;
            owns += mine && !g->values[mine].layout->owner;
            for (tr_node n = 1; n < g->n_nodes; n++)
                updates += mine && g->nodes[n].op == TR_OP_adamw && tr_in(g, n, 0) == mine;
        }
        CHECK_INT(has, strcmp(name, "transformer.wte.weight") == 0 ? 2 : 1); /* tied: first and last stage */
        CHECK_INT(owns, 1);
        CHECK_INT(updates, has);
    }
    destroy(&p);
}

/* What a stage sends is what its neighbour receives: as many messages, of the same shapes. */
static void check_messages(const pipeline *p, int sender, int receiver, char direction)
{
    const tr_graph *from = p->at[p->schedule->rank_of_stage[sender]]->graph,
                   *to = p->at[p->schedule->rank_of_stage[receiver]]->graph;
    tr_value *out, *in;
    int sent = tr_pipeline_messages(from, true, direction, sender, &out);
    CHECK_INT(tr_pipeline_messages(to, false, direction, receiver, &in), sent);
    CHECK_INT(sent, 1); /* the residual stream, or its gradient */
    for (int k = 0; k < sent; k++) {
        CHECK_INT(tr_shape_elems(tr_shape_at(from, out[k])), 2 * 8 * sizes.embed);
        CHECK_INT(tr_shape_bytes(tr_shape_at(from, out[k])), tr_shape_bytes(tr_shape_at(to, in[k])));
        CHECK_INT(to->values[in[k]].role, TR_MESSAGE);
    }
    free(out);
    free(in);
}

static void test_messages_match(void)
{
    static const tr_pipeline_kind kinds[] = {TR_PIPELINE_GPIPE, TR_PIPELINE_1F1B, TR_PIPELINE_ZERO_BUBBLE};
    for (int k = 0; k < 3; k++) {
        pipeline p = make(kinds[k], 1);
        for (int s = 0; s + 1 < p.schedule->stages; s++) {
            check_messages(&p, s, s + 1, 'F');
            check_messages(&p, s + 1, s, 'B');
        }
        destroy(&p);
    }
}

static void test_whole_step_is_there(void)
{
    pipeline p = make(TR_PIPELINE_ZERO_BUBBLE, 1);
    static const tr_op once[] = {TR_OP_attention, TR_OP_attention_grad, TR_OP_linear_dx, TR_OP_linear_dw};
    static const int in_layer[] = {1, 1, 4, 4};
    for (int k = 0; k < TR_COUNT(once); k++) {
        int n = 0;
        for (int place = 0; place < PLACES; place++)
            n += count(p.at[place]->graph, once[k], -1);
        CHECK_INT(n, in_layer[k] * sizes.layers);
    }
    for (int place = 0; place < PLACES; place++) {
        const tr_graph *g = p.at[place]->graph;
        CHECK_INT(count(g, TR_OP_linear_dw, TR_BACKWARD), 0);
        CHECK_INT(count(g, TR_OP_linear_dx, TR_WEIGHT), 0);
        CHECK_OK(tr_graph_verify(g));
        CHECK_OK(tr_memory_verify(g, &p.at[place]->memory, p.at[place]->scratch_bytes, 4));
        for (tr_node n = 1; n < g->n_nodes; n++) /* nobody waits for W */
            for (uint32_t i = 0; i < g->nodes[n].n_in; i++) {
                tr_node from = g->values[tr_in(g, n, (int)i)].node;
                CHECK(!from || g->nodes[from].phase != TR_WEIGHT || g->nodes[n].phase >= TR_WEIGHT);
            }
    }
    destroy(&p);
}

static void test_slots(void)
{
    pipeline p = make(TR_PIPELINE_1F1B, 1);
    for (int place = 0; place < PLACES; place++) {
        const tr_memory *m = &p.at[place]->memory;
        int64_t slots = 0;
        for (int s = 0; s < PLACES; s++) {
            CHECK_INT(m->slot_count[s], s == place ? PLACES - place : 0);
            slots += m->slot_count[s] * m->slot_bytes[s];
        }
        CHECK(slots > 0 && slots < m->arena_bytes);
    }
    destroy(&p);
}

static void test_refused(void)
{
    pipeline p = {0};
    tr_sizes shallow = sizes;
    tr_program *program = NULL;
    shallow.layers = 2;
    CHECK_OK(tr_schedule_new(TR_PIPELINE_1F1B, PLACES, 1, 4, &p.schedule));
    CHECK_OK(tr_schedule_check(p.schedule, NULL, &p.report));
    CHECK_ERROR(compile(&p, 0, &shallow, &program), "3 stages and the model has 2 layers");
    destroy(&p);
}

int main(void)
{
    TEST(test_parameters_are_shared_out);
    TEST(test_messages_match);
    TEST(test_whole_step_is_there);
    TEST(test_slots);
    TEST(test_refused);
    return check_report();
}
