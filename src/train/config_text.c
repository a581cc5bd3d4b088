/* A config written: as YAML that reads back to the same config, as JSON, as the help of the keys.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/objective.h"
#include "train/config_schema.h"

void tr_config_real(double value, tr_text *out)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    tr_text_format(out, "%s", text);
}

static const char *choice_name(const tr_config_key *key, int value)
{
    for (const tr_choice *choice = key->choices; choice->name; choice++)
        if (choice->value == value)
            return choice->name;
    TR_CHECK(false, "%s has no value %d", key->name, value);
    return NULL;
}

/* Letters that a plain YAML scalar can consist of, whatever they spell. */
static bool is_plain_text(const char *text)
{
    return text[strspn(
               text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")] == 0 &&
           text[0] != '-' && text[0] != '.' && strcmp(text, "null") != 0;
}

/* One character of valid UTF-8; returns its length. */
static int decode(const unsigned char *text, uint32_t *out)
{
    int more = text[0] < 0x80 ? 0 : text[0] < 0xe0 ? 1 : text[0] < 0xf0 ? 2 : 3;
    *out = more ? text[0] & (0x3fu >> more) : text[0];
    for (int i = 1; i <= more; i++)
        *out = *out << 6 | (text[i] & 0x3f);
    return more + 1;
}

static void add_text(const char *text, tr_text *out)
{
    if (is_plain_text(text)) {
        tr_text_format(out, "%s", text);
        return;
    }
    tr_text_format(out, "\"");
    while (*text) {
        uint32_t c;
        int length = decode((const unsigned char *)text, &c);
        if (c == '"' || c == '\\')
            tr_text_format(out, "\\%c", (char)c);
        else if (c == '\n')
            tr_text_format(out, "\\n");
        else if (c < 0x20 || (c >= 0x7f && c <= 0xa0))
            tr_text_format(out, "\\x%02x", (unsigned)c);
        else if (c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff)
            tr_text_format(out, "\\u%04x",
                           (unsigned)c); /* what YAML takes for a break or refuses */
        else
            tr_text_add(out, text, (size_t)length);
        text += length;
    }
    tr_text_format(out, "\"");
}

static void add_sources(const tr_sources *sources, tr_text *out)
{
    tr_text_format(out, "[");
    for (int64_t i = 0; i < sources->count; i++) {
        const tr_source *source = &sources->items[i];
        tr_text_format(out, "%s%s", i ? ", " : "", source->weight == 1 ? "" : "{path: ");
        add_text(source->path, out);
        if (source->weight == 1)
            continue;
        tr_text_format(out, ", weight: ");
        tr_config_real(source->weight, out);
        tr_text_format(out, "}");
    }
    tr_text_format(out, "]");
}

/* A text or list that is not set. */
/* A size that the family does not have, or that a program's own model does not use. */
static bool has_no_size(const tr_config *config, const tr_config_key *key)
{
    const char *size = tr_config_key_size(key);
    const void *field = tr_config_field(config, key);
    bool custom = config->model.family == TR_FAMILY_CUSTOM;
    if (!size)
        return false;
    if (!custom && !tr_family_has(tr_families[config->model.family], size))
        return true;
    return (key->type == KEY_INTEGER && key->least > 0 && *(const int64_t *)field == 0) ||
           (key->type == KEY_REAL && key->above && *(const double *)field == 0);
}

static bool is_unset(const tr_config *config, const tr_config_key *key)
{
    if (has_no_size(config, key))
        return true;
    const void *field = tr_config_field(config, key);
    if (key->type == KEY_TEXT)
        return !*(const char *const *)field;
    return key->type == KEY_SOURCES && !((const tr_sources *)field)->count;
}

void tr_config_value(const tr_config *config, const tr_config_key *key, tr_text *out)
{
    const void *field = tr_config_field(config, key);
    if (is_unset(config, key)) {
        tr_text_format(out, "null");
        return;
    }
    switch (key->type) {
    case KEY_INTEGER:
        tr_text_format(out, "%lld", (long long)*(const int64_t *)field);
        break;
    case KEY_REAL:
        tr_config_real(*(const double *)field, out);
        break;
    case KEY_BOOL:
        tr_text_format(out, "%s", *(const bool *)field ? "true" : "false");
        break;
    case KEY_CHOICE:
        tr_text_format(out, "%s", choice_name(key, *(const int *)field));
        break;
    case KEY_SOURCES:
        add_sources(field, out);
        break;
    case KEY_TEXT:
        add_text(*(const char *const *)field, out);
        break;
    }
}

/* Length of the section's name in "section.key", 0 for a key at the top. */
static size_t section_length(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? (size_t)(dot - name) : 0;
}

/* True when key k begins a section. */
static bool begins_section(int64_t k)
{
    const char *name = tr_config_keys[k].name;
    size_t length = section_length(name);
    return length && (k == 0 || strncmp(tr_config_keys[k - 1].name, name, length + 1) != 0);
}

char *tr_config_text(const tr_config *config)
{
    tr_text out = {0};
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        size_t section = section_length(key->name);
        if (begins_section(k))
            tr_text_format(&out, "%.*s:\n", (int)section, key->name);
        if (is_unset(config, key))
            continue;
        tr_text_format(&out, "%s%s: ", section ? "  " : "",
                       key->name + (section ? section + 1 : 0));
        tr_config_value(config, key, &out);
        tr_text_format(&out, "\n");
    }
    return out.bytes;
}

static json_t *json_sources(const tr_sources *sources)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < sources->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f}", "path", sources->items[i].path,
                                              "weight", sources->items[i].weight));
    return list;
}

static json_t *json_value(const tr_config *config, const tr_config_key *key)
{
    const void *field = tr_config_field(config, key);
    if (is_unset(config, key))
        return json_null();
    switch (key->type) {
    case KEY_INTEGER:
        return json_integer(*(const int64_t *)field);
    case KEY_REAL:
        return json_real(*(const double *)field);
    case KEY_BOOL:
        return json_boolean(*(const bool *)field);
    case KEY_CHOICE:
        return json_string(choice_name(key, *(const int *)field));
    case KEY_SOURCES:
        return json_sources(field);
    case KEY_TEXT:
        return json_string(*(const char *const *)field);
    }
    return json_null();
}

json_t *tr_config_json(const tr_config *config)
{
    json_t *root = json_object(), *section = NULL;
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        size_t length = section_length(key->name);
        if (begins_section(k)) {
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)length, key->name);
            section = json_object();
            json_object_set_new(root, name, section);
        }
        if (has_no_size(config, key))
            continue;
        json_object_set_new(length ? section : root, key->name + (length ? length + 1 : 0),
                            json_value(config, key));
    }
    return root;
}

/* Adds `text`, broken at spaces so that lines end before column 96, and a line break. */
static void add_wrapped(const char *text, int indent, int column, tr_text *out)
{
    const char *gap = "";
    while (*text) {
        int word = (int)strcspn(text, " ");
        column += (int)strlen(gap) + word;
        if (column > 96) {
            tr_text_format(out, "\n%*s", indent, "");
            column = indent + word;
            gap = "";
        }
        tr_text_format(out, "%s%.*s", gap, word, text);
        text += word + (text[word] == ' ');
        gap = " ";
    }
    tr_text_format(out, "\n");
}

static void help_values(const tr_config_key *key, tr_text *out)
{
    switch (key->type) {
    case KEY_INTEGER:
    case KEY_REAL:
        tr_text_format(out, key->type == KEY_INTEGER ? "whole number " : "number ");
        tr_text_format(out, "%s %.15g", key->above ? "above" : "from", key->least);
        if (key->most < 1e6)
            tr_text_format(out, " %s %.15g", key->below ? "to below" : "to", key->most);
        break;
    case KEY_BOOL:
        tr_text_format(out, "true or false");
        break;
    case KEY_CHOICE:
        for (const tr_choice *choice = key->choices; choice->name; choice++)
            tr_text_format(out, "%s%s", choice == key->choices ? "" : ", ", choice->name);
        break;
    case KEY_SOURCES:
        tr_text_format(out, "path or list");
        break;
    case KEY_TEXT:
        tr_text_format(out, "text");
        break;
    }
}

/* Which families have a size, unless all have. */
static void help_families(const tr_config_key *key, tr_text *out)
{
    const char *size = tr_config_key_size(key);
    int having = 0;
    for (int f = 0; f < TR_FAMILY_COUNT && size; f++)
        having += tr_family_has(tr_families[f], size);
    if (!size || having == TR_FAMILY_COUNT)
        return;
    tr_text_format(out, "; of");
    for (int f = 0, k = 0; f < TR_FAMILY_COUNT; f++)
        if (tr_family_has(tr_families[f], size))
            tr_text_format(out, "%s%s", k++ ? ", " : " ", tr_families[f]->name);
}

char *tr_config_help(void)
{
    tr_text out = {0};
    tr_text_format(
        &out,
        "The keys of a config. In a file, `train.steps` is `steps:` under `train:`; after the "
        "file's\nname on the command line it is `train.steps=1000`.\n");
    for (int64_t k = 0; k < tr_config_key_count; k++) {
        const tr_config_key *key = &tr_config_keys[k];
        const char *fallback = key->fallback ? key->fallback : key->automatic;
        if (begins_section(k) || (k && !section_length(key->name) && section_length(key[-1].name)))
            tr_text_format(&out, "\n");
        tr_text values = {0};
        help_values(key, &values);
        if (fallback)
            tr_text_format(&values, "; default: %s", fallback);
        if (key->only_if)
            tr_text_format(&values, "; only with %s", key->only_if);
        help_families(key, &values);
        tr_text_format(&out, "  %-24s ", key->name);
        add_wrapped(key->help, 27, 27, &out);
        tr_text_format(&out, "%29s", "");
        add_wrapped(values.bytes, 29, 29, &out);
        tr_text_free(&values);
    }
    return out.bytes;
}

tr_sizes tr_config_sizes(const tr_config *c)
{
    tr_sizes sizes = c->model.sizes;
    if (!c->model.banded)
        sizes.band = 0;
    sizes.label_parts = c->data.mixup > 0 ? TR_LABEL_PARTS : 0;
    return sizes;
}

const char *tr_family_name(int family)
{
    return choice_name(&tr_config_keys[tr_config_key_find("model.family")], family);
}
