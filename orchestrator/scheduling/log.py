"""The event log of a row: read before it is overwritten, and decoded into a table for people.

What a row keeps of its past lies in rings (:mod:`orchestrator.kernels.change.log`), whose oldest
entries make way for new ones. :class:`RingReader` follows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import JobCode, LogKind, NodeCode
from orchestrator.kernels.state.records import LOG_DTYPE
from orchestrator.kernels.state.row import ClusterState

__all__ = ["EVENT_COLUMNS", "Event", "LogReader", "RingReader", "decode_log"]

EVENT_COLUMNS = ("time", "what", "job", "node", "detail")
"""Columns of a table of events, as ``events.csv`` has them; ``time`` in seconds."""


class Event(NamedTuple):
    """A record of the event log in words.

    Parameters
    ----------
    time_ms : int
    what : str
        What a job or node became: ``submitted``, ``scheduled``, ``placed``, ``running``, ..., and
        ``node up``, ``node down``, ...
    job : str
        Its name; empty where a node is meant.
    node : str
        The node or, of a placement, those of all workers, separated by semicolons.
    detail : str
        What it was before, or how much it holds.
    """

    time_ms: int
    what: str
    job: str
    node: str
    detail: str


class RingReader:
    """Follows a ring of every row, so that nothing is lost when it is overwritten.

    Parameters
    ----------
    envs : int
        Rows.
    count : str
        Field of a row: how many entries were ever written in its episode.
    """

    def __init__(self, envs: int, count: str) -> None:
        self._count = count
        self._read = np.zeros(envs, np.int64)
        self._lost = np.zeros(envs, np.bool_)

    def behind(self, state: ClusterState, ring: int) -> list[int]:
        """Rows whose rings, of so many entries, are half full of what is new."""
        fresh = state.rows[self._count] - self._read
        return [int(e) for e in np.flatnonzero(2 * fresh > ring)]

    def slots(self, state: ClusterState, e: int, ring: int) -> NDArray[np.int64]:
        """Slots of what is new in a row, which is then read."""
        count = int(state.rows[e][self._count])
        first = max(int(self._read[e]), count - ring)
        self._lost[e] |= first > self._read[e]
        self._read[e] = count
        return np.arange(first, count) % max(ring, 1)

    def complete(self, e: int) -> bool:
        """Whether all that was written to a row's ring has been read."""
        return not self._lost[e]

    def forget(self, e: int) -> None:
        """Begin anew with row ``e``: an episode begins in it."""
        self._read[e], self._lost[e] = 0, False


class LogReader:
    """Reads the event logs of rows that keep records (:meth:`envs.session.Session.keep_log`).

    Parameters
    ----------
    envs : int
        Rows.
    """

    def __init__(self, envs: int) -> None:
        self._ring = RingReader(envs, "log_count")
        self._parts: list[list[NDArray[np.void]]] = [[] for _ in range(envs)]

    def keep_up(self, state: ClusterState) -> None:
        """Read the logs that are half full of what is new: whoever steps rows calls this."""
        for e in self._ring.behind(state, state.shape.log):
            self.look(state, e)

    def look(self, state: ClusterState, e: int) -> NDArray[np.void] | None:
        """The records of row ``e`` since it began, LOG_DTYPE [n].

        None if its ring was too small, so that they are not known.
        """
        self._parts[e].append(state.log[e, self._ring.slots(state, e, state.shape.log)])
        return np.concatenate(self._parts[e]) if self._ring.complete(e) else None

    def finish(self, state: ClusterState, e: int) -> NDArray[np.void] | None:
        """The same, and begin anew with the row."""
        found = self.look(state, e)
        self.forget(e)
        return found

    def forget(self, e: int) -> None:
        """Begin anew with row ``e``: an episode begins in it."""
        self._ring.forget(e)
        self._parts[e] = []


def decode_log(
    records: NDArray[np.void],
    jobs: Sequence[str],
    nodes: Sequence[str],
    places: Mapping[int, Sequence[Sequence[int]]] | None = None,
) -> list[Event]:
    """Records of an event log in words, one for one.

    Parameters
    ----------
    records : LOG_DTYPE [n]
    jobs, nodes : sequence of str
        Names, by index in the row.
    places : mapping of int to sequence of sequence of int, optional
        By job, the nodes of the workers of each of its placements in their order; None: they are
        not known, for a record has nothing but their hash.
    """
    if records.dtype != LOG_DTYPE:
        raise TypeError(f"records have type {records.dtype}; give those of a row's log, LOG_DTYPE")
    before: dict[tuple[int, int], int] = {}
    left = {job: iter(each) for job, each in (places or {}).items()}
    told = list[Event]()
    fields = ("time_ms", "kind", "subject", "value")
    for time_ms, kind, subject, value in zip(*(records[f].tolist() for f in fields), strict=True):
        if kind == LogKind.PLACEMENT:
            workers = next(left.get(subject, iter(())), ())
            told.append(Event(time_ms, "placed", jobs[subject], *_place(workers, nodes)))
            continue
        last = before.get((kind, subject))
        before[kind, subject] = value
        if kind == LogKind.NODE_STATE:
            was = "" if last is None else f"was {_word(NodeCode, last)}"
            what = f"node {_word(NodeCode, value)}"
            told.append(Event(time_ms, what, "", nodes[subject], was))
        else:
            was = "" if last is None else f"was {_word(JobCode, last)}"
            told.append(Event(time_ms, _became(last, value), jobs[subject], "", was))
    return told


def _word(codes: Any, value: int) -> str:
    return str(codes(value).name.lower())


def _became(last: int | None, value: int) -> str:
    """What a job became, in words."""
    if value != JobCode.PENDING:
        return _word(JobCode, value)
    return "submitted" if last is None else "interrupted"


def _place(workers: Sequence[int], nodes: Sequence[str]) -> tuple[str, str]:
    """Where a gang is, and how scattered."""
    if not len(workers):
        return "", ""
    many = len(set(workers))
    detail = f"{len(workers)} worker{'s' * (len(workers) > 1)} on {many} node{'s' * (many > 1)}"
    return ";".join(nodes[n] for n in workers), detail
