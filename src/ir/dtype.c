/* Element types; see dtype.h. */
#include "ir/dtype.h"

static const struct {
    const char *name, *safetensors;
    int64_t bytes;
} table[TR_DTYPE_COUNT] = {
#define X(id, text, size, st) [TR_##id] = {text, st, size},
    TR_DTYPES(X)
#undef X
};

int64_t tr_dtype_bytes(tr_dtype dtype)
{
    return table[dtype].bytes;
}

const char *tr_dtype_name(tr_dtype dtype)
{
    return table[dtype].name;
}

const char *tr_dtype_safetensors_name(tr_dtype dtype)
{
    return table[dtype].safetensors;
}

bool tr_dtype_parse(const char *name, tr_dtype *out)
{
    for (int i = 0; i < TR_DTYPE_COUNT; i++)
        if (strcmp(name, table[i].name) == 0 || strcmp(name, table[i].safetensors) == 0) {
            *out = (tr_dtype)i;
            return true;
        }
    return false;
}
