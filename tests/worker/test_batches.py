"""Every item is in the output once, whoever stopped or died on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigurationError, OutputError, ValidationError
from orchestrator.worker import BatchInference, check_output
from orchestrator.worker.control import Control

_ROOT = Path(__file__).resolve().parents[2]


def _work(folder: Path, items: int, most: int | None = None, rank: int = 0) -> BatchInference:
    """Do at most so many batches, then leave as one who is told to stop."""
    control = Control({"RANK": str(rank), "WORLD_SIZE": "3"})
    with BatchInference(items, folder, shard=7, batch=3, control=control) as work:
        for done, batch in enumerate(work):
            work.write(batch, [item * 2 for item in batch.items])
            if most is not None and done + 1 >= most:
                os.kill(os.getpid(), signal.SIGTERM)
    return work


def test_one_worker_does_all_of_it(tmp_path: Path) -> None:
    work = _work(tmp_path, 50)
    assert (work.written, work.stopped) == (50, None)
    checked = check_output(tmp_path, lambda item, result: result == 2 * item)
    assert checked.complete
    assert str(checked) == "50 of 50 items; 0 lost, 0 repeated, 0 torn lines"
    assert _work(tmp_path, 50).written == 0


@pytest.mark.property
@settings(max_examples=40)
@given(
    items=st.integers(1, 60),
    turns=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2), st.integers(0, 30)), max_size=6),
)
def test_stopped_and_torn_anywhere_nothing_is_lost_or_repeated(
    tmp_path_factory: pytest.TempPathFactory, items: int, turns: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("output")
    for most, rank, torn in turns:
        _work(folder, items, most, rank)
        for path in folder.glob("shard-*.jsonl"):  # as a kill in the middle of a write leaves it
            with path.open("r+b") as file:
                file.truncate(max(path.stat().st_size - torn, 0))
            break
    _work(folder, items)
    checked = check_output(folder, lambda item, result: result == 2 * item)
    assert checked.complete, str(checked)


def test_a_shard_that_another_worker_holds_is_left_to_it(tmp_path: Path) -> None:
    control = Control({})
    with BatchInference(20, tmp_path, shard=10, batch=10, control=control) as first:
        batches = iter(first)
        held = next(batches)
        assert held.items == range(10)
        with BatchInference(20, tmp_path, shard=10, batch=10, control=control) as second:
            for batch in second:
                assert batch.items == range(10, 20)
                second.write(batch, [0] * 10)
        first.write(held, [0] * 10)
        assert list(batches) == []
    assert check_output(tmp_path).complete


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    _work(tmp_path, 20)
    path = tmp_path / "shard-000001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[1:], lines[2], "garbage\n", lines[3].strip()]))
    checked = check_output(tmp_path)
    assert (checked.lost, checked.repeated, checked.torn) == ((7,), (9,), 2)
    assert not checked.complete
    wrong = check_output(tmp_path, lambda item, result: item != 3)
    assert wrong.lost == (3, 7)


def test_terminated_it_ends_after_its_batch(tmp_path: Path) -> None:
    work = _work(tmp_path, 50, most=2)
    assert (work.written, work.stopped) == (6, "terminated")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="field 'shard' is 0"):
        BatchInference(5, tmp_path, shard=0)
    _work(tmp_path, 5)
    with pytest.raises(OutputError, match="it was begun with"), BatchInference(6, tmp_path):
        pass
    with BatchInference(50, tmp_path / "b", control=Control({})) as work:
        batches = iter(work)
        batch = next(batches)
        with pytest.raises(ValidationError, match="has 1 values for 32 items"):
            work.write(batch, [1])
        with pytest.raises(ConfigurationError, match="were not written"):
            next(batches)


@pytest.mark.slow
def test_the_example_loses_and_repeats_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "examples/batch_inference/run.py", "--folder", str(tmp_path)]
    variables = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6000 of 6000 items; 0 lost, 0 repeated, 0 torn lines" in done.stdout
    assert "terminated (exit code 0)" in done.stdout
    assert "(exit code -9)" in done.stdout
    plan = json.loads((tmp_path / "output" / "plan.json").read_text())
    assert plan == {"items": 6000, "shard": 500}
