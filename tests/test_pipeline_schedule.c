/* Pipeline schedules: generators against published counts and bubble formulas, CSV, the clock, the
 * cut, and the drawings of docs/pipeline.md. The checker has test_pipeline_check.c. */
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "check.h"
#include "passes/pipeline_check.h"

enum { MOST_STAGES = 96 };

static tr_schedule *make(tr_pipeline_kind kind, int ranks, int chunks, int microbatches)
{
    tr_schedule *schedule = NULL;
    CHECK_OK(tr_schedule_new(kind, ranks, chunks, microbatches, &schedule));
    return schedule;
}

static tr_schedule *parse(const char *csv)
{
    tr_schedule *schedule = NULL;
    CHECK_OK(tr_schedule_parse_csv("test.csv", csv, (int64_t)strlen(csv), &schedule));
    return schedule;
}

/* ---- generators ---- */

static int chunks_of(tr_pipeline_kind kind, int wish)
{
    return kind == TR_PIPELINE_INTERLEAVED ? wish : kind == TR_PIPELINE_ZERO_BUBBLE_V ? 2 : 1;
}

static void test_every_size_is_right(void)
{
    for (int kind = 0; kind <= TR_PIPELINE_ZERO_BUBBLE_V; kind++)
        for (int ranks = 1; ranks <= 9; ranks++)
            for (int microbatches = 1; microbatches <= 20; microbatches++)
                for (int wish = 2; wish <= (kind == TR_PIPELINE_INTERLEAVED ? 4 : 2); wish++) {
                    int chunks = chunks_of((tr_pipeline_kind)kind, wish), stages = ranks * chunks;
                    tr_schedule *schedule =
                        make((tr_pipeline_kind)kind, ranks, chunks, microbatches);
                    tr_schedule_limits limits = {
                        .ranks = ranks, .stages = stages, .microbatches = microbatches};
                    /* One queue for both directions is enough, but for the V. */
                    limits.shared_queue = kind != TR_PIPELINE_ZERO_BUBBLE_V;
                    tr_schedule_report report;
                    CHECK_OK(tr_schedule_check(schedule, &limits, &report));
                    int64_t sent = 0, apart = 0;
                    for (int r = 0; r < ranks; r++)
                        sent += report.activations_sent[r] + report.gradients_sent[r];
                    for (int s = 1; s < stages; s++)
                        apart += schedule->rank_of_stage[s] != schedule->rank_of_stage[s - 1];
                    CHECK_INT(sent, 2 * apart * microbatches);
                    tr_schedule_report_free(&report);
                    tr_schedule_free(schedule);
                }
}

static void test_live_microbatches(void)
{
    for (int ranks = 2; ranks <= 8; ranks++)
        for (int microbatches = 1; microbatches <= 24; microbatches++)
            for (int kind = 0; kind <= TR_PIPELINE_ZERO_BUBBLE_V; kind++) {
                int chunks = chunks_of((tr_pipeline_kind)kind, 3);
                tr_schedule *schedule = make((tr_pipeline_kind)kind, ranks, chunks, microbatches);
                tr_schedule_report report;
                CHECK_OK(tr_schedule_check(schedule, NULL, &report));
                for (int r = 0; r < ranks; r++) {
                    int live = report.live_peak[r], m = microbatches;
                    if (kind == TR_PIPELINE_GPIPE)
                        CHECK_INT(live, m);
                    else if (kind == TR_PIPELINE_1F1B)
                        CHECK_INT(live, TR_MIN(ranks - r, m));
                    else if (kind == TR_PIPELINE_ZERO_BUBBLE)
                        CHECK_INT(live, TR_MIN(ranks, m)); /* what 1F1B's first rank holds */
                    else if (kind == TR_PIPELINE_ZERO_BUBBLE_V)
                        CHECK(live <= 2 * ranks && (m < 2 * ranks || live == 2 * ranks));
                    else if (m % ranks == 0) /* warm-up of Megatron-LM, and the one in work */
                        CHECK_INT(live, TR_MIN(2 * (ranks - 1 - r) + 2 * ranks + 1, 3 * m));
                    else
                        CHECK(live <= 2 * (ranks - 1 - r) + 2 * ranks + 1);
                }
                tr_schedule_report_free(&report);
                tr_schedule_free(schedule);
            }
}

static void check_csv(tr_pipeline_kind kind, int ranks, int chunks, int microbatches,
                      const char *want)
{
    tr_schedule *schedule = make(kind, ranks, chunks, microbatches);
    tr_text text = {0};
    tr_schedule_print_csv(schedule, &text);
    CHECK_STRING(text.bytes, want);
    tr_text_free(&text);
    tr_schedule_free(schedule);
}

static void test_tables(void)
{
    check_csv(TR_PIPELINE_GPIPE, 2, 1, 2, "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n");
    check_csv(TR_PIPELINE_1F1B, 2, 1, 3, "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n");
    check_csv(TR_PIPELINE_ZERO_BUBBLE, 2, 1, 3,
              "0F0,0F1,0I0,0W0,0F2,0I1,0W1,0I2,0W2\n1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2\n");
    /* As PyTorch 2.13's ScheduleInterleaved1F1B and ScheduleZBVZeroBubble have them. */
    check_csv(TR_PIPELINE_INTERLEAVED, 2, 2, 4,
              "0F0,0F1,2F0,2F1,0F2,2B0,0F3,2B1,2F2,0B0,2F3,0B1,2B2,2B3,0B2,0B3\n"
              "1F0,1F1,3F0,3B0,3F1,3B1,1F2,1B0,1F3,1B1,3F2,3B2,3F3,3B3,1B2,1B3\n");
    check_csv(TR_PIPELINE_ZERO_BUBBLE_V, 3, 2, 5,
              "0F0,0F1,0F2,0F3,0F4,5F0,5I0,5W0,5F1,5I1,5W1,5F2,5I2,5W2,0I0,0W0,5F3,5I3,5W3,0I1,0W1,"
              "5F4,5I4,5W4,0I2,0W2,0I3,0W3,0I4,0W4\n"
              "1F0,1F1,1F2,4F0,1F3,4F1,4I0,4W0,4F2,4I1,4W1,1F4,1I0,1W0,4F3,4I2,4W2,1I1,1W1,4F4,4I3,"
              "4W3,1I2,4I4,1I3,1W2,1I4,1W3,4W4,1W4\n"
              "2F0,3F0,2F1,3F1,2F2,3F2,3I0,3W0,2F3,2I0,2W0,3F3,3I1,3W1,2F4,2I1,2W1,3F4,3I2,3W2,2I2,"
              "3I3,2I3,3I4,2I4,2W2,3W3,3W4,2W3,2W4\n");
    /* One rank: gradient accumulation, one microbatch at a time, whatever the kind. */
    check_csv(TR_PIPELINE_GPIPE, 1, 1, 3, "0F0,0B0,0F1,0B1,0F2,0B2\n");
    check_csv(TR_PIPELINE_ZERO_BUBBLE, 1, 1, 2, "0F0,0B0,0F1,0B1\n");
    check_csv(TR_PIPELINE_INTERLEAVED, 1, 3, 2,
              "0F0,1F0,2F0,2B0,1B0,0B0,0F1,1F1,2F1,2B1,1B1,0B1\n");
    check_csv(TR_PIPELINE_ZERO_BUBBLE_V, 1, 2, 1, "0F0,1F0,1B0,0B0\n");
}

static void test_refused_sizes(void)
{
    tr_schedule *none;
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_1F1B, 0, 1, 1, &none), "0 ranks: give 1 to 65536");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_1F1B, INT64_MAX, 1, 1, &none), "ranks");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_1F1B, 2, 1, -1, &none), "-1 microbatches");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_1F1B, 2, 2, 4, &none), "give exactly 1");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_INTERLEAVED, 2, 1, 4, &none), "give 2 or more");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_INTERLEAVED, 65536, 65536, 4, &none), "stages");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_ZERO_BUBBLE_V, 2, 3, 4, &none), "give exactly 2");
    CHECK_ERROR(tr_schedule_new(TR_PIPELINE_GPIPE, 65536, 1, 1 << 20, &none), "fewer, larger");
    CHECK(none == NULL);
    for (int kind = 0; kind <= TR_PIPELINE_ZERO_BUBBLE_V; kind++) {
        tr_pipeline_kind read = TR_PIPELINE_GPIPE;
        CHECK_OK(tr_pipeline_kind_parse(tr_pipeline_kind_name((tr_pipeline_kind)kind), &read));
        CHECK_INT(read, kind);
    }
    tr_pipeline_kind kind;
    CHECK_ERROR(tr_pipeline_kind_parse("gpip", &kind), "did you mean gpipe?");
    CHECK_ERROR(tr_pipeline_kind_parse("", &kind), "it is one of gpipe, 1f1b");
}

/* ---- CSV ---- */

static void test_csv_round_trip(void)
{
    for (int kind = 0; kind <= TR_PIPELINE_ZERO_BUBBLE_V; kind++) {
        tr_schedule *made =
            make((tr_pipeline_kind)kind, 5, chunks_of((tr_pipeline_kind)kind, 3), 10);
        tr_text text = {0}, again = {0};
        tr_schedule_print_csv(made, &text);
        tr_schedule *read = parse(text.bytes);
        if (read) {
            CHECK_OK(tr_schedule_check(read, NULL, NULL));
            CHECK_INT(read->ranks, made->ranks);
            CHECK_INT(read->stages, made->stages);
            CHECK_INT(read->microbatches, made->microbatches);
            CHECK(memcmp(read->rank_of_stage, made->rank_of_stage,
                         (size_t)made->stages * sizeof *made->rank_of_stage) == 0);
            tr_schedule_print_csv(read, &again);
            CHECK_STRING(again.bytes, text.bytes);
        }
        tr_text_free(&text);
        tr_text_free(&again);
        tr_schedule_free(read);
        tr_schedule_free(made);
    }
}

static void test_csv_freedom(void)
{
    tr_schedule *schedule = parse("\xef\xbb\xbf# 1F1B\r\n\r\n 0F0 ,, 0F1\t,0B0,0B1,,\r\n"
                                  "   # the last stage\n,1F0,1B0,,1F1,01B1");
    tr_text text = {0};
    if (schedule)
        tr_schedule_print_csv(schedule, &text);
    CHECK_STRING(text.bytes, "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
    CHECK_OK(tr_schedule_check(schedule, NULL, NULL));
    tr_text_free(&text);
    tr_schedule_free(schedule);
}

static void test_csv_errors(void)
{
    static const struct {
        const char *csv, *part;
    } wrong[] = {
        {"", "s.csv:1:1: no action"},
        {"\n\n# nothing\n", "no action"},
        {",,,\n", "no action"},
        {"0F0,0B\n", "s.csv:1:5: '0B' is not an action"},
        {"0F0\nF0\n", "s.csv:2:1: 'F0' is not an action"},
        {"0F0\n1F0, 1X0\n", "s.csv:2:6: '1X0' is not an action"},
        {"0f0\n", "'0f0' is not an action"},
        {"0F0;0B0\n", "'0F0;0B0' is not an action"},
        {"0F-1\n", "'0F-1'"},
        {"-1F0\n", "'-1F0'"},
        {"0F0 0\n", "'0F0 0'"},
        {"0F0,\"0B0\"\n", "s.csv:1:5: '\"0B0\"'"},
        {"0SEND_F1\n", "as in 0F1"},
        {"0F0,\x01\xff\n", "s.csv:1:5: '\?\?' is not"},
        {"65536F0\n", "the stage of '65536F0' is too large"},
        {"0F1048576\n", "the largest is 1048575"},
        {"99999999999999999999999999999999F0\n",
         "s.csv:1:1: the stage of '999999999999999999999999...'"},
        {"0F99999999999999999999\n", "too large"},
        {"rank,step\n", "'rank' is not an action"},
    };
    for (int64_t k = 0; k < TR_COUNT(wrong); k++) {
        tr_schedule *none;
        CHECK_ERROR(
            tr_schedule_parse_csv("s.csv", wrong[k].csv, (int64_t)strlen(wrong[k].csv), &none),
            wrong[k].part);
        CHECK(none == NULL);
    }
    tr_schedule *none;
    CHECK_ERROR(tr_schedule_parse_csv("s.csv", "0F0,0\0B0", 8, &none), "s.csv:1:5: '0\?B0'");
}

/* ---- the clock ---- */

static double simulate(tr_schedule *schedule, tr_stage_cost cost, double *makespan)
{
    tr_stage_cost costs[MOST_STAGES];
    for (int i = 0; i < MOST_STAGES; i++)
        costs[i] = cost;
    tr_schedule_clock clock;
    CHECK_OK(tr_schedule_simulate(schedule, costs, &clock));
    double bubble = clock.bubble, mean = 0;
    *makespan = clock.makespan;
    for (int r = 0; r < schedule->ranks; r++)
        mean += clock.idle_share[r] / schedule->ranks;
    CHECK_NEAR(mean, bubble, 1e-12);
    tr_schedule_clock_free(&clock);
    return bubble;
}

static tr_stage_cost cost_of(double f, double i, double w)
{
    return (tr_stage_cost){.forward = f, .input = i, .weight = w, .backward = i + w};
}

static void test_bubbles(void)
{
    double span;
    for (int p = 1; p <= 8; p++)
        for (int m = 1; m <= 32; m++) {
            double share = (p - 1.0) / (m + p - 1.0);
            tr_schedule *gpipe = make(TR_PIPELINE_GPIPE, p, 1, m);
            tr_schedule *alternate = make(TR_PIPELINE_1F1B, p, 1, m);
            CHECK_NEAR(simulate(gpipe, cost_of(1, 1, 1), &span), share, 1e-12);
            CHECK_NEAR(simulate(alternate, cost_of(1, 1, 1), &span), share, 1e-12);
            CHECK_NEAR(simulate(alternate, cost_of(3, 1, 1), &span), share, 1e-12);
            tr_schedule_free(gpipe);
            tr_schedule_free(alternate);
            for (int v = 2; v <= 4 && m % p == 0; v++) {
                tr_schedule *interleaved = make(TR_PIPELINE_INTERLEAVED, p, v, m);
                CHECK_NEAR(simulate(interleaved, cost_of(1, 1, 1), &span),
                           (p - 1.0) / (v * m + p - 1.0), 1e-12);
                simulate(interleaved, cost_of(3, 1, 1), &span);
                CHECK_NEAR(span, 5.0 * (v * m + p - 1), 1e-9);
                simulate(interleaved, cost_of(1, 2, 5), &span);
                CHECK_NEAR(span, 8.0 * (v * m + p - 1), 1e-9);
                tr_schedule_free(interleaved);
            }
        }
}

static void test_zero_bubbles(void)
{
    double span;
    for (int p = 2; p <= 8; p++)
        for (int m = p; m <= 32; m += 3) {
            tr_schedule *h1 = make(TR_PIPELINE_ZERO_BUBBLE, p, 1, m);
            for (int f = 1; f <= 3; f++)
                for (int i = 1; i <= 3; i++)
                    for (int w = 0; w <= 4; w++) {
                        double least = TR_MIN(TR_MIN(f, i), w);
                        double idle = (p - 1) * (f + i - least), work = m * (f + i + w);
                        CHECK_NEAR(simulate(h1, cost_of(f, i, w), &span), idle / (work + idle),
                                   1e-12);
                        CHECK_NEAR(span, work + idle, 1e-9);
                    }
            tr_schedule_free(h1);
            if (m < 2 * p)
                continue;
            tr_schedule *v = make(TR_PIPELINE_ZERO_BUBBLE_V, p, 2, m);
            simulate(v, cost_of(1, 1, 1), &span);
            CHECK_NEAR(span, 6.0 * m + p - 1, 1e-9);
            simulate(v, cost_of(3, 3, 2), &span);
            CHECK_NEAR(span, 16.0 * m + 3 * (p - 1), 1e-9);
            simulate(v, cost_of(2, 2, 1), &span);
            CHECK_NEAR(span, 10.0 * m + 2 * (p - 1), 1e-9);
            tr_schedule_free(v);
        }
}

static void test_sends(void)
{
    double span;
    tr_stage_cost cost = cost_of(1, 1, 1);
    cost.send_activation = 0.5;
    cost.send_gradient = 0.25;
    tr_schedule *one = make(TR_PIPELINE_1F1B, 2, 1, 1);
    simulate(one, cost, &span);
    CHECK_NEAR(span, 1 + 0.5 + 1 + 2 + 0.25 + 2, 1e-12);
    tr_schedule_free(one);
    /* A queue carries one message after the other: the third arrives at 1 + 3 x 5. */
    cost.send_activation = 5;
    tr_schedule *gpipe = make(TR_PIPELINE_GPIPE, 2, 1, 3);
    tr_stage_cost costs[2] = {cost, cost};
    tr_schedule_clock clock;
    CHECK_OK(tr_schedule_simulate(gpipe, costs, &clock));
    CHECK_NEAR(clock.start[gpipe->first[1] + 2], 16, 1e-12);
    tr_schedule_clock_free(&clock);
    /* Stages of one rank send nothing: the V turns around on its last rank. */
    tr_schedule *turn = parse("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n");
    simulate(turn, cost, &span);
    CHECK_NEAR(span, 4 * 3 + 2 * 5 + 2 * 0.25, 1e-12);
    tr_schedule_free(turn);
    costs[1].weight = NAN;
    CHECK_ERROR(tr_schedule_simulate(gpipe, costs, &clock), "a cost of stage 1 is");
    costs[1].weight = -1;
    CHECK_ERROR(tr_schedule_simulate(gpipe, costs, &clock), "finite and not negative");
    tr_schedule_free(gpipe);
}

/* The slowest stage sets the pace: every other stage waits for it. */
static void test_uneven_stages(void)
{
    tr_schedule *schedule = make(TR_PIPELINE_1F1B, 4, 1, 50);
    tr_stage_cost costs[4];
    for (int i = 0; i < 4; i++)
        costs[i] = cost_of(1, 1, 1);
    costs[2] = cost_of(2, 2, 2);
    tr_schedule_clock clock;
    CHECK_OK(tr_schedule_simulate(schedule, costs, &clock));
    CHECK(clock.makespan >= 50 * 6 && clock.makespan <= 50 * 6 + 3 * 6);
    CHECK_NEAR(clock.busy[2], 300, 1e-9);
    CHECK_NEAR(clock.busy[0], 150, 1e-9);
    CHECK(clock.idle_share[2] < 0.06 && clock.idle_share[0] > 0.5);
    tr_schedule_clock_free(&clock);
    tr_schedule_free(schedule);
}

static void test_a_thousand_ranks(void)
{
    tr_schedule *schedule = make(TR_PIPELINE_1F1B, 1024, 1, 512);
    tr_stage_cost *costs = tr_alloc_zero(1024, sizeof *costs);
    for (int i = 0; i < 1024; i++)
        costs[i] = cost_of(1, 1, 1);
    tr_schedule_clock clock;
    CHECK_OK(tr_schedule_simulate(schedule, costs, &clock));
    CHECK_NEAR(clock.bubble, 1023.0 / (512 + 1023), 1e-12);
    tr_schedule_clock_free(&clock);
    tr_schedule_free(schedule);
    free(costs);
}

/* ---- the cut ---- */

static double slowest(const double *cost, int layers, double first, double last, int stages,
                      const int *begin)
{
    double worst = 0;
    for (int s = 0; s < stages; s++) {
        double sum = (s == 0 ? first : 0) + (s == stages - 1 ? last : 0);
        for (int i = begin[s]; i < (s + 1 < stages ? begin[s + 1] : layers); i++)
            sum += cost[i];
        worst = TR_MAX(worst, sum);
    }
    return worst;
}

/* Every way to cut, by the bits of a mask. */
static double best_by_trying(const double *cost, int layers, double first, double last, int stages)
{
    double best = INFINITY;
    for (unsigned mask = 0; mask < 1u << (layers - 1); mask++) {
        int begin[16] = {0}, count = 1;
        for (int i = 1; i < layers; i++)
            if (mask >> (i - 1) & 1)
                begin[count++] = i;
        if (count == stages)
            best = TR_MIN(best, slowest(cost, layers, first, last, stages, begin));
    }
    return best;
}

static void test_cut_is_best(void)
{
    const uint64_t seed = 7;
    for (uint32_t round = 0; round < 150; round++) {
        tr_random4 a = tr_random(seed, round, 0, 0);
        int layers = 1 + (int)(a.word[0] % 10), stages = 1 + (int)(a.word[1] % (uint32_t)layers);
        double cost[10], first = 5 * tr_random_unit(a.word[2]),
                         last = 5 * tr_random_unit(a.word[3]);
        for (int i = 0; i < layers; i++) {
            uint32_t word = tr_random(seed, round, 1, (uint64_t)i).word[0];
            cost[i] = round % 3 == 0   ? (double)(word % 4)
                      : round % 3 == 1 ? 0.1
                                       : tr_random_unit(word);
        }
        int begin[10], again[10];
        CHECK_OK(tr_pipeline_cut(cost, layers, first, last, stages, begin));
        CHECK_OK(tr_pipeline_cut(cost, layers, first, last, stages, again));
        CHECK(memcmp(begin, again, (size_t)stages * sizeof *begin) == 0);
        CHECK_INT(begin[0], 0);
        for (int s = 1; s < stages; s++)
            CHECK(begin[s] > begin[s - 1] && begin[s] < layers);
        double best = best_by_trying(cost, layers, first, last, stages);
        if (!(slowest(cost, layers, first, last, stages, begin) <= best * (1 + 1e-8)))
            FAIL("seed %d round %u: %g, best is %g", (int)seed, round,
                 slowest(cost, layers, first, last, stages, begin), best);
    }
}

static void check_cut(const double *cost, int layers, double first, double last, int stages,
                      const int *want)
{
    int begin[16];
    CHECK_OK(tr_pipeline_cut(cost, layers, first, last, stages, begin));
    for (int s = 0; s < stages; s++)
        CHECK_INT(begin[s], want[s]);
}

static void test_cuts(void)
{
    double equal[12];
    for (int i = 0; i < 12; i++)
        equal[i] = 0.1; /* sums of tenths round differently; the cut must not care */
    check_cut(equal, 12, 0, 0, 4, (int[]){0, 3, 6, 9});
    check_cut(equal, 10, 0, 0, 4, (int[]){0, 2, 4, 7}); /* even, the later stages longer */
    check_cut(equal, 12, 0, 0.2, 2, (int[]){0, 7});     /* a head that costs two layers */
    check_cut(equal, 12, 0.1, 0.3, 4, (int[]){0, 3, 7, 11});
    check_cut(equal, 12, 0, 0, 12, (int[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    check_cut((double[]){1, 1, 1, 9, 1, 1}, 6, 0, 0, 3, (int[]){0, 3, 4});
    check_cut((double[]){0, 0, 0}, 3, 0, 0, 2, (int[]){0, 1});
    check_cut((double[]){1e300, 1e300, 1e300}, 3, 0, 0, 3, (int[]){0, 1, 2});
    int begin[16];
    CHECK_ERROR(tr_pipeline_cut(equal, 3, 0, 0, 4, begin), "give 1 to 3 stages");
    CHECK_ERROR(tr_pipeline_cut(equal, 3, 0, 0, 0, begin), "cannot be cut into 0");
    CHECK_ERROR(tr_pipeline_cut(equal, 0, 0, 0, 1, begin), "0 layers cannot be cut");
    CHECK_ERROR(tr_pipeline_cut((double[]){1, -1}, 2, 0, 0, 2, begin), "the cost of layer 1 is -1");
    CHECK_ERROR(tr_pipeline_cut(equal, 3, NAN, 0, 2, begin), "precedes layer 0");
    CHECK_ERROR(tr_pipeline_cut(equal, 3, 0, INFINITY, 2, begin), "follows layer 2");
    CHECK_ERROR(tr_pipeline_cut((double[]){1e308, 1e308}, 2, 0, 0, 2, begin), "too large");
}

/* ---- the drawings of the documentation ---- */

static void check_drawing(const char *page, tr_pipeline_kind kind, int ranks, int chunks,
                          int microbatches)
{
    tr_schedule *schedule = make(kind, ranks, chunks, microbatches);
    tr_stage_cost costs[MOST_STAGES];
    for (int i = 0; i < MOST_STAGES; i++)
        costs[i] = cost_of(1, 1, 1);
    tr_schedule_clock clock;
    CHECK_OK(tr_schedule_simulate(schedule, costs, &clock));
    tr_text text = {0};
    CHECK_OK(tr_schedule_draw(schedule, &clock, 1, &text));
    if (!strstr(page, text.bytes))
        FAIL("docs/pipeline.md lacks this timeline of %s, %d ranks, %d microbatches:\n%s",
             tr_pipeline_kind_name(kind), ranks, microbatches, text.bytes);
    CHECK_ERROR(tr_schedule_draw(schedule, &clock, 1e-9, &text), "take a larger unit");
    CHECK_ERROR(tr_schedule_draw(schedule, &clock, 0, &text), "take a larger unit");
    tr_text_free(&text);
    tr_schedule_clock_free(&clock);
    tr_schedule_free(schedule);
}

static void test_documentation(void)
{
    tr_map map = {0};
    CHECK_OK(tr_map_open("docs/pipeline.md", &map));
    if (!map.bytes)
        return;
    char *page = tr_strndup(map.bytes, (size_t)map.size);
    tr_map_close(&map);
    check_drawing(page, TR_PIPELINE_GPIPE, 4, 1, 6);
    check_drawing(page, TR_PIPELINE_1F1B, 4, 1, 6);
    check_drawing(page, TR_PIPELINE_INTERLEAVED, 2, 2, 4);
    check_drawing(page, TR_PIPELINE_ZERO_BUBBLE, 4, 1, 6);
    check_drawing(page, TR_PIPELINE_ZERO_BUBBLE_V, 2, 2, 4);
    free(page);
}

int main(void)
{
    TEST(test_every_size_is_right);
    TEST(test_live_microbatches);
    TEST(test_tables);
    TEST(test_refused_sizes);
    TEST(test_csv_round_trip);
    TEST(test_csv_freedom);
    TEST(test_csv_errors);
    TEST(test_bubbles);
    TEST(test_zero_bubbles);
    TEST(test_sends);
    TEST(test_uneven_stages);
    TEST(test_a_thousand_ranks);
    TEST(test_cut_is_best);
    TEST(test_cuts);
    TEST(test_documentation);
    return check_report();
}
