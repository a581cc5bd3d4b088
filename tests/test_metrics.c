/* metrics.jsonl, TensorBoard event files, the progress bar. */
#define _GNU_SOURCE
#include "check.h"

#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/tensorboard.h"

static char folder[64];

static json_t *lines_of(const char *path)
{
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    json_t *lines = json_array();
    for (const char *at = map.bytes, *end = at + map.size; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        CHECK(newline != NULL);
        if (!newline)
            break;
        json_error_t where;
        json_t *line = json_loadb(at, (size_t)(newline - at), JSON_REJECT_DUPLICATES, &where);
        if (!line)
            FAIL("%.*s: %s", (int)(newline - at), at, where.text);
        else
            json_array_append_new(lines, line);
        at = newline + 1;
    }
    tr_map_close(&map);
    return lines;
}

static json_t *value_of(const json_t *lines, size_t line, const char *key)
{
    return json_object_get(json_array_get(lines, line), key);
}

static void add_steps(tr_metrics *metrics, int64_t first, int64_t last)
{
    for (int64_t step = first; step <= last; step++) {
        tr_metrics_step s = {.step = step,
                             .loss = 10.0 / (double)step,
                             .lr = 3e-4,
                             .grad_norm = 0.1,
                             .tokens = step * 512,
                             .tokens_per_s = 1000.25,
                             .step_s = 0.512,
                             .peak_bytes = 123456789012};
        CHECK_OK(tr_metrics_step_add(metrics, &s));
        if (step % 4 == 0)
            CHECK_OK(tr_metrics_val_add(metrics, step, 0.5, NAN));
    }
}

static void test_metrics(void)
{
    char *path = tr_path_join(folder, "metrics.jsonl");
    tr_metrics *metrics = NULL;
    CHECK_OK(tr_metrics_open(path, -1, &metrics));
    json_t *config = json_pack("{s:{s:i}}", "train", "seq", 128);
    json_t *plan = json_pack("{s:[{s:i},{s:i}]}", "ranks", "rank", 0, "rank", 1);
    tr_metrics_run run = {config, plan, 0xFEDCBA9876543210u, 5000, 7000, "0.1.0"};
    CHECK_OK(tr_metrics_begin(metrics, &run));
    CHECK_OK(tr_metrics_begin(metrics, &run)); /* once only */
    add_steps(metrics, 1, 10);
    CHECK_OK(
        tr_metrics_sample_add(metrics, 10, "a \"quote\"\n\ttab \\ \x01 na\xC3\xAFve \xFF\xC3"));
    CHECK_OK(tr_metrics_step_add(
        metrics, &(tr_metrics_step){.step = 11, .loss = NAN, .grad_norm = INFINITY}));
    tr_metrics_close(metrics);
    json_t *lines = lines_of(path);
    CHECK_INT(json_array_size(lines), 15);
    CHECK_INT(json_integer_value(value_of(lines, 0, "parameters")), 7000);
    CHECK_INT(json_integer_value(value_of(lines, 0, "planned_peak_bytes")), 5000);
    CHECK_STRING(json_string_value(value_of(lines, 0, "plan_hash")), "fedcba9876543210");
    CHECK_STRING(json_string_value(value_of(lines, 0, "version")), "0.1.0");
    CHECK(json_equal(value_of(lines, 0, "config"), config));
    CHECK(json_equal(value_of(lines, 0, "plan"), plan));
    json_decref(config);
    json_decref(plan);
    for (int i = 1; i <= 3; i++) {
        CHECK_INT(json_integer_value(value_of(lines, (size_t)i, "step")), i);
        CHECK(json_number_value(value_of(lines, (size_t)i, "loss")) == 10.0 / i); /* exactly */
        CHECK(json_number_value(value_of(lines, (size_t)i, "step_s")) == 0.512);
        CHECK_INT(json_integer_value(value_of(lines, (size_t)i, "peak_bytes")), 123456789012);
    }
    CHECK(json_number_value(value_of(lines, 5, "val_loss")) == 0.5);
    CHECK_STRING(json_string_value(value_of(lines, 13, "sample")),
                 "a \"quote\"\n\ttab \\ \x01 na\xC3\xAFve \xEF\xBF\xBD\xEF\xBF\xBD");
    CHECK(json_is_null(value_of(lines, 14, "loss")) &&
          json_is_null(value_of(lines, 14, "grad_norm")));
    json_decref(lines);
    free(path);
}

/* After a kill in step 11 and a resume at 8 the file is what a straight run would have written. */
static void test_resume(void)
{
    char *path = tr_path_join(folder, "resumed.jsonl"),
         *straight = tr_path_join(folder, "straight.jsonl");
    tr_metrics_run run = {NULL, NULL, 1, 2, 3, "0.1.0"};
    tr_metrics *metrics = NULL;
    CHECK_OK(tr_metrics_open(straight, -1, &metrics));
    CHECK_OK(tr_metrics_begin(metrics, &run));
    add_steps(metrics, 1, 12);
    tr_metrics_close(metrics);
    CHECK_OK(tr_metrics_open(path, -1, &metrics));
    CHECK_OK(tr_metrics_begin(metrics, &run));
    add_steps(metrics, 1, 10);
    tr_metrics_close(metrics);
    FILE *file = fopen(path, "a");
    fputs("{\"step\": 11, \"loss\": 3.", file);
    fclose(file);
    CHECK_OK(tr_metrics_open(path, 8, &metrics));
    CHECK_OK(tr_metrics_begin(metrics, &run));
    add_steps(metrics, 9, 12);
    tr_metrics_close(metrics);
    tr_map a, b;
    CHECK_OK(tr_map_open(path, &a));
    CHECK_OK(tr_map_open(straight, &b));
    CHECK(a.size == b.size && memcmp(a.bytes, b.bytes, (size_t)a.size) == 0);
    tr_map_close(&a);
    tr_map_close(&b);
    CHECK_OK(tr_metrics_open(path, 0, &metrics)); /* nothing but the first line stays */
    tr_metrics_close(metrics);
    json_t *lines = lines_of(path);
    CHECK_INT(json_array_size(lines), 1);
    json_decref(lines);
    CHECK(unlink(path) == 0);
    CHECK_OK(tr_metrics_open(path, 8,
                             &metrics)); /* no file to go on with: a new one, with a first line */
    CHECK_OK(tr_metrics_begin(metrics, &run));
    tr_metrics_close(metrics);
    lines = lines_of(path);
    CHECK_INT(json_array_size(lines), 1);
    json_decref(lines);
    CHECK_ERROR(tr_metrics_open("/nowhere/metrics.jsonl", -1, &metrics),
                "cannot write the metrics");
    free(path);
    free(straight);
}

static void test_disk_full(void)
{
    if (access("/dev/full", W_OK) != 0)
        return;
    tr_metrics *metrics = NULL;
    CHECK_OK(tr_metrics_open("/dev/full", -1, &metrics));
    CHECK_ERROR(tr_metrics_val_add(metrics, 1, 2, NAN), "cannot write the metrics to /dev/full");
    tr_metrics_close(metrics);
}

static uint32_t masked(const char *bytes, int64_t count)
{
    uint32_t crc = tr_crc32c(0, bytes, count);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

/* The frames, and bytes that were worked out by hand from the protocol buffer encoding. */
static void test_tensorboard(void)
{
    char *directory = tr_path_join(folder, "events");
    tr_tensorboard *board = NULL;
    CHECK_OK(tr_tensorboard_open(directory, 299, &board));
    CHECK_OK(tr_tensorboard_scalars(board, 300, (tr_scalar[]){{"a", 1.5}, {"b", -2}}, 2));
    CHECK_OK(tr_tensorboard_text(board, 300, "t", "hi"));
    tr_tensorboard_close(board);
    char **names;
    int64_t count;
    CHECK_OK(tr_directory_list(directory, &names, &count));
    CHECK_INT(count, 1);
    CHECK(strncmp(names[0], "events.out.tfevents.", 20) == 0);
    char *path = tr_path_join(directory, names[0]);
    tr_map map;
    CHECK_OK(tr_map_open(path, &map));
    /* After the wall time, 9 bytes: the step, then the message. */
    const struct {
        const char *bytes;
        int64_t length;
    } want[] = {
        {"\x10\x00\x1A\x0D"
         "brain.Event:2",
         17},
        {"\x10\xAC\x02\x3A\x02\x08\x01", 7},
        {"\x10\xAC\x02\x2A\x14"
         "\x0A\x08\x0A\x01"
         "a\x15\x00\x00\xC0\x3F"
         "\x0A\x08\x0A\x01"
         "b\x15\x00\x00\x00\xC0",
         25},
        {"\x10\xAC\x02\x2A\x1D\x0A\x1B\x0A\x01t\x4A\x08\x0A\x06\x0A\x04text\x42\x0C\x08\x07\x12\x04"
         "\x12\x02\x08\x01"
         "\x42\x02hi",
         34},
    };
    int64_t at = 0;
    for (int64_t i = 0; i < TR_COUNT(want); i++) {
        uint64_t length;
        uint32_t crc;
        CHECK(at + 12 <= map.size);
        memcpy(&length, map.bytes + at, 8);
        memcpy(&crc, map.bytes + at + 8, 4);
        CHECK_INT(crc, masked(map.bytes + at, 8));
        const char *event = map.bytes + at + 12;
        CHECK(at + 16 + (int64_t)length <= map.size);
        memcpy(&crc, event + length, 4);
        CHECK_INT(crc, masked(event, (int64_t)length));
        CHECK_INT(event[0], 0x09);
        CHECK_INT(length, want[i].length + 9);
        if ((int64_t)length == want[i].length + 9 &&
            memcmp(event + 9, want[i].bytes, length - 9) != 0)
            FAIL("event %lld has other bytes", (long long)i);
        at += 16 + (int64_t)length;
    }
    CHECK_INT(at, map.size);
    tr_map_close(&map);
    tr_names_free(names, count);
    free(path);
    free(directory);
}

static void test_words(void)
{
    const struct {
        double value;
        const char *count, *time;
    } rows[] = {
        {0, "0", "0s"},
        {12.34, "12", "12s"},
        {999.4, "999", "16m39s"},
        {999.6, "1.00k", "16m40s"},
        {12345, "12.3k", "3h25m"},
        {99960, "100k", "1d03h"},
        {4.56e6, "4.56M", "52d18h"},
        {NAN, "?", "?"},
        {-1, "-1", "?"},
        {1e17, "100000T", "?"},
    };
    for (int64_t i = 0; i < TR_COUNT(rows); i++) {
        char out[16];
        tr_progress_count(rows[i].value, out);
        CHECK_STRING(out, rows[i].count);
        tr_progress_time(rows[i].value, out);
        CHECK_STRING(out, rows[i].time);
    }
}

static char *progress_of(tr_progress_mode mode, int64_t every)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    tr_progress *progress = tr_progress_new(out, mode, 0, 20, every);
    for (int64_t step = 1; step <= 20; step++) {
        tr_progress_show(progress,
                         &(tr_progress_step){step, 2.5, 12345, 0.1, step > 1 ? 0.61 : NAN});
        if (step == 10)
            tr_progress_note(progress, "step 10: validation loss %.3f", 2.25);
    }
    tr_progress_free(progress);
    fclose(out);
    return text;
}

static void test_progress(void)
{
    char *text = progress_of(TR_PROGRESS_AUTO, 5);
    CHECK(strstr(text, "step 1/20  loss 2.5000  12.3k tok/s  eta 2s\n") == text);
    CHECK(strstr(text, "step 5/20  loss 2.5000  12.3k tok/s  61% of peak  eta"));
    CHECK(strstr(text, "\nstep 10: validation loss 2.250\n"));
    CHECK(strstr(text, "\nstep 20/20  loss 2.5000  12.3k tok/s  61% of peak\n"));
    CHECK(!strchr(text, '\r') && !strstr(text, "step 7/20"));
    free(text);
    text = progress_of(TR_PROGRESS_AUTO, 0); /* 20 steps at once: the first and the last */
    CHECK(strstr(text, "step 1/20") && strstr(text, "step 20/20") && !strstr(text, "step 5/20"));
    free(text);
    text = progress_of(TR_PROGRESS_BAR, 0);
    CHECK(strstr(text, "\rstep 20/20 [====="));
    CHECK(strstr(text, "\r\033[Kstep 10: validation loss 2.250\n"));
    CHECK(text[strlen(text) - 1] == '\n');
    for (const char *line = text; *line;) { /* no line is wider than 79 columns */
        size_t length = strcspn(line, "\r\n\033");
        CHECK(length < 80);
        line += length + (line[length] != 0);
    }
    free(text);
}

int main(void)
{
    snprintf(folder, sizeof folder, "/tmp/trireme-metrics-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    TEST(test_metrics);
    TEST(test_resume);
    TEST(test_disk_full);
    TEST(test_tensorboard);
    TEST(test_words);
    TEST(test_progress);
    tr_error_free(tr_path_remove(folder));
    return check_report();
}
