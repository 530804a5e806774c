"""The status of several shards as that of one cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

__all__ = ["merged"]


_COUNTS = ("decisions", "refused_actions", "preemptions", "interruptions", "log_entries")


_EVENTS = 64  # of all shards together, the last ones


def merged(statuses: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """What the statuses of shards say of all of them together.

    Parameters
    ----------
    statuses : collection of mappings
        Of each shard, see :func:`orchestrator.status.cluster_status`.

    Returns
    -------
    dict
        ``nodes``, ``jobs``, ``gpus``, ``queue`` (``length``, ``longest_wait_ms``, ``unplaceable``,
        ``why_not``), ``tenants`` (what each uses; shares and quotas are each shard's own), the last
        ``events``, and counts of decisions, refusals, preemptions, interruptions and log entries.
    """
    queues = [status["queue"] for status in statuses]
    return {
        "nodes": {
            **_added(_numbers(status["nodes"]) for status in statuses),
            "states": _united(status["nodes"]["states"] for status in statuses),
        },
        "jobs": _added(status["jobs"] for status in statuses),
        "gpus": _added(status["gpus"] for status in statuses),
        "queue": {
            "length": sum(queue["length"] for queue in queues),
            "longest_wait_ms": max((queue["longest_wait_ms"] for queue in queues), default=0),
            "unplaceable": sorted(job for queue in queues for job in queue["unplaceable"]),
            "why_not": _united(queue["why_not"] for queue in queues),
        },
        "tenants": _tenants(statuses),
        "events": _last_events(statuses),
        **{name: sum(status[name] for status in statuses) for name in _COUNTS},
    }


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in table.items() if isinstance(value, int | float)}


def _added(tables: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Tables of numbers, added up."""
    total: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total.get(name, 0) + value
    return total


def _united(tables: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables whose keys are each in one of them only: a job or node is in one shard."""
    return {name: value for table in tables for name, value in table.items()}


def _tenants(statuses: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What tenants hold and have had, in all shards."""
    found: dict[str, dict[str, float]] = {}
    for status in statuses:
        for name, said in status["tenants"].items():
            told = {part: said[part] for part in ("used", "attained_hours", "storage_gb")}
            found[name] = _added([found.get(name, {}), told])
    return found


def _last_events(statuses: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    events = [event for status in statuses for event in status["events"]]
    return sorted(events, key=lambda event: int(event["time_ms"]))[-_EVENTS:]
