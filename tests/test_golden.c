/* A small random model of every family against its reference: logits, loss and every gradient, by the reference kernels
 * and by the best. The files come from tools/golden_models.py; a new directory is a new row here.
 */
#include "check.h"

#include "base/cpu.h"
#include "base/json.h"
#include "data/pretrained.h"
#include "data/weights.h"
#include "exec/compile.h"
#include "exec/loss.h"
#include "models/huggingface.h"
#include "npy.h"
#include "serve/given.h"

static const char *const cases[] = {
    "llama", "llama_linear", "llama_dynamic", "llama_llama3", "llama_yarn",
    "palm",
    "bert", "bert_classifier",
    "t5", "t5_v1_1", "transformer",
    "gshard", "mixtral", "switch",
    "vit", "swin",
};

typedef struct golden {
    char path[64];
    const tr_family *family;
    tr_sizes sizes;
    tr_safetensors *weights, *grads;
    tr_given *given;
    tr_compile how;
} golden;

static char *file_in(const golden *c, const char *name)
{
    return tr_path_join(c->path, name);
}

static double largest(const float *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Largest difference; infinite with a NaN. */
static double difference(const float *got, const float *want, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        most = d <= most ? most : isnan(d) ? INFINITY : d;
    }
    return most;
}

static tr_program *ready(const golden *c, tr_error *error, tr_program *p)
{
    CHECK_OK(error);
    if (!p)
        return NULL;
    CHECK_OK(tr_program_allocate(p));
    CHECK_OK(tr_weights_load(p, c->family, c->weights));
    CHECK_OK(tr_given_fill(c->given, p));
    return p;
}

static void check_logits(const golden *c)
{
    char *path = file_in(c, "logits.npy");
    tr_map map = {0};
    const float *want = NULL;
    tr_program *p = NULL;
    tr_error *error = tr_compile_logits(c->family->model, &c->sizes, NULL, &c->how, &p);
    p = ready(c, error, p);
    if (p) {
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        int64_t n = tr_shape_elems(tr_shape_at(p->graph, tr_graph_find(p->graph, "logits")));
        CHECK_OK(tr_map_open(path, &map));
        CHECK_OK(npy_floats(&map, n, &want));
        if (want)
            CHECK_NEAR(difference(tr_program_find(p, "logits"), want, n) / largest(want, n), 0, 1e-4);
        tr_map_close(&map);
    }
    tr_program_free(p);
    free(path);
}

/* What data/batch.h computes for a step, here for one batch. */
static void fill_factors(tr_program *p)
{
    double first = 0;
    for (int k = 0; k < p->n_losses; k++) {
        const tr_loss_part *part = &p->losses[k];
        tr_value v = part->targets ? tr_graph_find(p->graph, part->targets) : 0;
        double count = 0;
        for (int64_t i = 0; v && i < tr_shape_elems(tr_shape_at(p->graph, v)); i++)
            count += ((int32_t *)tr_program_data(p, v))[i] >= 0;
        if (!v)
            count = (double)tr_shape_at(p->graph, tr_graph_find(p->graph, p->losses[0].targets))->dims[0];
        first = k ? first : count;
        char *name = tr_format("factor.%s", part->name);
        if (k)
            *(float *)tr_program_find(p, name) = (float)(part->weight * first / count);
        free(name);
    }
}

/* Gradients that are zero but for rounding are compared with the largest of all. */
static int check_gradient(const golden *c, const char *name, float *got, int64_t n, float count, double most)
{
    const tr_stored *want = NULL;
    CHECK_OK(tr_safetensors_need(c->grads, name, &want));
    if (!want)
        return 0;
    CHECK_INT(want->elems, n);
    for (int64_t k = 0; k < n; k++)
        got[k] /= count;
    if (!(difference(got, want->data, n) <= 1e-4 * fmax(largest(want->data, n), 1e-3 * most)))
        FAIL("gradient of %s differs by %g of %g", name, difference(got, want->data, n), largest(want->data, n));
    return 1;
}

static void check_gradients(const golden *c)
{
    char *path = file_in(c, "loss.json");
    json_t *json = NULL;
    double loss = 0, most = 0;
    tr_program *p = NULL;
    tr_compile how = c->how;
    how.keep_gradients = true;
    how.update = (tr_update){.optimizer = TR_SGD, .micro_batches = 1};
    CHECK_OK(tr_json_load(path, &json));
    CHECK_OK(tr_json_real(json, path, "loss", TR_REQUIRED, &loss));
    tr_error *error = tr_compile_training(c->family->model, &c->sizes, NULL, &how, &p);
    p = ready(c, error, p);
    free(path);
    json_decref(json);
    if (!p)
        return;
    fill_factors(p);
    tr_program_run(p, TR_START, TR_WEIGHT, 1, 0);
    float count = *(float *)tr_program_find(p, "count");
    CHECK_NEAR(*(float *)tr_program_find(p, "loss") / count / loss, 1, 1e-5);
    for (int64_t i = 0; i < tr_safetensors_count(c->grads); i++)
        most = fmax(most, largest(tr_safetensors_at(c->grads, i)->data, tr_safetensors_at(c->grads, i)->elems));
    int64_t compared = 0;
    for (tr_value w = 1; w < p->graph->n_values; w++) {
        const tr_value_info *info = &p->graph->values[w];
        if (info->role != TR_PARAM)
            continue;
        char *name = tr_format("d.%s", info->name);
        float *got = tr_program_find(p, name);
        /* What files have in parts, one for each index of the first dim. */
        char *star = strchr(name, '*');
        int64_t parts = star ? info->shape.dims[0] : 1, each = tr_shape_elems(&info->shape) / parts;
        for (int64_t part = 0; got && part < parts; part++, got += each) {
            char *one = star ? tr_format("%.*s%lld%s", (int)(star - name), name, (long long)part, star + 1) : tr_strdup(name);
            compared += check_gradient(c, one + 2, got, each, count, most);
            free(one);
        }
        free(name);
    }
    CHECK_INT(compared, tr_safetensors_count(c->grads));
    tr_program_free(p);
}

/* config.json and back: the same sizes. */
static void check_config(const golden *c)
{
    const tr_family *family = NULL;
    tr_sizes again;
    json_t *json = NULL;
    char *text = tr_hf_config_text(c->family, &c->sizes, TR_F32, 0, NULL);
    CHECK_OK(tr_json_parse(text, (int64_t)strlen(text), "written", &json));
    CHECK_OK(tr_hf_config_parse(json, "written", &family, &again));
    CHECK(family == c->family);
    char *twice = tr_hf_config_text(family, &again, TR_F32, 0, NULL);
    CHECK_STRING(twice, text);
    free(twice);
    free(text);
    json_decref(json);
}

static void check_case(const char *name)
{
    golden c = {0};
    snprintf(c.path, sizeof c.path, "tests/golden/%s", name);
    char *inputs = file_in(&c, "inputs.json"), *grads = file_in(&c, "grads.safetensors"),
         *weights = file_in(&c, "model.safetensors");
    CHECK_OK(tr_pretrained_read(c.path, &c.family, &c.sizes));
    CHECK_OK(tr_safetensors_open(weights, &c.weights));
    CHECK_OK(tr_safetensors_open(grads, &c.grads));
    CHECK_OK(tr_given_read(inputs, &c.given));
    for (int fast = 0; fast < 2 && c.given && c.family; fast++) {
        c.how = (tr_compile){.target = {.isa = fast ? tr_cpu_isa_best() : TR_ISA_PORTABLE, .threads = 2, .reference = !fast},
                             .compute = TR_F32, .batch = tr_given_batch(c.given), .seq = tr_given_seq(c.given),
                             .decoder_seq = tr_given_decoder_seq(c.given)};
        c.sizes.dropout = c.sizes.drop_path = 0;
        check_logits(&c);
        check_gradients(&c);
    }
    if (c.family)
        check_config(&c);
    if (!check_ok)
        fprintf(stderr, "  in %s\n", c.path);
    tr_given_free(c.given);
    tr_safetensors_close(c.grads);
    tr_safetensors_close(c.weights);
    free(weights);
    free(grads);
    free(inputs);
}

static const char *current;
static void test_golden(void)
{
    check_case(current);
}

int main(int argc, char **argv)
{
    for (int i = 0; i < TR_COUNT(cases); i++) {
        current = cases[i];
        if (argc < 2 || strcmp(argv[1], current) == 0)
            TEST(test_golden);
    }
    return check_report();
}
