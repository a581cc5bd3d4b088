/* Fuzzes the GGUF reader: whatever the bytes are, what it accepts keeps its promises, in metadata and tensors of every
 * type; and the configuration that is made of it is made or refused in one sentence. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "data/gguf.h"
#include "data/gguf_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool condition)
{
    if (!condition)
        abort();
}

/* An error is the input's, and says so. */
static void demand_sentence(tr_error *error)
{
    if (!error)
        return;
    demand(strncmp(tr_error_text(error), "input", 5) == 0 && tr_error_blame(error) == TR_USER);
    tr_error_free(error);
}

static void check_tensors(const tr_gguf *file, const char *low, const char *high)
{
    tr_stored *list = NULL;
    int64_t count = 0;
    tr_error *error = tr_gguf_tensors(file, &list, &count);
    demand((error == NULL) == (list != NULL));
    for (int64_t i = 0; i < count && list; i++) {
        const tr_stored *t = &list[i];
        int64_t elems = 1;
        demand(t->rank >= 1 && t->rank <= TR_STORED_RANK);
        for (int d = 0; d < t->rank; d++)
            demand(t->dims[d] >= 1 && tr_mul_fits(elems, t->dims[d], &elems));
        const char *begin = t->data;
        demand(elems == t->elems && begin >= low && begin <= high && t->bytes <= high - begin);
        float values[1000];
        int64_t n = TR_MIN(t->elems, 1000);
        tr_error_free(tr_stored_read(t, t->elems - n, n, TR_F32, values));
    }
    free(list);
    demand_sentence(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tr_gguf *file = NULL;
    tr_gguf_text text;
    tr_gguf_array array;
    int64_t integer;
    double real;
    bool flag;
    tr_error *error = tr_gguf_parse(data, (int64_t)size, "input", &file);
    demand((error == NULL) == (file != NULL));
    if (error) {
        demand_sentence(error);
        return 0;
    }
    if (tr_gguf_string(file, "general.architecture", &text) && text.length)
        demand(text.bytes >= (const char *)data && text.bytes + text.length <= (const char *)data + size);
    (void)tr_gguf_int(file, "general.alignment", &integer);
    (void)tr_gguf_real(file, "llama.rope.freq_base", &real);
    (void)tr_gguf_bool(file, "tokenizer.ggml.add_bos_token", &flag);
    if (tr_gguf_array_find(file, "tokenizer.ggml.tokens", &array))
        for (int64_t i = 0; i < array.count && array.kind == TR_GGUF_TEXT; i++)
            (void)tr_gguf_array_text(&array, i);
    check_tensors(file, (const char *)data, (const char *)data + size);
    json_t *config = NULL;
    error = tr_gguf_config(file, "input", &config);
    demand((error == NULL) == (config != NULL));
    json_decref(config);
    demand_sentence(error);
    tr_gguf_close(file);
    return 0;
}
