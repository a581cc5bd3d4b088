/* Token shards; see shard.h.
 *
 * Our own layout, little-endian:
 *   header   64 bytes: magic "TRTOKENS", version u32, bytes an id u32, vocabulary i64, end-of-text
 *            i64, tokenizer fingerprint u64, zeros, CRC-32C of the 60 bytes before u32
 *   ids      tokens x 2 or 4 bytes, then zeros up to a multiple of 8
 *   starts   documents x u64: the first token of each document
 *   trailer  64 bytes: tokens i64, documents i64, bytes of text i64, zeros, CRC-32C of everything
 *            before the trailer u32, CRC-32C of the 52 bytes before u32, magic "TRTOKEND"
 * The counts stand at the end because the file is written in one pass, while they are not yet
 * known.
 */
#define _GNU_SOURCE
#include "data/shard.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/memory.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "token shards are read in place, as little-endian"
#endif

enum {
    SHARD_VERSION = 1,
    HEADER_BYTES = 64,
    TRAILER_BYTES = 64,
    LLMC_HEADER_BYTES = 1024,
    LLMC_GPT2 = 20240520,
    LLMC_LLAMA3 = 20240801,
    SAMPLE_BYTES = 4096,
    SAMPLE_COUNT = 64,
    CHECK_STEP_BYTES = 8 << 20, /* a multiple of the page size */
};
static const int64_t SHARD_CHECK_BYTES = 256ll << 20;
static const char HEADER_MAGIC[8] = "TRTOKENS", TRAILER_MAGIC[8] = "TRTOKEND";

typedef struct shard_header {
    char magic[8];
    uint32_t version, token_bytes;
    int64_t vocab, end_of_text;
    uint64_t tokenizer;
    char zeros[20];
    uint32_t crc;
} shard_header;

typedef struct shard_trailer {
    int64_t tokens, documents, text_bytes;
    char zeros[24];
    uint32_t body_crc, crc;
    char magic[8];
} shard_trailer;

_Static_assert(sizeof(shard_header) == HEADER_BYTES, "the header is 64 bytes");
_Static_assert(sizeof(shard_trailer) == TRAILER_BYTES, "the trailer is 64 bytes");

/* Hashing: the finaliser of MurmurHash3 as a mixing step. */

uint64_t tr_hash_word(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) + 0x9E3779B97F4A7C15u;
    hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDu;
    hash = (hash ^ (hash >> 33)) * 0xC4CEB9FE1A85EC53u;
    return hash ^ (hash >> 33);
}

uint64_t tr_hash_bytes(uint64_t hash, const void *bytes, int64_t count)
{
    const char *at = bytes;
    hash = tr_hash_word(hash, (uint64_t)count);
    for (; count > 0; count -= 8, at += 8) {
        uint64_t word = 0;
        memcpy(&word, at, (size_t)TR_MIN(count, 8));
        hash = tr_hash_word(hash, word);
    }
    return hash;
}

/* Reading. */

const char *tr_shard_kind_name(tr_shard_kind kind)
{
    static const char *const names[TR_SHARD_KIND_COUNT] = {
        [TR_SHARD_TRIREME] = "Trireme", [TR_SHARD_LLMC] = "llm.c", [TR_SHARD_NANOGPT] = "nanoGPT"};
    return names[kind];
}

bool tr_shard_is_ours(const char *bytes, int64_t size)
{
    return size >= (int64_t)sizeof HEADER_MAGIC &&
           memcmp(bytes, HEADER_MAGIC, sizeof HEADER_MAGIC) == 0;
}

static tr_error *damaged(const tr_shard *shard, const char *what)
{
    return tr_error_new(
        TR_USER, "%s is damaged: %s; delete it and run again, it will be made anew from the text",
        shard->path, what);
}

/* The check sum of everything before the trailer. Pages of the map are given back on the way, or
 * checking would show up as memory in use. */
static uint32_t body_crc(const tr_shard *shard)
{
    uint32_t crc = 0;
    int64_t size = shard->map.size - TRAILER_BYTES;
    for (int64_t at = 0; at < size; at += CHECK_STEP_BYTES) {
        int64_t count = TR_MIN(size - at, (int64_t)CHECK_STEP_BYTES);
        crc = tr_crc32c(crc, shard->map.bytes + at, count);
        if (shard->owns_map)
            madvise((void *)(uintptr_t)(shard->map.bytes + at), (size_t)count, MADV_DONTNEED);
    }
    return crc;
}

static tr_error *parse_ours(tr_shard *shard)
{
    const char *bytes = shard->map.bytes;
    int64_t size = shard->map.size;
    shard_header header;
    shard_trailer trailer;
    if (size < HEADER_BYTES + TRAILER_BYTES)
        return damaged(shard, "it is cut off");
    memcpy(&header, bytes, sizeof header);
    memcpy(&trailer, bytes + size - TRAILER_BYTES, sizeof trailer);
    if (header.version != SHARD_VERSION)
        return tr_error_new(TR_USER,
                            "%s is a token shard of version %u; this program reads version %d",
                            shard->path, header.version, SHARD_VERSION);
    if (header.crc != tr_crc32c(0, &header, HEADER_BYTES - 4))
        return damaged(shard, "its header does not match its check sum");
    if (memcmp(trailer.magic, TRAILER_MAGIC, sizeof TRAILER_MAGIC) != 0)
        return damaged(shard, "it is cut off");
    if (trailer.crc != tr_crc32c(0, &trailer, 52))
        return damaged(shard, "its trailer does not match its check sum");
    if ((header.token_bytes != 2 && header.token_bytes != 4) || header.vocab < 1 ||
        header.vocab > (int64_t)1 << 31 || header.end_of_text < -1 ||
        header.end_of_text >= header.vocab)
        return damaged(shard, "its header holds impossible values");
    int64_t room = size - HEADER_BYTES - TRAILER_BYTES;
    if (trailer.tokens < 0 || trailer.tokens > room / header.token_bytes || trailer.documents < 0 ||
        trailer.documents > room / 8 || trailer.documents > trailer.tokens ||
        trailer.text_bytes < 0)
        return damaged(shard, "its counts do not fit its size");
    int64_t id_bytes = (trailer.tokens * header.token_bytes + 7) / 8 * 8;
    if (id_bytes + trailer.documents * 8 != room)
        return damaged(shard, "its counts do not fit its size");
    if (room <= SHARD_CHECK_BYTES && body_crc(shard) != trailer.body_crc)
        return damaged(shard, "its contents do not match their check sum");
    shard->kind = TR_SHARD_TRIREME;
    shard->token_bytes = (int)header.token_bytes;
    shard->vocab = header.vocab;
    shard->end_of_text = header.end_of_text;
    shard->tokenizer = header.tokenizer;
    shard->tokens = trailer.tokens;
    shard->documents = trailer.documents;
    shard->text_bytes = trailer.text_bytes;
    shard->crc = trailer.body_crc;
    shard->ids = bytes + HEADER_BYTES;
    shard->starts = shard->ids + id_bytes;
    shard->fingerprint =
        tr_hash_word(tr_hash_word((uint64_t)trailer.tokens, trailer.body_crc), header.tokenizer);
    return NULL;
}

/* Foreign files carry no check sum, and reading 17 GB for one would cost the instant start: the
 * size and 64 evenly spaced blocks stand for the content. */
static uint64_t sampled_fingerprint(const char *bytes, int64_t size)
{
    uint64_t hash = tr_hash_word(0, (uint64_t)size);
    int64_t span = TR_MAX(size - SAMPLE_BYTES, 0);
    for (int64_t i = 0; i < SAMPLE_COUNT; i++) {
        int64_t at = span / (SAMPLE_COUNT - 1) * i;
        if (i == SAMPLE_COUNT - 1)
            at = span;
        hash = tr_hash_word(hash, tr_crc32c(0, bytes + at, TR_MIN(size, (int64_t)SAMPLE_BYTES)));
    }
    return hash;
}

static tr_error *parse_llmc(tr_shard *shard, int32_t magic)
{
    int32_t header[3];
    memcpy(header, shard->map.bytes, sizeof header);
    bool llama = magic == LLMC_LLAMA3;
    shard->kind = TR_SHARD_LLMC;
    shard->token_bytes = llama ? 4 : 2;
    shard->vocab = llama ? 128256 : 50257;
    shard->tokens = header[2];
    int64_t want = LLMC_HEADER_BYTES + (int64_t)header[2] * shard->token_bytes;
    if (header[1] != (llama ? 7 : 1))
        return tr_error_new(TR_USER, "%s is an llm.c shard of version %d; version %d is read",
                            shard->path, header[1], llama ? 7 : 1);
    if (header[2] < 0 || shard->map.size != want)
        return tr_error_new(
            TR_USER,
            "%s is damaged: its header promises %d tokens (%lld bytes), the file has %lld "
            "bytes; copy or make it again",
            shard->path, header[2], (long long)want, (long long)shard->map.size);
    shard->ids = shard->map.bytes + LLMC_HEADER_BYTES;
    return NULL;
}

static tr_error *parse_nanogpt(tr_shard *shard)
{
    if (shard->map.size % 2)
        return tr_error_new(
            TR_USER,
            "%s is no token shard: it has neither Trireme's nor llm.c's header, and its odd "
            "size (%lld bytes) rules out nanoGPT's uint16 ids",
            shard->path, (long long)shard->map.size);
    shard->kind = TR_SHARD_NANOGPT;
    shard->token_bytes = 2;
    shard->tokens = shard->map.size / 2;
    shard->ids = shard->map.bytes;
    return NULL;
}

static tr_error *parse(tr_shard *shard)
{
    shard->end_of_text = -1;
    if (tr_shard_is_ours(shard->map.bytes, shard->map.size))
        return parse_ours(shard);
    if (shard->map.size >= TRAILER_BYTES &&
        memcmp(shard->map.bytes + shard->map.size - 8, TRAILER_MAGIC, sizeof TRAILER_MAGIC) == 0)
        return damaged(shard, "it ends as a token shard of ours but does not begin as one");
    int32_t magic = 0;
    if (shard->map.size >= LLMC_HEADER_BYTES)
        memcpy(&magic, shard->map.bytes, sizeof magic);
    if (magic == LLMC_GPT2 || magic == LLMC_LLAMA3)
        TR_TRY(parse_llmc(shard, magic));
    else
        TR_TRY(parse_nanogpt(shard));
    shard->fingerprint = sampled_fingerprint(shard->map.bytes, shard->map.size);
    return NULL;
}

static tr_error *open_map(const char *name, tr_map map, bool owns_map, tr_shard **out)
{
    tr_shard *shard = tr_alloc_zero(1, sizeof *shard);
    *shard = (tr_shard){.map = map, .owns_map = owns_map, .path = tr_strdup(name)};
    tr_error *error = parse(shard);
    if (error) {
        tr_shard_free(shard);
        shard = NULL;
    }
    *out = shard;
    return error;
}

tr_error *tr_shard_parse(const char *name, const char *bytes, int64_t size, tr_shard **out)
{
    return open_map(name, (tr_map){bytes, size}, false, out);
}

tr_error *tr_shard_open(const char *path, tr_shard **out)
{
    tr_map map;
    struct stat info;
    *out = NULL;
    if (stat(path, &info) == 0 && S_ISFIFO(info.st_mode))
        return tr_error_new(TR_USER, "%s is a pipe; a token shard must be a file", path);
    TR_TRY(tr_map_open(path, &map));
    return open_map(path, map, true, out);
}

void tr_shard_free(tr_shard *shard)
{
    if (!shard)
        return;
    if (shard->owns_map)
        tr_map_close(&shard->map);
    free(shard->path);
    free(shard);
}

void tr_shard_read(const tr_shard *shard, int64_t first, int64_t count, int32_t *out)
{
    TR_CHECK(first >= 0 && count >= 0 && first <= shard->tokens && count <= shard->tokens - first,
             "tokens %lld + %lld of %lld in %s", (long long)first, (long long)count,
             (long long)shard->tokens, shard->path);
    if (shard->token_bytes == 4) {
        if (count)
            memcpy(out, shard->ids + first * 4, (size_t)count * 4);
        return;
    }
    const char *at = shard->ids + first * 2;
    for (int64_t i = 0; i < count; i++) {
        uint16_t id;
        memcpy(&id, at + 2 * i, sizeof id);
        out[i] = id;
    }
}

int64_t tr_shard_document(const tr_shard *shard, int64_t index)
{
    if (!shard->starts || index < 0)
        return 0;
    if (index >= shard->documents)
        return shard->tokens;
    uint64_t start;
    memcpy(&start, shard->starts + 8 * index, sizeof start);
    return start > (uint64_t)shard->tokens ? shard->tokens : (int64_t)start;
}

tr_error *tr_shard_verify(const tr_shard *shard)
{
    int32_t ids[1024];
    if (shard->kind == TR_SHARD_TRIREME && body_crc(shard) != shard->crc)
        return damaged(shard, "its contents do not match their check sum");
    for (int64_t i = 0; i < shard->documents; i++) {
        uint64_t start;
        memcpy(&start, shard->starts + 8 * i, sizeof start);
        if (start >= (uint64_t)shard->tokens || (i == 0 && start != 0) ||
            (i > 0 && (int64_t)start <= tr_shard_document(shard, i - 1)))
            return damaged(shard, "its documents are out of order");
    }
    for (int64_t i = 0; shard->vocab && i < shard->tokens; i += TR_COUNT(ids)) {
        int64_t count = TR_MIN(shard->tokens - i, TR_COUNT(ids));
        tr_shard_read(shard, i, count, ids);
        for (int64_t k = 0; k < count; k++)
            if (ids[k] < 0 || ids[k] >= shard->vocab)
                return tr_error_new(
                    TR_USER, "%s: token %lld is %lld, outside its vocabulary of %lld", shard->path,
                    (long long)(i + k), (long long)(uint32_t)ids[k], (long long)shard->vocab);
    }
    return NULL;
}

/* Writing. */

struct tr_shard_writer {
    tr_writer *file;
    tr_shard_options options;
    int token_bytes;
    int64_t tokens, text_bytes;
    uint64_t *starts;
    int64_t documents, room;
    int64_t document_start;
};

tr_error *tr_shard_writer_open(const char *path, const tr_shard_options *options,
                               tr_shard_writer **out)
{
    TR_CHECK(options->vocab >= 1 && options->vocab <= (int64_t)1 << 31 &&
                 options->end_of_text < options->vocab,
             "vocabulary %lld", (long long)options->vocab);
    *out = NULL;
    tr_writer *file;
    TR_TRY(tr_writer_open(path, &file));
    shard_header header = {.version = SHARD_VERSION,
                           .token_bytes = options->vocab <= 65536 ? 2 : 4,
                           .vocab = options->vocab,
                           .end_of_text = TR_MAX(options->end_of_text, -1),
                           .tokenizer = options->tokenizer};
    memcpy(header.magic, HEADER_MAGIC, sizeof header.magic);
    header.crc = tr_crc32c(0, &header, HEADER_BYTES - 4);
    tr_error *error = tr_writer_write(file, &header, sizeof header);
    if (error) {
        tr_writer_drop(file);
        return error;
    }
    tr_shard_writer *writer = tr_alloc_zero(1, sizeof *writer);
    *writer = (tr_shard_writer){
        .file = file, .options = *options, .token_bytes = (int)header.token_bytes};
    *out = writer;
    return NULL;
}

tr_error *tr_shard_writer_add(tr_shard_writer *writer, const int32_t *ids, int64_t count)
{
    uint16_t narrow[4096];
    for (int64_t i = 0; i < count; i++)
        TR_CHECK(ids[i] >= 0 && ids[i] < writer->options.vocab,
                 "token %d is outside the vocabulary of %lld", ids[i],
                 (long long)writer->options.vocab);
    writer->tokens += count;
    if (writer->token_bytes == 4)
        return tr_writer_write(writer->file, ids, count * 4);
    for (int64_t i = 0; i < count; i += TR_COUNT(narrow)) {
        int64_t part = TR_MIN(count - i, TR_COUNT(narrow));
        for (int64_t k = 0; k < part; k++)
            narrow[k] = (uint16_t)ids[i + k];
        TR_TRY(tr_writer_write(writer->file, narrow, part * 2));
    }
    return NULL;
}

void tr_shard_writer_end_document(tr_shard_writer *writer, int64_t text_bytes)
{
    if (writer->tokens == writer->document_start)
        return;
    tr_push(writer->starts, writer->documents, writer->room) = (uint64_t)writer->document_start;
    writer->document_start = writer->tokens;
    writer->text_bytes += text_bytes;
}

int64_t tr_shard_writer_tokens(const tr_shard_writer *writer)
{
    return writer->tokens;
}

static void writer_free(tr_shard_writer *writer)
{
    free(writer->starts);
    free(writer);
}

tr_error *tr_shard_writer_commit_take(tr_shard_writer *writer)
{
    tr_error *error = NULL;
    const char zeros[8] = {0};
    TR_CHECK(writer->document_start == writer->tokens, "a document was not ended");
    TR_GO(tr_writer_write(writer->file, zeros, -(writer->tokens * writer->token_bytes) & 7));
    TR_GO(tr_writer_write(writer->file, writer->starts, writer->documents * 8));
    shard_trailer trailer = {.tokens = writer->tokens,
                             .documents = writer->documents,
                             .text_bytes = writer->text_bytes,
                             .body_crc = tr_writer_crc32c(writer->file)};
    memcpy(trailer.magic, TRAILER_MAGIC, sizeof trailer.magic);
    trailer.crc = tr_crc32c(0, &trailer, 52);
    TR_GO(tr_writer_write(writer->file, &trailer, sizeof trailer));
    error = tr_writer_commit_take(writer->file);
    writer->file = NULL;
done:
    tr_writer_drop(writer->file);
    writer_free(writer);
    return error;
}

void tr_shard_writer_drop(tr_shard_writer *writer)
{
    if (!writer)
        return;
    tr_writer_drop(writer->file);
    writer_free(writer);
}
