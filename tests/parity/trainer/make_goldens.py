"""Makes what graft-trainer's decoder is compared with: tiny random models of each family by
transformers, their logits, loss, gradients and the losses of 20 AdamW steps.

  python make_goldens.py OUT [family ...]

A case is a folder: config.json and model.safetensors as save_pretrained leaves them, and
golden.safetensors with tokens [2, 16], logits, loss, grad.<name>, trajectory [20].
"""
import copy
import json
import os
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
ROPE_LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=16)
# Experts multiply the parameters: a case stays below 200 KB.
SMALL_EXPERTS = dict(hidden_size=24, intermediate_size=20)
FAMILIES = {
    "llama": dict(rope_parameters=ROPE_LLAMA3, tie_word_embeddings=False),
    "mistral": dict(sliding_window=5, head_dim=8),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=12, intermediate_size=32),
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
    "mixtral": dict(SMALL_EXPERTS, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": dict(SMALL_EXPERTS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
                      shared_expert_intermediate_size=20, decoder_sparse_step=1),
    "qwen3_moe": dict(SMALL_EXPERTS, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
                      head_dim=12, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1]),
    "gpt_oss": dict(SMALL_EXPERTS, num_local_experts=4, num_experts_per_tok=2, head_dim=8,
                    sliding_window=5, layer_types=["sliding_attention", "full_attention"],
                    rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                         beta_fast=32.0, beta_slow=1.0, truncate=False,
                                         original_max_position_embeddings=16)),
    "olmoe": dict(SMALL_EXPERTS, num_experts=4, num_experts_per_tok=2),
    "granitemoe": dict(SMALL_EXPERTS, num_local_experts=4, num_experts_per_tok=2,
                       embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.5,
                       logits_scaling=4.0),
    "deepseek_v3": dict(SMALL_EXPERTS, num_key_value_heads=4, q_lora_rank=20, kv_lora_rank=16,
                        qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
                        n_routed_experts=8, num_experts_per_tok=3, n_group=4, topk_group=2,
                        moe_intermediate_size=12, n_shared_experts=1, first_k_dense_replace=1),
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48),
}


def gradients_as_stored(model):
    """Gradients under the names and in the shapes in which save_pretrained stores the parameters
    (experts, which transformers fuses in memory, are stored one by one)."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, original in zip(twin.parameters(), model.parameters()):
            p.copy_(original.grad)
    with tempfile.TemporaryDirectory() as folder:
        twin.save_pretrained(folder)
        stored = load_file(os.path.join(folder, "model.safetensors"))
    buffers = tuple(name for name, _ in twin.named_buffers())
    return {"grad." + name: t for name, t in stored.items() if not name.endswith(buffers or "?")}


def tiny_model(family):
    """A model of random numbers, norms and biases too, so that each one shows."""
    config = AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family]})
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout",
                 "residual_dropout", "embedding_dropout"):
        if getattr(config, name, None):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager",
                                             dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def balanced(model, tokens):
    """Loss and router gradients with the routers' load-balancing loss in them."""
    model.zero_grad()
    result = model(tokens, labels=tokens, output_router_logits=True)
    result.loss.backward()
    routers = [layer.mlp.gate.weight.grad.clone() for layer in model.model.layers]
    return {"balanced.loss": result.loss.detach().reshape(1),
            **{f"balanced.grad.{i}": g for i, g in enumerate(routers)}}


def make(family, out):
    torch.manual_seed(len(family) * 101)
    model = tiny_model(family)
    with torch.no_grad():
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.add_(torch.randn_like(b) * 0.1)
    model.eval()
    folder = os.path.join(out, family)
    model.save_pretrained(folder)
    tokens = torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(5))
    result = model(tokens, labels=tokens)
    result.loss.backward()
    golden = {"tokens": tokens.to(torch.int32).to(torch.float32), "logits": result.logits.detach(),
              "loss": result.loss.detach().reshape(1)}
    golden.update(gradients_as_stored(model))
    if family == "mixtral":
        golden.update(balanced(model, tokens))
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
