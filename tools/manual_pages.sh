#!/usr/bin/env bash
# Makes a large varied text of Debian's packages of manual pages in 16 languages (free licences each; see the packages'
# copyright files), which are fetched by apt and unpacked, not installed. Writes
#   demo-data/manuals/train.txt, val.txt    a page after another, without roff's markup, in a mixed order
# The pages of every 40th name are held out, whatever their language. Nothing of it is committed.
# Usage: tools/manual_pages.sh [DIRECTORY]   (default: demo-data/manuals)
# Exit status: 0 the text is there; 1 it could not be fetched.
set -euo pipefail

out=${1:-demo-data/manuals}
packages=(manpages manpages-dev manpages-{cs,da,de,es,fr,it,nl,pl,pt-br,ru,uk}{,-dev} manpages-{fi,hu,ro,sv})
scratch=

say() { printf '%s\n' "$*" >&2; }
trap '[ -z "$scratch" ] || rm -rf -- "$scratch"' EXIT

if [ -s "$out/train.txt" ] && [ -s "$out/val.txt" ]; then
    say "The manual pages are in $out already."
    exit 0
fi
for program in apt-get dpkg-deb python3; do
    if ! command -v $program > /dev/null; then
        say "The manual pages come from Debian's packages; $program is needed and not there."
        exit 1
    fi
done
scratch=$(mktemp -d)
say "Fetching ${#packages[@]} packages of manual pages ..."
if ! (cd "$scratch" && apt-get download -q "${packages[@]}" > apt.log 2>&1); then
    say "apt-get download failed: $(tail -n 1 "$scratch/apt.log"); is its list fresh (apt-get update)?"
    exit 1
fi
for package in "$scratch"/*.deb; do
    dpkg-deb -x "$package" "$scratch/root"
done
mkdir -p -- "$out"
python3 - "$scratch/root/usr/share/man" "$out" <<'PYTHON'
import glob
import gzip
import hashlib
import os
import re
import sys

root, out = sys.argv[1:]
SHOWN = re.compile(r"\.(SH|SS|TP|IP|B|I|BR|RB|BI|IB|RI|IR|SM|SB|Nm|Nd|Sh|Ss|Fl|Ar|Pa|Xr)\b ?(.*)")
SIGNS = {"-": "-", "e": "\\", "&": "", "|": "", "^": "", "/": "", ",": "", " ": " ", "0": " ", "c": "", "%": "", "~": " ", "'": "'"}
NAMED = {"aq": "'", "dq": '"', "lq": "\u201c", "rq": "\u201d", "oq": "\u2018", "cq": "\u2019", "bu": "\u2022", "em": "\u2014", "en": "\u2013",
         "co": "\u00a9", "mu": "\u00d7", "ha": "^", "ti": "~", "rs": "\\", "hy": "-", "la": "<", "ra": ">", "Fo": "\u00ab", "Fc": "\u00bb"}


def plain(text):
    """A line without escapes: fonts and sizes go, named characters become themselves."""
    text = re.sub(r"\\f(\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\\*(\[[^\]]*\]|\(..|.)|\\[hvwl]'[^']*'|\\\".*", "", text)
    text = re.sub(r"\\\((..)|\\\[([^\]]*)\]", lambda m: NAMED.get(m[1] or m[2], ""), text)
    return re.sub(r"\\(.)", lambda m: SIGNS.get(m[1], ""), text).rstrip()


def page(raw):
    lines = []
    for line in raw.split("\n"):
        if line[:1] in (".", "'"):
            shown = SHOWN.match(line)
            if shown and shown[1] in ("SH", "SS", "Sh", "Ss"):
                lines.append("")
            line = shown[2].replace('"', "") if shown else ""
            if not line:
                continue
        lines.append(plain(line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def mixed(key):
    return hashlib.sha256(key.encode()).digest()


pages = {}
for path in glob.glob(f"{root}/**/*.gz", recursive=True):
    if not os.path.islink(path):
        with gzip.open(path) as file:
            text = page(file.read().decode("utf-8", "replace"))
        if len(text) > 200:
            pages[os.path.relpath(path, root)] = text
for part, held_out in (("train.txt", False), ("val.txt", True)):
    chosen = [p for p in sorted(pages, key=mixed) if (mixed(os.path.basename(p))[0] % 40 == 0) == held_out]
    with open(os.path.join(out, part + ".new"), "w", encoding="utf-8") as file:
        file.write("\n\n".join(pages[p] for p in chosen) + "\n")
    os.rename(os.path.join(out, part + ".new"), os.path.join(out, part))
    print(f"{part}: {len(chosen)} pages, {os.path.getsize(os.path.join(out, part))} bytes", file=sys.stderr)
PYTHON
