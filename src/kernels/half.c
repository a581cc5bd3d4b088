/* fp16 by f32; see half.h.
 *
 * Scratch: the inner kernel's own | a copy in f32 of each operand in f16. Operands that share a buffer (what is accumulated
 * into, updated in place) share a copy too.
 */
#include "kernels/half.h"

#include <stdlib.h>

#include "base/memory.h"
#include "kernels/registry.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { PIECE = 4096, ALIGN = 64 };

/* Conversions -------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static void widen_f16c(const uint16_t *from, int64_t count, float *to)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(from + i))));
    for (; i < count; i++)
        to[i] = tr_f16_to_f32(from[i]);
}

__attribute__((target("avx,f16c"))) static void narrow_f16c(const float *from, int64_t count, uint16_t *to)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < count; i++)
        to[i] = tr_f32_to_f16(from[i]);
}
#endif

/* Every processor with AVX2 has F16C, by whose own name not every compiler can ask. */
static bool has_f16c(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2");
#else
    return false;
#endif
}

static void widen(const uint16_t *from, int64_t count, float *to)
{
#if defined(__x86_64__)
    if (has_f16c()) {
        widen_f16c(from, count, to);
        return;
    }
#endif
    for (int64_t i = 0; i < count; i++)
        to[i] = tr_f16_to_f32(from[i]);
}

static void narrow(const float *from, int64_t count, uint16_t *to)
{
#if defined(__x86_64__)
    if (has_f16c()) {
        narrow_f16c(from, count, to);
        return;
    }
#endif
    for (int64_t i = 0; i < count; i++)
        to[i] = tr_f32_to_f16(from[i]);
}

void tr_halves_to_f32(const uint16_t *from, int64_t count, float *to)
{
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (int64_t i = 0; i < count; i += PIECE)
        widen(from + i, TR_MIN((int64_t)PIECE, count - i), to + i);
}

void tr_f32_to_halves(const float *from, int64_t count, uint16_t *to)
{
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (int64_t i = 0; i < count; i += PIECE)
        narrow(from + i, TR_MIN((int64_t)PIECE, count - i), to + i);
}

/* Calls -------------------------------------------------------------------------------------------- */

typedef struct half {
    const tr_kernel *inner; /* NULL: a cast, which is the conversion itself */
    tr_call call;           /* the inner kernel's: f32 in the place of f16 */
    bool moves;             /* the inner kernel takes the elements as they are, 2 bytes each */
    int64_t offset[];       /* of an operand's copy in scratch; -1: it has none */
} half;

static bool is_half(const tr_tensor *t)
{
    return t->rank >= 0 && t->dtype == TR_F16;
}

bool tr_call_has_half(const tr_call *call)
{
    for (int k = 0; k < call->n_in + call->n_out; k++)
        if (is_half(&call->in[k]))
            return true;
    return false;
}

/* Where copies lie: behind what the inner kernel wants. */
static tr_error *prepare(tr_call *call)
{
    half *h = call->state;
    if (!h->inner)
        return NULL;
    if (h->inner->prepare)
        TR_TRY(h->inner->prepare(&h->call));
    int64_t at = (int64_t)(h->call.scratch_bytes + ALIGN - 1) / ALIGN * ALIGN;
    for (int k = 0; k < call->n_in + call->n_out; k++) {
        h->offset[k] = -1;
        if (!is_half(&call->in[k]) || h->moves)
            continue;
        h->offset[k] = at;
        at += (tr_tensor_elems(&call->in[k]) * 4 + ALIGN - 1) / ALIGN * ALIGN;
    }
    call->scratch_bytes = (size_t)at;
    return NULL;
}

static void release(tr_call *call)
{
    half *h = call->state;
    if (h->inner && h->inner->release)
        h->inner->release(&h->call);
    free(h->call.in);
    free(h);
    call->state = NULL;
}

/* An output that is written over an input has its copy. */
static void *copy_of(const tr_call *call, const half *h, int k)
{
    for (int i = 0; i < call->n_in && k >= call->n_in; i++)
        if (h->offset[i] >= 0 && call->in[i].data == call->in[k].data)
            return (char *)call->scratch + h->offset[i];
    return (char *)call->scratch + h->offset[k];
}

static void run(const tr_call *call)
{
    const half *h = call->state;
    tr_call inner = *call;
    inner.in = h->call.in;
    inner.out = h->call.out;
    inner.state = h->call.state;
    inner.scratch_bytes = h->call.scratch_bytes;
    for (int k = 0; k < call->n_in + call->n_out; k++) {
        inner.in[k].data = h->offset[k] < 0 ? call->in[k].data : copy_of(call, h, k);
        if (h->offset[k] >= 0 && k < call->n_in)
            tr_halves_to_f32(call->in[k].data, tr_tensor_elems(&call->in[k]), inner.in[k].data);
    }
    h->inner->run(&inner);
    for (int k = call->n_in; k < call->n_in + call->n_out; k++)
        if (h->offset[k] >= 0)
            tr_f32_to_halves(inner.in[k].data, tr_tensor_elems(&call->in[k]), call->in[k].data);
}

static void run_cast(const tr_call *call)
{
    int64_t n = tr_tensor_elems(&call->in[0]);
    if (call->in[0].dtype == TR_F16)
        tr_halves_to_f32(call->in[0].data, n, call->out[0].data);
    else
        tr_f32_to_halves(call->in[0].data, n, call->out[0].data);
}

const tr_kernel *tr_kernel_half(tr_call *call, tr_isa isa, bool reference)
{
    static const tr_kernel by_f32 = {.name = "f16 by f32", .prepare = prepare, .run = run, .release = release};
    static const tr_kernel cast = {.name = "f16", .prepare = prepare, .run = run_cast, .release = release};
    int n = call->n_in + call->n_out;
    bool casts = call->op == TR_OP_cast;
    half *h = tr_alloc_zero(1, sizeof *h + (size_t)n * sizeof *h->offset);
    h->moves = call->op == TR_OP_embedding;
    h->call = *call;
    h->call.in = tr_alloc_zero((size_t)n, sizeof *h->call.in);
    memcpy(h->call.in, call->in, (size_t)n * sizeof *call->in);
    h->call.out = h->call.in + call->n_in;
    for (int k = 0; k < n; k++)
        if (is_half(&call->in[k]))
            h->call.in[k].dtype = h->moves ? TR_BF16 : TR_F32;
    h->inner = casts ? NULL : reference ? tr_kernel_reference(call->op) : tr_kernel_choose(&h->call, isa);
    call->state = h;
    return casts ? &cast : h->inner ? &by_f32 : NULL;
}
