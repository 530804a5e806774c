"""The study of scaling on made-up series: causal choices, the budget, the cache, the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.autoscaling.report import summarise
from agents.autoscaling.run import (
    build_forecasters,
    make_tables,
    publish_study,
    read_series,
    study_tables,
)
from agents.autoscaling.study import Outcome, Study, judge_series, make_bases
from orchestrator.autoscaler import DemandSeries, ForecastTable, make_table
from orchestrator.autoscaler.forecast import RollingSettings
from orchestrator.errors import ConfigurationError, ValidationError

_DAY = 24
_NAIVE = build_forecasters(persistence=None, seasonal_naive={}, seasonal_mean={"days": 3})
_STUDY = Study(
    delays={3600: (2,)},
    first_days={3600: 1},
    tune_days={3600: 6},
    retune_days={3600: 2},
    utilisations=(0.6, 0.7, 0.8, 0.9, 1.0),
    holds=(0, 2),
)
_SETTINGS = RollingSettings(carry=72, recent=48, memory=96, local=12, least=48)


def _series(seed: int = 0) -> DemandSeries:
    """Twenty days with a steep morning, by the hour."""
    hour = np.arange(20 * _DAY) % _DAY
    shape = np.where((hour >= 8) & (hour < 20), 100.0, 30.0)
    noise = np.random.default_rng(seed).normal(0.0, 3.0, len(shape))
    return DemandSeries("steep", np.maximum(shape + noise, 0.0), 3600, "GPUs")


def _judged(series: DemandSeries) -> dict[str, Outcome]:
    table = make_table(series, _NAIVE, 2, first=_STUDY.first(series), settings=_SETTINGS)
    return {outcome.scaler: outcome for outcome in judge_series(_STUDY, series, table, 2)}


def test_a_regular_morning_is_foreseen_within_the_budget() -> None:
    found = _judged(_series())
    reactive, predictive = found["reactive"], found["predictive"]
    assert reactive.reactive_events >= 8
    assert predictive.reactive_events <= 0.2 * reactive.reactive_events
    assert predictive.node_hours <= 1.1 * reactive.node_hours
    assert found["predictive, no extra hours"].node_hours <= 1.02 * reactive.node_hours
    assert found["reactive, same budget"].reactive_events > predictive.reactive_events
    assert {outcome.ticks for outcome in found.values()} == {10 * _DAY}


def test_choices_are_made_from_the_past_only() -> None:
    """What comes after a stretch changes neither its choice nor any before it."""
    series = _series()
    segments = 5
    cut = _STUDY.test(series) + 2 * _STUDY.retune(series)  # where the third stretch begins
    other = series.values.copy()
    other[cut:] = 500.0 - other[cut:]
    before, after = _judged(series), _judged(replace(series, values=other))
    for scaler, outcome in before.items():
        assert len(outcome.choices) == segments
        assert outcome.choices[:3] == after[scaler].choices[:3]


def test_a_table_of_another_series_is_refused() -> None:
    table = make_table(_series(1), _NAIVE, 2, first=_DAY, settings=_SETTINGS)
    with pytest.raises(ValidationError, match="make a table of this series"):
        judge_series(_STUDY, _series(), table, 2)


def test_fits_are_cached_by_content(tmp_path: Path) -> None:
    series = [_series()]
    options = {"first": [_DAY], "horizon": 2, "folder": tmp_path, "workers": 1}
    once = make_bases(series, _NAIVE, **options)
    files = sorted(tmp_path.iterdir())
    stamps = [path.stat().st_mtime_ns for path in files]
    assert len(files) == len(_NAIVE)
    renamed = [replace(series[0], name="another name")]
    again = make_bases(renamed, _NAIVE, **options)
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == stamps
    for (base, sigma), (same, equal) in zip(once[0], again[0], strict=True):
        np.testing.assert_array_equal(base, same)
        np.testing.assert_array_equal(sigma, equal)
    files[0].unlink()  # a run that was cut short goes on with what is missing
    make_bases(series, _NAIVE, **options)
    assert sorted(tmp_path.iterdir()) == files
    make_bases([_series(1)], _NAIVE, **options)
    assert len(list(tmp_path.iterdir())) == 2 * len(_NAIVE)


def test_from_series_to_files(tmp_path: Path) -> None:
    study = replace(_STUDY, first_days={3600: 1}, tune_days={3600: 7})
    series = [_series()]
    tables, bases = make_tables(study, series, _NAIVE, folder=tmp_path / "cache", workers=1)
    found = study_tables(study, series, tables, bases)
    publish_study(study, found, series, tables, tmp_path / "out", Console(quiet=True), [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "events.png",
        "summary.json",
        "table.md",
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(summary["outcomes"]) == 4
    assert {entry["forecaster"] for entry in summary["forecasts"]} == {
        "persistence",
        "seasonal_naive",
        "seasonal_mean",
        "followed",
    }
    assert "| steep | 120 min |" in (tmp_path / "out" / "table.md").read_text()
    tables[0].save(tmp_path / "table.npz")
    ForecastTable.load(tmp_path / "table.npz").require_series(series[0])


def test_sums_are_relative_to_the_reactive_scaler() -> None:
    one = Outcome("spot x", 60, "reactive", 10, 8, 4, 0.1, 100.0, 5, ())
    two = replace(one, scaler="predictive", reactive_events=2, node_hours=109.0)
    rows = {(row["group"], row["scaler"]): row for row in summarise([one, two])}
    assert set(rows) == {(g, s) for g in ("all", "spot demand") for s in ("reactive", "predictive")}
    row = rows["spot demand", "predictive"]
    assert (row["fewer_events"], row["relative_node_hours"]) == (0.75, pytest.approx(1.09))


def test_wrong_studies() -> None:
    with pytest.raises(ConfigurationError, match="'levels' are some of"):
        replace(_STUDY, levels=(0.123,))
    with pytest.raises(ConfigurationError, match="'test_from' is in"):
        replace(_STUDY, test_from=1.0)
    with pytest.raises(ConfigurationError, match="no 'delays' for 600 s"):
        _STUDY.delays_of(DemandSeries("x", np.ones(3), 600))
    with pytest.raises(ConfigurationError, match="'kind' is 'oracle'"):
        read_series("", [{"kind": "oracle"}])
    with pytest.raises(ConfigurationError, match="none is given"):
        build_forecasters()
