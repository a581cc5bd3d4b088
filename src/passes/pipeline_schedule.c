/* Schedules: generators, CSV, and the cut of a model into stages; see pipeline_schedule.h.
 *
 * A generator is a few phases a rank: "so many times these actions". In a phase's text `f`, `b`,
 * `i`, `w` are the next forward, whole backward, input gradient and weight gradient of the rank's
 * chunks in turn: groups of `ranks` microbatches go through one chunk after the other, backward in
 * the opposite order of chunks (with one chunk that is simply the next microbatch). In ZB-V small
 * letters are the leg down and capitals the leg up, each with a count of its own.
 *
 * Invariants:
 *   1. Phases are laid out for `padded` >= microbatches; actions of microbatches that do not exist
 * are left out. Taking all actions of a microbatch out of a right schedule leaves a right schedule,
 * so each kind works for any number of microbatches.
 *   2. Every generated table has exactly the room it needs (checked at the end).
 */
#include "passes/pipeline_schedule.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"

typedef struct phase {
    int64_t times;
    const char *actions;
} phase;

enum { MOST_PHASES = 8, SHOWN = 24 };

/* What the phases of one rank need to know. */
typedef struct row {
    int64_t ranks, rank, chunks, padded;
} row;

static int gpipe_phases(const row *r, phase *out)
{
    out[0] = (phase){r->padded, "f"};
    out[1] = (phase){r->padded, "b"};
    return 2;
}

static int alternate(int64_t total, int64_t warmup, phase *out)
{
    warmup = TR_MIN(warmup, total);
    out[0] = (phase){warmup, "f"};
    out[1] = (phase){total - warmup, "fb"};
    out[2] = (phase){warmup, "b"};
    return 3;
}

static int one_f_one_b_phases(const row *r, phase *out)
{
    return alternate(r->padded, r->ranks - 1 - r->rank, out);
}

static int interleaved_phases(const row *r, phase *out)
{
    return alternate(r->padded * r->chunks,
                     2 * (r->ranks - 1 - r->rank) + (r->chunks - 1) * r->ranks, out);
}

/* Rank r lags r microbatches behind with its weight gradients, so that each rank holds `ranks`
 * alive. */
static int zero_bubble_phases(const row *r, phase *out)
{
    int64_t warmup = r->ranks - 1 - r->rank;
    out[0] = (phase){warmup, "f"};
    out[1] = (phase){r->rank, "fi"};
    out[2] = (phase){r->padded - r->ranks + 1, "fiw"};
    out[3] = (phase){warmup, "iw"};
    out[4] = (phase){r->rank, "w"};
    return 5;
}

static int zero_bubble_v_phases(const row *r, phase *out)
{
    int64_t down = r->ranks - r->rank; /* ranks from here to the turn */
    out[0] = (phase){2 * down - 1, "f"};
    out[1] = (phase){r->rank, "Ff"};
    out[2] = (phase){down, "FIW"};
    out[3] = (phase){r->padded - r->ranks, "fiwFIW"};
    out[4] = (phase){r->rank, "iI"};
    out[5] = (phase){down, "iw"};
    out[6] = (phase){r->rank, "W"};
    out[7] = (phase){r->rank, "w"};
    return 8;
}

static int64_t pad_none(int64_t ranks, int64_t microbatches)
{
    (void)ranks;
    return microbatches;
}

static int64_t pad_to_multiple(int64_t ranks, int64_t microbatches)
{
    return (microbatches + ranks - 1) / ranks * ranks;
}

static int64_t pad_to_full(int64_t ranks, int64_t microbatches)
{
    return TR_MAX(microbatches, ranks);
}

static int64_t pad_for_turn(int64_t ranks, int64_t microbatches)
{
    return TR_MAX(microbatches, 2 * ranks - 1);
}

/* One row a tr_pipeline_kind, in its order. */
static const struct {
    const char *name;
    int64_t least_chunks, most_chunks;
    const char *chunks_hint;
    int (*phases)(const row *r, phase *out);
    int64_t (*pad)(int64_t ranks, int64_t microbatches);
    bool split; /* backward as I and W */
    bool v;     /* the second half of the stages runs back up */
} KINDS[] = {
    [TR_PIPELINE_GPIPE] = {"gpipe", 1, 1, "exactly 1", gpipe_phases, pad_none, false, false},
    [TR_PIPELINE_1F1B] = {"1f1b", 1, 1, "exactly 1", one_f_one_b_phases, pad_none, false, false},
    [TR_PIPELINE_INTERLEAVED] = {"interleaved", 2, TR_SCHEDULE_MOST_STAGES,
                                 "2 or more (with 1 it is 1f1b)", interleaved_phases,
                                 pad_to_multiple, false, false},
    [TR_PIPELINE_ZERO_BUBBLE] = {"zero_bubble", 1, 1, "exactly 1", zero_bubble_phases, pad_to_full,
                                 true, false},
    [TR_PIPELINE_ZERO_BUBBLE_V] = {"zero_bubble_v", 2, 2, "exactly 2", zero_bubble_v_phases,
                                   pad_for_turn, true, true},
};

const char *tr_pipeline_kind_name(tr_pipeline_kind kind)
{
    return KINDS[kind].name;
}

tr_error *tr_pipeline_kind_parse(const char *name, tr_pipeline_kind *out)
{
    const char *names[TR_COUNT(KINDS)];
    for (int64_t k = 0; k < TR_COUNT(KINDS); k++) {
        names[k] = KINDS[k].name;
        if (strcmp(name, names[k]) == 0) {
            *out = (tr_pipeline_kind)k;
            return NULL;
        }
    }
    const char *near = tr_suggest(name, names, TR_COUNT(names));
    return tr_error_new(TR_USER,
                        "'%.60s' is not a pipeline schedule%s%s%s; it is one of gpipe, 1f1b, "
                        "interleaved, zero_bubble, zero_bubble_v, or a CSV file",
                        name, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static tr_schedule *new_table(int64_t ranks, int64_t stages, int64_t microbatches, int64_t actions)
{
    tr_schedule *schedule = tr_alloc_zero(1, sizeof *schedule);
    schedule->ranks = (int32_t)ranks;
    schedule->stages = (int32_t)stages;
    schedule->microbatches = (int32_t)microbatches;
    schedule->rank_of_stage = tr_alloc_zero((size_t)stages + 1, sizeof *schedule->rank_of_stage);
    schedule->first = tr_alloc_zero((size_t)ranks + 1, sizeof *schedule->first);
    schedule->actions = tr_alloc_zero((size_t)actions + 1, sizeof *schedule->actions);
    return schedule;
}

void tr_schedule_free(tr_schedule *schedule)
{
    if (!schedule)
        return;
    free(schedule->rank_of_stage);
    free(schedule->first);
    free(schedule->actions);
    free(schedule);
}

/* The count'th action of a kind and leg, placed; see the head of the file. */
static tr_action place(const row *r, char code, int64_t count, bool v)
{
    bool capital = code >= 'A' && code <= 'Z';
    char kind = capital ? code : (char)(code - 'a' + 'A');
    if (v)
        return (tr_action){(int32_t)(capital ? 2 * r->ranks - 1 - r->rank : r->rank),
                           (int32_t)count, (tr_action_kind)kind};
    int64_t chunk = count / r->ranks % r->chunks;
    if (kind != TR_ACTION_FORWARD)
        chunk = r->chunks - 1 - chunk;
    int64_t microbatch = count / (r->ranks * r->chunks) * r->ranks + count % r->ranks;
    return (tr_action){(int32_t)(chunk * r->ranks + r->rank), (int32_t)microbatch,
                       (tr_action_kind)kind};
}

/* Appends the actions of a row's phases to the table; `counts` is by letter. */
static void add_phases(tr_schedule *schedule, const row *r, bool v, const phase *phases,
                       int phase_count, int64_t counts['z' + 1])
{
    int64_t *end = &schedule->first[r->rank + 1];
    for (int p = 0; p < phase_count; p++)
        for (int64_t t = 0; t < phases[p].times; t++)
            for (const char *code = phases[p].actions; *code; code++) {
                tr_action action = place(r, *code, counts[(int)*code]++, v);
                if (action.microbatch < schedule->microbatches)
                    schedule->actions[(*end)++] = action;
            }
}

static void add_row(tr_schedule *schedule, tr_pipeline_kind kind, const row *r)
{
    int64_t counts['z' + 1] = {0};
    phase phases[MOST_PHASES];
    schedule->first[r->rank + 1] = schedule->first[r->rank];
    if (r->ranks > 1) {
        int count = KINDS[kind].phases(r, phases);
        add_phases(schedule, r, KINDS[kind].v, phases, count, counts);
        return;
    }
    phases[0] = (phase){r->chunks, "f"};
    phases[1] = (phase){r->chunks, "b"};
    for (int64_t m = 0; m < schedule->microbatches; m++)
        add_phases(schedule, r, false, phases, 2, counts);
}

static tr_error *check_size(const char *what, int64_t value, int64_t most)
{
    if (value >= 1 && value <= most)
        return NULL;
    return tr_error_new(TR_USER, "a pipeline cannot have %lld %s: give 1 to %lld", (long long)value,
                        what, (long long)most);
}

tr_error *tr_schedule_new(tr_pipeline_kind kind, int64_t ranks, int64_t chunks,
                          int64_t microbatches, tr_schedule **out)
{
    *out = NULL;
    TR_CHECK(kind >= 0 && kind < TR_COUNT(KINDS), "schedule kind %d", (int)kind);
    TR_TRY(check_size("ranks", ranks, TR_SCHEDULE_MOST_STAGES));
    TR_TRY(check_size("microbatches", microbatches, TR_SCHEDULE_MOST_MICROBATCHES));
    if (chunks < KINDS[kind].least_chunks || chunks > KINDS[kind].most_chunks)
        return tr_error_new(TR_USER,
                            "pipeline schedule %s cannot have %lld chunks (stages a rank): give %s",
                            KINDS[kind].name, (long long)chunks, KINDS[kind].chunks_hint);
    TR_TRY(check_size("stages (ranks times chunks)", ranks * chunks, TR_SCHEDULE_MOST_STAGES));
    bool split = KINDS[kind].split && ranks > 1;
    int64_t stages = ranks * chunks, actions = stages * microbatches * (split ? 3 : 2);
    if (actions > TR_SCHEDULE_MOST_ACTIONS)
        return tr_error_new(
            TR_USER,
            "a pipeline of %lld stages and %lld microbatches has %lld actions, more than %d: "
            "use fewer, larger microbatches",
            (long long)stages, (long long)microbatches, (long long)actions,
            TR_SCHEDULE_MOST_ACTIONS);
    tr_schedule *schedule = new_table(ranks, stages, microbatches, actions);
    for (int64_t s = 0; s < stages; s++)
        schedule->rank_of_stage[s] =
            (int32_t)(KINDS[kind].v && s >= ranks ? 2 * ranks - 1 - s : s % ranks);
    row r = {.ranks = ranks, .chunks = chunks, .padded = KINDS[kind].pad(ranks, microbatches)};
    for (r.rank = 0; r.rank < ranks; r.rank++)
        add_row(schedule, kind, &r);
    TR_CHECK(schedule->first[ranks] == actions, "schedule %s: %lld actions, expected %lld",
             KINDS[kind].name, (long long)schedule->first[ranks], (long long)actions);
    *out = schedule;
    return NULL;
}

/* ---- CSV ---- */

typedef struct reader {
    const char *where, *bytes;
    int64_t size, at, line, line_start;
} reader;

/* The error for what stands at `at`; `format` has one %s for the cell's text, printable and cut. */
static tr_error *cell_error(const reader *in, int64_t at, int64_t end, const char *format)
{
    char text[SHOWN + 4];
    int64_t count = TR_MIN(end - at, SHOWN);
    for (int64_t i = 0; i < count; i++) {
        char c = in->bytes[at + i];
        text[i] = c >= ' ' && c <= '~' ? c : '?';
    }
    memcpy(text + count, end - at > SHOWN ? "..." : "", end - at > SHOWN ? 4 : 1);
    tr_text message = {0};
    for (const char *c = format; *c; c++)
        if (c[0] == '%' && c[1] == 's') {
            tr_text_add(&message, text, strlen(text));
            c++;
        } else {
            tr_text_add(&message, c, 1);
        }
    tr_error *error = tr_error_new(TR_USER, "%.4000s:%lld:%lld: %s", in->where, (long long)in->line,
                                   (long long)(at - in->line_start + 1), message.bytes);
    tr_text_free(&message);
    return error;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits from *at; -1 when there are none, `most` when the number is that or more. */
static int64_t read_number(const reader *in, int64_t *at, int64_t end, int64_t most)
{
    int64_t value = -1;
    for (; *at < end && is_digit(in->bytes[*at]); ++*at)
        value = TR_MIN(TR_MAX(value, 0) * 10 + (in->bytes[*at] - '0'), most);
    return value;
}

static tr_error *read_action(const reader *in, int64_t begin, int64_t end, tr_action *out)
{
    int64_t at = begin;
    int64_t stage = read_number(in, &at, end, TR_SCHEDULE_MOST_STAGES);
    char kind = at < end ? in->bytes[at++] : 0;
    int64_t microbatch = read_number(in, &at, end, TR_SCHEDULE_MOST_MICROBATCHES);
    if (stage < 0 || !kind || !strchr("FIWB", kind) || microbatch < 0 || at != end)
        return cell_error(in, begin, end,
                          "'%s' is not an action; one is a stage, a letter of F, I, W and B, and a "
                          "microbatch, as in 0F1");
    if (stage == TR_SCHEDULE_MOST_STAGES)
        return cell_error(in, begin, end, "the stage of '%s' is too large; the largest is 65535");
    if (microbatch == TR_SCHEDULE_MOST_MICROBATCHES)
        return cell_error(in, begin, end,
                          "the microbatch of '%s' is too large; the largest is 1048575");
    *out = (tr_action){(int32_t)stage, (int32_t)microbatch, (tr_action_kind)kind};
    return NULL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

typedef struct table {
    tr_action *actions;
    int64_t count, room;
    int64_t *ends; /* where each row ends */
    int64_t rows, rows_room;
} table;

/* One line, without its newline. */
static tr_error *read_line(const reader *in, int64_t end, table *rows)
{
    int64_t at = in->at;
    while (at < end && is_blank(in->bytes[at]))
        at++;
    if (at == end || in->bytes[at] == '#')
        return NULL;
    if (rows->rows == TR_SCHEDULE_MOST_STAGES)
        return cell_error(in, at, at, "more than 65536 rows; a row is a rank");
    for (at = in->at; at <= end; at++) {
        int64_t cell_end = at;
        while (cell_end < end && in->bytes[cell_end] != ',')
            cell_end++;
        int64_t begin = at, stop = cell_end;
        while (begin < stop && is_blank(in->bytes[begin]))
            begin++;
        while (stop > begin && is_blank(in->bytes[stop - 1]))
            stop--;
        if (begin < stop) {
            tr_action action;
            TR_TRY(read_action(in, begin, stop, &action));
            if (rows->count == TR_SCHEDULE_MOST_ACTIONS)
                return cell_error(in, begin, stop, "more than 67108864 actions, with '%s'");
            tr_push(rows->actions, rows->count, rows->room) = action;
        }
        at = cell_end;
    }
    tr_push(rows->ends, rows->rows, rows->rows_room) = rows->count;
    return NULL;
}

static int compare_int64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The rank with most of a stage's actions has the stage. */
static void find_owners(tr_schedule *schedule)
{
    int64_t total = schedule->first[schedule->ranks];
    int64_t *pairs =
        tr_alloc_zero((size_t)total + 1, sizeof *pairs); /* stage and rank as one number */
    for (int32_t r = 0; r < schedule->ranks; r++)
        for (int64_t i = schedule->first[r]; i < schedule->first[r + 1]; i++)
            pairs[i] = (int64_t)schedule->actions[i].stage << 32 | r;
    qsort(pairs, (size_t)total, sizeof *pairs, compare_int64);
    for (int32_t s = 0; s < schedule->stages; s++)
        schedule->rank_of_stage[s] = -1;
    int64_t best = 0;
    for (int64_t i = 0, run = 0; i < total; i++) {
        run = i && pairs[i] == pairs[i - 1] ? run + 1 : 1;
        if (i && pairs[i] >> 32 != pairs[i - 1] >> 32)
            best = 0;
        if (run > best) {
            best = run;
            schedule->rank_of_stage[pairs[i] >> 32] = (int32_t)(pairs[i] & INT32_MAX);
        }
    }
    free(pairs);
}

tr_error *tr_schedule_parse_csv(const char *where, const char *bytes, int64_t size,
                                tr_schedule **out)
{
    *out = NULL;
    tr_error *error = NULL;
    table rows = {0};
    reader in = {.where = where, .bytes = bytes, .size = size, .line = 1};
    if (size >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        in.at = in.line_start = 3; /* a spreadsheet's byte order mark */
    for (; in.at < size; in.line++) {
        const char *newline = memchr(bytes + in.at, '\n', (size_t)(size - in.at));
        int64_t end = newline ? newline - bytes : size;
        TR_GO(read_line(&in, end, &rows));
        in.at = in.line_start = end + 1;
    }
    if (rows.count == 0) {
        error =
            tr_error_new(TR_USER,
                         "%.4000s:1:1: no action in the schedule; it has one row a rank with cells "
                         "such as 0F1",
                         where);
        goto done;
    }
    int64_t stages = 0, microbatches = 0;
    for (int64_t i = 0; i < rows.count; i++) {
        stages = TR_MAX(stages, (int64_t)rows.actions[i].stage + 1);
        microbatches = TR_MAX(microbatches, (int64_t)rows.actions[i].microbatch + 1);
    }
    tr_schedule *schedule = new_table(rows.rows, stages, microbatches, rows.count);
    memcpy(schedule->actions, rows.actions, (size_t)rows.count * sizeof *rows.actions);
    memcpy(schedule->first + 1, rows.ends, (size_t)rows.rows * sizeof *rows.ends);
    find_owners(schedule);
    *out = schedule;
done:
    free(rows.actions);
    free(rows.ends);
    return error;
}

void tr_schedule_print_csv(const tr_schedule *schedule, tr_text *text)
{
    for (int32_t r = 0; r < schedule->ranks; r++) {
        const tr_action *end = schedule->actions + schedule->first[r + 1];
        for (const tr_action *a = schedule->actions + schedule->first[r]; a < end; a++)
            tr_text_format(text, "%d%c%d%s", a->stage, (char)a->kind, a->microbatch,
                           a + 1 < end ? "," : "");
        /* A row without actions must still be a row when it is read again. */
        tr_text_format(text, "%s\n", schedule->first[r] == schedule->first[r + 1] ? "," : "");
    }
}

/* ---- the cut ---- */

typedef struct cut {
    const double *before; /* [layers + 1]: the cost of the layers before each */
    int layers, stages;
    double first_extra, last_extra;
} cut;

/* Every comparison uses this one sum, so that equal runs of layers compare equal. */
static double stage_cost(const cut *c, int stage, int begin, int end)
{
    return c->before[end] - c->before[begin] + (stage == 0 ? c->first_extra : 0) +
           (stage == c->stages - 1 ? c->last_extra : 0);
}

/* best[s][i] over all ways to give layers 0 .. i-1 to stages 0 .. s, where a way is worth the
 * maximum of its stages' costs, or, when `most` is finite, the sum of their squares with none above
 * `most`. Fills split[s][i], the first layer of stage s in the best way, and returns the value of
 * the whole. */
static double best_cut(const cut *c, double most, int32_t *split)
{
    int width = c->layers + 1;
    double *before = tr_alloc_zero((size_t)width, sizeof *before);
    double *now = tr_alloc_zero((size_t)width, sizeof *now);
    bool squares = isfinite(most);
    for (int i = 0; i < width; i++)
        before[i] = i == 0 ? 0 : INFINITY;
    for (int s = 0; s < c->stages; s++) {
        for (int i = 0; i < width; i++) {
            now[i] = INFINITY;
            split[(int64_t)s * width + i] = 0;
            for (int j = i - 1; j >= s; j--) {
                double cost = stage_cost(c, s, j, i);
                if (squares ? cost > most : cost > now[i])
                    break; /* costs only grow with more layers */
                double value = squares ? before[j] + cost * cost : TR_MAX(before[j], cost);
                /* Rounding must not decide between equal cuts; of equals the longest stage. */
                if (value <= now[i] * (1 + 1e-12)) {
                    now[i] = TR_MIN(value, now[i]);
                    split[(int64_t)s * width + i] = j;
                }
            }
        }
        double *swap = before;
        before = now;
        now = swap;
    }
    double value = before[c->layers];
    free(before);
    free(now);
    return value;
}

static tr_error *check_cost(double cost, const char *what, int index)
{
    if (isfinite(cost) && cost >= 0)
        return NULL;
    return tr_error_new(TR_USER, "the cost of %s %d is %g; costs are finite and not negative", what,
                        index, cost);
}

tr_error *tr_pipeline_cut(const double *layer_cost, int layer_count, double first_extra,
                          double last_extra, int stages, int *out_first_layer)
{
    if (stages < 1 || layer_count < stages)
        return tr_error_new(
            TR_USER,
            "%d layers cannot be cut into %d pipeline stages: every stage needs a layer, so "
            "give 1 to %d stages (ranks of mesh.pipeline times pipeline.chunks)",
            layer_count, stages, TR_MAX(layer_count, 1));
    TR_TRY(check_cost(first_extra, "what precedes layer", 0));
    TR_TRY(check_cost(last_extra, "what follows layer", layer_count - 1));
    for (int i = 0; i < layer_count; i++)
        TR_TRY(check_cost(layer_cost[i], "layer", i));
    double *before = tr_alloc_zero((size_t)layer_count + 1, sizeof *before);
    for (int i = 0; i < layer_count; i++)
        before[i + 1] = before[i] + layer_cost[i];
    if (!isfinite(before[layer_count] + first_extra + last_extra)) {
        free(before);
        return tr_error_new(TR_USER, "the sum of the costs of %d layers is too large for a number",
                            layer_count);
    }
    cut c = {before, layer_count, stages, first_extra, last_extra};
    int width = layer_count + 1;
    int32_t *split = tr_alloc_zero((size_t)stages * (size_t)width, sizeof *split);
    double slowest = best_cut(&c, INFINITY, split);
    if (isfinite(slowest * slowest * stages))
        best_cut(&c, slowest * (1 + 1e-9), split);
    for (int s = stages - 1, end = layer_count; s >= 0; s--) {
        out_first_layer[s] = split[(int64_t)s * width + end];
        end = out_first_layer[s];
    }
    free(split);
    free(before);
    return NULL;
}
