"""One core: the vector environment, the single one and a bare row of kernels do the same.

The bare row is driven through the kernels' entry points; what a flat action means, which window an
episode plays and which seed it gets are worked out here anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs import CLUSTER, JOB_ORDERING, EnvConfig, SchedulingEnv, SchedulingVectorEnv
from envs.gym import row_seeds
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from envs.workloads.readers.openb import typical_pods
from orchestrator.engine.records import node_records
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.packing import load_typical
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    EventKind,
    Information,
    Placement,
    Reason,
    RuleKey,
    Status,
    Stream,
)
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from tests.envs.cases import pick_legal
from tests.naive.features import NaiveView
from tests.naive.random import random_below, random_bits
from tests.twins import kernel_calls

pytestmark = pytest.mark.property
_ROWS = 2
_NODES = 3


@dataclass(frozen=True)
class Scenario:
    """A workload, what befalls it, and an environment over it."""

    trace: Trace
    base: EnvConfig
    changes: dict[str, Any]
    befalls: NDArray[np.void]
    starts: NDArray[np.int64]
    seeds: list[int]


_INCIDENT = st.tuples(
    st.integers(0, 40_000).map(lambda s: 1000 * s),
    st.sampled_from([EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY, EventKind.NODE_DRAIN]),
    st.integers(0, _NODES - 1),
)
_ORDERING = st.fixed_dictionaries(
    {
        "window": st.integers(1, 6),
        "episode_jobs": st.integers(1, 14),
        "backfill": st.booleans(),
        "skip_forced": st.booleans(),
        "window_order": st.sampled_from([RuleKey.FCFS, RuleKey.SJF]),
        "information": st.sampled_from([Information.ESTIMATE, Information.NONE]),
        "step_limit": st.sampled_from([0, 0, 9]),
    }
)
_CLUSTER = st.fixed_dictionaries(
    {
        "window": st.integers(1, 5),
        "episode_jobs": st.integers(1, 14),
        "victims": st.integers(0, 3),
        "preemption_limit": st.integers(0, 3),
        "min_run_seconds": st.sampled_from([0.0, 60.0]),
        "placements": st.lists(st.sampled_from(Placement), min_size=1, max_size=3).map(tuple),
        "window_order": st.sampled_from([RuleKey.FCFS, RuleKey.SJF]),
        "step_limit": st.sampled_from([0, 0, 15]),
    }
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    seed, load = draw(st.integers(0, 50)), draw(st.sampled_from([0.5, 1.5, 4.0]))
    pool = draw(st.booleans())
    befalls: list[Any] = []
    if pool:
        trace = lublin_feitelson(60, seed, processors=16, load=load)
    else:
        trace = gpu_cluster(60, seed, nodes=_NODES, gpus_per_node=2, load=load)
        befalls = sorted(draw(st.lists(_INCIDENT, max_size=8)))
    ordering = pool or draw(st.booleans())
    return Scenario(
        trace=trace,
        base=JOB_ORDERING if ordering else CLUSTER,
        changes=draw(_ORDERING if ordering else _CLUSTER),
        befalls=np.array(befalls, INCIDENT_DTYPE),
        starts=np.arange(0, 46, draw(st.integers(1, 20))),
        seeds=draw(st.lists(st.integers(0, 1 << 40), min_size=_ROWS, max_size=_ROWS)),
    )


class BareRow:
    """A row of cluster state, and nothing but kernels called on it."""

    def __init__(self, scenario: Scenario, config: EnvConfig, seed: int) -> None:
        self.scenario, self.trace, self.config = scenario, scenario.trace, config
        self.seed, self.episode = int(row_seeds(seed, 1)[0]), 0
        workers = int(scenario.trace.requests["workers"].max())
        # Gradients of fragmentation are of typical pods: without them FGD places by other keys.
        measured = Placement.FGD in config.placements
        self.typical = typical_pods(scenario.trace.requests) if measured else None
        self.state = allocate(
            ClusterShape(
                envs=1,
                jobs=config.episode_jobs,
                workers=workers,
                nodes=len(scenario.trace.nodes),
                devices=max(node.gpus for node in scenario.trace.nodes),
                incidents=len(scenario.befalls),
                typical=0 if self.typical is None else len(self.typical),
            )
        )
        config.write(self.state.rows)
        self.scratch = np.zeros(workers, np.int32)

    @property
    def row(self) -> Any:
        return self.state.rows[0]

    def observation(self, e: int) -> dict[str, NDArray[Any]]:
        """Shapes, for the twin."""
        return {"action_mask": np.zeros(self.config.schema.actions.size)}

    def reset(self) -> None:
        starts = self.scenario.starts
        index = random_below(self.seed, Stream.WORKLOAD, self.episode, len(starts))
        self._begin(int(starts[index]))
        if not self._skip_forced() and self.config.skip_forced:
            self._begin(int(starts[index]))  # every decision was forced: the first is asked
            entry.advance(self.state.rows, 0, self.scratch)
        self._pass_over()
        self.episode += 1

    def _begin(self, start: int) -> None:
        requests = self.trace.requests[start : start + self.config.episode_jobs]
        seed = np.uint64(random_bits(self.seed, 0, self.episode))
        entry.begin_episode(self.state.rows, 0, seed, node_records(self.trace.nodes), requests)
        kernel_calls.load_incidents(self.state.rows, 0, self.scenario.befalls)
        if self.typical is not None:
            load_typical(self.state.rows, 0, self.typical)

    def _skip_forced(self) -> bool:
        """Advance to a decision point with a choice; False if the end comes first."""
        while entry.advance(self.state.rows, 0, self.scratch) == Status.DECISION:
            assert_invariants(self.state, 0)
            skips = self.config.skip_forced and self.config.commitment
            if not skips or self.row["queue_len"] > 1:
                return True
            self._commit(ActionKind.PLACE, int(self.state.queue[0, 0]["job"]), 0)
        return False

    def _pass_over(self) -> None:
        """Go on while the window shows nothing to choose."""
        while not self.row["done"]:
            mask = self.mask()
            wait = not self.config.commitment
            if mask[: len(mask) - wait].any():
                return
            self.state.rows["point_open"] = 0
            entry.advance(self.state.rows, 0, self.scratch)

    def _commit(self, kind: int, job: int, generator: int) -> Reason:
        return Reason(entry.commit(self.state.rows, 0, kind, job, generator, self.scratch))

    def mask(self) -> NDArray[np.int8]:
        mask: NDArray[np.int8] = NaiveView(self, 0).observation()["action_mask"]
        return mask

    def step(self, action: int) -> Reason:
        reason = self._commit(*self._decode(action))
        assert_invariants(self.state, 0)
        if reason == Reason.OK:
            self._skip_forced()
            self._pass_over()
        assert_invariants(self.state, 0)
        return reason

    def _decode(self, action: int) -> tuple[int, int, int]:
        """What a flat action says: (kind, job, generator)."""
        view, placements = NaiveView(self, 0), self.config.placements
        place, victims = self.config.window * len(placements), self.config.victims
        if 0 <= action < place:
            i, k = divmod(action, len(placements))
            job = view.window[i] if i < len(view.window) else NO_JOB
            return ActionKind.PLACE, job, placements[k]
        if place <= action < place + victims:
            v = action - place
            return ActionKind.PREEMPT, view.victims[v] if v < len(view.victims) else NO_JOB, 0
        if action == place + victims and not self.config.commitment:
            return ActionKind.WAIT, NO_JOB, 0
        return -1, 0, 0


def _assert_same_rows(vector: SchedulingVectorEnv, e: int, single: SchedulingEnv) -> None:
    ours, theirs = vector.session.state, single.session.state
    assert ours.rows.dtype.names is not None
    for name in ours.rows.dtype.names:
        if not name.endswith("_at"):
            assert ours.rows[e][name] == theirs.rows[0][name], name
    count = int(ours.rows[e]["num_jobs"])
    np.testing.assert_array_equal(ours.job[e, :count], theirs.job[0, :count])
    np.testing.assert_array_equal(ours.node[e], theirs.node[0])
    assert_invariants(ours, e)
    assert_invariants(theirs, 0)


_COMPARED = (
    "log_hash",
    "log_count",
    "now_ms",
    "point",
    "done",
    "committed",
    "illegal_actions",
    "completed_jobs",
    "preemptions",
    "interruptions",
    "job_ms",
    "wait_ms",
    "busy_unit_ms",
    "lost_unit_ms",
    "settled_excess",
)


def _assert_same_as_bare(vector: SchedulingVectorEnv, e: int, bare: BareRow) -> None:
    for name in _COMPARED:
        assert vector.session.state.rows[e][name] == bare.row[name], name
    np.testing.assert_array_equal(vector.session.buffers.mask[e], bare.mask())


def _draw(env: SchedulingVectorEnv, rng: np.random.Generator) -> NDArray[np.int64]:
    """Mostly legal actions; some of any kind."""
    legal = pick_legal(env.action_masks(), rng)
    wild = rng.integers(-1, env.single_action_space.n + 2, size=_ROWS)
    return np.where(rng.random(_ROWS) < 0.15, wild, legal)


_FRAGMENTS = Scenario(
    trace=gpu_cluster(60, 0, nodes=_NODES, gpus_per_node=2, load=0.5),
    base=CLUSTER,
    changes={"window": 1, "episode_jobs": 10, "victims": 0, "placements": (Placement.FGD,)},
    befalls=np.zeros(0, INCIDENT_DTYPE),
    starts=np.arange(46),
    seeds=[0, 0],
)
"""A gradient of fragmentation decides, and would not without the typical pods."""


@pytest.mark.slow
@given(scenario=scenarios(), seed=st.integers(0, 1 << 16))
@example(scenario=_FRAGMENTS, seed=0)
def test_all_shells_do_the_same(scenario: Scenario, seed: int) -> None:
    given_ = {
        "trace": scenario.trace,
        "starts": scenario.starts,
        "incidents": scenario.befalls,
        **scenario.changes,
    }
    vector = SchedulingVectorEnv(
        scenario.base, _ROWS, autoreset_mode=AutoresetMode.DISABLED, **given_
    )
    singles = [SchedulingEnv(scenario.base, **given_) for _ in range(_ROWS)]
    bares = [BareRow(scenario, vector.config, s) for s in scenario.seeds]
    vector.reset(seed=list(scenario.seeds))
    for e in range(_ROWS):
        singles[e].reset(seed=scenario.seeds[e])
        bares[e].reset()
    rng = np.random.default_rng(seed)
    for _ in range(45):
        for e in range(_ROWS):
            _assert_same_rows(vector, e, singles[e])
            _assert_same_as_bare(vector, e, bares[e])
        over = vector.session.buffers.terminated | vector.session.buffers.truncated
        if over.any():
            vector.reset(options={"reset_mask": over})
            for e in np.flatnonzero(over):
                singles[e].reset()
                bares[e].reset()
            continue
        actions = _draw(vector, rng)
        _, reward, _, _, infos = vector.step(actions)
        for e in range(_ROWS):
            _, paid, _, _, info = singles[e].step(actions[e])
            assert paid == reward[e]
            reason = bares[e].step(int(actions[e]))
            assert infos["reason"][e] == reason.name.lower()
            assert info["reason"] == reason.name.lower()


def test_the_same_episode_has_the_same_hash_in_any_company() -> None:
    """A row's log does not depend on how many rows there are, nor on where it stands."""
    trace = gpu_cluster(80, 1, nodes=_NODES, gpus_per_node=2, load=1.5)
    hashes = []
    for rows, at in ((1, 0), (5, 3), (2, 1)):
        env = SchedulingVectorEnv(CLUSTER, rows, trace=trace, part="all", episode_jobs=30)
        seeds = list(range(100, 100 + rows))
        seeds[at] = 7
        env.reset(seed=seeds)
        rng = np.random.default_rng(0)
        ended = np.zeros(rows, bool)
        while not ended[at]:
            mask = env.action_masks()
            actions = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)  # the last legal ones
            actions[at] = pick_legal(mask[at : at + 1], rng)[0]
            _, _, ended, _, _ = env.step(actions)
        hashes.append(int(env.session.state.rows[at]["log_hash"]))
    assert len(set(hashes)) == 1
