"""What must hold of cluster state after every transition, checked without the kernels.

Everything is recomputed from first principles, in plain NumPy and Python: who holds what, who
waits, who runs. It is slow and meant to be: switch it on in tests and when hunting a bug.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvariantError
from orchestrator.kernels.codes import NO_JOB, EventKind, JobCode, NodeCode, QuotaMode
from orchestrator.kernels.state import ClusterState

__all__ = ["assert_invariants"]

_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_PLACED = (JobCode.RUNNING, JobCode.CHECKPOINTING)
_ENDED = (JobCode.COMPLETED, JobCode.FAILED)
_PASSING = (JobCode.SCHEDULED, JobCode.SCALING)
_PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)
_WHOLE = 1000
_REL = 1e-9
_DRIFT = 1e-12  # of the largest term: rounding that terms long gone leave behind


@dataclass(frozen=True)
class _View:
    """One row, cut to what is in use: J = jobs, N = nodes, D = devices."""

    e: int
    row: Any  # ROW_DTYPE record
    request: NDArray[np.void]  # [J]
    job: NDArray[np.void]  # [J]
    worker: NDArray[np.void]  # [J, W]
    node: NDArray[np.void]  # [N]
    device: NDArray[np.void]  # [N, D]
    queue: NDArray[np.int32]  # [queue_len] jobs
    running: NDArray[np.void]  # [running_len]
    heap: NDArray[np.void]  # [heap_len]
    tenant: NDArray[np.void]  # [num_tenants]
    on_order: list[int]  # [arrival_len] nodes
    service: NDArray[np.void]  # [num_services]

    def require(self, ok: bool, message: str) -> None:
        """Raise :class:`InvariantError` unless ``ok``."""
        if not ok:
            raise InvariantError(f"row {self.e} at {self.row['now_ms']} ms: {message}")

    def require_equal(self, found: Any, expected: Any, what: str) -> None:
        """Demand that a stored value equals what it should be."""
        self.require(found == expected, f"{what} is {found}, should be {expected}")

    def jobs_in(self, states: tuple[JobCode, ...]) -> list[int]:
        """Jobs in any of these states, ascending."""
        return [int(j) for j in np.flatnonzero(np.isin(self.job["state"], states))]


def assert_invariants(state: ClusterState, e: int) -> None:
    """Check everything that must hold of a row between two transitions.

    Parameters
    ----------
    state : ClusterState
        Cluster state.
    e : int
        Row.

    Raises
    ------
    InvariantError
        Saying what is wrong, of which entity, what it is and what it should be.
    """
    view = _view(state, e)
    _check_jobs(view)
    _check_holdings(view)
    _check_capacity(view)
    _check_tenants(view)
    _check_orders(view)
    _check_queue(view)
    _check_queue_sums(view)
    _check_running(view)
    _check_heap(view)
    _check_progress(view)
    _check_counters(view)
    _check_services(view)


def _view(state: ClusterState, e: int) -> _View:
    row = state.rows[e]
    limits = {
        "num_jobs": state.shape.jobs,
        "num_nodes": state.shape.nodes,
        "num_tenants": state.shape.tenants,
        "queue_len": row["num_jobs"],
        "running_len": row["num_jobs"],
        "heap_len": row["num_jobs"],
        "next_arrival": row["num_jobs"],
        "next_incident": row["num_incidents"],
        "arrival_len": row["num_nodes"],
        "num_services": state.shape.services,
    }
    for name, limit in limits.items():
        if not 0 <= row[name] <= limit:
            raise InvariantError(f"row {e}: {name} is {row[name]}, outside 0..{limit}")
    jobs, nodes = int(row["num_jobs"]), int(row["num_nodes"])
    return _View(
        e=e,
        row=row,
        request=state.request[e, :jobs],
        job=state.job[e, :jobs],
        worker=state.worker[e, :jobs],
        node=state.node[e, :nodes],
        device=state.device[e, :nodes],
        queue=state.queue[e, : row["queue_len"]]["job"],
        running=state.running[e, : row["running_len"]],
        heap=state.heap[e, : row["heap_len"]],
        tenant=state.tenant[e, : row["num_tenants"]],
        on_order=[
            int(state.arrival[e, (int(row["arrival_head"]) + k) % state.shape.nodes]["node"])
            for k in range(int(row["arrival_len"]))
        ],
        service=state.service[e, : row["num_services"]],
    )


# --- jobs --------------------------------------------------------------------------------------


def _check_jobs(v: _View) -> None:
    """Every job is in one legal resting state, whole or absent, with times in order."""
    now = v.row["now_ms"]
    for j, (ask, run) in enumerate(zip(v.request, v.job, strict=True)):
        code = int(run["state"])
        v.require(code in tuple(JobCode), f"job {j} has the unknown state {code}")
        state = JobCode(code)
        v.require(state not in _PASSING, f"job {j} rests in the passing state {state.name}")
        placed = state in _PLACED
        _check_gang(v, j, state, placed=placed)
        started = run["first_start_ms"] >= 0
        if state == JobCode.ABSENT:
            v.require(not started, f"job {j} has started before it was submitted")
            continue
        v.require(ask["submit_ms"] <= now, f"job {j} is here before its submission")
        if placed or state == JobCode.COMPLETED:
            v.require(bool(started), f"the {state.name} job {j} never started")
        if started:
            times = (ask["submit_ms"], run["first_start_ms"], run["start_ms"], now)
            v.require(times == tuple(sorted(times)), f"job {j}: times out of order: {times}")
        if state in _ENDED:
            v.require(
                run["start_ms"] <= run["end_ms"] <= now,
                f"job {j} ended at {run['end_ms']}, not between its start and now",
            )
        else:
            v.require_equal(int(run["end_ms"]), -1, f"end of the {state.name} job {j}")


def _check_gang(v: _View, j: int, state: JobCode, *, placed: bool) -> None:
    """A gang is whole or absent; an elastic one is within its bounds or absent."""
    ask, now = v.request[j], int(v.job[j]["workers_now"])
    if placed and ask["elastic"]:
        low, high = int(ask["min_workers"]), int(ask["max_workers"])
        v.require(
            low <= now <= high,
            f"the {state.name} elastic job {j} has {now} workers, outside {low}..{high}",
        )
        return
    what = f"workers placed of the {state.name} job {j} (a gang is whole or absent)"
    v.require_equal(now, int(ask["workers"]) if placed else 0, what)


def _check_progress(v: _View) -> None:
    """Work is never made up, and an interruption costs less than one checkpoint interval."""
    for j, (ask, run) in enumerate(zip(v.request, v.job, strict=True)):
        duration, progress = int(ask["duration_ms"]), int(run["progress_ms"])
        saved = progress + int(run["unsaved_ms"])
        v.require(
            0 <= progress <= saved <= duration,
            f"job {j} of {duration} ms has done {progress} ms and {run['unsaved_ms']} ms unsaved",
        )
        if run["state"] not in _PLACED:
            v.require_equal(int(run["unsaved_ms"]), 0, f"unsaved work of job {j}")
        if run["state"] == JobCode.COMPLETED:
            v.require_equal(progress, duration, f"work done of the completed job {j}")
        lost, interval = int(run["lost_ms"]), int(ask["checkpoint_interval_ms"])
        interruptions = int(run["interruptions"])
        bound = interruptions * (interval if interval > 0 else duration)
        v.require(
            0 <= lost <= bound,
            f"job {j} lost {lost} ms in {interruptions} interruptions, more than {bound}",
        )


def _check_counters(v: _View) -> None:
    """Counters of the row agree with the jobs that they count."""
    row = v.row
    ended = {code: len(v.jobs_in((code,))) for code in _ENDED}
    here = len(v.jobs_in(_WAITING + _PLACED))
    v.require_equal(int(row["active_jobs"]), here, "active_jobs")
    v.require_equal(int(row["completed_jobs"]), ended[JobCode.COMPLETED], "completed_jobs")
    v.require_equal(int(row["failed_jobs"]), ended[JobCode.FAILED], "failed_jobs")
    for name in ("preemptions", "interruptions", "resizes", "migrations"):
        v.require_equal(int(row[name]), int(v.job[name].sum()), name)
    committed = int(row["committed"])
    if committed != NO_JOB:
        waiting = 0 <= committed < len(v.job) and v.job[committed]["state"] in _WAITING
        v.require(waiting, f"the row is committed to job {committed}, which does not wait")


# --- resources ---------------------------------------------------------------------------------


def _devices_of(mask: int) -> Iterator[int]:
    g = 0
    while mask >> g:
        if (mask >> g) & 1:
            yield g
        g += 1


def _check_holdings(v: _View) -> None:
    """What is free on each node and device is its capacity less what placed workers hold."""
    nodes = len(v.node)
    cpu, memory, workers = (np.zeros(nodes, np.int64) for _ in range(3))
    shares = np.zeros(v.device.shape, np.int64)
    for j in v.jobs_in(_PLACED):
        ask = v.request[j]
        for w in range(int(v.job[j]["workers_now"])):
            n, mask = int(v.worker[j, w]["node"]), int(v.worker[j, w]["devices"])
            v.require(0 <= n < nodes, f"worker {w} of job {j} is on node {n}, there are {nodes}")
            up = v.node[n]["state"] in (NodeCode.UP, NodeCode.DRAINING)
            v.require(up, f"worker {w} of job {j} is on node {n}, which is not up")
            devices = list(_devices_of(mask))
            what = f"GPUs of worker {w} of job {j} on node {n}"
            v.require_equal(len(devices), int(ask["gpus_per_worker"]), what)
            v.require(not mask >> int(v.node[n]["gpus"]), f"{what} are {devices}: not all exist")
            for g in devices:
                shares[n, g] += ask["gpu_milli"]
            cpu[n] += ask["cpu_milli"]
            memory[n] += ask["memory_mib"]
            workers[n] += 1
    for n, host in enumerate(v.node):
        _check_node(v, n, host, shares[n], (cpu[n], memory[n], workers[n]))


def _check_node(
    v: _View, n: int, host: Any, shares: NDArray[np.int64], held: tuple[int, int, int]
) -> None:
    free = v.device[n]["free_milli"]
    gpus = int(host["gpus"])
    for g in range(len(free)):
        capacity = _WHOLE if g < gpus else 0
        v.require(
            0 <= free[g] <= capacity,
            f"device {g} of node {n} has {free[g]} of {capacity} milli free",
        )
        v.require_equal(int(free[g]), capacity - int(shares[g]), f"free share of {n}:{g}")
    cpu, memory, workers = held
    expected = {
        "cpu_free_milli": int(host["cpu_cap_milli"]) - int(cpu),
        "memory_free_mib": int(host["memory_cap_mib"]) - int(memory),
        "gpu_free_milli": int(free[:gpus].sum()),
        "whole_free": int((free[:gpus] == _WHOLE).sum()),
        "workers": int(workers),
    }
    for name, value in expected.items():
        v.require_equal(int(host[name]), value, f"{name} of node {n}")
        v.require(value >= 0, f"{name} of node {n} is negative: {value}")
    if host["state"] == NodeCode.DRAINING:
        v.require(workers > 0, f"node {n} is still draining, but nobody is on it")


def _check_capacity(v: _View) -> None:
    """Capacity, free or not, counts on nodes that are up."""
    gpus = v.node["gpus"].astype(np.int64)
    by_gpu = bool(gpus.sum() > 0)
    v.require_equal(bool(v.row["unit"]), by_gpu, "unit")
    capacity = gpus * _WHOLE if by_gpu else v.node["cpu_cap_milli"]
    free = v.node["gpu_free_milli"] if by_gpu else v.node["cpu_free_milli"]
    up = v.node["state"] == NodeCode.UP
    v.require_equal(int(v.row["capacity_units"]), int(capacity[up].sum()), "capacity_units")
    v.require_equal(int(v.row["free_units"]), int(free[up].sum()), "free_units")
    ask = v.request
    units = (
        ask["gpus_per_worker"].astype(np.int64) * ask["gpu_milli"] if by_gpu else ask["cpu_milli"]
    )
    placed = np.isin(v.job["state"], _PLACED)
    units = units * np.where(placed, v.job["workers_now"], ask["workers"]).astype(np.int64)
    ended = np.isin(v.job["state"], _ENDED)  # they keep what they had last
    for j in np.flatnonzero((units != v.job["units"]) & ~ended):
        v.require_equal(int(v.job[j]["units"]), int(units[j]), f"units of job {j}")


def _check_tenants(v: _View) -> None:
    """What a tenant's account says is what its jobs hold."""
    started = (v.job["first_start_ms"] >= 0) & ~np.isin(v.job["state"], _ENDED)
    for t, owner in enumerate(v.tenant):
        mine = v.request["tenant"] == t
        now = np.where(mine, v.job["workers_now"], 0).astype(np.int64)
        gpus = now * v.request["gpus_per_worker"] * v.request["gpu_milli"]
        cpus = now * v.request["cpu_milli"]
        expected = {
            "used_units": gpus if v.row["unit"] else cpus,
            "used_gpu_milli": gpus,
            "used_cpu_milli": cpus,
            "used_memory_mib": now * v.request["memory_mib"],
            "storage_mib": np.where(mine & started, v.request["storage_mib"], 0),
        }
        for name, values in expected.items():
            v.require_equal(int(owner[name]), int(values.sum()), f"{name} of tenant {t}")
        if v.row["quota_mode"] == QuotaMode.HARD:
            within = owner["used_units"] <= owner["quota_units"]
            v.require(bool(within), f"tenant {t} holds more than its quota")


def _check_orders(v: _View) -> None:
    """Nodes on order wait in the order of their arrival; what is here or ordered is paid for."""
    for n, code in enumerate(v.node["state"]):
        v.require(code in tuple(NodeCode), f"node {n} has the unknown state {code}")
    ordered = [int(n) for n in np.flatnonzero(v.node["state"] == NodeCode.PROVISIONING)]
    v.require_equal(sorted(v.on_order), ordered, "nodes on order")
    times = [int(v.node[n]["arrive_ms"]) for n in v.on_order]
    v.require(times == sorted(times), f"nodes on order are not sorted by arrival: {times}")
    v.require(not times or times[0] >= v.row["now_ms"], f"a node should have arrived at {times}")
    rate = int(v.node["price_milli"][np.isin(v.node["state"], _PAID)].sum())
    v.require_equal(int(v.row["cost_rate_milli"]), rate, "cost_rate_milli")


# --- queue and running list --------------------------------------------------------------------


def _check_queue(v: _View) -> None:
    """The queue holds exactly the waiting jobs, in the order of (submit time, index)."""
    waiting = v.jobs_in(_WAITING)
    waiting.sort(key=lambda j: (int(v.request[j]["submit_ms"]), j))
    v.require_equal([int(j) for j in v.queue], waiting, "the queue")


def _check_queue_sums(v: _View) -> None:
    """The running sums over the queue equal the sums that they stand for."""
    bound = int(v.row["slowdown_bound_ms"])
    rate = onset = request_rate = onset_size = 0.0
    work = 0
    for j in v.queue:
        ask, run = v.request[j], v.job[j]
        left = int(ask["duration_ms"]) - int(run["progress_ms"])
        if run["first_start_ms"] >= 0:
            left += int(ask["restart_ms"])
        scale = max(int(ask["duration_ms"]), bound)
        starts_ms = int(ask["submit_ms"]) + scale - left
        v.require_equal(int(run["onset_ms"]), starts_ms, f"onset_ms of job {j}")
        rate += 1000.0 / scale
        onset += starts_ms / scale
        onset_size += abs(starts_ms / scale)
        request_rate += 1000.0 / max(int(ask["requested_ms"]), bound)
        work += int(run["units"]) * int(ask["requested_ms"])
    largest_onset = int(v.row["now_ms"]) / bound + 1.0
    _require_close(v, "queue_rate", rate, rate, 1000.0 / bound)
    _require_close(v, "queue_onset", onset, onset_size, largest_onset)
    _require_close(v, "request_rate", request_rate, request_rate, 1000.0 / bound)
    v.require_equal(int(v.row["queued_unit_ms"]), work, "queued_unit_ms")
    settled = sum(float(v.job[j]["excess"]) for j in v.jobs_in((*_PLACED, JobCode.COMPLETED)))
    _require_close(v, "settled_excess", settled, settled, largest_onset)


def _require_close(v: _View, name: str, expected: float, size: float, largest: float) -> None:
    """Compare a sum kept by additions and subtractions, within rounding of its terms."""
    found = float(v.row[name])
    tolerance = _REL * size + _DRIFT * largest
    v.require(abs(found - expected) <= tolerance, f"{name} is {found}, should be {expected}")


def _check_running(v: _View) -> None:
    """The running list holds exactly the placed jobs, by ascending expected end."""
    ends = v.running["expected_end_ms"]
    v.require(bool((ends[1:] >= ends[:-1]).all()), f"the running list is not sorted: {ends}")
    listed = sorted(int(j) for j in v.running["job"])
    v.require_equal(listed, v.jobs_in(_PLACED), "jobs of the running list")
    for entry in v.running:
        j = int(entry["job"])
        for name in ("expected_end_ms", "units"):
            v.require_equal(int(entry[name]), int(v.job[j][name]), f"listed {name} of job {j}")


def _check_heap(v: _View) -> None:
    """Each placed job has one pending event, found where ``heap_slot`` says; parents go first."""
    kinds = {
        int(JobCode.RUNNING): EventKind.COMPLETION,
        int(JobCode.CHECKPOINTING): EventKind.CHECKPOINTED,
    }
    pending = sorted(int(j) for j in v.heap["entity"])
    v.require_equal(pending, v.jobs_in(_PLACED), "jobs with a pending event")
    keys = [(int(x["time_ms"]), int(x["kind"]), int(x["seq"])) for x in v.heap]
    for at, entry in enumerate(v.heap):
        j = int(entry["entity"])
        v.require_equal(int(v.job[j]["heap_slot"]), at, f"heap_slot of job {j}")
        v.require_equal(
            int(entry["kind"]), int(kinds[int(v.job[j]["state"])]), f"kind of job {j}'s event"
        )
        if at > 0:
            parent = (at - 1) // 2
            v.require(keys[parent] < keys[at], f"event {at} goes before its parent {parent}")
    for stray in np.flatnonzero(v.job["heap_slot"] >= 0):
        v.require(int(stray) in pending, f"job {stray} has a heap_slot but no event")


# --- services ----------------------------------------------------------------------------------


def _check_services(v: _View) -> None:
    """No request is lost or made up, and nothing that counts is negative."""
    for s, own in enumerate(v.service):
        came = float(own["offered"] + own["retried"])
        went = float(own["shed"] + own["failed"] + own["served"] + own["backlog"])
        v.require(
            abs(came - went) <= _REL * came + 1e-3,
            f"service {s} had {came} attempts, and {went} of them are accounted for",
        )
        for name in ("backlog", "tokens", "retry_balance", "violations", "ready"):
            v.require(own[name] >= 0, f"{name} of service {s} is {own[name]}")
        v.require(0 <= own["sick"] <= own["ready"], f"service {s} has {own['sick']} sick replicas")
        v.require(0 <= own["job"] < len(v.job), f"service {s} belongs to job {own['job']}")
