/* YAML files as a small tree that remembers where everything stands.
 *
 * What is read is the plain part of YAML: maps with scalar keys, lists, scalars, in block or flow
 * style, one document. Anchors, aliases, tags, a key given twice and a second document are refused:
 * in a file of settings they are mistakes or tricks. Files are at most 1 MB, nesting at most 32
 * deep. Nodes live in the caller's arena. Every refusal is one TR_USER sentence that begins with
 * "file:line:column: ". Scalars are kept as text: what a text means is said by who asks for it.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/memory.h"

typedef enum tr_yaml_kind { TR_YAML_SCALAR, TR_YAML_LIST, TR_YAML_MAP } tr_yaml_kind;

typedef struct tr_yaml {
    tr_yaml_kind kind;
    const char *file;
    int64_t line, column; /* from 1; line 0: the place is `file` alone */
    const char *key;      /* in a map: this item's key, and where it stands */
    int64_t key_line, key_column;
    const char *text; /* of a scalar; holds no NUL */
    bool quoted;      /* so that it is text, whatever it looks like */
    struct tr_yaml **items;
    int64_t count; /* of a list or map */
} tr_yaml;

/* An empty document is an empty plain scalar. `file` is copied. */
tr_error *tr_yaml_read(const char *path, tr_arena *arena, tr_yaml **out);
tr_error *tr_yaml_parse(const char *file, const char *bytes, int64_t size, tr_arena *arena,
                        tr_yaml **out);
/* For texts that have no lines, as a word of the command line: errors begin with "where: ". */
tr_error *tr_yaml_parse_word(const char *where, const char *text, tr_arena *arena, tr_yaml **out);
/* The scalar `text`, taken as it is. */
tr_yaml *tr_yaml_scalar(const char *where, const char *text, tr_arena *arena);

/* The value of a key, NULL when the map has no such key. */
const tr_yaml *tr_yaml_find(const tr_yaml *map, const char *key);

/* A plain scalar that says "nothing": empty, ~ or null. */
bool tr_yaml_is_null(const tr_yaml *node);
/* False when the node is no plain scalar of that form. Whole numbers: 12, -3, 1_000_000, 1e6. Real
 * numbers: finite, decimal. Truth: true or false. */
bool tr_yaml_integer(const tr_yaml *node, int64_t *out);
bool tr_yaml_real(const tr_yaml *node, double *out);
bool tr_yaml_bool(const tr_yaml *node, bool *out);
/* "'text'", "a list" or "a map", for messages. Long texts are cut. */
const char *tr_yaml_describe(const tr_yaml *node, tr_arena *arena);

/* "file:line:column: " and the text, as a TR_USER error of one line. */
tr_error *tr_yaml_error(const tr_yaml *node, const char *format, ...) TR_PRINTF(2, 3);
/* The same with the place of the node's key. */
tr_error *tr_yaml_key_error(const tr_yaml *node, const char *format, ...) TR_PRINTF(2, 3);
