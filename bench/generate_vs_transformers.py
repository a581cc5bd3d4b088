#!/usr/bin/env python3
"""Trireme against Hugging Face transformers on generation with GPT-2 124M, batch 1, alternating in
one run.

    $(tools/python.sh) bench/generate_vs_transformers.py --out generate.json
    $(tools/python.sh) bench/generate_vs_transformers.py --precisions bf16 --peers bf16-dynamic

Prefill of 1000 tokens and decoding of 128, as bench/peer_generate.py says it (decoding follows a
prompt of min(1000, 1024 - 128) tokens, since GPT-2 has 1024 positions). Order in a round: ours,
peer mode 1, ours, peer mode 2, ... Of each contender the median over the rounds is taken. Each of
our two rates is compared with the best of the peer's modes at that rate; the targets are 2x in
decoding and 1.35x in prefill. The share of the memory's bandwidth is of what our own read loop of
all threads reached, or of --bandwidth BYTES_PER_S. Exit status 1 with --check when a target is
missed.
"""

import argparse
import sys

import peer_generate
from common import ROOT, machine, median, run_json, say, table, write_json
from peer_train import environment

CONTEXT = 1024
TARGETS = {"tokens_per_s": 2.0, "prefill_tokens_per_s": 1.35}


def bench_generate(precision, prompt, tokens, options):
    made = run_json(
        [
            options.trireme,
            "bench",
            "generate",
            "model.preset=gpt2",
            f"train.precision={precision}",
            f"threads={options.threads}",
            *options.set,
            "--prompt-tokens",
            str(prompt),
            "--tokens",
            str(tokens),
            "--json",
        ],
        {"OMP_NUM_THREADS": str(options.threads)},
    )
    for key in ("prefill_tokens_per_s", "tokens_per_s", "bytes_per_s"):
        if key not in made:
            sys.exit(f"{options.trireme} bench generate --json printed no {key}")
    return made


def run_ours(precision, options):
    """Two runs, for prefill and for decoding, since both do not fit in one context."""
    before = min(options.prompt_tokens, CONTEXT - options.tokens)
    made = bench_generate(precision, before, options.tokens, options)
    if before < options.prompt_tokens:
        longer = bench_generate(precision, options.prompt_tokens, 1, options)
        made["prefill_tokens_per_s"] = longer["prefill_tokens_per_s"]
    return made


def gather(precision, options):
    """Runs the rounds; returns {name: [objects]}."""
    peers = (
        [m for m in options.peers if m.split("-")[0] == precision]
        if options.peers
        else [f"{precision}-{run}" for run in peer_generate.RUNS]
    )
    runs = {"trireme": []} | {mode: [] for mode in peers}
    for number in range(options.rounds):
        for mode in peers:
            for name in ("trireme", mode):
                made = (
                    run_ours(precision, options)
                    if name == "trireme"
                    else run_json(
                        peer_generate.command(name, options), environment(name, options.threads)
                    )
                )
                runs[name].append(made)
                say(
                    f"round {number + 1}, {precision}: {name} "
                    f"prefill {made['prefill_tokens_per_s']:.1f}, "
                    f"decode {made['tokens_per_s']:.1f} tokens/s"
                )
    return runs


def summarise(precision, runs, options):
    rows = {
        name: {key: median([one[key] for one in made]) for key in (*TARGETS, "bytes_per_s")}
        | {"peak_bytes": max(one.get("peak_bytes", 0) for one in made)}
        for name, made in runs.items()
        if made
    }
    bandwidth = options.bandwidth or max(
        (one.get("read_bandwidth", 0.0) for one in runs["trireme"]), default=0.0
    )
    ours, peers = rows["trireme"], [name for name in rows if name != "trireme"]
    print(
        f"\n{precision}, prompt {options.prompt_tokens}, {options.tokens} tokens, "
        f"{options.threads} threads"
    )
    table(
        [
            [
                name,
                f"{row['prefill_tokens_per_s']:.0f}",
                f"{ours['prefill_tokens_per_s'] / row['prefill_tokens_per_s']:.2f}",
                f"{row['tokens_per_s']:.1f}",
                f"{ours['tokens_per_s'] / row['tokens_per_s']:.2f}",
                f"{row['bytes_per_s'] / 1e9:.1f}",
                f"{100 * row['bytes_per_s'] / bandwidth:.0f} %" if bandwidth else "-",
                f"{row['peak_bytes'] / 1e9:.2f}",
            ]
            for name, row in rows.items()
        ],
        [
            "",
            "prefill tokens/s",
            "ours / it",
            "decode tokens/s",
            "ours / it",
            "GB/s",
            "of bandwidth",
            "peak GB",
        ],
    )
    verdicts, met = [], True
    for key, target in TARGETS.items() if peers else ():
        best = max(peers, key=lambda name: rows[name][key])
        ratio = ours[key] / rows[best][key]
        met = met and ratio >= target
        verdicts.append({"what": f"{key} against {best}", "ratio": ratio, "target": f">= {target}"})
        print(
            f"{key} against {best}: {ratio:.2f} (target >= {target}) "
            f"{'met' if ratio >= target else 'MISSED'}"
        )
    return {"rows": rows, "verdicts": verdicts, "met": met}


def main():
    parser = argparse.ArgumentParser(
        description="Trireme against transformers, generation with GPT-2 124M"
    )
    peer_generate.add_arguments(parser)
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
    parser.add_argument("--set", nargs="+", default=[], help="more key=value for trireme bench")
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"]
    )
    parser.add_argument("--peers", nargs="+", help="modes of peer_generate.py instead of all")
    parser.add_argument("--repeats", type=int, default=2, help="of a peer in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bandwidth", type=float, help="bytes a second of a read loop")
    parser.add_argument("--out", help="write everything as JSON")
    parser.add_argument(
        "--check", action="store_true", help="exit status 1 when a target is missed"
    )
    parser.add_argument("--layers", type=int, default=12, help=argparse.SUPPRESS)
    options = parser.parse_args()
    about = machine()
    say(f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f} before the start")
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
