"""A lean GPT-2 in PyTorch, the peer of the benchmarks: no more than the arithmetic asks for, in the
form that PyTorch runs fastest (one product for q, k and v, scaled_dot_product_attention, GELU in
its tanh form, the head tied to the embedding). Parameters have the names and the shapes of Hugging
Face's GPT-2 except that a linear's weight is [out, in]; load_hugging_face and hugging_face_state
convert."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Shape:
    vocab: int = 50257
    context: int = 1024
    layers: int = 12
    heads: int = 12
    embed: int = 768


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        e = shape.embed
        self.heads = shape.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(e), nn.LayerNorm(e)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(e, 3 * e), "c_proj": nn.Linear(e, e)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(e, 4 * e), "c_proj": nn.Linear(4 * e, e)})

    def forward(self, x):  # [B, T, E]
        b, t, e = x.shape
        q, k, v = (
            y.view(b, t, self.heads, e // self.heads).transpose(1, 2)
            for y in self.attn["c_attn"](self.ln_1(x)).split(e, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(b, t, e))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """forward(ids, targets) is the mean loss; without targets, the logits."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(shape.vocab, shape.embed),
                "wpe": nn.Embedding(shape.context, shape.embed),
                "h": nn.ModuleList(Block(shape) for _ in range(shape.layers)),
                "ln_f": nn.LayerNorm(shape.embed),
            }
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self, seed=0):
        """GPT-2's: normal with deviation 0.02, the projections onto the residual stream divided by
        sqrt(2 layers), biases zero, norms one."""
        random = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                deviation = 0.02 / math.sqrt(2 * self.shape.layers) if "c_proj" in name else 0.02
                p.normal_(0.0, deviation, generator=random)
            else:
                p.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)

    def forward(self, ids, targets=None):  # [B, T]
        at = torch.arange(ids.shape[1])
        x = self.transformer["wte"](ids) + self.transformer["wpe"](at)
        for block in self.transformer["h"]:
            x = block(x)
        logits = F.linear(self.transformer["ln_f"](x), self.transformer["wte"].weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, self.shape.vocab).float(), targets.reshape(-1))

    def optimizer(self, lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        """Fused AdamW that decays what has two dims."""
        decayed = [p for p in self.parameters() if p.dim() >= 2]
        others = [p for p in self.parameters() if p.dim() < 2]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=lr,
            betas=betas,
            eps=eps,
            fused=True,
        )


def is_linear(name):
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def load_hugging_face(model, tensors):
    """Copies the tensors of a model.safetensors into the model; names may lack "transformer."."""
    tensors = {
        name if name.startswith("transformer.") else f"transformer.{name}": tensor
        for name, tensor in tensors.items()
        if name != "lm_head.weight" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    model.load_state_dict(
        {name: tensor.t() if is_linear(name) else tensor for name, tensor in tensors.items()}
    )


def hugging_face_state(model):
    return {
        name: (tensor.t() if is_linear(name) else tensor).detach().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
