"""Nodes and replicas as actions: what is legal when, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs.scenario import FleetPlan
from envs.workloads.failures import FailureModel
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, EventKind, JobCode, Reason
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.scheduling.rules import rule_named
from tests.envs.scaling_cases import Play, bare_trace, mix_of, play_of, spec

_FLAT = [10.0] * 40


def _incidents(*events: tuple[float, EventKind, int]) -> NDArray[np.void]:
    return np.array([(int(1000 * s), int(kind), n) for s, kind, n in events], INCIDENT_DTYPE)


def _commit(play: Play, kind: ActionKind, subject: int, value: int) -> Reason:
    """An action that no head may stand for, at the row's decision point."""
    session = play.session
    reason = entry.commit(session.state.rows, 0, int(kind), subject, value, session.bench.nodes)
    assert_invariants(session.state, 0)
    return Reason(reason)


# --- when ----------------------------------------------------------------------------------------


def test_the_first_decision_is_at_the_first_tick() -> None:
    play = play_of(mix_of(_FLAT), FleetPlan(spare=2))
    assert (play.now_s, play.replicas(), play.row["tick"]) == (60.0, 2, 1)
    assert play.row["decisions"] == 0
    assert play.may("wait")


def test_ticks_are_the_only_time_for_changes() -> None:
    """At other decision points, the arrival of a job for one, there is a cooldown."""
    trace = bare_trace(jobs=[{}, {"submit_ms": 90_000}])
    play = play_of(mix_of(_FLAT), FleetPlan(spare=2), trace, episode_jobs=2, window=2)
    while play.now_s < 90.0:
        play.act("place" if play.may("place") else "wait")
    assert play.may("place")
    for head in ("scale_out", "more_replicas", "fewer_replicas", "scale_in"):
        assert not play.may(head), head
    assert _commit(play, ActionKind.CAPACITY, 0, 1) == Reason.COOLDOWN
    assert _commit(play, ActionKind.SERVICE, 0, 3) == Reason.COOLDOWN
    play.act("wait")
    assert play.now_s == 120.0
    assert play.act("scale_out") == Reason.OK
    assert play.act("more_replicas") == Reason.OK


def test_a_change_goes_on_at_its_instant_and_not_back() -> None:
    play = play_of(mix_of(_FLAT, up_window_s=600.0), FleetPlan(spare=2, up_window_s=600.0))
    assert [play.act("more_replicas") for _ in range(3)] == [Reason.OK] * 3
    assert play.replicas() == 5
    assert play.act("fewer_replicas") == Reason.COOLDOWN
    assert play.act("scale_out", 0) == Reason.OK
    assert play.act("scale_in", 0) == Reason.COOLDOWN
    assert play.act("scale_out", 0) == Reason.OK
    assert play.nodes()[2:] == ["PROVISIONING"] * 2
    assert play.now_s == 60.0


@pytest.mark.parametrize(("up_s", "down_s"), [(0.0, 0.0), (120.0, 300.0), (300.0, 90.0)])
def test_windows_hold_in_each_direction(up_s: float, down_s: float) -> None:
    windows = {"up_window_s": up_s, "down_window_s": down_s}
    plan = FleetPlan(spare=2, provision_seconds=30.0, **windows)
    play = play_of(mix_of(_FLAT, **windows), plan)
    assert play.act("more_replicas") == Reason.OK
    assert play.act("scale_out") == Reason.OK
    changed_s = play.now_s
    first: dict[str, float] = {}
    while not play.done:
        play.act("wait")
        for head in ("more_replicas", "fewer_replicas", "scale_out", "scale_in"):
            if not play.done and play.may(head):
                first.setdefault(head, play.now_s - changed_s)
    up, down = (max(60.0 * math.ceil(window / 60), 60.0) for window in (up_s, down_s))
    expected = {"more_replicas": up, "fewer_replicas": down, "scale_out": up, "scale_in": down}
    assert first == expected


def test_a_change_the_other_way_starts_the_windows_again() -> None:
    play = play_of(mix_of(_FLAT, up_window_s=120.0, down_window_s=60.0))
    play.act("more_replicas")
    play.wait_until(120.0)
    assert play.act("fewer_replicas") == Reason.OK
    play.wait_until(180.0)
    assert (
        play.act("more_replicas") == Reason.COOLDOWN
    )  # 120 s from the last change, which was down
    play.wait_until(240.0)
    assert play.act("more_replicas") == Reason.OK


# --- what ----------------------------------------------------------------------------------------


def test_sizes_stay_within_their_bounds() -> None:
    play = play_of(mix_of(_FLAT, spec(min_replicas=2, max_replicas=4)))
    assert play.act("fewer_replicas") == Reason.SIZE_BOUNDS
    assert _commit(play, ActionKind.SERVICE, 0, 2) != Reason.OK  # no change is none
    assert _commit(play, ActionKind.SERVICE, 0, 5) == Reason.SIZE_BOUNDS
    assert _commit(play, ActionKind.SERVICE, 0, 4) == Reason.OK
    assert play.replicas() == 4
    play.act("wait")
    assert play.act("more_replicas") == Reason.SIZE_BOUNDS


def test_the_fleet_stays_within_its_bounds() -> None:
    play = play_of(mix_of(_FLAT), FleetPlan(spare=3, least=2, most=3))
    assert play.act("scale_out", 1) == Reason.NO_NODES
    assert _commit(play, ActionKind.CAPACITY, 0, 0) == Reason.UNKNOWN_ACTION
    assert play.act("scale_in") == Reason.NO_NODES
    assert play.act("scale_out", 0) == Reason.OK
    assert play.act("scale_out", 0) == Reason.NO_NODES
    assert play.nodes() == ["UP", "UP", "PROVISIONING", "ABSENT", "ABSENT"]


def test_nodes_with_replicas_are_not_given_up() -> None:
    services = mix_of(_FLAT, spec("a"), spec("b", replicas=3))
    play = play_of(services, FleetPlan(least=0), bare_trace(nodes=3))
    assert play.nodes() == ["UP"] * 3  # four replicas on one node, one on another: one is empty
    assert play.act("scale_in", 1) == Reason.NO_NODES
    assert play.act("scale_in", 0) == Reason.OK
    assert sorted(play.nodes()) == ["ABSENT", "UP", "UP"]
    assert play.replicas(0) + play.replicas(1) == 5


def test_without_room_there_are_no_more_replicas() -> None:
    play = play_of(mix_of(_FLAT, spec(replicas=3)), trace=bare_trace(nodes=1))
    assert play.act("more_replicas") == Reason.OK
    assert play.act("more_replicas") == Reason.NO_CAPACITY
    assert _commit(play, ActionKind.SERVICE, 0, 6) == Reason.NO_CAPACITY
    assert play.replicas() == 4
    # Half of a node is free in capacity, but no single node has room for a whole replica.
    services = mix_of(_FLAT, spec(replicas=2, max_replicas=3), gpus=3)
    play = play_of(services, trace=bare_trace(nodes=2))
    assert play.row["free_units"] == 2000
    assert play.act("more_replicas") == Reason.NO_CAPACITY


@pytest.mark.parametrize("subject", [-1, 1, 7])
def test_who_is_no_service_has_no_replicas(subject: int) -> None:
    play = play_of(mix_of(_FLAT))
    assert _commit(play, ActionKind.SERVICE, subject, 3) == Reason.NOT_A_SERVICE


def test_the_commands_are_whole_or_not_at_all() -> None:
    play = play_of(mix_of(_FLAT, spec(max_replicas=40)), FleetPlan(spare=2))
    before = play.session.state.job[0].tobytes(), play.session.state.node[0].tobytes()
    assert _commit(play, ActionKind.SERVICE, 0, 30) in (Reason.NO_CAPACITY, Reason.SIZE_BOUNDS)
    assert _commit(play, ActionKind.CAPACITY, 0, 3) == Reason.NO_NODES
    assert _commit(play, ActionKind.CAPACITY, 0, -3) == Reason.NO_NODES
    assert before == (play.session.state.job[0].tobytes(), play.session.state.node[0].tobytes())
    assert play.row["illegal_actions"] == 3


# --- what comes of it ----------------------------------------------------------------------------


def test_a_node_serves_when_it_has_come() -> None:
    play = play_of(mix_of(_FLAT), FleetPlan(spare=1, provision_seconds=90.0))
    assert play.act("scale_out") == Reason.OK
    assert play.row["capacity_units"] == 8000
    play.wait_until(120.0)
    assert (play.nodes()[2], play.row["capacity_units"]) == ("PROVISIONING", 8000)
    play.wait_until(180.0)
    assert (play.nodes()[2], play.row["capacity_units"]) == ("UP", 12_000)
    # Two nodes for three minutes, the third from its order at one minute on.
    assert play.row["cost_milli_ms"] == 1000 * (2 * 180_000 + 120_000)


def test_an_order_is_given_up_before_any_node() -> None:
    play = play_of(mix_of(_FLAT), FleetPlan(spare=2, provision_seconds=500.0, down_window_s=0.0))
    play.act("scale_out", 1)
    play.act("wait")
    assert play.act("scale_in", 0) == Reason.OK
    assert play.nodes() == ["UP", "UP", "PROVISIONING", "ABSENT"]


def test_replicas_count_when_they_have_started_up() -> None:
    play = play_of(mix_of(_FLAT, startup_seconds=90.0))
    ready = [int(play.service()["ready"])]
    for at in (120.0, 180.0, 240.0):
        if at == 180.0:
            play.act("more_replicas")
            assert play.replicas() == 3
        play.wait_until(at)
        ready.append(int(play.service()["ready"]))
    assert ready == [0, 2, 2, 3]  # 60, 120, 180 and 240 s; the third was asked for at 120 s


def test_fewer_replicas_serve_less_at_once() -> None:
    play = play_of(mix_of([10.0, 10.0] + [15.0] * 10, spec(queue_limit=50.0)))
    play.act("fewer_replicas")
    assert (play.replicas(), play.row["resizes"]) == (1, 1)
    play.wait_until(240.0)
    crowded = float(play.service()["violations"])
    assert crowded > 300  # 15 requests a second on one replica that serves ten
    assert play.service()["overload_ticks"] == 2


def test_services_start_by_themselves_and_again_after_a_failure() -> None:
    down, up = EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY
    services = mix_of(_FLAT, spec(min_replicas=2))
    play = play_of(services, incidents=_incidents((100, down, 0)))
    run = play.session.state.job[0, 0]
    play.wait_until(120.0)
    assert (run["state"], run["interruptions"]) == (JobCode.RUNNING, 1)
    assert (run["start_ms"], play.replicas()) == (100_000, 2)  # on the other node, at once
    assert run["lost_ms"] == play.row["lost_unit_ms"] == 0  # replicas hold no work
    alone = play_of(
        services,
        trace=bare_trace(nodes=1),
        incidents=_incidents((100, down, 0), (200, up, 0)),
    )
    alone.wait_until(240.0)  # at ticks without a running replica there is nothing to decide
    run = alone.session.state.job[0, 0]
    assert (run["state"], run["start_ms"]) == (JobCode.RUNNING, 200_000)
    assert alone.service()["failed"] == pytest.approx(1200, abs=2)  # the ticks at 120 and 180 s
    assert alone.row["decisions"] == 1


def test_a_service_that_survives_a_failure_keeps_the_rest() -> None:
    services = mix_of(_FLAT, spec(replicas=5))
    play = play_of(services, incidents=_incidents((100, EventKind.NODE_FAILURE, 0)))
    play.wait_until(120.0)
    assert play.replicas() == 1
    assert [play.act("more_replicas") for _ in range(4)] == [Reason.OK] * 3 + [Reason.NO_CAPACITY]


# --- a cluster that is stuck ---------------------------------------------------------------------

_WIDE = {"workers": 2, "min_workers": 2, "max_workers": 2, "gpus_per_worker": 4}


def _stuck(fleet: FleetPlan, jobs: Sequence[dict[str, Any]] = (_WIDE,)) -> Play:
    """A gang that needs two nodes where there is one, and reviews that have come to an end."""
    trace = bare_trace(nodes=2, jobs=jobs)
    down = _incidents((0, EventKind.NODE_DRAIN, 1))
    play = play_of(None, fleet, trace, incidents=down, episode_jobs=len(jobs), window=2)
    while not play.done and play.may("wait"):
        play.act("wait")
    return play


def test_a_stuck_cluster_may_order_nodes_and_cannot_wait() -> None:
    fleet = FleetPlan(spare=2, provision_seconds=70.0, up_window_s=1e6)
    play = _stuck(fleet)
    assert not play.done
    assert not play.may("wait")
    assert play.act("wait") == Reason.NOTHING_TO_WAIT_FOR
    assert play.may("scale_out")
    before_s = play.now_s
    assert play.act("scale_out") == Reason.OK
    play.wait_until(before_s + 70.0)
    assert play.act("place") == Reason.OK
    while not play.done:
        play.act("wait")
    assert play.row["completed_jobs"] == 1


def test_a_stuck_cluster_without_nodes_to_order_is_at_its_end() -> None:
    play = _stuck(FleetPlan(most=1))
    assert play.done
    assert (play.row["completed_jobs"], play.row["queue_len"]) == (0, 1)
    assert not play.session.buffers.mask[0].any()


def test_a_rule_that_scales_frees_a_stuck_cluster() -> None:
    play = _stuck(FleetPlan(spare=2, up_window_s=1e6))
    for rule, completed in (("fcfs", 0), ("fcfs+reactive", 1)):
        play.session.replay(rule_named(rule))
        assert play.row["completed_jobs"] == completed, rule


# --- how long an episode lasts -------------------------------------------------------------------


def _finish(play: Play) -> None:
    while not play.done:
        play.act("wait")
        assert_invariants(play.session.state, 0)


@pytest.mark.parametrize("failures", [None, FailureModel(rate_scale=3000.0)])
def test_services_alone_last_for_their_ticks(failures: FailureModel | None) -> None:
    """Whatever is on its way then: nodes, failures, recoveries."""
    fleet = FleetPlan(spare=2, provision_seconds=9000.0)
    play = play_of(mix_of(_FLAT), fleet, scenario={"failures": failures}, episode_ticks=20)
    assert play.act("scale_out") == Reason.OK
    _finish(play)
    assert (play.row["tick"], play.now_s) == (20, 1200.0)
    offered = float(play.service()["offered"])
    assert offered == pytest.approx(20 * 600)
    if failures is None:
        assert play.row["decisions"] == 1 + 19  # none at the last tick: it would serve nobody
        assert play.row["cost_milli_ms"] == 1000 * (2 * 1_200_000 + 1_140_000)
    else:
        assert play.row["num_incidents"] > play.row["next_incident"]  # some would come later


def test_an_episode_with_jobs_ends_with_them() -> None:
    trace = bare_trace(jobs=[{"duration_ms": 130_000}, {"duration_ms": 250_000}])
    play = play_of(mix_of([10.0] * 40), FleetPlan(spare=1), trace, episode_jobs=2, window=2)
    while play.may("place"):
        play.act("place")
    _finish(play)
    assert play.now_s == 250.0
    assert play.row["tick"] == 4
    assert (play.row["active_jobs"], play.row["active_services"]) == (1, 1)
    # Jobs are counted while they are there, services never.
    assert play.row["job_ms"] == 130_000 + 250_000


def test_a_service_that_never_starts_does_not_hold_up_the_end() -> None:
    services = mix_of(_FLAT, spec(replicas=4, min_replicas=4))
    play = play_of(
        services,
        FleetPlan(spare=1, least=0),
        bare_trace(nodes=1),
        incidents=_incidents((30, EventKind.NODE_FAILURE, 0)),
    )
    _finish(play)
    assert (play.row["tick"], play.row["queue_len"]) == (10, 1)
