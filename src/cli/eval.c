/* `trireme eval`: the loss of a model on a text, or its logits for given token ids. */
#include "cli/cli.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/options.h"
#include "serve/score.h"

typedef struct eval_options {
    const char *directory;
    const char *data;         /* text to score */
    const char *logits, *out; /* token ids in, NumPy array out */
    const char *precision, *isa;
    int64_t seq, batch, threads; /* 0: the model's context, a default, all cores */
    bool json;
} eval_options;

static tr_error *score(const eval_options *options, const tr_scoring *how)
{
    tr_score score;
    TR_TRY(tr_score_text(options->directory, options->data, how, &score));
    double perplexity = exp(score.loss), bits = score.bytes > 0 ? score.loss * (double)score.tokens / log(2) / (double)score.bytes : NAN;
    if (options->json) {
        json_t *object = json_pack("{s:f, s:f, s:o, s:I, s:I}", "loss", score.loss, "perplexity", perplexity,
                                   "bits_per_byte", isfinite(bits) ? json_real(bits) : json_null(), "tokens",
                                   (json_int_t)score.tokens, "bytes", (json_int_t)score.bytes);
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else {
        printf("loss           %.4f nats a token\nperplexity     %.3f\n", score.loss, perplexity);
        if (isfinite(bits))
            printf("bits per byte  %.4f\n", bits);
        printf("tokens         %lld\n", (long long)score.tokens);
    }
    return NULL;
}

static tr_error *eval(const eval_options *options)
{
    tr_scoring how = {.seq = options->seq, .batch = options->batch,
                      .target = {.threads = options->threads ? (int)options->threads : tr_cpu_cores()},
                      .compute = options->precision && strcmp(options->precision, "bf16") == 0 ? TR_BF16 : TR_F32};
    TR_TRY(tr_isa_parse(options->isa ? options->isa : "auto", &how.target.isa));
    return options->logits ? tr_score_logits(options->directory, options->logits, options->out, &how)
                           : score(options, &how);
}

tr_error *cmd_eval(int argc, char **argv)
{
    static const char *const precisions[] = {"fp32", "bf16", NULL};
    eval_options with = {0};
    const tr_option options[] = {
        {"data", 'd', "FILE", "the text to score: a file, a directory, JSONL, or token shards",
         .text = &with.data},
        {"json", 0, NULL, "print one JSON object: loss, perplexity, bits_per_byte, tokens",
         .flag = &with.json},
        {"logits", 0, "FILE",
         "instead: the model's logits for the token ids or images in FILE",
         .text = &with.logits},
        {"out", 'o', "FILE", "where --logits writes its NumPy array, [B, T, vocab] for text",
         .text = &with.out},
        {"seq", 0, "N", "tokens in a sequence; 0: the model's context (0)", .integer = &with.seq,
         .most = 1e9},
        {"batch", 0, "N", "sequences at a time; 0: as many as are quick (0)",
         .integer = &with.batch, .most = 1e9},
        {"precision", 0, "NAME", "fp32 or bf16", .text = &with.precision, .choices = precisions},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx",
         .text = &with.isa},
    };
    const tr_usage usage = {
        .name = "eval",
        .operands = "DIR",
        .summary = "loss, perplexity and bits per byte of a model on a text",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme eval runs/gpt2-small --data held-out.txt\n"
                    "trireme eval runs/gpt2-small --logits ids.json --out logits.npy",
        .notes = "DIR is a run of `trireme train`, or any Hugging Face directory of a family that is known.\nFILE of --logits: [[id, ...], ...] in JSON, or an object with input_ids, attention_mask,\ntoken_type_ids, decoder_input_ids; or FILE.npy, images f32 [batch, channels, height, width].",
        .min = 1,
        .max = 1,
    };
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!with.data == !with.logits)
        return tr_usage_error(&usage, "eval needs either --data=FILE or --logits=FILE");
    if (!with.logits != !with.out)
        return tr_usage_error(&usage,
                              "--logits=FILE and --out=FILE are given together or not at all");
    with.directory = operands.items[0];
    return eval(&with);
}
