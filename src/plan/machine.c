/* Measuring the machine; see machine.h. The loops are in kernels/fast/peak.c, once an instruction set. */
#include "plan/machine.h"

#include <omp.h>

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/peak.h"

double tr_machine_peak_flops(tr_isa isa, tr_dtype dtype, int threads, double seconds)
{
    tr_peak_loop *loop = tr_peak_find(isa);
    double best = 0, end = tr_seconds() + seconds;
    const int64_t rounds = 2000000;
    do {
        double flops = 0, from = tr_seconds();
#pragma omp parallel num_threads(threads) reduction(+ : flops)
        flops += loop(rounds, dtype == TR_BF16);
        double rate = flops / (tr_seconds() - from);
        best = TR_MAX(best, rate);
    } while (tr_seconds() < end);
    return best;
}

struct tr_reader {
    int threads;
    int64_t bytes;
    uint64_t *words;
    volatile uint64_t sink;
};

tr_error *tr_reader_new(int threads, int64_t bytes, tr_reader **out)
{
    tr_reader *r = tr_alloc_zero(1, sizeof *r);
    r->threads = threads;
    r->bytes = bytes;
    *out = NULL;
    tr_error *error = tr_pages_map((size_t)bytes, (void **)&r->words);
    if (error) {
        free(r);
        return error;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < bytes / 8; i++)
        r->words[i] = (uint64_t)i;
    *out = r;
    return NULL;
}

void tr_reader_free(tr_reader *r)
{
    if (!r)
        return;
    tr_pages_unmap(r->words, (size_t)r->bytes);
    free(r);
}

double tr_reader_once(tr_reader *r)
{
    tr_read_loop *loop = tr_read_find(tr_cpu_isa_best());
    int64_t n = r->bytes / 8;
    uint64_t sum = 0;
    double from = tr_seconds();
#pragma omp parallel num_threads(r->threads) reduction(+ : sum)
    {
        int64_t t = omp_get_thread_num(), all = omp_get_num_threads();
        sum += loop(r->words + n * t / all, n * (t + 1) / all - n * t / all);
    }
    r->sink = sum;
    return (double)r->bytes / (tr_seconds() - from);
}

double tr_machine_read_bandwidth(int threads, int64_t bytes, double seconds)
{
    tr_reader *reader;
    tr_error *error = tr_reader_new(threads, bytes, &reader);
    if (error) {
        tr_error_free(error);
        return 0;
    }
    double best = 0, end = tr_seconds() + seconds;
    do {
        double rate = tr_reader_once(reader);
        best = TR_MAX(best, rate);
    } while (tr_seconds() < end);
    tr_reader_free(reader);
    return best;
}
