"""A log is copied while it is written, and what was copied is a log."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError, CorruptedError
from orchestrator.foundations import in_memory
from orchestrator.foundations.backup import back_up, main
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Entry, NodeFailed
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.types import JobPriority, JobSpec, NodeSpec


def _entry(number: int) -> Entry:
    return Entry(number, NodeFailed(f"node-{number}"))


async def test_it_is_copied_whole_while_it_is_written_and_cut(tmp_path: Path) -> None:
    copies, cuts = 6, asyncio.Queue[int]()
    with SQLiteLog(tmp_path / "log.sqlite") as log:

        async def write() -> None:
            number = 0
            while True:
                await log.append(_entry(number))
                number += 1
                if number % 20 == 0:
                    await log.cut(number, number)
                    cuts.put_nowait(number)

        writing = asyncio.create_task(write())
        try:
            before = 0
            for k in range(copies):
                while await cuts.get() < 60 * (k + 1):
                    pass
                made = await asyncio.to_thread(back_up, log.path, tmp_path / f"copy-{k}")
                assert made.entries >= max(before, 60 * (k + 1))
                assert made.snapshots >= 2
                before = made.entries
                with SQLiteLog(made.log) as copied:
                    assert copied.snapshot is not None
                    index, held = copied.snapshot
                    assert index == held
                    numbers = [entry.time_ms for entry in copied.entries()]
                assert numbers == list(range(index, made.entries))
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing


def _orchestrator(path: Path) -> tuple[SQLiteLog, InfrastructureOrchestrator]:
    clock, log = VirtualClock(), SQLiteLog(path)
    parts = in_memory(clock)._replace(consensus_engine=log)
    shape = ClusterShape(envs=1, jobs=8, workers=1, nodes=1, devices=1)
    node = NodeSpec("node-0", 1, 80.0, 8, 64.0, 10.0, "PCIe")
    return log, InfrastructureOrchestrator(*parts, clock=clock, shape=shape, nodes=[node])


async def test_what_is_restored_is_the_cluster_as_it_was(tmp_path: Path) -> None:
    log, orchestrator = _orchestrator(tmp_path / "log.sqlite")
    with log:
        for name in ("one", "two"):
            await orchestrator.submit_job(
                JobSpec(name, name, JobPriority.BATCH, 1, 1, 1.0, 1.0, 100)
            )
        await orchestrator.schedule()
        back_up(log.path, tmp_path / "copy")
        was = orchestrator.engine.log_hash
        await orchestrator.submit_job(
            JobSpec("late", "late", JobPriority.BATCH, 1, 1, 1.0, 1.0, 100)
        )
        assert orchestrator.engine.log_hash != was
    log, restored = _orchestrator(tmp_path / "copy" / "log.sqlite")
    with log:
        assert restored.engine.log_hash == was
        assert sorted(restored.jobs) == ["one", "two"]
        assert restored.engine.placed() == {"one": 1}


def test_what_cannot_be_copied_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="there is no log"):
        back_up(tmp_path / "log.sqlite", tmp_path / "copy")
    assert main([str(tmp_path / "log.sqlite"), str(tmp_path / "copy")]) == 1
    assert "there is no log" in capsys.readouterr().err

    async def fill() -> None:
        with SQLiteLog(tmp_path / "log.sqlite") as log:
            for number in range(6):
                await log.append(_entry(number))
                if number in (2, 4):
                    await log.cut(number, number)

    asyncio.run(fill())
    command = [sys.executable, "-m", "orchestrator.foundations.backup"]
    given = [str(tmp_path / "log.sqlite"), str(tmp_path / "copy")]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=True)
    assert "6 entries, 2 snapshots" in done.stdout
    with pytest.raises(ConfigurationError, match="give a new folder"):
        back_up(*given)
    for path in tmp_path.glob("*.snapshot"):
        path.unlink()
    with pytest.raises(CorruptedError, match="no snapshot"):
        back_up(tmp_path / "log.sqlite", tmp_path / "damaged")
    assert list((tmp_path / "damaged").iterdir()) == []
