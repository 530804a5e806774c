"""Score-based generators against formulas written down plainly; the index against a scan."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import EventKind, Placement
from orchestrator.kernels.state.records import TYPICAL_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from tests.naive import placing
from tests.naive.cluster import plain
from tests.naive.placing import Host
from tests.twins import kernel_calls
from tests.twins.cases import MAX_WORKERS, Case, cases, nodes_buffer

pytestmark = pytest.mark.property

_SHAPE = ClusterShape(envs=1, jobs=16, workers=MAX_WORKERS, nodes=4, devices=4, typical=4)
_BY_SCORE = [
    Placement.BEST_FIT,
    Placement.WORST_FIT,
    Placement.BEST_FIT_FGD,
    Placement.FGD,
    Placement.DOT_PRODUCT,
    Placement.GPU_PACKING,
    Placement.GPU_CLUSTERING,
    Placement.BUDDY,
]
_REMEMBERED = [
    *_BY_SCORE,
    Placement.FIRST_FIT,
    Placement.TIGHTEST,
    Placement.SPREAD,
    Placement.RANDOM,
    Placement.UNIFORM,
]


def _begin(case: Case, pods: np.ndarray, kinds: int, scanned: int = 0) -> ClusterState:
    state = allocate(replace(_SHAPE, kinds=kinds))
    state.rows["scanned_nodes"] = scanned
    case.requests["elastic"] = 0  # the formulas are of whole gangs
    entry.begin_episode(state.rows, 0, case.seed, case.nodes, case.requests)
    packing.load_typical(state.rows, 0, pods)
    return state


@st.composite
def _typical(draw: st.DrawFn) -> np.ndarray:
    pod = st.tuples(
        st.sampled_from([500, 1000, 9000]),
        st.sampled_from([1000, 1000, 500, 250]),
        st.sampled_from([0, 1, 1, 2, 4]),
        st.sampled_from([0, 0, 1, 6]),
    )
    drawn = draw(st.lists(pod, min_size=1, max_size=4))
    pods = np.zeros(len(drawn), TYPICAL_DTYPE)
    for record, (cpu, milli, gpus, mask) in zip(pods, drawn, strict=True):
        record["cpu_milli"], record["gpu_milli"] = cpu, milli
        record["gpus"], record["model_mask"] = gpus, mask
    pods["weight"] = 1.0 / len(pods)
    return pods


def _hosts(state: ClusterState, nodes: int) -> list[Host]:
    hosts = []
    for n in range(nodes):
        node = plain(state.node[0, n])
        free = state.device[0, n, : node.gpus]
        milli = free["free_milli"].tolist()
        cpu, memory = node.cpu_free_milli, node.memory_free_mib
        host = Host(node.state == 1, node.model, cpu, memory, milli, node.gpu_memory_mib)
        host.memories = free["free_memory_mib"].tolist()
        hosts.append(host)
    return hosts


def _kinds(case: Case, state: ClusterState, placed: dict[int, int]) -> list[set[int]]:
    kinds: list[set[int]] = [set() for _ in case.nodes]
    for j, workers in placed.items():
        ask = plain(case.requests[j])
        for w in range(workers if ask.gpus_per_worker else 0):
            kind = 0 if ask.gpu_milli < 1000 else ask.gpus_per_worker
            kinds[int(state.worker[0, j, w]["node"])].add(kind)
    return kinds


@given(
    case=cases(incidents=False),
    pods=_typical(),
    seed=st.integers(0, 1 << 16),
    generator=st.sampled_from(_BY_SCORE),
    kinds=st.sampled_from([0, 8]),
)
def test_generators_equal_their_formulas(
    case: Case, pods: np.ndarray, seed: int, generator: Placement, kinds: int
) -> None:
    state = _begin(case, pods, kinds)
    rng, buffer = random.Random(seed), nodes_buffer()
    classes = [plain(pod) for pod in pods]
    placed: dict[int, int] = {}
    for j in rng.sample(range(len(case.requests)), len(case.requests)):
        hosts = _hosts(state, len(case.nodes))
        for n, host in enumerate(hosts):
            found = float(state.node[0, n]["fragmentation"])
            assert found == placing.fragmentation(host, classes)
        ask = plain(state.request[0, j])
        workers = kernel_calls.place_gang(state.rows, 0, j, int(generator), buffer)
        kinds = _kinds(case, state, placed)
        expected = placing.place_by_score(ask, hosts, generator, classes, kinds)
        assert buffer[:workers].tolist() == expected
        if workers == 0:
            continue
        assert kernel_calls.reserve_gang(state.rows, 0, j, buffer, workers, int(generator))
        placed[j] = workers
        if generator == Placement.FGD and workers == 1 and ask.gpus_per_worker == 1:
            _, taken = placing.gradient(ask, hosts[expected[0]], classes)
            assert int(state.worker[0, j, 0]["devices"]) == 1 << taken[0]


@given(case=cases(incidents=False), pods=_typical(), seed=st.integers(0, 1 << 16))
def test_a_memo_finds_what_a_scan_finds(case: Case, pods: np.ndarray, seed: int) -> None:
    rng, placed = random.Random(seed), set()
    scanned = _begin(case, pods, 0)
    # All by trees, or slots looked at; and with fewer kinds than are asked for.
    remembered = _begin(case, pods, rng.choice([2, 16]), rng.choice([0, 256]))
    here, there = nodes_buffer(), nodes_buffer()
    for _ in range(60):
        j = rng.randrange(len(case.requests))
        both = (scanned.rows, remembered.rows)
        if rng.random() < 0.15:
            n = rng.randrange(len(case.nodes))
            busy = any(
                int(scanned.worker[0, i, w]["node"]) == n
                for i in placed
                for w in range(int(scanned.job[0, i]["workers_now"]))
            )
            if not busy:
                kind = rng.choice([EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY])
                for rows in both:
                    entry.apply_event(rows, 0, 0, int(kind), n)
            continue
        if j in placed:
            placed.remove(j)
            for rows in both:
                kernel_calls.release_gang(rows, 0, j)
            continue
        assert entry.fits(scanned.rows, 0, j) == entry.fits(remembered.rows, 0, j)
        generator = int(rng.choice(_REMEMBERED))
        workers = kernel_calls.place_gang(scanned.rows, 0, j, generator, here)
        assert kernel_calls.place_gang(remembered.rows, 0, j, generator, there) == workers
        assert here[:workers].tolist() == there[:workers].tolist()
        if workers > 0 and rng.random() < 0.8:
            placed.add(j)
            for rows in both:
                assert kernel_calls.reserve_gang(rows, 0, j, here, workers, generator)


@given(case=cases(incidents=False), pods=_typical(), seed=st.integers(0, 1 << 16))
def test_a_copied_row_remembers_nothing_of_its_former_self(
    case: Case, pods: np.ndarray, seed: int
) -> None:
    state = allocate(replace(_SHAPE, envs=2, kinds=8))
    for e in range(2):
        entry.begin_episode(state.rows, e, case.seed, case.nodes, case.requests)
        packing.load_typical(state.rows, e, pods)
    rng = random.Random(seed)
    here, there = nodes_buffer(), nodes_buffer()
    for step in range(30):
        e, j = rng.randrange(2), rng.randrange(len(case.requests))
        if state.job[e, j]["workers_now"] > 0:
            kernel_calls.release_gang(state.rows, e, j)
        else:
            generator = int(rng.choice(_REMEMBERED))
            workers = kernel_calls.place_gang(state.rows, e, j, generator, here)
            if workers:
                assert kernel_calls.reserve_gang(state.rows, e, j, here, workers, generator)
        if step % 5 != 4:
            continue
        # Only jobs on the running list take their workers along; here nobody is on it.
        for k in range(len(case.requests)):
            if state.job[0, k]["workers_now"] > 0:
                kernel_calls.release_gang(state.rows, 0, k)
        entry.copy_row(state.rows, 0, state.rows, 1)
        for k in range(len(case.requests)):
            generator = int(rng.choice(_REMEMBERED))
            workers = kernel_calls.place_gang(state.rows, 0, k, generator, here)
            assert kernel_calls.place_gang(state.rows, 1, k, generator, there) == workers
            assert here[:workers].tolist() == there[:workers].tolist()
