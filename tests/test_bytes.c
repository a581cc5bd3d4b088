/* Bytes sent equal the formulas: one step of a small GPT on each technique's mesh, as the transport counts them on
 * every rank, against the closed forms of docs/parallel.md. The forms are written down here from the sizes alone;
 * nothing in this file asks the compiler what it has planned.
 *
 * All sizes are multiples of eight and every mesh has 2, 4 or 8 ranks on an axis, so that the forms are exact, but for
 * test_uneven, where parts differ by at most one element for each collective.
 */
#include "check.h"
#include "train/parallel.h"
#include "train/trainer.h"

enum { L = 4, D = 32, H = 4, M = 128, V = 288, C = 16, T = 16, B = 8, N = B * T, A = N * D };
enum {
    W = 4 * D * D + 2 * D * M,          /* matrices of a layer */
    MATRICES = V * D + L * W,           /* what the backward reads */
    P = MATRICES + C * D + L * (9 * D + M) + 2 * D, /* all parameters */
    MOST_RANKS = 8, MOST_WORDS = 24
};

static const char *const base[] = {"model.layers=4", "model.embed=32", "model.heads=4", "model.context=16", "model.vocab=288",
                                   "model.dropout=0.1", "data.train=docs/formats.md", "data.tokenizer=bytes", "train.steps=2",
                                   "train.batch=8", "train.seq=16", "train.eval_every=0", "train.save_every=0", "threads=1",
                                   "out=/tmp/trireme-bytes"};

typedef struct run {
    const tr_config *config;
    tr_model model;
    int64_t sent[MOST_RANKS];
} run;

static tr_error *run_rank(tr_ranks *ranks, void *user)
{
    run *r = user;
    char *warning = NULL;
    tr_trainer *t = NULL;
    tr_step s;
    tr_error *error = NULL;
    TR_GO(tr_trainer_new(r->config, &(tr_trainer_options){.model = r->model, .ranks = ranks}, &warning, &t));
    TR_GO(tr_trainer_step(t, &s));
    int64_t before = tr_comm_bytes_sent_all(ranks->comm);
    TR_GO(tr_trainer_step(t, &s));
    r->sent[ranks->rank] = tr_comm_bytes_sent_all(ranks->comm) - before;
done:
    free(warning);
    tr_trainer_free(t);
    return error;
}

/* What each rank sends in the second step of the mesh that `words` say; the ranks. */
static int sent_by(const char *words, int64_t *out)
{
    char *list[MOST_WORDS], *copy = strdup(words), *rest = copy;
    int count = 0;
    run r = {0};
    tr_config *config = NULL;
    for (int i = 0; i < TR_COUNT(base); i++)
        list[count++] = (char *)(uintptr_t)base[i];
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        list[count++] = word;
    CHECK_OK(tr_config_load(NULL, list, count, &config));
    r.config = config;
    CHECK_OK(tr_config_model(config, &r.model));
    CHECK_OK(tr_config_run_ranks(config, run_rank, &r, NULL));
    int ranks = (int)tr_config_ranks(config);
    memcpy(out, r.sent, sizeof r.sent);
    tr_config_free(config);
    free(copy);
    return ranks;
}

/* Elements of an axis of n ranks: `moved` once (gathers, scatters, exchanges), `reduced` twice, and numbers of one
 * element, which the axis's first rank adds up for the others. */
static int64_t axis(int n, int at, double moved, double reduced, int single)
{
    return (int64_t)((moved + 2 * reduced) * (n - 1) / n + 0.5) + (int64_t)single * (at ? 1 : n - 1);
}

static void expect(const char *words, int64_t (*form)(int rank))
{
    int64_t sent[MOST_RANKS];
    int ranks = sent_by(words, sent);
    for (int r = 0; r < ranks; r++)
        if (sent[r] != 4 * form(r))
            FAIL("%s: rank %d sends %lld bytes, the form says %lld", words, r, (long long)sent[r], 4 * (long long)form(r));
}

static int n; /* ranks of the axis in question */

/* Data parallel and ZeRO: the gradients; the loss, its count, and the squares of the norm where gradients are cut. */
static int64_t data_parallel(int r)
{
    return axis(n, r, 0, P, 2);
}
static int64_t zero_12(int r)
{
    return axis(n, r, 2 * P, 0, 3);
}
static int64_t zero_2_accumulated(int r)
{
    return axis(n, r, 3 * P, 0, 3); /* two microbatches are scattered */
}
static int64_t zero_3(int r)
{
    return axis(n, r, 2 * P + MATRICES + L * 2 * D + D, 0, 3); /* the backward reads the norms' weights too */
}

static void test_data(void)
{
    char words[96];
    for (n = 2; n <= 8; n *= 2) {
        snprintf(words, sizeof words, "mesh.data=%d", n);
        expect(words, data_parallel);
        snprintf(words, sizeof words, "mesh.data=%d zero=1", n);
        expect(words, zero_12);
        snprintf(words, sizeof words, "mesh.data=%d zero=2", n);
        expect(words, zero_12);
        snprintf(words, sizeof words, "mesh.data=%d zero=3", n);
        expect(words, zero_3);
    }
    n = 2;
    expect("mesh.data=2 train.micro_batch=4", data_parallel);
    expect("mesh.data=2 zero=1 train.micro_batch=4", zero_12);
    expect("mesh.data=2 zero=2 train.micro_batch=4", zero_2_accumulated);
}

/* Three and five ranks: parts of a tensor differ by one element at most, in each of its collectives. */
static void test_uneven(void)
{
    const int tensors = 4 + 12 * L;
    int64_t sent[MOST_RANKS];
    char words[96];
    for (int ranks = 3; ranks <= 5; ranks += 2)
        for (int zero = 0; zero <= 1; zero++) {
            snprintf(words, sizeof words, "mesh.data=%d zero=%d train.batch=15", ranks, zero);
            sent_by(words, sent);
            double form = 4 * 2.0 * P * (ranks - 1) / ranks, bound = 4.0 * (2 * tensors + 3) * ranks;
            for (int r = 0; r < ranks; r++)
                CHECK_NEAR((double)sent[r], form, bound);
        }
}

/* Megatron's tensor parallelism: two sums a layer and direction, one after the embedding, one of the hidden states'
 * gradient; three numbers a token for the loss. */
static int64_t tensor(int r)
{
    return axis(n, r, 0, (4 * L + 2) * A + 3 * N, 1);
}
/* Each sum as a scatter and a gather; the backward gathers what the forward gathered; vectors see a part of the tokens. */
static int64_t megatron(int r)
{
    return axis(n, r, (10 * L + 5) * A, 3 * N + L * 6 * D + 2 * D + C * D, 1);
}

static void test_tensor(void)
{
    for (n = 2; n <= 4; n += 2) {
        expect(n == 2 ? "mesh.tensor=2" : "mesh.tensor=4", tensor);
        expect(n == 2 ? "mesh.tensor=2 mesh.sequence_kind=megatron" : "mesh.tensor=4 mesh.sequence_kind=megatron", megatron);
    }
}

/* Ulysses: qkv and back in the forward; the gradient, qkv again and its gradient in the backward. Gradients as in data
 * parallel. */
static int64_t ulysses(int r)
{
    return axis(n, r, L * 11 * A / n, P, 2);
}

static void test_ulysses(void)
{
    n = 2;
    expect("mesh.sequence=2", ulysses);
    n = 4;
    expect("mesh.sequence=4", ulysses);
}

/* Ring attention: keys and values go to the next rank n - 1 times in the forward and in the backward, and their
 * gradients as often. */
static int64_t ring(int r)
{
    return axis(n, r, L * 6 * A, P, 2);
}

/* The same with tensor ranks, which have a part of the heads each; and Ulysses with them. */
static int64_t sequence_and_tensor(int r, double exchanged)
{
    const double block = (double)MATRICES / 2 + C * D + L * ((3.0 * D + M) / 2 + 6 * D) + 2 * D;
    return axis(2, r % 2, 0, ((4 * L + 2) * A + 3 * N) / 2, 1) + axis(2, r / 2, L * exchanged, block, 2);
}
static int64_t ring_and_tensor(int r)
{
    return sequence_and_tensor(r, 6.0 * A / 2);
}
static int64_t ulysses_and_tensor(int r)
{
    return sequence_and_tensor(r, 11.0 * A / 4);
}

static void test_ring(void)
{
    for (n = 2; n <= 8; n *= 2) {
        char words[64];
        snprintf(words, sizeof words, "mesh.sequence=%d mesh.sequence_kind=ring", n);
        expect(words, ring);
    }
    expect("mesh.sequence=2 mesh.sequence_kind=ring mesh.tensor=2", ring_and_tensor);
    expect("mesh.sequence=2 mesh.sequence_kind=ulysses mesh.tensor=2", ulysses_and_tensor);
}

/* Squares, in `depth` layers: rows share the batch and store the weights' other part, columns share the features. */
static int depth;
static int64_t square(int r)
{
    int q = n, at_depth = r / (q * q), row = r / q % q, column = r % q;
    double tokens = (double)N / (q * depth), a = tokens * D;
    int64_t sum = axis(q, column, (10 * L + 5) * a, 3 * tokens + L * 6 * D + 2 * D + C * D / q, 2);
    sum += axis(q, row, 3 * (L * W + V * D) / q + 2 * C * D, L * (6 * D + (3 * D + M) / q) + 2 * D, 4);
    if (depth > 1)
        sum += axis(depth, at_depth, 0,
                    L * ((double)W / (q * q) + 6 * D + (3 * D + M) / q) + 2 * D + C * D / q + (double)V * D / (q * q), 2);
    return sum;
}

/* A cube of side q: every operand of a product is cut over two axes and gathered over, or summed into, the third. */
static int64_t cube(int r)
{
    const int q = n, at_depth = r / (q * q), row = r / q % q, column = r % q, m = M / D;
    double rest = (double)A / (q * q * q), face = (double)A / (q * q);
    int64_t sum = axis(q, column,
                       (10 * L + 4) * rest + L * (9 + 5 * m) * face + L * 12 * D + 5 * D + 3.0 * V * D / q + 3.0 * N / q +
                           (double)N / (q * q),
                       L * ((double)M / q + 3.0 * D / (q * q)), 5);
    sum += axis(q, at_depth, (10 * L + 5) * face,
                3.0 * N / (q * q) + (L * 6.0 + 2) * D / q + (double)C * D / (q * q), 3);
    return sum + axis(q, row, (3.0 * L * W + 4.0 * V * D) / (q * q) + 2.0 * C * D / q + L * 6.0 * D / q,
                      L * (6.0 * D + M) / q + 2.0 * D / q, 5);
}

static void test_grids(void)
{
    n = 2;
    depth = 1;
    expect("mesh.tensor=4 mesh.tensor_kind=2d", square);
    depth = 2;
    expect("mesh.tensor=8 mesh.tensor_kind=2.5d", square);
    expect("mesh.tensor=8 mesh.tensor_kind=3d", cube);
}

/* Pipelines: every microbatch's activations to the next stage and their gradient back; once a step the two gradients
 * of the tied table, and three numbers over all stages. */
static int chunks, micro_batches;
static int64_t pipeline(int r)
{
    int stages = n * chunks;
    int64_t sum = axis(n, r, 0, 0, 3), message = A / micro_batches;
    for (int s = r; s < stages; s += n)
        sum += micro_batches * message * ((s + 1 < stages) + (s > 0));
    return sum + (r == 0 || r == n - 1 ? axis(2, 0, 0, V * D, 0) : 0);
}

static void test_pipeline(void)
{
    static const char *const plain[] = {"gpipe", "1f1b", "zero_bubble"};
    char words[128];
    chunks = 1;
    for (n = 2; n <= 4; n += 2)
        for (micro_batches = 4; micro_batches <= 8; micro_batches += 4)
            for (int k = 0; k < TR_COUNT(plain); k++) {
                snprintf(words, sizeof words, "mesh.pipeline=%d train.micro_batch=%d pipeline.schedule=%s", n, B / micro_batches,
                         plain[k]);
                expect(words, pipeline);
            }
    n = 2;
    chunks = 2;
    micro_batches = 4;
    expect("mesh.pipeline=2 train.micro_batch=2 pipeline.schedule=interleaved pipeline.chunks=2", pipeline);
}

/* Techniques add up: each axis's form with the sizes that the other has left. */
static int64_t data_and_tensor(int r)
{
    const double block = (double)MATRICES / 2 + C * D + L * ((3.0 * D + M) / 2 + 6 * D) + 2 * D;
    return axis(2, r / 2, 0, block, 2) + axis(2, r % 2, 0, ((4 * L + 2) * A + 3 * N) / 2, 1);
}
static int64_t zero_1_and_tensor(int r)
{
    const double block = (double)MATRICES / 2 + C * D + L * ((3.0 * D + M) / 2 + 6 * D) + 2 * D;
    return axis(2, r / 2, 2 * block, 0, 4) + axis(2, r % 2, 0, ((4 * L + 2) * A + 3 * N) / 2, 1);
}

static void test_together(void)
{
    expect("mesh.data=2 mesh.tensor=2", data_and_tensor);
    expect("mesh.data=2 mesh.tensor=2 zero=1", zero_1_and_tensor);
}

int main(void)
{
    TEST(test_data);
    TEST(test_uneven);
    TEST(test_tensor);
    TEST(test_ulysses);
    TEST(test_ring);
    TEST(test_grids);
    TEST(test_pipeline);
    TEST(test_together);
    return check_report();
}
