"""The trainer beside transformers + peft + trl, taking turns so that both meet the same machine.

  compare.py BUILD_DIR [PART ...]      parts: dense dense4 all_weights chats start generate memory

`chats=packing,defaults` meets those of trl's settings alone, where time is short; so does
GRAFT_BENCH_ROUNDS with the rounds of the others (5, and 11 in the full tier).

Prints one JSON line a figure and a table. Figures are medians over rounds of one unit of work each;
ratios are medians of the rounds' own ratios. GRAFT_TIER=full trains on all 500 chats and takes more
rounds. Needs the packages of tests/parity/setup.sh (its python runs this file).
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
THREADS = "2"
FULL = os.environ.get("GRAFT_TIER", "default") != "default"
ROUNDS = int(os.environ.get("GRAFT_BENCH_ROUNDS", 11 if FULL else 5))
PROMPT = "The capital of France is"
NEW_TOKENS = 64
# What graft-trainer starts itself with (worker/trainer/launcher.cc); the driver has no launcher.
SETTINGS = {"GOMP_SPINCOUNT": "2000"}
# kind, rows, length, what is made again, optimizer
MEMORY = [("lora", 2, 256, "none", "adamw"), ("lora", 4, 512, "none", "adamw"),
          ("lora", 4, 512, "full", "adamw"), ("all_weights", 2, 256, "none", "adamw"),
          ("all_weights", 1, 512, "full", "adamw_8bit"), ("all_weights", 2, 256, "none", "sgd")]
failures = 0
figures = []


class Worker:
    """A process that answers each line with a JSON line."""

    def __init__(self, command, settings=None):
        env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=THREADS, **(settings or {}))
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=env)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended: {self.process.wait()}")
        return json.loads(line)

    def ask(self, line="go"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def report(bench, metric, value, unit, peer, peer_value, ratio, bar, most=False):
    """`most`: the ratio must not exceed the bar."""
    global failures
    ok = ratio <= bar if most else ratio >= bar
    failures += not ok
    figure = dict(bench="trainer." + bench, metric=metric, value=round(value, 3), unit=unit,
                  peer=peer, peer_value=round(peer_value, 3), ratio=round(ratio, 3), bar=bar, ok=ok)
    figures.append(figure)
    print(json.dumps(figure), flush=True)


def median_ratio(ours, theirs):
    return statistics.median(a / b for a, b in zip(ours, theirs))


class Bench:
    def __init__(self, build, model):
        self.driver = os.path.join(build, "bin", "trainer_bench_driver")
        self.trainer = os.path.join(build, "bin", "graft-trainer")
        self.model = model

    def peer(self, *args):
        return Worker([sys.executable, os.path.join(HERE, "peer.py"), args[0], self.model,
                       *args[1:], THREADS])

    def ours(self, mode, *args):
        return Worker([self.driver, mode, self.model, *args, THREADS], SETTINGS)

    def steps(self, name, kind, rows, length, speed_bar, memory_bar):
        ours, peer = (make("dense", kind, str(rows), str(length)) for make in (self.ours, self.peer))
        for worker in (ours, peer):
            worker.read()
            worker.ask()  # the first step allocates
        mine, theirs, shares = [], [], []
        for _ in range(ROUNDS):
            a, b = ours.ask(), peer.ask()
            mine.append(a["tokens"] / a["seconds"])
            theirs.append(b["tokens"] / b["seconds"])
            shares.append(a["gflops"] / a["mm_gflops"])
        report(name, "tokens_per_second", statistics.median(mine), "1/s", "transformers+peft",
               statistics.median(theirs), median_ratio(mine, theirs), speed_bar)
        report(name, "peak_memory", a["peak_bytes"] / 2**20, "MiB", "transformers+peft",
               b["peak_bytes"] / 2**20, a["peak_bytes"] / b["peak_bytes"], memory_bar, most=True)
        report(name, "gflops_over_mm", a["gflops"], "GFLOP/s", "at::mm 512x576x1536",
               a["mm_gflops"], statistics.median(shares), 0.8)
        ours.close()
        peer.close()

    def dense(self):
        self.steps("lora_2x256", "lora", 2, 256, 1.3, 0.5)

    def dense4(self):
        self.steps("lora_4x512", "lora", 4, 512, 1.3, 0.5)

    def all_weights(self):
        self.steps("all_weights_2x256", "all_weights", 2, 256, 1.15, 0.8)

    def chats(self, settings="packing,group_by_length,padding,padding_micro_2,defaults"):
        """An epoch of ours stands before and behind each of theirs."""
        path = os.path.join(HERE, "chats.jsonl")
        every = 1 if FULL else 28  # of the 500, spread over their lengths
        lines = sorted(open(path), key=len)[::every]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(lines)
            file.flush()
            self.compare_chats(file.name, settings.split(","))

    def compare_chats(self, path, settings):
        ours = self.ours("chats", path, "512")
        ours.read()
        before = ours.ask()
        rates = {}
        for setting in settings:
            peer = self.peer("chats", path, setting)
            peer.read()
            theirs = peer.ask()
            after = ours.ask()
            mine = 0.5 * sum(r["examples"] / r["seconds"] for r in (before, after))
            rates[setting] = (theirs["examples"] / theirs["seconds"], mine, theirs["peak_bytes"])
            print(f"# trl {setting}: {rates[setting][0]:.3f} examples/s, ours {mine:.3f}", flush=True)
            before = after
            peer.close()
        chosen = [s for s in rates if s != "defaults"] or ["defaults"]
        fastest = max(chosen, key=lambda s: rates[s][0] / rates[s][1])
        for setting in dict.fromkeys([fastest, "defaults"]):
            if setting in rates:
                rate, mine, _ = rates[setting]
                report("chats", "examples_per_second", mine, "1/s", "trl " + setting, rate,
                       mine / rate, 2.0 if setting == "defaults" else 1.35)
        peak = rates[fastest][2]
        report("chats", "peak_memory", before["peak_bytes"] / 2**20, "MiB", "trl " + fastest,
               peak / 2**20, before["peak_bytes"] / peak, 0.5, most=True)
        ours.close()

    def start(self):
        """Process start to the end of step 1 on 2 x 256 tokens."""
        mine, theirs = [], []
        with tempfile.TemporaryDirectory() as folder:
            data, run = os.path.join(folder, "data.jsonl"), os.path.join(folder, "run.json")
            with open(data, "w") as file:
                for _ in range(2):
                    file.write(json.dumps({"text": "one and two and " * 200}) + "\n")
            with open(run, "w") as file:
                json.dump({"version": 1, "model": {"path": self.model}, "threads": int(THREADS),
                           "precision": "fp32",
                           "dataset": {"training": [data], "max_seq_length": 256,
                                       "format": "text", "packing": False},
                           "batch": {"global": 2, "micro": 2}, "schedule": {"max_steps": 1}}, file)
            for _ in range(ROUNDS):
                mine.append(self.seconds_to_step([self.trainer, "--run", run]))
                peer = self.peer("dense", "lora", "2", "256")
                peer.read()
                peer.ask()
                theirs.append(time.perf_counter() - peer.started)
                peer.close()
        report("start", "seconds_to_step_1", statistics.median(mine), "s", "transformers+peft",
               statistics.median(theirs), median_ratio(mine, theirs), 0.333, most=True)

    def seconds_to_step(self, command):
        worker = Worker(command)
        while (event := worker.read()).get("event") != "step":
            if event.get("event") == "error":
                raise SystemExit(event)
        seconds = time.perf_counter() - worker.started
        while worker.process.stdout.readline():
            pass
        worker.close()
        return seconds

    def generate(self):
        ours = Worker([self.trainer, "--generate", "--model", self.model, "--weights", "bf16",
                       "--threads", THREADS])
        ours.read()
        peers = {kind: self.peer("generate", kind, PROMPT, str(NEW_TOKENS))
                 for kind in ("fp32", "bf16")}
        for peer in peers.values():
            peer.read()
            peer.ask()
        self.answer(ours)
        mine, theirs = [], {kind: [] for kind in peers}
        for _ in range(ROUNDS):
            mine.append(self.answer(ours))
            for kind, peer in peers.items():
                r = peer.ask()
                theirs[kind].append(r["tokens"] / r["seconds"])
        best = max(theirs, key=lambda kind: statistics.median(theirs[kind]))
        report("generate", "tokens_per_second", statistics.median(mine), "1/s",
               "transformers " + best, statistics.median(theirs[best]),
               median_ratio(mine, theirs[best]), 1.5)
        for worker in (ours, *peers.values()):
            worker.close()

    def memory(self):
        """What was estimated against the bytes of tensors, and against the resident set."""
        for kind, rows, length, again, optimizer in MEMORY:
            worker = self.ours("memory", kind, str(rows), str(length), again, optimizer)
            worker.read()
            worker.ask()
            r = worker.ask()
            name = f"memory_{kind}_{rows}x{length}_{again}_{optimizer}"
            for metric, real, estimated, bar in (
                    ("tensors", r["tensor_peak_bytes"], r["estimated_tensor_bytes"], 0.10),
                    ("resident", r["peak_bytes"], r["estimated_resident_bytes"], 0.15)):
                report(name, metric + "_off_estimate", real / 2**20, "MiB", "estimate",
                       estimated / 2**20, abs(estimated - real) / real, bar, most=True)
            worker.close()

    def answer(self, ours):
        """A greedy answer that does not end early: asked again until it is long enough."""
        reply = ours.ask(json.dumps({"id": "1", "prompt": PROMPT, "max_tokens": NEW_TOKENS}))
        while reply.get("event", reply.get("type")) == "token":
            reply = ours.read()
        return reply["tokens_per_second"]


PARTS = ["dense", "dense4", "all_weights", "chats", "start", "generate", "memory"]


def main(build, parts):
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    model = os.path.join(cache, "graft", "bench", "smollm2-135m-fp32")
    if not os.path.exists(os.path.join(model, "config.json")):
        subprocess.run([sys.executable, os.path.join(HERE, "peer.py"), "prepare", model], check=True,
                       stdout=sys.stderr)
    print(f"# load {os.getloadavg()[0]:.2f}, {THREADS} threads, fp32", flush=True)
    bench = Bench(build, model)
    for part in parts or PARTS:
        name, _, settings = part.partition("=")
        getattr(bench, name)(*([settings] if settings else []))
    print(f"# load {os.getloadavg()[0]:.2f}")
    print(f"{'bench':28} {'metric':20} {'ours':>10} {'peer':>10} {'ratio':>7} {'bar':>6}  peer is")
    for f in figures:
        print(f"{f['bench']:28} {f['metric']:20} {f['value']:10.2f} {f['peer_value']:10.2f} "
              f"{f['ratio']:7.3f} {f['bar']:6.3f}{'' if f['ok'] else ' !'} {f['peer']}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
