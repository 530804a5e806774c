"""Traps reported by users of real schedulers, each as a small explicit cluster."""

from __future__ import annotations

from orchestrator.kernels.state.codes import (
    EventKind,
    JobCode,
    NodeCode,
    Placement,
    Preemption,
    QuotaMode,
    RuleKey,
)
from orchestrator.scheduling.rules import RULES, Rule
from tests.twins.scenes import replayed, scene

_FAILS, _RECOVERS, _DRAINS = (
    EventKind.NODE_FAILURE,
    EventKind.NODE_RECOVERY,
    EventKind.NODE_DRAIN,
)
_LOW, _HIGH = {"priority": 3, "preemptible": 1}, {"priority": 1}
_PRIORITY, _RECLAIM = RULES["priority"], RULES["reclaim"]


def test_the_victim_is_the_one_whose_checkpoint_is_youngest() -> None:
    """Victim choice that ignores checkpoint age (volcano #5958)."""
    old = _LOW | {"duration_ms": 90_000, "checkpoint_interval_ms": 60_000}
    young = _LOW | {"duration_ms": 90_000, "checkpoint_interval_ms": 7000}
    urgent = _HIGH | {"submit_ms": 22_000, "duration_ms": 5000}
    for order in ([old, young], [young, old]):
        state, _ = replayed(scene([2], [*order, urgent], preemption_limit=8), _PRIORITY)
        # 22 s and 1 s of unsaved work
        assert state.job[0, order.index(old)]["preemptions"] == 0
        assert state.job[0, order.index(young)]["preemptions"] == 1
        assert state.job[0, 2]["start_ms"] == 22_000


def test_the_victim_is_the_one_that_is_cheapest_to_save_and_restart() -> None:
    """Victim choice that ignores the cost of the interruption (volcano #5958)."""
    dear = _LOW | {"duration_ms": 90_000, "checkpoint_interval_ms": 1000, "restart_ms": 50_000}
    cheap = dear | {"restart_ms": 1000}
    urgent = _HIGH | {"submit_ms": 22_000, "duration_ms": 5000}
    state, _ = replayed(scene([2], [cheap, dear, urgent], preemption_limit=8), _PRIORITY)
    assert state.job[0, :2]["preemptions"].tolist() == [1, 0]


def test_a_lower_class_goes_before_a_cheaper_victim() -> None:
    dear = _LOW | {"duration_ms": 90_000, "restart_ms": 50_000}
    cheap = {"duration_ms": 90_000, "preemptible": 1, "priority": 2}
    urgent = _HIGH | {"submit_ms": 22_000, "duration_ms": 5000}
    state, _ = replayed(scene([2], [cheap, dear, urgent], preemption_limit=8), _PRIORITY)
    assert state.job[0, :2]["preemptions"].tolist() == [0, 1]


def test_scattered_gpus_that_do_not_help_are_not_freed() -> None:
    """Preemption frees scattered GPUs that do not help (kueue #4329, #5243)."""
    cheap = _LOW | {"duration_ms": 90_000, "checkpoint_interval_ms": 1000}
    dear = _LOW | {"duration_ms": 90_000, "restart_ms": 60_000, "gpus_per_worker": 2}
    whole = _HIGH | {"submit_ms": 20_000, "duration_ms": 5000, "gpus_per_worker": 2}
    held = _LOW | {"duration_ms": 90_000, "preemptible": 0}  # one beside each cheap one
    jobs = [cheap, held, cheap, held, dear, whole]
    rule = Rule("first", RuleKey.FCFS, Placement.FIRST_FIT, Preemption.PRIORITY)
    state, _ = replayed(scene([2, 2, 2], jobs, preemption_limit=8), rule)
    assert state.job[0, :5]["preemptions"].tolist() == [0, 0, 0, 0, 1]
    assert state.job[0, 5]["start_ms"] == 20_000


def test_nobody_is_preempted_where_no_number_of_victims_helps() -> None:
    """The same: every node keeps a job that may not be preempted, so no node empties."""
    held = _LOW | {"duration_ms": 90_000, "preemptible": 0}
    loose = _LOW | {"duration_ms": 90_000}
    whole = _HIGH | {"submit_ms": 20_000, "duration_ms": 5000, "gpus_per_worker": 2}
    rule = Rule("spread", RuleKey.FCFS, Placement.SPREAD, Preemption.PRIORITY)
    jobs = [held, held, loose, loose, whole]
    state, _ = replayed(scene([2, 2], jobs, preemption_limit=8), rule)
    assert state.rows[0]["preemptions"] == 0
    assert state.job[0, 4]["start_ms"] == 90_000


def test_a_quota_admits_what_fragmentation_makes_unplaceable() -> None:
    """Quota admits a job that fragmentation makes unplaceable (kueue #4329): it holds nothing."""
    small = {"duration_ms": 60_000, "tenant": 1}
    whole = {"submit_ms": 1000, "duration_ms": 5000, "gpus_per_worker": 2, "tenant": 0}
    late = {"submit_ms": 2000, "duration_ms": 5000, "tenant": 0}
    rule = Rule("spread", RuleKey.FCFS, Placement.SPREAD)
    case = scene([2, 2], [small, small, whole, late], quotas=[2, 2], quota_mode=QuotaMode.HARD)
    state, _ = replayed(case, rule)
    assert state.job[0, 3]["start_ms"] == 2000  # the quota that the gang cannot use is free
    assert state.job[0, 2]["start_ms"] == 60_000


def test_a_gang_of_a_borrower_is_reclaimed_whole() -> None:
    """Gang blocks reclaim (volcano #4643)."""
    gang = {"duration_ms": 90_000, "workers": 4, "preemptible": 1, "tenant": 1, "priority": 0}
    owner = {"submit_ms": 5000, "duration_ms": 5000, "tenant": 0, "priority": 3}
    case = scene([2, 2], [gang, owner], quotas=[2, 2], preemption_limit=8)
    case.config["quota_mode"] = QuotaMode.BORROW
    state, _ = replayed(case, _RECLAIM)
    assert state.job[0, 1]["start_ms"] == 5000  # the gang is of a higher class, but it borrows
    assert state.job[0, 0]["preemptions"] == 1
    assert state.job[0, 0]["end_ms"] == 10_000 + 85_000


def test_what_a_tenant_is_entitled_to_is_not_reclaimed() -> None:
    mine = {"duration_ms": 90_000, "workers": 2, "preemptible": 1, "tenant": 1, "priority": 3}
    other = {"submit_ms": 5000, "duration_ms": 5000, "tenant": 0, "priority": 3}
    case = scene([2], [mine, other], quotas=[2, 2], preemption_limit=8)
    state, _ = replayed(case, _RECLAIM)
    assert state.rows[0]["preemptions"] == 0


def test_a_reclaimed_job_does_not_take_the_room_that_it_made() -> None:
    """It is of a higher class than who reclaims, and first in the queue when it has been saved."""
    gang = {"duration_ms": 90_000, "workers": 4, "preemptible": 1, "tenant": 1, "priority": 0}
    gang |= {"checkpoint_ms": 3000}
    owner = {"submit_ms": 5000, "duration_ms": 5000, "tenant": 0, "priority": 3}
    case = scene([2, 2], [gang, owner], quotas=[2, 2], preemption_limit=8)
    state, _ = replayed(case, _RECLAIM)
    assert state.job[0, 1]["start_ms"] == 8000
    assert state.job[0, 0]["preemptions"] == 1


def test_a_victim_that_came_first_does_not_take_the_room_that_it_made() -> None:
    """Served by submission, preempted by class: the victim would be back first, without end."""
    early = _LOW | {"duration_ms": 60_000, "checkpoint_ms": 3000}
    urgent = _HIGH | {"submit_ms": 5000, "duration_ms": 5000}
    rule = Rule("mixed", RuleKey.FCFS, preemption=Preemption.PRIORITY)
    state, _ = replayed(scene([1], [early, urgent], preemption_limit=8), rule)
    assert state.job[0, 1]["start_ms"] == 8000
    assert state.job[0, 0]["preemptions"] == 1


def test_who_has_aged_is_not_preempted_by_class() -> None:
    """Or it would be served first again, and be preempted again, without end."""
    early = _LOW | {"duration_ms": 60_000, "checkpoint_ms": 3000}
    urgent = _HIGH | {"submit_ms": 5000, "duration_ms": 5000}
    for preemption in (Preemption.PRIORITY, Preemption.SCORE, Preemption.RECLAIM):
        case = scene([1], [early, urgent], preemption_limit=8, ageing_ms=1000)
        rule = Rule("aged", RuleKey.PRIORITY, preemption=preemption)
        state, _ = replayed(case, rule)
        assert state.job[0, 0]["preemptions"] == 0
        assert state.job[0, 1]["start_ms"] == 60_000


def test_a_repaired_node_does_not_strand_a_gang_below_its_minimum() -> None:
    """DRF strands a gang below its minimum after a node repair (volcano #5805)."""
    gang = {"duration_ms": 60_000, "workers": 4, "elastic": 1, "min_workers": 3, "max_workers": 4}
    small = {"submit_ms": 1000, "duration_ms": 200_000}
    incidents = [(10_000, _FAILS, 1), (20_000, _RECOVERS, 1)]
    state, twin = replayed(scene([2, 2], [gang, small], incidents), Rule("fcfs", RuleKey.FCFS))
    sizes = [job for time, _, job, value in twin.log if time == 10_000 and value == JobCode.PENDING]
    assert sizes == [0]  # interrupted as a whole, although two of its workers were elsewhere
    restarted = int(state.job[0, 0]["start_ms"])
    assert restarted == 20_000  # three workers are enough, and there is room for three
    assert state.job[0, 0]["end_ms"] == 20_000 + 60_000 * 4 // 3
    assert state.job[0, 1]["start_ms"] == 10_000


def test_room_that_is_being_vacated_on_a_leaving_node_does_not_count() -> None:
    """Node replacement ignores evictions in flight (kueue #15102)."""
    leaving = _LOW | {"duration_ms": 60_000, "checkpoint_ms": 10_000, "gpus_per_worker": 2}
    staying = _LOW | {"submit_ms": 1000, "duration_ms": 60_000, "checkpoint_ms": 1000}
    urgent = _HIGH | {"submit_ms": 12_000, "duration_ms": 5000}
    jobs = [leaving, staying, staying, urgent]
    state, _ = replayed(scene([2, 2], jobs, [(10_000, _DRAINS, 0)], preemption_limit=8), _PRIORITY)
    # At 12 s a checkpoint is under way on the draining node: nobody will start there.
    assert state.node[0, 0]["state"] == NodeCode.ABSENT
    assert state.job[0, 3]["start_ms"] == 13_000
    assert state.job[0, 1:3]["preemptions"].sum() == 1
    assert state.rows[0]["interruptions"] == 0


def test_a_gang_that_needs_more_victims_than_a_point_allows_gets_them_at_several() -> None:
    """A bound on victims never keeps a gang waiting (by class)."""
    for saving_ms in (0, 5000):
        low = _LOW | {"duration_ms": 900_000, "checkpoint_ms": saving_ms}
        gang = _HIGH | {"submit_ms": 60_000, "duration_ms": 5000, "workers": 4}
        ticks = [{"submit_ms": 61_000 + k * 1000, "gpus_per_worker": 0} for k in range(3)]
        small = [tick | {"duration_ms": 100, "cpu_milli": 1} for tick in ticks]
        case = scene([4], [low, low, low, low, gang, *small], preemption_limit=1)
        state, _ = replayed(case, _PRIORITY)
        assert state.job[0, :4]["preemptions"].tolist() == [1, 1, 1, 1]
        assert state.job[0, 4]["start_ms"] <= 60_000 + 4 * max(saving_ms, 1000)
