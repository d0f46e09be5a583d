"""Makes what graft-trainer's decoder is compared with: tiny random models of each family by
transformers, their logits, loss, gradients and the losses of 20 AdamW steps.

  python make_goldens.py OUT [family ...]

A case is a folder: config.json and model.safetensors as save_pretrained leaves them, and
golden.safetensors with tokens [2, 16], logits, loss, grad.<name>, trajectory [20].
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
ROPE_LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=16)
FAMILIES = {
    "llama": dict(rope_parameters=ROPE_LLAMA3, tie_word_embeddings=False),
    "mistral": dict(sliding_window=5, head_dim=8),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=12),
    "gemma": dict(head_dim=8),
    "gemma2": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=5),
    "gemma3_text": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=5,
                        layer_types=["sliding_attention", "full_attention"]),
    "phi3": dict(),
    "olmo2": dict(),
    "olmo3": dict(sliding_window=5, layer_types=["sliding_attention", "full_attention"]),
    "smollm3": dict(no_rope_layers=[1, 0]),
    "granite": dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.5,
                    logits_scaling=4.0),
    "nemotron": dict(head_dim=8, partial_rotary_factor=0.5),
    "starcoder2": dict(use_bias=True),
    "cohere": dict(logit_scale=0.25),
    "cohere2": dict(logit_scale=0.25, sliding_window=5,
                    layer_types=["sliding_attention", "full_attention"], head_dim=8),
    "glm4": dict(head_dim=8, partial_rotary_factor=0.5),
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48),
}


def make(family, out):
    torch.manual_seed(len(family) * 101)
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family]})
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout",
                 "residual_dropout", "embedding_dropout"):
        if getattr(config, name, None):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager",
                                             dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too, so that each one shows
            p.add_(torch.randn_like(p) * 0.1)
    model.eval()
    folder = os.path.join(out, family)
    model.save_pretrained(folder)
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(5))
    result = model(tokens, labels=tokens)
    result.loss.backward()
    golden = {"tokens": tokens.to(torch.int32).to(torch.float32), "logits": result.logits.detach(),
              "loss": result.loss.detach().reshape(1)}
    for name, p in model.named_parameters():
        if p.grad is not None:
            golden["grad." + name] = p.grad.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    golden["trajectory"] = torch.tensor(losses)
    save_file({k: v.contiguous() for k, v in golden.items()},
              os.path.join(folder, "golden.safetensors"))
    for extra in ("generation_config.json",):
        path = os.path.join(folder, extra)
        if os.path.exists(path):
            os.remove(path)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(json.dumps({"family": family, "bytes": size, "loss": result.loss.item()}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for family in sys.argv[2:] or FAMILIES:
        make(family, sys.argv[1])
