"""Read Alibaba's PAI trace of 2020 as published.

Weng et al., "MLaaS in the Wild", NSDI 2022; alibaba/clusterdata, cluster-trace-gpu-v2020. Tables
come without a header line; the columns here are those of the publisher's ``.header`` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import (
    Kind,
    csv_lines,
    plain_or_packed,
    read_columns,
    read_text,
)
from envs.workloads.readers.gpu_jobs import tell_censored
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace, trace_from_file, unplaceable
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["read_pai"]

_JOB = {
    "job_name": Kind.TEXT,
    "inst_id": Kind.TEXT,
    "user": Kind.TEXT,
    "status": Kind.TEXT,
    "start_time": Kind.NUMBER,
    "end_time": Kind.NUMBER,
}
_TASK = {
    "job_name": Kind.TEXT,
    "task_name": Kind.TEXT,
    "inst_num": Kind.NUMBER,
    "status": Kind.TEXT,
    "start_time": Kind.NUMBER,
    "end_time": Kind.NUMBER,
    "plan_cpu": Kind.NUMBER,
    "plan_mem": Kind.NUMBER,
    "plan_gpu": Kind.NUMBER,
    "gpu_type": Kind.TEXT,
}
_MACHINE = {
    "machine": Kind.TEXT,
    "gpu_type": Kind.TEXT,
    "cap_cpu": Kind.NUMBER,
    "cap_mem": Kind.NUMBER,
    "cap_gpu": Kind.NUMBER,
}
_MIB_PER_GIB = 1024
_MOST = 1 << 20
_MOST_SECONDS = 1 << 40


def read_pai(path: str | Path, *, drop_unplaceable: bool = False) -> Trace:
    """Read the PAI trace.

    Parameters
    ----------
    path : str or Path
        A folder with ``pai_job_table.csv``, ``pai_task_table.csv`` and ``pai_machine_spec.csv``
        (or ``.csv.gz``), with or without a header line.
    drop_unplaceable : bool, optional
        Leave out jobs that the machines can never hold, instead of refusing the trace.

    Returns
    -------
    Trace
        One job for each job with a task that asks for GPUs and has started: the task of most GPUs,
        its instances as workers. Other tasks (parameter servers) are left out. A task without an
        end is censored: it lasts until the last time that is told of such a task. A plan
        of 50 % is half a GPU; above 100 % it is rounded up to whole GPUs. Submission is the start
        of the job, run time that of the task. ``application`` numbers the names of tasks. GPU
        types are those of the machines; jobs are not tied to the type that they were given.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    folder = Path(path)
    nodes = _machines(plain_or_packed(folder / "pai_machine_spec.csv"))
    jobs_path = plain_or_packed(folder / "pai_job_table.csv")
    submitted: dict[str, tuple[float, str]] = {}
    for cells in _rows(jobs_path, _JOB):
        if cells["start_time"] is not None:
            _bounded(jobs_path, cells, "start_time", _MOST_SECONDS)
            submitted[cells["job_name"]] = (cells["start_time"], cells["user"])
    tasks_path = plain_or_packed(folder / "pai_task_table.csv")
    chosen = _largest_tasks(tasks_path, submitted)
    if not chosen:
        problem = "holds no GPU task that ran"
        raise TraceError(str(tasks_path), problem, "give a table with at least one")
    requests = _requests(chosen, submitted)
    if nodes:
        lost = unplaceable(requests, nodes)
        if lost.any() and not drop_unplaceable:
            row = int(np.argmax(lost))
            problem = f"job {list(chosen)[int(requests['source_id'][row])]!r} can never fit"
            remedy = "remove it, give the machines that it ran on, or set 'drop_unplaceable'"
            raise TraceError(str(tasks_path), problem, remedy)
        requests = requests[~lost]
    return trace_from_file(tasks_path, "pai", requests, nodes=nodes)


def _requests(
    chosen: Mapping[str, dict[str, Any]], submitted: Mapping[str, tuple[float, str]]
) -> NDArray[np.void]:
    """One request for each task, by submission."""
    requests = blank_requests(len(chosen))
    users = {name: i for i, name in enumerate(sorted({user for _, user in submitted.values()}))}
    kinds = {name: i for i, name in enumerate(sorted({t["task_name"] for t in chosen.values()}))}
    for row, (name, task) in enumerate(chosen.items()):
        at, user = submitted[name]
        percent = task["plan_gpu"]
        whole = -(-int(percent) // 100) if percent > 100 else 1
        run_ms = max(round(1000 * (task["end_time"] - task["start_time"])), 1000)
        values = {
            "submit_ms": round(1000 * at),
            "duration_ms": run_ms,
            "requested_ms": run_ms,
            "workers": int(task["inst_num"]),
            "min_workers": int(task["inst_num"]),
            "max_workers": int(task["inst_num"]),
            "gpus_per_worker": whole,
            "gpu_milli": 1000 if percent >= 100 else max(round(10 * percent), 1),
            "cpu_milli": round(10 * (task["plan_cpu"] or 0.0)),
            "memory_mib": round(_MIB_PER_GIB * (task["plan_mem"] or 0.0)),
            "user": users[user],
            "application": kinds[task["task_name"]],
            "preemptible": 1,
        }
        for column, value in values.items():
            requests[column][row] = value
    requests["submit_ms"] -= requests["submit_ms"].min()
    return requests[np.argsort(requests["submit_ms"], kind="stable")]


def _largest_tasks(
    path: Path, submitted: Mapping[str, tuple[float, str]]
) -> dict[str, dict[str, Any]]:
    """The task of most GPUs of each job, among those that ran."""
    chosen: dict[str, dict[str, Any]] = {}
    last = 0.0
    for cells in _rows(path, _TASK):
        started, ended = cells["start_time"], cells["end_time"]
        count, percent = cells["inst_num"], cells["plan_gpu"]
        if not percent or started is None or cells["job_name"] not in submitted:
            continue
        for name, value in (("plan_gpu", percent), ("inst_num", count)):
            if value is None or value <= 0 or value > _MOST:
                problem = f"column '{name}' is {value}"
                raise TraceError(str(path), problem, "give a positive number", cells["line"])
        if count != int(count):
            problem = f"column 'inst_num' is {count}"
            raise TraceError(str(path), problem, "give a whole number", cells["line"])
        for name in ("plan_cpu", "plan_mem"):
            _bounded(path, cells, name, _MOST)
        for name in ("start_time", "end_time"):
            _bounded(path, cells, name, _MOST_SECONDS)
        last = max(last, started if ended is None else ended)
        if ended is not None and ended < started:
            problem = "column 'end_time' is earlier than 'start_time'"
            raise TraceError(str(path), problem, "correct or remove the line", cells["line"])
        before = chosen.get(cells["job_name"])
        if before is None or count * percent > before["inst_num"] * before["plan_gpu"]:
            chosen[cells["job_name"]] = cells
    runs = [cells for cells in chosen.values() if cells["end_time"] is None]
    for cells in runs:
        cells["end_time"] = last
    tell_censored(path, len(runs), len(chosen))
    return chosen


def _bounded(path: Path, cells: Mapping[str, Any], name: str, most: int) -> None:
    """Refuse a number that cannot be meant; an empty cell is well."""
    value = cells[name]
    if value is not None and not 0 <= value <= most:
        problem = f"column '{name}' is {value}"
        raise TraceError(str(path), problem, f"give 0 to {most}", cells["line"])


def _machines(path: Path) -> tuple[NodeSpec, ...]:
    nodes = []
    for cells in _rows(path, _MACHINE):
        for name in ("cap_cpu", "cap_mem", "cap_gpu"):
            most = 64 if name == "cap_gpu" else _MOST
            if cells[name] is None or not 0 <= cells[name] <= most:
                problem = f"column '{name}' is {cells[name]}"
                remedy = f"give a number from 0 to {most}"
                raise TraceError(str(path), problem, remedy, cells["line"])
        if not cells["machine"]:
            problem = "column 'machine' is empty"
            raise TraceError(str(path), problem, "fill it in", cells["line"])
        nodes.append(
            NodeSpec(
                node_id=cells["machine"],
                gpus=int(cells["cap_gpu"]),
                gpu_memory_gb=0.0,
                cpu_cores=int(cells["cap_cpu"]),
                memory_gb=float(cells["cap_mem"]),
                network_bandwidth_gbps=0.0,
                gpu_topology="PCIe",
                gpu_model=cells["gpu_type"] or "none",
            )
        )
    return tuple(nodes)


def _rows(path: Path, kinds: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """Cells of each line by column, and the number of the line."""
    text = read_text(path)
    first = 1
    names = ",".join(kinds)
    if not text.startswith(names):
        text, first = f"{names}\n{text}", 0
    table = read_columns(path, text, kinds, first_line=first)
    columns = [table[name].to_pylist() for name in kinds]
    return [
        dict(zip(kinds, cells, strict=True)) | {"line": line}
        for line, cells in zip(csv_lines(text, first), zip(*columns, strict=True), strict=True)
    ]
