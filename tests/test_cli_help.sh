#!/bin/bash
# Help: every command that `trireme --help` lists has --help with options and an example, exit status 0 and
# nothing on standard error; `trireme --help` takes less than 20 ms (the best of 20 runs).
#
#     bash tests/test_cli_help.sh BUILD_DIR
set -u
trireme=$(realpath "${1:?usage: test_cli_help.sh BUILD_DIR}/trireme") || exit 1
failed=0
scratch=$(mktemp) || exit 1
trap 'rm -f "$scratch"' EXIT

fail() {
    failed=$((failed + 1))
    echo "$1" >&2
}

too_wide() {
    awk -v form="$1" 'length > 100 { print form ": too wide: " $0; bad = 1 } END { exit !bad }' "$scratch" >&2
}

commands=$("$trireme" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
[ "$(echo "$commands" | wc -l)" -ge 6 ] || fail "trireme --help lists only: $commands"
for command in $commands; do
    for form in "$command --help" "$command -h" "help $command"; do
        said=$("$trireme" $form 2>&1 >"$scratch") || fail "trireme $form: exit status $?"
        [ -z "$said" ] || fail "trireme $form: on standard error: $said"
        grep -q "^ \+trireme $command" "$scratch" || fail "trireme $form: no example"
        too_wide "$form" && failed=$((failed + 1))
    done
done
"$trireme" help keys >"$scratch"
grep -q 'train.steps' "$scratch" || fail "trireme help keys: no train.steps"
too_wide "help keys" && failed=$((failed + 1))
"$trireme" --version | grep -q '^trireme [0-9]' || fail "trireme --version: no version"
"$trireme" --help >/dev/full 2>/dev/null && fail "trireme --help into a full disk: exit status 0"

best=1000000
for run in $(seq 20); do
    begin=$(date +%s%N)
    "$trireme" --help >/dev/null
    took=$((($(date +%s%N) - begin) / 1000))
    [ $took -lt $best ] && best=$took
done
echo "trireme --help: $best us"
grep -q -e __asan_init -e __tsan_init "$trireme" || [ $best -lt 20000 ] ||
    fail "trireme --help takes $best us, more than 20 ms"
[ $failed -eq 0 ]
