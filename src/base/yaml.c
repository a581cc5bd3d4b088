/* YAML to a tree; see yaml.h.
 *
 * libyaml gives events; one recursive function per nesting level builds the tree. Limits on size,
 * depth and keys bound time and stack for any bytes: O(size) but for the keys of one map, which are
 * compared pairwise (at most 1024).
 */
#include "base/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"

enum { MOST_BYTES = 1 << 20, MOST_DEPTH = 32, MOST_KEYS = 1024, SHOWN = 60 };

typedef struct parser {
    yaml_parser_t yaml;
    const char *file;
    const char *bytes;
    int64_t size;
    bool lines; /* places have line and column */
    tr_arena *arena;
} parser;

/* One line, whatever the user's text holds; the text may be long. */
static tr_error *make_error(const char *file, int64_t line, int64_t column, const char *format,
                            va_list arguments)
{
    char text[8192];
    int used = line ? snprintf(text, sizeof text, "%.4200s:%lld:%lld: ", file, (long long)line,
                               (long long)column)
                    : snprintf(text, sizeof text, "%.4200s: ", file);
    vsnprintf(text + used, sizeof text - (size_t)used, format, arguments);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    return tr_error_new(TR_USER, "%s", text);
}

tr_error *tr_yaml_error(const tr_yaml *node, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tr_error *error = make_error(node->file, node->line, node->column, format, arguments);
    va_end(arguments);
    return error;
}

tr_error *tr_yaml_key_error(const tr_yaml *node, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    bool has_key = node->key_line != 0;
    tr_error *error = make_error(node->file, has_key ? node->key_line : node->line,
                                 has_key ? node->key_column : node->column, format, arguments);
    va_end(arguments);
    return error;
}

static tr_error *error_at(const parser *p, yaml_mark_t mark, const char *format, ...)
    TR_PRINTF(3, 4);
static tr_error *error_at(const parser *p, yaml_mark_t mark, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tr_error *error = make_error(p->file, p->lines ? (int64_t)mark.line + 1 : 0,
                                 (int64_t)mark.column + 1, format, arguments);
    va_end(arguments);
    return error;
}

/* The byte at a mark: libyaml counts characters, so for other than ASCII files this is a guess. */
static char byte_at(const parser *p, yaml_mark_t mark)
{
    int64_t at = 0, line = (int64_t)mark.line;
    for (; line > 0 && at < p->size; at++)
        line -= p->bytes[at] == '\n';
    at += (int64_t)mark.column;
    return at < p->size ? p->bytes[at] : 0;
}

/* What libyaml says, as one sentence. */
static tr_error *syntax_error(const parser *p)
{
    const yaml_parser_t *y = &p->yaml;
    const char *problem = y->problem ? y->problem : "it cannot be read";
    if (y->error == YAML_MEMORY_ERROR)
        return tr_error_new(TR_RUN, "%s: out of memory while reading it", p->file);
    if (y->error == YAML_READER_ERROR) {
        yaml_mark_t mark = {0};
        for (int64_t i = 0; i < (int64_t)y->problem_offset && i < p->size; i++) {
            mark.column = p->bytes[i] == '\n' ? 0 : mark.column + 1;
            mark.line += p->bytes[i] == '\n';
        }
        return error_at(p, mark, "this is not a YAML text file: %s", problem);
    }
    if (byte_at(p, y->problem_mark) == '\t')
        return error_at(p, y->problem_mark, "a tab stands here; YAML is indented with spaces");
    if (y->context && p->lines)
        return error_at(p, y->problem_mark, "this is not valid YAML: %s %s that began at line %lld",
                        problem, y->context, (long long)y->context_mark.line + 1);
    return error_at(p, y->problem_mark, "this is not valid YAML: %s", problem);
}

static tr_error *next(parser *p, yaml_event_t *event)
{
    return yaml_parser_parse(&p->yaml, event) ? NULL : syntax_error(p);
}

static tr_yaml *node_new(parser *p, tr_yaml_kind kind, yaml_mark_t mark)
{
    tr_yaml *node = tr_arena_alloc(p->arena, sizeof *node);
    node->kind = kind;
    node->file = p->file;
    node->line = p->lines ? (int64_t)mark.line + 1 : 0;
    node->column = (int64_t)mark.column + 1;
    return node;
}

static tr_error *refuse_extras(const parser *p, yaml_mark_t mark, const yaml_char_t *anchor,
                               const yaml_char_t *tag)
{
    if (anchor)
        return error_at(
            p, mark, "anchors (&%.40s) are not supported; a text that begins with & needs quotes",
            (const char *)anchor);
    if (!tag)
        return NULL;
    const char *name = (const char *)tag, *standard = "tag:yaml.org,2002:";
    bool is_standard = strncmp(name, standard, strlen(standard)) == 0;
    return error_at(p, mark, "tags (%s%.40s) are not supported; write the value alone",
                    is_standard ? "!!" : "", is_standard ? name + strlen(standard) : name);
}

static tr_error *build_scalar(parser *p, const yaml_event_t *event, tr_yaml **out)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    TR_TRY(refuse_extras(p, event->start_mark, event->data.scalar.anchor, event->data.scalar.tag));
    if (memchr(text, 0, length))
        return error_at(p, event->start_mark, "a text cannot hold a zero byte (\\0)");
    *out = node_new(p, TR_YAML_SCALAR, event->start_mark);
    (*out)->text = tr_arena_strdup(p->arena, text);
    (*out)->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return NULL;
}

static tr_error *build(parser *p, const yaml_event_t *event, int depth, tr_yaml **out);

/* The key of the next item of `map` from `event`, with its place, in *out. */
static tr_error *build_key(parser *p, const yaml_event_t *event, tr_yaml *const *items,
                           int64_t count, tr_yaml **out)
{
    if (event->type != YAML_SCALAR_EVENT)
        return error_at(p, event->start_mark,
                        event->type == YAML_ALIAS_EVENT
                            ? "aliases (*name) are not supported"
                            : "a key must be a name, not a list or a map");
    TR_TRY(build_scalar(p, event, out));
    for (int64_t i = 0; i < count; i++) {
        if (strcmp(items[i]->key, (*out)->text) != 0)
            continue;
        return p->lines
                   ? error_at(p, event->start_mark,
                              "the key '%.60s' is given twice, first at line %lld", (*out)->text,
                              (long long)items[i]->key_line)
                   : error_at(p, event->start_mark, "the key '%.60s' is given twice", (*out)->text);
    }
    if (count == MOST_KEYS)
        return error_at(p, event->start_mark, "a map cannot have more than %d keys", MOST_KEYS);
    return NULL;
}

static tr_error *build_items(parser *p, tr_yaml *node, int depth)
{
    bool is_map = node->kind == TR_YAML_MAP;
    tr_yaml **items = NULL;
    int64_t count = 0, room = 0;
    tr_error *error = NULL;
    while (!error) {
        yaml_event_t event;
        tr_yaml *key = NULL, *value = NULL;
        if ((error = next(p, &event)))
            break;
        if (event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            break;
        }
        if (is_map) {
            error = build_key(p, &event, items, count, &key);
            yaml_event_delete(&event);
            if (error || (error = next(p, &event)))
                break;
        }
        error = build(p, &event, depth, &value);
        yaml_event_delete(&event);
        if (error)
            break;
        if (is_map) {
            value->key = key->text;
            value->key_line = key->line;
            value->key_column = key->column;
        }
        tr_push(items, count, room) = value;
    }
    if (!error && count) {
        node->items = tr_arena_alloc(p->arena, (size_t)count * sizeof *items);
        memcpy(node->items, items, (size_t)count * sizeof *items);
        node->count = count;
    }
    free(items);
    return error;
}

static tr_error *build(parser *p, const yaml_event_t *event, int depth, tr_yaml **out)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return build_scalar(p, event, out);
    case YAML_SEQUENCE_START_EVENT:
        TR_TRY(refuse_extras(p, event->start_mark, event->data.sequence_start.anchor,
                             event->data.sequence_start.tag));
        *out = node_new(p, TR_YAML_LIST, event->start_mark);
        break;
    case YAML_MAPPING_START_EVENT:
        TR_TRY(refuse_extras(p, event->start_mark, event->data.mapping_start.anchor,
                             event->data.mapping_start.tag));
        *out = node_new(p, TR_YAML_MAP, event->start_mark);
        break;
    case YAML_ALIAS_EVENT:
        return error_at(
            p, event->start_mark,
            "aliases (*%.40s) are not supported; a text that begins with * needs quotes",
            (const char *)event->data.alias.anchor);
    default:
        return error_at(p, event->start_mark, "this is not valid YAML");
    }
    if (depth == MOST_DEPTH)
        return error_at(p, event->start_mark, "lists and maps cannot be nested more than %d deep",
                        MOST_DEPTH);
    return build_items(p, *out, depth + 1);
}

/* The events around the one document. */
static tr_error *build_document(parser *p, tr_yaml **out)
{
    for (;;) {
        yaml_event_t event;
        TR_TRY(next(p, &event));
        tr_error *error = NULL;
        bool end = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            if (*out)
                error = error_at(p, event.start_mark,
                                 "a second document begins here; one is all there can be");
            else if (event.data.document_start.tag_directives.start !=
                     event.data.document_start.tag_directives.end)
                error = error_at(p, event.start_mark, "%%TAG lines are not supported");
        } else if (event.type != YAML_STREAM_START_EVENT && event.type != YAML_DOCUMENT_END_EVENT &&
                   !end) {
            error = build(p, &event, 0, out);
        }
        yaml_event_delete(&event);
        if (error || end)
            return error;
    }
}

static tr_error *parse(const char *file, bool lines, const char *bytes, int64_t size,
                       tr_arena *arena, tr_yaml **out)
{
    parser p = {.file = tr_arena_strdup(arena, file),
                .bytes = bytes,
                .size = size,
                .lines = lines,
                .arena = arena};
    *out = NULL;
    if (size > MOST_BYTES)
        return tr_error_new(TR_USER,
                            "%s: this is too large for a file of settings (%lld bytes, at most %d)",
                            file, (long long)size, MOST_BYTES);
    if (!yaml_parser_initialize(&p.yaml))
        return tr_error_new(TR_RUN, "%s: out of memory while reading it", file);
    yaml_parser_set_input_string(&p.yaml, (const unsigned char *)bytes, (size_t)size);
    tr_error *error = build_document(&p, out);
    yaml_parser_delete(&p.yaml);
    if (!error && !*out) {
        *out = node_new(&p, TR_YAML_SCALAR, (yaml_mark_t){0});
        (*out)->text = "";
    }
    return error;
}

tr_error *tr_yaml_parse(const char *file, const char *bytes, int64_t size, tr_arena *arena,
                        tr_yaml **out)
{
    return parse(file, true, bytes, size, arena, out);
}

tr_error *tr_yaml_parse_word(const char *where, const char *text, tr_arena *arena, tr_yaml **out)
{
    return parse(where, false, text, (int64_t)strlen(text), arena, out);
}

tr_yaml *tr_yaml_scalar(const char *where, const char *text, tr_arena *arena)
{
    parser p = {.file = tr_arena_strdup(arena, where), .arena = arena};
    tr_yaml *node = node_new(&p, TR_YAML_SCALAR, (yaml_mark_t){0});
    node->text = tr_arena_strdup(arena, text);
    return node;
}

tr_error *tr_yaml_read(const char *path, tr_arena *arena, tr_yaml **out)
{
    tr_map map;
    TR_TRY(tr_map_open(path, &map));
    tr_error *error = tr_yaml_parse(path, map.bytes, map.size, arena, out);
    tr_map_close(&map);
    return error;
}

const tr_yaml *tr_yaml_find(const tr_yaml *map, const char *key)
{
    for (int64_t i = 0; map->kind == TR_YAML_MAP && i < map->count; i++)
        if (strcmp(map->items[i]->key, key) == 0)
            return map->items[i];
    return NULL;
}

static bool is_plain(const tr_yaml *node)
{
    return node->kind == TR_YAML_SCALAR && !node->quoted;
}

bool tr_yaml_is_null(const tr_yaml *node)
{
    return is_plain(node) &&
           (!*node->text || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

bool tr_yaml_real(const tr_yaml *node, double *out)
{
    if (!is_plain(node) || !*node->text || node->text[strspn(node->text, "0123456789+-.eE")])
        return false;
    char *end;
    double value = strtod(node->text, &end);
    if (*end || !isfinite(value))
        return false;
    *out = value;
    return true;
}

bool tr_yaml_integer(const tr_yaml *node, int64_t *out)
{
    if (!is_plain(node))
        return false;
    /* Digits, with single underscores between them. */
    char digits[32];
    size_t length = 0;
    const char *c = node->text;
    if (*c == '-' || *c == '+')
        digits[length++] = *c++;
    for (char before = '_'; *c && length + 1 < sizeof digits; before = *c++) {
        if (*c == '_' && before != '_' && c[1])
            continue;
        if (*c < '0' || *c > '9')
            break;
        digits[length++] = *c;
    }
    digits[length] = 0;
    if (!*c) {
        char *end;
        errno = 0;
        long long value = strtoll(digits, &end, 10);
        if (end == digits || *end || errno)
            return false;
        *out = value;
        return true;
    }
    double real;
    if (!tr_yaml_real(node, &real) || fabs(real) > 0x1p53 || real != floor(real))
        return false;
    *out = (int64_t)real;
    return true;
}

bool tr_yaml_bool(const tr_yaml *node, bool *out)
{
    if (!is_plain(node))
        return false;
    *out = strcmp(node->text, "true") == 0;
    return *out || strcmp(node->text, "false") == 0;
}

const char *tr_yaml_describe(const tr_yaml *node, tr_arena *arena)
{
    if (node->kind == TR_YAML_LIST)
        return "a list";
    if (node->kind == TR_YAML_MAP)
        return "a map";
    if (tr_yaml_is_null(node))
        return "nothing";
    size_t length = strlen(node->text);
    return tr_arena_format(arena, "%s'%.*s%s'", node->quoted ? "the text " : "", SHOWN, node->text,
                           length > SHOWN ? "..." : "");
}
