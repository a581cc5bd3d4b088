#!/usr/bin/env python3
"""Measures PyTorch's data parallelism over gloo on the training step of a lean GPT-2 (peer_gpt.py):
processes of one thread each on this machine, forward, backward, clipping to global norm 1, fused
AdamW, no dropout, random tokens; fp32, or bf16: autocast, and of FSDP2 its own mixed precision.

    python bench/peer_distributed.py --mode ddp --ranks 2 --batch 2 --seq 512

MODE  ddp: DistributedDataParallel, gradients as views of its buckets
      fsdp: fully_shard (FSDP2) of each block and of the whole
      fsdp-checkpoint: the same, with activation checkpointing of each block

Prints one JSON object: mode, ranks, step_s (of the slowest rank, each measured step), tokens_per_s
(of all ranks together), peak_bytes (VmHWM of the largest rank), base_bytes (of a rank that has only
imported PyTorch), loss."""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

from common import median, peak_bytes

MODES = ("ddp", "fsdp", "fsdp-checkpoint")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_rank(options):
    import torch
    import torch.distributed as dist

    from peer_gpt import GPT, Shape

    torch.set_num_threads(1)
    base = peak_bytes()
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    model = GPT(Shape(layers=options.layers, embed=options.embed, heads=options.heads))
    if options.mode == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        optimizer = model.module.optimizer(3e-4)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        if options.mode == "fsdp-checkpoint":
            from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
                checkpoint_wrapper,
            )

            blocks = model.transformer["h"]
            for i, block in enumerate(blocks):
                blocks[i] = checkpoint_wrapper(block)
        mixed = {}
        if options.precision == "bf16":
            mixed["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.transformer["h"]:
            fully_shard(block, mesh=mesh, **mixed)
        fully_shard(model, mesh=mesh, **mixed)
        optimizer = model.optimizer(3e-4)
    model.train()
    parameters = list(model.parameters())
    seconds = []
    for _ in range(options.warmup + options.steps):
        dist.barrier()
        start = time.perf_counter()
        ids = torch.randint(50257, (options.batch, options.seq + 1))
        parts = ids.split(options.micro or options.batch)
        for number, part in enumerate(parts):
            last = number + 1 == len(parts)
            with contextlib.nullcontext() if last or options.mode != "ddp" else model.no_sync():
                with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                    loss = model(part[:, :-1].contiguous(), part[:, 1:].contiguous()) / len(parts)
                loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = loss.item()
        dist.barrier()
        seconds.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "step_s": seconds[options.warmup :],
                "peak_bytes": peak_bytes(),
                "base_bytes": base,
                "loss": loss,
                "torch": torch.__version__,
            }
        )
    )
    dist.destroy_process_group()


def measure(mode, options):
    """One process a rank; the object described above. Exits with a rank's words when one fails."""
    port = str(free_port())
    words = [sys.executable, os.path.abspath(__file__), "--worker", "--mode", mode]
    for name in ("batch", "seq", "steps", "warmup", "layers", "embed", "heads", "precision", "micro"):
        words += [f"--{name}", str(getattr(options, name))]
    processes = [
        subprocess.Popen(
            words,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(options.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(options.ranks)
    ]
    said = [p.communicate() for p in processes]
    for p, (_, errors) in zip(processes, said):
        if p.returncode != 0:
            sys.exit(f"{mode}: a rank failed with status {p.returncode}:\n{errors[-2000:]}")
    made = [json.loads(out.strip().splitlines()[-1]) for out, _ in said]
    steps = [max(times) for times in zip(*(one["step_s"] for one in made))]
    return {
        "mode": mode,
        "ranks": options.ranks,
        "step_s": steps,
        "tokens_per_s": options.ranks * options.batch * options.seq / median(steps),
        "peak_bytes": max(one["peak_bytes"] for one in made),
        "base_bytes": max(one["base_bytes"] for one in made),
        "loss": made[0]["loss"],
        "torch": made[0]["torch"],
    }


def add_arguments(parser):
    parser.add_argument("--batch", type=int, default=2, help="sequences a rank")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--micro", type=int, default=0, help="sequences of a backward; 0: all")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--embed", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")


def main():
    parser = argparse.ArgumentParser(description="PyTorch's DDP and FSDP2 over gloo, GPT-2 124M")
    add_arguments(parser)
    parser.add_argument("--mode", choices=MODES, default="ddp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_rank(options)
    else:
        print(json.dumps(measure(options.mode, options)))


if __name__ == "__main__":
    main()
