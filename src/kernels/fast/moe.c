/* dispatch, collect, collect_grad at the speed of memory; expert_linear and its weight gradient by oneDNN.
 *
 * dispatch first turns the slots around (which token is in this row, in scratch), then writes each row of the room
 * once: a token, or zeros.
 *
 * expert_linear: an expert's filled rows of all sequences are packed, at most MOST_ROWS at a time, multiplied, and put
 * back; the rest of the room is zeros. Rows are padded with zeros to a multiple of LEAST_ROWS, and taken in pieces of
 * a power of two, so that a handful of products made beforehand serve any filling. Packing costs k + n moves a row
 * against k n multiplications.
 */
#include "base/memory.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"
#include "kernels/matmul.h"

#include <omp.h>

enum { LEAST_ROWS = 16, MOST_ROWS = 512, SIZES = 6, ALIGN = 64 };

#if defined(__AVX512BF16__)
static const bool no_bf16_product = false;
#else
static const bool no_bf16_product = true;
#endif

static bool floats(const tr_tensor *t)
{
    return t->dtype == TR_F32 || t->dtype == TR_BF16;
}

/* Where a slot of sequence b is among the rows of a room [e, b, c, d]. */
static int64_t row_of(const tr_tensor *room, int64_t slot, int64_t b)
{
    int64_t c = room->dims[2];
    return (slot / c * room->dims[1] + b) * c + slot % c;
}

/* dispatch and collect -------------------------------------------------------------------------------- */

TR_INLINE void scale_row(void *to, const void *from, int64_t to_row, int64_t from_row, int64_t d, float weight, bool bf16)
{
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        vf_store_as_n(to, to_row * d + c, vf_load_as_n(from, from_row * d + c, part, bf16) * weight, part, bf16);
    }
}

static tr_error *prepare_dispatch(tr_call *call)
{
    const tr_tensor *y = &call->out[0];
    call->scratch_bytes = (size_t)tr_tensor_span(y, 0, 3) * sizeof(int32_t);
    return NULL;
}

static void run_dispatch(const tr_call *call)
{
    const tr_tensor *x = &call->in[0], *y = &call->out[0];
    int64_t tokens = x->dims[1], d = x->dims[2], k = call->in[1].dims[2], rows = tr_tensor_span(y, 0, 3);
    int64_t bytes = d * tr_dtype_bytes(x->dtype);
    const int32_t *slots = call->in[1].data;
    const float *weights = tr_has(call, 2) ? call->in[2].data : NULL;
    int32_t *token = call->scratch; /* by row: 1 + where its slot is among all */
    bool bf16 = x->dtype == TR_BF16;
    memset(token, 0, (size_t)rows * sizeof *token);
    for (int64_t i = 0; i < x->dims[0] * tokens * k; i++)
        if (slots[i] >= 0)
            token[row_of(y, slots[i], i / k / tokens)] = (int32_t)(i + 1);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        int64_t i = token[row] - 1;
        if (i < 0)
            memset((char *)y->data + row * bytes, 0, (size_t)bytes);
        else if (!weights)
            memcpy((char *)y->data + row * bytes, (const char *)x->data + i / k * bytes, (size_t)bytes);
        else if (bf16)
            scale_row(y->data, x->data, row, i / k, d, weights[i], true);
        else
            scale_row(y->data, x->data, row, i / k, d, weights[i], false);
    }
}

TR_INLINE void collect_token(const tr_call *call, int64_t row, int64_t k, bool bf16)
{
    const tr_tensor *y = &call->in[0], *o = &call->out[0];
    const int32_t *slots = (const int32_t *)call->in[1].data + row * k;
    const float *weights = tr_has(call, 2) ? (const float *)call->in[2].data + row * k : NULL;
    int64_t d = o->dims[2];
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        vf sum = vf_zero();
        for (int64_t j = 0; j < k; j++) {
            if (slots[j] < 0)
                continue;
            vf v = vf_load_as_n(y->data, row_of(y, slots[j], row / o->dims[1]) * d + c, part, bf16);
            sum = weights ? vf_fma(v, vf_set1(weights[j]), sum) : sum + v;
        }
        vf_store_as_n(o->data, row * d + c, sum, part, bf16);
    }
}

static void run_collect(const tr_call *call)
{
    const tr_tensor *o = &call->out[0];
    int64_t k = call->in[1].dims[2], rows = o->dims[0] * o->dims[1];
    bool bf16 = o->dtype == TR_BF16;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        bf16 ? collect_token(call, row, k, true) : collect_token(call, row, k, false);
}

TR_INLINE float row_dot(const void *a, int64_t a_row, const void *b, int64_t b_row, int64_t d, bool bf16)
{
    vf sum = vf_zero();
    for (int64_t c = 0; c < d; c += TR_VL) {
        int part = d - c < TR_VL ? (int)(d - c) : TR_VL;
        sum = vf_fma(vf_load_as_n(a, a_row * d + c, part, bf16), vf_load_as_n(b, b_row * d + c, part, bf16), sum);
    }
    return vf_sum(sum);
}

static void run_collect_grad(const tr_call *call)
{
    const tr_tensor *dout = &call->in[0], *y = &call->in[1];
    const int32_t *slots = call->in[2].data;
    int64_t tokens = dout->dims[1], d = dout->dims[2], k = call->in[2].dims[2], n = dout->dims[0] * tokens * k;
    float *out = call->out[0].data;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        out[i] = 0;
        if (slots[i] < 0)
            continue;
        int64_t row = row_of(y, slots[i], i / k / tokens);
        out[i] = dout->dtype == TR_BF16 ? row_dot(dout->data, i / k, y->data, row, d, true)
                                        : row_dot(dout->data, i / k, y->data, row, d, false);
    }
}

static bool accepts_rows(const tr_call *call)
{
    int room = call->op == TR_OP_collect_grad ? 1 : 0;
    return floats(&call->in[0]) && call->in[room].dtype == call->in[0].dtype;
}

/* expert_linear --------------------------------------------------------------------------------------- */

typedef struct experts {
    int64_t e, b, c, k, n; /* of dw: k of x, n of dy */
    int64_t most;          /* rows of a piece */
    bool bf16, dw;
    tr_matmul *products[SIZES]; /* of LEAST_ROWS << i rows; NULL past the largest that is needed */
    size_t left_bytes, right_bytes; /* packed rows: x, and y or dy */
} experts;

static size_t round_up(int64_t bytes)
{
    return (size_t)(bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void free_experts(experts *x)
{
    for (int i = 0; i < SIZES; i++)
        tr_matmul_free(x->products[i]);
    free(x);
}

static void release(tr_call *call)
{
    free_experts(call->state);
    call->state = NULL;
}

static tr_error *make_product(const experts *x, int64_t rows, bool transposed, tr_matmul **out)
{
    tr_dtype dtype = x->bf16 ? TR_BF16 : TR_F32;
    tr_matmul_spec spec = {.m = rows, .n = x->n, .k = x->k, .dtype = dtype, .out = dtype, .b_transposed = transposed,
                           .widen = x->bf16 && no_bf16_product};
    if (x->dw)
        spec = (tr_matmul_spec){.m = x->k, .n = x->n, .k = rows, .dtype = dtype, .out = TR_F32, .a_transposed = true,
                                .accumulate = true, .widen = x->bf16 && no_bf16_product};
    return tr_matmul_new(&spec, out);
}

static tr_error *prepare(tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    bool dw = call->op == TR_OP_expert_linear_dw;
    const tr_tensor *y = dw ? &call->in[1] : &call->out[0];
    experts *state = tr_alloc_zero(1, sizeof *state);
    *state = (experts){.e = x->dims[0], .b = x->dims[1], .c = x->dims[2], .k = x->dims[3], .n = y->dims[3],
                       .most = LEAST_ROWS, .bf16 = x->dtype == TR_BF16, .dw = dw};
    size_t product_bytes = 0;
    for (int i = 0; i < SIZES; i++) {
        state->most = LEAST_ROWS << i;
        tr_error *error = make_product(state, state->most, !dw && call->attrs[TR_EXPERT_TRANSPOSED].i, &state->products[i]);
        if (error) {
            free_experts(state);
            return error;
        }
        product_bytes = TR_MAX(product_bytes, tr_matmul_scratch_bytes(state->products[i]));
        if (state->most >= state->b * state->c)
            break;
    }
    int64_t bytes = state->bf16 ? 2 : 4;
    state->left_bytes = round_up(state->most * state->k * bytes);
    state->right_bytes = round_up(state->most * state->n * bytes);
    call->state = state;
    call->scratch_bytes = state->left_bytes + state->right_bytes + product_bytes;
    return NULL;
}

/* The filled rows of an expert, in order: `at` is the next one. */
typedef struct cursor {
    int64_t b, c;
} cursor;

/* The next rows of expert e, at most `most`: their numbers in the room. */
static int64_t next_rows(const experts *x, const int32_t *filled, int64_t e, cursor *at, int64_t *rows)
{
    int64_t n = 0;
    for (; at->b < x->b; at->b++, at->c = 0)
        for (; at->c < filled[at->b * x->e + e]; at->c++) {
            if (n == x->most)
                return n;
            rows[n++] = (e * x->b + at->b) * x->c + at->c;
        }
    return n;
}

/* Packs rows of `width` bytes and zeros behind them. */
static void pack(char *to, const char *from, const int64_t *rows, int64_t n, int64_t padded, int64_t width)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < padded; i++)
        if (i < n)
            memcpy(to + i * width, from + rows[i] * width, (size_t)width);
        else
            memset(to + i * width, 0, (size_t)width);
}

/* Products over `padded` packed rows, in pieces of a power of two. */
static void multiply(const experts *x, int64_t padded, const char *left, const char *w, char *right, float *dw, void *scratch)
{
    int64_t bytes = x->bf16 ? 2 : 4, row = 0;
    for (int i = SIZES - 1; i >= 0; i--)
        for (int64_t piece = LEAST_ROWS << i; x->products[i] && padded - row >= piece; row += piece) {
            const char *a = left + row * x->k * bytes;
            char *b = right + row * x->n * bytes;
            if (x->dw)
                tr_matmul_run(x->products[i], a, b, NULL, dw, scratch);
            else
                tr_matmul_run(x->products[i], a, w, NULL, b, scratch);
        }
}

static void clear_rest(const experts *x, const int32_t *filled, char *y)
{
    int64_t bytes = x->n * (x->bf16 ? 2 : 4);
#pragma omp parallel for schedule(static)
    for (int64_t room = 0; room < x->e * x->b; room++) {
        int64_t used = filled[room % x->b * x->e + room / x->b];
        memset(y + (room * x->c + used) * bytes, 0, (size_t)((x->c - used) * bytes));
    }
}

static void run_experts(const tr_call *call)
{
    const experts *x = call->state;
    const int32_t *filled = call->in[2].data;
    int64_t bytes = x->bf16 ? 2 : 4, rows[MOST_ROWS];
    char *left = call->scratch, *right = left + x->left_bytes, *scratch = right + x->right_bytes;
    float *dw = x->dw ? call->out[0].data : NULL;
    if (x->dw) {
        size_t size = (size_t)tr_tensor_elems(&call->out[0]) * sizeof(float);
        if (!tr_has(call, 3))
            memset(dw, 0, size);
        else if (call->in[3].data != dw)
            memcpy(dw, call->in[3].data, size);
    } else {
        clear_rest(x, filled, call->out[0].data);
    }
    for (int64_t e = 0; e < x->e; e++) {
        cursor at = {0, 0};
        for (int64_t n = next_rows(x, filled, e, &at, rows); n > 0; n = next_rows(x, filled, e, &at, rows)) {
            int64_t padded = (n + LEAST_ROWS - 1) / LEAST_ROWS * LEAST_ROWS;
            pack(left, call->in[0].data, rows, n, padded, x->k * bytes);
            if (x->dw)
                pack(right, call->in[1].data, rows, n, padded, x->n * bytes);
            multiply(x, padded, left, x->dw ? NULL : (const char *)call->in[1].data + e * x->k * x->n * bytes, right,
                     x->dw ? dw + e * x->k * x->n : NULL, scratch);
            if (x->dw)
                continue;
            char *y = call->out[0].data;
            int64_t width = x->n * bytes;
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < n; i++)
                memcpy(y + rows[i] * width, right + i * width, (size_t)width);
        }
    }
}

static bool accepts_experts(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    return floats(x) && call->in[1].dtype == x->dtype && tr_tensor_elems(x) > 0 &&
           call->out[0].dtype == (call->op == TR_OP_expert_linear_dw ? TR_F32 : x->dtype) &&
           (!tr_has(call, 3) || call->in[3].dtype == TR_F32);
}

const tr_kernel TR_KERNELS(moe)[] = {
    {TR_OP_dispatch, TR_ISA_NAME, accepts_rows, prepare_dispatch, run_dispatch, NULL},
    {TR_OP_collect, TR_ISA_NAME, accepts_rows, NULL, run_collect, NULL},
    {TR_OP_collect_grad, TR_ISA_NAME, accepts_rows, NULL, run_collect_grad, NULL},
    {TR_OP_expert_linear, TR_ISA_NAME, accepts_experts, prepare, run_experts, release},
    {TR_OP_expert_linear_dw, TR_ISA_NAME, accepts_experts, prepare, run_experts, release},
    {.run = NULL},
};
