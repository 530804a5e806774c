"""Forks come to what their rows come to, whoever plays them on; run times may be replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import CLUSTER, JOB_ORDERING, EnvConfig, Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import linear as ranker
from orchestrator.kernels.run import roll
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.roll import Player, Until, make_player
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.codes import JobCode
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.forks import Fork
from orchestrator.scheduling.rules import rule_named
from tests.envs.cases import gpu_trace, incidents, lublin_trace
from tests.envs.scaling_cases import busy_scenario, busy_trace

JOBS = 60
ORDERING = replace(JOB_ORDERING, episode_jobs=JOBS)
BACKFILL = replace(ORDERING, backfill=True)
ELASTIC = replace(
    CLUSTER, episode_jobs=JOBS, window=JOBS, elastics=8, advice="elastic_srtf", min_run_seconds=5.0
)
BUSY = replace(
    ELASTIC, services=3, capacity_steps=2, tenants=3, fleet=True, encoding="full", step_limit=0
)

TOTALS = (
    *("now_ms", "job_ms", "wait_ms", "busy_unit_ms", "capacity_unit_ms", "lost_unit_ms", "tick"),
    *("cost_milli_ms", "settled_excess", "preemptions", "interruptions", "resizes", "migrations"),
    *("completed_jobs", "failed_jobs", "queue_len", "decisions", "event_seq", "log_count"),
    *("requests_offered", "requests_within", "request_violations", "replica_ms"),
)
OUTCOMES = ("state", "start_ms", "first_start_ms", "end_ms", "runs", "preemptions", "resizes")


def session_of(config: EnvConfig, trace: Trace, **options: Any) -> Session:
    return Session(trace, config, 1, np.array([40, 170]), **options)


def sessions() -> Mapping[str, tuple[Session, tuple[str, ...]]]:
    """Sessions, and rules that play on in them."""
    gpu = session_of(ELASTIC, gpu_trace(), incidents=incidents())
    plain, scaling = ("fcfs", "sjf", "elastic_srtf", "priority"), ("elastic_srtf+predictive",)
    return {
        "ordering": (session_of(ORDERING, lublin_trace()), ("sjf", "f1")),
        "backfill": (session_of(BACKFILL, lublin_trace()), ("sjf", "fcfs")),
        "gpu": (gpu, plain),
        "busy": (session_of(BUSY, busy_trace(), scenario=busy_scenario()), scaling),
    }


def play_some(session: Session, rng: np.random.Generator, steps: int) -> bool:
    """Begin a window and take random legal actions; whether it goes on."""
    session.reseed_row(0, int(rng.integers(1 << 30)))
    session.reset(windows=rng.integers(2, size=1))
    for _ in range(steps):
        legal = np.flatnonzero(session.buffers.mask[0])
        session.step(np.array([rng.choice(legal)]))
        if session.buffers.terminated[0]:
            return False
    return True


def fork_of(session: Session) -> tuple[ClusterState, NDArray[np.int32], NDArray[np.int32]]:
    """A fork of the row, with the very jobs and incidents that come to the original."""
    source = session.state
    row = source.rows[0]
    first, last = int(row["next_arrival"]), int(row["num_jobs"])
    later = source.incident[0, row["next_incident"] : row["num_incidents"]].copy()
    later["time_ms"] -= row["now_ms"]
    fork = Fork(source, arrivals=last - first, incidents=len(later))
    assert np.array_equal(np.flatnonzero(fork.place[:last] >= 0), fork.kept)
    fork.expect(source.request[0, first:last].copy(), later)
    return fork.state, fork.place, np.concatenate([fork.kept, np.arange(first, last)])


def assert_same_end(forked: ClusterState, session: Session, jobs: NDArray[np.int32]) -> None:
    ended, original = forked.rows[0], session.state.rows[0]
    assert ended["num_jobs"] == len(jobs)
    mine, theirs = forked.job[0, : len(jobs)], session.state.job[0, jobs]
    for name in OUTCOMES:
        assert np.array_equal(mine[name], theirs[name]), name
    for name in TOTALS:
        assert ended[name] == pytest.approx(original[name], rel=1e-12, abs=1e-9), name


def rule_player(rule: str, shape: ClusterShape) -> Player:
    return make_player(rule_named(rule).to_record(), shape.jobs, shape.workers)


@pytest.mark.property
@pytest.mark.parametrize("kind", ["ordering", "backfill", "gpu", "busy"])
def test_a_fork_comes_to_what_its_row_comes_to(kind: str) -> None:
    session, rules = sessions()[kind]
    rng = np.random.default_rng(5)
    smaller, played = 0, 0
    for _ in range(12):
        if not play_some(session, rng, int(rng.integers(1, 60))):
            continue
        rule = str(rng.choice(rules))
        forked, place, jobs = fork_of(session)
        smaller += int((place[: session.state.rows[0]["next_arrival"]] < 0).any())
        for state in (forked, session.state):
            roll.roll_on(state.rows, 0, rule_player(rule, state.shape), Until.DRAINED, -1)
        assert_same_end(forked, session, jobs)
        played += 1
    assert played >= 6
    assert smaller >= 3  # otherwise nothing was left behind


def ranker_player(seed: int, shape: ClusterShape, window: int) -> Player:
    weights = np.random.default_rng(seed).normal(0.0, 0.3, len(DEFAULT_NAMES)).astype(np.float32)
    bench = ranker.make_bench(shape.jobs, window, shape.workers)
    record = rule_named("sjf").to_record()
    return make_player(record, shape.jobs, shape.workers, ranker=(bench, weights))


@pytest.mark.property
def test_rankers_play_forks_as_they_play_rows() -> None:
    session, _ = sessions()["backfill"]
    rng = np.random.default_rng(6)
    played = 0
    for seed in range(8):
        if not play_some(session, rng, int(rng.integers(1, 60))):
            continue
        forked, _, jobs = fork_of(session)
        for state in (forked, session.state):
            player = ranker_player(seed, state.shape, 16)
            roll.roll_on(state.rows, 0, player, Until.DRAINED, -1)
        assert_same_end(forked, session, jobs)
        played += 1
    assert played >= 3


@pytest.mark.parametrize("kind", ["backfill", "gpu"])
def test_a_roll_ends_when_the_job_has_started_or_ended(kind: str) -> None:
    session, rules = sessions()[kind]
    rng = np.random.default_rng(7)
    asked = 0
    while asked < 6:
        if not play_some(session, rng, 30):
            continue
        waiting = session.state.queue[0, : session.state.rows[0]["queue_len"]]["job"]
        if len(waiting) == 0:
            continue
        asked += 1
        j = int(rng.choice(waiting))
        whole, place, _ = fork_of(session)
        k = int(place[j])
        runs = int(whole.job[0, k]["runs"])
        player = rule_player(rules[0], whole.shape)
        roll.roll_on(whole.rows, 0, player, Until.DRAINED, -1)
        started, _, _ = fork_of(session)
        roll.roll_on(started.rows, 0, player, Until.STARTED, k)
        assert started.job[0, k]["runs"] == runs + 1
        if whole.job[0, k]["runs"] == runs + 1:
            assert started.job[0, k]["start_ms"] == whole.job[0, k]["start_ms"]
        assert started.rows[0]["now_ms"] <= whole.rows[0]["now_ms"]
        ended, _, _ = fork_of(session)
        roll.roll_on(ended.rows, 0, player, Until.ENDED, k)
        assert ended.job[0, k]["state"] == JobCode.COMPLETED
        assert ended.job[0, k]["end_ms"] == whole.job[0, k]["end_ms"]
        assert ended.rows[0]["done"] == 0 or whole.rows[0]["now_ms"] == ended.rows[0]["now_ms"]


def remaining_of(state: ClusterState) -> NDArray[np.int64]:
    """Work that each job of a row has left, ms."""
    row = state.rows[0]
    ask, run = state.request[0, : row["num_jobs"]], state.job[0, : row["num_jobs"]]
    done = run["progress_ms"] + run["unsaved_ms"]
    running = run["state"] == JobCode.RUNNING
    since = np.maximum(row["now_ms"] - run["work_start_ms"], 0) * run["speed_milli"] // 1000
    return np.asarray(ask["duration_ms"] - done - np.where(running, since, 0), np.int64)


@pytest.mark.parametrize("kind", ["backfill", "gpu"])
def test_the_true_remaining_times_change_nothing_and_others_count_as_they_are(kind: str) -> None:
    session, rules = sessions()[kind]
    rng = np.random.default_rng(8)
    played = 0
    while played < 4:
        if not play_some(session, rng, 30):
            continue
        played += 1
        forked, _, jobs = fork_of(session)
        known = int(forked.rows[0]["next_arrival"])
        roll.assume_remaining(forked.rows, 0, remaining_of(forked))
        other, place, _ = fork_of(session)
        gone = np.flatnonzero(place[: session.state.rows[0]["next_arrival"]] < 0)
        settled = excess_of(session.state, gone)
        left = rng.integers(1, 4_000_000, known)
        before = other.job[0, :known].copy()
        over = np.isin(before["state"], [JobCode.COMPLETED, JobCode.FAILED, JobCode.ABSENT])
        roll.assume_remaining(other.rows, 0, np.where(over, -1, left))
        assert (remaining_of(other)[:known][~over] == left[~over]).all()
        for state in (forked, session.state, other):
            roll.roll_on(state.rows, 0, rule_player(rules[0], state.shape), Until.DRAINED, -1)
        assert_same_end(forked, session, jobs)
        # Slowdowns of the other are those of the run times that it was told.
        settled += excess_of(other, slice(0, int(other.rows[0]["num_jobs"])))
        assert other.rows[0]["settled_excess"] == pytest.approx(settled, rel=1e-9)


def excess_of(state: ClusterState, jobs: Any) -> float:
    """Bounded slowdown beyond 1 of jobs that have ended."""
    ask, run = state.request[0, jobs], state.job[0, jobs]
    ended = run["end_ms"] >= 0
    scale = np.maximum(ask["duration_ms"], int(state.rows[0]["slowdown_bound_ms"]))
    return float(np.maximum((run["end_ms"] - ask["submit_ms"]) / scale - 1.0, 0.0)[ended].sum())


def test_what_does_not_fit_into_a_fork_is_refused() -> None:
    session, _ = sessions()["backfill"]
    play_some(session, np.random.default_rng(1), 20)
    row = session.state.rows[0]
    with pytest.raises(ConfigurationError, match="room for 1 arrivals and 0 incidents, and 2 and"):
        Fork(session.state, arrivals=1).expect(session.state.request[0, :2].copy())
    over = int(np.flatnonzero(session.state.job[0]["state"] == JobCode.COMPLETED)[-1])
    fork = Fork(session.state)
    with pytest.raises(ConfigurationError, match=f"job {over} is over"):
        fork.job(over)
    waiting = int(session.state.queue[0, 0]["job"])
    assert fork.kept[fork.job(waiting)] == waiting
    assert fork.cost(session.config.reward.weights) == pytest.approx(
        total_excess(session.state), rel=1e-9
    )
    small = allocate(replace(fork.state.shape, jobs=1))
    with pytest.raises(RuntimeError, match="no room for all jobs"):
        roll.fork(session.state.rows, 0, small.rows, 0, fork.place, np.zeros(1, np.int32))
    assert row["now_ms"] == session.state.rows[0]["now_ms"]


def total_excess(state: ClusterState) -> float:
    """The slowdown metric of a row."""
    out = np.zeros(len(Metric))
    entry.read_metrics(state.rows, 0, out)
    return float(out[Metric.SLOWDOWN_EXCESS])


def test_forking_leaves_the_row_as_it_is() -> None:
    session, _ = sessions()["gpu"]
    play_some(session, np.random.default_rng(2), 20)
    tables = ("request", "job", "node", "device", "queue", "running", "heap", "worker")
    # Bytes, and no copies: what is between the fields of a copy is anything.
    before = {name: getattr(session.state, name).tobytes() for name in tables}
    rows = session.state.rows.tobytes()
    forked, _, _ = fork_of(session)
    roll.roll_on(forked.rows, 0, rule_player("sjf", forked.shape), Until.DRAINED, -1)
    assert rows == session.state.rows.tobytes()
    for name, table in before.items():
        assert table == getattr(session.state, name).tobytes(), name
