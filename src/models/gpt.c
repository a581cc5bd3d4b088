/* GPT-2 and GPT-3: pre-norm Transformer decoder, learned positions, tied embeddings.
 *
 * Shapes: B batch, T seq, D embed, H heads, E = D / H, V vocab, C context. Initialisation as in the GPT-2
 * paper: normal 0.02, projections into the residual stream scaled by 1 / sqrt(2 x layers).
 */
#include <math.h>

#include "models/models.h"

static const double EPS = 1e-5;

static tr_value norm(tr_graph *g, tr_value x, const char *weight, const char *bias, int64_t embed)
{
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)embed);
    tr_value b = tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)embed);
    return tr_layer_norm(g, x, w, b, EPS);
}

tr_head tr_gpt(tr_graph *g, const tr_tokens *tokens, const tr_sizes *s, void *unused)
{
    (void)unused;
    long long D = s->embed, H = s->heads, E = D / H, M = s->mlp, V = s->vocab, C = s->context;
    tr_init init = tr_normal(0.02), residual = tr_normal(0.02 / sqrt(2.0 * (double)s->layers));

    tr_value wte = tr_param(g, init, "transformer.wte.weight", "vocab=%lld embed=%lld", V, D);
    tr_value wpe = tr_param(g, init, "transformer.wpe.weight", "context=%lld embed=%lld", C, D);
    tr_value x = tr_embedding(g, wte, tokens->ids);
    x = tr_add(g, x, tr_embedding(g, wpe, tokens->positions));
    x = tr_dropout(g, x, s->dropout); /* [B, T, D] */

    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "transformer.h.%d.", i);
        tr_value y = norm(g, x, "ln_1.weight", "ln_1.bias", D);
        tr_value w = tr_param(g, init, "attn.c_attn.weight", "embed=%lld qkv=3 heads=%lld head_dim=%lld", D, H, E);
        tr_value b = tr_param(g, tr_zeros(), "attn.c_attn.bias", "qkv=3 heads=%lld head_dim=%lld", H, E);
        y = tr_linear(g, y, w, b); /* [B, T, 3, H, E] */
        y = tr_attention(g, y, true, i % 2 ? s->band : 0, s->dropout); /* [B, T, H, E] */
        y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", (long long)tr_size(g, y, 0),
                       (long long)tr_size(g, y, 1), D);
        w = tr_param(g, residual, "attn.c_proj.weight", "heads=%lld*%lld embed=%lld", H, E, D);
        b = tr_param(g, tr_zeros(), "attn.c_proj.bias", "embed=%lld", D);
        x = tr_add(g, x, tr_dropout(g, tr_linear(g, y, w, b), s->dropout));

        y = norm(g, x, "ln_2.weight", "ln_2.bias", D);
        w = tr_param(g, init, "mlp.c_fc.weight", "embed=%lld mlp=%lld", D, M);
        b = tr_param(g, tr_zeros(), "mlp.c_fc.bias", "mlp=%lld", M);
        y = tr_gelu_tanh(g, tr_linear(g, y, w, b)); /* [B, T, M] */
        w = tr_param(g, residual, "mlp.c_proj.weight", "mlp=%lld embed=%lld", M, D);
        b = tr_param(g, tr_zeros(), "mlp.c_proj.bias", "embed=%lld", D);
        x = tr_add(g, x, tr_dropout(g, tr_linear(g, y, w, b), s->dropout));
        tr_layer_end(g);
    }
    x = norm(g, x, "transformer.ln_f.weight", "transformer.ln_f.bias", D);
    return (tr_head){.hidden = x, .table = wte};
}
