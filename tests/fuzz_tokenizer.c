/* Fuzzing the tokenizer's readers and its losslessness. The first byte chooses:
 *   0  the rest is a tokenizer.json
 *   1  the rest is vocab.json, a zero byte, merges.txt
 *   2  the rest is a text for a fixed tokenizer
 *   3  the rest is a text to learn from (of which kind: the bits above)
 *   4  the rest is a SentencePiece model
 *   5  the rest is a vocab.txt
 *   6  the rest is a pattern, a zero byte, a text that it cuts
 *   7  the rest is a GGUF file
 * Whatever tokenizer comes of it encodes the rest, on one and on three threads, and decodes it.
 * Build with clang: -fsanitize=fuzzer,address,undefined.
 */
#include "data/gguf.h"
#include "data/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same_or_abort(const tr_tokenizer *t, const char *text, int64_t length)
{
    tr_ids ids = {0}, again = {0};
    tr_text back = {0};
    tr_tokenizer_encode(t, text, length, true, &ids);
    tr_tokenizer_encode_parallel(t, text, length, true, 3, &again);
    bool same =
        ids.count == again.count &&
        (!ids.count || !memcmp(ids.items, again.items, (size_t)ids.count * sizeof *ids.items));
    tr_error *error = tr_tokenizer_decode(t, ids.items, ids.count, &back);
    if (error || !same ||
        (tr_tokenizer_lossless(t) && ((int64_t)back.length != length ||
                                      (length && memcmp(back.bytes, text, (size_t)length) != 0))))
        abort();
    tr_detokenizer state = {0};
    back.length = 0;
    for (int64_t i = 0; i < ids.count; i++)
        tr_detokenizer_push(&state, t, ids.items[i], &back);
    tr_detokenizer_finish(&state, &back);
    tr_text_free(&back);
    tr_ids_free(&ids);
    tr_ids_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const char *text = (const char *)data + 1;
    int64_t length = (int64_t)size - 1;
    tr_tokenizer *t = NULL;
    tr_error *error = NULL;
    tr_tokenizer_training training = {.kind = TR_TOKENIZER_BPE, .vocab_size = 300};
    static const char sample[] = "the then there's 123 \xE4\xB8\xAD\xE4\xB8\xAD <|endoftext|>";
    const char *middle = length ? memchr(text, 0, (size_t)length) : NULL;
    static const tr_tokenizer_kind kinds[] = {TR_TOKENIZER_BPE, TR_TOKENIZER_CHARS, TR_TOKENIZER_WORDPIECE, TR_TOKENIZER_UNIGRAM};
    tr_pattern *pattern = NULL;
    tr_gguf *gguf = NULL;
    bool may_be_nothing = false;
    switch (data[0] % 8) {
    case 0:
        error = tr_tokenizer_parse(text, length, "fuzz", &t);
        break;
    case 1:
        if (middle)
            error = tr_tokenizer_parse_pair(text, middle - text, middle + 1,
                                            text + length - middle - 1, "fuzz", &t);
        break;
    case 2:
        error = tr_tokenizer_train(&(const char *){sample}, &(int64_t){sizeof sample - 1}, 1,
                                   &training, &t);
        break;
    case 3:
        training.kind = kinds[data[0] >> 3 & 3];
        training.sentinels = 4;
        error = tr_tokenizer_train(&text, &length, 1, &training, &t);
        break;
    case 4:
        error = tr_tokenizer_from_pieces(text, length, NULL, "fuzz", &t);
        break;
    case 5:
        error = tr_tokenizer_from_vocab_text(text, length, NULL, "fuzz", &t);
        break;
    case 6:
        may_be_nothing = true;
        if (!middle || middle - text > 60 || text + length - middle > 200)
            break;
        error = tr_pattern_new(text, "fuzz", &pattern);
        for (const char *p = middle + 1, *end = text + length; pattern && p < end; p++) {
            const char *stop = tr_pattern_match(pattern, p, end);
            if (stop && (stop < p || stop > end))
                abort();
        }
        break;
    case 7:
        error = tr_gguf_parse(text, length, "fuzz", &gguf);
        if (!error)
            error = tr_tokenizer_from_gguf_file(gguf, "fuzz", &t);
        break;
    }
    may_be_nothing = may_be_nothing || (data[0] % 8 == 1 && !middle);
    if (error ? t != NULL : !t && !may_be_nothing)
        abort();
    tr_pattern_free(pattern);
    tr_gguf_close(gguf);
    if (t)
        same_or_abort(t, text, length);
    tr_error_free(error);
    tr_tokenizer_free(t);
    return 0;
}
