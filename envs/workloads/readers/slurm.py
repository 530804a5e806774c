"""Read the traces of SenseTime's Helios and of Shanghai AI Lab's Acme, as published.

Helios (Hu et al., SC 2021; S-Lab-System-Group/HeliosData) and Acme (Hu et al., NSDI 2024;
InternLM/AcmeTrace) list jobs with their GPUs, machines, and times of submission, start and end.
CPU jobs are left out. Neither has estimates by users, so the estimate equals the run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.checks import is_whole
from envs.workloads.csvfile import (
    EMPTY,
    Kind,
    csv_lines,
    header,
    plain_or_packed,
    read_columns,
    read_text,
    require_columns,
)
from envs.workloads.readers.gpu_jobs import (
    GpuJobs,
    epoch_seconds,
    gpu_node,
    tell_censored,
    whole_number,
)
from envs.workloads.trace import Trace
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["read_acme", "read_helios"]

_HELIOS_JOBS = "cluster_log.csv"
_HELIOS_GPUS = "cluster_gpu_number.csv"
_COMMON = {
    "job_id": Kind.TEXT,
    "user": Kind.TEXT,
    "node_num": Kind.NUMBER,
    "gpu_num": Kind.NUMBER,
    "state": Kind.TEXT,
    "submit_time": Kind.TEXT,
    "start_time": Kind.TEXT,
    "end_time": Kind.TEXT,
}
_HELIOS_KINDS = {**_COMMON, "vc": Kind.TEXT}
_ACME_KINDS = {**_COMMON, "type": Kind.TEXT}
_ACME_NODES = {"seren": 286, "kalos": 302}
_GPUS_PER_NODE = 8
_MOST_GPUS = 1 << 20


def read_helios(path: str | Path, *, nodes: int | None = None) -> Trace:
    """Read a cluster of Helios.

    Parameters
    ----------
    path : str or Path
        A cluster's folder with ``cluster_log.csv`` (job_id, user, vc, gpu_num, node_num, state,
        submit_time, start_time, end_time and others) and, unless `nodes` is given,
        ``cluster_gpu_number.csv`` (date, a column for each virtual cluster, total).
    nodes : int or None, optional
        Machines of 8 GPUs; None: as many as the largest daily total makes.

    Returns
    -------
    Trace
        GPU jobs that started; one without an end is censored: it lasts until the last time that is
        told of a GPU job. Tenants are the virtual clusters.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    folder = path = Path(path)
    count = nodes if nodes is not None else _helios_nodes(folder / _HELIOS_GPUS)
    return _read(
        plain_or_packed(folder / _HELIOS_JOBS),
        "helios",
        _HELIOS_KINDS,
        "vc",
        _machines(path, count),
    )


def read_acme(path: str | Path, *, nodes: int | None = None) -> Trace:
    """Read a cluster of Acme.

    Parameters
    ----------
    path : str or Path
        ``trace_seren.csv`` or ``trace_kalos.csv`` (job_id, user, node_num, gpu_num, type, state,
        submit_time, start_time, end_time and others).
    nodes : int or None, optional
        Machines of 8 GPUs; None: 286 for Seren (2,288 GPUs) and 302 for Kalos (2,416 GPUs), by the
        name of the file.

    Returns
    -------
    Trace
        GPU jobs that started; one without an end is censored: it lasts until the last time that is
        told of a GPU job. ``application`` numbers the types of workload. Run times are from start
        to end: the column ``duration`` of Kalos counts the queue as well, other than its
        description says.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    name = next((known for known in _ACME_NODES if known in path.name.lower()), "acme")
    count = nodes if nodes is not None else _ACME_NODES.get(name)
    if count is None:
        problem = "is neither Seren's nor Kalos's by its name"
        raise TraceError(str(path), problem, "give 'nodes', the machines of 8 GPUs")
    return _read(path, name, _ACME_KINDS, None, _machines(path, count))


def _machines(path: Path, count: int) -> tuple[NodeSpec, ...]:
    if not is_whole(count) or not 0 < count <= _MOST_GPUS:
        problem = f"'nodes' was given as {count!r}"
        raise TraceError(str(path), problem, f"give a whole number, 1 to {_MOST_GPUS}")
    return tuple(gpu_node(f"node-{n}", _GPUS_PER_NODE) for n in range(count))


def _helios_nodes(path: Path) -> int:
    path = plain_or_packed(path)
    text = read_text(path)
    kinds = {"total": Kind.NUMBER}
    require_columns(path, header(text), kinds, 1)
    totals = read_columns(path, text, kinds)["total"].to_pylist()
    for line, value in zip(csv_lines(text), totals, strict=True):
        if value is not None and not 0 <= value <= _MOST_GPUS:
            problem = f"column 'total' is {value:g}"
            raise TraceError(str(path), problem, f"give GPUs, 0 to {_MOST_GPUS}", line)
    largest = int(max((value or 0.0 for value in totals), default=0.0))
    if largest < _GPUS_PER_NODE:
        raise TraceError(str(path), f"column 'total' is {largest} at most", "give 'nodes' instead")
    return -(-largest // _GPUS_PER_NODE)


def _rows(path: Path, kinds: Mapping[str, Kind]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of a table and their cells."""
    text = read_text(path)
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    columns = [table[name].to_pylist() for name in kinds]
    for line, cells in zip(csv_lines(text), zip(*columns, strict=True), strict=True):
        yield line, dict(zip(kinds, cells, strict=True))


def _read(
    path: Path,
    name: str,
    kinds: Mapping[str, Kind],
    tenant: str | None,
    machines: tuple[NodeSpec, ...],
) -> Trace:
    jobs, starts = GpuJobs(), dict[int, int]()  # and of those without an end, their starts
    last = 0
    for line, cells in _rows(path, kinds):
        gpus = whole_number(path, "gpu_num", cells["gpu_num"] or 0.0, line)
        if gpus == 0 or cells["start_time"] in EMPTY:
            continue
        times = {
            column: epoch_seconds(path, column, cells[column], line)
            for column in ("submit_time", "start_time", "end_time")
            if column != "end_time" or cells[column] not in EMPTY
        }
        run = times.get("end_time", times["start_time"]) - times["start_time"]
        if run < 0:
            problem = "column 'end_time' is earlier than 'start_time'"
            raise TraceError(str(path), problem, "correct or remove the line", line)
        last = max(last, *times.values())
        if "end_time" not in times:
            starts[len(jobs.run_s)] = times["start_time"]
        jobs.add(
            times["submit_time"],
            run,
            gpus,
            nodes=whole_number(path, "node_num", cells["node_num"] or 0.0, line),
            tenant=cells[tenant] if tenant else "default",
            user=cells["user"],
            application=cells.get("type") or "",
        )
    for at, start in starts.items():
        jobs.run_s[at] = last - start
    tell_censored(path, len(starts), len(jobs.run_s))
    return jobs.to_trace(path, name, machines)
