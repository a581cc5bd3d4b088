/* GGUF to Hugging Face; see gguf_model.h. Names as in llama.cpp's gguf-py/gguf/tensor_mapping.py.
 *
 * llama.cpp turns neighbouring elements of a head by one angle, Hugging Face's LLaMA element i and i + half. So the
 * converter stores row 2 i + s of each head of the query's and key's weights where Hugging Face has row s half + i. They
 * are put back when they are read.
 */
#include "data/gguf_model.h"

#include <stdio.h>

#include "base/memory.h"

/* How the rows of a tensor are read. */
typedef struct turned {
    tr_stored base;
    int64_t head_dim;
} turned;

struct tr_gguf_model {
    tr_gguf *file;
    turned *turned; /* [tensors] */
    tr_safetensors *tensors;
};

static tr_error *need_int(const tr_gguf *f, const char *where, const char *key, int64_t *out)
{
    if (!tr_gguf_int(f, key, out))
        return tr_error_new(TR_USER, "%s: the key %s is missing", where, key);
    return NULL;
}

static tr_error *check_architecture(const tr_gguf *f, const char *where)
{
    tr_gguf_text name = {"", 0};
    tr_gguf_string(f, "general.architecture", &name);
    if (name.length != 5 || memcmp(name.bytes, "llama", 5) != 0)
        return tr_error_new(TR_USER, "%s: general.architecture is '%.*s'; the one that can be read is llama", where,
                            (int)TR_MIN(name.length, 40), name.bytes);
    return NULL;
}

static tr_error *add_scaling(const tr_gguf *f, const char *where, json_t *config)
{
    tr_gguf_text kind = {"none", 4};
    double factor = 1;
    int64_t original = 0;
    if (!tr_gguf_string(f, "llama.rope.scaling.type", &kind) || (kind.length == 4 && memcmp(kind.bytes, "none", 4) == 0))
        return NULL;
    bool known = (kind.length == 6 && memcmp(kind.bytes, "linear", 6) == 0) ||
                 (kind.length == 4 && memcmp(kind.bytes, "yarn", 4) == 0);
    if (!known || !tr_gguf_real(f, "llama.rope.scaling.factor", &factor))
        return tr_error_new(TR_USER, "%s: llama.rope.scaling is '%.*s'; linear and yarn with a factor can be read", where,
                            (int)TR_MIN(kind.length, 40), kind.bytes);
    json_t *scaling = json_pack("{s:s%, s:f}", "rope_type", kind.bytes, (size_t)kind.length, "factor", factor);
    if (tr_gguf_int(f, "llama.rope.scaling.original_context_length", &original))
        json_object_set_new(scaling, "original_max_position_embeddings", json_integer(original));
    json_object_set_new(config, "rope_scaling", scaling);
    return NULL;
}

static bool has_tensor(const tr_gguf *f, const char *name)
{
    tr_stored *list = NULL;
    int64_t count = 0;
    bool found = false;
    tr_error_free(tr_gguf_tensors(f, &list, &count));
    for (int64_t i = 0; i < count && list; i++)
        found |= strcmp(list[i].name, name) == 0;
    free(list);
    return found;
}

tr_error *tr_gguf_config(const tr_gguf *f, const char *where, json_t **out)
{
    tr_error *error = NULL;
    json_t *c = json_object();
    tr_gguf_array tokens = {0};
    int64_t layers, embed, heads, mlp, context, vocab = 0, kv_heads, head_dim = 0, bos = -1, eos = -1;
    double eps = 1e-5, theta = 10000;
    TR_GO(check_architecture(f, where));
    TR_GO(need_int(f, where, "llama.block_count", &layers));
    TR_GO(need_int(f, where, "llama.embedding_length", &embed));
    TR_GO(need_int(f, where, "llama.attention.head_count", &heads));
    TR_GO(need_int(f, where, "llama.feed_forward_length", &mlp));
    TR_GO(need_int(f, where, "llama.context_length", &context));
    kv_heads = heads;
    tr_gguf_int(f, "llama.attention.head_count_kv", &kv_heads);
    tr_gguf_int(f, "llama.attention.key_length", &head_dim);
    tr_gguf_real(f, "llama.attention.layer_norm_rms_epsilon", &eps);
    tr_gguf_real(f, "llama.rope.freq_base", &theta);
    tr_gguf_int(f, "tokenizer.ggml.bos_token_id", &bos);
    tr_gguf_int(f, "tokenizer.ggml.eos_token_id", &eos);
    if (!tr_gguf_int(f, "llama.vocab_size", &vocab) && tr_gguf_array_find(f, "tokenizer.ggml.tokens", &tokens))
        vocab = tokens.count;
    if (has_tensor(f, "rope_freqs.weight"))
        TR_GO(tr_error_new(TR_USER, "%s: its rotary positions are stretched by a table (rope_freqs.weight), which cannot be "
                                    "read; use the model's Hugging Face directory", where));
    json_object_update_new(c, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:I, s:I}", "model_type",
                                        "llama", "num_hidden_layers", (json_int_t)layers, "hidden_size", (json_int_t)embed,
                                        "num_attention_heads", (json_int_t)heads, "num_key_value_heads",
                                        (json_int_t)kv_heads, "intermediate_size", (json_int_t)mlp,
                                        "max_position_embeddings", (json_int_t)context, "vocab_size", (json_int_t)vocab,
                                        "rms_norm_eps", eps, "rope_theta", theta, "tie_word_embeddings",
                                        !has_tensor(f, "output.weight"), "bos_token_id", (json_int_t)bos, "eos_token_id",
                                        (json_int_t)eos));
    if (head_dim > 0)
        json_object_set_new(c, "head_dim", json_integer(head_dim));
    TR_GO(add_scaling(f, where, c));
    *out = c;
    c = NULL;
done:
    json_decref(c);
    return error;
}

/* Tensors ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *theirs, *ours;
    bool turned;
} names[] = {
    {"token_embd.weight", "model.embed_tokens.weight", false},
    {"output_norm.weight", "model.norm.weight", false},
    {"output.weight", "lm_head.weight", false},
    {"attn_norm.weight", "input_layernorm.weight", false},
    {"attn_q.weight", "self_attn.q_proj.weight", true},
    {"attn_k.weight", "self_attn.k_proj.weight", true},
    {"attn_v.weight", "self_attn.v_proj.weight", false},
    {"attn_output.weight", "self_attn.o_proj.weight", false},
    {"ffn_norm.weight", "post_attention_layernorm.weight", false},
    {"ffn_gate.weight", "mlp.gate_proj.weight", false},
    {"ffn_up.weight", "mlp.up_proj.weight", false},
    {"ffn_down.weight", "mlp.down_proj.weight", false},
};

static void read_turned(const tr_stored *t, int64_t first, int64_t count, float *out)
{
    const turned *how = t->how;
    int64_t width = t->dims[t->rank - 1], half = how->head_dim / 2;
    for (int64_t i = first; i < first + count;) {
        int64_t row = i / width, column = i % width, n = TR_MIN(width - column, first + count - i);
        int64_t head = row / how->head_dim, within = row % how->head_dim;
        int64_t from = head * how->head_dim + within % half * 2 + within / half;
        tr_error *error = tr_stored_read(&how->base, from * width + column, n, TR_F32, out + (i - first));
        TR_CHECK(!error, "%s", tr_error_text(error));
        i += n;
    }
}

static tr_error *rename_tensor(tr_stored *t, const char *where, int64_t head_dim, turned *how, char *room, size_t size)
{
    int layer = -1, used = 0;
    const char *name = t->name;
    if (sscanf(name, "blk.%d.%n", &layer, &used) == 1 && used)
        name += used;
    for (int k = 0; k < TR_COUNT(names); k++) {
        if (strcmp(name, names[k].theirs) != 0)
            continue;
        if (used)
            snprintf(room, size, "model.layers.%d.%s", layer, names[k].ours);
        else
            snprintf(room, size, "%s", names[k].ours);
        t->name = room;
        if (!names[k].turned)
            return NULL;
        if (t->rank != 2 || head_dim < 2 || head_dim % 2 || t->dims[0] % head_dim)
            return tr_error_new(TR_USER, "%s: %s has rows that are no heads of %lld", where, name, (long long)head_dim);
        *how = (turned){*t, head_dim};
        t->dtype = TR_F32;
        t->how = how;
        t->decode = read_turned;
        return NULL;
    }
    return tr_error_new(TR_USER, "%s: the family llama has no tensor like %.100s", where, t->name);
}

tr_error *tr_gguf_model_open(const char *path, tr_gguf_model **out)
{
    enum { NAME = 160 };
    tr_error *error = NULL;
    tr_stored *list = NULL;
    char *room = NULL;
    int64_t count = 0, embed = 0, heads = 1, head_dim;
    tr_gguf_model *m = tr_alloc_zero(1, sizeof *m);
    *out = NULL;
    TR_GO(tr_gguf_open(path, &m->file));
    TR_GO(check_architecture(m->file, path));
    TR_GO(tr_gguf_tensors(m->file, &list, &count));
    tr_gguf_int(m->file, "llama.embedding_length", &embed);
    tr_gguf_int(m->file, "llama.attention.head_count", &heads);
    head_dim = heads > 0 ? embed / heads : 0;
    tr_gguf_int(m->file, "llama.attention.key_length", &head_dim);
    m->turned = tr_alloc_zero((size_t)count + 1, sizeof *m->turned);
    room = tr_alloc_zero((size_t)count + 1, NAME);
    for (int64_t i = 0; i < count; i++)
        TR_GO(rename_tensor(&list[i], path, head_dim, &m->turned[i], room + i * NAME, NAME));
    error = tr_safetensors_of_take(list, count, path, &m->tensors);
    list = NULL;
done:
    free(room);
    free(list);
    if (error) {
        tr_gguf_model_close(m);
        return error;
    }
    *out = m;
    return NULL;
}

void tr_gguf_model_close(tr_gguf_model *m)
{
    if (!m)
        return;
    tr_safetensors_close(m->tensors);
    tr_gguf_close(m->file);
    free(m->turned);
    free(m);
}

const tr_safetensors *tr_gguf_model_tensors(const tr_gguf_model *m)
{
    return m->tensors;
}
