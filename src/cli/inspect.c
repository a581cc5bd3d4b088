/* `trireme inspect`: what a config or a run means, without running it. */
#include "cli/cli.h"

#include <stdio.h>

#include "base/memory.h"
#include "cli/options.h"
#include "train/trainer.h"

typedef struct inspect_options {
    char *const *operands; /* a config file, a run, a Hugging Face directory; then overrides */
    int operand_count;
    const char *dump_after;
    bool json;
} inspect_options;

/* The sizes as training would have them: the vocabulary is the tokenizer's when the config leaves it open. */
static tr_error *complete_sizes(const tr_config *config, tr_sizes *out)
{
    tr_tokenizer *tokenizer = NULL;
    *out = tr_config_sizes(config);
    if (out->vocab)
        return NULL;
    TR_TRY(tr_config_tokenizer(config, &tokenizer));
    out->vocab = tr_tokenizer_vocab_size(tokenizer);
    tr_tokenizer_free(tokenizer);
    return NULL;
}

static void print_json(const tr_config *config, const tr_program *p, const tr_sizes *sizes, const tr_pass_log *log)
{
    const tr_memory *m = &p->memory;
    int64_t parameters = tr_graph_parameters(p->graph);
    json_t *passes = json_array();
    for (int i = 0; i < log->count; i++)
        json_array_append_new(passes, json_pack("{s:s, s:i, s:i}", "pass", log->name[i], "nodes_before",
                                                (int)(i ? log->nodes[i - 1] : 0), "nodes_after", (int)log->nodes[i]));
    json_t *object = json_pack(
        "{s:I, s:f, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:I, s:o, s:o}", "parameters", (json_int_t)parameters,
        "flops_per_token", tr_flops_per_token(sizes, parameters, config->train.seq), "planned_peak_bytes",
        (json_int_t)tr_program_peak_bytes(p), "planned_parts", "parameters", (json_int_t)m->params_bytes, "state",
        (json_int_t)m->state_bytes, "inputs", (json_int_t)m->input_bytes, "step", (json_int_t)m->arena_bytes,
        "step_gradients", (json_int_t)m->grads_bytes, "step_activations", (json_int_t)m->activations_bytes,
        "step_scratch", (json_int_t)m->scratch_bytes, "nodes", (json_int_t)(p->graph->n_nodes - 1), "passes", passes,
        "config", tr_config_json(config));
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
}

static void print_table(const tr_config *config, const tr_program *p, const tr_sizes *s, const tr_pass_log *log)
{
    const tr_memory *m = &p->memory;
    int64_t parameters = tr_graph_parameters(p->graph);
    printf("model            %s: %lld layers, embed %lld, %lld heads, mlp %lld, context %lld, vocabulary %lld\n",
           tr_family_name(config->model.family), (long long)s->layers, (long long)s->embed, (long long)s->heads,
           (long long)s->mlp, (long long)s->context, (long long)s->vocab);
    printf("parameters       %lld\n", (long long)parameters);
    printf("flops a token    %.4g, forward and backward at %lld tokens a sequence\n",
           tr_flops_per_token(s, parameters, config->train.seq), (long long)config->train.seq);
    printf("planned peak     %.3f GB in %s, %lld x %lld tokens a microbatch\n", (double)tr_program_peak_bytes(p) / 1e9,
           tr_dtype_name(config->train.precision), (long long)config->train.micro_batch, (long long)config->train.seq);
    printf("  parameters     %.3f GB\n  optimizer      %.3f GB\n  step           %.3f GB: at its peak (node %u) "
           "gradients %.3f, activations %.3f, scratch %.3f\n",
           (double)m->params_bytes / 1e9, (double)m->state_bytes / 1e9, (double)m->arena_bytes / 1e9, m->peak_node,
           (double)m->grads_bytes / 1e9, (double)m->activations_bytes / 1e9, (double)m->scratch_bytes / 1e9);
    printf("nodes            ");
    for (int i = 0; i < log->count; i++)
        printf("%s%s %u", i ? ", " : "", log->name[i], log->nodes[i]);
    printf("\n");
}

static tr_error *inspect(const inspect_options *options)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    tr_program *program = NULL;
    tr_model model;
    tr_sizes sizes;
    tr_text dump = {0};
    tr_pass_log log = {0};
    TR_GO(tr_cli_subject(options->operands, options->operand_count, &config));
    TR_GO(tr_config_model(config, &model));
    TR_GO(complete_sizes(config, &sizes));
    TR_GO(tr_trainer_plan(config, 0, &sizes, model, NULL, options->dump_after, &dump, &log, &program));
    if (dump.bytes)
        fputs(dump.bytes, stdout);
    else if (options->json)
        print_json(config, program, &sizes, &log);
    else
        print_table(config, program, &sizes, &log);
done:
    tr_program_free(program);
    tr_text_free(&dump);
    tr_config_free(config);
    return error;
}

tr_error *cmd_inspect(int argc, char **argv)
{
    inspect_options with = {0};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object", .flag = &with.json},
        {"dump-after", 0, "PASS", "print the graph as it is after PASS",
         .text = &with.dump_after},
    };
    const tr_usage usage = {
        .name = "inspect",
        .operands = "CONFIG_OR_DIR [key=value ...]",
        .summary = "parameters, graph, planned memory and flops of a config or a run",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme inspect runs/gpt2-small\n"
                    "trireme inspect examples/gpt2-small.yaml model.preset=gpt3-175b --json",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    with.operands = operands.items;
    with.operand_count = operands.count;
    return inspect(&with);
}
