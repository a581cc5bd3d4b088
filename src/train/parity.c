/* Parity across meshes; see parity.h. */
#include "train/parity.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "train/parallel.h"

typedef struct parity {
    const char *path;
    char *const *overrides;
    int n_overrides;
    int64_t steps;
    tr_model model;
    char directory[64];
    double *base; /* losses of one rank */
    void (*each)(void *context, const tr_parity *result);
    void *context;
    bool all_within;
} parity;

typedef struct job {
    const parity *p;
    const tr_config *config;
    tr_parity *result;
} job;

static tr_error *run_rank(tr_ranks *ranks, void *user)
{
    job *j = user;
    char *warning;
    tr_trainer *t = NULL;
    tr_step s;
    tr_error *error = NULL;
    bool leads = !ranks || ranks->rank == 0;
    TR_GO(tr_trainer_new(j->config, &(tr_trainer_options){.model = j->p->model, .ranks = ranks}, &warning, &t));
    double worst[] = {(double)tr_program_peak_bytes(t->program), 0};
    for (int64_t i = 0; i < j->p->steps; i++) {
        int64_t before = ranks ? tr_comm_bytes_sent_all(ranks->comm) : 0;
        TR_GO(tr_trainer_step(t, &s));
        worst[1] = ranks ? (double)(tr_comm_bytes_sent_all(ranks->comm) - before) : 0;
        if (leads)
            j->result->losses[i] = s.loss;
    }
    if (ranks)
        TR_GO(tr_ranks_max(ranks, worst, 2));
    if (leads) {
        j->result->planned_peak_bytes = (int64_t)worst[0];
        j->result->bytes_sent = (int64_t)worst[1];
    }
done:
    tr_trainer_free(t);
    return error;
}

static tr_error *run_config(const parity *p, const tr_config *config, tr_parity *result)
{
    job j = {p, config, result};
    return tr_config_run_ranks(config, run_rank, &j);
}

static void compare(parity *p, const tr_config *config, tr_parity *result)
{
    double bound = config->train.precision == TR_BF16 ? 1e-2 : 1e-5;
    for (int64_t i = 0; i < p->steps; i++) {
        double d = fabs(result->losses[i] / p->base[i] - 1);
        if (!(d <= result->max_rel_diff)) /* NaN counts */
            result->max_rel_diff = d;
    }
    result->within = result->max_rel_diff <= bound;
    p->all_within &= result->within;
}

/* One mesh: what the config refuses is a result too; what fails while running is an error. */
static tr_error *run_mesh(parity *p, int64_t data, int64_t sequence, int64_t tensor, const char *kind, int64_t zero,
                          const char *tensor_kind)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    tr_parity result = {.kind = kind, .zero = zero, .ranks = data * sequence * tensor,
                        .losses = tr_alloc_zero((size_t)p->steps, sizeof(double))};
    bool grid = strcmp(tensor_kind, "1d") != 0;
    snprintf(result.mesh, sizeof result.mesh, "data=%lld sequence=%lld tensor=%lld%s%s", (long long)data,
             (long long)sequence, (long long)tensor, grid ? " tensor_kind=" : "", grid ? tensor_kind : "");
    char *own[] = {tr_format("mesh.data=%lld", (long long)data), tr_format("mesh.sequence=%lld", (long long)sequence),
                   tr_format("mesh.tensor=%lld", (long long)tensor), tr_format("mesh.sequence_kind=%s", kind),
                   tr_format("mesh.tensor_kind=%s", tensor_kind),
                   tr_format("zero=%lld", (long long)zero), tr_format("out=%s", p->directory),
                   tr_strdup("train.sample_every=0")};
    int n = p->n_overrides;
    char **all = tr_alloc_zero((size_t)n + TR_COUNT(own), sizeof *all);
    memcpy(all, p->overrides, (size_t)n * sizeof *all);
    for (int i = 0; i < TR_COUNT(own); i++)
        all[n++] = own[i];
    error = tr_config_load(p->path, all, n, &config);
    if (!error)
        error = tr_config_check_run(config);
    if (!error)
        error = run_config(p, config, &result);
    if (error && tr_error_blame(error) == TR_USER && result.ranks > 1) {
        result.refused = tr_strdup(tr_error_text(error));
        tr_error_free(error);
        error = NULL;
    } else if (!error) {
        if (!p->base) {
            p->base = tr_alloc((size_t)p->steps * sizeof(double));
            memcpy(p->base, result.losses, (size_t)p->steps * sizeof(double));
        }
        compare(p, config, &result);
    }
    if (!error)
        p->each(p->context, &result);
    tr_config_free(config);
    for (int i = 0; i < TR_COUNT(own); i++)
        free(own[i]);
    free(all);
    free(result.refused);
    free(result.losses);
    return error;
}

/* The tensor ranks as squares, squares times a depth, cubes. */
static tr_error *run_grids(parity *p, int64_t ranks)
{
    static const char *const names[] = {"1d", "2d", "2.5d", "3d"};
    tr_tensor_grid grid;
    for (int64_t tensor = 2; tensor <= ranks; tensor++)
        for (int kind = TR_TENSOR_2D; kind <= TR_TENSOR_3D && ranks % tensor == 0; kind++)
            for (int64_t zero = 0; zero <= (tensor < ranks ? 3 : 0); zero++)
                if (tr_tensor_grid_of((tr_tensor_kind)kind, tensor, &grid))
                    TR_TRY(run_mesh(p, ranks / tensor, 1, tensor, "none", zero, names[kind]));
    return NULL;
}

static tr_error *run_all(parity *p, int64_t ranks)
{
    TR_TRY(run_mesh(p, 1, 1, 1, "none", 0, "1d"));
    for (int64_t tensor = 1; tensor <= ranks; tensor++)
        for (int64_t sequence = 1; sequence * tensor <= ranks; sequence++) {
            if (ranks % (tensor * sequence) != 0 || ranks == 1)
                continue;
            int64_t data = ranks / (tensor * sequence);
            for (int64_t zero = 0; zero <= (data > 1 ? 3 : 0); zero++) {
                TR_TRY(run_mesh(p, data, sequence, tensor, sequence > 1 ? "ulysses" : "none", zero, "1d"));
                if (tensor > 1 && sequence == 1)
                    TR_TRY(run_mesh(p, data, sequence, tensor, "megatron", zero, "1d"));
            }
        }
    return run_grids(p, ranks);
}

tr_error *tr_parity_run(const char *config_path, char *const *overrides, int n_overrides, int64_t ranks, int64_t steps,
                        tr_model model, void (*each)(void *context, const tr_parity *result), void *context,
                        bool *out_all_within)
{
    parity p = {.path = config_path, .overrides = overrides, .n_overrides = n_overrides, .steps = steps, .model = model,
                .directory = "/tmp/trireme-parity-XXXXXX", .each = each, .context = context, .all_within = true};
    if (!mkdtemp(p.directory))
        return tr_error_new(TR_RUN, "no temporary directory can be made in /tmp");
    tr_error *error = run_all(&p, ranks);
    tr_error_free(tr_path_remove(p.directory));
    free(p.base);
    *out_all_within = p.all_within;
    return error;
}
