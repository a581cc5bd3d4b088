#!/usr/bin/env bash
# Two ranks as processes under mpirun against two as threads of one process: step times of a small GPT with mesh.data=2,
# one thread a rank, with gradients summed behind the backward pass and without; all ways in turns, medians.
#
#     bench/processes.sh [BUILD_DIR]
#     TURNS=2 STEPS=10 MODEL="model.layers=3 ..." bench/processes.sh
#
# Needs mpirun of Open MPI. About 40 s.
set -u
trireme=$(realpath "${1:-build}")/trireme
root=$(realpath "$(dirname "$0")/..")
turns=${TURNS:-2} steps=${STEPS:-10}
model=${MODEL:-model.layers=3 model.embed=512 model.heads=8 model.context=128 train.batch=4}
[ -x "$trireme" ] || { echo "no $trireme; build first"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf -- "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cat "$root"/docs/*.md >"$work/text.txt"
median() { sort -g "$1" | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }
run() { # NAME OVERLAP LAUNCH...
    local name=$1.$2 overlap=$2
    shift 2
    rm -rf "$work/run"
    # shellcheck disable=SC2086
    "$@" "$trireme" train data.train="$work/text.txt" data.tokenizer=bytes out="$work/run" --quiet threads=1 mesh.data=2 \
        train.steps=$((steps + 2)) train.eval_every=0 train.save_every=0 mesh.overlap="$overlap" $model >"$work/log" 2>&1 ||
        { tail -n 5 "$work/log" >&2; exit 1; }
    sed -n 's/.*"step_s": *\([0-9.e+-]*\).*/\1/p' "$work/run/metrics.jsonl" | tail -n +3 >>"$work/times.$name"
}
for _ in $(seq "$turns"); do
    for overlap in true false; do
        run threads $overlap env
        run processes $overlap mpirun --bind-to none -n 2
    done
done
printf '%s, %s cores, load %s; %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
    "$(cut -d ' ' -f 1 /proc/loadavg)" "$model"
for overlap in true false; do
    awk -v overlap=$overlap -v x="$(median "$work/times.threads.$overlap")" -v y="$(median "$work/times.processes.$overlap")" \
        'BEGIN { printf "mesh.overlap=%-6s threads %.3f s a step, processes %.3f s, ratio %.2f\n", overlap, x, y, x / y }'
done
