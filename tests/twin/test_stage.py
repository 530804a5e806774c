"""What is left out when futures are played changes nothing of what is told."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NEVER, NodeCode, Preemption, Status
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.forks import Until
from orchestrator.scheduling.rules import RULES
from orchestrator.twin import play as playing
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import Played, are_precise, play
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.stage import Stage, reserved, reserved_start

_HOUR_MS = 3_600_000
_JOBS, _NODES = 160, 6
_SHAPE = ClusterShape(
    envs=1, jobs=_JOBS, workers=4, nodes=_NODES, devices=4, tenants=1, log=0, kinds=16
)
every_rule = pytest.mark.parametrize("name", ["fcfs", "fifo", "sjf", "priority", "srtf", "drf"])


def crowded(seed: int) -> ClusterState:
    """A row in which some jobs have ended, some run and many wait; some have preempted others."""
    draw, state = np.random.default_rng(seed), allocate(_SHAPE)
    asks = np.zeros(_JOBS, REQUEST_DTYPE)
    asks["submit_ms"] = np.sort(draw.integers(0, 4 * _HOUR_MS, _JOBS))
    asks["duration_ms"] = draw.integers(1, 90, _JOBS) * 60_000
    asks["requested_ms"] = asks["duration_ms"] * draw.integers(1, 5, _JOBS)
    asks["workers"] = asks["min_workers"] = draw.choice([1, 1, 2, 4], _JOBS)
    asks["max_workers"] = np.where(draw.random(_JOBS) < 0.2, 4, asks["workers"])
    asks["elastic"] = asks["max_workers"] > asks["workers"]
    asks["gpus_per_worker"], asks["gpu_milli"] = draw.choice([1, 2, 4], _JOBS), 1000
    asks["checkpoint_ms"] = asks["restart_ms"] = 30_000
    asks["preemptible"], asks["priority"] = draw.random(_JOBS) < 0.5, draw.integers(0, 3, _JOBS)
    nodes = np.zeros(_NODES, NODE_DTYPE)
    nodes["state"], nodes["gpus"] = NodeCode.UP, 4
    state.rows["preemption_limit"] = 4
    entry.begin_episode(state.rows, 0, seed, nodes, asks)
    rule, buffer = RULES["priority"].to_record(), np.zeros(4, np.int32)
    scratch = np.zeros(_JOBS, np.int32)
    while int(state.rows[0]["now_ms"]) < 3 * _HOUR_MS:
        assert entry.advance(state.rows, 0, buffer) == Status.DECISION
        action = entry.rule_action(state.rows, 0, rule, scratch)
        assert entry.commit(state.rows, 0, *action, buffer) == 0
    assert state.rows[0]["queue_len"] > 20
    return state


@every_rule
def test_a_job_whose_end_is_known_when_it_starts_ends_then(name: str) -> None:
    settled = 0
    for seed in range(2):
        state, rule = crowded(seed), RULES[name]
        stage, full = Stage(state, Cast(rule)), Stage(state, Cast(rule))
        whole = Futures(past_of(state), TwinConfig(futures=2)).whole(stage.kept)[0]
        full.begin(whole)
        full.roll(Until.DRAINED)
        ends = full.ends_ms()
        for job in range(0, len(stage.kept), 3):
            if stage.kept[job] == 0 and not stage.waits[job]:
                continue  # the original's first job may be over
            stage.begin(whole)
            assert stage.roll_to_end_of(job) == ends[job], (seed, job)
            settled += stage.ends_ms()[job] == NEVER  # it was not played on
        if rule.preemption == Preemption.NONE:
            assert np.array_equal(stage.starts_ms()[job], full.starts_ms()[job])
    assert settled > 10


@every_rule
def test_one_reserved_start_is_that_of_all(name: str) -> None:
    state, rule = crowded(3), RULES[name]
    told = reserved(state, rule)
    rows, starts = told.rows, told.start_ms
    fresh = state.job[0, rows]["runs"] == 0  # of others the last start is told
    for row, start in zip(rows[fresh].tolist(), starts[fresh].tolist(), strict=True):
        if row > 0:
            assert reserved_start(state, rule, row) == start


def _same(one: Played, other: Played) -> bool:
    names = ("rows", "start_ms", "end_ms", "others")
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    return same and one.ahead_ms == other.ahead_ms


def test_several_threads_play_what_one_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    state = crowded(1)
    futures = Futures(past_of(state), TwinConfig(futures=12, horizon_hours=6.0))
    assert futures.anybody_comes
    waits = int(state.queue[0, 5]["job"])
    for row in (None, waits):
        found = []
        for hands in (1, 3):
            monkeypatch.setattr(playing, "_hands", lambda hands=hands: hands)
            found.append(play(state, Cast(RULES["priority"]), futures, row=row))
        assert found[0].futures == 12
        assert _same(*found)


def test_futures_are_enough_when_their_quantiles_are_precise() -> None:
    state = crowded(2)
    job = int(state.queue[0, int(state.rows[0]["queue_len"]) - 1]["job"])
    cast, found = Cast(RULES["fifo"]), dict[float, Played]()
    for error in (0.0, 0.9):
        config = TwinConfig(futures=80, horizon_hours=6.0, error=error)
        found[error] = play(state, cast, Futures(past_of(state), config), row=job)
    assert found[0.0].futures == 80
    assert found[0.9].futures == 50
    assert np.array_equal(found[0.9].start_ms, found[0.0].start_ms[:50])


def test_precision_is_that_of_the_order_of_the_futures() -> None:
    draw = np.random.default_rng(0)
    times = (100 + 20 * draw.standard_normal((4000, 1))) * _HOUR_MS
    found = times.astype(np.int64)
    # The standard error of the 10 % quantile of n normal variables is 1.71 sigma / sqrt(n).
    for count in (100, 400, 1600):
        error = 1.71 * 20 / np.sqrt(count) / 100
        assert are_precise(found[:count], 0, 1.5 * error)
        assert not are_precise(found[:count], 0, 0.5 * error)
    assert are_precise(np.full((50, 3), NEVER), 0, 0.01)
    found[::2] = NEVER
    assert not are_precise(found[:100], 0, 0.5)
