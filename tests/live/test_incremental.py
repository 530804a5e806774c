"""What is kept up to date entry by entry is what a scan of everything finds, after random days."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock
from orchestrator.engine.engine import Engine
from orchestrator.errors import QuartermasterError
from orchestrator.foundations import (
    HashShardManager,
    HeartbeatFaultDetector,
    InMemoryCheckpoints,
    InMemoryConsensus,
)
from orchestrator.kernels.state.codes import JobCode, JobKind, NodeCode
from orchestrator.live.limits import TimeLimits
from orchestrator.messages import (
    Decommission,
    JobOverdue,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Register,
    Scale,
    Submit,
    WorkerExited,
)
from orchestrator.runtimes import SimulatedRuntime
from tests.engine.builders import MINUTE_MS, job, node
from tests.live.restarts import SHAPE, Deed, draw_day

_GRACE_MS = 5 * MINUTE_MS


def _next_limit(engine: Engine) -> int | None:
    """When the next job is to be warned or ended: the slow, obvious twin."""
    state, due = engine.state, []
    for j in range(len(engine.jobs.index.ids)):
        run, job_id = state.job[0, j], engine.jobs.index.ids[j]
        if run["state"] != JobCode.RUNNING or state.request[0, j]["kind"] == JobKind.SERVICE:
            continue
        left = max(int(engine.jobs.limit_ms[j]) - int(run["progress_ms"] + run["unsaved_ms"]), 0)
        warned = engine.history.last(job_id, "overdue")
        grace = _GRACE_MS * (warned is not None and warned.run == engine.run_of(job_id))
        due.append(int(run["work_start_ms"]) - -left * 1000 // int(run["speed_milli"]) + grace)
    return min(due, default=None)


def _scanned(engine: Engine, shards: HashShardManager) -> dict[str, object]:
    """What the indices say, found by looking at everything."""
    state, nodes = engine.state, engine.nodes
    codes = {name: int(state.node[0, nodes.index.find(name)]["state"]) for name in nodes.specs}
    queue = state.queue[0, : int(engine.row["queue_len"])]["job"]
    owners = {
        what: Counter(shards.owner(name) for name in names)
        for what, names in (("jobs", engine.jobs.specs), ("nodes", nodes.specs))
    }
    ids = engine.jobs.index.ids
    return {
        "codes": codes,
        "counts": [int(np.sum(state.node[0]["state"] == code)) for code in NodeCode],
        "shards": {
            name: {what: found[name] for what, found in owners.items()} for name in shards.shards
        },
        "places": {ids[j]: q + 1 for q, j in enumerate(queue.tolist())},
        "unplaceable": [ids[j] for j in queue if not engine.can_ever_fit(ids[j])],
    }


def _told(cluster: InfrastructureOrchestrator) -> dict[str, object]:
    """The same, as the orchestrator tells it."""
    engine, status = cluster.engine, cluster.get_cluster_status()
    waiting = [name for name in engine.unended() if engine.jobs.code(name) in _WAITING]
    return {
        "codes": dict(engine.nodes.codes),
        "counts": [engine.nodes.count(code) for code in NodeCode],
        "shards": status["shards"],
        "places": {name: cluster.get_job_status(name)["queue_position"] for name in waiting},
        "unplaceable": status["queue"]["unplaceable"],
    }


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)


async def _do(cluster: InfrastructureOrchestrator, deed: Deed) -> None:
    match deed.what:
        case Submit(spec):
            # Some that nodes hold which come and go, and limits that some run past.
            fields = {"max_duration_hours": 1.0, "gpus_per_worker": 2 * spec.gpus_per_worker}
            await cluster.submit_job(replace(spec, **fields))
        case Preempt(job_id, reason):
            await cluster.preempt_job(job_id, reason)
        case Scale(job_id, workers):
            await cluster.scale_job(job_id, workers)
        case Register(spec):
            await cluster.register_node(spec)
        case Decommission(node_id, drain):
            await cluster.decommission_node(node_id, drain)
        case NodeFailed(node_id):
            await cluster.handle_node_failure(node_id)
        case NodeRecovered(node_id):
            await cluster.handle_node_recovery(node_id)


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_kept_is_what_a_scan_finds(seed: int) -> None:
    clock, shards = VirtualClock(), HashShardManager(("s0", "s1", "s2"))
    log = InMemoryConsensus()
    cluster = InfrastructureOrchestrator(
        log,
        shards,
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
        clock=clock,
        runtime=SimulatedRuntime(clock),
        shape=replace(SHAPE, jobs=9),  # so that jobs are forgotten
        nodes=[node(f"n{k}") for k in range(3)],
        schedule_on_events=True,
        time_limit_grace_s=_GRACE_MS / 1000,
    )
    refused, checked = 0, 0
    for deed in draw_day(seed):
        while clock.now_ms() < deed.time_ms:
            due_ms = clock.next_ms()
            await clock.advance_to(deed.time_ms if due_ms is None else min(due_ms, deed.time_ms))
            _check_limits(cluster._limits, cluster.engine)
        try:
            await _do(cluster, deed)
        except QuartermasterError:
            refused += 1
        _check_limits(cluster._limits, cluster.engine)
        if checked % 3:  # in between, several entries at once are to be caught up with
            assert _told(cluster) == _scanned(cluster.engine, shards)
        checked += 1
    if seed % 2:
        cluster.engine.load(cluster.engine.image())  # nothing is as it was known to be
        assert _told(cluster) == _scanned(cluster.engine, shards)
    bodies = [entry.body for entry in log.entries()]
    assert refused < checked / 2
    assert any(isinstance(body, JobOverdue) for body in bodies)
    assert any(isinstance(body, WorkerExited) for body in bodies)


def _check_limits(limits: TimeLimits, engine: Engine) -> None:
    """No job is due before the time at which the limits look next."""
    due_ms = _next_limit(engine)
    if due_ms is not None:
        assert limits._timer is not None
        assert limits._due_ms == due_ms or limits._due_ms <= engine.now_ms
    else:
        assert not limits._due


async def test_limits_of_jobs_that_have_ended_take_no_memory() -> None:
    clock = VirtualClock()
    cluster = InfrastructureOrchestrator(
        InMemoryConsensus(),
        HashShardManager(),
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
        clock=clock,
        shape=SHAPE,
        nodes=[node("n0")],
        schedule_on_events=True,
    )
    for k in range(300):
        await cluster.submit_job(job(f"j{k}", duration_hours=0.01, max_duration_hours=1000.0))
        await clock.advance_to(clock.now_ms() + MINUTE_MS)
    assert cluster.engine.jobs.count("completed_jobs") == 300
    assert len(cluster._limits._due) == 0
    assert len(cluster._limits._heap) < 100


async def test_a_node_that_leaves_when_its_last_job_is_saved_is_counted_no_more() -> None:
    clock, shards = VirtualClock(), HashShardManager()
    parts = InMemoryConsensus(), shards, HeartbeatFaultDetector(clock), InMemoryCheckpoints()
    nodes = [node("n0"), node("n1")]
    cluster = InfrastructureOrchestrator(*parts, clock=clock, shape=SHAPE, nodes=nodes)
    await cluster.submit_job(job("a", num_workers=2, gpus_per_worker=4, checkpoint_seconds=31.0))
    await cluster.schedule()
    await cluster.decommission_node("n1", drain=True)
    for gone in (False, True):
        assert _told(cluster) == _scanned(cluster.engine, shards)
        assert ("n1" in cluster.nodes) != gone
        await clock.advance_to(MINUTE_MS)
