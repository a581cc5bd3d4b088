/* Checkpoints of a program that is spread over the ranks of a mesh: what all ranks write together
 * is, bit by bit, what one rank with the whole program writes; every mesh loads it, in every
 * precision; and a part that is missing is noticed.
 *
 * Ranks are threads of this process, and once processes. Programs are compiled and allocated, never
 * run.
 */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/checkpoint.h"
#include "data/checkpoint_notes.h"
#include "data/checkpoint_ranks.h"
#include "data/weights.h"
#include "exec/compile.h"
#include "models/family.h"

typedef struct mesh {
    int data, tensor, zero;
} mesh;

enum { MOST_RANKS = 4, STEP = 7 };
static const mesh meshes[] = {{1, 1, 0}, {2, 1, 0}, {2, 1, 1}, {2, 1, 2}, {2, 1, 3},
                              {1, 2, 0}, {1, 3, 0}, {3, 1, 1}, {3, 1, 3}, {2, 2, 0},
                              {2, 2, 1}, {2, 2, 2}, {2, 2, 3}, {4, 1, 3}, {1, 4, 0}};
/* Neither 3 nor 4 divides all of these. */
static const tr_sizes sizes = {
    .vocab = 53, .context = 12, .layers = 2, .embed = 24, .heads = 4, .mlp = 38};
static char *scratch;

static char *in_scratch(const char *name)
{
    return tr_path_join(scratch, name);
}

static int ranks_of(mesh m)
{
    return m.data * m.tensor;
}

/* The program of one rank; NULL for `m` means the whole program. */
static tr_program *build(const mesh *m, int rank, tr_dtype compute)
{
    tr_sharding sharding = {0};
    if (m)
        sharding = (tr_sharding){
            .axes = {{"data", m->data, rank / m->tensor}, {"tensor", m->tensor, rank % m->tensor}},
            .n_axes = 2,
            .leaves = {{"heads", 1}, {"mlp", 1}, {"vocab", 1}, {"batch", 0}},
            .n_leaves = 4,
            .zero = m->zero,
            .zero_axis = 0};
    const tr_compile how = {.target = {.threads = 1, .reference = true},
                            .compute = compute,
                            .batch = 4,
                            .seq = 8,
                            .sharding = m ? &sharding : NULL,
                            .recompute = m && m->zero == 3 && m->tensor == 2 ? TR_RECOMPUTE_FULL
                                                                             : TR_RECOMPUTE_NONE,
                            .update = {.optimizer = TR_ADAMW,
                                       .beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .eps = 1e-8,
                                       .clip = 1,
                                       .micro_batches = 2}};
    tr_program *program = NULL;
    CHECK_OK(tr_compile_training(tr_gpt, &sizes, NULL, &how, &program));
    if (program)
        CHECK_OK(tr_program_allocate(program));
    return program;
}

static void build_all(mesh m, tr_dtype compute, tr_program **out)
{
    for (int r = 0; r < ranks_of(m); r++)
        out[r] = build(&m, r, compute);
}

static void free_all(tr_program **programs, int count)
{
    for (int r = 0; r < count; r++)
        tr_program_free(programs[r]);
}

static bool is_saved(const tr_value_info *info)
{
    return info->role == TR_PARAM ||
           (info->role == TR_STATE && strncmp(info->name, "grad.", 5) != 0 &&
            strncmp(info->name, "sum.", 4) != 0);
}

static char *element(const tr_program *p, tr_value v, int64_t i)
{
    return (char *)tr_program_data(p, v) + i * tr_dtype_bytes(p->graph->values[v].shape.dtype);
}

/* Every element of every saved value: other bits for each, all finite. */
static void fill(const tr_program *p)
{
    uint32_t state = 1;
    for (tr_value v = 1; v < p->graph->n_values; v++) {
        const tr_value_info *info = &p->graph->values[v];
        for (int64_t i = 0; is_saved(info) && i < tr_shape_elems(&info->shape); i++) {
            state = state * 1664525u + 1013904223u;
            uint32_t bits = 0x3f000000u | (state >> 8 & 0x7fffffu) | (state & 0x80000000u);
            uint16_t half = (uint16_t)(info->shape.dtype == TR_U16 ? state >> 16 : bits >> 16);
            if (info->shape.dtype == TR_F32)
                memcpy(element(p, v, i), &bits, 4);
            else
                memcpy(element(p, v, i), &half, 2);
        }
    }
}

/* A rank's elements against, or from, those of the whole program. Returns how many there were. */
static int64_t with_whole(const tr_program *part, const tr_program *whole, bool copy)
{
    int64_t seen = 0, wrong = 0;
    for (tr_value v = 1; v < part->graph->n_values; v++) {
        const tr_value_info *info = &part->graph->values[v];
        if (!is_saved(info))
            continue;
        tr_value w = tr_graph_find(whole->graph, info->name);
        size_t width = (size_t)tr_dtype_bytes(info->shape.dtype);
        CHECK(w && whole->graph->values[w].shape.dtype == info->shape.dtype);
        for (int64_t i = 0; i < tr_shape_elems(&info->shape); i++, seen++) {
            const char *there =
                element(whole, w, info->layout ? tr_layout_index(info->layout, i) : i);
            if (copy)
                memcpy(element(part, v, i), there, width);
            else
                wrong += memcmp(element(part, v, i), there, width) != 0;
        }
        if (wrong) {
            FAIL("%s: %lld elements differ", info->name, (long long)wrong);
            break;
        }
    }
    return seen;
}

/* Of what several ranks have, only the first may write: the others' is spoilt. */
static void spoil_copies(const tr_program *part)
{
    for (tr_value v = 1; v < part->graph->n_values; v++) {
        const tr_value_info *info = &part->graph->values[v];
        if (is_saved(info) && info->layout->owner)
            memset(tr_program_data(part, v), 0x55, (size_t)tr_shape_bytes(&info->shape));
    }
}

/* Saving ------------------------------------------------------------------------------------------
 */

typedef struct rank {
    const tr_program *program;
    const char *session;
    int rank;
    tr_error *error;
} rank;

static tr_error *write_share(const tr_program *program, const char *session, int r)
{
    tr_checkpoint_share *share;
    TR_TRY(tr_checkpoint_join(session, r, &share));
    tr_error *error = tr_weights_write_parts(program, TR_PARAM, share);
    if (!error)
        error = tr_weights_write_parts(program, TR_STATE, share);
    if (error) {
        tr_checkpoint_share_drop(share);
        return error;
    }
    return tr_checkpoint_share_commit_take(share);
}

static void *run_rank(void *argument)
{
    rank *r = argument;
    r->error = write_share(r->program, r->session, r->rank);
    return NULL;
}

/* What is saved beside the tensors; `program` declares them. */
typedef struct contents {
    tr_checkpoint_contents c;
    tr_saved *model, *state;
    int64_t model_count, state_count;
    json_t *trainer;
} contents;

static contents contents_of(const tr_program *program, bool with_data, int64_t shard_bytes)
{
    static const tr_checkpoint_file file = {"config.json", "{}\n", 3};
    contents out = {.trainer = json_pack("{s:i}", "step", STEP)};
    tr_saved *(*saved)(const tr_program *, tr_role, int64_t *) =
        with_data ? tr_weights_saved : tr_weights_declare;
    out.model = saved(program, TR_PARAM, &out.model_count);
    out.state = saved(program, TR_STATE, &out.state_count);
    out.c = (tr_checkpoint_contents){.step = STEP,
                                     .model = out.model,
                                     .model_count = out.model_count,
                                     .optimizer = out.state,
                                     .optimizer_count = out.state_count,
                                     .trainer = out.trainer,
                                     .files = &file,
                                     .file_count = 1,
                                     .shard_bytes = shard_bytes};
    return out;
}

static void contents_free(contents *c)
{
    tr_weights_saved_free(c->model, c->model_count);
    tr_weights_saved_free(c->state, c->state_count);
    json_decref(c->trainer);
}

static void save_whole(const char *out, const tr_program *program, int64_t shard_bytes)
{
    contents c = contents_of(program, true, shard_bytes);
    CHECK_OK(tr_checkpoint_save(out, &c.c, 1, NULL));
    contents_free(&c);
}

static tr_checkpoint_session *begin(const char *out, const tr_program *program, int ranks,
                                    int64_t shard_bytes)
{
    tr_checkpoint_session *session = NULL;
    contents c = contents_of(program, false, shard_bytes);
    CHECK_OK(tr_checkpoint_begin(out, &c.c, ranks, &session));
    contents_free(&c);
    return session;
}

/* All ranks at once, as threads; `absent` (or -1) does not come. */
static tr_error *save_by_ranks(const char *out, tr_program **programs, int count, int absent,
                               int64_t shard_bytes)
{
    tr_checkpoint_session *session = begin(out, programs[0], count, shard_bytes);
    pthread_t threads[MOST_RANKS];
    rank ranks[MOST_RANKS] = {{0}};
    for (int r = 0; r < count; r++) {
        ranks[r] = (rank){programs[r], tr_checkpoint_session_path(session), r, NULL};
        if (r != absent)
            CHECK(pthread_create(&threads[r], NULL, run_rank, &ranks[r]) == 0);
    }
    for (int r = 0; r < count; r++) {
        if (r != absent)
            pthread_join(threads[r], NULL);
        CHECK_OK(ranks[r].error);
    }
    bool complete;
    tr_error *error = tr_checkpoint_finish_take(session, 1, &complete);
    CHECK(complete == !error);
    return error;
}

static void check_same_file(const char *a, const char *b, const char *name)
{
    char *one = tr_format("%s/latest/%s", a, name), *other = tr_format("%s/latest/%s", b, name);
    tr_map x = {0}, y = {0};
    CHECK_OK(tr_map_open(one, &x));
    CHECK_OK(tr_map_open(other, &y));
    CHECK_INT(x.size, y.size);
    if (x.size != y.size || memcmp(x.bytes, y.bytes, (size_t)x.size) != 0)
        FAIL("%s and %s differ", one, other);
    tr_map_close(&x);
    tr_map_close(&y);
    free(one);
    free(other);
}

/* The same files, the same bytes, nothing else, no trace of the session. */
static void check_same_run(const char *a, const char *b)
{
    char **names, **others, *directory = tr_path_join(a, "latest"),
                            *other = tr_path_join(b, "latest");
    char *parent = tr_path_join(a, "checkpoints");
    int64_t count, other_count;
    CHECK_OK(tr_directory_list(directory, &names, &count));
    CHECK_OK(tr_directory_list(other, &others, &other_count));
    CHECK_INT(count, other_count);
    for (int64_t i = 0; i < count && i < other_count; i++) {
        CHECK_STRING(names[i], others[i]);
        check_same_file(a, b, names[i]);
    }
    tr_names_free(names, count);
    tr_names_free(others, other_count);
    CHECK_OK(tr_directory_list(parent, &names, &count));
    CHECK_INT(count, 2); /* the checkpoint and the lock */
    tr_names_free(names, count);
    free(directory), free(other), free(parent);
}

static void save_and_compare(tr_dtype compute)
{
    char *one = in_scratch("one"), *many = in_scratch("many");
    tr_program *whole = build(NULL, 0, compute), *parts[MOST_RANKS];
    CHECK_OK(tr_path_remove(one));
    fill(whole);
    save_whole(one, whole, 0);
    for (int64_t m = 0; m < TR_COUNT(meshes) && check_ok; m++) {
        int count = ranks_of(meshes[m]);
        CHECK_OK(tr_path_remove(many));
        build_all(meshes[m], compute, parts);
        for (int r = 0; r < count; r++) {
            with_whole(parts[r], whole, true);
            spoil_copies(parts[r]);
        }
        CHECK_OK(save_by_ranks(many, parts, count, -1, 0));
        check_same_run(one, many);
        if (!check_ok)
            FAIL("data %d, tensor %d, zero %d", meshes[m].data, meshes[m].tensor, meshes[m].zero);
        free_all(parts, count);
    }
    tr_program_free(whole);
    free(one), free(many);
}

static void test_save_f32(void)
{
    save_and_compare(TR_F32);
}

static void test_save_bf16(void)
{
    save_and_compare(TR_BF16);
}

/* Several model files, and an index. */
static void test_save_in_several_files(void)
{
    char *one = in_scratch("files-one"), *many = in_scratch("files-many");
    tr_program *whole = build(NULL, 0, TR_BF16), *parts[MOST_RANKS];
    fill(whole);
    save_whole(one, whole, 3000);
    build_all((mesh){2, 2, 1}, TR_BF16, parts);
    for (int r = 0; r < 4; r++)
        with_whole(parts[r], whole, true);
    CHECK_OK(save_by_ranks(many, parts, 4, -1, 3000));
    check_same_run(one, many);
    free_all(parts, 4);
    tr_program_free(whole);
    free(one), free(many);
}

/* Ranks that are processes, of which one is killed the first time. */
static void test_save_by_processes(void)
{
    char *one = in_scratch("process-one"), *many = in_scratch("process-many");
    tr_program *whole = build(NULL, 0, TR_F32), *parts[MOST_RANKS];
    fill(whole);
    save_whole(one, whole, 0);
    build_all((mesh){3, 1, 3}, TR_F32, parts);
    for (int r = 0; r < 3; r++)
        with_whole(parts[r], whole, true);
    for (int killed = 1; killed >= -1; killed -= 2) {
        tr_checkpoint_session *session = begin(many, parts[0], 3, 0);
        pid_t children[3];
        for (int r = 0; r < 3; r++) {
            children[r] = fork();
            if (children[r] == 0) {
                tr_checkpoint_share *share;
                tr_error *error = NULL;
                if (r != killed)
                    error = write_share(parts[r], tr_checkpoint_session_path(session), r);
                else if (!(error =
                               tr_checkpoint_join(tr_checkpoint_session_path(session), r, &share)))
                    error = tr_weights_write_parts(parts[r], TR_PARAM, share);
                _exit(error ? 1 : 0); /* the killed one has not committed */
            }
        }
        for (int r = 0; r < 3; r++) {
            int status = -1;
            waitpid(children[r], &status, 0);
            CHECK_INT(status, 0);
        }
        if (killed >= 0)
            CHECK_ERROR(tr_checkpoint_finish_take(session, 1, NULL),
                        "rank 1 has not finished its part");
        else
            CHECK_OK(tr_checkpoint_finish_take(session, 1, NULL));
    }
    check_same_run(one, many);
    free_all(parts, 3);
    tr_program_free(whole);
    free(one), free(many);
}

/* Loading -----------------------------------------------------------------------------------------
 */

static void load_everywhere(tr_dtype compute)
{
    char *out = in_scratch("load");
    tr_program *whole = build(NULL, 0, compute), *parts[MOST_RANKS];
    CHECK_OK(tr_path_remove(out));
    fill(whole);
    save_whole(out, whole, 0);
    tr_checkpoint *checkpoint = NULL;
    CHECK_OK(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint));
    for (int64_t m = 0; m < TR_COUNT(meshes) && check_ok; m++) {
        int count = ranks_of(meshes[m]);
        int64_t seen = 0;
        build_all(meshes[m], compute, parts);
        for (int r = 0; r < count; r++) {
            CHECK_OK(tr_weights_load_state(parts[r], tr_checkpoint_model(checkpoint),
                                           tr_checkpoint_optimizer(checkpoint)));
            seen += with_whole(parts[r], whole, false);
        }
        CHECK(seen >= with_whole(whole, whole, false));
        if (!check_ok)
            FAIL("data %d, tensor %d, zero %d", meshes[m].data, meshes[m].tensor, meshes[m].zero);
        free_all(parts, count);
    }
    tr_checkpoint_close(checkpoint);
    tr_program_free(whole);
    free(out);
}

static void test_load_f32(void)
{
    load_everywhere(TR_F32);
}

static void test_load_bf16(void)
{
    load_everywhere(TR_BF16);
}

/* The f32 that a weight stands for, by its whole index. */
static float weight_of(const tr_program *whole, const char *name, int64_t i)
{
    tr_value v = tr_graph_find(whole->graph, name);
    char *low_name = tr_format("low.%s", name);
    tr_value low = tr_graph_find(whole->graph, low_name);
    float value;
    free(low_name);
    if (whole->graph->values[v].shape.dtype == TR_F32)
        return memcpy(&value, element(whole, v, i), 4), value;
    uint16_t high_half = *(uint16_t *)(void *)element(whole, v, i);
    return tr_join_f32(high_half, *(uint16_t *)(void *)element(whole, low, i));
}

/* From one precision to the other; `rounded`: only the model's file, whose bf16 is all there is. */
static void check_converted(const tr_program *part, const tr_program *whole, bool rounded)
{
    int64_t wrong = 0;
    for (tr_value v = 1; v < part->graph->n_values; v++) {
        const tr_value_info *info = &part->graph->values[v];
        bool low = info->role == TR_STATE && strncmp(info->name, "low.", 4) == 0;
        if (info->role != TR_PARAM && !low)
            continue;
        const char *name = low ? info->name + 4 : info->name;
        tr_value there = tr_graph_find(whole->graph, name);
        bool bf16_file = whole->graph->values[there].shape.dtype == TR_BF16;
        for (int64_t i = 0; i < tr_shape_elems(&info->shape); i++) {
            int64_t at = tr_layout_index(info->layout, i);
            uint16_t high, low_half;
            float want = rounded && bf16_file
                             ? tr_bf16_to_f32(*(uint16_t *)(void *)element(whole, there, at))
                             : weight_of(whole, name, at);
            tr_split_f32(want, &high, &low_half);
            if (info->shape.dtype == TR_F32)
                wrong += memcmp(element(part, v, i), &want, 4) != 0;
            else
                wrong += memcmp(element(part, v, i), low ? &low_half : &high, 2) != 0;
        }
    }
    CHECK_INT(wrong, 0);
}

static void test_load_other_precision(void)
{
    static const mesh some[] = {{1, 1, 0}, {2, 1, 1}, {1, 3, 0}, {2, 2, 3}};
    for (int from = 0; from < 2; from++)
        for (int to = 0; to < 2; to++) {
            char *out = in_scratch("precision");
            tr_program *whole = build(NULL, 0, from ? TR_BF16 : TR_F32), *parts[MOST_RANKS];
            tr_checkpoint *checkpoint = NULL;
            CHECK_OK(tr_path_remove(out));
            fill(whole);
            save_whole(out, whole, 0);
            CHECK_OK(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint));
            for (int64_t m = 0; m < TR_COUNT(some); m++) {
                build_all(some[m], to ? TR_BF16 : TR_F32, parts);
                for (int r = 0; r < ranks_of(some[m]); r++) {
                    CHECK_OK(tr_weights_load_state(parts[r], tr_checkpoint_model(checkpoint),
                                                   tr_checkpoint_optimizer(checkpoint)));
                    check_converted(parts[r], whole, false);
                    CHECK_OK(tr_weights_load(parts[r], &tr_family_gpt2, tr_checkpoint_model(checkpoint)));
                    check_converted(parts[r], whole, true);
                }
                free_all(parts, ranks_of(some[m]));
            }
            tr_checkpoint_close(checkpoint);
            tr_program_free(whole);
            free(out);
        }
}

/* A fresh model is the same on every mesh. */
static void test_initialisation(void)
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        tr_dtype compute = bf16 ? TR_BF16 : TR_F32;
        tr_program *whole = build(NULL, 0, compute), *parts[MOST_RANKS];
        tr_program_init(whole, 42);
        for (int64_t m = 0; m < TR_COUNT(meshes); m++) {
            build_all(meshes[m], compute, parts);
            for (int r = 0; r < ranks_of(meshes[m]); r++) {
                tr_program_init(parts[r], 42);
                with_whole(parts[r], whole, false);
            }
            free_all(parts, ranks_of(meshes[m]));
        }
        tr_program_free(whole);
    }
}

/* What is wrong is noticed ------------------------------------------------------------------------
 */

static void test_missing_rank(void)
{
    char *out = in_scratch("missing");
    tr_program *parts[MOST_RANKS];
    build_all((mesh){1, 2, 0}, TR_F32, parts);
    CHECK_ERROR(save_by_ranks(out, parts, 2, 1, 0), "rank 1 has not finished its part");
    /* In the order of names: cut over heads, 2 of 4 for each of q, k and v. */
    CHECK_ERROR(
        save_by_ranks(out, parts, 2, 1, 0),
        "tensor 'adam.m.transformer.h.0.attn.c_attn.bias' is incomplete: no rank has written its "
        "elements 12 to 23 (of 72)");
    CHECK_ERROR(save_by_ranks(out, parts, 2, 0, 0), "elements 0 to 11 (of 72)");
    CHECK_ERROR(save_by_ranks(out, parts, 2, 0, 0), "the checkpoint of step 7 was not saved");
    tr_checkpoint *checkpoint;
    CHECK_ERROR(tr_checkpoint_open(out, TR_CHECKPOINT_ALL, &checkpoint), "has no checkpoint yet");
    CHECK_OK(save_by_ranks(out, parts, 2, -1, 0));
    free_all(parts, 2);
    free(out);
}

/* The session without programs: gaps of one element, wrong names and types, two ranks with the
 * same. */
static void test_session(void)
{
    char *out = in_scratch("session"), *parent = in_scratch("session/checkpoints");
    static const float values[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    const tr_saved model[] = {{"scalar", TR_F32, 0, NULL, NULL},
                              {"w", TR_F32, 2, (int64_t[]){2, 5}, NULL},
                              {"empty", TR_F32, 1, (int64_t[]){0}, NULL}};
    json_t *trainer = json_object();
    const tr_checkpoint_contents c = {
        .step = STEP, .model = model, .model_count = 3, .trainer = trainer};
    const tr_saved twice[] = {model[1]};
    tr_checkpoint_contents bad = c;
    bad.optimizer = twice;
    bad.optimizer_count = 1;
    tr_checkpoint_session *session = NULL;
    CHECK_ERROR(tr_checkpoint_begin(out, &bad, 1, &session), "two tensors are called 'w'");
    CHECK(session == NULL);
    for (int gap = -1; gap < 11; gap++) {
        tr_checkpoint_share *shares[2] = {NULL};
        int64_t w, scalar, unused;
        CHECK_OK(tr_checkpoint_begin(out, &c, 2, &session));
        CHECK_ERROR(tr_checkpoint_save(out, &c, 1, NULL), "another process is saving");
        for (int r = 0; r < 2; r++) {
            CHECK_OK(tr_checkpoint_join(tr_checkpoint_session_path(session), r, &shares[r]));
            CHECK_OK(tr_checkpoint_share_tensor(shares[r], "w", TR_F32, 10, &w));
            CHECK_OK(tr_checkpoint_share_tensor(shares[r], "scalar", TR_F32, 1, &scalar));
            CHECK_ERROR(tr_checkpoint_share_tensor(shares[r], "w", TR_BF16, 10, &unused),
                        "10 elements of bf16");
            CHECK_ERROR(tr_checkpoint_share_tensor(shares[r], "w", TR_F32, 9, &unused),
                        "has 10 of f32");
            CHECK_ERROR(tr_checkpoint_share_tensor(shares[r], "scala", TR_F32, 1, &unused),
                        "nearest is 'scalar'");
            for (int i = 0; i < 10; i++)
                if (i % 2 == r && i != gap)
                    CHECK_OK(tr_checkpoint_share_write(shares[r], w, i, 1, values + i));
            CHECK_OK(tr_checkpoint_share_write(shares[r], w, 10, 0, NULL));
        }
        for (int r = 0; r < 2 && gap < 10; r++)
            CHECK_OK(tr_checkpoint_share_write(shares[r], scalar, 0, 1, values)); /* both have it */
        CHECK_OK(tr_checkpoint_share_commit_take(shares[0]));
        CHECK_OK(tr_checkpoint_share_commit_take(shares[1]));
        tr_checkpoint_share *again = NULL;
        CHECK_OK(tr_checkpoint_join(tr_checkpoint_session_path(session), 1, &again));
        CHECK_ERROR(tr_checkpoint_share_commit_take(again), "written its part already");
        bool complete;
        tr_error *error = tr_checkpoint_finish_take(session, 1, &complete);
        CHECK(complete == (gap == -1));
        char *want = gap == 10 ? tr_strdup("'scalar' is incomplete")
                               : tr_format("elements %d to %d (of 10)", gap, gap);
        CHECK(gap == -1 ? !error : error && strstr(tr_error_text(error), want));
        tr_error_free(error);
        free(want);
    }
    /* A rank that lags behind a dropped session harms nothing. */
    tr_checkpoint_share *late = NULL;
    int64_t w;
    CHECK_OK(tr_checkpoint_begin(out, &c, 1, &session));
    char *path = tr_strdup(tr_checkpoint_session_path(session));
    CHECK_OK(tr_checkpoint_join(path, 0, &late));
    CHECK_OK(tr_checkpoint_share_tensor(late, "w", TR_F32, 10, &w));
    tr_checkpoint_drop(session);
    tr_checkpoint_drop(NULL);
    CHECK(!tr_path_exists(path));
    CHECK_OK(tr_checkpoint_begin(out, &c, 1, &session));
    CHECK_ERROR(tr_checkpoint_share_write(late, w, 0, 10, values),
                "the checkpoint of step 7 was not saved: rank 0: cannot");
    CHECK_ERROR(tr_checkpoint_share_commit_take(late),
                "the checkpoint of step 7 was not saved: rank 0: cannot");
    CHECK_ERROR(tr_checkpoint_finish_take(session, 1, NULL), "'scalar' is incomplete");
    CHECK_ERROR(tr_checkpoint_join(path, 5, &late), "rank 5 cannot take part");
    tr_checkpoint_share_drop(NULL);
    json_decref(trainer);
    char **names;
    int64_t count;
    CHECK_OK(tr_directory_list(parent, &names, &count));
    CHECK_INT(count, 2); /* the one without a gap, and the lock */
    tr_names_free(names, count);
    free(out), free(parent), free(path);
}

/* Patterns of runs against a map of elements, with a gap and without. */
static void test_notes(void)
{
    enum { N = 600 };
    uint32_t state = 5;
    int64_t with_gap = 0;
    for (int round = 0; round < 3000; round++) {
        char seen[N] = {0};
        tr_notes notes = {0}, parsed = {0};
        for (int k = 0; k < 6; k++) {
            state = state * 1664525u + 1013904223u;
            int64_t length = 1 + (state >> 8) % 60, step = length + (state >> 20) % 30,
                    first = (state >> 4) % 100;
            for (int64_t i = first; i + length <= N; i += step) {
                tr_notes_add(&notes, i, length);
                memset(seen + i, 1, (size_t)length);
            }
        }
        tr_notes_add(&notes, 0, 150);
        memset(seen, 1, 150);
        if (round % 2) {
            tr_notes_add(&notes, 500, 100);
            memset(seen + 500, 1, 100);
        }
        CHECK(notes.count <= 16);
        json_t *json = tr_notes_json(&notes);
        CHECK_OK(tr_notes_parse(&parsed, json, N, "x"));
        int64_t end, first = 0, last, gap = tr_notes_gap(&parsed, N, &end);
        while (first < N && seen[first])
            first++;
        for (last = first; last < N && !seen[last];)
            last++;
        CHECK_INT(gap, first < N ? first : -1);
        if (gap >= 0)
            CHECK_INT(end, last);
        with_gap += gap >= 0;
        CHECK_ERROR(tr_notes_parse(&parsed, json, 599 - (round % 2 ? 0 : 450), "x"), "damaged");
        json_decref(json);
        tr_notes_free(&notes);
        tr_notes_free(&parsed);
    }
    CHECK(with_gap > 100 && with_gap < 2900);
    static const char *const bad[] = {"[[1]]",
                                      "[[0,0,0,1]]",
                                      "[[0,1,0,0]]",
                                      "[[-1,1,0,1]]",
                                      "[[0,1,5,4]]",
                                      "[[0,1,10,9]]",
                                      "[1]",
                                      "[[0,1,0.5,1]]",
                                      "[[9,2,0,1]]",
                                      "[[0,11,0,1]]",
                                      "[[0,1,9223372036854775807,3]]"};
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        json_t *json = json_loads(bad[i], 0, NULL);
        tr_notes notes = {0};
        CHECK_ERROR(tr_notes_parse(&notes, json, 10, "x"), "x is damaged");
        tr_notes_free(&notes);
        json_decref(json);
    }
}

int main(void)
{
    char memory[] = "/dev/shm/trireme-test-ranks-XXXXXX";
    char disk[] = "/tmp/trireme-test-ranks-XXXXXX";
    scratch = mkdtemp(memory);
    if (!scratch)
        scratch = mkdtemp(disk);
    TEST(test_notes);
    TEST(test_session);
    TEST(test_save_f32);
    TEST(test_save_bf16);
    TEST(test_save_in_several_files);
    TEST(test_save_by_processes);
    TEST(test_load_f32);
    TEST(test_load_bf16);
    TEST(test_load_other_precision);
    TEST(test_initialisation);
    TEST(test_missing_rank);
    tr_error_free(tr_path_remove(scratch));
    return check_report();
}
