"""What a cluster's log tells of its jobs: when each was submitted, ran, was saved, lost, and ended.

Effects are not in a log. They are found again by applying its entries, as after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.clock import VirtualClock
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import ConfigurationError
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.happenings import ANNOUNCED
from orchestrator.kernels.state.codes import Reason
from orchestrator.live.journal import Journal, settings_in
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Command,
    Configure,
    Decide,
    Decommission,
    Effect,
    Entry,
    Establish,
    Event,
    Lead,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    RegroupJob,
    Review,
    SaveCheckpoint,
    Scale,
    StartJob,
    StopJob,
    Submit,
    Tick,
    Undrain,
    WorkerExited,
    WorkersLost,
)
from orchestrator.ports import ConsensusEngine, CuttableLog
from orchestrator.scheduling.rules import RULES, Rule
from orchestrator.types import JobSpec

__all__ = ["JobRecord", "LiveRecord", "RunRecord", "Stretch", "read_log", "recorded"]


@dataclass(frozen=True)
class Stretch:
    """A part of a run with the same workers.

    ``begin_ms`` is when that was ordered, ``due_ms`` from when work should go on, by the job's
    specification; ``speed_milli`` in thousandths of the nominal speed.
    """

    begin_ms: int
    due_ms: int
    workers: int
    speed_milli: int


@dataclass
class RunRecord:
    """A run of a job.

    ``end`` is ``completed``, ``failed``, ``saved``, ``unsaved`` (it was to be saved and ended),
    ``lost`` (its workers), ``node`` (its node was lost), ``stopped`` or, if it goes on, empty.
    ``asked_ms`` is when it was to be saved, and ``save_ms`` what that should have taken.
    """

    job_id: str
    number: int
    nodes: tuple[str, ...]
    stretches: list[Stretch]
    asked_ms: int | None = None
    save_ms: int = 0
    end_ms: int | None = None
    end: str = ""

    @property
    def begin_ms(self) -> int:
        """When its start was ordered."""
        return self.stretches[0].begin_ms


@dataclass
class JobRecord:
    """A job: its specification, and what became of it. Times in milliseconds."""

    spec: JobSpec
    submit_ms: int
    runs: list[RunRecord] = field(default_factory=list)
    end_ms: int | None = None
    exit_code: int = 0

    @property
    def start_ms(self) -> int | None:
        """When its first start was ordered."""
        return self.runs[0].begin_ms if self.runs else None


@dataclass
class LiveRecord:
    """A run of a cluster.

    Parameters
    ----------
    settings : Establish
        What it was made with, the last ones.
    begin_ms : int
        Time of the first entry.
    rule : Rule or None
        Who decided, if the log says so.
    jobs : dict of str to JobRecord
        In the order of their submission.
    happenings : list of (int, Command or Event)
        What was done to it besides jobs, and when: nodes that failed, came or left, what people
        told jobs, workers that were lost.
    latencies_ms : list of int
        From what opened a decision until it was in the log.
    """

    settings: Establish
    begin_ms: int = -1
    rule: Rule | None = None
    jobs: dict[str, JobRecord] = field(default_factory=dict)
    happenings: list[tuple[int, Command | Event]] = field(default_factory=list)
    latencies_ms: list[int] = field(default_factory=list)

    def starts(self) -> list[tuple[str, int]]:
        """Jobs and runs in the order in which they started."""
        runs = [run for job in self.jobs.values() for run in job.runs]
        order = sorted(runs, key=lambda run: run.begin_ms)  # stable: ties by submission
        return [(run.job_id, run.number) for run in order]


_HAPPENINGS = (
    NodeFailed,
    NodeRecovered,
    Register,
    Decommission,
    Undrain,
    Preempt,
    Scale,
    Cancel,
)


class _Reader:
    """Makes a record of entries and what came of them."""

    def __init__(self, settings: Establish) -> None:
        self.record = LiveRecord(settings)
        self._opened_ms: int | None = None  # by what happened since the last look
        self._looked_ms: int | None = None  # what that look was for

    def note(self, at: int, entry: Entry, outcome: Outcome) -> None:
        """An entry was applied."""
        body, now_ms = entry.body, entry.time_ms
        if self.record.begin_ms < 0:
            self.record.begin_ms = now_ms
        self._note_latency(body, now_ms)
        if outcome.reason != Reason.OK:
            return
        match body:
            case Establish():
                self.record.settings = replace(body, nodes=self.record.settings.nodes)
            case Configure("policy", rule):
                self.record.rule = rule if isinstance(rule, Rule) else None
            case Configure(subject, {"rule": str(name)}) if subject == f"{ANNOUNCED}:policy":
                self.record.rule = RULES.get(name)
            case Submit(spec):
                self.record.jobs[spec.job_id] = JobRecord(spec, now_ms)
            case WorkersLost(job_id) if self._run(job_id).asked_ms is None:
                self.record.happenings.append((now_ms, body))
            case _ if isinstance(body, _HAPPENINGS):
                self.record.happenings.append((now_ms, body))
        for effect in outcome.effects:
            self._take(now_ms, body, effect)
        if isinstance(body, WorkerExited):
            self._end(now_ms, body)
        elif isinstance(body, Cancel) and self.record.jobs[body.job_id].runs:
            job = self.record.jobs[body.job_id]  # who never started has changed nothing
            job.end_ms, job.exit_code = now_ms, 1

    def _note_latency(self, body: Command | Event, now_ms: int) -> None:
        if isinstance(body, Tick):
            return  # nothing has happened
        if isinstance(body, Review):
            self._looked_ms, self._opened_ms = self._opened_ms, None
        elif not isinstance(body, Decide | Lead | Establish | Configure):
            self._opened_ms = now_ms if self._opened_ms is None else self._opened_ms
        elif self._looked_ms is not None:
            self.record.latencies_ms.append(now_ms - self._looked_ms)
            self._looked_ms = None

    def _run(self, job_id: str) -> RunRecord:
        return self.record.jobs[job_id].runs[-1]

    def _take(self, now_ms: int, body: Command | Event, effect: Effect) -> None:
        match effect:
            case StartJob(job_id, number):
                due_ms = effect.start_ms + effect.restart_ms
                stretch = Stretch(now_ms, due_ms, len(effect.workers), effect.speed_milli)
                nodes = tuple(place.node_id for place in effect.workers)
                self.record.jobs[job_id].runs.append(RunRecord(job_id, number, nodes, [stretch]))
            case RegroupJob(job_id):
                resume_ms = effect.resume_ms
                stretch = Stretch(now_ms, resume_ms, len(effect.workers), effect.speed_milli)
                self._run(job_id).stretches.append(stretch)
            case SaveCheckpoint(job_id):
                self._run(job_id).asked_ms, self._run(job_id).save_ms = now_ms, effect.cost_ms
            case StopJob(job_id):
                run = self._run(job_id)
                run.end_ms, run.end = now_ms, _end_of(run, body)

    def _end(self, now_ms: int, body: WorkerExited) -> None:
        job, run = self.record.jobs[body.job_id], self._run(body.job_id)
        if run.end and run.end != "failed":
            return  # it was being saved, and is in the queue again
        job.end_ms, job.exit_code = now_ms, body.exit_code
        run.end_ms, run.end = now_ms, "failed" if body.exit_code else "completed"


def _end_of(run: RunRecord, body: Command | Event) -> str:
    """What has stopped a run."""
    match body:
        case CheckpointCommitted(job_id) if job_id == run.job_id:
            return "saved"
        case WorkersLost(job_id) if job_id == run.job_id:
            return "lost" if run.asked_ms is None else "unsaved"
        case WorkerExited(job_id) if job_id == run.job_id:
            return "failed" if run.asked_ms is None else "unsaved"
        case NodeFailed():
            return "node"
    return "stopped"


def recorded(log: ConsensusEngine) -> LiveRecord:
    """What a log tells.

    Raises
    ------
    ConfigurationError
        If it is empty, or does not begin with the cluster's beginning.
    """
    if isinstance(log, CuttableLog) and log.snapshot is not None:
        raise ConfigurationError(
            f"the log was cut at entry {log.snapshot[0]}, and what was before it is gone; record a "
            "shorter run, or give SQLiteLog a larger 'cut_every'"
        )
    settings = settings_in(log)
    if settings is None:
        raise ConfigurationError("the log holds no cluster; give one that an orchestrator wrote")
    reader = _Reader(settings)
    Journal(log, Engine.of(settings), VirtualClock(), lambda outcome: None, reader.note)
    return reader.record


def read_log(path: Path) -> LiveRecord:
    """What the log in a file tells; see :func:`recorded`."""
    if not path.is_file():
        raise ConfigurationError(f"log: there is no file {path}; give the log of a live run")
    with SQLiteLog(path) as log:
        try:
            return recorded(log)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error
