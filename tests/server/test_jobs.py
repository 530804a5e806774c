"""Routes of jobs over a simulated cluster."""

from __future__ import annotations

import asyncio

from tests.server.world import job, problem, world


async def test_a_job_is_submitted_and_known() -> None:
    async with world() as here, here.client() as client:
        answer = await client.post("/api/v1/jobs", json=job("hello", gpus_per_worker=1))
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["job_id"]
        assert job_id.startswith("hello-")
        assert answer.json()["state"] == "pending"
        await here.clock.advance_to(here.clock.now_ms() + 1000)
        told = (await client.get(f"/api/v1/jobs/{job_id}")).json()
        assert told["state"] == "running"
        assert told["node_ids"]
        assert told["command"] == ["true"]


async def test_a_key_submits_once() -> None:
    async with world() as here, here.client() as client:
        headers = {"Idempotency-Key": "k"}
        first, again = await asyncio.gather(
            *(client.post("/api/v1/jobs", json=job(), headers=headers) for _ in range(2))
        )
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        assert len(here.orchestrator.jobs) == 1
        other = await client.post("/api/v1/jobs", json=job("other"), headers=headers)
        assert problem(other)["field"] == "Idempotency-Key"
        assert other.status_code == 422
