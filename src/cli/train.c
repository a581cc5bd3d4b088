/* `trireme train`: reads the config, or the one of the run that is resumed, and trains. */
#include "cli/cli.h"

#include <stdio.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/options.h"
#include "train/run.h"

typedef struct train_options {
    char *const *operands; /* CONFIG and overrides; overrides alone with --resume */
    int operand_count;
    const char *resume, *dump_after, *trace, *isa; /* NULL when not given */
    bool quiet, profile;
} train_options;

static tr_error *train(const train_options *options)
{
    tr_config *config = NULL;
    tr_text dump = {0};
    int signal = 0;
    tr_model model = NULL;
    tr_error *error = NULL;
    char *isa = options->isa ? tr_format("isa=%s", options->isa) : NULL;
    int count = options->operand_count;
    char **operands = tr_alloc_zero((size_t)count + 1, sizeof *operands);
    memcpy(operands, options->operands, (size_t)count * sizeof *operands);
    if (isa)
        operands[count++] = isa;
    TR_GO(options->resume ? tr_config_load_run(options->resume, operands, count, &config)
                          : tr_cli_config(operands, count, &config));
    TR_GO(tr_config_model(config, &model));
    TR_GO(tr_run(config,
                 &(tr_run_options){.trainer = {.model = model, .resume = options->resume,
                                               .dump_after = options->dump_after, .dump = &dump},
                                   .quiet = options->quiet, .profile = options->profile, .trace = options->trace},
                 &signal));
    if (dump.bytes)
        fputs(dump.bytes, stdout);
    if (signal)
        error = tr_stopped_by(signal, "stopped by a signal after a clean save; go on with `trireme train --resume %s`",
                              config->out);
done:
    tr_text_free(&dump);
    tr_config_free(config);
    free(operands);
    free(isa);
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
         "print the graph as it is after PASS, and stop",
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
