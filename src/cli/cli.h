/* What the command line's files share.
 *
 * A command is `tr_error *cmd_NAME(int argc, char **argv)` in src/cli/NAME.c, argv[0] being the
 * command's name, and one row in the table of src/cli/main.c. It prints its results on standard
 * output and returns its failure; main prints that as `trireme: SENTENCE` on standard error. The
 * exit status is the blame of the error: 0 no error, 1 TR_RUN, 2 TR_USER, and 128 + signal for
 * tr_stopped_by.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "train/config.h"

tr_error *cmd_train(int argc, char **argv);
tr_error *cmd_generate(int argc, char **argv);
tr_error *cmd_eval(int argc, char **argv);
tr_error *cmd_embed(int argc, char **argv);
tr_error *cmd_inspect(int argc, char **argv);
tr_error *cmd_tokenizer(int argc, char **argv);
tr_error *cmd_report(int argc, char **argv);
tr_error *cmd_bench(int argc, char **argv);
tr_error *cmd_parity(int argc, char **argv);
tr_error *cmd_scaling(int argc, char **argv);

/* What a command returns when a signal ended it after a clean save: the exit status is 128 +
 * signal, the text says what was saved and how to go on. */
tr_error *tr_stopped_by(int signal, const char *format, ...) TR_PRINTF(2, 3);

/* `trireme: SENTENCE` on standard error. An error that a command returns without a text has been said like this. */
void tr_cli_say(const tr_error *error);

/* The config of `CONFIG key=value ...`; the first operand may be an override, and then there is no
 * file. */
tr_error *tr_cli_config(char *const *operands, int count, tr_config **out);
/* The same, where the first operand may also be a run's directory or a Hugging Face checkpoint's.
 */
tr_error *tr_cli_subject(char *const *operands, int count, tr_config **out);
