"""Loads what jobs made with transformers and peft: load_outputs.py BASE ADAPTER MERGED ALL_WEIGHTS.

The merged model must be the base with the adapter of the same job settings, and the one with all
weights must differ from the base.
"""
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base_folder, adapter, merged, all_weights = sys.argv[1:]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


tokens = torch.arange(3, 40).reshape(1, -1)
with torch.no_grad():
    base = load(base_folder)(tokens).logits
    tuned = PeftModel.from_pretrained(load(base_folder), adapter).eval()(tokens).logits
    whole = load(merged)(tokens).logits
    other = load(all_weights)(tokens).logits
learnt = (tuned - base).abs().max().item()
# A merged model is written in the base's bf16: eight bits of every weight.
apart = (tuned - whole).abs().max().item()
print(f"adapter moves logits by {learnt:.4f}; merged is {apart:.4f} from it; "
      f"all weights {(other - base).abs().max().item():.4f} from the base")
assert learnt > 1e-3, "the adapter changes nothing"
assert apart < max(0.5 * learnt, 0.02), "the merged model is not the adapter's"
assert (other - base).abs().max() > 1e-3, "training all weights changed nothing"
