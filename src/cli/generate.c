/* `trireme generate`: continues a prompt with a trained model, writing the text as it comes. */
#include "cli/cli.h"

#include <stdio.h>

#include <jansson.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/options.h"
#include "data/pretrained.h"
#include "serve/answer.h"
#include "serve/generator.h"

typedef struct generate_options {
    const char *directory;
    const char *prompt, *prompt_file; /* at most one; both NULL: read standard input */
    int64_t max_tokens, top_k, seed, threads, samples, beams;
    double temperature, top_p, repetition_penalty, length_penalty;
    tr_texts stop;
    const char *precision, *isa; /* NULL: as the run was trained; the machine's best */
    bool greedy, json, quiet;
} generate_options;

static bool print_piece(void *context, const char *text, int64_t length)
{
    (void)context;
    return fwrite(text, 1, (size_t)length, stdout) == (size_t)length && fflush(stdout) == 0;
}

static bool collect_piece(void *context, const char *text, int64_t length)
{
    tr_text_add(context, text, (size_t)length);
    return true;
}

static tr_error *read_prompt(const generate_options *options, tr_text *out)
{
    tr_error *error = NULL;
    tr_map map = {0};
    char buffer[4096];
    size_t n;
    if (options->prompt) {
        tr_text_add(out, options->prompt, strlen(options->prompt));
    } else if (options->prompt_file) {
        error = tr_map_open(options->prompt_file, &map);
        if (!error)
            tr_text_add(out, map.bytes, (size_t)map.size);
        tr_map_close(&map);
    } else {
        tr_text_add(out, "", 0);
        while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0)
            tr_text_add(out, buffer, n);
    }
    return error;
}

static void print_json(const tr_text *text, const tr_generated *result)
{
    json_t *object = json_pack("{s:s%, s:I, s:I, s:f, s:f, s:s}", "text", text->bytes ? text->bytes : "",
                               text->length, "tokens", (json_int_t)result->tokens, "prompt_tokens",
                               (json_int_t)result->prompt_tokens, "tokens_per_s",
                               result->decode_s > 0 ? (double)result->tokens / result->decode_s : 0.0, "prefill_s",
                               result->prefill_s, "finish", result->finish);
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

static tr_error *one_text(const generate_options *options, tr_generator *generator, const tr_tokenizer *tokenizer,
                          const tr_text *prompt, int64_t sample)
{
    tr_generated result;
    tr_text text = {0};
    tr_generate how = {.sampling = {.temperature = options->greedy ? 0 : options->temperature, .top_k = options->top_k,
                                    .top_p = options->top_p, .repetition_penalty = options->repetition_penalty,
                                    .seed = (uint64_t)(options->seed + sample)},
                       .max_tokens = options->max_tokens,
                       .stops = options->stop.items,
                       .n_stops = options->stop.count,
                       .stream = options->json ? collect_piece : print_piece,
                       .context = &text};
    if (!options->quiet)
        how.stream(&text, prompt->bytes, (int64_t)prompt->length);
    tr_error *error = tr_generator_run(generator, tokenizer, prompt->bytes, (int64_t)prompt->length, &how, &result);
    if (!error && options->json)
        print_json(&text, &result);
    else if (!error)
        putchar('\n');
    tr_text_free(&text);
    return error;
}

/* Encoder-decoders: the answer to a text. */
static tr_error *one_answer(const generate_options *options, tr_answerer *answerer, const tr_tokenizer *tokenizer,
                            const tr_text *prompt, int64_t sample)
{
    tr_answer answer;
    tr_text text = {0};
    tr_answering how = {.beams = options->beams, .max_tokens = options->max_tokens, .length_penalty = options->length_penalty,
                        .sampling = {.temperature = options->greedy ? 0 : options->temperature, .top_k = options->top_k,
                                     .top_p = options->top_p, .repetition_penalty = options->repetition_penalty,
                                     .seed = (uint64_t)(options->seed + sample)}};
    tr_text_add(&text, "", 0);
    tr_error *error = tr_answerer_run(answerer, tokenizer, prompt->bytes, (int64_t)prompt->length, &how, &answer);
    if (!error)
        error = tr_tokenizer_decode(tokenizer, answer.tokens.items, answer.tokens.count, &text);
    if (!error && options->json) {
        json_t *object = json_pack("{s:s%, s:I, s:I, s:f, s:s}", "text", text.bytes, text.length, "tokens",
                                   (json_int_t)answer.tokens.count, "prompt_tokens", (json_int_t)answer.source_tokens,
                                   "score", answer.score, "finish", answer.finish);
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else if (!error) {
        puts(text.bytes);
    }
    tr_ids_free(&answer.tokens);
    tr_text_free(&text);
    return error;
}

static tr_error *answer(const generate_options *options, const tr_target *target, tr_dtype compute,
                        const tr_tokenizer *tokenizer, const tr_text *prompt)
{
    tr_answerer *answerer;
    TR_TRY(tr_answerer_open(options->directory, target, compute, &answerer));
    tr_error *error = NULL;
    for (int64_t s = 0; s < (options->beams > 1 ? 1 : options->samples) && !error; s++)
        error = one_answer(options, answerer, tokenizer, prompt, s);
    tr_answerer_free(answerer);
    return error;
}

static tr_error *generate(const generate_options *options)
{
    tr_error *error = NULL;
    tr_target target = {.threads = options->threads ? (int)options->threads : tr_cpu_cores()};
    tr_generator *generator = NULL;
    tr_tokenizer *tokenizer = NULL;
    tr_text prompt = {0};
    tr_dtype compute = TR_F32;
    TR_GO(tr_isa_parse(options->isa ? options->isa : "auto", &target.isa));
    if (!tr_path_exists(options->directory))
        TR_GO(tr_error_new(TR_USER, "there is no model '%s'; give the directory of a run or of a checkpoint, or a GGUF file",
                           options->directory));
    TR_GO(read_prompt(options, &prompt));
    TR_GO(tr_tokenizer_load(options->directory, &tokenizer));
    if (options->precision)
        compute = strcmp(options->precision, "bf16") == 0 ? TR_BF16 : TR_F32;
    else
        TR_GO(tr_pretrained_dtype(options->directory, &compute));
    const tr_family *family;
    tr_sizes sizes;
    TR_GO(tr_pretrained_read(options->directory, &family, &sizes));
    if (family && family->two_towers) {
        error = answer(options, &target, compute, tokenizer, &prompt);
        goto done;
    }
    if (options->beams != 1)
        TR_GO(tr_error_new(TR_USER, "--beams is for models with two towers; %s is of the family %s", options->directory,
                           family ? family->name : "custom"));
    TR_GO(tr_generator_open(options->directory, &target, compute, &generator));
    for (int64_t s = 0; s < options->samples; s++)
        TR_GO(one_text(options, generator, tokenizer, &prompt, s));
done:
    tr_generator_free(generator);
    tr_tokenizer_free(tokenizer);
    tr_text_free(&prompt);
    return error;
}

tr_error *cmd_generate(int argc, char **argv)
{
    static const char *const precisions[] = {"fp32", "bf16", NULL};
    generate_options with = {.max_tokens = 200, .samples = 1, .temperature = 1, .top_p = 1, .repetition_penalty = 1,
                             .beams = 1, .length_penalty = 1};
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
        {"beams", 0, "N", "beam search with N beams, in models with two towers (1)", .integer = &with.beams, .least = 1,
         .most = 64},
        {"length-penalty", 0, "X", "a beam's log probability is divided by its length to this power (1)",
         .real = &with.length_penalty, .least = -10, .most = 10},
        {"stop", 0, "TEXT", "end before TEXT appears; may be given several times",
         .texts = &with.stop},
        {"seed", 0, "N", "the same seed gives the same text (0)", .integer = &with.seed,
         .most = 0x1p62},
        {"samples", 0, "N", "how many texts to make, with the seeds N, N + 1, ... (1)",
         .integer = &with.samples, .least = 1, .most = 1e6},
        {"precision", 0, "NAME", "fp32 or bf16", .text = &with.precision, .choices = precisions},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx",
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
        .notes = "DIR is a run of `trireme train`, or any Hugging Face directory of a family that generates.",
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
