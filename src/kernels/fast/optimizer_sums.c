/* Fast kernels of the optimizers that sum over a parameter: LARS, LAMB, Adafactor.
 *
 * Everything walks pieces: a piece is some elements of one row of the matrix that r and c factor, or PIECE elements
 * where there are no factors. Sums are of floats within a piece and of doubles over the pieces of a block, in order,
 * and over the blocks, in order: scratch has three doubles for each block. All cuts depend on shapes alone, so that
 * results do not depend on the thread count.
 *
 * adafactor_rows: a chunk of rows has a row of column sums of its own in scratch; they are added in order.
 */
#include <math.h>

#include "base/memory.h"
#include "kernels/fast/optimizer.h"

enum { PIECE = 2048, BLOCK = 16 * 1024, MOST_CHUNKS = 32, CHUNK_ROWS = 32, SUMS = 3 };

typedef struct arrays {
    void *w;
    const void *g;
    float *m, *v;
    const float *r, *c;
    uint16_t *low;
} arrays;

typedef enum rule { LARS_SUMS, LARS, LAMB_MOMENTS, LAMB, SQUARE, ADAFACTOR_SUMS, ADAFACTOR } rule;

typedef struct factors {
    float scale, beta1, rest1, beta2, rest2;
    float correct1, correct2, eps, decay; /* 1 / (1 - beta^step); decay of u, or of w already times the rate */
    float rate;
    float factor; /* of g in a piece: 1 / sqrt(r) and what else a row has alike */
} factors;

/* Pieces ----------------------------------------------------------------------------------------- */

/* Rows of `columns` elements, of which this tensor has `count` from `first` on; `stack` matrices of `rows` each. */
typedef struct grid {
    int64_t rows, columns, stack, first, count;
    bool factored;
} grid;

static grid grid_of(const tr_call *call, int r, int c)
{
    grid s = {.stack = 1, .columns = PIECE, .count = tr_tensor_elems(&call->in[0])};
    s.factored = c >= 0 && tr_has(call, c);
    if (s.factored) {
        s.stack = call->attrs[TR_FACTOR_BATCH].i ? call->in[r].dims[0] : 1;
        s.first = call->attrs[TR_FACTOR_FIRST].i;
        s.columns = tr_tensor_elems(&call->in[c]) / s.stack;
        s.rows = tr_tensor_elems(&call->in[r]) / s.stack;
    } else {
        s.rows = (s.count + PIECE - 1) / PIECE;
    }
    return s;
}

/* The local elements of row i, and where its columns begin in c. */
static inline int64_t row_of(const grid *s, int64_t i, int64_t *out_first, int64_t *out_column)
{
    int64_t first = TR_MAX(i * s->columns - s->first, 0), last = TR_MIN((i + 1) * s->columns - s->first, s->count);
    *out_first = first;
    *out_column = s->factored ? i / s->rows * s->columns + (first + s->first) % s->columns : first;
    return last - first;
}

static int64_t rows_in_block(const grid *s)
{
    return TR_MAX(1, BLOCK / s->columns);
}

static int64_t blocks_of(const grid *s)
{
    int64_t step = rows_in_block(s);
    return (s->rows + step - 1) / step;
}

/* One vector: n elements from i on, whose columns begin at c. Adds to the sums. ------------------- */

TR_INLINE vf lamb_update(const factors *f, vf w, vf m, vf v)
{
    return m * f->correct1 / (vf_sqrt(v * f->correct2) + f->eps) + f->decay * w;
}

TR_INLINE void vector(const arrays *a, int64_t i, int64_t c, int n, const factors *f, rule rule, bool halves, bool bf16,
                      vf *sums)
{
    vf w = vf_zero(), g = vf_zero(), one = vf_set1(1);
    if (rule != SQUARE)
        w = load_weight(a->w, a->low, i, n, halves);
    if (rule != LAMB)
        g = load_gradient(a->g, i, n, bf16);
    if (rule == LARS_SUMS) {
        sums[0] = vf_fma(w, w, sums[0]);
        g *= f->scale;
        sums[1] = vf_fma(g, g, sums[1]);
    } else if (rule == LARS) {
        vf m = vf_fma(load_some(a->m, i, n), vf_set1(f->beta1), f->rate * (g * f->scale + f->decay * w));
        store_some(a->m, i, m, n);
        store_weight(a->w, a->low, i, w - m, n, halves);
    } else if (rule == LAMB_MOMENTS) {
        g *= f->scale;
        vf m = vf_fma(load_some(a->m, i, n), vf_set1(f->beta1), g * f->rest1);
        vf v = vf_fma(load_some(a->v, i, n), vf_set1(f->beta2), g * g * f->rest2), u = lamb_update(f, w, m, v);
        store_some(a->m, i, m, n);
        store_some(a->v, i, v, n);
        sums[0] = vf_fma(w, w, sums[0]);
        sums[1] = vf_fma(u, u, sums[1]);
    } else if (rule == LAMB) {
        vf u = lamb_update(f, w, load_some(a->m, i, n), load_some(a->v, i, n));
        store_weight(a->w, a->low, i, w - f->rate * u, n, halves);
    } else if (rule == SQUARE) {
        g *= f->scale;
        vf v = vf_fma(load_some(a->v, i, n), vf_set1(f->beta2), (g * g + f->eps) * f->rest2);
        store_some(a->v, i, v, n);
    } else {
        /* Without factors c is v, element by element. */
        vf second = load_some(a->c, c, n);
        if (n < TR_VL)
            second = vf_select(vm_first(n), second, one);
        vf u = g * f->factor / vf_sqrt(second);
        if (rule == ADAFACTOR_SUMS) {
            sums[0] = vf_fma(w, w, sums[0]);
            sums[1] = vf_fma(u, u, sums[1]);
            return;
        }
        u *= f->rate;
        if (a->m) {
            u = vf_fma(load_some(a->m, i, n), vf_set1(f->beta1), u * f->rest1);
            store_some(a->m, i, u, n);
        }
        store_weight(a->w, a->low, i, w - f->decay * w - u, n, halves);
    }
}

TR_INLINE void piece(const arrays *a, int64_t i, int64_t c, int64_t count, const factors *f, rule rule, bool halves,
                     bool bf16, double *total)
{
    vf sums[2] = {vf_zero(), vf_zero()};
    int64_t k = 0;
    for (; k + TR_VL <= count; k += TR_VL)
        vector(a, i + k, c + k, TR_VL, f, rule, halves, bf16, sums);
    if (k < count)
        vector(a, i + k, c + k, (int)(count - k), f, rule, halves, bf16, sums);
    total[0] += (double)vf_sum(sums[0]);
    total[1] += (double)vf_sum(sums[1]);
}

#define SPECIAL(rule)                                                                                                \
    static void piece_##rule(const arrays *a, int64_t i, int64_t c, int64_t n, const factors *f, bool bf16, double *sum) \
    {                                                                                                                \
        if (a->low && bf16)                                                                                          \
            piece(a, i, c, n, f, rule, true, true, sum);                                                             \
        else if (a->low)                                                                                             \
            piece(a, i, c, n, f, rule, true, false, sum);                                                            \
        else if (bf16)                                                                                               \
            piece(a, i, c, n, f, rule, false, true, sum);                                                            \
        else                                                                                                         \
            piece(a, i, c, n, f, rule, false, false, sum);                                                           \
    }
SPECIAL(LARS_SUMS)
SPECIAL(LARS)
SPECIAL(LAMB_MOMENTS)
SPECIAL(LAMB)
SPECIAL(SQUARE)
SPECIAL(ADAFACTOR_SUMS)
SPECIAL(ADAFACTOR)
typedef void (*piece_function)(const arrays *, int64_t, int64_t, int64_t, const factors *, bool, double *);

/* Rows of no factors, block by block. `partial`, SUMS doubles a block, or NULL where nothing is summed. */
static void walk(const tr_call *call, const arrays *a, const factors *f, piece_function run, double *partial)
{
    grid s = grid_of(call, 0, -1);
    int64_t step = rows_in_block(&s), blocks = blocks_of(&s);
    bool bf16 = call->in[1].dtype == TR_BF16;
#pragma omp parallel for schedule(static) if (s.count > BLOCK)
    for (int64_t b = 0; b < blocks; b++) {
        double sum[SUMS] = {0, 0, 0};
        for (int64_t i = b * step; i < TR_MIN((b + 1) * step, s.rows); i++) {
            int64_t first, column, n = row_of(&s, i, &first, &column);
            run(a, first, column, n, f, bf16, sum);
        }
        if (partial)
            memcpy(partial + b * SUMS, sum, sizeof sum);
    }
}

static void add_up(const double *partial, int64_t blocks, int kept, float *out, int64_t stride)
{
    for (int k = 0; k < kept; k++) {
        double sum = 0;
        for (int64_t b = 0; b < blocks; b++)
            sum += partial[b * SUMS + k];
        out[k * stride] = (float)sum;
    }
}

static tr_error *prepare_sums(tr_call *call)
{
    grid s = call->op == TR_OP_adafactor_sums ? grid_of(call, 2, 4) : grid_of(call, 0, -1);
    call->scratch_bytes = (size_t)(blocks_of(&s) * SUMS) * sizeof(double);
    return NULL;
}

static double ratio(double a, double b, double factor)
{
    return a > 0 && b > 0 ? factor * a / b : 1;
}

/* LARS ------------------------------------------------------------------------------------------- */

static void lars_sums(const tr_call *call)
{
    arrays a = {.w = call->in[0].data, .g = call->in[1].data, .low = halves_in(call, 3)};
    factors f = {.scale = scalar_in(call, 2)};
    grid s = grid_of(call, 0, -1);
    walk(call, &a, &f, piece_LARS_SUMS, call->scratch);
    add_up(call->scratch, blocks_of(&s), 2, call->out[0].data, 1);
}

static void lars(const tr_call *call)
{
    arrays a = {.w = call->in[0].data, .g = call->in[1].data, .m = call->in[2].data, .low = halves_in(call, 6)};
    double rate = scalar_in(call, 4), decay = call->attrs[TR_LARS_DECAY].f;
    if (tr_has(call, 5)) {
        const float *sums = call->in[5].data;
        double w_norm = sqrt((double)sums[0]), g_norm = sqrt((double)sums[1]);
        rate *= g_norm > 0 ? ratio(w_norm, g_norm + decay * w_norm, call->attrs[TR_LARS_TRUST].f) : 1;
    }
    factors f = {.scale = scalar_in(call, 3), .beta1 = (float)call->attrs[TR_LARS_MOMENTUM].f, .decay = (float)decay,
                 .rate = (float)rate};
    if (f.scale >= 0)
        walk(call, &a, &f, piece_LARS, NULL);
}

/* LAMB ------------------------------------------------------------------------------------------- */

static factors lamb_factors(const tr_call *call, int scale, int step_in)
{
    double b1 = call->attrs[TR_ADAMW_BETA1].f, b2 = call->attrs[TR_ADAMW_BETA2].f;
    double step = *(const int32_t *)call->in[step_in].data;
    return (factors){.scale = scalar_in(call, scale), .beta1 = (float)b1, .rest1 = (float)(1 - b1), .beta2 = (float)b2,
                     .rest2 = (float)(1 - b2), .correct1 = (float)(1 / (1 - pow(b1, step))),
                     .correct2 = (float)(1 / (1 - pow(b2, step))), .eps = (float)call->attrs[TR_ADAMW_EPS].f,
                     .decay = (float)call->attrs[TR_ADAMW_DECAY].f};
}

static void lamb_moments(const tr_call *call)
{
    arrays a = {.w = call->in[0].data, .g = call->in[1].data, .m = call->in[2].data, .v = call->in[3].data,
                .low = halves_in(call, 6)};
    factors f = lamb_factors(call, 4, 5);
    grid s = grid_of(call, 0, -1);
    if (f.scale >= 0)
        walk(call, &a, &f, piece_LAMB_MOMENTS, call->scratch);
    else
        memset(call->scratch, 0, call->scratch_bytes);
    add_up(call->scratch, blocks_of(&s), 2, call->out[2].data, 1);
}

static void lamb(const tr_call *call)
{
    arrays a = {.w = call->in[0].data, .m = call->in[1].data, .v = call->in[2].data, .low = halves_in(call, 7)};
    const float *sums = call->in[3].data;
    factors f = lamb_factors(call, 4, 6);
    f.rate = (float)(scalar_in(call, 5) * ratio(sqrt((double)sums[0]), sqrt((double)sums[1]), 1));
    if (f.scale >= 0)
        walk(call, &a, &f, piece_LAMB, NULL);
}

/* Adafactor -------------------------------------------------------------------------------------- */

static int64_t chunks_of(const grid *s)
{
    return TR_MAX(1, TR_MIN(MOST_CHUNKS, s->rows / CHUNK_ROWS));
}

static tr_error *prepare_rows(tr_call *call)
{
    grid s = grid_of(call, 1, 2);
    call->scratch_bytes = (size_t)(chunks_of(&s) * s.columns) * sizeof(float);
    return NULL;
}

/* The row's sum; its squares are added to the columns' sums. */
TR_INLINE float square_row(const void *g, int64_t i, int64_t n, float scale, float eps, float *columns, bool bf16)
{
    vf sum = vf_zero();
    for (int64_t k = 0; k < n; k += TR_VL) {
        int part = n - k < TR_VL ? (int)(n - k) : TR_VL;
        vf x = load_gradient(g, i + k, part, bf16) * scale, square = x * x + eps;
        if (part < TR_VL)
            square = vf_select(vm_first(part), square, vf_zero());
        store_some(columns, k, load_some(columns, k, part) + square, part);
        sum += square;
    }
    return vf_sum(sum);
}

static void adafactor_rows(const tr_call *call)
{
    grid s = grid_of(call, 1, 2);
    int64_t chunks = chunks_of(&s);
    float *rows = call->out[0].data, *columns = call->out[1].data, *partial = call->scratch;
    float scale = scalar_in(call, 3), eps = (float)call->attrs[TR_FACTOR_ROWS_EPS].f;
    bool bf16 = call->in[0].dtype == TR_BF16;
    for (int64_t matrix = 0; matrix < s.stack; matrix++, columns += s.columns) {
#pragma omp parallel for schedule(static) if (s.rows * s.columns > BLOCK)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            float *sums = partial + chunk * s.columns;
            memset(sums, 0, (size_t)s.columns * sizeof *sums);
            for (int64_t k = s.rows * chunk / chunks; k < s.rows * (chunk + 1) / chunks; k++) {
                int64_t i = matrix * s.rows + k, first, column, n = row_of(&s, i, &first, &column);
                float *at = sums + (column - matrix * s.columns);
                rows[i] = n <= 0 ? 0
                          : bf16 ? square_row(call->in[0].data, first, n, scale, eps, at, true)
                                 : square_row(call->in[0].data, first, n, scale, eps, at, false);
            }
        }
        for (int64_t j = 0; j < s.columns; j++) {
            columns[j] = partial[j];
            for (int64_t chunk = 1; chunk < chunks; chunk++)
                columns[j] += partial[chunk * s.columns + j];
        }
    }
}

static void adafactor_square(const tr_call *call)
{
    double rest = pow(*(const int32_t *)call->in[3].data, -call->attrs[TR_FACTOR_POWER].f);
    arrays a = {.g = call->in[1].data, .v = call->in[0].data};
    factors f = {.scale = scalar_in(call, 2), .beta2 = (float)(1 - rest), .rest2 = (float)rest,
                 .eps = (float)call->attrs[TR_FACTOR_SQUARE_EPS].f};
    if (f.scale >= 0)
        walk(call, &a, &f, piece_SQUARE, NULL);
}

/* The pieces of one matrix. A row's factor is f.factor / sqrt(r); what is summed of r goes to partial[.. + 2]. */
static void walk_matrix(const tr_call *call, const grid *s, int64_t matrix, const arrays *a, const factors *f,
                        piece_function run, double *partial)
{
    int64_t step = rows_in_block(s), blocks = blocks_of(s);
    bool bf16 = call->in[1].dtype == TR_BF16;
    double count = (double)call->attrs[TR_FACTOR_COUNT].i;
#pragma omp parallel for schedule(static) if (s->count > BLOCK)
    for (int64_t b = 0; b < blocks; b++) {
        double sum[SUMS] = {0, 0, 0};
        for (int64_t k = b * step; k < TR_MIN((b + 1) * step, s->rows); k++) {
            int64_t i = matrix * s->rows + k, first, column, n = row_of(s, i, &first, &column);
            factors mine = *f;
            if (n <= 0)
                continue;
            if (s->factored)
                mine.factor = f->factor / sqrtf(a->r[i]);
            run(a, first, column, n, &mine, bf16, sum);
            if (s->factored)
                sum[2] += a->r[i] / count * (double)n;
        }
        if (partial)
            memcpy(partial + b * SUMS, sum, sizeof sum);
    }
}

static void adafactor_sums(const tr_call *call)
{
    grid s = grid_of(call, 2, 4);
    arrays a = {.w = call->in[0].data, .g = call->in[1].data, .r = call->in[2].data, .low = halves_in(call, 5),
                .c = call->in[s.factored ? 4 : 2].data};
    factors f = {.factor = scalar_in(call, 3)};
    for (int64_t matrix = 0; matrix < s.stack; matrix++) {
        float *sums = (float *)call->out[0].data + matrix;
        walk_matrix(call, &s, matrix, &a, &f, piece_ADAFACTOR_SUMS, call->scratch);
        add_up(call->scratch, blocks_of(&s), SUMS, sums, s.stack);
    }
}

static void adafactor(const tr_call *call)
{
    grid s = grid_of(call, 2, 6);
    arrays a = {.w = call->in[0].data, .g = call->in[1].data, .r = call->in[2].data, .low = halves_in(call, 8),
                .c = call->in[s.factored ? 6 : 2].data, .m = tr_has(call, 7) ? call->in[7].data : NULL};
    float scale = scalar_in(call, 4);
    double count = (double)call->attrs[TR_FACTOR_COUNT].i, beta1 = call->attrs[TR_FACTOR_BETA1].f,
           limit = call->attrs[TR_FACTOR_LIMIT].f;
    for (int64_t matrix = 0; matrix < s.stack && scale >= 0; matrix++) {
        const float *sums = (const float *)call->in[3].data + matrix;
        double mean = s.factored ? sums[2 * s.stack] : 1, rate = scalar_in(call, 5), shrink = 1;
        if (limit > 0)
            shrink = fmax(1, sqrt(sums[s.stack] * mean / count) / limit);
        if (call->attrs[TR_FACTOR_RELATIVE].i)
            rate *= fmax(call->attrs[TR_FACTOR_LEAST].f, sqrt(sums[0] / count));
        factors f = {.factor = (float)(scale * sqrt(mean) / shrink), .rate = (float)rate, .beta1 = (float)beta1,
                     .rest1 = (float)(1 - beta1), .decay = (float)(rate * call->attrs[TR_FACTOR_DECAY].f)};
        walk_matrix(call, &s, matrix, &a, &f, piece_ADAFACTOR, NULL);
    }
}

/* Which calls ------------------------------------------------------------------------------------ */

static bool is_float(const tr_tensor *t)
{
    return t->dtype == TR_F32 || t->dtype == TR_BF16;
}

static bool lars_sums_accepts(const tr_call *call)
{
    return weight_accepts(call, 3);
}

static bool lars_accepts(const tr_call *call)
{
    return weight_accepts(call, 6);
}

static bool lamb_moments_accepts(const tr_call *call)
{
    return weight_accepts(call, 6);
}

static bool lamb_accepts(const tr_call *call)
{
    return weight_accepts(call, 7);
}

static bool rows_accepts(const tr_call *call)
{
    return is_float(&call->in[0]);
}

static bool square_accepts(const tr_call *call)
{
    return is_float(&call->in[1]) && call->in[0].dtype == TR_F32;
}

static bool adafactor_sums_accepts(const tr_call *call)
{
    return weight_accepts(call, 5);
}

static bool adafactor_accepts(const tr_call *call)
{
    return weight_accepts(call, 8);
}

/* adafactor_mean is of a row and a column: the reference kernel is fast enough. */
const tr_kernel TR_KERNELS(optimizer_sums)[] = {
    {TR_OP_lars_sums, TR_ISA_NAME, lars_sums_accepts, prepare_sums, lars_sums, NULL},
    {TR_OP_lars, TR_ISA_NAME, lars_accepts, NULL, lars, NULL},
    {TR_OP_lamb_moments, TR_ISA_NAME, lamb_moments_accepts, prepare_sums, lamb_moments, NULL},
    {TR_OP_lamb, TR_ISA_NAME, lamb_accepts, NULL, lamb, NULL},
    {TR_OP_adafactor_rows, TR_ISA_NAME, rows_accepts, prepare_rows, adafactor_rows, NULL},
    {TR_OP_adafactor_square, TR_ISA_NAME, square_accepts, NULL, adafactor_square, NULL},
    {TR_OP_adafactor_sums, TR_ISA_NAME, adafactor_sums_accepts, prepare_sums, adafactor_sums, NULL},
    {TR_OP_adafactor, TR_ISA_NAME, adafactor_accepts, NULL, adafactor, NULL},
    {0},
};
