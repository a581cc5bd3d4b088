#!/usr/bin/env bash
# What is quick, measured: `trireme --help`, the first training step of a 10 M parameter model, a clean build.
#
#     bench/quick.sh [--build]        --build also times a clean build, in a directory of its own
#
# One JSON object: help_ms (best and median of 20), first_step_s (from the start of the process to the line of step 1
# in metrics.jsonl; best and median of 5; the text is tokenized anew each time), build_s. Targets: 20 ms, 1 s, 60 s.
# Exit status 1 when a best value misses its target.
set -euo pipefail
cd "$(dirname "$0")/.."
trireme=$PWD/build/trireme
[ -x "$trireme" ] || { echo "there is no build/trireme; run make first" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

now_us() { echo $((${EPOCHREALTIME/[.,]/})); }
# Numbers in, one a line: the best and the median as JSON.
summary() { sort -n | awk -v unit="$1" '{ v[NR] = $1 / unit } END { printf "{\"best\": %.4g, \"median\": %.4g}", v[1], v[int((NR + 1) / 2)] }'; }

for _ in $(seq 20); do
    begin=$(now_us)
    "$trireme" --help >/dev/null
    echo $(($(now_us) - begin))
done >"$work/help"

# 12 x 5 x 320^2 + embeddings of bytes: 10.6 M parameters; 8 x 128 tokens a step.
cat src/*/*.c >"$work/text.txt"
sizes=(model.layers=8 model.embed=320 model.heads=5 model.context=128 train.batch=8)
parameters=$("$trireme" inspect "${sizes[@]}" --json | sed -n 's/^ *"parameters": *\([0-9]*\).*/\1/p' | head -n 1)
for _ in 1 2 3 4 5; do
    rm -rf "$work/out"
    begin=$(now_us)
    "$trireme" train "${sizes[@]}" --quiet data.train="$work/text.txt" train.eval_every=0 train.steps=1000000 \
        out="$work/out" 2>"$work/log" &
    pid=$!
    until grep -q '^{"step"' "$work/out/metrics.jsonl" 2>/dev/null; do
        kill -0 $pid 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.002
    done
    echo $(($(now_us) - begin))
    kill -9 $pid
    wait $pid 2>/dev/null || true
done >"$work/step"

build=null
if [ "${1:-}" = --build ]; then
    begin=$(now_us)
    cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
    cmake --build "$work/build" --target trireme_cli >/dev/null
    build=$(awk -v us=$(($(now_us) - begin)) 'BEGIN { printf "%.4g", us / 1e6 }')
fi
printf '{"help_ms": %s, "first_step_s": %s, "parameters": %s, "build_s": %s, "cores": %s}\n' \
    "$(summary 1000 <"$work/help")" "$(summary 1000000 <"$work/step")" "$parameters" "$build" "$(nproc)"
awk -v h="$(sort -n "$work/help" | head -n 1)" -v s="$(sort -n "$work/step" | head -n 1)" -v b="$build" \
    'BEGIN { exit !(h < 20000 && s < 1000000 && (b == "null" || b < 60)) }'
