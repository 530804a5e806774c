"""An illegal action changes nothing, is counted and reported; or costs, is replaced, or raises."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

from envs import SchedulingEnv, Session
from envs.sb3 import SchedulingVecEnv
from orchestrator.errors import IllegalActionError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run.buffers import RewardForm
from orchestrator.kernels.state.codes import Reason
from tests.envs.cases import (
    CASES,
    MEMO,
    EnvCase,
    gpu_trace,
    pick_legal,
    table_bytes,
    without_memo,
)
from tests.envs.scaling_cases import SCALING_CASES

_INT64 = np.iinfo(np.int64)
_EVERY = {**CASES, **SCALING_CASES}
case_names = st.sampled_from(sorted(_EVERY))
wild_actions = st.one_of(
    st.integers(-3, 60), st.sampled_from([_INT64.min, _INT64.max, 1 << 32, -(1 << 31)])
)


def _memory(session: Session) -> dict[str, bytes]:
    """All that an illegal action must leave alone: tables, scalars, what is seen, what is owed.

    Not what is remembered of nodes: whether a move would fit is tried by lifting the job.
    """
    kept = table_bytes(session, 0)
    for name in MEMO:
        kept.pop(name)
    kept["job"] = without_memo(session.state.job[0]).tobytes()
    counted = {"illegal_actions", "steps", "reason", "reward", "truncated"}
    kept |= {
        f"buffers.{name}": array[0].tobytes()
        for name, array in session.buffers._asdict().items()
        if name not in counted
    }
    kept.pop("illegal_actions")
    return kept


def _is_legal(session: Session, action: int) -> bool:
    mask = session.buffers.mask[0]
    return 0 <= action < len(mask) and mask[action] != 0


def _walk(session: Session, steps: int, seed: int) -> None:
    """Go somewhere by legal actions."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        if session.state.rows[0]["done"] == 0:
            session.step(pick_legal(session.buffers.mask, rng))


@given(
    name=case_names,
    seed=st.integers(0, 1000),
    steps=st.integers(0, 40),
    actions=st.lists(wild_actions, min_size=1, max_size=12),
)
def test_illegal_actions_change_nothing(
    name: str, seed: int, steps: int, actions: list[int]
) -> None:
    session = _EVERY[name].session(step_limit=0, illegal_limit=0)
    session.reseed(np.array([seed], np.uint64))
    session.reset()
    _walk(session, steps, seed)
    for action in actions:
        if session.state.rows[0]["done"]:
            return
        before, count = _memory(session), int(session.state.rows[0]["illegal_actions"])
        taken = int(session.buffers.steps[0])
        legal = _is_legal(session, action)
        session.step(np.array([action]))
        assert session.buffers.steps[0] == taken + 1
        assert (session.buffers.reason[0] == Reason.OK) == legal
        assert session.state.rows[0]["illegal_actions"] == count + (not legal)
        if not legal:
            assert _memory(session) == before
            assert session.buffers.reward[0] == 0
            assert not session.buffers.terminated[0]
        assert_invariants(session.state, 0)


@pytest.mark.parametrize("case", _EVERY.values(), ids=_EVERY)
def test_the_mask_is_exactly_what_is_legal(case: EnvCase) -> None:
    """Every action is tried at many decision points: it is refused unless the mask allows it."""
    session = case.session(step_limit=0, illegal_limit=0)
    session.reset()
    rng = np.random.default_rng(1)
    for _ in range(500):
        if session.state.rows[0]["done"]:
            break
        mask = session.buffers.mask[0].copy()
        before = _memory(session)
        for action in np.flatnonzero(mask == 0):
            session.step(np.array([action]))
            assert session.buffers.reason[0] != Reason.OK, session.schema.actions.describe(action)
        assert _memory(session) == before
        session.step(pick_legal(session.buffers.mask, rng))
        assert session.buffers.reason[0] == Reason.OK


@pytest.mark.parametrize("name", ["ordering", "cluster"])
def test_info_reports_what_was_refused(name: str) -> None:
    env = CASES[name].make()
    env.reset(seed=0)
    size = int(env.action_space.n)
    for k, action in enumerate((-1, size, size + 7, _INT64.max, _INT64.min)):
        _, reward, terminated, truncated, info = env.step(np.int64(action))
        assert info["reason"] == "unknown_action"
        assert info["illegal_actions"] == k + 1
        assert (reward, terminated, truncated) == (0.0, False, False)
    hidden = int(np.flatnonzero(env.action_masks() == 0)[0])
    _, _, _, _, info = env.step(np.int64(hidden))
    assert info["reason"] in {"not_queued", "no_capacity"}
    _, _, _, _, info = env.step(np.int64(np.flatnonzero(env.action_masks())[0]))
    assert info["reason"] == "ok"
    assert info["illegal_actions"] == 6
    _, info = env.reset()
    assert info["illegal_actions"] == 0


@pytest.mark.parametrize("name", ["ordering", "cluster", "cluster-incidents"])
def test_environments_may_raise(name: str) -> None:
    env = CASES[name].make(illegal="raise")
    env.reset(seed=0)
    illegal = int(np.flatnonzero(env.action_masks() == 0)[0])
    before = _memory(env.session)
    for action, words in ((illegal, "place job"), (-1, "no such action"), (10**9, "no such")):
        with pytest.raises(IllegalActionError, match=words):
            env.step(np.int64(action))
        assert _memory(env.session) == before
    legal = int(np.flatnonzero(env.action_masks())[0])
    assert env.step(np.int64(legal))[4]["reason"] == "ok"
    rows = CASES[name].make_vec(3, illegal="raise")
    rows.reset(seed=0)
    actions = pick_legal(rows.action_masks(), np.random.default_rng(0))
    actions[1] = -5
    with pytest.raises(IllegalActionError, match=r"row 1: .*unknown_action"):
        rows.step(actions)


def test_who_is_over_is_over_whoever_raises() -> None:
    env = CASES["ordering"].make(illegal="raise", illegal_limit=1)
    env.reset(seed=0)
    with pytest.raises(IllegalActionError):
        env.step(np.int64(-1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.int64(0))
    for mode in AutoresetMode:
        rows = CASES["cluster"].make_vec(2, illegal="raise", step_limit=1, autoreset_mode=mode)
        rows.reset(seed=0)
        actions = pick_legal(rows.action_masks(), np.random.default_rng(0))
        actions[1] = -1
        with pytest.raises(IllegalActionError, match="row 1: "):
            rows.step(actions)
        steps = rows.session.buffers.steps
        assert steps[0] == (0 if mode == AutoresetMode.SAME_STEP else 1)
        if mode == AutoresetMode.DISABLED:
            with pytest.raises(gymnasium.error.ResetNeeded, match="in rows"):
                rows.step(actions)
        elif mode == AutoresetMode.NEXT_STEP:
            assert rows.step(np.zeros(2, np.int64) + rows.action_masks().argmax(1))[1][0] == 0.0
            assert steps[0] == 0


def test_a_job_preempted_here_may_not_be_placed_here() -> None:
    """It is shown, and masked, until the next decision point."""
    requests = gpu_trace().requests.copy()
    requests["checkpoint_ms"] = 0  # it queues again at once
    trace = replace(gpu_trace(), requests=requests)
    env = CASES["cluster"].make(trace=trace, window=24, min_run_seconds=0.0)
    place = 24 * len(env.config.placements)
    blocked = 0
    for seed in range(4):
        env.reset(seed=seed)
        rng = np.random.default_rng(seed)
        over = False
        for _ in range(200):
            if over:
                break
            mask = env.action_masks()
            action = int(pick_legal(mask[None], rng)[0])
            if mask[place:-1].any():
                action = place + int(np.flatnonzero(mask[place:-1])[0])
                victim = int(env.session.buffers.victim_jobs[0, action - place])
            point = int(env.session.state.rows[0]["point"])
            over = bool(env.step(np.int64(action))[2])
            window = env.session.buffers.window[0, : env.session.buffers.shown[0, 0]].tolist()
            here = int(env.session.state.rows[0]["point"]) == point and action >= place
            if here and not over and action < place + env.config.victims and victim in window:
                at = window.index(victim) * len(env.config.placements)
                assert not env.action_masks()[at : at + len(env.config.placements)].any()
                _, _, _, _, info = env.step(np.int64(at))
                assert info["reason"] == "blocked"
                blocked += 1
    assert blocked > 0


def test_preemptions_at_one_point_are_bounded() -> None:
    env = CASES["cluster"].make(preemption_limit=1, min_run_seconds=0.0)
    place = env.config.window * len(env.config.placements)
    rng = np.random.default_rng(0)
    seen = 0
    env.reset(seed=0)
    over = False
    for _ in range(300):
        if over:
            break
        mask = env.action_masks()
        row = env.session.state.rows[0]
        if row["preemptions_here"] >= 1:
            assert not mask[place:-1].any()
            seen += 1
        action = int(pick_legal(mask[None], rng)[0])
        if mask[place:-1].any():
            action = place + int(np.flatnonzero(mask[place:-1])[0])
        over = bool(env.step(np.int64(action))[2])
    assert seen > 0


# --- what becomes of them ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cluster", "ordering-terminal", "autoscaling"])
def test_a_penalty_is_all_that_it_costs(name: str) -> None:
    free, dear = (_EVERY[name].make(illegal=how) for how in ("noop", "penalty"))
    costly = _EVERY[name].make(illegal="penalty", illegal_penalty=7.5, illegal_limit=2)
    for env in (free, dear, costly):
        env.reset(seed=0)
        env.step(np.int64(env.action_masks().argmax()))
    np.testing.assert_equal(dear.step(-1)[0], free.step(-1)[0])
    assert dear.step(-1)[1] == free.step(-1)[1] - 1.0
    assert costly.step(-1)[1:4] == (-7.5, False, False)
    _, reward, _, truncated, info = costly.step(-1)
    assert truncated
    assert info["reason"] == "unknown_action"
    owed = costly.session.buffers.metrics[0] @ costly.session.source.prices.weights
    terminal = costly.config.reward.form == RewardForm.TERMINAL
    assert reward == pytest.approx(-7.5 - owed * terminal)
    action = np.int64(free.action_masks().argmax())
    assert dear.step(action)[1] == free.step(action)[1]
    rows = _EVERY[name].make_vec(3, illegal="penalty", illegal_penalty=2.0)
    rows.reset(seed=0)
    actions = pick_legal(rows.action_masks(), np.random.default_rng(0))
    actions[1] = -1
    assert rows.step(actions)[1][1] == -2.0


def _fallback(env: SchedulingEnv) -> int:
    """The advised action, or the first legal one."""
    advised = int(env.session.buffers.advised[0])
    return advised if advised >= 0 else int(env.action_masks().argmax())


@pytest.mark.parametrize("name", ["ordering", "cluster-incidents", "full-advised", "autoscaling"])
def test_another_action_takes_its_place(name: str) -> None:
    env, plain = (_EVERY[name].make(illegal=how, step_limit=30) for how in ("fallback", "noop"))
    env.reset(seed=1)
    plain.reset(seed=1)
    over, refused = False, 0
    rng = np.random.default_rng(0)
    while not over:
        mask = plain.action_masks()
        action = int(rng.integers(-1, len(mask) + 1))
        legal = 0 <= action < len(mask) and bool(mask[action])
        refused += not legal
        expected = plain.step(action if legal else _fallback(plain))
        found = env.step(action)
        np.testing.assert_equal(found[0], expected[0])
        assert found[1:4] == expected[1:4]
        assert (found[4].pop("reason") == "ok") == legal
        assert found[4].pop("illegal_actions") == refused
        for told in ("reason", "illegal_actions"):
            expected[4].pop(told)
        assert found[4] == expected[4]
        over = found[2] or found[3]
    assert refused > 3
    assert env.session.buffers.steps[0] == plain.session.buffers.steps[0]


def test_rows_fall_back_each_for_itself() -> None:
    rows, plain = (CASES["cluster"].make_vec(4, illegal=how) for how in ("fallback", "noop"))
    rows.reset(seed=2)
    plain.reset(seed=2)
    for k in range(40):
        actions = pick_legal(plain.action_masks(), np.random.default_rng(k))
        wrong = actions.copy()
        wrong[k % 4] = -1
        actions[k % 4] = plain.action_masks()[k % 4].argmax()
        found, expected = rows.step(wrong), plain.step(actions)
        for k_part in range(4):
            np.testing.assert_equal(found[k_part], expected[k_part])
    rows.session.close()


def test_stable_baselines_may_raise_too() -> None:
    rows = SchedulingVecEnv(CASES["cluster"].session(2, illegal="raise", step_limit=1))
    rows.reset()
    actions = rows.action_masks().argmax(axis=1)
    actions[0] = -1
    with pytest.raises(IllegalActionError, match=r"row 0: .*unknown_action"):
        rows.step(actions)
    assert rows.session.buffers.steps[1] == 0  # its episode ended, and another has begun
