/* `trireme inspect --schedule`: the pipeline's schedule as CSV, which pipeline.schedule reads again; what it costs
 * stands in lines that begin with #. */
#include "cli/inspect_schedule.h"

#include <stdio.h>

#include "base/cpu.h"
#include "plan/machine.h"
#include "train/parallel.h"

/* Seconds of each stage at this machine's speed: FMA peak and read bandwidth of one rank's threads. */
static tr_stage_cost *measure(const tr_program *p, int stages)
{
    tr_stage_cost *costs = tr_alloc_zero((size_t)stages, sizeof *costs);
    double flops = tr_machine_peak_flops(p->target.isa, p->graph->compute, p->target.threads, 0.05);
    double bytes = tr_machine_read_bandwidth(p->target.threads, (int64_t)1 << 26, 0.05);
    tr_pipeline_costs(tr_program_leaves(p), stages, flops, bytes, bytes, costs);
    return costs;
}

static void print_layers(const tr_graph *g, int stage)
{
    int32_t first = -1, last = -1;
    for (tr_node n = 1; n < g->n_nodes; n++)
        if (g->nodes[n].stage == stage && g->nodes[n].layer >= 0 && g->nodes[n].phase == TR_FORWARD) {
            first = first < 0 ? g->nodes[n].layer : first;
            last = g->nodes[n].layer;
        }
    printf(" layers %d-%d", first, last);
}

static tr_error *print(const tr_program *p, const tr_schedule *s)
{
    tr_schedule_report report;
    tr_schedule_clock clock;
    tr_text csv = {0};
    TR_TRY(tr_schedule_check(s, NULL, &report));
    tr_stage_cost *costs = measure(p, s->stages);
    tr_error *error = tr_schedule_simulate(s, costs, &clock);
    if (!error) {
        printf("# %d ranks, %d stages, %d microbatches; an action is a stage, F, I, W or B, and a microbatch\n", s->ranks,
               s->stages, s->microbatches);
        printf("# bubble %.4f of the ranks' time (simulated: flops and bytes of each stage at this machine's speed)\n",
               clock.bubble);
        for (int r = 0; r < s->ranks; r++) {
            printf("# rank %d: idle %.4f, microbatches alive %d;", r, clock.idle_share[r], report.live_peak[r]);
            for (int i = 0; i < s->stages; i++)
                if (s->rank_of_stage[i] == r) {
                    printf(" stage %d", i);
                    print_layers(tr_program_leaves(p), i);
                }
            printf("\n");
        }
        tr_schedule_print_csv(s, &csv);
        fputs(csv.bytes, stdout);
        tr_schedule_clock_free(&clock);
    }
    tr_text_free(&csv);
    free(costs);
    tr_schedule_report_free(&report);
    return error;
}

tr_error *cli_inspect_schedule(const tr_config *config, const tr_program *program)
{
    tr_config_stages stages;
    tr_schedule *alone = NULL;
    tr_error *error = NULL;
    TR_TRY(tr_config_pipeline(config, 0, &stages));
    if (!stages.schedule) /* gradient accumulation is the pipeline of one stage */
        error = tr_schedule_new(TR_PIPELINE_1F1B, 1, 1, config->train.batch / config->train.micro_batch, &alone);
    if (!error)
        error = print(program, alone ? alone : stages.schedule);
    tr_schedule_free(alone);
    tr_config_pipeline_free(&stages);
    return error;
}
