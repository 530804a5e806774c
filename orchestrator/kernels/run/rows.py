"""Entry points for Python callers: each takes ``(rows, e, ...)`` and works on row ``rows[e]``.

An episode loads all its jobs at once and takes completions off its own event queue. A live row
starts empty, grows, and hears of completions from outside; what its event queue holds is then a
prediction, for what-ifs, and nothing here takes events off it.

A rule is handed over as an array of one RULE_DTYPE record. An action is (``ActionKind``, job,
value); what the last two are, :func:`~orchestrator.kernels.decide.commit.commit` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import assume_future as _assume_future
from orchestrator.kernels.change.episode import begin_episode as _begin_episode
from orchestrator.kernels.change.episode import copy_row as _copy_row
from orchestrator.kernels.change.episode import restore_row as _restore_row
from orchestrator.kernels.change.episode import save_row as _save_row
from orchestrator.kernels.change.episode import saved_bytes as _saved_bytes
from orchestrator.kernels.change.events import apply_event as _apply_event
from orchestrator.kernels.change.events import close_point, count_decision
from orchestrator.kernels.change.events import open_point as _open_point
from orchestrator.kernels.change.timeline import advance_clock as _advance_clock
from orchestrator.kernels.change.timeline import next_event
from orchestrator.kernels.decide.advance import advance as _advance
from orchestrator.kernels.decide.advance import serve_commitment
from orchestrator.kernels.decide.commit import commit as _commit
from orchestrator.kernels.decide.legal import decision_open
from orchestrator.kernels.decide.order import attained_now as _attained_now
from orchestrator.kernels.decide.order import job_score as _job_score
from orchestrator.kernels.decide.rules import replay as _replay
from orchestrator.kernels.decide.rules import rule_action as _rule_action
from orchestrator.kernels.decide.turn.reserve import earliest_fit as _earliest_fit
from orchestrator.kernels.decide.turn.reserve import start_refusal as _start_refusal
from orchestrator.kernels.lang.jit import entry, on_row, small_kernel
from orchestrator.kernels.lang.memory import move_bytes
from orchestrator.kernels.place.fit import can_ever_fit as _can_ever_fit
from orchestrator.kernels.place.fit import fits as _fits
from orchestrator.kernels.place.fit import why_not as _why_not
from orchestrator.kernels.place.slots import units_of as _units_of
from orchestrator.kernels.place.throughput import speed_milli as _speed_milli
from orchestrator.kernels.run.buffers import Bench, Buffers, View
from orchestrator.kernels.see.encode import encode as _encode
from orchestrator.kernels.see.encode import look_anew as _look_anew
from orchestrator.kernels.see.layout import decode as _decode
from orchestrator.kernels.see.metrics import read_metrics as _read_metrics
from orchestrator.kernels.state.codes import EventKind, Status

__all__ = [
    "advance",
    "apply_event",
    "assume_future",
    "attained_now",
    "begin_episode",
    "can_ever_fit",
    "commit",
    "copy_row",
    "decode",
    "describe",
    "earliest_fit",
    "fits",
    "job_score",
    "open_point",
    "read_metrics",
    "replay",
    "restore_row",
    "rule_action",
    "save_row",
    "saved_bytes",
    "settle",
    "speed_milli",
    "start_refusal",
    "units_of",
    "wait",
    "wake",
    "why_not",
]

Rows: TypeAlias = NDArray[np.void]
Nodes: TypeAlias = NDArray[np.int32]
_Action: TypeAlias = tuple[int, int, int]


@entry
def wait(rows: Rows, e: int) -> None:
    """Nothing more is decided now. In a live cluster there is always something to wait for."""
    close_point(rows[e])
    count_decision(rows[e])


@entry
def wake(rows: Rows, e: int, time_ms: int) -> bool:
    """Open a point at ``time_ms`` if an episode's next event comes later; whether it was opened.

    With nothing left to happen there is nothing to be woken for.
    """
    row = rows[e]
    next_ms, kind, _ = next_event(row)
    if time_ms < row.now_ms or kind == EventKind.NONE or next_ms <= time_ms:
        return False
    _advance_clock(row, np.int64(time_ms))
    _open_point(row)
    return True


@entry
def settle(rows: Rows, e: int, nodes: NDArray[np.int32]) -> int:
    """What :func:`orchestrator.kernels.decide.advance.advance` does at one instant: a ``Status``.

    The committed job starts if it fits, or the queue is backfilled around it. ``DECISION`` means
    that a point is open at which there is something to decide; ``DONE`` that there is not, until
    something happens.
    """
    row = rows[e]
    if row.committed >= 0 and serve_commitment(row, nodes):
        return int(np.int64(Status.DONE))
    if row.point_open != 0:
        if decision_open(row):
            return int(np.int64(Status.DECISION))
        close_point(row)
    return int(np.int64(Status.DONE))


advance: Callable[[Rows, int, Nodes], int] = on_row(_advance)
"""``(nodes)``: on to the next decision point, or to the end; a ``Status``."""


commit: Callable[[Rows, int, int, int, int, Nodes], int] = on_row(_commit)
"""``(kind, job, value, nodes)``: carry out an action; a ``Reason``, OK if it was carried out."""


decode: Callable[[Rows, int, int, View, Buffers], _Action] = on_row(_decode)
"""``(action, view, buffers)``: the action that a flat number stands for."""


open_point: Callable[[Rows, int], None] = on_row(_open_point)
"""Say that something happened: there may be something to decide."""


fits: Callable[[Rows, int, int], bool] = on_row(_fits)
"""``(job)``: whether its whole gang could start now."""


can_ever_fit: Callable[[Rows, int, int], bool] = on_row(_can_ever_fit)
"""``(job)``: whether its whole gang would fit into the cluster if it were empty."""


why_not: Callable[[Rows, int, int], int] = on_row(_why_not)
"""``(job)``: why its gang could not start now; a ``Reason``, OK if it could."""


speed_milli: Callable[[Rows, int, int, int, int, int], int] = on_row(_speed_milli)
"""``(job, workers, spread, model)``: its speed, thousandths of its nominal one.

``spread`` is the narrowest ``Topology`` domain that holds the workers, ``model`` the index of the
GPU model of the slowest.
"""


units_of: Callable[[Rows, int, int, int], int] = on_row(_units_of)
"""``(job, workers)``: capacity units that so many of its workers hold."""


attained_now: Callable[[Rows, int, int], int] = on_row(_attained_now)
"""``(job)``: service that it has had by now, capacity units x ms."""


job_score: Callable[[Rows, int, int, int], float] = on_row(_job_score)
"""``(job, key)``: its score now under a ``RuleKey``; lowest first."""


earliest_fit: Callable[[Rows, int, int], int] = on_row(_earliest_fit)
"""``(job)``: when it will fit by the running jobs' estimates, ms; ``NEVER``: not even then."""


start_refusal: Callable[[Rows, int, int, Nodes], int] = on_row(_start_refusal)
"""``(job, nodes)``: why it could not be placed now by best fit; a ``Reason``, OK if it could."""


read_metrics: Callable[[Rows, int, NDArray[np.float64]], None] = on_row(_read_metrics)
"""``(out)``: write one number for each ``Metric`` into ``out``, float64 [len(Metric)]."""


assume_future: Callable[[Rows, int, NDArray[np.void]], None] = on_row(_assume_future)
"""``(arrivals)``: replace all that a copied row knows of the future.

``arrivals`` are the jobs that arrive instead, REQUEST_DTYPE [n] by submit time; the row has room
for them.
"""


@entry
def begin_episode(
    rows: Rows, e: int, seed: int, nodes: NDArray[np.void], requests: NDArray[np.void]
) -> None:
    """Start a row afresh, which keeps its config: NODE_DTYPE [n], REQUEST_DTYPE [jobs] by time."""
    _begin_episode(rows[e], np.uint64(seed), nodes, requests[:0], requests)


@entry
def replay(
    rows: Rows, e: int, rules: NDArray[np.void], nodes: Nodes, scratch: NDArray[np.int32]
) -> int:
    """Run a row, just begun, to its end under a rule; the number of decisions taken."""
    return int(_replay(rows[e], rules[0], nodes, scratch))


@entry
def rule_action(rows: Rows, e: int, rules: NDArray[np.void], scratch: NDArray[np.int32]) -> _Action:
    """What a rule does at the decision point at which a row stands."""
    return _rule_action(rows[e], rules[0], scratch)


@entry
def copy_row(source_rows: Rows, i: int, target_rows: Rows, k: int) -> None:
    """Copy a row onto another, which keeps its own tables: they must be as large."""
    _copy_row(source_rows[i], target_rows[k])


@small_kernel
def _move(target, source, size):
    """``memmove``: what Python calls is typed, and intrinsics are not."""
    move_bytes(target, source, size)


@entry
def saved_bytes(rows: Rows, e: int, beside: NDArray[np.int64]) -> int:
    """How many bytes :func:`save_row` writes of a row."""
    size = _saved_bytes(rows[e])
    for k in range(beside.shape[0]):
        size += beside[k, 1]
    return int(size)


@entry
def save_row(rows: Rows, e: int, beside: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Write all of a row into ``out`` [saved_bytes], and what a session keeps of it beside it.

    ``beside``, int64 [K, 2], are arrays of one entry for each row: an address and the bytes of an
    entry.
    """
    at = _save_row(rows[e], np.int64(out.ctypes.data))
    for k in range(beside.shape[0]):
        size = beside[k, 1]
        _move(at, beside[k, 0] + np.int64(e) * size, size)
        at += size


@entry
def restore_row(rows: Rows, e: int, beside: NDArray[np.int64], saved: NDArray[np.uint8]) -> int:
    """Make a row again what :func:`save_row` wrote; how many bytes that were.

    The shapes of both rows, and of what is beside them, are the same.
    """
    begin = np.int64(saved.ctypes.data)
    at = _restore_row(rows[e], begin)
    for k in range(beside.shape[0]):
        size = beside[k, 1]
        _move(beside[k, 0] + np.int64(e) * size, at, size)
        at += size
    return int(at - begin)


@entry
def apply_event(rows: Rows, e: int, time_ms: int, kind: int, subject: int) -> None:
    """Move the clock to ``time_ms`` (never backwards) and apply an ``EventKind`` there.

    The event comes from outside: nothing is taken off the row's own event queue, except what the
    event itself cancels. ``subject`` is the job or node that it happens to.
    """
    _advance_clock(rows[e], np.int64(time_ms))
    _apply_event(rows[e], np.int64(kind), np.int64(subject))


@entry
def describe(rows: Rows, e: int, view: View, buffers: Buffers, bench: Bench) -> int:
    """Describe the decision point at which a row stands, whatever it was before.

    Unlike an episode's row, a live cluster's has jobs that came a moment ago: what is constant of
    a job is worked out anew each time. The result is the number of choices besides waiting.
    """
    _look_anew(rows[e], e, view, buffers)
    return int(np.int64(_encode(rows[e], e, view, buffers, bench)))
