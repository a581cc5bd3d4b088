/* Tokenizer files that are no JSON: BERT's vocab.txt and SentencePiece's model file. Each is brought into the form of
 * a tokenizer.json, as `transformers` converts it, and read from there, so that there is one reader and what is saved
 * is what was read.
 *
 * A SentencePiece model is a protocol buffer (sentencepiece_model.proto): a sequence of fields, each a key (number
 * times 8 plus wire type) and a value; of them we read
 *   1   pieces, repeated: 1 text, 2 score (32-bit float), 3 type (1 normal, 2 unknown, 3 control, 4 user, 6 byte)
 *   2   training: 3 model type (1 unigram, 2 bpe), 35 byte fallback, 40 unk id
 *   3   normalizer: 2 character map, 3 dummy prefix, 4 remove extra white space, 5 escape white space
 * The bytes may be anything: every length is checked against what is left.
 */
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

#define MARKER "\xE2\x96\x81"

static json_t *added_token(const char *content, int64_t id)
{
    return json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", content, "single_word",
                     0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static tr_error *build_take(json_t *root, const char *where, tr_tokenizer **out)
{
    tr_error *error = root ? tr_tokenizer_build(root, where, out)
                           : tr_error_new(TR_USER, "%s: a token in it is no valid UTF-8", where);
    json_decref(root);
    return error;
}

/* The text of a special token in tokenizer_config.json, which may be an object around it. */
static const char *special_text(const json_t *config, const char *key, const char *otherwise)
{
    const json_t *value = json_object_get(config, key);
    const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    return text ? text : otherwise;
}

/* vocab.txt */

static json_t *template_with(const char *before, json_int_t before_id, const char *after, json_int_t after_id)
{
    json_t *single = json_array(), *pair = json_array(), *tokens = json_object();
    const char *const order[] = {before, NULL, after};
    for (int i = 0; i < 3; i++) {
        json_t *part = order[i] ? json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", order[i], "type_id", 0)
                                : json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0);
        if (i == 1 || *order[i]) {
            json_array_append(pair, part);
            json_array_append(single, part);
        }
        json_decref(part);
    }
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "B", "type_id", 1));
    json_array_append_new(pair, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", after, "type_id", 1));
    const json_int_t ids[] = {before_id, 0, after_id};
    for (int i = 0; i < 3; i += 2)
        if (*order[i])
            json_object_set_new(tokens, order[i],
                                json_pack("{s:s, s:[I], s:[s]}", "id", order[i], "ids", ids[i], "tokens", order[i]));
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", pair,
                     "special_tokens", tokens);
}

tr_error *tr_tokenizer_from_vocab_text(const char *text, int64_t length, const json_t *config, const char *where,
                                       tr_tokenizer **out)
{
    static const char *const keys[] = {"pad_token", "unk_token", "cls_token", "sep_token", "mask_token"};
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    json_t *vocab = json_object(), *added = json_array();
    json_int_t id = 0, specials[5];
    const char *end = text + length;
    tr_error *error = NULL;
    *out = NULL;
    for (const char *line = text; line < end && !error; id++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line)), *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        stop -= stop > line && stop[-1] == '\r';
        char *token = tr_strndup(line, (size_t)(stop - line));
        if (json_object_get(vocab, token) || json_object_set_new(vocab, token, json_integer(id)))
            error = tr_error_new(TR_USER, "%s: line %lld: the token \"%s\" is there twice, or no UTF-8", where,
                                 (long long)id + 1, token);
        free(token);
        line = next;
    }
    for (int i = 0; i < 5 && !error; i++) {
        const json_t *known = json_object_get(vocab, special_text(config, keys[i], names[i]));
        specials[i] = json_integer_value(known);
        if (known)
            json_array_append_new(added, added_token(special_text(config, keys[i], names[i]), specials[i]));
        else if (i == 1 || i == 2 || i == 3)
            error = tr_error_new(TR_USER,
                                 "%s: the vocabulary has no token \"%s\": is it BERT's vocab.txt, one token a line?",
                                 where, special_text(config, keys[i], names[i]));
    }
    if (error) {
        json_decref(vocab);
        json_decref(added);
        return error;
    }
    const json_t *lower = json_object_get(config, "do_lower_case"),
                 *cjk = json_object_get(config, "tokenize_chinese_chars");
    json_t *accents = json_object_get(config, "strip_accents");
    json_t *root =
        json_pack("{s:o, s:{s:s, s:b, s:b, s:O?, s:b}, s:{s:s}, s:o, s:{s:s, s:s, s:b}, s:{s:s, s:s, s:s, s:i, s:o}}",
                  "added_tokens", added, "normalizer", "type", "BertNormalizer", "clean_text", 1,
                  "handle_chinese_chars", !json_is_false(cjk), "strip_accents", accents, "lowercase",
                  !json_is_false(lower), "pre_tokenizer", "type", "BertPreTokenizer", "post_processor",
                  template_with(special_text(config, "cls_token", "[CLS]"), specials[2],
                                special_text(config, "sep_token", "[SEP]"), specials[3]),
                  "decoder", "type", "WordPiece", "prefix", "##", "cleanup", 1, "model", "type", "WordPiece",
                  "unk_token", special_text(config, "unk_token", "[UNK]"), "continuing_subword_prefix", "##",
                  "max_input_chars_per_word", 100, "vocab", vocab);
    return build_take(root, where, out);
}

/* Protocol buffers */

typedef struct wire {
    const uint8_t *p, *end;
    bool bad;
} wire;
typedef struct field {
    uint64_t number, value; /* value: of a varint or fixed field */
    int type;
    const char *bytes; /* type 2 */
    int64_t length;
} field;

static uint64_t varint(wire *w)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        uint8_t byte = *w->p++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80))
            return value;
    }
    w->bad = true;
    return 0;
}

static bool next_field(wire *w, field *out)
{
    if (w->bad || w->p >= w->end)
        return false;
    uint64_t key = varint(w);
    *out = (field){.number = key >> 3, .type = (int)(key & 7)};
    int64_t fixed = out->type == 1 ? 8 : out->type == 5 ? 4 : 0;
    if (out->type == 0)
        out->value = varint(w);
    else if (out->type == 2) {
        uint64_t length = varint(w);
        out->length = (int64_t)TR_MIN(length, (uint64_t)INT64_MAX);
    } else if (!fixed)
        w->bad = true;
    w->bad = w->bad || w->end - w->p < TR_MAX(out->length, fixed);
    if (w->bad)
        return false;
    memcpy(&out->value, w->p, (size_t)fixed);
    out->bytes = (const char *)w->p;
    w->p += out->length + fixed;
    return true;
}

static wire inside(const field *f)
{
    return (wire){(const uint8_t *)f->bytes, (const uint8_t *)f->bytes + f->length, false};
}

/* SentencePiece */

void tr_piece_model_end(tr_piece_model *m)
{
    for (int64_t i = 0; i < m->count; i++)
        free(m->pieces[i].text);
    free(m->pieces);
}

static bool read_piece(const field *f, tr_scored_piece *out)
{
    wire w = inside(f);
    field part;
    *out = (tr_scored_piece){.type = 1};
    while (next_field(&w, &part)) {
        if (part.number == 1 && part.type == 2) {
            free(out->text);
            out->text = tr_strndup(part.bytes, (size_t)part.length);
        } else if (part.number == 2 && part.type == 5) {
            memcpy(&out->score, &part.value, sizeof out->score);
        } else if (part.number == 3 && part.type == 0) {
            out->type = part.value;
        }
    }
    return !w.bad && out->text;
}

static bool read_training(const field *f, tr_piece_model *m)
{
    wire w = inside(f);
    field part;
    while (next_field(&w, &part)) {
        if (part.type != 0)
            continue;
        m->type = part.number == 3 ? part.value : m->type;
        m->fallback = part.number == 35 ? part.value != 0 : m->fallback;
        m->unknown = part.number == 40 ? part.value : m->unknown;
    }
    return !w.bad;
}

static bool read_normalizer(const field *f, tr_piece_model *m)
{
    wire w = inside(f);
    field part;
    while (next_field(&w, &part)) {
        if (part.number == 2 && part.type == 2) {
            m->charsmap = part.bytes;
            m->charsmap_length = part.length;
        }
        m->dummy_prefix = part.number == 3 ? part.value != 0 : m->dummy_prefix;
        m->remove_spaces = part.number == 4 ? part.value != 0 : m->remove_spaces;
        m->escape = part.number == 5 ? part.value != 0 : m->escape;
    }
    return !w.bad;
}

static bool read_model(const char *bytes, int64_t length, tr_piece_model *m)
{
    wire w = {(const uint8_t *)bytes, (const uint8_t *)bytes + length, false};
    field f;
    bool good = true;
    while (good && next_field(&w, &f)) {
        if (f.type != 2)
            continue;
        if (f.number == 1) {
            tr_scored_piece p;
            good = read_piece(&f, &p);
            tr_push(m->pieces, m->count, m->room) = p;
        } else if (f.number == 2) {
            good = read_training(&f, m);
        } else if (f.number == 3) {
            good = read_normalizer(&f, m);
        }
    }
    return good && !w.bad && m->count;
}

static json_t *charsmap_json(const tr_piece_model *m)
{
    tr_text text = {0};
    tr_base64_add(&text, m->charsmap, m->charsmap_length);
    json_t *made = json_pack("{s:s, s:s}", "type", "Precompiled", "precompiled_charsmap", text.bytes);
    tr_text_free(&text);
    return made;
}

/* As transformers' SpmConverter has it, but that at the end of a text only spaces go, not all white space. */
static json_t *normalizer_json(const tr_piece_model *m)
{
    json_t *steps = json_array();
    if (m->charsmap_length)
        json_array_append_new(steps, charsmap_json(m));
    if (m->remove_spaces) {
        static const char *const rows[][2] = {{" +(?![\\s\\S])", ""}, {" {2,}", MARKER}};
        for (int i = 0; i < 2; i++)
            json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "Regex",
                                                   rows[i][0], "content", rows[i][1]));
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
}

/* Merges: every way in which a piece is two others, by falling score, as the converter sorts them. */
typedef struct split {
    int64_t left, right, whole;
    float score;
    int64_t order;
} split;

static int by_score(const void *a, const void *b)
{
    const split *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->order > y->order) - (x->order < y->order);
}

static int by_sides(const void *a, const void *b)
{
    const split *x = a, *y = b;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static void merges_of(const tr_piece_model *m, json_t *vocab, json_t *merges)
{
    split *splits = NULL;
    int64_t count = 0, room = 0;
    for (int64_t i = 0; i < m->count; i++) {
        const char *text = m->pieces[i].text, *end = text + strlen(text);
        int64_t first = count;
        if (m->pieces[i].type != 1 && m->pieces[i].type != 4)
            continue;
        for (const char *p = text + (*text != 0); p < end; p++) {
            if (((uint8_t)*p & 0xC0) == 0x80)
                continue;
            char *left = tr_strndup(text, (size_t)(p - text));
            const json_t *a = json_object_get(vocab, left), *b = json_object_get(vocab, p);
            if (a && b)
                tr_push(splits, count, room) =
                    (split){json_integer_value(a), json_integer_value(b), i, m->pieces[i].score, 0};
            free(left);
        }
        if (count > first)
            qsort(splits + first, (size_t)(count - first), sizeof *splits, by_sides);
    }
    for (int64_t i = 0; i < count; i++)
        splits[i].order = i;
    if (count)
        qsort(splits, (size_t)count, sizeof *splits, by_score);
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(merges,
                              json_pack("[s, s]", m->pieces[splits[i].left].text, m->pieces[splits[i].right].text));
    free(splits);
}

/* Sentinels that T5's tokenizer adds to its file: extra_id_0 has the highest id. */
static int64_t extra_ids(const json_t *config)
{
    const json_t *count = json_object_get(config, "extra_ids");
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    if (json_is_integer(count))
        return TR_MAX(TR_MIN(json_integer_value(count), 1000), 0);
    return class && strncmp(class, "T5Tokenizer", 11) == 0 ? 100 : 0;
}

tr_error *tr_tokenizer_build_pieces(const tr_piece_model *m, const json_t *config, const char *where,
                                    tr_tokenizer **out)
{
    bool bpe = m->type == 2;
    json_t *vocab = bpe ? json_object() : json_array(), *added = json_array(), *merges = json_array();
    json_t *root = NULL, *model;
    json_int_t end = -1;
    bool good = true;
    for (int64_t i = 0; i < m->count && good; i++) {
        const tr_scored_piece *p = &m->pieces[i];
        good = bpe ? json_object_set_new(vocab, p->text, json_integer(i)) == 0
                   : json_array_append_new(vocab, json_pack("[s, f]", p->text, (double)p->score)) == 0;
        if (good && (p->type == 2 || p->type == 3 || p->type == 4) && *p->text)
            json_array_append_new(added, added_token(p->text, i));
        if (strcmp(p->text, "</s>") == 0)
            end = i;
    }
    for (int64_t i = extra_ids(config), id = m->count; i > 0 && good; i--, id++) {
        char *text = tr_format("<extra_id_%lld>", (long long)i - 1);
        json_array_append_new(added, added_token(text, id));
        if (!bpe)
            json_array_append_new(vocab, json_pack("[s, f]", text, 0.0));
        free(text);
    }
    if (bpe && good)
        merges_of(m, vocab, merges);
    const char *scheme = m->dummy_prefix ? "always" : "never",
               *class = json_string_value(json_object_get(config, "tokenizer_class"));
    bool t5 = !bpe && class && strncmp(class, "T5Tokenizer", 11) == 0 && end >= 0;
    model = bpe ? json_pack("{s:s, s:s, s:b, s:b, s:O, s:O}", "type", "BPE", "unk_token",
                            m->unknown < (uint64_t)m->count ? m->pieces[m->unknown].text : "", "fuse_unk", 1,
                            "byte_fallback", (int)m->fallback, "vocab", vocab, "merges", merges)
                : json_pack("{s:s, s:I, s:b, s:O}", "type", "Unigram", "unk_id", (json_int_t)m->unknown,
                            "byte_fallback", (int)m->fallback, "vocab", vocab);
    if (good)
        root = json_pack("{s:O, s:o, s:{s:s, s:s, s:s, s:b}, s:o, s:{s:s, s:s, s:s, s:b}, s:o}", "added_tokens",
                         added, "normalizer", normalizer_json(m), "pre_tokenizer", "type", "Metaspace", "replacement",
                         MARKER, "prepend_scheme", scheme, "split", !m->whole, "post_processor",
                         t5 ? template_with("", 0, "</s>", end) : json_null(), "decoder", "type", "Metaspace",
                         "replacement", MARKER, "prepend_scheme", scheme, "split", !m->whole, "model", model);
    else
        json_decref(model);
    json_decref(vocab);
    json_decref(added);
    json_decref(merges);
    return build_take(root, where, out);
}

tr_error *tr_tokenizer_from_pieces(const char *bytes, int64_t length, const json_t *config, const char *where,
                                   tr_tokenizer **out)
{
    tr_piece_model m = {.type = 1, .dummy_prefix = true, .remove_spaces = true, .escape = true};
    tr_error *error = NULL;
    *out = NULL;
    if (!read_model(bytes, length, &m))
        error = tr_error_new(TR_USER, "%s: it is no SentencePiece model, or a damaged one", where);
    else if (m.type != 1 && m.type != 2)
        error = tr_error_new(TR_USER,
                             "%s: a SentencePiece model of type %llu: only 1 (unigram) and 2 (bpe) are supported",
                             where, (unsigned long long)m.type);
    else if (!m.escape)
        error = tr_error_new(TR_USER, "%s: a SentencePiece model that does not escape white space is not supported",
                             where);
    else
        error = tr_tokenizer_build_pieces(&m, config, where, out);
    tr_piece_model_end(&m);
    return error;
}
