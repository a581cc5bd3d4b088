/* BERT's objective (Devlin et al. 2019, section 3.1): masked tokens, and whether the second text follows the first.
 *
 *   ids       [CLS] a... [SEP] b... [SEP]
 *   segments     0  0       0  1       1       mask: 1 everywhere      positions 0, 1, ...
 *   targets   at each chosen token what stood there, else -1
 *   labels    0: b follows a in the data; 1: it is from elsewhere
 *
 * Of a and b together, 15 % of the tokens are chosen, each by itself; 80 % of those become [MASK], 10 % another token of
 * the vocabulary, 10 % stay. a and b are two parts of a window of the text, of a length that the sample decides; in half of the
 * samples b is taken from the same place of another window. Tokens that the tokenizer calls special (ends of documents) are
 * never chosen.
 *
 * All is a function of (seed, index): the same words of tr_random in every epoch's own samples, none carried over.
 */
#include "base/memory.h"
#include "base/random.h"
#include "data/objective.h"

enum { AROUND = 3, LEAST = 8 }; /* [CLS], [SEP], [SEP]; tokens of a sequence */
/* Streams of random numbers of one sample; validation has others, so that its masks are its own. */
enum { STREAM_SAMPLE = 0x4d41534b, STREAM_TOKENS, STREAM_VALIDATION = 0x10 };
static const float CHOSEN = 0.15f, AS_MASK = 0.8f, AS_OTHER = 0.9f;

typedef struct masked {
    tr_loader *loader;
    const tr_tokenizer *tokenizer;
    int64_t window, vocab; /* tokens of a and b together; of the model */
    uint64_t seed;
    int32_t cls, sep, mask;
} masked;

static void close(void *own)
{
    masked *m = own;
    if (m)
        tr_loader_free(m->loader);
    free(m);
}

static tr_error *open(const tr_objective_options *options, void **out)
{
    const tr_tokenizer *t = options->tokenizer;
    masked *m = tr_alloc_zero(1, sizeof *m);
    tr_error *error = NULL;
    *m = (masked){.tokenizer = t, .window = options->seq - AROUND, .vocab = options->vocab, .seed = options->seed,
                  .cls = t ? tr_tokenizer_special(t, TR_SPECIAL_CLS) : -1,
                  .sep = t ? tr_tokenizer_special(t, TR_SPECIAL_SEP) : -1,
                  .mask = t ? tr_tokenizer_special(t, TR_SPECIAL_MASK) : -1};
    if (m->cls < 0 || m->sep < 0 || m->mask < 0)
        TR_GO(tr_error_new(TR_USER, "data.objective masked needs a tokenizer with the tokens [CLS], [SEP] and [MASK]; make one "
                                    "by `trireme tokenizer train --kind wordpiece`, or take BERT's vocab.txt"));
    if (options->seq < LEAST)
        TR_GO(tr_error_new(TR_USER, "data.objective masked needs sequences of %d tokens at least, and they have %lld; make "
                                    "train.seq longer", LEAST, (long long)options->seq));
    TR_GO(tr_objective_loader(options, m->window, &m->loader));
    *out = m;
    m = NULL;
done:
    close(m);
    return error;
}

static tr_error *window_at(const masked *m, bool validation, int64_t index, int32_t *out)
{
    int32_t *next = tr_alloc((size_t)m->window * sizeof *next); /* the loader's targets, not wanted */
    tr_error *error = (validation ? tr_loader_val_sample : tr_loader_sample)(m->loader, index, out, next);
    free(next);
    return error;
}

/* The second text from another window: any of the validation's, or one of the samples nearby. */
static int64_t elsewhere(const masked *m, bool validation, int64_t index, uint32_t word)
{
    enum { NEARBY = 1 << 16 };
    int64_t count = validation ? tr_loader_val_count(m->loader) : NEARBY;
    int64_t step = count > 1 ? 1 + (int64_t)(word % (uint32_t)(TR_MIN(count, NEARBY) - 1)) : 0;
    return validation ? (index + step) % count : index + step;
}

/* What the model sees in the place of `id`, and what it should say. */
static int32_t hide(const masked *m, tr_random4 r, int32_t id, int32_t *target)
{
    *target = -1;
    if (tr_random_unit(r.word[0]) >= CHOSEN || tr_tokenizer_is_special(m->tokenizer, id))
        return id;
    *target = id;
    float how = tr_random_unit(r.word[1]);
    return how < AS_MASK ? m->mask : how < AS_OTHER ? (int32_t)(r.word[2] % (uint32_t)m->vocab) : id;
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    const masked *m = own;
    uint32_t stream = validation ? STREAM_VALIDATION : 0;
    tr_random4 how = tr_random(m->seed, 0, STREAM_SAMPLE + stream, (uint64_t)index);
    int64_t n = m->window, first = n / 4 + (int64_t)(how.word[0] % (uint32_t)(n / 2 + 1)); /* a has a quarter at least */
    bool follows = how.word[1] & 1;
    int32_t *text = tr_alloc((size_t)n * sizeof *text), *other = tr_alloc((size_t)n * sizeof *other);
    tr_error *error = NULL;
    tr_field *ids = tr_field_find(fields, count, "ids"), *targets = tr_field_find(fields, count, "targets"),
             *segments = tr_field_find(fields, count, "segments"), *mask = tr_field_find(fields, count, "mask"),
             *positions = tr_field_find(fields, count, "positions"), *labels = tr_field_find(fields, count, "labels");
    TR_GO(window_at(m, validation, index, text));
    if (!follows) {
        TR_GO(window_at(m, validation, elsewhere(m, validation, index, how.word[2]), other));
        memcpy(text + first, other + first, (size_t)(n - first) * sizeof *text);
    }
    for (int64_t i = 0; i < n + AROUND; i++) {
        bool second = i > first + 1;
        int64_t at = i - 1 - second; /* in the text */
        int32_t id = i == 0 ? m->cls : m->sep, target = -1;
        if (i != 0 && i != first + 1 && i != n + 2)
            id = hide(m, tr_random(m->seed, (uint32_t)at, STREAM_TOKENS + stream, (uint64_t)index), text[at], &target);
        if (ids)
            ids->ints[i] = id;
        if (targets)
            targets->ints[i] = target;
        if (segments)
            segments->ints[i] = second;
        if (mask)
            mask->ints[i] = 1;
        if (positions)
            positions->ints[i] = (int32_t)i;
    }
    if (labels)
        labels->ints[0] = !follows;
done:
    free(text);
    free(other);
    return error;
}

static const tr_loader *loader(const void *own)
{
    return ((const masked *)own)->loader;
}

const tr_objective_row tr_objective_masked = {
    .name = "masked",
    .help = "masked tokens, and whether a second text follows (BERT)",
    .inputs = "ids positions segments mask targets labels",
    .counted = 0.15,
    .open = open,
    .free = close,
    .sample = sample,
    .loader = loader,
};
