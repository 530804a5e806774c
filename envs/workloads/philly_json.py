"""Read the Philly trace as its publisher released it: ``cluster_job_log``, JSON.

Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.workloads.files import read_text
from envs.workloads.gpu_jobs import GpuJobs, epoch_seconds
from envs.workloads.philly import read_machines
from envs.workloads.trace import Trace
from orchestrator.errors import TraceError

__all__ = ["read_philly_json"]

_JOBS = "cluster_job_log"
_MACHINES = "cluster_machine_list"
_UNKNOWN = (None, "", "None")


def read_philly_json(path: str | Path) -> Trace:
    """Read the published job log of Philly.

    Parameters
    ----------
    path : str or Path
        A folder with ``cluster_job_log`` (a list of jobs with status, vc, jobid, user,
        submitted_time and attempts, each with start_time, end_time and detail: machines and their
        GPUs) and ``cluster_machine_list`` (machineId, number of GPUs, single GPU mem).

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
    machines = read_machines(folder / _MACHINES)
    log = folder / _JOBS
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
        submit = _seconds(log, me, entry, "submitted_time")
        attempts = _field(log, me, entry, "attempts")
        run, gpus, hosts = _attempts(log, me, attempts)
        if gpus > 0 and submit is not None:
            tenant, user = str(_field(log, me, entry, "vc")), str(entry.get("user", ""))
            jobs.add(submit, run, gpus, nodes=hosts, tenant=tenant, user=user)
    return jobs.to_trace(log, "philly", machines)


def _attempts(path: Path, me: str, attempts: Any) -> tuple[int, int, int]:
    """Run time of all recorded attempts, and GPUs and machines of the last one."""
    run = gpus = hosts = 0
    for number, attempt in enumerate(attempts):
        where = f"{me}, attempt {number}"
        start = _seconds(path, where, attempt, "start_time")
        end = _seconds(path, where, attempt, "end_time")
        detail = _field(path, where, attempt, "detail")
        count = sum(len(_field(path, where, part, "gpus")) for part in detail)
        if start is None or end is None or count == 0:
            continue
        if end < start:
            problem = f"{where}: 'end_time' is earlier than 'start_time'"
            raise TraceError(str(path), problem, "correct or remove the attempt")
        run, gpus, hosts = run + end - start, count, len(detail)
    return run, gpus, hosts


def _field(path: Path, me: str, entry: Any, name: str) -> Any:
    try:
        return entry[name]
    except (KeyError, TypeError):
        raise TraceError(str(path), f"{me} lacks '{name}'", "add the field") from None


def _seconds(path: Path, me: str, entry: Any, name: str) -> int | None:
    """A time of an entry; None where the log has none."""
    value = _field(path, me, entry, name)
    return None if value in _UNKNOWN else epoch_seconds(path, f"{name}' of '{me}", value, None)
