/* Reads and checks NumPy's .npy files of float32 in tests. */
#pragma once
#include "base/file.h"

/* Points *out at the elements inside the map; count must match. */
static inline tr_error *npy_floats(const tr_map *map, int64_t count, const float **out)
{
    if (map->size < 10 || memcmp(map->bytes, "\x93NUMPY", 6) != 0)
        return tr_error_new(TR_USER, "not a .npy file");
    int64_t header = 10 + (uint8_t)map->bytes[8] + 256 * (uint8_t)map->bytes[9];
    if (map->size - header != count * 4)
        return tr_error_new(TR_USER, "%lld elements, expected %lld", (long long)((map->size - header) / 4), (long long)count);
    *out = (const float *)(const void *)(map->bytes + header);
    return NULL;
}
