/* The kind of a model; see pretrained.h. */
#include "data/pretrained.h"

#include "data/gguf_model.h"
#include "models/huggingface.h"

tr_error *tr_pretrained_read(const char *path, const tr_family **out_family, tr_sizes *out)
{
    tr_gguf *file = NULL;
    json_t *config = NULL;
    if (!tr_path_is_gguf(path))
        return tr_hf_config_read(path, out_family, out);
    tr_error *error = tr_gguf_open(path, &file);
    if (!error)
        error = tr_gguf_config(file, path, &config);
    if (!error)
        error = tr_hf_config_parse(config, path, out_family, out);
    json_decref(config);
    tr_gguf_close(file);
    return error;
}

tr_error *tr_pretrained_dtype(const char *path, tr_dtype *out)
{
    *out = TR_F32;
    return tr_path_is_gguf(path) ? NULL : tr_hf_dtype_read(path, out);
}
