"""Predicted run times: from the past alone, and how good they are on Philly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.workloads import Trace, read_philly
from envs.workloads.prediction import predict_durations, prediction_error
from envs.workloads.table import blank_requests
from orchestrator.errors import ConfigurationError


def trace_of(rows: list[tuple[int, int, int]]) -> Trace:
    """Jobs of (submit s, run time s, user)."""
    requests = blank_requests(len(rows))
    requests["gpus_per_worker"] = 1
    for row, (submit, run, user) in enumerate(rows):
        requests["submit_ms"][row] = 1000 * submit
        requests["duration_ms"][row] = requests["requested_ms"][row] = 1000 * run
        requests["user"][row] = user
    return Trace("t", requests)


def test_a_prediction_is_the_median_of_what_has_ended() -> None:
    rows = [(0, 100, 1), (0, 400, 1), (50, 7, 2), (200, 1, 1), (500, 9, 1), (501, 9, 2)]
    found = predict_durations(trace_of(rows), least=1).requests["requested_ms"].tolist()
    # At first an hour; then the 7 s and 100 s that anybody's jobs took; at 500 s user 1's jobs of
    # 1, 100 and 400 s are known, of user 2 the one of 7 s.
    assert found == [3_600_000, 3_600_000, 3_600_000, 100_000, 100_000, 7000]


@pytest.mark.property
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 200), st.integers(0, 2)),
        min_size=2,
        max_size=25,
    ),
    data=st.data(),
)
def test_the_future_does_not_matter(rows: list[tuple[int, int, int]], data: st.DataObject) -> None:
    rows.sort(key=lambda row: row[0])
    before = predict_durations(trace_of(rows)).requests["requested_ms"]
    j = data.draw(st.integers(0, len(rows) - 1))
    now = rows[j][0]
    # Whatever had not ended by then may have lasted longer or shorter, but not ended before.
    other = [
        (submit, run if submit + run <= now else max(now - submit, 0) + 1 + run % 17, user)
        for submit, run, user in rows
    ]
    after = predict_durations(trace_of(other)).requests["requested_ms"]
    assert before[: j + 1].tolist() == after[: j + 1].tolist()


def test_it_learns_who_submits_alike() -> None:
    rng = np.random.default_rng(2)
    rows = []
    for k in range(600):
        user = int(rng.integers(6))
        rows.append((100 * k, int(10.0 ** (user / 2) * rng.lognormal(2.0, 0.3)) + 1, user))
    trace = trace_of(rows)
    guess = trace.requests.copy()
    guess["requested_ms"] = int(np.median(guess["duration_ms"]))
    constant = prediction_error(replace(trace, requests=guess))
    learned = prediction_error(predict_durations(trace))
    assert learned.within_twice > 0.85 > 0.5 > constant.within_twice
    assert learned.rank_correlation > 0.9
    assert learned.median_factor < 1.4
    assert prediction_error(trace_of([(0, 5, 1), (1, 7, 1)])).median_factor == 1.0


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="least 9, window 8"):
        predict_durations(trace_of([(0, 1, 0)]), window=8, least=9)


@pytest.mark.traces
def test_error_on_philly(traces_dir: Path) -> None:
    trace = read_philly(traces_dir / "philly", since="2017-09-24")
    found = prediction_error(predict_durations(trace))
    # Seen: 1.60, 59 %, 0.62 and 0.66; the median of all run times has 4.59, 26 %, 0 and 0.26.
    assert found.median_factor < 1.65
    assert found.within_twice > 0.58
    assert found.rank_correlation > 0.61
    assert found.service_rank_correlation > 0.65
