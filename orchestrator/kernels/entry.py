"""Entry points for Python callers: each takes ``(rows, e, ...)`` and works on row ``rows[e]``.

Kernels take a single row. Indexing a structured array in Python makes a copy-like object of
another type on every call; here the row is taken inside the compiled code instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import advance as _advance
from orchestrator.kernels.buffers import Bench, Buffers, Source
from orchestrator.kernels.commit import commit as _commit
from orchestrator.kernels.feasibility import can_ever_fit as _can_ever_fit
from orchestrator.kernels.feasibility import fits as _fits
from orchestrator.kernels.feasibility import why_not as _why_not
from orchestrator.kernels.features import fill_static as _fill_static
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.metrics import read_metrics as _read_metrics
from orchestrator.kernels.node_memo import forget_nodes as _forget_nodes
from orchestrator.kernels.observe import decode as _decode
from orchestrator.kernels.observe import encode as _encode
from orchestrator.kernels.ordering import attained_now as _attained_now
from orchestrator.kernels.ordering import job_score as _job_score
from orchestrator.kernels.rules import replay as _replay
from orchestrator.kernels.rules import rule_action as _rule_action
from orchestrator.kernels.throughput import speed_milli as _speed_milli
from orchestrator.kernels.transition.apply import apply_event as _apply_event
from orchestrator.kernels.transition.decide import open_point as _open_point
from orchestrator.kernels.transition.episode import begin_episode as _begin_episode
from orchestrator.kernels.transition.episode import copy_row as _copy_row
from orchestrator.kernels.transition.foresight import assume_future as _assume_future
from orchestrator.kernels.transition.progress import units_of as _units_of
from orchestrator.kernels.transition.timeline import advance_clock as _advance_clock

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
    "fits",
    "job_score",
    "open_point",
    "read_metrics",
    "replay",
    "rule_action",
    "speed_milli",
    "units_of",
    "why_not",
]

Rows = NDArray[np.void]
Nodes = NDArray[np.int32]


@kernel
def begin_episode(
    rows: Rows, e: int, seed: int, nodes: NDArray[np.void], requests: NDArray[np.void]
) -> None:
    """Start row ``e`` afresh.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row; its config is kept.
    seed : int
        Seed of the row's random streams, not negative.
    nodes : NODE_DTYPE [n]
        Machines.
    requests : REQUEST_DTYPE [jobs]
        Jobs in submit order.
    """
    _begin_episode(rows[e], np.uint64(seed), nodes, requests[:0], requests)


@kernel
def advance(rows: Rows, e: int, nodes: Nodes) -> int:
    """Advance row ``e`` to its next decision point, or to its end: a ``Status``.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    nodes : int32 [>= workers]
        Scratch.
    """
    return int(np.int64(_advance(rows[e], nodes)))


@kernel
def commit(rows: Rows, e: int, kind: int, job: int, value: int, nodes: Nodes) -> int:
    """Carry out one action of row ``e``: a ``Reason``, ``OK`` if it was carried out.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    kind : int
        An ``ActionKind``.
    job : int
        The job that it is about, or the service; ignored for capacity and when waiting.
    value : int
        For a placement or a move, the ``Placement`` generator of the chosen candidate; for a
        resize, the new number of workers; for a service, of replicas; for capacity, the nodes to
        order, or to give up if negative.
    nodes : int32 [>= workers]
        Scratch.
    """
    return int(_commit(rows[e], np.int64(kind), np.int64(job), np.int64(value), nodes))


@kernel
def replay(
    rows: Rows, e: int, rules: NDArray[np.void], nodes: Nodes, scratch: NDArray[np.int32]
) -> int:
    """Run row ``e``, just begun, to its end under a rule; the number of decisions taken.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    rules : RULE_DTYPE [1]
        The rule.
    nodes : int32 [>= workers]
        Scratch.
    scratch : int32 [>= jobs]
        Scratch.
    """
    return int(_replay(rows[e], rules[0], nodes, scratch))


@kernel
def rule_action(
    rows: Rows, e: int, rules: NDArray[np.void], scratch: NDArray[np.int32]
) -> tuple[int, int, int]:
    """What a rule does at the decision point at which row ``e`` stands.

    Returns (``ActionKind``, job, value as :func:`commit` takes it).

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    rules : RULE_DTYPE [1]
        The rule.
    scratch : int32 [>= jobs]
        Scratch.
    """
    return _rule_action(rows[e], rules[0], scratch)


@kernel
def copy_row(source_rows: Rows, i: int, target_rows: Rows, k: int) -> None:
    """Copy row ``i`` of ``source_rows`` onto row ``k`` of ``target_rows``, tables included.

    The target keeps its own tables, which must be as large as the source's.

    Parameters
    ----------
    source_rows, target_rows : ROW_DTYPE [envs]
    i, k : int
        Rows.
    """
    _copy_row(source_rows[i], target_rows[k])


@kernel
def apply_event(rows: Rows, e: int, time_ms: int, kind: int, subject: int) -> None:
    """Move the clock of row ``e`` to ``time_ms`` (never backwards) and apply an event there.

    The event comes from outside: nothing is taken off the row's own event queue, except what the
    event itself cancels.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    time_ms : int
        When it happened.
    kind : int
        An ``EventKind``.
    subject : int
        Index of the job or node that it happens to.
    """
    _advance_clock(rows[e], np.int64(time_ms))
    _apply_event(rows[e], np.int64(kind), np.int64(subject))


@kernel
def open_point(rows: Rows, e: int) -> None:
    """Say that something happened in row ``e``: there may be something to decide.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    """
    _open_point(rows[e])


@kernel
def fits(rows: Rows, e: int, job: int) -> bool:
    """Whether the whole gang of a job of row ``e`` could start now.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    job : int
        Job.
    """
    return bool(_fits(rows[e], np.int64(job)))


@kernel
def can_ever_fit(rows: Rows, e: int, job: int) -> bool:
    """Whether the whole gang of a job of row ``e`` would fit into its cluster if it were empty.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    job : int
        Job.
    """
    return bool(_can_ever_fit(rows[e], np.int64(job)))


@kernel
def why_not(rows: Rows, e: int, job: int) -> int:
    """Why the gang of a job of row ``e`` could not start now: a ``Reason``, OK if it could.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    job : int
        Job.
    """
    return int(_why_not(rows[e], np.int64(job)))


@kernel
def speed_milli(rows: Rows, e: int, job: int, workers: int, spread: int, model: int) -> int:
    """Speed of a job of row ``e``, thousandths of its nominal one.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    job : int
        Job.
    workers : int
        Workers that it would run on.
    spread : int
        The narrowest ``Topology`` domain that holds them.
    model : int
        Index of the GPU model of the slowest.
    """
    speed = _speed_milli(
        rows[e], np.int64(job), np.int64(workers), np.int64(spread), np.int64(model)
    )
    return int(speed)


@kernel
def units_of(rows: Rows, e: int, job: int, workers: int) -> int:
    """Capacity units that so many workers of a job of row ``e`` hold."""
    return int(_units_of(rows[e], np.int64(job), np.int64(workers)))


@kernel
def attained_now(rows: Rows, e: int, job: int) -> int:
    """Service that a job of row ``e`` has had by now, capacity units x ms."""
    return int(_attained_now(rows[e], np.int64(job)))


@kernel
def job_score(rows: Rows, e: int, job: int, key: int) -> float:
    """Score of a job of row ``e`` now under a sort key; lowest first.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    job : int
        Job.
    key : int
        A ``RuleKey``.
    """
    return float(_job_score(rows[e], np.int64(job), np.int64(key)))


@kernel
def read_metrics(rows: Rows, e: int, out: NDArray[np.float64]) -> None:
    """Write the metric vector of row ``e``, one number for each ``Metric``, into ``out``.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    out : float64 [len(Metric)]
    """
    _read_metrics(rows[e], out)


@kernel
def assume_future(rows: Rows, e: int, arrivals: NDArray[np.void]) -> None:
    """Replace all that row ``e``, a copy, knows of the future.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row, with room for n more jobs.
    arrivals : REQUEST_DTYPE [n]
        Jobs that arrive instead, by submit time.
    """
    _assume_future(rows[e], arrivals)


@kernel
def describe(rows: Rows, e: int, source: Source, buffers: Buffers, bench: Bench) -> int:
    """Describe the decision point at which row ``e`` stands, whatever it was before.

    Unlike an episode's row, a live cluster's has jobs that came a moment ago: what is constant of
    a job is worked out anew each time.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row, and where in the buffers it is described.
    source, buffers, bench
        Of the source, its settings, generators, advisor and maxima.

    Returns
    -------
    int
        Choices besides waiting.
    """
    encoding = np.int64(source.settings[0].encoding)
    _fill_static(rows[e], encoding, source.maxima, buffers.static[e])
    buffers.nodes_seen[e] = -1
    _forget_nodes(buffers.nodes, e)
    return int(np.int64(_encode(rows[e], e, source, buffers, bench)))


@kernel
def decode(
    rows: Rows, e: int, action: int, source: Source, buffers: Buffers
) -> tuple[int, int, int]:
    """(``ActionKind``, job, value as :func:`commit` takes it) of a flat action of row ``e``."""
    return _decode(rows[e], e, action, source, buffers)
