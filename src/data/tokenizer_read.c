/* Reading tokenizers: Hugging Face's tokenizer.json, and vocab.json + merges.txt. The other formats are brought into
 * tokenizer.json's form first (tokenizer_formats.c).
 *
 * What these files can say and we cannot do is refused, never ignored: another model, normalizer,
 * pre-tokenizer, decoder, dropout and so on would give other ids. Not looked at, because they do
 * not change the ids of a text: truncation and padding (set anew for each call by their users).
 *
 * The bytes may be anything. Ids are bounded by the number of tokens, so a small file cannot ask
 * for much memory. Cost: linear in the file.
 */
#include <jansson.h>

#include "base/file.h"
#include "data/gguf.h"
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

/* Ids may have holes, but not more than this many beyond twice the number of tokens. */
enum { SPARE_IDS = 65536 };
static const int64_t FILE_BYTES = 1 << 30;

const char *const tr_rule_names[TR_RULES] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};

const char *const tr_special_keys[TR_SPECIAL_COUNT] = {
    [TR_SPECIAL_PAD] = "pad_token",   [TR_SPECIAL_UNKNOWN] = "unk_token", [TR_SPECIAL_CLS] = "cls_token",
    [TR_SPECIAL_SEP] = "sep_token",   [TR_SPECIAL_MASK] = "mask_token",   [TR_SPECIAL_BOS] = "bos_token",
    [TR_SPECIAL_EOS] = "eos_token",
};

uint32_t tr_byte_char(uint8_t byte)
{
    /* Printable Latin-1 stands for itself; the others follow each other from U+0100 on. */
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173))
        return byte;
    if (byte <= 32)
        return 256u + byte;
    return byte == 173 ? 256 + 67 : 256u + 33 + (uint32_t)(byte - 127);
}

int tr_char_byte(uint32_t code)
{
    if (code < 256)
        return tr_byte_char((uint8_t)code) == code ? (int)code : -1;
    code -= 256;
    if (code <= 32)
        return (int)code;
    return code < 67 ? (int)(code - 33 + 127) : code == 67 ? 173 : -1;
}

/* The bytes that a token's text in a vocabulary stands for, into *out (emptied first). False: the
 * text has other characters, as only special tokens have; it then stands for itself. */
static bool token_bytes(const char *text, tr_text *out)
{
    out->length = 0;
    const char *p = text, *end = text + strlen(text);
    while (p < end) {
        uint32_t code;
        int n = tr_utf8_decode(p, end, &code);
        int byte = n ? tr_char_byte(code) : -1;
        if (byte < 0) {
            out->length = 0;
            tr_text_add(out, text, strlen(text));
            return false;
        }
        tr_text_add(out, &(char){(char)byte}, 1);
        p += n;
    }
    return true;
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

/* null, absent or "": what an optional text says when it is not there. */
static bool is_blank(const json_t *value)
{
    return is_absent(value) || (json_is_string(value) && json_string_length(value) == 0);
}

static const char *type_of(const json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "";
}

static tr_error *parse(const char *text, int64_t length, const char *where, json_t **out)
{
    json_error_t problem;
    *out = json_loadb(text, (size_t)length, JSON_ALLOW_NUL, &problem);
    if (!*out)
        return tr_error_new(TR_USER, "%s: not valid JSON at line %d, column %d (%s)", where,
                            problem.line, problem.column, problem.text);
    if (json_is_object(*out))
        return NULL;
    json_decref(*out);
    *out = NULL;
    return tr_error_new(TR_USER, "%s: expected a JSON object", where);
}

static tr_error *id_of(const json_t *value, int64_t limit, const char *where, const char *token,
                       int32_t *out)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= limit)
        return tr_error_new(TR_USER,
                            "%s: token \"%s\" must have a whole number from 0 to %lld as its id",
                            where, token, (long long)limit - 1);
    *out = (int32_t)id;
    return NULL;
}

/* Highest id + 1 over the vocabulary and the added tokens, which are checked on the way. */
static tr_error *measure(json_t *vocab, json_t *added, const char *where, int32_t *out)
{
    int64_t limit = 2 * (int64_t)(json_object_size(vocab) + json_array_size(added)) + SPARE_IDS;
    const char *text;
    json_t *value;
    int32_t id = 0, size = 0;
    json_object_foreach(vocab, text, value)
    {
        TR_TRY(id_of(value, limit, where, text, &id));
        size = TR_MAX(size, id + 1);
    }
    size_t i;
    json_array_foreach(added, i, value)
    {
        const char *content = json_string_value(json_object_get(value, "content"));
        if (!content)
            return tr_error_new(TR_USER, "%s: added token %zu has no \"content\"", where, i);
        if (!*content || strlen(content) != json_string_length(json_object_get(value, "content")))
            return tr_error_new(
                TR_USER, "%s: the content of added token %zu is empty or has a zero byte in it",
                where, i);
        TR_TRY(id_of(json_object_get(value, "id"), limit, where, content, &id));
        size = TR_MAX(size, id + 1);
    }
    if (json_object_size(vocab) == 0)
        return tr_error_new(TR_USER, "%s: the vocabulary is empty", where);
    *out = size;
    return NULL;
}

static tr_error *read_vocab(tr_tokenizer *t, json_t *vocab, const char *where)
{
    tr_error *error = NULL;
    tr_text bytes = {0};
    const char *text;
    json_t *value;
    json_object_foreach(vocab, text, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        if (t->flags[id]) {
            error = tr_error_new(TR_USER, "%s: two tokens have the id %d, one of them \"%s\"",
                                 where, id, text);
            break;
        }
        bool plain = true;
        if (t->pre.byte_level) {
            plain = token_bytes(text, &bytes);
        } else {
            bytes.length = 0;
            tr_text_add(&bytes, text, strlen(text));
        }
        tr_tokenizer_put(t, id, bytes.bytes ? bytes.bytes : "", (int64_t)bytes.length,
                         plain ? 0 : TOKEN_RAW);
    }
    tr_text_free(&bytes);
    return error;
}

static tr_error *read_flag(const json_t *object, const char *key, bool otherwise, const char *where,
                           bool *out)
{
    const json_t *value = json_object_get(object, key);
    if (!is_absent(value) && !json_is_boolean(value))
        return tr_error_new(TR_USER, "%s: \"%s\" must be true or false", where, key);
    *out = is_absent(value) ? otherwise : json_is_true(value);
    return NULL;
}

static tr_error *read_added(tr_tokenizer *t, json_t *list, json_t *vocab, const char *where)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        tr_added added = {.content = (char *)json_string_value(json_object_get(item, "content"))};
        added.length = (int64_t)strlen(added.content);
        added.id = (int32_t)json_integer_value(json_object_get(item, "id"));
        bool word = false;
        TR_TRY(read_flag(item, "special", false, where, &added.special));
        TR_TRY(read_flag(item, "normalized", !added.special, where, &added.normalized));
        TR_TRY(read_flag(item, "lstrip", false, where, &added.left_strip));
        TR_TRY(read_flag(item, "rstrip", false, where, &added.right_strip));
        TR_TRY(read_flag(item, "single_word", false, where, &word));
        if (word)
            return tr_error_new(TR_USER,
                                "%s: added token \"%s\" has single_word, which is not supported",
                                where, added.content);
        const json_t *known = json_object_get(vocab, added.content);
        if (known ? json_integer_value(known) != added.id : t->flags[added.id] != 0)
            return tr_error_new(TR_USER, "%s: added token \"%s\" has the id %d, which %s", where,
                                added.content, added.id,
                                known ? "differs from the vocabulary's" : "another token has");
        tr_tokenizer_put_added(t, &added);
    }
    return NULL;
}

/* Rank `rank` is the pair (left, right), both NUL-terminated. */
static tr_error *put_merge(tr_tokenizer *t, json_t *vocab, const char *left, const char *right,
                           const char *where, int64_t rank)
{
    const json_t *a = json_object_get(vocab, left), *b = json_object_get(vocab, right);
    if (!a || !b)
        return tr_error_new(TR_USER, "%s: merge %lld: \"%s\" is not in the vocabulary", where,
                            (long long)rank + 1, a ? right : left);
    char *whole = tr_format("%s%s", left, right);
    const json_t *result = json_object_get(vocab, whole);
    tr_error *error = NULL;
    if (result)
        tr_push(t->merges, t->merge_count, t->merge_room) =
            (tr_merge){(int32_t)json_integer_value(a), (int32_t)json_integer_value(b),
                       (int32_t)json_integer_value(result)};
    else
        error = tr_error_new(TR_USER, "%s: merge %lld makes \"%s\", which is not in the vocabulary",
                             where, (long long)rank + 1, whole);
    free(whole);
    return error;
}

/* "left right" of `length` bytes, with exactly one space. */
static tr_error *read_merge_text(tr_tokenizer *t, json_t *vocab, const char *text, size_t length,
                                 const char *where, int64_t rank)
{
    const char *space = memchr(text, ' ', length);
    if (!space || memchr(space + 1, ' ', (size_t)(text + length - space - 1)) ||
        memchr(text, 0, length))
        return tr_error_new(TR_USER,
                            "%s: merge %lld must be two tokens with one space between them", where,
                            (long long)rank + 1);
    char *left = tr_strndup(text, (size_t)(space - text));
    char *right = tr_strndup(space + 1, (size_t)(text + length - space - 1));
    tr_error *error = put_merge(t, vocab, left, right, where, rank);
    free(left);
    free(right);
    return error;
}

static tr_error *read_merges(tr_tokenizer *t, json_t *vocab, json_t *merges, const char *where)
{
    size_t i;
    json_t *item;
    if (!json_is_array(merges))
        return tr_error_new(TR_USER, "%s: the model has no list \"merges\"", where);
    json_array_foreach(merges, i, item)
    {
        const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
        if (json_is_string(item))
            TR_TRY(read_merge_text(t, vocab, json_string_value(item), json_string_length(item),
                                   where, (int64_t)i));
        else if (json_array_size(item) == 2 && json_is_string(left) && json_is_string(right))
            TR_TRY(put_merge(t, vocab, json_string_value(left), json_string_value(right), where,
                             (int64_t)i));
        else
            return tr_error_new(TR_USER, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]",
                                where, i + 1);
    }
    return NULL;
}

/* Of a pair that is listed twice only the last counts (as in Hugging Face's library); the others
 * are dropped, which leaves the order of the rest. */
static void drop_repeated(tr_tokenizer *t)
{
    tr_pair_map last;
    tr_pair_map_init(&last, t->merge_count);
    for (int64_t i = 0; i < t->merge_count; i++)
        tr_pair_map_put(&last, PAIR_KEY(t->merges[i].left, t->merges[i].right))->rank = (int32_t)i;
    int64_t kept = 0;
    for (int64_t i = 0; i < t->merge_count; i++) {
        tr_merge merge = t->merges[i];
        if (tr_pair_map_find(&last, PAIR_KEY(merge.left, merge.right))->rank == i)
            t->merges[kept++] = merge;
    }
    t->merge_count = kept;
    tr_pair_map_free(&last);
}

/* A vocabulary that is what tr_tokenizer_save writes for the bytes kind. */
static bool is_bytes(const tr_tokenizer *t)
{
    if (t->merge_count || t->vocab_size != 257 || t->added_count != 1 || t->pre.prefix_space || !t->pre.byte_level ||
        strcmp(t->added[0].content, END_OF_TEXT) != 0 || t->added[0].id != 256)
        return false;
    for (int i = 0; i < 256; i++)
        if (t->length[i] != 1 || (uint8_t)t->pool.bytes[t->start[i]] != i)
            return false;
    return true;
}

static void finish_take(tr_tokenizer *t, tr_tokenizer **out)
{
    drop_repeated(t);
    if (t->kind == TR_TOKENIZER_BPE && is_bytes(t)) {
        tr_tokenizer_free(t);
        *out = tr_tokenizer_bytes_new();
        return;
    }
    tr_tokenizer_finish(t);
    *out = t;
}

static tr_error *read_unknown(tr_tokenizer *t, const json_t *model, json_t *vocab,
                              const char *where)
{
    const json_t *unknown = json_object_get(model, "unk_token");
    if (is_blank(unknown))
        return NULL;
    const json_t *id =
        json_is_string(unknown) ? json_object_get(vocab, json_string_value(unknown)) : NULL;
    if (!id)
        return tr_error_new(TR_USER, "%s: the unk_token is not in the vocabulary", where);
    t->unknown = (int32_t)json_integer_value(id);
    return NULL;
}

/* What is particular to each model: read after the pre-tokenizer and the vocabulary. */

static tr_error *read_bpe(tr_tokenizer *t, const json_t *root, const json_t *model, json_t *vocab, const char *where)
{
    (void)root;
    static const char *const blanks[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && json_number_value(dropout) != 0)
        return tr_error_new(TR_USER, "%s: BPE with dropout is not supported", where);
    for (int64_t i = 0; i < TR_COUNT(blanks); i++)
        if (!is_blank(json_object_get(model, blanks[i])))
            return tr_error_new(TR_USER, "%s: BPE with \"%s\" is not supported", where, blanks[i]);
    TR_TRY(read_flag(model, "fuse_unk", false, where, &t->fuse_unknown));
    TR_TRY(read_flag(model, "byte_fallback", false, where, &t->byte_fallback));
    TR_TRY(read_flag(model, "ignore_merges", false, where, &t->ignore_merges));
    if (t->pre.byte_level && (t->fuse_unknown || t->byte_fallback))
        return tr_error_new(TR_USER, "%s: a ByteLevel BPE with \"%s\" is not supported", where,
                            t->byte_fallback ? "byte_fallback" : "fuse_unk");
    TR_TRY(read_unknown(t, model, vocab, where));
    return read_merges(t, vocab, json_object_get(model, "merges"), where);
}

static tr_error *read_wordpiece(tr_tokenizer *t, const json_t *root, const json_t *model, json_t *vocab,
                                const char *where)
{
    (void)root;
    const json_t *prefix = json_object_get(model, "continuing_subword_prefix");
    const json_t *longest = json_object_get(model, "max_input_chars_per_word");
    if ((prefix && !json_is_string(prefix)) || (longest && !json_is_integer(longest)) || json_integer_value(longest) < 0)
        return tr_error_new(TR_USER,
                            "%s: WordPiece needs a text \"continuing_subword_prefix\" and a whole number "
                            "\"max_input_chars_per_word\"",
                            where);
    t->prefix = tr_strdup(prefix ? json_string_value(prefix) : "##");
    t->longest_word = longest ? json_integer_value(longest) : 100;
    TR_TRY(read_unknown(t, model, vocab, where));
    if (t->unknown < 0)
        return tr_error_new(TR_USER, "%s: WordPiece needs an \"unk_token\"", where);
    return NULL;
}

/* The chars kind is a WordLevel model whose pre-tokenizer takes every character apart. */
static tr_error *read_chars(tr_tokenizer *t, const json_t *root, const json_t *model, json_t *vocab, const char *where)
{
    const json_t *before = json_object_get(root, "pre_tokenizer");
    const char *pattern =
        json_string_value(json_object_get(json_object_get(before, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(before, "behavior"));
    if (strcmp(type_of(before), "Split") != 0 || !pattern || strcmp(pattern, CHARS_PATTERN) != 0 ||
        !behavior || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(before, "invert")))
        return tr_error_new(
            TR_USER,
            "%s: a WordLevel model is supported only with the pre-tokenizer Split, pattern %s, "
            "behavior Isolated (a token a character)",
            where, CHARS_PATTERN);
    const char *text;
    json_t *value;
    json_object_foreach(vocab, text, value)
    {
        uint32_t code;
        const char *end = text + strlen(text);
        if (tr_utf8_decode(text, end, &code) != end - text && strcmp(text, END_OF_TEXT) != 0)
            return tr_error_new(TR_USER, "%s: the token \"%s\" is not one character", where, text);
    }
    return read_unknown(t, model, vocab, where);
}

static tr_error *read_unigram(tr_tokenizer *t, const json_t *root, const json_t *model, json_t *vocab,
                              const char *where)
{
    (void)root, (void)vocab;
    const json_t *list = json_object_get(model, "vocab"), *unknown = json_object_get(model, "unk_id"), *item;
    size_t i;
    t->scores = tr_alloc_zero((size_t)t->vocab_size, sizeof *t->scores);
    json_array_foreach(list, i, item)
        t->scores[i] = json_number_value(json_array_get(item, 1));
    if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
        json_integer_value(unknown) >= (json_int_t)json_array_size(list))
        return tr_error_new(TR_USER, "%s: Unigram needs an \"unk_id\" that is one of its %zu tokens", where,
                            json_array_size(list));
    t->unknown = (int32_t)json_integer_value(unknown);
    return read_flag(model, "byte_fallback", false, where, &t->byte_fallback);
}

/* The list [[text, score], ...] as an object of ids, as other models have it; the caller drops it. */
static tr_error *vocab_of_list(json_t *list, const char *where, json_t **out)
{
    size_t i;
    json_t *item, *made = json_object();
    json_array_foreach(list, i, item)
    {
        const json_t *text = json_array_get(item, 0);
        bool good = json_is_string(text) && json_is_number(json_array_get(item, 1)) &&
                    strlen(json_string_value(text)) == json_string_length(text);
        if (!good || json_object_get(made, json_string_value(text))) {
            json_decref(made);
            return tr_error_new(TR_USER, "%s: token %zu of the vocabulary is no [text, score], or is there twice", where,
                                i);
        }
        json_object_set_new(made, json_string_value(text), json_integer((json_int_t)i));
    }
    *out = made;
    return NULL;
}

/* The surroundings */

static tr_error *read_decoder(tr_tokenizer *t, const json_t *decoder, const char *where)
{
    const char *type = type_of(decoder);
    bool byte_level = t->kind == TR_TOKENIZER_CHARS || (t->kind == TR_TOKENIZER_BPE && t->pre.byte_level);
    if (byte_level) {
        if (t->kind == TR_TOKENIZER_BPE && !is_absent(decoder) && strcmp(type, "ByteLevel") != 0)
            return tr_error_new(TR_USER, "%s: the decoder \"%s\" is not supported with a ByteLevel BPE: only ByteLevel is",
                                where, type);
        return NULL;
    }
    if (t->kind == TR_TOKENIZER_WORDPIECE) {
        t->render = TR_RENDER_WORDPIECE;
        return NULL;
    }
    t->render = TR_RENDER_MARKER;
    t->strip_first = t->pre.metaspace && t->pre.prepend != TR_PREPEND_NEVER;
    const json_t *parts = json_object_get(decoder, "decoders"), *part;
    size_t i;
    json_array_foreach(parts, i, part)
        t->strip_first = t->strip_first || strcmp(type_of(part), "Strip") == 0;
    return NULL;
}

static tr_error *template_error(const char *where, const char *type)
{
    return tr_error_new(TR_USER,
                        "%s: the post-processor \"%s\" is not supported: ByteLevel, TemplateProcessing, BertProcessing "
                        "and RobertaProcessing are",
                        where, type);
}

static tr_error *push_special(tr_tokenizer *t, tr_ids *to, json_t *vocab, const char *text, const char *where)
{
    int32_t id = text && json_object_get(vocab, text) ? (int32_t)json_integer_value(json_object_get(vocab, text)) : -1;
    for (int64_t i = 0; text && i < t->added_count; i++)
        if (strcmp(t->added[i].content, text) == 0)
            id = t->added[i].id;
    if (id < 0)
        return tr_error_new(TR_USER, "%s: the post-processor's token \"%s\" is not in the vocabulary", where,
                            text ? text : "");
    tr_push(to->items, to->count, to->room) = id;
    return NULL;
}

/* What goes before and after a single text. */
static tr_error *read_template(tr_tokenizer *t, json_t *vocab, const json_t *after, int depth, const char *where)
{
    const char *type = type_of(after);
    size_t i;
    const json_t *part;
    if (is_absent(after) || strcmp(type, "ByteLevel") == 0)
        return NULL;
    if (strcmp(type, "Sequence") == 0 && depth < 4) {
        json_array_foreach(json_object_get(after, "processors"), i, part)
            TR_TRY(read_template(t, vocab, part, depth + 1, where));
        return NULL;
    }
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        const char *cls = json_string_value(json_array_get(json_object_get(after, "cls"), 0));
        const char *sep = json_string_value(json_array_get(json_object_get(after, "sep"), 0));
        TR_TRY(push_special(t, &t->before, vocab, cls, where));
        return push_special(t, &t->after, vocab, sep, where);
    }
    if (strcmp(type, "TemplateProcessing") != 0)
        return template_error(where, type);
    bool text_seen = false;
    json_array_foreach(json_object_get(after, "single"), i, part)
    {
        const json_t *special = json_object_get(part, "SpecialToken");
        if (json_object_get(part, "Sequence"))
            text_seen = true;
        else
            TR_TRY(push_special(t, text_seen ? &t->after : &t->before, vocab,
                                json_string_value(json_object_get(special, "id")), where));
    }
    return NULL;
}

/* Keeps the JSON of the parts, which is how they are saved. */
static void keep_rules(tr_tokenizer *t, const json_t *root)
{
    for (int i = 0; i < TR_RULES; i++) {
        const json_t *rule = json_object_get(root, tr_rule_names[i]);
        t->rules[i] = is_absent(rule) ? NULL : json_dumps(rule, JSON_ENCODE_ANY);
    }
}

typedef struct model_row {
    const char *type;
    tr_tokenizer_kind kind;
    tr_error *(*read)(tr_tokenizer *, const json_t *root, const json_t *model, json_t *vocab, const char *where);
} model_row;

static const model_row models[] = {
    {"BPE", TR_TOKENIZER_BPE, read_bpe},
    {"WordPiece", TR_TOKENIZER_WORDPIECE, read_wordpiece},
    {"Unigram", TR_TOKENIZER_UNIGRAM, read_unigram},
    {"WordLevel", TR_TOKENIZER_CHARS, read_chars},
};

static const model_row *find_model(const json_t *model)
{
    const char *type = type_of(model);
    if (!*type && json_object_get(model, "merges"))
        type = "BPE";
    for (int64_t i = 0; i < TR_COUNT(models); i++)
        if (strcmp(models[i].type, type) == 0)
            return &models[i];
    return NULL;
}

static tr_error *build(json_t *root, const json_t *model, json_t *vocab, const model_row *row, const char *where,
                       tr_tokenizer **out)
{
    json_t *added = json_object_get(root, "added_tokens");
    if (!is_absent(added) && !json_is_array(added))
        return tr_error_new(TR_USER, "%s: \"added_tokens\" must be a list", where);
    int32_t size;
    TR_TRY(measure(vocab, added, where, &size));
    tr_tokenizer *t = tr_tokenizer_new(row->kind, size);
    tr_error *error = NULL;
    bool chars = row->kind == TR_TOKENIZER_CHARS;
    TR_GO(tr_normalizer_read(json_object_get(root, "normalizer"), where, &t->normalizer));
    if (chars && t->normalizer) {
        error = tr_error_new(TR_USER, "%s: a WordLevel model is supported only without a normalizer", where);
        goto done;
    }
    if (!chars)
        TR_GO(tr_pretokenizer_read(json_object_get(root, "pre_tokenizer"), where, &t->pre));
    if (t->pre.byte_level && row->kind != TR_TOKENIZER_BPE) {
        error = tr_error_new(TR_USER, "%s: the pre-tokenizer ByteLevel is supported only with BPE", where);
        goto done;
    }
    TR_GO(read_vocab(t, vocab, where));
    TR_GO(row->read(t, root, model, vocab, where));
    TR_GO(read_added(t, added, vocab, where));
    TR_GO(read_template(t, vocab, json_object_get(root, "post_processor"), 0, where));
    TR_GO(read_decoder(t, json_object_get(root, "decoder"), where));
    keep_rules(t, root);
    finish_take(t, out);
    t = NULL;
done:
    tr_tokenizer_free(t);
    return error;
}

tr_error *tr_tokenizer_build(json_t *root, const char *where, tr_tokenizer **out)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    *out = NULL;
    if (!json_is_object(model))
        return tr_error_new(TR_USER, "%s: it has no \"model\": is it a tokenizer.json?", where);
    const model_row *row = find_model(model);
    if (!row)
        return tr_error_new(
            TR_USER, "%s: the model \"%s\" is not supported: BPE, WordPiece, Unigram and WordLevel of characters are",
            where, type_of(model));
    bool list = row->kind == TR_TOKENIZER_UNIGRAM;
    if (list ? !json_is_array(vocab) : !json_is_object(vocab))
        return tr_error_new(TR_USER, "%s: the model has no \"vocab\" of tokens and %s", where, list ? "scores" : "ids");
    if (!list)
        return build(root, model, vocab, row, where, out);
    TR_TRY(vocab_of_list(vocab, where, &vocab));
    tr_error *error = build(root, model, vocab, row, where, out);
    json_decref(vocab);
    return error;
}

tr_error *tr_tokenizer_parse(const char *json, int64_t length, const char *where,
                             tr_tokenizer **out)
{
    json_t *root = NULL;
    *out = NULL;
    TR_TRY(parse(json, length, where, &root));
    tr_error *error = tr_tokenizer_build(root, where, out);
    json_decref(root);
    return error;
}

/* Lines "left right"; the first may be "#version: ...". */
static tr_error *read_merge_lines(tr_tokenizer *t, json_t *vocab, const char *text, int64_t length,
                                  const char *where)
{
    const char *end = text + length;
    for (const char *line = text; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        const char *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        if (stop > line && stop[-1] == '\r')
            stop--;
        bool comment = stop - line >= 8 && memcmp(line, "#version", 8) == 0;
        if (stop > line && !comment)
            TR_TRY(read_merge_text(t, vocab, line, (size_t)(stop - line), where, t->merge_count));
        line = next;
    }
    return NULL;
}

/* `config` is tokenizer_config.json or NULL; what it says of the prefix space and of added tokens
 * counts. */
static tr_error *build_pair(json_t *vocab, const char *merges, int64_t length, json_t *config,
                            const char *where, tr_tokenizer **out)
{
    json_t *added = json_array(), *value;
    const char *key;
    tr_tokenizer *t = NULL;
    tr_error *error = NULL;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, value)
    {
        char *rest;
        long long id = strtoll(key, &rest, 10);
        if (*rest || rest == key || !json_is_object(value)) {
            error = tr_error_new(
                TR_USER, "%s: tokenizer_config.json: \"%s\" in added_tokens_decoder is no token id",
                where, key);
            goto done;
        }
        json_t *copy = json_copy(value);
        json_object_set_new(copy, "id", json_integer(id));
        json_array_append_new(added, copy);
    }
    const json_t *end = json_object_get(vocab, END_OF_TEXT);
    if (end && json_array_size(added) == 0)
        json_array_append_new(added, json_pack("{s:s, s:I, s:b}", "content", END_OF_TEXT, "id",
                                               json_integer_value(end), "special", 1));
    int32_t size;
    TR_GO(measure(vocab, added, where, &size));
    t = tr_tokenizer_new(TR_TOKENIZER_BPE, size);
    bool prefix;
    TR_GO(read_flag(config, "add_prefix_space", false, where, &prefix));
    tr_tokenizer_gpt2_rules(t, prefix);
    TR_GO(read_vocab(t, vocab, where));
    TR_GO(read_added(t, added, vocab, where));
    TR_GO(read_merge_lines(t, vocab, merges, length, where));
    finish_take(t, out);
    t = NULL;
done:
    tr_tokenizer_free(t);
    json_decref(added);
    return error;
}

tr_error *tr_tokenizer_parse_pair(const char *vocab, int64_t vocab_length, const char *merges,
                                  int64_t merges_length, const char *where, tr_tokenizer **out)
{
    json_t *root = NULL;
    *out = NULL;
    TR_TRY(parse(vocab, vocab_length, where, &root));
    tr_error *error = build_pair(root, merges, merges_length, NULL, where, out);
    json_decref(root);
    return error;
}

/* Files */

static tr_error *open_map(const char *path, tr_map *out)
{
    TR_TRY(tr_map_open(path, out));
    if (out->size <= FILE_BYTES)
        return NULL;
    tr_map_close(out);
    return tr_error_new(TR_USER, "%s: a tokenizer's file of more than 1 GiB", path);
}

static tr_error *load_json(const char *path, json_t **out)
{
    tr_map map;
    TR_TRY(open_map(path, &map));
    tr_error *error = parse(map.bytes, map.size, path, out);
    tr_map_close(&map);
    return error;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The tokenizer_config.json in the same directory as `path`, or NULL. */
static tr_error *load_config_beside(const char *path, json_t **out)
{
    *out = NULL;
    const char *slash = strrchr(path, '/');
    char *directory = slash ? tr_strndup(path, (size_t)(slash - path)) : tr_strdup(".");
    char *config = tr_path_join(*directory ? directory : "/", "tokenizer_config.json");
    tr_error *error = tr_path_exists(config) ? load_json(config, out) : NULL;
    free(config);
    free(directory);
    return error;
}

static tr_error *load_file(const char *path, tr_tokenizer **out)
{
    if (tr_path_is_gguf(path))
        return tr_tokenizer_from_gguf(path, out);
    bool vocab = ends_with(path, ".txt"), pieces = ends_with(path, ".model");
    json_t *config = NULL;
    tr_map map;
    if (vocab || pieces)
        TR_TRY(load_config_beside(path, &config));
    tr_error *error = open_map(path, &map);
    if (!error) {
        error = vocab    ? tr_tokenizer_from_vocab_text(map.bytes, map.size, config, path, out)
                : pieces ? tr_tokenizer_from_pieces(map.bytes, map.size, config, path, out)
                         : tr_tokenizer_parse(map.bytes, map.size, path, out);
        tr_map_close(&map);
    }
    json_decref(config);
    return error;
}

static tr_error *load_pair(const char *directory, const char *vocab_name, const char *merges_name,
                           tr_tokenizer **out)
{
    char *vocab_path = tr_path_join(directory, vocab_name);
    char *merges_path = tr_path_join(directory, merges_name);
    char *config_path = tr_path_join(directory, "tokenizer_config.json");
    json_t *vocab = NULL, *config = NULL;
    tr_map merges = {0};
    tr_error *error = NULL;
    TR_GO(load_json(vocab_path, &vocab));
    if (tr_path_exists(config_path))
        TR_GO(load_json(config_path, &config));
    TR_GO(open_map(merges_path, &merges));
    error = build_pair(vocab, merges.bytes, merges.size, config, directory, out);
    tr_map_close(&merges);
done:
    json_decref(vocab);
    json_decref(config);
    free(vocab_path);
    free(merges_path);
    free(config_path);
    return error;
}

static bool has(const char *directory, const char *name)
{
    char *path = tr_path_join(directory, name);
    bool exists = tr_path_exists(path);
    free(path);
    return exists;
}

/* tokenizer_config.json names the special tokens; its words count before what tokens' texts suggest. */
static tr_error *read_special_names(tr_tokenizer *t, const char *directory)
{
    char *path = tr_path_join(directory, "tokenizer_config.json");
    json_t *config = NULL;
    tr_error *error = tr_path_exists(path) ? load_json(path, &config) : NULL;
    for (int i = 0; i < TR_SPECIAL_COUNT && !error; i++) {
        const json_t *value = json_object_get(config, tr_special_keys[i]);
        const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
        int32_t id = text && *text ? tr_tokenizer_find(t, text) : -1;
        t->specials[i] = id >= 0 ? id : t->specials[i];
        if (i == TR_SPECIAL_EOS && id >= 0)
            t->end_of_text = id;
    }
    json_decref(config);
    free(path);
    return error;
}

static tr_error *load_in_directory(const char *directory, tr_tokenizer **out)
{
    static const char *const files[] = {"tokenizer.json", "vocab.txt", "spiece.model", "tokenizer.model",
                                        "sentencepiece.bpe.model"};
    for (int64_t i = 0; i < TR_COUNT(files); i++)
        if (has(directory, files[i])) {
            char *path = tr_path_join(directory, files[i]);
            tr_error *error = load_file(path, out);
            free(path);
            return error;
        }
    if (has(directory, "vocab.json") && has(directory, "merges.txt"))
        return load_pair(directory, "vocab.json", "merges.txt", out);
    if (has(directory, "encoder.json") && has(directory, "vocab.bpe"))
        return load_pair(directory, "encoder.json", "vocab.bpe", out);
    return tr_error_new(
        TR_USER,
        "%s: no tokenizer in this directory: it needs tokenizer.json, vocab.txt, spiece.model or tokenizer.model, or "
        "vocab.json and merges.txt, or encoder.json and vocab.bpe",
        directory);
}

static tr_error *load_directory(const char *directory, tr_tokenizer **out)
{
    TR_TRY(load_in_directory(directory, out));
    tr_error *error = (*out)->kind == TR_TOKENIZER_BYTES ? NULL : read_special_names(*out, directory);
    if (error) {
        tr_tokenizer_free(*out);
        *out = NULL;
    }
    return error;
}

tr_error *tr_tokenizer_load(const char *spec, tr_tokenizer **out)
{
    *out = NULL;
    if (strcmp(spec, "bytes") == 0) {
        *out = tr_tokenizer_bytes_new();
        return NULL;
    }
    if (tr_path_is_directory(spec))
        return load_directory(spec, out);
    if (!tr_path_exists(spec))
        return tr_error_new(
            TR_USER,
            "no tokenizer '%s': give \"bytes\", a tokenizer.json, vocab.txt, *.model or *.gguf, or a directory with "
            "one (or with vocab.json and merges.txt)",
            spec);
    return load_file(spec, out);
}
