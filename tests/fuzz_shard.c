/* Any bytes as a token shard: refused or read, never out of bounds. Built with clang's fuzzer. */
#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "data/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const char *bytes, int64_t size)
{
    tr_shard *shard = NULL;
    tr_error *error = tr_shard_parse("fuzz", bytes, size, &shard);
    tr_error_free(error);
    if (!shard)
        return;
    tr_error_free(tr_shard_verify(shard));
    int32_t ids[16];
    int64_t count = TR_MIN(shard->tokens, 16);
    tr_shard_read(shard, 0, count, ids);
    tr_shard_read(shard, shard->tokens - count, count, ids);
    for (int64_t i = -1; i < TR_MIN(shard->documents, 64) + 2; i++) {
        int64_t start = tr_shard_document(shard, i);
        TR_CHECK(start >= 0 && start <= shard->tokens, "document %lld", (long long)i);
    }
    tr_shard_free(shard);
}

/* The bytes as they are, and once more with both check sums made right, or no mutation would get
 * past them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    look_at((const char *)data, (int64_t)size);
    if (size < 128)
        return 0;
    char *copy = tr_alloc(size);
    memcpy(copy, data, size);
    memcpy(copy, "TRTOKENS\1\0\0", 12);
    memcpy(copy + size - 8, "TRTOKEND", 8);
    uint32_t crc = tr_crc32c(0, copy, 60);
    memcpy(copy + 60, &crc, 4);
    crc = tr_crc32c(0, copy, (int64_t)size - 64);
    memcpy(copy + size - 16, &crc, 4);
    crc = tr_crc32c(0, copy + size - 64, 52);
    memcpy(copy + size - 12, &crc, 4);
    look_at(copy, (int64_t)size);
    free(copy);
    return 0;
}
