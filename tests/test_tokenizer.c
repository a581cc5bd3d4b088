/* Tokenizers: what Hugging Face's library says (tests/golden/tokenizer_*, written by
 * tools/golden_tokenizer.py), losslessness for any bytes, threads, training, files, messages. */
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "check.h"
#include "data/tokenizer.h"
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

#define HF "tests/golden/tokenizer_hf.json"
#define CASES "tests/golden/tokenizer_cases.json"
#define CORPUS "tests/golden/tokenizer_corpus.txt"

static tr_tokenizer *load(const char *spec)
{
    tr_tokenizer *t = NULL;
    CHECK_OK(tr_tokenizer_load(spec, &t));
    if (!t)
        exit(1);
    return t;
}

static tr_ids encode(const tr_tokenizer *t, const char *text, int64_t length, bool special)
{
    tr_ids ids = {0};
    tr_tokenizer_encode(t, text, length, special, &ids);
    return ids;
}

static bool same_ids(const tr_ids *a, const tr_ids *b)
{
    return a->count == b->count &&
           (!a->count || !memcmp(a->items, b->items, (size_t)a->count * sizeof *a->items));
}

/* The ids of a text, written "1 2 3"; the caller frees. */
static char *ids_text(const tr_tokenizer *t, const char *text, bool special)
{
    tr_ids ids = encode(t, text, (int64_t)strlen(text), special);
    tr_text out = {0};
    tr_text_add(&out, "", 0);
    for (int64_t i = 0; i < ids.count; i++)
        tr_text_format(&out, "%s%d", i ? " " : "", ids.items[i]);
    tr_ids_free(&ids);
    return out.bytes;
}

static void check_ids(const tr_tokenizer *t, const char *text, bool special, const char *want)
{
    char *got = ids_text(t, text, special);
    CHECK_STRING(got, want);
    free(got);
}

static void check_round_trip(const tr_tokenizer *t, const char *text, int64_t length)
{
    tr_ids ids = encode(t, text, length, true);
    tr_text back = {0};
    CHECK_OK(tr_tokenizer_decode(t, ids.items, ids.count, &back));
    CHECK((int64_t)back.length == length &&
          (!length || memcmp(back.bytes, text, (size_t)length) == 0));
    tr_text_free(&back);
    tr_ids_free(&ids);
}

static char *random_bytes(uint64_t seed, int64_t length, const char *alphabet)
{
    char *bytes = tr_alloc((size_t)length + 1);
    size_t n = alphabet ? strlen(alphabet) : 256;
    for (int64_t i = 0; i < length; i++) {
        uint32_t word = tr_random(seed, 0, 0, (uint64_t)i).word[0];
        bytes[i] = alphabet ? alphabet[word % n] : (char)word;
    }
    return bytes;
}

static char *temporary_directory(void)
{
    char path[] = "/tmp/trireme-tokenizer-XXXXXX";
    if (!mkdtemp(path))
        exit(1);
    return tr_strdup(path);
}

static void remove_take(char *path)
{
    CHECK_OK(tr_path_remove(path));
    free(path);
}

static void test_utf8(void)
{
    static const struct {
        const char *bytes;
        int length;
        uint32_t code;
    } rows[] = {
        {"a", 1, 'a'},
        {"\xC3\xA9", 2, 0xE9},
        {"\xE4\xB8\xAD", 3, 0x4E2D},
        {"\xF0\x9F\x98\x80", 4, 0x1F600},
        {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF},
        {"\xEE\x80\x80", 3, 0xE000},
        {"\x80", 0, 0},
        {"\xC0\x80", 0, 0},
        {"\xC1\xBF", 0, 0},
        {"\xE0\x9F\xBF", 0, 0},
        {"\xED\xA0\x80", 0, 0},
        {"\xF0\x8F\xBF\xBF", 0, 0},
        {"\xF4\x90\x80\x80", 0, 0},
        {"\xF5\x80\x80\x80", 0, 0},
        {"\xE4\xB8", 0, 0},
        {"\xE4\x41\x80", 0, 0},
        {"\xFF", 0, 0},
    };
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        uint32_t code = 0;
        char back[4];
        CHECK_INT(tr_utf8_decode(rows[i].bytes, rows[i].bytes + strlen(rows[i].bytes), &code),
                  rows[i].length);
        CHECK_INT(code, rows[i].code);
        if (rows[i].length)
            CHECK(tr_utf8_encode(code, back) == rows[i].length &&
                  memcmp(back, rows[i].bytes, (size_t)rows[i].length) == 0);
    }
    int may_go_on;
    const char *text = "\xF0\x9F\x98 \xED\xA0\x80";
    CHECK(tr_utf8_broken(text, text + 3, &may_go_on) == 3 && may_go_on);
    CHECK(tr_utf8_broken(text, text + 4, &may_go_on) == 3 && !may_go_on);
    CHECK(tr_utf8_broken(text + 4, text + 7, &may_go_on) == 1 && !may_go_on);
    CHECK(tr_utf8_decode(text, text, &(uint32_t){0}) == 0);
}

static void test_bytes(void)
{
    tr_tokenizer *t = load("bytes");
    CHECK_INT(tr_tokenizer_kind_of(t), TR_TOKENIZER_BYTES);
    CHECK_INT(tr_tokenizer_vocab_size(t), 257);
    CHECK_INT(tr_tokenizer_end_of_text(t), 256);
    CHECK(tr_tokenizer_lossless(t) && tr_tokenizer_is_special(t, 256) &&
          !tr_tokenizer_is_special(t, 97));
    check_ids(t, "hi<|endoftext|>\xFF", true, "104 105 256 255");
    check_ids(t, "<|e", true, "60 124 101");
    char *bytes = random_bytes(3, 5000, NULL);
    check_round_trip(t, bytes, 5000);
    tr_ids ids = encode(t, END_OF_TEXT, 13, false);
    CHECK_INT(ids.count, 13);
    tr_ids_free(&ids);
    free(bytes);
    tr_tokenizer_free(t);
}

static void check_case(const tr_tokenizer *t, json_t *item)
{
    json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
    json_t *plain = json_object_get(item, "plain");
    for (int special = 0; special < 2; special++) {
        json_t *want = special || !plain ? ids : plain;
        tr_ids got = encode(t, json_string_value(text), (int64_t)json_string_length(text), special);
        bool same = got.count == (int64_t)json_array_size(want);
        for (int64_t i = 0; same && i < got.count; i++)
            same = got.items[i] == json_integer_value(json_array_get(want, (size_t)i));
        if (!same)
            FAIL("\"%s\" (special %d): %lld ids, expected %zu", json_string_value(text), special,
                 (long long)got.count, json_array_size(want));
        tr_ids_free(&got);
    }
}

static json_t *load_cases(void)
{
    json_t *golden = json_load_file(CASES, JSON_ALLOW_NUL, NULL);
    if (!golden)
        exit(1);
    return golden;
}

static void test_same_ids_as_hugging_face(void)
{
    tr_tokenizer *t = load(HF);
    json_t *golden = load_cases(), *item;
    size_t i;
    CHECK(json_array_size(json_object_get(golden, "cases")) > 100);
    json_array_foreach(json_object_get(golden, "cases"), i, item)
    {
        check_case(t, item);
        json_t *text = json_object_get(item, "text");
        check_round_trip(t, json_string_value(text), (int64_t)json_string_length(text));
    }
    CHECK(tr_tokenizer_lossless(t));
    CHECK_INT(tr_tokenizer_end_of_text(t), 0);
    json_decref(golden);
    tr_tokenizer_free(t);
}

/* The same model with a space put before texts, without pre-tokenizer, with more added tokens; and
 * what we save of it. */
static void test_variants_as_hugging_face(void)
{
    json_t *golden = load_cases(), *rules, *item;
    char *directory = temporary_directory(), *path = tr_path_join(directory, "t.json");
    size_t i, j;
    json_array_foreach(json_object_get(golden, "variants"), i, rules)
    {
        json_t *root = json_load_file(HF, 0, NULL);
        json_object_set(root, "pre_tokenizer", json_object_get(rules, "pre_tokenizer"));
        json_object_set(root, "added_tokens", json_object_get(rules, "added_tokens"));
        char *text = json_dumps(root, 0);
        tr_tokenizer *t = NULL, *again = NULL;
        CHECK_OK(tr_tokenizer_parse(text, (int64_t)strlen(text), "variant", &t));
        CHECK_OK(tr_tokenizer_save_file(t, path));
        CHECK_OK(tr_tokenizer_load(path, &again));
        json_array_foreach(json_object_get(rules, "cases"), j, item)
        {
            check_case(t, item);
            check_case(again, item);
        }
        tr_tokenizer_free(t);
        tr_tokenizer_free(again);
        free(text);
        json_decref(root);
    }
    CHECK_INT(i, 3);
    free(path);
    remove_take(directory);
    json_decref(golden);
}

static void test_unicode_classes_as_hugging_face(void)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (uint32_t code = 0; code < 0x110000; code++)
        if (code < 0xD800 || code >= 0xE000)
            hash = (hash ^ (uint64_t)tr_unicode_class_of(code)) * 0x100000001B3u;
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    json_t *golden = load_cases();
    CHECK_STRING(text, json_string_value(json_object_get(golden, "class_hash")));
    CHECK_STRING(tr_unicode_version(), "16.0.0");
    json_decref(golden);
}

static void test_any_bytes_are_kept(void)
{
    tr_tokenizer *t = load(HF);
    static const char *const alphabets[] = {NULL,
                                            " \n\xE4\xB8\xAD"
                                            "a'",
                                            "'s re\xC3\xA9\xFF\x80", "\xF0\x9F\x98\x80\xED\xA0 a1"};
    for (uint64_t seed = 0; seed < 400; seed++) {
        int64_t length = tr_random(seed, 1, 0, 0).word[0] % (seed % 50 ? 300 : 5000);
        char *bytes = random_bytes(seed, length, alphabets[seed % 4]);
        check_round_trip(t, bytes, length);
        free(bytes);
    }
    tr_tokenizer_free(t);
}

/* Merging by the definition: the lowest rank first, the leftmost among equals. */
static tr_ids merge_slowly(const tr_tokenizer *t, const char *text, int64_t length)
{
    tr_ids ids = {0};
    for (int64_t i = 0; i < length; i++)
        tr_push(ids.items, ids.count, ids.room) = t->byte_id[(uint8_t)text[i]];
    for (;;) {
        int64_t best = t->merge_count, at = -1;
        for (int64_t i = 0; i + 1 < ids.count; i++)
            for (int64_t r = 0; r < best; r++)
                if (t->merges[r].left == ids.items[i] && t->merges[r].right == ids.items[i + 1]) {
                    best = r;
                    at = i;
                }
        if (at < 0)
            return ids;
        ids.items[at] = t->merges[best].result;
        memmove(&ids.items[at + 1], &ids.items[at + 2],
                (size_t)(--ids.count - at - 1) * sizeof *ids.items);
    }
}

static void test_merges_by_definition(void)
{
    tr_tokenizer *t = load(HF);
    static const int lengths[] = {1, 2, 3, 7, 14, 15, 16, 17, 60, 191, 192, 193, 194, 300, 400};
    for (uint64_t seed = 0; seed < 45; seed++) {
        int64_t length = lengths[seed % 15];
        char *text = random_bytes(seed, length,
                                  seed < 15   ? "a"
                                  : seed < 30 ? "ethaorinsl"
                                              : "tokenizrthe");
        tr_ids got = encode(t, text, length, true), want = merge_slowly(t, text, length);
        if (!same_ids(&got, &want))
            FAIL("seed %d, %d letters: %d ids, expected %d", (int)seed, (int)length, (int)got.count,
                 (int)want.count);
        tr_ids_free(&got);
        tr_ids_free(&want);
        free(text);
    }
    tr_tokenizer_free(t);
}

/* More different words than an encoder remembers, each twice, against one call a word. */
static void test_many_different_words(void)
{
    enum { WORDS = 40000, WIDTH = 9 };
    tr_tokenizer *t = load(HF);
    char *text = random_bytes(5, 2 * WORDS * WIDTH, "abcdefghijklmnopqrstuvwxyz");
    for (int64_t i = 0; i < 2 * WORDS; i++) {
        if (i % 2)
            memcpy(text + i * WIDTH, text + (i - 1) * WIDTH, WIDTH);
        text[i * WIDTH] = ' ';
    }
    tr_ids got = encode(t, text, 2 * WORDS * WIDTH, true), want = {0};
    for (int64_t i = 0; i < 2 * WORDS; i++)
        tr_tokenizer_encode(t, text + i * WIDTH, WIDTH, true, &want);
    CHECK(same_ids(&got, &want));
    tr_ids_free(&got);
    tr_ids_free(&want);
    free(text);
    tr_tokenizer_free(t);
}

static void test_a_long_word_is_no_trap(void)
{
    tr_tokenizer *t = load(HF);
    char *text = random_bytes(1, 1 << 20, "abcdefghijklmnopqrstuvwxyz");
    check_round_trip(t, text, 1 << 20);
    memset(text, ' ', 1 << 20);
    check_round_trip(t, text, 1 << 20);
    free(text);
    tr_tokenizer_free(t);
}

/* Some megabytes: the corpus over and over, with document ends, and stretches of random bytes. */
static tr_text big_text(void)
{
    tr_map map = {0};
    tr_text text = {0};
    CHECK_OK(tr_map_open(CORPUS, &map));
    for (int i = 0; i < 120; i++) {
        tr_text_add(&text, map.bytes, (size_t)map.size);
        if (i % 7 == 3)
            tr_text_add(&text, END_OF_TEXT, sizeof END_OF_TEXT - 1);
        if (i % 11 == 5) {
            char *noise = random_bytes((uint64_t)i, 1000, i % 2 ? NULL : " \n\t");
            tr_text_add(&text, noise, 1000);
            free(noise);
        }
    }
    tr_map_close(&map);
    return text;
}

static void test_threads_change_nothing(void)
{
    tr_text text = big_text();
    tr_tokenizer *chars = NULL;
    tr_tokenizer_training training = {.kind = TR_TOKENIZER_CHARS};
    CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &chars));
    tr_tokenizer *all[] = {load(HF), load("bytes"), chars};
    for (int64_t i = 0; i < TR_COUNT(all); i++) {
        for (int special = 0; special < 2; special++) {
            tr_ids want = encode(all[i], text.bytes, (int64_t)text.length, special);
            for (int threads = 0; threads < 5; threads++) {
                tr_ids got = {0};
                tr_tokenizer_encode_parallel(all[i], text.bytes, (int64_t)text.length, special,
                                             threads, &got);
                CHECK(same_ids(&got, &want));
                tr_ids_free(&got);
            }
            tr_ids_free(&want);
        }
        tr_tokenizer_free(all[i]);
    }
    tr_text_free(&text);
}

static void test_ids_are_appended(void)
{
    tr_tokenizer *t = load("bytes");
    tr_ids ids = {0};
    tr_tokenizer_encode(t, "ab", 2, true, &ids);
    tr_tokenizer_encode(t, "c", 1, true, &ids);
    CHECK(ids.count == 3 && ids.items[0] == 'a' && ids.items[2] == 'c');
    tr_ids_free(&ids);
    tr_tokenizer_free(t);
}

static void check_same_files(const char *a, const char *b)
{
    tr_map x = {0}, y = {0};
    CHECK_OK(tr_map_open(a, &x));
    CHECK_OK(tr_map_open(b, &y));
    CHECK(x.size == y.size && memcmp(x.bytes, y.bytes, (size_t)x.size) == 0);
    tr_map_close(&x);
    tr_map_close(&y);
}

/* Learning from the golden corpus gives the golden tokenizer, and texts in another order give the
 * same. */
static void test_training_as_hugging_face(void)
{
    char *directory = temporary_directory();
    char *ours = tr_path_join(directory, "ours.json"),
         *theirs = tr_path_join(directory, "theirs.json");
    char *parts = tr_path_join(directory, "parts.json");
    tr_tokenizer *golden = load(HF), *t = NULL;
    tr_tokenizer_training training = {.kind = TR_TOKENIZER_BPE, .vocab_size = 1000};
    CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &t));
    CHECK_OK(tr_tokenizer_save_file(t, ours));
    CHECK_OK(tr_tokenizer_save_file(golden, theirs));
    check_same_files(ours, theirs);
    tr_tokenizer_free(t);
    tr_tokenizer_free(golden);

    const char *texts[] = {"the rowers row", "\n\n the oars", "rowers<|endoftext|>rowers"};
    int64_t lengths[] = {14, 10, 25};
    training.vocab_size = 270;
    CHECK_OK(tr_tokenizer_train(texts, lengths, 3, &training, &t));
    CHECK_INT(tr_tokenizer_vocab_size(t), 270);
    check_ids(t, "<|endoftext|>", true, "0");
    CHECK_OK(tr_tokenizer_save_file(t, ours));
    tr_tokenizer_free(t);
    const char *again[] = {texts[2], texts[0], texts[1]};
    int64_t again_lengths[] = {25, 14, 10};
    CHECK_OK(tr_tokenizer_train(again, again_lengths, 3, &training, &t));
    CHECK_OK(tr_tokenizer_save_file(t, parts));
    check_same_files(ours, parts);
    tr_tokenizer_free(t);

    training.min_count = 4;
    CHECK_OK(tr_tokenizer_train(texts, lengths, 3, &training, &t));
    CHECK(tr_tokenizer_vocab_size(t) > 257 && tr_tokenizer_vocab_size(t) < 270);
    tr_tokenizer_free(t);
    CHECK_OK(tr_tokenizer_train(NULL, NULL, 0, &training, &t));
    CHECK_INT(tr_tokenizer_vocab_size(t), 257);
    check_round_trip(t, "\x00\xFF x", 4);
    tr_tokenizer_free(t);
    training.vocab_size = 256;
    CHECK_ERROR(tr_tokenizer_train(texts, lengths, 3, &training, &t), "at least 257");
    CHECK_ERROR(tr_tokenizer_train_files(&(const char *){"no/such/file"}, 1, &training, &t),
                "no/such/file");
    free(ours);
    free(theirs);
    free(parts);
    remove_take(directory);
}

static void test_saved_directories(void)
{
    static const tr_tokenizer_kind kinds[] = {TR_TOKENIZER_BPE, TR_TOKENIZER_BYTES,
                                              TR_TOKENIZER_CHARS};
    tr_map corpus = {0};
    CHECK_OK(tr_map_open(CORPUS, &corpus));
    for (int64_t i = 0; i < TR_COUNT(kinds); i++) {
        char *directory = temporary_directory(), *deep = tr_path_join(directory, "a/b");
        char *json = tr_path_join(deep, "tokenizer.json");
        tr_tokenizer *t = NULL, *again = NULL;
        tr_tokenizer_training training = {.kind = kinds[i], .vocab_size = 400};
        CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &t));
        CHECK_OK(tr_tokenizer_save(t, deep));
        for (int round = 0; round < (kinds[i] == TR_TOKENIZER_CHARS ? 1 : 2); round++) {
            /* First tokenizer.json, then, without it, vocab.json and merges.txt. */
            CHECK_OK(tr_tokenizer_load(deep, &again));
            CHECK_INT(tr_tokenizer_kind_of(again), kinds[i]);
            CHECK_INT(tr_tokenizer_vocab_size(again), tr_tokenizer_vocab_size(t));
            CHECK_INT(tr_tokenizer_end_of_text(again), tr_tokenizer_end_of_text(t));
            tr_ids a = encode(t, corpus.bytes, corpus.size, true),
                   b = encode(again, corpus.bytes, corpus.size, true);
            CHECK(same_ids(&a, &b) && a.count > 1000);
            check_round_trip(again, corpus.bytes, corpus.size);
            tr_ids_free(&a);
            tr_ids_free(&b);
            tr_tokenizer_free(again);
            CHECK_OK(tr_path_remove(json));
        }
        tr_tokenizer_free(t);
        free(json);
        free(deep);
        remove_take(directory);
    }
    tr_map_close(&corpus);
}

static void test_chars(void)
{
    const char *text = "b\xC3\xA9\na<|endoftext|>\xFF\xE4\xB8\xAD";
    tr_tokenizer_training training = {.kind = TR_TOKENIZER_CHARS};
    tr_tokenizer *t = NULL;
    CHECK_OK(tr_tokenizer_train(&text, &(int64_t){(int64_t)strlen(text)}, 1, &training, &t));
    /* U+FFFD, "\n", "a", "b", e acute, U+4E2D, end of text. */
    CHECK_INT(tr_tokenizer_vocab_size(t), 7);
    CHECK_INT(tr_tokenizer_end_of_text(t), 6);
    check_ids(t, "ab\xC3\xA9\xE4\xB8\xAD\n<|endoftext|>x\xFF", true, "2 3 4 5 1 6 0 0");
    CHECK(!tr_tokenizer_lossless(t));
    tr_tokenizer_free(t);
}

static void push_all(const tr_tokenizer *t, const char *text, tr_text *out)
{
    tr_detokenizer state = {0};
    for (const char *p = text; *p; p++) {
        tr_detokenizer_push(&state, t, (uint8_t)*p, out);
        uint32_t code;
        for (size_t i = 0; i < out->length;) {
            int n = tr_utf8_decode(out->bytes + i, out->bytes + out->length, &code);
            CHECK(n > 0);
            i += n ? (size_t)n : 1;
        }
    }
    tr_detokenizer_finish(&state, out);
}

static void test_detokenizer(void)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80!", "\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80!"},
        {"\xF0\x9F\x98", UNKNOWN_CHAR},
        {"\xF0\x9F\x98"
         "a",
         UNKNOWN_CHAR "a"},
        {"\x80\xFF", UNKNOWN_CHAR UNKNOWN_CHAR},
        {"\xE4\xE4\xB8\xAD", UNKNOWN_CHAR "\xE4\xB8\xAD"},
        {"\xED\xA0\x80", UNKNOWN_CHAR UNKNOWN_CHAR UNKNOWN_CHAR},
    };
    tr_tokenizer *t = load("bytes");
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        tr_text out = {0};
        push_all(t, rows[i].in, &out);
        CHECK_STRING(out.bytes, rows[i].out);
        tr_text_free(&out);
    }
    tr_text out = {0};
    tr_detokenizer state = {0};
    tr_detokenizer_push(&state, t, 'a', &out);
    CHECK_STRING(out.bytes, "a");
    tr_detokenizer_push(&state, t, 100000, &out);
    tr_detokenizer_push(&state, t, -1, &out);
    CHECK_STRING(out.bytes, "a");
    tr_text_free(&out);
    int32_t bad[] = {1, 257};
    CHECK_ERROR(tr_tokenizer_decode(t, bad, 2, &out), "token id 257 (at position 1)");
    tr_text_free(&out);
    tr_tokenizer_free(t);
}

/* A tokenizer.json with parts to vary. */
static char *json_with(const char *added, const char *normalizer, const char *pre,
                       const char *model)
{
    return tr_format(
        "{\"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, \"model\": %s}", added,
        normalizer, pre, model);
}

static void test_bad_files(void)
{
    static const char level[] = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}";
    static const char good[] =
        "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}";
    static const struct {
        const char *added, *normalizer, *pre, *model, *message;
    } rows[] = {
        {"[]", "{\"type\": \"Nmt\"}", level, good, "normalizer \"Nmt\""},
        {"[]", "null", "{\"type\": \"Whitespace\"}", good, "pre-tokenizer \"Whitespace\""},
        {"[]", "null", "{\"type\": \"Metaspace\"}", good, "\"replacement\" must be one character"},
        {"[]", "null", "{\"type\": \"ByteLevel\", \"add_prefix_space\": 1}", good,
         "must be true or false"},
        {"{}", "null", level, good, "\"added_tokens\" must be a list"},
        {"[3]", "null", level, good, "added token 0 has no \"content\""},
        {"[{\"content\": \"\", \"id\": 3}]", "null", level, good, "empty"},
        {"[{\"content\": \"x\\u0000y\", \"id\": 3}]", "null", level, good, "zero byte"},
        {"[{\"content\": \"x\", \"id\": -1}]", "null", level, good, "token \"x\" must have"},
        {"[{\"content\": \"x\", \"id\": 2000000000}]", "null", level, good,
         "token \"x\" must have"},
        {"[{\"content\": \"x\", \"id\": 1}]", "null", level, good, "which another token has"},
        {"[{\"content\": \"a\", \"id\": 1}]", "null", level, good, "differs from the vocabulary's"},
        {"[{\"content\": \"x\", \"id\": 3, \"single_word\": true}]", "null", level, good,
         "single_word"},
        {"[]", "null", level, "3", "no \"model\""},
        {"[]", "null", level, "{\"type\": \"Trie\"}", "model \"Trie\""},
        {"[]", "null", "null", "{\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}", "token 0 of the vocabulary"},
        {"[]", "null", "null", "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]], \"unk_id\": 1}", "\"unk_id\""},
        {"[]", "null", "null", "{\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}", "needs an \"unk_token\""},
        {"[]", "null", level, "{\"type\": \"BPE\", \"merges\": []}", "no \"vocab\""},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}",
         "vocabulary is empty"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": \"0\"}, \"merges\": []}",
         "token \"a\""},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []}", "the id 1"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 99999999}, \"merges\": []}",
         "whole number from 0"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}", "no list \"merges\""},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a\"]}",
         "merge 1 must be two"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a a\"]}",
         "merge 1 must be two"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}",
         "neither"},
        {"[]", "null", level, "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}",
         "makes \"aa\""},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\", \"q\"]]}",
         "\"q\" is not in"},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1}", "dropout"},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"byte_fallback\": true}",
         "byte_fallback"},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": "
         "\"</w>\"}",
         "end_of_word_suffix"},
        {"[]", "null", level,
         "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"?\"}",
         "unk_token"},
        {"[]", "null", level, "{\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}",
         "WordLevel model is supported only"},
    };
    tr_tokenizer *t = NULL;
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        char *text = json_with(rows[i].added, rows[i].normalizer, rows[i].pre, rows[i].model);
        CHECK_ERROR(tr_tokenizer_parse(text, (int64_t)strlen(text), "file", &t), rows[i].message);
        CHECK(!t);
        free(text);
    }
    char *text = json_with("[]", "null", level, good);
    CHECK_OK(tr_tokenizer_parse(text, (int64_t)strlen(text), "file", &t));
    check_ids(t, "abxba", true, "2 1 0");
    CHECK(!tr_tokenizer_lossless(t));
    CHECK_INT(tr_tokenizer_end_of_text(t), -1);
    tr_tokenizer_free(t);
    for (size_t n = 0; n < strlen(text); n++)
        CHECK_ERROR(tr_tokenizer_parse(text, (int64_t)n, "cut", &t), "cut: ");
    free(text);
    CHECK_ERROR(tr_tokenizer_parse("[]", 2, "file", &t), "expected a JSON object");
    CHECK_ERROR(tr_tokenizer_load("no/such/tokenizer", &t), "no tokenizer 'no/such/tokenizer'");
    CHECK_ERROR(tr_tokenizer_load("tests", &t), "no tokenizer in this directory");
    CHECK_ERROR(tr_tokenizer_load("README.md", &t), "not valid JSON at line 1");
}

static void test_vocab_and_merges(void)
{
    static const char vocab[] =
        "{\"a\": 0, \"b\": 1, \"ab\": 2, \"abab\": 3, \"<|endoftext|>\": 4}";
    static const char merges[] = "#version: 0.2\r\na b\r\nab ab\n\n";
    tr_tokenizer *t = NULL;
    CHECK_OK(
        tr_tokenizer_parse_pair(vocab, sizeof vocab - 1, merges, sizeof merges - 1, "pair", &t));
    check_ids(t, "abababa<|endoftext|>", true, "3 2 0 4");
    CHECK_INT(tr_tokenizer_end_of_text(t), 4);
    tr_tokenizer_free(t);
    CHECK_ERROR(tr_tokenizer_parse_pair(vocab, sizeof vocab - 1, "a  b\n", 5, "pair", &t),
                "pair: merge 1 must be");
    CHECK_ERROR(tr_tokenizer_parse_pair(vocab, sizeof vocab - 1, "b a\n", 4, "pair", &t),
                "makes \"ba\"");
    CHECK_ERROR(tr_tokenizer_parse_pair("{", 1, merges, sizeof merges - 1, "pair", &t),
                "not valid JSON");
    /* A pair listed twice: the later rank counts, as in Hugging Face's library. */
    static const char twice[] = "a b\nab ab\na b\n";
    CHECK_OK(tr_tokenizer_parse_pair(vocab, sizeof vocab - 1, twice, sizeof twice - 1, "pair", &t));
    CHECK_INT(tr_tokenizer_merge_count(t), 2);
    tr_tokenizer_free(t);
}

int main(void)
{
    TEST(test_utf8);
    TEST(test_bytes);
    TEST(test_same_ids_as_hugging_face);
    TEST(test_variants_as_hugging_face);
    TEST(test_unicode_classes_as_hugging_face);
    TEST(test_any_bytes_are_kept);
    TEST(test_merges_by_definition);
    TEST(test_many_different_words);
    TEST(test_a_long_word_is_no_trap);
    TEST(test_threads_change_nothing);
    TEST(test_ids_are_appended);
    TEST(test_training_as_hugging_face);
    TEST(test_saved_directories);
    TEST(test_chars);
    TEST(test_detokenizer);
    TEST(test_bad_files);
    TEST(test_vocab_and_merges);
    return check_report();
}
