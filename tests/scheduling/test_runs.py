"""Runs as they are read off effects, against what the rows' own tables say of the same jobs."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs import CLUSTER, Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EffectKind, JobCode, JobKind
from orchestrator.scheduling.runs import RunEnd, RunReader, Runs
from tests.envs.cases import CASES, EnvCase, gpu_trace, pick_legal, play
from tests.envs.scaling_cases import MINUTE_MS, SCALING_CASES, bare_trace

_RING = 4096


@functools.cache
def _elastic_trace() -> Trace:
    """Every job on whole GPUs may have up to four times the workers that it asks for."""
    requests = gpu_trace().requests.copy()
    whole = (requests["gpu_milli"] == 1000) & (requests["gpus_per_worker"] <= 1)
    requests["elastic"][whole], requests["min_workers"][whole] = 1, 1
    requests["max_workers"][whole] = 4 * requests["workers"][whole]
    requests["regroup_ms"][whole] = 5000
    return replace(gpu_trace(), requests=requests)


_ELASTIC = {"elastics": 4, "migrate": True}
_CASES = {
    **CASES,
    "elastic": EnvCase("elastic", "Cluster", _elastic_trace, _ELASTIC),
    "elastic-incidents": EnvCase("elastic", "Cluster", _elastic_trace, _ELASTIC, befalls=True),
    **SCALING_CASES,
}


def _check(session: Session, e: int, found: Runs) -> None:
    """Everything that a row knows of its jobs' runs."""
    state, row = session.state, session.state.rows[e]
    ask, job = state.request[e, : row["num_jobs"]], state.job[e, : row["num_jobs"]]
    runs, now = found.runs, int(row["now_ms"])
    assert (runs["end_ms"] >= runs["start_ms"]).all()
    assert (ask["kind"][runs["job"]] != JobKind.SERVICE).all()
    for j in np.flatnonzero(ask["kind"] != JobKind.SERVICE).tolist():
        mine, what = runs[runs["job"] == j], job[j]
        assert (mine["start_ms"][1:] >= mine["end_ms"][:-1]).all(), "two at the same time"
        assert len(np.unique(mine["run"])) == mine["run"].max(initial=0) == what["runs"]
        counts = np.bincount(mine["end"], minlength=len(RunEnd))
        saving = what["state"] == JobCode.CHECKPOINTING
        assert counts[RunEnd.INTERRUPTED] == what["interruptions"]
        # A node can fail while a job that is preempted is saved.
        both = what["preemptions"] - saving - counts[RunEnd.PREEMPTED]
        assert 0 <= both <= counts[RunEnd.INTERRUPTED]
        assert counts[RunEnd.RESIZED] == what["resizes"]
        assert counts[RunEnd.MOVED] == what["migrations"]
        assert counts[RunEnd.COMPLETED] == (what["state"] == JobCode.COMPLETED)
        held = int((mine["units"] * (mine["end_ms"] - mine["start_ms"])).sum())
        running = what["state"] in (JobCode.RUNNING, JobCode.CHECKPOINTING)
        assert counts[RunEnd.UNFINISHED] == running
        owed = (now - int(what["resized_ms"])) * int(what["units"]) if running else 0
        assert held == what["attained_unit_ms"] + owed
        if len(mine):
            assert mine["start_ms"][0] == what["first_start_ms"]
            assert mine["start_ms"][mine["run"] == what["runs"]][0] == what["start_ms"]
    if row["num_services"] == 0:
        held = int((runs["units"] * (runs["end_ms"] - runs["start_ms"])).sum())
        # A node that drains is no capacity any more: while its jobs are saved, the row counts none.
        drains = row["num_incidents"] > 0 or session.config.capacity_steps or row["autoscale"]
        assert held >= row["busy_unit_ms"] if drains else held == row["busy_unit_ms"]
    _check_room(session, e, found)


def _check_room(session: Session, e: int, found: Runs) -> None:
    """At no time does any node have more workers than its GPUs and cores are enough for."""
    state, row, runs = session.state, session.state.rows[e], found.runs
    ask = state.request[e, np.repeat(runs["job"], runs["workers"])]
    begin, until = (np.repeat(runs[name], runs["workers"]) for name in ("start_ms", "end_ms"))
    assert len(found.nodes) == len(ask)
    for n in range(int(row["num_nodes"])):
        node, here = state.node[e, n], found.nodes == n
        gpus = ask["gpus_per_worker"] * ask["gpu_milli"]
        for each, most in ((gpus, node["gpus"] * 1000), (ask["cpu_milli"], node["cpu_cap_milli"])):
            assert _peak(begin[here], until[here], each[here]) <= most


def _peak(begin: NDArray[np.int64], until: NDArray[np.int64], size: NDArray[np.int64]) -> int:
    """The most that is held at any time; who leaves makes room for who comes at that moment."""
    some = until > begin
    times = np.concatenate((until[some], begin[some]))
    change = np.concatenate((-size[some], size[some]))
    return int(np.cumsum(change[np.argsort(times, kind="stable")]).max(initial=0))


def _played(name: str, seed: int, steps: int) -> Session:
    """Two rows that have taken so many random legal steps, or are at their ends."""
    session = _CASES[name].session(2)
    session.keep_effects(_RING)
    session.reseed(np.array([seed, seed + 1], np.uint64))
    session.reset()
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        session.step(pick_legal(session.buffers.mask, rng))
    return session


@given(
    name=st.sampled_from(sorted(_CASES)),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(0, 30) | st.just(400),
)
def test_runs_are_what_the_row_says_of_its_jobs(name: str, seed: int, steps: int) -> None:
    session = _played(name, seed, steps)
    reader = RunReader(session.envs)
    for e in range(session.envs):
        found = reader.finish(session.state, e)
        assert found is not None
        _check(session, e, found)
    session.close()


def test_everything_that_ends_a_run_is_among_what_was_tried() -> None:
    ends: set[int] = set()
    for steps in (20, 400):
        session = _played("elastic-incidents", 1, steps)
        for e in range(2):
            found = RunReader(2).finish(session.state, e)
            assert found is not None
            ends |= set(found.runs["end"].tolist())
    assert ends == set(RunEnd)


@pytest.mark.parametrize("name", ["cluster-incidents", "elastic-incidents"])
def test_who_keeps_up_needs_little_room_and_who_does_not_is_told(name: str) -> None:
    large, small = _CASES[name].session(2), _CASES[name].session(2)
    large.keep_effects(_RING)
    small.keep_effects(16)
    reader, rng = RunReader(2), np.random.default_rng(3)
    play(large, np.random.default_rng(3))
    small.reset()
    while not small.buffers.terminated.all():
        small.step(pick_legal(small.buffers.mask, rng))
        reader.keep_up(small.state)
    for e in range(2):
        assert small.state.rows[e]["effect_count"] > 16
        assert RunReader(2).finish(small.state, e) is None
        mine, whole = reader.finish(small.state, e), RunReader(2).finish(large.state, e)
        assert mine is not None
        assert whole is not None
        np.testing.assert_array_equal(mine.runs, whole.runs)
        np.testing.assert_array_equal(mine.nodes, whole.nodes)


def test_a_ring_changes_nothing_and_is_none_unless_asked_for() -> None:
    bare, kept = (_CASES["elastic-incidents"].session(2) for _ in range(2))
    kept.keep_effects(64)
    paid = [play(session, np.random.default_rng(2)) for session in (bare, kept)]
    np.testing.assert_array_equal(*paid)
    assert bare.state.shape.effects == 0
    assert (bare.state.rows["effect_count"] == 0).all()
    assert (bare.state.rows["log_hash"] == kept.state.rows["log_hash"]).all()
    kept.keep_effects(8)  # more than that is there
    assert kept.state.shape.effects == 64
    with pytest.raises(ConfigurationError, match="effects"):
        kept.keep_effects(-1)


def _preempted_twice() -> Session:
    """A job of an hour on the only GPU, and two short ones, ten and thirty minutes after it."""
    saved = {"checkpoint_ms": MINUTE_MS, "restart_ms": 2 * MINUTE_MS, "preemptible": 1}
    short = {"duration_ms": 5 * MINUTE_MS, "gpu_milli": 1000, "workers": 1}
    jobs = [
        {"duration_ms": 60 * MINUTE_MS, **saved},
        {"submit_ms": 10 * MINUTE_MS, **short},
        {"submit_ms": 30 * MINUTE_MS, **short},
    ]
    config = replace(CLUSTER, episode_jobs=3)
    session = Session(bare_trace(nodes=1, gpus=1, jobs=jobs), config, 1, np.array([0]))
    session.keep_effects(16)
    session.replay("srtf")
    return session


def test_a_job_that_is_preempted_twice_has_three_runs() -> None:
    session = _preempted_twice()
    found = RunReader(1).finish(session.state, 0)
    assert found is not None
    mine = found.runs[found.runs["job"] == 0]
    assert mine["run"].tolist() == [1, 2, 3]
    assert mine["end"].tolist() == [RunEnd.PREEMPTED, RunEnd.PREEMPTED, RunEnd.COMPLETED]
    assert (mine["start_ms"] // MINUTE_MS).tolist() == [0, 16, 36]
    assert (mine["end_ms"] // MINUTE_MS).tolist() == [11, 31, 76]
    lengths = mine["end_ms"] - mine["start_ms"]
    # An hour of work, two checkpoints and two restarts: nothing of it was done twice.
    assert lengths.sum() == (60 + 2 * 1 + 2 * 2) * MINUTE_MS
    job, ask = session.state.job[0, 0], session.state.request[0, 0]
    assert lengths.sum() * 1000 == job["attained_unit_ms"]
    assert job["progress_ms"] == ask["duration_ms"]
    assert (job["preemptions"], job["runs"], job["end_ms"]) == (2, 3, mine["end_ms"][-1])
    # Each run goes on from the work that the ones before it did.
    effects = session.state.effect[0, : int(session.state.rows[0]["effect_count"])]
    begun = effects[(effects["kind"] == EffectKind.START) & (effects["subject"] == 0)]
    worked = lengths - begun["cost_ms"] - ask["checkpoint_ms"] * (mine["end"] == RunEnd.PREEMPTED)
    np.testing.assert_array_equal(np.cumsum(worked)[:-1], begun["progress_ms"][1:])
    waited = int((mine["start_ms"] - np.append(ask["submit_ms"], mine["end_ms"][:-1])).sum())
    others = found.runs[found.runs["job"] > 0]
    waited += int((others["start_ms"] - session.state.request[0, 1:3]["submit_ms"]).sum())
    assert waited == session.state.rows[0]["wait_ms"]
