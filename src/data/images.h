/* Images with labels, from files that are read whole into memory:
 *
 *   IDX (MNIST's), plain or gzip'd   u8 [n, height, width] and u8 [n]      train-images-idx3-ubyte.gz
 *   NumPy .npy, version 1            u8 or f32 [n, height, width] or [n, channels, height, width]; integers [n]
 *
 * The file of labels stands beside that of images and has "labels" in its name where that has "images" (and idx1 for
 * idx3). A directory means its images to train on (train*images*), or to validate on (t10k*, test*, val*).
 *
 * Readers believe nothing: sizes are checked against the bytes that are there.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct tr_images {
    char *path; /* of the file of images */
    int64_t count, channels, height, width;
    uint8_t *bytes; /* [count, channels, height, width]: one of the two */
    float *reals;
    int32_t *labels; /* NULL: there are none */
    int32_t classes; /* the largest label + 1 */
    uint64_t fingerprint;
} tr_images;

/* need_labels: an error when there is no file of labels; otherwise they are taken if they are there. */
tr_error *tr_images_open(const char *path, bool training, bool need_labels, tr_images **out);
void tr_images_free(tr_images *images); /* NULL is fine */
/* Pixel i of image n (row-major over channels, height, width): bytes as x / 127.5 - 1, in [-1, 1]; reals as they are. */
float tr_images_pixel(const tr_images *images, int64_t n, int64_t i);
