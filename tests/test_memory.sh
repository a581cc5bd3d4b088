#!/usr/bin/env bash
# The planned peak against the measured one: within 5 %, in both precisions and every kind of recompute.
#     tests/test_memory.sh BUILD_DIR
# Measured is VmHWM of a whole `trireme train` (data, validation, a sample, a checkpoint), less its code
# and libraries. What those take is what the same run with one layer takes beyond its own plan: the
# program, oneDNN's generated code and the buffers that its products pack into, the heap. It is the
# same shapes that are multiplied, so it does not depend on the number of layers; it is printed, and
# must stay below 64 MB.
set -u
trireme=$(realpath "${1:?usage: tests/test_memory.sh BUILD_DIR}")/trireme
[ -x "$trireme" ] || { echo "no $trireme"; exit 1; }
if grep -q -e __asan_init -e __tsan_init "$trireme"; then
    echo "skipped: a sanitizer's own memory is many times the program's"
    exit 77
fi
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
cat "$root"/src/passes/*.c >text.txt
cat >model.yaml <<YAML
model: {embed: 384, heads: 6, context: 256, dropout: 0.1}
data: {train: text.txt}
train: {steps: 2, batch: 4, eval_every: 1, eval_batches: 1, sample_every: 2}
threads: 2
YAML
passed=0 failed=0

number() { grep -o "\"$1\": *[0-9]*" "$2/metrics.jsonl" | tail -n 1 | grep -o '[0-9]*$'; }
run() { # NAME OVERRIDE...: sets planned and measured
    rm -rf out
    "$trireme" train model.yaml --quiet out=out "$@" || return 1
    planned=$(number planned_peak_bytes out)
    measured=$(number peak_bytes out)
}
for precision in fp32 bf16; do
    for recompute in none cheap full; do
        for micro in 4 1; do
            what="$precision, recompute $recompute, micro_batch $micro"
            how="train.precision=$precision train.recompute=$recompute train.micro_batch=$micro"
            # shellcheck disable=SC2086
            if ! { run $how model.layers=1 && libraries=$((measured - planned)) && run $how model.layers=8; }; then
                failed=$((failed + 1))
                continue
            fi
            verdict=$(awk -v p="$planned" -v m="$((measured - libraries))" -v l="$libraries" 'BEGIN {
                printf "planned %.1f MB, measured %.1f MB (%+.1f %%), code and libraries %.1f MB",
                    p / 1e6, m / 1e6, 100 * (m / p - 1), l / 1e6
                exit !(m / p < 1.05 && m / p > 0.95 && l > 0 && l < 64e6)
            }') && passed=$((passed + 1)) && verdict="ok: $what: $verdict" || {
                failed=$((failed + 1))
                verdict="FAILED $what: $verdict"
            }
            echo "$verdict"
        done
    done
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
