#!/usr/bin/env bash
# Overlap and buckets move bytes at other times, not other bytes: the losses keep every bit, whatever is waited for
# when, over threads and over MPI; and a trace shows the ranks' lane beside the program's.
# Usage: tests/test_overlap_bits.sh BUILD_DIR
set -uo pipefail
trireme=$(realpath "$1")/trireme
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
passed=0 failed=0

equal() { # WHAT A B
    if [ -n "$2" ] && [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $1: '$2' is not '$3'"; fi
}
# The losses of four steps, all digits.
losses() { # RUNNER... -- OVERRIDES
    local before=()
    while [ "$1" != -- ]; do before+=("$1"); shift; done
    shift
    rm -rf "$work/run"
    "${before[@]}" "$trireme" train "$root/examples/parity.yaml" data.train="$root/docs/formats.md" out="$work/run" --quiet \
        train.steps=4 train.eval_every=0 train.save_every=0 train.log_every=1 "$@" >"$work/log" 2>&1 || tail -n 3 "$work/log"
    sed -n 's/.*"loss":\([^,]*\),.*/\1/p' "$work/run/metrics.jsonl"
}

for mesh in "mesh.data=2" "mesh.data=2 train.micro_batch=4" "mesh.data=2 zero=1" "mesh.data=2 zero=1 train.micro_batch=4" "mesh.data=2 zero=3 train.recompute=full" \
    "mesh.tensor=2 mesh.sequence_kind=megatron" "mesh.data=2 mesh.pipeline=2 zero=1 train.micro_batch=2"; do
    # shellcheck disable=SC2086
    plain=$(losses -- $mesh mesh.overlap=false mesh.bucket_mb=0)
    # shellcheck disable=SC2086
    equal "$mesh, overlap" "$(losses -- $mesh)" "$plain"
    # shellcheck disable=SC2086
    equal "$mesh, all at once" "$(losses -- $mesh mesh.bucket_mb=1000)" "$plain"
done
if command -v mpirun >/dev/null; then
    plain=$(losses -- mesh.data=2 zero=3 mesh.overlap=false)
    equal "zero=3 over MPI" "$(losses mpirun --oversubscribe -n 2 -- mesh.data=2 zero=3)" "$plain"
fi

for micro in 8 4; do
    losses -- mesh.data=2 train.micro_batch=$micro --trace="$work/trace.json" >/dev/null
equal "lanes of a trace" "$(grep -oE '"tid":[0-9]+' "$work/trace.json" | sort -u | tr '\n' ' ')" '"tid":0 "tid":1 '
# Some sum was under way while the backward computed.
awk -F'"ts":|,"dur":|,"args"' '/"tid":1/ { from[n] = $2; to[n++] = $2 + $3 } /"linear_d/ { for (i = 0; i < n; i++) if (0) next; at[m] = $2; until[m++] = $2 + $3 }
    END { for (i = 0; i < n; i++) for (j = 0; j < m; j++) if (from[i] < until[j] && at[j] < to[i]) hit = 1; exit !hit }' "$work/trace.json"
equal "a sum beside a product, microbatches of $micro" $? 0
done

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
