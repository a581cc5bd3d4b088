#!/usr/bin/env python3
"""Measures PyTorch on the training step of GPT-2 124M, at the best settings that we know: forward,
backward, clipping to global norm 1, fused AdamW, no dropout, batch 4 x 512 random tokens.

    python bench/peer_train.py                                  # all modes, one JSON object a line
    python bench/peer_train.py --mode lean-fp32-compiled        # one mode, in this process
    python bench/peer_train.py --modes lean-bf16-eager hf-bf16-eager --steps 5

A mode is MODEL-PRECISION-RUN[-tuned]:
    MODEL      hf: transformers' GPT2LMHeadModel with SDPA attention; lean: bench/peer_gpt.py
    PRECISION  fp32; bf16: autocast over fp32 weights, as one trains; bf16pure: the weights and the
               optimizer's moments are bf16 too, for information (it does not learn as well)
    RUN        eager; compiled: torch.compile of model and loss
    tuned      the C library keeps freed memory instead of returning it to the system at once
               (MALLOC_MMAP_MAX_=0 and so on): fewer page faults, more memory

The object: mode, tokens_per_s (median over the steps after the warm-up), step_s, compile_s (the
first step's time above the median), peak_bytes (VmHWM; a compiler's worker processes are not in
it), base_bytes (VmHWM when PyTorch was imported and nothing was made yet), loss (of the last step),
versions.
"""

import argparse
import json
import os
import sys
import time

from common import median, peak_bytes, run_json, say

MODELS, PRECISIONS, RUNS = ("hf", "lean"), ("fp32", "bf16", "bf16pure"), ("eager", "compiled")
DEFAULT_MODES = [f"{m}-{p}-{r}" for p in ("fp32", "bf16") for r in RUNS for m in MODELS] + [
    f"lean-bf16pure-{r}" for r in RUNS
]
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_TOP_PAD_": str(64 << 20)}


def environment(mode, threads):
    """What the process of a mode must be started with."""
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if mode.endswith("-tuned"):
        wanted.update(TUNED)
    return wanted


def command(mode, options):
    return [
        sys.executable,
        os.path.abspath(__file__),
        "--mode",
        mode,
        "--threads",
        str(options.threads),
        "--batch",
        str(options.batch),
        "--seq",
        str(options.seq),
        "--steps",
        str(options.steps),
        "--warmup",
        str(options.warmup),
        "--layers",
        str(options.layers),
    ]


def measure(mode, options):
    import torch

    name, precision, run = mode.removesuffix("-tuned").split("-")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if name == "hf":
        import transformers

        transformers.logging.set_verbosity_error()
        base = peak_bytes()
        config = transformers.GPT2Config(
            n_layer=options.layers,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="sdpa",
            use_cache=False,
        )
        model = transformers.GPT2LMHeadModel(config)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        loss_of = lambda ids, targets: model(input_ids=ids, labels=ids).loss
    else:
        from peer_gpt import GPT, Shape

        base = peak_bytes()
        model = GPT(Shape(layers=options.layers))
        if precision == "bf16pure":
            model.bfloat16()
        optimizer = model.optimizer(3e-4)
        loss_of = model
    if precision == "bf16pure" and name == "hf":
        model.bfloat16()
    if run == "compiled":
        loss_of = torch.compile(loss_of)
    model.train()
    parameters = list(model.parameters())

    def step():
        ids = torch.randint(50257, (options.batch, options.seq + 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    seconds = []
    for _ in range(options.warmup + options.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    measured = seconds[options.warmup :]
    return {
        "mode": mode,
        "tokens_per_s": options.batch * options.seq / median(measured),
        "step_s": measured,
        "compile_s": seconds[0] - median(measured) if run == "compiled" else 0.0,
        "first_step_s": seconds[0],
        "peak_bytes": peak_bytes(),
        "base_bytes": base,
        "loss": loss,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in parameters),
        "torch": torch.__version__,
    }


def add_arguments(parser):
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))


def main():
    parser = argparse.ArgumentParser(description="PyTorch's training step of GPT-2 124M")
    add_arguments(parser)
    parser.add_argument("--mode", help="measure this one, in this process")
    parser.add_argument(
        "--modes", nargs="+", default=DEFAULT_MODES, help="each in a process of its own"
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="fewer only to try the script out")
    options = parser.parse_args()
    for mode in [options.mode] if options.mode else options.modes:
        parts = mode.removesuffix("-tuned").split("-")
        if len(parts) != 3 or any(
            p not in all for p, all in zip(parts, (MODELS, PRECISIONS, RUNS))
        ):
            sys.exit(
                f"no mode {mode}; a mode is (hf|lean)-(fp32|bf16|bf16pure)-(eager|compiled)[-tuned]"
            )
    if options.mode:
        print(json.dumps(measure(options.mode, options)))
        return
    for mode in options.modes:
        say(f"peer_train: {mode}")
        print(
            json.dumps(run_json(command(mode, options), environment(mode, options.threads))),
            flush=True,
        )


if __name__ == "__main__":
    main()
