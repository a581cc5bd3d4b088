/* Tokenizers in GGUF files, made here byte by byte: byte-level BPE with a named pre-tokenizer, SentencePiece's two,
 * BERT's; the file's own numbers of special tokens; what is refused. */
#include <jansson.h>

#include "check.h"
#include "data/gguf.h"
#include "data/tokenizer_internal.h"

enum { STRING = 8, ARRAY = 9, UINT32 = 4, INT32 = 5, FLOAT32 = 6, BOOL = 7 };

typedef struct maker {
    tr_text body;
    uint64_t count;
} maker;

static void number(maker *m, uint64_t value, size_t bytes)
{
    tr_text_add(&m->body, (const char *)&value, bytes);
}

static void text(maker *m, const char *value)
{
    number(m, strlen(value), 8);
    tr_text_add(&m->body, value, strlen(value));
}

static void key(maker *m, const char *name, int type)
{
    char *whole = tr_format("tokenizer.ggml.%s", name);
    text(m, whole);
    number(m, (uint64_t)type, 4);
    m->count++;
    free(whole);
}

static void put_text(maker *m, const char *name, const char *value)
{
    key(m, name, STRING);
    text(m, value);
}

static void put_id(maker *m, const char *name, uint32_t value)
{
    key(m, name, UINT32);
    number(m, value, 4);
}

/* Texts with "|" between them. */
static void put_texts(maker *m, const char *name, const char *values)
{
    uint64_t count = 1;
    for (const char *p = values; *p; p++)
        count += *p == '|';
    key(m, name, ARRAY);
    number(m, STRING, 4);
    number(m, count, 8);
    for (const char *p = values;; p++) {
        size_t n = strcspn(p, "|");
        number(m, n, 8);
        tr_text_add(&m->body, p, n);
        p += n;
        if (!*p)
            break;
    }
}

static void put_scores(maker *m, const float *scores, uint64_t count)
{
    key(m, "scores", ARRAY);
    number(m, FLOAT32, 4);
    number(m, count, 8);
    tr_text_add(&m->body, (const char *)scores, count * sizeof *scores);
}

static void put_types(maker *m, const char *types)
{
    key(m, "token_type", ARRAY);
    number(m, INT32, 4);
    number(m, strlen(types), 8);
    for (; *types; types++)
        number(m, (uint64_t)(*types - '0'), 4);
}

static tr_error *finish(maker *m, tr_tokenizer **out)
{
    tr_text file = {0};
    uint64_t head[] = {0, m->count};
    tr_gguf *g = NULL;
    tr_text_add(&file, "GGUF\3\0\0\0", 8);
    tr_text_add(&file, (const char *)head, sizeof head);
    tr_text_add(&file, m->body.bytes, m->body.length);
    while (file.length % 32)
        tr_text_add(&file, "", 1);
    *out = NULL;
    CHECK_OK(tr_gguf_parse(file.bytes, (int64_t)file.length, "made", &g));
    tr_error *error = g ? tr_tokenizer_from_gguf_file(g, "made", out) : NULL;
    tr_gguf_close(g);
    tr_text_free(&file);
    tr_text_free(&m->body);
    *m = (maker){0};
    return error;
}

static void check_ids(const tr_tokenizer *t, const char *line, const char *want)
{
    tr_ids ids = {0};
    tr_text got = {0};
    tr_tokenizer_encode(t, line, (int64_t)strlen(line), true, &ids);
    tr_text_add(&got, "", 0);
    for (int64_t i = 0; i < ids.count; i++)
        tr_text_format(&got, "%s%d", i ? " " : "", ids.items[i]);
    CHECK_STRING(got.bytes, want);
    tr_text_free(&got);
    tr_ids_free(&ids);
}

static void test_bytes(void)
{
    static const char tokens[] = "<end>|a|b|1|2|\xC4\xA0|ab|12|\xC4\xA0"
                                 "a|1a",
                      merges[] = "a b|1 2|\xC4\xA0 a|1 a";
    static const struct {
        const char *pre, *ids;
    } rows[] = {{"gpt-2", "6 8 7 6 0"}, {"smollm", "6 8 3 4 6 0"}, {"llama-bpe", "6 8 7 6 0"}};
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        maker m = {0};
        tr_tokenizer *t;
        put_text(&m, "model", "gpt2");
        put_text(&m, "pre", rows[i].pre);
        put_texts(&m, "tokens", tokens);
        put_texts(&m, "merges", merges);
        put_types(&m, "3111111111");
        put_id(&m, "eos_token_id", 0);
        put_id(&m, "bos_token_id", 7);
        CHECK_OK(finish(&m, &t));
        check_ids(t, "ab a12ab<end>", rows[i].ids);
        CHECK_INT(tr_tokenizer_end_of_text(t), 0);
        CHECK_INT(tr_tokenizer_special(t, TR_SPECIAL_BOS), 7);
        tr_tokenizer_free(t);
    }
}

static void test_pieces(void)
{
    static const char bpe[] = "<unk>|<s>|</s>|<0x0A>|\xE2\x96\x81|a|b|ab|\xE2\x96\x81"
                              "ab|\xE2\x96\x81\xE2\x96\x81";
    static const float bpe_scores[] = {0, 0, 0, 0, -6, -7, -8, -1, -2, -3};
    maker m = {0};
    tr_tokenizer *t;
    put_text(&m, "model", "llama");
    put_texts(&m, "tokens", bpe);
    put_scores(&m, bpe_scores, 10);
    put_types(&m, "2336111111");
    CHECK_OK(finish(&m, &t));
    CHECK_INT(tr_tokenizer_kind_of(t), TR_TOKENIZER_BPE);
    check_ids(t, "ab  ab\nc", "8 4 8 3 0"); /* "ab" is made first, then with the marker before it */
    check_ids(t, "a   b", "4 5 9 4 6");
    tr_tokenizer_free(t);

    static const char unigram[] = "<pad>|</s>|<unk>|\xE2\x96\x81|a|b|\xE2\x96\x81"
                                  "ab";
    static const float scores[] = {0, 0, 0, -2, -3, -3, -4};
    put_text(&m, "model", "t5");
    put_texts(&m, "tokens", unigram);
    put_scores(&m, scores, 7);
    put_types(&m, "3321111");
    CHECK_OK(finish(&m, &t));
    CHECK_INT(tr_tokenizer_kind_of(t), TR_TOKENIZER_UNIGRAM);
    check_ids(t, "ab  ba ccab", "6 3 5 4 3 2 4 5");
    CHECK_INT(tr_tokenizer_end_of_text(t), 1);
    tr_tokenizer_free(t);
}

static void test_bert(void)
{
    maker m = {0};
    tr_tokenizer *t;
    put_text(&m, "model", "bert");
    put_texts(&m, "tokens", "[PAD]|[UNK]|[CLS]|[SEP]|[MASK]|\xE2\x96\x81row|ing|er|\xE2\x96\x81,");
    put_types(&m, "333331111");
    CHECK_OK(finish(&m, &t));
    CHECK_INT(tr_tokenizer_kind_of(t), TR_TOKENIZER_WORDPIECE);
    check_ids(t, "Rowing, rower sea [MASK]", "5 6 8 5 7 1 4");
    tr_tokenizer_free(t);
}

static void test_what_is_refused(void)
{
    maker m = {0};
    tr_tokenizer *t;
    put_text(&m, "model", "gpt2");
    CHECK_ERROR(finish(&m, &t), "made: it has no tokenizer");
    put_text(&m, "model", "rwkv");
    put_texts(&m, "tokens", "a|b");
    CHECK_ERROR(finish(&m, &t), "the tokenizer \"rwkv\" is not supported: gpt2, llama, t5 and bert are");
    put_text(&m, "model", "gpt2");
    put_text(&m, "pre", "poro-chat");
    put_texts(&m, "tokens", "a|b");
    CHECK_ERROR(finish(&m, &t), "\"poro-chat\" of its tokenizer is not supported; these are: default");
    put_text(&m, "model", "gpt2");
    put_texts(&m, "tokens", "a|b|a");
    CHECK_ERROR(finish(&m, &t), "token 2 of its tokenizer, \"a\", is there twice");
    put_text(&m, "model", "llama");
    put_texts(&m, "tokens", "a|b");
    CHECK_ERROR(finish(&m, &t), "has no scores");
    put_text(&m, "model", "llama");
    put_texts(&m, "tokens", "a|b");
    put_types(&m, "1");
    CHECK_ERROR(finish(&m, &t), "are not one a token");
}

int main(void)
{
    TEST(test_bytes);
    TEST(test_pieces);
    TEST(test_bert);
    TEST(test_what_is_refused);
    return check_report();
}
