/* Labelled texts; see labelled.h. */
#include "data/labelled.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "data/shard.h"

/* Reading ------------------------------------------------------------------------------------------ */

static tr_error *take_text(const json_t *object, const char *where, const char *key, tr_need need, char **out, int64_t *out_length)
{
    const char *text = NULL;
    TR_TRY(tr_json_string(object, where, key, need, &text));
    *out = text ? tr_strdup(text) : NULL;
    *out_length = text ? (int64_t)strlen(text) : 0;
    return NULL;
}

static tr_error *take_label(const json_t *object, const char *where, tr_labelled_text *t)
{
    const json_t *label = json_object_get(object, "label");
    t->label = -1;
    if (json_is_string(label))
        t->name = tr_strdup(json_string_value(label));
    else if (json_is_integer(label) && json_integer_value(label) >= 0)
        t->label = json_integer_value(label);
    else if (label && !json_is_null(label))
        return tr_error_new(TR_USER, "%s: the label must be a text or a whole number from 0 on, not %s", where, tr_json_kind(label));
    return NULL;
}

static tr_error *read_line(tr_labelled *l, const char *path, int64_t line, const char *bytes, int64_t length)
{
    json_t *object = NULL;
    char *where = tr_format("%s:%lld", path, (long long)line);
    tr_labelled_text t = {.line = line, .path = path};
    tr_error *error = NULL;
    TR_GO(tr_json_parse(bytes, length, where, &object));
    if (!json_is_object(object))
        TR_GO(tr_error_new(TR_USER, "%s: expected an object like {\"text\": ..., \"label\": ...}", where));
    TR_GO(take_text(object, where, "text", TR_REQUIRED, &t.text, &t.length));
    TR_GO(take_text(object, where, "pair", TR_OPTIONAL, &t.pair, &t.pair_length));
    TR_GO(take_label(object, where, &t));
done:
    tr_push(l->items, l->count, l->room) = t; /* freed with the others */
    json_decref(object);
    free(where);
    return error;
}

static tr_error *read_file(tr_labelled *l, const char *path)
{
    tr_map map;
    tr_error *error = NULL;
    TR_TRY(tr_map_open(path, &map));
    const char *at = map.bytes, *end = map.bytes + map.size;
    for (int64_t line = 1; at < end && !error; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        int64_t length = stop - at;
        length -= length && at[length - 1] == '\r';
        if (length)
            error = read_line(l, path, line, at, length);
        at = stop + 1;
    }
    l->fingerprint = tr_hash_bytes(l->fingerprint, map.bytes, map.size);
    tr_map_close(&map);
    return error;
}

tr_error *tr_labelled_read(const char *const *paths, int64_t count, tr_labelled **out)
{
    tr_labelled *l = tr_alloc_zero(1, sizeof *l);
    tr_error *error = NULL;
    *out = NULL;
    for (int64_t i = 0; i < count; i++) {
        if (tr_path_is_directory(paths[i]))
            TR_GO(tr_error_new(TR_USER, "%s is a directory; labelled texts come from files of JSONL", paths[i]));
        TR_GO(read_file(l, paths[i]));
    }
    if (!l->count && count)
        TR_GO(tr_error_new(TR_USER, "%s holds no text; expected lines like {\"text\": ..., \"label\": ...}", paths[0]));
    *out = l;
    l = NULL;
done:
    tr_labelled_free(l);
    return error;
}

void tr_labelled_free(tr_labelled *l)
{
    if (!l)
        return;
    for (int64_t i = 0; i < l->count; i++) {
        free(l->items[i].text);
        free(l->items[i].pair);
        free(l->items[i].name);
    }
    free(l->items);
    free(l);
}

/* Labels ------------------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

tr_error *tr_labelled_names(const tr_labelled *l, char ***out, int64_t *out_count)
{
    const tr_labelled_text *named = NULL, *numbered = NULL;
    char **all = NULL, **names = NULL;
    int64_t n = 0, room = 0, count = 0, space = 0;
    for (int64_t i = 0; i < l->count; i++) {
        const tr_labelled_text *t = &l->items[i];
        named = t->name ? t : named;
        numbered = t->label >= 0 ? t : numbered;
        if (t->name)
            tr_push(all, n, room) = t->name;
    }
    if (n)
        qsort(all, (size_t)n, sizeof *all, by_bytes);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || strcmp(all[i], all[i - 1]) != 0)
            tr_push(names, count, space) = tr_strdup(all[i]);
    free(all);
    *out = names;
    *out_count = count;
    if (named && numbered)
        return tr_error_new(TR_USER, "%s:%lld has the label \"%s\" and %s:%lld the label %lld; labels are all names, or all numbers",
                            named->path, (long long)named->line, named->name, numbered->path, (long long)numbered->line,
                            (long long)numbered->label);
    return NULL;
}

tr_error *tr_labelled_number(tr_labelled *l, char *const *names, int64_t name_count, int64_t classes, bool needed)
{
    if (classes && name_count > classes)
        return tr_error_new(TR_USER, "the data have %lld different labels and the model has model.labels %lld; set model.labels=%lld",
                            (long long)name_count, (long long)classes, (long long)name_count);
    for (int64_t i = 0; i < l->count; i++) {
        tr_labelled_text *t = &l->items[i];
        char *const *found = t->name && name_count ? bsearch(&t->name, names, (size_t)name_count, sizeof *names, by_bytes) : NULL;
        if (t->name && !found)
            return tr_error_new(TR_USER, "%s:%lld has the label \"%s\", %s", t->path, (long long)t->line, t->name,
                                name_count ? "which no text to train on has" : "a name, and the others are numbers");
        if (found)
            t->label = found - names;
        if (t->label < 0 && needed)
            return tr_error_new(TR_USER, "%s:%lld has no label; expected {\"text\": ..., \"label\": ...}", t->path, (long long)t->line);
        if (classes && t->label >= classes)
            return tr_error_new(TR_USER, "%s:%lld has the label %lld and the model has model.labels %lld, 0 to %lld; set "
                                         "model.labels=%lld",
                                t->path, (long long)t->line, (long long)t->label, (long long)classes, (long long)classes - 1,
                                (long long)t->label + 1);
    }
    return NULL;
}

/* Tokens ------------------------------------------------------------------------------------------- */

static void append(tr_ids *out, const tr_ids *from, int32_t after)
{
    for (int64_t i = 0; i < from->count; i++)
        tr_push(out->items, out->count, out->room) = from->items[i];
    tr_push(out->items, out->count, out->room) = after;
}

void tr_labelled_encode(const tr_tokenizer *tokenizer, const tr_labelled_text *t, int64_t most, tr_ids *out, int64_t *out_first)
{
    int32_t cls = tr_tokenizer_special(tokenizer, TR_SPECIAL_CLS), sep = tr_tokenizer_special(tokenizer, TR_SPECIAL_SEP);
    tr_ids first = {0}, second = {0};
    int64_t room = most - (t->pair ? 3 : 2);
    TR_CHECK(room >= 0 && cls >= 0 && sep >= 0, "no room for a text");
    tr_tokenizer_encode(tokenizer, t->text, t->length, false, &first);
    if (t->pair)
        tr_tokenizer_encode(tokenizer, t->pair, t->pair_length, false, &second);
    while (first.count + second.count > room)
        --*(first.count > second.count ? &first.count : &second.count);
    tr_push(out->items, out->count, out->room) = cls;
    append(out, &first, sep);
    *out_first = out->count;
    if (t->pair)
        append(out, &second, sep);
    tr_ids_free(&first);
    tr_ids_free(&second);
}
