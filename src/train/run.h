/* A whole training run: steps, validation, samples, checkpoints, metrics, progress, signals. */
#pragma once
#include "train/parallel.h"
#include "train/trainer.h"

typedef struct tr_run_options {
    tr_trainer_options trainer;
    bool quiet;
    bool profile;      /* print the profile at the end */
    const char *trace; /* a file for a Chrome trace of the second step; NULL: none */
    tr_say say;        /* see tr_config_run_ranks (train/parallel.h); NULL: errors are only returned */
} tr_run_options;

/* Trains to the last step. Catches SIGINT and SIGTERM meanwhile: the step is finished and saved, and
 * *out_signal is the signal (0: the run is complete). */
tr_error *tr_run(const tr_config *config, const tr_run_options *options, int *out_signal);
