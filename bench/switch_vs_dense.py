#!/usr/bin/env python3
"""Does a model with experts reach the dense model's loss in fewer seconds, at equal flops a token?

    tools/fetch_demo_text.sh
    build/trireme tokenizer train --kind unigram --vocab 2048 --out demo-data/unigram2k demo-data/sotu/train.txt
    $(tools/python.sh) bench/switch_vs_dense.py --out switch.json

Both are examples/own_experts.c, a decoder whose every MLP is experts with one choice a token (Switch,
Fedus et al. 2022): 8 of them, or 1, which is the dense model. No token is left out, so that a token
has the same products in both; the router's are added. Same text, order, seeds and rates; each rate of
--lr is run for both, and each model is judged by the rate that serves it best.

Reported for each seed: the dense model's last validation loss, the step at which the other one first
has it (interpolated between two validations), and the factor in seconds: steps x seconds a step of
each. Seconds a step are measured apart from the long runs, in turns, one thread, without validation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from common import ROOT, machine, say, write_json

SIZES = "layers=2 embed=128 heads=4 mlp=512 context=128"
EVERY = 25


def command(options, experts, lr, seed, out, steps, evaluate):
    return [
        options.program,
        options.train,
        *(f"model.{size}" for size in SIZES.split()),
        *(f"data.val={options.val}", f"data.tokenizer={options.tokenizer}", f"model.experts={experts}"),
        *("train.seq=128", "train.batch=16", f"train.steps={steps}", "train.save_every=0", "train.sample_every=0"),
        *(f"train.eval_every={EVERY if evaluate else 0}", "train.eval_batches=16"),
        *("schedule.name=inverse_sqrt", f"schedule.warmup={min(100, steps)}", "optimizer.weight_decay=0"),
        *(f"optimizer.lr={lr}", f"seed={seed}", "threads=1", f"out={out}"),
    ]


def train(options, experts, lr, seed):
    """{step: validation loss}; a run that is complete is not run again."""
    out = f"{options.runs}/run-{experts}-{lr}-{seed}"
    losses = read(out)
    if options.steps not in losses:
        done = subprocess.run(command(options, experts, lr, seed, out, options.steps, True), capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        losses = read(out)
    say(f"{experts} experts, lr {lr}, seed {seed}: {losses[options.steps]:.4f} after {options.steps} steps")
    return losses


def read(out):
    path = f"{out}/metrics.jsonl"
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}


def step_at(losses, wanted):
    """The step at which the loss is first as low, or None."""
    last = None
    for step, loss in sorted(losses.items()):
        if loss <= wanted:
            return step if last is None else last[0] + (step - last[0]) * (last[1] - wanted) / (last[1] - loss)
        last = (step, loss)
    return None


def seconds_a_step(options):
    """Medians over runs in turns; the time of a step is in metrics.jsonl as tokens a second."""
    taken = {1: [], options.experts: []}
    for _ in range(options.rounds):
        for experts in taken:
            out = f"{options.runs}/timed-{experts}"
            subprocess.run(command(options, experts, options.lr[0], 0, out, 12, False), capture_output=True, check=True)
            with open(f"{out}/metrics.jsonl", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            taken[experts] += [16 * 128 / row["tokens_per_s"] for row in rows if "tokens_per_s" in row][2:]
            subprocess.run(["rm", "-rf", out], check=True)
    return {experts: statistics.median(times) for experts, times in taken.items()}


def main():
    parser = argparse.ArgumentParser(description="experts against a dense model at equal flops a token")
    parser.add_argument("--program", default=f"{ROOT}/build/example_own_experts")
    parser.add_argument("--train", default="demo-data/sotu/train.txt")
    parser.add_argument("--val", default="demo-data/sotu/val.txt")
    parser.add_argument("--tokenizer", default="demo-data/unigram2k")
    parser.add_argument("--runs", default="runs/switch-vs-dense")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", nargs="+", default=["3e-3", "6e-3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--out", help="write everything as JSON")
    options = parser.parse_args()
    os.makedirs(options.runs, exist_ok=True)
    best, curves = {}, {}
    for experts in (1, options.experts):
        first = {lr: train(options, experts, lr, options.seeds[0]) for lr in options.lr}
        best[experts] = min(first, key=lambda lr: first[lr][options.steps])
        curves[experts] = [first[best[experts]]] + [train(options, experts, best[experts], seed) for seed in options.seeds[1:]]
    seconds = seconds_a_step(options)
    rows = []
    for seed, dense, sparse in zip(options.seeds, curves[1], curves[options.experts]):
        wanted = dense[options.steps]
        step = step_at(sparse, wanted)
        factor = step and options.steps * seconds[1] / (step * seconds[options.experts])
        rows.append({"seed": seed, "dense_loss": wanted, "loss": sparse[options.steps], "step": step, "factor": factor})
        print(
            f"seed {seed}: dense {wanted:.4f} after {options.steps} steps; {options.experts} experts {sparse[options.steps]:.4f}, "
            + (f"dense's loss at step {step:.0f}: {factor:.2f} times as soon" if step else "dense's loss is not reached")
        )
    print(f"seconds a step: {seconds[1]:.3f} dense, {seconds[options.experts]:.3f} with {options.experts} experts; rates {best}")
    if options.out:
        write_json(options.out, {"machine": machine(), "options": vars(options), "rates": best, "seconds": seconds, "rows": rows, "curves": curves})


if __name__ == "__main__":
    main()
