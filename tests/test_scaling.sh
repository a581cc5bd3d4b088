#!/usr/bin/env bash
# `trireme scaling`: a row for each number of ranks, from the plans that `inspect` shows; more ranks do more, and a
# slow link costs.    Usage: tests/test_scaling.sh BUILD_DIR
set -uo pipefail
trireme=$1/trireme
passed=0 failed=0
check() { # NAME CONDITION...
    if [ "${@:2}" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $*"; fi
}
field() { sed -n "s/.*\"ranks\": $2, .*\"$3\": \([0-9.e+-]*\).*/\1/p" <<< "$1"; }

config=(examples/parity.yaml model.vocab=257 threads=1)
fast=$("$trireme" scaling "${config[@]}" --ranks 4 --link 100 --latency 0.01 --json)
slow=$("$trireme" scaling "${config[@]}" --ranks 4 --link 0.0001 --latency 1000 --json)
check "three rows" "$(grep -c '"simulated": true' <<< "$fast")" = 3
planned=$("$trireme" inspect "${config[@]}" --json | sed -n 's/.*"planned_peak_bytes": \([0-9]*\).*/\1/p')
check "the plan is the one that inspect shows" "$(field "$fast" 1 planned_peak_bytes)" = "$planned"
check "one rank sends nothing" "$(field "$fast" 1 communication_s)" = 0
check "four ranks do more than two" "$(awk -v a="$(field "$fast" 4 tokens_per_s)" -v b="$(field "$fast" 2 tokens_per_s)" 'BEGIN { print (a > b) }')" = 1
waits() { "$trireme" scaling "${config[@]}" --ranks 2 --link 0.05 --latency 1 --json "$@"; }
beside=$(waits) apart=$(waits mesh.overlap=false mesh.bucket_mb=0)
check "without overlap all is waited for" "$(awk -v a="$(field "$apart" 2 exposed_s)" -v b="$(field "$apart" 2 communication_s)" 'BEGIN { print (a > 0 && a > 0.999 * b) }')" = 1
check "overlap hides some of it" "$(awk -v a="$(field "$beside" 2 exposed_s)" -v b="$(field "$beside" 2 communication_s)" 'BEGIN { print (a > 0 && a < 0.9 * b) }')" = 1
check "a slow link costs" "$(awk -v a="$(field "$slow" 4 efficiency)" 'BEGIN { print (a < 0.1) }')" = 1
"$trireme" scaling examples/parity.yaml > /dev/null 2> /tmp/trireme-scaling-$$ && status=0 || status=$?
check "an open vocabulary is refused" "$status" = 2
check "with a sentence" "$(grep -c 'model.vocab is open' /tmp/trireme-scaling-$$)" = 1
rm -f /tmp/trireme-scaling-$$
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
