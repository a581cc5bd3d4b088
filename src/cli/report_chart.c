/* Line charts as inline SVG; see report_chart.h.
 *
 * A long series is thinned for drawing: of each stretch of points its least and greatest value
 * stay, so that no spike is lost. Up to HIT_COUNT invisible circles carry a <title>, which browsers
 * show on hovering.
 */
#include "cli/report_chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/progress.h"

enum { WIDTH = 400, HEIGHT = 230, LEFT = 54, RIGHT = 10, TOP = 10, BOTTOM = 34 };
enum { THIN_STRETCHES = 240, HIT_COUNT = 48, TICKS = 5 };

typedef struct frame {
    double x_low, x_high, y_low, y_high; /* y in logarithms when logarithmic */
    bool logarithmic;
} frame;

void report_points_add(report_points *points, double x, double y)
{
    tr_push(points->x, points->count, points->x_room) = x;
    tr_push(points->y, points->y_count, points->y_room) = y;
}

void report_points_free(report_points *points)
{
    free(points->x);
    free(points->y);
    *points = (report_points){0};
}

void report_escape(tr_text *out, const char *text)
{
    for (; *text; text++) {
        const char *code = *text == '&'   ? "&amp;"
                           : *text == '<' ? "&lt;"
                           : *text == '>' ? "&gt;"
                           : *text == '"' ? "&quot;"
                                          : NULL;
        if (code)
            tr_text_add(out, code, strlen(code));
        else
            tr_text_add(out, text, 1);
    }
}

void report_format_plain(double value, char out[REPORT_NUMBER_BYTES])
{
    snprintf(out, REPORT_NUMBER_BYTES, "%.4g", value);
}

void report_format_count(double value, char out[REPORT_NUMBER_BYTES])
{
    char text[16];
    tr_progress_count(value, text);
    /* A tick of 2 thousand is "2k", not "2.00k". */
    char *point = strchr(text, '.');
    if (point) {
        char *end = point + 1 + strspn(point + 1, "0123456789"), *last = end;
        while (last > point && (last[-1] == '0' || last[-1] == '.'))
            if (*--last == '.')
                break;
        memmove(last, end, strlen(end) + 1);
    }
    snprintf(out, REPORT_NUMBER_BYTES, "%s", text);
}

void report_format_bytes(double value, char out[REPORT_NUMBER_BYTES])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    while (fabs(value) >= 999.5 && unit + 1 < TR_COUNT(units)) {
        value /= 1000;
        unit++;
    }
    snprintf(out, REPORT_NUMBER_BYTES, "%.3g %s", value, units[unit]);
}

static double scaled(const frame *f, double y)
{
    return f->logarithmic ? log10(y) : y;
}

static double place_x(const frame *f, double x)
{
    return LEFT + (x - f->x_low) / (f->x_high - f->x_low) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const frame *f, double y)
{
    return HEIGHT - BOTTOM -
           (scaled(f, y) - f->y_low) / (f->y_high - f->y_low) * (HEIGHT - TOP - BOTTOM);
}

/* 1, 2 or 5 times a power of ten: about `count` of it fill the span. */
static double nice_step(double span, int count)
{
    double raw = span / count, power = pow(10, floor(log10(raw))), part = raw / power;
    return power * (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10);
}

static bool frame_of(const report_chart *chart, frame *f)
{
    *f = (frame){INFINITY, -INFINITY, INFINITY, -INFINITY, chart->logarithmic};
    for (int64_t s = 0; s < chart->count; s++)
        for (int64_t i = 0; i < chart->series[s].points->count; i++)
            if (isfinite(chart->series[s].points->y[i]) && chart->series[s].points->y[i] <= 0)
                f->logarithmic = false;
    for (int64_t s = 0; s < chart->count; s++) {
        const report_points *p = chart->series[s].points;
        for (int64_t i = 0; i < p->count; i++) {
            if (!isfinite(p->y[i]))
                continue;
            f->x_low = fmin(f->x_low, p->x[i]);
            f->x_high = fmax(f->x_high, p->x[i]);
            f->y_low = fmin(f->y_low, scaled(f, p->y[i]));
            f->y_high = fmax(f->y_high, scaled(f, p->y[i]));
        }
    }
    if (f->x_low > f->x_high)
        return false;
    if (chart->from_zero && !f->logarithmic) {
        f->y_low = fmin(f->y_low, 0);
        f->y_high = fmax(f->y_high, 0);
    }
    if (f->x_low == f->x_high) {
        f->x_low -= 1;
        f->x_high += 1;
    }
    double span = f->y_high - f->y_low, least = fmax(fabs(f->y_high), 1e-12) * 1e-3;
    if (span < least) {
        f->y_low -= least;
        f->y_high += least;
    }
    if (f->logarithmic) {
        f->y_low = floor(f->y_low * 2) / 2;
        f->y_high = ceil(f->y_high * 2) / 2;
        return true;
    }
    double step = nice_step(f->y_high - f->y_low, TICKS);
    f->y_low = floor(f->y_low / step + 1e-9) * step;
    f->y_high = ceil(f->y_high / step - 1e-9) * step;
    return true;
}

static void write_y_tick(tr_text *out, const report_chart *chart, const frame *f, double value)
{
    char label[REPORT_NUMBER_BYTES];
    double y = place_y(f, value);
    chart->format(value, label);
    tr_text_format(out,
                   "<line class=grid x1=%d x2=%d y1=%.1f y2=%.1f /><text class=tick x=%d y=%.1f "
                   "text-anchor=end>%s</text>\n",
                   LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, label);
}

static void write_axes(tr_text *out, const report_chart *chart, const frame *f)
{
    if (f->logarithmic) {
        double decades = f->y_high - f->y_low;
        for (double e = ceil(f->y_low - 1e-9); e <= f->y_high + 1e-9; e += decades > 6 ? 2 : 1) {
            write_y_tick(out, chart, f, pow(10, e));
            if (decades <= 2 && e + log10(3) <= f->y_high)
                write_y_tick(out, chart, f, 3 * pow(10, e));
        }
    } else {
        double step = nice_step(f->y_high - f->y_low, TICKS);
        int64_t count = (int64_t)llround((f->y_high - f->y_low) / step);
        for (int64_t i = 0; i <= count; i++) {
            double value = f->y_low + step * (double)i;
            write_y_tick(out, chart, f, fabs(value) < step * 1e-6 ? 0 : value);
        }
    }
    double step = fmax(nice_step(f->x_high - f->x_low, TICKS), 1);
    for (double x = ceil(f->x_low / step) * step; x <= f->x_high + 1e-9; x += step) {
        char label[REPORT_NUMBER_BYTES];
        report_format_count(x, label);
        tr_text_format(out, "<text class=tick x=%.1f y=%d text-anchor=middle>%s</text>\n",
                       place_x(f, x), HEIGHT - BOTTOM + 16, label);
    }
    tr_text_format(out,
                   "<line class=axis x1=%d x2=%d y1=%d y2=%d /><text class=tick x=%d y=%d "
                   "text-anchor=end>step</text>\n",
                   LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM, WIDTH - RIGHT,
                   HEIGHT - 4);
}

static void add_vertex(tr_text *path, const frame *f, const report_points *p, int64_t i,
                       bool *pen_down)
{
    if (!isfinite(p->y[i])) {
        *pen_down = false;
        return;
    }
    tr_text_format(path, "%c%.1f %.1f", *pen_down ? 'L' : 'M', place_x(f, p->x[i]),
                   place_y(f, p->y[i]));
    *pen_down = true;
}

static void write_line(tr_text *out, const report_series *s, const frame *f)
{
    const report_points *p = s->points;
    tr_text path = {0};
    bool pen_down = false;
    int64_t stretch = TR_MAX(p->count / THIN_STRETCHES, 1);
    for (int64_t at = 0; at < p->count; at += stretch) {
        int64_t end = TR_MIN(at + stretch, p->count), low = at, high = at;
        for (int64_t i = at; i < end; i++) {
            if (!isfinite(p->y[i])) { /* show the gap */
                low = high = i;
                break;
            }
            low = p->y[i] < p->y[low] ? i : low;
            high = p->y[i] > p->y[high] ? i : high;
        }
        add_vertex(&path, f, p, TR_MIN(low, high), &pen_down);
        if (low != high)
            add_vertex(&path, f, p, TR_MAX(low, high), &pen_down);
    }
    if (path.length)
        tr_text_format(out, "<path class=\"line %s\" d=\"%s\" />\n", s->style, path.bytes);
    tr_text_free(&path);
    for (int64_t i = 0; s->marks && i < p->count; i++)
        if (isfinite(p->y[i]))
            tr_text_format(out, "<circle class=\"mark %s\" cx=%.1f cy=%.1f r=2.5 />\n", s->style,
                           place_x(f, p->x[i]), place_y(f, p->y[i]));
}

static void write_hits(tr_text *out, const report_chart *chart, const report_series *s,
                       const frame *f)
{
    const report_points *p = s->points;
    int64_t stride = TR_MAX((p->count + HIT_COUNT - 1) / HIT_COUNT, 1);
    for (int64_t i = 0; i < p->count && !s->silent; i += stride) {
        char value[REPORT_NUMBER_BYTES];
        if (!isfinite(p->y[i]))
            continue;
        chart->format(p->y[i], value);
        tr_text_format(
            out, "<circle class=hit cx=%.1f cy=%.1f r=7><title>step %.0f: %s %s</title></circle>\n",
            place_x(f, p->x[i]), place_y(f, p->y[i]), p->x[i], s->name, value);
    }
}

static void write_legend(tr_text *out, const report_chart *chart)
{
    int64_t named = 0;
    for (int64_t s = 0; s < chart->count; s++)
        named += !chart->series[s].silent && chart->series[s].points->count > 0;
    if (named < 2)
        return;
    tr_text_format(out, "<p class=legend>");
    for (int64_t s = 0; s < chart->count; s++)
        if (!chart->series[s].silent && chart->series[s].points->count > 0)
            tr_text_format(out,
                           "<span><svg width=22 height=8 aria-hidden=true><path class=\"line %s\" "
                           "d=\"M0 4H22\" "
                           "/></svg> %s</span> ",
                           chart->series[s].style, chart->series[s].name);
    tr_text_format(out, "</p>\n");
}

void report_chart_write(tr_text *out, const report_chart *chart)
{
    frame f;
    tr_text_format(out, "<figure>\n<h2 id=%s>%s</h2>\n", chart->id, chart->title);
    if (!frame_of(chart, &f)) {
        tr_text_format(out, "<p>No values were recorded.</p>\n</figure>\n");
        return;
    }
    write_legend(out, chart);
    tr_text_format(
        out,
        "<svg class=chart viewBox=\"0 0 %d %d\" role=img aria-labelledby=\"%s %s-said\">\n"
        "<desc id=%s-said>",
        WIDTH, HEIGHT, chart->id, chart->id, chart->id);
    report_escape(out, chart->summary);
    tr_text_format(out, "</desc>\n");
    write_axes(out, chart, &f);
    for (int64_t s = 0; s < chart->count; s++)
        write_line(out, &chart->series[s], &f);
    for (int64_t s = 0; s < chart->count; s++)
        write_hits(out, chart, &chart->series[s], &f);
    tr_text_format(out, "</svg>\n</figure>\n");
}
