#!/usr/bin/env bash
# The same loss everywhere, in full: `trireme parity` of a 4-layer GPT (dropout on; a vocabulary, heads, sequences and
# batches that do not divide) on every mesh of 2 to 8 ranks, 10 steps, f32 and bf16; and with 16 layers on 5 to 8 ranks,
# so that pipelines of all lengths and kinds have enough of them. tests/test_parity.sh is the quick part of it.
#
#     tools/parity.sh [BUILD_DIR]          some minutes; one line for each run; exit status 1 if any mesh differs
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
trireme=${1:-build}/trireme
export OMP_WAIT_POLICY=passive # ranks outnumber cores
failed=0
run() { # RANKS OVERRIDE...
    local ranks=$1 begin=$SECONDS out
    shift
    out=$("$trireme" parity examples/parity.yaml data.train=docs/formats.md --json --ranks "$ranks" "$@")
    local status=$?
    [ $status = 0 ] || failed=1
    echo "$out" | awk -v what="$ranks ranks $*" -v status=$status -v took=$((SECONDS - begin)) '
        /"refused"/ { refused++; next }
        { ran++; sub(/.*"max_rel_diff":/, ""); sub(/,.*/, ""); if ($0 + 0 > worst + 0) worst = $0 }
        END { printf "%-42s %3d meshes, %2d refused, largest difference %.2g, %d s, status %d\n", what, ran, refused, worst, took, status }'
}
for ranks in 2 3 4 5 6 7 8; do
    run $ranks
done
for ranks in 2 3 4 5 6 7 8; do
    run $ranks train.precision=bf16
done
for ranks in 5 6 7 8; do
    run $ranks model.layers=16 --steps 3
done
exit $failed
