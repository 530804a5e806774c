"""Ticks: what of services and fleet may be changed, when, and what is left of that in the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import UnknownEntityError
from orchestrator.kernels.state.codes import JobKind, NodeCode, Reason
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Cancel,
    Command,
    Decide,
    Decommission,
    Entry,
    PlaceJob,
    Plan,
    Register,
    RegroupJob,
    Review,
    Scale,
    ScaleFleet,
    ScaleService,
    Submit,
    Tick,
    Wait,
)
from orchestrator.wire.entries import decode_snapshot, encode_snapshot
from tests.engine.builders import job, node
from tests.engine.sizes import fleet, seen, sizing, tick

_MINUTE_MS = 60_000


class _Cluster:
    """A service of two replicas on a node, and room for six more."""

    def __init__(self) -> None:
        shape = ClusterShape(envs=1, jobs=3, workers=8, nodes=5, devices=8)
        self.engine = Engine(shape, nodes=(node("n0", 8),), check=True)
        self.now_ms = 0
        chat = job("chat", kind=JobKind.SERVICE, elastic=True, num_workers=2, max_workers=8)
        self.tell(Submit(chat))
        self.tell(Review())
        self.decide(PlaceJob("chat"))

    def tell(self, body: Command) -> Outcome:
        self.now_ms += 1  # live, time goes on from entry to entry
        return self.engine.handle(Entry(self.now_ms, body))

    def decide(self, *actions: object) -> Reason:
        return self.tell(Decide(Plan(actions))).reason  # type: ignore[arg-type]

    def tick(self, told: Tick | None = None) -> None:
        """A minute later."""
        self.now_ms += _MINUTE_MS
        assert self.tell(told or tick()).reason == Reason.OK
        assert self.engine.decision_open

    @property
    def replicas(self) -> int:
        return len(self.engine.workers_of("chat"))


def test_replicas_change_at_ticks_and_within_their_bounds() -> None:
    c = _Cluster()
    assert c.decide(ScaleService("chat", 3)) == Reason.NOT_A_SERVICE  # nobody has told of it
    c.tick()
    outcome = c.tell(Decide(Plan((ScaleService("chat", 4),))))
    assert [type(effect) for effect in outcome.effects] == [RegroupJob]
    assert c.replicas == 4
    assert c.decide(ScaleService("chat", 5)) == Reason.SIZE_BOUNDS  # the job may have eight
    assert c.decide(Wait()) == Reason.OK
    assert not c.engine.decision_open
    assert c.decide(ScaleService("chat", 3)) == Reason.COOLDOWN
    assert c.decide(ScaleService("other", 3)) == Reason.NOT_A_SERVICE
    assert c.replicas == 4


def test_nobody_goes_back_and_forth_at_one_tick() -> None:
    """Though there is no window, and a moment has passed."""
    c = _Cluster()
    c.tick()
    assert c.decide(ScaleService("chat", 3)) == Reason.OK
    assert c.decide(ScaleService("chat", 2)) == Reason.COOLDOWN
    assert c.decide(ScaleFleet(1)) == Reason.OK
    assert c.decide(ScaleFleet(-1)) == Reason.COOLDOWN
    assert c.decide(ScaleService("chat", 4)) == Reason.OK
    c.tick()
    assert c.decide(ScaleService("chat", 2)) == Reason.OK


def test_windows_count_from_whoever_changed_it() -> None:
    c, waits = _Cluster(), seen(sizing=sizing(down_window_ms=3 * _MINUTE_MS))
    c.tick(tick(services=(waits,)))
    assert c.tell(Scale("chat", 3)).reason == Reason.OK  # somebody says so
    for reason in (Reason.COOLDOWN, Reason.COOLDOWN, Reason.OK):
        c.tick(tick(services=(waits,)))
        assert c.decide(ScaleService("chat", 2)) == reason


def test_one_that_is_out_of_bounds_may_come_back() -> None:
    c = _Cluster()
    c.tell(Scale("chat", 7))
    c.tick()
    assert c.decide(ScaleService("chat", 8)) == Reason.SIZE_BOUNDS
    assert c.decide(ScaleService("chat", 6)) == Reason.OK


def test_nodes_are_ordered_within_what_was_seen() -> None:
    c = _Cluster()
    assert c.decide(ScaleFleet(1)) == Reason.COOLDOWN
    c.tick()
    assert c.decide(ScaleFleet(3)) == Reason.NO_NODES
    assert c.decide(ScaleFleet(0)) == Reason.UNKNOWN_ACTION
    before = c.engine.log_hash
    outcome = c.tell(Decide(Plan((ScaleFleet(1), ScaleService("chat", 3), ScaleFleet(1)))))
    assert (outcome.reason, outcome.nodes, c.replicas) == (Reason.OK, 2, 3)
    assert c.engine.log_hash != before  # of the replica
    assert c.engine.nodes.count(NodeCode.UP) == 1  # nothing has come yet
    assert c.decide(ScaleFleet(1)) == Reason.NO_NODES  # these two were all
    snapshot = c.engine.snapshot()
    snapshot.show_fleet()
    states = snapshot.state.node[0]["state"]
    assert (states == NodeCode.PROVISIONING).sum() == snapshot.state.rows[0]["arrival_len"] == 2
    c.tell(Register(node("rented-0"), rented=True))
    told = c.engine.snapshot().fleet
    assert told is not None
    assert (told.tick.fleet.coming, told.tick.fleet.spare) == (1, 0)


def test_a_plan_with_nodes_is_carried_out_whole_or_not_at_all() -> None:
    c = _Cluster()
    c.tick()
    outcome = c.tell(Decide(Plan((ScaleService("chat", 3), ScaleFleet(5)))))
    assert (outcome.reason, outcome.nodes, c.replicas) == (Reason.NO_NODES, 0, 2)
    outcome = c.tell(Decide(Plan((ScaleFleet(1), ScaleService("chat", 9)))))
    assert (outcome.reason, outcome.nodes, c.replicas) == (Reason.SIZE_BOUNDS, 0, 2)
    told = c.engine.snapshot().fleet
    assert told is not None
    assert told.tick.fleet == fleet()


def test_what_has_left_cannot_be_ordered_unless_somebody_says_so() -> None:
    c = _Cluster()
    for name in ("a", "b", "c"):
        c.tell(Register(node(name)))
    for name in ("a", "b", "c"):
        c.tell(Decommission(name))
    c.tick(tick(fleet=fleet(spare=1, kind=node("rented", 2))))
    snapshot = c.engine.snapshot()
    snapshot.show_fleet()
    row = snapshot.state.rows[0]
    assert row["num_nodes"] == 4  # in the place of one that has left
    assert row["all_prices_milli"] == 2 * 1000  # of n0 and the one to order
    assert c.decide(ScaleFleet(2)) == Reason.NO_NODES
    assert c.decide(ScaleFleet(1)) == Reason.OK


def test_a_tick_of_somebody_unknown_is_refused() -> None:
    c = _Cluster()
    with pytest.raises(UnknownEntityError, match="'other'"):
        c.tell(tick(services=(seen(job_id="other"),)))


def test_whoever_takes_the_place_of_a_service_is_none() -> None:
    """Its row in the table is another job's by then, which is no service."""
    c = _Cluster()
    c.tick()
    c.tell(Cancel("chat"))
    for name in ("a", "b", "c"):
        c.tell(Submit(job(name, elastic=True, max_workers=4)))
    assert "chat" not in c.engine.jobs.index
    c.tell(Review())
    c.decide(*(PlaceJob(name) for name in ("a", "b", "c")))
    for name in ("a", "b", "c"):
        assert c.decide(ScaleService(name, 2)) == Reason.NOT_A_SERVICE


def test_what_was_set_aside_goes_on_alike() -> None:
    """An image, written and read: windows, orders and the open point among it."""
    c = _Cluster()
    c.tick(tick(services=(seen(sizing=sizing(up_window_ms=_MINUTE_MS // 2)),)))
    assert c.decide(ScaleFleet(1), ScaleService("chat", 3)) == Reason.OK
    other = _Cluster()
    image = decode_snapshot(encode_snapshot(c.engine.image()))
    other.engine.load(image)  # type: ignore[arg-type]
    other.now_ms = c.now_ms
    for one in (c, other):
        assert one.engine.decision_open
        assert one.decide(ScaleFleet(2)) == Reason.NO_NODES
        assert one.decide(ScaleService("chat", 4), ScaleFleet(1), Wait()) == Reason.OK
    assert other.engine.log_hash == c.engine.log_hash
    assert replace(other.engine.image().tick) == c.engine.image().tick  # type: ignore[type-var]
