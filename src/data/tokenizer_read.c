/* Reading tokenizers: Hugging Face's tokenizer.json, and vocab.json + merges.txt.
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
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

/* Ids may have holes, but not more than this many beyond twice the number of tokens. */
enum { SPARE_IDS = 65536 };
static const int64_t FILE_BYTES = 1 << 30;

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
        if (t->kind == TR_TOKENIZER_BPE) {
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
    if (t->merge_count || t->vocab_size != 257 || t->added_count != 1 || t->prefix_space ||
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

static tr_error *check_bpe_model(const json_t *model, const char *where)
{
    static const char *const blanks[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    static const char *const falses[] = {"fuse_unk", "byte_fallback", "ignore_merges"};
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_absent(dropout) && json_number_value(dropout) != 0)
        return tr_error_new(TR_USER, "%s: BPE with dropout is not supported", where);
    for (int64_t i = 0; i < TR_COUNT(blanks); i++)
        if (!is_blank(json_object_get(model, blanks[i])))
            return tr_error_new(TR_USER, "%s: BPE with \"%s\" is not supported", where, blanks[i]);
    for (int64_t i = 0; i < TR_COUNT(falses); i++) {
        bool on;
        TR_TRY(read_flag(model, falses[i], false, where, &on));
        if (on)
            return tr_error_new(TR_USER, "%s: BPE with \"%s\" is not supported", where, falses[i]);
    }
    return NULL;
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

static tr_error *read_bpe_rules(tr_tokenizer *t, const json_t *root, const char *where)
{
    const json_t *before = json_object_get(root, "pre_tokenizer");
    if (is_absent(before))
        return tr_error_new(
            TR_USER, "%s: BPE without a pre-tokenizer is not supported: only ByteLevel is", where);
    if (strcmp(type_of(before), "ByteLevel") != 0)
        return tr_error_new(TR_USER,
                            "%s: the pre-tokenizer \"%s\" is not supported with BPE: only "
                            "ByteLevel is (as in GPT-2)",
                            where, type_of(before));
    TR_TRY(read_flag(before, "add_prefix_space", true, where, &t->prefix_space));
    TR_TRY(read_flag(before, "use_regex", true, where, &t->split));
    const json_t *decoder = json_object_get(root, "decoder");
    if (!is_absent(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0)
        return tr_error_new(TR_USER,
                            "%s: the decoder \"%s\" is not supported with BPE: only ByteLevel is",
                            where, type_of(decoder));
    return NULL;
}

/* The chars kind is a WordLevel model whose pre-tokenizer takes every character apart. */
static tr_error *read_chars_rules(const json_t *root, json_t *vocab, const char *where)
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
    return NULL;
}

/* True when a post-processor leaves the ids of a single text alone. */
static bool adds_nothing(const json_t *after)
{
    if (is_absent(after) || strcmp(type_of(after), "ByteLevel") == 0)
        return true;
    bool template = strcmp(type_of(after), "TemplateProcessing") == 0;
    if (!template && strcmp(type_of(after), "Sequence") != 0)
        return false;
    const json_t *parts = json_object_get(after, template ? "single" : "processors"), *part;
    size_t i;
    json_array_foreach(parts, i, part)
    {
        if (template ? !json_object_get(part, "Sequence")
                     : strcmp(type_of(part), "Sequence") == 0 || !adds_nothing(part))
            return false;
    }
    return true;
}

static tr_error *check_surroundings(const json_t *root, const char *where)
{
    const json_t *normalizer = json_object_get(root, "normalizer");
    if (!is_absent(normalizer) && (strcmp(type_of(normalizer), "Sequence") != 0 ||
                                   json_array_size(json_object_get(normalizer, "normalizers")) > 0))
        return tr_error_new(
            TR_USER, "%s: the normalizer \"%s\" is not supported: only texts taken as they are",
            where, type_of(normalizer));
    const json_t *after = json_object_get(root, "post_processor");
    if (!adds_nothing(after))
        return tr_error_new(
            TR_USER,
            "%s: the post-processor \"%s\" is not supported: only such as add no tokens to a "
            "text are",
            where, type_of(after));
    const json_t *added = json_object_get(root, "added_tokens");
    if (!is_absent(added) && !json_is_array(added))
        return tr_error_new(TR_USER, "%s: \"added_tokens\" must be a list", where);
    return NULL;
}

static tr_error *build(json_t *root, const char *where, tr_tokenizer **out)
{
    const json_t *model = json_object_get(root, "model");
    const char *type = type_of(model);
    json_t *vocab = json_object_get(model, "vocab"), *added = json_object_get(root, "added_tokens");
    if (!json_is_object(model))
        return tr_error_new(TR_USER, "%s: it has no \"model\": is it a tokenizer.json?", where);
    if (!*type && json_object_get(model, "merges"))
        type = "BPE";
    bool chars = strcmp(type, "WordLevel") == 0;
    if (!chars && strcmp(type, "BPE") != 0)
        return tr_error_new(
            TR_USER, "%s: the model \"%s\" is not supported: BPE is, and WordLevel of characters",
            where, type);
    if (!json_is_object(vocab))
        return tr_error_new(TR_USER, "%s: the model has no \"vocab\" of tokens and ids", where);
    TR_TRY(check_surroundings(root, where));
    int32_t size;
    TR_TRY(measure(vocab, added, where, &size));
    tr_tokenizer *t = tr_tokenizer_new(chars ? TR_TOKENIZER_CHARS : TR_TOKENIZER_BPE, size);
    tr_error *error = NULL;
    if (chars) {
        TR_GO(read_chars_rules(root, vocab, where));
    } else {
        TR_GO(check_bpe_model(model, where));
        TR_GO(read_bpe_rules(t, root, where));
    }
    TR_GO(read_vocab(t, vocab, where));
    TR_GO(read_unknown(t, model, vocab, where));
    TR_GO(read_added(t, added, vocab, where));
    if (!chars)
        TR_GO(read_merges(t, vocab, json_object_get(model, "merges"), where));
    finish_take(t, out);
    t = NULL;
done:
    tr_tokenizer_free(t);
    return error;
}

tr_error *tr_tokenizer_parse(const char *json, int64_t length, const char *where,
                             tr_tokenizer **out)
{
    json_t *root = NULL;
    *out = NULL;
    TR_TRY(parse(json, length, where, &root));
    tr_error *error = build(root, where, out);
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
    TR_GO(read_flag(config, "add_prefix_space", false, where, &t->prefix_space));
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

static tr_error *load_file(const char *path, tr_tokenizer **out)
{
    tr_map map;
    TR_TRY(open_map(path, &map));
    tr_error *error = tr_tokenizer_parse(map.bytes, map.size, path, out);
    tr_map_close(&map);
    return error;
}

static tr_error *load_json(const char *path, json_t **out)
{
    tr_map map;
    TR_TRY(open_map(path, &map));
    tr_error *error = parse(map.bytes, map.size, path, out);
    tr_map_close(&map);
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

static tr_error *load_directory(const char *directory, tr_tokenizer **out)
{
    if (has(directory, "tokenizer.json")) {
        char *path = tr_path_join(directory, "tokenizer.json");
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
        "%s: no tokenizer in this directory: it needs tokenizer.json, or vocab.json and "
        "merges.txt, or encoder.json and vocab.bpe",
        directory);
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
            "no tokenizer '%s': give \"bytes\", a tokenizer.json, or a directory with one (or with "
            "vocab.json and merges.txt)",
            spec);
    return load_file(spec, out);
}
