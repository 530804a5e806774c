"""Routes of the twin: answers as plain data, problems where there is none, and nothing changes."""

from __future__ import annotations

from orchestrator.server.guard.tokens import Role
from tests.server.world import job, problem, world


async def test_viewers_ask_when_why_and_what_if() -> None:
    async with world() as here, here.client(Role.OPERATOR) as operator:
        for name, workers in (("runs", 8), ("waits", 4)):
            body = job(name, job_id=name, num_workers=workers, gpus_per_worker=1)
            assert (await operator.post("/api/v1/jobs", json=body)).status_code == 201
        await here.clock.advance_to(here.clock.now_ms() + 10)
        engine = here.orchestrator.engine
        before = engine.log_hash, engine.applied
        async with here.client(Role.VIEWER) as client:
            when = (await client.get("/api/v1/jobs/waits/when?futures=8")).json()
            assert when["start"]["p10"] <= when["start"]["p90"] <= when["end"]["p90"]
            assert when["sources"]["same_time_of"] == "none"
            assert when["waits_for"]["reason"] == "no_capacity"
            starts = (await client.get("/api/v1/starts?futures=8")).json()["items"]
            assert list(starts) == ["waits"]
            why = (await client.get("/api/v1/jobs/waits/why")).json()
            assert why["held_by"][0]["job_id"] == "runs"
            nodes = next(one for one in why["changes"] if one["what"] == "nodes")
            assert nodes["to"] == {"like": "n0", "count": 1}
            body = {"nodes": {"n0": 1}, "futures": 8}
            told = (await client.post("/api/v1/what-if", json=body)).json()
            assert told["jobs"]["waits"]["mean"] < 0
            courses = told["courses"]
            assert courses["waiting"]["p50"][0] == 1
            assert courses["waiting_after"]["p50"][0] == 0
            assert len(courses["times_ms"]) == len(courses["in_use_after"]["p90"])
            body = {"submit": job("new", gpus_per_worker=1), "futures": 8}
            told = (await client.post("/api/v1/what-if", json=body)).json()
            assert told["new_job"]["start"]["p50"] is not None
        assert (engine.log_hash, engine.applied) == before
        assert len(here.orchestrator.jobs) == 2


async def test_questions_that_cannot_be_answered_are_problems() -> None:
    async with world() as here, here.client(Role.VIEWER) as client:
        nobody = await client.get("/api/v1/jobs/nobody/when")
        assert problem(nobody)["status"] == 404
        assert (await client.get("/api/v1/starts")).json() == {"items": {}}
        empty = await client.post("/api/v1/what-if", json={"policy": "sjf"})
        assert "submit one, then ask" in problem(empty)["detail"]
        async with here.client(Role.OPERATOR) as operator:
            await operator.post("/api/v1/jobs", json=job("runs", job_id="runs"))
        await here.clock.advance_to(here.clock.now_ms() + 10)
        for body, said in (
            ({}, "nothing is supposed"),
            ({"policy": "os:system"}, "unknown policy"),
            ({"priority": {"runs": "urgent"}}, "CRITICAL"),
            ({"drain": ["x"]}, "no node 'x'"),
        ):
            answer = await client.post("/api/v1/what-if", json=body)
            assert said in problem(answer)["detail"], body
        assert problem(await client.get("/api/v1/jobs/runs/why"))["status"] == 409
