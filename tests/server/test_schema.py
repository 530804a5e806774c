"""The API is what its description says: schemathesis asks it everything, well and badly formed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.config import (
    ChecksConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.core.failures import FailureGroup

from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.listen import HttpServer, bind
from orchestrator.server.guard.tokens import Role
from tests.server.world import job, world

# Fields that are well each by themselves may make no sense together: then 422 is right.
_ACCEPTED = PositiveDataAcceptanceConfig(expected_statuses=["2xx", 404, 409, 422, "5xx"])
_ENDLESS = "/api/v1/events/stream"


@contextmanager
def _served() -> Iterator[tuple[str, str]]:
    """An application on a port, in a thread with a loop of its own: address, token."""
    ready, told = threading.Event(), list[str]()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def run() -> None:
        async with world(Limits(requests_per_s=0.0, strangers_per_s=0.0)) as here:
            async with here.client() as client:
                for name in ("a", "b"):
                    await client.post("/api/v1/jobs", json=job(name, job_id=name))
            await here.orchestrator.starts()  # kernels are compiled before anybody waits for them
            server = HttpServer(here.app, bind("127.0.0.1", 0), Limits(), stop_s=1)
            await server.open()
            told.extend((f"http://127.0.0.1:{server.port}", here.texts[Role.OPERATOR]))
            ready.set()
            await ended.wait()
            here.parts.streams.close()
            await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(300), "it did not start"
        yield told[0], told[1]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


@pytest.mark.property
def test_it_answers_as_described() -> None:
    """Statuses, types and schemas; nothing fails, nothing wrong is taken, and tokens are needed."""
    checks = ChecksConfig(positive_data_acceptance=_ACCEPTED)
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(checks=checks)))
    with _served() as (url, token):
        schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json", config=config)
        headers = {"Authorization": f"Bearer {token}"}
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 20
        failures = list[str]()
        for operation in operations:
            if operation.path == _ENDLESS:
                continue  # test_events.py reads it

            asked = operation.as_strategy(GenerationMode.POSITIVE)
            takes = operation.body or operation.query or operation.headers
            if takes:
                asked = asked | operation.as_strategy(GenerationMode.NEGATIVE)

            @hypothesis.settings(
                max_examples=12 if takes else 3,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=asked)
            def ask(case: schemathesis.Case) -> None:
                if "timeout_s" in (case.query or {}):
                    case.query["timeout_s"] = 0
                case.call_and_validate(headers=headers, timeout=10)

            try:
                ask()
            except FailureGroup as found:
                failures.append(f"{operation.label}: {found}")
        assert not failures, "\n\n".join(failures)


async def test_the_description_names_every_error() -> None:
    async with world() as here, here.client(None) as client:
        told = (await client.get("/api/v1/openapi.json")).json()
    for path, operations in told["paths"].items():
        for operation in operations.values():
            if operation["security"]:
                assert {"401", "403", "422", "429", "503"} <= set(operation["responses"]), path
    assert told["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
