/* Log lines on standard error, written whole. TR_LOG_QUIET for tests and --quiet. */
#pragma once
#include "base/error.h"
void tr_log(const char *format, ...) TR_PRINTF(1, 2);
void tr_log_quiet(int quiet);
