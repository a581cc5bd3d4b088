#!/usr/bin/env bash
# Every family on every kind of mesh: `trireme parity` of a small model of each (dropout on, sizes that do not divide by
# much) on all meshes of 2 and 4 ranks, and of the families with experts on experts x data x tensor x pipeline of 8. Prints a
# line a mesh, schedule and level of ZeRO that differs, and a table: family by kind of mesh, how many ran, what was refused.
#
#     tools/parity_families.sh [--quick] [--ranks "2 4"] [BUILD_DIR] [FAMILY...]
#
# --quick: 2 steps on a few meshes of 4 ranks, experts with data, tensor and pipeline among them (tests/test_parity_families.sh).
# Exit status 1 if a mesh differs, or if one is refused with another sentence than those below.
set -uo pipefail
quick=false ranks="2 4"
while [[ ${1:-} == --* ]]; do
    case $1 in
    --quick) quick=true; shift ;;
    --ranks) ranks=$2; shift 2 ;;
    *) echo "usage: parity_families.sh [--quick] [--ranks \"2 4\"] [BUILD_DIR] [FAMILY...]" >&2; exit 2 ;;
    esac
done
root=$(realpath "$(dirname "$0")/..")
trireme=$(realpath "${1:-build}")/trireme
shift || true
families=("$@")
[ ${#families[@]} -gt 0 ] || families=(gpt2 llama palm gshard mixtral bert t5 switch transformer vit swin)
export OMP_WAIT_POLICY=passive # ranks outnumber cores
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
cd "$work" || exit 1

# What a mesh may be refused for: a size that cannot be shared, and what a ring cannot do.
reasons='layers|heads|experts|a ring|ring attention|window|sequences of a microbatch|stages'

cat "$root"/docs/*.md >text.txt
"$trireme" tokenizer train --kind wordpiece --vocab 401 --out wordpiece text.txt 2>/dev/null
"$trireme" tokenizer train --kind unigram --vocab 401 --sentinels 40 --out unigram text.txt 2>/dev/null
paste <(head -n 400 text.txt | tr '\t' ' ') <(sed -n 401,800p text.txt | tr '\t' ' ') | awk -F'\t' 'NF == 2 && $1 != "" && $2 != ""' >pairs.tsv
mkdir images
for part in "train 64" "t10k 16"; do
    read -r name count <<<"$part"
    { printf "\\0\\0\\x08\\x03\\0\\0\\0\\x$(printf %x "$count")\\0\\0\\0\\x0c\\0\\0\\0\\x0c" && head -c $((144 * count)) text.txt; } >"images/$name-images-idx3-ubyte"
    { printf "\\0\\0\\x08\\x01\\0\\0\\0\\x$(printf %x "$count")" && head -c "$count" text.txt; } >"images/$name-labels-idx1-ubyte"
    gzip "images/$name"-*
done

config() { # FAMILY MODEL DATA TRAIN
    cat >"$1.yaml" <<YAML
model: {family: $1, $2}
data: {$3}
train: {steps: 4, batch: 8, eval_every: 0, save_every: 0, $4}
optimizer: {lr: 1e-3}
schedule: {name: constant, warmup: 0}
threads: 1
YAML
}
text="train: text.txt, tokenizer: bytes"
experts="experts: 5, balance_loss: 0.01, router_z_loss: 0.001"
config gpt2 "layers: 4, embed: 48, heads: 6, context: 24, dropout: 0.1" "$text" "seq: 24"
config llama "layers: 4, embed: 48, heads: 8, kv_heads: 4, mlp: 72, context: 24, dropout: 0.1" "$text" "seq: 24"
config palm "layers: 4, embed: 48, heads: 6, mlp: 72, context: 24, dropout: 0.1, z_loss: 1e-4" "$text" "seq: 24"
config gshard "layers: 4, embed: 48, heads: 6, mlp: 72, context: 24, dropout: 0.1, expert_choices: 2, expert_capacity: 1, expert_random: true, $experts" \
    "$text" "seq: 24"
config mixtral "layers: 4, embed: 48, heads: 8, kv_heads: 4, mlp: 72, context: 24, expert_choices: 2, $experts" "$text" "seq: 24"
config bert "layers: 4, embed: 48, heads: 6, mlp: 72, context: 24, dropout: 0.1" "train: text.txt, tokenizer: wordpiece" "seq: 24"
config t5 "layers: 2, embed: 48, heads: 6, head_dim: 8, mlp: 72, dropout: 0.1" "train: text.txt, tokenizer: unigram" "seq: 24, decoder_seq: 8"
config switch "layers: 2, embed: 48, heads: 6, head_dim: 8, mlp: 72, dropout: 0.1, expert_every: 1, expert_capacity: 1.25, expert_dropout: 0.1, $experts" \
    "train: text.txt, tokenizer: unigram" "seq: 24, decoder_seq: 8"
config transformer "layers: 2, embed: 48, heads: 6, mlp: 72, context: 24, dropout: 0.1, smoothing: 0.1" "train: pairs.tsv, tokenizer: unigram" \
    "seq: 24, decoder_seq: 24"
config vit "image: 12, channels: 1, labels: 256, patch: 3, layers: 4, embed: 48, heads: 6, mlp: 72, drop_path: 0.2" "train: images, val: images" ""
config swin "image: 12, channels: 1, labels: 256, patch: 1, window: 3, depth1: 2, depth2: 2, depth3: 0, depth4: 0, embed: 24, heads: 4, mlp: 48, drop_path: 0.2" \
    "train: images, val: images" ""

failed=0
parity() { # FAMILY RANKS OPTION...
    local family=$1 n=$2 out
    shift 2
    out=$("$trireme" parity "$family.yaml" --json --ranks "$n" "$@" 2>log)
    local status=$?
    if [ $status -gt 1 ]; then
        failed=1
        echo "FAILED $family on $n ranks $*: $(tail -n 1 log)"
    elif [ $status = 1 ]; then
        failed=1
    fi
    awk -v family="$family" 'NR > 1 { print family "\t" $0 }' <<<"$out" >>results
}
: >results
for family in "${families[@]}"; do
    if $quick; then
        for mesh in "data=2 tensor=2" "pipeline=2 data=2"; do parity $family 4 --steps 2 --mesh "$mesh"; done
        case $family in
        gshard | mixtral | switch)
            for mesh in "expert=4" "data=2 expert=2" "expert=2 tensor=2" "pipeline=2 expert=2"; do
                parity $family 4 --steps 2 --mesh "$mesh"
            done
            ;;
        esac
        continue
    fi
    for n in $ranks; do parity $family "$n" --steps 3; done
    case $family in
    gshard | mixtral | switch) parity $family 8 --steps 2 --mesh "pipeline=2 expert=2 tensor=2" && parity $family 8 --steps 2 --mesh "data=2 expert=2 tensor=2" &&
        parity $family 8 --steps 2 --mesh "pipeline=2 data=2 expert=2" ;;
    esac
done

# kind of mesh: the axes, and what kind they are of
awk -F'\t' -v reasons="$reasons" '
    function field(name,   text) { text = $2; if (!sub(".*\"" name "\":\"?", "", text)) return ""; sub(/"?[,}].*/, "", text); return text }
    {
        family = $1; mesh = field("mesh"); kind = mesh; gsub(/=[0-9][0-9.]*/, "", kind); gsub(/(sequence|tensor)_kind=/, "", kind)
        gsub(/sequence_kind|tensor_kind/, "", kind); zero = field("zero"); if (zero > 0) kind = kind " ZeRO"
        text = $2; sub(/.*"refused":"/, "", text); sub(/"}.*/, "", text)
        if (!(family in order)) { order[family] = ++n; name[n] = family }
        if ($2 ~ /"refused":/) {
            refused[family]++
            key = family "\t" text; if (!(key in why)) why[key] = mesh
            if (text !~ reasons) { print "UNEXPECTED " family " on " mesh ": " text; bad = 1 }
        } else {
            d = field("max_rel_diff") + 0; ran[family]++; if (d > worst[family]) worst[family] = d
            if (d > 1e-5) { print "DIFFERS " family " on " mesh ", zero " zero ", " field("schedule") ": " d; bad = 1 }
            if (mesh ~ /expert/) expert[family]++
        }
    }
    END {
        printf "%-12s %8s %14s %8s %20s\n", "family", "ran", "with experts", "refused", "largest difference"
        for (i = 1; i <= n; i++) printf "%-12s %8d %14d %8d %20.1e\n", name[i], ran[name[i]], expert[name[i]], refused[name[i]], worst[name[i]]
        for (key in why) { split(key, k, "\t"); printf "refused: %-11s on %s: %s\n", k[1], why[key], k[2] }
        exit bad || n == 0
    }' results || failed=1
exit $failed
