/* What the op families share: small helpers for shape rules and gradients. Private to src/ops. */
#pragma once
#include "ir/graph.h"
#include "ir/table.h"

#define TR_INFER(name)                                                                     \
    static tr_error *name(const tr_graph *g, const tr_value *in, int n_in, const tr_attr *attrs, \
                          tr_shape *out, int *n_out)
#define TR_UNUSED_RULE (void)g, (void)in, (void)n_in, (void)attrs

static inline const tr_shape *shape_in(const tr_graph *g, const tr_value *in, int k)
{
    return &g->values[in[k]].shape;
}

static inline bool is_activation(tr_dtype dtype)
{
    return dtype == TR_F32 || dtype == TR_BF16 || dtype == TR_F16;
}

static inline tr_shape scalar_f32(void)
{
    return (tr_shape){.dtype = TR_F32, .rank = 1, .dims = {1}};
}

static inline bool has(const tr_value *in, int n_in, int k)
{
    return k < n_in && in[k];
}

/* NULL when the inputs that are there are f32, bf16 or f16. */
tr_error *tr_floats_only(const tr_graph *g, const tr_value *in, int n_in);
/* Weight (input 0), gradient and moments of one size; a bf16 weight needs its low half, an f32 one has none. */
tr_error *tr_check_update(const tr_graph *g, const tr_value *in, int n_in, int moments, int low);
/* "what: [embed=768] does not go with [mlp=3072]" */
tr_error *tr_dims_differ(const tr_graph *g, const char *what, const tr_shape *a, const tr_shape *b);
/* NULL when dims [first_a, first_a + count) of a equal those of b from first_b. */
tr_error *tr_dims_match(const tr_graph *g, const char *what, const tr_shape *a, int first_a,
                        const tr_shape *b, int first_b, int count);
