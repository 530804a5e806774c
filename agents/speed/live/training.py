"""A real training that is moved, shot at, scaled and saved: how long each of it stops it.

What is measured is what the training itself has written down: the time of every step of every
worker.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from agents.speed.live.workers import Opened, RealCluster
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.types import JobPriority, JobSpec

__all__ = ["Loss", "Stalls", "import_s", "lost_nodes", "moves_s", "save_shares", "scaled"]


_ROOT = Path(__file__).resolve().parents[3]
_PATIENCE_S = 180.0  # torch is imported by each worker, on a machine that may be busy
_LOOK_S = 0.005
_BEGUN = 20  # steps until a training is in its stride
_NEAR = 40  # steps on each side of a change, by which the usual step is known
_SAVED_MB = (3, 50)


# The script of the job: a small network, a line for every step.
_TRAIN = """
import json, os, sys, time
import torch
from torch import nn
from orchestrator.worker import DataOrder, Elastic
folder, steps, save_every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(1)
x = torch.randn(4096, 32)
y = torch.sin(x @ torch.randn(32, 1) / 6)
model = nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
file = open(f"{folder}/{os.environ['QUARTERMASTER_RUN']}-{os.environ['RANK']}.jsonl", "a")
def note(part):
    line = {"t": time.time(), "pid": os.getpid(), "step": part.step, "size": training.size,
            "generation": training.generation}
    file.write(json.dumps(line) + "\\n")
    file.flush()
training = Elastic(model, optimizer, DataOrder(4096, 64, seed=1), save_every=save_every,
                   after_step=note)
with training:
    for part in training.steps(steps):
        loss = nn.functional.mse_loss(model(x[part.indices]), y[part.indices])
        loss.backward()
        part.note(loss.detach())
        time.sleep(0.005)
"""


class _Training:
    """The job, and what it has written down."""

    def __init__(self, opened: Opened, save_every: int) -> None:
        self.opened, self._save_every = opened, save_every
        self.record = opened.folder / "record"
        self.record.mkdir()

    async def submit(self, workers: int = 1, most: int = 4) -> None:
        command = (sys.executable, "-c", _TRAIN, str(self.record), "1000000")
        spec = JobSpec(
            "train",
            "train",
            JobPriority.BATCH,
            workers,
            1,
            4.0,
            10.0,
            self._save_every,
            elastic=True,
            max_workers=most,
            preemptible=True,
            step_seconds=0.01,
            command=(*command, str(self._save_every)),
            environment=(("OMP_NUM_THREADS", "1"), ("PYTHONPATH", str(_ROOT))),
        )
        await self.opened.running.submit_job(spec)

    def lines(self, run: int, rank: int = 0) -> list[dict[str, Any]]:
        """Steps of a worker, as it has written them down so far."""
        path = self.record / f"{run}-{rank}.jsonl"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def runs(self) -> int:
        return self.opened.running.engine.runs_of("train")

    async def begun(self, run: int) -> dict[str, Any]:
        """The first step of a run, once it has done a few."""
        await _until(lambda: len(self.lines(run)) >= _BEGUN, f"run {run} has begun")
        return self.lines(run)[0]

    def place(self) -> str:
        """The node that it runs on."""
        return self.opened.running.engine.workers_of("train")[0].node_id


async def _until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            raise ConfigurationError(f"RealCluster: after {_PATIENCE_S:.0f} s not yet: {what}")
        await asyncio.sleep(_LOOK_S)


def import_s() -> float:
    """What importing torch and the worker library takes here and now, as every worker does."""
    begun_s = time.perf_counter()
    command = [sys.executable, "-c", "import torch; from orchestrator.worker import Elastic"]
    subprocess.run(command, cwd=_ROOT, check=True)
    return time.perf_counter() - begun_s


def _is(opened: Opened, node: str, code: NodeCode) -> bool:
    return opened.running.engine.nodes.code(node) == code


def moves_s(repeats: int) -> list[float]:
    """From draining a training's node to its first step on another one: saved, stopped, queued."""
    return asyncio.run(_moves_s(repeats))


async def _moves_s(repeats: int) -> list[float]:
    found = []
    async with RealCluster(2).opened() as opened:
        training = _Training(opened, save_every=0)
        await training.submit()
        await training.begun(1)
        for run in range(2, repeats + 2):
            node = training.place()
            spec = opened.running.nodes[node]
            begun_s = time.time()
            await opened.running.decommission_node(node)
            first = await training.begun(run)
            last = training.lines(run - 1)[-1]
            # It trains on while its checkpoint is written: these steps are done again.
            if not 0 < first["step"] <= last["step"] + 1 or training.place() == node:
                raise ConfigurationError(f"RealCluster: {last} was not resumed by {first}")
            found.append(first["t"] - begun_s)
            await opened.running.register_node(spec)
    return found


@dataclass(frozen=True)
class Loss:
    """A node that was lost: until that was known, and until its job worked again, seconds."""

    found_s: float
    resumed_s: float
    lost_steps: int


@cache
def lost_nodes(repeats: int) -> tuple[Loss, ...]:
    """Kill the agent of a training's node, again and again."""
    return tuple(asyncio.run(_lost_nodes(repeats)))


async def _lost_nodes(repeats: int) -> list[Loss]:
    found = []
    async with RealCluster(2).opened() as opened:
        training = _Training(opened, save_every=50)
        await training.submit()
        await training.begun(1)
        for run in range(2, repeats + 2):
            node = training.place()
            await _until(lambda: training.lines(training.runs)[-1]["step"] >= 60, "it has saved")
            begun_s = time.time()
            os.kill(opened.agents.pids[node], signal.SIGKILL)
            await _until(partial(_is, opened, node, NodeCode.DOWN), "its node is down")
            found_s = time.time() - begun_s
            first, last = await training.begun(run), training.lines(run - 1)[-1]
            if not 0 < first["step"] <= last["step"] + 1:
                raise ConfigurationError(f"RealCluster: {last} was not resumed by {first}")
            lost = last["step"] + 1 - first["step"]
            found.append(Loss(found_s, first["t"] - begun_s, lost))
            await opened.agents.kill(node)
            await opened.agents.add(node)
            await _until(partial(_is, opened, node, NodeCode.UP), "its node is back")
    return found


@dataclass(frozen=True)
class Stalls:
    """How much later than usual a survivor's next step came, ms: of each change of a kind."""

    grow: tuple[float, ...]
    shrink: tuple[float, ...]
    killed: tuple[float, ...]


@cache
def scaled(repeats: int) -> Stalls:
    """Scale a training by the orchestrator, 1 -> 3 -> 2, kill one; the same again."""
    return asyncio.run(_scaled(repeats))


async def _scaled(repeats: int) -> Stalls:
    found: dict[str, list[float]] = {"grow": [], "shrink": [], "killed": []}
    async with RealCluster(2).opened() as opened:
        training = _Training(opened, save_every=0)
        await training.submit(most=3)
        await training.begun(1)
        for _ in range(repeats):
            for kind, size in (("grow", 3), ("shrink", 2)):
                before = training.lines(1)[-1]["generation"]
                await opened.running.scale_job("train", size)
                found[kind].append(await _stall(training, before, size))
            before = training.lines(1)[-1]["generation"]
            others = [training.lines(1, rank)[-1:] for rank in range(1, 64)]
            alive = [x[0]["pid"] for x in others if x and x[0]["generation"] == before]
            os.kill(alive[0], signal.SIGKILL)
            found["killed"].append(await _stall(training, before, 1))
            await _until(lambda: training.lines(1)[-1]["size"] == 2, "another one has come")
            before = training.lines(1)[-1]["generation"]
            await opened.running.scale_job("train", 1)
            await _stall(training, before, 1)
    return Stalls(*(tuple(found[kind]) for kind in ("grow", "shrink", "killed")))


async def _stall(training: _Training, before: int, size: int) -> float:
    """The gap at the first change after a generation, less the usual step around it."""

    def after() -> list[dict[str, Any]]:
        return [x for x in training.lines(1) if x["generation"] > before]

    await _until(lambda: len(after()) >= _NEAR, f"a world of {size}")
    lines = training.lines(1)
    at = next(k for k, line in enumerate(lines) if line["generation"] > before)
    near = lines[max(at - _NEAR, 0) : at + _NEAR]
    usual_s = statistics.median(b["t"] - a["t"] for a, b in itertools.pairwise(near))
    return max(1e3 * (lines[at]["t"] - lines[at - 1]["t"] - usual_s), 0.0)


def save_shares(repeats: int) -> dict[int, list[float]]:
    """Stall of a training step as a share of its save's length, percent, by the state's MB."""
    import torch
    from torch import nn

    from orchestrator.worker import Checkpoints

    found: dict[int, list[float]] = {}
    for mb in _SAVED_MB:
        width = round((mb * 1e6 / 12) ** 0.5)  # AdamW keeps two numbers for each weight
        model = nn.Linear(width, width, bias=False)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.zeros(1, width)).sum().backward()
        optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder), model, optimizer)
            found[mb] = []
            for step in range(repeats + 1):
                save = checkpoints.save_async(step)
                save.result()
                checkpoints.wait()
                found[mb].append(100.0 * save.stall_s / save.total_s)
        found[mb] = found[mb][1:]  # the first one also allocates
    return found
