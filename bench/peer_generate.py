#!/usr/bin/env python3
"""Measures Hugging Face transformers on generation with GPT-2 124M (random weights, which cost the
same), batch 1, with a KV cache: prefill of a prompt of 1000 tokens, and greedy decoding of 128
tokens.

    python bench/peer_generate.py                               # all modes, one JSON object a line
    python bench/peer_generate.py --mode fp32-dynamic           # one mode, in this process

GPT-2 has 1024 positions, so 128 tokens cannot follow 1000. The two are timed apart: prefill takes a
prompt of --prompt-tokens and gives the logits of its last token; decoding follows a prompt of
min(prompt-tokens, 1024 - tokens), that is 896, and ends at position 1024.

A mode is PRECISION-RUN[-tuned]:
    PRECISION  fp32, or bf16: the weights are bf16, as one serves them
    RUN        dynamic: the default cache, eager; static: StaticCache, eager; compiled: StaticCache
               and torch.compile of the decoding step (the prefill stays eager); frozen: as
               compiled, with the weights made constants that the compiler may repack
    tuned      the C library keeps freed memory (see peer_train.py)

The object: mode, prefill_tokens_per_s (median of --repeats), tokens_per_s (median over the decoding
steps' times; the first is left out), bytes_per_s (weights read for a token, the head included,
times tokens_per_s), prefill_s, step_s, compile_s, peak_bytes, base_bytes, made (the tokens, equal
in all runs of a precision up to ties within rounding), versions.
"""

import argparse
import json
import os
import sys
import time

from common import median, peak_bytes, run_json, say
from peer_train import environment

PRECISIONS, RUNS = ("fp32", "bf16"), ("dynamic", "static", "compiled", "frozen")
DEFAULT_MODES = [f"{p}-{r}" for p in PRECISIONS for r in RUNS]


def command(mode, options):
    return [
        sys.executable,
        os.path.abspath(__file__),
        "--mode",
        mode,
        "--threads",
        str(options.threads),
        "--prompt-tokens",
        str(options.prompt_tokens),
        "--tokens",
        str(options.tokens),
        "--repeats",
        str(options.repeats),
        "--layers",
        str(options.layers),
    ]


def measure(mode, options):
    import torch
    import transformers
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

    transformers.logging.set_verbosity_error()
    base = peak_bytes()
    precision, run = mode.removesuffix("-tuned").split("-")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=options.layers, attn_implementation="sdpa")
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    if precision == "bf16":
        model.bfloat16()
    context = config.n_positions
    prompt = torch.randint(config.vocab_size, (1, options.prompt_tokens))
    short = prompt[:, : min(options.prompt_tokens, context - options.tokens)]

    # A static cache is made once: compiled code holds on to its addresses.
    static = None if run == "dynamic" else StaticCache(config=config, max_cache_len=context)

    def empty_cache():
        if static is None:
            return DynamicCache(config=config)
        static.reset()
        return static

    def forward(ids, cache, position):
        out = model(
            input_ids=ids,
            past_key_values=cache,
            position_ids=position,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]

    decode = forward
    if run == "frozen":
        import torch._inductor.config

        torch._inductor.config.freezing = True
    if run in ("compiled", "frozen"):
        decode = torch.compile(forward)

    def prefill(ids, cache):
        return forward(ids, cache, torch.arange(ids.shape[1])[None]).argmax(-1, keepdim=True)

    def generate():
        cache = empty_cache()
        token = prefill(short, cache)
        seconds, made = [], [token.item()]
        for t in range(options.tokens):
            start = time.perf_counter()
            token = decode(token, cache, torch.tensor([[short.shape[1] + t]])).argmax(
                -1, keepdim=True
            )
            made.append(token.item())
            seconds.append(time.perf_counter() - start)
        return seconds, made

    with torch.no_grad():
        prefill_s = []
        for _ in range(1 + options.repeats):
            cache = empty_cache()
            start = time.perf_counter()
            prefill(prompt, cache).item()
            prefill_s.append(time.perf_counter() - start)
        first, tokens = generate()
        step_s = [s for _ in range(options.repeats) for s in generate()[0][1:]]
    weights = (
        sum(p.numel() * p.element_size() for p in model.parameters())
        - model.transformer.wpe.weight.numel() * model.transformer.wpe.weight.element_size()
    )
    per_s = 1.0 / median(step_s)
    return {
        "mode": mode,
        "prefill_tokens_per_s": options.prompt_tokens / median(prefill_s[1:]),
        "tokens_per_s": per_s,
        "bytes_per_s": weights * per_s,
        "prefill_s": prefill_s,
        "step_s": step_s,
        "compile_s": max(0.0, first[0] - median(step_s)),
        "peak_bytes": peak_bytes(),
        "base_bytes": base,
        "made": tokens,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def add_arguments(parser):
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))


def main():
    parser = argparse.ArgumentParser(description="transformers' generation with GPT-2 124M")
    add_arguments(parser)
    parser.add_argument("--mode", help="measure this one, in this process")
    parser.add_argument(
        "--modes", nargs="+", default=DEFAULT_MODES, help="each in a process of its own"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="fewer only to try the script out")
    options = parser.parse_args()
    for mode in [options.mode] if options.mode else options.modes:
        parts = mode.removesuffix("-tuned").split("-")
        if len(parts) != 2 or parts[0] not in PRECISIONS or parts[1] not in RUNS:
            sys.exit(
                f"no mode {mode}; a mode is (fp32|bf16)-(dynamic|static|compiled|frozen)[-tuned]"
            )
    if options.mode:
        print(json.dumps(measure(options.mode, options)))
        return
    for mode in options.modes:
        say(f"peer_generate: {mode}")
        print(
            json.dumps(run_json(command(mode, options), environment(mode, options.threads))),
            flush=True,
        )


if __name__ == "__main__":
    main()
