#!/usr/bin/env python3
"""Writes src/data/unicode_maps.h: what normalizers and pre-tokenizers need to know of code points.

    tools/unicode_maps.py > src/data/unicode_maps.h

Properties that Hugging Face's `tokenizers` takes from crates of several Unicode versions are asked of the library
itself, code point by code point, so that we agree with it also where the versions do not: what BERT's normalizer
drops, punctuation, marks, lower case, decompositions. General categories are of `unicodedata2` (16.0.0), grapheme
breaks of the module `regex`.
"""
import regex
import unicodedata2 as ucd
from tokenizers import normalizers as norm
from tokenizers import pre_tokenizers as pre

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
DROP, PUNCT, NONSPACING, MARK, EXTEND, PREPEND, CONTROL = (1 << i for i in range(7))
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs".split()


def probe(normalizer):
    return {c: out for c in POINTS if (out := normalizer.normalize_str(chr(c))) != chr(c)}


def ranges(values):
    """[(first, last, value)] of runs with the same value that is not 0."""
    found = []
    for c in sorted(values):
        if found and found[-1][1] == c - 1 and found[-1][2] == values[c]:
            found[-1][1] = c
        else:
            found.append([c, c, values[c]])
    return found


def table(head, items, per_line=8):
    print(head + " = {")
    for i in range(0, len(items), per_line):
        print("    " + ", ".join(items[i:i + per_line]) + ",")
    print("};")


def properties():
    flags = dict.fromkeys(POINTS, 0)
    clean = norm.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    accents = norm.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    for bit, found in ((DROP, probe(clean)), (NONSPACING, probe(accents)), (MARK, probe(norm.StripAccents()))):
        for c, out in found.items():
            flags[c] |= bit if out == "" else 0
    bert = pre.BertPreTokenizer().pre_tokenize_str
    classes = ((EXTEND, regex.compile(r"[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]")), (PREPEND, regex.compile(r"\p{GCB=Prepend}")),
               (CONTROL, regex.compile(r"[\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}]")))
    for c in POINTS:
        if len(bert(f"a{chr(c)}a")) == 3:
            flags[c] |= PUNCT
        for bit, pattern in classes:
            if pattern.match(chr(c)):
                flags[c] |= bit
    return {c: f for c, f in flags.items() if f}


def combining():
    """Canonical combining classes, where the library's own reordering shows that it knows of one."""
    nfd, found = norm.NFD().normalize_str, {}
    for c in POINTS:
        if value := ucd.combining(chr(c)):
            low, high = "\u0334", "\u0345"  # of classes 1 and 240
            if nfd(f"a{chr(c)}{low}") == f"a{low}{chr(c)}" or nfd(f"a{high}{chr(c)}") == f"a{chr(c)}{high}" or c in (0x334, 0x345):
                found[c] = value
    return found


def main():
    nfd, nfkd = probe(norm.NFD()), probe(norm.NFKD())
    hangul = range(0xAC00, 0xD7A4)  # by arithmetic
    pool, places, entries = [], {}, []
    for c in sorted(set(nfd) | set(nfkd)):
        if c in hangul:
            continue
        told = []
        for text in (nfd.get(c, chr(c)), nfkd.get(c, chr(c))):
            if text not in places:
                places[text] = len(pool)
                pool.extend(ord(x) for x in text)
            told += [places[text], len(text)]
        entries.append("{0x%X, %d, %d, %d, %d}" % (c, *told))
    nfc = norm.NFC().normalize_str
    pairs = []
    for c in POINTS:
        parts = ucd.decomposition(chr(c)).split()
        if len(parts) == 2 and parts[0][0] != "<" and nfc(chr(int(parts[0], 16)) + chr(int(parts[1], 16))) == chr(c):
            pairs.append((int(parts[0], 16), int(parts[1], 16), c))
    lower = [f"{{0x{c:X}, 0x{ord(text[0]):X}, 0x{ord(text[1]) if len(text) > 1 else 0:X}}}" for c, text in probe(norm.Lowercase()).items()]
    assert all(len(text) <= 2 for text in probe(norm.Lowercase()).values()) and max(len(pool), 0) < 65536

    print(f"/* Written by tools/unicode_maps.py from tokenizers {__import__('tokenizers').__version__} and Unicode {ucd.unidata_version}; do not edit. */")
    print("/* clang-format off */")
    print(f"enum {{ BERT_DROP = {DROP}, BERT_PUNCT = {PUNCT}, NONSPACING = {NONSPACING}, MARK = {MARK}, EXTEND = {EXTEND}, "
          f"PREPEND = {PREPEND}, CONTROL = {CONTROL} }};")
    row = lambda r: f"{{0x{r[0]:X}, 0x{r[1]:X}, {r[2]}}}"
    print("typedef struct range { uint32_t first, last; uint8_t value; } range;")
    table("static const range unicode_flags[]", [row(r) for r in ranges(properties())])
    table("static const range unicode_combining[]", [row(r) for r in ranges(combining())])
    print("/* Full decompositions, canonical and compatible: places and lengths in unicode_pool. */")
    print("typedef struct decomposition { uint32_t code; uint16_t canonical; uint8_t canonical_length; uint16_t compatible; uint8_t compatible_length; } decomposition;")
    table("static const decomposition unicode_decompositions[]", entries, 6)
    table("static const uint32_t unicode_pool[]", [f"0x{x:X}" for x in pool], 18)
    print("/* Pairs that compose, in the order of (first, second). */")
    print("typedef struct composition { uint32_t first, second, whole; } composition;")
    table("static const composition unicode_compositions[]", [f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}" for a, b, c in sorted(pairs)], 6)
    print("typedef struct lower_case { uint32_t code, lower, second; } lower_case;")
    table("static const lower_case unicode_lower[]", lower, 6)
    kinds = {c: CATEGORIES.index(ucd.category(chr(c))) for c in POINTS}
    print("/* General categories: " + ", ".join(f"{i} {name}" for i, name in enumerate(CATEGORIES)) + ". */")
    print("#define UNICODE_CATEGORIES " + ", ".join(f'"{name}"' for name in CATEGORIES))
    table("static const range unicode_categories[]", [row(r) for r in ranges({c: k for c, k in kinds.items() if k})])


main()
