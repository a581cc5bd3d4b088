/* expert_linear and its weight gradient: a product for each expert, of the rows that tokens fill (kernels/grouped.h).
 *
 * The filled rows of an expert are a run of neighbours in each sequence, or, of a room of all sequences, one run. One
 * run is multiplied where it lies; several are packed, at most MOST_ROWS at a time, and what they give is put back. What
 * no token fills is zeros, written once.
 *
 * Scratch: packed rows of x | packed rows of y or dy | the product's own | together: what each expert has.
 */
#include "base/memory.h"
#include "kernels/fast/simd.h"
#include "kernels/grouped.h"
#include "kernels/kernel.h"

#include <omp.h>

enum { MOST_ROWS = 1024, ALIGN = 64 };

#if defined(__AVX512BF16__)
static const bool no_bf16_product = false;
#else
static const bool no_bf16_product = true;
#endif
#ifdef __AMX_BF16__
static const bool on_tiles = true;
#else
static const bool on_tiles = false;
#endif

typedef struct experts {
    int64_t e, b, c, k, n; /* of dw: k of x, n of dy */
    int64_t most;          /* rows of a product */
    int64_t bytes;         /* of an element */
    bool dw, joined, together; /* together: a joined room, of one long sequence as it were */
    tr_grouped *product;
    size_t left_bytes, right_bytes, product_bytes;
} experts;

static size_t round_up(int64_t bytes)
{
    return (size_t)(bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void release(tr_call *call)
{
    experts *x = call->state;
    tr_grouped_free(x->product);
    free(x);
    call->state = NULL;
}

static tr_error *prepare(tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    bool dw = call->op == TR_OP_expert_linear_dw;
    experts *s = tr_alloc_zero(1, sizeof *s);
    *s = (experts){.e = call->in[2].dims[1], .b = x->dims[1], .c = x->dims[2], .k = x->dims[3],
                   .n = (dw ? &call->in[1] : &call->out[0])->dims[3], .bytes = tr_dtype_bytes(x->dtype), .dw = dw,
                   .together = x->dims[1] != call->in[2].dims[0]};
    s->joined = s->together || x->dims[0] != s->e;
    s->most = TR_MIN(s->b * s->c, MOST_ROWS);
    tr_matmul_spec spec = {.m = dw ? s->k : s->most, .n = s->n, .k = dw ? s->most : s->k, .dtype = x->dtype,
                           .out = dw ? TR_F32 : x->dtype, .a_transposed = dw,
                           .b_transposed = !dw && call->attrs[TR_EXPERT_TRANSPOSED].i,
                           .widen = x->dtype == TR_BF16 && no_bf16_product, .tiles = on_tiles};
    tr_error *error = tr_grouped_new(&spec, &s->product);
    if (error) {
        free(s);
        return error;
    }
    int64_t rows = tr_grouped_padded(s->product, s->most);
    for (int64_t r = TR_MIN(s->most, 64); r < s->most; r++) /* fewer rows may need more padding */
        rows = TR_MAX(rows, tr_grouped_padded(s->product, r));
    s->left_bytes = round_up(rows * s->k * s->bytes);
    s->right_bytes = round_up(rows * s->n * s->bytes);
    call->state = s;
    s->product_bytes = round_up((int64_t)tr_grouped_scratch_bytes(s->product));
    call->scratch_bytes = s->left_bytes + s->right_bytes + s->product_bytes + (s->together ? (size_t)s->e * sizeof(int32_t) : 0);
    return NULL;
}

/* The rows of expert e in sequence b: the first, and how many. */
typedef struct run {
    int64_t first, count;
} run;

static run run_of(const experts *x, const int32_t *filled, int64_t e, int64_t b)
{
    const int32_t *own = filled + b * x->e;
    run r = {((x->joined ? 0 : e * x->b) + b) * x->c, own[e]};
    for (int64_t before = 0; x->joined && before < e; before++)
        r.first += own[before];
    return r;
}

/* By sequence and expert; together: by expert alone. */
static const int32_t *filled_of(const tr_call *call)
{
    const experts *x = call->state;
    const int32_t *filled = call->in[2].data;
    if (!x->together)
        return filled;
    int32_t *all = (int32_t *)((char *)call->scratch + x->left_bytes + x->right_bytes + x->product_bytes);
    memset(all, 0, (size_t)x->e * sizeof *all);
    for (int64_t i = 0; i < call->in[2].dims[0] * x->e; i++)
        all[i % x->e] += filled[i];
    return all;
}

/* Where one stands among an expert's runs. */
typedef struct cursor {
    int64_t b, place;
} cursor;

/* The next rows of expert e, at most `most`. */
static int64_t next_rows(const experts *x, const int32_t *filled, int64_t e, cursor *at, int64_t *rows)
{
    int64_t n = 0;
    for (; at->b < x->b; at->b++, at->place = 0) {
        run r = run_of(x, filled, e, at->b);
        for (; at->place < r.count; at->place++) {
            if (n == x->most)
                return n;
            rows[n++] = r.first + at->place;
        }
    }
    return n;
}

static void pack(char *to, const char *from, const int64_t *rows, int64_t n, int64_t padded, int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < padded; i++)
        if (i < n)
            memcpy(to + i * width, from + rows[i] * width, (size_t)width);
        else
            memset(to + i * width, 0, (size_t)width);
}

static void unpack(char *to, const char *from, const int64_t *rows, int64_t n, int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        memcpy(to + rows[i] * width, from + i * width, (size_t)width);
}

static void clear_rest(const experts *x, const int32_t *filled, char *y)
{
    int64_t width = x->n * x->bytes, rooms = x->joined ? x->b : x->e * x->b;
#pragma omp parallel for schedule(static)
    for (int64_t room = 0; room < rooms; room++) {
        run last = run_of(x, filled, x->joined ? x->e - 1 : room / x->b, room % x->b);
        int64_t used = last.first + last.count, end = (room + 1) * x->c;
        memset(y + used * width, 0, (size_t)((end - used) * width));
    }
}

/* `n` rows of an expert: times w, or, of x and dy, to the sum at dw. */
static void multiply(const tr_call *call, const int64_t *rows, int64_t n, const char *w, float *dw, bool add)
{
    const experts *x = call->state;
    const char *a = call->in[0].data, *dy = x->dw ? call->in[1].data : NULL;
    char *left = call->scratch, *right = left + x->left_bytes, *scratch = right + x->right_bytes;
    char *y = x->dw ? NULL : call->out[0].data;
    int64_t padded = tr_grouped_padded(x->product, n), x_row = x->k * x->bytes, y_row = x->n * x->bytes;
    int64_t whole = n / TR_GROUPED_PIECE * TR_GROUPED_PIECE;
    bool neighbours = rows[n - 1] - rows[0] == n - 1, straight = padded == n && neighbours;
    if (neighbours && !straight && whole > 0) { /* only the last few need padding */
        multiply(call, rows, whole, w, dw, add);
        multiply(call, rows + whole, n - whole, w, dw, true);
        return;
    }
    if (!straight) {
        pack(left, a, rows, n, padded, x_row);
        if (x->dw)
            pack(right, dy, rows, n, padded, y_row);
    }
    a = straight ? a + rows[0] * x_row : left;
    if (x->dw) {
        tr_grouped_run(x->product, n, add, a, straight ? dy + rows[0] * y_row : right, dw, scratch);
        return;
    }
    tr_grouped_run(x->product, n, false, a, w, straight ? y + rows[0] * y_row : right, scratch);
    if (!straight)
        unpack(y, right, rows, n, y_row);
}

static void run_experts(const tr_call *call)
{
    const experts *x = call->state;
    const int32_t *filled = filled_of(call);
    int64_t rows[MOST_ROWS], size = x->k * x->n;
    float *dw = x->dw ? call->out[0].data : NULL;
    bool added = x->dw && tr_has(call, 3);
    if (added && call->in[3].data != dw)
        memcpy(dw, call->in[3].data, (size_t)(x->e * size) * sizeof *dw);
    if (!x->dw)
        clear_rest(x, filled, call->out[0].data);
    for (int64_t e = 0; e < x->e; e++) {
        cursor at = {0, 0};
        bool add = added;
        for (int64_t n = next_rows(x, filled, e, &at, rows); n > 0; n = next_rows(x, filled, e, &at, rows), add = true)
            multiply(call, rows, n, x->dw ? NULL : (const char *)call->in[1].data + e * size * x->bytes,
                     x->dw ? dw + e * size : NULL, add);
        if (x->dw && !add)
            memset(dw + e * size, 0, (size_t)size * sizeof *dw);
    }
}

static bool accepts(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    return (x->dtype == TR_F32 || x->dtype == TR_BF16) && call->in[1].dtype == x->dtype && tr_tensor_elems(x) > 0 &&
           call->out[0].dtype == (call->op == TR_OP_expert_linear_dw ? TR_F32 : x->dtype) &&
           (!tr_has(call, 3) || call->in[3].dtype == TR_F32);
}

const tr_kernel TR_KERNELS(experts)[] = {
    {TR_OP_expert_linear, TR_ISA_NAME, accepts, prepare, run_experts, release},
    {TR_OP_expert_linear_dw, TR_ISA_NAME, accepts, prepare, run_experts, release},
    {.run = NULL},
};
