"""A schedule of misfortunes, drawn from a seed, and a cluster that lives through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator import ClusterShape, InfrastructureOrchestrator, NotLeaderError, VirtualClock
from orchestrator.errors import QuartermasterError, UnknownEntityError, ValidationError
from orchestrator.foundations import (
    HashShardManager,
    InMemoryCheckpoints,
    InMemoryConsensus,
    PhiAccrualFaultDetector,
)
from orchestrator.messages import Entry
from orchestrator.types import JobPriority, JobSpec
from tests.chaos.machines import Chances, Machines
from tests.engine.builders import HOUR_MS, MINUTE_MS, job, node
from tests.engine.mortal import Mortal
from tests.live.restarts import Killed

_SHAPE = ClusterShape(envs=1, jobs=40, workers=8, nodes=6, devices=8)
_NODES = 4
_DETECTOR_MS = 10_000
_LEASE_MS = 6000
_MISHAPS = ("kill", "cut", "blink", "back", "preempt", "scale", "doom", "rival")


class Log(InMemoryConsensus):
    """A log whose appends fail, before or after they wrote, and at which a process may end."""

    def __init__(self, world: World) -> None:
        super().__init__(capacity=60 if world.rng.random() < 0.5 else 1_000_000)
        self._world = world
        self.written: list[Entry] = []  # those that were cut off included

    async def append(self, entry: Entry) -> int:
        self._world.machines.strike("log")
        self._world.perhaps_die()
        index = await super().append(entry)
        self.written.append(entry)
        self._world.machines.strike("log's answer")
        self._world.perhaps_die()
        return index


class Store(InMemoryCheckpoints):
    """A checkpoint store that does not answer at times."""

    def __init__(self, machines: Machines) -> None:
        super().__init__()
        self._machines = machines

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        self._machines.strike("store")
        return super().save(job_id, progress_ms, time_ms)

    def commit(self, checkpoint_id: str) -> None:
        self._machines.strike("store")
        super().commit(checkpoint_id)


@dataclass
class World:
    """What outlives orchestrators, and the one that is alive.

    ``acknowledged``: jobs whose submission was answered.
    """

    seed: int
    lease_ms: int = _LEASE_MS
    acknowledged: list[JobSpec] = field(default_factory=list)
    deaths: int = 0
    happened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.clock = VirtualClock()
        harsh = float(self.rng.choice([0.0, 0.02, 0.1, 0.25]))
        self.machines = Machines(
            self.clock,
            self.rng,
            Chances(
                lost_call=harsh,
                late=float(self.rng.choice([0.0, 0.3])),
                twice=float(self.rng.choice([0.0, 0.3])),
                hung_save=float(self.rng.choice([0.0, 0.2])),
                failed_save=float(self.rng.choice([0.0, 0.2])),
            ),
            self.lease_ms,
            _LEASE_MS,
        )
        self._mortality = float(self.rng.choice([0.0, 0.0, 0.01, 0.05]))
        self._doomed = False
        self._mortals: list[Mortal] = []
        self.log, self.store = Log(self), Store(self.machines)
        self.machines.known = [f"n{k}" for k in range(_NODES)]
        self.clock.call_at(0, self.machines.beat)

    # --- orchestrators -----------------------------------------------------------------------

    def _begin(self) -> None:
        """Make an orchestrator on what there is."""
        self._mortal = Mortal(self.clock)
        self._mortals.append(self._mortal)
        self.cluster = InfrastructureOrchestrator(
            self.log,
            HashShardManager(),
            PhiAccrualFaultDetector(self._mortal, _DETECTOR_MS, lease_ms=_LEASE_MS),
            self.store,
            clock=self._mortal,
            runtime=self.machines,
            shape=_SHAPE,
            nodes=[node(f"n{k}", rack=k % 2) for k in range(_NODES)],
            schedule_on_events=True,
            check=True,
        )

    def perhaps_die(self) -> None:
        """The process may end here."""
        if self._doomed or self.machines.happens(self._mortality):
            self._doomed = False
            raise Killed

    async def survive(self, act: Callable[[], Awaitable[object]]) -> bool:
        """Do something; whether the orchestrator has survived it. If not, there is another one."""
        try:
            await act()
        except Killed:
            self.deaths += 1
            await self._bury()
            while not await self.survive(self._take_office):
                pass
            return False
        return True

    async def _bury(self) -> None:
        self._mortal.alive = False
        self.machines.bind(_nobody)
        self.machines.beat_to = self.machines.accuse = None
        until_ms = self.clock.now_ms() + int(self.rng.choice([0, 1000, MINUTE_MS]))
        while True:
            try:
                await self.clock.advance_to(until_ms)
            except Killed:  # it was to depose one that still led, who has died, too
                self.deaths += 1
                for mortal in self._mortals:
                    mortal.alive = False
            else:
                return

    async def _take_office(self) -> None:
        self._begin()
        await self.insist(self.cluster.start)
        # Agents turn to whoever leads.
        self.machines.beat_to = self.cluster.faults.heartbeat
        self.machines.accuse = self.cluster.faults.report
        self.machines.miss(_DETECTOR_MS)

    async def insist(self, act: Callable[[], Awaitable[object]]) -> None:
        """A client, or a supervisor, that asks again until it is answered."""
        for _ in range(200):
            try:
                await act()
            except OSError:
                await self.clock.advance_to(self.clock.now_ms() + 1000)
            else:
                return
        raise AssertionError("two hundred times no answer")

    # --- what is done and what happens ---------------------------------------------------------

    async def wait(self, ms: int) -> None:
        """Let time pass, whoever dies meanwhile."""
        until_ms = self.clock.now_ms() + ms
        while not await self.survive(lambda: self.clock.advance_to(until_ms)):
            pass

    async def submit(self, spec: JobSpec) -> None:
        """Submit a job until that is acknowledged."""

        async def once() -> None:
            try:
                await self.cluster.submit_job(spec)
            except ValidationError as error:
                if error.field != "job_id":
                    raise  # otherwise the answer was lost: it is in

        while not await self.survive(lambda: self.insist(once)):
            pass
        self.acknowledged.append(spec)

    async def ask(self, act: Callable[[InfrastructureOrchestrator], Awaitable[object]]) -> None:
        """Ask for something once, however it ends."""

        async def once() -> None:
            try:
                await act(self.cluster)
            except (OSError, UnknownEntityError):
                return

        await self.survive(once)

    async def strike(self) -> None:
        """Something happens to a machine, a job or the orchestrator."""
        machines, rng = self.machines, self.rng
        name = f"n{int(rng.integers(_NODES))}"
        away = machines.dead | machines.cut
        what = str(rng.choice(_MISHAPS))
        self.happened.append(f"{self.clock.now_ms()} {what} {name}")
        victim = f"j{int(rng.integers(max(len(self.acknowledged), 1)))}"
        if what == "kill" and name not in away:
            machines.kill(name)
        elif what == "cut" and name not in away:
            machines.cut_off(name)
        elif what == "blink" and name not in away:
            machines.cut_off(name)
            await self.wait(int(rng.integers(1, 2 * _DETECTOR_MS)))
            machines.bring_back(name)
        elif what == "back" and away:
            machines.bring_back(str(rng.choice(sorted(away))))
        elif what == "preempt":
            await self.ask(lambda cluster: cluster.preempt_job(victim, "asked for"))
        elif what == "scale":
            await self.ask(lambda cluster: cluster.scale_job(victim, int(rng.integers(1, 5))))
        elif what == "doom":
            self._doomed = True
        elif what == "rival":
            await self._depose()

    async def _depose(self) -> None:
        """Another orchestrator takes over, and the old one lives on without knowing of it."""
        old, mortal = self.cluster, self._mortal
        while not await self.survive(self._take_office):
            pass
        if not mortal.alive:
            return
        try:
            await old.schedule()
        except (OSError, NotLeaderError, Killed):
            return
        except QuartermasterError as error:
            raise AssertionError(f"a former leader failed for another reason: {error}") from error

    async def live(self) -> None:
        """A day of misfortunes, then a calm in which everything can end."""
        while not await self.survive(self._take_office):
            pass
        for k in range(int(self.rng.integers(4, 14))):
            await self.submit(self._draw_job(f"j{k}"))
            for _ in range(int(self.rng.integers(0, 4))):
                await self.wait(int(self.rng.integers(1, 30 * MINUTE_MS)))
                await self.strike()
        self.machines.calm = True
        for name in sorted(self.machines.dead | self.machines.cut):
            self.machines.bring_back(name)
        for _ in range(200):
            await self.wait(HOUR_MS)
            if all(self._has_ended(spec) for spec in self.acknowledged):
                await self.wait(10 * MINUTE_MS)  # what is late or doubled still comes
                return

    def _has_ended(self, spec: JobSpec) -> bool:
        return self.cluster.get_job_status(spec.job_id)["state"] in ("completed", "failed")

    def _draw_job(self, name: str) -> JobSpec:
        rng = self.rng
        fields: dict[str, Any] = {
            "priority": JobPriority(int(rng.integers(4))),
            "num_workers": int(rng.integers(1, 4)),
            "gpus_per_worker": int(rng.choice([0, 1, 2, 4])),
            "cpus_per_worker": 1.0,
            "duration_hours": float(rng.integers(MINUTE_MS, 2 * HOUR_MS)) / HOUR_MS,
            "max_duration_hours": 1000.0,
            "checkpoint_seconds": float(rng.choice([0.0, 5.0, 31.0])),
            "checkpoint_interval_steps": int(rng.choice([0, 60, 600])),
        }
        if rng.random() < 0.4:
            fields |= {"elastic": True, "min_workers": 1, "max_workers": 4}
        return job(name, **fields)


async def _nobody(event: object) -> bool:
    return False
