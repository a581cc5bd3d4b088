/* Errors as values; see error.h. */
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tr_error {
    tr_blame blame;
    char *text;
};

/* What is returned when there is no memory left even for the message. */
static tr_error no_memory = {TR_RUN, "out of memory while reporting another error"};

static char *format_text(const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, arguments);
    return text;
}

static tr_error *make_take(tr_blame blame, char *text)
{
    tr_error *error = text ? malloc(sizeof *error) : NULL;
    if (!error) {
        free(text);
        return &no_memory;
    }
    *error = (tr_error){blame, text};
    return error;
}

/* "a" + ": " + "b"; consumes neither. */
static char *join(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    char *text = malloc(na + nb + 3);
    if (text) {
        memcpy(text, a, na);
        memcpy(text + na, ": ", 2);
        memcpy(text + na + 2, b, nb + 1);
    }
    return text;
}

tr_error *tr_error_new(tr_blame blame, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_text(format, arguments);
    va_end(arguments);
    return make_take(blame, text);
}

tr_error *tr_error_errno(tr_blame blame, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *what = format_text(format, arguments);
    va_end(arguments);
    char *text = what ? join(what, strerror(code)) : NULL;
    free(what);
    return make_take(blame, text);
}

tr_error *tr_error_in_take(tr_error *error, const char *format, ...)
{
    if (!error || error == &no_memory)
        return error;
    va_list arguments;
    va_start(arguments, format);
    char *where = format_text(format, arguments);
    va_end(arguments);
    char *text = where ? join(where, error->text) : NULL;
    free(where);
    if (text) {
        free(error->text);
        error->text = text;
    }
    return error;
}

const char *tr_error_text(const tr_error *error)
{
    return error ? error->text : "no error";
}

tr_blame tr_error_blame(const tr_error *error)
{
    return error->blame;
}

int tr_error_exit_status(const tr_error *error)
{
    return error ? (int)error->blame : 0;
}

void tr_error_free(tr_error *error)
{
    if (!error || error == &no_memory)
        return;
    free(error->text);
    free(error);
}

void tr_check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "trireme: internal error at %s:%d: %s: ", file, line, condition);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}
