/* Attention with a cache of keys and values, for generation.
 *
 * The t new rows of k and v are copied to their places; then FEW or more queries go through the
 * tiled forward pass with the cache as keys, and fewer (one, when tokens are generated) through
 * `decode`, which reads every visible key and value once, in the order in which they lie: it is as
 * fast as memory.
 *
 * Decode: each (batch, key head), cut in parts of its keys when the threads do not divide them
 * evenly, is one piece of work; it gives for each of its queries m, l and o as in attention.c, and
 * pieces are joined at the end. Keys are taken CHUNK at a time, so that a chunk is still in the
 * cache for the next query.
 *
 * Precondition: 0 <= start and start + t <= the rows of the cache.
 */
#include "kernels/fast/attention_tile.h"

#include <omp.h>

enum { FEW = 8, CHUNK = 128, AHEAD = 4096 }; /* AHEAD: bytes from what is read to what is fetched meanwhile */

typedef struct layout {
    int64_t splits, pieces, queries; /* queries of one piece: t times the heads of a group */
    int64_t row;                     /* floats of a query: its o, then m and l */
} layout;

static layout layout_of(const tr_attention_shape *a, int threads)
{
    int64_t x = a->b * a->g, y = threads;
    while (y) {
        int64_t rest = x % y;
        x = y, y = rest;
    }
    layout w = {.splits = threads / x, .queries = a->t * (a->h / a->g)};
    w.pieces = a->b * a->g * w.splits;
    w.row = (a->e + TR_VL - 1) / TR_VL * TR_VL + 16;
    return w;
}

tr_error *TILE(cached_prepare)(tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    layout w = layout_of(&a, omp_get_max_threads());
    call->scratch_bytes = a.t < FEW
                              ? (size_t)((w.pieces * w.queries + a.b * a.g) * w.row) * sizeof(float)
                              : TILE(forward_bytes)(&a, call->in[3].dims[2]);
    return NULL;
}

TR_INLINE void fetch(const void *from)
{
    __builtin_prefetch((const char *)from + AHEAD, 0, 2);
}

/* Scores of TR_VL keys, of which only n are there. */
TR_INLINE vf scores(bool bf16, bool full, const void *q, const void *k, int64_t e, int64_t n)
{
    vf x[TR_VL];
    TILE_UNROLL
    for (int r = 0; r < TR_VL; r++)
        x[r] = vf_zero();
    int64_t c = 0;
    if (bf16 && TILE_DOT)
        for (; c + 2 * TR_VL <= e; c += 2 * TR_VL) {
            vu left, right;
            memcpy(&left, (const uint16_t *)q + c, sizeof left);
            TILE_UNROLL
            for (int r = 0; r < TR_VL; r++) {
                memcpy(&right, (const uint16_t *)k + (full || r < n ? r : 0) * e + c, sizeof right);
                fetch((const uint16_t *)k + r * e + c);
                x[r] = vf_dot_bf16(x[r], left, right);
            }
        }
    for (; c + TR_VL <= e; c += TR_VL) {
        vf left = vf_load_as(q, c, bf16);
        TILE_UNROLL
        for (int r = 0; r < TR_VL; r++) {
            x[r] = vf_fma(left, vf_load_as(k, (full || r < n ? r : 0) * e + c, bf16), x[r]);
            fetch((const char *)k + (r * e + c) * (bf16 ? 2 : 4));
        }
    }
    if (c < e) {
        vf left = vf_load_as_n(q, c, (int)(e - c), bf16);
        TILE_UNROLL
        for (int r = 0; r < TR_VL; r++)
            x[r] = vf_fma(
                left, vf_load_as_n(k, (full || r < n ? r : 0) * e + c, (int)(e - c), bf16), x[r]);
    }
    /* Lane r of the result becomes the sum over the lanes of x[r]. */
    TILE_UNROLL
    for (int half = TR_VL / 2; half; half /= 2) {
        TILE_UNROLL
        for (int r = 0; r < half; r++) {
            vf upper, lower;
            tile_exchange(x[r], x[r + half], half, &upper, &lower);
            x[r] = upper + lower;
        }
    }
    return x[0];
}

/* o[0 .. vectors) += sum of p[j] v[j]. */
TR_INLINE void weigh(bool bf16, int vectors, float *o, const float *p, const void *v, int64_t at,
                     int64_t e, int64_t n, int tail)
{
    vf sum[4];
    TILE_UNROLL
    for (int c = 0; c < vectors; c++)
        sum[c] = vf_load(o + c * TR_VL);
    for (int64_t j = 0; j < n; j++) {
        vf weight = vf_set1(p[j]);
        for (int line = 0; line < vectors * TR_VL * (bf16 ? 2 : 4); line += 64)
            fetch((const char *)v + (at + j * e) * (bf16 ? 2 : 4) + line);
        TILE_UNROLL
        for (int c = 0; c < vectors; c++)
            sum[c] = vf_fma(weight,
                            tail ? vf_load_as_n(v, at + j * e + c * TR_VL, tail, bf16)
                                 : vf_load_as(v, at + j * e + c * TR_VL, bf16),
                            sum[c]);
    }
    TILE_UNROLL
    for (int c = 0; c < vectors; c++)
        vf_store(o + c * TR_VL, sum[c]);
}

/* Adds the n <= CHUNK keys at k, v to the state of one query. bias: CHUNK of them, divided by scale, or NULL. */
TR_INLINE void decode(bool bf16, float scale, const void *q, const void *k, const void *v,
                      int64_t e, int64_t n, const float *bias, float *o, float *m, float *l)
{
    float p[CHUNK];
    vf top = vf_set1(*m), sum = vf_zero(), unit = vf_set1(scale * 1.44269504f);
    for (int64_t j = 0; j < n; j += TR_VL) {
        const void *k_at = (const char *)k + j * e * (bf16 ? 2 : 4);
        vf x = j + TR_VL <= n ? scores(bf16, true, q, k_at, e, TR_VL)
                              : scores(bf16, false, q, k_at, e, n - j);
        if (bias)
            x += vf_load(bias + j);
        x = vf_select(vm_first((int)TR_MIN(TR_VL, n - j)), x, vf_set1(-1e30f)) * unit;
        vf_store(p + j, x);
        top = vf_max(top, x);
    }
    float largest = vf_largest(top), change = tile_exp2(vf_set1(*m - largest))[0];
    for (int64_t j = 0; j < n; j += TR_VL) {
        vf x = tile_exp2(vf_load(p + j) - largest);
        x = vf_select(vm_first((int)TR_MIN(TR_VL, n - j)), x, vf_zero());
        vf_store(p + j, x);
        sum += x;
    }
    *l = *l * change + vf_sum(sum);
    *m = largest;
    if (change != 1.0f)
        for (int64_t c = 0; c < e; c += TR_VL)
            vf_store(o + c, vf_load(o + c) * change);
    int64_t c = 0;
    for (; c + 4 * TR_VL <= e; c += 4 * TR_VL)
        weigh(bf16, 4, o + c, p, v, c, e, n, 0);
    for (; c + TR_VL <= e; c += TR_VL)
        weigh(bf16, 1, o + c, p, v, c, e, n, 0);
    if (c < e)
        weigh(bf16, 1, o + c, p, v, c, e, n, (int)(e - c));
}

/* Where the pieces of a query are joined. */
static void join(const tr_attention_shape *a, const tile_form *f, const layout *w,
                 const float *states, tr_rows o, int64_t b, int64_t g, int64_t query, float *sum)
{
    const float *first = states + ((b * a->g + g) * w->splits * w->queries + query) * w->row;
    float m = -1e30f, l = 0;
    for (int64_t x = 0; x < w->splits; x++) {
        float other = first[x * w->queries * w->row + w->row - 16];
        m = other > m || other != other ? other : m;
    }
    memset(sum, 0, (size_t)(w->row - 16) * sizeof *sum);
    for (int64_t x = 0; x < w->splits; x++) {
        const float *from = first + x * w->queries * w->row;
        float factor = tile_exp2(vf_set1(from[w->row - 16] - m))[0];
        l += from[w->row - 15] * factor;
        for (int64_t c = 0; c < w->row - 16; c += TR_VL)
            vf_store(sum + c, vf_fma(vf_load(from + c), vf_set1(factor), vf_load(sum + c)));
    }
    int64_t h = g * (a->h / a->g) + query / a->t;
    TILE(unpack)(f, tile_at(o, f->bf16, b, query % a->t, h), o.step, sum, 1, l == 0 ? 0 : 1.0f / l);
}

/* One part of the keys of one (batch, key head). */
static void decode_piece(const tr_attention_shape *a, const layout *w, tr_rows q, tr_rows k,
                         tr_rows v, int64_t start, float *states, int64_t piece)
{
    int64_t split = piece % w->splits, b = piece / w->splits / a->g, g = piece / w->splits % a->g;
    int64_t lowest, unused, keys = start + a->t;
    tr_attention_range(a, 0, start, keys, &lowest, &unused);
    int64_t low = lowest + (keys - lowest) * split / w->splits;
    int64_t high = lowest + (keys - lowest) * (split + 1) / w->splits;
    float *state = states + piece * w->queries * w->row;
    memset(state, 0, (size_t)(w->queries * w->row) * sizeof *state);
    for (int64_t x = 0; x < w->queries; x++)
        state[(x + 1) * w->row - 16] = -1e30f;
    for (int64_t j = low; j < high; j += CHUNK)
        for (int64_t x = 0; x < w->queries; x++) {
            int64_t i = x % a->t, h = g * (a->h / a->g) + x / a->t, first, last;
            tr_attention_range(a, i, start, keys, &first, &last);
            first = TR_MAX(first, j);
            last = TR_MIN(last, TR_MIN(high, j + CHUNK));
            if (first >= last)
                continue;
            const void *q_at = tile_at(q, a->bf16, b, i, h);
            const void *k_at = tile_at(k, a->bf16, b, first, g),
                       *v_at = tile_at(v, a->bf16, b, first, g);
            float *mine = state + x * w->row, *m = mine + w->row - 16, room[CHUNK] = {0};
            for (int64_t y = first; y < last && a->relative; y++)
                room[y - first] = tr_attention_bias(a, tr_attention_distance(a, i + start, y), h) / a->scale;
            const float *bias = a->relative ? room : NULL;
            if (a->bf16)
                decode(true, a->scale, q_at, k_at, v_at, a->e, last - first, bias, mine, m, m + 1);
            else
                decode(false, a->scale, q_at, k_at, v_at, a->e, last - first, bias, mine, m, m + 1);
        }
}

static void store(const tr_attention_shape *a, const tr_rows x[3], const tr_rows cache[2],
                  int64_t start, int64_t b, int64_t g)
{
    for (int n = 0; n < 2; n++)
        for (int64_t i = 0; i < a->t; i++)
            memcpy(tile_at(cache[n], a->bf16, b, start + i, g), tile_at(x[1 + n], a->bf16, b, i, g),
                   (size_t)(a->e * (a->bf16 ? 2 : 4)));
}

void TILE(cached_run)(const tr_call *call)
{
    tr_attention_shape a = tr_attention_shape_of(call, 0);
    tile_form f = tile_form_of(&a);
    layout w = layout_of(&a, omp_get_max_threads());
    tr_rows x[3], cache[2], o = tr_rows_of(&call->out[0]);
    tr_rows_qkv(&call->in[0], a.packed, x);
    int64_t start = *(const int32_t *)call->in[5].data, rows = call->in[3].dims[2],
            items = a.b * a.g;
    for (int n = 0; n < 2; n++)
        cache[n] = (tr_rows){call->out[1 + n].data, a.g * rows * a.e, a.e, rows * a.e};
    float *states = call->scratch;
    bool few = a.t < FEW;
#pragma omp parallel
    {
        /* A thread that does all pieces of its items waits for no other. */
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t from = items * thread / threads, to = items * (thread + 1) / threads;
        bool alone = items % threads == 0;
        for (int64_t item = from; item < to; item++)
            store(&a, x, cache, start, item / a.g, item % a.g);
        if (few) {
            if (!alone) {
#pragma omp barrier
            }
            for (int64_t piece = w.pieces * thread / threads;
                 piece < w.pieces * (thread + 1) / threads; piece++)
                decode_piece(&a, &w, x[0], cache[0], cache[1], start, states, piece);
            if (!alone) {
#pragma omp barrier
            }
            for (int64_t item = from; item < to; item++)
                for (int64_t n = 0; n < w.queries; n++)
                    join(&a, &f, &w, states, o, item / a.g, item % a.g, n,
                         states + (w.pieces * w.queries + item) * w.row);
        }
    }
    if (!few)
        TILE(forward)
        (&a, x[0], cache[0], cache[1], o, NULL, start, start + a.t, call->scratch, rows);
}
