/* Parameters with a `*` in their name: one tensor in files for each index of the first dim, in both directions, in f32
 * and as a split master.
 */
#include "check.h"

#include "data/weights.h"
#include "exec/compile.h"
#include "train/parallel.h"

enum { EXPERTS = 3 };

static void model(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed, M = (int)s->mlp;
    tr_value words = tr_param(g, tr_normal(0.5), "words", "vocab=%d embed=%d", (int)s->vocab, D);
    tr_value w = tr_param(g, tr_normal(0.5), "experts.*.w", "expert=%d mlp=%d embed=%d", EXPERTS, M, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%d seq=%d", B, T));
    w = tr_reshape(g, w, "mlp=%d embed=%d", EXPERTS * M, D);
    x = tr_linear(g, tr_tanh(g, tr_linear_transposed(g, x, w, 0)), w, 0);
    tr_head_add(g, (tr_head){.hidden = x, .table = words});
}

static const tr_sizes sizes = {.vocab = 11, .embed = 6, .mlp = 4, .layers = 1, .heads = 1, .context = 8};

static tr_program *training(tr_dtype compute)
{
    tr_program *p = NULL;
    tr_compile how = {.target = {.threads = 1, .reference = true}, .compute = compute, .batch = 2, .seq = 4,
                      .update = {.optimizer = TR_SGD, .micro_batches = 1}};
    CHECK_OK(tr_compile_training(model, &sizes, NULL, &how, &p));
    CHECK_OK(tr_program_allocate(p));
    return p;
}

static void save(const tr_program *p, tr_role role, const char *path)
{
    int64_t count;
    tr_saved *saved = tr_weights_saved(p, role, &count);
    CHECK_OK(tr_safetensors_save(path, saved, count, NULL, NULL));
    tr_weights_saved_free(saved, count);
}

static void check_equal(const tr_program *a, const tr_program *b)
{
    for (tr_value v = 1; v < a->graph->n_values; v++)
        if (a->graph->values[v].role == TR_PARAM || a->graph->values[v].role == TR_STATE)
            CHECK(memcmp(tr_program_data(a, v), tr_program_data(b, v), (size_t)tr_shape_bytes(tr_shape_at(a->graph, v))) == 0);
}

static void round_trip(tr_dtype compute)
{
    char directory[] = "/tmp/trireme-stacked-XXXXXX";
    CHECK(mkdtemp(directory));
    char *model_path = tr_path_join(directory, "model.safetensors"), *state_path = tr_path_join(directory, "state.safetensors");
    tr_safetensors *stored = NULL, *state = NULL;
    tr_program *one = training(compute), *two = training(compute);
    tr_program_init(one, 7);
    tr_program_init(two, 8);
    save(one, TR_PARAM, model_path);
    save(one, TR_STATE, state_path);
    CHECK_OK(tr_safetensors_open(model_path, &stored));
    CHECK_OK(tr_safetensors_open(state_path, &state));
    CHECK_INT(tr_safetensors_count(stored), 1 + EXPERTS);
    const tr_stored *last = tr_safetensors_find(stored, "experts.2.w");
    CHECK(last && last->rank == 2 && last->dims[0] == 4 && last->dims[1] == 6);
    CHECK_OK(tr_weights_load_state(two, stored, state));
    check_equal(one, two);
    tr_program *three = training(TR_F32);
    CHECK_OK(tr_weights_load(three, NULL, stored));
    float got[EXPERTS * 24], want[EXPERTS * 24];
    tr_value w = tr_graph_find(three->graph, "experts.*.w");
    tr_program_get_f32(three, w, got);
    for (int e = 0; e < EXPERTS; e++) {
        char name[32];
        snprintf(name, sizeof name, "experts.%d.w", e);
        CHECK_OK(tr_stored_read(tr_safetensors_find(stored, name), 0, 24, TR_F32, want + 24 * e));
    }
    CHECK(memcmp(got, want, sizeof got) == 0);
    tr_program_free(one);
    tr_program_free(two);
    tr_program_free(three);
    tr_safetensors_close(stored);
    tr_safetensors_close(state);
    tr_error_free(tr_path_remove(directory));
    free(model_path);
    free(state_path);
}

static void test_f32(void)
{
    round_trip(TR_F32);
}

static void test_split_master(void)
{
    round_trip(TR_BF16);
}

/* One tensor is not there, or is of another size: the error says what the file has. */
static void test_missing(void)
{
    static const int64_t dims[] = {4, 6}, words[] = {11, 6};
    static float zeros[66];
    tr_saved saved[] = {{"words", TR_F32, 2, words, zeros}, {"experts.0.w", TR_F32, 2, dims, zeros},
                        {"experts.1.w", TR_F32, 2, dims, zeros}};
    char directory[] = "/tmp/trireme-stacked-XXXXXX";
    CHECK(mkdtemp(directory));
    char *path = tr_path_join(directory, "model.safetensors");
    tr_safetensors *stored = NULL;
    tr_program *p = training(TR_F32);
    CHECK_OK(tr_safetensors_save(path, saved, 3, NULL, NULL));
    CHECK_OK(tr_safetensors_open(path, &stored));
    CHECK_ERROR(tr_weights_load(p, NULL, stored), "'experts.*.w' has shape [2, 4, 6], expected [3, 4, 6]");
    tr_program_free(p);
    tr_safetensors_close(stored);
    tr_error_free(tr_path_remove(directory));
    free(path);
}

int main(void)
{
    TEST(test_f32);
    TEST(test_split_master);
    TEST(test_missing);
    return check_report();
}
