/* `trireme train`: reads the config, or the one of the run that is resumed, and trains. */
#include "cli/cli.h"

#include "base/log.h"
#include "base/memory.h"
#include "cli/options.h"

typedef struct train_options {
    char *const *operands; /* CONFIG and overrides; overrides alone with --resume */
    int operand_count;
    const char *resume, *dump_after, *trace, *isa; /* NULL when not given */
    bool quiet, profile;
} train_options;

static tr_error *train(const train_options *options)
{
    tr_config *config = NULL;
    tr_error *error = NULL;
    if (options->resume)
        TR_GO(tr_config_load_run(options->resume, options->operands, options->operand_count,
                                 &config));
    else
        TR_GO(tr_cli_config(options->operands, options->operand_count, &config));
    TR_GO(tr_config_check_run(config));
    error = tr_error_new(TR_RUN, "train is not implemented yet");
done:
    tr_config_free(config);
    return error;
}

tr_error *cmd_train(int argc, char **argv)
{
    train_options train_with = {0};
    const tr_option options[] = {
        {"resume", 0, "DIR", "go on with the run in DIR, from its newest checkpoint",
         .text = &train_with.resume},
        {"quiet", 'q', NULL, "print nothing but errors", .flag = &train_with.quiet},
        {"dump-after", 0, "PASS",
         "print the graph as it is after PASS, and stop; `all` for every pass",
         .text = &train_with.dump_after},
        {"profile", 0, NULL,
         "print the time of each kind of op and its share of the machine's peak",
         .flag = &train_with.profile},
        {"trace", 0, "FILE", "write a trace of one step, for Perfetto or chrome://tracing",
         .text = &train_with.trace},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16",
         .text = &train_with.isa},
    };
    const tr_usage usage = {
        .name = "train",
        .operands = "CONFIG [key=value ...]",
        .summary = "train a model, or go on with a run",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme train examples/gpt2-small.yaml optimizer.lr=3e-4 train.steps=2000\n"
                    "trireme train --resume runs/gpt2-small",
        .notes = "`trireme help keys` lists the keys of a config. Ctrl-C and SIGTERM finish the "
                 "step, save and\n"
                 "end with exit status 130 or 143; --resume goes on from there.",
        .max = -1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!operands.count && !train_with.resume)
        return tr_usage_error(&usage, "train needs a config file, or --resume=DIR");
    train_with.operands = operands.items;
    train_with.operand_count = operands.count;
    tr_log_quiet(train_with.quiet);
    return train(&train_with);
}
