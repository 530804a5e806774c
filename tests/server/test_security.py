"""Nobody gets in without a token, or does more than its role allows; and nothing gets out."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import StreamingResponse

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError, StorageError
from orchestrator.server.app import API, _adopt
from orchestrator.server.guard.audit import hidden
from orchestrator.server.guard.gate import OPEN_PATHS, Limits
from orchestrator.server.guard.tokens import Role, TokenStore
from orchestrator.server.parts import Streams
from orchestrator.server.problems import ProblemError
from tests.server.world import World, job, problem, until, world

_OPERATOR = {
    "POST /nodes",
    "POST /nodes/{node_id}/drain",
    "POST /nodes/{node_id}/undrain",
    "GET /tokens",
    "POST /tokens",
    "DELETE /tokens/{name}",
}
_SUBMITTER = {
    "POST /jobs",
    "POST /jobs/{job_id}/cancel",
    "POST /jobs/{job_id}/scale",
    "POST /jobs/{job_id}/preempt",
}
_VIEWER = {
    "GET /version",
    "GET /jobs",
    "GET /jobs/{job_id}",
    "GET /jobs/{job_id}/logs",
    "GET /jobs/{job_id}/wait",
    "GET /nodes",
    "GET /nodes/{node_id}",
    "GET /cluster",
    "GET /queue",
    "GET /events",
    "GET /events/stream",
    "GET /jobs/{job_id}/when",
    "GET /jobs/{job_id}/why",
    "GET /starts",
    "POST /what-if",
}


async def _operations(here: World) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of all that the API says it answers."""
    async with here.client(None) as client:
        told = (await client.get("/api/v1/openapi.json")).json()
    return [
        (method.upper(), path, operation)
        for path, operations in told["paths"].items()
        for method, operation in operations.items()
    ]


def _filled(path: str) -> str:
    return re.sub(r"{[^}]*}", "x", path)


async def test_no_route_is_answered_without_a_good_token() -> None:
    async with world() as here:
        found = await _operations(here)
        assert len(found) > 20
        text = here.parts.tokens.create("late", Role.OPERATOR, expires_hours=1.0)
        await here.clock.advance_to(here.clock.now_ms() + 3_600_000)
        for headers in (
            {},
            {"Authorization": "Bearer nobody"},
            {"Authorization": f"Bearer {text}"},
        ):
            async with here.client(None, **headers) as client:
                for method, path, _ in found:
                    answer = await client.request(method, _filled(path))
                    if path in OPEN_PATHS:
                        assert answer.status_code == 200, path
                        continue
                    assert answer.status_code == 401, (method, path)
                    assert "Bearer" in answer.headers["WWW-Authenticate"]
                    if method != "HEAD":  # it has no body
                        problem(answer)
        assert here.orchestrator.jobs == {}


async def test_every_route_keeps_to_its_role() -> None:
    async with world() as here:
        for method, path, operation in await _operations(here):
            if path in OPEN_PATHS or path == "/metrics":
                continue
            name = f"{method} {path.removeprefix('/api/v1')}"
            expected = _role_of(name)
            said = Role[operation["x-role"].upper()]
            if expected is not None:
                assert said == expected, name
            elif method != "GET":
                assert said > Role.VIEWER, name
            for role in Role:
                if role >= said:
                    continue
                async with here.client(role) as client:
                    answer = await client.request(method, _filled(path))
                assert answer.status_code == 403, (name, role)
                assert method == "HEAD" or problem(answer)["title"] == "not allowed"


def _role_of(name: str) -> Role | None:
    """What was agreed upon; None: of routes of other parts."""
    for role, names in (
        (Role.OPERATOR, _OPERATOR),
        (Role.SUBMITTER, _SUBMITTER),
        (Role.VIEWER, _VIEWER),
    ):
        if name in names:
            return role
    return None


async def test_all_that_was_agreed_upon_is_there() -> None:
    async with world() as here:
        found = await _operations(here)
    names = {f"{method} {path.removeprefix('/api/v1')}" for method, path, _ in found}
    assert names >= _OPERATOR | _SUBMITTER | _VIEWER | {
        "GET /metrics",
        "GET /healthz",
        "GET /readyz",
    }


async def test_what_is_not_described_is_closed_too() -> None:
    async with world() as here, here.client(None) as client:
        for path in ("/api/v1/nowhere", "/docs", "/api/v1", "/page", "/healthz/", "/metrics"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.post("/healthz")).status_code == 401
        assert (await client.post("/page/x")).status_code == 401


def test_a_route_without_a_role_is_refused() -> None:
    router = APIRouter()
    router.get("/open")(lambda: None)
    with pytest.raises(ConfigurationError, match="/open does not say who may use it"):
        _adopt(FastAPI(), router, API)


_ESCAPES = (
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "..%5c..%5cetc",
    "%00",
    "a%2f..%2fb",
    "....//....//etc/passwd",
    "%252e%252e%252f",
    "x%0d%0aSet-Cookie:%20a=b",
)


@pytest.mark.parametrize("escape", _ESCAPES)
async def test_ids_do_not_leave_their_folder(escape: str) -> None:
    async with world() as here, here.client() as client:
        for path in (
            f"/api/v1/jobs/{escape}",
            f"/api/v1/jobs/{escape}/logs",
            f"/api/v1/nodes/{escape}",
            f"/page/{escape}",
        ):
            answer = await client.get(path)
            assert answer.status_code == 404, path
            assert "root:" not in answer.text
            assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("job_id", ["../x", "a/b", "", ".", "..", "-rf", "a b", "a\n", "a\0b", "ä"])
async def test_odd_ids_are_refused(job_id: str) -> None:
    async with world() as here, here.client() as client:
        answer = await client.post("/api/v1/jobs", json=job(job_id=job_id))
        assert answer.status_code == 422, answer.text
        assert problem(answer)["field"] == "job_id"
        assert here.orchestrator.jobs == {}


async def test_pages_of_other_origins_cannot_write() -> None:
    async with world() as here, here.client() as client:
        for origin in ("http://evil.example", "null", "https://here", "http://here:81"):
            answer = await client.post("/api/v1/jobs", json=job(), headers={"Origin": origin})
            assert answer.status_code == 403, origin
        own = await client.post("/api/v1/jobs", json=job(), headers={"Origin": "http://here"})
        assert own.status_code == 201
        read = await client.get("/api/v1/cluster", headers={"Origin": "http://evil.example"})
        assert read.status_code == 200
        assert not [name for name in read.headers if name.lower().startswith("access-control")]
        asked = await client.options(
            "/api/v1/jobs",
            headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert asked.status_code == 405


async def test_large_bodies_are_refused_with_and_without_a_length() -> None:
    limits = Limits(body_bytes=1000, requests_per_s=0.0)
    async with world(limits) as here, here.client() as client:

        async def parts() -> Any:
            for _ in range(20):
                yield b" " * 100

        for body in (b"x" * 1001, parts()):
            answer = await client.post("/api/v1/jobs", content=body)
            assert answer.status_code == 413, answer.text
            assert "1000 bytes" in problem(answer)["detail"]
        assert (await client.post("/api/v1/jobs", json=job())).status_code == 201


async def test_one_token_cannot_ask_too_often_and_others_are_not_touched() -> None:
    limits = Limits(requests_per_s=1.0, burst=3.0)
    async with world(limits) as here:
        async with here.client(Role.VIEWER) as client:
            got = [(await client.get("/api/v1/version")).status_code for _ in range(5)]
            assert got[:3] == [200, 200, 200]
            assert 429 in got
            refused = await client.get("/api/v1/version")
            assert refused.headers["Retry-After"] == "1"
            problem(refused)
        async with here.client(Role.OPERATOR) as client:
            assert (await client.get("/api/v1/version")).status_code == 200


async def test_tokens_are_compared_in_a_time_that_tells_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    true = hmac.compare_digest

    def noting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return true(a, b)

    async with world() as here, here.client(Role.VIEWER) as client:
        monkeypatch.setattr("orchestrator.server.guard.tokens.hmac.compare_digest", noting)
        assert (await client.get("/api/v1/version")).status_code == 200
        assert len(compared) == len(here.parts.tokens)  # all of them, whichever it is


async def test_a_token_is_told_once_and_ends_when_it_is_deleted() -> None:
    async with world() as here, here.client() as operator:
        body = {"name": "ci", "role": "submitter", "expires_hours": 2}
        made = await operator.post("/api/v1/tokens", json=body)
        assert made.status_code == 201
        text = made.json()["token"]
        listed = await operator.get("/api/v1/tokens")
        assert text not in listed.text
        assert "ci" in [one["name"] for one in listed.json()["items"]]
        assert (await operator.post("/api/v1/tokens", json=body)).status_code == 422
        async with here.client(None, Authorization=f"Bearer {text}") as other:
            assert (await other.get("/api/v1/version")).status_code == 200
            assert (await operator.delete("/api/v1/tokens/ci")).status_code == 200
            assert (await other.get("/api/v1/version")).status_code == 401
        assert (await operator.delete("/api/v1/tokens/ci")).status_code == 404
        assert (await operator.delete("/api/v1/tokens/operator")).status_code == 409


def test_only_hashes_are_on_disk_and_a_damaged_file_is_said(tmp_path: Any) -> None:
    from orchestrator.clock import VirtualClock

    path = tmp_path / "tokens.json"
    store = TokenStore(path, VirtualClock(5))
    texts = [store.create(role.name.lower(), role) for role in Role]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(text in path.read_text() for text in texts)
    again = TokenStore(path, VirtualClock(5))
    assert [again.principal(text).role for text in texts] == list(Role)
    assert again.principal(texts[0][:-1]) is None
    path.write_text("[{")
    with pytest.raises(ConfigurationError, match="damaged"):
        TokenStore(path, VirtualClock(5))


def test_what_looks_like_a_token_is_not_written_down() -> None:
    said = hidden(
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz012345, token=abcdefghij0123456789"
    )
    assert "abcdefghij" not in said
    assert hidden("the token is unknown") == "the token is unknown"


async def test_a_token_in_a_path_is_not_written_down(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "orchestrator.server.audit")
    async with world() as here, here.client() as client:
        text = here.texts[Role.OPERATOR]
        for path in (f"/api/v1/tokens/{text}", f"/{'x' * 490}/{text}/y", f"/{text}/{'x' * 900}"):
            await client.delete(path)
        paths = [one.fields["path"] for one in caplog.records if hasattr(one, "fields")]
        assert [path[:22] for path in paths[::2]] == ["/api/v1/tokens/(token)", "/(token)/..."]
        assert len(paths) == 3
        assert not any(text[:12] in path for path in paths)


async def test_only_requests_to_services_have_bodies_without_bounds() -> None:
    async with world(Limits(body_bytes=100, requests_per_s=0.0)) as here, here.client() as client:
        for path, status in (("svc/call/x", 404), ("call", 413), ("svc/callx/replace", 413)):
            answer = await client.post(f"/api/v1/services/{path}", content=200 * b"x")
            assert answer.status_code == status, path


async def test_what_nobody_foresaw_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as here:
        monkeypatch.setattr(here.orchestrator, "list_jobs", lambda **given: 1 / 0)
        transport = httpx.ASGITransport(app=here.app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {here.texts[Role.VIEWER]}"}
        async with httpx.AsyncClient(transport=transport, headers=headers) as client:
            answer = await client.get("http://here/api/v1/jobs")
        assert problem(answer)["status"] == 500
        assert "see server.log" in problem(answer)["detail"]


def test_a_token_that_cannot_be_written_down_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore(tmp_path / "tokens.json", VirtualClock(0))
    text = store.create("anna", Role.VIEWER)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.server.guard.tokens.write_private", full)
    for change in (
        lambda: store.create("berta", Role.VIEWER),
        lambda: store.renew("anna", Role.OPERATOR),
        lambda: store.revoke("anna"),
    ):
        with pytest.raises(StorageError, match="No space left on device; see to the disk"):
            change()
        assert [who.role for who in store.listing()] == [Role.VIEWER]
        assert store.principal(text) is not None


async def test_streams_of_a_token_are_bounded_and_end_with_it() -> None:
    clock = VirtualClock(0)
    store = TokenStore(None, clock)
    who = store.principal(store.create("anna", Role.VIEWER))
    late = store.principal(store.create("late", Role.VIEWER, expires_hours=1.0))
    assert who is not None
    assert late is not None
    streams = Streams(8, store, beat_s=0.02)
    endless = asyncio.Event()
    first = [asyncio.create_task(streams.race(who, endless.wait(), 60.0)) for _ in range(2)]
    await until(lambda: streams.open == 2)
    with pytest.raises(ProblemError, match="2 answers are being streamed to token 'anna'"):
        streams.reserve(who)
    streams.reserve(late)
    second = asyncio.create_task(streams.race(late, endless.wait(), 60.0))
    store.revoke("anna")
    await clock.advance_to(3_600_000)
    for ended in (*first, second):
        with pytest.raises(ProblemError, match="unknown or has expired"):
            await asyncio.wait_for(ended, 10.0)
    assert streams.open == 0


async def test_an_answer_without_an_end_ends_when_its_token_is_revoked() -> None:
    store = TokenStore(None, VirtualClock(0))
    who = store.principal(store.create("anna", Role.VIEWER))
    assert who is not None

    async def busy() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    streams = Streams(8, store, beat_s=0.02)
    answer = streams.stream(who, busy(), "text/plain")
    assert isinstance(answer, StreamingResponse)
    async with asyncio.timeout(10.0):
        async for _ in answer.body_iterator:
            if len(store):
                store.revoke("anna")
    assert streams.open == 0
