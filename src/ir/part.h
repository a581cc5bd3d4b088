/* How the ranks of a mesh axis share a dim: one run each, or, dealt zig-zag, two. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* [first, first + count): part `index` of `size` over `parts` in steps of `unit`. */
void tr_part(int64_t size, int parts, int index, int64_t unit, int64_t *first, int64_t *count);

/* Element x of a part is element first + x of the dim, and `jump` further from x = turn on. */
typedef struct tr_dealt {
    int64_t first, count, turn, jump;
} tr_dealt;
/* Dealt zig-zag a part is as large as tr_part says. The first halves of the parts follow one another from the front
 * of the dim, the second halves from its back inwards:
 *
 *     9 over 3     0 0 1 1 2 2 2 1 0     (which part has each element)
 *
 * so that causal attention costs every part about the same. */
tr_dealt tr_part_dealt(int64_t size, int parts, int index, int64_t unit);
/* Where element x stands; and how many elements stand before `place`. */
static inline int64_t tr_dealt_place(const tr_dealt *d, int64_t x)
{
    return d->first + x + (x >= d->turn ? d->jump : 0);
}
int64_t tr_dealt_before(const tr_dealt *part, int64_t place);
/* The keys that query x sees, which are neighbours: causal: none that stand behind it; window > 0: the last `window`. */
typedef struct tr_seen {
    int64_t first, count;
} tr_seen;
tr_seen tr_dealt_seen(const tr_dealt *queries, const tr_dealt *keys, bool causal, int64_t window, int64_t x);
