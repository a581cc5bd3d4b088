/* The JSON glue: values come out, and every wrong one has its sentence. */
#include "check.h"

#include "base/json.h"
#include "base/memory.h"

static tr_error *parse(const char *text, json_t **out)
{
    return tr_json_parse(text, (int64_t)strlen(text), "c.json", out);
}

static void test_syntax(void)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "c.json is empty"},
        {"{\n  \"a\": 1,\n  \"b\" 2\n}", "c.json:3:"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"a\":\"\xff\"}", "not valid JSON"},
        {"{\"a\":1} x", "not valid JSON"},
        {"{\"a\":123456789012345678901234567890}", "c.json:1:"},
        {"{\"a\":NaN}", "not valid JSON"},
    };
    json_t *json;
    for (int64_t i = 0; i < TR_COUNT(bad); i++)
        CHECK_ERROR(parse(bad[i].text, &json), bad[i].says);
    CHECK_ERROR(tr_json_load("/nonexistent.json", &json), "cannot open /nonexistent.json");
    CHECK_OK(parse("\xEF\xBB\xBF{\"a\":1}", &json)); /* a byte order mark is passed over */
    json_decref(json);
    char *deep = tr_alloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = '\0';
    CHECK_ERROR(parse(deep, &json), "depth");
    free(deep);
}

static void test_getters(void)
{
    json_t *json;
    CHECK_OK(parse("{\"n_layer\":12,\"eps\":1e-5,\"whole\":2,\"tied\":true,\"name\":\"gpt\","
                   "\"list\":[1],\"inner\":{\"x\":1},\"none\":null}",
                   &json));
    int64_t n = 0;
    double x = 0;
    bool b = false;
    const char *s = "kept";
    const json_t *j = NULL;
    CHECK_OK(tr_json_int(json, "c", "n_layer", TR_REQUIRED, 1, 100, &n));
    CHECK_INT(n, 12);
    CHECK_OK(tr_json_real(json, "c", "eps", TR_REQUIRED, &x));
    CHECK_NEAR(x, 1e-5, 0);
    CHECK_OK(tr_json_real(json, "c", "whole", TR_REQUIRED, &x));
    CHECK_NEAR(x, 2, 0);
    CHECK_OK(tr_json_bool(json, "c", "tied", TR_REQUIRED, &b));
    CHECK(b);
    CHECK_OK(tr_json_string(json, "c", "none", TR_OPTIONAL, &s));
    CHECK_OK(tr_json_string(json, "c", "missing", TR_OPTIONAL, &s));
    CHECK_STRING(s, "kept");
    CHECK_OK(tr_json_string(json, "c", "name", TR_REQUIRED, &s));
    CHECK_STRING(s, "gpt");
    CHECK_OK(tr_json_array(json, "c", "list", TR_REQUIRED, &j));
    CHECK_INT(json_array_size(j), 1);
    CHECK_OK(tr_json_object(json, "c", "inner", TR_REQUIRED, &j));
    CHECK_INT(json_object_size(j), 1);
    CHECK_ERROR(tr_json_int(json, "c", "n_layers", TR_REQUIRED, 1, 9, &n),
                "(there is 'n_layer'; mis");
    CHECK_ERROR(tr_json_int(json, "c", "zzzz", TR_REQUIRED, 1, 9, &n), "c: 'zzzz' is missing");
    CHECK_ERROR(tr_json_int(json, "c", "none", TR_REQUIRED, 1, 9, &n), "must not be null");
    CHECK_ERROR(tr_json_int(json, "c", "n_layer", TR_REQUIRED, 1, 9, &n),
                "is 12, must be from 1 to 9");
    CHECK_ERROR(tr_json_int(json, "c", "n_layer", TR_REQUIRED, 20, INT64_MAX, &n), "at least 20");
    CHECK_ERROR(tr_json_int(json, "c", "eps", TR_OPTIONAL, 1, 9, &n),
                "must be a whole number, found a");
    CHECK_ERROR(tr_json_real(json, "c", "name", TR_OPTIONAL, &x), "must be a number, found text");
    CHECK_ERROR(tr_json_bool(json, "c", "list", TR_OPTIONAL, &b),
                "must be true or false, found a list");
    CHECK_ERROR(tr_json_string(json, "c", "tied", TR_OPTIONAL, &s),
                "must be text, found true or false");
    CHECK_ERROR(tr_json_array(json, "c", "inner", TR_OPTIONAL, &j),
                "must be a list, found an object");
    CHECK_ERROR(tr_json_object(json, "c", "list", TR_OPTIONAL, &j),
                "must be an object, found a list");
    CHECK_ERROR(tr_json_int(json_object_get(json, "list"), "c", "a", TR_REQUIRED, 1, 9, &n),
                "object");
    static const char *const all[] = {"n_layer", "eps",  "whole", "tied",
                                      "name",    "list", "inner", "none"};
    CHECK_OK(tr_json_only_keys(json, "c", all, 8));
    json_object_set_new(json, "n_leyer", json_true());
    CHECK_ERROR(tr_json_only_keys(json, "c", all, 8),
                "unknown key 'n_leyer', did you mean 'n_layer'?");
    json_object_del(json, "n_leyer");
    json_object_set_new(json, "banana", json_true());
    CHECK_ERROR(tr_json_only_keys(json, "c", all, 8),
                "unknown key 'banana', the keys are: n_layer, eps");
    json_decref(json);
}

int main(void)
{
    TEST(test_syntax);
    TEST(test_getters);
    return check_report();
}
