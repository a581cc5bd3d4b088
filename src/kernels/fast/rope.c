/* rope, at the speed of memory: the sines and cosines of a token are made once, in vectors, and serve all its heads.
 * Threads share the tokens. Scratch: a row of each a thread. */
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { SMALL = 8 * 1024 };

/* Cody and Waite's reduction by pi / 2 in three parts, then Cephes' polynomials on [-pi/4, pi/4]: 1e-7 for |x| < 1e5. */
TR_INLINE void sine_cosine(vf x, vf *sine, vf *cosine)
{
    vf k = vf_round(x * 0.636619772f);
    vf r = vf_fma(k, vf_set1(-1.5703125f), x);
    r = vf_fma(k, vf_set1(-4.837512969970703125e-4f), r);
    r = vf_fma(k, vf_set1(-7.54978995489188216e-8f), r);
    vf z = r * r;
    vf s = vf_fma(vf_set1(-1.9515295891e-4f), z, vf_set1(8.3321608736e-3f));
    s = vf_fma(vf_fma(s, z, vf_set1(-1.6666654611e-1f)), z * r, r);
    vf c = vf_fma(vf_set1(2.443315711809948e-5f), z, vf_set1(-1.388731625493765e-3f));
    c = vf_fma(vf_fma(c, z, vf_set1(4.166664568298827e-2f)), z * z, vf_fma(z, vf_set1(-0.5f), vf_set1(1.0f)));
    vi quarter = vi_of_vf(k);
    vm swap = vi_eq(quarter & 1, (vi){0} + 1);
    vu sine_sign = (vu)(quarter & 2) << 30, cosine_sign = (vu)((quarter + 1) & 2) << 30;
    *sine = (vf)((vu)vf_select(swap, c, s) ^ sine_sign);
    *cosine = (vf)((vu)vf_select(swap, s, c) ^ cosine_sign);
}

/* Neighbours change places. */
TR_INLINE vf swap_pairs(vf x)
{
    vf y;
    for (int l = 0; l < TR_VL; l++)
        y[l] = x[l ^ 1];
    return y;
}

typedef struct facts {
    const tr_call *call;
    int64_t r, e, heads;
    float factor, sign;
    bool interleaved;
} facts;

/* Room for 2 r and a vector more, of each of the two. */
static int64_t row_floats(int64_t r)
{
    return (2 * r + 2 * TR_VL - 1) / TR_VL * TR_VL;
}

static void angles(const facts *f, float position, float *cosines, float *sines)
{
    const float *rates = f->call->in[2].data;
    for (int64_t i = 0; i < f->r; i += TR_VL) {
        int part = f->r - i < TR_VL ? (int)(f->r - i) : TR_VL;
        vf s, c;
        sine_cosine(vf_load_n(rates + i, part) * position, &s, &c);
        c *= f->factor;
        s *= f->factor * f->sign;
        if (!f->interleaved) {
            vf_store(cosines + i, c);
            vf_store(sines + i, s);
            continue;
        }
        for (int l = 0; l < part; l++) {
            cosines[2 * (i + l)] = cosines[2 * (i + l) + 1] = c[l];
            sines[2 * (i + l)] = -s[l];
            sines[2 * (i + l) + 1] = s[l];
        }
    }
}

/* All heads of one token, whose first element is `at`. */
TR_INLINE void turn(const facts *f, int64_t at, const float *cosines, const float *sines, bool interleaved, bool bf16)
{
    const void *x = f->call->in[0].data;
    void *y = f->call->out[0].data;
    int64_t n = interleaved ? 2 * f->r : f->r;
    for (int64_t h = 0; h < f->heads; h++, at += f->e) {
        for (int64_t i = 0; i < n; i += TR_VL) {
            int part = n - i < TR_VL ? (int)(n - i) : TR_VL;
            vf c = vf_load(cosines + i), s = vf_load(sines + i), a = vf_load_as_n(x, at + i, part, bf16);
            if (interleaved) {
                vf_store_as_n(y, at + i, vf_fma(a, c, swap_pairs(a) * s), part, bf16);
                continue;
            }
            vf b = vf_load_as_n(x, at + f->r + i, part, bf16);
            vf_store_as_n(y, at + i, vf_fma(a, c, -(b * s)), part, bf16);
            vf_store_as_n(y, at + f->r + i, vf_fma(b, c, a * s), part, bf16);
        }
        if (2 * f->r < f->e && x != y) {
            int64_t bytes = bf16 ? 2 : 4, from = (at + 2 * f->r) * bytes;
            memcpy((char *)y + from, (const char *)x + from, (size_t)((f->e - 2 * f->r) * bytes));
        }
    }
}

static void token(const facts *f, int64_t at, const float *c, const float *s, bool bf16)
{
    if (f->interleaved)
        bf16 ? turn(f, at, c, s, true, true) : turn(f, at, c, s, true, false);
    else
        bf16 ? turn(f, at, c, s, false, true) : turn(f, at, c, s, false, false);
}

static tr_error *prepare_rope(tr_call *call)
{
    call->scratch_bytes = (size_t)(2 * row_floats(call->in[2].dims[0])) * sizeof(float) * (size_t)omp_get_max_threads();
    return NULL;
}

static void run_rope(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    const int32_t *positions = call->in[1].data;
    facts f = {.call = call, .r = call->in[2].dims[0], .e = x->dims[3], .heads = x->dims[2],
               .factor = (float)call->attrs[TR_ROPE_FACTOR].f, .sign = call->attrs[TR_ROPE_INVERSE].i ? -1.0f : 1.0f,
               .interleaved = call->attrs[TR_ROPE_INTERLEAVED].i};
    int64_t tokens = x->dims[0] * x->dims[1], room = row_floats(f.r);
#pragma omp parallel for schedule(static) if (tokens * f.heads * f.e >= SMALL)
    for (int64_t i = 0; i < tokens; i++) {
        float *cosines = (float *)call->scratch + 2 * room * omp_get_thread_num(), *sines = cosines + room;
        angles(&f, (float)positions[i], cosines, sines);
        token(&f, i * f.heads * f.e, cosines, sines, x->dtype == TR_BF16);
    }
}

static bool accepts_rope(const tr_call *call)
{
    return call->in[0].dtype == call->out[0].dtype && (call->in[0].dtype == TR_F32 || call->in[0].dtype == TR_BF16);
}

const tr_kernel TR_KERNELS(rope)[] = {
    {TR_OP_rope, TR_ISA_NAME, accepts_rope, prepare_rope, run_rope, NULL},
    {.run = NULL},
};
