/* A line chart as inline SVG: no script, colours from the page's style sheet, readable by a screen
 * reader.
 *
 * The drawing is 400 units wide, about a phone's width, and the page sets charts side by side where
 * there is room, so that its text is never scaled to nothing. Values that are not finite leave a
 * gap.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

enum { REPORT_NUMBER_BYTES = 32 };
typedef void report_format(double value, char out[REPORT_NUMBER_BYTES]);

typedef struct report_points {
    double *x, *y;
    int64_t count, x_room, y_count, y_room;
} report_points;
void report_points_add(report_points *points, double x, double y);
void report_points_free(report_points *points);

typedef struct report_series {
    const char *name;
    const char *style; /* a class of the style sheet: "train", "val", "faint", "limit" */
    const report_points *points;
    bool marks;  /* a dot at each point */
    bool silent; /* not in the legend, no values on hovering */
} report_series;

typedef struct report_chart {
    const char *id, *title;
    const char *summary; /* what a reader who sees no picture is told */
    const report_series *series;
    int64_t count;
    report_format *format;       /* of the values; steps are formatted by the chart */
    bool from_zero, logarithmic; /* logarithmic only if all values are above 0 */
} report_chart;

/* Writes a <figure>. A chart without a single value becomes a sentence that says so. */
void report_chart_write(tr_text *out, const report_chart *chart);

/* Text for HTML: & < > " escaped. */
void report_escape(tr_text *out, const char *text);

void report_format_plain(double value, char out[REPORT_NUMBER_BYTES]); /* four digits */
void report_format_count(double value, char out[REPORT_NUMBER_BYTES]); /* 12.3k */
void report_format_bytes(double value, char out[REPORT_NUMBER_BYTES]); /* 1.5 GB */
