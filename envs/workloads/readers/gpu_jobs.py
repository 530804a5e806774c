"""Job lists of GPU clusters, as plain columns, made into traces: what their readers share.

The simplest of them is read here: Tiresias' trace (Gu et al., NSDI 2019; SymbioticLab/Tiresias), a
small mix of models for a cluster seen as one pool of GPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import (
    Kind,
    csv_cell,
    csv_line,
    header,
    read_columns,
    read_text,
    require_columns,
)
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace, trace_from_file, unplaceable
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = [
    "GpuJobs",
    "check_fit",
    "check_rows",
    "dl_requests",
    "encode_text",
    "epoch_seconds",
    "gpu_node",
    "read_filled",
    "read_tiresias",
    "split_gpus",
    "tell_censored",
    "whole_number",
]

_log = logging.getLogger(__name__)

_TIRESIAS_KINDS = {
    "job_id": Kind.INTEGER,
    "num_gpu": Kind.INTEGER,
    "submit_time": Kind.INTEGER,
    "model_name": Kind.TEXT,
    "duration": Kind.INTEGER,
}
_MAX_GPUS_PER_WORKER = 8
_MAX_SECONDS = 1 << 40
_MAX_GPUS = 1 << 20


def split_gpus(gpus: NDArray[np.int64], per_node: int = _MAX_GPUS_PER_WORKER) -> NDArray[np.int64]:
    """GPUs of one worker, for jobs of so many GPUs in all.

    Parameters
    ----------
    gpus : ndarray of int64
        GPUs of each job.
    per_node : int, optional
        GPUs of the machines that the workers should fill.

    Returns
    -------
    ndarray of int64
        All of them up to `per_node`; above, the largest divisor of `per_node` that divides
        them, so that workers fill machines without a rest.
    """
    return np.where(gpus <= per_node, gpus, np.gcd(gpus, per_node))


def gpu_node(
    node_id: str, gpus: int, gpu_memory_gb: float = 0.0, gpu_model: str = "generic"
) -> NodeSpec:
    """Make a machine of which only the GPUs are known."""
    return NodeSpec(
        node_id=node_id,
        gpus=gpus,
        gpu_memory_gb=gpu_memory_gb,
        cpu_cores=0,
        memory_gb=0.0,
        network_bandwidth_gbps=0.0,
        gpu_topology="PCIe",
        gpu_model=gpu_model,
    )


def read_filled(path: Path, text: str, kinds: Mapping[str, Kind]) -> Any:
    """Read the columns, and refuse an empty table and empty cells."""
    import pyarrow.compute as pc

    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    if table.num_rows == 0:
        raise TraceError(str(path), "holds no jobs", "give a table with at least one row")
    for name, kind in kinds.items():
        column = table[name]
        empty = pc.equal(column, "") if kind is Kind.TEXT else column.is_null()
        if pc.any(empty).as_py():
            row = int(np.argmax(np.asarray(empty)))
            problem = f"column '{name}' is {csv_cell(text, row, name)}"
            raise TraceError(str(path), problem, "fill in the cell", csv_line(text, row))
    return table


def encode_text(column: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Number the distinct texts of a column in alphabetical order."""
    coded = column.combine_chunks().dictionary_encode()
    names = [str(name) for name in coded.dictionary.to_pylist()]
    rank = np.empty(len(names), np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return tuple(sorted(names)), rank[np.asarray(coded.indices)]


def check_rows(
    path: Path, text: str, fields: Mapping[str, NDArray[np.int64]], names: Mapping[str, str]
) -> None:
    """Refuse values that cannot be meant, and submissions out of order."""

    def refuse(bad: NDArray[np.bool_], field: str, problem: str, remedy: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            said = f"column '{names[field]}' in row {row + 1} {problem}"
            raise TraceError(str(path), said, remedy, csv_line(text, row))

    submit, duration, gpus = fields["submit"], fields["duration"], fields["gpus"]
    refuse((duration < 0) | (duration > _MAX_SECONDS), "duration", "is out of range", "in seconds")
    refuse((gpus < 1) | (gpus > _MAX_GPUS), "gpus", "is out of range", "give at least 1 GPU")
    refuse((submit < 0) | (submit > _MAX_SECONDS), "submit", "is out of range", "in seconds")
    early = np.concatenate(([False], submit[1:] < submit[:-1]))
    refuse(early, "submit", "is earlier than the row before it", "sort the jobs by this column")


def dl_requests(fields: Mapping[str, NDArray[np.int64]]) -> NDArray[np.void]:
    """Fill what both formats have in common; times in seconds."""
    requests = blank_requests(len(fields["submit"]))
    requests["submit_ms"] = fields["submit"] * 1000
    requests["duration_ms"] = np.maximum(fields["duration"], 1) * 1000
    requests["requested_ms"] = requests["duration_ms"]
    requests["source_id"] = fields["id"]
    requests["preemptible"] = 1
    return requests


def check_fit(path: Path, requests: NDArray[np.void], nodes: tuple[NodeSpec, ...]) -> None:
    """Refuse jobs that could not run even if the cluster were empty."""
    lost = unplaceable(requests, nodes)
    if lost.any():
        row = int(np.argmax(lost))
        size = int(requests["workers"][row]) * int(requests["gpus_per_worker"][row])
        problem = f"job {requests['source_id'][row]} needs {size} GPUs and can never fit the nodes"
        raise TraceError(str(path), problem, "remove the job or give a larger cluster")


@dataclass
class GpuJobs:
    """Jobs as they are read, in any order.

    Parameters
    ----------
    submit_s, run_s, gpus, nodes : list of int
        Submission (any epoch), run time, GPUs in all and machines (0: not told).
    tenants, users, applications : list of str
        Names.
    """

    submit_s: list[int] = field(default_factory=list)
    run_s: list[int] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    applications: list[str] = field(default_factory=list)

    def add(
        self,
        submit_s: int,
        run_s: int,
        gpus: int,
        *,
        nodes: int = 0,
        tenant: str = "default",
        user: str = "",
        application: str = "",
    ) -> None:
        """Append a job."""
        self.submit_s.append(submit_s)
        self.run_s.append(run_s)
        self.gpus.append(gpus)
        self.nodes.append(nodes)
        self.tenants.append(tenant or "default")
        self.users.append(user)
        self.applications.append(application)

    def to_trace(self, path: Path, name: str, machines: tuple[NodeSpec, ...]) -> Trace:
        """The trace: time 0 is the first submission, ``source_id`` the order in the file.

        A job becomes as many workers as it had machines, if its GPUs divide evenly among them and
        fit into one; otherwise workers are as large as fills machines of 8 evenly.
        """
        if not self.submit_s:
            problem = "holds no GPU job that ran"
            raise TraceError(str(path), problem, "give a table with at least one")
        submit = np.asarray(self.submit_s, np.int64)
        order = np.argsort(submit, kind="stable")
        gpus = np.asarray(self.gpus, np.int64)
        fields = {
            "submit": submit[order] - submit.min(),
            "duration": np.asarray(self.run_s, np.int64)[order],
            "gpus": gpus[order],
            "id": order,
        }
        requests = dl_requests(fields)
        largest = max((machine.gpus for machine in machines), default=8)
        told = np.asarray(self.nodes, np.int64)
        safe = np.maximum(told, 1)
        even = (told > 0) & (gpus % safe == 0) & (gpus // safe <= largest)
        per_worker = np.where(even, gpus // safe, split_gpus(gpus, largest))[order]
        requests["gpus_per_worker"] = per_worker
        for column in ("workers", "min_workers", "max_workers"):
            requests[column] = gpus[order] // per_worker
        tenants, requests["tenant"] = _numbered(self.tenants, order)
        _, requests["user"] = _numbered(self.users, order)
        _, requests["application"] = _numbered(self.applications, order)
        if machines:
            check_fit(path, requests, machines)
        return trace_from_file(path, name, requests, tenants, machines)


def _numbered(
    names: Sequence[str], order: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Distinct names in alphabetical order, and the number of each job's."""
    known = tuple(sorted(set(names)))
    index = {name: i for i, name in enumerate(known)}
    return known, np.asarray([index[names[int(row)]] for row in order], np.int64)


def epoch_seconds(
    path: Path,
    column: str,
    text: str,
    line: int | None,
    *,
    zone: tzinfo = UTC,
    after: int | None = None,
) -> int:
    """Seconds since 1970 of a time like ``2023-03-01 00:18:22+08:00``.

    Parameters
    ----------
    path, column, text, line
        The cell, and where it is.
    zone : tzinfo, optional
        Of a time that names none.
    after : int or None, optional
        Seconds since 1970 that it does not lie before. Tells which hour is meant of the two that
        the end of summer time gives the same name; without it, the first.

    Returns
    -------
    int
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        first = int(moment.timestamp())
        second = int(moment.replace(fold=1).timestamp())
    except (TypeError, ValueError, OverflowError):
        problem = f"column '{column}' is {text!r}, not a time like 2023-03-01 00:18:22"
        raise TraceError(str(path), problem, "correct the cell", line) from None
    return second if after is not None and first < after <= second else first


def tell_censored(path: Path, censored: int, jobs: int) -> None:
    """Say how many jobs had not ended when the record did: how long they took nobody knows."""
    if censored > 0:
        said = "%s: %d of %d jobs have no end; they last until the last time of the record"
        _log.warning(said, path, censored, jobs)


def whole_number(path: Path, column: str, value: float | None, line: int, least: int = 0) -> int:
    """A cell that holds a count, perhaps written as ``8.0``."""
    if value is None or not least <= value <= _MAX_GPUS or value != int(value):
        problem = f"column '{column}' is {value}, not a whole number from {least} on"
        raise TraceError(str(path), problem, "correct the cell", line)
    return int(value)


def read_tiresias(path: str | Path, *, gpus: int = 16) -> Trace:
    """Read a trace in the format of Tiresias' simulator.

    Parameters
    ----------
    path : str or Path
        A CSV file with job_id, num_gpu, submit_time (s), model_name and duration (s).
    gpus : int, optional
        Size of the cluster, one pool (its simulator ignores node boundaries), at most 64.

    Returns
    -------
    Trace
        One worker per job, preemptible at no cost; ``application`` numbers the models in
        alphabetical order.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    text = read_text(path)
    columns = read_filled(path, text, _TIRESIAS_KINDS)
    _, models = encode_text(columns["model_name"])
    fields = {
        "submit": np.asarray(columns["submit_time"]),
        "duration": np.asarray(columns["duration"]),
        "gpus": np.asarray(columns["num_gpu"]),
        "id": np.asarray(columns["job_id"]),
    }
    names = {"submit": "submit_time", "duration": "duration", "gpus": "num_gpu"}
    check_rows(path, text, fields, names)
    requests = dl_requests(fields)
    requests["gpus_per_worker"] = fields["gpus"].clip(max=1 << 30)
    requests["application"] = models
    nodes = (gpu_node("pool", gpus, 0.0),)
    check_fit(path, requests, nodes)
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return trace_from_file(path, name, requests, nodes=nodes)
