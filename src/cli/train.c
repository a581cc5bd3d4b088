/* `trireme train`: reads the config, or the one of the run that is resumed, and trains. With --restarts or --launch
 * this process only starts the one that trains, or the launcher that starts the ranks, and watches over it. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "cli/options.h"
#include "comm/comm.h"
#include "launch/supervise.h"
#include "train/run.h"

typedef struct train_options {
    char *const *operands; /* CONFIG and overrides; overrides alone with --resume */
    int operand_count;
    const char *resume, *dump_after, *trace, *isa; /* NULL when not given */
    const char *launch;
    int64_t restarts;
    bool quiet, profile;
} train_options;

/* The config that the operands mean; the overrides are copied with that of --isa. */
static tr_error *load_config(const train_options *options, tr_config **out)
{
    char *isa = options->isa ? tr_format("isa=%s", options->isa) : NULL;
    int count = options->operand_count;
    char **operands = tr_alloc_zero((size_t)count + 1, sizeof *operands);
    memcpy(operands, options->operands, (size_t)count * sizeof *operands);
    if (isa)
        operands[count++] = isa;
    tr_error *error = options->resume ? tr_config_load_run(options->resume, operands, count, out)
                                      : tr_cli_config(operands, count, out);
    free(operands);
    free(isa);
    return error;
}

static tr_error *train(const train_options *options)
{
    tr_config *config = NULL;
    tr_text dump = {0};
    int signal = 0;
    tr_model model = NULL;
    tr_error *error = NULL;
    TR_GO(load_config(options, &config));
    TR_GO(tr_config_model(config, &model));
    TR_GO(tr_run(config,
                 &(tr_run_options){.trainer = {.model = model, .resume = options->resume,
                                               .dump_after = options->dump_after, .dump = &dump},
                                   .quiet = options->quiet, .profile = options->profile, .trace = options->trace,
                                   .say = tr_cli_say},
                 &signal));
    if (dump.bytes)
        fputs(dump.bytes, stdout);
    if (signal)
        error = tr_stopped_by(signal, "stopped by a signal after a clean save; go on with `trireme train --resume %s`",
                              config->out);
done:
    tr_text_free(&dump);
    tr_config_free(config);
    return error;
}

/* --restarts and --launch ------------------------------------------------------------------------ */

typedef struct words {
    char **items;
    int64_t count, room;
} words;

static void add_word(words *w, const char *word)
{
    tr_push(w->items, w->count, w->room) = word ? tr_strdup(word) : NULL;
}

static void add_option(words *w, const char *name, const char *value)
{
    if (value) {
        add_word(w, name);
        add_word(w, value);
    }
}

/* The launcher's words, this program, and what it was called with, less the two options. `resume` in the place of a
 * config: what the config and its overrides said is in the run's directory. */
static words command_words(const train_options *options, char *const *launcher, const char *program, const char *resume)
{
    words w = {0};
    bool whole = options->resume || !resume;
    for (int64_t i = 0; launcher && launcher[i]; i++)
        add_word(&w, launcher[i]);
    add_word(&w, program);
    add_word(&w, "train");
    add_option(&w, "--resume", options->resume ? options->resume : resume);
    for (int i = 0; i < options->operand_count && whole; i++)
        add_word(&w, options->operands[i]);
    add_option(&w, "--isa", whole ? options->isa : NULL);
    add_option(&w, "--dump-after", options->dump_after);
    add_option(&w, "--trace", options->trace);
    if (options->quiet)
        add_word(&w, "--quiet");
    if (options->profile)
        add_word(&w, "--profile");
    add_word(&w, NULL);
    return w;
}

static void say_restart(const char *sentence)
{
    fprintf(stderr, "trireme: %s\n", sentence);
}

static tr_error *supervise(const train_options *options)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    char **launcher = NULL, program[4096];
    int64_t launcher_count = 0;
    int32_t ranks;
    words first = {0}, again = {0};
    if (tr_mpi_launched(&ranks))
        return tr_error_new(TR_USER, "--restarts and --launch under mpirun: it ends all ranks with the first that dies, "
                                     "so that none is left to start the others again; let trireme start mpirun: "
                                     "trireme train CONFIG --restarts N --launch \"mpirun -n %d\"",
                            ranks > 0 ? ranks : 2);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0)
        return tr_error_errno(TR_RUN, errno, "/proc/self/exe cannot be read, so this program cannot start itself again");
    program[length] = 0;
    TR_GO(load_config(options, &config)); /* what is wrong is said once, and by this process */
    if (options->launch)
        TR_GO(tr_words_split(options->launch, &launcher, &launcher_count));
    if (options->launch && !launcher_count)
        TR_GO(tr_error_new(TR_USER, "--launch needs a command, e.g. --launch \"mpirun -n 4\""));
    first = command_words(options, launcher, program, NULL);
    again = command_words(options, launcher, program, config->out);
    error = tr_supervise(&(tr_supervision){.first = first.items, .again = again.items, .out = config->out,
                                           .restarts = options->restarts, .say = say_restart});
done:
    tr_words_free(first.items);
    tr_words_free(again.items);
    tr_words_free(launcher);
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
         "print the graph as it is after PASS, and stop",
         .text = &train_with.dump_after},
        {"profile", 0, NULL,
         "print the time of each kind of op and its share of the machine's peak",
         .flag = &train_with.profile},
        {"trace", 0, "FILE", "write a trace of one step, for Perfetto or chrome://tracing",
         .text = &train_with.trace},
        {"restarts", 0, "N", "start again from the newest checkpoint when the run fails, at most N times (0)",
         .integer = &train_with.restarts, .least = 0, .most = 1e6},
        {"launch", 0, "COMMAND", "start the ranks by this command, e.g. \"mpirun -n 8 --host a,b\"",
         .text = &train_with.launch},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx",
         .text = &train_with.isa},
    };
    const tr_usage usage = {
        .name = "train",
        .operands = "CONFIG [key=value ...]",
        .summary = "train a model, or go on with a run",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme train examples/gpt2-small.yaml optimizer.lr=3e-4 train.steps=2000\n"
                    "trireme train --resume runs/gpt2-small\n"
                    "trireme train examples/gpt2-small.yaml mesh.data=8 --restarts 3 --launch \"mpirun -n 8\"",
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
    return train_with.restarts || train_with.launch ? supervise(&train_with) : train(&train_with);
}
