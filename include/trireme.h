/* Trireme: train and deploy large Transformer models, from a laptop to a cluster.
 *
 * This header is what a program of your own includes. A model is a C function that builds a graph of
 * pure operations with named dims; it names no rank, no device and no memory. tr_train compiles the
 * graph (gradient, fusion, memory plan) and runs it. examples/own_model.c is a whole program.
 *
 * Errors are values: a function that can fail returns `tr_error *`, NULL when it succeeded; the text is
 * one sentence, and the caller frees it. Functions that build a graph do not fail one by one: the first
 * error sticks to the graph and comes back from the function that runs the model.
 *
 * Shapes are written [outermost, ..., innermost]; all arrays are contiguous and row-major. Activations
 * are f32, or bf16 under `train.precision: bf16`, where products are accumulated in f32.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tr_error tr_error;
/* One sentence: what, where, what to try. Valid until the error is freed. */
const char *tr_error_text(const tr_error *error);
/* 2: the input was wrong; 1: the run failed. */
int tr_error_exit_status(const tr_error *error);
void tr_error_free(tr_error *error);

typedef struct tr_graph tr_graph;
typedef uint32_t tr_value; /* a value of a graph; 0 is none */

/* ---- Parameters ------------------------------------------------------------------------------- */

typedef enum tr_init_kind { TR_INIT_ZEROS, TR_INIT_ONES, TR_INIT_NORMAL, TR_INIT_COPY } tr_init_kind;
/* How a parameter starts; scale is the standard deviation of TR_INIT_NORMAL. */
typedef struct tr_init {
    tr_init_kind kind;
    double scale;
} tr_init;

static inline tr_init tr_zeros(void)
{
    tr_init init = {TR_INIT_ZEROS, 0};
    return init;
}
static inline tr_init tr_ones(void)
{
    tr_init init = {TR_INIT_ONES, 0};
    return init;
}
static inline tr_init tr_normal(double standard_deviation)
{
    tr_init init = {TR_INIT_NORMAL, standard_deviation};
    return init;
}

/* A trained parameter. `name` is what it is called in model.safetensors, after the prefix of the layer
 * that is open. `dims` names each dim and gives its size, printf-style: "embed=%d mlp=%d". A dim
 * that several ranks share is cut anywhere, or, written "heads=%d*%d", at multiples of the second. Parameters
 * of one dim stay f32; weight decay applies to those of two and more. */
tr_value tr_param(tr_graph *graph, tr_init init, const char *name, const char *dims, ...)
    __attribute__((format(printf, 4, 5)));

/* What is built until tr_layer_end belongs to layer `index`: passes cut and recompute between layers.
 * `prefix` (printf-style) goes before the names of its parameters. Layers do not nest. */
void tr_layer_begin(tr_graph *graph, int index, const char *prefix, ...)
    __attribute__((format(printf, 3, 4)));
void tr_layer_end(tr_graph *graph);

/* ---- Operations: [shape of the result] ---------------------------------------------------------- */

/* [a's]: a + b, where b has a's shape or its last dims. */
tr_value tr_add(tr_graph *graph, tr_value a, tr_value b);
/* [a's]: elementwise product, where b has a's shape or its last dims. */
tr_value tr_mul(tr_graph *graph, tr_value a, tr_value b);
tr_value tr_scale(tr_graph *graph, tr_value a, double factor);
/* Hendrycks & Gimpel 2016; tr_gelu_tanh is the tanh form that GPT-2 uses ("gelu_new"). */
tr_value tr_gelu(tr_graph *graph, tr_value x);
tr_value tr_gelu_tanh(tr_graph *graph, tr_value x);
tr_value tr_relu(tr_graph *graph, tr_value x);
tr_value tr_silu(tr_graph *graph, tr_value x);
tr_value tr_tanh(tr_graph *graph, tr_value x);
tr_value tr_sigmoid(tr_graph *graph, tr_value x);
/* [gate's]: silu(gate) x; gelu(gate) x, by erf or the tanh form (Shazeer 2020): elementwise, equal shapes. */
tr_value tr_swiglu(tr_graph *graph, tr_value gate, tr_value x);
tr_value tr_geglu(tr_graph *graph, tr_value gate, tr_value x);
tr_value tr_geglu_tanh(tr_graph *graph, tr_value gate, tr_value x);
/* Zeroes each element with probability p (0 <= p < 1) and divides the rest by 1 - p. p = 0 gives x. */
tr_value tr_dropout(tr_graph *graph, tr_value x, double p);
/* The same for whole samples (what has one index of the outermost dim): stochastic depth, Huang et al. 2016. */
tr_value tr_drop_path(tr_graph *graph, tr_value x, double p);
/* [*, n...]: x[*, k] times w[k, n...] plus bias[n...]; bias may be 0. */
tr_value tr_linear(tr_graph *graph, tr_value x, tr_value w, tr_value bias);
/* The same with w[n..., k], as torch.nn.Linear stores it. */
tr_value tr_linear_transposed(tr_graph *graph, tr_value x, tr_value w, tr_value bias);
/* [*, d]: Ba, Kiros & Hinton 2016, over the last dim; weight and bias [d]. */
tr_value tr_layer_norm(tr_graph *graph, tr_value x, tr_value weight, tr_value bias, double eps);
/* [*, d]: Zhang & Sennrich 2019, over the last dim; weight [d]. T5's layer norm is this one too. */
tr_value tr_rms_norm(tr_graph *graph, tr_value x, tr_value weight, double eps);
/* [*, d]: rows of table[v, d] by ids[*] (i32, 0 <= id < v). */
tr_value tr_embedding(tr_graph *graph, tr_value table, tr_value ids);
/* [b, t, h, e]: scaled dot-product attention, memory linear in t. qkv[b, t, 3, h, e] holds query, key
 * and value; causal: a query sees no later key; window > 0: only the last `window` keys; p: dropout of
 * the probabilities. The scale is 1 / sqrt(e). */
tr_value tr_attention(tr_graph *graph, tr_value qkv, bool causal, int64_t window, double p);
/* [b, t, h, e]: attention of queries [b, t, h, e] to keys and values [b, s, g, e]. h is a multiple of g (grouped-query,
 * multi-query); s need not be t (attention across); zeros in the options are the defaults. */
typedef struct tr_attend_options {
    bool causal;    /* query i sees keys up to i + s - t */
    int64_t window; /* > 0: and only the last `window` of them */
    double p;       /* dropout of the probabilities */
    double scale;   /* of the scores; 0: 1 / sqrt(e) */
    /* [n, h], n odd: what is added to the score of query i and key j is row d + n / 2, d = i - j cut to n / 2 at most
     * (T5). With `row`, the tokens are those of a window with rows of so many, and n = (2 row - 1)^2 (Swin). */
    tr_value relative;
    int64_t row;
    /* i32 [m, t] and [m, s], for sequence b % m. A key of segment 0 is padding: no query sees it (Hugging Face's
     * attention_mask as it is). With query_segments a query sees keys of its own segment only: packed sequences. */
    tr_value query_segments, key_segments;
} tr_attend_options;
tr_value tr_attend(tr_graph *graph, tr_value q, tr_value k, tr_value v, const tr_attend_options *options);

/* Rotary positions (Su et al. 2021). Rates [dims / 2] f32: base^(-2i / dims), stretched for contexts longer than the
 * `original` one, in the kinds that config.json names; scaling may be NULL. */
typedef enum tr_rope_kind { TR_ROPE_PLAIN, TR_ROPE_LINEAR, TR_ROPE_DYNAMIC, TR_ROPE_LLAMA3, TR_ROPE_YARN } tr_rope_kind;
typedef struct tr_rope_scaling {
    tr_rope_kind kind;
    double factor;    /* DYNAMIC: of this context, f seq / original - f + 1 with the config's factor f */
    int64_t original; /* LLAMA3, YARN: the context that was trained on */
    double low, high; /* LLAMA3: low_freq_factor, high_freq_factor; YARN: beta_slow, beta_fast */
} tr_rope_scaling;
tr_value tr_rope_rates(tr_graph *graph, int64_t dims, double base, const tr_rope_scaling *scaling);
/* [b, t, h, e]: x with its first `dims` elements of each head turned by its position (i32 [b, t]): the pairs are
 * (x_i, x_i + dims / 2) as in LLaMA, or, interleaved, (x_2i, x_2i + 1) as in GPT-J and PaLM. factor: 1, or YaRN's. */
tr_value tr_rope(tr_graph *graph, tr_value x, tr_value positions, tr_value rates, bool interleaved, double factor);
/* [*, dims]: the sinusoids of positions [*] (Vaswani et al. 2017): sin(p / 10000^(2i / dims)) and the cosine in turn. */
tr_value tr_sinusoids(tr_graph *graph, tr_value positions, int64_t dims);
/* x with its dims in another order: dim d of the result is dim order[d]. Where only dims of 1 move it is a view. */
tr_value tr_transpose(tr_graph *graph, tr_value x, const int *order);
/* Along one dim (negative: counted from the innermost): rolled, so that element i comes to i + shift; `count` elements
 * from `first` on; x at `first` of `size`, zeros around it; one behind the other; a new dim of `count` copies before
 * `dim`; the sum, the mean, without the dim. */
tr_value tr_roll(tr_graph *graph, tr_value x, int dim, int64_t shift);
tr_value tr_slice(tr_graph *graph, tr_value x, int dim, int64_t first, int64_t count);
tr_value tr_pad(tr_graph *graph, tr_value x, int dim, int64_t first, int64_t size);
tr_value tr_concat(tr_graph *graph, tr_value a, tr_value b, int dim);
tr_value tr_repeat(tr_graph *graph, tr_value x, int dim, int64_t count);
tr_value tr_sum(tr_graph *graph, tr_value x, int dim);
tr_value tr_mean(tr_graph *graph, tr_value x, int dim);
/* i32 [(side / window)^2, window^2], segments for tr_attend: in windows of a grid that was rolled by -shift along both
 * sides, tokens that were no neighbours before get different numbers (Swin's shifted windows). */
tr_value tr_window_regions(tr_graph *graph, int64_t side, int64_t window, int64_t shift);
/* Mixtures of experts. All is defined within a sequence: an expert has room for `capacity` tokens of each, and a token
 * that finds none is left out there (its weight counts nothing: it passes by the residual stream). */
typedef struct tr_route_options {
    int64_t k;              /* experts of a token */
    int64_t capacity;       /* room for so many tokens of a sequence; 0: by capacity_factor */
    double capacity_factor; /* room: this x k x seq / experts, rounded up, at most seq; 0: seq, so that none is left out */
    bool normalised;        /* a token's weights sum to 1 (GShard, Mixtral); else they are the probabilities (Switch) */
    bool random;            /* choices after the first take part with probability 2 x weight (GShard) */
    bool balance_all;       /* the balance loss counts all choices (Mixtral); else the first ones (GShard, Switch) */
} tr_route_options;
typedef struct tr_routing {
    tr_value weights, choices, slots, filled;
    tr_value balance, z; /* f32 [1], sums over sequences: for tr_loss_add */
    int64_t experts, capacity;
} tr_routing;
/* logits [batch, seq, expert], f32. */
tr_routing tr_route(tr_graph *graph, tr_value logits, const tr_route_options *options);
/* [expert, batch, capacity, d]: the tokens x [batch, seq, d] in their experts' rooms. */
tr_value tr_dispatch(tr_graph *graph, tr_value x, const tr_routing *routing);
/* [expert, batch, capacity, n]: x times w [expert, k, n], transposed w [expert, n, k], of each expert. Name the dim
 * "expert": it is what mesh.expert cuts. */
tr_value tr_expert_linear(tr_graph *graph, tr_value x, tr_value w, bool transposed, const tr_routing *routing);
/* [batch, seq, d]: the weighted sum of what a token's experts made. */
tr_value tr_collect(tr_graph *graph, tr_value y, const tr_routing *routing);
/* i32 [2 most + 1]: T5's bucket (Raffel et al. 2020) of each distance i - j between query i and key j, from -most on, among
 * `buckets`; both directions share them, or keys that come later have the first. For tr_embedding and then `relative`. */
tr_value tr_relative_buckets(tr_graph *graph, int64_t buckets, int64_t most, bool both);
/* x in f32 (to_f32), or in the dtype of activations. */
tr_value tr_cast(tr_graph *graph, tr_value x, bool to_f32);
/* The same shape of elements, seen with other dims: "batch=%d seq=%d embed=%d". */
tr_value tr_reshape(tr_graph *graph, tr_value x, const char *dims, ...)
    __attribute__((format(printf, 3, 4)));
/* Size of a dim of a value, counted from the outermost; negative counts from the innermost. */
int64_t tr_size(const tr_graph *graph, tr_value x, int dim);

/* ---- Models ------------------------------------------------------------------------------------ */

/* A model function asks for its inputs by name, builds the graph, and says what is to be learnt; see
 * examples/own_model.c. For a causal language model that is
 *
 *     tr_value ids = tr_input(g, "ids", "batch=%lld seq=%lld", B, T);
 *     ...
 *     tr_head_add(g, (tr_head){.hidden = x, .table = words});
 */

/* Numbers i32 that the data give anew for each run. The first dim is "batch". What each name means is with
 * the objectives (docs/add-a-model.md): ids, positions, segments, mask, decoder_ids, decoder_positions,
 * labels ... Only what a model asks for is made. Asking again gives the same value. */
tr_value tr_input(tr_graph *graph, const char *name, const char *dims, ...)
    __attribute__((format(printf, 3, 4)));
/* The same of real numbers, in the dtype of activations: images. */
tr_value tr_input_real(tr_graph *graph, const char *name, const char *dims, ...)
    __attribute__((format(printf, 3, 4)));

/* What a model predicts: of each row of hidden states a choice among the rows of a table. The logits are
 * hidden times the table transposed, plus the bias, and are never in memory all at once while training. The
 * right choices are an input of hidden's leading dims, where -1 says that there is none.
 *
 * The loss of a step is the sum over heads of weight x (sum of a head's losses / its number of right choices),
 * both over all ranks and microbatches. What is 0 is left out; a weight of 0 means 1. */
typedef struct tr_head {
    tr_value hidden;     /* [*, embed] */
    tr_value table;      /* [choices, embed] */
    tr_value bias;       /* [choices] */
    const char *name;    /* "logits" when NULL; the first head is the one that generates and is scored */
    const char *targets; /* the input with the right choices; "targets" when NULL */
    double weight;
    double smoothing; /* label smoothing: this share of the probability is spread over all choices */
    double z_loss;    /* this times log(Z)^2 is added for each right choice (PaLM, section 5) */
} tr_head;
void tr_head_add(tr_graph *graph, tr_head head);

/* A loss beside the heads': `sum` f32 [1] is a sum over the sequences (rows of the dim batch) of something
 * that is defined within a sequence, so that neither microbatches nor ranks change it. The step's loss gets
 * weight x its mean. Validation leaves it out. */
void tr_loss_add(tr_graph *graph, const char *name, tr_value sum, double weight);

/* A value that a program which only looks gives back under this name, e.g. the hidden states of a sentence; in
 * training and scoring it is left out. */
void tr_output(tr_graph *graph, const char *name, tr_value x);

/* Sizes that the data and the configuration decide; the rows of `model.*` in `trireme help keys`. What a
 * family does not have is 0. */
typedef struct tr_sizes {
    int64_t batch, seq, decoder_seq; /* of one run of the graph: sequences, tokens of each */
    int64_t vocab, context, layers, embed, heads, mlp;
    double dropout;
    int64_t band; /* window of every second layer's attention, 0: all dense */
    int64_t types;              /* of segments: BERT */
    int64_t kv_heads, head_dim; /* heads of keys and values; width of a head */
    bool untied;                /* the output has a table of its own */
    double norm_eps, rope_theta, z_loss;
    int64_t experts, expert_choices, expert_every; /* of a layer; of a token; every so many layers have them */
    bool expert_random;                            /* tr_route_options.random */
    int64_t expert_room;                           /* tr_route_options.capacity */
    double expert_capacity, expert_dropout;        /* capacity_factor; dropout inside of an expert */
    double balance_loss, router_z_loss;            /* weights of the experts' losses, summed over the layers */
    tr_rope_kind rope_kind;
    int64_t rope_context; /* that the model was trained with before it was stretched */
    double rope_factor, rope_low, rope_high, rope_attention;
    int64_t decoder_layers;           /* of the second tower */
    int64_t buckets, bucket_distance; /* of relative positions (T5) */
    bool gated;                       /* the MLP's activation is gated */
    bool unscaled;                    /* a tied output is not scaled by 1 / sqrt(embed), where T5's is */
    double smoothing;                 /* of the labels */
    int64_t image, patch, channels, labels; /* images: the side in pixels, that of a patch, classes */
    int64_t label_parts; /* an image has so many labels, which share its target; 0: one (data.mixup) */
    double drop_path;
    int64_t window, depth1, depth2, depth3, depth4; /* Swin: the side of a window in tokens; layers of each stage */
} tr_sizes;

typedef void (*tr_model)(tr_graph *graph, const tr_sizes *sizes, void *user);

/* Trains `model` by the configuration file (as `trireme train` does; NULL: defaults) with `overrides`
 * ("key=value") after it. The run's directory gets checkpoints and metrics.jsonl. Blocks until the
 * last step, or until SIGINT or SIGTERM, after which the run is saved. Only this program can open what it
 * saves (config.json says "trireme-custom"): by tr_resume. `train.sample_every` writes text meanwhile. */
tr_error *tr_train(const char *config_path, const char *const *overrides, int n_overrides,
                   tr_model model, void *user);
/* Goes on with such a run from its newest checkpoint, with the same model function. A larger train.steps=N
 * prolongs it. */
tr_error *tr_resume(const char *directory, const char *const *overrides, int n_overrides, tr_model model,
                    void *user);

#ifdef __cplusplus
}
#endif
