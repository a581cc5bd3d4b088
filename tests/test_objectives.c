/* Objectives of encoder-decoders: what a sample holds, that it is a function of its number, what is refused. */
#include <unistd.h>

#include "base/file.h"
#include "check.h"
#include "data/objective.h"

#define CORPUS "tests/golden/tokenizer_corpus.txt"
enum { SEQ = 64, DECODER = 24 };

static tr_tokenizer *tokenizer;
static char directory[] = "/tmp/trireme-objective-XXXXXX";

/* One sample of an objective, all its fields. */
typedef struct sample {
    int32_t ids[SEQ], mask[SEQ], decoder[DECODER], targets[DECODER];
} sample;

static void fetch(const tr_objective *o, bool validation, int64_t index, sample *out)
{
    tr_field fields[] = {
        {.name = "ids", .dtype = TR_I32, .rank = 1, .elems = SEQ, .ints = out->ids},
        {.name = "mask", .dtype = TR_I32, .rank = 1, .elems = SEQ, .ints = out->mask},
        {.name = "decoder_ids", .dtype = TR_I32, .rank = 1, .elems = DECODER, .ints = out->decoder},
        {.name = "targets", .dtype = TR_I32, .rank = 1, .elems = DECODER, .ints = out->targets},
    };
    memset(out, 0, sizeof *out);
    CHECK_OK(o->row->sample(o->own, validation, index, fields, 4));
    /* What is asked for alone is the same. */
    sample alone = {0};
    fields[3].ints = alone.targets;
    CHECK_OK(o->row->sample(o->own, validation, index, &fields[3], 1));
    CHECK(memcmp(alone.targets, out->targets, sizeof alone.targets) == 0);
}

static tr_objective_options options_for(const char *const *paths)
{
    return (tr_objective_options){.tokenizer = tokenizer,
                                  .paths = paths,
                                  .n_paths = 1,
                                  .cache = directory,
                                  .threads = 1,
                                  .seq = SEQ,
                                  .decoder_seq = DECODER,
                                  .vocab = tr_tokenizer_vocab_size(tokenizer),
                                  .seed = 7,
                                  .val_split = 0.1};
}

static tr_objective *open_one(const char *name, const tr_objective_options *options)
{
    tr_objective *o = NULL;
    CHECK_OK(tr_objective_open(tr_objective_find(name), options, &o));
    if (!o)
        exit(1);
    return o;
}

/* Puts a corrupted text together again: each sentinel of the input is replaced by what the target has behind it. */
static int64_t restore(const sample *s, int32_t first, int32_t end, int32_t *out)
{
    int64_t n = 0, t = 0;
    for (int64_t i = 0; i < SEQ && s->ids[i] != end; i++) {
        if (s->ids[i] < first) { /* sentinels are the highest ids here */
            out[n++] = s->ids[i];
            continue;
        }
        CHECK_INT(s->targets[t], s->ids[i]);
        for (t++; t < DECODER && s->targets[t] >= 0 && s->targets[t] < first && s->targets[t] != end; t++)
            out[n++] = s->targets[t];
    }
    CHECK_INT(s->targets[t], end);
    return n;
}

static void test_span_corruption(void)
{
    const char *paths[] = {CORPUS};
    tr_objective_options options = options_for(paths), plain = options;
    tr_objective *o = open_one("span", &options), *again = open_one("span", &options);
    int32_t end = tr_tokenizer_end_of_text(tokenizer), pad = tr_tokenizer_special(tokenizer, TR_SPECIAL_PAD);
    int32_t first = tr_tokenizer_find(tokenizer, "<extra_id_9>");
    CHECK_INT(first, tr_tokenizer_vocab_size(tokenizer) - 10);
    /* Inputs of 64: 70 tokens, of which 10 (10.5, to the even) go in 3 spans: 60 + 3 + 1. Targets 10 + 3 + 1. */
    plain.seq = 70;
    tr_objective *whole = open_one("causal", &plain);
    int64_t differ = 0;
    for (int64_t i = 0; i < 60; i++) {
        sample s, t;
        int32_t text[SEQ + DECODER], want[70];
        fetch(o, false, i, &s);
        fetch(again, false, i, &t);
        CHECK(memcmp(&s, &t, sizeof s) == 0);
        CHECK_INT(s.ids[SEQ - 1], end);
        CHECK_INT(s.mask[SEQ - 1], 1);
        CHECK_INT(s.targets[13], end);
        CHECK_INT(s.targets[14], -1);
        CHECK_INT(s.decoder[0], pad);
        CHECK(memcmp(s.decoder + 1, s.targets, 13 * sizeof *s.targets) == 0);
        CHECK_INT(restore(&s, first, end, text), 70);
        tr_field ids = {.name = "ids", .dtype = TR_I32, .rank = 1, .elems = 70, .ints = want};
        CHECK_OK(whole->row->sample(whole->own, false, i, &ids, 1));
        CHECK(memcmp(text, want, sizeof want) == 0);
        differ += s.ids[5] >= first || s.ids[6] >= first || s.ids[7] >= first;
    }
    CHECK(differ > 5 && differ < 55); /* the spans lie elsewhere in each sample */
    int64_t windows = tr_objective_val_count(o);
    CHECK(windows > 1);
    sample last;
    fetch(o, true, windows - 1, &last);
    CHECK(last.mask[0] == 1 && last.targets[0] >= first);
    tr_objective_free(o);
    tr_objective_free(again);
    tr_objective_free(whole);
    options.decoder_seq = 13;
    CHECK_ERROR(tr_objective_open(tr_objective_find("span"), &options, &o), "set train.decoder_seq=14");
    options.seq = 400;
    options.decoder_seq = 400;
    CHECK_ERROR(tr_objective_open(tr_objective_find("span"), &options, &o), "the tokenizer has 10");
    options.tokenizer = NULL;
    CHECK_ERROR(tr_objective_open(tr_objective_find("span"), &options, &o), "needs a tokenizer");
}

static void test_pairs(void)
{
    char *path = tr_path_join(directory, "pairs.tsv");
    tr_text text = {0};
    for (int i = 0; i < 40; i++)
        tr_text_format(&text, "three banks of oars %d\tthe captain %d\n", i, i);
    for (int i = 0; i < 80; i++)
        tr_text_add(&text, "oars ", 5);
    tr_text_add(&text, "\tx\r\n\n", 5);
    CHECK_OK(tr_file_write(path, text.bytes, (int64_t)text.length));
    const char *paths[] = {path};
    tr_objective_options options = options_for(paths);
    tr_objective *o = open_one("seq2seq", &options);
    tr_loader_info info = tr_objective_describe(o);
    CHECK_INT(info.train_windows, 36);
    CHECK_INT(tr_objective_val_count(o), 4); /* every tenth; the long one is left out */
    int32_t end = tr_tokenizer_end_of_text(tokenizer), pad = tr_tokenizer_special(tokenizer, TR_SPECIAL_PAD);
    int seen[40] = {0};
    for (int64_t i = 0; i < 72; i++) {
        sample s;
        fetch(o, false, i, &s);
        tr_text source = {0}, target = {0};
        int64_t n = 0, m = 0;
        while (s.ids[n] != end)
            n++;
        while (s.targets[m] != end)
            m++;
        CHECK(s.mask[n] == 1 && s.mask[n + 1] == 0 && s.ids[n + 1] == pad && s.targets[m + 1] == -1);
        CHECK(s.decoder[0] == pad && memcmp(s.decoder + 1, s.targets, (size_t)m * sizeof *s.targets) == 0);
        CHECK_OK(tr_tokenizer_decode(tokenizer, s.ids, n, &source));
        CHECK_OK(tr_tokenizer_decode(tokenizer, s.targets, m, &target));
        int a = -1, b = -2;
        CHECK(sscanf(source.bytes, "three banks of oars %d", &a) == 1 &&
              sscanf(target.bytes, "the captain %d", &b) == 1);
        CHECK_INT(a, b);
        seen[a >= 0 && a < 40 ? a : 0]++;
        tr_text_free(&source);
        tr_text_free(&target);
    }
    for (int i = 0; i < 40; i++)
        CHECK_INT(seen[i], i % 10 == 9 ? 0 : 2);
    char *state = tr_objective_state(o);
    CHECK_OK(tr_objective_check_state(o, state));
    CHECK_ERROR(tr_objective_check_state(o, "{}"), "not those of the run");
    free(state);
    tr_objective_free(o);

    static const struct {
        const char *text, *message;
    } bad[] = {
        {"no tab\n", ":1: expected a source and a target"}, {"a\tb\nc\td\te\n", ":2: expected"}, {"", "no pairs"}};
    for (int64_t i = 0; i < TR_COUNT(bad); i++) {
        CHECK_OK(tr_file_write(path, bad[i].text, (int64_t)strlen(bad[i].text)));
        CHECK_ERROR(tr_objective_open(tr_objective_find("seq2seq"), &options, &o), bad[i].message);
    }
    char *lines = tr_path_join(directory, "pairs.jsonl");
    static const char json[] = "{\"source\": \"the mast\", \"target\": \"the storm\"}\n{\"source\": 3}\n";
    paths[0] = lines;
    CHECK_OK(tr_file_write(lines, json, sizeof json - 1));
    CHECK_ERROR(tr_objective_open(tr_objective_find("seq2seq"), &options, &o), ":2: expected {\"source\"");
    CHECK_OK(tr_file_write(lines, json, (int64_t)(strchr(json, '\n') - json)));
    o = open_one("seq2seq", &options);
    CHECK_INT(tr_objective_describe(o).train_windows, 1);
    tr_objective_free(o);
    paths[0] = directory;
    CHECK_ERROR(tr_objective_open(tr_objective_find("seq2seq"), &options, &o), "not a directory");
    tr_text_free(&text);
    free(path);
    free(lines);
}

int main(void)
{
    tr_tokenizer_training training = {.kind = TR_TOKENIZER_UNIGRAM, .vocab_size = 300, .sentinels = 10};
    if (!mkdtemp(directory))
        exit(1);
    CHECK_OK(tr_tokenizer_train_files(&(const char *){CORPUS}, 1, &training, &tokenizer));
    TEST(test_span_corruption);
    TEST(test_pairs);
    tr_tokenizer_free(tokenizer);
    CHECK_OK(tr_path_remove(directory));
    return check_report();
}
