#!/bin/bash
# Wrong inputs: each case of tests/wrong_inputs.txt must end with exit status 2, exactly one line on standard
# error, which is the one in the table, and nothing on standard output.
#
#     bash tests/test_cli_errors.sh BUILD_DIR [--print]     --print shows what is said, instead of checking
#
# A case of the table:
#     | line of bad.yaml, which stands in the directory where the command runs; as many as needed
#     $ the arguments, as in a shell
#     ! the line on standard error       or     ~ a part of it
set -u
build=${1:?usage: test_cli_errors.sh BUILD_DIR}
trireme=$(realpath "$build/trireme") || exit 1
table=$(realpath "$(dirname "$0")/wrong_inputs.txt")
print=${2:-}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit 1

# What the cases find beside bad.yaml.
printf 'model:\n  preset: gpt2\n' >good.yaml
printf 'some text\n' >text.txt
mkdir -p empty old checkpoint bert broken list odd
printf '{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": 100}\n' \
    >checkpoint/config.json
printf '{"model_type": "elmo"}\n' >bert/config.json
printf 'some text that is none\n' >text.gguf
printf 'GGUF\3\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0' >short.gguf
printf '{"model_type": ' >broken/config.json
printf '[]\n' >list/config.json
printf '{"model_type": "gpt2", "n_layer": "two"}\n' >odd/config.json
printf 'model:\n  layers: 2\n  embed: 64\n  heads: 2\n  context: 32\n' >old/trireme.yaml
printf '\0\1\2\377\376binary' >binary.yaml
head -c 2000000 /dev/zero | tr '\0' '#' >huge.yaml

cases=0 failed=0 line=0 fresh=1

fail() {
    failed=$((failed + 1))
    printf '%s:%d: %s\n  arguments: %s\n  expected:  %s\n  said:      %s\n' wrong_inputs.txt "$line" "$1" \
        "$arguments" "$expected" "$said" >&2
}

while IFS= read -r text || [ -n "$text" ]; do
    line=$((line + 1))
    case $text in
    '|'*)
        [ $fresh = 1 ] && : >bad.yaml
        fresh=0
        text=${text#|}
        printf '%b\n' "${text# }" >>bad.yaml
        ;;
    '$ '*)
        arguments=${text#\$ }
        fresh=1
        ;;
    '! '* | '~ '*)
        cases=$((cases + 1))
        expected=${text#??}
        eval "set -- $arguments"
        "$trireme" "$@" >out.txt 2>err.txt </dev/null
        status=$?
        said=$(cat err.txt)
        if [ "$print" = --print ]; then
            printf '%s\n    %s\n' "$arguments" "$said"
        elif [ $status -ne 2 ]; then
            fail "exit status $status, expected 2"
        elif [ -s out.txt ]; then
            fail "something on standard output"
        elif [ "$(wc -l <err.txt)" -ne 1 ]; then
            fail "$(wc -l <err.txt) lines on standard error, expected one"
        elif [ "${text%% *}" = '!' ] && [ "$said" != "$expected" ]; then
            fail "another message"
        elif [[ $said != *"$expected"* ]]; then
            fail "another message"
        fi
        ;;
    esac
done <"$table"

if [ $cases -lt 40 ]; then
    echo "only $cases cases in the table" >&2
    exit 1
fi
echo "$((cases - failed)) passed, $failed failed"
[ $failed -eq 0 ]
