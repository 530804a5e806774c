"""What people are told of a cluster and its jobs: plain data, ready for JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from orchestrator.engine import Engine, Outcome
from orchestrator.kernels.codes import NO_JOB, JobCode, NodeCode
from orchestrator.kernels.transition import live
from orchestrator.messages import StopJob
from orchestrator.ports import Checkpoint, CheckpointManager, ShardManager
from orchestrator.resources.standing import fragmentation, tenant_shares, why_waiting
from orchestrator.types import JobState

__all__ = ["checkpoint_status", "cluster_status", "failure_report", "job_status", "node_states"]

_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_EXPLAINED = 64  # waiting jobs of a cluster's status that are told why; the first of the queue


def node_states(engine: Engine) -> dict[str, str]:
    """Nodes that are part of the cluster, and the state of each in lower case."""
    return {node_id: engine.nodes.code(node_id).name.lower() for node_id in engine.nodes.specs}


def cluster_status(engine: Engine, time_ms: int, shards: ShardManager) -> dict[str, Any]:
    """What is going on in a cluster at a time, nothing having happened since the last entry.

    Returns
    -------
    dict
        ``nodes`` (by state, and each), ``jobs`` (by state), ``gpus``, ``utilization`` (now, and
        over time), ``queue`` (length, the longest wait, jobs that cannot ever be placed as the
        cluster is, and by job ``why_not`` the first of them are placed), ``fragmentation`` and
        ``tenants`` (see :mod:`orchestrator.resources.standing`), counts of ``decisions``,
        ``preemptions`` and ``interruptions``, the ``event_log``'s length and hash, and
        ``shards`` (entities that each owns).
    """
    state = engine.state_at(time_ms)
    row: Any = state.rows[0]
    states = node_states(engine)
    by_node = Counter(states.values())
    queue = state.queue[0, : int(row["queue_len"])]["job"]
    waiting = [engine.jobs.slots.ids[j] for j in queue]
    first_ms = min((int(state.request[0, j]["submit_ms"]) for j in queue), default=row["now_ms"])
    committed = int(row["committed"])
    used = int(row["capacity_units"]) - int(row["free_units"])
    now_ms = int(row["now_ms"])
    mean = _share(int(row["busy_unit_ms"]), int(row["capacity_unit_ms"]))
    return {
        "now_ms": now_ms,
        "nodes": {
            "total": len(states),
            **{code.name.lower(): by_node[code.name.lower()] for code in NodeCode if code > 0},
            "states": states,
        },
        "jobs": _jobs_by_state(engine),
        "gpus": _gpus(engine),
        "utilization": {
            "unit": "gpu" if row["unit"] else "cpu",
            "now": _share(used, int(row["capacity_units"])),
            "mean": mean,
        },
        "queue": {
            "length": len(waiting),
            "longest_wait_ms": int(now_ms - first_ms),
            "unplaceable": [name for name in waiting if not engine.can_ever_fit(name)],
            "committed_to": None if committed == NO_JOB else engine.jobs.slots.ids[committed],
            "why_not": why_waiting(engine, state, waiting[:_EXPLAINED]),
        },
        "fragmentation": fragmentation(engine),
        "tenants": tenant_shares(engine),
        "decisions": int(engine.row["decisions"]),
        "refused_actions": int(engine.row["illegal_actions"]),
        "preemptions": engine.jobs.count("preemptions"),
        "interruptions": engine.jobs.count("interruptions"),
        "event_log": {"records": int(engine.row["log_count"]), "hash": f"{engine.log_hash:016x}"},
        "shards": _by_shard(engine, shards),
    }


def job_status(
    engine: Engine,
    time_ms: int,
    job_id: str,
    checkpoints: CheckpointManager,
    shards: ShardManager,
) -> dict[str, Any]:
    """What is known of a job at a time, nothing having happened since the last entry.

    Returns
    -------
    dict
        Its ``state``, times (None: not yet), ``progress`` (share of the estimate), ``workers``
        (node and GPUs of each), ``resources`` that it holds, counts of what happened to it, its
        last ``checkpoint``, whether it is ``unplaceable`` in the cluster as it is, and
        ``why_not`` (None: it does not wait; see
        :func:`orchestrator.resources.standing.why_waiting`).
    """
    j = engine.jobs.slots.find(job_id)
    spec, code = engine.jobs.specs[job_id], engine.jobs.code(job_id)
    state = engine.state_at(time_ms)
    run: Any = state.job[0, j]
    ask: Any = state.request[0, j]
    workers = engine.workers_of(job_id)
    ended = code in (JobCode.COMPLETED, JobCode.FAILED)
    first_start_ms, end_ms = _moment(run["first_start_ms"]), _moment(run["end_ms"])
    moments = (first_start_ms, end_ms, int(state.rows[0]["now_ms"]))
    waited_until_ms = next(moment for moment in moments if moment is not None)
    estimate_ms = int(ask["requested_ms"])
    done_ms = live.work_done(state.rows, 0, j)
    return {
        "job_id": job_id,
        "name": spec.name,
        "tenant": spec.tenant,
        "priority": spec.priority.name,
        "state": JobState[code.name].value,
        "shard": shards.owner(job_id),
        "submit_ms": int(ask["submit_ms"]),
        "first_start_ms": first_start_ms,
        "start_ms": _moment(run["start_ms"]),
        "end_ms": end_ms,
        "wait_ms": waited_until_ms - int(ask["submit_ms"]),
        "progress_ms": done_ms,
        "progress": 1.0 if code == JobCode.COMPLETED else min(1.0, done_ms / estimate_ms),
        "workers": [{"node": place.node_id, "gpus": list(place.gpus)} for place in workers],
        "resources": {
            "gpus": len(workers) * spec.gpus_per_worker * spec.gpu_fraction,
            "cpus": len(workers) * spec.cpus_per_worker,
            "memory_gb": len(workers) * spec.memory_per_worker_gb,
        },
        "starts": engine.runs_of(job_id),
        "preemptions": int(run["preemptions"]),
        "interruptions": int(run["interruptions"]),
        "lost_ms": int(run["lost_ms"]),
        "checkpoint": checkpoint_status(checkpoints.latest(job_id)),
        "unplaceable": not ended and not engine.can_ever_fit(job_id),
        "why_not": why_waiting(engine, state, [job_id])[job_id] if code in _WAITING else None,
    }


def failure_report(
    engine: Engine, node_id: str, outcome: Outcome, checkpoints: CheckpointManager
) -> dict[str, Any]:
    """What a node's failure has done: see ``InfrastructureOrchestrator.handle_node_failure``."""
    stops = [effect for effect in outcome.effects if isinstance(effect, StopJob)]
    latest = {stop.job_id: checkpoints.latest(stop.job_id) for stop in stops}
    return {
        "node_id": node_id,
        "time_ms": engine.now_ms,
        "interrupted_jobs": list(latest),
        "checkpoints": {job_id: checkpoint_status(last) for job_id, last in latest.items()},
        "lost_work_ms": {stop.job_id: stop.lost_ms for stop in stops},
        "rescheduled": [],
    }


def checkpoint_status(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """A checkpoint as plain data."""
    if checkpoint is None:
        return None
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "progress_ms": checkpoint.progress_ms,
        "time_ms": checkpoint.time_ms,
    }


def _moment(time_ms: Any) -> int | None:
    return int(time_ms) if time_ms >= 0 else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def _jobs_by_state(engine: Engine) -> dict[str, int]:
    """Jobs by state; the ones that have ended count even if they are forgotten."""
    codes = Counter(int(code) for code in engine.state.job[0, : engine.shape.jobs]["state"])
    counts = {state.value: codes[int(JobCode[state.name])] for state in JobState}
    counts[JobState.COMPLETED.value] = engine.jobs.count("completed_jobs")
    counts[JobState.FAILED.value] = engine.jobs.count("failed_jobs")
    return counts


def _gpus(engine: Engine) -> dict[str, float]:
    nodes = engine.state.node[0]
    up = nodes[nodes["state"] == NodeCode.UP]
    total, free = int(np.sum(up["gpus"])), int(np.sum(up["gpu_free_milli"])) / 1000
    return {"total": total, "free": free, "allocated": total - free}


def _by_shard(engine: Engine, shards: ShardManager) -> dict[str, dict[str, int]]:
    jobs = Counter(shards.owner(job_id) for job_id in engine.jobs.specs)
    nodes = Counter(shards.owner(node_id) for node_id in engine.nodes.specs)
    return {name: {"jobs": jobs[name], "nodes": nodes[name]} for name in shards.shards}
