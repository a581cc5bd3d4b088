/* Saving a checkpoint by one rank; see checkpoint.h, and checkpoint_saving.h for the order of
 * things. */
#include "data/checkpoint.h"

#include "base/file.h"
#include "base/memory.h"
#include "data/checkpoint_saving.h"

static tr_error *put_tensors(tr_saving *s, const tr_tensor_file *file)
{
    char *path = tr_path_join(s->temporary, file->name);
    int64_t bytes;
    uint32_t crc;
    tr_error *error = tr_safetensors_save(path, file->tensors, file->count, &bytes, &crc);
    free(path);
    if (!error)
        tr_manifest_add(&s->manifest, file->name, bytes, crc);
    return error;
}

static tr_error *put_everything(tr_saving *s, const tr_checkpoint_contents *contents)
{
    int64_t count;
    tr_tensor_file *files = tr_saving_tensor_files(contents, &count);
    tr_error *error = NULL;
    for (int64_t f = 0; f < count && !error; f++)
        error = put_tensors(s, &files[f]);
    if (!error)
        error = tr_saving_put_others(s, contents, files, count);
    free(files);
    return error;
}

tr_error *tr_checkpoint_save(const char *out_dir, const tr_checkpoint_contents *contents,
                             int64_t keep_last, bool *out_complete)
{
    tr_saving s;
    if (out_complete)
        *out_complete = false;
    TR_TRY(tr_checkpoint_prepare(out_dir));
    tr_error *error = tr_saving_begin(out_dir, contents, "", &s);
    if (!error)
        error = put_everything(&s, contents);
    if (!error)
        error = tr_saving_publish(&s, keep_last);
    if (out_complete)
        *out_complete = s.name != NULL;
    return tr_saving_end_take(&s, error);
}
