"""Many random transitions of clusters in which everything happens at once.

The suite makes about ``CHAOS_TRANSITIONS`` (100,000 unless set) and checks the invariants, above
all that a gang is whole or absent, on samples. A million takes about a minute and a half::

    CHAOS_TRANSITIONS=1000000 CHAOS_SEED=1 pytest tests/twins/test_chaos.py
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from orchestrator.invariants import assert_invariants
from orchestrator.kernels import entry
from orchestrator.kernels.codes import (
    ActionKind,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    QuotaMode,
    Reason,
    Status,
)
from orchestrator.kernels.state import (
    INCIDENT_DTYPE,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TENANT_DTYPE,
    ClusterShape,
    ClusterState,
    allocate,
)
from tests.twins.kernel_calls import load_incidents, load_tenants

_TRANSITIONS = int(os.environ.get("CHAOS_TRANSITIONS", "100000"))
_SEED = int(os.environ.get("CHAOS_SEED", "0"))
_JOBS, _NODES, _WORKERS, _INCIDENTS, _TENANTS = 120, 12, 8, 300, 3
_SHAPE = ClusterShape(
    envs=1,
    jobs=_JOBS,
    workers=_WORKERS,
    nodes=_NODES,
    devices=8,
    incidents=_INCIDENTS,
    tenants=_TENANTS,
)
_SAMPLE = 397  # actions between two checks of all invariants
_PLACED = np.isin(np.arange(len(JobCode)), (JobCode.RUNNING, JobCode.CHECKPOINTING)).astype(int)
_KINDS = [
    *[int(ActionKind.WAIT)] * 5,
    *[int(ActionKind.PLACE)] * 7,
    *[int(ActionKind.PREEMPT)] * 2,
    *[int(ActionKind.RESIZE)] * 4,
    *[int(ActionKind.MIGRATE)] * 2,
]


def _nodes(dice: np.random.Generator) -> np.ndarray:
    nodes = np.zeros(_NODES, NODE_DTYPE)
    nodes["gpus"] = dice.choice([0, 2, 4, 8, 8], _NODES)
    nodes["cpu_cap_milli"] = dice.choice([8000, 32_000, 64_000], _NODES)
    nodes["memory_cap_mib"] = 65_536
    nodes["model"] = dice.integers(0, 3, _NODES)
    nodes["rack"] = dice.integers(0, 3, _NODES)
    nodes["state"] = NodeCode.UP
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


def _begin(dice: np.random.Generator, state: ClusterState) -> None:
    """A fresh episode under drawn semantics."""
    row = state.rows[0]
    row["commitment"], row["backfill"] = dice.choice([0, 0, 0, 1]), dice.integers(0, 2)
    row["quota_mode"] = dice.choice(list(QuotaMode))
    row["preemption_limit"], row["min_run_ms"] = 8, dice.choice([0, 5000])
    row["elastics"] = row["migrate"] = 1
    asks = _requests(dice)
    incidents = np.zeros(_INCIDENTS, INCIDENT_DTYPE)
    incidents["time_ms"] = np.sort(dice.integers(0, 1_000_000, _INCIDENTS))
    kinds = [EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY, EventKind.NODE_RECOVERY]
    incidents["kind"] = dice.choice(kinds, _INCIDENTS)
    incidents["kind"][dice.integers(0, _INCIDENTS, 3)] = EventKind.NODE_DRAIN
    incidents["node"] = dice.integers(0, _NODES, _INCIDENTS)
    tenants = np.zeros(_TENANTS, TENANT_DTYPE)
    tenants["quota_units"] = dice.choice([8000, 20_000, 60_000], _TENANTS)
    tenants["storage_quota_mib"] = dice.choice([0, 2000], _TENANTS)
    entry.begin_episode(state.rows, 0, int(dice.integers(1 << 40)), _nodes(dice), asks)
    load_incidents(state.rows, 0, incidents)
    load_tenants(state.rows, 0, tenants)


def _draw_action(dice: random.Random, state: ClusterState) -> tuple[int, int, int]:
    """An action that is likely to be legal: (kind, job, value)."""
    row = state.rows[0]
    kind = dice.choice(_KINDS)
    if kind == ActionKind.PLACE:
        among, length = state.queue, int(row["queue_len"])
    else:
        among, length = state.running, int(row["running_len"])
    j = int(among[0, dice.randrange(length)]["job"]) if length else 0
    return kind, j, dice.randrange(_WORKERS + 1 if kind == ActionKind.RESIZE else 4)


class _Watch:
    """Sees that no gang is there in part: each has its size, or an elastic one's, or is absent."""

    def __init__(self, state: ClusterState) -> None:
        ask = state.request[0]
        elastic = ask["elastic"] == 1
        self._least = np.where(elastic, ask["min_workers"], ask["workers"])
        self._most = np.where(elastic, ask["max_workers"], ask["workers"])
        self._run = state.job[0]

    def look(self) -> None:
        placed, workers = _PLACED[self._run["state"]], self._run["workers_now"]
        within = (self._least * placed <= workers) & (workers <= self._most * placed)
        assert within.all(), f"a part of the gang of job {np.argmin(within)}"


@pytest.mark.property
def test_no_gang_is_ever_partial() -> None:
    world, dice = np.random.default_rng(_SEED), random.Random(_SEED)
    state, buffer = allocate(_SHAPE), np.zeros(_WORKERS, np.int32)
    transitions = actions = 0
    done = set()
    while transitions < _TRANSITIONS:
        _begin(world, state)
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
    assert done == set(_KINDS)
    print(f"{transitions:,} transitions, {actions:,} actions, no partial gang")
