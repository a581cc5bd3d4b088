/* Fuzzes the JSON glue: whatever the bytes are, an answer or one sentence, never a crash. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drop(tr_error *error)
{
    if (error && strlen(tr_error_text(error)) == 0)
        abort();
    tr_error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"n_layer", "n_head", "n_embd"};
    json_t *json;
    tr_error *error = tr_json_parse((const char *)data, (int64_t)size, "input", &json);
    if ((error == NULL) != (json != NULL))
        abort();
    drop(error);
    if (!json)
        return 0;
    int64_t whole = 5;
    double real = 0;
    bool flag = false;
    const char *text = "";
    const json_t *inner = NULL;
    for (int need = TR_OPTIONAL; need <= TR_REQUIRED; need++)
        for (int k = 0; k < 3; k++) {
            drop(tr_json_int(json, "input", keys[k], (tr_need)need, 1, 100, &whole));
            if (whole < 1 || whole > 100)
                abort();
            drop(tr_json_real(json, "input", keys[k], (tr_need)need, &real));
            drop(tr_json_bool(json, "input", keys[k], (tr_need)need, &flag));
            drop(tr_json_string(json, "input", keys[k], (tr_need)need, &text));
            drop(tr_json_array(json, "input", keys[k], (tr_need)need, &inner));
            drop(tr_json_object(json, "input", keys[k], (tr_need)need, &inner));
        }
    drop(tr_json_only_keys(json, "input", keys, 3));
    char *written = tr_json_text(json);
    json_t *again = NULL;
    error = tr_json_parse(written, (int64_t)strlen(written), "again", &again);
    if (error || !json_equal(json, again))
        abort();
    json_decref(again);
    free(written);
    json_decref(json);
    return 0;
}
