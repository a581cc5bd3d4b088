/* BERT (Devlin et al. 2019): post-norm encoder in both directions, learned positions, segments; learns masked tokens and
 * whether the second text follows the first, or, with model.labels, the class of a text. MiniLM (Wang et al. 2020) and
 * its sentence embeddings are BERT without heads.
 *
 * Shapes: B batch, T seq, D embed, H heads, E = D / H, M mlp, V vocab, C context, Y types. Weights are as torch.nn.Linear
 * stores them, [out, in]. Initialisation as in the paper's code: normal 0.02.
 */
#include "models/family.h"
#include "models/huggingface.h"

static const double INIT = 0.02, EPS = 1e-12;

static tr_value norm(tr_graph *g, tr_value x, const char *weight, const char *bias, const tr_sizes *s)
{
    tr_value w = tr_param(g, tr_ones(), weight, "embed=%lld", (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), bias, "embed=%lld", (long long)s->embed);
    return tr_layer_norm(g, x, w, b, s->norm_eps);
}

/* [B, T, D] -> [B, T, H, E] */
static tr_value heads_of(tr_graph *g, tr_value x, const char *weight, const char *bias, const tr_sizes *s)
{
    long long D = s->embed, H = s->heads;
    tr_value w = tr_param(g, tr_normal(INIT), weight, "heads=%lld head_dim=%lld embed=%lld", H, D / H, D);
    return tr_linear_transposed(g, x, w, tr_param(g, tr_zeros(), bias, "heads=%lld head_dim=%lld", H, D / H));
}

static tr_value embeddings(tr_graph *g, const tr_sizes *s, tr_value words)
{
    long long B = s->batch, T = s->seq, D = s->embed;
    tr_value at = tr_param(g, tr_normal(INIT), "bert.embeddings.position_embeddings.weight", "context=%lld embed=%lld",
                           (long long)s->context, D);
    tr_value types = tr_param(g, tr_normal(INIT), "bert.embeddings.token_type_embeddings.weight", "types=%lld embed=%lld",
                              (long long)s->types, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%lld seq=%lld", B, T));
    x = tr_add(g, x, tr_embedding(g, at, tr_input(g, "positions", "batch=%lld seq=%lld", B, T)));
    x = tr_add(g, x, tr_embedding(g, types, tr_input(g, "segments", "batch=%lld seq=%lld", B, T)));
    x = norm(g, x, "bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias", s);
    return tr_dropout(g, x, s->dropout); /* [B, T, D] */
}

static tr_value layer(tr_graph *g, const tr_sizes *s, tr_value x, tr_value mask)
{
    long long D = s->embed, H = s->heads, E = D / H, M = s->mlp;
    tr_init init = tr_normal(INIT);
    tr_value q = heads_of(g, x, "attention.self.query.weight", "attention.self.query.bias", s);
    tr_value k = heads_of(g, x, "attention.self.key.weight", "attention.self.key.bias", s);
    tr_value v = heads_of(g, x, "attention.self.value.weight", "attention.self.value.bias", s);
    tr_value y = tr_attend(g, q, k, v, &(tr_attend_options){.p = s->dropout, .key_segments = mask}); /* [B, T, H, E] */
    y = tr_reshape(g, y, "batch=%lld seq=%lld heads=%lld", (long long)s->batch, (long long)s->seq, D);
    tr_value w = tr_param(g, init, "attention.output.dense.weight", "embed=%lld heads=%lld*%lld", D, H, E);
    y = tr_linear_transposed(g, y, w, tr_param(g, tr_zeros(), "attention.output.dense.bias", "embed=%lld", D));
    x = tr_add(g, x, tr_dropout(g, y, s->dropout));
    x = norm(g, x, "attention.output.LayerNorm.weight", "attention.output.LayerNorm.bias", s);

    w = tr_param(g, init, "intermediate.dense.weight", "mlp=%lld embed=%lld", M, D);
    y = tr_gelu(g, tr_linear_transposed(g, x, w, tr_param(g, tr_zeros(), "intermediate.dense.bias", "mlp=%lld", M)));
    w = tr_param(g, init, "output.dense.weight", "embed=%lld mlp=%lld", D, M);
    y = tr_linear_transposed(g, y, w, tr_param(g, tr_zeros(), "output.dense.bias", "embed=%lld", D));
    x = tr_add(g, x, tr_dropout(g, y, s->dropout));
    return norm(g, x, "output.LayerNorm.weight", "output.LayerNorm.bias", s);
}

/* The masked tokens: words by a product with their own embeddings. */
static void masked_head(tr_graph *g, const tr_sizes *s, tr_value x, tr_value words)
{
    long long D = s->embed;
    tr_value w = tr_param(g, tr_normal(INIT), "cls.predictions.transform.dense.weight", "embed=%lld embed=%lld", D, D);
    tr_value b = tr_param(g, tr_zeros(), "cls.predictions.transform.dense.bias", "embed=%lld", D);
    x = tr_gelu(g, tr_linear_transposed(g, x, w, b));
    x = norm(g, x, "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias", s);
    b = tr_param(g, tr_zeros(), "cls.predictions.bias", "vocab=%lld", (long long)s->vocab);
    tr_head_add(g, (tr_head){.hidden = x, .table = words, .bias = b});
}

/* [B, D]: what the first token says of the whole text. */
static tr_value pooled(tr_graph *g, const tr_sizes *s, tr_value x)
{
    long long B = s->batch, D = s->embed;
    tr_value w = tr_param(g, tr_normal(INIT), "bert.pooler.dense.weight", "embed=%lld embed=%lld", D, D);
    tr_value b = tr_param(g, tr_zeros(), "bert.pooler.dense.bias", "embed=%lld", D);
    x = tr_reshape(g, tr_slice(g, x, 1, 0, 1), "batch=%lld embed=%lld", B, D);
    return tr_tanh(g, tr_linear_transposed(g, x, w, b));
}

/* Whether the second text follows. */
static void next_head(tr_graph *g, const tr_sizes *s, tr_value x)
{
    x = pooled(g, s, x);
    tr_value w = tr_param(g, tr_normal(INIT), "cls.seq_relationship.weight", "labels=2 embed=%lld", (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), "cls.seq_relationship.bias", "labels=2");
    tr_head_add(g, (tr_head){.hidden = x, .table = w, .bias = b, .name = "next", .targets = "labels"});
}

/* The class of a text or of a pair of texts. */
static void class_head(tr_graph *g, const tr_sizes *s, tr_value x)
{
    long long L = s->labels;
    x = tr_dropout(g, pooled(g, s, x), s->dropout);
    tr_value w = tr_param(g, tr_normal(INIT), "classifier.weight", "labels=%lld embed=%lld", L, (long long)s->embed);
    tr_value b = tr_param(g, tr_zeros(), "classifier.bias", "labels=%lld", L);
    tr_head_add(g, (tr_head){.hidden = x, .table = w, .bias = b, .targets = "labels"});
}

static void bert(tr_graph *g, const tr_sizes *s, void *unused)
{
    (void)unused;
    tr_value words = tr_param(g, tr_normal(INIT), "bert.embeddings.word_embeddings.weight", "vocab=%lld embed=%lld",
                              (long long)s->vocab, (long long)s->embed);
    tr_value mask = tr_input(g, "mask", "batch=%lld seq=%lld", (long long)s->batch, (long long)s->seq);
    tr_value x = embeddings(g, s, words);
    for (int i = 0; i < s->layers; i++) {
        tr_layer_begin(g, i, "bert.encoder.layer.%d.", i);
        x = layer(g, s, x, mask);
        tr_layer_end(g);
    }
    tr_output(g, "hidden", x);
    if (s->labels) {
        class_head(g, s, x);
        return;
    }
    masked_head(g, s, x, words);
    next_head(g, s, x);
}

/* config.json: the keys of BertConfig. A classifier is known by its architecture. */
static const char CLASSIFIER[] = "BertForSequenceClassification";

static tr_error *read(const json_t *c, const char *where, tr_sizes *s)
{
    s->norm_eps = EPS;
    s->types = 2;
    s->labels = tr_hf_is(c, CLASSIFIER) ? tr_hf_labels(c) : 0;
    TR_TRY(tr_hf_size(c, where, "num_hidden_layers", TR_REQUIRED, &s->layers));
    TR_TRY(tr_hf_size(c, where, "hidden_size", TR_REQUIRED, &s->embed));
    TR_TRY(tr_hf_size(c, where, "num_attention_heads", TR_REQUIRED, &s->heads));
    TR_TRY(tr_hf_size(c, where, "intermediate_size", TR_REQUIRED, &s->mlp));
    TR_TRY(tr_hf_size(c, where, "max_position_embeddings", TR_REQUIRED, &s->context));
    TR_TRY(tr_hf_size(c, where, "vocab_size", TR_REQUIRED, &s->vocab));
    TR_TRY(tr_hf_size(c, where, "type_vocab_size", TR_OPTIONAL, &s->types));
    TR_TRY(tr_json_real(c, where, "hidden_dropout_prob", TR_OPTIONAL, &s->dropout));
    TR_TRY(tr_json_real(c, where, "layer_norm_eps", TR_OPTIONAL, &s->norm_eps));
    TR_TRY(tr_hf_only(c, where, "hidden_act", "gelu"));
    TR_TRY(tr_hf_only(c, where, "position_embedding_type", "absolute"));
    TR_TRY(tr_hf_only_bool(c, where, "is_decoder", false));
    TR_TRY(tr_hf_only_bool(c, where, "tie_word_embeddings", true));
    return tr_hf_multiple(where, "hidden_size", s->embed, "num_attention_heads", s->heads);
}

static void write(json_t *c, const tr_sizes *s)
{
    tr_hf_pack(c, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:f, s:s}", "vocab_size", s->vocab,
                            "max_position_embeddings", s->context, "hidden_size", s->embed, "num_hidden_layers", s->layers,
                            "num_attention_heads", s->heads, "intermediate_size", s->mlp, "type_vocab_size", s->types,
                            "hidden_act", "gelu", "hidden_dropout_prob", s->dropout, "attention_probs_dropout_prob",
                            s->dropout, "layer_norm_eps", s->norm_eps, "initializer_range", INIT,
                            "position_embedding_type", "absolute"));
    if (!s->labels)
        return;
    tr_hf_pack(c, json_pack("{s:[s]}", "architectures", CLASSIFIER));
    tr_hf_labels_write(c, s->labels);
}

static void complete(tr_sizes *s)
{
    s->norm_eps = s->norm_eps > 0 ? s->norm_eps : EPS;
    s->types = s->types > 0 ? s->types : 2;
}

static tr_error *check(const tr_sizes *s)
{
    return s->labels == 1 ? tr_error_new(TR_USER, "model.labels is 1; a classifier has 2 classes or more") : NULL;
}

/* Devlin et al. 2019, section 3; the smaller ones: Turc et al. 2019, Wang et al. 2020. */
#define BERT(layer_count, width, head_count) \
    {.layers = layer_count, .embed = width, .heads = head_count, .context = 512, .vocab = 30522, .types = 2, .dropout = 0.1}
static const tr_preset presets[] = {
    {"bert-base", "bert bert-base-uncased", BERT(12, 768, 12)},
    {"bert-large", "bert-large-uncased", BERT(24, 1024, 16)},
    {"bert-medium", "", BERT(8, 512, 8)},
    {"bert-small", "", BERT(4, 512, 8)},
    {"bert-mini", "", BERT(4, 256, 4)},
    {"bert-tiny", "", BERT(2, 128, 2)},
    {"minilm-l6", "", BERT(6, 384, 12)},
    {0},
};

static const tr_same_tensor same[] = {{"cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"},
                                      {"cls.predictions.decoder.bias", "cls.predictions.bias"},
                                      {0}};

const tr_family tr_family_bert = {
    .name = "bert",
    .model_type = "bert",
    .architecture = "BertForPreTraining",
    .model = bert,
    .objective = "masked",
    .classifies = "classify",
    .keys = "layers embed heads mlp context vocab types labels dropout norm_eps",
    .read = read,
    .write = write,
    .complete = complete,
    .check = check,
    .presets = presets,
    .prefixes = "bert.",
    .optional = "cls. bert.pooler. classifier.",
    .same = same,
};
