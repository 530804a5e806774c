"""Clients against a server that answers by a script: tries, errors, streams that are lost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import (
    AsyncClient,
    AuthError,
    Client,
    Endpoint,
    RequestFailedError,
    Retry,
    ServerUnreachableError,
    find_endpoint,
)
from orchestrator.errors import (
    CapacityError,
    ConfigurationError,
    IllegalActionError,
    NotLeaderError,
    QuartermasterError,
    RateLimitedError,
    UnknownEntityError,
    ValidationError,
)
from tests.client.fake import TOKEN, Asked, FakeServer, Says, lost, output, problem

_QUICK = Retry(patience_s=5.0, first_s=0.001, most_s=0.01)


class Both:
    """Either client, called the same way: what is to be awaited is."""

    def __init__(self, kind: type[Client] | type[AsyncClient], fake: FakeServer) -> None:
        self._kind, self._fake = kind, fake

    def __call__(self, name: str, /, *args: Any, **options: Any) -> Any:
        retry = options.pop("retry", _QUICK)
        if self._kind is Client:
            with Client(self._fake.endpoint, retry=retry) as client:
                found = getattr(client, name)(*args, **options)
                return list(found) if name in ("logs", "events") else found
        return asyncio.run(self._awaited(name, args, options, retry))

    async def _awaited(self, name: str, args: Any, options: Any, retry: Retry) -> Any:
        async with AsyncClient(self._fake.endpoint, retry=retry) as client:
            found = getattr(client, name)(*args, **options)
            if name in ("logs", "events"):
                return [each async for each in found]
            return await found


@pytest.fixture(params=[Client, AsyncClient])
def ask(request: pytest.FixtureRequest, fake: FakeServer) -> Both:
    return Both(request.param, fake)


def test_every_request_says_who_asks(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /version", {"version": "1", "api": 1})
    assert ask("version")["api"] == 1
    assert fake.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("failure", [lost(), problem(503, "starting; ask again", after=0)])
def test_a_submission_is_tried_again_with_the_same_key(
    ask: Both, fake: FakeServer, failure: Says
) -> None:
    fake.on("POST /jobs", failure, failure, Says({"job_id": "a", "state": "pending"}, 201))
    assert ask("submit", name="a", command=["true"])["job_id"] == "a"
    assert len(fake.asked) == 3
    assert len({asked.headers["Idempotency-Key"] for asked in fake.asked}) == 1
    assert fake.asked[0].body == {"name": "a", "command": ["true"]}


def test_two_submissions_have_two_keys(ask: Both, fake: FakeServer) -> None:
    fake.on("POST /jobs", Says({"job_id": "a", "state": "pending"}, 201))
    ask("submit", name="a")
    ask("submit", name="a", dry_run=True)
    first, second = fake.asked
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]
    assert (first.query, second.query) == ({}, {"dry_run": "true"})


def test_what_may_have_been_done_is_not_done_twice(ask: Both, fake: FakeServer) -> None:
    fake.on("POST /jobs/a/scale", lost(), {"done": True})
    with pytest.raises(ServerUnreachableError, match="the connection was lost"):
        ask("scale", "a", 2)
    assert len(fake.asked) == 1


def test_what_was_turned_away_is_asked_again(ask: Both, fake: FakeServer) -> None:
    fake.on("POST /jobs/a/scale", problem(429, "too many; wait", after=0), {"done": True})
    assert ask("scale", "a", 2) == {"done": True}
    assert fake.asked[1].body == {"workers": 2}


def test_who_never_answers_is_given_up(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /version", lost())
    with pytest.raises(ServerUnreachableError, match="server http://127"):
        ask("version", retry=Retry(patience_s=0.02, first_s=0.001))
    assert len(fake.asked) > 1


def test_a_server_that_was_never_there_is_given_up_sooner(fake: FakeServer) -> None:
    quick = Retry(3600.0, begin_s=0.02, first_s=0.001, most_s=0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = Client(Endpoint(f"http://127.0.0.1:{port}", TOKEN), retry=quick)
    with nobody, pytest.raises(ServerUnreachableError, match="nobody answers there"):
        nobody.version()
    fake.on("GET /version", *[lost()] * 20, {"api": 1})  # far more than 20 ms of tries
    with Client(fake.endpoint, retry=quick) as client:
        assert client.version() == {"api": 1}


def test_a_server_that_is_not_there_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    fake = FakeServer()
    fake.on("POST /jobs/a/cancel", {"done": True})
    up, done = threading.Event(), threading.Event()

    def serve() -> None:
        up.wait(10)
        with fake.serving(port):
            done.wait(10)

    server = threading.Thread(target=serve)
    server.start()
    endpoint = Endpoint(f"http://127.0.0.1:{port}", TOKEN)
    try:
        hasty = Client(endpoint, retry=Retry(0.02, first_s=0.001))
        with hasty, pytest.raises(ServerUnreachableError, match="nobody answers there"):
            hasty.cancel("a")
        timer = threading.Timer(0.1, up.set)
        timer.start()
        with Client(endpoint, retry=_QUICK) as client:
            assert client.cancel("a") == {"done": True}
        timer.join()
    finally:
        up.set()
        done.set()
        server.join()
    assert len(fake.asked) == 1


def test_a_server_that_comes_back_elsewhere_is_found(tmp_path: Path) -> None:
    told = tmp_path / "endpoint.json"
    first, second = FakeServer(), FakeServer()
    second.on("GET /version", {"api": 1})
    with second.serving(), first.serving():
        told.write_text(json.dumps({"url": first.url, "token": TOKEN}))

        def moves(asked: Asked) -> Says:
            told.write_text(json.dumps({"url": second.url, "token": TOKEN}))
            return lost()

        first.on("GET /version", moves)
        with Client(tmp_path, retry=_QUICK) as client:
            assert client.version() == {"api": 1}
            assert client.endpoint.url == second.url


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "token: unknown; make one"), AuthError),
        (problem(403, "role: too low; ask"), AuthError),
        (problem(404, "job 'a': unknown; list them"), UnknownEntityError),
        (problem(409, "job: taken; choose"), IllegalActionError),
        (problem(409, "full; wait", title="at capacity"), CapacityError),
        (problem(422, "JobSpec 'a': field 'x' is bad; mend it", field="x"), ValidationError),
        (problem(429, "too many; wait"), RateLimitedError),
        (problem(503, "another leads; ask it", type="urn:x:not-leader"), NotLeaderError),
        (problem(500, "it broke; look into server.log"), RequestFailedError),
        (problem(413, "too large; send less"), RequestFailedError),
    ],
)
def test_answers_that_say_no_are_pythons_errors(
    ask: Both, fake: FakeServer, answer: Says, kind: type[QuartermasterError]
) -> None:
    fake.on("GET /jobs/a", answer)
    with pytest.raises(kind) as caught:
        ask("job", "a")
    assert str(caught.value) == answer.body["detail"]
    assert type(caught.value) is kind
    if kind is ValidationError:
        assert caught.value.field == "x"


def test_who_is_no_server_of_ours_is_told_apart(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a", Says(b"<html>hello", media_type="text/html"))
    with pytest.raises(RequestFailedError, match="is a Quartermaster server at that"):
        ask("job", "a")
    fake.on("GET /jobs/a", Says(b"<html>bad", 502, media_type="text/html"))
    with pytest.raises(RequestFailedError, match="answered 502; it says: <html>bad"):
        ask("job", "a")


@pytest.mark.parametrize("job_id", ["a/../../tokens", "a b?c#d", "%2e", "ä"])
def test_identities_stay_one_segment(ask: Both, fake: FakeServer, job_id: str) -> None:
    fake.on("GET /x", {})
    with pytest.raises(UnknownEntityError):
        ask("job", job_id)
    (asked,) = fake.asked
    assert asked.path.startswith("/api/v1/jobs/")
    assert asked.path.count("/") == 4
    assert asked.query == {}


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_what_is_no_identity_is_not_sent(ask: Both, fake: FakeServer, job_id: str) -> None:
    with pytest.raises(ValidationError, match="is no identity"):
        ask("job", job_id)
    assert fake.asked == []


def test_lists_are_read_to_their_end_or_limit(ask: Both, fake: FakeServer) -> None:
    def page(asked: Asked) -> Says:
        first = int(asked.query.get("cursor", 0))
        last = min(7, first + min(3, int(asked.query["limit"])))
        items = [{"job_id": str(k)} for k in range(first, last)]
        return Says({"items": items, "next_cursor": str(last) if last < 7 else None})

    fake.on("GET /jobs", page)
    assert [j["job_id"] for j in ask("jobs", state="running")] == list("0123456")
    assert all(asked.query["state"] == "running" for asked in fake.asked)
    assert "tenant" not in fake.asked[0].query
    assert [j["job_id"] for j in ask("jobs", limit=4)] == list("0123")


def test_waiting_goes_on_until_the_end(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a/wait", {"ended": False}, lost(), {"ended": True, "exit_code": 3})
    assert ask("wait", "a")["exit_code"] == 3
    assert fake.asked[0].query == {"timeout_s": "25.0"}
    fake.on("GET /jobs/a/wait", {"ended": False})
    assert ask("wait", "a", 0.5)["ended"] is False


def _sse(*numbers: int) -> bytes:
    return b"".join(
        f": still here\n\nid: 1.{k}\r\nevent: job\r\ndata: ".encode()
        + json.dumps({"cursor": f"1.{k}", "what": "x"}).encode()
        + b"\r\n\r\n"
        for k in numbers
    )


def test_events_are_followed_over_lost_connections(fake: FakeServer) -> None:
    half = _sse(3)[:-9]
    fake.on(
        "GET /events/stream",
        Says(_sse(1, 2) + half, media_type="text/event-stream", cut=True),
        lost(),
        Says(_sse(3, 4), media_type="text/event-stream"),
        Says(_sse(5), media_type="text/event-stream"),
    )
    with Client(fake.endpoint, retry=_QUICK) as client:
        seen = [event["cursor"] for event in islice(client.events("1.0", follow=True), 5)]
    assert seen == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    assert [a.headers.get("Last-Event-ID") for a in fake.asked] == ["1.0", "1.2", "1.2", "1.4"]

    async def followed() -> list[str]:
        async with AsyncClient(fake.endpoint, retry=_QUICK) as client:
            async for event in client.events(follow=True):
                return [event["cursor"]]
        return []

    assert asyncio.run(followed()) == ["1.5"]


def test_events_that_are_there_are_listed(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /events", {"items": [{"cursor": "2.0"}], "next_cursor": "2.0", "gap": True})
    assert ask("events", "1.0", limit=5) == [{"gap": True}, {"cursor": "2.0"}]
    assert [asked.query for asked in fake.asked] == [{"since": "1.0", "limit": "5"}]
    many = [{"cursor": f"3.{k}"} for k in range(500)]
    last = {"items": [{"cursor": "4.0"}], "next_cursor": "4.0"}
    fake.on("GET /events", {"items": many, "next_cursor": "3.499"}, last)
    assert len(ask("events", "2.0", limit=900)) == 501
    assert fake.asked[-1].query == {"since": "3.499", "limit": "400"}
    fake.on("GET /events", {"items": many, "next_cursor": "3.499"})
    assert len(ask("events", limit=900)) == 500  # the last ones: nothing comes behind them


def _since(fake: FakeServer) -> list[str | None]:
    return [asked.query.get("since") for asked in fake.asked if asked.path.endswith("/logs")]


def test_output_is_followed_and_no_line_told_twice(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a", {"starts": 1})
    fake.on("GET /jobs/a/wait", {"ended": False}, {"ended": True})
    fake.on(
        "GET /jobs/a/logs",
        output((0, 0, 2, "[0] a\n"), (1, 0, 4, "[1] a\n[1] b\n"), (0, 2, 4, "[0] b\n"), cut=True),
        lost(),
        output((0, 4, 6, "[0] c\n"), (1, 4, 9, "[1] half\n")),  # the server was stopped: no end
        output((1, 9, 11, "[1] c\n"), (0, 6, 17, "[0] no line's end")),
    )
    lines = ask("logs", "a", follow=True)
    assert lines == [
        *("[0] a\n", "[1] a\n", "[1] b\n", "[0] b\n"),
        *("[0] c\n", "[1] half\n", "[1] c\n", "[0] no line's end"),
    ]
    assert _since(fake) == [None, "1.0:4,1.1:4", "1.0:4,1.1:4", "1.0:6,1.1:9"]


def test_output_that_is_not_kept_any_more_is_said_to_be_lost(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a", {"starts": 1})
    fake.on("GET /jobs/a/wait", {"ended": True})
    fake.on(
        "GET /jobs/a/logs",
        output((0, 0, 6, "1\n2\n3\n"), cut=True),
        output((0, 8, 12, "7\n8\n")),  # its files were begun anew, twice
    )
    lines = ask("logs", "a", follow=True)
    assert lines[3].startswith("(output was lost here")
    assert lines[:3] + lines[4:] == ["1\n", "2\n", "3\n", "7\n", "8\n"]


def test_the_last_lines_are_followed_without_a_gap(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a", {"starts": 0})
    fake.on("GET /jobs/a/wait", {"ended": True, "starts": 1})
    fake.on(
        "GET /jobs/a/logs",
        output((0, 2, 6, "2\n3\n"), (1, 4, 4, ""), cut=True),
        output((0, 6, 8, "4\n"), cut=True),
        output((0, 8, 9, "5"), (1, 4, 6, "1\n")),
    )
    assert ask("logs", "a", follow=True, tail=2) == ["2\n", "3\n", "4\n", "5", "1\n"]
    assert _since(fake) == [None, "1.0:6,1.1:4", "1.0:8,1.1:4"]


def test_output_of_a_job_that_starts_again_is_followed_run_by_run(
    ask: Both, fake: FakeServer
) -> None:
    runs = {"2": "a\nb\n", "3": "a\n", "4": "a\nb\nc\n"}

    def told(asked: Asked) -> Says:
        text = runs[asked.query["run"]]
        return output((0, 0, len(text), text), run=int(asked.query["run"]))

    fake.on("GET /jobs/a", {"starts": 2})
    fake.on("GET /jobs/a/wait", {"starts": 4, "ended": True})
    fake.on("GET /jobs/a/logs", told)
    assert ask("logs", "a", follow=True) == ["a\n", "b\n", "a\n", "a\n", "b\n", "c\n"]
    assert ask("logs", "a", follow=True, run=3) == ["a\n"]


def test_output_is_asked_for_as_wanted(ask: Both, fake: FakeServer) -> None:
    fake.on("GET /jobs/a/logs", output((1, 3, 11, "caf\ufffd \rx\x0by\n")))
    assert ask("logs", "a", worker=1, run=2, tail=3) == ["caf\ufffd \rx\x0by\n"]
    assert fake.asked[0].query == {"worker": "1", "run": "2", "tail": "3"}
    assert fake.asked[0].headers["Accept"] == "application/x-ndjson"
    fake.on("GET /jobs/a/logs", Says(b"as it was\n", media_type="text/plain"))
    with pytest.raises(RequestFailedError, match="no record of output: b'as it was'"):
        ask("logs", "a")


def test_services_are_called_through_and_not_tried_again(fake: FakeServer) -> None:
    fake.on("POST /services/s/call/v1/x", Says(b"pong", media_type="text/plain"))
    with Client(fake.endpoint, retry=_QUICK) as client:
        with client.call("s", "/v1/x", body=b"ping", headers={"X-A": "1"}) as parts:
            assert b"".join(parts) == b"pong"
        assert (fake.asked[0].body, fake.asked[0].headers["X-A"]) == (b"ping", "1")
        fake.on("POST /services/s/call/v1/x", problem(503, "sick; wait", after=0))
        with pytest.raises(QuartermasterError, match="sick"), client.call("s", "v1/x"):
            pass
        fake.on("POST /services/s/call/v1/x", Says(b"pon", media_type="text/plain", cut=True))
        with (
            pytest.raises(ServerUnreachableError, match="was lost"),
            client.call("s", "v1/x") as parts,
        ):
            list(parts)
    assert len(fake.asked) == 3


def _called(kind: type[Client] | type[AsyncClient], fake: FakeServer, **options: Any) -> bytes:
    """What a service answers at /x, by either client."""

    async def later() -> bytes:
        async with (
            AsyncClient(fake.endpoint, retry=_QUICK) as client,
            client.call("s", "x", **options) as parts,
        ):
            return b"".join([part async for part in parts])

    if kind is AsyncClient:
        return asyncio.run(later())
    with Client(fake.endpoint, retry=_QUICK) as client, client.call("s", "x", **options) as parts:
        return b"".join(parts)


_CUT_AT_ONCE = Says(b"", media_type="text/plain", cut=True)
_KEYED = {"headers": {"idempotency-key": "k"}, "body": b"b"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("failure", [_CUT_AT_ONCE, lost()], ids=["head", "nothing"])
@pytest.mark.parametrize(("method", "options"), [("GET", {}), ("POST", _KEYED)])
def test_a_service_that_is_cut_off_before_it_says_anything_is_asked_again(
    kind: type[Client] | type[AsyncClient],
    fake: FakeServer,
    failure: Says,
    method: str,
    options: dict[str, Any],
) -> None:
    fake.on(f"{method} /services/s/call/x", failure, failure, Says(b"pong"))
    assert _called(kind, fake, method=method, **options) == b"pong"
    assert len(fake.asked) == 3


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("method", "failure"),
    [("POST", _CUT_AT_ONCE), ("POST", lost()), ("GET", Says(b"pon", cut=True))],
)
def test_what_a_service_has_done_or_begun_to_say_is_not_asked_for_twice(
    kind: type[Client] | type[AsyncClient], fake: FakeServer, method: str, failure: Says
) -> None:
    fake.on(f"{method} /services/s/call/x", failure, Says(b"pong"))
    with pytest.raises(ServerUnreachableError, match="was lost"):
        _called(kind, fake, method=method)
    assert len(fake.asked) == 1


def test_a_body_in_pieces_is_not_sent_twice(fake: FakeServer) -> None:
    fake.on("PUT /services/s/call/x", _CUT_AT_ONCE, Says(b"pong"))
    with pytest.raises(ServerUnreachableError, match="was lost"):
        _called(Client, fake, method="PUT", body=iter([b"a", b"b"]))
    assert len(fake.asked) == 1


def test_a_service_whose_answers_are_always_cut_off_is_given_up(fake: FakeServer) -> None:
    fake.on("GET /services/s/call/x", _CUT_AT_ONCE)
    retry = Retry(patience_s=0.05, first_s=0.001)
    with (
        Client(fake.endpoint, retry=retry) as client,
        client.call("s", "x", method="GET") as parts,
        pytest.raises(ServerUnreachableError, match="was lost"),
    ):
        list(parts)
    assert len(fake.asked) > 1


@pytest.mark.parametrize(
    ("call", "args", "sent"),
    [
        ("preempt", ("a", "room"), ("POST", "/jobs/a/preempt", {"reason": "room"})),
        ("cancel", ("a",), ("POST", "/jobs/a/cancel", {})),
        ("migrate", ("a",), ("POST", "/jobs/a/migrate", {})),
        ("undrain", ("n",), ("POST", "/nodes/n/undrain", {})),
        ("node", ("n",), ("GET", "/nodes/n", b"")),
        ("service", ("s",), ("GET", "/services/s", b"")),
        ("cluster", (), ("GET", "/cluster", b"")),
        ("policy", (), ("GET", "/policy", b"")),
        ("remove_token", ("t",), ("DELETE", "/tokens/t", b"")),
        ("create_token", ("t", "viewer"), ("POST", "/tokens", {"name": "t", "role": "viewer"})),
    ],
)
def test_the_rest_of_the_interface(
    ask: Both, fake: FakeServer, call: str, args: tuple[str, ...], sent: tuple[str, str, Any]
) -> None:
    method, path, body = sent
    fake.on(f"{method} {path}", {"fine": True})
    assert ask(call, *args) == {"fine": True}
    assert fake.asked[0].body == body


def test_options_of_the_rest(ask: Both, fake: FakeServer) -> None:
    fake.on("POST /services", {"name": "s"})
    fake.on("POST /nodes/n/drain", {"state": "draining"})
    fake.on("POST /policy/canary", {"mode": "canary"})
    fake.on("POST /tokens", {"token": "t"})
    for path in ("/queue", "/nodes", "/services", "/tokens", "/policy/decisions"):
        fake.on(f"GET {path}", {"items": [{"a": 1}], "next_cursor": None})
    ask("drain", "n", force=True)
    ask("set_policy", "canary", bundle="b", share=0.1)
    ask("create_token", "t", "viewer", 2.0)
    ask("add_service", name="s", service_ms=5.0)
    bodies = [asked.body for asked in fake.asked]
    assert bodies[3] == {"name": "s", "service_ms": 5.0}
    assert bodies[:2] == [{"force": True}, {"bundle": "b", "share": 0.1}]
    assert bodies[2] == {"name": "t", "role": "viewer", "expires_hours": 2.0}
    for name in ("queue", "nodes", "services", "tokens", "decisions"):
        assert ask(name) == [{"a": 1}]


def test_where_the_server_is(tmp_path: Path) -> None:
    told = tmp_path / "endpoint.json"
    told.write_text('{"url": "http://127.0.0.1:1", "token": "t", "mesh_url": "http://m", "pid": 1}')
    env = {"QUARTERMASTER_URL": "https://far:2/", "QUARTERMASTER_TOKEN": "u"}
    assert find_endpoint(tmp_path)() == Endpoint("http://127.0.0.1:1", "t", "http://m")
    assert find_endpoint(told, env)() == find_endpoint(tmp_path)()
    assert find_endpoint(None, env)() == Endpoint("https://far:2", "u")
    assert find_endpoint(None, {"QUARTERMASTER_ENDPOINT": str(told)})().token == "t"
    assert "t'" not in repr(find_endpoint(told)())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "start a server"),
        ("{", "no 'url' and 'token'"),
        ("[]", "no 'url'"),
        ('{"url": "http://a"}', "no 'url' and 'token'"),
        ('{"url": "a", "token": "t"}', "it is no address"),
        ('{"url": "http://a", "token": "t\\n"}', "copy it again"),
    ],
)
def test_what_does_not_say_where_the_server_is(tmp_path: Path, text: str | None, says: str) -> None:
    told = tmp_path / "endpoint.json"
    if text is not None:
        told.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        Client(told)


def test_nobody_says_where_the_server_is() -> None:
    with pytest.raises(ConfigurationError, match="give --endpoint FILE"):
        find_endpoint(None, {})


@pytest.mark.parametrize("field", ["patience_s", "begin_s", "first_s", "most_s"])
def test_patience_is_a_time(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Retry(**{field: -1.0})
