"""Routes of jobs over a simulated cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.errors import ValidationError
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.server.guard.repeats import Repeats
from tests.server.world import World, job, problem, world


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


async def _started(here: World, client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post("/api/v1/jobs", json=job(**fields))
    assert answer.status_code == 201, answer.text
    await here.clock.advance_to(here.clock.now_ms() + 1000)
    return str(answer.json()["job_id"])


async def test_a_taken_id_is_a_conflict() -> None:
    async with world() as here, here.client() as client:
        await _started(here, client, job_id="mine")
        for params in ({}, {"dry_run": "true"}):
            again = await client.post("/api/v1/jobs", json=job(job_id="mine"), params=params)
            assert again.status_code == 409
            assert problem(again)["field"] == "job_id"


async def test_a_dry_run_says_what_a_submission_would_and_submits_nothing() -> None:
    async with world() as here, here.client() as client:
        fine = await client.post("/api/v1/jobs", json=job(), params={"dry_run": "true"})
        assert fine.status_code == 200
        assert fine.json()["dry_run"] is True
        for params in ({"dry_run": "true"}, {}):
            large = job(gpus_per_worker=8)
            refused = await client.post("/api/v1/jobs", json=large, params=params)
            assert refused.status_code == 422
            assert problem(refused)["field"] == "gpus_per_worker"
            assert "; ask for less" in problem(refused)["detail"]
        assert here.orchestrator.jobs == {}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"num_workers": "3"}, "num_workers"),
        ({"num_workers": 0}, "num_workers"),
        ({"num_workers": 1.5}, "num_workers"),
        ({"num_workers": True}, "num_workers"),
        ({"memory_per_worker_gb": -1}, "memory_per_worker_gb"),
        ({"priority": "urgent"}, "priority"),
        ({"topology": "galaxy"}, "topology"),
        ({"kind": ""}, "kind"),
        ({"command": "true"}, "command"),
        ({"command": ["a\0b"]}, "command"),
        ({"command": [""]}, "command"),
        ({"environment": {"A=B": "c"}}, "environment"),
        ({"elastic": "yes"}, "elastic"),
        ({"elastic": True, "num_workers": 9, "max_workers": 8}, "num_workers"),
        ({"min_workers": 5, "max_workers": 4}, "min_workers"),
        ({"surprise": 1}, "surprise"),
        ({"name": ""}, "name"),
        ({"max_duration_hours": 0}, "max_duration_hours"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(
    fields: dict[str, Any], field: str
) -> None:
    async with world() as here, here.client() as client:
        answer = await client.post("/api/v1/jobs", json=job() | fields)
        assert answer.status_code == 422, answer.text
        told = problem(answer)
        assert told["field"] == field
        assert ";" in told["detail"]
        assert here.orchestrator.jobs == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"name": NaN}',
        b'"x"',
        b"[" * 20_000,
        b'{"name": "\\ud800"}',
    ],
)
async def test_what_is_no_job_is_refused(body: bytes) -> None:
    async with world() as here, here.client() as client:
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/api/v1/jobs", content=body, headers=headers)
        assert answer.status_code == 422, answer.text
        problem(answer)
        assert here.orchestrator.jobs == {}


async def test_names_are_taken_in_any_case() -> None:
    async with world() as here, here.client() as client:
        fields = {"priority": "best_effort", "topology": "Rack", "kind": "batch"}
        job_id = await _started(here, client, **fields)
        spec = here.orchestrator.jobs[job_id]
        found = spec.priority.name, spec.topology.name, spec.kind.name
        assert found == ("BEST_EFFORT", "RACK", "BATCH")


async def test_jobs_are_listed_by_pages_and_filters() -> None:
    async with world() as here, here.client() as client:
        ids = [await _started(here, client, name=f"n-{k}", tenant=f"t{k % 2}") for k in range(5)]
        pages, cursor = list[str](), None
        while True:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/api/v1/jobs", params=params)).json()
            pages += [one["job_id"] for one in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert pages == ids[::-1]
        odd = (await client.get("/api/v1/jobs", params={"tenant": "t1"})).json()["items"]
        assert [one["job_id"] for one in odd] == [ids[3], ids[1]]
        running = await client.get("/api/v1/jobs", params={"state": "RUNNING", "name": "n-0"})
        assert [one["job_id"] for one in running.json()["items"]] == [ids[0]]
        for params in (
            {"state": "asleep"},
            {"limit": 0},
            {"limit": 5000},
            {"cursor": "x"},
            {"tenat": "t1"},
        ):
            assert (await client.get("/api/v1/jobs", params=params)).status_code == 422, params


async def test_jobs_are_scaled_within_limits_preempted_and_cancelled() -> None:
    async with world() as here, here.client() as client:
        fields = {"elastic": True, "max_workers": 4, "preemptible": True, "gpus_per_worker": 1}
        job_id = await _started(here, client, **fields)
        path = f"/api/v1/jobs/{job_id}"
        assert (await client.post(f"{path}/scale", json={"workers": 3})).json()["done"] is True
        far = (await client.post(f"{path}/scale", json={"workers": 9})).json()
        assert far["done"] is False
        assert far["why"]
        assert len(far["job"]["workers"]) == 3
        assert (await client.post(f"{path}/preempt", json={"reason": "mine"})).json()["done"]
        told = (await client.post(f"{path}/cancel", json={"reason": "enough"})).json()
        assert told["done"] is True
        assert (told["job"]["state"], told["job"]["reason"]) == ("failed", "cancelled: enough")
        for action, body in (
            ("cancel", None),
            ("preempt", None),
            ("scale", {"workers": 2}),
            ("migrate", None),
        ):
            late = (await client.post(f"{path}/{action}", json=body)).json()
            assert late["done"] is False
            assert "has ended (failed)" in late["why"]
        for action, body in (
            ("cancel", None),
            ("preempt", {}),
            ("scale", {"workers": 2}),
            ("migrate", None),
        ):
            answer = await client.post(f"/api/v1/jobs/none/{action}", json=body)
            assert answer.status_code == 404
            assert "none" in problem(answer)["detail"]


async def test_a_key_outlives_the_server_and_a_refusal_does_not_use_it_up(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "k"}
    async with world(folder=tmp_path) as here, here.client() as client:
        large = job(gpus_per_worker=8)
        refused = await client.post("/api/v1/jobs", json=large, headers=headers)
        assert refused.status_code == 422
        made = await client.post("/api/v1/jobs", json=job(), headers=headers)
        assert made.status_code == 201
    kept = Repeats(tmp_path / "requests.jsonl")
    assert (tmp_path / "requests.jsonl").stat().st_mode & 0o777 == 0o600
    async with kept.attempt("operator", "k", made.request.content, "other") as attempt:
        assert (attempt.job_id, attempt.again) == (made.json()["job_id"], True)
    with pytest.raises(ValidationError, match="another body"):
        async with kept.attempt("operator", "k", b"{}", "other"):
            pass
    async with kept.attempt("somebody else", "k", b"{}", "other") as attempt:
        assert not attempt.again
    kept.close()


async def test_keys_are_bounded_and_a_torn_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    kept = Repeats(path, keep=10)
    for k in range(1500):
        async with kept.attempt("w", str(k), b"x", f"job-{k}"):
            pass
    kept.close()
    assert len(kept) == 10
    assert len(path.read_bytes().splitlines()) < 1100
    with path.open("ab") as file:
        file.write(b'["half')
    again = Repeats(path, keep=10)
    assert len(again) == 10
    async with again.attempt("w", "1499", b"x", "other") as attempt:
        assert attempt.job_id == "job-1499"
    again.close()


async def test_a_key_is_remembered_longer_than_its_job() -> None:
    shape = ClusterShape(envs=1, jobs=4, workers=16, nodes=16, devices=8, tenants=32)
    async with world(shape=shape) as here, here.client() as client:
        key = {"Idempotency-Key": "once"}
        first = (await client.post("/api/v1/jobs", json=job("first"), headers=key)).json()
        await client.post(f"/api/v1/jobs/{first['job_id']}/cancel")
        for k in range(8):
            told = (await client.post("/api/v1/jobs", json=job(f"j{k}"))).json()
            await client.post(f"/api/v1/jobs/{told['job_id']}/cancel")
        assert first["job_id"] not in here.orchestrator.jobs
        again = await client.post("/api/v1/jobs", json=job("first"), headers=key)
        assert (again.status_code, again.json()["job_id"]) == (201, first["job_id"])
        assert first["job_id"] not in here.orchestrator.jobs


async def test_an_identity_that_is_made_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as here, here.client() as client:
        drawn = iter(["aa", "aa", "bb"])
        monkeypatch.setattr("secrets.token_hex", lambda size: next(drawn))
        made = [(await client.post("/api/v1/jobs", json=job("j"))).json() for _ in range(2)]
        assert [one["job_id"] for one in made] == ["j-aa", "j-bb"]
