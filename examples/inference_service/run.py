"""Serve a small model on two nodes while demand grows and falls, and one replica is killed.

    python examples/inference_service/run.py [--replicas 3] [--folder results/inference]

Replicas are processes: an autoscaler adds and removes them by the requests that come. Nobody who
asks gets an error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from serve import CLASSES, WIDTH, make_model
from torch import nn

from orchestrator import (
    InfrastructureOrchestrator,
    JobKind,
    JobPriority,
    JobSpec,
    NodeSpec,
    ServiceSpec,
    WallClock,
    in_memory,
)
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.workloads.serving import InferenceJobManager

REPLICA = Path(__file__).with_name("serve.py")
WORK_MS = 8.0
PLANNED_MS = 30.0
"""Of a request: more than it takes, so that one replica bears the rush until others are there."""
QUIET_RPS, BUSY_RPS = 10.0, 60.0
_NODES = ("n0", "n1")
_PATIENCE_S = 60.0  # importing torch takes seconds, of every replica


@dataclass
class Outcome:
    """What the clients have seen."""

    answers: Counter[int] = field(default_factory=Counter)  # by process
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)  # whenever they have become more or fewer


def make_model_file(path: Path) -> nn.Module:
    """Train the model a little, and write its file."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(1000, WIDTH)
    wanted = x[:, :CLASSES].argmax(dim=1)
    for _ in range(100):
        nn.functional.cross_entropy(model(x), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), path)
    return model


class Service:
    """The cluster, the service on it, and its clients."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most, self.outcome = folder, most, Outcome()
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        model = make_model_file(folder / "model.pt")
        self.inputs = torch.randn(64, WIDTH)
        with torch.inference_mode():
            self.labels = model(self.inputs).argmax(dim=1).tolist()

    async def play(self, seconds: float) -> Outcome:
        """Quiet, busy, a kill while busy, and quiet again."""
        clock = WallClock()
        parts = in_memory(clock)
        runtime = ProcessRuntime(clock, parts.fault_detector, grace_s=5.0)
        nodes = [NodeSpec(name, 2, 16.0, 8, 64.0, 10.0, "PCIe") for name in _NODES]
        self.orchestrator = InfrastructureOrchestrator(
            *parts, clock=clock, runtime=runtime, nodes=nodes, schedule_on_events=True
        )
        self.manager = InferenceJobManager(self.orchestrator, down_window_s=seconds)
        self.orchestrator.manage(self.manager)
        await runtime.open()
        agents = LocalAgents(runtime, _NODES, self.folder / "agents")
        try:
            await agents.start()
            await self.orchestrator.start()
            await self._deploy()
            await self._until(lambda: self._well() == 1)
            await self._ask_for(seconds, QUIET_RPS, lambda: True)
            await self._ask_for(seconds, BUSY_RPS, lambda: self._well() == self.most)
            victim = next(iter(self.outcome.answers))
            os.kill(victim, signal.SIGKILL)
            await self._ask_for(seconds, BUSY_RPS, lambda: self._well() == self.most)
            await self._ask_for(seconds, QUIET_RPS, lambda: self._well() == 1)
        finally:
            await agents.stop()
            await runtime.close()
        return self.outcome

    async def _deploy(self) -> None:
        command = (sys.executable, str(REPLICA), f"--model={self.folder / 'model.pt'}")
        spec = JobSpec(
            job_id="classifier",
            name="classifier",
            priority=JobPriority.PRODUCTION,
            num_workers=1,
            gpus_per_worker=1,
            memory_per_worker_gb=4.0,
            max_duration_hours=1000.0,
            checkpoint_interval_steps=0,
            elastic=True,
            max_workers=self.most,
            kind=JobKind.SERVICE,
            command=(*command, f"--work-ms={WORK_MS}"),
            environment={
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(REPLICA.resolve().parents[2]),
            },
        )
        rules = ServiceSpec("classifier", PLANNED_MS, max_replicas=self.most)
        await self.manager.deploy(spec, rules)

    def _well(self) -> int:
        """Replicas that answer."""
        there = self.orchestrator.get_cluster_status()["services"]["classifier"]["urls"]
        if not self.outcome.replicas or self.outcome.replicas[-1] != len(there):
            self.outcome.replicas.append(len(there))
        return len(there)

    async def _until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self._well()} replicas after {_PATIENCE_S:g} s")
            await asyncio.sleep(0.05)

    async def _ask_for(self, seconds: float, rate_rps: float, reached: Callable[[], bool]) -> None:
        """Requests at a rate, each by a client of its own; the autoscaler looks every second.

        For so long at least, and until something is reached.
        """
        begun_s, asked, looked_s = time.monotonic(), 0, time.monotonic()
        clients = set()
        while (now_s := time.monotonic()) < begun_s + seconds or not reached():
            if now_s > begun_s + _PATIENCE_S:
                raise TimeoutError(f"{self._well()} replicas after {_PATIENCE_S:g} s")
            while asked < (now_s - begun_s) * rate_rps:
                clients.add(asyncio.create_task(self._ask(asked)))
                asked += 1
            if now_s > looked_s + 1.0:
                looked_s = now_s
                await self.orchestrator.auto_scale_cluster()
            await asyncio.sleep(0.005)
        await asyncio.gather(*clients)

    async def _ask(self, number: int) -> None:
        item = number % len(self.labels)
        begun_s = time.perf_counter()
        try:
            given = self.inputs[item : item + 1].tolist()
            answer = await self.orchestrator.route_request("classifier", given)
        except Exception as error:
            self.outcome.errors.append(repr(error))
            return
        self.outcome.times_ms.append(1e3 * (time.perf_counter() - begun_s))
        self.outcome.answers[answer["pid"]] += 1
        self.outcome.wrong += answer["labels"] != [self.labels[item]]


def main() -> None:
    """Run it, and print what came out."""
    parser = argparse.ArgumentParser(description="An inference service that is scaled and shot at.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each part, at least")
    parser.add_argument("--replicas", type=int, default=3, help="at most")
    parser.add_argument("--folder", type=Path, help="for logs; else they are thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        service = Service(options.folder or Path(scratch), options.replicas)
        outcome = asyncio.run(service.play(options.seconds))
    times = outcome.times_ms
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"{len(times)} requests: median {statistics.median(times):.1f} ms, p95 {p95:.1f} ms")
    print(f"replicas: {' > '.join(str(count) for count in outcome.replicas)}")
    print(f"answered by {len(outcome.answers)} processes: {sorted(outcome.answers.values())}")
    print(f"{outcome.wrong} wrong answers, {len(outcome.errors)} errors")
    print("\n".join(sorted(set(outcome.errors))))
    if outcome.wrong or outcome.errors or max(outcome.replicas) < options.replicas:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
