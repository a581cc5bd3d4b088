/* Errors as values.
 *
 * A function that can fail returns `tr_error *`: NULL on success, otherwise an error that the caller
 * owns and either handles, passes on, or frees. The text is one sentence: what, where, what to try.
 *
 * Three kinds are never confused:
 *   TR_USER   the user's input is wrong (exit status 2)
 *   TR_RUN    the run failed: disk full, out of memory, a dead peer (exit status 1)
 *   TR_CHECK  an invariant of ours is broken: prints and aborts, it is not an error value
 */
#pragma once
#include <stdarg.h>
#include <stddef.h>

typedef enum tr_blame { TR_RUN = 1, TR_USER = 2 } tr_blame;
typedef struct tr_error tr_error;

#define TR_PRINTF(f, a) __attribute__((format(printf, f, a)))

tr_error *tr_error_new(tr_blame blame, const char *format, ...) TR_PRINTF(2, 3);
/* The same with ": " and the meaning of errno `code` appended. */
tr_error *tr_error_errno(tr_blame blame, int code, const char *format, ...) TR_PRINTF(3, 4);
/* Puts "context: " before the text of `error` (consumed) and returns it; NULL stays NULL. */
tr_error *tr_error_in_take(tr_error *error, const char *format, ...) TR_PRINTF(2, 3);
const char *tr_error_text(const tr_error *error);
tr_blame tr_error_blame(const tr_error *error);
int tr_error_exit_status(const tr_error *error); /* the blame as a number; 0 for NULL */
void tr_error_free(tr_error *error);

#define TR_TRY(call)                   \
    do {                               \
        tr_error *try_error_ = (call); \
        if (try_error_)                \
            return try_error_;         \
    } while (0)

/* For functions with one exit: `tr_error *error = NULL; ... done: clean up; return error;` */
#define TR_GO(call)           \
    do {                      \
        error = (call);       \
        if (error)            \
            goto done;        \
    } while (0)

_Noreturn void tr_check_failed(const char *file, int line, const char *condition,
                               const char *format, ...) TR_PRINTF(4, 5);
#define TR_CHECK(condition, ...) \
    ((condition) ? (void)0 : tr_check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))
