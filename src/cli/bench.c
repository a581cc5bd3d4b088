/* `trireme bench`: what this machine reaches. */
#include "cli/cli.h"

#include <string.h>

#include "base/memory.h"
#include "base/suggest.h"
#include "cli/options.h"

typedef struct bench_options {
    const char *what; /* "gemm", "train", "generate" */
    char *const *overrides;
    int override_count;
    const char *config, *isa;
    int64_t threads;
    double seconds;
    bool json;
} bench_options;

static tr_error *bench(const bench_options *options)
{
    (void)options;
    return tr_error_new(TR_RUN, "bench is not implemented yet");
}

tr_error *cmd_bench(int argc, char **argv)
{
    static const char *const subjects[] = {"gemm", "train", "generate"};
    bench_options with = {.seconds = 10};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object", .flag = &with.json},
        {"config", 'c', "FILE",
         "for train and generate: the model and sizes; default GPT-2 124M, 4 x 512",
         .text = &with.config},
        {"seconds", 0, "X", "measure for about X seconds (10)", .real = &with.seconds, .least = 0.1,
         .most = 86400},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16",
         .text = &with.isa},
    };
    const tr_usage usage = {
        .name = "bench",
        .operands = "gemm|train|generate [key=value ...]",
        .summary = "what this machine reaches: matrix products, training, generation",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme bench train train.precision=bf16 --json",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    with.what = operands.items[0];
    with.overrides = operands.items + 1;
    with.override_count = operands.count - 1;
    for (int64_t i = 0; i < TR_COUNT(subjects); i++)
        if (strcmp(with.what, subjects[i]) == 0)
            return bench(&with);
    const char *near = tr_suggest(with.what, subjects, TR_COUNT(subjects));
    return tr_usage_error(&usage, "bench knows gemm, train and generate, not '%s'%s%s%s", with.what,
                          near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
