#!/usr/bin/env bash
# ViT and Swin on images: a run's resume gives the bits of one without a break; accuracy is in the metrics; predict
# says of each image what the run said; every mesh of 2 ranks has the same losses.
# Usage: tests/test_images_run.sh BUILD_DIR
set -uo pipefail
root=$(pwd)
trireme=$(realpath "$1")/trireme
export OMP_WAIT_POLICY=passive
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0
ok() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED $*"; tail -n 2 log 2>/dev/null; }
check() { local what=$1; shift; if "$@" >out 2>log; then ok; else fail "$what (exit status $?)"; fi; }
# 96 images of 12 x 12, whose pixels and labels are letters; 32 to validate on.
mkdir data
data() { # NAME COUNT
    { printf "\\0\\0\\x08\\x03\\0\\0\\0\\x$(printf %x "$2")\\0\\0\\0\\x0c\\0\\0\\0\\x0c" && head -c $((144 * $2)) "$root/docs/design.md"; } >"data/$1-images-idx3-ubyte"
    { printf "\\0\\0\\x08\\x01\\0\\0\\0\\x$(printf %x "$2")" && head -c "$2" "$root/docs/parallel.md"; } >"data/$1-labels-idx1-ubyte"
}
data train 96
data t10k 32
gzip data/t10k-*
common="model: {image: 12, channels: 1, labels: 256, embed: 16, heads: 4, mlp: 24, drop_path: 0.3, smoothing: 0.1"
rest="data: {train: data, val: data, crop: 1, flip: true, erase: 0.2, mixup: 0.4}
train: {steps: 6, batch: 8, eval_every: 3, eval_batches: 4, save_every: 3, log_every: 1, keep: 9}
schedule: {name: constant, warmup: 0}
threads: 1"
printf '%s, family: vit, patch: 3, layers: 2}\n%s\n' "$common" "$rest" >vit.yaml
printf '%s, family: swin, patch: 1, window: 3, depth1: 2, depth2: 1, depth3: 0, depth4: 0}\n%s\n' "$common" "$rest" >swin.yaml
for family in vit swin; do
    for precision in fp32 bf16; do
        run=$family-$precision
        check "$run" "$trireme" train $family.yaml train.precision=$precision out=$run --quiet
        cp -r "$run" "$run-again"
        rm -rf "$run-again/checkpoints/step-00000006"
        check "$run resumed" "$trireme" train --resume "$run-again" --quiet
        if cmp -s "$run/checkpoints/step-00000006/model.safetensors" "$run-again/checkpoints/step-00000006/model.safetensors"; then ok; else
            fail "$run: resumed, the weights differ"
        fi
    done
    said=$(sed -nE 's/.*"val_accuracy": ?([0-9.e-]+).*/\1/p' $family-fp32/metrics.jsonl | tail -n 1)
    check "$family predicts" "$trireme" predict $family-fp32/checkpoints/step-00000006 data --json --threads 1
    predicted=$(sed -nE 's/.*"accuracy":([0-9.]+).*/\1/p' out)
    if [ "$(grep -c '"index"' out)" = 32 ] && awk -v a="$said" -v b="$predicted" 'BEGIN { exit !(a != "" && b != "" && (a - b) ^ 2 < 1e-10) }'; then ok; else
        fail "$family: accuracy $said while training, $predicted predicted"
    fi
    # Constant rates and SGD, so that a wrong factor of a gradient shows.
    check "$family on 2 ranks" "$trireme" parity $family.yaml --ranks 2 --steps 3 optimizer.name=sgd optimizer.lr=0.1
    check "$family on 3 ranks" "$trireme" parity $family.yaml --ranks 3 --steps 2 optimizer.name=sgd optimizer.lr=0.1
done
"$trireme" predict vit-fp32 vit.yaml >out 2>log
if [ $? = 2 ] && grep -q "neither an IDX file" log; then ok; else fail "no image: $(cat log)"; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
