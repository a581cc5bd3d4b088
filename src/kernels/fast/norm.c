/* layer_norm, add_layer_norm, layer_norm_grad, and the same of rms_norm (which has no mean and no bias).
 *
 * A row is read from memory once; its mean, its variance (of the differences from the mean, so that
 * a large mean does no harm) and its result are then three walks over what is in the first-level
 * cache.
 *
 * The gradient walks a row twice: the first walk makes the two sums that dx needs and adds to a
 * chunk's row of dw and db, the second one writes dx. (Four rows at a time, to save traffic of dw
 * and db within the cache, measured slower.) Chunks of rows are a function of the shape; their dw
 * and db are in scratch and added in order, so that results do not depend on the thread count.
 * Scratch: chunks * 2 d floats, and room for weights in float where they are bf16. */
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { CHUNK_ROWS = 16, MAX_CHUNKS = 64, SMALL = 8 * 1024 };

/* What all walks need. Statistics and weights are f32. */
typedef struct norm_facts {
    int64_t rows, d;
    const void *x, *other; /* other: the residual, or dy */
    void *sum, *y;         /* y: or dx */
    const void *acc;
    const float *w, *b;
    float *mean, *rstd;
    float eps;
} norm_facts;

TR_INLINE vf load(const void *p, int64_t i, int part, bool bf16)
{
    return part == TR_VL ? vf_load_as(p, i, bf16) : vf_load_as_n(p, i, part, bf16);
}

TR_INLINE void store(void *p, int64_t i, vf v, int part, bool bf16)
{
    if (part == TR_VL)
        vf_store_as(p, i, v, bf16);
    else
        vf_store_as_n(p, i, v, part, bf16);
}

static bool dtype_in(const tr_tensor *t, tr_dtype dtype)
{
    return t->dtype == dtype;
}

static bool is_float(const tr_tensor *t)
{
    return t->dtype == TR_F32 || t->dtype == TR_BF16;
}

/* A vector of weights in float: itself, or converted into room. */
static const float *weights(const tr_tensor *w, float *room, int64_t d)
{
    if (w->dtype == TR_F32)
        return w->data;
    for (int64_t c = 0; c < d; c++)
        room[c] = tr_bf16_to_f32(((const uint16_t *)w->data)[c]);
    return room;
}

/* Forward ------------------------------------------------------------------------------- */

/* One vector of the row at i: x, or the sum, which is stored. */
TR_INLINE vf first_look(const norm_facts *f, int64_t i, int part, bool add, bool bf16)
{
    vf v = load(f->x, i, part, bf16);
    if (add) {
        v = vf_round_as(v + load(f->other, i, part, bf16), bf16);
        store(f->sum, i, v, part, bf16);
    }
    return v;
}

/* Lanes past the row's end do not count. */
TR_INLINE vf centred(const void *x, int64_t i, int part, vf mean, bool bf16)
{
    vf v = load(x, i, part, bf16) - mean;
    return part == TR_VL ? v : vf_select(vm_first(part), v, vf_zero());
}

/* What the first walk sums up. */
TR_INLINE vf summand(vf v, bool rms)
{
    return rms ? v * v : v;
}

TR_INLINE void norm_rows(const norm_facts *f, int64_t first, int64_t last, bool add, bool rms, bool bf16)
{
    const int64_t d = f->d, whole = d / TR_VL * TR_VL, pairs = d / (2 * TR_VL) * (2 * TR_VL);
    const int rest = (int)(d - whole);
    const void *x = add ? f->sum : f->x;
    for (int64_t r = first; r < last; r++) {
        int64_t at = r * d, c;
        vf s0 = vf_zero(), s1 = vf_zero();
        for (c = 0; c < pairs; c += 2 * TR_VL) {
            s0 += summand(first_look(f, at + c, TR_VL, add, bf16), rms);
            s1 += summand(first_look(f, at + c + TR_VL, TR_VL, add, bf16), rms);
        }
        if (c < whole)
            s0 += summand(first_look(f, at + c, TR_VL, add, bf16), rms);
        if (rest)
            s1 += summand(first_look(f, at + whole, rest, add, bf16), rms);
        float mean = rms ? 0 : vf_sum(s0 + s1) / (float)d;

        vf m = vf_set1(mean);
        if (!rms)
            s0 = s1 = vf_zero();
        for (c = 0; !rms && c < pairs; c += 2 * TR_VL) {
            vf v0 = centred(x, at + c, TR_VL, m, bf16),
               v1 = centred(x, at + c + TR_VL, TR_VL, m, bf16);
            s0 = vf_fma(v0, v0, s0);
            s1 = vf_fma(v1, v1, s1);
        }
        if (!rms && c < whole) {
            vf v = centred(x, at + c, TR_VL, m, bf16);
            s0 = vf_fma(v, v, s0);
        }
        if (!rms && rest) {
            vf v = centred(x, at + whole, rest, m, bf16);
            s1 = vf_fma(v, v, s1);
        }
        float rstd = 1.0f / sqrtf(vf_sum(s0 + s1) / (float)d + f->eps);

        vf scale = vf_set1(rstd);
        for (c = 0; c < whole; c += TR_VL) {
            vf h = (vf_load_as(x, at + c, bf16) - m) * scale, w = vf_load(f->w + c);
            vf_store_as(f->y, at + c, rms ? h * w : vf_fma(h, w, vf_load(f->b + c)), bf16);
        }
        if (rest) {
            vf h = (vf_load_as_n(x, at + c, rest, bf16) - m) * scale, w = vf_load_n(f->w + c, rest);
            vf_store_as_n(f->y, at + c, rms ? h * w : vf_fma(h, w, vf_load_n(f->b + c, rest)), rest, bf16);
        }
        if (!rms)
            f->mean[r] = mean;
        f->rstd[r] = rstd;
    }
}

typedef void (*rows_fn)(const norm_facts *f, int64_t first, int64_t last);

#define NORM_ROWS(name, add, rms)                                              \
    static void name##_f32(const norm_facts *f, int64_t first, int64_t last)   \
    {                                                                          \
        norm_rows(f, first, last, add, rms, false);                            \
    }                                                                          \
    static void name##_bf16(const norm_facts *f, int64_t first, int64_t last)  \
    {                                                                          \
        norm_rows(f, first, last, add, rms, true);                             \
    }
NORM_ROWS(norm_rows, false, false)
NORM_ROWS(add_norm_rows, true, false)
NORM_ROWS(rms_rows, false, true)
NORM_ROWS(add_rms_rows, true, true)

static bool adds_first(const tr_call *call)
{
    return call->op == TR_OP_add_layer_norm || call->op == TR_OP_add_rms_norm;
}

static bool is_rms(const tr_call *call)
{
    return call->op == TR_OP_rms_norm || call->op == TR_OP_add_rms_norm || call->op == TR_OP_rms_norm_grad;
}

/* Inputs x, (r,) w, (b); outputs (s,) y, (mean,) rstd. */
static bool accepts_forward(const tr_call *call)
{
    int adds = adds_first(call), n_in = 3 + adds - is_rms(call), n_out = 3 + adds - is_rms(call);
    for (int k = 1; k < n_in; k++)
        if (k <= adds ? !dtype_in(&call->in[k], call->in[0].dtype) : !is_float(&call->in[k]))
            return false;
    for (int k = 0; k < n_out; k++)
        if (!dtype_in(&call->out[k], k <= adds ? call->in[0].dtype : TR_F32))
            return false;
    return is_float(&call->in[0]);
}

static tr_error *prepare_forward(tr_call *call)
{
    int adds = adds_first(call);
    bool converts = !dtype_in(&call->in[1 + adds], TR_F32) ||
                    (!is_rms(call) && !dtype_in(&call->in[2 + adds], TR_F32));
    call->scratch_bytes =
        converts ? 2 * (size_t)tr_tensor_elems(&call->in[1 + adds]) * sizeof(float) : 0;
    return NULL;
}

static void run_forward(const tr_call *call)
{
    int adds = adds_first(call), means = !is_rms(call);
    const tr_tensor *x = &call->in[0];
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0;
    float *room = call->scratch;
    norm_facts f = {.rows = rows,
                    .d = d,
                    .x = x->data,
                    .other = adds ? call->in[1].data : NULL,
                    .sum = adds ? call->out[0].data : NULL,
                    .y = call->out[adds].data,
                    .mean = means ? call->out[1 + adds].data : NULL,
                    .rstd = call->out[1 + adds + means].data,
                    .w = weights(&call->in[1 + adds], room, d),
                    .b = means ? weights(&call->in[2 + adds], room ? room + d : NULL, d) : NULL,
                    .eps = (float)call->attrs[TR_NORM_EPS].f};
    static const rows_fn bodies[2][2][2] = {
        {{norm_rows_f32, norm_rows_bf16}, {add_norm_rows_f32, add_norm_rows_bf16}},
        {{rms_rows_f32, rms_rows_bf16}, {add_rms_rows_f32, add_rms_rows_bf16}}};
    rows_fn body = bodies[!means][adds][x->dtype == TR_BF16];
#pragma omp parallel if (rows * d >= SMALL)
    {
        int64_t threads = omp_get_num_threads(), t = omp_get_thread_num();
        body(&f, rows * t / threads, rows * (t + 1) / threads);
    }
}

/* Gradient ------------------------------------------------------------------------------ */

static int64_t chunks_of(int64_t rows)
{
    int64_t chunks = rows / CHUNK_ROWS;
    return chunks < 1 ? 1 : chunks > MAX_CHUNKS ? MAX_CHUNKS : chunks;
}

/* Adds `part` lanes at column c of the row at `at`: g and g h to the sums, dy h and dy to dw and
 * db. */
TR_INLINE void grad_sums(const norm_facts *f, int64_t at, int64_t c, int part, vf mean, vf rstd,
                         vf *sum_g, vf *sum_gh, float *dw, float *db, bool rms, bool bf16)
{
    vf dy = load(f->other, at + c, part, bf16), h = (load(f->x, at + c, part, bf16) - mean) * rstd;
    vf g = dy * load(f->w, c, part, false);
    *sum_gh = vf_fma(g, h, *sum_gh);
    store(dw, c, vf_fma(dy, h, load(dw, c, part, false)), part, false);
    if (rms)
        return;
    *sum_g += g;
    store(db, c, load(db, c, part, false) + dy, part, false);
}

/* dx = acc + rstd (g - mean(g) - h mean(gh)) = acc + rstd g - (x - mean) a - b. */
TR_INLINE void grad_dx(const norm_facts *f, int64_t i, int64_t c, int part, vf mean, vf rstd, vf a,
                       vf b, bool acc, bool bf16)
{
    vf g = load(f->other, i, part, bf16) * load(f->w, c, part, false);
    vf dx = vf_fma(rstd, g, -vf_fma(load(f->x, i, part, bf16) - mean, a, b));
    if (acc)
        dx += load(f->acc, i, part, bf16);
    store(f->y, i, dx, part, bf16);
}

TR_INLINE void grad_row(const norm_facts *f, int64_t row, float *dw, float *db, bool acc, bool rms, bool bf16)
{
    const int64_t d = f->d, whole = d / TR_VL * TR_VL, at = row * d;
    const int rest = (int)(d - whole);
    vf mean = vf_set1(rms ? 0 : f->mean[row]), rstd = vf_set1(f->rstd[row]);
    vf sum_g[2] = {vf_zero(), vf_zero()}, sum_gh[2] = {vf_zero(), vf_zero()};
    int64_t c = 0;
    for (; c + 2 * TR_VL <= whole; c += 2 * TR_VL)
        for (int k = 0; k < 2; k++)
            grad_sums(f, at, c + k * TR_VL, TR_VL, mean, rstd, &sum_g[k], &sum_gh[k], dw, db, rms, bf16);
    if (c < whole)
        grad_sums(f, at, c, TR_VL, mean, rstd, &sum_g[0], &sum_gh[0], dw, db, rms, bf16);
    if (rest)
        grad_sums(f, at, whole, rest, mean, rstd, &sum_g[1], &sum_gh[1], dw, db, rms, bf16);

    float scale = f->rstd[row], mean_g = vf_sum(sum_g[0] + sum_g[1]) / (float)d,
          mean_gh = vf_sum(sum_gh[0] + sum_gh[1]) / (float)d;
    vf a = vf_set1(scale * scale * mean_gh), b = vf_set1(scale * mean_g);
    for (c = 0; c < whole; c += TR_VL)
        grad_dx(f, at + c, c, TR_VL, mean, rstd, a, b, acc, bf16);
    if (rest)
        grad_dx(f, at + whole, whole, rest, mean, rstd, a, b, acc, bf16);
}

TR_INLINE void grad_chunk(const norm_facts *f, int64_t first, int64_t last, float *dw, float *db,
                          bool acc, bool rms, bool bf16)
{
    memset(dw, 0, (size_t)f->d * sizeof *dw);
    if (!rms)
        memset(db, 0, (size_t)f->d * sizeof *db);
    for (int64_t r = first; r < last; r++)
        grad_row(f, r, dw, db, acc, rms, bf16);
}

typedef void (*chunk_fn)(const norm_facts *f, int64_t first, int64_t last, float *dw, float *db);

#define GRAD_CHUNK(name, acc, rms)                                                                      \
    static void name##_f32(const norm_facts *f, int64_t first, int64_t last, float *dw, float *db)      \
    {                                                                                                   \
        grad_chunk(f, first, last, dw, db, acc, rms, false);                                            \
    }                                                                                                   \
    static void name##_bf16(const norm_facts *f, int64_t first, int64_t last, float *dw, float *db)     \
    {                                                                                                   \
        grad_chunk(f, first, last, dw, db, acc, rms, true);                                             \
    }
GRAD_CHUNK(grad_chunk, false, false)
GRAD_CHUNK(grad_chunk_acc, true, false)
GRAD_CHUNK(rms_chunk, false, true)
GRAD_CHUNK(rms_chunk_acc, true, true)

/* dy, x, w, (mean,) rstd, acc?; dx, dw, (db). */
static bool accepts_grad(const tr_call *call)
{
    const tr_tensor *in = call->in, *out = call->out;
    int means = !is_rms(call), acc = 4 + means;
    return is_float(&in[0]) && dtype_in(&in[1], in[0].dtype) && is_float(&in[2]) && dtype_in(&in[3], TR_F32) &&
           dtype_in(&in[3 + means], TR_F32) && (!tr_has(call, acc) || dtype_in(&in[acc], in[0].dtype)) &&
           dtype_in(&out[0], in[0].dtype) && is_float(&out[1]) && is_float(&out[1 + means]);
}

static tr_error *prepare_grad(tr_call *call)
{
    size_t d = (size_t)tr_tensor_elems(&call->in[2]);
    int64_t rows = d ? tr_tensor_elems(&call->in[1]) / (int64_t)d : 0;
    size_t vectors = 2 * (size_t)chunks_of(rows) + !dtype_in(&call->in[2], TR_F32);
    call->scratch_bytes = vectors * d * sizeof(float);
    return NULL;
}

static void run_grad(const tr_call *call)
{
    const tr_tensor *x = &call->in[1];
    int64_t d = x->dims[x->rank - 1], rows = d ? tr_tensor_elems(x) / d : 0,
            chunks = chunks_of(rows);
    float *partial = call->scratch;
    int means = !is_rms(call), acc = 4 + means, vectors = 1 + means;
    bool accumulates = tr_has(call, acc), large = rows * d >= SMALL;
    norm_facts f = {.rows = rows,
                    .d = d,
                    .x = x->data,
                    .other = call->in[0].data,
                    .y = call->out[0].data,
                    .acc = accumulates ? call->in[acc].data : NULL,
                    .mean = means ? call->in[3].data : NULL,
                    .rstd = call->in[3 + means].data,
                    .w = weights(&call->in[2], partial + chunks * 2 * d, d)};
    static const chunk_fn bodies[2][2][2] = {
        {{grad_chunk_f32, grad_chunk_bf16}, {grad_chunk_acc_f32, grad_chunk_acc_bf16}},
        {{rms_chunk_f32, rms_chunk_bf16}, {rms_chunk_acc_f32, rms_chunk_acc_bf16}}};
    chunk_fn body = bodies[!means][accumulates][x->dtype == TR_BF16];
#pragma omp parallel for schedule(static) if (large)
    for (int64_t k = 0; k < chunks; k++) {
        float *dw = partial + k * 2 * d;
        body(&f, rows * k / chunks, rows * (k + 1) / chunks, dw, dw + d);
    }
    /* Element j of vectors * d: dw, then db. Few enough for one thread. */
    for (int64_t j = 0; j < vectors * d; j += TR_VL) {
        int part = vectors * d - j < TR_VL ? (int)(vectors * d - j) : TR_VL;
        vf sum = vf_load_n(partial + j, part);
        for (int64_t k = 1; k < chunks; k++)
            sum += vf_load_n(partial + k * 2 * d + j, part);
        vf_store_n(partial + j, sum, part);
    }
    for (int k = 0; k < vectors; k++) {
        const tr_tensor *out = &call->out[1 + k];
        for (int64_t c = 0; c < d; c += TR_VL) {
            int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
            vf_store_as_n(out->data, c, vf_load_n(partial + k * d + c, part), part,
                          out->dtype == TR_BF16);
        }
    }
}

const tr_kernel TR_KERNELS(norm)[] = {
    {TR_OP_layer_norm, TR_ISA_NAME, accepts_forward, prepare_forward, run_forward, NULL},
    {TR_OP_add_layer_norm, TR_ISA_NAME, accepts_forward, prepare_forward, run_forward, NULL},
    {TR_OP_layer_norm_grad, TR_ISA_NAME, accepts_grad, prepare_grad, run_grad, NULL},
    {TR_OP_rms_norm, TR_ISA_NAME, accepts_forward, prepare_forward, run_forward, NULL},
    {TR_OP_add_rms_norm, TR_ISA_NAME, accepts_forward, prepare_forward, run_forward, NULL},
    {TR_OP_rms_norm_grad, TR_ISA_NAME, accepts_grad, prepare_grad, run_grad, NULL},
    {.run = NULL},
};
