"""Who waits stands in line as a plain sort has it, and what is remembered changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.cycle import rank_queue
from orchestrator.kernels.state.codes import NodeCode, Preemption, QuotaMode, RuleKey, Status
from orchestrator.kernels.state.records import (
    JOB_MEMO_FIELDS,
    MEMO_TABLES,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TENANT_DTYPE,
)
from orchestrator.kernels.state.row import MEMO_FIELDS, ClusterShape, ClusterState, allocate
from orchestrator.scheduling.rules import RULES, Rule
from tests.twins.kernel_calls import load_tenants, worker_slots

_JOBS, _NODES = 120, 12
_SHAPE = ClusterShape(
    envs=1, jobs=_JOBS, workers=4, nodes=_NODES, devices=4, tenants=3, log=0, kinds=16
)
_NAMES = ("srtf", "srsf", "las", "tiresias", "priority", "reclaim", "drf")
_DRAWN = [
    Rule("random", RuleKey.RANDOM, preemption=Preemption.SCORE),
    Rule("wfp3", RuleKey.WFP3, preemption=Preemption.PRIORITY),
    Rule("fair", RuleKey.DRF, preemption=Preemption.RECLAIM, reservation=True),
    Rule("strict", RuleKey.SRTF, preemption=Preemption.SCORE, blocking=True),
    Rule("easy", RuleKey.FCFS, reservation=True),
    Rule("aged", RuleKey.PRIORITY, preemption=Preemption.PRIORITY, reservation=True),
]
_RULES = {rule.name: rule for rule in (*(RULES[name] for name in _NAMES), *_DRAWN)}
every_rule = pytest.mark.parametrize("rule", _RULES.values(), ids=_RULES)


def _requests(draw: np.random.Generator) -> NDArray[np.void]:
    asks = np.zeros(_JOBS, REQUEST_DTYPE)
    asks["submit_ms"] = np.cumsum(draw.choice([0, 0, 500, 4000], _JOBS))
    asks["duration_ms"] = draw.choice([3000, 9000, 20_000, 41_000], _JOBS)
    asks["requested_ms"] = draw.choice([3000, 9000, 20_000, 60_000], _JOBS)
    asks["workers"] = asks["max_workers"] = draw.choice([1, 1, 1, 2, 4], _JOBS)
    asks["min_workers"] = asks["workers"]
    asks["gpus_per_worker"] = draw.choice([1, 1, 2, 4], _JOBS)
    asks["gpu_milli"] = np.where(draw.random(_JOBS) < 0.2, 500, 1000)
    asks["checkpoint_ms"] = draw.choice([0, 1000], _JOBS)
    asks["restart_ms"] = draw.choice([0, 1500], _JOBS)
    asks["preemptible"] = draw.random(_JOBS) < 0.8
    asks["priority"] = draw.integers(0, 4, _JOBS)
    asks["tenant"] = draw.integers(0, 4, _JOBS)
    asks["storage_mib"] = draw.choice([0, 5], _JOBS)
    return asks


def _begin(seed: int, quota_mode: QuotaMode = QuotaMode.HARD) -> ClusterState:
    draw, state = np.random.default_rng(seed), allocate(_SHAPE)
    nodes = np.zeros(_NODES, NODE_DTYPE)
    nodes["state"], nodes["gpus"] = NodeCode.UP, 4
    nodes["cpu_cap_milli"], nodes["memory_cap_mib"] = 16_000, 65_536
    state.rows["preemption_limit"], state.rows["quota_mode"] = 6, quota_mode
    state.rows["ageing_ms"] = 7000 if seed & 1 else 0
    state.rows["scanned_jobs"] = 0
    entry.begin_episode(state.rows, 0, seed, nodes, _requests(draw))
    tenants = np.zeros(3, TENANT_DTYPE)
    tenants["quota_units"] = [8000, 16_000, 40_000]
    tenants["storage_quota_mib"] = [0, 40, 0]
    load_tenants(state.rows, 0, tenants)
    return state


def _blank(state: ClusterState) -> None:
    for name in MEMO_TABLES:
        getattr(state, name)[0] = np.zeros(1, getattr(state, name).dtype)
    for name in MEMO_FIELDS:
        state.rows[name][0] = 0
    for name in JOB_MEMO_FIELDS:
        state.job[name][0] = 0


def _in_line(state: ClusterState) -> list[int]:
    """Who waits, as the line has them."""
    row = state.rows[0]
    stand = state.line[0, row["line_side"], : row["line_len"]]["job"].tolist()
    queued = set(state.queue[0, : row["queue_len"]]["job"].tolist())
    return [j for j in stand if j in queued]  # who has started since may still stand there


def _sorted(state: ClusterState, rule: Rule) -> list[int]:
    count = int(state.rows[0]["queue_len"])
    tiers, scores = np.empty((2, count))
    rank_queue(state.rows, 0, rule.to_record(), tiers, scores)
    return state.queue[0, np.lexsort((scores, tiers))]["job"].tolist()


@every_rule
def test_the_line_is_in_the_order_of_a_plain_sort(rule: Rule) -> None:
    state, record = _begin(3), rule.to_record()
    buffer, scratch = np.zeros(4, np.int32), np.zeros(_JOBS, np.int32)
    longest = 0
    while entry.advance(state.rows, 0, buffer) == Status.DECISION:
        expected = _sorted(state, rule)
        action = entry.rule_action(state.rows, 0, record, scratch)
        assert _in_line(state) == expected
        longest = max(longest, len(expected))
        if entry.commit(state.rows, 0, *action, buffer) != 0:
            break
    assert longest > 10


def _outcome(state: ClusterState) -> tuple[int, ...]:
    row = state.rows[0]
    return tuple(int(row[name]) for name in ("log_hash", "decisions", "preemptions", "now_ms"))


def _played(rule: Rule, seed: int, quota_mode: QuotaMode, forget: int) -> tuple[int, ...]:
    """Roll to the end, asked one by one, and blank what is remembered before every so many."""
    state, record = _begin(seed, quota_mode), rule.to_record()
    buffer, scratch = np.zeros(4, np.int32), np.zeros(_JOBS, np.int32)
    count = 0
    while entry.advance(state.rows, 0, buffer) == Status.DECISION:
        count += 1
        if forget and count % forget == 0:
            _blank(state)
        action = entry.rule_action(state.rows, 0, record, scratch)
        assert entry.rule_action(state.rows, 0, record, scratch) == action
        if entry.commit(state.rows, 0, *action, buffer) != 0:
            break
    return _outcome(state)


@every_rule
@pytest.mark.parametrize("quota_mode", QuotaMode)
def test_a_walk_that_goes_on_finds_what_one_from_the_beginning_finds(
    rule: Rule, quota_mode: QuotaMode
) -> None:
    """A roll in one go lets walks go on; asked one by one, or without a memo, each begins anew."""
    preempted = 0
    for seed in range(6):
        state = _begin(seed, quota_mode)
        buffer, scratch = np.zeros(4, np.int32), np.zeros(_JOBS, np.int32)
        entry.replay(state.rows, 0, rule.to_record(), buffer, scratch)
        expected = _played(rule, seed, quota_mode, 1)
        assert _played(rule, seed, quota_mode, 0) == expected
        assert _played(rule, seed, quota_mode, 3) == expected
        assert _outcome(state)[:3] == expected[:3]
        preempted += expected[2]
    if rule.preemption == Preemption.NONE:
        assert preempted == 0
    elif rule.key != RuleKey.TIRESIAS:  # its queues are hours long: nobody gets into another one
        assert preempted > 0


@pytest.mark.parametrize("name", ["srtf", "priority", "reclaim"])
def test_what_was_only_thought_of_is_no_touch_of_a_node(name: str) -> None:
    """What is remembered of nodes stays as good as it was, and is what a scan finds."""
    state, record = _begin(2), RULES[name].to_record()
    buffer, scratch = np.zeros(4, np.int32), np.zeros(_JOBS, np.int32)
    looked = 0
    while entry.advance(state.rows, 0, buffer) == Status.DECISION:
        touched, walk = int(state.rows[0]["touched"]), int(state.rows[0]["walks"])
        action = entry.rule_action(state.rows, 0, record, scratch)
        assert int(state.rows[0]["touched"]) == touched
        looked += int(state.rows[0]["victims_len"]) > 0 and int(state.rows[0]["walks"]) > walk
        for k in range(1, int(state.rows[0]["num_kinds"]) + 1):
            j = int(np.flatnonzero(state.job["kind"][0] == k)[0])
            if state.kind[0, k]["seen"] == touched:
                found = [worker_slots(state.rows, 0, j, n, 1 << 20) for n in range(_NODES)]
                assert state.slot[0, k, :_NODES]["workers"].tolist() == found
        if entry.commit(state.rows, 0, *action, buffer) != 0:
            break
    assert looked > 0
    assert int(state.rows[0]["preemptions"]) > 0
