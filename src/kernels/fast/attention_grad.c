/* The gradient of attention from the saved lse (Dao et al. 2022), without a row of scores in
 * memory.
 *
 * Algorithm: for LANES queries and each tile of keys that they see, scores and do v^T are computed
 * anew; p = exp(scale * score - lse),  ds = p (m do v^T - d),  d = rowsum(do * o),  m: dropout's
 * factor and dv += (m p)^T do, dk += ds^T q, dq += ds k; dq and dk are multiplied by scale when
 * they are written. dq of the block is complete after its keys; dk and dv of a (batch, key head)
 * stay in scratch, in f32, until all query heads of its group are done. Cost: five products of 2 t
 * s e flops a head (half when causal).
 *
 * Threads: each takes whole (batch, key head)s, so that nothing is added by two.
 */
#include "kernels/fast/attention_tile.h"

#include <omp.h>

/* One thread's scratch. */
typedef struct room {
    word *k, *v, *k_pairs; /* rows of all keys; k_pairs == k in f32 */
    float *dk, *dv;        /* [s][col] */
    word *q, *dout, *q_pairs, *dout_pairs, *q_lanes, *dout_lanes; /* of one block of queries */
    float *dq, *lse, *d;
    word *s, *dp; /* [KEYS][LANES]: scores and do v^T, then in f32 m p and ds */
    word *p_rows, *ds_rows, *ds_pairs; /* where the products read m p and ds */
    float *factor;
    tile_short *brief; /* of a short sequence: all that is needed but dbias */
    float *dbias;   /* as bias is spread out, of this thread */
    tile_bias bias; /* shared */
} room;

static size_t room_set(room *r, const tr_attention_shape *a, void *memory)
{
    tile_form f = tile_form_of(a);
    int64_t at = 0, dot = f.dot, keys = tile_keys(&f, a->s);
    const struct {
        void *field;
        int64_t words;
    } parts[] = {{&r->k, keys * f.row},
                 {&r->v, keys * f.row},
                 {&r->k_pairs, dot * tile_words(true, keys) * f.col},
                 {&r->dk, keys * f.col},
                 {&r->dv, keys * f.col},
                 {&r->q, LANES * f.row},
                 {&r->dout, LANES * f.row},
                 {&r->q_pairs, dot * LANES / 2 * f.col},
                 {&r->dout_pairs, dot * LANES / 2 * f.col},
                 {&r->q_lanes, LANES * f.row},
                 {&r->dout_lanes, LANES * f.row},
                 {&r->dq, LANES * f.col},
                 {&r->lse, LANES},
                 {&r->d, LANES},
                 {&r->s, KEYS * LANES},
                 {&r->dp, KEYS * LANES},
                 {&r->p_rows, dot * KEYS * LANES / 2},
                 {&r->ds_rows, dot * KEYS * LANES / 2},
                 {&r->ds_pairs, dot * KEYS * LANES / 2},
                 {&r->factor, a->p > 0 ? KEYS * LANES : 0},
                 {&r->brief, TILE(is_short)(a) ? (int64_t)(TILE(short_bytes)() / sizeof(word)) : 0},
                 {&r->dbias, a->h * TILE(bias_of)(a, a->s, NULL).head}};
    for (int64_t i = 0; i < TR_COUNT(parts); i++) {
        word *place = memory ? (word *)memory + at : NULL;
        memcpy(parts[i].field, &place, sizeof place);
        at += (parts[i].words + 15) / 16 * 16;
    }
    if (!f.dot) {
        r->k_pairs = r->k, r->q_pairs = r->q, r->dout_pairs = r->dout;
        r->p_rows = r->s, r->ds_rows = r->ds_pairs = r->dp;
    }
    return (size_t)at * sizeof(word);
}

TR_INLINE float row_dot(bool bf16, const void *x, const void *y, int64_t n)
{
    vf sum = vf_zero();
    int64_t c = 0;
    for (; c + TR_VL <= n; c += TR_VL)
        sum = vf_fma(vf_load_as(x, c, bf16), vf_load_as(y, c, bf16), sum);
    if (c < n)
        sum = vf_fma(vf_load_as_n(x, c, (int)(n - c), bf16), vf_load_as_n(y, c, (int)(n - c), bf16),
                     sum);
    return vf_sum(sum);
}

/* From scores and do v^T to m p and ds, for one tile. */
TR_INLINE void gradient(bool dot, bool general, const tr_attention_shape *a, const room *r,
                        const tile_step *t, int64_t i, int64_t offset, float *dbias)
{
    vf scale = vf_set1(a->scale * 1.44269504f);
    for (int v = t->low; v < t->high; v++) {
        vf lse = vf_load(r->lse + v * TR_VL), d = vf_load(r->d + v * TR_VL);
        for (int64_t j = 0; j < t->n; j += 2) {
            vf ds[2] = {vf_zero(), vf_zero()};
            int64_t pair = j + 2 <= t->n ? 2 : 1;
            TILE_UNROLL
            for (int u = 0; u < 2; u++) {
                if (u >= pair)
                    break;
                int64_t at = (j + u) * LANES + v * TR_VL;
                vf x = vf_load(r->s + at), p = tile_exp2(vf_fma(x, scale, -lse)), dp = vf_load(r->dp + at);
                if (general && a->key_segments)
                    p = vf_select(vf_le(x, vf_set1(NOTHING / 2)), vf_zero(), p);
                if (general && t->masked)
                    p = vf_select(tile_visible(a, i, offset, t->j + j + u, v), p, vf_zero());
                if (general && a->p > 0) {
                    vf factor = vf_load(r->factor + at);
                    ds[u] = p * vf_fma(dp, factor, -d);
                    p *= factor;
                } else {
                    ds[u] = p * (dp - d);
                }
                if (general && dbias) {
                    float *to = dbias + (t->j + j + u) * r->bias.step + v * TR_VL;
                    vf_store(to, vf_load(to) + ds[u]);
                }
                if (dot) {
                    vf_store_bf16((word_half *)r->p_rows + at, p);
                    vf_store_bf16((word_half *)r->ds_rows + at, ds[u]);
                } else {
                    vf_store(r->s + at, p);
                    vf_store(r->dp + at, ds[u]);
                }
            }
            if (dot) {
                vu bits = tile_pair(ds[0], ds[1]);
                memcpy(r->ds_pairs + j / 2 * LANES + v * TR_VL, &bits, sizeof bits);
            }
        }
    }
}

static void gradient_tile(bool dot, const tr_attention_shape *a, const room *r, const tile_step *t,
                          int64_t i, int64_t offset, float *dbias)
{
    bool general = t->masked || a->p > 0 || dbias || a->key_segments;
    if (dot && general)
        gradient(TILE_DOT, true, a, r, t, i, offset, dbias);
    else if (dot)
        gradient(TILE_DOT, false, a, r, t, i, offset, NULL);
    else if (general)
        gradient(false, true, a, r, t, i, offset, dbias);
    else
        gradient(false, false, a, r, t, i, offset, NULL);
}

static void unpack(const tr_attention_shape *a, const tile_form *f, void *to, int64_t step, const float *from,
                   int64_t n, float factor)
{
    if (a->wide)
        TILE(unpack_add)(f, to, step, from, n, factor);
    else
        TILE(unpack)(f, to, step, from, n, factor);
}

/* Queries i .. i + n of one head. */
static void block(const tr_attention_shape *a, const tile_form *f, const room *r, const tile_grad *w,
                  int64_t b, int64_t h, int64_t i, int64_t n)
{
    tr_rows q = w->x[0], dout = w->dout;
    const void *q_at = tile_at(q, f->bf16, b, i, h), *dout_at = tile_at(dout, f->bf16, b, i, h);
    int64_t offset = a->offset, row = tile_words(f->dot, LANES), used = tile_lanes(n);
    bool narrow = f->bf16 && !a->wide;
    TILE(pack_rows)(f, r->q, q_at, q.step, n, used);
    TILE(pack_rows)(f, r->dout, dout_at, dout.step, n, used);
    TILE(pack_lanes)(f, r->q_lanes, r->q, used);
    TILE(pack_lanes)(f, r->dout_lanes, r->dout, used);
    if (f->dot) {
        TILE(pack_pairs)(f, r->q_pairs, q_at, q.step, n, used);
        TILE(pack_pairs)(f, r->dout_pairs, dout_at, dout.step, n, used);
    }
    memset(r->dq, 0, (size_t)(used * f->col) * sizeof *r->dq);
    for (int64_t l = 0; l < used; l++) {
        r->lse[l] = l < n ? w->lse[(b * a->h + h) * a->lse_rows + i + l] * 1.44269504f : 0;
        if (r->lse[l] == -INFINITY)
            r->lse[l] = -NOTHING; /* a query that sees nothing: p is 0 */
        r->d[l] = 0;
        if (l < n) {
            const void *x = tile_at(dout, f->bf16, b, i + l, h),
                       *y = tile_at(w->o, f->bf16, b, i + l, h);
            r->d[l] = f->bf16 ? row_dot(true, x, y, f->e) : row_dot(false, x, y, f->e);
        }
    }
    int32_t lanes[LANES];
    const int32_t *segments = tile_segments(a, b, i, n, lanes);
    float *dbias = a->relative ? r->dbias + (tile_bias_at(&r->bias, h, i) - r->bias.base) : NULL;
    tile_span x = tile_span_of(a, i, n, offset, a->s);
    for (int64_t j = x.first / TILE_EDGE * TILE_EDGE; j < x.last;) {
        tile_step t = tile_step_at(a, &x, i, n, offset, j);
        tile_fill(f, &t, a->s);
        int64_t seen = tile_words(f->dot, t.i1 - t.i0), first = f->dot ? t.i0 / 2 : t.i0;
        TILE(product)
        (f->dot, false, false, t.rows, t.high - t.low, f->words, r->k + j * f->row, f->row,
         r->q_lanes + t.i0, LANES, r->s + t.i0, LANES);
        TILE(product)
        (f->dot, false, false, t.rows, t.high - t.low, f->words, r->v + j * f->row, f->row,
         r->dout_lanes + t.i0, LANES, r->dp + t.i0, LANES);
        if (a->relative || a->key_segments)
            TILE(adjust)(&t, r->s, tile_bias_at(&r->bias, h, i), r->bias.step, segments, tile_key_segments(a, b));
        if (a->p > 0)
            TILE(dropout)(a, b, h, i, j, t.n, r->factor);
        gradient_tile(f->dot, a, r, &t, i, offset, dbias);
        tile_clear_behind(&t, r->ds_pairs);
        TILE(product)
        (f->dot, false, true, t.rows, f->col / TR_VL, seen, r->p_rows + first, row,
         r->dout_pairs + first * f->col, f->col, r->dv + j * f->col, f->col);
        TILE(product)
        (f->dot, false, true, t.rows, f->col / TR_VL, seen, r->ds_rows + first, row,
         r->q_pairs + first * f->col, f->col, r->dk + j * f->col, f->col);
        TILE(product)
        (f->dot, true, true, t.i1 - t.i0, f->col / TR_VL, tile_words(f->dot, t.rows),
         r->ds_pairs + t.i0, LANES, r->k_pairs + tile_words(f->dot, j) * f->col, f->col,
         r->dq + t.i0 * f->col, f->col);
        j += t.n;
    }
    unpack(a, f, tile_at(w->dx[0], narrow, b, i, h), w->dx[0].step, r->dq, n, a->scale);
}

/* All queries of a key head. */
static void key_head(const tr_attention_shape *a, const tile_form *f, const room *r, const tile_grad *w, int64_t b, int64_t g)
{
    int64_t group = a->h / a->g;
    bool narrow = f->bf16 && !a->wide;
    const void *k = tile_at(w->x[1], f->bf16, b, 0, g), *v = tile_at(w->x[2], f->bf16, b, 0, g);
    TILE(pack_rows)(f, r->k, k, w->x[1].step, a->s, tile_keys(f, a->s));
    TILE(pack_rows)(f, r->v, v, w->x[2].step, a->s, tile_keys(f, a->s));
    if (f->dot)
        TILE(pack_pairs)(f, r->k_pairs, k, w->x[1].step, a->s, tile_keys(f, a->s));
    memset(r->dk, 0, (size_t)(a->s * f->col) * sizeof *r->dk);
    memset(r->dv, 0, (size_t)(a->s * f->col) * sizeof *r->dv);
    for (int64_t h = g * group; h < (g + 1) * group; h++)
        for (int64_t i = 0; i < a->t; i += LANES)
            block(a, f, r, w, b, h, i, TR_MIN(LANES, a->t - i));
    unpack(a, f, tile_at(w->dx[1], narrow, b, 0, g), w->dx[1].step, r->dk, a->s, a->scale);
    unpack(a, f, tile_at(w->dx[2], narrow, b, 0, g), w->dx[2].step, r->dv, a->s, 1.0f);
}

static void brief_head(const tr_attention_shape *a, const room *r, const tile_grad *w, int64_t head)
{
    tile_head x[2], dx[2]; /* this one, and the next or the last */
    for (int64_t n = 0; n < 2; n++) {
        int64_t b = TR_MIN(head + n, a->b * a->h - 1) / a->h, h = TR_MIN(head + n, a->b * a->h - 1) % a->h;
        x[n] = tile_head_of(w->x[0], w->x[1], w->x[2], w->o, b, h);
        dx[n] = tile_head_of(w->dx[0], w->dx[1], w->dx[2], w->dout, b, h);
    }
    TILE(short_fetch)(a, &x[1]);
    TILE(short_fetch)(a, &dx[1]);
    int64_t b = head / a->h, h = head % a->h;
    float *dbias = a->relative ? r->dbias + (tile_bias_at(&r->bias, h, 0) - r->bias.base) : NULL;
    TILE(short_grad)(a, r->brief, b, &x[0], &dx[0], w->lse + (b * a->h + h) * a->lse_rows, tile_bias_at(&r->bias, h, 0), dbias,
                     r->bias.step);
}

/* Fills the bias, and clears the threads' sums of its gradient. */
static void start_bias(const tr_attention_shape *a, const tile_bias *x, void *scratch, size_t bytes, int threads)
{
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < a->h; h++) {
        TILE(bias_fill)(a, x, h, a->offset, a->s);
        for (int t = 0; t < threads; t++) {
            room r;
            room_set(&r, a, (char *)scratch + bytes * (size_t)t);
            memset(r.dbias + h * x->head, 0, (size_t)x->head * sizeof(float));
        }
    }
}

/* From the threads' spread-out sums to the rows of `relative`, in a fixed order. */
static void sum_bias(const tr_attention_shape *a, const tile_bias *x, void *scratch, size_t bytes, int threads, int64_t h,
                     float *to)
{
    for (int64_t n = 0; n < a->relative->dims[0]; n++)
        to[n * a->h + h] = 0;
    for (int64_t i = 0; i < a->t; i++)
        for (int64_t j = 0; j < a->s && (a->row || i == 0 || j == 0); j++) {
            float sum = 0;
            for (int t = 0; t < threads; t++) {
                tile_bias mine = *x;
                room r;
                room_set(&r, a, (char *)scratch + bytes * (size_t)t);
                mine.base = r.dbias;
                sum += tile_bias_at(&mine, h, i / LANES * LANES)[j * x->step + i % LANES];
            }
            to[tr_attention_distance(a, i + a->offset, j) * a->h + h] += sum;
        }
}

size_t TILE(grad_bytes)(const tr_attention_shape *a)
{
    room r;
    return room_set(&r, a, NULL) * (size_t)omp_get_max_threads() +
           (size_t)(a->h * TILE(bias_of)(a, a->s, NULL).head) * sizeof(float);
}

void TILE(grad)(const tr_attention_shape *a, const tile_grad *w, void *scratch)
{
    tile_form f = tile_form_of(a);
    bool brief = TILE(is_short)(a);
    room none;
    size_t bytes = room_set(&none, a, NULL);
    int threads = omp_get_max_threads();
    tile_bias bias = TILE(bias_of)(a, a->s, (char *)scratch + bytes * (size_t)threads);
    if (a->relative)
        start_bias(a, &bias, scratch, bytes, threads);
#pragma omp parallel
    {
        room own;
        room_set(&own, a, (char *)scratch + bytes * (size_t)omp_get_thread_num());
        if (brief)
            TILE(short_clear)(own.brief);
        tile_begin(&f);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < a->b * a->g; item++) {
            room r = own;
            r.bias = bias;
            if (brief)
                brief_head(a, &r, w, item);
            else
                key_head(a, &f, &r, w, item / a->g, item % a->g);
        }
        tile_end(&f);
    }
    if (!a->relative)
        return;
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < a->h; h++)
        sum_bias(a, &bias, scratch, bytes, threads, h, w->drelative);
}

tr_error *TILE(grad_prepare)(tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 3);
    call->scratch_bytes = TILE(grad_bytes)(&a);
    return NULL;
}

void TILE(grad_run)(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 3);
    tile_grad w = {
        .dout = tr_rows_of(&call->in[0]), .o = tr_rows_of(&call->in[1]), .lse = call->in[2].data};
    tr_rows_qkv(&call->in[3], a.packed, w.x);
    tr_rows_qkv(&call->out[0], a.packed, w.dx);
    if (a.relative)
        w.drelative = call->out[a.packed ? 1 : 3].data;
    TILE(grad)(&a, &w, call->scratch);
}
