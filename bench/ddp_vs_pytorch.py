#!/usr/bin/env python3
"""Trireme against PyTorch's DDP and FSDP2 on the training step of GPT-2 124M: two ranks on this machine, a process and
one thread each, batch 2 x 512 a rank, fp32.

    $(tools/python.sh) bench/ddp_vs_pytorch.py --out ddp.json

In a round: ours with zero=0, DDP, ours with zero=3, FSDP2, so that a machine that slows down slows all. Ours runs under
mpirun, PyTorch over gloo. The steps of all rounds are pooled and the median is taken; memory is the largest VmHWM of a
rank. The aim: 1.5x the tokens/s. Exit status 1 with --check when it is missed. About 5 minutes."""

import argparse
import sys

import ours_distributed
import peer_distributed
from common import machine, median, say, table, write_json

FASTER = 1.5
PAIRS = [("trireme zero=0", ["zero=0"], "ddp"), ("trireme zero=3", ["zero=3"], "fsdp")]


def main():
    parser = argparse.ArgumentParser(description="Trireme against DDP and FSDP2, two ranks")
    peer_distributed.add_arguments(parser)
    ours_distributed.add_arguments(parser)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], help="more key=value for trireme")
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when the aim is missed")
    options = parser.parse_args()
    about = machine()
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")
    runs = {}
    for number in range(options.rounds):
        for name, extra, peer in PAIRS:
            for who in (name, peer):
                made = (
                    peer_distributed.measure(peer, options)
                    if who == peer
                    else ours_distributed.measure(options, options.ranks, extra + options.set)
                )
                runs.setdefault(who, []).append(made)
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
    print(f"\n{options.ranks} ranks of one thread, {options.batch} x {options.seq} a rank, fp32")
    table(rows, ["", "tokens/s", "s a step", "GB a rank"])
    for name, _, peer in PAIRS:
        ratio = result[name]["tokens_per_s"] / result[peer]["tokens_per_s"]
        memory = result[name]["peak_bytes"] / result[peer]["peak_bytes"]
        met = met and ratio >= FASTER
        print(
            f"{name} against {peer}: {ratio:.2f} times the tokens/s (aim {FASTER}) "
            f"{'met' if ratio >= FASTER else 'MISSED'}, {memory:.2f} of its memory"
        )
    if options.out:
        write_json(options.out, {"machine": about, "options": vars(options), "result": result, "runs": runs})
    sys.exit(1 if options.check and not met else 0)


if __name__ == "__main__":
    main()
