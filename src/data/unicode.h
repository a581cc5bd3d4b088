/* UTF-8 and the four classes of code points that the GPT-2 pre-tokenizer tells apart.
 *
 * Decoding is strict (no overlong forms, no surrogates, nothing above U+10FFFF) and never reads
 * past the end that it is given.
 */
#pragma once
#include <stdint.h>

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
