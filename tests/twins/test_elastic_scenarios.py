"""Elastic jobs, services and tenants: corners that random workloads seldom reach."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    ActionKind,
    Elasticity,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    Preemption,
    QuotaMode,
    Reason,
    RuleKey,
    Status,
)
from orchestrator.scheduling.rules import RULES, Rule
from tests.naive.rules import rule_action
from tests.twins.cases import scratch
from tests.twins.scenes import Play, replayed, scene

_PLACE, _PREEMPT, _RESIZE, _MIGRATE, _WAIT = (
    ActionKind.PLACE,
    ActionKind.PREEMPT,
    ActionKind.RESIZE,
    ActionKind.MIGRATE,
    ActionKind.WAIT,
)
_FAILS, _DRAINS = EventKind.NODE_FAILURE, EventKind.NODE_DRAIN
_ELASTIC = {"duration_ms": 60_000, "elastic": 1, "min_workers": 1, "max_workers": 4, "workers": 2}
_TICK = {"duration_ms": 1, "gpus_per_worker": 0}  # something happens when it is submitted


def _at(second: int) -> dict[str, int]:
    return _TICK | {"submit_ms": 1000 * second}


def test_a_grown_job_goes_faster_after_it_has_regrouped() -> None:
    play = Play(scene([4], [_ELASTIC | {"regroup_ms": 3000}, _at(20)], elastics=1))
    assert play.act(_PLACE, 0, 1) == Reason.OK
    play.wait_until(20_000)
    assert play.act(_RESIZE, 0, 4) == Reason.OK
    assert play.job(0)["speed_milli"] == 2000
    assert play.act(_PLACE, 1, 1) == Reason.OK
    while play.advance() == Status.DECISION:
        play.act(_WAIT)
    assert play.job(0)["end_ms"] == 20_000 + 3000 + 40_000 // 2


def test_stalls_do_not_add_up_and_are_counted_as_long_as_they_last() -> None:
    play = Play(scene([4], [_ELASTIC | {"regroup_ms": 10_000}, _at(20), _at(24)], elastics=1))
    play.act(_PLACE, 0, 1)
    play.wait_until(20_000)
    assert play.act(_RESIZE, 0, 4) == Reason.OK
    assert play.row["lost_unit_ms"] == 10_000 * 4000
    play.wait_until(24_000)
    assert play.act(_RESIZE, 0, 1) == Reason.OK
    # Four seconds on four GPUs, then ten on one.
    assert play.row["lost_unit_ms"] == 4000 * 4000 + 10_000 * 1000
    assert play.job(0)["work_start_ms"] == 34_000
    assert play.job(0)["unsaved_ms"] == 20_000


def test_work_since_the_checkpoint_is_lost_across_resizes_but_no_more() -> None:
    job = _ELASTIC | {"checkpoint_interval_ms": 7000}
    play = Play(scene([4, 1], [job, _at(10), _at(13)], [(20_000, _FAILS, 0)], elastics=1))
    play.act(_PLACE, 0, 1)
    play.wait_until(10_000)
    assert play.act(_RESIZE, 0, 4) == Reason.OK
    play.wait_until(13_000)
    assert play.act(_RESIZE, 0, 1) == Reason.OK
    play.wait_until(20_000)
    # 10 s at nominal speed, 3 s at twice that and 7 s at half of it make 19.5 s of work.
    assert play.job(0)["progress_ms"] == 14_000
    assert play.job(0)["lost_ms"] == 5500


def test_a_resized_job_can_be_preempted_at_once() -> None:
    job = _ELASTIC | {"preemptible": 1, "regroup_ms": 5000, "checkpoint_ms": 2000}
    play = Play(scene([4], [job, _at(10)], elastics=1, preemption_limit=8))
    play.act(_PLACE, 0, 1)
    play.wait_until(10_000)
    assert play.act(_RESIZE, 0, 4) == Reason.OK
    assert play.act(_PREEMPT, 0) == Reason.OK
    assert play.act(_RESIZE, 0, 2) == Reason.NOT_RUNNING
    play.wait_until(12_000)
    assert play.job(0)["state"] == JobCode.PREEMPTED
    assert play.job(0)["progress_ms"] == 10_000
    assert play.job(0)["units"] == 2000  # what it asks for again
    assert play.act(_PLACE, 0, 1) == Reason.OK
    assert play.job(0)["workers_now"] == 2


def test_a_gang_is_gathered_on_a_node_where_it_is_already() -> None:
    filler = {"duration_ms": 5000}
    gang = {"duration_ms": 60_000, "workers": 2, "preemptible": 1, "restart_ms": 4000}
    gang |= {"checkpoint_ms": 1000, "checkpoint_interval_ms": 60_000}
    play = Play(scene([2, 2], [filler, filler, gang, _at(6)], migrate=1))
    play.act(_PLACE, 0, 0)
    play.act(_PLACE, 1, 2)
    assert play.act(_PLACE, 2, 2) == Reason.OK
    assert sorted(play.nodes_of(2)) == [0, 1]
    play.wait_until(6000)
    assert play.act(_MIGRATE, 2, 1) == Reason.OK
    assert len(set(play.nodes_of(2))) == 1
    run = play.job(2)
    assert (run["progress_ms"], run["unsaved_ms"]) == (6000, 0)  # saved where it was
    assert run["work_start_ms"] == 6000 + 1000 + 4000
    assert play.act(_MIGRATE, 2, 1) == Reason.NO_BETTER_PLACE


def test_a_grown_job_can_move() -> None:
    ask = _ELASTIC | {"workers": 1, "preemptible": 1}
    play = Play(scene([2, 4], [{"duration_ms": 5000}, ask, _at(6)], migrate=1, elastics=1))
    play.act(_PLACE, 0, 0)
    play.act(_PLACE, 1, 0)
    assert play.act(_RESIZE, 1, 2) == Reason.OK
    assert play.nodes_of(1) == [0, 1]
    play.wait_until(6000)
    assert play.act(_MIGRATE, 1, 0) == Reason.OK
    assert play.nodes_of(1) == [0, 0]


def test_replicas_go_with_their_node_and_the_service_stays() -> None:
    service = {"duration_ms": 60_000, "kind": JobKind.SERVICE, "workers": 3, "elastic": 1}
    service |= {"min_workers": 2, "max_workers": 4, "checkpoint_ms": 5000}
    for kind, interruptions in ((_FAILS, 1), (_DRAINS, 0)):
        case = scene([1, 1, 1], [service], [(10_000, kind, 1), (20_000, kind, 2)])
        state, twin = replayed(case, Rule("fcfs", RuleKey.FCFS))
        log = [(time, value) for time, what, j, value in twin.log if what == 0 and j == 0]
        assert (10_000, JobCode.SCALING) in log
        assert (10_000, JobCode.PENDING) not in log
        ends = JobCode.PENDING if kind == _FAILS else JobCode.CHECKPOINTING
        assert (20_000, ends) in log  # one replica is below its minimum
        assert state.job[0, 0]["interruptions"] == 2 * interruptions
        assert state.node[0, 1]["state"] == (NodeCode.DOWN if interruptions else NodeCode.ABSENT)


def test_a_rigid_service_does_not_go_on_with_fewer_replicas() -> None:
    service = {"duration_ms": 60_000, "kind": JobKind.SERVICE, "workers": 2}
    state, _ = replayed(scene([1, 1], [service], [(9000, _FAILS, 0)]), Rule("fcfs", RuleKey.FCFS))
    assert state.job[0, 0]["workers_now"] == 0


def test_growth_stops_at_a_hard_quota() -> None:
    case = scene([4], [_ELASTIC], quotas=[3], quota_mode=QuotaMode.HARD, elastics=1)
    play = Play(case)
    play.act(_PLACE, 0, 1)
    assert play.act(_RESIZE, 0, 4) == Reason.QUOTA
    assert play.act(_RESIZE, 0, 3) == Reason.OK
    assert play.state.tenant[0, 0]["used_units"] == 3000


def test_an_elastic_job_starts_with_what_its_quota_allows() -> None:
    ask = _ELASTIC | {"workers": 4, "min_workers": 2}
    play = Play(scene([4], [ask], quotas=[3], quota_mode=QuotaMode.HARD))
    assert play.act(_PLACE, 0, 1) == Reason.OK
    assert play.job(0)["workers_now"] == 3


def test_a_tenant_is_charged_for_every_size_of_its_jobs() -> None:
    state, _ = replayed(scene([4], [_ELASTIC], quotas=[4], elastics=1), RULES["elastic_fcfs"])
    assert state.job[0, 0]["resizes"] > 0
    attained = int(state.tenant[0, 0]["attained_unit_ms"])
    assert attained == state.job[0, 0]["attained_unit_ms"]
    assert attained == 60_000 * 2000


def test_quotas_bind_committed_and_backfilled_jobs() -> None:
    mine = {"duration_ms": 20_000, "tenant": 0}
    wide = {"duration_ms": 20_000, "tenant": 1, "gpus_per_worker": 4}
    jobs = [mine, wide, mine, mine]
    case = scene([4], jobs, quotas=[1, 4], quota_mode=QuotaMode.HARD, commitment=1, backfill=1)
    state, _ = replayed(case, Rule("fcfs", RuleKey.FCFS))
    starts = sorted(state.job[0, [0, 2, 3]]["start_ms"].tolist())
    assert all(later - before >= 20_000 for before, later in itertools.pairwise(starts))
    assert state.rows[0]["completed_jobs"] == 4


def test_a_rule_that_commits_passes_over_whom_the_quota_forbids() -> None:
    never = {"duration_ms": 20_000, "tenant": 0, "gpus_per_worker": 2}
    fine = {"duration_ms": 20_000, "tenant": 1}
    case = scene([4], [never, fine], quotas=[1, 4], quota_mode=QuotaMode.HARD, commitment=1)
    state, _ = replayed(case, Rule("fcfs", RuleKey.FCFS))
    assert state.job[0, :2]["state"].tolist() == [JobCode.PENDING, JobCode.COMPLETED]


def test_backfilled_jobs_leave_storage_to_the_committed_one() -> None:
    first = {"duration_ms": 30_000, "tenant": 1}
    wide = {"submit_ms": 1000, "duration_ms": 10_000, "gpus_per_worker": 2, "storage_mib": 10}
    quick = {"submit_ms": 2000, "duration_ms": 5000, "storage_mib": 10}
    case = scene([2], [first, wide, quick], quotas=[8, 8], commitment=1, backfill=1)
    case.tenants["storage_quota_mib"] = 10
    state, _ = replayed(case, Rule("fcfs", RuleKey.FCFS))
    assert state.job[0, 1]["start_ms"] == 30_000
    assert state.job[0, 2]["start_ms"] == 40_000  # it would have fitted at once, for long enough


def test_a_reservation_is_for_as_few_workers_as_the_job_starts_with() -> None:
    short = {"duration_ms": 10_000}
    long = {"duration_ms": 50_000, "gpus_per_worker": 3}
    elastic = {"submit_ms": 1000, "duration_ms": 10_000, "elastic": 1, "workers": 4}
    elastic |= {"min_workers": 1, "max_workers": 4}
    case = scene([4], [short, long, elastic], commitment=1, backfill=1)
    play = Play(case)
    play.act(_PLACE, 0, 1)
    play.advance()
    play.act(_PLACE, 1, 1)
    play.advance()
    assert play.act(_PLACE, 2, 1) == Reason.OK
    assert play.row["reservation_ms"] == 10_000


# --- rules that lend by rank ---------------------------------------------------------------------


def _rule(elastic: Elasticity, preemption: Preemption = Preemption.NONE) -> Rule:
    return Rule("lends", RuleKey.SRSF, preemption=preemption, elastic=elastic)


def _asked(play: Play, rule: Rule) -> tuple[int, int, int]:
    """What a rule does now; its twin says the same."""
    action = entry.rule_action(play.state.rows, 0, rule.to_record(), scratch())
    assert action == rule_action(play.twin, rule)
    return action


_SHORT = _ELASTIC | {"duration_ms": 30_000}
_LONG = _ELASTIC | {"duration_ms": 300_000}


def test_the_shortest_grows_first_and_to_the_most_at_once() -> None:
    play = Play(scene([4, 4], [_LONG, _SHORT, _at(10)], elastics=1))
    for j in (0, 1):
        play.act(_PLACE, j, 1)
    play.wait_until(10_000)
    play.act(_PLACE, 2, 1)
    assert _asked(play, _rule(Elasticity.SHORTEST)) == (_RESIZE, 1, 4)
    play.act(_RESIZE, 1, 4)
    assert _asked(play, _rule(Elasticity.SHORTEST)) == (_RESIZE, 0, 4)
    assert _asked(play, _rule(Elasticity.IDLE)) == (_RESIZE, 0, 3)


def _lent(waiting: dict[str, int]) -> Play:
    """A short and a long job have four workers each of eight, and somebody waits."""
    jobs = [job | {"preemptible": 1} for job in (_LONG, _SHORT)]
    case = scene(
        [4, 4], [*jobs, _at(1), waiting | {"submit_ms": 9000}], elastics=1, preemption_limit=8
    )
    play = Play(case)
    for j in (0, 1):
        play.act(_PLACE, j, 1)
    play.wait_until(1000)
    play.act(_PLACE, 2, 1)
    for j in (0, 1):
        assert play.act(_RESIZE, j, 4) == Reason.OK
    play.wait_until(9000)
    return play


def test_only_those_behind_who_waits_give_back_and_before_anybody_is_preempted() -> None:
    for preemption in (Preemption.NONE, Preemption.SCORE):
        rule = _rule(Elasticity.KEEP, preemption)
        play = _lent({"duration_ms": 20_000, "workers": 2})
        assert _asked(play, rule) == (_RESIZE, 0, 2)
        play.act(_RESIZE, 0, 2)
        assert _asked(play, rule)[:2] == (_PLACE, 3)
        # For one behind both nobody gives anything back; by idleness everybody would.
        play = _lent({"duration_ms": 900_000, "workers": 2})
        assert _asked(play, rule)[0] == _WAIT
        assert _asked(play, _rule(Elasticity.IDLE))[0] == _RESIZE


def test_nobody_gives_back_what_does_not_help() -> None:
    play = _lent({"duration_ms": 15_000, "gpus_per_worker": 3})
    assert _asked(play, _rule(Elasticity.KEEP))[0] == _WAIT


def test_whoever_keeps_gets_more_and_the_rest_is_lent_only_to_fill() -> None:
    wide = {"duration_ms": 30_000, "workers": 2, "gpus_per_worker": 4, "submit_ms": 10_000}
    play = Play(scene([4, 4], [_LONG, _SHORT, wide], elastics=1))
    for j in (0, 1):
        play.act(_PLACE, j, 1)
    play.wait_until(10_000)
    assert _asked(play, _rule(Elasticity.KEEP)) == (_RESIZE, 1, 4)
    play.act(_RESIZE, 1, 4)
    assert _asked(play, _rule(Elasticity.KEEP))[0] == _WAIT
    assert _asked(play, _rule(Elasticity.FILL)) == (_RESIZE, 0, 4)


def test_growing_has_to_pay() -> None:
    ends = _SHORT | {"regroup_ms": 20_000}
    play = Play(scene([4, 4], [ends, _at(10)], elastics=1))
    play.act(_PLACE, 0, 1)
    play.wait_until(10_000)  # 20 s are left: half of that, and the regroup, take longer
    play.act(_PLACE, 1, 1)
    assert _asked(play, _rule(Elasticity.SHORTEST))[0] == _WAIT
    assert _asked(play, _rule(Elasticity.IDLE)) == (_RESIZE, 0, 3)


def test_a_size_is_locked_apart_from_the_place() -> None:
    job = _ELASTIC | {"preemptible": 1}
    locked = scene([4, 4], [job, _at(10)], elastics=1, preemption_limit=8, resize_lock_ms=20_000)
    play = Play(locked)
    play.act(_PLACE, 0, 1)
    play.wait_until(10_000)
    assert play.act(_RESIZE, 0, 3) == Reason.MIN_RUN_TIME
    assert play.act(_PREEMPT, 0) == Reason.OK


def _waits_behind(head: dict[str, int], waiting: dict[str, int], **config: Any) -> Play:
    """A short and a long job have four workers each of eight; one waits behind another."""
    jobs = [_LONG, _SHORT, _at(1), head, waiting | {"submit_ms": 9000}]
    play = Play(scene([4, 4], jobs, elastics=1, preemption_limit=8, **config))
    for j in (0, 1):
        play.act(_PLACE, j, 1)
    play.wait_until(1000)
    play.act(_PLACE, 2, 1)
    for j in (0, 1):
        assert play.act(_RESIZE, j, 4) == Reason.OK
    play.wait_until(9000)
    return play


def test_nobody_gives_back_for_one_that_may_not_use_it() -> None:
    """What was given back would be lent again at the same instant, and both be paid for."""
    slim = {"duration_ms": 400_000, "priority": 2}
    wide = {"duration_ms": 100_000, "workers": 2, "gpus_per_worker": 4, "submit_ms": 9000}
    rule = _rule(Elasticity.FILL, Preemption.PRIORITY)
    # Room is kept for the wide one, of a higher class, and the slim one would delay it.
    play = _waits_behind(wide, slim)
    assert _asked(play, _rule(Elasticity.FILL)) == (_RESIZE, 0, 2)  # by score the slim one is first
    assert _asked(play, replace(rule, reservation=True))[0] == _WAIT
    # Nobody overtakes the first, which its quota keeps waiting.
    first = {"duration_ms": 10_000, "workers": 2, "tenant": 1, "submit_ms": 9000}
    quotas = {"quotas": [16, 1], "quota_mode": QuotaMode.HARD}
    play = _waits_behind(first, {"duration_ms": 20_000}, **quotas)
    assert _asked(play, _rule(Elasticity.FILL)) == (_RESIZE, 0, 2)
    assert _asked(play, replace(_rule(Elasticity.FILL), blocking=True))[0] == _WAIT
