"""A server that follows a script: for answers that a real one does not give on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from orchestrator.client import Endpoint

TOKEN = "fake-token"


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Says:
    """An answer; ``cut``: the connection is lost before its end; status 0: before its beginning."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    cut: bool = False


def problem(status: int, detail: str, **more: Any) -> Says:
    headers = {"Retry-After": str(more.pop("after"))} if "after" in more else {}
    body = {"type": "about:blank", "title": "no", "status": status, "detail": detail, **more}
    return Says(body, status, headers, "application/problem+json")


def output(*records: tuple[int, int, int, str], run: int = 1, cut: bool = False) -> Says:
    """Output as records: worker, offset, next offset and text of each."""
    made = [
        {"run": run, "worker": worker, "offset": begin, "next": end, "text": text}
        for worker, begin, end, text in records
    ]
    body = "".join(json.dumps(record) + "\n" for record in made).encode()
    half = b'{"run": 1, "wor' if cut else b""
    return Says(body + half, media_type="application/x-ndjson", cut=cut)


def lost() -> Says:
    """The connection is lost, and nobody knows whether the request was read."""
    return Says(status=0, cut=True)


Script = dict[tuple[str, str], list[Says | Callable[[Asked], Says]]]


class FakeServer:
    """Answers by method and path, each list from its first to its last, which stays."""

    def __init__(self) -> None:
        self.script: Script = {}
        self.asked: list[Asked] = []
        self.url = ""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, TOKEN)

    def on(self, call: str, *answers: Any) -> None:
        """What is answered to ``GET /jobs``; what is no answer yet is a JSON body."""
        method, path = call.split(" ")
        said = [a if isinstance(a, Says) or callable(a) else Says(a) for a in answers]
        self.script[method, f"/api/v1{path}"] = said

    def answer(self, asked: Asked) -> Says:
        self.asked.append(asked)
        answers = self.script.get((asked.method, asked.path))
        if answers is None:
            return problem(404, f"{asked.method} {asked.path}: not in the script; write it there")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return found(asked) if callable(found) else found

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[FakeServer]:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            parts = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            json_sent = "json" in self.headers.get("Content-Type", "")
            body = json.loads(text) if json_sent else text
            asked = Asked(
                self.command, parts.path, dict(parse_qsl(parts.query)), dict(self.headers), body
            )
            said = fake.answer(asked)
            self.close_connection = True
            if said.status == 0:
                return
            raw = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            self.send_response(said.status)
            self.send_header("Content-Type", said.media_type)
            self.send_header("Content-Length", str(len(raw) + said.cut))  # one byte is missing
            self.send_header("Connection", "close")
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  so BaseHTTPRequestHandler calls them

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
