/* A command that is started again when it fails: the parent of a training run.
 *
 * The command is a process of its own (the trainer, or a launcher that starts its ranks on several hosts), so that
 * whatever happens to it, a kill included, leaves somebody to start it again.
 *
 * What counts as a failure: an exit status of 1 (TR_RUN), any status that is not one of ours (a launcher's), or
 * death by a signal. What does not: 0; 2 (TR_USER: it would be wrong again); 128 + SIGINT or SIGTERM; and anything
 * after this process itself was told to stop. SIGINT and SIGTERM that were sent to this process alone are passed on.
 * The command ends when this process dies. A launcher whose ranks on this host have all ended is given 15 s to end
 * too: mpirun of Open MPI waits for a host that it can no longer reach.
 *
 * Before a restart it waits 1 s, and twice as long as the last time, up to 64 s, where the last try has brought no newer
 * checkpoint: a link or a host may need a while to come back.
 */
#pragma once
#include <stdint.h>

#include "base/error.h"

typedef struct tr_supervision {
    char *const *first; /* the command's words, NULL at the end; the program is looked for in PATH */
    char *const *again; /* the words after a failure, once there is a checkpoint */
    const char *out;    /* the run's directory, on this host */
    int64_t restarts;   /* at most */
    void (*say)(const char *sentence); /* told before each restart */
} tr_supervision;

/* NULL: the command has ended with 0. Otherwise an error with the blame of its exit status (or 128 + signal), without
 * a text when the command has surely said why. */
tr_error *tr_supervise(const tr_supervision *how);

/* The words of a command line: separated by spaces, quoted by '...' or "..."; no other character means anything.
 * The caller frees with tr_words_free. */
tr_error *tr_words_split(const char *line, char ***out_words, int64_t *out_count);
void tr_words_free(char **words); /* NULL is fine */
