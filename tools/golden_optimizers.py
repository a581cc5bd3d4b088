#!/usr/bin/env python3
"""Makes tests/golden/optimizers.json: parameters, six steps of gradients, and what the optimizers make of them.
The test of the C program compares with the file, so that no test needs Python.

    $(tools/python.sh) tools/golden_optimizers.py          # writes tests/golden/optimizers.json
    $(tools/python.sh) tools/golden_optimizers.py --check  # compares with what is there

Adafactor is transformers' (a matrix without factors is given to it as a vector, experts as one matrix each). Neither
PyTorch nor transformers has Lion, LAMB and LARS: those are their papers' formulas, in float64.

The file: "shapes" by parameter (matrix, heads: 4 x (2 x 3), expert: 2 of 3 x 4, vector), "start" and "gradients"
[6] by parameter, flat, and "cases": "name", its settings, and "end" by parameter.
"""

import argparse
import json
import os
import sys

import torch
from transformers.optimization import Adafactor

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = os.path.join(ROOT, "tests", "golden", "optimizers.json")
SHAPES = {"matrix": [5, 7], "heads": [4, 6], "expert": [2, 3, 4], "vector": [7]}
STEPS = 6
RATES = [0.02, 0.04, 0.06, 0.05, 0.03, 0.01]


def lion(w, g, state, lr, decay, case):
    m = state.setdefault("m", torch.zeros_like(w))
    w -= lr * (torch.sign(case["beta1"] * m + (1 - case["beta1"]) * g) + decay * w)
    state["m"] = case["beta2"] * m + (1 - case["beta2"]) * g


def lars(w, g, state, lr, decay, case):
    m = state.setdefault("m", torch.zeros_like(w))
    if w.dim() > 1:
        lr = lr * case["trust"] * w.norm() / (g.norm() + decay * w.norm())
    state["m"] = case["momentum"] * m + lr * (g + decay * w)
    w -= state["m"]


def lamb(w, g, state, lr, decay, case):
    m, v = state.setdefault("m", torch.zeros_like(w)), state.setdefault("v", torch.zeros_like(w))
    t = state["t"] = state.get("t", 0) + 1
    b1, b2 = case["beta1"], case["beta2"]
    state["m"], state["v"] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    u = state["m"] / (1 - b1**t) / ((state["v"] / (1 - b2**t)).sqrt() + case["eps"]) + decay * w
    w -= lr * (w.norm() / u.norm() if w.dim() > 1 else 1) * u


def by_formula(step, case, start, gradients):
    end = {}
    for name, first in start.items():
        w, state = first.double().clone(), {}
        decay = case["weight_decay"] if w.dim() > 1 else 0
        for t in range(STEPS):
            step(w, gradients[t][name].double(), state, RATES[t], decay, case)
        end[name] = w
    return end


def adafactor_one(first, grads, case, decay):
    w = torch.nn.Parameter(first.clone())
    optimizer = Adafactor(
        [w], lr=1.0, eps=(case["eps"], case["least_scale"]), clip_threshold=case["update_limit"],
        decay_rate=-case["decay_power"], beta1=case["beta1"] or None, weight_decay=decay,
        scale_parameter=case["relative"], relative_step=False, warmup_init=False,
    )
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATES[t]
        w.grad = grads[t].clone()
        optimizer.step()
    return w.detach()


def adafactor(case, start, gradients):
    end = {}
    for name, first in start.items():
        decay = case["weight_decay"] if first.dim() > 1 else 0
        whole = first.flatten() if not case["factored"] else first
        parts = [(lambda x, i=i: x[i]) for i in range(len(whole))] if whole.dim() == 3 else [lambda x: x]
        grads = [g[name].reshape(whole.shape) for g in gradients]
        done = [adafactor_one(part(whole), [part(g) for g in grads], case, decay) for part in parts]
        end[name] = torch.stack(done) if whole.dim() == 3 else done[0]
    return end


def cases():
    moments = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.1}
    factors = {"eps": 1e-30, "least_scale": 1e-3, "update_limit": 1.0, "decay_power": 0.8, "beta1": 0.0,
               "weight_decay": 0.1, "relative": True, "factored": True}
    yield {"name": "lion", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
    yield {"name": "lars", "momentum": 0.9, "trust": 0.02, "weight_decay": 0.1}
    yield {"name": "lamb", **moments}
    yield {"name": "adafactor", **factors}
    yield {"name": "adafactor", **factors, "relative": False, "update_limit": 0.5, "weight_decay": 0.0}
    yield {"name": "adafactor", **factors, "factored": False, "beta1": 0.9}
    yield {"name": "adafactor", **factors, "beta1": 0.9, "eps": 1e-3, "least_scale": 2.0}


def make():
    random = torch.Generator().manual_seed(5)
    start = {name: torch.randn(shape, generator=random) * 0.5 for name, shape in SHAPES.items()}
    gradients = [{name: torch.randn(shape, generator=random) * 10 ** (t % 3 - 1) for name, shape in SHAPES.items()}
                 for t in range(STEPS)]
    formulas, out = {"lion": lion, "lars": lars, "lamb": lamb}, []
    for case in cases():
        step = formulas.get(case["name"])
        end = by_formula(step, case, start, gradients) if step else adafactor(case, start, gradients)
        out.append({**case, "end": end})

    def plain(values):
        return {name: [float(f"{x:.9g}") for x in value.flatten().tolist()] for name, value in values.items()}

    return {"shapes": SHAPES, "rates": RATES, "start": plain(start), "gradients": [plain(g) for g in gradients],
            "cases": [{**case, "end": plain(case["end"])} for case in out]}


def worst(a, b):
    if isinstance(a, dict):
        return max(worst(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return max(worst(x, y) for x, y in zip(a, b, strict=True))
    return abs(a - b) if isinstance(a, float) else float(a != b)


def main():
    parser = argparse.ArgumentParser(description="make the golden file of the optimizers")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    made = make()
    if parser.parse_args().check:
        with open(PATH, encoding="utf-8") as file:
            difference = worst(made, json.load(file))
        print(f"largest difference: {difference:.1e}")
        return 0 if difference < 1e-5 else 1
    with open(PATH, "w", encoding="utf-8") as file:
        json.dump(made, file, separators=(",", ":"))
        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
