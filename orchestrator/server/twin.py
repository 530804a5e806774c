"""Routes of the twin: when a job starts and ends, why it waits, and what would be if."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from orchestrator.errors import ConfigurationError
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import RULES
from orchestrator.server.guard.access import answers, only
from orchestrator.server.guard.tokens import Role
from orchestrator.server.jobs import JobBody
from orchestrator.server.parts import Parts, StrictBody, member, told
from orchestrator.twin.answers import plain
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobPriority

__all__ = ["WhatIfBody", "routes"]


_MOST_FUTURES = 1000  # of a question: the twin answers one after the other
_SECONDS = 6.0  # for which it plays futures at most: large clusters are asked in fewer of them
_ERROR = 0.1  # of quantiles, as a share of the time until the median: then futures are enough
_KEPT_S = 10.0  # for which all pages that ask when jobs start are told the same
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Names = Annotated[list[_Name], Field(default_factory=list, max_length=1000)]
_Futures = Annotated[
    int, Query(ge=2, le=_MOST_FUTURES, description="How many futures are played at most.")
]
_Quota = Annotated[float, Field(ge=0, le=1e9)]
_Count = Annotated[int, Field(ge=1, le=1000)]


class WhatIfBody(StrictBody):
    """What is supposed to be done now; several at once are done in this order."""

    cancel: _Names
    fail: _Names
    drain: _Names
    move: _Names
    nodes: Annotated[
        dict[str, _Count],
        Field(default_factory=dict, description="By node, how many more like it."),
    ]
    quota: Annotated[dict[str, _Quota], Field(default_factory=dict)]
    priority: Annotated[dict[str, str], Field(default_factory=dict)]
    submit: JobBody | None = None
    policy: Annotated[
        str | None,
        Field(max_length=4096, description="A rule, or a bundle that is tried or in charge."),
    ] = None
    futures: Annotated[int, Field(ge=2, le=_MOST_FUTURES)] = 100

    def supposed(self, orchestrator: InfrastructureOrchestrator) -> Suppose:
        """As the twin takes it; raises a ``ValidationError`` naming the field that is wrong."""
        levels = {
            job_id: member("what-if", "priority", level, JobPriority)
            for job_id, level in self.priority.items()
        }
        return Suppose(
            cancel=tuple(self.cancel),
            fail=tuple(self.fail),
            drain=tuple(self.drain),
            move=tuple(self.move),
            nodes=self.nodes,
            quota=self.quota,
            priority=levels,
            submit=None if self.submit is None else self.submit.spec(orchestrator.jobs),
            policy=self.policy if self.policy in RULES else None,
            bundle=None if self.policy in RULES else self.policy,
        )


class _Starts:
    """When jobs start, for all who ask within some seconds: pages do, again and again."""

    def __init__(self, orchestrator: InfrastructureOrchestrator) -> None:
        self._orchestrator = orchestrator
        self._one = asyncio.Lock()
        self._kept = dict[int, tuple[float, dict[str, Any]]]()

    async def of(self, futures: int) -> dict[str, Any]:
        """By job, in so many futures."""
        async with self._one:
            until_s, told = self._kept.get(futures, (0.0, {}))
            if time.monotonic() > until_s:
                config = TwinConfig(futures=futures, seconds=_SECONDS, error=_ERROR)
                told = plain(await self._orchestrator.starts(config))
                self._kept = {futures: (time.monotonic() + _KEPT_S, told)}
            return told


def routes(parts: Parts) -> APIRouter:
    """The routes."""
    router, orchestrator = APIRouter(tags=["twin"]), parts.orchestrator
    viewers, starts = only(Role.VIEWER), _Starts(orchestrator)

    @router.get("/jobs/{job_id}/when", dependencies=viewers, responses=answers(404, 409))
    async def ask_when(job_id: str, futures: _Futures = 200) -> Response:
        """When a job starts and ends: quantiles over futures of the cluster."""
        config = TwinConfig(futures=futures, seconds=_SECONDS, error=_ERROR)
        return told(plain(await orchestrator.when(job_id, config)))

    @router.get("/jobs/{job_id}/why", dependencies=viewers, responses=answers(404, 409))
    async def ask_why(job_id: str) -> Response:
        """Why a job waits, who holds what it needs, and what would start it at once."""
        return told(plain(await orchestrator.why(job_id)))

    @router.get("/starts", dependencies=viewers, responses=answers())
    async def ask_starts(futures: _Futures = 100) -> Response:
        """When each job that waits starts, by its identity; null: in none of the futures."""
        if not orchestrator.jobs:
            return told({"items": {}})  # nothing has happened: nobody waits
        return told({"items": await starts.of(futures)})

    @router.post("/what-if", dependencies=viewers, responses=answers(404, 408, 409, 413))
    async def ask_what_if(body: WhatIfBody) -> Response:
        """What would be if something were done now; nothing is done."""
        if not orchestrator.jobs:
            raise ConfigurationError(
                "what-if: no job has been submitted yet, and there is no future to compare; "
                "submit one, then ask"
            )
        supposed = body.supposed(orchestrator)
        config = TwinConfig(futures=body.futures, seconds=_SECONDS / 2)  # they are played twice
        return told(plain(await orchestrator.what_if(supposed, config)))

    return router
