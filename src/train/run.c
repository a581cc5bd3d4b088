/* A training run; see run.h. */
#define _GNU_SOURCE
#include "train/run.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "plan/machine.h"
#include "serve/generator.h"
#include "train/metrics.h"
#include "train/plan_record.h"
#include "train/progress.h"
#include "train/tensorboard.h"

/* The signals that end a run are blocked in its threads, and asked for between steps. A handler must
 * not interrupt a product: oneDNN's f32 kernels use the stack pointer for their work space, so that
 * the handler's frame would be written over what lies before that space on the heap. Threads that
 * were there before the run do not block them; there the handler sets a flag. */
static volatile sig_atomic_t caught;

static void catch_signal(int number)
{
    caught = number;
}

typedef struct signals {
    sigset_t old_blocked;
    struct sigaction old_int, old_term;
} signals;

static sigset_t ending_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

static int signal_seen(void)
{
    sigset_t set = ending_signals();
    int number = sigtimedwait(&set, NULL, &(struct timespec){0});
    if (number > 0)
        caught = number;
    return caught;
}

static void signals_hold(signals *s)
{
    struct sigaction catching = {.sa_handler = catch_signal};
    sigset_t ending = ending_signals();
    caught = 0;
    pthread_sigmask(SIG_BLOCK, &ending, &s->old_blocked);
    sigaction(SIGINT, &catching, &s->old_int);
    sigaction(SIGTERM, &catching, &s->old_term);
}

/* One that came after the last step has nothing left to end. */
static void signals_release(const signals *s)
{
    signal_seen();
    sigaction(SIGINT, &s->old_int, NULL);
    sigaction(SIGTERM, &s->old_term, NULL);
    pthread_sigmask(SIG_SETMASK, &s->old_blocked, NULL);
}

typedef struct run {
    const tr_config *config;
    const tr_run_options *options;
    tr_trainer *trainer;
    tr_ranks *ranks; /* NULL: one rank. What follows is the first rank's only */
    tr_metrics *metrics;
    tr_tensorboard *board;
    tr_progress *progress;
    tr_generator *generator; /* for samples; made when first wanted */
    int64_t tokens;          /* seen since the beginning of the run */
    int64_t refused;         /* steps in a row that were not finite */
    int64_t saved_step;      /* -1: none yet */
    int64_t traced_step;     /* the one that --trace writes: the second, since the first warms up */
    double peak_flops;
    int signal; /* that ended the run */
} run;

static tr_error *write_config(const tr_config *c)
{
    char *text = tr_config_text(c), *path = tr_path_join(c->out, TR_CONFIG_NAME);
    tr_error *error = tr_file_write(path, text, (int64_t)strlen(text));
    free(text);
    free(path);
    return error;
}

/* A directory that has a run is not written over. */
static tr_error *prepare_directory(const tr_config *c, bool resume)
{
    char *path = tr_path_join(c->out, "checkpoints"), **names = NULL;
    int64_t count = 0;
    tr_error *error = NULL;
    if (!resume && tr_path_is_directory(path)) {
        error = tr_directory_list(path, &names, &count);
        for (int64_t i = 0; i < count && !error; i++)
            if (names[i][0] != '.')
                error = tr_error_new(TR_USER, "%s already holds a run; go on with it by `%s %s`, or choose another out=DIR",
                                     c->out, c->model.family == TR_FAMILY_CUSTOM ? "tr_resume" : "trireme train --resume",
                                     c->out);
        tr_names_free(names, count);
    }
    free(path);
    return error ? error : tr_checkpoint_prepare(c->out);
}

static tr_error *open_outputs(run *r, bool resume, const json_t *plan, int64_t planned_peak_bytes)
{
    const tr_config *c = r->config;
    const tr_trainer *t = r->trainer;
    tr_error *error = NULL;
    int64_t from = resume ? t->step : -1;
    char *metrics = tr_path_join(c->out, "metrics.jsonl"), *board = tr_path_join(c->out, "tensorboard"),
         *tokenizer = tr_path_join(c->out, "tokenizer");
    json_t *json = tr_config_json(c);
    TR_GO(write_config(c));
    if (!resume && t->tokenizer)
        TR_GO(tr_tokenizer_save(t->tokenizer, tokenizer));
    TR_GO(tr_metrics_open(metrics, from, &r->metrics));
    TR_GO(tr_metrics_begin(r->metrics,
                           &(tr_metrics_run){.config = json, .plan = plan, .plan_hash = tr_graph_hash(t->program->graph),
                                             .planned_peak_bytes = planned_peak_bytes,
                                             .parameters = t->parameters, .version = TR_VERSION}));
    TR_GO(tr_tensorboard_open(board, from, &r->board));
    if (!r->options->quiet)
        r->progress = tr_progress_new(stderr, TR_PROGRESS_AUTO, t->step, c->train.steps, c->train.log_every);
done:
    json_decref(json);
    free(metrics);
    free(board);
    free(tokenizer);
    return error;
}

static void announce(const run *r)
{
    const tr_trainer *t = r->trainer;
    const tr_memory *m = &t->program->memory;
    tr_loader_info data = tr_objective_describe(t->objective);
    char parameters[16], tokens[16];
    if (r->options->quiet)
        return;
    tr_progress_count((double)t->parameters, parameters);
    tr_progress_count((double)data.train_tokens, tokens);
    bool text = t->tokenizer != NULL;
    tr_log("%s parameters, %s training %s, %s %lld; %s, %s, %d thread%s", parameters, tokens, text ? "tokens" : "images",
           text ? "vocabulary" : "classes", (long long)(text ? t->sizes.vocab : t->sizes.labels), tr_dtype_name(t->config->train.precision), tr_isa_name(t->target.isa),
           t->target.threads, t->target.threads == 1 ? "" : "s");
    tr_log("planned memory %.3f GB: weights and optimizer %.3f, step %.3f (gradients %.3f, activations %.3f, scratch "
           "%.3f)",
           (double)tr_program_peak_bytes(t->program) / 1e9, (double)(m->params_bytes + m->state_bytes) / 1e9,
           (double)m->arena_bytes / 1e9, (double)m->grads_bytes / 1e9, (double)m->activations_bytes / 1e9,
           (double)m->scratch_bytes / 1e9);
    if (data.skipped)
        tr_log("left out %lld files that are not text, such as %s", (long long)data.skipped, data.first_skipped);
}

static void note(run *r, const char *text)
{
    if (r->progress)
        tr_progress_note(r->progress, "%s", text);
}

static tr_error *save(run *r, bool best)
{
    if (r->saved_step == r->trainer->step && !best)
        return NULL;
    TR_TRY(tr_trainer_save(r->trainer, best));
    r->saved_step = r->trainer->step;
    return NULL;
}

static tr_error *validate(run *r)
{
    tr_trainer *t = r->trainer;
    double loss, accuracy;
    char text[128], right[64] = "";
    TR_TRY(tr_trainer_evaluate(t, r->config->train.eval_batches, &loss));
    TR_TRY(tr_trainer_accuracy(t, r->config->train.eval_batches, &accuracy));
    bool best = loss < t->best_val_loss;
    if (best)
        t->best_val_loss = loss;
    if (!tr_trainer_leads(t))
        return best ? save(r, true) : NULL;
    TR_TRY(tr_metrics_val_add(r->metrics, t->step, loss, accuracy));
    TR_TRY(tr_tensorboard_scalars(r->board, t->step, &(tr_scalar){"loss/val", loss}, 1));
    if (!isnan(accuracy)) {
        snprintf(right, sizeof right, ", accuracy %.2f %%", 100 * accuracy);
        TR_TRY(tr_tensorboard_scalars(r->board, t->step, &(tr_scalar){"accuracy/val", accuracy}, 1));
    }
    snprintf(text, sizeof text, "step %lld: validation loss %.4f%s%s", (long long)t->step, loss, right, best ? ", the best so far" : "");
    note(r, text);
    return best ? save(r, true) : NULL;
}

static bool collect_text(void *context, const char *text, int64_t length)
{
    tr_text_add(context, text, (size_t)length);
    return true;
}

static tr_error *sample(run *r)
{
    const tr_config *c = r->config;
    tr_trainer *t = r->trainer;
    if (!r->generator) {
        tr_sharding sharding = tr_config_sharding_of_samples(c, t->ranks ? t->ranks->rank : 0);
        TR_TRY(tr_generator_beside(t->program, &t->sizes, t->model, t->user, &t->target,
                                   t->ranks ? &sharding : NULL, &r->generator));
    }
    const char *prompt = c->train.sample_prompt ? c->train.sample_prompt : "";
    /* bytes and chars can begin anywhere, but not with nothing */
    if (!*prompt && tr_tokenizer_end_of_text(t->tokenizer) < 0)
        prompt = "\n";
    tr_text text = {0};
    tr_generated result;
    tr_generate how = {.sampling = {.temperature = 0.8, .top_p = 0.95, .repetition_penalty = 1, .seed = (uint64_t)c->seed},
                       .max_tokens = TR_MIN(100, t->sizes.context - 1), .stream = collect_text, .context = &text};
    tr_text_add(&text, prompt, strlen(prompt));
    tr_error *error = tr_generator_run(r->generator, t->tokenizer, prompt, (int64_t)strlen(prompt), &how, &result);
    if (!error && tr_trainer_leads(t)) {
        char *line = tr_format("step %lld: sample: %s", (long long)t->step, text.bytes);
        note(r, line);
        free(line);
        error = tr_metrics_sample_add(r->metrics, t->step, text.bytes);
    }
    if (!error && tr_trainer_leads(t))
        error = tr_tensorboard_text(r->board, t->step, "sample", text.bytes);
    tr_text_free(&text);
    return error;
}

/* A step whose gradient was not finite changes nothing; many in a row will not get better. */
static tr_error *check_finite(run *r, const tr_step *s)
{
    enum { MOST_REFUSED = 10, MOST_HALVINGS = 40 }; /* a loss scale that is too high needs a few */
    r->refused = s->applied ? 0 : r->refused + 1;
    if (s->applied)
        return NULL;
    char text[160], scale[64] = "";
    if (s->loss_scale > 0)
        snprintf(scale, sizeof scale, "; loss scale %g instead of %g", r->trainer->loss_scale, s->loss_scale);
    snprintf(text, sizeof text, "step %lld: the gradient is not finite; the step was not applied%s", (long long)r->trainer->step, scale);
    note(r, text);
    if (r->refused < (s->loss_scale > 1 ? MOST_HALVINGS : MOST_REFUSED))
        return NULL;
    return tr_error_new(TR_RUN, "the gradient was not finite for %lld steps in a row (step %lld); go on from the last "
                                "checkpoint in %s with a smaller optimizer.lr, or look at the data",
                        (long long)r->refused, (long long)r->trainer->step, r->config->out);
}

/* Another process may have taken the cores while the peak was measured: a run that does more shows it, and then the
 * peak is measured again. It is never less than what was done. */
static double peak_share(run *r, double flops)
{
    const tr_config *c = r->config;
    if (r->peak_flops <= 0)
        return 0;
    if (flops > r->peak_flops) {
        double again = tr_machine_peak_flops(r->trainer->target.isa, c->train.precision,
                                             r->trainer->target.threads * (int)tr_config_ranks(c), 0.05);
        r->peak_flops = TR_MAX(flops, again);
    }
    return flops / r->peak_flops;
}

static tr_error *record(run *r, const tr_step *s, int64_t bytes_sent, int64_t peak_bytes)
{
    tr_trainer *t = r->trainer;
    if (!tr_trainer_leads(t))
        return check_finite(r, s);
    r->tokens += r->config->train.batch * r->config->train.seq;
    double per_s = (double)(r->config->train.batch * r->config->train.seq) / s->seconds;
    TR_TRY(tr_metrics_step_add(r->metrics, &(tr_metrics_step){.step = t->step, .loss = s->loss, .lr = s->lr,
                                                              .grad_norm = s->grad_norm, .tokens = r->tokens,
                                                              .tokens_per_s = per_s, .step_s = s->seconds,
                                                              .peak_bytes = peak_bytes,
                                                              .bytes_sent = r->ranks ? bytes_sent : -1,
                                                              .loss_scale = s->loss_scale, .skipped = t->skipped}));
    const tr_scalar scalars[] = {{"loss/train", s->loss}, {"lr", s->lr}, {"grad_norm", s->grad_norm}, {"tokens_per_s", per_s}};
    TR_TRY(tr_tensorboard_scalars(r->board, t->step, scalars, TR_COUNT(scalars)));
    if (r->progress) {
        double flops = tr_flops_per_token(&t->sizes, t->parameters, r->config->train.seq) * per_s;
        tr_progress_show(r->progress, &(tr_progress_step){.step = t->step, .loss = s->loss, .tokens_per_s = per_s,
                                                          .step_s = s->seconds,
                                                          .peak_share = peak_share(r, flops)});
    }
    return check_finite(r, s);
}

static bool due(int64_t every, int64_t step)
{
    return every > 0 && step % every == 0;
}

static tr_error *one_step(run *r)
{
    const tr_config *c = r->config;
    tr_trainer *t = r->trainer;
    tr_step s;
    int64_t sent = r->ranks ? tr_comm_bytes_sent_all(r->ranks->comm) : 0;
    bool trace = r->options->trace && t->step + 1 == r->traced_step && tr_trainer_leads(t);
    if (trace && !(t->program->trace = fopen(r->options->trace, "w")))
        return tr_error_new(TR_USER, "%s cannot be written; give --trace another path", r->options->trace);
    tr_error *error = tr_trainer_step(t, &s);
    if (trace) {
        fprintf(t->program->trace, "\n]\n");
        fclose(t->program->trace);
        t->program->trace = NULL;
    }
    TR_TRY(error);
    /* What the worst rank did, and whether any was told to stop: all go on, or none does. */
    double worst[] = {(double)(r->ranks ? tr_comm_bytes_sent_all(r->ranks->comm) - sent : 0), (double)tr_process_peak_bytes(),
                      (double)signal_seen()};
    if (r->ranks)
        TR_TRY(tr_ranks_max(r->ranks, worst, TR_COUNT(worst)));
    r->signal = (int)worst[2];
    TR_TRY(record(r, &s, (int64_t)worst[0], (int64_t)worst[1]));
    bool last = t->step >= c->train.steps;
    if (due(c->train.eval_every, t->step) || (last && c->train.eval_every > 0))
        TR_TRY(validate(r));
    if (due(c->train.sample_every, t->step) || (last && c->train.sample_every > 0))
        TR_TRY(sample(r));
    return due(c->train.save_every, t->step) ? save(r, false) : NULL;
}

static tr_error *steps(run *r)
{
    tr_trainer *t = r->trainer;
    while (t->step < r->config->train.steps && !r->signal)
        TR_TRY(one_step(r));
    return save(r, false);
}

typedef struct job {
    const tr_config *config;
    const tr_run_options *options;
    int signal;
} job;

/* What the first rank does alone: outputs, and the words for a person. */
static tr_error *lead(run *r, bool resume, const json_t *plan, int64_t planned_peak_bytes)
{
    const tr_config *c = r->config;
    if (resume && r->trainer->step >= c->train.steps)
        return tr_error_new(TR_USER, "%s has done its %lld steps; give train.steps=N a larger number to go on", c->out,
                            (long long)c->train.steps);
    if (!r->options->quiet || r->options->profile)
        r->peak_flops = tr_machine_peak_flops(r->trainer->target.isa, c->train.precision,
                                              r->trainer->target.threads * (int)tr_config_ranks(c), 0.05);
    TR_TRY(open_outputs(r, resume, plan, planned_peak_bytes));
    announce(r);
    return NULL;
}

/* One rank's run, from the data to the last checkpoint. */
static tr_error *run_rank(tr_ranks *ranks, void *user)
{
    job *j = user;
    tr_error *error = NULL;
    bool resume = j->options->trainer.resume != NULL, leads = !ranks || ranks->rank == 0;
    char *warning = NULL;
    json_t *plan = NULL;
    int64_t planned_peak_bytes = 0;
    run r = {.config = j->config, .options = j->options, .ranks = ranks};
    tr_trainer_options options = j->options->trainer;
    options.ranks = ranks;
    TR_GO(tr_config_check_run(j->config)); /* on every rank: files may be missing on one host */
    if (leads)
        TR_GO(prepare_directory(j->config, resume));
    TR_GO(tr_ranks_meet(ranks));
    TR_GO(tr_trainer_new(j->config, &options, &warning, &r.trainer));
    if (warning && leads)
        tr_log("warning: %s", warning);
    if (options.dump_after)
        goto done;
    r.saved_step = resume ? r.trainer->step : -1;
    r.traced_step = TR_MIN(r.trainer->step + 2, j->config->train.steps);
    r.tokens = r.trainer->step * j->config->train.batch * j->config->train.seq;
    r.trainer->program->profile = j->options->profile;
    TR_GO(tr_plan_record(r.trainer, &plan, &planned_peak_bytes));
    if (leads)
        TR_GO(lead(&r, resume, plan, planned_peak_bytes));
    TR_GO(tr_ranks_meet(ranks));
    error = steps(&r);
    if (!error && j->options->profile && leads) {
        char *text = tr_program_profile_text(r.trainer->program, r.peak_flops);
        tr_log("%s", text);
        free(text);
    }
    if (leads)
        j->signal = error ? 0 : r.signal;
done:
    tr_progress_free(r.progress);
    tr_generator_free(r.generator);
    tr_metrics_close(r.metrics);
    tr_tensorboard_close(r.board);
    tr_trainer_free(r.trainer);
    json_decref(plan);
    free(warning);
    return error;
}

tr_error *tr_run(const tr_config *config, const tr_run_options *options, int *out_signal)
{
    job j = {config, options, 0};
    signals held;
    signals_hold(&held);
    tr_error *error = NULL;
    if (options->trainer.dump_after && tr_config_ranks(config) > 1)
        error = tr_error_new(TR_USER, "--dump-after shows one rank's graph; use `trireme inspect CONFIG --dump-after=PASS`");
    if (!error)
        error = tr_config_run_ranks(config, run_rank, &j, options->say);
    signals_release(&held);
    *out_signal = j.signal;
    return error;
}

tr_error *tr_train(const char *config_path, const char *const *overrides, int n_overrides, tr_model model, void *user)
{
    tr_config *config = NULL;
    int signal = 0;
    char **all = tr_alloc_zero((size_t)n_overrides + 1, sizeof *all);
    all[0] = "model.family=custom"; /* the keys of no family, but all sizes */
    memcpy(all + 1, overrides, (size_t)n_overrides * sizeof *all);
    tr_error *error = tr_config_load(config_path, all, n_overrides + 1, &config);
    free(all);
    if (error)
        return error;
    config->model.family = TR_FAMILY_CUSTOM;
    tr_run_options options = {.trainer = {.model = model, .user = user}};
    error = tr_run(config, &options, &signal);
    tr_config_free(config);
    return error;
}

tr_error *tr_resume(const char *directory, const char *const *overrides, int n_overrides, tr_model model, void *user)
{
    tr_config *config;
    int signal = 0;
    TR_TRY(tr_config_load_run(directory, (char *const *)(uintptr_t)overrides, n_overrides, &config));
    tr_run_options options = {.trainer = {.model = model, .user = user, .resume = directory}};
    tr_error *error = tr_run(config, &options, &signal);
    tr_config_free(config);
    return error;
}
