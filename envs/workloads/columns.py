"""Columns of the canonical trace table: name, unit, meaning, bounds and default of each.

The columns are the fields of :data:`orchestrator.kernels.state.REQUEST_DTYPE`, in its order: a
table and the engine's array hold the same integers. ``docs/trace-format.md`` shows it to users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import JobKind, Topology
from orchestrator.kernels.records import REQUEST_DTYPE
from orchestrator.types import JobPriority

__all__ = ["COLUMNS", "Column", "Violation", "blank_requests", "first_violation"]

_I4_MAX = int(np.iinfo(np.int32).max)
_I8_MAX = int(np.iinfo(np.int64).max)
_MS_MAX = 1 << 53
"""Times above this (285,000 years) would lose precision wherever a float is computed from them."""


@dataclass(frozen=True)
class Column:
    """One column of the canonical trace table.

    Parameters
    ----------
    name : str
        Field of ``REQUEST_DTYPE``.
    unit : str
        Unit of the integer values; ``tenant`` alone holds text.
    meaning : str
        For people.
    low, high : int
        Smallest and largest value allowed.
    default : int or str or None
        Value when the column is absent or a cell is empty; the name of another column means
        "the same as that one", ``"row"`` the zero-based number of the row; None means that the
        column is required.
    """

    name: str
    unit: str
    meaning: str
    low: int
    high: int
    default: int | str | None


COLUMNS: tuple[Column, ...] = (
    Column("submit_ms", "ms", "submission time, from the start of the trace", 0, _MS_MAX, None),
    Column("duration_ms", "ms", "true run time at nominal speed", 1, _MS_MAX, None),
    Column("requested_ms", "ms", "the user's estimate of it", 1, _MS_MAX, "duration_ms"),
    Column("checkpoint_interval_ms", "ms", "time between saves; 0: never saved", 0, _MS_MAX, 0),
    Column("checkpoint_ms", "ms", "cost of a planned checkpoint", 0, _MS_MAX, 0),
    Column("restart_ms", "ms", "cost of starting again", 0, _MS_MAX, 0),
    Column("regroup_ms", "ms", "cost of changing the number of workers", 0, _MS_MAX, 0),
    Column("deadline_ms", "ms", "deadline, from submission; 0: none", 0, _MS_MAX, 0),
    Column("storage_mib", "MiB", "size of a checkpoint", 0, _MS_MAX, 0),
    Column("memory_mib", "MiB", "host memory of one worker", 0, _MS_MAX, 0),
    Column("cpu_milli", "milli-core", "CPU of one worker", 0, _I4_MAX, 0),
    Column("workers", "count", "workers of the job", 1, _I4_MAX, 1),
    Column("min_workers", "count", "fewest workers of an elastic job", 1, _I4_MAX, "workers"),
    Column("max_workers", "count", "most workers of an elastic job", 1, _I4_MAX, "workers"),
    Column("gpus_per_worker", "count", "GPUs of one worker, all on one node", 0, 64, 0),
    Column("gpu_milli", "milli-GPU", "share of each of its GPUs", 1, 1000, 1000),
    Column("gpu_memory_mib", "MiB", "memory needed on each GPU", 0, _I4_MAX, 0),
    Column("bandwidth_mbps", "Mbit/s", "one worker's traffic across nodes", 0, _I4_MAX, 0),
    Column("curve", "number", "throughput curve; 0: proportional to workers", 0, _I4_MAX, 0),
    Column("service", "number", "service that its workers are replicas of", 0, _I4_MAX, 0),
    Column("tenant", "text", "who pays", 0, _I4_MAX, 0),
    Column("user", "number", "user in the source trace; -1: unknown", -1, _I4_MAX, -1),
    Column("group", "number", "group in the source trace; -1: unknown", -1, _I4_MAX, -1),
    Column("application", "number", "application in the source; -1: unknown", -1, _I4_MAX, -1),
    Column("model_mask", "bits", "GPU models that will do; 0: any", 0, (1 << 32) - 1, 0),
    Column("source_id", "number", "the job's number in its source", -_I8_MAX, _I8_MAX, "row"),
    Column(
        "priority",
        "code",
        "0 critical, 1 production, 2 batch, 3 best effort",
        0,
        max(p.value for p in JobPriority),
        JobPriority.BATCH.value,
    ),
    Column("preemptible", "0 or 1", "may be preempted", 0, 1, 0),
    Column("elastic", "0 or 1", "may change its number of workers", 0, 1, 0),
    Column("gang", "0 or 1", "all workers start together", 0, 1, 1),
    Column(
        "topology",
        "code",
        "narrowest domain: 0 any, 1 spine, 2 rack, 3 node, 4 NVLink island",
        0,
        max(Topology),
        int(Topology.ANY),
    ),
    Column("kind", "code", "0 training, 1 batch inference, 2 service", 0, max(JobKind), 0),
)
"""Every column of the canonical trace table, in the order of ``REQUEST_DTYPE``."""

if tuple(column.name for column in COLUMNS) != REQUEST_DTYPE.names:  # pragma: no cover
    raise AssertionError("COLUMNS and REQUEST_DTYPE have drifted apart")


def blank_requests(count: int) -> NDArray[np.void]:
    """Make requests that hold every column's default.

    Parameters
    ----------
    count : int
        Number of jobs.

    Returns
    -------
    ndarray of REQUEST_DTYPE, shape [count]
        Required columns are zero; columns whose default is another column are zero too and
        are for the caller to fill; ``source_id`` counts from 0.
    """
    requests = np.zeros(count, REQUEST_DTYPE)
    for column in COLUMNS:
        if isinstance(column.default, int):
            requests[column.name] = column.default
    requests["workers"] = requests["min_workers"] = requests["max_workers"] = 1
    requests["source_id"] = np.arange(count)
    return requests


@dataclass(frozen=True)
class Violation:
    """A row that breaks a column's bounds, or the bounds between columns.

    Parameters
    ----------
    row : int
        Index of the first offending row.
    field : str
        Its column.
    problem, remedy : str
        What is wrong, and what to do.
    """

    row: int
    field: str
    problem: str
    remedy: str


def first_violation(requests: NDArray[np.void], tenants: int) -> Violation | None:
    """Find the first value that no engine could work with.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        What is checked.
    tenants : int
        Number of tenants that ``tenant`` may index.

    Returns
    -------
    Violation or None
        None when everything is in order.
    """
    for column in COLUMNS:
        values = requests[column.name]
        high = tenants - 1 if column.name == "tenant" else column.high
        bad = (values < column.low) | (values > high)
        if bad.any():
            row = int(np.argmax(bad))
            value = int(values[row])
            return Violation(row, column.name, f"is {value}", f"allowed are {column.low} to {high}")
    checks = (
        (
            "min_workers",
            (requests["elastic"] == 1) & (requests["min_workers"] > requests["workers"]),
            "lower it to at most 'workers'",
        ),
        (
            "max_workers",
            (requests["elastic"] == 1) & (requests["max_workers"] < requests["workers"]),
            "raise it to at least 'workers'",
        ),
        (
            "gpus_per_worker",
            (requests["gpus_per_worker"] == 0)
            & (requests["cpu_milli"] == 0)
            & (requests["memory_mib"] == 0),
            "the job asks for nothing: give it GPUs, CPU or memory",
        ),
    )
    for field, bad, remedy in checks:
        if bad.any():
            row = int(np.argmax(bad))
            return Violation(row, field, f"is {int(requests[field][row])}", remedy)
    return None
