/* Hugging Face's config.json; see huggingface.h. Keys are those of its GPT2Config. */
#include "models/huggingface.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* The same limit as in a config: it keeps arithmetic on sizes inside of 64 bits. */
static const int64_t MOST = INT64_C(1) << 24;

static tr_error *only(const json_t *config, const char *where, const char *key, const char *value)
{
    const char *found = value;
    TR_TRY(tr_json_string(config, where, key, TR_OPTIONAL, &found));
    if (strcmp(found, value) != 0)
        return tr_error_new(TR_USER, "%s: %s is \"%s\"; only \"%s\" is supported", where, key, found, value);
    return NULL;
}

static tr_error *only_bool(const json_t *config, const char *where, const char *key, bool value)
{
    bool found = value;
    TR_TRY(tr_json_bool(config, where, key, TR_OPTIONAL, &found));
    if (found != value)
        return tr_error_new(TR_USER, "%s: %s is %s; only %s is supported", where, key, found ? "true" : "false",
                            value ? "true" : "false");
    return NULL;
}

static tr_error *read_gpt2(const json_t *c, const char *where, tr_sizes *s)
{
    double eps = 1e-5;
    TR_TRY(tr_json_int(c, where, "n_layer", TR_REQUIRED, 1, 100000, &s->layers));
    TR_TRY(tr_json_int(c, where, "n_embd", TR_REQUIRED, 1, MOST, &s->embed));
    TR_TRY(tr_json_int(c, where, "n_head", TR_REQUIRED, 1, MOST, &s->heads));
    TR_TRY(tr_json_int(c, where, "n_positions", TR_REQUIRED, 1, MOST, &s->context));
    TR_TRY(tr_json_int(c, where, "vocab_size", TR_REQUIRED, 1, MOST, &s->vocab));
    s->mlp = 4 * s->embed;
    TR_TRY(tr_json_int(c, where, "n_inner", TR_OPTIONAL, 1, 4 * MOST, &s->mlp));
    TR_TRY(tr_json_real(c, where, "resid_pdrop", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_int(c, where, "trireme_band", TR_OPTIONAL, 0, MOST, &s->band));
    TR_TRY(tr_json_real(c, where, "layer_norm_epsilon", TR_OPTIONAL, &eps));
    if (eps < 0.99e-5 || eps > 1.01e-5)
        return tr_error_new(TR_USER, "%s: layer_norm_epsilon is %g; only 1e-5 is supported", where, eps);
    TR_TRY(only(c, where, "activation_function", "gelu_new"));
    TR_TRY(only_bool(c, where, "scale_attn_weights", true));
    TR_TRY(only_bool(c, where, "scale_attn_by_inverse_layer_idx", false));
    TR_TRY(only_bool(c, where, "add_cross_attention", false));
    TR_TRY(only_bool(c, where, "tie_word_embeddings", true));
    if (s->embed % s->heads != 0)
        return tr_error_new(TR_USER, "%s: n_embd %lld is not a multiple of n_head %lld", where,
                            (long long)s->embed, (long long)s->heads);
    return NULL;
}

/* The model_type of a model that only the program which defines it can open. */
static const char CUSTOM[] = "trireme-custom";

tr_error *tr_hf_config_read(const char *directory, tr_sizes *out)
{
    tr_error *error = NULL;
    json_t *config = NULL;
    char *path = tr_path_join(directory, "config.json");
    const char *type = NULL;
    *out = (tr_sizes){0};
    TR_GO(tr_json_load(path, &config));
    TR_GO(tr_json_string(config, path, "model_type", TR_REQUIRED, &type));
    if (strcmp(type, CUSTOM) == 0)
        TR_GO(tr_error_new(TR_USER, "%s: the model is defined in a program of its own, which called tr_train; only "
                                    "that program can open it", path));
    if (strcmp(type, "gpt2") != 0)
        TR_GO(tr_error_new(TR_USER, "%s: model_type is \"%s\"; the families that can be read are: gpt2", path, type));
    TR_GO(read_gpt2(config, path, out));
done:
    json_decref(config);
    free(path);
    return error;
}

static void set_token(json_t *config, const char *key, int32_t token)
{
    json_object_set_new(config, key, token >= 0 ? json_integer(token) : json_null());
}

char *tr_hf_config_text(const tr_sizes *s, tr_dtype dtype, int32_t end_of_text)
{
    json_t *c = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:f, s:b, s:s}", "architectures",
        "GPT2LMHeadModel", "model_type", "gpt2", "vocab_size", (json_int_t)s->vocab, "n_positions",
        (json_int_t)s->context, "n_embd", (json_int_t)s->embed, "n_layer", (json_int_t)s->layers, "n_head",
        (json_int_t)s->heads, "n_inner", (json_int_t)s->mlp, "activation_function", "gelu_new", "resid_pdrop",
        s->dropout, "embd_pdrop", s->dropout, "attn_pdrop", s->dropout, "layer_norm_epsilon", 1e-5,
        "initializer_range", 0.02, "tie_word_embeddings", 1, "torch_dtype",
        dtype == TR_BF16 ? "bfloat16" : "float32");
    TR_CHECK(c, "config.json could not be packed");
    set_token(c, "bos_token_id", end_of_text);
    set_token(c, "eos_token_id", end_of_text);
    if (s->band > 0)
        json_object_set_new(c, "trireme_band", json_integer((json_int_t)s->band));
    char *text = tr_json_text(c);
    json_decref(c);
    return text;
}

char *tr_hf_custom_config_text(const tr_sizes *s, tr_dtype dtype, int32_t end_of_text)
{
    json_t *c = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "model_type", CUSTOM, "vocab_size",
                          (json_int_t)s->vocab, "n_positions", (json_int_t)s->context, "n_embd", (json_int_t)s->embed,
                          "n_layer", (json_int_t)s->layers, "n_head", (json_int_t)s->heads, "n_inner",
                          (json_int_t)s->mlp, "torch_dtype", dtype == TR_BF16 ? "bfloat16" : "float32");
    TR_CHECK(c, "config.json could not be packed");
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
