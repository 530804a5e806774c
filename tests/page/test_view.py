"""The view: changes add up to the picture, and the picture is the cluster."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.clock import VirtualClock
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.server.guard.tokens import Role
from orchestrator.server.view import ClusterPicture, ViewStream
from orchestrator.server.view.services import load_band
from orchestrator.types import JobPriority, JobSpec, NodeSpec
from tests.deployment.cases import Cluster, Named
from tests.server.world import world

_SHAPE = ClusterShape(envs=1, jobs=24, workers=4, nodes=8, devices=4, tenants=8)


def _cluster() -> InfrastructureOrchestrator:
    clock = VirtualClock(1_000_000)
    nodes = [NodeSpec(f"n{k}", 4, 80.0, 16, 64.0, 10.0, "NVLink", rack=k // 2) for k in range(4)]
    return InfrastructureOrchestrator(
        *in_memory(clock), clock=clock, shape=_SHAPE, nodes=nodes, schedule_on_events=True
    )


def _job(k: int, draw: np.random.Generator) -> JobSpec:
    hours = float(draw.integers(1, 40)) / 3600
    return JobSpec(
        job_id=f"job-{k}",
        name=f"name-{k % 3}",
        priority=JobPriority(int(draw.integers(4))),
        num_workers=int(draw.integers(1, 4)),
        gpus_per_worker=int(draw.integers(1, 5)),
        memory_per_worker_gb=1.0,
        max_duration_hours=hours,
        checkpoint_interval_steps=5,
        preemptible=bool(draw.integers(2)),
        checkpoint_seconds=1.0,
        tenant=f"tenant-{k % 2}",
    )


class Told:
    """What somebody knows who was told all changes, row by row: the slow twin of the page."""

    def __init__(self) -> None:
        self.nodes: dict[int, Any] = {}
        self.gangs: dict[int, Any] = {}
        self.queue: list[Any] = []
        self.parts: dict[str, Any] = {}
        self.ended: list[str] = []
        self._waiting: dict[int, Any] = {}

    def hear(self, frame: dict[str, Any]) -> None:
        """A frame has come."""
        if frame.get("reset"):
            self.__init__()
        for row in _rows(frame.get("nodes", {})):
            self.nodes[row["row"]] = row
        gangs = frame.get("gangs", {})
        for row in _rows(gangs.get("gone", {})):
            self.ended.append(self.gangs.pop(row["row"])["id"])
        places = list(gangs.get("set", {}).get("at", []))
        for row in _rows({k: v for k, v in gangs.get("set", {}).items() if k != "at"}):
            row["at"], places = places[: row["workers"]], places[row["workers"] :]
            self.gangs[row["row"]] = row
        assert places == []
        queue = frame.get("queue", {})
        self._waiting |= {entry[0]: entry for entry in queue.get("set", [])}
        if "order" in queue:
            self._waiting = {row: self._waiting[row] for row in queue["order"]}
        self.queue = list(self._waiting.values())
        for name in ("totals", "tenants", "scaling", "policy"):
            self.parts |= {name: frame[name]} if name in frame else {}

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Told)
        mine, its = ((t.nodes, t.gangs, t.queue, t.parts) for t in (self, other))
        assert mine == its
        return True


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(frame: dict[str, Any]) -> dict[str, Any]:
    """As it comes over the wire."""
    plain: dict[str, Any] = json.loads(json.dumps(frame))
    return plain


async def test_changes_add_up_to_the_picture_and_it_is_the_cluster() -> None:
    """Jobs come, end, are preempted and forgotten (the table is small), nodes go and come back."""
    orchestrator, draw = _cluster(), np.random.default_rng(0)
    clock, engine = orchestrator.clock, orchestrator.engine
    assert isinstance(clock, VirtualClock)
    picture, told = ClusterPicture(orchestrator), Told()
    await orchestrator.start()
    seen = 0
    for turn in range(120):
        if int(engine.row["active_jobs"]) < 20:
            await orchestrator.submit_job(_job(turn, draw))
        node = f"n{draw.integers(4)}"
        if turn % 11 == 3:
            await orchestrator.handle_node_failure(node)
        if turn % 11 == 7:
            await orchestrator.handle_node_recovery(node)
        await clock.advance_to(clock.now_ms() + int(draw.integers(0, 4000)))
        if draw.random() < 0.7:  # whoever looks seldom sees less, and ends with the same
            told.hear(_plain(picture.changes()))
            whole = Told()
            whole.hear(_plain(picture.whole()))
            assert told == whole
            seen += 1
            placed = {engine.jobs.index.ids[row]: gang for row, gang in told.gangs.items()}
            assert placed.keys() == engine.placed().keys()
            for name, gang in placed.items():
                where = [engine.nodes.index.ids[n] for n in gang["at"]]
                assert where == [place.node_id for place in engine.workers_of(name)]
            waiting = [entry[1] for entry in told.queue]
            assert len(waiting) == len(set(waiting))
            assert set(waiting) == set(engine.unended()) - set(placed)
            assert told.parts["totals"]["queued"] == len(waiting)
            assert all(entry[-1] for entry in told.queue[:16]), "nobody says why they wait"
    assert seen > 60
    assert len(told.ended) > 20
    while picture.changes():
        assert picture.behind, "the same is told again"
    await orchestrator.stop()


async def test_a_deployment_is_drawn_as_who_decides_in_it() -> None:
    """As /queue has it: the rule's order and reasons while it decides, else those of nobody."""
    cluster = Cluster(Named, rule="sjf", nodes=1)
    orchestrator, deployment = cluster.orchestrator, cluster.deployment
    await orchestrator.start()
    for k, hours in enumerate((9.0, 3.0, 2.0, 1.0)):
        job = replace(_job(k, np.random.default_rng(0)), num_workers=1, gpus_per_worker=4)
        await orchestrator.submit_job(replace(job, duration_hours=hours, max_duration_hours=hours))

    def drawn() -> tuple[str, list[str]]:
        picture = ClusterPicture(orchestrator, deployed=True)
        picture.changes()
        whole = picture.whole()
        queue = whole["queue"]["set"]
        asked = orchestrator.queue()[0]
        assert [entry[1] for entry in queue] == [one["job_id"] for one in asked]
        assert [entry[-1] for entry in queue] == [one["waits_for"]["text"] for one in asked]
        return whole["policy"]["name"], [entry[1] for entry in queue]

    by_rule = ["job-3", "job-2", "job-1", "job-0"]
    assert drawn() == ("sjf", by_rule)
    await deployment.shadow("fcfs")
    assert drawn() == ("sjf", by_rule)
    await deployment.canary("fcfs", 0.5)
    assert drawn() == ("fcfs", by_rule[::-1])
    await deployment.activate("fcfs")
    assert drawn() == ("fcfs", by_rule[::-1])
    await deployment.fall_back("enough")
    assert drawn() == ("sjf", by_rule)
    await orchestrator.stop()


async def test_events_are_told_once() -> None:
    orchestrator, draw = _cluster(), np.random.default_rng(1)
    picture = ClusterPicture(orchestrator)
    await orchestrator.start()
    await orchestrator.submit_job(_job(0, draw))
    first = picture.changes()["events"]
    assert next(e["what"] for e in first if e.get("job_id") == "job-0") == "submitted"
    await orchestrator.handle_node_failure("n3")
    second = picture.changes()["events"]
    assert [(e["kind"], e["what"]) for e in second if e.get("node_id")] == [("node", "failed")]
    cursors = [e["cursor"] for e in first + second]
    assert len(set(cursors)) == len(cursors)
    assert [e["cursor"] for e in picture.whole()["events"]] == cursors
    await orchestrator.stop()


async def _next(frames: Any) -> tuple[str, dict[str, Any]]:
    """The id of a frame, and what it says."""
    lines = (await asyncio.wait_for(anext(frames), 5)).decode().split("\n")
    assert lines[1] == "event: frame"
    return lines[0].removeprefix("id: "), json.loads(lines[2].removeprefix("data: "))


async def test_a_listener_resumes_and_nobody_looks_for_nobody() -> None:
    orchestrator, draw = _cluster(), np.random.default_rng(2)
    await orchestrator.start()
    stream = ViewStream(ClusterPicture(orchestrator), tick_s=0.001, gap_s=0.001)
    frames = stream.frames()
    _, whole = await _next(frames)
    assert whole["reset"]
    await orchestrator.submit_job(_job(0, draw))
    last, change = await _next(frames)
    assert "reset" not in change
    assert next(e["job_id"] for e in change["events"]) == "job-0"
    assert stream.listeners == 1
    await frames.aclose()
    assert stream.listeners == 0

    await orchestrator.submit_job(_job(1, draw))
    again = stream.frames(last)  # it gets what it has missed, and no more
    ident, missed = await _next(again)
    assert "reset" not in missed
    assert {e["job_id"] for e in missed["events"]} == {"job-1"}
    assert ident != last
    for unknown in ("", "somebody-3", f"{last}0", "x"):
        other = stream.frames(unknown)
        assert (await _next(other))[1]["reset"]
        await other.aclose()
    await again.aclose()
    applied = stream.whole()
    await asyncio.sleep(0.02)
    assert json.loads(stream.whole())["gangs"] == json.loads(applied)["gangs"]
    await orchestrator.stop()


async def test_the_whole_is_made_once_for_all_until_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator, draw = _cluster(), np.random.default_rng(3)
    clock = orchestrator.clock
    assert isinstance(clock, VirtualClock)
    await orchestrator.start()
    picture = ClusterPicture(orchestrator)
    made: list[dict[str, Any]] = []
    make = picture.whole

    def count() -> dict[str, Any]:
        made.append(make())
        return dict(made[-1])

    monkeypatch.setattr(picture, "whole", count)
    stream = ViewStream(picture)
    first = json.loads(stream.whole())
    await clock.advance_to(clock.now_ms() + 10)
    second = json.loads(stream.whole())
    assert len(made) == 1
    assert first == _plain(made[0])
    assert second == {**first, "now_ms": clock.now_ms()}
    await orchestrator.submit_job(_job(0, draw))
    assert json.loads(stream.whole()) == _plain(made[1])
    await orchestrator.stop()


async def test_who_is_too_late_gets_all_of_it_and_two_get_the_same() -> None:
    orchestrator = _cluster()
    await orchestrator.start()
    stream = ViewStream(ClusterPicture(orchestrator), tick_s=0.001, gap_s=0.0)
    quick, slow = stream.frames(), stream.frames()
    first = await _next(slow)
    assert first == await _next(quick)
    for _ in range(80):
        await orchestrator.register_node(NodeSpec("n4", 4, 80.0, 16, 64.0, 10.0, "NVLink"))
        await _next(quick)
        await orchestrator.decommission_node("n4", drain=False)
        await _next(quick)
    assert (await _next(slow))[1]["reset"]
    await quick.aclose()
    await slow.aclose()
    await orchestrator.stop()


def test_a_band_is_made_of_errors_of_the_past() -> None:
    assert load_band(np.arange(12.0)) == []
    steady = load_band(np.full(100, 7.0))
    assert [row[0] for row in steady] == [5, 15, 30, 60]
    assert all(row[1:] == [7.0, 7.0, 7.0] for row in steady)
    rising = load_band(np.arange(100.0))
    assert [row[2] for row in rising] == [104.0, 114.0, 129.0, 159.0]
    wild = load_band(np.abs(np.random.default_rng(0).normal(3.0, 9.0, 300)))
    assert all(0.0 <= low <= middle <= high for _, low, middle, high in wild)


async def test_services_are_sampled_once_a_second() -> None:
    orchestrator = _cluster()
    clock = orchestrator.clock
    assert isinstance(clock, VirtualClock)
    await orchestrator.start()
    orchestrator.mesh.add_service(ServiceSpec("chat", 20.0, objective_ms=50.0))
    orchestrator.mesh.register("chat", "here")
    picture = ClusterPicture(orchestrator)
    assert picture.changes()["services"]["chat"]["replicas"] == [["here", "healthy"]]
    await clock.advance_to(clock.now_ms() + 500)
    assert "services" not in picture.changes()

    async def answer(address: str, request: object) -> str:
        await clock.sleep_until(clock.now_ms() + 20)
        return f"{address}{request}"

    for _ in range(3):
        asked = asyncio.ensure_future(orchestrator.mesh.route("chat", 0, answer))
        await clock.advance_to(clock.now_ms() + 250)
        await asked
    told = picture.changes()["services"]["chat"]
    assert told["points"][0][1] == round(3000 / 1250, 2)
    assert told["points"][0][2] is not None
    assert told["within"] == 1.0
    orchestrator.mesh.remove_service("chat")
    await clock.advance_to(clock.now_ms() + 1000)
    assert picture.changes()["services"] == {"chat": None}
    assert "chat" not in picture.whole()["services"]
    await orchestrator.stop()


async def test_it_is_for_viewers_and_the_page_for_everybody() -> None:
    async with world() as here:
        async with here.client(None) as stranger:
            for path in ("/api/v1/view", "/api/v1/view/stream"):
                assert (await stranger.get(path)).status_code == 401
            page = await stranger.get("/")
            assert page.status_code == 200
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
            assert (await stranger.get("/page/main.js")).status_code == 200
            assert (await stranger.get("/page/../view/picture.py")).status_code in (401, 404)
        async with here.client(Role.VIEWER) as viewer:
            answer = await viewer.get("/api/v1/view")
            assert answer.status_code == 200
            assert answer.json()["nodes"]["id"] == ["n0", "n1"]
            assert answer.json()["policy"]["deployed"] is False
