"""Read traces of deep-learning clusters: Microsoft's Philly, and Tiresias' 60 jobs.

Philly (Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces) lists jobs with their GPUs and the
time that they held them. It has no user estimates, so the estimate equals the duration, and no CPU
or memory requests, so GPUs alone limit a machine. Tiresias' trace (Gu et al., NSDI 2019;
SymbioticLab/Tiresias) is a small mix of models for a cluster seen as one pool of GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.columns import blank_requests
from envs.workloads.csvfile import Kind, csv_line, header, read_columns, require_columns
from envs.workloads.files import read_text
from envs.workloads.trace import Trace, trace_from_file, unplaceable
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["read_philly", "read_tiresias", "split_gpus"]

_PHILLY_JOBS = "philly_jobs.csv.gz"
_PHILLY_MACHINES = "philly_machines_original.csv.gz"
_PHILLY_KINDS = {
    "job_id": Kind.INTEGER,
    "submit_time": Kind.TIME,
    "duration_s": Kind.INTEGER,
    "num_gpus": Kind.INTEGER,
    "vc": Kind.TEXT,
}
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
_MACHINE_COLUMNS = ("machineId", "number of GPUs", "single GPU mem")


def read_philly(path: str | Path, *, since: str | None = None) -> Trace:
    """Read the Philly trace.

    Parameters
    ----------
    path : str or Path
        A folder with ``philly_jobs.csv.gz`` (job_id, submit_time, duration_s, num_gpus, vc) and
        ``philly_machines_original.csv.gz`` (machineId, number of GPUs, single GPU mem).
    since : str or None, optional
        Leave out jobs submitted before this time, for example ``"2017-09-24"``: the log is
        sparse until then.

    Returns
    -------
    Trace
        Time 0 is the first submission. Tenants are the virtual clusters. A job of at most 8
        GPUs is one worker; a larger one is a gang of workers of gcd(GPUs, 8) GPUs, so that
        workers fill 8-GPU machines evenly. Jobs are preemptible at no cost: the trace does
        not tell what a checkpoint would cost. A duration of 0 becomes 1 s.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    folder = Path(path)
    path = folder / _PHILLY_JOBS
    nodes = _read_machines(folder / _PHILLY_MACHINES)
    text = read_text(path)
    columns = _columns(path, text, _PHILLY_KINDS)
    tenants, tenant = _encode(columns["vc"])
    fields = {
        "submit": np.asarray(columns["submit_time"]).astype("datetime64[s]").astype(np.int64),
        "duration": np.asarray(columns["duration_s"]),
        "gpus": np.asarray(columns["num_gpus"]),
        "id": np.asarray(columns["job_id"]),
        "tenant": tenant,
    }
    names = {"submit": "submit_time", "duration": "duration_s", "gpus": "num_gpus"}
    _check_rows(path, text, fields, names)
    if since is not None:
        keep = fields["submit"] >= _parse_since(path, since)
        if not keep.any():
            problem = f"holds no job submitted since {since}"
            raise TraceError(str(path), problem, "choose an earlier time")
        fields = {name: values[keep] for name, values in fields.items()}
    fields["submit"] = fields["submit"] - fields["submit"][0]
    requests = _dl_requests(fields)
    requests["tenant"] = fields["tenant"]
    per_worker = split_gpus(fields["gpus"])
    requests["gpus_per_worker"] = per_worker
    for field in ("workers", "min_workers", "max_workers"):
        requests[field] = fields["gpus"] // per_worker
    _check_fit(path, requests, nodes)
    return trace_from_file(path, "philly", requests, tenants, nodes)


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
    columns = _columns(path, text, _TIRESIAS_KINDS)
    _, models = _encode(columns["model_name"])
    fields = {
        "submit": np.asarray(columns["submit_time"]),
        "duration": np.asarray(columns["duration"]),
        "gpus": np.asarray(columns["num_gpu"]),
        "id": np.asarray(columns["job_id"]),
    }
    names = {"submit": "submit_time", "duration": "duration", "gpus": "num_gpu"}
    _check_rows(path, text, fields, names)
    requests = _dl_requests(fields)
    requests["gpus_per_worker"] = fields["gpus"].clip(max=1 << 30)
    requests["application"] = models
    nodes = (_gpu_node("pool", gpus, 0.0),)
    _check_fit(path, requests, nodes)
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return trace_from_file(path, name, requests, nodes=nodes)


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


def _gpu_node(node_id: str, gpus: int, gpu_memory_gb: float) -> NodeSpec:
    """Make a machine of which only the GPUs are known."""
    return NodeSpec(
        node_id=node_id,
        gpus=gpus,
        gpu_memory_gb=gpu_memory_gb,
        cpu_cores=0,
        memory_gb=0.0,
        network_bandwidth_gbps=0.0,
        gpu_topology="PCIe",
    )


def _columns(path: Path, text: str, kinds: Mapping[str, Kind]) -> Any:
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


def _encode(column: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Number the distinct texts of a column in alphabetical order."""
    coded = column.combine_chunks().dictionary_encode()
    names = [str(name) for name in coded.dictionary.to_pylist()]
    rank = np.empty(len(names), np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return tuple(sorted(names)), rank[np.asarray(coded.indices)]


def _check_rows(
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


def _dl_requests(fields: Mapping[str, NDArray[np.int64]]) -> NDArray[np.void]:
    """Fill what both formats have in common; times in seconds."""
    requests = blank_requests(len(fields["submit"]))
    requests["submit_ms"] = fields["submit"] * 1000
    requests["duration_ms"] = np.maximum(fields["duration"], 1) * 1000
    requests["requested_ms"] = requests["duration_ms"]
    requests["source_id"] = fields["id"]
    requests["preemptible"] = 1
    return requests


def _check_fit(path: Path, requests: NDArray[np.void], nodes: tuple[NodeSpec, ...]) -> None:
    lost = unplaceable(requests, nodes)
    if lost.any():
        row = int(np.argmax(lost))
        size = int(requests["workers"][row]) * int(requests["gpus_per_worker"][row])
        problem = f"job {requests['source_id'][row]} needs {size} GPUs and can never fit the nodes"
        raise TraceError(str(path), problem, "remove the job or give a larger cluster")


def _parse_since(path: Path, since: str) -> int:
    try:
        return int(np.datetime64(since, "s").astype(np.int64))
    except ValueError:
        problem = f"'since' was given as {since!r}"
        raise TraceError(str(path), problem, "give a date like 2017-09-24") from None


def _read_machines(path: Path) -> tuple[NodeSpec, ...]:
    """Read the list of machines, in the order of the file."""
    lines = read_text(path).splitlines()
    names = [name.strip() for name in lines[0].split(",")] if lines else []
    for name in _MACHINE_COLUMNS:
        if name not in names:
            raise TraceError(str(path), f"column '{name}' is missing", "add it", 1)
    at = [names.index(name) for name in _MACHINE_COLUMNS]
    nodes = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if cells == [""]:
            continue
        if len(cells) != len(names):
            problem = f"has {len(cells)} cells instead of {len(names)}"
            raise TraceError(str(path), problem, "repair or remove the line", number)
        machine, gpus, memory = (cells[i] for i in at)
        memory = memory.removesuffix("GB").strip()
        if not (machine and gpus.isdecimal() and memory.isdecimal() and int(gpus) <= 64):
            problem = f"machine {machine!r} has {gpus!r} GPUs of {memory!r} GB"
            raise TraceError(str(path), problem, "give a name and integers", number)
        nodes.append(_gpu_node(machine, int(gpus), float(memory)))
    if not nodes:
        raise TraceError(str(path), "lists no machines", "give at least one")
    return tuple(nodes)
