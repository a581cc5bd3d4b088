/* The timeline of a schedule as text; see tr_schedule_draw in pipeline_check.h. O(ranks * columns).
 */
#include "passes/pipeline_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 4096 };

static int label(const tr_schedule *s, tr_action a, char *out, size_t room)
{
    if (s->stages == s->ranks)
        return snprintf(out, room, "%c%d", (char)a.kind, a.microbatch);
    return snprintf(out, room, "%d%c%d", a.stage, (char)a.kind, a.microbatch);
}

tr_error *tr_schedule_draw(const tr_schedule *schedule, const tr_schedule_clock *clock, double unit,
                           tr_text *text)
{
    const tr_schedule *s = schedule;
    if (!(unit > 0) || !(clock->makespan / unit <= MOST_COLUMNS))
        return tr_error_new(
            TR_USER,
            "a timeline of %g in units of %g does not fit in %d columns: take a larger unit",
            clock->makespan, unit, MOST_COLUMNS);
    char name[48];
    int width = 0;
    for (int64_t i = 0; i < s->first[s->ranks]; i++)
        width = TR_MAX(width, label(s, s->actions[i], name, sizeof name) + 1);
    int64_t columns = (int64_t)ceil(clock->makespan / unit - 1e-9);
    size_t bytes = (size_t)columns * (size_t)width;
    char *line = tr_alloc(bytes + 1);
    for (int32_t r = 0; r < s->ranks; r++) {
        memset(line, ' ', bytes);
        for (int64_t k = 0; k < columns; k++)
            line[k * width] = '.';
        for (int64_t i = s->first[r]; i < s->first[r + 1]; i++) {
            int64_t from = (int64_t)floor(clock->start[i] / unit + 0.5);
            int64_t to = (int64_t)floor(clock->end[i] / unit + 0.5);
            if (to <= from)
                continue; /* shorter than half a unit */
            TR_CHECK(to <= columns, "action %lld ends after the last column", (long long)i);
            memset(line + from * width, '-', (size_t)((to - from) * width - 1));
            line[to * width - 1] = ' ';
            int length = label(s, s->actions[i], name, sizeof name);
            memcpy(line + from * width, name, (size_t)length);
        }
        size_t used = bytes;
        while (used && line[used - 1] == ' ')
            used--;
        tr_text_format(text, "rank %d  ", r);
        tr_text_add(text, line, used);
        tr_text_add(text, "\n", 1);
    }
    free(line);
    return NULL;
}
