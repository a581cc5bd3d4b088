#!/usr/bin/env python3
"""Span corruption by trireme and by Hugging Face's T5 in PyTorch: the same model, tokens, optimizer and number of steps, each with
its own random spans; prints the mean loss of every 50 steps of both.

    $(tools/python.sh) bench/span_vs_pytorch.py --tokenizer demo-data/unigram --text demo-data/sotu/train.txt [--steps 300]
"""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import torch
from transformers import T5Config, T5ForConditionalGeneration

SEQ, RAW, TARGET, LOST, SPANS = 128, 141, 29, 21, 7
SIZES = dict(layers=2, embed=128, heads=4, head_dim=32, mlp=256)


def cut(r, items, parts):
    edges = sorted(r.sample(range(1, items), parts - 1))
    return [b - a for a, b in zip([0, *edges], [*edges, items])]


def corrupt(r, window, sentinels, end):
    source, target, at = [], [], 0
    for kept, lost, mark in zip(cut(r, RAW - LOST, SPANS), cut(r, LOST, SPANS), sentinels):
        source += window[at:at + kept] + [mark]
        target += [mark] + window[at + kept:at + kept + lost]
        at += kept + lost
    return source + [end], target + [end]


def theirs(options, info, tokens):
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    config = T5Config(vocab_size=info["vocab_size"], d_model=SIZES["embed"], d_kv=SIZES["head_dim"], d_ff=SIZES["mlp"], num_layers=SIZES["layers"],
                      num_heads=SIZES["heads"], feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False,
                      decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).train()
    groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == wide], "weight_decay": 0.1 * wide} for wide in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    r = random.Random(options.seed)
    windows = [tokens[i:i + RAW] for i in range(0, len(tokens) - RAW, RAW)]
    r.shuffle(windows)
    sentinels = [info["vocab_size"] - 1 - i for i in range(SPANS)]
    losses = []
    for step in range(options.steps):
        pairs = [corrupt(r, windows[(step * 16 + i) % len(windows)], sentinels, info["end_of_text"]) for i in range(16)]
        source, target = (torch.tensor(x) for x in zip(*pairs))
        loss = model(input_ids=source, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def ours(options, out):
    model = ["model.family=t5", "model.gated=true", "model.dropout=0"] + [f"model.{k}={v}" for k, v in SIZES.items()]
    rest = [f"data.train={options.text}", "data.val_split=0", f"data.tokenizer={options.tokenizer}", f"train.steps={options.steps}", "train.batch=16",
            f"train.seq={SEQ}", f"train.decoder_seq={TARGET}", "train.eval_every=0", "train.save_every=0", "optimizer.lr=1e-3", "optimizer.weight_decay=0.1",
            "schedule.name=constant", "schedule.warmup=0", f"seed={options.seed}", f"threads={options.threads}", f"out={out}"]
    config = pathlib.Path(out).parent / "t5.yaml"
    config.write_text("model: {}\n")
    subprocess.run([options.trireme, "train", str(config), "--quiet", *model, *rest], check=True)
    rows = [json.loads(line) for line in (pathlib.Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row][:options.steps]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trireme", default="build/trireme")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    command = [options.trireme, "tokenizer"]
    info = json.loads(subprocess.run([*command, "info", "--json", options.tokenizer], check=True, capture_output=True).stdout)
    text = pathlib.Path(options.text).read_bytes()[:3_000_000]
    tokens = json.loads(subprocess.run([*command, "encode", "--json", "-t", options.tokenizer], input=text, check=True, capture_output=True).stdout)
    with tempfile.TemporaryDirectory() as scratch:
        a = ours(options, f"{scratch}/run")
        b = theirs(options, info, tokens)
    print("steps        trireme  pytorch")
    for i in range(0, options.steps, 50):
        mean = lambda x: sum(x[i:i + 50]) / len(x[i:i + 50])
        print(f"{i + 1:4d}-{i + 50:4d}   {mean(a):8.4f} {mean(b):8.4f}")


if __name__ == "__main__":
    main()
