/* Reading a config: the tree of a YAML file, then the overrides, are applied key by key.
 *
 * Invariant: own->nodes[k] is where key k was given (NULL: nowhere), own->origin[k] what decided
 * its value. Everything lives in own->arena. Checks between keys are in config_check.c.
 */
#include "train/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/suggest.h"
#include "train/config_schema.h"

static tr_config *config_new(void)
{
    tr_arena *arena = tr_arena_new();
    tr_config *config = tr_arena_alloc(arena, sizeof *config);
    config->own = tr_arena_alloc(arena, sizeof *config->own);
    config->own->arena = arena;
    config->own->origin = tr_arena_alloc(arena, (size_t)tr_config_key_count * sizeof(tr_origin));
    config->own->nodes = tr_arena_alloc(arena, (size_t)tr_config_key_count * sizeof(tr_yaml *));
    return config;
}

void tr_config_free(tr_config *config)
{
    if (config)
        tr_arena_free(config->own->arena);
}

/* "at least 1", "above 0 and below 1" ... */
static const char *limits(const tr_config_key *key, tr_arena *arena)
{
    const char *low = key->above ? "above" : "of at least",
               *high = key->below ? "below" : "at most";
    if (key->most >= 1e6)
        return tr_arena_format(arena, "%s %.15g", low, key->least);
    return tr_arena_format(arena, "%s %.15g and %s %.15g", low, key->least, high, key->most);
}

static tr_error *wrong_number(const tr_config_key *key, const tr_yaml *node, tr_arena *arena)
{
    return tr_yaml_error(node, "%s must be a %s %s, not %s", key->name,
                         key->type == KEY_INTEGER ? "whole number" : "number", limits(key, arena),
                         tr_yaml_describe(node, arena));
}

static tr_error *check_limits(const tr_config_key *key, double value, const tr_yaml *node,
                              tr_arena *arena)
{
    if (value < key->least || (key->above && value == key->least))
        return wrong_number(key, node, arena);
    if (value > key->most || (key->below && value == key->most))
        return key->most < 1e6 ? wrong_number(key, node, arena)
                               : tr_yaml_error(node, "%s must be at most %.15g, not %s", key->name,
                                               key->most, tr_yaml_describe(node, arena));
    return NULL;
}

static tr_error *set_choice(const tr_config_key *key, const tr_yaml *node, int *field,
                            tr_arena *arena)
{
    tr_text list = {0};
    const char *names[16];
    int64_t count = 0;
    for (; key->choices[count].name; count++) {
        names[count] = key->choices[count].name;
        bool last = count && !key->choices[count + 1].name;
        tr_text_format(&list, "%s%s", !count ? "" : last ? " or " : ", ", names[count]);
        if (node->kind == TR_YAML_SCALAR && strcmp(node->text, names[count]) == 0) {
            *field = key->choices[count].value;
            tr_text_free(&list);
            return NULL;
        }
    }
    /* With two or three names the list says it all. */
    const char *near =
        node->kind == TR_YAML_SCALAR && count > 3 ? tr_suggest(node->text, names, count) : NULL;
    tr_error *error = tr_yaml_error(node, "%s must be %s, not %s%s%s%s", key->name, list.bytes,
                                    tr_yaml_describe(node, arena), near ? "; did you mean " : "",
                                    near ? near : "", near ? "?" : "");
    tr_text_free(&list);
    return error;
}

static tr_error *set_text(const char *name, const tr_yaml *node, const char **field,
                          tr_arena *arena)
{
    if (node->kind != TR_YAML_SCALAR)
        return tr_yaml_error(node, "%s must be one text, not %s", name,
                             tr_yaml_describe(node, arena));
    if (!*node->text)
        return tr_yaml_error(node, "%s must not be empty", name);
    *field = node->text;
    return NULL;
}

/* "path", or {path: P, weight: W}. */
static tr_error *set_source(const char *name, const tr_yaml *node, tr_source *out, tr_arena *arena)
{
    *out = (tr_source){.weight = 1};
    if (node->kind == TR_YAML_LIST)
        return tr_yaml_error(
            node, "an item of %s must be a path or {path: P, weight: W}, not a list", name);
    if (node->kind == TR_YAML_SCALAR)
        return set_text(name, node, &out->path, arena);
    for (int64_t i = 0; i < node->count; i++) {
        const tr_yaml *item = node->items[i];
        if (strcmp(item->key, "path") == 0) {
            TR_TRY(set_text(tr_arena_format(arena, "%s.path", name), item, &out->path, arena));
        } else if (strcmp(item->key, "weight") == 0) {
            if (!tr_yaml_real(item, &out->weight) || !(out->weight > 0) || out->weight > 1e9)
                return tr_yaml_error(item, "a weight in %s must be a number above 0, not %s", name,
                                     tr_yaml_describe(item, arena));
        } else {
            static const char *const keys[] = {"path", "weight"};
            const char *near = tr_suggest(item->key, keys, 2);
            return tr_yaml_key_error(
                item, "an item of %s has the keys path and weight, not '%.60s'%s%s%s", name,
                item->key, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
    }
    if (!out->path)
        return tr_yaml_error(node, "an item of %s has no path; write {path: P, weight: W}", name);
    return NULL;
}

static tr_error *set_sources(const tr_config_key *key, const tr_yaml *node, tr_sources *field,
                             tr_arena *arena)
{
    bool is_list = node->kind == TR_YAML_LIST;
    int64_t count = is_list ? node->count : 1;
    if (!count)
        return tr_yaml_error(node, "%s must name at least one file, not an empty list", key->name);
    tr_source *items = tr_arena_alloc(arena, (size_t)count * sizeof *items);
    for (int64_t i = 0; i < count; i++)
        TR_TRY(set_source(key->name, is_list ? node->items[i] : node, &items[i], arena));
    *field = (tr_sources){items, count};
    return NULL;
}

static tr_error *set(tr_config *config, const tr_config_key *key, const tr_yaml *node)
{
    tr_arena *arena = config->own->arena;
    void *field = tr_config_field(config, key);
    int64_t integer;
    double real;
    switch (key->type) {
    case KEY_INTEGER:
        if (!tr_yaml_integer(node, &integer))
            return wrong_number(key, node, arena);
        TR_TRY(check_limits(key, (double)integer, node, arena));
        *(int64_t *)field = integer;
        return NULL;
    case KEY_REAL:
        if (!tr_yaml_real(node, &real))
            return wrong_number(key, node, arena);
        TR_TRY(check_limits(key, real, node, arena));
        *(double *)field = real;
        return NULL;
    case KEY_BOOL:
        if (!tr_yaml_bool(node, field))
            return tr_yaml_error(node, "%s must be true or false, not %s", key->name,
                                 tr_yaml_describe(node, arena));
        return NULL;
    case KEY_CHOICE:
        return set_choice(key, node, field, arena);
    case KEY_SOURCES:
        return set_sources(key, node, field, arena);
    case KEY_TEXT:
        return set_text(key->name, node, field, arena);
    }
    return NULL;
}

static size_t size_of(const tr_config_key *key)
{
    static const size_t sizes[] = {
        [KEY_INTEGER] = sizeof(int64_t), [KEY_REAL] = sizeof(double), [KEY_BOOL] = sizeof(bool),
        [KEY_TEXT] = sizeof(char *),     [KEY_CHOICE] = sizeof(int),  [KEY_SOURCES] = sizeof(tr_sources),
    };
    return sizes[key->type];
}

static tr_error *set_default(tr_config *config, int64_t k)
{
    const tr_config_key *key = &tr_config_keys[k];
    config->own->origin[k] = FROM_DEFAULT;
    config->own->nodes[k] = NULL;
    memset(tr_config_field(config, key), 0, size_of(key));
    if (!key->fallback)
        return NULL;
    return set(config, key, tr_yaml_scalar("default", key->fallback, config->own->arena));
}

static tr_error *apply_key(tr_config *config, int64_t k, const tr_yaml *node, tr_origin origin)
{
    const tr_config_key *key = &tr_config_keys[k];
    const tr_yaml *before = config->own->nodes[k];
    if (before && origin == FROM_FILE)
        return tr_yaml_key_error(node, "%s is given twice, first at line %lld", key->name,
                                 (long long)before->line);
    if (tr_yaml_is_null(node)) {
        if (!*node->text)
            return tr_yaml_error(
                node, "%s has no value; leave the key out, or write null, for the default",
                key->name);
        return set_default(config, k);
    }
    TR_TRY(set(config, key, node));
    config->own->origin[k] = origin;
    config->own->nodes[k] = node;
    return NULL;
}

static bool in_section(const char *name, const char *section, size_t length)
{
    return strncmp(name, section, length) == 0 && name[length] == '.' && length;
}

static bool is_section(const char *name)
{
    for (int64_t i = 0; i < tr_config_key_count; i++)
        if (in_section(tr_config_keys[i].name, name, strlen(name)))
            return true;
    return false;
}

/* "steps, batch, ...": what a section holds; with NULL the sections and the keys outside of them.
 */
static void list_keys(const char *section, tr_text *out)
{
    size_t length = section ? strlen(section) : 0, before_length = 0;
    const char *before = "";
    for (int64_t i = 0; i < tr_config_key_count; i++) {
        const char *name = tr_config_keys[i].name;
        size_t part = strcspn(name, ".");
        if (section && in_section(name, section, length))
            tr_text_format(out, "%s%s", out->length ? ", " : "", name + length + 1);
        else if (!section && (part != before_length || strncmp(name, before, part) != 0))
            tr_text_format(out, "%s%.*s", out->length ? ", " : "", (int)part, name);
        before = name;
        before_length = part;
    }
}

static const char *nearest_section(const char *name, tr_arena *arena)
{
    const char **names = tr_arena_alloc(arena, (size_t)tr_config_key_count * sizeof *names);
    int64_t count = 0;
    for (int64_t i = 0; i < tr_config_key_count; i++) {
        const char *full = tr_config_keys[i].name;
        size_t length = strcspn(full, ".");
        if (full[length] && (!count || strncmp(names[count - 1], full, length) != 0))
            names[count++] = tr_arena_format(arena, "%.*s", (int)length, full);
    }
    return tr_suggest(name, names, count);
}

/* The key that was probably meant by `name` ("section.key" or "key"), or NULL. */
static const char *nearest_key(const char *name, tr_arena *arena)
{
    const char *dot = strrchr(name, '.'), *leaf = dot ? dot + 1 : name;
    size_t section = dot ? (size_t)(dot - name) : 0;
    const char **names = tr_arena_alloc(arena, (size_t)tr_config_key_count * sizeof *names);
    const char **leaves = tr_arena_alloc(arena, (size_t)tr_config_key_count * sizeof *leaves);
    int64_t count = 0;
    /* A misspelling in its section, the right word in a wrong section, a misspelling of the whole.
     */
    for (int64_t i = 0; i < tr_config_key_count; i++) {
        const char *full = tr_config_keys[i].name;
        if (!in_section(full, name, section))
            continue;
        names[count] = full;
        leaves[count++] = full + section + 1;
    }
    const char *near = count ? tr_suggest(leaf, leaves, count) : NULL;
    for (int64_t i = 0; near && i < count; i++)
        if (leaves[i] == near)
            return names[i];
    for (int64_t i = 0; i < tr_config_key_count; i++) {
        const char *full = tr_config_keys[i].name, *its_dot = strrchr(full, '.');
        if (strcmp(its_dot ? its_dot + 1 : full, leaf) == 0)
            return full;
        names[i] = full;
        leaves[i] = its_dot ? its_dot + 1 : full;
    }
    char *word = tr_arena_format(arena, " %s ", leaf);
    for (int64_t i = 0; i < tr_config_key_count; i++)
        if (tr_config_keys[i].also && strstr(tr_config_keys[i].also, word))
            return names[i];
    near = section ? NULL : nearest_section(name, arena);
    if (near)
        return near;
    near = tr_suggest(name, names, tr_config_key_count);
    if (near)
        return near;
    near = tr_suggest(leaf, leaves, tr_config_key_count);
    for (int64_t i = 0; near && i < tr_config_key_count; i++)
        if (leaves[i] == near)
            return names[i];
    return NULL;
}

static tr_error *unknown_key(const tr_yaml *node, const char *name, tr_arena *arena)
{
    const char *dot = strrchr(name, '.');
    char *section = dot ? tr_arena_format(arena, "%.*s", (int)(dot - name), name) : NULL;
    const char *near = nearest_key(name, arena);
    if (section && !is_section(section))
        section = NULL;
    tr_text list = {0};
    list_keys(section, &list);
    tr_error *error =
        tr_yaml_key_error(node, "there is no key '%.80s'%s%s%s; valid %s%s are: %s", name,
                          near ? " (did you mean " : "", near ? near : "", near ? "?)" : "",
                          section ? "in " : "at the top", section ? section : "", list.bytes);
    tr_text_free(&list);
    return error;
}

/* `name` is "train", "train.steps" or "seed"; the value is a section's map or a key's value. */
static tr_error *apply(tr_config *config, const char *name, const tr_yaml *node, tr_origin origin)
{
    tr_arena *arena = config->own->arena;
    int64_t k = tr_config_key_find(name);
    if (k >= 0)
        return apply_key(config, k, node, origin);
    if (!is_section(name))
        return unknown_key(node, name, arena);
    if (tr_yaml_is_null(node))
        return NULL; /* a section whose keys are all commented out */
    if (node->kind != TR_YAML_MAP) {
        tr_text list = {0};
        list_keys(name, &list);
        tr_error *error = tr_yaml_error(node, "%s is a section with the keys %s, not %s", name,
                                        list.bytes, tr_yaml_describe(node, arena));
        tr_text_free(&list);
        return error;
    }
    for (int64_t i = 0; i < node->count; i++)
        TR_TRY(apply(config, tr_arena_format(arena, "%s.%s", name, node->items[i]->key),
                     node->items[i], origin));
    return NULL;
}

static tr_error *apply_file(tr_config *config, const tr_yaml *root)
{
    if (tr_yaml_is_null(root))
        return NULL;
    if (root->kind != TR_YAML_MAP)
        return tr_yaml_error(root, "a config is a map of keys like `train:`, not %s",
                             tr_yaml_describe(root, config->own->arena));
    for (int64_t i = 0; i < root->count; i++)
        TR_TRY(apply(config, root->items[i]->key, root->items[i], FROM_FILE));
    return NULL;
}

static tr_error *apply_override(tr_config *config, const char *word)
{
    tr_arena *arena = config->own->arena;
    const char *equals = strchr(word, '=');
    const char *where = tr_arena_format(arena, "%.100s", word);
    tr_yaml *node = tr_yaml_scalar(where, equals ? equals + 1 : "", arena);
    if (!equals || equals == word)
        return tr_yaml_error(node, "an override is written key=value, e.g. train.steps=1000");
    json_t *utf8 = json_string(word);
    if (!utf8)
        return tr_yaml_error(node, "an override must be valid UTF-8");
    json_decref(utf8);
    if (strchr("[{\"'", *node->text) && *node->text)
        TR_TRY(tr_yaml_parse_word(where, equals + 1, arena, &node));
    return apply(config, tr_arena_format(arena, "%.*s", (int)(equals - word), word), node,
                 FROM_OVERRIDE);
}

/* The family that a preset or a checkpoint is of; one that was given must be the same. */
tr_error *tr_config_take_family(tr_config *config, const char *key, const char *what, int family)
{
    int64_t k = tr_config_key_find("model.family");
    if (config->own->origin[k] >= FROM_FILE && config->model.family != family)
        return tr_config_error(config, key, "%s is of the family %s and model.family is %s; leave one of them out", what,
                               tr_family_name(family), tr_family_name(config->model.family));
    config->model.family = family;
    if (config->own->origin[k] == FROM_DEFAULT)
        config->own->origin[k] = FROM_PRESET;
    return NULL;
}

tr_error *tr_config_take_sizes(tr_config *config, const tr_sizes *sizes, const char *where)
{
    static const char zeros[16];
    tr_arena *arena = config->own->arena;
    tr_config taken = {.model = {.sizes = *sizes}};
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        bool is_size = tr_config_key_size(key) && key->offset >= offsetof(tr_config, model.sizes) &&
                       key->offset < offsetof(tr_config, model.sizes) + sizeof *sizes;
        const void *from = tr_config_field(&taken, key);
        if (!is_size || config->own->origin[k] != FROM_DEFAULT || memcmp(from, zeros, size_of(key)) == 0)
            continue;
        config->own->origin[k] = FROM_PRESET;
        config->own->nodes[k] = tr_yaml_scalar(where, "", arena);
        memcpy(tr_config_field(config, key), from, size_of(key));
    }
    return NULL;
}

static tr_error *apply_preset(tr_config *config)
{
    const char *name = config->model.preset;
    int family;
    if (!name)
        return NULL;
    const tr_preset *preset = tr_preset_find(name, &family);
    if (!preset) {
        const char *near = tr_preset_suggest(name);
        char *list = tr_preset_names(NULL);
        tr_error *error = tr_config_error(
            config, "model.preset", "there is no preset '%.60s'%s%s%s; valid are: %s", name,
            near ? " (did you mean " : "", near ? near : "", near ? "?)" : "", list);
        free(list);
        return error;
    }
    config->model.preset = preset->name;
    const char *where = tr_arena_format(config->own->arena, "model.preset %s", preset->name);
    TR_TRY(tr_config_take_family(config, "model.preset", where, family));
    return tr_config_take_sizes(config, &preset->sizes, where);
}

/* "runs/gpt2-small" for "examples/gpt2-small.yaml". */
static const char *default_out(const char *path, tr_arena *arena)
{
    const char *slash = path ? strrchr(path, '/') : NULL, *name = slash ? slash + 1 : path;
    if (!name || !*name)
        return "runs/default";
    const char *dot = strrchr(name, '.');
    size_t length = dot && dot != name ? (size_t)(dot - name) : strlen(name);
    return tr_arena_format(arena, "runs/%.*s", (int)length, name);
}

/* Consumes `config`. `path` names the run; `root` may be NULL. */
static tr_error *finish(tr_config *config, const char *path, const tr_yaml *root,
                        char *const *overrides, int n_overrides, bool read_from, tr_config **out)
{
    tr_error *error = NULL;
    for (int64_t k = 0; k < tr_config_key_count; k++)
        TR_GO(set_default(config, k));
    if (root)
        TR_GO(apply_file(config, root));
    for (int i = 0; i < n_overrides; i++)
        TR_GO(apply_override(config, overrides[i]));
    TR_GO(apply_preset(config));
    if (config->model.from && read_from)
        TR_GO(tr_config_read_from(config));
    if (!config->out)
        config->out = default_out(path, config->own->arena);
    tr_config_resolve(config);
    TR_GO(tr_config_check(config));
    *out = config;
    return NULL;
done:
    tr_config_free(config);
    return error;
}

/* The file is missing: say so, with the nearest name in its directory. */
static tr_error *missing(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *directory = slash ? tr_strndup(path, (size_t)(slash - path) + 1) : tr_strdup("./");
    char **names = NULL;
    int64_t count = 0;
    tr_error_free(tr_directory_list(directory, &names, &count));
    const char *near = tr_suggest(name, (const char *const *)names, count);
    tr_error *error = tr_error_new(TR_USER, "there is no config file '%s'%s%s%s%s", path,
                                   near ? "; did you mean " : "", near && slash ? directory : "",
                                   near ? near : "", near ? "?" : "");
    tr_names_free(names, count);
    free(directory);
    return error;
}

static tr_error *load(const char *path, char *const *overrides, int n_overrides, bool read_from,
                      tr_config **out)
{
    *out = NULL;
    tr_yaml *root = NULL;
    if (path && !tr_path_exists(path))
        return missing(path);
    if (path && tr_path_is_directory(path))
        return tr_error_new(TR_USER,
                            "'%s' is a directory, not a config file; to go on with a run use "
                            "`trireme train --resume %s`",
                            path, path);
    tr_config *config = config_new();
    tr_error *error = path ? tr_yaml_read(path, config->own->arena, &root) : NULL;
    if (error) {
        tr_config_free(config);
        return error;
    }
    return finish(config, path, root, overrides, n_overrides, read_from, out);
}

tr_error *tr_config_load(const char *path, char *const *overrides, int n_overrides, tr_config **out)
{
    return load(path, overrides, n_overrides, true, out);
}

tr_error *tr_config_parse(const char *name, const char *bytes, int64_t size, char *const *overrides,
                          int n_overrides, tr_config **out)
{
    *out = NULL;
    tr_config *config = config_new();
    tr_yaml *root;
    tr_error *error = tr_yaml_parse(name, bytes, size, config->own->arena, &root);
    if (error) {
        tr_config_free(config);
        return error;
    }
    return finish(config, name, root, overrides, n_overrides, true, out);
}

/* Keys that the checkpoint depends on must be as they were. */
static tr_error *check_fixed(const tr_config *before, const tr_config *now)
{
    tr_error *error = NULL;
    for (int64_t k = 0; k < tr_config_key_count && !error; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        tr_text a = {0}, b = {0};
        tr_config_value(before, key, &a);
        tr_config_value(now, key, &b);
        if (key->fixed && strcmp(a.bytes, b.bytes) != 0)
            error = tr_config_error(
                now, key->name,
                "%s was %s when the run began and cannot become %s; start a new run", key->name,
                a.bytes, b.bytes);
        tr_text_free(&a);
        tr_text_free(&b);
    }
    return error;
}

tr_error *tr_config_load_run(const char *directory, char *const *overrides, int n_overrides,
                             tr_config **out)
{
    *out = NULL;
    tr_config *before = NULL, *now = NULL;
    char *path = tr_path_join(directory, TR_CONFIG_NAME);
    tr_error *error = NULL;
    if (!tr_path_is_directory(directory)) {
        error = tr_error_new(TR_USER, "there is no run's directory '%s'", directory);
        goto done;
    }
    if (!tr_path_exists(path)) {
        error = tr_error_new(TR_USER, "'%s' is not a run of `trireme train`: it has no %s",
                             directory, TR_CONFIG_NAME);
        goto done;
    }
    TR_GO(load(path, NULL, 0, false, &before));
    TR_GO(load(path, overrides, n_overrides, false, &now));
    TR_GO(check_fixed(before, now));
    if (now->own->origin[tr_config_key_find("out")] == FROM_OVERRIDE) {
        error = tr_config_error(now, "out", "a resumed run stays where it is; move '%s' instead",
                                directory);
        goto done;
    }
    now->out = tr_arena_strdup(now->own->arena, directory);
    *out = now;
    now = NULL;
done:
    tr_config_free(before);
    tr_config_free(now);
    free(path);
    return error;
}

bool tr_config_given(const tr_config *config, const char *key)
{
    int64_t k = tr_config_key_find(key);
    TR_CHECK(k >= 0, "no config key '%s'", key);
    return config->own->origin[k] >= FROM_FILE;
}

tr_error *tr_config_error(const tr_config *config, const char *key, const char *format, ...)
{
    int64_t k = tr_config_key_find(key);
    TR_CHECK(k >= 0, "no config key '%s'", key);
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const tr_yaml *node = config->own->nodes[k];
    return node ? tr_yaml_error(node, "%s", text) : tr_error_new(TR_USER, "%s", text);
}
