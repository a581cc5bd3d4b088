/* `trireme predict`: the class of each image. */
#include "cli/cli.h"

#include <stdio.h>

#include "base/memory.h"
#include "cli/options.h"
#include "serve/predict.h"

typedef struct predict_options {
    const char *isa;
    int64_t threads;
    bool json;
    int64_t images, labelled, right;
} predict_options;

static void show(void *context, const tr_predicted *one)
{
    predict_options *with = context;
    with->images++;
    with->labelled += one->expected >= 0;
    with->right += one->expected == one->label;
    if (with->json && one->expected >= 0)
        printf("{\"index\":%lld,\"label\":%lld,\"probability\":%.6f,\"expected\":%lld}\n", (long long)one->index,
               (long long)one->label, one->probability, (long long)one->expected);
    else if (with->json)
        printf("{\"index\":%lld,\"label\":%lld,\"probability\":%.6f}\n", (long long)one->index, (long long)one->label,
               one->probability);
}

static void conclude(const predict_options *with, const char *path)
{
    double accuracy = with->labelled ? (double)with->right / (double)with->labelled : 0;
    if (with->json && with->labelled)
        printf("{\"images\":%lld,\"accuracy\":%.6f}\n", (long long)with->images, accuracy);
    else if (!with->json && with->labelled)
        printf("%s: %lld images, %.2f %% of them right\n", path, (long long)with->images, 100 * accuracy);
    else if (!with->json)
        printf("%s: %lld images without labels; --json prints the class of each\n", path, (long long)with->images);
}

tr_error *cmd_predict(int argc, char **argv)
{
    predict_options with = {0};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object an image: index, label, probability; with labels also the\n"
                          "expected one, and at the end the accuracy", .flag = &with.json},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16", .text = &with.isa},
    };
    const tr_usage usage = {
        .name = "predict",
        .operands = "DIR IMAGES",
        .summary = "the class of each image, by a trained model",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme predict runs/vit-fashion /usr/share/datasets/fashion-mnist\n"
                    "trireme predict runs/vit-fashion t10k-images-idx3-ubyte.gz --json",
        .notes = "DIR is a run of `trireme train`, or a Hugging Face directory of vit or swin. IMAGES is an IDX file\n"
                 "(gzip'd or not), a NumPy array of images, or a directory with a file of images to validate on.",
        .min = 2,
        .max = 2,
    };
    tr_operands operands;
    tr_scoring how = {.compute = TR_F32};
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    how.target.threads = with.threads ? (int)with.threads : tr_cpu_cores();
    TR_TRY(tr_isa_parse(with.isa ? with.isa : "auto", &how.target.isa));
    TR_TRY(tr_predict(operands.items[0], operands.items[1], &how, show, &with));
    conclude(&with, operands.items[1]);
    return NULL;
}
