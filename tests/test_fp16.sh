#!/usr/bin/env bash
# train.precision=fp16: losses as in fp32; the loss scale falls with each overflow, which changes nothing else, and rises
# again; going on gives the bits of a run without a break, in the middle of that; every mesh of 2 ranks agrees, on
# overflows too.
#     tests/test_fp16.sh BUILD_DIR
source "$(dirname "$0")/check.sh" "$@"
values() { sed -nE "/^.\"step\"/s/.*\"$2\": ?([0-9.e+-]+).*/\1/p" "$1/metrics.jsonl"; }
cat >gpt.yaml <<YAML
model: {layers: 2, embed: 32, heads: 2, context: 32, dropout: 0.1}
data: {train: $root/docs/design.md, tokenizer: bytes, val_split: 0.1}
train: {steps: 40, batch: 8, micro_batch: 4, eval_every: 20, eval_batches: 4, save_every: 20, keep: 9}
optimizer: {lr: 3e-3}
schedule: {warmup: 5}
threads: 1
YAML
check "fp32" "$trireme" train gpt.yaml --quiet out=wide
check "fp16" "$trireme" train gpt.yaml --quiet out=half train.precision=fp16 train.loss_scale=1024
paste <(values wide loss) <(values half loss) | awk '{ d = $1 / $2 - 1; sum += d; if (d * d > 1e-4) bad = 1 } END { exit bad || NR < 40 || sum * sum > 1e-6 * NR * NR }' && ok ||
    fail "losses differ by 1 % in a step, or by 0.1 % on average"
[ "$(values half loss_scale | sort -u)" = 1024 ] && [ "$(values half skipped | sort -u)" = 0 ] && ok || fail "the scale"
# A scale that overflows: halved until it fits, and doubled after 4 good steps.
high="train.precision=fp16 train.loss_scale=1e9 train.loss_scale_every=4"
check "overflows" "$trireme" train gpt.yaml --quiet out=high $high
values high loss_scale | awk 'NR > 1 && $1 < last { down++ } NR > 1 && $1 > last { up++ } { last = $1 } END { exit !(down > 5 && up > 2) }' && ok || fail "the scale neither falls nor rises"
[ "$(values high skipped | tail -n 1)" -gt 5 ] && ok || fail "no step was skipped"
values high loss | tail -n 5 | awk '{ s += $1 } END { exit !(s / NR < 4.5) }' && ok || fail "it does not learn after overflows"
cp -r high again
rm -rf again/checkpoints/step-00000040
check "going on" "$trireme" train --resume again --quiet
cmp -s high/checkpoints/step-00000040/model.safetensors again/checkpoints/step-00000040/model.safetensors &&
    cmp -s high/checkpoints/step-00000040/optimizer.safetensors again/checkpoints/step-00000040/optimizer.safetensors && ok || fail "resumed, bits differ"
[ "$(values high loss_scale)" = "$(values again loss_scale)" ] && ok || fail "resumed, scales differ"
check "parity" "$trireme" parity gpt.yaml --ranks 2 --steps 4 train.precision=fp16 train.eval_every=0 data.val_split=0 model.dropout=0
check "overflows on 2 ranks" "$trireme" train gpt.yaml --quiet out=ranks mesh.data=2 $high
paste <(values high loss) <(values ranks loss) | tail -n 10 | awk '{ a += $1; b += $2 } END { d = a / b - 1; exit !(d * d < 4e-4) }' && ok || fail "ranks went on differently"
"$trireme" train gpt.yaml --quiet train.loss_scale=8 out=other >log 2>&1
[ $? = 2 ] && grep -q 'train.loss_scale has no effect, since train.precision is fp32; add train.precision=fp16' log && ok || fail "a scale in fp32"
report
