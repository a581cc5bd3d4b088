/* metrics.jsonl; see metrics.h. */
#define _GNU_SOURCE
#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/unicode.h"

struct tr_metrics {
    int fd;
    char *path;
    int64_t size;
    bool begun; /* the first line is there */
};

static const char STEP_START[] = "{\"step\": ";

void tr_metrics_number(tr_text *out, double value)
{
    if (!isfinite(value)) {
        tr_text_add(out, "null", 4);
        return;
    }
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    tr_text_add(out, text, strlen(text));
}

void tr_metrics_string(tr_text *out, const char *text, int64_t length)
{
    const char *end = text + length;
    tr_text_add(out, "\"", 1);
    while (text < end) {
        uint32_t code;
        int bytes = tr_utf8_decode(text, end, &code), may_go_on;
        if (!bytes) {
            bytes = tr_utf8_broken(text, end, &may_go_on);
            tr_text_add(out, "\xEF\xBF\xBD", 3);
        } else if (code == '"' || code == '\\') {
            tr_text_format(out, "\\%c", (char)code);
        } else if (code == '\n') {
            tr_text_add(out, "\\n", 2);
        } else if (code < 0x20 || code == 0x7F) {
            tr_text_format(out, "\\u%04x", code);
        } else {
            tr_text_add(out, text, (size_t)bytes);
        }
        text += bytes;
    }
    tr_text_add(out, "\"", 1);
}

/* Whether a line of an old file stays when the run goes on after `resume_step`. */
static bool line_stays(const char *line, int64_t length, int64_t resume_step)
{
    int64_t prefix = (int64_t)strlen(STEP_START), step = 0;
    if (length < 2 || line[0] != '{' || line[length - 1] != '}')
        return false;
    if (length <= prefix || memcmp(line, STEP_START, (size_t)prefix) != 0)
        return true;
    for (int64_t i = prefix; i < length && line[i] >= '0' && line[i] <= '9'; i++)
        if (!tr_mul_fits(step, 10, &step) || (step += line[i] - '0') < 0)
            return false;
    return step <= resume_step;
}

static tr_error *cut_old_file(const char *path, int64_t resume_step, bool *out_begun)
{
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    tr_text kept = {0};
    for (int64_t at = 0; at < map.size;) {
        const char *line = map.bytes + at;
        const char *newline = memchr(line, '\n', (size_t)(map.size - at));
        if (!newline)
            break;
        int64_t length = newline - line;
        if (line_stays(line, length, resume_step))
            tr_text_add(&kept, line, (size_t)length + 1);
        at += length + 1;
    }
    *out_begun = kept.length > 0 && strncmp(kept.bytes, STEP_START, strlen(STEP_START)) != 0;
    tr_error *error = NULL;
    if ((int64_t)kept.length != map.size)
        error = tr_file_write(path, kept.bytes, (int64_t)kept.length);
    tr_map_close(&map);
    tr_text_free(&kept);
    return error;
}

tr_error *tr_metrics_open(const char *path, int64_t resume_step, tr_metrics **out)
{
    *out = NULL;
    bool begun = false;
    if (resume_step >= 0 && tr_path_exists(path))
        TR_TRY(cut_old_file(path, resume_step, &begun));
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (resume_step < 0 ? O_TRUNC : 0);
    int fd = open(path, flags, 0666);
    if (fd < 0)
        return tr_error_errno(TR_USER, errno, "cannot write the metrics to %s", path);
    tr_metrics *metrics = tr_alloc_zero(1, sizeof *metrics);
    off_t size = lseek(fd, 0, SEEK_END);
    *metrics =
        (tr_metrics){.fd = fd, .path = tr_strdup(path), .begun = begun, .size = TR_MAX(size, 0)};
    *out = metrics;
    return NULL;
}

static tr_error *write_line(tr_metrics *metrics, tr_text *line)
{
    tr_error *error = NULL;
    tr_text_add(line, "}\n", 2);
    size_t done = 0;
    while (done < line->length && !error) {
        ssize_t count = write(metrics->fd, line->bytes + done, line->length - done);
        if (count > 0)
            done += (size_t)count;
        else if (count == 0 || errno != EINTR)
            error = tr_error_errno(TR_RUN, count ? errno : EIO, "cannot write the metrics to %s",
                                   metrics->path);
    }
    if (error) /* take half a line back; if even that fails, resume drops it */
        (void)!ftruncate(metrics->fd, metrics->size);
    else
        metrics->size += (int64_t)line->length;
    tr_text_free(line);
    return error;
}

static void member(tr_text *line, const char *name, double value)
{
    tr_text_format(line, ", \"%s\": ", name);
    tr_metrics_number(line, value);
}

tr_error *tr_metrics_begin(tr_metrics *metrics, const tr_metrics_run *run)
{
    if (metrics->begun)
        return NULL;
    metrics->begun = true;
    tr_text line = {0};
    char *config = run->config ? json_dumps(run->config, JSON_ENCODE_ANY) : NULL;
    char *plan = run->plan ? json_dumps(run->plan, JSON_ENCODE_ANY) : NULL;
    tr_text_format(&line, "{\"version\": ");
    tr_metrics_string(&line, run->version, (int64_t)strlen(run->version));
    tr_text_format(&line,
                   ", \"parameters\": %lld, \"planned_peak_bytes\": %lld, \"plan_hash\": "
                   "\"%016llx\", \"plan\": %s, \"config\": ",
                   (long long)run->parameters, (long long)run->planned_peak_bytes,
                   (unsigned long long)run->plan_hash, plan ? plan : "null");
    tr_text_add(&line, config ? config : "null", strlen(config ? config : "null"));
    free(config);
    free(plan);
    return write_line(metrics, &line);
}

tr_error *tr_metrics_step_add(tr_metrics *metrics, const tr_metrics_step *s)
{
    tr_text line = {0};
    tr_text_format(&line, "%s%lld", STEP_START, (long long)s->step);
    member(&line, "loss", s->loss);
    member(&line, "lr", s->lr);
    member(&line, "grad_norm", s->grad_norm);
    tr_text_format(&line, ", \"tokens\": %lld", (long long)s->tokens);
    member(&line, "tokens_per_s", s->tokens_per_s);
    member(&line, "step_s", s->step_s);
    tr_text_format(&line, ", \"peak_bytes\": %lld", (long long)s->peak_bytes);
    if (s->bytes_sent >= 0)
        tr_text_format(&line, ", \"bytes_sent\": %lld", (long long)s->bytes_sent);
    if (s->loss_scale > 0) {
        member(&line, "loss_scale", s->loss_scale);
        tr_text_format(&line, ", \"skipped\": %lld", (long long)s->skipped);
    }
    return write_line(metrics, &line);
}

tr_error *tr_metrics_val_add(tr_metrics *metrics, int64_t step, double val_loss, double accuracy)
{
    tr_text line = {0};
    tr_text_format(&line, "%s%lld", STEP_START, (long long)step);
    member(&line, "val_loss", val_loss);
    if (!isnan(accuracy))
        member(&line, "val_accuracy", accuracy);
    return write_line(metrics, &line);
}

tr_error *tr_metrics_sample_add(tr_metrics *metrics, int64_t step, const char *text)
{
    tr_text line = {0};
    tr_text_format(&line, "%s%lld, \"sample\": ", STEP_START, (long long)step);
    tr_metrics_string(&line, text, (int64_t)strlen(text));
    return write_line(metrics, &line);
}

void tr_metrics_close(tr_metrics *metrics)
{
    if (!metrics)
        return;
    close(metrics->fd);
    free(metrics->path);
    free(metrics);
}
