/* UTF-8 and code point classes; see unicode.h. tools/unicode_tables.py writes the tables. */
#include "data/unicode.h"

#include "data/unicode_tables.h"

const char *tr_unicode_version(void)
{
    return UNICODE_VERSION;
}

tr_unicode_class tr_unicode_class_of(uint32_t code)
{
    if (code >= unicode_limit)
        return TR_UNICODE_OTHER;
    const uint8_t *block = unicode_blocks[unicode_index[code >> 7]];
    return (tr_unicode_class)(block[(code & 127) >> 2] >> (2 * (code & 3)) & 3);
}

/* Length of the sequence that a lead byte announces, and the range of its second byte (which is
 * where overlong forms, surrogates and too large code points are told from valid ones). 0: no lead
 * byte. */
static int lead_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF) {
        if (lead == 0xE0)
            *low = 0xA0;
        if (lead == 0xED)
            *high = 0x9F;
        return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        if (lead == 0xF0)
            *low = 0x90;
        if (lead == 0xF4)
            *high = 0x8F;
        return 4;
    }
    return 0;
}

int tr_utf8_decode(const char *text, const char *end, uint32_t *out)
{
    const uint8_t *p = (const uint8_t *)text;
    if (text >= end)
        return 0;
    if (p[0] < 0x80) {
        *out = p[0];
        return 1;
    }
    uint8_t low, high;
    int length = lead_length(p[0], &low, &high);
    if (!length || end - text < length || p[1] < low || p[1] > high)
        return 0;
    uint32_t code = p[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        code = code << 6 | (p[i] & 0x3F);
    }
    *out = code;
    return length;
}

int tr_utf8_encode(uint32_t code, char *out)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)((0xF00u >> length & 0xF0) | code);
    return length;
}

int tr_utf8_broken(const char *text, const char *end, int *out_may_go_on)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low, high;
    int length = lead_length(p[0], &low, &high), n = 1;
    *out_may_go_on = 0;
    if (!length)
        return 1;
    while (n < length && text + n < end && p[n] >= low && p[n] <= high) {
        n++;
        low = 0x80;
        high = 0xBF;
    }
    *out_may_go_on = n < length && text + n == end;
    return n;
}
