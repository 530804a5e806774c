"""Read traces of deep-learning clusters: Microsoft's Philly, and Tiresias' 60 jobs.

Philly (Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces) lists jobs with their GPUs and the
time that they held them. It has no user estimates, so the estimate equals the duration, and no CPU
or memory requests, so GPUs alone limit a machine. Tiresias' trace (Gu et al., NSDI 2019;
SymbioticLab/Tiresias) is a small mix of models for a cluster seen as one pool of GPUs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from envs.workloads.csvfile import Kind
from envs.workloads.dl import (
    check_fit,
    check_rows,
    dl_requests,
    encode_text,
    gpu_node,
    read_filled,
    split_gpus,
)
from envs.workloads.files import read_text
from envs.workloads.trace import Trace, trace_from_file
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["read_machines", "read_philly", "read_tiresias", "split_gpus"]

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
        if not (machine and gpus.isdecimal() and memory.isdecimal() and int(gpus) <= 64):
            problem = f"machine {machine!r} has {gpus!r} GPUs of {memory!r} GB"
            raise TraceError(str(path), problem, "give a name and integers", number)
        nodes.append(gpu_node(machine, int(gpus), float(memory)))
    if not nodes:
        raise TraceError(str(path), "lists no machines", "give at least one")
    return tuple(nodes)
