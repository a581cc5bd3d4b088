/* How ranks share a dim; see part.h. */
#include "ir/part.h"

void tr_part(int64_t size, int parts, int index, int64_t unit, int64_t *first, int64_t *count)
{
    int64_t pieces = size / unit;
    *first = pieces * index / parts * unit;
    *count = (index + 1 == parts ? size : pieces * (index + 1) / parts * unit) - *first;
}

tr_dealt tr_part_dealt(int64_t size, int parts, int index, int64_t unit)
{
    int64_t front = 0, back = size, first, count = 0, half = 0;
    for (int i = 0; i <= index; i++) {
        front += half;
        tr_part(size, parts, i, unit, &first, &count);
        half = (count / unit + 1) / 2 * unit;
        back -= count - half;
    }
    if (half == count)
        return (tr_dealt){front, count, 0, 0};
    return (tr_dealt){front, count, half, back - (front + half)};
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

int64_t tr_dealt_before(const tr_dealt *d, int64_t place)
{
    return clamp(place - d->first, 0, d->turn) + clamp(place - d->first - d->turn - d->jump, 0, d->count - d->turn);
}

tr_seen tr_dealt_seen(const tr_dealt *queries, const tr_dealt *keys, bool causal, int64_t window, int64_t x)
{
    int64_t at = tr_dealt_place(queries, x);
    int64_t first = window > 0 ? tr_dealt_before(keys, at - window + 1) : 0,
            last = causal ? tr_dealt_before(keys, at + 1) : keys->count;
    return (tr_seen){first, last > first ? last - first : 0};
}
