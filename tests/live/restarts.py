"""A world that outlives orchestrators: each is killed where a test says, and another one made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator import ClusterShape, InfrastructureOrchestrator, VirtualClock
from orchestrator.errors import QuartermasterError
from orchestrator.foundations import (
    HashShardManager,
    HeartbeatFaultDetector,
    InMemoryCheckpoints,
    InMemoryConsensus,
)
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import (
    Cancel,
    Command,
    Decommission,
    Effect,
    Entry,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    ReleaseNode,
    Scale,
    StartJob,
    StopJob,
    StopReason,
    Submit,
    Undrain,
    WorkerExited,
)
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.types import JobKind, JobPriority
from tests.engine.builders import HOUR_MS, MINUTE_MS, job, node
from tests.engine.mortal import Mortal

SHAPE = ClusterShape(envs=1, jobs=40, workers=8, nodes=6, devices=8)


class Killed(BaseException):
    """The orchestrator's process ends here."""


class Fate:
    """Counts the places at which a process may end, and says at which it does."""

    def __init__(self, *ends: int) -> None:
        self.ends = set(ends)
        self.passed = 0
        self.deaths = 0

    def pass_by(self) -> None:
        """Come by a place at which the process may end."""
        self.passed += 1
        if self.passed in self.ends:
            self.deaths += 1
            raise Killed


class _Logged:
    """The process may end before an entry is written, and before its answer comes."""

    fate: Fate
    bodies: list[object]  # of all entries, those that were cut off included

    async def append(self, entry: Entry) -> int:
        self.fate.pass_by()
        index: int = await super().append(entry)
        self.bodies.append(entry.body)
        self.fate.pass_by()
        return index


class Log(_Logged, InMemoryConsensus):
    """In memory, it outlives the process."""

    def __init__(self, fate: Fate, capacity: int) -> None:
        super().__init__(capacity)
        self.fate, self.bodies = fate, []


class FileLog(_Logged, SQLiteLog):
    """In a file, which the next process opens."""

    def __init__(self, fate: Fate, capacity: int, path: Path) -> None:
        super().__init__(path, cut_every=max(capacity // 2, 1))
        self.fate, self.bodies = fate, []


class Workers(SimulatedRuntime):
    """The process may end before and after each effect. It keeps account of what it did."""

    def __init__(self, clock: VirtualClock, fate: Fate) -> None:
        super().__init__(clock)
        self._fate = fate
        self.done: list[Effect] = []
        self.starts: Counter[tuple[str, int]] = Counter()

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._fate.pass_by()
            if isinstance(effect, StartJob) and self.observe().get(effect.job_id) != effect.run:
                self.starts[effect.job_id, effect.run] += 1
            super().carry_out([effect])
            if effect not in self.done:
                self.done.append(effect)
            self._fate.pass_by()


@dataclass(frozen=True)
class Deed:
    """What somebody does at a time: a command, or workers that are lost (a job's id)."""

    time_ms: int
    what: Command | str


def draw_day(seed: int) -> list[Deed]:
    """Jobs of all classes, and everything that can happen to them."""
    rng = np.random.default_rng(seed)
    deeds: list[Deed] = []
    now_ms, names = 0, list[str]()
    for k in range(12):
        now_ms += int(rng.integers(1, 40 * MINUTE_MS))
        elastic = bool(rng.integers(2))
        workers = int(rng.integers(1, 3))
        fields: dict[str, Any] = {
            "priority": JobPriority(int(rng.integers(4))),
            "num_workers": workers,
            "gpus_per_worker": int(rng.choice([1, 2, 4])),
            "duration_hours": float(rng.integers(10 * MINUTE_MS, 3 * HOUR_MS)) / HOUR_MS,
            "max_duration_hours": 4.0,
            "checkpoint_seconds": float(rng.choice([0.0, 5.0, 31.0])),
        }
        if elastic:
            fields |= {"elastic": True, "min_workers": 1, "max_workers": 4}
        if k == 3:
            fields |= {"kind": JobKind.SERVICE, "priority": JobPriority.CRITICAL}
        names.append(f"j{k}")
        deeds.append(Deed(now_ms, Submit(job(f"j{k}", **fields))))
        deeds += _mishaps(rng, now_ms, names, k)
    late = np.random.default_rng([seed, 1])
    for name in late.choice(names, 3, replace=False):
        deeds.append(Deed(int(late.integers(MINUTE_MS, now_ms)), Cancel(str(name), "not wanted")))
    for k in (4, 10):
        deeds.append(Deed(int(late.integers(MINUTE_MS, now_ms + HOUR_MS)), Undrain(f"x{k}")))
    return sorted(deeds, key=lambda deed: deed.time_ms)


def _mishaps(rng: np.random.Generator, now_ms: int, names: list[str], k: int) -> list[Deed]:
    found = []
    for what in (
        Preempt(str(rng.choice(names)), "asked for"),
        Scale(str(rng.choice(names)), int(rng.integers(1, 5))),
        str(rng.choice(names)),
    ):
        if rng.random() < 0.5:
            found.append(Deed(now_ms + int(rng.integers(1, HOUR_MS)), what))
    name = f"n{int(rng.integers(3))}"
    if k % 4 == 1:
        failed_ms = now_ms + int(rng.integers(1, HOUR_MS))
        seen_ms = failed_ms - int(rng.integers(0, 2 * MINUTE_MS))
        found.append(Deed(failed_ms, NodeFailed(name, seen_ms)))
        found.append(Deed(failed_ms + int(rng.integers(1, HOUR_MS)), NodeRecovered(name)))
    if k % 6 == 4:
        found.append(Deed(now_ms + int(rng.integers(1, HOUR_MS)), Register(node(f"x{k}"))))
        found.append(Deed(now_ms + HOUR_MS, Decommission(f"x{k}", bool(rng.integers(2)))))
    return found


class World:
    """Log, workers and checkpoints; and the orchestrator that is alive."""

    def __init__(
        self,
        *ends: int,
        capacity: int = 1_000_000,
        down_ms: int = 0,
        check: bool = True,
        path: Path | None = None,
    ) -> None:
        self.clock, self.fate = VirtualClock(), Fate(*ends)
        self._capacity, self._path = capacity, path
        self.log: Log | FileLog = (
            FileLog(self.fate, capacity, path) if path else Log(self.fate, capacity)
        )
        self.store = InMemoryCheckpoints()
        self.workers = Workers(self.clock, self.fate)
        self._down_ms, self._check = down_ms, check
        self.begin()

    def begin(self) -> None:
        """Make an orchestrator on what there is."""
        if self._path is not None and isinstance(self.log, FileLog):
            self.log.close()
            bodies = self.log.bodies
            self.log = FileLog(self.fate, self._capacity, self._path)
            self.log.bodies = bodies
        self._mortal = Mortal(self.clock)
        self.cluster = InfrastructureOrchestrator(
            self.log,
            HashShardManager(),
            HeartbeatFaultDetector(self._mortal),
            self.store,
            clock=self._mortal,
            runtime=self.workers,
            shape=SHAPE,
            nodes=[node(f"n{k}") for k in range(3)],
            schedule_on_events=True,
            check=self._check,
        )

    async def survive(self, act: Callable[[], Awaitable[object]]) -> bool:
        """Do something; whether the orchestrator has survived it. If not, there is another one."""
        try:
            await act()
        except Killed:
            self._mortal.alive = False
            self.workers.bind(_nobody)
            await self.clock.advance_to(self.clock.now_ms() + self._down_ms)
            self.begin()
            while not await self.survive(lambda: self.cluster.start()):
                pass
            return False
        return True

    async def do(self, what: Command | str) -> None:
        """Do a deed, again if the orchestrator died and the log does not know of it."""
        known = len(self.log.bodies)
        while what not in self.log.bodies[known:]:
            if await self.survive(lambda: self._try(what)):
                return

    async def _try(self, what: Command | str) -> None:
        if isinstance(what, str):
            self.workers.lose(what)
            return
        try:
            await self.cluster._propose(what)
            if isinstance(what, Submit):
                self.cluster._replicas.declare(what.spec)
            await self.cluster._cycle.react()
        except QuartermasterError:
            return  # it has ended, or was never there

    async def wait_until(self, time_ms: int) -> None:
        """Let time pass."""
        while not await self.survive(lambda: self.clock.advance_to(time_ms)):
            pass

    async def live_through(self, deeds: Sequence[Deed]) -> None:
        """A day, and as long as it takes until all jobs have ended."""
        for deed in deeds:
            await self.wait_until(deed.time_ms)
            await self.do(deed.what)
        await self.wait_until(self.clock.now_ms() + 100 * HOUR_MS)

    def carried_out(self) -> dict[str, list[Effect]]:
        """What was done to each job and node, in order, each thing once.

        But for workers that have ended, whose runtime does not know that this is known.
        """
        found: dict[str, list[Effect]] = {}
        for effect in self.workers.done:
            if isinstance(effect, StopJob) and effect.reason == StopReason.UNEXPECTED:
                assert WorkerExited(effect.job_id, effect.run) in self.log.bodies
                continue
            subject = effect.node_id if isinstance(effect, ReleaseNode) else effect.job_id
            found.setdefault(subject, []).append(effect)
        return found

    def states(self) -> dict[str, str]:
        """States of all jobs."""
        cluster = self.cluster
        return {name: str(cluster.get_job_status(name)["state"]) for name in cluster.jobs}


async def _nobody(event: object) -> bool:
    return False
