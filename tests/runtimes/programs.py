"""What jobs run in tests: a training that saves, and a replica of a service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from orchestrator import JobKind, JobPriority
from tests.examples.load import ROOT
from tests.runtimes.stage import PYTHON

_TRAINER = """
import json, os, socket, sys
said, last = sys.argv[1], int(sys.argv[2])
e = os.environ
job, run, rank = e["QUARTERMASTER_JOB_ID"], int(e["QUARTERMASTER_RUN"]), int(e["RANK"])
path = e["QUARTERMASTER_CHECKPOINT_DIR"] + "/rank-" + str(rank)
step = int(open(path).read()) if os.path.exists(path) else 0
def save():
    with open(path + ".new", "w") as file: file.write(str(step))
    os.replace(path + ".new", path)
me = {"job": job, "run": run, "rank": rank, "pid": os.getpid(), "from": step,
      "gpus": e["CUDA_VISIBLE_DEVICES"], "size": int(e["WORLD_SIZE"]),
      "node": os.getcwd().split("/agents/")[1].split("/")[0]}
def note():
    with open(f"{said}/{job}-{run}-{rank}.new", "w") as file: json.dump(me, file)
    os.replace(f"{said}/{job}-{run}-{rank}.new", f"{said}/{job}-{run}-{rank}.training")
line = socket.socket(socket.AF_UNIX)
line.connect(e["QUARTERMASTER_CONTROL"])
def say(what): line.sendall(json.dumps(what).encode() + b"\\n")
say({"hello": {"job": job, "run": run, "rank": rank}})
note()
line.settimeout(0.01)
rest = b""
while step < last:
    try:
        data = line.recv(4096)
    except TimeoutError:
        step += 1
        say({"progress": {"step": step, "fraction": step / last}})
        if step % 10 == 0: save()
        continue
    if not data: sys.exit(1)
    *lines, rest = (rest + data).split(b"\\n")
    for heard in map(json.loads, lines):
        if "save" in heard:
            save()
            say({"saved": heard["save"], "step": step})
            line.settimeout(None)
        elif "stop" in heard:
            sys.exit(0)
        elif "world" in heard:
            say({"joined": heard["world"]["generation"]})
            me["size"] = heard["world"]["size"]
            note()
            if heard["world"]["rank"] is None: sys.exit(0)
"""

_REPLICA = """
import os, time
from orchestrator.errors import RequestRejectedError
from orchestrator.worker.inference.server import InferenceServer
def predict(given):
    if given == "junk": raise RequestRejectedError("it is junk; ask for something else")
    time.sleep(given.get("ms", 0) / 1e3)
    return {"pid": os.getpid(), "doubled": 2 * given["x"]}
InferenceServer(predict, threads=4).serve()
"""


def training(said: Path, steps: int, **fields: Any) -> dict[str, Any]:
    """A job of so many steps of 10 ms, saved at every tenth; each rank by itself."""
    return {"command": (*PYTHON, _TRAINER, str(said), str(steps))} | fields


def trained(said: Path, job: str, run: int = 0) -> list[dict[str, Any]]:
    """What the workers of a training have written: who they are, and from which step on."""
    found = [json.loads(path.read_text()) for path in sorted(said.glob(f"{job}-*.training"))]
    return [x for x in found if run in (0, x["run"])]


def service(**fields: Any) -> dict[str, Any]:
    """A job whose workers double what they are asked."""
    values = {
        "command": (sys.executable, "-c", _REPLICA),
        "environment": {"PYTHONPATH": str(ROOT)},
        "kind": JobKind.SERVICE,
        "priority": JobPriority.PRODUCTION,
        "elastic": True,
        "max_workers": 4,
        "max_duration_hours": 1000.0,
    }
    return values | fields
