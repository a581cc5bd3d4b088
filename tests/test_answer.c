/* Answers of encoder-decoders against Hugging Face's generate (answers.json in tests/golden/t5 and t5_v1_1, written
 * by tools/golden_models.py): greedy and beam search, token for token. */
#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "check.h"
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
    TEST(test_what_is_refused);
    return check_report();
}
