/* Token shards and sources: round trips, foreign formats, every damaged byte, the cache, streaming.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/shard.h"
#include "data/source.h"
#include "data/tokenizer_identity.h"

static char folder[64];

static char *in_folder(const char *name)
{
    return tr_path_join(folder, name);
}

static void put(const char *name, const void *bytes, int64_t count)
{
    char *path = in_folder(name);
    CHECK_OK(tr_file_write(path, bytes, count));
    free(path);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, (int64_t)strlen(text));
}

static void make_shard(const char *path, int64_t vocab, int64_t documents)
{
    tr_shard_writer *writer;
    CHECK_OK(tr_shard_writer_open(path, &(tr_shard_options){vocab, vocab - 1, 77}, &writer));
    for (int64_t d = 0; d < documents; d++) {
        for (int32_t i = 0; i < (int32_t)d; i++)
            CHECK_OK(tr_shard_writer_add(writer, &(int32_t){(int32_t)((d * 31 + i) % vocab)}, 1));
        tr_shard_writer_end_document(writer, 2 * d);
    }
    CHECK_OK(tr_shard_writer_commit_take(writer));
}

static void round_trip(int64_t vocab, int token_bytes)
{
    char *path = in_folder("a.tokens");
    make_shard(path, vocab, 20);
    tr_shard *shard = NULL;
    CHECK_OK(tr_shard_open(path, &shard));
    if (!shard)
        return;
    CHECK_INT(shard->token_bytes, token_bytes);
    CHECK_INT(shard->tokens, 190);
    CHECK_INT(shard->documents, 19); /* document 0 is empty */
    CHECK_INT(shard->text_bytes, 380);
    CHECK_INT(shard->vocab, vocab);
    CHECK_INT(shard->end_of_text, vocab - 1);
    CHECK_INT(shard->tokenizer, 77);
    CHECK_OK(tr_shard_verify(shard));
    int32_t ids[190];
    tr_shard_read(shard, 0, 190, ids);
    for (int64_t d = 1; d < 20; d++) {
        int64_t start = tr_shard_document(shard, d - 1);
        CHECK_INT(start, d * (d - 1) / 2);
        for (int64_t i = 0; i < d; i++)
            CHECK_INT(ids[start + i], (d * 31 + i) % vocab);
    }
    CHECK_INT(tr_shard_document(shard, 19), 190);
    tr_shard_free(shard);
    free(path);
}

static void test_round_trip(void)
{
    round_trip(300, 2);
    round_trip(65536, 2);
    round_trip(65537, 4);
    round_trip(200000, 4);
}

/* No bit of a shard of ours can change, and no end be missing, without a refusal. */
static void test_every_byte_counts(void)
{
    char *path = in_folder("b.tokens");
    make_shard(path, 300, 6);
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    char *bytes = tr_alloc((size_t)map.size);
    memcpy(bytes, map.bytes, (size_t)map.size);
    for (int64_t i = 0; i < map.size * 8; i++) {
        bytes[i / 8] ^= (char)(1 << i % 8);
        tr_shard *shard = NULL;
        tr_error *error = tr_shard_parse("x", bytes, map.size, &shard);
        if (!error)
            FAIL("bit %lld can change unnoticed", (long long)i);
        tr_error_free(error);
        tr_shard_free(shard);
        bytes[i / 8] ^= (char)(1 << i % 8);
    }
    for (int64_t size = 8; size < map.size; size++) {
        tr_shard *shard = NULL;
        CHECK_ERROR(tr_shard_parse("x", bytes, size, &shard), "cut off");
        tr_shard_free(shard);
    }
    free(bytes);
    tr_map_close(&map);
    free(path);
}

static void test_foreign(void)
{
    tr_shard *shard = NULL;
    uint16_t raw[5] = {5, 0, 65535, 7, 9};
    CHECK_OK(tr_shard_parse("nano", (char *)raw, sizeof raw, &shard));
    CHECK_INT(shard->kind, TR_SHARD_NANOGPT);
    int32_t ids[5];
    tr_shard_read(shard, 1, 3, ids);
    CHECK_INT(ids[1], 65535);
    CHECK_INT(ids[2], 7);
    tr_shard_free(shard);
    CHECK_ERROR(tr_shard_parse("nano", (char *)raw, 9, &shard), "odd size");

    int32_t llmc[256 + 3] = {20240520, 1, 6};
    uint16_t six[6] = {1, 2, 3, 50256, 5, 6};
    memcpy(llmc + 256, six, sizeof six);
    CHECK_OK(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard));
    CHECK_INT(shard->kind, TR_SHARD_LLMC);
    CHECK_INT(shard->tokens, 6);
    CHECK_INT(shard->vocab, 50257);
    tr_shard_read(shard, 3, 2, ids);
    CHECK_INT(ids[0], 50256);
    uint64_t before = shard->fingerprint;
    tr_shard_free(shard);
    llmc[257] ^= 1;
    CHECK_OK(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard));
    CHECK(shard->fingerprint != before);
    tr_shard_free(shard);
    llmc[2] = 7;
    CHECK_ERROR(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard), "promises 7 tokens");
    llmc[2] = -1;
    CHECK_ERROR(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard), "damaged");
    llmc[0] = 20240801;
    llmc[1] = 7;
    llmc[2] = 3;
    llmc[256] = 128000;
    CHECK_OK(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard));
    CHECK_INT(shard->token_bytes, 4);
    tr_shard_read(shard, 0, 1, ids);
    CHECK_INT(ids[0], 128000);
    tr_shard_free(shard);
    llmc[1] = 2;
    CHECK_ERROR(tr_shard_parse("llmc", (char *)llmc, sizeof llmc, &shard), "version 2");
}

static tr_corpus *open_source(const char *name, const tr_corpus_options *options)
{
    tr_corpus *source = NULL;
    char *path = in_folder(name);
    CHECK_OK(tr_corpus_open(path, options, &source));
    free(path);
    return source;
}

/* The ids of a source as text, "|" for end of text. */
static void check_contents(const tr_corpus *source, const char *want)
{
    tr_text text = {0};
    for (int64_t s = 0; source && s < source->shard_count; s++)
        for (int64_t i = 0; i < source->shards[s]->tokens; i++) {
            int32_t id;
            tr_shard_read(source->shards[s], i, 1, &id);
            tr_text_add(&text, id == 256 ? "|" : (char[]){(char)id}, 1);
        }
    CHECK_STRING(text.bytes, want);
    tr_text_free(&text);
}

static void test_source_directory(void)
{
    char *path = in_folder("corpus/sub"), *cache = in_folder("cache");
    CHECK_OK(tr_directory_make(path));
    tr_tokenizer *tokenizer = tr_tokenizer_bytes_new();
    put_text("corpus/b.txt", "second");
    put_text("corpus/a.txt", "first");
    put_text("corpus/empty.txt", "");
    put_text("corpus/.hidden.txt", "never");
    put_text("corpus/sub/c", "no ending");
    put("corpus/sub/picture", "\x89PNG\0\0", 6);
    put_text("corpus/sub/d.jsonl",
             "{\"text\": \"one\", \"n\": 1}\n\n  \n{\"text\":\"tw\\u00f6\"}\n{\"text\":\"\"}");
    tr_corpus_options options = {.tokenizer = tokenizer, .cache = cache, .threads = 2};
    const char *want = "first|second|no ending|one|tw\xC3\xB6|";
    tr_corpus *source = open_source("corpus", &options);
    check_contents(source, want);
    CHECK_INT(source->built, 1);
    CHECK_INT(source->documents, 5);
    CHECK_INT(source->skipped, 1);
    CHECK(strstr(source->first_skipped, "picture"));
    tr_corpus_free(source);
    source = open_source("corpus", &options);
    check_contents(source, want);
    CHECK_INT(source->built, 0);
    /* A damaged cached shard is made again. */
    char *shard_path = tr_strdup(source->shards[0]->path);
    tr_corpus_free(source);
    CHECK(truncate(shard_path, 100) == 0);
    free(shard_path);
    source = open_source("corpus", &options);
    check_contents(source, want);
    CHECK_INT(source->built, 1);
    tr_corpus_free(source);
    /* A changed file is noticed, by its time alone too. */
    put_text("corpus/a.txt", "FIRST");
    char *changed = in_folder("corpus/a.txt");
    CHECK(utimes(changed, (struct timeval[]){{1000, 0}, {1000, 0}}) == 0);
    free(changed);
    source = open_source("corpus", &options);
    check_contents(source, "FIRST|second|no ending|one|tw\xC3\xB6|");
    CHECK_INT(source->built, 1);
    tr_corpus_free(source);
    tr_tokenizer_free(tokenizer);
    free(path);
    free(cache);
}

static void refuse(const char *name, const char *text, const char *field, const char *part)
{
    char *cache = in_folder("cache"), *path = in_folder(name);
    tr_tokenizer *tokenizer = tr_tokenizer_bytes_new();
    if (text)
        put_text(name, text);
    tr_corpus *source = NULL;
    tr_corpus_options options = {.tokenizer = tokenizer, .cache = cache, .text_field = field};
    CHECK_ERROR(tr_corpus_open(path, &options, &source), part);
    tr_tokenizer_free(tokenizer);
    free(cache);
    free(path);
}

static void test_bad_sources(void)
{
    refuse("nowhere.txt", NULL, NULL, "cannot read the data");
    refuse("x.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}", NULL,
           "x.jsonl:2: the member \"text\" is not a text");
    refuse("x.jsonl", "{\"txt\": \"a\"}", NULL, "did you mean \"txt\"");
    refuse("x.jsonl", "{\"body\": \"a\"}", NULL, "it has \"body\"");
    refuse("x.jsonl", "\n\n{\"text\": \"a\"", NULL, "x.jsonl:3: the line is not a JSON object");
    refuse("x.jsonl", "[1]", NULL, "not an object");
    refuse("x.jsonl", "{\"text\": \"\xff\"}", NULL, "x.jsonl:1:");
    refuse("x.jsonl", "{\"text\": \"a\"}", "content", "no member \"content\"");
    refuse("x.json", "[]", NULL, "name it .jsonl");
    put("x.zip", "PK\3\4\0\0", 6);
    refuse("x.zip", NULL, NULL, "NUL");
    char *path = in_folder("hollow");
    CHECK_OK(tr_directory_make(path));
    free(path);
    refuse("hollow", NULL, NULL, "holds no text");
    put_text("self.txt", "x");
    tr_corpus *source = NULL;
    path = in_folder("self.txt");
    CHECK_ERROR(tr_corpus_open(path, &(tr_corpus_options){.cache = folder}, &source),
                "no tokenizer");
    free(path);
    path = in_folder("loop");
    CHECK_OK(tr_directory_make(path));
    char *link = in_folder("loop/again");
    CHECK(symlink("../loop", link) == 0);
    refuse("loop", NULL, NULL, "link");
    free(link);
    free(path);
}

static void test_shard_of_other_tokenizer(void)
{
    char *path = in_folder("other.tokens");
    make_shard(path, 300, 6);
    tr_tokenizer *tokenizer = tr_tokenizer_bytes_new();
    tr_corpus *source = NULL;
    tr_corpus_options options = {.tokenizer = tokenizer, .cache = folder};
    CHECK_ERROR(tr_corpus_open(path, &options, &source), "another tokenizer");
    options.tokenizer = NULL;
    CHECK_OK(tr_corpus_open(path, &options, &source));
    CHECK_INT(source->tokens, 15);
    tr_corpus_free(source);
    tr_tokenizer_free(tokenizer);
    free(path);
}

/* A text of several pieces gives the ids of the whole. */
static void test_streaming(void)
{
    const char *words[] = {"ship",  " of", " the",          "  line", "\n\n", ",",
                           " oars", " 12", " na\xC3\xAFve", "\xFF",   "'s"};
    tr_text text = {0};
    for (uint32_t i = 0, state = 1; text.length < 20u << 20; i++) {
        state = state * 1664525u + 1013904223u;
        const char *word = words[(state >> 16) % TR_COUNT(words)];
        tr_text_add(&text, word, strlen(word));
    }
    const char *sample = text.bytes;
    int64_t length = 100000;
    tr_tokenizer *tokenizer = NULL;
    CHECK_OK(tr_tokenizer_train(&sample, &length, 1,
                                &(tr_tokenizer_training){TR_TOKENIZER_BPE, 320, 0, 0}, &tokenizer));
    put("long.txt", text.bytes, (int64_t)text.length);
    char *cache = in_folder("cache");
    tr_corpus *source =
        open_source("long.txt", &(tr_corpus_options){.tokenizer = tokenizer, .cache = cache});
    tr_ids ids = {0};
    tr_tokenizer_encode_parallel(tokenizer, text.bytes, (int64_t)text.length, false, 0, &ids);
    CHECK_INT(source->tokens, ids.count + 1);
    CHECK_INT(source->documents, 1);
    CHECK_INT(source->text_bytes, text.length);
    int32_t *got = tr_alloc((size_t)source->tokens * sizeof *got);
    tr_shard_read(source->shards[0], 0, source->tokens, got);
    CHECK(source->tokens == ids.count + 1 &&
          memcmp(got, ids.items, (size_t)ids.count * sizeof *got) == 0);
    CHECK_INT(got[source->tokens - 1], tr_tokenizer_end_of_text(tokenizer));
    free(got);
    tr_ids_free(&ids);
    tr_corpus_free(source);
    tr_tokenizer_free(tokenizer);
    tr_text_free(&text);
    free(cache);
}

/* The fingerprint is of the tokenizer, not of its file. */
static void test_tokenizer_fingerprint(void)
{
    const char *texts[] = {"the cat sat on the mat the cat sat",
                           "oars and masts and oars and masts"};
    int64_t lengths[] = {(int64_t)strlen(texts[0]), (int64_t)strlen(texts[1])};
    tr_tokenizer *a = NULL, *b = NULL, *again = NULL, *bytes = tr_tokenizer_bytes_new();
    tr_tokenizer_training training = {TR_TOKENIZER_BPE, 265, 0, 0};
    CHECK_OK(tr_tokenizer_train(&texts[0], &lengths[0], 1, &training, &a));
    CHECK_OK(tr_tokenizer_train(&texts[1], &lengths[1], 1, &training, &b));
    char *path = in_folder("saved");
    CHECK_OK(tr_tokenizer_save(a, path));
    CHECK_OK(tr_tokenizer_load(path, &again));
    CHECK(tr_tokenizer_fingerprint(a) == tr_tokenizer_fingerprint(again));
    CHECK(tr_tokenizer_fingerprint(a) != tr_tokenizer_fingerprint(b));
    CHECK(tr_tokenizer_fingerprint(a) != tr_tokenizer_fingerprint(bytes));
    tr_tokenizer_free(a);
    tr_tokenizer_free(b);
    tr_tokenizer_free(again);
    tr_tokenizer_free(bytes);
    free(path);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/trireme-shard-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    TEST(test_round_trip);
    TEST(test_every_byte_counts);
    TEST(test_foreign);
    TEST(test_source_directory);
    TEST(test_bad_sources);
    TEST(test_shard_of_other_tokenizer);
    TEST(test_streaming);
    TEST(test_tokenizer_fingerprint);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
