"""What is remembered, and threads, change the speed only: observations are equal bit for bit.

The twin is the same environment without a memo: its rows scan all nodes for every placement, lift
every victim to see what would be without it, and put it back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import envs.session
from envs import CLUSTER, EnvConfig, Scenario, Session
from envs.gym import row_seeds
from envs.workloads import Trace, gpu_cluster
from envs.workloads.enrich import enrich
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.change import events as live
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import Placement, Topology
from orchestrator.kernels.state.records import (
    JOB_MEMO_FIELDS,
    MEMO_TABLES,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TABLES,
)
from orchestrator.kernels.state.row import MEMO_FIELDS, ClusterShape, ClusterState, allocate
from orchestrator.types import TenantSpec
from tests.envs.cases import pick_legal

_ROWS = 3
_STEPS = 500
_EVERY_SET = replace(
    CLUSTER, window=16, elastics=6, migrate=True, episode_jobs=150, min_run_seconds=0.0
)


def _crowded() -> Trace:
    """Whole GPUs, gangs, elastic jobs; far more than there is room for."""
    return enrich(gpu_cluster(600, 1, nodes=8, load=6.0))


def _mixed() -> Trace:
    """Shares of one or several GPUs, GPU memory, gangs that need a rack, an island or bandwidth."""
    trace = _crowded()
    requests, rng = trace.requests.copy(), np.random.default_rng(2)
    chance = rng.random(len(requests))
    small = requests["gpus_per_worker"] <= 2
    requests["gpu_milli"][small & (chance < 0.5)] = 300
    requests["gpu_memory_mib"][small & (chance < 0.2)] = 9000
    requests["topology"][chance > 0.9] = Topology.RACK
    requests["topology"][chance > 0.97] = Topology.NODE
    requests["bandwidth_mbps"][(chance > 0.8) & (chance < 0.9)] = 1000
    fits = requests["topology"] != Topology.NODE
    fits |= requests["workers"] * requests["gpus_per_worker"] <= 8
    return replace(trace, requests=requests[fits])


_CASES = {
    "crowded": (_crowded, _EVERY_SET, 64),
    "mixed": (_mixed, _EVERY_SET, 64),
    "few kinds": (_mixed, _EVERY_SET, 4),
    "spread": (_crowded, replace(_EVERY_SET, placements=(Placement.SPREAD,)), 64),
    "random first": (
        _crowded,
        replace(_EVERY_SET, placements=(Placement.RANDOM, Placement.WORST_FIT)),
        64,
    ),
    "tightest, by fragmentation": (
        _mixed,
        replace(_EVERY_SET, placements=(Placement.TIGHTEST, Placement.FGD, Placement.UNIFORM)),
        64,
    ),
}
every_case = pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)


def _session(
    trace: Trace,
    config: EnvConfig,
    monkeypatch: pytest.MonkeyPatch | None = None,
    kinds: int = 64,
    threads: int = 1,
    scanned: int | None = None,
) -> Session:
    if monkeypatch is not None:
        monkeypatch.setattr(envs.session, "memo_kinds", lambda *sizes, **more: kinds)
    scenario = Scenario(
        failures=FailureModel(), tenants=tuple(TenantSpec(name) for name in trace.tenants)
    )
    starts = np.arange(len(trace) - config.episode_jobs + 1)
    session = Session(trace, config, _ROWS, starts, scenario=scenario, threads=threads)
    if scanned is not None:
        session.state.rows["scanned_nodes"] = scanned
    session.reseed(row_seeds(4, _ROWS))
    session.reset()
    return session


def _assert_same(one: Session, other: Session) -> None:
    seen = other.observation()
    for name, expected in one.observation().items():
        np.testing.assert_array_equal(seen[name], expected, err_msg=name)
    np.testing.assert_array_equal(one.buffers.reward, other.buffers.reward)
    np.testing.assert_array_equal(one.state.rows["log_hash"], other.state.rows["log_hash"])


def _pick(mask: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int64]:
    """Wait at half of the steps, so that a queue builds up; else a random legal action."""
    actions = pick_legal(mask, rng)
    waits = (rng.random(len(actions)) < 0.5) & (mask[:, -1] != 0)
    actions[waits] = mask.shape[1] - 1
    return actions


def _step(session: Session, actions: NDArray[np.int64]) -> None:
    session.step(actions)
    over = session.buffers.terminated | session.buffers.truncated
    if over.any():
        session.reset(over)


@pytest.mark.parametrize("scanned", [0, 256], ids=["by tree", "by slots"])
@every_case
def test_a_memo_shows_what_a_scan_shows(case, scanned, monkeypatch) -> None:
    make, config, kinds = case
    trace = make()
    plain = _session(trace, config, monkeypatch, 0)
    quick = _session(trace, config, monkeypatch, kinds, scanned=scanned)
    assert (plain.state.shape.kinds, quick.state.shape.kinds) == (0, kinds)
    rng = np.random.default_rng(5)
    helped, moved, grown = 0, 0, 0
    resizes = config.window * len(config.placements) + config.victims
    for _ in range(_STEPS):
        _assert_same(plain, quick)
        helped += np.count_nonzero(plain.buffers.victims[:, :, 7])
        mask = plain.buffers.mask
        grown += np.count_nonzero(mask[:, resizes + config.elastics : resizes + 12])
        moved += np.count_nonzero(mask[:, resizes + 2 * config.elastics : -1])
        actions = _pick(mask, rng)
        _step(plain, actions)
        _step(quick, actions)
    assert moved > 0
    assert grown > 0
    # Where everything is spread, no single job makes room for a whole gang.
    assert helped > 0 or config.placements == (Placement.SPREAD,)
    assert (plain.state.job["kind"] == 0).all()
    assert (quick.state.kind["seen"] > 0).any()


def test_a_copy_does_not_remember_what_its_tables_held(monkeypatch) -> None:
    plain = _session(_crowded(), _EVERY_SET, monkeypatch, 0)
    quick = _session(_crowded(), _EVERY_SET, monkeypatch)
    rng = np.random.default_rng(5)
    for k in range(200):
        if k % 20 == 0:  # row 0 becomes what row 1 is, whatever it was
            for session in (plain, quick):
                entry.copy_row(session.state.rows, 1, session.state.rows, 0)
                *plain_parts, memo = session.buffers
                for part in (*plain_parts, *memo):
                    part[0] = part[1]
        actions = _pick(plain.buffers.mask, rng)
        plain.step(actions)
        quick.step(actions)
        _assert_same(plain, quick)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    trace = _crowded()
    one, many = _session(trace, _EVERY_SET), _session(trace, _EVERY_SET, threads=threads)
    rng = np.random.default_rng(6)
    for _ in range(200):
        actions = _pick(one.buffers.mask, rng)
        _step(one, actions)
        _step(many, actions)
        _assert_same(one, many)
    for name in TABLES:
        assert getattr(one.state, name).tobytes() == getattr(many.state, name).tobytes(), name
    many.close()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_a_wrong_number_of_threads_is_an_error(threads) -> None:
    with pytest.raises(ConfigurationError, match="threads"):
        Session(_crowded(), _EVERY_SET, 2, threads=threads, part="all")


def _blank(state: ClusterState, e: int) -> None:
    """Drop all that a row remembers."""
    for name in MEMO_TABLES:
        getattr(state, name)[e] = np.zeros(1, getattr(state, name).dtype)
    for name in MEMO_FIELDS:
        state.rows[name][e] = 0
    for name in JOB_MEMO_FIELDS:
        state.job[name][e] = 0


def _forget(state: ClusterState, e: int) -> None:
    """Drop the same, but for the kinds of the jobs: it will be remembered anew."""
    kept = state.kind[e].copy()
    jobs, kinds = state.job["kind"][e].copy(), state.rows["num_kinds"][e]
    _blank(state, e)
    kept["seen"] = kept["summed"] = kept["walk"] = 0
    state.kind[e] = kept
    state.job["kind"][e], state.rows["num_kinds"][e] = jobs, kinds


@pytest.mark.parametrize("drop", [_blank, _forget])
@pytest.mark.parametrize("scanned", [0, 256], ids=["by tree", "by slots"])
def test_whoever_drops_the_memo_loses_nothing_but_time(scanned, drop, monkeypatch) -> None:
    trace = _mixed()
    whole = _session(trace, _EVERY_SET, monkeypatch, 24, scanned=scanned)
    dropped = _session(trace, _EVERY_SET, monkeypatch, 24, scanned=scanned)
    rng = np.random.default_rng(7)
    for _ in range(_STEPS):
        if rng.random() < 0.1:
            drop(dropped.state, int(rng.integers(_ROWS)))
        actions = _pick(whole.buffers.mask, rng)
        _step(whole, actions)
        _step(dropped, actions)
        _assert_same(whole, dropped)


def _requests(*memory_mib: int) -> NDArray[np.void]:
    requests = np.zeros(len(memory_mib), REQUEST_DTYPE)
    requests["memory_mib"] = memory_mib
    requests["cpu_milli"] = requests["duration_ms"] = requests["requested_ms"] = 1000
    requests["workers"] = requests["gpu_milli"] = 1
    return requests


def _nodes() -> NDArray[np.void]:
    nodes = np.zeros(2, NODE_DTYPE)
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"], nodes["state"] = 8000, 1000, 1
    return nodes


def test_equal_requests_have_equal_kinds_and_the_first_come_first() -> None:
    state = allocate(ClusterShape(envs=1, jobs=6, nodes=2, kinds=2))
    asks = _requests(5, 7, 5, 9, 7, 5)
    asks["workers"] = asks["priority"] = [1, 1, 1, 1, 1, 1]
    asks["user"] = np.arange(6)
    entry.begin_episode(state.rows, 0, 0, _nodes(), asks)
    assert state.job["kind"][0].tolist() == [1, 2, 1, 0, 2, 1]  # there is no room for a third one
    assert state.kind["jobs"][0].tolist() == [0, 3, 2]


def test_kinds_without_jobs_make_way() -> None:
    state = allocate(ClusterShape(envs=1, jobs=3, nodes=2, kinds=2))
    entry.begin_episode(state.rows, 0, 0, _nodes(), _requests(5))
    for memory in range(20, 30):
        assert live.could_ever_fit(state.rows, 0, 2, _requests(memory))
    live.admit_live_job(state.rows, 0, 0, 1, _requests(7))
    assert state.job["kind"][0, :2].tolist() == [1, 2]
    assert not live.could_ever_fit(state.rows, 0, 2, _requests(2000))
    assert state.kind["memory_mib"][0].tolist() == [0, 5, 7]


def test_small_clusters_that_are_seldom_asked_remember_nothing() -> None:
    assert allocate(ClusterShape(envs=1, jobs=1, nodes=63)).shape.kinds == 0
    assert allocate(ClusterShape(envs=1, jobs=1, nodes=64)).shape.kinds > 0
