/* Attention where all queries and all keys of a head fit two of the processor's tiles: windows of Swin, the few
 * patches of a small ViT. There the general kernel's time goes into packing, and so each head is done in one
 * straight line, and what is multiplied stays in the first cache.
 *
 * The same algorithm as attention.c and attention_grad.c, scores as s[key][query], with no running maximum. Padding
 * (to whole tiles) is zero in every operand and stays so from head to head: only what the shape has is written.
 */
#include "kernels/fast/attention_tile.h"

#if TILE_AMX
#include <math.h>

enum {
    EDGE = 16,         /* rows of a tile, and words of its row: pairs */
    MOST = 2 * EDGE,   /* queries or keys */
    WIDEST = 128,      /* e */
    ROW = WIDEST / 2,  /* words */
};

struct tile_short {
    word q_lanes[ROW * MOST], dout_lanes[ROW * MOST];         /* [word of e][query] */
    word k_rows[MOST * ROW], v_rows[MOST * ROW];              /* where they are no whole tiles in the tensor */
    word k_pairs[EDGE * WIDEST], v_pairs[EDGE * WIDEST];      /* [pair of rows][e] */
    word q_pairs[EDGE * WIDEST], dout_pairs[EDGE * WIDEST];
    word s[MOST * MOST], dp[MOST * MOST];                     /* [key][query]: scores, do v^T */
    word p_rows[MOST * EDGE], ds_rows[MOST * EDGE];           /* [key][pair of queries]: weights, ds */
    word along[MOST * EDGE];                                  /* [query][pair of keys]: weights, in the gradient ds */
    float sum[MOST * WIDEST];                                 /* a product */
    float lse[MOST], d[MOST], inverse[MOST];
    int32_t segments[MOST];                                   /* of the queries */
};

bool TILE(is_short)(const tr_attention_shape *a)
{
    return a->bf16 && !a->wide && !a->more && !a->causal && a->window == 0 && a->p == 0 && a->h == a->g &&
           a->t <= MOST && a->s <= MOST && a->e % (2 * EDGE) == 0 && a->e <= WIDEST;
}

size_t TILE(short_bytes)(void)
{
    return sizeof(tile_short);
}

void TILE(short_clear)(tile_short *r)
{
    memset(r, 0, sizeof *r);
}

static int64_t tiles_of(int64_t n)
{
    return (n + EDGE - 1) / EDGE;
}

/* n rows as the tiles take them: where they lie if those are whole tiles, else copied. */
static const word *rows_of(word *room, const void *from, int64_t step, int64_t n, int64_t words, int64_t *row)
{
    *row = step / 2;
    if (n % EDGE == 0 && step % 2 == 0)
        return from;
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < words; c += TR_VL) {
            vf x = vf_load((const float *)((const uint16_t *)from + r * step + 2 * c));
            vf_store(room + r * words + c, x);
        }
    *row = words;
    return room;
}

TR_INLINE void fetch(const uint16_t *from, int64_t step, int64_t n, int64_t e)
{
    enum { LINE = 32 };
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < e; c += LINE)
            __builtin_prefetch(from + r * step + c);
}

void TILE(short_fetch)(const tr_attention_shape *a, const tile_head *x)
{
    fetch(x->q, x->q_step, a->t, a->e);
    fetch(x->k, x->k_step, a->s, a->e);
    fetch(x->v, x->v_step, a->s, a->e);
    fetch(x->o, x->o_step, a->t, a->e);
}

/* Rows become columns. */
static void take_lanes(word *to, const uint16_t *from, int64_t step, int64_t n, int64_t words)
{
    static const uint16_t nothing[WIDEST];
    for (int64_t r = 0; r < n; r += EDGE)
        for (int64_t c = 0; c < words; c += EDGE) {
            vf x[EDGE];
            TILE_UNROLL
            for (int l = 0; l < EDGE; l++)
                x[l] = vf_load((const float *)((r + l < n ? from + (r + l) * step : nothing) + 2 * c));
            tile_transpose(x);
            TILE_UNROLL
            for (int l = 0; l < EDGE; l++)
                vf_store(to + (c + l) * MOST + r, x[l]);
        }
}

/* n rows of sums, each times factor[row] when given, else times `all`. */
static void give(uint16_t *to, int64_t step, const float *from, int64_t n, int64_t e, const float *factor, float all)
{
    for (int64_t r = 0; r < n; r++) {
        vf x = vf_set1(factor ? factor[r] : all);
        for (int64_t c = 0; c < e; c += TR_VL)
            vf_store_bf16(to + r * step + c, vf_load(from + r * e + c) * x);
    }
}

/* c[m][n] = a b over k words; m and k whole tiles. */
static void multiply(int64_t m, int64_t n, int64_t k, const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                     int64_t c_row)
{
    TILE(product)(true, false, false, m, n / TR_VL, k, a, a_row, b, b_row, c, c_row);
}

/* Pairs of keys of EDGE queries become rows of `along`. */
static void turn(tile_short *r, int v, vf pairs[EDGE])
{
    tile_transpose(pairs);
    TILE_UNROLL
    for (int l = 0; l < EDGE; l++)
        vf_store(r->along + (v * EDGE + l) * EDGE, pairs[l]);
}

/* The scores of key j with the queries of vector v, NOTHING where they do not see it; `keys`: the keys' segments or NULL. */
TR_INLINE vf score(const tr_attention_shape *a, const tile_short *r, int v, int64_t j, const float *bias, int64_t bias_step,
                   const int32_t *keys)
{
    vf x = vf_load(r->s + j * MOST + v * TR_VL);
    if (bias)
        x += vf_load(bias + j * bias_step + v * TR_VL);
    if (!keys)
        return x;
    vi own;
    memcpy(&own, r->segments + v * TR_VL, sizeof own);
    bool seen = keys[j] != 0;
    if (!seen || !a->query_segments)
        return seen ? x : vf_set1(NOTHING);
    return vf_select(vi_eq(own, keys[j] + (vi){0}), x, vf_set1(NOTHING));
}

static void take_segments(const tr_attention_shape *a, tile_short *r, int64_t b)
{
    if (a->query_segments)
        memcpy(r->segments, a->query_segments + b % a->segment_rows * a->t, (size_t)a->t * sizeof *r->segments);
}

/* Weights of the queries of vector v. */
static void softmax(const tr_attention_shape *a, tile_short *r, int v, const float *bias, int64_t bias_step,
                    const int32_t *keys, float *lse)
{
    word *s = r->s + v * TR_VL;
    vf top = vf_set1(-INFINITY), scale = vf_set1(a->scale * 1.44269504f), sum = vf_zero(), pairs[EDGE];
    for (int64_t j = 0; j < a->s; j++) {
        vf x = score(a, r, v, j, bias, bias_step, keys);
        if (bias || keys)
            vf_store(s + j * MOST, x);
        top = vf_max(top, x);
    }
    vf base = top * scale;
    TILE_UNROLL
    for (int j = 0; j < EDGE; j++) {
        vf p[2] = {vf_zero(), vf_zero()};
        for (int u = 0; u < 2 && 2 * j + u < a->s; u++) {
            vf x = vf_load(s + (2 * j + u) * MOST);
            p[u] = tile_exp2(vf_fma(x, scale, -base));
            if (keys)
                p[u] = vf_select(vf_le(x, vf_set1(NOTHING / 2)), vf_zero(), p[u]);
            sum += p[u];
        }
        pairs[j] = (vf)tile_pair(p[0], p[1]);
    }
    turn(r, v, pairs);
    vf_store(r->inverse + v * TR_VL, vf_select(vf_le(sum, vf_zero()), vf_zero(), vf_set1(1.0f) / sum));
    if (!lse)
        return;
    float of[TR_VL], highest[TR_VL];
    vf_store(of, sum);
    vf_store(highest, top);
    for (int64_t i = v * TR_VL; i < TR_MIN(a->t, (v + 1) * TR_VL); i++)
        lse[i] = highest[i % TR_VL] * a->scale + logf(of[i % TR_VL]);
}

void TILE(short_forward)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, float *lse,
                         const float *bias, int64_t bias_step)
{
    take_segments(a, r, b);
    tile_form f = tile_form_of(a); /* col is e */
    int64_t words = a->e / 2, queries = EDGE * tiles_of(a->t), keys = EDGE * tiles_of(a->s), k_row;
    const word *k = rows_of(r->k_rows, x->k, x->k_step, a->s, words, &k_row);
    take_lanes(r->q_lanes, x->q, x->q_step, a->t, words);
    TILE(pack_pairs)(&f, r->v_pairs, x->v, x->v_step, a->s, a->s);
    multiply(keys, queries, words, k, k_row, r->q_lanes, MOST, r->s, MOST);
    for (int v = 0; v < queries / EDGE; v++)
        softmax(a, r, v, bias, bias_step, tile_key_segments(a, b), lse);
    multiply(queries, a->e, EDGE, r->along, EDGE, r->v_pairs, a->e, r->sum, a->e);
    give(x->o, x->o_step, r->sum, a->t, a->e, r->inverse, 0);
}

/* From scores and do v^T to the weights and ds of the queries of vector v. */
static void gradient(const tr_attention_shape *a, tile_short *r, int v, const float *bias, float *dbias, int64_t bias_step,
                     const int32_t *keys)
{
    vf scale = vf_set1(a->scale * 1.44269504f), lse = vf_load(r->lse + v * TR_VL), d = vf_load(r->d + v * TR_VL), pairs[EDGE];
    TILE_UNROLL
    for (int j = 0; j < EDGE; j++) {
        vf ds[2] = {vf_zero(), vf_zero()};
        for (int u = 0; u < 2 && 2 * j + u < a->s; u++) {
            int64_t key = 2 * j + u, at = key * MOST + v * TR_VL;
            vf seen = score(a, r, v, key, bias, bias_step, keys), p = tile_exp2(vf_fma(seen, scale, -lse));
            if (keys)
                p = vf_select(vf_le(seen, vf_set1(NOTHING / 2)), vf_zero(), p);
            ds[u] = p * (vf_load(r->dp + at) - d);
            if (dbias) {
                float *to = dbias + key * bias_step + v * TR_VL;
                vf_store(to, vf_load(to) + ds[u]);
            }
            vf_store_bf16((word_half *)r->p_rows + at, p);
            vf_store_bf16((word_half *)r->ds_rows + at, ds[u]);
        }
        pairs[j] = (vf)tile_pair(ds[0], ds[1]);
    }
    turn(r, v, pairs);
}

void TILE(short_grad)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, const tile_head *dx,
                      const float *lse, const float *bias, float *dbias, int64_t bias_step)
{
    take_segments(a, r, b);
    tile_form f = tile_form_of(a); /* col is e */
    int64_t e = a->e, words = e / 2, queries = EDGE * tiles_of(a->t), keys = EDGE * tiles_of(a->s), k_row, v_row;
    const word *k = rows_of(r->k_rows, x->k, x->k_step, a->s, words, &k_row),
               *v = rows_of(r->v_rows, x->v, x->v_step, a->s, words, &v_row);
    take_lanes(r->q_lanes, x->q, x->q_step, a->t, words);
    take_lanes(r->dout_lanes, dx->o, dx->o_step, a->t, words);
    for (int64_t i = 0; i < a->t; i++) {
        const uint16_t *o = x->o + i * x->o_step, *dout = dx->o + i * dx->o_step;
        vf d = vf_zero();
        for (int64_t c = 0; c < e; c += TR_VL)
            d = vf_fma(vf_load_bf16(o + c), vf_load_bf16(dout + c), d);
        r->d[i] = vf_sum(d);
        r->lse[i] = lse[i] == -INFINITY ? 0 : lse[i] * 1.44269504f; /* that query sees nothing: its weights are 0 */
    }
    /* Between what is written and the product that reads it there is other work: it need not wait then. */
    TILE(pack_pairs)(&f, r->k_pairs, x->k, x->k_step, a->s, a->s);
    multiply(keys, queries, words, k, k_row, r->q_lanes, MOST, r->s, MOST);
    multiply(keys, queries, words, v, v_row, r->dout_lanes, MOST, r->dp, MOST);
    TILE(pack_pairs)(&f, r->q_pairs, x->q, x->q_step, a->t, a->t);
    TILE(pack_pairs)(&f, r->dout_pairs, dx->o, dx->o_step, a->t, a->t);
    for (int u = 0; u < queries / EDGE; u++)
        gradient(a, r, u, bias, dbias, bias_step, tile_key_segments(a, b));
    multiply(keys, e, EDGE, r->p_rows, EDGE, r->dout_pairs, e, r->sum, e);
    give(dx->v, dx->v_step, r->sum, a->s, e, NULL, 1);
    multiply(keys, e, EDGE, r->ds_rows, EDGE, r->q_pairs, e, r->sum, e);
    give(dx->k, dx->k_step, r->sum, a->s, e, NULL, a->scale);
    multiply(queries, e, EDGE, r->along, EDGE, r->k_pairs, e, r->sum, e);
    give(dx->q, dx->q_step, r->sum, a->t, e, NULL, a->scale);
}

#else

bool TILE(is_short)(const tr_attention_shape *a)
{
    (void)a;
    return false;
}

size_t TILE(short_bytes)(void)
{
    return 0;
}

void TILE(short_clear)(tile_short *r)
{
    (void)r;
}

void TILE(short_fetch)(const tr_attention_shape *a, const tile_head *x)
{
    (void)a, (void)x;
}

void TILE(short_forward)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, float *lse,
                         const float *bias, int64_t bias_step)
{
    (void)a, (void)r, (void)b, (void)x, (void)lse, (void)bias, (void)bias_step;
}

void TILE(short_grad)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, const tile_head *dx,
                      const float *lse, const float *bias, float *dbias, int64_t bias_step)
{
    (void)a, (void)r, (void)b, (void)x, (void)dx, (void)lse, (void)bias, (void)dbias, (void)bias_step;
}
#endif
