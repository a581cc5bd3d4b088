#!/usr/bin/env python3
"""Does a model with experts reach the dense model's loss in fewer seconds, at equal flops a token?

    tools/manual_pages.sh
    $(tools/python.sh) bench/switch_vs_dense.py --out switch.json
    $(tools/python.sh) bench/switch_vs_dense.py --families --out families.json

Both are examples/own_experts.c: a decoder whose every MLP is experts with one choice a token (Switch,
Fedus et al. 2022), or, with model.experts=1, a plain MLP of the same size. With --families they are the
families `switch` with experts in every layer, and `t5`: encoder and decoder by span corruption, with a
tokenizer of 1,024 tokens learned from the first 8 MB of the text. No token is left out, so that a token has
the same products in both; the router's are added. Same text, order, seeds. Each rate of --lr is run for
both for --pick steps with the first seed, and each model goes on with the rate that serves it best; the
rate falls with the root of the step, so that a short run is the beginning of a long one.

Experts pay where the dense model is too small for its text: here 0.17 M parameters, three quarters of them
in MLPs of 8 x embed, against the bytes of 45 MB in 16 languages.

Reported for each seed: the dense model's last validation loss, the step at which the other one first
has it (interpolated between two validations), and the factor in seconds: steps x seconds a step of each.
Seconds are those of the process on a processor, which a busy machine does not stretch as it does the
clock's. Seconds a step are measured apart from the long runs, in turns, one thread, without validation:
a run of many steps less one of few. A factor by the CPU seconds of the two long runs, with their
validations, stands beside it; where the two differ much, the machine was busy and the pairs want to be
measured again. A run that is complete is not run again.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

from common import ROOT, machine, say, write_json

FEW, MANY = 5, 45  # steps of the runs that are timed
LEARNED_BYTES = 8_000_000  # of the text: what the families' tokenizer is learned from


def example(options, experts):
    return [f"{ROOT}/build/example_own_experts", options.train, "model.context=128", f"model.experts={experts}"]


def family(options, experts):
    head = [f"{ROOT}/build/trireme", "train", "-q", f"data.train={options.train}", f"train.decoder_seq={options.decoder_seq}"]
    if experts == 1:
        return [*head, "model.family=t5"]
    room = ["model.expert_every=1", f"model.expert_capacity={experts}", "model.balance_loss=0.001", "model.router_z_loss=0.001"]
    return [*head, "model.family=switch", f"model.experts={experts}", *room]


def command(options, experts, lr, seed, steps, evaluate, out):
    return [
        *(family if options.families else example)(options, experts),
        *(f"model.{size}" for size in options.sizes),
        *(f"data.val={options.val}", f"data.tokenizer={options.tokenizer}"),
        *(f"train.seq={options.seq}", f"train.batch={options.batch}", f"train.precision={options.precision}"),
        *(f"train.steps={steps}", "train.save_every=0", "train.sample_every=0"),
        *(f"train.eval_every={options.every if evaluate else 0}", f"train.eval_batches={options.eval_batches}"),
        *("schedule.name=inverse_sqrt", f"schedule.warmup={min(100, steps)}", "optimizer.weight_decay=0"),
        *(f"optimizer.lr={lr}", f"seed={seed}", "threads=1", f"out={out}"),
    ]


def run(arguments):
    """CPU seconds."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(arguments)}\nended with status {process.returncode}: {said.read().strip().splitlines()[-1:]}")
    return used.ru_utime + used.ru_stime


def learn_tokenizer(options):
    """One for the families, beside the text."""
    options.tokenizer = f"{os.path.dirname(options.train)}/unigram"
    if os.path.exists(options.tokenizer):
        return
    with tempfile.NamedTemporaryFile(suffix=".txt") as part, open(options.train, "rb") as text:
        part.write(text.read(LEARNED_BYTES).rsplit(b"\n", 1)[0])
        part.flush()
        run([f"{ROOT}/build/trireme", "tokenizer", "train", "--kind", "unigram", "--vocab", "1024", "--out", options.tokenizer, part.name])


def train(options, experts, lr, seed, steps):
    """{step: validation loss}, CPU seconds."""
    out = f"{options.runs}/{experts}-{lr}-{seed}-{steps}"
    kept = f"{out}.json"
    if not os.path.exists(kept):
        shutil.rmtree(out, ignore_errors=True)
        cpu = run(command(options, experts, lr, seed, steps, True, out))
        with open(f"{out}/metrics.jsonl", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        write_json(kept, {"losses": {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}, "cpu_seconds": cpu})
    with open(kept, encoding="utf-8") as file:
        done = json.load(file)
    losses = {int(step): loss for step, loss in done["losses"].items()}
    say(f"{experts} experts, lr {lr}, seed {seed}: {losses[steps]:.4f} after {steps} steps, {done['cpu_seconds']:.0f} CPU seconds")
    return losses, done["cpu_seconds"]


def step_at(losses, wanted):
    """The step at which the loss is first as low, or None."""
    last = None
    for step, loss in sorted(losses.items()):
        if loss <= wanted:
            return step if last is None else last[0] + (step - last[0]) * (last[1] - wanted) / (last[1] - loss)
        last = (step, loss)
    return None


def seconds_a_step(options):
    """Of each round, of both models in turns."""
    taken = {1: [], options.experts: []}
    with tempfile.TemporaryDirectory() as work:
        for number in range(options.rounds):
            for experts in taken:
                few, many = (
                    run(command(options, experts, options.lr[0], 0, steps, False, f"{work}/{number}-{experts}-{steps}")) for steps in (FEW, MANY)
                )
                taken[experts].append((many - few) / (MANY - FEW))
    return taken


def main():
    parser = argparse.ArgumentParser(description="experts against a dense model at equal flops a token")
    parser.add_argument("--families", action="store_true", help="`switch` against `t5`, not the example")
    parser.add_argument("--train", default="demo-data/manuals/train.txt")
    parser.add_argument("--val", default="demo-data/manuals/val.txt")
    parser.add_argument("--tokenizer", help="default: bytes, or one that is learned for the families")
    parser.add_argument("--runs", help="what is complete there is not run again; runs/switch-vs-dense or switch-vs-t5")
    parser.add_argument("--sizes", nargs="+", default=["layers=2", "embed=64", "heads=2", "mlp=512"], help="keys of model.")
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--decoder-seq", type=int, default=29, help="of the families: what goes of a window whose rest is 128")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pick", type=int, default=300, help="steps of the runs that choose the rate")
    parser.add_argument("--lr", nargs="+", default=["8e-3", "16e-3"])
    parser.add_argument("--every", type=int, default=100, help="steps between two validations")
    parser.add_argument("--eval-batches", type=int, default=16)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--out", help="write everything as JSON")
    options = parser.parse_args()
    options.runs = options.runs or f"runs/switch-vs-{'t5' if options.families else 'dense'}"
    if options.families and not options.tokenizer:
        learn_tokenizer(options)
    options.tokenizer = options.tokenizer or "bytes"
    os.makedirs(options.runs, exist_ok=True)
    both = (1, options.experts)
    best = {}
    for experts in both:
        first = {lr: train(options, experts, lr, options.seeds[0], options.pick)[0][options.pick] for lr in options.lr}
        best[experts] = min(first, key=first.get)
    taken = seconds_a_step(options)
    seconds = {experts: statistics.median(times) for experts, times in taken.items()}
    ratio = statistics.median(a / b for a, b in zip(taken[options.experts], taken[1]))
    print(f"CPU seconds a step: {seconds[1]:.4f} dense, {seconds[options.experts]:.4f} with {options.experts} experts, {ratio:.3f} of it; rates {best}")
    rows = []
    for seed in options.seeds:
        (dense, dense_cpu), (sparse, sparse_cpu) = (train(options, experts, best[experts], seed, options.steps) for experts in both)
        wanted = dense[options.steps]
        step = step_at(sparse, wanted)
        row = {"seed": seed, "dense_loss": wanted, "loss": sparse[options.steps], "step": step, "curves": {"dense": dense, "experts": sparse}}
        row |= {"cpu_seconds": {"dense": dense_cpu, "experts": sparse_cpu}}
        row |= {"factor_steps": step and options.steps / step, "factor_seconds": step and options.steps / step / ratio}
        row |= {"factor_runs": step and dense_cpu * options.steps / (sparse_cpu * step)}
        rows.append(row)
        print(
            f"seed {seed}: dense {wanted:.4f} after {options.steps} steps; {options.experts} experts {row['loss']:.4f}, "
            + (
                f"dense's loss at step {step:.0f}: {row['factor_steps']:.2f} times fewer steps, {row['factor_seconds']:.2f} times fewer seconds "
                f"({row['factor_runs']:.2f} by the runs' own)"
                if step
                else "dense's loss is not reached"
            ),
            flush=True,
        )
    if options.out:
        result = {"rates": best, "seconds_a_step": seconds, "rounds": taken, "ratio": ratio, "rows": rows}
        write_json(options.out, {"machine": machine(), "options": vars(options), **result})


if __name__ == "__main__":
    main()
