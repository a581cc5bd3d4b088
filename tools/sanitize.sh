#!/usr/bin/env bash
# The tests again under sanitizers.
#
#     tools/sanitize.sh [address] [thread]        both without an argument; about half an hour on two cores
#     tools/sanitize.sh units                     of address, the tests that are C programs: five minutes
#
# address: build-debug/ (AddressSanitizer with leaks, UndefinedBehaviorSanitizer), the whole suite. Left out are
#     test_transformers, which checks numbers against another program, not memory;
#     test_memory, which skips itself, since a sanitizer's own memory is many times the program's;
#     test_comm_mpi, since MPI's own start-up leaks by design.
# thread: build-tsan/ (ThreadSanitizer), OMP_NUM_THREADS=1, and tools/tsan.supp, which names libgomp, libdnnl and Open MPI only.
#     What it proves is what our own threads share: ranks, transports, the executor, checkpoints. libgomp's barriers
#     are invisible to it, so that every value that passes between the members of an OpenMP team is reported; left out
#     are the tests that ask for such teams (kernels, ops, passes, the models, tokenizers), and those that run one rank
#     from outside, in which nothing of ours runs beside anything, or under mpirun, whose own locks it reports. Ranks are
#     threads in `trireme parity`.
#
# Nothing else is left out. Ends with one line of counts; exit status 1 when anything failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export OMP_WAIT_POLICY=passive TRIREME_PYTHON=none
passed=0 failed=0 skipped=0

build() { # PRESET
    cmake --preset "$1" >/dev/null && cmake --build "build-$1" >"build-$1/build.log" 2>&1 && return
    grep -m 10 -E 'error|FAILED' "build-$1/build.log"
    echo "build-$1 does not build; see build-$1/build.log"
    failed=$((failed + 1))
    return 1
}

# ctest's own summary gives the counts. Two tests at a time: they are short of cores rather than of memory.
suite() { # NAME BUILD_DIR LEFT_OUT
    local log=$2/sanitize.log
    ctest --test-dir "$2" --no-tests=error --output-on-failure --timeout 600 -j "${TEST_JOBS:-2}" -E "^($3)" 2>&1 |
        tee "$log" | grep -vE '^ *(Start|[0-9]+/[0-9]+ Test .* Passed)'
    count "$1" "$(grep -cE 'Test +#[0-9]+: .* Passed' "$log")" \
        "$(grep -cE 'Test +#[0-9]+: .*\*\*\*(Failed|Timeout|Exception|Not Run)' "$log")" \
        "$(grep -cE 'Test +#[0-9]+: .*\*\*\*Skipped' "$log")"
    grep -qE '[0-9]+% tests passed' "$log" || { echo "$1: ctest did not finish"; failed=$((failed + 1)); }
}
count() { # NAME PASSED FAILED SKIPPED
    echo "$1: $2 passed, $3 failed, $4 skipped"
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
}

units() {
    build debug || return
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
    suite units build-debug "($(basename -s .sh tests/test_*.sh | paste -sd'|'))$"
}

address() {
    build debug || return
    export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1
    suite address build-debug 'test_transformers|test_memory$|test_comm_mpi'
}

thread() {
    local ranks log=build-tsan/parity.log
    build tsan || return
    export OMP_NUM_THREADS=1 TSAN_OPTIONS="suppressions=$PWD/tools/tsan.supp exitcode=66"
    suite thread build-tsan 'test_(kernels_|ops|gpt|golden|passes|memory_plan|tokenizer)|test_(train|bert|classify|images_run|optimizers_run|generate|memory|report|cli_|example|parity|transformers|comm_mpi|failures|two_hosts)'
    for ranks in 2 3 4; do
        if build-tsan/trireme parity examples/parity.yaml data.train=docs/formats.md --ranks $ranks --steps 3 threads=1 \
            model.layers=2 model.embed=32 model.heads=4 model.context=16 train.seq=16 train.batch=4 >"$log" 2>&1; then
            count "thread, $ranks ranks on every mesh" 1 0 0
        else
            tail -n 40 "$log"
            count "thread, $ranks ranks on every mesh" 0 1 0
        fi
    done
}

[ $# -gt 0 ] || set -- address thread
for what in "$@"; do
    case $what in
    address | thread | units) $what ;;
    *)
        echo "tools/sanitize.sh: there is no '$what'; it takes address, thread and units" >&2
        exit 2
        ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
