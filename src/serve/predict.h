/* Classes of images or texts by a trained model. */
#pragma once
#include "serve/score.h"

typedef struct tr_predicted {
    int64_t index, label;
    const char *name; /* of the label; NULL: only its number */
    double probability;
    int64_t expected; /* the label in the data; -1: there is none */
} tr_predicted;

typedef void tr_predict_each(void *context, const tr_predicted *one);

/* Images as data/images.h reads them, with or without labels; smaller ones than the model's are put in its middle. Texts as
 * data/labelled.h reads them, cut at how->seq tokens (0: the model's context). `each` is called for each in turn. */
tr_error *tr_predict(const char *directory, const char *path, const tr_scoring *how, tr_predict_each *each, void *context);
/* Its half for texts: predict_text.c. */
tr_error *tr_predict_texts(const char *directory, const char *path, const tr_scoring *how, tr_predict_each *each, void *context);
