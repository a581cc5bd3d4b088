/* `trireme inspect`: what a config or a run means, without running it. */
#include "cli/cli.h"

#include <stdio.h>

#include "base/memory.h"
#include "cli/inspect_schedule.h"
#include "cli/options.h"
#include "data/objective.h"
#include "ir/table.h"
#include "train/parallel.h"
#include "train/trainer.h"

typedef struct inspect_options {
    char *const *operands; /* a config file, a run, a Hugging Face directory; then overrides */
    int operand_count;
    const char *dump_after;
    bool json, sharding, schedule;
} inspect_options;

/* The sizes as training would have them: the vocabulary is the tokenizer's when the config leaves it open. */
static tr_error *complete_sizes(const tr_config *config, tr_sizes *out)
{
    tr_tokenizer *tokenizer = NULL;
    *out = tr_config_sizes(config);
    if (out->vocab || tr_objectives[config->data.objective]->no_text)
        return NULL;
    TR_TRY(tr_config_tokenizer(config, &tokenizer));
    out->vocab = tr_tokenizer_vocab_size(tokenizer);
    tr_tokenizer_free(tokenizer);
    return NULL;
}

static void print_json(const tr_config *config, const tr_program *p, const tr_sizes *sizes, const tr_pass_log *log)
{
    const tr_memory *m = &p->memory;
    int64_t parameters = tr_graph_parameters(tr_program_leaves(p));
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
    int64_t parameters = tr_graph_parameters(tr_program_leaves(p));
    printf("model            %s: %lld layers, embed %lld, %lld heads, mlp %lld, context %lld, vocabulary %lld\n",
           tr_family_name(config->model.family), (long long)s->layers, (long long)s->embed, (long long)s->heads,
           (long long)s->mlp, (long long)s->context, (long long)s->vocab);
    printf("parameters       %lld\n", (long long)parameters);
    printf("flops a token    %.4g, forward and backward at %lld tokens a sequence\n",
           tr_flops_per_token(s, parameters, config->train.seq), (long long)config->train.seq);
    printf("planned peak     %.3f GB a rank in %s, %lld x %lld tokens a microbatch, %lld rank%s\n",
           (double)tr_program_peak_bytes(p) / 1e9, tr_dtype_name(config->train.precision),
           (long long)config->train.micro_batch, (long long)config->train.seq, (long long)tr_config_ranks(config),
           tr_config_ranks(config) == 1 ? "" : "s");
    printf("  parameters     %.3f GB\n  optimizer      %.3f GB\n  step           %.3f GB: at its peak (node %u) "
           "gradients %.3f, activations %.3f, scratch %.3f\n",
           (double)m->params_bytes / 1e9, (double)m->state_bytes / 1e9, (double)m->arena_bytes / 1e9, m->peak_node,
           (double)m->grads_bytes / 1e9, (double)m->activations_bytes / 1e9, (double)m->scratch_bytes / 1e9);
    printf("nodes            ");
    for (int i = 0; i < log->count; i++)
        printf("%s%s %u", i ? ", " : "", log->name[i], log->nodes[i]);
    printf("\n");
}

static void print_dims(const tr_graph *g, const tr_shape *s, const int64_t *dims)
{
    for (int d = 0; d < s->rank; d++)
        printf("%s%s=%lld", d ? " " : "", g->dim_names[s->names[d]], (long long)dims[d]);
}

/* Each leaf: how large it is, and which part of it this rank has. */
static void print_leaves(const tr_graph *g)
{
    printf("%-44s %-40s %s\n", "parameter, state, input", "whole", "rank 0 has");
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        const tr_layout *l = info->layout;
        if (info->role == TR_TEMP)
            continue;
        printf("%-44s ", info->name);
        char whole[256] = "";
        size_t used = 0;
        for (int d = 0; d < (l ? l->rank : info->shape.rank) && used < sizeof whole; d++)
            used += (size_t)snprintf(whole + used, sizeof whole - used, "%s%lld", d ? " x " : "",
                                     (long long)(l ? l->whole[d] : info->shape.dims[d]));
        printf("%-40s ", whole);
        if (l && l->flat)
            printf("%lld elements from %lld on of its block", (long long)l->count, (long long)l->first);
        else
            print_dims(g, &info->shape, info->shape.dims);
        printf("\n");
    }
}

static const char *axis_name(const tr_sharding *sharding, int64_t axis)
{
    return axis == TR_AXIS_PIPELINE ? "pipeline" : sharding->axes[axis].name;
}

/* Every collective with the bytes of the larger of its operands. */
static void print_collectives(const tr_graph *g, const tr_sharding *sharding)
{
    printf("\n%-10s %-6s %-16s %-13s %12s  %s\n", "phase", "layer", "collective", "axis", "bytes", "result");
    for (tr_node n = 1; n < g->n_nodes; n++) {
        const tr_node_info *node = &g->nodes[n];
        if (!(tr_op_table[node->op]->flags & TR_OP_COLLECTIVE))
            continue;
        const tr_shape *in = tr_shape_at(g, tr_in(g, n, 0)), *out = tr_shape_at(g, tr_out(g, n, 0));
        printf("%-10s %-6d %-16s %-13s %12lld  ", tr_phase_names[node->phase], node->layer, tr_op_name(node->op),
               axis_name(sharding, node->attrs[TR_COLLECTIVE_AXIS].i),
               (long long)TR_MAX(tr_shape_bytes(in), tr_shape_bytes(out)));
        print_dims(g, out, out->dims);
        printf("\n");
    }
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
    else if (options->schedule) {
        error = cli_inspect_schedule(config, program);
    } else if (options->sharding) {
        tr_sharding sharding = tr_config_sharding(config, 0);
        print_leaves(program->graph);
        print_collectives(program->graph, &sharding);
    } else if (options->json)
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
        {"sharding", 0, NULL, "print what each rank has of every parameter, and every collective",
         .flag = &with.sharding},
        {"schedule", 0, NULL, "print the pipeline's schedule as CSV, its bubble, and the microbatches alive",
         .flag = &with.schedule},
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
                    "trireme inspect examples/gpt2-small.yaml model.preset=gpt3-175b --json\n"
                    "trireme inspect examples/parity.yaml mesh.tensor=2 --sharding\n"
                    "trireme inspect examples/parity.yaml mesh.pipeline=4 train.micro_batch=1 --schedule",
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
