/* Causal language modelling: each token from those before it.
 *
 *   ids [seq]  positions [seq]  targets [seq]: the next token, -1 where there is none
 */
#include "base/memory.h"
#include "data/objective.h"

static tr_error *open(const tr_objective_options *options, void **out)
{
    tr_loader *opened = NULL;
    tr_error *error = tr_objective_loader(options, options->seq, &opened);
    *out = opened;
    return error;
}

static void close(void *own)
{
    tr_loader_free(own);
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    tr_field *ids = tr_field_find(fields, count, "ids"), *targets = tr_field_find(fields, count, "targets"),
             *positions = tr_field_find(fields, count, "positions"), *any = ids ? ids : targets;
    tr_objective_count(positions);
    if (!any)
        return NULL;
    int32_t *unwanted = ids && targets ? NULL : tr_alloc((size_t)any->elems * sizeof *unwanted);
    tr_error *error = (validation ? tr_loader_val_sample : tr_loader_sample)(own, index, ids ? ids->ints : unwanted,
                                                                            targets ? targets->ints : unwanted);
    free(unwanted);
    return error;
}

static const tr_loader *loader(const void *own)
{
    return own;
}

const tr_objective_row tr_objective_causal = {
    .name = "causal",
    .help = "each token from those before it",
    .inputs = "ids positions targets",
    .open = open,
    .free = close,
    .sample = sample,
    .loader = loader,
};
