"""graft-trainer beside transformers, peft and trl themselves: files that each reads of the other.

  compare_live.py GRAFT_TRAINER [family ...]

For every family of make_goldens.py a tiny random model with a tokenizer of its own:
  adapter   what graft-trainer trains is loaded by peft without a missing or unexpected key, and
            gives graft-trainer's own validation loss
  theirs    an adapter that peft made answers the same tokens in graft-trainer as in peft
  merged    graft-trainer's merged model is loaded by transformers without a missing or unexpected
            key, and gives the adapter's validation loss
Prints a line for each and ends with 1 where one differs.
"""
import json
import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.utils import get_peft_model_state_dict  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_goldens import FAMILIES, tiny_model  # noqa: E402
from trainer_run import run_trainer  # noqa: E402

WORDS = [f"w{i}" for i in range(90)]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
MIXTURES = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "olmoe", "granitemoe", "deepseek_v3"}
# peft takes these names for the experts' in families whose experts were once modules of that name, so
# that it cannot adapt their dense and shared MLPs.
TAKEN_FOR_EXPERTS = {"gate_proj", "up_proj", "down_proj"}
RENAMED = {"qwen3_moe", "deepseek_v3"}
# What else peft's configuration can say: on a tied model with biases, on one whose head is its own.
VARIANTS = {
    "qwen2": {"dora": {"dora": True}, "rslora": {"rslora": True}, "bias all": {"bias": "all"},
              "bias lora_only": {"bias": "lora_only"},
              "bias lora_only of some": {"bias": "lora_only",
                                         "target_modules": ["q_proj", "up_proj"]},
              "modules_to_save norm": {"modules_to_save": ["norm"]},
              "embedding": {"target_modules": ["q_proj", "embed_tokens"]}},
    "llama": {"head": {"target_modules": ["q_proj", "lm_head"]},
              "modules_to_save ends": {"modules_to_save": ["embed_tokens", "lm_head"]}},
}
NEW_TOKENS = 12


def make_model(family, folder):
    torch.manual_seed(11)
    model = tiny_model(family)
    model.save_pretrained(folder)
    make_tokenizer(folder)


def make_tokenizer(folder, words=None):
    from tokenizers import Tokenizer, models, pre_tokenizers
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for word in words or WORDS:
        vocab[word] = len(vocab)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(folder)


def make_rows(path, count, seed):
    generator = torch.Generator().manual_seed(seed)
    with open(path, "w") as file:
        for _ in range(count):
            words = torch.randint(0, len(WORDS), (14,), generator=generator)
            file.write(json.dumps({"text": " ".join(WORDS[i] for i in words)}) + "\n")


def train(trainer, folder, output, tuning):
    """Returns the last validation loss that graft-trainer reports."""
    run = {"version": 1, "threads": 1, "seed": 3, "precision": "fp32",
           "model": {"path": os.path.join(folder, "base")},
           "dataset": {"training": [os.path.join(folder, "train.jsonl")], "format": "text",
                       "validation": [os.path.join(folder, "valid.jsonl")], "max_seq_length": 16},
           "tuning": tuning, "schedule": {"max_steps": 6, "epochs": 6, "learning_rate": 0.01},
           "batch": {"global": 4, "micro": 4}, "output": {"folder": output, "precision": "float32"}}
    return [e["loss"] for e in run_trainer(trainer, run, folder) if e["event"] == "eval"][-1]


def validation_loss(model, folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(os.path.join(folder, "base"))
    total, count = 0.0, 0
    with torch.no_grad():
        for line in open(os.path.join(folder, "valid.jsonl")):
            ids = tokenizer(json.loads(line)["text"], add_special_tokens=False).input_ids + [2]
            ids = torch.tensor([ids])
            logits = model(input_ids=ids).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    return total / count


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(os.path.join(folder, "base"), dtype=torch.float32,
                                                attn_implementation="eager").eval()


def check_adapter(trainer, folder, tuning):
    output = os.path.join(folder, "adapter")
    ours = train(trainer, folder, output, dict(tuning, kind="lora"))
    model = PeftModel.from_pretrained(base_model(folder), output).eval()
    theirs = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    with safe_open(os.path.join(output, "adapter_model.safetensors"), "pt") as file:
        mine = set(file.keys())
    assert mine == theirs, f"keys differ: {sorted(mine ^ theirs)[:6]}"
    close(ours, validation_loss(model, folder))
    return ours


def check_theirs(trainer, folder, targets, parameters):
    output = os.path.join(folder, "theirs")
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, target_parameters=parameters,
                        task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base_model(folder), config).eval()
    model.save_pretrained(output)
    prompt = " ".join(WORDS[3:9])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(os.path.join(folder, "base"))
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == 2:
                break
    want = tokenizer.decode(ids[0, 6:], skip_special_tokens=True)
    process = subprocess.run(
        [trainer, "--generate", "--model", os.path.join(folder, "base"), "--adapter", output,
         "--weights", "fp32", "--threads", "1"], capture_output=True, text=True,
        input=json.dumps({"id": "1", "prompt": prompt, "max_tokens": NEW_TOKENS}) + "\n")
    replies = [json.loads(line) for line in process.stdout.splitlines()]
    assert replies and replies[-1]["event"] == "end", process.stderr[-500:] + str(replies[-1:])
    got = "".join(r["text"] for r in replies if r["event"] == "token")
    assert got.split() == want.split(), f"answered {got!r}, peft {want!r}"


def check_merged(trainer, folder, tuning, adapter_loss):
    output = os.path.join(folder, "merged")
    ours = train(trainer, folder, output, dict(tuning, kind="lora_merged"))
    model, info = AutoModelForCausalLM.from_pretrained(
        output, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {sorted(info[kind])[:4]}"
    close(ours, validation_loss(model.eval(), folder))
    close(ours, adapter_loss)


def close(a, b):
    assert abs(a - b) <= 2e-5 * max(1.0, abs(b)), f"{a} is not {b}"


def linear_names(folder):
    """The suffixes of every linear but the head."""
    names = {n.rsplit(".", 1)[-1] for n, m in base_model(folder).named_modules()
             if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"}
    return sorted(names - {"lm_head"})


def check(name, body):
    try:
        value = body()
        print(f"ok   {name}", flush=True)
        return value
    except Exception as error:  # a library refuses what we wrote: that is a finding too
        print(f"FAIL {name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
        failures.append(name)


failures = []


def main(trainer, families):
    torch.set_num_threads(1)
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            make_model(family, os.path.join(folder, "base"))
            make_rows(os.path.join(folder, "train.jsonl"), 24, 1)
            make_rows(os.path.join(folder, "valid.jsonl"), 4, 2)
            targets = linear_names(folder)
            if family in RENAMED:
                targets = sorted(set(targets) - TAKEN_FOR_EXPERTS)
            parameters = EXPERTS if family in MIXTURES else None
            tuning = {"rank": 4, "alpha": 8, "target_modules": targets + (parameters or [])}
            loss = check(f"{family} adapter", lambda: check_adapter(trainer, folder, tuning))
            check(f"{family} theirs", lambda: check_theirs(trainer, folder, targets, parameters))
            if loss is not None:
                check(f"{family} merged", lambda: check_merged(trainer, folder, tuning, loss))
            for name, change in VARIANTS.get(family, {}).items():
                varied = {"rank": 4, "alpha": 8, "target_modules": targets, **change}
                check(f"{family} {name}", lambda: check_adapter(trainer, folder, varied))
    print(f"{len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:] or list(FAMILIES)))
