"""Random clusters, jobs and incidents; the kernels' row and the twin made of one; comparison."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    Elasticity,
    EventKind,
    Information,
    JobCode,
    JobKind,
    NodeCode,
    Preemption,
    QuotaMode,
    RuleKey,
)
from orchestrator.kernels.state.records import (
    GITTINS_DTYPE,
    INCIDENT_DTYPE,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TENANT_DTYPE,
)
from orchestrator.kernels.state.records import LOG_DTYPE as _LOG_DTYPE
from orchestrator.kernels.state.row import CONFIG_FIELDS, ClusterShape, ClusterState, allocate
from orchestrator.scheduling.rules import Rule
from tests.naive.cluster import Job, plain
from tests.naive.engine import NaiveEngine
from tests.naive.placing import Host, fits
from tests.twins.kernel_calls import load_gittins, load_incidents, load_tenants

MAX_WORKERS = 4
LOG = 4096
GITTINS = [(0.0, 0.5), (5.0, 0.2), (20.0, 0.4), (60.0, 0.05)]  # (GPU-seconds, index)
_SHAPE = ClusterShape(
    envs=2, jobs=16, workers=MAX_WORKERS, nodes=4, devices=4, incidents=12, log=LOG, tenants=3
)


@dataclass(frozen=True)
class Case:
    """A cluster, what is asked of it and what befalls it."""

    nodes: np.ndarray  # [N] NODE_DTYPE
    requests: np.ndarray  # [J] REQUEST_DTYPE
    incidents: np.ndarray  # [I] INCIDENT_DTYPE
    config: dict[str, int]
    seed: int
    tenants: np.ndarray = field(default_factory=lambda: np.zeros(0, TENANT_DTYPE))  # [T]


def _seconds(low: int, high: int) -> st.SearchStrategy[int]:
    """Milliseconds, mostly whole seconds: things then coincide."""
    return st.one_of(
        st.integers(low, high).map(lambda s: 1000 * s), st.integers(1000 * low, 1000 * high)
    )


_PLACE = {"rack": st.integers(0, 1), "spine": st.integers(0, 1)}
_GPU_NODE = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([4, 4, 3, 2, 1, 0]),
        "cpu_cap_milli": st.sampled_from([16_000, 8000, 3000]),
        "memory_cap_mib": st.sampled_from([65_536, 65_536, 4096]),
        "model": st.integers(0, 2),
        "gpu_memory_mib": st.sampled_from([16_384, 16_384, 81_920]),
        **_PLACE,
    }
)
_POOL = st.fixed_dictionaries(
    {"gpus": st.just(0), **_PLACE, "cpu_cap_milli": st.sampled_from([8000, 16_000, 6000, 3000])}
)
_LENGTHS = st.sampled_from([5000, 12_000, 20_000, 33_000])
_TIMES = {
    "duration_ms": st.one_of(_LENGTHS, _seconds(1, 40)),
    "requested_ms": st.one_of(_LENGTHS, _seconds(1, 60)),
    "checkpoint_interval_ms": st.sampled_from([0, 1000, 3000, 7000]),
    "checkpoint_ms": st.sampled_from([0, 0, 1000, 2500]),
    "restart_ms": st.sampled_from([0, 0, 1000, 4500]),
    "regroup_ms": st.sampled_from([0, 0, 700, 3000]),
}
_KINDS = st.sampled_from([JobKind.TRAINING] * 3 + [JobKind.BATCH, JobKind.SERVICE])
_FLAGS = {
    "preemptible": st.sampled_from([1, 1, 1, 0]),
    "priority": st.integers(0, 3),
    "kind": _KINDS.map(int),
    "elastic": st.sampled_from([0, 0, 1]),
    "min_workers": st.integers(0, 3),
    "max_workers": st.integers(1, MAX_WORKERS + 1),
    "tenant": st.sampled_from([0, 0, 1, 2]),
    "storage_mib": st.sampled_from([0, 5, 10]),
}
_GPU_JOB = st.fixed_dictionaries(
    {
        **_TIMES,
        **_FLAGS,
        "workers": st.sampled_from([1, 1, 1, 2, 3, MAX_WORKERS]),
        "gpus_per_worker": st.sampled_from([1, 1, 1, 2, 3, 4, 0]),
        "gpu_milli": st.sampled_from([1000, 1000, 1000, 500, 350, 250]),
        "cpu_milli": st.sampled_from([0, 500, 1000, 3000]),
        "memory_mib": st.sampled_from([0, 0, 512, 2048]),
        "model_mask": st.sampled_from([0, 0, 0, 0, 0, 0, 1, 6]),
        "gpu_memory_mib": st.sampled_from([0, 0, 0, 7000, 16_384, 40_000]),
    }
)
_POOL_JOB = st.fixed_dictionaries(
    {
        **_TIMES,
        **_FLAGS,
        "workers": st.integers(1, 3),
        "cpu_milli": st.sampled_from([2000, 1000, 3000, 500, 4500, 7000]),
    }
)
_GAPS = st.one_of(st.sampled_from([0, 1000, 3000]), _seconds(0, 9))
_CONFIG = st.fixed_dictionaries(
    {
        "commitment": st.sampled_from([0, 0, 1]),
        "backfill": st.integers(0, 1),
        "preemption_limit": st.sampled_from([8, 8, 3, 1, 0]),
        "min_run_ms": st.sampled_from([0, 0, 2000]),
        "resize_lock_ms": st.sampled_from([0, 0, 2000]),
        "min_run_costs": st.sampled_from([0, 0, 2]),
        "information": st.sampled_from([*Information, Information.ESTIMATE]).map(int),
        "slowdown_bound_ms": st.just(10_000),
        "keep_log": st.just(1),
        "las_first_s": st.sampled_from([10, 40]),
        "las_second_s": st.sampled_from([60, 120]),
        "las_promote": st.sampled_from([0, 0, 1, 3]),
        "quota_mode": st.sampled_from(QuotaMode).map(int),
        "ageing_ms": st.sampled_from([0, 0, 5000]),
        "elastics": st.integers(0, 1),
        "migrate": st.integers(0, 1),
    }
)


@st.composite
def cases(draw: st.DrawFn, incidents: bool = True, **config: int) -> Case:
    """A random case; ``config`` fixes fields that would be drawn."""
    pool = draw(st.sampled_from([False, False, True]))
    nodes = _records(
        NODE_DTYPE, draw(st.lists(_POOL if pool else _GPU_NODE, min_size=1, max_size=4))
    )
    nodes["state"] = NodeCode.UP
    asks = draw(st.lists(_POOL_JOB if pool else _GPU_JOB, min_size=4, max_size=12))
    requests = _records(REQUEST_DTYPE, asks)
    gaps = draw(st.lists(_GAPS, min_size=len(asks), max_size=len(asks)))
    requests["submit_ms"] = np.cumsum(gaps)
    if pool:
        requests["gpu_milli"] = 1000
    if not draw(st.sampled_from([False, False, False, True])):
        _make_placeable(nodes, requests)
    elastic = requests["elastic"] == 1
    for name, limit in (("min_workers", np.minimum), ("max_workers", np.maximum)):
        requests[name][elastic] = limit(requests[name], requests["workers"])[elastic]
    quotas = [4000, 2000, 8000, 1000, 0] if not pool else [8000, 4000, 20_000, 0]
    tenant = st.fixed_dictionaries(
        {
            "quota_units": st.sampled_from(quotas),
            "storage_quota_mib": st.sampled_from([0, 0, 10, 25]),
        }
    )
    tenants = _records(TENANT_DTYPE, draw(st.lists(tenant, max_size=_SHAPE.tenants)))
    befalls = draw(_incidents(len(nodes))) if incidents else []
    return Case(
        nodes=nodes,
        requests=requests,
        incidents=np.array(sorted(befalls), INCIDENT_DTYPE),
        config=draw(_CONFIG) | config,
        seed=draw(st.integers(0, 1 << 32)),
        tenants=tenants,
    )


def _make_placeable(nodes: np.ndarray, requests: np.ndarray) -> None:
    """Ask for less where the whole cluster would be too small: such a job holds up all others."""
    machines = [plain(node) for node in nodes]
    hosts = [
        Host(True, x.model, x.cpu_cap_milli, x.memory_cap_mib, [1000] * x.gpus, x.gpu_memory_mib)
        for x in machines
    ]
    for ask in requests:
        for name, less in [
            ("model_mask", 0),
            ("gpu_memory_mib", 0),
            ("workers", 1),
            ("gpus_per_worker", 1),
        ]:
            if not fits(plain(ask), hosts):
                ask[name] = min(ask[name], less)
        if not fits(plain(ask), hosts):
            ask["gpus_per_worker"], ask["cpu_milli"] = 0, 1000


def _incidents(nodes: int) -> st.SearchStrategy[list[tuple[int, int, int]]]:
    fails, recovers = EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY
    kinds = [fails, recovers, fails, recovers, EventKind.NODE_DRAIN]
    one = st.tuples(_seconds(0, 60), st.sampled_from(kinds).map(int), st.integers(0, nodes - 1))
    return st.one_of(st.just([]), st.lists(one, min_size=2, max_size=_SHAPE.incidents))


def _records(dtype: np.dtype[Any], values: list[dict[str, int]]) -> np.ndarray:
    records = np.zeros(len(values), dtype)
    for record, fields in zip(records, values, strict=True):
        for name, value in fields.items():
            record[name] = value
    return records


rules = st.builds(
    Rule,
    name=st.just("drawn"),
    key=st.sampled_from(RuleKey),
    placement=st.integers(0, 3),
    preemption=st.sampled_from(
        [Preemption.SCORE, Preemption.RECLAIM, Preemption.PRIORITY, Preemption.NONE]
    ),
    blocking=st.booleans(),
    reservation=st.booleans(),
    elastic=st.sampled_from(Elasticity),
)


def begin(case: Case, e: int = 0) -> tuple[ClusterState, NaiveEngine]:
    """The case as a row of cluster state, and as its twin."""
    # What is remembered changes nothing: neither of nodes nor of who waits in which order.
    state = allocate(replace(_SHAPE, kinds=6 if case.seed & 1 else 0))
    state.rows["scanned_jobs"] = 0 if case.seed & 2 else len(case.requests)
    for name, value in case.config.items():
        state.rows[name] = value
    entry.begin_episode(state.rows, e, case.seed, case.nodes, case.requests)
    load_incidents(state.rows, e, case.incidents)
    load_gittins(state.rows, e, np.array(GITTINS, GITTINS_DTYPE))
    load_tenants(state.rows, e, case.tenants)
    config = SimpleNamespace(**{name: int(state.rows[e][name]) for name, _ in CONFIG_FIELDS})
    twin = NaiveEngine(
        case.nodes, case.requests, case.incidents, config, case.seed, case.tenants, MAX_WORKERS
    )
    twin.gittins = GITTINS
    return state, twin


def nodes_buffer() -> np.ndarray:
    return np.zeros(MAX_WORKERS, np.int32)


def scratch() -> np.ndarray:
    return np.zeros(_SHAPE.jobs, np.int32)


# --- comparison ----------------------------------------------------------------------------------

_JOB_FIELDS = {
    "state": "state",
    "start_ms": "start",
    "first_start_ms": "first_start",
    "end_ms": "end",
    "expected_end_ms": "expected_end",
    "progress_ms": "progress",
    "unsaved_ms": "unsaved",
    "lost_ms": "lost",
    "attained_unit_ms": "attained",
    "blocked_point": "blocked_point",
    "preemptions": "preemptions",
    "interruptions": "interruptions",
    "resizes": "resizes",
    "migrations": "migrations",
    "runs": "runs",
    "excess": "excess",
}


_RUN_FIELDS = ("work_start_ms", "speed_milli", "resized_ms", "units", "spread")


def log_records(state: ClusterState, e: int) -> list[tuple[int, int, int, int]]:
    """The records that are kept, oldest first, as (time_ms, kind, subject, value)."""
    count = int(state.rows[e]["log_count"])
    assert count <= LOG
    assert _LOG_DTYPE.names == ("time_ms", "value", "kind", "subject")
    return [(t, k, s, v) for t, v, k, s in state.log[e, :count].tolist()]


def _job(state: ClusterState, e: int, j: int) -> dict[str, Any]:
    run = state.job[e, j]
    seen = {name: run[name].item() for name in _JOB_FIELDS}
    if run["state"] == JobCode.RUNNING:
        for name in _RUN_FIELDS:
            seen[name] = run[name].item()
    seen["spots"] = [
        (int(w["node"]), tuple(g for g in range(64) if (int(w["devices"]) >> g) & 1))
        for w in state.worker[e, j, : run["workers_now"]]
    ]
    return seen


def _twin_job(twin: NaiveEngine, job: Job) -> dict[str, Any]:
    seen = {name: getattr(job, own) for name, own in _JOB_FIELDS.items()}
    if job.state == JobCode.RUNNING:
        found = (job.work_start, job.speed, job.changed, twin.units(job), twin.spread(job))
        seen |= dict(zip(_RUN_FIELDS, found, strict=True))
    return seen | {"spots": job.spots}


def assert_same(state: ClusterState, e: int, twin: NaiveEngine) -> None:
    """Demand that a row and its twin have come to the same, and by the same way."""
    row = state.rows[e]
    assert log_records(state, e) == twin.log
    for j, job in enumerate(twin.jobs):
        assert _job(state, e, j) == _twin_job(twin, job), f"job {j}"
    queue = state.queue[e, : row["queue_len"]]["job"].tolist()
    assert queue == [job.index for job in twin.queue()]
    running = state.running[e, : row["running_len"]]["job"].tolist()
    assert running == [job.index for job in twin.running]
    for n, (host, node) in enumerate(zip(twin.hosts(), twin.nodes, strict=True)):
        seen = state.node[e, n]
        assert (seen["state"], seen["failures"]) == (node.state, node.failures), f"node {n}"
        assert (seen["cpu_free_milli"], seen["memory_free_mib"]) == (host.cpu, host.memory)
        assert state.device[e, n, : node.gpus]["free_milli"].tolist() == host.devices
    for tenant in range(len(twin.tenants)):
        account = twin.account(tenant)
        assert {name: int(state.tenant[e, tenant][name]) for name in account} == account
    expected = {
        "now_ms": twin.now,
        "point": twin.point,
        "done": twin.done,
        "committed": twin.committed,
        "decisions": twin.decisions,
        "illegal_actions": twin.illegal,
        "preemptions_here": twin.preemptions_here,
        "job_ms": twin.job_ms,
        "wait_ms": twin.wait_ms,
        "busy_unit_ms": twin.busy,
        "capacity_unit_ms": twin.capacity_time,
        "lost_unit_ms": twin.lost_units,
        "capacity_units": twin.capacity(),
        "free_units": twin.free(),
        "cost_rate_milli": twin.cost_rate(),
        "cost_milli_ms": twin.cost,
    }
    assert {name: int(row[name]) for name in expected} == expected
