"""Demand of services: the series, the readers and the generator."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.workloads.services import (
    GapFill,
    ServiceRhythm,
    ServiceSeries,
    generate_services,
    read_azure_llm,
    read_servegen,
)
from envs.workloads.services.series import fill_gaps
from orchestrator.errors import ConfigurationError, TraceError, ValidationError


def series(rates: object, tick_s: float = 60.0) -> ServiceSeries:
    array = np.atleast_2d(np.array(rates, np.float32))
    return ServiceSeries(tick_s, tuple("abcdef"[: len(array)]), array)


@pytest.mark.parametrize(
    ("tick_s", "names", "rates", "words"),
    [
        (0.0, ("a",), [[1.0]], "'tick_s' is 0.0"),
        (60.0, (), np.zeros((0, 3)), "'rates' has shape"),
        (60.0, ("a",), np.zeros((1, 0)), "'rates' has shape"),
        (60.0, ("a",), [1.0, 2.0], "'rates' has shape"),
        (60.0, ("a", "b"), [[1.0]], "'names' are 2 for 1 rows"),
        (60.0, ("a", "a"), [[1.0], [2.0]], "'names' are 2 for 2"),
        (60.0, ("a", "b"), [[1.0, 2.0], [1.0, -2.0]], "of service 'b' in tick 1 is negative"),
        (60.0, ("a",), [[1.0, np.nan, np.nan]], r"'a' in tick 1 is a gap \(2 in all\); choose how"),
        (60.0, ("a",), [[np.inf]], "is a gap"),
    ],
)
def test_what_a_series_refuses(tick_s, names, rates, words) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceSeries(tick_s, names, np.array(rates, np.float32))


def test_nobody_can_change_a_series() -> None:
    source = np.ones((1, 3), np.float64)
    made = ServiceSeries(60.0, ("a",), source)
    source[0, 0] = 9.0
    assert made.rates.tolist() == [[1.0, 1.0, 1.0]]
    assert made.rates.dtype == np.float32
    assert made.address == made.rates.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        made.rates[0, 0] = 2.0


def test_parts_and_choices() -> None:
    made = series([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert made.part(1, 3).rates.tolist() == [[2, 3], [6, 7]]
    assert made.part(1, 3).rates.flags.c_contiguous
    assert made.select(["b"]).rates.tolist() == [[5, 6, 7, 8]]
    assert made.scaled(2.0).rates[0].tolist() == [2, 4, 6, 8]
    with pytest.raises(ValidationError, match=r"4 ticks, and \[2, 5\)"):
        made.part(2, 5)
    with pytest.raises(ValidationError, match=r"do not include \['x'\]"):
        made.select(["x"])


def test_resampling() -> None:
    made = series([[1, 3, 5, 7, 9]], 60.0)
    assert made.resampled(120.0).rates.tolist() == [[2, 6]]  # the rest fills no tick
    assert made.resampled(30.0).rates.tolist() == [[1, 1, 3, 3, 5, 5, 7, 7, 9, 9]]
    assert made.resampled(90.0).rates[0] == pytest.approx([5 / 3, 13 / 3, 23 / 3])
    with pytest.raises(ValidationError, match="less than one tick of 400 s"):
        made.resampled(400.0)


@given(
    st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=30),
    st.sampled_from([10.0, 25.0, 60.0, 70.0, 90.0, 600.0]),
)
def test_resampling_conserves_requests(rates, tick_s) -> None:
    made = series([rates])
    if made.ticks * 60.0 < tick_s:
        return
    other = made.resampled(tick_s)
    until_s = other.ticks * tick_s
    exact = sum(r * min(max(until_s - 60.0 * k, 0.0), 60.0) for k, r in enumerate(rates))
    assert other.rates.sum(dtype=np.float64) * tick_s == pytest.approx(exact, rel=1e-4, abs=1e-3)


def test_gaps_are_filled_as_chosen() -> None:
    rates = np.array([[0.0, 2.0, 0.0, 0.0, 8.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    missing = np.array([1, 0, 1, 1, 0, 1], bool)
    assert fill_gaps(rates, missing, GapFill.ZERO).tolist() == rates.tolist()
    assert fill_gaps(rates, missing, GapFill.PREVIOUS)[0].tolist() == [2, 2, 2, 2, 8, 8]
    assert fill_gaps(rates, missing, GapFill.INTERPOLATE)[0].tolist() == [2, 2, 4, 6, 8, 8]


def put(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


TOTAL = ("t,rate_rps,active_clients", "0,10.5,3", "600,0,0", "1200,20.5,4")
CLIENTS = ("t,client_0,client_1,client_2", "0,1,9,0", "600,0,0,0", "1200,2,5,0")


def test_servegen_totals(tmp_path: Path) -> None:
    put(tmp_path, "total_x.csv.gz", *TOTAL)
    with pytest.raises(TraceError, match=r"line 3: 1 ticks have no requests.*GapFill.ZERO"):
        read_servegen(tmp_path, "x")
    made = read_servegen(tmp_path, "x", fill=GapFill.INTERPOLATE)
    assert (made.names, made.tick_s, made.rates.tolist()) == (("x",), 600.0, [[10.5, 15.5, 20.5]])


def test_servegen_clients(tmp_path: Path) -> None:
    put(tmp_path, "client_rates_x.csv.gz", *CLIENTS)
    largest = read_servegen(tmp_path, "x", clients=2, fill=GapFill.PREVIOUS)
    assert largest.names == ("client_1", "client_0")
    assert largest.rates.tolist() == [[9, 9, 5], [1, 1, 2]]
    # a client that sends nothing while others do is quiet, not missing
    quiet = read_servegen(tmp_path, "x", clients=("client_2",), fill=GapFill.PREVIOUS)
    assert quiet.rates.tolist() == [[0, 0, 0]]
    with pytest.raises(TraceError, match="'clients' is 4, and it has 3"):
        read_servegen(tmp_path, "x", clients=4, fill=GapFill.ZERO)
    with pytest.raises(TraceError, match="column 'client_7' is missing"):
        read_servegen(tmp_path, "x", clients=("client_7",), fill=GapFill.ZERO)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((TOTAL[0], "0,1,1"), "holds 1 ticks"),
        (("t,rate", "0,1", "600,1"), "column 'rate_rps' is missing"),
        ((TOTAL[0], "0,1,1", "600,-2,1"), "line 3: column 'rate_rps' is -2.0"),
        ((TOTAL[0], "0,1,1", "600,,1"), "line 3: column 'rate_rps' is empty"),
        ((TOTAL[0], "0,1,1", "600,much,1"), "line 3.*'much', not a finite number"),
        ((TOTAL[0], "0,1,1", "600,nan,1"), "line 3: column 'rate_rps' is nan"),
        ((TOTAL[0], "0,1,1", "600,1,1", "1800,1,1"), "line 4: column 't' does not go on"),
        ((TOTAL[0], "600,1,1", "0,1,1"), "does not go on in steps of -600"),
        ((TOTAL[0], "0,0,1", "600,0,1"), "no requests at all"),
    ],
)
def test_broken_servegen_tables(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    put(tmp_path, "total_x.csv.gz", *lines)
    with pytest.raises(TraceError, match=words):
        read_servegen(tmp_path, "x", fill=GapFill.ZERO)


AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 18:00:00.5000000,100,10",
    "2023-11-16 18:00:01.0000000,300,10",
    "2023-11-16 18:00:11.0000000,100,20",
    "2023-11-16 18:00:21.5000000,100,30",
)


def test_azure_requests_become_rates_and_moments(tmp_path: Path) -> None:
    path = put(tmp_path, "few.csv.gz", *AZURE)
    own = read_azure_llm(path, prefill_ms_per_token=0.5, decode_ms_per_token=10.0, tick_s=10.0)
    assert own.series.names == ("few",)
    assert own.series.rates.tolist() == [pytest.approx([0.2, 0.1])]  # the last one is beyond
    times = np.array([150.0, 250.0, 250.0, 350.0])
    gaps = np.array([0.5, 10.0, 10.5])
    assert own.service_ms == 250.0
    assert own.service_cv2 == pytest.approx(times.var() / times.mean() ** 2)
    assert own.arrival_cv2 == pytest.approx(gaps.var() / gaps.mean() ** 2)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (AZURE[:2], "holds 1 requests"),
        (("TIME,ContextTokens,GeneratedTokens",), "column 'TIMESTAMP' is missing"),
        ((*AZURE[:2], "soon,1,1"), "line 3: column 'TIMESTAMP' is 'soon'"),
        ((*AZURE[:2], ",1,1"), "line 3: column 'TIMESTAMP' is empty"),
        ((*AZURE[:3], "2023-11-16 18:00:00.6,1,1"), "line 4: .* earlier than the row before"),
        ((*AZURE[:2], "2023-11-16 18:01:00,-1,1"), "line 3: column 'ContextTokens' is negative"),
        ((*AZURE[:2], "2023-11-16 18:01:00,1,"), "line 3: column 'GeneratedTokens' is negative or"),
        (AZURE[:3], "less than one tick of 10 s"),
    ],
)
def test_broken_azure_traces(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    path = put(tmp_path, "x.csv.gz", *lines)
    with pytest.raises(TraceError, match=words):
        read_azure_llm(path, prefill_ms_per_token=1.0, decode_ms_per_token=1.0, tick_s=10.0)
    with pytest.raises(ConfigurationError, match="'decode_ms_per_token' is -1"):
        read_azure_llm(path, prefill_ms_per_token=1.0, decode_ms_per_token=-1.0)


def test_generated_demand() -> None:
    made = generate_services(4, 1440 * 3, 7)
    again = generate_services(4, 1440 * 3, 7)
    assert (made.rates == again.rates).all()
    assert (made.rates != generate_services(4, 1440 * 3, 8).rates).any()
    assert made.names == ("service-0", "service-1", "service-2", "service-3")
    calm = ServiceRhythm(noise=0.0, bursts_per_day=0.0, spread=0.0, peak_spread_hours=0.0)
    quiet = generate_services(2, 1440, 1, rhythm=calm)
    assert quiet.rates.mean() == pytest.approx(calm.mean_rps, rel=1e-3)
    assert abs(int(quiet.rates[0].argmax()) - 20 * 60) <= 1
    assert quiet.rates.max() / quiet.rates.min() == pytest.approx(1.4 / 0.6, rel=1e-3)
    surge = ServiceRhythm(noise=0.0, bursts_per_day=30.0, spread=0.0, peak_spread_hours=0.0)
    ratio = generate_services(2, 1440, 1, rhythm=surge).rates / quiet.rates
    assert set(np.round(np.unique(ratio), 3)) == {1.0, 3.0}
    noisy = ServiceRhythm(bursts_per_day=0.0, spread=0.0, daily=0.0, noise=0.2)
    log = np.log(generate_services(8, 14_400, 1, rhythm=noisy).rates)
    assert log.std() == pytest.approx(0.2, rel=0.05)
    lag = [np.corrcoef(row[:-30], row[30:])[0, 1] for row in log]
    assert np.mean(lag) == pytest.approx(np.exp(-1), abs=0.05)  # 30 minutes later


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean_rps": 0.0}, "'mean_rps' is 0.0; it must be positive"),
        ({"daily": 1.5}, "'daily' is 1.5; at most 1"),
        ({"noise": -1.0}, "'noise' is -1.0; it must be at least 0"),
        ({"burst_factor": 0.5}, "'burst_factor' is 0.5; it must be at least 1"),
        ({"peak_hour": float("nan")}, "'peak_hour' is nan"),
    ],
)
def test_rhythms_that_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ServiceRhythm(**changes)


def test_generator_needs_services_and_ticks() -> None:
    with pytest.raises(ConfigurationError, match="'services' is 0"):
        generate_services(0, 5, 1)
    with pytest.raises(ConfigurationError, match="'tick_s' is -1"):
        generate_services(1, 5, 1, tick_s=-1.0)


@pytest.mark.traces
@pytest.mark.parametrize(
    ("model", "ticks", "mean", "most", "gaps"),
    [
        ("m-small", 2016, 1174.4, 3879.5, 37),
        ("m-mid", 2016, 1790.1, 3444.8, 84),
        ("m-large", 2016, 195.8, 583.0, 0),
        ("mm-image", 144, 9.5, 13.3, 0),
        ("deepseek-r1", 144, 16.0, 42.5, 0),
    ],
)
def test_published_totals(traces_dir: Path, model, ticks, mean, most, gaps) -> None:
    made = read_servegen(traces_dir / "servegen_2025", model, fill=GapFill.ZERO)
    assert (made.ticks, made.tick_s) == (ticks, 600.0)
    assert made.rates.mean() == pytest.approx(mean, abs=0.06)
    assert made.rates.max() == pytest.approx(most, abs=0.06)
    assert int((made.rates == 0.0).sum()) == gaps


@pytest.mark.traces
@pytest.mark.parametrize(("model", "clients"), [("m-small", 43), ("m-mid", 109), ("m-large", 162)])
def test_published_clients_add_up_to_the_total(traces_dir: Path, model, clients) -> None:
    folder = traces_dir / "servegen_2025"
    total = read_servegen(folder, model, fill=GapFill.ZERO)
    each = read_servegen(folder, model, clients=clients, fill=GapFill.ZERO)
    assert len(each.names) == clients
    assert each.rates.sum(axis=0) == pytest.approx(total.rates[0], rel=1e-4, abs=0.1)
    means = each.rates.mean(axis=1)
    assert (np.diff(means) <= 1e-4).all()  # largest first


@pytest.mark.traces
@pytest.mark.parametrize(
    ("name", "rate", "gap_cv", "ticks"), [("code", 2.57, 13.15, 57), ("conv", 5.53, 1.09, 58)]
)
def test_published_requests(traces_dir: Path, name, rate, gap_cv, ticks) -> None:
    path = traces_dir / "azure_llm_2023" / f"AzureLLMInferenceTrace_{name}.csv.gz"
    own = read_azure_llm(path, prefill_ms_per_token=0.1, decode_ms_per_token=30.0)
    assert own.series.ticks == ticks
    assert own.series.rates.mean() == pytest.approx(rate, rel=0.03)
    assert own.arrival_cv2**0.5 == pytest.approx(gap_cv, abs=0.005)
