#!/usr/bin/env bash
# Two hosts: two network namespaces with addresses and host names of their own, joined by a veth pair, and mpirun whose
# launch agent enters the other one.
#   - four ranks, two on each host, train over the link with the losses of one rank
#   - sums host by host put half as much on the link as ranks by themselves would
#   - the link is taken down: every rank, on both sides, ends within 10 s, with a sentence that names a rank and its host
#   - --restarts goes on from the last checkpoint when the link is back; and one rank goes on from it
#
#     bash tests/test_two_hosts.sh BUILD_DIR      exit status 77 where namespaces or mpirun cannot be had
set -u
trireme=$(realpath "${1:?usage: test_two_hosts.sh BUILD_DIR}")/trireme
root=$(realpath "$(dirname "$0")/..")
# shellcheck source=tools/two_hosts.sh
. "$root/tools/two_hosts.sh"
command -v mpirun >/dev/null && ldd "$trireme" | grep -q -i 'libmpi' || skip "no mpirun, or built without MPI"
two_hosts_up 2
cd "$work" || exit 1
export ASAN_OPTIONS=detect_leaks=0
passed=0 failed=0
ok() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED $*" >&2
    tail -n 15 log | sed 's/^/    /' >&2
}
cat "$root"/docs/*.md >text.txt
cat >tiny.yaml <<YAML
model: {layers: 2, embed: 32, heads: 4, context: 32, dropout: 0.1}
data: {train: text.txt, tokenizer: bytes}
train: {steps: 6, batch: 8, eval_every: 0, save_every: 5}
schedule: {name: constant, warmup: 0}
threads: 1
YAML
losses() { sed -n 's/.*"loss": \([0-9.e+-]*\).*/\1/p' "$1/metrics.jsonl"; }

# ---- the same losses ----------------------------------------------------------------------------------
timeout 60 "$trireme" train tiny.yaml --quiet out=one >log 2>&1 || fail "one rank"
timeout 100 ./on $a "${launch[@]}" "$trireme" train tiny.yaml --quiet out=two mesh.data=2 mesh.tensor=2 >log 2>&1 ||
    fail "four ranks on two hosts: status $?"
paste <(losses one) <(losses two) |
    awk '{ d = $1 / $2 - 1; if (d < 0) d = -d; if (!(d < 1e-5)) bad = 1 } END { exit bad || NR != 6 }' && ok ||
    fail "losses: $(paste <(losses one) <(losses two) | tr '\n\t' ' /')"
crossed=$(link_bytes)
[ "${crossed:-0}" -gt 1000000 ] && ok || fail "only $crossed bytes went over the link"

# ---- host by host: what crosses is a host's share, not each rank's ------------------------------------
before=$(link_bytes)
timeout 60 ./on $a "${launch[@]}" "$(dirname "$trireme")/test_comm" link 4000000 3 >log 2>&1 || fail "sums: status $?"
crossed=$(($(link_bytes) - before))
# Both hosts together: 2 B a sum, where ranks by themselves would send 4 B.
grep -q '^4000000 [0-9.]* 8000000$' log && [ $crossed -gt 24000000 ] && [ $crossed -lt 30000000 ] && ok ||
    fail "three sums of 4 MB: $crossed bytes went over the link"

# ---- the link goes down, and comes back -----------------------------------------------------------------
ranks() { for pid in $(two_hosts_pids); do
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$trireme" ] && ! grep -q -z -x -e --launch "/proc/$pid/cmdline" 2>/dev/null &&
        echo "$pid"
done; }
wait_for() { # SECONDS COMMAND...: until it succeeds
    local turns=$(($1 * 10))
    shift
    while ! "$@" && [ $turns -gt 0 ]; do
        sleep 0.1
        turns=$((turns - 1))
    done
}
no_ranks() { [ -z "$(ranks)" ]; }
timeout 150 ./on $a "$trireme" train tiny.yaml --quiet out=down mesh.data=2 mesh.tensor=2 train.steps=1000000 \
    --restarts 4 --launch "${launch[*]}" >log 2>&1 &
launcher=$!
wait_for 60 [ -e down/latest ]
[ "$(ranks | wc -l)" = 4 ] && ok || fail "not four ranks: $(ranks | wc -l)"
ip -n $a link set $a down
begin=$(date +%s%N)
wait_for 20 no_ranks
took=$((($(date +%s%N) - begin) / 1000000))
echo "the ranks on both hosts had ended after $took ms"
[ $took -le 10000 ] && ok || fail "the ranks took $took ms"
# mpirun shows what the ranks beside it say; what those on the other side say is lost with the link.
count=$(grep -c -E "^trireme: rank [0-3] on host $b has not been heard of for [0-9]+ s" log)
[ "$count" -ge 1 ] && ok || fail "nobody said which rank and host is gone"
step=$(readlink down/latest | sed 's/.*step-0*//;s/[^0-9].*//')
# Open MPI's mpirun goes on looking for its daemon; it is ended, and the run starts again by itself.
said_restart() { grep -q -E "restart 1 of 4 in 1 s, from the checkpoint of step $step" log; }
wait_for 40 said_restart
said_restart && ok || fail "no word about the restart"
ip -n $a link set $a up
moved() { [ "$(readlink down/latest | sed 's/.*step-0*//;s/[^0-9].*//')" -gt "${step:-0}" ] 2>/dev/null; }
wait_for 60 moved
moved && ok || fail "it does not go on by itself from step $step"
# shellcheck disable=SC2046
kill -9 $(two_hosts_pids) 2>/dev/null
{ wait $launcher; } 2>/dev/null
step=$(readlink down/latest | sed 's/.*step-0*//;s/[^0-9].*//')
timeout 60 "$trireme" train --resume down --quiet mesh.data=1 mesh.tensor=1 train.steps=$((step + 2)) >log 2>&1 &&
    grep -q "^{\"step\": $((step + 2)), " down/metrics.jsonl && ok || fail "it does not go on from step $step"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
