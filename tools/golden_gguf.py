#!/usr/bin/env python3
"""Makes tests/golden/blocks.gguf: two blocks of random bits of each quantised type that is read, and beside them what
llama.cpp's Python package gguf makes of them. tests/test_gguf.c compares, so that no test needs Python.

    pip install gguf
    python3 tools/golden_gguf.py            # writes tests/golden/blocks.gguf
    python3 tools/golden_gguf.py --check    # writes nothing; compares with what is there

Tensors "Q4_K" and its like have the bits, "Q4_K.values" the f32 values. Only the f16 scales are no random bits: they
are numbers of a usual size, so that nothing is infinite.
"""

import os
import sys
import tempfile

import gguf
import numpy
from gguf import quants

PATH = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "blocks.gguf")
# Where a block has its f16 numbers.
SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip
BLOCKS = 2


def write(path):
    random = numpy.random.default_rng(20)
    writer = gguf.GGUFWriter(path, "blocks")
    for name, scales in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        _, size = gguf.GGML_QUANT_SIZES[kind]
        bits = random.integers(0, 256, (BLOCKS, size), dtype=numpy.uint8)
        for at in scales:
            numbers = random.normal(0, 0.1, (BLOCKS, 1)).astype(numpy.float16)
            bits[:, at : at + 2] = numbers.view(numpy.uint8)
        rows = bits.reshape(1, -1)
        writer.add_tensor(name, rows, raw_dtype=kind)
        writer.add_tensor(f"{name}.values", quants.dequantize(rows, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if "--check" not in sys.argv:
        write(PATH)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "blocks.gguf")
        write(made)
        same = open(made, "rb").read() == open(PATH, "rb").read()
    print("the same" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
