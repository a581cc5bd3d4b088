/* GGUF files (version 2 and 3, little-endian): metadata by key, and tensors. docs/formats.md says which tensors
 * are read.
 *
 * Reading by mapping. Nothing of a file is believed: after tr_gguf_open has succeeded every key, string and array lies
 * inside of the file, names are unique, and every tensor's bytes lie in the file. Everything returned is borrowed and
 * lives until tr_gguf_close.
 */
#pragma once
#include "data/safetensors.h"

typedef struct tr_gguf tr_gguf;

/* Not NUL-terminated. */
typedef struct tr_gguf_text {
    const char *bytes;
    int64_t length;
} tr_gguf_text;

typedef enum tr_gguf_kind { TR_GGUF_INT, TR_GGUF_REAL, TR_GGUF_BOOL, TR_GGUF_TEXT, TR_GGUF_ARRAY } tr_gguf_kind;

typedef struct tr_gguf_array {
    tr_gguf_kind kind; /* of its elements */
    int64_t count;
    int type; /* the file's number of it */
    const char *bytes;
    const int64_t *offsets; /* of texts */
} tr_gguf_array;

bool tr_path_is_gguf(const char *path); /* by its name */
tr_error *tr_gguf_open(const char *path, tr_gguf **out);
/* Bytes that the caller keeps alive; `where` stands for the path in messages. */
tr_error *tr_gguf_parse(const void *bytes, int64_t size, const char *where, tr_gguf **out);
void tr_gguf_close(tr_gguf *file); /* NULL is fine */

/* False when the key is not there or of another kind; *out is left as it is then. Integers of any width, floats of
 * both; a number that does not fit in int64 is not there. */
bool tr_gguf_string(const tr_gguf *file, const char *key, tr_gguf_text *out);
bool tr_gguf_int(const tr_gguf *file, const char *key, int64_t *out);
bool tr_gguf_real(const tr_gguf *file, const char *key, double *out);
bool tr_gguf_bool(const tr_gguf *file, const char *key, bool *out);
bool tr_gguf_array_find(const tr_gguf *file, const char *key, tr_gguf_array *out);
/* Element i, 0 <= i < count, of an array of that kind. */
tr_gguf_text tr_gguf_array_text(const tr_gguf_array *array, int64_t i);
int64_t tr_gguf_array_int(const tr_gguf_array *array, int64_t i);
double tr_gguf_array_real(const tr_gguf_array *array, int64_t i);

/* The tensors, quantised ones as f32 that are made when they are read (tr_stored_read). Of which types: gguf_block.c;
 * another one is an error that names it. Dims are outermost first, as everywhere here. The caller frees the array. */
tr_error *tr_gguf_tensors(const tr_gguf *file, tr_stored **out, int64_t *out_count);
