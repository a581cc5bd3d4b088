/* Techniques as rule sets; see parallel.h. */
#include "train/parallel.h"

#include <jansson.h>

#include "base/memory.h"
#include "train/config_schema.h"

int64_t tr_config_ranks(const tr_config *c)
{
    return c->mesh.data * c->mesh.sequence * c->mesh.tensor;
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

tr_sharding tr_config_sharding(const tr_config *c, int64_t rank)
{
    int64_t tensor = rank % c->mesh.tensor, rest = rank / c->mesh.tensor;
    tr_sharding s = {
        .axes = {[TR_AXIS_DATA] = {"data", (int)c->mesh.data, (int)(rest / c->mesh.sequence)},
                 [TR_AXIS_SEQUENCE] = {"sequence", (int)c->mesh.sequence, (int)(rest % c->mesh.sequence)},
                 [TR_AXIS_TENSOR] = {"tensor", (int)c->mesh.tensor, (int)tensor}},
        .n_axes = TR_AXES,
        .zero = (int)c->zero,
        .zero_axis = TR_AXIS_DATA,
    };
    leaf(&s, "batch", TR_AXIS_DATA);
    leaf(&s, "seq", TR_AXIS_SEQUENCE);
    leaf(&s, "heads", TR_AXIS_TENSOR);
    leaf(&s, "mlp", TR_AXIS_TENSOR);
    leaf(&s, "vocab", TR_AXIS_TENSOR);
    if (c->mesh.sequence_kind == TR_SEQUENCE_MEGATRON && c->mesh.tensor > 1) {
        s.stream[0].dim = "seq";
        s.stream[0].axis = TR_AXIS_TENSOR;
        s.n_stream = 1;
    }
    return s;
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
    static const tr_mesh_axis axes[TR_AXES] = {TR_MESH_DATA, TR_MESH_SEQUENCE, TR_MESH_TENSOR};
    const start *s = user;
    tr_ranks ranks;
    tr_ranks_join(&ranks, comm, s->mesh, axes, TR_AXES);
    tr_error *error = s->main(&ranks, s->user);
    tr_ranks_leave(&ranks);
    return error;
}

tr_error *tr_config_run_ranks(const tr_config *c, tr_error *(*main)(tr_ranks *ranks, void *user), void *user,
                              tr_say say)
{
    tr_mesh mesh = tr_mesh_one();
    mesh.size[TR_MESH_DATA] = (int32_t)c->mesh.data;
    mesh.size[TR_MESH_SEQUENCE] = (int32_t)c->mesh.sequence;
    mesh.size[TR_MESH_TENSOR] = (int32_t)c->mesh.tensor;
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
