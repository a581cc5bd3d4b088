/* A small GPT-2 against Hugging Face's: logits, loss, every gradient, 20 steps of AdamW. The golden files
 * come from tools/golden_gpt2.py. Every variant (reference kernels, each instruction set, recompute,
 * microbatches) must give the same numbers.
 */
#include "check.h"

#include "base/cpu.h"
#include "base/json.h"
#include "data/safetensors.h"
#include "exec/compile.h"
#include "models/huggingface.h"
#include "models/family.h"
#include "npy.h"
#include "data/weights.h"

#define GOLDEN "tests/golden/gpt2"
enum { B = 2, T = 17 };

static tr_sizes sizes;
static const tr_family *family;
static tr_safetensors *weights;

static tr_target target(bool reference, tr_isa isa)
{
    return (tr_target){.isa = isa, .threads = 2, .reference = reference};
}

/* [[..], [..]] into ids[B][T]; returns the array so that the caller frees it. */
static void read_ids(const json_t *rows, int32_t *ids)
{
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            ids[b * T + t] = (int32_t)json_integer_value(json_array_get(json_array_get(rows, (size_t)b), (size_t)t));
}

static void fill(tr_program *p, const int32_t *ids, int first, int rows)
{
    int32_t *in = tr_program_find(p, "ids"), *positions = tr_program_find(p, "positions");
    tr_value targets = tr_graph_find(p->graph, "targets");
    for (int b = 0; b < rows; b++)
        for (int t = 0; t < T; t++) {
            in[b * T + t] = ids[(first + b) * T + t];
            positions[b * T + t] = t;
            if (targets)
                ((int32_t *)tr_program_data(p, targets))[b * T + t] = t + 1 < T ? ids[(first + b) * T + t + 1] : -1;
        }
}

static double largest(const float *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Largest difference relative to the largest element. */
static double relative(const float *got, const float *want, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= most)) /* NaN counts */
            most = d;
    }
    return most / largest(want, n);
}

static void check_logits(tr_target where)
{
    json_t *rows = NULL;
    tr_map map = {0};
    const float *want = NULL;
    tr_program *p = NULL;
    int32_t ids[B * T];
    tr_compile how = {.target = where, .compute = TR_F32, .batch = B, .seq = T};
    CHECK_OK(tr_json_load(GOLDEN "/ids.json", &rows));
    read_ids(rows, ids);
    CHECK_OK(tr_compile_logits(tr_gpt, &sizes, NULL, &how, &p));
    CHECK_OK(tr_program_allocate(p));
    CHECK_OK(tr_weights_load(p, family, weights));
    fill(p, ids, 0, B);
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    CHECK_OK(tr_map_open(GOLDEN "/logits.npy", &map));
    CHECK_OK(npy_floats(&map, B * T * sizes.vocab, &want));
    if (want)
        CHECK_NEAR(relative(tr_program_find(p, "logits"), want, B * T * sizes.vocab), 0, 1e-4);
    tr_map_close(&map);
    tr_program_free(p);
    json_decref(rows);
}

typedef struct variant {
    tr_target target;
    tr_recompute recompute;
    int micro; /* microbatches */
} variant;

static tr_program *training(const variant *v, bool keep, double clip)
{
    tr_program *p = NULL;
    tr_compile how = {.target = v->target, .compute = TR_F32, .batch = B / v->micro, .seq = T,
                      .recompute = v->recompute, .keep_gradients = keep,
                      .update = {.optimizer = TR_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
                                 .weight_decay = 0.1, .clip = clip, .micro_batches = v->micro}};
    CHECK_OK(tr_compile_training(tr_gpt, &sizes, NULL, &how, &p));
    CHECK_OK(tr_program_allocate(p));
    CHECK_OK(tr_weights_load(p, family, weights));
    return p;
}

static double step(tr_program *p, const int32_t *ids, int number)
{
    *(float *)tr_program_find(p, "lr") = 1e-3f;
    *(int32_t *)tr_program_find(p, "step") = number;
    tr_program_run(p, TR_START, TR_START, (uint32_t)number, 0);
    int rows = (int)(B / p->micro_batches);
    for (int m = 0; m < p->micro_batches; m++) {
        fill(p, ids, m * rows, rows);
        tr_program_run(p, TR_FORWARD, TR_BACKWARD, (uint32_t)number, m);
    }
    tr_program_run(p, TR_UPDATE, TR_UPDATE, (uint32_t)number, 0);
    return *(float *)tr_program_find(p, "loss") / *(float *)tr_program_find(p, "count");
}

static void check_gradients(const variant *v)
{
    json_t *rows = NULL, *golden = NULL;
    tr_safetensors *grads = NULL;
    int32_t ids[B * T];
    double loss = 0;
    CHECK_OK(tr_json_load(GOLDEN "/ids.json", &rows));
    CHECK_OK(tr_json_load(GOLDEN "/loss.json", &golden));
    CHECK_OK(tr_safetensors_open(GOLDEN "/grads.safetensors", &grads));
    CHECK_OK(tr_json_real(golden, "loss.json", "mean", TR_REQUIRED, &loss));
    read_ids(rows, ids);
    tr_program *p = training(v, v->micro == 1, 0);
    CHECK_NEAR(step(p, ids, 1) / loss, 1, 1e-5);
    float count = *(float *)tr_program_find(p, "count");
    for (tr_value w = 1; w < p->graph->n_values; w++) {
        const tr_value_info *info = &p->graph->values[w];
        if (info->role != TR_PARAM)
            continue;
        const tr_stored *want = NULL;
        char name[256];
        snprintf(name, sizeof name, "%s%s", v->micro > 1 ? "grad." : "d.", info->name);
        CHECK_OK(tr_safetensors_need(grads, info->name, &want));
        float *got = tr_program_find(p, name);
        for (int64_t i = 0; i < want->elems; i++)
            got[i] /= count;
        double difference = relative(got, want->data, want->elems);
        if (!(difference <= 1e-4))
            FAIL("gradient of %s differs by %g", info->name, difference);
    }
    tr_program_free(p);
    tr_safetensors_close(grads);
    json_decref(rows);
    json_decref(golden);
}

static void check_adamw(const variant *v)
{
    json_t *batches = NULL, *golden = NULL;
    const json_t *losses = NULL;
    CHECK_OK(tr_json_load(GOLDEN "/adamw_ids.json", &batches));
    CHECK_OK(tr_json_load(GOLDEN "/adamw.json", &golden));
    CHECK_OK(tr_json_array(golden, "adamw.json", "losses", TR_REQUIRED, &losses));
    tr_program *p = training(v, false, 1.0);
    for (int s = 0; s < 20; s++) {
        int32_t ids[B * T];
        read_ids(json_array_get(batches, (size_t)s), ids);
        double want = json_real_value(json_array_get(losses, (size_t)s));
        CHECK_NEAR(step(p, ids, s + 1) / want, 1, 1e-4);
    }
    tr_program_free(p);
    json_decref(batches);
    json_decref(golden);
}

static void check_variant(variant v)
{
    check_gradients(&v);
    check_adamw(&v);
}

static void test_reference_kernels(void)
{
    check_logits(target(true, TR_ISA_PORTABLE));
    check_variant((variant){target(true, TR_ISA_PORTABLE), TR_RECOMPUTE_NONE, 1});
}

static void test_every_instruction_set(void)
{
    for (int isa = 0; isa <= (int)tr_cpu_isa_best(); isa++) {
        check_logits(target(false, (tr_isa)isa));
        check_variant((variant){target(false, (tr_isa)isa), TR_RECOMPUTE_NONE, 1});
        if (!check_ok)
            fprintf(stderr, "  with %s\n", tr_isa_name((tr_isa)isa));
    }
}

static void test_recompute(void)
{
    check_variant((variant){target(false, tr_cpu_isa_best()), TR_RECOMPUTE_CHEAP, 1});
    check_variant((variant){target(false, tr_cpu_isa_best()), TR_RECOMPUTE_FULL, 1});
}

static void test_microbatches(void)
{
    check_variant((variant){target(false, tr_cpu_isa_best()), TR_RECOMPUTE_NONE, 2});
    check_variant((variant){target(false, tr_cpu_isa_best()), TR_RECOMPUTE_FULL, 2});
}

/* Logits one token at a time through the cache equal those of the whole sequence. */
static void test_cache(void)
{
    json_t *rows = NULL;
    tr_map map = {0};
    const float *want = NULL;
    tr_program *p = NULL;
    int32_t ids[B * T];
    tr_compile how = {.target = target(false, tr_cpu_isa_best()), .compute = TR_F32, .batch = 1, .seq = 1};
    CHECK_OK(tr_json_load(GOLDEN "/ids.json", &rows));
    read_ids(rows, ids);
    CHECK_OK(tr_compile_generation(tr_gpt, &sizes, NULL, &how, sizes.context, &p));
    CHECK_OK(tr_program_allocate(p));
    CHECK_OK(tr_weights_load(p, family, weights));
    CHECK_OK(tr_map_open(GOLDEN "/logits.npy", &map));
    CHECK_OK(npy_floats(&map, B * T * sizes.vocab, &want));
    for (int t = 0; t < T && want; t++) {
        *(int32_t *)tr_program_find(p, "ids") = ids[t];
        *(int32_t *)tr_program_find(p, "positions") = t;
        *(int32_t *)tr_program_find(p, "start") = t;
        *(int32_t *)tr_program_find(p, "last") = 0;
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        CHECK_NEAR(relative(tr_program_find(p, "logits"), want + t * sizes.vocab, sizes.vocab), 0, 2e-4);
    }
    tr_map_close(&map);
    tr_program_free(p);
    json_decref(rows);
}

int main(void)
{
    tr_error *error = tr_hf_config_read(GOLDEN, &family, &sizes);
    if (!error)
        error = tr_safetensors_open(GOLDEN, &weights);
    if (error) {
        fprintf(stderr, "%s\n", tr_error_text(error));
        return 1;
    }
    TEST(test_reference_kernels);
    TEST(test_every_instruction_set);
    TEST(test_recompute);
    TEST(test_microbatches);
    TEST(test_cache);
    tr_safetensors_close(weights);
    return check_report();
}
