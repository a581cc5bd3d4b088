#!/usr/bin/env bash
# Training over pipeline stages: every schedule gives the losses of one rank, also with the other axes; checkpoints go
# on under the same mesh bit for bit and under others; a schedule printed by `inspect --schedule` is read again.
# Usage: tests/test_pipeline.sh BUILD_DIR
set -uo pipefail
trireme=$1/trireme
export OMP_WAIT_POLICY=passive # ranks outnumber cores
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0
base=(examples/parity.yaml data.train=docs/formats.md train.eval_every=2 schedule.name=constant threads=1)

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAILED $*"; }

train() { # NAME, overrides
    local name=$1
    shift
    "$trireme" train "${base[@]}" out="$scratch/$name" "$@" > "$scratch/log" 2>&1 ||
        { fail "$name: $*"; tail -3 "$scratch/log"; return 1; }
}
losses() { # of a run, training and validation
    sed -n 's/.*"step": *\([0-9]*\), *"[val_]*loss": *\([-0-9.e+]*\).*/\1 \2/p' "$scratch/$1/metrics.jsonl"
}
same() { # A B BOUND: equal within the bound, relative, and not empty
    [ -s "$scratch/$1/metrics.jsonl" ] && paste <(losses "$1") <(losses "$2") |
        awk -v bound="$3" '{ a = $(NF / 2); b = $NF; n++; d = a / b - 1; if (d < 0) d = -d; if (!(d <= bound)) bad = 1 }
                           END { exit bad || n < 4 }'
}
compare() { # bound, then overrides: training over them is training on one rank with those of train.* and optimizer.*
    local bound=$1 alone=() key
    shift
    for key in "$@"; do case $key in train.* | optimizer.*) alone+=("$key") ;; esac; done
    local name="one-${alone[*]:-}"
    name=${name//[^a-z0-9]/-}
    [ -d "$scratch/$name" ] || train "$name" train.steps=4 "${alone[@]}" || return
    rm -rf "$scratch/mesh"
    train mesh train.steps=4 "$@" || return
    if same mesh "$name" "$bound"; then pass; else fail "losses differ: $*"; paste <(losses mesh) <(losses "$name"); fi
}

compare 1e-5 mesh.pipeline=2 train.micro_batch=1 pipeline.schedule=gpipe
compare 1e-5 mesh.pipeline=2 train.micro_batch=1
compare 1e-5 mesh.pipeline=2 train.micro_batch=1 pipeline.schedule=zero_bubble
compare 1e-5 mesh.pipeline=2 train.micro_batch=1 pipeline.schedule=interleaved
compare 1e-5 mesh.pipeline=3 train.micro_batch=2 pipeline.schedule=zero_bubble train.recompute=full
compare 1e-5 mesh.pipeline=4 train.micro_batch=2 pipeline.schedule=gpipe train.recompute=none
compare 1e-5 mesh.pipeline=2 # one microbatch
compare 1e-5 mesh.pipeline=2 train.micro_batch=2 optimizer.name=sgd
compare 1e-2 mesh.pipeline=2 train.micro_batch=2 train.precision=bf16
for zero in 0 1 2 3; do
    compare 1e-5 mesh.pipeline=2 mesh.data=2 train.micro_batch=4 zero=$zero
done
compare 1e-5 mesh.pipeline=2 mesh.tensor=2 train.micro_batch=4
compare 1e-5 mesh.pipeline=2 mesh.tensor=3 train.micro_batch=4 mesh.sequence_kind=megatron pipeline.schedule=zero_bubble
compare 1e-5 mesh.pipeline=2 mesh.sequence=2 train.micro_batch=4
compare 1e-5 mesh.pipeline=2 mesh.sequence=3 mesh.sequence_kind=ring train.micro_batch=4 pipeline.schedule=zero_bubble
compare 1e-5 mesh.pipeline=2 mesh.tensor=2 mesh.data=2 train.micro_batch=2 zero=3 pipeline.schedule=interleaved

"$trireme" inspect "${base[@]}" mesh.pipeline=2 train.micro_batch=2 pipeline.schedule=zero_bubble --schedule > "$scratch/own.csv"
if grep -q '^# bubble 0\.[0-9]* ' "$scratch/own.csv" && grep -q 'microbatches alive' "$scratch/own.csv"; then pass; else fail "inspect --schedule"; fi
compare 1e-5 mesh.pipeline=2 train.micro_batch=2 pipeline.schedule="$scratch/own.csv"

# Four steps are two, saved, and two more; the checkpoint is one that any mesh reads.
mesh=(mesh.pipeline=2 mesh.data=2 zero=1 train.micro_batch=2 pipeline.schedule=interleaved)
train straight train.steps=4 "${mesh[@]}"
train half train.steps=2 "${mesh[@]}"
for to in same one other; do
    cp -r "$scratch/half" "$scratch/$to"
done
resume() { "$trireme" train --resume "$scratch/$1" train.steps=4 "${@:2}" > "$scratch/log" 2>&1 || { fail "resume $*"; tail -3 "$scratch/log"; }; }
resume same
resume one mesh.pipeline=1 mesh.data=1 zero=0
resume other mesh.pipeline=4 mesh.data=1 zero=0 pipeline.schedule=gpipe pipeline.chunks=1
if same same straight 0 && cmp -s "$scratch/same/latest/optimizer.safetensors" "$scratch/straight/latest/optimizer.safetensors" &&
    cmp -s "$scratch/same/latest/model.safetensors" "$scratch/straight/latest/model.safetensors"; then
    pass
else
    fail "resume on the same mesh is not bit-exact"
fi
for to in one other; do
    if same $to straight 1e-5; then pass; else fail "resume on another mesh: $to"; fi
done

# Each stage has its share: the worst rank of four stages holds less than one rank, and more than a fourth.
peak() { "$trireme" inspect "${base[@]}" "$@" --json | sed -n 's/.*"planned_peak_bytes": \([0-9]*\).*/\1/p' | head -1; }
one=$(peak train.micro_batch=1) four=$(peak train.micro_batch=1 mesh.pipeline=4)
if [ "$four" -lt "$one" ] && [ $((4 * four)) -gt "$one" ]; then pass; else fail "planned peaks: one rank $one, of four $four"; fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
