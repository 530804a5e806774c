"""What running jobs costs, fitted to the log of a live run, and the work that its jobs have done.

Estimates are medians: a live run has outliers, as when the machine was busy with something else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from omegaconf import OmegaConf
from yaml import YAMLError

from agents.files import write_text
from agents.live.record import JobRecord, LiveRecord, RunRecord
from orchestrator.engine.records import duration_ms
from orchestrator.errors import ConfigurationError
from orchestrator.messages import NodeFailed
from orchestrator.runtimes import RuntimeCosts
from orchestrator.types import JobSpec

__all__ = [
    "FittedCosts",
    "Measured",
    "fit_costs",
    "program_of",
    "read_costs",
    "work_done_ms",
    "write_costs",
]


_OFTEN = 5  # starts of a program from which its own cost can be told
_BEGUN = 2  # times what a start takes: then a worker is there for certain
_NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?")
_SECONDS_PER_HOUR = 3600
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
        told = [round(max(float(x), 0.0), 1) for x in (middle, low, high)]
        return cls(told[0], told[1], told[2], len(values))


@dataclass(frozen=True)
class FittedCosts:
    """What running jobs costs.

    Parameters
    ----------
    measured : mapping of str to Measured
        By its name, every cost of :class:`orchestrator.runtimes.RuntimeCosts`; ``decide_ms``, from
        what happened until it was decided upon; and ``detect_ms``, from a node's last sign of life
        until it was taken for dead, which nobody has to foretell: the log says when that was.
    programs : mapping of str to Measured
        ``start_ms`` of programs that were started often enough, by :func:`program_of`: one that
        loads little starts sooner than one that loads much.
    """

    measured: Mapping[str, Measured]
    programs: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def costs(self) -> RuntimeCosts:
        """Of jobs whose program is not known."""
        return RuntimeCosts(**{one.name: self._median(one.name) for one in fields(RuntimeCosts)})

    @property
    def decide_ms(self) -> int:
        """Until a decision."""
        return round(self._median("decide_ms"))

    def costs_of(self, spec: JobSpec) -> RuntimeCosts:
        """Of a job."""
        found = self.programs.get(program_of(spec))
        if found is None:
            return self.costs
        return replace(self.costs, start_ms=found.median)

    def priced(self, spec: JobSpec) -> JobSpec:
        """A job that is charged with its costs, for simulators that know of specifications only.

        These have no cost of a first start, which is part of the work then: a job that loses all
        its work pays for one start too many.
        """
        costs = self.costs_of(spec)
        start_s = (self.decide_ms + costs.until_work_ms(spec.num_workers)) / 1000
        work_s = duration_ms(spec) / 1000
        return replace(
            spec,
            duration_hours=(work_s + start_s) / _SECONDS_PER_HOUR,
            restart_seconds=spec.restart_seconds + start_s,
            checkpoint_seconds=spec.checkpoint_seconds + (self.decide_ms + costs.save_ms) / 1000,
            regroup_seconds=spec.regroup_seconds + costs.regroup_ms / 1000,
        )

    def _median(self, name: str) -> float:
        return self.measured.get(name, Measured()).median


def program_of(spec: JobSpec) -> str:
    """What tells programs apart: a digest of the command, less the numbers that jobs differ in."""
    parts = [part for part in spec.command if not _NUMBER.fullmatch(part)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _work_ms(run: RunRecord, until_ms: int, stalls: Sequence[float]) -> float:
    """Work of a run up to a time; ``stalls`` are what its stretches begin with, ms."""
    ends = [stretch.begin_ms for stretch in run.stretches[1:]] + [until_ms]
    work_ms = 0.0
    for stretch, end_ms, stall_ms in zip(run.stretches, ends, stalls, strict=True):
        work_ms += max(end_ms - stretch.due_ms - stall_ms, 0.0) * stretch.speed_milli / 1000
    return work_ms


def _started_ms(costs: RuntimeCosts, run: RunRecord) -> float:
    """Time that the start of a run takes after it was ordered."""
    return costs.start_ms + costs.start_per_worker_ms * (run.stretches[0].workers - 1)


def _left_ms(costs: RuntimeCosts, before: RunRecord | None, run: RunRecord) -> float:
    """For how long a run has to wait for the end of the one before."""
    left_ms = {"node": costs.lost_ms, "saved": costs.stop_ms}
    if before is None or before.end_ms is None:
        return 0.0
    return max(before.end_ms + left_ms.get(before.end, 0.0) - run.begin_ms, 0.0)


def work_done_ms(job: JobRecord, fitted: FittedCosts) -> int:
    """Work that an ended job has done, by its runs and what starting them has cost, ms."""
    costs, total_ms = fitted.costs_of(job.spec), 0.0
    for before, run in zip([None, *job.runs], job.runs, strict=False):
        until_ms = run.asked_ms if run.end == "saved" else run.end_ms
        if run.end in ("completed", "failed", "saved") and until_ms is not None:
            first_ms = _started_ms(costs, run) + _left_ms(costs, before, run)
            stalls = [first_ms, *[costs.regroup_ms] * (len(run.stretches) - 1)]
            total_ms += _work_ms(run, until_ms, stalls)
    return max(round(total_ms), 1)


def can_save(job: JobRecord, fitted: FittedCosts) -> bool:
    """Whether a job's workers save when they are asked to; who had not begun yet could not have."""
    costs = fitted.costs_of(job.spec)
    refused = [
        run
        for run in job.runs
        if run.end == "unsaved"
        and (run.asked_ms or 0) - run.begin_ms > _BEGUN * _started_ms(costs, run)
    ]
    return not refused or any(run.end == "saved" for run in job.runs)


_Starts: TypeAlias = list[tuple[int, float]]  # workers, and time beyond work


def _starts(record: LiveRecord) -> dict[str, _Starts]:
    """By program, of every job that was started once, and says how long it works."""
    found: dict[str, _Starts] = {}
    for job in record.jobs.values():
        run = job.runs[-1] if job.runs else None
        if run is None or len(job.runs) > 1 or len(run.stretches) > 1 or job.end_ms is None:
            continue
        if run.end == "completed" and job.spec.duration_hours is not None:
            stretch = run.stretches[0]
            work_ms = -(-duration_ms(job.spec) * 1000 // stretch.speed_milli)
            beyond_ms = job.end_ms - stretch.due_ms - work_ms
            found.setdefault(program_of(job.spec), []).append((stretch.workers, beyond_ms))
    return found


def _slope(starts: Mapping[str, _Starts]) -> Measured:
    """What each further worker has taken, by the pairs of starts of the same program.

    It is the median of their slopes (Theil and Sen), and one for all programs: those of a single
    one are too few where gangs are rare, and large gangs would be judged by what small ones met.
    """
    slopes = [
        (b[1] - a[1]) / (b[0] - a[0])
        for points in starts.values()
        for a, b in combinations(points, 2)
        if a[0] != b[0]
    ]
    return Measured.of(slopes)


def _first(starts: _Starts, each: Measured) -> Measured:
    """What the first worker of some starts has taken."""
    return Measured.of([beyond - each.median * (workers - 1) for workers, beyond in starts])


def _regroups(record: LiveRecord, fitted: FittedCosts) -> list[float]:
    """Stalls, one for each job whose workers have changed in its only run."""
    found = []
    for job in record.jobs.values():
        run = job.runs[-1] if len(job.runs) == 1 else None
        if run is None or run.end != "completed" or len(run.stretches) < 2:
            continue
        if job.spec.duration_hours is not None and job.end_ms is not None:
            started_ms = _started_ms(fitted.costs_of(job.spec), run)
            later = run.stretches[1:]
            done_ms = _work_ms(run, job.end_ms, [started_ms, *[0.0] * len(later)])
            speed = sum(stretch.speed_milli for stretch in later) / 1000
            found.append((done_ms - duration_ms(job.spec)) / speed)
    return found


def _waits(record: LiveRecord, fitted: FittedCosts) -> list[float]:
    """For how long runs whose node was lost were not over, where the next one was to begin soon."""
    found, first = [], fitted.measured["start_ms"]
    noise_ms = first.p90 - first.median
    for job in record.jobs.values():
        if job.spec.duration_hours is None or any(run.end == "saved" for run in job.runs):
            continue
        for before, run in zip(job.runs, job.runs[1:], strict=False):
            if before.end != "node" or before.end_ms is None or run.end_ms is None:
                continue
            if run.end == "completed" and run.begin_ms - before.end_ms <= _SOON_MS:
                own_ms = duration_ms(job.spec) * 1000 / run.stretches[0].speed_milli
                own_ms += _started_ms(fitted.costs_of(job.spec), run)
                late_ms = run.end_ms - own_ms - run.begin_ms
                waited_ms = run.end_ms - own_ms - before.end_ms
                found.append(waited_ms if late_ms > noise_ms else 0.0)
    return found


def fit_costs(*records: LiveRecord) -> FittedCosts:
    """What running jobs has cost in live runs, taken together.

    Raises
    ------
    ConfigurationError
        If they have no job from which that could be told: one that says how long it works
        (``duration_hours``) and was not interrupted.
    """
    starts: dict[str, _Starts] = {}
    for record in records:
        for program, found in _starts(record).items():
            starts.setdefault(program, []).extend(found)
    if not starts:
        raise ConfigurationError(
            "no job of the log tells what a start costs: give jobs 'duration_hours', the time that "
            "they work, and let some of them run through"
        )
    each = _slope(starts)
    often = {name: _first(found, each) for name, found in starts.items() if len(found) >= _OFTEN}
    saved, unsaved = _saves(records)
    measured = {
        "decide_ms": Measured.of([ms for record in records for ms in record.latencies_ms]),
        "start_ms": _first([start for found in starts.values() for start in found], each),
        "start_per_worker_ms": each,
        "save_ms": Measured.of(saved),
        "stop_ms": Measured.of(unsaved),
        "detect_ms": Measured.of([ms for record in records for ms in _silences(record)]),
    }
    started = FittedCosts(measured, often)
    waits = [ms for record in records for ms in _waits(record, started)]
    stalls = [ms for record in records for ms in _regroups(record, started)]
    more = {"lost_ms": Measured.of(waits), "regroup_ms": Measured.of(stalls)}
    return FittedCosts({**measured, **more}, often)


def _saves(records: Sequence[LiveRecord]) -> tuple[list[int], list[int]]:
    """What saves have taken beyond what they should, and until those who cannot save had ended."""
    saved, unsaved = [], []
    for record in records:
        for run in (run for job in record.jobs.values() for run in job.runs):
            if run.end_ms is not None and run.asked_ms is not None:
                if run.end == "saved":
                    saved.append(run.end_ms - run.asked_ms - run.save_ms)
                elif run.end == "unsaved":
                    unsaved.append(run.end_ms - run.asked_ms)
    return saved, unsaved


def _silences(record: LiveRecord) -> list[int]:
    """From the last signs of life of nodes until they were taken for dead."""
    failed = [(at_ms, what) for at_ms, what in record.happenings if isinstance(what, NodeFailed)]
    return [at_ms - what.seen_ms for at_ms, what in failed if what.seen_ms >= 0]


_HEAD = """\
# What running jobs costs beyond what their specifications say, milliseconds: fitted to a live run
# by `python scripts/fidelity.py`. A count of 0: the run did not show it.
"""


_REMEDY = "give a costs.yaml that scripts/fidelity.py wrote"


def _told(one: Measured) -> str:
    return f"{{median: {one.median:g}, p10: {one.p10:g}, p90: {one.p90:g}, count: {one.count}}}"


def write_costs(path: Path, fitted: FittedCosts) -> None:
    """Write costs as YAML."""
    rows = [f"{name}: {_told(one)}\n" for name, one in fitted.measured.items()]
    if fitted.programs:
        rows.append(
            "# start_ms by program: a digest of its command, numbers left out.\nprograms:\n"
        )
    rows += [f"  '{name}': {_told(one)}\n" for name, one in fitted.programs.items()]
    write_text(path, _HEAD + "".join(rows))


def read_costs(path: Path) -> FittedCosts:
    """Read what :func:`write_costs` has written.

    Raises
    ------
    ConfigurationError
        If that is something else.
    """
    names = {one.name for one in fields(RuntimeCosts)} | {"decide_ms", "detect_ms"}
    try:
        held: Any = OmegaConf.to_container(OmegaConf.load(path))
        programs = {str(name): Measured(**one) for name, one in held.pop("programs", {}).items()}
        measured = {name: Measured(**one) for name, one in held.items()}
    except (OSError, YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"costs: {path} cannot be read ({error}); {_REMEDY}") from error
    if unknown := sorted(set(measured) - names):
        raise ConfigurationError(f"costs: {path} has {unknown}; known: {', '.join(sorted(names))}")
    if "start_ms" not in measured:
        raise ConfigurationError(f"costs: {path} does not say 'start_ms'; {_REMEDY}")
    return FittedCosts(measured, programs)
