/* What a kernel is, and what it is called with.
 *
 * A kernel computes one op on one device with one instruction set. Every op has a reference kernel in
 * plain C under kernels/reference: it says what is right. The fast ones are under kernels/fast; that
 * folder is compiled once for each instruction set (TR_ISA is its name) and the best one that the
 * machine has and that accepts the call is chosen when a program is built.
 *
 * Invariants
 *  1. Tensors are contiguous, row-major, 64-byte aligned. An absent optional input has rank -1.
 *  2. A kernel writes its outputs and its scratch and nothing else. It allocates nothing, keeps nothing
 *     between calls but what `prepare` made, and cannot fail.
 *  3. Work is cut in a way that depends on shapes and thread count only: the same call gives the same bits.
 *  4. Threads come from OpenMP, as many as omp_get_max_threads() says.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "ir/dtype.h"
#include "ir/op.h"

enum { TR_MAX_RANK = 8 };

typedef struct tr_tensor {
    void *data;
    tr_dtype dtype;
    int rank; /* -1: absent */
    int64_t dims[TR_MAX_RANK];
} tr_tensor;

typedef struct tr_call {
    tr_op op;
    int n_in, n_out;
    tr_tensor *in, *out;
    const tr_attr *attrs;
    void *scratch;        /* scratch_bytes of it, 64-byte aligned, contents undefined */
    size_t scratch_bytes; /* set by prepare */
    void *state;          /* set by prepare, freed by release */
    /* Random ops: the seed and step of the run, and where in[0] sits in the whole tensor (which may be
     * cut over microbatches and ranks): element (i0, i1, ..) here is (tr_global_place(0, i0), ..) of `extent`. */
    uint64_t seed;
    uint32_t step;
    int64_t origin[TR_MAX_RANK], extent[TR_MAX_RANK];
    int64_t turn[TR_MAX_RANK], jump[TR_MAX_RANK]; /* elements from `turn` on are `jump` further */
} tr_call;

typedef struct tr_kernel {
    tr_op op;
    const char *name; /* "avx512", "reference", "onednn" */
    bool (*accepts)(const tr_call *call);      /* by shapes, dtypes, attributes; NULL: all */
    tr_error *(*prepare)(tr_call *call);       /* before data is known; NULL: nothing to do */
    void (*run)(const tr_call *call);
    void (*release)(tr_call *call);            /* NULL: nothing to do */
} tr_kernel;

static inline bool tr_has(const tr_call *call, int input)
{
    return input < call->n_in && call->in[input].rank >= 0;
}

static inline int64_t tr_tensor_elems(const tr_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dims[i];
    return n;
}

/* Elements over dims [first, last). */
static inline int64_t tr_tensor_span(const tr_tensor *t, int first, int last)
{
    int64_t n = 1;
    for (int i = first; i < last; i++)
        n *= t->dims[i];
    return n;
}

static inline int64_t tr_global_place(const tr_call *call, int d, int64_t i)
{
    return i + call->origin[d] + (i >= call->turn[d] ? call->jump[d] : 0);
}

/* The index in the whole tensor of the first element of row `row` of in[0] (rows are along the last
 * dim); the rest of the row follows at +1 each. */
static inline uint64_t tr_global_row(const tr_call *call, int64_t row)
{
    const tr_tensor *t = &call->in[0];
    int64_t index = t->rank ? call->origin[t->rank - 1] : 0;
    int64_t stride = t->rank ? call->extent[t->rank - 1] : 1;
    for (int d = t->rank - 2; d >= 0; d--) {
        index += tr_global_place(call, d, row % t->dims[d]) * stride;
        row /= t->dims[d];
        stride *= call->extent[d];
    }
    return (uint64_t)index;
}

/* The index of element i of in[0] in the whole tensor, of its first `dims` dims alone. */
static inline uint64_t tr_global_block(const tr_call *call, int64_t i, int dims)
{
    const tr_tensor *t = &call->in[0];
    int64_t index = 0, stride = 1;
    i /= tr_tensor_span(t, dims, t->rank);
    for (int d = dims - 1; d >= 0; d--) {
        index += (i % t->dims[d] + call->origin[d]) * stride;
        i /= t->dims[d];
        stride *= call->extent[d];
    }
    return (uint64_t)index;
}

/* An f32 in two halves: `high` is the value rounded to bf16 (half away from zero in magnitude), and
 * high and low together give back every bit. So a bf16 weight and its f32 master cost 4 bytes, not 6. */
static inline void tr_split_f32(float value, uint16_t *high, uint16_t *low)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    *low = (uint16_t)bits;
    *high = (uint16_t)((bits + 0x8000u) >> 16);
}

static inline float tr_join_f32(uint16_t high, uint16_t low)
{
    uint32_t bits = ((uint32_t)high << 16) - ((uint32_t)(low & 0x8000u) << 1) + low;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Families: each has kernels/reference/FAMILY.c with the table tr_reference_FAMILY and, where it pays,
 * kernels/fast/FAMILY.c with the table TR_KERNELS(FAMILY). A table ends with an entry whose run is NULL. */
#define TR_KERNEL_FAMILIES(X) TR_BF16_FAMILIES(X) X(reduce) X(position) X(embedding) X(optimizer) X(optimizer_sums)

/* Those that round to bf16 or multiply in it, and those that multiply on AMX's tiles. The two instruction sets have no
 * kernels of the others: the next lower one's serve. */
#define TR_BF16_FAMILIES(X) \
    X(elementwise) X(arrange) X(linear) X(norm) X(rope) X(attention) X(attention_part) X(moe) X(experts) X(cross_entropy)
#define TR_TILE_FAMILIES(X) X(linear) X(attention) X(attention_part) X(experts) X(cross_entropy)

#define TR_PASTE2(a, b, c) a##_##b##_##c
#define TR_PASTE(a, b, c) TR_PASTE2(a, b, c)
#define TR_KERNELS(family) TR_PASTE(tr_kernels, TR_ISA, family)
#define TR_STRING2(a) #a
#define TR_STRING(a) TR_STRING2(a)
#define TR_ISA_NAME TR_STRING(TR_ISA)

#define X(family) extern const tr_kernel tr_reference_##family[];
TR_KERNEL_FAMILIES(X)
#undef X
