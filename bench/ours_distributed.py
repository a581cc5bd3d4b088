"""Trireme's side of the comparisons on several ranks: a short `trireme train` of a GPT under mpirun (a process a rank,
as PyTorch has it) or as threads of one process, and its plan."""

import json
import os
import subprocess
import sys
import tempfile

from common import ROOT, median


def overrides(options, ranks, extra):
    return [
        f"model.layers={options.layers}",
        f"model.embed={options.embed}",
        f"model.heads={options.heads}",
        "model.context=1024",
        "model.vocab=50257",
        "model.dropout=0",
        "data.tokenizer=bytes",
        f"train.batch={ranks * options.batch}",
        f"train.seq={options.seq}",
        f"train.steps={options.warmup + options.steps}",
        "train.eval_every=0",
        "train.save_every=0",
        "threads=1",
        f"train.precision={options.precision}",
        f"mesh.data={ranks}",
        *extra,
    ]


def environment():
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }


def planned_bytes(options, ranks, extra):
    """The exact peak of the rank that needs most: rank 0's, whose parts are the largest or one element less."""
    done = subprocess.run(
        [options.trireme, "inspect", *overrides(options, ranks, extra), "--json"],
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"trireme inspect: {done.stderr}")
    return json.loads(done.stdout)["planned_peak_bytes"]


def measure(options, ranks, extra, threads=False):
    """Like peer_distributed.measure; `threads`: ranks are threads of one process, whose memory is shared out. The last checkpoint is not part of the peak: none is written until all is
    measured."""
    with tempfile.TemporaryDirectory() as work:
        text, out = os.path.join(work, "text.txt"), os.path.join(work, "run")
        with open(text, "w", encoding="ascii") as file:
            for number in range(60000):
                file.write(f"{number * 7919 % 100003} ")
        words = [
            *([] if threads or ranks == 1 else ["mpirun", "-n", str(ranks)]),
            options.trireme,
            "train",
            *overrides(options, ranks, extra),
            f"data.train={text}",
            f"out={out}",
            "--quiet",
        ]
        done = subprocess.run(words, env=environment(), text=True, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.strip()]
    steps = [line for line in lines if "step_s" in line][options.warmup :]
    seconds = [line["step_s"] for line in steps]
    return {
        "mode": "trireme threads" if threads else "trireme",
        "ranks": ranks,
        "step_s": seconds,
        "tokens_per_s": ranks * options.batch * options.seq / median(seconds),
        "peak_bytes": max(line["peak_bytes"] for line in steps) / (ranks if threads else 1),
        "loss": steps[-1]["loss"],
    }


def add_arguments(parser):
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
