/* BERT's objective: a sample is a function of its number; what is masked, how often, and how; the second text. */
#include "check.h"

#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/objective.h"

enum { SEQ = 64, SAMPLES = 400, FIRST = 5, WORDS = 40 };
static char folder[64];
static tr_tokenizer *tokenizer;
static char *text_path;

typedef struct sample {
    int32_t ids[SEQ], positions[SEQ], segments[SEQ], mask[SEQ], targets[SEQ], labels[1];
} sample;

/* A text of letters that are words of the vocabulary by themselves. */
static void make_text(void)
{
    tr_text words = {0}, text = {0};
    uint32_t state = 7;
    tr_text_format(&words, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    for (int i = 0; i < WORDS; i++)
        tr_text_format(&words, "w%c%c\n", 'a' + i / 26, 'a' + i % 26);
    for (int i = 0; i < 30000; i++) {
        state = state * 1664525u + 1013904223u;
        int word = (int)(state >> 16) % WORDS;
        tr_text_format(&text, "w%c%c%c", 'a' + word / 26, 'a' + word % 26, i % 12 ? ' ' : '\n');
    }
    char *vocab_path = tr_path_join(folder, "vocab.txt");
    text_path = tr_path_join(folder, "text.txt");
    CHECK_OK(tr_file_write(vocab_path, words.bytes, (int64_t)words.length));
    CHECK_OK(tr_file_write(text_path, text.bytes, (int64_t)text.length));
    CHECK_OK(tr_tokenizer_load(vocab_path, &tokenizer));
    CHECK_INT(tr_tokenizer_vocab_size(tokenizer), FIRST + WORDS);
    free(vocab_path);
    tr_text_free(&words);
    tr_text_free(&text);
}

static tr_error *open_with(const tr_tokenizer *t, int64_t seq, uint64_t seed, tr_objective **out)
{
    const char *paths[] = {text_path};
    return tr_objective_open(tr_objective_find("masked"),
                             &(tr_objective_options){.tokenizer = t, .paths = paths, .n_paths = 1, .cache = folder, .threads = 1,
                                                     .seq = seq, .vocab = t ? tr_tokenizer_vocab_size(t) : 0, .seed = seed,
                                                     .val_split = 0.2},
                             out);
}

static void fetch(const tr_objective *o, bool validation, int64_t index, sample *out)
{
    tr_field fields[] = {{.name = "ids", .ints = out->ids, .elems = SEQ},
                         {.name = "positions", .ints = out->positions, .elems = SEQ},
                         {.name = "segments", .ints = out->segments, .elems = SEQ},
                         {.name = "mask", .ints = out->mask, .elems = SEQ},
                         {.name = "targets", .ints = out->targets, .elems = SEQ},
                         {.name = "labels", .ints = out->labels, .elems = 1}};
    memset(out, 0, sizeof *out);
    CHECK_OK(o->row->sample(o->own, validation, index, fields, TR_COUNT(fields)));
}

/* [CLS] a [SEP] b [SEP], and the rest as the head of objective_masked.c says. */
static void check_form(const sample *s)
{
    int32_t cls = tr_tokenizer_special(tokenizer, TR_SPECIAL_CLS), sep = tr_tokenizer_special(tokenizer, TR_SPECIAL_SEP);
    int middle = 1;
    while (middle < SEQ - 1 && s->segments[middle + 1] == 0)
        middle++;
    CHECK_INT(s->ids[0], cls);
    CHECK_INT(s->ids[middle], sep);
    CHECK_INT(s->ids[SEQ - 1], sep);
    CHECK(middle >= SEQ / 5 && middle <= SEQ * 4 / 5);
    for (int i = 0; i < SEQ; i++) {
        CHECK_INT(s->positions[i], i);
        CHECK_INT(s->mask[i], 1);
        CHECK_INT(s->segments[i], i > middle);
        if (i == 0 || i == middle || i == SEQ - 1)
            CHECK_INT(s->targets[i], -1);
    }
}

static void test_form_and_shares(void)
{
    tr_objective *o = NULL;
    CHECK_OK(open_with(tokenizer, SEQ, 3, &o));
    int32_t mask = tr_tokenizer_special(tokenizer, TR_SPECIAL_MASK);
    double chosen = 0, masked = 0, same = 0, other = 0, seen = 0, labels = 0;
    for (int i = 0; o && i < SAMPLES; i++) {
        sample s;
        fetch(o, false, i, &s);
        check_form(&s);
        labels += s.labels[0];
        for (int t = 0; t < SEQ; t++) {
            if (s.targets[t] < 0) {
                CHECK(s.ids[t] != mask);
                continue;
            }
            chosen++;
            CHECK(s.targets[t] >= FIRST);
            masked += s.ids[t] == mask;
            same += s.ids[t] == s.targets[t];
            other += s.ids[t] != mask && s.ids[t] != s.targets[t];
        }
        seen += SEQ - 3;
    }
    /* Within four standard deviations; another word is the same one once in WORDS + FIRST. */
    CHECK_NEAR(chosen / seen, 0.15, 4 * sqrt(0.15 * 0.85 / seen));
    CHECK_NEAR(masked / chosen, 0.8, 4 * sqrt(0.8 * 0.2 / chosen) + 0.1 / (WORDS + FIRST));
    CHECK_NEAR(same / chosen, 0.1, 4 * sqrt(0.1 * 0.9 / chosen) + 0.1 / (WORDS + FIRST));
    CHECK_NEAR(other / chosen, 0.1, 4 * sqrt(0.1 * 0.9 / chosen) + 0.1 / (WORDS + FIRST));
    CHECK_NEAR(labels / SAMPLES, 0.5, 4 * sqrt(0.25 / SAMPLES));
    tr_objective_free(o);
}

static void test_function_of_the_number(void)
{
    tr_objective *o = NULL, *again = NULL, *seeded = NULL;
    sample a, b, c;
    CHECK_OK(open_with(tokenizer, SEQ, 3, &o));
    CHECK_OK(open_with(tokenizer, SEQ, 3, &again));
    CHECK_OK(open_with(tokenizer, SEQ, 4, &seeded));
    fetch(again, false, 99, &b); /* in another order */
    for (int i = 0; i < 20; i++) {
        fetch(o, i & 1, i, &a);
        fetch(again, i & 1, i, &b);
        fetch(seeded, i & 1, i, &c);
        CHECK(memcmp(&a, &b, sizeof a) == 0);
        CHECK(memcmp(&a, &c, sizeof a) != 0);
    }
    /* What is not asked for changes nothing. */
    int32_t ids[SEQ];
    tr_field one = {.name = "ids", .ints = ids, .elems = SEQ};
    fetch(o, false, 5, &a);
    CHECK_OK(o->row->sample(o->own, false, 5, &one, 1));
    CHECK(memcmp(a.ids, ids, sizeof ids) == 0);
    CHECK(tr_objective_val_count(o) > 10);
    tr_objective_free(o);
    tr_objective_free(again);
    tr_objective_free(seeded);
}

/* With targets put back, a text that follows is the loader's window, and another one is not. */
static void test_second_text(void)
{
    tr_objective *o = NULL;
    tr_loader *loader = NULL;
    const char *paths[] = {text_path};
    int32_t window[SEQ], next[SEQ];
    int follow = 0;
    CHECK_OK(open_with(tokenizer, SEQ, 3, &o));
    tr_objective_options options = {.tokenizer = tokenizer, .paths = paths, .n_paths = 1, .cache = folder, .threads = 1,
                                    .vocab = tr_tokenizer_vocab_size(tokenizer), .seed = 3, .val_split = 0.2};
    CHECK_OK(tr_objective_loader(&options, SEQ - 3, &loader));
    for (int i = 0; o && loader && i < 50; i++) {
        sample s;
        fetch(o, false, i, &s);
        CHECK_OK(tr_loader_sample(loader, i, window, next));
        int at = 0;
        bool first = true, second = true;
        for (int t = 1; t < SEQ - 1; t++) {
            if (s.segments[t] == 0 && s.segments[t + 1] == 1)
                continue; /* [SEP] */
            int32_t was = s.targets[t] >= 0 ? s.targets[t] : s.ids[t];
            *(s.segments[t] ? &second : &first) &= was == window[at++];
        }
        CHECK(first);
        CHECK_INT(second, !s.labels[0]);
        follow += second;
    }
    CHECK(follow > 10 && follow < 40);
    tr_loader_free(loader);
    tr_objective_free(o);
}

static void test_refusals(void)
{
    tr_objective *o = NULL;
    tr_tokenizer *bytes = tr_tokenizer_bytes_new();
    CHECK_ERROR(open_with(bytes, SEQ, 3, &o), "needs a tokenizer with the tokens [CLS], [SEP] and [MASK]");
    CHECK_ERROR(open_with(NULL, SEQ, 3, &o), "needs a tokenizer");
    CHECK_ERROR(open_with(tokenizer, 7, 3, &o), "sequences of 8 tokens at least, and they have 7");
    tr_tokenizer_free(bytes);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/trireme-masked-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    TEST(make_text);
    TEST(test_form_and_shares);
    TEST(test_function_of_the_number);
    TEST(test_second_text);
    TEST(test_refusals);
    tr_tokenizer_free(tokenizer);
    free(text_path);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
