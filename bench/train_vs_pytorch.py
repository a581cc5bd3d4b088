#!/usr/bin/env python3
"""Trireme against PyTorch on the training step of GPT-2 124M, batch 4 x 512, alternating in one
run.

    $(tools/python.sh) bench/train_vs_pytorch.py --out train.json
    $(tools/python.sh) bench/train_vs_pytorch.py --precisions bf16 --peers lean-bf16-compiled

Order in a round: ours, peer mode 1, ours, peer mode 2, ... so that a machine that slows down slows
both. Each run is a process of its own. Of each contender the steps of all rounds are pooled, and
the median is taken. Reported: tokens/s against the fastest peer of the same precision, and peak
memory (VmHWM) against the smallest eager and the smallest compiled peer, which need not be the
fastest. Modes with -tuned trade memory for time, so they count for time alone. The targets:
1.35x the tokens/s, 0.6x and 0.75x the memory. Exit status 1 with --check when one is missed.
"""

import argparse
import os
import sys
import tempfile

import peer_train
from common import ROOT, machine, median, run_json, say, table, write_json

PEERS = [f"{model}-{{}}-{run}" for run in ("eager", "compiled") for model in ("hf", "lean")] + [
    "lean-{}-eager-tuned",
    "lean-{}-compiled-tuned",
]
FASTER, LESS_THAN_EAGER, LESS_THAN_COMPILED = 1.35, 0.6, 0.75


def run_ours(precision, options):
    made = run_json(
        [
            options.trireme,
            "bench",
            "train",
            "model.preset=gpt2",
            f"train.batch={options.batch}",
            f"train.seq={options.seq}",
            f"train.precision={precision}",
            f"threads={options.threads}",
            *options.set,
            "--steps",
            str(options.steps),
            "--json",
        ],
        {"OMP_NUM_THREADS": str(options.threads)},
    )
    for key in ("tokens_per_s", "peak_bytes", "step_s"):
        if key not in made:
            sys.exit(f"{options.trireme} bench train --json printed no {key}")
    return made


def run_peer(mode, options):
    return run_json(
        peer_train.command(mode, options), peer_train.environment(mode, options.threads)
    )


def gather(precision, options):
    """Runs the rounds; returns {name: [objects]}."""
    peers = (
        [m for m in options.peers if m.split("-")[1] == precision]
        if options.peers
        else [m.format(precision) for m in PEERS]
    )
    runs = {"trireme": []} | {mode: [] for mode in peers}
    for number in range(options.rounds):
        for mode in peers:
            for name in ("trireme", mode):
                made = (
                    run_ours(precision, options) if name == "trireme" else run_peer(name, options)
                )
                runs[name].append(made)
                say(
                    f"round {number + 1}, {precision}: {name} {made['tokens_per_s']:.1f} tokens/s, "
                    f"{made['peak_bytes'] / 1e9:.2f} GB"
                )
    return runs


def summarise(precision, runs, options):
    """One row a contender, and the verdicts."""
    tokens = options.batch * options.seq
    rows = {}
    for name, made in runs.items():
        if made:
            step = [s for one in made for s in one["step_s"]]
            rows[name] = {
                "tokens_per_s": tokens / median(step),
                "step_s": median(step),
                "steps": len(step),
                "fastest_step_s": min(step),
                "peak_bytes": max(one["peak_bytes"] for one in made),
                "compile_s": max(one.get("compile_s", 0.0) for one in made),
            }
    ours, verdicts = rows["trireme"], []
    peers = {name: row for name, row in rows.items() if name != "trireme"}
    if peers:
        best = max(peers, key=lambda name: peers[name]["tokens_per_s"])
        verdicts.append(
            (
                f"tokens/s against {best}",
                ours["tokens_per_s"] / peers[best]["tokens_per_s"],
                ">=",
                FASTER,
            )
        )
    for run, limit in (("eager", LESS_THAN_EAGER), ("compiled", LESS_THAN_COMPILED)):
        those = [name for name in peers if name.endswith(run)]
        if those:
            least = min(those, key=lambda name: peers[name]["peak_bytes"])
            verdicts.append(
                (
                    f"peak memory against {least}",
                    ours["peak_bytes"] / peers[least]["peak_bytes"],
                    "<=",
                    limit,
                )
            )
    print(f"\n{precision}, batch {options.batch} x {options.seq}, {options.threads} threads")
    table(
        [
            [
                name,
                f"{row['tokens_per_s']:.1f}",
                f"{row['step_s']:.3f}",
                str(row["steps"]),
                f"{ours['tokens_per_s'] / row['tokens_per_s']:.2f}",
                f"{row['peak_bytes'] / 1e9:.2f}",
                f"{ours['peak_bytes'] / row['peak_bytes']:.2f}",
                f"{row['compile_s']:.0f}",
            ]
            for name, row in rows.items()
        ],
        ["", "tokens/s", "s a step", "steps", "ours / it", "peak GB", "ours / it", "compile s"],
    )
    met = True
    for what, ratio, sign, limit in verdicts:
        good = ratio >= limit if sign == ">=" else ratio <= limit
        met = met and good
        print(f"{what}: {ratio:.2f} (target {sign} {limit}) {'met' if good else 'MISSED'}")
    return {
        "rows": rows,
        "met": met,
        "verdicts": [
            {"what": what, "ratio": ratio, "target": f"{sign} {limit}"}
            for what, ratio, sign, limit in verdicts
        ],
    }


def main():
    parser = argparse.ArgumentParser(description="Trireme against PyTorch, training GPT-2 124M")
    peer_train.add_arguments(parser)
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
    parser.add_argument("--set", nargs="+", default=[], help="more key=value for trireme bench")
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"]
    )
    parser.add_argument("--peers", nargs="+", help="modes of peer_train.py instead of all")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each run")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a peer before those")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument(
        "--check", action="store_true", help="exit status 1 when a target is missed"
    )
    parser.add_argument("--layers", type=int, default=12, help=argparse.SUPPRESS)
    options = parser.parse_args()
    about = machine()
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")
    with tempfile.TemporaryDirectory() as cache:  # the first round compiles, the others find it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        runs = {p: gather(p, options) for p in options.precisions}
    result = {p: summarise(p, runs[p], options) for p in options.precisions}
    if options.out:
        write_json(
            options.out,
            {"machine": about, "options": vars(options), "result": result, "runs": runs},
        )
    sys.exit(1 if options.check and not all(r["met"] for r in result.values()) else 0)


if __name__ == "__main__":
    main()
