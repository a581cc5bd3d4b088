/* The plan's record; see plan_record.h. One small record a rank is gathered on every rank. */
#include "train/plan_record.h"

#include <unistd.h>

#include "train/parallel.h"

enum { MOST_HOST = 64 };

typedef struct rank_record {
    char host[MOST_HOST];
    int64_t threads, isa, planned_peak_bytes, parameters_bytes, optimizer_bytes, step_bytes;
} rank_record;

static rank_record own_record(const tr_trainer *t)
{
    const tr_memory *m = &t->program->memory;
    rank_record r = {.threads = t->target.threads,
                     .isa = (int64_t)t->target.isa,
                     .planned_peak_bytes = tr_program_peak_bytes(t->program),
                     .parameters_bytes = m->params_bytes,
                     .optimizer_bytes = m->state_bytes,
                     .step_bytes = m->input_bytes + m->arena_bytes + t->program->comm_bytes};
    if (gethostname(r.host, sizeof r.host - 1) != 0)
        strcpy(r.host, "unknown");
    return r;
}

static json_t *record_json(const rank_record *r, int rank)
{
    json_t *host = json_string(r->host); /* NULL: no UTF-8 */
    json_t *record = json_pack("{s:i, s:o, s:I, s:s, s:I, s:I, s:I, s:I}", "rank", rank, "host",
                               host ? host : json_string("?"), "threads", (json_int_t)r->threads, "isa",
                               tr_isa_name((tr_isa)r->isa), "planned_peak_bytes", (json_int_t)r->planned_peak_bytes,
                               "parameters_bytes", (json_int_t)r->parameters_bytes, "optimizer_bytes",
                               (json_int_t)r->optimizer_bytes, "step_bytes", (json_int_t)r->step_bytes);
    TR_CHECK(record, "a rank's record is no JSON");
    return record;
}

tr_error *tr_plan_record(const tr_trainer *t, json_t **out, int64_t *out_worst)
{
    int count = t->ranks ? t->ranks->count : 1;
    rank_record own = own_record(t), *all = tr_alloc_zero((size_t)count, sizeof *all);
    tr_error *error = NULL;
    *out = NULL;
    all[0] = own;
    if (t->ranks) {
        tr_group world = tr_group_world(count, t->ranks->rank);
        tr_cut cut = {.outer = 1, .count = count * (int64_t)sizeof own};
        error = tr_comm_all_gather(t->ranks->comm, &world, &own, all, cut, TR_U8);
        tr_group_free(&world);
    }
    if (!error) {
        char *mesh = tr_config_mesh_text(t->config);
        json_t *ranks = json_array();
        *out_worst = 0;
        for (int r = 0; r < count; r++) {
            *out_worst = TR_MAX(*out_worst, all[r].planned_peak_bytes);
            json_array_append_new(ranks, record_json(&all[r], r));
        }
        *out = json_pack("{s:s, s:I, s:s, s:o}", "mesh", mesh, "zero", (json_int_t)t->config->zero, "transport",
                         t->ranks ? tr_comm_transport(t->ranks->comm) : "none", "ranks", ranks);
        TR_CHECK(*out, "the plan's record is no JSON");
        free(mesh);
    }
    free(all);
    return error;
}
