#!/usr/bin/env bash
# BERT from a text to vectors: a WordPiece tokenizer, training, the same loss on every mesh of 2 ranks and on three of 4,
# evaluation, embeddings, going on; and what is refused.
#     tests/test_bert.sh BUILD_DIR
source "$(dirname "$0")/check.sh" "$@"
cat "$root"/docs/*.md >text.txt
check "a tokenizer" "$trireme" tokenizer train --kind wordpiece --vocab 601 --out wordpiece text.txt
cat >bert.yaml <<YAML
model: {family: bert, layers: 2, embed: 40, heads: 5, context: 32, dropout: 0.1}
data: {train: text.txt, tokenizer: wordpiece, val_split: 0.1}
train: {steps: 60, batch: 8, seq: 32, eval_every: 30, eval_batches: 4, save_every: 30}
optimizer: {lr: 3e-3}
schedule: {warmup: 10}
threads: 2
out: run
YAML
check "training" "$trireme" train bert.yaml --quiet
losses() { sed -n 's/.*"loss": \([0-9.e+-]*\).*/\1/p' run/metrics.jsonl; }
# ln 601 + ln 2 = 7.09 before anything is learnt.
losses | awk 'NR == 1 { first = $1 } NR > 40 { sum += $1; n++ } END { exit !(first > 6.8 && first < 7.5 && n == 20 && sum / n < first - 0.4) }' && ok || fail "it does not learn: $(losses | sed -n '1p;$p' | paste -sd' ')"
check "going on" "$trireme" train --resume run --quiet train.steps=62
check "evaluation" "$trireme" eval run --data text.txt --json
grep -q '"bits_per_byte":null' out && ok || fail "bits a byte of masked tokens"
printf 'one line\n\na longer line, of several words\none line\n' | "$trireme" embed run >vectors 2>log
[ "$(wc -l <vectors)" = 4 ] && [ "$(sed -n 1p vectors)" = "$(sed -n 4p vectors)" ] && ok || fail "vectors"
sed -n 3p vectors | tr -d '[]' | tr ',' '\n' | awk '{ s += $1 * $1 } END { exit !(NR == 40 && s > 0.9999 && s < 1.0001) }' && ok || fail "length 1"
check "parity, 2 ranks" "$trireme" parity bert.yaml --ranks 2 --steps 3
for mesh in "data=4" "data=2 tensor=2" "pipeline=2 data=2" "tensor=4 tensor_kind=2d"; do
    check "parity, $mesh" "$trireme" parity bert.yaml --ranks 4 --steps 3 --mesh "$mesh" model.heads=4
done
grep -q refused out log && fail "a square is refused"
refused "bytes" 'needs a tokenizer with the tokens' "$trireme" train bert.yaml --quiet data.tokenizer=bytes out=other
refused "generate" 'which does not continue texts' "$trireme" generate run --prompt x
refused "no embeddings" 'has no embeddings' bash -c "$trireme train --quiet model.layers=1 model.embed=16 model.heads=2 model.context=16 \
    data.train=text.txt data.tokenizer=bytes train.steps=1 train.eval_every=0 schedule.warmup=0 out=gpt >/dev/null 2>&1; echo a | $trireme embed gpt"
report
