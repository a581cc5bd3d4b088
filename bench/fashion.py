#!/usr/bin/env python3
"""Trains ViT or Swin on Fashion-MNIST by its example and prints the accuracy on the 10,000 test images
against time.

    python bench/fashion.py vit --seed 1
    python bench/fashion.py swin --seed 2 --threads 1 train.steps=2000

Time is given twice: as the clock has it, and as the CPU seconds of all threads divided by two, which
is what two cores need that do nothing else, and what a busy machine cannot stretch. Both have the
evaluations in them. Nothing is kept: the run's directory is temporary. The last line is one JSON
object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

from common import ROOT, machine

CORES = 2
SAID = re.compile(r"step (\d+): validation loss ([\d.]+), accuracy ([\d.]+) %")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description="accuracy on Fashion-MNIST against time")
    parser.add_argument("model", choices=["vit", "swin"])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--trireme", default=f"{ROOT}/build/trireme")
    options = parser.parse_intermixed_args()
    curve, start, line = [], time.monotonic(), ""
    with tempfile.TemporaryDirectory() as work:
        command = [
            options.trireme,
            "train",
            f"{ROOT}/examples/{options.model}-fashion.yaml",
            f"seed={options.seed}",
            f"threads={options.threads}",
            f"out={work}/run",
            *options.overrides,
        ]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in run.stderr:
            if "parameters" in line:
                print(line.strip(), flush=True)
            found = SAID.match(line)
            if found:
                minutes, cpu = (time.monotonic() - start) / 60, cpu_seconds(run.pid) / CORES / 60
                point = {
                    "step": int(found[1]),
                    "loss": float(found[2]),
                    "accuracy": float(found[3]),
                    "minutes": minutes,
                    "cpu_minutes_of_two": cpu,
                }
                curve.append(point)
                print(
                    f"step {point['step']:6}  accuracy {point['accuracy']:.2f} %  loss {point['loss']:.4f}  "
                    f"{minutes:.1f} minutes, {cpu:.1f} of {CORES} cores' time",
                    flush=True,
                )
        if run.wait() or not curve:
            sys.exit(f"{' '.join(command)}\nended with status {run.returncode} and {len(curve)} evaluations: {line.strip()}")
    print(json.dumps({"model": options.model, "seed": options.seed, "machine": machine(), "curve": curve}))


if __name__ == "__main__":
    main()
