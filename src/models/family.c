/* The table of families; see family.h. */
#include "models/family.h"

#include "base/memory.h"
#include "base/suggest.h"

const tr_family *const tr_families[TR_FAMILY_COUNT] = {
#define X(name) &tr_family_##name,
    TR_FAMILIES(X)
#undef X
};

const char *tr_family_objective(const tr_family *f, const tr_sizes *s)
{
    return !f ? "causal" : f->classifies && s->labels ? f->classifies : f->objective;
}

bool tr_family_has(const tr_family *f, const char *key)
{
    return !f || tr_word_in(f->keys, key);
}

const tr_preset *tr_preset_find(const char *name, int *out_family)
{
    for (int f = 0; f < TR_FAMILY_COUNT; f++)
        for (const tr_preset *p = tr_families[f]->presets; p && p->name; p++)
            if (strcmp(p->name, name) == 0 || tr_word_in(p->also, name)) {
                *out_family = f;
                return p;
            }
    return NULL;
}

char *tr_preset_names(const tr_family *of)
{
    tr_text text = {0};
    tr_text_add(&text, "", 0);
    for (int f = 0; f < TR_FAMILY_COUNT; f++)
        for (const tr_preset *p = tr_families[f]->presets; p && p->name && (!of || of == tr_families[f]); p++)
            tr_text_format(&text, "%s%s", text.length ? ", " : "", p->name);
    return text.bytes;
}

const char *tr_preset_suggest(const char *name)
{
    enum { MOST = 256 };
    const char *names[MOST];
    int64_t count = 0;
    for (int f = 0; f < TR_FAMILY_COUNT; f++)
        for (const tr_preset *p = tr_families[f]->presets; p && p->name && count < MOST; p++)
            names[count++] = p->name;
    return tr_suggest(name, names, count);
}
