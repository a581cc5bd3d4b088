/* Hugging Face's config.json, both ways: what all families share. Each family reads and writes its own keys. */
#pragma once
#include "base/json.h"
#include "ir/dtype.h"
#include "models/family.h"

/* The family and its sizes, complete, from DIRECTORY/config.json. Refuses what would be computed differently here,
 * naming the key. */
tr_error *tr_hf_config_read(const char *directory, const tr_family **out_family, tr_sizes *out);
/* The same from JSON; `where` stands for the path in messages. */
tr_error *tr_hf_config_parse(const json_t *config, const char *where, const tr_family **out_family, tr_sizes *out);
/* config.json for a model of these sizes; the caller frees. family NULL: a program's own, which claims no family, so
 * that no other program opens it. end_of_text -1: none. labels: names of the classes, or NULL. */
char *tr_hf_config_text(const tr_family *family, const tr_sizes *sizes, tr_dtype dtype, int32_t end_of_text,
                        const char *const *labels);
/* The names of the classes in DIRECTORY/config.json, by number; the caller frees (tr_names_free). */
tr_error *tr_hf_label_names(const char *directory, char ***out, int64_t *out_count);
/* generation_config.json. */
char *tr_hf_generation_text(int32_t end_of_text);
/* The dtype that DIRECTORY/config.json says the weights are in (f32 when it says nothing or f16). */
tr_error *tr_hf_dtype_read(const char *directory, tr_dtype *out);

/* For the families: a size above 0 (what is not there is left as it is); keys that can have one value only; one size
 * that must be a multiple of another. */
tr_error *tr_hf_size(const json_t *config, const char *where, const char *key, tr_need need, int64_t *size);
tr_error *tr_hf_only(const json_t *config, const char *where, const char *key, const char *value);
tr_error *tr_hf_only_bool(const json_t *config, const char *where, const char *key, bool value);
tr_error *tr_hf_multiple(const char *where, const char *key, int64_t size, const char *of_key, int64_t of);
/* Is this the architecture? */
bool tr_hf_is(const json_t *config, const char *architecture);
/* Classes: how many id2label has (2 without it); id2label and label2id, with LABEL_0 and so on for names. */
int64_t tr_hf_labels(const json_t *config);
void tr_hf_labels_write(json_t *config, int64_t count);
/* Adds the keys of an object, which it consumes. */
void tr_hf_pack(json_t *config, json_t *keys_taken);
