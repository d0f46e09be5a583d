"""Fifty steps of graft-trainer beside fifty of trl on SmolLM2, from the same adapter over the same
rows: trl's own invariant (the losses agree, and their differences have no direction), then that it
does not matter how graft-trainer cuts a step up.

  compare_trl.py GRAFT_TRAINER MODEL      MODEL: a folder, as tests/bench/trainer/peer.py prepares
"""
import json
import os
import sys
import tempfile

from trainer_run import run_trainer

os.environ["HF_HUB_OFFLINE"] = "1"
STEPS, BATCH, ROWS = 50, 4, 200
CHATS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench/trainer/chats.jsonl")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def graft(trainer, folder, model, steps, **change):
    """The losses of each step."""
    run = {"version": 1, "threads": 2, "seed": 7, "precision": "fp32", "model": {"path": model},
           "dataset": {"training": [os.path.join(folder, "rows.jsonl")], "shuffle": False,
                       "loss_on": "all", "max_seq_length": 1024},
           "tuning": {"kind": "lora", "rank": 16, "alpha": 32, "target_modules": MODULES},
           "optimizer": {"weight_decay": 0.01}, "batch": {"global": BATCH, "micro": BATCH},
           "schedule": {"kind": "constant", "learning_rate": 2e-4, "max_steps": steps},
           "output": {"folder": os.path.join(folder, "adapter")}}
    for path, value in change.items():
        group, key = path.split("__")
        run[group][key] = value
    return [e["loss"] for e in run_trainer(trainer, run, folder) if e["event"] == "step"]


def trl(folder, model):
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(2)
    losses = []

    class Recorded(SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            losses.append((result[0] if isinstance(result, tuple) else result).item())
            return result

    rows = [json.loads(line) for line in open(os.path.join(folder, "rows.jsonl"))]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), is_trainable=True)
    config = SFTConfig(output_dir=os.path.join(folder, "trl"), use_cpu=True, bf16=False,
                       gradient_checkpointing=False, save_strategy="no", report_to=[],
                       disable_tqdm=True, per_device_train_batch_size=BATCH, max_steps=STEPS,
                       learning_rate=2e-4, lr_scheduler_type="constant", weight_decay=0.01,
                       train_sampling_strategy="sequential", max_length=1024)
    Recorded(model=adapted, args=config, train_dataset=Dataset.from_list(rows),
             processing_class=AutoTokenizer.from_pretrained(model)).train()
    return losses


def main(trainer, model):
    failed = 0

    def expect(name, value, most):
        nonlocal failed
        ok = value <= most
        failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {value:.3g} (at most {most:g})", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        lines = sorted(open(CHATS), key=len)[:ROWS]
        with open(os.path.join(folder, "rows.jsonl"), "w") as file:
            file.writelines(lines[i * 7 % ROWS] for i in range(ROWS))
        graft(trainer, folder, model, 1, schedule__learning_rate=1e-30)  # leaves A as it starts
        theirs = trl(folder, model)
        ours = graft(trainer, folder, model, STEPS)
        assert len(ours) == len(theirs) == STEPS, (len(ours), len(theirs))
        residual = [a - b for a, b in zip(ours, theirs)]
        print(f"loss {ours[0]:.4f} -> {ours[-1]:.4f}, trl {theirs[0]:.4f} -> {theirs[-1]:.4f}")
        expect("loss of each of 50 steps", max(map(abs, residual)), 1e-4)
        expect("mean residual", abs(sum(residual)) / STEPS, 1e-5)
        few = ours[:8]
        # The rows of a step are packed into one micro-batch above; unpacked, `micro` cuts them up.
        for name, micro in {"micro-batches of 1 row": 1, "micro-batches of 3 and 1 rows": 3}.items():
            other = graft(trainer, folder, model, len(few), dataset__packing=False,
                          batch__micro=micro)
            expect(name, max(abs(a - b) / b for a, b in zip(other, few)), 1e-5)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
