/* Classes of images.
 *
 *   images [channels, height, width]   labels []: the class
 *
 * An epoch shows each image of the training data once, in an order of its own. What is drawn for sample i (flip,
 * crop, erasing, what it is mixed with) is a function of (seed, i). Images that are smaller than the model's are put in
 * its middle.
 *
 * Mixup (Zhang et al. 2018): share x image + (1 - share) x another, and so the targets. A share is rounded to a whole
 * number of TR_LABEL_PARTS, and the sample has as many labels [TR_LABEL_PARTS], the first ones of the image, the rest of
 * the other: the mean of their losses is that of the soft target.
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/random.h"
#include "data/images.h"
#include "data/objective.h"

enum { ORDER = 0x696d6731, DRAWS = 0x696d6732, OTHERS = 0x696d6733, SHARES = 0x696d6734 }; /* streams of random numbers */
static const float BLACK = -1;

typedef struct pictures {
    tr_images *train, *val; /* val NULL: the last val_count of train */
    int64_t train_count, val_count;
    uint64_t seed;
    tr_augment augment;
} pictures;

static void close(void *own)
{
    pictures *p = own;
    if (!p)
        return;
    tr_images_free(p->train);
    tr_images_free(p->val);
    free(p);
}

static tr_error *open_parts(pictures *p, const tr_objective_options *o)
{
    if (o->n_paths > 1 || o->n_val_paths > 1)
        return tr_error_new(TR_USER, "images come from one file (or directory) to train on and one to validate on");
    if (o->n_paths) {
        TR_TRY(tr_images_open(o->paths[0], true, true, &p->train));
        p->train_count = p->train->count;
    }
    if (o->n_val_paths) {
        TR_TRY(tr_images_open(o->val_paths[0], false, true, &p->val));
        p->val_count = p->val->count;
    } else if (p->train && o->val_split > 0) {
        p->val_count = (int64_t)((double)p->train->count * o->val_split);
        p->train_count -= p->val_count;
    }
    const tr_images *const both[] = {p->train, p->val};
    for (int k = 0; k < 2; k++)
        if (both[k] && o->labels && both[k]->classes > o->labels)
            return tr_error_new(TR_USER, "%s has %d classes and the model has model.labels %lld", both[k]->path, both[k]->classes,
                                (long long)o->labels);
    return p->train && p->train_count < 1 ? tr_error_new(TR_USER, "%s leaves no image to train on", p->train->path) : NULL;
}

static tr_error *open(const tr_objective_options *o, void **out)
{
    pictures *p = tr_alloc_zero(1, sizeof *p);
    p->seed = o->seed;
    p->augment = o->augment;
    tr_error *error = open_parts(p, o);
    *out = error ? NULL : p;
    if (error)
        close(p);
    return error;
}

/* How an image is shown: moved by (down, right), mirrored, without a rectangle. */
typedef struct view {
    int64_t down, right, top, left, rows, columns;
    bool mirrored;
} view;

static int64_t draw_to(uint32_t word, int64_t count)
{
    return (int64_t)((uint64_t)word * (uint64_t)count >> 32);
}

/* Random erasing (Zhong et al. 2017): a rectangle of 2 % to a third of the image, sides 0.3 to 3.3. */
static view draw(const pictures *p, uint32_t stream, int64_t index, const tr_field *f)
{
    const tr_augment *a = &p->augment;
    int64_t height = f->dims[1], width = f->dims[2], most = 2 * a->crop + 1;
    tr_random4 r = tr_random(p->seed, 0, stream, (uint64_t)(2 * index)),
               e = tr_random(p->seed, 0, stream, (uint64_t)(2 * index + 1));
    view v = {.down = draw_to(r.word[0], most) - a->crop, .right = draw_to(r.word[1], most) - a->crop,
              .mirrored = a->flip && r.word[2] >> 31};
    if (tr_random_unit(r.word[3]) >= a->erase)
        return v;
    double area = (0.02 + 0.31 * tr_random_unit(e.word[0])) * (double)(height * width),
           aspect = exp(log(0.3) + (log(3.3) - log(0.3)) * tr_random_unit(e.word[1]));
    v.rows = TR_MIN(height, TR_MAX(1, (int64_t)sqrt(area * aspect)));
    v.columns = TR_MIN(width, TR_MAX(1, (int64_t)sqrt(area / aspect)));
    v.top = draw_to(e.word[2], height - v.rows + 1);
    v.left = draw_to(e.word[3], width - v.columns + 1);
    return v;
}

/* Adds `weight` of image n, as seen, to what is there. */
static tr_error *show(const tr_images *m, int64_t n, const view *v, float weight, tr_field *f)
{
    int64_t channels = f->dims[0], height = f->dims[1], width = f->dims[2];
    if (channels != m->channels || height < m->height || width < m->width)
        return tr_error_new(TR_USER, "%s has images of %lld x %lld x %lld and the model takes %lld x %lld x %lld; set "
                                     "model.channels, and model.image to at least their size",
                            m->path, (long long)m->channels, (long long)m->height, (long long)m->width, (long long)channels,
                            (long long)height, (long long)width);
    int64_t above = (height - m->height) / 2 + v->down, before = (width - m->width) / 2 + v->right;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++) {
                int64_t i = y - above, j = (v->mirrored ? width - 1 - x : x) - before;
                bool erased = y >= v->top && y < v->top + v->rows && x >= v->left && x < v->left + v->columns;
                bool inside = i >= 0 && i < m->height && j >= 0 && j < m->width;
                f->reals[(c * height + y) * width + x] +=
                    weight * (erased ? 0 : inside ? tr_images_pixel(m, n, (c * m->height + i) * m->width + j) : BLACK);
            }
    return NULL;
}

/* How many of TR_LABEL_PARTS are of the image itself: a share from Beta(a, a), by Joehnk's method (1964), which for a <= 1
 * needs fewer than two tries in the mean. */
static int64_t draw_parts(const pictures *p, int64_t index)
{
    enum { TRIES = 64 };
    if (p->augment.mixup == 0)
        return TR_LABEL_PARTS;
    double power = 1 / p->augment.mixup;
    for (uint64_t t = 0; t < TRIES; t++) {
        tr_random4 r = tr_random(p->seed, 0, SHARES, (uint64_t)index * TRIES + t);
        double own = pow(tr_random_unit(r.word[0]), power), other = pow(tr_random_unit(r.word[1]), power);
        if (own + other > 0 && own + other <= 1)
            return (int64_t)lround(TR_LABEL_PARTS * own / (own + other));
    }
    return TR_LABEL_PARTS;
}

/* The image of the training data that is shown as sample `index`. */
static int64_t in_epoch(const pictures *p, int64_t index)
{
    tr_random4 r = tr_random(p->seed, 0, ORDER, (uint64_t)(index / p->train_count));
    return tr_permute((uint64_t)r.word[0] << 32 | r.word[1], p->train_count, index % p->train_count);
}

static tr_error *sample_to_train(const pictures *p, int64_t index, tr_field *images, tr_field *labels)
{
    const tr_images *m = p->train;
    int64_t n = in_epoch(p, index), parts = draw_parts(p, index),
            other = draw_to(tr_random(p->seed, 0, OTHERS, ~(uint64_t)index).word[0], p->train_count);
    if (labels && p->augment.mixup > 0 && labels->elems != TR_LABEL_PARTS)
        return tr_error_new(TR_USER, "data.mixup is for the families vit and swin: this model has one label an image, and a "
                                     "mixed image has a share of two");
    for (int64_t e = 0; labels && e < labels->elems; e++)
        labels->ints[e] = m->labels[p->augment.mixup > 0 && e >= parts ? other : n];
    if (!images)
        return NULL;
    view own = draw(p, DRAWS, index, images), its = draw(p, OTHERS, index, images);
    float share = (float)parts / TR_LABEL_PARTS;
    TR_TRY(show(m, n, &own, share, images));
    return parts < TR_LABEL_PARTS ? show(m, other, &its, 1 - share, images) : NULL;
}

static tr_error *sample(const void *own, bool validation, int64_t index, tr_field *fields, int count)
{
    const pictures *p = own;
    tr_field *images = tr_field_find(fields, count, "images"), *labels = tr_field_find(fields, count, "labels");
    if (!validation)
        return sample_to_train(p, index, images, labels);
    const tr_images *m = p->val ? p->val : p->train;
    int64_t n = p->val ? index : p->train_count + index;
    for (int64_t e = 0; labels && e < labels->elems; e++)
        labels->ints[e] = m->labels[n];
    return images ? show(m, n, &(view){0}, 1, images) : NULL;
}

static int64_t val_count(const void *own)
{
    return ((const pictures *)own)->val_count;
}

static tr_loader_info describe(const void *own)
{
    const pictures *p = own;
    return (tr_loader_info){.sources = 1, .train_tokens = p->train_count, .train_windows = p->train_count,
                            .val_tokens = p->val_count, .val_windows = p->val_count};
}

static char *state(const void *own)
{
    const pictures *p = own;
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "%016llx", (unsigned long long)(p->train ? p->train->fingerprint : 0));
    json_t *json = json_pack("{s:s, s:s, s:I, s:I}", "kind", "images", "fingerprint", fingerprint, "count",
                             (json_int_t)p->train_count, "seed", (json_int_t)p->seed);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

static tr_error *check_state(const void *own, const char *saved)
{
    const pictures *p = own;
    char *now = state(own);
    bool same = strcmp(now, saved) == 0;
    free(now);
    return same ? NULL
                : tr_error_new(TR_USER, "%s, its split or the seed is not what the run was trained on so far; go on with the "
                                        "same images and the same data.val_split and seed",
                               p->train->path);
}

const tr_objective_row tr_objective_images = {
    .name = "images",
    .help = "the class of an image",
    .inputs = "images labels",
    .no_text = true,
    .classes = true,
    .open = open,
    .free = close,
    .sample = sample,
    .val_count = val_count,
    .describe = describe,
    .state = state,
    .check_state = check_state,
};
