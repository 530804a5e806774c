"""The assistant's door: an MCP client asks, nothing changes unasked, and changes take two calls."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError

from orchestrator.cli.assistant import make_server
from orchestrator.errors import ConfigurationError
from tests.cli.conftest import Command
from tests.client.fake import TOKEN, FakeServer, problem

_QUESTIONS = {"cluster", "jobs", "job", "queue", "nodes", "when", "why", "what_if", "check_job"}
_CHANGES = {"submit", "cancel", "migrate", "drain"}


async def test_it_offers_questions_and_changes_only_if_told_to(fake: FakeServer) -> None:
    for writes, names in ((False, _QUESTIONS), (True, _QUESTIONS | _CHANGES)):
        async with Client(make_server(writes=writes)) as client:
            tools = {tool.name: tool for tool in await client.list_tools()}
        assert set(tools) == names
        for name, tool in tools.items():
            assert tool.description
            assert tool.annotations.read_only_hint is (name in _QUESTIONS)
    assert fake.asked == []


async def test_questions_are_asked_of_the_server(fake: FakeServer) -> None:
    fake.on("GET /jobs/a/when", {"job_id": "a", "start": None})
    fake.on("GET /jobs/a/why", {"job_id": "a", "changes": []})
    fake.on("POST /what-if", {"change": "node n is drained", "courses": {"times_ms": [1]}})
    fake.on("GET /cluster", {"nodes": 3})
    fake.on("GET /nodes", {"items": [{"node_id": "n"}], "next": None})
    fake.on("POST /jobs", {"job_id": "b", "dry_run": True})
    async with Client(make_server()) as client:
        asked: dict[str, dict[str, Any]] = {
            "when": {"job_id": "a", "futures": 50},
            "why": {"job_id": "a"},
            "what_if": {"supposed": {"drain": ["n"]}, "futures": 20},
            "cluster": {},
            "check_job": {"job": {"name": "b", "command": ["true"]}},
        }
        told = {name: (await client.call_tool(name, given)).data for name, given in asked.items()}
    assert told["when"]["start"] is None
    assert told["why"]["changes"] == []
    assert told["what_if"] == {"change": "node n is drained"}
    assert told["cluster"]["nodes"] == 3
    assert told["check_job"]["job_id"] == "b"
    sent = {one.path: one for one in fake.asked}
    assert sent["/api/v1/what-if"].body == {"drain": ["n"], "futures": 20}


async def test_what_goes_wrong_is_told_in_words(fake: FakeServer) -> None:
    fake.on("GET /jobs/x", problem(404, "no job 'x'; 0 are known"))
    async with Client(make_server()) as client:
        with pytest.raises(ToolError, match="no job 'x'; 0 are known"):
            await client.call_tool("job", {"job_id": "x"})


async def test_a_change_takes_two_calls_and_its_own_code(fake: FakeServer) -> None:
    fake.on("POST /jobs/a/cancel", {"done": True, "job": {"job_id": "a"}})
    async with Client(make_server(writes=True)) as client:
        said = (await client.call_tool("cancel", {"job_id": "a"})).data
        assert (said["done"], said["would"]) == (False, "cancel")
        assert fake.asked == []
        code = said["confirm"]
        for given in ({"job_id": "b", "confirm": code}, {"job_id": "a", "confirm": "ffffffff"}):
            with pytest.raises(ToolError, match="this code is not for that"):
                await client.call_tool("cancel", given)
        assert fake.asked == []
        said = (await client.call_tool("cancel", {"job_id": "a"})).data
        done = {"job_id": "a", "confirm": said["confirm"]}
        assert (await client.call_tool("cancel", done)).data["done"] is True
        assert len(fake.asked) == 1
        with pytest.raises(ToolError, match="this code is not for that"):  # it was for once
            await client.call_tool("cancel", done)


async def test_the_command_speaks_on_standard_input_and_output(fake: FakeServer) -> None:
    fake.on("GET /jobs/a/when", {"job_id": "a", "start": None})
    begin = "from agents.cli import main; raise SystemExit(main(['mcp']))"
    env = {**os.environ, "QUARTERMASTER_URL": fake.url, "QUARTERMASTER_TOKEN": TOKEN}
    async with Client(StdioTransport(sys.executable, ["-c", begin], env=env)) as client:
        assert {tool.name for tool in await client.list_tools()} == _QUESTIONS
        assert (await client.call_tool("when", {"job_id": "a"})).data["job_id"] == "a"


def test_without_fastmcp_it_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastmcp", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'quartermaster\[assistant\]'"):
        make_server()
    said = command("mcp")
    assert said.code == 2
    assert "fastmcp is not installed" in said.err
