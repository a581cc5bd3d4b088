#!/usr/bin/env python3
"""Writes src/data/unicode_tables.h: for every code point, whether it is a letter (\\p{L}), a number
(\\p{N}), white space (\\s) or something else.

    tools/unicode_tables.py > src/data/unicode_tables.h

The version must be the one of the tokenizer that we agree with (Hugging Face `tokenizers` 0.23:
Unicode 16.0), so the script takes `unicodedata2` (pip install unicodedata2==16.0.0) and refuses
another version unless --any-version is given.
"""
import sys

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

WANTED = "16.0.0"
BLOCK = 128
OTHER, LETTER, NUMBER, SPACE = range(4)
# The White_Space property (PropList.txt); stable since Unicode 6.3.
WHITE = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def code_class(code):
    if code in WHITE:
        return SPACE
    kind = unicodedata.category(chr(code))[0]
    return LETTER if kind == "L" else NUMBER if kind == "N" else OTHER


def rows(values, per_row):
    for i in range(0, len(values), per_row):
        yield "    " + ", ".join(str(v) for v in values[i : i + per_row]) + ","


def main():
    version = unicodedata.unidata_version
    if version != WANTED and "--any-version" not in sys.argv:
        sys.exit(f"unicodedata is of Unicode {version}, not {WANTED}: pip install unicodedata2=={WANTED}")
    classes = [code_class(code) for code in range(0x110000)]
    blocks, index = {}, []
    for start in range(0, 0x110000, BLOCK):
        packed = tuple(
            sum(classes[start + i + j] << (2 * j) for j in range(4)) for i in range(0, BLOCK, 4)
        )
        index.append(blocks.setdefault(packed, len(blocks)))
    assert len(blocks) <= 256
    # All that follows the last block with anything but OTHER is left out.
    empty = blocks[(0,) * (BLOCK // 4)]
    while index[-1] == empty:
        index.pop()
    print(f"""/* Written by tools/unicode_tables.py from Unicode {version}; do not edit.
 *
 * Two bits a code point (0 other, 1 letter, 2 number, 3 white space), {BLOCK} code points a block, lowest
 * bits first; `unicode_index` names the block. Code points from unicode_limit on are "other". */
#define UNICODE_VERSION "{version}"
static const uint32_t unicode_limit = 0x{len(index) * BLOCK:x};
static const uint8_t unicode_index[{len(index)}] = {{""")
    print("\n".join(rows(index, 24)))
    print(f"}};\nstatic const uint8_t unicode_blocks[{len(blocks)}][{BLOCK // 4}] = {{")
    for block in blocks:
        print("    {" + ", ".join(str(v) for v in block) + "},")
    print("};")


main()
