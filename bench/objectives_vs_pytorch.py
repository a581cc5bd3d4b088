#!/usr/bin/env python3
"""Do the losses of masked tokens (BERT) and of span corruption (T5) fall as those of a PyTorch run do? The same model,
text, tokens, optimizer and number of steps; each side draws its own weights, windows and masks, so only the spread over
seeds can be compared.

    $(tools/python.sh) bench/objectives_vs_pytorch.py --text corpus.txt --out objectives.json

Small models (2 layers, embed 128, 4 heads) on 16 sequences a step, AdamW at a constant rate, no dropout. The tokenizers are
learnt from the text by Trireme; PyTorch gets the same tokens. Printed is the mean loss of each stretch of the curve, over
seeds, and its range. Agreement: in the last third of the steps the two means differ by at most the wider of the two ranges,
or by 2 %. Exit status 1 otherwise."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

import torch
from transformers import BertConfig, BertForPreTraining, T5Config, T5ForConditionalGeneration

from common import ROOT, machine, say, table, write_json

SEQ, BATCH = 128, 16
LAYERS, EMBED, HEADS, MLP = 2, 128, 4, 256


def windows_of(tokens, length, seed):
    found = [tokens[i : i + length] for i in range(0, len(tokens) - length, length)]
    random.Random(seed).shuffle(found)
    return found


class Masked:
    """Devlin et al. 2019, as src/data/objective_masked.c has it."""

    name, kind, special = "masked", "wordpiece", ("[CLS]", "[SEP]", "[MASK]")
    raw = SEQ - 3
    ours = ["model.family=bert", f"model.context={SEQ}"]

    def model(self, vocab):
        return BertForPreTraining(BertConfig(
            vocab_size=vocab, hidden_size=EMBED, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=MLP,
            max_position_embeddings=SEQ, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))

    def sample(self, r, vocab, ids, windows, at):
        first = self.raw // 4 + r.randrange(self.raw // 2 + 1)
        follows = r.random() < 0.5
        text = list(windows[at % len(windows)])
        if not follows:
            text[first:] = windows[r.randrange(len(windows))][first:]
        targets = [-100] * self.raw
        for i, token in enumerate(text):
            if token not in ids["all"] and r.random() < 0.15:
                how, targets[i] = r.random(), token
                text[i] = ids["[MASK]"] if how < 0.8 else r.randrange(vocab) if how < 0.9 else token
        cls, sep = ids["[CLS]"], ids["[SEP]"]
        return {"input_ids": [cls, *text[:first], sep, *text[first:], sep],
                "labels": [-100, *targets[:first], -100, *targets[first:], -100],
                "token_type_ids": [0] * (first + 2) + [1] * (SEQ - first - 2),
                "next_sentence_label": int(not follows)}


class Span:
    """Raffel et al. 2020, as src/data/objective_span.c has it."""

    name, kind, special = "span", "unigram", ()
    raw, target, lost, spans = 141, 29, 21, 7
    ours = ["model.family=t5", "model.gated=true", "model.head_dim=32", f"train.decoder_seq={target}"]

    def model(self, vocab):
        return T5ForConditionalGeneration(T5Config(
            vocab_size=vocab, d_model=EMBED, d_kv=EMBED // HEADS, d_ff=MLP, num_layers=LAYERS, num_heads=HEADS,
            feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False, decoder_start_token_id=0))

    @staticmethod
    def cut(r, items, parts):
        edges = sorted(r.sample(range(1, items), parts - 1))
        return [b - a for a, b in zip([0, *edges], [*edges, items])]

    def sample(self, r, vocab, ids, windows, at):
        window, source, target, i = windows[at % len(windows)], [], [], 0
        for k, (kept, lost) in enumerate(zip(self.cut(r, self.raw - self.lost, self.spans), self.cut(r, self.lost, self.spans))):
            source += [*window[i : i + kept], vocab - 1 - k]
            target += [vocab - 1 - k, *window[i + kept : i + kept + lost]]
            i += kept + lost
        return {"input_ids": [*source, ids["end"]], "labels": [*target, ids["end"]]}


def run(command, **more):
    return subprocess.run(command, check=True, capture_output=True, **more).stdout


def tokenizer(options, kind, folder):
    """Its directory, its size, the ids of special tokens, and the text's tokens."""
    where = os.path.join(folder, kind)
    command = [options.trireme, "tokenizer"]
    run([*command, "train", "--kind", kind, "--vocab", str(options.vocab), "--out", where, os.path.join(folder, "text.txt")])
    info = json.loads(run([*command, "info", "--json", where]))
    with open(os.path.join(folder, "text.txt"), "rb") as text:
        made = json.loads(run([*command, "encode", "--json", "-t", where], stdin=text))
    with open(os.path.join(where, "tokenizer.json"), encoding="utf-8") as file:
        added = {one["content"]: one["id"] for one in json.load(file)["added_tokens"]}
    return where, info["vocab_size"], {**added, "all": set(added.values()), "end": info["end_of_text"]}, (
        made["ids"] if isinstance(made, dict) else made)


def theirs(options, what, vocab, ids, tokens, seed):
    torch.manual_seed(seed)
    model = what.model(vocab).train()
    groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == wide], "weight_decay": 0.1 * wide} for wide in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), eps=1e-8)
    r, windows, losses = random.Random(seed), windows_of(tokens, what.raw, seed), []
    for step in range(options.steps):
        rows = [what.sample(r, vocab, ids, windows, step * BATCH + i) for i in range(BATCH)]
        loss = model(**{key: torch.tensor([row[key] for row in rows]) for key in rows[0]}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(options, what, where, folder, seed):
    out, config = os.path.join(folder, f"run-{what.name}-{seed}"), os.path.join(folder, "config.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write("model: {}\n")
    run([options.trireme, "train", config, "--quiet", *what.ours, f"model.layers={LAYERS}", f"model.embed={EMBED}",
         f"model.heads={HEADS}", f"model.mlp={MLP}", "model.dropout=0", f"data.train={folder}/text.txt", "data.val_split=0",
         f"data.tokenizer={where}", f"train.steps={options.steps}", f"train.batch={BATCH}", f"train.seq={SEQ}", "train.eval_every=0",
         "train.save_every=0", f"optimizer.lr={options.lr}", "optimizer.weight_decay=0.1", "schedule.name=constant",
         "schedule.warmup=0", f"seed={seed}", f"threads={options.threads}", f"out={out}", *options.set])
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["loss"] for row in rows if "loss" in row and "step" in row]


def compare(options, what, folder):
    where, vocab, ids, tokens = tokenizer(options, what.kind, folder)
    say(f"{what.name}: {len(tokens)} tokens, vocabulary {vocab}")
    curves = {"trireme": [], "pytorch": []}
    for seed in options.seeds:
        curves["trireme"].append(ours(options, what, where, folder, seed))
        curves["pytorch"].append(theirs(options, what, vocab, ids, tokens, seed))
        say(f"  seed {seed}: last losses {curves['trireme'][-1][-1]:.3f} and {curves['pytorch'][-1][-1]:.3f}")
    rows, stretch, agree = [], options.steps // 6, True
    for first in range(0, options.steps - stretch + 1, stretch):
        part = {who: [statistics.mean(one[first : first + stretch]) for one in made] for who, made in curves.items()}
        mean = {who: statistics.mean(values) for who, values in part.items()}
        span = {who: max(values) - min(values) for who, values in part.items()}
        rows.append([f"{first + 1} to {first + stretch}", *[f"{mean[who]:.4f} ({span[who]:.4f})" for who in curves]])
        late = first >= options.steps * 2 // 3
        if late:
            agree = agree and abs(mean["trireme"] - mean["pytorch"]) <= max(*span.values(), 0.02 * mean["pytorch"])
    print(f"{what.name}: mean loss over {len(options.seeds)} seeds, and its range")
    table(rows, ["steps", *curves])
    print("agree" if agree else "DIFFER")
    return agree, curves


def main():
    parser = argparse.ArgumentParser(description="do masked tokens and spans learn as in PyTorch?")
    parser.add_argument("--text", required=True, help="a real text in UTF-8")
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
    parser.add_argument("--objectives", nargs="+", default=["masked", "span"], choices=["masked", "span"])
    parser.add_argument("--bytes", type=int, default=3_000_000, help="how much of the text is used")
    parser.add_argument("--vocab", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", nargs="*", default=[], help="more key=value for trireme train")
    parser.add_argument("--out", help="write everything as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        with open(options.text, "rb") as text, open(os.path.join(folder, "text.txt"), "wb") as file:
            file.write(text.read(options.bytes).decode(errors="ignore").encode())
        for what in (Masked(), Span()):
            if what.name in options.objectives:
                results[what.name] = compare(options, what, folder)
    if options.out:
        write_json(options.out, {"machine": machine(), "options": vars(options), "results": results})
    sys.exit(0 if all(agree for agree, _ in results.values()) else 1)


if __name__ == "__main__":
    main()
