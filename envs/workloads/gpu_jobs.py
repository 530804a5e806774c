"""Job lists of GPU clusters, as plain columns, made into a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from envs.workloads.dl import check_fit, dl_requests, split_gpus
from envs.workloads.trace import Trace, trace_from_file
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["GpuJobs", "epoch_seconds", "whole_number"]


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


def epoch_seconds(path: Path, column: str, text: str, line: int | None) -> int:
    """Seconds since 1970 of a time like ``2023-03-01 00:18:22+08:00``; without a zone: UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        problem = f"column '{column}' is {text!r}, not a time like 2023-03-01 00:18:22"
        raise TraceError(str(path), problem, "correct the cell", line) from None
    if moment.tzinfo is None:
        moment = datetime.fromisoformat(f"{text}+00:00")
    return int(moment.timestamp())


def whole_number(path: Path, column: str, value: float | None, line: int, least: int = 0) -> int:
    """A cell that holds a count, perhaps written as ``8.0``."""
    if value is None or value != int(value) or value < least or value > 1 << 20:
        problem = f"column '{column}' is {value}, not a whole number from {least} on"
        raise TraceError(str(path), problem, "correct the cell", line)
    return int(value)
