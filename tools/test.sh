#!/usr/bin/env bash
# Every test: builds them, runs them, and ends with one line of counts. Two tests run at a time at most.
set -uo pipefail
cd "$(dirname "$0")/.."
cmake --build build || exit 1
log=build/test.log
ctest --test-dir build --no-tests=error --output-on-failure --timeout 900 -j "${TEST_JOBS:-1}" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(grep -cE 'Test +#[0-9]+: .* Passed' "$log")
skipped=$(grep -cE 'Test +#[0-9]+: .*\*\*\*Skipped' "$log")
failed=$(grep -cE 'Test +#[0-9]+: .*\*\*\*(Failed|Timeout|Exception|Not Run)' "$log")
echo "$passed passed, $failed failed, $skipped skipped"
exit "$status"
