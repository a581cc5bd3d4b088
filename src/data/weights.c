/* Parameters and state to and from files; see weights.h.
 *
 * Everything goes by runs: elements that are together both here and in the whole tensor. A block
 * that is cut along dim d has runs of block[d] x (what is inside of d) elements.
 */
#include "data/weights.h"

#include "ir/graph.h"

static const char LOW[] = "low.";
enum { CHUNK = 4096 }; /* elements that are converted at once */

/* Where a value's elements are in the whole tensor ------------------------------------------------
 */

static int64_t local_elems(const tr_value_info *info)
{
    return tr_shape_elems(&info->shape);
}

/* The run that begins with local element i: its length, and where it begins in the whole. */
static int64_t run_at(const tr_value_info *info, int64_t i, int64_t *out_first)
{
    const tr_layout *l = info->layout;
    int64_t together = 1, left = local_elems(info) - i;
    *out_first = l ? tr_layout_index(l, i) : i;
    if (!l)
        return left;
    for (int d = l->rank - 1; d >= 0; d--) {
        together *= l->block[d];
        if (l->block[d] != l->whole[d])
            break;
    }
    return TR_MIN(together - (l->first + i) % together, left);
}

/* Calls `visit` for every run, of at most `most` elements. */
typedef tr_error *(*visitor)(void *context, int64_t local, int64_t first, int64_t count);
static tr_error *for_runs(const tr_value_info *info, int64_t most, visitor visit, void *context)
{
    int64_t n = local_elems(info), first;
    for (int64_t i = 0, count; i < n; i += count) {
        count = TR_MIN(run_at(info, i, &first), most);
        TR_TRY(visit(context, i, first, count));
    }
    return NULL;
}

static char *element_at(const tr_program *p, tr_value v, int64_t i)
{
    return (char *)tr_program_data(p, v) + i * tr_dtype_bytes(p->graph->values[v].shape.dtype);
}

/* Whole shapes ------------------------------------------------------------------------------------
 */

/* The shape of the whole tensor in files. */
static tr_shape whole_shape(const tr_graph *g, tr_value v)
{
    const tr_layout *l = g->values[v].layout;
    tr_shape shape = g->values[v].shape;
    if (l) {
        shape.rank = l->rank;
        memcpy(shape.dims, l->whole, sizeof shape.dims);
        memcpy(shape.names, l->names, sizeof shape.names);
    }
    return tr_shape_in_file(g, &shape);
}

static tr_error *check_shape(const tr_graph *g, tr_value v, const tr_stored *from)
{
    tr_shape shape = whole_shape(g, v);
    return tr_stored_check(from, shape.rank, shape.dims);
}

/* Loading -----------------------------------------------------------------------------------------
 */

static bool is_low(const tr_value_info *info)
{
    return info->role == TR_STATE && strncmp(info->name, LOW, sizeof LOW - 1) == 0;
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

/* A weight in files: its tensor and, of a split master, the low halves (or NULL). */
typedef struct source {
    const tr_stored *high, *low;
} source;

typedef enum form { PLAIN, HIGH, LOW_HALF } form;
typedef struct loading {
    tr_program *program;
    tr_value value;
    source from;
    form form;     /* HIGH: what the program keeps beside its low half */
    float *master; /* [CHUNK], for conversions */
} loading;

/* The f32 values of `count` elements from `first` on. */
static tr_error *read_master(loading *l, int64_t first, int64_t count)
{
    if (!l->from.low)
        return tr_stored_read(l->from.high, first, count, TR_F32, l->master);
    uint16_t high[CHUNK], low[CHUNK];
    TR_TRY(tr_stored_read(l->from.high, first, count, TR_BF16, high));
    TR_TRY(tr_stored_read(l->from.low, first, count, TR_U16, low));
    for (int64_t i = 0; i < count; i++)
        l->master[i] = tr_join_f32(high[i], low[i]);
    return NULL;
}

static tr_error *load_raw(void *context, int64_t local, int64_t first, int64_t count)
{
    loading *l = context;
    const tr_stored *from = l->form == LOW_HALF ? l->from.low : l->from.high;
    tr_dtype dtype = l->program->graph->values[l->value].shape.dtype;
    return tr_stored_read(from, first, count, dtype, element_at(l->program, l->value, local));
}

static tr_error *load_converted(void *context, int64_t local, int64_t first, int64_t count)
{
    loading *l = context;
    char *to = element_at(l->program, l->value, local);
    TR_TRY(read_master(l, first, count));
    if (l->program->graph->values[l->value].shape.dtype == TR_F32) {
        memcpy(to, l->master, (size_t)count * 4);
        return NULL;
    }
    uint16_t *halves = (uint16_t *)(void *)to, high, low;
    for (int64_t i = 0; i < count; i++) {
        tr_split_f32(l->master[i], &high, &low);
        halves[i] = l->form == PLAIN ? tr_f32_to_bf16(l->master[i]) : l->form == HIGH ? high : low;
    }
    return NULL;
}

/* A parameter or the low half of one. Bits are copied where both sides keep the weight alike; a
 * bf16 file into a split master: the low half is zero, and the weight is what the file says. */
static tr_error *load_weight(tr_program *p, tr_value v, source from)
{
    const tr_value_info *info = &p->graph->values[v];
    float master[CHUNK];
    loading l = {p, v, from, is_low(info) ? LOW_HALF : PLAIN, master};
    if (l.form == PLAIN && info->shape.dtype == TR_BF16) {
        char *name = tr_format("%s%s", LOW, info->name);
        if (tr_graph_find(p->graph, name))
            l.form = HIGH;
        free(name);
    }
    bool alike = l.form == LOW_HALF
                     ? from.low != NULL
                     : info->shape.dtype == from.high->dtype && (!from.low || l.form == HIGH);
    return alike ? for_runs(info, INT64_MAX, load_raw, &l)
                 : for_runs(info, CHUNK, load_converted, &l);
}

static tr_error *load_state(tr_program *p, tr_value v, const tr_stored *from)
{
    loading l = {.program = p, .value = v, .from = {from, NULL}};
    return for_runs(&p->graph->values[v], INT64_MAX, load_raw, &l);
}

/* The name of the parameter in files. */
static const char *weight_name(const tr_value_info *info)
{
    return is_low(info) ? info->name + sizeof LOW - 1 : info->name;
}

/* A `*` in a parameter's name stands for the index along its first dim, of which files have a tensor each. */
static char *indexed_name(const char *name, int64_t index)
{
    const char *star = strchr(name, '*');
    return tr_format("%.*s%lld%s", (int)(star - name), name, (long long)index, star + 1);
}

/* A tensor that files have in parts. */
typedef struct stack {
    tr_stored whole;
    const tr_stored **parts;
} stack;

/* The word of `list` that `name` begins with, as its length; 0: none. */
static size_t beginning(const char *list, const char *name)
{
    for (const char *at = list ? list : ""; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n && strncmp(at, name, n) == 0)
            return n;
        at += n;
    }
    return 0;
}

static const tr_stored *find_one(const tr_safetensors *file, const tr_family *family, const char *name)
{
    const tr_stored *stored = tr_safetensors_find(file, name);
    size_t n = stored || !family ? 0 : beginning(family->prefixes, name);
    return n ? tr_safetensors_find(file, name + n) : stored;
}

/* NULL: it is not there. `room` must outlive the result; free its parts. */
static const tr_stored *find(const tr_safetensors *file, const tr_family *family, const char *name, stack *room)
{
    int64_t count = 0, space = 0;
    room->parts = NULL;
    if (!strchr(name, '*'))
        return find_one(file, family, name);
    for (bool found = true; found;) {
        char *one = indexed_name(name, count);
        const tr_stored *part = find_one(file, family, one);
        free(one);
        found = part && part->rank < TR_STORED_RANK && (!count || (part->dtype == room->parts[0]->dtype &&
                                                                  part->elems == room->parts[0]->elems));
        if (found)
            tr_push(room->parts, count, space) = part;
    }
    if (!count)
        return NULL;
    room->whole = *room->parts[0];
    room->whole.name = name;
    room->whole.rank++;
    memmove(room->whole.dims + 1, room->parts[0]->dims, sizeof room->whole.dims - sizeof *room->whole.dims);
    room->whole.dims[0] = count;
    room->whole.elems *= count;
    room->whole.bytes *= count;
    room->whole.data = NULL;
    room->whole.decode = NULL;
    room->whole.parts = room->parts;
    return &room->whole;
}

typedef struct comparing {
    const tr_stored *a, *b;
    bool differ;
} comparing;

static bool equal(const tr_stored *a, const tr_stored *b, int64_t first, int64_t count)
{
    float left[CHUNK], right[CHUNK];
    int64_t width = tr_dtype_bytes(a->dtype);
    if (a->data && b->data && !a->decode && !b->decode)
        return memcmp((const char *)a->data + first * width, (const char *)b->data + first * width, (size_t)(count * width)) == 0;
    tr_error *error = tr_stored_read(a, first, count, TR_F32, left);
    if (!error)
        error = tr_stored_read(b, first, count, TR_F32, right);
    TR_CHECK(!error, "%s", tr_error_text(error));
    return memcmp(left, right, (size_t)count * sizeof *left) == 0;
}

static tr_error *compare(void *context, int64_t local, int64_t first, int64_t count)
{
    (void)local;
    comparing *c = context;
    c->differ |= !equal(c->a, c->b, first, count);
    return NULL;
}

/* Tensors that must be the same as this parameter; each rank looks at what it loads. */
static tr_error *check_same(const tr_program *p, const tr_value_info *info, const tr_family *family, const tr_safetensors *file,
                            const tr_stored *stored)
{
    for (const tr_same_tensor *same = family ? family->same : NULL; same && same->stored; same++) {
        const tr_stored *other = tr_safetensors_find(file, same->stored);
        if (!other || strcmp(same->parameter, info->name) != 0 || tr_graph_find(p->graph, same->stored))
            continue; /* the last: the model has both */
        comparing c = {stored, other, stored->dtype != other->dtype || stored->elems != other->elems};
        if (!c.differ)
            TR_TRY(for_runs(info, CHUNK, compare, &c));
        if (c.differ)
            return tr_error_new(TR_USER, "%s: %s differs from %s; the family %s has one tensor for both", other->file,
                                same->stored, same->parameter, family->name);
    }
    return NULL;
}

static tr_error *load_one(tr_program *p, tr_value v, const tr_family *family, const tr_safetensors *file, stack *room)
{
    const tr_value_info *info = &p->graph->values[v];
    const tr_stored *from = find(file, family, weight_name(info), room);
    if (!from && family && beginning(family->optional, weight_name(info)))
        return NULL;
    if (!from)
        TR_TRY(tr_safetensors_need(file, weight_name(info), &from));
    TR_TRY(check_shape(p->graph, v, from));
    TR_TRY(load_weight(p, v, (source){from, NULL}));
    return check_same(p, info, family, file, from);
}

const char *tr_weights_absent(const tr_program *p, const tr_family *family, const tr_safetensors *file)
{
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (info->role == TR_PARAM && family && beginning(family->optional, info->name) && !find_one(file, family, info->name))
            return info->name;
    }
    return NULL;
}

tr_error *tr_weights_load(tr_program *p, const tr_family *family, const tr_safetensors *file)
{
    tr_error *error = NULL;
    for (tr_value v = 1; v < p->graph->n_values && !error; v++) {
        stack room = {0};
        if (p->graph->values[v].role == TR_PARAM || is_low(&p->graph->values[v]))
            error = load_one(p, v, family, file, &room);
        free(room.parts);
    }
    return error;
}

/* The tensors of one weight in a checkpoint. */
static tr_error *find_source(const tr_safetensors *model, const tr_safetensors *optimizer,
                             const char *weight, stack *room, source *out)
{
    char *name = tr_format("%s%s", LOW, weight);
    out->low = tr_safetensors_find(optimizer, name);
    free(name);
    out->high = find(model, NULL, weight, room);
    if (!out->high)
        TR_TRY(tr_safetensors_need(model, weight, &out->high));
    if (out->low && (out->low->elems != out->high->elems || out->low->dtype != TR_U16 ||
                     out->high->dtype != TR_BF16))
        return tr_error_new(TR_USER,
                            "%s: %s has another shape or type than the weight that it belongs to",
                            out->low->file, out->low->name);
    return NULL;
}

tr_error *tr_weights_load_state(tr_program *p, const tr_safetensors *model,
                                const tr_safetensors *optimizer)
{
    const tr_graph *g = p->graph;
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        if (info->role == TR_PARAM || is_low(info)) {
            source from;
            stack room = {0};
            tr_error *error = find_source(model, optimizer, weight_name(info), &room, &from);
            if (!error)
                error = check_shape(g, v, from.high);
            if (!error)
                error = load_weight(p, v, from);
            free(room.parts);
            TR_TRY(error);
        } else if (belongs(info, TR_STATE)) {
            const tr_stored *from;
            TR_TRY(tr_safetensors_need(optimizer, info->name, &from));
            TR_TRY(check_shape(g, v, from));
            TR_TRY(load_state(p, v, from));
        }
    }
    return NULL;
}

/* Saving ------------------------------------------------------------------------------------------
 */

static bool is_stacked(const tr_value_info *info)
{
    return info->role == TR_PARAM && strchr(info->name, '*');
}

static tr_saved *declare(const tr_program *p, tr_role role, bool with_data, int64_t *out_count)
{
    const tr_graph *g = tr_program_leaves(p);
    tr_saved *saved = NULL;
    int64_t count = 0, room = 0;
    for (tr_value v = 1; v < g->n_values; v++) {
        const tr_value_info *info = &g->values[v];
        if (!belongs(info, role))
            continue;
        tr_shape shape = whole_shape(g, v);
        TR_CHECK(!with_data || tr_shape_elems(&shape) == local_elems(info),
                 "this rank has only a part of %s", info->name);
        bool stacked = is_stacked(info);
        int64_t parts = stacked ? shape.dims[0] : 1, bytes = tr_shape_bytes(&shape) / parts;
        for (int64_t k = 0; k < parts; k++) {
            int64_t *dims = tr_alloc_zero(TR_MAX_RANK, sizeof *dims);
            memcpy(dims, shape.dims + stacked, (size_t)(shape.rank - stacked) * sizeof *dims);
            tr_push(saved, count, room) =
                (tr_saved){.name = stacked ? indexed_name(info->name, k) : tr_strdup(info->name), .dtype = shape.dtype,
                           .rank = shape.rank - stacked, .dims = dims,
                           .data = with_data ? (char *)tr_program_data(p, v) + k * bytes : NULL};
        }
    }
    *out_count = count;
    return saved;
}

tr_saved *tr_weights_declare(const tr_program *p, tr_role role, int64_t *out_count)
{
    return declare(p, role, false, out_count);
}

tr_saved *tr_weights_saved(const tr_program *p, tr_role role, int64_t *out_count)
{
    return declare(p, role, true, out_count);
}

void tr_weights_saved_free(tr_saved *saved, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)saved[i].dims);
        free((void *)(uintptr_t)saved[i].name);
    }
    free(saved);
}

typedef struct writing {
    const tr_program *program;
    tr_value value;
    tr_checkpoint_share *share;
    int64_t *tensors; /* of each part */
    int64_t each;     /* elements of a part */
} writing;

static tr_error *write_run(void *context, int64_t local, int64_t first, int64_t count)
{
    const writing *w = context;
    for (int64_t done = 0; done < count;) {
        int64_t at = first + done, n = TR_MIN(w->each - at % w->each, count - done);
        TR_TRY(tr_checkpoint_share_write(w->share, w->tensors[at / w->each], at % w->each, n,
                                         element_at(w->program, w->value, local + done)));
        done += n;
    }
    return NULL;
}

static tr_error *write_value(const tr_program *p, tr_value v, tr_checkpoint_share *share)
{
    const tr_value_info *info = &p->graph->values[v];
    tr_shape shape = whole_shape(p->graph, v);
    bool stacked = is_stacked(info);
    int64_t parts = stacked ? shape.dims[0] : 1;
    writing w = {p, v, share, tr_alloc((size_t)parts * sizeof *w.tensors), tr_shape_elems(&shape) / parts};
    tr_error *error = NULL;
    for (int64_t k = 0; k < parts && !error; k++) {
        char *name = stacked ? indexed_name(info->name, k) : tr_strdup(info->name);
        error = tr_checkpoint_share_tensor(share, name, info->shape.dtype, w.each, &w.tensors[k]);
        free(name);
    }
    if (!error)
        error = for_runs(info, INT64_MAX, write_run, &w);
    free(w.tensors);
    return error;
}

tr_error *tr_weights_write_parts(const tr_program *p, tr_role role, tr_checkpoint_share *share)
{
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        if (belongs(info, role) && !(info->layout && info->layout->owner))
            TR_TRY(write_value(p, v, share));
    }
    return NULL;
}
