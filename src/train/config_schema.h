/* The table of config keys; shared by config.c, config_check.c and config_text.c. */
#pragma once
#include <stddef.h>

#include "base/memory.h"
#include "base/yaml.h"
#include "train/config.h"

typedef enum tr_key_type {
    KEY_INTEGER,
    KEY_REAL,
    KEY_BOOL,
    KEY_TEXT,
    KEY_CHOICE,
    KEY_SOURCES
} tr_key_type;

typedef struct tr_choice {
    const char *name;
    int value;
} tr_choice;

typedef struct tr_config_key {
    const char *name; /* "section.key" or "key" */
    tr_key_type type;
    size_t offset;            /* of the field in tr_config */
    const char *fallback;     /* the default, as in YAML; NULL: none, or decided by resolve() */
    const char *automatic;    /* the default in words, when fallback is NULL */
    double least, most;       /* of numbers, inclusive ... */
    bool above, below;        /* ... unless these say that the limit itself is out */
    const tr_choice *choices; /* ends with a NULL name */
    bool fixed;               /* a resume cannot change it */
    const char *only_if;      /* "schedule.name=wsd", or "a.b=c|d": has no effect otherwise */
    const char *also;         /* what others call it, between spaces: " learning_rate " */
    const char *help;
} tr_config_key;

extern const tr_config_key tr_config_keys[];
extern const int64_t tr_config_key_count;

/* Where a key's value came from. */
typedef enum tr_origin { FROM_DEFAULT, FROM_PRESET, FROM_FILE, FROM_OVERRIDE } tr_origin;

struct tr_config_own {
    tr_arena *arena;
    tr_origin *origin;     /* of each key */
    const tr_yaml **nodes; /* where each key was given, or NULL */
};

/* Index of a key, -1 when there is none. */
int64_t tr_config_key_find(const char *name);
/* "heads" of "model.heads", for keys that are a size of the model; else NULL. */
const char *tr_config_key_size(const tr_config_key *key);
/* The field of a key. */
void *tr_config_field(const tr_config *config, const tr_config_key *key);
/* The value as YAML on one line: a number, a quoted text, [a, b]; "null" for a text that is not
 * set. */
void tr_config_value(const tr_config *config, const tr_config_key *key, tr_text *out);
/* "0.01", with as many digits as bring the number back. */
void tr_config_real(double value, tr_text *out);
/* Decides what was left open, then checks keys against each other; config_check.c. */
void tr_config_resolve(tr_config *config);
tr_error *tr_config_check(const tr_config *config);
/* What a preset or a checkpoint (`what` in messages) says, where the user said nothing; config.c. */
tr_error *tr_config_take_family(tr_config *config, const char *key, const char *what, int family);
tr_error *tr_config_take_sizes(tr_config *config, const tr_sizes *sizes, const char *where);
/* Sizes from model.from's config.json; config_check.c. */
tr_error *tr_config_read_from(tr_config *config);
