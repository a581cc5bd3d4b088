/* Tiles: what the fast attention kernels are made of.
 *
 * A tile is up to LANES queries by up to KEYS keys, in scratch that fits the cache. Scores are kept
 * transposed, s[key][query]: a vector holds one key's scores for TR_VL queries, so that maxima,
 * sums and rescaling need no reduction across lanes, and every product below reads its operands as
 * they lie:
 *
 *     forward     s[j][i]  = sum_c k[j][c] qT[c][i]     o[i][c]  += sum_j p[j][i] v[j][c]
 *     backward    dp[j][i] = sum_c v[j][c] doT[c][i]    dv[j][c] += sum_i p[j][i] do[i][c]
 *                 dk[j][c] += sum_i ds[j][i] q[i][c]    dq[i][c] += sum_j ds[j][i] k[j][c]
 *
 * Operands are arrays of 32-bit words: an f32, or, when `dot`, two bf16 neighbours along the dim
 * that is summed over (the processor multiplies such pairs at twice the rate). Three packings of n
 * rows of e:
 *
 *     rows    [n][row]               neighbours within a row: left operand of the products over c
 *     lanes   [words of e][LANES]    the same, transposed: right operand of the products over c
 *     pairs   [ceil(n/2)][col]       neighbours are two rows: right operand over i or j
 *
 * In f32 a word has no neighbour: pairs and rows are the same array, and row == col.
 * Padding (to whole vectors, and of an odd row) is zero.
 *
 * Functions with TILE names are compiled once for each instruction set, like everything in this
 * folder.
 */
#pragma once
#include "base/memory.h"
#include "kernels/attention_shape.h"
#include "kernels/fast/simd.h"

#define TILE(name) TR_PASTE(tr_attention, TR_ISA, name)

enum {
    LANES = 64,
    KEYS = 128,
#if TR_SIMD_512 || defined(__aarch64__)
    TILE_VECTORS = 4, /* the register block of the product is 6 rows by so many vectors */
#else
    TILE_VECTORS = 2,
#endif
#if TR_SIMD_512 && defined(__AVX512BF16__)
    TILE_DOT = 1,
#else
    TILE_DOT = 0,
#endif
};
#ifdef __AMX_BF16__
#define TILE_AMX 1 /* pairs are multiplied on the processor's tiles */
#else
#define TILE_AMX 0
#endif

#if defined(__clang__)
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TILE_UNROLL _Pragma("GCC unroll 16")
#endif

/* Scratch is written and read as floats, pairs and halves. */
typedef float __attribute__((may_alias)) word;
typedef uint32_t __attribute__((may_alias)) word_bits;
typedef uint16_t __attribute__((may_alias)) word_half;

typedef struct tile_form {
    bool bf16, dot;
    int64_t e, words; /* elements and words of a row */
    int64_t row, col; /* strides of the packings, in words */
} tile_form;

static inline tile_form tile_form_of(const tr_attention_shape *a)
{
    tile_form f = {.bf16 = a->bf16, .dot = a->bf16 && TILE_DOT, .e = a->e};
    f.words = f.dot ? (a->e + 1) / 2 : a->e;
    f.row = (f.words + TR_VL - 1) / TR_VL * TR_VL;
    f.col = (a->e + TR_VL - 1) / TR_VL * TR_VL;
    return f;
}

/* A thread that calls `product` for pairs does it between these. */
static inline void tile_begin(const tile_form *f)
{
#if TILE_AMX
    if (f->dot)
        tr_tiles_configure();
#endif
    (void)f;
}

static inline void tile_end(const tile_form *f)
{
#if TILE_AMX
    if (f->dot)
        _tile_release();
#endif
    (void)f;
}

/* Of LANES, those that n queries need: whole vectors. The others are neither packed nor read. */
static inline int64_t tile_lanes(int64_t n)
{
    return (n + TR_VL - 1) / TR_VL * TR_VL;
}

/* Rows of pairs, or words along n queries or keys. */
static inline int64_t tile_words(bool dot, int64_t n)
{
    return dot ? (n + 1) / 2 : n;
}

/* Where in an f32 or bf16 tensor. */
static inline void *tile_at(tr_rows x, bool bf16, int64_t b, int64_t i, int64_t h)
{
    return (char *)x.data + (b * x.batch + i * x.step + h * x.head) * (bf16 ? 2 : 4);
}

/* Packs n rows that lie `step` elements apart; `rows` to `all` become zeros. */
void TILE(pack_rows)(const tile_form *f, word *to, const void *from, int64_t step, int64_t n,
                     int64_t all);
/* Only for dot. All of ceil(n/2) rows; those to ceil(all/2) become zeros. */
void TILE(pack_pairs)(const tile_form *f, word *to, const void *from, int64_t step, int64_t n, int64_t all);
/* Transposes packed rows, `lanes` of them (whole vectors). */
void TILE(pack_lanes)(const tile_form *f, word *to, const word *rows, int64_t lanes);
/* n rows of sums to an f32 or bf16 tensor, each times factor. */
void TILE(unpack)(const tile_form *f, void *to, int64_t step, const float *from, int64_t n,
                  float factor);

/* c[m][n] = (add ? c : 0) + sum over k words of a(m, k) b[k][n], n being `vectors` whole vectors.
 * a(m, k) is a[m * a_row + k], or, when a_transposed, a[k * a_row + m]. */
void TILE(product)(bool dot, bool a_transposed, bool add, int64_t m, int64_t vectors, int64_t k,
                   const word *a, int64_t a_row, const word *b, int64_t b_row, float *c,
                   int64_t c_row);

/* The same, added to what is there, in f32. */
void TILE(unpack_add)(const tile_form *f, float *to, int64_t step, const float *from, int64_t n,
                      float factor);

/* The bias by distance, spread out so that a tile finds it as vectors: for LANES queries from i (a multiple of LANES)
 * and key j at base + h head + i / LANES block + first + j step. Without rows of a window it is a line of distances,
 * which a key shifts by one; with them a matrix. Values are divided by scale, as scores are before the softmax. */
typedef struct tile_bias {
    float *base; /* NULL: none */
    int64_t head, block, first, step;
} tile_bias;

tile_bias TILE(bias_of)(const tr_attention_shape *a, int64_t keys, void *memory);
/* Of head h. */
void TILE(bias_fill)(const tr_attention_shape *a, const tile_bias *x, int64_t h, int64_t offset, int64_t keys);
static inline float *tile_bias_at(const tile_bias *x, int64_t h, int64_t i)
{
    return x->base ? x->base + h * x->head + i / LANES * x->block + x->first : NULL;
}

/* Dropout's factors for keys j.. j + n and LANES queries from i, as factor[key][query]. */
void TILE(dropout)(const tr_attention_shape *a, int64_t b, int64_t h, int64_t i, int64_t j,
                   int64_t n, float *factor);

/* The forward pass of all heads; k and v have `keys` rows, of which query i sees those up to
 * i + offset. lse may be NULL. Scratch: forward_bytes for `room` >= keys rows. */
size_t TILE(forward_bytes)(const tr_attention_shape *a, int64_t room);
void TILE(forward)(const tr_attention_shape *a, tr_rows q, tr_rows k, tr_rows v, tr_rows o,
                   float *lse, int64_t offset, int64_t keys, void *scratch, int64_t room);

/* The gradient: x and dx are q, k, v and theirs. */
size_t TILE(grad_bytes)(const tr_attention_shape *a);
typedef struct tile_grad {
    tr_rows x[3], dx[3], dout, o;
    const float *lse;
    float *drelative; /* where there is a bias by distance */
} tile_grad;
void TILE(grad)(const tr_attention_shape *a, const tile_grad *w, void *scratch);

/* Short sequences in bf16, not causal, without dropout (attention_short.c): a head at once. A tile_short is scratch, to be
 * cleared before a thread's first head. bias: of the head, as tile_bias_at; NULL: none. */
typedef struct tile_short tile_short;
typedef struct tile_head {
    uint16_t *q, *k, *v, *o;
    int64_t q_step, k_step, v_step, o_step; /* from row to row */
} tile_head;

static inline tile_head tile_head_of(tr_rows q, tr_rows k, tr_rows v, tr_rows o, int64_t b, int64_t h)
{
    return (tile_head){tile_at(q, true, b, 0, h), tile_at(k, true, b, 0, h), tile_at(v, true, b, 0, h),
                       tile_at(o, true, b, 0, h), q.step, k.step, v.step, o.step};
}

bool TILE(is_short)(const tr_attention_shape *a);
size_t TILE(short_bytes)(void);
void TILE(short_clear)(tile_short *r);
/* What is soon to be read, or written. */
void TILE(short_fetch)(const tr_attention_shape *a, const tile_head *x);
void TILE(short_forward)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, float *lse,
                         const float *bias, int64_t bias_step);
/* dx->o is the gradient of the output; dbias is added to. */
void TILE(short_grad)(const tr_attention_shape *a, tile_short *r, int64_t b, const tile_head *x, const tile_head *dx,
                      const float *lse, const float *bias, float *dbias, int64_t bias_step);
tr_error *TILE(grad_prepare)(tr_call *call);
void TILE(grad_run)(const tr_call *call);
tr_error *TILE(cached_prepare)(tr_call *call);
void TILE(cached_run)(const tr_call *call);

/* 2^y to 1.2e-7 for y <= 127 or so; what is below 2^-126 becomes that. A NaN stays one. */
TR_INLINE vf tile_exp2(vf y)
{
    y = vf_max(vf_set1(-126.0f), y);
    vf n = vf_round(y), r = y - n;
    vf p = vf_fma(vf_set1(0.001327647129f), r, vf_set1(0.009675540961f));
    p = vf_fma(p, r, vf_set1(0.05550713092f));
    p = vf_fma(p, r, vf_set1(0.2402212024f));
    p = vf_fma(p, r, vf_set1(0.693146944f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return simd_scale2(p, n);
}

/* In the lanes with bit `half`: upper has b's lanes without it, lower b's own; in the others: upper
 * has a's own, lower a's lanes with the bit. The step of transpositions and of sums over lanes. */
TR_INLINE void tile_exchange(vf a, vf b, int half, vf *upper, vf *lower)
{
#if defined(__clang__)
    TILE_UNROLL
    for (int l = 0; l < TR_VL; l++) {
        (*upper)[l] = l & half ? b[l ^ half] : a[l];
        (*lower)[l] = l & half ? b[l] : a[l ^ half];
    }
#else
    vi up, low;
    TILE_UNROLL
    for (int l = 0; l < TR_VL; l++) {
        up[l] = l & half ? TR_VL + (l ^ half) : l;
        low[l] = l & half ? TR_VL + l : l ^ half;
    }
    *upper = __builtin_shuffle(a, b, up);
    *lower = __builtin_shuffle(a, b, low);
#endif
}

/* bf16 of even in the low halves, of odd in the high ones. Halfway is rounded away from zero:
 * simpler than to even, and as good for weights, of which many are summed. */
TR_INLINE vu tile_pair(vf even, vf odd)
{
    return ((vu)even + 0x8000u) >> 16 | (((vu)odd + 0x8000u) & 0xffff0000u);
}

/* Rows become columns, in log2(TR_VL) rounds that exchange blocks of half the size. */
TR_INLINE void tile_transpose(vf x[TR_VL])
{
    TILE_UNROLL
    for (int half = TR_VL / 2; half; half /= 2) {
        TILE_UNROLL
        for (int r = 0; r < TR_VL; r++) {
            if (r & half)
                continue;
            vf upper, lower;
            tile_exchange(x[r], x[r + half], half, &upper, &lower);
            x[r] = upper;
            x[r + half] = lower;
        }
    }
}

/* The keys that any, and that all, of n queries from i on see. */
typedef struct tile_span {
    int64_t first, last, all_first, all_last;
} tile_span;

static inline tile_span tile_span_of(const tr_attention_shape *a, int64_t i, int64_t n,
                                     int64_t offset, int64_t keys)
{
    tile_span x;
    tr_attention_range(a, i, offset, keys, &x.first, &x.all_last);
    tr_attention_range(a, i + n - 1, offset, keys, &x.all_first, &x.last);
    return x;
}

/* One tile: keys j to j + n; of the queries, the vectors low to high, which are rows i0 to i1. Products are of `rows`
 * keys: n, or more where that fills the processor's tiles (tile_fill). */
typedef struct tile_step {
    int64_t j, n, rows;
    int low, high;
    int64_t i0, i1;
    bool masked;
} tile_step;

enum { TILE_EDGE = 32 }; /* keys in a tile that not all of its queries see */

/* The first tile has j = the span's first key rounded down to TILE_EDGE, the next one j + n, while
 * j < last. Where only some queries see some keys a tile is short, and the vectors of queries that
 * see none of its keys are left out. Every j is even, as pairs need it. */
static inline tile_step tile_step_at(const tr_attention_shape *a, const tile_span *x, int64_t i,
                                     int64_t n, int64_t offset, int64_t j)
{
    tile_step s = {.j = j, .low = 0, .high = (int)((n + TR_VL - 1) / TR_VL), .i1 = n};
    int64_t end = x->all_last >= x->last ? x->last : x->all_last / TILE_EDGE * TILE_EDGE;
    s.masked = j < x->all_first || j >= end;
    s.n = s.masked ? TR_MIN(TILE_EDGE, x->last - j) : TR_MIN(KEYS, end - j);
    if (s.masked && a->causal && j - offset > i)
        s.low = (int)((j - offset - i) / TR_VL);
    if (s.masked && a->window > 0) {
        int64_t past =
            j + s.n - 1 - offset + a->window - i; /* the first query that is past all these keys */
        s.high = (int)TR_MIN(s.high, (past + TR_VL - 1) / TR_VL);
    }
    s.i0 = s.low * TR_VL;
    s.i1 = TR_MIN(n, s.high * TR_VL);
    s.rows = s.n;
    return s;
}

/* How many rows n keys are packed as: the rest is zeros. */
static inline int64_t tile_keys(const tile_form *f, int64_t n)
{
    return TILE_AMX && f->dot ? (n + TILE_EDGE - 1) / TILE_EDGE * TILE_EDGE : n;
}

/* The last tile of `keys` keys that are packed so, and the last queries: what the processor's tiles would leave over is
 * multiplied with them. Behind the keys lie zeros, behind the queries what adds nothing. */
static inline void tile_fill(const tile_form *f, tile_step *s, int64_t keys)
{
    if (!TILE_AMX || !f->dot)
        return;
    s->i1 = s->high * TR_VL;
    if (s->j + s->n == keys)
        s->rows = tile_keys(f, s->n);
}

/* Pairs of keys behind the last become zeros. */
static inline void tile_clear_behind(const tile_step *s, word *pairs)
{
    for (int64_t j = (s->n + 1) / 2; j < (s->rows + 1) / 2; j++)
        memset(pairs + j * LANES, 0, LANES * sizeof *pairs);
}

/* Adds the bias to a tile's scores, and NOTHING in place of those that segments hide. `bias`: of this block of
 * queries; `segments`: LANES of the queries, or NULL; keys: of all keys of the sequence, or NULL. */
static const float NOTHING = -1e30f; /* the score of what is not seen */
void TILE(adjust)(const tile_step *t, word *s, const float *bias, int64_t bias_step, const int32_t *segments,
                  const int32_t *keys);

/* Of queries i .. i + n; zeros behind them. */
static inline const int32_t *tile_segments(const tr_attention_shape *a, int64_t b, int64_t i, int64_t n,
                                           int32_t lanes[LANES])
{
    if (!a->query_segments)
        return NULL;
    for (int64_t l = 0; l < LANES; l++)
        lanes[l] = l < n ? a->query_segments[b % a->segment_rows * a->t + i + l] : 0;
    return lanes;
}

static inline const int32_t *tile_key_segments(const tr_attention_shape *a, int64_t b)
{
    return a->key_segments ? a->key_segments + b % a->segment_rows * a->s : NULL;
}

/* Which of the queries i + v * TR_VL .. see key j of a masked tile. */
TR_INLINE vm tile_visible(const tr_attention_shape *a, int64_t i, int64_t offset, int64_t j, int v)
{
    int64_t from = a->causal ? j - offset - i : 0,
            to = a->window > 0 ? j - offset + a->window - i : LANES;
    vi lane = (vi)vu_iota() + v * TR_VL;
    vi low = (int32_t)TR_MAX(TR_MIN(from, LANES), 0) - 1 + (vi){0},
       high = (int32_t)TR_MAX(TR_MIN(to, LANES), 0) + (vi){0};
    return (vm)(vi_lt(low, lane) & vi_lt(lane, high));
}
