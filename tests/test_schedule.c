/* Learning rates by step, against the formulas of schedule.h written out again, and against what PyTorch 2.13 gives. */
#include "check.h"

#include <math.h>

#include "train/config.h"
#include "train/schedule.h"

enum { STEPS = 50 };
static const double LR = 0.2, PI = 3.14159265358979323846;

static tr_config *config(const char *text)
{
    tr_config *c = NULL;
    char all[512];
    snprintf(all, sizeof all, "train: {steps: %d}\noptimizer: {lr: %g}\nschedule: {%s}\n", STEPS, LR, text);
    CHECK_OK(tr_config_parse("test.yaml", all, (int64_t)strlen(all), NULL, 0, &c));
    return c;
}

typedef double formula(int step);

static double restarts(int s) /* cycles of 8, 16, 32 after 10 steps of warmup */
{
    double t = s - 10, first = t <= 8 ? 0 : t <= 24 ? 8 : 24, length = t <= 8 ? 8 : t <= 24 ? 16 : 32;
    return 0.02 + 0.5 * (LR - 0.02) * (1 + cos(PI * (t - first) / length));
}

static double cubic(int s)
{
    return 0.05 + (LR - 0.05) * pow((50 - s) / 40.0, 3);
}

static double inverse(int s)
{
    return LR * sqrt(10) / sqrt(s);
}

static double held(int s) /* 10 of warmup, 15 at the top, never below 0.16 */
{
    return s <= 25 ? LR : fmax(0.16, LR * 5 / sqrt(s));
}

static double milestones(int s)
{
    return s <= 20 ? LR : s <= 40 ? LR * 0.5 : LR * 0.25;
}

static double linear(int s)
{
    return LR + (0.02 - LR) * (s - 10) / 40.0;
}

static void test_formulas(void)
{
    static const struct {
        const char *text;
        formula *after;
    } rows[] = {{"name: cosine_restarts, warmup: 10, cycle: 8, cycle_growth: 2", restarts},
                {"name: polynomial, warmup: 10, power: 3, final_lr: 0.05", cubic},
                {"name: inverse_sqrt, warmup: 10", inverse},
                {"name: inverse_sqrt, warmup: 10, hold: 15, final_lr: 0.16", held},
                {"name: multi_step, warmup: 10, factor: 0.5, milestones: '20, 40'", milestones},
                {"name: linear, warmup: 10", linear}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        tr_config *c = config(rows[r].text);
        for (int s = 1; c && s <= STEPS; s++)
            CHECK_NEAR(tr_schedule_lr(c, s), s <= 10 ? LR * s / 10 : rows[r].after(s), 1e-12);
        tr_config_free(c);
    }
}

/* torch.optim.lr_scheduler.OneCycleLR(max_lr=0.2, total_steps=50, pct_start=0.3), steps 1, 2, 8, 15, 16, 33, 50. */
static void test_one_cycle_as_pytorch(void)
{
    static const struct {
        int step;
        double lr;
    } rows[] = {{1, 0.008},          {2, 0.010406920430544947}, {8, 0.104}, {15, 0.2}, {16, 0.19959743100980634},
                {33, 0.09551393491088069}, {50, 8e-07}};
    tr_config *c = config("name: one_cycle");
    CHECK_INT(c->schedule.warmup, 15);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        CHECK_NEAR(tr_schedule_lr(c, rows[r].step), rows[r].lr, 1e-9);
    tr_config_free(c);
}

/* Every schedule: no jump up but at a restart, never above lr, never negative. */
static void test_bounds(void)
{
    static const char *const names[] = {"constant", "linear", "cosine", "wsd", "cosine_restarts", "polynomial", "inverse_sqrt",
                                        "one_cycle", "multi_step"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char text[64];
        snprintf(text, sizeof text, "name: %s", names[k]);
        tr_config *c = config(text);
        double before = LR;
        for (int s = 1; c && s <= STEPS; s++) {
            double lr = tr_schedule_lr(c, s);
            if (!(lr >= 0 && lr <= LR * (1 + 1e-12)))
                FAIL("%s: %g at step %d", names[k], lr, s);
            if (s > c->schedule.warmup && lr > before * (1 + 1e-12) && c->schedule.name != TR_SCHEDULE_RESTARTS)
                FAIL("%s rises to %g at step %d", names[k], lr, s);
            before = s >= c->schedule.warmup ? lr : LR;
        }
        if (c)
            CHECK_NEAR(tr_schedule_lr(c, TR_MAX(1, c->schedule.warmup)), LR, 1e-12);
        tr_config_free(c);
    }
}

static void test_milestones(void)
{
    int64_t *at = NULL, count = 0;
    CHECK_OK(tr_schedule_milestones("5, 70 ,900", &at, &count));
    CHECK_INT(count, 3);
    CHECK_INT(at[2], 900);
    free(at);
    static const char *const wrong[] = {"5,", "x", "5, 5", "9, 3", "-1", "5 6", ",", "0"};
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++)
        CHECK_ERROR(tr_schedule_milestones(wrong[k], &at, &count), "rising");
}

int main(void)
{
    TEST(test_formulas);
    TEST(test_one_cycle_as_pytorch);
    TEST(test_bounds);
    TEST(test_milestones);
    return check_report();
}
