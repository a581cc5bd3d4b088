/* The agreement of ranks on their plan: what may differ between hosts, and what may not. */
#include "check.h"
#include "models/family.h"
#include "train/parallel.h"
#include "train/trainer.h"

static const char *const base[] = {"model.layers=1", "model.embed=16", "model.heads=4", "model.context=8", "model.vocab=32",
                                   "train.batch=4", "mesh.data=2", "mesh.tensor=2", "data.tokenizer=bytes"};
static const char data[] = "{\"version\": 1, \"sources\": [{\"name\": \"a.txt\", \"fingerprint\": \"12\"}]}";

/* The plan's hash as rank `rank` computes it with one override more. */
static tr_error *hash_of(const char *override, int64_t rank, const char *corpus, int64_t step, uint64_t *out)
{
    char *words[TR_COUNT(base) + 1];
    int count = 0;
    tr_config *config = NULL;
    tr_program *program = NULL;
    tr_error *error = NULL;
    for (int i = 0; i < TR_COUNT(base); i++)
        words[count++] = (char *)(uintptr_t)base[i];
    if (override)
        words[count++] = (char *)(uintptr_t)override;
    TR_GO(tr_config_load(NULL, words, count, &config));
    tr_sizes sizes = tr_config_sizes(config);
    tr_pass_log log = {0};
    TR_GO(tr_trainer_plan(config, rank, &sizes, tr_gpt, NULL, NULL, NULL, &log, &program));
    *out = tr_config_plan_hash(config, program->whole_hash, corpus, step);
done:
    tr_program_free(program);
    tr_config_free(config);
    return error;
}

static void test_hash(void)
{
    static const char *const may_differ[] = {"threads=3", "out=/elsewhere", "isa=portable", "data.train=b.txt",
                                             "data.cache=/tmp"};
    static const char *const may_not[] = {"mesh.tensor=1", "mesh.data=1", "mesh.sequence_kind=megatron", "zero=1",
                                          "train.precision=bf16", "train.micro_batch=2", "train.seq=4", "seed=2",
                                          "optimizer.lr=1", "model.mlp=32", "model.dropout=0.1", "train.recompute=full",
                                          "train.steps=7", "train.eval_every=3"};
    uint64_t first, other;
    CHECK_OK(hash_of(NULL, 0, data, 0, &first));
    for (int64_t rank = 1; rank < 4; rank++) {
        CHECK_OK(hash_of(NULL, rank, data, 0, &other));
        CHECK(other == first);
    }
    for (int i = 0; i < TR_COUNT(may_differ); i++) {
        CHECK_OK(hash_of(may_differ[i], 0, data, 0, &other));
        if (other != first)
            printf("%s\n", may_differ[i]);
        CHECK(other == first);
    }
    for (int i = 0; i < TR_COUNT(may_not); i++) {
        CHECK_OK(hash_of(may_not[i], 0, data, 0, &other));
        if (other == first)
            printf("%s\n", may_not[i]);
        CHECK(other != first);
    }
    CHECK_OK(hash_of(NULL, 0, data, 1, &other));
    CHECK(other != first);
    CHECK_OK(hash_of(NULL, 0, "{\"version\": 1, \"sources\": [{\"name\": \"b.txt\", \"fingerprint\": \"12\"}]}", 0, &other));
    CHECK(other == first);
    CHECK_OK(hash_of(NULL, 0, "{\"version\": 1, \"sources\": [{\"name\": \"a.txt\", \"fingerprint\": \"13\"}]}", 0, &other));
    CHECK(other != first);
}

/* Ranks as threads; those in the mask have another micro-batch. */
static tr_error *agree(tr_comm *comm, void *user)
{
    const int *odd = user;
    uint64_t hash;
    int32_t rank = tr_comm_rank(comm);
    TR_TRY(hash_of(*odd >> rank & 1 ? "train.micro_batch=2" : NULL, rank % 4, data, 0, &hash)); /* of the mesh's 4 */
    return tr_comm_agree(comm, hash, "plan");
}

static void test_agreement(void)
{
    int odd = 0;
    CHECK_OK(tr_world_run_threads(4, NULL, agree, &odd));
    odd = 1 << 2;
    CHECK_ERROR(tr_world_run_threads(4, NULL, agree, &odd), "the ranks do not have the same plan: rank 2 (the first on host ");
    odd = 1 << 1 | 1 << 3;
    CHECK_ERROR(tr_world_run_threads(5, NULL, agree, &odd), "ranks 1 and 3 (the first on host ");
}

static char *mesh_text(const char *override)
{
    char *words[] = {(char *)(uintptr_t)override};
    tr_config *config;
    tr_error *error = tr_config_load(NULL, words, 1, &config);
    CHECK_OK(error);
    char *text = tr_config_mesh_text(config);
    tr_config_free(config);
    return text;
}

static void test_mesh_text(void)
{
    static const char *const rows[][2] = {{"seed=1", "data=1"},
                                          {"mesh.data=4", "data=4"},
                                          {"mesh.sequence=2", "sequence=2 sequence_kind=ulysses"},
                                          {"mesh.tensor=3", "tensor=3"}};
    for (int i = 0; i < TR_COUNT(rows); i++) {
        char *text = mesh_text(rows[i][0]);
        CHECK_STRING(text, rows[i][1]);
        free(text);
    }
}

int main(void)
{
    TEST(test_hash);
    TEST(test_agreement);
    TEST(test_mesh_text);
    return check_report();
}
