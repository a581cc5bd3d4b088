#!/usr/bin/env bash
# Every test: builds them, runs them, and ends with one line of counts.
set -uo pipefail
cd "$(dirname "$0")/.."
cmake --build build || exit 1
log=build/test.log
ctest --test-dir build --no-tests=error --output-on-failure --timeout 900 -j "${TEST_JOBS:-1}" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(grep -cE 'Test +#[0-9]+: .* Passed' "$log")
skipped=$(grep -cE 'Test +#[0-9]+: .*\*\*\*Skipped' "$log")
failed=$(sed -n 's/.*tests passed, \([0-9]*\) tests failed out of.*/\1/p' "$log")
echo "$passed passed, ${failed:-1} failed, $skipped skipped"
exit "$status"
