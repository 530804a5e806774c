"""Machines that die in silence, and dependencies that fail: what the contract is tried against."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from orchestrator import ClusterShape, InfrastructureOrchestrator, VirtualClock
from orchestrator.foundations import HeartbeatFaultDetector, in_memory
from orchestrator.messages import Effect, Event, RegroupJob, StartJob
from orchestrator.ports import Callback, Timer
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.types import NodeSpec
from tests.engine.builders import Stage

_T = TypeVar("_T")
_SHAPE = ClusterShape(envs=1, jobs=16, workers=8, nodes=8, devices=8)
BEAT_MS = 2000
DAY_MS = 86_400_000


async def must_fail(check: Awaitable[object]) -> None:
    """A mutation: what is checked does not hold any more, and the check says so."""
    with pytest.raises(AssertionError):
        await check


def flaky(port: _T, every: int, *names: str) -> _T:
    """Have every so manieth call of some methods fail before it does anything."""
    calls = itertools.count(1)

    def strike() -> None:
        if next(calls) % every == 0:
            raise OSError(f"{type(port).__name__} does not answer")

    def wrap(own: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(own):

            async def later(*args: Any) -> Any:
                strike()
                return await own(*args)

            return later

        def now(*args: Any) -> Any:
            strike()
            return own(*args)

        return now

    for name in names:
        setattr(port, name, wrap(getattr(port, name)))
    return port


class Mortal:
    """A clock whose timers die with the process that set them."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._timers: list[Any] = []  # those of a virtual clock
        self._most = 64
        self.alive = True

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> Timer:
        timer = self._clock.call_at(
            time_ms, lambda: callback() if self.alive else None, order=order
        )
        self._timers.append(timer)
        if len(self._timers) > self._most:  # most have gone off by then
            self._timers = [one for one in self._timers if one.callback is not None]
            self._most = 64 + 2 * len(self._timers)
        return timer

    async def sleep_until(self, time_ms: int) -> None:
        await self._clock.sleep_until(time_ms)

    def die(self) -> None:
        """Nobody waits for these times any more."""
        self.alive = False
        for timer in self._timers:
            timer.cancel()


class MortalRuntime(SimulatedRuntime):
    """Workers write their periodic checkpoints, and neither write nor say a thing once dead."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.dead: set[str] = set()
        self.written: dict[str, int] = {}  # by job, work that its last periodic checkpoint holds
        self._places: dict[str, tuple[int, set[str]]] = {}  # run, and nodes

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        async def speak(event: Event) -> None:
            if not self._places[event.job_id][1] & self.dead:
                await deliver(event)

        super().bind(speak)

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, StartJob | RegroupJob):
                nodes = {worker.node_id for worker in effect.workers}
                self._places[effect.job_id] = effect.run, nodes
            if isinstance(effect, StartJob):
                begin_ms = effect.start_ms + effect.restart_ms
                self._write_later(effect, begin_ms, effect.progress_ms)
        super().carry_out(effects)

    def _write_later(self, start: StartJob, now_ms: int, progress_ms: int) -> None:
        spec = start.spec
        interval_ms = round(1000 * spec.checkpoint_interval_steps * spec.step_seconds)

        def write() -> None:
            run, nodes = self._places[start.job_id]
            if run == start.run and start.job_id in self.observe() and not nodes & self.dead:
                self.written[start.job_id] = progress_ms + interval_ms
                self._write_later(start, now_ms + interval_ms, progress_ms + interval_ms)

        self._clock.call_at(now_ms + interval_ms, write)


class Machines(Stage):
    """A cluster whose nodes show that they are alive, until somebody kills them."""

    runtime: MortalRuntime

    async def kill(self, node_id: str) -> None:
        """A machine dies, and nobody says so."""
        self.runtime.dead.add(node_id)

    async def beat(self) -> None:
        """Every machine that is alive shows it, now and from now on."""
        for node_id in list(self.orchestrator.nodes):
            if node_id not in self.runtime.dead:
                await self.orchestrator.faults.heartbeat(node_id)
        self.clock.call_at(self.clock.now_ms() + BEAT_MS, self.beat)


def machines(*nodes: NodeSpec, timeout_ms: int | None = None) -> Machines:
    """An orchestrator over them, with the fault detector's own timeout unless another is given."""
    clock = VirtualClock()
    foundations = in_memory(clock)
    if timeout_ms is not None:
        detector = HeartbeatFaultDetector(clock, timeout_ms)
        foundations = foundations._replace(fault_detector=detector)
    runtime = MortalRuntime(clock)
    orchestrator = InfrastructureOrchestrator(
        *foundations,
        clock=clock,
        nodes=nodes,
        runtime=runtime,
        shape=_SHAPE,
        check=True,
        schedule_on_events=True,
    )
    return Machines(clock, runtime, foundations, orchestrator)
