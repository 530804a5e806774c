"""A whole server on a folder: real agents, real jobs, restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.serve import ServeSettings, serving
from agents.serve.settings import ClusterFile
from agents.speed.live.etcd import LocalEtcd
from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.server.guard.listen import bind

_ROOT = Path(__file__).resolve().parents[2]
_ARGV = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['ODD']]))"
_ODD = ["$(touch escaped)", "`id`", "; rm -rf *", "a b", "*", "'\"", "&& false", "\\", "ä\n"]


def _client(folder: Path) -> httpx.AsyncClient:
    told = json.loads((folder / "endpoint.json").read_text())
    headers = {"Authorization": f"Bearer {told['token']}"}
    return httpx.AsyncClient(base_url=told["url"] + "/api/v1", headers=headers, timeout=30.0)


def _files(folder: Path, name: str) -> dict[Path, bytes]:
    """Files of a name below a folder, and what they hold."""
    return {path: path.read_bytes() for path in folder.rglob(name) if path.is_file()}


async def _submitted(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post("/jobs", json={"name": "job", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


async def _ended(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/jobs/{job_id}/wait", params={"timeout_s": 30})
    told: dict[str, Any] = answer.json()
    assert told["ended"], told
    return told


async def test_a_job_runs_and_its_output_is_read(tmp_path: Path) -> None:
    settings = ServeSettings(tmp_path, agents=2, gpus=2)
    async with serving(settings) as running, _client(tmp_path) as client:
        assert (tmp_path / "endpoint.json").stat().st_mode & 0o777 == 0o600
        job_id = await _submitted(
            client,
            command=[sys.executable, "-c", _ARGV, *_ODD],
            environment={"ODD": "$HOME `id`"},
            gpus_per_worker=1,
        )
        told = await _ended(client, job_id)
        assert (told["state"], told["exit_code"]) == ("completed", 0), told
        text = (await client.get(f"/jobs/{job_id}/logs")).text
        assert json.loads(text) == [_ODD, "$HOME `id`"]
        assert not _files(tmp_path, "escaped")
        gang = await _submitted(
            client,
            command=["sh", "-c", "echo begin $RANK; sleep 0.3; echo end $RANK"],
            num_workers=2,
        )
        async with client.stream("GET", f"/jobs/{gang}/logs", params={"follow": "true"}) as logs:
            lines = [line async for line in logs.aiter_lines()]
        assert sorted(lines) == ["[0] begin 0", "[0] end 0", "[1] begin 1", "[1] end 1"]
        tail = await client.get(f"/jobs/{gang}/logs", params={"tail": 1, "worker": 1})
        assert tail.text == "end 1\n"
        metrics = await client.get(f"{client.base_url.copy_with(path='/metrics')}")
        assert 'quartermaster_jobs{state="completed"} 2.0' in metrics.text
        posted = (
            'quartermaster_http_requests_total{method="POST",route="/api/v1/jobs",status="201"}'
        )
        assert f"{posted} 2.0" in metrics.text
        assert "can read its tokens" in (tmp_path / "server.log").read_text()
        texts = list(running.new_tokens.values())
        assert len(texts) == 3
    # Tokens are in no log, and on disk only where they are meant to be.
    for path, data in _files(tmp_path, "*").items():
        assert path.name == "endpoint.json" or not any(text.encode() in data for text in texts), (
            path
        )
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    writes = [line for line in lines if line.get("method") == "POST"]
    assert {line["who"] for line in writes} == {"operator"}
    assert writes[0]["job_id"] == job_id


async def test_a_server_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = ServeSettings(tmp_path, agents=1, gpus=1)
    async with serving(settings) as running, _client(tmp_path) as client:
        before = running.endpoint
        done = await _submitted(client, command=["true"])
        await _ended(client, done)
        first = (await client.get("/events")).json()["items"]
        key = {"Idempotency-Key": "once"}
        body = {"name": "later", "command": ["sh", "-c", "echo back"], "gpus_per_worker": 1}
        later = (await client.post("/jobs", json=body, headers=key)).json()["job_id"]
        with pytest.raises(ConfigurationError, match="another server runs on it"):
            async with serving(settings):
                pass
    async with serving(settings) as running, _client(tmp_path) as client:
        assert (running.endpoint.url, running.endpoint.token) == (before.url, before.token)
        assert running.new_tokens == {}
        assert (await client.get(f"/jobs/{done}")).json()["state"] == "completed"
        again = await client.post("/jobs", json=body, headers=key)
        assert again.json()["job_id"] == later
        assert (await _ended(client, later))["state"] == "completed"
        since = {"since": first[0]["cursor"], "limit": 1000}
        found = (await client.get("/events", params=since)).json()
        assert not found["gap"]
        assert found["items"][: len(first) - 1] == first[1:]


@contextmanager
def _process(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own, that answers; killed at the end if it still runs."""
    code = f"""
import sys
from pathlib import Path
from agents.serve import ServeSettings, serve
serve(ServeSettings(Path({str(folder)!r}), agents=1, gpus=1{"".join(f", {o}" for o in options)}))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("serving on"):
                break
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _pids(folder: Path) -> list[int]:
    """Processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text:
            found.append(int(path.parent.name))
    return found


async def test_a_killed_server_is_followed_by_one_that_has_its_agents_and_jobs(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "dir"
    with _process(folder) as process:
        async with _client(folder) as client:
            command = [
                "sh",
                "-c",
                f"echo one; while [ ! -e {folder}/go ]; do sleep 0.05; done; echo two",
            ]
            job_id = await _submitted(client, command=command, gpus_per_worker=1)
            deadline_s = time.monotonic() + 30
            while (await client.get(f"/jobs/{job_id}/logs")).text != "one\n":
                assert time.monotonic() < deadline_s
        process.send_signal(signal.SIGKILL)
        process.wait()
    with _process(folder) as process:
        (folder / "go").touch()
        async with _client(folder) as client:
            told = await _ended(client, job_id)
            assert (told["state"], told["starts"]) == ("completed", 1), told["history"]
            assert (await client.get(f"/jobs/{job_id}/logs")).text == "one\ntwo\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert _pids(folder) == []


async def test_a_file_says_what_a_cluster_is(tmp_path: Path) -> None:
    """Tenants with quotas and rules of services hold; nodes elsewhere are part of it."""
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "nodes:\n- {node_id: far, gpus: 2, gpu_memory_gb: 80, cpu_cores: 8, memory_gb: 64,"
        " network_bandwidth_gbps: 10, gpu_topology: NVLink}\n"
        "tenants:\n- {name: red, quota: 1}\n"
        "services:\n- {name: svc, service_ms: 5, objective_ms: 50}\n"
    )
    settings = ServeSettings(tmp_path / "dir", agents=1, gpus=1, cluster=file)
    async with serving(settings), _client(tmp_path / "dir") as client:
        nodes = (await client.get("/nodes")).json()["items"]
        assert sorted(node["node_id"] for node in nodes) == ["far", "node-0"]
        assert (await client.get("/cluster")).json()["tenants"]["red"]["quota"] == 1.0
        rules = (await client.get("/services/svc")).json()["rules"]
        assert (rules["service_ms"], rules["objective_ms"]) == (5.0, 50.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes: [", "give a YAML file"),
        ("node: []", "not a mapping of nodes, tenants, services"),
        ("tenants: [{name: a, quotas: 1}]", "see TenantSpec"),
        ("services: [{name: a, service_ms: -1}]", "service_ms"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(QuartermasterError, match=says):
        ClusterFile.read(file)


async def test_agents_that_are_kept_go_on_under_the_next_server(tmp_path: Path) -> None:
    folder = tmp_path / "dir"
    go = tmp_path / "go"
    with _process(folder, "keep_agents=True") as process:
        async with _client(folder) as client:
            command = ["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.05; done"]
            job_id = await _submitted(client, command=command, gpus_per_worker=1)
            deadline_s = time.monotonic() + 30
            while (await client.get(f"/jobs/{job_id}")).json()["state"] != "running":
                assert time.monotonic() < deadline_s
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert _pids(folder / "agents")
    async with serving(ServeSettings(folder, agents=1, gpus=1)), _client(folder) as client:
        go.touch()
        told = await _ended(client, job_id)
        assert (told["state"], told["starts"]) == ("completed", 1), told["history"]
    assert _pids(folder) == []


async def test_the_log_may_be_kept_by_etcd(tmp_path: Path, etcd_member: LocalEtcd) -> None:
    settings = ServeSettings(tmp_path, agents=1, gpus=1, etcd=",".join(etcd_member.endpoints))
    async with serving(settings), _client(tmp_path) as client:
        done = await _submitted(client, command=["true"])
        await _ended(client, done)
    assert not (tmp_path / "log.sqlite").exists()
    async with serving(settings), _client(tmp_path) as client:
        assert (await client.get(f"/jobs/{done}")).json()["state"] == "completed"


async def test_a_first_start_that_fails_loses_no_tokens_and_a_host_can_be_changed(
    tmp_path: Path,
) -> None:
    with bind("127.0.0.1", 0) as taken, bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
        taken.listen()
        before = {"address": f"127.0.0.2:{port}", "token": "known"}
        (tmp_path / "agents.json").write_text(json.dumps(before))
        with pytest.raises(ConfigurationError, match="in use"):
            async with serving(ServeSettings(tmp_path, mesh_port=taken.getsockname()[1])):
                pass
    (tmp_path / "agents.json").write_text(json.dumps(before))
    async with serving(ServeSettings(tmp_path)) as running:
        assert set(running.new_tokens) == {"viewer", "submitter", "operator"}
        line = json.loads((tmp_path / "agents.json").read_text())
        assert line == {"address": f"127.0.0.1:{port}", "token": "known"}
    assert "can read its tokens" not in (tmp_path / "server.log").read_text()
