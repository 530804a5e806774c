"""The same training behind torchft: steps contiguous, whoever comes, leaves or dies."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.errors import ConfigurationError
from orchestrator.worker import DataOrder, LocalController, TorchFTElastic

_TRAIN = Path(__file__).resolve().parents[2] / "examples" / "elastic_training" / "train.py"
_ITEMS, _BATCH = 4096, 64  # of that script
_MISSING = importlib.util.find_spec("torchft") is None
_needed = pytest.mark.skipif(_MISSING, reason="no torchft: pip install quartermaster[torchft]")


def _make(**options: Any) -> TorchFTElastic:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TorchFTElastic(model, optimizer, DataOrder(8, 4), **options)


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHFT_LIGHTHOUSE", raising=False)
    with pytest.raises(ConfigurationError, match="set TORCHFT_LIGHTHOUSE"):
        _make()
    monkeypatch.setitem(sys.modules, "torchft", None)
    with pytest.raises(ConfigurationError, match=r"install quartermaster\[torchft\]"):
        _make(lighthouse="http://127.0.0.1:1")


@pytest.fixture
def lighthouse() -> Iterator[str]:
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(
        bind="127.0.0.1:0",
        min_replicas=1,
        join_timeout_ms=100,
        quorum_tick_ms=10,
        heartbeat_timeout_ms=500,
    )
    yield server.address()
    server.shutdown()


def _records(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What each worker has written down, by its identity."""
    return {
        int(path.stem): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def _check(records: dict[int, list[dict[str, Any]]], steps: int) -> None:
    """Every step counts once, and sees what it should: no item twice, none left out."""
    order, seen = DataOrder(_ITEMS, _BATCH, seed=1), defaultdict[int, list[dict[str, Any]]](list)
    for lines in records.values():
        numbers = [line["step"] for line in lines]
        assert numbers == sorted(set(numbers))
        assert len({line["pid"] for line in lines}) == 1
        for line in lines:
            seen[line["step"]].append(line)
    assert sorted(seen) == list(range(steps))
    for step, lines in seen.items():
        assert len({(line["size"], line["loss"]) for line in lines}) == 1
        items = sorted(item for line in lines for item in line["items"])
        if len(lines) == lines[0]["size"]:
            assert items == sorted(order.whole(step).tolist())
        else:  # a worker was killed after the step had counted, before it had written that down
            assert set(items) < set(order.whole(step).tolist())
    short = [step for step, lines in seen.items() if len(lines) != lines[0]["size"]]
    assert len(short) <= 1


@_needed
@pytest.mark.slow
def test_grow_shrink_and_a_killed_worker(tmp_path: Path, lighthouse: str) -> None:
    steps = 1500
    command = [sys.executable, str(_TRAIN), "--torchft", "--steps", str(steps), "--pause-ms", "3"]
    command += ["--record", str(tmp_path / "record"), "--save-every", "500"]
    variables = {
        "PYTHONPATH": str(_TRAIN.parents[2]),
        "TORCHFT_LIGHTHOUSE": lighthouse,
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with LocalController(command, tmp_path, variables=variables) as controller:
        controller.start(1)
        controller.wait_said(0, "progress", lambda progress: progress["step"] >= 50)
        controller.scale(3)
        grown = controller.members
        for identity in grown[1:]:
            controller.wait_said(identity, "joined", lambda generation: generation >= 1)
        controller.scale(2)
        left = grown[2]
        while left in controller.processes:  # bounded by the test's timeout
            time.sleep(0.01)
        controller.kill(controller.members[1])
        survivor = controller.processes[0]
        codes = controller.wait()
        assert controller.processes == {}
    assert codes[0] == 0
    assert codes[left] == 0
    assert codes[grown[1]] == -9
    records = _records(tmp_path / "record")
    _check(records, steps)
    assert records[0][-1]["pid"] == survivor
    sizes = [line["size"] for line in records[0]]
    assert set(sizes) == {1, 2, 3}
    losses = [line["loss"] for line in records[0]]
    assert statistics.mean(losses[-50:]) < 0.2 * statistics.mean(losses[:50])
