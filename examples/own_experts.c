/* A model of one's own from the parts of several families: RMS norms, rotary positions and grouped keys as in LLaMA, a
 * bias of attention by the distance as in T5, experts with one choice as in Switch. No family here is all of that.
 *
 *     build/example_own_experts my.txt                            trains on any text
 *     build/example_own_experts my.txt mesh.data=2 mesh.expert=2  on a mesh: nothing below knows of one
 *     build/example_own_experts my.txt model.experts=1            the dense model with as many products a token
 *
 * Names of dims are all that a mesh goes by: heads, mlp, vocab are cut by mesh.tensor, expert by mesh.expert.
 */
#include <math.h>
#include <stdio.h>

#include "trireme.h"

enum { BUCKETS = 16, FAR = 64 };

typedef struct shared {
    tr_value positions, rates, buckets, bias; /* of all layers */
} shared;

static tr_value norm(tr_graph *g, tr_value x, const char *name, int D)
{
    return tr_rms_norm(g, x, tr_param(g, tr_ones(), name, "embed=%d", D), 1e-6);
}

/* [B, T, heads, E]: a projection, turned by its positions. */
static tr_value turned(tr_graph *g, tr_value x, const char *name, int heads, int E, int D, const shared *all)
{
    tr_value w = tr_param(g, tr_normal(0.02), name, "embed=%d heads=%d head_dim=%d", D, heads, E);
    return tr_rope(g, tr_linear(g, x, w, 0), all->positions, all->rates, false, 1);
}

static tr_value attention(tr_graph *g, tr_value x, const tr_sizes *s, const shared *all)
{
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed, H = (int)s->heads, E = D / H, G = H / 2;
    tr_value q = turned(g, x, "query", H, E, D, all), k = turned(g, x, "key", G, E, D, all);
    tr_value v = tr_linear(g, x, tr_param(g, tr_normal(0.02), "value", "embed=%d heads=%d head_dim=%d", D, G, E), 0);
    tr_value relative = tr_embedding(g, all->bias, all->buckets);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.causal = true, .p = s->dropout, .relative = relative});
    y = tr_reshape(g, y, "batch=%d seq=%d heads=%d", B, T, D);
    return tr_linear(g, y, tr_param(g, tr_normal(0.02), "out", "heads=%d*%d embed=%d", H, E, D), 0);
}

static tr_value dense(tr_graph *g, tr_value x, const tr_sizes *s)
{
    int D = (int)s->embed, M = (int)s->mlp;
    tr_value in = tr_param(g, tr_normal(0.02), "mlp.in", "embed=%d mlp=%d", D, M);
    tr_value out = tr_param(g, tr_normal(0.02 / sqrt(2.0 * (double)s->layers)), "mlp.out", "mlp=%d embed=%d", M, D);
    return tr_linear(g, tr_relu(g, tr_linear(g, x, in, 0)), out, 0);
}

/* Each token goes to the expert that the router gives the highest probability, by which the answer is weighted. The
 * router begins sharp (logits of about 1), so that like tokens share an expert from the first step on; at 0.02, where
 * noise chooses, what it learns comes later. *balance: the sum over layers so far. */
static tr_value experts(tr_graph *g, tr_value x, const tr_sizes *s, tr_value *balance)
{
    int D = (int)s->embed, M = (int)s->mlp, X = (int)s->experts;
    tr_value router = tr_param(g, tr_normal(1 / sqrt((double)D)), "router", "embed=%d expert=%d", D, X);
    tr_value logits = tr_linear(g, tr_cast(g, x, true), tr_cast(g, router, true), 0); /* [B, T, X], f32 */
    tr_routing r = tr_route(g, logits, &(tr_route_options){.k = 1, .capacity_factor = s->expert_capacity});
    tr_value in = tr_param(g, tr_normal(0.02), "experts.in", "expert=%d embed=%d mlp=%d", X, D, M);
    tr_value out = tr_param(g, tr_normal(0.02 / sqrt(2.0 * (double)s->layers)), "experts.out", "expert=%d mlp=%d embed=%d", X, M, D);
    tr_value h = tr_relu(g, tr_expert_linear(g, tr_dispatch(g, x, &r), in, false, &r));
    *balance = *balance ? tr_add(g, *balance, r.balance) : r.balance;
    return tr_collect(g, tr_expert_linear(g, h, out, false, &r), &r);
}

static void own_experts(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed, H = (int)s->heads;
    tr_value words = tr_param(g, tr_normal(0.02), "words", "vocab=%d embed=%d", (int)s->vocab, D);
    shared all = {.positions = tr_input(g, "positions", "batch=%d seq=%d", B, T),
                  .rates = tr_rope_rates(g, D / H, 10000, NULL),
                  .buckets = tr_relative_buckets(g, BUCKETS, FAR, false),
                  .bias = tr_param(g, tr_normal(0.02), "bias", "buckets=%d heads=%d", BUCKETS, H)};
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%d seq=%d", B, T)), balance = 0; /* [B, T, D] */
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "layer.%d.", i);
        x = tr_add(g, x, tr_dropout(g, attention(g, norm(g, x, "norm.1", D), s, &all), s->dropout));
        tr_value y = norm(g, x, "norm.2", D);
        y = s->experts > 1 ? experts(g, y, s, &balance) : dense(g, y, s);
        x = tr_add(g, x, tr_dropout(g, y, s->dropout));
        tr_layer_end(g);
    }
    if (balance)
        tr_loss_add(g, "balance", balance, 0.001);
    tr_head_add(g, (tr_head){.hidden = norm(g, x, "norm", D), .table = words});
}

int main(int argc, char **argv)
{
    const char *set[64] = {"model.layers=4",  "model.embed=128",      "model.heads=4",     "model.mlp=512",   "model.experts=8",
                           "model.context=128", "data.tokenizer=bytes", "train.steps=1000", "train.batch=16", "optimizer.lr=1e-3",
                           "out=runs/own_experts"};
    char data[4096];
    int n = 11;
    if (argc < 2 || argc > 40 || argv[1][0] == '-') {
        fprintf(stderr, "usage: example_own_experts TEXT [key=value ...]\n");
        return 2;
    }
    snprintf(data, sizeof data, "data.train=%s", argv[1]);
    set[n++] = data;
    for (int i = 2; i < argc; i++)
        set[n++] = argv[i];
    tr_error *error = tr_train(NULL, set, n, own_experts, NULL);
    if (!error)
        return 0;
    int status = tr_error_exit_status(error);
    fprintf(stderr, "%s\n", tr_error_text(error));
    tr_error_free(error);
    return status;
}
