/* Classes of images by a trained model. */
#pragma once
#include "serve/score.h"

typedef struct tr_predicted {
    int64_t index, label;
    double probability;
    int64_t expected; /* the label in the data; -1: there is none */
} tr_predicted;

/* `images` as data/images.h reads them, with or without labels; smaller ones than the model's are put in its middle.
 * each is called for each image in turn. */
tr_error *tr_predict(const char *directory, const char *images, const tr_scoring *how,
                     void (*each)(void *context, const tr_predicted *one), void *context);
