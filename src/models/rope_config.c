/* Rotary positions in a config.json; see rope_config.h. */
#include "models/rope_config.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "models/huggingface.h"

static const char *const kinds[] = {[TR_ROPE_PLAIN] = "default", [TR_ROPE_LINEAR] = "linear", [TR_ROPE_DYNAMIC] = "dynamic",
                                    [TR_ROPE_LLAMA3] = "llama3", [TR_ROPE_YARN] = "yarn"};

static tr_error *read_kind(const json_t *rope, const char *where, tr_sizes *s)
{
    const char *kind = "default";
    TR_TRY(tr_json_string(rope, where, "type", TR_OPTIONAL, &kind));
    TR_TRY(tr_json_string(rope, where, "rope_type", TR_OPTIONAL, &kind));
    for (int k = 0; k < TR_COUNT(kinds); k++)
        if (strcmp(kind, kinds[k]) == 0) {
            s->rope_kind = (tr_rope_kind)k;
            return NULL;
        }
    return tr_error_new(TR_USER, "%s: the rotary positions are of the type \"%s\"; these are supported: default, linear, "
                                 "dynamic, llama3, yarn", where, kind);
}

/* Yarn's factor from the two of DeepSeek's form, where they are given. */
static tr_error *read_attention(const json_t *rope, const char *where, tr_sizes *s)
{
    double scale = 0, all = 0;
    TR_TRY(tr_json_real(rope, where, "mscale", TR_OPTIONAL, &scale));
    TR_TRY(tr_json_real(rope, where, "mscale_all_dim", TR_OPTIONAL, &all));
    if (scale > 0 && all > 0 && s->rope_factor > 1)
        s->rope_attention = (0.1 * scale * log(s->rope_factor) + 1) / (0.1 * all * log(s->rope_factor) + 1);
    return tr_json_real(rope, where, "attention_factor", TR_OPTIONAL, &s->rope_attention);
}

tr_error *tr_rope_config_read(const json_t *c, const char *where, tr_sizes *s)
{
    const json_t *rope = NULL;
    TR_TRY(tr_json_real(c, where, "rope_theta", TR_OPTIONAL, &s->rope_theta));
    TR_TRY(tr_json_object(c, where, "rope_scaling", TR_OPTIONAL, &rope));
    TR_TRY(tr_json_object(c, where, "rope_parameters", TR_OPTIONAL, &rope));
    if (!rope)
        return NULL;
    double partial = 1;
    TR_TRY(read_kind(rope, where, s));
    bool yarn = s->rope_kind == TR_ROPE_YARN;
    TR_TRY(tr_json_real(rope, where, "rope_theta", TR_OPTIONAL, &s->rope_theta));
    TR_TRY(tr_json_real(rope, where, "factor", s->rope_kind == TR_ROPE_PLAIN ? TR_OPTIONAL : TR_REQUIRED, &s->rope_factor));
    TR_TRY(tr_json_real(rope, where, "partial_rotary_factor", TR_OPTIONAL, &partial));
    if (partial != 1)
        return tr_error_new(TR_USER, "%s: partial_rotary_factor is %g; only 1 is supported", where, partial);
    TR_TRY(tr_hf_only_bool(rope, where, "truncate", true));
    TR_TRY(tr_hf_size(rope, where, "original_max_position_embeddings", TR_OPTIONAL, &s->rope_context));
    TR_TRY(tr_json_real(rope, where, yarn ? "beta_slow" : "low_freq_factor", TR_OPTIONAL, &s->rope_low));
    TR_TRY(tr_json_real(rope, where, yarn ? "beta_fast" : "high_freq_factor", TR_OPTIONAL, &s->rope_high));
    if (s->rope_kind != TR_ROPE_DYNAMIC)
        return read_attention(rope, where, s);
    s->rope_context = s->context; /* which is what was trained; the model runs beyond */
    s->context = (int64_t)((double)s->context * fmax(s->rope_factor, 1));
    return NULL;
}

static json_t *scaling(const tr_sizes *s)
{
    bool yarn = s->rope_kind == TR_ROPE_YARN;
    json_t *rope = json_pack("{s:s, s:f}", "rope_type", kinds[s->rope_kind], "factor", s->rope_factor);
    if (s->rope_kind >= TR_ROPE_LLAMA3)
        json_object_update_new(rope, json_pack("{s:I, s:f, s:f}", "original_max_position_embeddings",
                                               (json_int_t)s->rope_context, yarn ? "beta_slow" : "low_freq_factor",
                                               s->rope_low, yarn ? "beta_fast" : "high_freq_factor", s->rope_high));
    if (yarn)
        json_object_set_new(rope, "attention_factor", json_real(s->rope_attention));
    return rope;
}

void tr_rope_config_write(json_t *c, const tr_sizes *s)
{
    if (s->rope_kind != TR_ROPE_PLAIN)
        json_object_set_new(c, "rope_scaling", scaling(s));
}
