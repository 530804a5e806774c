"""Read batch logs in the Standard Workload Format of the Parallel Workloads Archive.

A processor is a CPU core: a job of p processors becomes one worker of p cores, and the cluster one
pool of cores. Loading follows RLScheduler (Zhang et al., SC 2020), so that the numbers published
for its sequences can be reproduced:

- jobs are sorted by their number (by their submission where the numbers are in another order);
- a negative run time becomes 10 s, a job with run time 0 is dropped;
- a job asks for the larger of its allocated and requested processors;
- a missing requested time is the run time.

A job that was checkpointed or swapped out has a line for the whole of it, and one for each partial
execution, of the same number and with a status of 2 to 4: the former counts. Where it is missing,
the partial executions are added up. A job that was cancelled before it got any processors is left
out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import read_text
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace, trace_from_file
from orchestrator.errors import TraceError
from orchestrator.types import NodeSpec

__all__ = ["processor_pool", "read_swf"]

_FIELDS = (
    "job number",
    "submit time",
    "wait time",
    "run time",
    "allocated processors",
    "average CPU time used",
    "used memory",
    "requested processors",
    "requested time",
    "requested memory",
    "status",
    "user",
    "group",
    "application",
    "queue",
    "partition",
    "preceding job",
    "think time",
)
_JOB, _SUBMIT, _RUN, _ALLOCATED, _REQUESTED, _REQUEST_TIME = 0, 1, 3, 4, 7, 8
_STATUS, _USER, _GROUP, _APPLICATION = 10, 11, 12, 13
_PARTIAL = (2, 3, 4)  # a partial execution: to be continued, the last one, the last one: failed
_CANCELLED = 5
_INTEGERS = (_JOB, _ALLOCATED, _REQUESTED, _USER, _GROUP, _APPLICATION)
_FAILED_RUN_S = 10.0
_LIMIT = 1 << 31


def read_swf(path: str | Path, *, processors: int | None = None) -> Trace:
    """Read a log in the Standard Workload Format.

    Parameters
    ----------
    path : str or Path
        A ``.swf`` or ``.swf.gz`` file.
    processors : int or None, optional
        Size of the machine; None takes ``MaxProcs``, else ``MaxNodes``, of the file's header.

    Returns
    -------
    Trace
        ``user``, ``group`` and ``application`` hold the log's numbers, -1 where missing;
        ``source_id`` the job's number. ``nodes`` is one pool with a core per processor.

    Raises
    ------
    TraceError
        Naming file, line and field of what is wrong, and the remedy.
    """
    file = Path(path)
    numbers: list[int] = []
    rows: list[str] = []
    header: dict[str, str] = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        text = line.strip()
        if text.startswith(";"):
            key, _, value = text[1:].partition(":")
            header.setdefault(key.strip(), value.strip())
        elif text:
            rows.append(text)
            numbers.append(number)
    if not rows:
        raise TraceError(str(file), "holds no jobs", "give a log with at least one job line")
    size = _machine_size(file, header, processors)
    lines = np.array(numbers)
    table = _parse(file, rows, lines)
    order = np.argsort(table[:, _JOB], kind="stable")
    table, lines = _whole_jobs(table[order], lines[order])
    if np.any(np.diff(table[:, _SUBMIT]) < 0):
        order = np.argsort(table[:, _SUBMIT], kind="stable")
        table, lines = table[order], lines[order]
    _check(file, table, lines, size)
    requests = _to_requests(table)
    if len(requests) == 0:
        problem = "every job has run time 0 or was cancelled, and such jobs are dropped"
        raise TraceError(str(file), problem, "give a log with jobs that ran")
    return trace_from_file(file, _stem(file), requests, nodes=(processor_pool(size),))


def processor_pool(processors: int) -> NodeSpec:
    """Make the one node that stands for a machine of identical processors.

    Parameters
    ----------
    processors : int
        Processors, one CPU core each.

    Returns
    -------
    NodeSpec
        Without GPUs, memory or network: nothing but cores limits what runs on it.
    """
    return NodeSpec(
        node_id="pool",
        gpus=0,
        gpu_memory_gb=0.0,
        cpu_cores=processors,
        memory_gb=0.0,
        network_bandwidth_gbps=0.0,
        gpu_topology="none",
    )


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".swf")


def _machine_size(file: Path, header: dict[str, str], processors: int | None) -> int:
    """Take the machine's size from the caller or the header."""
    if processors is not None:
        if not 0 < processors < _LIMIT // 1000:
            problem = f"'processors' was given as {processors}"
            raise TraceError(str(file), problem, f"give 1 to {_LIMIT // 1000 - 1}")
        return processors
    for key in ("MaxProcs", "MaxNodes"):
        value = header.get(key, "").split()
        if (
            value
            and value[0].isascii()
            and value[0].isdecimal()
            and 0 < int(value[0]) < _LIMIT // 1000
        ):
            return int(value[0])
    problem = "the header names neither MaxProcs nor MaxNodes"
    raise TraceError(str(file), problem, "pass the machine's size as 'processors'")


def _parse(file: Path, rows: list[str], lines: NDArray[np.int_]) -> NDArray[np.float64]:
    """Turn lines into numbers [jobs, 18]; on failure name the line and field."""
    try:
        table = np.loadtxt(rows, dtype=np.float64, comments=None, ndmin=2)
        if table.shape[1] == len(_FIELDS) and np.isfinite(table).all():
            return table
    except ValueError:
        pass
    for row, line in zip(rows, lines, strict=True):
        _diagnose(str(file), row.split(), int(line))
    raise TraceError(str(file), "cannot be read as numbers", "check the file against the format")


def _diagnose(name: str, cells: list[str], line: int) -> None:
    """Raise for the first thing that is wrong with a line, if anything is."""
    if len(cells) != len(_FIELDS):
        problem = f"has {len(cells)} columns instead of {len(_FIELDS)}"
        raise TraceError(name, problem, "repair or remove the line", line)
    for field, cell in zip(_FIELDS, cells, strict=True):
        try:
            # Python alone reads 1_000, and digits of other scripts.
            ok = cell.isascii() and "_" not in cell and bool(np.isfinite(float(cell)))
        except ValueError:
            ok = False
        if not ok:
            problem = f"field '{field}' is {cell!r}, not a finite number"
            raise TraceError(name, problem, "write a number, -1 where it is unknown", line)


def _whole_jobs(
    table: NDArray[np.float64], lines: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """One line for each job, of a table sorted by number: no partial executions, none cancelled."""
    status, number = table[:, _STATUS], table[:, _JOB]
    partial = np.isin(status, _PARTIAL)
    keep = ~partial | ~np.isin(number, number[~partial])
    left = np.unique(number[keep & partial])
    firsts, stops = (np.searchsorted(number, left, side) for side in ("left", "right"))
    for first, stop in zip(firsts, stops, strict=True):
        rows = np.arange(first, stop)
        ran = table[rows, _RUN]
        if len(rows) > 1 and (ran > 0).any():
            table[rows[0], _RUN] = ran[ran > 0].sum()
        table[rows[0], _SUBMIT] = _first_submission(table[rows, _SUBMIT])
        keep[rows[1:]] = False
    asked = np.maximum(table[:, _ALLOCATED], table[:, _REQUESTED])
    keep &= ~((status == _CANCELLED) & (table[:, _RUN] <= 0) & (asked < 1))
    return table[keep], lines[keep]


def _first_submission(submit: NDArray[np.float64]) -> float:
    """Submission of a job by those of its executions, of which only the first need be known."""
    known = submit[submit >= 0]
    return float(known.min() if len(known) > 0 else submit[0])


def _check(file: Path, table: NDArray[np.float64], lines: NDArray[np.int_], size: int) -> None:
    """Refuse values that cannot be meant."""

    def refuse(bad: NDArray[np.bool_], column: int, problem: str, remedy: str) -> None:
        if bad.any():
            at = int(np.argmax(bad))
            text = f"field '{_FIELDS[column]}' is {table[at, column]:.15g}, {problem}"
            raise TraceError(str(file), text, remedy, int(lines[at]))

    for column in _INTEGERS:
        bad = (table[:, column] != np.floor(table[:, column])) | (table[:, column] >= _LIMIT)
        refuse(bad, column, "not an integer below 2^31", "write an integer")
    for column in (_SUBMIT, _RUN, _REQUEST_TIME):
        bad = table[:, column] >= float(1 << 43)
        refuse(bad, column, "too large for a time in seconds", "write seconds")
    submit = table[:, _SUBMIT]
    refuse(submit < 0, _SUBMIT, "negative", "shift the log so that it starts at 0")
    asked = np.maximum(table[:, _ALLOCATED], table[:, _REQUESTED])
    runs = table[:, _RUN] != 0
    column = _REQUESTED
    refuse(runs & (asked < 1), column, "and none is allocated", "give the job's processors")
    too_large = runs & (asked > size)
    if too_large.any():
        at = int(np.argmax(too_large))
        column = _ALLOCATED if table[at, _ALLOCATED] > size else _REQUESTED
        problem = f"more than the machine's {size}: the job can never run"
        refuse(too_large, column, problem, "remove the job or pass a larger 'processors'")
    _, first = np.unique(table[:, _JOB], return_index=True)
    same = np.ones(len(table), np.bool_)
    same[first] = False
    refuse(same, _JOB, "used twice", "give every job its own number")


def _to_requests(table: NDArray[np.float64]) -> NDArray[np.void]:
    """Convert checked numbers to requests, dropping the jobs that never ran."""
    table = table[table[:, _RUN] != 0]
    run = np.where(table[:, _RUN] < 0, _FAILED_RUN_S, table[:, _RUN])
    # 0 is no estimate either: taken as missing.
    asked_time = np.where(table[:, _REQUEST_TIME] <= 0, run, table[:, _REQUEST_TIME])
    requests = blank_requests(len(table))
    requests["submit_ms"] = np.rint(table[:, _SUBMIT] * 1000)
    requests["duration_ms"] = np.maximum(1, np.rint(run * 1000))
    requests["requested_ms"] = np.maximum(1, np.rint(asked_time * 1000))
    requests["cpu_milli"] = np.maximum(table[:, _ALLOCATED], table[:, _REQUESTED]) * 1000
    requests["user"] = np.maximum(table[:, _USER], -1)
    requests["group"] = np.maximum(table[:, _GROUP], -1)
    requests["application"] = np.maximum(table[:, _APPLICATION], -1)
    requests["source_id"] = table[:, _JOB]
    return requests
