/* Fuzzes the reader of graphs: whatever the bytes are, a graph or one sentence. What was read has
 * passed the verifier, prints, and its print reads back to the same print and the same hash.
 * Dropping what nothing needs keeps it right. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ir/text.h"
#include "passes/passes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool failed(tr_error *error)
{
    if (!error)
        return false;
    const char *text = tr_error_text(error);
    if (strlen(text) == 0 || strchr(text, '\n'))
        abort();
    tr_error_free(error);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tr_graph *g = NULL, *again = NULL;
    char *text = tr_strndup((const char *)data, size);
    if (failed(tr_graph_parse(text, &g))) {
        if (g)
            abort();
        free(text);
        return 0;
    }
    tr_text first = {0}, second = {0}, third = {0};
    tr_graph_print(g, &first);
    if (failed(tr_graph_parse(first.bytes, &again)))
        abort();
    tr_graph_print(again, &second);
    tr_graph *copy = tr_graph_copy(again);
    tr_graph_print(copy, &third);
    if (strcmp(first.bytes, second.bytes) != 0 || strcmp(first.bytes, third.bytes) != 0)
        abort();
    if (tr_graph_hash(g) != tr_graph_hash(again) || tr_graph_hash(g) != tr_graph_hash(copy))
        abort();
    if (failed(tr_pass_order(copy)) || failed(tr_graph_verify(copy)))
        abort();
    tr_graph_free(copy);
    tr_graph_free(again);
    tr_graph_free(g);
    tr_text_free(&first);
    tr_text_free(&second);
    tr_text_free(&third);
    free(text);
    return 0;
}
