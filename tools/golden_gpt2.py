#!/usr/bin/env python3
"""Makes tests/golden/gpt2/: a tiny GPT-2 with random weights, and what Hugging Face transformers
and PyTorch say about it. The tests of the C program compare with these files, so that no test needs
Python.

To make them again (the files are in the repository, so this is needed only to change them):

    $(tools/python.sh) tools/golden_gpt2.py            # writes tests/golden/gpt2/
    $(tools/python.sh) tools/golden_gpt2.py --check    # writes nothing; compares with what is there

The model: 2 layers, 4 heads, embed 32, vocabulary 97, context 64, gelu_new, no dropout, head tied
to the embedding. Every parameter is random, biases and layer norms too, and large enough that a
forgotten bias or a wrong transpose shows. All arithmetic is float32; the script also repeats it in
float64 and prints how far float32 is from that, which is the accuracy of the files.

    config.json, model.safetensors   the model in Hugging Face's layout (generation_config.json
                                     comes along)
    ids.json             [2][17] token ids
    logits.npy           [2, 17, 97] float32, the logits for ids.json
    loss.json            "mean", "sum" and "count" of the next-token loss (nats) over ids.json:
                         position t predicts token t + 1, the last position of a row predicts
                         nothing, so count is 32
    grads.safetensors    gradient of "mean" for each parameter under its name in model.safetensors;
                         the tied head is in transformer.wte.weight alone, which sums both uses
    adamw_ids.json       [20][2][17] token ids, a batch for each step; most follow a rule, so the
                         loss falls
    adamw.json           "losses": the mean loss of each of 20 steps from model.safetensors, before
                         its update; "grad_norms": the global norm before clipping; and the
                         settings: AdamW, lr 1e-3, betas 0.9 and 0.95, eps 1e-8, weight decay 0.1 on
                         parameters with two dims and none on the others, gradients clipped to
                         global norm 1.0 (scale = 1 / (norm + 1e-6) when that is below 1)
"""

import argparse
import json
import os
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VOCAB, CONTEXT, EMBED, HEADS, LAYERS = 97, 64, 32, 4, 2
BATCH, LENGTH, STEPS = 2, 17, 20
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}


def make_model():
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=EMBED,
        n_head=HEADS,
        n_layer=LAYERS,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=VOCAB - 1,
        eos_token_id=VOCAB - 1,
        attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config)
    random = torch.Generator().manual_seed(20240521)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=random)
            if ".ln_" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "wte" in name or "wpe" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[0] ** 0.5)  # Conv1D is [in, out]
    return model.eval()


def make_batches():
    """Sequences that mostly follow next = 5 * this + 7 (mod 97), with some noise."""
    random = torch.Generator().manual_seed(7)
    batches = torch.zeros(STEPS, BATCH, LENGTH, dtype=torch.long)
    batches[..., 0] = torch.randint(VOCAB, (STEPS, BATCH), generator=random)
    for t in range(1, LENGTH):
        ruled = (5 * batches[..., t - 1] + 7) % VOCAB
        noise = torch.randint(VOCAB, (STEPS, BATCH), generator=random)
        noisy = torch.rand((STEPS, BATCH), generator=random) < 0.1
        batches[..., t] = torch.where(noisy, noise, ruled)
    return batches


def forward_backward(model, ids):
    """Logits, mean loss and the gradients by name."""
    model.zero_grad(set_to_none=True)
    out = model(input_ids=ids, use_cache=False)
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, VOCAB), ids[:, 1:].reshape(-1)
    )
    loss.backward()
    grads = {name: p.grad.detach().clone() for name, p in model.named_parameters()}
    return out.logits.detach(), loss.item(), grads


def train(model, batches):
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": ADAMW["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=ADAMW["lr"],
        betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["eps"],
    )
    losses, norms = [], []
    for ids in batches:
        losses.append(forward_backward(model, ids)[1])
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"]).item())
        optimizer.step()
    return losses, norms


def relative(got, want):
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def write(folder):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    model = make_model()
    model.save_pretrained(folder)
    weights = load_file(os.path.join(folder, "model.safetensors"))
    batches = make_batches()
    ids = torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(11))

    logits, loss, grads = forward_backward(model, ids)
    assert set(grads) == set(weights), "the names of the gradients are those of the file"
    hf_loss = model(input_ids=ids, labels=ids).loss.item()
    assert (
        abs(hf_loss - loss) < 1e-5
    ), "the loss is the one that transformers computes from labels = ids"
    losses, norms = train(model, batches)

    exact = GPT2LMHeadModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float64
    ).eval()
    logits64, loss64, grads64 = forward_backward(exact, ids)
    losses64, _ = train(exact, batches)
    # A key's bias has no gradient in exact arithmetic: it is compared on the scale of c_attn.bias.
    worst = max((relative(grads[name], grads64[name]), name) for name in grads)
    print(
        f"float32 against float64: logits {relative(logits, logits64):.1e}, "
        f"loss {abs(loss - loss64):.1e}, "
        f"gradients {worst[0]:.1e} ({worst[1]}), AdamW losses "
        f"{max(abs(a - b) for a, b in zip(losses, losses64)):.1e}"
    )
    print(
        f"logits: max |x| {logits.abs().max():.2f}; loss {loss:.4f}; "
        f"AdamW {losses[0]:.4f} to {losses[-1]:.4f}"
    )

    count = BATCH * (LENGTH - 1)
    for name, value in [
        ("ids.json", ids.tolist()),
        ("adamw_ids.json", batches.tolist()),
        ("loss.json", {"mean": loss, "sum": loss * count, "count": count}),
        ("adamw.json", {**ADAMW, "losses": losses, "grad_norms": norms}),
    ]:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.write("\n")
    numpy.save(os.path.join(folder, "logits.npy"), logits.numpy())
    save_file(
        {name: grad.contiguous() for name, grad in grads.items()},
        os.path.join(folder, "grads.safetensors"),
    )


def check(made, kept):
    """Exit status 1 when the kept files differ from newly made ones by more than rounding."""
    worst = 0.0
    for name in ("model.safetensors", "grads.safetensors"):
        a, b = load_file(os.path.join(made, name)), load_file(os.path.join(kept, name))
        assert set(a) == set(b), f"{name}: other tensors"
        worst = max([worst] + [relative(a[key], b[key]) for key in a])
    a, b = (torch.from_numpy(numpy.load(os.path.join(f, "logits.npy"))) for f in (made, kept))
    worst = max(worst, relative(a, b))
    for name in ("ids.json", "adamw_ids.json", "loss.json", "adamw.json"):
        a, b = (json.load(open(os.path.join(f, name), encoding="utf-8")) for f in (made, kept))
        for x, y in ((a, b),) if isinstance(a, list) else ((a[key], b[key]) for key in a):
            worst = max(worst, relative(torch.tensor(x), torch.tensor(y)))
    print(f"largest relative difference from {os.path.relpath(kept)}: {worst:.1e}")
    return 0 if worst < 1e-5 else 1


def main():
    parser = argparse.ArgumentParser(description="make the golden files of the tiny GPT-2")
    parser.add_argument("--out", default=os.path.join(ROOT, "tests", "golden", "gpt2"))
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check:
        with tempfile.TemporaryDirectory() as made:
            write(made)
            return check(made, options.out)
    os.makedirs(options.out, exist_ok=True)
    write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
