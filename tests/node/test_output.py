"""Rotated logs and folders of jobs; and what an agent is made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.node import output
from orchestrator.node.output import Folders, RotatedLog, begin_of, folder_name
from orchestrator.node.protocol import Launch
from orchestrator.node.workers import environment_of


@given(st.lists(st.binary(max_size=70), max_size=30))
def test_two_files_at_most_and_the_end_is_kept(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log = RotatedLog(path, 100)
        for part in parts:
            log.write(part)
        log.close()
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        whole = b"".join(parts)
        assert begin_of(path) + len(files["log"]) == len(whole)
        assert ("log.begin" in files) == ("log.1" in files)
        files.pop("log.begin", None)
        assert set(files) <= {"log", "log.1"}
        assert all(len(data) <= 100 for data in files.values())
        kept = files.get("log.1", b"") + files["log"]
        assert whole.endswith(kept)
        assert len(kept) >= min(len(whole), 31)
        assert not log.problem


def test_a_full_disk_costs_the_log_and_is_told(tmp_path: Path) -> None:
    log = RotatedLog(tmp_path / "log", 100)
    log.write(b"first")
    log.close()
    log.write(b"second")
    assert log.tail == "firstsecond"
    assert "its log is not whole" in log.problem


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_a_job_has_one_folder_and_no_other_has_it(one: str, other: str) -> None:
    names = folder_name(one), folder_name(other)
    assert (names[0] == names[1]) == (one == other)
    for name in names:
        assert "/" not in name
        assert name not in (".", "..", "")
        assert len(name.encode()) <= 255


def test_the_oldest_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_MOST_RUNS", 2)
    folders = Folders(tmp_path, 100)
    for job in "abc":
        folders.log(job, 1, 0).close()
        folders.work(job)
        folders.ended(job, 1)
        folders.ended(job, 1)
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {"b", "c"}


def test_the_runtimes_variables_win_and_the_token_stays_with_the_agent() -> None:
    order = Launch(
        *((0, 0), "job", 3, 0, ("true",), 1, 2, 0, 1, 1, ("host", 5)),
        environment=(("RANK", "9"), ("MINE", "x"), ("PATH", "/mine")),
        gpus=(2, 3),
        warm=True,
    )
    base = {"QUARTERMASTER_TOKEN": "secret", "PATH": "/bin", "HOME": "/home"}
    made = environment_of(order, base, {"QUARTERMASTER_CONTROL": "/there"})
    assert "secret" not in made.values()
    assert (made["RANK"], made["MINE"], made["PATH"], made["HOME"]) == ("1", "x", "/mine", "/home")
    assert (made["MASTER_ADDR"], made["MASTER_PORT"]) == ("host", "5")
    assert (made["CUDA_VISIBLE_DEVICES"], made["QUARTERMASTER_WARM"]) == ("2,3", "1")
    assert made["QUARTERMASTER_CONTROL"] == "/there"


def test_an_agent_loads_neither_kernels_nor_numpy() -> None:
    code = "import sys, orchestrator.node.__main__\n"
    code += "print(*[m for m in ('numba', 'numpy', 'orchestrator.kernels') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
