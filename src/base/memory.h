/* Memory: small objects, an arena, and growing arrays.
 *
 * Small objects that cannot be had abort with a message (TR_CHECK): on Linux such a failure does not
 * reach the caller anyway. Bulk memory (weights, activations, files) goes through tr_pages_map, which
 * returns an error.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define TR_COUNT(array) ((int64_t)(sizeof(array) / sizeof *(array)))
#define TR_MIN(a, b) ((a) < (b) ? (a) : (b))
#define TR_MAX(a, b) ((a) > (b) ? (a) : (b))

void *tr_alloc(size_t bytes);                       /* uninitialised */
void *tr_alloc_zero(size_t count, size_t bytes);    /* checked product, zeroed */
void *tr_realloc(void *old, size_t count, size_t bytes);
char *tr_strdup(const char *text);
char *tr_strndup(const char *text, size_t length);
char *tr_format(const char *format, ...) TR_PRINTF(1, 2); /* the caller frees */

/* Makes room for one more element: tr_push(items, count, room) = value; all three are lvalues. */
#define tr_push(items, count, room)                                                         \
    (*((count) < (room) ? &(items)[(count)++]                                               \
                        : ((items) = tr_realloc((items), (size_t)((room) = (room) ? 2 * (room) : 8), \
                                                sizeof *(items)),                           \
                           &(items)[(count)++])))

/* An arena: everything allocated from it is freed with it. Not for several threads at once. */
typedef struct tr_arena tr_arena;
tr_arena *tr_arena_new(void);
void tr_arena_free(tr_arena *arena);
void *tr_arena_alloc(tr_arena *arena, size_t bytes);      /* zeroed, 16-byte aligned */
char *tr_arena_strdup(tr_arena *arena, const char *text);
char *tr_arena_format(tr_arena *arena, const char *format, ...) TR_PRINTF(2, 3);

/* Whole pages, zeroed, in huge pages where the system gives them. Freed with tr_pages_unmap. */
tr_error *tr_pages_map(size_t bytes, void **out_pages);
void tr_pages_unmap(void *pages, size_t bytes);
/* How much of them is in memory. */
int64_t tr_pages_touched(void *pages, size_t bytes);

/* A growing text. Start with {0}; tr_text_free frees; `bytes` is always NUL-terminated when not NULL. */
typedef struct tr_text {
    char *bytes;
    size_t length, room;
} tr_text;
void tr_text_add(tr_text *text, const char *bytes, size_t length);
void tr_text_format(tr_text *text, const char *format, ...) TR_PRINTF(2, 3);
void tr_text_free(tr_text *text);

/* Products and sums of sizes that came from outside: false when they overflow int64. */
bool tr_mul_fits(int64_t a, int64_t b, int64_t *out);
