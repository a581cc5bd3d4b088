/* Log lines; see log.h. */
#include "base/log.h"

#include <stdatomic.h>
#include <stdio.h>
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
    char line[2048];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (n < 0)
        return;
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
}
