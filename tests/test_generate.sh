#!/usr/bin/env bash
# `trireme generate` from outside: seeds, greedy, stop strings, limits, prompts, streaming.
#     tests/test_generate.sh BUILD_DIR
set -u
trireme=$(realpath "${1:?usage: tests/test_generate.sh BUILD_DIR}")/trireme
[ -x "$trireme" ] || { echo "no $trireme"; exit 1; }
root=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive # other programs may want the cores
passed=0 failed=0

ok() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED $*" | cut -c 1-300 >&2
    [ ! -s log ] || tail -n 3 log | cut -c 1-300 >&2
}
equal() { # WHAT A B
    if [ "$2" = "$3" ]; then ok; else fail "$1: \"$2\" is not \"$3\""; fi
}
differ() { # WHAT A B
    if [ "$2" != "$3" ]; then ok; else fail "$1: both are \"$2\""; fi
}
holds() { # WHAT CONDITION...
    local what=$1
    shift
    if "$@"; then ok; else fail "$what"; fi
}
status() { # WHAT STATUS WORDS COMMAND...
    local what=$1 want=$2 words=$3 got
    shift 3
    "$@" >out 2>log </dev/null
    got=$?
    if [ $got = "$want" ] && grep -qF -- "$words" log; then ok; else fail "$what: exit status $got"; fi
}
say() { # DIR OPTION...: the continuation of "The " alone
    local directory=$1
    shift
    "$trireme" generate "$directory" --prompt "The " --quiet "$@" 2>log || echo "exit status $?"
}
field() { sed -E "s/.*\"$1\": ?(\"([^\"\\\\]|\\\\.)*\"|[^,}]*).*/\\1/"; }

# English with letters of two, three and four bytes, so that a token can be a part of a letter.
for i in $(seq 60); do
    echo "The cat sat on the mat and the naïve dog №$i said: 東京 is far away 🚀, the end."
done >text.txt
cat >tiny.yaml <<YAML
model: {layers: 2, embed: 48, heads: 3, context: 64}
data: {train: text.txt}
train: {steps: 60, batch: 8, eval_every: 0}
optimizer: {lr: 0.01}
threads: 2
YAML
for kind in bytes chars bpe; do
    tokenizer=$kind
    if [ $kind = bpe ]; then
        tokenizer=tok.json
        "$trireme" tokenizer train --vocab 300 --out tok.json text.txt >log 2>&1 || fail "tokenizer train"
    fi
    "$trireme" train tiny.yaml --quiet data.tokenizer=$tokenizer out=$kind 2>log || fail "training with $kind"
done

for model in bytes chars bpe; do
    a=$(say $model --seed 7 --max-tokens 40)
    equal "$model: same seed, same text" "$a" "$(say $model --seed 7 --max-tokens 40)"
    equal "$model: same seed, other number of threads" "$a" "$(say $model --seed 7 --max-tokens 40 --threads 1)"
    # A run this small knows its text nearly by heart: heat makes the seeds matter.
    differ "$model: other seed, other text" "$(say $model --seed 7 --max-tokens 40 --temperature 3)" \
        "$(say $model --seed 8 --max-tokens 40 --temperature 3)"
    greedy=$(say $model --greedy --max-tokens 40)
    equal "$model: greedy is stable" "$greedy" "$(say $model --greedy --max-tokens 40 --seed 5)"
    equal "$model: temperature 0 is greedy" "$greedy" "$(say $model --temperature 0 --max-tokens 40)"
    equal "$model: top-k 1 is greedy" "$greedy" "$(say $model --top-k 1 --seed 3 --max-tokens 40 --temperature 2)"
    equal "$model: a small top-p is greedy" "$greedy" \
        "$(say $model --top-p 0.000001 --seed 3 --max-tokens 40 --temperature 2)"
    equal "$model: bf16 gives the same twice" "$(say $model --seed 1 --precision bf16)" \
        "$(say $model --seed 1 --precision bf16)"
    differ "$model: a repetition penalty" "$greedy" "$(say $model --greedy --max-tokens 40 --repetition-penalty 50)"
done
equal "max-tokens 0" "$(say bytes --max-tokens 0)" ""
equal "max-tokens 5 of bytes" "$(say bytes --greedy --max-tokens 5 | wc -c)" 6
equal "fewer tokens are the beginning of more" "$(say bytes --greedy --max-tokens 9)" \
    "$(say bytes --greedy --max-tokens 30 | head -c 9)"

# The end: before the stop string, at the limit, at the end of the context.
whole=$(say bytes --greedy --max-tokens 40)
stop=${whole:6:4}
equal "stop" "$(say bytes --greedy --max-tokens 40 --stop "$stop")" "${whole%%"$stop"*}"
equal "the first of two stops" "$(say bytes --greedy --max-tokens 40 --stop "${whole:20:5}" --stop "$stop")" \
    "${whole%%"$stop"*}"
equal "a stop that never comes" "$(say bytes --greedy --max-tokens 40 --stop "@@@@" --stop "${whole:38}@")" "$whole"
equal "finish: stop" "$(say bytes --greedy --max-tokens 40 --json --stop "$stop" | field finish)" '"stop"'
equal "finish: length" "$(say bytes --greedy --max-tokens 7 --json | field finish)" '"length"'
equal "finish: context" "$(say bytes --greedy --max-tokens 500 --json --stop "" | field finish)" '"context"'
equal "tokens up to the context" "$(say bytes --greedy --max-tokens 500 --json | field tokens)" 61

json=$(say bpe --greedy --max-tokens 12 --json)
equal "json: tokens" "$(field tokens <<<"$json")" 12
for key in text prompt_tokens tokens_per_s prefill_s finish; do
    holds "json has $key" grep -q "\"$key\"" <<<"$json"
done
echo "$json" >judged.json
status "json is JSON" 2 "input_ids" "$trireme" eval bpe --logits judged.json --out ids.npy
say bytes --temperature 2 --max-tokens 30 --seed 4 --json >judged.json
status "json of any bytes is JSON" 2 "input_ids" "$trireme" eval bpe --logits judged.json --out ids.npy
equal "samples" "$(say bytes --greedy --max-tokens 3 --samples 3 --json | wc -l)" 3
differ "samples have seeds of their own" "$(say bytes --samples 2 --seed 1 --temperature 3 --json | field text | sed -n 1p)" \
    "$(say bytes --samples 2 --seed 1 --temperature 3 --json | field text | sed -n 2p)"
equal "the second sample is the next seed's" \
    "$(say bytes --samples 2 --seed 1 --temperature 3 --json | field text | sed -n 2p)" \
    "$(say bytes --seed 2 --temperature 3 --json | field text)"

# The prompt: an option, standard input, a file; what is printed begins with it.
printf 'The ' >prompt.txt
equal "prompt from standard input" "$("$trireme" generate bytes --quiet --greedy -n 20 <prompt.txt)" "${whole:0:20}"
equal "prompt from a file" "$("$trireme" generate bytes --quiet --greedy -n 20 --prompt-file prompt.txt)" "${whole:0:20}"
equal "the prompt is printed" "$("$trireme" generate bytes --prompt "The " --greedy -n 20)" "The ${whole:0:20}"
equal "json has the prompt" "$("$trireme" generate bytes --prompt "The " --greedy -n 6 --json | field text)" \
    "\"The ${whole:0:6}\""
status "no such file" 2 "nowhere.txt" "$trireme" generate bytes --prompt-file nowhere.txt
status "two prompts" 2 "not both" "$trireme" generate bytes --prompt a --prompt-file prompt.txt
"$trireme" generate bpe --prompt "" -n 5 >out 2>log
equal "an empty prompt begins with end of text" $? 0
if "$trireme" generate chars --prompt "" -n 5 >out 2>log; then ok; else
    holds "an empty prompt without end of text" grep -q "the prompt is empty" log
fi
long=$(printf 'x%.0s' $(seq 100))
status "a prompt that is too long" 2 "the prompt has 100 tokens and the model's context is 64" \
    "$trireme" generate bytes --prompt "$long"
status "not a model" 2 "nowhere" "$trireme" generate nowhere --prompt a
status "a full disk" 1 "standard output" bash -c '"$0" generate bytes --prompt a -n 3 >/dev/full' "$trireme"

# Streaming: at every write so far the output is whole letters, though a token may be a part of one.
if command -v strace >/dev/null && strace -o probe true 2>/dev/null; then
    for model in bytes bpe; do
        strace -s 100000 -xx -e trace=write -e write=1 -o writes \
            "$trireme" generate $model --prompt "The " --greedy -n 59 >out 2>log
        grep -oE '^write\(1, "[^"]*"' writes | sed 's/^write(1, //' >pieces
        holds "$model: it streams" test "$(wc -l <pieces)" -ge 10
        broken=0
        while IFS= read -r piece; do
            eval "printf %b $piece" >piece.bytes
            iconv -f UTF-8 -t UTF-8 <piece.bytes >/dev/null 2>&1 || broken=$((broken + 1))
        done <pieces
        equal "$model: pieces that end inside of a letter" $broken 0
    done
else
    echo "skipped: strace is not here, so pieces cannot be seen"
fi
holds "letters of several bytes come" grep -q '東京\|🚀\|ï\|№' <(say bytes --greedy -n 59; say bpe --greedy -n 59)
# The reader of a pipe that closes ends it, without a word too many.
"$trireme" generate bytes --prompt "The " -n 59 --samples 50 2>log | head -c 10 >out
equal "a closed pipe" "$(cat out | head -c 4)" "The "

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
