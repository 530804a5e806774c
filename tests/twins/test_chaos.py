"""Many random transitions of clusters in which everything happens at once.

Jobs of all kinds, services with traffic and replicas that fall sick, failures, quotas, nodes that
are ordered and given up, by actions or by the cluster itself. The suite makes about
``CHAOS_TRANSITIONS`` (100,000 unless set) and checks the invariants, above all that a gang is whole
or absent, on samples. A million takes about two minutes::

    CHAOS_TRANSITIONS=1000000 CHAOS_SEED=1 pytest tests/twins/test_chaos.py
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    FOREVER_MS,
    ActionKind,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    QuotaMode,
    Reason,
    Scaling,
    Status,
)
from orchestrator.kernels.state.records import (
    INCIDENT_DTYPE,
    NODE_DTYPE,
    REQUEST_DTYPE,
    SCALING_DTYPE,
    TENANT_DTYPE,
)
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.mesh.specs import LimitSpec, ServiceSpec, service_records
from tests.twins.kernel_calls import begin_with_services, load_incidents, load_tenants

_TRANSITIONS = int(os.environ.get("CHAOS_TRANSITIONS", "100000"))
_SEED = int(os.environ.get("CHAOS_SEED", "0"))
_JOBS, _NODES, _WORKERS, _INCIDENTS, _TENANTS, _SERVICES = 120, 14, 8, 300, 3, 3
_TICKS, _TICK_MS = 70, 10_000
_SHAPE = ClusterShape(
    envs=1,
    jobs=_JOBS + _SERVICES,
    workers=_WORKERS,
    nodes=_NODES,
    devices=8,
    incidents=_INCIDENTS,
    tenants=_TENANTS,
    services=_SERVICES,
)
_SAMPLE = 397  # actions between two checks of all invariants
_PLACED = np.isin(np.arange(len(JobCode)), (JobCode.RUNNING, JobCode.CHECKPOINTING)).astype(int)
_KINDS = [
    *[int(ActionKind.WAIT)] * 5,
    *[int(ActionKind.PLACE)] * 7,
    *[int(ActionKind.PREEMPT)] * 2,
    *[int(ActionKind.RESIZE)] * 4,
    *[int(ActionKind.MIGRATE)] * 2,
    *[int(ActionKind.CAPACITY)] * 2,
    *[int(ActionKind.SERVICE)] * 2,
]


def _nodes(dice: np.random.Generator) -> np.ndarray:
    nodes = np.zeros(_NODES, NODE_DTYPE)
    nodes["gpus"] = dice.choice([0, 2, 4, 8, 8], _NODES)
    nodes["cpu_cap_milli"] = dice.choice([8000, 32_000, 64_000], _NODES)
    nodes["memory_cap_mib"] = 65_536
    nodes["model"] = dice.integers(0, 3, _NODES)
    nodes["rack"] = dice.integers(0, 3, _NODES)
    nodes["price_milli"] = dice.integers(0, 5000, _NODES)
    nodes["state"] = dice.choice([NodeCode.UP, NodeCode.UP, NodeCode.ABSENT], _NODES)
    nodes["state"][:4], nodes["gpus"][0] = NodeCode.UP, 8
    return nodes


def _requests(dice: np.random.Generator) -> np.ndarray:
    asks = np.zeros(_JOBS, REQUEST_DTYPE)
    drawn = {
        "duration_ms": dice.integers(1, 400_000, _JOBS),
        "requested_ms": dice.integers(1, 600_000, _JOBS),
        "checkpoint_interval_ms": dice.choice([0, 10_000, 30_000], _JOBS),
        "checkpoint_ms": dice.choice([0, 0, 3000], _JOBS),
        "restart_ms": dice.choice([0, 5000], _JOBS),
        "regroup_ms": dice.choice([0, 2000], _JOBS),
        "storage_mib": dice.integers(0, 50, _JOBS),
        "memory_mib": dice.choice([0, 1024], _JOBS),
        "cpu_milli": dice.choice([0, 500, 4000], _JOBS),
        "workers": dice.integers(1, _WORKERS + 1, _JOBS),
        "gpus_per_worker": dice.choice([0, 1, 1, 2, 4], _JOBS),
        "gpu_milli": dice.choice([1000, 1000, 500, 350], _JOBS),
        "tenant": dice.integers(0, _TENANTS + 1, _JOBS),  # the last one has no account
        "priority": dice.integers(0, 4, _JOBS),
        "preemptible": dice.choice([0, 1, 1, 1], _JOBS),
        "elastic": dice.integers(0, 2, _JOBS),
        "kind": dice.choice([JobKind.TRAINING, JobKind.TRAINING, JobKind.SERVICE], _JOBS),
        "submit_ms": np.cumsum(dice.integers(0, 8000, _JOBS)),
    }
    for name, values in drawn.items():
        asks[name] = values
    asks["min_workers"] = dice.integers(1, asks["workers"] + 1)
    asks["max_workers"] = dice.integers(asks["workers"], _WORKERS + 1)
    return asks


def _services(dice: np.random.Generator) -> list[ServiceSpec]:
    return [
        ServiceSpec(
            f"s{s}",
            float(dice.choice([50.0, 400.0])),
            replicas=int(dice.integers(2, 5)),
            min_replicas=int(dice.integers(1, 3)),
            max_replicas=_WORKERS,
            slots=int(dice.integers(1, 4)),
            queue_limit=float(dice.choice([0.0, 200.0])),
            timeout_ms=float(dice.choice([0.0, 2000.0])),
            limit=LimitSpec(float(dice.choice([0.0, 30.0])), 50.0),
            sick_per_hour=float(dice.choice([0.0, 20.0])),
            sick_seconds=40.0,
        )
        for s in range(_SERVICES)
    ]


def _standing(dice: np.random.Generator, specs: list[ServiceSpec]) -> np.ndarray:
    """The jobs whose workers are the services' replicas."""
    asks = np.zeros(len(specs), REQUEST_DTYPE)
    asks["kind"], asks["duration_ms"], asks["elastic"] = JobKind.SERVICE, FOREVER_MS, 1
    asks["requested_ms"], asks["gpus_per_worker"] = FOREVER_MS, 1
    asks["gpu_milli"] = dice.choice([500, 1000], len(specs))
    asks["regroup_ms"] = dice.choice([0, 12_000], len(specs))
    asks["preemptible"] = dice.choice([0, 0, 1], len(specs))
    asks["tenant"] = dice.integers(0, _TENANTS + 1, len(specs))
    asks["service"] = np.arange(len(specs))
    asks["workers"] = [spec.replicas for spec in specs]
    asks["min_workers"] = [spec.min_replicas for spec in specs]
    asks["max_workers"] = [spec.max_replicas for spec in specs]
    return asks


def _plans(dice: np.random.Generator, specs: list[ServiceSpec]) -> np.ndarray:
    """How the fleet and each of the services is scaled."""
    plans = np.zeros(len(specs) + 1, SCALING_DTYPE)
    plans["unit_capacity"] = [6000.0, *[spec.capacity_rps(1) for spec in specs]]
    plans["target"] = dice.uniform(0.3, 1.0, len(plans))
    plans["tolerance"] = 0.1
    plans["up_window_ms"] = dice.choice([0, 0, 20_000], len(plans))
    plans["down_window_ms"] = dice.choice([0, 30_000], len(plans))
    plans["min_size"] = [2, *[spec.min_replicas for spec in specs]]
    plans["max_size"] = [_NODES, *[spec.max_replicas for spec in specs]]
    return plans


def _begin_cluster(dice: np.random.Generator, state: ClusterState, rates: np.ndarray) -> None:
    """A fresh row, with services and a changing fleet unless it commits to jobs."""
    row = state.rows[0]
    seed, nodes, asks = int(dice.integers(1 << 40)), _nodes(dice), _requests(dice)
    specs = _services(dice)
    row["tick_ms"] = 0 if row["commitment"] else _TICK_MS
    row["series_at"], row["series_len"] = rates.ctypes.data, _TICKS
    row["forecast_at"] = dice.choice([0, rates.ctypes.data])
    row["series_first"], row["series_stop"] = 0, dice.integers(20, _TICKS)
    row["provision_ms"] = dice.choice([0, 10_000, 25_000])
    row["min_nodes"], row["max_nodes"] = dice.integers(0, 4), dice.choice([0, 0, 10])
    row["autoscale"] = dice.choice([Scaling.NONE, Scaling.NONE, Scaling.PREDICTIVE])
    if row["commitment"]:
        row["services"] = row["capacity_steps"] = row["autoscale"] = 0
        entry.begin_episode(state.rows, 0, seed, nodes, asks)
        state.rows["num_services"] = 0
        return
    row["services"], row["capacity_steps"] = _SERVICES, 2
    if row["autoscale"]:
        row["services"] = row["capacity_steps"] = 0
    records, standing = service_records(specs, range(len(specs))), _standing(dice, specs)
    plans = _plans(dice, specs)
    begin_with_services(state.rows, 0, seed, nodes, standing, asks, records, plans)


def _begin(dice: np.random.Generator, state: ClusterState, rates: np.ndarray) -> None:
    """A fresh episode under drawn semantics."""
    row = state.rows[0]
    row["commitment"], row["backfill"] = dice.choice([0, 0, 0, 1]), dice.integers(0, 2)
    row["quota_mode"] = dice.choice(list(QuotaMode))
    row["preemption_limit"], row["min_run_ms"] = 8, dice.choice([0, 5000])
    row["resize_lock_ms"] = row["min_run_ms"]
    row["elastics"] = row["migrate"] = 1
    incidents = np.zeros(_INCIDENTS, INCIDENT_DTYPE)
    incidents["time_ms"] = np.sort(dice.integers(0, 1_000_000, _INCIDENTS))
    kinds = [EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY, EventKind.NODE_RECOVERY]
    incidents["kind"] = dice.choice(kinds, _INCIDENTS)
    incidents["kind"][dice.integers(0, _INCIDENTS, 3)] = EventKind.NODE_DRAIN
    incidents["node"] = dice.integers(0, _NODES, _INCIDENTS)
    tenants = np.zeros(_TENANTS, TENANT_DTYPE)
    tenants["quota_units"] = dice.choice([8000, 20_000, 60_000], _TENANTS)
    tenants["storage_quota_mib"] = dice.choice([0, 2000], _TENANTS)
    _begin_cluster(dice, state, rates)
    load_incidents(state.rows, 0, incidents)
    load_tenants(state.rows, 0, tenants)


def _draw_action(dice: random.Random, state: ClusterState) -> tuple[int, int, int]:
    """An action that is likely to be legal: (kind, job, value)."""
    row = state.rows[0]
    kind = dice.choice(_KINDS)
    if kind == ActionKind.CAPACITY:
        return kind, 0, dice.randint(-3, 3)
    if kind == ActionKind.SERVICE:
        return kind, dice.randint(0, _SERVICES), dice.randint(0, _WORKERS + 1)
    if kind == ActionKind.PLACE:
        among, length = state.queue, int(row["queue_len"])
    else:
        among, length = state.running, int(row["running_len"])
    j = int(among[0, dice.randrange(length)]["job"]) if length else 0
    return kind, j, dice.randrange(_WORKERS + 1 if kind == ActionKind.RESIZE else 4)


class _Watch:
    """Sees that no gang is there in part: each has its size, or an elastic one's, or is absent."""

    def __init__(self, state: ClusterState) -> None:
        ask = state.request[0, : state.rows[0]["num_jobs"]]
        elastic = ask["elastic"] == 1
        self._least = np.where(elastic, ask["min_workers"], ask["workers"])
        self._most = np.where(elastic, ask["max_workers"], ask["workers"])
        self._run = state.job[0, : len(ask)]

    def look(self) -> None:
        placed, workers = _PLACED[self._run["state"]], self._run["workers_now"]
        within = (self._least * placed <= workers) & (workers <= self._most * placed)
        assert within.all(), f"a part of the gang of job {np.argmin(within)}"


@pytest.mark.property
def test_no_gang_is_ever_partial() -> None:
    world, dice = np.random.default_rng(_SEED), random.Random(_SEED)
    state, buffer = allocate(_SHAPE), np.zeros(_WORKERS, np.int32)
    transitions = actions = 0
    rates = np.ascontiguousarray(world.gamma(0.5, 40.0, (_SERVICES, _TICKS)), np.float32)
    done, ticks = set(), 0
    while transitions < _TRANSITIONS:
        _begin(world, state, rates)
        watch = _Watch(state)
        while entry.advance(state.rows, 0, buffer) == Status.DECISION:
            action = _draw_action(dice, state)
            reason = entry.commit(state.rows, 0, *action, buffer)
            watch.look()
            actions += 1
            if reason == Reason.OK:
                done.add(action[0])
            if actions % _SAMPLE == 0:
                assert_invariants(state, 0)
            if reason == Reason.NOTHING_TO_WAIT_FOR:
                break
        assert_invariants(state, 0)
        transitions += int(state.rows[0]["log_count"])
        ticks += int(state.rows[0]["tick"])
    assert done == set(_KINDS)
    print(f"{transitions:,} transitions, {actions:,} actions, {ticks:,} ticks, no partial gang")
