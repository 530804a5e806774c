"""What happens is told in order, once, and to those who come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.listen import HttpServer, bind
from tests.server.world import World, job, problem, until, world


async def _some(here: World, client: httpx.AsyncClient, count: int = 3) -> list[str]:
    found = []
    for k in range(count):
        body = job(f"job-{k}", gpus_per_worker=1, max_duration_hours=0.01)
        found.append((await client.post("/api/v1/jobs", json=body)).json()["job_id"])
    await here.clock.advance_to(here.clock.now_ms() + 60_000)
    return found


async def test_pages_of_events_make_all_of_them() -> None:
    async with world() as here, here.client() as client:
        ids = await _some(here, client)
        whole = (await client.get("/api/v1/events", params={"since": "0.0", "limit": 1000})).json()
        assert not whole["gap"]
        pages: list[dict[str, Any]] = []
        cursor = "0.0"
        while True:
            params = {"since": cursor, "limit": 2}
            page = (await client.get("/api/v1/events", params=params)).json()
            if not page["items"]:
                break
            pages += page["items"]
            cursor = page["next_cursor"]
        assert pages == whole["items"]
        told = [(one["job_id"], one["what"]) for one in pages if one["kind"] == "job"]
        for job_id in ids:
            whats = [what for name, what in told if name == job_id]
            assert whats == ["submitted", "started", "completed"]
        bad = await client.get("/api/v1/events", params={"since": "x"})
        assert problem(bad)["status"] == 422


def _read(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Events of a stream: identity and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in fields:
            found.append((fields["id"], json.loads(fields["data"])))
    return found


async def test_a_stream_goes_on_after_the_last_event_that_was_seen() -> None:
    async with world() as here, here.client() as asking:
        server = HttpServer(here.app, bind("127.0.0.1", 0), Limits(), stop_s=1)
        await server.open()
        url = f"http://127.0.0.1:{server.port}/api/v1/events/stream"
        headers, begun = dict(asking.headers), asyncio.Event()

        async def read(count: int, **more: str) -> list[tuple[str, dict[str, Any]]]:
            text = ""
            async with (
                httpx.AsyncClient(headers=headers | more, timeout=10) as client,
                client.stream("GET", url) as stream,
            ):
                assert stream.headers["content-type"].startswith("text/event-stream")
                async for part in stream.aiter_text():
                    text += part
                    begun.set()
                    if len(_read(text)) >= count:
                        break
            return _read(text)[:count]

        try:
            await _some(here, asking)
            params = {"since": "0.0", "limit": 1000}
            every = (await asking.get("/api/v1/events", params=params)).json()["items"]
            first = await read(3, **{"Last-Event-ID": "0.0"})
            rest = await read(len(every) - 3, **{"Last-Event-ID": first[-1][0]})
            assert [data for _, data in first + rest] == every
            assert [cursor for cursor, _ in first + rest] == [one["cursor"] for one in every]
            begun.clear()
            live = asyncio.create_task(read(1))
            await begun.wait()
            await asking.post("/api/v1/jobs", json=job("new"))
            assert (await live)[0][1]["what"] == "submitted"
        finally:
            here.parts.streams.close()
            await server.close()


async def test_waiting_ends_with_the_job_or_the_time() -> None:
    async with world() as here, here.client() as client:
        body = job("one", gpus_per_worker=1, max_duration_hours=0.01)
        job_id = (await client.post("/api/v1/jobs", json=body)).json()["job_id"]
        path = f"/api/v1/jobs/{job_id}/wait"
        early = (await client.get(path, params={"timeout_s": 0.05})).json()
        assert early["ended"] is False
        waiting = asyncio.create_task(client.get(path, params={"timeout_s": 30}))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await here.clock.advance_to(here.clock.now_ms() + 60_000)
        assert (await waiting).json()["state"] == "completed"
        assert here.parts.streams.open == 0
        assert (await client.get("/api/v1/jobs/none/wait")).status_code == 404


async def test_waiting_is_told_that_the_server_goes_down() -> None:
    async with world() as here, here.client() as client:
        body = job("one", gpus_per_worker=1)
        job_id = (await client.post("/api/v1/jobs", json=body)).json()["job_id"]
        path = f"/api/v1/jobs/{job_id}/wait"
        waiting = asyncio.create_task(client.get(path, params={"timeout_s": 30}))
        await until(lambda: here.parts.streams.open == 1)
        here.parts.streams.close()
        answer = await waiting
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert problem(answer)["title"] == "going down"
