"""LoRA on a GPU beside transformers + peft: models of 7 and 8 billion random numbers, made on the spot.

  gpu.py BUILD_DIR [RESULTS.md]        prints a JSON line a figure and leaves the table in RESULTS.md

Without a GPU, or without libgraft_cuda.so in BUILD_DIR/bin, it says that it was skipped. Of more
GPUs than one it measures all of them together as well, by data, tensor and pipeline parallelism
over NCCL, against one. Each side
runs in a process of its own, one after the other, over the same rows: bf16, LoRA r=16 on all linear
layers, every token supervised. Needs the packages of tests/parity/setup.sh (its python runs this
file), 40 GB of memory and 20 GB of disk in $TMPDIR.
"""
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../parity/trainer"))
from trainer_run import run_trainer  # noqa: E402

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VOCAB = 1000  # words that rows are made of; the models' vocabularies are their own
STEPS, WARM = 12, 4
SHAPES = {
    "llama_3_1_8b": ("llama", dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192,
        tie_word_embeddings=False)),
    "qwen2_5_7b": ("qwen2", dict(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, max_position_embeddings=8192,
        tie_word_embeddings=False)),
}
# name, shape, sequence, rows a step, bar of the ratio, bar of our peak in GiB
CASES = [("llama_3_1_8b_2x4096", "llama_3_1_8b", 4096, 2, 1.5, None),
         ("qwen2_5_7b_2x4096", "qwen2_5_7b", 4096, 2, 1.5, None),
         ("llama_3_1_8b_1x2048", "llama_3_1_8b", 2048, 1, None, 21.0)]


def make(shape, folder):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from compare_live import make_tokenizer
    kind, sizes = SHAPES[shape]
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes),
                                                 dtype=torch.bfloat16)
    model.save_pretrained(folder)
    make_tokenizer(folder, [f"w{i}" for i in range(VOCAB)])


def make_rows(path, sequence, count):
    with open(path, "w") as file:
        for row in range(count):
            words = " ".join(f"w{(row * 7919 + i * 104729) % VOCAB}" for i in range(sequence))
            file.write(json.dumps({"text": words}) + "\n")


def run_of(folder, sequence, rows, micro):
    return {"version": 1, "device": "cuda", "precision": "bf16", "seed": 1,
            "model": {"path": os.path.join(folder, "model")},
            "dataset": {"training": [os.path.join(folder, "rows.jsonl")], "format": "text",
                        "max_seq_length": sequence, "packing": False},
            "tuning": {"rank": 16, "alpha": 32, "target_modules": TARGETS},
            "batch": {"global": rows, "micro": micro},
            "schedule": {"max_steps": STEPS, "epochs": 9}}


def ours(trainer, folder, sequence, rows):
    events = run_trainer(trainer, run_of(folder, sequence, rows, rows), folder)
    for event in events:
        if event["event"] == "warning":
            print(f"# {event['message']}", flush=True)
    steps = [e for e in events if e["event"] == "step"][WARM:]
    if not steps:
        raise SystemExit(f"graft-trainer took no more than {WARM} steps")
    return (statistics.median(e["tokens_per_second"] for e in steps),
            max(e["peak_memory_bytes"] for e in steps))


def theirs(folder, sequence, rows):
    """In this process: it was started for this alone."""
    import time
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    path = os.path.join(folder, "model")
    net = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map="cuda")
    net.gradient_checkpointing_disable()
    net = get_peft_model(net, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS,
                                         task_type="CAUSAL_LM")).train()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, fused=True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = [json.loads(line)["text"] for line in open(os.path.join(folder, "rows.jsonl"))]
    rates = []
    for step in range(STEPS):
        batch = [texts[(step * rows + i) % len(texts)] for i in range(rows)]
        ids = tokenizer(batch, return_tensors="pt", truncation=True, max_length=sequence)
        ids = ids.input_ids.cuda()
        torch.cuda.synchronize()
        start = time.perf_counter()
        net(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        rates.append(ids.numel() / (time.perf_counter() - start))
    print(json.dumps([statistics.median(rates[WARM:]), torch.cuda.max_memory_allocated()]))


def figure(bench, metric, value, unit, peer_value, ratio, bar, ok, peer="transformers+peft"):
    line = dict(bench="trainer.gpu." + bench, metric=metric, value=round(value, 2), unit=unit,
                peer=peer, peer_value=round(peer_value, 2), ratio=round(ratio, 3),
                bar=bar, ok=ok)
    print(json.dumps(line), flush=True)
    return line


def compare(trainer, case, folder):
    name, _, sequence, rows, speed_bar, memory_bar = case
    make_rows(os.path.join(folder, "rows.jsonl"), sequence, 4 * rows)
    rate, peak = ours(trainer, folder, sequence, rows)
    result = subprocess.run([sys.executable, __file__, "--theirs", folder, str(sequence), str(rows)],
                            capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"transformers + peft: {result.stderr[-2000:]}")
    peer_rate, peer_peak = json.loads(result.stdout.splitlines()[-1])
    figures = [figure(name, "tokens_per_second", rate, "1/s", peer_rate, rate / peer_rate,
                      speed_bar or 1.0, rate / peer_rate >= (speed_bar or 1.0))]
    gib = peak / 2**30
    figures.append(figure(name, "peak_memory", gib, "GiB", peer_peak / 2**30, peak / peer_peak,
                          memory_bar or 1.0,
                          gib <= memory_bar if memory_bar else peak <= peer_peak))
    return figures


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(trainer, folder, sequence, rows, micro, **layout):
    """Tokens/s of a rank for each GPU, and the fullest rank's peak."""
    world = layout.get("tp", 1) * layout.get("pp", 1) * layout.get("dp", 1)
    address = f"127.0.0.1:{free_port()}"
    ranks = []
    for rank in range(world):
        run = run_of(folder, sequence, rows, micro)
        run["parallelism"] = dict(layout, world=world, rank=rank, rendezvous=address)
        path = os.path.join(folder, f"run-{rank}.json")
        with open(path, "w") as file:
            json.dump(run, file)
        ranks.append(subprocess.Popen([trainer, "--run", path], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate() for process in ranks]
    events = [[json.loads(line) for line in out.splitlines()] for out, _ in outputs]
    for rank, (said, (_, errors)) in enumerate(zip(events, outputs)):
        if not said or said[-1]["event"] != "done":
            raise SystemExit(f"{layout}, rank {rank}: {said[-1:]} {errors[-1000:]}")
    timed = [e for e in events[0] if e["event"] == "step"][WARM:]
    peak = max(e["peak_memory_bytes"] for said in events for e in said if e["event"] == "step")
    return sum(e["tokens"] for e in timed) / sum(e["seconds"] for e in timed), peak


def layouts(trainer, folder, gpus):
    sequence = 4096
    make_rows(os.path.join(folder, "rows.jsonl"), sequence, 8 * gpus)
    figures = []
    # What an axis can give at the most: all GPUs, and of a pipeline of 4 N micro-batches 4/5 of it.
    for axis, rows, micro, bar in (("dp", 2 * gpus, 2, 0.9), ("tp", 2, 2, 0.6),
                                   ("pp", 4 * gpus, 1, 0.7)):
        one, one_peak = together(trainer, folder, sequence, rows if axis == "pp" else 2, micro)
        rate, peak = together(trainer, folder, sequence, rows, micro, **{axis: gpus})
        line = figure(f"llama_3_1_8b {axis}={gpus}", "tokens_per_second", rate, "1/s", one,
                      rate / one, bar * gpus, rate >= bar * gpus * one, "one GPU")
        figures.append(line)
        figures.append(figure(f"llama_3_1_8b {axis}={gpus}", "peak_memory", peak / 2**30, "GiB",
                              one_peak / 2**30, peak / one_peak, 1.05, peak <= 1.05 * one_peak,
                              "one GPU"))
    return figures


def main(build, results):
    import torch
    plugin = os.path.join(build, "bin", "libgraft_cuda.so")
    why = None if torch.cuda.is_available() else "there is no GPU"
    why = why or (None if os.path.exists(plugin) else f"{plugin} was not built")
    if why:
        print(json.dumps({"bench": "trainer.gpu", "skipped": why}))
        return 77
    trainer = os.path.join(build, "bin", "graft-trainer")
    figures = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            make(shape, os.path.join(folder, "model"))
            torch.cuda.empty_cache()
            for case in CASES:
                if case[1] == shape:
                    figures += compare(trainer, case, folder)
            if shape == "llama_3_1_8b" and torch.cuda.device_count() > 1:
                figures += layouts(trainer, folder, torch.cuda.device_count())
    lines = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}", "",
             "| bench | figure | ours | peer | peer's | ratio | bar | |",
             "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {f['bench']} | {f['metric']}, {f['unit']} | {f['value']} | {f['peer']} | {f['peer_value']} | "
              f"{f['ratio']} | {f['bar']} | {'met' if f['ok'] else 'missed'} |" for f in figures]
    text = "\n".join(lines) + "\n"
    print(text)
    if results:
        with open(results, "w") as file:
            file.write(text)
    return 0 if all(f["ok"] for f in figures) else 1


if __name__ == "__main__":
    if sys.argv[1] == "--theirs":
        theirs(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        sys.exit(0)
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
