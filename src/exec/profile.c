/* --profile: time per op, its share, and what part of the machine's peak it reaches. */
#include "exec/program.h"
#include "ir/table.h"

typedef struct line {
    tr_op op;
    tr_phase phase;
    const char *kernel;
    int64_t time_ns, runs;
    double flops, bytes;
} line;

static const char *kernel_name(const tr_instruction *i)
{
    return i->kernel ? i->kernel->name : "ranks";
}

static int by_time(const void *a, const void *b)
{
    const line *x = a, *y = b;
    return x->time_ns < y->time_ns ? 1 : x->time_ns > y->time_ns ? -1 : 0;
}

char *tr_program_profile_text(const tr_program *p, double peak_flops)
{
    line *lines = NULL;
    uint32_t count = 0, room = 0;
    int64_t total = 0;
    for (uint32_t k = 0; k < p->n_instructions; k++) {
        const tr_instruction *i = &p->instructions[k];
        const tr_node_info *node = &p->graph->nodes[i->node];
        line *at = NULL;
        for (uint32_t l = 0; l < count && !at; l++)
            if (lines[l].op == node->op && lines[l].phase == node->phase && lines[l].kernel == kernel_name(i))
                at = &lines[l];
        if (!at) {
            tr_push(lines, count, room) = (line){.op = node->op, .phase = node->phase, .kernel = kernel_name(i)};
            at = &lines[count - 1];
        }
        tr_cost cost = tr_node_cost(p->graph, i->node);
        at->time_ns += i->time_ns;
        at->runs += i->runs;
        at->flops += cost.flops * (double)i->runs;
        at->bytes += cost.bytes * (double)i->runs;
        total += i->time_ns;
    }
    qsort(lines, count, sizeof *lines, by_time);
    tr_text text = {0};
    tr_text_format(&text, "%-22s %-9s %-12s %8s %7s %8s %8s%s\n", "op", "phase", "kernel", "ms", "share",
                   "GFLOP/s", "GB/s", peak_flops > 0 ? "  of peak" : "");
    for (uint32_t l = 0; l < count; l++) {
        const line *at = &lines[l];
        double ns = at->time_ns ? (double)at->time_ns : 1;
        tr_text_format(&text, "%-22s %-9s %-12s %8.1f %6.1f%% %8.1f %8.1f", tr_op_name(at->op),
                       tr_phase_names[at->phase], at->kernel, ns / 1e6, 100.0 * ns / (double)TR_MAX(total, 1),
                       at->flops / ns, at->bytes / ns);
        if (peak_flops > 0)
            tr_text_format(&text, " %7.1f%%", 100.0 * at->flops / ns * 1e9 / peak_flops);
        tr_text_format(&text, "\n");
    }
    tr_text_format(&text, "%-22s %-9s %-12s %8.1f\n", "total", "", "", (double)total / 1e6);
    free(lines);
    return text.bytes;
}
