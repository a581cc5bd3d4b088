/* JSON glue; see json.h. */
#include "base/json.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/suggest.h"

/* What is quoted from an outside file is cut to a readable length and stripped of control bytes. */
static char *quotable(const char *text)
{
    enum { MOST = 120 };
    char *copy = tr_strndup(text, strnlen(text, MOST));
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    return copy;
}

tr_error *tr_json_parse(const char *bytes, int64_t size, const char *where, json_t **out)
{
    *out = NULL;
    if (size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0) { /* a byte order mark */
        bytes += 3;
        size -= 3;
    }
    json_error_t problem = {0};
    json_t *json = json_loadb(bytes, (size_t)size, JSON_REJECT_DUPLICATES, &problem);
    if (json) {
        *out = json;
        return NULL;
    }
    char *text = quotable(problem.text);
    tr_error *error = size == 0
                          ? tr_error_new(TR_USER, "%s is empty, expected JSON", where)
                          : tr_error_new(TR_USER, "%s:%d:%d: not valid JSON: %s", where,
                                         TR_MAX(problem.line, 1), TR_MAX(problem.column, 1), text);
    free(text);
    return error;
}

tr_error *tr_json_load(const char *path, json_t **out)
{
    *out = NULL;
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    tr_error *error = tr_json_parse(map.bytes, map.size, path, out);
    tr_map_close(&map);
    return error;
}

char *tr_json_text(const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY);
    TR_CHECK(text, "JSON value cannot be written");
    size_t length = strlen(text);
    text = tr_realloc(text, length + 2, 1);
    memcpy(text + length, "\n", 2);
    return text;
}

tr_error *tr_json_save(const char *path, const json_t *json)
{
    char *text = tr_json_text(json);
    tr_error *error = tr_file_write(path, text, (int64_t)strlen(text));
    free(text);
    return error;
}

const char *tr_json_kind(const json_t *json)
{
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "text";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

/* The keys of an object as a list for tr_suggest; the caller frees the list, not the keys. */
static const char **keys_of(const json_t *object, int64_t *out_count)
{
    const char **keys = tr_alloc((json_object_size(object) + 1) * sizeof *keys);
    int64_t count = 0;
    json_t *json = (json_t *)(uintptr_t)object;
    for (void *i = json_object_iter(json); i; i = json_object_iter_next(json, i))
        keys[count++] = json_object_iter_key(i);
    *out_count = count;
    return keys;
}

/* *out is NULL when the member is optional and not there. */
static tr_error *member(const json_t *object, const char *where, const char *key, tr_need need,
                        const json_t **out)
{
    *out = NULL;
    if (!json_is_object(object))
        return tr_error_new(TR_USER, "%s: expected an object with '%s' in it, found %s", where, key,
                            tr_json_kind(object));
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value)) {
        *out = value;
        return NULL;
    }
    if (need == TR_OPTIONAL)
        return NULL;
    if (value)
        return tr_error_new(TR_USER, "%s: '%s' must not be null", where, key);
    int64_t count;
    const char **keys = keys_of(object, &count), *near = tr_suggest(key, keys, count);
    char *quoted = near ? quotable(near) : NULL;
    tr_error *error =
        quoted ? tr_error_new(TR_USER, "%s: '%s' is missing (there is '%s'; misspelled?)", where,
                              key, quoted)
               : tr_error_new(TR_USER, "%s: '%s' is missing", where, key);
    free(quoted);
    free(keys);
    return error;
}

static tr_error *wrong_kind(const char *where, const char *key, const char *want, const json_t *got)
{
    return tr_error_new(TR_USER, "%s: '%s' must be %s, found %s", where, key, want,
                        tr_json_kind(got));
}

tr_error *tr_json_int(const json_t *object, const char *where, const char *key, tr_need need,
                      int64_t least, int64_t most, int64_t *out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_integer(value))
        return wrong_kind(where, key, "a whole number", value);
    int64_t number = json_integer_value(value);
    if (number < least || number > most)
        return most == INT64_MAX
                   ? tr_error_new(TR_USER, "%s: '%s' is %lld, must be at least %lld", where, key,
                                  (long long)number, (long long)least)
                   : tr_error_new(TR_USER, "%s: '%s' is %lld, must be from %lld to %lld", where,
                                  key, (long long)number, (long long)least, (long long)most);
    *out = number;
    return NULL;
}

tr_error *tr_json_real(const json_t *object, const char *where, const char *key, tr_need need,
                       double *out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_number(value))
        return wrong_kind(where, key, "a number", value);
    *out = json_number_value(value);
    return NULL;
}

tr_error *tr_json_bool(const json_t *object, const char *where, const char *key, tr_need need,
                       bool *out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_boolean(value))
        return wrong_kind(where, key, "true or false", value);
    *out = json_is_true(value);
    return NULL;
}

tr_error *tr_json_string(const json_t *object, const char *where, const char *key, tr_need need,
                         const char **out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_string(value))
        return wrong_kind(where, key, "text", value);
    *out = json_string_value(value);
    return NULL;
}

tr_error *tr_json_array(const json_t *object, const char *where, const char *key, tr_need need,
                        const json_t **out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_array(value))
        return wrong_kind(where, key, "a list", value);
    *out = value;
    return NULL;
}

tr_error *tr_json_object(const json_t *object, const char *where, const char *key, tr_need need,
                         const json_t **out)
{
    const json_t *value;
    TR_TRY(member(object, where, key, need, &value));
    if (!value)
        return NULL;
    if (!json_is_object(value))
        return wrong_kind(where, key, "an object", value);
    *out = value;
    return NULL;
}

tr_error *tr_json_only_keys(const json_t *object, const char *where, const char *const *keys,
                            int64_t count)
{
    if (!json_is_object(object))
        return tr_error_new(TR_USER, "%s: expected an object, found %s", where,
                            tr_json_kind(object));
    int64_t have_count;
    const char **have = keys_of(object, &have_count);
    tr_error *error = NULL;
    for (int64_t i = 0; i < have_count && !error; i++) {
        bool known = false;
        for (int64_t k = 0; k < count && !known; k++)
            known = strcmp(have[i], keys[k]) == 0;
        if (known)
            continue;
        const char *near = tr_suggest(have[i], keys, count);
        char *quoted = quotable(have[i]);
        if (near) {
            error = tr_error_new(TR_USER, "%s: unknown key '%s', did you mean '%s'?", where, quoted,
                                 near);
        } else {
            tr_text list = {0};
            for (int64_t k = 0; k < count; k++)
                tr_text_format(&list, "%s%s", k ? ", " : "", keys[k]);
            error = tr_error_new(TR_USER, "%s: unknown key '%s', the keys are: %s", where, quoted,
                                 list.bytes ? list.bytes : "none");
            tr_text_free(&list);
        }
        free(quoted);
    }
    free(have);
    return error;
}
