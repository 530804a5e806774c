"""A log in a file that several processes write, and that processes are killed over.

A hundred kills take some minutes::

    KILLS=100 pytest -s tests/foundations/test_processes.py -k killed
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import ClusterShape, InfrastructureOrchestrator, VirtualClock
from orchestrator.errors import NotLeaderError
from orchestrator.foundations import HashShardManager, HeartbeatFaultDetector, InMemoryCheckpoints
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import NodeFailed
from tests.engine.builders import job, node

_KILLS = int(os.environ.get("KILLS", "6"))
_ROOT = Path(__file__).resolve().parents[2]
_SHAPE = ClusterShape(envs=1, jobs=4096, workers=2, nodes=2, devices=8)
_EVERY = 60

_APPENDER = """
import asyncio, sys
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import Entry, NodeFailed

async def main():
    log, name = SQLiteLog(sys.argv[1], busy_s=30.0), sys.argv[2]
    print("ready", flush=True)
    sys.stdin.readline()
    async def one(number):
        print(await log.append(Entry(number, NodeFailed(name))), number, flush=True)
    for first in range(0, 200, 8):
        await asyncio.gather(*(one(number) for number in range(first, first + 8)))
    log.close()

asyncio.run(main())
"""

_SUBMITTER = """
import asyncio, sys
from tests.foundations.test_processes import cluster_on
from orchestrator.foundations.sqlite import SQLiteLog
from tests.engine.builders import job

async def main():
    log, name = SQLiteLog(sys.argv[1], cut_every=int(sys.argv[3])), sys.argv[2]
    cluster = cluster_on(log)
    await cluster.start()
    print("ready", flush=True)
    async def submit(number):
        job_id = f"{name}-{number}"
        await cluster.submit_job(job(job_id))
        print(job_id, flush=True)
    for first in range(0, 10_000, 8):
        await asyncio.gather(*(submit(number) for number in range(first, first + 8)))

asyncio.run(main())
"""


def cluster_on(log: SQLiteLog) -> InfrastructureOrchestrator:
    """An orchestrator whose workers are simulated, at the beginning of time."""
    clock = VirtualClock()
    return InfrastructureOrchestrator(
        log,
        HashShardManager(),
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
        clock=clock,
        shape=_SHAPE,
        nodes=[node("n0")],
    )


def _child(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def _ended(child: subprocess.Popen[str]) -> list[str]:
    """What a process still says until it ends."""
    out, _ = child.communicate(timeout=120)
    return out.split("\n")


def test_two_processes_append_to_one_log_and_neither_harms_the_other(tmp_path: Path) -> None:
    children = [_child(_APPENDER, tmp_path / "log", name) for name in ("one", "two")]
    assert [_line(child) for child in children] == ["ready", "ready"]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [[line.split() for line in _ended(child) if line] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    with SQLiteLog(tmp_path / "log") as log:
        entries = log.entries()
    assert len(entries) == 400
    for name, acknowledged in zip(("one", "two"), said, strict=True):
        assert len(acknowledged) == 200
        for index, number in acknowledged:
            entry = entries[int(index)]
            assert (entry.body, entry.time_ms) == (NodeFailed(name), int(number))


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(_KILLS)
    acknowledged: list[str] = []
    for life in range(_KILLS):
        child = _child(_SUBMITTER, tmp_path / "log", f"life{life}", _EVERY)
        assert _line(child) == "ready"
        acknowledged += [_line(child) for _ in range(rng.randint(1, 150))]
        # At any moment after that, whatever the process is at just then.
        killer = threading.Timer(rng.uniform(0.0, 0.05), child.kill)
        killer.start()
        acknowledged += [line for line in _ended(child) if line]
        killer.join()
        assert child.returncode == -9
        with SQLiteLog(tmp_path / "log", cut_every=_EVERY) as log:
            cluster = cluster_on(log)
        missing = [job_id for job_id in acknowledged if job_id not in cluster.jobs]
        assert missing == [], f"of {len(acknowledged)}, after {life + 1} kills"
    assert all(job_id.startswith("life") for job_id in acknowledged)
    _require_one_history(tmp_path / "log", cluster.engine.log_hash)
    print(f"{_KILLS} kills, {len(acknowledged)} acknowledged commands, none lost", flush=True)


def _require_one_history(path: Path, log_hash: int) -> None:
    """The snapshot before, and more entries, make the same cluster."""
    newest = sorted(path.parent.glob("*.snapshot"))[-1]
    newest.unlink()
    with SQLiteLog(path) as log:
        assert log.snapshot is not None
        assert len(log) > _EVERY
        assert cluster_on(log).engine.log_hash == log_hash


async def test_of_two_orchestrators_on_one_file_the_last_one_leads(tmp_path: Path) -> None:
    with SQLiteLog(tmp_path / "log") as log:
        first = cluster_on(log)
        await first.submit_job(job("before"))
        child = _child(_SUBMITTER, tmp_path / "log", "theirs", 1000)
        assert _line(child) == "ready"
        assert _line(child).startswith("theirs-")
        with pytest.raises(NotLeaderError, match="does not act any more"):
            await first.submit_job(job("after"))
        child.kill()
        _ended(child)
        assert {"before", "theirs-0"} <= set(first.jobs)
        assert "after" not in first.jobs
        second = cluster_on(log)
        await second.submit_job(job("after"))  # it takes over in turn
        first.get_cluster_status()
        assert first.engine.log_hash == second.engine.log_hash
