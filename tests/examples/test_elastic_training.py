"""The example, in short: scaled and shot at, it is the same training."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.load import ROOT, load_example


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return load_example("elastic_training")


@pytest.mark.slow
def test_coming_leaving_and_dying_workers_make_no_difference(
    example: ModuleType, tmp_path: Path
) -> None:
    outcome = example.run(tmp_path, steps=400, pause_ms=5.0)
    assert outcome.faults == ()
    assert len(outcome.survivor_pids) == 1
    assert [stall.what[:4] for stall in outcome.stalls] == ["grow", "kill", "grow", "shri"]
    assert outcome.loss == pytest.approx(outcome.undisturbed, rel=0.02)


def test_the_example_s_check_finds_what_is_wrong(example: ModuleType) -> None:
    order = example.DataOrder(example.ITEMS, example.BATCH, seed=example.SEED)

    def line(step: int, rank: int, size: int) -> dict[str, object]:
        items = order.piece(step, rank, size).indices.tolist()
        same = {"t": 0.0, "pid": rank, "loss": 0.5, "generation": 1}
        return {**same, "step": step, "size": size, "items": items}

    def records() -> dict[int, list[dict[str, object]]]:
        return {rank: [line(step, rank, 2) for step in range(3)] for rank in range(2)}

    assert example.check(records(), 3) == []
    lost, twice, again, apart = records(), records(), records(), records()
    lost[1][1]["items"] = []
    twice[1][1]["items"] = twice[0][1]["items"]
    again[0][2]["pid"] = 99
    apart[1][2]["loss"] = 0.6
    assert example.check(lost, 3) == ["step 1: 32 items were seen instead of 64"]
    assert example.check(twice, 3) == ["step 1: 64 items were seen instead of 64"]
    assert example.check(again, 3) == ["worker 0: it was started again"]
    assert example.check(apart, 3) == ["step 2: workers do not agree on its loss"]
    del again[0][1]
    assert "worker 0: its steps are not one after the other" in example.check(again, 3)
