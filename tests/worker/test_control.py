"""The line between a worker and its agent."""

from __future__ import annotations

import json
import logging
import queue
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ValidationError
from orchestrator.worker.control import Control, Hangup, Order, SaveOrder, StopOrder, World


@contextmanager
def _agent(tmp_path: Path) -> Iterator[tuple[dict[str, str], socket.socket]]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent"))
        server.listen(1)
        server.settimeout(10.0)
        path = str(tmp_path / "agent")
        yield {"QUARTERMASTER_CONTROL": path, "QUARTERMASTER_JOB_ID": "a", "RANK": "1"}, server


def test_a_worker_says_hello_hears_orders_and_is_heard(tmp_path: Path) -> None:
    heard: queue.Queue[Order] = queue.Queue()
    with _agent(tmp_path) as (variables, server):
        control = Control({**variables, "WORLD_SIZE": "2", "QUARTERMASTER_RUN": "3"})
        assert control.connect(heard.put)
        line, _ = server.accept()
        with line, line.makefile("rb") as said:
            assert json.loads(said.readline()) == {"hello": {"job": "a", "run": 3, "rank": 1}}
            world = {"generation": 2, "ranks": [0, 5], "master": "h:1", "rank": 1, "size": 2}
            orders: list[dict[str, Any]] = [{"save": 4}, {"world": world}, {"stop": "preempted"}]
            line.sendall("".join(json.dumps(each) + "\n" for each in orders).encode())
            assert heard.get(timeout=10) == SaveOrder(4)
            assert heard.get(timeout=10) == World(2, (0, 5), "h:1", 1, 2)
            assert heard.get(timeout=10) == StopOrder("preempted")
            control.progress(7, 0.5)
            assert json.loads(said.readline()) == {"progress": {"step": 7, "fraction": 0.5}}
            control.say({"saved": 4, "step": 7})
            control.close()
            assert json.loads(said.readline()) == {"saved": 4, "step": 7}
            assert said.readline() == b""
        assert not control.connected


def test_an_agent_that_hangs_up_is_noticed(tmp_path: Path) -> None:
    heard: queue.Queue[Order] = queue.Queue()
    with _agent(tmp_path) as (variables, server):
        control = Control(variables)
        control.connect(heard.put)
        server.accept()[0].close()
        assert heard.get(timeout=10) == Hangup()
        control.close()


@pytest.mark.parametrize(
    "line",
    [
        b"{not json\n",
        b"[]\n",
        b"7\n",
        b'{"dance": 1}\n',
        b'{"save": "x"}\n',
        b'{"world": {"generation": 1}}\n',
        b'{"world": {"generation": 1, "ranks": [0], "master": "h:1", "rank": 4, "size": 1}}\n',
        b'{"world": {"generation": 1, "ranks": [0], "master": "h", "rank": 0, "size": 1}}\n',
    ],
)
def test_what_makes_no_sense_is_said_and_passed_over(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[Order] = queue.Queue()
    with _agent(tmp_path) as (variables, server), caplog.at_level(logging.WARNING):
        control = Control(variables)
        control.connect(heard.put)
        agent, _ = server.accept()
        with agent:
            agent.sendall(line + b'{"stop": "enough"}\n')
            assert heard.get(timeout=10) == StopOrder("enough")
        control.close()
    assert "the agent said" in caplog.text


def test_without_an_agent_nothing_is_heard_and_what_is_said_goes_nowhere() -> None:
    control = Control({})
    assert not control.connect(lambda order: None)
    control.progress(1, None)
    control.close()
    assert (control.identity, control.size, control.newcomer) == (0, 1, False)
    assert control.checkpoint_folder is None


def test_who_joins_later_is_known_by_its_environment() -> None:
    assert Control({"RANK": "0", "WORLD_SIZE": "1", "QUARTERMASTER_WARM": "1"}).newcomer
    assert Control({"RANK": "4", "WORLD_SIZE": "4"}).newcomer
    assert not Control({"RANK": "3", "WORLD_SIZE": "4"}).newcomer


def test_bad_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="field 'RANK' is 'x'; give a whole number"):
        Control({"RANK": "x"})
    control = Control({"QUARTERMASTER_CONTROL": str(tmp_path / "none")})
    with pytest.raises(ValidationError, match="'QUARTERMASTER_CONTROL' leads nowhere"):
        control.connect(lambda order: None)
