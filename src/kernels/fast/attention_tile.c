/* Packing of tiles and their matrix product: see attention_tile.h.
 *
 * The product holds a block of 6 rows by TILE_VECTORS vectors of c in registers, so that a step
 * over k loads TILE_VECTORS vectors and 6 numbers for 6 * TILE_VECTORS multiply-adds: with 32
 * registers 24 of them for 10 loads, which keeps both multipliers busy. A column panel of b (k by
 * TILE_VECTORS vectors) stays in the first cache while the rows of a pass. Where the processor has
 * tiles, pairs are multiplied there, 32 by 32 at once, and this does what is left over.
 */
#include "kernels/fast/attention_tile.h"

/* Products ---------------------------------------------------------------------------------------
 */

TR_INLINE vf load(const word *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

TR_INLINE vf multiply_add(bool dot, vf sum, const word *a, vf b)
{
    return dot ? vf_dot_bf16(sum, vu_set1(*(const word_bits *)a), (vu)b)
               : vf_fma(vf_set1(*a), b, sum);
}

TR_INLINE void block(bool dot, bool a_transposed, bool add, int rows, int vectors, int64_t k,
                     const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                     int64_t c_row)
{
    vf sum[6][4];
    TILE_UNROLL
    for (int m = 0; m < rows; m++) {
        TILE_UNROLL
        for (int n = 0; n < vectors; n++)
            sum[m][n] = add ? vf_load(c + m * c_row + n * TR_VL) : vf_zero();
    }
    for (int64_t i = 0; i < k; i++) {
        vf right[4];
        TILE_UNROLL
        for (int n = 0; n < vectors; n++)
            right[n] = load(b + i * b_row + n * TR_VL);
        TILE_UNROLL
        for (int m = 0; m < rows; m++) {
            const word *left = a_transposed ? a + i * a_row + m : a + m * a_row + i;
            TILE_UNROLL
            for (int n = 0; n < vectors; n++)
                sum[m][n] = multiply_add(dot, sum[m][n], left, right[n]);
        }
    }
    TILE_UNROLL
    for (int m = 0; m < rows; m++) {
        TILE_UNROLL
        for (int n = 0; n < vectors; n++)
            vf_store(c + m * c_row + n * TR_VL, sum[m][n]);
    }
}

TR_INLINE void panel(bool dot, bool a_transposed, int vectors, bool add, int64_t m, int64_t k,
                     const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                     int64_t c_row)
{
    int64_t a_step = a_transposed ? 1 : a_row;
    while (m >= 6) {
        block(dot, a_transposed, add, 6, vectors, k, a, a_row, b, b_row, c, c_row);
        a += 6 * a_step, c += 6 * c_row, m -= 6;
    }
    if (m >= 4) {
        block(dot, a_transposed, add, 4, vectors, k, a, a_row, b, b_row, c, c_row);
        a += 4 * a_step, c += 4 * c_row, m -= 4;
    }
    if (m >= 2) {
        block(dot, a_transposed, add, 2, vectors, k, a, a_row, b, b_row, c, c_row);
        a += 2 * a_step, c += 2 * c_row, m -= 2;
    }
    if (m)
        block(dot, a_transposed, add, 1, vectors, k, a, a_row, b, b_row, c, c_row);
}

TR_INLINE void product(bool dot, bool a_transposed, bool add, int64_t m, int64_t vectors, int64_t k,
                       const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                       int64_t c_row)
{
    while (vectors > 0) {
        /* 5 is 3 and 2, not 4 and 1: a narrow block waits for its own sums. */
        int width = vectors == TILE_VECTORS + 1 && TILE_VECTORS > 2
                        ? TILE_VECTORS - 1
                        : (int)TR_MIN(vectors, TILE_VECTORS);
        switch (width) {
        case 1:
            panel(dot, a_transposed, 1, add, m, k, a, a_row, b, b_row, c, c_row);
            break;
        case 2:
            panel(dot, a_transposed, 2, add, m, k, a, a_row, b, b_row, c, c_row);
            break;
        case 3:
            if (TILE_VECTORS > 2)
                panel(dot, a_transposed, 3, add, m, k, a, a_row, b, b_row, c, c_row);
            break;
        default:
            if (TILE_VECTORS > 2)
                panel(dot, a_transposed, 4, add, m, k, a, a_row, b, b_row, c, c_row);
        }
        vectors -= width;
        b += width * TR_VL;
        c += width * TR_VL;
    }
}

/* Of a product of pairs, what fills the processor's tiles. The operands lie as it wants them, but for a
 * transposed one, of which 2 x 16 rows are turned around first. */
#if TILE_AMX
static void transpose_words(word *to, int64_t to_row, const word *from, int64_t from_row, int64_t rows,
                            int64_t columns);

/* c[16 down][16 over] over k words: a has rows of a_row words; b's rows are words of k. */
TR_INLINE void tiles(int down, int over, bool add, int64_t k, const word *a, int64_t a_row, const word *b,
                     int64_t b_row, float *c, int64_t c_row)
{
    const int64_t size = sizeof(word), lower = 16 * c_row;
    __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler what they read */
    if (add) {
        _tile_loadd(0, c, c_row * size);
        if (over > 1)
            _tile_loadd(1, c + 16, c_row * size);
        if (down > 1)
            _tile_loadd(2, c + lower, c_row * size);
        if (down > 1 && over > 1)
            _tile_loadd(3, c + lower + 16, c_row * size);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i += 16) {
        _tile_loadd(4, a + i, a_row * size);
        _tile_loadd(6, b + i * b_row, b_row * size);
        _tile_dpbf16ps(0, 4, 6);
        if (over > 1) {
            _tile_loadd(7, b + i * b_row + 16, b_row * size);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (down > 1) {
            _tile_loadd(5, a + 16 * a_row + i, a_row * size);
            _tile_dpbf16ps(2, 5, 6);
            if (over > 1)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_row * size);
    if (over > 1)
        _tile_stored(1, c + 16, c_row * size);
    if (down > 1)
        _tile_stored(2, c + lower, c_row * size);
    if (down > 1 && over > 1)
        _tile_stored(3, c + lower + 16, c_row * size);
    __asm__ volatile("" ::: "memory");
}

static void product_on_tiles(bool a_transposed, bool add, int64_t m, int64_t vectors, int64_t k, const word *a,
                             int64_t a_row, const word *b, int64_t b_row, float *c, int64_t c_row)
{
    enum { ROOM = 128 };
    word turned[32 * ROOM] __attribute__((aligned(64)));
    for (int64_t first = 0; first < k; first += ROOM) {
        int64_t words = TR_MIN(ROOM, k - first);
        for (int64_t i = 0; i < m; i += 32) {
            int down = i + 32 <= m ? 2 : 1;
            const word *rows = a + i * a_row + first, *right = b + first * b_row;
            int64_t row = a_row;
            if (a_transposed) {
                transpose_words(turned, ROOM, a + first * a_row + i, a_row, words, 16 * down);
                rows = turned, row = ROOM;
            }
            for (int64_t n = 0; n < vectors; n += 2) {
                float *to = c + i * c_row + n * 16;
                bool sum = add || first > 0;
                if (down > 1 && n + 2 <= vectors)
                    tiles(2, 2, sum, words, rows, row, right + n * 16, b_row, to, c_row);
                else if (n + 2 <= vectors)
                    tiles(1, 2, sum, words, rows, row, right + n * 16, b_row, to, c_row);
                else if (down > 1)
                    tiles(2, 1, sum, words, rows, row, right + n * 16, b_row, to, c_row);
                else
                    tiles(1, 1, sum, words, rows, row, right + n * 16, b_row, to, c_row);
            }
        }
    }
}
#endif

#define PRODUCT(name, dot, a_transposed)                                                                             \
    static void name(bool add, int64_t m, int64_t vectors, int64_t k, const word *a, int64_t a_row, const word *b,  \
                     int64_t b_row, float *c, int64_t c_row)                                                        \
    {                                                                                                                \
        product(dot, a_transposed, add, m, vectors, k, a, a_row, b, b_row, c, c_row);                                \
    }
PRODUCT(words_by_rows, false, false)
PRODUCT(words_by_columns, false, true)
PRODUCT(pairs_by_rows, true, false)
PRODUCT(pairs_by_columns, true, true)
#undef PRODUCT

void TILE(product)(bool dot, bool a_transposed, bool add, int64_t m, int64_t vectors, int64_t k,
                   const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                   int64_t c_row)
{
    if (!dot || !TILE_DOT) {
        (a_transposed ? words_by_columns : words_by_rows)(add, m, vectors, k, a, a_row, b, b_row, c, c_row);
        return;
    }
#if TILE_AMX
    int64_t rows = m / 16 * 16, words = k / 16 * 16;
    if (rows && words) {
        const word *rest = a_transposed ? a + words * a_row : a + words;
        product_on_tiles(a_transposed, add, rows, vectors, words, a, a_row, b, b_row, c, c_row);
        if (words < k)
            (a_transposed ? pairs_by_columns : pairs_by_rows)(true, rows, vectors, k - words, rest, a_row,
                                                              b + words * b_row, b_row, c, c_row);
        a += rows * (a_transposed ? 1 : a_row), c += rows * c_row, m -= rows;
    }
#endif
    (a_transposed ? pairs_by_columns : pairs_by_rows)(add, m, vectors, k, a, a_row, b, b_row, c, c_row);
}

/* Packing ----------------------------------------------------------------------------------------
 */

/* Rows of one head lie far apart, where the processor does not look ahead by itself. */
TR_INLINE void look_ahead(const void *row, int64_t bytes, int64_t step_bytes, int64_t left)
{
    enum { AHEAD = 12, LINE = 64 };
    if (left > AHEAD)
        for (int64_t c = 0; c < bytes; c += LINE)
            __builtin_prefetch((const char *)row + AHEAD * step_bytes + c);
}

void TILE(pack_rows)(const tile_form *f, word *to, const void *from, int64_t step, int64_t n,
                     int64_t all)
{
    int64_t bytes = f->e * (f->bf16 ? 2 : 4), step_bytes = step * (f->bf16 ? 2 : 4);
    const char *row = from;
    for (int64_t r = 0; r < n; r++, to += f->row, row += step_bytes) {
        look_ahead(row, bytes, step_bytes, n - r);
        memset(to + f->words - 1, 0, (size_t)(f->row - f->words + 1) * sizeof *to);
        if (f->dot || !f->bf16) {
            memcpy(to, row, (size_t)bytes);
            continue;
        }
        for (int64_t c = 0; c < f->e; c++)
            ((word_bits *)to)[c] = (uint32_t)((const uint16_t *)row)[c] << 16;
    }
    memset(to, 0, (size_t)((all - n) * f->row) * sizeof *to);
}

/* bf16 in the low and in the high halves. */
TR_INLINE vu halves(vf even, vf odd)
{
    return (vu)even >> 16 | (vu)odd;
}

void TILE(pack_pairs)(const tile_form *f, word *to, const void *from, int64_t step, int64_t n, int64_t all)
{
    const uint16_t *even = from;
    memset(to + (n + 1) / 2 * f->col, 0, (size_t)(((all + 1) / 2 - (n + 1) / 2) * f->col) * sizeof *to);
    for (int64_t r = 0; r < n; r += 2, even += 2 * step, to += f->col) {
        const uint16_t *odd = r + 1 < n ? even + step : NULL;
        look_ahead(even, f->e * 2, step * 2, n - r);
        look_ahead(even + step, f->e * 2, step * 2, n - r - 1);
        for (int64_t c = 0; c < f->e; c += TR_VL) {
            int left = (int)TR_MIN(TR_VL, f->e - c);
            vu bits;
            if (left == TR_VL && odd)
                bits = halves(vf_load_bf16(even + c), vf_load_bf16(odd + c));
            else
                bits = halves(vf_load_bf16_n(even + c, left),
                              odd ? vf_load_bf16_n(odd + c, left) : vf_zero());
            memcpy(to + c, &bits, sizeof bits);
        }
    }
}

/* to[c][r] = from[r][c] for whole vectors. */
static void transpose_words(word *to, int64_t to_row, const word *from, int64_t from_row,
                            int64_t rows, int64_t columns)
{
    for (int64_t c = 0; c < columns; c += TR_VL)
        for (int64_t r = 0; r < rows; r += TR_VL) {
            vf x[TR_VL];
            TILE_UNROLL
            for (int l = 0; l < TR_VL; l++)
                x[l] = load(from + (r + l) * from_row + c);
            tile_transpose(x);
            TILE_UNROLL
            for (int l = 0; l < TR_VL; l++)
                memcpy(to + (c + l) * to_row + r, &x[l], sizeof x[l]);
        }
}

void TILE(pack_lanes)(const tile_form *f, word *to, const word *rows, int64_t lanes)
{
    transpose_words(to, LANES, rows, f->row, lanes, f->row);
}

TR_INLINE void unpack_row(bool bf16, void *to, int64_t index, const float *from, int64_t n,
                          vf factor)
{
    int64_t c = 0;
    for (; c + TR_VL <= n; c += TR_VL)
        vf_store_as(to, index + c, vf_load(from + c) * factor, bf16);
    if (c < n)
        vf_store_as_n(to, index + c, vf_load(from + c) * factor, (int)(n - c), bf16);
}

void TILE(unpack)(const tile_form *f, void *to, int64_t step, const float *from, int64_t n,
                  float factor)
{
    vf x = vf_set1(factor);
    for (int64_t r = 0; r < n; r++) {
        if (f->bf16)
            unpack_row(true, to, r * step, from + r * f->col, f->e, x);
        else
            unpack_row(false, to, r * step, from + r * f->col, f->e, x);
    }
}

void TILE(unpack_add)(const tile_form *f, float *to, int64_t step, const float *from, int64_t n,
                      float factor)
{
    for (int64_t r = 0; r < n; r++, to += step, from += f->col)
        for (int64_t c = 0; c < f->e; c++)
            to[c] += factor * from[c];
}

/* Dropout ----------------------------------------------------------------------------------------
 */

void TILE(dropout)(const tr_attention_shape *a, int64_t b, int64_t h, int64_t i, int64_t j,
                   int64_t n, float *factor)
{
    vf p = vf_set1(a->p), kept = vf_set1(1.0f / (1.0f - a->p));
    float along[TR_VL * KEYS]; /* [query][key], as the numbers come */
    uint32_t words[KEYS + 2 * TR_RANDOM_WORDS];
    int64_t columns = (n + TR_VL - 1) / TR_VL * TR_VL;
    for (int lane = 0; lane < LANES; lane += TR_VL) {
        for (int r = 0; r < TR_VL; r++) {
            uint64_t index = tr_attention_index(a, b, h, i + lane + r) + (uint64_t)j;
            int64_t skip = (int64_t)(index % 4);
            for (int64_t w = 0; w < skip + columns; w += TR_RANDOM_WORDS) {
                vu x[2];
                vu_random(a->seed, a->run_step, a->stream, (index + (uint64_t)w) / 4, x);
                memcpy(words + w, x, sizeof x);
            }
            for (int64_t c = 0; c < columns; c += TR_VL) {
                vi w;
                memcpy(&w, words + skip + c, sizeof w);
                vf unit = vf_of_vi((vi)((vu)w >> 8)) * 0x1p-24f;
                vf_store(along + r * KEYS + c, vf_select(vf_le(p, unit), kept, vf_zero()));
            }
        }
        transpose_words(factor + lane, LANES, along, KEYS, TR_VL, columns);
    }
}

/* Bias and segments ------------------------------------------------------------------------------------ */

tile_bias TILE(bias_of)(const tr_attention_shape *a, int64_t keys, void *memory)
{
    if (!a->relative)
        return (tile_bias){0};
    int64_t blocks = (a->t + LANES - 1) / LANES;
    tile_bias x = {.base = memory, .block = LANES, .first = keys - 1, .step = -1, .head = blocks * LANES + keys};
    if (a->row)
        x = (tile_bias){.base = memory, .block = keys * LANES, .step = LANES, .head = blocks * keys * LANES};
    return x;
}

void TILE(bias_fill)(const tr_attention_shape *a, const tile_bias *x, int64_t h, int64_t offset, int64_t keys)
{
    float *to = x->base + h * x->head, unit = 1.0f / a->scale;
    for (int64_t n = 0; n < x->head; n++) {
        int64_t query = n, key = keys - 1; /* the line: element n is of distance n - (keys - 1) */
        if (a->row) {
            query = n / x->block * LANES + n % LANES;
            key = n % x->block / LANES;
        }
        query = TR_MIN(query, a->row ? a->t - 1 : n) + offset;
        to[n] = tr_attention_bias(a, tr_attention_distance(a, query, key), h) * unit;
    }
}

void TILE(adjust)(const tile_step *t, word *s, const float *bias, int64_t bias_step, const int32_t *segments,
                  const int32_t *keys)
{
    for (int64_t j = 0; j < t->n; j++) {
        int32_t key = keys ? keys[t->j + j] : 1;
        for (int v = t->low; v < t->high; v++) {
            word *at = s + j * LANES + v * TR_VL;
            vf x = vf_load(at);
            if (bias)
                x += vf_load(bias + (t->j + j) * bias_step + v * TR_VL);
            if (key == 0) {
                x = vf_set1(NOTHING);
            } else if (segments) {
                vi own;
                memcpy(&own, segments + v * TR_VL, sizeof own);
                x = vf_select(vi_eq(own, key + (vi){0}), x, vf_set1(NOTHING));
            }
            vf_store(at, x);
        }
    }
}
