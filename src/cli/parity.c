/* `trireme parity`: the same run on every mesh, losses side by side. */
#include "cli/cli.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/options.h"
#include "train/parity.h"

typedef struct parity_options {
    int64_t ranks, steps;
    const char *mesh; /* NULL: all */
    bool json;
} parity_options;

static void print_json(const tr_parity *r, int64_t steps)
{
    json_t *object = json_pack("{s:s, s:I, s:s?}", "mesh", r->of.mesh, "zero", (json_int_t)r->of.zero, "schedule",
                               r->of.schedule);
    if (r->refused) {
        json_object_set_new(object, "refused", json_string(r->refused));
    } else {
        json_t *losses = json_array();
        for (int64_t i = 0; i < steps; i++) /* JSON has no NaN: null */
            json_array_append_new(losses, isfinite(r->losses[i]) ? json_real(r->losses[i]) : json_null());
        json_object_set_new(object, "losses", losses);
        json_object_set_new(object, "max_rel_diff", isfinite(r->max_rel_diff) ? json_real(r->max_rel_diff) : json_null());
        json_object_set_new(object, "bytes_sent", json_integer(r->bytes_sent));
        json_object_set_new(object, "planned_peak_bytes", json_integer(r->planned_peak_bytes));
        json_object_set_new(object, "peak_bytes", json_integer(r->peak_bytes));
    }
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
}

static void print_result(void *context, const tr_parity *r)
{
    const parity_options *options = context;
    const char *schedule = r->of.schedule ? r->of.schedule : "-";
    if (options->json) {
        print_json(r, options->steps);
    } else if (r->refused) {
        printf("%-42s %-11s %4lld  refused: %s\n", r->of.mesh, schedule, (long long)r->of.zero, r->refused);
    } else {
        printf("%-42s %-11s %4lld  %10.6f  %9.2e  %14lld  %10.2f  %10.2f%s\n", r->of.mesh, schedule,
               (long long)r->of.zero, r->losses[options->steps - 1], r->max_rel_diff, (long long)r->bytes_sent,
               (double)r->planned_peak_bytes / 1e6, (double)r->peak_bytes / 1e6, r->within ? "" : "  DIFFERS");
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
        {"mesh", 0, "MESH", "this one alone, e.g. \"data=2 tensor=2\", with every ZeRO and schedule", .text = &with.mesh},
        {"json", 0, NULL, "print one JSON object a mesh", .flag = &with.json},
    };
    const tr_usage usage = {
        .name = "parity",
        .operands = "CONFIG [key=value ...]",
        .summary = "the same run on every mesh: losses, bytes sent, memory a rank",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme parity examples/parity.yaml --ranks 8",
        .notes = "The first line is one rank. planned MB: of the rank that needs most; peak MB: measured,\n"
                 "with what the process holds beside the plan shared out among its ranks. Losses must agree\n"
                 "within 1e-5 (fp32), 1e-3 (mesh.wire=bf16) or 1e-2 (bf16), relative; the exit status is 1\n"
                 "if one does not.",
        .min = 1,
        .max = -1,
    };
    tr_operands operands;
    bool within = true;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!with.json)
        printf("%-42s %-11s %4s  %10s  %9s  %14s  %10s  %10s\n", "mesh", "schedule", "zero", "last loss", "max diff",
               "bytes a step", "planned MB", "peak MB");
    TR_TRY(tr_parity_run(operands.items[0], operands.items + 1, operands.count - 1, with.ranks, with.steps,
                         with.mesh, NULL, print_result, &with, &within));
    return within ? NULL : tr_error_new(TR_RUN, "the loss differs between meshes by more than its bound; see the table");
}
