/* `trireme bench`: what this machine reaches. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/suggest.h"
#include "cli/options.h"
#include "plan/machine.h"
#include "serve/generator.h"
#include "train/parallel.h"
#include "train/trainer.h"

#define READ_BYTES (INT64_C(1) << 29) /* more than caches hold */

typedef struct bench_options {
    const char *what; /* "gemm", "train", "generate" */
    char *const *overrides;
    int override_count;
    const char *isa;
    int64_t steps, prompt_tokens, tokens;
    bool json, profile;
} bench_options;

/* One JSON object, or its members a line each. Consumes the object. */
static void print_take(json_t *object, bool json)
{
    const char *key;
    json_t *value;
    if (json) {
        json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        json_object_foreach(object, key, value) {
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            printf("%-22s %s\n", key, text);
            free(text);
        }
    }
    json_decref(object);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Do the operands say which model? A file always does. */
static bool names_model(const bench_options *options)
{
    static const char *const keys[] = {"model.family=", "model.preset=", "model.from="};
    bool named = options->override_count && !strchr(options->overrides[0], '=');
    for (int o = 0; o < options->override_count; o++)
        for (int64_t k = 0; k < TR_COUNT(keys); k++)
            named |= strncmp(options->overrides[o], keys[k], strlen(keys[k])) == 0;
    return named;
}

/* GPT-2 124M, 4 x 512 tokens, is what is measured when no model is named. */
static tr_error *bench_config(const bench_options *options, tr_config **out)
{
    static char *const usual[] = {"model.preset=gpt2", "train.batch=4", "train.seq=512"};
    enum { USUAL = sizeof usual / sizeof *usual };
    bool named = names_model(options);
    char **all = tr_alloc_zero((size_t)(USUAL + options->override_count + 2), sizeof *all);
    char *isa = options->isa ? tr_format("isa=%s", options->isa) : NULL;
    int count = 0;
    for (int d = 0; d < USUAL && !named; d++)
        all[count++] = usual[d];
    for (int o = 0; o < options->override_count; o++)
        all[count++] = options->overrides[o];
    all[count++] = "out=bench";
    if (isa)
        all[count++] = isa;
    tr_error *error = tr_cli_config(all, count, out);
    free(all);
    free(isa);
    if (error || tr_config_ranks(*out) == 1)
        return error;
    error = tr_error_new(TR_USER, "bench measures one rank, and the mesh has %lld; leave mesh.* at 1, or see a run's "
                                  "metrics.jsonl for the speed of several",
                         (long long)tr_config_ranks(*out));
    tr_config_free(*out);
    *out = NULL;
    return error;
}

static tr_sizes bench_sizes(const tr_config *config)
{
    tr_sizes sizes = tr_config_sizes(config);
    if (sizes.vocab == 0)
        sizes.vocab = 50257;
    return sizes;
}

static tr_error *bench_train(const bench_options *options)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    tr_program *p = NULL;
    tr_model model;
    json_t *list = json_array();
    double *times = tr_alloc_zero((size_t)options->steps, sizeof *times);
    TR_GO(bench_config(options, &config));
    TR_GO(tr_config_model(config, &model));
    tr_sizes sizes = bench_sizes(config);
    TR_GO(tr_trainer_plan(config, 0, &sizes, model, NULL, NULL, NULL, NULL, &p));
    TR_GO(tr_program_allocate(p));
    tr_program_init(p, 1);
    int64_t tokens = config->train.batch * config->train.seq, parameters = tr_graph_parameters(p->graph);
    *(float *)tr_program_find(p, "lr") = (float)config->optimizer.lr;
    if (tr_graph_find(p->graph, "loss_scale"))
        *(float *)tr_program_find(p, "loss_scale") = 1;
    double peak = tr_machine_peak_flops(p->target.isa, config->train.precision, p->target.threads, 0.3);
    for (int64_t s = -1; s < options->steps; s++) { /* the first is a warm-up */
        double from = tr_seconds();
        *(int32_t *)tr_program_find(p, "step") = (int32_t)s + 2;
        tr_program_run(p, TR_START, TR_START, 1, 0);
        for (int64_t m = 0; m < p->micro_batches; m++) {
            tr_batch_fill_random(p, (uint64_t)(s + 2), tr_objectives[config->data.objective]);
            tr_program_run(p, TR_FORWARD, TR_BACKWARD, (uint32_t)s + 2, m);
        }
        tr_program_run(p, TR_UPDATE, TR_UPDATE, (uint32_t)s + 2, 0);
        if (s >= 0) {
            times[s] = tr_seconds() - from;
            json_array_append_new(list, json_real(times[s]));
        }
        p->profile = options->profile;
    }
    /* Before and after, as somebody else may be at work during either. */
    peak = TR_MAX(peak, tr_machine_peak_flops(p->target.isa, config->train.precision, p->target.threads, 0.3));
    double step_s = median(times, options->steps), per_s = (double)tokens / step_s;
    double flops = tr_flops_per_token(&sizes, parameters, config->train.seq) * per_s;
    print_take(json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:s, s:o}", "tokens_per_s", per_s, "samples_per_s",
                         (double)config->train.batch / step_s, "median_step_s", step_s,
                         "gflops", flops / 1e9, "peak_gflops", peak / 1e9, "share_of_peak", flops / peak, "parameters",
                         (json_int_t)parameters, "peak_bytes", (json_int_t)tr_process_peak_bytes(), "planned_peak_bytes",
                         (json_int_t)tr_program_peak_bytes(p), "isa", tr_isa_name(p->target.isa), "step_s", list),
               options->json);
    list = NULL;
    if (options->profile) {
        char *text = tr_program_profile_text(p, peak);
        fputs(text, stderr);
        free(text);
    }
done:
    json_decref(list);
    free(times);
    tr_program_free(p);
    tr_config_free(config);
    return error;
}

/* Decodes tokens in slices, each followed by one pass of the read loop: *out_share is the median of what a slice
 * reads to what the loop does. */
enum { SLICE_TOKENS = 16 };
static tr_error *decode(tr_generator *g, int64_t tokens, tr_reader *reader, double *out_s, double *out_bytes,
                        double *out_bandwidth, double *out_share)
{
    int64_t slices = (tokens + SLICE_TOKENS - 1) / SLICE_TOKENS;
    double *share = tr_alloc_zero((size_t)slices * 2, sizeof *share), *bandwidth = share + slices;
    tr_error *error = NULL;
    float *logits;
    *out_s = *out_bytes = 0;
    for (int64_t s = 0; s < slices; s++) {
        double bytes = 0, from = tr_seconds();
        for (int64_t i = s * SLICE_TOKENS; i < TR_MIN(tokens, (s + 1) * SLICE_TOKENS); i++) {
            int32_t token = (int32_t)(i % tr_generator_sizes(g)->vocab);
            TR_GO(tr_generator_append(g, &token, 1, &logits));
            bytes += (double)tr_generator_bytes_per_token(g);
        }
        double seconds = tr_seconds() - from;
        bandwidth[s] = tr_reader_once(reader);
        share[s] = bytes / seconds / bandwidth[s];
        *out_s += seconds;
        *out_bytes += bytes;
    }
    *out_share = median(share, slices);
    *out_bandwidth = median(bandwidth, slices);
done:
    free(share);
    return error;
}

static tr_error *bench_generate(const bench_options *options)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    tr_generator *g = NULL;
    tr_reader *reader = NULL;
    tr_model model;
    tr_target target;
    float *logits;
    enum { ROUNDS = 3 };
    double prefill[ROUNDS], seconds[ROUNDS], bandwidth[ROUNDS], share[ROUNDS], bytes;
    int32_t *prompt = NULL;
    TR_GO(bench_config(options, &config));
    TR_GO(tr_config_model(config, &model));
    tr_sizes sizes = bench_sizes(config);
    int64_t n = options->prompt_tokens;
    if (n + options->tokens > sizes.context)
        TR_GO(tr_error_new(TR_USER, "--prompt-tokens %lld and --tokens %lld do not fit in the context of %lld", (long long)n,
                           (long long)options->tokens, (long long)sizes.context));
    prompt = tr_alloc_zero((size_t)n, sizeof *prompt);
    for (int64_t i = 0; i < n; i++)
        prompt[i] = (int32_t)(tr_random(1, 0, 0, (uint64_t)i).word[0] % (uint64_t)sizes.vocab);
    TR_GO(tr_config_target(config, &target));
    TR_GO(tr_generator_random(&sizes, model, &target, config->train.precision, &g));
    TR_GO(tr_reader_new(target.threads, READ_BYTES, &reader));
    for (int r = -1; r < ROUNDS; r++) { /* the first is a warm-up */
        int at = TR_MAX(r, 0);
        tr_generator_reset(g);
        double from = tr_seconds();
        TR_GO(tr_generator_append(g, prompt, n, &logits));
        prefill[at] = tr_seconds() - from;
        tr_generator_program(g)->profile = options->profile && r >= 0;
        TR_GO(decode(g, options->tokens, reader, &seconds[at], &bytes, &bandwidth[at], &share[at]));
    }
    double decode_s = median(seconds, ROUNDS);
    print_take(json_pack("{s:f, s:f, s:f, s:f, s:f, s:s}", "tokens_per_s", (double)options->tokens / decode_s,
                         "prefill_tokens_per_s", (double)n / median(prefill, ROUNDS), "bytes_per_s", bytes / decode_s,
                         "read_bandwidth", median(bandwidth, ROUNDS), "share_of_bandwidth", median(share, ROUNDS), "isa",
                         tr_isa_name(target.isa)),
               options->json);
    if (options->profile) {
        char *text = tr_program_profile_text(tr_generator_program(g), 0);
        fputs(text, stderr);
        free(text);
    }
done:
    free(prompt);
    tr_reader_free(reader);
    tr_generator_free(g);
    tr_config_free(config);
    return error;
}

/* The product y = x w of one of GPT-2's shapes, by the kernel that training uses. */
static tr_error *time_product(const tr_target *target, tr_dtype dtype, int64_t m, int64_t n, int64_t k, double *out_flops)
{
    tr_error *error = NULL;
    tr_program *p = NULL;
    enum { ROUNDS = 7 };
    double times[ROUNDS];
    tr_graph *g = tr_graph_new("gemm", dtype);
    const char *xn[] = {"rows", "k"}, *wn[] = {"k", "n"};
    tr_value x = tr_graph_leaf(g, TR_INPUT, "x", tr_shape_of(g, dtype, 2, xn, (int64_t[]){m, k}), tr_zeros());
    tr_value w = tr_graph_leaf(g, TR_INPUT, "w", tr_shape_of(g, dtype, 2, wn, (int64_t[]){k, n}), tr_zeros());
    tr_graph_output(g, "y", tr_linear(g, x, w, 0));
    TR_GO(tr_program_build_take(g, target, 1, &p));
    TR_GO(tr_program_allocate(p));
    for (int r = -1; r < ROUNDS; r++) {
        double from = tr_seconds();
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        if (r >= 0)
            times[r] = tr_seconds() - from;
    }
    *out_flops = 2.0 * (double)m * (double)n * (double)k / median(times, ROUNDS);
done:
    tr_program_free(p);
    return error;
}

static tr_error *bench_gemm(const bench_options *options)
{
    static const int64_t shapes[][3] = {{2048, 2304, 768}, {2048, 768, 768}, {2048, 3072, 768}, {2048, 768, 3072}};
    tr_config *config = NULL;
    tr_target target;
    TR_TRY(bench_config(options, &config));
    tr_error *error = tr_config_target(config, &target);
    tr_config_free(config);
    TR_TRY(error);
    json_t *object = json_object(), *list = json_array();
    for (int d = 0; d < 2; d++) {
        tr_dtype dtype = d ? TR_BF16 : TR_F32;
        double peak = tr_machine_peak_flops(target.isa, dtype, target.threads, 0.5);
        json_object_set_new(object, d ? "peak_gflops_bf16" : "peak_gflops_f32", json_real(peak / 1e9));
        for (int s = 0; s < TR_COUNT(shapes) && !error; s++) {
            double flops = 0;
            error = time_product(&target, dtype, shapes[s][0], shapes[s][1], shapes[s][2], &flops);
            json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:f, s:f}", "dtype", tr_dtype_name(dtype), "m",
                                                  (json_int_t)shapes[s][0], "n", (json_int_t)shapes[s][1], "k",
                                                  (json_int_t)shapes[s][2], "gflops", flops / 1e9, "share_of_peak",
                                                  flops / peak));
        }
    }
    json_object_set_new(object, "isa", json_string(tr_isa_name(target.isa)));
    json_object_set_new(object, "read_bandwidth",
                        json_real(tr_machine_read_bandwidth(target.threads, READ_BYTES, 0.5)));
    json_object_set_new(object, "products", list);
    print_take(object, options->json);
    return error;
}

static tr_error *bench(const bench_options *options)
{
    if (strcmp(options->what, "train") == 0)
        return bench_train(options);
    return strcmp(options->what, "generate") == 0 ? bench_generate(options) : bench_gemm(options);
}

tr_error *cmd_bench(int argc, char **argv)
{
    static const char *const subjects[] = {"gemm", "train", "generate"};
    bench_options with = {.steps = 5, .prompt_tokens = 512, .tokens = 128};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object", .flag = &with.json},
        {"steps", 0, "N", "train: time N steps after one to warm up (5)", .integer = &with.steps, .least = 1,
         .most = 1e6},
        {"profile", 0, NULL, "train, generate: print the time of each kind of op", .flag = &with.profile},
        {"prompt-tokens", 0, "N", "generate: length of the prompt (512)", .integer = &with.prompt_tokens,
         .least = 2, .most = 1e6},
        {"tokens", 0, "N", "generate: tokens after the prompt (128)", .integer = &with.tokens, .least = 1,
         .most = 1e6},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx",
         .text = &with.isa},
    };
    const tr_usage usage = {
        .name = "bench",
        .operands = "gemm|train|generate [CONFIG] [key=value ...]",
        .summary = "what this machine reaches: matrix products, training, generation",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme bench train train.precision=bf16 --json\n"
                    "trireme bench train model.preset=vit-base train.batch=8 --profile",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    with.what = operands.items[0];
    with.overrides = operands.items + 1;
    with.override_count = operands.count - 1;
    for (int64_t i = 0; i < TR_COUNT(subjects); i++)
        if (strcmp(with.what, subjects[i]) == 0)
            return bench(&with);
    const char *near = tr_suggest(with.what, subjects, TR_COUNT(subjects));
    return tr_usage_error(&usage, "bench knows gemm, train and generate, not '%s'%s%s%s", with.what,
                          near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
