"""Real agents and workers, and what it takes to see what they do."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.clock import WallClock
from orchestrator.foundations import HeartbeatFaultDetector
from orchestrator.messages import Event, StartJob, WorkerPlacement
from orchestrator.ports import NodeHealth
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.types import JobPriority, JobSpec

PYTHON = (sys.executable, "-S", "-c")
"""An interpreter that starts soon."""


SPEAKER = """
import json, os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is to hear "stop"
line = socket.socket(socket.AF_UNIX)
line.connect(os.environ["QUARTERMASTER_CONTROL"])
me = {"job": os.environ["QUARTERMASTER_JOB_ID"], "run": int(os.environ["QUARTERMASTER_RUN"]),
      "rank": int(os.environ["RANK"])}
def say(what): line.sendall(json.dumps(what).encode() + b"\\n")
say({"hello": me})
def note(what): print(os.getpid(), os.environ["RANK"], json.dumps(what), flush=True)
note("hello")
for text in line.makefile():
    said = json.loads(text)
    note(said)
    if "save" in said and os.environ.get("CANNOT_SAVE"):
        say({"failed": said["save"], "reason": "the disk is full"})
    elif "save" in said:
        say({"saved": said["save"], "step": 7})
    elif "world" in said:
        say({"joined": said["world"]["generation"]})
        say({"progress": {"step": said["world"]["generation"], "fraction": 0.5}})
    elif "stop" in said:
        sys.exit(0)
"""
"""A worker that speaks the control protocol, and writes down what it hears."""


def alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Stage:
    """A runtime with local agents, and what it has reported."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.clock = folder, WallClock()
        self.options: dict[str, Any] = {"grace_s": 0.5, "lease_s": 30.0, **options}
        self.detector = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.health: list[NodeHealth] = []
        self.detector.subscribe(self.health.append)
        self.events: list[Event] = []
        self.agents_options: dict[str, Any] = {"beat_s": 0.05, "grace_s": 1.0}
        self.runtime = self.new_runtime()
        self.agents: LocalAgents | None = None

    def new_runtime(self, **options: Any) -> ProcessRuntime:
        return ProcessRuntime(self.clock, self.detector, **(self.options | options))

    async def open(self, *nodes: str) -> None:
        await self.runtime.open()
        self.runtime.bind(self.hear)
        self.agents = LocalAgents(
            self.runtime, nodes, self.folder / "agents", **self.agents_options
        )
        await self.agents.start()

    async def hear(self, event: Event) -> None:
        self.events.append(event)

    async def leave(self) -> None:
        """The orchestrator goes, and leaves no address that others could take."""
        self.options |= {"address": self.runtime.address, "token": self.runtime.token}
        await self.runtime.close()

    async def come_back(self, term: int = -1) -> None:
        self.runtime = self.new_runtime()
        self.runtime.fence(term, -1)
        await self.runtime.open()
        self.runtime.bind(self.hear)
        assert self.agents is not None
        self.agents.hand_over(self.runtime)

    async def close(self) -> None:
        if self.agents is not None:
            pids = list(self.agents.pids.values())
            await self.agents.stop()
            assert not [pid for pid in pids if alive(pid)]
        await self.runtime.close()

    def start(
        self,
        job: str,
        command: Sequence[str],
        places: Sequence[tuple[str, tuple[int, ...]]] = (("n0", (0,)),),
        run: int = 1,
        **fields: Any,
    ) -> StartJob:
        values: dict[str, Any] = {"memory_per_worker_gb": 4.0, **fields}
        spec = JobSpec(
            job_id=job,
            name=job,
            priority=JobPriority.BATCH,
            num_workers=len(places),
            gpus_per_worker=1,
            max_duration_hours=1.0,
            checkpoint_interval_steps=0,
            command=tuple(command),
            **values,
        )
        workers = tuple(WorkerPlacement(node, gpus) for node, gpus in places)
        return StartJob(job, run, spec, workers, 0, 0, 0)

    def log(self, job: str, worker: int = 0, node: str = "n0", run: int = 1) -> str:
        path = self.folder / "agents" / node / "jobs" / job / f"run-{run}" / f"rank-{worker}.log"
        return path.read_text() if path.exists() else ""


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something is true; there is nobody who could say when files are."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        await asyncio.sleep(0.01)
