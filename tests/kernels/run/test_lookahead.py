"""Thinking ahead against its slow twin; what futures are drawn from; whole episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import CLUSTER, JOB_ORDERING, Session
from envs.workloads import lublin_feitelson
from orchestrator.kernels.lang.jit import entry as from_python
from orchestrator.kernels.run import futures, lookahead, roll
from orchestrator.kernels.run import linear as ranker
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.roll import Player, Until, make_player
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.kernels.state.codes import (
    ActionKind,
    EventKind,
    Information,
    JobCode,
    NodeCode,
    Placement,
    Stream,
)
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.ahead import (
    LookaheadConfig,
    Thinker,
    known_jobs,
    past_of,
    slowdown_weights,
)
from orchestrator.scheduling.rules import rule_named
from tests.envs.cases import gpu_trace, incidents
from tests.naive.lookahead import NaiveLookahead, block, repaired
from tests.naive.random import mix, random_below, random_unit
from tests.scheduling.zoo.rows import HOUR, random_jobs, row_of

SCRATCH = np.zeros(64, np.int32)
_draw = futures.draw_future


@from_python
def draw_future(rows, e, forks, k, past, number):
    _draw(rows[e], forks[k], past, number)


def weights_of(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 0.3, len(DEFAULT_NAMES)).astype(np.float32)


def player_of(shape: ClusterShape, rule: str, weights: NDArray[np.float32] | None) -> Player:
    record = rule_named(rule).to_record()
    if weights is None:
        return make_player(record, shape.jobs, shape.workers)
    bench = ranker.make_bench(shape.jobs, 16, shape.workers)
    return make_player(record, shape.jobs, shape.workers, ranker=(bench, weights))


def at_decision(seed: int, steps: int, **config: int) -> ClusterState | None:
    """A row after some decisions of FCFS, at the next one; None: it is over."""
    jobs = random_jobs(60, seed)
    for job in jobs:  # over two days
        for name in ("submit_ms", "duration_ms", "requested_ms"):
            job[name] *= 12
    state = row_of(jobs, [4, 4, 2], **config)
    record = rule_named("fcfs").to_record()
    for _ in range(steps):
        if entry.advance(state.rows, 0, SCRATCH) != 0:
            return None
        entry.commit(state.rows, 0, *entry.rule_action(state.rows, 0, record, SCRATCH), SCRATCH)
    return state if entry.advance(state.rows, 0, SCRATCH) == 0 else None


@pytest.mark.property
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("config", [{"commitment": 1, "backfill": 1}, {"commitment": 1}, {}])
def test_the_choice_is_that_of_the_slow_twin(config: dict[str, int], learned: bool) -> None:
    if learned and not config:
        pytest.skip("rankers play rows with commitment only")
    asked, switched = 0, 0
    for seed in range(30):
        state = at_decision(seed, 6 + 2 * (seed % 14), **config)
        if state is None or state.rows[0]["queue_len"] < 2:
            continue
        cycle_h = [0.0, 24.0, 6.0][seed % 3]
        settings = LookaheadConfig(
            4, futures=3, arrivals=6, errors=0.5, cycle_hours=cycle_h, draw=False, seed=seed
        )
        weights = weights_of(seed) if learned else None
        shape = Thinker.room_for(state.shape, settings)
        thinker = Thinker(
            state.shape, player_of(shape, "fcfs", weights), settings, slowdown_weights()
        )
        known = known_jobs(state)
        past = past_of(known, Information.ESTIMATE, settings, own=False)
        thought = thinker.ask(state, past)
        assert thought is not None
        assert len({tuple(each) for each in thought.actions.tolist()}) == len(thought.actions)

        def play_out(trial: ClusterState, weights: Any = weights) -> None:
            player = player_of(trial.shape, "fcfs", weights)
            roll.roll_on(trial.rows, 0, player, Until.DRAINED, -1)

        twin = NaiveLookahead(
            3, settings.arrivals, settings.errors, 0.0, settings.cycle_ms, seed, play_out
        )
        actions = [tuple(each) for each in thought.actions.tolist()]
        costs = twin.costs(state, known, actions)
        gains, own = costs[:1] - costs, float(costs[0].mean())
        played = np.isfinite(thought.gains)
        assert played[0]
        # Where all are behind, nothing is tried any further.
        last = max((twin.seen(each, own)[0] for each in gains[played][1:]), default=3)
        for mine, each in zip(thought.gains[played][1:], gains[played][1:], strict=True):
            upto, _ = twin.seen(each, own)
            assert mine == pytest.approx(each[: min(upto, last)].mean(), abs=1e-6)
        assert thought.taken == twin.choose(gains, own)
        asked += 1
        switched += thought.taken > 0
    assert asked >= 10
    assert switched >= 1


def test_a_rule_proposes_its_own_action_then_the_next_ones_then_to_wait() -> None:
    seconds = [50, 5, 4, 3, 2, 9]
    jobs = [{"duration_ms": 1000 * k, "workers": 1 + 4 * (k == 3)} for k in seconds]
    state = row_of(jobs, [4])
    place, wait = int(ActionKind.PLACE), int(ActionKind.WAIT)
    best = int(Placement.BEST_FIT)
    assert entry.advance(state.rows, 0, SCRATCH) == 0
    entry.commit(state.rows, 0, place, 0, best, SCRATCH)  # so that there is something to wait for
    assert entry.advance(state.rows, 0, SCRATCH) == 0
    settings = LookaheadConfig(6, futures=1, arrivals=0)
    shape = Thinker.room_for(state.shape, settings)
    thinker = Thinker(state.shape, player_of(shape, "sjf", None), settings, slowdown_weights())
    thought = thinker.ask(state, past_of(known_jobs(state), Information.ESTIMATE, settings))
    assert thought is not None
    # The job of three seconds has five workers, and never fits.
    assert thought.actions.tolist() == [[place, j, best] for j in (4, 2, 1, 5)] + [[wait, -1, 0]]


# --- futures ---


def forked(state: ClusterState, arrivals: int) -> ClusterState:
    room = allocate(lookahead.fork_shape(state.shape, arrivals))
    place, kept = np.zeros(state.shape.jobs, np.int32), np.zeros(room.shape.jobs, np.int32)
    roll.fork(state.rows, 0, room.rows, 0, place, kept)
    return room


@pytest.mark.parametrize("cycle_ms", [0, 24 * HOUR, 5 * HOUR])
def test_blocks_of_a_record_are_those_of_the_slow_twin(cycle_ms: int) -> None:
    seen = set()
    for seed in range(10):
        state = at_decision(seed, 20, commitment=1)
        if state is None:
            continue
        known, row = known_jobs(state), state.rows[0]
        past = futures.make_past(known, own=False, cycle_ms=cycle_ms, arrivals=5)
        past = past._replace(seed=seed)
        for number in range(3):
            counter = (int(row["point"]) * 1024 + number) << 20
            drawn_by = (int(row["seed"]) ^ mix(seed), 4, counter)
            expected, begin = block(
                known, int(row["now_ms"]), 5, cycle_ms, lambda n, by=drawn_by: random_below(*by, n)
            )
            room = forked(state, 5)
            draw_future(state.rows, 0, room.rows, 0, past, number)
            fork = room.rows[0]
            came = room.request[0, fork["next_arrival"] : fork["num_jobs"]]
            shift = int(row["now_ms"]) - begin
            assert came["submit_ms"].tolist() == (expected["submit_ms"] + shift).tolist()
            assert came["duration_ms"].tolist() == expected["duration_ms"].tolist()
            assert came["workers"].tolist() == expected["workers"].tolist()
            assert (came["submit_ms"] >= row["now_ms"]).all()
            seen.add(int(expected["submit_ms"][0]) if len(expected) else -1)
    assert len(seen) >= 3


def test_blocks_come_at_the_same_hour_from_record_and_own_past_alike() -> None:
    trace = lublin_feitelson(3000, 5)
    config = replace(JOB_ORDERING, episode_jobs=1500)
    session = Session(trace, config, 1, np.array([1500]))
    session.reset(windows=np.zeros(1, np.int64))
    rows = session.state.rows
    record, day = trace.requests[:1500].copy(), 24 * HOUR
    while rows[0]["next_arrival"] < 900:
        entry.advance(rows, 0, SCRATCH)
        queued = int(session.state.queue[0, 0]["job"])
        entry.commit(rows, 0, ActionKind.PLACE, queued, 0, SCRATCH)
    assert entry.advance(rows, 0, SCRATCH) == 0
    now, first = int(rows[0]["now_ms"]), int(session.state.request[0, 0]["submit_ms"])
    past = futures.make_past(record, own=True, arrivals=20)
    days = {"record": 0, "own": 0}
    for number in range(60):
        room = forked(session.state, 20)
        draw_future(rows, 0, room.rows, 0, past, number)
        came = room.request[0, room.rows[0]["next_arrival"] : room.rows[0]["num_jobs"]]
        assert len(came) == 20
        source = trace.requests["source_id"].tolist().index(int(came[0]["source_id"]))
        then = int(trace.requests[source]["submit_ms"])
        shift = int(came[0]["submit_ms"]) - then
        assert shift % day == 0
        assert shift > 0
        assert now <= int(came[0]["submit_ms"])
        previous = int(trace.requests[source - 1]["submit_ms"]) if source else -1
        assert previous + shift < now  # the first one from that moment on
        days["record" if then < first else "own"] += 1
    assert min(days.values()) >= 3


def test_run_times_are_drawn_as_the_past_has_them() -> None:
    state = at_decision(3, 12, commitment=1, backfill=1)
    assert state is not None
    ratios = np.array([0.25, 0.5, 0.5, 2.0, 4.0])
    past = futures.make_past(np.zeros(0, REQUEST_DTYPE), ratios, own=False, arrivals=0)
    found: dict[int, set[float]] = {}
    for number in range(200):
        room = forked(state, 0)
        before = room.job[0].copy()
        draw_future(state.rows, 0, room.rows, 0, past, number)
        row = room.rows[0]
        for j in range(int(row["num_jobs"])):
            ask, run = room.request[0, j], before[j]
            if run["state"] not in (JobCode.PENDING, JobCode.RUNNING):
                continue
            done = 0
            if run["state"] == JobCode.RUNNING:
                done = int(row["now_ms"] - run["work_start_ms"])
            ratio = float(ask["duration_ms"] / ask["requested_ms"])
            assert ask["duration_ms"] > done
            found.setdefault(j, set()).add(round(ratio, 3))
    some = [values for values in found.values() if len(values) > 1]
    assert some
    assert all(values <= {0.25, 0.5, 2.0, 4.0} for values in some)
    assert any(values == {0.25, 0.5, 2.0, 4.0} for values in some)


def test_nothing_of_what_is_to_come_is_looked_at() -> None:
    found = (at_decision(seed, 12, commitment=1, backfill=1) for seed in range(40))
    state = next(s for s in found if s is not None and s.rows[0]["queue_len"] > 2)
    settings = LookaheadConfig(4, futures=4, arrivals=8)

    def thought() -> Any:
        shape = Thinker.room_for(state.shape, settings)
        player = player_of(shape, "sjf", None)
        thinker = Thinker(state.shape, player, settings, slowdown_weights())
        past = past_of(known_jobs(state), Information.ESTIMATE, settings, own=True)
        return thinker.ask(state, past)

    first = thought()
    assert len(first.actions) > 1
    row = state.rows[0]
    state.request[0, row["next_arrival"] :]["submit_ms"] += 12_345
    state.request[0, row["next_arrival"] :]["workers"] = 1
    hidden = state.job[0]["state"] != JobCode.COMPLETED
    state.request[0]["duration_ms"][hidden] = 77_000
    again = thought()
    assert again.taken == first.taken
    assert np.array_equal(again.gains, first.gains)


def test_who_is_down_comes_back_after_a_repair_that_lasts_longer_than_so_far() -> None:
    config = replace(CLUSTER, episode_jobs=60)
    session = Session(gpu_trace(), config, 1, np.array([40]), incidents=incidents())
    session.reset(windows=np.zeros(1, np.int64))
    state, record = session.state, rule_named("fcfs").to_record()
    sample = [0.2 * HOUR, 0.7 * HOUR, 2.5 * HOUR]
    past = futures.make_past(np.zeros(0, REQUEST_DTYPE), own=False, arrivals=0)
    past = past._replace(seed=3, repairs_ms=np.array(sample))
    longer: set[int] = set()
    while entry.advance(state.rows, 0, SCRATCH) == 0:
        row, history = state.rows[0], state.incident[0, : state.rows[0]["next_incident"]]
        failures = history[history["kind"] == EventKind.NODE_FAILURE]
        down = np.flatnonzero(state.node[0]["state"] == NodeCode.DOWN).tolist()
        for number in range(2 if down else 0):
            room = forked(state, 0)
            draw_future(state.rows, 0, room.rows, 0, past, number)
            seed, now = (int(row["seed"]) ^ mix(3)) & (2**64 - 1), int(row["now_ms"])
            last = (((int(row["point"]) * 1024 + number) + 1) << 20) - 2
            lots = {n: random_unit(seed, Stream.LOOKAHEAD, last - n) for n in down}
            back = [(repaired(failures, sample, n, now, lots[n]), n) for n in down]
            ahead = room.incident[0, : room.rows[0]["num_incidents"]]
            assert [(one["time_ms"], one["node"]) for one in ahead] == sorted(back)
            assert (ahead["kind"] == EventKind.NODE_RECOVERY).all()
            longer.update(at - now for at, _ in back)
            roll.roll_on(room.rows, 0, player_of(room.shape, "fcfs", None), Until.DRAINED, -1)
            assert not (room.node[0]["state"] == NodeCode.DOWN).any()
        entry.commit(state.rows, 0, *entry.rule_action(state.rows, 0, record, SCRATCH), SCRATCH)
    assert len(longer) >= 2


# --- whole episodes ---


def test_an_episode_is_played_alike_twice_and_better_than_by_its_base() -> None:
    trace = lublin_feitelson(6000, 7)
    config = replace(JOB_ORDERING, episode_jobs=256, backfill=True)
    session = Session(trace, config, 1, np.arange(3000, 5700, 300))
    settings = LookaheadConfig(4, futures=4, arrivals=32)
    shape = Thinker.room_for(session.state.shape, settings)
    thinker = Thinker(
        session.state.shape, player_of(shape, "sjf", None), settings, config.reward.weights
    )
    past = past_of(trace.requests[:3000], Information.ESTIMATE, settings)
    costs = []
    for window in range(9):
        ends = []
        for _ in range(2):
            session.begin(np.array([window]))
            counts = thinker.play(session.state, past)
            ends.append(int(session.state.rows[0]["log_hash"]))
        assert ends[0] == ends[1]
        assert 0 < counts["switched"] < counts["tried"] <= counts["decisions"]
        mine = float(session.state.rows[0]["settled_excess"])
        session.replay("sjf", np.array([window]))
        costs.append((mine, float(session.state.rows[0]["settled_excess"])))
    mine, rule = np.mean(costs, axis=0)
    assert mine < rule  # seen: 0.94 of it
