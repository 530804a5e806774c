"""An episode as it can be looked at: its jobs with all their runs, nodes, events and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from envs.session import Session
from envs.viewing.lanes import place_bars
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import FOREVER_MS, JobCode, JobKind, LogKind, NodeCode
from orchestrator.scheduling.log import Event, LogReader, decode_log
from orchestrator.scheduling.runs import RunReader

__all__ = [
    "OUTAGE_DTYPE",
    "SEEN_JOB_DTYPE",
    "Alternative",
    "EpisodeReader",
    "EpisodeView",
    "Explanation",
    "job_names",
]

SEEN_JOB_DTYPE = np.dtype(
    [
        ("id", "i8"),  # the job's number in the trace that it came from
        ("submit_ms", "i8"),
        ("end_ms", "i8"),  # -1: it has not ended
        ("work_ms", "i8"),  # run time as it asked for workers, at nominal speed
        ("estimate_ms", "i8"),  # -1: nobody expects it to end
        ("units", "i8"),  # as it asked: milli-GPUs, or milli-cores
        ("workers", "i8"),
        ("tenant", "i8"),
        ("priority", "u1"),
        ("service", "u1"),
        ("completed", "u1"),
    ]
)
"""A job that was submitted."""

OUTAGE_DTYPE = np.dtype(
    [
        ("node", "i8"),
        ("start_ms", "i8"),
        ("end_ms", "i8"),
        ("state", "u1"),  # codes.NodeCode: anything but UP
    ]
)
"""A time in which a node took no jobs."""

_PER_JOB, _LEAST = 64, 4096  # entries of rings


@dataclass(frozen=True)
class Alternative:
    """Something that could be done at a decision point.

    Parameters
    ----------
    action : str
        In words.
    score : float
        What it is worth to whoever decides; NaN: that is not said.
    note : str, optional
        What else is to be known of it: how sure its worth is, or why it cannot be done.
    parts : sequence of (str, float), optional
        What its score is the sum of, the largest first.
    """

    action: str
    score: float
    note: str = ""
    parts: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Explanation:
    """Why an action: what each alternative was worth, the one that is taken first.

    What a live cluster logs of a decision is the same
    (:class:`orchestrator.deployment.records.Choice`).

    Parameters
    ----------
    time_ms : int
    point : int
        Number of the decision point.
    by : str
        What the scores are, and which are good.
    alternatives : tuple of Alternative
        The first one is taken; the others by what they are worth.
    count : int, optional
        How many there were, where not all are told; 0: those that are told.
    """

    time_ms: int
    point: int
    by: str
    alternatives: tuple[Alternative, ...]
    count: int = 0

    @property
    def taken(self) -> Alternative:
        """What is done."""
        return self.alternatives[0]

    def __str__(self) -> str:
        """The alternatives as lines of text."""
        lines = [f"t = {self.time_ms / 1000:.0f} s, decision point {self.point}; {self.by}"]
        for k, one in enumerate(self.alternatives):
            parts = ", ".join(f"{name} {value:+.3g}" for name, value in one.parts)
            cells = [f"{one.score:12.5g}", "*" if k == 0 else " ", one.action, one.note, parts]
            lines.append("  ".join(cell for cell in cells if cell))
        return "\n".join(lines)


@dataclass(frozen=True)
class EpisodeView:
    """An episode up to some moment; times are those of the trace, ms.

    Parameters
    ----------
    policy : str
        Who decided.
    title : str
        Which episode it is.
    resource : str
        What a thousand capacity units are: ``GPUs`` or ``processors``.
    begin_ms, now_ms : int
    bound_ms : int
        Shortest run time that slowdowns are measured against.
    jobs : SEEN_JOB_DTYPE [J]
        Those that were submitted.
    runs : RUN_DTYPE [R]
        Every stretch of every job's runs, by job and time; ``job`` is an index of ``jobs``.
    bars : BAR_DTYPE [B]
        Where they are.
    nodes : tuple of str
    capacity : int64 [nodes]
        Capacity units of each.
    outages : OUTAGE_DTYPE [O]
    events : tuple of Event
        The event log.
    explanations : tuple of Explanation, optional
        Of its decisions, as far as they were asked for, by time.
    """

    policy: str
    title: str
    resource: str
    begin_ms: int
    now_ms: int
    bound_ms: int
    jobs: NDArray[np.void]
    runs: NDArray[np.void]
    bars: NDArray[np.void]
    nodes: tuple[str, ...]
    capacity: NDArray[np.int64]
    outages: NDArray[np.void]
    events: tuple[Event, ...]
    explanations: tuple[Explanation, ...] = ()

    def explained(self, explanations: Sequence[Explanation]) -> EpisodeView:
        """The same with why its actions were taken."""
        return replace(self, explanations=tuple(explanations))


class EpisodeReader:
    """Reads what happens in the rows of a session, so that their episodes can be looked at.

    Parameters
    ----------
    session : Session
        About to begin: it is made to keep what happens.
    """

    def __init__(self, session: Session) -> None:
        room = max(_PER_JOB * session.state.shape.jobs, _LEAST)
        session.keep_effects(room)
        session.keep_log(room)
        self._session = session
        self._runs = RunReader(session.envs, services=True)
        self._log = LogReader(session.envs)

    def keep_up(self) -> None:
        """Read what has happened before it is overwritten: after every step of the rows."""
        self._runs.keep_up(self._session.state)
        self._log.keep_up(self._session.state)

    def forget(self, e: int = 0) -> None:
        """Begin anew with row ``e``: an episode begins in it."""
        self._runs.forget(e)
        self._log.forget(e)

    def read(self, policy: str, title: str = "", e: int = 0) -> EpisodeView:
        """The episode of row ``e`` up to now.

        Raises
        ------
        ConfigurationError
            If more has happened between two calls of :meth:`keep_up` than there is room for.
        """
        state = self._session.state
        found, records = self._runs.look(state, e), self._log.look(state, e)
        if found is None or records is None:
            raise ConfigurationError(
                "episode: more has happened than was kept; call keep_up after every step"
            )
        row = state.rows[e]
        known = np.flatnonzero(state.job[e, : int(row["num_jobs"])]["state"] != JobCode.ABSENT)
        runs = found.runs.copy()
        runs["job"] = np.searchsorted(known, runs["job"])
        ask = state.request[e, found.runs["job"]]
        devices = (row["unit"] != 0) & (ask["gpus_per_worker"] > 0)
        host = state.node[e, : int(row["num_nodes"])]
        each = host["gpus"] * 1000 if row["unit"] else host["cpu_cap_milli"]
        names, nodes = job_names(self._session, e), _node_names(self._session, len(host))
        return EpisodeView(
            policy=policy,
            title=title,
            resource="GPUs" if row["unit"] else "processors",
            begin_ms=int(row["begin_ms"]),
            now_ms=int(row["now_ms"]),
            bound_ms=int(row["slowdown_bound_ms"]),
            jobs=_jobs(self._session, e, known),
            runs=runs,
            bars=place_bars(found, np.where(devices, ask["gpu_milli"], 0), each),
            nodes=nodes,
            capacity=each.astype(np.int64),
            outages=_outages(self._session, e, records),
            events=tuple(decode_log(records, names, nodes, found.places_by_job())),
        )


def job_names(session: Session, e: int) -> list[str]:
    """What a row's jobs are called: by their numbers in the trace that they come from."""
    row = session.state.rows[e]
    return [str(j) for j in session.state.request[e, : int(row["num_jobs"])]["source_id"].tolist()]


def _node_names(session: Session, count: int) -> tuple[str, ...]:
    """Names of the trace's nodes, and of those that may be ordered besides."""
    named = [node.node_id for node in session.trace.nodes][:count]
    return (*named, *(f"spare-{k}" for k in range(count - len(named))))


def _jobs(session: Session, e: int, known: NDArray[np.int64]) -> NDArray[np.void]:
    """The jobs of a row that were submitted, ``known``, as they are seen."""
    ask, own = session.state.request[e, known], session.state.job[e, known]
    seen = np.zeros(len(known), SEEN_JOB_DTYPE)
    ended = np.isin(own["state"], (JobCode.COMPLETED, JobCode.FAILED))
    each = ask["gpus_per_worker"] * ask["gpu_milli"]
    if session.state.rows[e]["unit"] == 0:
        each = ask["cpu_milli"]
    seen["id"], seen["units"] = ask["source_id"], ask["workers"] * each
    seen["end_ms"] = np.where(ended, own["end_ms"], -1)
    seen["work_ms"] = ask["duration_ms"]
    seen["estimate_ms"] = np.where(ask["requested_ms"] < FOREVER_MS, ask["requested_ms"], -1)
    for name in ("submit_ms", "workers", "tenant", "priority"):
        seen[name] = ask[name]
    seen["service"] = ask["kind"] == JobKind.SERVICE
    seen["completed"] = own["state"] == JobCode.COMPLETED
    return seen


def _outages(session: Session, e: int, records: NDArray[np.void]) -> NDArray[np.void]:
    """When nodes took no jobs, and why."""
    row = session.state.rows[e]
    states = session.source.episode.nodes["state"].tolist()
    since = [int(row["begin_ms"])] * len(states)
    changes = records[records["kind"] == LogKind.NODE_STATE]
    last = [(int(row["now_ms"]), n, NodeCode.UP) for n in range(len(states))]
    fields = zip(*(changes[name].tolist() for name in ("time_ms", "subject", "value")), strict=True)
    found = []
    for time_ms, n, state in (*fields, *last):
        if states[n] != NodeCode.UP and time_ms > since[n]:
            found.append((n, since[n], time_ms, states[n]))
        states[n], since[n] = state, time_ms
    return np.array(sorted(found), OUTAGE_DTYPE)
