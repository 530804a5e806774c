"""Commands against a real server with real agents: the way that people and scripts go."""

from __future__ import annotations

import json
import select
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from orchestrator.cli import terminal
from orchestrator.client import Client
from tests.cli.conftest import Command
from tests.cli.live import Server, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("live") / "cluster", "--agents", "3", "--gpus", "4")
    made.start()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def ask(server: Server, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("QUARTERMASTER_ENDPOINT", str(server.endpoint))
    for name in ("QUARTERMASTER_URL", "QUARTERMASTER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return command


def _json(ask: Command, *given: str) -> Any:
    said = ask(*given, "--json")
    assert said.code == 0, said
    return json.loads(said.out)


def test_a_job_from_its_submission_to_its_end(ask: Command) -> None:
    line = "submit --name hello --workers 1 --gpus-per-worker 1 --json -- "
    line += shlex.join([sys.executable, "-c", "print(42)"])
    said = ask(*shlex.split(line))
    assert said.code == 0, said
    job_id = json.loads(said.out)["job_id"]
    assert ask("wait", job_id).code == 0
    assert ask("logs", job_id).out == "42\n"
    job = _json(ask, "show", job_id)
    assert (job["state"], job["exit_code"], job["node_ids"]) == ("completed", 0, ["node-0"])
    (listed,) = _json(ask, "ls", "--name", "hello")
    assert (listed["job_id"], listed["node_ids"]) == (job_id, ["node-0"])
    assert job_id in ask("ls", "--state", "completed").out
    assert "print(42)" in ask("show", job_id).out
    happened = [each["what"] for each in _json_lines(ask, "events") if each.get("job_id") == job_id]
    assert happened == ["submitted", "started", "completed"]


def _json_lines(ask: Command, *given: str) -> list[Any]:
    return [json.loads(row) for row in ask(*given, "--json").out.splitlines()]


def test_a_command_that_watches_ends_as_the_job(ask: Command) -> None:
    said = ask("submit", "--watch", "-w", "2", "--", "sh", "-c", "echo from $RANK; exit 7")
    assert said.code == 7
    assert {"[0] from 0", "[1] from 1"} >= set(said.out.splitlines()) != set()
    assert "exited with code 7" in said.err


def test_jobs_of_a_file(ask: Command, tmp_path: Path) -> None:
    place = tmp_path / "jobs.yaml"
    place.write_text(
        f"""
name: first
env: [GREETING=hello there]
workdir: {tmp_path}
command: [sh, -c, 'echo $GREETING; ls']
---
name: second
gpus-per-worker: 99
command: ["true"]
"""
    )
    said = ask("submit", "-f", str(place))
    assert (said.code, said.out) == (1, "")
    assert "gpus_per_worker" in said.err
    assert _json(ask, "ls", "--name", "first") == []
    place.write_text(place.read_text().replace("99", "1"))
    first, second = _json(ask, "submit", "-f", str(place))
    assert ask("wait", first["job_id"], second["job_id"]).code == 0
    assert ask("logs", first["job_id"]).out == "hello there\njobs.yaml\n"


def test_a_job_is_cancelled(ask: Command) -> None:
    assert ask("submit", "--dry-run", "sleep", "60").code == 0
    said = ask("submit", "--name", "long", "-g", "1", "--", "sleep", "60")
    name = said.out.split()[1]
    until(lambda: _json(ask, "show", name)["state"] == "running")
    assert ask("cancel", name, "--reason", "wrong data").code == 0
    assert ask("wait", name).code == 125
    assert "cancelled: wrong data" in _json(ask, "show", name)["reason"]
    said = ask("cancel", name)
    assert said.code == 1
    assert "has ended" in said.err
    assert ask("cancel", "nobody").code == 3


def test_a_job_is_scaled(ask: Command) -> None:
    flags = ["--name", "grows", "--elastic", "--min-workers", "1", "--max-workers", "3", "-g", "1"]
    job_id = ask("submit", *flags, "--", "sleep", "60").out.split()[1]
    until(lambda: _json(ask, "show", job_id)["state"] == "running")
    said = ask("scale", job_id, "2")
    assert said.code == 0, said
    assert len(_json(ask, "show", job_id)["workers"]) == 2
    said = ask("scale", job_id, "9")
    assert said.code == 1, said
    assert said.err
    assert ask("cancel", job_id).code == 0


def test_a_node_is_drained_and_used_again(ask: Command) -> None:
    holds = ["--name", "holds", "-g", "4"]
    job_id = ask("submit", *holds, "--", "sleep", "60").out.split()[1]
    until(lambda: _json(ask, "show", job_id)["state"] == "running")
    (node_id,) = _json(ask, "show", job_id)["node_ids"]
    assert job_id in ask("nodes").out
    assert job_id in ask("top", "--once").out
    waits = ask("submit", "--name", "waits", "-g", "4", "-w", "3", "--", "true").out.split()[1]
    queue = _json(ask, "queue")
    assert [each["job_id"] for each in queue] == [waits]
    assert waits in ask("queue").out
    assert ask("cancel", waits).code == 0
    assert ask("drain", node_id).code == 0
    states = {each["node_id"]: each["state"] for each in _json(ask, "nodes")}
    assert states.get(node_id) != "up"
    assert ask("drain", "nobody").code == 3
    assert ask("cancel", job_id).code == 0


def test_tokens_have_roles(ask: Command, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ask("token", "create", "eye", "--role", "viewer").out.strip()
    url = json.loads(server.endpoint.read_text())["url"]
    monkeypatch.setenv("QUARTERMASTER_URL", url)
    monkeypatch.setenv("QUARTERMASTER_TOKEN", text)
    assert ask("ls").code == 0
    said = ask("submit", "true")
    assert said.code == 4
    assert "; " in said.err
    monkeypatch.setenv("QUARTERMASTER_TOKEN", "wrong")
    assert ask("ls").code == 4
    monkeypatch.delenv("QUARTERMASTER_URL")
    assert ask("token", "rm", "eye").code == 0
    monkeypatch.setenv("QUARTERMASTER_URL", url)
    monkeypatch.setenv("QUARTERMASTER_TOKEN", text)
    assert ask("ls").code == 4


_STEPS = """
echo begun; i=0
while [ ! -e "$GO/end" ]; do
    if [ -e "$GO/say" ] && rm "$GO/say" 2>/dev/null; then i=$((i + 1)); echo line $i; fi
    sleep 0.02
done
exit 3
"""


def test_what_happens_is_followed(ask: Command, server: Server) -> None:
    looks = server.beside("events", "-f", "--json")
    assert looks.stdout is not None
    seen: list[Any] = []
    until(lambda: ask("submit", "true").code == 0 and _ready(looks.stdout))
    while not seen or seen[-1]["what"] != "completed":
        seen.append(json.loads(looks.stdout.readline()))
    cursors = [each["cursor"] for each in seen]
    assert len(set(cursors)) == len(cursors)
    after = _json_lines(ask, "events", "--since", cursors[0], "--limit", "2")
    assert cursors[0] not in [each["cursor"] for each in after] != []
    looks.send_signal(signal.SIGINT)
    assert looks.communicate(timeout=60)[1] == ""
    assert looks.returncode == 0


def _ready(stream: Any) -> bool:
    """Whether there is something to be read."""
    return bool(select.select([stream], [], [], 0.2)[0])


def test_who_stops_looking_leaves_the_job_running(ask: Command, server: Server) -> None:
    job_id = ask("submit", "--", "sh", "-c", "echo begun; sleep 60").out.split()[1]
    looks = server.beside("attach", job_id)
    assert looks.stdout is not None
    assert looks.stdout.readline() == "begun\n"
    looks.send_signal(signal.SIGINT)
    _, err = looks.communicate(timeout=60)
    assert looks.returncode == 130
    assert f"job {job_id} runs on" in err
    assert "Traceback" not in err
    assert _json(ask, "show", job_id)["state"] == "running"
    assert ask("cancel", job_id).code == 0


def test_who_stops_reading_is_not_complained_about(ask: Command, server: Server) -> None:
    many = "for i in $(seq 20000); do echo line $i; done"
    job_id = ask("submit", "--", "sh", "-c", many).out.split()[1]
    assert ask("wait", job_id).code == 0
    assert ask("logs", job_id).out == "".join(f"line {k + 1}\n" for k in range(20000))
    assert ask("logs", job_id, "--tail", "2").out == "line 19999\nline 20000\n"
    reads = server.beside("logs", job_id)
    assert reads.stdout is not None
    assert reads.stdout.readline() == "line 1\n"
    reads.stdout.close()
    assert reads.wait(60) == 1
    assert reads.stderr is not None
    assert reads.stderr.read() == ""
    reads.stderr.close()


def test_a_server_that_is_killed_or_stopped_is_outlasted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output is told once and to its end, and who waits learns how it ended."""
    with Client(server.endpoint) as client:
        job = client.submit(
            name="steps", command=["sh", "-c", _STEPS], environment={"GO": str(tmp_path)}
        )
        follows = server.beside("logs", "-f", job["job_id"])
        waits = server.beside("wait", job["job_id"])
        assert follows.stdout is not None
        assert follows.stdout.readline() == "begun\n"
        _say(tmp_path)
        assert follows.stdout.readline() == "line 1\n"
        server.end(signal.SIGKILL)
        _say(tmp_path)  # nobody hears it now
        server.start()
        _say(tmp_path)
        server.end()  # its agents go, and the job's command is run again
        server.start()
        _say(tmp_path)
        (tmp_path / "end").touch()
        rest, complaints = follows.communicate(timeout=60)
        assert (follows.returncode, complaints) == (0, "")
        assert waits.communicate(timeout=60)[0] == ""
        assert waits.returncode == 3
        runs = client.job(job["job_id"])["starts"]
        written = [each for k in range(runs) for each in client.logs(job["job_id"], run=k + 1)]
        assert "begun\nline 1\n" + rest == "".join(written)
        assert written.count("begun\n") > 1
    server.end()
    monkeypatch.setattr(terminal, "_HASTY_S", 0.1)
    assert main(["ls", "--endpoint", str(server.endpoint)]) == 5


def _say(tmp_path: Path) -> None:
    """Have the job say one more line."""
    (tmp_path / "say").touch()
    until(lambda: not (tmp_path / "say").exists())
