/* Sources of training data; see source.h.
 *
 * Three steps: list the files, group them into shards, and for each group open the cached shard or
 * tokenise. Tokenising collects documents into batches of about BATCH_BYTES; the documents of a
 * batch are encoded in parallel, one thread a document, and written in order. A text longer than a
 * batch is encoded in pieces, each by all threads.
 *
 * The maps of the files in a batch stay open until it is written.
 */
#define _GNU_SOURCE
#include "data/source.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <omp.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/suggest.h"
#include "data/tokenizer_identity.h"

enum {
    CACHE_VERSION =
        1, /* goes into the cache's names: raise it when the same text gives other tokens */
    BATCH_BYTES = 8 << 20,
    BATCH_DOCUMENTS = 4096,
    SNIFF_BYTES = 8192,
    DEPTH_LIMIT = 64,
};
static const int64_t SHARD_TEXT_BYTES = 512ll << 20;

typedef enum file_kind { FILE_TEXT, FILE_JSONL, FILE_SHARD, FILE_BINARY } file_kind;

typedef struct input_file {
    char *path;
    file_kind kind;
    int64_t size, mtime_ns;
} input_file;

typedef struct file_list {
    input_file *items;
    int64_t count, room;
} file_list;

/* Listing. */

static bool ends_with(const char *path, const char *ending)
{
    size_t length = strlen(path), tail = strlen(ending);
    return length > tail && strcasecmp(path + length - tail, ending) == 0;
}

static tr_error *sniff(const char *path, file_kind *out)
{
    char bytes[SNIFF_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tr_error_errno(TR_USER, errno, "cannot open %s", path);
    ssize_t got = read(fd, bytes, sizeof bytes);
    int code = errno;
    close(fd);
    if (got < 0)
        return tr_error_errno(TR_RUN, code, "cannot read %s", path);
    if (tr_shard_is_ours(bytes, got))
        *out = FILE_SHARD;
    else
        *out = memchr(bytes, '\0', (size_t)got) ? FILE_BINARY : FILE_TEXT;
    return NULL;
}

/* Names that are trusted to be what they say: no need to open each of a million files to find out.
 */
static bool kind_of_name(const char *path, file_kind *out)
{
    static const struct {
        const char *ending;
        file_kind kind;
    } known[] = {{".jsonl", FILE_JSONL},  {".ndjson", FILE_JSONL}, {".bin", FILE_SHARD},
                 {".tokens", FILE_SHARD}, {".txt", FILE_TEXT},     {".md", FILE_TEXT}};
    for (int64_t i = 0; i < TR_COUNT(known); i++)
        if (ends_with(path, known[i].ending)) {
            *out = known[i].kind;
            return true;
        }
    return false;
}

static tr_error *list(tr_corpus *source, const char *path, int depth, file_list *files);

static tr_error *list_directory(tr_corpus *source, const char *path, int depth, file_list *files)
{
    if (depth >= DEPTH_LIMIT)
        return tr_error_new(TR_USER,
                            "%s is more than %d directories deep; does a link lead back up?", path,
                            DEPTH_LIMIT);
    char **names;
    int64_t count;
    TR_TRY(tr_directory_list(path, &names, &count));
    tr_error *error = NULL;
    for (int64_t i = 0; i < count && !error; i++) {
        if (names[i][0] == '.')
            continue;
        char *child = tr_path_join(path, names[i]);
        error = list(source, child, depth + 1, files);
        free(child);
    }
    tr_names_free(names, count);
    return error;
}

static tr_error *list(tr_corpus *source, const char *path, int depth, file_list *files)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        if (depth > 0 && errno == ENOENT)
            return NULL; /* a link to nothing */
        return tr_error_errno(TR_USER, errno, "cannot read the data %s", path);
    }
    if (S_ISDIR(info.st_mode))
        return list_directory(source, path, depth, files);
    if (!S_ISREG(info.st_mode)) {
        if (depth > 0)
            return NULL;
        return tr_error_new(TR_USER, "the data %s is a pipe or a device; write it to a file first",
                            path);
    }
    file_kind kind;
    if (!kind_of_name(path, &kind))
        TR_TRY(sniff(path, &kind));
    if (kind == FILE_BINARY) {
        if (depth == 0)
            return tr_error_new(
                TR_USER,
                "the data %s is neither text nor JSONL nor a token shard: it holds NUL "
                "bytes; if it is compressed, unpack it first",
                path);
        if (!source->first_skipped)
            source->first_skipped = tr_strdup(path);
        source->skipped++;
        return NULL;
    }
    if (depth == 0 && ends_with(path, ".json"))
        return tr_error_new(
            TR_USER,
            "the data %s is JSON; write one object a line with a member \"text\" and name "
            "it .jsonl, or rename it to .txt to train on the JSON itself",
            path);
    tr_push(files->items, files->count, files->room) =
        (input_file){tr_strdup(path), kind, info.st_size,
                     (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec};
    return NULL;
}

static void file_list_free(file_list *files)
{
    for (int64_t i = 0; i < files->count; i++)
        free(files->items[i].path);
    free(files->items);
}

/* Tokenising. */

typedef struct document {
    const char *bytes;
    int64_t length, line; /* line > 0: a line of JSONL, still to be parsed */
    const char *path;
    tr_ids ids;
    int64_t text_bytes;
    tr_error *error;
} document;

typedef struct builder {
    const tr_corpus_options *options;
    const char *field;
    tr_shard_writer *writer;
    int32_t end_of_text;
    int threads;
    document *documents;
    int64_t document_count, document_room, batch_bytes;
    tr_map *maps; /* of the files in the batch; the last one is the current file's */
    int64_t map_count, map_room;
    int64_t done_bytes, total_bytes;
} builder;

static tr_error *field_missing(const document *d, const json_t *object, const char *field)
{
    const char *keys[64], *key;
    json_t *value;
    int64_t count = 0;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (count < TR_COUNT(keys))
            keys[count++] = key;
    }
    const char *near = tr_suggest(field, keys, count);
    tr_text names = {0};
    for (int64_t i = 0; i < TR_MIN(count, 8); i++)
        tr_text_format(&names, "%s\"%s\"", i ? ", " : "", keys[i]);
    tr_error *error =
        tr_error_new(TR_USER, "%s:%lld: the object has no member \"%s\"%s%s%s; it has %s", d->path,
                     (long long)d->line, field, near ? " (did you mean \"" : "", near ? near : "",
                     near ? "\"?)" : "", count ? names.bytes : "none");
    tr_text_free(&names);
    return error;
}

static void encode_json(const builder *b, document *d)
{
    json_error_t where;
    json_t *object = json_loadb(d->bytes, (size_t)d->length, JSON_ALLOW_NUL, &where);
    const json_t *text = object ? json_object_get(object, b->field) : NULL;
    if (!object)
        d->error = tr_error_new(TR_USER, "%s:%lld: the line is not a JSON object (column %d: %s)",
                                d->path, (long long)d->line, where.column, where.text);
    else if (!json_is_object(object))
        d->error =
            tr_error_new(TR_USER, "%s:%lld: the line is JSON, but not an object like {\"%s\": ...}",
                         d->path, (long long)d->line, b->field);
    else if (!text)
        d->error = field_missing(d, object, b->field);
    else if (!json_is_string(text))
        d->error = tr_error_new(TR_USER, "%s:%lld: the member \"%s\" is not a text", d->path,
                                (long long)d->line, b->field);
    if (!d->error) {
        d->text_bytes = (int64_t)json_string_length(text);
        tr_tokenizer_encode(b->options->tokenizer, json_string_value(text), d->text_bytes, false,
                            &d->ids);
    }
    json_decref(object);
}

static void encode_document(const builder *b, document *d)
{
    if (d->line) {
        encode_json(b, d);
        return;
    }
    d->text_bytes = d->length;
    tr_tokenizer_encode(b->options->tokenizer, d->bytes, d->length, false, &d->ids);
}

static tr_error *end_document(builder *b, bool any_ids, int64_t text_bytes)
{
    if (any_ids && b->end_of_text >= 0)
        TR_TRY(tr_shard_writer_add(b->writer, &b->end_of_text, 1));
    tr_shard_writer_end_document(b->writer, text_bytes);
    return NULL;
}

static void report(builder *b, const char *path, int64_t more_bytes)
{
    b->done_bytes += more_bytes;
    if (b->options->progress)
        b->options->progress(b->options->context, path, b->done_bytes, b->total_bytes);
}

/* Encodes and writes what is collected. `keep_map`: the current file is not done yet. */
static tr_error *flush(builder *b, bool keep_map)
{
    tr_error *error = NULL;
#pragma omp parallel for schedule(dynamic, 1) num_threads(b->threads)
    for (int64_t i = 0; i < b->document_count; i++)
        encode_document(b, &b->documents[i]);
    for (int64_t i = 0; i < b->document_count; i++) {
        document *d = &b->documents[i];
        if (error) /* the first one is reported */
            tr_error_free(d->error);
        else
            error = d->error;
        if (!error && d->ids.count)
            error = tr_shard_writer_add(b->writer, d->ids.items, d->ids.count);
        if (!error)
            error = end_document(b, d->ids.count > 0, d->text_bytes);
        tr_ids_free(&d->ids);
    }
    if (b->document_count && !error)
        report(b, b->documents[b->document_count - 1].path, b->batch_bytes);
    b->document_count = b->batch_bytes = 0;
    int64_t kept = keep_map && b->map_count ? 1 : 0;
    for (int64_t i = 0; i < b->map_count - kept; i++)
        tr_map_close(&b->maps[i]);
    if (kept)
        b->maps[0] = b->maps[b->map_count - 1];
    b->map_count = kept;
    return error;
}

static tr_error *add_document(builder *b, document d)
{
    tr_push(b->documents, b->document_count, b->document_room) = d;
    b->batch_bytes += d.length;
    if (b->batch_bytes >= BATCH_BYTES || b->document_count >= BATCH_DOCUMENTS)
        return flush(b, true);
    return NULL;
}

/* Gives the pages of bytes [*dropped, done) of a map back, or a large file would count as memory in
 * use. */
static void drop_pages(const tr_map *map, int64_t done, int64_t *dropped)
{
    int64_t page = sysconf(_SC_PAGESIZE), end = done / page * page;
    if (end > *dropped)
        madvise((void *)(uintptr_t)(map->bytes + *dropped), (size_t)(end - *dropped),
                MADV_DONTNEED);
    *dropped = TR_MAX(*dropped, end);
}

static tr_error *add_long_text(builder *b, const char *path, const tr_map *map)
{
    tr_ids ids = {0};
    tr_error *error = NULL;
    int64_t at = 0, dropped = 0, total = 0;
    while (at < map->size) {
        int64_t left = map->size - at, piece = TR_MIN(left, (int64_t)BATCH_BYTES);
        while (piece < left &&
               !tr_tokenizer_cut_ok(b->options->tokenizer, map->bytes + at, left, piece))
            piece++;
        ids.count = 0;
        tr_tokenizer_encode_parallel(b->options->tokenizer, map->bytes + at, piece, false,
                                     b->threads, &ids);
        TR_GO(tr_shard_writer_add(b->writer, ids.items, ids.count));
        total += ids.count;
        at += piece;
        drop_pages(map, at, &dropped);
        report(b, path, piece);
    }
    error = end_document(b, total > 0, map->size);
done:
    tr_ids_free(&ids);
    return error;
}

static tr_error *add_lines(builder *b, const char *path, const tr_map *map)
{
    int64_t dropped = 0, line = 0, at = 0;
    if (map->size >= 3 && memcmp(map->bytes, "\xEF\xBB\xBF", 3) == 0)
        at = 3;
    while (at < map->size) {
        const char *start = map->bytes + at;
        const char *newline = memchr(start, '\n', (size_t)(map->size - at));
        int64_t length = newline ? newline - start : map->size - at;
        bool blank = true;
        for (int64_t i = 0; i < length && blank; i++)
            blank = isspace((unsigned char)start[i]);
        line++;
        if (!blank)
            TR_TRY(add_document(
                b, (document){.bytes = start, .length = length, .line = line, .path = path}));
        at += length + 1;
        if (b->document_count == 0)
            drop_pages(map, TR_MIN(at, map->size), &dropped);
    }
    return NULL;
}

static tr_error *add_file(builder *b, const input_file *file)
{
    tr_map map;
    TR_TRY(tr_map_open(file->path, &map));
    tr_push(b->maps, b->map_count, b->map_room) = map;
    if (file->kind == FILE_JSONL)
        return add_lines(b, file->path, &map);
    if (map.size < BATCH_BYTES / 2)
        return add_document(b,
                            (document){.bytes = map.bytes, .length = map.size, .path = file->path});
    TR_TRY(flush(b, true));
    return add_long_text(b, file->path, &map);
}

static tr_error *build(const tr_corpus_options *options, const char *path, const input_file *files,
                       int64_t count)
{
    const tr_tokenizer *tokenizer = options->tokenizer;
    builder b = {.options = options,
                 .field = options->text_field ? options->text_field : "text",
                 .end_of_text = tr_tokenizer_end_of_text(tokenizer),
                 .threads = options->threads > 0 ? options->threads : omp_get_max_threads()};
    for (int64_t i = 0; i < count; i++)
        b.total_bytes += files[i].size;
    tr_shard_options shard = {.vocab = tr_tokenizer_vocab_size(tokenizer),
                              .end_of_text = b.end_of_text,
                              .tokenizer = tr_tokenizer_fingerprint(tokenizer)};
    tr_error *error = tr_shard_writer_open(path, &shard, &b.writer);
    for (int64_t i = 0; i < count && !error; i++)
        error = add_file(&b, &files[i]);
    if (error)
        b.document_count = 0;
    tr_error *last = flush(&b, false);
    if (!error)
        error = last;
    if (error)
        tr_shard_writer_drop(b.writer);
    else
        error = tr_shard_writer_commit_take(b.writer);
    free(b.documents);
    free(b.maps);
    return error;
}

/* The cache. */

static char *cache_path(const tr_corpus_options *options, const input_file *files, int64_t count)
{
    uint64_t key = tr_hash_word(CACHE_VERSION, tr_tokenizer_fingerprint(options->tokenizer));
    const char *field = options->text_field ? options->text_field : "text";
    for (int64_t i = 0; i < count; i++) {
        char whole[PATH_MAX];
        const char *path = realpath(files[i].path, whole) ? whole : files[i].path;
        key = tr_hash_bytes(key, path, (int64_t)strlen(path));
        key = tr_hash_word(key, (uint64_t)files[i].size);
        key = tr_hash_word(key, (uint64_t)files[i].mtime_ns);
        key = tr_hash_word(key, (uint64_t)files[i].kind);
        if (files[i].kind == FILE_JSONL)
            key = tr_hash_bytes(key, field, (int64_t)strlen(field));
    }
    const char *slash = strrchr(files[0].path, '/'), *base = slash ? slash + 1 : files[0].path;
    char *name = tr_format("%.80s-%016llx.tokens", base, (unsigned long long)key);
    char *path = tr_path_join(options->cache, name);
    free(name);
    return path;
}

static void add_shard(tr_corpus *source, tr_shard *shard)
{
    tr_push(source->shards, source->shard_count, source->shard_room) = shard;
    source->tokens += shard->tokens;
    source->documents += shard->documents;
    source->text_bytes += shard->text_bytes;
}

static tr_error *add_texts(tr_corpus *source, const tr_corpus_options *options,
                           const input_file *files, int64_t count)
{
    if (!options->tokenizer)
        return tr_error_new(TR_USER, "%s is text, and no tokenizer is given to turn it into tokens",
                            files[0].path);
    tr_shard *shard = NULL;
    char *path = cache_path(options, files, count);
    tr_error *error = tr_path_exists(path) ? tr_shard_open(path, &shard) : NULL;
    if (error || (shard && shard->tokenizer != tr_tokenizer_fingerprint(options->tokenizer))) {
        tr_error_free(error); /* a damaged shard in our own cache: make it again */
        tr_shard_free(shard);
        shard = NULL;
        error = NULL;
    }
    if (!shard) {
        TR_GO(tr_directory_make(options->cache));
        TR_GO(build(options, path, files, count));
        source->built++;
        TR_GO(tr_shard_open(path, &shard));
    }
    add_shard(source, shard);
done:
    free(path);
    return error;
}

static tr_error *add_tokens(tr_corpus *source, const tr_corpus_options *options, const char *path)
{
    tr_shard *shard;
    TR_TRY(tr_shard_open(path, &shard));
    const tr_tokenizer *tokenizer = options->tokenizer;
    if (tokenizer && shard->tokenizer && shard->tokenizer != tr_tokenizer_fingerprint(tokenizer)) {
        tr_shard_free(shard);
        return tr_error_new(TR_USER,
                            "%s was made with another tokenizer than the one of this run; set "
                            "data.tokenizer to that one, or give the text instead of the shard",
                            path);
    }
    add_shard(source, shard);
    return NULL;
}

tr_error *tr_corpus_open(const char *path, const tr_corpus_options *options, tr_corpus **out)
{
    *out = NULL;
    file_list files = {0};
    tr_corpus *source = tr_alloc_zero(1, sizeof *source);
    source->name = tr_strdup(path);
    tr_error *error = NULL;
    TR_GO(list(source, path, 0, &files));
    if (files.count == 0) {
        error =
            tr_error_new(TR_USER, "the data directory %s holds no text, JSONL or token files%s%s",
                         path, source->skipped ? "; binary files are not read, such as " : "",
                         source->skipped ? source->first_skipped : "");
        goto done;
    }
    for (int64_t i = 0, next; i < files.count; i = next) {
        next = i + 1;
        if (files.items[i].kind == FILE_SHARD) {
            TR_GO(add_tokens(source, options, files.items[i].path));
            continue;
        }
        int64_t bytes = files.items[i].size;
        while (next < files.count && files.items[next].kind != FILE_SHARD &&
               files.items[next].size <= SHARD_TEXT_BYTES - bytes)
            bytes += files.items[next++].size;
        TR_GO(add_texts(source, options, &files.items[i], next - i));
    }
    *out = source;
    source = NULL;
done:
    file_list_free(&files);
    tr_corpus_free(source);
    return error;
}

void tr_corpus_free(tr_corpus *source)
{
    if (!source)
        return;
    for (int64_t i = 0; i < source->shard_count; i++)
        tr_shard_free(source->shards[i]);
    free(source->shards);
    free(source->name);
    free(source->first_skipped);
    free(source);
}
