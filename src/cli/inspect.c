/* `trireme inspect`: what a config or a run means, without running it. */
#include "cli/cli.h"

#include "base/memory.h"
#include "cli/options.h"

typedef struct inspect_options {
    char *const *operands; /* a config file, a run, a Hugging Face directory; then overrides */
    int operand_count;
    const char *dump_after;
    bool json;
} inspect_options;

static tr_error *inspect(const inspect_options *options)
{
    tr_config *config = NULL;
    TR_TRY(tr_cli_subject(options->operands, options->operand_count, &config));
    tr_config_free(config);
    return tr_error_new(TR_RUN, "inspect is not implemented yet");
}

tr_error *cmd_inspect(int argc, char **argv)
{
    inspect_options with = {0};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object", .flag = &with.json},
        {"dump-after", 0, "PASS", "print the graph as it is after PASS; `all` for every pass",
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
