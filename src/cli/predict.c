/* `trireme predict`: the class of each image or text. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>

#include "base/memory.h"
#include "cli/options.h"
#include "serve/predict.h"

typedef struct predict_options {
    const char *isa;
    int64_t threads;
    bool json;
    int64_t seq, count, labelled, right;
} predict_options;

static void show(void *context, const tr_predicted *one)
{
    predict_options *with = context;
    with->count++;
    with->labelled += one->expected >= 0;
    with->right += one->expected == one->label;
    if (!with->json)
        return;
    printf("{\"index\":%lld,\"label\":%lld", (long long)one->index, (long long)one->label);
    if (one->name) {
        json_t *name = json_string(one->name);
        char *text = json_dumps(name, JSON_ENCODE_ANY);
        printf(",\"name\":%s", text);
        free(text);
        json_decref(name);
    }
    printf(",\"probability\":%.6f", one->probability);
    if (one->expected >= 0)
        printf(",\"expected\":%lld", (long long)one->expected);
    puts("}");
}

static void conclude(const predict_options *with, const char *path)
{
    double accuracy = with->labelled ? (double)with->right / (double)with->labelled : 0;
    if (with->json && with->labelled)
        printf("{\"count\":%lld,\"accuracy\":%.6f}\n", (long long)with->count, accuracy);
    else if (!with->json && with->labelled)
        printf("%s: %lld, %.2f %% of them right\n", path, (long long)with->count, 100 * accuracy);
    else if (!with->json)
        printf("%s: %lld without labels; --json prints the class of each\n", path, (long long)with->count);
}

tr_error *cmd_predict(int argc, char **argv)
{
    predict_options with = {0};
    const tr_option options[] = {
        {"json", 0, NULL, "print one JSON object an image or text: index, label, probability; with labels also\n"
                          "the expected one, and at the end the accuracy", .flag = &with.json},
        {"seq", 0, "N", "tokens of a text; 0: the model's context (0)", .integer = &with.seq, .most = 1 << 24},
        {"threads", 0, "N", "threads; 0: all cores (0)", .integer = &with.threads, .most = 4096},
        {"isa", 0, "NAME", "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx", .text = &with.isa},
    };
    const tr_usage usage = {
        .name = "predict",
        .operands = "DIR FILE",
        .summary = "the class of each image or text, by a trained model",
        .options = options,
        .count = TR_COUNT(options),
        .examples = "trireme predict runs/vit-fashion /usr/share/datasets/fashion-mnist\n"
                    "trireme predict runs/vit-fashion t10k-images-idx3-ubyte.gz --json\n"
                    "trireme predict runs/spam mails.jsonl --json",
        .notes = "DIR is a run of `trireme train`, or a Hugging Face directory, of vit, swin, or bert with classes.\n"
                 "Images: an IDX file (gzip'd or not), a NumPy array, or a directory with images to validate on.\n"
                 "Texts: JSONL, {\"text\": ..., \"pair\": ..., \"label\": ...} a line; pair and label may be left out.",
        .min = 2,
        .max = 2,
    };
    tr_operands operands;
    tr_scoring how = {.compute = TR_F32};
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    how.seq = with.seq;
    how.target.threads = with.threads ? (int)with.threads : tr_cpu_cores();
    TR_TRY(tr_isa_parse(with.isa ? with.isa : "auto", &how.target.isa));
    TR_TRY(tr_predict(operands.items[0], operands.items[1], &how, show, &with));
    conclude(&with, operands.items[1]);
    return NULL;
}
