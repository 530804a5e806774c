"""A soak: small real jobs for a long time, and whether anything grows that must not."""

from __future__ import annotations

import asyncio
import csv
import math
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from orchestrator.clock import WallClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.orchestrator import DEFAULT_SHAPE, InfrastructureOrchestrator
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["SoakRun", "Trend", "run_soak", "trend"]


_MIB = 2**20
_WARM_UP = 0.25  # share of the run that no trend is fitted to
_ENOUGH = 8  # records for a trend


@dataclass(frozen=True)
class SoakRun:
    """What is run, and how long.

    Parameters
    ----------
    minutes : float
    every_s : float
        Between two records.
    jobs_per_s : float
        Jobs that are submitted in a second; where they pile up, fewer.
    agents, gpus : int
        Nodes, and declared GPUs of each.
    commands : sequence of mapping
        ``command``, and any other field of ``JobSpec``: in turn.
    history : int
        Jobs that the orchestrator remembers, those that have ended included: it grows until there
        are so many.
    most_open : int
        Jobs that may wait or run; nothing is submitted above that.
    lose_every_s : float or None
        How often an agent is killed, and started again; None: never.
    may_grow : mapping of str to float
        For columns that must not grow: by how many percent of their mean in an hour they may.
    """

    minutes: float = 60.0
    every_s: float = 10.0
    jobs_per_s: float = 1.0
    agents: int = 3
    gpus: int = 4
    commands: Sequence[Mapping[str, Any]] = ({"command": ("true",)},)
    history: int = 512
    most_open: int = 50
    lose_every_s: float | None = None
    may_grow: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        """Check what cannot be."""
        for name in ("minutes", "every_s", "jobs_per_s", "agents", "gpus", "history", "most_open"):
            if not getattr(self, name) > 0:
                problem = f"'{name}' is {getattr(self, name)}"
                raise ConfigurationError(f"soak: {problem}; give more than 0")
        if not self.commands:
            raise ConfigurationError("soak: 'commands' is empty; give one at least")
        unknown = set(self.may_grow or ()) - {field.name for field in fields(_Record)}
        if unknown:
            known = ", ".join(field.name for field in fields(_Record))
            problem = f"'may_grow' names {', '.join(sorted(unknown))}"
            raise ConfigurationError(f"soak: {problem}; choose from {known}")


@dataclass(frozen=True)
class _Record:
    """What is written down: of the orchestrator's process, and of all agents together."""

    seconds: float
    rss_mib: float
    files: int
    threads: int
    agents_rss_mib: float
    agents_files: int
    log_mib: float
    jobs: int
    failed: int
    open: int
    cpu_ms: float  # of the orchestrator's process, for each job that was submitted since the last
    submit_ms: float
    submit_most_ms: float
    status_ms: float


@dataclass(frozen=True)
class Trend:
    """How a column goes: percent of its mean in an hour, with a 95 % interval."""

    mean: float
    growth: float
    low: float
    high: float

    def verdict(self, may_grow: float) -> str:
        """Whether it grows by more than it may; ``unclear`` where the data do not say."""
        if self.high <= may_grow:
            return "flat"
        return "grows" if self.low > may_grow else "unclear"


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit a line by least squares; residuals of neighbours may be alike (AR(1)).

    Parameters
    ----------
    seconds : sequence of float
    values : sequence of float
        At least eight.
    """
    x, y = np.asarray(seconds) / 3600.0, np.asarray(values, dtype=float)
    if len(x) < _ENOUGH:
        raise ConfigurationError(f"soak: {len(x)} records; a trend takes {_ENOUGH} at least")
    mean = float(y.mean())
    if np.ptp(y) == 0.0 or mean == 0.0:
        return Trend(mean, 0.0, 0.0, 0.0)
    slope, at_zero = np.polyfit(x, y, 1)
    rest = y - at_zero - slope * x
    alike = float(np.clip((rest[1:] @ rest[:-1]) / max(rest @ rest, 1e-300), 0.0, 0.9))
    free = max((len(x) - 2) * (1.0 - alike) / (1.0 + alike), 1.0)
    spread = math.sqrt(float(rest @ rest) / free / float(((x - x.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, free)) * spread
    percent = 100.0 / mean
    return Trend(mean, slope * percent, (slope - half) * percent, (slope + half) * percent)


class _Soak:
    """The run, as it goes."""

    def __init__(self, run: SoakRun, folder: Path, console: Console) -> None:
        self.run, self.folder, self.console = run, folder, console
        self.records: list[_Record] = []
        self._submits_ms: list[float] = []
        self._asked_ms: list[float] = []
        self._failed = self._submitted = 0
        self._cpu_s = time.process_time()
        self._open: set[str] = set()

    async def play(self) -> None:
        with SQLiteLog(self.folder / "log.sqlite") as log, self._written() as rows:
            async with self._opened(log) as agents:
                await self._go(agents, rows)

    @contextmanager
    def _written(self) -> Iterator[TextIO]:
        """The table, a line at a time: one that is stopped has what there was."""
        with (self.folder / "soak.csv").open("w", newline="", encoding="utf-8") as rows:
            csv.writer(rows, lineterminator="\n").writerow(field.name for field in fields(_Record))
            yield rows

    @asynccontextmanager
    async def _opened(self, log: SQLiteLog) -> AsyncIterator[LocalAgents]:
        clock = WallClock()
        parts = in_memory(clock)._replace(consensus_engine=log)
        runtime = ProcessRuntime(clock, parts.fault_detector, grace_s=1.0, lease_s=5.0)
        names = [f"n{k}" for k in range(self.run.agents)]
        self.orchestrator = InfrastructureOrchestrator(
            *parts,
            clock=clock,
            runtime=runtime,
            shape=replace(DEFAULT_SHAPE, jobs=self.run.history),
            nodes=[NodeSpec(x, self.run.gpus, 16.0, 8, 64.0, 10.0, "NVLink") for x in names],
            schedule_on_events=True,
        )
        await runtime.open()
        agents = LocalAgents(runtime, names, self.folder / "agents")
        try:
            await agents.start()
            await self.orchestrator.start()
            yield agents
        finally:
            await agents.stop()
            await runtime.close()

    async def _go(self, agents: LocalAgents, rows: TextIO) -> None:
        begun_s = time.monotonic()
        due_s, recorded_s, lost_s = begun_s, begun_s, begun_s
        while (now_s := time.monotonic()) < begun_s + 60.0 * self.run.minutes:
            if now_s >= due_s:
                due_s = max(due_s + 1.0 / self.run.jobs_per_s, now_s - 1.0)
                await self._submit()
            if now_s >= recorded_s + self.run.every_s:
                recorded_s = now_s
                self._record(now_s - begun_s, agents, rows)
            if self.run.lose_every_s is not None and now_s > lost_s + self.run.lose_every_s:
                lost_s = now_s
                await self._lose(agents)
            await asyncio.sleep(max(min(due_s, recorded_s + self.run.every_s) - now_s, 0.01))

    async def _submit(self) -> None:
        self._look()
        if len(self._open) >= self.run.most_open:
            return
        given = self.run.commands[self._submitted % len(self.run.commands)]
        name = f"soak-{self._submitted}"
        self._submitted += 1
        values: dict[str, Any] = {
            "num_workers": 1,
            "gpus_per_worker": 1,
            "memory_per_worker_gb": 1.0,
        }
        values |= {"max_duration_hours": 0.05, "checkpoint_interval_steps": 0, **given}
        spec = JobSpec(job_id=name, name=name, priority=JobPriority.BATCH, **values)
        begun_s = time.perf_counter()
        await self.orchestrator.submit_job(spec)
        self._submits_ms.append(1e3 * (time.perf_counter() - begun_s))
        self._open.add(name)

    def _look(self) -> None:
        """See which jobs have ended; what the orchestrator has forgotten has, too."""
        alive = set(self.orchestrator.engine.unended())
        for name in [name for name in self._open if name not in alive]:
            self._open.discard(name)
            begun_s = time.perf_counter()
            status = self.orchestrator.get_job_status(name)
            self._asked_ms.append(1e3 * (time.perf_counter() - begun_s))
            self._failed += status["state"] == "failed"

    async def _lose(self, agents: LocalAgents) -> None:
        """Kill an agent, and start it again."""
        node = f"n{len(self.records) % self.run.agents}"
        await agents.kill(node)
        await agents.add(node)

    def _record(self, seconds: float, agents: LocalAgents, rows: TextIO) -> None:
        begun_s = time.perf_counter()
        self.orchestrator.get_cluster_status()
        self._asked_ms.append(1e3 * (time.perf_counter() - begun_s))
        me = psutil.Process()
        rss, files = 0, 0
        for pid in agents.pids.values():
            with suppress(psutil.Error):
                agent = psutil.Process(pid)
                rss, files = rss + agent.memory_info().rss, files + agent.num_fds()
        kept = sum(path.stat().st_size for path in self.folder.glob("log.sqlite*"))
        spent_s, self._cpu_s = time.process_time() - self._cpu_s, time.process_time()
        record = _Record(
            seconds=round(seconds, 3),
            rss_mib=round(me.memory_info().rss / _MIB, 3),
            files=me.num_fds(),
            threads=threading.active_count(),
            agents_rss_mib=round(rss / _MIB, 3),
            agents_files=files,
            log_mib=round(kept / _MIB, 3),
            jobs=self._submitted - len(self._open),
            failed=self._failed,
            open=len(self._open),
            cpu_ms=round(1e3 * spent_s / max(len(self._submits_ms), 1), 3),
            submit_ms=round(statistics.median(self._submits_ms or [math.nan]), 3),
            submit_most_ms=round(max(self._submits_ms, default=math.nan), 3),
            status_ms=round(statistics.median(self._asked_ms), 3),
        )
        self._submits_ms.clear()
        self._asked_ms.clear()
        self.records.append(record)
        csv.writer(rows, lineterminator="\n").writerow(astuple(record))
        rows.flush()

    def judge(self) -> bool:
        """Tell the trends; whether nothing grows that must not."""
        begun = math.floor(_WARM_UP * len(self.records))
        table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
        for column in ("what", "mean", "%/h", "95 %", "may", "verdict"):
            table.add_column(column, justify="left" if column in ("what", "verdict") else "right")
        fine = True
        for name, most in (self.run.may_grow or {}).items():
            pairs = [(r.seconds, float(getattr(r, name))) for r in self.records[begun:]]
            pairs = [pair for pair in pairs if math.isfinite(pair[1])]
            found = trend(*zip(*pairs, strict=True)) if len(pairs) >= _ENOUGH else None
            if found is None:
                table.add_row(name, "", "", "", f"{most:g}", "too few records")
                continue
            verdict = found.verdict(most)
            fine = fine and verdict != "grows"
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            table.add_row(
                name, f"{found.mean:.4g}", f"{found.growth:+.1f}", interval, f"{most:g}", verdict
            )
        self.console.print(table)
        last = self.records[-1] if self.records else None
        if last is not None:
            self.console.print(
                f"{last.jobs} jobs ended, {last.failed} of them failed, in {last.seconds:.0f} s"
            )
        return fine


def run_soak(run: SoakRun, folder: Path, console: Console) -> bool:
    """Run jobs for a while, and tell whether anything grows that must not.

    Parameters
    ----------
    run : SoakRun
    folder : Path
        For the table (``soak.csv``), the cluster's log, and those of the workers.
    console : Console

    Returns
    -------
    bool
        Whether nothing was seen to grow by more than it may.
    """
    folder.mkdir(parents=True, exist_ok=True)
    soak = _Soak(run, folder, console)
    with suppress(KeyboardInterrupt):
        asyncio.run(soak.play())
    return soak.judge()
