/* CRC-32C: the Castagnoli polynomial 0x1EDC6F41, reflected (0x82F63B78), as RFC 3720 uses it; see
 * file.h. The processor's own instruction where there is one (8 bytes each), otherwise eight tables
 * that are built on the stack when the input is long enough to repay that, otherwise bit by bit.
 * All give the same value. Cost: one pass over the bytes.
 */
#include "base/file.h"

#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

static const uint32_t POLYNOMIAL = 0x82F63B78u;

static uint32_t by_bits(uint32_t crc, const unsigned char *p, int64_t count)
{
    while (count-- > 0) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (POLYNOMIAL & (0u - (crc & 1)));
    }
    return crc;
}

static uint32_t by_tables(uint32_t crc, const unsigned char *p, int64_t count)
{
    enum { WORTH_TABLES_BYTES = 16 * 1024 };
    if (count < WORTH_TABLES_BYTES)
        return by_bits(crc, p, count);
    /* table[k][b]: what byte b does to the remainder when k more bytes follow it. */
    uint32_t table[8][256];
    for (uint32_t b = 0; b < 256; b++) {
        unsigned char byte = (unsigned char)b;
        table[0][b] = by_bits(0, &byte, 1);
    }
    for (int k = 1; k < 8; k++)
        for (int b = 0; b < 256; b++)
            table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 255];
    for (; count >= 8; count -= 8, p += 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                              (uint32_t)p[3] << 24);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
              table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^
              table[0][p[7]];
    }
    return by_bits(crc, p, count);
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const unsigned char *p, int64_t count)
{
    uint64_t wide = crc;
    for (; count >= 8; count -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; count > 0; count--)
        crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}

static int has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#elif defined(__aarch64__) && defined(__linux__)
static uint32_t by_instruction(uint32_t crc, const unsigned char *p, int64_t count)
{
    for (; count >= 8; count -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    for (; count > 0; count--, p++)
        __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)*p));
    return crc;
}

static int has_instruction(void)
{
    return (getauxval(AT_HWCAP) >> 7 & 1) != 0; /* HWCAP_CRC32 */
}
#else
#define by_instruction by_tables
static int has_instruction(void)
{
    return 0;
}
#endif

uint32_t tr_crc32c(uint32_t crc, const void *bytes, int64_t count)
{
    return ~(has_instruction() ? by_instruction : by_tables)(~crc, bytes, count);
}

uint32_t tr_crc32c_plain(uint32_t crc, const void *bytes, int64_t count)
{
    return ~by_tables(~crc, bytes, count);
}
