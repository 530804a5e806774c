"""Read traces of Microsoft's Philly cluster, as tables and as its publisher's log.

Philly (Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces) lists jobs with their GPUs and the
time that they held them. It has no user estimates, so the estimate equals the duration, and no CPU
or memory requests, so GPUs alone limit a machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from envs.workloads.csvfile import EMPTY, Kind, read_text
from envs.workloads.readers.gpu_jobs import (
    GpuJobs,
    check_fit,
    check_rows,
    dl_requests,
    encode_text,
    epoch_seconds,
    gpu_node,
    read_filled,
    split_gpus,
)
from envs.workloads.trace import Trace, trace_from_file
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = [
    "read_machines",
    "read_philly",
    "read_philly_json",
]

_PHILLY_JOBS = "philly_jobs.csv.gz"
_PHILLY_MACHINES = "philly_machines_original.csv.gz"
_PHILLY_KINDS = {
    "job_id": Kind.INTEGER,
    "submit_time": Kind.TIME,
    "duration_s": Kind.INTEGER,
    "num_gpus": Kind.INTEGER,
    "vc": Kind.TEXT,
}
_MACHINE_COLUMNS = ("machineId", "number of GPUs", "single GPU mem")
_MOST_GPUS, _MOST_GB = 64, 1 << 16
_LOG = "cluster_job_log"
_LOG_MACHINES = "cluster_machine_list"
_ZONE = "America/Los_Angeles"
_UNKNOWN = (None, *EMPTY)


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
    nodes = read_machines(folder / _PHILLY_MACHINES)
    text = read_text(path)
    columns = read_filled(path, text, _PHILLY_KINDS)
    tenants, tenant = encode_text(columns["vc"])
    fields = {
        "submit": np.asarray(columns["submit_time"]).astype("datetime64[s]").astype(np.int64),
        "duration": np.asarray(columns["duration_s"]),
        "gpus": np.asarray(columns["num_gpus"]),
        "id": np.asarray(columns["job_id"]),
        "tenant": tenant,
    }
    names = {"submit": "submit_time", "duration": "duration_s", "gpus": "num_gpus"}
    check_rows(path, text, fields, names)
    if since is not None:
        keep = fields["submit"] >= _parse_since(path, since)
        if not keep.any():
            problem = f"holds no job submitted since {since}"
            raise TraceError(str(path), problem, "choose an earlier time")
        fields = {name: values[keep] for name, values in fields.items()}
    fields["submit"] = fields["submit"] - fields["submit"][0]
    requests = dl_requests(fields)
    requests["tenant"] = fields["tenant"]
    per_worker = split_gpus(fields["gpus"])
    requests["gpus_per_worker"] = per_worker
    for field in ("workers", "min_workers", "max_workers"):
        requests[field] = fields["gpus"] // per_worker
    check_fit(path, requests, nodes)
    return trace_from_file(path, "philly", requests, tenants, nodes)


def _parse_since(path: Path, since: str) -> int:
    try:
        return int(np.datetime64(since, "s").astype(np.int64))
    except ValueError:
        problem = f"'since' was given as {since!r}"
        raise TraceError(str(path), problem, "give a date like 2017-09-24") from None


def read_machines(path: Path) -> tuple[NodeSpec, ...]:
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
        whole = machine and all(cell.isascii() and cell.isdecimal() for cell in (gpus, memory))
        if not whole or int(gpus) > _MOST_GPUS or int(memory) > _MOST_GB:
            problem = f"machine {machine!r} has {gpus!r} GPUs of {memory!r} GB"
            remedy = f"give a name and integers, at most {_MOST_GPUS} GPUs of {_MOST_GB} GB"
            raise TraceError(str(path), problem, remedy, number)
        nodes.append(gpu_node(machine, int(gpus), float(memory)))
    if not nodes:
        raise TraceError(str(path), "lists no machines", "give at least one")
    return tuple(nodes)


def read_philly_json(path: str | Path) -> Trace:
    """Read the published job log of Philly.

    Parameters
    ----------
    path : str or Path
        A folder with ``cluster_job_log`` (a list of jobs with status, vc, jobid, user,
        submitted_time and attempts, each with start_time, end_time and detail: machines and their
        GPUs) and ``cluster_machine_list`` (machineId, number of GPUs, single GPU mem). Times are
        Pacific local time, with its summer time, as the publisher says.

    Returns
    -------
    Trace
        Jobs with at least one attempt whose start, end and GPUs are recorded. The run time is that
        of all such attempts together: the scheduler's retries are work that was really done. GPUs
        and machines are those of the last. Tenants are the virtual clusters.

    Raises
    ------
    TraceError
        Naming file, job and field of what is wrong, and the remedy.
    """
    folder = Path(path)
    machines = read_machines(folder / _LOG_MACHINES)
    log = folder / _LOG
    text = read_text(log)
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error.msg})"
        raise TraceError(str(log), problem, "fetch it again", error.lineno) from None
    if not isinstance(entries, list):
        raise TraceError(str(log), "is not a list of jobs", "give the publisher's file")
    jobs = GpuJobs()
    for number, entry in enumerate(entries):
        me = f"job {number}"
        if not isinstance(entry, Mapping):
            raise TraceError(str(log), f"{me} is not an object", "give the publisher's file")
        submit = _seconds(log, me, entry, "submitted_time", None)
        attempts = _list(log, me, entry, "attempts")
        run, gpus, hosts = _attempts(log, me, attempts, submit)
        if gpus > 0 and submit is not None:
            vc, user = _field(log, me, entry, "vc"), str(entry.get("user", ""))
            tenant = "" if vc is None else str(vc)
            jobs.add(submit, run, gpus, nodes=hosts, tenant=tenant, user=user)
    return jobs.to_trace(log, "philly", machines)


def _attempts(path: Path, me: str, attempts: list[Any], submit: int | None) -> tuple[int, int, int]:
    """Run time of all recorded attempts, and GPUs and machines of the last one."""
    before = submit
    run = gpus = hosts = 0
    for number, attempt in enumerate(attempts):
        where = f"{me}, attempt {number}"
        start = _seconds(path, where, attempt, "start_time", before)
        end = _seconds(path, where, attempt, "end_time", start)
        detail = _list(path, where, attempt, "detail")
        count = sum(len(_list(path, where, part, "gpus")) for part in detail)
        if start is None or end is None or count == 0:
            continue
        if end < start:
            problem = f"{where}: 'end_time' is earlier than 'start_time'"
            raise TraceError(str(path), problem, "correct or remove the attempt")
        run, gpus, hosts, before = run + end - start, count, len(detail), end
    return run, gpus, hosts


def _field(path: Path, me: str, entry: Any, name: str) -> Any:
    try:
        return entry[name]
    except (KeyError, TypeError):
        raise TraceError(str(path), f"{me} lacks '{name}'", "add the field") from None


def _list(path: Path, me: str, entry: Any, name: str) -> list[Any]:
    """A list of an entry; empty where the log has none."""
    value = _field(path, me, entry, name)
    if value is not None and not isinstance(value, list):
        raise TraceError(str(path), f"{me}: '{name}' is {value!r}", "give a list")
    return value or []


def _seconds(path: Path, me: str, entry: Any, name: str, after: int | None) -> int | None:
    """A time of an entry, not before another one; None where the log has none."""
    value = _field(path, me, entry, name)
    if value in _UNKNOWN:
        return None
    where = f"{name}' of '{me}"
    return epoch_seconds(path, where, value, None, zone=ZoneInfo(_ZONE), after=after)
