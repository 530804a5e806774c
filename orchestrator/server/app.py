"""The application: routes behind a gate, errors as problems, the page, and whether all is well."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from orchestrator.errors import ConfigurationError
from orchestrator.server import cluster, jobs, policy, services, twin, view
from orchestrator.server.exposition import Exposition
from orchestrator.server.guard.access import answers, guarded, only, role_of
from orchestrator.server.guard.gate import Gate, is_open
from orchestrator.server.guard.tokens import Role
from orchestrator.server.parts import Parts, told
from orchestrator.server.problems import add_handlers

__all__ = ["API", "ROUTES", "create_app"]


API = "/api/v1"
"""Where all that needs a token is, but for the metrics."""

RouterFactory: TypeAlias = Callable[[Parts], APIRouter]

ROUTES: tuple[RouterFactory, ...] = (
    jobs.routes,
    cluster.routes,
    services.routes,
    policy.routes,
    twin.routes,
    view.routes,
)
"""What answers below ``/api/v1``: to add a module of routes, add its factory."""

_PAGE = Path(__file__).parent / "page"


def create_app(parts: Parts, *, metrics: Exposition | None = None, page: Path = _PAGE) -> ASGIApp:
    """An application that answers for a live orchestrator.

    Parameters
    ----------
    parts : Parts
        What it is made of.
    metrics : Exposition or None
        What monitoring is told; None: one is made.
    page : Path
        A folder with ``index.html``; if it is not there, there is no page.

    Returns
    -------
    ASGIApp
        The application, behind its gate.
    """
    app = FastAPI(
        title="Quartermaster",
        version=_version(),
        summary="Submit jobs to a cluster, and see what becomes of them.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    add_handlers(app)
    metrics = Exposition(parts.orchestrator) if metrics is None else metrics
    for router in (*(factory(parts) for factory in ROUTES), _about(parts)):
        _adopt(app, router, API)
    _adopt(app, metrics.route(), "")
    _add_health(app, parts)
    _add_page(app, page)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return Gate(app, parts.tokens, parts.limits, metrics.served)


def _version() -> str:
    try:
        return version("quartermaster")
    except PackageNotFoundError:
        return "0"


def _about(parts: Parts) -> APIRouter:
    router = APIRouter(tags=["about"])

    @router.get("/version", dependencies=only(Role.VIEWER), responses=answers())
    async def show_version() -> Response:
        """Which version this is, and for how long it has run."""
        uptime_s = round(time.monotonic() - parts.begun_s, 3)
        about = {"version": _version(), "api": 1, "python": platform.python_version()}
        return told({**about, "uptime_s": uptime_s})

    return router


def _adopt(app: FastAPI, router: APIRouter, prefix: str) -> None:
    """Make a router's routes the application's own; refuse one that does not say whom it is for.

    FastAPI keeps included routers apart: no list has all routes, and each of them is asked at every
    request.
    """
    for route in router.routes:
        role = role_of(route.dependencies) if isinstance(route, APIRoute) else None
        if role is None or not isinstance(route, APIRoute):
            problem = f"route {getattr(route, 'path', route)} does not say who may use it"
            raise ConfigurationError(f"{problem}; give it dependencies=only(Role....)")
        app.router.add_api_route(
            prefix + route.path,
            route.endpoint,
            methods=route.methods,
            status_code=route.status_code,
            dependencies=[one for one in route.dependencies if role_of([one]) is None],
            route_class_override=guarded(role),
            tags=route.tags,
            responses=route.responses,
            response_class=route.response_class,
            response_model=None,
            openapi_extra={"x-role": role.name.lower(), **(route.openapi_extra or {})},
        )


def _add_health(app: FastAPI, parts: Parts) -> None:
    @app.get("/healthz", tags=["about"])
    async def healthz() -> Response:
        """Whether the server answers at all."""
        return told({"status": "ok"})

    @app.get(
        "/readyz", tags=["about"], responses={503: {"description": "Not yet, or not any more."}}
    )
    async def readyz() -> Response:
        """Whether the server can take jobs now."""
        why = parts.ready()
        if not why and not parts.orchestrator.leads:
            why = "another server leads the log"
        return told({"status": "not ready", "why": why}, 503) if why else told({"status": "ready"})


def _add_page(app: FastAPI, page: Path) -> None:
    index = page / "index.html"
    if not index.exists():
        return
    app.mount("/page", StaticFiles(directory=page), name="page")

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        """The page."""
        return FileResponse(index, media_type="text/html")


_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong; what to do about it."},
            "instance": {"type": "string"},
            "field": {"type": "string"},
        },
    }
}


def _described(app: FastAPI) -> dict[str, Any]:
    """The API's description, with what FastAPI does not know of: tokens and problems."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    found = FastAPI.openapi(app)
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= _SCHEMAS
    parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if is_open(path) else [{"token": []}]
    app.openapi_schema = found
    return found
