/* `trireme scaling`: tokens a second over the number of ranks, simulated from the plan of each mesh. */
#include "cli/cli.h"

#include <stdio.h>

#include "cli/options.h"
#include "plan/simulate.h"
#include "train/trainer.h"

typedef struct scaling_options {
    char *const *operands; /* a config, then overrides */
    int operand_count;
    int64_t ranks;
    double link, latency; /* GB/s and microseconds; 0: measured between threads */
    bool json;
} scaling_options;

typedef struct mesh {
    int64_t data, tensor, pipeline;
} mesh;

typedef struct row {
    mesh mesh;
    tr_step_time time;
    double tokens_per_s;
    int64_t peak_bytes;
    char *refused; /* the last mesh's reason, when none can be */
} row;

/* The config on a mesh, with as many sequences a step for each rank as it has on one. */
static tr_error *load(const scaling_options *options, mesh m, int64_t batch, int64_t micro, tr_config **out)
{
    int n = options->operand_count - 1;
    int64_t ranks = m.data * m.tensor * m.pipeline;
    char *own[] = {tr_format("mesh.data=%lld", (long long)m.data),
                   tr_format("mesh.tensor=%lld", (long long)m.tensor),
                   tr_format("mesh.pipeline=%lld", (long long)m.pipeline),
                   tr_format("train.micro_batch=%lld", (long long)(micro * m.data)),
                   tr_format("train.batch=%lld", (long long)(batch * ranks))};
    char **all = tr_alloc_zero((size_t)n + TR_COUNT(own), sizeof *all);
    memcpy(all, options->operands + 1, (size_t)n * sizeof *all);
    for (int i = 0; i < TR_COUNT(own); i++)
        all[n++] = own[i];
    tr_error *error = tr_config_load(options->operands[0], all, n, out);
    for (int i = 0; i < TR_COUNT(own); i++)
        free(own[i]);
    free(all);
    return error;
}

static tr_error *try_mesh(const scaling_options *options, const tr_config *base, const tr_sizes *sizes, tr_model model,
                          const tr_rates *rates, mesh m, row *best)
{
    tr_config *config = NULL;
    tr_program *p = NULL;
    tr_step_time time = {0};
    tr_error *error = load(options, m, base->train.batch, base->train.micro_batch, &config);
    if (!error)
        error = tr_trainer_plan(config, 0, sizes, model, NULL, NULL, NULL, NULL, &p);
    if (!error)
        error = tr_simulate_step(config, p, rates, &time);
    double per_s = error ? 0 : (double)(config->train.batch * config->train.seq) / time.seconds;
    if (!error && per_s > best->tokens_per_s)
        *best = (row){.mesh = m, .time = time, .tokens_per_s = per_s, .peak_bytes = tr_program_peak_bytes(p),
                      .refused = best->refused};
    tr_program_free(p);
    tr_config_free(config);
    if (error && tr_error_blame(error) == TR_USER) { /* a mesh that cannot be is not a row */
        free(best->refused);
        best->refused = tr_strdup(tr_error_text(error));
        tr_error_free(error);
        error = NULL;
    }
    return error;
}

static void print_row(const scaling_options *options, int64_t ranks, const row *r, double alone)
{
    char text[96];
    snprintf(text, sizeof text, "data=%lld tensor=%lld pipeline=%lld", (long long)r->mesh.data, (long long)r->mesh.tensor,
             (long long)r->mesh.pipeline);
    double share = r->tokens_per_s / (alone * (double)ranks);
    if (options->json)
        printf("{\"simulated\": true, \"ranks\": %lld, \"mesh\": \"%s\", \"tokens_per_s\": %.6g, \"efficiency\": %.4f, "
               "\"compute_s\": %.6g, \"communication_s\": %.6g, \"exposed_s\": %.6g, \"bubble\": %.4f, \"step_s\": %.6g, \"planned_peak_bytes\": %lld}\n",
               (long long)ranks, text, r->tokens_per_s, share, r->time.compute, r->time.communication, r->time.exposed,
               r->time.bubble, r->time.seconds, (long long)r->peak_bytes);
    else
        printf("%6lld  %-32s %12.0f  %9.1f%%  %9.3f  %9.3f  %9.3f  %6.1f%%  %8.3f\n", (long long)ranks, text, r->tokens_per_s,
               100 * share, r->time.compute, r->time.communication, r->time.exposed, 100 * r->time.bubble, (double)r->peak_bytes / 1e9);
    fflush(stdout);
}

/* For each number of ranks the fastest of these: data alone, and with a tensor or a pipeline axis. */
static tr_error *curve(const scaling_options *options, const tr_config *config, const tr_sizes *sizes, tr_model model,
                       const tr_rates *rates)
{
    double alone = 0;
    for (int64_t ranks = 1; ranks <= options->ranks; ranks *= 2) {
        row best = {0};
        tr_error *error = NULL;
        for (int64_t inner = 1; inner <= 8 && inner <= ranks && !error; inner *= 4) {
            error = try_mesh(options, config, sizes, model, rates, (mesh){ranks / inner, inner, 1}, &best);
            if (!error && inner > 1)
                error = try_mesh(options, config, sizes, model, rates, (mesh){ranks / inner, 1, inner}, &best);
        }
        if (!error && best.tokens_per_s == 0)
            error = tr_error_new(TR_USER, "no mesh of %lld ranks can train this config: %s", (long long)ranks,
                                 best.refused ? best.refused : "none was tried");
        alone = ranks == 1 ? best.tokens_per_s : alone;
        if (!error)
            print_row(options, ranks, &best, alone);
        free(best.refused);
        TR_TRY(error);
    }
    return NULL;
}

static tr_error *scaling(const scaling_options *options)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    tr_model model;
    tr_rates rates = {0};
    TR_GO(tr_config_load(options->operands[0], options->operands + 1, options->operand_count - 1, &config));
    TR_GO(tr_config_model(config, &model));
    tr_sizes sizes = tr_config_sizes(config);
    if (sizes.vocab == 0)
        TR_GO(tr_error_new(TR_USER, "model.vocab is open; give it, since the tokenizer is not read here"));
    TR_GO(tr_rates_measure_kernels(config, &sizes, model, &rates));
    TR_GO(tr_rates_measure_link(&rates));
    if (options->link > 0)
        rates.link_bytes_per_s = options->link * 1e9;
    if (options->latency > 0)
        rates.link_latency_s = options->latency * 1e-6;
    if (!options->json)
        printf("simulated: kernels as measured here, %lld sequences of %lld tokens a rank and step; link %.2f GB/s and %.1f us, %s\n"
               "%6s  %-32s %12s  %10s  %9s  %9s  %9s  %7s  %8s\n",
               (long long)config->train.batch, (long long)config->train.seq, rates.link_bytes_per_s / 1e9,
               rates.link_latency_s * 1e6, options->link > 0 ? "as given" : "as between threads here", "ranks", "fastest mesh",
               "tokens/s", "efficiency", "compute s", "comm s", "waits s", "bubble", "GB/rank");
    error = curve(options, config, &sizes, model, &rates);
done:
    tr_config_free(config);
    return error;
}

tr_error *cmd_scaling(int argc, char **argv)
{
    scaling_options with = {.ranks = 1024};
    const tr_option options[] = {
        {"ranks", 0, "N", "up to N ranks (1024)", .integer = &with.ranks, .least = 1, .most = 1 << 20},
        {"link", 0, "GB/s", "speed of the link between ranks; measured between threads of this process when left out",
         .real = &with.link},
        {"latency", 0, "US", "microseconds until a message arrives; measured when left out", .real = &with.latency},
        {"json", 0, NULL, "print one JSON object a row", .flag = &with.json},
    };
    const tr_usage usage = {
        .name = "scaling",
        .operands = "CONFIG [key=value ...]",
        .summary = "tokens a second over the number of ranks, simulated from the plans",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme scaling examples/gpt2-small.yaml model.vocab=50257 --link 12.5 --latency 20",
        .notes = "Weak scaling: each rank brings its own train.batch. One microbatch of two layers is run, to\n"
                 "measure kernels. Collectives go beside what is computed as the plan has them; `waits s` is what of\n"
                 "them is waited for.",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    with.operands = operands.items;
    with.operand_count = operands.count;
    return scaling(&with);
}
