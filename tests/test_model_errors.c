/* What a wrong model is told: one clear sentence that names the op and the shapes. The first error
 * sticks to the graph; later calls do nothing. */
#include "check.h"

#include "base/memory.h"
#include "ir/graph.h"

typedef struct wrong_model {
    tr_graph *g;
    tr_value x, ids, w; /* f32[batch=2, seq=3, embed=8], i32[batch=2, seq=3], f32[embed=8, mlp=5] */
} wrong_model;

#define WRONG(name) static void name(wrong_model m)
static tr_value vector(wrong_model m, int size)
{
    return tr_param(m.g, tr_zeros(), "vector", "embed=%d", size);
}
WRONG(add_shapes)
{
    tr_add(m.g, m.x, vector(m, 7));
}
WRONG(add_longer)
{
    tr_add(m.g, vector(m, 8), m.x);
}
WRONG(add_ids)
{
    tr_add(m.g, m.ids, m.ids);
}
WRONG(mul_shapes)
{
    tr_mul(m.g, m.x, m.w);
}
WRONG(scale_ids)
{
    tr_scale(m.g, m.ids, 2);
}
WRONG(gelu_ids)
{
    tr_gelu(m.g, m.ids);
}
WRONG(gelu_of_nothing)
{
    tr_gelu(m.g, 0);
}
WRONG(dropout_of_one)
{
    tr_dropout(m.g, m.x, 1);
}
WRONG(dropout_negative)
{
    tr_dropout(m.g, m.x, -0.1);
}
WRONG(linear_contracts)
{
    tr_linear_transposed(m.g, m.x, m.w, 0);
}
WRONG(linear_bias)
{
    tr_linear(m.g, m.x, m.w, vector(m, 8));
}
WRONG(linear_bias_rank)
{
    tr_linear(m.g, m.x, m.w, tr_param(m.g, tr_zeros(), "b", "a=5 b=2"));
}
WRONG(linear_vector)
{
    tr_linear(m.g, m.x, vector(m, 8), 0);
}
WRONG(linear_ids)
{
    tr_linear(m.g, m.ids, tr_param(m.g, tr_ones(), "w3", "seq=3 mlp=5"), 0);
}
WRONG(linear_of_nothing)
{
    tr_linear(m.g, m.x, 0, 0);
}
WRONG(linear_bias_from_elsewhere)
{
    tr_linear(m.g, m.x, m.w, 12345);
}
WRONG(norm_weight)
{
    tr_value w = vector(m, 7);
    tr_layer_norm(m.g, m.x, w, w, 1e-5);
}
WRONG(norm_bias)
{
    tr_layer_norm(m.g, m.x, vector(m, 8), tr_param(m.g, tr_zeros(), "b", "embed=7"), 1e-5);
}
WRONG(norm_matrix)
{
    tr_layer_norm(m.g, m.x, m.w, vector(m, 8), 1e-5);
}
WRONG(embedding_ids)
{
    tr_embedding(m.g, m.w, m.x);
}
WRONG(embedding_table)
{
    tr_embedding(m.g, m.x, m.ids);
}
WRONG(attention_rank)
{
    tr_attention(m.g, m.x, true, 0, 0);
}
WRONG(attention_packing)
{
    tr_attention(m.g, tr_reshape(m.g, m.x, "batch=2 seq=3 qkv=2 heads=2 head_dim=2"), true, 0, 0);
}
WRONG(attention_dropout)
{
    tr_attention(m.g, tr_reshape(m.g, m.x, "batch=2 seq=2 qkv=3 heads=2 head_dim=2"), true, 0, 1);
}
WRONG(attention_window)
{
    tr_attention(m.g, tr_reshape(m.g, m.x, "batch=2 seq=2 qkv=3 heads=2 head_dim=2"), true, -1, 0);
}
WRONG(reshape_size)
{
    tr_reshape(m.g, m.x, "batch=2 rest=25");
}
WRONG(reshape_text)
{
    tr_reshape(m.g, m.x, "batch=two");
}
WRONG(reshape_zero)
{
    tr_reshape(m.g, m.x, "batch=0 rest=24");
}
WRONG(param_text)
{
    tr_param(m.g, tr_zeros(), "p", "embed 8");
}
WRONG(param_negative)
{
    tr_param(m.g, tr_zeros(), "p", "embed=%d", -8);
}
WRONG(param_huge)
{
    tr_param(m.g, tr_zeros(), "p", "a=4294967296 b=4294967296");
}
WRONG(param_rank)
{
    tr_param(m.g, tr_zeros(), "p", "1 2 3 4 5 6 7 8 9");
}
WRONG(param_twice)
{
    vector(m, 3);
    vector(m, 3);
}
WRONG(param_quote)
{
    tr_param(m.g, tr_zeros(), "p\"q", "embed=8");
}
WRONG(layers_nest)
{
    tr_layer_begin(m.g, 0, "h.0.");
    tr_layer_begin(m.g, 1, "h.1.");
}
WRONG(too_many_dim_names)
{
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        tr_param(m.g, tr_zeros(), name, "dim_%c%c=1", 'a' + i / 20, 'a' + i % 20);
    }
}

static void test_wrong_models(void)
{
    static const struct {
        void (*build)(wrong_model);
        const char *message;
    } wrong[] = {
        {add_shapes, "op add: the second input must have the first's last dims: [batch=2, seq=3, "
                     "embed=8] does not "
                     "go with [embed=7]"},
        {add_longer,
         "op add: the second input must have the first's last dims: [embed=8] does not go with"},
        {add_ids, "op add: input 0 is i32[batch=2, seq=3]; it takes f32 and bf16 only"},
        {mul_shapes,
         "op mul: the second input must have the first's last dims: [batch=2, seq=3, embed=8] does not go with"},
        {scale_ids, "op scale: input 0 is i32[batch=2, seq=3]"},
        {gelu_ids, "op activate: input 0 is i32[batch=2, seq=3]"},
        {gelu_of_nothing, "op activate: input 0 is missing"},
        {dropout_of_one, "dropout 1: it must be in [0, 1)"},
        {dropout_negative, "dropout -0.1"},
        {linear_contracts,
         "op linear: the input's last dim must be the one that the weight contracts: "
         "[batch=2, seq=3, embed=8] does not go with [embed=8, mlp=5]"},
        {linear_bias,
         "op linear: the bias must have the weight's output dims: [embed=8] does not go with"},
        {linear_bias_rank, "op linear: the bias must have the weight's output dims: [a=5, b=2]"},
        {linear_vector, "op linear: the weight must have two dims or more"},
        {linear_ids, "op linear: input 0 is i32[batch=2, seq=3]"},
        {linear_of_nothing, "op linear: input 1 is missing"},
        {linear_bias_from_elsewhere, "op linear: input 2 is missing"},
        {norm_weight, "op layer_norm: the norm's weight must have the input's last dim: [batch=2, "
                      "seq=3, embed=8] "
                      "does not go with [embed=7]"},
        {norm_bias, "op layer_norm: the norm's bias must have the input's last dim"},
        {norm_matrix,
         "op layer_norm: the norm's weight and bias must have one dim: [embed=8, mlp=5]"},
        {embedding_ids, "op embedding: takes a table of two dims and i32 ids of at most seven, not "
                        "f32[embed=8, mlp=5] and f32[batch=2, seq=3, embed=8]"},
        {embedding_table, "op embedding: takes a table of two dims"},
        {attention_rank,
         "op attention: packed query, key and value must be [batch, seq, 3, heads, head_dim], not "
         "[batch=2, seq=3, embed=8]"},
        {attention_packing, "not [batch=2, seq=3, qkv=2, heads=2, head_dim=2]"},
        {attention_dropout, "op attention: window 0 and dropout 1"},
        {attention_window, "op attention: window -1"},
        {reshape_size,
         "op reshape: [batch=2, seq=3, embed=8] has 48 elements and [batch=2, rest=25] has 50"},
        {reshape_text, "op reshape: dims \"batch=two\": expected"},
        {reshape_zero, "op reshape: dim 0 is 0"},
        {param_text, "parameter p: dims \"embed 8\": expected"},
        {param_negative, "p: dim 0 is -8; a size must be positive"},
        {param_huge,
         "p: dim 1 is 4294967296; a size must be positive and the whole below 2^63 bytes"},
        {param_rank, "parameter p: dims \"1 2 3 4 5 6 7 8 9\": expected up to 8"},
        {param_twice, "the name vector is used by two parameters"},
        {param_quote, "has a quote or a line break in it"},
        {layers_nest, "layer 1 begins inside of layer 0; layers do not nest"},
        {too_many_dim_names, "a graph has at most 250 names of dims"},
    };
    for (int64_t i = 0; i < TR_COUNT(wrong); i++) {
        tr_graph *g = tr_graph_new("wrong", TR_F32);
        const char *names[] = {"batch", "seq", "embed"};
        const int64_t dims[] = {2, 3, 8};
        wrong_model m = {.g = g};
        m.x = tr_graph_leaf(g, TR_INPUT, "x", tr_shape_of(g, TR_F32, 3, names, dims), tr_zeros());
        m.ids =
            tr_graph_leaf(g, TR_INPUT, "ids", tr_shape_of(g, TR_I32, 2, names, dims), tr_zeros());
        m.w = tr_param(g, tr_zeros(), "w", "embed=8 mlp=5");
        wrong[i].build(m);
        CHECK(tr_gelu(g, m.x) == 0); /* the first error sticks */
        tr_error *error = tr_graph_error_take(g);
        const char *text = error ? tr_error_text(error) : "(no error)";
        if (!strstr(text, wrong[i].message))
            FAIL("wrong model %d: \"%s\", expected \"%s\"", (int)i, text, wrong[i].message);
        if (error && (tr_error_blame(error) != TR_USER || strchr(text, '\n') || strlen(text) > 300))
            FAIL("wrong model %d: \"%s\" is not one sentence to the user", (int)i, text);
        tr_error_free(error);
        tr_graph_free(g);
    }
}

int main(void)
{
    TEST(test_wrong_models);
    return check_report();
}
