/* What this machine can do: its peak of multiply-adds and its memory bandwidth, measured. */
#pragma once
#include "base/cpu.h"
#include "base/error.h"
#include "ir/dtype.h"

/* Flops a second of a loop of independent fused multiply-adds in registers on `threads` threads, the best of
 * several rounds within about `seconds`. bf16: dot products where the set has them, else the f32 figure. */
double tr_machine_peak_flops(tr_isa isa, tr_dtype dtype, int threads, double seconds);
/* Bytes a second of reading `bytes` of memory on `threads` threads, the best of several rounds. */
double tr_machine_read_bandwidth(int threads, int64_t bytes, double seconds);

/* The same, once at a time, for a figure beside something else that reads: other machines' work on the same memory
 * comes and goes within seconds. */
typedef struct tr_reader tr_reader;
tr_error *tr_reader_new(int threads, int64_t bytes, tr_reader **out);
double tr_reader_once(tr_reader *reader); /* bytes a second */
void tr_reader_free(tr_reader *reader);
