/* Tokenizers from the metadata of a GGUF file (tokenizer.ggml.*): the models gpt2 (byte-level BPE), llama
 * (SentencePiece's BPE), t5 (its Unigram) and bert (WordPiece). As with other formats, a tokenizer.json is made of
 * it.
 *
 * How the texts of a gpt2 model are cut is a name there (tokenizer.ggml.pre), whose meaning is in llama.cpp's source;
 * the table here has the patterns of those that we know, as the models' own tokenizer.json files have them.
 */
#include "data/gguf.h"
#include "data/tokenizer_internal.h"

#define KEY(name) "tokenizer.ggml." name
#define MARKER "\xE2\x96\x81"
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4 };

#define CL100K(digits)                                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" \
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define O200K                                                                                    \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"                                                              \
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"                                                              \
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef struct cutting {
    const char *names;   /* between spaces */
    const char *pattern; /* NULL: GPT-2's words */
    bool digits;         /* each apart, before */
    bool whole_words;    /* a piece that is a token is one, whatever the merges say */
} cutting;

static const cutting cuttings[] = {
    {" default gpt-2 gpt2 ", NULL, false, false},
    {" smollm starcoder refact command-r codeshell exaone ", NULL, true, false},
    {" llama-bpe llama-v3 llama3 ", CL100K("{1,3}"), false, true},
    {" qwen2 stablelm2 ", CL100K(""), false, false},
    {" gpt-4o o200k ", O200K, false, true},
};

static bool named(const char *names, tr_gguf_text name)
{
    char *padded = tr_format(" %.*s ", (int)TR_MIN(name.length, 1000), name.bytes);
    bool found = strstr(names, padded) != NULL;
    free(padded);
    return found;
}

static tr_error *find_cutting(const tr_gguf *g, const char *path, const cutting **out)
{
    tr_gguf_text name = {"default", 7};
    tr_text all = {0};
    tr_gguf_string(g, KEY("pre"), &name);
    for (int64_t i = 0; i < TR_COUNT(cuttings); i++) {
        *out = &cuttings[i];
        if (named(cuttings[i].names, name)) {
            tr_text_free(&all);
            return NULL;
        }
        tr_text_add(&all, cuttings[i].names, strlen(cuttings[i].names) - 1);
    }
    tr_error *error =
        tr_error_new(TR_USER, "%s: the pre-tokenizer \"%.*s\" of its tokenizer is not supported; these are:%s", path,
                     (int)TR_MIN(name.length, 100), name.bytes, all.bytes);
    tr_text_free(&all);
    return error;
}

typedef struct vocab {
    tr_gguf_array tokens, types, scores;
    const char *path;
} vocab;

static int64_t type_of(const vocab *v, int64_t id)
{
    return v->types.count ? tr_gguf_array_int(&v->types, id) : NORMAL;
}

static char *token_of(const vocab *v, int64_t id)
{
    tr_gguf_text text = tr_gguf_array_text(&v->tokens, id);
    return tr_strndup(text.bytes, (size_t)text.length);
}

static tr_error *open_vocab(const tr_gguf *g, const char *path, vocab *out)
{
    *out = (vocab){.path = path};
    if (!tr_gguf_array_find(g, KEY("tokens"), &out->tokens) || out->tokens.kind != TR_GGUF_TEXT || !out->tokens.count)
        return tr_error_new(TR_USER, "%s: it has no tokenizer (no " KEY("tokens") ")", path);
    bool types = tr_gguf_array_find(g, KEY("token_type"), &out->types);
    bool scores = tr_gguf_array_find(g, KEY("scores"), &out->scores);
    if ((types && (out->types.kind != TR_GGUF_INT || out->types.count != out->tokens.count)) ||
        (scores && (out->scores.kind != TR_GGUF_REAL || out->scores.count != out->tokens.count)))
        return tr_error_new(TR_USER, "%s: its tokenizer's types or scores are not one a token", path);
    return NULL;
}

static void add_token(json_t *added, const char *content, int64_t id, bool special)
{
    json_array_append_new(added,
                          json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", content,
                                    "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special));
}

/* {token: id}, and those to be found in a text before all else. */
static tr_error *vocab_json(const vocab *v, const char *prefix, json_t *tokens, json_t *added)
{
    tr_error *error = NULL;
    for (int64_t id = 0; id < v->tokens.count && !error; id++) {
        char *text = token_of(v, id);
        int64_t type = type_of(v, id);
        bool special = type == CONTROL || type == UNKNOWN;
        /* bert: "##" is left out, and words have a marker in its place. */
        if (prefix && !special) {
            size_t n = strlen(MARKER);
            bool word = strncmp(text, MARKER, n) == 0;
            char *whole = word ? tr_strdup(text + n) : tr_format("%s%s", prefix, text);
            free(text);
            text = whole;
        }
        if (json_object_get(tokens, text) || json_object_set_new(tokens, text, json_integer(id)))
            error = tr_error_new(TR_USER, "%s: token %lld of its tokenizer, \"%s\", is there twice or no UTF-8",
                                 v->path, (long long)id, text);
        else if (*text && (special || type == USER))
            add_token(added, text, id, type != USER);
        free(text);
    }
    return error;
}

static json_t *merges_json(const tr_gguf *g)
{
    tr_gguf_array merges;
    json_t *list = json_array();
    if (tr_gguf_array_find(g, KEY("merges"), &merges) && merges.kind == TR_GGUF_TEXT)
        for (int64_t i = 0; i < merges.count; i++) {
            tr_gguf_text text = tr_gguf_array_text(&merges, i);
            json_array_append_new(list, json_stringn(text.bytes, (size_t)text.length));
        }
    return list;
}

static tr_error *build_bpe(const tr_gguf *g, const vocab *v, tr_tokenizer **out)
{
    const cutting *how;
    TR_TRY(find_cutting(g, v->path, &how));
    json_t *tokens = json_object(), *added = json_array(), *merges = merges_json(g), *steps = json_array();
    tr_error *error = vocab_json(v, NULL, tokens, added);
    if (how->digits)
        json_array_append_new(steps, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    if (how->pattern)
        json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                               how->pattern, "behavior", "Isolated", "invert", 0));
    json_array_append_new(steps, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                                           "trim_offsets", 1, "use_regex", how->pattern == NULL));
    if (json_array_size(steps) == 1) {
        json_t *only = json_incref(json_array_get(steps, 0));
        json_decref(steps);
        steps = only;
    } else {
        steps = json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
    }
    json_t *root =
        json_pack("{s:o, s:o, s:{s:s, s:b, s:o, s:o}}", "added_tokens", added, "pre_tokenizer", steps, "model",
                  "type", "BPE", "ignore_merges", (int)how->whole_words, "vocab", tokens, "merges", merges);
    if (!error)
        error = root ? tr_tokenizer_build(root, v->path, out)
                     : tr_error_new(TR_USER, "%s: a merge of its tokenizer is no UTF-8", v->path);
    json_decref(root);
    return error;
}

static tr_error *build_bert(const vocab *v, tr_tokenizer **out)
{
    json_t *tokens = json_object(), *added = json_array();
    tr_error *error = vocab_json(v, "##", tokens, added);
    json_t *root = json_pack("{s:o, s:{s:s, s:b, s:b, s:n, s:b}, s:{s:s}, s:{s:s, s:s, s:s, s:i, s:o}}",
                             "added_tokens", added, "normalizer", "type", "BertNormalizer", "clean_text", 1,
                             "handle_chinese_chars", 1, "strip_accents", "lowercase", 1, "pre_tokenizer", "type",
                             "BertPreTokenizer", "model", "type", "WordPiece", "unk_token", "[UNK]",
                             "continuing_subword_prefix", "##", "max_input_chars_per_word", 100, "vocab", tokens);
    if (!error)
        error = tr_tokenizer_build(root, v->path, out);
    json_decref(root);
    return error;
}

static tr_error *build_pieces(const tr_gguf *g, const vocab *v, bool unigram, tr_tokenizer **out)
{
    tr_piece_model m = {.type = unigram ? 1 : 2,
                        .dummy_prefix = true,
                        .escape = true,
                        .fallback = !unigram,
                        .whole = !unigram,
                        .remove_spaces = unigram};
    tr_gguf_array map;
    int64_t unknown = unigram ? 2 : 0;
    if (!v->scores.count)
        return tr_error_new(TR_USER, "%s: its tokenizer has no scores", v->path);
    tr_gguf_bool(g, KEY("add_space_prefix"), &m.dummy_prefix);
    tr_gguf_bool(g, KEY("remove_extra_whitespaces"), &m.remove_spaces);
    tr_gguf_int(g, KEY("unknown_token_id"), &unknown);
    m.unknown = (uint64_t)unknown;
    char *bytes = NULL;
    if (unigram && tr_gguf_array_find(g, KEY("precompiled_charsmap"), &map) && map.kind == TR_GGUF_INT) {
        bytes = tr_alloc((size_t)map.count + 1);
        for (int64_t i = 0; i < map.count; i++)
            bytes[i] = (char)tr_gguf_array_int(&map, i);
        m.charsmap = bytes;
        m.charsmap_length = map.count;
    }
    for (int64_t id = 0; id < v->tokens.count; id++)
        tr_push(m.pieces, m.count, m.room) =
            (tr_scored_piece){token_of(v, id), (float)tr_gguf_array_real(&v->scores, id), (uint64_t)type_of(v, id)};
    tr_error *error = tr_tokenizer_build_pieces(&m, NULL, v->path, out);
    tr_piece_model_end(&m);
    free(bytes);
    return error;
}

/* The file's own numbers of special tokens count before what their names suggest. */
static void set_specials(const tr_gguf *g, tr_tokenizer *t)
{
    static const char *const keys[TR_SPECIAL_COUNT] = {
        [TR_SPECIAL_PAD] = KEY("padding_token_id"), [TR_SPECIAL_UNKNOWN] = KEY("unknown_token_id"),
        [TR_SPECIAL_CLS] = KEY("cls_token_id"),     [TR_SPECIAL_SEP] = KEY("seperator_token_id"),
        [TR_SPECIAL_MASK] = KEY("mask_token_id"),   [TR_SPECIAL_BOS] = KEY("bos_token_id"),
        [TR_SPECIAL_EOS] = KEY("eos_token_id"),
    };
    int64_t id;
    for (int i = 0; i < TR_SPECIAL_COUNT; i++)
        if (tr_gguf_int(g, keys[i], &id) && id >= 0 && id < t->vocab_size)
            t->specials[i] = (int32_t)id;
    if (t->specials[TR_SPECIAL_EOS] >= 0)
        t->end_of_text = t->specials[TR_SPECIAL_EOS];
    bool bos = false;
    if (tr_gguf_bool(g, KEY("add_bos_token"), &bos) && bos && t->specials[TR_SPECIAL_BOS] >= 0 && !t->before.count)
        tr_push(t->before.items, t->before.count, t->before.room) = t->specials[TR_SPECIAL_BOS];
}

tr_error *tr_tokenizer_from_gguf_file(const tr_gguf *g, const char *path, tr_tokenizer **out)
{
    tr_gguf_text model = {"", 0};
    vocab v;
    tr_error *error;
    *out = NULL;
    TR_TRY(open_vocab(g, path, &v));
    tr_gguf_string(g, KEY("model"), &model);
    if (named(" gpt2 ", model))
        error = build_bpe(g, &v, out);
    else if (named(" llama t5 ", model))
        error = build_pieces(g, &v, model.bytes[0] == 't', out);
    else if (named(" bert ", model))
        error = build_bert(&v, out);
    else
        error = tr_error_new(TR_USER, "%s: the tokenizer \"%.*s\" is not supported: gpt2, llama, t5 and bert are",
                             path, (int)TR_MIN(model.length, 100), model.bytes);
    if (!error)
        set_specials(g, *out);
    return error;
}

tr_error *tr_tokenizer_from_gguf(const char *path, tr_tokenizer **out)
{
    tr_gguf *g;
    *out = NULL;
    TR_TRY(tr_gguf_open(path, &g));
    tr_error *error = tr_tokenizer_from_gguf_file(g, path, out);
    tr_gguf_close(g);
    return error;
}
