#!/usr/bin/env python3
"""Trireme against transformers on the training step of several families, alternating in one run.

    $(tools/python.sh) bench/families_vs_pytorch.py --out families.json
    $(tools/python.sh) bench/families_vs_pytorch.py --families vit --precisions bf16 --rounds 1

Order in a round: ours, peer 1, ours, peer 2, ... so that a machine that slows down slows both. Each
run is a process of its own; of each contender the steps of all rounds are pooled and the median is
taken. Both must have the same number of parameters. The target is 1.3x the fastest peer of the same
family and precision; exit status 1 with --check when one is missed. What a family is on either side
stands in peer_families.py.
"""

import argparse
import os
import sys
import tempfile

from common import ROOT, machine, median, run_json, say, table, write_json
from peer_families import FAMILIES, PRECISIONS, RUNS, command, environment

FASTER = 1.3


def run_ours(family, precision, options):
    made = run_json(
        [
            options.trireme,
            "bench",
            "train",
            *family.ours,
            f"train.precision={precision}",
            f"threads={options.threads}",
            *options.set,
            "--steps",
            str(options.steps),
            "--json",
        ],
        {"OMP_NUM_THREADS": str(options.threads)},
    )
    made["per_s"] = family.count / made["median_step_s"]
    return made


def gather(family, precision, options):
    """Runs the rounds; returns {name: [objects]}."""
    peers = [f"{family.name}-{precision}-{run}{tuned}" for tuned in options.tuned for run in options.runs]
    runs = {"trireme": []} | {mode: [] for mode in peers}
    for number in range(options.rounds):
        for mode in peers:
            for name in ("trireme", mode):
                if name == "trireme":
                    made = run_ours(family, precision, options)
                else:
                    made = run_json(command(mode, options), environment(mode, options.threads))
                runs[name].append(made)
                say(
                    f"round {number + 1}, {family.name} {precision}: {name} {made['per_s']:.2f} {family.unit}/s, "
                    f"{made['peak_bytes'] / 1e9:.2f} GB"
                )
    sizes = {name: made[0]["parameters"] for name, made in runs.items() if made}
    if len(set(sizes.values())) > 1:
        sys.exit(f"{family.name}: not the same model: parameters {sizes}")
    return runs


def summarise(family, precision, runs, options):
    rows = {}
    for name, made in runs.items():
        step = [s for one in made for s in one["step_s"]]
        rows[name] = {
            "per_s": family.count / median(step),
            "step_s": median(step),
            "steps": len(step),
            "peak_bytes": max(one["peak_bytes"] for one in made),
        }
    ours = rows["trireme"]
    peers = {name: row for name, row in rows.items() if name != "trireme"}
    best = max(peers, key=lambda name: peers[name]["per_s"])
    ratio = ours["per_s"] / peers[best]["per_s"]
    print(f"\n{family.what}, {precision}, {options.threads} threads, {runs['trireme'][0]['parameters']} parameters")
    table(
        [
            [
                name,
                f"{row['per_s']:.2f}",
                f"{row['step_s']:.3f}",
                str(row["steps"]),
                f"{ours['per_s'] / row['per_s']:.2f}",
                f"{row['peak_bytes'] / 1e9:.2f}",
                f"{ours['peak_bytes'] / row['peak_bytes']:.2f}",
            ]
            for name, row in rows.items()
        ],
        ["", f"{family.unit}/s", "s a step", "steps", "ours / it", "peak GB", "ours / it"],
    )
    print(f"{family.unit}/s against {best}: {ratio:.2f} (target >= {FASTER}) {'met' if ratio >= FASTER else 'MISSED'}")
    return {"rows": rows, "best": best, "ratio": ratio, "met": ratio >= FASTER}


def main():
    parser = argparse.ArgumentParser(description="Trireme against transformers, a step of several families")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument(
        "--tuned", nargs="+", default=["", "-tuned"], choices=["", "-tuned"],
        help="the peer's C library as it is, or told to keep freed memory",
    )
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
    parser.add_argument("--set", nargs="+", default=[], help="more key=value for trireme bench")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each run")
    parser.add_argument("--warmup", type=int, default=2, help="steps of a peer before those")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a target is missed")
    options = parser.parse_args()
    about = machine()
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")
    pairs = [(FAMILIES[name], precision) for name in options.families for precision in options.precisions]
    runs, result = {}, {}
    with tempfile.TemporaryDirectory() as cache:  # the first round compiles, the others find it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for family, precision in pairs:
            key = f"{family.name}-{precision}"
            runs[key] = gather(family, precision, options)
            result[key] = summarise(family, precision, runs[key], options)
    if options.out:
        write_json(options.out, {"machine": about, "options": vars(options), "result": result, "runs": runs})
    sys.exit(1 if options.check and not all(r["met"] for r in result.values()) else 0)


if __name__ == "__main__":
    main()
