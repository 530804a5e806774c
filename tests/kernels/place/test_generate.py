"""Filters and placement generators against search and sorting."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode, Placement
from orchestrator.kernels.state.row import ClusterState
from tests.naive import placing
from tests.naive.cluster import hold
from tests.naive.engine import NaiveEngine
from tests.naive.placing import Host, take_devices
from tests.twins import kernel_calls
from tests.twins.cases import Case, begin, cases, nodes_buffer

pytestmark = pytest.mark.property

_BY = int(Placement.BEST_FIT)


def _fill(state: ClusterState, twin: NaiveEngine, rng: random.Random) -> None:
    """Place some jobs anyhow, so that nodes are full to different degrees."""
    buffer = nodes_buffer()
    for job in rng.sample(twin.jobs, len(twin.jobs) // 2):
        nodes = twin.place(job, rng.choice([Placement.FIRST_FIT, Placement.SPREAD]))
        buffer[: len(nodes)] = nodes
        assert kernel_calls.reserve_gang(state.rows, 0, job.index, buffer, len(nodes), _BY)
        hosts = twin.hosts()
        for n in nodes:
            devices = take_devices(job.ask, hosts[n])
            assert devices is not None
            hold(job.ask, hosts[n], devices)
            job.spots.append((n, devices))


@given(case=cases(incidents=False), seed=st.integers(0, 1 << 16), limit=st.integers(0, 9))
def test_slots_equal_an_exhaustive_search(case: Case, seed: int, limit: int) -> None:
    state, twin = begin(case)
    _fill(state, twin, random.Random(seed))
    for job in twin.jobs:
        for n, host in enumerate(twin.hosts()):
            found = kernel_calls.worker_slots(state.rows, 0, job.index, n, limit)
            assert found == placing.slots(job.ask, host, limit)
        fits = placing.fits(job.ask, twin.hosts())
        assert entry.fits(state.rows, 0, job.index) == fits


@given(case=cases(incidents=False), seed=st.integers(0, 1 << 16), generator=st.integers(0, 3))
def test_generators_equal_their_twin(case: Case, seed: int, generator: int) -> None:
    state, twin = begin(case)
    _fill(state, twin, random.Random(seed))
    state.rows["point"] = twin.point = seed
    buffer = nodes_buffer()
    for job in twin.jobs:
        placed = kernel_calls.place_gang(state.rows, 0, job.index, generator, buffer)
        offset = twin.offset(job, generator)
        expected = placing.place(job.ask, twin.hosts(), generator, offset)
        assert placed == len(expected)
        assert buffer[: len(expected)].tolist() == expected


@given(
    case=cases(incidents=False), states=st.lists(st.sampled_from(NodeCode), min_size=4, max_size=4)
)
def test_what_could_ever_fit(case: Case, states: list[NodeCode]) -> None:
    for n in range(len(case.nodes)):
        case.nodes[n]["state"] = states[n]
    state, twin = begin(case)
    # A node that is down or ordered comes; one that drains or has left does not.
    stays = (NodeCode.UP, NodeCode.DOWN, NodeCode.PROVISIONING)
    hosts = [
        Host(
            x.state in stays,
            x.model,
            x.cpu_cap_milli,
            x.memory_cap_mib,
            [1000] * x.gpus,
            x.gpu_memory_mib,
        )
        for x in twin.nodes
    ]
    for job in twin.jobs:
        expected = placing.fits(job.ask, hosts)
        assert entry.can_ever_fit(state.rows, 0, job.index) == expected
