#!/usr/bin/env python3
"""Measures transformers on one training step of a model of a family: forward, backward, clipping to
global norm 1, fused AdamW, no dropout, random data, SDPA attention.

    python bench/peer_families.py --mode vit-bf16-compiled          # one mode, in this process

A mode is FAMILY-PRECISION-RUN[-tuned], where FAMILY is a row of FAMILIES and the rest is as in
peer_train.py. A family says what Trireme is told to make of the same shape (`ours`), what
transformers is (`peer`: the model, and a function that draws a batch as keyword arguments), how
many tokens or images a step has, and what one of them is called.

The object: mode, per_s (of what the family counts, median over the steps after the warm-up),
step_s, compile_s, peak_bytes (VmHWM), loss, parameters, versions.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Callable

from common import median, peak_bytes
from peer_train import environment

PRECISIONS, RUNS = ("fp32", "bf16"), ("eager", "compiled")


@dataclass
class Family:
    name: str
    what: str  # the shape, for the table
    unit: str  # what is counted
    count: int  # of them in a step
    ours: list  # keys of `trireme bench train`
    peer: Callable  # () -> (model, draw); draw() -> keyword arguments with the labels among them


def vit():
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    model = ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="sdpa"))
    return model, lambda: {
        "pixel_values": torch.randn(8, 3, 224, 224),
        "labels": torch.randint(1000, (8,)),
    }


def bert():
    import torch
    from transformers import BertConfig, BertForPreTraining

    batch, seq, vocab = 8, 128, 30522
    model = BertForPreTraining(BertConfig(
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa"))

    def draw():
        ids = torch.randint(vocab, (batch, seq))
        chosen = torch.rand(batch, seq) < 0.15  # 15 % of the tokens are asked for
        return {
            "input_ids": ids,
            "token_type_ids": (torch.arange(seq) >= seq // 2).long().expand(batch, seq),
            "labels": torch.where(chosen, ids, -100),
            "next_sentence_label": torch.randint(2, (batch,)),
        }

    return model, draw


def mixtral(experts):
    """experts: how transformers multiplies: "grouped_mm" sorts the tokens and has one grouped product,
    "eager" is a loop over the experts, "batched_mm" copies each choice's weights (here 15 GB a layer)."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        attn_implementation="sdpa",
        experts_implementation=experts,
        use_cache=False,
    )

    def draw():
        ids = torch.randint(8192, (2, 512))
        return {"input_ids": ids, "labels": ids}

    return MixtralForCausalLM(config), draw


MIXTRAL = [
    "model.family=mixtral",
    *(f"model.{key}" for key in "layers=4 embed=512 heads=8 kv_heads=2 mlp=1792 experts=8 expert_choices=2".split()),
    *("model.context=512", "model.vocab=8192", "model.untied=true"),
    *("train.batch=2", "train.seq=512"),
]

FAMILIES = {
    family.name: family
    for family in [
        Family(
            "vit",
            "ViT-B/16, 8 images of 224 x 224",
            "images",
            8,
            ["model.preset=vit-base", "train.batch=8"],
            vit,
        ),
        Family(
            "bert",
            "BERT-base, masked tokens and next text, 8 x 128",
            "tokens",
            1024,
            ["model.preset=bert-base", "model.dropout=0", "train.batch=8", "train.seq=128"],
            bert,
        ),
        Family(
            "mixtral",
            "Mixtral: 4 layers of 512, 8 experts of 1792, 2 choices, 2 x 512 tokens; transformers' grouped products",
            "tokens",
            1024,
            MIXTRAL,
            lambda: mixtral("grouped_mm"),
        ),
        Family(
            "mixtral_loop",
            "the same; transformers' loop over experts",
            "tokens",
            1024,
            MIXTRAL,
            lambda: mixtral("eager"),
        ),
    ]
}


def parse(mode):
    parts = mode.removesuffix("-tuned").split("-")
    good = len(parts) == 3 and parts[0] in FAMILIES and parts[1] in PRECISIONS and parts[2] in RUNS
    if not good:
        sys.exit(f"no mode {mode}; a mode is ({'|'.join(FAMILIES)})-(fp32|bf16)-(eager|compiled)[-tuned]")
    return parts


def command(mode, options):
    return [
        sys.executable,
        os.path.abspath(__file__),
        "--mode",
        mode,
        *("--threads", str(options.threads)),
        *("--steps", str(options.steps)),
        *("--warmup", str(options.warmup)),
    ]


def measure(mode, options):
    import torch
    import transformers

    name, precision, run = parse(mode)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    base = peak_bytes()
    model, draw = FAMILIES[name].peer()
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    loss_of = lambda batch: model(**batch).loss
    if run == "compiled":
        loss_of = torch.compile(loss_of)

    def step():
        batch = draw()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(batch)
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
        "per_s": FAMILIES[name].count / median(measured),
        "step_s": measured,
        "compile_s": seconds[0] - median(measured) if run == "compiled" else 0.0,
        "peak_bytes": peak_bytes(),
        "base_bytes": base,
        "loss": loss,
        "parameters": sum(p.numel() for p in parameters),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main():
    parser = argparse.ArgumentParser(description="transformers' training step of a family's model")
    parser.add_argument("--mode", required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2)
    options = parser.parse_args()
    for key, value in environment(options.mode, options.threads).items():
        if os.environ.get(key) != value:  # libraries read them when the process starts
            os.environ.update(environment(options.mode, options.threads))
            os.execv(sys.executable, [sys.executable, *sys.argv])
    print(json.dumps(measure(options.mode, options)))


if __name__ == "__main__":
    main()
