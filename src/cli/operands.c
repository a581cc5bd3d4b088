/* Operands that several commands understand in the same way; see cli.h. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/cli.h"

tr_error *tr_cli_config(char *const *operands, int count, tr_config **out)
{
    if (!count || (strchr(operands[0], '=') && !tr_path_exists(operands[0])))
        return tr_config_load(NULL, operands, count, out);
    return tr_config_load(operands[0], operands + 1, count - 1, out);
}

tr_error *tr_cli_subject(char *const *operands, int count, tr_config **out)
{
    if (!count || !tr_path_is_directory(operands[0]))
        return tr_cli_config(operands, count, out);
    const char *directory = operands[0];
    char *name = tr_path_join(directory, TR_CONFIG_NAME);
    bool is_run = tr_path_exists(name);
    free(name);
    if (is_run)
        return tr_config_load_run(directory, operands + 1, count - 1, out);
    char **overrides = tr_alloc_zero((size_t)count, sizeof *overrides);
    overrides[0] = tr_format("model.from=%s", directory);
    memcpy(overrides + 1, operands + 1, (size_t)(count - 1) * sizeof *overrides);
    tr_error *error = tr_config_load(NULL, overrides, count, out);
    free(overrides[0]);
    free(overrides);
    return error;
}
