/* Images from files: IDX plain and gzip'd, NumPy; damaged ones; samples, whole and augmented. */
#include "check.h"

#include <math.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "data/images.h"
#include "data/objective.h"

enum { COUNT = 12, SIDE = 5, PIXELS = SIDE * SIDE };
static char folder[] = "/tmp/trireme-images-XXXXXX";

static char *in_folder(const char *name)
{
    return tr_path_join(folder, name);
}

static void put(const char *name, const void *bytes, int64_t count, bool packed)
{
    char *path = in_folder(name);
    if (packed) {
        gzFile file = gzopen(path, "wb");
        CHECK(gzwrite(file, bytes, (unsigned)count) == count);
        gzclose(file);
    } else {
        CHECK_OK(tr_file_write(path, bytes, count));
    }
    free(path);
}

static uint8_t pixel(int n, int i)
{
    return (uint8_t)(n * 17 + i * 3);
}

static void make_idx(const char *images, const char *labels, bool packed)
{
    uint8_t a[16 + COUNT * PIXELS] = {0, 0, 8, 3, 0, 0, 0, COUNT, 0, 0, 0, SIDE, 0, 0, 0, SIDE},
            b[8 + COUNT] = {0, 0, 8, 1, 0, 0, 0, COUNT};
    for (int n = 0; n < COUNT; n++) {
        b[8 + n] = (uint8_t)(n % 4);
        for (int i = 0; i < PIXELS; i++)
            a[16 + n * PIXELS + i] = pixel(n, i);
    }
    put(images, a, sizeof a, packed);
    put(labels, b, sizeof b, packed);
}

static void check_images(const char *name)
{
    char *path = in_folder(name);
    tr_images *m = NULL;
    CHECK_OK(tr_images_open(path, true, true, &m));
    if (m) {
        CHECK_INT(m->count, COUNT);
        CHECK_INT(m->channels, 1);
        CHECK_INT(m->height, SIDE);
        CHECK_INT(m->width, SIDE);
        CHECK_INT(m->classes, 4);
        CHECK_INT(m->labels[7], 3);
        CHECK_NEAR(tr_images_pixel(m, 3, 11), pixel(3, 11) / 127.5 - 1, 1e-6);
    }
    tr_images_free(m);
    free(path);
}

static void test_formats(void)
{
    make_idx("train-images-idx3-ubyte", "train-labels-idx1-ubyte", false);
    check_images("train-images-idx3-ubyte");
    check_images("");
    make_idx("packed-images-idx3-ubyte.gz", "packed-labels-idx1-ubyte.gz", true);
    check_images("packed-images-idx3-ubyte.gz");
    char images[128 + COUNT * PIXELS], labels[128 + COUNT * 8];
    memset(images, ' ', 128);
    memset(labels, ' ', 128);
    memcpy(images, "\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (12, 1, 5, 5), }", 76);
    memcpy(labels, "\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (12,), }", 68);
    for (int n = 0; n < COUNT; n++) {
        int64_t label = n % 4;
        memcpy(labels + 128 + 8 * n, &label, 8);
        for (int i = 0; i < PIXELS; i++)
            images[128 + n * PIXELS + i] = (char)pixel(n, i);
    }
    put("images.npy", images, sizeof images, false);
    put("labels.npy", labels, sizeof labels, false);
    check_images("images.npy");
}

static void refused(const char *name, const char *part)
{
    char *path = in_folder(name);
    tr_images *m = NULL;
    CHECK_ERROR(tr_images_open(path, true, true, &m), part);
    CHECK(!m);
    free(path);
}

static void test_damaged(void)
{
    refused("not-there", "is it there");
    put("words-images", "some words", 10, false);
    refused("words-images", "neither");
    put("alone-images", "\0\0\x08\x03\0\0\0\x01\0\0\0\x01\0\0\0\x01x", 17, false);
    refused("alone-images", "there is no");
    put("short-images", "\0\0\x08\x03\0\0\0\x02\0\0\0\x09\0\0\0\x09x", 17, false);
    refused("short-images", "ends before");
    put("huge-images", "\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffx", 17, false);
    refused("huge-images", "");
    put("flat-images", "\0\0\x08\x01\0\0\0\x01x", 9, false);
    refused("flat-images", "expected images");
    char *path = in_folder("packed-images-idx3-ubyte.gz");
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    put("cut-images.gz", map.bytes, map.size / 2, false);
    tr_map_close(&map);
    free(path);
    refused("cut-images.gz", "");
}

static void *open_with(tr_augment augment, double val_split)
{
    char *path = in_folder("train-images-idx3-ubyte");
    void *own = NULL;
    tr_objective_options options = {.paths = (const char *const *)&path, .n_paths = 1, .seed = 3, .val_split = val_split,
                                    .labels = 4, .augment = augment};
    CHECK_OK(tr_objective_images.open(&options, &own));
    free(path);
    return own;
}

static int sample(const void *own, bool validation, int64_t index, int side, float *pixels)
{
    int32_t label = -1;
    memset(pixels, 0, sizeof *pixels * (size_t)(side * side));
    tr_field fields[] = {{.name = "images", .dtype = TR_F32, .rank = 3, .dims = {1, side, side}, .elems = side * side, .reals = pixels},
                         {.name = "labels", .dtype = TR_I32, .elems = 1, .ints = &label}};
    CHECK_OK(tr_objective_images.sample(own, validation, index, fields, 2));
    return label;
}

/* Every image once an epoch, in the middle of a larger one; validation in order. */
static void test_samples(void)
{
    float pixels[49];
    void *own = open_with((tr_augment){0}, 0.25);
    CHECK_INT(tr_objective_images.val_count(own), 3);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[COUNT] = {0};
        for (int i = 0; i < 9; i++) {
            int label = sample(own, false, epoch * 9 + i, 7, pixels), n = 0;
            while (n < COUNT && fabs(pixels[8] - (pixel(n, 0) / 127.5 - 1)) > 1e-6)
                n++;
            CHECK(n < 9);
            CHECK_INT(label, n % 4);
            CHECK_NEAR(pixels[0], -1, 0);
            CHECK_NEAR(pixels[40], pixel(n, 24) / 127.5 - 1, 1e-6);
            seen[n < COUNT ? n : 0]++;
        }
        for (int n = 0; n < 9; n++)
            CHECK_INT(seen[n], 1);
    }
    CHECK_INT(sample(own, true, 1, 5, pixels), 10 % 4);
    CHECK_NEAR(pixels[3], pixel(10, 3) / 127.5 - 1, 1e-6);
    tr_objective_images.free(own);
}

/* The same sample is the same; flips and crops happen, and keep the label. */
static void test_augmented(void)
{
    float a[25], b[25], plain[25];
    void *own = open_with((tr_augment){.crop = 1, .flip = true, .erase = 0.5}, 0), *bare = open_with((tr_augment){0}, 0);
    int changed = 0;
    for (int i = 0; i < 100; i++) {
        int label = sample(own, false, i, 5, a);
        CHECK_INT(sample(own, false, i, 5, b), label);
        CHECK(memcmp(a, b, sizeof a) == 0);
        CHECK_INT(sample(bare, false, i, 5, plain), label);
        changed += memcmp(a, plain, sizeof a) != 0;
    }
    CHECK(changed > 70 && changed < 100);
    tr_objective_images.free(own);
    tr_objective_images.free(bare);
}

static void mixed(const void *own, int64_t index, float pixels[PIXELS], int32_t labels[TR_LABEL_PARTS], bool both)
{
    memset(pixels, 0, PIXELS * sizeof *pixels);
    tr_field fields[] = {{.name = "images", .dtype = TR_F32, .rank = 3, .dims = {1, SIDE, SIDE}, .elems = PIXELS, .reals = pixels},
                         {.name = "labels", .dtype = TR_I32, .rank = 1, .dims = {TR_LABEL_PARTS}, .elems = TR_LABEL_PARTS, .ints = labels}};
    CHECK_OK(tr_objective_images.sample(own, false, index, fields, both ? 2 : 1));
}

/* Is it `parts` of image a and the rest of image b? */
static bool is_mix(const float pixels[PIXELS], int a, int b, int parts)
{
    double share = (double)parts / TR_LABEL_PARTS;
    for (int i = 0; i < PIXELS; i++)
        if (fabs(pixels[i] - (share * pixel(a, i) + (1 - share) * pixel(b, i)) / 127.5 + 1) > 1e-5)
            return false;
    return true;
}

/* Labels are shared as the pixels are. Shares come from Beta(a, a): for a = 1 each number of parts but the ends has
 * probability 1 / 16, for a = 0.2 those together 0.474; partners have another label in 9 of 12 cases. */
static void test_mixed(void)
{
    enum { SAMPLES = 2400 };
    static const struct {
        double alpha, changing;
    } cases[] = {{1, 0.703}, {0.2, 0.355}};
    for (int c = 0; c < TR_COUNT(cases); c++) {
        int changing = 0, sum = 0;
        void *own = open_with((tr_augment){.mixup = cases[c].alpha}, 0), *bare = open_with((tr_augment){0}, 0);
        for (int i = 0; i < SAMPLES; i++) {
            float pixels[PIXELS], alone[PIXELS], plain[PIXELS];
            int32_t labels[TR_LABEL_PARTS];
            int parts = 1, a = 0, b = 0;
            mixed(own, i, pixels, labels, true);
            mixed(own, i, alone, labels, false);
            CHECK(memcmp(pixels, alone, sizeof pixels) == 0);
            int label = sample(bare, false, i, SIDE, plain), last = labels[TR_LABEL_PARTS - 1];
            while (!is_mix(plain, a, a, 0))
                a++;
            while (parts < TR_LABEL_PARTS && labels[parts] == labels[parts - 1])
                parts++;
            if (parts == TR_LABEL_PARTS)
                continue;
            CHECK_INT(labels[0], label);
            for (int e = parts; e < TR_LABEL_PARTS; e++)
                CHECK_INT(labels[e], last);
            while (b < COUNT && !(b % 4 == last && is_mix(pixels, a, b, parts)))
                b++;
            CHECK(b < COUNT);
            changing++;
            sum += parts;
        }
        CHECK_NEAR((double)changing / SAMPLES, cases[c].changing, 0.04);
        CHECK_NEAR((double)sum / changing / TR_LABEL_PARTS, 0.5, 0.03);
        tr_objective_images.free(own);
        tr_objective_images.free(bare);
    }
}

/* Validation images are never mixed; a model of one label an image is refused. */
static void test_mixed_or_not(void)
{
    float pixels[PIXELS], plain[PIXELS];
    void *own = open_with((tr_augment){.mixup = 0.5}, 0.25), *bare = open_with((tr_augment){0}, 0.25);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(sample(own, true, i, SIDE, pixels), sample(bare, true, i, SIDE, plain));
        CHECK(memcmp(pixels, plain, sizeof pixels) == 0);
    }
    int32_t label = 0;
    tr_field field = {.name = "labels", .dtype = TR_I32, .elems = 1, .ints = &label};
    CHECK_ERROR(tr_objective_images.sample(own, false, 0, &field, 1), "data.mixup is for the families");
    tr_objective_images.free(own);
    tr_objective_images.free(bare);
}

int main(void)
{
    CHECK(mkdtemp(folder) != NULL);
    TEST(test_formats);
    TEST(test_damaged);
    TEST(test_samples);
    TEST(test_augmented);
    TEST(test_mixed);
    TEST(test_mixed_or_not);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
