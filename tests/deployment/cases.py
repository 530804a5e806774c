"""A small crowded cluster in virtual time, and policies that do well, badly, or nothing at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from orchestrator.clock import VirtualClock
from orchestrator.deployment import Choice, Considered, DecisionLog, Guards, PolicyDeployment
from orchestrator.engine.snapshot import Snapshot
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import PlaceJob, Plan, Wait
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import RULES, RulePolicy
from orchestrator.types import JobPriority, JobSpec, NodeSpec

SHAPE = ClusterShape(envs=1, jobs=64, workers=4, nodes=8, devices=4)
FREE = Guards(deadline_ms=None, pairs=1000)


class Named:
    """A rule behind the interface of learned policies: it tells what it was shown."""

    def __init__(self, rule: str, digest: str = "0123") -> None:
        self.name, self.digest = rule, digest
        self._rule = RulePolicy(RULES[rule])
        self.asked = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        return self.consider(snapshot).plan

    def consider(self, snapshot: Snapshot) -> Considered:
        self.asked += 1
        seen = {"queue": np.array([len(snapshot.waiting())], np.float32)}
        choice = Choice(seen, np.arange(2), np.array([1.0, 0.5], np.float32), 0, (("first", 1.0),))
        return Considered(self._rule.plan(snapshot), (choice,))


class Slow(Named):
    """Answers when it is let go."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.gate = threading.Event()
        self.waits = False

    def consider(self, snapshot: Snapshot) -> Considered:
        if self.waits:
            self.gate.wait(10.0)
        return super().consider(snapshot)


class Failing(Named):
    """Raises an error, once it is in charge."""

    fails = False

    def consider(self, snapshot: Snapshot) -> Considered:
        if self.fails:
            raise ArithmeticError("a weight is not a number")
        return super().consider(snapshot)


class Illegal(Failing):
    """Places a job that is not there, after one that is."""

    def consider(self, snapshot: Snapshot) -> Considered:
        if not self.fails:
            return Considered(self._rule.plan(snapshot))
        first = snapshot.waiting()[0].job_id
        return Considered(Plan((PlaceJob(first), PlaceJob("job-that-is-not"))))


class Idle(Named):
    """Lets everybody wait while anything runs."""

    def consider(self, snapshot: Snapshot) -> Considered:
        if snapshot.running():
            return Considered(Plan((Wait(),)))
        return super().consider(snapshot)


class Cluster:
    """An orchestrator with a deployment, and jobs that arrive."""

    def __init__(
        self,
        load: Callable[[str], Policy],
        folder: Path | None = None,
        guards: Guards = FREE,
        rule: str = "fcfs",
        nodes: int = 2,
    ) -> None:
        self.clock = VirtualClock()
        self.log = DecisionLog(folder / "decisions.sqlite") if folder else None
        self.deployment = PolicyDeployment(
            RULES[rule], load, guards=guards, log=self.log, clock=self.clock, compare_share=1.0
        )
        names = [f"node-{n}" for n in range(nodes)]
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            policy=self.deployment,
            shape=SHAPE,
            nodes=[NodeSpec(name, 4, 80.0, 32, 256.0, 100.0, "NVLink") for name in names],
            schedule_on_events=True,
        )

    async def submit(self, count: int, seed: int = 0, first: int = 0) -> None:
        """Jobs of 1, 2 or 4 GPUs that run for minutes, a minute apart."""
        rng = np.random.default_rng(seed)
        for k in range(first, first + count):
            hours = float(rng.choice([0.05, 0.5, 2.0]))
            spec = JobSpec(
                f"job-{k}",
                "",
                JobPriority.BATCH,
                1,
                int(rng.choice([1, 2, 4])),
                1.0,
                checkpoint_interval_steps=600,
                duration_hours=hours,
                max_duration_hours=1.2 * hours,
            )
            await self.orchestrator.submit_job(spec)
            await self.clock.advance_to(self.clock.now_ms() + 60_000)
            self.deployment.drain()

    async def finish(self) -> None:
        """Let all jobs end."""
        await self.clock.run_until_idle()
        self.deployment.drain()


def settle(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something holds that another thread brings about."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)
