"""What commands ask, print and end with, against a server that answers by a script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from agents.cli import main
from orchestrator.cli import tables, terminal
from orchestrator.cli.app import make_app
from tests.cli.conftest import Command
from tests.client.fake import Asked, FakeServer, Says, lost, output, problem

_TAKEN = Says({"job_id": "a-1", "state": "pending"}, 201)
_JOB = {
    "job_id": "a-1",
    "name": "a",
    "tenant": "red",
    "priority": "BATCH",
    "state": "running",
    "kind": "TRAINING",
    "command": ["sh", "-c", "echo hi"],
    "node_ids": ["n0", "n1"],
    "submit_ms": 1_000,
    "start_ms": 2_000,
    "end_ms": None,
    "wait_ms": 200_000,
    "progress": 0.25,
    "exit_code": None,
    "reason": "",
    "history": [{"time_ms": 1_000, "what": "started", "reason": "\x1b[31mred\x07"}],
}


def _page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": None}


def test_a_job_is_handed_in_by_flags(command: Command, fake: FakeServer) -> None:
    fake.on("POST /jobs", _TAKEN)
    flags = (
        "--name a -w 2 -g 1 --elastic --no-gang -e A=1 -e B=x=y --time-limit 90m -p batch --json"
    )
    said = command("submit", *flags.split(), "--", "python", "-c", "print('--json $HOME')")
    assert (said.code, json.loads(said.out)["job_id"], said.err) == (0, "a-1", "")
    assert fake.asked[0].body == {
        "name": "a",
        "num_workers": 2,
        "gpus_per_worker": 1,
        "elastic": True,
        "gang_schedule": False,
        "environment": {"A": "1", "B": "x=y"},
        "max_duration_hours": 1.5,
        "priority": "batch",
        "command": ["python", "-c", "print('--json $HOME')"],
    }


def test_a_command_names_its_job_and_keeps_its_options(command: Command, fake: FakeServer) -> None:
    fake.on("POST /jobs", _TAKEN)
    said = command("submit", "/bin/ls", "--json", "-f", "x")
    assert (said.code, said.out) == (0, "job a-1 submitted\n")
    assert fake.asked[0].body == {"name": "ls", "command": ["/bin/ls", "--json", "-f", "x"]}


def test_jobs_of_a_file_are_all_taken_or_none(
    command: Command, fake: FakeServer, tmp_path: Path
) -> None:
    place = tmp_path / "two.yaml"
    place.write_text("command: [a]\n---\nname: b\ncommand: [b]\n")

    def taken(asked: Asked) -> Says:
        return Says({"job_id": asked.body["name"], "state": "pending"}, 201)

    fake.on("POST /jobs", taken)
    said = command("submit", "-f", str(place), "--tenant", "red")
    assert said.out == "job two-1 submitted\njob b submitted\n"
    assert [a.query.get("dry_run") for a in fake.asked] == ["true", "true", None, None]
    assert all(a.body["tenant"] == "red" for a in fake.asked)
    assert len({a.headers["Idempotency-Key"] for a in fake.asked}) == 4
    fake.asked.clear()
    fake.on("POST /jobs", taken, problem(422, "JobSpec 'b': bad; mend it"), taken)
    said = command("submit", "-f", str(place))
    assert (said.code, said.out) == (1, "")
    assert said.err == "quartermaster: JobSpec 'b': bad; mend it\n"
    assert len(fake.asked) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_jobs_that_were_taken_are_told_though_the_next_one_is_refused(
    command: Command, fake: FakeServer, tmp_path: Path, as_json: bool
) -> None:
    place = tmp_path / "two.yaml"
    place.write_text("command: [a]\n---\ncommand: [b]\n")
    full = problem(409, "full; wait", title="at capacity")
    fake.on("POST /jobs", _TAKEN, _TAKEN, _TAKEN, full)  # both are asked about before
    said = command("submit", "-f", str(place), *(["--json"] if as_json else []))
    assert said.code == 1
    assert "full; wait" in said.err
    if as_json:
        assert [job["job_id"] for job in json.loads(said.out)] == ["a-1"]
    else:
        assert said.out == "job a-1 submitted\n"


def test_jobs_of_one_identity_are_refused_before_any_is_sent(
    command: Command, fake: FakeServer, tmp_path: Path
) -> None:
    place = tmp_path / "two.yaml"
    place.write_text("id: a\ncommand: [a]\n---\nid: a\ncommand: [b]\n")
    said = command("submit", "-f", str(place))
    assert said.code == 2
    assert "2 jobs have the id 'a'; give every job its own 'id'" in said.err
    assert fake.asked == []


def test_asking_only(command: Command, fake: FakeServer) -> None:
    fake.on("POST /jobs", _TAKEN)
    said = command("submit", "--dry-run", "true")
    assert (said.code, said.out) == (0, "job a-1 would be taken\n")
    assert fake.asked[0].query == {"dry_run": "true"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["submit"], "there is no command"),
        (["submit", "--watch", "--dry-run", "a"], "--watch: it follows one job"),
        (["submit", "--time-limit", "2", "a"], "no time with units"),
        (["submit", "--workers", "two", "a"], "Invalid value for"),
        (["submit", "-f", "none.yaml"], "No such file"),
        (["nodez"], "No such command"),
        (["show"], "Missing argument"),
        (["scale", "a", "many"], "Invalid value"),
        (["call", "s", "-H", "x"], "write 'Name: value'"),
        (["call", "s", "-d", "@none"], "No such file"),
        (["show", "a", "--endpoint", "none.json"], "start a server"),
    ],
)
def test_wrong_use_ends_with_2(
    command: Command, fake: FakeServer, given: list[str], says: str
) -> None:
    said = command(*given)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert "Traceback" not in said.err
    assert fake.asked == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(404, "job 'a': unknown; list them"), 3),
        (problem(401, "token: unknown; make one"), 4),
        (problem(403, "role: too low; ask"), 4),
        (problem(409, "full; wait", title="at capacity"), 1),
        (problem(500, "broken; look"), 1),
    ],
)
def test_what_is_refused_says_why(
    command: Command, fake: FakeServer, answer: Says, code: int
) -> None:
    fake.on("GET /jobs/a", answer)
    said = command("show", "a")
    assert (said.code, said.out) == (code, "")
    assert said.err == f"quartermaster: {answer.body['detail']}\n"


def test_what_cannot_be_written_says_so(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = command("serve", "--dir", str(tmp_path / "file" / "inside"))
    assert said.code == 1
    assert "file" in said.err
    assert "; give another place" in said.err
    assert "Traceback" not in said.err


def test_nobody_answers(
    command: Command, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_HASTY_S", 0.01)
    fake.on("GET /jobs", lost())
    said = command("ls")
    assert said.code == 5
    assert said.err.startswith(f"quartermaster: server {fake.url}: the connection was lost;")
    monkeypatch.setenv("QUARTERMASTER_URL", "http://127.0.0.1:1")
    said = command("attach", "a")  # nobody is waited for who was never there
    assert said.code == 5
    assert "nobody answers there" in said.err


def test_no_server_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "TOKEN", "ENDPOINT"):
        monkeypatch.delenv(f"QUARTERMASTER_{name}", raising=False)
    said = command("ls")
    assert said.code == 2
    assert "give --endpoint FILE" in said.err


@pytest.mark.parametrize("first", [True, False])
def test_the_server_is_named_before_or_after(
    command: Command, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    told = tmp_path / "endpoint.json"
    told.write_text(json.dumps({"url": fake.url, "token": "other"}))
    fake.on("GET /jobs", _page())
    monkeypatch.setenv("QUARTERMASTER_URL", "http://127.0.0.1:1")
    at = ["--endpoint", str(told)]
    said = command(*at, "ls") if first else command("ls", *at)
    assert (said.code, said.err) == (0, "no jobs\n")
    assert fake.asked[0].headers["Authorization"] == "Bearer other"


def test_lists_are_tables_or_json(command: Command, fake: FakeServer) -> None:
    job = {**_JOB, "workers": 2, "gpus": 2.0}
    long = {**job, "job_id": "b" * 80, "state": "pending", "queue_position": 3, "start_ms": None}
    fake.on("GET /jobs", _page(job, long))
    said = command("ls", "--state", "running", "--limit", "7")
    head, first, second = said.out.splitlines()
    assert head.split()[:4] == ["JOB", "TENANT", "PRIORITY", "STATE"]
    assert first.split()[:6] == ["a-1", "red", "batch", "running", "2", "2"]
    assert "n0,n1" in first
    assert "b" * 80 in second
    assert "number 3 in the queue" in second
    assert fake.asked[0].query == {"state": "running", "limit": "7"}
    assert json.loads(command("ls", "--json").out) == [job, long]


def test_a_job_is_shown(command: Command, fake: FakeServer) -> None:
    fake.on("GET /jobs/a-1", _JOB)
    said = command("show", "a-1")
    rows = dict(
        re.split(r"\s{2,}", row, maxsplit=1) for row in said.out.split("\n\n")[0].splitlines()
    )
    assert rows["command"] == "sh -c 'echo hi'"
    assert (rows["waited"], rows["progress"], rows["nodes"]) == ("3m 20s", "25 %", "n0,n1")
    assert "exit code" not in rows
    assert "\x1b" not in said.out  # what a job says does not steer the terminal
    assert json.loads(command("show", "a-1", "--json").out) == _JOB


def test_output_is_printed_as_it_is(command: Command, fake: FakeServer) -> None:
    fake.on("GET /jobs/a/logs", output((1, 0, 10, "x\n\n[bold]y")))
    said = command("logs", "a", "--worker", "1", "--tail", "2")
    assert (said.code, said.out) == (0, "x\n\n[bold]y")
    assert fake.asked[0].query == {"worker": "1", "tail": "2"}
    said = command("logs", "a", "--json")
    assert [json.loads(row)["line"] for row in said.out.splitlines()] == ["x", "", "[bold]y"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"state": "completed", "exit_code": 0}, 0),
        ({"state": "failed", "exit_code": 7}, 7),
        ({"state": "failed", "exit_code": -9}, 137),
        ({"state": "failed", "exit_code": 143}, 143),
        ({"state": "failed", "exit_code": None}, 125),
        ({"state": "failed", "exit_code": 1, "reason": "cancelled: wrong data"}, 125),
        ({"state": "failed", "exit_code": 3, "reason": "exit code 3\nOrder cancelled"}, 3),
        ({"state": "failed", "exit_code": 3, "reason": "job was cancelled"}, 3),
    ],
)
def test_commands_that_wait_end_as_the_job_does(
    command: Command, fake: FakeServer, status: dict[str, Any], code: int
) -> None:
    fake.on("POST /jobs", _TAKEN)
    fake.on("GET /jobs/a-1", {"job_id": "a-1", "starts": 1})
    fake.on("GET /jobs/a-1/logs", output((0, 0, 4, "out\n")))
    fake.on("GET /jobs/a-1/wait", {"job_id": "a-1", "ended": True, **status})
    assert command("wait", "a-1").code == code
    for given in (["attach", "a-1"], ["submit", "--watch", "true"]):
        said = command(*given)
        assert (said.code, said.out) == (code, "out\n")
    rows = [json.loads(row) for row in command("submit", "--watch", "--json", "x").out.splitlines()]
    assert rows[0]["job_id"] == "a-1"
    assert rows[1:] == [{"line": "out"}, {"job_id": "a-1", "reason": None, **status}]


def test_waiting_for_many_ends_as_the_first_that_failed(command: Command, fake: FakeServer) -> None:
    for name, code in (("a", 0), ("b", 4), ("c", 5)):
        state = "failed" if code else "completed"
        status = {"job_id": name, "ended": True, "state": state, "exit_code": code}
        fake.on(f"GET /jobs/{name}/wait", status)
    said = command("wait", "a", "b", "c")
    assert said.code == 4
    assert "job b failed: no reason" in said.err
    fake.on("GET /jobs/a/wait", {"job_id": "a", "ended": False, "state": "running"})
    said = command("wait", "a", "--timeout", "0.01")
    assert said.code == 124
    assert "has not ended after 0.01 s; it is running" in said.err


def test_leaving_a_job_leaves_it_running(
    command: Command, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.client.Client.logs", interrupted)
    said = command("attach", "a-1")
    assert said.code == 130
    assert "job a-1 runs on; 'quartermaster attach a-1'" in said.err
    assert command("logs", "-f", "a-1").code == 130
    assert fake.asked == []


@pytest.mark.parametrize(
    ("given", "path", "body"),
    [
        (["cancel", "a", "--reason", "x"], "/jobs/a/cancel", {"reason": "x"}),
        (["scale", "a", "3"], "/jobs/a/scale", {"workers": 3}),
        (["preempt", "a"], "/jobs/a/preempt", {}),
        (["migrate", "a"], "/jobs/a/migrate", {}),
    ],
)
def test_jobs_are_changed(
    command: Command, fake: FakeServer, given: list[str], path: str, body: dict[str, Any]
) -> None:
    fake.on(f"POST {path}", {"done": True, "job": {"job_id": "a"}})
    said = command(*given)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("job a ")
    assert fake.asked[0].body == body
    fake.on(f"POST {path}", {"done": False, "job": {"job_id": "a"}, "why": "it has ended"})
    said = command(*given, "--json")
    assert said.code == 1
    assert json.loads(said.out)["done"] is False
    assert "it has ended" in said.err


def test_nodes_are_listed_emptied_and_used_again(command: Command, fake: FakeServer) -> None:
    node = {"node_id": "n0", "state": "up", "gpus": 4, "gpus_free": 2.5, "jobs": ["a", "b"]}
    fake.on("GET /nodes", _page(node))
    fake.on("GET /nodes/n0", node)
    fake.on("POST /nodes/n0/drain", {"done": True})
    fake.on("POST /nodes/n0/undrain", {"done": False, "why": "it is up"})
    assert command("nodes").out.splitlines()[1].split()[:4] == ["n0", "up", "2.5", "4"]
    assert json.loads(command("nodes", "n0", "--json").out) == node
    assert command("drain", "n0", "--force").out == "node n0 drained\n"
    assert fake.asked[-1].body == {"force": True}
    said = command("undrain", "n0")
    assert (said.code, said.err) == (1, "node n0 is not in use again: it is up\n")


def test_the_queue_says_why(command: Command, fake: FakeServer) -> None:
    item = {"position": 1, "job_id": "a", "reason": "fragmented", "expected_start_ms": None}
    fake.on("GET /queue", _page({**item, "waits_for": {"text": "no node has 4 free GPUs"}}, item))
    first, second = command("queue").out.splitlines()[1:]
    assert first.endswith("no node has 4 free GPUs")
    assert second.endswith("fragmented")
    fake.on("GET /queue", _page())
    assert command("queue").err == "nobody waits\n"


def test_the_cluster_on_a_page(command: Command, fake: FakeServer) -> None:
    cluster = {
        "gpus": {"total": 8, "allocated": 2.0},
        "jobs": {"running": 1, "failed": 0},
        "utilization": {"unit": "gpu", "now": 0.25},
    }
    fake.on("GET /cluster", cluster)
    fake.on("GET /nodes", _page({"node_id": "n0", "state": "up"}))
    fake.on("GET /jobs", _page(_JOB))
    fake.on("GET /queue", _page())
    said = command("top", "--once")
    assert "1 nodes, GPUs 2 of 8 in use, gpu use 25 %; jobs: 1 running" in said.out
    assert "a-1" in said.out
    assert json.loads(command("top", "--json").out) == cluster


def test_what_happens_is_told(command: Command, fake: FakeServer) -> None:
    event = {"cursor": "1.0", "time_ms": 1000, "kind": "job", "job_id": "a", "what": "started"}
    fake.on("GET /events", _page({"gap": True}, event))
    gap, line = command("events", "--since", "0.9").out.splitlines()
    assert "not kept" in gap
    assert line.endswith("job  a  started")
    rows = command("events", "--json").out.splitlines()
    assert [json.loads(row) for row in rows] == [{"gap": True}, event]


def test_services_get_rules(command: Command, fake: FakeServer, tmp_path: Path) -> None:
    place = tmp_path / "rules.yaml"
    place.write_text("name: s\nservice_ms: 5\nretry: {attempts: 2}\n---\nname: t\nservice_ms: 1\n")
    fake.on("POST /services", Says({"name": "s"}, 201))
    fake.on("GET /services", _page({"name": "s"}, {"name": "t"}))
    said = command("services", "-f", str(place))
    assert (said.code, said.out.split()) == (0, ["NAME", "s", "t"])
    rules = {"name": "s", "service_ms": 5, "retry": {"attempts": 2}}
    assert [a.body for a in fake.asked[:2]] == [rules, {"name": "t", "service_ms": 1}]
    place.write_text("[]")
    assert command("services", "-f", str(place)).code == 2


def test_services_are_called(
    fake: FakeServer, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    fake.on("POST /services/s/call/v1", Says(b"\x00pong\xff", media_type="x/y"))
    fake.on("GET /services/s/call/", Says(b"got", media_type="x/y"))
    (tmp_path / "body").write_bytes(b"\x00\xff")
    assert main(["call", "s", "v1", "-d", f"@{tmp_path / 'body'}", "-H", "X-A: 1"]) == 0
    assert capfdbinary.readouterr().out == b"\x00pong\xff"
    assert (fake.asked[0].body, fake.asked[0].headers["X-A"]) == (b"\x00\xff", "1")
    assert main(["call", "s"]) == 0
    assert capfdbinary.readouterr().out == b"got"


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (["shadow", "b"], {"bundle": "b"}),
        (["canary", "b", "--share", "0.2"], {"bundle": "b", "share": 0.2}),
        (["activate", "b"], {"bundle": "b"}),
        (["fallback", "--reason", "x"], {"reason": "x"}),
    ],
)
def test_policies_are_tried_and_put_in_charge(
    command: Command, fake: FakeServer, given: list[str], body: dict[str, Any]
) -> None:
    fake.on(f"POST /policy/{given[0]}", {"mode": given[0], "time_ms": 1000})
    said = command("policy", *given)
    assert said.code == 0
    assert said.out.splitlines()[0].split() == ["mode", given[0]]
    assert fake.asked[0].body == body


def test_policies_services_and_tokens_are_listed(command: Command, fake: FakeServer) -> None:
    fake.on("GET /policy", {"mode": "fallback", "rule": "sjf"})
    fake.on("GET /policy/decisions", _page({"cursor": "1.0", "latency_ms": 0.25, "scores": {}}))
    fake.on("GET /services", _page({"name": "s", "replicas": 2}))
    fake.on("GET /tokens", _page({"name": "ci", "role": "viewer", "created_ms": 0}))
    fake.on("DELETE /tokens/ci", {"deleted": "ci"})
    fake.on("POST /tokens", Says({"name": "ci", "token": "secret"}, 201))
    assert command("policy", "list").out.splitlines()[1].split() == ["rule", "sjf"]
    assert command("policy", "decisions").out.splitlines()[1].split() == ["1.0", "0.25"]
    assert command("services").out.splitlines()[1].split() == ["s", "2"]
    assert command("token", "ls").out.splitlines()[0].split() == ["NAME", "ROLE", "CREATED"]
    assert command("token", "rm", "ci").out == "token ci removed\n"
    assert command("token", "create", "ci", "--role", "submitter").out == "secret\n"
    assert fake.asked[-1].body == {"name": "ci", "role": "submitter"}


def test_versions(command: Command, fake: FakeServer) -> None:
    fake.on("GET /version", {"version": "9.9", "uptime_s": 12.3})
    assert re.fullmatch(r"quartermaster \S+\n", command("version").out)
    assert fake.asked == []
    assert f"server 9.9 at {fake.url}, for 12 s" in command("version", "--server").out
    assert json.loads(command("version", "--server", "--json").out)["server"]["version"] == "9.9"


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, each in group.commands.items():
        inner = getattr(each, "commands", None)
        found += _commands(each, (*path, name)) if inner else [(*path, name)]
    return found


_ALL = [*_commands(typer.main.get_command(make_app())), ("serve",)]


@pytest.mark.parametrize("path", _ALL, ids=" ".join)
def test_every_command_helps_with_an_example(command: Command, path: tuple[str, ...]) -> None:
    said = command(*path, "--help")
    assert said.code == 0
    assert f"Example: quartermaster {' '.join(path)}" in " ".join(said.out.split())


def test_the_commands_are_those_that_were_promised(command: Command) -> None:
    promised = "submit ls show logs attach wait cancel scale preempt drain undrain nodes top queue "
    promised += "events services call version serve agent policy token"
    text = command("--help").out
    assert [name for name in promised.split() if f"\n  {name} " not in text] == []
    steps = {path[1] for path in _ALL if path[0] == "policy"}
    assert steps == {"list", "shadow", "canary", "activate", "fallback", "decisions"}


def test_agents_have_options_of_their_own(command: Command) -> None:
    said = command("agent", "--help")
    assert said.code == 0
    assert "--orchestrator" in said.out


def test_completion_can_be_had(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("SHELL", "/bin/bash")
    said = command("--show-completion", "bash")
    assert said.code == 0
    assert "complete" in said.out


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        *((None, "-"), (0, "0s"), (12, "12ms"), (200_000, "3m 20s"), (3_600_000, "1h")),
        *((90_061_000, "1d 1h"), (59_999, "59s"), (-5_000, "5s")),
    ],
)
def test_time_spans_are_short(ms: float | None, text: str) -> None:
    assert tables.duration(ms) == text


def test_a_terminal_gets_no_empty_columns(
    command: Command, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.on("GET /jobs", _page(_JOB))
    assert "CODE" in command("ls").out.splitlines()[0]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert [c.header for c in tables.make_table(("A", "B"), [("x", None), ("y", "")]).columns] == [
        "A"
    ]
