#!/usr/bin/env bash
# The demo: a small GPT learns English from the State of the Union addresses in about two minutes, then writes.
# Usage: tools/demo.sh [TEXT]   TEXT: a text file or directory of your own.
set -euo pipefail
cd "$(dirname "$0")/.."
trireme=build/trireme
out=runs/demo

if [ $# -gt 0 ]; then
    data=("data.train=$1")
else
    tools/fetch_demo_text.sh demo-data
    data=(data.train=demo-data/sotu/train.txt data.val=demo-data/sotu/val.txt)
fi
if [ ! -s demo-data/tokenizer/tokenizer.json ]; then
    mkdir -p demo-data/tokenizer
    $trireme tokenizer train --vocab 2048 --out demo-data/tokenizer/tokenizer.json "${data[0]#data.train=}"
fi
rm -rf "$out"
$trireme train examples/demo.yaml "${data[@]}" data.tokenizer=demo-data/tokenizer/tokenizer.json out="$out"
echo
echo "== What it writes"
for prompt in "The Congress" "Our country" "I recommend that"; do
    $trireme generate "$out" --prompt "$prompt" --max-tokens 60 --temperature 0.8 --top-p 0.95 --seed 1
    echo
done
echo "== How well it predicts text that it has never seen"
[ ${#data[@]} -lt 2 ] || $trireme eval "$out" --data "${data[1]#data.val=}"
$trireme report "$out" --out "$out/report.html"
echo
echo "The run is in $out: a Hugging Face model directory, metrics.jsonl, and report.html to look at."
