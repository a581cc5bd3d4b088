#!/usr/bin/env bash
# Checks against Hugging Face transformers, both ways: what it writes we read, what we write it
# reads.
#     tests/test_transformers.sh BUILD_DIR
# 1. The logits of the golden model, as it is and in the other layouts that are found in the wild:
#    names without "transformer." and with the mask buffers of old files; several shards with an
#    index; bf16; fp16.
# 2. Runs of `trireme train`, from scratch in fp32 and bf16 and finetuned from one of those:
#    transformers opens their directories, with the same logits and the same tokens.
# Exit status 77 when the Python packages are not to be had (tools/python.sh says why).
set -u
cd "$(dirname "$0")/.." || exit 1
trireme=$(cd "${1:?usage: tests/test_transformers.sh BUILD_DIR}" && pwd)/trireme || exit 1
[ -x "$trireme" ] || { echo "there is no $trireme; build it first"; exit 1; }
python=$(tools/python.sh) || exit $?
golden=tests/golden/gpt2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
passed=0 failed=0

check() { # check NAME COMMAND...
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok: $name"
        grep "max relative error\|tokens, the same" "$work/log"
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        tail -n 20 "$work/log"
    fi
}
logits() { "$python" tests/compare_hf.py "$@" --trireme "$trireme"; }

# ---- 1. theirs, read by us
make_variants() {
    "$python" - "$golden" "$work" <<'PYTHON'
import os, shutil, sys, torch, transformers
from safetensors.torch import load_file, save_file
golden, work = sys.argv[1:]
tensors = load_file(f"{golden}/model.safetensors")

def variant(name, tensors=None):
    folder = f"{work}/{name}"
    os.mkdir(folder)
    shutil.copy(f"{golden}/config.json", folder)
    shutil.copy(f"{golden}/ids.json", folder)
    if tensors:
        save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    return folder

old = {name.removeprefix("transformer."): t for name, t in tensors.items()}
for layer in range(2):
    old[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64)
variant("old-names", old)
variant("bf16", {name: t.bfloat16() for name, t in tensors.items()})
variant("fp16", {name: t.half() for name, t in tensors.items()})
model = transformers.GPT2LMHeadModel.from_pretrained(golden)
model.save_pretrained(variant("shards"), max_shard_size="60KB")
assert os.path.exists(f"{work}/shards/model.safetensors.index.json")
PYTHON
}
check "variants are made" make_variants
variants="$work/old-names $work/bf16 $work/fp16 $work/shards"
# shellcheck disable=SC2086
check "logits of the golden model and its variants" logits "$golden" $variants

# ---- 2. ours, read by them
cat src/ir/*.c src/ops/*.c README.md >"$work/text.txt" 2>/dev/null
head -c 4000 "$work/text.txt" >"$work/sample.txt"
printf 'naïve café — 東京 🚀 don'\''t   stop\n\n\t1234567\n' >>"$work/sample.txt"
same_tokens() { # same_tokens DIR: transformers' tokenizer and ours on sample.txt
    "$trireme" tokenizer encode --tokenizer "$1" --json <"$work/sample.txt" >"$work/ids" || return 1
    "$python" - "$1" "$work" <<'PYTHON'
import json, sys, transformers
folder, work = sys.argv[1:]
ours = json.load(open(f"{work}/ids"))
ours = ours["ids"] if isinstance(ours, dict) else ours
text = open(f"{work}/sample.txt", encoding="utf-8", newline="").read()
theirs = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
assert ours == theirs, f"ours {len(ours)}: {ours[:20]}..., theirs {len(theirs)}: {theirs[:20]}..."
print(f"{len(ours)} tokens, the same")
PYTHON
}
train() { "$trireme" train "$@"; }

cat >"$work/tiny.yaml" <<YAML
model: {layers: 2, embed: 48, heads: 3, context: 64}
data: {train: $work/text.txt, tokenizer: $work/tok.json}
train: {steps: 6, batch: 4, seq: 64, eval_every: 0}
optimizer: {lr: 0.003}
threads: 1
out: $work/run
YAML
check "tokenizer is trained" \
    "$trireme" tokenizer train --vocab 400 --out "$work/tok.json" "$work/text.txt"
check "training from scratch" train "$work/tiny.yaml"
check "training in bf16" train "$work/tiny.yaml" train.precision=bf16 "out=$work/half"
check "training with characters" train "$work/tiny.yaml" data.tokenizer=chars "out=$work/chars"
check "training a LLaMA" train "$work/tiny.yaml" model.family=llama model.kv_heads=1 "out=$work/llama"
check "training a LLaMA with stretched positions" train "$work/tiny.yaml" model.family=llama model.untied=true \
    model.rope_kind=yarn model.rope_factor=4 model.rope_context=16 "out=$work/yarn"
for kind in unigram wordpiece; do
    check "a tokenizer, $kind" "$trireme" tokenizer train --kind $kind --vocab 400 --out "$work/$kind" "$work/text.txt"
done
check "training a T5 v1.1 with a table of its own for the output" train "$work/tiny.yaml" model.family=t5 model.gated=true \
    model.untied=true model.head_dim=16 train.decoder_seq=24 train.seq=48 "data.tokenizer=$work/unigram" "out=$work/t5"
printf '{"text": "a text", "label": "one"}\n{"text": "another", "pair": "a pair", "label": "two"}\n' >"$work/labelled.jsonl"
check "training a classifier" train "$work/tiny.yaml" model.family=bert model.labels=2 "data.tokenizer=$work/wordpiece" \
    "data.train=$work/labelled.jsonl" data.val_split=0 "out=$work/classifier"
cat >"$work/from.yaml" <<YAML
model: {from: $work/run}
data: {train: $work/text.txt}
train: {steps: 2, batch: 2, seq: 32, eval_every: 0}
threads: 1
out: $work/tuned
YAML
check "finetuning our own directory" train "$work/from.yaml"
check "logits of these runs" logits "$work/run" "$work/half" "$work/chars" "$work/tuned" "$work/llama" "$work/yarn" \
    "$work/t5" "$work/classifier"
check "tokens of the first run" same_tokens "$work/run"
check "tokens of the finetuned run" same_tokens "$work/tuned"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
