#!/usr/bin/env bash
# Memory a rank, as the techniques promise it: planned for GPT-2 medium (`trireme inspect`, nothing is run), planned and
# measured for a small GPT on ranks of this machine (`trireme parity`). Tables in Markdown, MB of 10^6 bytes.
#
#     bench/memory.sh [BUILD_DIR]          about a minute; --planned: only what is planned, some seconds
#
# docs/parallel.md has a run of it; tests/test_memory_ranks.sh checks the inequalities.
set -euo pipefail
cd "$(dirname "$0")/.."
planned_only=no
[ "${1:-}" = --planned ] && { planned_only=yes; shift; }
trireme=${1:-build}/trireme
export OMP_WAIT_POLICY=passive # ranks outnumber cores
medium=(model.preset=gpt2-medium model.vocab=50257 train.seq=512 train.recompute=none threads=1)

# The numbers of these keys of the plan of a mesh, in MB, or what is asked for of them.
plan() { # KEY OVERRIDE...
    local key=$1
    shift
    "$trireme" inspect "${medium[@]}" "$@" --json | sed -n "s/^ *\"$key\": \([0-9]*\).*/\1/p" | head -n 1
}
row() { # NAME KEY SEQUENCES OVERRIDE...: over 1, 2, 4, 8 ranks; N in an override and the sequences is their number
    local name=$1 key=$2 sequences=$3 n line="| $1 |"
    shift 3
    for n in 1 2 4 8; do
        local words=("${@//N/$n}")
        line+=" $(plan "$key" "${words[@]}" train.batch=${sequences//N/$n} train.micro_batch=${sequences//N/$n} |
            awk '{ printf "%.0f", $1 / 1e6 }') |"
    done
    echo "$line"
}
head_of() { printf '\n%s\n\n| %s | 1 rank | 2 | 4 | 8 |\n|---|---|---|---|---|\n' "$1" "$2"; }

parameters=$(plan parameters)
echo "GPT-2 medium: $parameters parameters, f32, AdamW, sequences of 512, no recomputation"
head_of "Planned peak of a rank, one sequence a rank" "ZeRO over data"
for zero in 0 1 2 3; do
    row "ZeRO-$zero" planned_peak_bytes N mesh.data=N zero=$zero
done
# With accumulated gradients, 4 + 4 + 8 bytes a parameter.
states() { # ZERO N
    "$trireme" inspect "${medium[@]}" mesh.data="$2" zero="$1" train.batch=$((2 * $2)) train.micro_batch="$2" --json |
        sed -n 's/^    "parameters": \([0-9]*\).*/\1/p;s/^    "state": \([0-9]*\).*/\1/p' |
        awk -v p="$parameters" -v z="$1" -v n="$2" '{ sum += $1 } END {
            split("16 8 4 0", whole, " "); split("0 8 12 16", cut, " ")
            printf " %.0f (%.0f) |", sum / 1e6, (whole[z + 1] + cut[z + 1] / n) * p / 1e6 }'
}
head_of "Parameters, gradients of two microbatches, optimizer; in brackets Rajbhandari et al. 2020, figure 1, in f32" "ZeRO over data"
for zero in 0 1 2 3; do
    printf '| ZeRO-%s |' $zero
    for n in 1 2 4 8; do states $zero $n; done
    echo
done
head_of "Planned peak of a rank, 4 sequences in all" "tensor"
row "1D" planned_peak_bytes 4 mesh.tensor=N
row "1D, Megatron's sequence" planned_peak_bytes 4 mesh.tensor=N mesh.sequence_kind=megatron
row "Ulysses, ZeRO-0" planned_peak_bytes 4 mesh.sequence=N
head_of "Activations at the peak, 8 sequences in all" "tensor"
row "1D" step_activations 8 mesh.tensor=N
row "1D, Megatron's sequence" step_activations 8 mesh.tensor=N mesh.sequence_kind=megatron
grid() { # NAME RANKS KIND
    local line="| $1 |" n
    for n in 1 2 4 8; do
        [ $n = "$2" ] && line+=" $(awk -v v="$(plan step_activations mesh.tensor=$n mesh.tensor_kind="$3" train.batch=8 \
            train.micro_batch=8)" 'BEGIN { printf "%.0f", v / 1e6 }') |" || line+=" |"
    done
    echo "$line"
}
grid 2D 4 2d
grid 2.5D 8 2.5d
grid 3D 8 3d
printf '\nMicrobatches alive on each rank of 8 microbatches, and the bound min(P - r, M)\n\n| schedule | P | alive | bound | planned peak of rank 0 |\n|---|---|---|---|---|\n'
for ranks in 2 4 8; do
    for schedule in gpipe 1f1b zero_bubble; do
        how=(mesh.pipeline=$ranks train.batch=8 train.micro_batch=1 pipeline.schedule=$schedule)
        alive=$("$trireme" inspect "${medium[@]}" "${how[@]}" --schedule | sed -n 's/^# rank.*alive \([0-9]*\).*/\1/p' | paste -sd' ')
        case $schedule in
        gpipe) bound=8 ;;
        1f1b) bound=$(seq $ranks -1 1 | paste -sd' ') ;;
        *) bound=$ranks ;;
        esac
        peak=$("$trireme" inspect "${medium[@]}" "${how[@]}" --json | sed -n 's/^ *"planned_peak_bytes": \([0-9]*\).*/\1/p')
        echo "| $schedule | $ranks | $alive | $bound | $((peak / 1000000)) |"
    done
done
[ $planned_only = yes ] && exit

# 12.7 M parameters, 153 MB with the optimizer.
small=(model.layers=4 model.embed=512 model.heads=8 model.context=128 train.seq=128 train.batch=8 model.dropout=0.1
    data.train=docs/formats.md threads=1)
measured() { # RANKS MESH LINES-LEFT-OUT
    "$trireme" parity examples/parity.yaml "${small[@]}" --ranks "$1" --mesh "$2" --steps 2 --json |
        sed -n 's/.*"mesh":"\([^"]*\)".*"zero":\([0-9]\).*"schedule":\("[^"]*"\|null\).*"planned_peak_bytes":\([0-9]*\).*"peak_bytes":\([0-9]*\).*/\1|\2|\4|\5/p' |
        awk -F'|' -v skip="$3" 'NR > skip { printf "| %s | %s | %.1f | %.1f |\n", $1, $2, $3 / 1e6, $4 / 1e6 }'
}
printf '\nPlanned and measured, a GPT of 12.7 M parameters, 8 x 128 tokens a step (measured: with the process, shared out)\n\n| mesh | ZeRO | planned | measured |\n|---|---|---|---|\n'
measured 1 data=1 0
for n in 2 4 8; do measured $n data=$n 1; done
for n in 2 4 8; do measured $n tensor=$n 1; done
for n in 2 4 8; do measured $n "tensor=$n sequence_kind=megatron" 1; done
measured 4 "tensor=4 tensor_kind=2d" 1
measured 8 "tensor=8 tensor_kind=2.5d" 1
measured 8 "tensor=8 tensor_kind=3d" 1
