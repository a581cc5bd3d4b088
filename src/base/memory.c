/* Memory: small objects, an arena, growing texts, pages; see memory.h. */
#define _GNU_SOURCE
#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

enum { ARENA_BLOCK_BYTES = 64 * 1024 };
static const size_t HUGE_PAGE_BYTES = 2u << 20;

void *tr_alloc(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    TR_CHECK(memory, "out of memory for %zu bytes", bytes);
    return memory;
}

void *tr_alloc_zero(size_t count, size_t bytes)
{
    void *memory = calloc(count ? count : 1, bytes ? bytes : 1);
    TR_CHECK(memory, "out of memory for %zu x %zu bytes", count, bytes);
    return memory;
}

void *tr_realloc(void *old, size_t count, size_t bytes)
{
    size_t total = 0;
    TR_CHECK(!__builtin_mul_overflow(count, bytes, &total), "%zu x %zu bytes", count, bytes);
    void *memory = realloc(old, total ? total : 1);
    TR_CHECK(memory, "out of memory for %zu bytes", total);
    return memory;
}

char *tr_strndup(const char *text, size_t length)
{
    char *copy = tr_alloc(length + 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *tr_strdup(const char *text)
{
    return tr_strndup(text, strlen(text));
}

static char *format_with(const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    TR_CHECK(length >= 0, "bad format %s", format);
    char *text = tr_alloc((size_t)length + 1);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    return text;
}

char *tr_format(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_with(format, arguments);
    va_end(arguments);
    return text;
}

typedef struct block {
    struct block *next;
    size_t used, room;
    _Alignas(16) char bytes[];
} block;

struct tr_arena {
    block *first;
};

tr_arena *tr_arena_new(void)
{
    return tr_alloc_zero(1, sizeof(tr_arena));
}

void tr_arena_free(tr_arena *arena)
{
    if (!arena)
        return;
    for (block *b = arena->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(arena);
}

void *tr_arena_alloc(tr_arena *arena, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    block *b = arena->first;
    if (!b || b->room - b->used < bytes) {
        size_t room = TR_MAX(bytes, (size_t)ARENA_BLOCK_BYTES);
        b = tr_alloc_zero(1, sizeof *b + room);
        b->room = room;
        b->next = arena->first;
        arena->first = b;
    }
    void *memory = b->bytes + b->used;
    b->used += bytes;
    return memory;
}

char *tr_arena_strdup(tr_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(tr_arena_alloc(arena, bytes), text, bytes);
}

char *tr_arena_format(tr_arena *arena, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_with(format, arguments);
    va_end(arguments);
    char *copy = tr_arena_strdup(arena, text);
    free(text);
    return copy;
}

tr_error *tr_pages_map(size_t bytes, void **out_pages)
{
    *out_pages = NULL;
    if (bytes == 0)
        return NULL;
    /* Over-reserve so that the start can sit on a huge page; what is not touched costs nothing. */
    size_t reserve = bytes + HUGE_PAGE_BYTES;
    if (reserve < bytes)
        return tr_error_new(TR_RUN, "cannot reserve %zu bytes of memory", bytes);
    char *pages = mmap(NULL, reserve, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return tr_error_errno(TR_RUN, errno, "cannot reserve %zu bytes of memory", bytes);
    size_t skip = (HUGE_PAGE_BYTES - (uintptr_t)pages % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    size_t page = 4096, end = (bytes + page - 1) / page * page;
    if (skip)
        munmap(pages, skip);
    munmap(pages + skip + end, reserve - skip - end);
    if (bytes >= HUGE_PAGE_BYTES)
        madvise(pages + skip, end, MADV_HUGEPAGE);
    *out_pages = pages + skip;
    return NULL;
}

void tr_pages_unmap(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, (bytes + 4095) / 4096 * 4096);
}

int64_t tr_pages_touched(void *pages, size_t bytes)
{
    enum { PAGE = 4096, AT_ONCE = 4096 };
    unsigned char in[AT_ONCE];
    int64_t touched = 0;
    for (size_t at = 0; pages && at < bytes; at += (size_t)AT_ONCE * PAGE) {
        size_t some = TR_MIN((bytes - at + PAGE - 1) / PAGE, (size_t)AT_ONCE);
        if (mincore((char *)pages + at, some * PAGE, in) != 0)
            return 0;
        for (size_t i = 0; i < some; i++)
            touched += (in[i] & 1) * PAGE;
    }
    return touched;
}

static void text_room(tr_text *text, size_t more)
{
    if (text->room - text->length > more)
        return;
    size_t room = TR_MAX(text->room * 2, text->length + more + 64);
    text->bytes = tr_realloc(text->bytes, room, 1);
    text->room = room;
}

void tr_text_add(tr_text *text, const char *bytes, size_t length)
{
    text_room(text, length);
    if (length)
        memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

void tr_text_format(tr_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *more = format_with(format, arguments);
    va_end(arguments);
    tr_text_add(text, more, strlen(more));
    free(more);
}

void tr_text_free(tr_text *text)
{
    free(text->bytes);
    *text = (tr_text){0};
}

bool tr_mul_fits(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
