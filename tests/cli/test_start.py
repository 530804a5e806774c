"""What a command loads: starting it takes less time than a person notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.fake import TOKEN, FakeServer, output

_ROOT = Path(__file__).resolve().parents[2]
_HEAVY = ("numba", "numpy", "torch", "fastapi", "scipy", "starlette", "uvicorn", "pandas", "hydra")
_HEAVY += ("orchestrator.engine", "orchestrator.kernels", "orchestrator.orchestrator", "gymnasium")
_DRAWS = ("rich", "pygments", "yaml")


def _loaded_by(fake: FakeServer, statement: str, which: tuple[str, ...]) -> set[str]:
    """Which libraries a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*[m for m in {which!r} if m in sys.modules])"
    env = {**os.environ, "QUARTERMASTER_URL": fake.url, "QUARTERMASTER_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT, env=env
    )
    return set(done.stdout.splitlines()[-1].split())


def _commands(*lines: str) -> str:
    runs = "\n".join(f"assert main({line.split()!r}) == 0" for line in lines)
    return f"from agents.cli import main\n{runs}"


@pytest.fixture(scope="module")
def fake() -> FakeServer:
    server = FakeServer()
    page = {"items": [{"job_id": "a"}], "next_cursor": None}
    server.on("GET /jobs", page)
    server.on("GET /jobs/a", {"job_id": "a", "starts": 1, "state": "completed"})
    server.on("GET /jobs/a/wait", {"job_id": "a", "ended": True, "state": "completed"})
    server.on("GET /jobs/a/logs", output((0, 0, 2, "x\n")))
    server.on("POST /jobs", {"job_id": "a", "state": "pending"})
    return server


def test_commands_load_no_cluster(fake: FakeServer) -> None:
    lines = ("version", "submit --name a -- true", "ls", "show a", "logs -f a", "wait a")
    with fake.serving():
        assert _loaded_by(fake, _commands(*lines), _HEAVY) == set()
    assert ("POST", "/api/v1/jobs") in [(a.method, a.path) for a in fake.asked]


def test_commands_for_scripts_load_nothing_that_draws(fake: FakeServer) -> None:
    lines = ("submit --json --name a -- true", "ls --json", "show a --json", "wait a", "logs a")
    with fake.serving():
        assert _loaded_by(fake, _commands(*lines), _DRAWS) == set()


def test_programs_load_the_client_only(fake: FakeServer) -> None:
    statement = "from quartermaster import AsyncClient, Client"
    assert _loaded_by(fake, statement, _HEAVY) == set()


def test_the_short_name_is_the_client() -> None:
    import quartermaster
    from orchestrator import client

    assert quartermaster.Client is client.Client
    assert quartermaster.AsyncClient is client.AsyncClient
    assert Path(quartermaster.__file__).parent == _ROOT


def test_httpx_is_whole_where_a_program_loads_it(fake: FakeServer) -> None:
    """Only the command line goes without httpx's own command line, and says so."""
    statement = f"{_commands('ls --json')}\nimport httpx\ntry: httpx.main()\n"
    statement += "except SystemExit as error: assert 'not loaded here' in str(error)"
    with fake.serving():
        assert _loaded_by(fake, statement, ("httpx", "httpx._main")) == {"httpx"}
    program = "from quartermaster import Client\nimport httpx, httpx._main"
    assert _loaded_by(fake, program, ("httpx._main",)) == {"httpx._main"}


def test_a_command_is_a_module_too(fake: FakeServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", "version", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
    )
    assert set(json.loads(done.stdout)) == {"version"}
