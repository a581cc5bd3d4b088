#!/usr/bin/env python3
"""Compares the logits of trireme with those of Hugging Face transformers on directories.

    $(tools/python.sh) tests/compare_hf.py DIR... [--ids ids.json] [--trireme build/trireme]

A DIR is a Hugging Face directory of a model of texts that trireme or anyone else wrote, of the architecture that its
config.json names; one with two towers gets the same ids in both. Without --ids,
DIR/ids.json is taken when there is one, else random ids. Prints one line for each with the largest difference
divided by the largest absolute logit, and exits with 1 when one is above --limit (1e-4), 2 when
something does not fit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def stop(text):
    print(f"compare_hf: {text}", file=sys.stderr)
    sys.exit(2)


def logits_of_transformers(folder, ids):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        architecture = json.load(file)["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            stop(f"transformers reports {what} in {folder}: {sorted(map(str, info[what]))}")
    given = ids if isinstance(ids, dict) else {"input_ids": ids}
    if architecture.startswith("Bert"):
        given = {**given, "attention_mask": [[1] * len(row) for row in given["input_ids"]]}
    else:
        given = {**given, "use_cache": False}
    with torch.no_grad():
        made = model.eval()(**{key: torch.tensor(rows) if isinstance(rows, list) else rows for key, rows in given.items()})
    return made.logits.numpy()


def logits_of_trireme(trireme, folder, ids_file, out):
    done = subprocess.run(
        [trireme, "eval", folder, "--logits", ids_file, "--out", out],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        stop(f"trireme eval failed with status {done.returncode}: {done.stdout.strip()}")
    return numpy.load(out, allow_pickle=False)


def compare(folder, options, scratch):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    ids_file = options.ids or os.path.join(folder, "ids.json")
    if not os.path.exists(ids_file):
        if options.ids:
            stop(f"{ids_file} does not exist")
        ids_file = os.path.join(scratch, "ids.json")
        length = config.get("n_positions") or config.get("max_position_embeddings") or 48
        random = numpy.random.default_rng(5)
        made = random.integers(config["vocab_size"], size=(2, min(48, length))).tolist()
        with open(ids_file, "w", encoding="utf-8") as file:
            json.dump({"input_ids": made, "decoder_input_ids": made} if "num_decoder_layers" in config else made, file)
    with open(ids_file, encoding="utf-8") as file:
        ids = json.load(file)
    out = os.path.join(scratch, "logits.npy")
    ours = logits_of_trireme(options.trireme, folder, ids_file, out)
    theirs = logits_of_transformers(folder, ids)
    if ours.shape != theirs.shape or ours.dtype != numpy.float32:
        stop(f"trireme wrote {ours.dtype} {ours.shape}, transformers float32 {theirs.shape}")
    if not numpy.isfinite(ours).all():
        stop(f"{folder}: trireme's logits are not all finite")
    largest = float(numpy.abs(theirs).max())
    error = float(numpy.abs(ours.astype(numpy.float64) - theirs).max()) / largest
    good = error <= options.limit
    print(
        f"{folder}: logits {list(ours.shape)}, largest {largest:.4f}, max relative error "
        f"{error:.2e} (limit {options.limit:.0e}) {'ok' if good else 'TOO LARGE'}",
        flush=True,
    )
    return good


def main():
    parser = argparse.ArgumentParser(description="compare trireme's logits with transformers'")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--ids", help="a JSON file [B][T] of token ids")
    parser.add_argument("--trireme", default=os.path.join(ROOT, "build", "trireme"))
    parser.add_argument("--limit", type=float, default=1e-4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        good = [compare(folder, options, scratch) for folder in options.folders]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
