/* Hugging Face's config.json; see huggingface.h. */
#include "models/huggingface.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

/* The same limit as in a config: it keeps arithmetic on sizes inside of 64 bits. */
static const int64_t MOST = INT64_C(1) << 26;

tr_error *tr_hf_size(const json_t *c, const char *where, const char *key, tr_need need, int64_t *size)
{
    return tr_json_int(c, where, key, need, 0, MOST, size);
}

tr_error *tr_hf_only(const json_t *c, const char *where, const char *key, const char *value)
{
    const char *found = value;
    TR_TRY(tr_json_string(c, where, key, TR_OPTIONAL, &found));
    if (strcmp(found, value) != 0)
        return tr_error_new(TR_USER, "%s: %s is \"%s\"; only \"%s\" is supported", where, key, found, value);
    return NULL;
}

tr_error *tr_hf_only_bool(const json_t *c, const char *where, const char *key, bool value)
{
    bool found = value;
    TR_TRY(tr_json_bool(c, where, key, TR_OPTIONAL, &found));
    if (found != value)
        return tr_error_new(TR_USER, "%s: %s is %s; only %s is supported", where, key, found ? "true" : "false",
                            value ? "true" : "false");
    return NULL;
}

tr_error *tr_hf_multiple(const char *where, const char *key, int64_t size, const char *of_key, int64_t of)
{
    if (size % of != 0)
        return tr_error_new(TR_USER, "%s: %s %lld is not a multiple of %s %lld", where, key, (long long)size, of_key,
                            (long long)of);
    return NULL;
}

void tr_hf_pack(json_t *config, json_t *keys)
{
    TR_CHECK(keys, "config.json could not be packed");
    json_object_update(config, keys);
    json_decref(keys);
}

bool tr_hf_is(const json_t *config, const char *architecture)
{
    const char *first = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    return first && strcmp(first, architecture) == 0;
}

int64_t tr_hf_labels(const json_t *config)
{
    const json_t *names = json_object_get(config, "id2label");
    return json_is_object(names) && json_object_size(names) ? (int64_t)json_object_size(names) : 2;
}

static void name_labels(json_t *config, const char *const *given, int64_t count)
{
    json_t *names = json_object(), *numbers = json_object();
    for (int64_t i = 0; i < count; i++) {
        char number[24], usual[32];
        snprintf(number, sizeof number, "%lld", (long long)i);
        snprintf(usual, sizeof usual, "LABEL_%lld", (long long)i);
        const char *name = given && given[i] ? given[i] : usual;
        json_object_set_new(names, number, json_string(name));
        json_object_set_new(numbers, name, json_integer((json_int_t)i));
    }
    json_object_set_new(config, "id2label", names);
    json_object_set_new(config, "label2id", numbers);
}

void tr_hf_labels_write(json_t *config, int64_t count)
{
    name_labels(config, NULL, count);
}

tr_error *tr_hf_label_names(const char *directory, char ***out, int64_t *out_count)
{
    json_t *config = NULL;
    char *path = tr_path_join(directory, "config.json");
    tr_error *error = tr_json_load(path, &config);
    int64_t count = error ? 0 : tr_hf_labels(config);
    *out = tr_alloc_zero((size_t)count + 1, sizeof **out);
    *out_count = count;
    for (int64_t i = 0; i < count; i++) {
        char number[24];
        snprintf(number, sizeof number, "%lld", (long long)i);
        const char *name = json_string_value(json_object_get(json_object_get(config, "id2label"), number));
        (*out)[i] = name ? tr_strdup(name) : tr_format("LABEL_%s", number);
    }
    json_decref(config);
    free(path);
    return error;
}

/* The model_type of a model that only the program which defines it can open. */
static const char CUSTOM[] = "trireme-custom";

static tr_error *find_family(const char *type, const char *path, const tr_family **out)
{
    if (strcmp(type, CUSTOM) == 0)
        return tr_error_new(TR_USER, "%s: the model is defined in a program of its own, which called tr_train; only "
                                     "that program can open it", path);
    tr_text list = {0};
    for (int f = 0; f < TR_FAMILY_COUNT; f++) {
        *out = tr_families[f];
        if (strcmp((*out)->model_type, type) == 0) {
            tr_text_free(&list);
            return NULL;
        }
        tr_text_format(&list, "%s%s", f ? ", " : "", (*out)->model_type);
    }
    tr_error *error = tr_error_new(TR_USER, "%s: model_type is \"%s\"; the families that can be read are: %s", path, type,
                                   list.bytes);
    tr_text_free(&list);
    return error;
}

/* What every family divides by. */
static tr_error *check_positive(const tr_family *f, const char *path, const tr_sizes *s)
{
    const struct {
        const char *key;
        int64_t size;
    } rows[] = {{"layers", s->layers}, {"embed", s->embed}, {"heads", s->heads}, {"mlp", s->mlp},
                {"context", s->context}, {"vocab", s->vocab}};
    for (int i = 0; i < TR_COUNT(rows); i++)
        if (tr_family_has(f, rows[i].key) && rows[i].size < 1)
            return tr_error_new(TR_USER, "%s: the model's %s must be at least 1, and is 0", path, rows[i].key);
    return NULL;
}

tr_error *tr_hf_config_parse(const json_t *config, const char *where, const tr_family **out_family, tr_sizes *out)
{
    const char *type = NULL;
    const tr_family *f = NULL;
    *out = (tr_sizes){0};
    TR_TRY(tr_json_string(config, where, "model_type", TR_REQUIRED, &type));
    TR_TRY(find_family(type, where, &f));
    TR_TRY(f->read(config, where, out));
    TR_TRY(check_positive(f, where, out));
    if (f->complete)
        f->complete(out);
    if (f->check)
        TR_TRY(tr_error_in_take(f->check(out), "%s", where));
    *out_family = f;
    return NULL;
}

tr_error *tr_hf_config_read(const char *directory, const tr_family **out_family, tr_sizes *out)
{
    json_t *config = NULL;
    char *path = tr_path_join(directory, "config.json");
    tr_error *error = tr_json_load(path, &config);
    if (!error)
        error = tr_hf_config_parse(config, path, out_family, out);
    json_decref(config);
    free(path);
    return error;
}

static void set_token(json_t *config, const char *key, int32_t token)
{
    json_object_set_new(config, key, token >= 0 ? json_integer(token) : json_null());
}

static void write_custom(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "vocab_size", (json_int_t)s->vocab, "n_positions",
                            (json_int_t)s->context, "n_embd", (json_int_t)s->embed, "n_layer", (json_int_t)s->layers,
                            "n_head", (json_int_t)s->heads, "n_inner", (json_int_t)s->mlp));
}

char *tr_hf_config_text(const tr_family *f, const tr_sizes *s, tr_dtype dtype, int32_t end_of_text,
                        const char *const *labels)
{
    json_t *c = json_object();
    if (f && f->architecture)
        tr_hf_pack(c, json_pack("{s:[s]}", "architectures", f->architecture));
    json_object_set_new(c, "model_type", json_string(f ? f->model_type : CUSTOM));
    (f ? f->write : write_custom)(c, s);
    if (labels && json_object_get(c, "id2label"))
        name_labels(c, labels, s->labels);
    json_object_set_new(c, "torch_dtype", json_string(dtype == TR_BF16 ? "bfloat16" : "float32"));
    set_token(c, "bos_token_id", end_of_text);
    set_token(c, "eos_token_id", end_of_text);
    char *text = tr_json_text(c);
    json_decref(c);
    return text;
}

char *tr_hf_generation_text(int32_t end_of_text)
{
    json_t *c = json_object();
    set_token(c, "bos_token_id", end_of_text);
    set_token(c, "eos_token_id", end_of_text);
    char *text = tr_json_text(c);
    json_decref(c);
    return text;
}

tr_error *tr_hf_dtype_read(const char *directory, tr_dtype *out)
{
    json_t *config = NULL;
    char *path = tr_path_join(directory, "config.json");
    const char *name = "float32";
    tr_error *error = tr_json_load(path, &config);
    if (!error)
        error = tr_json_string(config, path, "torch_dtype", TR_OPTIONAL, &name);
    if (!error)
        error = tr_json_string(config, path, "dtype", TR_OPTIONAL, &name);
    *out = strcmp(name, "bfloat16") == 0 ? TR_BF16 : TR_F32;
    json_decref(config);
    free(path);
    return error;
}
