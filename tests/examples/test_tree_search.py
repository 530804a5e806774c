"""Lookahead with a perfect model improves on the rule that it plays on by."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.examples.load import ROOT


@pytest.mark.parametrize("seed", range(3))
def test_it_is_never_worse_than_the_rule(seed: int) -> None:
    example: dict[str, Any] = runpy.run_path(str(ROOT / "examples" / "tree_search.py"))
    ahead, alone = example["play"](seed, rule="fcfs", episode_jobs=32, backfill=True)
    assert ahead >= alone
    assert ahead > alone or ahead == pytest.approx(0.0, abs=1e-9) or seed > 0
