"""Corners that random workloads seldom reach, each spelled out."""

from __future__ import annotations

from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    ActionKind,
    EventKind,
    JobCode,
    NodeCode,
    Placement,
    Preemption,
    Reason,
    RuleKey,
    Status,
)
from orchestrator.scheduling.rules import Rule
from tests.twins.cases import assert_same, begin, nodes_buffer
from tests.twins.scenes import replayed, scene

_FAILS, _RECOVERS, _DRAINS = (
    EventKind.NODE_FAILURE,
    EventKind.NODE_RECOVERY,
    EventKind.NODE_DRAIN,
)
_SRTF = Rule("srtf", RuleKey.SRTF, preemption=Preemption.SCORE)


def test_a_draining_node_retires_when_its_gang_fails_elsewhere() -> None:
    gang = {"workers": 2, "duration_ms": 60_000, "checkpoint_ms": 30_000}
    incidents = [(10_000, _DRAINS, 0), (20_000, _FAILS, 1), (30_000, _RECOVERS, 1)]
    state, _ = replayed(scene([1, 1], [gang], incidents), Rule("fcfs", RuleKey.FCFS))
    assert state.node[0, 0]["state"] == NodeCode.ABSENT
    assert state.node[0, 1]["state"] == NodeCode.UP
    assert state.job[0, 0]["lost_ms"] == 10_000  # what its checkpoint was about to save


def test_a_node_that_fails_while_draining_does_not_come_back() -> None:
    job = {"duration_ms": 60_000, "checkpoint_ms": 30_000}
    incidents = [(10_000, _DRAINS, 0), (20_000, _FAILS, 0), (30_000, _RECOVERS, 0)]
    state, _ = replayed(scene([1, 1], [job], incidents), Rule("fcfs", RuleKey.FCFS))
    assert state.node[0, 0]["state"] == NodeCode.ABSENT
    assert state.job[0, 0]["state"] == JobCode.COMPLETED
    assert state.job[0, 0]["interruptions"] == 1


def test_nobody_is_preempted_for_room_that_is_about_to_be_free() -> None:
    long = {"duration_ms": 100_000, "preemptible": 1, "checkpoint_ms": 5000}
    short = {"submit_ms": 10_000, "duration_ms": 1000}
    tick = {"submit_ms": 12_000, "duration_ms": 200_000}  # opens a point before the room is free
    state, _ = replayed(scene([2], [long, long, short, tick], preemption_limit=8), _SRTF)
    assert state.job[0, :2]["preemptions"].sum() == 1
    assert state.job[0, 2]["start_ms"] == 15_000


def test_nobody_takes_the_room_that_was_made_for_another() -> None:
    long = {"duration_ms": 100_000, "preemptible": 1, "checkpoint_ms": 5000}
    other = long | {"duration_ms": 7000}  # leaves one GPU free while the victim is being saved
    wide = {"submit_ms": 5000, "duration_ms": 6000, "gpus_per_worker": 2}
    late = {"submit_ms": 8000, "duration_ms": 50_000, "preemptible": 1}
    state, _ = replayed(scene([2], [long, other, wide, late], preemption_limit=1), _SRTF)
    assert state.job[0, :4]["preemptions"].tolist() == [1, 0, 0, 0]
    assert state.job[0, 2]["start_ms"] == 7000 + 5000
    assert state.job[0, 3]["start_ms"] == 12_000 + 6000


def test_a_gang_gets_in_by_the_fewest_victims_needed() -> None:
    small = {"duration_ms": 100_000, "preemptible": 1}
    large = {"duration_ms": 90_000, "preemptible": 1, "gpus_per_worker": 2}
    urgent = {"submit_ms": 1000, "duration_ms": 1000, "gpus_per_worker": 2}
    # The two small ones stand on different nodes: preempting them would not make room for two.
    jobs = [small, small, large, urgent]
    case = scene([3, 1], jobs, preemption_limit=8)
    state, _ = replayed(
        case, Rule("srtf", RuleKey.SRTF, Placement.SPREAD, preemption=Preemption.SCORE)
    )
    assert state.job[0, :3]["preemptions"].tolist() == [0, 0, 1]


def test_preempting_everybody_does_not_end_the_episode() -> None:
    job = {"duration_ms": 5000, "preemptible": 1}
    state, twin = begin(scene([1], [job, job], preemption_limit=8))
    buffer = nodes_buffer()
    place, preempt, wait = ActionKind.PLACE, ActionKind.PREEMPT, ActionKind.WAIT
    # Once both were preempted, nothing is left to happen, and neither may be placed at that point.
    at_once = [(place, 0), (preempt, 0), (place, 1), (preempt, 1)]
    for kind, j in [*at_once, (place, 1), (wait, -1), (place, 0)]:
        assert entry.advance(state.rows, 0, buffer) == twin.advance() == Status.DECISION
        assert entry.commit(state.rows, 0, kind, j, 1, buffer) == Reason.OK
        assert twin.commit(kind, j, 1) == Reason.OK
    assert entry.advance(state.rows, 0, buffer) == twin.advance() == Status.DONE
    assert_same(state, 0, twin)
    assert state.rows[0]["completed_jobs"] == 2


def test_a_victim_is_not_placed_again_at_the_same_point() -> None:
    jobs = [{"duration_ms": 5000, "preemptible": 1}, {"duration_ms": 9000, "submit_ms": 1000}]
    state, _ = begin(scene([1], jobs, preemption_limit=8))
    buffer = nodes_buffer()
    entry.advance(state.rows, 0, buffer)
    assert entry.commit(state.rows, 0, ActionKind.PLACE, 0, 1, buffer) == Reason.OK
    entry.advance(state.rows, 0, buffer)
    assert entry.commit(state.rows, 0, ActionKind.PREEMPT, 0, 1, buffer) == Reason.OK
    assert entry.commit(state.rows, 0, ActionKind.PLACE, 0, 1, buffer) == Reason.BLOCKED
    assert entry.commit(state.rows, 0, ActionKind.PLACE, 1, 1, buffer) == Reason.OK


def test_an_interruption_falls_back_to_the_last_checkpoint() -> None:
    job = {"duration_ms": 60_000, "checkpoint_interval_ms": 7000, "restart_ms": 4000}
    incidents = [(20_000, _FAILS, 0), (50_000, _RECOVERS, 0)]
    state, _ = replayed(scene([1], [job], incidents), Rule("fcfs", RuleKey.FCFS))
    run = state.job[0, 0]
    assert run["lost_ms"] == 6000  # 20 s done, 14 s saved
    assert run["end_ms"] == 50_000 + 4000 + 60_000 - 14_000


def test_events_at_one_instant_do_not_disturb_a_reserved_order() -> None:
    # Job 0 ends when job 1 arrives and node 1 fails: arrival, completion, failure, in this order.
    jobs = [{"duration_ms": 5000}, {"duration_ms": 1000, "submit_ms": 5000}]
    state, twin = replayed(scene([1, 1], jobs, [(5000, _FAILS, 0)]), Rule("fcfs", RuleKey.FCFS))
    assert state.job[0, 0]["state"] == JobCode.COMPLETED
    kinds = [(kind, subject, value) for time, kind, subject, value in twin.log if time == 5000]
    assert kinds[:3] == [(0, 1, JobCode.PENDING), (0, 0, JobCode.COMPLETED), (1, 0, NodeCode.DOWN)]


def test_the_hash_tells_placements_apart() -> None:
    case = scene([2, 2], [{"duration_ms": 5000}, {"duration_ms": 5000}])
    hashes = set()
    for placement in (Placement.BEST_FIT, Placement.SPREAD):
        for _ in range(2):
            state, _ = replayed(case, Rule("fcfs", RuleKey.FCFS, placement))
            hashes.add(int(state.rows[0]["log_hash"]))
    assert len(hashes) == 2


def test_external_events_drive_a_row_without_its_own_timeline() -> None:
    state, _ = begin(scene([1], [{"duration_ms": 5000}, {"duration_ms": 5000}]))
    buffer = nodes_buffer()
    entry.apply_event(state.rows, 0, 100, EventKind.ARRIVAL, 0)
    entry.open_point(state.rows, 0)
    assert_invariants(state, 0)
    assert entry.commit(state.rows, 0, ActionKind.PLACE, 0, 1, buffer) == Reason.OK
    entry.apply_event(state.rows, 0, 900, EventKind.NODE_FAILURE, 0)
    assert_invariants(state, 0)
    assert state.rows[0]["now_ms"] == 900
    assert state.job[0, 0]["state"] == JobCode.PENDING
    entry.apply_event(state.rows, 0, 800, EventKind.NODE_RECOVERY, 0)  # late news: time stays
    assert state.rows[0]["now_ms"] == 900
    assert entry.fits(state.rows, 0, 0)
