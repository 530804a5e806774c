"""Lists, a page at a time; the queue; and what has happened, with cursors that hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator import (
    ClusterShape,
    Happening,
    InMemoryConsensus,
    NodeSpec,
    ScalingDirection,
    VirtualClock,
)
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.errors import ConfigurationError, UnknownEntityError, ValidationError
from orchestrator.happenings import Happenings
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobKind
from tests.engine.builders import Stage, job, node, stage


async def _all_pages(s: Stage, limit: int, **chosen: Any) -> list[str]:
    found, cursor = list[str](), None
    while True:
        page, cursor = s.orchestrator.list_jobs(limit=limit, before=cursor, **chosen)
        assert len(page) <= limit
        found += [line["job_id"] for line in page]
        if cursor is None:
            return found


# --- jobs and nodes ------------------------------------------------------------------------------


async def test_jobs_are_listed_newest_first_a_page_at_a_time() -> None:
    s = stage(node("n0", gpus=2))
    for k in range(5):
        await s.orchestrator.submit_job(job(f"a{k}", name="train", tenant=f"t{k % 2}"))
        await s.wait(k % 2)  # some in the same millisecond
    await s.orchestrator.schedule()
    newest = ["a4", "a3", "a2", "a1", "a0"]
    for limit in (1, 2, 3, 5, 6):
        assert await _all_pages(s, limit) == newest
    assert await _all_pages(s, 1, state="running") == ["a1", "a0"]
    assert await _all_pages(s, 2, tenant="t0", name="train") == ["a4", "a2", "a0"]
    assert await _all_pages(s, 2, tenant="nobody") == []
    assert await _all_pages(s, 2, name="other") == []


async def test_new_jobs_do_not_move_pages() -> None:
    s = stage(node("n0"), shape=ClusterShape(envs=1, jobs=4, workers=4, nodes=1, devices=4))
    for k in range(4):
        await s.orchestrator.submit_job(job(f"a{k}"))
        await s.wait(1)
    await s.orchestrator.schedule()
    first, cursor = s.orchestrator.list_jobs(limit=2)
    await s.orchestrator.cancel_job("a0")
    await s.wait(1)
    await s.orchestrator.submit_job(job("b"))  # in the row of one that is forgotten
    second, end = s.orchestrator.list_jobs(limit=2, before=cursor)
    assert [line["job_id"] for line in first + second] == ["a3", "a2", "a1"]
    assert end is None


async def test_a_line_of_a_job_says_what_it_does() -> None:
    s = stage(node("n0", gpus=2))
    await s.orchestrator.submit_job(job("a", num_workers=2, tenant="ml"))
    await s.orchestrator.submit_job(job("b", kind=JobKind.BATCH))
    await s.orchestrator.schedule()
    (b, a), _ = s.orchestrator.list_jobs()
    assert a | {"priority": "", "kind": ""} == {
        "job_id": "a",
        "name": "a",
        "tenant": "ml",
        "priority": "",
        "kind": "",
        "state": "running",
        "workers": 2,
        "gpus": 2.0,
        "node_ids": ["n0"],
        "submit_ms": 0,
        "start_ms": 0,
        "end_ms": None,
        "queue_position": None,
        "reason": "2 workers on n0",
        "exit_code": None,
    }
    assert (b["state"], b["queue_position"], b["kind"]) == ("pending", 1, "BATCH")
    await s.wait(61)
    (line,), _ = s.orchestrator.list_jobs(state="completed")
    assert (line["end_ms"], line["exit_code"], line["node_ids"]) == (3_600_000, 0, ["n0"])


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"state": "asleep"}, "state"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"before": "x"}, "before"),
        ({"before": "1.x"}, "before"),
    ],
)
async def test_what_cannot_be_listed_is_refused(asked: dict[str, Any], field: str) -> None:
    s = stage(node("n0"))
    with pytest.raises(ValidationError, match=field):
        s.orchestrator.list_jobs(**asked)


async def test_nodes_say_who_is_on_them() -> None:
    s = stage(node("n0", gpus=2, rack=3), node("n1", gpus=4, spine=0))
    await s.orchestrator.submit_job(job("a", num_workers=3))
    await s.orchestrator.submit_job(job("b", gpu_fraction=0.5, gpus_per_worker=1))
    await s.orchestrator.schedule()
    lines = {line["node_id"]: line for line in s.orchestrator.list_nodes()}
    assert list(lines) == ["n0", "n1"]
    assert sum(line["gpus_free"] for line in lines.values()) == 6 - 3 - 0.5
    for job_id in "ab":
        there = s.orchestrator.get_job_status(job_id)["node_ids"]
        assert [name for name, line in lines.items() if job_id in line["jobs"]] == there
    assert (lines["n0"]["rack"], lines["n0"]["state"], lines["n0"]["suspect"]) == (3, "up", False)
    assert s.orchestrator.node_status("n1") == lines["n1"]
    assert await s.orchestrator.decommission_node("n1", drain=False)
    with pytest.raises(UnknownEntityError, match="has left"):
        s.orchestrator.node_status("n1")


# --- the queue -----------------------------------------------------------------------------------


def _names(page: tuple[list[dict[str, Any]], str | None]) -> list[str]:
    return [line["job_id"] for line in page[0]]


async def test_the_queue_is_in_the_order_in_which_jobs_are_served() -> None:
    s = stage(node("n0", gpus=1), policy=RULES["sjf"])
    await s.orchestrator.submit_job(job("runs"))
    await s.orchestrator.schedule()
    for name, hours in (("long", 8.0), ("short", 1.0), ("middle", 4.0)):
        await s.orchestrator.submit_job(job(name, max_duration_hours=hours))
    assert _names(s.orchestrator.queue()) == ["short", "middle", "long"]
    s.orchestrator.policy = RULES["fcfs"]
    page, _ = s.orchestrator.queue()
    assert [line["job_id"] for line in page] == ["long", "short", "middle"]
    assert [line["position"] for line in page] == [1, 2, 3]
    assert {line["reason"] for line in page} == {"no_capacity"}
    assert page[0]["waits_for"]["field"] == "gpus_per_worker"
    assert page[0]["expected_start_ms"] == 3_600_000
    first, cursor = s.orchestrator.queue(limit=1)
    assert _names((first, cursor)) == ["long"]
    assert _names(s.orchestrator.queue(limit=5, after=cursor)) == ["short", "middle"]
    await s.orchestrator.cancel_job("long")  # the one that the cursor names
    assert _names(s.orchestrator.queue(limit=5, after=cursor)) == ["short", "middle"]
    with pytest.raises(ValidationError, match="after"):
        s.orchestrator.queue(after="3")


# --- happenings ----------------------------------------------------------------------------------


def _told(found: list[Happening]) -> list[tuple[str, str, str | None]]:
    return [(one.kind, one.what, one.job_id or one.node_id) for one in found]


async def test_what_happens_is_told_in_order_and_once() -> None:
    s = stage(node("n0", gpus=1))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.orchestrator.handle_node_failure("n0")
    await s.orchestrator.handle_node_failure("n0")  # it is known
    await s.orchestrator.handle_node_recovery("n0")
    await s.orchestrator.decommission_node("n0")
    found, gap = s.orchestrator.happenings()
    assert not gap
    assert _told(found) == [
        ("job", "submitted", "a"),
        ("decision", "decided", None),
        ("job", "started", "a"),
        ("job", "interrupted", "a"),
        ("node", "failed", "n0"),
        ("node", "recovered", "n0"),
        ("node", "left", "n0"),
    ]
    assert found[1].details["actions"][0]["job_id"] == "a"
    assert found[3].as_dict()["state"] == "pending"
    for k, one in enumerate(found):
        assert s.orchestrator.happenings(one.cursor) == (found[k + 1 :], False)
        assert s.orchestrator.happenings(one.cursor, limit=1) == (found[k + 1 : k + 2], False)
    assert s.orchestrator.happenings(limit=2)[0] == found[-2:]
    assert all(one.as_dict()["cursor"] == one.cursor for one in found)


async def test_cursors_hold_over_a_restart() -> None:
    log = InMemoryConsensus()
    s = stage(node("n0", gpus=1), log=log)
    for name in "ab":
        await s.orchestrator.submit_job(job(name))
    await s.orchestrator.schedule()
    before, _ = s.orchestrator.happenings()
    again = stage(node("n0", gpus=1), log=log, clock=s.clock)
    assert again.orchestrator.happenings() == (before, False)
    assert again.orchestrator.happenings(before[1].cursor)[0] == before[2:]


async def test_what_a_snapshot_stands_for_is_a_gap() -> None:
    log = InMemoryConsensus(capacity=20)
    s = stage(node("n0"), log=log)
    for k in range(12):
        await s.orchestrator.submit_job(job(f"a{k}"))
    assert log.snapshot is not None
    first = s.orchestrator.happenings(limit=100)[0]
    assert [one.job_id for one in first] == [f"a{k}" for k in range(12)]
    again = stage(node("n0"), log=log, clock=s.clock)
    found, gap = again.orchestrator.happenings(first[0].cursor)
    assert gap
    assert found == first[-len(found) :]
    assert again.orchestrator.happenings(found[0].cursor) == (found[1:], False)


async def test_settings_services_and_announcements_are_told() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("web", kind=JobKind.SERVICE, num_workers=2))
    await s.orchestrator.schedule()
    s.orchestrator.policy = RULES["sjf"]
    await s.orchestrator.announce("policy", "shadow", "it only watches", bundle="b1", share=0.5)
    found, _ = s.orchestrator.happenings()
    assert _told(found)[-4:] == [
        ("job", "started", "web"),
        ("service", "replicas", "web"),
        ("policy", "set", None),
        ("policy", "shadow", None),
    ]
    assert found[-3].details == {"service": "web", "replicas": 2}
    assert found[-2].details == {"rule": "sjf"}
    assert found[-1].details == {"bundle": "b1", "share": 0.5}


async def test_a_change_of_the_fleet_is_told_and_in_the_log() -> None:
    clock, log = VirtualClock(), InMemoryConsensus()
    s = stage(
        node("n0"),
        clock=clock,
        log=log,
        provisioner=SimulatedProvisioner(clock, node("rented"), delay_s=60.0),
        autoscaler=HorizontalScaler(ScalingPlan(4.0, target_utilisation=1.0)),
        schedule_on_events=True,
    )
    await s.orchestrator.submit_job(job("a", num_workers=4))
    await s.wait(1)
    assert (await s.orchestrator.auto_scale_cluster()).direction == ScalingDirection.NONE
    await s.orchestrator.submit_job(job("b", num_workers=4))
    decision = await s.orchestrator.auto_scale_cluster()
    await s.wait(2)
    found, _ = s.orchestrator.happenings()
    (told,) = [one for one in found if one.kind == "scaling"]
    assert (told.what, told.reason) == ("up", decision.reason)
    assert told.details["target_nodes"] == decision.target_nodes == 2
    (joined,) = [one for one in found if one.kind == "node"]
    assert (joined.what, joined.node_id is not None) == ("joined", True)
    again = stage(node("n0"), clock=clock, log=log)
    assert again.orchestrator.happenings() == (found, False)


async def test_who_follows_hears_what_comes() -> None:
    s = stage(node("n0"))
    heard = list[str]()

    async def listen() -> None:
        async for one in s.orchestrator.follow():
            heard.append(one.what)

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await asyncio.sleep(0)
    assert heard == ["submitted", "decided", "started"]
    await s.orchestrator.stop()
    await asyncio.wait_for(task, 5)


async def test_a_slow_follower_is_told_of_the_gap() -> None:
    s = stage(node("n0"))
    kept = s.orchestrator._happenings = Happenings(s.orchestrator.engine, most=4)
    reader = kept.follow(None)
    await s.orchestrator.submit_job(job("a"))
    first = await anext(reader)
    for k in range(12):
        await s.orchestrator.submit_job(
            job(f"b{k}", name="x"),
        )
    told = [await anext(reader) for _ in range(3)]
    assert (told[0].kind, told[0].as_dict()["gap"]) == ("gap", True)
    assert told[0].entry > first.entry
    assert [one.what for one in told[1:]] == ["submitted", "submitted"]
    assert len(kept._kept) <= 8
    found, gap = s.orchestrator.happenings(first.cursor, limit=100)
    assert gap
    assert len(found) == len(kept._kept)
    assert s.orchestrator.happenings(told[0].cursor, limit=100) == (found, False)


@pytest.mark.parametrize("cursor", ["", "1", "x.1", "1.", "-1.0"])
async def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    s = stage(node("n0"))
    with pytest.raises(ValidationError, match="since"):
        s.orchestrator.happenings(cursor)


async def test_a_simulated_cluster_has_no_output() -> None:
    s = stage(NodeSpec("n0", 4, 80.0, 64, 512.0, 100.0, "NVLink"))
    await s.orchestrator.submit_job(job("a"))
    with pytest.raises(ConfigurationError, match="keeps nothing of what workers write"):
        await s.orchestrator.output("a")
    with pytest.raises(UnknownEntityError, match="no job 'b'"):
        await s.orchestrator.output("b")
