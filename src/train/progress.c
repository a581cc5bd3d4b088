/* The progress bar; see progress.h.
 *
 * The remaining time is the mean time of the steps so far times the steps to come. The mean is
 * taken on the clock, from the first step's end, so that validation and saving count and starting
 * up does not.
 */
#define _GNU_SOURCE
#include "train/progress.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

enum { BAR_WIDTH_MOST = 30, BAR_WIDTH_LEAST = 6, WIDTH_DEFAULT = 80 };
static const double BAR_PAUSE_S = 0.1, LINE_PAUSE_S = 1, LINE_SILENCE_S = 30;

struct tr_progress {
    FILE *out;
    bool bar, drawn;
    int64_t first_step, steps, every;
    int64_t clock_step,
        shown_step; /* the step at whose end the clock was started; the last shown */
    double clock_s, shown_s;
    tr_progress_step last;
};

void tr_progress_count(double value, char out[16])
{
    static const char units[] = " kMGT";
    int unit = 0;
    if (!isfinite(value) || fabs(value) >= 1e18) {
        snprintf(out, 16, "?");
        return;
    }
    while (fabs(value) >= 999.5 && unit < 4) {
        value /= 1000;
        unit++;
    }
    int decimals = unit == 0 || fabs(value) >= 99.95 ? 0 : fabs(value) >= 9.995 ? 1 : 2;
    snprintf(out, 16, "%.*f%.*s", decimals, value, unit ? 1 : 0, units + unit);
}

void tr_progress_time(double seconds, char out[16])
{
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(out, 16, "?");
        return;
    }
    int s = (int)(seconds + 0.5);
    if (s < 60)
        snprintf(out, 16, "%ds", s);
    else if (s < 3600)
        snprintf(out, 16, "%dm%02ds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, 16, "%dh%02dm", s / 3600, s / 60 % 60);
    else
        snprintf(out, 16, "%dd%02dh", s / 86400, s / 3600 % 24);
}

tr_progress *tr_progress_new(FILE *out, tr_progress_mode mode, int64_t first_step, int64_t steps,
                             int64_t every)
{
    tr_progress *progress = tr_alloc_zero(1, sizeof *progress);
    const char *term = getenv("TERM");
    bool can = isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
    *progress = (tr_progress){.out = out,
                              .bar = mode == TR_PROGRESS_BAR || (mode == TR_PROGRESS_AUTO && can),
                              .first_step = first_step,
                              .steps = steps,
                              .every = every,
                              .shown_s = -1e9};
    return progress;
}

static int width_of(FILE *out)
{
    struct winsize size = {0};
    int fd = fileno(out);
    if (fd >= 0 && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return WIDTH_DEFAULT;
}

/* The words after the bar, and in a plain line. */
static void words_of(const tr_progress *p, double now, tr_text *out)
{
    char rate[16], left[16];
    const tr_progress_step *s = &p->last;
    double mean = s->step > p->clock_step ? (now - p->clock_s) / (double)(s->step - p->clock_step)
                                          : s->step_s;
    tr_progress_count(s->tokens_per_s, rate);
    tr_progress_time(mean * (double)(p->steps - s->step), left);
    tr_text_format(out, "loss %.4f  %s tok/s", s->loss, rate);
    if (s->peak_share > 0)
        tr_text_format(out, "  %.0f%% of peak", 100 * s->peak_share);
    if (s->step < p->steps)
        tr_text_format(out, "  eta %s", left);
}

static void draw_bar(tr_progress *p, double now)
{
    tr_text words = {0}, line = {0};
    words_of(p, now, &words);
    tr_text_format(&line, "step %lld/%lld ", (long long)p->last.step, (long long)p->steps);
    int width = width_of(p->out), room = width - 1 - (int)(line.length + words.length) - 3;
    room = TR_MIN(room, (int)BAR_WIDTH_MOST);
    if (room >= BAR_WIDTH_LEAST) {
        double share = p->steps > 0 ? (double)p->last.step / (double)p->steps : 1;
        int full = (int)(share * room + 1e-9);
        tr_text_add(&line, "[", 1);
        for (int i = 0; i < room; i++)
            tr_text_add(&line, i < full ? "=" : i == full ? ">" : " ", 1);
        tr_text_add(&line, "] ", 2);
    } else {
        tr_text_add(&line, " ", 1);
    }
    tr_text_add(&line, words.bytes, words.length);
    /* A line that wraps could not be redrawn. */
    int shown = TR_MIN((int)line.length, TR_MAX(width - 1, 1));
    fprintf(p->out, "\r%.*s\033[K", shown, line.bytes);
    fflush(p->out);
    p->drawn = true;
    tr_text_free(&words);
    tr_text_free(&line);
}

static void print_line(tr_progress *p, double now)
{
    tr_text words = {0};
    words_of(p, now, &words);
    fprintf(p->out, "step %lld/%lld  %s\n", (long long)p->last.step, (long long)p->steps,
            words.bytes);
    fflush(p->out);
    tr_text_free(&words);
}

static bool line_is_due(const tr_progress *p, double now)
{
    int64_t step = p->last.step;
    if (step == p->first_step + 1 || step >= p->steps)
        return true;
    if (p->every > 0)
        return step % p->every == 0;
    double silence = now - p->shown_s, share = (double)(p->steps - p->first_step) / 100;
    return silence >= LINE_SILENCE_S ||
           (silence >= LINE_PAUSE_S && (double)(step - p->shown_step) >= share);
}

void tr_progress_show(tr_progress *p, const tr_progress_step *step)
{
    double now = tr_seconds();
    p->last = *step;
    if (p->clock_step == 0) {
        p->clock_step = step->step;
        p->clock_s = now;
    }
    bool due =
        p->bar ? step->step >= p->steps || now - p->shown_s >= BAR_PAUSE_S : line_is_due(p, now);
    if (!due)
        return;
    if (p->bar)
        draw_bar(p, now);
    else
        print_line(p, now);
    p->shown_s = now;
    p->shown_step = step->step;
}

void tr_progress_note(tr_progress *p, const char *format, ...)
{
    va_list arguments;
    if (p->drawn)
        fputs("\r\033[K", p->out);
    va_start(arguments, format);
    vfprintf(p->out, format, arguments);
    va_end(arguments);
    fputc('\n', p->out);
    if (p->drawn)
        draw_bar(p, tr_seconds());
    fflush(p->out);
}

void tr_progress_free(tr_progress *p)
{
    if (!p)
        return;
    if (p->drawn) {
        draw_bar(p, tr_seconds());
        fputc('\n', p->out);
        fflush(p->out);
    }
    free(p);
}
