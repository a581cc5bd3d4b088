/* UTF-8, and what tokenizers need to know of code points: the four classes that GPT-2's pre-tokenizer tells
 * apart (unicode.c), properties, case and normal forms (unicode_normal.c).
 *
 * Decoding is strict (no overlong forms, no surrogates, nothing above U+10FFFF) and never reads
 * past the end that it is given.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

typedef enum tr_unicode_class {
    TR_UNICODE_OTHER = 0,
    TR_UNICODE_LETTER = 1, /* \p{L} */
    TR_UNICODE_NUMBER = 2, /* \p{N} */
    TR_UNICODE_SPACE = 3,  /* \s, the White_Space property */
} tr_unicode_class;

/* The version of the Unicode database behind tr_unicode_class_of, such as "16.0.0". */
const char *tr_unicode_version(void);
tr_unicode_class tr_unicode_class_of(uint32_t code);

/* Length (1 to 4) of the valid sequence at `p`, its code point in *out; 0 when there is none. */
int tr_utf8_decode(const char *p, const char *end, uint32_t *out);
/* Writes the sequence of a code point <= U+10FFFF (at most 4 bytes) and returns its length. */
int tr_utf8_encode(uint32_t code, char *out);
/* How many of the `count` bytes at `p`, which are no valid sequence, belong together as a broken or
 * unfinished one (1 to 3). *out_may_go_on says that they are all there is and that more bytes could
 * still complete them. */
int tr_utf8_broken(const char *p, const char *end, int *out_may_go_on);

/* What normalizers and pre-tokenizers ask of a code point, as Hugging Face's `tokenizers` answers. */
enum {
    TR_UNICODE_BERT_DROP = 1,  /* BERT's clean-up removes it: control characters, U+0000, U+FFFD */
    TR_UNICODE_PUNCT = 2,      /* punctuation to BERT's pre-tokenizer, ASCII symbols included */
    TR_UNICODE_NONSPACING = 4, /* an accent to BERT */
    TR_UNICODE_MARK = 8,       /* a mark of any kind */
    TR_UNICODE_EXTEND = 16,    /* goes on with the grapheme before it */
    TR_UNICODE_PREPEND = 32,   /* the next character belongs to its grapheme */
    TR_UNICODE_CONTROL = 64,   /* is a grapheme of its own, whatever is around it */
};
int tr_unicode_flags(uint32_t code);
bool tr_unicode_is_cjk(uint32_t code); /* the blocks that BERT puts spaces around */
/* The lower case of a code point (1 or 2 code points, whose number is returned). */
int tr_unicode_lower(uint32_t code, uint32_t out[2]);
/* The general category, as a place in the list of names; names such as "Lu"; -1 when there is none. */
int tr_unicode_category(uint32_t code);
int tr_unicode_category_named(const char *name);

/* Normal forms (Unicode Standard Annex 15). Bytes that are no valid UTF-8 stay as they are. */
typedef enum tr_unicode_form { TR_NFD, TR_NFKD, TR_NFC, TR_NFKC } tr_unicode_form;
void tr_unicode_normalize(tr_unicode_form form, const char *text, int64_t length, tr_text *out);
