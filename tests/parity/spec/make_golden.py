#!/usr/bin/env python3
"""Makes the golden files of worker/spec from transformers: for each family a tiny configuration, the
names and shapes of the tensors that save_pretrained writes, the number of parameters, and the
frequencies of the rotary embeddings.

    HF_HUB_OFFLINE=1 "$(tests/parity/setup.sh)" tests/parity/spec/make_golden.py [CASE...]

Each case is tests/parity/spec/golden/CASE.json, compared by worker/spec/family_test.cc.
"""

import json
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open

GOLDEN = pathlib.Path(__file__).parent / "golden"

TRUNK = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=160, max_position_embeddings=256,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
LONG = dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=64,
            short_factor=[1.0 + 0.01 * i for i in range(8)],
            long_factor=[1.0 + 0.5 * i for i in range(8)])
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)


def gqa(**more):
    return {**TRUNK, **more}


# case -> (configuration class, arguments)
CASES = {
    "llama": ("Llama", gqa()),
    "llama_bias_tied": ("Llama", gqa(attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                                     head_dim=24)),
    "llama3": ("Llama", gqa(rope_parameters=LLAMA3)),
    "llama_linear": ("Llama", gqa(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=2.5))),
    "llama_dynamic": ("Llama", gqa(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0))),
    "mistral": ("Mistral", gqa(sliding_window=32)),
    "mistral_full": ("Mistral", gqa(sliding_window=None, head_dim=32)),
    "mixtral": ("Mixtral", gqa(num_local_experts=4)),
    "qwen2": ("Qwen2", gqa()),
    "qwen2_windows": ("Qwen2", gqa(use_sliding_window=True, sliding_window=16, max_window_layers=1)),
    "qwen2_yarn": ("Qwen2", gqa(rope_parameters=YARN)),
    "qwen2_moe": ("Qwen2Moe", gqa(shared_expert_intermediate_size=48, **MOE)),
    "qwen2_moe_sparse": ("Qwen2Moe", gqa(shared_expert_intermediate_size=48, decoder_sparse_step=2,
                                         norm_topk_prob=True, **MOE)),
    "qwen3": ("Qwen3", gqa(head_dim=32)),
    "qwen3_moe": ("Qwen3Moe", gqa(head_dim=32, norm_topk_prob=True, mlp_only_layers=[1], **MOE)),
    "gemma": ("Gemma", gqa(head_dim=32)),
    "gemma2": ("Gemma2", gqa(head_dim=32, query_pre_attn_scalar=24, sliding_window=16)),
    "gemma3_text": ("Gemma3Text", gqa(head_dim=32, query_pre_attn_scalar=24, sliding_window=16)),
    "gemma3_text_linear": ("Gemma3Text", gqa(
        head_dim=32, sliding_window=16, num_hidden_layers=7,
        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                             sliding_attention=dict(rope_type="default", rope_theta=1e4)))),
    "phi3": ("Phi3", gqa()),
    "phi3_longrope": ("Phi3", gqa(original_max_position_embeddings=64, rope_parameters=LONG)),
    "phi4_mini": ("Phi3", gqa(tie_word_embeddings=True, num_attention_heads=2, partial_rotary_factor=0.5,
                              num_key_value_heads=1, original_max_position_embeddings=64,
                              rope_parameters={**LONG, "partial_rotary_factor": 0.5})),
    "gpt_oss": ("GptOss", gqa(num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=16)),
    "olmo2": ("Olmo2", gqa()),
    "olmo3": ("Olmo3", gqa(num_hidden_layers=5, sliding_window=16)),
    "olmo3_yarn": ("Olmo3", gqa(
        num_hidden_layers=5, sliding_window=16,
        rope_parameters=dict(full_attention={**YARN, "rope_theta": 5e5},
                             sliding_attention=dict(rope_type="default", rope_theta=5e5)))),
    "olmoe": ("Olmoe", gqa(num_experts=4, num_experts_per_tok=2, clip_qkv=8.0)),
    "smollm3": ("SmolLM3", gqa(num_hidden_layers=5)),
    "granite": ("Granite", gqa(embedding_multiplier=12.0, logits_scaling=8.0, residual_multiplier=0.22,
                               attention_multiplier=0.1)),
    "granitemoe": ("GraniteMoe", gqa(num_local_experts=4, num_experts_per_tok=2,
                                     embedding_multiplier=12.0, logits_scaling=6.0)),
    "nemotron": ("Nemotron", gqa()),
    "starcoder2": ("Starcoder2", gqa(sliding_window=32)),
    "cohere": ("Cohere", gqa()),
    "cohere_qk_norm": ("Cohere", gqa(use_qk_norm=True)),
    "cohere2": ("Cohere2", gqa(num_hidden_layers=5, sliding_window=16)),
    "glm4": ("Glm4", gqa(head_dim=16)),
    "deepseek_v3": ("DeepseekV3", gqa(
        num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16,
        v_head_dim=12, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=2,
        moe_intermediate_size=32, first_k_dense_replace=1,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.7})),
    "deepseek_v3_no_q_lora": ("DeepseekV3", gqa(
        num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=16, v_head_dim=12, n_routed_experts=4, n_group=1, topk_group=1,
        num_experts_per_tok=2, moe_intermediate_size=32, first_k_dense_replace=1, attention_bias=True)),
    "gpt2": ("GPT2", dict(n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=160,
                          bos_token_id=1, eos_token_id=2)),
}

# The same models as older files wrote them: changes to the configuration's JSON.
LEGACY = {
    "llama3_legacy": ("llama3", dict(rope_theta=500000.0, rope_scaling={
        k: v for k, v in LLAMA3.items() if k != "rope_theta"})),
    "llama_linear_legacy": ("llama_linear", dict(rope_theta=1e4, rope_scaling=dict(type="linear", factor=2.5))),
    "llama_sparse_keys": ("llama", dict(rope_theta=5000.0)),
    "gemma3_text_legacy": ("gemma3_text_linear", dict(
        rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=6,
        rope_scaling=dict(rope_type="linear", factor=8.0))),
    "phi3_longrope_legacy": ("phi3_longrope", dict(rope_theta=10000.0, rope_scaling=dict(
        type="longrope", short_factor=LONG["short_factor"], long_factor=LONG["long_factor"]))),
    "deepseek_v3_legacy": ("deepseek_v3", dict(rope_theta=10000.0, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=0.7,
        beta_fast=32, beta_slow=1))),
    "nemotron_legacy": ("nemotron", dict(rope_theta=10000.0, partial_rotary_factor=0.5)),
    "qwen3_moe_legacy": ("qwen3_moe", dict(rope_theta=1e6, num_experts=4)),
    "cohere2_legacy": ("cohere2", dict(rope_theta=50000.0, sliding_window_pattern=4)),
}
DROPPED_BY_LEGACY = ("rope_parameters", "layer_types", "num_local_experts")

LENGTHS = (16, 1000)


def rotary_modules(model):
    for name, module in model.named_modules():
        if name.endswith("rotary_emb") and module.__class__.__name__.endswith("RotaryEmbedding"):
            return module
    return None


def frequencies(model, length):
    """{layer type or "": [inverse frequencies, attention factor]} for a sequence of `length`."""
    module = rotary_modules(model)
    if module is None:
        return {}
    x = torch.zeros(1, 1, 1)
    positions = torch.arange(length)[None]
    types = getattr(module, "layer_types", None)
    out = {}
    if types is not None and isinstance(module.rope_type, dict):
        for t in sorted(set(module.config.layer_types)):
            module(x, positions, layer_type=t)
            out[t] = (getattr(module, f"{t}_inv_freq"), getattr(module, f"{t}_attention_scaling"))
    else:
        module(x, positions)
        out[""] = (module.inv_freq, module.attention_scaling)
    return {k: dict(inverse=[float(f) for f in v], attention_factor=float(a)) for k, (v, a) in out.items()}


def describe(config, config_json):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    buffers = {n: b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")}
    parameters += sum(b.numel() for n, b in buffers.items())
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        if config_json is None:
            config_json = json.loads((pathlib.Path(folder) / "config.json").read_text())
        with safe_open(f"{folder}/model.safetensors", "pt") as f:
            tensors = {name: f.get_slice(name).get_shape() for name in sorted(f.keys())}
    ropes = {str(n): frequencies(model, n) for n in LENGTHS}
    scaling = None
    for module in model.modules():
        if hasattr(module, "scaling") and isinstance(module.scaling, float):
            scaling = module.scaling
            break
    return dict(config=config_json, parameters=parameters, tensors=tensors, ropes=ropes, scaling=scaling)


def write(case, golden):
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{case}.json").write_text(json.dumps(golden, sort_keys=True) + "\n")
    print(case, golden["parameters"])


def main():
    wanted = sys.argv[1:]
    for case, (name, arguments) in CASES.items():
        if wanted and case not in wanted:
            continue
        config = getattr(transformers, name + "Config")(**arguments)
        write(case, describe(config, None))
    for case, (base, changes) in LEGACY.items():
        if wanted and case not in wanted:
            continue
        config_json = json.loads((GOLDEN / f"{base}.json").read_text())["config"]
        for key in DROPPED_BY_LEGACY:
            config_json.pop(key, None)
        config_json.update(changes)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "config.json"
            path.write_text(json.dumps(config_json))
            config = transformers.AutoConfig.from_pretrained(folder)
        write(case, describe(config, config_json))


if __name__ == "__main__":
    main()
