/* Parity: the same training run on every mesh, losses side by side. Each mesh runs in a process of its own, so that
 * its memory can be told from that of the others; ranks are threads of that process. */
#pragma once
#include "train/trainer.h"

enum { TR_PARITY_MOST_STEPS = 1000, TR_PARITY_MOST_MESH = 128 };

/* One line of the table: what is set on top of the config. */
typedef struct tr_parity_case {
    char mesh[TR_PARITY_MOST_MESH]; /* keys of `mesh.`, those that are not 1: "data=2 tensor=2 sequence_kind=megatron" */
    int64_t ranks, zero;
    int64_t micro_batch;  /* 0: the config's */
    const char *schedule; /* of the pipeline; NULL: there is none */
} tr_parity_case;

typedef struct tr_parity {
    tr_parity_case of;
    char *refused;       /* why this mesh cannot be, or NULL */
    double *losses;      /* [steps] */
    double max_rel_diff; /* from one rank's */
    bool within;         /* its bound: 1e-5 in f32, 1e-2 in bf16, 1e-3 in f32 with bf16 on the wire */
    int64_t bytes_sent;  /* a step, by the rank that sends most */
    int64_t planned_peak_bytes; /* of the rank that needs most */
    int64_t peak_bytes;  /* measured: the most pages of its plan that a rank has touched, and its share of what else
                            the process has grown by while it ran (other threads' stacks, scratch of collectives and
                            of oneDNN, the program's own pages) */
} tr_parity;

/* Runs `steps` steps of the config on one rank, then on every mesh of `ranks` ranks (or on the mesh `only`); `each` gets every result as it
 * comes (the first is one rank). Writes nothing but a temporary directory. *out_all_within: every mesh that was not
 * refused stayed within its bound. model NULL: that of the config's family. Forks: call it before anything in this process has used OpenMP. */
tr_error *tr_parity_run(const char *config_path, char *const *overrides, int n_overrides, int64_t ranks, int64_t steps,
                        const char *only, tr_model model, void (*each)(void *context, const tr_parity *result), void *context,
                        bool *out_all_within);
