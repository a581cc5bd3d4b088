/* `trireme generate`: continues a prompt with a trained model, writing the text as it comes. */
#include "cli/cli.h"

#include <math.h>

#include "base/memory.h"
#include "cli/options.h"

typedef struct generate_options {
    const char *directory;
    const char *prompt, *prompt_file; /* at most one; both NULL: read standard input */
    int64_t max_tokens, top_k, seed, threads, samples;
    double temperature, top_p, repetition_penalty;
    tr_texts stop;
    const char *precision, *isa; /* NULL: as the run was trained; the machine's best */
    bool greedy, json, quiet;
} generate_options;

static tr_error *generate(const generate_options *options)
{
    (void)options;
    return tr_error_new(TR_RUN, "generate is not implemented yet");
}

tr_error *cmd_generate(int argc, char **argv)
{
    static const char *const precisions[] = {"fp32", "bf16", NULL};
    generate_options with = {
        .max_tokens = 200, .samples = 1, .temperature = 1, .top_p = 1, .repetition_penalty = 1};
    const tr_option options[] = {
        {"prompt", 'p', "TEXT", "the text to continue; without it, standard input",
         .text = &with.prompt},
        {"prompt-file", 0, "FILE", "take the prompt from FILE", .text = &with.prompt_file},
        {"max-tokens", 'n', "N", "stop after N tokens (200)", .integer = &with.max_tokens,
         .most = 1e9},
        {"temperature", 't', "X", "below 1 sharper, above 1 wilder, 0 the same as --greedy (1)",
         .real = &with.temperature, .most = 100},
        {"top-k", 0, "N", "choose among the N likeliest tokens only; 0: all (0)",
         .integer = &with.top_k, .most = 1e9},
        {"top-p", 0, "X", "choose among the likeliest tokens that together have probability X (1)",
         .real = &with.top_p, .least = 1e-6, .most = 1},
        {"repetition-penalty", 0, "X",
         "divide the scores of tokens that were there before by X (1)",
         .real = &with.repetition_penalty, .least = 0.01, .most = 100},
        {"greedy", 0, NULL, "always take the likeliest token", .flag = &with.greedy},
        {"stop", 0, "TEXT", "end before TEXT appears; may be given several times",
         .texts = &with.stop},
        {"seed", 0, "N", "the same seed gives the same text (0)", .integer = &with.seed,
         .most = 0x1p62},
        {"samples", 0, "N", "how many texts to make, with the seeds N, N + 1, ... (1)",
         .integer = &with.samples, .least = 1, .most = 1e6},
        {"precision", 0, "NAME", "fp32 or bf16", .text = &with.precision, .choices = precisions},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16",
         .text = &with.isa},
        {"json", 0, NULL, "print one JSON object a text: text, tokens, tokens_per_s",
         .flag = &with.json},
        {"quiet", 'q', NULL, "print the continuation only, not the prompt", .flag = &with.quiet},
    };
    const tr_usage usage = {
        .name = "generate",
        .operands = "DIR",
        .summary = "continue a text with a trained model",
        .options = options,
        .count = TR_COUNT(options),
        .examples =
            "trireme generate runs/gpt2-small --prompt \"The Congress\" --max-tokens 200 \\\n"
            "    --temperature 0.8 --top-p 0.95 --seed 1",
        .notes = "DIR is a run of `trireme train`, or any Hugging Face GPT-2 directory.",
        .min = 1,
        .max = 1,
    };
    tr_operands operands;
    tr_error *error = tr_options_parse(&usage, argc, argv, &operands);
    if (error || operands.help)
        goto done;
    if (with.prompt && with.prompt_file) {
        error = tr_usage_error(&usage, "give --prompt or --prompt-file, not both");
        goto done;
    }
    with.directory = operands.items[0];
    error = generate(&with);
done:
    tr_texts_free(&with.stop);
    return error;
}
