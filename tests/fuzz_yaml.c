/* Any bytes as a YAML file, and as a config: an error or a config, never a crash or a leak. What
 * loads must also survive being written and read again. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/yaml.h"
#include "train/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    tr_config *config, *again;
    tr_error *error =
        tr_config_parse("fuzz.yaml", (const char *)bytes, (int64_t)size, NULL, 0, &config);
    if (error) {
        TR_CHECK(tr_error_blame(error) == TR_USER, "%s", tr_error_text(error));
        tr_error_free(error);
        return 0;
    }
    char *text = tr_config_text(config);
    error = tr_config_parse("again.yaml", text, (int64_t)strlen(text), NULL, 0, &again);
    TR_CHECK(!error, "%s\n%s", tr_error_text(error), text);
    char *text_again = tr_config_text(again);
    TR_CHECK(strcmp(text, text_again) == 0, "%s\n%s", text, text_again);
    free(text);
    free(text_again);
    tr_config_free(config);
    tr_config_free(again);
    return 0;
}
