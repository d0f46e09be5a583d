"""A run of graft-trainer from Python."""
import json
import os
import subprocess


def run_trainer(trainer, run, folder):
    """The events of `run`, the contents of a run.json that is written into `folder`. An error of the
    run is raised."""
    path = os.path.join(folder, "run.json")
    with open(path, "w") as file:
        json.dump(run, file)
    result = subprocess.run([trainer, "--run", path], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    errors = [e["message"] for e in events if e["event"] == "error"]
    if errors or not events:
        raise RuntimeError("; ".join(errors) or result.stderr[-1000:])
    return events
