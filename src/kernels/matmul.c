/* Matrix products: by oneDNN 2.6 (C API), or on AMX tiles by our own (amx.h), where the caller's kernels are of
 * that set and enough rows pay for the packing.
 *
 * oneDNN has two kinds of product inside: batch-reduced blocks ("brg", AVX-512 only) and the
 * classical packed one ("gemm"), and brg can have B reordered into its own layout first. Measured
 * on one core of Zen 5 (GFLOP/s; about 255 in f32 and 510 in bf16 is all there is):
 *
 *                                brg   brg, B reordered   the same with      gemm
 *                                                         the reorder's time
 *   f32   A   B   2048 3072  768   206   243                239                247
 *   f32   A   B^T 2048  768 3072   240   243                237                242
 *   f32   A^T B    768 3072 2048   207   232                215                246
 *   f32   A   B^T   16 50257 768    96   142                                    72
 *   f32   A   B^T 3072  512  768   234   251                247                235
 *   bf16  A   B   2048 3072  768   488   513                497                484
 *   bf16  A   B^T 2048  768 3072   475   494                467                479
 *   bf16  A   B^T 3072 1024  768   483   500                489                467
 *   C in f32, which gemm adds to at no cost:
 *   bf16  A^T B    768 3072 2048   429   437                407                485
 *   bf16  A^T B   3072  768 2048   443   458                449                474
 *   f32   C += A B 3072 768  512   219   224                222                240
 *   bf16  C += A B 3072 768 1024   428   440                433                485
 *
 * So: gemm where C is f32, brg where it is bf16, and a reordered B only where the caller keeps it
 * for several runs. gemm is asked for by leaving a row stride to run time, which brg does not
 * support; dims, and so the scratch, stay known.
 *
 * Where the machine or the forced instruction set has no bf16 product, operands are widened to f32
 * block by block (BLOCK_M x BLOCK_K and BLOCK_K x BLOCK_N, about 8 MB in all) and multiplied by
 * sgemm.
 *
 * Invariant: everything in tr_matmul but the data handles of the dnnl_memory objects is constant
 * after tr_matmul_new. The engine is one for the process (oneDNN's is immutable and thread-safe,
 * and cached primitives refer to it, so that it must outlive them all); the stream is the object's
 * own.
 */
#include "kernels/matmul.h"

#include <dnnl.h>
#include <pthread.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/amx.h"

enum { BLOCK_M = 512, BLOCK_N = 1024, BLOCK_K = 1024 };
enum { THIN_ROWS = 64 }; /* with fewer rows gemm spends its time on packing B^T */
enum { ALIGN = 64 };
#ifdef TRIREME_AMX
static const bool have_tiles = true;
#else
static const bool have_tiles = false;
#endif

typedef enum plan { PLAIN, PACK, GEMM, WIDEN, TILES, SGEMM } plan; /* SGEMM: rows vary */

struct tr_matmul {
    tr_matmul_spec spec;
    plan plan;
    dnnl_stream_t stream;
    dnnl_primitive_t product;    /* PLAIN, PACK, GEMM */
    dnnl_primitive_t pack;       /* PACK */
    dnnl_primitive_t function;   /* WIDEN with fn: in place on one block */
    dnnl_memory_desc_t b_layout; /* what the product reads */
    dnnl_memory_t a, b, b_packed, bias, c, scratch;
    size_t packed_bytes, product_bytes, scratch_bytes;
};

static pthread_once_t engine_once = PTHREAD_ONCE_INIT;
static dnnl_engine_t engine;
static dnnl_status_t engine_status;

static void make_engine(void)
{
    engine_status = dnnl_engine_create(&engine, dnnl_cpu, 0);
}

static tr_error *failed(dnnl_status_t status, const tr_matmul_spec *spec, const char *what)
{
    return tr_error_new(TR_RUN,
                        "oneDNN cannot make %s for a %lld x %lld x %lld product in %s (status %d); "
                        "try --isa=portable or another precision",
                        what, (long long)spec->m, (long long)spec->n, (long long)spec->k,
                        tr_dtype_name(spec->dtype), (int)status);
}

#define TRY_DNNL(call, what)                         \
    do {                                             \
        dnnl_status_t status_ = (call);              \
        if (status_ != dnnl_success)                 \
            return failed(status_, &mm->spec, what); \
    } while (0)

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static dnnl_data_type_t dnnl_dtype(tr_dtype dtype)
{
    return dtype == TR_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_alg_kind_t dnnl_function(tr_fn fn)
{
    static const dnnl_alg_kind_t kinds[TR_FN_COUNT] = {
        [TR_FN_gelu_tanh] = dnnl_eltwise_gelu_tanh, [TR_FN_gelu_erf] = dnnl_eltwise_gelu_erf,
        [TR_FN_relu] = dnnl_eltwise_relu,           [TR_FN_silu] = dnnl_eltwise_swish,
        [TR_FN_tanh] = dnnl_eltwise_tanh,           [TR_FN_sigmoid] = dnnl_eltwise_logistic,
    };
    return kinds[fn];
}

/* swish is x * sigmoid(alpha x); relu's alpha is its slope below zero. */
static float function_alpha(tr_fn fn)
{
    return fn == TR_FN_silu ? 1.0f : 0.0f;
}

static plan choose(const tr_matmul_spec *s)
{
    if (s->packed)
        return s->packed_like && s->packed_like->plan != PACK ? PLAIN : PACK;
    bool thin = s->b_transposed && s->m < THIN_ROWS;
    return s->out == TR_F32 && !thin ? GEMM : PLAIN;
}

/* Who shares a packed B shares its form. */
static bool wants_tiles(const tr_matmul_spec *s)
{
    return s->packed_like ? s->packed_like->plan == TILES : s->tiles && tr_amx_fits(s);
}

/* A matrix of rows x cols, `row` elements apart, seen transposed or not. */
static dnnl_status_t describe(dnnl_memory_desc_t *out, int64_t rows, int64_t cols, int64_t row,
                              bool transposed, dnnl_data_type_t type)
{
    dnnl_dims_t dims = {rows, cols}, strides = {row, 1};
    if (transposed) {
        strides[0] = 1;
        strides[1] = row;
    }
    return dnnl_memory_desc_init_by_strides(out, 2, dims, type, strides);
}

static tr_error *make_attributes(const tr_matmul *mm, dnnl_primitive_attr_t *out)
{
    const tr_matmul_spec *s = &mm->spec;
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(out);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success && s->accumulate)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    if (status == dnnl_success && s->fn != TR_FN_none)
        status = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_function(s->fn),
                                              function_alpha(s->fn), 0.0f);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*out, ops);
    if (ops)
        dnnl_post_ops_destroy(ops);
    return status == dnnl_success ? NULL : failed(status, s, "attributes");
}

static bool is_brg(const_dnnl_primitive_desc_t desc)
{
    const char *name = "";
    return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) == dnnl_success &&
           strncmp(name, "brg", 3) == 0;
}

/* Makes mm->product for mm->plan. *out_fits is false, and nothing is made, where oneDNN has no such
 * product (or, for PACK, none that gains from it). */
static tr_error *make_product(tr_matmul *mm, dnnl_primitive_attr_t attr, bool *out_fits)
{
    const tr_matmul_spec *s = &mm->spec;
    dnnl_data_type_t type = dnnl_dtype(s->dtype);
    dnnl_memory_desc_t a, a_made, b, b_made, bias, c;
    TRY_DNNL(describe(&a, s->m, s->k, s->a_row, s->a_transposed, type), "a layout");
    TRY_DNNL(describe(&b, s->k, s->n, s->b_row, s->b_transposed, type), "a layout");
    TRY_DNNL(describe(&c, s->m, s->n, s->c_row, false, dnnl_dtype(s->out)), "a layout");
    TRY_DNNL(describe(&bias, 1, s->n, s->n, false, dnnl_f32), "a layout");
    a_made = a;
    b_made = b;
    if (mm->plan == GEMM)
        TRY_DNNL(describe(&a_made, s->m, s->k, DNNL_RUNTIME_DIM_VAL, s->a_transposed, type),
                 "a layout");
    if (mm->plan == PACK && s->packed_like)
        b_made = s->packed_like->b_layout;
    else if (mm->plan == PACK)
        TRY_DNNL(dnnl_memory_desc_init_by_tag(&b_made, 2, (dnnl_dims_t){s->k, s->n}, type,
                                              dnnl_format_tag_any),
                 "a layout");

    dnnl_matmul_desc_t op;
    dnnl_primitive_desc_t desc = NULL;
    TRY_DNNL(dnnl_matmul_desc_init(&op, &a_made, &b_made, s->bias ? &bias : NULL, &c), "a product");
    dnnl_status_t status = dnnl_primitive_desc_create(&desc, &op, attr, engine, NULL);
    *out_fits = status == dnnl_success && (mm->plan != PACK || is_brg(desc));
    if (!*out_fits) {
        if (status == dnnl_success)
            dnnl_primitive_desc_destroy(desc);
        return status == dnnl_success || status == dnnl_unimplemented
                   ? NULL
                   : failed(status, s, "a product");
    }
    mm->b_layout = *dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    dnnl_memory_desc_t scratch = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    mm->product_bytes = dnnl_memory_desc_get_size(&scratch);
    status = dnnl_primitive_create(&mm->product, desc);
    dnnl_primitive_desc_destroy(desc);
    TRY_DNNL(status, "a product");

    TRY_DNNL(dnnl_memory_create(&mm->a, &a, engine, DNNL_MEMORY_NONE), "memory");
    TRY_DNNL(dnnl_memory_create(&mm->b, &b, engine, DNNL_MEMORY_NONE), "memory");
    TRY_DNNL(dnnl_memory_create(&mm->b_packed, &mm->b_layout, engine, DNNL_MEMORY_NONE), "memory");
    TRY_DNNL(dnnl_memory_create(&mm->bias, &bias, engine, DNNL_MEMORY_NONE), "memory");
    TRY_DNNL(dnnl_memory_create(&mm->c, &c, engine, DNNL_MEMORY_NONE), "memory");
    TRY_DNNL(dnnl_memory_create(&mm->scratch, &scratch, engine, DNNL_MEMORY_NONE), "memory");
    if (mm->plan != PACK)
        return NULL;

    mm->packed_bytes = round_up(dnnl_memory_desc_get_size(&mm->b_layout));
    TRY_DNNL(dnnl_reorder_primitive_desc_create(&desc, &b, engine, &mm->b_layout, engine, NULL),
             "a reorder");
    status = dnnl_primitive_create(&mm->pack, desc);
    dnnl_primitive_desc_destroy(desc);
    TRY_DNNL(status, "a reorder");
    return NULL;
}

static tr_error *make_function(tr_matmul *mm)
{
    if (mm->spec.fn == TR_FN_none)
        return NULL;
    dnnl_memory_desc_t block;
    dnnl_eltwise_desc_t op;
    dnnl_primitive_desc_t desc;
    TRY_DNNL(describe(&block, BLOCK_M, BLOCK_N, BLOCK_N, false, dnnl_f32), "a layout");
    TRY_DNNL(dnnl_eltwise_forward_desc_init(&op, dnnl_forward_inference, dnnl_function(mm->spec.fn),
                                            &block, function_alpha(mm->spec.fn), 0.0f),
             "a function");
    TRY_DNNL(dnnl_primitive_desc_create(&desc, &op, NULL, engine, NULL), "a function");
    dnnl_status_t status = dnnl_primitive_create(&mm->function, desc);
    dnnl_primitive_desc_destroy(desc);
    TRY_DNNL(status, "a function");
    TRY_DNNL(dnnl_memory_create(&mm->c, &block, engine, DNNL_MEMORY_NONE), "memory");
    return NULL;
}

bool tr_matmul_rows_can_vary(const tr_matmul_spec *s)
{
    return !s->bias && s->fn == TR_FN_none && !s->packed && ((have_tiles && wants_tiles(s)) || s->dtype == TR_F32 || s->widen);
}

static tr_matmul_spec with_rows(const tr_matmul_spec *s, int64_t rows)
{
    tr_matmul_spec of = *s;
    *(s->a_transposed ? &of.k : &of.m) = rows;
    return of;
}

/* How work is shared among threads depends on the rows, and so do the parts that each packs. They are in steps of STEP
 * rows, and so are the numbers at which work is shared otherwise. */
static size_t tiles_scratch(const tr_matmul_spec *s)
{
    enum { STEP = 32 };
    size_t most = tr_amx_scratch_bytes(s);
    int64_t rows = s->a_transposed ? s->k : s->m;
    for (int64_t r = STEP; s->rows_vary && r < rows; r += STEP)
        for (int64_t one = 0; one < 2; one++) {
            tr_matmul_spec of = with_rows(s, r - one);
            most = TR_MAX(most, tr_amx_scratch_bytes(&of));
        }
    return round_up(most);
}

static tr_error *make(tr_matmul *mm)
{
    bool fits = false;
    TR_CHECK(!mm->spec.rows_vary || tr_matmul_rows_can_vary(&mm->spec), "a product whose rows cannot vary");
    if (have_tiles && wants_tiles(&mm->spec)) {
        mm->plan = TILES;
        mm->scratch_bytes = tiles_scratch(&mm->spec);
        mm->packed_bytes = mm->spec.packed ? tr_amx_packed_bytes(&mm->spec) : 0;
        return NULL;
    }
    if (mm->spec.rows_vary && mm->spec.dtype == TR_F32) {
        mm->plan = SGEMM;
        return NULL;
    }
    TRY_DNNL(dnnl_stream_create(&mm->stream, engine, dnnl_stream_default_flags), "a stream");
    if (!mm->spec.widen) {
        dnnl_primitive_attr_t attr = NULL;
        tr_error *error = make_attributes(mm, &attr);
        mm->plan = choose(&mm->spec);
        if (!error)
            error = make_product(mm, attr, &fits);
        if (!error && !fits && mm->plan != PLAIN) {
            mm->plan = PLAIN;
            error = make_product(mm, attr, &fits);
        }
        if (attr)
            dnnl_primitive_attr_destroy(attr);
        TR_TRY(error);
    }
    if (!fits && mm->spec.dtype != TR_BF16)
        return failed(dnnl_unimplemented, &mm->spec, "a product");
    if (!fits) {
        mm->plan = WIDEN;
        mm->scratch_bytes = sizeof(float) * ((size_t)BLOCK_M * BLOCK_K + (size_t)BLOCK_K * BLOCK_N +
                                             (size_t)BLOCK_M * BLOCK_N);
        return make_function(mm);
    }
    mm->scratch_bytes = round_up(mm->product_bytes);
    return NULL;
}

tr_error *tr_matmul_new(const tr_matmul_spec *spec, tr_matmul **out)
{
    *out = NULL;
    TR_CHECK(spec->m > 0 && spec->n > 0 && spec->k > 0, "an empty product");
    TR_CHECK(spec->dtype == TR_F32 ? spec->out == TR_F32 && !spec->widen : spec->dtype == TR_BF16,
             "products are of f32 or bf16");
    TR_CHECK(!spec->accumulate || (!spec->bias && spec->fn == TR_FN_none),
             "an accumulating product has neither bias nor function");
    pthread_once(&engine_once, make_engine);
    if (engine_status != dnnl_success)
        return failed(engine_status, spec, "an engine");
    tr_matmul *mm = tr_alloc_zero(1, sizeof *mm);
    mm->spec = *spec;
    if (!spec->a_row)
        mm->spec.a_row = spec->a_transposed ? spec->m : spec->k;
    if (!spec->b_row)
        mm->spec.b_row = spec->b_transposed ? spec->k : spec->n;
    if (!spec->c_row)
        mm->spec.c_row = spec->n;
    tr_error *error = make(mm);
    mm->spec.packed_like = NULL; /* not ours to keep */
    if (error) {
        tr_matmul_free(mm);
        return error;
    }
    *out = mm;
    return NULL;
}

void tr_matmul_free(tr_matmul *mm)
{
    if (!mm)
        return;
    dnnl_primitive_t primitives[] = {mm->product, mm->pack, mm->function};
    dnnl_memory_t memories[] = {mm->a, mm->b, mm->b_packed, mm->bias, mm->c, mm->scratch};
    for (int i = 0; i < TR_COUNT(primitives); i++)
        if (primitives[i])
            dnnl_primitive_destroy(primitives[i]);
    for (int i = 0; i < TR_COUNT(memories); i++)
        if (memories[i])
            dnnl_memory_destroy(memories[i]);
    if (mm->stream)
        dnnl_stream_destroy(mm->stream);
    free(mm);
}

size_t tr_matmul_scratch_bytes(const tr_matmul *mm)
{
    return mm->scratch_bytes;
}

size_t tr_matmul_packed_bytes(const tr_matmul *mm)
{
    return mm->packed_bytes;
}

static void must(dnnl_status_t status, const tr_matmul *mm)
{
    TR_CHECK(status == dnnl_success, "oneDNN failed at run time (status %d) in %lld x %lld x %lld",
             (int)status, (long long)mm->spec.m, (long long)mm->spec.n, (long long)mm->spec.k);
}

static void point(const tr_matmul *mm, dnnl_memory_t memory, const void *data)
{
    must(dnnl_memory_set_data_handle_v2(memory, (void *)(uintptr_t)data, mm->stream), mm);
}

void tr_matmul_pack(const tr_matmul *mm, const void *b, void *packed)
{
    if (have_tiles && mm->plan == TILES) {
        tr_amx_pack(&mm->spec, b, packed);
        return;
    }
    point(mm, mm->b, b);
    point(mm, mm->b_packed, packed);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, mm->b}, {DNNL_ARG_TO, mm->b_packed}};
    must(dnnl_primitive_execute(mm->pack, mm->stream, TR_COUNT(args), args), mm);
}

/* rows x cols of bf16 to dense f32 rows. */
static void widen_block(float *to, int64_t to_row, const uint16_t *from, int64_t from_row,
                        int64_t rows, int64_t cols)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            to[i * to_row + j] = tr_bf16_to_f32(from[i * from_row + j]);
}

/* One block of C from its f32 sums. */
static void store_block(const tr_matmul *mm, const tr_matmul_spec *s, float *sums, const float *bias, void *c,
                        int64_t rows, int64_t cols)
{
    if (bias) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++)
                sums[i * BLOCK_N + j] += bias[j];
    }
    if (mm->function) {
        point(mm, mm->c, sums);
        dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, mm->c}, {DNNL_ARG_DST, mm->c}};
        must(dnnl_primitive_execute(mm->function, mm->stream, TR_COUNT(args), args), mm);
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const float *from = sums + i * BLOCK_N;
        float *wide = (float *)c + i * s->c_row;
        uint16_t *half = (uint16_t *)c + i * s->c_row;
        for (int64_t j = 0; j < cols; j++) {
            if (s->out == TR_BF16)
                half[j] =
                    tr_f32_to_bf16(from[j] + (s->accumulate ? tr_bf16_to_f32(half[j]) : 0.0f));
            else
                wide[j] = s->accumulate ? wide[j] + from[j] : from[j];
        }
    }
}

static void run_widened(const tr_matmul *mm, const tr_matmul_spec *s, const uint16_t *a, const uint16_t *b,
                        const float *bias, void *c, float *scratch)
{
    float *a_block = scratch, *b_block = a_block + BLOCK_M * BLOCK_K;
    float *sums = b_block + BLOCK_K * BLOCK_N;
    if (mm->function) /* the function runs over whole blocks: what no sum fills must be numbers */
        memset(sums, 0, sizeof(float) * BLOCK_M * BLOCK_N);
    for (int64_t i = 0; i < s->m; i += BLOCK_M)
        for (int64_t j = 0; j < s->n; j += BLOCK_N) {
            int64_t m = TR_MIN(s->m - i, BLOCK_M), n = TR_MIN(s->n - j, BLOCK_N);
            for (int64_t l = 0; l < s->k; l += BLOCK_K) {
                int64_t k = TR_MIN(s->k - l, BLOCK_K);
                int64_t a_cols = s->a_transposed ? m : k, b_cols = s->b_transposed ? k : n;
                widen_block(a_block, a_cols,
                            a + (s->a_transposed ? l * s->a_row + i : i * s->a_row + l), s->a_row,
                            s->a_transposed ? k : m, a_cols);
                widen_block(b_block, b_cols,
                            b + (s->b_transposed ? j * s->b_row + l : l * s->b_row + j), s->b_row,
                            s->b_transposed ? n : k, b_cols);
                must(dnnl_sgemm(s->a_transposed ? 'T' : 'N', s->b_transposed ? 'T' : 'N', m, n, k,
                                1.0f, a_block, a_cols, b_block, b_cols, l ? 1.0f : 0.0f, sums,
                                BLOCK_N),
                     mm);
            }
            int64_t at = i * s->c_row + j;
            store_block(mm, s, sums, bias ? bias + j : NULL, (char *)c + at * tr_dtype_bytes(s->out),
                        m, n);
        }
}

void tr_matmul_run(const tr_matmul *mm, const void *a, const void *b, const float *bias, void *c,
                   void *scratch)
{
    if (have_tiles && mm->plan == TILES) {
        tr_amx_run(&mm->spec, a, b, bias, c, scratch);
        return;
    }
    if (mm->plan == WIDEN) {
        run_widened(mm, &mm->spec, a, b, bias, c, scratch);
        return;
    }
    point(mm, mm->a, a);
    point(mm, mm->b_packed, b);
    point(mm, mm->c, c);
    point(mm, mm->scratch, scratch);
    dnnl_exec_arg_t args[5] = {{DNNL_ARG_SRC, mm->a},
                               {DNNL_ARG_WEIGHTS, mm->b_packed},
                               {DNNL_ARG_DST, mm->c},
                               {DNNL_ARG_SCRATCHPAD, mm->scratch}};
    int n_args = 4;
    if (mm->spec.bias) {
        point(mm, mm->bias, bias);
        args[n_args++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, mm->bias};
    }
    must(dnnl_primitive_execute(mm->product, mm->stream, n_args, args), mm);
}

void tr_matmul_run_rows(const tr_matmul *mm, int64_t rows, bool add, const void *a, const void *b, void *c, void *scratch)
{
    tr_matmul_spec s = with_rows(&mm->spec, rows);
    s.accumulate = add;
    if (have_tiles && mm->plan == TILES)
        tr_amx_run(&s, a, b, NULL, c, scratch);
    else if (mm->plan == WIDEN)
        run_widened(mm, &s, a, b, NULL, c, scratch);
    else
        must(dnnl_sgemm(s.a_transposed ? 'T' : 'N', s.b_transposed ? 'T' : 'N', s.m, s.n, s.k, 1.0f, a, s.a_row, b, s.b_row,
                        add ? 1.0f : 0.0f, c, s.c_row),
             mm);
}
