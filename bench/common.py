"""What the benchmark scripts share: running one contender in its own process, medians, tables, and
the facts about the machine that a figure is worthless without. Imports nothing beyond Python
itself."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BENCH = os.path.join(ROOT, "bench")


def peak_bytes():
    """VmHWM of this process: the most physical memory it ever held, code and libraries included."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def machine():
    model = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
        for line in info:
            if line.startswith(("model name", "Model", "CPU part")):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def run_json(command, environment=None):
    """Runs a command and returns the one JSON object it prints last on standard output. Exits with
    the command's own words when it fails. Its standard error is shown only then."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode == 0 and lines:
        for text in (lines[-1], done.stdout):  # on one line, or spread over several
            try:
                return json.loads(text)
            except ValueError:
                continue
    sys.exit(
        f"{' '.join(command)}\nfailed with status {done.returncode}; the end of what it said:\n"
        + "\n".join((done.stdout + done.stderr).splitlines()[-15:])
    )


def median(values):
    return statistics.median(values) if values else float("nan")


def table(rows, head):
    """Prints rows (lists of text) under a head; the first column left-aligned, the others right."""
    rows = [head] + rows
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for index, row in enumerate(rows):
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths))
            ).rstrip()
        )
        if index == 0:
            print("  ".join("-" * w for w in widths))


def say(text):
    """Progress, which is not the result."""
    print(text, file=sys.stderr, flush=True)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
    say(f"wrote {path}")
