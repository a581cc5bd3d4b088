#!/usr/bin/env bash
# What happens to a run under mpirun when one of its ranks fails, and that it can go on:
#   - every other rank has ended within 10 s, with a sentence that names the rank that failed and its host
#   - the last checkpoint opens, and the run resumes from it
#   - --restarts starts it again, under mpirun and with ranks as threads; not for the user's errors, nor after a signal
#
#     bash tests/test_failures.sh BUILD_DIR        exit status 77 without mpirun, or in a build without MPI
set -u
trireme=$(realpath "${1:?usage: test_failures.sh BUILD_DIR}")/trireme
root=$(realpath "$(dirname "$0")/..")
if ! command -v mpirun >/dev/null || ! ldd "$trireme" | grep -q -i 'libmpi'; then
    echo "skipped: no mpirun, or built without MPI"
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf -- "$work"' EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
# Sanitizers: what MPI itself leaves behind is not ours.
export ASAN_OPTIONS=detect_leaks=0 OMPI_MCA_btl_vader_single_copy_mechanism=none
passed=0 failed=0
run() { timeout 60 mpirun "$@"; }
ok() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED $*" >&2
    sed 's/^/    /' log | tail -n 12 >&2
}
check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@" >out 2>&1; then ok; else fail "$what: $(tail -n 1 out)"; fi
}
said() { # WHAT TIMES PATTERN: so many lines of the log match, or more
    local count
    count=$(grep -c -E "$3" log)
    if [ "$count" -ge "$2" ]; then ok; else fail "$1: said $count times, expected $2: $3"; fi
}
cat "$root"/docs/*.md >text.txt
cat >tiny.yaml <<YAML
model: {layers: 2, embed: 32, heads: 4, context: 32, dropout: 0.1}
data: {train: text.txt, tokenizer: bytes}
train: {steps: 1000000, batch: 8, eval_every: 0, save_every: 5}
schedule: {name: constant, warmup: 0}
mesh: {data: 2, tensor: 2}
threads: 1
YAML

# The processes that train into OUT, and which of them is a rank. The parameter is in no other command line.
members() { pgrep -f "^$trireme train .*$1" | while read -r pid; do
    [ "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -c -- '--launch')" = 0 ] && echo "$pid"
done; }
member() { # OUT RANK
    local pid
    for pid in $(members "$1"); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -q -x -E "(OMPI_COMM_WORLD_RANK|PMI_RANK|PMIX_RANK)=$2" && echo "$pid"
    done
}
wait_for() { # WHAT SECONDS COMMAND...: until it succeeds
    local what=$1 turns=$(($2 * 20))
    shift 2
    while [ $turns -gt 0 ]; do
        "$@" && return 0
        sleep 0.05
        turns=$((turns - 1))
    done
    fail "$what: not within its time"
    return 1
}
has_step() { [ "$(readlink "$1/latest" 2>/dev/null | sed 's/.*step-0*//;s/[^0-9].*//')0" -ge "$2"0 ]; }
gone() { # PID...: ended, though its parent may not have noticed yet
    local pid
    for pid in "$@"; do
        [ -e "/proc/$pid" ] && ! grep -q '^State:.[ZX]' "/proc/$pid/status" 2>/dev/null && return 1
    done
    return 0
}
resumes() { # OUT: in one process, from its last checkpoint
    local step
    step=$(readlink "$1/latest" | sed 's/.*step-0*//;s/[^0-9].*//')
    check "$1: the last checkpoint opens" "$trireme" eval "$1" --data tiny.yaml
    check "$1: it resumes" "$trireme" train --resume "$1" --quiet train.steps=$((step + 2)) mesh.data=1 mesh.tensor=1
    if grep -q "^{\"step\": $((step + 2)), " "$1/metrics.jsonl"; then ok; else fail "$1: no step $((step + 2))"; fi
}

# ---- a rank is killed, stopped: the others end ------------------------------------------------------
host=$(hostname)
lose() { # NAME SIGNAL RANK PATTERN
    local name=$1 victim others begin took
    mpirun -n 4 "$trireme" train tiny.yaml --quiet out="$name" >log 2>&1 &
    local launcher=$!
    wait_for "$name: a checkpoint" 30 has_step "$name" 5 || { kill $launcher; return; }
    victim=$(member "$name" "$3")
    # shellcheck disable=SC2046
    others=$(members "$name" | grep -v -x "$victim")
    [ "$(echo "$others" | wc -l)" = 3 ] || fail "$name: the ranks were not found"
    kill "-$2" "$victim"
    begin=$(date +%s%N)
    # shellcheck disable=SC2086
    wait_for "$name: the others end" 20 gone $others
    took=$((($(date +%s%N) - begin) / 1000000))
    echo "$name: the others had ended after $took ms"
    if [ $took -le 10000 ]; then ok; else fail "$name: $took ms"; fi
    wait $launcher && fail "$name: status 0"
    kill -9 "$victim" 2>/dev/null
    said "$name" 3 "^trireme: rank $3 on host $host $4"
    resumes "$name"
}
lose killed 9 2 'has gone without a word'
lose killed-first KILL 0 'has gone without a word'
lose stopped STOP 1 'has not been heard of for [0-9]+ s'

# ---- a rank fails by itself -------------------------------------------------------------------------
# Its files may not grow beyond 20 kB: its part of the first checkpoint does not fit.
run -n 1 "$trireme" train tiny.yaml --quiet out=full : \
    -n 1 bash -c 'trap "" XFSZ; ulimit -f 20; exec "$@"' limited "$trireme" train tiny.yaml --quiet out=full : \
    -n 2 "$trireme" train tiny.yaml --quiet out=full >log 2>&1
[ $? = 1 ] && ok || fail "full: the status is not 1"
said "a full disk" 1 "^trireme: rank 1 on host $host: .*File too large"
said "a full disk" 3 "^trireme: rank 1 on host $host failed: .*File too large"
if [ -e full/latest ] || ls full/checkpoints/step-* >/dev/null 2>&1; then fail "a checkpoint that is not whole"; else ok; fi

run -n 3 "$trireme" train tiny.yaml --quiet out=data : -n 1 "$trireme" train tiny.yaml --quiet out=data \
    data.train=elsewhere.txt >log 2>&1
[ $? = 2 ] && ok || fail "data: the status is not 2"
said "missing data" 1 "^trireme: rank 3 on host $host: .*no file or directory 'elsewhere.txt'"
said "missing data" 3 "^trireme: rank 3 on host $host failed: .*no file or directory 'elsewhere.txt'"

# ---- ranks whose plans differ -----------------------------------------------------------------------
differ() { # WHAT OVERRIDE: of ranks 2 and 3
    run -n 2 "$trireme" train tiny.yaml --quiet out=differ : -n 2 "$trireme" train tiny.yaml --quiet out=differ "$2" >log 2>&1
    [ $? = 2 ] && ok || fail "$1: the status is not 2"
    said "$1" 1 "^trireme: the ranks do not have the same plan: ranks 2 and 3 \(the first on host $host\) differ"
    if [ "$(grep -c '^trireme:' log)" = 1 ]; then ok; else fail "$1: said more than once"; fi
}
differ "another learning rate" optimizer.lr=0.5
differ "another ZeRO level" zero=1
differ "another width" model.mlp=96
differ "another mesh" mesh.sequence_kind=megatron
run -n 2 "$trireme" train tiny.yaml --quiet out=same train.steps=2 : \
    -n 2 "$trireme" train tiny.yaml --quiet out=same train.steps=2 threads=2 >log 2>&1 && ok || fail "threads may differ"

# ---- it starts again by itself ----------------------------------------------------------------------
run -n 4 "$trireme" train tiny.yaml --restarts 1 out=under >log 2>&1
said "--restarts under mpirun is refused" 1 'trireme train CONFIG --restarts N --launch "mpirun -n 4"'

again() { # NAME VICTIM-RANK WORDS...: killed twice, restarted twice, runs to its end
    local name=$1 rank=$2 launcher victim step
    shift 2
    "$trireme" train tiny.yaml --quiet out="$name" train.steps=400 --restarts 2 "$@" >log 2>&1 &
    launcher=$!
    for step in 5 60; do
        wait_for "$name: step $step" 60 has_step "$name" $step || { kill $launcher; return; }
        victim=$(if [ -n "$rank" ]; then member "$name" "$rank"; else pgrep -P $launcher; fi)
        kill -9 "$victim"
        # shellcheck disable=SC2086
        wait_for "$name: the victim ends" 10 gone $victim
    done
    wait $launcher
    [ $? = 0 ] && ok || fail "$name: the status is not 0"
    said "$name" 2 'restart [12] of 2 in [0-9]+ s, from the checkpoint of step [0-9]+'
    # Every step once, and the losses of a run without a break.
    [ "$(grep -c '"loss"' "$name/metrics.jsonl")" = 400 ] && ok || fail "$name: $(grep -c '"loss"' "$name/metrics.jsonl") steps"
    cmp -s "$name/model.safetensors" whole/model.safetensors && ok || fail "$name: other weights than without a break"
}
check "a run without a break" "$trireme" train tiny.yaml --quiet out=whole train.steps=400
again threads ""
again processes 1 --launch "mpirun -n 4"

"$trireme" train tiny.yaml --quiet out=wrong --restarts 3 model.heads=5 >log 2>&1
[ $? = 2 ] && ok || fail "wrong: the status is not 2"
said "what is wrong is said once" 1 'no multiple of model.heads'
"$trireme" train tiny.yaml --quiet out=wrong --restarts 3 data.train=elsewhere.txt >log 2>&1
[ $? = 2 ] && ok || fail "missing data: the status is not 2"
if grep -q restart log; then fail "restarted although the input was wrong"; else ok; fi
"$trireme" train tiny.yaml --quiet out=told --restarts 3 >log 2>&1 &
launcher=$!
wait_for "told: a checkpoint" 30 has_step told 5
kill -TERM $launcher
wait $launcher
[ $? = 143 ] && ok || fail "told: the status is not 143"
said "a clean save" 1 'stopped by a signal after a clean save'
if grep -q restart log; then fail "restarted although it was told to stop"; else ok; fi
"$trireme" train tiny.yaml --quiet out=none --launch "no-such-launcher -n 4" >log 2>&1
[ $? = 2 ] && ok || fail "no launcher: the status is not 2"
said "no launcher" 1 'no-such-launcher cannot be started'

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
