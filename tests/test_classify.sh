#!/usr/bin/env bash
# BERT as a classifier of texts: it learns a rule; validation and predict say the same; names of classes in config.json;
# going on gives the bits of a run without a break; every mesh of 2 ranks has one rank's losses; it begins from a model of
# masked tokens; pairs; what is refused.
#     tests/test_classify.sh BUILD_DIR
source "$(dirname "$0")/check.sh" "$@"
check "a tokenizer" "$trireme" tokenizer train --kind wordpiece --vocab 400 --out wordpiece "$root"/docs/design.md
# Sentences of the docs; of class "graph" are those with one of two words, which are put there in every second one.
awk -v RS='[.\n]' 'length($0) > 20 { gsub(/[\\"]/, ""); n++
    printf "{\"text\": \"%s %s\", \"label\": \"%s\"}\n", n % 2 ? "graph" : "model", substr($0, 1, 40), n % 2 ? "graph" : "other" }' \
    "$root"/docs/design.md | head -n 200 >texts.jsonl
cat >bert.yaml <<YAML
model: {family: bert, labels: 2, layers: 1, embed: 32, heads: 4, context: 24, dropout: 0.1}
data: {train: texts.jsonl, tokenizer: wordpiece, val_split: 0.2}
train: {steps: 60, batch: 16, eval_every: 30, eval_batches: 100, save_every: 30, keep: 9}
optimizer: {lr: 5e-3}
schedule: {warmup: 5}
threads: 1
out: run
YAML
check "training" "$trireme" train bert.yaml --quiet
grep -q '"BertForSequenceClassification"' run/config.json && grep -q '"0": "graph"' run/config.json && ok || fail "config.json"
said=$(sed -nE 's/.*"val_accuracy": ?([0-9.e-]+).*/\1/p' run/metrics.jsonl | tail -n 1)
awk -v a="$said" 'BEGIN { exit !(a > 0.9) }' && ok || fail "accuracy $said"
cp -r run again
rm -rf again/checkpoints/step-00000060
check "going on" "$trireme" train --resume again --quiet
cmp -s run/checkpoints/step-00000060/model.safetensors again/checkpoints/step-00000060/model.safetensors && ok || fail "resumed, the weights differ"
check "predict" "$trireme" predict run texts.jsonl --json
grep -q '"index":7,"label":[01],"name":"[a-z]*","probability":[0-9.]*,"expected":1' out && [ "$(grep -c '"index"' out)" = 200 ] && ok || fail "what predict prints"
tail -n 1 out | sed -E 's/.*"accuracy":([0-9.]*).*/\1/' | awk '{ exit !($1 > 0.9) }' && ok || fail "accuracy of predict"
# What was held out, in a file of its own: the accuracy that the run gave.
check "validation data" "$trireme" train bert.yaml --quiet data.val=texts.jsonl data.val_split=0 out=with
said=$(sed -nE 's/.*"val_accuracy": ?([0-9.e-]+).*/\1/p' with/metrics.jsonl | tail -n 1)
check "predict the same" "$trireme" predict with/checkpoints/step-00000060 texts.jsonl --json
tail -n 1 out | sed -E 's/.*"accuracy":([0-9.]*).*/\1/' | awk -v a="$said" '{ exit !(($1 - a) ^ 2 < 1e-10) }' && ok || fail "said $said, predicted $(tail -n 1 out)"
check "loss" "$trireme" eval run --data texts.jsonl --json
check "parity" "$trireme" parity bert.yaml --ranks 2 --steps 3 data.val_split=0 train.eval_every=0
sed 's/"label": "graph"/"pair": "a graph"/; s/"label": "other"/"pair": "a model", "label": "other"/' texts.jsonl >pairs.jsonl
check "pairs" "$trireme" predict run pairs.jsonl
grep -q '200, [0-9.]* % of them right' out && ok || fail "texts without labels"
check "masked tokens" "$trireme" train bert.yaml --quiet model.labels=null data.train="$root/docs/design.md" train.steps=2 train.eval_every=0 schedule.warmup=0 out=masked
check "from masked tokens" "$trireme" train bert.yaml --quiet model.from=masked model.family=null model.layers=null model.embed=null \
    model.heads=null model.context=null data.tokenizer=null train.steps=2 schedule.warmup=0 out=from
grep -q '"num_hidden_layers": 1' from/config.json && ok || fail "sizes of model.from"
refused "more classes" 'model.labels is 3 here but 2 in' "$trireme" train bert.yaml --quiet model.from=run model.labels=3 out=other
refused "one class" 'a classifier has 2 classes or more' "$trireme" train bert.yaml --quiet model.labels=1 out=other
refused "another kind" 'without classes; predict takes' "$trireme" predict masked texts.jsonl
refused "unknown name" 'which the model does not know' bash -c "sed 's/other/else/' texts.jsonl >odd.jsonl; $trireme predict run odd.jsonl"
refused "too long" 'texts have 4 to 24 tokens' "$trireme" predict run texts.jsonl --seq 25
refused "no labels" 'has no label' "$trireme" train bert.yaml --quiet data.val=pairs.jsonl data.val_split=0 out=other
report
