"""Routes of nodes, the queue and the cluster, and what monitoring is told."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.foundations import in_memory
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.server.exposition import Exposition
from orchestrator.server.guard.audit import JsonLines
from orchestrator.server.guard.tokens import Role
from tests.server.world import SHAPE, job, problem, world

_NODE = {"node_id": "n9", "gpus": 2, "gpu_memory_gb": 80, "cpu_cores": 8, "memory_gb": 32}


async def test_nodes_join_drain_stay_and_leave() -> None:
    async with world() as here, here.client() as client:
        assert (await client.post("/api/v1/nodes", json=_NODE)).status_code == 201
        twice = await client.post("/api/v1/nodes", json=_NODE)
        assert twice.status_code == 422
        assert "is taken" in problem(twice)["detail"]
        listed = (await client.get("/api/v1/nodes")).json()["items"]
        assert [one["node_id"] for one in listed] == ["n0", "n1", "n9"]
        body = job(gpus_per_worker=4, num_workers=1)
        job_id = (await client.post("/api/v1/jobs", json=body)).json()["job_id"]
        await here.clock.advance_to(here.clock.now_ms() + 1000)
        (node_id,) = (await client.get(f"/api/v1/jobs/{job_id}")).json()["node_ids"]
        path = f"/api/v1/nodes/{node_id}"
        assert (await client.get(path)).json()["jobs"] == [job_id]
        assert (await client.post("/api/v1/nodes/n9/drain")).json()["done"] is True
        assert (await client.post("/api/v1/nodes/n9/undrain")).status_code == 409  # it has left
        assert (await client.post(f"{path}/undrain")).json()["done"] is False
        assert (await client.get("/api/v1/nodes/n9")).status_code == 404
        for name in ("n0", "n1"):  # the last one may go, too: whatever runs is saved and waits
            assert (await client.post(f"/api/v1/nodes/{name}/drain")).json()["done"] is True
        await here.clock.advance_to(here.clock.now_ms() + 60_000)
        assert (await client.get("/api/v1/nodes")).json()["items"] == []
        told = (await client.get(f"/api/v1/jobs/{job_id}")).json()
        assert told["state"] == "preempted"
        assert told["unplaceable"] is True
        assert (await client.post("/api/v1/nodes/none/drain")).status_code == 404


async def test_the_queue_says_who_waits_for_what() -> None:
    async with world() as here, here.client() as client:
        for k in range(5):
            body = job(f"j{k}", gpus_per_worker=4, max_duration_hours=1)
            await client.post("/api/v1/jobs", json=body)
        await here.clock.advance_to(here.clock.now_ms() + 1000)
        first = (await client.get("/api/v1/queue", params={"limit": 2})).json()
        assert [one["position"] for one in first["items"]] == [1, 2]
        assert first["items"][0]["reason"] == "no_capacity"
        assert first["items"][0]["waits_for"]["resource"] == "gpus"
        assert first["items"][0]["expected_start_ms"] > here.clock.now_ms()
        params = {"limit": 2, "cursor": first["next_cursor"]}
        rest = (await client.get("/api/v1/queue", params=params)).json()
        assert [one["position"] for one in rest["items"]] == [3]
        assert rest["next_cursor"] is None
        cluster = (await client.get("/api/v1/cluster")).json()
        assert cluster["queue"]["length"] == 3


def _samples(text: str) -> dict[str, float]:
    """Values by name and labels."""
    return {
        f"{one.name}{json.dumps(one.labels, sort_keys=True)}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


async def test_metrics_say_what_goes_on() -> None:
    async with world() as here, here.client() as client:
        metrics = Exposition(here.orchestrator)
        watching = metrics.start()
        await asyncio.sleep(0)
        for k in range(3):
            body = job(f"j{k}", gpus_per_worker=4, max_duration_hours=0.01)
            await client.post("/api/v1/jobs", json=body)
        await here.clock.advance_to(here.clock.now_ms() + 1000)
        await client.get("/api/v1/jobs/none")
        text = (await client.get("/metrics")).text
        found = _samples(text)
        assert found['quartermaster_jobs{"state": "running"}'] == 2
        assert found['quartermaster_gpus{"state": "allocated"}'] == 8
        assert found["quartermaster_utilization_ratio{}"] == 1
        assert found["quartermaster_queue_jobs{}"] == 1
        assert found["quartermaster_job_starts_total{}"] == 2
        route = '"route": "/api/v1/jobs/{job_id}", "status": "404"'
        assert found['quartermaster_http_requests_total{"method": "GET", ' + route + "}"] == 1
        await asyncio.sleep(0)
        seen = _samples(metrics.text().decode())
        assert seen["quartermaster_job_wait_seconds_count{}"] == 2
        assert seen["quartermaster_scheduling_cycle_seconds_count{}"] > 0
        assert seen['quartermaster_events_total{"kind": "job", "what": "started"}'] == 2
        watching.cancel()
        for family in text_string_to_metric_families(text):
            assert family.name.startswith("quartermaster_"), family.name
            assert family.documentation, family.name


async def test_labels_are_bounded_whatever_is_asked_for() -> None:
    async with world() as here, here.client() as client:
        before = len(_samples((await client.get("/metrics")).text))
        for k in range(50):
            await client.get(f"/api/v1/jobs/job-{k}")
            await client.get(f"/nowhere/{k}")
            await client.request(f"ODD{k}", "/api/v1/jobs")
        after = len(_samples((await client.get("/metrics")).text))
        assert after - before < 100  # of three routes


async def test_whoever_changes_something_is_written_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with world() as here:
        async with here.client(Role.SUBMITTER) as client:
            made = (await client.post("/api/v1/jobs", json=job())).json()["job_id"]
            await client.get("/api/v1/cluster")
            await client.post(f"/api/v1/jobs/{made}/cancel", json={"reason": "why\nnot"})
            await client.post("/api/v1/nodes", json=_NODE)
        lines: list[dict[str, Any]] = [
            json.loads(JsonLines().format(record))
            for record in caplog.records
            if record.name == "orchestrator.server.audit"
        ]
    told = [(line["who"], line["path"].rpartition("/")[2], line["status"]) for line in lines]
    assert told == [
        ("submitter", "jobs", 201),
        ("submitter", "cancel", 200),
        ("submitter", "nodes", 403),
    ]
    assert lines[0]["job_id"] == made
    assert lines[1]["reason"] == "why\nnot"
    assert not any(text in caplog.text for text in here.texts.values())


async def test_a_server_whose_log_somebody_else_leads_is_not_ready() -> None:
    async with world() as here, here.client(None) as client:
        assert (await client.get("/readyz")).status_code == 200
        old = here.orchestrator
        other = InfrastructureOrchestrator(
            old.consensus, *in_memory(here.clock)[1:], clock=here.clock, shape=SHAPE
        )
        await other.start()
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["why"] == "another server leads the log"
        await other.stop()
