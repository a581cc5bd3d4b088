/* The table of objectives; see objective.h. */
#include "data/objective.h"

#include "base/memory.h"

const tr_objective_row *const tr_objectives[TR_OBJECTIVE_COUNT] = {
#define X(name) &tr_objective_##name,
    TR_OBJECTIVES(X)
#undef X
};

int tr_objective_find(const char *name)
{
    for (int k = 0; k < TR_OBJECTIVE_COUNT; k++)
        if (strcmp(tr_objectives[k]->name, name) == 0)
            return k;
    return -1;
}

tr_error *tr_objective_open(int which, const tr_objective_options *options, tr_objective **out)
{
    void *own = NULL;
    *out = NULL;
    TR_TRY(tr_objectives[which]->open(options, &own));
    *out = tr_alloc(sizeof **out);
    **out = (tr_objective){tr_objectives[which], own};
    return NULL;
}

void tr_objective_free(tr_objective *o)
{
    if (!o)
        return;
    o->row->free(o->own);
    free(o);
}

int64_t tr_objective_val_count(const tr_objective *o)
{
    return o->row->loader ? tr_loader_val_count(o->row->loader(o->own)) : o->row->val_count(o->own);
}

tr_loader_info tr_objective_describe(const tr_objective *o)
{
    return o->row->loader ? tr_loader_describe(o->row->loader(o->own)) : o->row->describe(o->own);
}

char *tr_objective_state(const tr_objective *o)
{
    return o->row->loader ? tr_loader_state(o->row->loader(o->own)) : o->row->state(o->own);
}

tr_error *tr_objective_check_state(const tr_objective *o, const char *state)
{
    return o->row->loader ? tr_loader_check_state(o->row->loader(o->own), state) : o->row->check_state(o->own, state);
}

tr_field *tr_field_find(tr_field *fields, int count, const char *name)
{
    for (int k = 0; k < count; k++)
        if (strcmp(fields[k].name, name) == 0)
            return &fields[k];
    return NULL;
}

void tr_objective_count(tr_field *positions)
{
    for (int64_t i = 0; positions && i < positions->elems; i++)
        positions->ints[i] = (int32_t)i;
}

tr_error *tr_objective_loader(const tr_objective_options *o, int64_t seq, tr_loader **out)
{
    tr_corpus_options reading = {.tokenizer = o->tokenizer, .cache = o->cache, .threads = o->threads};
    tr_loader_options options = {.seq = seq, .seed = o->seed, .vocab = o->vocab, .val_split = o->val_split};
    return tr_loader_open(&options, &reading, o->paths, o->weights, o->n_paths, o->val_paths, o->n_val_paths, out);
}
