"""What happened to jobs, and why: who preempted them, how they ended; and when nodes had failed.

Made of the entries of the log and of what came of them, so that a restart tells the same story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.kernels.state.codes import Reason
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Command,
    Decide,
    Decommission,
    Effect,
    Event,
    JobOverdue,
    NodeFailed,
    Preempt,
    PreemptJob,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    Scale,
    StartJob,
    StopJob,
    StopReason,
    Submit,
    WorkerExited,
    WorkersLost,
)

__all__ = ["MOST_NOTES", "MOST_OUTAGES", "TIMED_OUT", "History", "JobNote", "Outages"]


MOST_NOTES = 32
"""Notes that are kept of one job, the last ones."""


MOST_OUTAGES = 4096
"""That are over and are kept, the last ones."""


TIMED_OUT = 124
"""Exit code of a job that ran past its limit: that of ``timeout``."""


_RECENT = 256  # notes of all jobs together


_Body: TypeAlias = Command | Event


@dataclass(frozen=True)
class JobNote:
    """Something that happened to a job.

    Parameters
    ----------
    time_ms : int
        When.
    job_id : str
        To whom.
    what : str
        ``submitted``, ``started``, ``preempted``, ``saved``, ``displaced``, ``interrupted``,
        ``resized``, ``moved``, ``overdue``, ``completed``, ``failed`` or ``refused``.
    cause : str
        Who or what did it: ``policy``, ``command``, ``drain``, ``removal``, ``node_failure``,
        ``workers_lost``, ``exit``, ``time_limit``, ``cancel``; empty where nobody has to ask.
    reason : str
        For people.
    by : str
        The job for which it made room.
    run : int or None
        Which start of the job it is about.
    exit_code : int or None
        Of workers that ended.
    nodes : tuple of str
        Where its workers are from then on, if that is new.
    """

    time_ms: int
    job_id: str
    what: str
    cause: str = ""
    reason: str = ""
    by: str = ""
    run: int | None = None
    exit_code: int | None = None
    nodes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain data, without what is not known."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        # Numbers may be NumPy's, which are not compared with texts.
        return {
            name: value
            for name, value in told.items()
            if value is not None and not (isinstance(value, str | tuple) and not value)
        }


def _wishes(body: _Body) -> dict[str, str]:
    """Why a policy wants jobs to be preempted, in its words, by job."""
    if not isinstance(body, Decide):
        return {}
    wanted = [action for action in body.plan.actions if isinstance(action, PreemptJob)]
    return {action.job_id: action.reason for action in reversed(wanted)}


def _cause(body: _Body, said: str) -> tuple[str, str]:
    """What an entry does to a job, and why, in words; ``said``: what the policy said of it."""
    match body:
        case Preempt(_, reason):
            return "command", reason
        case Cancel(_, reason):
            return "cancel", f"cancelled: {reason}" if reason else "cancelled"
        case Scale():
            return "command", f"scale_job to {body.workers} workers"
        case Decide():
            return "policy", said
        case Decommission(node_id, drain):
            if drain:
                return "drain", f"node '{node_id}' is drained"
            return "removal", f"node '{node_id}' was removed"
        case NodeFailed(node_id):
            return "node_failure", f"node '{node_id}' failed"
        case WorkersLost(_, _, reason):
            return "workers_lost", reason or "its workers were lost"
        case WorkerExited(_, _, code, reason):
            cause = "time_limit" if code == TIMED_OUT and reason else "exit"
            return cause, reason or f"its workers ended with exit code {code}"
    return "", ""


class History:
    """The last notes of every job that is known, and of all together."""

    def __init__(self) -> None:
        self._notes: dict[str, deque[JobNote]] = {}
        self._recent: deque[JobNote] = deque(maxlen=_RECENT)
        self._places: dict[str, frozenset[str]] = {}  # nodes of jobs that are placed
        self._vacated: dict[str, frozenset[str]] = {}  # of victims whose place nobody took yet

    def of(self, job_id: str) -> tuple[JobNote, ...]:
        """What happened to a job, the oldest first."""
        return tuple(self._notes.get(job_id, ()))

    def last(self, job_id: str, *kinds: str) -> JobNote | None:
        """The last note of some kinds."""
        notes = self._notes.get(job_id, ())
        return next((note for note in reversed(notes) if note.what in kinds), None)

    def recent(self, count: int) -> tuple[JobNote, ...]:
        """The last notes of all jobs, the oldest first."""
        return tuple(self._recent)[-count:]

    def image(self, notes_of: Collection[str] | None = None) -> History:
        """A copy that goes on by itself; notes never change, and are shared.

        Parameters
        ----------
        notes_of : collection of str or None, optional
            Jobs whose notes go with it; None: all, and those of all together.
        """
        copy = History()
        chosen = [j for j in (self._notes if notes_of is None else notes_of) if j in self._notes]
        copy._notes = {job_id: deque(self._notes[job_id], MOST_NOTES) for job_id in chosen}
        if notes_of is None:
            copy._recent = deque(self._recent, _RECENT)
        copy._places, copy._vacated = dict(self._places), dict(self._vacated)
        return copy

    def forget(self, job_id: str) -> None:
        """A job is no longer known."""
        for kept in (self._notes, self._places, self._vacated):
            kept.pop(job_id, None)

    def note(
        self, time_ms: int, body: _Body, effects: Sequence[Effect], reason: Reason
    ) -> tuple[JobNote, ...]:
        """An entry was applied; what is to be told of it.

        Parameters
        ----------
        time_ms : int
            When.
        body : Command or Event
            The entry's.
        effects : sequence of Effect
            What came of it.
        reason : Reason
            OK, or why it was refused.
        """
        fresh: list[JobNote] = []
        if isinstance(body, Preempt | Scale | Cancel) and reason != Reason.OK:
            said = f"{type(body).__name__.lower()}_job: {reason.name.lower()}"
            fresh.append(JobNote(time_ms, body.job_id, "refused", "command", said))
        elif reason == Reason.OK:
            stopped = any(isinstance(effect, StopJob) for effect in effects)
            fresh += self._of_entry(time_ms, body, stopped=stopped)
        wishes = _wishes(body)
        for effect in effects:
            if not isinstance(effect, ReleaseNode):
                cause = _cause(body, wishes.get(effect.job_id, ""))
                fresh += self._of_effect(time_ms, body, effect, cause)
        for note in fresh:
            self._notes.setdefault(note.job_id, deque(maxlen=MOST_NOTES)).append(note)
        self._recent += fresh
        return tuple(fresh)

    def _of_entry(self, time_ms: int, body: _Body, *, stopped: bool) -> Iterator[JobNote]:
        """What an entry says of a job by itself; workers that are ``stopped`` did not complete."""
        if isinstance(body, Submit):
            yield JobNote(time_ms, body.spec.job_id, "submitted")
        elif isinstance(body, JobOverdue):
            yield JobNote(time_ms, body.job_id, "overdue", "time_limit", body.reason, run=body.run)
        elif isinstance(body, WorkerExited) and not stopped:
            self._places.pop(body.job_id, None)
            yield JobNote(time_ms, body.job_id, "completed", "exit", run=body.run, exit_code=0)
        elif isinstance(body, Cancel) and not stopped:
            self._vacated.pop(body.job_id, None)  # it waited, and nobody takes its place any more
            yield JobNote(time_ms, body.job_id, "failed", *_cause(body, ""))

    def _of_effect(
        self,
        time_ms: int,
        body: _Body,
        effect: StartJob | RegroupJob | SaveCheckpoint | StopJob,
        because: tuple[str, str],
    ) -> Iterator[JobNote]:
        job_id, run = effect.job_id, effect.run
        cause, reason = because
        if isinstance(effect, StartJob | RegroupJob):
            nodes = sorted({place.node_id for place in effect.workers})
            self._places[job_id] = frozenset(nodes)
            count = len(effect.workers)
            where = f"{count} worker{'s' * (count != 1)} on {', '.join(nodes)}"
            if isinstance(effect, StartJob):
                self._vacated.pop(job_id, None)
                yield JobNote(time_ms, job_id, "started", "", where, "", run, None, tuple(nodes))
                yield from self._displaced(time_ms, job_id)
            else:
                what = "moved" if effect.moved else "resized"
                said = f"{where} ({reason})" if reason else where
                yield JobNote(time_ms, job_id, what, cause, said, "", run, None, tuple(nodes))
        elif isinstance(effect, SaveCheckpoint):
            yield JobNote(time_ms, job_id, "preempted", cause, reason, run=run)
            self._vacate(job_id, cause)
        else:
            yield self._stopped(JobNote(time_ms, job_id, "", cause, reason, run=run), body, effect)

    def _stopped(self, note: JobNote, body: _Body, stop: StopJob) -> JobNote:
        """How a run came to its end, and what follows for the place that it had."""
        told: dict[str, Any] = {"time_ms": note.time_ms, "job_id": note.job_id, "run": note.run}
        if isinstance(body, CheckpointCommitted) and body.job_id == note.job_id:
            self._places.pop(note.job_id, None)
            return JobNote(what="saved", **told)
        told |= {"cause": note.cause, "reason": note.reason}
        running = note.job_id in self._places  # it is not being saved
        if stop.reason == StopReason.PREEMPTED:
            self._vacate(note.job_id, note.cause)
            return JobNote(what="preempted", **told)
        self._places.pop(note.job_id, None)
        if stop.reason == StopReason.CANCELLED:
            return JobNote(what="failed", **told)
        if isinstance(body, WorkerExited) and body.job_id == note.job_id:
            what = "failed" if running else "interrupted"
            return JobNote(what=what, exit_code=body.exit_code, **told)
        return JobNote(what="interrupted", **told)

    def _vacate(self, job_id: str, cause: str) -> None:
        """A job gives up its place: if a policy wanted it, for whoever comes there first."""
        nodes = self._places.pop(job_id, frozenset())
        if cause == "policy":
            self._vacated[job_id] = nodes

    def _displaced(self, time_ms: int, job_id: str) -> Iterator[JobNote]:
        """A job has started: perhaps where another had to go."""
        mine = self._places[job_id]
        for victim in [name for name, nodes in self._vacated.items() if nodes & mine]:
            del self._vacated[victim]
            said = f"its place was taken by job '{job_id}'"
            yield JobNote(time_ms, victim, "displaced", "policy", said, job_id)


# --- nodes ---------------------------------------------------------------------------------------


class Outages:
    """Outages of nodes, those that are over and those that last.

    Parameters
    ----------
    known : iterable of tuple, optional
        As :meth:`image` has them.
    """

    def __init__(self, known: Iterable[tuple[str, int, int]] = ()) -> None:
        self._over = deque[tuple[str, int, int]](maxlen=MOST_OUTAGES)
        self._open = dict[str, int]()
        for node_id, from_ms, until_ms in known:
            if until_ms < 0:
                self._open[node_id] = from_ms
            else:
                self._over.append((node_id, from_ms, until_ms))

    def begin(self, node_id: str, time_ms: int) -> None:
        """A node has failed; one that had failed already has not failed again."""
        self._open.setdefault(node_id, time_ms)

    def end(self, node_id: str, time_ms: int) -> None:
        """A node is back; one that had not failed was never away."""
        from_ms = self._open.pop(node_id, None)
        if from_ms is not None:
            self._over.append((node_id, from_ms, time_ms))

    def forget(self, node_id: str) -> None:
        """A node has left: it does not come back from an outage."""
        self._open.pop(node_id, None)

    def image(self) -> tuple[tuple[str, int, int], ...]:
        """Node, from when, until when; below 0: it lasts."""
        return (*self._over, *((node_id, since, -1) for node_id, since in self._open.items()))
