/* Matrix products, by oneDNN or on AMX tiles: C = fn(A B + bias), or C += A B.
 *
 * A is m x k, B is k x n, C is m x n, all in row-major order; A or B may be stored transposed, and
 * rows may be further apart than they are long. f32 x f32 -> f32, bf16 x bf16 -> bf16 or f32; sums
 * are kept in f32. A tr_matmul is made once, when shapes are known, and run many times on fresh
 * pointers; one thread at a time may run it. Memory is the caller's: scratch of
 * tr_matmul_scratch_bytes, 64-byte aligned. The size of the thread team must be the same at making
 * and at running.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "ir/dtype.h"
#include "ir/op.h"

typedef struct tr_matmul tr_matmul;

typedef struct tr_matmul_spec {
    int64_t m, n, k;
    tr_dtype dtype;              /* of A and B: f32 or bf16 */
    tr_dtype out;                /* of C: f32, or bf16 when A and B are */
    bool a_transposed;           /* stored k x m */
    bool b_transposed;           /* stored n x k */
    int64_t a_row, b_row, c_row; /* elements from row to row as stored; 0: rows are dense */
    bool bias;                   /* f32, n elements */
    bool accumulate;             /* C += A B; then neither bias nor fn */
    tr_fn fn;
    bool tiles;  /* bf16 on the processor's tiles (AMX) by our own product, where that is quicker */
    bool widen;  /* bf16 without bf16 instructions: through f32 blocks in scratch */
    bool packed; /* the caller keeps B packed over several runs, see below */
    const tr_matmul *packed_like; /* with packed: take B as packed for that one (same n, k) */
    bool rows_vary; /* m, or with a_transposed k, is the most there may be: see tr_matmul_run_rows */
} tr_matmul_spec;

tr_error *tr_matmul_new(const tr_matmul_spec *spec, tr_matmul **out);
void tr_matmul_free(tr_matmul *matmul); /* NULL is allowed */
size_t tr_matmul_scratch_bytes(const tr_matmul *matmul);
void tr_matmul_run(const tr_matmul *matmul, const void *a, const void *b, const float *bias,
                   void *c, void *scratch);
/* With spec.rows_vary, which is not for every product (tr_matmul_new fails): `rows` instead of m, or of k. C += A B
 * when `add` is set. Neither bias nor fn. */
void tr_matmul_run_rows(const tr_matmul *matmul, int64_t rows, bool add, const void *a, const void *b, void *c,
                        void *scratch);
bool tr_matmul_rows_can_vary(const tr_matmul_spec *spec);

/* With spec.packed: how much memory a packed B takes, 0 when packing has no use here (then run
 * takes B as it is); and packing it, after which run takes `packed` in the place of B. */
size_t tr_matmul_packed_bytes(const tr_matmul *matmul);
void tr_matmul_pack(const tr_matmul *matmul, const void *b, void *packed);
