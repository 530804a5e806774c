"""The durable log: commands a second beside what the disk can do, and how long a restart takes."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from orchestrator.clock import VirtualClock
from orchestrator.engine.engine import Engine
from orchestrator.foundations import HashShardManager, HeartbeatFaultDetector, InMemoryCheckpoints
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.live.journal import Journal
from orchestrator.messages import (
    Command,
    Decide,
    Effect,
    Entry,
    Event,
    PlaceJob,
    Plan,
    Submit,
    WorkerExited,
)
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Runtime
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = [
    "LivedLog",
    "LongLife",
    "appended_per_second",
    "disk_per_second",
    "job",
    "spread",
    "submitted_per_second",
]


_BLOCK = 8192  # bytes that a commit of one entry writes


_GPUS = 8


_BATCH = 200  # jobs that a history submits, places and ends at a time


def job(number: int) -> JobSpec:
    """A job whose name has a number."""
    name = f"job-{number:06d}"
    return JobSpec(name, name, JobPriority.BATCH, 1, 1, 8.0, 1.0, 600, command=("train", name))


def _nodes(count: int) -> tuple[NodeSpec, ...]:
    return tuple(
        NodeSpec(f"node-{k:04d}", _GPUS, 80.0, 96, 1024.0, 100.0, "NVLink") for k in range(count)
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def disk_per_second(times: int) -> float:
    """How often a second the disk says that a few bytes, written in place, are safe."""
    with _folder() as folder:
        file = os.open(folder / "block", os.O_RDWR | os.O_CREAT)
        try:
            os.write(file, bytes(_BLOCK))
            os.fsync(file)
            begun = time.perf_counter()
            for _ in range(times):
                os.pwrite(file, bytes(_BLOCK), 0)
                os.fdatasync(file)
            return times / (time.perf_counter() - begun)
        finally:
            os.close(file)


async def spread(act: Callable[[int], Awaitable[object]], count: int, at_once: int) -> float:
    """Seconds that so many acts take, so many of them under way at once."""
    numbers = iter(range(count))

    async def go_on() -> None:
        for number in numbers:
            await act(number)

    begun = time.perf_counter()
    await asyncio.gather(*(go_on() for _ in range(at_once)))
    return time.perf_counter() - begun


def appended_per_second(commands: int, at_once: int, group: int = 1024) -> float:
    """Commands a second that a log in a file has made durable.

    Parameters
    ----------
    commands : int
    at_once : int
        How many wait for the disk at once.
    group : int
        Most commands of one commit.
    """
    entries = [Entry(number, Submit(job(number))) for number in range(commands)]
    with _folder() as folder, SQLiteLog(folder / "log", group=group) as log:
        return commands / asyncio.run(
            spread(lambda number: log.append(entries[number]), commands, at_once)
        )


def submitted_per_second(commands: int, at_once: int) -> float:
    """The same of jobs that are checked, logged and queued: by the journal and its engine."""
    bodies = [Submit(job(number)) for number in range(commands)]
    shape = ClusterShape(envs=1, jobs=commands, devices=_GPUS, nodes=8)
    with _folder() as folder, SQLiteLog(folder / "log") as log:
        engine = Engine(shape, nodes=_nodes(8))
        journal = Journal(log, engine, VirtualClock(), lambda outcome: None)
        return commands / asyncio.run(
            spread(lambda number: journal.propose(bodies[number]), commands, at_once)
        )


class LongLife:
    """An orchestrator on a log in a file, through which many more jobs go than its table holds.

    Jobs are submitted, placed and ended by the hundreds, and asked about; all of them end.

    Parameters
    ----------
    folder : Path
        Where the log is made.
    jobs : int
        Jobs in all.
    table : int
        Jobs that are remembered.

    Attributes
    ----------
    memory_mib, log_mib : list of float
        What this process has in memory, and the files' size, after each tenth of the jobs.
    """

    def __init__(self, folder: Path, jobs: int, table: int = 4096) -> None:
        self._folder, self._jobs = folder, jobs
        self._table = max(min(table, jobs), 2 * _BATCH)
        self.memory_mib: list[float] = []
        self.log_mib: list[float] = []
        asyncio.run(self._live())

    async def _live(self) -> None:
        nodes = _nodes(_BATCH // _GPUS)
        shape = ClusterShape(envs=1, jobs=self._table, devices=_GPUS, nodes=len(nodes))
        with SQLiteLog(self._folder / "log") as log:
            cluster = _cluster(log, shape, nodes, _Nothing())
            await cluster.start()
            propose, tenth = cluster._journal.propose, max(self._jobs // 10, 1)
            for first in range(0, self._jobs, _BATCH):
                numbers = range(first, min(first + _BATCH, self._jobs))
                names = [job(number).job_id for number in numbers]
                await _all(propose, [Submit(job(number)) for number in numbers])
                await propose(Decide(Plan(tuple(PlaceJob(name) for name in names))))
                runs = cluster.engine.placed()
                await _all(propose, [WorkerExited(name, runs[name]) for name in names])
                cluster.get_job_status(names[-1])
                cluster.get_cluster_status()
                if first // tenth < numbers.stop // tenth:
                    self._look()

    def _look(self) -> None:
        gc.collect()
        self.memory_mib.append(psutil.Process().memory_info().rss / 2**20)
        self.log_mib.append(_mib(self._folder))

    @property
    def grown_mib(self) -> float:
        """By how much memory has grown in the second half."""
        return self.memory_mib[-1] - self.memory_mib[len(self.memory_mib) // 2]


class _Nothing:
    """A runtime that has nothing to do: whoever measures says that jobs have ended."""

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Nothing is reported."""

    def observe(self) -> Mapping[str, int]:
        """Nobody runs."""
        return {}

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Nothing is begun."""


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


def _cluster(
    log: SQLiteLog,
    shape: ClusterShape,
    nodes: tuple[NodeSpec, ...],
    runtime: Runtime | None = None,
) -> InfrastructureOrchestrator:
    clock = VirtualClock()
    return InfrastructureOrchestrator(
        log,
        HashShardManager(),
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
        clock=clock,
        runtime=runtime,
        shape=shape,
        nodes=nodes,
        review_ms=None,
    )


class LivedLog:
    """A log in a file with the history of many jobs, of which a tenth are alive.

    Parameters
    ----------
    folder : Path
        Where it is made.
    jobs : int
        Jobs that were submitted; nine of ten have ended.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._path, self._jobs = folder / "log", jobs
        self._nodes = _nodes(max(jobs // 10 // _GPUS, 1) + _BATCH // _GPUS)
        self._shape = ClusterShape(envs=1, jobs=jobs, devices=_GPUS, nodes=len(self._nodes))
        self.entries = asyncio.run(self._live())

    async def _live(self) -> int:
        with SQLiteLog(self._path) as log:
            cluster = _cluster(log, self._shape, self._nodes)
            await cluster.start()
            propose = cluster._journal.propose
            for first in range(0, self._jobs, _BATCH):
                names = range(first, min(first + _BATCH, self._jobs))
                await _all(propose, [Submit(job(number)) for number in names])
                ended = [job(number).job_id for number in names if number % 10]
                alive = [job(number).job_id for number in names if number % 10 == 0]
                await propose(Decide(Plan(tuple(PlaceJob(job_id) for job_id in alive + ended))))
                await _all(propose, [WorkerExited(job_id, 1) for job_id in ended])
            return cluster._journal.applied

    def restart(self) -> int:
        """Open the log and be what it says; the jobs that are known."""
        with SQLiteLog(self._path) as log:
            return len(_cluster(log, self._shape, self._nodes).jobs)

    @property
    def mib(self) -> float:
        """Size of all files, MiB."""
        return _mib(self._path.parent)


async def _all(
    propose: Callable[[Command | Event], Awaitable[object]], bodies: list[Submit | WorkerExited]
) -> None:
    await asyncio.gather(*(propose(body) for body in bodies))
