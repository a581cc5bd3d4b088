/* `trireme embed`: a vector for each line of standard input. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/memory.h"
#include "cli/options.h"
#include "serve/embed.h"

enum { LINES = 256 }; /* read and embedded at a time */

typedef struct lines {
    char *text[LINES];
    int64_t length[LINES];
    int64_t count;
} lines;

static void free_lines(lines *l)
{
    for (int64_t i = 0; i < l->count; i++)
        free(l->text[i]);
    l->count = 0;
}

static void read_lines(FILE *file, lines *out)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    while (out->count < LINES && (n = getline(&line, &room, file)) >= 0) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        out->length[out->count] = n;
        out->text[out->count++] = line;
        line = NULL;
        room = 0;
    }
    free(line);
}

static void print_vector(const float *x, int64_t width)
{
    for (int64_t d = 0; d < width; d++)
        printf("%c%.9g", d ? ',' : '[', (double)x[d]);
    puts("]");
}

static tr_error *embed(tr_embedder *embedder)
{
    lines l = {.count = 0};
    int64_t width = tr_embedder_width(embedder);
    float *vectors = tr_alloc((size_t)(LINES * width) * sizeof *vectors);
    tr_error *error = NULL;
    for (read_lines(stdin, &l); l.count && !error; read_lines(stdin, &l)) {
        error = tr_embedder_run(embedder, (const char *const *)l.text, l.length, l.count, vectors);
        for (int64_t i = 0; i < l.count && !error; i++)
            print_vector(vectors + i * width, width);
        free_lines(&l);
    }
    free(vectors);
    return error;
}

tr_error *cmd_embed(int argc, char **argv)
{
    static const char *const precisions[] = {"fp32", "bf16", NULL};
    const char *precision = NULL, *isa = NULL;
    int64_t threads = 0;
    const tr_option options[] = {
        {"precision", 0, "NAME", "fp32 or bf16", .text = &precision, .choices = precisions},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx", .text = &isa},
    };
    const tr_usage usage = {
        .name = "embed",
        .operands = "DIR < lines.txt",
        .summary = "a vector for each line of standard input, one JSON array a line",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme embed all-MiniLM-L6-v2 < sentences.txt",
        .notes = "DIR is a directory of sentence-transformers, which says how tokens are pooled and whether\n"
                 "vectors have length 1, or any model whose family shows its hidden states: mean, length 1.",
        .min = 1,
        .max = 1,
    };
    tr_operands operands;
    tr_embedder *embedder = NULL;
    tr_target target = {0};
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    TR_TRY(tr_isa_parse(isa ? isa : "auto", &target.isa));
    target.threads = threads ? (int)threads : tr_cpu_cores();
    TR_TRY(tr_embedder_open(operands.items[0], &target, precision && strcmp(precision, "bf16") == 0 ? TR_BF16 : TR_F32,
                            &embedder));
    tr_error *error = embed(embedder);
    tr_embedder_free(embedder);
    return error;
}
