/* A trainer: programs, data and state of one run, advanced step by step. What prints, logs, saves on time
 * and listens to signals is train/run.h; this is what a step is.
 */
#pragma once
#include "data/batch.h"
#include "exec/compile.h"
#include "exec/pipeline.h"
#include "exec/ranks.h"
#include "data/checkpoint.h"
#include "models/family.h"
#include "train/config.h"
#include "train/parallel.h"

typedef struct tr_trainer {
    const tr_config *config;
    const tr_family *family; /* NULL: a program's own */
    tr_model model;
    void *user;
    tr_sizes sizes;
    tr_target target;
    tr_tokenizer *tokenizer; /* NULL when all data are shards of foreign tokens */
    tr_objective *objective;
    tr_program *program, *evaluation; /* evaluation: made when first wanted, shares the weights */
    tr_program *choosing;             /* logits, for accuracy; likewise */
    tr_config_stages stages;          /* of a pipeline */
    tr_pipeline *pipeline, *evaluating; /* NULL: no pipeline */
    tr_pass_log passes;
    tr_ranks *ranks; /* NULL: this is the only one */
    int64_t step; /* steps done */
    int64_t skipped; /* of those, the ones whose gradient was not finite and that changed nothing */
    double loss_scale; /* of the mean loss, in fp16; 0: none */
    int64_t good_steps; /* since it changed */
    double best_val_loss;
    int64_t parameters;
} tr_trainer;

typedef struct tr_trainer_options {
    tr_model model; /* NULL: that of the config's family */
    void *user;
    const char *resume;     /* a run's directory: go on from its newest checkpoint; NULL: start */
    const char *dump_after; /* see exec/compile.h */
    tr_text *dump;
    tr_ranks *ranks; /* this rank among those of the config's mesh; NULL: one rank */
} tr_trainer_options;

/* Reads the data, compiles, and fills the weights: from the checkpoint, model.from, or the seed. The config
 * must outlive the trainer. *out_warning, if set, is a sentence for the user; the caller frees. */
tr_error *tr_trainer_new(const tr_config *config, const tr_trainer_options *options, char **out_warning,
                         tr_trainer **out);
void tr_trainer_free(tr_trainer *trainer);

typedef struct tr_step {
    double loss, grad_norm, lr, seconds;
    int64_t tokens; /* that counted in the loss */
    double loss_scale; /* that the step was done with; 0: none */
    bool applied;   /* false: the gradient was not finite and nothing changed */
} tr_step;
tr_error *tr_trainer_step(tr_trainer *trainer, tr_step *out);
/* Mean loss over the first `batches` micro-batches of the validation data (0: all of it). */
tr_error *tr_trainer_evaluate(tr_trainer *trainer, int64_t batches, double *out_loss);
/* The share of those samples whose class has the largest logit; NAN when the samples have no class, or with a
 * pipeline. */
tr_error *tr_trainer_accuracy(tr_trainer *trainer, int64_t batches, double *out);
/* A checkpoint in config->out; `best` as the validation loss says. */
tr_error *tr_trainer_save(tr_trainer *trainer, bool best);

/* True on the rank that writes what is written once. */
bool tr_trainer_leads(const tr_trainer *trainer);
/* Plan only: the program of a config's rank, without data or memory, for inspect. vocab must be known. */
tr_error *tr_trainer_plan(const tr_config *config, int64_t rank, const tr_sizes *sizes, tr_model model, void *user,
                          const char *dump_after, tr_text *dump, tr_pass_log *log, tr_program **out);
/* 6 x parameters + 12 x layers x embed x seq: forward and backward of one token. */
double tr_flops_per_token(const tr_sizes *sizes, int64_t parameters, int64_t seq);
/* The tokenizer that data.tokenizer names; "chars" learns it from data.train. */
tr_error *tr_config_tokenizer(const tr_config *config, tr_tokenizer **out);
/* Its row; NULL: the model is a program's own. */
const tr_family *tr_config_family(const tr_config *config);
/* The model function of model.family; one that only another program has is refused. */
tr_error *tr_config_model(const tr_config *config, tr_model *out);
tr_error *tr_config_target(const tr_config *config, tr_target *out);
/* Most memory the process has held so far (VmHWM), in bytes; 0 when the system does not say. */
int64_t tr_process_peak_bytes(void);
