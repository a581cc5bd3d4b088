/* Log lines; see log.h. */
#define _GNU_SOURCE
#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_int quiet; /* a switch of the whole process, not of a run */

void tr_log_quiet(int value)
{
    atomic_store(&quiet, value);
}

void tr_log(const char *format, ...)
{
    if (atomic_load(&quiet))
        return;
    char *line = NULL;
    va_list arguments;
    va_start(arguments, format);
    int n = vasprintf(&line, format, arguments);
    va_end(arguments);
    if (n < 0)
        return;
    line[n] = '\n'; /* in the place of the end */
    ssize_t written = write(STDERR_FILENO, line, (size_t)n + 1);
    (void)written;
    free(line);
}
