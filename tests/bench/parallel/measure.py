"""Two ranks with a thread each against one rank with a thread, on bench-135m with LoRA r=16.

  measure.py BUILD_DIR [ceiling] [dp] [tp] [pp] [gloo] [exchange] [memory]

Prints one JSON line a figure and a table. Speed: tokens/s of the timed steps behind one warm-up
step. `ceiling`: two runs of one rank at once, which share nothing but the machine: what two cores
can give at the most. `gloo`: the same layouts without shared memory. `exchange`: collectives of
tensor parallelism's size over either transport, and the bare copies that they are made of. Memory:
the peak of resident bytes of the fullest rank against what worker/spec estimates for it, whose
share for the process itself (kCpuResidentExtraBytes) is counted in.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile

BUILD = sys.argv[1]
PARTS = sys.argv[2:] or ["ceiling", "dp", "tp", "pp", "exchange", "memory"]
SEQUENCE, MICRO = 256, 2
figures = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def step_tokens(micros, **layout):
    return MICRO * SEQUENCE * micros * layout.get("dp", 1)


def start(folder, micros, steps, kind="lora", **layout):
    """Starts the processes of a run."""
    world = 1
    for axis in ("tp", "pp", "dp"):
        world *= layout.get(axis, 1)
    share = layout.get("dp", 1)
    address = f"127.0.0.1:{free_port()}"
    ranks = []
    for rank in range(world):
        config = {
            "model": {"path": folder},
            "dataset": {"training": [f"{folder}/rows.jsonl"], "format": "text", "packing": False,
                        "loss_on": "all", "max_seq_length": SEQUENCE},
            "tuning": {"kind": kind, "rank": 16},
            "schedule": {"max_steps": steps, "epochs": 0},
            "batch": {"global": MICRO * micros * share, "micro": MICRO},
            "parallelism": dict(layout, world=world, rank=rank, rendezvous=address),
            "threads": 1, "seed": 1, "precision": "fp32",
        }
        path = f"{folder}/run-{address}-{rank}.json"
        with open(path, "w") as f:
            json.dump(config, f)
        env = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        ranks.append(subprocess.Popen([f"{BUILD}/bin/graft-trainer", "--run", path],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
                                      stdin=subprocess.DEVNULL, text=True))
    return ranks


def finish(ranks, tokens):
    """The step events of every rank; every step has so many tokens, or the ranks' work differs."""
    outputs = [process.communicate()[0] for process in ranks]
    steps = []
    for output in outputs:
        events = [json.loads(line) for line in output.splitlines()]
        if not events or events[-1]["event"] != "done":
            raise SystemExit(f"{ranks[0].args}: {events[-1:]}")
        steps.append([e for e in events if e["event"] == "step"])
        if any(e["tokens"] != tokens for e in steps[-1]):
            raise SystemExit(f"steps of {[e['tokens'] for e in steps[-1]]} tokens, not {tokens}")
    return steps


def run(folder, micros, steps, kind="lora", **layout):
    return finish(start(folder, micros, steps, kind, **layout), step_tokens(micros, **layout))


def speed(ranks):
    timed = ranks[0][1:]
    return sum(e["tokens"] for e in timed) / sum(e["seconds"] for e in timed)


def report(metric, value, base, bar):
    ratio = value / base
    figure = dict(bench="parallel", metric=metric, value=round(value, 1), unit="tokens/s",
                  peer="one rank, one thread", peer_value=round(base, 1), ratio=round(ratio, 3),
                  bar=bar, ok=ratio >= bar)
    figures.append(figure)
    print(json.dumps(figure), flush=True)


def where(ranks):
    """Of rank 0's mean timed step: what it computed, what it waited for."""
    timed = ranks[0][1:]
    mean = {k: sum(e.get(k, 0) for e in timed) / len(timed)
            for k in ("seconds", "forward_seconds", "backward_seconds", "communication_seconds",
                      "idle_seconds", "optimizer_seconds")}
    print("  " + ", ".join(f"{k.replace('_seconds', '')} {v:.3f}" for k, v in mean.items())
          + " s a step", flush=True)


def pair(folder):
    """Two runs of one rank at once: tokens/s of both together."""
    started = [start(folder, 1, 4), start(folder, 1, 4)]
    return sum(speed(finish(ranks, step_tokens(1))) for ranks in started)


def layouts(folder, axes, **also):
    """Two ranks by each axis against one. Where a step is one pass, one rank runs before them and
    behind them, and the better run counts."""
    name = " over gloo" if also else ""
    bars = {"dp": 1.7, "tp": 1.3, "pp": 1.5}
    one_pass = [axis for axis in ("dp", "tp") if axis in axes]
    if one_pass or "ceiling" in axes:
        alone = speed(run(folder, 1, 4))
        both = pair(folder) if "ceiling" in axes else None
        runs = {axis: run(folder, 1, 4, **{axis: 2}, **also) for axis in one_pass}
        alone = max(alone, speed(run(folder, 1, 4)))
        if both is not None:
            report("two runs of one rank at once", both, alone, 0)
        for axis, ranks in runs.items():
            report(f"{axis}=2{name}", speed(ranks), alone, bars[axis])
            where(ranks)
    if "pp" in axes:
        alone = speed(run(folder, 8, 2))
        ranks = run(folder, 8, 2, pp=2, **also)
        report(f"pp=2{name}, 8 micro-batches", speed(ranks), alone, bars["pp"])
        where(ranks)


def memory(folder, kind, micros, **layout):
    ranks = run(folder, micros, 2, kind, **layout)
    peak = max(e["peak_memory_bytes"] for steps in ranks for e in steps)
    world = layout.get("dp", 1)
    numbers = [layout.get(axis, 1) for axis in ("tp", "pp", "dp")] + [layout.get("zero", 0)]
    command = [f"{BUILD}/bin/parallel_bench_model", "--estimate", *map(str, numbers), kind,
               str(MICRO), str(MICRO * micros * world)]
    estimate = int(subprocess.check_output(command))
    ratio = peak / estimate
    name = " ".join(f"{k}={v}" for k, v in layout.items())
    figure = dict(bench="parallel", metric=f"memory {kind} {name}", value=round(peak / 2**20, 1),
                  unit="MiB", peer="estimate", peer_value=round(estimate / 2**20, 1),
                  ratio=round(ratio, 3), bar=1.1, ok=0.9 <= ratio <= 1.1)
    figures.append(figure)
    print(json.dumps(figure), flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.check_call([f"{BUILD}/bin/parallel_bench_model", folder])
        layouts(folder, PARTS)
        if "gloo" in PARTS:
            layouts(folder, set(PARTS) - {"ceiling"}, shared_memory=False)
        if "exchange" in PARTS:
            subprocess.check_call([f"{BUILD}/bin/parallel_exchange_bench"])
        if "memory" in PARTS:
            memory(folder, "lora", 2, tp=2)
            memory(folder, "lora", 2, pp=2)
            memory(folder, "all_weights", 1, tp=2)
            memory(folder, "all_weights", 1, dp=2, zero=1)
            memory(folder, "all_weights", 1, dp=2, zero=3)
    print(f"\n{'metric':32} {'value':>9} {'unit':9} {'against':>9} {'ratio':>6} {'bar':>5}  ok")
    for f in figures:
        print(f"{f['metric']:32} {f['value']:9} {f['unit']:9} {f['peer_value']:9} {f['ratio']:6} "
              f"{f['bar']:5}  {f['ok']}")
    print(f"load: {os.getloadavg()[0]:.2f}")
    sys.exit(any(not f["ok"] for f in figures))


main()
