"""Routes of services: what there is, how they do, their rules, and requests that go to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from orchestrator.errors import IllegalActionError, QuartermasterError, UnknownServiceError
from orchestrator.mesh.forward import answer_to, onward
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec
from orchestrator.server.guard.access import answers, only
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import Parts, StrictBody, told
from orchestrator.worker.inference.http import HttpAnswer, HttpExchange, HttpStream

__all__ = ["ServiceBody", "routes"]

_KEPT_BYTES = 64 * 1024  # of a body, so that the request can be sent again
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_STAY = ("authorization", "host", "cookie", "origin")  # headers that are for this server


class _LimitBody(StrictBody):
    rate_rps: float = 0.0
    burst: float = 1.0


class _RetryBody(StrictBody):
    attempts: int = 3
    base_ms: float = 10.0
    factor: float = 2.0
    cap_ms: float = 1000.0
    jitter: float = 0.5
    budget: float = 0.2
    floor_rps: float = 0.0
    reserve: float = 10.0
    methods: list[Annotated[str, Field(max_length=20)]] = Field(
        default_factory=lambda: list(RetrySpec().methods)
    )


class _BreakerBody(StrictBody):
    failures: int = 5
    ratio: float = 0.5
    window_ms: int = 1000
    minimum: int = 20
    open_ms: int = 1000
    probes: int = 1


class ReplaceBody(StrictBody):
    """How long replicas are waited for while they are replaced."""

    drain_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    start_s: Annotated[float, Field(gt=0, le=3600)] = 300.0


class ServiceBody(StrictBody):
    """A service's rules: the fields of ``ServiceSpec`` that matter where services are real."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    service_ms: float
    replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 64
    slots: int = 1
    objective_ms: float = 1000.0
    timeout_ms: float = 0.0
    panic: float = 0.5
    limit: _LimitBody = Field(default_factory=_LimitBody)
    retry: _RetryBody = Field(default_factory=_RetryBody)
    breaker: _BreakerBody = Field(default_factory=_BreakerBody)
    tenant_limit: _LimitBody = Field(default_factory=_LimitBody)
    tenant_limits: dict[Annotated[str, Field(max_length=200)], _LimitBody] = Field(
        default_factory=dict
    )

    def spec(self) -> ServiceSpec:
        """The specification; raises a ``ValidationError`` naming the first field that is wrong."""
        plain = self.model_dump()
        retry = plain.pop("retry")
        own = plain.pop("tenant_limits")
        return ServiceSpec(
            **plain
            | {
                "limit": LimitSpec(**plain["limit"]),
                "tenant_limit": LimitSpec(**plain["tenant_limit"]),
                "tenant_limits": tuple((name, LimitSpec(**one)) for name, one in own.items()),
                "retry": RetrySpec(**retry | {"methods": tuple(retry["methods"])}),
                "breaker": BreakerSpec(**plain["breaker"]),
            }
        )


def routes(parts: Parts) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["services"])
    _add_rules(router, parts)
    _add_calls(router, parts)
    return router


def _add_rules(router: APIRouter, parts: Parts) -> None:
    viewers, orchestrator = only(Role.VIEWER), parts.orchestrator

    def status(name: str, known: dict[str, Any]) -> dict[str, Any]:
        rules = orchestrator.mesh.spec(name)
        return {"name": name, **known, "rules": _plain(rules)}

    @router.get("/services", dependencies=viewers, responses=answers())
    async def list_services() -> Response:
        """All services, their replicas, and what became of their requests."""
        found = orchestrator.get_cluster_status()["services"]
        return told({"items": [status(name, known) for name, known in found.items()]})

    @router.get("/services/{name}", dependencies=viewers, responses=answers(404))
    async def show_service(name: str) -> Response:
        """The same of one."""
        found = orchestrator.get_cluster_status()["services"]
        if name not in found:
            raise UnknownServiceError(name, list(found))
        return told(status(name, found[name]))

    @router.post(
        "/services",
        status_code=201,
        dependencies=only(Role.OPERATOR),
        responses=answers(408, 409, 413),
    )
    async def add_service(body: ServiceBody) -> Response:
        """Give a service rules, new ones if it has some; its replicas are a job of its name."""
        orchestrator.mesh.add_service(body.spec())
        return told({"name": body.name}, 201)

    @router.post(
        "/services/{name}/replace",
        dependencies=only(Role.OPERATOR),
        responses=answers(404, 408, 409, 413, 503),
    )
    async def replace_replicas(name: str, body: ReplaceBody | None = None) -> Response:
        """Replace all replicas, one after the other, while the service goes on; answers then."""
        if parts.services is None:
            raise IllegalActionError("this server replaces no replicas; scale the service instead")
        patience = body or ReplaceBody()
        replaced = await parts.services.replace_replicas(
            name, drain_s=patience.drain_s, start_s=patience.start_s
        )
        return told({"name": name, "replaced": replaced})


def _add_calls(router: APIRouter, parts: Parts) -> None:
    orchestrator = parts.orchestrator

    async def call(name: str, request: Request) -> Response:
        """Send a request to a service; bodies go through as they come, both ways."""
        read = asyncio.Event()
        try:
            exchange = await _exchange(request, read)
            answer = await orchestrator.route_request(name, exchange)
        except QuartermasterError as error:
            answer = answer_to(error, request.url.path)
        return _handed_on(answer, read)

    for method in _METHODS:
        router.add_api_route(
            "/services/{name}/call/{path:path}",
            call,
            methods=[method],
            dependencies=only(Role.SUBMITTER),
            responses=answers(400, 404, 502, 504),
            response_class=Response,
            operation_id=f"call_service_{method.lower()}",
            include_in_schema=method in ("GET", "POST"),
        )


async def _exchange(request: Request, read: asyncio.Event) -> HttpExchange:
    """A request as it goes on to a service; the event says when all of its body was read."""
    pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in request.headers.raw]
    headers = dict[str, str]()
    for name, value in onward(pairs, *_STAY):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    *_, rest = request.scope["raw_path"].decode("latin-1").split("/", 6)
    query = request.scope["query_string"].decode("latin-1")
    path = f"/{rest}?{query}" if query else f"/{rest}"
    exchange = HttpExchange(request.method, path, b"", headers)
    _ = exchange.timeout_ms  # what is no number is refused before anything is read
    stream, body = request.stream(), b""
    async for piece in stream:
        body += piece
        if len(body) > _KEPT_BYTES:
            said = request.headers.get("content-length", "")
            length = int(said) if said.isdecimal() else None
            rest_of_it = _joined(body, stream, read)
            return HttpExchange(request.method, path, b"", headers, rest_of_it, length)
    read.set()
    return HttpExchange(request.method, path, body, headers)


async def _joined(
    first: bytes, rest: AsyncIterator[bytes], read: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    """A body from its beginning, as it comes."""
    try:
        yield first
        async for piece in rest:
            if piece:
                yield piece
    finally:
        read.set()


class _Streaming(StreamingResponse):
    """An answer that may begin before the body of its request was read.

    Until then whoever reads the body hears that the client has left: two readers would each get a
    part of it.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], status: int, read: asyncio.Event):
        super().__init__(content, status)
        self._read = read

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Wait until the client has left."""
        await self._read.wait()
        await super().listen_for_disconnect(receive)


def _handed_on(answer: HttpAnswer | HttpStream, read: asyncio.Event) -> Response:
    """A service's answer, as this server's; it sets no cookies here."""
    made: Response
    if isinstance(answer, HttpAnswer):
        return Response(answer.body, answer.status, headers=dict(answer.headers))
    if answer.whole:
        made = Response(answer.body, answer.status)
    else:
        made = _Streaming(answer.pieces(), answer.status, read)
        if answer.length is not None:
            made.headers["content-length"] = str(answer.length)
    for name, value in onward(answer.fields, "set-cookie"):
        made.headers.append(name, value)
    return made


def _plain(rules: ServiceSpec) -> dict[str, Any]:
    """Rules as plain data."""
    own = {name: asdict(limit) for name, limit in rules.tenant_limits}
    return {**asdict(rules), "tenant_limits": own}
