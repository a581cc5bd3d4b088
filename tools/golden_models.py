#!/usr/bin/env python3
"""Makes tests/golden/NAME/: a tiny model of each family with random weights, and what Hugging Face
transformers says about it (PyTorch below, where transformers has no such model). tests/test_golden.c
compares, so that no test needs Python.

    $(tools/python.sh) tools/golden_models.py            # writes all of them
    $(tools/python.sh) tools/golden_models.py llama      # those whose name begins so
    $(tools/python.sh) tools/golden_models.py --check    # writes nothing; compares with what is there

Every parameter is random, norms and biases too, and large enough that a forgotten one or a wrong
transpose shows. All arithmetic is float32; each line says how far that is from float64.

    config.json, model.safetensors   the model in Hugging Face's layout
    inputs.json          what the model is given: input_ids and others, and the right answers:
                         "targets" (-1: none), "labels"
    logits.npy           float32, of the first head
    loss.json            "loss": the sum of the heads' means
    grads.safetensors    its gradient for each parameter, under the names of model.safetensors

To add a family: a function with @golden that returns a Case.
"""

import argparse
import copy
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, Callable

import numpy
import torch
from safetensors.torch import load_file, save_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LARGEST = 150_000  # bytes of a directory
CASES = {}


@dataclass
class Case:
    model: Any
    inputs: dict  # of lists, as inputs.json has them
    run: Callable  # (model, inputs) -> logits, loss
    answers: Any = None  # a function of the model to what answers.json gets: beam searches
    config: Any = None  # a dict for config.json, of models that transformers does not have
    save: Any = None  # {our name: (parameter's name, from torch to stored)}; None: save_pretrained
    split: Any = None  # of gradients: from the model's names to those that save_pretrained writes


def golden(function):
    CASES[function.__name__] = function
    return function


def random_ids(batch, length, vocab, seed=11):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (batch, length), generator=generator).tolist()


def shuffle(model, seed=20240521):
    """Random values of a size that suits what the parameter is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                norm = name.endswith("weight")
                parameter.copy_(1.0 + 0.2 * noise if norm else 0.1 * noise)
            elif "embed" in name or "shared" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def next_tokens(ids):
    return [row[1:] + [-1] for row in ids]


def mean_loss(logits, targets):
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1), ignore_index=-1
    )


def run_causal(model, inputs):
    logits = model(input_ids=torch.tensor(inputs["input_ids"]), use_cache=False).logits
    return logits, mean_loss(logits, inputs["targets"])


# ---- LLaMA ------------------------------------------------------------------------------------------


def make_llama(length=17, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = dict(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, rms_norm_eps=1e-5,
        tie_word_embeddings=False, attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )
    settings.update(changes)
    model = shuffle(LlamaForCausalLM(LlamaConfig(**settings)))
    ids = random_ids(2, length, settings["vocab_size"])
    return Case(model, {"input_ids": ids, "targets": next_tokens(ids)}, run_causal)


@golden
def llama():
    return make_llama()


def make_scaled(kind, **settings):
    return make_llama(
        num_hidden_layers=1, num_key_value_heads=1, tie_word_embeddings=True,
        rope_parameters={"rope_type": kind, "rope_theta": 100.0, "factor": 4.0, **settings},
    )


@golden
def llama_linear():
    return make_scaled("linear")


@golden
def llama_dynamic():
    case = make_llama(
        num_hidden_layers=1, tie_word_embeddings=True, max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0},
    )
    return case


@golden
def llama_llama3():
    return make_scaled("llama3", original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0)


@golden
def llama_yarn():
    return make_scaled("yarn", original_max_position_embeddings=16)


# ---- PaLM -------------------------------------------------------------------------------------------


class Palm(torch.nn.Module):
    """Chowdhery et al. 2022, section 2: parallel layers, multi-query attention, SwiGLU, rotary positions of
    neighbouring pairs, one table, no biases; T5X's layer norm."""

    def __init__(self, vocab, layers, embed, heads, head_dim, mlp):
        super().__init__()
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.heads, self.head_dim = heads, head_dim
        self.embed = torch.nn.Embedding(vocab, embed)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({
                "norm": torch.nn.RMSNorm(embed, eps=1e-6),
                "attention": torch.nn.ModuleDict({
                    "query": linear(embed, heads * head_dim), "key": linear(embed, head_dim),
                    "value": linear(embed, head_dim), "out": linear(heads * head_dim, embed),
                }),
                "mlp": torch.nn.ModuleDict({
                    "gate": linear(embed, mlp), "up": linear(embed, mlp), "down": linear(mlp, embed),
                }),
            })
            for _ in range(layers)
        )
        self.norm = torch.nn.RMSNorm(embed, eps=1e-6)

    def turn(self, x):  # [B, T, H, E]
        length, dims = x.shape[1], x.shape[3]
        rates = 10000.0 ** (-torch.arange(0, dims, 2, dtype=x.dtype) / dims)
        angle = torch.arange(length, dtype=x.dtype)[:, None, None] * rates
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
        return torch.stack(turned, -1).flatten(-2)

    def forward(self, ids):
        batch, length = ids.shape
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.embed(ids)
        for layer in self.layers:
            a, m, y = layer["attention"], layer["mlp"], layer["norm"](x)
            q = self.turn(a["query"](y).view(batch, length, self.heads, self.head_dim))
            k = self.turn(a["key"](y)[:, :, None])[:, :, 0]
            scores = torch.einsum("bthe,bse->bhts", q, k) / self.head_dim**0.5
            weights = scores.masked_fill(future, float("-inf")).softmax(-1)
            attended = torch.einsum("bhts,bse->bthe", weights, a["value"](y)).flatten(2)
            x = x + a["out"](attended) + m["down"](torch.nn.functional.silu(m["gate"](y)) * m["up"](y))
        return self.norm(x) @ self.embed.weight.T / x.shape[-1] ** 0.5


@golden
def palm():
    sizes = dict(vocab=61, layers=2, embed=16, heads=3, head_dim=8, mlp=24)
    model = shuffle(Palm(**sizes))
    with torch.no_grad():
        model.embed.weight.mul_(10)
    ids = random_ids(2, 17, sizes["vocab"])
    z_loss = 0.01

    def run(model, inputs):
        logits = model(torch.tensor(inputs["input_ids"]))
        counted = torch.tensor(inputs["targets"]) >= 0
        z = torch.logsumexp(logits, -1)[counted]
        return logits, mean_loss(logits, inputs["targets"]) + z_loss * (z * z).mean()

    config = {
        "model_type": "trireme-palm", "vocab_size": sizes["vocab"], "max_position_embeddings": 64,
        "hidden_size": sizes["embed"], "num_hidden_layers": sizes["layers"], "num_attention_heads": sizes["heads"],
        "head_dim": sizes["head_dim"], "intermediate_size": sizes["mlp"], "rms_norm_eps": 1e-6, "z_loss": z_loss,
    }
    same = {name: (name, lambda t: t) for name, _ in model.named_parameters()}
    return Case(model, {"input_ids": ids, "targets": next_tokens(ids)}, run, config=config, save=same)


# ---- Mixtures of experts ------------------------------------------------------------------------------


@golden
def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    settings = dict(
        vocab_size=61, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
        num_local_experts=5, num_experts_per_tok=2, router_aux_loss_coef=0.0, attn_implementation="eager",
        experts_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )
    model = shuffle(MixtralForCausalLM(MixtralConfig(**settings)))
    ids = random_ids(2, 17, settings["vocab_size"])
    case = Case(model, {"input_ids": ids, "targets": next_tokens(ids)}, run_causal)
    # transformers keeps the experts of a layer in two tensors and stores them one by one.
    case.split = split_mixtral
    return case


def split_mixtral(tensors):
    out = {}
    for name, t in tensors.items():
        base = name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith("experts.gate_up_proj"):
            for e in range(t.shape[0]):
                gate, up = t[e].chunk(2)
                out[base.replace("experts.gate_up_proj", f"experts.{e}.w1.weight")] = gate.clone()
                out[base.replace("experts.gate_up_proj", f"experts.{e}.w3.weight")] = up.clone()
        elif name.endswith("experts.down_proj"):
            for e in range(t.shape[0]):
                out[base.replace("experts.down_proj", f"experts.{e}.w2.weight")] = t[e].clone()
        else:
            out[base] = t.clone()
    return out


class Experts(torch.nn.Module):
    """GShard's mixture (Lepikhin et al. 2021, algorithm 1) with its capacity counted within a sequence."""

    def __init__(self, experts, embed, mlp, choices, factor):
        super().__init__()
        self.router = torch.nn.Linear(embed, experts, bias=False)
        self.into = torch.nn.Parameter(torch.empty(experts, mlp, embed))
        self.out = torch.nn.Parameter(torch.empty(experts, embed, mlp))
        self.choices, self.factor = choices, factor

    def forward(self, x):
        batch, length, _ = x.shape
        experts = self.into.shape[0]
        p = self.router(x).softmax(-1)
        weights, chosen = p.topk(self.choices, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        room = min(length, math.ceil(self.choices * length * self.factor / experts))
        y, balance = [], 0
        for b in range(batch):
            filled, kept = [0] * experts, torch.zeros(length, self.choices, dtype=x.dtype)
            for j in range(self.choices):
                for t in range(length):
                    e = int(chosen[b, t, j])
                    if filled[e] < room:
                        filled[e] += 1
                        kept[t, j] = 1
            inner = torch.relu(torch.einsum("td,tkmd->tkm", x[b], self.into[chosen[b]]))
            made = torch.einsum("tkm,tkdm->tkd", inner, self.out[chosen[b]])
            y.append(((weights[b] * kept)[..., None] * made).sum(1))
            share = torch.bincount(chosen[b, :, 0], minlength=experts).to(x.dtype) / length
            balance = balance + experts * (share * p[b].mean(0)).sum()
        z = torch.logsumexp(self.router(x), -1).square().mean()
        return torch.stack(y), balance / batch, z


class GShard(torch.nn.Module):
    def __init__(self, vocab, context, layers, embed, heads, mlp, experts, factor, balance, z):
        super().__init__()
        self.words = torch.nn.Embedding(vocab, embed)
        self.positions = torch.nn.Embedding(context, embed)
        self.layers = torch.nn.ModuleList()
        for i in range(layers):
            layer = torch.nn.ModuleDict({
                "norm_1": torch.nn.LayerNorm(embed), "norm_2": torch.nn.LayerNorm(embed),
                "qkv": torch.nn.Linear(embed, 3 * embed, bias=False), "out": torch.nn.Linear(embed, embed, bias=False),
            })
            if i % 2:
                layer["experts"] = Experts(experts, embed, mlp, 2, factor)
            else:
                layer["mlp_in"] = torch.nn.Linear(embed, mlp, bias=False)
                layer["mlp_out"] = torch.nn.Linear(mlp, embed, bias=False)
            self.layers.append(layer)
        self.norm = torch.nn.LayerNorm(embed)
        self.heads, self.balance, self.z = heads, balance, z

    def forward(self, ids):
        batch, length = ids.shape
        x = self.words(ids) + self.positions(torch.arange(length))
        losses = 0
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm_1"](x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            a = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["out"](a.transpose(1, 2).reshape(batch, length, -1))
            y = layer["norm_2"](x)
            if "experts" in layer:
                y, balance, z = layer["experts"](y)
                losses = losses + self.balance * balance + self.z * z
            else:
                y = layer["mlp_out"](torch.relu(layer["mlp_in"](y)))
            x = x + y
        return self.norm(x) @ self.words.weight.T, losses


def run_gshard(model, inputs):
    logits, losses = model(torch.tensor(inputs["input_ids"]))
    return logits, mean_loss(logits, inputs["targets"]) + losses


@golden
def gshard():
    sizes = dict(vocab=61, context=20, layers=2, embed=16, heads=4, mlp=24, experts=5)
    model = shuffle(GShard(**sizes, factor=0.75, balance=0.1, z=0.01))
    ids = random_ids(2, 17, sizes["vocab"])
    config = {
        "model_type": "trireme-gshard", "architectures": ["TriremeGShard"], "vocab_size": 61, "context": 20, "layers": 2,
        "embed": 16, "heads": 4, "mlp": 24, "experts": 5, "expert_choices": 2, "expert_every": 2, "expert_capacity": 0.75,
        "balance_loss": 0.1, "router_z_loss": 0.01, "norm_eps": 1e-5,
    }
    ours = {".qkv.": ".attention.qkv.", ".out.weight": ".attention.out.weight", ".mlp_in.": ".mlp.in.",
            ".mlp_out.": ".mlp.out.", ".experts.into": ".experts.in.weight", ".experts.out": ".experts.out.weight"}

    def rename(name):
        if name.endswith(".experts.out"):
            return name + ".weight"
        for theirs, mine in ours.items():
            name = name.replace(theirs, mine)
        return name

    save = {rename(name): (name, lambda t: t) for name, _ in model.named_parameters()}
    return Case(model, {"input_ids": ids, "targets": next_tokens(ids)}, run_gshard, config=config, save=save)


# ---- T5 -----------------------------------------------------------------------------------------------


def two_towers(vocab, source=13, target=9, seed=11):
    """Sources of which the second is padded, and what the decoder is given and should say."""
    ids = random_ids(2, source, vocab, seed)
    mask = [[1] * source, [1] * (source - 4) + [0] * 4]
    targets = random_ids(2, target, vocab, seed + 1)
    decoder = [[0] + row[:-1] for row in targets]
    targets[1][-2:] = [-1, -1]
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder, "targets": targets}


def run_two_towers(model, inputs):
    given = {k: torch.tensor(v) for k, v in inputs.items() if k != "targets"}
    logits = model(**given).logits
    return logits, mean_loss(logits, inputs["targets"])


def beam_searches(model):
    """What generate answers to random sources; the end token is one that these random models like to say."""
    found = []
    for source in random_ids(6, 8, 61, seed=5):
        for beams, penalty in ((1, 1.0), (3, 1.0), (4, 0.6), (4, 2.0)):
            given = torch.tensor([source])
            free = model.generate(input_ids=given, num_beams=1, do_sample=False, max_new_tokens=12, eos_token_id=60,
                                  decoder_start_token_id=0, pad_token_id=0, use_cache=False)
            end = free[0][4].item()
            told = model.generate(input_ids=given, num_beams=beams, do_sample=False, max_new_tokens=12, length_penalty=penalty, eos_token_id=end,
                                  decoder_start_token_id=0, pad_token_id=0, use_cache=False)[0].tolist()[1:]
            if end in told:
                told = told[:told.index(end)]
            found.append({"source": source, "beams": beams, "length_penalty": penalty, "end": end, "max_tokens": 12, "tokens": told})
    return found


def make_t5(**changes):
    from transformers import T5Config, T5ForConditionalGeneration

    settings = dict(
        vocab_size=61, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=3, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, use_cache=False,
    )
    settings.update(changes)
    model = shuffle(T5ForConditionalGeneration(T5Config(**settings)))
    return Case(model, two_towers(settings["vocab_size"]), run_two_towers, beam_searches)


@golden
def t5():
    return make_t5()


@golden
def t5_v1_1():
    return make_t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1)


# ---- The Transformer of 2017 ----------------------------------------------------------------------------


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, torch.nn.Linear(width, width, bias=False))

    def forward(self, x, y, mask=None, causal=False):
        split = lambda t: t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(y)), split(self.v_proj(y))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[2:]).triu(1).bool(), float("-inf"))
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Block(torch.nn.Module):
    def __init__(self, width, heads, inner, across):
        super().__init__()
        self.self_attn = Attention(width, heads)
        if across:
            self.cross_attn = Attention(width, heads)
        self.linear1, self.linear2 = torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)
        for i in range(2 + across):
            setattr(self, f"norm{i + 1}", torch.nn.LayerNorm(width, eps=1e-6))

    def forward(self, x, mask=None, memory=None):
        across = memory is not None
        x = self.norm1(x + self.self_attn(x, x, None if across else mask, across))
        if across:
            x = self.norm2(x + self.cross_attn(x, memory, mask))
        last = self.norm3 if across else self.norm2
        return last(x + self.linear2(torch.relu(self.linear1(x))))


class Stack(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)


class Transformer(torch.nn.Module):
    def __init__(self, vocab, width, heads, inner, layers, decoder_layers):
        super().__init__()
        self.shared = torch.nn.Embedding(vocab, width)
        self.encoder = Stack([Block(width, heads, inner, False) for _ in range(layers)])
        self.decoder = Stack([Block(width, heads, inner, True) for _ in range(decoder_layers)])

    def embed(self, ids):
        width, dtype = self.shared.weight.shape[1], self.shared.weight.dtype
        rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * -(numpy.log(10000.0) / width))
        angles = torch.arange(ids.shape[1], dtype=torch.float64)[:, None] * rates
        places = torch.stack([angles.sin(), angles.cos()], -1).reshape(ids.shape[1], width)
        return self.shared(ids) * width ** 0.5 + places.to(dtype)

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        x = self.embed(input_ids)
        for block in self.encoder.layers:
            x = block(x, attention_mask)
        memory, x = x, self.embed(decoder_input_ids)
        for block in self.decoder.layers:
            x = block(x, attention_mask, memory)
        return x @ self.shared.weight.T


@golden
def transformer():
    sizes = dict(vocab=61, width=16, heads=4, inner=24, layers=2, decoder_layers=2)
    model = shuffle(Transformer(**sizes))
    config = {"model_type": "trireme-transformer", "vocab_size": 61, "d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 2,
              "num_decoder_layers": 2, "n_positions": 32, "dropout_rate": 0.0, "label_smoothing": 0.1}
    inputs = two_towers(61)

    def run(model, inputs):
        given = {k: torch.tensor(v) for k, v in inputs.items() if k != "targets"}
        logits = model(**given)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, 61), torch.tensor(inputs["targets"]).reshape(-1), ignore_index=-1, label_smoothing=0.1)
        return logits, loss

    same = {n: (n, lambda t: t) for n, _ in model.named_parameters()}
    return Case(model, inputs, run, None, config, same)


@golden
def switch():
    from transformers import SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

    settings = dict(
        vocab_size=61, d_model=16, d_kv=4, d_ff=12, num_layers=2, num_sparse_encoder_layers=1, num_decoder_layers=2,
        num_sparse_decoder_layers=1, num_heads=4, num_experts=3, expert_capacity=4, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, router_z_loss_coef=0.0,
        router_aux_loss_coef=0.0, router_jitter_noise=0.0, use_cache=False,
    )
    model = shuffle(SwitchTransformersForConditionalGeneration(SwitchTransformersConfig(**settings)))
    return Case(model, two_towers(settings["vocab_size"]), run_two_towers)


# ---- BERT -------------------------------------------------------------------------------------------


@golden
def bert():
    from transformers import BertConfig, BertForPreTraining

    model = shuffle(BertForPreTraining(BertConfig(
        vocab_size=67, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )))
    ids = [[max(i, 1) for i in row] for row in random_ids(3, 19, 67)]  # 0 is padding, whose row PyTorch does not train
    mask = [[1] * 19, [1] * 11 + [0] * 8, [1] * 19]
    types = [[0] * 7 + [1] * 12, [0] * 4 + [1] * 7 + [0] * 8, [0] * 19]
    targets = [[ids[b][t] if (t + b) % 5 == 2 and mask[b][t] else -1 for t in range(19)] for b in range(3)]
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "targets": targets, "labels": [0, 1, 1]}

    def run(model, inputs):
        out = model(**{key: torch.tensor(inputs[key]) for key in ("input_ids", "attention_mask", "token_type_ids")})
        return out.prediction_logits, mean_loss(out.prediction_logits, inputs["targets"]) + mean_loss(
            out.seq_relationship_logits, inputs["labels"])

    return Case(model, inputs, run)


@golden
def bert_classifier():
    from transformers import BertConfig, BertForSequenceClassification

    model = shuffle(BertForSequenceClassification(BertConfig(
        vocab_size=67, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, num_labels=3,
        max_position_embeddings=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )))
    ids = [[max(i, 1) for i in row] for row in random_ids(3, 17, 67)]
    mask = [[1] * 17, [1] * 11 + [0] * 6, [1] * 17]
    types = [[0] * 7 + [1] * 10, [0] * 4 + [1] * 7 + [0] * 6, [0] * 17]
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "labels": [2, 0, 1]}

    def run(model, inputs):
        out = model(**{key: torch.tensor(inputs[key]) for key in ("input_ids", "attention_mask", "token_type_ids")})
        return out.logits, torch.nn.functional.cross_entropy(out.logits, torch.tensor(inputs["labels"]))

    return Case(model, inputs, run)


# ---- ViT and Swin -----------------------------------------------------------------------------------


def images(batch, side, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, 1, side, side, generator=generator) * 100).round().div(100).tolist()


def run_images(model, inputs):
    logits = model(pixel_values=torch.tensor(inputs["pixel_values"], dtype=next(model.parameters()).dtype)).logits
    return logits, torch.nn.functional.cross_entropy(logits, torch.tensor(inputs["labels"]))


def stored_names(model, changes):
    """Names in files, which are older than those of the modules."""

    def rename(name):
        for ours, theirs in changes.items():
            name = name.replace(ours, theirs)
        return name

    return {rename(name): (name, lambda t: t) for name, _ in model.named_parameters()}


@golden
def vit():
    from transformers import ViTConfig, ViTForImageClassification

    model = shuffle(ViTForImageClassification(ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=12, patch_size=4,
        num_channels=1, num_labels=5, attn_implementation="eager",
    )))
    save = stored_names(model, {
        "vit.layers": "vit.encoder.layer", "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    })
    return Case(model, {"pixel_values": images(3, 12), "labels": [4, 0, 2]}, run_images, save=save)


@golden
def swin():
    from transformers import SwinConfig, SwinForImageClassification

    model = shuffle(SwinForImageClassification(SwinConfig(
        image_size=16, patch_size=2, num_channels=1, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4,
        mlp_ratio=2.0, num_labels=5, attn_implementation="eager",
    )))
    save = stored_names(model, {
        "attention.q_proj": "attention.self.query", "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value", "attention.o_proj": "attention.output.dense",
        "attention.relative_position_bias.": "attention.self.", "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    })
    return Case(model, {"pixel_values": images(2, 16), "labels": [1, 3]}, run_images, save=save)


# ---- BERT -------------------------------------------------------------------------------------------


# ---- Files ------------------------------------------------------------------------------------------


def compute(case, wide=False):
    """Logits, loss, gradients by the model's names."""
    model = copy.deepcopy(case.model)
    if wide:
        model = model.double()
    model.zero_grad(set_to_none=True)
    logits, loss = case.run(model, case.inputs)
    loss.backward()
    grads = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), loss.detach(), grads


def stored(case, tensors):
    """Under the names and in the form of model.safetensors."""
    if case.split:
        return {name: t.contiguous() for name, t in case.split(tensors).items()}
    if case.save is None:
        return {name: t.contiguous() for name, t in tensors.items()}
    return {ours: turn(tensors[theirs]).contiguous().clone() for ours, (theirs, turn) in case.save.items()}


def relative(got, want):
    return float((got.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-30))


def write(name, folder):
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    os.makedirs(folder, exist_ok=True)
    case = CASES[name]()
    if case.config is None:
        case.model.save_pretrained(folder)
    else:
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(case.config, file, indent=2)
        weights = {n: p.detach() for n, p in case.model.named_parameters()}
        save_file(stored(case, weights), os.path.join(folder, "model.safetensors"))
    logits, loss, grads = compute(case)
    wide_logits, wide_loss, wide_grads = compute(case, wide=True)
    with open(os.path.join(folder, "inputs.json"), "w") as file:
        json.dump(case.inputs, file)
    numpy.save(os.path.join(folder, "logits.npy"), logits.float().numpy())
    with open(os.path.join(folder, "loss.json"), "w") as file:
        json.dump({"loss": loss.item()}, file)
    if case.answers is not None:
        with open(os.path.join(folder, "answers.json"), "w") as file:
            json.dump(case.answers(case.model), file)
    save_file(stored(case, grads), os.path.join(folder, "grads.safetensors"))
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    extra = os.path.join(folder, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    worst = max(relative(grads[n], wide_grads[n]) for n in grads)
    print(f"{name}: {size} bytes; float32 against float64: logits {relative(logits, wide_logits):.1e}, "
          f"loss {relative(loss, wide_loss):.1e}, gradients {worst:.1e}")
    if size > LARGEST:
        sys.exit(f"{name} is larger than {LARGEST} bytes")


def differ(a, b):
    """The names of files that do not say the same, within rounding."""
    found = []
    for name in sorted(os.listdir(a)):
        left, right = os.path.join(a, name), os.path.join(b, name)
        if not os.path.exists(right):
            found.append(name)
        elif name.endswith(".safetensors"):
            one, two = load_file(left), load_file(right)
            if one.keys() != two.keys() or any(relative(one[k], two[k]) > 1e-5 for k in one):
                found.append(name)
        elif name.endswith(".npy"):
            if relative(torch.tensor(numpy.load(left)), torch.tensor(numpy.load(right))) > 1e-5:
                found.append(name)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all without any")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    wrong = []
    for name in CASES:
        if options.names and not any(name.startswith(n) for n in options.names):
            continue
        folder = os.path.join(ROOT, "tests", "golden", name)
        if not options.check:
            write(name, folder)
            continue
        with tempfile.TemporaryDirectory() as fresh:
            write(name, fresh)
            wrong += [f"{name}/{file}" for file in differ(fresh, folder)]
    if wrong:
        sys.exit("these are not what the script makes: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
