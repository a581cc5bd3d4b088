/* Scoring; see score.h. */
#include "serve/score.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "data/batch.h"
#include "data/pretrained.h"
#include "data/checkpoint.h"
#include "data/weights.h"
#include "serve/given.h"

typedef tr_error *compile(tr_model, const tr_sizes *, void *, const tr_compile *, tr_program **);

/* A program of the directory's model, filled with its weights; `how` says the dims. */
static tr_error *open_program(const char *directory, compile *compile_program, const tr_compile *how, tr_program **out)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_sizes sizes;
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    TR_GO(tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &sizes));
    sizes.dropout = sizes.drop_path = 0;
    TR_GO(compile_program(family->model, &sizes, NULL, how, out));
    TR_GO(tr_program_allocate(*out));
    TR_GO(tr_weights_load(*out, family, tr_checkpoint_model(checkpoint)));
    const char *absent = tr_weights_absent(*out, family, tr_checkpoint_model(checkpoint));
    if (absent)
        TR_GO(tr_error_new(TR_USER, "%s has no %s, a part of the head that would be scored; train one on top of it by "
                                    "model.from=%s", directory, absent, directory));
done:
    tr_checkpoint_close(checkpoint);
    if (error) {
        tr_program_free(*out);
        *out = NULL;
    }
    return error;
}

static tr_error *run_samples(tr_program *p, const tr_objective *objective, int64_t rows, tr_score *out)
{
    int64_t samples = tr_objective_val_count(objective);
    tr_batch batch = {.objective = objective, .program = p, .validation = true, .rows = rows, .end = samples};
    double sum = 0, count = 0;
    for (int64_t micro = 0; micro * rows < samples; micro++) {
        TR_TRY(tr_batch_fill(&batch, micro));
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        sum += *(float *)tr_program_find(p, "loss");
        count += *(float *)tr_program_find(p, "count");
    }
    out->loss = sum / count;
    out->tokens = (int64_t)count;
    return NULL;
}

/* How much text there is. */
static tr_error *measure(const char *data, const tr_corpus_options *reading, bool generates, tr_score *out,
                         int64_t *out_tokens)
{
    tr_corpus *corpus = NULL;
    TR_TRY(tr_corpus_open(data, reading, &corpus));
    out->bytes = generates ? corpus->text_bytes : 0; /* others see what they predict: bits a byte would mean nothing */
    *out_tokens = corpus->tokens;
    tr_corpus_free(corpus);
    return NULL;
}

tr_error *tr_score_text(const char *directory, const char *data, const tr_scoring *how, tr_score *out)
{
    tr_error *error = NULL;
    tr_tokenizer *tokenizer = NULL;
    tr_objective *objective = NULL;
    tr_program *program = NULL;
    const tr_family *family;
    tr_sizes sizes;
    char cache[] = "/tmp/trireme-eval-XXXXXX";
    int64_t tokens;
    bool made = false;
    TR_GO(tr_pretrained_read(directory, &family, &sizes));
    TR_GO(tr_tokenizer_load(directory, &tokenizer));
    made = mkdtemp(cache) != NULL;
    if (!made)
        TR_GO(tr_error_new(TR_RUN, "no temporary directory can be made in /tmp for the text's tokens"));
    tr_corpus_options reading = {.tokenizer = tokenizer, .cache = cache, .threads = how->target.threads};
    TR_GO(measure(data, &reading, family->generates, out, &tokens));
    int64_t seq = how->seq ? how->seq : TR_MIN(sizes.context, TR_MAX(tokens - 1, 1));
    if (seq > sizes.context)
        TR_GO(tr_error_new(TR_USER, "--seq %lld is longer than the model's context of %lld", (long long)seq,
                           (long long)sizes.context));
    int64_t batch = how->batch ? how->batch : TR_MAX(1, 2048 / seq);
    tr_compile compile = {.target = how->target, .compute = how->compute, .batch = batch, .seq = seq, .decoder_seq = seq};
    TR_GO(tr_objective_open(tr_objective_find(tr_family_objective(family, &sizes)),
                            &(tr_objective_options){.tokenizer = tokenizer, .val_paths = &data, .n_val_paths = 1,
                                                    .cache = cache, .threads = how->target.threads, .seq = seq,
                                                    .decoder_seq = seq, .vocab = sizes.vocab},
                            &objective));
    TR_GO(open_program(directory, tr_compile_evaluation, &compile, &program));
    TR_GO(run_samples(program, objective, batch, out));
done:
    tr_program_free(program);
    tr_objective_free(objective);
    tr_tokenizer_free(tokenizer);
    if (made)
        tr_error_free(tr_path_remove(cache));
    return error;
}

/* The .npy header, version 1.0: padded so that the data begins at a multiple of 64. */
static tr_error *write_npy(const char *path, const float *data, const tr_shape *shape)
{
    char header[256], dims[128] = "";
    size_t used = 0;
    for (int d = 0; d < shape->rank; d++)
        used += (size_t)snprintf(dims + used, sizeof dims - used, "%lld, ", (long long)shape->dims[d]);
    int n = snprintf(header + 10, sizeof header - 10, "{'descr': '<f4', 'fortran_order': False, 'shape': (%.*s), }",
                     (int)used - (shape->rank > 1 ? 2 : 1), dims);
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
        error = tr_writer_write(writer, data, tr_shape_elems(shape) * (int64_t)sizeof(float));
    if (!error)
        return tr_writer_commit_take(writer);
    tr_writer_drop(writer);
    return error;
}

tr_error *tr_score_logits(const char *directory, const char *in_path, const char *out_path, const tr_scoring *how)
{
    tr_error *error = NULL;
    tr_given *given = NULL;
    tr_program *program = NULL;
    float *wide = NULL;
    const tr_family *family;
    tr_sizes sizes;
    TR_GO(tr_pretrained_read(directory, &family, &sizes));
    TR_GO(tr_given_read(in_path, &given));
    if (tr_given_seq(given) > sizes.context && sizes.context > 0)
        TR_GO(tr_error_new(TR_USER, "%s: %lld ids a row are more than the model's context of %lld", in_path,
                           (long long)tr_given_seq(given), (long long)sizes.context));
    tr_compile compile = {.target = how->target, .compute = how->compute, .batch = tr_given_batch(given),
                          .seq = tr_given_seq(given), .decoder_seq = tr_given_decoder_seq(given)};
    TR_GO(open_program(directory, tr_compile_logits, &compile, &program));
    TR_GO(tr_given_fill(given, program));
    tr_program_run(program, TR_START, TR_UPDATE, 0, 0);
    const void *logits = tr_program_find(program, "logits");
    const tr_shape *shape = tr_shape_at(program->graph, tr_graph_find(program->graph, "logits"));
    if (shape->dtype == TR_BF16) {
        int64_t n = tr_shape_elems(shape);
        wide = tr_alloc((size_t)n * sizeof *wide);
        for (int64_t i = 0; i < n; i++)
            wide[i] = tr_bf16_to_f32(((const uint16_t *)logits)[i]);
    }
    error = write_npy(out_path, wide ? wide : logits, shape);
done:
    tr_program_free(program);
    tr_given_free(given);
    free(wide);
    return error;
}
