"""What the platform costs beside the trainer: platform_bench.py BIN_DIR SOURCE_DIR

Starts all daemons in a folder of its own, with the true trainer and a tiny model, and measures
  - commands of the CLI that read, as whole processes (bar: 50 ms),
  - the daemons' memory at rest, shared pages counted once (bar: 150 MB),
  - create to first step, less what the trainer takes to load by hand (bar: 1.5 s),
  - the steps of a run, against the same run by hand, in turns (bar: 3 %).

Ceilings: a command is one process start (2 ms), TLS over loopback and one token exchange (about 8 ms);
an idle RocksDB and gRPC server is about 30 MB; a start is one validation pass, one placement and two
process starts.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

bin_folder, source = sys.argv[1:]
work = tempfile.mkdtemp()
home = os.path.join(work, "home")
environment = dict(os.environ, GRAFT_HOME=home, GRAFT_CONFIG=os.path.join(work, "contexts.json"), NO_COLOR="1")
GRAFT = os.path.join(bin_folder, "graft")
READS = ["job list", "job get steps", "job metrics steps", "job logs steps", "job explain steps",
         "model list", "model get tiny", "adapter list tiny", "dataset list", "fileset files tickets", "node list",
         "queue list", "workspace list", "token whoami", "top --once", "usage", "job compare steps start"]
CREATE_RUNS = 5
PAIRS = int(os.environ.get("GRAFT_BENCH_PAIRS", "5"))
STEPS = 120  # about half a minute: what a run differs by itself is a few percent of six seconds
failed = False


def graft(command, **options):
    return subprocess.run([GRAFT] + command.split(), env=environment, check=True, capture_output=True, text=True,
                          **options).stdout


def tell(metric, value, unit, bar, peer="", peer_value=0.0, less_is_better=True):
    global failed
    ok = value <= bar if less_is_better else value >= bar
    failed = failed or not ok
    print(json.dumps({"bench": "e2e.platform", "metric": metric, "value": round(value, 3), "unit": unit, "peer": peer,
                      "peer_value": round(peer_value, 3), "ratio": round(value / bar, 3), "bar": bar, "ok": ok}),
          flush=True)


def job(name):
    return json.loads(graft(f"job get {name} -o json"))


def wait(name):
    graft(f"job wait {name}")
    return job(name)


def seconds(stamp):
    whole, fraction = re.match(r"(.*?)(\.\d+)?Z", stamp).groups()
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(fraction or 0)


def reached(result, state):
    return next(seconds(change["time"]) for change in result["status"]["history"] if change["state"] == state)


def read_commands():
    for command in READS:
        times = []
        for _ in range(7):
            begin = time.monotonic()
            graft(command)
            times.append((time.monotonic() - begin) * 1000)
        tell(f"graft {command}", statistics.median(times), "ms", 50)


def memory_at_rest():
    state = json.load(open(os.path.join(home, "state.json")))
    total = 0
    for pid in [state["supervisor"], *state["daemons"].values()]:
        rollup = open(f"/proc/{pid}/smaps_rollup").read()
        total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1)) / 1000
    tell("memory of all daemons", total, "MB", 150)


def lora(name, steps, extra=""):
    graft(f"lora tiny tickets --name {name} --max-steps {steps} --max-seq-length 512 --seed 7 "
          f"--set evaluation.report=false --set schedule.epochs=10 {extra}")


def run_file():
    """The run file of an attempt, caught while it runs, its inputs beside it in the worker's cache."""
    attempts = os.path.join(home, "worker", "attempts")
    while True:
        for folder in os.listdir(attempts):
            try:
                return json.load(open(os.path.join(attempts, folder, "run-0.json")))
            except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
                pass
        time.sleep(0.02)


def by_hand(config):
    """Seconds from the start to the run event, and from there to the last step."""
    folder = tempfile.mkdtemp(dir=work)
    config = json.loads(json.dumps(config))
    config["output"]["folder"] = folder + "/output"
    config["checkpoint"]["folder"] = folder + "/checkpoints"
    path = folder + "/run.json"
    json.dump(config, open(path, "w"))
    begin = time.monotonic()
    process = subprocess.Popen([os.path.join(bin_folder, "graft-trainer"), "--run", path], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, env={"PATH": "/usr/bin:/bin"})
    loaded = last = None
    for line in process.stdout:
        event = json.loads(line)
        now = time.monotonic()
        if event.get("event") == "run":
            loaded = now
        if event.get("event") == "step":
            last = now
    process.wait()
    return loaded - begin, last - loaded


def by_platform(name):
    """Seconds from the attempt's first step on to its last."""
    lora(name, STEPS)
    config = run_file()
    result = wait(name)
    last = seconds(result["status"]["progress"]["last_step_time"])
    return config, last - reached(result, "JOB_STATE_RUNNING")


def start_and_steps():
    config, _ = by_platform("steps")  # what both read is in the page cache now
    lora("start", 2)
    wait("start")
    load = statistics.median(by_hand(dict(config, schedule=dict(config["schedule"], max_steps=2)))[0]
                             for _ in range(3))
    creates = []
    for run in range(CREATE_RUNS):
        begin = time.time()
        lora(f"create{run}", 2)
        creates.append(reached(wait(f"create{run}"), "JOB_STATE_RUNNING") - begin - load)
    tell("create to first step, less the trainer's loading", statistics.median(creates), "s", 1.5,
         "graft-trainer loads", load)
    hands, platforms = [], []
    for pair in range(PAIRS):
        measures = [lambda: hands.append(by_hand(config)[1]),
                    lambda: platforms.append(by_platform(f"pair{pair}")[1])]
        for measure in measures if pair % 2 == 0 else reversed(measures):
            measure()
    over = [100 * (platform / hand - 1) for platform, hand in zip(platforms, hands)]
    print("run time over the trainer's, each pair: " + ", ".join(f"{percent:+.1f} %" for percent in over), flush=True)
    tell("run time over the trainer's by hand", statistics.median(over), "%", 3, "by hand, s",
         statistics.median(hands))


os.environ["TZ"] = environment["TZ"] = "UTC"
time.tzset()
try:
    graft("up")
    graft(f"model import tiny --from {source}/tests/e2e/tiny_llama")
    graft(f"dataset upload tickets {source}/worker/data/samples/support_tickets")
    start_and_steps()
    read_commands()
    time.sleep(2)  # what the last job has left in caches goes
    memory_at_rest()
finally:
    subprocess.run([GRAFT, "down"], env=environment, capture_output=True)
    shutil.rmtree(work, ignore_errors=True)
sys.exit(1 if failed else 0)
