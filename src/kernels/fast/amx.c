/* Matrix products on tiles: C = fn(A B + bias) or C += A B, for bf16 with sums in f32.
 *
 * The processor multiplies a tile of 16 rows of A by 32 of k with one of 32 of k by 16 columns of B, and
 * adds to one of 16 x 16 sums. Eight tiles are there: 2 x 2 of sums, two of A, two of B. So a block of C is
 * EDGE x EDGE, and a step over 32 of k is four loads and four products, half as long as the products.
 *
 * Both operands are packed first, in panels of EDGE rows of A or EDGE columns of B; a panel is, for each
 * STEP of k, two tiles of 1 KB as the processor loads them:
 *
 *     A: [panel][k / 32][2][16 rows   ][16 pairs of k]
 *     B: [panel][k / 32][2][16 pairs of k][16 columns]
 *
 * What lies beyond m, n or k is zero. A pair is two neighbours along k, which where k runs along the rows as
 * stored is a word of memory, and where it does not two rows interleaved; and either is transposed where the
 * other operand's form is wanted. So there are four ways to pack, of two loads and two stores.
 *
 * Rows of A along which k runs need no packing: the processor loads tiles of them where they lie, but for those of a
 * last panel that is not full. While a block of C is summed, its lines, the next panels of B and what comes next of A
 * are fetched.
 *
 * Order: B in blocks of at most B_BYTES, which all threads pack together. Then each thread has a part of C,
 * takes its rows of A in blocks of at most A_BYTES (they stay in its second cache), packs one, and goes
 * over B's panels, as many at a time as the first cache holds (one, where k is large), which meet all of the block.
 * C in f32 is summed over blocks of at most MOST_K; in bf16, where that would round, k is whole.
 *
 * Scratch: packed B (unless the caller keeps it) | a block of packed A for each thread.
 */
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#ifdef __AMX_BF16__
#include <omp.h>

#include "base/memory.h"
#include "kernels/amx.h"

enum {
    EDGE = 32,       /* rows and columns of a block of C */
    STEP = 32,       /* of k in a tile */
    TILE_BYTES = 1024,
    STEP_BYTES = 2 * TILE_BYTES, /* of a panel for each step */
    A_BYTES = 1 << 20,
    B_BYTES = 8 << 20,
    MOST_K = 2048,
    LEAST_ROWS = 32,   /* fewer: oneDNN, which does not pack */
    FEWEST_ROWS = 128, /* of a thread, unless it has all columns */
    GROUP = 4,         /* panels packed side by side: 256 bytes of a row are read at once */
    NEAR_BYTES = 32768, /* of B that a panel of A meets at a time: they stay in the first cache */
    AHEAD = 4,          /* steps that A is fetched ahead where that is one panel only */
};

typedef struct blocks {
    int64_t m, n, k;        /* at most, multiples of EDGE, EDGE, STEP */
    int threads, across;    /* threads along m, and along n */
} blocks;

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Equal parts of at most `most`, in units. */
static int64_t even_part(int64_t n, int64_t most, int64_t unit)
{
    most = TR_MAX(most / unit * unit, unit);
    int64_t parts = (n + most - 1) / most;
    return up_to((n + parts - 1) / parts, unit);
}

static blocks blocks_of(const tr_matmul_spec *s)
{
    blocks b = {.threads = omp_get_max_threads(), .across = 1};
    while (b.threads > 1 && s->m < (int64_t)FEWEST_ROWS * b.threads) {
        int fewer = b.threads - 1;
        while (omp_get_max_threads() % fewer)
            fewer--;
        b.threads = fewer;
    }
    b.across = omp_get_max_threads() / b.threads;
    b.k = s->out == TR_F32 && !s->packed ? even_part(s->k, MOST_K, STEP) : up_to(s->k, STEP);
    b.n = even_part(s->n, B_BYTES / (2 * b.k), EDGE);
    if (s->packed)
        b.n = up_to(s->n, EDGE);
    b.m = even_part(up_to((s->m + b.threads - 1) / b.threads, EDGE), A_BYTES / (2 * b.k), EDGE);
    return b;
}

bool tr_amx_fits(const tr_matmul_spec *s)
{
    return s->dtype == TR_BF16 && s->m >= LEAST_ROWS && (s->out == TR_BF16 || (!s->bias && s->fn == TR_FN_none));
}

size_t tr_amx_packed_bytes(const tr_matmul_spec *s)
{
    return (size_t)(up_to(s->n, EDGE) * up_to(s->k, STEP) * 2);
}

size_t tr_amx_scratch_bytes(const tr_matmul_spec *s)
{
    blocks b = blocks_of(s);
    return (size_t)(2 * b.k * ((s->packed ? 0 : b.n) + b.m * b.threads * b.across));
}

/* Packing ------------------------------------------------------------------------------------------ */

/* 16 rows of 16 words become columns. */
TR_INLINE void transpose(__m512i x[16])
{
    __m512i y[16];
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    /* x[4 q + c] has, in its part p of four words, column 4 p + c of rows 4 q .. 4 q + 3 */
    _Pragma("GCC unroll 4")
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), b = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
        __m512i d = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd), e = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
        y[c] = _mm512_shuffle_i32x4(a, b, 0x88);
        y[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
        y[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
        y[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
    }
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++)
        x[i] = y[i];
}

TR_INLINE void store16(void *to, const __m512i x[16], bool transposed)
{
    __m512i y[16];
    memcpy(y, x, sizeof y);
    if (transposed)
        transpose(y);
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++)
        _mm512_store_si512((char *)to + i * 64, y[i]);
}

TR_INLINE __mmask32 first(int64_t n)
{
    return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}

/* One step of one panel where k runs along rows: `rows` rows of at most EDGE, `depth` of k at most STEP. */
TR_INLINE void pack_along(char *to, const uint16_t *from, int64_t row, int64_t rows, int64_t depth, bool transposed)
{
    for (int t = 0; t < 2; t++) {
        __m512i x[16];
        _Pragma("GCC unroll 16")
        for (int i = 0; i < 16; i++) {
            int64_t r = t * 16 + i;
            x[i] = r < rows ? _mm512_maskz_loadu_epi16(first(depth), from + r * row) : _mm512_setzero_si512();
        }
        store16(to + t * TILE_BYTES, x, transposed);
    }
}

/* The same where rows run along k: `depth` rows of k, `columns` of at most EDGE. */
TR_INLINE void pack_across(char *to, const uint16_t *from, int64_t row, int64_t columns, int64_t depth,
                           bool transposed)
{
    static const uint16_t order[2][32] = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    __m512i low[16], high[16], to_low = _mm512_loadu_si512(order[0]), to_high = _mm512_loadu_si512(order[1]);
    _Pragma("GCC unroll 16")
    for (int i = 0; i < 16; i++) {
        __m512i even = 2 * i < depth ? _mm512_maskz_loadu_epi16(first(columns), from + 2 * i * row)
                                     : _mm512_setzero_si512(),
                odd = 2 * i + 1 < depth ? _mm512_maskz_loadu_epi16(first(columns), from + (2 * i + 1) * row)
                                        : _mm512_setzero_si512();
        low[i] = _mm512_permutex2var_epi16(even, to_low, odd);
        high[i] = _mm512_permutex2var_epi16(even, to_high, odd);
    }
    store16(to, low, transposed);
    store16(to + TILE_BYTES, high, transposed);
}

/* A matrix of `rows` (of A, or columns of B) by k, as stored. */
typedef struct operand {
    const uint16_t *data;
    int64_t row, rows;
    bool along;      /* k runs along the rows as stored */
    bool transposed; /* B's form from `along`, A's form from the other */
} operand;

/* Panels of rows [from, to) for `depth` of k at `k`; `from` is a multiple of EDGE. */
static void pack(const operand *o, int64_t from, int64_t to, int64_t k, int64_t depth, char *out)
{
    int64_t panel = up_to(depth, STEP) / STEP * STEP_BYTES;
    for (int64_t group = from; group < to; group += GROUP * EDGE)
        for (int64_t l = 0; l < depth; l += STEP)
            for (int64_t r = group; r < TR_MIN(to, group + GROUP * EDGE); r += EDGE) {
                char *at = out + (r - from) / EDGE * panel + l / STEP * STEP_BYTES;
                int64_t rows = TR_MIN(EDGE, o->rows - r), deep = TR_MIN(STEP, depth - l);
                bool full = rows == EDGE && deep == STEP;
                const uint16_t *data = o->data + (o->along ? r * o->row + k + l : (k + l) * o->row + r);
                if (o->along && o->transposed)
                    full ? pack_along(at, data, o->row, EDGE, STEP, true) : pack_along(at, data, o->row, rows, deep, true);
                else if (o->along)
                    full ? pack_along(at, data, o->row, EDGE, STEP, false) : pack_along(at, data, o->row, rows, deep, false);
                else if (o->transposed)
                    full ? pack_across(at, data, o->row, EDGE, STEP, true) : pack_across(at, data, o->row, rows, deep, true);
                else
                    full ? pack_across(at, data, o->row, EDGE, STEP, false) : pack_across(at, data, o->row, rows, deep, false);
            }
}

static operand operand_a(const tr_matmul_spec *s, const void *a)
{
    return (operand){a, s->a_row, s->m, !s->a_transposed, s->a_transposed};
}

static operand operand_b(const tr_matmul_spec *s, const void *b)
{
    return (operand){b, s->b_row, s->n, s->b_transposed, s->b_transposed};
}

/* Products ----------------------------------------------------------------------------------------- */

/* How a panel of A lies: bytes from row to row of a tile, from tile to tile, from step to step, from panel to
 * panel. */
typedef struct lie {
    int64_t row, tile, step, panel;
} lie;

/* What a block fetches at each step for those to come: `lines` lines at b, of the next panels of B, to the second cache;
 * and to the first cache rows [from, to) of A, `ahead` steps on in its panel or else in the next, which is at a. */
typedef struct fetch {
    const char *b, *a;
    int lines, from, to;
    int64_t ahead;
} fetch;

/* c[EDGE][EDGE] = (add ? c : 0) + a b over `steps` steps; row: bytes from row to row of c. */
TR_INLINE void multiply(const char *a, const lie *at, const char *b, int64_t steps, float *c, int64_t row, bool add,
                        const fetch *next)
{
    char *c0 = (char *)c, *c1 = c0 + 16 * row;
    const char *next_b = next->b;
    __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler what they read */
    if (add) {
        _tile_loadd(0, c0, row);
        _tile_loadd(1, c0 + 64, row);
        _tile_loadd(2, c1, row);
        _tile_loadd(3, c1 + 64, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++, a += at->step, b += STEP_BYTES) {
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + TILE_BYTES, 64);
        _tile_loadd(4, a, at->row);
        _tile_dpbf16ps(0, 4, 6);
        for (int l = 0; l < next->lines; l++, next_b += 64)
            _mm_prefetch(next_b, _MM_HINT_T1);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + at->tile, at->row);
        _tile_dpbf16ps(2, 5, 6);
        const char *near = s + next->ahead < steps ? a + next->ahead * at->step
                                                   : next->a + (s + next->ahead - steps) * at->step;
        near += next->from * at->row;
        for (int l = next->from; l < next->to; l++, near += at->row)
            _mm_prefetch(near, _MM_HINT_T0);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c0, row);
    _tile_stored(1, c0 + 64, row);
    _tile_stored(2, c1, row);
    _tile_stored(3, c1 + 64, row);
    __asm__ volatile("" ::: "memory");
}

TR_INLINE void store_rows(const float *sums, const float *bias, uint16_t *c, int64_t row, int64_t rows, int64_t columns,
                          bool add, tr_fn fn)
{
    if (columns == EDGE && !add) {
        vf low = bias ? vf_load(bias) : vf_zero(), high = bias ? vf_load(bias + 16) : vf_zero();
        for (int64_t r = 0; r < rows; r++) {
            vf x = vf_activate(vf_load(sums + r * EDGE) + low, fn, true);
            vf y = vf_activate(vf_load(sums + r * EDGE + 16) + high, fn, true);
            _mm512_storeu_si512(c + r * row, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
        }
        return;
    }
    int n[2] = {(int)TR_MIN(columns, 16), (int)TR_MAX(TR_MIN(columns - 16, 16), 0)};
    vf added[2] = {vf_zero(), vf_zero()};
    for (int h = 0; h < 2 && bias; h++)
        added[h] = vf_load_n(bias + h * 16, n[h]);
    for (int64_t r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) {
            uint16_t *at = c + r * row + h * 16;
            vf x = vf_load(sums + r * EDGE + h * 16) + added[h];
            if (add)
                x += vf_load_bf16_n(at, n[h]);
            vf_store_bf16_n(at, vf_activate(x, fn, true), n[h]);
        }
}

static void store_half(const tr_matmul_spec *s, const float *sums, const float *bias, uint16_t *c, int64_t rows,
                       int64_t columns)
{
    if (s->accumulate) {
        store_rows(sums, bias, c, s->c_row, rows, columns, true, TR_FN_none);
        return;
    }
    switch (s->fn) {
#define X(name)                                                                      \
    case TR_FN_##name:                                                               \
        store_rows(sums, bias, c, s->c_row, rows, columns, false, TR_FN_##name);     \
        break;
        TR_FNS(X)
#undef X
    default:
        break;
    }
}

/* How many of the rows [from, to) the processor can load tiles of where they lie: full panels, or none. */
static int64_t straight_rows(const operand *o, int64_t from, int64_t to, int64_t depth)
{
    return o->along && !o->transposed && depth % STEP == 0 ? (to - from) / EDGE * EDGE : 0;
}

/* Part `part` of `parts` of count, in units of EDGE. */
static int64_t cut(int64_t count, int part, int parts)
{
    int64_t units = (count + EDGE - 1) / EDGE;
    return TR_MIN(units * part / parts * EDGE, count);
}

/* The block of C at (i, j), which may be cut off by the matrix's edges. */
TR_INLINE void block(const tr_matmul_spec *s, const char *a, const lie *lie, const char *b, int64_t steps,
                     const float *bias, void *c, int64_t i, int64_t j, bool add, float *sums, const fetch *next)
{
    int64_t rows = TR_MIN(EDGE, s->m - i), columns = TR_MIN(EDGE, s->n - j), at = i * s->c_row + j;
    if (s->out == TR_BF16) {
        for (int64_t r = 0; r < rows; r++)
            __builtin_prefetch((uint16_t *)c + at + r * s->c_row, 1);
        multiply(a, lie, b, steps, sums, EDGE * sizeof *sums, false, next);
        store_half(s, sums, bias ? bias + j : NULL, (uint16_t *)c + at, rows, columns);
        return;
    }
    float *wide = (float *)c + at;
    if (rows == EDGE && columns == EDGE) {
        for (int64_t r = 0; r < EDGE && !add; r++) {
            __builtin_prefetch(wide + r * s->c_row, 1);
            __builtin_prefetch(wide + r * s->c_row + 16, 1);
        }
        multiply(a, lie, b, steps, wide, s->c_row * (int64_t)sizeof *wide, add, next);
        return;
    }
    multiply(a, lie, b, steps, sums, EDGE * sizeof *sums, false, next);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t x = 0; x < columns; x++)
            wide[r * s->c_row + x] = (add ? wide[r * s->c_row + x] : 0) + sums[r * EDGE + x];
}

/* All rows of thread `self`'s part for the block of B at (j, k), `columns` by `depth`. */
static void compute(const tr_matmul_spec *s, const blocks *by, int self, const void *a, const char *b, const float *bias,
                    void *c, int64_t j, int64_t columns, int64_t k, int64_t depth, char *room)
{
    float sums[EDGE * EDGE] __attribute__((aligned(64)));
    operand from = operand_a(s, a);
    int down = self / by->across, over = self % by->across;
    int64_t steps = up_to(depth, STEP) / STEP, panel = steps * STEP_BYTES;
    int64_t m0 = cut(s->m, down, by->threads), m1 = cut(s->m, down + 1, by->threads);
    int64_t n0 = cut(columns, over, by->across), n1 = cut(columns, over + 1, by->across);
    int64_t near = TR_MAX(NEAR_BYTES / panel, 1) * EDGE;
    tr_tiles_configure();
    for (int64_t i = m0, end; i < m1; i = end) {
        end = TR_MIN(m1, i + by->m);
        int64_t rows_straight = straight_rows(&from, i, end, depth);
        bool straight = rows_straight > 0;
        end = straight ? i + rows_straight : end;
        int64_t high = (end - i + EDGE - 1) / EDGE;
        lie at = straight ? (lie){from.row * 2, from.row * 32, 64, from.row * 64}
                          : (lie){64, TILE_BYTES, STEP_BYTES, panel};
        const char *rows = straight ? (const char *)(from.data + i * from.row + k) : room;
        if (!straight)
            pack(&from, i, end, k, depth, room);
        int lines = (int)((EDGE + high - 1) / high);
        for (int64_t group = n0; group < n1; group += near)
            for (int64_t y = 0; y < high; y++)
                for (int64_t x = group, last = TR_MIN(group + near, n1); x < last; x += EDGE) {
                    const char *left = rows + y * at.panel, *right = b + x / EDGE * panel;
                    int part = (int)((x - group) / EDGE), parts = (int)((last - group + EDGE - 1) / EDGE);
                    fetch next = {.b = right + (x + near < n1 ? near / EDGE * panel : 0) + y * steps * lines * 64,
                                  .a = left + (y + 1 < high ? at.panel : 0),
                                  .lines = lines,
                                  .from = EDGE * part / parts,
                                  .to = near > EDGE || (straight && x == n0) ? EDGE * (part + 1) / parts : 0,
                                  .ahead = near > EDGE ? steps : TR_MIN(AHEAD, steps)};
                    block(s, left, &at, right, steps, bias, c, i + y * EDGE, j + x, k > 0 || s->accumulate, sums, &next);
                }
    }
    _tile_release();
}

void tr_amx_pack(const tr_matmul_spec *s, const void *b, void *packed)
{
    operand from = operand_b(s, b);
    int64_t panel = up_to(s->k, STEP) / STEP * STEP_BYTES;
#pragma omp parallel
    {
        int self = omp_get_thread_num(), all = omp_get_num_threads();
        int64_t n0 = cut(s->n, self, all), n1 = cut(s->n, self + 1, all);
        pack(&from, n0, n1, 0, s->k, (char *)packed + n0 / EDGE * panel);
    }
}

void tr_amx_run(const tr_matmul_spec *s, const void *a, const void *b, const float *bias, void *c, void *scratch)
{
    blocks by = blocks_of(s);
    operand from = operand_b(s, b);
    char *packed = scratch, *rooms = packed + (s->packed ? 0 : 2 * by.k * by.n);
#pragma omp parallel
    {
        int self = omp_get_thread_num(), all = omp_get_num_threads();
        char *room = rooms + self * 2 * by.k * by.m;
        for (int64_t k = 0; k < s->k; k += by.k)
            for (int64_t j = 0; j < s->n; j += by.n) {
                int64_t depth = TR_MIN(by.k, s->k - k), columns = TR_MIN(by.n, s->n - j);
                if (!s->packed) {
                    int64_t n0 = cut(columns, self, all), n1 = cut(columns, self + 1, all);
                    pack(&from, j + n0, j + n1, k, depth,
                         packed + n0 / EDGE * (up_to(depth, STEP) / STEP * STEP_BYTES));
#pragma omp barrier
                }
                compute(s, &by, self, a, s->packed ? b : packed, bias, c, j, columns, k, depth, room);
#pragma omp barrier
            }
    }
}
#endif
