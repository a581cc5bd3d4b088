/* Writing tokenizers in Hugging Face's layout.
 *
 * tokenizer.json holds everything; vocab.json and merges.txt repeat it for readers of the older
 * layout, and tokenizer_config.json tells `transformers` which class opens it. Tokens are written
 * in the order of their ids, so equal tokenizers give equal files.
 *
 *   bpe        model BPE
 *   bytes      the same without merges, pre-tokenizer and decoder ByteLevel
 *   chars      model WordLevel, pre-tokenizer Split that takes every character apart, decoder Fuse
 *   wordpiece  model WordPiece, and vocab.txt
 *   unigram    model Unigram
 * Normalizer, pre-tokenizer, post-processor and decoder are written as they were read.
 */
#include "base/file.h"
#include "data/tokenizer_internal.h"
#include "data/unicode.h"

static void add(tr_text *out, const char *text)
{
    tr_text_add(out, text, strlen(text));
}

/* A JSON string. `text` is valid UTF-8: it came from JSON, or was made by token_text. */
static void add_string(tr_text *out, const char *text, int64_t length)
{
    add(out, "\"");
    for (int64_t i = 0; i < length; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c == '"' || c == '\\')
            tr_text_format(out, "\\%c", c);
        else if (c < 32 || c == 127)
            tr_text_format(out, "\\u%04x", c);
        else
            tr_text_add(out, text + i, 1);
    }
    add(out, "\"");
}

/* What stands for the token in a vocabulary, appended to *out. */
static void token_text(const tr_tokenizer *t, int32_t id, tr_text *out)
{
    const char *bytes = t->pool.bytes + t->start[id];
    if (!t->pre.byte_level || (t->flags[id] & TOKEN_RAW)) {
        tr_text_add(out, bytes, (size_t)t->length[id]);
        return;
    }
    for (int32_t i = 0; i < t->length[id]; i++) {
        char character[4];
        int n = tr_utf8_encode(tr_byte_char((uint8_t)bytes[i]), character);
        tr_text_add(out, character, (size_t)n);
    }
}

static void add_vocab(const tr_tokenizer *t, const char *indent, tr_text *out)
{
    tr_text text = {0};
    bool any = false;
    add(out, "{");
    for (int32_t id = 0; id < t->vocab_size; id++) {
        if ((t->flags[id] & (TOKEN_PRESENT | TOKEN_ADDED)) != TOKEN_PRESENT)
            continue;
        text.length = 0;
        token_text(t, id, &text);
        tr_text_format(out, "%s\n%s  ", any ? "," : "", indent);
        add_string(out, text.bytes, (int64_t)text.length);
        tr_text_format(out, ": %d", id);
        any = true;
    }
    tr_text_format(out, "\n%s}", indent);
    tr_text_free(&text);
}

/* "left right" of every merge, with what goes before and after each. */
static void add_merges(const tr_tokenizer *t, bool json, tr_text *out)
{
    tr_text text = {0};
    for (int64_t i = 0; i < t->merge_count; i++) {
        text.length = 0;
        token_text(t, t->merges[i].left, &text);
        if (json) {
            add(out, i ? ",\n      [" : "\n      [");
            add_string(out, text.bytes, (int64_t)text.length);
            add(out, ", ");
            text.length = 0;
            token_text(t, t->merges[i].right, &text);
            add_string(out, text.bytes, (int64_t)text.length);
            add(out, "]");
        } else {
            tr_text_add(&text, " ", 1);
            token_text(t, t->merges[i].right, &text);
            tr_text_add(&text, "\n", 1);
            tr_text_add(out, text.bytes, text.length);
        }
    }
    tr_text_free(&text);
}

static const char *boolean(bool value)
{
    return value ? "true" : "false";
}

static int by_id(const void *a, const void *b)
{
    int32_t x = (*(const tr_added *const *)a)->id, y = (*(const tr_added *const *)b)->id;
    return (x > y) - (x < y);
}

/* In the order of ids, which is the order in which their readers number them. The caller frees. */
static const tr_added **sorted_added(const tr_tokenizer *t)
{
    const tr_added **sorted = tr_alloc_zero((size_t)t->added_count + 1, sizeof *sorted);
    for (int64_t i = 0; i < t->added_count; i++)
        sorted[i] = &t->added[i];
    if (t->added_count)
        qsort(sorted, (size_t)t->added_count, sizeof *sorted, by_id);
    return sorted;
}

static void add_added_fields(const tr_added *added, tr_text *out)
{
    add(out, "\"content\": ");
    add_string(out, added->content, added->length);
    tr_text_format(out,
                   ", \"single_word\": false, \"lstrip\": %s, \"rstrip\": %s, \"normalized\": %s, "
                   "\"special\": %s}",
                   boolean(added->left_strip), boolean(added->right_strip),
                   boolean(added->normalized), boolean(added->special));
}

/* The rules as they were read; those of bytes and characters, which may never have been read, from what they say. */
static void add_rules(const tr_tokenizer *t, tr_text *out)
{
    bool chars = t->kind == TR_TOKENIZER_CHARS;
    for (int i = 0; i < TR_RULES; i++) {
        tr_text_format(out, "  \"%s\": ", tr_rule_names[i]);
        bool byte_level = t->pre.byte_level && (i == TR_RULE_DECODER || (i == TR_RULE_PRE_TOKENIZER && !t->rules[i]));
        if (byte_level)
            tr_text_format(out,
                           "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, \"trim_offsets\": true, "
                           "\"use_regex\": %s}",
                           boolean(t->pre.prefix_space), boolean(t->pre.stage_count > 0));
        else if (t->rules[i])
            add(out, t->rules[i]);
        else if (chars && i == TR_RULE_PRE_TOKENIZER) {
            add(out, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
            add_string(out, CHARS_PATTERN, sizeof CHARS_PATTERN - 1);
            add(out, "}, \"behavior\": \"Isolated\", \"invert\": false}");
        } else {
            add(out, chars && i == TR_RULE_DECODER ? "{\"type\": \"Fuse\"}" : "null");
        }
        add(out, ",\n");
    }
}

static void add_token_or_null(const tr_tokenizer *t, int32_t id, tr_text *out)
{
    tr_text text = {0};
    if (id < 0) {
        add(out, "null");
        return;
    }
    token_text(t, id, &text);
    add_string(out, text.bytes, (int64_t)text.length);
    tr_text_free(&text);
}

/* [[text, score], ...] in the order of ids. */
static void add_scored_vocab(const tr_tokenizer *t, tr_text *out)
{
    add(out, "[");
    for (int32_t id = 0; id < t->vocab_size; id++) {
        if ((t->flags[id] & (TOKEN_PRESENT | TOKEN_ADDED)) != TOKEN_PRESENT)
            continue;
        add(out, id ? ",\n      [" : "\n      [");
        add_string(out, t->pool.bytes + t->start[id], t->length[id]);
        tr_text_format(out, ", %.17g]", t->scores[id]);
    }
    add(out, "\n    ]");
}

static void add_model(const tr_tokenizer *t, tr_text *out)
{
    switch (t->kind) {
    case TR_TOKENIZER_UNIGRAM:
        tr_text_format(out, "    \"type\": \"Unigram\",\n    \"unk_id\": %d,\n    \"byte_fallback\": %s,\n    \"vocab\": ",
                       t->unknown, boolean(t->byte_fallback));
        add_scored_vocab(t, out);
        return;
    case TR_TOKENIZER_WORDPIECE:
        add(out, "    \"type\": \"WordPiece\",\n    \"continuing_subword_prefix\": ");
        add_string(out, t->prefix, (int64_t)strlen(t->prefix));
        tr_text_format(out, ",\n    \"max_input_chars_per_word\": %lld,\n", (long long)t->longest_word);
        break;
    case TR_TOKENIZER_CHARS:
        add(out, "    \"type\": \"WordLevel\",\n");
        break;
    default:
        tr_text_format(out,
                       "    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"continuing_subword_prefix\": "
                       "null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": %s,\n    "
                       "\"byte_fallback\": %s,\n    \"ignore_merges\": %s,\n",
                       boolean(t->fuse_unknown), boolean(t->byte_fallback), boolean(t->ignore_merges));
    }
    add(out, "    \"unk_token\": ");
    add_token_or_null(t, t->unknown, out);
    add(out, ",\n    \"vocab\": ");
    add_vocab(t, "    ", out);
    if (t->kind == TR_TOKENIZER_BPE || t->kind == TR_TOKENIZER_BYTES) {
        add(out, ",\n    \"merges\": [");
        add_merges(t, true, out);
        add(out, t->merge_count ? "\n    ]" : "]");
    }
}

static void tokenizer_json(const tr_tokenizer *t, tr_text *out)
{
    add(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  "
             "\"added_tokens\": [");
    const tr_added **added = sorted_added(t);
    for (int64_t i = 0; i < t->added_count; i++) {
        tr_text_format(out, "%s\n    {\"id\": %d, ", i ? "," : "", added[i]->id);
        add_added_fields(added[i], out);
    }
    free(added);
    add(out, "\n  ],\n");
    add_rules(t, out);
    add(out, "  \"model\": {\n");
    add_model(t, out);
    add(out, "\n  }\n}\n");
}

static bool is_gpt2(const tr_tokenizer *t)
{
    return t->kind == TR_TOKENIZER_BYTES || (t->kind == TR_TOKENIZER_BPE && t->pre.byte_level && !t->normalizer &&
                                             t->pre.stage_count == 1 && t->pre.stages[0].kind == TR_STAGE_GPT2);
}

/* The class by which `transformers` opens the directory, and the names of the special tokens. */
static void config_json(const tr_tokenizer *t, tr_text *out)
{
    bool gpt2 = is_gpt2(t), bert = t->kind == TR_TOKENIZER_WORDPIECE;
    /* 2^53 is exact in every reader and means: no limit. */
    tr_text_format(out,
                   "{\n  \"tokenizer_class\": \"%s\",\n  \"model_max_length\": 9007199254740992,\n",
                   gpt2 ? "GPT2Tokenizer" : bert ? "BertTokenizer" : "PreTrainedTokenizerFast");
    if (t->pre.byte_level || t->kind == TR_TOKENIZER_CHARS)
        tr_text_format(out, "  \"add_prefix_space\": %s,\n", boolean(t->pre.prefix_space));
    if (bert && t->rules[TR_RULE_NORMALIZER])
        tr_text_format(out, "  \"do_lower_case\": %s,\n",
                       boolean(strstr(t->rules[TR_RULE_NORMALIZER], "\"lowercase\": true") != NULL));
    tr_text_format(out, "  \"clean_up_tokenization_spaces\": %s,\n", boolean(bert));
    for (int i = 0; i < TR_SPECIAL_COUNT; i++) {
        int32_t id = t->specials[i];
        if (gpt2 && (i == TR_SPECIAL_UNKNOWN || i == TR_SPECIAL_BOS || i == TR_SPECIAL_EOS))
            id = t->end_of_text;
        if (id < 0)
            continue;
        tr_text_format(out, "  \"%s\": ", tr_special_keys[i]);
        add_token_or_null(t, id, out);
        add(out, ",\n");
    }
    add(out, "  \"added_tokens_decoder\": {");
    const tr_added **added = sorted_added(t);
    for (int64_t i = 0; i < t->added_count; i++) {
        tr_text_format(out, "%s\n    \"%d\": {", i ? "," : "", added[i]->id);
        add_added_fields(added[i], out);
    }
    free(added);
    add(out, "\n  }\n}\n");
}

tr_error *tr_tokenizer_save_file(const tr_tokenizer *t, const char *path)
{
    tr_text text = {0};
    tokenizer_json(t, &text);
    tr_error *error = tr_file_write(path, text.bytes, (int64_t)text.length);
    tr_text_free(&text);
    return error;
}

static tr_error *write_in(const char *directory, const char *name, const tr_text *text)
{
    char *path = tr_path_join(directory, name);
    tr_error *error = tr_file_write(path, text->bytes, (int64_t)text->length);
    free(path);
    return error;
}

/* The files of the older layouts: vocab.json and merges.txt, or vocab.txt (a token a line, if no id is missing). */
static tr_error *write_older(const tr_tokenizer *t, const char *directory)
{
    tr_text text = {0};
    tr_error *error = NULL;
    if (is_gpt2(t)) {
        add_vocab(t, "", &text);
        add(&text, "\n");
        TR_GO(write_in(directory, "vocab.json", &text));
        text.length = 0;
        add(&text, "#version: 0.2\n");
        add_merges(t, false, &text);
        TR_GO(write_in(directory, "merges.txt", &text));
    }
    if (t->kind == TR_TOKENIZER_WORDPIECE) {
        for (int32_t id = 0; id < t->vocab_size; id++) {
            if (t->flags[id] & TOKEN_ADDED)
                continue;
            if (!(t->flags[id] & TOKEN_PRESENT))
                goto done;
            tr_text_add(&text, t->pool.bytes + t->start[id], (size_t)t->length[id]);
            add(&text, "\n");
        }
        TR_GO(write_in(directory, "vocab.txt", &text));
    }
done:
    tr_text_free(&text);
    return error;
}

tr_error *tr_tokenizer_save(const tr_tokenizer *t, const char *directory)
{
    tr_text text = {0};
    tr_error *error = NULL;
    TR_GO(tr_directory_make(directory));
    tokenizer_json(t, &text);
    TR_GO(write_in(directory, "tokenizer.json", &text));
    text.length = 0;
    config_json(t, &text);
    TR_GO(write_in(directory, "tokenizer_config.json", &text));
    error = write_older(t, directory);
done:
    tr_text_free(&text);
    return error;
}
