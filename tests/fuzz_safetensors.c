/* Fuzzes the safetensors reader: whatever the bytes are, what it accepts keeps its promises. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tr_safetensors *file;
    tr_error *error = tr_safetensors_parse(data, (int64_t)size, "input", &file);
    demand((error == NULL) == (file != NULL));
    if (error) {
        demand(strncmp(tr_error_text(error), "input", 5) == 0 ||
               strncmp(tr_error_text(error), "tensor", 6) == 0);
        demand(tr_error_blame(error) == TR_USER);
        tr_error_free(error);
        return 0;
    }
    int64_t total = 0;
    for (int64_t i = 0; i < tr_safetensors_count(file); i++) {
        const tr_stored *t = tr_safetensors_at(file, i);
        int64_t elems = 1;
        demand(t->rank >= 0 && t->rank <= TR_STORED_RANK);
        for (int d = 0; d < t->rank; d++)
            demand(t->dims[d] >= 0 && tr_mul_fits(elems, t->dims[d], &elems));
        demand(elems == t->elems && elems * tr_dtype_bytes(t->dtype) == t->bytes);
        const char *begin = t->data, *low = (const char *)data, *high = low + size;
        demand(begin >= low && begin <= high && t->bytes <= high - begin);
        demand(tr_safetensors_find(file, t->name) == t);
        tr_error_free(tr_stored_check(t, 1, &(int64_t){4}));
        if (t->elems <= 4096) {
            float values[4096];
            tr_error_free(tr_stored_read(t, 0, t->elems, TR_F32, values));
        }
        total += t->bytes;
    }
    demand(total + 8 <= (int64_t)size);
    const tr_stored *none;
    error = tr_safetensors_need(file, "no such tensor", &none);
    demand((error == NULL) == (none != NULL));
    tr_error_free(error);
    (void)tr_safetensors_metadata(file, "format");
    tr_safetensors_close(file);
    return 0;
}
