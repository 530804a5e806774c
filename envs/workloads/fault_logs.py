"""Read lists of node faults: InfiniteHBD's, in its own JSON or as intervals, and plain CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, header, read_columns, require_columns
from envs.workloads.failures import incident_records
from envs.workloads.files import read_text
from orchestrator.errors import TraceError

__all__ = ["FaultLog", "merge_intervals", "read_faults"]

_SECONDS_PER_DAY = 86_400.0
_DAY_KINDS = {"node": Kind.TEXT, "start_day": Kind.NUMBER, "end_day": Kind.NUMBER}
_SECOND_KINDS = {"node": Kind.TEXT, "start": Kind.NUMBER, "end": Kind.NUMBER}

_Interval = tuple[str, float, float, int | None]  # node, first and last day, line


@dataclass(frozen=True)
class FaultLog:
    """Faults of a cluster's nodes.

    Parameters
    ----------
    node_ids : tuple of str
        Nodes; ``incidents['node']`` indexes them.
    incidents : ndarray of INCIDENT_DTYPE
        Failures and recoveries by time; those of one node alternate.
    """

    node_ids: tuple[str, ...]
    incidents: NDArray[np.void]

    def window(self, start_ms: int, end_ms: int) -> NDArray[np.void]:
        """Incidents of [start_ms, end_ms), times from its start.

        Nodes that are down at the start fail at 0.
        """
        times, nodes = self.incidents["time_ms"], self.incidents["node"]
        inside = self.incidents[(times >= start_ms) & (times < end_ms)].copy()
        inside["time_ms"] -= start_ms
        before = self.incidents[times < start_ms]
        last = {int(node): row for node, row in zip(nodes[times < start_ms], before, strict=True)}
        # A failure has the higher code (codes.EventKind).
        failure = int(self.incidents["kind"].max(initial=0))
        down = [(0, failure, node) for node, row in last.items() if row["kind"] == failure]
        both = np.concatenate([np.array(down, self.incidents.dtype), inside])
        return both[np.argsort(both, order=("time_ms", "kind", "node"), kind="stable")]


def read_faults(path: str | Path, *, node_ids: Sequence[str] = ()) -> FaultLog:
    """Read node faults.

    Parameters
    ----------
    path : str or Path
        A ``.json`` file (or ``.json.gz``) as InfiniteHBD publishes it (a list of events with
        node_id, event_time in days, event_type ``fault_start`` or ``fault_end`` and fault_type);
        or CSV with node, start_day and end_day (days), or with node, start and end (seconds).
    node_ids : sequence of str, optional
        The cluster's nodes, in its order; empty: the nodes of the file, by name.

    Returns
    -------
    FaultLog
        Overlapping and touching faults of a node are one outage.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    text = read_text(path)
    if path.name.removesuffix(".gz").endswith(".json"):
        intervals = _from_events(path, text)
    else:
        intervals = _from_table(path, text)
    if not intervals:
        raise TraceError(str(path), "holds no faults", "give a list with at least one")
    known = tuple(node_ids) or tuple(sorted({node for node, _, _, _ in intervals}))
    index = {node: n for n, node in enumerate(known)}
    for node, start, end, line in intervals:
        if node not in index:
            remedy = "give the nodes of the cluster that the faults belong to"
            raise TraceError(str(path), f"column 'node' names unknown node {node!r}", remedy, line)
        if not 0 <= start <= end:
            problem = f"the fault of node {node!r} lasts from {start:g} to {end:g} days"
            raise TraceError(str(path), problem, "a fault ends after it started", line)
    merged = merge_intervals([(index[node], start, end) for node, start, end, _ in intervals])
    return FaultLog(known, incident_records(merged))


def merge_intervals(intervals: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Unite what overlaps or touches (within a millisecond) on one node; by node, then time."""
    touch = 0.002 / _SECONDS_PER_DAY
    merged: list[tuple[int, float, float]] = []
    for node, start, end in sorted(intervals):
        if merged and merged[-1][0] == node and start <= merged[-1][2] + touch:
            merged[-1] = (node, merged[-1][1], max(merged[-1][2], end))
        else:
            merged.append((node, start, end))
    return merged


def _from_table(path: Path, text: str) -> list[_Interval]:
    days = "start_day" in header(text)
    kinds = _DAY_KINDS if days else _SECOND_KINDS
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    unit = 1.0 if days else 1.0 / _SECONDS_PER_DAY
    found: list[_Interval] = []
    columns = [table[name].to_pylist() for name in kinds]
    for row, (node, start, end) in enumerate(zip(*columns, strict=True)):
        line = row + 2
        for name, value in zip(kinds, (node, start, end), strict=True):
            if value is None or value == "":
                raise TraceError(str(path), f"column '{name}' is empty", "fill it in", line)
        found.append((node, start * unit, end * unit, line))
    return found


def _from_events(path: Path, text: str) -> list[_Interval]:
    """Pair the starts and ends of each node's faults of each type, in order of time."""
    try:
        events = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error.msg})"
        raise TraceError(str(path), problem, "fetch it again", error.lineno) from None
    if not isinstance(events, list):
        raise TraceError(str(path), "is not a list of events", "give the publisher's file")
    started: dict[tuple[str, str], list[float]] = {}
    found: list[_Interval] = []
    for number, event in enumerate(events):
        node, time, kind, fault = _event(path, number, event)
        waiting = started.setdefault((node, fault), [])
        if kind == "fault_start":
            waiting.append(time)
        elif waiting:
            found.append((node, waiting.pop(0), time, None))
        else:
            problem = f"event {number}: a fault of node {node!r} ends that never started"
            raise TraceError(str(path), problem, "sort the events by event_time")
    for (node, _), times in sorted(started.items()):
        if times:
            problem = f"a fault of node {node!r} that started on day {times[0]:g} never ends"
            raise TraceError(str(path), problem, "add its fault_end event")
    return found


def _event(path: Path, number: int, event: Any) -> tuple[str, float, str, str]:
    """Fields of one event: node, day, what happened and the type of the fault."""
    try:
        node, time, kind = event["node_id"], float(event["event_time"]), event["event_type"]
        fault = json.dumps(event["fault_type"], sort_keys=True)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"event {number} lacks or garbles a field ({error!r})"
        remedy = "it needs node_id, event_time, event_type and fault_type"
        raise TraceError(str(path), problem, remedy) from None
    if kind not in ("fault_start", "fault_end"):
        problem = f"event {number}: 'event_type' is {kind!r}"
        raise TraceError(str(path), problem, "it is fault_start or fault_end")
    return str(node), time, kind, fault
