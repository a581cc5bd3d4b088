#!/usr/bin/env bash
# Memory a rank falls as the papers say: what is planned on 1 to 8 ranks against the formulas of ZeRO and 1F1B and the
# order of the tensor arrangements; and what is measured against what is planned. bench/memory.sh prints the tables.
#     tests/test_memory_ranks.sh BUILD_DIR
set -uo pipefail
trireme=$1/trireme
export OMP_WAIT_POLICY=passive
passed=0 failed=0
check() { # WHAT AWK-CONDITION NAME=VALUE...
    local what=$1 condition=$2 words=() word
    shift 2
    for word in "$@"; do words+=(-v "$word"); done
    if awk "${words[@]}" "BEGIN { exit !($condition) }"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $what: $condition with $*" >&2
    fi
}
# All sizes are multiples of eight, so that nothing is left over.
model=(model.layers=4 model.embed=128 model.heads=8 model.context=64 model.vocab=512 train.seq=64 threads=1)
plan() { # KEY OVERRIDE...: "planned_peak_bytes", "parameters" (bytes), "state", "step_activations"
    local key=$1
    shift
    "$trireme" inspect "${model[@]}" "$@" --json | sed -n "s/^ *\"$key\": \([0-9]*\).*/\1/p" | tail -n 1
}
parameters=$("$trireme" inspect "${model[@]}" --json | sed -n 's/^  "parameters": \([0-9]*\).*/\1/p')

# ---- ZeRO: 4 bytes a parameter, 4 of accumulated gradients, 8 of AdamW, and 128 of the loss and its count ----
for n in 1 2 4 8; do
    before=0
    for zero in 0 1 2 3; do
        how=(mesh.data=$n zero=$zero train.batch=$((2 * n)) train.micro_batch=$n)
        states=$(($(plan parameters "${how[@]}") + $(plan state "${how[@]}")))
        case $zero in 0) form='16 * p' ;; 1) form='8 * p + 8 * p / n' ;; 2) form='4 * p + 12 * p / n' ;; 3) form='16 * p / n' ;; esac
        check "ZeRO-$zero on $n" "s >= $form && s <= $form + 128" p="$parameters" n=$n s=$states
        peak=$(plan planned_peak_bytes "${how[@]}")
        # What level 2 saves in accumulators is little beside the whole gradients of a microbatch of so small a model.
        [ $zero = 2 ] && continue
        [ $zero != 0 ] && [ $n -gt 1 ] && check "ZeRO-$zero falls on $n" "peak < before" peak="$peak" before="$before"
        before=$peak
    done
done

# ---- tensor: everything but norms, output biases and positions is cut; activations of squares and cubes ----
whole=$((4 * (64 * 128 + 4 * 6 * 128 + 2 * 128)))
before=
for n in 1 2 4 8; do
    how=(mesh.tensor=$n train.batch=8 train.micro_batch=8)
    check "tensor parameters on $n" "b == (4 * p - w) / n + w" b="$(plan parameters "${how[@]}")" p="$parameters" w=$whole n=$n
    peak=$(plan planned_peak_bytes "${how[@]}")
    [ -n "$before" ] && check "tensor falls on $n" "peak < before" peak="$peak" before="$before"
    before=$peak
done
one=$(plan step_activations train.batch=8 train.micro_batch=8)
activations() { plan step_activations mesh.tensor="$1" train.batch=8 train.micro_batch=8 "${@:2}"; }
# Without overlap: what that keeps alive is bounded by the parameters, which are much of so small a model.
plain=mesh.overlap=false
check "2D holds less than 1D on 4" "b < 0.7 * a && b < 0.3 * one" a="$(activations 4 $plain)" b="$(activations 4 mesh.tensor_kind=2d $plain)" one="$one"
for kind in 2.5d 3d; do
    check "$kind holds less than 1D on 8" "b < 0.6 * a && b < 0.2 * one" a="$(activations 8 $plain)" b="$(activations 8 mesh.tensor_kind=$kind $plain)" one="$one"
done
for mesh in "4 2d" "8 2.5d" "8 3d"; do
    how=(mesh.tensor=${mesh% *} mesh.tensor_kind=${mesh#* } train.batch=8 train.micro_batch=8)
    check "overlap in ${mesh#* } holds an eighth of the parameters at most" "b >= a && b <= a + 4 * p / 8" p="$parameters" \
        a="$(plan planned_peak_bytes "${how[@]}" $plain)" b="$(plan planned_peak_bytes "${how[@]}")"
done
check "Megatron's sequence cuts what 1D leaves whole" "b < 0.4 * one" b="$(activations 4 mesh.sequence_kind=megatron)" one="$one"

# ---- pipeline: min(P - r, M) alive under 1F1B, all under GPipe; the plan follows ----
for stages in 2 4; do
    how=(mesh.pipeline=$stages train.batch=8 train.micro_batch=1)
    alive() { "$trireme" inspect "${model[@]}" "${how[@]}" pipeline.schedule="$1" --schedule | sed -n 's/^# rank.*alive \([0-9]*\).*/\1/p' | paste -sd' '; }
    check "1F1B on $stages" "a == b" a="'$(alive 1f1b)'" b="'$(seq $stages -1 1 | paste -sd' ')'"
    check "GPipe on $stages" "a == b" a="'$(alive gpipe)'" b="'$(yes 8 | head -n $stages | paste -sd' ')'"
    check "1F1B holds less than GPipe on $stages" 'a < b' a="$(plan step_activations "${how[@]}")" \
        b="$(plan step_activations "${how[@]}" pipeline.schedule=gpipe)"
done

# ---- measured: between what is planned and 8 MB a rank more (the process, shared out) ----
measured() { # RANKS MESH: lines "zero planned measured"
    "$trireme" parity examples/parity.yaml model.embed=256 model.heads=8 data.train=docs/formats.md threads=1 --ranks "$1" \
        --mesh "$2" --steps 2 --json |
        sed -n 's/.*"mesh":"'"$2"'".*"zero":\([0-9]\).*"planned_peak_bytes":\([0-9]*\),"peak_bytes":\([0-9]*\).*/\1 \2 \3/p'
}
if grep -q -e __asan_init -e __tsan_init "$trireme"; then
    echo "measured: skipped, a sanitizer's own memory is many times the program's"
else
    before= levels=0
    while read -r zero planned peak; do
        check "measured ZeRO-$zero" "m > 0.8 * p && m < p + 8e6" p="$planned" m="$peak"
        [ "$zero" = 1 ] || [ "$zero" = 3 ] && check "measured ZeRO-$zero falls" "m < 0.9 * before" m="$peak" before="$before"
        before=$peak levels=$((levels + 1))
    done < <(measured 4 "data=4")
    check "four levels were measured" "n == 4" n=$levels
    read -r _ planned peak < <(measured 4 "tensor=4")
    check "measured tensor" "m > 0.8 * p && m < p + 8e6" p="$planned" m="$peak"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
