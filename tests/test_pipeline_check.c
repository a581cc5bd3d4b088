/* The schedule checker against planted faults, each with its sentence, and against a naive run of
 * randomly edited schedules. */
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

static int chunks_of(tr_pipeline_kind kind, int wish)
{
    return kind == TR_PIPELINE_INTERLEAVED ? wish : kind == TR_PIPELINE_ZERO_BUBBLE_V ? 2 : 1;
}

static const int32_t ONE_THEN_TWO[] = {2, 1};

static const struct {
    const char *name, *csv;
    tr_schedule_limits limits;
    tr_schedule_fault fault;
    int rank, position;
    const char *part;
} FAULTS[] = {
    {"no sender of an activation",
     "0F0,0B0,0B1\n1F0,1B0,1F1,1B1\n",
     {0},
     TR_FAULT_MISSING,
     0,
     -1,
     "rank 0 never runs 0F1, so that 1F1 of rank 1 at position 2 waits for an activation for ever"},
    {"no sender of a gradient",
     "0F0,0F1,0B0,0B1\n1F0,1F1,1B1\n",
     {0},
     TR_FAULT_MISSING,
     1,
     -1,
     "rank 1 never runs 1B0, so that 0B0 of rank 0 at position 2 waits for a gradient for ever"},
    {"no receiver of an activation",
     "0F0,0F1,0B0,0B1\n1F0,1B0,1B1\n",
     {0},
     TR_FAULT_MISSING,
     1,
     -1,
     "rank 1 never runs 1F1"},
    {"no backward of the first stage",
     "0F0,0F1,0B0\n1F0,1B0,1F1,1B1\n",
     {0},
     TR_FAULT_MISSING,
     0,
     -1,
     "rank 0 never runs 0B1 (nor an I and a W in its place)"},
    {"I without W",
     "0F0,0I0\n1F0,1I0,1W0\n",
     {0},
     TR_FAULT_MISSING,
     0,
     -1,
     "rank 0 never runs 0W0, the weight gradient to its I"},
    {"W without I",
     "0F0,0W0\n1F0,1B0\n",
     {0},
     TR_FAULT_MISSING,
     0,
     -1,
     "rank 0 never runs 0I0, the input gradient to its W"},
    {"a stage nobody runs",
     "0F0,0B0\n2F0,2B0\n",
     {0},
     TR_FAULT_MISSING,
     -1,
     -1,
     "no rank runs stage 1, though the schedule has stages 0 to 2"},
    {"forward twice",
     "0F0,0F0,0B0\n1F0,1B0\n",
     {0},
     TR_FAULT_DUPLICATE,
     0,
     1,
     "rank 0, position 1, 0F0: done before at position 0"},
    {"backward twice",
     "0F0,0B0\n1F0,1B0,1B0\n",
     {0},
     TR_FAULT_DUPLICATE,
     1,
     2,
     "done before at position 1"},
    {"W twice",
     "0F0,0I0,0W0,0W0\n1F0,1B0\n",
     {0},
     TR_FAULT_DUPLICATE,
     0,
     3,
     "done before at position 2"},
    {"W after B",
     "0F0,0B0,0W0\n1F0,1B0\n",
     {0},
     TR_FAULT_DUPLICATE,
     0,
     2,
     "0B0 at position 1 did this"},
    {"B after I",
     "0F0,0I0,0B0\n1F0,1B0\n",
     {0},
     TR_FAULT_DUPLICATE,
     0,
     2,
     "0I0 at position 1 did this"},
    {"a stage's action on another rank",
     "0F0,0F1,0B0,1F1,0B1\n1F0,1B0,1B1\n",
     {0},
     TR_FAULT_RANK,
     0,
     3,
     "rank 0, position 3, 1F1: stage 1 belongs to rank 1"},
    {"unknown stage",
     "0F0,0B0\n1F0,1B0,2F0\n",
     {.stages = 2},
     TR_FAULT_STAGE,
     1,
     2,
     "there is no stage 2; the pipeline has stages 0 to 1"},
    {"unknown microbatch",
     "0F0,0B0\n1F0,1B0,1F5\n",
     {.microbatches = 1},
     TR_FAULT_MICROBATCH,
     1,
     2,
     "there is no microbatch 5"},
    {"too few rows",
     "0F0,0B0\n1F0,1B0\n",
     {.ranks = 4},
     TR_FAULT_SIZE,
     -1,
     -1,
     "a row for 2 ranks, but the pipeline has 4"},
    {"too many rows",
     "0F0,0B0\n1F0,1B0\n",
     {.ranks = 1},
     TR_FAULT_SIZE,
     -1,
     -1,
     "but the pipeline has 1"},
    {"too few stages",
     "0F0,0B0\n1F0,1B0\n",
     {.stages = 4},
     TR_FAULT_SIZE,
     -1,
     -1,
     "has 2 stages, but the pipeline has 4"},
    {"too few microbatches",
     "0F0,0B0\n1F0,1B0\n",
     {.microbatches = 8},
     TR_FAULT_SIZE,
     -1,
     -1,
     "has 1 microbatch, but a step has 8"},
    {"a rank without work", "0F0,0B0\n,\n", {0}, TR_FAULT_EMPTY, 1, -1, "rank 1 has no action"},
    {"backward before forward",
     "0B0,0F0\n1F0,1B0\n",
     {0},
     TR_FAULT_ORDER,
     0,
     0,
     "rank 0, position 0, 0B0: it needs 0F0, which comes only at position 1"},
    {"W before I", "0F0,0W0,0I0\n1F0,1B0\n", {0}, TR_FAULT_ORDER, 0, 1, "it needs 0I0"},
    {"I before F", "0I0,0F0,0W0\n1F0,1B0\n", {0}, TR_FAULT_ORDER, 0, 0, "it needs 0F0"},
    {"own stages' forwards in the wrong order",
     "1F0,0F0,1B0,0B0\n",
     {0},
     TR_FAULT_ORDER,
     0,
     0,
     "rank 0, position 0, 1F0: it needs 0F0, which comes only at position 1"},
    {"own stages' backwards in the wrong order",
     "0F0,1F0,0B0,1B0\n",
     {0},
     TR_FAULT_ORDER,
     0,
     2,
     "it needs 1B0"},
    {"activations received in another order",
     "0F0,0F1,0B0,0B1\n1F1,1F0,1B0,1B1\n",
     {0},
     TR_FAULT_QUEUE,
     1,
     0,
     "rank 1, position 0, 1F1: it waits for the activation of 0F1, but the next message from rank "
     "0 is "
     "that of 0F0 (its position 0)"},
    {"gradients received in another order",
     "0F0,0F1,0B1,0B0\n1F0,1F1,1B0,1B1\n",
     {0},
     TR_FAULT_QUEUE,
     0,
     2,
     "it waits for the gradient of 1B1, but the next message from rank 1 is that of 1B0"},
    {"both directions mixed in one queue",
     "0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0I0,0W0,3F2,3I2,3W2,"
     "0I1,0W1,0I2,0W2\n1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1I1,2I2,1I2,1W1,2W2,1W2\n",
     {.shared_queue = true},
     TR_FAULT_QUEUE,
     1,
     4,
     "the gradient of 3I0"},
    {"two ranks wait for each other",
     "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n",
     {0},
     TR_FAULT_DEADLOCK,
     0,
     1,
     "deadlock: rank 0 at position 1 (0B0) waits for 1B0 of rank 1, rank 1 at position 1 (1F1) "
     "waits for "
     "0F1 of rank 0"},
    {"three ranks in a ring",
     "0F0,3F0,0B0,3B0\n1F0,1B0\n2F0,2B0\n",
     {0},
     TR_FAULT_DEADLOCK,
     0,
     2,
     "rank 0 at position 2 (0B0) waits for 1B0 of rank 1, rank 1 at position 1 (1B0) waits for 2B0 "
     "of "
     "rank 2, rank 2 at position 1 (2B0) waits for 3B0 of rank 0"},
    {"six ranks in a ring",
     "0F0,6F0,0B0,6B0\n1F0,1B0\n2F0,2B0\n3F0,3B0\n4F0,4B0\n5F0,5B0\n",
     {0},
     TR_FAULT_DEADLOCK,
     0,
     2,
     "and so on around 6 ranks"},
    {"a ring further on that stops the others",
     "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n2F0,2B0,2F1,2B1\n3F0,3F1,3B0,3B1\n",
     {0},
     TR_FAULT_DEADLOCK,
     2,
     1,
     "deadlock: rank 2 at position 1 (2B0) waits for 3B0 of rank 3"},
    {"too many alive",
     "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n",
     {.live = 1},
     TR_FAULT_LIVE,
     0,
     1,
     "rank 0, position 1, 0F1: it makes 2 microbatches alive on the rank, of which 1 may be"},
    {"too many alive on one rank",
     "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n",
     {.live_of_rank = ONE_THEN_TWO},
     TR_FAULT_LIVE,
     1,
     1,
     "it makes 2 microbatches alive on the rank, of which 1 may be"},
    {"W too late for the memory",
     "0F0,0I0,0F1,0W0,0I1,0W1\n1F0,1B0,1F1,1B1\n",
     {.live = 1},
     TR_FAULT_LIVE,
     0,
     2,
     "it makes 2 microbatches alive"},
};

static void test_planted_faults(void)
{
    for (int64_t k = 0; k < TR_COUNT(FAULTS); k++) {
        tr_schedule *schedule = parse(FAULTS[k].csv);
        tr_schedule_report report;
        bool ok = check_ok;
        check_ok = true;
        CHECK_ERROR(tr_schedule_check(schedule, &FAULTS[k].limits, &report), FAULTS[k].part);
        CHECK_INT(report.fault, FAULTS[k].fault);
        CHECK_INT(report.rank, FAULTS[k].rank);
        CHECK_INT(report.position, FAULTS[k].position);
        if (!check_ok)
            FAIL("  in: %s", FAULTS[k].name);
        check_ok = ok && check_ok;
        tr_schedule_report_free(&report);
        tr_schedule_clock clock;
        tr_stage_cost costs[MOST_STAGES] = {{0}};
        tr_error *error = tr_schedule_simulate(schedule, costs, &clock);
        bool by_limits = FAULTS[k].limits.ranks || FAULTS[k].limits.live ||
                         FAULTS[k].limits.live_of_rank || FAULTS[k].limits.shared_queue ||
                         FAULTS[k].fault == TR_FAULT_SIZE;
        if ((error == NULL) != by_limits)
            FAIL("the clock %s: %s", error ? "refuses" : "runs", FAULTS[k].name);
        tr_error_free(error);
        tr_schedule_clock_free(&clock);
        tr_schedule_free(schedule);
    }
}

/* What a CSV cannot say but an editing program can. */
static void test_edited_tables(void)
{
    tr_schedule *schedule = make(TR_PIPELINE_1F1B, 2, 1, 2);
    tr_schedule_report report;
    schedule->actions[1].kind = (tr_action_kind)'X';
    CHECK_ERROR(tr_schedule_check(schedule, NULL, &report),
                "rank 0, position 1: kind 88 is none of");
    CHECK_INT(report.fault, TR_FAULT_KIND);
    schedule->actions[1] = (tr_action){-1, 0, TR_ACTION_FORWARD};
    CHECK_ERROR(tr_schedule_check(schedule, NULL, &report), "there is no stage -1");
    schedule->actions[1] = (tr_action){0, 2, TR_ACTION_FORWARD};
    CHECK_ERROR(tr_schedule_check(schedule, NULL, &report), "there is no microbatch 2");
    schedule->actions[1] = (tr_action){0, 1, TR_ACTION_FORWARD};
    CHECK_OK(tr_schedule_check(schedule, NULL, &report));
    CHECK_INT(report.fault, TR_FAULT_NONE);
    CHECK_INT(report.stage_live_peak[0], 2);
    CHECK_INT(report.stage_live_peak[1], 1);
    tr_schedule_report_free(&report);
    tr_schedule_free(schedule);
}

/* A table that names stage 65535 and microbatch 1048575 must not be believed. */
static void test_huge_names(void)
{
    tr_schedule *schedule = parse("0F0,0B0,65535F1048575\n");
    CHECK_ERROR(tr_schedule_check(schedule, NULL, NULL), "rank 0 never runs 0F1");
    tr_schedule_free(schedule);
}

/* ---- against a naive simulation ---- */

typedef struct queue {
    tr_action items[512];
    int head, tail;
} queue;

/* Runs a schedule of at most 8 ranks literally, with real queues; true when it comes to its end. */
static bool naive_run(const tr_schedule *s)
{
    static queue queues[8][8][2];
    static bool done[MOST_STAGES][64][4]; /* F, I, W, B */
    int64_t at[8] = {0};
    memset(queues, 0, sizeof queues);
    memset(done, 0, sizeof done);
    for (bool moved = true; moved;) {
        moved = false;
        for (int r = 0; r < s->ranks; r++) {
            if (at[r] == s->first[r + 1] - s->first[r])
                continue;
            tr_action a = s->actions[s->first[r] + at[r]];
            bool forward = a.kind == TR_ACTION_FORWARD, weight = a.kind == TR_ACTION_WEIGHT;
            int slot = forward ? 0 : weight ? 2 : a.kind == TR_ACTION_INPUT ? 1 : 3;
            bool *mine = done[a.stage][a.microbatch];
            if (s->rank_of_stage[a.stage] != r || mine[slot] ||
                (slot == 3 && (mine[1] || mine[2])) || (slot > 0 && slot < 3 && mine[3]) ||
                (weight && !mine[1]) || (!forward && !mine[0]))
                return false;
            int from = forward ? a.stage - 1 : a.stage + 1,
                to = forward ? a.stage + 1 : a.stage - 1;
            if (!weight && from >= 0 && from < s->stages) {
                int other = s->rank_of_stage[from];
                queue *q = &queues[other][r][forward];
                if (other == r) {
                    bool *theirs = done[from][a.microbatch];
                    if (forward ? !theirs[0] : !theirs[1] && !theirs[3])
                        return false;
                } else if (q->head == q->tail) {
                    continue;
                } else {
                    tr_action got = q->items[q->head++];
                    if (got.stage != from || got.microbatch != a.microbatch)
                        return false;
                }
            }
            mine[slot] = true;
            if (!weight && to >= 0 && to < s->stages && s->rank_of_stage[to] != r) {
                queue *q = &queues[r][s->rank_of_stage[to]][forward];
                q->items[q->tail++] = a;
            }
            at[r]++;
            moved = true;
        }
    }
    for (int r = 0; r < s->ranks; r++)
        if (at[r] < s->first[r + 1] - s->first[r] || at[r] == 0)
            return false;
    for (int i = 0; i < s->stages; i++)
        for (int m = 0; m < s->microbatches; m++)
            if (!done[i][m][0] || !(done[i][m][3] || (done[i][m][1] && done[i][m][2])))
                return false;
    return true;
}

/* Moves, swaps, drops, doubles and changes actions of right schedules at random: the checker and
 * the naive simulation must agree on each. */
static void test_random_edits(void)
{
    const uint64_t seed = 20240611;
    int right = 0, wrong = 0;
    for (uint32_t round = 0; round < 6000; round++) {
        tr_random4 a = tr_random(seed, round, 0, 0), b = tr_random(seed, round, 0, 1);
        tr_pipeline_kind kind = (tr_pipeline_kind)(a.word[0] % 5);
        int ranks = 1 + (int)(a.word[1] % 5), microbatches = 1 + (int)(a.word[2] % 7);
        tr_schedule *s = make(kind, ranks, chunks_of(kind, 2 + (int)(a.word[3] % 2)), microbatches);
        int64_t r = b.word[0] % (uint32_t)ranks, first = s->first[r],
                count = s->first[r + 1] - first;
        int64_t i = first + b.word[1] % count, j = first + b.word[2] % count;
        tr_action held = s->actions[i];
        switch (b.word[3] % 6) {
        case 0: /* swap neighbours */
            j = i + 1 < first + count ? i + 1 : first;
            /* fall through */
        case 1: /* swap any two */
            s->actions[i] = s->actions[j];
            s->actions[j] = held;
            break;
        case 2: /* move one */
            memmove(s->actions + i, s->actions + i + 1,
                    (size_t)(first + count - 1 - i) * sizeof *s->actions);
            memmove(s->actions + j + 1, s->actions + j,
                    (size_t)(first + count - 1 - j) * sizeof *s->actions);
            s->actions[j] = held;
            break;
        case 3: /* drop one */
            memmove(s->actions + i, s->actions + i + 1,
                    (size_t)(s->first[ranks] - 1 - i) * sizeof *s->actions);
            for (int64_t k = r + 1; k <= ranks; k++)
                s->first[k]--;
            break;
        case 4: /* one in the place of another */
            s->actions[j] = held;
            break;
        default: /* another kind */
            s->actions[i].kind = (tr_action_kind) "FIWB"[b.word[2] % 4];
        }
        tr_error *error = tr_schedule_check(s, NULL, NULL);
        bool runs = naive_run(s);
        if (runs != (error == NULL))
            FAIL("seed %llu round %u: %s %d ranks %d microbatches %s, the checker says: %s",
                 (unsigned long long)seed, round, tr_pipeline_kind_name(kind), ranks, microbatches,
                 runs ? "runs" : "does not run", tr_error_text(error));
        runs ? right++ : wrong++;
        tr_error_free(error);
        tr_schedule_free(s);
    }
    CHECK(right > 500 && wrong > 500); /* both verdicts were tested */
}

int main(void)
{
    TEST(test_planted_faults);
    TEST(test_edited_tables);
    TEST(test_huge_names);
    TEST(test_random_edits);
    return check_report();
}
