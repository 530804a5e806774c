"""What people, programs and disks do wrong, seen by the whole path: right states, clear reasons.

Elsewhere: forks, floods of output and memory (``test_process.py``), agents of another version or
token (``test_outages.py``), logs of another schema, full disks under the log, snapshots that are
damaged, torn or gone (``tests/foundations/test_sqlite.py``, ``tests/wire``).

What a worker writes besides its output is bounded by nothing here: give the agent's folder, or the
job's ``working_dir``, a file system of its own, or one with quotas. A full disk is the worker's
error, as below; the agent goes on without the rest of its log (``tests/node/test_output.py``).
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from orchestrator import NotLeaderError
from orchestrator.errors import UnknownSchemaError
from orchestrator.foundations import database
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.wire import seals
from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import alive, until


def _shell(line: str) -> tuple[str, ...]:
    return "sh", "-c", line


async def test_jobs_that_cannot_work_fail_at_once_and_say_why(cluster: Cluster) -> None:
    """All at a time, beside one that is well: none of them touches it."""
    await cluster.open()
    fork = "for k in 1 2 3 4 5 6 7 8; do (setsid sleep 60 &); sleep 60 & done; exit 4"
    bad = {
        "unknown": (("no-such-program",), 127, "'no-such-program' cannot be run"),
        "no program": (("/etc/passwd",), 126, "cannot be run (Permission denied)"),
        "at once": (("false",), 1, "exited with code 1"),
        "full disk": (_shell("head -c 100000 /dev/zero > /dev/full"), 1, "No space left on device"),
        "forks": (_shell(fork), 4, "exited with code 4"),
        "memory": (
            ("python3", "-c", "x = bytearray(3 * 2**30); import time; time.sleep(60)"),
            137,
            "raise 'memory_per_worker_gb'",
        ),
    }
    await cluster.submit("well", 1, 1, 1.5)
    for job, (command, _, _) in bad.items():
        await cluster.submit(job, 1, 1, command=command)
    await cluster.submit("ends at once", 1, 1, command=("true",))
    await until(lambda: cluster.ended("well", "ends at once", *bad))
    for job, (_, code, words) in bad.items():
        status = cluster.status(job)
        told = status["state"], status["exit_code"], status["starts"]
        assert told == ("failed", code, 1), status
        assert words in status["reason"]
        assert "rank 0 on node" in status["reason"]
    assert cluster.status("ends at once")["state"] == "completed"
    assert cluster.status("well")["state"] == "completed"
    assert cluster.status("well")["starts"] == 1
    gpus = cluster.orchestrator.get_cluster_status()["gpus"]
    assert gpus["allocated"] == 0
    await until(lambda: not _left_in(cluster.folder))


def _left_in(folder: Path) -> list[int]:
    """Processes that work in a folder of jobs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            if folder in where.parents and "jobs" in where.parts:
                found.append(int(entry.name))
    return found


async def test_who_ignores_sigterm_is_killed_and_gives_its_place(cluster: Cluster) -> None:
    await cluster.open()
    said = cluster.folder / "deaf"
    deaf = f"trap '' TERM INT HUP; echo $$ > '{said}'; while :; do sleep 0.05; done"
    await cluster.submit("deaf", 1, 4, command=_shell(deaf))
    await until(lambda: said.exists() and said.read_text().strip())
    pid = int(said.read_text())
    assert await cluster.orchestrator.preempt_job("deaf", "a test")
    await until(lambda: not alive(pid))
    await until(
        lambda: cluster.runs("deaf") == 2 and said.read_text().strip() not in ("", str(pid))
    )
    os.kill(int(said.read_text()), signal.SIGKILL)  # not waited for when the agents are ended
    assert cluster.status("deaf")["preemptions"] == 1


async def test_two_orchestrators_on_one_file_one_leads_and_nothing_runs_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    with SQLiteLog(tmp_path / "log") as first, SQLiteLog(tmp_path / "log") as second:
        cluster.parts = cluster.parts._replace(consensus_engine=first)
        await cluster.open()
        await cluster.submit("a", 2, 2, 2.0)
        await until(lambda: len(cluster.said("a")) == 2)
        former = cluster.orchestrator
        cluster.parts = cluster.parts._replace(consensus_engine=second)
        await cluster.replace()
        with pytest.raises(NotLeaderError):
            await former.preempt_job("a", "it does not know better")
        assert former.get_cluster_status()["leader"] == cluster.orchestrator._journal.leader
        await cluster.submit("b", 1, 1, 0.2)
        await until(lambda: cluster.ended("a", "b"))
        assert [cluster.runs(job) for job in "ab"] == [1, 1]
        assert former.get_job_status("b")["state"] == "completed"  # it reads what the other does
        cluster.assert_nothing_is_shared()
        await cluster.close()


def _snapshots(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.snapshot"))


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


async def test_a_damaged_snapshot_and_a_log_of_another_schema_lose_no_running_job(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    log = SQLiteLog(path, cut_every=8)
    try:
        cluster.parts = cluster.parts._replace(consensus_engine=log)
        await cluster.open()
        await cluster.submit("long", 2, 2, 4.0)
        await until(lambda: len(cluster.said("long")) == 2)
        pids = {one["pid"] for one in cluster.said("long")}
        for k in range(8):
            await cluster.submit(f"j{k}", 1, 1, command=("true",))
        await until(lambda: cluster.ended(*(f"j{k}" for k in range(8))))
        await until(lambda: len(_snapshots(tmp_path)) == 2)
        log.close()
        _damage(_snapshots(tmp_path)[-1])
        with monkeypatch.context() as another:
            another.setattr(database, "SCHEMA", seals.SCHEMA + 1)
            with pytest.raises(UnknownSchemaError, match="this program reads"):
                SQLiteLog(path)
        log = SQLiteLog(path)
        cluster.parts = cluster.parts._replace(consensus_engine=log)
        await cluster.replace()
        assert cluster.status("long")["state"] == "running"
        assert all(alive(pid) for pid in pids)
        await until(lambda: cluster.ended("long"))
        assert cluster.status("long")["state"] == "completed"
        assert cluster.runs("long") == 1
        assert {one["pid"] for one in cluster.said("long")} == pids
        await cluster.close()
    finally:
        log.close()


async def test_an_agent_that_is_stopped_and_goes_on_starts_nothing_twice(
    cluster: Cluster,
) -> None:
    """It comes back within its lease, after its node was taken for dead."""
    await cluster.open()
    assert cluster.agents is not None
    await cluster.submit("a", 1, 4, 3.0)
    await until(lambda: len(cluster.said("a")) == 1)
    (one,) = cluster.said("a")
    agent = cluster.agents.pids[one["node"]]
    os.kill(agent, signal.SIGSTOP)
    try:
        await until(lambda: cluster.is_down(one["node"]))
        await asyncio.sleep(0.2)
    finally:
        os.kill(agent, signal.SIGCONT)
    await until(lambda: cluster.ended("a"), 40.0)
    assert cluster.status("a")["state"] == "completed"
    cluster.assert_nothing_is_shared()
