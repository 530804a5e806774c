"""Routes of the cluster as a whole: nodes, the queue, what happens, and who may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import Field
from starlette.responses import Response

from orchestrator.happenings import Happening
from orchestrator.server.guard.access import Who, answers, only, principal
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import (
    EVENTS,
    Cursor,
    Limit,
    Parts,
    StrictBody,
    event_of,
    member,
    told,
)
from orchestrator.server.problems import ConflictError
from orchestrator.types import NodeSpec

__all__ = ["NodeBody", "TokenBody", "routes"]


_Amount = Annotated[float, Field(ge=0, le=1e9)]
_Place = Annotated[int, Field(ge=0, le=1_000_000)]


class NodeBody(StrictBody):
    """A node that joins: the fields of ``NodeSpec``."""

    node_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    gpus: Annotated[int, Field(ge=0, le=64)]
    gpu_memory_gb: _Amount = 0.0
    cpu_cores: _Place = 1
    memory_gb: _Amount = 1.0
    network_bandwidth_gbps: _Amount = 10.0
    gpu_topology: Annotated[str, Field(max_length=100)] = "PCIe"
    available: bool = True
    gpu_model: Annotated[str, Field(max_length=100)] = "generic"
    rack: _Place = 0
    spine: _Place = 0
    island_gpus: Annotated[int, Field(ge=0, le=64)] = 0

    def spec(self) -> NodeSpec:
        """The specification; raises a ``ValidationError`` naming the first field that is wrong."""
        return NodeSpec(**self.model_dump())


class DrainBody(StrictBody):
    """How a node leaves."""

    force: bool = False


class TokenBody(StrictBody):
    """A token to be."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    role: Annotated[str, Field(json_schema_extra={"enum": [one.name.lower() for one in Role]})]
    expires_hours: Annotated[float, Field(gt=0, le=1e6)] | None = None


def routes(parts: Parts) -> APIRouter:
    """The routes."""
    router = APIRouter()
    _add_nodes(router, parts)
    _add_cluster(router, parts)
    _add_events(router, parts)
    _add_tokens(router, parts)
    return router


def _add_nodes(router: APIRouter, parts: Parts) -> None:
    viewers, operators, orchestrator = only(Role.VIEWER), only(Role.OPERATOR), parts.orchestrator
    changed = answers(404, 408, 409, 413)

    @router.get("/nodes", dependencies=viewers, responses=answers(), tags=["nodes"])
    async def list_nodes() -> Response:
        """All nodes."""
        return told({"items": orchestrator.list_nodes()})

    @router.get("/nodes/{node_id}", dependencies=viewers, responses=answers(404), tags=["nodes"])
    async def show_node(node_id: str) -> Response:
        """What is known of a node."""
        return told(orchestrator.node_status(node_id))

    @router.post(
        "/nodes",
        status_code=201,
        dependencies=operators,
        responses=answers(408, 409, 413),
        tags=["nodes"],
    )
    async def register_node(body: NodeBody) -> Response:
        """Have a node join; its agent connects by itself."""
        await orchestrator.register_node(body.spec())
        return told({"node_id": body.node_id}, 201)

    @router.post(
        "/nodes/{node_id}/drain", dependencies=operators, responses=changed, tags=["nodes"]
    )
    async def drain_node(node_id: str, request: Request, body: DrainBody | None = None) -> Response:
        """Take a node out of service; its jobs are saved first, unless by force."""
        force = body is not None and body.force
        request.state.audit = {"node_id": node_id, "force": force}
        done = await orchestrator.decommission_node(node_id, drain=not force)
        return told(_changed(node_id, done, "it has left, or is leaving already"))

    @router.post(
        "/nodes/{node_id}/undrain", dependencies=operators, responses=changed, tags=["nodes"]
    )
    async def undrain_node(node_id: str, request: Request) -> Response:
        """Have a node stay that was to leave."""
        request.state.audit = {"node_id": node_id}
        done = await orchestrator.undrain_node(node_id)
        return told(_changed(node_id, done, "it was not leaving; if it has left, register it anew"))


def _changed(node_id: str, done: bool, why: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"done": done, "node_id": node_id}
    return answer if done else {**answer, "why": why}


def _add_cluster(router: APIRouter, parts: Parts) -> None:
    viewers, orchestrator = only(Role.VIEWER), parts.orchestrator

    @router.get("/cluster", dependencies=viewers, responses=answers(), tags=["cluster"])
    async def show_cluster() -> Response:
        """What is going on in the cluster."""
        return told(orchestrator.get_cluster_status())

    @router.get("/queue", dependencies=viewers, responses=answers(), tags=["cluster"])
    async def show_queue(limit: Limit = 100, cursor: Cursor = None) -> Response:
        """Who waits, in the order in which the policy in charge serves them, and why."""
        items, after = orchestrator.queue(limit, cursor)
        return told({"items": items, "next_cursor": after})


def _add_events(router: APIRouter, parts: Parts) -> None:
    viewers, orchestrator = only(Role.VIEWER), parts.orchestrator

    @router.get("/events", dependencies=viewers, responses=answers(), tags=["events"])
    async def list_events(since: Cursor = None, limit: Limit = 100) -> Response:
        """What has happened after a cursor, or of late; ``gap``: what was between is not kept."""
        found, gap = orchestrator.happenings(since, limit)
        after = found[-1].cursor if found else since
        return told({"items": [one.as_dict() for one in found], "next_cursor": after, "gap": gap})

    @router.get(
        "/events/stream",
        dependencies=viewers,
        responses={200: {"content": {"text/event-stream": {}}}, **answers()},
        response_class=EventStream,
        tags=["events"],
    )
    async def follow_events(
        who: Who,
        since: Cursor = None,
        last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None,
    ) -> Response:
        """What happens after a cursor, or from now on, as server-sent events."""
        at = last if last is not None else since
        if at is not None:
            orchestrator.happenings(at, 1)  # raises if it is no cursor
        return parts.streams.stream(
            who, _events(orchestrator.follow(at)), EVENTS, beat=b": beat\n\n"
        )


class EventStream(Response):
    """An answer of server-sent events, for the API's description."""

    media_type = EVENTS


async def _events(follow: AsyncIterator[Happening]) -> AsyncIterator[bytes]:
    yield b": begin\n\n"  # the client knows at once that it is connected
    async for one in follow:
        yield event_of(one.as_dict(), one.kind, one.cursor)


def _add_tokens(router: APIRouter, parts: Parts) -> None:
    operators, tokens = only(Role.OPERATOR), parts.tokens

    @router.get("/tokens", dependencies=operators, responses=answers(), tags=["tokens"])
    async def list_tokens() -> Response:
        """Who may ask; never a token's text."""
        return told({"items": [who.as_dict() for who in tokens.listing()]})

    @router.post(
        "/tokens",
        status_code=201,
        dependencies=operators,
        responses=answers(408, 409, 413),
        tags=["tokens"],
    )
    async def create_token(body: TokenBody, request: Request) -> Response:
        """Make a token. Its text is told in this answer, and never again."""
        request.state.audit = {"token_name": body.name, "token_role": body.role}
        role = member("token", "role", body.role, Role)
        text = tokens.create(body.name, role, body.expires_hours)
        return told({"name": body.name, "role": role.name.lower(), "token": text}, 201)

    @router.delete(
        "/tokens/{name}",
        dependencies=operators,
        responses=answers(404, 408, 409, 413),
        tags=["tokens"],
    )
    async def delete_token(name: str, request: Request) -> Response:
        """Delete a token: nobody gets in with it from now on."""
        if name == principal(request).name:
            raise ConflictError("name: it is the token of this request; use another operator's")
        tokens.revoke(name)
        return told({"deleted": name})
