"""A soak, in short; and the line that it judges by."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.live import SoakRun, run_soak
from agents.live.soak import Trend, trend
from orchestrator.errors import ConfigurationError


def test_a_short_soak_keeps_a_table_and_tells_trends(tmp_path: Path) -> None:
    run = SoakRun(
        minutes=4 / 60,
        every_s=0.25,
        jobs_per_s=4.0,
        agents=2,
        commands=({"command": ("true",)}, {"command": ("sh", "-c", "exit 3")}),
        lose_every_s=2.0,
        may_grow={"files": 1e9, "rss_mib": 1e9, "open": -1e9},
    )
    told = io.StringIO()
    fine = run_soak(run, tmp_path, Console(file=told, width=120))
    with (tmp_path / "soak.csv").open() as rows:
        records = list(csv.DictReader(rows))
    assert len(records) >= 8
    assert int(records[-1]["jobs"]) > 5
    assert int(records[-1]["failed"]) > 0
    assert all(float(record["rss_mib"]) > 10 for record in records)
    text = told.getvalue()
    assert "files" in text
    assert "flat" in text
    assert "jobs ended" in text
    assert fine == ("grows" not in text)


def test_a_trend_finds_what_grows_and_says_what_it_does_not_know() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(0.0, 3600.0, 10.0)
    noise = rng.normal(0.0, 1.0, len(seconds))
    still = trend(seconds, 100.0 + noise)
    assert still.verdict(5.0) == "flat"
    assert still.low < 0.0 < still.high
    grown = trend(seconds, 100.0 + 20.0 * seconds / 3600.0 + noise)
    assert grown.growth == pytest.approx(100 * 20 / 110, abs=1.0)
    assert grown.verdict(5.0) == "grows"
    walk = trend(seconds, 100.0 + np.cumsum(noise))  # neighbours are alike: nobody knows
    assert walk.high - walk.low > 5 * (still.high - still.low)
    assert trend(seconds, np.full(len(seconds), 7.0)) == Trend(7.0, 0.0, 0.0, 0.0)
    assert trend(seconds[:8], 100.0 + 30.0 * noise[:8]).verdict(5.0) == "unclear"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 0}, "'minutes' is 0"),
        ({"commands": ()}, "'commands' is empty"),
        ({"may_grow": {"hair": 1}}, "'may_grow' names hair; choose from seconds, rss_mib"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SoakRun(**changes)
    with pytest.raises(ConfigurationError, match="a trend takes 8 at least"):
        trend([0.0], [1.0])
