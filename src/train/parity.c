/* Parity across meshes; see parity.h. The list of meshes is in run_all: a technique adds its cases there. */
#define _GNU_SOURCE
#include "train/parity.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "train/parallel.h"

typedef struct parity {
    const char *path;
    char *const *overrides;
    int n_overrides;
    int64_t steps, batch;
    int64_t experts; /* of a layer; 1: there are none */
    tr_model model;
    char directory[64];
    double *base; /* losses of one rank */
    void (*each)(void *context, const tr_parity *result);
    void *context;
    const char *only; /* the mesh to run beside one rank; NULL: all */
    bool all_within, found;
} parity;

/* The child's side ------------------------------------------------------------------------------- */

typedef struct job {
    const parity *p;
    const tr_config *config;
    tr_parity *result;
    _Atomic int64_t touched; /* of all ranks */
} job;

static tr_error *run_rank(tr_ranks *ranks, void *user)
{
    job *j = user;
    char *warning = NULL;
    tr_trainer *t = NULL;
    tr_step s;
    tr_error *error = NULL;
    bool leads = !ranks || ranks->rank == 0;
    TR_GO(tr_trainer_new(j->config, &(tr_trainer_options){.model = j->p->model, .ranks = ranks}, &warning, &t));
    double worst[] = {(double)tr_program_peak_bytes(t->program), 0, 0};
    for (int64_t i = 0; i < j->p->steps; i++) {
        int64_t before = ranks ? tr_comm_bytes_sent_all(ranks->comm) : 0;
        TR_GO(tr_trainer_step(t, &s));
        worst[1] = ranks ? (double)(tr_comm_bytes_sent_all(ranks->comm) - before) : 0;
        if (leads)
            j->result->losses[i] = s.loss;
    }
    int64_t touched = tr_program_touched_bytes(t->program);
    atomic_fetch_add(&j->touched, touched);
    worst[2] = (double)touched;
    if (ranks)
        TR_GO(tr_ranks_max(ranks, worst, 3));
    if (leads) {
        j->result->planned_peak_bytes = (int64_t)worst[0];
        j->result->bytes_sent = (int64_t)worst[1];
        j->result->peak_bytes = (int64_t)worst[2];
    }
done:
    free(warning);
    tr_trainer_free(t);
    return error;
}

static tr_error *run_config(const parity *p, const tr_config *config, tr_parity *result)
{
    job j = {.p = p, .config = config, .result = result};
    int64_t before = tr_process_peak_bytes(); /* of a process that was just forked: what it holds */
    TR_TRY(tr_config_run_ranks(config, run_rank, &j, NULL));
    int64_t more = tr_process_peak_bytes() - before - j.touched;
    result->peak_bytes += TR_MAX(more, 0) / result->of.ranks;
    return NULL;
}

/* Between the processes --------------------------------------------------------------------------- */

/* What the child says: this, then the losses or the sentence. */
typedef struct answer {
    int64_t blame, length; /* blame 0: it went well */
    int64_t bytes_sent, planned_peak_bytes, peak_bytes;
} answer;

static bool write_all(int fd, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static bool read_all(int fd, void *bytes, size_t size)
{
    char *at = bytes;
    while (size) {
        ssize_t n = read(fd, at, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static _Noreturn void be_child(const parity *p, const tr_config *config, tr_parity *result, int fd)
{
    tr_error *error = run_config(p, config, result);
    const char *text = tr_error_text(error);
    answer a = {.blame = tr_error_exit_status(error),
                .length = error ? (int64_t)strlen(text) : p->steps * (int64_t)sizeof(double),
                .bytes_sent = result->bytes_sent,
                .planned_peak_bytes = result->planned_peak_bytes,
                .peak_bytes = result->peak_bytes};
    bool told = write_all(fd, &a, sizeof a) && write_all(fd, error ? (const void *)text : result->losses, (size_t)a.length);
    _exit(told ? 0 : 1);
}

static tr_error *read_answer(const parity *p, tr_parity *result, int fd)
{
    answer a;
    tr_error *error = NULL;
    if (!read_all(fd, &a, sizeof a))
        return tr_error_new(TR_RUN, "the process that ran %s ended without an answer", result->of.mesh);
    if (a.blame == 0) {
        result->bytes_sent = a.bytes_sent;
        result->planned_peak_bytes = a.planned_peak_bytes;
        result->peak_bytes = a.peak_bytes;
        if (!read_all(fd, result->losses, (size_t)p->steps * sizeof(double)))
            return tr_error_new(TR_RUN, "the process that ran %s ended in its answer", result->of.mesh);
        return NULL;
    }
    char *text = tr_alloc_zero((size_t)a.length + 1, 1);
    read_all(fd, text, (size_t)a.length);
    error = tr_error_new((tr_blame)a.blame, "%s", text);
    free(text);
    return error;
}

static tr_error *run_apart(const parity *p, const tr_config *config, tr_parity *result)
{
    int ends[2], status;
    if (pipe(ends) != 0)
        return tr_error_errno(TR_RUN, errno, "no pipe to another process");
    pid_t child = fork();
    if (child < 0) {
        close(ends[0]);
        close(ends[1]);
        return tr_error_errno(TR_RUN, errno, "no process can be started");
    }
    if (child == 0) {
        close(ends[0]);
        be_child(p, config, result, ends[1]);
    }
    close(ends[1]);
    tr_error *error = read_answer(p, result, ends[0]);
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (error && WIFSIGNALED(status))
        error = tr_error_in_take(error, "%s (signal %d)", strsignal(WTERMSIG(status)), WTERMSIG(status));
    return error;
}

/* One mesh ---------------------------------------------------------------------------------------- */

static void compare(parity *p, const tr_config *config, tr_parity *result)
{
    double bound = config->train.precision != TR_F32 ? 1e-2 : config->mesh.wire == TR_BF16 ? 1e-3 : 1e-5;
    if (!p->base) {
        p->base = tr_alloc((size_t)p->steps * sizeof(double));
        memcpy(p->base, result->losses, (size_t)p->steps * sizeof(double));
    }
    for (int64_t i = 0; i < p->steps; i++) {
        double d = fabs(result->losses[i] / p->base[i] - 1);
        if (!(d <= result->max_rel_diff)) /* NaN counts */
            result->max_rel_diff = d;
    }
    result->within = result->max_rel_diff <= bound;
    p->all_within &= result->within;
}

typedef struct words {
    char **items;
    int64_t count, room;
} words;

/* The user's overrides, then one rank, then what the case says. The last of two counts. */
static words overrides_of(const parity *p, const tr_parity_case *of)
{
    static const char *const before[] = {"mesh.data=1", "mesh.tensor=1", "mesh.pipeline=1", "mesh.sequence=1",
                                         "mesh.expert=1", "mesh.sequence_kind=null", "mesh.tensor_kind=null",
                                         "train.sample_every=0"};
    words w = {0};
    for (int i = 0; i < p->n_overrides; i++)
        tr_push(w.items, w.count, w.room) = tr_strdup(p->overrides[i]);
    for (int i = 0; i < TR_COUNT(before); i++)
        tr_push(w.items, w.count, w.room) = tr_strdup(before[i]);
    for (const char *word = of->mesh; *word; word += strspn(word, " ")) {
        int length = (int)strcspn(word, " ");
        tr_push(w.items, w.count, w.room) = tr_format("mesh.%.*s", length, word);
        word += length;
    }
    if (of->schedule)
        tr_push(w.items, w.count, w.room) = tr_format("pipeline.schedule=%s", of->schedule);
    if (of->micro_batch)
        tr_push(w.items, w.count, w.room) = tr_format("train.micro_batch=%lld", (long long)of->micro_batch);
    tr_push(w.items, w.count, w.room) = tr_format("zero=%lld", (long long)of->zero);
    tr_push(w.items, w.count, w.room) = tr_format("out=%s", p->directory);
    return w;
}

/* What the config refuses is a result too; what fails while running is an error. */
static tr_error *run_case(parity *p, const tr_parity_case *of)
{
    tr_error *error = NULL;
    tr_config *config = NULL;
    bool wanted = !p->only || strcmp(p->only, of->mesh) == 0;
    p->found |= wanted;
    if (!wanted && of->ranks > 1)
        return NULL;
    tr_parity result = {.of = *of, .losses = tr_alloc_zero((size_t)p->steps, sizeof(double))};
    words own = overrides_of(p, of);
    error = tr_config_load(p->path, own.items, (int)own.count, &config);
    if (!error)
        error = tr_config_check_run(config);
    if (!error)
        error = run_apart(p, config, &result);
    if (error && tr_error_blame(error) == TR_USER && of->ranks > 1) {
        result.refused = tr_strdup(tr_error_text(error));
        tr_error_free(error);
        error = NULL;
    } else if (!error) {
        compare(p, config, &result);
    }
    if (!error)
        p->each(p->context, &result);
    tr_config_free(config);
    for (int64_t i = 0; i < own.count; i++)
        free(own.items[i]);
    free(own.items);
    free(result.refused);
    free(result.losses);
    return error;
}

/* All meshes -------------------------------------------------------------------------------------- */

typedef struct sizes {
    int64_t pipeline, data, tensor, sequence, expert;
} sizes;

/* Axes that are 1 are left out of the name. */
static tr_parity_case case_of(const sizes *m, const char *kind)
{
    const struct {
        const char *name;
        int64_t size;
    } axes[] = {{"pipeline", m->pipeline}, {"data", m->data}, {"expert", m->expert}, {"tensor", m->tensor},
                {"sequence", m->sequence}};
    tr_parity_case c = {.ranks = m->pipeline * m->data * m->expert * m->tensor * m->sequence};
    size_t used = 0;
    for (int a = 0; a < TR_COUNT(axes); a++)
        if (axes[a].size > 1)
            used += (size_t)snprintf(c.mesh + used, sizeof c.mesh - used, "%s%s=%lld", used ? " " : "", axes[a].name,
                                     (long long)axes[a].size);
    if (!used)
        used = (size_t)snprintf(c.mesh, sizeof c.mesh, "data=1");
    if (kind)
        snprintf(c.mesh + used, sizeof c.mesh - used, " %s", kind);
    return c;
}

/* A pipeline wants several microbatches: as many as eight, of a sequence for each of `cuts` parts of the batch. */
static int64_t micro_batch_for(const parity *p, int64_t cuts)
{
    enum { MOST = 8 };
    for (int64_t rows = cuts; rows < p->batch; rows++)
        if (p->batch % rows == 0 && p->batch / rows <= MOST)
            return rows;
    return p->batch;
}

/* Every level of ZeRO, and every schedule; `cuts` parts of the batch on each data rank. */
static tr_error *run_ways(parity *p, const sizes *m, const char *kind, int64_t cuts)
{
    static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "zero_bubble"};
    tr_parity_case c = case_of(m, kind);
    for (c.zero = 0; c.zero <= (m->data > 1 ? 3 : 0); c.zero++) {
        if (m->pipeline == 1)
            TR_TRY(run_case(p, &c));
        c.micro_batch = m->pipeline > 1 ? micro_batch_for(p, m->data * m->expert * cuts) : 0;
        for (int s = 0; s < TR_COUNT(schedules) && m->pipeline > 1; s++) {
            c.schedule = schedules[s];
            TR_TRY(run_case(p, &c));
        }
    }
    return NULL;
}

/* Every way to share sequences, and every arrangement of tensor ranks. */
static tr_error *run_kinds(parity *p, const sizes *m)
{
    static const char *const grids[] = {[TR_TENSOR_2D] = "tensor_kind=2d", [TR_TENSOR_2_5D] = "tensor_kind=2.5d",
                                        [TR_TENSOR_3D] = "tensor_kind=3d"};
    tr_tensor_grid grid;
    if (m->sequence > 1) {
        TR_TRY(run_ways(p, m, "sequence_kind=ulysses", 1));
        return run_ways(p, m, "sequence_kind=ring", 1);
    }
    TR_TRY(run_ways(p, m, NULL, 1));
    if (m->tensor > 1)
        TR_TRY(run_ways(p, m, "sequence_kind=megatron", 1));
    for (int kind = TR_TENSOR_2D; kind <= TR_TENSOR_3D && m->tensor > 1; kind++)
        if (tr_tensor_grid_of((tr_tensor_kind)kind, m->tensor, &grid))
            TR_TRY(run_ways(p, m, grids[kind], grid.depth * grid.row));
    return NULL;
}

static tr_error *run_all(parity *p, int64_t ranks)
{
    sizes m = {1, 1, 1, 1, 1};
    tr_parity_case one = case_of(&m, NULL);
    TR_TRY(run_case(p, &one));
    for (m.pipeline = 1; m.pipeline <= ranks && ranks > 1; m.pipeline++)
        for (m.tensor = 1; m.tensor * m.pipeline <= ranks; m.tensor++)
            for (m.sequence = 1; m.sequence * m.tensor * m.pipeline <= ranks; m.sequence++)
                for (m.expert = 1; m.expert * m.sequence * m.tensor * m.pipeline <= ranks; m.expert++)
                    if (ranks % (m.pipeline * m.tensor * m.sequence * m.expert) == 0 && m.expert <= p->experts) {
                        m.data = ranks / (m.pipeline * m.tensor * m.sequence * m.expert);
                        TR_TRY(run_kinds(p, &m));
                    }
    return NULL;
}

tr_error *tr_parity_run(const char *config_path, char *const *overrides, int n_overrides, int64_t ranks, int64_t steps,
                        const char *only, tr_model model, void (*each)(void *context, const tr_parity *result), void *context,
                        bool *out_all_within)
{
    parity p = {.path = config_path, .overrides = overrides, .n_overrides = n_overrides, .steps = steps, .model = model,
                .directory = "/tmp/trireme-parity-XXXXXX", .each = each, .context = context, .only = only, .all_within = true};
    if (!mkdtemp(p.directory))
        return tr_error_new(TR_RUN, "no temporary directory can be made in /tmp");
    tr_config *config = NULL;
    tr_error *error = tr_config_load(config_path, overrides, n_overrides, &config);
    if (!error) {
        p.batch = config->train.batch;
        p.experts = TR_MAX(config->model.sizes.experts, 1);
        error = run_all(&p, ranks);
    }
    if (!error && !p.found)
        error = tr_error_new(TR_USER, "--mesh: no mesh of %lld ranks is \"%s\"; they are named as in the table that parity "
                                      "prints without it, e.g. \"data=%lld\"",
                             (long long)ranks, only, (long long)ranks);
    tr_config_free(config);
    tr_error_free(tr_path_remove(p.directory));
    free(p.base);
    *out_all_within = p.all_within;
    return error;
}
