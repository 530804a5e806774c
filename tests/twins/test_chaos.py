"""Many random transitions of clusters in which everything happens at once.

The suite makes about ``CHAOS_TRANSITIONS`` (100,000 unless set) and checks the invariants, above
all that a gang is whole or absent, on samples. A million takes about two minutes::

    CHAOS_TRANSITIONS=1000000 CHAOS_SEED=1 pytest tests/twins/test_chaos.py
"""

from __future__ import annotations

import os

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
_JOBS, _NODES, _WORKERS, _INCIDENTS, _TENANTS = 200, 12, 8, 300, 3
_SHAPE = ClusterShape(
    envs=1,
    jobs=_JOBS,
    workers=_WORKERS,
    nodes=_NODES,
    devices=8,
    incidents=_INCIDENTS,
    tenants=_TENANTS,
)
_SAMPLE = 97  # actions between two checks of all invariants
_PLACED = (JobCode.RUNNING, JobCode.CHECKPOINTING)


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
    incidents["time_ms"] = np.sort(dice.integers(0, 1_600_000, _INCIDENTS))
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


def _draw_action(dice: np.random.Generator, state: ClusterState) -> tuple[int, int, int]:
    """An action that is likely to be legal: (kind, job, value)."""
    row = state.rows[0]
    waiting = state.queue[0, : row["queue_len"]]["job"]
    placed = state.running[0, : row["running_len"]]["job"]
    kind = int(dice.choice(5, p=[0.25, 0.35, 0.1, 0.2, 0.1]))
    among = waiting if kind == ActionKind.PLACE else placed
    j = int(dice.choice(among)) if len(among) else 0
    return kind, j, int(dice.integers(0, _WORKERS + 1 if kind == ActionKind.RESIZE else 4))


def _require_whole_gangs(state: ClusterState) -> None:
    """No gang is there in part: at its size, within an elastic one's bounds, or absent."""
    ask, run = state.request[0], state.job[0]
    placed = np.isin(run["state"], _PLACED)
    elastic = ask["elastic"] == 1
    least = np.where(placed, np.where(elastic, ask["min_workers"], ask["workers"]), 0)
    most = np.where(placed, np.where(elastic, ask["max_workers"], ask["workers"]), 0)
    assert ((least <= run["workers_now"]) & (run["workers_now"] <= most)).all()


@pytest.mark.property
def test_no_gang_is_ever_partial() -> None:
    dice, state = np.random.default_rng(_SEED), allocate(_SHAPE)
    buffer = np.zeros(_WORKERS, np.int32)
    transitions = actions = 0
    seen = set()
    while transitions < _TRANSITIONS:
        _begin(dice, state)
        while entry.advance(state.rows, 0, buffer) == Status.DECISION:
            action = _draw_action(dice, state)
            reason = entry.commit(state.rows, 0, *action, buffer)
            actions += 1
            seen.add((action[0], reason))
            _require_whole_gangs(state)
            if actions % _SAMPLE == 0:
                assert_invariants(state, 0)
            if reason == Reason.NOTHING_TO_WAIT_FOR:
                break
        assert_invariants(state, 0)
        transitions += int(state.rows[0]["log_count"])
    assert {kind for kind, reason in seen if reason == Reason.OK} == set(range(5))
    print(f"{transitions:,} transitions, {actions:,} actions, no partial gang")
