/* Fingerprint and cutting points of a tokenizer; see tokenizer_identity.h. Cost: one pass over the
 * vocabulary for the fingerprint, constant for a cut.
 */
#include "data/tokenizer_identity.h"

#include <string.h>

#include "data/shard.h"
#include "data/tokenizer_internal.h"

/* GPT-2's rules, or the same without its words. */
static bool is_gpt2(const tr_tokenizer *t)
{
    return t->pre.byte_level && !t->ignore_merges &&
           (!t->pre.stage_count || (t->pre.stage_count == 1 && t->pre.stages[0].kind == TR_STAGE_GPT2));
}

uint64_t tr_tokenizer_fingerprint(const tr_tokenizer *t)
{
    uint64_t hash = tr_hash_word(1, (uint64_t)t->kind);
    hash = tr_hash_word(hash, (uint64_t)t->vocab_size);
    bool split = t->pre.stage_count > 0;
    hash = tr_hash_word(hash, (uint64_t)(uint32_t)t->end_of_text << 2 |
                                  (unsigned)t->pre.prefix_space << 1 | (unsigned)split);
    if (t->normalizer || t->kind > TR_TOKENIZER_CHARS || (t->kind == TR_TOKENIZER_BPE && !is_gpt2(t))) {
        for (int i = 0; i < TR_RULE_POST_PROCESSOR; i++)
            hash = t->rules[i] ? tr_hash_bytes(hash, t->rules[i], (int64_t)strlen(t->rules[i])) : tr_hash_word(hash, 0);
        hash = tr_hash_word(hash, (uint64_t)t->longest_word << 3 | (unsigned)t->byte_fallback << 2 |
                                      (unsigned)t->fuse_unknown << 1 | (unsigned)t->ignore_merges);
        if (t->scores)
            hash = tr_hash_bytes(hash, (const char *)t->scores, t->vocab_size * (int64_t)sizeof *t->scores);
    }
    for (int32_t id = 0; id < t->vocab_size; id++) {
        int64_t length = 0;
        const char *bytes = tr_tokenizer_token_bytes(t, id, &length);
        hash = bytes ? tr_hash_bytes(hash, bytes, length) : tr_hash_word(hash, UINT64_MAX);
    }
    for (int64_t i = 0; i < t->merge_count; i++)
        hash = tr_hash_word(hash, PAIR_KEY(t->merges[i].left, t->merges[i].right));
    for (int64_t i = 0; i < t->added_count; i++) {
        const tr_added *added = &t->added[i];
        hash =
            tr_hash_word(hash, (uint64_t)(uint32_t)added->id << 4 | (unsigned)added->special << 3 |
                                   (unsigned)added->normalized << 2 |
                                   (unsigned)added->left_strip << 1 | (unsigned)added->right_strip);
    }
    return hash ? hash : 1;
}

bool tr_tokenizer_cut_ok(const tr_tokenizer *t, const char *text, int64_t length, int64_t at)
{
    if (at <= 0 || at >= length)
        return false;
    if (t->kind == TR_TOKENIZER_BYTES)
        return true;
    /* Added tokens that are not special are found in any text; one that may reach over white space
     * could reach over the cut. */
    for (int64_t i = 0; i < t->added_count; i++) {
        const tr_added *added = &t->added[i];
        if (!added->special &&
            (added->left_strip || added->right_strip || strpbrk(added->content, " \t\n\v\f\r")))
            return false;
    }
    if (t->kind == TR_TOKENIZER_CHARS)
        return (unsigned char)text[at - 1] < 0x80;
    /* The second part is taken for a text of its own, before which a space or marker may be put. */
    bool marked = t->pre.prefix_space || t->rules[TR_RULE_NORMALIZER];
    return (!marked || t->kind == TR_TOKENIZER_WORDPIECE) && tr_tokenizer_cuts(t, text, length, at);
}
