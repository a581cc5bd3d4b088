/* Ring attention: how a sequence is dealt, and models that GPT-2 is not, on rings and on one rank. Meshes of GPT-2 are in
 * test_parity.sh, bytes in test_bytes.c, the ops in test_ops.c.
 */
#include "check.h"
#include "ir/part.h"
#include "ir/text.h"
#include "train/parallel.h"
#include "train/trainer.h"

/* Every element has one part, parts are as large as of a plain cut, and places within a part ascend. */
static void test_dealing(void)
{
    for (int64_t size = 1; size <= 40; size++)
        for (int parts = 1; parts <= size && parts <= 9; parts++) {
            bool taken[40] = {false};
            for (int p = 0; p < parts; p++) {
                int64_t first, count, before = -1;
                tr_part(size, parts, p, 1, &first, &count);
                tr_dealt d = tr_part_dealt(size, parts, p, 1);
                CHECK_INT(d.count, count);
                for (int64_t x = 0; x < d.count; x++) {
                    int64_t place = tr_dealt_place(&d, x);
                    CHECK(place > before && place < size && !taken[place]);
                    CHECK_INT(tr_dealt_before(&d, place), x);
                    CHECK_INT(tr_dealt_before(&d, place + 1), x + 1);
                    taken[before = place] = true;
                }
            }
        }
}

/* Under a causal mask a rank sees as many pairs of each part of keys but its own, whichever rank it is. */
static void test_balance(void)
{
    enum { SIZE = 96, PARTS = 4, EACH = SIZE / PARTS };
    for (int rank = 0; rank < PARTS; rank++)
        for (int owner = 0; owner < PARTS; owner++) {
            tr_dealt q = tr_part_dealt(SIZE, PARTS, rank, 1), k = tr_part_dealt(SIZE, PARTS, owner, 1);
            int64_t seen = 0;
            for (int64_t x = 0; x < q.count; x++)
                seen += tr_dealt_seen(&q, &k, true, 0, x).count;
            CHECK_INT(seen, rank == owner ? EACH * (EACH + 1) / 2 : EACH * EACH / 2);
        }
}

/* Models ------------------------------------------------------------------------------------------ */

static tr_value heads_of(tr_graph *g, tr_value x, const char *name, int embed, int heads, int size)
{
    return tr_linear(g, x, tr_param(g, tr_normal(0.3), name, "embed=%d heads=%d head_dim=%d", embed, heads, size), 0);
}

static tr_value attend(tr_graph *g, tr_value x, tr_value memory, const tr_sizes *s, int groups, const tr_attend_options *how)
{
    int D = (int)s->embed, H = (int)s->heads, E = D / H;
    tr_value y = tr_attend(g, heads_of(g, x, "q", D, H, E), heads_of(g, memory, "k", D, groups, E),
                           heads_of(g, memory, "v", D, groups, E), how);
    y = tr_reshape(g, y, "batch=%d seq=%d heads=%d", (int)s->batch, (int)tr_size(g, x, 1), D);
    return tr_linear(g, y, tr_param(g, tr_normal(0.3), "out", "heads=%d*%d embed=%d", H, E, D), 0);
}

static bool drops_along; /* the model draws random numbers along sequences */

/* Mixes all tokens of a sequence: everything is gathered, normed, and cut again. */
static tr_value mix(tr_graph *g, tr_value x, const tr_sizes *s)
{
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed, A = T * D;
    tr_value y = tr_reshape(g, x, "batch=%d all=%d", B, A);
    y = tr_dropout(g, y, drops_along ? 0.5 : 0);
    y = tr_layer_norm(g, y, tr_param(g, tr_ones(), "mix.weight", "all=%d", A), tr_param(g, tr_zeros(), "mix.bias", "all=%d", A),
                      1e-5);
    y = tr_linear(g, y, tr_param(g, tr_normal(0.1), "mix", "all=%d other=%d", A, A), 0);
    return tr_add(g, x, tr_reshape(g, y, "batch=%d seq=%d embed=%d", B, T, D));
}

/* Grouped heads, causal and dense and in a window, keys of another sequence, with dropout everywhere. */
static void model(tr_graph *g, const tr_sizes *s, void *user)
{
    static const tr_attend_options ways[] = {{.causal = true, .p = 0.2}, {.p = 0.2}, {.causal = true, .window = 4, .p = 0.2}};
    int B = (int)s->batch, T = (int)s->seq, D = (int)s->embed;
    (void)user;
    tr_value words = tr_param(g, tr_normal(0.5), "words", "vocab=%d embed=%d", (int)s->vocab, D);
    tr_value x = tr_embedding(g, words, tr_input(g, "ids", "batch=%d seq=%d", B, T));
    x = tr_add(g, x, tr_param(g, tr_normal(0.5), "places", "seq=%d embed=%d", T, D));
    for (int i = 0; i < TR_COUNT(ways); i++) {
        tr_layer_begin(g, i, "layer.%d.", i);
        x = tr_add(g, x, tr_dropout(g, attend(g, x, x, s, 2, &ways[i]), 0.1));
        tr_layer_end(g);
    }
    tr_head_add(g, (tr_head){.hidden = mix(g, x, s), .table = words});
}

enum { STEPS = 4, MOST_WORDS = 40 };
typedef struct run {
    const tr_config *config;
    double losses[STEPS];
    tr_text dump; /* the graph of rank 0 after sharding */
} run;

static tr_error *run_rank(tr_ranks *ranks, void *user)
{
    run *r = user;
    char *warning = NULL;
    tr_trainer *t = NULL;
    tr_step s;
    tr_error *error = NULL;
    bool first = !ranks || ranks->rank == 0;
    const tr_trainer_options options = {.model = model, .ranks = ranks, .dump_after = first ? "shard" : NULL, .dump = &r->dump};
    TR_GO(tr_trainer_new(r->config, &options, &warning, &t));
    for (int i = 0; i < STEPS; i++) {
        TR_GO(tr_trainer_step(t, &s));
        if (tr_trainer_leads(t))
            r->losses[i] = s.loss;
    }
done:
    free(warning);
    tr_trainer_free(t);
    return error;
}

/* What a ring's graph has, and that its text is all of it. */
static void check_text(const char *text)
{
    static const char *const has[] = {"|", "ring_shift", "attention_part", "attention_part_grad", "deal(", " back=1"};
    tr_graph *g = NULL;
    tr_text again = {0};
    for (int i = 0; i < TR_COUNT(has); i++)
        if (!strstr(text, has[i]))
            FAIL("the graph of a ring has no %s", has[i]);
    CHECK_OK(tr_graph_parse(text, &g));
    if (g) {
        tr_graph_print(g, &again);
        CHECK_STRING(again.bytes, text);
    }
    tr_text_free(&again);
    tr_graph_free(g);
}

static tr_error *losses_of(const char *words, double *losses)
{
    char *list[MOST_WORDS] = {"model.layers=3", "model.embed=16", "model.heads=4", "model.context=32", "model.vocab=257",
                              "data.train=docs/formats.md", "data.tokenizer=bytes", "train.steps=4", "train.batch=4",
                              "train.seq=13", "optimizer.lr=1e-2", "train.eval_every=0", "train.save_every=0", "threads=1",
                              "out=/tmp/trireme-ring"};
    char *copy = strdup(words), *rest = copy;
    int count = 0;
    run r = {0};
    tr_config *config = NULL;
    while (list[count])
        count++;
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        list[count++] = word;
    tr_error *error = tr_config_load(NULL, list, count, &config);
    r.config = config;
    if (!error)
        error = tr_config_run_ranks(config, run_rank, &r, NULL);
    memcpy(losses, r.losses, sizeof r.losses);
    if (config && config->mesh.sequence > 1 && r.dump.bytes)
        check_text(r.dump.bytes);
    tr_text_free(&r.dump);
    tr_config_free(config);
    free(copy);
    return error;
}

static void test_models_on_rings(void)
{
    static const char *const meshes[] = {"mesh.sequence=2", "mesh.sequence=3", "mesh.sequence=5", "mesh.sequence=2 mesh.tensor=2",
                                         "mesh.sequence=2 mesh.data=2 zero=3", "mesh.sequence=3 train.recompute=full",
                                         "mesh.sequence=3 train.micro_batch=2"};
    double one[STEPS], ring[STEPS];
    char words[128];
    CHECK_OK(losses_of("", one));
    CHECK(one[0] > 1 && one[STEPS - 1] < one[0]);
    for (int i = 0; i < TR_COUNT(meshes); i++) {
        snprintf(words, sizeof words, "%s mesh.sequence_kind=ring", meshes[i]);
        CHECK_OK(losses_of(words, ring));
        for (int k = 0; k < STEPS; k++)
            if (!(fabs(ring[k] / one[k] - 1) < 1e-5))
                FAIL("%s: the loss of step %d is %.9g, on one rank %.9g", words, k + 1, ring[k], one[k]);
    }
}

static void test_refusals(void)
{
    double losses[STEPS];
    drops_along = true;
    CHECK_ERROR(losses_of("mesh.sequence=2 mesh.sequence_kind=ring", losses), "op dropout draws along the sequence");
    drops_along = false;
}

int main(void)
{
    TEST(test_dealing);
    TEST(test_balance);
    TEST(test_models_on_rings);
    TEST(test_refusals);
    return check_report();
}
