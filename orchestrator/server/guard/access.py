"""What routes say: who may use them, what they may answer, and who asks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute

from orchestrator.server.guard.gate import PRINCIPAL, too_low
from orchestrator.server.guard.tokens import Principal, Role
from orchestrator.server.problems import PROBLEM_TYPE, Problem, ProblemError

__all__ = ["Who", "answers", "guarded", "only", "principal", "role_of"]


def principal(request: Request) -> Principal:
    """Who asks."""
    who = request.scope[PRINCIPAL]
    assert isinstance(who, Principal)
    return who


async def _who(request: Request) -> Principal:
    return principal(request)


Who: TypeAlias = Annotated[Principal, Depends(_who)]
"""A route's parameter: who asks."""


class _AtLeast:
    """Lets those pass who may do what a role may."""

    def __init__(self, role: Role) -> None:
        self.role = role

    async def __call__(self, request: Request) -> None:
        self.check(request)

    def check(self, request: Request) -> None:
        """Raise a :class:`ProblemError` if whoever asks may not."""
        who = principal(request)
        if who.role < self.role:
            raise ProblemError(too_low(who, self.role))


def only(role: Role) -> list[Dependency]:
    """What a route declares as its ``dependencies``: that it is for a role, and those above."""
    return [Depends(_AtLeast(role))]


def role_of(dependencies: list[Dependency]) -> Role | None:
    """The role that a route is for; None: it does not say."""
    for one in dependencies:
        if isinstance(one.dependency, _AtLeast):
            return one.dependency.role
    return None


def guarded(role: Role) -> type[APIRoute]:
    """Routes that are for a role, and those above.

    A dependency would do the same, and takes a tenth of a millisecond of FastAPI's.
    """
    check = _AtLeast(role).check

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """What answers, behind the checks."""
            answer, dependant = super().get_route_handler(), self.dependant
            # Whatever passes a path on passes the query on, too.
            known = None if ":path}" in self.path else _query_names(dependant)

            async def handle(request: Request) -> Response:
                check(request)
                if known is not None and request.scope["query_string"]:
                    _check_query(request, known)
                return await answer(request)

            return handle

    return Guarded


def _query_names(dependant: Dependant) -> frozenset[str]:
    """Parameters of the query that a route and its dependencies take."""
    own = {field.alias for field in dependant.query_params}
    return frozenset(own.union(*(_query_names(one) for one in dependant.dependencies)))


def _check_query(request: Request, known: frozenset[str]) -> None:
    """Refuse a parameter that nobody reads: it is a slip, and would change nothing."""
    for name in request.query_params:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            problem, remedy = f"'{name}' is unknown", f"leave it out; known: {there}"
            raise ProblemError(
                Problem("not valid", 422, f"query: parameter {problem}; {remedy}", field=name)
            )


_REASONS = {
    400: "The request is not HTTP as it should be.",
    401: "No token, or one that is unknown or has expired.",
    403: "The token's role does not allow it, or a page of another origin asks.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "It does not go together with what is there now.",
    413: "The body is too large.",
    422: "A field is not valid.",
    429: "Too many requests.",
    502: "Whoever was asked did not answer.",
    503: "Not now: another server leads, or there is nobody to ask.",
    504: "Not answered in time.",
}

_PROBLEM = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares as its ``responses``: problems, besides those of all routes."""
    every = {401, 403, 422, 429, 503, *statuses}
    return {
        status: {"description": _REASONS[status], "content": _PROBLEM} for status in sorted(every)
    }
