/* Parity: the same training run on every mesh, losses side by side. */
#pragma once
#include "train/trainer.h"

enum { TR_PARITY_MOST_STEPS = 1000 };

typedef struct tr_parity {
    char mesh[128];      /* "data=2 tensor=2" */
    const char *kind;    /* sequence kind */
    int64_t zero, ranks;
    char *refused;       /* why this mesh cannot be, or NULL */
    double *losses;      /* [steps] */
    double max_rel_diff; /* from one rank's */
    bool within;         /* its bound: 1e-5 in f32, 1e-2 in bf16 */
    int64_t bytes_sent;  /* a step, by the rank that sends most */
    int64_t planned_peak_bytes; /* of the worst rank */
} tr_parity;

/* Runs `steps` steps of the config on one rank, then on every mesh of `ranks` ranks, as threads of this
 * process; `each` gets every result as it comes (the first is one rank). Writes nothing but a temporary
 * directory. *out_all_within: every mesh that was not refused stayed within its bound. */
tr_error *tr_parity_run(const char *config_path, char *const *overrides, int n_overrides, int64_t ranks, int64_t steps,
                        tr_model model, void (*each)(void *context, const tr_parity *result), void *context,
                        bool *out_all_within);
