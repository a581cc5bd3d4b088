/* Techniques as rule sets; see parallel.h. */
#include "train/parallel.h"

#include <jansson.h>

#include "base/file.h"
#include "base/memory.h"
#include "train/config_schema.h"

/* The axes on the device mesh. */
static const tr_mesh_axis mesh_axis[TR_AXES + 1] = {
    [TR_AXIS_DATA] = TR_MESH_DATA,
    [TR_AXIS_EXPERT] = TR_MESH_EXPERT,
    [TR_AXIS_SEQUENCE] = TR_MESH_SEQUENCE,
    [TR_AXIS_TENSOR_DEPTH] = TR_MESH_TENSOR_DEPTH,
    [TR_AXIS_TENSOR_ROW] = TR_MESH_TENSOR_ROW,
    [TR_AXIS_TENSOR_COLUMN] = TR_MESH_TENSOR_COLUMN,
    [TR_AXIS_TENSOR] = TR_MESH_TENSOR,
    [TR_AXIS_PIPELINE] = TR_MESH_PIPELINE,
};

tr_mesh tr_config_mesh(const tr_config *c)
{
    tr_mesh mesh = tr_mesh_one();
    mesh.size[TR_MESH_PIPELINE] = (int32_t)c->mesh.pipeline;
    mesh.size[TR_MESH_DATA] = (int32_t)c->mesh.data;
    mesh.size[TR_MESH_EXPERT] = (int32_t)c->mesh.expert;
    mesh.size[TR_MESH_SEQUENCE] = (int32_t)c->mesh.sequence;
    if (c->mesh.tensor_kind == TR_TENSOR_1D) {
        mesh.size[TR_MESH_TENSOR] = (int32_t)c->mesh.tensor;
        return mesh;
    }
    tr_tensor_grid grid;
    bool fits = tr_tensor_grid_of(c->mesh.tensor_kind, c->mesh.tensor, &grid);
    TR_CHECK(fits, "%lld tensor ranks have no such shape", (long long)c->mesh.tensor);
    mesh.size[TR_MESH_TENSOR_DEPTH] = (int32_t)grid.depth;
    mesh.size[TR_MESH_TENSOR_ROW] = (int32_t)grid.row;
    mesh.size[TR_MESH_TENSOR_COLUMN] = (int32_t)grid.column;
    return mesh;
}

int64_t tr_config_ranks(const tr_config *c)
{
    tr_mesh mesh = tr_config_mesh(c);
    return tr_mesh_ranks(&mesh);
}

char *tr_config_mesh_text(const tr_config *c)
{
    static const char prefix[] = "mesh.";
    tr_text text = {0};
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        tr_text value = {0};
        if (strncmp(key->name, prefix, strlen(prefix)) != 0)
            continue;
        tr_config_value(c, key, &value);
        bool usual = strcmp(value.bytes, key->type == KEY_INTEGER ? "1" : "none") == 0 ||
                     (key->fallback && strcmp(value.bytes, key->fallback) == 0);
        if (!usual)
            tr_text_format(&text, "%s%s=%s", text.length ? " " : "", key->name + strlen(prefix), value.bytes);
        tr_text_free(&value);
    }
    return text.bytes ? text.bytes : tr_strdup("data=1");
}

static void leaf(tr_sharding *s, const char *dim, int axis)
{
    s->leaves[s->n_leaves].dim = dim;
    s->leaves[s->n_leaves++].axis = axis;
}

/* What a product makes or takes besides the embedding. */
static void features(tr_sharding *s, int axis)
{
    leaf(s, "heads", axis);
    leaf(s, "mlp", axis);
    leaf(s, "vocab", axis);
}

static void stream(tr_sharding *s, const char *dim, int axis)
{
    s->stream[s->n_stream].dim = dim;
    s->stream[s->n_stream++].axis = axis;
}

/* A depth of squares. Weights are cut over both sides; the rows, which share the batch, gather a weight's other part
 * before its use: SUMMA's broadcasts along one side at once. Along the other, activations are gathered before
 * a product and scattered after it: by their tokens, since a norm needs the embedding whole. */
static void square(tr_sharding *s)
{
    s->axes[TR_AXIS_TENSOR_ROW].stores = true;
    leaf(s, "batch", TR_AXIS_TENSOR_DEPTH);
    leaf(s, "batch", TR_AXIS_TENSOR_ROW);
    leaf(s, "embed", TR_AXIS_TENSOR_ROW);
    features(s, TR_AXIS_TENSOR_COLUMN);
    stream(s, "seq", TR_AXIS_TENSOR_COLUMN);
}

/* A product has three dims (tokens, what is contracted, what is made) and the cube three axes: `row` cuts tokens,
 * `column` the embedding, `depth` the features on the other side. Each operand has the axis that does not cut it to
 * be stored over: weights are cut over row, what comes out along the embedding's side is cut by tokens. */
static void cube(tr_sharding *s)
{
    s->axes[TR_AXIS_TENSOR_ROW].stores = true;
    leaf(s, "batch", TR_AXIS_TENSOR_ROW);
    leaf(s, "batch", TR_AXIS_TENSOR_COLUMN);
    leaf(s, "embed", TR_AXIS_TENSOR_COLUMN);
    leaf(s, "context", TR_AXIS_TENSOR_ROW);
    features(s, TR_AXIS_TENSOR_DEPTH);
    features(s, TR_AXIS_TENSOR_ROW);
    stream(s, "seq", TR_AXIS_TENSOR_DEPTH);
    s->rest[0].dim = "batch";
    s->rest[0].axis = TR_AXIS_TENSOR_COLUMN;
    s->n_rest = 1;
}

tr_sharding tr_config_sharding(const tr_config *c, int64_t rank)
{
    tr_mesh mesh = tr_config_mesh(c);
    tr_sharding s = {.n_axes = TR_AXES, .zero = (int)c->zero, .zero_axis = TR_AXIS_DATA,
                     .narrow = c->mesh.wire == TR_BF16};
    int32_t at[TR_MESH_AXIS_COUNT];
    tr_mesh_coordinates(&mesh, (int32_t)rank, at);
    for (int a = 0; a < TR_AXES; a++)
        s.axes[a] = (tr_axis){.name = tr_mesh_axis_name(mesh_axis[a]),
                              .size = mesh.size[mesh_axis[a]],
                              .index = at[mesh_axis[a]]};
    leaf(&s, "batch", TR_AXIS_DATA);
    leaf(&s, "batch", TR_AXIS_EXPERT);
    leaf(&s, "expert", TR_AXIS_EXPERT);
    leaf(&s, "seq", TR_AXIS_SEQUENCE);
    s.axes[TR_AXIS_SEQUENCE].ring = c->mesh.sequence_kind == TR_SEQUENCE_RING;
    if (c->mesh.tensor_kind == TR_TENSOR_1D) {
        features(&s, TR_AXIS_TENSOR);
        if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->mesh.tensor > 1)
            stream(&s, "seq", TR_AXIS_TENSOR);
    } else {
        (c->mesh.tensor_kind == TR_TENSOR_3D ? cube : square)(&s);
    }
    return s;
}

/* A name of tr_pipeline_kind, or else a file. */
static tr_error *make_schedule(const tr_config *c, tr_schedule **out)
{
    tr_pipeline_kind kind;
    tr_map map;
    int64_t micro_batches = c->train.batch / c->train.micro_batch;
    tr_error *error = tr_pipeline_kind_parse(c->pipeline.schedule, &kind);
    if (!error)
        return tr_schedule_new(kind, c->mesh.pipeline, c->pipeline.chunks, micro_batches, out);
    if (!tr_path_exists(c->pipeline.schedule)) {
        tr_error *unknown = tr_config_error(c, "pipeline.schedule", "pipeline.schedule: %s, and no such file exists either",
                                            tr_error_text(error));
        tr_error_free(error);
        return unknown;
    }
    tr_error_free(error);
    TR_TRY(tr_map_open(c->pipeline.schedule, &map));
    error = tr_schedule_parse_csv(c->pipeline.schedule, map.bytes, map.size, out);
    tr_map_close(&map);
    return error;
}

/* Messages go between ranks: a rank's own stages must not be neighbours. */
static tr_error *check_neighbours(const tr_config *c, const tr_schedule *s)
{
    for (int i = 0; i + 1 < s->stages; i++)
        if (s->rank_of_stage[i] == s->rank_of_stage[i + 1])
            return tr_config_error(c, "pipeline.schedule", "pipeline.schedule %s: stages %d and %d are both on rank %d of the "
                                                           "pipeline; neighbouring stages must be on different ranks, as in "
                                                           "gpipe, 1f1b, interleaved and zero_bubble",
                                   c->pipeline.schedule, i, i + 1, s->rank_of_stage[i]);
    return NULL;
}

tr_error *tr_config_pipeline(const tr_config *c, int64_t rank, tr_config_stages *out)
{
    *out = (tr_config_stages){0};
    if (c->mesh.pipeline == 1)
        return NULL;
    tr_mesh mesh = tr_config_mesh(c);
    int32_t at[TR_MESH_AXIS_COUNT];
    tr_mesh_coordinates(&mesh, (int32_t)rank, at);
    tr_schedule_limits limits = {.ranks = (int32_t)c->mesh.pipeline,
                                 .microbatches = (int32_t)(c->train.batch / c->train.micro_batch)};
    tr_error *error = make_schedule(c, &out->schedule);
    if (!error)
        error = tr_error_in_take(tr_schedule_check(out->schedule, &limits, &out->report), "pipeline.schedule %s",
                                 c->pipeline.schedule);
    if (!error)
        error = check_neighbours(c, out->schedule);
    if (error) {
        tr_config_pipeline_free(out);
        return error;
    }
    out->stages = (tr_stages){.schedule = out->schedule, .live = out->report.stage_live_peak,
                              .place = at[TR_MESH_PIPELINE], .axis = TR_AXIS_PIPELINE};
    return NULL;
}

void tr_config_pipeline_free(tr_config_stages *stages)
{
    tr_schedule_report_free(&stages->report);
    tr_schedule_free(stages->schedule);
    *stages = (tr_config_stages){0};
}

tr_sharding tr_config_sharding_of_samples(const tr_config *c, int64_t rank)
{
    tr_sharding s = tr_config_sharding(c, rank);
    int kept = 0;
    for (int i = 0; i < s.n_leaves; i++)
        if (strcmp(s.leaves[i].dim, "batch") != 0 && strcmp(s.leaves[i].dim, "seq") != 0)
            s.leaves[kept++] = s.leaves[i];
    s.n_leaves = kept;
    s.n_stream = 0;
    return s;
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ b[i]) * 1099511628211u;
    return hash;
}

uint64_t tr_config_plan_hash(const tr_config *c, uint64_t whole_hash, const char *data, int64_t step)
{
    static const char *const own[] = {"data", "threads", "isa", "out"};
    json_t *config = tr_config_json(c), *state = json_loads(data, 0, NULL), *source;
    size_t i_source;
    json_array_foreach(json_object_get(state, "sources"), i_source, source)
        json_object_del(source, "name"); /* a path; the fingerprint counts */
    for (int i = 0; i < TR_COUNT(own); i++)
        json_object_del(config, own[i]);
    json_object_del(json_object_get(config, "model"), "from");
    char *text = json_dumps(config, JSON_SORT_KEYS | JSON_COMPACT),
         *corpus = json_dumps(state, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17));
    TR_CHECK(text && corpus, "the config or the state of the data is no JSON");
    uint64_t hash = mix(1469598103934665603u, &whole_hash, sizeof whole_hash);
    hash = mix(hash, &step, sizeof step);
    hash = mix(hash, TR_VERSION, strlen(TR_VERSION));
    hash = mix(hash, corpus, strlen(corpus));
    hash = mix(hash, text, strlen(text));
    free(corpus);
    free(text);
    json_decref(state);
    json_decref(config);
    return hash;
}

typedef struct start {
    const tr_mesh *mesh;
    tr_error *(*main)(tr_ranks *ranks, void *user);
    void *user;
    tr_say say;
    bool said;
} start;

static void report(const tr_comm *comm, const tr_error *error, void *user)
{
    start *s = user;
    s->said = true;
    if (!tr_comm_agreed(comm) || tr_comm_rank(comm) == 0)
        s->say(error);
}

static tr_error *run_rank(tr_comm *comm, void *user)
{
    const start *s = user;
    tr_ranks ranks;
    tr_ranks_join(&ranks, comm, s->mesh, mesh_axis, TR_AXES + 1);
    tr_error *error = s->main(&ranks, s->user);
    tr_ranks_leave(&ranks);
    return error;
}

tr_error *tr_config_run_ranks(const tr_config *c, tr_error *(*main)(tr_ranks *ranks, void *user), void *user,
                              tr_say say)
{
    tr_mesh mesh = tr_config_mesh(c);
    int64_t count = tr_mesh_ranks(&mesh);
    int32_t launched;
    bool processes = tr_mpi_launched(&launched);
    if (processes)
        TR_TRY(tr_mesh_verify(&mesh, launched ? launched : count));
    if (count == 1)
        return main(NULL, user);
    start s = {&mesh, main, user, say, false};
    tr_comm_options options = {.report = say && processes ? report : NULL};
    tr_error *error = tr_world_run((int32_t)count, &options, run_rank, &s);
    if (error && s.said) {
        tr_error *silent = tr_error_new(tr_error_blame(error), "%s", "");
        tr_error_free(error);
        error = silent;
    }
    return error;
}
