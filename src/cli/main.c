/* The command line: finds the command, runs it, prints its error, turns it into an exit status.
 *
 * 0 done; 1 the run failed; 2 the user's input was wrong; 128 + signal: stopped after a clean save.
 * A new command is one row of the table and one file src/cli/NAME.c.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/binding.h"
#include "base/memory.h"
#include "base/suggest.h"

typedef struct tr_command {
    const char *name, *summary;
    tr_error *(*run)(int argc, char **argv);
} tr_command;

static const tr_command commands[] = {
    {"train", "train a model, or go on with a run", cmd_train},
    {"generate", "continue a text with a trained model", cmd_generate},
    {"eval", "loss, perplexity and bits per byte of a model on a text", cmd_eval},
    {"embed", "a vector for each line of text", cmd_embed},
    {"predict", "the class of each image, by a trained model", cmd_predict},
    {"inspect", "parameters, graph, planned memory and flops of a config or a run", cmd_inspect},
    {"tokenizer", "train a tokenizer, encode and decode text", cmd_tokenizer},
    {"report", "one HTML page about a run", cmd_report},
    {"bench", "what this machine reaches: matrix products, training, generation", cmd_bench},
    {"parity", "the same run on every mesh: losses, bytes sent, memory", cmd_parity},
    {"scaling", "tokens a second over the number of ranks, simulated", cmd_scaling},
};

tr_error *tr_stopped_by(int signal, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tr_error_new((tr_blame)(128 + signal), "%s", text);
}

static void print_help(void)
{
    printf("Trireme trains and serves Transformers: one C program, from a laptop to a cluster.\n\n"
           "Usage: trireme COMMAND [option ...] [operand ...]\n\nCommands:\n");
    for (int64_t i = 0; i < TR_COUNT(commands); i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n  trireme help COMMAND   the options of a command, with an example\n"
           "  trireme help keys      the keys of a config file\n"
           "  trireme --version      the version\n\n"
           "Example:\n"
           "  trireme train examples/demo.yaml data.train=mytext.txt out=runs/mine\n"
           "  trireme generate runs/mine --prompt \"Once upon a time\"\n");
}

static const tr_command *find(const char *name)
{
    for (int64_t i = 0; i < TR_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static tr_error *unknown(const char *name)
{
    const char *names[TR_COUNT(commands) + 3];
    for (int64_t i = 0; i < TR_COUNT(commands); i++)
        names[i] = commands[i].name;
    names[TR_COUNT(commands)] = "help";
    names[TR_COUNT(commands) + 1] = "--help";
    names[TR_COUNT(commands) + 2] = "--version";
    const char *near = tr_suggest(name, names, TR_COUNT(names));
    const char *what = name[0] == '-' ? "option" : "command";
    if (near)
        return tr_error_new(TR_USER, "there is no %s '%s'; did you mean `trireme %s`?", what, name,
                            near);
    return tr_error_new(TR_USER, "there is no %s '%s'; `trireme --help` lists the commands", what,
                        name);
}

static tr_error *help(int argc, char **argv)
{
    if (argc < 2) {
        print_help();
        return NULL;
    }
    if (strcmp(argv[1], "keys") == 0) {
        char *text = tr_config_help();
        fputs(text, stdout);
        free(text);
        return NULL;
    }
    const tr_command *command = find(argv[1]);
    if (!command)
        return unknown(argv[1]);
    char *arguments[] = {argv[1], (char *)"--help", NULL};
    return command->run(2, arguments);
}

/* The OpenMP runtime reads how its threads wait when the program is loaded, before main. Its default, to spin,
 * is no faster here and many times slower where something else wants the cores; so, unless the user said how,
 * the program starts itself once more with the other one. */
static void wait_without_spinning(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("OMP_WAIT_POLICY", "passive", 1) != 0)
        return;
    execv("/proc/self/exe", argv); /* comes back only when it fails: then it goes on as it is */
}

static tr_error *run(int argc, char **argv)
{
    if (argc < 2)
        return tr_error_new(TR_USER, "no command is given; `trireme --help` lists the commands");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help();
        return NULL;
    }
    if (strcmp(argv[1], "help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0) {
        printf("trireme %s\n", TR_VERSION);
        return NULL;
    }
    const tr_command *command = find(argv[1]);
    tr_binding_release();
    if (command)
        wait_without_spinning(argv);
    return command ? command->run(argc - 1, argv + 1) : unknown(argv[1]);
}

/* One line, also when a file's name or the user's text has line breaks or terminal codes in it; in one write, since
 * other ranks may share the terminal. */
void tr_cli_say(const tr_error *error)
{
    char *line = tr_format("trireme: %s\n", tr_error_text(error));
    for (char *c = line; c[1]; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    fputs(line, stderr);
    free(line);
}

int main(int argc, char **argv)
{
    tr_error *error = run(argc, argv);
    if (!error && fflush(stdout) != 0)
        error = tr_error_errno(TR_RUN, errno, "standard output cannot be written");
    if (!error)
        return 0;
    int status = (int)tr_error_blame(error);
    fflush(stdout);
    if (*tr_error_text(error)) /* otherwise it was said already */
        tr_cli_say(error);
    tr_error_free(error);
    return status;
}
