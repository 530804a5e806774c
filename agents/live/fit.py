"""What running jobs costs, fitted to the log of a live run, and the work that its jobs have done.

Estimates are medians: a live run has outliers, as when the machine was busy with something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.files import write_text
from agents.live.record import JobRecord, LiveRecord, RunRecord
from orchestrator.engine.records import duration_ms
from orchestrator.errors import ConfigurationError
from orchestrator.messages import NodeFailed
from orchestrator.runtimes import RuntimeCosts

__all__ = ["FittedCosts", "Measured", "fit_costs", "read_costs", "work_done_ms", "write_costs"]


_SOON_MS = 500  # a run that begins so soon after the one before may have to wait for its end


@dataclass(frozen=True)
class Measured:
    """A cost as it was measured, milliseconds: median, 10th and 90th percentile, how often."""

    median: float = 0.0
    p10: float = 0.0
    p90: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Of some values, perhaps none; less than no time is none."""
        if not len(values):
            return cls()
        low, middle, high = np.percentile(values, (10, 50, 90))
        return cls(*(round(max(float(x), 0.0), 1) for x in (middle, low, high)), len(values))


@dataclass(frozen=True)
class FittedCosts:
    """What running jobs costs.

    ``measured`` has, by its name, every cost of :class:`orchestrator.runtimes.RuntimeCosts`, and
    ``detect_ms``: from a node's last sign of life until it was taken for dead.
    """

    measured: Mapping[str, Measured]

    @property
    def costs(self) -> RuntimeCosts:
        """As a simulated runtime takes them."""
        return RuntimeCosts(**{one.name: self._median(one.name) for one in fields(RuntimeCosts)})

    @property
    def detect_ms(self) -> float:
        """Until a node is taken for dead."""
        return self._median("detect_ms")

    def _median(self, name: str) -> float:
        return self.measured.get(name, Measured()).median


def _work_ms(run: RunRecord, until_ms: int, stalls: Sequence[float]) -> float:
    """Work of a run up to a time; ``stalls`` are what its stretches begin with, ms."""
    ends = [stretch.begin_ms for stretch in run.stretches[1:]] + [until_ms]
    work_ms = 0.0
    for stretch, end_ms, stall_ms in zip(run.stretches, ends, stalls, strict=True):
        work_ms += max(end_ms - stretch.due_ms - stall_ms, 0.0) * stretch.speed_milli / 1000
    return work_ms


def work_done_ms(job: JobRecord, fitted: FittedCosts) -> int:
    """Work that an ended job has done, by its runs and what starting them has cost, ms."""
    costs, total_ms = fitted.costs, 0.0
    for run in job.runs:
        until_ms = {"completed": run.end_ms, "failed": run.end_ms, "saved": run.asked_ms}
        if until_ms.get(run.end) is not None:
            started_ms = costs.start_ms + costs.start_per_worker_ms * (run.stretches[0].workers - 1)
            stalls = [started_ms, *[costs.regroup_ms] * (len(run.stretches) - 1)]
            total_ms += _work_ms(run, int(until_ms[run.end] or 0), stalls)
    return max(round(total_ms), 1)


def _starts(record: LiveRecord) -> list[tuple[int, float]]:
    """Of every job that was started once, and said how long it works: workers, and time beyond."""
    found = []
    for job in record.jobs.values():
        run = job.runs[-1] if job.runs else None
        if run is None or len(job.runs) > 1 or len(run.stretches) > 1 or job.end_ms is None:
            continue
        if run.end == "completed" and job.spec.duration_hours is not None:
            stretch = run.stretches[0]
            work_ms = duration_ms(job.spec) * 1000 / stretch.speed_milli
            found.append((stretch.workers, job.end_ms - stretch.due_ms - work_ms))
    return found


def _slope(points: Sequence[tuple[int, float]]) -> list[float]:
    """Slopes of all pairs of points (Theil and Sen: their median is that of the line)."""
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]


def _regroups(record: LiveRecord, start: tuple[float, float]) -> list[float]:
    """Stalls, one for each job whose workers have changed in its only run."""
    found = []
    for job in record.jobs.values():
        run = job.runs[-1] if len(job.runs) == 1 else None
        if run is None or run.end != "completed" or len(run.stretches) < 2:
            continue
        if job.spec.duration_hours is not None and job.end_ms is not None:
            first_ms = start[0] + start[1] * (run.stretches[0].workers - 1)
            done_ms = _work_ms(run, job.end_ms, [first_ms, *[0.0] * (len(run.stretches) - 1)])
            speed = sum(stretch.speed_milli for stretch in run.stretches[1:]) / 1000
            found.append((done_ms - duration_ms(job.spec)) / speed)
    return found


def _waits(record: LiveRecord, start: tuple[float, float]) -> list[float]:
    """By how much runs begin late that follow at once upon one whose node was lost."""
    found = []
    for job in record.jobs.values():
        if job.spec.duration_hours is None or any(run.end == "saved" for run in job.runs):
            continue
        for before, run in zip(job.runs, job.runs[1:], strict=False):
            soon = before.end_ms is not None and run.begin_ms - before.end_ms <= _SOON_MS
            if before.end == "node" and soon and run.end == "completed" and run.end_ms is not None:
                stretch = run.stretches[0]
                own_ms = duration_ms(job.spec) * 1000 / stretch.speed_milli
                own_ms += start[0] + start[1] * (stretch.workers - 1)
                late_ms = run.end_ms - stretch.due_ms - own_ms
                found.append(late_ms + run.begin_ms - (before.end_ms or 0))
    return found


def fit_costs(record: LiveRecord) -> FittedCosts:
    """What running jobs has cost in a live run.

    Raises
    ------
    ConfigurationError
        If it has no job from which that could be told: one that says how long it works
        (``duration_hours``) and was not interrupted.
    """
    starts = _starts(record)
    if not starts:
        raise ConfigurationError(
            "no job of the log tells what a start costs: give jobs 'duration_hours', the time that "
            "they work, and let some of them run through"
        )
    slopes = Measured.of(_slope(starts))
    firsts = Measured.of([beyond - slopes.median * (workers - 1) for workers, beyond in starts])
    start = firsts.median, slopes.median
    runs = [run for job in record.jobs.values() for run in job.runs if run.asked_ms is not None]
    taken = [(run, (run.end_ms or 0) - (run.asked_ms or 0)) for run in runs if run.end_ms]
    failures = [
        time_ms - body.seen_ms
        for time_ms, body in record.happenings
        if isinstance(body, NodeFailed) and body.seen_ms >= 0
    ]
    measured = {
        "order_ms": Measured.of(record.latencies_ms),
        "start_ms": firsts,
        "start_per_worker_ms": slopes,
        "save_ms": Measured.of([ms - run.save_ms for run, ms in taken if run.end == "saved"]),
        "stop_ms": Measured.of([ms for run, ms in taken if run.end == "unsaved"]),
        "lost_ms": Measured.of(_waits(record, start)),
        "regroup_ms": Measured.of(_regroups(record, start)),
        "detect_ms": Measured.of(failures),
    }
    return FittedCosts(measured)


_HEAD = """\
# What running jobs costs beyond what their specifications say, milliseconds: fitted to a live run
# by `python scripts/fidelity.py`. A count of 0: the run did not show it.
"""


def write_costs(path: Path, fitted: FittedCosts) -> None:
    """Write costs as YAML."""
    rows = []
    for name, one in fitted.measured.items():
        told = f"median: {one.median:g}, p10: {one.p10:g}, p90: {one.p90:g}, count: {one.count}"
        rows.append(f"{name}: {{{told}}}\n")
    write_text(path, _HEAD + "".join(rows))


def read_costs(path: Path) -> FittedCosts:
    """Read what :func:`write_costs` has written.

    Raises
    ------
    ConfigurationError
        If that is something else.
    """
    names = {one.name for one in fields(RuntimeCosts)} | {"detect_ms"}
    try:
        held: Any = OmegaConf.to_container(OmegaConf.load(path))
        measured = {name: Measured(**one) for name, one in held.items()}
    except (OSError, OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        remedy = "give a costs.yaml that scripts/fidelity.py wrote"
        raise ConfigurationError(f"costs: {path} cannot be read ({error}); {remedy}") from error
    if unknown := sorted(set(measured) - names):
        raise ConfigurationError(f"costs: {path} has {unknown}; known: {', '.join(sorted(names))}")
    return FittedCosts(measured)
