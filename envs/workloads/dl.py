"""What readers of deep-learning clusters' traces have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.columns import blank_requests
from envs.workloads.csvfile import Kind, csv_line, header, read_columns, require_columns
from envs.workloads.trace import unplaceable
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = [
    "check_fit",
    "check_rows",
    "dl_requests",
    "encode_text",
    "gpu_node",
    "read_filled",
    "split_gpus",
]

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
            problem = f"column '{name}' is empty"
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
