/* Time since some moment that never goes back: for measuring, not for dates. */
#pragma once
#include <stdint.h>
#include <time.h>

static inline int64_t tr_nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline double tr_seconds(void)
{
    return 1e-9 * (double)tr_nanoseconds();
}
