/* Labelled texts: how they are read and numbered, and what of a pair fits into a sequence; samples of the objective classify. */
#include "check.h"

#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/labelled.h"
#include "data/objective.h"

static char folder[64], *path;
static tr_tokenizer *tokenizer;
enum { CLS = 2, SEP = 3, A = 5, B = 6 };

static void make_tokenizer(void)
{
    char *vocab = tr_path_join(folder, "vocab.txt");
    path = tr_path_join(folder, "texts.jsonl");
    static const char words[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n";
    CHECK_OK(tr_file_write(vocab, words, (int64_t)strlen(words)));
    CHECK_OK(tr_tokenizer_load(vocab, &tokenizer));
    free(vocab);
}

static tr_error *read_lines(const char *lines, tr_labelled **out)
{
    const char *const paths[] = {path};
    *out = NULL;
    CHECK_OK(tr_file_write(path, lines, (int64_t)strlen(lines)));
    return tr_labelled_read(paths, 1, out);
}

static void check_ids(const tr_labelled *l, int64_t item, int64_t most, const int32_t *want, int64_t count, int64_t first)
{
    tr_ids ids = {0};
    int64_t got;
    tr_labelled_encode(tokenizer, &l->items[item], most, &ids, &got);
    CHECK_INT(ids.count, count);
    CHECK_INT(got, first);
    for (int64_t i = 0; i < count && i < ids.count; i++)
        CHECK_INT(ids.items[i], want[i]);
    tr_ids_free(&ids);
}

static void test_tokens(void)
{
    tr_labelled *l;
    CHECK_OK(read_lines("{\"text\": \"a b a b a\", \"label\": 0}\n\n{\"text\": \"a a a a\", \"pair\": \"b b\", \"label\": 1}\r\n", &l));
    CHECK_INT(l->count, 2);
    CHECK_INT(l->items[1].line, 3);
    check_ids(l, 0, 9, (int32_t[]){CLS, A, B, A, B, A, SEP}, 7, 7);
    check_ids(l, 0, 4, (int32_t[]){CLS, A, B, SEP}, 4, 4);
    check_ids(l, 1, 9, (int32_t[]){CLS, A, A, A, A, SEP, B, B, SEP}, 9, 6);
    check_ids(l, 1, 8, (int32_t[]){CLS, A, A, A, SEP, B, B, SEP}, 8, 5);
    check_ids(l, 1, 6, (int32_t[]){CLS, A, A, SEP, B, SEP}, 6, 4);
    tr_labelled_free(l);
}

static tr_error *number(const char *lines, int64_t classes, bool needed, char ***names, int64_t *count, tr_labelled **l)
{
    TR_TRY(read_lines(lines, l));
    TR_TRY(tr_labelled_names(*l, names, count));
    return tr_labelled_number(*l, *names, *count, classes, needed);
}

static void refuse(const char *lines, int64_t classes, const char *say)
{
    char **names = NULL;
    int64_t count = 0;
    tr_labelled *l = NULL;
    CHECK_ERROR(number(lines, classes, true, &names, &count, &l), say);
    tr_names_free(names, count);
    tr_labelled_free(l);
}

static void test_labels(void)
{
    char **names;
    int64_t count;
    tr_labelled *l;
    CHECK_OK(number("{\"text\":\"a\",\"label\":\"no\"}\n{\"text\":\"a\",\"label\":\"maybe\"}\n{\"text\":\"a\",\"label\":\"no\"}", 2, true,
                    &names, &count, &l));
    CHECK_INT(count, 2);
    CHECK_STRING(names[0], "maybe");
    CHECK_INT(l->items[0].label, 1);
    CHECK_INT(l->items[1].label, 0);
    tr_names_free(names, count);
    tr_labelled_free(l);
    refuse("{\"text\":\"a\"}", 2, "texts.jsonl:1 has no label");
    refuse("{\"text\":\"a\",\"label\":2}", 2, "has the label 2 and the model has model.labels 2, 0 to 1; set model.labels=3");
    refuse("{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"a\",\"label\":0}", 2, "labels are all names, or all numbers");
    refuse("{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"a\",\"label\":\"y\"}\n{\"text\":\"a\",\"label\":\"z\"}", 2, "set model.labels=3");
    refuse("{\"text\":\"a\",\"label\":1.5}", 2, "the label must be a text or a whole number from 0 on");
    refuse("{\"txt\":\"a\",\"label\":1}", 2, "text");
    refuse("[1]", 2, "expected an object");
    refuse("\n", 2, "holds no text");
    CHECK_ERROR(tr_labelled_read((const char *const[]){folder}, 1, &l), "is a directory");
}

/* Every text once an epoch; what is held out is never trained on, and is the same for every seed. */
static void test_samples(void)
{
    enum { TEXTS = 40, HELD = 8, SEQ = 12 };
    tr_text lines = {0};
    const char *const paths[] = {path};
    int seen[TEXTS][2] = {{0}};
    for (int i = 0; i < TEXTS; i++)
        tr_text_format(&lines, "{\"text\":\"a%s\",\"label\":%d}\n", i % 3 ? " b b" : "", i);
    CHECK_OK(tr_file_write(path, lines.bytes, (int64_t)lines.length));
    for (int seed = 1; seed <= 2; seed++) {
        tr_objective *o = NULL;
        CHECK_OK(tr_objective_open(tr_objective_find("classify"),
                                   &(tr_objective_options){.tokenizer = tokenizer, .paths = paths, .n_paths = 1, .threads = 2, .seq = SEQ,
                                                           .seed = (uint64_t)seed, .val_split = 0.2, .labels = TEXTS},
                                   &o));
        CHECK_INT(tr_objective_val_count(o), HELD);
        for (int64_t i = 0; i < 2 * (TEXTS - HELD) + HELD; i++) {
            int32_t ids[SEQ] = {0}, mask[SEQ] = {0}, label = -1;
            bool held = i >= 2 * (TEXTS - HELD);
            tr_field fields[] = {{.name = "ids", .ints = ids, .elems = SEQ}, {.name = "mask", .ints = mask, .elems = SEQ},
                                 {.name = "labels", .ints = &label, .elems = 1}};
            CHECK_OK(o->row->sample(o->own, held, held ? i - 2 * (TEXTS - HELD) : i, fields, 3));
            CHECK_INT(ids[label % 3 ? 4 : 2], SEP);
            CHECK_INT(mask[label % 3 ? 4 : 2], 1);
            CHECK_INT(mask[label % 3 ? 5 : 3], 0);
            seen[label][held]++;
        }
        tr_objective_free(o);
    }
    for (int i = 0; i < TEXTS; i++)
        CHECK((seen[i][0] == 4 && seen[i][1] == 0) || (seen[i][0] == 0 && seen[i][1] == 2));
    tr_text_free(&lines);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/trireme-labelled-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    TEST(make_tokenizer);
    TEST(test_tokens);
    TEST(test_labels);
    TEST(test_samples);
    tr_tokenizer_free(tokenizer);
    free(path);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
