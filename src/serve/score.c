/* Scoring; see score.h. */
#include "serve/score.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "data/loader.h"
#include "models/huggingface.h"
#include "data/checkpoint.h"
#include "data/weights.h"

typedef tr_error *compile(tr_model, const tr_sizes *, void *, const tr_compile *, tr_program **);

/* A program of the directory's model, filled with its weights. */
static tr_error *open_program(const char *directory, const tr_scoring *how, compile *compile_program, int64_t batch,
                              int64_t seq, tr_program **out)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    tr_sizes sizes;
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    TR_GO(tr_hf_config_read(tr_checkpoint_directory(checkpoint), &sizes));
    sizes.dropout = 0;
    tr_compile options = {.target = how->target, .compute = how->compute, .batch = batch, .seq = seq};
    TR_GO(compile_program(how->model, &sizes, NULL, &options, out));
    TR_GO(tr_program_allocate(*out));
    TR_GO(tr_weights_load(*out, tr_checkpoint_model(checkpoint)));
done:
    tr_checkpoint_close(checkpoint);
    if (error) {
        tr_program_free(*out);
        *out = NULL;
    }
    return error;
}

static void set_positions(tr_program *p, int64_t batch, int64_t seq)
{
    int32_t *positions = tr_program_find(p, "positions");
    for (int64_t i = 0; i < batch * seq; i++)
        positions[i] = (int32_t)(i % seq);
}

static tr_error *run_windows(tr_program *p, const tr_loader *loader, int64_t batch, int64_t seq, tr_score *out)
{
    int32_t *ids = tr_program_find(p, "ids"), *targets = tr_program_find(p, "targets");
    int64_t windows = tr_loader_val_count(loader);
    double sum = 0, count = 0;
    set_positions(p, batch, seq);
    for (int64_t first = 0; first < windows; first += batch) {
        for (int64_t r = 0; r < batch; r++) {
            if (first + r < windows) {
                TR_TRY(tr_loader_val_sample(loader, first + r, ids + r * seq, targets + r * seq));
                continue;
            }
            for (int64_t i = 0; i < seq; i++) {
                ids[r * seq + i] = 0;
                targets[r * seq + i] = -1;
            }
        }
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        sum += *(float *)tr_program_find(p, "loss");
        count += *(float *)tr_program_find(p, "count");
    }
    out->loss = sum / count;
    out->tokens = (int64_t)count;
    return NULL;
}

tr_error *tr_score_text(const char *directory, const char *data, const tr_scoring *how, tr_score *out)
{
    tr_error *error = NULL;
    tr_tokenizer *tokenizer = NULL;
    tr_loader *loader = NULL;
    tr_corpus *corpus = NULL;
    tr_program *program = NULL;
    tr_sizes sizes;
    char cache[] = "/tmp/trireme-eval-XXXXXX";
    bool made = false;
    TR_GO(tr_hf_config_read(directory, &sizes));
    TR_GO(tr_tokenizer_load(directory, &tokenizer));
    made = mkdtemp(cache) != NULL;
    if (!made)
        TR_GO(tr_error_new(TR_RUN, "no temporary directory can be made in /tmp for the text's tokens"));
    TR_GO(tr_corpus_open(data, &(tr_corpus_options){.tokenizer = tokenizer, .cache = cache, .threads = how->target.threads},
                         &corpus));
    out->bytes = corpus->text_bytes;
    int64_t seq = how->seq ? how->seq : TR_MIN(sizes.context, TR_MAX(corpus->tokens - 1, 1));
    if (seq > sizes.context)
        TR_GO(tr_error_new(TR_USER, "--seq %lld is longer than the model's context of %lld", (long long)seq,
                           (long long)sizes.context));
    int64_t batch = how->batch ? how->batch : TR_MAX(1, 2048 / seq);
    tr_corpus *all[] = {corpus};
    corpus = NULL;
    TR_GO(tr_loader_new_take(&(tr_loader_options){.seq = seq, .vocab = sizes.vocab}, NULL, NULL, 0, all, 1, &loader));
    TR_GO(open_program(directory, how, tr_compile_evaluation, batch, seq, &program));
    TR_GO(run_windows(program, loader, batch, seq, out));
done:
    tr_program_free(program);
    tr_loader_free(loader);
    tr_corpus_free(corpus);
    tr_tokenizer_free(tokenizer);
    if (made)
        tr_error_free(tr_path_remove(cache));
    return error;
}

static tr_error *read_ids(const json_t *rows, const char *path, int64_t vocab, int64_t *batch, int64_t *seq, int32_t **out)
{
    int64_t b = (int64_t)json_array_size(rows), t = (int64_t)json_array_size(json_array_get(rows, 0));
    if (b == 0 || t == 0)
        return tr_error_new(TR_USER, "%s: expected token ids as [[id, ...], ...]", path);
    int32_t *ids = tr_alloc_zero((size_t)(b * t), sizeof *ids);
    for (int64_t i = 0; i < b * t; i++) {
        const json_t *row = json_array_get(rows, (size_t)(i / t)), *id = json_array_get(row, (size_t)(i % t));
        if ((int64_t)json_array_size(row) != t || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= vocab) {
            free(ids);
            return tr_error_new(TR_USER, "%s: row %lld must have %lld ids like the first, each from 0 to %lld", path,
                                (long long)(i / t), (long long)t, (long long)vocab - 1);
        }
        ids[i] = (int32_t)json_integer_value(id);
    }
    *batch = b;
    *seq = t;
    *out = ids;
    return NULL;
}

/* The .npy header, version 1.0: padded so that the data begins at a multiple of 64. */
static tr_error *write_npy(const char *path, const float *data, int64_t b, int64_t t, int64_t v)
{
    char header[256];
    int n = snprintf(header + 10, sizeof header - 10,
                     "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld, %lld), }", (long long)b,
                     (long long)t, (long long)v);
    int total = (10 + n + 1 + 63) / 64 * 64;
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)((total - 10) & 255);
    header[9] = (char)((total - 10) >> 8);
    memset(header + 10 + n, ' ', (size_t)(total - 10 - n));
    header[total - 1] = '\n';
    tr_writer *writer = NULL;
    TR_TRY(tr_writer_open(path, &writer));
    tr_error *error = tr_writer_write(writer, header, total);
    if (!error)
        error = tr_writer_write(writer, data, b * t * v * (int64_t)sizeof(float));
    if (!error)
        return tr_writer_commit_take(writer);
    tr_writer_drop(writer);
    return error;
}

tr_error *tr_score_logits(const char *directory, const char *ids_path, const char *out_path, const tr_scoring *how)
{
    tr_error *error = NULL;
    json_t *rows = NULL;
    tr_program *program = NULL;
    int32_t *ids = NULL;
    float *wide = NULL;
    int64_t batch = 0, seq = 0;
    tr_sizes sizes;
    TR_GO(tr_hf_config_read(directory, &sizes));
    TR_GO(tr_json_load(ids_path, &rows));
    TR_GO(read_ids(rows, ids_path, sizes.vocab, &batch, &seq, &ids));
    if (seq > sizes.context)
        TR_GO(tr_error_new(TR_USER, "%s: %lld ids a row are more than the model's context of %lld", ids_path,
                           (long long)seq, (long long)sizes.context));
    TR_GO(open_program(directory, how, tr_compile_logits, batch, seq, &program));
    memcpy(tr_program_find(program, "ids"), ids, (size_t)(batch * seq) * sizeof *ids);
    set_positions(program, batch, seq);
    tr_program_run(program, TR_START, TR_UPDATE, 0, 0);
    const void *logits = tr_program_find(program, "logits");
    if (how->compute == TR_BF16) {
        int64_t n = batch * seq * sizes.vocab;
        wide = tr_alloc((size_t)n * sizeof *wide);
        for (int64_t i = 0; i < n; i++)
            wide[i] = tr_bf16_to_f32(((const uint16_t *)logits)[i]);
    }
    error = write_npy(out_path, wide ? wide : logits, batch, seq, sizes.vocab);
done:
    tr_program_free(program);
    json_decref(rows);
    free(ids);
    free(wide);
    return error;
}
