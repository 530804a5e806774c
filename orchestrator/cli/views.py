"""What the server says, as rows and pages for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group

from orchestrator.cli.tables import duration, facts, make_table, moment, plain, print_table, since
from orchestrator.cli.terminal import line

if TYPE_CHECKING:
    from orchestrator.client import JobStatus, JobSummary, NodeStatus, QueueItem

__all__ = [
    "JOB_COLUMNS",
    "NODE_COLUMNS",
    "QUEUE_COLUMNS",
    "dashboard",
    "event_line",
    "job_row",
    "node_row",
    "queue_row",
    "show_job",
]


JOB_COLUMNS = (
    *("JOB", "TENANT", "PRIORITY", "STATE", "WORKERS", "GPUS", "AGE", "RAN", "NODES", "CODE"),
    "REASON",
)


def job_row(job: JobSummary) -> tuple[object, ...]:
    """A job in a list."""
    start_ms, end_ms = job.get("start_ms"), job.get("end_ms")
    ran_ms = None if start_ms is None else (end_ms or 1000 * time.time()) - start_ms
    place = job.get("queue_position")
    return (
        job["job_id"],
        job.get("tenant"),
        str(job.get("priority", "")).lower(),
        job.get("state"),
        job.get("workers"),
        job.get("gpus"),
        _age(job.get("submit_ms")),
        duration(ran_ms),
        job.get("node_ids"),
        job.get("exit_code"),
        job.get("reason") or (f"number {place} in the queue" if place else ""),
    )


def _age(ms: int | None) -> str:
    return duration(None if ms is None else 1000 * time.time() - ms)


def show_job(job: JobStatus) -> None:
    """A page of one job."""
    ended = job.get("end_ms") is not None
    start_ms = job.get("start_ms")
    facts(
        [
            ("job", job["job_id"]),
            ("name", job.get("name")),
            ("state", job.get("state")),
            ("exit code", job.get("exit_code")),
            ("reason", job.get("reason")),
            ("tenant", job.get("tenant")),
            ("priority", str(job.get("priority", "")).lower()),
            ("kind", str(job.get("kind", "")).lower()),
            ("command", " ".join(map(_quoted, job.get("command", [])))),
            ("nodes", job.get("node_ids")),
            ("resources", None if ended else job.get("resources")),
            ("submitted", f"{moment(job.get('submit_ms'))} ({since(job.get('submit_ms'))})"),
            ("waited", duration(job.get("wait_ms"))),
            ("started", None if start_ms is None else moment(start_ms)),
            ("ended", moment(job.get("end_ms")) if ended else None),
            ("progress", None if start_ms is None else f"{100 * job.get('progress', 0.0):.0f} %"),
            ("starts", job.get("starts")),
            ("preemptions", job.get("preemptions") or None),
            ("interruptions", job.get("interruptions") or None),
            ("in the queue", job.get("queue_position")),
            ("waits for", waits_for(job.get("waits_for")) or job.get("why_not")),
            ("expected", _expected(job.get("expected_start_ms"))),
            ("can ever start", False if job.get("unplaceable") else None),
        ]
    )
    history = job.get("history") or []
    if history:
        line()
        rows = [(moment(n.get("time_ms")), n.get("what"), n.get("reason")) for n in history]
        print_table(make_table(("WHEN", "WHAT", "REASON"), rows))


def _quoted(part: str) -> str:
    import shlex

    return shlex.quote(part)


def _expected(ms: int | None) -> str | None:
    return None if ms is None else f"{moment(ms)} ({since(ms)})"


def waits_for(told: Any) -> str:
    """What a job waits for, in words."""
    if not isinstance(told, dict):
        return str(told or "")
    return str(told.get("text") or told.get("reason") or "")


NODE_COLUMNS = ("NODE", "STATE", "GPUS FREE", "GPUS", "CPUS", "MEMORY GB", "RACK", "JOBS")


def node_row(node: NodeStatus) -> tuple[object, ...]:
    """A node in a list."""
    names = ("node_id", "state", "gpus_free", "gpus", "cpus", "memory_gb", "rack", "jobs")
    return tuple(node.get(name) for name in names)


QUEUE_COLUMNS = (
    *("POSITION", "JOB", "TENANT", "PRIORITY", "WORKERS", "GPUS", "WAITED", "EXPECTED"),
    "REASON",
)


def queue_row(item: QueueItem) -> tuple[object, ...]:
    """A job that waits, in the order of service."""
    return (
        item.get("position"),
        item["job_id"],
        item.get("tenant"),
        str(item.get("priority", "")).lower(),
        item.get("workers"),
        item.get("gpus"),
        _age(item.get("submit_ms")),
        since(item.get("expected_start_ms")),
        waits_for(item.get("waits_for")) or item.get("reason"),
    )


def event_line(event: Any) -> str:
    """Something that happened, on one line."""
    if event.get("gap") or event.get("kind") == "gap":
        return "... what is older is not kept any more"
    who = event.get("job_id") or event.get("node_id") or event.get("service") or ""
    parts = (
        moment(event.get("time_ms")),
        event.get("kind", ""),
        who,
        event.get("what", ""),
        event.get("reason", ""),
    )
    return "  ".join(plain(part) for part in parts if part)


def dashboard(cluster: Any, nodes: list[Any], running: list[Any], waiting: list[Any]) -> Group:
    """The cluster on one page."""
    gpus, jobs = cluster.get("gpus", {}), cluster.get("jobs", {})
    used = cluster.get("utilization", {})
    counts = ", ".join(f"{count} {state}" for state, count in jobs.items() if count)
    head = (
        f"{time.strftime('%H:%M:%S')}  {len(nodes)} nodes, GPUs {plain(gpus.get('allocated'))} of "
        f"{plain(gpus.get('total'))} in use, {used.get('unit', '')} use "
        f"{100 * used.get('now', 0.0):.0f} %; jobs: {counts or 'none'}"
    )
    parts: list[Any] = [head]
    for title, columns, rows in (
        ("nodes", NODE_COLUMNS, [node_row(node) for node in nodes]),
        ("running", JOB_COLUMNS, [job_row(job) for job in running]),
        ("waiting", QUEUE_COLUMNS, [queue_row(item) for item in waiting]),
    ):
        if rows:
            parts += ["", make_table(columns, rows, title)]
    return Group(*parts)
