#!/usr/bin/env bash
# Every optimizer in a run: a resume in the middle gives the bits of a run without a break, on one rank and on a mesh
# with ZeRO; a checkpoint of one mesh goes on on another; the loss falls; all meshes of 4 ranks have the same losses.
# Usage: tests/test_optimizers_run.sh BUILD_DIR
set -uo pipefail
root=$(pwd)
trireme=$(realpath "$1")/trireme
export OMP_WAIT_POLICY=passive
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
cat >tiny.yaml <<END
model: {layers: 2, embed: 32, heads: 4, context: 16, dropout: 0.1}
data: {train: $root/docs/formats.md, tokenizer: bytes}
train: {steps: 6, batch: 8, eval_every: 0, save_every: 3, log_every: 1, keep: 9}
schedule: {name: constant, warmup: 0}
threads: 1
END
passed=0 failed=0
ok() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED $*"; }
run() { if ! "$trireme" train "$@" --quiet >out 2>log; then fail "train $*: $(tail -n 1 log)"; fi; }
loss() { sed -nE "s/^\{\"step\": ?$2,.*\"loss\": ?([0-9.]+).*/\1/p" "$1/metrics.jsonl" | tail -n 1; }
same() { # WHAT A B: the checkpoints after the last step
    for file in model.safetensors optimizer.safetensors; do
        if cmp -s "$2/checkpoints/step-00000006/$file" "$3/checkpoints/step-00000006/$file"; then ok; else fail "$1: $file differs"; fi
    done
}
near() { # WHAT A B
    if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 < (1e-4 * a) ^ 2) }'; then ok; else fail "$1: $2 and $3"; fi
}
k=0
while read -r options; do
    k=$((k + 1))
    mesh=" mesh.data=2 zero=$((k % 3 + 1))"
    [ $((k % 2)) = 0 ] || mesh+=" mesh.tensor=2"
    precision="" # every second one in bf16
    [ $((k % 2)) = 1 ] || precision=train.precision=bf16
    # shellcheck disable=SC2086
    for where in "" "$mesh"; do
        out=run$k${where:+m}
        run tiny.yaml $options $precision $where out=$out
        cp -r $out $out-again
        rm -rf $out-again/checkpoints/step-00000006
        run --resume $out-again
        same "$options$where $precision" $out $out-again
    done
    near "$options on$mesh" "$(loss run$k 6)" "$(loss run${k}m 6)"
    cp -r run${k}m run${k}x
    rm -rf run${k}x/checkpoints/step-00000006
    # shellcheck disable=SC2086
    run --resume run${k}x mesh.data=1 mesh.tensor=1 zero=0
    near "$options resumed on one rank" "$(loss run$k 6)" "$(loss run${k}x 6)"
    if awk -v a="$(loss run$k 1)" -v b="$(loss run$k 6)" 'BEGIN { exit !(b < a - 0.1) }'; then ok; else
        fail "$options: the loss goes from $(loss run$k 1) to $(loss run$k 6)"
    fi
done <<END
optimizer.name=lion optimizer.lr=3e-3
optimizer.name=lars optimizer.lr=5 optimizer.trust=0.01
optimizer.name=lamb optimizer.lr=0.02
optimizer.name=adafactor optimizer.lr=0.05
optimizer.name=adafactor optimizer.lr=0.2 optimizer.factored=false optimizer.beta1=0.9
END
for options in optimizer.name=lamb optimizer.name=adafactor; do
    if "$trireme" parity "$root/examples/parity.yaml" data.train="$root/docs/formats.md" --ranks 4 --steps 2 \
        schedule.warmup=0 optimizer.lr=0.02 $options >out 2>&1; then ok; else fail "parity $options: $(tail -n 3 out)"; fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
