#!/usr/bin/env bash
# trireme report: a page that needs nothing but itself, from good, torn and strange metrics.
set -u
build=${1:-build}
trireme=$build/trireme
[ -x "$trireme" ] || { echo "no $trireme"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
failed=0

check() { # WHAT COMMAND...: the command must succeed
    local what=$1
    shift
    "$@" > /dev/null 2>&1 || { echo "FAILED $what"; failed=1; }
}
refuse() { # WORDS COMMAND...: exit status 2 and the words on standard error
    local words=$1 said status
    shift
    said=$("$@" 2>&1 > /dev/null)
    status=$?
    if [ $status != 2 ] || ! grep -qF -- "$words" <<< "$said"; then
        echo "FAILED status $status, \"$said\" for: $*"
        failed=1
    fi
}
lacks() { ! grep -qiE -- "$1" "$2"; }

run=$work/run
mkdir "$run"
{
    echo '{"version": "0.1.0", "parameters": 1000, "planned_peak_bytes": 5000, "plan_hash": "00", "config": {"a": {"b": "<x>"}}}'
    for step in $(seq 1 60); do
        loss=$((70 - step)).5
        [ "$step" != 30 ] || loss=null
        echo "{\"step\": $step, \"loss\": $loss, \"lr\": 0.001, \"grad_norm\": 1.5, \"tokens\": $((step * 10)), \"tokens_per_s\": 100, \"step_s\": 0.1, \"peak_bytes\": 4000}"
        [ $((step % 20)) != 0 ] || echo "{\"step\": $step, \"val_loss\": 12.25}"
    done
    echo '{"step": 60, "sample": "A <script>alert(1)</script> & more"}'
    printf '{"step": 61, "lo'
} > "$run/metrics.jsonl"

check "a report" "$trireme" report "$run"
page=$run/report.html
check "it is there" test -s "$page"
check "no script" lacks '<script|javascript:|onload=' "$page"
check "nothing from elsewhere" lacks 'https?://|src=|@import|<link|url\(' "$page"
check "the sample is escaped" grep -qF 'A &lt;script&gt;alert(1)&lt;/script&gt; &amp; more' "$page"
check "five charts" test "$(grep -c '<svg class=chart' "$page")" = 5
check "each is described" test "$(grep -c -- '-said>[A-Za-z]' "$page")" = 5
check "the torn line is said" grep -q '1 line of metrics.jsonl could not be read' "$page"
check "the loss that is not finite is said" grep -q 'not finite in 1 of 60 steps' "$page"
check "dark and light" grep -q 'prefers-color-scheme:dark' "$page"
check "phones" grep -q 'name=viewport' "$page"
check "no number that is none" lacks '[ "=>](nan|inf)[ "<L]' "$page"
check "a page elsewhere" "$trireme" report "$run" --out "$work/page.html"
check "the same page" cmp -s "$page" "$work/page.html"

# Extremes must not loop or print what is no number.
mkdir "$work/odd"
for odd in '{"step": 1e18, "loss": 1}' '{"step": -5, "loss": 1}' '[1]' '{"step": "x"}' '{"step": 3, "loss": 1e308}' \
    '{"step": 4, "loss": -1e308, "lr": 1e-320}' '{"step": 5, "loss": 0.001, "grad_norm": 1e-300}' \
    '{"step": 4503599627370496, "loss": 5, "grad_norm": 1e29, "peak_bytes": 1e29}'; do
    echo "$odd"
done > "$work/odd/metrics.jsonl"
check "odd values" timeout 10 "$trireme" report "$work/odd"
check "no odd number" lacks '[ "=>]-?(nan|inf)[ "<L]' "$work/odd/report.html"

mkdir "$work/empty" "$work/first"
echo '{"version": "0.1.0", "config": {}}' > "$work/first/metrics.jsonl"
refuse "is not a directory" "$trireme" report "$work/nowhere"
refuse "holds no metrics.jsonl" "$trireme" report "$work/empty"
refuse "records no step yet" "$trireme" report "$work/first"
refuse "DIR" "$trireme" report
[ $failed = 0 ] && echo "passed"
exit $failed
