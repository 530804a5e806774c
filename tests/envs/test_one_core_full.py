"""One core with everything on: failures, tenants, curves, links, elastic jobs, services, a fleet.

As ``test_one_core``: the vector environment, the single one and a bare row of kernels come to the
same, event for event. What actions mean is worked out here anew; which are legal is found by trying
each on a copy of the bare row. Halfway the bare row is exchanged for a copy of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs import CLUSTER, EnvConfig, Scenario, SchedulingEnv, SchedulingVectorEnv
from envs.gym import row_seeds
from envs.rows.buffers import configure_view
from envs.scenario import FleetPlan, configure_scenario
from envs.workloads.failures import FailureModel
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.change import episode
from orchestrator.kernels.lang.jit import entry as from_python
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.buffers import Source
from orchestrator.kernels.run.session import load_surroundings
from orchestrator.kernels.see.layout import Resizing, SizeChoice
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    JobKind,
    Placement,
    QuotaMode,
    Reason,
    Scaling,
    Status,
    Stream,
)
from orchestrator.kernels.state.records import TABLES
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.scheduling.rules import rule_named
from orchestrator.types import TenantSpec
from tests.envs.cases import MEMO, pick_legal, without_memo
from tests.envs.scaling_cases import busy_scenario, busy_trace
from tests.naive.random import random_below, random_bits
from tests.naive.surroundings import FullView
from tests.twins import kernel_calls

pytestmark = pytest.mark.property
_ROWS = 2
_STEPS = 30
_load, _begin_episode = load_surroundings, episode.begin_episode


@from_python
def _begin(rows, e, seed, source, index):
    windows = source.episode
    start = windows.starts[index]
    requests = windows.trace[start : start + windows.length]
    _begin_episode(rows[e], seed, windows.nodes, windows.standing, requests)
    _load(rows[e], windows, index)


@dataclass(frozen=True)
class Case:
    """An environment with everything, and what happens in it."""

    scenario: Scenario
    changes: dict[str, Any]
    starts: NDArray[np.int64]
    seeds: list[int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    base, trace = busy_scenario(draw(st.booleans())), busy_trace()
    assert base.services is not None
    quota = 16.0 / len(trace.tenants)
    heads = {
        "window": draw(st.integers(1, 5)),
        "episode_jobs": draw(st.integers(1, 16)),
        "placements": tuple(draw(st.lists(st.sampled_from(Placement), min_size=1, max_size=3))),
        "victims": draw(st.integers(1, 3)),
        "preemption_limit": draw(st.integers(0, 3)),
        "elastics": draw(st.integers(0, 3)),
        "resizing": draw(st.sampled_from(Resizing)),
        "resize_lock_seconds": draw(st.sampled_from([None, 0.0, 30.0])),
        "migrate": draw(st.booleans()),
        "services": draw(st.sampled_from([0, 3, 3])),
        "capacity_steps": draw(st.integers(0, 3)),
        "tenants": draw(st.integers(0, 3)),
        "racks": draw(st.integers(0, 2)),
        "fleet": draw(st.booleans()),
        "encoding": draw(st.sampled_from(["default", "cluster", "full"])),
        "min_run_seconds": draw(st.sampled_from([0.0, 60.0])),
        "advice": draw(
            st.sampled_from(["elastic_srtf+predictive", "fill_srsf+predictive", "reclaim+reactive"])
        ),
        "step_limit": draw(st.sampled_from([0, 0, 25])),
    }
    if not heads["services"] and not heads["capacity_steps"]:
        heads["autoscale"] = draw(st.sampled_from(Scaling))
    windows = {
        "up_window_s": draw(st.sampled_from([0.0, 120.0])),
        "down_window_s": draw(st.sampled_from([0.0, 180.0])),
    }
    scenario = replace(
        base,
        failures=FailureModel(rate_scale=draw(st.sampled_from([0.0, 300.0, 3000.0]))),
        tenants=tuple(TenantSpec(name, 1.0, quota) for name in trace.tenants[:4]),
        quota_mode=draw(st.sampled_from(QuotaMode)),
        uplinks_gbps=(draw(st.sampled_from([0.5, 20.0])),),
        services=replace(
            base.services, startup_seconds=draw(st.sampled_from([0.0, 90.0])), **windows
        ),
        fleet=FleetPlan(
            spare=draw(st.integers(0, 3)),
            least=draw(st.integers(0, 3)),
            provision_seconds=draw(st.sampled_from([0.0, 60.0, 130.0])),
            **windows,
        ),
    )
    return Case(
        scenario,
        heads,
        np.arange(0, 280, draw(st.integers(10, 90))),
        draw(st.lists(st.integers(0, 1 << 40), min_size=_ROWS, max_size=_ROWS)),
    )


class BareRow:
    """A row of cluster state, and nothing but kernels called on it."""

    def __init__(
        self, case: Case, config: EnvConfig, seed: int, source: Source, shape: Any
    ) -> None:
        self.scenario, self.trace, self.config = case.scenario, busy_trace(), config
        self.source = source
        self.seed, self.episode = int(row_seeds(seed, 1)[0]), 0
        self.state = allocate(replace(shape, envs=1))
        replace(config, quota_mode=case.scenario.quota_mode).write(self.state.rows)
        configure_view(self.state, config)
        configure_scenario(self.state, case.scenario)
        self.state.rows["autoscale"] = config.autoscale
        self.state.rows["step_limit"] = config.most_steps
        self.advisor = rule_named(str(config.advice)).to_record()
        self.scratch = np.zeros(max(shape.jobs, shape.workers), np.int32)
        self._trial = allocate(self.state.shape)

    @property
    def row(self) -> Any:
        return self.state.rows[0]

    def observation(self, e: int) -> dict[str, NDArray[Any]]:
        """Shapes, for the twin."""
        return {"action_mask": np.zeros(self.config.schema.actions.size)}

    def view(self) -> FullView:
        return FullView(self, 0)

    def become_a_copy(self) -> None:
        """Go on in other memory, in which another row has left its traces."""
        other: ClusterState = allocate(self.state.shape)
        for name in TABLES:
            getattr(other, name).view(np.uint8)[...] = 77
        entry.copy_row(self.state.rows, 0, other.rows, 0)
        self.state = other

    def reset(self) -> None:
        index = random_below(
            self.seed, Stream.WORKLOAD, self.episode, len(self.source.episode.starts)
        )
        seed = np.uint64(random_bits(self.seed, 0, self.episode))
        _begin(self.state.rows, 0, seed, self.source, index)
        self.episode += 1
        self._advance()

    def _advance(self) -> None:
        """To the next point at which the windows show something to choose."""
        while entry.advance(self.state.rows, 0, self.scratch) == Status.DECISION:
            assert_invariants(self.state, 0)
            if self.mask()[:-1].any():
                return
            self.state.rows["point_open"] = self.state.rows["scaling_open"] = 0
        assert_invariants(self.state, 0)

    def mask(self) -> NDArray[np.int8]:
        """What is legal, by trying it on a copy."""
        size, view = self.config.schema.actions.size, self.view()
        if self.row["done"]:
            return np.zeros(size, np.int8)
        return np.array([self._works(self.decode(a, view)) for a in range(size)], np.int8)

    def _works(self, action: tuple[int, int, int]) -> bool:
        entry.copy_row(self.state.rows, 0, self._trial.rows, 0)
        return entry.commit(self._trial.rows, 0, *action, self.scratch) == Reason.OK

    def step(self, action: int) -> Reason:
        decoded = self.decode(action, self.view())
        reason = Reason(entry.commit(self.state.rows, 0, *decoded, self.scratch))
        assert_invariants(self.state, 0)
        if reason == Reason.OK:
            self._advance()
        return reason

    def elastics(self, view: FullView) -> list[int]:
        may = [
            j
            for j in reversed(view.running)
            if view.asks[j].elastic and view.asks[j].kind != JobKind.SERVICE
        ]
        return may[: self.config.elastics]

    def decode(self, action: int, view: FullView) -> tuple[int, int, int]:
        """What a flat action says: (kind, job or service, value)."""
        for head in self.config.schema.actions.heads:
            if head.offset <= action < head.offset + head.size:
                return self._meaning(head.name, action - head.offset, view)
        return -1, 0, 0

    def _meaning(self, head: str, i: int, view: FullView) -> tuple[int, int, int]:
        def at(jobs: list[int], k: int) -> int:
            return jobs[k] if k < len(jobs) else NO_JOB

        placements, elastics = self.config.placements, self.elastics(view)
        if head == "place":
            j = at(view.window, i // len(placements))
            return ActionKind.PLACE, j, placements[i % len(placements)]
        if head == "preempt":
            return ActionKind.PREEMPT, at(view.victims, i), 0
        if head == "migrate":
            return ActionKind.MIGRATE, at(view.victims, i), placements[0]
        if head in ("shrink", "grow"):
            j = at(elastics, i)
            now = view.jobs[j].workers_now if j >= 0 else 0
            fewer = min(now - 1, view.asks[j].workers) if j >= 0 else 0
            return ActionKind.RESIZE, j, now + 1 if head == "grow" else fewer
        if head == "resize":
            j = at(elastics, i // len(SizeChoice))
            sizes = self._sizes(j, view) if j >= 0 else [0] * len(SizeChoice)
            return ActionKind.RESIZE, j, sizes[i % len(SizeChoice)]
        if head in ("scale_in", "scale_out"):
            return ActionKind.CAPACITY, 0, i + 1 if head == "scale_out" else -i - 1
        if head in ("fewer_replicas", "more_replicas"):
            return ActionKind.SERVICE, i, view.size(i) + (1 if head == "more_replicas" else -1)
        return ActionKind.WAIT, 0, 0

    def _sizes(self, j: int, view: FullView) -> list[int]:
        """Workers that each choice stands for; 0: what an earlier one stands for, or nothing."""
        now, ask = view.jobs[j].workers_now, view.asks[j]
        above = range(now + 1, self.state.shape.workers + 1)
        most = max((n for n in above if self._works((ActionKind.RESIZE, j, n))), default=now)
        fastest = (
            kernel_calls.fastest_size(self.state.rows, 0, j, self.scratch) if most > now else 0
        )
        meant = [max(ask.min_workers, 1), now - 1, ask.workers, now + 1, fastest]
        return [n if n not in meant[:i] and n != now else 0 for i, n in enumerate(meant)]

    def advised(self, mask: NDArray[np.int8]) -> int:
        """The legal action that goes the way of the advising rule, or -1."""
        if self.row["done"]:
            return -1
        kind, subject, value = entry.rule_action(self.state.rows, 0, self.advisor, self.scratch)
        view = self.view()
        for action in np.flatnonzero(mask):
            found, j, own = self.decode(int(action), view)
            same = found == kind and (
                j == subject or kind in (ActionKind.WAIT, ActionKind.CAPACITY)
            )
            if not same or (kind == ActionKind.PLACE and own != value):
                continue
            if kind == ActionKind.CAPACITY:
                steps = self.config.capacity_steps
                if own != max(-steps, min(value, steps)):
                    continue
            if kind in (ActionKind.RESIZE, ActionKind.SERVICE):
                now = view.size(j) if kind == ActionKind.SERVICE else view.jobs[j].workers_now
                exact = kind == ActionKind.RESIZE and self.config.resizing == Resizing.SIZES
                if own != value if exact else (own > now) != (value > now):
                    continue
            return int(action)
        return -1


def _assert_same_rows(one: Any, other: Any, what: str) -> None:
    for name in one.dtype.names:
        if name in MEMO:
            continue
        if not name.endswith("_at") or name in ("series_at", "forecast_at"):
            assert one[name] == other[name], f"{name} ({what})"


def _assert_same_tables(ours: ClusterState, e: int, theirs: ClusterState) -> None:
    row = ours.rows[e]
    for name, count in (
        ("job", int(row["num_jobs"])),
        ("node", int(row["num_nodes"])),
        ("service", int(row["num_services"])),
        ("tenant", int(row["num_tenants"])),
        ("queue", int(row["queue_len"])),
        ("running", int(row["running_len"])),
    ):
        mine, other = getattr(ours, name)[e, :count], getattr(theirs, name)[0, :count]
        if name == "job":
            mine, other = without_memo(mine), without_memo(other)
        np.testing.assert_array_equal(mine, other, err_msg=name)


def _draw(env: SchedulingVectorEnv, rng: np.random.Generator) -> NDArray[np.int64]:
    """Mostly legal actions, waiting among the more frequent; some of any kind."""
    mask = env.action_masks().copy()
    waits = (rng.random(_ROWS) < 0.3) & mask[:, -1]
    mask[waits, :-1] = False
    wild = rng.integers(-1, env.single_action_space.n + 2, size=_ROWS)
    return np.where(rng.random(_ROWS) < 0.12, wild, pick_legal(mask, rng))


class _Shells:
    """The same episodes three times."""

    def __init__(self, case: Case) -> None:
        given_ = {"trace": busy_trace(), "starts": case.starts, "scenario": case.scenario}
        given_ |= case.changes
        self.vector = SchedulingVectorEnv(
            CLUSTER, _ROWS, autoreset_mode=AutoresetMode.DISABLED, **given_
        )
        self.singles = [SchedulingEnv(CLUSTER, **given_) for _ in range(_ROWS)]
        session = self.vector.session
        self.bares = [
            BareRow(case, session.config, seed, session.source, session.state.shape)
            for seed in case.seeds
        ]
        self.vector.reset(seed=list(case.seeds))
        for single, bare, seed in zip(self.singles, self.bares, case.seeds, strict=True):
            single.reset(seed=seed)
            bare.reset()

    def reset(self, over: NDArray[np.bool_]) -> None:
        self.vector.reset(options={"reset_mask": over})
        for e in np.flatnonzero(over):
            self.singles[e].reset()
            self.bares[e].reset()

    def step(self, actions: NDArray[np.int64]) -> None:
        _, reward, _, _, infos = self.vector.step(actions)
        for e in range(_ROWS):
            _, paid, _, _, info = self.singles[e].step(actions[e])
            assert paid == reward[e]
            reason = self.bares[e].step(int(actions[e]))
            assert infos["reason"][e] == reason.name.lower()
            assert info["reason"] == reason.name.lower()

    def compare(self) -> None:
        state, buffers = self.vector.session.state, self.vector.session.buffers
        for e, (single, bare) in enumerate(zip(self.singles, self.bares, strict=True)):
            for what, other in (("single", single.session.state), ("bare", bare.state)):
                _assert_same_rows(state.rows[e], other.rows[0], what)
                _assert_same_tables(state, e, other)
            assert_invariants(state, e)
            mask = bare.mask()
            np.testing.assert_array_equal(buffers.mask[e], mask)
            assert buffers.advised[e] == bare.advised(mask)
            for name, part in single.session.observation(0).items():
                np.testing.assert_array_equal(self.vector.session.observation(e)[name], part, name)


@pytest.mark.slow
@settings(max_examples=max(settings().max_examples // 2, 1))  # each action is tried at each step
@given(case=cases(), seed=st.integers(0, 1 << 16))
def test_all_shells_do_the_same_with_everything_on(case: Case, seed: int) -> None:
    shells, rng = _Shells(case), np.random.default_rng(seed)
    for step in range(_STEPS):
        shells.compare()
        buffers = shells.vector.session.buffers
        over = buffers.terminated | buffers.truncated
        if over.any():
            shells.reset(over)
            continue
        if step in (3, _STEPS // 2):
            for bare in shells.bares:
                bare.become_a_copy()
        shells.step(_draw(shells.vector, rng))


@pytest.mark.parametrize("rule", ["elastic_srtf+predictive", "reclaim+reactive", "fcfs"])
def test_a_rule_s_replay_is_its_actions_one_by_one(rule: str) -> None:
    """Replayed by one call, and asked at each decision of a row; every invariant holds."""
    case = Case(busy_scenario(), {"advice": rule}, np.array([0, 90, 200]), [1, 2])
    case.changes.update(services=3, capacity_steps=2, elastics=4, victims=4, episode_jobs=30)
    shells = _Shells(case)
    session, bare = shells.vector.session, shells.bares[0]
    for index in (0, 1, 2):
        session.replay(rule_named(rule), np.array([index, index]))
        seed = np.uint64(random_bits(index, 0, 0))
        _begin(bare.state.rows, 0, seed, session.source, index)
        while entry.advance(bare.state.rows, 0, bare.scratch) == Status.DECISION:
            action = entry.rule_action(bare.state.rows, 0, bare.advisor, bare.scratch)
            reason = entry.commit(bare.state.rows, 0, *action, bare.scratch)
            assert_invariants(bare.state, 0)
            if reason == Reason.NOTHING_TO_WAIT_FOR:
                break
            assert reason == Reason.OK
        for name in ("log_hash", "log_count", "now_ms", "cost_milli_ms", "request_violations"):
            assert bare.row[name] == session.state.rows[0][name] == session.state.rows[1][name]
        assert bare.row["num_incidents"] > 0
