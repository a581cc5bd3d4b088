/* Parameters and state to and from files; see weights.h. */
#include "data/weights.h"

#include "ir/graph.h"

static const char PREFIX[] = "transformer.";

static const tr_stored *find(const tr_safetensors *file, const char *name)
{
    const tr_stored *stored = tr_safetensors_find(file, name);
    size_t n = sizeof PREFIX - 1;
    if (!stored && strncmp(name, PREFIX, n) == 0)
        stored = tr_safetensors_find(file, name + n);
    return stored;
}

/* One parameter, in pieces, so that conversion needs no second copy of it. */
static tr_error *load_param(tr_program *p, tr_value v, const tr_stored *from, const tr_stored *low)
{
    const tr_value_info *info = &p->graph->values[v];
    tr_shape shape = tr_shape_in_file(p->graph, &info->shape);
    TR_TRY(tr_stored_check(from, shape.rank, shape.dims));
    int64_t n = tr_shape_elems(&shape);
    if (info->shape.dtype == from->dtype && !low)
        memcpy(tr_program_data(p, v), from->data, (size_t)from->bytes);
    else {
        float *values = NULL;
        TR_TRY(tr_pages_map((size_t)n * 4, (void **)&values));
        tr_error *error = tr_stored_read(from, 0, n, TR_F32, values);
        if (!error && low)
            for (int64_t i = 0; i < n; i++)
                values[i] = tr_join_f32(((const uint16_t *)from->data)[i], ((const uint16_t *)low->data)[i]);
        if (!error)
            tr_program_set_f32(p, v, values);
        tr_pages_unmap(values, (size_t)n * 4);
        return error;
    }
    return NULL;
}

/* A bf16 file into a split master: the low half is zero, and the weight is what the file says. */
tr_error *tr_weights_load(tr_program *p, const tr_safetensors *file)
{
    const tr_stored *head = tr_safetensors_find(file, "lm_head.weight");
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (info->role != TR_PARAM)
            continue;
        const tr_stored *from = find(file, info->name);
        if (!from)
            TR_TRY(tr_safetensors_need(file, info->name, &from));
        TR_TRY(load_param(p, v, from, NULL));
        bool embedding = strcmp(info->name, "transformer.wte.weight") == 0;
        if (embedding && head && (head->bytes != from->bytes || memcmp(head->data, from->data, (size_t)head->bytes) != 0))
            return tr_error_new(TR_USER, "%s: lm_head.weight differs from transformer.wte.weight; only tied "
                                         "embeddings are supported", head->file);
    }
    return NULL;
}

static bool belongs(const tr_value_info *info, tr_role role)
{
    static const char *const transient[] = {"grad.", "sum.", "cache."};
    if (info->role != role)
        return false;
    for (int i = 0; i < TR_COUNT(transient); i++)
        if (strncmp(info->name, transient[i], strlen(transient[i])) == 0)
            return false;
    return true;
}

tr_saved *tr_weights_saved(const tr_program *p, tr_role role, int64_t *out_count)
{
    tr_saved *saved = NULL;
    int64_t count = 0, room = 0;
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (!belongs(info, role))
            continue;
        tr_shape shape = tr_shape_in_file(p->graph, &info->shape);
        int64_t *dims = tr_alloc(sizeof shape.dims);
        memcpy(dims, shape.dims, sizeof shape.dims);
        tr_push(saved, count, room) = (tr_saved){.name = info->name, .dtype = shape.dtype, .rank = shape.rank,
                                                 .dims = dims, .data = tr_program_data(p, v)};
    }
    *out_count = count;
    return saved;
}

void tr_weights_saved_free(tr_saved *saved, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        free((void *)(uintptr_t)saved[i].dims);
    free(saved);
}

tr_error *tr_weights_load_state(tr_program *p, const tr_safetensors *model, const tr_safetensors *optimizer)
{
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        const tr_stored *from = NULL;
        if (info->role == TR_PARAM) {
            TR_TRY(tr_safetensors_need(model, info->name, &from));
            char *name = tr_format("low.%s", info->name);
            const tr_stored *low = tr_safetensors_find(optimizer, name);
            free(name);
            if (low && low->elems != from->elems)
                return tr_error_new(TR_USER, "%s: %s has another shape than the weight that it belongs to", low->file,
                                    low->name);
            TR_TRY(load_param(p, v, from, low));
        } else if (belongs(info, TR_STATE) && strncmp(info->name, "low.", 4) != 0) {
            TR_TRY(tr_safetensors_need(optimizer, info->name, &from));
            tr_shape shape = tr_shape_in_file(p->graph, &info->shape);
            TR_TRY(tr_stored_check(from, shape.rank, shape.dims));
            TR_TRY(tr_stored_read(from, 0, from->elems, info->shape.dtype, tr_program_data(p, v)));
        }
    }
    return NULL;
}
