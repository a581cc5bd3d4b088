/* Products whose number of rows is known when they run: C = A B of `rows` rows, or, with spec.a_transposed, sums over
 * `rows` rows, C = A^T B. As tr_matmul_spec says, with the most rows in the place of m (of k), and neither bias, fn nor
 * accumulate. Few rows go by products made beforehand for powers of two, padded with zeros; more at once, where the
 * instruction set has a product that takes any number.
 */
#pragma once
#include "kernels/matmul.h"

typedef struct tr_grouped tr_grouped;

enum { TR_GROUPED_PIECE = 16 }; /* a multiple of so many rows needs no padding */

tr_error *tr_grouped_new(const tr_matmul_spec *spec, tr_grouped **out);
void tr_grouped_free(tr_grouped *grouped); /* NULL is allowed */
size_t tr_grouped_scratch_bytes(const tr_grouped *grouped);
/* Up to so many rows of A, and of B or C, are read or written: those from `rows` on must be zeros. At most what this is
 * for the most rows. */
int64_t tr_grouped_padded(const tr_grouped *grouped, int64_t rows);
/* C += A B when `add` is set. */
void tr_grouped_run(const tr_grouped *grouped, int64_t rows, bool add, const void *a, const void *b, void *c, void *scratch);
