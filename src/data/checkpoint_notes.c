/* Which elements were written; see checkpoint_notes.h.
 *
 * The gap is looked for by walking over all runs in the order of their beginnings: a heap holds the
 * next run of each pattern.
 */
#include "data/checkpoint_notes.h"

#include "base/memory.h"

void tr_notes_free(tr_notes *notes)
{
    free(notes->runs);
    *notes = (tr_notes){0};
}

void tr_notes_add(tr_notes *notes, int64_t first, int64_t length)
{
    tr_runs *last = notes->count ? &notes->runs[notes->count - 1] : NULL;
    if (last && last->times == 1 && last->first + last->length == first) {
        last->length += length;
        return;
    }
    if (last && last->length == length) {
        int64_t step = last->times == 1 ? first - last->first : last->step;
        if (step > 0 && first == last->first + step * last->times) {
            last->step = step;
            last->times++;
            return;
        }
    }
    tr_push(notes->runs, notes->count, notes->room) = (tr_runs){first, length, 0, 1};
}

json_t *tr_notes_json(const tr_notes *notes)
{
    json_t *array = json_array();
    for (int64_t i = 0; i < notes->count; i++) {
        const tr_runs *r = &notes->runs[i];
        json_t *runs = json_pack("[I,I,I,I]", (json_int_t)r->first, (json_int_t)r->length,
                                 (json_int_t)r->step, (json_int_t)r->times);
        TR_CHECK(runs && json_array_append_new(array, runs) == 0, "out of memory for notes");
    }
    return array;
}

tr_error *tr_notes_parse(tr_notes *notes, const json_t *array, int64_t elems, const char *where)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *four = json_array_get(array, i);
        int64_t n[4], reach;
        bool good = json_array_size(four) == 4;
        for (size_t k = 0; k < 4 && good; k++) {
            const json_t *number = json_array_get(four, k);
            n[k] = json_integer_value(number);
            good = json_is_integer(number) && n[k] >= 0 && n[k] <= elems;
        }
        good = good && n[1] > 0 && n[3] > 0 && tr_mul_fits(n[2], n[3] - 1, &reach) &&
               reach <= elems - n[0] && n[1] <= elems - n[0] - reach;
        if (!good)
            return tr_error_new(TR_RUN, "%s is damaged: its runs do not lie in the tensor", where);
        tr_push(notes->runs, notes->count, notes->room) = (tr_runs){n[0], n[1], n[2], n[3]};
    }
    return NULL;
}

/* The pattern whose next run is the earliest is at the top. */
static void sift(tr_runs *heap, int64_t count, int64_t at)
{
    tr_runs moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].first < heap[child].first)
            child++;
        if (moved.first <= heap[child].first)
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

int64_t tr_notes_gap(const tr_notes *notes, int64_t elems, int64_t *out_end)
{
    int64_t count = notes->count, reached = 0;
    tr_runs *heap = tr_alloc((size_t)(count + 1) * sizeof *heap);
    if (count)
        memcpy(heap, notes->runs, (size_t)count * sizeof *heap);
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        sift(heap, count, i);
    while (count && heap[0].first <= reached) {
        reached = TR_MAX(reached, heap[0].first + heap[0].length);
        heap[0].first += heap[0].step;
        if (--heap[0].times == 0)
            heap[0] = heap[--count];
        if (count)
            sift(heap, count, 0);
    }
    *out_end = count ? heap[0].first : elems;
    free(heap);
    return reached < elems ? reached : -1;
}
