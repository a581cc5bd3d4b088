/* `trireme parity`: the same run on every mesh, losses side by side. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/options.h"
#include "models/models.h"
#include "train/parity.h"

typedef struct parity_options {
    int64_t ranks, steps;
    bool json;
} parity_options;

static void print_result(void *context, const tr_parity *r)
{
    const parity_options *options = context;
    if (options->json) {
        json_t *losses = json_array();
        for (int64_t i = 0; i < options->steps && !r->refused; i++)
            json_array_append_new(losses, json_real(r->losses[i]));
        json_t *object = json_pack("{s:s, s:I, s:I, s:s, s:s?, s:o, s:f, s:I, s:I}", "mesh", r->mesh, "ranks",
                                   (json_int_t)r->ranks, "zero", (json_int_t)r->zero, "sequence_kind", r->kind, "refused",
                                   r->refused, "losses", losses, "max_rel_diff", r->max_rel_diff, "bytes_sent",
                                   (json_int_t)r->bytes_sent, "planned_peak_bytes", (json_int_t)r->planned_peak_bytes);
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else if (r->refused) {
        printf("%-32s %-9s %4lld  refused: %s\n", r->mesh, r->kind, (long long)r->zero, r->refused);
    } else {
        printf("%-32s %-9s %4lld  %10.6f  %9.2e  %14lld  %10.2f%s\n", r->mesh, r->kind, (long long)r->zero,
               r->losses[options->steps - 1], r->max_rel_diff, (long long)r->bytes_sent,
               (double)r->planned_peak_bytes / 1e6, r->within ? "" : "  DIFFERS");
    }
    fflush(stdout);
}

tr_error *cmd_parity(int argc, char **argv)
{
    parity_options with = {.ranks = 4, .steps = 10};
    const tr_option options[] = {
        {"ranks", 0, "N", "every mesh of N ranks, as threads of this process (4)", .integer = &with.ranks, .least = 1,
         .most = 64},
        {"steps", 0, "N", "optimizer steps on each (10)", .integer = &with.steps, .least = 1,
         .most = TR_PARITY_MOST_STEPS},
        {"json", 0, NULL, "print one JSON object a mesh", .flag = &with.json},
    };
    const tr_usage usage = {
        .name = "parity",
        .operands = "CONFIG [key=value ...]",
        .summary = "the same run on every mesh: losses, bytes sent, planned memory a rank",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme parity examples/parity.yaml --ranks 8",
        .notes = "The first line is one rank. Losses must agree within 1e-5 (fp32) or 1e-2 (bf16), relative;\n"
                 "the exit status is 1 if one does not.",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    bool within = true;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!with.json)
        printf("%-32s %-9s %4s  %10s  %9s  %14s  %10s\n", "mesh", "sequence", "zero", "last loss", "max diff",
               "bytes a step", "peak MB");
    TR_TRY(tr_parity_run(operands.items[0], operands.items + 1, operands.count - 1, with.ranks, with.steps, tr_gpt,
                         print_result, &with, &within));
    return within ? NULL : tr_error_new(TR_RUN, "the loss differs between meshes by more than its bound; see the table");
}
