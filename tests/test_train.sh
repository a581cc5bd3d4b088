#!/usr/bin/env bash
# `trireme train` from outside, on a model so small that every run takes a second.
#     tests/test_train.sh BUILD_DIR
#  1. resume: 20 steps with kills in the middle give the bits of 20 steps without, in fp32 and bf16
#  2. signals, a full disk, damaged checkpoints
#  3. gradient accumulation, optimizers, schedules, thread counts
#  4. what a run writes and prints; eval and inspect; finetuning
# SEED=N repeats the random moments of a failure.
set -u
trireme=$(realpath "${1:?usage: tests/test_train.sh BUILD_DIR}")/trireme
[ -x "$trireme" ] || { echo "no $trireme"; exit 1; }
root=$(realpath "$(dirname "$0")/..")
golden=$root/tests/golden/gpt2
work=$(mktemp -d)
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$mounted"
    rm -rf -- "$work"
}
trap cleanup EXIT
cd "$work" || exit 1
export OMP_WAIT_POLICY=passive
seed=${SEED:-$RANDOM}
RANDOM=$seed
passed=0 failed=0

ok() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED (SEED=$seed) $*" | cut -c 1-300 >&2
    [ ! -s log ] || tail -n 3 log | cut -c 1-300 >&2
}
check() { # WHAT COMMAND...: the command must succeed; what it says goes to log
    local what=$1
    shift
    if "$@" >out 2>log; then ok; else fail "$what (exit status $?)"; fi
}
status() { # WHAT STATUS WORDS COMMAND...: this exit status, one line on standard error, with the words
    local what=$1 want=$2 words=$3 got
    shift 3
    "$@" >out 2>log
    got=$?
    if [ $got != "$want" ]; then
        fail "$what: exit status $got, expected $want"
    elif ! grep -qF -- "$words" log; then
        fail "$what: not said: $words"
    else
        ok
    fi
}
equal() { # WHAT A B
    if [ "$2" = "$3" ]; then ok; else fail "$1: \"$2\" is not \"$3\""; fi
}
has() { # WHAT FILE WORDS
    if grep -qF -- "$3" "$2"; then ok; else fail "$1: not in $2: $3"; fi
}
lacks() { # WHAT FILE WORDS
    if grep -qF -- "$3" "$2"; then fail "$1: in $2: $3"; else ok; fi
}
# Our own reader is the judge of JSON: it says "not valid JSON", or that there are no input_ids in it.
is_json() { # WHAT FILE
    cp "$2" judged.json
    status "$1 is JSON" 2 "input_ids" "$trireme" eval "$golden" --logits judged.json --out ids.npy
}
train() { "$trireme" train tiny.yaml --quiet "$@"; }
# The numbers of metrics.jsonl that do not depend on the clock.
numbers() { sed -nE 's/^\{"step": ?([0-9]+), "(loss|val_loss)": ?([^,}]*).*/\1 \2 \3/p' "$1/metrics.jsonl"; }
losses() { numbers "$1" | awk '$2 == "loss" { print $3 }'; }
keys() { grep -oE '"[a-z_]+":' | tr -d '":' | tr '\n' ' '; }
near() { # WHAT TOLERANCE A B: two files of numbers
    if paste "$3" "$4" | awk -v t="$2" '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= t * $2)) exit 1 }
            END { exit !NR }'; then ok; else
        fail "$1: $(paste "$3" "$4" | awk '{ d = $1 / $2 - 1; if (d < 0) d = -d; if (d > m) m = d } END { print m }')"
    fi
}

cat "$root"/src/passes/*.c >text.txt
cat "$root"/src/base/json.c >held.txt
cat >tiny.yaml <<YAML
model: {layers: 2, embed: 32, heads: 4, context: 32, dropout: 0.1}
data: {train: text.txt, tokenizer: bytes}
train: {steps: 20, batch: 8, eval_every: 7, eval_batches: 2, save_every: 4, log_every: 1}
optimizer: {lr: 0.003}
threads: 2
YAML

# ---- 1. resume ------------------------------------------------------------------------------------
same_run() { # WHAT A B: the same bits
    local file
    for file in model.safetensors latest/optimizer.safetensors; do
        if cmp -s "$2/$file" "$3/$file"; then ok; else fail "$1: $file differs"; fi
    done
    equal "$1: losses" "$(numbers "$2")" "$(numbers "$3")"
}
# A larger model, so that a kill comes in the middle: 20 ms a step and more.
slow="model.embed=128 train.batch=32 train.micro_batch=8"
for precision in fp32 bf16; do
    # shellcheck disable=SC2086
    check "$precision, 20 steps" train $slow train.precision=$precision out=straight-$precision
    # shellcheck disable=SC2086
    "$trireme" train tiny.yaml --quiet $slow train.precision=$precision out=killed-$precision 2>log &
    pid=$!
    while [ "$(grep -c '"loss"' killed-$precision/metrics.jsonl 2>/dev/null)0" -lt 100 ] &&
        kill -0 $pid 2>/dev/null; do sleep 0.005; done
    sleep "0.0$((RANDOM % 50 + 10))"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    equal "$precision: it was killed" $? 137
    [ -d killed-$precision/checkpoints/step-00000008 ] || [ -d killed-$precision/checkpoints/step-00000012 ] ||
        [ -d killed-$precision/checkpoints/step-00000016 ] || fail "$precision: no checkpoint before the kill"
    # Again at any moment, while it reads, compiles, trains or saves.
    for _ in 1 2 3; do
        "$trireme" train --resume killed-$precision --quiet train.save_every=1 2>log &
        pid=$!
        sleep "0.$((RANDOM % 30 + 5))"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
    done
    if [ "$(losses killed-$precision | wc -l)" -lt 20 ] || [ ! -d killed-$precision/checkpoints/step-00000020 ]; then
        check "$precision, the rest" "$trireme" train --resume killed-$precision --quiet
    fi
    same_run "$precision, killed and resumed" straight-$precision killed-$precision
done

# ---- 2. signals, a full disk, damage -------------------------------------------------------------
for name in INT:130 TERM:143; do
    signal=${name%:*} out=signal-${name%:*}
    # shellcheck disable=SC2086
    "$trireme" train tiny.yaml --quiet $slow train.steps=100000 schedule.warmup=2 train.save_every=0 out=$out 2>log &
    pid=$!
    while ! grep -q '"step":3,\|"step": 3,' $out/metrics.jsonl 2>/dev/null && kill -0 $pid 2>/dev/null; do sleep 0.01; done
    kill -"$signal" $pid
    wait $pid
    equal "SIG$signal: exit status" $? "${name#*:}"
    equal "SIG$signal: one line" "$(wc -l <log)" 1
    has "SIG$signal: what to do" log "trireme train --resume $out"
    steps=$(losses $out | wc -l)
    check "SIG$signal: resume" "$trireme" train --resume $out --quiet train.steps=$((steps + 2))
    equal "SIG$signal: it went on" "$(losses $out | wc -l)" $((steps + 2))
done
# Before the first step.
"$trireme" train tiny.yaml --quiet train.steps=100000 schedule.warmup=0 out=early 2>log &
pid=$!
while [ ! -d early ] && kill -0 $pid 2>/dev/null; do sleep 0.001; done
kill -TERM $pid
wait $pid
equal "SIGTERM at the start: exit status" $? 143
check "SIGTERM at the start: resume" "$trireme" train --resume early --quiet train.steps=$(($(losses early | wc -l) + 2))

# The disk is full while saving: a limit on a file's size does for any user, a small disk for root.
check "a run to fill up" train out=full train.steps=4
cp -r full full-before
trap '' XFSZ
limit() { (ulimit -f "$1" && shift && "$@"); }
status "a file that cannot grow" 1 "full/checkpoints/" limit 100 "$trireme" train --resume full --quiet train.steps=8
has "it says what is good" log "the earlier checkpoints are untouched"
trap - XFSZ
equal "nothing is left behind" "$(ls -A full/checkpoints | grep -v '^\.lock$')" step-00000004
check "the model still opens" "$trireme" eval full --data held.txt
check "it goes on" "$trireme" train --resume full --quiet train.steps=8
if [ "$(id -u)" = 0 ] && mkdir disk && kilobytes=$(du -sk full-before | cut -f 1) &&
    mount -t tmpfs -o size=$((kilobytes + kilobytes / 3))k tmpfs disk 2>/dev/null; then
    mounted=$work/disk
    cp -r full-before/. disk/
    status "a full disk" 1 "disk/checkpoints/" "$trireme" train --resume disk --quiet train.steps=8
    has "it says how much is free" log "MB are free"
    check "the model still opens from the full disk" "$trireme" eval disk --data held.txt
    status "the run is still at step 4" 1 "step 5" "$trireme" train --resume disk --quiet train.steps=5
    umount disk
    mounted=
else
    echo "skipped: a small disk cannot be mounted here"
fi
status "a full disk for standard output" 1 "standard output" \
    bash -c '"$0" inspect tiny.yaml model.vocab=257 >/dev/full' "$trireme"

flip() { # FILE: one byte in the middle of it becomes another
    local at=$(($(stat -c %s "$1") / 2)) byte
    byte=$(od -An -tu1 -j $at -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((byte ^ 64)))" | dd of="$1" bs=1 seek=$at conv=notrunc status=none
}
check "two checkpoints" train out=damage train.steps=8 train.eval_every=0
equal "two are kept" "$(cd damage/checkpoints && echo step-*)" "step-00000004 step-00000008"
cp -r damage damage-cut
flip damage/checkpoints/step-00000008/optimizer.safetensors
check "a flipped byte" "$trireme" train --resume damage train.steps=10
has "the file is named" log "step-00000008/optimizer.safetensors is damaged"
has "so is what is used" log "using damage/checkpoints/step-00000004"
truncate -s -10 damage-cut/checkpoints/step-00000008/model.safetensors
check "a cut file" "$trireme" train --resume damage-cut train.steps=10
has "the cut file is named" log "step-00000008/model.safetensors is damaged"
equal "both went on from the same" "$(losses damage)" "$(losses damage-cut)"
equal "all steps are there once" "$(losses damage | wc -l)" 10
check "a damaged run" train out=hopeless train.steps=4
truncate -s 100 hopeless/checkpoints/step-00000004/model.safetensors
status "no good checkpoint" 1 "hopeless/checkpoints/step-00000004/model.safetensors" "$trireme" train --resume hopeless
status "resume of nothing" 2 "nowhere" "$trireme" train --resume nowhere
status "resume of a model" 2 "is not a run" "$trireme" train --resume "$golden"
status "resume of what is done" 2 "train.steps" "$trireme" train --resume damage
status "not over a run" 2 "already holds a run" train out=damage
status "not over a model" 2 "golden-copy holds a model" bash -c 'cp -r "$1" golden-copy && shift && "$@"' - "$golden" \
    "$trireme" train tiny.yaml out=golden-copy

# ---- 3. accumulation, optimizers, schedules, threads ---------------------------------------------
same="model.dropout=0 train.eval_every=0 train.save_every=0"
for micro in 8 4 1; do
    # shellcheck disable=SC2086
    check "micro_batch $micro" train $same train.micro_batch=$micro out=micro-$micro
    losses micro-$micro >micro-$micro.losses
done
near "8 x 1 is 1 x 8" 1e-5 micro-1.losses micro-8.losses
near "4 x 2 is 1 x 8" 1e-5 micro-4.losses micro-8.losses
for micro in 8 1; do # dropout draws by the sequence, not by the microbatch
    check "micro_batch $micro with dropout" train train.eval_every=0 train.save_every=0 train.micro_batch=$micro \
        out=drop-$micro
    losses drop-$micro >drop-$micro.losses
done
near "8 x 1 is 1 x 8 with dropout" 1e-5 drop-1.losses drop-8.losses
for threads in 1 3; do
    # shellcheck disable=SC2086
    check "$threads threads" train $same threads=$threads out=threads-$threads
    losses threads-$threads >threads.losses
    near "$threads threads, the same losses" 1e-5 threads.losses micro-8.losses
done
# shellcheck disable=SC2086
check "the same again" train $same out=again
equal "the same bits" "$(losses again)" "$(losses micro-8)"
for recompute in none full; do
    check "recompute $recompute" train train.eval_every=0 train.save_every=0 train.recompute=$recompute out=re-$recompute
    losses re-$recompute >re.losses
    near "recompute $recompute, the same losses" 1e-5 re.losses drop-8.losses
done
falls() { # WHAT OUT
    if losses "$2" | awk 'NR == 1 { first = $1 } { last = $1 } END { exit !(last < first - 0.1) }'; then ok; else
        fail "$1: the loss does not fall: $(losses "$2" | sed -n '1p;$p' | tr '\n' ' ')"
    fi
}
# shellcheck disable=SC2086
check "SGD" train $same optimizer.name=sgd optimizer.lr=0.1 out=sgd
falls "SGD" sgd
# shellcheck disable=SC2086
check "SGD in bf16 with one microbatch" train $same optimizer.name=sgd optimizer.lr=0.1 train.precision=bf16 \
    optimizer.momentum=0 out=sgd-bf16
falls "SGD in bf16" sgd-bf16
# shellcheck disable=SC2086
check "no clipping" train $same train.clip=0 out=unclipped
falls "no clipping" unclipped
for schedule in constant linear cosine wsd; do
    # shellcheck disable=SC2086
    check "schedule $schedule" train $same schedule.name=$schedule schedule.warmup=4 out=$schedule
    falls "schedule $schedule" $schedule
    rates=$(sed -nE 's/^\{"step".*"lr": ?([^,]*).*/\1/p' $schedule/metrics.jsonl | awk '
        NR == 1 { first = $1 } NR == 4 { top = $1 } NR == 12 { middle = $1 } { last = $1 }
        END { printf "%.6f %.6f %.6f %.6f", first, top, middle, last }')
    case $schedule in
    constant) want="0.000750 0.003000 0.003000 0.003000" ;;
    linear) want="0.000750 0.003000 0.001650 0.000300" ;;
    cosine) want="0.000750 0.003000 0.001650 0.000300" ;;
    wsd) want="0.000750 0.003000 0.003000 0.000000" ;;
    esac
    equal "rates of $schedule at steps 1, 4, 12, 20" "$rates" "$want"
done

# ---- 4. what a run writes and prints -------------------------------------------------------------
check "a whole run" "$trireme" train tiny.yaml data.tokenizer=chars train.sample_every=10 out=whole --trace trace.json \
    --profile
cp log whole.log
is_json "the trace" trace.json
has "the trace has the ops" trace.json '"name":"attention"'
has "the profile's head" whole.log "GFLOP/s"
has "the profile has attention" whole.log "attention"
has "the profile's end" whole.log "total                "
has "lines when it is no terminal" whole.log "step 20/20  loss "
has "validation is said" whole.log "validation loss"
has "a sample is said" whole.log "sample: "
for file in config.json model.safetensors tokenizer.json metrics.jsonl trireme.yaml; do
    check "OUT has $file" test -s whole/$file
done
check "OUT has event files" test -n "$(ls whole/tensorboard/events.out.tfevents.* 2>/dev/null)"
equal "keys of the first line" "$(head -n 1 whole/metrics.jsonl | sed 's/"config": *{.*}}//' | keys)" \
    "version parameters planned_peak_bytes plan_hash plan mesh zero transport ranks rank host threads isa planned_peak_bytes parameters_bytes optimizer_bytes step_bytes "
has "and its config" whole/metrics.jsonl '"config"'
equal "keys of a step" "$(sed -n 2p whole/metrics.jsonl | keys)" \
    "step loss lr grad_norm tokens tokens_per_s step_s peak_bytes "
equal "keys of a validation" "$(grep -m 1 val_loss whole/metrics.jsonl | keys)" "step val_loss "
equal "tokens" "$(sed -nE 's/.*"tokens": ?([0-9]+),.*/\1/p' whole/metrics.jsonl | tail -n 1)" $((20 * 8 * 32))

# ---- several ranks, as threads ---------------------------------------------------------------------
# Samples are drawn by all ranks together, from logits that are whole on each: the same text on every mesh.
ranks() { check "ranks: $*" train threads=1 train.steps=8 train.save_every=0 train.eval_every=4 train.sample_every=4 out=ranks "$@"; }
samples() { sed -n 's/.*"sample": //p' "$1/metrics.jsonl"; }
ranks
mv ranks one-rank
equal "one rank samples twice" "$(samples one-rank | wc -l)" 2
for mesh in mesh.data=2 mesh.tensor=2 "mesh.tensor=2 mesh.sequence_kind=megatron" mesh.sequence=2 \
    "mesh.sequence=2 mesh.sequence_kind=ring" "mesh.data=2 zero=3" \
    "mesh.data=2 mesh.tensor=2 zero=1 train.micro_batch=4"; do
    rm -rf ranks
    # shellcheck disable=SC2086
    ranks $mesh
    equal "$mesh: samples" "$(samples ranks)" "$(samples one-rank)"
done
equal "the plan of 4 ranks" "$(grep -oE '"rank": [0-9]+' ranks/metrics.jsonl | tr '\n' ' ')" '"rank": 0 "rank": 1 "rank": 2 "rank": 3 '
has "the mesh" ranks/metrics.jsonl '"mesh": "data=2 tensor=2", "zero": 1, "transport": "threads"'
equal "keys of a step on ranks" "$(sed -n 2p ranks/metrics.jsonl | keys)" \
    "step loss lr grad_norm tokens tokens_per_s step_s peak_bytes bytes_sent "
equal "steps are written once" "$(grep -c '"loss"' ranks/metrics.jsonl)" 8

check "a quiet run" train out=quiet
equal "quiet is silent" "$(cat out log)" ""
check "a trace of one step" train train.steps=1 out=one --trace one.json
is_json "the trace of one step" one.json
check "a trace when every step is saved" train train.save_every=1 out=every --trace every.json
is_json "the trace when every step is saved" every.json
status "a trace that cannot be written" 2 "nowhere/t.json" train out=no-trace --trace nowhere/t.json
check "report" "$trireme" report whole
has "it is HTML" whole/report.html "<html"

check "dump after a pass" "$trireme" inspect tiny.yaml model.vocab=257 --dump-after=order
cp out dump.txt
has "the graph has attention" dump.txt "attention"
check "train dumps too" train out=dump --dump-after=order model.vocab=257
equal "the same graph" "$(cat out)" "$(cat dump.txt)"
status "no such pass" 2 "did you mean order" "$trireme" inspect tiny.yaml model.vocab=257 --dump-after=oder

check "eval" "$trireme" eval whole --data held.txt --json
is_json "eval --json" out
check "eval again" "$trireme" eval whole --data held.txt --json
equal "keys of eval" "$(keys <out)" "loss perplexity bits_per_byte tokens bytes "
equal "bytes of eval" "$(sed -E 's/.*"bytes": ?([0-9]+).*/\1/' out)" "$(stat -c %s held.txt)"
check "eval of bytes" "$trireme" eval quiet --data held.txt --json
cp out wide.json
check "eval in other windows" "$trireme" eval quiet --data held.txt --json --batch 3 --threads 1
for file in wide.json out; do sed -E 's/.*"loss": ?([^,]*),.*/\1/' $file >$file.loss; done
near "the same loss" 1e-5 wide.json.loss out.loss
check "eval of a Hugging Face model" "$trireme" eval "$golden" --logits "$golden/ids.json" --out golden.npy
# The first 64 bits of a float say nothing; as text, the first logits agree with the golden ones.
floats() { od -An -v -tf4 -w4 -j "$((10 + $(od -An -tu2 -j 8 -N 2 "$1")))" "$1"; }
floats golden.npy >ours
floats "$golden/logits.npy" >theirs
equal "as many logits" "$(wc -l <ours)" "$(wc -l <theirs)"
if paste ours theirs | awk '{ d = $1 - $2; if (d < 0) d = -d; v = $2 < 0 ? -$2 : $2; if (d > worst) worst = d
        if (v > most) most = v } END { exit !(worst <= 1e-4 * most) }'; then ok; else fail "logits differ"; fi
check "inspect --json" "$trireme" inspect tiny.yaml model.vocab=257 --json
for key in parameters flops_per_token planned_peak_bytes planned_parts passes nodes_before nodes_after; do
    has "inspect says $key" out "\"$key\""
done
is_json "inspect --json" out
for subject in whole "$golden"; do
    check "inspect $subject" "$trireme" inspect "$subject"
    has "inspect $subject: parameters" out "parameters"
done

# Its config.json says bf16 or fp32, dense or banded; the tokenizer comes with it.
check "a run with local attention" train model.banded=true model.band=8 out=banded
check "finetuning it" train model.from=banded model.layers=2 data.tokenizer=bytes model.embed=32 out=tuned train.steps=5
equal "local attention stays" "$(grep -o '"trireme_band": *[0-9]*' tuned/config.json)" \
    "$(grep -o '"trireme_band": *[0-9]*' banded/config.json)"
start=$(losses tuned | head -n 1)
if awk -v a="$start" -v b="$(losses banded | head -n 1)" 'BEGIN { exit !(a < b - 0.1) }'; then ok; else
    fail "finetuning begins at $start"
fi
cat >from.yaml <<YAML
model: {from: $golden}
data: {train: text.txt, tokenizer: bytes}
train: {steps: 3, batch: 2, seq: 16, eval_every: 0}
out: tuned-golden
YAML
vocab=$(sed -nE 's/.*"vocab_size": ?([0-9]+).*/\1/p' "$golden/config.json")
if [ "$vocab" -ge 256 ]; then
    check "finetuning a Hugging Face model" "$trireme" train from.yaml --quiet
else
    status "a tokenizer larger than the model" 2 "the tokenizer has" "$trireme" train from.yaml --quiet
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
