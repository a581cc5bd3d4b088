/* See grouped.h. */
#include "kernels/grouped.h"

#include <string.h>

#include "base/memory.h"

enum { LEAST = TR_GROUPED_PIECE, SMALL = 3, SIZES = 6 }; /* pieces of LEAST << i rows; the first SMALL beside `any`, or all */

struct tr_grouped {
    tr_matmul_spec spec;
    tr_matmul *pieces[SIZES], *any;
    int n_pieces;
    size_t scratch_bytes;
};

static tr_error *make_piece(tr_grouped *g, int i)
{
    tr_matmul_spec s = g->spec;
    *(s.a_transposed ? &s.k : &s.m) = (int64_t)LEAST << i;
    s.accumulate = s.a_transposed;
    s.tiles = false;
    TR_TRY(tr_matmul_new(&s, &g->pieces[i]));
    g->scratch_bytes = TR_MAX(g->scratch_bytes, tr_matmul_scratch_bytes(g->pieces[i]));
    g->n_pieces = i + 1;
    return NULL;
}

tr_error *tr_grouped_new(const tr_matmul_spec *spec, tr_grouped **out)
{
    tr_grouped *g = tr_alloc_zero(1, sizeof *g);
    tr_error *error = NULL;
    int64_t most = spec->a_transposed ? spec->k : spec->m;
    g->spec = *spec;
    *out = NULL;
    g->spec.rows_vary = true;
    bool any = most > (int64_t)LEAST << (SMALL - 1) && tr_matmul_rows_can_vary(&g->spec);
    if (any) {
        error = tr_matmul_new(&g->spec, &g->any);
        g->scratch_bytes = error ? 0 : tr_matmul_scratch_bytes(g->any);
    }
    g->spec.rows_vary = false;
    for (int i = 0; !error && i < (any ? SMALL : SIZES) && (i == 0 || most > (int64_t)LEAST << (i - 1)); i++)
        error = make_piece(g, i);
    if (error) {
        tr_grouped_free(g);
        return error;
    }
    *out = g;
    return NULL;
}

void tr_grouped_free(tr_grouped *g)
{
    if (!g)
        return;
    for (int i = 0; i < SIZES; i++)
        tr_matmul_free(g->pieces[i]);
    tr_matmul_free(g->any);
    free(g);
}

size_t tr_grouped_scratch_bytes(const tr_grouped *g)
{
    return g->scratch_bytes;
}

static bool is_many(const tr_grouped *g, int64_t rows)
{
    return g->any && rows > (int64_t)LEAST << (SMALL - 1);
}

int64_t tr_grouped_padded(const tr_grouped *g, int64_t rows)
{
    return is_many(g, rows) ? rows : (rows + LEAST - 1) / LEAST * LEAST;
}

void tr_grouped_run(const tr_grouped *g, int64_t rows, bool add, const void *a, const void *b, void *c, void *scratch)
{
    if (is_many(g, rows)) {
        tr_matmul_run_rows(g->any, rows, add, a, b, c, scratch);
        return;
    }
    bool sums = g->spec.a_transposed;
    int64_t padded = tr_grouped_padded(g, rows), row = 0;
    int64_t a_bytes = (sums ? g->spec.m : g->spec.k) * tr_dtype_bytes(g->spec.dtype);
    int64_t b_bytes = sums ? g->spec.n * tr_dtype_bytes(g->spec.dtype) : 0;
    int64_t c_bytes = g->spec.n * tr_dtype_bytes(g->spec.out);
    if (sums && !add)
        memset(c, 0, (size_t)(g->spec.m * c_bytes));
    for (int i = g->n_pieces - 1; i >= 0; i--)
        for (int64_t piece = (int64_t)LEAST << i; padded - row >= piece; row += piece)
            tr_matmul_run(g->pieces[i], (const char *)a + row * a_bytes, (const char *)b + row * b_bytes, NULL,
                          (char *)c + (sums ? 0 : row * c_bytes), scratch);
}
