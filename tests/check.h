/* The smallest test harness: a test program is a list of functions, each of which can fail.
 *
 *     static void test_addition(void) { CHECK_INT(1 + 1, 2); }
 *     int main(int argc, char **argv) { TEST(test_addition); return check_report(); }
 *
 * Exit status 0 when all passed, 1 when any failed, 77 when everything was skipped.
 */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static int check_passed, check_failed, check_skipped;
static bool check_ok;

#define FAIL(...)                                                  \
    do {                                                           \
        check_ok = false;                                          \
        fprintf(stderr, "  %s:%d: ", __FILE__, __LINE__);          \
        fprintf(stderr, __VA_ARGS__);                              \
        fputc('\n', stderr);                                       \
    } while (0)
#define CHECK(condition)              \
    do {                              \
        if (!(condition))             \
            FAIL("%s", #condition);   \
    } while (0)
#define CHECK_INT(got, want)                                                               \
    do {                                                                                   \
        long long got_ = (long long)(got), want_ = (long long)(want);                      \
        if (got_ != want_)                                                                 \
            FAIL("%s is %lld, expected %lld", #got, got_, want_);                          \
    } while (0)
#define CHECK_NEAR(got, want, tolerance)                                                   \
    do {                                                                                   \
        double got_ = (got), want_ = (want);                                               \
        if (!(fabs(got_ - want_) <= (tolerance)))                                          \
            FAIL("%s is %.9g, expected %.9g within %.3g", #got, got_, want_, (double)(tolerance)); \
    } while (0)
#define CHECK_STRING(got, want)                                                            \
    do {                                                                                   \
        const char *got_ = (got), *want_ = (want);                                         \
        if (!got_ || strcmp(got_, want_) != 0)                                             \
            FAIL("%s is \"%s\", expected \"%s\"", #got, got_ ? got_ : "(null)", want_);    \
    } while (0)
/* The call must succeed; otherwise its message is the failure. */
#define CHECK_OK(call)                                           \
    do {                                                         \
        tr_error *error_ = (call);                               \
        if (error_) {                                            \
            FAIL("%s: %s", #call, tr_error_text(error_));        \
            tr_error_free(error_);                               \
        }                                                        \
    } while (0)
/* The call must fail, and its message must contain `part`. */
#define CHECK_ERROR(call, part)                                                                \
    do {                                                                                       \
        tr_error *error_ = (call);                                                             \
        if (!error_)                                                                           \
            FAIL("%s succeeded, expected an error with \"%s\"", #call, part);                  \
        else if (!strstr(tr_error_text(error_), part))                                         \
            FAIL("%s says \"%s\", expected \"%s\" in it", #call, tr_error_text(error_), part); \
        tr_error_free(error_);                                                                 \
    } while (0)
#define TEST(function)                                            \
    do {                                                          \
        check_ok = true;                                          \
        function();                                               \
        check_ok ? check_passed++ : check_failed++;               \
        if (!check_ok)                                            \
            fprintf(stderr, "FAILED %s\n", #function);            \
    } while (0)

static inline int check_report(void)
{
    printf("%d passed, %d failed, %d skipped\n", check_passed, check_failed, check_skipped);
    if (check_failed)
        return 1;
    return check_passed || !check_skipped ? 0 : 77;
}
