"""Reserve, release and lift against the twin; undoing leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, JobCode, NodeCode, Placement, Status
from orchestrator.kernels.state.records import INCIDENT_DTYPE, NODE_DTYPE, REQUEST_DTYPE, TABLES
from orchestrator.kernels.state.row import ClusterState
from tests.naive.cluster import hold
from tests.naive.engine import NaiveEngine
from tests.naive.placing import take_devices
from tests.twins.cases import Case, begin, cases, nodes_buffer
from tests.twins.kernel_calls import (
    lift_gang,
    place_gang,
    release_gang,
    reserve_gang,
    restore_gang,
)

pytestmark = pytest.mark.property

_BY = int(Placement.BEST_FIT)


def all_bytes(state: ClusterState) -> dict[str, bytes]:
    """All of a state but which nodes were touched: what is undone touches them, too."""
    rows = np.frombuffer(bytearray(state.rows.tobytes()), state.rows.dtype)  # padding and all
    rows["touched"] = 0
    tables = {name: getattr(state, name) for name in TABLES if name not in ("touch", "room")}
    return {name: table.tobytes() for name, table in {"rows": rows, **tables}.items()}


def _assert_free(state: ClusterState, twin: NaiveEngine) -> None:
    for n, host in enumerate(twin.hosts()):
        seen, gpus = state.node[0, n], len(host.devices)
        assert state.device[0, n, :gpus]["free_milli"].tolist() == host.devices
        assert (seen["cpu_free_milli"], seen["memory_free_mib"]) == (host.cpu, host.memory)
        assert state.device[0, n, :gpus]["free_memory_mib"].tolist() == host.memories
        assert seen["gpu_free_milli"] == sum(host.devices)
        assert seen["whole_free"] == host.devices.count(1000)
    assert state.rows[0]["free_units"] == twin.free()


def _reserve_twin(twin: NaiveEngine, j: int, nodes: list[int]) -> bool:
    job, hosts, spots = twin.jobs[j], twin.hosts(), []
    for n in nodes:
        devices = take_devices(job.ask, hosts[n])
        if devices is None or not hold(job.ask, hosts[n], devices):
            return False
        spots.append((n, devices))
    job.spots = spots
    return True


@given(case=cases(incidents=False), seed=st.integers(0, 1 << 16))
def test_reserve_and_release_equal_their_twin(case: Case, seed: int) -> None:
    state, twin = begin(case)
    rng, buffer = random.Random(seed), nodes_buffer()
    for _ in range(40):
        j = rng.randrange(len(case.requests))
        if twin.jobs[j].spots:
            release_gang(state.rows, 0, j)
            twin.jobs[j].spots = []
        else:
            before = all_bytes(state)
            nodes = [rng.randrange(len(case.nodes)) for _ in range(twin.jobs[j].ask.workers)]
            buffer[: len(nodes)] = nodes
            done = reserve_gang(state.rows, 0, j, buffer, len(nodes), _BY)
            assert done == _reserve_twin(twin, j, nodes)
            changed = [name for name, old in all_bytes(state).items() if old != before[name]]
            assert done or set(changed) <= {"worker"}  # where it would have been: nobody reads it
        _assert_free(state, twin)
        for t in range(len(twin.tenants)):
            assert int(state.tenant[0, t]["used_units"]) == twin.used(t)


@given(case=cases(commitment=0), seed=st.integers(0, 1 << 16))
def test_lift_and_restore_leave_no_trace(case: Case, seed: int) -> None:
    state, twin = begin(case)
    rng, buffer = random.Random(seed), nodes_buffer()
    for _ in range(60):
        status = entry.advance(state.rows, 0, buffer)
        assert status == twin.advance()
        if status == Status.DONE:
            break
        action = rng.choice([ActionKind.PLACE] * 3 + [ActionKind.PREEMPT, ActionKind.WAIT])
        j = rng.randrange(len(case.requests))
        entry.commit(state.rows, 0, action, j, 1, buffer)
        twin.commit(action, j, 1)
        placed = [job for job in twin.jobs if job.spots]
        some = rng.sample(placed, rng.randint(0, len(placed)))
        before = all_bytes(state)
        for job in some:
            lift_gang(state.rows, 0, job.index)
        hosts = twin.hosts(some)
        up = [host for host in hosts if host.up]
        free = sum(sum(host.devices) if twin.by_gpu() else host.cpu for host in up)
        assert state.rows[0]["free_units"] == free
        assert [int(x) for x in state.node[0, : len(hosts)]["cpu_free_milli"]] == [
            host.cpu for host in hosts
        ]
        rng.shuffle(some)
        for job in some:
            restore_gang(state.rows, 0, job.index)
        assert all_bytes(state) == before


def test_shared_gpus_of_a_gang_are_packed() -> None:
    # Free shares 500, 500 and 1000: two workers of two half GPUs fit, but not if the first one
    # takes the two tightest.
    nodes = np.zeros(1, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = 3, NodeCode.UP
    requests = np.zeros(2, REQUEST_DTYPE)
    requests["gpus_per_worker"], requests["gpu_milli"], requests["workers"] = 2, 500, (1, 2)
    state, _ = begin(Case(nodes, requests, np.zeros(0, INCIDENT_DTYPE), {"information": 1}, 0))
    buffer = nodes_buffer()
    for j in range(2):
        workers = place_gang(state.rows, 0, j, _BY, buffer)
        assert workers == j + 1
        assert reserve_gang(state.rows, 0, j, buffer, workers, _BY)
    assert state.rows[0]["free_units"] == 0
    assert (state.job[0, :2]["state"] == JobCode.ABSENT).all()
