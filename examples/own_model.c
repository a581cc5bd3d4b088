/* A model of one's own, trained through trireme.h alone.
 *
 *     build/example_own_model my.txt                       trains on any text
 *     build/example_own_model my.txt model.layers=8        any key of `trireme help keys`
 *     build/example_own_model --resume runs/own_model train.steps=800
 *
 * The model is a decoder that GPT-2 is not: attention and MLP of a layer run side by side on one
 * norm, as in GPT-J and PaLM, and the MLP is gated, out (silu(gate x) * up x), Shazeer 2020.
 * Nothing here says how it is differentiated, where its values lie in memory, or how it is saved.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trireme.h"

/* What tr_train's last argument brings to every call of the model function. */
typedef struct settings {
    double init;
} settings;

static tr_value norm(tr_graph *g, tr_value x, const char *weight, const char *bias, int embed)
{
    return tr_layer_norm(g, x, tr_param(g, tr_ones(), weight, "embed=%d", embed),
                         tr_param(g, tr_zeros(), bias, "embed=%d", embed), 1e-5);
}

static tr_value attention(tr_graph *g, tr_value x, int D, int H, tr_init in, tr_init out, double p)
{
    int B = (int)tr_size(g, x, 0), T = (int)tr_size(g, x, 1), E = D / H;
    tr_value w = tr_param(g, in, "attention.qkv", "embed=%d qkv=3 heads=%d head_dim=%d", D, H, E);
    tr_value y = tr_attention(g, tr_linear(g, x, w, 0), true, 0, p); /* [B, T, H, E] */
    y = tr_reshape(g, y, "batch=%d seq=%d heads=%d", B, T, D);
    return tr_linear(g, y, tr_param(g, out, "attention.out", "heads=%d*%d embed=%d", H, E, D), 0);
}

static tr_value gated_mlp(tr_graph *g, tr_value x, int D, int M, tr_init in, tr_init out)
{
    tr_value gate = tr_linear(g, x, tr_param(g, in, "mlp.gate", "embed=%d mlp=%d", D, M), 0);
    tr_value up = tr_linear(g, x, tr_param(g, in, "mlp.up", "embed=%d mlp=%d", D, M), 0);
    tr_value y = tr_mul(g, tr_silu(g, gate), up); /* [B, T, M] */
    return tr_linear(g, y, tr_param(g, out, "mlp.out", "mlp=%d embed=%d", M, D), 0);
}

static void own_model(tr_graph *g, const tr_sizes *s, void *user)
{
    const settings *own = user;
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed, H = (int)s->heads, M = (int)s->mlp;
    tr_init in = tr_normal(own->init), out = tr_normal(own->init / sqrt(2.0 * (double)s->layers));

    tr_value words = tr_param(g, in, "words", "vocab=%d embed=%d", (int)s->vocab, D);
    tr_value places = tr_param(g, in, "places", "context=%d embed=%d", (int)s->context, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%d seq=%d", B, T));
    x = tr_add(g, x, tr_embedding(g, places, tr_input(g, "positions", "batch=%d seq=%d", B, T))); /* [B, T, D] */
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "layer.%d.", i);
        tr_value y = norm(g, x, "norm.weight", "norm.bias", D); /* [B, T, D] */
        tr_value a = attention(g, y, D, H, in, out, s->dropout), m = gated_mlp(g, y, D, M, in, out);
        x = tr_add(g, x, tr_dropout(g, tr_add(g, a, m), s->dropout));
        tr_layer_end(g);
    }
    tr_head_add(g, (tr_head){.hidden = norm(g, x, "norm.weight", "norm.bias", D), .table = words});
}

int main(int argc, char **argv)
{
    /* A minute on a laptop. What stands later wins over what stands earlier. */
    const char *overrides[64] = {
        "model.layers=4",    "model.embed=128",        "model.heads=4",     "model.mlp=352",
        "model.context=128", "data.tokenizer=bytes",   "train.steps=1000",  "train.batch=16",
        "optimizer.lr=1e-3", "train.sample_every=250", "out=runs/own_model"};
    int n = 11;
    char data[4096];
    settings own = {.init = 0.02};
    tr_error *error;

    bool resume = argc > 2 && strcmp(argv[1], "--resume") == 0;
    if (argc < 2 || argc > 40 || (argv[1][0] == '-' && !resume)) {
        fprintf(stderr, "usage: example_own_model TEXT|--resume DIR [key=value ...]\n");
        return 2;
    }
    if (resume) {
        error = tr_resume(argv[2], (const char *const *)argv + 3, argc - 3, own_model, &own);
    } else {
        snprintf(data, sizeof data, "data.train=%s", argv[1]);
        overrides[n++] = data;
        for (int i = 2; i < argc; i++)
            overrides[n++] = argv[i];
        error = tr_train(NULL, overrides, n, own_model, &own);
    }
    if (!error)
        return 0;
    int status = tr_error_exit_status(error);
    fprintf(stderr, "%s\n", tr_error_text(error));
    tr_error_free(error);
    return status;
}
