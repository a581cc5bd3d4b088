# The head of a test in the shell: `source "$(dirname "$0")/check.sh" "$@"`. Sets trireme, root and work, which is a
# directory of its own, the current one, gone at the end. The last line is `report`.
set -uo pipefail
trireme=$(realpath "${1:?usage: $0 BUILD_DIR}")/trireme
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
passed=0 failed=0

ok() { passed=$((passed + 1)); }

fail() {
    failed=$((failed + 1))
    echo "FAILED $1: $(tail -n 1 log)" >&2
}

# check WHAT COMMAND...: it succeeds. What it prints is in out, what it says on standard error in log.
check() {
    local what=$1
    shift
    if "$@" >out 2>log; then ok; else fail "$what"; fi
}

# refused WHAT PATTERN COMMAND...: it ends with status 2 and says PATTERN.
refused() {
    local what=$1 pattern=$2
    shift 2
    "$@" >log 2>&1
    [ $? = 2 ] && grep -q -E "$pattern" log && ok || fail "$what"
}

report() {
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
}
