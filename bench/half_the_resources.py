#!/usr/bin/env python3
"""How many ranks it takes to train GPT-2 124M when each rank may have so much memory: Trireme (zero=3,
train.recompute=full) against PyTorch's DDP and FSDP2 with activation checkpointing, the same batch over all ranks. All
add up the gradients of one sequence after the other, which takes the least memory.

    $(tools/python.sh) bench/half_the_resources.py --out half.json

Ours is known before it runs: the least number of ranks comes from the planned peak, and only that one is run, to show
that it keeps to its plan. The peers are run with 2, 4, ... ranks until one fits. Memory is the largest VmHWM of a rank
(libraries included, on both sides; a plan does not have them, so `--slack` is added to it). Ranks are processes of one
thread; more ranks than cores share them, so tokens/s a rank is what such a rank gets here. The aim: half of FSDP's
ranks. About 6 minutes."""

import argparse
import sys

import ours_distributed
import peer_distributed
from common import machine, say, table, write_json

MODE = ["zero=3", "train.recompute=full"]


def least_planned(options, cap):
    """(ranks, planned bytes) of the smallest that fits, of those that divide the batch."""
    for ranks in (n for n in range(1, options.most + 1) if options.global_batch % n == 0):
        options.batch = options.global_batch // ranks
        extra = [*(MODE if ranks > 1 else MODE[1:]), f"train.micro_batch={ranks}"]
        planned = ours_distributed.planned_bytes(options, ranks, extra)
        say(f"ours on {ranks}: planned {planned / 1e9:.2f} GB")
        if planned + options.slack * 1e6 <= cap:
            return ranks, planned, extra
    return None


def main():
    parser = argparse.ArgumentParser(description="the least number of ranks under a cap of memory")
    peer_distributed.add_arguments(parser)
    ours_distributed.add_arguments(parser)
    parser.add_argument("--cap", type=float, default=1.8, help="GB a rank")
    parser.add_argument("--slack", type=float, default=100, help="MB of program and libraries")
    parser.add_argument("--global-batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--most", type=int, default=8, help="ranks")
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when the aim is missed")
    parser.set_defaults(seq=256, steps=1, warmup=1, micro=1)
    options = parser.parse_args()
    cap, about, rows, runs = options.cap * 1e9, machine(), [], []
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")

    def note(name, made):
        runs.append({"name": name, **made})
        rows.append(
            [
                name,
                str(made["ranks"]),
                f"{made['peak_bytes'] / 1e9:.2f}",
                "yes" if made["peak_bytes"] <= cap else "no",
                f"{made['tokens_per_s'] / made['ranks']:.1f}",
                f"{made['tokens_per_s']:.1f}",
            ]
        )
        say(f"{name} on {made['ranks']}: {made['peak_bytes'] / 1e9:.2f} GB")
        return made["peak_bytes"] <= cap

    ours = least_planned(options, cap)
    if not ours:
        sys.exit(f"no plan of up to {options.most} ranks fits into {options.cap} GB")
    options.batch = options.global_batch // ours[0]
    fits = note(
        f"trireme (planned {ours[1] / 1e9:.2f} GB)",
        ours_distributed.measure(options, ours[0], ours[2]),
    )
    least = {"trireme": ours[0] if fits else None}
    for mode in ("fsdp-checkpoint", "ddp"):
        ranks, least[mode] = 2, None
        while ranks <= options.most and least[mode] is None:
            options.ranks, options.batch = ranks, options.global_batch // ranks
            if note(mode, peer_distributed.measure(mode, options)):
                least[mode] = ranks
            if mode == "ddp" and ranks >= 4:
                break  # what it holds for each parameter does not depend on the ranks
            ranks *= 2
    print(f"\nGPT of {options.layers} x {options.embed}, {options.global_batch} x {options.seq} tokens a step, {options.cap} GB a rank")
    table(rows, ["", "ranks", "GB a rank", "fits", "tokens/s a rank", "tokens/s"])
    for mode, ranks in least.items():
        print(f"{mode}: {ranks if ranks else 'none of those tried'}")
    peer = least["fsdp-checkpoint"]
    met = bool(least["trireme"]) and (not peer or 2 * least["trireme"] <= peer)
    print(f"half of FSDP's ranks: {'met' if met else 'MISSED'}")
    if options.out:
        write_json(options.out, {"machine": about, "options": vars(options), "least": least, "runs": runs})
    sys.exit(1 if options.check and not met else 0)


if __name__ == "__main__":
    main()
