"""Demand of services, read: ServeGen's tables and Azure's requests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from envs.workloads.services import (
    GapFill,
    read_azure_llm,
    read_servegen,
)
from orchestrator.errors import ConfigurationError, TraceError

TOTAL = ("t,rate_rps,active_clients", "0,10.5,3", "600,0,0", "1200,20.5,4")
CLIENTS = ("t,client_0,client_1,client_2", "0,1,9,0", "600,0,0,0", "1200,2,5,0")
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "2023-11-16 18:00:00.5000000,100,10",
    "2023-11-16 18:00:01.0000000,300,10",
    "2023-11-16 18:00:11.0000000,100,20",
    "2023-11-16 18:00:21.5000000,100,30",
)


def put(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


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


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:03:00.1+00:00"),
        ("2024-05-10T00:00:00Z", "2024-05-10T00:03:00Z"),
        ("2024-05-10 00:00:00", "2024-05-10 02:03:00+02:00"),
    ],
)
def test_requests_may_name_their_zone(tmp_path: Path, first: str, last: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{first},1,2\n{last},1,2\n")
    found = read_azure_llm(path, prefill_ms_per_token=1.0, decode_ms_per_token=1.0)
    assert found.series.ticks == 3
