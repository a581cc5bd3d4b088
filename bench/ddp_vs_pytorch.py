#!/usr/bin/env python3
"""Trireme against PyTorch's DDP and FSDP2 on the training step of GPT-2 124M: two ranks on this machine, one thread
each, batch 2 x 512 a rank.

    $(tools/python.sh) bench/ddp_vs_pytorch.py --out ddp.json

Contenders: ours with zero=0 and zero=3, each under a plain mpirun and with ranks as threads of one process; one rank of
ours with two threads; DDP and FSDP2 over gloo, a process a rank. In a round every one runs once, so that a machine that
slows down slows all; --around puts a command before each single one (nice, a lock of the machine). The steps of all
rounds are pooled and the median is taken; memory is the largest VmHWM of a rank. Aims: 1.5x the tokens/s of the better
one of DDP and FSDP2; two ranks as threads cost at most 3 % against one rank with two threads. Exit status 1 with
--check when one is missed. About 10 minutes."""

import argparse
import json
import os
import shlex
import sys

import ours_distributed
import peer_distributed
from common import machine, median, run_json, say, table, write_json

FASTER, COST = 1.5, 0.03
OURS = {
    "mpi zero=0": (["zero=0"], False),
    "mpi zero=3": (["zero=3"], False),
    "threads zero=0": (["zero=0"], True),
    "threads zero=1": (["zero=1"], True),
    "threads zero=3": (["zero=3"], True),
}
PEERS, ALONE = ("ddp", "fsdp"), "one rank, two threads"
ALL = (*OURS, ALONE, *PEERS)


def measure(who, options):
    if who in PEERS:
        return peer_distributed.measure(who, options)
    if who == ALONE:
        options.batch *= options.ranks
        return ours_distributed.measure(options, 1, [f"threads={options.ranks}", *options.set])
    extra, threads = OURS[who]
    return ours_distributed.measure(options, options.ranks, extra + options.set, threads)


def main():
    parser = argparse.ArgumentParser(description="Trireme against DDP and FSDP2, two ranks")
    peer_distributed.add_arguments(parser)
    ours_distributed.add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], help="more key=value for trireme")
    parser.add_argument("--who", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--around", default="", help="a command that runs each measurement")
    parser.add_argument("--one", choices=ALL, help=argparse.SUPPRESS)
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when an aim is missed")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    about = machine()
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")
    words = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    runs = {who: [] for who in options.who}
    for number in range(options.rounds):
        for who in options.who:
            made = run_json([*shlex.split(options.around), *words, "--one", who])
            runs[who].append(made)
            say(
                f"round {number + 1}: {who} {made['tokens_per_s']:.1f} tokens/s, "
                f"{made['peak_bytes'] / 1e9:.2f} GB a rank"
            )
    rows, result, met = [], {}, True
    for who, made in runs.items():
        steps = [s for one in made for s in one["step_s"]]
        result[who] = {
            "tokens_per_s": options.ranks * options.batch * options.seq / median(steps),
            "step_s": median(steps),
            "peak_bytes": max(one["peak_bytes"] for one in made),
        }
    for who, row in result.items():
        rows.append(
            [who, f"{row['tokens_per_s']:.1f}", f"{row['step_s']:.2f}", f"{row['peak_bytes'] / 1e9:.2f}"]
        )
    print(f"\n{options.ranks} ranks of one thread, {options.batch} x {options.seq} a rank, {options.precision}")
    table(rows, ["", "tokens/s", "s a step", "GB a rank"])
    best = max((result[who]["tokens_per_s"] for who in PEERS if who in result), default=None)
    for who in (w for w in OURS if w in result and best):
        ratio = result[who]["tokens_per_s"] / best
        met = met and ratio >= FASTER
        print(f"{who}: {ratio:.2f} times the better peer (aim {FASTER}) {'met' if ratio >= FASTER else 'MISSED'}")
    for who in (w for w in OURS if w in result and ALONE in result):
        cost = result[who]["step_s"] / result[ALONE]["step_s"] - 1
        met = met and (cost <= COST or who != "threads zero=0")
        print(f"{who}: {100 * cost:+.1f} % against one rank with {options.ranks} threads (aim {100 * COST:.0f})")
    if options.out:
        write_json(options.out, {"machine": about, "options": vars(options), "result": result, "runs": runs})
    sys.exit(1 if options.check and not met else 0)


if __name__ == "__main__":
    main()
