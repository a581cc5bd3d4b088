/* Matrix products on tiles: C = fn(A B + bias) or C += A B, for bf16 and for f32, with sums in f32.
 *
 * The processor multiplies a tile of 16 rows of A by 32 of k with one of 32 of k by 16 columns of B, and
 * adds to one of 16 x 16 sums. Eight tiles are there: 2 x 2 of sums, two of A, two of B. So a block of C is
 * EDGE x EDGE, and a step over 32 of k is four loads and four products, half as long as the products.
 *
 * A product of floats is six of bf16 (amx_pack.h): with a = a1 + a2 + a3 and b likewise, a b is a1 b1 + a1 b2 +
 * a2 b1 + a1 b3 + a2 b2 + a3 b1 within 2^-26 of itself. Products of 32 of k are summed before they meet C's sum, so
 * that six times as many terms have the errors of one loop of multiply-adds (tests/test_kernels_linear.c measures
 * both: within a tenth, or below). In cycles it is 96 of the tiles for 256 of two FMA units. Against multiply-adds
 * there are two differences: what is below 2^-126 counts as 0, and infinity times a number is not a number.
 *
 * Rows of A in bf16 along which k runs need no packing: the processor loads tiles of them where they lie. While a
 * block of C is summed, its lines and the next panel of B are fetched.
 *
 * Order: B in blocks of at most B_BYTES, which all threads pack together. Then each thread has a part of C,
 * takes its rows of A in blocks of at most A_BYTES (they stay in its second cache), packs one, and goes
 * over B's panels, each of which meets all of the block. C in f32 is summed over blocks of at most MOST_K;
 * in bf16, where that would round, k is whole.
 *
 * Scratch: packed B (unless the caller keeps it) | a block of packed A for each thread.
 */
#include "kernels/fast/activate.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#ifdef __AMX_BF16__
#include <omp.h>

#include "kernels/amx.h"
#include "kernels/fast/amx_pack.h"

enum {
    A_BYTES = 1 << 20,
    B_BYTES = 8 << 20,
    MOST_K = 2048,
    MOST_K_FLOAT = 1024,
    LEAST_ROWS = 32,        /* fewer: oneDNN, which does not pack */
    LEAST_ROWS_FLOAT = 128,
    FEWEST_ROWS = 128,      /* of a thread, unless it has all columns */
};

typedef struct blocks {
    int64_t m, n, k;     /* at most, multiples of EDGE, EDGE, STEP */
    int threads, across; /* threads along m, and along n */
    int parts;
} blocks;

/* Equal parts of at most `most`, in units. */
static int64_t even_part(int64_t n, int64_t most, int64_t unit)
{
    most = TR_MAX(most / unit * unit, unit);
    int64_t parts = (n + most - 1) / most;
    return up_to((n + parts - 1) / parts, unit);
}

static int parts_of(const tr_matmul_spec *s)
{
    return s->dtype == TR_F32 ? FLOAT_PARTS : 1;
}

static blocks blocks_of(const tr_matmul_spec *s)
{
    blocks b = {.threads = omp_get_max_threads(), .across = 1, .parts = parts_of(s)};
    while (b.threads > 1 && s->m < (int64_t)FEWEST_ROWS * b.threads) {
        int fewer = b.threads - 1;
        while (omp_get_max_threads() % fewer)
            fewer--;
        b.threads = fewer;
    }
    b.across = omp_get_max_threads() / b.threads;
    int64_t bytes = 2 * b.parts, most_k = b.parts == 1 ? MOST_K : MOST_K_FLOAT;
    b.k = s->out == TR_F32 ? even_part(s->k, most_k, STEP) : up_to(s->k, STEP);
    b.n = s->packed ? up_to(s->n, EDGE) : even_part(s->n, B_BYTES / (bytes * b.k), EDGE);
    b.m = even_part(up_to((s->m + b.threads - 1) / b.threads, EDGE), A_BYTES / (bytes * b.k), EDGE);
    return b;
}

bool tr_amx_fits(const tr_matmul_spec *s)
{
    return s->dtype == TR_F32 ? s->m >= LEAST_ROWS_FLOAT : s->m >= LEAST_ROWS;
}

size_t tr_amx_packed_bytes(const tr_matmul_spec *s)
{
    return (size_t)(up_to(s->n, EDGE) / EDGE * panel_bytes(s->k, parts_of(s)));
}

size_t tr_amx_scratch_bytes(const tr_matmul_spec *s)
{
    blocks b = blocks_of(s);
    return (size_t)(2 * b.parts * b.k * ((s->packed ? 0 : b.n) + b.m * b.threads * b.across));
}

static operand operand_a(const tr_matmul_spec *s, const void *a)
{
    return (operand){a, s->a_row, s->m, !s->a_transposed, s->a_transposed, parts_of(s)};
}

static operand operand_b(const tr_matmul_spec *s, const void *b)
{
    return (operand){b, s->b_row, s->n, s->b_transposed, s->b_transposed, parts_of(s)};
}

/* Products ----------------------------------------------------------------------------------------- */

/* How a panel of A lies: bytes from row to row of a tile, from tile to tile, from step to step, from panel to
 * panel. */
typedef struct lie {
    int64_t row, tile, step, panel;
} lie;

/* Sums [EDGE][EDGE] from `from` (NULL: zeros) to `to`, with bytes from row to row; from_row may be 0. */
typedef struct sums {
    const float *from;
    float *to;
    int64_t from_row, to_row;
} sums;

/* What is fetched to the second cache meanwhile: `lines` lines a step. */
typedef struct ahead {
    const char *next;
    int lines;
} ahead;

TR_INLINE void begin(const sums *c)
{
    const char *from = (const char *)c->from;
    __asm__ volatile("" ::: "memory"); /* tile loads do not tell the compiler what they read */
    if (from) {
        _tile_loadd(0, from, c->from_row);
        _tile_loadd(1, from + 64, c->from_row);
        _tile_loadd(2, from + 16 * c->from_row, c->from_row);
        _tile_loadd(3, from + 16 * c->from_row + 64, c->from_row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

TR_INLINE void finish(const sums *c)
{
    char *to = (char *)c->to;
    _tile_stored(0, to, c->to_row);
    _tile_stored(1, to + 64, c->to_row);
    _tile_stored(2, to + 16 * c->to_row, c->to_row);
    _tile_stored(3, to + 16 * c->to_row + 64, c->to_row);
    __asm__ volatile("" ::: "memory");
}

/* += a b over `steps` steps. */
TR_INLINE void multiply(const char *a, const lie *at, const char *b, int64_t steps, const sums *c, ahead f)
{
    begin(c);
    for (int64_t s = 0; s < steps; s++, a += at->step, b += PART_BYTES) {
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + TILE_BYTES, 64);
        _tile_loadd(4, a, at->row);
        _tile_dpbf16ps(0, 4, 6);
        for (int l = 0; l < f.lines; l++, f.next += 64)
            _mm_prefetch(f.next, _MM_HINT_T1);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + at->tile, at->row);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    finish(c);
}

/* The same for floats: six products of parts, each but the first with one operand of the one before. */
TR_INLINE void multiply_floats(const char *a, const char *b, int64_t steps, const sums *c, ahead f)
{
#define LOAD_A(p)                                             \
    _tile_loadd(4, a + (p - 1) * PART_BYTES, 64);             \
    _tile_loadd(5, a + (p - 1) * PART_BYTES + TILE_BYTES, 64);
#define LOAD_B(p)                                             \
    _tile_loadd(6, b + (p - 1) * PART_BYTES, 64);             \
    _tile_loadd(7, b + (p - 1) * PART_BYTES + TILE_BYTES, 64);
#define PRODUCT             \
    _tile_dpbf16ps(0, 4, 6); \
    _tile_dpbf16ps(1, 4, 7); \
    _tile_dpbf16ps(2, 5, 6); \
    _tile_dpbf16ps(3, 5, 7);
    begin(c);
    for (int64_t s = 0; s < steps; s++, a += FLOAT_PARTS * PART_BYTES, b += FLOAT_PARTS * PART_BYTES) {
        LOAD_A(3)
        LOAD_B(1)
        PRODUCT
        for (int l = 0; l < f.lines; l++, f.next += 64)
            _mm_prefetch(f.next, _MM_HINT_T1);
        LOAD_A(2)
        PRODUCT
        LOAD_B(2)
        PRODUCT
        LOAD_A(1)
        PRODUCT
        LOAD_B(3)
        PRODUCT
        LOAD_B(1)
        PRODUCT
    }
    finish(c);
#undef LOAD_A
#undef LOAD_B
#undef PRODUCT
}

/* c = fn(sums), or c += sums, of a block of rows x columns. */
TR_INLINE void store_rows(const float *from, void *c, int64_t row, int64_t rows, int64_t columns, bool add, tr_fn fn,
                          bool bf16)
{
    if (columns == EDGE && !add && bf16) {
        for (int64_t r = 0; r < rows; r++) {
            vf x = vf_activate(vf_load(from + r * EDGE), fn), y = vf_activate(vf_load(from + r * EDGE + 16), fn);
            _mm512_storeu_si512((uint16_t *)c + r * row, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
        }
        return;
    }
    int n[2] = {(int)TR_MIN(columns, 16), (int)TR_MAX(TR_MIN(columns - 16, 16), 0)};
    for (int64_t r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) {
            int64_t at = r * row + h * 16;
            vf x = vf_load(from + r * EDGE + h * 16);
            if (add)
                x += vf_load_as_n(c, at, n[h], bf16);
            vf_store_as_n(c, at, vf_activate(x, fn), n[h], bf16);
        }
}

static void store(const float *from, void *c, int64_t row, int64_t rows, int64_t columns, bool add, tr_fn fn, bool bf16)
{
    if (add) {
        bf16 ? store_rows(from, c, row, rows, columns, true, TR_FN_none, true)
             : store_rows(from, c, row, rows, columns, true, TR_FN_none, false);
        return;
    }
    switch (fn) {
#define X(name)                                                                           \
    case TR_FN_##name:                                                                    \
        bf16 ? store_rows(from, c, row, rows, columns, false, TR_FN_##name, true)         \
             : store_rows(from, c, row, rows, columns, false, TR_FN_##name, false);       \
        break;
        TR_FNS(X)
#undef X
    default:
        break;
    }
}

/* Whether the processor can load tiles of rows [from, to) where they lie. */
static bool lies_straight(const operand *o, int64_t from, int64_t to, int64_t depth)
{
    return o->parts == 1 && o->along && !o->transposed && (to - from) % EDGE == 0 && depth % STEP == 0;
}

/* Part `part` of `parts` of count, in units of EDGE. */
static int64_t cut(int64_t count, int part, int parts)
{
    int64_t units = (count + EDGE - 1) / EDGE;
    return TR_MIN(units * part / parts * EDGE, count);
}

/* The block of C at (i, j), which may be cut off by the matrix's edges; `first` and `last` of the blocks of k. */
TR_INLINE void block(const tr_matmul_spec *s, const char *a, const lie *lie, const char *b, int64_t steps,
                     const float *bias, void *c, int64_t i, int64_t j, bool first, bool last, float *room, ahead f)
{
    int64_t rows = TR_MIN(EDGE, s->m - i), columns = TR_MIN(EDGE, s->n - j), at = i * s->c_row + j;
    bool bf16 = s->out == TR_BF16, whole = rows == EDGE && columns == EDGE;
    float padded[EDGE] = {0}, *wide = (float *)c + at;
    void *to = bf16 ? (void *)((uint16_t *)c + at) : wide;
    sums sums = {NULL, room, 0, EDGE * sizeof(float)};
    bool add = s->accumulate || !first, through = bf16 || !whole || (last && s->fn != TR_FN_none);
    for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch((char *)to + r * s->c_row * (bf16 ? 2 : 4), 1);
        if (!bf16)
            __builtin_prefetch(wide + r * s->c_row + 16, 1);
    }
    if (add && !bf16 && whole) {
        sums.from = wide;
        sums.from_row = s->c_row * (int64_t)sizeof(float);
    } else if (add && !bf16) {
        for (int64_t r = 0; r < rows; r++)
            for (int h = 0; h < 2; h++)
                vf_store(room + r * EDGE + h * 16, (vf)_mm512_maskz_loadu_ps(first16(columns - h * 16),
                                                                             wide + r * s->c_row + h * 16));
        sums.from = room;
        sums.from_row = sums.to_row;
    } else if (bias && columns == EDGE) {
        sums.from = bias + j;
    } else if (bias) {
        memcpy(padded, bias + j, (size_t)columns * sizeof(float));
        sums.from = padded;
    }
    if (!through) {
        sums.to = wide;
        sums.to_row = s->c_row * (int64_t)sizeof(float);
    }
    if (s->dtype == TR_F32)
        multiply_floats(a, b, steps, &sums, f);
    else
        multiply(a, lie, b, steps, &sums, f);
    if (through)
        store(room, to, s->c_row, rows, columns, add && bf16, last ? s->fn : TR_FN_none, bf16);
}

/* All rows of thread `self`'s part for the block of B at (j, k), `columns` by `depth`; b: its panels, `b_panel`
 * bytes apart. */
static void compute(const tr_matmul_spec *s, const blocks *by, int self, const void *a, const char *b, int64_t b_panel,
                    const float *bias, void *c, int64_t j, int64_t columns, int64_t k, int64_t depth, char *room)
{
    float sums[EDGE * EDGE] __attribute__((aligned(64)));
    operand from = operand_a(s, a);
    int down = self / by->across, over = self % by->across;
    int64_t panel = panel_bytes(depth, by->parts), steps = up_to(depth, STEP) / STEP;
    int64_t m0 = cut(s->m, down, by->threads), m1 = cut(s->m, down + 1, by->threads);
    int64_t n0 = cut(columns, over, by->across), n1 = cut(columns, over + 1, by->across);
    tr_tiles_configure();
    for (int64_t i = m0; i < m1; i += by->m) {
        int64_t end = TR_MIN(m1, i + by->m), high = (end - i + EDGE - 1) / EDGE;
        bool straight = lies_straight(&from, i, end, depth);
        lie at = straight ? (lie){from.row * 2, from.row * 32, 64, from.row * 64}
                          : (lie){64, TILE_BYTES, PART_BYTES, panel};
        const char *rows = straight ? (const char *)((const uint16_t *)from.data + i * from.row + k) : room;
        if (!straight)
            pack(&from, i, end, k, depth, room, panel);
        for (int64_t x = n0; x < n1; x += EDGE) {
            const char *right = b + x / EDGE * b_panel, *next = right + (x + EDGE < n1 ? b_panel : 0);
            int lines = (int)((EDGE * by->parts + high - 1) / high);
            for (int64_t y = 0; y < high; y++)
                block(s, rows + y * at.panel, &at, right, steps, bias, c, i + y * EDGE, j + x, k == 0,
                      k + depth == s->k, sums, (ahead){next + y * steps * lines * 64, lines});
        }
    }
    _tile_release();
}

void tr_amx_pack(const tr_matmul_spec *s, const void *b, void *packed)
{
    operand from = operand_b(s, b);
    int64_t panel = panel_bytes(s->k, from.parts);
#pragma omp parallel
    {
        int self = omp_get_thread_num(), all = omp_get_num_threads();
        int64_t n0 = cut(s->n, self, all), n1 = cut(s->n, self + 1, all);
        pack(&from, n0, n1, 0, s->k, (char *)packed + n0 / EDGE * panel, panel);
    }
}

void tr_amx_run(const tr_matmul_spec *s, const void *a, const void *b, const float *bias, void *c, void *scratch)
{
    blocks by = blocks_of(s);
    operand from = operand_b(s, b);
    int64_t whole_panel = panel_bytes(s->k, by.parts), step_bytes = PART_BYTES * by.parts;
    char *packed = scratch, *rooms = packed + (s->packed ? 0 : 2 * by.parts * by.k * by.n);
#pragma omp parallel
    {
        int self = omp_get_thread_num(), all = omp_get_num_threads();
        char *room = rooms + self * 2 * by.parts * by.k * by.m;
        for (int64_t k = 0; k < s->k; k += by.k)
            for (int64_t j = 0; j < s->n; j += by.n) {
                int64_t depth = TR_MIN(by.k, s->k - k), columns = TR_MIN(by.n, s->n - j);
                int64_t panel = s->packed ? whole_panel : panel_bytes(depth, by.parts);
                const char *right = s->packed ? (const char *)b + k / STEP * step_bytes : packed;
                if (!s->packed) {
                    int64_t n0 = cut(columns, self, all), n1 = cut(columns, self + 1, all);
                    pack(&from, j + n0, j + n1, k, depth, packed + n0 / EDGE * panel, panel);
#pragma omp barrier
                }
                compute(s, &by, self, a, right, panel, bias, c, j, columns, k, depth, room);
#pragma omp barrier
            }
    }
}
#endif
