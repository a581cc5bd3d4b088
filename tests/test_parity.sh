#!/usr/bin/env bash
# The same loss on every mesh of 2, 3, 4 and 6 ranks: dropout on, sizes that do not divide, f32 and bf16.
# Usage: tests/test_parity.sh BUILD_DIR
set -uo pipefail
trireme=$1/trireme
export OMP_WAIT_POLICY=passive # ranks outnumber cores
passed=0 failed=0

check() { # NAME, then what parity is given
    local name=$1 out
    shift
    if out=$("$trireme" parity examples/parity.yaml data.train=docs/formats.md --json "$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $name"
        echo "$out" | tail -5
    fi
}

check "2 ranks" --ranks 2
check "3 ranks" --ranks 3
check "4 ranks" --ranks 4 --steps 4
check "6 ranks" --ranks 6 --steps 2
check "2 ranks, microbatches" --ranks 2 --steps 4 train.micro_batch=4
check "4 ranks, microbatches, recompute" --ranks 4 --steps 3 train.micro_batch=4 train.recompute=full
check "2 ranks, bf16" --ranks 2 --steps 4 train.precision=bf16
check "3 ranks, a window" --ranks 3 --steps 3 model.banded=true model.band=10
check "2 ranks, sgd" --ranks 2 --steps 3 optimizer.name=sgd
# Experts on an axis of their own, alone and with every other technique; half of them find no room for all tokens.
for mesh in "expert=4" "data=2 expert=2" "expert=2 tensor=2" "pipeline=2 expert=2" "expert=2 sequence=2 sequence_kind=ulysses"; do
    if out=$("$trireme" parity examples/gshard.yaml data.train=docs/formats.md --json --ranks 4 --steps 2 --mesh "$mesh" \
        model.layers=2 model.embed=48 model.mlp=64 model.experts=5 model.expert_capacity=0.8 train.batch=8 train.seq=24 \
        train.eval_every=0 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)); echo "FAILED experts on $mesh"; echo "$out" | tail -5
    fi
done
# A sharded plan is smaller: ZeRO falls from level to level, and so does tensor parallelism.
peaks=$("$trireme" parity examples/parity.yaml data.train=docs/formats.md --json --ranks 2 --steps 1 |
    sed -n 's/.*"mesh":"data=2",[^}]*"planned_peak_bytes":\([0-9]*\).*/\1/p' | tr '\n' ' ')
read -r z0 z1 z2 z3 <<< "$peaks"
if [ "$z1" -lt "$z0" ] && [ "$z2" -le "$z1" ] && [ "$z3" -lt "$z2" ]; then
    passed=$((passed + 1))
else
    failed=$((failed + 1)); echo "FAILED ZeRO peaks: $peaks"
fi
# What an object has; that the mesh is in the form of its keys; that what was measured is no less than what was planned
# less what is never touched, and not much more (a process of small models is mostly itself: 25 MB).
keys() { grep -oE '"[a-z_]+":' | tr -d '":' | sort -u | tr '\n' ' '; }
objects=$("$trireme" parity examples/parity.yaml data.train=docs/formats.md --json --ranks 4 --steps 2)
equal() { if [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED $1: $2, expected $3"; fi; }
# Every mesh of 4 ranks runs, but two stages on each of four ranks with four layers, which is refused with the reason.
equal "refused meshes" "$(grep -c '"refused":"' <<< "$objects")" 1
equal "keys of a mesh" "$(grep -v refused <<< "$objects" | keys)" \
    "bytes_sent losses max_rel_diff mesh peak_bytes planned_peak_bytes schedule zero "
equal "keys of a refused mesh" "$(grep refused <<< "$objects" | keys)" "mesh refused schedule zero "
equal "meshes" "$(sed 's/.*"mesh":"\([^"]*\)".*/\1/' <<< "$objects" | grep -vcE '^((pipeline|data|tensor|sequence)=[0-9]+ ?)+((sequence|tensor)_kind=(megatron|ulysses|ring|2d|2.5d|3d))?$')" 0
sed -n 's/.*"planned_peak_bytes":\([0-9]*\),"peak_bytes":\([0-9]*\).*/\1 \2/p' <<< "$objects" |
    awk '{ if ($2 < 0.7 * $1 || $2 > $1 + 50e6) exit 1 } END { exit !NR }'
equal "measured peaks" $? 0
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
