"""Routes of the policy in charge: who decides, what it decided, and who shall decide next."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from orchestrator.deployment import PolicyDeployment
from orchestrator.server.guard.access import Who, answers, only
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import Parts, StrictBody, told
from orchestrator.server.problems import ConflictError

__all__ = ["BundleBody", "CanaryBody", "FallbackBody", "routes"]


_Folder = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
_Reason = Annotated[str, Field(max_length=500)]


class BundleBody(StrictBody):
    """A folder on the server that holds a policy bundle, and why."""

    bundle: _Folder
    reason: _Reason = ""


class CanaryBody(BundleBody):
    """The same, and the share of decision points at which it decides."""

    share: Annotated[float, Field(gt=0, lt=1)]


class FallbackBody(StrictBody):
    """Why the rule shall decide."""

    reason: _Reason = ""


def routes(parts: Parts) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["policy"])
    _add_questions(router, parts)
    _add_changes(router, parts)
    return router


def _deployment(parts: Parts) -> PolicyDeployment:
    if not isinstance(parts.deployment, PolicyDeployment):
        raise ConflictError(
            "this server puts no policies in charge; start it as 'quartermaster serve' does"
        )
    return parts.deployment


def _add_questions(router: APIRouter, parts: Parts) -> None:
    viewers = only(Role.VIEWER)

    @router.get("/policy", dependencies=viewers, responses=answers(409))
    async def show_policy() -> Response:
        """Who decides, since when and why, and how a candidate does beside the rule."""
        return told(_deployment(parts).status())

    @router.get("/policy/decisions", dependencies=viewers, responses=answers(409))
    async def list_decisions(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    ) -> Response:
        """Decisions of candidates with their best alternatives, newest first."""
        deployment = _deployment(parts)
        found = await asyncio.to_thread(deployment.decisions, limit, cursor)
        more = found[-1].number if len(found) == limit else None
        return told({"items": [one.as_dict() for one in found], "next_cursor": more})


def _add_changes(router: APIRouter, parts: Parts) -> None:
    operators, changed = only(Role.OPERATOR), answers(408, 409, 413)

    @router.post("/policy/shadow", dependencies=operators, responses=changed)
    async def shadow_policy(body: BundleBody, request: Request, who: Who) -> Response:
        """Ask the policy of a bundle beside the rule; nothing is done about its answers."""
        reason = _said(request, body.model_dump(), f"{who.name}: shadow of {body.bundle}")
        return told(await _deployment(parts).shadow(body.bundle, reason))

    @router.post("/policy/canary", dependencies=operators, responses=changed)
    async def try_policy(body: CanaryBody, request: Request, who: Who) -> Response:
        """Let the policy of a bundle decide at a share of the decision points."""
        share = f"{who.name}: {body.share:.0%} of the decisions go to {body.bundle}"
        reason = _said(request, body.model_dump(), share)
        return told(await _deployment(parts).canary(body.bundle, body.share, reason))

    @router.post("/policy/activate", dependencies=operators, responses=changed)
    async def activate_policy(body: BundleBody, request: Request, who: Who) -> Response:
        """Let the policy of a bundle decide, under guard."""
        reason = _said(request, body.model_dump(), f"{who.name}: {body.bundle} is in charge")
        return told(await _deployment(parts).activate(body.bundle, reason))

    @router.post("/policy/fallback", dependencies=operators, responses=changed)
    async def fall_back(request: Request, who: Who, body: FallbackBody | None = None) -> Response:
        """Let the rule decide."""
        said = {} if body is None else body.model_dump()
        reason = _said(request, said, f"{who.name}: the rule decides")
        return told(await _deployment(parts).fall_back(reason))


def _said(request: Request, body: dict[str, Any], otherwise: str) -> str:
    """Why something is done; what is asked for goes into the audit."""
    request.state.audit = body
    return body.get("reason") or otherwise
