"""Failures: the readers, the generator's statistics against the trace, and its legality."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.workloads.failures import (
    FAILURE_MODELS,
    FailureModel,
    FaultLog,
    merge_intervals,
    read_faults,
    sample_failures,
)
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.kernels.state.records import INCIDENT_DTYPE

DAY_MS = 86_400_000
NODES, DAYS = 400, 349  # of the trace


def outages(incidents: np.ndarray) -> dict[int, list[tuple[float, float]]]:
    """Outages of each node in days; demands that failures and recoveries alternate."""
    times = incidents["time_ms"]
    assert (np.diff(times) >= 0).all()
    found: dict[int, list[tuple[float, float]]] = {}
    down: dict[int, float] = {}
    for time_ms, kind, node in incidents.tolist():
        if kind == EventKind.NODE_FAILURE:
            assert node not in down
            down[node] = time_ms / DAY_MS
        else:
            assert kind == EventKind.NODE_RECOVERY
            assert time_ms / DAY_MS > down[node]
            found.setdefault(node, []).append((down.pop(node), time_ms / DAY_MS))
    assert not down
    return found


def statistics(incidents: np.ndarray, nodes: int = NODES, days: float = DAYS) -> dict[str, float]:
    by_node = outages(incidents)
    starts = np.sort([a for spans in by_node.values() for a, _ in spans])
    repairs = np.array([24 * (b - a) for spans in by_node.values() for a, b in spans])
    counts = np.sort([len(by_node.get(n, [])) for n in range(nodes)])[::-1]
    gaps = [y[0] - x[1] for s in by_node.values() for x, y in pairwise(s)]
    between = 24 * np.diff(starts)
    down = sum(min(b, days) - a for spans in by_node.values() for a, b in spans)
    return {
        "per_1000_node_days": 1000 * len(starts) / nodes / days,
        "unavailable": down / nodes / days,
        "repair_median": float(np.median(repairs)),
        "repair_mean": float(repairs.mean()),
        "worst_tenth": counts[: nodes // 10].sum() / len(starts),
        "hit": float((counts > 0).mean()),
        "gap_median_days": float(np.median(gaps)),
        "gap_mean_days": float(np.mean(gaps)),
        "same_minute": float((between < 1 / 60).mean()),
        "between_median": float(np.median(between)),
        "between_p95": float(np.quantile(between, 0.95)),
        "between_cv": float(between.std() / between.mean()),
    }


# Published figures (traces/STATS.md, overlapping faults merged), and how far the mean of ten drawn
# clusters may be from them, as a ratio.
_FIGURES = {
    "per_1000_node_days": (4.17, 1.15),
    "unavailable": (0.0231, 1.2),
    "repair_median": (20.4, 1.15),
    "repair_mean": (133.3, 1.15),
    "worst_tenth": (0.407, 1.1),
    "hit": (0.578, 1.1),
    "gap_median_days": (5.9, 1.4),
    "gap_mean_days": (33.1, 1.3),
    "same_minute": (0.134, 1.2),
    "between_median": (5.74, 1.4),
    "between_p95": (51.5, 1.25),
    "between_cv": (1.75, 1.2),
}


def test_drawn_failures_look_like_those_of_the_trace() -> None:
    drawn = [
        statistics(sample_failures(FailureModel(), NODES, DAYS * DAY_MS, s)) for s in range(10)
    ]
    for name, (published, ratio) in _FIGURES.items():
        mean = float(np.mean([one[name] for one in drawn]))
        assert published / ratio < mean < published * ratio, (name, mean, published)


@pytest.mark.traces
def test_the_trace_has_the_published_figures(traces_dir: Path) -> None:
    folder = traces_dir / "infinitehbd_faults"
    log = read_faults(folder / "fault_intervals.csv.gz")
    assert len(log.node_ids) == 231
    found = statistics(log.incidents)
    for name, (published, _) in _FIGURES.items():
        assert found[name] == pytest.approx(published, rel=0.02), name
    raw = read_faults(folder / "fault_trace.json.gz")
    assert len(raw.node_ids) == 231
    assert len(raw.incidents) == len(log.incidents) == 2 * 582
    # The derived table is rounded to a ten-thousandth of a day.
    assert np.abs(raw.incidents["time_ms"] - log.incidents["time_ms"]).max() <= 20_000


@pytest.mark.property
@given(
    nodes=st.integers(1, 12),
    days=st.integers(0, 400),
    seed=st.integers(0, 1 << 40),
    rate=st.sampled_from([0.0, 1.0, 30.0]),
    frailty=st.sampled_from([0.0, 2.5]),
    weather=st.sampled_from([0.0, 0.3]),
)
def test_failures_and_recoveries_alternate(
    nodes: int, days: int, seed: int, rate: float, frailty: float, weather: float
) -> None:
    model = FailureModel(rate_scale=rate, frailty=frailty, weather_shape=weather)
    incidents = sample_failures(model, nodes, days * DAY_MS, seed)
    assert incidents.dtype == INCIDENT_DTYPE
    for node, spans in outages(incidents).items():
        assert 0 <= node < nodes
        assert all(a < days for a, _ in spans)
    again = sample_failures(model, nodes, days * DAY_MS, seed)
    assert again.tobytes() == incidents.tobytes()


def test_the_rate_scales() -> None:
    def mean_rate(scale: float) -> float:
        model = FailureModel(rate_scale=scale)
        counts = [len(sample_failures(model, 400, 100 * DAY_MS, s)) / 2 for s in range(5)]
        return 1000 * float(np.mean(counts)) / 400 / 100

    assert mean_rate(0.5) == pytest.approx(2.1, rel=0.2)
    assert mean_rate(3.0) == pytest.approx(12.5, rel=0.2)


def test_without_its_extras_the_process_is_plain_weibull() -> None:
    plain = FAILURE_MODELS["weibull"]
    assert plain is not None
    incidents = sample_failures(replace(plain, rate_scale=2.0), 2000, 300 * DAY_MS, 1)
    found = statistics(incidents, 2000, 300)
    assert found["per_1000_node_days"] == pytest.approx(8.34, rel=0.1)
    assert found["same_minute"] < 0.05
    assert len(sample_failures(replace(plain, rate_scale=0.0), 10, DAY_MS, 0)) == 0


def test_faulty_configurations_are_refused() -> None:
    for field, value in [
        ("shape", 0.0),
        ("burst_share", 1.0),
        ("rate_scale", -1.0),
        ("burst_tail", 1.0),
        ("repair_quantiles", (1.0, 2.0)),
    ]:
        with pytest.raises(ConfigurationError, match=field):
            replace(FailureModel(), **{field: value})
    with pytest.raises(ConfigurationError, match="nodes"):
        sample_failures(FailureModel(), 0, 1, 0)


def test_overlapping_faults_are_one_outage(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    path.write_text("node,start,end\nb,10,20\na,5,15\na,12,30\na,30,31\nb,40,50\n")
    log = read_faults(path)
    assert log.node_ids == ("a", "b")
    fails, recovers = EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY
    expected = [(5, fails, 0), (10, fails, 1), (20, recovers, 1)]
    expected += [(31, recovers, 0), (40, fails, 1), (50, recovers, 1)]
    assert log.incidents.tolist() == [(1000 * t, int(k), n) for t, k, n in expected]
    assert read_faults(path, node_ids=("x", "b", "a")).incidents["node"].tolist()[0] == 2
    assert merge_intervals([(0, 1.0, 2.0), (1, 1.5, 2.0), (0, 2.0, 3.0)]) == [
        (0, 1.0, 3.0),
        (1, 1.5, 2.0),
    ]


def test_a_window_begins_with_the_nodes_that_are_down(tmp_path: Path) -> None:
    path = tmp_path / "faults.csv"
    path.write_text("node,start,end\na,5,15\nb,1,4\na,20,25\n")
    log: FaultLog = read_faults(path)
    seen = log.window(10_000, 21_000).tolist()
    fails, recovers = int(EventKind.NODE_FAILURE), int(EventKind.NODE_RECOVERY)
    assert seen == [(0, fails, 0), (5000, recovers, 0), (10_000, fails, 0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node,start\na,1\n", ["'end' is missing", "line 1"]),
        ("node,start,end\na,1,soon\n", ["'end'", "'soon'", "line 2"]),
        ("node,start,end\na,1,2\na,4,3\n", ["ends after it started", "line 3"]),
        ("node,start,end\n,1,2\n", ["'node' is empty", "line 2"]),
        ("node,start,end\n", ["holds no faults"]),
        ("node,start,end\nz,1,2\n", ["unknown node 'z'", "line 2"]),
    ],
)
def test_faults_in_tables_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "faults.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as error:
        read_faults(path, node_ids=("a",))
    for word in words:
        assert word in str(error.value)


def event(node: str, day: float, kind: str, fault: str = "GPU") -> dict[str, object]:
    return {"node_id": node, "event_time": day, "event_type": kind, "fault_type": {"Class": fault}}


def test_the_publishers_events_are_paired(tmp_path: Path) -> None:
    events = [event("b", 1, "fault_start"), event("b", 2, "fault_start", "NIC")]
    events += [event("b", 3, "fault_end", "NIC"), event("b", 4, "fault_end")]
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(events).encode()))
    assert outages(read_faults(path).incidents) == {0: [(1.0, 4.0)]}
    for bad, word in [
        ("{", "not JSON"),
        ("{}", "not a list"),
        (json.dumps([{"node_id": "a"}]), "event_time"),
        (json.dumps([event("a", 1, "broken")]), "'broken'"),
        (json.dumps([event("a", 1, "fault_end")]), "never started"),
        (json.dumps([event("a", 1, "fault_start")]), "never ends"),
    ]:
        path.write_bytes(gzip.compress(bad.encode()))
        with pytest.raises(TraceError, match=word):
            read_faults(path)


@pytest.mark.parametrize("text", ["a,0,inf", "a,0,1e300", "a,0,nan", "a,nan,1", "nan,0,1", "a,0,"])
def test_faults_without_an_end_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"node,start,end\nb,0,1\n\n{text}\n")
    with pytest.raises(TraceError, match=r"f\.csv, line 4: "):
        read_faults(path)


@pytest.mark.parametrize("day", ["NaN", "Infinity", "1e300", "null"])
def test_events_at_no_time_are_refused(tmp_path: Path, day: str) -> None:
    path = tmp_path / "f.json"
    text = json.dumps([event("a", 1.0, "fault_start"), event("a", 2.0, "fault_end")])
    path.write_text(text.replace("2.0", day))
    with pytest.raises(TraceError, match=r"f\.json"):
        read_faults(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_models_are_finite(value: float) -> None:
    for field in ("faults_per_node_day", "rate_scale", "shape", "weather_hours", "burst_tail"):
        with pytest.raises(ConfigurationError, match=field):
            replace(FailureModel(), **{field: value})
    with pytest.raises(ConfigurationError, match="repair_quantiles"):
        replace(FailureModel(), repair_quantiles=(0.1, value), repair_probabilities=(0.0, 1.0))
    with pytest.raises(ConfigurationError, match="horizon_ms"):
        sample_failures(FailureModel(), 4, value, 0)  # type: ignore[arg-type]
