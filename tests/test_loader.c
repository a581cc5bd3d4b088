/* The loader: the permutation, epochs, mixing, the validation split, purity, the saved state. */
#define _GNU_SOURCE
#include "check.h"

#include <unistd.h>

#include "base/memory.h"
#include "data/loader.h"

static char folder[64];

/* A source of `count` tokens first, first + 1, ... in `shards` shards; the vocabulary is 100000. */
static tr_corpus *source_of(const char *name, int32_t first, int64_t count, int64_t shards)
{
    char *directory = tr_path_join(folder, name);
    CHECK_OK(tr_path_remove(directory));
    CHECK_OK(tr_directory_make(directory));
    for (int64_t s = 0, at = 0; s < shards; s++) {
        int64_t end = count * (s + 1) / shards;
        char *file = tr_format("%s/%02d.tokens", directory, (int)s);
        tr_shard_writer *writer;
        CHECK_OK(tr_shard_writer_open(file, &(tr_shard_options){100000, -1, 0}, &writer));
        for (; at < end; at++)
            CHECK_OK(tr_shard_writer_add(writer, &(int32_t){first + (int32_t)at}, 1));
        tr_shard_writer_end_document(writer, 0);
        CHECK_OK(tr_shard_writer_commit_take(writer));
        free(file);
    }
    tr_corpus *source = NULL;
    CHECK_OK(tr_corpus_open(directory, &(tr_corpus_options){.cache = folder}, &source));
    free(directory);
    return source;
}

static tr_loader *loader_of(int64_t seq, uint64_t seed, double val_split, tr_corpus **sources,
                            const double *weights, int64_t count)
{
    tr_loader *loader = NULL;
    tr_loader_options options = {.seq = seq, .seed = seed, .vocab = 100000, .val_split = val_split};
    CHECK_OK(tr_loader_new_take(&options, sources, weights, count, NULL, 0, &loader));
    return loader;
}

static void test_permute(void)
{
    bool seen[1000];
    for (int64_t count = 1; count < 1000; count += count < 40 ? 1 : 61) {
        int64_t moved = 0;
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < count; i++) {
            int64_t at = tr_permute(99 + (uint64_t)count, count, i);
            CHECK(at >= 0 && at < count && !seen[at]);
            seen[at] = true;
            moved += at != i;
        }
        if (count > 20)
            CHECK(moved > count / 2);
    }
    CHECK(tr_permute(1, INT64_MAX, INT64_MAX - 1) >= 0);
    /* The first element goes everywhere alike: 64 cells, 6400 keys, chi squared below its 0.999
     * quantile. */
    int64_t cells[64] = {0};
    for (uint64_t key = 0; key < 6400; key++)
        cells[tr_permute(tr_hash_word(5, key), 64, 0)]++;
    double chi = 0;
    for (int i = 0; i < 64; i++)
        chi += (double)((cells[i] - 100) * (cells[i] - 100)) / 100;
    CHECK_NEAR(chi, 63, 40);
}

/* An epoch: windows that do not overlap, in another order and at another offset than the next
 * one's. */
static void test_epochs(void)
{
    enum { SEQ = 8, TOKENS = 1000 };
    tr_corpus *source = source_of("epochs", 0, TOKENS, 3);
    tr_loader *loader = loader_of(SEQ, 7, 0, &source, NULL, 1);
    int64_t windows = tr_loader_describe(loader).train_windows;
    CHECK(windows >= TOKENS / SEQ - 6 && windows <= TOKENS / SEQ);
    int32_t ids[SEQ], targets[SEQ];
    int64_t in_order = 0, offsets[SEQ] = {0};
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        bool seen[TOKENS] = {false};
        int64_t previous = -1;
        for (int64_t i = 0; i < windows; i++) {
            CHECK_OK(tr_loader_sample(loader, epoch * windows + i, ids, targets));
            for (int k = 0; k < SEQ; k++) {
                CHECK_INT(targets[k], ids[0] + k + 1);
                CHECK_INT(ids[k], ids[0] + k);
                CHECK(!seen[ids[k]]);
                seen[ids[k]] = true;
            }
            in_order += ids[0] == previous + SEQ;
            previous = ids[0];
            if (ids[0] < 100)
                offsets[ids[0] % SEQ]++;
        }
        int64_t source_index, at_epoch;
        tr_loader_place(loader, (epoch + 1) * windows - 1, &source_index, &at_epoch);
        CHECK_INT(at_epoch, epoch);
    }
    CHECK(in_order < 20 * windows / 20);
    int64_t used = 0;
    for (int k = 0; k < SEQ; k++)
        used += offsets[k] > 0;
    CHECK(used >= SEQ - 3);
    tr_loader_free(loader);
}

/* Sample i is the same whoever asks and in whatever order; another seed gives another order. */
static void test_pure(void)
{
    enum { SEQ = 16 };
    int32_t a[SEQ], b[SEQ], targets[SEQ];
    tr_corpus *source = source_of("pure", 0, 5000, 2);
    tr_loader *one = loader_of(SEQ, 1, 0.1, &source, NULL, 1);
    source = source_of("pure", 0, 5000, 2);
    tr_loader *two = loader_of(SEQ, 1, 0.1, &source, NULL, 1);
    source = source_of("pure", 0, 5000, 2);
    tr_loader *other = loader_of(SEQ, 2, 0.1, &source, NULL, 1);
    int64_t same = 0;
    for (int64_t i = 999; i >= 0; i--) {
        CHECK_OK(tr_loader_sample(one, i, a, targets));
        CHECK_OK(tr_loader_sample(two, 999 - i, b, targets));
        CHECK_OK(tr_loader_sample(two, i, b, targets));
        CHECK(memcmp(a, b, sizeof a) == 0);
        CHECK_OK(tr_loader_sample(other, i, b, targets));
        same += memcmp(a, b, sizeof a) == 0;
    }
    CHECK(same < 30);
    CHECK_OK(tr_loader_sample(one, (int64_t)1 << 61, a, targets));
    tr_loader_free(one);
    tr_loader_free(two);
    tr_loader_free(other);
}

static void test_mixing(void)
{
    enum { SEQ = 4 };
    const double weights[] = {5, 1, 2.5};
    tr_corpus *sources[] = {source_of("m0", 0, 400, 1), source_of("m1", 10000, 4000, 1),
                            source_of("m2", 20000, 800, 2)};
    tr_loader *loader = loader_of(SEQ, 3, 0, sources, weights, 3);
    int64_t counts[3] = {0};
    int32_t ids[SEQ], targets[SEQ];
    bool seen[800] = {false}; /* windows of source 2 in its first epoch */
    for (int64_t i = 0; i < 2000; i++) {
        int64_t s, epoch;
        tr_loader_place(loader, i, &s, &epoch);
        CHECK_OK(tr_loader_sample(loader, i, ids, targets));
        CHECK_INT(ids[0] / 10000, s);
        counts[s]++;
        for (int k = 0; k < 3; k++)
            CHECK_NEAR((double)counts[k], (double)(i + 1) * weights[k] / 8.5, 2.0);
        if (s == 2 && epoch == 0)
            for (int k = 0; k < SEQ; k++) {
                CHECK(!seen[ids[k] - 20000]);
                seen[ids[k] - 20000] = true;
            }
    }
    tr_loader_free(loader);
    /* Without weights: by size, so both end their epochs together. */
    tr_corpus *pair[] = {source_of("m0", 0, 4000, 1), source_of("m1", 10000, 12000, 1)};
    loader = loader_of(SEQ, 3, 0, pair, NULL, 2);
    int64_t windows = tr_loader_describe(loader).train_windows, last[2] = {0};
    for (int64_t i = 0; i < windows; i++) {
        int64_t s, epoch;
        tr_loader_place(loader, i, &s, &epoch);
        CHECK_INT(epoch, 0);
        last[s] = i;
    }
    CHECK(last[0] > windows - 8 && last[1] > windows - 8);
    tr_loader_free(loader);
    tr_corpus *bad[] = {source_of("m0", 0, 400, 1), source_of("m1", 10000, 400, 1)};
    tr_loader_options options = {.seq = SEQ};
    CHECK_ERROR(tr_loader_new_take(&options, bad, (double[]){1, 0}, 2, NULL, 0, &loader),
                "above 0");
}

/* The split: training never sees the tail, validation sees each of its tokens once, in order. */
static void test_validation(void)
{
    enum { SEQ = 8 };
    int32_t ids[SEQ], targets[SEQ];
    tr_corpus *source = source_of("val", 0, 1000, 1);
    tr_loader *loader = loader_of(SEQ, 5, 0.1, &source, NULL, 1);
    for (int64_t i = 0; i < 2000; i++) {
        CHECK_OK(tr_loader_sample(loader, i, ids, targets));
        CHECK(targets[SEQ - 1] < 900);
    }
    CHECK_INT(tr_loader_val_count(loader), 13);
    int32_t next = 900;
    for (int64_t i = 0; i < tr_loader_val_count(loader); i++) {
        CHECK_OK(tr_loader_val_sample(loader, i, ids, targets));
        for (int k = 0; k < SEQ; k++) {
            if (next == 999) {
                CHECK_INT(targets[k], -1);
                continue;
            }
            CHECK_INT(ids[k], next);
            CHECK_INT(targets[k], ++next);
        }
    }
    CHECK_INT(next, 999);
    tr_loader_free(loader);

    tr_corpus *train = source_of("train", 0, 100, 1), *val = source_of("own", 500, 6, 1);
    tr_loader_options options = {.seq = SEQ, .vocab = 100000, .val_split = 0.5};
    CHECK_OK(tr_loader_new_take(&options, &train, NULL, 1, &val, 1, &loader));
    CHECK_INT(tr_loader_val_count(loader), 1); /* and val_split is not applied */
    CHECK_INT(tr_loader_describe(loader).train_tokens, 100);
    CHECK_OK(tr_loader_val_sample(loader, 0, ids, targets));
    CHECK_INT(ids[4], 504);
    CHECK_INT(targets[4], 505);
    CHECK_INT(targets[5], -1);
    tr_loader_free(loader);
}

static void refuse(int64_t tokens, int64_t seq, double val_split, const char *part)
{
    tr_corpus *source = source_of("refused", 0, tokens, 1);
    tr_loader_options options = {.seq = seq, .val_split = val_split};
    tr_loader *loader = NULL;
    CHECK_ERROR(tr_loader_new_take(&options, &source, NULL, 1, NULL, 0, &loader), part);
}

static void test_refusals(void)
{
    tr_loader *loader = NULL;
    refuse(8, 8, 0, "has 8 tokens to train on, too few for one sequence of train.seq=8");
    refuse(10, 8, 0.2, "has 8 tokens to train on besides its validation part");
    refuse(0, 8, 0, "has 0 tokens");
    refuse(100, 8, 0.001, "leaves nothing to validate on");
    refuse(100, 8, 1, "data.val_split is 1");
    refuse(100, 8, NAN, "data.val_split is nan");
    refuse(100, 0, 0, "train.seq is 0");
    tr_corpus *source = source_of("just", 0, 9, 1);
    int32_t ids[8], targets[8];
    loader = loader_of(8, 0, 0, &source, NULL, 1);
    for (int64_t i = 0; i < 3; i++) {
        CHECK_OK(tr_loader_sample(loader, i, ids, targets));
        CHECK_INT(targets[7], 8);
    }
    tr_loader_free(loader);
    CHECK_ERROR(tr_loader_new_take(&(tr_loader_options){.seq = 8}, NULL, NULL, 0, NULL, 0, &loader),
                "no training data");
    source = source_of("vocab", 0, 100, 1);
    CHECK_ERROR(tr_loader_new_take(&(tr_loader_options){.seq = 8, .vocab = 300}, &source, NULL, 1,
                                   NULL, 0, &loader),
                "vocabulary of 100000, the model has 300");
}

/* A raw file of another vocabulary is refused when it is opened. */
static void test_ids_outside(void)
{
    uint16_t ids[1000];
    for (int i = 0; i < 1000; i++)
        ids[i] = i == 700 ? 60000 : (uint16_t)i;
    char *path = tr_path_join(folder, "raw.bin");
    CHECK_OK(tr_file_write(path, ids, sizeof ids));
    tr_loader *loader = NULL;
    tr_loader_options options = {.seq = 8, .vocab = 50257};
    tr_corpus_options reading = {.cache = folder};
    CHECK_ERROR(
        tr_loader_open(&options, &reading, (const char *[]){path}, NULL, 1, NULL, 0, &loader),
        "token 700 of");
    options.vocab = 65536;
    CHECK_OK(tr_loader_open(&options, &reading, (const char *[]){path}, NULL, 1, NULL, 0, &loader));
    tr_loader_free(loader);
    free(path);
}

static void check_state(const char *state, tr_loader *loader, const char *part)
{
    if (part)
        CHECK_ERROR(tr_loader_check_state(loader, state), part);
    else
        CHECK_OK(tr_loader_check_state(loader, state));
    tr_loader_free(loader);
}

static void test_state(void)
{
    tr_corpus *source = source_of("state", 0, 1000, 2);
    tr_loader *loader = loader_of(8, UINT64_MAX, 0.1, &source, NULL, 1);
    char *state = tr_loader_state(loader);
    check_state(state, loader, NULL);
    source = source_of("moved", 0, 1000, 2);
    check_state(state, loader_of(8, UINT64_MAX, 0.1, &source, NULL, 1), NULL);
    source = source_of("state", 0, 1001, 2);
    check_state(state, loader_of(8, UINT64_MAX, 0.1, &source, NULL, 1), "was 1000 tokens");
    source = source_of("state", 1, 1000, 2);
    check_state(state, loader_of(8, UINT64_MAX, 0.1, &source, NULL, 1), "with other contents");
    source = source_of("state", 0, 1000, 2);
    check_state(state, loader_of(9, UINT64_MAX, 0.1, &source, NULL, 1), "train.seq was 8");
    source = source_of("state", 0, 1000, 2);
    check_state(state, loader_of(8, UINT64_MAX - 1, 0.1, &source, NULL, 1), "the seed");
    source = source_of("state", 0, 1000, 2);
    check_state(state, loader_of(8, UINT64_MAX, 0.2, &source, NULL, 1), "data.val_split was 0.1");
    source = source_of("state", 0, 1000, 2);
    check_state("{\"version\":1,", loader_of(8, 1, 0, &source, NULL, 1), "damaged");
    tr_corpus *pair[] = {source_of("state", 0, 1000, 2), source_of("more", 0, 1000, 1)};
    loader = loader_of(8, UINT64_MAX, 0.1, pair, NULL, 2);
    char *two = tr_loader_state(loader);
    check_state(state, loader, "number of training sources");
    tr_corpus *again[] = {source_of("state", 0, 1000, 2), source_of("more", 0, 1000, 1)};
    check_state(two, loader_of(8, UINT64_MAX, 0.1, again, (double[]){1, 2}, 2), "the weight of");
    free(state);
    free(two);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/trireme-loader-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    TEST(test_permute);
    TEST(test_epochs);
    TEST(test_pure);
    TEST(test_mixing);
    TEST(test_validation);
    TEST(test_refusals);
    TEST(test_ids_outside);
    TEST(test_state);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
