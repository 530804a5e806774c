"""Lists of jobs, nodes and the queue, a page at a time, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.errors import UnknownEntityError, ValidationError
from orchestrator.kernels.run import rows as kernels
from orchestrator.kernels.run.cycle import rank_queue
from orchestrator.kernels.state.codes import NEVER, JobCode, NodeCode
from orchestrator.ports import Runtime
from orchestrator.status import (
    binding_status,
    device_status,
    nodes_of,
    queue_position,
    state_note,
    why_waiting,
)
from orchestrator.types import JobState

__all__ = [
    "MOST_LISTED",
    "JobFilter",
    "job_page",
    "node_list",
    "node_page",
    "queue_page",
    "served_order",
]


MOST_LISTED = 10_000
"""Most of a page."""


_Rule: TypeAlias = NDArray[np.void] | None  # RULE_DTYPE [1]: by which jobs are placed; if one does


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


@dataclass(frozen=True)
class JobFilter:
    """Which jobs are listed; None: whatever it is.

    Parameters
    ----------
    state : JobState, str or None
    tenant : str or None
    name : str or None
    """

    state: JobState | str | None = None
    tenant: str | None = None
    name: str | None = None

    @property
    def code(self) -> JobCode | None:
        """The state as it is stored."""
        if self.state is None:
            return None
        try:
            return JobCode[JobState(self.state).name]
        except ValueError:
            wanted = ", ".join(state.value for state in JobState)
            problem = f"is {self.state!r:.80}"
            raise ValidationError("list_jobs", "state", problem, f"give one of {wanted}") from None


def _check_limit(subject: str, limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_LISTED:
        remedy = f"give an integer from 1 to {MOST_LISTED:,}"
        raise ValidationError(subject, "limit", f"is {limit!r:.80}", remedy)


def _cursor(subject: str, field: str, cursor: str) -> tuple[int, str]:
    """The two parts of a cursor: a number, and what it belongs to."""
    number, dot, rest = str(cursor).partition(".")
    if not (dot and number.isdecimal() and rest):
        problem = f"is {cursor!r:.80}"
        raise ValidationError(subject, field, problem, "give a cursor that was told")
    return int(number), rest


# --- jobs ----------------------------------------------------------------------------------------


def job_page(
    engine: Engine, chosen: JobFilter, limit: int, before: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Jobs, the one that was submitted last first; and a cursor for the next page, if there is one.

    Jobs that were submitted in one millisecond go by their place in the table. Nothing that happens
    between two pages moves a job from one to the other.
    """
    _check_limit("list_jobs", limit)
    count = len(engine.jobs.index.ids)
    submits = engine.jobs.submits_ms[:count]  # not those of the requests, which lie far apart
    fits = _filtered(engine, chosen, count)
    if before is not None:
        last_ms, place = _cursor("list_jobs", "before", before)
        if not place.isdecimal():
            raise ValidationError("list_jobs", "before", f"is {before!r:.80}", "give one told")
        earlier = (submits == last_ms) & (np.arange(count) < int(place))
        fits &= (submits < last_ms) | earlier
    found = np.flatnonzero(fits)
    if chosen.name is not None:
        ids, specs = engine.jobs.index.ids, engine.jobs.specs
        found = found[[specs[ids[j]].name == chosen.name for j in found.tolist()]]
    more = len(found) > limit
    if more:  # all that are as late as the last one of the page; then only these are sorted
        times = submits[found]
        found = found[times >= np.partition(times, -limit)[-limit]]
    page = found[np.lexsort((-found, -submits[found]))][:limit].tolist()
    cursor = f"{int(submits[page[-1]])}.{page[-1]}" if more else None
    return [job_summary(engine, j) for j in page], cursor


def _filtered(engine: Engine, chosen: JobFilter, count: int) -> NDArray[np.bool_]:
    """Which rows of the job table may be listed."""
    code = chosen.code
    fits = np.ones(count, np.bool_)
    if code is not None:
        fits &= engine.state.job[0, :count]["state"] == code
    if chosen.tenant is not None:
        names = engine.jobs.tenants.names
        if chosen.tenant not in names:
            return np.zeros(count, np.bool_)
        fits &= engine.state.request[0, :count]["tenant"] == names.index(chosen.tenant)
    if chosen.name is not None:
        fits &= engine.jobs.name_hashes[:count] == hash(chosen.name)
    return fits


def job_summary(engine: Engine, j: int) -> dict[str, Any]:
    """A job in a line.

    Returns
    -------
    dict
        ``job_id``, ``name``, ``tenant``, ``priority``, ``state``, ``kind``, ``workers`` (that it
        has, or asks for), ``gpus`` (of these), ``node_ids`` (where they are, or were last),
        ``submit_ms``, ``start_ms``, ``end_ms`` (None: not yet), ``queue_position`` (by submission,
        from 1; None: it does not wait), ``reason`` (for its state) and ``exit_code``.
    """
    job_id = engine.jobs.index.ids[j]
    spec, run = engine.jobs.specs[job_id], engine.state.job[0, j]
    code = JobCode(int(run["state"]))
    placed, submit_ms = int(run["workers_now"]), int(engine.jobs.submits_ms[j])
    workers = placed or spec.num_workers
    ended, state = engine.history.last(job_id, "completed", "failed"), state_note(engine, job_id)
    start_ms, end_ms = int(run["start_ms"]), int(run["end_ms"])
    return {
        "job_id": job_id,
        "name": spec.name,
        "tenant": spec.tenant,
        "priority": spec.priority.name,
        "state": JobState[code.name].value,
        "kind": spec.kind.name,
        "workers": workers,
        "gpus": workers * spec.gpus_per_worker * spec.gpu_fraction,
        "node_ids": nodes_of(engine, job_id),
        "submit_ms": submit_ms,
        "start_ms": start_ms if start_ms >= 0 else None,
        "end_ms": end_ms if code in _ENDED else None,
        "queue_position": queue_position(engine, j) if code in _WAITING else None,
        "reason": state.reason if state is not None else "",
        "exit_code": ended.exit_code if ended is not None else None,
    }


# --- nodes ---------------------------------------------------------------------------------------


def node_list(engine: Engine, runtime: Runtime, suspects: Sequence[str]) -> list[dict[str, Any]]:
    """All nodes of a cluster, in the order in which they are known: see :func:`node_page`."""
    return _nodes(engine, runtime, suspects, list(engine.nodes.specs))


def node_page(
    engine: Engine, runtime: Runtime, suspects: Sequence[str], node_id: str
) -> dict[str, Any]:
    """A node.

    Returns
    -------
    dict
        ``node_id``, ``state``, ``suspect``, ``rented``, ``gpus``, ``gpus_free``, ``cpus``,
        ``cpus_free``, ``memory_gb``, ``memory_free_gb``, ``gpu_model``, ``gpu_memory_gb``,
        ``rack``, ``block``, ``jobs`` (that have workers there) and ``devices`` (see
        :func:`orchestrator.status.device_status`; None: nobody could look).

    Raises
    ------
    UnknownEntityError
        If it is not part of the cluster.
    """
    n = engine.nodes.index.find(node_id)
    if node_id not in engine.nodes.specs:
        raise UnknownEntityError(f"node '{node_id}' (row {n}) has left; register it anew")
    return _nodes(engine, runtime, suspects, [node_id])[0]


def _nodes(
    engine: Engine, runtime: Runtime, suspects: Sequence[str], node_ids: list[str]
) -> list[dict[str, Any]]:
    jobs, table, gone = _jobs_by_node(engine), engine.state.node[0], set(suspects)
    specs, rented = engine.nodes.specs, engine.nodes.rented
    devices = device_status({name: specs[name] for name in node_ids}, runtime)
    found = []
    for node_id in node_ids:
        n, spec = engine.nodes.index.find(node_id), specs[node_id]
        row: Any = table[n]
        found.append(
            {
                "node_id": node_id,
                "state": NodeCode(int(row["state"])).name.lower(),
                "suspect": node_id in gone,
                "rented": node_id in rented,
                "gpus": spec.gpus,
                "gpus_free": int(row["gpu_free_milli"]) / 1000,
                "cpus": spec.cpu_cores,
                "cpus_free": int(row["cpu_free_milli"]) / 1000,
                "memory_gb": spec.memory_gb,
                "memory_free_gb": int(row["memory_free_mib"]) / 1024,
                "gpu_model": spec.gpu_model,
                "gpu_memory_gb": spec.gpu_memory_gb,
                "rack": spec.rack,
                "block": spec.spine,
                "jobs": jobs.get(n, []),
                "devices": devices.get(node_id),
            }
        )
    return found


def _jobs_by_node(engine: Engine) -> dict[int, list[str]]:
    """Jobs with workers on each node, by its row."""
    state, ids = engine.state, engine.jobs.index.ids
    running = state.running[0, : int(state.rows[0]["running_len"])]["job"].astype(np.int64)
    counts = state.job[0, running]["workers_now"].astype(np.int64)
    widest = int(counts.max(initial=0))
    nodes = state.worker[0, :, :widest]["node"][running]
    there = np.arange(widest) < counts[:, None]
    pairs = np.stack([nodes[there], np.repeat(running, counts)], axis=1)
    found = dict[int, list[str]]()
    for n, j in np.unique(pairs, axis=0).tolist():
        found.setdefault(n, []).append(ids[j])
    return found


# --- the queue -----------------------------------------------------------------------------------


def served_order(engine: Engine, rule: _Rule) -> NDArray[np.int64]:
    """Rows of the jobs that wait, in the order in which a rule serves them; None: by submission."""
    rows = engine.state.rows
    jobs = engine.state.queue[0, : int(rows[0]["queue_len"])]["job"].astype(np.int64)
    if rule is None or len(jobs) == 0:
        return jobs
    tiers, scores = np.empty((2, len(jobs)))
    if rank_queue(rows, 0, rule, tiers, scores):
        return jobs
    return jobs[np.lexsort((scores, tiers))]


def queue_page(
    engine: Engine, now_ms: int, rule: _Rule, limit: int, after: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Jobs that wait, in the order in which they are served; and a cursor, if there are more.

    Returns
    -------
    list of dict
        ``position`` (from 1), ``job_id``, ``name``, ``tenant``, ``priority``, ``state``,
        ``workers``, ``gpus``, ``submit_ms``, ``wait_ms``, ``reason`` (a :class:`Reason` in lower
        case), ``waits_for`` (see :class:`orchestrator.engine.binding.Binding`) and
        ``expected_start_ms`` (when it would fit by the estimates of what runs; None: not even
        then).
    str or None
        The cursor: the page after it begins behind the job that it names, wherever that is by then.
    """
    _check_limit("queue", limit)
    order, ids = served_order(engine, rule).tolist(), engine.jobs.index.ids
    first = 0
    if after is not None:
        first, last = _cursor("queue", "after", after)
        if last in engine.jobs.index and engine.jobs.index.find(last) in order:
            first = order.index(engine.jobs.index.find(last)) + 1
        else:  # it has started: those behind it have moved up
            first = max(first - 1, 0)
    page = order[first : first + limit]
    names = [ids[j] for j in page]
    binding, rows = why_waiting(engine, names, rule), engine.state.rows
    found = []
    for position, (j, job_id) in enumerate(zip(page, names, strict=True), first + 1):
        line, told = job_summary(engine, j), binding_status(binding[job_id])
        fits_ms = kernels.earliest_fit(rows, 0, j)
        kept = ("job_id", "name", "tenant", "priority", "state", "workers", "gpus", "submit_ms")
        found.append(
            {
                "position": position,
                **{name: line[name] for name in kept},
                "wait_ms": now_ms - line["submit_ms"],
                "reason": told["reason"],
                "waits_for": told,
                "expected_start_ms": None if fits_ms == NEVER else max(now_ms, fits_ms),
            }
        )
    more = first + limit < len(order)
    return found, f"{first + len(page)}.{names[-1]}" if more else None
