/* Fast kernels: cross_entropy, cross_entropy_grad, cross_entropy_train, and where the vocabulary is cut over ranks
 * cross_entropy_part and cross_entropy_part_grad (the two between them touch a few numbers a token: reference).
 *
 * Tokens go through in chunks, so that only the logits of one chunk exist at a time, and they exist
 * transposed: logits[v][t] = w x^T. Then x is the small right-hand operand, packed
 * once a chunk; and a vector holds one word's logits for neighbouring tokens, so that softmax needs
 * no sums across lanes. For a chunk of T tokens, with the vocabulary in blocks:
 *   for each block b:  logits[b] = w[b] x^T
 *                      largest[t], sum[t] <- online softmax over the block, which is still in a
 * cache loss += log sum exp - logits[target] for each block b:  logits[b] <- P = scale (exp(logits
 * - lse) - onehot) dx += P^T w[b];  dw[b] += P x cross_entropy alone keeps one block of logits. P
 * has the dtype of x; sums (dx, dw, softmax) are f32, the loss double. Flops: 6 v d a token, 2 v d
 * without gradients. A chunk's logits are at most CHUNK_BYTES: more tokens in a chunk means fewer
 * passes over dw, which costs 8 v d bytes each time.
 *
 * A bias is added to a block's logits before they are looked at; total[t] is their sum, for label smoothing.
 * With smoothing e and z loss z:  P = dloss ((1 + 2 z lse) exp(logits - lse) - e / v - (1 - e) onehot).
 *
 * Scratch: logits | x packed | dx (bf16 only) | largest, sum, goal, scale, total, dloss [T] | oneDNN's.
 * A target outside 0 .. v-1 is not counted; its row of dx and its part in dw are zero. Where few are counted, as with
 * masked tokens, those are gathered first, and cost what they are (run_few).
 */
#include <math.h>
#include <omp.h>

#include "base/memory.h"
#include "kernels/fast/simd.h"
#include "kernels/kernel.h"
#include "kernels/matmul.h"

enum {
    CHUNK_BYTES = 104 << 20, /* of logits: 512 tokens of GPT-2's vocabulary in f32, 1024 in bf16 */
    LOSS_TOKENS = 1024,      /* a chunk of cross_entropy alone */
    BLOCK_WORDS = 3072,      /* of the vocabulary; measured: 2048 .. 4096 are alike */
    SUB_WORDS = 32,          /* softmax looks at this many words at a time for the largest */
    FEW_SHARE = 5, FEW_FROM = 256, /* tokens counted are gathered when they are a fifth at most, of so many or more */
    TOKEN_UNIT = 64,         /* tokens in a chunk and in a thread's part are multiples of this */
    ALIGN = 64,
};

#if defined(__AMX_BF16__)
static const bool on_tiles = true;
#else
static const bool on_tiles = false;
#endif
#if defined(__AVX512BF16__)
static const bool no_bf16_product = false;
#else
static const bool no_bf16_product = true;
#endif

/* Products for one size of chunk and one size of block. */
typedef struct products {
    tr_matmul *logits, *dx, *dw;
} products;

typedef struct head {
    int64_t tokens, d, v;
    int64_t chunk, block;
    bool bf16, grad;
    bool given; /* log sum exp is: the forward pass makes logits only */
    const float *bias; /* of the words, or NULL */
    float smoothing, z_loss, vocab; /* vocab: all words, with those of other ranks */
    products products[2]
                     [2]; /* [last chunk][last block]; where the last is as the others, the same */
    size_t logits_bytes, packed_bytes, dx_bytes, product_bytes, scratch_bytes;
    struct head *few; /* for so many tokens that are counted at most, gathered; NULL: it would not pay */
} head;

/* Scratch, cut up. */
typedef struct space {
    void *logits, *packed, *product;
    float *dx, *largest, *sum, *goal, *scale, *total, *dloss;
} space;

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Equal parts of at most `most`, in units; the last may be smaller. */
static int64_t even_part(int64_t n, int64_t most, int64_t unit)
{
    int64_t parts = (n + most - 1) / most;
    return TR_MIN(n, up_to((n + parts - 1) / parts, unit));
}

/* Making and freeing
 * -------------------------------------------------------------------------------- */

static void head_free(head *h)
{
    for (int t = 0; t < 2; t++)
        for (int b = 0; b < 2; b++) {
            tr_matmul_free(h->products[t][b].logits);
            tr_matmul_free(h->products[t][b].dx);
            tr_matmul_free(h->products[t][b].dw);
        }
    if (h->few)
        head_free(h->few);
    free(h);
}

static void note_scratch(head *h, const tr_matmul *product)
{
    h->product_bytes = TR_MAX(h->product_bytes, tr_matmul_scratch_bytes(product));
}

/* `like`: the products of the same chunk and a full block, whose packing of x is shared; or NULL.
 */
static tr_error *make_products(head *h, int64_t tokens, int64_t words, const products *like,
                               products *out)
{
    tr_dtype dtype = h->bf16 ? TR_BF16 : TR_F32;
    bool widen = h->bf16 && no_bf16_product;
    tr_matmul_spec logits = {.m = words,
                             .n = tokens,
                             .k = h->d,
                             .dtype = dtype,
                             .out = dtype,
                             .b_transposed = true,
                             .tiles = on_tiles,
                             .widen = widen,
                             .packed = true,
                             .packed_like = like ? like->logits : NULL};
    TR_TRY(tr_matmul_new(&logits, &out->logits));
    note_scratch(h, out->logits);
    if (!h->grad)
        return NULL;
    tr_matmul_spec dx = {.m = tokens,
                         .n = h->d,
                         .k = words,
                         .dtype = dtype,
                         .out = TR_F32,
                         .a_transposed = true,
                         .accumulate = true,
                         .tiles = on_tiles,
                             .widen = widen};
    TR_TRY(tr_matmul_new(&dx, &out->dx));
    note_scratch(h, out->dx);
    tr_matmul_spec dw = {.m = words,
                         .n = h->d,
                         .k = tokens,
                         .dtype = dtype,
                         .out = TR_F32,
                         .accumulate = true,
                         .tiles = on_tiles,
                             .widen = widen};
    TR_TRY(tr_matmul_new(&dw, &out->dw));
    note_scratch(h, out->dw);
    return NULL;
}

static tr_error *make_head(head *h)
{
    int64_t last_chunk = h->tokens % h->chunk, last_block = h->v % h->block;
    for (int t = 0; t < (last_chunk ? 2 : 1); t++)
        for (int b = 0; b < (last_block ? 2 : 1); b++)
            TR_TRY(make_products(h, t ? last_chunk : h->chunk, b ? last_block : h->block,
                                 b ? &h->products[t][0] : NULL, &h->products[t][b]));
    for (int t = 0; t < (last_chunk ? 2 : 1); t++) {
        size_t bytes = tr_matmul_packed_bytes(h->products[t][0].logits);
        h->packed_bytes = TR_MAX(h->packed_bytes, round_up(bytes));
    }
    return NULL;
}

static tr_error *new_head(const tr_call *call, int64_t tokens, bool grad, bool given, head **out)
{
    const tr_tensor *x = &call->in[0];
    head *h = tr_alloc_zero(1, sizeof *h);
    h->tokens = tokens;
    h->d = x->dims[x->rank - 1];
    h->v = call->in[1].dims[0];
    h->bf16 = x->dtype == TR_BF16;
    h->grad = grad;
    h->given = given;
    h->smoothing = (float)call->attrs[TR_LOSS_SMOOTHING].f;
    h->z_loss = (float)call->attrs[TR_LOSS_Z].f;
    h->vocab = (float)(call->attrs[TR_LOSS_VOCAB].i ? call->attrs[TR_LOSS_VOCAB].i : h->v);
    int64_t bytes = h->bf16 ? 2 : 4;
    int64_t most = CHUNK_BYTES / (h->v * bytes) / TOKEN_UNIT * TOKEN_UNIT;
    h->chunk = even_part(h->tokens, grad ? TR_MAX(most, TOKEN_UNIT) : LOSS_TOKENS, TOKEN_UNIT);
    h->block = even_part(h->v, BLOCK_WORDS, TOKEN_UNIT);
    *out = h;
    tr_error *error = make_head(h);
    if (error) {
        head_free(h);
        return error;
    }
    h->logits_bytes = round_up((size_t)((grad ? h->v : h->block) * h->chunk * bytes));
    h->dx_bytes = grad && h->bf16 ? round_up(sizeof(float) * (size_t)(h->chunk * h->d)) : 0;
    h->scratch_bytes = h->logits_bytes + h->packed_bytes + h->dx_bytes +
                       6 * sizeof(float) * (size_t)up_to(h->chunk, TOKEN_UNIT) + h->product_bytes;
    return NULL;
}

/* Bytes of the gathered x, of its gradient, and of targets and their places. */
static size_t gathered_bytes(const head *few)
{
    size_t x = round_up((size_t)(few->tokens * few->d * (few->bf16 ? 2 : 4)));
    return (few->grad ? 2 : 1) * x + 2 * round_up(sizeof(int32_t) * (size_t)few->tokens);
}

static tr_error *prepare_head(tr_call *call, bool grad, bool given)
{
    const tr_tensor *x = &call->in[0];
    int64_t tokens = tr_tensor_span(x, 0, x->rank - 1);
    head *h;
    TR_TRY(new_head(call, tokens, grad, given, &h));
    if (!given && tokens >= FEW_FROM) {
        tr_error *error = new_head(call, up_to(tokens / FEW_SHARE, TOKEN_UNIT), grad, false, &h->few);
        if (error) {
            h->few = NULL;
            head_free(h);
            return error;
        }
    }
    call->state = h;
    call->scratch_bytes = TR_MAX(h->scratch_bytes, h->few ? round_up(h->few->scratch_bytes) + gathered_bytes(h->few) : 0);
    return NULL;
}

static space cut_scratch(const head *h, char *scratch)
{
    space s;
    int64_t row = up_to(h->chunk, TOKEN_UNIT);
    s.logits = scratch;
    s.packed = scratch + h->logits_bytes;
    s.dx = (float *)((char *)s.packed + h->packed_bytes);
    s.largest = s.dx + h->dx_bytes / sizeof(float);
    s.sum = s.largest + row;
    s.goal = s.sum + row;
    s.scale = s.goal + row;
    s.total = s.scale + row;
    s.dloss = s.total + row;
    s.product = s.dloss + row;
    return s;
}

/* Softmax
 * ------------------------------------------------------------------------------------------- */

/* Takes `words` rows of logits into largest and sum, for tokens [first, first + count), count <=
 * TR_VL. */
TR_INLINE void softmax_lanes(const void *logits, int64_t row, int64_t words, space *s,
                             int64_t first, int count, bool bf16)
{
    vf largest = vf_load_n(s->largest + first, count), sum = vf_load_n(s->sum + first, count);
    for (int64_t i = 0; i < words; i += SUB_WORDS) {
        int64_t end = TR_MIN(i + SUB_WORDS, words);
        vf before = largest;
        for (int64_t j = i; j < end; j++)
            largest = vf_max(vf_load_as_n(logits, j * row + first, count, bf16), largest);
        vf part = vf_zero();
        for (int64_t j = i; j < end; j++)
            part += vf_exp(vf_load_as_n(logits, j * row + first, count, bf16) - largest);
        sum = vf_fma(sum, vf_exp(before - largest), part);
    }
    vf_store_n(s->largest + first, largest, count);
    vf_store_n(s->sum + first, sum, count);
}

/* Four vectors side by side, so that whole lines of the block are read and latencies overlap. */
TR_INLINE void softmax_wide(const void *logits, int64_t row, int64_t words, space *s, int64_t first,
                            bool bf16)
{
    vf largest[4], sum[4];
    for (int u = 0; u < 4; u++) {
        largest[u] = vf_load(s->largest + first + u * TR_VL);
        sum[u] = vf_load(s->sum + first + u * TR_VL);
    }
    for (int64_t i = 0; i < words; i += SUB_WORDS) {
        int64_t end = TR_MIN(i + SUB_WORDS, words);
        vf before[4] = {largest[0], largest[1], largest[2], largest[3]};
        for (int64_t j = i; j < end; j++)
            for (int u = 0; u < 4; u++)
                largest[u] =
                    vf_max(vf_load_as(logits, j * row + first + u * TR_VL, bf16), largest[u]);
        vf part[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
        for (int64_t j = i; j < end; j++)
            for (int u = 0; u < 4; u++)
                part[u] +=
                    vf_exp(vf_load_as(logits, j * row + first + u * TR_VL, bf16) - largest[u]);
        for (int u = 0; u < 4; u++)
            sum[u] = vf_fma(sum[u], vf_exp(before[u] - largest[u]), part[u]);
    }
    for (int u = 0; u < 4; u++) {
        vf_store(s->largest + first + u * TR_VL, largest[u]);
        vf_store(s->sum + first + u * TR_VL, sum[u]);
    }
}

TR_INLINE void softmax_as(const void *logits, int64_t tokens, int64_t words, space *s, bool bf16)
{
    const int64_t wide = 4 * TR_VL;
    const int64_t unit = tokens >= wide * omp_get_max_threads() ? wide : TR_VL;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; t += unit) {
        if (unit == wide && t + wide <= tokens)
            softmax_wide(logits, tokens, words, s, t, bf16);
        else
            for (int64_t u = t; u < TR_MIN(t + unit, tokens); u += TR_VL)
                softmax_lanes(logits, tokens, words, s, u, (int)TR_MIN(tokens - u, TR_VL), bf16);
    }
}

/* logits <- scale exp(logits - lse) - floor dloss, for a block; `largest` holds lse by now. */
TR_INLINE void gradient_as(void *logits, int64_t tokens, int64_t words, const space *s, float floor, bool bf16)
{
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < words; j++) {
        int64_t t = 0;
        for (; t + TR_VL <= tokens; t += TR_VL) {
            vf p = vf_exp(vf_load_as(logits, j * tokens + t, bf16) - vf_load(s->largest + t));
            vf_store_as(logits, j * tokens + t, vf_fma(p, vf_load(s->scale + t), vf_load(s->dloss + t) * -floor), bf16);
        }
        if (t < tokens) {
            int n = (int)(tokens - t);
            vf p = vf_exp(vf_load_as_n(logits, j * tokens + t, n, bf16) -
                          vf_load_n(s->largest + t, n));
            vf_store_as_n(logits, j * tokens + t,
                          vf_fma(p, vf_load_n(s->scale + t, n), vf_load_n(s->dloss + t, n) * -floor), n, bf16);
        }
    }
}

static void softmax_block(const head *h, const void *logits, int64_t tokens, int64_t words,
                          space *s)
{
    if (h->bf16)
        softmax_as(logits, tokens, words, s, true);
    else
        softmax_as(logits, tokens, words, s, false);
}

static void gradient_block(const head *h, void *logits, int64_t tokens, int64_t words,
                           const space *s)
{
    if (h->bf16)
        gradient_as(logits, tokens, words, s, h->smoothing / h->vocab, true);
    else
        gradient_as(logits, tokens, words, s, h->smoothing / h->vocab, false);
}

/* Where a token's target is in this block: its logit is kept. */
static void keep_goals(const head *h, const int32_t *targets, const void *logits, int64_t tokens,
                       int64_t word, int64_t words, space *s)
{
    for (int64_t t = 0; t < tokens; t++) {
        int64_t j = targets[t] - word;
        if (j >= 0 && j < words)
            s->goal[t] = h->bf16 ? tr_bf16_to_f32(((const uint16_t *)logits)[j * tokens + t])
                                 : ((const float *)logits)[j * tokens + t];
    }
}

/* Adds the words' bias to a block of logits, and the logits to the tokens' totals. */
TR_INLINE void bias_and_total_as(void *logits, int64_t tokens, int64_t words, const float *bias, float *total, bool bf16)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; t += TR_VL) {
        int n = (int)TR_MIN(tokens - t, TR_VL);
        vf sum = vf_zero();
        for (int64_t j = 0; j < words; j++) {
            vf x = vf_load_as_n(logits, j * tokens + t, n, bf16);
            if (bias) {
                x = vf_round_as(x + bias[j], bf16);
                vf_store_as_n(logits, j * tokens + t, x, n, bf16);
            }
            sum += x;
        }
        vf_store_n(total + t, vf_load_n(total + t, n) + sum, n);
    }
}

static void bias_and_total(const head *h, void *logits, int64_t tokens, int64_t word, int64_t words, space *s)
{
    const float *bias = h->bias ? h->bias + word : NULL;
    if (!bias && (h->smoothing == 0 || h->given))
        return;
    if (h->bf16)
        bias_and_total_as(logits, tokens, words, bias, s->total, true);
    else
        bias_and_total_as(logits, tokens, words, bias, s->total, false);
}

/* dbias[j] += the sum of a word's gradients over the tokens. */
static void bias_gradient(const head *h, const void *logits, int64_t tokens, int64_t words, float *dbias)
{
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < words; j++) {
        vf sum = vf_zero();
        for (int64_t t = 0; t < tokens; t += TR_VL) {
            int n = (int)TR_MIN(tokens - t, TR_VL);
            sum += h->bf16 ? vf_load_as_n(logits, j * tokens + t, n, true) : vf_load_as_n(logits, j * tokens + t, n, false);
        }
        dbias[j] += vf_sum(sum);
    }
}

/* The same in the gradient: p - 1, from the exact p. */
static void subtract_goals(const head *h, const int32_t *targets, void *logits, int64_t tokens,
                           int64_t word, int64_t words, const space *s)
{
    for (int64_t t = 0; t < tokens; t++) {
        int64_t j = targets[t] - word;
        if (j < 0 || j >= words)
            continue;
        float p = s->dloss[t] * (expm1f(s->goal[t] - s->largest[t]) + h->smoothing - h->smoothing / h->vocab) +
                  (s->scale[t] - s->dloss[t]) * expf(s->goal[t] - s->largest[t]);
        if (h->bf16)
            ((uint16_t *)logits)[j * tokens + t] = tr_f32_to_bf16(p);
        else
            ((float *)logits)[j * tokens + t] = p;
    }
}

/* A chunk
 * ------------------------------------------------------------------------------------------- */

static bool counted(const head *h, int32_t target)
{
    return target >= 0 && target < h->v;
}

static void zero(void *data, size_t bytes)
{
    const int64_t step = 1 << 16;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (int64_t)bytes; i += step)
        memset((char *)data + i, 0, (size_t)TR_MIN((int64_t)bytes - i, step));
}

static void copy(void *to, const void *from, size_t bytes)
{
    if (to != from)
        memcpy(to, from, bytes);
}

/* Logits of a chunk, and unless log sum exp is given, its parts by online softmax. */
static void chunk_logits(const head *h, const products *made, const char *x, const char *w,
                            const int32_t *targets, int64_t tokens, space *s)
{
    int64_t bytes = h->bf16 ? 2 : 4;
    for (int64_t t = 0; t < tokens; t++) {
        s->largest[t] = -1e38f;
        s->sum[t] = s->goal[t] = s->total[t] = 0;
    }
    if (tr_matmul_packed_bytes(made[0].logits))
        tr_matmul_pack(made[0].logits, x, s->packed);
    for (int64_t word = 0; word < h->v; word += h->block) {
        int64_t words = TR_MIN(h->v - word, h->block);
        const tr_matmul *product = made[words < h->block].logits;
        char *logits = (char *)s->logits + (h->grad ? word * tokens * bytes : 0);
        tr_matmul_run(product, w + word * h->d * bytes,
                      tr_matmul_packed_bytes(product) ? s->packed : x, NULL, logits, s->product);
        bias_and_total(h, logits, tokens, word, words, s);
        if (!h->given)
            softmax_block(h, logits, tokens, words, s);
        keep_goals(h, targets, logits, tokens, word, words, s);
    }
}

/* The loss of a chunk, after its logits. Leaves log sum exp in s->largest. */
static double chunk_loss(const head *h, const int32_t *targets, int64_t tokens, space *s)
{
    double loss = 0;
    for (int64_t t = 0; t < tokens; t++) {
        double lse = s->largest[t] + log(s->sum[t]);
        if (counted(h, targets[t]))
            loss += lse - (1 - (double)h->smoothing) * (double)s->goal[t] + (double)h->z_loss * lse * lse -
                    (double)h->smoothing * (double)s->total[t] / (double)h->vocab;
        s->largest[t] = (float)lse;
    }
    return loss;
}

static void store_dx(const float *from, uint16_t *to, int64_t count)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i += TR_VL) {
        int n = (int)TR_MIN(count - i, TR_VL);
        vf_store_bf16_n(to + i, vf_load_n(from + i, n), n);
    }
}

/* s->largest holds log sum exp. */
static void set_scale(const head *h, int64_t i, float dloss, space *s)
{
    s->dloss[i] = dloss;
    s->scale[i] = dloss == 0 ? 0 : dloss * (1 + 2 * h->z_loss * s->largest[i]);
}

/* s->largest holds log sum exp, s->dloss the gradient of each token's loss. */
static void chunk_backward(const head *h, const products *made, const char *x, const char *w,
                           const int32_t *targets, int64_t tokens, float *dw, char *dx, float *dbias, space *s)
{
    int64_t bytes = h->bf16 ? 2 : 4;
    float *dx_sum = h->bf16 ? s->dx : (float *)dx;
    zero(dx_sum, sizeof(float) * (size_t)(tokens * h->d));
    for (int64_t word = 0; word < h->v; word += h->block) {
        int64_t words = TR_MIN(h->v - word, h->block);
        const products *p = &made[words < h->block];
        char *logits = (char *)s->logits + word * tokens * bytes;
        gradient_block(h, logits, tokens, words, s);
        subtract_goals(h, targets, logits, tokens, word, words, s);
        if (dbias)
            bias_gradient(h, logits, tokens, words, dbias + word);
        tr_matmul_run(p->dx, logits, w + word * h->d * bytes, NULL, dx_sum, s->product);
        tr_matmul_run(p->dw, logits, x, NULL, dw + word * h->d, s->product);
    }
    if (h->bf16)
        store_dx(s->dx, (uint16_t *)dx, tokens * h->d);
}

/* Output `place`, zeroed, when there is a bias. */
static float *start_dbias(const tr_call *call, const head *h, int place)
{
    if (!h->bias)
        return NULL;
    zero(call->out[place].data, sizeof(float) * (size_t)h->v);
    return call->out[place].data;
}

/* The head with this call's bias. */
static head head_of(const tr_call *call, int bias)
{
    head h = *(const head *)call->state;
    h.bias = tr_has(call, bias) ? call->in[bias].data : NULL;
    return h;
}

/* All tokens of a head, chunk by chunk; the sum of their losses. */
static double run_chunks(const head *h, const char *x, const char *w, const int32_t *targets, float dloss, float *dw, char *dx,
                         float *dbias, void *scratch)
{
    int64_t bytes = h->bf16 ? 2 : 4;
    double loss = 0;
    space s = cut_scratch(h, scratch);
    for (int64_t t = 0; t < h->tokens; t += h->chunk) {
        int64_t tokens = TR_MIN(h->tokens - t, h->chunk);
        const products *made = h->products[tokens < h->chunk];
        const char *x_chunk = x + t * h->d * bytes;
        chunk_logits(h, made, x_chunk, w, targets + t, tokens, &s);
        loss += chunk_loss(h, targets + t, tokens, &s);
        for (int64_t i = 0; i < tokens && h->grad; i++)
            set_scale(h, i, counted(h, targets[t + i]) ? dloss : 0, &s);
        if (h->grad)
            chunk_backward(h, made, x_chunk, w, targets + t, tokens, dw, dx + t * h->d * bytes, dbias, &s);
    }
    return loss;
}

/* The same where few tokens are counted (masked ones): those alone, one behind the other. */
static double run_few(const head *h, const char *x, const char *w, const int32_t *targets, float dloss, float *dw, char *dx,
                      float *dbias, void *scratch)
{
    head few = *h->few;
    size_t row = (size_t)(h->d * (h->bf16 ? 2 : 4)), half = round_up((size_t)few.tokens * row);
    char *x_few = (char *)scratch + round_up(few.scratch_bytes), *dx_few = x_few + half;
    int32_t *targets_few = (int32_t *)(void *)(few.grad ? dx_few + half : dx_few),
            *places = targets_few + round_up(sizeof(int32_t) * (size_t)few.tokens) / sizeof(int32_t);
    int64_t n = 0;
    few.bias = h->bias;
    for (int64_t t = 0; t < h->tokens; t++)
        if (counted(h, targets[t])) {
            memcpy(x_few + (size_t)n * row, x + (size_t)t * row, row);
            targets_few[n] = targets[t];
            places[n++] = (int32_t)t;
        }
    memset(x_few + (size_t)n * row, 0, (size_t)(few.tokens - n) * row);
    for (int64_t t = n; t < few.tokens; t++)
        targets_few[t] = -1;
    double loss = run_chunks(&few, x_few, w, targets_few, dloss, dw, dx_few, dbias, scratch);
    if (!few.grad)
        return loss;
    zero(dx, (size_t)h->tokens * row);
    for (int64_t k = 0; k < n; k++)
        memcpy(dx + (size_t)places[k] * row, dx_few + (size_t)k * row, row);
    return loss;
}

/* dw and dx are NULL when only the loss is wanted. */
static void run_head(const tr_call *call, float dloss, float *dw, char *dx, int dbias_place, float *out_loss,
                     float *out_count)
{
    const head own = head_of(call, 3), *h = &own;
    const char *x = call->in[0].data, *w = call->in[1].data;
    const int32_t *targets = call->in[2].data;
    int64_t count = 0;
    float *dbias = dw ? start_dbias(call, h, dbias_place) : NULL;
    for (int64_t t = 0; t < h->tokens; t++)
        count += counted(h, targets[t]);
    double loss = (h->few && count <= h->few->tokens ? run_few : run_chunks)(h, x, w, targets, dloss, dw, dx, dbias, call->scratch);
    if (out_loss) {
        *out_loss = (float)loss;
        *out_count = (float)count;
    }
}

/* Some of the words: their log sum exp, and the target's logit where it is one of them. */
static void run_part(const tr_call *call, float *lse, float *goal, float *total)
{
    const head own = head_of(call, 3), *h = &own;
    const char *x = call->in[0].data, *w = call->in[1].data;
    const int32_t *targets = call->in[2].data;
    int64_t bytes = h->bf16 ? 2 : 4;
    space s = cut_scratch(h, call->scratch);
    for (int64_t t = 0; t < h->tokens; t += h->chunk) {
        int64_t tokens = TR_MIN(h->tokens - t, h->chunk);
        chunk_logits(h, h->products[tokens < h->chunk], x + t * h->d * bytes, w, targets + t, tokens, &s);
        for (int64_t i = 0; i < tokens; i++)
            lse[t + i] = (float)(s.largest[i] + log(s.sum[i]));
        memcpy(goal + t, s.goal, sizeof(float) * (size_t)tokens);
        if (total)
            memcpy(total + t, s.total, sizeof(float) * (size_t)tokens);
    }
}

/* Their gradient, log sum exp of all words given; infinite for a token that is not counted. */
static void run_part_grad(const tr_call *call, const float *lse, float dloss, float *dw, char *dx)
{
    const head own = head_of(call, 4), *h = &own;
    const char *x = call->in[0].data, *w = call->in[1].data;
    const int32_t *targets = call->in[2].data;
    int64_t bytes = h->bf16 ? 2 : 4;
    space s = cut_scratch(h, call->scratch);
    float *dbias = start_dbias(call, h, 2);
    for (int64_t t = 0; t < h->tokens; t += h->chunk) {
        int64_t tokens = TR_MIN(h->tokens - t, h->chunk);
        const products *made = h->products[tokens < h->chunk];
        const char *x_chunk = x + t * h->d * bytes;
        chunk_logits(h, made, x_chunk, w, targets + t, tokens, &s);
        for (int64_t i = 0; i < tokens; i++) {
            bool is_counted = !isinf(lse[t + i]);
            s.largest[i] = is_counted ? lse[t + i] : 1e30f; /* exp(logit - this) is 0 */
            set_scale(h, i, is_counted ? dloss : 0, &s);
        }
        chunk_backward(h, made, x_chunk, w, targets + t, tokens, dw, dx + t * h->d * bytes, dbias, &s);
    }
}

/* The ops
 * ------------------------------------------------------------------------------------------- */

static bool accepts(const tr_call *call)
{
    const tr_tensor *x = &call->in[0];
    return (x->dtype == TR_F32 || x->dtype == TR_BF16) && call->in[1].dtype == x->dtype &&
           call->in[2].dtype == TR_I32 && tr_tensor_elems(x) > 0 && call->in[1].dims[0] > 0;
}

static tr_error *prepare_loss(tr_call *call)
{
    return prepare_head(call, false, false);
}

static tr_error *prepare_grad(tr_call *call)
{
    return prepare_head(call, true, false);
}

static tr_error *prepare_part_grad(tr_call *call)
{
    return prepare_head(call, true, true);
}

static void release(tr_call *call)
{
    head_free(call->state);
    call->state = NULL;
}

/* dw starts as acc (its own buffer) or as zeros. */
static void start_dw(const tr_call *call, int acc)
{
    size_t bytes = sizeof(float) * (size_t)tr_tensor_elems(&call->out[0]);
    if (tr_has(call, acc))
        copy(call->out[0].data, call->in[acc].data, bytes);
    else
        zero(call->out[0].data, bytes);
}

static void cross_entropy(const tr_call *call)
{
    run_head(call, 1, NULL, NULL, 0, call->out[0].data, call->out[1].data);
}

static void cross_entropy_grad(const tr_call *call)
{
    start_dw(call, 5);
    run_head(call, *(const float *)call->in[4].data, call->out[0].data, call->out[1].data, 2, NULL, NULL);
}

static void cross_entropy_train(const tr_call *call)
{
    start_dw(call, 5);
    run_head(call, tr_has(call, 4) ? *(const float *)call->in[4].data : 1, call->out[0].data, call->out[1].data, 4, call->out[2].data, call->out[3].data);
}

static void cross_entropy_part(const tr_call *call)
{
    run_part(call, call->out[0].data, call->out[1].data, call->n_out > 2 ? call->out[2].data : NULL);
}

static void cross_entropy_part_grad(const tr_call *call)
{
    start_dw(call, 6);
    run_part_grad(call, call->in[3].data, *(const float *)call->in[5].data, call->out[0].data, call->out[1].data);
}

const tr_kernel TR_KERNELS(cross_entropy)[] = {
    {TR_OP_cross_entropy, TR_ISA_NAME, accepts, prepare_loss, cross_entropy, release},
    {TR_OP_cross_entropy_grad, TR_ISA_NAME, accepts, prepare_grad, cross_entropy_grad, release},
    {TR_OP_cross_entropy_train, TR_ISA_NAME, accepts, prepare_grad, cross_entropy_train, release},
    {TR_OP_cross_entropy_part, TR_ISA_NAME, accepts, prepare_loss, cross_entropy_part, release},
    {TR_OP_cross_entropy_part_grad, TR_ISA_NAME, accepts, prepare_part_grad, cross_entropy_part_grad, release},
    {0},
};
