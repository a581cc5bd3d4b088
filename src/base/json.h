/* JSON files: thin glue on jansson, for messages that a user can act on.
 *
 * Loading refuses duplicate keys, invalid UTF-8, nesting deeper than 2048 and NUL characters, and
 * says file, line and column. The getters below read one member of an object; `where` is what their
 * messages begin with, usually the file's name and the object's place in it ("config.json:
 * rope_scaling").
 *
 * An optional member that is missing or null leaves *out as the caller set it. A required one that
 * is missing is an error that suggests the key of the object that is nearest to it. All errors are
 * TR_USER. Strings and containers that a getter returns are borrowed from the object.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

typedef enum tr_need { TR_OPTIONAL, TR_REQUIRED } tr_need;

/* The caller owns *out: json_decref. */
tr_error *tr_json_load(const char *path, json_t **out);
/* The same from memory; `where` stands for the file's name in messages. */
tr_error *tr_json_parse(const char *bytes, int64_t size, const char *where, json_t **out);
/* Indented text with a newline at the end, written atomically; or as a string the caller frees. */
tr_error *tr_json_save(const char *path, const json_t *json);
char *tr_json_text(const json_t *json);

tr_error *tr_json_int(const json_t *object, const char *where, const char *key, tr_need need,
                      int64_t least, int64_t most, int64_t *out);
/* Takes whole numbers too. */
tr_error *tr_json_real(const json_t *object, const char *where, const char *key, tr_need need,
                       double *out);
tr_error *tr_json_bool(const json_t *object, const char *where, const char *key, tr_need need,
                       bool *out);
tr_error *tr_json_string(const json_t *object, const char *where, const char *key, tr_need need,
                         const char **out);
tr_error *tr_json_array(const json_t *object, const char *where, const char *key, tr_need need,
                        const json_t **out);
tr_error *tr_json_object(const json_t *object, const char *where, const char *key, tr_need need,
                         const json_t **out);
/* An error if the object has a key that is none of `keys`, with the nearest one suggested. */
tr_error *tr_json_only_keys(const json_t *object, const char *where, const char *const *keys,
                            int64_t count);
/* "a number", "text", "an object" ... for messages. */
const char *tr_json_kind(const json_t *json);
