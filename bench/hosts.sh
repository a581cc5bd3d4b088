#!/usr/bin/env bash
# What sums host by host (src/comm/hierarchical.c) are worth: two network namespaces as two hosts with two ranks each,
# joined by a veth pair whose rate tc limits on both sides. `--map-by node` deals the ranks out in turn, and then every
# rank exchanges with every other directly: the two in turns, medians. First sums of some sizes, then a training with
# mesh.data=4.
#
#     bench/hosts.sh [BUILD_DIR]
#     RATES="200" SUMS="65536 20" STEPS=5 TURNS=2 MODEL="model.layers=4 ..." bench/hosts.sh
#
# Needs root (CAP_NET_ADMIN) and mpirun; exit status 77 where namespaces cannot be made. About 2 minutes.
set -u
build=$(realpath "${1:-build}")
root=$(realpath "$(dirname "$0")/..")
read -r -a rates <<<"${RATES:-200 1000}" # Mbit/s
read -r -a sums <<<"${SUMS:-4 100 4096 100 65536 20 1048576 11 16777216 3}" # bytes and how often
turns=${TURNS:-2} steps=${STEPS:-5}
model=${MODEL:-model.layers=4 model.embed=384 model.heads=6 model.context=64 train.batch=4}
[ -x "$build/trireme" ] && [ -x "$build/test_comm" ] || { echo "no $build/trireme or test_comm; build first"; exit 1; }
# shellcheck source=tools/two_hosts.sh
. "$root/tools/two_hosts.sh"
two_hosts_up 2 "${BTL:-vader,tcp,self}"
cat "$root"/docs/*.md >"$work/text.txt"
median() { sort -g "$1" | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }
# run WAY COMMAND...: over the two hosts; "hosts": 0 and 1 on one, 2 and 3 on the other; "flat": 0 and 2, 1 and 3.
run() {
    local map=()
    [ "$1" = flat ] && map=(--map-by node)
    shift
    timeout 120 "$work/on" $a "${launch[@]}" "${map[@]}" "$@" 2>"$work/log" || { tail -n 5 "$work/log" >&2; exit 1; }
}

printf '%s, %s cores, load %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
    "$(cut -d ' ' -f 1 /proc/loadavg)"
printf '%-14s %7s %14s %14s %7s %14s %14s\n' 'all-reduce' Mbit/s 'directly us' 'by hosts us' ratio 'across B' 'across B'
for rate in "${rates[@]}"; do
    link_rate "$rate"
    rm -f "$work"/sums.*
    for _ in $(seq "$turns"); do
        for way in flat hosts; do run $way "$build/test_comm" link "${sums[@]}" >>"$work/sums.$way"; done
    done
    for ((k = 0; k < ${#sums[@]}; k += 2)); do
        for way in flat hosts; do
            awk -v bytes="${sums[k]}" '$1 == bytes { print $2 }' "$work/sums.$way" >"$work/$way.us"
            awk -v bytes="${sums[k]}" '$1 == bytes { print $3; exit }' "$work/sums.$way" >"$work/$way.across"
        done
        awk -v bytes="${sums[k]}" -v rate="$rate" -v x="$(median "$work/flat.us")" -v y="$(median "$work/hosts.us")" \
            -v p="$(cat "$work/flat.across")" -v q="$(cat "$work/hosts.across")" 'BEGIN {
            printf "%-14s %7d %14.0f %14.0f %7.2f %14d %14d\n", bytes " B", rate, x, y, x / y, p, q }'
    done
done

printf '%-14s %7s %14s %14s %7s %14s %14s\n' 'training' Mbit/s 'directly s' 'by hosts s' ratio 'link MB/step' 'link MB/step'
for rate in "${rates[@]}"; do
    link_rate "$rate"
    rm -f "$work"/step.* "$work"/link.*
    for _ in $(seq "$turns"); do
        for way in flat hosts; do
            rm -rf "$work/run"
            before=$(link_bytes)
            # shellcheck disable=SC2086
            run $way "$build/trireme" train data.train="$work/text.txt" data.tokenizer=bytes out="$work/run" --quiet threads=1 \
                train.steps=$((steps + 1)) train.eval_every=0 train.save_every=0 mesh.data=4 $model >/dev/null
            echo $((($(link_bytes) - before) / (steps + 1))) >>"$work/link.$way"
            sed -n 's/.*"step_s": *\([0-9.e+-]*\).*/\1/p' "$work/run/metrics.jsonl" | tail -n +2 >>"$work/step.$way"
        done
    done
    awk -v rate="$rate" -v x="$(median "$work/step.flat")" -v y="$(median "$work/step.hosts")" \
        -v p="$(median "$work/link.flat")" -v q="$(median "$work/link.hosts")" 'BEGIN {
        printf "%-14s %7d %14.3f %14.3f %7.2f %14.1f %14.1f\n", "mesh.data=4", rate, x, y, x / y, p / 1e6, q / 1e6 }'
done
