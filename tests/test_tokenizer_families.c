/* Tokenizers of many families against Hugging Face's library and SentencePiece's
 * (tests/golden/tokenizer_families.json, written by tools/golden_tokenizer.py): ids and decoded texts, as read and as
 * saved by us; learning; damaged files. */
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "check.h"
#include "data/normalizer.h"
#include "data/pattern.h"
#include "data/tokenizer.h"
#include "data/tokenizer_identity.h"
#include "data/unicode.h"

#define GOLDEN "tests/golden/tokenizer_families.json"
#define CORPUS "tests/golden/tokenizer_corpus.txt"

static json_t *golden;

static bool same_ids(const tr_ids *got, const json_t *want)
{
    bool same = got->count == (int64_t)json_array_size(want);
    for (int64_t i = 0; same && i < got->count; i++)
        same = got->items[i] == json_integer_value(json_array_get(want, (size_t)i));
    return same;
}

/* How many texts get other ids than `wanted` says; `decoded` is of the last texts, or NULL. */
static int check_texts(const tr_tokenizer *t, const char *name, const json_t *wanted, const json_t *decoded,
                       int allowed)
{
    json_t *texts = json_object_get(golden, "texts"), *text;
    size_t i, first = json_array_size(texts) - json_array_size(decoded);
    int wrong = 0;
    json_array_foreach(texts, i, text)
    {
        const json_t *want = json_array_get(wanted, i);
        tr_ids ids = {0};
        tr_tokenizer_encode(t, json_string_value(text), (int64_t)json_string_length(text), true, &ids);
        if (!same_ids(&ids, want) && ++wrong > allowed)
            FAIL("%s: text %zu \"%s\": %lld ids, expected %zu", name, i, json_string_value(text),
                 (long long)ids.count, json_array_size(want));
        if (decoded && i >= first && same_ids(&ids, want)) {
            tr_text out = {0};
            tr_text_add(&out, "", 0);
            CHECK_OK(tr_tokenizer_decode(t, ids.items, ids.count, &out));
            CHECK_STRING(out.bytes, json_string_value(json_array_get(decoded, i - first)));
            tr_text_free(&out);
        }
        tr_ids_free(&ids);
    }
    return wrong;
}

static char *temporary_directory(void)
{
    char path[] = "/tmp/trireme-families-XXXXXX";
    if (!mkdtemp(path))
        exit(1);
    return tr_strdup(path);
}

static void remove_take(char *path)
{
    CHECK_OK(tr_path_remove(path));
    free(path);
}

/* What is saved is the same tokenizer. */
static void check_saved(const tr_tokenizer *t, const char *name, const json_t *wanted, const json_t *decoded,
                        int allowed)
{
    char *directory = temporary_directory();
    tr_tokenizer *again = NULL;
    CHECK_OK(tr_tokenizer_save(t, directory));
    CHECK_OK(tr_tokenizer_load(directory, &again));
    CHECK(again && tr_tokenizer_fingerprint(again) == tr_tokenizer_fingerprint(t));
    CHECK_INT(tr_tokenizer_kind_of(again), tr_tokenizer_kind_of(t));
    for (int i = 0; i < TR_SPECIAL_COUNT; i++)
        CHECK_INT(tr_tokenizer_special(again, (tr_special)i), tr_tokenizer_special(t, (tr_special)i));
    check_texts(again, name, wanted, decoded, allowed);
    tr_tokenizer_free(again);
    remove_take(directory);
}

static void test_families_as_hugging_face(void)
{
    json_t *family;
    size_t i;
    json_array_foreach(json_object_get(golden, "families"), i, family)
    {
        const char *name = json_string_value(json_object_get(family, "name"));
        const json_t *ids = json_object_get(family, "ids"), *decoded = json_object_get(family, "decoded");
        char *text = json_dumps(json_object_get(family, "tokenizer"), 0);
        tr_tokenizer *t = NULL;
        CHECK_OK(tr_tokenizer_parse(text, (int64_t)strlen(text), name, &t));
        if (t) {
            check_texts(t, name, ids, decoded, 0);
            check_saved(t, name, ids, decoded, 0);
        }
        tr_tokenizer_free(t);
        free(text);
    }
    CHECK(i >= 15);
}

/* Where a grapheme of more than one character meets SentencePiece's character map, we do as Hugging Face's library
 * does, which is not always as SentencePiece does. */
static void test_sentencepiece_files(void)
{
    static const char *const kinds[] = {"unigram", "bpe"};
    for (int i = 0; i < 2; i++) {
        char *path = tr_format("tests/golden/spiece_%s.model", kinds[i]), *key = tr_format("spiece_%s", kinds[i]);
        char *decoded = tr_format("spiece_%s_decoded", kinds[i]);
        tr_tokenizer *t = NULL;
        CHECK_OK(tr_tokenizer_load(path, &t));
        CHECK_INT(tr_tokenizer_kind_of(t), i ? TR_TOKENIZER_BPE : TR_TOKENIZER_UNIGRAM);
        CHECK_INT(tr_tokenizer_special(t, TR_SPECIAL_PAD), 0);
        CHECK_INT(tr_tokenizer_end_of_text(t), 1);
        check_texts(t, path, json_object_get(golden, key), json_object_get(golden, decoded), 4);
        check_saved(t, path, json_object_get(golden, key), json_object_get(golden, decoded), 4);
        tr_tokenizer_free(t);

        /* Cut and damaged files: an error or a tokenizer, never a crash. */
        tr_map map = {0};
        CHECK_OK(tr_map_open(path, &map));
        int refused = 0;
        for (int64_t n = 0; n < map.size; n += 97) {
            char *bytes = tr_alloc((size_t)map.size), *file = tr_strdup("/tmp/trireme-cut-XXXXXX.model");
            memcpy(bytes, map.bytes, (size_t)map.size);
            bytes[n] ^= 0x41;
            int fd = mkstemps(file, 6);
            CHECK(fd >= 0 && write(fd, bytes, (size_t)(n % 2 ? n : map.size)) >= 0);
            close(fd);
            tr_tokenizer *cut = NULL;
            tr_error *error = tr_tokenizer_load(file, &cut);
            refused += error != NULL;
            CHECK((error != NULL) == (cut == NULL));
            tr_error_free(error);
            tr_tokenizer_free(cut);
            unlink(file);
            free(file);
            free(bytes);
        }
        CHECK(refused > 0);
        tr_map_close(&map);
        free(path);
        free(key);
        free(decoded);
    }
}

static void test_t5_sentinels(void)
{
    char *directory = temporary_directory(), *model = tr_path_join(directory, "spiece.model");
    char *config = tr_path_join(directory, "tokenizer_config.json");
    tr_map map = {0};
    CHECK_OK(tr_map_open("tests/golden/spiece_unigram.model", &map));
    CHECK_OK(tr_file_write(model, map.bytes, map.size));
    static const char text[] = "{\"tokenizer_class\": \"T5Tokenizer\", \"extra_ids\": 3}";
    CHECK_OK(tr_file_write(config, text, sizeof text - 1));
    tr_tokenizer *t = NULL, *bare = NULL;
    CHECK_OK(tr_tokenizer_load(directory, &t));
    CHECK_OK(tr_tokenizer_load("tests/golden/spiece_unigram.model", &bare));
    int32_t size = tr_tokenizer_vocab_size(bare);
    CHECK_INT(tr_tokenizer_vocab_size(t), size + 3);
    CHECK_INT(tr_tokenizer_find(t, "<extra_id_0>"), size + 2);
    CHECK_INT(tr_tokenizer_find(t, "<extra_id_2>"), size);
    CHECK_INT(tr_tokenizer_find(bare, "<extra_id_0>"), -1);
    CHECK_INT(tr_tokenizer_after(t)->count, 1);
    CHECK_INT(tr_tokenizer_after(t)->items[0], 1);
    tr_ids ids = {0};
    tr_tokenizer_encode(t, "<extra_id_1>", 12, true, &ids);
    CHECK(ids.count == 1 && ids.items[0] == size + 1);
    tr_ids_free(&ids);
    tr_map_close(&map);
    tr_tokenizer_free(t);
    tr_tokenizer_free(bare);
    free(model);
    free(config);
    remove_take(directory);
}

static void test_vocab_text(void)
{
    char *directory = temporary_directory(), *path = tr_path_join(directory, "vocab.txt");
    static const char text[] = "[PAD]\n[UNK]\r\n[CLS]\n[SEP]\n[MASK]\nrow\n##ing\n##er\n,\nnaive\n";
    CHECK_OK(tr_file_write(path, text, sizeof text - 1));
    tr_tokenizer *t = NULL;
    CHECK_OK(tr_tokenizer_load(directory, &t));
    static const char line[] = "Rowing, na\xC3\xAFve ROWER rowed [MASK]";
    static const int32_t want[] = {5, 6, 8, 9, 5, 7, 1, 4};
    tr_ids ids = {0};
    tr_text back = {0};
    tr_tokenizer_encode(t, line, sizeof line - 1, true, &ids);
    CHECK(ids.count == TR_COUNT(want) && memcmp(ids.items, want, sizeof want) == 0);
    CHECK_OK(tr_tokenizer_decode(t, ids.items, ids.count, &back));
    CHECK_STRING(back.bytes, "rowing, naive rower [UNK] [MASK]");
    CHECK_INT(tr_tokenizer_special(t, TR_SPECIAL_MASK), 4);
    CHECK(tr_tokenizer_before(t)->count == 1 && tr_tokenizer_before(t)->items[0] == 2);
    CHECK(tr_tokenizer_after(t)->count == 1 && tr_tokenizer_after(t)->items[0] == 3);
    CHECK(!tr_tokenizer_lossless(t));
    tr_tokenizer_free(t);
    CHECK_OK(tr_file_write(path, "a\nb\n", 4));
    CHECK_ERROR(tr_tokenizer_load(path, &t), "no token \"[UNK]\"");
    CHECK_OK(tr_file_write(path, "a\nb\na\n", 6));
    CHECK_ERROR(tr_tokenizer_load(path, &t), "line 3: the token \"a\" is there twice");
    tr_ids_free(&ids);
    tr_text_free(&back);
    free(path);
    remove_take(directory);
}

/* Learnt vocabularies: of the size asked for, the same again, and every word of the corpus known. */
static void test_learning(void)
{
    static const tr_tokenizer_kind kinds[] = {TR_TOKENIZER_WORDPIECE, TR_TOKENIZER_UNIGRAM};
    tr_map map = {0};
    CHECK_OK(tr_map_open(CORPUS, &map));
    for (int i = 0; i < 2; i++) {
        tr_tokenizer_training training = {.kind = kinds[i], .vocab_size = 400, .sentinels = 20};
        tr_tokenizer *t = NULL, *again = NULL;
        CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &t));
        CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &again));
        CHECK_INT(tr_tokenizer_kind_of(t), kinds[i]);
        CHECK(tr_tokenizer_vocab_size(t) <= 400 && tr_tokenizer_vocab_size(t) > 380);
        CHECK(tr_tokenizer_fingerprint(t) == tr_tokenizer_fingerprint(again));
        tr_ids ids = {0}, parallel = {0};
        tr_tokenizer_encode(t, map.bytes, map.size, true, &ids);
        tr_tokenizer_encode_parallel(t, map.bytes, map.size, true, 3, &parallel);
        CHECK(ids.count == parallel.count);
        int64_t unknown = 0;
        for (int64_t j = 0; j < ids.count; j++)
            unknown += ids.items[j] == tr_tokenizer_special(t, TR_SPECIAL_UNKNOWN);
        CHECK(ids.count < map.size / 2 && unknown < ids.count / 100);
        tr_ids_free(&ids);
        tr_ids_free(&parallel);
        tr_tokenizer_free(t);
        tr_tokenizer_free(again);
        training.vocab_size = 30;
        CHECK_ERROR(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &t),
                    i ? "need at least 141" : "must have at least 235");
    }
    tr_map_close(&map);
}

/* Long texts cut at spaces for the threads give the ids of the whole. */
static void test_threads(void)
{
    tr_map map = {0};
    tr_text text = {0};
    CHECK_OK(tr_map_open(CORPUS, &map));
    for (int i = 0; i < 60; i++)
        tr_text_add(&text, map.bytes, (size_t)map.size);
    json_t *family;
    size_t i;
    json_array_foreach(json_object_get(golden, "families"), i, family)
    {
        char *json = json_dumps(json_object_get(family, "tokenizer"), 0);
        tr_tokenizer *t = NULL;
        CHECK_OK(tr_tokenizer_parse(json, (int64_t)strlen(json), "family", &t));
        tr_ids one = {0}, many = {0};
        tr_tokenizer_encode(t, text.bytes, (int64_t)text.length, true, &one);
        tr_tokenizer_encode_parallel(t, text.bytes, (int64_t)text.length, true, 2, &many);
        if (one.count != many.count || memcmp(one.items, many.items, (size_t)one.count * sizeof *one.items) != 0)
            FAIL("%s: %lld ids on one thread, %lld on two", json_string_value(json_object_get(family, "name")),
                 (long long)one.count, (long long)many.count);
        tr_ids_free(&one);
        tr_ids_free(&many);
        tr_tokenizer_free(t);
        free(json);
    }
    tr_text_free(&text);
    tr_map_close(&map);
}

static void check_match(const char *source, const char *text, const char *want)
{
    tr_pattern *p = NULL;
    CHECK_OK(tr_pattern_new(source, "test", &p));
    const char *stop = tr_pattern_match(p, text, text + strlen(text));
    char *got = stop ? tr_strndup(text, (size_t)(stop - text)) : tr_strdup("(none)");
    CHECK_STRING(got, want);
    free(got);
    tr_pattern_free(p);
}

static void test_patterns(void)
{
    check_match("a|ab", "ab", "a");
    check_match("(?:a|b)?c", "bc", "bc");
    check_match("(?i:'s|'re)x?", "'REx", "'REx");
    check_match("\\s+(?!\\S)|\\s+", "   x", "  ");
    check_match("\\s*[\\r\\n]+", " \n \n x", " \n \n");
    check_match("\\p{N}{1,3}", "12345", "123");
    check_match("[^\\p{L}\\d]{2,}", "!?a", "!?");
    check_match("\\p{Lu}\\P{Lu}*", "\xC3\x89t\xC3\xA9S", "\xC3\x89t\xC3\xA9");
    check_match("a*a*b", "aaaa", "(none)");
    check_match("(?=ab)a", "ab", "a");
    check_match(".+", "\xFF\xFEx\n", "\xFF\xFEx");
    static const char *const bad[][2] = {{"(a", "without its end"},
                                         {"a)", "without its ("},
                                         {"[a", "without its end"},
                                         {"(?:a)*", "quantifier"},
                                         {"a+?", "lazy"},
                                         {"\\p{Greek}", "property"},
                                         {"(?<x>a)", "this kind"},
                                         {"\\b", "an escape"},
                                         {"[[:alpha:]]", "set in a set"},
                                         {"^a", "an operator"},
                                         {"a{3,2}", "a quantifier"},
                                         {"[b-a]", "a range"}};
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        tr_pattern *p = NULL;
        CHECK_ERROR(tr_pattern_new(bad[i][0], "test", &p), bad[i][1]);
        CHECK(!p);
    }
}

static void check_form(tr_unicode_form form, const char *text, const char *want)
{
    tr_text out = {0};
    tr_unicode_normalize(form, text, (int64_t)strlen(text), &out);
    CHECK_STRING(out.bytes, want);
    tr_text_free(&out);
}

static void test_normal_forms(void)
{
    check_form(TR_NFD, "\xC3\xA9\xEA\xB0\x81", "e\xCC\x81\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8");
    check_form(TR_NFC, "e\xCC\x81\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xC3\xA9\xEA\xB0\x81");
    check_form(TR_NFC, "a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"); /* marks sorted, the lower one composes */
    check_form(TR_NFC, "a\xCC\xA3\xCC\xA3", "\xE1\xBA\xA1\xCC\xA3"); /* of two of a class only the first */
    check_form(TR_NFKC, "\xEF\xAC\x81\xC2\xBD",
               "fi1\xE2\x81\x84"
               "2");
    check_form(TR_NFKD, "\xE3\x8E\x8F", "kg");
    check_form(TR_NFC, "\xCC\x81x\xFF\xCC\x81", "\xCC\x81x\xFF\xCC\x81");
}

static void test_bad_rules(void)
{
    static const struct {
        const char *json, *message;
    } rows[] = {
        {"{\"type\": \"Nmt\"}", "normalizer \"Nmt\""},
        {"{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"!!\"}", "damaged"},
        {"{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"/////w==\"}", "damaged"},
        {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}", "without its end"},
        {"{\"type\": \"BertNormalizer\", \"lowercase\": 3}", "must be true or false"},
    };
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        json_t *json = json_loads(rows[i].json, 0, NULL);
        tr_normalizer *n = NULL;
        CHECK_ERROR(tr_normalizer_read(json, "file", &n), rows[i].message);
        json_decref(json);
    }
}

int main(void)
{
    golden = json_load_file(GOLDEN, JSON_ALLOW_NUL, NULL);
    if (!golden)
        exit(1);
    TEST(test_families_as_hugging_face);
    TEST(test_sentencepiece_files);
    TEST(test_t5_sentinels);
    TEST(test_vocab_text);
    TEST(test_learning);
    TEST(test_threads);
    TEST(test_patterns);
    TEST(test_normal_forms);
    TEST(test_bad_rules);
    json_decref(golden);
    return check_report();
}
