#!/usr/bin/env bash
# What overlap is worth on a link of limited rate: two network namespaces as two hosts, joined by a veth pair whose
# rate tc (tbf) limits on both sides, one rank of one thread on each, MPI over TCP between them. Step time with
# mesh.overlap=true against false, the two in turns in one run, medians.
#
#     bench/overlap.sh [BUILD_DIR]
#     RATES="500 2000" STEPS=5 MESHES="zero=0" MODEL="model.layers=4 ..." bench/overlap.sh
#
# Needs root (CAP_NET_ADMIN) and mpirun; exit status 77 where namespaces cannot be made. About 4 minutes.
set -u
build=${1:-build}
trireme=$(realpath "$build")/trireme
root=$(realpath "$(dirname "$0")/..")
read -r -a rates <<<"${RATES:-500 1000 4000}" # Mbit/s
IFS=';' read -r -a meshes <<<"${MESHES:-mesh.data=2;mesh.data=2 zero=1;mesh.data=2 zero=3;mesh.data=2 mesh.wire=bf16}"
steps=${STEPS:-5}
model=${MODEL:-model.layers=6 model.embed=512 model.heads=8 model.context=512 train.batch=4}
[ -x "$trireme" ] || { echo "no $trireme; build first"; exit 1; }
# shellcheck source=tools/two_hosts.sh
. "$root/tools/two_hosts.sh"
two_hosts_up 1
cat "$root"/docs/*.md >"$work/text.txt"

step_times() { # OVERLAP MESH: the step times, appended to times.OVERLAP
    rm -rf "$work/run"
    # shellcheck disable=SC2086
    if ! timeout 120 "$work/on" $a "${launch[@]}" "$trireme" train data.train="$work/text.txt" data.tokenizer=bytes out="$work/run" --quiet \
        threads=1 train.steps=$((steps + 1)) train.eval_every=0 train.save_every=0 $model $2 mesh.overlap="$1" >"$work/log" 2>&1; then
        tail -n 5 "$work/log" >&2
        return 1
    fi
    sed -n 's/.*"step_s": *\([0-9.e+-]*\).*/\1/p' "$work/run/metrics.jsonl" | tail -n +2 >>"$work/times.$1"
    grep -o '"bytes_sent": *[0-9]*' "$work/run/metrics.jsonl" | tail -n 1 | grep -o '[0-9]*$' >"$work/bytes"
}
median() { sort -g "$1" | awk '{ x[NR] = $1 } END { print NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }

printf '%s, %s cores, load %s; %s\n' "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
    "$(cut -d ' ' -f 1 /proc/loadavg)" "$model"
printf '%-28s %10s %10s %12s %12s %12s %7s\n' mesh Mbit/s 'MB a step' 'link alone s' 'without s' 'with s' ratio
failed=0
for rate in "${rates[@]}"; do
    link_rate "$rate"
    for mesh in "${meshes[@]}"; do
        rm -f "$work"/times.*
        for _ in 1 2; do
            step_times false "$mesh" && step_times true "$mesh" || { failed=1; continue 2; }
        done
        without=$(median "$work/times.false") with=$(median "$work/times.true")
        awk -v mesh="$mesh" -v rate="$rate" -v bytes="$(cat "$work/bytes")" -v a="$without" -v b="$with" 'BEGIN {
            printf "%-28s %10d %10.1f %12.3f %12.3f %12.3f %7.2f\n", mesh, rate, bytes / 1e6, bytes * 8 / rate / 1e6, a, b, a / b }'
    done
done
exit $failed
