/* Supervision; see supervise.h. */
#define _GNU_SOURCE
#include "launch/supervise.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum { CANNOT_START = 127, MOST_ANCESTORS = 16 };
enum { FIRST_PAUSE_SECONDS = 1, LAST_PAUSE_SECONDS = 64 };
/* How long a launcher may outlive its ranks; and to end when it is told to. */
enum { ALONE_SECONDS = 15, END_SECONDS = 3 };

/* Words ------------------------------------------------------------------------------------------ */

tr_error *tr_words_split(const char *line, char ***out_words, int64_t *out_count)
{
    char **words = NULL;
    int64_t count = 0, room = 0;
    tr_text word = {0};
    bool inside = false;
    char quote = 0;
    for (const char *c = line; *c; c++) {
        if (quote ? *c == quote : *c == '\'' || *c == '"') {
            quote = quote ? 0 : *c;
            inside = true; /* '' is a word */
            tr_text_add(&word, "", 0);
        } else if (quote || (*c != ' ' && *c != '\t' && *c != '\n')) {
            tr_text_add(&word, c, 1);
            inside = true;
        } else if (inside) {
            tr_push(words, count, room) = word.bytes;
            word = (tr_text){0};
            inside = false;
        }
    }
    if (inside)
        tr_push(words, count, room) = word.bytes;
    tr_push(words, count, room) = NULL;
    *out_words = words;
    *out_count = count - 1;
    if (!quote)
        return NULL;
    tr_words_free(words);
    return tr_error_new(TR_USER, "a %c is not closed in: %s", quote, line);
}

void tr_words_free(char **words)
{
    for (int64_t i = 0; words && words[i]; i++)
        free(words[i]);
    free(words);
}

/* The newest checkpoint -------------------------------------------------------------------------- */

/* Whether OUT has one, and its step for a sentence (-1: not known). Which one is opened, the run decides. */
static bool has_checkpoint(const char *out, int64_t *out_step)
{
    char *latest = tr_path_join(out, "latest"), target[4096];
    ssize_t length = readlink(latest, target, sizeof target - 1);
    long long step = -1;
    bool has = tr_path_is_directory(latest);
    if (length > 0) {
        target[length] = 0;
        const char *name = strrchr(target, '/');
        if (sscanf(name ? name + 1 : target, "step-%lld", &step) != 1)
            step = -1;
    }
    free(latest);
    *out_step = step;
    return has;
}

/* The command ------------------------------------------------------------------------------------ */

typedef struct command {
    pid_t process;
    int status;   /* of waitpid */
    int told;     /* the signal that has told us to stop, or 0 */
    bool worked;  /* processes of this program have run under it */
    int alone;    /* seconds since the last of them has ended */
} command;

static sigset_t watched(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGCHLD);
    return set;
}

static tr_error *start(char *const *words, const sigset_t *mask, pid_t *out)
{
    pid_t self = getpid();
    *out = fork();
    if (*out < 0)
        return tr_error_errno(TR_RUN, errno, "no process can be started");
    if (*out > 0)
        return NULL;
    sigprocmask(SIG_SETMASK, mask, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != self)
        _exit(CANNOT_START);
    execvp(words[0], words);
    _exit(CANNOT_START);
}

/* A signal from the terminal has reached the command too; one from elsewhere is passed on. */
static void pass_on(command *c, const siginfo_t *signal)
{
    c->told = signal->si_signo;
    if (signal->si_code <= 0 && c->process > 0)
        kill(c->process, signal->si_signo);
}

/* The process that has started this one; 0: not known. */
static pid_t parent_of(pid_t process)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *after_name = strrchr(text, ')');
    int parent = 0;
    return after_name && sscanf(after_name + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

static bool is_under(pid_t process, pid_t ancestor)
{
    for (int i = 0; i < MOST_ANCESTORS && process > 1; i++, process = parent_of(process))
        if (process == ancestor)
            return true;
    return false;
}

/* Whether a process of this program runs under the command on this host. */
static bool ranks_run(const command *c)
{
    char own[4096], path[64], other[4096];
    ssize_t own_length = readlink("/proc/self/exe", own, sizeof own);
    DIR *processes = opendir("/proc");
    bool found = false;
    for (const struct dirent *entry; processes && !found && (entry = readdir(processes));) {
        int process = atoi(entry->d_name);
        if (process <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%d/exe", process);
        ssize_t length = readlink(path, other, sizeof other);
        found = length > 0 && length == own_length && memcmp(own, other, (size_t)length) == 0 && is_under(process, c->process);
    }
    if (processes)
        closedir(processes);
    return found;
}

/* A launcher that cannot reach a host goes on trying after its ranks have given up: it is ended. */
static void end_if_alone(command *c)
{
    bool runs = ranks_run(c);
    c->worked |= runs;
    c->alone = c->worked && !runs ? c->alone + 1 : 0;
    if (c->alone == ALONE_SECONDS)
        kill(c->process, SIGTERM);
    if (c->alone == ALONE_SECONDS + END_SECONDS)
        kill(c->process, SIGKILL);
}

static void wait_for(command *c)
{
    sigset_t set = watched();
    c->worked = false;
    c->alone = 0;
    while (waitpid(c->process, &c->status, WNOHANG) == 0) {
        siginfo_t signal;
        int number = sigtimedwait(&set, &signal, &(struct timespec){.tv_sec = 1});
        if (number == SIGINT || number == SIGTERM)
            pass_on(c, &signal);
        else if (number < 0)
            end_if_alone(c);
    }
    c->process = 0;
}

static void pause_before_restart(command *c, int seconds)
{
    sigset_t set = watched();
    siginfo_t signal;
    sigdelset(&set, SIGCHLD);
    if (sigtimedwait(&set, &signal, &(struct timespec){.tv_sec = seconds}) > 0)
        pass_on(c, &signal);
}

/* -1: it did not end by itself. */
static int code_of(const command *c)
{
    return WIFEXITED(c->status) && c->alone < ALONE_SECONDS ? WEXITSTATUS(c->status) : -1;
}

static bool worth_a_restart(const command *c)
{
    int code = code_of(c);
    return !c->told && code != 0 && code != TR_USER && code != CANNOT_START && code != 128 + SIGINT && code != 128 + SIGTERM;
}

static char *how_it_ended(const command *c)
{
    if (c->alone >= ALONE_SECONDS)
        return tr_format("has ended, but its launcher not within %d s", ALONE_SECONDS);
    if (WIFSIGNALED(c->status))
        return tr_format("was killed by signal %d (%s)", WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
    return tr_format("failed with exit status %d", WEXITSTATUS(c->status));
}

static tr_error *result(const tr_supervision *how, const command *c, int64_t restarted)
{
    int64_t step;
    int code = code_of(c);
    if (code == 0)
        return NULL;
    if (c->told)
        return tr_error_new((tr_blame)(128 + c->told), "%s",
                            code == 128 + c->told ? "" : "stopped by a signal");
    if (code == CANNOT_START)
        return tr_error_new(TR_USER, "%s cannot be started; is it installed and in the PATH?", how->first[0]);
    if (!worth_a_restart(c))
        return tr_error_new((tr_blame)code, "%s", "");
    char *ended = how_it_ended(c);
    tr_error *error =
        has_checkpoint(how->out, &step)
            ? tr_error_new(TR_RUN, "the run %s after %lld restart%s; go on by hand with `trireme train --resume %s`",
                           ended, (long long)restarted, restarted == 1 ? "" : "s", how->out)
            : tr_error_new(TR_RUN, "the run %s after %lld restart%s, before its first checkpoint", ended,
                           (long long)restarted, restarted == 1 ? "" : "s");
    free(ended);
    return error;
}

static void say_restart(const tr_supervision *how, const command *c, int64_t number, bool from_checkpoint, int64_t step,
                        int pause)
{
    char *ended = how_it_ended(c);
    char *from = !from_checkpoint ? tr_strdup("the beginning, since there is no checkpoint yet")
                 : step < 0       ? tr_strdup("the newest checkpoint")
                                  : tr_format("the checkpoint of step %lld", (long long)step);
    char *sentence = tr_format("the run %s; restart %lld of %lld in %d s, from %s", ended, (long long)number,
                               (long long)how->restarts, pause, from);
    how->say(sentence);
    free(ended);
    free(from);
    free(sentence);
}

tr_error *tr_supervise(const tr_supervision *how)
{
    tr_error *error = NULL;
    command c = {0};
    sigset_t set = watched(), before;
    int64_t restarted = 0, step = -1, step_before = -1;
    int pause = FIRST_PAUSE_SECONDS;
    char *const *words = how->first;
    sigprocmask(SIG_BLOCK, &set, &before);
    for (;;) {
        TR_GO(start(words, &before, &c.process));
        wait_for(&c);
        if (restarted >= how->restarts || !worth_a_restart(&c))
            break;
        bool from_checkpoint = has_checkpoint(how->out, &step);
        pause = restarted == 0 || step > step_before ? FIRST_PAUSE_SECONDS : TR_MIN(2 * pause, LAST_PAUSE_SECONDS);
        step_before = step;
        say_restart(how, &c, ++restarted, from_checkpoint, step, pause);
        pause_before_restart(&c, pause);
        if (c.told)
            break;
        words = from_checkpoint ? how->again : how->first;
    }
    error = result(how, &c, restarted);
done:
    sigprocmask(SIG_SETMASK, &before, NULL);
    return error;
}
