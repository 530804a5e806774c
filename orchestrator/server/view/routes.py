"""Routes of the view: what the page draws from, whole and as a stream of changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import Response

from orchestrator.server.guard.access import answers, only
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import JSON, Parts
from orchestrator.server.view.picture import ClusterPicture
from orchestrator.server.view.stream import ViewStream

__all__ = ["routes"]


_BEAT = b": nothing has happened\n\n"


def routes(parts: Parts) -> APIRouter:
    """Routes of the picture of a cluster; one picture serves all who look."""
    router = APIRouter(tags=["view"])
    view = ViewStream(ClusterPicture(parts.orchestrator, deployed=parts.deployment is not None))

    @router.get("/view", dependencies=only(Role.VIEWER), responses=answers())
    async def show_view() -> Response:
        """What the page draws, all of it, as it is now.

        A compact form for programs that draw: tables are columns, and what is in them refers to
        other tables by row. See ``/cluster``, ``/queue``, ``/nodes`` and ``/jobs`` for the same in
        words.
        """
        return Response(view.whole(), media_type=JSON)

    @router.get(
        "/view/stream",
        dependencies=only(Role.VIEWER),
        responses=answers() | {200: {"content": {"text/event-stream": {}}}},
    )
    async def stream_view(
        last_event_id: Annotated[str, Header(max_length=64, description="Go on after it.")] = "",
    ) -> Response:
        """The same as server-sent events: all of it once, then what has changed, until you leave.

        Frames are told at most about ten times a second. An event's id is that of its frame: a
        client that comes back with the last one gets what it has missed, if that is still known,
        and else all of it; such a frame has the field ``reset``.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return parts.streams.stream(
            view.frames(last_event_id), "text/event-stream", beat=_BEAT, headers=headers
        )

    return router
