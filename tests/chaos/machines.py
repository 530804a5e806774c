"""Machines with agents, in virtual time: workers that die, are cut off, and are heard of late.

A model of the world that shares nothing with the simulated runtime. It keeps its own record of
which worker was on which GPU from when to when; the checker judges by that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator import VirtualClock
from orchestrator.messages import (
    CheckpointCommitted,
    Effect,
    Event,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    WorkerExited,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.ports import Timer
from orchestrator.types import JobSpec

_HOUR_MS = 3_600_000
_AGAIN_MS = 1000
_BEAT_MS = 2000


@dataclass
class Span:
    """A worker on its GPUs, from when to when."""

    job_id: str
    run: int
    node_id: str
    gpus: tuple[int, ...]
    begin_ms: int
    end_ms: int | None = None


@dataclass
class Run:
    """A run that was begun, until its end is known to whoever has to know it."""

    spec: JobSpec
    number: int
    workers: tuple[WorkerPlacement, ...]
    spans: list[Span]
    begin_ms: int  # of the work that is counted in `progress_ms`
    progress_ms: int
    speed_milli: int
    timer: Timer | None = None
    saving: bool = False
    waiting: bool = False  # until nothing is left of the run before
    report: Event | None = None  # its end, which nobody has taken

    @property
    def nodes(self) -> set[str]:
        """Machines that it is on."""
        return {worker.node_id for worker in self.workers}

    def done_ms(self, now_ms: int) -> int:
        """Work that is done by a time, in ms at nominal speed."""
        return self.progress_ms + max(now_ms - self.begin_ms, 0) * self.speed_milli // 1000


@dataclass
class Chances:
    """How often what goes wrong, per occasion."""

    lost_call: float = 0.0  # a call that fails, before or after it has had its effect
    late: float = 0.0  # a report that is late by up to a minute
    twice: float = 0.0  # a report that comes again up to five minutes later
    hung_save: float = 0.0
    failed_save: float = 0.0


@dataclass
class Machines:
    """All machines and who runs on them: a runtime, and what beats.

    ``lease_ms``: how long workers on a machine that is cut off are left alone. ``promised_ms``:
    what the runtime takes that for.
    """

    clock: VirtualClock
    rng: np.random.Generator
    chances: Chances
    lease_ms: int = 6000
    promised_ms: int = 6000
    spans: list[Span] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    known: list[str] = field(default_factory=list)
    beaten_ms: dict[str, int] = field(default_factory=dict)  # heartbeats that were answered
    calm: bool = False
    strikes: int = 0
    runs: dict[str, Run] = field(default_factory=dict)
    begun: set[tuple[str, int]] = field(default_factory=set)
    released: list[str] = field(default_factory=list)
    deliver: Callable[[Event], Awaitable[object]] | None = None
    beat_to: Callable[[str], Awaitable[object]] | None = None
    accuse: Callable[[str], Awaitable[object]] | None = None

    # --- chance ------------------------------------------------------------------------------

    def happens(self, share: float) -> bool:
        """Whether something happens that does so with a probability; nothing does in a calm."""
        return not self.calm and bool(self.rng.random() < share)

    def strike(self, what: str) -> None:
        """Fail, or not."""
        if self.happens(self.chances.lost_call):
            self.strikes += 1
            raise OSError(f"{what} does not answer")

    # --- what a runtime is asked -------------------------------------------------------------

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Say who is told; what nobody has taken is told again."""
        self.deliver = deliver
        for run in self.runs.values():
            if run.report is not None:
                self._send(run, run.report)

    def observe(self) -> Mapping[str, int]:
        """Runs that are there, or whose end nobody has taken."""
        return {
            name: run.number
            for name, run in self.runs.items()
            if run.spans or run.waiting or run.report is not None
        }

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Do it; some calls fail, and of these some have had their effect."""
        for effect in effects:
            self.strike("runtime")
            if isinstance(effect, StartJob):
                self._start(effect)
            elif isinstance(effect, RegroupJob):
                self._regroup(effect)
            elif isinstance(effect, SaveCheckpoint):
                self._save(effect)
            elif isinstance(effect, StopJob):
                self._stop(effect)
            elif isinstance(effect, ReleaseNode):
                self.released.append(effect.node_id)
            self.strike("runtime's answer")

    def _start(self, effect: StartJob) -> None:
        if (effect.job_id, effect.run) in self.begun:
            return
        self.begun.add((effect.job_id, effect.run))
        before = self.runs.pop(effect.job_id, None)
        assert before is None or not before.spans, "told to start a job that runs"
        now_ms = self.clock.now_ms()
        begin_ms = max(effect.start_ms, now_ms) + effect.restart_ms
        run = Run(
            effect.spec,
            effect.run,
            effect.workers,
            [],
            begin_ms,
            effect.progress_ms,
            effect.speed_milli,
        )
        self.runs[effect.job_id] = run
        self._begin(run, effect.restart_ms)

    def _begin(self, run: Run, restart_ms: int) -> None:
        """Start a run's workers, once nothing is left of the run before on who is cut off."""
        name, now_ms = run.spec.job_id, self.clock.now_ms()
        run.waiting = any(
            span.end_ms is None and span.job_id == name and span.run != run.number
            for span in self.spans
            if now_ms <= self.beaten_ms.get(span.node_id, now_ms) + self.promised_ms
        )
        if run.waiting:
            self._at(run, now_ms + _AGAIN_MS, lambda: self._begin(run, restart_ms))
            return
        missing = sorted(run.nodes & (self.dead | self.cut))
        if missing:
            self._lose(run, f"no agent on {missing[0]}")
            self._accuse(missing[0])
            return
        run.begin_ms = max(run.begin_ms, now_ms + restart_ms)
        self._place(run, run.workers)
        self._expect_end(run)

    def _place(self, run: Run, workers: Sequence[WorkerPlacement]) -> None:
        for worker in workers:
            span = Span(
                run.spec.job_id, run.number, worker.node_id, worker.gpus, self.clock.now_ms()
            )
            run.spans.append(span)
            self.spans.append(span)

    def _expect_end(self, run: Run) -> None:
        hours = run.spec.duration_hours or run.spec.max_duration_hours
        left_ms = round(hours * _HOUR_MS) - run.progress_ms
        end_ms = run.begin_ms + -(-left_ms * 1000 // run.speed_milli)
        self._at(run, end_ms, lambda: self._exit(run))

    def _at(self, run: Run, time_ms: int, act: Callable[[], None]) -> None:
        if run.timer is not None:
            run.timer.cancel()
        run.timer = self.clock.call_at(time_ms, act)

    def _exit(self, run: Run) -> None:
        self._end(run)
        self._report(run, WorkerExited(run.spec.job_id, run.number))

    def _regroup(self, effect: RegroupJob) -> None:
        run = self.runs.get(effect.job_id)
        if run is None or run.number != effect.run or run.report is not None:
            return
        if effect.workers == run.workers and effect.progress_ms == run.progress_ms:
            return  # told before
        if run.waiting:
            run.workers, run.speed_milli = effect.workers, effect.speed_milli
            run.begin_ms, run.progress_ms = effect.resume_ms, effect.progress_ms
            return
        missing = sorted({w.node_id for w in effect.workers} & (self.dead | self.cut))
        if missing:
            self._end(run)
            self._lose(run, f"no agent on {missing[0]}")
            self._accuse(missing[0])
            return
        stay = set(run.workers) & set(effect.workers)
        for span in run.spans:
            if WorkerPlacement(span.node_id, span.gpus) not in stay:
                span.end_ms = self.clock.now_ms()
        run.spans = [span for span in run.spans if span.end_ms is None]
        self._place(run, [w for w in effect.workers if w not in stay])
        run.workers, run.speed_milli = effect.workers, effect.speed_milli
        run.begin_ms, run.progress_ms = effect.resume_ms, effect.progress_ms
        self._expect_end(run)

    def _save(self, effect: SaveCheckpoint) -> None:
        run = self.runs.get(effect.job_id)
        if run is None or run.number != effect.run or run.saving or run.report is not None:
            return
        run.saving = True
        if run.waiting:
            run.waiting = False
            self._end(run)
            self._lose(run, "it had not begun to run")
        elif self.happens(self.chances.hung_save):
            self._at(run, self.clock.now_ms() + 10_000 * _HOUR_MS, lambda: None)
        elif self.happens(self.chances.failed_save):
            self._at(run, self.clock.now_ms() + effect.cost_ms, lambda: self._fail_save(run))
        else:
            done = CheckpointCommitted(effect.job_id, effect.run)
            self._at(run, self.clock.now_ms() + effect.cost_ms, lambda: self._report(run, done))

    def _fail_save(self, run: Run) -> None:
        self._end(run)
        self._lose(run, "its checkpoint could not be written")

    def _stop(self, effect: StopJob) -> None:
        run = self.runs.get(effect.job_id)
        if run is None or run.number != effect.run:
            return
        for span in run.spans:
            if span.node_id not in self.cut:  # that agent does not hear of it
                span.end_ms = self.clock.now_ms()
        if run.timer is not None:
            run.timer.cancel()
        if run.report is not None and run.nodes & self.cut:
            self._come_late(run.report)
        del self.runs[effect.job_id]

    def _come_late(self, event: Event) -> None:
        """What an agent wanted to say when it was cut off is said long after."""
        later_ms = self.clock.now_ms() + int(self.rng.integers(300_000))
        self.clock.call_at(later_ms, lambda: self._repeat(event))

    def _end(self, run: Run) -> None:
        """All of its workers are gone; of machines that are cut off, too: it ended by itself."""
        for span in run.spans:
            span.end_ms = self.clock.now_ms() if span.end_ms is None else span.end_ms
        run.spans = []
        if run.timer is not None:
            run.timer.cancel()

    # --- reports -----------------------------------------------------------------------------

    def _lose(self, run: Run, reason: str) -> None:
        self._report(run, WorkersLost(run.spec.job_id, run.number, reason))

    def _report(self, run: Run, event: Event) -> None:
        run.report = event
        self._send(run, event)

    def _send(self, run: Run, event: Event) -> None:
        delay_ms = int(self.rng.integers(60_000)) if self.happens(self.chances.late) else 0
        self.clock.call_at(self.clock.now_ms() + delay_ms, lambda: self._tell(run, event))

    async def _tell(self, run: Run, event: Event) -> None:
        name = run.spec.job_id
        if self.runs.get(name) is not run or run.report is not event:
            return  # it was stopped meanwhile, or this was taken
        heard = False
        if not run.nodes & self.cut and self.deliver is not None:
            try:
                heard = await self.deliver(event) is not False
            except Exception:
                heard = False
        if not heard:
            self.clock.call_at(self.clock.now_ms() + _AGAIN_MS, lambda: self._tell(run, event))
            return
        if self.happens(self.chances.twice):
            self._come_late(event)
        run.report = None
        if not isinstance(event, CheckpointCommitted) and self.runs.get(name) is run:
            del self.runs[name]

    async def _repeat(self, event: Event) -> None:
        if self.deliver is not None:
            try:
                await self.deliver(event)
            except Exception:
                return  # it was said before: whoever does not take it now has it already

    # --- machines ----------------------------------------------------------------------------

    def _accuse(self, node_id: str) -> None:
        """A machine that does not answer is reported; one that may only be cut off, later."""

        async def say() -> None:
            if self.accuse is not None and node_id in self.dead | self.cut:
                await self.accuse(node_id)

        patience_ms = 0 if node_id in self.dead else self.lease_ms
        self.clock.call_at(self.clock.now_ms() + patience_ms, say)

    def _on(self, node_id: str) -> list[Run]:
        return [run for run in self.runs.values() if node_id in run.nodes]

    def kill(self, node_id: str) -> None:
        """A machine dies: its workers are gone, their gangs hang, and nobody says so."""
        self.dead.add(node_id)
        self._leave_alone(node_id)

    def cut_off(self, node_id: str) -> None:
        """A machine loses its network; its agent ends all workers when the lease is over.

        That runs from its last heartbeat that was answered, not from when it misses the answers.
        """
        self.cut.add(node_id)
        since_ms = self.beaten_ms.get(node_id, self.clock.now_ms())

        def expire() -> None:
            if node_id in self.cut and self.beaten_ms.get(node_id, since_ms) == since_ms:
                self._leave_alone(node_id)

        self.clock.call_at(since_ms + self.lease_ms, expire)

    def _leave_alone(self, node_id: str) -> None:
        """No worker is left on a machine."""
        for span in self.spans:
            if span.node_id == node_id and span.end_ms is None:
                span.end_ms = self.clock.now_ms()
        for run in self._on(node_id):
            run.spans = [span for span in run.spans if span.end_ms is None]
            if run.timer is not None:
                run.timer.cancel()

    def bring_back(self, node_id: str) -> None:
        """A machine is there again; whoever was on it without being there any more is reported."""
        self.dead.discard(node_id)
        self.cut.discard(node_id)
        for span in self.spans:  # stops that it has not heard of
            run = self.runs.get(span.job_id)
            gone = run is None or run.number != span.run
            if span.node_id == node_id and span.end_ms is None and gone:
                span.end_ms = self.clock.now_ms()
        for run in self._on(node_id):
            there = {(span.node_id, span.gpus) for span in run.spans}
            whole = all((w.node_id, w.gpus) in there for w in run.workers)
            if run.report is None and not whole:
                self._end(run)
                self._lose(run, f"{node_id} was away")

    def miss(self, grace_ms: int) -> None:
        """An orchestrator has begun: agents that have not connected after a while are dead."""

        def look() -> None:
            for node_id in sorted(self.dead | self.cut):
                self._accuse(node_id)

        self.clock.call_at(self.clock.now_ms() + grace_ms, look)

    async def beat(self) -> None:
        """Every machine that can shows itself, now and from now on."""
        clock, dead, cut = self.clock, self.dead, self.cut
        clock.call_at(clock.now_ms() + _BEAT_MS, self.beat)
        for node_id in self.known:
            if self.beat_to is not None and node_id not in dead and node_id not in cut:
                self.beaten_ms[node_id] = clock.now_ms()
                await self.beat_to(node_id)
