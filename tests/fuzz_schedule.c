/* Fuzzes the reader of schedules: whatever the bytes are, a schedule or one sentence. What was read
 * can be checked, costed if it is right, and printed so that it reads back the same. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "passes/pipeline_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool failed(tr_error *error)
{
    if (!error)
        return false;
    const char *text = tr_error_text(error);
    if (strlen(text) == 0 || strchr(text, '\n'))
        abort();
    tr_error_free(error);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tr_schedule *schedule;
    if (failed(tr_schedule_parse_csv("input", (const char *)data, (int64_t)size, &schedule))) {
        if (schedule)
            abort();
        return 0;
    }
    tr_text text = {0}, again = {0};
    tr_schedule_print_csv(schedule, &text);
    tr_schedule *read;
    if (failed(tr_schedule_parse_csv("again", text.bytes, (int64_t)text.length, &read)))
        abort();
    tr_schedule_print_csv(read, &again);
    if (again.length != text.length || memcmp(again.bytes, text.bytes, text.length) != 0)
        abort();
    tr_schedule_report report;
    tr_schedule_limits limits = {.live = 3, .shared_queue = size % 2};
    bool wrong = failed(tr_schedule_check(schedule, &limits, &report));
    if (wrong != (report.fault != TR_FAULT_NONE))
        abort();
    tr_schedule_report_free(&report);
    tr_stage_cost *costs = tr_alloc_zero((size_t)schedule->stages, sizeof *costs);
    for (int32_t s = 0; s < schedule->stages; s++)
        costs[s] = (tr_stage_cost){1, 1, 1, 2, s % 3, s % 2};
    tr_schedule_clock clock;
    bool stuck = failed(tr_schedule_simulate(schedule, costs, &clock));
    if (stuck && !wrong)
        abort();
    if (!stuck && (!(clock.bubble >= -1e-9) || !(clock.bubble < 1)))
        abort();
    again.length = 0;
    if (!stuck)
        failed(tr_schedule_draw(schedule, &clock, 1, &again));
    tr_schedule_clock_free(&clock);
    free(costs);
    tr_text_free(&text);
    tr_text_free(&again);
    tr_schedule_free(read);
    tr_schedule_free(schedule);
    return 0;
}
