/* A model with two heads and a loss beside them: the step's loss is the sum of each one's mean, whatever the microbatches
 * and the ranks (exec/loss.h), and training on it agrees.
 */
#include "check.h"

#include "data/batch.h"
#include "exec/compile.h"
#include "exec/loss.h"
#include "train/parallel.h"

enum { ROWS = 8, SEQ = 6, STEPS = 3, CLASSES = 3 };
static const tr_sizes sizes = {.vocab = 13, .embed = 8, .layers = 1, .heads = 2, .mlp = 8, .context = SEQ};

static void model(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed;
    tr_value words = tr_param(g, tr_normal(0.5), "words", "vocab=%d embed=%d", (int)s->vocab, D);
    tr_value w = tr_param(g, tr_normal(0.5), "w", "embed=%d mlp=%d", D, D);
    tr_value classes = tr_param(g, tr_normal(0.5), "classes", "class=%d embed=%d", CLASSES, D);
    tr_value bias = tr_param(g, tr_normal(0.5), "bias", "class=%d", CLASSES);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%d seq=%d", B, T));
    x = tr_tanh(g, tr_linear(g, x, w, 0));
    x = tr_reshape(g, x, "batch=%d seq=%d embed=%d", B, T, D);
    tr_head_add(g, (tr_head){.hidden = x, .table = words});
    tr_value pooled = tr_mean(g, x, 1); /* [B, D] */
    tr_head_add(g, (tr_head){.hidden = pooled, .table = classes, .bias = bias, .name = "next", .targets = "labels", .weight = 0.5});
    tr_value squares = tr_sum(g, tr_mul(g, pooled, pooled), 1); /* [B] */
    tr_loss_add(g, "size", tr_sum(g, tr_reshape(g, squares, "batch=%d one=1", B), 0), 0.25);
}

/* Samples whose heads have different numbers of right choices. */
static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    (void)own, (void)validation;
    for (int k = 0; k < count; k++)
        for (int64_t i = 0; i < fields[k].elems; i++) {
            int64_t number = index * 31 + i * 7 + index * i;
            bool targets = strcmp(fields[k].name, "targets") == 0, labels = strcmp(fields[k].name, "labels") == 0;
            fields[k].ints[i] = (int32_t)(labels ? (index % 3 ? index % CLASSES : -1)
                                          : targets && (number % 5 == 0 || index % 4 == 1) ? -1 : number % 13);
        }
    return NULL;
}

static const tr_objective_row row = {.name = "made", .inputs = "ids targets labels", .sample = sample};

typedef struct run {
    int64_t micro_batches;
    int data; /* ranks */
    double losses[STEPS];
} run;

static tr_error *train(tr_comm *comm, void *user)
{
    run *r = user;
    tr_error *error = NULL;
    tr_program *p = NULL;
    tr_ranks ranks = {0};
    tr_objective objective = {&row, NULL};
    int rank = comm ? tr_comm_rank(comm) : 0;
    tr_mesh mesh = tr_mesh_one();
    static const tr_mesh_axis axes[] = {TR_MESH_DATA};
    tr_sharding sharding = {.n_axes = 1, .axes = {{.name = "data", .size = r->data, .index = rank}},
                            .leaves = {{"batch", 0}}, .n_leaves = 1};
    tr_compile how = {.target = {.threads = 1, .reference = true}, .compute = TR_F32, .batch = ROWS / r->micro_batches,
                      .seq = SEQ, .sharding = comm ? &sharding : NULL,
                      .update = {.optimizer = TR_SGD, .micro_batches = r->micro_batches, .clip = 1}};
    mesh.size[TR_MESH_DATA] = r->data;
    if (comm)
        tr_ranks_join(&ranks, comm, &mesh, axes, 1);
    TR_GO(tr_compile_training(model, &sizes, NULL, &how, &p));
    TR_GO(tr_batch_check(p->graph, &row));
    p->ranks = comm ? &ranks : NULL;
    TR_GO(tr_program_allocate(p));
    tr_program_init(p, 3);
    for (int s = 0; s < STEPS; s++) {
        tr_batch batch = {.objective = &objective, .program = p, .rows = how.batch, .first = s * ROWS, .end = INT64_MAX};
        *(float *)tr_program_find(p, "lr") = 0.1f;
        TR_GO(tr_batch_factors(&batch, r->micro_batches, p->ranks));
        tr_program_run(p, TR_START, TR_START, (uint32_t)s, 0);
        for (int64_t m = 0; m < r->micro_batches; m++) {
            TR_GO(tr_batch_fill(&batch, m));
            tr_program_run(p, r->micro_batches > 1 ? TR_FORWARD : TR_START, TR_WEIGHT, (uint32_t)s, m);
        }
        tr_program_run(p, TR_UPDATE, TR_UPDATE, (uint32_t)s, 0);
        TR_GO(tr_program_error_take(p));
        if (rank == 0)
            r->losses[s] = *(float *)tr_program_find(p, "loss") / *(float *)tr_program_find(p, "count");
        tr_batch_free(&batch);
    }
done:
    tr_program_free(p);
    if (comm)
        tr_ranks_leave(&ranks);
    return error;
}

static void check_same(const run *r, const run *base)
{
    for (int s = 0; s < STEPS; s++)
        CHECK_NEAR(r->losses[s] / base->losses[s], 1, 2e-6);
}

static void test_layouts(void)
{
    run base = {1, 1, {0}};
    CHECK_OK(train(NULL, &base));
    for (int64_t micro = 2; micro <= 8; micro *= 2) {
        run r = {micro, 1, {0}};
        CHECK_OK(train(NULL, &r));
        check_same(&r, &base);
    }
    for (int data = 2; data <= 4; data++)
        for (int64_t micro = 1; micro <= 2; micro++) {
            run r = {micro, data, {0}};
            CHECK_OK(tr_world_run_threads(data, NULL, train, &r));
            check_same(&r, &base);
        }
}

/* The sum of means, from an evaluation's sums and counts. */
static void test_sum_of_means(void)
{
    run base = {1, 1, {0}};
    tr_objective objective = {&row, NULL};
    tr_program *p = NULL;
    tr_compile how = {.target = {.threads = 1, .reference = true}, .compute = TR_F32, .batch = ROWS, .seq = SEQ};
    CHECK_OK(train(NULL, &base));
    CHECK_OK(tr_compile_evaluation(model, &sizes, NULL, &how, &p));
    if (!p)
        return;
    CHECK_OK(tr_program_allocate(p));
    tr_program_init(p, 3);
    tr_batch batch = {.objective = &objective, .program = p, .rows = ROWS, .end = INT64_MAX};
    CHECK_OK(tr_batch_fill(&batch, 0));
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    double first = *(float *)tr_program_find(p, "loss") / *(float *)tr_program_find(p, "count"),
           second = *(float *)tr_program_find(p, "loss.next") / *(float *)tr_program_find(p, "count.next");
    CHECK_INT(*(float *)tr_program_find(p, "count.next"), 5); /* rows 0, 3 and 6 have no label */
    CHECK(base.losses[0] > first + 0.5 * second && base.losses[0] < first + 0.5 * second + 0.25 * 8);
    tr_program_free(p);
}

int main(void)
{
    TEST(test_layouts);
    TEST(test_sum_of_means);
    return check_report();
}
