/* trireme report DIR [--out FILE]: one HTML page about a run, from its metrics.jsonl.
 *
 * The page needs nothing but itself: no script, no font, no picture from elsewhere. It follows the
 * reader's light or dark setting. Lines of metrics.jsonl that cannot be read (the torn last line of
 * a run that is still going, or was killed) are left out and counted.
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "cli/cli.h"
#include "cli/options.h"
#include "cli/report_chart.h"
#include "train/progress.h"

enum { TABLE_ROWS = 25, SMOOTH_LEAST = 40 };

static const double STEP_MOST = 0x1p52;

typedef struct sample {
    int64_t step;
    char *text;
} sample;

typedef struct run_data {
    json_t *first; /* the first line, or NULL */
    report_points loss, smooth, val, lr, norm, rate, memory, planned;
    double last_step, tokens, seconds;
    int64_t unread, not_finite;
    sample *samples;
    int64_t sample_count, sample_room;
} run_data;

static void free_data(run_data *data)
{
    json_decref(data->first);
    report_points *const all[] = {&data->loss, &data->smooth, &data->val,    &data->lr,
                                  &data->norm, &data->rate,   &data->memory, &data->planned};
    for (int64_t i = 0; i < TR_COUNT(all); i++)
        report_points_free(all[i]);
    for (int64_t i = 0; i < data->sample_count; i++)
        free(data->samples[i].text);
    free(data->samples);
}

static double number(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    double real = json_is_number(value) ? json_number_value(value) : NAN;
    return fabs(real) < 1e30 ? real
                             : NAN; /* nothing sensible is beyond, and no chart could draw it */
}

static void read_line(run_data *data, json_t *line)
{
    const json_t *text = json_object_get(line, "sample");
    double step = number(line, "step");
    if (!isfinite(step)) {
        if (!data->first && json_object_get(line, "config"))
            data->first = json_incref(line);
        return;
    }
    if (step < 0 || step > STEP_MOST) {
        data->unread++;
        return;
    }
    data->last_step = fmax(data->last_step, step);
    if (json_is_string(text))
        tr_push(data->samples, data->sample_count, data->sample_room) =
            (sample){(int64_t)step, tr_strdup(json_string_value(text))};
    if (json_object_get(line, "val_loss"))
        report_points_add(&data->val, step, number(line, "val_loss"));
    if (!json_object_get(line, "loss"))
        return;
    double loss = number(line, "loss"), seconds = number(line, "step_s");
    report_points_add(&data->loss, step, loss);
    report_points_add(&data->lr, step, number(line, "lr"));
    report_points_add(&data->norm, step, number(line, "grad_norm"));
    report_points_add(&data->rate, step, number(line, "tokens_per_s"));
    report_points_add(&data->memory, step, number(line, "peak_bytes"));
    data->not_finite += !isfinite(loss);
    data->tokens = fmax(data->tokens, number(line, "tokens"));
    data->seconds += isfinite(seconds) ? seconds : 0;
}

/* A loss is noisy: the line to read is its mean over about 3 % of the run around each step. At the
 * beginning, where the loss is steep, the stretch is kept symmetric. */
static void smooth_loss(run_data *data)
{
    const report_points *loss = &data->loss;
    if (loss->count < SMOOTH_LEAST)
        return;
    int64_t half = TR_MAX(loss->count / 66, 1), begin = 0, end = 0, finite = 0;
    double sum = 0;
    for (int64_t i = 0; i < loss->count; i++) {
        for (; end < TR_MIN(TR_MIN(i + half, 2 * i) + 1, loss->count); end++)
            if (isfinite(loss->y[end])) {
                sum += loss->y[end];
                finite++;
            }
        for (; begin < i - half; begin++)
            if (isfinite(loss->y[begin])) {
                sum -= loss->y[begin];
                finite--;
            }
        report_points_add(&data->smooth, loss->x[i],
                          isfinite(loss->y[i]) && finite ? sum / (double)finite : NAN);
    }
}

static tr_error *read_data(const char *path, run_data *data)
{
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    for (int64_t at = 0; at < map.size;) {
        const char *start = map.bytes + at, *newline = memchr(start, '\n', (size_t)(map.size - at));
        int64_t length = newline ? newline - start : map.size - at;
        json_t *line = json_loadb(start, (size_t)length, 0, NULL);
        if (json_is_object(line))
            read_line(data, line);
        else
            data->unread++;
        json_decref(line);
        at += length + 1;
    }
    tr_map_close(&map);
    if (data->loss.count == 0 && data->val.count == 0)
        return tr_error_new(TR_USER, "%s records no step yet; wait for the first one and try again",
                            path);
    smooth_loss(data);
    double planned = number(data->first, "planned_peak_bytes");
    if (planned > 0 && data->memory.count) {
        report_points_add(&data->planned, data->memory.x[0], planned);
        report_points_add(&data->planned, data->memory.x[data->memory.count - 1], planned);
    }
    return NULL;
}

/* The page. */

static const char STYLE[] =
    ":root{color-scheme:light "
    "dark;--ink:#1b1f24;--soft:#57606a;--page:#fff;--panel:#f6f8fa;--rule:#d8dee4;"
    "--train:#0b63c4;--val:#b93a00;--limit:#6e4bb8}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4af;--page:#101418;--panel:#"
    "181e24;"
    "--rule:#303840;--train:#6fb3ff;--val:#ff9d66;--limit:#bda2ff}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--page);color:var(--ink);"
    "font:16px/1.45 system-ui,sans-serif}\n"
    "h1{font-size:1.5rem;margin:.2rem 0;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:0 0 "
    ".3rem}\n"
    "p{margin:.3rem 0}.soft{color:var(--soft)}.warn{border-left:4px solid "
    "var(--val);padding-left:.6rem}\n"
    "dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:"
    "1rem 0}\n"
    "dl div,figure,.sample,details{background:var(--panel);border:1px solid "
    "var(--rule);border-radius:8px;"
    "padding:.7rem}\n"
    "dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.15rem;overflow-wrap:anywhere}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:."
    "8rem}\n"
    "figure{margin:0}svg.chart{width:100%;height:auto;display:block}\n"
    ".grid{stroke:var(--rule)}.axis{stroke:var(--soft)}.tick{fill:var(--soft);font:12px "
    "system-ui,sans-serif}\n"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke:var(--train)}\n"
    ".line.faint{opacity:.35;stroke-width:1}.line.val{stroke:var(--val);stroke-dasharray:5 3}\n"
    ".line.limit{stroke:var(--limit);stroke-dasharray:2 "
    "3}.mark{fill:var(--train)}.mark.val{fill:var(--val)}\n"
    ".hit{fill:transparent}.hit:hover{fill:var(--soft);opacity:.5}\n"
    ".legend{font-size:.85rem;color:var(--soft)}.legend "
    "span{margin-right:1rem;white-space:nowrap}\n"
    "section{margin:1.2rem 0}.sample{margin:.6rem 0}\n"
    ".sample pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0 0;font:.9rem/1.4 "
    "ui-monospace,"
    "monospace}\n"
    "details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}.wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-size:.9rem;margin-top:.5rem}th,td{text-align:right;"
    "padding:.2rem .7rem;"
    "border-bottom:1px solid var(--rule);white-space:nowrap}.keys "
    "td{text-align:left;white-space:normal;"
    "overflow-wrap:anywhere}\n";

static void fact(tr_text *out, const char *name, const char *format, ...) TR_PRINTF(3, 4);
static void fact(tr_text *out, const char *name, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tr_text_format(out, "<div><dt>%s</dt><dd>", name);
    report_escape(out, text);
    tr_text_format(out, "</dd></div>\n");
}

static double last_of(const report_points *points)
{
    for (int64_t i = points->count - 1; i >= 0; i--)
        if (isfinite(points->y[i]))
            return points->y[i];
    return NAN;
}

static int64_t least_of(const report_points *points)
{
    int64_t best = -1;
    for (int64_t i = 0; i < points->count; i++)
        if (isfinite(points->y[i]) && (best < 0 || points->y[i] < points->y[best]))
            best = i;
    return best;
}

static void write_facts(tr_text *out, const run_data *data)
{
    char text[REPORT_NUMBER_BYTES], other[REPORT_NUMBER_BYTES], time[16];
    tr_text_format(out, "<dl>\n");
    fact(out, "Steps", "%.0f", data->last_step);
    report_format_count(data->tokens, text);
    fact(out, "Tokens seen", "%s", text);
    if (data->loss.count)
        fact(out, "Loss at the end", "%.4f",
             last_of(data->smooth.count ? &data->smooth : &data->loss));
    int64_t best = least_of(&data->val);
    if (best >= 0)
        fact(out, "Best validation loss", "%.4f at step %.0f", data->val.y[best],
             data->val.x[best]);
    if (data->seconds > 0) {
        tr_progress_count(data->tokens / data->seconds, text);
        tr_progress_time(data->seconds, time);
        fact(out, "Speed", "%s tokens/s", text);
        fact(out, "Time in steps", "%s", time);
    }
    double parameters = number(data->first, "parameters"), planned = last_of(&data->planned);
    if (parameters > 0) {
        tr_progress_count(parameters, text);
        fact(out, "Parameters", "%s", text);
    }
    if (data->memory.count) {
        report_format_bytes(last_of(&data->memory), text);
        report_format_bytes(planned, other);
        fact(out, "Memory, highest", isfinite(planned) ? "%s (planned %s)" : "%s", text, other);
    }
    const char *version = json_string_value(json_object_get(data->first, "version"));
    const char *hash = json_string_value(json_object_get(data->first, "plan_hash"));
    if (version)
        fact(out, "Trireme", "%s", version);
    if (hash)
        fact(out, "Plan", "%s", hash);
    tr_text_format(out, "</dl>\n");
}

/* "Falls from 10.9 at step 1 to 3.2 at step 1000, lowest 3.1 at step 990." */
static void summarise(tr_text *out, const char *name, const report_points *p, report_format *format)
{
    int64_t first = -1, last = -1, low = least_of(p), high = low;
    for (int64_t i = 0; i < p->count; i++)
        if (isfinite(p->y[i])) {
            first = first < 0 ? i : first;
            last = i;
            high = p->y[i] > p->y[high] ? i : high;
        }
    if (first < 0)
        return;
    char a[REPORT_NUMBER_BYTES], b[REPORT_NUMBER_BYTES], c[REPORT_NUMBER_BYTES],
        d[REPORT_NUMBER_BYTES];
    format(p->y[first], a);
    format(p->y[last], b);
    format(p->y[low], c);
    format(p->y[high], d);
    tr_text_format(out,
                   "%s: from %s at step %.0f to %s at step %.0f; lowest %s at step %.0f, highest "
                   "%s at step %.0f. ",
                   name, a, p->x[first], b, p->x[last], c, p->x[low], d, p->x[high]);
}

static void write_chart(tr_text *out, report_chart chart)
{
    tr_text summary = {0};
    for (int64_t i = 0; i < chart.count; i++)
        if (!chart.series[i].silent)
            summarise(&summary, chart.series[i].name, chart.series[i].points, chart.format);
    chart.summary = summary.bytes ? summary.bytes : "";
    report_chart_write(out, &chart);
    tr_text_free(&summary);
}

static bool spans_decades(const report_points *p)
{
    double low = INFINITY, high = 0;
    for (int64_t i = 0; i < p->count; i++)
        if (isfinite(p->y[i])) {
            low = fmin(low, p->y[i]);
            high = fmax(high, p->y[i]);
        }
    return low > 0 && high > 30 * low;
}

static void write_charts(tr_text *out, const run_data *data)
{
    bool smooth = data->smooth.count > 0;
    const report_series loss[] = {
        {"each step", smooth ? "faint" : "train", .points = &data->loss, .silent = smooth},
        {smooth ? "training (moving mean)" : "training", "train",
         .points = smooth ? &data->smooth : &data->loss},
        {"validation", "val", .points = &data->val, .marks = data->val.count <= 60}};
    const report_series lr[] = {{"learning rate", "train", .points = &data->lr}};
    const report_series norm[] = {{"gradient norm", "train", .points = &data->norm}};
    const report_series rate[] = {{"tokens per second", "train", .points = &data->rate}};
    const report_series memory[] = {{"highest so far", "train", .points = &data->memory},
                                    {"planned", "limit", .points = &data->planned}};
    tr_text_format(out, "<div class=charts>\n");
    write_chart(out, (report_chart){"loss", "Loss (nats a token)", NULL, loss, TR_COUNT(loss),
                                    report_format_plain, .logarithmic = false});
    write_chart(out, (report_chart){"lr", "Learning rate", NULL, lr, 1, report_format_plain,
                                    .from_zero = true});
    write_chart(out, (report_chart){"norm", "Gradient norm", NULL, norm, 1, report_format_plain,
                                    .from_zero = true, .logarithmic = spans_decades(&data->norm)});
    write_chart(out, (report_chart){"rate", "Tokens per second", NULL, rate, 1, report_format_count,
                                    .from_zero = true});
    write_chart(out, (report_chart){"memory", "Memory of the process", NULL, memory,
                                    TR_COUNT(memory), report_format_bytes, .from_zero = true});
    tr_text_format(out, "</div>\n");
}

static void write_samples(tr_text *out, const run_data *data)
{
    if (!data->sample_count)
        return;
    tr_text_format(
        out, "<section aria-labelledby=samples>\n<h2 id=samples>Samples, newest first</h2>\n");
    for (int64_t i = data->sample_count - 1; i >= 0; i--) {
        tr_text_format(out, "<div class=sample><span class=soft>step %lld</span><pre>",
                       (long long)data->samples[i].step);
        report_escape(out, data->samples[i].text);
        tr_text_format(out, "</pre></div>\n");
    }
    tr_text_format(out, "</section>\n");
}

static void write_cell(tr_text *out, double value, report_format *format)
{
    char text[REPORT_NUMBER_BYTES] = "not finite";
    if (isfinite(value))
        format(value, text);
    tr_text_format(out, "<td>%s</td>", text);
}

/* The charts' values in words, a few rows of them. */
static void write_table(tr_text *out, const run_data *data)
{
    int64_t count = data->loss.count, rows = TR_MIN(count, (int64_t)TABLE_ROWS), val = 0;
    if (!rows)
        return;
    tr_text_format(out,
                   "<details><summary>Numbers</summary><div class=wide tabindex=0><table>\n<tr>");
    static const char *const names[] = {"step",       "loss",     "val. loss", "learning rate",
                                        "grad. norm", "tokens/s", "memory"};
    for (int64_t i = 0; i < TR_COUNT(names); i++)
        tr_text_format(out, "<th scope=col>%s</th>", names[i]);
    tr_text_format(out, "</tr>\n");
    for (int64_t row = 0; row < rows; row++) {
        int64_t i = rows > 1 ? (count - 1) * row / (rows - 1) : 0;
        while (val + 1 < data->val.count && data->val.x[val + 1] <= data->loss.x[i])
            val++;
        tr_text_format(out, "<tr><th scope=row>%.0f</th>", data->loss.x[i]);
        write_cell(out, data->loss.y[i], report_format_plain);
        if (data->val.count && data->val.x[val] <= data->loss.x[i])
            write_cell(out, data->val.y[val], report_format_plain);
        else
            tr_text_format(out, "<td></td>");
        write_cell(out, data->lr.y[i], report_format_plain);
        write_cell(out, data->norm.y[i], report_format_plain);
        write_cell(out, data->rate.y[i], report_format_count);
        write_cell(out, data->memory.y[i], report_format_bytes);
        tr_text_format(out, "</tr>\n");
    }
    tr_text_format(out, "</table></div></details>\n");
}

static void write_config(tr_text *out, const char *prefix, const json_t *config)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key, value)
    {
        char *name = tr_format("%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(value)) {
            write_config(out, name, value);
        } else {
            char *text = json_is_string(value)
                             ? tr_strdup(json_string_value(value))
                             : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            tr_text_format(out, "<tr><td>");
            report_escape(out, name);
            tr_text_format(out, "</td><td>");
            report_escape(out, text ? text : "");
            tr_text_format(out, "</td></tr>\n");
            free(text);
        }
        free(name);
    }
}

static void write_page(tr_text *out, const char *name, const run_data *data)
{
    tr_text_format(out,
                   "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
                   "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n<title>");
    report_escape(out, name);
    tr_text_format(out, " - Trireme</title>\n<style>\n%s</style>\n</head>\n<body>\n<header><h1>",
                   STYLE);
    report_escape(out, name);
    tr_text_format(out, "</h1><p class=soft>A training run of Trireme</p></header>\n<main>\n");
    if (data->not_finite)
        tr_text_format(out, "<p class=warn>The loss was not finite in %lld of %lld steps.</p>\n",
                       (long long)data->not_finite, (long long)data->loss.count);
    if (data->unread)
        tr_text_format(out, "<p class=warn>%lld line%s of metrics.jsonl could not be read.</p>\n",
                       (long long)data->unread, data->unread == 1 ? "" : "s");
    write_facts(out, data);
    write_charts(out, data);
    write_samples(out, data);
    tr_text_format(out, "<section aria-label=\"Numbers and configuration\">\n");
    write_table(out, data);
    const json_t *config = json_object_get(data->first, "config");
    if (json_is_object(config)) {
        tr_text_format(out, "<details><summary>Configuration</summary><table class=keys>\n");
        write_config(out, "", config);
        tr_text_format(out, "</table></details>\n");
    }
    tr_text_format(out, "</section>\n</main>\n</body>\n</html>\n");
}

tr_error *cmd_report(int argc, char **argv)
{
    const char *out = NULL;
    const tr_option options[] = {
        {"out", 'o', "FILE", "where the page goes (default: report.html in DIR)", .text = &out}};
    const tr_usage usage = {"report",
                            "DIR",
                            "one HTML page about a run: losses, speed, memory, samples",
                            options,
                            TR_COUNT(options),
                            .examples = "trireme report runs/gpt2-small --out page.html",
                            .min = 1,
                            .max = 1};
    tr_operands operands;
    TR_TRY(tr_options_parse(&usage, argc, argv, &operands));
    if (operands.help)
        return NULL;
    const char *directory = operands.items[0];
    char *metrics = tr_path_join(directory, "metrics.jsonl");
    char *page = out ? tr_strdup(out) : tr_path_join(directory, "report.html");
    char *name = tr_strdup(directory);
    while (strlen(name) > 1 && name[strlen(name) - 1] == '/')
        name[strlen(name) - 1] = '\0';
    run_data data = {0};
    tr_text text = {0};
    tr_error *error = NULL;
    if (!tr_path_is_directory(directory))
        error = tr_error_new(
            TR_USER, "%s is not a directory; give the directory of a run, its config's `out`",
            directory);
    else if (!tr_path_exists(metrics))
        error = tr_error_new(
            TR_USER, "%s holds no metrics.jsonl; give the directory of a run, its config's `out`",
            directory);
    if (error)
        goto done;
    TR_GO(read_data(metrics, &data));
    write_page(&text, name, &data);
    TR_GO(tr_file_write(page, text.bytes, (int64_t)text.length));
    printf("%s\n", page);
done:
    free_data(&data);
    tr_text_free(&text);
    free(metrics);
    free(page);
    free(name);
    return error;
}
