"""A real training as a job: the orchestrator scales it, and its workers regroup where they are."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.examples.load import ROOT, load_example
from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import until

_PATIENCE_S = 120.0  # importing torch takes seconds, of every worker
_EXAMPLE = load_example("elastic_training")
_read = _EXAMPLE.read_records


def _last(folder: Path) -> dict[str, Any]:
    lines = [lines[-1] for lines in _read(folder).values() if lines]
    return max(lines, key=lambda line: line["step"], default={"step": -1, "size": 0})


@pytest.mark.slow
async def test_a_training_is_scaled_and_loses_a_worker_without_being_started_again(
    cluster: Cluster,
) -> None:
    await cluster.open()
    steps, folder = 900, cluster.folder / "record"
    command = (sys.executable, str(_EXAMPLE.TRAIN), f"--steps={steps}", "--pause-ms=10")
    await cluster.submit(
        "train",
        command=(*command, f"--record={folder}"),
        environment={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        elastic=True,
        max_workers=4,
    )
    await until(lambda: _last(folder)["step"] >= 10, _PATIENCE_S)
    for size in (3, 2):
        assert await cluster.orchestrator.scale_job("train", size)
        await until(lambda size=size: _last(folder)["size"] == size, _PATIENCE_S)
    victim = next(
        lines[-1]["pid"]
        for rank, lines in _read(folder).items()
        if rank and lines[-1]["step"] >= _last(folder)["step"] - 5
    )
    os.kill(victim, signal.SIGKILL)
    await until(lambda: cluster.ended("train"), _PATIENCE_S)
    status = cluster.status("train")
    assert (status["state"], status["starts"]) == ("completed", 1), status["reason"]
    records = _read(folder)
    assert len({line["pid"] for line in records[0]}) == 1
    assert {1, 2, 3} <= {line["size"] for lines in records.values() for line in lines}
    assert _EXAMPLE.check(records, steps) == []
