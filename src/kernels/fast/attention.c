/* Attention, forward, without ever holding a row of scores (Dao et al. 2022), and the table of the
 * family.
 *
 * Algorithm: for LANES queries of one head, over tiles of keys: scores, their running maximum m,
 * weights p = exp(scale * (score - m)), the running sum l of p and o = sum p v, where l and o are
 * multiplied by exp(scale * (old m - m)) when m grows. At the end o / l is the output and lse =
 * scale * m + log l. What no query sees is skipped (attention_tile.h), so that causal attention
 * costs half. Cost: 4 t s e flops a head (half when causal); memory: a packed copy of one head's
 * keys and values a thread.
 *
 * Threads: the (head, block of queries) are put in one order and cut where their cost is even; a
 * block is computed in the same way whoever does it.
 */
#include "kernels/fast/attention_tile.h"

#include <math.h>
#include <omp.h>

/* One thread's scratch. */
typedef struct room {
    word *k, *v;               /* where keys and values are packed: rows, pairs */
    const word *keys, *values; /* there, or in the tensors themselves when they lie just so */
    word *q, *q_lanes, *s;     /* s: [KEYS][LANES] scores, then weights (as pairs when dot) */
    float *o, *m, *l, *factor;
    tile_short *brief; /* of a short sequence: all that is needed */
    tile_bias bias;    /* shared */
} room;

static size_t room_set(room *r, const tr_attention_shape *a, int64_t keys, void *memory)
{
    tile_form f = tile_form_of(a);
    int64_t at = 0;
    const struct {
        void *field;
        int64_t words;
    } parts[] = {{&r->k, tile_keys(&f, keys) * f.row},
                 {&r->v, tile_words(f.dot, tile_keys(&f, keys)) * f.col},
                 {&r->q, LANES * f.row},
                 {&r->q_lanes, LANES * f.row},
                 {&r->s, KEYS * LANES},
                 {&r->o, LANES * f.col},
                 {&r->m, LANES},
                 {&r->l, LANES},
                 {&r->factor, a->p > 0 ? KEYS * LANES : 0},
                 {&r->brief, TILE(is_short)(a) ? (int64_t)(TILE(short_bytes)() / sizeof(word)) : 0}};
    for (int64_t i = 0; i < TR_COUNT(parts); i++) {
        word *place = memory ? (word *)memory + at : NULL;
        memcpy(parts[i].field, &place, sizeof place);
        at += (parts[i].words + 15) / 16 * 16;
    }
    return (size_t)at * sizeof(word);
}

size_t TILE(forward_bytes)(const tr_attention_shape *a, int64_t keys)
{
    room r;
    size_t bias = (size_t)(a->h * TILE(bias_of)(a, keys, NULL).head) * sizeof(float);
    return room_set(&r, a, keys, NULL) * (size_t)omp_get_max_threads() + bias;
}

static bool is_adjusted(const tr_attention_shape *a)
{
    return a->relative || a->key_segments;
}

/* The tile's weights for one vector of queries. `general`: with a mask or dropout. Gives what o is
 * to be multiplied by. */
TR_INLINE vf softmax(bool dot, bool general, const tr_attention_shape *a, const room *r,
                     const tile_step *t, int64_t i, int64_t offset, int v)
{
    word *s = r->s + v * TR_VL;
    vf old = vf_load(r->m + v * TR_VL), top[4] = {old, old, old, old};
    int64_t n = t->n, j = 0;
    if (general && t->masked)
        for (; j < n; j++) {
            vf x = vf_select(tile_visible(a, i, offset, t->j + j, v), vf_load(s + j * LANES),
                             vf_set1(NOTHING));
            vf_store(s + j * LANES, x);
            top[0] = vf_max(top[0], x);
        }
    for (; j + 4 <= n; j += 4) {
        TILE_UNROLL
        for (int u = 0; u < 4; u++)
            top[u] = vf_max(top[u], vf_load(s + (j + u) * LANES));
    }
    for (; j < n; j++)
        top[0] = vf_max(top[0], vf_load(s + j * LANES));
    vf m = vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3]));
    vf scale = vf_set1(a->scale * 1.44269504f), base = m * scale, sum[2] = {vf_zero(), vf_zero()};
    for (j = 0; j < n; j += 2) {
        vf p[2] = {vf_zero(), vf_zero()};
        int64_t pair = j + 2 <= n ? 2 : 1;
        TILE_UNROLL
        for (int u = 0; u < 2; u++) {
            if (u >= pair)
                break;
            vf x = vf_load(s + (j + u) * LANES);
            p[u] = tile_exp2(vf_fma(x, scale, -base));
            if (general)
                p[u] = vf_select(vf_le(x, vf_set1(NOTHING / 2)), vf_zero(), p[u]);
            sum[u] += p[u];
            if (general && a->p > 0)
                p[u] *= vf_load(r->factor + (j + u) * LANES + v * TR_VL);
            if (!dot)
                vf_store(s + (j + u) * LANES, p[u]);
        }
        if (dot) {
            vu bits = tile_pair(p[0], p[1]);
            memcpy(s + j / 2 * LANES, &bits, sizeof bits);
        }
    }
    vf change = tile_exp2((old - m) * scale);
    vf_store(r->m + v * TR_VL, m);
    vf_store(r->l + v * TR_VL, vf_fma(vf_load(r->l + v * TR_VL), change, sum[0] + sum[1]));
    return change;
}

static void softmax_tile(const tr_attention_shape *a, const tile_form *f, const room *r,
                         const tile_step *t, int64_t i, int64_t offset)
{
    bool general = t->masked || a->p > 0 || a->key_segments;
    for (int v = t->low; v < t->high; v++) {
        vf change = f->dot    ? general ? softmax(TILE_DOT, true, a, r, t, i, offset, v)
                                        : softmax(TILE_DOT, false, a, r, t, i, offset, v)
                       : general ? softmax(false, true, a, r, t, i, offset, v)
                              : softmax(false, false, a, r, t, i, offset, v);
        float factor[TR_VL];
        vf_store(factor, change);
        for (int l = 0; l < TR_VL; l++) {
            if (factor[l] == 1.0f)
                continue;
            float *o = r->o + (v * TR_VL + l) * f->col;
            for (int64_t c = 0; c < f->col; c += TR_VL)
                vf_store(o + c, vf_load(o + c) * factor[l]);
        }
    }
}

/* Row l begins with what other keys have given query i: o and lse are a sum of weights 1 at the score lse / scale. */
static void go_on(const tr_attention_shape *a, const tile_form *f, const room *r, tr_rows o, float lse,
                  int64_t b, int64_t h, int64_t i, int64_t l)
{
    if (lse == -INFINITY)
        return;
    memcpy(r->o + l * f->col, tile_at(o, false, b, i, h), (size_t)f->e * sizeof *r->o);
    r->m[l] = lse / a->scale;
    r->l[l] = 1;
}

/* Queries i .. i + n of one head. */
static void attend(const tr_attention_shape *a, const tile_form *f, const room *r, tr_rows q,
                   tr_rows o, float *lse, int64_t b, int64_t h, int64_t i, int64_t n,
                   int64_t offset, int64_t keys, int64_t packed)
{
    int64_t used = tile_lanes(n);
    TILE(pack_rows)(f, r->q, tile_at(q, f->bf16, b, i, h), q.step, n, used);
    TILE(pack_lanes)(f, r->q_lanes, r->q, used);
    memset(r->o, 0, (size_t)(used * f->col) * sizeof *r->o);
    memset(r->l, 0, (size_t)used * sizeof *r->l);
    for (int v = 0; v < used; v++)
        r->m[v] = NOTHING;
    for (int64_t l = 0; a->more && l < n; l++)
        go_on(a, f, r, o, lse[(b * a->h + h) * a->lse_rows + i + l], b, h, i + l, l);
    int32_t lanes[LANES];
    const int32_t *segments = tile_segments(a, b, i, n, lanes);
    tile_span x = tile_span_of(a, i, n, offset, keys);
    for (int64_t j = x.first / TILE_EDGE * TILE_EDGE; j < x.last;) {
        tile_step t = tile_step_at(a, &x, i, n, offset, j);
        int64_t at = j - packed;
        if (r->keys == r->k)
            tile_fill(f, &t, keys);
        TILE(product)
        (f->dot, false, false, t.rows, t.high - t.low, f->words, r->keys + at * f->row, f->row,
         r->q_lanes + t.i0, LANES, r->s + t.i0, LANES);
        if (is_adjusted(a))
            TILE(adjust)(&t, r->s, tile_bias_at(&r->bias, h, i), r->bias.step, segments, tile_key_segments(a, b));
        if (a->p > 0)
            TILE(dropout)(a, b, h, i, j, t.n, r->factor);
        softmax_tile(a, f, r, &t, i, offset);
        tile_clear_behind(&t, r->s);
        TILE(product)
        (f->dot, true, true, t.i1 - t.i0, f->col / TR_VL, tile_words(f->dot, t.rows), r->s + t.i0,
         LANES, r->values + tile_words(f->dot, at) * f->col, f->col, r->o + t.i0 * f->col, f->col);
        j += t.n;
    }
    tile_form out = *f;
    out.bf16 = f->bf16 && !a->wide;
    for (int64_t l = 0; l < n; l++) {
        float inverse = r->l[l] == 0 ? 0 : 1.0f / r->l[l];
        TILE(unpack)(&out, tile_at(o, out.bf16, b, i + l, h), o.step, r->o + l * f->col, 1, inverse);
        if (lse)
            lse[(b * a->h + h) * a->lse_rows + i + l] =
                r->l[l] == 0 ? -INFINITY : r->m[l] * a->scale + logf(r->l[l]);
    }
}

/* Keys and values of one head, n rows. */
static void take_keys(const tile_form *f, room *r, const void *k, int64_t k_step, const void *v,
                      int64_t v_step, int64_t n)
{
    r->keys = r->k;
    r->values = r->v;
    bool whole = f->dot == f->bf16 && f->row * (f->dot ? 2 : 1) == f->e;
    if (whole && k_step == f->e)
        r->keys = k;
    else
        TILE(pack_rows)(f, r->k, k, k_step, n, tile_keys(f, n));
    if (f->dot)
        TILE(pack_pairs)(f, r->v, v, v_step, n, tile_keys(f, n));
    else if (whole && v_step == f->e)
        r->values = v;
    else
        TILE(pack_rows)(f, r->v, v, v_step, n, n);
}

/* About the time of a block: keys it works on, and what it costs to begin. */
static int64_t block_cost(const tr_attention_shape *a, int64_t i, int64_t n, int64_t offset,
                          int64_t keys)
{
    tile_span x = tile_span_of(a, i, n, offset, keys);
    return x.last - x.first + 32;
}

void TILE(forward)(const tr_attention_shape *a, tr_rows q, tr_rows k, tr_rows v, tr_rows o,
                   float *lse, int64_t offset, int64_t keys, void *scratch, int64_t most)
{
    tile_form f = tile_form_of(a);
    int64_t group = a->h / a->g, head_cost = 0;
    for (int64_t i = 0; i < a->t; i += LANES)
        head_cost += block_cost(a, i, TR_MIN(LANES, a->t - i), offset, keys);
    int64_t all_cost = head_cost * a->b * a->h, lowest, unused;
    tr_attention_range(a, 0, offset, keys, &lowest, &unused);
    lowest = lowest / TILE_EDGE * TILE_EDGE;
#pragma omp parallel
    {
        room r;
        size_t bytes = room_set(&r, a, most, NULL);
        int threads = omp_get_num_threads(), thread = omp_get_thread_num();
        room_set(&r, a, most, (char *)scratch + bytes * (size_t)thread);
        r.bias = TILE(bias_of)(a, keys, (char *)scratch + bytes * (size_t)threads);
        if (a->relative) {
#pragma omp for schedule(static)
            for (int64_t h = 0; h < a->h; h++)
                TILE(bias_fill)(a, &r.bias, h, offset, keys);
        }
        int64_t from = all_cost * thread / threads, to = all_cost * (thread + 1) / threads,
                group_packed = -1;
        bool brief = TILE(is_short)(a);
        if (brief)
            TILE(short_clear)(r.brief);
        tile_begin(&f);
        for (int64_t head = 0; head < a->b * a->h; head++) {
            int64_t cost = head * head_cost, b = head / a->h, h = head % a->h;
            if (cost >= to || cost + head_cost <= from)
                continue;
            for (int64_t i = 0; i < a->t; i += LANES) {
                int64_t n = TR_MIN(LANES, a->t - i),
                        middle = cost + block_cost(a, i, n, offset, keys) / 2;
                cost += block_cost(a, i, n, offset, keys);
                if (middle < from || middle >= to)
                    continue;
                if (brief) {
                    tile_head x = tile_head_of(q, k, v, o, b, h);
                    if (head + 1 < a->b * a->h) {
                        tile_head next = tile_head_of(q, k, v, o, (head + 1) / a->h, (head + 1) % a->h);
                        TILE(short_fetch)(a, &next);
                    }
                    TILE(short_forward)(a, r.brief, b, &x, lse ? lse + (b * a->h + h) * a->lse_rows : NULL,
                                        tile_bias_at(&r.bias, h, 0), r.bias.step);
                    continue;
                }
                if (group_packed != head / group) {
                    group_packed = head / group;
                    take_keys(&f, &r, tile_at(k, f.bf16, b, lowest, h / group), k.step,
                              tile_at(v, f.bf16, b, lowest, h / group), v.step, keys - lowest);
                }
                attend(a, &f, &r, q, o, lse, b, h, i, n, offset, keys, lowest);
            }
        }
        tile_end(&f);
    }
}

static tr_error *attention_prepare(tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    call->scratch_bytes = TILE(forward_bytes)(&a, a.s);
    return NULL;
}

static void attention_run(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    tr_rows x[3];
    tr_rows_qkv(&call->in[0], a.packed, x);
    TILE(forward)
    (&a, x[0], x[1], x[2], tr_rows_of(&call->out[0]), call->out[1].data, a.offset, a.s,
     call->scratch, a.s);
}

/* Maxima of scores are maxima of scaled scores. */
static bool accepts(const tr_call *call)
{
    return call->attrs[TR_ATTENTION_SCALE].f > 0;
}

extern const tr_kernel TR_KERNELS(attention)[];
const tr_kernel TR_KERNELS(attention)[] = {
    {TR_OP_attention, TR_ISA_NAME, accepts, attention_prepare, attention_run, NULL},
    {TR_OP_attention_grad, TR_ISA_NAME, accepts, TILE(grad_prepare), TILE(grad_run), NULL},
    {TR_OP_attention_cached, TR_ISA_NAME, accepts, TILE(cached_prepare), TILE(cached_run), NULL},
    {0},
};
