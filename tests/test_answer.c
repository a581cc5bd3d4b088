/* Answers of encoder-decoders against Hugging Face's generate (answers.json in tests/golden/t5 and t5_v1_1, written
 * by tools/golden_models.py): greedy and beam search, token for token. */
#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "check.h"
#include <math.h>

#include "data/checkpoint.h"
#include "data/pretrained.h"
#include "data/weights.h"
#include "serve/answer.h"

static void test_answers_as_hugging_face(void)
{
    static const char *const cases[] = {"tests/golden/t5", "tests/golden/t5_v1_1"};
    for (int c = 0; c < 2; c++) {
        char *path = tr_path_join(cases[c], "answers.json");
        json_t *rows = NULL;
        const json_t *row, *id;
        size_t i, j;
        int beams = 0, stopped = 0;
        tr_answerer *a = NULL;
        tr_target target = {.isa = tr_cpu_isa_best(), .threads = 2};
        CHECK_OK(tr_json_load(path, &rows));
        CHECK_OK(tr_answerer_open(cases[c], &target, TR_F32, &a));
        json_array_foreach(rows, i, row)
        {
            tr_ids source = {0};
            json_array_foreach(json_object_get(row, "source"), j, id)
                tr_push(source.items, source.count, source.room) = (int32_t)json_integer_value(id);
            tr_answering how = {.beams = json_integer_value(json_object_get(row, "beams")),
                                .max_tokens = json_integer_value(json_object_get(row, "max_tokens")),
                                .length_penalty = json_real_value(json_object_get(row, "length_penalty"))};
            const json_t *want = json_object_get(row, "tokens");
            tr_answer got;
            CHECK_OK(
                tr_answerer_ids(a, &source, 0, (int32_t)json_integer_value(json_object_get(row, "end")), &how, &got));
            bool same = got.tokens.count == (int64_t)json_array_size(want);
            for (int64_t k = 0; same && k < got.tokens.count; k++)
                same = got.tokens.items[k] == json_integer_value(json_array_get(want, (size_t)k));
            if (!same)
                FAIL("%s, row %zu: %lld tokens, the first %d; expected %zu", cases[c], i, (long long)got.tokens.count,
                     got.tokens.count ? got.tokens.items[0] : -1, json_array_size(want));
            beams += how.beams > 1;
            stopped += strcmp(got.finish, "stop") == 0;
            tr_ids_free(&source);
            tr_ids_free(&got.tokens);
        }
        CHECK(beams >= 10 && stopped >= 5 && stopped < (int)json_array_size(rows));
        tr_answerer_free(a);
        json_decref(rows);
        free(path);
    }
}

enum { SOURCE = 9, TOKENS = 12, START = 0, NO_END = -1 };

/* Both towers at once over all tokens: no cache. */
static tr_program *open_whole(const char *directory, const tr_target *target)
{
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_sizes sizes;
    tr_program *p = NULL;
    CHECK_OK(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    CHECK_OK(tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &sizes));
    sizes.dropout = 0;
    tr_compile how = {.target = *target, .compute = TR_F32, .batch = 1, .seq = SOURCE, .decoder_seq = TOKENS};
    CHECK_OK(tr_compile_logits(family->model, &sizes, NULL, &how, &p));
    CHECK_OK(tr_program_allocate(p));
    CHECK_OK(tr_weights_load(p, family, tr_checkpoint_model(checkpoint)));
    tr_checkpoint_close(checkpoint);
    return p;
}

static void fill(tr_program *p, const char *name, const int32_t *from, int64_t count)
{
    tr_value v = tr_graph_find(p->graph, name);
    for (int64_t i = 0; i < count && v; i++)
        ((int32_t *)tr_program_data(p, v))[i] = from ? from[i] : (int32_t)i;
}

/* Logits [TOKENS, vocab] of an answer. */
static const float *run_whole(tr_program *p, const int32_t *source, const int32_t *answer, int64_t count)
{
    int32_t ones[SOURCE], decoder[TOKENS] = {START};
    for (int i = 0; i < SOURCE; i++)
        ones[i] = 1;
    for (int64_t i = 0; i + 1 < TOKENS && i < count; i++)
        decoder[i + 1] = answer[i];
    fill(p, "ids", source, SOURCE);
    fill(p, "mask", ones, SOURCE);
    fill(p, "positions", NULL, SOURCE);
    fill(p, "decoder_ids", decoder, TOKENS);
    fill(p, "decoder_positions", NULL, TOKENS);
    tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
    return tr_program_find(p, "logits");
}

/* Greedy: the same tokens as without a cache. Beams: what an answer is said to be worth is what it is worth without. */
static void test_as_without_a_cache(void)
{
    static const char *const cases[] = {"tests/golden/t5", "tests/golden/t5_v1_1", "tests/golden/transformer"};
    for (int c = 0; c < 3; c++) {
        tr_target target = {.isa = tr_cpu_isa_best(), .threads = 2};
        tr_program *whole = open_whole(cases[c], &target);
        tr_answerer *a = NULL;
        tr_answer got;
        int32_t source[SOURCE], want[TOKENS];
        for (int i = 0; i < SOURCE; i++)
            source[i] = 3 + i * 7 % 20;
        tr_value logits_out = tr_graph_find(whole->graph, "logits");
        int64_t vocab = tr_size(whole->graph, logits_out, -1);
        for (int t = 0; t < TOKENS; t++) {
            const float *row = run_whole(whole, source, want, t) + t * vocab;
            want[t] = 0;
            for (int32_t v = 1; v < vocab; v++)
                want[t] = row[v] > row[want[t]] ? v : want[t];
        }
        CHECK_OK(tr_answerer_open(cases[c], &target, TR_F32, &a));
        tr_ids ids = {source, SOURCE, SOURCE};
        tr_answering how = {.beams = 1, .max_tokens = TOKENS, .length_penalty = 1};
        CHECK_OK(tr_answerer_ids(a, &ids, START, NO_END, &how, &got));
        CHECK_INT(got.tokens.count, TOKENS);
        for (int t = 0; t < TOKENS; t++)
            if (got.tokens.items[t] != want[t])
                FAIL("%s: token %d is %d, and %d without a cache", cases[c], t, got.tokens.items[t], want[t]);
        tr_ids_free(&got.tokens);

        how.beams = 4;
        CHECK_OK(tr_answerer_ids(a, &ids, START, NO_END, &how, &got));
        CHECK_INT(got.tokens.count, TOKENS);
        const float *rows = run_whole(whole, source, got.tokens.items, TOKENS);
        double worth = 0;
        for (int t = 0; t < TOKENS; t++) {
            double sum = 0;
            for (int64_t v = 0; v < vocab; v++)
                sum += exp((double)rows[t * vocab + v] - (double)rows[t * vocab + got.tokens.items[t]]);
            worth -= log(sum);
        }
        CHECK_NEAR(got.score, worth / TOKENS, 1e-4);
        tr_ids_free(&got.tokens);
        tr_answerer_free(a);
        tr_program_free(whole);
    }
}

static void test_what_is_refused(void)
{
    tr_answerer *a = NULL;
    tr_target target = {.isa = tr_cpu_isa_best(), .threads = 1};
    CHECK_ERROR(tr_answerer_open("tests/golden/llama", &target, TR_F32, &a), "has no second tower");
    CHECK_OK(tr_answerer_open("tests/golden/t5", &target, TR_F32, &a));
    tr_answer got;
    int32_t source[] = {3, 61};
    tr_answering how = {.beams = 100, .max_tokens = 5};
    CHECK_ERROR(tr_answerer_ids(a, &(tr_ids){source, 1, 1}, 0, 1, &how, &got), "from 1 to 64 beams");
    how.beams = 1;
    CHECK_ERROR(tr_answerer_ids(a, &(tr_ids){source, 2, 2}, 0, 1, &how, &got),
                "token 61 is not in the model's vocabulary");
    tr_answerer_free(a);
}

int main(void)
{
    TEST(test_answers_as_hugging_face);
    TEST(test_as_without_a_cache);
    TEST(test_what_is_refused);
    return check_report();
}
