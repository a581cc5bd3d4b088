/* Span corruption (Raffel et al. 2020, "T5", section 3.1.4): of a window of tokens 15 % are taken out in spans of 3
 * on average; each span becomes one sentinel in the input, and the target is the sentinels with what they stand for.
 *
 *   ids [seq]: tokens, sentinels for spans, the end token            mask [seq]: 1 where there is a token
 *   targets [decoder_seq]: sentinel, its span, ..., end token; -1 behind       decoder_ids: the same, one later
 *
 * The number of tokens that go and of spans are functions of the window's length, so the longest window whose input
 * fits in `seq` makes inputs of exactly that length, and targets of one length. Where the spans lie is drawn from
 * (seed, i): as in T5, the window is cut into spans' many kept pieces and as many lost ones, of random lengths.
 */
#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "data/objective.h"

static const double DENSITY = 0.15, MEAN_SPAN = 3;
enum { KEPT_STREAM = 0x5350414E, LOST_STREAM = 0x5350414F, VALIDATION = 1 };

typedef struct span_objective {
    tr_loader *loader;
    int64_t raw, seq, decoder_seq;
    uint64_t seed;
    int32_t end, pad;
    int32_t *sentinels;
} span_objective;

typedef struct lengths {
    int64_t lost, spans, input, target; /* of a window; input and target with their end tokens */
} lengths;

static lengths lengths_of(int64_t raw)
{
    int64_t lost = (int64_t)rint((double)raw * DENSITY);
    lost = TR_MIN(TR_MAX(lost, 1), TR_MAX(raw - 1, 0));
    int64_t spans = TR_MAX((int64_t)rint((double)lost / MEAN_SPAN), lost > 0);
    spans = TR_MIN(spans, raw - lost);
    return (lengths){lost, spans, raw - lost + spans + 1, lost + spans + 1};
}

static void close(void *own)
{
    span_objective *o = own;
    tr_loader_free(o->loader);
    free(o->sentinels);
    free(o);
}

static tr_error *find_sentinels(span_objective *o, const tr_tokenizer *t, int64_t wanted)
{
    o->sentinels = tr_alloc_zero((size_t)wanted, sizeof *o->sentinels);
    for (int64_t i = 0; i < wanted; i++) {
        char *name = tr_format("<extra_id_%lld>", (long long)i);
        o->sentinels[i] = tr_tokenizer_find(t, name);
        free(name);
        if (o->sentinels[i] < 0)
            return tr_error_new(
                TR_USER,
                "span corruption of inputs of %lld tokens needs %lld sentinels <extra_id_0>, ...; the tokenizer "
                "has %lld: take T5's, or learn one (trireme tokenizer train --kind unigram --sentinels %lld)",
                (long long)o->seq, (long long)wanted, (long long)i, (long long)wanted);
    }
    return NULL;
}

static tr_error *open(const tr_objective_options *options, void **out)
{
    const tr_tokenizer *t = options->tokenizer;
    *out = NULL;
    if (!t || tr_tokenizer_end_of_text(t) < 0)
        return tr_error_new(TR_USER, "span corruption needs a tokenizer with an end token, such as </s>");
    int64_t raw = 1;
    while (lengths_of(raw + 1).input <= options->seq)
        raw++;
    lengths of = lengths_of(raw);
    if (raw < 2)
        return tr_error_new(TR_USER, "span corruption needs train.seq of at least 3, not %lld",
                            (long long)options->seq);
    if (of.target > options->decoder_seq)
        return tr_error_new(
            TR_USER,
            "span corruption of inputs of %lld tokens makes targets of %lld, and train.decoder_seq is %lld: set "
            "train.decoder_seq=%lld",
            (long long)options->seq, (long long)of.target, (long long)options->decoder_seq, (long long)of.target);
    span_objective *o = tr_alloc_zero(1, sizeof *o);
    *o = (span_objective){.raw = raw,
                          .seq = options->seq,
                          .decoder_seq = options->decoder_seq,
                          .seed = options->seed,
                          .end = tr_tokenizer_end_of_text(t),
                          .pad = tr_tokenizer_special(t, TR_SPECIAL_PAD)};
    o->pad = o->pad >= 0 ? o->pad : o->end;
    tr_error *error = find_sentinels(o, t, of.spans);
    if (!error)
        error = tr_objective_loader(options, raw, &o->loader);
    if (error) {
        close(o);
        return error;
    }
    *out = o;
    return NULL;
}

/* Cuts `items` into `parts` of at least 1 at random, all ways alike: sizes into out. */
static void cut(uint64_t seed, uint32_t stream, int64_t index, int64_t items, int64_t parts, int64_t *out)
{
    int64_t part = 0, size = 1, wanted = parts - 1, left = items - 1;
    for (int64_t i = 0; i < items - 1; i++, left--) {
        uint32_t word = tr_random(seed, (uint32_t)i, stream, (uint64_t)index).word[0];
        if ((double)word * 0x1p-32 * (double)left < (double)wanted) {
            out[part++] = size;
            size = 0;
            wanted--;
        }
        size++;
    }
    out[part] = size;
}

typedef struct writer {
    int32_t *to; /* NULL: nobody asked */
    int64_t at, room;
} writer;

static void put(writer *w, int32_t id)
{
    if (w->to && w->at < w->room)
        w->to[w->at] = id;
    w->at++;
}

static void fill(const span_objective *o, const int32_t *window, int64_t raw, bool validation, int64_t index,
                 writer *input, writer *target)
{
    lengths of = lengths_of(raw);
    int64_t *kept = tr_alloc_zero((size_t)(2 * of.spans + 2), sizeof *kept), *lost = kept + of.spans + 1;
    if (of.spans) {
        cut(o->seed, KEPT_STREAM + 2 * validation, index, raw - of.lost, of.spans, kept);
        cut(o->seed, LOST_STREAM + 2 * validation, index, of.lost, of.spans, lost);
    } else {
        kept[0] = raw;
    }
    for (int64_t s = 0; s < TR_MAX(of.spans, 1); s++) {
        for (int64_t i = 0; i < kept[s]; i++)
            put(input, *window++);
        if (!of.spans)
            break;
        put(input, o->sentinels[s]);
        put(target, o->sentinels[s]);
        for (int64_t i = 0; i < lost[s]; i++)
            put(target, *window++);
    }
    put(input, o->end);
    put(target, o->end);
    free(kept);
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    const span_objective *o = own;
    tr_field *ids = tr_field_find(fields, count, "ids"), *mask = tr_field_find(fields, count, "mask");
    tr_field *decoder = tr_field_find(fields, count, "decoder_ids"),
             *targets = tr_field_find(fields, count, "targets");
    int32_t *window = tr_alloc_zero((size_t)(2 * o->raw), sizeof *window), *next = window + o->raw;
    int32_t *answer = tr_alloc_zero((size_t)o->decoder_seq + 1, sizeof *answer);
    tr_error *error = (validation ? tr_loader_val_sample : tr_loader_sample)(o->loader, index, window, next);
    int64_t raw = o->raw;
    while (raw > 1 && next[raw - 1] < 0) /* the last window of a validation text is shorter */
        raw--;
    writer input = {ids ? ids->ints : NULL, 0, o->seq}, target = {answer, 0, o->decoder_seq};
    if (!error)
        fill(o, window, raw, validation, index, &input, &target);
    for (int64_t i = input.at; ids && i < o->seq; i++)
        ids->ints[i] = o->pad;
    for (int64_t i = 0; mask && i < o->seq; i++)
        mask->ints[i] = i < input.at;
    for (int64_t i = 0; i < o->decoder_seq; i++) {
        if (targets)
            targets->ints[i] = i < target.at ? answer[i] : -1;
        if (decoder)
            decoder->ints[i] = i > 0 && i <= target.at ? answer[i - 1] : o->pad;
    }
    tr_objective_count(tr_field_find(fields, count, "positions"));
    tr_objective_count(tr_field_find(fields, count, "decoder_positions"));
    free(window);
    free(answer);
    return error;
}

static const tr_loader *loader(const void *own)
{
    return ((const span_objective *)own)->loader;
}

const tr_objective_row tr_objective_span = {
    .name = "span",
    .help = "spans that were taken out of a text (T5)",
    .inputs = "ids mask positions decoder_ids decoder_positions targets",
    .open = open,
    .free = close,
    .sample = sample,
    .loader = loader,
};
