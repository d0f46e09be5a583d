#!/usr/bin/env python3
"""Makes tests/parity/spec/quants.json: for each type of GGUF blocks random bytes and the numbers that
gguf-py widens them to. Compared by worker/spec/dtype_test.cc.

    "$(tests/parity/setup.sh)" tests/parity/spec/make_quants.py
"""

import json
import pathlib

import gguf
import numpy as np

# type -> offsets of its half-precision scales, which must be finite
TYPES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2],
         "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": []}
BLOCKS = 2


def main():
    rng = np.random.default_rng(7)
    cases = []
    for name, scales in TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for offset in scales:
            halves = rng.normal(0, 0.1, BLOCKS).astype(np.float16)
            data[:, offset:offset + 2] = halves.view(np.uint8).reshape(BLOCKS, 2)
        if name == "MXFP4":
            data[:, 0] = rng.integers(118, 132, BLOCKS)
        values = gguf.quants.dequantize(data.reshape(1, -1), kind).reshape(-1)
        cases.append(dict(type=name, bytes=data.tobytes().hex(), values=[float(v) for v in values]))
    path = pathlib.Path(__file__).parent / "quants.json"
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
