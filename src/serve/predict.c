/* Classes of images; see predict.h. Texts are in predict_text.c. */
#include "serve/predict.h"

#include "base/memory.h"
#include "data/checkpoint.h"
#include "data/images.h"
#include "data/pretrained.h"
#include "data/weights.h"
#include "serve/choice.h"

enum { BATCH = 64 };

static tr_error *open_program(const char *directory, const tr_compile *how, tr_program **out)
{
    tr_error *error = NULL;
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_sizes sizes;
    *out = NULL;
    TR_GO(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    TR_GO(tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &sizes));
    sizes.dropout = sizes.drop_path = 0;
    TR_GO(tr_compile_logits(family->model, &sizes, NULL, how, out));
    TR_GO(tr_program_allocate(*out));
    TR_GO(tr_weights_load(*out, family, tr_checkpoint_model(checkpoint)));
done:
    tr_checkpoint_close(checkpoint);
    if (error) {
        tr_program_free(*out);
        *out = NULL;
    }
    return error;
}

/* Image n in the middle of the model's [channels, height, width]. */
static void place(const tr_images *m, int64_t n, const int64_t *dims, float *out)
{
    int64_t above = (dims[1] - m->height) / 2, before = (dims[2] - m->width) / 2;
    for (int64_t i = 0; i < dims[0] * dims[1] * dims[2]; i++)
        out[i] = -1;
    for (int64_t i = 0; i < m->channels * m->height * m->width; i++) {
        int64_t x = i % m->width, y = i / m->width % m->height, c = i / m->width / m->height;
        out[(c * dims[1] + y + above) * dims[2] + x + before] = tr_images_pixel(m, n, i);
    }
}

static tr_error *run(tr_program *p, const tr_images *m, tr_predict_each *each, void *context)
{
    tr_value input = tr_graph_find(p->graph, "images");
    const int64_t *dims = tr_shape_at(p->graph, input)->dims + 1;
    int64_t elems = dims[0] * dims[1] * dims[2];
    float *to = tr_program_data(p, input);
    if (m->channels != dims[0] || m->height > dims[1] || m->width > dims[2])
        return tr_error_new(TR_USER, "%s has images of %lld x %lld x %lld and the model takes up to %lld x %lld x %lld", m->path,
                            (long long)m->channels, (long long)m->height, (long long)m->width, (long long)dims[0],
                            (long long)dims[1], (long long)dims[2]);
    for (int64_t first = 0; first < m->count; first += BATCH) {
        int64_t count = TR_MIN(m->count - first, (int64_t)BATCH);
        for (int64_t r = 0; r < BATCH; r++)
            place(m, first + TR_MIN(r, count - 1), dims, to + r * elems);
        tr_program_run(p, TR_START, TR_UPDATE, 0, 0);
        for (int64_t r = 0; r < count; r++) {
            tr_predicted one = {.index = first + r, .expected = m->labels ? m->labels[first + r] : -1};
            one.label = tr_choice(p, r, &one.probability);
            each(context, &one);
        }
    }
    return NULL;
}

static tr_error *predict_images(const char *directory, const char *path, const tr_scoring *how, tr_predict_each *each, void *context)
{
    tr_error *error = NULL;
    tr_program *program = NULL;
    tr_images *images = NULL;
    tr_compile compile = {.target = how->target, .compute = how->compute, .batch = BATCH};
    TR_GO(tr_images_open(path, false, false, &images));
    TR_GO(open_program(directory, &compile, &program));
    error = run(program, images, each, context);
done:
    tr_program_free(program);
    tr_images_free(images);
    return error;
}

tr_error *tr_predict(const char *directory, const char *path, const tr_scoring *how, tr_predict_each *each, void *context)
{
    tr_checkpoint *checkpoint = NULL;
    const tr_family *family;
    tr_sizes sizes = {0};
    TR_TRY(tr_checkpoint_open(directory, TR_CHECKPOINT_MODEL, &checkpoint));
    tr_error *error = tr_pretrained_read(tr_checkpoint_directory(checkpoint), &family, &sizes);
    tr_checkpoint_close(checkpoint);
    TR_TRY(error);
    if (sizes.image)
        return predict_images(directory, path, how, each, context);
    if (sizes.labels)
        return tr_predict_texts(directory, path, how, each, context);
    return tr_error_new(TR_USER, "%s is a model of the family %s without classes; predict takes vit, swin, and bert trained with "
                                 "model.labels",
                        directory, family->name);
}
