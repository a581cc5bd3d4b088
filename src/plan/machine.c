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

double tr_machine_read_bandwidth(int threads, int64_t bytes, double seconds)
{
    uint64_t *words = NULL;
    tr_error *error = tr_pages_map((size_t)bytes, (void **)&words);
    if (error) {
        tr_error_free(error);
        return 0;
    }
    int64_t n = bytes / 8;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++)
        words[i] = (uint64_t)i;
    double best = 0, end = tr_seconds() + seconds;
    volatile uint64_t sink = 0;
    do {
        uint64_t sum = 0;
        double from = tr_seconds();
#pragma omp parallel num_threads(threads) reduction(+ : sum)
        {
            int64_t t = omp_get_thread_num(), all = omp_get_num_threads();
            sum += tr_read_find(tr_cpu_isa_best())(words + n * t / all, n * (t + 1) / all - n * t / all);
        }
        sink += sum;
        best = TR_MAX(best, (double)bytes / (tr_seconds() - from));
    } while (tr_seconds() < end);
    tr_pages_unmap(words, (size_t)bytes);
    return best;
}
