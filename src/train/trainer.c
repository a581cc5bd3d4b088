/* A trainer; see trainer.h. */
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>

#include "base/binding.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/json.h"
#include "data/weights.h"
#include "exec/loss.h"
#include "models/huggingface.h"
#include "serve/choice.h"
#include "train/parallel.h"
#include "train/schedule.h"

int64_t tr_process_peak_bytes(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lld", &kib) == 1)
            break;
    if (status)
        fclose(status);
    return kib * 1024;
}

double tr_flops_per_token(const tr_sizes *s, int64_t parameters, int64_t seq)
{
    return 6.0 * (double)parameters + 12.0 * (double)s->layers * (double)s->embed * (double)seq;
}

const tr_family *tr_config_family(const tr_config *c)
{
    return c->model.family == TR_FAMILY_CUSTOM ? NULL : tr_families[c->model.family];
}

tr_error *tr_config_model(const tr_config *c, tr_model *out)
{
    const tr_family *family = tr_config_family(c);
    if (!family)
        return tr_config_error(c, "model.family", "the model is defined in a program of its own, which calls tr_train "
                                                  "or tr_resume; only that program can open it");
    *out = family->model;
    return NULL;
}

tr_error *tr_config_target(const tr_config *c, tr_target *out)
{
    *out = (tr_target){.threads = c->threads ? (int)c->threads : tr_binding_threads((int)tr_config_ranks(c))};
    return tr_isa_parse(c->isa, &out->isa);
}

/* Making ------------------------------------------------------------------------------------------ */

/* The files under a path, for learning a tokenizer. */
static tr_error *add_files(const char *path, char ***paths, int64_t *count, int64_t *room)
{
    if (!tr_path_is_directory(path)) {
        tr_push(*paths, *count, *room) = tr_strdup(path);
        return NULL;
    }
    char **names;
    int64_t n;
    tr_error *error = NULL;
    TR_TRY(tr_directory_list(path, &names, &n));
    for (int64_t i = 0; i < n && !error; i++) {
        char *full = tr_path_join(path, names[i]);
        if (names[i][0] != '.')
            error = add_files(full, paths, count, room);
        free(full);
    }
    tr_names_free(names, n);
    return error;
}

tr_error *tr_config_tokenizer(const tr_config *c, tr_tokenizer **out)
{
    if (strcmp(c->data.tokenizer, "chars") != 0)
        return tr_tokenizer_load(c->data.tokenizer, out);
    tr_error *error = NULL;
    char **paths = NULL;
    int64_t count = 0, room = 0;
    for (int64_t i = 0; i < c->data.train.count && !error; i++)
        error = add_files(c->data.train.items[i].path, &paths, &count, &room);
    if (!error)
        error = tr_tokenizer_train_files((const char *const *)paths, count,
                                         &(tr_tokenizer_training){.kind = TR_TOKENIZER_CHARS}, out);
    tr_names_free(paths, count);
    return error;
}

static tr_error *open_data(tr_trainer *t)
{
    const tr_config *c = t->config;
    int64_t n = c->data.train.count, n_val = c->data.val.count;
    const char **paths = tr_alloc_zero((size_t)(n + n_val), sizeof *paths), **val_paths = paths + n;
    double *weights = tr_alloc_zero((size_t)n, sizeof *weights);
    bool weighted = false;
    for (int64_t i = 0; i < n; i++) {
        paths[i] = c->data.train.items[i].path;
        weights[i] = c->data.train.items[i].weight;
        weighted |= weights[i] != c->data.train.items[0].weight;
    }
    for (int64_t i = 0; i < n_val; i++)
        val_paths[i] = c->data.val.items[i].path;
    char *cache = c->data.cache ? tr_strdup(c->data.cache) : tr_path_join(c->out, "shards");
    tr_objective_options options = {.tokenizer = t->tokenizer, .paths = paths, .n_paths = n, .val_paths = val_paths,
                                    .n_val_paths = n_val, .weights = weighted ? weights : NULL, .cache = cache,
                                    .threads = t->target.threads, .seq = c->train.seq, .decoder_seq = c->train.decoder_seq,
                                    .vocab = t->sizes.vocab, .seed = (uint64_t)c->seed, .val_split = c->data.val_split,
                                    .labels = t->sizes.labels,
                                    .augment = {.crop = c->data.crop, .flip = c->data.flip, .erase = c->data.erase,
                                                .mixup = c->data.mixup}};
    tr_error *error = tr_objective_open(c->data.objective, &options, &t->objective);
    free(cache);
    free(weights);
    free(paths);
    return error;
}

/* The first rank makes the shards; the others find them. */
static tr_error *open_data_in_turn(tr_trainer *t)
{
    if (t->ranks && t->ranks->rank == 0)
        TR_TRY(open_data(t));
    TR_TRY(tr_ranks_meet(t->ranks));
    return t->ranks && t->ranks->rank == 0 ? NULL : open_data(t);
}

enum { AHEAD_BUCKETS = 8 }; /* what may be gathered ahead, and held for what is under way */

static tr_compile compile_options(const tr_config *c, const tr_target *target)
{
    return (tr_compile){.target = *target,
                        .compute = c->train.precision,
                        .batch = c->train.micro_batch,
                        .seq = c->train.seq,
                        .decoder_seq = c->train.decoder_seq,
                        .recompute = c->train.recompute,
                        .bucket_bytes = (int64_t)(c->mesh.bucket_mb * 1e6),
                        .overlap = {.on = c->mesh.overlap, .ahead_bytes = (int64_t)(AHEAD_BUCKETS * c->mesh.bucket_mb * 1e6)},
                        .update = {.optimizer = c->optimizer.name, .beta1 = c->optimizer.beta1,
                                   .beta2 = c->optimizer.beta2, .eps = c->optimizer.eps,
                                   .weight_decay = c->optimizer.weight_decay,
                                   .momentum = c->optimizer.momentum, .trust = c->optimizer.trust,
                                   .power = c->optimizer.decay_power, .least = c->optimizer.least_scale,
                                   .limit = c->optimizer.update_limit, .factored = c->optimizer.factored,
                                   .relative = c->optimizer.relative, .clip = c->train.clip,
                                   .micro_batches = c->train.batch / c->train.micro_batch,
                                   .scaled = c->train.precision == TR_F16}};
}

tr_error *tr_trainer_plan(const tr_config *c, int64_t rank, const tr_sizes *sizes, tr_model model, void *user,
                          const char *dump_after, tr_text *dump, tr_pass_log *log, tr_program **out)
{
    tr_target target;
    tr_config_stages stages;
    tr_sharding sharding = tr_config_sharding(c, rank);
    TR_TRY(tr_config_target(c, &target));
    TR_TRY(tr_config_pipeline(c, rank, &stages));
    tr_compile how = compile_options(c, &target);
    how.sharding = tr_config_ranks(c) > 1 ? &sharding : NULL;
    how.stages = stages.schedule ? &stages.stages : NULL;
    how.dump_after = dump_after;
    how.dump = dump;
    how.log = log;
    tr_error *error = tr_compile_training(model, sizes, user, &how, out);
    tr_config_pipeline_free(&stages);
    return error;
}

/* What the plans of all ranks on this rank's host need together, and how many those are. */
static tr_error *need_of_host(const tr_trainer *t, double *out_need, int *out_ranks)
{
    const tr_ranks *r = t->ranks;
    int count = r ? r->count : 1;
    double *need = tr_alloc_zero((size_t)count, sizeof *need);
    need[r ? r->rank : 0] = (double)tr_program_peak_bytes(t->program);
    tr_error *error = r ? tr_ranks_max(t->ranks, need, count) : NULL;
    *out_need = 0;
    *out_ranks = 0;
    for (int k = 0; k < count && !error; k++)
        if (!r || strcmp(tr_comm_host(r->comm, k), tr_comm_host(r->comm, r->rank)) == 0) {
            *out_need += need[k];
            ++*out_ranks;
        }
    free(need);
    return error;
}

/* What will not fit is refused before it is touched, with what would make it fit. */
static tr_error *check_fits(const tr_trainer *t)
{
    tr_memory_facts facts = tr_cpu_memory();
    const tr_config *c = t->config;
    double need;
    int here;
    TR_TRY(need_of_host(t, &need, &here));
    if (facts.available_bytes == 0 || need < (double)facts.available_bytes)
        return NULL;
    const tr_memory *m = &t->program->memory;
    char ranks[64] = "";
    if (here > 1)
        snprintf(ranks, sizeof ranks, " for %d ranks on this host, each", here);
    return tr_error_new(TR_USER, "the plan needs %.2f GB%s (%.2f for weights and optimizer, %.2f for a step) and "
                                 "%.2f GB are available; try train.micro_batch=%lld, train.recompute=full, "
                                 "train.precision=bf16, or a smaller model",
                        need / 1e9, ranks, (double)(m->params_bytes + m->state_bytes) / 1e9,
                        (double)m->arena_bytes / 1e9, (double)facts.available_bytes / 1e9,
                        (long long)TR_MAX(1, c->train.micro_batch / 2));
}

static tr_error *restore(tr_trainer *t, const char *directory, char **out_warning)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    const char *loader = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_ALL, &checkpoint));
    if (tr_checkpoint_warning(checkpoint))
        *out_warning = tr_strdup(tr_checkpoint_warning(checkpoint));
    const json_t *state = tr_checkpoint_trainer(checkpoint);
    t->step = tr_checkpoint_step(checkpoint);
    TR_GO(tr_json_real(state, "trainer.json", "best_val_loss", TR_OPTIONAL, &t->best_val_loss));
    if (t->loss_scale > 0) /* a run can go on in another precision */
        TR_GO(tr_json_real(state, "trainer.json", "loss_scale", TR_OPTIONAL, &t->loss_scale));
    TR_GO(tr_json_int(state, "trainer.json", "good_steps", TR_OPTIONAL, 0, INT64_MAX, &t->good_steps));
    TR_GO(tr_json_int(state, "trainer.json", "skipped", TR_OPTIONAL, 0, INT64_MAX, &t->skipped));
    TR_GO(tr_json_string(state, "trainer.json", "data", TR_REQUIRED, &loader));
    TR_GO(tr_objective_check_state(t->objective, loader));
    TR_GO(tr_weights_load_state(t->program, tr_checkpoint_model(checkpoint), tr_checkpoint_optimizer(checkpoint)));
done:
    tr_checkpoint_close(checkpoint);
    return error;
}

static tr_error *load_from(tr_trainer *t, const char *directory)
{
    tr_checkpoint *checkpoint = NULL;
    TR_TRY(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    tr_error *error = tr_weights_load(t->program, t->family, tr_checkpoint_model(checkpoint));
    tr_checkpoint_close(checkpoint);
    return error;
}

/* On --resume the run's own tokenizer is the one that its model was trained with. Images have none. */
static tr_error *open_tokenizer(tr_trainer *t, bool resume)
{
    const tr_config *c = t->config;
    t->sizes = tr_config_sizes(c);
    if (tr_objectives[c->data.objective]->no_text)
        return NULL;
    char *saved = tr_path_join(c->out, "tokenizer");
    tr_error *error = resume && tr_path_exists(saved) ? tr_tokenizer_load(saved, &t->tokenizer)
                                                      : tr_config_tokenizer(c, &t->tokenizer);
    free(saved);
    TR_TRY(error);
    int32_t vocab = tr_tokenizer_vocab_size(t->tokenizer);
    if (t->sizes.vocab == 0)
        t->sizes.vocab = vocab;
    if (t->sizes.vocab < vocab)
        return tr_config_error(c, "model.vocab", "the tokenizer has %d tokens and model.vocab is %lld; it must be at "
                                                 "least as large",
                               vocab, (long long)t->sizes.vocab);
    return NULL;
}

static tr_error *fill(tr_trainer *t, const tr_trainer_options *options)
{
    const tr_config *c = t->config;
    TR_TRY(open_tokenizer(t, options->resume != NULL));
    TR_TRY(tr_config_target(c, &t->target));
    tr_compile how = compile_options(c, &t->target);
    int64_t rank = t->ranks ? t->ranks->rank : 0;
    tr_sharding sharding = tr_config_sharding(c, rank);
    TR_TRY(tr_config_pipeline(c, rank, &t->stages));
    how.sharding = t->ranks ? &sharding : NULL;
    how.stages = t->stages.schedule ? &t->stages.stages : NULL;
    how.log = &t->passes;
    how.dump_after = options->dump_after;
    how.dump = options->dump;
    TR_TRY(tr_compile_training(t->model, &t->sizes, t->user, &how, &t->program));
    t->parameters = tr_graph_parameters(tr_program_leaves(t->program));
    TR_TRY(check_fits(t));
    TR_TRY(tr_batch_check(tr_program_leaves(t->program), tr_objectives[c->data.objective]));
    TR_TRY(open_data_in_turn(t));
    t->program->ranks = t->ranks;
    TR_TRY(tr_program_allocate(t->program));
    return t->stages.schedule ? tr_pipeline_new(t->program, t->stages.schedule, TR_AXIS_PIPELINE, &t->pipeline) : NULL;
}

/* Ranks that run different plans would hang, or train something that nobody asked for. */
static tr_error *agree_on_plan(const tr_trainer *t)
{
    if (!t->ranks)
        return NULL;
    char *data = tr_objective_state(t->objective);
    uint64_t hash = tr_config_plan_hash(t->config, t->program->whole_hash, data, t->step);
    free(data);
    return tr_comm_agree(t->ranks->comm, hash, "plan");
}

tr_error *tr_trainer_new(const tr_config *config, const tr_trainer_options *options, char **out_warning,
                         tr_trainer **out)
{
    tr_error *error = NULL;
    tr_trainer *t = tr_alloc_zero(1, sizeof *t);
    t->config = config;
    t->ranks = options->ranks;
    t->family = tr_config_family(config);
    t->model = options->model ? options->model : t->family ? t->family->model : NULL;
    t->user = options->user;
    t->best_val_loss = INFINITY;
    t->loss_scale = config->train.precision == TR_F16 ? config->train.loss_scale : 0;
    *out = NULL;
    *out_warning = NULL;
    TR_GO(fill(t, options));
    if (options->resume) {
        t->program->seed = (uint64_t)config->seed;
        TR_GO(restore(t, options->resume, out_warning));
    } else if (config->model.from) {
        t->program->seed = (uint64_t)config->seed;
        if (t->family->optional)
            tr_program_init(t->program, (uint64_t)config->seed);
        TR_GO(load_from(t, config->model.from));
    } else {
        tr_program_init(t->program, (uint64_t)config->seed);
    }
    TR_GO(agree_on_plan(t));
    *out = t;
    t = NULL;
done:
    tr_trainer_free(t);
    return error;
}

void tr_trainer_free(tr_trainer *t)
{
    if (!t)
        return;
    tr_pipeline_free(t->evaluating);
    tr_pipeline_free(t->pipeline);
    tr_config_pipeline_free(&t->stages);
    tr_program_free(t->evaluation);
    tr_program_free(t->choosing);
    tr_program_free(t->program);
    tr_objective_free(t->objective);
    tr_tokenizer_free(t->tokenizer);
    free(t);
}

/* Stepping ---------------------------------------------------------------------------------------- */

bool tr_trainer_leads(const tr_trainer *t)
{
    return !t->ranks || t->ranks->rank == 0;
}

/* Every microbatch forward and backward, and the update, some of which may go beside the last backward. Accumulators
 * are cleared at the start; without them there is one microbatch. */
static tr_error *run_all(tr_trainer *t, tr_batch *from, uint32_t step)
{
    tr_program *p = t->program;
    if (p->micro_batches > 1 || t->pipeline)
        tr_program_run(p, TR_START, TR_START, step, 0);
    if (t->pipeline) {
        TR_TRY(tr_pipeline_run(t->pipeline, step, tr_batch_fill, from));
        tr_program_run(p, TR_UPDATE, TR_UPDATE, step, 0);
        return NULL;
    }
    for (int64_t micro = 0; micro < p->micro_batches; micro++) {
        TR_TRY(tr_batch_fill(from, micro));
        tr_program_run(p, p->micro_batches > 1 ? TR_FORWARD : TR_START,
                       micro + 1 < p->micro_batches ? TR_WEIGHT : TR_UPDATE, step, micro);
    }
    return NULL;
}

/* The gradient is that of a sum over the step's targets; the scale is of the mean, and a power of two instead of the count
 * costs no rounding. */
static double scale_of_sum(const tr_trainer *t)
{
    const tr_config *c = t->config;
    int64_t targets = c->train.batch * (t->objective->row->classes ? 1 : c->train.decoder_seq);
    return t->loss_scale / exp2(ceil(log2((double)targets)));
}

/* Micikevicius et al. 2018, section 3.2: half of the scale after an overflow, twice after many steps without. */
static void adapt_scale(tr_trainer *t, bool applied)
{
    enum { HIGHEST = 1 << 24 };
    t->skipped += !applied;
    t->good_steps = applied ? t->good_steps + 1 : 0;
    if (!applied)
        t->loss_scale /= 2;
    else if (t->good_steps == t->config->train.loss_scale_every && t->loss_scale < HIGHEST)
        t->loss_scale *= 2;
    if (t->good_steps == t->config->train.loss_scale_every)
        t->good_steps = 0;
}

tr_error *tr_trainer_step(tr_trainer *t, tr_step *out)
{
    const tr_config *c = t->config;
    tr_program *p = t->program;
    tr_batch from = {.objective = t->objective, .program = p, .rows = c->train.micro_batch,
                     .first = t->step * c->train.batch, .end = INT64_MAX};
    double began = tr_seconds();
    uint32_t step = (uint32_t)(t->step + 1);
    out->lr = tr_schedule_lr(c, t->step + 1);
    *(float *)tr_program_find(p, "lr") = (float)out->lr;
    if (tr_graph_find(p->graph, "step")) /* not every optimizer reads it; it counts the updates that were made */
        *(int32_t *)tr_program_find(p, "step") = (int32_t)(step - (uint32_t)t->skipped);
    out->loss_scale = t->loss_scale;
    if (tr_graph_find(p->graph, "loss_scale"))
        *(float *)tr_program_find(p, "loss_scale") = (float)scale_of_sum(t);
    tr_error *error = tr_batch_factors(&from, p->micro_batches, t->ranks);
    if (!error)
        error = run_all(t, &from, step);
    tr_batch_free(&from);
    TR_TRY(error);
    TR_TRY(tr_program_error_take(p));
    double count = *(float *)tr_program_find(p, "count");
    out->loss = *(float *)tr_program_find(p, "loss") / count;
    out->grad_norm = *(float *)tr_program_find(p, "grad_norm");
    out->applied = *(float *)tr_program_find(p, "scale") >= 0;
    adapt_scale(t, out->applied);
    out->tokens = (int64_t)count;
    out->seconds = tr_seconds() - began;
    t->step++;
    return NULL;
}

static tr_error *make_evaluation(tr_trainer *t)
{
    tr_sizes sizes = t->sizes;
    tr_compile how = compile_options(t->config, &t->target);
    tr_sharding sharding = tr_config_sharding(t->config, t->ranks ? t->ranks->rank : 0);
    sizes.dropout = sizes.drop_path = 0;
    how.sharding = t->ranks ? &sharding : NULL;
    how.stages = t->stages.schedule ? &t->stages.stages : NULL;
    if (t->evaluation)
        return NULL;
    TR_TRY(tr_compile_evaluation(t->model, &sizes, t->user, &how, &t->evaluation));
    t->evaluation->ranks = t->ranks;
    TR_TRY(tr_program_allocate_beside(t->evaluation, t->program));
    return how.stages ? tr_pipeline_new(t->evaluation, t->stages.schedule, TR_AXIS_PIPELINE, &t->evaluating) : NULL;
}

/* Adds a head's loss and count; the last stage of a pipeline has them. */
static void add_head(const tr_program *p, int k, double *sums)
{
    static const char *const names[] = {"loss", "count"};
    for (int i = 0; i < 2; i++) {
        char *name = k ? tr_format("%s.%s", names[i], p->losses[k].name) : tr_strdup(names[i]);
        if (tr_graph_find(p->graph, name))
            sums[i] += *(float *)tr_program_find(p, name);
        free(name);
    }
}

tr_error *tr_trainer_evaluate(tr_trainer *t, int64_t batches, double *out_loss)
{
    int64_t rows = t->config->train.micro_batch, windows = tr_objective_val_count(t->objective);
    enum { MOST = 8 };
    double total[2 * MOST] = {0};
    if (batches > 0)
        windows = TR_MIN(windows, batches * rows);
    TR_TRY(make_evaluation(t));
    tr_program *p = t->evaluation;
    tr_batch from = {.objective = t->objective, .program = p, .validation = true, .rows = rows, .end = windows};
    for (int64_t micro = 0; micro * rows < windows; micro++) {
        if (t->evaluating) {
            TR_TRY(tr_pipeline_forward(t->evaluating, tr_batch_fill, &from, micro));
        } else {
            TR_TRY(tr_batch_fill(&from, micro));
            tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
            TR_TRY(tr_program_error_take(p));
        }
        for (int k = 0; k < p->n_losses && k < MOST; k++)
            add_head(p, k, total + 2 * k);
    }
    if (t->evaluating) /* the other stages have zeros */
        TR_TRY(tr_ranks_max(t->ranks, total, TR_COUNT(total)));
    *out_loss = total[1] > 0 ? 0 : NAN;
    for (int k = 0; k < p->n_losses && k < MOST; k++)
        if (total[2 * k + 1] > 0)
            *out_loss += p->losses[k].weight * total[2 * k] / total[2 * k + 1];
    return NULL;
}

/* Of a class for each sample: whether the largest logit is the right one's. With a pipeline no rank has all layers. */
static tr_error *make_choosing(tr_trainer *t)
{
    tr_sizes sizes = t->sizes;
    tr_compile how = compile_options(t->config, &t->target);
    tr_sharding sharding = tr_config_sharding(t->config, t->ranks ? t->ranks->rank : 0);
    sizes.dropout = sizes.drop_path = 0;
    sizes.label_parts = 0;
    how.sharding = t->ranks ? &sharding : NULL;
    if (t->choosing)
        return NULL;
    TR_TRY(tr_compile_logits(t->model, &sizes, t->user, &how, &t->choosing));
    t->choosing->ranks = t->ranks;
    return tr_program_allocate_beside(t->choosing, t->program);
}

tr_error *tr_trainer_accuracy(tr_trainer *t, int64_t batches, double *out)
{
    const tr_objective_row *o = t->objective->row;
    int64_t rows = t->config->train.micro_batch, count = tr_objective_val_count(t->objective), right = 0;
    *out = NAN;
    if (!o->classes || t->stages.schedule || count == 0)
        return NULL;
    if (batches > 0)
        count = TR_MIN(count, batches * rows);
    TR_TRY(make_choosing(t));
    tr_program *p = t->choosing;
    tr_batch from = {.objective = t->objective, .program = p, .validation = true, .rows = rows, .end = count};
    for (int64_t micro = 0; micro * rows < count; micro++) {
        TR_TRY(tr_batch_fill(&from, micro));
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        TR_TRY(tr_program_error_take(p));
        for (int64_t r = 0; r < rows && micro * rows + r < count; r++) {
            int32_t label = -1;
            double probability;
            tr_field field = {.name = "labels", .dtype = TR_I32, .elems = 1, .ints = &label};
            TR_TRY(o->sample(t->objective->own, true, micro * rows + r, &field, 1));
            right += tr_choice(p, r, &probability) == label;
        }
    }
    *out = (double)right / (double)count;
    return NULL;
}

/* Saving ------------------------------------------------------------------------------------------ */

/* config.json and the tokenizer's files, which the run wrote to OUT/tokenizer at its start. */
static tr_error *collect_files(const tr_trainer *t, tr_checkpoint_file **out, int64_t *out_count)
{
    tr_checkpoint_file *files = NULL;
    int64_t count = 0, room = 0, n = 0;
    char **names = NULL;
    int32_t end = t->tokenizer ? tr_tokenizer_end_of_text(t->tokenizer) : -1;
    const tr_objective_row *objective = t->objective->row;
    const char *const *labels = objective->names ? objective->names(t->objective->own) : NULL;
    char *text = tr_hf_config_text(t->family, &t->sizes, t->config->train.precision, end, labels);
    tr_push(files, count, room) = (tr_checkpoint_file){tr_strdup("config.json"), text, (int64_t)strlen(text)};
    *out = files;
    *out_count = count;
    if (!t->tokenizer)
        return NULL;
    text = tr_hf_generation_text(end);
    tr_push(files, count, room) = (tr_checkpoint_file){tr_strdup("generation_config.json"), text, (int64_t)strlen(text)};
    char *directory = tr_path_join(t->config->out, "tokenizer");
    tr_error *error = tr_directory_list(directory, &names, &n);
    for (int64_t i = 0; i < n && !error; i++) {
        tr_map map;
        if (names[i][0] == '.') /* what a killed writer left */
            continue;
        char *path = tr_path_join(directory, names[i]);
        error = tr_map_open(path, &map);
        if (!error) {
            tr_push(files, count, room) =
                (tr_checkpoint_file){tr_strdup(names[i]), tr_strndup(map.bytes, (size_t)map.size), map.size};
            tr_map_close(&map);
        }
        free(path);
    }
    tr_names_free(names, n);
    free(directory);
    *out = files;
    *out_count = count;
    return error;
}

static json_t *trainer_state(const tr_trainer *t)
{
    char *data = tr_objective_state(t->objective);
    json_t *state = json_pack("{s:I, s:I, s:s, s:I, s:s, s:o}", "step", (json_int_t)t->step, "samples",
                              (json_int_t)(t->step * t->config->train.batch), "data", data, "seed",
                              (json_int_t)t->config->seed, "version", TR_VERSION, "config",
                              tr_config_json(t->config));
    TR_CHECK(state, "trainer.json could not be packed");
    if (isfinite(t->best_val_loss))
        json_object_set_new(state, "best_val_loss", json_real(t->best_val_loss));
    if (t->skipped)
        json_object_set_new(state, "skipped", json_integer((json_int_t)t->skipped));
    if (t->loss_scale > 0) {
        json_object_set_new(state, "loss_scale", json_real(t->loss_scale));
        json_object_set_new(state, "good_steps", json_integer((json_int_t)t->good_steps));
    }
    free(data);
    return state;
}

/* What a checkpoint is made of, but for the tensors' data. */
typedef struct contents {
    tr_checkpoint_contents all;
    tr_saved *model, *state;
    tr_checkpoint_file *files;
    json_t *trainer;
} contents;

static void free_contents(contents *c)
{
    for (int64_t i = 0; i < c->all.file_count; i++) {
        free((char *)(uintptr_t)c->files[i].name);
        free((void *)(uintptr_t)c->files[i].bytes);
    }
    free(c->files);
    json_decref(c->trainer);
    tr_weights_saved_free(c->model, c->all.model_count);
    tr_weights_saved_free(c->state, c->all.optimizer_count);
}

static tr_error *make_contents(const tr_trainer *t, bool best, contents *out)
{
    tr_saved *(*list)(const tr_program *, tr_role, int64_t *) = t->ranks ? tr_weights_declare : tr_weights_saved;
    *out = (contents){.all = {.step = t->step, .best = best}};
    out->all.model = out->model = list(t->program, TR_PARAM, &out->all.model_count);
    out->all.optimizer = out->state = list(t->program, TR_STATE, &out->all.optimizer_count);
    out->all.trainer = out->trainer = trainer_state(t);
    tr_error *error = collect_files(t, &out->files, &out->all.file_count);
    out->all.files = out->files;
    return error;
}

/* All are there, or none goes on: a rank's error reaches the others as the failure of what they wait for. */
static tr_error *all_well(const tr_trainer *t, tr_error *error)
{
    return error ? error : tr_ranks_meet(t->ranks);
}

/* The leader opens a session, every rank writes what it has, the leader makes it the newest checkpoint. */
static tr_error *save_ranks(tr_trainer *t, const contents *c)
{
    enum { MOST_PATH = 4096 };
    char path[MOST_PATH] = "";
    tr_checkpoint_session *session = NULL;
    tr_checkpoint_share *share = NULL;
    bool complete;
    tr_group world = tr_group_world(t->ranks->count, t->ranks->rank);
    tr_error *error = NULL;
    if (tr_trainer_leads(t))
        error = tr_checkpoint_begin(t->config->out, &c->all, t->ranks->count, &session);
    if (session && strlen(tr_checkpoint_session_path(session)) < MOST_PATH)
        strcpy(path, tr_checkpoint_session_path(session));
    TR_GO(all_well(t, error));
    TR_GO(tr_comm_broadcast(t->ranks->comm, &world, 0, path, MOST_PATH, TR_U8));
    error = tr_checkpoint_join(path, t->ranks->rank, &share);
    if (!error)
        error = tr_weights_write_parts(t->program, TR_PARAM, share);
    if (!error)
        error = tr_weights_write_parts(t->program, TR_STATE, share);
    if (!error) {
        error = tr_checkpoint_share_commit_take(share);
        share = NULL;
    }
    TR_GO(all_well(t, error));
    if (session) {
        error = tr_checkpoint_finish_take(session, t->config->train.keep, &complete);
        session = NULL;
    }
    error = all_well(t, error);
done:
    tr_checkpoint_share_drop(share);
    tr_checkpoint_drop(session);
    tr_group_free(&world);
    return error;
}

tr_error *tr_trainer_save(tr_trainer *t, bool best)
{
    contents c;
    bool complete;
    tr_error *error = make_contents(t, best, &c);
    if (!error)
        error = t->ranks ? save_ranks(t, &c) : tr_checkpoint_save(t->config->out, &c.all, t->config->train.keep, &complete);
    free_contents(&c);
    return error;
}
