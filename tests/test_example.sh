#!/bin/bash
# What the documents promise. The example program learns, resumes to the same bits as a run without a break, and
# its model is opened by no other program. Every command, option, key, make target and file that README.md and
# docs/ name exists.
#
#     bash tests/test_example.sh BUILD_DIR
set -u
build=$(realpath "${1:?usage: test_example.sh BUILD_DIR}") || exit 1
cd "$(dirname "$0")/.." || exit 1
trireme=$build/trireme
example=$build/example_own_model
[ -x "$trireme" ] && [ -x "$example" ] || { echo "$build has no trireme or no example_own_model" >&2; exit 1; }
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

fail() {
    failed=$((failed + 1))
    echo "$1" >&2
}

# The example ---------------------------------------------------------------------------------------

small=(model.layers=2 model.embed=32 model.heads=2 model.mlp=64 model.context=32 train.batch=4 train.eval_every=0
    train.sample_every=20 schedule.name=constant schedule.warmup=0 optimizer.lr=3e-3 threads=1)

losses() {
    sed -n 's/.*"step": *[0-9]*, *"loss": *\([0-9.e+-]*\).*/\1/p' "$1/metrics.jsonl"
}

[ "$(wc -l < examples/own_model.c)" -lt 100 ] || fail "examples/own_model.c has 100 lines or more"
cat src/ir/*.h src/passes/*.c > "$scratch/text.txt"
cd "$scratch" || exit 1
"$example" text.txt "${small[@]}" train.steps=20 out=whole 2> log || fail "the example: exit status $?: $(tail -n 1 log)"
losses whole > numbers
[ "$(wc -l < numbers)" -eq 20 ] || fail "the example: $(wc -l < numbers) losses in metrics.jsonl, not 20"
awk 'NR == 1 { first = $1 } NR > 15 { last += $1 / 5 } END { exit !(first > 5 && last < first - 1) }' numbers ||
    fail "the example: the loss does not fall: $(tr '\n' ' ' < numbers)"
grep -q '"sample"' whole/metrics.jsonl || fail "the example: no sample in metrics.jsonl"

"$example" text.txt "${small[@]}" train.steps=10 out=halves 2> log &&
    "$example" --resume halves train.steps=20 2> log || fail "the example, resumed: $(tail -n 1 log)"
cmp -s whole/model.safetensors halves/model.safetensors || fail "the example, resumed: other weights than without a break"

# Two ranks, and one that goes on with what they saved: the same losses up to rounding.
"$example" text.txt "${small[@]}" train.steps=10 train.sample_every=0 mesh.tensor=2 zero=0 out=ranks 2> log &&
    "$example" --resume ranks train.steps=20 train.sample_every=0 mesh.tensor=1 2> log ||
    fail "the example on two ranks: $(tail -n 1 log)"
paste numbers <(losses ranks) | awk '{ d = $1 - $2; if (d > 1e-3 || d < -1e-3) bad = 1 } END { exit bad || NR != 20 }' ||
    fail "the example on two ranks: other losses: $(losses ranks | tr '\n' ' ')"

# The other one, with experts: the same losses on a mesh that shares experts, heads, tokens and layers. Its program names none.
experts=$build/example_own_experts
grep -qE 'mesh|rank|data=|tensor' <(sed '1,/^ \*\//d' "$OLDPWD/examples/own_experts.c") && fail "examples/own_experts.c knows of a mesh"
small=("${small[@]}" model.heads=4 model.experts=4 model.dropout=0.1 train.micro_batch=4 train.batch=8 train.steps=6 train.sample_every=0)
"$experts" text.txt "${small[@]}" out=experts 2> log || fail "own_experts: exit status $?: $(tail -n 1 log)"
losses experts > numbers.experts
[ "$(wc -l < numbers.experts)" -eq 6 ] || fail "own_experts: $(wc -l < numbers.experts) losses, not 6"
for mesh in "mesh.expert=2 mesh.tensor=2" "mesh.data=2 mesh.expert=2 zero=1" "mesh.pipeline=2 mesh.expert=2"; do
    "$experts" text.txt "${small[@]}" $mesh out=meshed 2> log || fail "own_experts on $mesh: $(tail -n 1 log)"
    paste numbers.experts <(losses meshed) | awk '{ d = ($1 - $2) / $1; if (d > 1e-5 || d < -1e-5) bad = 1 } END { exit bad || NR != 6 }' ||
        fail "own_experts on $mesh: other losses: $(losses meshed | tr '\n' ' ') than $(tr '\n' ' ' < numbers.experts)"
    rm -rf meshed
done

grep -q '"trireme-custom"' whole/config.json || fail "the example's config.json claims a family"
for command in "generate whole --prompt a" "eval whole --data text.txt" "inspect whole" \
    "train --resume whole train.steps=30"; do
    "$trireme" $command > log 2>&1
    status=$?
    [ $status -eq 2 ] || fail "trireme $command on a custom model: exit status $status, not 2"
    grep -q "program of its own" log || fail "trireme $command on a custom model says: $(cat log)"
done
"$example" > log 2>&1
[ $? -eq 2 ] || fail "the example without arguments: exit status not 2"
"$example" nothing.txt out=none > log 2>&1
[ $? -eq 2 ] || fail "the example with a file that is not there: exit status not 2"
cd - > /dev/null || exit 1

# The documents -------------------------------------------------------------------------------------

documents=(README.md docs/*.md)
"$trireme" help keys > "$scratch/keys"

# Every command that begins with build/trireme, a line each, without what a shell makes of the rest of its line.
commands_of() {
    sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' "$1" | sed -e 's/"[^"]*"/TEXT/g' |
        grep -oE 'build/trireme +[a-z-][^|<>#`]*' | sed 's/^build.trireme *//'
}

check_command() { # DOCUMENT LINE
    local document=$1 words
    read -r -a words <<< "$2"
    [ ${#words[@]} -gt 0 ] || return
    local name=${words[0]} rest=1
    case $name in
    --help | --version) return ;;
    help)
        "$trireme" "${words[@]}" > /dev/null 2>&1 || fail "$document: trireme $2: no such help"
        return
        ;;
    tokenizer) # its own commands have their own help
        name="tokenizer ${words[1]:-}"
        rest=2
        ;;
    esac
    if ! "$trireme" $name --help > "$scratch/help" 2>&1; then
        fail "$document: trireme $2: there is no command $name"
        return
    fi
    for word in "${words[@]:$rest}"; do
        case $word in
        --*)
            grep -q -e "${word%%=*}\b" "$scratch/help" || fail "$document: trireme $2: no option ${word%%=*}"
            ;;
        -*)
            grep -q -e "^ *${word:0:2}," "$scratch/help" || fail "$document: trireme $2: no option $word"
            ;;
        [a-z]*=*)
            grep -q "^  ${word%%=*} " "$scratch/keys" || fail "$document: trireme $2: no key ${word%%=*}"
            ;;
        esac
    done
}

count=0
for document in "${documents[@]}"; do
    while read -r line; do
        check_command "$document" "$line"
        count=$((count + 1))
    done < <(commands_of "$document")

    # Paths below the folders of the repository; one with a word in capitals (NAME, FAMILY) is a pattern.
    for path in $(grep -oE '\b(src|docs|tests|bench|tools|examples|include|cmake)/[A-Za-z0-9_./*{},-]+' "$document" |
        sed -e 's/[.,]*$//' | sort -u); do
        case $path in *[A-Z]*) continue ;; esac
        compgen -G "$path" > /dev/null || [ -n "$(eval "ls -d $path" 2> /dev/null)" ] || fail "$document: there is no $path"
    done
    # Links to neighbours.
    for path in $(grep -oE '\]\([A-Za-z0-9_./-]+\)' "$document" | tr -d ']()' | sort -u); do
        [ -e "$(dirname "$document")/$path" ] || fail "$document: there is no $path"
    done
    for target in $(sed -n 's/^\(\$ \)\{0,1\}make \([a-z]*\).*/\2/p' "$document" | sort -u); do
        grep -qE "^([a-z ]*\b)?$target\b.*:" Makefile || fail "$document: there is no make $target"
    done
done
[ $count -ge 20 ] || fail "only $count trireme commands were found in the documents"
echo "$count commands of the documents checked"
[ $failed -eq 0 ]
