/* Opening a checkpoint; see checkpoint.h.
 *
 * Of a run the checkpoints are tried from the newest on until one verifies; every one passed over
 * is named in the warning with the file that is wrong. A run that saves meanwhile may delete a
 * checkpoint under our hands: then the list is read again.
 */
#include "data/checkpoint.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/checkpoint_manifest.h"
#include "data/gguf_model.h"

struct tr_checkpoint {
    char *directory, *warning;
    int64_t step;
    tr_safetensors *model, *optimizer;
    tr_gguf_model *gguf; /* instead of model */
    json_t *trainer;
};

void tr_checkpoint_close(tr_checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    tr_safetensors_close(checkpoint->model);
    tr_safetensors_close(checkpoint->optimizer);
    tr_gguf_model_close(checkpoint->gguf);
    json_decref(checkpoint->trainer);
    free(checkpoint->directory);
    free(checkpoint->warning);
    free(checkpoint);
}

static tr_error *open_file(const char *directory, const char *name, tr_safetensors **out)
{
    char *path = tr_path_join(directory, name);
    tr_error *error = tr_safetensors_open(path, out);
    free(path);
    return error;
}

/* One directory whose manifest is loaded. */
static tr_error *open_verified(const char *directory, const tr_manifest *manifest,
                               tr_checkpoint_part part, tr_checkpoint **out)
{
    bool all = part == TR_CHECKPOINT_ALL;
    *out = NULL;
    TR_TRY(tr_manifest_verify(manifest, directory, all ? NULL : TR_OPTIMIZER_NAME));
    tr_checkpoint *checkpoint = tr_alloc_zero(1, sizeof *checkpoint);
    checkpoint->directory = tr_strdup(directory);
    checkpoint->step = manifest->step;
    char *trainer = tr_path_join(directory, TR_TRAINER_NAME);
    tr_error *error;
    TR_GO(tr_safetensors_open(directory, &checkpoint->model));
    TR_GO(tr_json_load(trainer, &checkpoint->trainer));
    if (all)
        TR_GO(open_file(directory, TR_OPTIMIZER_NAME, &checkpoint->optimizer));
done:
    free(trainer);
    if (error)
        tr_checkpoint_close(checkpoint);
    else
        *out = checkpoint;
    return error;
}

/* The user named this checkpoint: this one or nothing. */
static tr_error *open_one(const char *directory, tr_checkpoint_part part, tr_checkpoint **out)
{
    tr_manifest manifest;
    tr_error *error = tr_manifest_load(directory, &manifest);
    if (!error) {
        error = open_verified(directory, &manifest, part, out);
        tr_manifest_free(&manifest);
    }
    if (!error)
        return NULL;
    tr_error *full =
        tr_error_new(TR_RUN,
                     "checkpoint %s cannot be used: %s; give the run's directory instead "
                     "to use its newest good checkpoint",
                     directory, tr_error_text(error));
    tr_error_free(error);
    return full;
}

/* Tries each in turn. *out_vanished: one was deleted meanwhile and none was good. */
static tr_error *open_first_good(const char *out_dir, const tr_checkpoint_entry *entries,
                                 int64_t count, tr_checkpoint_part part, tr_checkpoint **out,
                                 bool *out_vanished)
{
    tr_text bad = {0};
    *out_vanished = false;
    for (int64_t i = 0; i < count && !*out; i++) {
        const tr_checkpoint_entry *entry = &entries[i];
        tr_error *error = NULL;
        if (!entry->damage)
            error = open_verified(entry->directory, &entry->manifest, part, out);
        if (error && !tr_path_exists(entry->directory))
            *out_vanished = true;
        else if (error || entry->damage)
            tr_text_format(&bad, "%s%s", bad.length ? "; " : "",
                           error ? tr_error_text(error) : entry->damage);
        tr_error_free(error);
    }
    tr_error *result = NULL;
    if (!*out) {
        result =
            tr_error_new(TR_RUN,
                         "no checkpoint of %s is good: %s; restore one from a backup, or remove "
                         "%s/checkpoints to start from the beginning",
                         out_dir, bad.bytes ? bad.bytes : "all were removed", out_dir);
    } else {
        /* An unreadable manifest does not say how new it is; its name says the step. */
        for (int64_t i = 0; i < count; i++)
            if (entries[i].damage && tr_checkpoint_name_step(entries[i].name) >= (*out)->step)
                tr_text_format(&bad, "%s%s", bad.length ? "; " : "", entries[i].damage);
        if (bad.length)
            (*out)->warning =
                tr_format("a newer checkpoint is damaged: %s; using %s (step %lld) instead",
                          bad.bytes, (*out)->directory, (long long)(*out)->step);
    }
    tr_text_free(&bad);
    return result;
}

static tr_error *open_run(const char *out_dir, tr_checkpoint_part part, tr_checkpoint **out)
{
    enum { TRIES = 10 };
    tr_error *error = NULL;
    bool vanished = true;
    for (int i = 0; i < TRIES && vanished && !*out; i++) {
        tr_error_free(error);
        tr_checkpoint_entry *entries;
        int64_t count;
        TR_TRY(tr_checkpoint_entries(out_dir, &entries, &count));
        if (count)
            error = open_first_good(out_dir, entries, count, part, out, &vanished);
        else
            error = tr_error_new(TR_USER, "%s has no checkpoint yet (nothing in %s/checkpoints)",
                                 out_dir, out_dir);
        vanished = vanished && count;
        tr_checkpoint_entries_free(entries, count);
    }
    return error;
}

/* A directory that others made. */
static tr_error *open_plain(const char *directory, tr_checkpoint_part part, tr_checkpoint **out)
{
    char *config = tr_path_join(directory, "config.json");
    bool found = tr_path_exists(config);
    free(config);
    if (!tr_path_is_directory(directory))
        return tr_error_new(TR_USER, "%s is not a directory%s", directory,
                            tr_path_exists(directory) ? "" : ": there is nothing of that name");
    if (!found)
        return tr_error_new(
            TR_USER, "%s is neither a run (no checkpoints in it) nor a model (no config.json)",
            directory);
    if (part == TR_CHECKPOINT_ALL)
        return tr_error_new(
            TR_USER,
            "%s is a model, not a run: it has no optimizer state to resume from; start a "
            "run with model.from=%s",
            directory, directory);
    tr_safetensors *model;
    TR_TRY(tr_safetensors_open(directory, &model));
    tr_checkpoint *checkpoint = tr_alloc_zero(1, sizeof *checkpoint);
    checkpoint->directory = tr_strdup(directory);
    checkpoint->step = -1;
    checkpoint->model = model;
    *out = checkpoint;
    return NULL;
}

static tr_error *open_gguf(const char *path, tr_checkpoint_part part, tr_checkpoint **out)
{
    tr_gguf_model *model;
    if (part == TR_CHECKPOINT_ALL)
        return tr_error_new(TR_USER, "%s is a model, not a run; start a run with model.from=%s", path, path);
    TR_TRY(tr_gguf_model_open(path, &model));
    tr_checkpoint *checkpoint = tr_alloc_zero(1, sizeof *checkpoint);
    checkpoint->directory = tr_strdup(path);
    checkpoint->step = -1;
    checkpoint->gguf = model;
    *out = checkpoint;
    return NULL;
}

tr_error *tr_checkpoint_open(const char *path, tr_checkpoint_part part, tr_checkpoint **out)
{
    *out = NULL;
    if (tr_path_is_gguf(path))
        return open_gguf(path, part, out);
    char *manifest = tr_path_join(path, TR_MANIFEST_NAME);
    char *checkpoints = tr_path_join(path, "checkpoints");
    const char *slash = strrchr(path, '/');
    bool one = tr_path_exists(manifest) || (tr_path_is_directory(path) &&
                                            tr_checkpoint_name_step(slash ? slash + 1 : path) >= 0);
    bool run = tr_path_is_directory(checkpoints);
    free(manifest);
    free(checkpoints);
    return (one ? open_one : run ? open_run : open_plain)(path, part, out);
}

const char *tr_checkpoint_warning(const tr_checkpoint *checkpoint)
{
    return checkpoint->warning;
}

const char *tr_checkpoint_directory(const tr_checkpoint *checkpoint)
{
    return checkpoint->directory;
}

int64_t tr_checkpoint_step(const tr_checkpoint *checkpoint)
{
    return checkpoint->step;
}

const tr_safetensors *tr_checkpoint_model(const tr_checkpoint *checkpoint)
{
    return checkpoint->gguf ? tr_gguf_model_tensors(checkpoint->gguf) : checkpoint->model;
}

const tr_safetensors *tr_checkpoint_optimizer(const tr_checkpoint *checkpoint)
{
    return checkpoint->optimizer;
}

const json_t *tr_checkpoint_trainer(const tr_checkpoint *checkpoint)
{
    return checkpoint->trainer;
}
